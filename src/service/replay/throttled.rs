//! Replays that ask a throttle before every attempt.

use std::collections::BTreeMap;

use serde::Serialize;

use super::attempt::run;
use super::call::Reach;
use super::gates::Admission;
use super::tally::{EarlyStop, Skip};
use super::{DlqService, ReplayOptions};
use crate::config::DlqConfig;
use crate::entry::{Entry, EntryId, Status, Timestamp};
use crate::error::{DlqError, DlqResult};
use crate::replay::contain_of;
use crate::repository::FailedOperationRepository;
use crate::service::retry::disabled;
use crate::throttle::{AdaptiveThrottle, Feedback, Permit, Throttle, ThrottleConfig};

/// The answer about an entry whose time ran out.
const TTL_EXPIRED: &str = "ttl_expired";
/// The answer about an entry whose attempts are used up.
const MAX_RETRIES_EXHAUSTED: &str = "max_retries_exhausted";
/// The answer of a throttle that gave no permit.
const NO_PERMIT: &str = "no_permit";
/// The answer about an entry whose handler was told to come back later.
const THROTTLED: &str = "throttled";

/// What a replay of one entry under a throttle did.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct DlqThrottleReplayResult {
    /// Whether the handler succeeded, and that is on record.
    pub success: bool,
    /// The entry.
    pub entry_id: Option<EntryId>,
    /// Why not: `ttl_expired`, `max_retries_exhausted`, `no_permit`, `throttled`, or a message.
    pub error: Option<String>,
    /// After how many seconds it makes sense to try again, when the throttle or the other side
    /// said so.
    pub retry_after: Option<f64>,
}

/// What a replay of many entries under a throttle did.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct DlqThrottleBatchReplayResult {
    /// Entries that were dealt with: the sum of the next four.
    pub total: u64,
    /// Attempts that succeeded.
    pub succeeded: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Entries without an outcome; see `skip_reasons`.
    pub skipped: u64,
    /// Attempts that were told to come back later; they are not charged.
    pub throttled: u64,
    /// Why it ended before its work was done, if it did.
    pub early_stop_reason: Option<EarlyStop>,
    /// After how many seconds it makes sense to go on, when it ended early and that is known.
    pub retry_after: Option<f64>,
    /// What went wrong, at most 100 messages and one that counts the others.
    pub errors: Vec<String>,
    /// Why entries were skipped, and how many.
    pub skip_reasons: BTreeMap<Skip, u64>,
    /// Entries that are due now.
    pub remaining: u64,
    /// When the next entry falls due that is not due now. None when there is none, or when it
    /// is not cheap to know.
    pub next_due: Option<Timestamp>,
}

impl DlqService {
    /// A new throttle with the settings of this service and this cap of attempts per second. It
    /// learns while it is used, so one throttle is kept for each other side.
    ///
    /// # Errors
    ///
    /// [`DlqError::Engine`] with [`Error::Invalid`](crate::Error::Invalid) when the cap is out of its bounds.
    pub fn throttle(&self, rate_max: Option<f64>) -> DlqResult<AdaptiveThrottle> {
        let config = self.config();
        let settings = ThrottleConfig {
            window_max: config.throttle_window_max,
            rate_max,
            outage_failures: config.throttle_outage_failures,
            probe_interval_ms: config.throttle_probe_interval_ms,
            ..ThrottleConfig::default()
        };
        Ok(AdaptiveThrottle::new(settings)?)
    }

    /// Replays one pending entry if its time and its attempts are not used up and the throttle
    /// permits it, asked in this order. Only an attempt spends anything. An entry whose time ran
    /// out expires. The throttle hears once of every permit that it gave.
    ///
    /// It does not wait, and it does not mind whether the entry is due.
    pub fn replay_throttle_aware(
        &self,
        id: EntryId,
        throttle: &dyn Throttle,
    ) -> DlqThrottleReplayResult {
        let mut result = self.replay_permitted(id, throttle).unwrap_or_else(|error| {
            let error = Some(error.to_string());
            DlqThrottleReplayResult { error, ..DlqThrottleReplayResult::default() }
        });
        result.entry_id = Some(id);
        result
    }

    /// Replays due entries, oldest first, each at most once: all of them, or at most
    /// [`max`](ReplayOptions::max). The throttle is asked before every attempt and is told of it
    /// once; it is waited for as long as its pace goes on, but not longer than
    /// [`throttle_replay_interval_ms`](DlqConfig::throttle_replay_interval_ms) for anything else.
    /// Entries that are past their time expire instead. Otherwise as
    /// [`replay`](Self::replay).
    ///
    /// # Errors
    ///
    /// As [`replay`](Self::replay).
    pub fn replay_all_throttle_aware(
        &self,
        throttle: &dyn Throttle,
        options: &ReplayOptions,
    ) -> DlqResult<DlqThrottleBatchReplayResult> {
        let config = self.config();
        if !config.enabled {
            return Ok(DlqThrottleBatchReplayResult::default());
        }
        let repository = self.repository()?;
        let Some(turn) = self.kept().turn() else {
            return Ok(DlqThrottleBatchReplayResult {
                early_stop_reason: Some(EarlyStop::RunsAlone),
                ..DlqThrottleBatchReplayResult::default()
            });
        };
        let mut call = self.call(&*repository, &config, &turn, options.jobs);
        call.throttle = Some(throttle);
        call.release_stale();
        let scope = options.scope();
        // A batch that is smaller than the crew would leave some of it idle.
        let batch = u64::from(options.batch_size.unwrap_or(config.throttle_replay_batch_size));
        let jobs = u64::try_from(call.jobs).unwrap_or(u64::MAX);
        let batch = if batch == 0 { 0 } else { batch.max(jobs) };
        let attempts = if batch == 0 { 0 } else { options.max.unwrap_or(u64::MAX) };
        call.run(&scope, options.after, Reach { batch, attempts, looks: u64::MAX })?;
        let (mut counts, left) = call.finish(&scope, "throttle_aware", None);
        Ok(DlqThrottleBatchReplayResult {
            total: counts.processed(),
            succeeded: counts.success,
            failed: counts.failed,
            skipped: counts.skipped(),
            throttled: counts.throttled,
            early_stop_reason: counts.early_stop,
            retry_after: counts.retry_after_ms.map(seconds),
            errors: counts.take_errors(),
            skip_reasons: counts.skipped,
            remaining: left.remaining,
            next_due: left.next_due,
        })
    }

