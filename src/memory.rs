//! A repository in memory: the reference model of the contract, and a stand-in for the engine in
//! the tests of host applications. Nothing here survives the process.

mod evict;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::clock::{ClockStatus, Reading, Timeline, TrustedClock};
use crate::config::{Bounds, Config, Durability};
use crate::engine::{
    Accounting, BatchError, Changed, Decision, Facets, Leases, Notice, NoticeTaker, NoticeTakers,
    Spilled, Statistics, StoreError, Stored, TallyRow,
};
use crate::entry::{Cause, Entry, EntryId, Filter, NewFailure, Order, Page, Status, Timestamp};
use crate::env::{Disk, Env};
use crate::error::{Error, Result};
use crate::format::ClockBody;
use crate::overflow::{EvictReport, EvictRequest, EvictedSummary, Evictions, SummaryStatus};
use crate::repository::FailedOperationRepository;

/// A repository in memory. Handles are cheap to clone and share their entries.
///
/// # Example
///
/// ```
/// use deadletter::{Durability, FailedOperationRepository, MemoryRepository, NewFailure};
///
/// let repository = MemoryRepository::new();
/// let stored = repository.create(NewFailure::new("orders", "TIMEOUT"), Durability::Synced)?;
/// assert!(repository.get_by_id(stored.id)?.is_some());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct MemoryRepository {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    env: Arc<dyn Env>,
    leases: Leases,
    takers: NoticeTakers,
    /// Guards the trusted time.
    clock: Mutex<TrustedClock>,
    /// Guards the right to change entries; one caller at a time decides.
    turn: Mutex<()>,
    /// Guards the entries; never held while somebody decides.
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    entries: BTreeMap<u64, Entry>,
    keys: HashMap<String, u64>,
    tallies: BTreeMap<(String, String), BTreeMap<Cause, u64>>,
    last_id: u64,
    accounting: Accounting,
    /// In the order in which they were made.
    summaries: Vec<EvictedSummary>,
    evictions: Evictions,
    closed: bool,
}

impl Default for MemoryRepository {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryRepository {
    /// An empty repository with the defaults and the real clock.
    pub fn new() -> Self {
        Self::with(Config::new("memory"), Arc::new(Disk::new()))
    }

    /// An empty repository with limits, redaction, cap and clock of the caller's; of the
    /// environment only clock and randomness are used.
    pub fn with(config: Config, env: Arc<dyn Env>) -> Self {
        let leases = Leases::new(env.random());
        let (first, unknown) = (reading(&*env), ClockBody::default());
        let (clock, _) = TrustedClock::resume(&unknown, first, 1, config.max_jump_s);
        let (clock, turn, table) = (Mutex::new(clock), Mutex::default(), Mutex::default());
        let takers = NoticeTakers::default();
        Self { shared: Arc::new(Shared { config, env, leases, takers, clock, turn, table }) }
    }

    /// The trusted time as of now, with the id of the next entry for one that is stored behind a
    /// jump.
    fn observed(&self, table: &Table) -> MutexGuard<'_, TrustedClock> {
        let mut clock = self.shared.clock.lock().unwrap_or_else(PoisonError::into_inner);
        clock.observe(reading(&*self.shared.env), || table.last_id + 1);
        clock
    }

    /// As [`Self::observed`], of a closed repository too.
    fn clock_now(&self) -> MutexGuard<'_, TrustedClock> {
        self.observed(&self.shared.table.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn table(&self) -> Result<MutexGuard<'_, Table>> {
        let table = self.shared.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.closed { Err(Error::Closed) } else { Ok(table) }
    }

