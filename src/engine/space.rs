//! Space: how much there is, how long it lasts, what is given up when it runs out, and the watch
//! over all of it.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use serde::Serialize;

use super::compact::Urgency;
use super::{Bytes, Engine, Inner, lock};
use crate::config::{Config, OverflowStrategy};
use crate::entry::Timestamp;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::format::{self, FileName};
use crate::log::{self, Account, Ballast, Claim, Commit, Draft, Part, Segments};
use crate::overflow::EvictRequest;

/// With less room than for so many segments the store begins to save space.
const SEGMENTS_LOW: u64 = 4;
/// With less room than for so many segments entries are evicted, if they may, before one is refused.
const SEGMENTS_LEAST: u64 = 2;
/// The forecast looks back over so many samples, five minutes.
const SAMPLES_MAX: usize = 30;
/// Batches of entries that are evicted at most to make room for one that was refused.
const EVICTIONS_MAX: usize = 256;
/// Samples for the forecast are at least so far apart.
const SAMPLE_MS: u64 = 10_000;
/// A growth that was watched for a shorter time says nothing.
const FORECAST_MS_MIN: u64 = 1000;
/// A ballast that could not be made is tried again after this time.
const BALLAST_PAUSE_MS: u64 = 60_000;

/// How much room is left for new entries, in one word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum SpaceLevel {
    /// There is room for at least four segments.
    #[default]
    Normal,
    /// There is room for less than four; nothing is prepared ahead any more.
    Aggressive,
    /// There is no room for another segment. On a full disk the index is kept in memory.
    Emergency,
}

/// New entries are refused for want of space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Shortage {
    /// The setting that is reached, or `disk`, or `quota`.
    pub what: &'static str,
    /// What another segment would take: of a setting all in all, of the disk in addition.
    pub bytes: u64,
    /// What there may be: of a setting the bound, of the disk what was free, of a quota 0.
    pub bytes_max: u64,
    /// Since when.
    pub since: Timestamp,
}

/// How the store stands with space.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Space {
    /// How much room is left, in one word.
    pub level: SpaceLevel,
    /// Since when the level is so, as far as it was watched.
    pub since: Option<Timestamp>,
    /// Bytes that the data directory takes on the disk, with what is reserved.
    pub used: u64,
    /// The bound over them, if one is set.
    pub limit: Option<u64>,
    /// Bytes that are free on the file system of the data directory.
    pub free: u64,
    /// Bytes that new entries may still take.
    pub room: u64,
    /// The bytes by kind.
    pub bytes: Bytes,
    /// Why new entries are refused, if they are. It ends by itself when there is space.
    pub shortage: Option<Shortage>,
    /// When new entries will be refused, in milliseconds from now, if the store grows on as it did
    /// over the last minutes. `None` while it does not grow.
    pub full_in_ms: Option<u64>,
    /// Files that were dropped from quarantine since the store was opened.
    pub quarantine_dropped: u64,
}

/// What is known of the space of one open store.
#[derive(Debug)]
pub(super) struct Watch {
    pub account: Arc<Account>,
    /// `None` in a store that was opened for reading only.
    pub ballast: Option<Arc<Ballast>>,
    /// The right to make room for entries that were refused; it is held through I/O and guards no
    /// data.
    making_room: Mutex<()>,
    /// Guards what was seen.
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    level: SpaceLevel,
    since_ms: Option<u64>,
    /// The room at times of the monotonic clock, the oldest first.
    samples: VecDeque<(u64, u64)>,
    /// Before this time no ballast is made again.
    ballast_ms: u64,
}

/// What there is right now.
#[derive(Debug, Clone, Copy)]
struct Room {
    /// Below the bound; the largest number without one.
    bound: u64,
    /// On the file system.
    free: u64,
    /// How large a segment is.
    segment: u64,
}

impl Room {
    fn level(self) -> SpaceLevel {
        level(self.bound.min(self.free), self.segment)
    }

    fn disk_is_full(self) -> bool {
        level(self.free, self.segment) == SpaceLevel::Emergency
    }
}

fn level(room: u64, segment: u64) -> SpaceLevel {
    if room < segment {
        SpaceLevel::Emergency
    } else if room < segment.saturating_mul(SEGMENTS_LOW) {
        SpaceLevel::Aggressive
    } else {
        SpaceLevel::Normal
    }
}

/// What is reserved for the active segment behind the end of its file.
fn reserved(segments: &Segments) -> u64 {
    segments.with_active(|active| {
        let len = active.file.file.len().unwrap_or(0);
        active.file.header.capacity.saturating_sub(len)
    })
}

