//! Fallback files: capture without the lock, and the way home.
//!
//! A file comes home in three steps, and a crash between them only repeats the one before:
//! its entries and the fact itself are synced in the log as one batch; the file is unlinked; the
//! folder is synced. An entry that is already there is known by its key or uuid.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::store::{Item, StoreError};
use super::{Inner, lock};
use crate::config::{Config, Durability};
use crate::entry::NewFailure;
use crate::env::{Disk, Env};
use crate::error::{Error, Result};
use crate::format::{self, DrainedBody, Frame, Kind};
use crate::log::{self, Draft, Note};

/// A failure that was captured in a fallback file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Spilled {
    /// The file.
    pub path: PathBuf,
    /// The caller's key, else the entry's uuid; it stays when the entry comes home.
    pub key: String,
}

/// Captures a failure in a fallback file of its own, for a process that cannot have the store's
/// lock. When this returns `Ok`, the failure is synced; whoever owns or next opens the store
/// brings it home, exactly once.
///
/// # Errors
///
/// The failure is given back with [`Error::Invalid`], [`Error::TooLarge`], [`Error::NotAStore`]
/// (another program's directory) or [`Error::Io`].
pub fn spill(config: &Config, failure: NewFailure) -> Result<Spilled, StoreError> {
    let env: Arc<dyn Env> = Arc::new(Disk::new());
    spill_with(config, &env, failure)
}

/// As [`spill`], on a disk of the caller's.
///
/// # Errors
///
/// As [`spill`].
pub fn spill_with(
    config: &Config,
    env: &Arc<dyn Env>,
    failure: NewFailure,
) -> Result<Spilled, StoreError> {
    let mut failure = failure;
    let spilled = write_spill(config, env, &mut failure);
    spilled.map_err(|source| StoreError { failure: Box::new(failure), source })
}

fn write_spill(config: &Config, env: &Arc<dyn Env>, failure: &mut NewFailure) -> Result<Spilled> {
    config.check()?;
    log::check_store(&**env, &config.dir)?;
    failure.prepare(&config.limits, &config.redaction)?;
    let body = super::store::body(&**env, config, failure)?;
    let draft = Draft::new(Kind::Entry, &body, env.wall_ms(), Note::None)?;
    // The owner may be making the store right now; zero means whichever stands here.
    let store_uuid = log::store_uuid(&**env, &config.dir)?.unwrap_or_default();
    let path = log::write_fallback(&**env, config, store_uuid, &[draft])?;
    Ok(Spilled { path, key: body.key_text() })
}

impl Inner {
    /// Brings fallback files home at opening; one that cannot come never blocks it.
    pub(super) fn drain_logged(&self) {
        if let Err(error) = self.drain() {
            tracing::warn!(%error, "fallback files could not be brought home");
        }
    }

    /// Brings all fallback files home. Returns how many entries came.
    pub(super) fn drain(&self) -> Result<u64> {
        let folder = self.config.fallback_dir();
        let mut entries = 0;
        for file in log::list_fallback(&*self.env, &folder)? {
            if lock(&self.drained).contains(&file.uuid) {
                self.remove_fallback(&file.path)?;
                continue;
            }
            let (frames, store_uuid, sound) = match log::read_fallback(&*self.env, &file.path) {
                Ok(read) => read,
                Err(error) => {
                    tracing::warn!(%error, "a fallback file cannot be read; it is left alone");
                    continue;
                }
            };
            if store_uuid != [0; 16] && store_uuid != self.store_uuid {
                tracing::warn!(path = %file.path.display(), "a fallback file of another store");
                continue;
            }
            if !sound {
                self.keep_damaged(&file)?;
            }
            entries += self.bring_home(file.uuid, &frames)?;
            self.remove_fallback(&file.path)?;
        }
        lock(&self.report).drained += entries;
        Ok(entries)
    }

    fn bring_home(&self, uuid: [u8; 16], frames: &[Frame]) -> Result<u64> {
        let commit = self.commit()?;
        let records = frames.iter().filter(|frame| frame.header.kind == Kind::Entry);
        let bodies = records.filter_map(|frame| format::decode_body(&frame.body).ok()).collect();
        let mut items = self.reserve(bodies, true)?;
        let drafts = items.iter_mut().filter_map(Item::take_draft);
        let mut drafts: Vec<Draft> = drafts.map(|draft| Draft { drained: true, ..draft }).collect();
        let entries = drafts.len() as u64;
        let body = DrainedBody { uuid, entries };
        let drained = Draft::new(Kind::Drained, &body, self.env.wall_ms(), Note::Drained(body));
        let committed = drained.and_then(|drained| {
            drafts.push(drained);
            let ticket = self.submit(drafts, Durability::Synced)?;
            commit.wait(ticket, Durability::Synced)
        });
        self.release(&items);
        committed?;
        self.counters.offered.fetch_add(entries, Ordering::Relaxed);
        lock(&self.drained).insert(uuid);
        Ok(entries)
    }

    fn keep_damaged(&self, file: &log::FallbackFile) -> Result<()> {
        let name = log::quarantine_file(&*self.env, &self.config.dir, file)?;
        tracing::warn!(name, "a damaged fallback file was copied to quarantine");
        lock(&self.report).quarantined.push(name);
        Ok(())
    }

    fn remove_fallback(&self, path: &std::path::Path) -> Result<()> {
        let folder = self.config.fallback_dir();
        self.env.unlink(path).map_err(|error| Error::io("remove", path, error))?;
        self.env.sync_dir(&folder).map_err(|error| Error::io("sync the folder", &folder, error))
    }
}
