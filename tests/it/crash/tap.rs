//! Takes a picture of a simulated disk, and of what is known about it, before every step.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadletter::{Env, File, Lock, Mapped, NameKind, OpenMode, Simulated};

use super::model::Model;

/// A disk before a step, and what was acknowledged by then.
#[derive(Debug, Clone)]
pub struct Shot {
    pub disk: Simulated,
    pub model: Arc<Model>,
    pub step: u64,
    pub act: &'static str,
    pub name: String,
}

/// A simulated disk that is photographed.
#[derive(Debug, Clone)]
pub struct Tap {
    disk: Simulated,
    album: Arc<Mutex<Album>>,
}

#[derive(Debug, Default)]
struct Album {
    model: Arc<Model>,
    shots: Vec<Shot>,
    /// No pictures are taken.
    rests: bool,
}

#[derive(Debug)]
struct TapFile {
    tap: Tap,
    file: Arc<dyn File>,
    name: String,
}

impl Tap {
    pub fn new(disk: &Simulated) -> Self {
        Self { disk: disk.clone(), album: Arc::default() }
    }

    /// What is known from now on.
    pub fn know(&self, model: &Model) {
        self.album.lock().unwrap().model = Arc::new(model.clone());
    }

    /// The pictures taken since the last call.
    pub fn take(&self) -> Vec<Shot> {
        std::mem::take(&mut self.album.lock().unwrap().shots)
    }

    /// Takes no pictures while it rests, for steps that nobody looks at.
    pub fn rest(&self, rests: bool) {
        self.album.lock().unwrap().rests = rests;
    }

    pub fn shoot(&self, act: &'static str, path: &Path) {
        if self.album.lock().unwrap().rests {
            return;
        }
        let disk = self.disk.restarted();
        let mut album = self.album.lock().unwrap();
        let model = Arc::clone(&album.model);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        album.shots.push(Shot { disk, model, step: self.disk.operations(), act, name });
    }
}

impl Env for Tap {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        if mode == OpenMode::CreateNew {
            self.shoot("create", path);
        }
        let file = self.disk.open(path, mode)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Arc::new(TapFile { tap: self.clone(), file, name }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.shoot("create directory", path);
        self.disk.create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(String, NameKind)>> {
        self.disk.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.shoot("rename", to);
        self.disk.rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.shoot("unlink", path);
        self.disk.unlink(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.shoot("remove directory", path);
        self.disk.remove_dir_all(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.shoot("sync directory", dir);
        self.disk.sync_dir(dir)
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        self.shoot("lock", path);
        self.disk.try_lock(path)
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        self.disk.is_locked(path)
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

impl File for TapFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<usize> {
        self.tap.shoot("write", Path::new(&self.name));
        self.file.write_at(buffer, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.tap.shoot("sync", Path::new(&self.name));
        self.file.sync()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.tap.shoot("set length", Path::new(&self.name));
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.tap.shoot("allocate", Path::new(&self.name));
        self.file.allocate(len)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.file.next_data(offset)
    }

    fn map(&self) -> io::Result<Option<Mapped>> {
        self.file.map()
    }
}