/// When so much room is used up that shrank from another amount in this time.
fn forecast(before: u64, now: u64, elapsed_ms: u64) -> Option<u64> {
    let grown = before.checked_sub(now).filter(|grown| *grown > 0)?;
    let full_in = u128::from(now) * u128::from(elapsed_ms) / u128::from(grown);
    (elapsed_ms >= FORECAST_MS_MIN).then(|| u64::try_from(full_in).unwrap_or(u64::MAX))
}

impl Engine {
    /// How the store stands with space: level, bytes, and when it will be full.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`], [`Error::Io`].
    pub fn space(&self) -> Result<Space> {
        let inner = &*self.inner;
        let bytes = self.bytes()?;
        let (room, account) = (inner.room()?, &inner.watch.account);
        let left = inner.left(room);
        let now = inner.env.monotonic_ms();
        let seen = lock(&inner.watch.seen);
        let full_in_ms = seen
            .samples
            .front()
            .and_then(|(at, before)| forecast(*before, left, now.saturating_sub(*at)));
        let level = room.level();
        let since = seen.since_ms.filter(|_| level == seen.level).map(Timestamp);
        drop(seen);
        Ok(Space {
            level,
            since,
            used: inner.used(&bytes)?,
            limit: account.limit(),
            free: room.free,
            room: left,
            bytes,
            shortage: inner.shortage(room),
            full_in_ms,
            quarantine_dropped: account.quarantine_dropped(),
        })
    }

    /// The bytes that the store takes on the disk, by kind: the lengths of its files.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`], [`Error::Io`].
    pub fn bytes(&self) -> Result<Bytes> {
        self.inner.check_open()?;
        let (env, dir) = (&*self.inner.env, &self.inner.config.dir);
        let log_dir = dir.join(format::LOG_DIR);
        let mut bytes = Bytes { limit: self.inner.config.max_bytes, ..Bytes::default() };
        for (name, len) in log::files(env, &log_dir)? {
            match FileName::parse(&name) {
                FileName::Next(_) | FileName::Rewriting(..) => bytes.prepared += len,
                _ => bytes.log += len,
            }
        }
        let files = log::files(env, dir)?;
        let ballast = files.iter().filter(|(name, _)| name == format::BALLAST_NAME);
        bytes.ballast = ballast.map(|(_, len)| len).sum();
        bytes.index = log::bytes_below(env, &dir.join(format::INDEX_DIR))?;
        bytes.fallback = log::bytes_below(env, &self.inner.config.fallback_dir())?;
        bytes.quarantine = log::bytes_below(env, &dir.join(format::QUARANTINE_DIR))?;
        Ok(bytes)
    }
}

impl Watch {
    /// The watch of a reader: counts what is there, with what the owner reserved.
    pub fn of_reader(env: &dyn Env, config: &Config, segments: &Segments) -> Result<Self> {
        let account = Account::open(env, config)?;
        account.add(Part::Log, reserved(segments));
        let files = log::files(env, &config.dir)?;
        let ballast = files.iter().find(|(name, _)| name == format::BALLAST_NAME);
        account.add(Part::Ballast, ballast.map_or(0, |(_, len)| *len));
        Ok(Self::new(Arc::new(account), None))
    }

    pub fn new(account: Arc<Account>, ballast: Option<Arc<Ballast>>) -> Self {
        Self { account, ballast, making_room: Mutex::default(), seen: Mutex::default() }
    }
}

impl Inner {
    /// What there is right now.
    fn room(&self) -> Result<Room> {
        let dir = &self.config.dir;
        let free = self
            .env
            .free_bytes(dir)
            .map_err(|error| Error::io("ask for free space", dir, error))?;
        let account = &self.watch.account;
        // The next segment may have its space already.
        let prepared = account.bytes(Part::Prepared);
        Ok(Room {
            bound: account.room().map_or(u64::MAX, |room| room.saturating_add(prepared)),
            free: free.saturating_add(prepared),
            segment: self.config.segment_size(),
        })
    }

    /// Room for new entries, in the active segment too.
    fn left(&self, room: Room) -> u64 {
        let active = self
            .segments
            .with_active(|active| active.file.header.capacity.saturating_sub(active.end));
        room.bound.min(room.free).saturating_add(active)
    }

    fn used(&self, bytes: &Bytes) -> Result<u64> {
        if self.watch.account.limit().is_some() {
            return Ok(self.watch.account.used());
        }
        let reserved = reserved(&self.segments);
        let rest = log::measure(&*self.env, &self.config)?;
        let rest = rest.index + rest.quarantine + rest.fallback + rest.other;
        Ok(bytes.log + reserved + bytes.prepared + bytes.ballast + rest)
    }

