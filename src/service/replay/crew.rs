//! The jobs of one batch: they share the leases, and each completes its attempt with the sync
//! that starts its next one.
//!
//! Invariants: an attempt is durable before its handler runs; no lock is held while one runs; a
//! lease that nobody used is given back; with a throttle, every permit gets feedback once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::attempt::{self, Ended, Ending};
use super::call::Call;
use super::feed::Candidate;
use super::pace::{Flight, Permitted};
use super::tally::{EarlyStop, Skip};
use crate::entry::{Completion, Entry};
use crate::error::{Error, Result};
use crate::replay::ReplayHandler;
use crate::repository::{Leased, millis};

/// A message never repeats more of a handler's note than this many characters.
const MESSAGE_CHARS_MAX: usize = 200;

/// A leased entry with its handler.
struct Job {
    leased: Leased,
    handler: Arc<dyn ReplayHandler>,
}

/// Several jobs at work on one batch.
pub(super) struct Crew<'a> {
    pub call: &'a Call<'a>,
    pub flight: Flight,
    jobs: Vec<Job>,
    /// The first job that nobody took yet.
    next: AtomicUsize,
    /// Leases that somebody took and did not use.
    unused: Mutex<Vec<Leased>>,
    /// When the leases of waiting jobs were last renewed, in monotonic milliseconds.
    renewed_ms: AtomicU64,
}

impl<'a> Crew<'a> {
    /// Leases the candidates and runs their handlers, at most `workers` at a time. All of it is
    /// done, and counted, when this returns.
    pub fn run(call: &'a Call<'a>, candidates: Vec<Candidate>, workers: usize) {
        let ids: Vec<_> = candidates.iter().map(|candidate| candidate.id).collect();
        let lease = call.config.lease();
        let begin_ms = call.repository.monotonic_ms();
        let leases = match call.repository.acquire_batch(&ids, lease) {
            Ok(leases) => leases,
            Err(error) => return call.tally.fail(error.to_string()),
        };
        let mut handlers: HashMap<u64, Arc<dyn ReplayHandler>> =
            candidates.into_iter().map(|candidate| (candidate.id.0, candidate.handler)).collect();
        let jobs: Vec<Job> = leases
            .into_iter()
            .filter_map(|leased| Some(Job { leased, handler: handlers.remove(&leased.id.0)? }))
            .collect();
        handlers.iter().for_each(|_| call.tally.skip(Skip::LostRace));
        let workers = workers.min(jobs.len());
        let crew = Self {
            call,
            flight: Flight::default(),
            jobs,
            next: AtomicUsize::new(0),
            unused: Mutex::default(),
            renewed_ms: AtomicU64::new(begin_ms),
        };
        crew.work_with(workers);
        crew.give_back();
    }

    /// The caller is the first worker, so one job needs no thread.
    fn work_with(&self, workers: usize) {
        std::thread::scope(|scope| {
            for number in 1..workers {
                let thread =
                    std::thread::Builder::new().name(format!("deadletter-replay-{number}"));
                if let Err(error) = thread.spawn_scoped(scope, || self.work()) {
                    tracing::warn!(%error, "a replay goes on with fewer jobs");
                    break;
                }
            }
            self.work();
        });
    }

    fn work(&self) {
        let mut ended = None;
        while let Some(permitted) = Permitted::wait(self, &mut ended) {
            let Some(job) = self.take() else { break };
            ended = self.turn(ended.take(), job, permitted);
        }
        if let Some(ended) = ended {
            self.finish(&ended);
        }
    }

    /// Whether there is a job that nobody took.
    pub fn has_more(&self) -> bool {
        !self.call.tally.is_stopped() && self.next.load(Ordering::Acquire) < self.jobs.len()
    }

    fn take(&self) -> Option<&Job> {
        self.jobs.get(self.next.fetch_add(1, Ordering::AcqRel))
    }

    /// Completes one attempt, starts the next one with the same sync, and runs its handler.
    fn turn(&self, ended: Option<Ended>, job: &Job, permitted: Permitted<'_>) -> Option<Ended> {
        let Call { repository, config, .. } = *self.call;
        self.renew();
        // The whole lease is the handler's, however long its entry waited.
        repository.extend_lease(job.leased, config.lease());
        let completed = ended.as_ref().map(|ended| (ended.leased, &ended.completion));
        let started =
            match repository.turn_over(completed, Some((job.leased, self.call.replay_type))) {
                Ok(turned) => {
                    if let (Some(ended), Some(result)) = (&ended, turned.ended) {
                        self.account(ended, result);
                    }
                    turned.started.unwrap_or_else(|| Err(lost(job.leased)))
                }
                Err(error) => {
                    // It may be the next entry that cannot be read; the outcome that is known must
                    // not be lost for that.
                    if let Some(ended) = ended {
                        self.finish(&ended);
                    }
                    Err(error)
                }
            };
        match started {
            Ok(entry) => {
                self.call.tally.counts().attempted += 1;
                let (handler, renew) = (&*job.handler, || self.renew());
                let (leased, renew) = (job.leased, Some(&renew as &(dyn Fn() + Sync)));
                let ended = attempt::run(repository, config, handler, &entry, leased, renew);
                permitted.feed(&ended);
                Some(ended)
            }
            Err(error) => {
                self.not_started(job.leased, &error);
                None
            }
        }
    }

