//! How long calls waited: a histogram that threads share, and what a line of text says of one.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Four buckets for each doubling, from a microsecond to over an hour.
const BUCKETS: usize = 128;
const PER_DOUBLING: f64 = 4.0;

#[derive(Debug)]
pub struct Waits {
    counts: [AtomicU64; BUCKETS],
    longest_us: AtomicU64,
}

impl Default for Waits {
    fn default() -> Self {
        Self::new()
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a histogram is not exact anyway"
)]
impl Waits {
    pub const fn new() -> Self {
        Self { counts: [const { AtomicU64::new(0) }; BUCKETS], longest_us: AtomicU64::new(0) }
    }

    pub fn add(&self, wait: Duration) {
        let us = u64::try_from(wait.as_micros()).unwrap().max(1);
        let bucket = ((us as f64).log2() * PER_DOUBLING) as usize;
        self.counts[bucket.min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
        self.longest_us.fetch_max(us, Ordering::Relaxed);
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    pub fn longest_us(&self) -> u64 {
        self.longest_us.load(Ordering::Relaxed)
    }

    /// The wait that this share of the calls did not exceed: the upper end of its bucket.
    pub fn percentile_us(&self, share: f64) -> u64 {
        let wanted = (self.count() as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count.load(Ordering::Relaxed);
            if seen >= wanted.max(1) {
                let end = ((bucket + 1) as f64 / PER_DOUBLING).exp2().ceil() as u64;
                return end.min(self.longest_us());
            }
        }
        0
    }

    pub fn merge(&self, other: &Self) {
        for (count, more) in self.counts.iter().zip(&other.counts) {
            count.fetch_add(more.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.longest_us.fetch_max(other.longest_us(), Ordering::Relaxed);
    }

    /// The percentiles in one line.
    pub fn told(&self) -> String {
        let at = |share| self.percentile_us(share) as f64 / 1000.0;
        format!(
            "{} calls, p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, longest {:.1} ms",
            self.count(),
            at(0.5),
            at(0.99),
            at(0.999),
            self.longest_us() as f64 / 1000.0
        )
    }
}

/// The longest, and the buckets that are not empty.
impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.longest_us())?;
        for (bucket, count) in self.counts.iter().enumerate() {
            let count = count.load(Ordering::Relaxed);
            if count > 0 {
                write!(f, ",{bucket}:{count}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Waits {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let waits = Self::default();
        let bad = || format!("{text:?} is no histogram");
        let longest = parts.next().and_then(|part| part.parse().ok()).ok_or_else(bad)?;
        waits.longest_us.store(longest, Ordering::Relaxed);
        for part in parts {
            let (bucket, count) = part.split_once(':').ok_or_else(bad)?;
            let bucket: usize = bucket.parse().map_err(|_| bad())?;
            let count = count.parse().map_err(|_| bad())?;
            waits.counts.get(bucket).ok_or_else(bad)?.store(count, Ordering::Relaxed);
        }
        Ok(waits)
    }
}

#[test]
fn percentiles_are_those_of_the_calls() {
    let waits = Waits::default();
    for ms in 1..=100 {
        waits.add(Duration::from_millis(ms));
    }
    let near = |share, ms: u64| {
        let us = waits.percentile_us(share);
        assert!(us >= ms * 1000 && us <= ms * 1200, "{share}: {us}");
    };
    near(0.5, 50);
    near(0.99, 99);
    assert_eq!(
        (waits.percentile_us(1.0), waits.longest_us(), waits.count()),
        (100_000, 100_000, 100)
    );
    let read: Waits = waits.to_string().parse().unwrap();
    assert_eq!(read.to_string(), waits.to_string());
    read.merge(&waits);
    assert_eq!(read.count(), 200);
    assert!("1,x".parse::<Waits>().is_err());
}
