//! Replaying one entry because a person says so: retry, and redrive past the cap.

use std::sync::Arc;

use serde::Serialize;

use super::replay::{Admission, Ending, run};
use super::{DlqConfig, DlqEvent, DlqService};
use crate::entry::{Act, Entry, EntryId, Status};
use crate::error::{DlqError, DlqResult, Error};
use crate::replay::ReplayHandler;
use crate::repository::{FailedOperationRepository, Leased};

/// The most characters of a reason, and of a link to a ticket.
const REASON_CHARS_MAX: usize = 500;

/// What a retry or a redrive did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RetryResult {
    /// Whether the operation is done: its handler succeeded, or nobody wants it any more.
    pub success: bool,
    /// The entry.
    pub id: EntryId,
    /// Attempts charged by now.
    pub retry_count: u32,
    /// Attempts charged before.
    pub previous_retry_count: u32,
    /// Where the entry stands now.
    pub status: Status,
    /// What happened, for people.
    pub message: String,
}

impl DlqService {
    /// Runs the handler of one pending entry now, whether it is due or not. The attempt is
    /// charged, and what became of it is on record when this returns; so is `act`, if a person
    /// is behind it.
    ///
    /// # Errors
    ///
    /// - [`DlqError::NotFound`] when there is no such entry.
    /// - [`DlqError::StateConflict`], and nothing is spent, when it is not pending, its attempts
    ///   are used up, its domain has no handler, its request was cut, its handler does not want
    ///   it now, or somebody else was faster.
    /// - [`DlqError::Replay`] when the handler panicked, or when its lease ended before it did;
    ///   the attempt is spent.
    /// - [`DlqError::Engine`] when the service is disabled or the repository refused.
    pub fn retry_entry(&self, id: EntryId, act: Option<&Act>) -> DlqResult<RetryResult> {
        self.replay_for_person(id, act, false)
    }

    /// As [`retry_entry`](Self::retry_entry), also for an entry that waits for a person, whatever
    /// its cap: it gets a fresh budget, and keeps count of the attempts before. The reason and
    /// the link to a ticket may be empty and have at most 500 characters. The listeners hear of
    /// it before the handler runs.
    ///
    /// # Errors
    ///
    /// As [`retry_entry`](Self::retry_entry), without the cap; [`DlqError::Engine`] with
    /// [`Error::Invalid`] when a text is too long.
    pub fn force_redrive_entry(
        &self,
        id: EntryId,
        actor_id: &str,
        reason: &str,
        ticket_url: &str,
    ) -> DlqResult<RetryResult> {
        for (what, text) in [("reason", reason), ("ticket_url", ticket_url)] {
            let count = text.chars().count();
            if count > REASON_CHARS_MAX {
                let bound = format!("at most {REASON_CHARS_MAX}");
                let what = format!("the number of characters of {what}");
                return Err(Error::invalid(what, count, bound).into());
            }
        }
        let (actor, reason) = (actor_id.to_owned(), reason.to_owned());
        let act = Act { actor, reason, ticket: ticket_url.to_owned() };
        self.replay_for_person(id, Some(&act), true)
    }

    fn replay_for_person(
        &self,
        id: EntryId,
        act: Option<&Act>,
        force: bool,
    ) -> DlqResult<RetryResult> {
        let config = self.config();
        if !config.enabled {
            return Err(disabled());
        }
        let repository = self.repository()?;
        let repository = &*repository;
        self.release_ended(repository)?;
        let entry = self.entry_of(repository, id)?;
        if let Err(refusal) = check(&entry, force) {
            let waits = matches!(entry.operation.status, Status::Pending | Status::RequiresReview);
            if waits && !entry.operation.can_retry() {
                self.blocked(repository, &entry, "max_replay_attempts_exceeded");
            }
            return Err(refusal);
        }
        let _turn = self.kept().turn_of_person();
        let previous_retry_count = entry.operation.retry_count;
        let handler = match self.admit(repository, &config, &entry) {
            Admission::Run(handler) => handler,
            Admission::Unwanted => {
                let resolved = self.resolve_unwanted(repository, id, entry.operation.status)?;
                let Some(entry) = resolved else { return Err(self.lost_race(repository, id)) };
                let message = "nobody wants it any more; resolved without a run".to_owned();
                return Ok(RetryResult::of(true, &entry, previous_retry_count, message));
            }
            Admission::Refused(refusal) => return Err(conflict(&entry, refusal.reason)),
        };
        let acquired = repository.try_acquire_for_replay(id, config.lease(), force, act)?;
        let Some((leased, entry)) = acquired else { return Err(self.lost_race(repository, id)) };
        if let Some(act) = act.filter(|_| force) {
            self.tell_redrive(repository, &entry, act);
        }
        self.run_for_person(repository, &config, &handler, &entry, (leased, previous_retry_count))
    }

