//! The repository of a service: one that was given, or one that is opened at its first use, and
//! opened again at most once a second while that fails.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use super::health::Trouble;
use super::{Inner, Opener};
use crate::config::{Config, DlqConfig, Durability};
use crate::engine::{Engine, Spilled, StoreError, spill_with};
use crate::entry::{NewFailure, Timestamp};
use crate::env::Env;
use crate::error::{Error, Result};
use crate::repository::FailedOperationRepository;
use crate::settings::{self, Settings, Variables};

/// A store that does not open is left alone for so long.
const RETRY_MS: u64 = 1000;

type Repository = Arc<dyn FailedOperationRepository>;

/// Where the repository comes from.
pub(super) enum Source {
    /// The host brought it.
    Given(Repository),
    /// It is opened with these settings.
    Config(Box<Config>),
    /// It is opened with the settings that these variables give when they are asked.
    Variables(Box<dyn Fn() -> Variables + Send + Sync>),
}

/// The way to the repository.
pub(super) struct Access {
    source: Source,
    env: Arc<dyn Env>,
    opener: Opener,
    /// Guards the turn to open or close the store; held meanwhile, since nobody can do anything
    /// without it.
    turn: Mutex<()>,
    /// Guards what is open.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    repository: Option<Repository>,
    /// The settings of the store as far as they are known, for fallback files and durability.
    engine: Option<Config>,
    /// Why the last attempt failed, and when the next one may be.
    failed: Option<(Arc<Error>, u64)>,
    closed: bool,
}

/// Opens the engine as a repository.
pub(super) fn open_engine(config: Config, env: Arc<dyn Env>) -> Result<Repository> {
    Ok(Arc::new(Engine::open_with(config, env)?))
}

impl Access {
    pub fn new(source: Source, env: Arc<dyn Env>, opener: Opener) -> Self {
        let mut state = State::default();
        match &source {
            Source::Given(repository) => state.repository = Some(Arc::clone(repository)),
            Source::Config(config) => state.engine = Some(Config::clone(config)),
            Source::Variables(_) => {}
        }
        Self { source, env, opener, turn: Mutex::default(), state: Mutex::new(state) }
    }

    /// What the variables say, when they are asked at all.
    pub fn read_settings(&self) -> Option<Settings> {
        let Source::Variables(variables) = &self.source else { return None };
        let settings = settings::read(&variables());
        self.state().engine.clone_from(&settings.engine);
        Some(settings)
    }

    pub fn is_given(&self) -> bool {
        matches!(self.source, Source::Given(_))
    }

    /// The repository, if it is open.
    pub fn current(&self) -> Option<Repository> {
        self.state().repository.clone()
    }

    pub fn now(&self) -> Timestamp {
        match &self.source {
            Source::Given(repository) => repository.now(),
            _ => Timestamp(self.env.wall_ms()),
        }
    }

    /// The time by which entries age; what the wall clock shows while no repository is open.
    pub fn trusted_now(&self) -> Timestamp {
        match self.current() {
            Some(repository) => repository.trusted_now(),
            None => self.now(),
        }
    }

    pub fn monotonic_ms(&self) -> u64 {
        match &self.source {
            Source::Given(repository) => repository.monotonic_ms(),
            _ => self.env.monotonic_ms(),
        }
    }

    pub fn wait(&self, duration: std::time::Duration) {
        match &self.source {
            Source::Given(repository) => repository.wait(duration),
            _ => self.env.sleep(duration),
        }
    }

    /// What a store call reaches that does not say it.
    pub fn durability(&self) -> Durability {
        self.state().engine.as_ref().map_or(Durability::Synced, |config| config.durability)
    }

    /// Keeps a failure in a fallback file.
    pub fn spill(&self, failure: NewFailure) -> Result<Spilled, StoreError> {
        if let Source::Given(repository) = &self.source {
            return repository.spill(failure);
        }
        let state = self.state();
        let (repository, engine) = (state.repository.clone(), state.engine.clone());
        drop(state);
        match (repository, engine) {
            (Some(repository), _) => repository.spill(failure),
            (None, Some(config)) => spill_with(&config, &self.env, failure),
            (None, None) => {
                let bound = "the path of a directory to keep failures in";
                let source = Error::invalid("DEADLETTER_DIR", "not set", bound);
                Err(StoreError { failure: Box::new(failure), source })
            }
        }
    }

    /// Lets go of the repository for good.
    pub fn close(&self) -> Option<Repository> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state();
        state.closed = true;
        state.repository.take()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nothing is open, unless it is time to try.
    fn recent_failure(&self) -> Result<()> {
        let state = self.state();
        if state.closed {
            return Err(Error::Closed);
        }
        match &state.failed {
            Some((error, next_ms)) if self.monotonic_ms() < *next_ms => {
                Err(Error::NotOpen { source: Arc::clone(error) })
            }
            _ => Ok(()),
        }
    }

