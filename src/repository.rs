//! The contract of a repository of failed operations.
//!
//! A repository brings few primitives: create, find, count, change many, a clock and a table of
//! leases. Everything else follows from them here, the same for all: see `read` for the
//! questions, `replay` for leases and attempts, `write` for operators, `sweep` for what ages.

mod age;
mod of_engine;
mod read;
mod replay;
mod summaries;
mod sweep;
mod write;

use std::fmt::Debug;
use std::sync::Weak;
use std::time::Duration;

use crate::clock::{ClockStatus, Timeline};
use crate::config::{Bounds, Durability};
use crate::engine::{
    Accounting, BatchError, Changed, Decision, Facets, Leases, NoticeTaker, Space, Spilled,
    Statistics, StoreError, Stored, TallyRow,
};
use crate::entry::{
    Act, Completion, Entry, EntryId, Filter, NewFailure, Page, ReplayType, Status, Timestamp,
};
use crate::error::{Error, Result};
use crate::overflow::{
    self, EvictReport, EvictRequest, EvictedSummary, Evictions, Overflow, SummaryStatus,
    SummaryTotals,
};

pub(crate) use read::days_before;
pub use read::{CleanupStats, SlaThresholds};
pub use replay::{Leased, Released, TurnedOver};
pub(crate) use replay::{due, end_leases, lease_of, millis};
pub use summaries::SummariesAged;
pub use sweep::{Maintained, Maintenance, Sweep};
pub(crate) use write::CHANGES_AT_ONCE;
pub use write::Resolution;

/// A repository of failed operations: the contract that the service works on.
///
/// [`Engine`](crate::Engine) keeps them on disk, [`MemoryRepository`](crate::MemoryRepository) in
/// memory. A host may bring its own, or a mock: it implements the methods without a body.
///
/// Every change of one entry is atomic, and changes of one entry happen one after the other, each
/// on what the one before left. Order is by id, never by time. An entry at its cap is never
/// pending.
pub trait FailedOperationRepository: Send + Sync + Debug {
    // The primitives.

    /// Stores a failure as a new entry. When this returns `Ok`, the level that
    /// [`Stored::durability`] names is reached.
    ///
    /// # Errors
    ///
    /// The failure is given back with the reason.
    fn create(&self, failure: NewFailure, durability: Durability) -> Result<Stored, StoreError>;

    /// Stores a batch as one atomic unit.
    ///
    /// # Errors
    ///
    /// The failures are given back with the reason; none of them is stored, unless the reason
    /// says that this is unknown.
    fn create_batch(
        &self,
        failures: Vec<NewFailure>,
        durability: Durability,
    ) -> Result<Vec<Stored>, BatchError>;

    /// Keeps a failure beside the repository, when it takes no new entries.
    ///
    /// # Errors
    ///
    /// The failure is given back with the reason.
    fn spill(&self, failure: NewFailure) -> Result<Spilled, StoreError>;

    /// The entry with this id.
    ///
    /// # Errors
    ///
    /// When the repository cannot be read.
    fn get_by_id(&self, id: EntryId) -> Result<Option<Entry>>;

    /// The entry with this key.
    ///
    /// # Errors
    ///
    /// As [`get_by_id`](Self::get_by_id).
    fn get_by_key(&self, key: &str) -> Result<Option<Entry>>;

    /// The entries that match. Without a status in the filter, of all statuses.
    ///
    /// # Errors
    ///
    /// As [`get_by_id`](Self::get_by_id).
    fn find(&self, filter: &Filter, page: Page) -> Result<Vec<Entry>>;

    /// The ids of the entries that match; as [`find`](Self::find) without reading the entries.
    ///
    /// # Errors
    ///
    /// As [`get_by_id`](Self::get_by_id).
    fn select(&self, filter: &Filter, page: Page) -> Result<Vec<EntryId>>;

    /// How many entries match: as many as [`find`](Self::find) without a page would return.
    ///
    /// # Errors
    ///
    /// As [`get_by_id`](Self::get_by_id).
    fn count(&self, filter: &Filter) -> Result<u64>;

