//! Fallback files: capture without the lock, and the way home.
//!
//! A file comes home in three steps, and a crash between them only repeats the one before:
//! its entries, and behind them the fact itself, are synced in the log; the file is unlinked; the
//! folder is synced. An entry that is already there is known by its key or uuid.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::store::{Item, StoreError};
use super::{Engine, Inner, lock};
use crate::config::{Config, Durability};
use crate::entry::{NewFailure, Timestamp};
use crate::env::{Disk, Env};
use crate::error::{Error, Result};
use crate::format::{self, DrainedBody, EntryBody, Kind};
use crate::log::{self, Control, Draft, Note};

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
/// (another program's directory), [`Error::Full`] or [`Error::Io`].
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
    let spilled = write_spill(config, env, None, &mut failure);
    spilled.map_err(|source| StoreError { failure: Box::new(failure), source })
}

impl Engine {
    /// Brings the entries of all fallback files into the log now, which the engine does by itself at
    /// opening and when a file comes. Answers how many came; each comes once. When this returns `Ok`,
    /// they are synced and no file that could come home is left.
    ///
    /// # Errors
    ///
    /// Those of [`Engine::store`]. Files that came home stay so.
    pub fn drain(&self) -> Result<u64> {
        self.inner.check_open()?;
        self.inner.drain()
    }

    /// Keeps a failure in a fallback file, for when the log takes no new entries. When this
    /// returns `Ok`, the failure is synced; this store brings it home by itself once it is opened
    /// anew, or while it is well. It counts as offered and spilled, apart from a store call before.
    ///
    /// # Errors
    ///
    /// The failure is given back, with [`Error::Io`](crate::Error::Io) and what is wrong with it.
    pub fn spill_beside(&self, failure: NewFailure) -> Result<Spilled, StoreError> {
        let mut failure = failure;
        let account = Some(&*self.inner.watch.account);
        let spilled = write_spill(&self.inner.config, &self.inner.env, account, &mut failure)
            .map_err(|source| StoreError { failure: Box::new(failure), source })?;
        self.inner.counters.offered.fetch_add(1, Ordering::Relaxed);
        self.inner.counters.spilled.fetch_add(1, Ordering::Relaxed);
        Ok(spilled)
    }
}

fn write_spill(
    config: &Config,
    env: &Arc<dyn Env>,
    account: Option<&log::Account>,
    failure: &mut NewFailure,
) -> Result<Spilled> {
    config.check()?;
    log::check_store(&**env, &config.dir)?;
    failure.prepare(&config.limits, &config.redaction)?;
    let body = super::store::body(&**env, config, failure)?;
    let draft = Draft::new(Kind::Entry, &body, env.wall_ms(), Note::None)?;
    super::store::check_size(config, std::slice::from_ref(&draft))?;
    // The owner may be making the store right now; zero means whichever stands here.
    let store_uuid = log::store_uuid(&**env, &config.dir)?.unwrap_or_default();
    let place = (&**env, config, account);
    let path = log::write_fallback(place, store_uuid, &[draft]).inspect_err(|_| {
        // The file may have its name already; with its key, storing again yields one entry.
        failure.key = Some(body.key_text());
    })?;
    Ok(Spilled { path, key: body.key_text() })
}

impl Inner {
    /// Brings fallback files home at opening; one that cannot come never blocks it.
    pub(super) fn drain_logged(&self) {
        if let Err(error) = self.drain() {
            tracing::warn!(%error, "fallback files could not be brought home");
        }
    }

