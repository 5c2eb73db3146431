//! Running handlers: leases, attempts, batches, throttles, sweeps.
//!
//! `feed` finds what is due and leads it through the `gates`; `call` makes batches of it; `crew`
//! runs them with several jobs, at the `pace` of a throttle; `attempt` runs one handler and
//! `backoff` says when to try again. `throttled` and `recovery` are the other ways in. `tally`
//! counts, and `kept` is what lasts from one replay to the next.

mod attempt;
mod backoff;
mod call;
mod crew;
mod feed;
mod gates;
mod kept;
mod pace;
mod preview;
mod recovery;
mod tally;
mod throttled;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::{DlqConfig, DlqService};
use crate::entry::{EntryId, ReplayType, Timestamp, normalize_domain};
use crate::error::DlqResult;
use crate::repository::{FailedOperationRepository, Released};

pub use preview::ReplayPreview;
pub use recovery::DlqRecoveryResult;
pub use tally::{EarlyStop, Skip};
pub use throttled::{DlqThrottleBatchReplayResult, DlqThrottleReplayResult};

pub(super) use attempt::{Ending, run};
pub(super) use gates::Admission;
pub(super) use kept::Kept;

use call::{Call, Left, Reach};
use kept::{Scope, Turn};
use tally::{Counts, Tally};

/// Entries that a replay looks at for each one that it may run. So many entries that may not run
/// do not keep those behind them waiting, and a call over a store full of them still ends soon;
/// the next one goes on where it stopped.
const LOOKS_PER_ENTRY: u64 = 20;
/// The most handlers that run at the same time.
const JOBS_MAX: u32 = 64;

/// What a batch replay is about, and how far it goes. The default is what
/// [`DlqService::replay`] does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplayOptions {
    /// Only entries of this domain. Default all.
    pub domain: Option<String>,
    /// Only entries of exactly this failure type. Default all.
    pub failure_type: Option<String>,
    /// Entries that are leased together, at most 1000 at a time. Default
    /// [`replay_track2_max_items`](DlqConfig::replay_track2_max_items) or the adaptive size;
    /// with a throttle
    /// [`throttle_replay_batch_size`](DlqConfig::throttle_replay_batch_size).
    pub batch_size: Option<u32>,
    /// Handlers that run at most. Default one batch; with a throttle everything that is due.
    pub max: Option<u64>,
    /// Handlers that run at the same time, from 1 to 64. Default
    /// [`replay_jobs`](DlqConfig::replay_jobs).
    pub jobs: Option<u32>,
    /// Only entries behind this one. Default from the oldest, or from where the last call over
    /// the same entries had to stop looking.
    pub after: Option<EntryId>,
}

/// What a batch replay did.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct DlqBatchReplayStats {
    /// Entries that were dealt with: the sum of the next four.
    pub processed: u64,
    /// Attempts that succeeded.
    pub success: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Entries without an outcome; see `skip_reasons`.
    pub skipped: u64,
    /// Attempts that were told to come back later; they are not charged.
    pub throttled: u64,
    /// What went wrong, at most 100 messages and one that counts the others.
    pub errors: Vec<String>,
    /// Why entries were skipped, and how many.
    pub skip_reasons: BTreeMap<Skip, u64>,
    /// Why it ended before its work was done, if it did.
    pub early_stop_reason: Option<EarlyStop>,
    /// Entries that are due now.
    pub remaining: u64,
    /// When the next entry falls due that is not due now. None when there is none, or when it
    /// is not cheap to know.
    pub next_due: Option<Timestamp>,
    /// Where it stopped looking, when it met too many entries that may not run. Give it back as
    /// [`ReplayOptions::after`]; without that the next call goes on there by itself.
    pub resume_after: Option<EntryId>,
}

