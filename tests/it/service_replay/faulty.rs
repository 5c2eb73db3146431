//! A repository whose changes fail when a test says so.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use deadletter::{
    Accounting, BatchError, Changed, Decision, Durability, Entry, EntryId, Error, Facets,
    FailedOperationRepository, Filter, Leases, MemoryRepository, NewFailure, Page, Result, Spilled,
    Statistics, Status, StoreError, Stored, TallyRow, Timestamp,
};

/// Makes the error of a change, given its number from 1.
type Fault = Box<dyn Fn(u64) -> Option<Error> + Send>;

/// Everything but changes goes through.
pub struct Faulty {
    inner: MemoryRepository,
    changes: AtomicU64,
    fault: Mutex<Fault>,
}

impl std::fmt::Debug for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Faulty").field("changes", &self.changes).finish_non_exhaustive()
    }
}

impl Faulty {
    pub fn new(inner: MemoryRepository) -> Self {
        Self { inner, changes: AtomicU64::new(0), fault: Mutex::new(Box::new(|_| None)) }
    }

    /// From now on, changes are counted from 1 and fail like this.
    pub fn fault(&self, fault: impl Fn(u64) -> Option<Error> + Send + 'static) {
        self.changes.store(0, Ordering::SeqCst);
        *self.fault.lock().unwrap() = Box::new(fault);
    }
}

pub fn poisoned() -> Error {
    Error::Poisoned { reason: "the disk is gone".to_owned() }
}

impl FailedOperationRepository for Faulty {
    fn change_all(
        &self,
        ids: &[EntryId],
        decide: &mut dyn FnMut(&Entry) -> Result<Decision>,
    ) -> Result<Vec<Changed>> {
        let number = self.changes.fetch_add(1, Ordering::SeqCst) + 1;
        let fault = self.fault.lock().unwrap()(number);
        fault.map_or_else(|| self.inner.change_all(ids, decide), Err)
    }

    fn create(&self, failure: NewFailure, durability: Durability) -> Result<Stored, StoreError> {
        self.inner.create(failure, durability)
    }

    fn create_batch(
        &self,
        failures: Vec<NewFailure>,
        durability: Durability,
    ) -> Result<Vec<Stored>, BatchError> {
        self.inner.create_batch(failures, durability)
    }

    fn spill(&self, failure: NewFailure) -> Result<Spilled, StoreError> {
        self.inner.spill(failure)
    }

    fn get_by_id(&self, id: EntryId) -> Result<Option<Entry>> {
        self.inner.get_by_id(id)
    }

    fn get_by_key(&self, key: &str) -> Result<Option<Entry>> {
        self.inner.get_by_key(key)
    }

    fn find(&self, filter: &Filter, page: Page) -> Result<Vec<Entry>> {
        self.inner.find(filter, page)
    }

    fn select(&self, filter: &Filter, page: Page) -> Result<Vec<EntryId>> {
        self.inner.select(filter, page)
    }

    fn count(&self, filter: &Filter) -> Result<u64> {
        self.inner.count(filter)
    }

    fn get_facet_counts(&self, status: Option<Status>, domain: Option<&str>) -> Result<Facets> {
        self.inner.get_facet_counts(status, domain)
    }

    fn get_statistics(&self) -> Result<Statistics> {
        self.inner.get_statistics()
    }

    fn tallies(&self) -> Result<Vec<TallyRow>> {
        self.inner.tallies()
    }

    fn accounting(&self) -> Result<Accounting> {
        self.inner.accounting()
    }

    fn leases(&self) -> &Leases {
        self.inner.leases()
    }

    fn now(&self) -> Timestamp {
        self.inner.now()
    }

    fn monotonic_ms(&self) -> u64 {
        self.inner.monotonic_ms()
    }

    fn wait(&self, duration: Duration) {
        self.inner.wait(duration);
    }

    fn random(&self) -> u64 {
        self.inner.random()
    }

    fn step(&self) -> Result<()> {
        self.inner.step()
    }

    fn flush(&self) -> Result<()> {
        self.inner.flush()
    }

    fn close(&self) -> Result<()> {
        self.inner.close()
    }
}
