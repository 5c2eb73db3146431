//! Finding entries: pending, replayable, breached, expired, pages, statistics.

use std::collections::BTreeMap;

use serde::Serialize;

use super::DlqService;
use crate::engine::{Accounting, Facets, Statistics, TallyRow};
use crate::entry::{Cause, Entry, EntryId, Filter, Order, Page, Status};
use crate::error::DlqResult;
use crate::repository::SlaThresholds;
use std::time::Duration;

/// The most entries of a page.
const PAGE_SIZE_MAX: usize = 100;
/// Entries that a query returns when nobody says how many.
pub const LIMIT_DEFAULT: usize = 100;

/// Which page of which entries is wanted. The default is the first 20, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListRequest {
    /// Which entries; without a status, those of all statuses.
    pub filter: Filter,
    /// Which page, from 1; smaller ones mean 1.
    pub page: u64,
    /// How many entries a page has, from 1 to 100; others are taken for the nearest.
    pub page_size: usize,
    /// The order; newest first by default.
    pub order: Order,
    /// Start behind this entry instead of counting pages: a cursor that new entries do not move.
    /// It need not exist any more.
    pub after: Option<EntryId>,
}

/// One page of entries, with the reference's keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct EntryPage {
    /// The entries.
    pub results: Vec<Entry>,
    /// Which page this is; 1 behind a cursor.
    pub page: u64,
    /// How many entries a page has.
    pub page_size: usize,
    /// How many pages there are; 0 when nothing matches.
    pub total_pages: u64,
    /// How many entries match.
    pub total_count: u64,
    /// Whether a page follows.
    pub has_next: bool,
    /// Whether a page comes before.
    pub has_previous: bool,
    /// What to give as `after` for the next page; `None` at the end.
    pub next_after: Option<EntryId>,
}

/// Everything that the reference's metrics are made of, as of one moment. All of it is exact, and
/// the same after the store was opened again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ServiceStats {
    /// How many entries there are now, by status, domain and failure type.
    #[serde(flatten)]
    pub statistics: Statistics,
    /// What became of everything that was ever offered.
    pub accounting: Accounting,
    /// Counters over the life of the store, by domain.
    pub counters: BTreeMap<String, DomainCounters>,
}

/// Counters of one domain over the life of the store. The sums over failure types; domains beyond
/// the first 64 pairs of domain and type are counted together as `other_domain`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DomainCounters {
    /// Entries stored (`dlq_created_total`).
    pub created: u64,
    /// Entries stored, by failure type (`dlq_items_total`).
    pub created_by_failure_type: BTreeMap<String, u64>,
    /// Attempts begun, by kind: `single`, `batch`, `conditional` (`replay_attempts_total`). A
    /// force redrive counts as `single`.
    pub replay_attempts: BTreeMap<&'static str, u64>,
    /// Attempts that were delivered (`replay_outcomes_total`, outcome `success`).
    pub replay_succeeded: u64,
    /// Attempts that failed (outcome `failure`).
    pub replay_failed: u64,
    /// Attempts that were told to come back later.
    pub replay_throttled: u64,
    /// Attempts that were cut off.
    pub replay_interrupted: u64,
    /// Entries whose attempts were used up (`dlq_replay_exhausted_total`).
    pub replay_exhausted: u64,
    /// Force redrives (`dlq_force_redrive_total`).
    pub force_redrive: u64,
    /// Force redrives that used up their budget, too (`dlq_force_redrive_exhausted_total`).
    pub force_redrive_exhausted: u64,
    /// Entries resolved by hand.
    pub resolved: u64,
    /// Entries rejected by hand.
    pub rejected: u64,
    /// Entries resolved because nobody wanted them any more.
    pub unwanted: u64,
    /// Entries that a recovery sweep gave to a person.
    pub escalated: u64,
    /// Entries expired.
    pub expired: u64,
    /// Entries archived.
    pub archived: u64,
    /// Entries purged or deleted.
    pub purged: u64,
    /// Entries evicted (`dlq_evicted_total`).
    pub evicted: u64,
}

impl Default for ListRequest {
    fn default() -> Self {
        Self {
            filter: Filter::default(),
            page: 1,
            page_size: 20,
            order: Order::default(),
            after: None,
        }
    }
}

impl DlqService {
    /// The pending entries, oldest first.
    ///
    /// # Errors
    ///
    /// [`DlqError::Engine`](crate::DlqError::Engine) when the store cannot be read.
    pub fn get_pending_entries(
        &self,
        domain: Option<&str>,
        failure_type: Option<&str>,
        limit: Option<usize>,
    ) -> DlqResult<Vec<Entry>> {
        let limit = limit.unwrap_or(LIMIT_DEFAULT);
        Ok(self.repository()?.find_by_status(Status::Pending, domain, failure_type, limit)?)
    }

    /// The entries that can be replayed: pending and below their cap, oldest first. Those that
    /// wait for a later time are among them.
    ///
    /// # Errors
    ///
    /// As [`get_pending_entries`](Self::get_pending_entries).
    pub fn get_replayable_entries(
        &self,
        domain: Option<&str>,
        failure_type: Option<&str>,
        limit: Option<usize>,
    ) -> DlqResult<Vec<Entry>> {
        let limit = limit.unwrap_or(LIMIT_DEFAULT);
        Ok(self.repository()?.find_replayable(domain, failure_type, limit)?)
    }