    fn matching(&self, filter: &Filter, page: Page) -> Result<Vec<Entry>> {
        let table = self.table()?;
        let after = |entry: &&Entry| match (page.after, page.order) {
            (None, _) => true,
            (Some(after), Order::Newest) => entry.operation.id < after,
            (Some(after), Order::Oldest) => entry.operation.id > after,
        };
        let matching = table.entries.values().filter(|entry| entry.matches(filter)).filter(after);
        let skip = usize::try_from(page.offset).unwrap_or(usize::MAX);
        let page: Vec<Entry> = match page.order {
            Order::Newest => matching.rev().skip(skip).take(page.limit).cloned().collect(),
            Order::Oldest => matching.skip(skip).take(page.limit).cloned().collect(),
        };
        Ok(page)
    }

    fn tell(&self, notice: Notice) {
        self.shared.takers.tell(|| Notice { at_ms: self.monotonic_ms(), ..notice });
    }

    /// Checks a batch and numbers it; nothing is stored if one of it is refused.
    fn prepare(&self, failures: &mut [NewFailure]) -> Result<Vec<Entry>> {
        let Shared { config, env, .. } = &*self.shared;
        let now = Timestamp(env.wall_ms());
        let mut entries = Vec::with_capacity(failures.len());
        for failure in failures {
            failure.prepare(&config.limits, &config.redaction)?;
            let mut uuid = [0; 16];
            env.fill_random(&mut uuid)
                .map_err(|error| Error::io("get random bytes for", &config.dir, error))?;
            let key = failure.key.clone().unwrap_or_else(|| crate::format::uuid_text(&uuid));
            entries.push(failure.to_entry(EntryId(0), key, now, config.max_retries));
        }
        Ok(entries)
    }
}

fn reading(env: &dyn Env) -> Reading {
    Reading { wall_ms: env.wall_ms(), monotonic_ms: env.monotonic_ms() }
}

impl Table {
    fn insert(&mut self, mut entry: Entry, durability: Durability) -> Stored {
        let key = entry.key.clone();
        if let Some(first) = self.keys.get(&key) {
            self.accounting.duplicates += 1;
            return Stored { id: EntryId(*first), key, durability, duplicate: true };
        }
        self.last_id += 1;
        let id = EntryId(self.last_id);
        entry.operation.id = id;
        self.keys.insert(key.clone(), id.0);
        self.tally(&entry, Cause::Stored);
        self.accounting.captured += 1;
        self.entries.insert(id.0, entry);
        Stored { id, key, durability, duplicate: false }
    }

    fn tally(&mut self, entry: &Entry, cause: Cause) {
        let operation = &entry.operation;
        let pair = (operation.domain.clone(), operation.failure_type.clone());
        *self.tallies.entry(pair).or_default().entry(cause).or_default() += 1;
    }

    fn remove(&mut self, entry: &Entry, cause: Cause) {
        self.entries.remove(&entry.operation.id.0);
        self.keys.remove(&entry.key);
        self.tally(entry, cause);
        let gone = &mut self.accounting;
        let counter = if cause == Cause::Evicted { &mut gone.evicted } else { &mut gone.purged };
        *counter += 1;
    }
}

impl FailedOperationRepository for MemoryRepository {
    fn create(&self, failure: NewFailure, durability: Durability) -> Result<Stored, StoreError> {
        let give_back = |mut failures: Vec<NewFailure>, source| StoreError {
            failure: Box::new(failures.pop().unwrap_or_default()),
            source,
        };
        match self.create_batch(vec![failure], durability) {
            Ok(mut stored) => stored.pop().ok_or_else(|| give_back(Vec::new(), Error::Closed)),
            Err(BatchError { failures, source }) => Err(give_back(failures, source)),
        }
    }