    /// The checks before the permit.
    fn replay_permitted(
        &self,
        id: EntryId,
        throttle: &dyn Throttle,
    ) -> DlqResult<DlqThrottleReplayResult> {
        let config = self.config();
        if !config.enabled {
            return Err(disabled());
        }
        let repository = self.repository()?;
        self.release_ended(&*repository)?;
        let Some(entry) = repository.get_by_id(id)? else {
            return Err(DlqError::NotFound { id: id.to_string() });
        };
        let status = entry.operation.status;
        let is_past = repository.timeline().has_expired(&entry);
        if status == Status::Pending && is_past && self.expire_found(&*repository, id)?.is_some() {
            return Ok(refused(TTL_EXPIRED));
        }
        if status == Status::RequiresReview && !entry.operation.can_retry() {
            self.blocked(&*repository, &entry, "max_replay_attempts_exceeded");
            return Ok(refused(MAX_RETRIES_EXHAUSTED));
        }
        if status != Status::Pending {
            return Ok(refused(&format!("entry {id} is {status}, not pending")));
        }
        let permit_ms = repository.monotonic_ms();
        match throttle.permit(permit_ms) {
            Permit::Granted => {}
            Permit::Denied { retry_after_ms, .. } => {
                let retry_after = Some(seconds(retry_after_ms));
                return Ok(DlqThrottleReplayResult { retry_after, ..refused(NO_PERMIT) });
            }
        }
        let permit = Given { throttle: Some(throttle), repository: &*repository, permit_ms };
        self.replay_one(&*repository, &config, &entry, permit)
    }

    /// The pipeline of one entry.
    fn replay_one(
        &self,
        repository: &dyn FailedOperationRepository,
        config: &DlqConfig,
        entry: &Entry,
        permit: Given<'_>,
    ) -> DlqResult<DlqThrottleReplayResult> {
        let id = entry.operation.id;
        let _turn = self.kept().turn_of_person();
        let handler = match self.admit(repository, config, entry) {
            Admission::Run(handler) => handler,
            Admission::Unwanted => {
                self.resolve_unwanted(repository, id, Status::Pending)?;
                return Ok(refused("nobody wants it any more"));
            }
            Admission::Refused(refusal) => return Ok(refused(&refusal.reason)),
        };
        let Some((leased, entry)) =
            repository.try_acquire_for_replay(id, config.lease(), false, None)?
        else {
            return Ok(refused("somebody else was faster"));
        };
        let ended = run(repository, config, &*handler, &entry, leased, None);
        permit.tell(ended.feedback());
        self.put_on_record(repository, &ended)?;
        Ok(match ended.ending {
            super::Ending::Success => {
                DlqThrottleReplayResult { success: true, ..DlqThrottleReplayResult::default() }
            }
            super::Ending::Throttled(wish) => {
                let retry_after = wish.map(|wish| wish.as_secs_f64());
                DlqThrottleReplayResult { retry_after, ..refused(THROTTLED) }
            }
            super::Ending::Failure | super::Ending::Panic => refused(ended.note()),
        })
    }
}

/// A permit that was given; the throttle hears of it once.
struct Given<'a> {
    throttle: Option<&'a dyn Throttle>,
    repository: &'a dyn FailedOperationRepository,
    permit_ms: u64,
}

impl Given<'_> {
    fn tell(mut self, feedback: Feedback) {
        self.give_back(feedback);
    }

    fn give_back(&mut self, feedback: Feedback) {
        if let Some(throttle) = self.throttle.take() {
            let now_ms = self.repository.monotonic_ms();
            let latency_ms = now_ms.saturating_sub(self.permit_ms);
            // The outcome is known and not on record yet, so a panic must not take it along.
            let told = contain_of("throttle", || throttle.feedback(feedback, latency_ms, now_ms));
            if let Err(panic) = told {
                tracing::error!(panic, "a throttle did not take its feedback");
            }
        }
    }
}

impl Drop for Given<'_> {
    fn drop(&mut self) {
        self.give_back(Feedback::Unused);
    }
}

fn refused(error: &str) -> DlqThrottleReplayResult {
    DlqThrottleReplayResult { error: Some(error.to_owned()), ..DlqThrottleReplayResult::default() }
}

fn seconds(millis: u64) -> f64 {
    std::time::Duration::from_millis(millis).as_secs_f64()
}
