//! The trusted time of a store: read from both clocks, and logged so that it survives.
//!
//! A jump is written before the next record, in the same order as all records: whatever is in the
//! log was stored on the side of the jump on which the log says it was. All else about the time may
//! be lost, which only makes entries live longer.

use super::{Engine, Inner, lock};
use std::time::Duration;

use crate::clock::{ClockStatus, LOG_DOUBT_MS, Reading, SeenJump, Timeline, TrustedClock};
use crate::config::{Config, Durability};
use crate::entry::Timestamp;
use crate::env::Env;
use crate::error::Result;
use crate::format::{ClockBody, Kind};
use crate::log::{Commit, Control, Draft, Note, Ticket};

/// After a record of the time was refused the next one is tried so much later.
const RETRY_MS: u64 = 60 * 1000;

/// The trusted time, and what the log has of it.
pub(super) struct Clock {
    trusted: TrustedClock,
    /// What the log says, as of the last record that was not refused.
    logged: ClockBody,
    /// A record on its way, and what was logged before.
    sent: Option<(Ticket, ClockBody)>,
    /// A jump is not in the log yet, and must be there before the next record.
    is_urgent: bool,
    /// From the first to the last of these numbers there are only records of the time: so what
    /// comes next comes right behind whatever stands before them.
    quiet: (u64, u64),
    /// Nothing is tried before, by the monotonic clock.
    retry_ms: u64,
}

impl Engine {
    /// The time by which entries expire and are purged, see [`ClockStatus::trusted`].
    pub fn trusted_now(&self) -> Timestamp {
        self.timeline().now()
    }

    /// How old entries are as of now, whatever the wall clock showed when their times were written.
    pub fn timeline(&self) -> Timeline {
        let mut clock = lock(&self.inner.clock);
        self.inner.observe(&mut clock);
        clock.trusted.timeline()
    }

    /// What is known of the time as of now.
    pub fn clock(&self) -> ClockStatus {
        let mut clock = lock(&self.inner.clock);
        self.inner.observe(&mut clock);
        clock.trusted.status()
    }
}

impl Clock {
    /// Goes on from what the log says.
    pub fn resume(env: &dyn Env, config: &Config, logged: &ClockBody, next_lsn: u64) -> Self {
        let (trusted, jump) = TrustedClock::resume(logged, read(env), next_lsn, config.max_jump_s);
        jump.inspect(warn);
        Self {
            is_urgent: trusted.has_news(logged, false),
            trusted,
            logged: logged.clone(),
            sent: None,
            quiet: (next_lsn, next_lsn.saturating_sub(1)),
            retry_ms: 0,
        }
    }

    /// Whether anything but the time was logged since the time was.
    fn has_company(&self, commit: &Commit) -> bool {
        commit.last_lsn() > self.quiet.1
    }

    /// Finds out what became of the record on its way.
    fn settle(&mut self, commit: &Commit, monotonic_ms: u64) {
        let Some((ticket, before)) = &self.sent else { return };
        match commit.poll(*ticket, Durability::Written, None) {
            None => return,
            Some(Ok(())) => {}
            Some(Err(error)) => {
                self.is_urgent |= before.jumps != self.logged.jumps;
                self.logged = before.clone();
                self.fail(&error, monotonic_ms);
            }
        }
        self.sent = None;
    }

    fn fail(&mut self, error: &crate::error::Error, monotonic_ms: u64) {
        tracing::warn!(%error, "what is known of the time could not be logged");
        self.retry_ms = monotonic_ms.saturating_add(RETRY_MS);
    }

    /// Puts a record of the time behind those that were submitted so far; waits for nothing.
    fn send(&mut self, commit: &Commit, wall_ms: u64) -> Result<()> {
        let body = self.trusted.to_body();
        let note = Note::Control(Control::Clock(body.clone()));
        let draft = Draft::new(Kind::Clock, &body, wall_ms, note)?;
        let ticket = commit.submit(vec![draft], Durability::Queued)?;
        if self.quiet.1.saturating_add(1) < ticket.first_lsn {
            self.quiet.0 = ticket.first_lsn;
        }
        self.quiet.1 = ticket.last_lsn;
        self.sent = Some((ticket, std::mem::replace(&mut self.logged, body)));
        self.is_urgent = false;
        Ok(())
    }
}

impl Inner {
    /// Reads the clocks.
    fn observe(&self, clock: &mut Clock) -> Reading {
        let reading = read(&*self.env);
        let (first, last) = clock.quiet;
        // Records of the time do not count; a reader that stores nothing has no others.
        let last_lsn = || self.commit.as_ref().map_or(last, |commit| commit.last_lsn());
        let jump = clock.trusted.observe(reading, || match last_lsn() {
            quiet if quiet == last => first,
            other => other.saturating_add(1),
        });
        clock.is_urgent |= jump.is_some();
        jump.inspect(warn);
        reading
    }

    /// Before records are submitted: if the wall clock jumped, says so first.
    pub(super) fn note_jump(&self) {
        let Some(commit) = &self.commit else { return };
        let mut clock = lock(&self.clock);
        let reading = self.observe(&mut clock);
        clock.settle(commit, reading.monotonic_ms);
        if clock.is_urgent
            && let Err(error) = clock.send(commit, reading.wall_ms)
        {
            clock.fail(&error, reading.monotonic_ms);
        }
    }

    /// Logs what is known of the time if something happened, or if it is time to. A failure is
    /// reported and tried again later; nothing depends on it. Answers with how long it may sleep:
    /// while a jump is in doubt, not longer than its time may stay unwritten.
    pub(super) fn tend_clock(&self, closing: bool) -> Option<Duration> {
        let commit = self.commit.as_ref().filter(|commit| commit.failure().is_none())?;
        let mut clock = lock(&self.clock);
        let reading = self.observe(&mut clock);
        clock.settle(commit, reading.monotonic_ms);
        // While it runs an idle store writes nothing. When it is closed, what was not written would
        // be taken for time without a process, of which not everything is believed.
        let is_welcome =
            clock.has_company(commit) || closing && clock.logged != ClockBody::default();
        let news = clock.trusted.has_news(&clock.logged, closing)
            || clock.trusted.is_stale(&clock.logged) && is_welcome;
        let sleep = clock.trusted.status().pending.map(|_| Duration::from_millis(LOG_DOUBT_MS));
        if !news || (reading.monotonic_ms < clock.retry_ms && !closing) {
            return sleep;
        }
        drop(clock);
        // This may write, so it is done without the lock.
        let in_use = self.mark_in_use();
        let mut clock = lock(&self.clock);
        if let Err(error) = in_use.and_then(|()| clock.send(commit, reading.wall_ms)) {
            clock.fail(&error, reading.monotonic_ms);
        }
        drop(clock);
        self.threads.wake();
        sleep
    }
}

fn read(env: &dyn Env) -> Reading {
    Reading { wall_ms: env.wall_ms(), monotonic_ms: env.monotonic_ms() }
}

fn warn(seen: &SeenJump) {
    let SeenJump { jump, believed } = seen;
    tracing::warn!(from = %jump.from, to = %jump.to, believed, "the wall clock jumped");
}