impl DlqService {
    /// Replays due entries, oldest first, each at most once: at most `batch_size`, by default
    /// [`replay_track2_max_items`](DlqConfig::replay_track2_max_items) or the adaptive size.
    ///
    /// Entries that may not run are passed over and spend nothing: without a handler, with a cut
    /// request, or that their handler does not want now. Every other attempt is charged and
    /// durable before its handler runs, and its outcome is durable when this returns. Entries
    /// whose last attempt was cut off, so that it may have ended its process, run first and
    /// alone. Nothing happens while the service is disabled.
    ///
    /// # Errors
    ///
    /// When the repository cannot be read at all. What goes wrong later is in the result.
    ///
    /// # Example
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use deadletter::{DlqService, Durability, FailedOperationRepository, MemoryRepository};
    /// use deadletter::{NewFailure, Outcome, ReplayAttempt, ReplayHandler};
    ///
    /// struct Mail;
    ///
    /// impl ReplayHandler for Mail {
    ///     fn replay(&self, attempt: &ReplayAttempt<'_>) -> Outcome {
    ///         assert_eq!(attempt.number(), 1);
    ///         Outcome::success()
    ///     }
    /// }
    ///
    /// let repository = MemoryRepository::new();
    /// repository.create(NewFailure::new("mail", "TIMEOUT"), Durability::Synced)?;
    /// let service = DlqService::new(None, Some(Arc::new(repository)));
    /// service.handlers().register("mail", Arc::new(Mail));
    /// let stats = service.replay(None, None)?;
    /// assert_eq!((stats.processed, stats.success), (1, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn replay(
        &self,
        domain: Option<&str>,
        batch_size: Option<u32>,
    ) -> DlqResult<DlqBatchReplayStats> {
        let domain = domain.map(str::to_owned);
        self.replay_with(&ReplayOptions { domain, batch_size, ..ReplayOptions::default() })
    }

    /// As [`replay`](Self::replay), with all options.
    ///
    /// # Errors
    ///
    /// As [`replay`](Self::replay).
    pub fn replay_with(&self, options: &ReplayOptions) -> DlqResult<DlqBatchReplayStats> {
        let config = self.config();
        if !config.enabled {
            return Ok(DlqBatchReplayStats::default());
        }
        let repository = self.repository()?;
        let Some(turn) = self.kept().turn() else {
            let early_stop_reason = Some(EarlyStop::RunsAlone);
            return Ok(DlqBatchReplayStats { early_stop_reason, ..DlqBatchReplayStats::default() });
        };
        let batch = options.batch_size.unwrap_or_else(|| self.kept().batch_size(&config));
        let attempts = options.max.unwrap_or_else(|| u64::from(batch));
        let looks = attempts.saturating_mul(LOOKS_PER_ENTRY);
        let call = self.call(&*repository, &config, &turn, options.jobs);
        call.release_stale();
        let scope = options.scope();
        let reach = Reach { batch: u64::from(batch), attempts, looks };
        let resume_after = call.run(&scope, options.after, reach)?;
        let (counts, left) = call.finish(&scope, "manual", None);
        self.kept().record_batch(&config, counts.failed, counts.failed + counts.success);
        Ok(DlqBatchReplayStats { resume_after, ..DlqBatchReplayStats::of(counts, left) })
    }

    /// Releases entries whose lease has ended, so that they can be replayed again; those whose
    /// attempts are used up wait for a person instead. With `older_than`, instead those that
    /// are leased for longer than that, even if their lease holds: the outcome of a handler that
    /// still runs is then not taken. Every replay does the former by itself.
    ///
    /// # Errors
    ///
    /// When the repository cannot be read or written.
    pub fn release_stale(&self, older_than: Option<Duration>) -> DlqResult<Released> {
        let repository = self.repository()?;
        let released = repository.release_stale_replaying(older_than)?;
        self.tell_maintenance(&*repository, "release_stale", released.total(), None);
        Ok(released)
    }

    pub(super) fn kept(&self) -> &Kept {
        &self.inner.replay
    }

    fn call<'a>(
        &'a self,
        repository: &'a dyn FailedOperationRepository,
        config: &'a DlqConfig,
        turn: &'a Turn<'a>,
        jobs: Option<u32>,
    ) -> Call<'a> {
        let jobs = jobs.unwrap_or(config.replay_jobs).clamp(1, JOBS_MAX);
        Call {
            service: self,
            repository,
            config,
            turn,
            throttle: None,
            replay_type: ReplayType::Batch,
            jobs: usize::try_from(jobs).unwrap_or(1),
            tally: Tally::default(),
        }
    }
}

impl ReplayOptions {
    fn scope(&self) -> Scope {
        let domain = self.domain.as_ref();
        let domain = domain.map(|given| normalize_domain(given).unwrap_or_else(|| given.clone()));
        Scope { domain, failure_type: self.failure_type.clone() }
    }
}

impl DlqBatchReplayStats {
    fn of(mut counts: Counts, left: Left) -> Self {
        Self {
            processed: counts.processed(),
            success: counts.success,
            failed: counts.failed,
            skipped: counts.skipped(),
            throttled: counts.throttled,
            errors: counts.take_errors(),
            skip_reasons: counts.skipped,
            early_stop_reason: counts.early_stop,
            remaining: left.remaining,
            next_due: left.next_due,
            resume_after: None,
        }
    }
}