    /// Completes an attempt that has no other one to share its sync with.
    pub fn finish(&self, ended: &Ended) {
        match self.call.repository.complete_replay(ended.leased, &ended.completion) {
            Ok(entry) => self.account(ended, Ok(entry)),
            Err(error @ Error::LeaseLost { .. }) => self.account(ended, Err(error)),
            Err(error) => {
                let id = ended.id();
                self.call.tally.skip(Skip::NotWritten);
                self.call.tally.fail(format!("entry {id}: its outcome is not on record: {error}"));
            }
        }
    }

    /// Counts an attempt whose completion was taken or refused.
    fn account(&self, ended: &Ended, result: Result<Entry>) {
        let Call { service, repository, ref tally, .. } = *self.call;
        let id = ended.id();
        let entry = match result {
            Ok(entry) => entry,
            Err(error) => {
                tally.skip(Skip::LeaseLost);
                tally.error(error.to_string());
                return service.tell_lost(repository, ended);
            }
        };
        let mut counts = tally.counts();
        match ended.ending {
            Ending::Success => counts.success += 1,
            Ending::Throttled(_) => counts.throttled += 1,
            Ending::Failure | Ending::Panic => {
                counts.failed += 1;
                let note: String = ended.note().chars().take(MESSAGE_CHARS_MAX).collect();
                counts.error(format!("entry {id}: {note}"));
                if self.call.replay_type == crate::entry::ReplayType::Conditional {
                    counts.failures.push((id, ended.number, note));
                }
            }
        }
        if let Completion::Failure { .. } | Completion::Throttled { .. } = ended.completion {
            let due = [counts.next_due, entry.not_before];
            counts.next_due = due.into_iter().flatten().min();
        }
        drop(counts);
        service.tell_ended(repository, ended, &entry);
    }

    /// Counts an entry whose attempt did not begin. What is wrong with it alone does not stop
    /// the others.
    fn not_started(&self, leased: Leased, error: &Error) {
        let tally = &self.call.tally;
        match error {
            Error::LeaseLost { .. } => tally.skip(Skip::LostRace),
            Error::Damaged(_)
            | Error::Compressed { .. }
            | Error::NotFound { .. }
            | Error::TooLarge { .. } => {
                tally.skip(Skip::NotWritten);
                tally.error(format!("entry {}: {error}", leased.id));
            }
            _ => {
                self.unused.lock().unwrap_or_else(PoisonError::into_inner).push(leased);
                tally.fail(error.to_string());
            }
        }
    }

    /// Keeps the leases of waiting jobs from ending while slow handlers run before them.
    pub fn renew(&self) {
        let (repository, lease) = (self.call.repository, self.call.config.lease());
        let now_ms = repository.monotonic_ms();
        let renewed_ms = self.renewed_ms.load(Ordering::Acquire);
        if now_ms.saturating_sub(renewed_ms) < millis(lease) / 4 {
            return;
        }
        let order = Ordering::AcqRel;
        let won = self.renewed_ms.compare_exchange(renewed_ms, now_ms, order, Ordering::Acquire);
        if won.is_ok() {
            let waiting = self.jobs.get(self.next.load(Ordering::Acquire)..).unwrap_or_default();
            for job in waiting {
                repository.extend_lease(job.leased, lease);
            }
        }
    }

    /// Ends the call early.
    pub fn stop(&self, why: EarlyStop, retry_after_ms: Option<u64>) {
        self.call.tally.stop(why, retry_after_ms);
    }

    /// Gives back the leases that were not used.
    fn give_back(self) {
        let taken = self.next.into_inner();
        let mut unused = self.unused.into_inner().unwrap_or_else(PoisonError::into_inner);
        unused.extend(self.jobs.iter().skip(taken).map(|job| job.leased));
        if !unused.is_empty()
            && let Err(error) = self.call.repository.release(&unused)
        {
            self.call.tally.fail(error.to_string());
        }
    }
}

fn lost(leased: Leased) -> Error {
    Error::LeaseLost { id: leased.id.to_string() }
}
