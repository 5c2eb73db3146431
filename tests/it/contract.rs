//! The contract of a repository, asked of every implementor alike.
//!
//! [`MAKERS`] lists the implementors; whoever is there is tested here, in `transitions` and
//! against the reference model in `repository_model`. After each test the books must balance, see
//! [`check_books`].

mod acquiring;
mod ages;
mod changing;
mod completing;
mod counting;
mod creating;
mod evicting;
mod finding;
mod releasing;
mod writing;

use std::ops::Deref;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use deadletter::{
    Act, Attempt, Cause, Completion, Config, Durability, Engine, Entry, EntryId, Error,
    FailedOperationRepository, Filter, Json, Leased, Memory, MemoryRepository, NewFailure, Order,
    Page, Resolution, Status, Timestamp,
};

use crate::store::config;

/// An implementor of the contract.
#[derive(Debug, Clone, Copy)]
pub struct Maker {
    /// What its tests are called when they fail.
    pub name: &'static str,
    /// Opens what the environment holds, or makes a new one.
    open: fn(Config, Memory) -> Arc<dyn FailedOperationRepository>,
    /// Whether a second opening finds what the first one left.
    lasts: bool,
}

/// The reference model.
pub const MEMORY: Maker = Maker {
    name: "memory",
    open: |config, env| Arc::new(MemoryRepository::with(config, Arc::new(env))),
    lasts: false,
};

/// All implementors. One more is one more line.
pub const MAKERS: &[Maker] = &[MEMORY, ENGINE];

/// The engine, on a disk in memory.
const ENGINE: Maker = Maker {
    name: "engine",
    open: |config, env| Arc::new(Engine::open_with(config, Arc::new(env)).unwrap()),
    lasts: true,
};

/// How long the leases of most tests hold.
pub const LEASE: Duration = Duration::from_mins(1);

/// A repository of one implementor, with the clock it lives by.
#[derive(Debug)]
pub struct Fixture {
    pub env: Memory,
    maker: Maker,
    config: Config,
    repository: Arc<dyn FailedOperationRepository>,
}

impl Deref for Fixture {
    type Target = dyn FailedOperationRepository;

    fn deref(&self) -> &Self::Target {
        &*self.repository
    }
}

impl Fixture {
    pub fn new(maker: Maker, config: Config) -> Self {
        let env = Memory::new(1);
        let repository = (maker.open)(config.clone(), env.clone());
        Self { env, maker, config, repository }
    }

    /// As after a restart of the process: what is stored is there, and all leases are over.
    pub fn reopen(&mut self) {
        if self.maker.lasts {
            self.repository.close().unwrap();
            self.repository = (self.maker.open)(self.config.clone(), self.env.clone());
            return;
        }
        let replaying = status_filter(Status::Replaying);
        for entry in self.find(&replaying, everything()).unwrap() {
            if let Some(lease) = entry.lease {
                self.leases().end(entry.operation.id, lease.token);
            }
        }
    }

    pub fn advance_ms(&self, ms: u64) {
        self.env.advance(Duration::from_millis(ms));
    }

    pub fn store(&self, failure: NewFailure) -> EntryId {
        self.create(failure, Durability::Synced).unwrap().id
    }

    pub fn stored(&self, count: usize) -> Vec<EntryId> {
        (0..count).map(|_| self.store(failure())).collect()
    }

    pub fn get(&self, id: EntryId) -> Entry {
        self.get_by_id(id).unwrap().unwrap()
    }

    pub fn status(&self, id: EntryId) -> Status {
        self.get(id).operation.status
    }

    /// Sets a status as it is.
    pub fn put(&self, id: EntryId, status: Status) {
        assert!(self.update_status(id, status, &Resolution::default(), None).unwrap());
    }

    /// A new entry in a status; a replaying one is leased and started.
    pub fn store_in(&self, status: Status) -> EntryId {
        let id = self.store(failure());
        match status {
            Status::Pending => {}
            Status::Replaying => drop(self.acquire(id)),
            _ => self.put(id, status),
        }
        assert_eq!(self.status(id), status);
        id
    }

    /// Leases a pending entry and starts it.
    pub fn acquire(&self, id: EntryId) -> Leased {
        self.try_acquire_for_replay(id, LEASE, false, None).unwrap().unwrap().0
    }

    /// Leases pending entries without starting them.
    pub fn lease(&self, ids: &[EntryId]) -> Vec<Leased> {
        let leased = self.acquire_batch(ids, LEASE).unwrap();
        assert_eq!(leased.iter().map(|leased| leased.id).collect::<Vec<_>>(), ids);
        leased
    }

    /// Fails an entry once.
    pub fn fail(&self, id: EntryId) -> Entry {
        let leased = self.acquire(id);
        self.complete_replay(leased, &failed()).unwrap()
    }

    pub fn found(&self, filter: &Filter, page: Page) -> Vec<EntryId> {
        let found = ids(&self.find(filter, page).unwrap());
        assert_eq!(self.select(filter, page).unwrap(), found, "{filter:?} {page:?}");
        found
    }
}