    /// Why new entries are refused, unless there is space again.
    fn shortage(&self, room: Room) -> Option<Shortage> {
        let shortage = self.watch.account.shortage()?;
        let left = match shortage.what {
            "disk" => room.free,
            // Only the next segment tells.
            "quota" => 0,
            _ => room.bound,
        };
        if left >= room.segment {
            self.watch.account.end_shortage();
            return None;
        }
        Some(Shortage {
            what: shortage.what,
            bytes: shortage.bytes,
            bytes_max: shortage.bytes_max,
            since: Timestamp(shortage.since_ms),
        })
    }

    /// Whether the disk has no room for another segment, so that nothing derived is written.
    pub(super) fn disk_is_full(&self) -> bool {
        self.room().is_ok_and(Room::disk_is_full)
    }

    /// Whether there is room enough to prepare ahead.
    pub(super) fn has_ample_space(&self) -> bool {
        self.room().is_ok_and(|room| room.level() == SpaceLevel::Normal)
    }

    /// Measures, looks at the level, and does what it asks for. Cheap enough for every tick.
    pub(super) fn watch_space(&self) -> Result<()> {
        let account = &self.watch.account;
        if account.limit().is_some() {
            account.measured(log::measure(&*self.env, &self.config)?);
        }
        let room = self.room()?;
        let (left, level) = (self.left(room), room.level());
        let (now, wall_ms) = (self.env.monotonic_ms(), self.env.wall_ms());
        let mut seen = lock(&self.watch.seen);
        if seen.since_ms.is_none() || level != seen.level {
            (seen.level, seen.since_ms) = (level, Some(wall_ms));
        }
        let last = seen.samples.back().map(|(at, _)| *at);
        if last.is_none_or(|last| now >= last + SAMPLE_MS) {
            seen.samples.push_back((now, left));
        }
        if seen.samples.len() > SAMPLES_MAX {
            seen.samples.pop_front();
        }
        drop(seen);
        self.shortage(room);
        if room.disk_is_full() {
            self.give_up_index();
        }
        self.renew_ballast(now)
    }

    /// Makes the ballast if it is not there, once the store is used and there is space for it.
    pub(super) fn renew_ballast(&self, now: u64) -> Result<()> {
        let Some(ballast) = &self.watch.ballast else { return Ok(()) };
        let in_use = self.in_use.load(Ordering::Acquire);
        if !in_use || !ballast.is_short() || now < lock(&self.watch.seen).ballast_ms {
            return Ok(());
        }
        let room = self.room()?;
        if room.free < ballast.wanted().saturating_add(room.segment) {
            return Ok(());
        }
        lock(&self.watch.seen).ballast_ms = now + BALLAST_PAUSE_MS;
        match ballast.make() {
            // At its bound the store has other uses for the space.
            Err(Error::Full { .. }) => return Ok(()),
            other => other?,
        }
        lock(&self.watch.seen).ballast_ms = 0;
        Ok(())
    }

    /// Makes sure that new entries find room below the bound of the directory, or refuses them, before
    /// they have numbers: who does not wait for them could not have them tried again.
    pub(super) fn admit_bytes(&self, drafts: &[Draft]) -> Result<()> {
        let (account, segment) = (&self.watch.account, self.config.segment_size());
        if account.limit().is_none() {
            return Ok(());
        }
        let commit = self.commit()?;
        let waiting = commit.pending_bytes();
        if account.check(segment.saturating_add(2 * waiting), Claim::Growth).is_ok() {
            return Ok(());
        }
        if waiting > 0 {
            // Those on their way may take the last room, so they are written first.
            match commit.flush() {
                Err(error) if log::is_no_space(&error) => {}
                other => other?,
            }
        }
        let Err(refusal) = account.check(segment, Claim::Growth) else { return Ok(()) };
        let has_place = drafts.is_empty() || account.bytes(Part::Prepared) > 0;
        if has_place || self.fits_active(commit, drafts) || self.make_room(&refusal) {
            return Ok(());
        }
        if let Error::Full { what, bytes, bytes_max } = refusal {
            account.note_shortage((what, bytes, bytes_max), self.env.wall_ms());
        }
        Err(refusal)
    }

    /// Whether the active segment has place for entries behind those that wait already, about.
    fn fits_active(&self, commit: &Commit, drafts: &[Draft]) -> bool {
        let waiting = commit.pending_bytes();
        let bytes: u64 = drafts.iter().map(|draft| draft.record_len() + draft.row_len()).sum();
        let place = self.segments.with_active(|active| {
            // A smaller one takes an operator's changes alone.
            let takes = active.file.header.capacity >= self.config.segment_size();
            if takes { active.place(true) } else { 0 }
        });
        waiting + bytes <= place
    }