    fn run_for_person(
        &self,
        repository: &dyn FailedOperationRepository,
        config: &DlqConfig,
        handler: &Arc<dyn ReplayHandler>,
        entry: &Entry,
        (leased, previous_retry_count): (Leased, u32),
    ) -> DlqResult<RetryResult> {
        let ended = run(repository, config, &**handler, entry, leased, None);
        let entry = self.put_on_record(repository, &ended).map_err(|error| match error {
            Error::LeaseLost { id } => {
                let reason = Error::LeaseLost { id: id.clone() }.to_string();
                DlqError::Replay { id, reason }
            }
            error => error.into(),
        })?;
        let note = ended.note();
        let with_note = |text: &str| match note {
            "" => text.to_owned(),
            note => format!("{text}: {note}"),
        };
        let (success, message) = match ended.ending {
            Ending::Panic => {
                let (id, reason) = (leased.id.to_string(), note.to_owned());
                return Err(DlqError::Replay { id, reason });
            }
            Ending::Success => (true, with_note("the handler succeeded")),
            Ending::Failure => (false, with_note("the handler failed")),
            Ending::Throttled(_) => (false, with_note("the handler was told to come back later")),
        };
        Ok(RetryResult::of(success, &entry, previous_retry_count, message))
    }

    fn entry_of(
        &self,
        repository: &dyn FailedOperationRepository,
        id: EntryId,
    ) -> DlqResult<Entry> {
        repository.get_by_id(id)?.ok_or_else(|| DlqError::NotFound { id: id.to_string() })
    }

    /// Why an entry could not be taken that looked as if it could.
    fn lost_race(&self, repository: &dyn FailedOperationRepository, id: EntryId) -> DlqError {
        match self.entry_of(repository, id) {
            Ok(entry) => conflict(&entry, "somebody else was faster"),
            Err(error) => error,
        }
    }

    fn tell_redrive(&self, repository: &dyn FailedOperationRepository, entry: &Entry, act: &Act) {
        let event = DlqEvent::DlqForceRedrive {
            dlq_id: entry.operation.id,
            domain: entry.operation.domain.clone(),
            actor_id: act.actor.clone(),
            reason: act.reason.clone(),
            ticket_url: act.ticket.clone(),
            previous_total_retries: entry.previous_total_retries,
        };
        self.tell(repository, event);
    }
}

impl RetryResult {
    fn of(success: bool, entry: &Entry, previous_retry_count: u32, message: String) -> Self {
        let operation = &entry.operation;
        Self {
            success,
            id: operation.id,
            retry_count: operation.retry_count,
            previous_retry_count,
            status: operation.status,
            message,
        }
    }
}

/// Whether the state of an entry allows it.
fn check(entry: &Entry, force: bool) -> DlqResult<()> {
    let can_retry = entry.operation.can_retry();
    let reason = match entry.operation.status {
        Status::Pending if can_retry || force => return Ok(()),
        Status::RequiresReview if force => return Ok(()),
        Status::Pending | Status::RequiresReview if !can_retry => {
            "its attempts are used up; redrive it by force once the cause is gone"
        }
        Status::RequiresReview => "it waits for a person; redrive it by force",
        Status::Replaying => "another replay holds it",
        status if status.is_terminal() => "it is closed",
        _ => "only a pending entry can be replayed",
    };
    Err(conflict(entry, reason))
}

fn conflict(entry: &Entry, reason: impl Into<String>) -> DlqError {
    let (id, status) = (entry.operation.id.to_string(), entry.operation.status.to_string());
    DlqError::StateConflict { id, status, reason: reason.into() }
}

/// The answer of a service that is switched off.
pub(super) fn disabled() -> DlqError {
    Error::invalid("the setting enabled", "false", "true to replay entries").into()
}
