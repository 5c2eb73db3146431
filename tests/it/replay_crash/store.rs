//! The contract over an engine on a simulated disk, as far as replays need it.

use std::sync::Arc;
use std::time::Duration;

use deadletter::{
    Accounting, BatchError, Changed, Decision, Durability, Engine, Entry, EntryId, Env, Facets,
    FailedOperationRepository, Filter, Leases, NewFailure, Order, Page, Result, Simulated, Spilled,
    Statistics, Status, StoreError, Stored, TallyRow, Timestamp,
};

/// More than any test stores.
const ENTRIES_MAX: usize = 10_000;

#[derive(Debug)]
pub struct Store {
    disk: Simulated,
    engine: Engine,
    leases: Leases,
}

impl Store {
    /// Opens the store of a disk; the owner before is gone.
    pub fn open(disk: &Simulated) -> Result<Self> {
        let engine = Engine::open_with(super::config(), Arc::new(disk.clone()))?;
        let disk = disk.clone();
        let mut seed = [0; 8];
        disk.fill_random(&mut seed).unwrap();
        Ok(Self { disk, engine, leases: Leases::new(u64::from_le_bytes(seed)) })
    }

    fn matching(&self, filter: &Filter) -> Result<Vec<Entry>> {
        let page = Page { order: Order::Oldest, limit: ENTRIES_MAX, ..Page::default() };
        let mut entries = self.engine.find(&Filter::default(), page)?;
        entries.retain(|entry| entry.matches(filter));
        Ok(entries)
    }
}

impl FailedOperationRepository for Store {
    fn create(&self, failure: NewFailure, durability: Durability) -> Result<Stored, StoreError> {
        self.engine.store_with(failure, durability)
    }

    fn create_batch(
        &self,
        failures: Vec<NewFailure>,
        durability: Durability,
    ) -> Result<Vec<Stored>, BatchError> {
        self.engine.store_batch(failures, durability)
    }

    fn spill(&self, failure: NewFailure) -> Result<Spilled, StoreError> {
        let env: Arc<dyn Env> = Arc::new(self.disk.clone());
        deadletter::spill_with(&super::config(), &env, failure)
    }

    fn get_by_id(&self, id: EntryId) -> Result<Option<Entry>> {
        self.engine.get(id)
    }

    fn get_by_key(&self, key: &str) -> Result<Option<Entry>> {
        self.engine.get_by_key(key)
    }

    fn find(&self, filter: &Filter, page: Page) -> Result<Vec<Entry>> {
        assert_eq!((page.order, page.offset), (Order::Oldest, 0), "replays ask for no other page");
        let mut entries = self.matching(filter)?;
        entries.retain(|entry| page.after.is_none_or(|after| entry.operation.id > after));
        entries.truncate(page.limit);
        Ok(entries)
    }

    fn select(&self, filter: &Filter, page: Page) -> Result<Vec<EntryId>> {
        Ok(self.find(filter, page)?.iter().map(|entry| entry.operation.id).collect())
    }

    fn count(&self, filter: &Filter) -> Result<u64> {
        Ok(self.matching(filter)?.len() as u64)
    }

    fn get_facet_counts(&self, status: Option<Status>, domain: Option<&str>) -> Result<Facets> {
        self.engine.facets(status, domain)
    }

    fn get_statistics(&self) -> Result<Statistics> {
        self.engine.statistics()
    }

    fn tallies(&self) -> Result<Vec<TallyRow>> {
        self.engine.tallies()
    }

    fn accounting(&self) -> Result<Accounting> {
        self.engine.accounting()
    }

    fn change_all(
        &self,
        ids: &[EntryId],
        decide: &mut dyn FnMut(&Entry) -> Result<Decision>,
    ) -> Result<Vec<Changed>> {
        self.engine.change_all(ids, decide)
    }

    fn leases(&self) -> &Leases {
        &self.leases
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.disk.wall_ms())
    }

    fn monotonic_ms(&self) -> u64 {
        self.disk.monotonic_ms()
    }

    fn wait(&self, duration: Duration) {
        self.disk.advance(duration);
    }

    fn random(&self) -> u64 {
        self.disk.monotonic_ms()
    }

    fn step(&self) -> Result<()> {
        self.engine.step()
    }

    fn flush(&self) -> Result<()> {
        self.engine.checkpoint().map(drop)
    }

    fn close(&self) -> Result<()> {
        self.engine.close()
    }
}