    /// All pending entries that are older than their service level allows, oldest first.
    ///
    /// # Errors
    ///
    /// As [`get_pending_entries`](Self::get_pending_entries).
    pub fn get_sla_breached_entries(&self) -> DlqResult<Vec<Entry>> {
        let config = self.config();
        let hours = |hours: u32| Duration::from_secs(u64::from(hours) * 3600);
        let by_domain = &config.sla_thresholds_by_domain;
        let thresholds = SlaThresholds {
            default: hours(config.sla_default_hours),
            by_domain: by_domain.iter().map(|(name, own)| (name.clone(), hours(*own))).collect(),
        };
        let repository = self.repository()?;
        Ok(repository.find_sla_breached(repository.now(), &thresholds, usize::MAX)?)
    }

    /// All pending entries whose time ran out, oldest first.
    ///
    /// # Errors
    ///
    /// As [`get_pending_entries`](Self::get_pending_entries).
    pub fn get_expired_entries(&self) -> DlqResult<Vec<Entry>> {
        let repository = self.repository()?;
        Ok(repository.find_expired(repository.trusted_now(), usize::MAX)?)
    }

    /// The entry with this id; `None` when there is none.
    ///
    /// # Errors
    ///
    /// As [`get_pending_entries`](Self::get_pending_entries).
    pub fn get_entry_by_id(&self, id: EntryId) -> DlqResult<Option<Entry>> {
        Ok(self.repository()?.get_by_id(id)?)
    }

    /// Counts and counters as of now.
    ///
    /// # Errors
    ///
    /// As [`get_pending_entries`](Self::get_pending_entries).
    pub fn get_stats(&self) -> DlqResult<ServiceStats> {
        let repository = self.repository()?;
        Ok(ServiceStats {
            statistics: repository.get_statistics()?,
            accounting: repository.accounting()?,
            counters: counters_of(&repository.tallies()?),
        })
    }

    /// Counts by status within a domain, and by domain within a status. Buckets of zero are
    /// absent.
    ///
    /// # Errors
    ///
    /// As [`get_pending_entries`](Self::get_pending_entries).
    pub fn get_facet_counts(
        &self,
        status: Option<Status>,
        domain: Option<&str>,
    ) -> DlqResult<Facets> {
        Ok(self.repository()?.get_facet_counts(status, domain)?)
    }

    /// One page of entries.
    ///
    /// # Errors
    ///
    /// As [`get_pending_entries`](Self::get_pending_entries).
    pub fn list_entries(&self, request: &ListRequest) -> DlqResult<EntryPage> {
        let repository = self.repository()?;
        let page_size = request.page_size.clamp(1, PAGE_SIZE_MAX);
        let page = if request.after.is_some() { 1 } else { request.page.max(1) };
        let total_count = repository.count(&request.filter)?;
        let total_pages = total_count.div_ceil(page_size as u64);
        let offset = (page - 1).saturating_mul(page_size as u64);
        // One more than a page tells whether another follows, whatever happens meanwhile.
        let wanted =
            Page { order: request.order, offset, limit: page_size + 1, after: request.after };
        let mut results = repository.find(&request.filter, wanted)?;
        let has_next = results.len() > page_size;
        results.truncate(page_size);
        let last = results.last().map(|entry| entry.operation.id);
        Ok(EntryPage {
            results,
            page,
            page_size,
            total_pages,
            total_count,
            has_next,
            has_previous: request.after.is_some() || page > 1,
            next_after: last.filter(|_| has_next),
        })
    }
}

/// The counters by domain that the tallies make.
fn counters_of(rows: &[TallyRow]) -> BTreeMap<String, DomainCounters> {
    let mut counters: BTreeMap<String, DomainCounters> = BTreeMap::new();
    for row in rows {
        let domain = counters.entry(row.domain.clone()).or_default();
        for (cause, count) in &row.counts {
            domain.add(*cause, &row.failure_type, *count);
        }
    }
    counters
}

impl DomainCounters {
    fn add(&mut self, cause: Cause, failure_type: &str, count: u64) {
        let mut attempts = |kind| *self.replay_attempts.entry(kind).or_default() += count;
        match cause {
            Cause::Stored => {
                self.created += count;
                let by_type = &mut self.created_by_failure_type;
                *by_type.entry(failure_type.to_owned()).or_default() += count;
            }
            Cause::StartedSingle => attempts("single"),
            Cause::StartedBatch => attempts("batch"),
            Cause::StartedConditional => attempts("conditional"),
            Cause::Redriven => {
                attempts("single");
                self.force_redrive += count;
            }
            Cause::Succeeded => self.replay_succeeded += count,
            Cause::Failed => self.replay_failed += count,
            Cause::Exhausted => {
                self.replay_failed += count;
                self.replay_exhausted += count;
            }
            Cause::RedriveExhausted => {
                self.replay_failed += count;
                self.replay_exhausted += count;
                self.force_redrive_exhausted += count;
            }
            Cause::Throttled => self.replay_throttled += count,
            Cause::Interrupted => self.replay_interrupted += count,
            Cause::InterruptedExhausted => {
                self.replay_interrupted += count;
                self.replay_exhausted += count;
            }
            Cause::Unwanted => self.unwanted += count,
            Cause::Resolved => self.resolved += count,
            Cause::Rejected => self.rejected += count,
            Cause::Escalated => self.escalated += count,
            Cause::Expired => self.expired += count,
            Cause::Archived => self.archived += count,
            Cause::Purged | Cause::Deleted => self.purged += count,
            Cause::Evicted => self.evicted += count,
            Cause::Other | Cause::Leased | Cause::Released => {}
        }
    }
}
