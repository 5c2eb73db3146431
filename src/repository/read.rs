//! The questions that every repository answers alike.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::FailedOperationRepository;
use crate::entry::{DAY_MS, Entry, EntryId, Filter, Order, Page, Status, Timestamp};
use crate::error::Result;
use crate::overflow::is_waiting;

/// The ages that the cleanup statistics ask for.
const RESOLVED_DAYS: u64 = 30;
const ARCHIVED_DAYS: u64 = 90;

/// How long an entry may stay pending before it breaches its service level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlaThresholds {
    /// For a domain that is not listed.
    pub default: Duration,
    /// By domain.
    pub by_domain: BTreeMap<String, Duration>,
}

/// What maintenance could do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CleanupStats {
    /// All entries.
    pub total: u64,
    /// By status; a status without entries is absent.
    pub by_status: BTreeMap<Status, u64>,
    /// Resolved for more than 30 days.
    pub resolved_older_than_30_days: u64,
    /// Archived for more than 90 days.
    pub archived_older_than_90_days: u64,
}

impl CleanupStats {
    /// How many entries could be archived.
    pub const fn can_archive(&self) -> u64 {
        self.resolved_older_than_30_days
    }

    /// How many entries could be purged.
    pub const fn can_purge(&self) -> u64 {
        self.archived_older_than_90_days
    }
}

pub fn filter(status: Option<Status>, domain: Option<&str>, failure_type: Option<&str>) -> Filter {
    Filter {
        status,
        domain: domain.map(str::to_owned),
        failure_type: failure_type.map(str::to_owned),
        ..Filter::default()
    }
}

pub const fn oldest(limit: usize) -> Page {
    Page { order: Order::Oldest, offset: 0, limit, after: None }
}

pub fn expired(before: Timestamp) -> Filter {
    let status = Some(Status::Pending);
    Filter { status, expires_before: Some(before), ..Filter::default() }
}

pub fn aged(status: Status, before: Timestamp) -> Filter {
    Filter { status: Some(status), aged_before: Some(before), ..Filter::default() }
}

/// A time some days before another; the beginning of time at the earliest.
pub const fn days_before(now: Timestamp, days: u64) -> Timestamp {
    Timestamp(now.0.saturating_sub(days.saturating_mul(DAY_MS)))
}

pub fn find_sla_breached<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    now: Timestamp,
    thresholds: &SlaThresholds,
    limit: usize,
) -> Result<Vec<Entry>> {
    let pending = repository.get_statistics()?.pending_by_domain;
    let mut ids = Vec::new();
    for domain in pending.keys() {
        let threshold = thresholds.by_domain.get(domain).unwrap_or(&thresholds.default);
        let threshold_ms = u64::try_from(threshold.as_millis()).unwrap_or(u64::MAX);
        // Older than the threshold, not as old: so the last millisecond is out.
        let Some(last) = now.0.checked_sub(threshold_ms).and_then(|at| at.checked_sub(1)) else {
            continue;
        };
        let mut breached = filter(Some(Status::Pending), Some(domain), None);
        breached.created_to = Some(Timestamp(last));
        ids.extend(repository.select(&breached, oldest(limit))?);
    }
    ids.sort_unstable();
    ids.truncate(limit);
    let mut entries = Vec::with_capacity(ids.len());
    for id in ids {
        entries.extend(repository.get_by_id(id)?);
    }
    Ok(entries)
}

pub fn get_oldest_ids<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    limit: usize,
    domain: Option<&str>,
) -> Result<Vec<EntryId>> {
    let mut ids = Vec::new();
    for status in Status::ALL.into_iter().filter(|status| is_waiting(*status)) {
        ids.extend(repository.select(&filter(Some(status), domain, None), oldest(limit))?);
    }
    ids.sort_unstable();
    ids.truncate(limit);
    Ok(ids)
}

pub fn count_active<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    domain: Option<&str>,
) -> Result<u64> {
    let by_status = repository.get_facet_counts(None, domain)?.by_status;
    Ok(by_status.iter().filter(|(status, _)| is_waiting(**status)).map(|(_, count)| count).sum())
}

pub fn get_cleanup_stats<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    now: Timestamp,
) -> Result<CleanupStats> {
    let statistics = repository.get_statistics()?;
    let resolved = aged(Status::Resolved, days_before(now, RESOLVED_DAYS));
    Ok(CleanupStats {
        total: statistics.total,
        by_status: statistics.by_status,
        resolved_older_than_30_days: super::age::count(repository, &resolved)?,
        archived_older_than_90_days: repository
            .count_archived_before(days_before(now, ARCHIVED_DAYS))?,
    })
}
