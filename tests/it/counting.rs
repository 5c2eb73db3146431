//! A disk that counts what is written to it, and lets somebody look after each write.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadletter::{Env, File, Lock, Mapped, NameKind, OpenMode, Watch};

const PAGE: u64 = 4096;

/// Counts pages: one that is written several times between two syncs goes to the device once. (What
/// Linux says of a process is no such count: where a file was filled in large pieces before, it takes
/// the whole piece for written.) What the database of the index writes is not seen here.
#[derive(Clone)]
pub struct Counting {
    disk: Arc<dyn Env>,
    pages: Arc<AtomicU64>,
    look: Arc<dyn Fn() + Send + Sync>,
}

#[derive(Debug)]
struct CountingFile {
    file: Arc<dyn File>,
    counting: Counting,
    /// Guards the pages that wait for a sync.
    dirty: Mutex<HashSet<u64>>,
}

impl Counting {
    /// `look` is called after each write, and after space was taken otherwise.
    pub fn new(disk: Arc<dyn Env>, look: impl Fn() + Send + Sync + 'static) -> Self {
        Self { disk, pages: Arc::default(), look: Arc::new(look) }
    }

    /// Bytes that were written to the device.
    pub fn written(&self) -> u64 {
        self.pages.load(Ordering::Relaxed) * PAGE
    }
}

impl fmt::Debug for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Counting({:?})", self.disk)
    }
}

impl Env for Counting {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let (file, counting) = (self.disk.open(path, mode)?, self.clone());
        Ok(Arc::new(CountingFile { file, counting, dirty: Mutex::default() }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(String, NameKind)>> {
        self.disk.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.disk.unlink(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir_all(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        self.disk.try_lock(path)
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        self.disk.is_locked(path)
    }

    fn try_lock_shared(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        self.disk.try_lock_shared(path)
    }

    fn watch(&self, dir: &Path) -> io::Result<Option<Box<dyn Watch>>> {
        self.disk.watch(dir)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.disk.free_bytes(dir)
    }

    fn wall_ms(&self) -> u64 {
        self.disk.wall_ms()
    }

    fn monotonic_ms(&self) -> u64 {
        self.disk.monotonic_ms()
    }

    fn fill_random(&self, buffer: &mut [u8]) -> io::Result<()> {
        self.disk.fill_random(buffer)
    }

    fn sleep(&self, duration: Duration) {
        self.disk.sleep(duration);
    }

    fn process_id(&self) -> u32 {
        self.disk.process_id()
    }
}

impl File for CountingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<usize> {
        let written = self.file.write_at(buffer, offset)?;
        let pages = offset / PAGE..(offset + written as u64).div_ceil(PAGE);
        let mut dirty = self.dirty.lock().unwrap();
        let new = pages.filter(|page| dirty.insert(*page)).count() as u64;
        drop(dirty);
        self.counting.pages.fetch_add(new, Ordering::Relaxed);
        (self.counting.look)();
        Ok(written)
    }

    fn sync(&self) -> io::Result<()> {
        self.dirty.lock().unwrap().clear();
        self.file.sync()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)?;
        (self.counting.look)();
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)?;
        (self.counting.look)();
        Ok(())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.file.next_data(offset)
    }

    fn map(&self) -> io::Result<Option<Mapped>> {
        self.file.map()
    }
}