    fn create_batch(
        &self,
        mut failures: Vec<NewFailure>,
        durability: Durability,
    ) -> Result<Vec<Stored>, BatchError> {
        let offered = failures.len() as u64;
        let prepared = self.prepare(&mut failures);
        let mut table = match self.table() {
            Ok(table) => table,
            Err(source) => return Err(BatchError { failures, source }),
        };
        drop(self.observed(&table));
        table.accounting.offered += offered;
        let admitted = prepared.and_then(|entries| {
            self.admit(&mut table, &entries)?;
            Ok(entries)
        });
        match admitted {
            Ok(entries) => {
                let mut notice = Notice { is_stored: true, ..Notice::default() };
                entries.iter().for_each(|entry| notice.add(entry));
                let stored = entries.into_iter().map(|entry| table.insert(entry, durability));
                let stored = stored.collect();
                drop(table);
                self.tell(notice);
                Ok(stored)
            }
            Err(source) => {
                table.accounting.refused += offered;
                Err(BatchError { failures, source })
            }
        }
    }

    fn spill(&self, failure: NewFailure) -> Result<Spilled, StoreError> {
        let bound = "a repository with a folder beside it";
        let source = Error::invalid("the fallback of a repository in memory", "nothing", bound);
        Err(StoreError { failure: Box::new(failure), source })
    }

    fn get_by_id(&self, id: EntryId) -> Result<Option<Entry>> {
        Ok(self.table()?.entries.get(&id.0).cloned())
    }

    fn get_by_key(&self, key: &str) -> Result<Option<Entry>> {
        let table = self.table()?;
        Ok(table.keys.get(key).and_then(|id| table.entries.get(id)).cloned())
    }

    fn find(&self, filter: &Filter, page: Page) -> Result<Vec<Entry>> {
        self.matching(filter, page)
    }

    fn select(&self, filter: &Filter, page: Page) -> Result<Vec<EntryId>> {
        let matching = self.matching(filter, page)?;
        Ok(matching.iter().map(|entry| entry.operation.id).collect())
    }

    fn count(&self, filter: &Filter) -> Result<u64> {
        let table = self.table()?;
        Ok(table.entries.values().filter(|entry| entry.matches(filter)).count() as u64)
    }

    fn get_facet_counts(&self, status: Option<Status>, domain: Option<&str>) -> Result<Facets> {
        let mut facets = Facets::default();
        for entry in self.table()?.entries.values() {
            let operation = &entry.operation;
            if domain.is_none_or(|domain| operation.domain == domain) {
                *facets.by_status.entry(operation.status).or_default() += 1;
            }
            if status.is_none_or(|status| operation.status == status) {
                *facets.by_domain.entry(operation.domain.clone()).or_default() += 1;
            }
        }
        Ok(facets)
    }

    fn get_statistics(&self) -> Result<Statistics> {
        let mut statistics = Statistics::default();
        for entry in self.table()?.entries.values() {
            let operation = &entry.operation;
            statistics.total += 1;
            *statistics.by_status.entry(operation.status).or_default() += 1;
            *statistics.by_domain.entry(operation.domain.clone()).or_default() += 1;
            if operation.status == Status::Pending {
                let domain = operation.domain.clone();
                *statistics.pending_by_domain.entry(domain.clone()).or_default() += 1;
                let by_type = &mut statistics.pending_by_domain_and_failure_type;
                let types = by_type.entry(domain).or_default();
                *types.entry(operation.failure_type.clone()).or_default() += 1;
            }
        }
        Ok(statistics)
    }

    fn tallies(&self) -> Result<Vec<TallyRow>> {
        let table = self.table()?;
        let rows = table.tallies.iter().map(|((domain, failure_type), counts)| TallyRow {
            domain: domain.clone(),
            failure_type: failure_type.clone(),
            counts: counts.clone(),
        });
        Ok(rows.collect())
    }

    fn accounting(&self) -> Result<Accounting> {
        let table = self.table()?;
        let live = table.entries.len() as u64;
        Ok(Accounting { live, complete: true, ..table.accounting })
    }

