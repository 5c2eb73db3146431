//! One call of a replay: passes over the due entries, in batches, each run by a crew of jobs.

use std::collections::BTreeSet;

use super::crew::Crew;
use super::feed::{Candidate, Feed};
use super::kept::{Scope, Turn};
use super::tally::{Counts, EarlyStop, Skip, Tally};
use crate::config::{DlqConfig, Priority};
use crate::entry::{EntryId, Order, Page, ReplayType, Status, Timestamp};
use crate::error::Result;
use crate::replay::contain_of;
use crate::repository::{FailedOperationRepository, due};
use crate::service::{DlqEvent, DlqService};
use crate::throttle::{Emergency, Throttle};

/// Entries that are leased at a time: so many change with one sync, and no more wait for a
/// handler while their leases run.
pub(super) const BATCH_ENTRIES_MAX: u64 = 1000;
/// Waiting entries that are read to learn when the first of them is due.
const WAITING_ENTRIES_MAX: u64 = 100;

/// Everything that the parts of one replay share.
pub(super) struct Call<'a> {
    pub service: &'a DlqService,
    pub repository: &'a dyn FailedOperationRepository,
    pub config: &'a DlqConfig,
    pub turn: &'a Turn<'a>,
    pub throttle: Option<&'a dyn Throttle>,
    pub replay_type: ReplayType,
    pub jobs: usize,
    pub tally: Tally,
}

/// How far one replay goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reach {
    /// Entries that are leased at a time.
    pub batch: u64,
    /// Handlers that run at most.
    pub attempts: u64,
    /// Entries that are looked at to find them.
    pub looks: u64,
}

/// What is left after a replay.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Left {
    /// Entries that are due.
    pub remaining: u64,
    /// When the next one is due, as far as that is cheap to know.
    pub next_due: Option<Timestamp>,
}

