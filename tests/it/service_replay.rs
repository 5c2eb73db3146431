//! Replays as their users see them: what runs, what is spent, what is told, over every
//! repository.

mod batches;
mod faulty;
mod jobs;
mod pipeline;
mod recovery;
mod single;
mod throttled;
mod weaknesses;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadletter::{
    Config, DlqConfig, DlqEvent, DlqService, Durability, Engine, Entry, EntryId,
    FailedOperationRepository, Memory, MemoryRepository, NewFailure, Outcome, ReplayAttempt,
    ReplayHandler, ReplayOptions, Status, Verdict,
};

/// Makes an empty repository on this clock.
type Make = fn(&Memory) -> Arc<dyn FailedOperationRepository>;

/// Every implementor of the contract.
const MAKES: [Make; 2] = [
    |clock| Arc::new(MemoryRepository::with(Config::new("memory"), Arc::new(clock.clone()))),
    |clock| Arc::new(Engine::open_with(crate::store::config(), Arc::new(clock.clone())).unwrap()),
];

/// A service over an empty repository, on a clock that stands still, and what it told.
struct World {
    clock: Memory,
    repository: Arc<dyn FailedOperationRepository>,
    service: DlqService,
    events: Arc<Mutex<Vec<DlqEvent>>>,
}

/// Runs a test over every repository with the default settings.
fn each(test: impl Fn(&World)) {
    each_with(|_| {}, test);
}

/// Runs a test over every repository with changed settings.
fn each_with(change: impl Fn(&mut DlqConfig), test: impl Fn(&World)) {
    for make in MAKES {
        let clock = Memory::new(7);
        test(&World::over(&clock, make(&clock), &change));
    }
}

impl World {
    fn over(
        clock: &Memory,
        repository: Arc<dyn FailedOperationRepository>,
        change: impl Fn(&mut DlqConfig),
    ) -> Self {
        let mut config = DlqConfig::default();
        // Clocks jump here while handlers run, so nothing may run by itself.
        config.scheduler_enabled = false;
        change(&mut config);
        let service = DlqService::new(Some(config), Some(Arc::clone(&repository)));
        let events: Arc<Mutex<Vec<DlqEvent>>> = Arc::default();
        let told = Arc::clone(&events);
        service.on_event(move |record| told.lock().unwrap().push(record.event.clone()));
        Self { clock: clock.clone(), repository, service, events }
    }

    fn store(&self, failure: NewFailure) -> EntryId {
        self.repository.create(failure, Durability::Synced).unwrap().id
    }

    /// Stores an entry of this domain.
    fn entry(&self, domain: &str) -> EntryId {
        self.store(NewFailure::new(domain, "TIMEOUT"))
    }

    fn entries(&self, domain: &str, count: usize) -> Vec<EntryId> {
        (0..count).map(|_| self.entry(domain)).collect()
    }

    /// An entry whose last attempt was cut off, as by a power cut.
    fn suspect(&self, domain: &str) -> EntryId {
        let id = self.store(NewFailure::new(domain, "TIMEOUT").max_retries(9));
        self.die_during(id);
        id
    }

    /// Starts an attempt whose process is then gone.
    fn die_during(&self, id: EntryId) {
        let lease = Duration::from_mins(1);
        let acquired = self.repository.try_acquire_for_replay(id, lease, false, None).unwrap();
        self.repository.leases().end(id, acquired.unwrap().0.token);
        assert_eq!(self.repository.release_stale_replaying(None).unwrap().total(), 1);
    }

    fn get(&self, id: EntryId) -> Entry {
        self.repository.get_by_id(id).unwrap().unwrap()
    }

    fn status(&self, id: EntryId) -> Status {
        self.get(id).operation.status
    }

    fn register(&self, domain: &str, handler: impl ReplayHandler + 'static) {
        self.service.handlers().register(domain, Arc::new(handler));
    }

    /// The handler of all domains.
    fn handle(
        &self,
        replay: impl Fn(&ReplayAttempt<'_>) -> Outcome + Send + Sync + 'static,
    ) -> Ran {
        let ran = Ran::default();
        self.service.handlers().register_default(Arc::new(Run(replay, ran.clone())));
        ran
    }

    fn succeed(&self) -> Ran {
        self.handle(|_| Outcome::success())
    }

    fn fail(&self) -> Ran {
        self.handle(|_| Outcome::failure("no route"))
    }

    fn take_events(&self) -> Vec<DlqEvent> {
        std::mem::take(&mut *self.events.lock().unwrap())
    }

    /// The events by name, since the last call.
    fn event_names(&self) -> Vec<String> {
        let events = self.take_events();
        events.iter().map(|event| json(event)["event"].as_str().unwrap().to_owned()).collect()
    }

    /// The reasons of the blocked replays, since the last call.
    fn block_reasons(&self) -> Vec<&'static str> {
        let events = self.take_events();
        let reasons = events.iter().filter_map(|event| match event {
            DlqEvent::DlqReplayBlocked { block_reason, .. } => Some(*block_reason),
            _ => None,
        });
        reasons.collect()
    }

    fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    /// Nothing is left behind by a replay that ended.
    fn check_settled(&self) {
        let pending = self.repository.find_by_status(Status::Pending, None, None, 10_000).unwrap();
        assert!(pending.iter().all(|entry| entry.state().can_retry()), "pending at its cap");
        let replaying = self.repository.find_by_status(Status::Replaying, None, None, 10).unwrap();
        assert_eq!(replaying, [], "still leased");
    }
}

fn json(event: &DlqEvent) -> serde_json::Value {
    serde_json::to_value(event).unwrap()
}

fn options(change: impl FnOnce(&mut ReplayOptions)) -> ReplayOptions {
    let mut options = ReplayOptions::default();
    change(&mut options);
    options
}

/// The entries that a handler ran, in order.
#[derive(Debug, Clone, Default)]
struct Ran(Arc<Mutex<Vec<EntryId>>>);

impl Ran {
    fn ids(&self) -> Vec<EntryId> {
        self.0.lock().unwrap().clone()
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// A handler made of a function.
struct Run<F>(F, Ran);

impl<F: Fn(&ReplayAttempt<'_>) -> Outcome + Send + Sync> ReplayHandler for Run<F> {
    fn replay(&self, attempt: &ReplayAttempt<'_>) -> Outcome {
        self.1.0.lock().unwrap().push(attempt.entry().operation.id);
        (self.0)(attempt)
    }
}

/// A handler that would succeed, if it was asked to.
#[derive(Default)]
struct Picky {
    refuses: bool,
    unwanted: bool,
    panics: bool,
    runs: Arc<AtomicUsize>,
}

impl ReplayHandler for Picky {
    fn can_replay(&self, _: &Entry) -> Verdict {
        assert!(!self.panics, "asked at the wrong time");
        if self.refuses { Verdict::No("closed on sundays".to_owned()) } else { Verdict::Yes }
    }

    fn still_wanted(&self, _: &Entry) -> bool {
        !self.unwanted
    }

    fn replay(&self, _: &ReplayAttempt<'_>) -> Outcome {
        self.runs.fetch_add(1, Ordering::SeqCst);
        Outcome::success()
    }
}
