//! Fallback files of other processes come home at once, and nobody looks for them meanwhile.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadletter::{
    Config, Disk, Engine, Env, File, Lock, NameKind, NewFailure, OpenMode, Watch, spill,
};

use crate::schedule::wait_within;

/// The contract is "within a second or so"; a busy machine may be slow.
const LIMIT: Duration = Duration::from_secs(20);

/// A real disk that counts how often somebody looks into the fallback folder, and knows how long
/// its watcher means to sleep.
#[derive(Debug, Clone, Default)]
struct Counting {
    looks: Arc<AtomicU64>,
    sleeps: Arc<Mutex<Vec<Option<Duration>>>>,
}

#[derive(Debug)]
struct CountingWatch {
    env: Counting,
    watch: Box<dyn Watch>,
}

impl Watch for CountingWatch {
    fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        self.env.sleeps.lock().unwrap().push(timeout);
        self.watch.wait(timeout)
    }

    fn wake(&self) {
        self.watch.wake();
    }
}

impl Env for Counting {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        Disk.open(path, mode)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        Disk.create_dir(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<(String, NameKind)>> {
        if dir.ends_with("fallback") {
            self.looks.fetch_add(1, Ordering::SeqCst);
        }
        Disk.list(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Disk.rename(from, to)
    }
    fn unlink(&self, path: &Path) -> io::Result<()> {
        Disk.unlink(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        Disk.remove_dir_all(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        Disk.sync_dir(dir)
    }
    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        Disk.try_lock(path)
    }
    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        Disk.is_locked(path)
    }
    fn watch(&self, dir: &Path) -> io::Result<Option<Box<dyn Watch>>> {
        let counting = |watch| CountingWatch { env: self.clone(), watch };
        Ok(Disk.watch(dir)?.map(|watch| Box::new(counting(watch)) as Box<dyn Watch>))
    }
    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        Disk.free_bytes(dir)
    }
    fn wall_ms(&self) -> u64 {
        Disk.wall_ms()
    }
    fn monotonic_ms(&self) -> u64 {
        Disk.monotonic_ms()
    }
    fn fill_random(&self, buffer: &mut [u8]) -> io::Result<()> {
        Disk.fill_random(buffer)
    }
    fn sleep(&self, duration: Duration) {
        Disk.sleep(duration);
    }
    fn process_id(&self) -> u32 {
        Disk.process_id()
    }
}

/// Spills as a process without the lock would, twice, and waits until the owner has both.
fn check_drained(config: &Config) {
    let engine = Engine::open(config.clone()).unwrap();
    engine.wait_ready().unwrap();
    for key in ["first", "second"] {
        spill(config, NewFailure::new("a", "X").key(key)).unwrap();
        wait_within(LIMIT, || engine.get_by_key(key).unwrap().is_some());
        wait_within(LIMIT, || std::fs::read_dir(config.fallback_dir()).unwrap().next().is_none());
    }
    engine.close().unwrap();
}

#[test]
fn a_file_of_another_process_comes_home_at_once() {
    let dir = tempfile::tempdir().unwrap();
    check_drained(&Config::new(dir.path().join("store")));
}

/// The folder, and those above it, may be made long after the store was opened.
#[test]
fn the_folder_may_be_made_later() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::new(dir.path().join("store"));
    config.fallback_dir = Some(dir.path().join("other/disk/fallback"));
    check_drained(&config);
    // Another folder of the same name is the folder now.
    let engine = Engine::open(config.clone()).unwrap();
    engine.wait_ready().unwrap();
    std::fs::remove_dir_all(dir.path().join("other")).unwrap();
    check_comes(&engine, &config);
}

fn check_comes(engine: &Engine, config: &Config) {
    spill(config, NewFailure::new("a", "X").key("third")).unwrap();
    wait_within(LIMIT, || engine.get_by_key("third").unwrap().is_some());
}

#[cfg(target_os = "linux")]
#[test]
fn an_idle_store_sleeps_without_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::new(dir.path().join("store"));
    config.fallback_dir = Some(dir.path().join("fallback"));
    let env = Counting::default();
    let engine = Engine::open_with(config.clone(), Arc::new(env.clone())).unwrap();
    engine.store(NewFailure::new("a", "X")).unwrap();
    spill(&config, NewFailure::new("a", "X").key("spilled")).unwrap();
    wait_within(LIMIT, || engine.get_by_key("spilled").unwrap().is_some());
    // What was committed last is looked at once more, and then there is no next time.
    wait_within(LIMIT, || env.sleeps.lock().unwrap().last() == Some(&None));
    engine.close().unwrap();
    let (looks, sleeps) = (env.looks.load(Ordering::SeqCst), env.sleeps.lock().unwrap().clone());
    assert!(sleeps.len() < 20 && looks < 20, "{looks} {sleeps:?}");
}
