//! One caller's audit records, kept until its request is over and told in one go.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::{AuditRecord, DlqService};

/// The scope of one request: calls that are given it keep their audit records here, and the
/// listeners hear them when [`flush`](Self::flush) is called or the scope is dropped. Each record
/// is told once, in its order.
///
/// # Example
///
/// ```
/// # use deadletter::{DlqConfig, DlqService, MemoryRepository, NewFailure};
/// # let repository = std::sync::Arc::new(MemoryRepository::new());
/// let service = DlqService::new(Some(DlqConfig::default()), Some(repository));
/// let caller = service.caller_context("alice");
/// caller.service().store_failure(NewFailure::new("orders", "TIMEOUT"));
/// caller.service().replay(None, None)?;
/// caller.flush();
/// # Ok::<(), deadletter::DlqError>(())
/// ```
#[derive(Debug)]
pub struct CallerContext {
    service: DlqService,
    actor: Arc<str>,
    records: Arc<Records>,
}

/// Where a record goes that comes later, from another thread: to its caller while that is there.
#[derive(Debug, Clone)]
pub(super) struct LateCaller {
    actor: Arc<str>,
    records: Weak<Records>,
}

#[derive(Debug, Default)]
struct Records {
    /// Guards the records; never held while a listener runs.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<AuditRecord>,
    /// Somebody tells them right now; whoever comes meanwhile leaves it to that one.
    telling: bool,
    /// The scope is over.
    ended: bool,
}

impl CallerContext {
    pub(super) fn new(service: DlqService, actor: &str) -> Self {
        Self { service, actor: actor.into(), records: Arc::default() }
    }

    /// Who acts.
    pub fn actor(&self) -> &str {
        &self.actor
    }

    /// The service as this caller uses it: whatever is stored, replayed, resolved or maintained
    /// through this handle is kept here instead of being told at once.
    pub fn service(&self) -> DlqService {
        DlqService { caller: Some(self.late()), ..self.service.clone() }
    }

    /// Tells the listeners what was kept so far; nothing is told twice.
    pub fn flush(&self) {
        if std::mem::replace(&mut self.state().telling, true) {
            return;
        }
        loop {
            let mut state = self.state();
            let Some(record) = state.waiting.pop_front() else {
                state.telling = false;
                return;
            };
            drop(state);
            self.service.inner.listeners.tell(&record);
        }
    }

    pub(super) fn late(&self) -> LateCaller {
        let records = Arc::downgrade(&self.records);
        LateCaller { actor: Arc::clone(&self.actor), records }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.records.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for CallerContext {
    fn drop(&mut self) {
        self.state().ended = true;
        self.flush();
    }
}

impl LateCaller {
    /// Keeps a record for the caller; gives it back when the caller is gone.
    pub fn keep(&self, mut record: AuditRecord) -> Option<AuditRecord> {
        record.actor = Some(self.actor.to_string());
        let Some(records) = self.records.upgrade() else { return Some(record) };
        let mut state = records.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.ended {
            return Some(record);
        }
        state.waiting.push_back(record);
        None
    }
}
