//! The real operating system: std, and rustix for what std lacks.
//!
//! Invariants: no open follows a symbolic link or waits for a pipe; modes are set explicitly, so
//! the umask of the host does not matter; nothing here retries a sync.

#![expect(clippy::disallowed_methods, reason = "this is the door to the system")]

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{Mode, OFlags};

use super::{Env, File, LOCK_NOTE_BYTES_MAX, Lock, Mapped, NameKind, OpenMode};
#[cfg(any(target_os = "linux", target_os = "android"))]
use super::{Watch, watch::FolderWatch};

/// Files hold the payloads of others: their owner alone may read them.
const FILE_MODE: u32 = 0o600;

/// The same for directories.
const DIRECTORY_MODE: u32 = 0o700;

/// [`Env::is_locked`] holds a shared lock for an instant, and must not turn a writer away.
const LOCK_ATTEMPTS: u32 = 5;

/// The wait between two attempts to lock.
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// The real disk, clock and randomness.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

impl Disk {
    /// The one there is.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl Env for Disk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let flags = match mode {
            OpenMode::Read => OFlags::RDONLY,
            OpenMode::Write => OFlags::RDWR,
            OpenMode::CreateNew => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
        };
        let file = open_regular(path, flags)?;
        if mode == OpenMode::CreateNew {
            set_mode(&file, FILE_MODE)?;
        }
        Ok(Arc::new(DiskFile(file)))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut missing = Vec::new();
        for dir in path.ancestors().filter(|dir| !dir.as_os_str().is_empty()) {
            match fs::metadata(dir) {
                Ok(metadata) if metadata.is_dir() => {
                    sync_existing(dir)?;
                    break;
                }
                Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(dir),
                Err(error) => return Err(error),
            }
        }
        missing.into_iter().rev().try_for_each(create_directory)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(String, NameKind)>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            // The metadata of an entry is that of the name itself, not of a link's target.
            let kind = match entry.metadata() {
                Ok(metadata) if metadata.is_file() => NameKind::File(metadata.len()),
                Ok(metadata) if metadata.is_dir() => NameKind::Directory,
                Ok(_) => NameKind::Other,
                // Somebody removed it meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            names.push((entry.file_name().to_string_lossy().into_owned(), kind));
        }
        names.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            answer => answer,
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        sync_directory(dir)
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        let file = open_regular(path, OFlags::RDWR | OFlags::CREATE)?;
        set_mode(&file, FILE_MODE)?;
        for attempt in 1..=LOCK_ATTEMPTS {
            match file.try_lock() {
                Ok(()) => return Ok(Some(Box::new(DiskLock(file)))),
                Err(fs::TryLockError::WouldBlock) if attempt < LOCK_ATTEMPTS => {
                    self.sleep(LOCK_PAUSE);
                }
                Err(fs::TryLockError::WouldBlock) => {}
                Err(fs::TryLockError::Error(error)) => return Err(error),
            }
        }
        Ok(None)
    }

    fn try_lock_shared(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        let file = open_regular(path, OFlags::RDONLY)?;
        for _ in 0..LOCK_ATTEMPTS {
            match file.try_lock_shared() {
                Ok(()) => return Ok(Some(Box::new(DiskLock(file)))),
                Err(fs::TryLockError::WouldBlock) => self.sleep(LOCK_PAUSE),
                Err(fs::TryLockError::Error(error)) => return Err(error),
            }
        }
        Ok(None)
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        let file = match open_regular(path, OFlags::RDONLY) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        match file.try_lock_shared() {
            Ok(()) => file.unlock().map(|()| false),
            Err(fs::TryLockError::WouldBlock) => Ok(true),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn watch(&self, dir: &Path) -> io::Result<Option<Box<dyn Watch>>> {
        Ok(Some(Box::new(FolderWatch::new(dir)?)))
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn wall_ms(&self) -> u64 {
        // A clock before 1970 is a dead battery; 0 says so.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn monotonic_ms(&self) -> u64 {
        static START: OnceLock<Instant> = OnceLock::new();
        u64::try_from(START.get_or_init(Instant::now).elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn fill_random(&self, buffer: &mut [u8]) -> io::Result<()> {
        fill_random(buffer)
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }

    fn process_id(&self) -> u32 {
        std::process::id()
    }
}

/// An open regular file.
#[derive(Debug)]
struct DiskFile(fs::File);

impl File for DiskFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(buffer, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        allocate(&self.0, len)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        next_data(&self.0, offset)
    }

    fn map(&self) -> io::Result<Option<Mapped>> {
        Mapped::new(&self.0).map(Some)
    }
}

/// The lock ends when the file is closed, by this value or by the end of the process.
#[derive(Debug)]
struct DiskLock(fs::File);

impl Lock for DiskLock {
    fn publish(&self, note: &[u8]) -> io::Result<()> {
        if note.len() > LOCK_NOTE_BYTES_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // One write, so that a reader sees the old note or the new one.
        if self.0.write_at(note, 0)? < note.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(())
    }
}

/// Opens a file that must be a regular one. `NONBLOCK` keeps a planted pipe from hanging us.
fn open_regular(path: &Path, flags: OFlags) -> io::Result<fs::File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = fs::File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(FILE_MODE as _))?);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
    }
}

