//! The service: the reference's API over any repository.
//!
//! `store` takes failures in, at once or through the `outbox`; `query` finds them, `entry` acts on
//! single ones, `replay` runs handlers and `retry` runs one because a person says so,
//! `maintenance` lets entries age, `schedule` by itself, `summaries` knows of those that had to go.
//! `open` knows the way to the repository, `health` what is wrong.
//! Everything that happens is told to the listeners (`event`), at once or when a `caller` is done.

mod caller;
mod entry;
mod event;
mod health;
mod maintenance;
mod open;
mod outbox;
mod process;
mod query;
mod receipt;
mod replay;
mod result;
mod retry;
mod schedule;
mod store;
mod summaries;
mod test_entry;

use std::ffi::OsString;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use crate::config::{Background, Config, DlqConfig};
use crate::entry::Timestamp;
use crate::env::{Disk, Env};
use crate::error::{DlqError, DlqResult, Error, Result};
use crate::replay::Handlers;
use crate::repository::FailedOperationRepository;

pub use caller::CallerContext;
pub use entry::{History, ResolveBatchResult, ResolveError, ResolveRequest, ResolveResult};
pub use event::{AuditRecord, DlqEvent};
pub use health::{Health, HealthStatus};
pub use maintenance::{CleanupResult, PurgeSelection};
pub use outbox::OutboxStats;
pub use process::{get_dlq_service, reset_dlq_service, store_to_dlq};
pub use query::{DomainCounters, EntryPage, ListRequest, ServiceStats};
pub use receipt::QueuedReceipt;
pub use replay::{
    DlqBatchReplayStats, DlqRecoveryResult, DlqThrottleBatchReplayResult, DlqThrottleReplayResult,
    EarlyStop, ReplayOptions, ReplayPreview, Skip,
};
pub use result::{DlqEntryResult, Reached};
pub use retry::RetryResult;
pub use schedule::{Job, JobStats, ScheduleStats};
pub use store::{StoreMode, StoreOptions};
pub use test_entry::TestEntry;

use event::Listeners;
use health::{Condition, Trouble};
use open::{Access, Source};
use outbox::Outbox;
use schedule::Schedule;

/// Opens a repository in a directory.
type Opener =
    Arc<dyn Fn(Config, Arc<dyn Env>) -> Result<Arc<dyn FailedOperationRepository>> + Send + Sync>;

/// The dead-letter service. Handles are cheap to clone and share everything. Once it is in use,
/// entries age by themselves, see [`DlqService::schedule`]. It closes with
/// [`DlqService::close`], or when the last handle is dropped; then a repository that the host
/// brought stays open.
///
/// # Example
///
/// ```
/// use deadletter::{DlqConfig, DlqService, MemoryRepository, NewFailure};
///
/// let repository = std::sync::Arc::new(MemoryRepository::new());
/// let service = DlqService::new(Some(DlqConfig::default()), Some(repository));
/// let result = service.store_failure(NewFailure::new("payment", "PG_TIMEOUT"));
/// assert!(result.success && result.dlq_id.is_some());
/// ```
#[derive(Debug, Clone)]
pub struct DlqService {
    inner: Arc<Inner>,
    /// Who keeps what this handle would tell the listeners.
    caller: Option<caller::LateCaller>,
    /// Shared by all handles; the last one closes the service.
    _owner: Arc<Owner>,
}

#[derive(Debug)]
struct Inner {
    me: Weak<Inner>,
    /// Guards the settings; whoever works takes a copy first.
    config: RwLock<Arc<DlqConfig>>,
    /// The settings are those of the environment, and change with it while the store is closed.
    follows_settings: AtomicBool,
    access: Access,
    outbox: Outbox,
    schedule: Schedule,
    handlers: Handlers,
    listeners: Listeners,
    replay: replay::Kept,
    domains: store::Domains,
    told: summaries::Told,
    /// Guards what is known of the health.
    condition: Mutex<Condition>,
    /// Jumps of the wall clock, as the open repository counts them, that listeners know of.
    jumps_told: AtomicU64,
    closed: AtomicBool,
}

/// Closes the service when the last handle goes.
#[derive(Debug)]
struct Owner {
    inner: Arc<Inner>,
}

/// Makes a service whose parts the host chooses; what is not chosen is as in
/// [`DlqService::new`].
#[must_use]
pub struct DlqServiceBuilder {
    config: Option<DlqConfig>,
    source: Option<Source>,
    env: Option<Arc<dyn Env>>,
    opener: Opener,
    background: Background,
}

impl DlqServiceBuilder {
    /// With these settings instead of those of the environment.
    pub fn config(mut self, config: DlqConfig) -> Self {
        self.config = Some(config);
        self
    }

    /// Over this repository.
    pub fn repository(mut self, repository: Arc<dyn FailedOperationRepository>) -> Self {
        self.source = Some(Source::Given(repository));
        self
    }

    /// Over a store that is opened with these settings at its first use.
    pub fn engine(mut self, config: Config) -> Self {
        self.source = Some(Source::Config(Box::new(config)));
        self
    }

