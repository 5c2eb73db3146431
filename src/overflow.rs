//! What is decided when entries are too many: who counts, who goes first, who is refused. Pure, and
//! the same for every repository; what is left of those that go is in `summary` and `digest`.

mod digest;
mod summary;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::config::{Bounds, OverflowStrategy, Priority};
use crate::entry::Status;
use crate::error::Error;

pub(crate) use digest::{Digest, put_records};
pub use summary::{EvictedSummary, SummaryStatus, SummaryTotals};
pub(crate) use summary::{age, ages_at, select, totals};

/// How many entries of each domain still await somebody.
pub(crate) type Waiting = BTreeMap<Arc<str>, u64>;

/// The places in the order of eviction, the first to go first.
pub(crate) const RANKS: std::ops::Range<u8> = 0..5;

/// All summaries take at most this share of a segment, since each one begins with all of them.
pub(crate) const SUMMARIES_SHARE: u64 = 16;

/// Which entries are to be evicted, and how many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EvictRequest {
    /// At most so many.
    pub count: u64,
    /// Only of this domain.
    pub domain: Option<String>,
    /// Whether entries that are done go too, and then first. They take space, but do not count
    /// for a limit of entries.
    pub terminal: bool,
    /// Whether a summary of them is kept.
    pub compress: bool,
}

/// What an eviction did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct EvictReport {
    /// Entries that are gone.
    pub evicted: u64,
    /// Summaries that were made, or that took more entries in.
    pub summaries: u64,
}

/// How near the number of waiting entries is to its limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WaterLevel {
    /// Below the threshold of every limit, or there is none.
    #[default]
    Normal,
    /// At the threshold of a limit or above; room is made in the background.
    Aggressive,
    /// At a limit; room is made before a new entry is stored, or it is refused.
    Emergency,
}

/// How a repository stands to its limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Overflow {
    /// How near the limits are.
    pub level: WaterLevel,
    /// Entries that await somebody.
    pub active: u64,
    /// What was evicted so far.
    #[serde(flatten)]
    pub evictions: Evictions,
}

/// What a repository evicted since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Evictions {
    /// Entries.
    pub evicted: u64,
    /// Summaries that were made, or that took more entries in.
    pub summaries: u64,
    /// How often a store call had to make room first.
    pub emergencies: u64,
}

/// What is to happen before new entries are stored.
#[derive(Debug)]
pub(crate) enum Admission {
    /// They may be, and so many more may be before anybody counts again.
    Store { credit: u64 },
    /// First others must go; then ask again.
    Evict(EvictRequest),
    /// They may not be.
    Refuse(Error),
}

/// One limit, and how many entries there are under it.
struct Limit<'a> {
    name: &'static str,
    domain: Option<&'a str>,
    max: u64,
    count: u64,
    added: u64,
}

/// Whether an entry still awaits somebody.
pub(crate) const fn is_waiting(status: Status) -> bool {
    matches!(
        status,
        Status::Pending
            | Status::Replaying
            | Status::Reviewing
            | Status::Replayed
            | Status::RequiresReview
    )
}

impl Evictions {
    pub(crate) const fn add(&mut self, report: EvictReport) {
        self.evicted += report.evicted;
        self.summaries += report.summaries;
    }

    /// What came since then; all of it if the repository was opened since.
    pub(crate) const fn since(self, before: Self) -> Self {
        if self.evicted < before.evicted {
            return self;
        }
        Self {
            evicted: self.evicted - before.evicted,
            summaries: self.summaries.saturating_sub(before.summaries),
            emergencies: self.emergencies.saturating_sub(before.emergencies),
        }
    }
}

impl EvictReport {
    pub(crate) const fn add(&mut self, other: Self) {
        self.evicted += other.evicted;
        self.summaries += other.summaries;
    }
}

impl EvictRequest {
    /// The place of an entry in the order of eviction; none when it is not to go. An entry that
    /// is leased, or in a person's hands, never goes.
    pub(crate) fn rank(&self, bounds: &Bounds, status: Status, domain: &str) -> Option<u8> {
        if self.domain.as_ref().is_some_and(|wanted| wanted != domain) {
            return None;
        }
        match status {
            Status::Replaying | Status::Reviewing => None,
            Status::Archived => self.terminal.then_some(0),
            Status::Resolved | Status::Rejected | Status::Expired | Status::PermanentlyFailed => {
                self.terminal.then_some(1)
            }
            Status::Pending | Status::Replayed | Status::RequiresReview => {
                Some(match bounds.priority(domain) {
                    Priority::Low => 2,
                    Priority::Normal => 3,
                    Priority::Critical => 4,
                })
            }
        }
    }
}