/// Sets the mode where it differs. A file system that has no modes, such as vfat, refuses; its
/// mount options decide there.
fn set_mode(file: &fs::File, mode: u32) -> io::Result<()> {
    if file.metadata()?.mode() & 0o777 == mode {
        return Ok(());
    }
    match file.set_permissions(fs::Permissions::from_mode(mode)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        answer => answer,
    }
}

/// Creates one directory and makes its name durable. Losing the race to another process is fine.
fn create_directory(path: &Path) -> io::Result<()> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(DIRECTORY_MODE as _)) {
        Ok(()) => set_mode(&open_directory(path, OFlags::NOFOLLOW)?, DIRECTORY_MODE)?,
        Err(rustix::io::Errno::EXIST) if fs::metadata(path)?.is_dir() => {}
        Err(error) => return Err(error.into()),
    }
    sync_directory(parent(path))
}

/// Makes the name of an existing directory durable: the process that created it may have died
/// before its sync. Who may not read the directory above did not create this one either.
fn sync_existing(path: &Path) -> io::Result<()> {
    match sync_directory(parent(path)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        answer => answer,
    }
}

fn open_directory(path: &Path, flags: OFlags) -> io::Result<fs::File> {
    let flags = flags | OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

fn sync_directory(path: &Path) -> io::Result<()> {
    open_directory(path, OFlags::empty())?.sync_all()
}

/// The directory in which a path stands.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn allocate(file: &fs::File, len: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;
    match rustix::io::retry_on_intr(|| fallocate(file, FallocateFlags::KEEP_SIZE, 0, len)) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Err(io::ErrorKind::Unsupported.into()),
        answer => Ok(answer?),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn allocate(_file: &fs::File, _len: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn next_data(file: &fs::File, offset: u64) -> io::Result<Option<u64>> {
    use rustix::fs::{SeekFrom, seek};
    use rustix::io::Errno;
    match seek(file, SeekFrom::Data(offset)) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NXIO) => Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(Some(offset)),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn next_data(_file: &fs::File, offset: u64) -> io::Result<Option<u64>> {
    Ok(Some(offset))
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn fill_random(mut buffer: &mut [u8]) -> io::Result<()> {
    use rustix::rand::{GetRandomFlags, getrandom};
    while !buffer.is_empty() {
        let filled =
            rustix::io::retry_on_intr(|| getrandom(&mut *buffer, GetRandomFlags::empty()))?;
        buffer = buffer.get_mut(filled..).unwrap_or_default();
    }
    Ok(())
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn fill_random(buffer: &mut [u8]) -> io::Result<()> {
    use std::io::Read;
    fs::File::open("/dev/urandom")?.read_exact(buffer)
}
