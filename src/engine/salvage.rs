//! Copying all that is sound in a damaged directory into a new store.
//!
//! 1. Every byte of the old store is read, which names the damage.
//! 2. Its entries follow, oldest first, each with its newest state; then those that waited in
//!    fallback files, then the summaries of evicted ones.
//! 3. The new store is closed in order.
//!
//! The old directory is only read. What is not sound stays there.

use std::sync::Arc;

use serde::Serialize;

use super::evict::summary_draft;
use super::verify::verify_with;
use super::{Accounting, Engine};
use crate::config::Config;
use crate::entry::{EntryId, Filter, Order, Page};
use crate::env::{Disk, Env};
use crate::error::{Damage, Error, Result};
use crate::format::{self, EntryBody, Kind};
use crate::log;

/// Entries are copied in portions of at most so many, and of at most so many bytes and one more.
const PORTION: usize = 256;
const PORTION_BYTES: u64 = 4 * 1024 * 1024;

/// What a salvage copied, and what it could not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SalvageReport {
    /// Entries that were copied from the log.
    pub entries: u64,
    /// Entries that were copied from fallback files.
    pub fallback: u64,
    /// Summaries of evicted entries that were copied.
    pub summaries: u64,
    /// Entries of the old store that could not be copied.
    pub lost: u64,
    /// Everything that is damaged in the old store.
    pub damage: Vec<Damage>,
    /// What the old store counted over its life; the new one counts anew.
    pub accounting: Accounting,
}

/// Copies every sound entry of the store in `from.dir` into a new store in `to.dir`, beside an owner
/// of the old one too. Entries keep their key, their payload, their state with its history, and
/// their order; they get new ids. Limits of `to` do not hold while it copies. When this returns
/// `Ok`, everything that was copied is durable, and the rest is named. `progress` is told how many
/// entries are done and how many there are.
///
/// # Errors
///
/// [`Error::Invalid`] when there is a store in `to.dir` already, [`Error::NotAStore`] when there is
/// none in `from.dir`, [`Error::Version`], [`Error::Full`], [`Error::Io`]. After an error the new
/// store holds a part; remove it and begin again.
pub fn salvage(
    from: &Config,
    to: &Config,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<SalvageReport> {
    let env: Arc<dyn Env> = Arc::new(Disk::new());
    salvage_with(from, to, &env, progress)
}

/// As [`salvage`], on a disk of the caller's.
///
/// # Errors
///
/// As [`salvage`].
pub fn salvage_with(
    from: &Config,
    to: &Config,
    env: &Arc<dyn Env>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<SalvageReport> {
    if log::check_store(&**env, &to.dir)? {
        return Err(Error::invalid("the new directory", to.dir.display(), "one without a store"));
    }
    let verified = verify_with(from, env, &mut |_, _| {})?;
    let old = Engine::open_read_only_with(from.clone(), Arc::clone(env))?;
    let mut config = to.clone();
    config.bounds = crate::config::Bounds::default();
    let new = Engine::open_with(config, Arc::clone(env))?;
    let entries = copy_entries(&old, &new, progress)?;
    let fallback = copy_fallback(from, env, &new)?;
    let summaries = copy_summaries(&old, &new)?;
    let accounting = old.accounting()?;
    new.close()?;
    let damage = verified.damage;
    Ok(SalvageReport { entries, fallback, summaries, lost: accounting.lost, damage, accounting })
}

fn copy_entries(old: &Engine, new: &Engine, progress: &mut dyn FnMut(u64, u64)) -> Result<u64> {
    let total = old.count(&Filter::default())?;
    let (mut copied, mut after): (u64, Option<EntryId>) = (0, None);
    let catalog = old.inner.open_catalog()?;
    loop {
        let page = Page { order: Order::Oldest, limit: PORTION, after, ..Page::default() };
        let ids = old.select(&Filter::default(), page)?;
        let Some(last) = ids.last() else { return Ok(copied) };
        after = Some(*last);
        let (mut bodies, mut bytes) = (Vec::with_capacity(ids.len()), 0);
        for id in ids {
            // What turns out to be damaged is counted as lost by this.
            let Some(body) = old.inner.read_body(&catalog, id.0)? else { continue };
            bytes += new.inner.draft(&body)?.record_len();
            bodies.push(body);
            if bytes >= PORTION_BYTES {
                copied += new.inner.bring_all(std::mem::take(&mut bodies))?;
                bytes = 0;
            }
        }
        copied += new.inner.bring_all(bodies)?;
        progress(copied, total);
    }
}

/// The entries that wait in fallback files. A file of another store is none of it.
fn copy_fallback(from: &Config, env: &Arc<dyn Env>, new: &Engine) -> Result<u64> {
    let uuid = log::store_uuid(&**env, &from.dir)?;
    let mut copied = 0;
    for file in log::list_fallback(&**env, &from.fallback_dir())? {
        let Ok((frames, store_uuid, _)) = log::read_fallback(&**env, &file.path) else {
            tracing::warn!(path = %file.path.display(), "a fallback file cannot be read");
            continue;
        };
        if store_uuid != [0; 16] && uuid.is_some_and(|uuid| uuid != store_uuid) {
            continue;
        }
        let entries = frames.iter().filter(|frame| frame.header.kind == Kind::Entry);
        let bodies: Vec<EntryBody> =
            entries.filter_map(|frame| format::decode_body(frame).ok()).collect();
        copied += new.inner.bring_all(bodies)?;
    }
    Ok(copied)
}

fn copy_summaries(old: &Engine, new: &Engine) -> Result<u64> {
    let now = new.inner.env.wall_ms();
    let summaries = old.summaries()?;
    for summary in &summaries {
        new.inner.write_synced(vec![summary_draft(summary, now)?])?;
    }
    Ok(summaries.len() as u64)
}
