//! The engine as a repository.

use std::sync::Weak;
use std::time::Duration;

use super::{FailedOperationRepository, Maintained, Maintenance};
use crate::clock::{ClockStatus, Timeline};
use crate::config::{Bounds, Durability};
use crate::engine::{
    Accounting, BatchError, Changed, Decision, Engine, Facets, Leases, NoticeTaker, Space, Spilled,
    Statistics, StoreError, Stored, TallyRow,
};
use crate::entry::{Entry, EntryId, Filter, NewFailure, Page, Status, Timestamp};
use crate::error::{Error, Result};
use crate::overflow::{
    EvictReport, EvictRequest, EvictedSummary, Evictions, Overflow, SummaryStatus,
};

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

    fn bounds(&self) -> Bounds {
        Self::bounds(self).clone()
    }

    fn evict(&self, request: &EvictRequest) -> Result<EvictReport> {
        Self::evict(self, request)
    }

    fn evict_overflow(&self) -> Result<EvictReport> {
        Self::evict_overflow(self)
    }

    fn evictions(&self) -> Evictions {
        Self::evictions(self)
    }

    fn overflow(&self) -> Result<Overflow> {
        Self::overflow(self)
    }

    fn summaries(&self) -> Result<Vec<EvictedSummary>> {
        Self::summaries(self)
    }

    fn change_summaries(
        &self,
        decide: &mut dyn FnMut(&EvictedSummary) -> Option<SummaryStatus>,
    ) -> Result<u64> {
        Self::change_summaries(self, decide)
    }

    fn space(&self) -> Result<Option<Space>> {
        Self::space(self).map(Some)
    }

    fn close(&self) -> Result<()> {
        Self::close(self)
    }

    fn maintain(&self, maintenance: Maintenance) -> Result<Option<Maintained>> {
        match maintenance {
            Maintenance::Checkpoint => {
                let items = u64::from(self.checkpoint_if_changed()?);
                Ok(Some(Maintained { items, next_at: None }))
            }
            Maintenance::Evict | Maintenance::AgeSummaries => {
                super::summaries::maintain(self, maintenance)
            }
        }
    }

    fn tell_changes(&self, taker: Weak<dyn NoticeTaker>) -> bool {
        Self::tell_changes(self, taker);
        true
    }
}
