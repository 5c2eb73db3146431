//! The one error of the library: the act, the object and the cause of each refusal.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The result of a fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call was refused or failed.
///
/// `Display` is one lower-case phrase and never repeats its source; print the chain to see all.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an act on a file.
    Io {
        /// What was tried, as a verb with its object, such as `sync the segment`.
        act: &'static str,
        /// The file or directory it was tried on.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// Another process, or another handle of this process, holds the store.
    Locked {
        /// The data directory.
        dir: PathBuf,
        /// The process that holds it, when it could be read.
        owner: Option<u32>,
    },
    /// The directory holds files, but not a store of ours; nothing was changed in it.
    NotAStore {
        /// The directory.
        dir: PathBuf,
        /// What was found instead.
        reason: String,
    },
    /// The store was written by a format that this build cannot read; nothing was changed.
    Version {
        /// The file that says so.
        path: PathBuf,
        /// The version found.
        found: String,
        /// The newest version that this build reads.
        supported: String,
    },
    /// Bytes that were once durable no longer match their checksum.
    Damaged(Box<Damage>),
    /// The entry is compressed, and this build lacks the feature `zstd`. It is whole: a build with
    /// the feature reads it.
    Compressed {
        /// The entry.
        id: String,
    },
    /// An argument or a setting is outside its bounds; nothing was done.
    Invalid {
        /// The name of the argument or setting.
        what: String,
        /// The value given.
        value: String,
        /// What would have been accepted.
        bound: String,
    },
    /// A record is larger than the limits allow; nothing was stored.
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size in bytes.
        bytes: u64,
        /// The bound in bytes.
        bytes_max: u64,
        /// The settings that set the bound.
        settings: &'static str,
    },
    /// There is no such entry.
    NotFound {
        /// The id or key asked for.
        id: String,
    },
    /// The entry is not in a status that allows the change.
    Conflict {
        /// The entry.
        id: String,
        /// The status it has.
        status: String,
        /// What the caller expected.
        wanted: String,
    },
    /// The lease that was brought is not the entry's any more; nothing was changed.
    LeaseLost {
        /// The entry.
        id: String,
    },
    /// An earlier write or sync failed, so the log takes nothing more until it is reopened.
    Poisoned {
        /// The failure that did it.
        reason: String,
    },
    /// A write or sync failed while this call waited: the record may or may not be there after
    /// the next open. Storing it again under the same key is safe.
    Indeterminate {
        /// The failure.
        reason: String,
    },
    /// The disk stalled: the deadline passed while the kernel held the write.
    Stalled {
        /// How long the call waited, in milliseconds.
        waited_ms: u64,
    },
    /// The buffer of queued records is full; nothing was queued.
    QueueFull {
        /// The bytes waiting.
        bytes: u64,
        /// The bound in bytes.
        bytes_max: u64,
    },
    /// As many entries wait as a limit allows, and none of them may be evicted; nothing was stored.
    TooMany {
        /// The setting that sets the limit.
        what: &'static str,
        /// The domain, of a limit on each domain.
        domain: Option<String>,
        /// The limit.
        limit: u64,
        /// How many entries wait.
        count: u64,
    },
    /// There is no space for it: a bound was reached or the disk is full. Nothing was stored.
    Full {
        /// The setting that bounds it, or `disk`.
        what: &'static str,
        /// What it would have taken: of a setting all in all, of the disk in addition.
        bytes: u64,
        /// What there may be: of a setting the bound, of the disk what is free.
        bytes_max: u64,
    },
    /// The index was not ready before the deadline.
    IndexNotReady {
        /// How long the call waited, in milliseconds.
        waited_ms: u64,
    },
    /// Work that runs by itself panicked. What it changed before stays so.
    Panicked {
        /// What the panic said.
        reason: String,
    },
    /// The handle is closed.
    Closed,
    /// The store was opened for reading only.
    ReadOnly,
    /// The service could not open its store; it tries again about once a second.
    NotOpen {
        /// Why not.
        source: Arc<Error>,
    },
}

