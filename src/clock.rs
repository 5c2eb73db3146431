//! The time by which entries age, on a device whose wall clock may be wrong: pure arithmetic.
//!
//! Every time in an entry is what the wall clock showed when it was written. The wall clock may
//! jump: a device without a battery wakes up in 1970 and is corrected later, a person types the
//! wrong year. Nothing may be deleted because of that, and nothing may be kept for ever.
//!
//! # The trusted time
//!
//! It goes on with the monotonic clock and follows the wall clock while both agree: a difference
//! of at most [`JUMP_MIN_MS`] in an hour is drift, and is followed without a word. More is a jump.
//! A jump back is believed at once, and a jump ahead if it leaves the trusted time behind by at
//! most `max_jump`. A longer one is in *doubt*: the trusted time goes on as it was until processes
//! were up for [`BELIEF_MS`] on the other side. That time is logged, so reboots count: a jump that
//! lands where an earlier one did, or up to `max_jump` later, goes on with its time.
//!
//! While no process runs only the wall clock can tell how long that was. Up to `max_jump` ahead of
//! what was logged it is believed, and is no jump.
//!
//! # Times from before a jump
//!
//! Between two jumps all times are of one *timeline*, and two times of one timeline tell how long
//! it was between them. A time of an older timeline becomes one of the present timeline by adding
//! all jumps since then, whether they were in doubt or not, or a correction of an earlier one. So
//! each jump is kept as a [`Shift`] with the sequence number that came next. An entry's expiry was
//! written with the entry, whose number is its id; the shifts above it make the expiry exact: an
//! entry expires when processes were up, or the store was closed in good order, for as long as it
//! should live. What is uncertain always makes it later:
//!
//! - what a clock lost by creeping counts only for entries from before the hour in which it crept;
//! - a jump at opening hides how long the store was closed, which then does not count;
//! - of more than [`EXACT_MAX`] jumps the oldest are kept only as *milestones*: all entries below the
//!   number were there at a time, and live from then on for as long as they should. Of these,
//!   the closest ones are let go first, so that entries are kept too long only by a share of their
//!   age.
//!
//! When an entry came to its end was written by a later change, whose number nobody knows any more.
//! It can be of any timeline since the entry was stored, so it is taken for the latest of all times
//! that it can be and that are not in the future. The true one is among them, so it never looks older
//! than it is.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::Serialize;

use crate::entry::{Entry, EntryId, Filter, Timestamp};
use crate::format::{ClockBody, Jump, PendingJump, Shift};

/// A smaller difference between the two clocks is drift.
pub const JUMP_MIN_MS: i64 = 60 * 1000;
/// Drift is counted anew after so long: the worst quartz loses seconds in that time, not a minute.
const DRIFT_WINDOW_MS: u64 = 60 * 60 * 1000;
/// How long processes must be up behind a jump in doubt until it is believed.
const BELIEF_MS: u64 = 60 * 60 * 1000;
/// While a jump is in doubt its time is logged so often.
pub const LOG_DOUBT_MS: u64 = 10 * 60 * 1000;
/// As [`LOG_DOUBT_MS`], when the store is closed.
const LOG_DOUBT_AT_CLOSE_MS: u64 = 60 * 1000;
/// Without news the time is logged at most so often.
const LOG_MS: u64 = 60 * 60 * 1000;
/// Jumps that are known exactly: a month of daily boots in 1970, with a reserve.
const EXACT_MAX: usize = 64;
/// Jumps that are known at all. Each takes 24 bytes of a record that is written once an hour.
const SHIFTS_MAX: usize = EXACT_MAX + 16;
/// A time that is in the future by less is taken for now: drift may have made it so.
const AHEAD_MS: i64 = 24 * 60 * 60 * 1000;

/// What both clocks show.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    pub wall_ms: u64,
    pub monotonic_ms: u64,
}

/// A jump that was just seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenJump {
    pub jump: Jump,
    /// Whether the trusted time followed it at once.
    pub believed: bool,
}

/// What is known of the time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ClockStatus {
    /// What the wall clock shows.
    pub wall: Timestamp,
    /// The time by which entries age.
    pub trusted: Timestamp,
    /// The wall clock jumped ahead and is not believed yet.
    pub pending: Option<JumpInDoubt>,
    /// Jumps since the store was made.
    pub jumps: u64,
    /// Those of them that this process saw.
    pub jumps_since_open: u64,
    /// The last of them.
    pub last_jump: Option<Jump>,
}

