//! How a state moves: lease, start, completion, release, expiry, archive. Pure; the repositories
//! decide when, and write the result as one record.
//!
//! Invariants: an entry at its cap is never left pending; the number of attempts never restarts;
//! the original error of an entry is never touched.

use super::{Action, Attempt, Cause, Entry, FailedOperation, Lease, State, Status, Timestamp};

/// What a handler made of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Completion {
    /// It is done.
    Success {
        /// What the handler said, or empty.
        note: String,
        /// How it was resolved; empty means `auto_replay`.
        resolution_type: String,
    },
    /// It failed.
    Failure {
        /// What the handler said.
        note: String,
        /// Before when the entry is not to be tried again.
        not_before: Option<Timestamp>,
    },
    /// It was told to come back later; the attempt is not charged.
    Throttled {
        /// What the handler said, or empty.
        note: String,
        /// Before when the entry is not to be tried again.
        not_before: Option<Timestamp>,
    },
}

/// How an attempt came about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReplayType {
    /// For this one entry.
    #[default]
    Single,
    /// In a batch.
    Batch,
    /// Because a service came back.
    Conditional,
}

/// Who does something to an entry, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Act {
    /// Who.
    pub actor: String,
    /// Why, or empty.
    pub reason: String,
    /// A link to the ticket, or empty.
    pub ticket: String,
}

/// The resolution of an entry that a handler delivered.
pub const AUTO_REPLAY: &str = "auto_replay";
/// The resolution of an entry that nobody wanted any more.
pub const DUPLICATE_SKIP: &str = "duplicate_skip";

/// The longest delay that follows an attempt: the longest wish, spread by a fifth.
pub(crate) const DELAY_MS_MAX: u64 = WISH_MS_MAX / 5 * 6;
/// The longest delay that an entry or the other side may ask for. A wish beyond it is most likely
/// a slip of a clock, and must not put the entry away for good.
pub(crate) const WISH_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// The outcome of an attempt that has none yet.
const STARTED: &str = "started";
/// The outcome of an attempt that was cut off.
const INTERRUPTED: &str = "interrupted";

impl Status {
    /// Whether nothing is left to do but to keep it for the record.
    pub const fn is_terminal(self) -> bool {
        matches!(
            self,
            Self::Resolved
                | Self::Rejected
                | Self::Archived
                | Self::Expired
                | Self::PermanentlyFailed
        )
    }
}

impl ReplayType {
    /// The cause of a start.
    pub(crate) const fn started(self) -> Cause {
        match self {
            Self::Single => Cause::StartedSingle,
            Self::Batch => Cause::StartedBatch,
            Self::Conditional => Cause::StartedConditional,
        }
    }

    /// The name used in text and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Batch => "batch",
            Self::Conditional => "conditional",
        }
    }
}

impl FailedOperation {
    /// Whether it waits to be replayed.
    pub fn is_pending(&self) -> bool {
        self.status == Status::Pending
    }

    /// Whether it is done.
    pub fn is_resolved(&self) -> bool {
        self.status == Status::Resolved
    }

    /// Whether another attempt may be charged.
    pub fn can_retry(&self) -> bool {
        self.retry_count < self.max_retries
    }

    /// Whether its time ran out before this one.
    pub(crate) fn expires_before(&self, time: Timestamp) -> bool {
        self.expires_at.is_some_and(|expires_at| expires_at < time)
    }
}

impl Entry {
    /// As [`State::is_due`].
    pub(crate) fn is_due(&self, at: Timestamp) -> bool {
        is_due(self.not_before, self.operation.updated_at, at)
    }

    /// As [`State::is_started`].
    pub(crate) fn is_started(&self) -> bool {
        is_last(&self.attempts, STARTED)
    }

    /// As [`State::is_suspect`].
    pub(crate) fn is_suspect(&self) -> bool {
        is_last(&self.attempts, INTERRUPTED)
    }
}

/// Whether nothing holds an entry back at a time, given when its state was written. A delay that
/// is longer than any handler may ask for, of a state that is of the future, was meant by a wall
/// clock that went back since.
pub(super) fn is_due(not_before: Option<Timestamp>, updated_at: Timestamp, at: Timestamp) -> bool {
    let Some(due) = not_before else { return true };
    due <= at || (due.0 - at.0 > DELAY_MS_MAX && updated_at > at)
}

impl State {
    /// Whether nothing holds the entry back at this time.
    pub(crate) fn is_due(&self, at: Timestamp) -> bool {
        is_due(self.not_before, self.updated_at, at)
    }

    /// Whether another attempt may be charged.
    pub fn can_retry(&self) -> bool {
        self.retry_count < self.max_retries
    }

    /// How many attempts there were, those that were not charged and those before a redrive
    /// included.
    pub fn attempts_total(&self) -> u32 {
        let kept = u32::try_from(self.attempts.len()).unwrap_or(u32::MAX);
        self.attempts_older.saturating_add(kept)
    }

    /// Whether an attempt began and has not ended.
    pub fn is_started(&self) -> bool {
        is_last(&self.attempts, STARTED)
    }

    /// Whether the last attempt was cut off, so that it may have ended its process.
    pub fn is_suspect(&self) -> bool {
        is_last(&self.attempts, INTERRUPTED)
    }

    /// Puts a pending entry without attempts left into review.
    pub(crate) fn park_at_cap(&mut self) {
        if self.status == Status::Pending && !self.can_retry() {
            self.status = Status::RequiresReview;
        }
    }