    /// Counts by status within a domain, and by domain within a status: a facet ignores its own
    /// selection. Buckets of zero are absent.
    ///
    /// # Errors
    ///
    /// As [`get_by_id`](Self::get_by_id).
    fn get_facet_counts(&self, status: Option<Status>, domain: Option<&str>) -> Result<Facets>;

    /// The counts that an overview needs.
    ///
    /// # Errors
    ///
    /// As [`get_by_id`](Self::get_by_id).
    fn get_statistics(&self) -> Result<Statistics>;

    /// How many records were ever written, by cause, domain and failure type.
    ///
    /// # Errors
    ///
    /// As [`get_by_id`](Self::get_by_id).
    fn tallies(&self) -> Result<Vec<TallyRow>>;

    /// What became of everything that was ever offered.
    ///
    /// # Errors
    ///
    /// As [`get_by_id`](Self::get_by_id).
    fn accounting(&self) -> Result<Accounting>;

    /// Decides on many entries and changes them. Each is decided on as it is then, while nobody
    /// else changes it, and is one change of its own; they share the syncs. If one decision is an
    /// error, nothing is changed. A repeated id is decided once.
    ///
    /// When this returns `Ok`, all changes are durable.
    ///
    /// # Errors
    ///
    /// That of a decision, or when the repository cannot be read or written.
    fn change_all(
        &self,
        ids: &[EntryId],
        decide: &mut dyn FnMut(&Entry) -> Result<Decision>,
    ) -> Result<Vec<Changed>>;

    /// The leases of this process.
    fn leases(&self) -> &Leases;

    /// Now, by the wall clock.
    fn now(&self) -> Timestamp;

    /// Now, by the clock by which entries expire and are purged.
    fn trusted_now(&self) -> Timestamp {
        self.timeline().now()
    }

    /// How old entries are as of now, whatever the wall clock showed when their times were
    /// written. A repository that knows of no jumps believes its clock.
    fn timeline(&self) -> Timeline {
        Timeline::plain(self.now())
    }

    /// What is known of the time; `None` of a repository that believes its clock.
    fn clock(&self) -> Option<ClockStatus> {
        None
    }

    /// Milliseconds by a clock that never goes back.
    fn monotonic_ms(&self) -> u64;

    /// Waits; a test moves its clock instead.
    fn wait(&self, duration: Duration);

    /// A random number.
    fn random(&self) -> u64;

    /// Does a little of the work that no call waits for.
    ///
    /// # Errors
    ///
    /// What the work failed with; nothing acknowledged is lost by it.
    fn step(&self) -> Result<()>;

    /// Makes everything that was stored so far durable.
    ///
    /// # Errors
    ///
    /// When that is not possible.
    fn flush(&self) -> Result<()>;

    /// Why the repository takes no more changes until it is opened again; `None` while it does.
    fn failure(&self) -> Option<Error> {
        None
    }

    /// How many entries may wait; without limits if the repository says nothing.
    fn bounds(&self) -> Bounds {
        Bounds::default()
    }

    /// Evicts entries: those that are done, where the request means them, then those that wait, by
    /// the priority of their domain; the oldest first. Entries that are leased or in a person's
    /// hands never go. Goes on until so many are gone or none remains; with `compress` each of
    /// them is counted in a summary from the same moment on. A repository without bounds evicts
    /// nothing.
    ///
    /// # Errors
    ///
    /// As [`change_all`](Self::change_all); some may be gone then.
    fn evict(&self, request: &EvictRequest) -> Result<EvictReport> {
        let _ = request;
        Ok(EvictReport::default())
    }

    /// Makes room if a limit is at its threshold: at most one batch.
    ///
    /// # Errors
    ///
    /// As [`evict`](Self::evict).
    fn evict_overflow(&self) -> Result<EvictReport> {
        Ok(EvictReport::default())
    }