/// A jump of the wall clock that is not believed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct JumpInDoubt {
    /// How far the wall clock is ahead of the trusted time, in milliseconds.
    pub ahead_ms: u64,
    /// It is believed when processes were up for so long without another jump, in milliseconds.
    pub remaining_ms: u64,
}

/// The trusted time and all that is known of jumps.
#[derive(Debug, Clone)]
pub struct TrustedClock {
    max_jump_ms: i64,
    /// What the clocks showed when they were last read.
    wall: i64,
    monotonic: u64,
    /// The trusted time then.
    trusted: i64,
    /// Whether the wall clock is in doubt. If not, the trusted time is what it shows.
    in_doubt: bool,
    /// The other side of a jump that is, or was, in doubt. After a jump back it is kept: the next
    /// one may land there again.
    pending: Option<PendingJump>,
    jumps: u64,
    jumps_at_open: u64,
    last_jump: Option<Jump>,
    /// Sorted by their numbers, which all differ. All times in it are of the present timeline.
    shifts: Arc<Vec<Shift>>,
    drift: Drift,
}

/// How far the clocks went apart without a jump.
#[derive(Debug, Clone, Copy)]
struct Drift {
    /// Since when, by the monotonic clock.
    since: u64,
    /// The number that came next then.
    lsn: u64,
    ms: i64,
}

/// Which entries are how old, as of one moment.
#[derive(Debug, Clone)]
pub struct Timeline {
    now: Timestamp,
    /// How far the wall clock is ahead of the trusted time.
    ahead: i64,
    shifts: Arc<Vec<Shift>>,
}

/// How a time of an entry becomes a trusted one.
enum Origin {
    /// By adding this.
    Shifted(i64),
    /// The entry was there at this trusted time.
    Before(i64),
}

impl TrustedClock {
    /// Goes on from what was logged; from what the wall clock shows if nothing was. `next_lsn` is
    /// the number of the next record.
    pub fn resume(
        logged: &ClockBody,
        reading: Reading,
        next_lsn: u64,
        max_jump_s: u64,
    ) -> (Self, Option<SeenJump>) {
        let wall = signed(reading.wall_ms);
        let is_known = *logged != ClockBody::default();
        let (was, trusted) = (signed(logged.wall.0), signed(logged.trusted.0));
        let mut clock = Self {
            max_jump_ms: signed(max_jump_s.saturating_mul(1000)),
            wall: if is_known { was } else { wall },
            monotonic: reading.monotonic_ms,
            trusted: if is_known { trusted } else { wall },
            in_doubt: logged.pending.is_some() && was > trusted.saturating_add(JUMP_MIN_MS),
            pending: logged.pending,
            jumps: logged.jumps,
            jumps_at_open: logged.jumps,
            last_jump: logged.last_jump,
            shifts: Arc::new(logged.shifts.clone()),
            drift: Drift { since: reading.monotonic_ms, lsn: next_lsn, ms: 0 },
        };
        let jump = clock.reopen(wall, next_lsn);
        (clock, jump)
    }

    /// Takes in what the clocks show; `next_lsn` is asked only if need be. Answers with a jump, if
    /// there is one.
    pub fn observe(
        &mut self,
        reading: Reading,
        next_lsn: impl FnOnce() -> u64,
    ) -> Option<SeenJump> {
        // Somebody else may have brought a later reading.
        let elapsed_ms = reading.monotonic_ms.checked_sub(self.monotonic)?;
        self.monotonic = reading.monotonic_ms;
        self.wall = self.wall.saturating_add(signed(elapsed_ms));
        self.trusted = self.trusted.saturating_add(signed(elapsed_ms));
        if let Some(pending) = self.pending.as_mut().filter(|_| self.in_doubt) {
            pending.uptime_ms = pending.uptime_ms.saturating_add(elapsed_ms);
        }
        let wall = signed(reading.wall_ms);
        let difference = wall.saturating_sub(self.wall);
        let drift_ms = self.drift.ms.saturating_add(difference);
        let is_sudden = difference.abs() > JUMP_MIN_MS;
        let has_crept = drift_ms.abs() > JUMP_MIN_MS;
        let is_over = self.monotonic.saturating_sub(self.drift.since) >= DRIFT_WINDOW_MS;
        let mut jump = None;
        if is_sudden || has_crept || is_over {
            let lsn = next_lsn();
            if is_sudden {
                // What it lost before by creeping does not count: so entries only expire later.
                self.shift(lsn, self.drift.ms.max(0), self.wall);
                jump = Some(self.jump(wall, lsn));
            } else if has_crept {
                jump = Some(self.creep(wall, drift_ms, lsn));
            } else {
                self.follow(wall);
            }
            self.drift = Drift { since: self.monotonic, lsn, ms: 0 };
        } else {
            self.follow(wall);
            self.drift.ms = drift_ms;
        }
        self.settle_doubt();
        jump
    }

