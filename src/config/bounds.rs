//! How many entries may wait, and what is done when they are too many.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Priority;
use super::dlq::maps;
use super::setting::{Setting, number, optional, optional_text, setting, share, small, word};

/// The smallest share of a limit at which making room may begin.
const THRESHOLD_MIN: f64 = 0.5;

/// What is done when more entries wait than a limit allows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OverflowStrategy {
    /// The oldest ones are evicted.
    #[default]
    DropOldest,
    /// New ones are refused.
    Reject,
    /// The oldest ones are evicted, and a summary of them is kept.
    CompressOldest,
}

/// How many entries may wait, and what is done when they are too many. Only entries that still
/// await somebody count: pending, replaying, reviewing, replayed and in review.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Bounds {
    /// The most entries that may wait. Default none; from 1000 to 10,000,000.
    pub max_size: Option<u64>,
    /// The most entries of one domain that may wait. Default none; from 100 to 1,000,000.
    pub max_size_per_domain: Option<u64>,
    /// What is done at a limit. Default [`OverflowStrategy::DropOldest`]; without a limit it has
    /// no effect.
    pub overflow_strategy: OverflowStrategy,
    /// The share of a limit at which making room begins. Default 0.8, from 0.5 to 1.
    pub emergency_purge_threshold: f64,
    /// The most entries that are evicted in one go. Default 500, from 100 to 50,000.
    pub overflow_evict_batch_size: u32,
    /// Below the threshold the entries are counted at the latest after so many stores. Default
    /// 10, from 1 to 1000.
    pub overflow_check_interval: u32,
    /// Days after which an active summary is stale. Default 30, from 7 to 365.
    pub compress_stale_after_days: u32,
    /// Days after which a stale summary is archived. Default 90, from 30 to 730.
    pub compress_archive_after_days: u32,
    /// The priority of domains that are not `normal`: low ones are evicted first, critical ones
    /// last.
    pub domain_priorities: BTreeMap<String, Priority>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            max_size: None,
            max_size_per_domain: None,
            overflow_strategy: OverflowStrategy::default(),
            emergency_purge_threshold: 0.8,
            overflow_evict_batch_size: 500,
            overflow_check_interval: 10,
            compress_stale_after_days: 30,
            compress_archive_after_days: 90,
            domain_priorities: BTreeMap::new(),
        }
    }
}

impl Bounds {
    /// Whether any limit is set.
    pub const fn is_limited(&self) -> bool {
        self.max_size.is_some() || self.max_size_per_domain.is_some()
    }

    /// Whether a domain has a priority of its own.
    pub(super) fn has_priority(&self, domain: &str) -> bool {
        self.domain_priorities.contains_key(domain)
    }

    /// The priority of a domain.
    pub fn priority(&self, domain: &str) -> Priority {
        self.domain_priorities.get(domain).copied().unwrap_or_default()
    }
}

pub(super) const MAX_SIZE: Setting = setting!(
    "max_size",
    "",
    "1000 to 10000000, or empty or 0 for no limit",
    "The most entries that may wait; those that are done do not count.",
    |text| limit(text, 1000, 10_000_000),
    optional_text,
    bounds.max_size
);

pub(super) const MAX_SIZE_PER_DOMAIN: Setting = setting!(
    "max_size_per_domain",
    "",
    "100 to 1000000, or empty or 0 for no limit",
    "The most entries of one domain that may wait.",
    |text| limit(text, 100, 1_000_000),
    optional_text,
    bounds.max_size_per_domain
);

pub(super) const OVERFLOW_STRATEGY: Setting = setting!(
    "overflow_strategy",
    "drop_oldest",
    "drop_oldest, reject or compress_oldest",
    "What is done at a limit: the oldest go, new ones are refused, or the oldest are summed up.",
    word,
    bounds.overflow_strategy
);

pub(super) const EMERGENCY_PURGE_THRESHOLD: Setting = setting!(
    "emergency_purge_threshold",
    "0.8",
    "0.5 to 1",
    "The share of a limit at which making room begins.",
    |text| share(text).filter(|share| *share >= THRESHOLD_MIN),
    bounds.emergency_purge_threshold
);

pub(super) const OVERFLOW_EVICT_BATCH_SIZE: Setting = setting!(
    "overflow_evict_batch_size",
    "500",
    "100 to 50000",
    "The most entries that are evicted in one go.",
    |text| small(text, 100, 50_000),
    bounds.overflow_evict_batch_size
);

pub(super) const OVERFLOW_CHECK_INTERVAL: Setting = setting!(
    "overflow_check_interval",
    "10",
    "1 to 1000",
    "Below the threshold the entries are counted at the latest after so many stores.",
    |text| small(text, 1, 1000),
    bounds.overflow_check_interval
);

pub(super) const COMPRESS_STALE_AFTER_DAYS: Setting = setting!(
    "compress_stale_after_days",
    "30",
    "7 to 365",
    "Days after which an active summary of evicted entries is stale.",
    |text| small(text, 7, 365),
    bounds.compress_stale_after_days
);

pub(super) const COMPRESS_ARCHIVE_AFTER_DAYS: Setting = setting!(
    "compress_archive_after_days",
    "90",
    "30 to 730",
    "Days after which a stale summary is archived.",
    |text| small(text, 30, 730),
    bounds.compress_archive_after_days
);

pub(super) const DOMAIN_PRIORITIES: Setting = setting!(
    "domain_priorities",
    "",
    "DOMAIN=critical, normal or low, between commas",
    "Which domains are evicted first (low) and which last (critical).",
    |text| maps::read(text, maps::domain, word),
    |map| maps::write(map, Priority::to_string),
    bounds.domain_priorities
);

/// A limit within its bounds, or none.
#[expect(clippy::option_option, reason = "a row's reader says whether the text fits")]
fn limit(text: &str, min: u64, max: u64) -> Option<Option<u64>> {
    if text == "0" { Some(None) } else { optional(text, |text| number(text, min, max)) }
}