    /// With settings from these variables instead of the process's, asked anew at each opening.
    pub fn variables(
        mut self,
        variables: impl Fn() -> Vec<(OsString, OsString)> + Send + Sync + 'static,
    ) -> Self {
        self.source = Some(Source::Variables(Box::new(variables)));
        self
    }

    /// With this instead of the real disk and clock. A repository that was given has its own.
    pub fn env(mut self, env: Arc<dyn Env>) -> Self {
        self.env = Some(env);
        self
    }

    /// Opens its repository by this instead of the engine.
    pub fn opener(
        mut self,
        opener: impl Fn(Config, Arc<dyn Env>) -> Result<Arc<dyn FailedOperationRepository>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.opener = Arc::new(opener);
        self
    }

    /// With [`Background::Manual`] no thread is started and nothing runs by itself; the host calls [`DlqService::step`].
    pub fn background(mut self, background: Background) -> Self {
        self.background = background;
        self
    }

    /// The service. Nothing is opened yet.
    pub fn build(self) -> DlqService {
        let Self { config, source, env, opener, background } = self;
        let source =
            source.unwrap_or_else(|| Source::Variables(Box::new(crate::settings::variables)));
        let env = env.unwrap_or_else(|| Arc::new(Disk::new()));
        let access = Access::new(source, env, opener);
        let follows_settings = AtomicBool::new(config.is_none());
        let (config, error) = open::first_settings(&access, config);
        let mut condition = Condition::new(access.now(), config.enabled);
        condition.set(Trouble::Settings, error.as_ref());
        condition.settle(config.enabled, access.now());
        let threaded = background == Background::Threads;
        let schedule = Schedule::new(threaded, &config);
        let inner = Arc::new_cyclic(|me| Inner {
            me: Weak::clone(me),
            config: RwLock::new(Arc::new(config)),
            follows_settings,
            access,
            outbox: Outbox::new(threaded),
            schedule,
            handlers: Handlers::default(),
            listeners: Listeners::default(),
            replay: replay::Kept::default(),
            domains: store::Domains::default(),
            told: summaries::Told::default(),
            condition: Mutex::new(condition),
            jumps_told: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        });
        DlqService { inner: Arc::clone(&inner), caller: None, _owner: Arc::new(Owner { inner }) }
    }
}

impl DlqService {
    /// A service with these settings over this repository. Without settings it takes those of the
    /// environment; without a repository it opens a store in the directory that they name, when
    /// one is first needed. Never fails: what is wrong is in [`DlqService::health`], failures go
    /// to fallback files meanwhile, and opening is tried again at most once a second.
    pub fn new(
        config: Option<DlqConfig>,
        repository: Option<Arc<dyn FailedOperationRepository>>,
    ) -> Self {
        let mut builder = Self::builder();
        builder.config = config;
        builder.source = repository.map(Source::Given);
        builder.build()
    }

    /// A service whose parts the host chooses.
    pub fn builder() -> DlqServiceBuilder {
        DlqServiceBuilder {
            config: None,
            source: None,
            env: None,
            opener: Arc::new(open::open_engine),
            background: Background::Threads,
        }
    }

    /// The settings as they are now.
    pub fn config(&self) -> Arc<DlqConfig> {
        self.inner.config()
    }

    /// Takes new settings from now on, for entries that are stored or replayed later.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when they are out of their bounds or do not fit together; the old ones
    /// stay.
    pub fn set_config(&self, config: DlqConfig) -> DlqResult<()> {
        config.check()?;
        self.inner.follows_settings.store(false, Ordering::Release);
        self.inner.put_config(config);
        self.inner.condition().set(Trouble::Settings, None);
        self.inner.settle_health();
        self.inner.outbox.notify();
        self.inner.reschedule();
        Ok(())
    }

    /// Whether failures are stored and replayed.
    pub fn is_enabled(&self) -> bool {
        self.config().enabled
    }

    /// How the service is, and what to do if it is not well.
    pub fn health(&self) -> Health {
        let failure = self.inner.access.current().and_then(|repository| repository.failure());
        if let Some(error) = failure.filter(|_| !self.inner.is_closed()) {
            self.inner.note(Trouble::Store, Some(&error));
        }
        let space = self.inner.look_at_space();
        let mut health = self.inner.condition().health();
        health.level = space.as_ref().map(|space| space.level);
        health.full_in_ms = space.and_then(|space| space.full_in_ms);
        health
    }

    /// The handlers that replay entries, by domain.
    pub fn handlers(&self) -> &Handlers {
        &self.inner.handlers
    }

    /// Calls `listener` with every event from now on, in the thread in which it happens and
    /// outside of all locks. A panic of the listener is contained. A listener that owns a handle
    /// keeps the service open.
    pub fn on_event(&self, listener: impl Fn(&AuditRecord) + Send + Sync + 'static) {
        self.inner.listeners.add(Arc::new(listener));
    }

    /// The scope of one request of this actor, which keeps its audit records together.
    pub fn caller_context(&self, actor: &str) -> CallerContext {
        CallerContext::new(self.clone(), actor)
    }