    /// What is known, to be logged.
    pub fn to_body(&self) -> ClockBody {
        ClockBody {
            wall: timestamp(self.wall),
            trusted: timestamp(self.trusted),
            pending: self.pending.map(|pending| self.as_seen(pending)),
            jumps: self.jumps,
            last_jump: self.last_jump,
            shifts: self.shifts.to_vec(),
        }
    }

    /// What is known, to be shown.
    pub fn status(&self) -> ClockStatus {
        let pending = self.pending.filter(|_| self.in_doubt).map(|pending| JumpInDoubt {
            ahead_ms: unsigned(self.wall.saturating_sub(self.trusted)),
            remaining_ms: BELIEF_MS.saturating_sub(pending.uptime_ms),
        });
        ClockStatus {
            wall: timestamp(self.wall),
            trusted: timestamp(self.trusted),
            pending,
            jumps: self.jumps,
            jumps_since_open: self.jumps - self.jumps_at_open,
            last_jump: self.last_jump,
        }
    }

    /// How old entries are as of the last reading.
    pub fn timeline(&self) -> Timeline {
        Timeline {
            now: timestamp(self.trusted),
            ahead: if self.in_doubt { self.wall.saturating_sub(self.trusted) } else { 0 },
            shifts: Arc::clone(&self.shifts),
        }
    }

    /// Whether something must be logged even if nothing else is.
    pub fn has_news(&self, logged: &ClockBody, closing: bool) -> bool {
        let every_ms = if closing { LOG_DOUBT_AT_CLOSE_MS } else { LOG_DOUBT_MS };
        let due = |uptime_ms: u64| self.in_doubt && uptime_ms >= every_ms;
        let doubt_goes_on = match (&self.pending, &logged.pending) {
            (Some(pending), Some(known)) => due(pending.uptime_ms.saturating_sub(known.uptime_ms)),
            (pending, known) => pending.is_some() != known.is_some(),
        };
        // The next process would take a clock that drifted back for one that went back later.
        let went_back = self.wall < signed(logged.wall.0);
        doubt_goes_on || went_back || self.jumps != logged.jumps || *self.shifts != logged.shifts
    }

    /// Whether what was logged is so old that it is time to log again, if anything is.
    pub fn is_stale(&self, logged: &ClockBody) -> bool {
        self.trusted.saturating_sub(signed(logged.trusted.0)) >= signed(LOG_MS)
    }

    /// Takes in how long nobody looked, when only the wall clock knows.
    fn reopen(&mut self, wall: i64, lsn: u64) -> Option<SeenJump> {
        let passed = wall.saturating_sub(self.wall);
        if (-JUMP_MIN_MS..=self.max_jump_ms).contains(&passed) {
            // Time does not go back: it is no jump, and yet another timeline.
            self.shift(lsn, passed.min(0), wall);
            self.follow(wall);
            return None;
        }
        // How long it was closed cannot be told from how far the clock jumped.
        Some(self.jump(wall, lsn))
    }

