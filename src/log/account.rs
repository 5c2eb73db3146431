//! The account of the directory's bytes: whoever takes space claims it here before.
//!
//! The log is counted as it grows and shrinks, the rest is measured from time to time. Some
//! space is always spoken for, so that a directory at its bound can still be operated: half a segment
//! for an operator's changes, one for rewriting, half of one for opening after a crash, which may take
//! what rewriting does not need then, the ballast, and what the index may take.
//!
//! Changes never take what is kept for rewriting: that is how they become garbage that goes.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::config::{Config, IndexKind};
use crate::env::{Env, NameKind};
use crate::error::{Error, Result};
use crate::format;

use super::writer::small_segment_sizes;

/// File systems give space in pieces of so many bytes.
pub(super) const BLOCK: u64 = 4096;
/// The directory itself and the small files in it, which may be made at any time.
const OWN_BYTES: u64 = 6 * BLOCK;
/// The share of the bound that the index may take.
const INDEX_SHARE: u64 = 16;
/// The share of the bound that quarantine may take.
const QUARANTINE_SHARE: u64 = 8;
/// Below this the database of the index has no room to work, so the index stays in memory.
const INDEX_BYTES_MIN: u64 = 4 * 1024 * 1024;

/// What takes space and is counted as it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The segments, the active one with all that is reserved for it.
    Log,
    /// The next segment, made ready ahead of use.
    Prepared,
    Ballast,
    Fallback,
    Quarantine,
}

/// How urgent a claim is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// For new entries: leaves what is spoken for.
    Growth,
    /// For an operator's changes: leaves what is kept for rewriting, without which nothing that they
    /// remove would ever give space back.
    Change,
    /// For rewriting: leaves what is kept for opening.
    Rewrite,
    /// For opening after a crash, when nothing else is left. What it takes it gives back: the old
    /// file is cut where the new one begins, or goes.
    Opening,
}

/// What the directory takes beside the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Measured {
    pub index: u64,
    pub quarantine: u64,
    pub fallback: u64,
    /// The files in the directory itself, what is not ours, and the folders.
    pub other: u64,
}

/// New entries are refused for want of space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shortage {
    pub what: &'static str,
    pub bytes: u64,
    pub bytes_max: u64,
    /// Since when, by the wall clock.
    pub since_ms: u64,
}

/// The account of one open store.
#[derive(Debug)]
pub(crate) struct Account {
    limit: Option<u64>,
    segment_bytes: u64,
    /// What the segments for changes alone take two of.
    small_bytes: u64,
    ballast_bytes: u64,
    index_bytes: u64,
    /// Guards the figures.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    log: u64,
    prepared: u64,
    ballast: u64,
    measured: Measured,
    shortage: Option<Shortage>,
    /// Files that were dropped from quarantine since the store was opened.
    quarantine_dropped: u64,
}

impl Account {
    /// The account of a directory as it is found. Without a bound nothing is measured.
    pub fn open(env: &dyn Env, config: &Config) -> Result<Self> {
        let account = Self {
            limit: config.max_bytes,
            segment_bytes: config.segment_size(),
            small_bytes: 2 * small_segment_sizes(config)[0],
            ballast_bytes: config.ballast_size(),
            index_bytes: index_bytes_max(config).unwrap_or(0),
            state: Mutex::default(),
        };
        if account.limit.is_some() {
            let log = taken_below(env, &config.dir.join(format::LOG_DIR))?;
            let measured = measure(env, config)?;
            let mut state = account.lock();
            (state.log, state.measured) = (log, measured);
        }
        Ok(account)
    }

    /// The bound, if there is one.
    pub fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// Takes space, if the bound allows it.
    ///
    /// # Errors
    /// [`Error::Full`]; nothing was taken.
    pub fn claim(&self, part: Part, bytes: u64, claim: Claim) -> Result<()> {
        self.claim_more(part, (0, bytes), claim)
    }

    /// Takes the space by which a file grows.
    ///
    /// # Errors
    /// As [`Self::claim`].
    pub fn claim_more(&self, part: Part, (from, to): (u64, u64), claim: Claim) -> Result<()> {
        let bytes = in_blocks(to).saturating_sub(in_blocks(from));
        let mut state = self.lock();
        self.check_state(&state, bytes, claim)?;
        *state.part(part) += bytes;
        Ok(())
    }