impl Call<'_> {
    /// Replays what is due. Answers where it stopped looking, if it did.
    ///
    /// # Errors
    ///
    /// When nothing could be read; later failures end the call early and are counted.
    pub fn run(
        &self,
        scope: &Scope,
        after: Option<EntryId>,
        mut reach: Reach,
    ) -> Result<Option<EntryId>> {
        for mut feed in self.passes(scope, after) {
            match self.pass(&mut feed, &mut reach) {
                Ok(()) => {}
                Err(error) if self.tally.counts().processed() == 0 => return Err(error),
                Err(error) => self.tally.fail(error.to_string()),
            }
            let is_short = reach.looks == 0 && !feed.is_done;
            let place = feed.after.filter(|_| is_short);
            if after.is_none() {
                self.service.kept().keep_place(feed.scope, place);
            }
            if place.is_some() || self.tally.is_stopped() || reach.attempts == 0 {
                return Ok(place);
            }
        }
        Ok(None)
    }

    /// The walks to make: one, or one for each priority.
    fn passes(&self, scope: &Scope, after: Option<EntryId>) -> Vec<Feed> {
        let kept = self.service.kept();
        let feed = |scope: Scope, except| {
            let place = after.or_else(|| kept.place(&scope));
            Feed::new(scope, except, place)
        };
        if !self.config.replay_priority_enabled || scope.domain.is_some() {
            return vec![feed(scope.clone(), BTreeSet::new())];
        }
        let priorities = &self.config.replay_domain_priorities;
        let of = |wanted: Priority| {
            let domains = priorities.iter().filter(move |(_, priority)| **priority == wanted);
            domains.map(|(domain, _)| domain.clone())
        };
        let alone = |domain: String| Scope { domain: Some(domain), ..scope.clone() };
        let except = of(Priority::Critical).chain(of(Priority::Low)).collect();
        let critical = of(Priority::Critical).map(|domain| feed(alone(domain), BTreeSet::new()));
        let low = of(Priority::Low).map(|domain| feed(alone(domain), BTreeSet::new()));
        critical.chain([feed(scope.clone(), except)]).chain(low).collect()
    }

    fn pass(&self, feed: &mut Feed, reach: &mut Reach) -> Result<()> {
        while reach.attempts > 0 && !self.tally.is_stopped() {
            if let Some(throttle) = self.throttle
                && self.is_emergency(throttle)
            {
                return Ok(());
            }
            let wanted = reach.batch.min(reach.attempts).min(BATCH_ENTRIES_MAX);
            let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
            let candidates = feed.next(self, wanted, &mut reach.looks)?;
            let before = self.tally.counts().attempted;
            self.batch(candidates);
            let attempted = self.tally.counts().attempted - before;
            reach.attempts = reach.attempts.saturating_sub(attempted);
            if feed.is_done || reach.looks == 0 {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Runs the handlers of a batch. Those that may have ended their process run first, each
    /// alone: if one does it again, nobody else's attempt is spent.
    fn batch(&self, candidates: Vec<Candidate>) {
        let (suspects, others): (Vec<_>, Vec<_>) =
            candidates.into_iter().partition(|candidate| candidate.is_suspect);
        if !suspects.is_empty() {
            match self.turn.alone() {
                Some(_alone) => Crew::run(self, suspects, 1),
                None => suspects.iter().for_each(|_| self.tally.skip(Skip::RunsAlone)),
            }
        }
        if !others.is_empty() && !self.tally.is_stopped() {
            Crew::run(self, others, self.jobs);
        }
    }

    /// Whether the throttle says that it makes no sense to go on; then this call ends.
    pub fn is_emergency(&self, throttle: &dyn Throttle) -> bool {
        let now_ms = self.repository.monotonic_ms();
        let asked = self.ask(|| {
            let is_emergency = throttle.emergency(now_ms) == Emergency::Emergency;
            is_emergency.then(|| throttle.stats(now_ms).wait_ms)
        });
        let Some(wait_ms) = asked else { return true };
        if wait_ms.is_some() {
            self.tally.stop(EarlyStop::Emergency, wait_ms.filter(|wait_ms| *wait_ms > 0));
        }
        wait_ms.is_some()
    }

    /// Asks a throttle something. If it panics this call ends early, but what ran is on record.
    pub fn ask<T>(&self, ask: impl FnOnce() -> T) -> Option<T> {
        contain_of("throttle", ask).map_err(|panic| self.tally.fail(panic)).ok()
    }

    /// What is left to do in a scope.
    ///
    /// # Errors
    ///
    /// When the repository cannot be read.
    pub fn left(&self, scope: &Scope) -> Result<Left> {
        let Scope { domain, failure_type } = scope;
        let now = self.repository.now();
        let due = due(now, domain.as_deref(), failure_type.as_deref());
        let remaining = self.repository.count(&due)?;
        let pending = crate::entry::Filter { due_at: None, ..due };
        let mut next_due = self.tally.counts().next_due.filter(|due| *due > now);
        let pending_count = self.repository.count(&pending)?;
        if pending_count > remaining && pending_count <= WAITING_ENTRIES_MAX {
            let limit = usize::try_from(WAITING_ENTRIES_MAX).unwrap_or(usize::MAX);
            let page = Page { order: Order::Oldest, offset: 0, limit, after: None };
            let entries = self.repository.find(&pending, page)?;
            let waiting = entries.iter().filter(|entry| !entry.is_due(now));
            next_due = waiting.filter_map(|entry| entry.not_before).min();
        }
        Ok(Left { remaining, next_due })
    }

    /// Ends the call: what is left, and the event of the batch.
    pub fn finish(
        self,
        scope: &Scope,
        trigger: &'static str,
        service: Option<&str>,
    ) -> (Counts, Left) {
        let left = self.left(scope).unwrap_or_else(|error| {
            self.tally.fail(error.to_string());
            Left::default()
        });
        let counts = self.tally.into_counts();
        if counts.processed() > 0 {
            let event = DlqEvent::DlqReplayBatchCompleted {
                domain: scope.domain.clone(),
                total: counts.processed(),
                success_count: counts.success,
                failed_count: counts.failed,
                trigger,
                service_name: service.map(str::to_owned),
            };
            self.service.tell(self.repository, event);
        }
        (counts, left)
    }

    /// Releases entries whose lease has ended, so that they take part again. A store that cannot
    /// do that may still be able to replay others.
    pub fn release_stale(&self) {
        if let Err(error) = self.service.release_ended(self.repository) {
            self.tally.error(error.to_string());
        }
    }
}

impl DlqService {
    /// Releases entries whose lease has ended; cheap when none is leased.
    pub(in crate::service) fn release_ended(
        &self,
        repository: &dyn FailedOperationRepository,
    ) -> Result<()> {
        let replaying = crate::entry::Filter {
            status: Some(Status::Replaying),
            ..crate::entry::Filter::default()
        };
        if repository.count(&replaying)? > 0 {
            let released = repository.release_stale_replaying(None)?;
            self.tell_maintenance(repository, "release_stale", released.total(), None);
        }
        Ok(())
    }
}