    /// The repository; opens it at the first use.
    ///
    /// # Errors
    ///
    /// [`DlqError::Engine`] with [`Error::Closed`] after the service was closed, or with
    /// [`Error::NotOpen`] and the reason why the store does not open.
    pub fn repository(&self) -> DlqResult<Arc<dyn FailedOperationRepository>> {
        if self.inner.is_closed() {
            return Err(DlqError::Engine(Error::Closed));
        }
        Ok(self.inner.open()?)
    }

    /// Does a little of the work that no call waits for: writes a batch of the outbox and does a
    /// part of each sweep if it is due, and lets the repository do its own. What a sweep fails with
    /// is in [`schedule`](Self::schedule). Tells of a wall clock that jumped.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] after the service was closed, or what the repository's work failed with.
    pub fn step(&self) -> DlqResult<()> {
        if self.inner.is_closed() {
            return Err(DlqError::Engine(Error::Closed));
        }
        self.inner.write_if_due();
        let Some(repository) = self.inner.access.current() else { return Ok(()) };
        self.inner.step_schedule(&repository);
        let stepped = repository.step();
        self.inner.tell_of_evictions(&*repository);
        self.inner.tell_of_jumps(&*repository);
        stepped?;
        if self.inner.condition().has(Trouble::Space) {
            self.inner.look_at_space();
        }
        Ok(())
    }

    /// Closes the service for all its handles: ends what runs by itself, takes no more failures,
    /// writes what waits in the outbox, puts what cannot be written in time into fallback files,
    /// closes the repository and frees its lock. Later calls answer [`Error::Closed`]. Closing twice is no error.
    ///
    /// # Errors
    ///
    /// When the repository could not make everything durable.
    pub fn close(&self) -> DlqResult<()> {
        Ok(self.inner.close(true)?)
    }

    /// Tells the listeners.
    fn tell(&self, repository: &dyn FailedOperationRepository, event: DlqEvent) {
        let record = AuditRecord { at: repository.now(), actor: None, event };
        self.inner.tell(self.caller.as_ref(), record);
    }
}

impl Inner {
    pub fn config(&self) -> Arc<DlqConfig> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn follows_settings(&self) -> bool {
        self.follows_settings.load(Ordering::Acquire)
    }

    /// Now, by the clock of the repository, else of the environment.
    pub fn now(&self) -> Timestamp {
        self.access.now()
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn put_config(&self, config: DlqConfig) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    fn condition(&self) -> std::sync::MutexGuard<'_, Condition> {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that something is wrong, or well again.
    pub fn note(&self, trouble: Trouble, error: Option<&Error>) {
        let mut condition = self.condition();
        if error.is_none() && !condition.has(trouble) {
            return;
        }
        condition.set(trouble, error);
        drop(condition);
        self.settle_health();
    }

    /// Tells the listeners when the health changed.
    fn settle_health(&self) {
        let (enabled, now) = (self.config().enabled, self.access.now());
        let mut condition = self.condition();
        if !condition.settle(enabled, now) {
            return;
        }
        let health = condition.health();
        drop(condition);
        let (healthy, reason) = (health.status == HealthStatus::Ok, health.reason);
        self.tell_now(DlqEvent::DlqHealthChanged { healthy, reason });
    }

    /// Tells the listeners of something that no caller did.
    pub fn tell_now(&self, event: DlqEvent) {
        self.tell(None, AuditRecord { at: self.access.now(), actor: None, event });
    }

    /// Tells the listeners when the wall clock jumped since they were told: of the last jump, if
    /// nobody looked in between.
    pub fn tell_of_jumps(&self, repository: &dyn FailedOperationRepository) {
        let Some(clock) = repository.clock() else { return };
        let Some(jump) = clock.last_jump else { return };
        let told = self.jumps_told.fetch_max(clock.jumps_since_open, Ordering::Relaxed);
        if told < clock.jumps_since_open {
            let believed = clock.pending.is_none();
            let (from, to) = (jump.from, jump.to);
            // What was due at some time may be due at any other now.
            self.reschedule();
            self.tell_now(DlqEvent::DlqClockJumped { from, to, believed });
        }
    }

    fn tell(&self, caller: Option<&caller::LateCaller>, record: AuditRecord) {
        let late = match caller {
            Some(caller) => caller.keep(record),
            None => Some(record),
        };
        if let Some(record) = late {
            self.listeners.tell(&record);
        }
    }

    fn close(&self, with_given: bool) -> Result<()> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let timeout = Duration::from_millis(self.config().outbox_join_timeout_ms);
        self.close_schedule(timeout);
        self.close_outbox(timeout);
        let given = self.access.is_given();
        let closed = match self.access.close() {
            Some(repository) if with_given || !given => repository.close(),
            _ => Ok(()),
        };
        self.condition().closed = true;
        self.settle_health();
        closed
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if let Err(error) = self.inner.close(false) {
            tracing::error!(error = health::chain(&error), "the service was not closed cleanly");
        }
    }
}

impl fmt::Debug for DlqServiceBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DlqServiceBuilder").field("config", &self.config).finish_non_exhaustive()
    }
}