    /// Whether the bound would allow it now.
    ///
    /// # Errors
    /// As [`Self::claim`].
    pub fn check(&self, bytes: u64, claim: Claim) -> Result<()> {
        self.check_state(&self.lock(), in_blocks(bytes), claim)
    }

    fn check_state(&self, state: &State, bytes: u64, claim: Claim) -> Result<()> {
        let Some(bytes_max) = self.limit else { return Ok(()) };
        let wanted = state.used() + self.spoken_for(state, claim) + bytes;
        if wanted > bytes_max {
            return Err(Error::Full { what: "max_bytes", bytes: wanted, bytes_max });
        }
        Ok(())
    }

    /// Counts space that was taken without asking, because it had to be.
    pub fn add(&self, part: Part, bytes: u64) {
        *self.lock().part(part) += in_blocks(bytes);
    }

    /// Gives space back.
    pub fn release(&self, part: Part, bytes: u64) {
        let mut state = self.lock();
        let part = state.part(part);
        *part = part.saturating_sub(in_blocks(bytes));
    }

    /// Bytes of one part.
    pub fn bytes(&self, part: Part) -> u64 {
        *self.lock().part(part)
    }

    /// All bytes that are taken now.
    pub fn used(&self) -> u64 {
        self.lock().used()
    }

    /// How much may still be taken for new entries; `None` without a bound.
    pub fn room(&self) -> Option<u64> {
        let state = self.lock();
        let taken = state.used() + self.spoken_for(&state, Claim::Growth);
        self.limit.map(|limit| limit.saturating_sub(taken))
    }

    /// Whether the space for changes is nearly used up.
    pub fn is_short_for_changes(&self) -> bool {
        let state = self.lock();
        let taken = state.used() + self.spoken_for(&state, Claim::Change) + self.small_bytes;
        self.limit.is_some_and(|limit| taken > limit)
    }

    /// Takes over what was measured.
    pub fn measured(&self, measured: Measured) {
        self.lock().measured = measured;
    }

    /// How much quarantine may hold; `None` without a bound.
    pub fn quarantine_bytes_max(&self) -> Option<u64> {
        self.limit.map(|limit| limit / QUARANTINE_SHARE)
    }

    /// Counts a file that was dropped from quarantine.
    pub fn dropped_from_quarantine(&self, bytes: u64) {
        self.release(Part::Quarantine, bytes);
        self.lock().quarantine_dropped += 1;
    }

    /// How many files were dropped from quarantine since the store was opened.
    pub fn quarantine_dropped(&self) -> u64 {
        self.lock().quarantine_dropped
    }

