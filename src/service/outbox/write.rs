//! Writing a batch of the outbox, and what becomes of each of its failures.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread::ThreadId;

use super::super::caller::LateCaller;
use super::super::health::chain;
use super::super::receipt::{QueuedReceipt, wake};
use super::super::store::Refused;
use super::super::{DlqEntryResult, Inner};
use super::{Item, Outbox, SPILL_AFTER, pause_ms};
use crate::config::Durability;
use crate::engine::{BatchError, Stored};
use crate::entry::NewFailure;
use crate::error::Error;
use crate::repository::FailedOperationRepository;

/// A batch that is being written. What is not settled when it goes, waits again.
struct Flight<'a> {
    outbox: &'a Outbox,
    items: Vec<Item>,
}

/// The turn to write.
struct Turn<'a> {
    outbox: &'a Outbox,
    _held: MutexGuard<'a, ()>,
}

/// Who is to hear of a batch, once nothing is held.
#[derive(Default)]
struct Told {
    stored: Vec<(Stored, Box<NewFailure>, Option<LateCaller>)>,
    wakers: Vec<Waker>,
}

/// Where a failure ended up.
enum Fate {
    Written(Stored),
    Spilled(DlqEntryResult),
    Failed(DlqEntryResult),
}

impl Outbox {
    /// Waits for the turn to write. None when this thread has it: a listener asks that was called
    /// because of the batch that is being written.
    fn take_turn(&self) -> Option<Turn<'_>> {
        let thread: ThreadId = std::thread::current().id();
        if self.state().writer == Some(thread) {
            return None;
        }
        let held = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.state().writer = Some(thread);
        Some(Turn { outbox: self, _held: held })
    }

    fn take(&self, len_max: usize) -> Flight<'_> {
        let mut state = self.state();
        let len = state.waiting.len().min(len_max);
        let items: Vec<Item> = state.waiting.drain(..len).collect();
        state.counts.in_flight += items.len() as u64;
        Flight { outbox: self, items }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.outbox.state().writer = None;
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let mut state = self.outbox.state();
        state.counts.in_flight -= self.items.len() as u64;
        for item in self.items.drain(..).rev() {
            state.waiting.push_front(item);
        }
        drop(state);
        self.outbox.changed.notify_all();
    }
}

impl Inner {
    /// Writes one batch. Its failures are settled afterwards, or wait again for a later attempt.
    /// False, and nothing happens, when this thread is writing one already.
    pub fn write_batch(&self) -> bool {
        let Some(turn) = self.outbox.take_turn() else { return false };
        let len_max = usize::try_from(self.config().outbox_batch_size).unwrap_or(usize::MAX);
        let mut flight = self.outbox.take(len_max);
        if flight.items.is_empty() {
            return true;
        }
        let mut settled = Vec::with_capacity(flight.items.len());
        let unable = match self.open() {
            Ok(repository) => self.write_items(&repository, &mut flight.items, &mut settled),
            Err(error) => Some(error),
        };
        let failures = {
            let mut state = self.outbox.state();
            let failures = &mut state.counts.consecutive_failures;
            *failures = if unable.is_some() { *failures + 1 } else { 0 };
            let failures = *failures;
            let pause_ms = pause_ms(failures);
            state.retry_at_ms = self.access.monotonic_ms().saturating_add(pause_ms);
            failures
        };
        if let Some(error) = unable
            && (failures >= SPILL_AFTER || self.outbox.state().closed)
        {
            let spilled = self.spill_items(&chain(&error), &mut flight.items, &mut settled);
            if spilled {
                // They are safe, so nothing waits for the store to be well; the next may come.
                self.outbox.state().retry_at_ms = 0;
            }
        }
        let told = settle(flight, settled);
        drop(turn);
        self.tell_settled(told);
        true
    }

    /// Spills what nobody writes any more.
    pub fn spill_leftovers(&self) {
        let mut flight = self.outbox.take(usize::MAX);
        if flight.items.is_empty() {
            return;
        }
        let mut settled = Vec::with_capacity(flight.items.len());
        let reason = "the service was closed before the store took it";
        self.spill_items(reason, &mut flight.items, &mut settled);
        self.tell_settled(settle(flight, settled));
    }