/// The result of a call of the service.
pub type DlqResult<T, E = DlqError> = std::result::Result<T, E>;

/// Why the service refused or failed. The first three are the caller's; a server answers them
/// with 404, 409 and 500.
#[derive(Debug)]
#[non_exhaustive]
pub enum DlqError {
    /// There is no such entry.
    NotFound {
        /// The id asked for.
        id: String,
    },
    /// The entry's state does not allow it; nothing was changed.
    StateConflict {
        /// The entry.
        id: String,
        /// The status it has.
        status: String,
        /// Why that is not enough, such as `its attempts are used up`.
        reason: String,
    },
    /// The replay itself broke: the handler panicked. The attempt is spent.
    Replay {
        /// The entry.
        id: String,
        /// What happened.
        reason: String,
    },
    /// An argument is out of its bounds, or the repository refused.
    Engine(Error),
}

/// Damage that was found: where it is, and which records it took.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Damage {
    /// The file, by its name inside the data directory.
    pub segment: String,
    /// Where the damaged bytes begin.
    pub offset: u64,
    /// How many bytes are damaged or cannot be reached.
    pub bytes: u64,
    /// What is damaged.
    pub kind: DamageKind,
    /// The lowest sequence number that may be lost, when any record is.
    pub lsn_from: Option<u64>,
    /// The highest sequence number that may be lost, inclusive.
    pub lsn_to: Option<u64>,
    /// How many entries were lost, where that is known exactly.
    pub entries: Option<u64>,
}

/// What kind of bytes are damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DamageKind {
    /// A segment's header.
    Header,
    /// A record: its header or its body.
    Record,
    /// A segment's footer; the records are still read.
    Footer,
    /// Bytes that must be zero are not.
    Padding,
    /// A whole segment that the log says should be there.
    Missing,
    /// A file of another kind, such as the store file.
    File,
}

impl Error {
    /// Wraps an I/O error with the act and the path it belongs to.
    pub(crate) fn io(act: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { act, path: path.to_path_buf(), source }
    }

    /// An argument outside its bounds.
    pub(crate) fn invalid(
        what: impl Into<String>,
        value: impl fmt::Display,
        bound: impl Into<String>,
    ) -> Self {
        Self::Invalid { what: what.into(), value: value.to_string(), bound: bound.into() }
    }

    /// An entry that only a build with compression reads.
    pub(crate) fn compressed(lsn: u64) -> Self {
        Self::Compressed { id: lsn.to_string() }
    }

    /// Whether a failure was refused for what it is, or for want of room under a limit, by a store
    /// that is well.
    pub(crate) const fn is_of_the_failure(&self) -> bool {
        matches!(self, Self::Invalid { .. } | Self::TooLarge { .. } | Self::TooMany { .. })
    }