    /// Brings all fallback files home. Returns how many entries came. A file that cannot come
    /// does not hold up those behind it; the first error is returned.
    pub(super) fn drain(&self) -> Result<u64> {
        let folder = self.config.fallback_dir();
        let (mut entries, mut result) = (0, Ok(()));
        for file in log::list_fallback(&*self.env, &folder)? {
            match self.drain_file(&file) {
                Ok(came) => entries += came,
                Err(error @ Error::Io { .. }) => result = result.and(Err(error)),
                // The log takes nothing at all.
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        lock(&self.report).drained += entries;
        result.map(|()| entries)
    }

    fn drain_file(&self, file: &log::FallbackFile) -> Result<u64> {
        if lock(&self.drained).contains(&file.uuid) {
            return self.remove_fallback(&file.path).map(|()| 0);
        }
        let (frames, store_uuid, sound) = match log::read_fallback(&*self.env, &file.path) {
            Ok(read) => read,
            Err(error) => {
                tracing::warn!(%error, "a fallback file cannot be read; it is left alone");
                return Ok(0);
            }
        };
        if store_uuid != [0; 16] && store_uuid != self.store_uuid {
            tracing::warn!(path = %file.path.display(), "a fallback file of another store");
            return Ok(0);
        }
        let frames = frames.iter().filter(|frame| frame.header.kind == Kind::Entry);
        let bodies = frames.map(|frame| {
            let decoded = format::decode_body::<EntryBody>(frame);
            decoded.map(|body| self.renewed(body, frame.header.time_ms))
        });
        let bodies: Vec<_> = bodies.collect();
        // A body that cannot be read cannot come home; what it says must stay somewhere.
        if !sound || bodies.iter().any(Result::is_err) {
            self.keep_damaged(file)?;
        }
        let entries = self.bring_home(file.uuid, bodies.into_iter().flatten().collect())?;
        self.remove_fallback(&file.path)?;
        Ok(entries)
    }

    /// Nobody knows on which side of a jump of the wall clock a file was written. Unless it was
    /// within [`Config::max_jump_s`] before now, an entry of it still lives as long as it should have
    /// when it was spilled.
    fn renewed(&self, mut body: EntryBody, spilled_ms: u64) -> EntryBody {
        let now_ms = self.env.wall_ms();
        let max_jump_ms = self.config.max_jump_s.saturating_mul(1000);
        if !(now_ms.saturating_sub(max_jump_ms)..=now_ms).contains(&spilled_ms) {
            let later = |at: Timestamp| Timestamp(now_ms).later(at.0.saturating_sub(spilled_ms));
            body.state.expires_at = body.state.expires_at.map(later);
        }
        body
    }

    /// Stores the entries of a file, then the fact that all of them are there.
    fn bring_home(&self, uuid: [u8; 16], bodies: Vec<EntryBody>) -> Result<u64> {
        let entries = self.bring_all(bodies)?;
        let body = DrainedBody { uuid, entries };
        let drained = Draft::new(
            Kind::Drained,
            &body,
            self.env.wall_ms(),
            Note::Control(Control::Drained(body)),
        )?;
        self.write_synced(vec![drained])?;
        lock(&self.drained).insert(uuid);
        Ok(entries)
    }

    /// Stores entries that are not there yet, batch by batch. Answers how many there were.
    pub(super) fn bring_all(&self, bodies: Vec<EntryBody>) -> Result<u64> {
        let bytes_max = super::store::batch_bytes_max(&self.config);
        let mut entries = 0;
        let mut batch: Vec<EntryBody> = Vec::new();
        let mut bytes = 0;
        for body in bodies {
            let draft_bytes = self.draft(&body)?.record_len();
            if !batch.is_empty() && bytes + draft_bytes > bytes_max {
                entries += self.bring_batch(std::mem::take(&mut batch))?;
                bytes = 0;
            }
            bytes += draft_bytes;
            batch.push(body);
        }
        if !batch.is_empty() {
            entries += self.bring_batch(batch)?;
        }
        Ok(entries)
    }

    /// Stores those of a batch that are not there yet, and waits until all of them are synced:
    /// a first copy that somebody else is storing may still be refused.
    fn bring_batch(&self, bodies: Vec<EntryBody>) -> Result<u64> {
        let mut items = self.reserve(bodies, true)?;
        let drafts: Vec<Draft> = items.iter_mut().filter_map(Item::take_home).collect();
        let entries = drafts.len() as u64;
        let offered = &self.counters.offered;
        offered.fetch_add(entries, Ordering::Relaxed);
        let submitted = if drafts.is_empty() {
            Ok(None)
        } else {
            let admitted = self.admit_bytes(&drafts);
            admitted.and_then(|()| self.submit(drafts, Durability::Synced)).map(Some)
        };
        let ticket = submitted.inspect_err(|_| {
            offered.fetch_sub(entries, Ordering::Relaxed);
            self.release(&items);
        })?;
        // From here on the commit path releases the keys, when it is known what became of them.
        for ticket in self.number(&items, ticket) {
            self.commit()?.wait(ticket, Durability::Synced)?;
        }
        Ok(entries)
    }

    fn keep_damaged(&self, file: &log::FallbackFile) -> Result<()> {
        let name = log::quarantine_file(self.quarantine_place(), file)?;
        tracing::warn!(name, "a damaged fallback file was copied to quarantine");
        let mut report = lock(&self.report);
        if !report.quarantined.contains(&name) {
            report.quarantined.push(name);
        }
        Ok(())
    }

    fn remove_fallback(&self, path: &std::path::Path) -> Result<()> {
        let folder = self.config.fallback_dir();
        match self.env.unlink(path) {
            // Another drain was faster.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => other.map_err(|error| Error::io("remove", path, error))?,
        }
        self.env.sync_dir(&folder).map_err(|error| Error::io("sync the folder", &folder, error))
    }
}
