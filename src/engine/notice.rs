//! What committed changes may make due later, told to whoever plans the work that nobody asks for.
//!
//! A notice says the least that a planner needs, so that a store in which nothing becomes due
//! wakes nobody.

use std::sync::{Mutex, PoisonError, Weak};

use crate::entry::{Entry, Status, Timestamp};
use crate::format::TIME_NONE;
use crate::log::{Committed, Control, Row};

/// What some changes may make due; of each time the earliest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Notice {
    /// When they happened, by the monotonic clock of the repository.
    pub at_ms: u64,
    /// An entry was stored.
    pub is_stored: bool,
    /// An entry changed or was removed, so that older bytes are dead.
    pub is_changed: bool,
    /// A summary of evicted entries was written.
    pub is_summarized: bool,
    /// An entry was leased.
    pub is_leased: bool,
    /// When a pending entry expires.
    pub expires_at: Option<Timestamp>,
    /// Since when an entry is resolved.
    pub resolved_at: Option<Timestamp>,
    /// Since when an entry is rejected, expired or permanently failed.
    pub ended_at: Option<Timestamp>,
    /// Since when an entry is archived.
    pub archived_at: Option<Timestamp>,
}

/// Who plans by notices.
pub trait NoticeTaker: Send + Sync {
    /// Hears of changes that are committed, in the thread that committed them, while others wait
    /// for it: it must be quick, and must not call the repository.
    fn take_notice(&self, notice: &Notice);
}

/// Those who hear of changes. They stay as long as somebody else keeps them.
#[derive(Default)]
pub(crate) struct NoticeTakers {
    /// Guards the list; never held while one of them hears.
    list: Mutex<Vec<Weak<dyn NoticeTaker>>>,
}

impl Notice {
    /// Whether there is nothing in it that makes anything due.
    pub(crate) fn is_empty(&self) -> bool {
        !self.is_stored && !self.is_changed && !self.is_summarized
    }

    /// What these records make due.
    pub(super) fn of(records: &[Committed]) -> Self {
        let mut notice = Self::default();
        for Committed { row, .. } in records {
            match row {
                Row::Entry { row, .. } => {
                    notice.is_stored = true;
                    let (earliest_ms, _) = row.when.bounds(row.created_ms);
                    notice.stands(row.status, row.expires_ms, earliest_ms);
                }
                Row::Change { row, .. } => {
                    notice.is_changed = true;
                    if let Some(status) = row.status {
                        notice.stands(status, row.expires_ms, row.when_ms);
                    }
                }
                Row::Control(Control::Summary(_)) => notice.is_summarized = true,
                Row::Control(_) | Row::None => {}
            }
        }
        notice
    }

    /// Takes in where an entry stands now.
    pub(crate) fn add(&mut self, entry: &Entry) {
        let age_ms = entry.age_from().map_or(TIME_NONE, |from| from.0);
        let expires_ms = entry.operation.expires_at.map_or(TIME_NONE, |at| at.0);
        self.stands(entry.operation.status, expires_ms, age_ms);
    }

    fn stands(&mut self, status: Status, expires_ms: u64, age_ms: u64) {
        let (time, ms) = match status {
            Status::Pending if expires_ms == TIME_NONE => return,
            Status::Pending => (&mut self.expires_at, expires_ms),
            Status::Resolved => (&mut self.resolved_at, age_ms),
            Status::Archived => (&mut self.archived_at, age_ms),
            Status::Rejected | Status::Expired | Status::PermanentlyFailed => {
                (&mut self.ended_at, age_ms)
            }
            Status::Replaying => {
                self.is_leased = true;
                return;
            }
            Status::Reviewing | Status::Replayed | Status::RequiresReview => return,
        };
        // An age that the row does not tell may have begun at any time.
        let at = Timestamp(if ms == TIME_NONE { 0 } else { ms });
        *time = Some(time.map_or(at, |known| known.min(at)));
    }
}

impl NoticeTakers {
    /// Adds one, and forgets those that are gone.
    pub fn add(&self, taker: Weak<dyn NoticeTaker>) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|known| known.strong_count() > 0);
        list.push(taker);
    }

    /// Tells all of them of what `notice` says, if anybody hears and there is something to say.
    pub fn tell(&self, notice: impl FnOnce() -> Notice) {
        let takers = self.list.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if takers.iter().all(|taker| taker.strong_count() == 0) {
            return;
        }
        let notice = notice();
        if notice.is_empty() {
            return;
        }
        for taker in takers.iter().filter_map(Weak::upgrade) {
            taker.take_notice(&notice);
        }
    }
}

impl std::fmt::Debug for NoticeTakers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NoticeTakers").finish_non_exhaustive()
    }
}
