//! A queue in front of the repository, for callers who do not wait, and the thread that empties it.
//!
//! 1. A failure is offered; a full queue refuses it at once.
//! 2. A batch is taken when it is full, or when its first failure waited long enough.
//! 3. It is written with one call; after an error one by one.
//! 4. What the repository cannot take is tried again, later and later, and then spilled.
//!
//! Invariant, at every moment: enqueued = written + spilled + failed + waiting + in flight.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, ThreadId};
use std::time::Duration;

use serde::Serialize;

use super::caller::LateCaller;
use super::receipt::QueuedReceipt;
use super::{DlqEntryResult, DlqEvent, DlqService, Inner};
use crate::config::{DlqConfig, Durability};
use crate::entry::NewFailure;
use crate::error::Error;

mod write;

/// So many failed writes in a row are repeated without a pause.
const PATIENCE: u64 = 3;
/// The first pause, which doubles with each further failure, and the longest.
const PAUSE_MIN_MS: u64 = 100;
const PAUSE_MAX_MS: u64 = 10_000;
/// After so many failures in a row, some thirteen seconds, failures go to fallback files: they
/// have been in memory alone long enough.
const SPILL_AFTER: u64 = 10;
/// So many failures must have been offered before the share of refused ones says anything.
const OFFERED_MIN: u64 = 100;

/// What the outbox holds and what became of what it held.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct OutboxStats {
    /// Failures that may wait.
    pub capacity: u64,
    /// Failures that wait.
    pub size: u64,
    /// Failures that were taken in. Always `entries_written + entries_spilled + entries_failed +
    /// size + in_flight`.
    pub total_enqueued: u64,
    /// Failures that were refused because the outbox was full.
    pub total_refused: u64,
    /// Failures that are entries of the store now.
    pub entries_written: u64,
    /// Failures that were given back.
    pub entries_failed: u64,
    /// Failures that are being written.
    pub in_flight: u64,
    /// Failures that went to fallback files.
    pub entries_spilled: u64,
    /// Written failures whose key was there already.
    pub duplicates: u64,
    /// Failed writes since the last one that did not fail.
    pub consecutive_failures: u64,
    /// Whether somebody writes: the thread, once it was needed, or the host.
    pub worker_alive: bool,
    /// How long the oldest failure waits, in milliseconds; 0 when none does.
    pub oldest_age_ms: u64,
    /// Refused of all that were offered.
    pub drop_rate: f64,
    /// Failures that were written by their callers because the thread had died.
    pub worker_dead_coercions: u64,
}

#[derive(Debug)]
pub(super) struct Outbox {
    /// Guards the queue and its counters; never held while anything is written or told.
    state: Mutex<State>,
    /// Told when something came, settled, or ended.
    changed: Condvar,
    /// Guards the turn to write; held meanwhile, so that order is kept. Listeners hear of trouble
    /// meanwhile, so the thread that has it never waits for it.
    turn: Mutex<()>,
    /// Guards the thread.
    worker: Mutex<Option<JoinHandle<()>>>,
    threaded: bool,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Item>,
    counts: Counts,
    /// Nothing is written before this.
    retry_at_ms: u64,
    /// Who has the turn to write.
    writer: Option<ThreadId>,
    /// Somebody waits until all is written.
    flush: bool,
    /// The share of refused failures was told.
    alarmed: bool,
    closed: bool,
    /// When closing stops writing.
    deadline_ms: u64,
    worker: Worker,
}

/// How the thread is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Worker {
    /// Not needed yet, or no more.
    #[default]
    Absent,
    Running,
    /// It ended without being told to.
    Dead,
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    enqueued: u64,
    refused: u64,
    written: u64,
    failed: u64,
    spilled: u64,
    duplicates: u64,
    in_flight: u64,
    consecutive_failures: u64,
    coercions: u64,
}

/// A failure that waits.
#[derive(Debug)]
struct Item {
    failure: Box<NewFailure>,
    durability: Durability,
    caller: Option<LateCaller>,
    receipt: QueuedReceipt,
    enqueued_ms: u64,
}

/// What the writer does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// Writes a batch.
    Write,
    /// Waits until this time, or until something comes.
    WaitUntil(Option<u64>),
    /// Stops.
    End,
}

impl State {
    fn plan(&self, now_ms: u64, config: &DlqConfig) -> Plan {
        let Some(oldest) = self.waiting.front() else {
            return if self.closed { Plan::End } else { Plan::WaitUntil(None) };
        };
        if self.closed {
            let goes_on = now_ms < self.deadline_ms && self.counts.consecutive_failures == 0;
            return if goes_on { Plan::Write } else { Plan::End };
        }
        if now_ms < self.retry_at_ms {
            return Plan::WaitUntil(Some(self.retry_at_ms));
        }
        let full = self.waiting.len() as u64 >= u64::from(config.outbox_batch_size);
        let due_ms = oldest.enqueued_ms.saturating_add(config.outbox_flush_interval_ms);
        if full || self.flush || now_ms >= due_ms {
            return Plan::Write;
        }
        Plan::WaitUntil(Some(due_ms))
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.counts.in_flight == 0
    }

