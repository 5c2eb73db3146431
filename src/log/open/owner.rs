//! The lock of a store, and the note that its owner leaves for readers beside it.

use std::path::Path;
use std::sync::Arc;

use super::store_file::read_file;
use crate::config::Config;
use crate::env::{Env, Lock};
use crate::error::{Error, Result};
use crate::format::{self, LockNote};

/// Pause between two tries for the lock.
const LOCK_RETRY_MS: u64 = 10;
/// The note of an owner that is still opening names this segment.
const OPENING: u64 = u64::MAX;

/// Who holds the lock, as its note says.
fn read_lock_note(env: &dyn Env, dir: &Path) -> Option<LockNote> {
    let path = dir.join(format::LOCK_NAME);
    let bytes = read_file(env, &path, format::LOCK_NOTE_LEN as u64).ok()?;
    LockNote::decode(&bytes).ok()
}

pub(super) fn take_lock(env: &dyn Env, config: &Config) -> Result<Arc<dyn Lock>> {
    let dir = &config.dir;
    let path = dir.join(format::LOCK_NAME);
    let deadline = env.monotonic_ms() + config.lock_wait_ms;
    loop {
        let lock = env.try_lock(&path).map_err(|error| Error::io("lock", &path, error))?;
        if let Some(lock) = lock {
            let note = LockNote { process_id: env.process_id(), segment: OPENING, end: 0 };
            lock.publish(&note.encode()).map_err(|error| Error::io("write", &path, error))?;
            return Ok(Arc::from(lock));
        }
        if env.monotonic_ms() >= deadline {
            let owner = read_lock_note(env, dir).map(|note| note.process_id);
            return Err(Error::Locked { dir: dir.clone(), owner });
        }
        env.sleep(std::time::Duration::from_millis(LOCK_RETRY_MS));
    }
}

/// The note of a living owner; waits while it is still opening.
pub(crate) fn await_owner(env: &dyn Env, config: &Config) -> Result<Option<LockNote>> {
    let path = config.dir.join(format::LOCK_NAME);
    let deadline = env.monotonic_ms() + config.index_wait_ms;
    loop {
        let locked = env.is_locked(&path);
        if !locked.map_err(|error| Error::io("ask for the lock of", &path, error))? {
            return Ok(None);
        }
        match read_lock_note(env, &config.dir) {
            Some(note) if note.segment != OPENING => return Ok(Some(note)),
            _ if env.monotonic_ms() >= deadline => {
                return Err(Error::IndexNotReady { waited_ms: config.index_wait_ms });
            }
            _ => env.sleep(std::time::Duration::from_millis(LOCK_RETRY_MS)),
        }
    }
}
