//! One attempt: the handler runs, its word becomes a completion, the listeners hear of it.

use std::time::Duration;

use super::backoff;
use crate::config::DlqConfig;
use crate::entry::{Completion, Entry, EntryId, Status};
use crate::error::{Error, Result};
use crate::replay::{Outcome, ReplayAttempt, ReplayHandler, contain};
use crate::repository::{FailedOperationRepository, Leased, millis};
use crate::service::{DlqEvent, DlqService};
use crate::throttle::Feedback;

/// The most bytes of a handler's note that are kept.
const NOTE_BYTES_MAX: usize = 4096;

/// The most characters of an event's message.
const ERROR_CHARS_MAX: usize = 200;

/// An attempt whose handler is done and whose outcome is not on record yet.
#[derive(Debug)]
pub(in crate::service) struct Ended {
    pub leased: Leased,
    pub completion: Completion,
    pub ending: Ending,
    pub number: u32,
    domain: String,
    duration_ms: u64,
}

/// How a handler ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::service) enum Ending {
    Success,
    Failure,
    Panic,
    Throttled(Option<Duration>),
}

impl Ended {
    pub fn id(&self) -> EntryId {
        self.leased.id
    }

    /// What the handler said.
    pub fn note(&self) -> &str {
        match &self.completion {
            Completion::Success { note, .. }
            | Completion::Failure { note, .. }
            | Completion::Throttled { note, .. } => note,
        }
    }

    /// What it tells a throttle.
    pub fn feedback(&self) -> Feedback {
        match self.ending {
            Ending::Success => Feedback::Success,
            Ending::Failure | Ending::Panic => Feedback::Failure,
            Ending::Throttled(wish) => Feedback::Overload { retry_after_ms: wish.map(millis) },
        }
    }
}

/// Runs the handler of a started attempt, outside of all locks. A panic is a failure. With each
/// heartbeat `renew` keeps the leases of those who wait for it.
pub(in crate::service) fn run(
    repository: &dyn FailedOperationRepository,
    config: &DlqConfig,
    handler: &dyn ReplayHandler,
    entry: &Entry,
    leased: Leased,
    renew: Option<&(dyn Fn() + Sync)>,
) -> Ended {
    let attempt = ReplayAttempt::new(entry, leased, config.lease(), repository, renew);
    let number = attempt.number();
    let begin_ms = repository.monotonic_ms();
    let outcome = contain(|| handler.replay(&attempt));
    let duration_ms = repository.monotonic_ms().saturating_sub(begin_ms);
    let (now, random) = (repository.now(), repository.random());
    let failure = |note: &str| Completion::Failure {
        note: bounded(note),
        not_before: Some(backoff::after_failure(entry, config, now, random)),
    };
    let (ending, completion) = match outcome {
        Ok(Outcome::Success { note }) => {
            let (note, resolution_type) = (bounded(&note), String::new());
            (Ending::Success, Completion::Success { note, resolution_type })
        }
        Ok(Outcome::Failure { note }) => (Ending::Failure, failure(&note)),
        Ok(Outcome::Throttled { retry_after, note }) => {
            let due = backoff::after_throttle(entry, config, retry_after, now, random);
            let completion = Completion::Throttled { note: bounded(&note), not_before: Some(due) };
            (Ending::Throttled(retry_after), completion)
        }
        Err(panic) => (Ending::Panic, failure(&panic)),
    };
    let domain = entry.operation.domain.clone();
    Ended { leased, completion, ending, number, domain, duration_ms }
}

/// The beginning of a note, cut between two characters.
fn bounded(note: &str) -> String {
    note[..note.floor_char_boundary(NOTE_BYTES_MAX)].to_owned()
}

impl DlqService {
    /// Puts the outcome of an attempt of one entry on record, and tells of it.
    pub(in crate::service) fn put_on_record(
        &self,
        repository: &dyn FailedOperationRepository,
        ended: &Ended,
    ) -> Result<Entry> {
        let completed = repository.complete_replay(ended.leased, &ended.completion);
        match &completed {
            Ok(entry) => self.tell_ended(repository, ended, entry),
            Err(Error::LeaseLost { .. }) => self.tell_lost(repository, ended),
            Err(_) => {}
        }
        completed
    }

    /// Tells that the outcome of an attempt was not taken.
    pub(in crate::service) fn tell_lost(
        &self,
        repository: &dyn FailedOperationRepository,
        ended: &Ended,
    ) {
        let (dlq_id, domain) = (Some(ended.id()), Some(ended.domain.clone()));
        let block_reason = "lease_lost";
        self.tell(repository, DlqEvent::DlqReplayBlocked { dlq_id, domain, block_reason });
    }

    /// Tells how an attempt ended, once that is on record.
    pub(in crate::service) fn tell_ended(
        &self,
        repository: &dyn FailedOperationRepository,
        ended: &Ended,
        entry: &Entry,
    ) {
        let (dlq_id, domain) = (ended.id(), ended.domain.clone());
        let (replay_attempt, duration_ms) = (ended.number, ended.duration_ms);
        let success = ended.ending == Ending::Success;
        let event = match ended.ending {
            Ending::Success | Ending::Failure => DlqEvent::DlqReplayCompleted {
                dlq_id,
                domain,
                success,
                replay_attempt,
                duration_ms,
            },
            Ending::Panic => DlqEvent::DlqReplayFailed {
                dlq_id,
                domain,
                replay_attempt,
                error_type: "panic".to_owned(),
                error_message: ended.note().chars().take(ERROR_CHARS_MAX).collect(),
                duration_ms,
            },
            Ending::Throttled(wish) => {
                let retry_after_s = wish.map(|wish| wish.as_secs_f64());
                DlqEvent::DlqReplayThrottled { dlq_id, domain, retry_after_s }
            }
        };
        self.tell(repository, event);
        if entry.operation.status == Status::RequiresReview {
            let redriven = entry.force_redrive_count > 0;
            let domain = ended.domain.clone();
            self.tell(repository, DlqEvent::DlqReplayExhausted { dlq_id, domain, redriven });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_cut_between_characters() {
        assert_eq!(bounded("short"), "short");
        let note = format!("a{}", "\u{fc}".repeat(NOTE_BYTES_MAX));
        let kept = bounded(&note);
        assert_eq!(kept.len(), NOTE_BYTES_MAX - 1);
        assert!(note.starts_with(&kept));
    }
}