    /// Makes room for entries that were refused. Answers whether it is worth to try them again.
    pub(super) fn make_room(&self, refusal: &Error) -> bool {
        let Error::Full { what, .. } = refusal else { return false };
        match *what {
            "disk" => return self.disk_is_full() && self.give_up_index(),
            "quota" => return self.give_up_index(),
            _ => {}
        }
        // One makes room, the others find it.
        let _making = lock(&self.watch.making_room);
        if self.has_room() {
            return true;
        }
        let made = self.shrink_quarantine().and_then(|()| self.make_room_in_log());
        made.unwrap_or_else(|error| {
            tracing::warn!(%error, "no room could be made");
            false
        })
    }

    /// Whether another segment fits below the bound.
    fn has_room(&self) -> bool {
        self.room().is_ok_and(|room| room.bound >= room.segment)
    }

    fn shrink_quarantine(&self) -> Result<()> {
        let account = &self.watch.account;
        let held = account.bytes(Part::Quarantine);
        let kept = held.saturating_sub(self.config.segment_size());
        log::drop_oldest(&*self.env, &self.config.dir, account, kept)
    }

    /// Gives dead bytes back at once; where that is not enough, the oldest entries go, if they may.
    fn make_room_in_log(&self) -> Result<bool> {
        for _ in 0..EVICTIONS_MAX {
            while !self.has_room() && self.compact_for_room(Urgency::Low)? {}
            if self.has_room() {
                return Ok(true);
            }
            if !self.evict_for_bytes()? {
                break;
            }
        }
        while !self.has_room() && self.compact_for_room(Urgency::Short)? {}
        Ok(self.has_room())
    }

    /// Where changes have nearly used up their space, gives dead bytes back first. Whether that was
    /// possible shows when they are written.
    pub(super) fn make_room_for_changes(&self) {
        let account = &self.watch.account;
        while account.is_short_for_changes() {
            match self.compact_for_room(Urgency::Short) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(%error, "no room for changes could be made");
                    return;
                }
            }
        }
    }

    /// Evicts a batch of the oldest entries, those that are done first. False when none may go.
    fn evict_for_bytes(&self) -> Result<bool> {
        let bounds = &self.config.bounds;
        let compress = match bounds.overflow_strategy {
            OverflowStrategy::Reject => return Ok(false),
            OverflowStrategy::DropOldest => false,
            OverflowStrategy::CompressOldest => true,
        };
        let count = u64::from(bounds.overflow_evict_batch_size);
        let request = EvictRequest { count, domain: None, terminal: true, compress };
        Ok(self.evict_by(&request)?.evicted > 0)
    }

    /// Near the bound of the directory, gives dead bytes back at once, and where there are none
    /// evicts a batch ahead of need. Answers whether it did something.
    pub(super) fn relieve_bytes(&self) -> Result<bool> {
        if self.watch.account.limit().is_none() {
            return Ok(false);
        }
        let room = self.room()?;
        if level(room.bound, room.segment) == SpaceLevel::Normal {
            return Ok(false);
        }
        let evicts = room.bound < room.segment.saturating_mul(SEGMENTS_LEAST);
        Ok(self.compact_for_room(Urgency::Low)? || (evicts && self.evict_for_bytes()?))
    }

    /// Whether entries are refused for want of space.
    pub(super) fn is_short_of_space(&self) -> bool {
        self.watch.account.shortage().is_some()
    }

    /// Keeps the index in memory from now on and frees its space. True when it had some.
    fn give_up_index(&self) -> bool {
        let Some(catalog) = self.feed.ready() else { return false };
        let mut slot = lock(&self.slot);
        let gave_up = catalog.give_up_index();
        if gave_up {
            // The next open builds it again.
            slot.index_uuid = [0; 16];
            tracing::warn!("the disk is full; the index is kept in memory until the next open");
        }
        gave_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_count_in_segments() {
        for (room, wanted) in [
            (0, SpaceLevel::Emergency),
            (99, SpaceLevel::Emergency),
            (100, SpaceLevel::Aggressive),
            (399, SpaceLevel::Aggressive),
            (400, SpaceLevel::Normal),
            (u64::MAX, SpaceLevel::Normal),
        ] {
            assert_eq!(level(room, 100), wanted, "{room}");
        }
    }

    #[test]
    fn the_forecast_follows_the_growth() {
        assert_eq!(forecast(1000, 500, 10_000), Some(10_000));
        assert_eq!(forecast(1000, 900, 10_000), Some(90_000));
        assert_eq!(forecast(1000, 1000, 10_000), None, "it does not grow");
        assert_eq!(forecast(900, 1000, 10_000), None, "it shrinks");
        assert_eq!(forecast(1000, 500, 999), None, "too short to tell");
        assert_eq!(forecast(1000, 0, 10_000), Some(0));
    }
}
