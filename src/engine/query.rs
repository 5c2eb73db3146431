//! Finding entries again: by id, by key, by filter; counts, facets, statistics, accounting.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use serde::Serialize;

use super::load::Live;
use super::{Engine, Inner};
use crate::entry::{Entry, EntryId, Filter, Page, Status, Timestamp};
use crate::error::Result;
use crate::index::{Catalog, Cell};

/// How many entries stand in each status and domain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Facets {
    /// By status; a status without entries is absent.
    pub by_status: BTreeMap<Status, u64>,
    /// By domain.
    pub by_domain: BTreeMap<String, u64>,
}

/// The counts that an overview needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Statistics {
    /// All entries.
    pub total: u64,
    /// By status.
    pub by_status: BTreeMap<Status, u64>,
    /// By domain.
    pub by_domain: BTreeMap<String, u64>,
    /// Pending entries by domain.
    pub pending_by_domain: BTreeMap<String, u64>,
    /// Pending entries by domain and failure type.
    pub pending_by_domain_and_failure_type: BTreeMap<String, BTreeMap<String, u64>>,
}

/// What became of everything that was ever offered.
///
/// `captured = live + purged + evicted + lost` holds after any crash;
/// `offered = captured + duplicates + refused + queued + spilled` within a process and after a
/// clean close.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Accounting {
    /// Failures given to `store`.
    pub offered: u64,
    /// Entries written to the log.
    pub captured: u64,
    /// Failures whose key was there already.
    pub duplicates: u64,
    /// Failures given back.
    pub refused: u64,
    /// Failures on their way.
    pub queued: u64,
    /// Failures that went to a fallback file through this store. Those that a process without the
    /// lock put there count as offered and captured when they come home.
    pub spilled: u64,
    /// Entries that can be found.
    pub live: u64,
    /// Entries purged.
    pub purged: u64,
    /// Entries evicted for space.
    pub evicted: u64,
    /// Entries lost to damage.
    pub lost: u64,
    /// Whether `offered`, `duplicates`, `refused` and `spilled` are complete: after a crash those
    /// since the last checkpoint may be missing.
    pub complete: bool,
}

/// The bytes that the store takes on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Bytes {
    /// The segments.
    pub log: u64,
    /// The index.
    pub index: u64,
    /// The fallback files.
    pub fallback: u64,
    /// What recovery put aside.
    pub quarantine: u64,
    /// Space kept for a full disk.
    pub ballast: u64,
    /// A segment that is made ready, or rewritten.
    pub prepared: u64,
    /// The bound over all of it, if one is set.
    pub limit: Option<u64>,
}

impl Engine {
    /// The entry with this id; `None` when there is none.
    ///
    /// # Errors
    ///
    /// [`Error::IndexNotReady`](crate::Error::IndexNotReady), [`Error::Closed`](crate::Error::Closed),
    /// [`Error::Io`](crate::Error::Io).
    pub fn get(&self, id: EntryId) -> Result<Option<Entry>> {
        let catalog = self.inner.open_catalog()?;
        self.inner.read(&catalog, id.0)
    }

    /// The entry with this key: the one given to `store`, else the entry's uuid.
    ///
    /// # Errors
    ///
    /// As [`Engine::get`].
    pub fn get_by_key(&self, key: &str) -> Result<Option<Entry>> {
        let catalog = self.inner.open_catalog()?;
        match self.inner.find_key(key)? {
            Some(lsn) => self.inner.read(&catalog, lsn),
            None => Ok(None),
        }
    }

    /// The newest entry: the one with the highest id.
    ///
    /// # Errors
    ///
    /// As [`Engine::get`].
    pub fn newest(&self) -> Result<Option<Entry>> {
        let page = Page { limit: 1, ..Page::default() };
        Ok(self.find(&Filter::default(), page)?.pop())
    }

    /// The entries that match, in order of their ids, never of time.
    ///
    /// An entry that turns out to be damaged is left out, see [`Engine::warnings`].
    ///
    /// # Errors
    ///
    /// As [`Engine::get`].
    pub fn find(&self, filter: &Filter, page: Page) -> Result<Vec<Entry>> {
        let catalog = self.inner.open_catalog()?;
        loop {
            let confirm = &mut |lsn| self.inner.confirm(&catalog, lsn, filter);
            let ids = catalog.select(&Live(&self.inner), filter, page, confirm)?;
            let wanted = ids.len();
            let mut entries = Vec::with_capacity(wanted);
            for lsn in ids {
                entries.extend(self.inner.read(&catalog, lsn)?);
            }
            // Damage takes an entry out of the index, so a second look fills the page.
            if entries.len() == wanted {
                return Ok(entries);
            }
        }
    }