    /// The wall clock shows something else than it should.
    fn jump(&mut self, wall: i64, lsn: u64) -> SeenJump {
        let from = self.wall;
        self.shift(lsn, wall.saturating_sub(from), wall);
        let believed = wall.saturating_sub(self.trusted) <= self.max_jump_ms;
        if believed {
            self.believe(wall);
        } else {
            let goes_on = |pending: &PendingJump| {
                let later = wall.saturating_sub(signed(pending.wall.0));
                (-JUMP_MIN_MS..=self.max_jump_ms).contains(&later)
            };
            let known = self.pending.map(|pending| self.as_seen(pending)).filter(goes_on);
            let uptime_ms = known.map_or(0, |pending| pending.uptime_ms);
            self.pending = Some(PendingJump { wall: timestamp(wall), uptime_ms });
            self.in_doubt = true;
            self.wall = wall;
        }
        self.count(from, wall, believed)
    }

    /// The wall clock went apart little by little, by so much in all.
    fn creep(&mut self, wall: i64, drift_ms: i64, lsn: u64) -> SeenJump {
        // What was written meanwhile lost less than all of it, or gained less.
        self.shift(if drift_ms < 0 { self.drift.lsn } else { lsn }, drift_ms, wall);
        self.follow(wall);
        self.count(wall.saturating_sub(drift_ms), wall, !self.in_doubt)
    }

    /// Follows a wall clock that did not jump; one that is in doubt stays as far ahead.
    fn follow(&mut self, wall: i64) {
        self.trusted = self.trusted.saturating_add(wall.saturating_sub(self.wall));
        self.wall = wall;
    }

    /// The trusted time is what the wall clock shows from now on.
    fn believe(&mut self, wall: i64) {
        self.pending = self.pending.map(|pending| self.as_seen(pending));
        self.in_doubt = false;
        (self.wall, self.trusted) = (wall, wall);
    }

    /// Believes a jump that was in doubt for long enough.
    fn settle_doubt(&mut self) {
        let is_long = self.pending.is_some_and(|pending| pending.uptime_ms >= BELIEF_MS);
        if self.in_doubt && is_long {
            self.believe(self.wall);
            self.pending = None;
        }
    }

    /// The other side of the jump in doubt, as of the last reading if that was there.
    fn as_seen(&self, pending: PendingJump) -> PendingJump {
        let wall = if self.in_doubt { timestamp(self.wall) } else { pending.wall };
        PendingJump { wall, ..pending }
    }

    fn count(&mut self, from: i64, to: i64, believed: bool) -> SeenJump {
        let jump = Jump { from: timestamp(from), to: timestamp(to) };
        self.jumps = self.jumps.saturating_add(1);
        self.last_jump = Some(jump);
        SeenJump { jump, believed }
    }

    /// Times of records below a number are of another timeline from now on, in which it is `wall`.
    fn shift(&mut self, lsn: u64, ms: i64, wall: i64) {
        if ms == 0 {
            return;
        }
        let at = timestamp(wall);
        let shifts = Arc::make_mut(&mut self.shifts);
        for shift in shifts.iter_mut() {
            shift.at = timestamp(signed(shift.at.0).saturating_add(ms));
        }
        match shifts.last_mut() {
            // Nothing was written since the last one.
            Some(last) if last.lsn >= lsn => {
                (last.ms, last.at) = (last.ms.saturating_add(ms), at.max(last.at));
            }
            _ => shifts.push(Shift { lsn, ms, at }),
        }
        if shifts.len() <= EXACT_MAX {
            shifts.pop_if(|last| last.ms == 0);
        }
        thin_out(shifts);
    }
}

/// Lets go of the milestone that is missed least. The newest one says where exactness begins.
fn thin_out(shifts: &mut Vec<Shift>) {
    if shifts.len() <= SHIFTS_MAX {
        return;
    }
    let stones = shifts.iter().zip(shifts.iter().skip(1)).take(SHIFTS_MAX - EXACT_MAX);
    let gaps = stones.map(|(stone, next)| next.at.0.saturating_sub(stone.at.0));
    if let Some((index, _)) = gaps.enumerate().min_by_key(|(_, gap)| *gap) {
        shifts.remove(index);
    }
}

impl Timeline {
    /// Of a clock that is simply believed.
    pub fn plain(now: Timestamp) -> Self {
        Self { now, ahead: 0, shifts: Arc::default() }
    }

    /// Whether there was no jump that any entry may be from before of.
    pub fn is_plain(&self) -> bool {
        self.shifts.is_empty()
    }