    fn change_all(
        &self,
        ids: &[EntryId],
        decide: &mut dyn FnMut(&Entry) -> Result<Decision>,
    ) -> Result<Vec<Changed>> {
        let _turn = self.shared.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut decided = Vec::with_capacity(ids.len());
        let mut seen = HashSet::new();
        for id in ids {
            let entry = self.get_by_id(*id)?;
            let decision = match &entry {
                Some(entry) if seen.insert(id.0) => decide(entry)?,
                _ => Decision::Keep,
            };
            if let Decision::Remove(cause) = decision
                && !cause.removes()
            {
                let bound = "purged, deleted or evicted";
                return Err(Error::invalid("the cause of a removal", cause, bound));
            }
            decided.push((entry, decision));
        }
        let now = self.now();
        let mut table = self.table()?;
        drop(self.observed(&table));
        let mut notice = Notice::default();
        let mut done: HashMap<u64, Changed> = HashMap::new();
        let mut changed = Vec::with_capacity(ids.len());
        for (entry, decision) in decided {
            let Some(mut entry) = entry else {
                changed.push(Changed::Missing);
                continue;
            };
            let id = entry.operation.id.0;
            if !table.entries.contains_key(&id) && !done.contains_key(&id) {
                // It was evicted while the caller decided.
                changed.push(Changed::Missing);
                continue;
            }
            let outcome = match decision {
                Decision::Keep => {
                    done.get(&id).cloned().unwrap_or_else(|| Changed::Kept(Box::new(entry)))
                }
                Decision::Change(state, cause) => {
                    let mut state = *state;
                    state.settle(entry.operation.status, now);
                    entry.set_state(state);
                    table.tally(&entry, cause);
                    table.entries.insert(id, entry.clone());
                    notice.is_changed = true;
                    notice.add(&entry);
                    Changed::Changed(Box::new(entry))
                }
                Decision::Remove(cause) => {
                    table.remove(&entry, cause);
                    entry.drop_payloads();
                    notice.is_changed = true;
                    Changed::Removed(Box::new(entry))
                }
            };
            done.insert(id, outcome.clone());
            changed.push(outcome);
        }
        drop(table);
        self.tell(notice);
        Ok(changed)
    }

    fn leases(&self) -> &Leases {
        &self.shared.leases
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.shared.env.wall_ms())
    }

    fn timeline(&self) -> Timeline {
        self.clock_now().timeline()
    }

    fn clock(&self) -> Option<ClockStatus> {
        Some(self.clock_now().status())
    }

    fn monotonic_ms(&self) -> u64 {
        self.shared.env.monotonic_ms()
    }

    fn wait(&self, duration: Duration) {
        self.shared.env.sleep(duration);
    }

    fn random(&self) -> u64 {
        self.shared.env.random()
    }

    fn step(&self) -> Result<()> {
        self.evict_overflow().map(drop)
    }

    fn bounds(&self) -> Bounds {
        self.shared.config.bounds.clone()
    }

    fn evict(&self, request: &EvictRequest) -> Result<EvictReport> {
        Ok(self.evict_from(&mut *self.table()?, request))
    }

    fn evict_overflow(&self) -> Result<EvictReport> {
        Ok(self.relieve(&mut *self.table()?))
    }

    fn evictions(&self) -> Evictions {
        self.table().map(|table| table.evictions).unwrap_or_default()
    }

    fn summaries(&self) -> Result<Vec<EvictedSummary>> {
        Ok(self.table()?.summaries.clone())
    }

    fn change_summaries(
        &self,
        decide: &mut dyn FnMut(&EvictedSummary) -> Option<SummaryStatus>,
    ) -> Result<u64> {
        let now = self.now();
        Ok(self.table()?.put_summaries(now, decide))
    }

    fn flush(&self) -> Result<()> {
        self.table().map(drop)
    }

    fn close(&self) -> Result<()> {
        let mut table = self.shared.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.closed = true;
        Ok(())
    }

    fn tell_changes(&self, taker: Weak<dyn NoticeTaker>) -> bool {
        self.shared.takers.add(taker);
        true
    }
}