    /// Writes the items and moves those that are settled; answers with why the others are not.
    fn write_items(
        &self,
        repository: &Arc<dyn FailedOperationRepository>,
        items: &mut Vec<Item>,
        settled: &mut Vec<(Item, Fate)>,
    ) -> Option<Error> {
        let copies: Vec<NewFailure> =
            items.iter().map(|item| NewFailure::clone(&item.failure)).collect();
        let durability = items.iter().map(|item| item.durability).min_by_key(|level| match level {
            Durability::Synced => 0,
            Durability::Written => 1,
            Durability::Queued => 2,
        });
        let durability = durability.unwrap_or_default();
        let written =
            catch_unwind(AssertUnwindSafe(|| repository.create_batch(copies, durability)));
        match written {
            Ok(Ok(stored)) if stored.len() == items.len() => {
                self.note_stored();
                self.tell_of_evictions(&**repository);
                settled.extend(items.drain(..).zip(stored.into_iter().map(Fate::Written)));
                return None;
            }
            Ok(Err(BatchError { failures, source })) => {
                // After an unknown outcome they carry keys, so that writing again yields one.
                for (item, failure) in items.iter_mut().zip(failures) {
                    *item.failure = failure;
                }
                if !source.is_of_the_failure() {
                    self.note_refusal(repository, &source);
                    return Some(source);
                }
            }
            // A panic, or an answer that does not fit: one by one it is seen who is to blame.
            _ => {}
        }
        self.write_one_by_one(items, settled)
    }

    /// One bad failure does not hold up the others.
    fn write_one_by_one(
        &self,
        items: &mut Vec<Item>,
        settled: &mut Vec<(Item, Fate)>,
    ) -> Option<Error> {
        let mut waiting = std::mem::take(items).into_iter();
        while let Some(mut item) = waiting.next() {
            let failure = std::mem::take(&mut item.failure);
            match self.create(failure, item.durability) {
                Ok((stored, failure)) => {
                    item.failure = failure;
                    settled.push((item, Fate::Written(stored)));
                }
                Err((Refused::Unable(error), failure)) => {
                    item.failure = failure;
                    items.push(item);
                    items.extend(waiting);
                    return Some(error);
                }
                Err((refused @ (Refused::BadInput(_) | Refused::NoRoom(_)), failure)) => {
                    let result = self.give_back(&refused.reason(), failure, item.caller.as_ref());
                    settled.push((item, Fate::Failed(result)));
                }
                // It would panic again, and hold up everybody.
                Err((refused @ Refused::Panicked, failure)) => {
                    item.failure = failure;
                    self.spill_item(&refused.reason(), item, true, settled);
                }
            }
        }
        None
    }

    /// Spills the items; those that cannot be spilled wait again, unless the service is closed.
    /// False when some wait.
    fn spill_items(
        &self,
        reason: &str,
        items: &mut Vec<Item>,
        settled: &mut Vec<(Item, Fate)>,
    ) -> bool {
        let last_chance = self.outbox.state().closed;
        let spilled = std::mem::take(items).into_iter();
        let kept = spilled.filter_map(|item| self.spill_item(reason, item, last_chance, settled));
        items.extend(kept);
        items.is_empty()
    }

    fn spill_item(
        &self,
        reason: &str,
        mut item: Item,
        last_chance: bool,
        settled: &mut Vec<(Item, Fate)>,
    ) -> Option<Item> {
        let failure = std::mem::take(&mut item.failure);
        match self.spill_file(failure) {
            Ok((spilled, failure)) => {
                let result = self.spilled(reason, spilled, &failure, item.caller.as_ref());
                settled.push((item, Fate::Spilled(result)));
                None
            }
            Err((second, failure)) if last_chance => {
                let both = format!("{reason}; and no fallback file either: {second}");
                let result = self.give_back(&both, failure, item.caller.as_ref());
                settled.push((item, Fate::Failed(result)));
                None
            }
            Err((_, failure)) => {
                item.failure = failure;
                Some(item)
            }
        }
    }

    fn tell_settled(&self, told: Told) {
        for (stored, failure, caller) in told.stored {
            self.tell_stored(&stored, &failure, caller.as_ref());
        }
        wake(told.wakers);
    }
}

/// Counts what is settled; the rest waits again. The counters change in one step.
fn settle(flight: Flight<'_>, settled: Vec<(Item, Fate)>) -> Told {
    let mut told = Told::default();
    let mut counts = [0, 0, 0, 0];
    for (item, fate) in settled {
        let result = match fate {
            Fate::Written(one) => {
                counts[0] += 1;
                counts[3] += u64::from(one.duplicate);
                let result = DlqEntryResult::stored(one.clone());
                told.stored.push((one, item.failure, item.caller));
                result
            }
            Fate::Spilled(result) => {
                counts[1] += 1;
                result
            }
            Fate::Failed(result) => {
                counts[2] += 1;
                result
            }
        };
        told.wakers.extend(QueuedReceipt::resolve(&item.receipt, result));
    }
    let [written, spilled, failed, duplicates] = counts;
    let mut state = flight.outbox.state();
    state.counts.in_flight -= written + spilled + failed;
    state.counts.written += written;
    state.counts.spilled += spilled;
    state.counts.failed += failed;
    state.counts.duplicates += duplicates;
    drop(state);
    drop(flight);
    told
}