    fn settled(&self) -> u64 {
        self.counts.written + self.counts.spilled + self.counts.failed
    }

    fn drop_rate(&self) -> f64 {
        let offered = self.counts.enqueued + self.counts.refused;
        if offered == 0 {
            return 0.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "a share needs no more digits")]
        let rate = self.counts.refused as f64 / offered as f64;
        rate
    }

    /// Whether the share of refused failures has just become too large.
    fn alarm(&mut self, threshold: f64) -> bool {
        let offered = self.counts.enqueued + self.counts.refused;
        let above = offered >= OFFERED_MIN && self.drop_rate() > threshold;
        let tell = above && !self.alarmed;
        self.alarmed = above;
        tell
    }
}

/// How long to wait after so many failures in a row.
fn pause_ms(failures: u64) -> u64 {
    if failures < PATIENCE {
        return 0;
    }
    let doublings = u32::try_from(failures - PATIENCE).unwrap_or(u32::MAX).min(16);
    (PAUSE_MIN_MS << doublings).min(PAUSE_MAX_MS)
}

impl Outbox {
    pub fn new(threaded: bool) -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            turn: Mutex::default(),
            worker: Mutex::default(),
            threaded,
        }
    }

    /// Lets the thread look again.
    pub fn notify(&self) {
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DlqService {
    /// What the outbox holds and what became of what it held.
    pub fn outbox_stats(&self) -> OutboxStats {
        let (now_ms, config) = (self.inner.access.monotonic_ms(), self.config());
        let outbox = &self.inner.outbox;
        let state = outbox.state();
        let oldest_ms = state.waiting.front().map(|item| item.enqueued_ms);
        let counts = state.counts;
        OutboxStats {
            capacity: config.outbox_capacity.into(),
            size: state.waiting.len() as u64,
            total_enqueued: counts.enqueued,
            total_refused: counts.refused,
            entries_written: counts.written,
            entries_failed: counts.failed,
            in_flight: counts.in_flight,
            entries_spilled: counts.spilled,
            duplicates: counts.duplicates,
            consecutive_failures: counts.consecutive_failures,
            worker_alive: state.worker != Worker::Dead && !state.closed,
            oldest_age_ms: oldest_ms.map_or(0, |oldest_ms| now_ms.saturating_sub(oldest_ms)),
            drop_rate: state.drop_rate(),
            worker_dead_coercions: counts.coercions,
        }
    }

    /// Writes what waits in the outbox, and waits for it, at most this long. Answers with how many
    /// failures were settled meanwhile: written, spilled or given back.
    pub fn flush_and_wait(&self, timeout: Duration) -> u64 {
        let outbox = &self.inner.outbox;
        let before = {
            let mut state = outbox.state();
            state.flush = !state.is_idle();
            state.settled()
        };
        if outbox.threaded {
            if !outbox.state().is_idle() {
                self.inner.ensure_worker();
            }
            outbox.notify();
            let busy = |state: &mut State| !state.is_idle();
            drop(outbox.changed.wait_timeout_while(outbox.state(), timeout, busy));
        } else {
            self.inner.write_all_within(timeout);
        }
        let mut state = outbox.state();
        state.flush = false;
        state.settled() - before
    }
}

impl Inner {
    /// Puts a failure into the outbox.
    pub fn queue(
        self: &Arc<Self>,
        failure: Box<NewFailure>,
        durability: Durability,
        caller: Option<LateCaller>,
    ) -> DlqEntryResult {
        if !self.ensure_worker() {
            self.outbox.state().counts.coercions += 1;
            return self.store_now(failure, durability, caller.as_ref());
        }
        let config = self.config();
        let capacity = u64::from(config.outbox_capacity);
        let enqueued_ms = self.access.monotonic_ms();
        let mut state = self.outbox.state();
        if state.closed {
            return DlqEntryResult::given_back(Error::Closed.to_string(), failure);
        }
        let size = state.waiting.len() as u64 + state.counts.in_flight;
        if size >= capacity {
            state.counts.refused += 1;
            let alarm = state.alarm(config.outbox_drop_rate_threshold);
            let (total_dropped, drop_rate) = (state.counts.refused, state.drop_rate());
            drop(state);
            if alarm {
                self.tell_now(DlqEvent::DlqOutboxDropThresholdBreached {
                    capacity,
                    size,
                    total_dropped,
                    drop_rate,
                });
            }
            let reason = format!("{size} failures wait in the outbox, at most {capacity} may");
            return self.give_back(&reason, failure, caller.as_ref());
        }
        state.counts.enqueued += 1;
        state.alarm(config.outbox_drop_rate_threshold);
        let (key, receipt) = (failure.key.clone(), QueuedReceipt::default());
        let item = Item { failure, durability, caller, receipt: receipt.clone(), enqueued_ms };
        state.waiting.push_back(item);
        drop(state);
        self.outbox.notify();
        DlqEntryResult::queued(key, receipt)
    }

    /// Sees to it that somebody writes. False when the thread had died or cannot be started; it
    /// is started again then, for those who come next.
    fn ensure_worker(self: &Arc<Self>) -> bool {
        let outbox = &self.outbox;
        if !outbox.threaded {
            return true;
        }
        let mut worker = outbox.worker.lock().unwrap_or_else(PoisonError::into_inner);
        let died = {
            let state = outbox.state();
            if state.closed || state.worker == Worker::Running {
                return true;
            }
            state.worker == Worker::Dead
        };
        if let Some(dead) = worker.take() {
            // It has ended; what it panicked with was printed by the panic.
            drop(dead.join());
            tracing::error!("the thread of the outbox died and is started again");
        }
        let inner = Arc::clone(self);
        outbox.state().worker = Worker::Running;
        let builder = std::thread::Builder::new().name("deadletter-outbox".to_owned());
        let started = builder.spawn(move || inner.run_worker());
        match started {
            Ok(handle) => {
                *worker = Some(handle);
                !died
            }
            Err(error) => {
                tracing::error!(%error, "the thread of the outbox does not start");
                outbox.state().worker = Worker::Dead;
                false
            }
        }
    }

    fn run_worker(&self) {
        let _running = Running(&self.outbox);
        loop {
            let (now_ms, config) = (self.access.monotonic_ms(), self.config());
            let state = self.outbox.state();
            match state.plan(now_ms, &config) {
                Plan::Write => {
                    drop(state);
                    self.write_batch();
                }
                Plan::WaitUntil(None) => drop(self.outbox.changed.wait(state)),
                Plan::WaitUntil(Some(until_ms)) => {
                    let wait = Duration::from_millis(until_ms.saturating_sub(now_ms).max(1));
                    drop(self.outbox.changed.wait_timeout(state, wait));
                }
                Plan::End => return,
            }
        }
    }

    /// Writes one batch if it is time, for a host that has no threads.
    pub fn write_if_due(&self) {
        let (now_ms, config) = (self.access.monotonic_ms(), self.config());
        let plan = self.outbox.state().plan(now_ms, &config);
        if !self.outbox.threaded && plan == Plan::Write {
            self.write_batch();
        }
    }

    /// Writes all that waits, in this thread; pauses after failures pass by the clock of the
    /// repository.
    fn write_all_within(&self, timeout: Duration) {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let deadline_ms = self.access.monotonic_ms().saturating_add(timeout_ms);
        loop {
            let now_ms = self.access.monotonic_ms();
            let plan = self.outbox.state().plan(now_ms, &self.config());
            match plan {
                Plan::Write if self.write_batch() => {}
                Plan::WaitUntil(Some(until_ms)) if now_ms < deadline_ms => {
                    let until_ms = until_ms.min(deadline_ms);
                    self.access.wait(Duration::from_millis(until_ms.saturating_sub(now_ms)));
                }
                Plan::Write | Plan::WaitUntil(_) | Plan::End => return,
            }
            if self.access.monotonic_ms() > deadline_ms {
                return;
            }
        }
    }

    /// Takes nothing more, writes what waits within this time, and spills the rest.
    pub fn close_outbox(&self, timeout: Duration) {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        {
            let mut state = self.outbox.state();
            state.closed = true;
            state.counts.consecutive_failures = 0;
            state.deadline_ms = self.access.monotonic_ms().saturating_add(timeout_ms);
        }
        self.outbox.notify();
        let worker = self.outbox.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        match worker {
            // The last handle went in the thread itself; it ends when it is done here.
            Some(worker) if worker.thread().id() == std::thread::current().id() => {}
            Some(worker) => self.join(worker, timeout),
            None => self.write_all_within(timeout),
        }
        self.spill_leftovers();
    }

    fn join(&self, worker: JoinHandle<()>, timeout: Duration) {
        let running = |state: &mut State| state.worker == Worker::Running;
        let waited = self.outbox.changed.wait_timeout_while(self.outbox.state(), timeout, running);
        let worker_now = waited.unwrap_or_else(PoisonError::into_inner).0.worker;
        if worker_now == Worker::Running {
            // It waits for the disk. What it holds is settled by itself when the disk answers.
            tracing::error!("the thread of the outbox did not end in time");
        } else if worker.join().is_err() {
            tracing::error!("the thread of the outbox ended by a panic");
        }
    }
}

/// Says that the thread ended, however it did.
struct Running<'a>(&'a Outbox);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.worker = if state.closed { Worker::Absent } else { Worker::Dead };
        drop(state);
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_ten_seconds() {
        let pauses: Vec<u64> = (1..=12).map(pause_ms).collect();
        let wanted = [0, 0, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000];
        assert_eq!(pauses, wanted);
        assert_eq!(pause_ms(u64::MAX), PAUSE_MAX_MS);
    }
}
