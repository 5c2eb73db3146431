//! How a repository stands to its limits, and how the summaries of evicted entries age; the same
//! for all repositories.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::{FailedOperationRepository, Maintained, Maintenance};
use crate::entry::{EntryId, Status, Timestamp};
use crate::error::Result;
use crate::overflow::{self, Overflow, SummaryStatus, Waiting};

/// How many summaries came into which status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SummariesAged {
    /// Those that became stale.
    pub stale_count: u64,
    /// Those that were archived.
    pub archived_count: u64,
}

pub fn overflow<R: FailedOperationRepository + ?Sized>(repository: &R) -> Result<Overflow> {
    let mut waiting: Waiting = BTreeMap::new();
    for status in Status::ALL.into_iter().filter(|status| overflow::is_waiting(*status)) {
        for (domain, count) in repository.get_facet_counts(Some(status), None)?.by_domain {
            *waiting.entry(Arc::from(domain)).or_default() += count;
        }
    }
    Ok(Overflow {
        level: overflow::level(&repository.bounds(), &waiting),
        active: waiting.values().sum(),
        evictions: repository.evictions(),
    })
}

/// Evicts one batch, for which there is no work without a limit, or lets all summaries age.
pub fn maintain<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    maintenance: Maintenance,
) -> Result<Option<Maintained>> {
    let (bounds, now) = (repository.bounds(), repository.trusted_now());
    if maintenance == Maintenance::Evict {
        if !bounds.is_limited() {
            return Ok(None);
        }
        let items = repository.evict_overflow()?.evicted;
        return Ok(Some(Maintained { items, next_at: (items > 0).then_some(now) }));
    }
    let aged = repository.age_summaries(now)?;
    let summaries = repository.summaries()?;
    let timeline = repository.timeline();
    let ages_at =
        |summary| overflow::ages_at(summary, &bounds, |at| timeline.latest(at, EntryId(0)));
    let next_at = summaries.iter().filter_map(ages_at).min();
    Ok(Some(Maintained { items: aged.stale_count + aged.archived_count, next_at }))
}

pub fn age<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    now: Timestamp,
) -> Result<SummariesAged> {
    let (bounds, timeline) = (repository.bounds(), repository.timeline());
    let mut aged = SummariesAged::default();
    repository.change_summaries(&mut |summary| {
        let status = overflow::age(summary, &bounds, now, |at| timeline.latest(at, EntryId(0)))?;
        match status {
            SummaryStatus::Stale => aged.stale_count += 1,
            _ => aged.archived_count += 1,
        }
        Some(status)
    })?;
    Ok(aged)
}
