//! A repository that a host brings: it has the primitives only, and passes them on.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use deadletter::{
    Accounting, BatchError, Changed, Decision, Durability, Entry, EntryId, Facets,
    FailedOperationRepository, Filter, Leases, NewFailure, Page, Result, Spilled, Statistics,
    Status, StoreError, Stored, TallyRow, Timestamp,
};

use crate::contract::Fixture;

/// Stands before a repository; counts what the provided methods ask of the primitives.
pub struct StandIn<'a> {
    inner: &'a dyn FailedOperationRepository,
    read: AtomicU64,
    changes: AtomicU64,
    /// Guards what happens right after the next change.
    then: Mutex<Option<Then<'a>>>,
}

type Then<'a> = Box<dyn FnOnce() + Send + 'a>;

impl<'a> StandIn<'a> {
    pub fn new(fixture: &'a Fixture) -> Self {
        let then = Mutex::new(None);
        Self { inner: &**fixture, read: AtomicU64::new(0), changes: AtomicU64::new(0), then }
    }

    /// What somebody else does right after the next change, before its caller hears of it.
    pub fn then(&self, then: impl FnOnce() + Send + 'a) {
        *self.then.lock().unwrap() = Some(Box::new(then));
    }

    /// How many entries an operation reads.
    pub fn reads<T>(
        &self,
        operation: impl FnOnce(&dyn FailedOperationRepository) -> Result<T>,
    ) -> u64 {
        let before = self.read.load(Ordering::SeqCst);
        operation(self).unwrap();
        self.read.load(Ordering::SeqCst) - before
    }

    /// How many changes an operation waits for, one after the other.
    pub fn waits<T>(
        &self,
        operation: impl FnOnce(&dyn FailedOperationRepository) -> Result<T>,
    ) -> u64 {
        let before = self.changes.load(Ordering::SeqCst);
        operation(self).unwrap();
        self.changes.load(Ordering::SeqCst) - before
    }

    fn add(&self, entries: usize) {
        self.read.fetch_add(entries as u64, Ordering::SeqCst);
    }
}

impl fmt::Debug for StandIn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StandIn").finish_non_exhaustive()
    }
}

impl FailedOperationRepository for StandIn<'_> {
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
        self.add(1);
        self.inner.get_by_id(id)
    }
    fn get_by_key(&self, key: &str) -> Result<Option<Entry>> {
        self.add(1);
        self.inner.get_by_key(key)
    }
    fn find(&self, filter: &Filter, page: Page) -> Result<Vec<Entry>> {
        self.inner.find(filter, page).inspect(|found| self.add(found.len()))
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
    fn change_all(
        &self,
        ids: &[EntryId],
        decide: &mut dyn FnMut(&Entry) -> Result<Decision>,
    ) -> Result<Vec<Changed>> {
        self.add(ids.len());
        self.changes.fetch_add(1, Ordering::SeqCst);
        let changed = self.inner.change_all(ids, decide);
        if let Some(then) = self.then.lock().unwrap().take() {
            then();
        }
        changed
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