/// Decides whether new entries may be stored, given how many wait and how many of each domain
/// are added.
pub(crate) fn admit(
    bounds: &Bounds,
    waiting: &Waiting,
    added: &BTreeMap<Arc<str>, u64>,
) -> Admission {
    for limit in limits(bounds, waiting, added) {
        let wanted = limit.count.saturating_add(limit.added);
        let missing = wanted.saturating_sub(limit.max);
        if limit.added == 0 || missing == 0 {
            continue;
        }
        if bounds.overflow_strategy == OverflowStrategy::Reject || limit.added > limit.max {
            return Admission::Refuse(limit.refusal());
        }
        let count = missing.max(limit.chunk(bounds));
        return Admission::Evict(limit.request(bounds, count));
    }
    // All entries that are stored before the next count may belong to the fullest domain.
    let room = limits(bounds, waiting, added)
        .map(|limit| limit.start(bounds).saturating_sub(limit.count + limit.added))
        .min();
    let interval = u64::from(bounds.overflow_check_interval.saturating_sub(1));
    Admission::Store { credit: room.unwrap_or(u64::MAX).min(interval) }
}

/// Whether the entries find room, although so many more may be on their way.
pub(crate) fn has_room(
    bounds: &Bounds,
    waiting: &Waiting,
    added: &BTreeMap<Arc<str>, u64>,
    unseen: u64,
) -> bool {
    limits(bounds, waiting, added)
        .all(|limit| limit.added == 0 || limit.count + limit.added + unseen <= limit.max)
}

/// Whether so many entries at most are below the threshold of every limit.
pub(crate) fn is_far(bounds: &Bounds, count: u64) -> bool {
    let waiting = Waiting::from([(Arc::from(""), count)]);
    level(bounds, &waiting) == WaterLevel::Normal
}

/// The error for entries that find no room although nothing more can be evicted.
pub(crate) fn refusal(
    bounds: &Bounds,
    waiting: &Waiting,
    added: &BTreeMap<Arc<str>, u64>,
) -> Option<Error> {
    let over = |limit: &Limit<'_>| limit.added > 0 && limit.count + limit.added > limit.max;
    limits(bounds, waiting, added).find(over).map(|limit| limit.refusal())
}

/// What is to be evicted in the background: for each limit that is at its threshold at most one
/// batch.
pub(crate) fn surplus(bounds: &Bounds, waiting: &Waiting) -> Vec<EvictRequest> {
    if bounds.overflow_strategy == OverflowStrategy::Reject {
        return Vec::new();
    }
    let over = limits(bounds, waiting, waiting).filter(|limit| limit.surplus(bounds) > 0);
    over.map(|limit| limit.request(bounds, limit.chunk(bounds))).collect()
}

/// How near the limits are.
pub(crate) fn level(bounds: &Bounds, waiting: &Waiting) -> WaterLevel {
    let levels = limits(bounds, waiting, waiting).map(|limit| match limit.count {
        count if count >= limit.max => WaterLevel::Emergency,
        count if count >= limit.start(bounds) => WaterLevel::Aggressive,
        _ => WaterLevel::Normal,
    });
    levels.max().unwrap_or_default()
}

/// All limits that are set: over everything, then over each domain.
fn limits<'a>(
    bounds: &Bounds,
    waiting: &'a Waiting,
    added: &'a BTreeMap<Arc<str>, u64>,
) -> impl Iterator<Item = Limit<'a>> + use<'a> {
    let all = bounds.max_size.map(|max| Limit {
        name: "max_size",
        domain: None,
        max,
        count: waiting.values().sum(),
        added: added.values().sum(),
    });
    let domains = bounds.max_size_per_domain.into_iter().flat_map(move |max| {
        let new = added.keys().filter(|domain| !waiting.contains_key(*domain));
        waiting.keys().chain(new).map(move |domain| Limit {
            name: "max_size_per_domain",
            domain: Some(&**domain),
            max,
            count: waiting.get(domain).copied().unwrap_or(0),
            added: added.get(domain).copied().unwrap_or(0),
        })
    });
    all.into_iter().chain(domains)
}

