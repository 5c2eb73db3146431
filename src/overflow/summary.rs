//! A summary of evicted entries as users see it, its life, and the questions about many.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::config::Bounds;
use crate::entry::{DAY_MS, Json, Timestamp};
use crate::error::{Error, Result};
use crate::format::SummaryBody;

/// What is left of entries that were evicted: one for each domain, failure type and error code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct EvictedSummary {
    /// `compressed:`, the group and the time it was made.
    pub id: String,
    /// The domain of the entries.
    pub domain: String,
    /// Their failure type, at most 128 bytes of it.
    pub failure_type: String,
    /// Their error code, at most 128 bytes of it.
    pub error_code: String,
    /// How many they are.
    pub count: u64,
    /// The earliest creation among them.
    pub first_seen: Timestamp,
    /// The latest creation among them.
    pub last_seen: Timestamp,
    /// The error message of the newest one, at most 256 bytes of it.
    pub sample_error_message: String,
    /// `entity_type`, `entity_id` and `metadata` of the newest one; large metadata is replaced by
    /// a marker.
    pub sample_context: Json,
    /// Where it stands.
    pub status: SummaryStatus,
    /// When it was made.
    pub compressed_at: Timestamp,
    /// When it became stale.
    pub stale_at: Option<Timestamp>,
    /// When it was archived.
    pub archived_at: Option<Timestamp>,
}

/// Where a summary stands.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum SummaryStatus {
    /// It takes in more entries of its group.
    #[default]
    Active = 0,
    /// It is as it was; the next entries of its group make a new one.
    Stale = 1,
    /// It is kept for the record only.
    Archived = 2,
}

/// How many summaries there are, and how many entries they stand for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SummaryTotals {
    /// Summaries.
    pub total_summaries: u64,
    /// Entries that they count.
    pub total_compressed_items: u64,
    /// Summaries in each status, those without any too.
    pub by_status: BTreeMap<SummaryStatus, u64>,
}

impl SummaryStatus {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Active, Self::Stale, Self::Archived];

    /// The word that stands for it in text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Stale => "stale",
            Self::Archived => "archived",
        }
    }
}

impl fmt::Display for SummaryStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for SummaryStatus {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|status| status.as_str() == text);
        known
            .ok_or_else(|| Error::invalid("status of a summary", text, "active, stale or archived"))
    }
}

impl EvictedSummary {
    /// The record of it.
    pub(crate) fn to_body(&self) -> SummaryBody {
        let it = self.clone();
        SummaryBody {
            id: it.id,
            domain: it.domain,
            failure_type: it.failure_type,
            error_code: it.error_code,
            count: it.count,
            first_seen: it.first_seen,
            last_seen: it.last_seen,
            sample_error_message: it.sample_error_message,
            sample_context: it.sample_context,
            status: it.status as u8,
            compressed_at: it.compressed_at,
            stale_at: it.stale_at,
            archived_at: it.archived_at,
        }
    }

    /// Puts it into a status, with the time of that.
    pub(crate) const fn put(&mut self, status: SummaryStatus, now: Timestamp) {
        self.status = status;
        match status {
            SummaryStatus::Active => {}
            SummaryStatus::Stale => self.stale_at = Some(now),
            SummaryStatus::Archived => self.archived_at = Some(now),
        }
    }
}

impl From<SummaryBody> for EvictedSummary {
    fn from(body: SummaryBody) -> Self {
        Self {
            id: body.id,
            domain: body.domain,
            failure_type: body.failure_type,
            error_code: body.error_code,
            count: body.count,
            first_seen: body.first_seen,
            last_seen: body.last_seen,
            sample_error_message: body.sample_error_message,
            sample_context: body.sample_context,
            status: match body.status {
                0 => SummaryStatus::Active,
                1 => SummaryStatus::Stale,
                // What a later version may add is not ours to age.
                _ => SummaryStatus::Archived,
            },
            compressed_at: body.compressed_at,
            stale_at: body.stale_at,
            archived_at: body.archived_at,
        }
    }
}

/// The status that a summary is old enough for, if it is one that it does not have yet. What is
/// exactly as old is not older. `trusted` makes a trusted time of one that was written.
pub(crate) fn age(
    summary: &EvictedSummary,
    bounds: &Bounds,
    now: Timestamp,
    trusted: impl Fn(Timestamp) -> Timestamp,
) -> Option<SummaryStatus> {
    let next = match summary.status {
        SummaryStatus::Active => SummaryStatus::Stale,
        _ => SummaryStatus::Archived,
    };
    ages_at(summary, bounds, trusted).filter(|at| *at <= now).map(|_| next)
}

/// When a summary comes into its next status, if nobody changes it; `trusted` as for [`age`].
pub(crate) fn ages_at(
    summary: &EvictedSummary,
    bounds: &Bounds,
    trusted: impl Fn(Timestamp) -> Timestamp,
) -> Option<Timestamp> {
    let after = |since: Timestamp, days: u32| {
        let since = trusted(since);
        // It must be exceeded.
        Timestamp(since.0.saturating_add(u64::from(days).saturating_mul(DAY_MS)).saturating_add(1))
    };
    match summary.status {
        SummaryStatus::Active => {
            Some(after(summary.compressed_at, bounds.compress_stale_after_days))
        }
        SummaryStatus::Stale => {
            let since = summary.stale_at.unwrap_or(summary.compressed_at);
            Some(after(since, bounds.compress_archive_after_days))
        }
        SummaryStatus::Archived => None,
    }
}

/// Those that match, newest first; they come in the order in which they were made.
pub(crate) fn select(
    summaries: Vec<EvictedSummary>,
    domain: Option<&str>,
    status: Option<SummaryStatus>,
    limit: usize,
) -> Vec<EvictedSummary> {
    let matches = |summary: &EvictedSummary| {
        domain.is_none_or(|domain| summary.domain == domain)
            && status.is_none_or(|status| summary.status == status)
    };
    summaries.into_iter().rev().filter(matches).take(limit).collect()
}

/// The totals over all of them.
pub(crate) fn totals(summaries: &[EvictedSummary]) -> SummaryTotals {
    let mut by_status: BTreeMap<SummaryStatus, u64> =
        SummaryStatus::ALL.into_iter().map(|status| (status, 0)).collect();
    for summary in summaries {
        *by_status.entry(summary.status).or_default() += 1;
    }
    SummaryTotals {
        total_summaries: summaries.len() as u64,
        total_compressed_items: summaries.iter().map(|summary| summary.count).sum(),
        by_status,
    }
}