/// Runs a test over every implementor, in a thread that carries its name.
pub fn each(test: fn(&mut Fixture)) {
    each_with(&config(), test);
}

pub fn each_with(config: &Config, test: fn(&mut Fixture)) {
    for maker in MAKERS {
        let mut fixture = Fixture::new(*maker, config.clone());
        let run = || {
            test(&mut fixture);
            check_books(&fixture);
        };
        let outcome = thread::scope(|scope| {
            let builder = thread::Builder::new().name(maker.name.to_owned());
            builder.spawn_scoped(scope, run).unwrap().join()
        });
        outcome.unwrap_or_else(|panic| resume_unwind(panic));
    }
}

/// What holds at every time: nothing pending is at its cap, nothing outside of a replay is leased
/// or under way, every entry that was ever captured is accounted for, and all counts agree.
pub fn check_books(repository: &Fixture) {
    let entries = repository.find(&Filter::default(), everything()).unwrap();
    for entry in &entries {
        let operation = &entry.operation;
        let id = operation.id;
        if operation.status == Status::Pending {
            assert!(operation.retry_count < operation.max_retries, "{id} is pending at its cap");
        }
        if operation.status != Status::Replaying {
            assert_eq!(entry.lease, None, "{id} is {} and leased", operation.status);
            let running = entry.attempts.iter().filter(|attempt| attempt.outcome == "started");
            assert_eq!(running.count(), 0, "{id} is {} and under way", operation.status);
        }
        let done = matches!(operation.status, Status::Resolved | Status::Archived);
        assert!(done || operation.resolved_at.is_none(), "{id} is {}", operation.status);
        check_attempts(entry);
    }
    let live = entries.len() as u64;
    let accounting = repository.accounting().unwrap();
    assert_eq!(accounting.live, live);
    let gone = accounting.purged + accounting.evicted + accounting.lost;
    assert_eq!(accounting.captured, live + gone);
    assert_eq!(repository.count(&Filter::default()).unwrap(), live);
    assert_eq!(tally(repository, Cause::Stored), accounting.captured);
    let removed: u64 = [Cause::Purged, Cause::Deleted, Cause::Evicted]
        .into_iter()
        .map(|cause| tally(repository, cause))
        .sum();
    assert_eq!(removed, gone - accounting.lost);
    let statistics = repository.get_statistics().unwrap();
    assert_eq!(statistics.total, live);
    assert_eq!(statistics.by_status.values().sum::<u64>(), live);
    assert_eq!(statistics.by_domain.values().sum::<u64>(), live);
}

/// Attempts are numbered without a gap and never restart; only the newest may be under way.
fn check_attempts(entry: &Entry) {
    let numbers: Vec<u32> = entry.attempts.iter().map(|attempt| attempt.number).collect();
    let wanted = (entry.attempts_older + 1..).take(numbers.len());
    assert_eq!(numbers, wanted.collect::<Vec<_>>(), "{}", entry.operation.id);
    for attempt in entry.attempts.iter().rev().skip(1) {
        assert_ne!(attempt.outcome, "started", "{}", entry.operation.id);
    }
}

/// How many records of a cause were ever written.
pub fn tally(repository: &Fixture, cause: Cause) -> u64 {
    let rows = repository.tallies().unwrap();
    rows.iter().filter_map(|row| row.counts.get(&cause)).sum()
}

pub fn failure() -> NewFailure {
    let request = Json::object("{\"amount\" : 1.50}").unwrap();
    NewFailure::new("payment", "PG_TIMEOUT").error("57014", "canceled").request(request)
}

pub fn of(domain: &str) -> NewFailure {
    NewFailure::new(domain, "PG_TIMEOUT")
}

pub fn delivered() -> Completion {
    Completion::Success { note: String::new(), resolution_type: String::new() }
}

pub fn failed() -> Completion {
    Completion::Failure { note: "no answer".to_owned(), not_before: None }
}

pub fn throttled() -> Completion {
    Completion::Throttled { note: String::new(), not_before: None }
}

pub fn act() -> Act {
    Act { actor: "ana".to_owned(), reason: "asked".to_owned(), ticket: "T-1".to_owned() }
}

pub fn ids(entries: &[Entry]) -> Vec<EntryId> {
    entries.iter().map(|entry| entry.operation.id).collect()
}

pub fn outcomes(entry: &Entry) -> Vec<&str> {
    entry.attempts.iter().map(|attempt: &Attempt| attempt.outcome.as_str()).collect()
}

pub fn status_filter(status: Status) -> Filter {
    Filter { status: Some(status), ..Filter::default() }
}

pub fn everything() -> Page {
    Page { order: Order::Oldest, limit: usize::MAX, ..Page::default() }
}

/// A time that is later than everything in a test.
pub fn far() -> Timestamp {
    Timestamp::MAX
}

/// An id that no test reaches.
pub const UNKNOWN: EntryId = EntryId(987_654_321);

#[track_caller]
pub fn expect_lost<T: std::fmt::Debug>(result: Result<T, Error>, wanted: EntryId) {
    let error = result.unwrap_err();
    assert!(matches!(&error, Error::LeaseLost { id } if *id == wanted.to_string()), "{error}");
}