    /// The trusted time.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// When an entry expires, as a trusted time; `None` if it never does.
    pub fn expires_at(&self, entry: &Entry) -> Option<Timestamp> {
        let expires_at = entry.operation.expires_at?;
        Some(match self.origin(entry.operation.id) {
            Origin::Shifted(ms) => timestamp(signed(expires_at.0).saturating_add(ms)),
            Origin::Before(at) => {
                let life_ms = expires_at.0.saturating_sub(entry.operation.created_at.0);
                timestamp(at.saturating_add(signed(life_ms)))
            }
        })
    }

    /// Whether an entry's time ran out.
    pub fn has_expired(&self, entry: &Entry) -> bool {
        self.expires_at(entry).is_some_and(|expires_at| expires_at < self.now)
    }

    /// Since when an entry stands at its end, as a trusted time, or later; `None` if it does not.
    pub fn age_from(&self, entry: &Entry) -> Option<Timestamp> {
        Some(self.latest(entry.age_from()?, entry.operation.id))
    }

    /// A time that was written when there were at least the entries up to an id, as a trusted time,
    /// or later.
    pub fn latest(&self, written: Timestamp, id: EntryId) -> Timestamp {
        if !self.is_shifted(id) {
            return written;
        }
        let now = signed(self.now.0);
        let possible = self.sums(id).map(|ms| signed(written.0).saturating_add(ms));
        let latest = possible.filter(|at| *at <= now.saturating_add(AHEAD_MS)).max();
        // Where all that is known exactly would put it into the future, it is from before that.
        let milestone = self.milestone(id);
        // A time that can only be in the future is no age at all.
        let from = latest.max(milestone).unwrap_or(now);
        timestamp(from.min(now))
    }

    /// Where a filter for old entries does not tell: the entries below this id, for which this
    /// filter is the widest that may hold. `None` where all times of the index are true.
    pub fn widened(&self, filter: &Filter) -> Option<(Filter, EntryId)> {
        let newest = self.shifts.last()?;
        let least = self.sums(EntryId(0)).min().unwrap_or(0).min(0);
        let has_milestones = self.shifts.len() > EXACT_MAX;
        if least == 0 && !has_milestones {
            return None;
        }
        // What is not known exactly may have any time.
        let widen = |before: Timestamp| {
            let known = timestamp(signed(before.0).saturating_sub(least));
            if has_milestones { Timestamp::MAX } else { known }
        };
        let mut wide = filter.clone();
        wide.expires_before = filter.expires_before.map(widen);
        wide.aged_before = filter.aged_before.map(widen);
        Some((wide, EntryId(newest.lsn)))
    }

    /// Whether an entry is from before a jump that is known.
    pub fn is_shifted(&self, id: EntryId) -> bool {
        self.shifts.last().is_some_and(|newest| id.0 < newest.lsn)
    }

    /// How far times of this entry may have to be moved: from those of the newest timeline on to
    /// those of the one in which it was stored.
    fn sums(&self, id: EntryId) -> impl Iterator<Item = i64> {
        let exact = self.shifts.iter().rev().take(EXACT_MAX).take_while(move |at| id.0 < at.lsn);
        let mut sum = self.ahead.saturating_neg();
        std::iter::once(sum).chain(exact.map(move |shift| {
            sum = sum.saturating_add(shift.ms);
            sum
        }))
    }

    /// If an entry is older than what is known exactly: a trusted time at which all of that had
    /// not begun.
    fn milestone(&self, id: EntryId) -> Option<i64> {
        let newest = self.shifts.iter().rev().nth(EXACT_MAX)?;
        (id.0 < newest.lsn).then(|| signed(newest.at.0).saturating_sub(self.ahead))
    }

    fn origin(&self, id: EntryId) -> Origin {
        if !self.is_shifted(id) {
            return Origin::Shifted(0);
        }
        let first = self.shifts.iter().find(|shift| id.0 < shift.lsn);
        match (self.milestone(id), first) {
            (Some(_), Some(stone)) => Origin::Before(signed(stone.at.0).saturating_sub(self.ahead)),
            _ => Origin::Shifted(self.sums(id).last().unwrap_or(0)),
        }
    }
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// A time before 1970 is taken for its beginning, which is later.
fn unsigned(ms: i64) -> u64 {
    u64::try_from(ms).unwrap_or(0)
}

fn timestamp(ms: i64) -> Timestamp {
    Timestamp(unsigned(ms))
}