    fn fail(&self, error: Error) -> Arc<Error> {
        let source = Arc::new(error);
        let next_ms = self.monotonic_ms().saturating_add(RETRY_MS);
        self.state().failed = Some((Arc::clone(&source), next_ms));
        source
    }
}

impl Inner {
    /// The repository; opens it if it is not open and it is time to try.
    pub fn open(&self) -> Result<Repository> {
        let access = &self.access;
        if let Some(repository) = access.current() {
            match repository.failure() {
                Some(error) if !access.is_given() => {
                    self.note(Trouble::Store, Some(&error));
                    self.give_up(&repository, &error);
                }
                _ => {
                    self.schedule_for(&repository);
                    self.tell_of_jumps(&*repository);
                    return Ok(repository);
                }
            }
        }
        // Only a first opening is waited for: it may be long, and later ones fail often.
        let failed_before = access.state().failed.clone();
        let turn = match (access.turn.try_lock(), failed_before) {
            (Ok(turn), _) => turn,
            (Err(TryLockError::Poisoned(turn)), _) => turn.into_inner(),
            (Err(TryLockError::WouldBlock), Some((source, _))) => {
                return Err(Error::NotOpen { source });
            }
            (Err(TryLockError::WouldBlock), None) => {
                access.turn.lock().unwrap_or_else(PoisonError::into_inner)
            }
        };
        if let Some(repository) = access.current() {
            return Ok(repository);
        }
        access.recent_failure()?;
        let opened = self.open_now().map_err(|(trouble, error)| (trouble, access.fail(error)));
        if let Ok(repository) = &opened {
            let mut state = access.state();
            (state.repository, state.failed) = (Some(Arc::clone(repository)), None);
        }
        // Whoever hears of it may use the service, so nothing is held any more.
        drop(turn);
        match opened {
            Ok(repository) => {
                self.condition().set(Trouble::Open, None);
                self.condition().set(Trouble::Store, None);
                self.settle_health();
                self.reschedule();
                self.schedule_for(&repository);
                self.jumps_told.store(0, Ordering::Relaxed);
                self.tell_of_jumps(&*repository);
                Ok(repository)
            }
            Err((trouble, source)) => {
                tracing::warn!(error = super::health::chain(&source), "the store does not open");
                self.note(trouble, Some(&source));
                Err(Error::NotOpen { source })
            }
        }
    }

    fn open_now(&self) -> Result<Repository, (Trouble, Error)> {
        let config = match self.access.read_settings() {
            Some(settings) => self.take_settings(settings)?,
            None => match &self.access.source {
                Source::Config(config) => Config::clone(config),
                _ => return Err((Trouble::Open, Error::Closed)),
            },
        };
        let opened = (self.access.opener)(config, Arc::clone(&self.access.env));
        opened.map_err(|error| (Trouble::Open, error))
    }

    /// Takes over what the variables say now, unless the host gave settings of its own. Whoever
    /// calls settles the health, once nothing is held.
    fn take_settings(&self, settings: Settings) -> Result<Config, (Trouble, Error)> {
        if self.follows_settings() {
            if let Some(error) = settings.service_error {
                return Err((Trouble::Settings, error));
            }
            self.put_config(settings.service);
            self.condition().set(Trouble::Settings, None);
        }
        match (settings.engine, settings.engine_error) {
            (Some(config), None) => Ok(config),
            (_, Some(error)) => Err((Trouble::Open, error)),
            (None, None) => Err((Trouble::Open, Error::Closed)),
        }
    }

    /// The log takes nothing more until it is opened again: lets go of it, so that the next call
    /// does that. A repository of the host's is the host's to open.
    pub fn give_up(&self, repository: &Repository, error: &Error) {
        if self.access.is_given() || !is_latched(error) {
            return;
        }
        let mut state = self.access.state();
        if !state.repository.as_ref().is_some_and(|open| Arc::ptr_eq(open, repository)) {
            return;
        }
        state.repository = None;
        let reason = super::health::chain(error);
        let next_ms = self.access.monotonic_ms().saturating_add(RETRY_MS);
        state.failed = Some((Arc::new(Error::Poisoned { reason }), next_ms));
        drop(state);
        if let Err(error) = repository.close() {
            tracing::warn!(error = super::health::chain(&error), "a failed store was let go");
        }
    }
}

/// The first settings of a service: those given, else what the variables say.
pub(super) fn first_settings(
    access: &Access,
    given: Option<DlqConfig>,
) -> (DlqConfig, Option<Error>) {
    match (given, access.read_settings()) {
        (Some(config), _) => (config, None),
        (None, Some(settings)) => (settings.service, settings.service_error),
        (None, None) => {
            let Settings { service, service_error, .. } = settings::read(&settings::variables());
            (service, service_error)
        }
    }
}

/// Whether this is of a log that takes nothing more until it is opened again.
fn is_latched(error: &Error) -> bool {
    matches!(error, Error::Poisoned { .. } | Error::Indeterminate { .. } | Error::Closed)
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("repository", &self.current()).finish_non_exhaustive()
    }
}
