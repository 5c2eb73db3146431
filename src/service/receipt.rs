//! The promise to say what became of a failure that waits in the outbox.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::DlqEntryResult;

/// Tells what became of a failure that waits to be written: it resolves once, to the final result.
/// Wait for it, or await it: it is a future that needs no runtime. With a service that has no
/// thread of its own somebody must call [`DlqService::step`](super::DlqService::step) meanwhile.
#[derive(Clone, Default)]
pub struct QueuedReceipt {
    slot: Arc<Slot>,
}

#[derive(Default)]
struct Slot {
    /// Guards the result and who waits for it; never held while somebody is woken.
    state: Mutex<State>,
    resolved: Condvar,
}

#[derive(Default)]
struct State {
    result: Option<DlqEntryResult>,
    wakers: Vec<Waker>,
}

impl QueuedReceipt {
    /// The result, if there is one already.
    pub fn result(&self) -> Option<DlqEntryResult> {
        self.state().result.clone()
    }

    /// Waits for the result, at most this long by the system's clock.
    pub fn wait_timeout(&self, timeout: Duration) -> Option<DlqEntryResult> {
        let unresolved = |state: &mut State| state.result.is_none();
        let waited = self.slot.resolved.wait_timeout_while(self.state(), timeout, unresolved);
        waited.unwrap_or_else(PoisonError::into_inner).0.result.clone()
    }

    /// Sets the result and answers with who is to be told of it.
    pub(super) fn resolve(&self, result: DlqEntryResult) -> Vec<Waker> {
        let mut state = self.state();
        state.result = Some(result);
        self.slot.resolved.notify_all();
        std::mem::take(&mut state.wakers)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.slot.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes all. A waker that panics does so after the others were woken.
pub(super) fn wake(wakers: Vec<Waker>) {
    let mut panic = None;
    for waker in wakers {
        panic = catch_unwind(AssertUnwindSafe(|| waker.wake())).err().or(panic);
    }
    if let Some(panic) = panic {
        std::panic::resume_unwind(panic);
    }
}

impl Future for QueuedReceipt {
    type Output = DlqEntryResult;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.state();
        if let Some(result) = &state.result {
            return Poll::Ready(result.clone());
        }
        if !state.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
            state.wakers.push(context.waker().clone());
        }
        Poll::Pending
    }
}

impl fmt::Debug for QueuedReceipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let resolved = self.state().result.is_some();
        f.debug_struct("QueuedReceipt").field("resolved", &resolved).finish()
    }
}
