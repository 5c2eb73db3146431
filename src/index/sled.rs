//! The index in a sled database: the only file that names sled, and one that trusts it in nothing.
//!
//! What its 0.34 is known to do, and what is done here about it: its flush does not reach the disk
//! (all of its files are synced after it); a snapshot half written when a process died keeps it
//! from opening (such files are deleted first); batches and transactions stop every reader in the
//! process (plain inserts and removes only); it may panic on damaged files (each call is contained,
//! and the first panic or error turns the index off); its pool of seven threads, one for the
//! process, never ends and looks for work once a second (nothing is done about it; an index in
//! memory has none).
//!
//! Invariant: an index that is off forgets everything and refuses nothing.
#![allow(
    clippy::disallowed_methods,
    reason = "sled does its own file I/O; its files are deleted and synced here, behind it"
)]

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use crate::error::{Error, Result};

use super::Index;

/// The file that holds sled's log.
const LOG_NAME: &str = "db";
/// The directory that holds its large values. Ours are small, but its nodes may not be.
const BLOBS_NAME: &str = "blobs";
/// Values put between two flushes, half a mebibyte.
const PUTS_PER_FLUSH: u64 = 128;
/// What its snapshots begin with.
const SNAPSHOT_PREFIX: &str = "snap.";
/// What a snapshot ends with that was never finished.
const SNAPSHOT_UNFINISHED: &str = ".generating";

/// An index kept by sled, in a directory of its own.
pub struct SledIndex {
    dir: PathBuf,
    cache_bytes: u64,
    /// It gives itself up when its files take more than half of this.
    bytes_max: Option<u64>,
    /// Guards the handle; none when the index is off. Cloned out of the lock for each call.
    db: RwLock<Option<sled::Db>>,
    /// How many values were put.
    puts: AtomicU64,
}

