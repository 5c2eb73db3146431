//! What the library asks of the operating system: files, directories, lock, clock, randomness.
//!
//! Everything goes through [`Env`], so that a test can bring a disk that loses power at any step.
//! [`Disk`] is the real one, [`Memory`] keeps all in RAM, [`Simulated`] models a disk that fails.
//!
//! Invariants: a file is created exclusively, with mode 0600, and never through a symbolic link;
//! a directory with mode 0700. `write_at` and `read_at` may be short; use the free functions.

mod chance;
mod content;
mod disk;
mod map;
mod memory;
mod simulated;
mod tree;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod watch;

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use disk::Disk;
pub use map::Mapped;
pub use memory::Memory;
pub use simulated::{CrashMode, Fault, FaultKind, Lie, Operation, OperationKind, Simulated};

/// The longest note that [`Lock::publish`] takes: one sector, so that it is written as a whole.
const LOCK_NOTE_BYTES_MAX: usize = 512;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A new file, for reading and writing; it is an error if the name exists.
    CreateNew,
}

/// What stands behind a name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameKind {
    /// A regular file, with its length in bytes.
    File(u64),
    /// A directory.
    Directory,
    /// Anything else: a symbolic link, a pipe, a device.
    Other,
}

/// The operating system, as far as the library uses it.
pub trait Env: Send + Sync + Debug {
    /// Opens or creates a regular file. Anything that is not one is an error.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;
    /// Creates a directory and those missing above it; an existing one is no error. Makes the
    /// new names durable, and that of an existing directory too: the process that created it may
    /// have died before.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory, sorted. A name that is not UTF-8 is given with replacements.
    fn list(&self, dir: &Path) -> io::Result<Vec<(String, NameKind)>>;
    /// Renames a file, replacing the target. Durable only after [`Env::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. Durable only after [`Env::sync_dir`].
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory and all below it; a missing one is no error.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes the exclusive lock on a file, creating it when missing. `None`: somebody holds it.
    /// The lock ends when the value is dropped or the process dies.
    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>>;
    /// Whether somebody holds the lock on this file. A missing file is not held.
    fn is_locked(&self, path: &Path) -> io::Result<bool>;
    /// Takes a lock on an existing file that others may share, but not beside one taken by
    /// [`Env::try_lock`]. `None`: there is no such lock here, or somebody holds the exclusive one.
    fn try_lock_shared(&self, _path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        Ok(None)
    }
    /// Watches for files that come into a folder, which may be missing yet. `None`: the system has
    /// no such thing, and whoever asks looks from time to time instead.
    fn watch(&self, dir: &Path) -> io::Result<Option<Box<dyn Watch>>> {
        let _ = dir;
        Ok(None)
    }
    /// Bytes that an unprivileged user could still write on this file system.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
    /// Milliseconds since 1970 by the wall clock; it may jump.
    fn wall_ms(&self) -> u64;
    /// Milliseconds by a clock that never goes back.
    fn monotonic_ms(&self) -> u64;
    /// Fills the buffer with random bytes.
    fn fill_random(&self, buffer: &mut [u8]) -> io::Result<()>;
    /// A random number; without randomness, one that the clocks make.
    fn random(&self) -> u64 {
        let mut bytes = [0; 8];
        match self.fill_random(&mut bytes) {
            Ok(()) => u64::from_le_bytes(bytes),
            Err(_) => self.monotonic_ms() ^ self.wall_ms().rotate_left(32),
        }
    }
    /// Waits. In a test the clock moves instead.
    fn sleep(&self, duration: Duration);
    /// The process that would be named as the owner of a lock.
    fn process_id(&self) -> u32;
}

/// An open file. Positions are explicit, so many threads may share it.
pub trait File: Send + Sync + Debug {
    /// Reads at an offset; may return fewer bytes than asked, 0 only at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes at an offset; may write fewer bytes than given.
    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<usize>;
    /// Makes the content and the length durable. After an error nothing may be assumed of the
    /// writes before it, and trying again proves nothing.
    fn sync(&self) -> io::Result<()>;
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts or extends the file; new bytes are zero.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves space for the first `len` bytes; the length stays, so that the end of the file
    /// is the end of what was written. An error of kind `Unsupported` means that the file system
    /// cannot; the caller goes on without.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// The first offset at or after `offset` that may hold data, `None` if only holes follow.
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>>;
    /// A read-only map of the whole file, for bulk scans of a sealed segment. `None`: not offered.
    fn map(&self) -> io::Result<Option<Mapped>>;
}

/// A folder that is watched for files that come into it, from [`Env::watch`] on.
pub trait Watch: Send + Sync + Debug {
    /// Waits until a file came, until somebody wakes the waiter, or until the time is over; without
    /// one it waits for good. True when a file may have come since the last wait.
    fn wait(&self, timeout: Option<Duration>) -> io::Result<bool>;
    /// Ends the wait that is under way, else the next one.
    fn wake(&self);
}

/// The right to write a store. The holder may leave a short note for readers beside it.
pub trait Lock: Send + Sync + Debug {
    /// Writes the note, at most 512 bytes, where [`Env::open`] of the lock file reads it.
    fn publish(&self, note: &[u8]) -> io::Result<()>;
}

/// Reads exactly the buffer.
///
/// # Errors
///
/// `UnexpectedEof` when the file ends before.
pub fn read_exact_at(file: &dyn File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match file.read_at(buffer, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                buffer = buffer.get_mut(read..).unwrap_or_default();
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The smallest part of a medium that is read or lost as a whole.
const SECTOR: u64 = 512;
/// What stands for the bytes of a sector that cannot be read. Not zero, which would pass for space
/// that was never written.
const UNREADABLE: u8 = 0xBD;

/// Whether the medium could not give these bytes, which says nothing of others.
pub(crate) fn is_unreadable(error: &io::Error) -> bool {
    rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::IO)
}

/// As [`read_exact_at`], but one sector that cannot be read does not take the others along: other
/// bytes stand for it, which fit no checksum.
///
/// # Errors
///
/// As [`read_exact_at`], for another cause.
pub(crate) fn read_around(file: &dyn File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    match read_exact_at(file, buffer, offset) {
        Err(error) if is_unreadable(&error) => {}
        read => return read,
    }
    let (mut rest, mut at) = (buffer, offset);
    while !rest.is_empty() {
        let left = SECTOR - at % SECTOR;
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
        let (sector, others) = rest.split_at_mut(len);
        match read_exact_at(file, sector, at) {
            Err(error) if is_unreadable(&error) => sector.fill(UNREADABLE),
            read => read?,
        }
        (rest, at) = (others, at + len as u64);
    }
    Ok(())
}

/// Opens a file for reading and writing; makes it when it is missing.
pub(crate) fn open_or_create(env: &dyn Env, path: &Path) -> io::Result<Arc<dyn File>> {
    match env.open(path, OpenMode::CreateNew) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            env.open(path, OpenMode::Write)
        }
        other => other,
    }
}

/// Writes the whole buffer; a write of zero bytes is an error.
///
/// # Errors
///
/// `WriteZero`, or what the file answered. A prefix may have been written.
pub fn write_all_at(file: &dyn File, mut buffer: &[u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match file.write_at(buffer, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                buffer = buffer.get(written..).unwrap_or_default();
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