impl Limit<'_> {
    /// The count at which making room begins.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a limit is at most ten millions, and a share of it is not negative"
    )]
    fn start(&self, bounds: &Bounds) -> u64 {
        (self.max as f64 * bounds.emergency_purge_threshold).ceil() as u64
    }

    /// How many must go until the count is below the threshold.
    fn surplus(&self, bounds: &Bounds) -> u64 {
        (self.count + 1).saturating_sub(self.start(bounds))
    }

    /// How many of them go at once.
    fn chunk(&self, bounds: &Bounds) -> u64 {
        self.surplus(bounds).min(u64::from(bounds.overflow_evict_batch_size))
    }

    fn request(&self, bounds: &Bounds, count: u64) -> EvictRequest {
        EvictRequest {
            count,
            domain: self.domain.map(str::to_owned),
            terminal: false,
            compress: bounds.overflow_strategy == OverflowStrategy::CompressOldest,
        }
    }

    fn refusal(&self) -> Error {
        Error::TooMany {
            what: self.name,
            domain: self.domain.map(str::to_owned),
            limit: self.max,
            count: self.count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(change: impl FnOnce(&mut Bounds)) -> Bounds {
        let mut bounds = Bounds::default();
        change(&mut bounds);
        bounds
    }

    fn of(counts: &[(&str, u64)]) -> Waiting {
        counts.iter().map(|(domain, count)| (Arc::from(*domain), *count)).collect()
    }

    /// How a decision looks: `store CREDIT`, `evict COUNT DOMAIN` or the refusal.
    fn told(admission: &Admission) -> String {
        match admission {
            Admission::Store { credit } => format!("store {credit}"),
            Admission::Evict(request) => {
                format!("evict {} {}", request.count, request.domain.as_deref().unwrap_or("all"))
            }
            Admission::Refuse(error) => error.to_string(),
        }
    }

    #[test]
    fn without_a_limit_everything_is_taken() {
        let admission = admit(&Bounds::default(), &of(&[("a", u64::MAX)]), &of(&[("a", 1)]));
        assert_eq!(told(&admission), "store 9");
        assert!(surplus(&Bounds::default(), &of(&[("a", u64::MAX)])).is_empty());
    }

    #[test]
    fn counting_grows_rarer_the_more_room_there_is() {
        let bounds = bounds(|bounds| bounds.max_size = Some(1000));
        for (count, wanted) in [
            (0, "store 9"),
            (789, "store 9"),
            (795, "store 4"),
            (799, "store 0"),
            (999, "store 0"),
            (1000, "evict 201 all"),
            (1400, "evict 500 all"),
            (1700, "evict 701 all"),
        ] {
            let admission = admit(&bounds, &of(&[("a", count)]), &of(&[("a", 1)]));
            assert_eq!(told(&admission), wanted, "{count}");
        }
    }

    #[test]
    fn the_fuller_limit_decides() {
        let bounds = bounds(|bounds| {
            bounds.max_size = Some(1000);
            bounds.max_size_per_domain = Some(100);
        });
        let waiting = of(&[("a", 100), ("b", 78), ("c", 10)]);
        for (domain, wanted) in [("a", "evict 21 a"), ("b", "store 0"), ("new", "store 0")] {
            let admission = admit(&bounds, &waiting, &of(&[(domain, 1)]));
            assert_eq!(told(&admission), wanted, "{domain}");
        }
        assert_eq!(level(&bounds, &waiting), WaterLevel::Emergency);
        assert_eq!(level(&bounds, &of(&[("b", 80)])), WaterLevel::Aggressive);
        assert_eq!(level(&bounds, &of(&[("b", 79)])), WaterLevel::Normal);
        let requests = surplus(&bounds, &waiting);
        let domains: Vec<_> = requests.iter().map(|it| (it.domain.as_deref(), it.count)).collect();
        assert_eq!(domains, [(Some("a"), 21)]);
    }

    #[test]
    fn refusals_name_the_limit() {
        let reject = bounds(|bounds| {
            bounds.max_size = Some(1000);
            bounds.overflow_strategy = OverflowStrategy::Reject;
        });
        let full = admit(&reject, &of(&[("a", 1000)]), &of(&[("a", 1)]));
        assert!(told(&full).contains("max_size"), "{full:?}");
        let Admission::Refuse(Error::TooMany { limit, count, .. }) = full else {
            panic!("{full:?}")
        };
        assert_eq!((limit, count), (1000, 1000));
        assert!(surplus(&reject, &of(&[("a", 1000)])).is_empty());
        let drop = bounds(|bounds| bounds.max_size_per_domain = Some(100));
        let large = admit(&drop, &of(&[]), &of(&[("a", 101)]));
        assert!(
            matches!(&large, Admission::Refuse(Error::TooMany { domain: Some(it), .. }) if it == "a")
        );
    }

    #[test]
    fn who_goes_first() {
        let bounds = bounds(|bounds| {
            bounds.domain_priorities.insert("gold".to_owned(), Priority::Critical);
            bounds.domain_priorities.insert("lead".to_owned(), Priority::Low);
        });
        let all = EvictRequest { terminal: true, ..EvictRequest::default() };
        let waiting = EvictRequest { terminal: false, ..EvictRequest::default() };
        for (status, domain, rank) in [
            (Status::Archived, "gold", Some(0)),
            (Status::Resolved, "gold", Some(1)),
            (Status::Expired, "lead", Some(1)),
            (Status::Pending, "lead", Some(2)),
            (Status::RequiresReview, "tin", Some(3)),
            (Status::Replayed, "gold", Some(4)),
            (Status::Replaying, "lead", None),
            (Status::Reviewing, "lead", None),
        ] {
            assert_eq!(all.rank(&bounds, status, domain), rank, "{status} {domain}");
            let counts = rank.filter(|_| is_waiting(status));
            assert_eq!(waiting.rank(&bounds, status, domain), counts, "{status} {domain}");
        }
        let other = EvictRequest { domain: Some("tin".to_owned()), ..all };
        assert_eq!(other.rank(&bounds, Status::Pending, "lead"), None);
        assert!(RANKS.contains(&4) && !RANKS.contains(&5));
    }
}