impl SledIndex {
    /// Opens the index in a directory, which is made if need be. One that cannot be opened is
    /// deleted and starts empty; if that fails too, the index is off.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(dir: &Path, cache_bytes: u64) -> Result<Self> {
        fs::create_dir_all(dir).map_err(|error| Error::io("create the index", dir, error))?;
        let index = Self::closed(dir, cache_bytes);
        let mut db = index.open_db();
        if db.is_none() {
            index.delete()?;
            db = index.open_db();
        }
        *index.db.write().unwrap_or_else(PoisonError::into_inner) = db;
        Ok(index)
    }

    /// Deletes whatever is in a directory, unopened, and starts an empty index there.
    ///
    /// # Errors
    /// When the directory cannot be deleted or made.
    pub fn create(dir: &Path, cache_bytes: u64) -> Result<Self> {
        Self::closed(dir, cache_bytes).delete()?;
        Self::open(dir, cache_bytes)
    }

    fn closed(dir: &Path, cache_bytes: u64) -> Self {
        let (db, puts) = (RwLock::new(None), AtomicU64::new(0));
        Self { dir: dir.to_path_buf(), cache_bytes, bytes_max: None, db, puts }
    }

    /// With this bound on the space of its files. Half of it is left for what is put between two
    /// looks at them.
    #[must_use]
    pub fn at_most(mut self, bytes_max: Option<u64>) -> Self {
        self.bytes_max = bytes_max;
        self
    }

    /// Gives itself up when its files have become too large; it is derived, the bound is not.
    fn keep_bound(&self) {
        let Some(bytes_max) = self.bytes_max else { return };
        let sizes = self.files().unwrap_or_default().into_iter();
        let bytes: u64 = sizes.filter_map(|path| fs::metadata(path).ok()).map(|at| at.len()).sum();
        if bytes > bytes_max / 2 {
            tracing::warn!(bytes, bytes_max, "the index outgrew its space and is off");
            self.give_up();
        }
    }

    fn open_db(&self) -> Option<sled::Db> {
        let opened = self.remove_unfinished().map_err(|error| error.to_string()).and_then(|()| {
            let config = sled::Config::default()
                .path(&self.dir)
                .cache_capacity(self.cache_bytes)
                .flush_every_ms(None);
            match catch_unwind(AssertUnwindSafe(|| config.open())) {
                Ok(Ok(db)) => Ok(db),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("it panicked".to_owned()),
            }
        });
        if let Err(reason) = &opened {
            tracing::warn!(%reason, "the index does not open");
        }
        opened.ok()
    }

    fn remove_unfinished(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(SNAPSHOT_PREFIX) && name.ends_with(SNAPSHOT_UNFINISHED) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn delete(&self) -> Result<()> {
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("delete the index", &self.dir, error))
            }
            _ => fs::create_dir_all(&self.dir)
                .map_err(|error| Error::io("create the index", &self.dir, error)),
        }
    }

    /// Calls sled; a panic or an error turns the index off and counts as no answer.
    fn call<T>(&self, act: &str, call: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Option<T> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        let reason = match catch_unwind(AssertUnwindSafe(|| call(&db))) {
            Ok(Ok(value)) => return Some(value),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it panicked".to_owned(),
        };
        tracing::warn!(act, %reason, "the index is off until the next open");
        self.turn_off();
        drop_contained(db);
        None
    }

    fn turn_off(&self) {
        let db = self.db.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(db) = db {
            drop_contained(db);
        }
    }

    fn files(&self) -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.is_file() {
                files.push(path);
            }
        }
        let blobs = self.dir.join(BLOBS_NAME);
        if blobs.is_dir() {
            for entry in fs::read_dir(&blobs)? {
                files.push(entry?.path());
            }
        }
        Ok(files)
    }

    fn sync_files(&self) -> io::Result<()> {
        for path in self.files()? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let blob = path.parent().is_some_and(|parent| parent.ends_with(BLOBS_NAME));
            if blob || name == LOG_NAME || name.starts_with(SNAPSHOT_PREFIX) {
                match File::open(&path).and_then(|file| file.sync_all()) {
                    // Sled deletes its old snapshots and blobs when it likes.
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        let blobs = self.dir.join(BLOBS_NAME);
        if blobs.is_dir() {
            File::open(&blobs)?.sync_all()?;
        }
        File::open(&self.dir)?.sync_all()
    }
}

impl Index for SledIndex {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.call("get", |db| db.get(key)).flatten().map(|value| value.to_vec())
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.call("put", |db| db.insert(key, value));
        // Durability does not depend on this one; it lets go of what the inserts left in memory.
        if self.puts.fetch_add(1, Ordering::Relaxed) % PUTS_PER_FLUSH == PUTS_PER_FLUSH - 1 {
            self.call("flush", |db| db.flush());
            self.keep_bound();
        }
        Ok(())
    }

    fn remove(&self, key: &[u8]) -> Result<()> {
        self.call("remove", |db| db.remove(key));
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        if self.call("flush", |db| db.flush()).is_some()
            && let Err(error) = self.sync_files()
        {
            tracing::warn!(%error, "the index is off: its files cannot be synced");
            self.turn_off();
        }
        self.keep_bound();
        Ok(())
    }

    fn clear(&self) -> Result<()> {
        // Its own clear would keep the space, and whatever is wrong with its files.
        self.turn_off();
        self.delete()?;
        *self.db.write().unwrap_or_else(PoisonError::into_inner) = self.open_db();
        Ok(())
    }

    fn give_up(&self) -> bool {
        let was_on = self.db.read().unwrap_or_else(PoisonError::into_inner).is_some();
        self.turn_off();
        if let Err(error) = fs::remove_dir_all(&self.dir)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "the index that was given up still takes space");
        }
        was_on
    }
}

impl Drop for SledIndex {
    fn drop(&mut self) {
        self.turn_off();
    }
}

/// Closing flushes, and may panic like any other call.
fn drop_contained(db: sled::Db) {
    if catch_unwind(AssertUnwindSafe(|| drop(db))).is_err() {
        tracing::warn!("the index panicked when it was closed");
    }
}