    /// Outside of a replay nobody holds a lease, and no attempt is under way. An attempt that was
    /// is on record as cut off; else the next one could not begin.
    pub(crate) fn leave_replay(&mut self) {
        if self.status == Status::Replaying {
            return;
        }
        self.lease = None;
        if self.is_started() {
            self.end_attempt(INTERRUPTED, "the entry was taken from its handler");
        }
    }

    /// What follows from a change of status, whoever made it. Every change ends with this.
    pub(crate) fn settle(&mut self, before: Status, now: Timestamp) {
        self.park_at_cap();
        self.leave_replay();
        self.updated_at = now;
        if self.status == before {
            return;
        }
        match self.status {
            Status::Resolved => {
                self.resolved_at = Some(now);
                self.terminal_at = Some(now);
                self.archived_at = None;
            }
            Status::Rejected | Status::Expired | Status::PermanentlyFailed => {
                self.resolved_at = None;
                self.terminal_at = Some(now);
                self.archived_at = None;
            }
            Status::Archived => self.archived_at = Some(now),
            _ => {
                self.resolved_at = None;
                self.terminal_at = None;
                self.archived_at = None;
            }
        }
    }

    /// Leases the entry; no attempt is charged.
    pub(crate) fn lease(&mut self, lease: Lease) {
        self.status = Status::Replaying;
        self.lease = Some(lease);
    }

    /// Begins an attempt of a leased entry and charges it.
    pub(crate) fn start(&mut self, now: Timestamp) {
        self.retry_count = self.retry_count.saturating_add(1);
        self.last_retry_at = Some(now);
        self.not_before = None;
        let number = self.attempts_total().saturating_add(1);
        let (outcome, note) = (STARTED.to_owned(), String::new());
        self.push_attempt(Attempt { number, at: now, outcome, note });
    }

    /// Grants a fresh budget, and keeps the scar.
    pub(crate) fn redrive(&mut self) {
        self.previous_total_retries = self.previous_total_retries.saturating_add(self.retry_count);
        self.force_redrive_count = self.force_redrive_count.saturating_add(1);
        self.retry_count = 0;
    }

    /// Ends an attempt; answers with the cause to write.
    pub(crate) fn complete(&mut self, completion: &Completion) -> Cause {
        match completion {
            Completion::Success { note, resolution_type } => {
                self.end_attempt("success", note);
                self.status = Status::Resolved;
                let given = !resolution_type.is_empty();
                let resolution = if given { resolution_type } else { AUTO_REPLAY };
                self.resolution_type = resolution.to_owned();
                keep_unless_empty(&mut self.resolution_note, note);
                Cause::Succeeded
            }
            Completion::Failure { note, not_before } => {
                self.end_attempt("failure", note);
                keep_unless_empty(&mut self.resolution_note, note);
                if self.can_retry() {
                    self.status = Status::Pending;
                    self.not_before = *not_before;
                    return Cause::Failed;
                }
                self.status = Status::RequiresReview;
                let redriven = self.force_redrive_count > 0;
                if redriven { Cause::RedriveExhausted } else { Cause::Exhausted }
            }
            Completion::Throttled { note, not_before } => {
                self.end_attempt("throttled", note);
                self.retry_count = self.retry_count.saturating_sub(1);
                self.status = Status::Pending;
                self.not_before = *not_before;
                Cause::Throttled
            }
        }
    }

    /// Ends a lease whose holder is gone. A started attempt stays charged, and an entry at its
    /// cap goes to a person; but if others had started too, nobody knows who ended the process,
    /// so the last attempt is given back and runs alone.
    pub(crate) fn release(&mut self, alone: bool) -> Cause {
        self.status = Status::Pending;
        if !self.is_started() {
            return Cause::Released;
        }
        self.end_attempt(INTERRUPTED, "the process or its lease ended");
        if self.can_retry() {
            return Cause::Interrupted;
        }
        if alone {
            self.status = Status::RequiresReview;
            return Cause::InterruptedExhausted;
        }
        self.retry_count = self.retry_count.saturating_sub(1);
        Cause::Interrupted
    }

    /// Resolves the entry without a run.
    pub(crate) fn resolve_unwanted(&mut self) -> Cause {
        self.status = Status::Resolved;
        DUPLICATE_SKIP.clone_into(&mut self.resolution_type);
        Cause::Unwanted
    }

    /// Expires the entry.
    pub(crate) fn expire(&mut self) -> Cause {
        self.status = Status::Expired;
        "expired".clone_into(&mut self.resolution_type);
        Cause::Expired
    }

    /// Archives the entry.
    pub(crate) fn archive(&mut self) -> Cause {
        self.status = Status::Archived;
        Cause::Archived
    }

    /// Writes an operator's act down.
    pub(crate) fn record(&mut self, act: &Act, action: &str, from: Status, now: Timestamp) {
        let to = self.status;
        self.push_action(Action {
            at: now,
            actor: act.actor.clone(),
            action: action.to_owned(),
            reason: act.reason.clone(),
            ticket: act.ticket.clone(),
            from,
            to,
        });
    }

    fn end_attempt(&mut self, outcome: &str, note: &str) {
        if let Some(attempt) = self.attempts.last_mut() {
            outcome.clone_into(&mut attempt.outcome);
            note.clone_into(&mut attempt.note);
        }
    }
}

/// Replaces a text, unless the new one is empty.
pub(crate) fn keep_unless_empty(text: &mut String, new: &str) {
    if !new.is_empty() {
        new.clone_into(text);
    }
}

fn is_last(attempts: &[Attempt], outcome: &str) -> bool {
    attempts.last().is_some_and(|attempt| attempt.outcome == outcome)
}
