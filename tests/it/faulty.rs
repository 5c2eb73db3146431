//! A repository that fails when it is told to, with a fallback folder in memory. It tells nobody of
//! its changes, as one that a host brings may.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadletter::{
    Accounting, BatchError, Changed, Config, Decision, Durability, Entry, EntryId, Env, Error,
    Facets, FailedOperationRepository, Filter, Leases, Memory, MemoryRepository, NewFailure, Page,
    Result, Spilled, Statistics, Status, StoreError, Stored, TallyRow, Timestamp, spill_with,
};

/// A repository in memory that fails when it is told to.
#[derive(Debug)]
pub struct Faulty {
    pub memory: MemoryRepository,
    pub env: Memory,
    /// Nothing can be stored.
    pub stores_fail: AtomicBool,
    /// No entry can be changed.
    pub changes_fail: AtomicBool,
    /// Who changes an entry panics.
    pub changes_panic: AtomicBool,
    /// Nothing can be spilled.
    pub spills_fail: AtomicBool,
    /// Failures of this type are refused as bad input, others go on.
    pub refused_type: Mutex<Option<String>>,
    /// Failures of this type make it panic.
    pub panic_type: Mutex<Option<String>>,
    /// Calls of `create` and `create_batch`.
    pub calls: AtomicU64,
    /// Held while somebody wants a write to take long.
    pub gate: Mutex<()>,
}

impl Faulty {
    pub fn new() -> Arc<Self> {
        let env = Memory::new(1);
        let memory = MemoryRepository::with(config(), Arc::new(env.clone()));
        Arc::new(Self {
            memory,
            env,
            stores_fail: AtomicBool::default(),
            changes_fail: AtomicBool::default(),
            changes_panic: AtomicBool::default(),
            spills_fail: AtomicBool::default(),
            refused_type: Mutex::default(),
            panic_type: Mutex::default(),
            calls: AtomicU64::default(),
            gate: Mutex::default(),
        })
    }

    pub fn fail_stores(&self, fail: bool) {
        self.stores_fail.store(fail, Ordering::SeqCst);
    }

    pub fn fail_spills(&self, fail: bool) {
        self.spills_fail.store(fail, Ordering::SeqCst);
    }

    pub fn count(&self) -> u64 {
        self.memory.count(&Filter::default()).unwrap()
    }

    /// The fallback files.
    pub fn files(&self) -> usize {
        self.env.list("/store/fallback".as_ref()).map_or(0, |names| names.len())
    }

    fn before(&self, failure: &NewFailure) -> Result<()> {
        if self.stores_fail.load(Ordering::SeqCst) {
            return Err(io_error("write the segment"));
        }
        let panics = self.panic_type.lock().unwrap().as_ref() == Some(&failure.failure_type);
        assert!(!panics, "as it was told");
        if self.refused_type.lock().unwrap().as_ref() == Some(&failure.failure_type) {
            let (what, value, bound) = ("failure_type".into(), "bad".into(), "good".into());
            return Err(Error::Invalid { what, value, bound });
        }
        Ok(())
    }
}

pub fn config() -> Config {
    Config::new("/store")
}

fn io_error(act: &'static str) -> Error {
    let source = std::io::Error::other("the disk is gone");
    Error::Io { act, path: "/store".into(), source }
}

impl FailedOperationRepository for Faulty {
    fn create(&self, failure: NewFailure, durability: Durability) -> Result<Stored, StoreError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        drop(self.gate.lock().unwrap());
        match self.before(&failure) {
            Ok(()) => self.memory.create(failure, durability),
            Err(source) => Err(StoreError { failure: Box::new(failure), source }),
        }
    }

    fn create_batch(
        &self,
        failures: Vec<NewFailure>,
        durability: Durability,
    ) -> Result<Vec<Stored>, BatchError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        drop(self.gate.lock().unwrap());
        match failures.iter().try_for_each(|failure| self.before(failure)) {
            Ok(()) => self.memory.create_batch(failures, durability),
            Err(source) => Err(BatchError { failures, source }),
        }
    }

    fn spill(&self, failure: NewFailure) -> Result<Spilled, StoreError> {
        let panics = self.panic_type.lock().unwrap().as_ref() == Some(&failure.failure_type);
        assert!(!panics, "as it was told");
        if self.spills_fail.load(Ordering::SeqCst) {
            let source = io_error("write the fallback file");
            return Err(StoreError { failure: Box::new(failure), source });
        }
        let env: Arc<dyn Env> = Arc::new(self.env.clone());
        spill_with(&config(), &env, failure)
    }

    fn get_by_id(&self, id: EntryId) -> Result<Option<Entry>> {
        self.memory.get_by_id(id)
    }

    fn get_by_key(&self, key: &str) -> Result<Option<Entry>> {
        self.memory.get_by_key(key)
    }

    fn find(&self, filter: &Filter, page: Page) -> Result<Vec<Entry>> {
        self.memory.find(filter, page)
    }

    fn select(&self, filter: &Filter, page: Page) -> Result<Vec<EntryId>> {
        self.memory.select(filter, page)
    }

    fn count(&self, filter: &Filter) -> Result<u64> {
        self.memory.count(filter)
    }

    fn get_facet_counts(&self, status: Option<Status>, domain: Option<&str>) -> Result<Facets> {
        self.memory.get_facet_counts(status, domain)
    }

    fn get_statistics(&self) -> Result<Statistics> {
        self.memory.get_statistics()
    }

    fn tallies(&self) -> Result<Vec<TallyRow>> {
        self.memory.tallies()
    }

    fn accounting(&self) -> Result<Accounting> {
        self.memory.accounting()
    }

    fn change_all(
        &self,
        ids: &[EntryId],
        decide: &mut dyn FnMut(&Entry) -> Result<Decision>,
    ) -> Result<Vec<Changed>> {
        assert!(!self.changes_panic.load(Ordering::SeqCst), "as it was told");
        if self.changes_fail.load(Ordering::SeqCst) {
            return Err(io_error("write the segment"));
        }
        self.memory.change_all(ids, decide)
    }

    fn leases(&self) -> &Leases {
        self.memory.leases()
    }

    fn now(&self) -> Timestamp {
        self.memory.now()
    }

    fn monotonic_ms(&self) -> u64 {
        self.memory.monotonic_ms()
    }

    fn wait(&self, duration: Duration) {
        self.memory.wait(duration);
    }

    fn random(&self) -> u64 {
        self.memory.random()
    }

    fn step(&self) -> Result<()> {
        self.memory.step()
    }

    fn flush(&self) -> Result<()> {
        self.memory.flush()
    }

    fn close(&self) -> Result<()> {
        self.memory.close()
    }
}