    /// The ids of the entries that match; as [`Engine::find`] without reading them.
    ///
    /// # Errors
    ///
    /// As [`Engine::get`].
    pub fn select(&self, filter: &Filter, page: Page) -> Result<Vec<EntryId>> {
        let catalog = self.inner.open_catalog()?;
        let confirm = &mut |lsn| self.inner.confirm(&catalog, lsn, filter);
        let ids = catalog.select(&Live(&self.inner), filter, page, confirm)?;
        Ok(ids.into_iter().map(EntryId).collect())
    }

    /// How many entries match.
    ///
    /// # Errors
    ///
    /// As [`Engine::get`].
    pub fn count(&self, filter: &Filter) -> Result<u64> {
        let catalog = self.inner.open_catalog()?;
        let confirm = &mut |lsn| self.inner.confirm(&catalog, lsn, filter);
        catalog.count(&Live(&self.inner), filter, confirm)
    }

    /// How many entries were created in a window of time, both ends included; those purged since
    /// are not among them.
    ///
    /// # Errors
    ///
    /// As [`Engine::get`].
    pub fn count_created_between(&self, from: Timestamp, to: Timestamp) -> Result<u64> {
        let filter = Filter { created_from: Some(from), created_to: Some(to), ..Filter::default() };
        self.count(&filter)
    }

    /// Counts by status within a domain, and by domain within a status: a facet ignores its own
    /// selection.
    ///
    /// # Errors
    ///
    /// As [`Engine::get`].
    pub fn facets(&self, status: Option<Status>, domain: Option<&str>) -> Result<Facets> {
        let mut facets = Facets::default();
        for cell in self.inner.open_catalog()?.cells() {
            if domain.is_none_or(|domain| *cell.domain == *domain) {
                *facets.by_status.entry(cell.status).or_default() += cell.count;
            }
            if status.is_none_or(|status| cell.status == status) {
                *facets.by_domain.entry(cell.domain.to_string()).or_default() += cell.count;
            }
        }
        facets.by_status.retain(|_, count| *count > 0);
        facets.by_domain.retain(|_, count| *count > 0);
        Ok(facets)
    }

    /// The counts that an overview needs; exact, without a scan.
    ///
    /// # Errors
    ///
    /// As [`Engine::get`].
    pub fn statistics(&self) -> Result<Statistics> {
        let mut statistics = Statistics::default();
        for cell in self.inner.open_catalog()?.cells() {
            if cell.count > 0 {
                statistics.add(&cell);
            }
        }
        Ok(statistics)
    }

    /// What became of everything that was ever offered.
    ///
    /// # Errors
    ///
    /// As [`Engine::get`].
    pub fn accounting(&self) -> Result<Accounting> {
        self.inner.open_catalog()?;
        let counters = &self.inner.counters;
        let totals = self.inner.feed.totals();
        let offered = counters.offered.load(Ordering::Relaxed);
        let duplicates = counters.duplicates.load(Ordering::Relaxed);
        let refused = counters.refused.load(Ordering::Relaxed);
        let spilled = counters.spilled.load(Ordering::Relaxed);
        let settled = totals.captured + duplicates + refused + spilled;
        let gone = totals.purged + totals.evicted + totals.lost;
        Ok(Accounting {
            offered,
            captured: totals.captured,
            duplicates,
            refused,
            queued: offered.saturating_sub(settled),
            spilled,
            live: totals.captured.saturating_sub(gone),
            purged: totals.purged,
            evicted: totals.evicted,
            lost: totals.lost,
            complete: !counters.incomplete.load(Ordering::Relaxed),
        })
    }
}

impl Inner {
    /// Whether the filter means an entry that the index cannot judge.
    fn confirm(&self, catalog: &Catalog, lsn: u64, filter: &Filter) -> Result<bool> {
        Ok(self.read(catalog, lsn)?.is_some_and(|entry| entry.matches(filter)))
    }
}

impl Statistics {
    fn add(&mut self, cell: &Cell) {
        self.total += cell.count;
        *self.by_status.entry(cell.status).or_default() += cell.count;
        *self.by_domain.entry(cell.domain.to_string()).or_default() += cell.count;
        if cell.status == Status::Pending {
            *self.pending_by_domain.entry(cell.domain.to_string()).or_default() += cell.count;
            let by_type = &mut self.pending_by_domain_and_failure_type;
            let types = by_type.entry(cell.domain.to_string()).or_default();
            *types.entry(cell.failure_type.to_string()).or_default() += cell.count;
        }
    }
}
