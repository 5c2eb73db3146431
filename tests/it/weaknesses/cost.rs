//! W38 to W40: how much is read and written, counted and not timed. What the engine reads of its
//! files for one of these calls is counted in its own tests.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use deadletter::{
    Accounting, BatchError, Changed, Decision, Durability, Entry, EntryId, Facets,
    FailedOperationRepository, Filter, Leases, NewFailure, Page, ReplayType, Result, SlaThresholds,
    Spilled, Statistics, Status, StoreError, Stored, TallyRow, Timestamp,
};

use crate::contract::{
    Fixture, LEASE, delivered, each, everything, failed, failure, far, of, status_filter,
};

/// Counts what the provided methods ask of the primitives.
#[derive(Debug)]
pub struct Counted<'a> {
    inner: &'a dyn FailedOperationRepository,
    read: AtomicU64,
    changes: AtomicU64,
}

impl<'a> Counted<'a> {
    pub fn new(fixture: &'a Fixture) -> Self {
        Self { inner: &**fixture, read: AtomicU64::new(0), changes: AtomicU64::new(0) }
    }

    /// How many entries an operation reads.
    fn reads<T>(&self, operation: impl FnOnce(&dyn FailedOperationRepository) -> Result<T>) -> u64 {
        let before = self.read.load(Ordering::SeqCst);
        operation(self).unwrap();
        self.read.load(Ordering::SeqCst) - before
    }

    /// How many changes an operation waits for, one after the other.
    fn waits<T>(&self, operation: impl FnOnce(&dyn FailedOperationRepository) -> Result<T>) -> u64 {
        let before = self.changes.load(Ordering::SeqCst);
        operation(self).unwrap();
        self.changes.load(Ordering::SeqCst) - before
    }

    fn add(&self, entries: usize) {
        self.read.fetch_add(entries as u64, Ordering::SeqCst);
    }
}

impl FailedOperationRepository for Counted<'_> {
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
        self.inner.change_all(ids, decide)
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

fn thresholds(default: Duration) -> SlaThresholds {
    SlaThresholds { default, by_domain: BTreeMap::new() }
}

#[test]
fn w38_no_question_reads_more_entries_than_it_answers_with() {
    each(|f| {
        let stored = f.stored(1000);
        f.lease(&stored[..3]);
        f.advance_ms(60_000);
        let f = Counted::new(f);
        let now = f.now();
        assert_eq!(f.reads(|f| f.count(&Filter::default())), 0);
        assert_eq!(f.reads(|f| f.count_all()), 0);
        assert_eq!(f.reads(|f| f.get_statistics()), 0);
        assert_eq!(f.reads(|f| f.get_facet_counts(None, None)), 0);
        assert_eq!(f.reads(|f| f.get_cleanup_stats(now)), 0);
        assert_eq!(f.reads(|f| f.count_created_in_window(Timestamp(0), far())), 0);
        assert_eq!(f.reads(|f| f.count_archived_before(far())), 0);
        assert_eq!(f.reads(|f| f.get_pending_count_by_domain("payment")), 0);
        assert_eq!(f.reads(|f| f.get_oldest_ids(10, None)), 0);
        assert_eq!(f.reads(|f| f.find(&Filter::default(), Page::default())), 100);
        assert_eq!(f.reads(|f| f.find_replayable(None, None, 10)), 10);
        assert_eq!(f.reads(|f| f.find_sla_breached(now, &thresholds(Duration::ZERO), 10)), 10);
        assert_eq!(f.reads(|f| f.find_expired(far(), 10)), 0);
        assert_eq!(f.reads(|f| f.expire(far(), 100, None)), 0);
        assert_eq!(f.reads(|f| f.purge_archived_before(far(), 100)), 0);
        // Each is looked at once to find it, and once when it is changed.
        assert_eq!(f.reads(|f| f.release_stale_replaying(None)), 6);
    });
}

#[test]
fn w39_many_share_one_wait_for_the_disk() {
    each(|f| {
        let stored = f.stored(100);
        let f = Counted::new(f);
        let mut leased = Vec::new();
        let lease = |f: &dyn FailedOperationRepository| f.acquire_batch(&stored, LEASE);
        assert_eq!(f.waits(|f| lease(f).map(|got| leased = got)), 1);
        assert_eq!(f.waits(|f| f.start(leased[0], ReplayType::Batch)), 1);
        for pair in leased.windows(2) {
            let next = Some((pair[1], ReplayType::Batch));
            let turn_over = |f: &dyn FailedOperationRepository| {
                let turned = f.turn_over(Some((pair[0], &delivered())), next)?;
                turned.ended.unwrap()?;
                turned.started.unwrap()
            };
            assert_eq!(f.waits(turn_over), 1, "one ends and one begins");
        }
        assert_eq!(f.waits(|f| f.complete_replay(leased[99], &failed())), 1);
        assert_eq!(f.waits(|f| f.release_stale_replaying(None)), 0);
        assert_eq!(f.waits(|f| f.bulk_update_status(&stored, Status::Resolved)), 1);
        assert_eq!(f.waits(|f| f.archive_before(Status::Resolved, far(), 50, None)), 2);
        assert_eq!(f.waits(|f| f.purge_archived_before(far(), 50)), 2);
        assert_eq!(f.count(&Filter::default()).unwrap(), 0);
    });
}

#[test]
fn w40_no_window_hides_an_entry() {
    each(|f| {
        for _ in 0..1701 {
            f.store(of("busy").expires_at(Timestamp(f.now().0 + 5)));
        }
        let quiet = f.store(of("quiet").expires_at(Timestamp(1)));
        f.advance_ms(1000);
        let found = f.find_replayable(Some("quiet"), None, 1).unwrap();
        assert_eq!(found[0].operation.id, quiet);
        let expired = f.find_expired(Timestamp(2), 1).unwrap();
        assert_eq!(expired[0].operation.id, quiet);
        let breached = f.find_sla_breached(f.now(), &thresholds(Duration::ZERO), usize::MAX);
        assert_eq!(breached.unwrap().len(), 1702);
        assert_eq!(f.expire(far(), 50, None).unwrap(), 1702);
        f.advance_ms(1);
        assert_eq!(f.archive_before(Status::Expired, far(), 50, None).unwrap(), 1702);
        assert_eq!(f.get(quiet).operation.status, Status::Archived);
        assert_eq!(f.purge_archived_before(far(), 50).unwrap(), 1702);
        assert_eq!(f.found(&status_filter(Status::Archived), everything()), []);
        assert_eq!(f.stored(1).len(), 1);
        assert_eq!(f.get_pending_by_domain("payment", 9).unwrap().len(), 1);
        let one = f.store(failure());
        assert_eq!(f.get_oldest_ids(9, Some("payment")).unwrap().last(), Some(&one));
    });
}
