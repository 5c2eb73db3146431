//! The engine as a repository.

use std::time::Duration;

use super::FailedOperationRepository;
use crate::clock::{ClockStatus, Timeline};
use crate::config::Durability;
use crate::engine::{
    Accounting, BatchError, Changed, Decision, Engine, Facets, Leases, Spilled, Statistics,
    StoreError, Stored, TallyRow,
};
use crate::entry::{Entry, EntryId, Filter, NewFailure, Page, Status, Timestamp};
use crate::error::{Error, Result};

impl FailedOperationRepository for Engine {
    fn create(&self, failure: NewFailure, durability: Durability) -> Result<Stored, StoreError> {
        self.store_with(failure, durability)
    }

    fn create_batch(
        &self,
        failures: Vec<NewFailure>,
        durability: Durability,
    ) -> Result<Vec<Stored>, BatchError> {
        self.store_batch(failures, durability)
    }

    fn spill(&self, failure: NewFailure) -> Result<Spilled, StoreError> {
        self.spill_beside(failure)
    }

    fn get_by_id(&self, id: EntryId) -> Result<Option<Entry>> {
        self.get(id)
    }

    fn get_by_key(&self, key: &str) -> Result<Option<Entry>> {
        Self::get_by_key(self, key)
    }

    fn find(&self, filter: &Filter, page: Page) -> Result<Vec<Entry>> {
        Self::find(self, filter, page)
    }

    fn select(&self, filter: &Filter, page: Page) -> Result<Vec<EntryId>> {
        Self::select(self, filter, page)
    }

    fn count(&self, filter: &Filter) -> Result<u64> {
        Self::count(self, filter)
    }

    fn get_facet_counts(&self, status: Option<Status>, domain: Option<&str>) -> Result<Facets> {
        self.facets(status, domain)
    }

    fn get_statistics(&self) -> Result<Statistics> {
        self.statistics()
    }

    fn tallies(&self) -> Result<Vec<TallyRow>> {
        Self::tallies(self)
    }

    fn accounting(&self) -> Result<Accounting> {
        Self::accounting(self)
    }

    fn change_all(
        &self,
        ids: &[EntryId],
        decide: &mut dyn FnMut(&Entry) -> Result<Decision>,
    ) -> Result<Vec<Changed>> {
        Self::change_all(self, ids, decide)
    }

    fn leases(&self) -> &Leases {
        Self::leases(self)
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.env().wall_ms())
    }

    fn timeline(&self) -> Timeline {
        Self::timeline(self)
    }

    fn clock(&self) -> Option<ClockStatus> {
        Some(Self::clock(self))
    }

    fn monotonic_ms(&self) -> u64 {
        self.env().monotonic_ms()
    }

    fn wait(&self, duration: Duration) {
        self.env().sleep(duration);
    }

    fn random(&self) -> u64 {
        self.env().random()
    }

    fn step(&self) -> Result<()> {
        Self::step(self)
    }

    fn flush(&self) -> Result<()> {
        Self::flush(self)
    }

    fn failure(&self) -> Option<Error> {
        Self::failure(self)
    }

    fn close(&self) -> Result<()> {
        Self::close(self)
    }
}