    /// What limit is reached, and the way out.
    fn write_full(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany { what, domain, limit, count } => {
                let of = domain.as_ref().map(|domain| format!(" of domain {domain}"));
                write!(
                    f,
                    "{count} entries{} wait, at most {limit} may (set by {what}); replay or \
                     resolve some, raise the limit, or let overflow_strategy drop the oldest",
                    of.unwrap_or_default()
                )
            }
            Self::Full { what: "disk", bytes, bytes_max } => write!(
                f,
                "the disk is full: {bytes_max} bytes are free, {bytes} are needed; \
                 free some space, and capture goes on by itself"
            ),
            Self::Full { what: "quota", bytes, .. } => write!(
                f,
                "the quota on the disk is used up: {bytes} bytes are needed; raise it or free \
                 some space, and capture goes on by itself"
            ),
            Self::Full { what, bytes, bytes_max } => write!(
                f,
                "the store is full: {bytes} needed, {what} allows {bytes_max}; \
                 purge entries or raise {what}"
            ),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { act, path, .. } => write!(f, "cannot {act} {}", path.display()),
            Self::Locked { dir, owner: Some(pid) } => {
                write!(f, "the store {} is in use by process {pid}", dir.display())
            }
            Self::Locked { dir, owner: None } => {
                write!(f, "the store {} is in use by another process", dir.display())
            }
            Self::NotAStore { dir, reason } => {
                write!(f, "{} is not a deadletter store: {reason}", dir.display())
            }
            Self::Version { path, found, supported } => write!(
                f,
                "{} has format version {found}, this build reads up to {supported}; \
                 use a newer build",
                path.display()
            ),
            Self::Damaged(damage) => write!(f, "{damage}"),
            Self::Compressed { id } => write!(
                f,
                "entry {id} is compressed, which this build cannot read; \
                 use one with the feature zstd"
            ),
            Self::Invalid { what, value, bound } => {
                write!(f, "{what} is {value}, it must be {bound}")
            }
            Self::TooLarge { what, bytes, bytes_max, settings } => write!(
                f,
                "{what} has {bytes} bytes, at most {bytes_max} are allowed (set by {settings})"
            ),
            Self::NotFound { id } => write!(f, "there is no entry {id}"),
            Self::Conflict { id, status, wanted } => {
                write!(f, "entry {id} is {status}, not {wanted}")
            }
            Self::LeaseLost { id } => write!(
                f,
                "the lease on entry {id} has ended or belongs to another; its result is not taken"
            ),
            Self::Poisoned { reason } => write!(
                f,
                "the log takes no more writes after an earlier failure ({reason}); \
                 reopen the store once the disk is well"
            ),
            Self::Indeterminate { reason } => write!(
                f,
                "the write failed ({reason}), the record may or may not be there after the next \
                 open; storing it again under the same key is safe"
            ),
            Self::Stalled { waited_ms } => {
                write!(f, "the disk did not answer within {waited_ms} ms")
            }
            Self::QueueFull { bytes, bytes_max } => {
                write!(f, "{bytes} bytes wait to be written, at most {bytes_max} may; try again")
            }
            Self::TooMany { .. } | Self::Full { .. } => self.write_full(f),
            Self::IndexNotReady { waited_ms } => {
                write!(f, "the index was not ready within {waited_ms} ms; try again")
            }
            Self::Panicked { reason } => write!(f, "work that runs by itself panicked: {reason}"),
            Self::Closed => write!(f, "the store is closed"),
            Self::ReadOnly => write!(f, "the store was opened for reading only"),
            Self::NotOpen { .. } => write!(f, "the store does not open"),
        }
    }
}

impl From<Error> for DlqError {
    fn from(error: Error) -> Self {
        match error {
            Error::NotFound { id } => Self::NotFound { id },
            Error::Conflict { id, status, wanted } => {
                Self::StateConflict { id, status, reason: format!("it must be {wanted}") }
            }
            other => Self::Engine(other),
        }
    }
}

impl fmt::Display for DlqError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound { id } => write!(f, "there is no entry {id}"),
            Self::StateConflict { id, status, reason } => {
                write!(f, "entry {id} is {status}: {reason}")
            }
            Self::Replay { id, reason } => write!(f, "the replay of entry {id} broke: {reason}"),
            Self::Engine(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for DlqError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Engine(error) => error.source(),
            _ => None,
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::NotOpen { source } => Some(&**source),
            _ => None,
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            DamageKind::Header => "damaged header",
            DamageKind::Record => "damaged record",
            DamageKind::Footer => "damaged footer",
            DamageKind::Padding => "bytes where zeros belong",
            DamageKind::Missing => "missing file",
            DamageKind::File => "damaged file",
        };
        write!(f, "{kind} in {} at offset {} ({} bytes", self.segment, self.offset, self.bytes)?;
        match (self.lsn_from, self.lsn_to) {
            (Some(from), Some(to)) if from == to => write!(f, ", record {from})"),
            (Some(from), Some(to)) => write!(f, ", records {from} to {to})"),
            _ => write!(f, ", no record)"),
        }
    }
}