    /// What was evicted since the repository was opened.
    fn evictions(&self) -> Evictions {
        Evictions::default()
    }

    /// All summaries of evicted entries, in the order in which they were made.
    ///
    /// # Errors
    ///
    /// As [`get_by_id`](Self::get_by_id).
    fn summaries(&self) -> Result<Vec<EvictedSummary>> {
        Ok(Vec::new())
    }

    /// Puts summaries into another status, with the time of that; `decide` is asked of each, and must
    /// not use the repository itself. Answers with how many it put.
    ///
    /// # Errors
    ///
    /// As [`change_all`](Self::change_all); some may have changed then.
    fn change_summaries(
        &self,
        decide: &mut dyn FnMut(&EvictedSummary) -> Option<SummaryStatus>,
    ) -> Result<u64> {
        let _ = decide;
        Ok(0)
    }

    /// How it stands with space; `None` for a repository that has no disk.
    ///
    /// # Errors
    ///
    /// When that cannot be found out.
    fn space(&self) -> Result<Option<Space>> {
        Ok(None)
    }

    /// Closes the repository; later calls answer [`Error::Closed`](crate::Error::Closed).
    ///
    /// # Errors
    ///
    /// When not everything could be made durable.
    fn close(&self) -> Result<()>;

    // The questions.