    /// Notes that entries were refused for want of space. What goes on keeps its beginning.
    pub fn note_shortage(&self, (what, bytes, bytes_max): (&'static str, u64, u64), now_ms: u64) {
        let mut state = self.lock();
        let since_ms = state.shortage.map_or(now_ms, |shortage| shortage.since_ms);
        state.shortage = Some(Shortage { what, bytes, bytes_max, since_ms });
    }

    /// Notes that there is space again.
    pub fn end_shortage(&self) {
        self.lock().shortage = None;
    }

    /// Why entries are refused, if they are.
    pub fn shortage(&self) -> Option<Shortage> {
        self.lock().shortage
    }

    /// Space that a claim must leave, beside what is taken already.
    fn spoken_for(&self, state: &State, claim: Claim) -> u64 {
        // The index takes its space without asking.
        let index = self.index_bytes.saturating_sub(state.measured.index);
        let segment = in_blocks(self.segment_bytes);
        match claim {
            Claim::Growth => {
                let ballast = in_blocks(self.ballast_bytes).saturating_sub(state.ballast);
                2 * segment + ballast + index
            }
            Claim::Change => segment + segment / 2 + index,
            Claim::Rewrite => segment / 2 + index,
            Claim::Opening => index,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn used(&self) -> u64 {
        let Measured { index, quarantine, fallback, other } = self.measured;
        self.log + self.prepared + self.ballast + index + quarantine + fallback + other
    }

    fn part(&mut self, part: Part) -> &mut u64 {
        match part {
            Part::Log => &mut self.log,
            Part::Prepared => &mut self.prepared,
            Part::Ballast => &mut self.ballast,
            Part::Fallback => &mut self.measured.fallback,
            Part::Quarantine => &mut self.measured.quarantine,
        }
    }
}

/// How much the index may take on disk: `None` without a bound, nothing where that would be too
/// little to work with.
pub(crate) fn index_bytes_max(config: &Config) -> Option<u64> {
    let share = config.max_bytes? / INDEX_SHARE;
    let on_disk = config.index == IndexKind::Sled && share >= INDEX_BYTES_MIN;
    Some(if on_disk { share } else { 0 })
}

/// Measures all but the log and the ballast.
pub(crate) fn measure(env: &dyn Env, config: &Config) -> Result<Measured> {
    let fallback_dir = config.fallback_dir();
    let mut measured = Measured { other: BLOCK, ..Measured::default() };
    for (name, kind) in list(env, &config.dir)? {
        let path = config.dir.join(&name);
        if name == format::BALLAST_NAME || name == format::LOG_DIR {
            continue;
        }
        let bytes = match kind {
            NameKind::File(len) => in_blocks(len),
            NameKind::Directory => taken_below(env, &path)?,
            NameKind::Other => 0,
        };
        let part = match name.as_str() {
            _ if path == fallback_dir => &mut measured.fallback,
            format::INDEX_DIR => &mut measured.index,
            format::QUARANTINE_DIR => &mut measured.quarantine,
            _ => &mut measured.other,
        };
        *part += bytes;
    }
    measured.other = measured.other.max(OWN_BYTES);
    Ok(measured)
}

/// Refuses a fallback file that would not fit below the bound, for a process that has no account.
pub(crate) fn check_room(env: &dyn Env, config: &Config, bytes: u64) -> Result<()> {
    let Some(bytes_max) = config.max_bytes else { return Ok(()) };
    // Beside what is spoken for, the owner may have reserved a segment that no length shows.
    let kept = 3 * in_blocks(config.segment_size()) + index_bytes_max(config).unwrap_or(0);
    let wanted = taken_below(env, &config.dir)? + in_blocks(bytes) + kept;
    if wanted > bytes_max {
        return Err(Error::Full { what: "max_bytes", bytes: wanted, bytes_max });
    }
    Ok(())
}

/// The files in a folder with their lengths; none where there is no folder.
pub(crate) fn files(env: &dyn Env, folder: &Path) -> Result<Vec<(String, u64)>> {
    let names = list(env, folder)?.into_iter();
    let files = names.filter_map(|(name, kind)| match kind {
        NameKind::File(len) => Some((name, len)),
        NameKind::Directory | NameKind::Other => None,
    });
    Ok(files.collect())
}

/// The lengths of all files below a folder; nothing where there is none.
pub(crate) fn bytes_below(env: &dyn Env, folder: &Path) -> Result<u64> {
    sum_below(env, folder, 0, |len| len)
}

/// What a folder and all below it take on the disk.
fn taken_below(env: &dyn Env, folder: &Path) -> Result<u64> {
    sum_below(env, folder, BLOCK, in_blocks)
}

/// Adds up what a folder, the folders below it and all their files count for.
fn sum_below(env: &dyn Env, folder: &Path, of_folder: u64, of_file: fn(u64) -> u64) -> Result<u64> {
    let mut bytes = of_folder;
    for (name, kind) in list(env, folder)? {
        bytes += match kind {
            NameKind::File(len) => of_file(len),
            NameKind::Directory => sum_below(env, &folder.join(name), of_folder, of_file)?,
            NameKind::Other => 0,
        };
    }
    Ok(bytes)
}

/// The names in a folder; none where there is no folder.
pub(super) fn list(env: &dyn Env, folder: &Path) -> Result<Vec<(String, NameKind)>> {
    match env.list(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(|error| Error::io("list", folder, error)),
    }
}

/// As a file system gives it.
fn in_blocks(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK).saturating_mul(BLOCK)
}
