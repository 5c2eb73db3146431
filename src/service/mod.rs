//! The service: the reference's API over any repository.
//!
//! `store` takes failures in, `query` finds them, `entry` acts on single ones, `replay` runs
//! handlers and `retry` runs one because a person says so, `maintenance` lets entries age.
//! Everything that happens is told to the listeners (`event`).

mod entry;
mod event;
mod maintenance;
mod query;
mod replay;
mod retry;
mod store;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::config::DlqConfig;
use crate::error::{DlqError, DlqResult, Error};
use crate::replay::Handlers;
use crate::repository::FailedOperationRepository;

pub use entry::{History, ResolveBatchResult, ResolveError, ResolveRequest, ResolveResult};
pub use event::{AuditRecord, DlqEvent};
pub use maintenance::{CleanupResult, PurgeSelection};
pub use query::{DomainCounters, EntryPage, ListRequest, ServiceStats};
pub use replay::{
    DlqBatchReplayStats, DlqRecoveryResult, DlqThrottleBatchReplayResult, DlqThrottleReplayResult,
    EarlyStop, ReplayOptions, ReplayPreview, Skip,
};
pub use retry::RetryResult;

use event::Listeners;

/// The dead-letter service. Handles are cheap to clone and share everything.
#[derive(Debug, Clone)]
pub struct DlqService {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Guards the settings; whoever works takes a copy first.
    config: RwLock<Arc<DlqConfig>>,
    /// Guards the repository, which may not be open yet.
    repository: RwLock<Option<Arc<dyn FailedOperationRepository>>>,
    handlers: Handlers,
    listeners: Listeners,
    replay: replay::Kept,
    closed: AtomicBool,
}

impl DlqService {
    /// A service over this repository with these settings.
    pub fn new(
        config: Option<DlqConfig>,
        repository: Option<Arc<dyn FailedOperationRepository>>,
    ) -> Self {
        let inner = Inner {
            config: RwLock::new(Arc::new(config.unwrap_or_default())),
            repository: RwLock::new(repository),
            handlers: Handlers::default(),
            listeners: Listeners::default(),
            replay: replay::Kept::default(),
            closed: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The settings as they are now.
    pub fn config(&self) -> Arc<DlqConfig> {
        Arc::clone(&self.inner.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether failures are stored and replayed.
    pub fn is_enabled(&self) -> bool {
        self.config().enabled
    }

    /// The handlers that replay entries, by domain.
    pub fn handlers(&self) -> &Handlers {
        &self.inner.handlers
    }

    /// Calls `listener` with every event from now on, in the thread in which it happens and
    /// outside of all locks. A panic of the listener is contained.
    pub fn on_event(&self, listener: impl Fn(&AuditRecord) + Send + Sync + 'static) {
        self.inner.listeners.add(Arc::new(listener));
    }

    /// The repository.
    ///
    /// # Errors
    ///
    /// [`DlqError::Engine`] with [`Error::Closed`] after the service was closed, or with the
    /// reason why the store does not open.
    pub fn repository(&self) -> DlqResult<Arc<dyn FailedOperationRepository>> {
        if self.inner.closed.load(Ordering::Acquire) {
            return Err(DlqError::Engine(Error::Closed));
        }
        let repository = self.inner.repository.read().unwrap_or_else(PoisonError::into_inner);
        repository.clone().ok_or(DlqError::Engine(Error::Closed))
    }

    /// Tells the listeners.
    fn tell(&self, repository: &dyn FailedOperationRepository, event: DlqEvent) {
        self.inner.listeners.tell(&AuditRecord { at: repository.now(), event });
    }
}
