//! The words of the simulated disk: what a step was, how it fails, what a power cut leaves.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What a step of the simulated disk was. Every call that changes or syncs something is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Its number; the first step of a disk is 0.
    pub step: u64,
    /// What was asked.
    pub kind: OperationKind,
    /// The last part of the path; of a rename, the new name.
    pub name: Arc<str>,
    /// Where a write began; 0 for others.
    pub offset: u64,
    /// How many bytes a write had, or the length that was set; 0 for others.
    pub len: u64,
}

/// The kinds of steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationKind {
    /// A file was created.
    Create,
    /// Bytes were written.
    Write,
    /// A file was cut or extended.
    SetLen,
    /// Space was reserved.
    Allocate,
    /// The content of a file was synced.
    Sync,
    /// A directory was created.
    CreateDirectory,
    /// A file was renamed.
    Rename,
    /// A name was removed, of a file or an empty directory.
    Unlink,
    /// The names of a directory were synced.
    SyncDirectory,
    /// A lock was asked for.
    Lock,
}

/// A failure planned for a step. One whose kind does not suit its step never fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The step that fails.
    pub at: u64,
    /// How it fails.
    pub kind: FaultKind,
}

/// How a step fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The step fails with EIO and has no effect. Suits every step.
    Eio,
    /// This step and all later ones but locks fail with EIO. The first write may have applied a
    /// prefix; a sync fails like [`FaultKind::FailedSync`]. Suits every step.
    EioSticky,
    /// The step fails with ENOSPC; a write may have applied a prefix. Suits what takes space.
    Enospc,
    /// As [`FaultKind::Enospc`] with EDQUOT: a quota is used up.
    Edquot,
    /// As [`FaultKind::EioSticky`] with EROFS: the kernel lets nobody write any more.
    Erofs,
    /// A write applies a prefix and reports the short count. Suits writes of two bytes or more.
    ShortWrite,
    /// A sync fails with EIO and the kernel forgets what it should have written: reads still see
    /// it, later syncs succeed without it, a power cut loses it. The names of a directory stay
    /// pending. Suits syncs.
    FailedSync,
    /// As [`FaultKind::FailedSync`] with ENOSPC: a thinly provisioned device took the writes and has
    /// no space for them.
    EnospcSync,
    /// The clock advances, then the step succeeds. Suits every step.
    Stall(Duration),
}

impl FaultKind {
    /// Whether this kind can happen to a step.
    pub(super) const fn suits(self, kind: OperationKind, len: u64) -> bool {
        use OperationKind::{Allocate, Create, CreateDirectory, Lock, Rename, SetLen, Write};
        match self {
            Self::Eio | Self::EioSticky | Self::Erofs | Self::Stall(_) => true,
            Self::Enospc | Self::Edquot => {
                matches!(kind, Create | CreateDirectory | Write | SetLen | Allocate | Rename | Lock)
            }
            Self::ShortWrite => matches!(kind, Write) && len >= 2,
            Self::FailedSync | Self::EnospcSync => {
                matches!(kind, OperationKind::Sync | OperationKind::SyncDirectory)
            }
        }
    }
}

/// A planted lie of the disk. A test harness that does not notice it is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// The sync of a file answers well and does nothing.
    NoFileSync,
    /// The sync of a directory answers well and does nothing.
    NoDirectorySync,
    /// A sync that a fault lets fail is tried again, and the second answer is given.
    RetrySync,
    /// A sync answers well at once and takes effect only at the next step.
    LateSync,
}

/// What a power cut leaves of the changes that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashMode {
    /// None of them.
    Nothing,
    /// All of them.
    All,
    /// Those before a random point: one for the whole disk, or one for each file and directory.
    Prefix,
    /// A random subset.
    Subset,
    /// A random subset, with one write torn at a byte or sector; behind the tear the old bytes
    /// or junk.
    Torn,
    /// All lengths and names, and zeros where data was appended.
    LengthWithoutData,
    /// A random subset of lengths and names; of every write, each sector's part at random old,
    /// new or junk. Bytes synced before stay whole.
    JunkSectors,
}

impl CrashMode {
    /// All modes.
    pub const ALL: [Self; 7] = [
        Self::Nothing,
        Self::All,
        Self::Prefix,
        Self::Subset,
        Self::Torn,
        Self::LengthWithoutData,
        Self::JunkSectors,
    ];
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, kind, name, offset, len } = self;
        match kind {
            OperationKind::Write => write!(f, "step {step}: write {name}, {len} bytes at {offset}"),
            OperationKind::SetLen => write!(f, "step {step}: set length of {name} to {len}"),
            OperationKind::Allocate => write!(f, "step {step}: allocate {name} to {len}"),
            OperationKind::Create => write!(f, "step {step}: create {name}"),
            OperationKind::Sync => write!(f, "step {step}: sync {name}"),
            OperationKind::CreateDirectory => write!(f, "step {step}: create directory {name}"),
            OperationKind::Rename => write!(f, "step {step}: rename to {name}"),
            OperationKind::Unlink => write!(f, "step {step}: unlink {name}"),
            OperationKind::SyncDirectory => write!(f, "step {step}: sync directory {name}"),
            OperationKind::Lock => write!(f, "step {step}: lock {name}"),
        }
    }
}