    /// The entries in a status, oldest first.
    ///
    /// # Errors
    ///
    /// As [`get_by_id`](Self::get_by_id).
    fn find_by_status(
        &self,
        status: Status,
        domain: Option<&str>,
        failure_type: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Entry>> {
        self.find(&read::filter(Some(status), domain, failure_type), read::oldest(limit))
    }

    /// The entries that wait to be replayed and are below their cap, oldest first. Those that
    /// wait for a later time are among them.
    ///
    /// # Errors
    ///
    /// As [`get_by_id`](Self::get_by_id).
    fn find_replayable(
        &self,
        domain: Option<&str>,
        failure_type: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Entry>> {
        self.find_by_status(Status::Pending, domain, failure_type, limit)
    }

    /// The pending entries of a domain, oldest first.
    ///
    /// # Errors
    ///
    /// As [`get_by_id`](Self::get_by_id).
    fn get_pending_by_domain(&self, domain: &str, limit: usize) -> Result<Vec<Entry>> {
        self.find_by_status(Status::Pending, Some(domain), None, limit)
    }

    /// How many entries of a domain are pending.
    ///
    /// # Errors
    ///
    /// As [`get_by_id`](Self::get_by_id).
    fn get_pending_count_by_domain(&self, domain: &str) -> Result<u64> {
        self.count(&read::filter(Some(Status::Pending), Some(domain), None))
    }

    /// The pending entries that are older than the threshold of their domain, oldest first.
    ///
    /// # Errors
    ///
    /// As [`get_by_id`](Self::get_by_id).
    fn find_sla_breached(
        &self,
        now: Timestamp,
        thresholds: &SlaThresholds,
        limit: usize,
    ) -> Result<Vec<Entry>> {
        read::find_sla_breached(self, now, thresholds, limit)
    }

    /// The pending entries that expired before a trusted time, oldest first.
    ///
    /// # Errors
    ///
    /// As [`get_by_id`](Self::get_by_id).
    fn find_expired(&self, before: Timestamp, limit: usize) -> Result<Vec<Entry>> {
        age::find(self, &read::expired(before), limit)
    }

    /// The ids of the oldest entries that still await somebody.
    ///
    /// # Errors
    ///
    /// As [`get_by_id`](Self::get_by_id).
    fn get_oldest_ids(&self, limit: usize, domain: Option<&str>) -> Result<Vec<EntryId>> {
        read::get_oldest_ids(self, limit, domain)
    }

    /// How many entries were created between two times, both included; those that are gone since
    /// are not among them.
    ///
    /// # Errors
    ///
    /// As [`get_by_id`](Self::get_by_id).
    fn count_created_in_window(&self, from: Timestamp, to: Timestamp) -> Result<u64> {
        let filter = Filter { created_from: Some(from), created_to: Some(to), ..Filter::default() };
        self.count(&filter)
    }

    /// How many entries still await somebody: pending, replaying, reviewing, replayed or in
    /// review.
    ///
    /// # Errors
    ///
    /// As [`get_by_id`](Self::get_by_id).
    fn count_all(&self) -> Result<u64> {
        read::count_active(self, None)
    }

    /// As [`count_all`](Self::count_all), of one domain.
    ///
    /// # Errors
    ///
    /// As [`get_by_id`](Self::get_by_id).
    fn count_active_by_domain(&self, domain: &str) -> Result<u64> {
        read::count_active(self, Some(domain))
    }

    /// How many entries of any status a domain has.
    ///
    /// # Errors
    ///
    /// As [`get_by_id`](Self::get_by_id).
    fn count_by_domain(&self, domain: &str) -> Result<u64> {
        self.count(&read::filter(None, Some(domain), None))
    }

    /// How many archived entries were archived before a trusted time: as many as
    /// [`purge_archived_before`](Self::purge_archived_before) would purge.
    ///
    /// # Errors
    ///
    /// As [`get_by_id`](Self::get_by_id).
    fn count_archived_before(&self, before: Timestamp) -> Result<u64> {
        age::count(self, &read::aged(Status::Archived, before))
    }

    /// What maintenance could do at a trusted time.
    ///
    /// # Errors
    ///
    /// As [`get_by_id`](Self::get_by_id).
    fn get_cleanup_stats(&self, now: Timestamp) -> Result<CleanupStats> {
        read::get_cleanup_stats(self, now)
    }

    /// How the repository stands to its limits.
    ///
    /// # Errors
    ///
    /// As [`get_by_id`](Self::get_by_id).
    fn overflow(&self) -> Result<Overflow> {
        summaries::overflow(self)
    }

    /// The summaries of evicted entries that match, newest first.
    ///
    /// # Errors
    ///
    /// As [`get_by_id`](Self::get_by_id).
    fn find_summaries(
        &self,
        domain: Option<&str>,
        status: Option<SummaryStatus>,
        limit: usize,
    ) -> Result<Vec<EvictedSummary>> {
        Ok(overflow::select(self.summaries()?, domain, status, limit))
    }

    /// The summary with this id.
    ///
    /// # Errors
    ///
    /// As [`get_by_id`](Self::get_by_id).
    fn get_summary(&self, id: &str) -> Result<Option<EvictedSummary>> {
        Ok(self.summaries()?.into_iter().find(|summary| summary.id == id))
    }

    /// How many summaries there are, and how many entries they stand for.
    ///
    /// # Errors
    ///
    /// As [`get_by_id`](Self::get_by_id).
    fn get_summary_totals(&self) -> Result<SummaryTotals> {
        Ok(overflow::totals(&self.summaries()?))
    }

    // Leases and attempts.

    /// Leases one entry and begins an attempt, in one change. `None` when there is no such entry,
    /// when it is not pending, or when its attempts are used up. With `force` an entry in review
    /// is taken too, whatever its cap, and gets a fresh budget; `act` goes on record.
    ///
    /// # Errors
    ///
    /// As [`change_all`](Self::change_all).
    fn try_acquire_for_replay(
        &self,
        id: EntryId,
        lease: Duration,
        force: bool,
        act: Option<&Act>,
    ) -> Result<Option<(Leased, Entry)>> {
        replay::try_acquire(self, id, lease, force, act)
    }

    /// Leases many entries, which charges nothing; those that are not pending any more, or not
    /// due, are left out.
    ///
    /// # Errors
    ///
    /// As [`change_all`](Self::change_all).
    fn acquire_batch(&self, ids: &[EntryId], lease: Duration) -> Result<Vec<Leased>> {
        replay::acquire_batch(self, ids, lease)
    }

    /// Begins an attempt of a leased entry and charges it.
    ///
    /// # Errors
    ///
    /// [`Error::LeaseLost`](crate::Error::LeaseLost), or as [`change_all`](Self::change_all).
    fn start(&self, leased: Leased, replay_type: ReplayType) -> Result<Entry> {
        replay::start(self, leased, replay_type)
    }

    /// Ends an attempt.
    ///
    /// # Errors
    ///
    /// [`Error::LeaseLost`](crate::Error::LeaseLost) when the lease ended, when it belongs to
    /// another, or when an operator was faster; nothing is changed then. Or as
    /// [`change_all`](Self::change_all).
    fn complete_replay(&self, leased: Leased, completion: &Completion) -> Result<Entry> {
        replay::complete(self, leased, completion)
    }

    /// Ends one attempt and begins the next one with one sync.
    ///
    /// # Errors
    ///
    /// As [`change_all`](Self::change_all); a lost lease is told for each of the two.
    fn turn_over(
        &self,
        ended: Option<(Leased, &Completion)>,
        next: Option<(Leased, ReplayType)>,
    ) -> Result<TurnedOver> {
        replay::turn_over(self, ended, next)
    }

    /// Gives a lease back whose attempt did not begin.
    ///
    /// # Errors
    ///
    /// As [`change_all`](Self::change_all).
    fn release(&self, leased: &[Leased]) -> Result<u64> {
        replay::release(self, leased)
    }

    /// Lets a lease end later: at the earliest this long from now. False when it has ended.
    fn extend_lease(&self, leased: Leased, lease: Duration) -> bool {
        // An operator may have taken the entry meanwhile. What cannot be read now may still be
        // completed later.
        let entry = self.get_by_id(leased.id);
        let holds = entry.map_or(true, |entry| {
            entry.is_some_and(|entry| replay::lease_of(&entry) == Some(leased))
        });
        let now_ms = self.monotonic_ms();
        let until_ms = now_ms.saturating_add(replay::millis(lease));
        holds && self.leases().extend(leased.id, leased.token, now_ms, until_ms)
    }

    /// Releases entries whose lease has ended: past its deadline, or of a process that is gone.
    /// With `older_than`, instead those that are leased for longer than that, even if their
    /// lease holds.
    ///
    /// # Errors
    ///
    /// As [`change_all`](Self::change_all).
    fn release_stale_replaying(&self, older_than: Option<Duration>) -> Result<Released> {
        replay::release_stale(self, older_than)
    }

    // Operators and maintenance.

    /// Sets a status as it is, from any other. Empty texts keep what was there. False when there
    /// is no such entry.
    ///
    /// # Errors
    ///
    /// As [`change_all`](Self::change_all).
    fn update_status(
        &self,
        id: EntryId,
        status: Status,
        resolution: &Resolution,
        act: Option<&Act>,
    ) -> Result<bool> {
        write::update_status(self, id, status, resolution, act)
    }

    /// Sets the status of many; answers with how many there were.
    ///
    /// # Errors
    ///
    /// As [`change_all`](Self::change_all).
    fn bulk_update_status(&self, ids: &[EntryId], status: Status) -> Result<u64> {
        write::bulk_update_status(self, ids, status)
    }

    /// Resolves an entry, from any status. False when there is no such entry.
    ///
    /// # Errors
    ///
    /// As [`change_all`](Self::change_all).
    fn mark_as_resolved(
        &self,
        id: EntryId,
        resolution: &Resolution,
        act: Option<&Act>,
    ) -> Result<bool> {
        write::update_status(self, id, Status::Resolved, resolution, act)
    }

    /// Charges an attempt that was made elsewhere. False when there is no such entry.
    ///
    /// # Errors
    ///
    /// As [`change_all`](Self::change_all).
    fn increment_retry_count(&self, id: EntryId) -> Result<bool> {
        write::increment_retry_count(self, id)
    }

    /// Deletes an entry, whatever its status. False when there is none.
    ///
    /// # Errors
    ///
    /// As [`change_all`](Self::change_all).
    fn delete(&self, id: EntryId) -> Result<bool> {
        write::delete(self, id)
    }

    /// Expires the pending entries whose time ran out before `before`, a trusted time, in chunks;
    /// answers with how many.
    ///
    /// # Errors
    ///
    /// As [`change_all`](Self::change_all).
    fn expire(&self, before: Timestamp, chunk: usize, act: Option<&Act>) -> Result<u64> {
        sweep::sweep_all(self, Sweep::Expire, before, chunk, act)
    }

    /// Archives the entries that stand in a final status since before `before`, a trusted time, in
    /// chunks; answers with how many. Nothing happens to entries in any other status.
    ///
    /// # Errors
    ///
    /// As [`change_all`](Self::change_all).
    fn archive_before(
        &self,
        status: Status,
        before: Timestamp,
        chunk: usize,
        act: Option<&Act>,
    ) -> Result<u64> {
        sweep::sweep_all(self, Sweep::Archive(status), before, chunk, act)
    }

    /// Purges archived entries by id. All are checked first; ids that do not exist are not
    /// counted.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`](crate::Error::Conflict), and nothing is purged, if one of them is not
    /// archived. Or as [`change_all`](Self::change_all).
    fn purge_archived(&self, ids: &[EntryId]) -> Result<u64> {
        write::purge_archived(self, ids)
    }

    /// Purges the entries that were archived before a trusted time, in chunks; answers with how
    /// many.
    ///
    /// # Errors
    ///
    /// As [`change_all`](Self::change_all).
    fn purge_archived_before(&self, before: Timestamp, chunk: usize) -> Result<u64> {
        sweep::sweep_all(self, Sweep::Purge, before, chunk, None)
    }

    // What runs by itself.

    /// Does a part of a sweep: of the entries whose time came before `before`, the oldest, at most
    /// `limit`. Answers with how many it changed; when these are `limit`, there may be more.
    ///
    /// # Errors
    ///
    /// As [`change_all`](Self::change_all).
    fn sweep(
        &self,
        sweep: Sweep,
        before: Timestamp,
        limit: usize,
        act: Option<&Act>,
    ) -> Result<u64> {
        sweep::sweep_some(self, sweep, before, limit, act)
    }

    /// A time after `from` such that a sweep before it finds something, and one that is `within`
    /// earlier finds nothing, as things stand. `None` when no entry would ever be found.
    ///
    /// # Errors
    ///
    /// As [`get_by_id`](Self::get_by_id).
    fn next_sweep(
        &self,
        sweep: Sweep,
        from: Timestamp,
        within: Duration,
    ) -> Result<Option<Timestamp>> {
        sweep::next_sweep(self, sweep, from, within)
    }

    /// Does a bounded part of this work on itself. `None` when the repository has no such work, or
    /// none with its settings; it is not asked again then.
    ///
    /// # Errors
    ///
    /// What the work failed with; nothing acknowledged is lost by it.
    fn maintain(&self, maintenance: Maintenance) -> Result<Option<Maintained>> {
        let _ = maintenance;
        Ok(None)
    }

    /// Tells this planner of every change from now on, as long as somebody keeps it. False when
    /// the repository never tells; the planner then looks for itself from time to time.
    fn tell_changes(&self, taker: Weak<dyn NoticeTaker>) -> bool {
        let _ = taker;
        false
    }

    /// Puts a summary into a status. False when there is no such summary.
    ///
    /// # Errors
    ///
    /// As [`change_all`](Self::change_all).
    fn update_summary_status(&self, id: &str, status: SummaryStatus) -> Result<bool> {
        let count = self.change_summaries(&mut |summary| (summary.id == id).then_some(status))?;
        Ok(count > 0)
    }

    /// Lets all summaries age: active ones become stale, stale ones archived, each after its days
    /// and one step at a time. `now` is a trusted time.
    ///
    /// # Errors
    ///
    /// As [`change_all`](Self::change_all).
    fn age_summaries(&self, now: Timestamp) -> Result<SummariesAged> {
        summaries::age(self, now)
    }
}
