//! When an entry is tried again: pure arithmetic over its attempts and a random number.

use std::time::Duration;

use serde::Deserialize;

use crate::config::DlqConfig;
use crate::entry::{Entry, Timestamp, WISH_MS_MAX};

/// The longest that doubling makes a delay: past an hour it saves nothing and hides the entry.
const DELAY_MS_MAX: u64 = 60 * 60 * 1000;

/// When an entry is due again whose attempt just failed: `retry_delay`, doubled with each charged
/// attempt, up to an hour, give or take a fifth.
pub(in crate::service) fn after_failure(
    entry: &Entry,
    config: &DlqConfig,
    now: Timestamp,
    random: u64,
) -> Timestamp {
    let base_ms = base_ms(entry, config);
    let doublings = entry.operation.retry_count.saturating_sub(1).min(32);
    let delay_ms = base_ms.saturating_mul(1 << doublings).min(DELAY_MS_MAX.max(base_ms));
    now.later(jittered(delay_ms, random))
}

/// When an entry is due again whose handler was told to come back later: when it was told, else
/// after `retry_delay`, give or take a fifth.
pub(in crate::service) fn after_throttle(
    entry: &Entry,
    config: &DlqConfig,
    retry_after: Option<Duration>,
    now: Timestamp,
    random: u64,
) -> Timestamp {
    let delay_ms = match retry_after {
        Some(wish) => u64::try_from(wish.as_millis()).unwrap_or(u64::MAX).min(WISH_MS_MAX),
        None => jittered(base_ms(entry, config), random),
    };
    now.later(delay_ms)
}

/// The delay after the first failure: the entry's own, else the setting.
fn base_ms(entry: &Entry, config: &DlqConfig) -> u64 {
    #[derive(Deserialize)]
    struct Wish {
        retry_delay_s: u64,
    }
    let metadata = entry.operation.metadata.as_str();
    let wish = serde_json::from_str::<Wish>(metadata).ok();
    let seconds = wish.map_or(u64::from(config.retry_delay), |wish| wish.retry_delay_s);
    seconds.saturating_mul(1000).min(WISH_MS_MAX)
}

/// Spreads a delay over four fifths to six fifths of itself, so that entries that failed together
/// do not come back together.
const fn jittered(delay_ms: u64, random: u64) -> u64 {
    delay_ms.saturating_mul(800 + random % 401) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Json;

    const NOW: Timestamp = Timestamp(1_000_000);
    /// The random number that changes nothing.
    const EVEN: u64 = 200;

    fn entry(retry_count: u32, metadata: &str) -> Entry {
        let mut entry = Entry::default();
        entry.operation.retry_count = retry_count;
        entry.operation.metadata = Json::object(metadata).unwrap();
        entry
    }

    fn check_failure(retry_count: u32, metadata: &str, random: u64, delay_ms: u64) {
        let entry = entry(retry_count, metadata);
        let due = after_failure(&entry, &DlqConfig::default(), NOW, random);
        assert_eq!(due.0 - NOW.0, delay_ms, "{retry_count} {metadata} {random}");
    }

    #[test]
    fn a_delay_doubles_up_to_an_hour() {
        for (retry_count, minutes) in [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (40, 60)] {
            check_failure(retry_count, "{}", EVEN, minutes * 60_000);
        }
    }

    #[test]
    fn an_entry_may_have_its_own_delay() {
        check_failure(1, r#"{"retry_delay_s":5}"#, EVEN, 5000);
        check_failure(3, r#"{"retry_delay_s":5, "x":1}"#, EVEN, 20_000);
        check_failure(1, r#"{"retry_delay_s":0}"#, EVEN, 0);
        check_failure(3, r#"{"retry_delay_s":7200}"#, EVEN, 7_200_000);
        check_failure(1, r#"{"retry_delay_s":99999999}"#, EVEN, WISH_MS_MAX);
        check_failure(1, r#"{"retry_delay_s":"soon"}"#, EVEN, 60_000);
    }

    #[test]
    fn a_delay_is_spread_by_a_fifth() {
        check_failure(1, "{}", 0, 48_000);
        check_failure(1, "{}", 400, 72_000);
        check_failure(1, "{}", 401, 48_000);
    }

    #[test]
    fn a_wish_is_kept_up_to_a_day() {
        let due = |wish| {
            let config = DlqConfig::default();
            after_throttle(&entry(5, "{}"), &config, wish, NOW, EVEN).0 - NOW.0
        };
        assert_eq!(due(Some(Duration::from_millis(1234))), 1234);
        assert_eq!(due(Some(Duration::MAX)), WISH_MS_MAX);
        assert_eq!(due(None), 60_000);
    }
}
