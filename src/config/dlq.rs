//! The settings of the service: what is kept how long, how often it is tried again, how fast.

pub(super) mod maps;
mod table;

use std::collections::BTreeMap;
use std::time::Duration;

use super::setting::{self, Setting};
use crate::entry::{NewFailure, normalize_domain};
use crate::error::{Error, Result};

/// How the service treats entries. A service takes a new one at any time, without reopening.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub struct DlqConfig {
    /// Whether failures are stored and replayed at all. Default true. Reading works either way.
    pub enabled: bool,
    /// Days after which rejected, expired and permanently failed entries are archived, counted
    /// from when they became so. Default 30, from 1 to 365.
    pub retention_days: u32,
    /// Attempts before an entry waits for a person; copied into each entry when it is stored.
    /// Default 2, from 1 to 10.
    pub max_replay_attempts: u32,
    /// Seconds between the first two attempts; doubles with each further one. Default 60, from 1
    /// to 3600.
    pub retry_delay: u32,
    /// Hours after which a pending entry expires. Default 72, from 1 to 720.
    pub expiry_hours: u32,
    /// Entries that background replay and expiry take at a time. Default 10, from 1 to 1000.
    pub batch_size: u32,
    /// Entries that are resolved, archived or purged with one sync. Default 500, from 50 to
    /// 10,000.
    pub resolve_batch_chunk_size: u32,
    /// Minutes after which the lease of a replay ends. Default 30, from 5 to 1440.
    pub stale_replaying_timeout_minutes: u32,
    /// Seconds during which a second recovery sweep of the same service is turned away. Default
    /// 300, from 10 to 3600.
    pub circuit_close_inflight_ttl_seconds: u32,
    /// Whether an entry whose request was cut is kept from its handler. Default true.
    pub truncate_blocks_replay: bool,
    /// How many domains are too many; only a warning. Default 1024, from 10 to 100,000.
    pub domain_cardinality_alert_threshold: u32,
    /// Whether a store call that does not say how returns before the entry is written. Default
    /// false.
    pub outbox_enabled: bool,
    /// Failures that may wait to be written. Default 10,000, from 100 to 1,000,000.
    pub outbox_capacity: u32,
    /// Failures that are written with one sync. Default 50, from 1 to 10,000.
    pub outbox_batch_size: u32,
    /// How long the outbox waits for a batch to fill, in milliseconds; the setting
    /// `outbox_flush_interval_seconds` is in seconds. Default 100, from 10 to 60,000.
    pub outbox_flush_interval_ms: u64,
    /// The share of refused failures from which an event is sent. Default 0.01, from 0 to 1.
    pub outbox_drop_rate_threshold: f64,
    /// How long closing waits for the outbox, in milliseconds; the setting
    /// `outbox_join_timeout_seconds` is in seconds. Default 5000, from 100 to 60,000.
    pub outbox_join_timeout_ms: u64,
    /// Whether a service that is back starts a sweep. Default true.
    pub replay_track1_enabled: bool,
    /// Entries that such a sweep takes. Default 100, from 1 to 1000.
    pub replay_track1_max_items: u32,
    /// Entries of a batch whose size nobody names; also where adaptive batches start. Default
    /// 50, from 1 to 1000.
    pub replay_track2_max_items: u32,
    /// Handlers that run at the same time in a batch. Default 1, from 1 to 64.
    pub replay_jobs: u32,
    /// Whether the size of batches follows their failures. Default false.
    pub replay_adaptive_enabled: bool,
    /// The smallest adaptive batch. Default 10, from 1 to 100.
    pub replay_adaptive_min_items: u32,
    /// The largest adaptive batch. Default 100, from 10 to 1000.
    pub replay_adaptive_max_items: u32,
    /// The share of failures that makes the next batch smaller. Default 0.2, from 0 to 1.
    pub replay_adaptive_failure_threshold: f64,
    /// Whether batches over all domains take them by their priority. Default false.
    pub replay_priority_enabled: bool,
    /// The priority of domains that are not `normal`.
    pub replay_domain_priorities: BTreeMap<String, Priority>,
    /// The cap of domains that have one of their own, from 1 to 10; copied into each entry when
    /// it is stored.
    pub replay_domain_max_retries: BTreeMap<String, u32>,
    /// The failure types that a service's recovery cures, by service.
    pub replay_service_failure_type_map: BTreeMap<String, Vec<String>>,
    /// Hours that an entry may stay pending before it breaches its service level. Default 24,
    /// from 1 to 720.
    pub sla_default_hours: u32,
    /// The same for some domains.
    pub sla_thresholds_by_domain: BTreeMap<String, u32>,
    /// Days after which resolved entries are archived. Default 30, from 1 to 365.
    pub archive_older_than_days: u32,
    /// Days after which archived entries are purged. Default 90, from 30 to 730.
    pub purge_older_than_days: u32,
    /// How often a failed sweep that archives is tried again before its next turn. Default 2, at
    /// most 10.
    pub archive_dlq_max_retries: u32,
    /// Seconds before it is tried again. Default 300, from 10 to 1800.
    pub archive_dlq_retry_delay: u32,
    /// How often a failed sweep that purges is tried again before its next turn. Default 1, at
    /// most 3.
    pub purge_dlq_max_retries: u32,
    /// Seconds before it is tried again. Default 600, from 60 to 3600.
    pub purge_dlq_retry_delay: u32,
    /// Whether a running service lets entries age and looks after its store by itself. Default
    /// true. The intervals that follow are in seconds, 0 is never; each says how much time lies
    /// between two sweeps at least, and nothing happens while there is nothing to do.
    pub scheduler_enabled: bool,
    /// Between two sweeps that expire pending entries. Default 60, at most a day.
    pub expire_interval: u32,
    /// Between two sweeps that release entries whose replay was cut off. Default 900, at most a
    /// day.
    pub release_interval: u32,
    /// Between two sweeps that archive entries at their end. Default a day, at most 30.
    pub archive_interval: u32,
    /// Between two sweeps that delete archived entries for good. Default a week, at most 30 days.
    pub purge_interval: u32,
    /// Between two looks whether the store is over its limits. Default 60, at most a day.
    pub overflow_interval: u32,
    /// Between two sweeps that let summaries of evicted entries age. Default a day, at most 30.
    pub summaries_interval: u32,
    /// After a change, before a checkpoint is written. Default 300, at most a day.
    pub checkpoint_interval: u32,
    /// Entries between two looks at the throttle. Default 10, from 1 to 1000.
    pub throttle_replay_batch_size: u32,
    /// The longest that a replay waits for the throttle before it stops early, in milliseconds.
    /// Default 100, from 10 to 10,000.
    pub throttle_replay_interval_ms: u64,
    /// Replays that the crate's own throttle lets run at the same time at most. Default 64, from
    /// 1 to 1000.
    pub throttle_window_max: u32,
    /// Failures in a row that it takes for an outage; 0 never. Default 10, at most 1000.
    pub throttle_outage_failures: u32,
    /// How long it waits before it tries again after an outage, in milliseconds; doubles with
    /// each try. Default 1000, from 10 to 3,600,000.
    pub throttle_probe_interval_ms: u64,
}

/// Which domains go first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Before all others.
    Critical,
    /// As usual.
    #[default]
    Normal,
    /// After all others.
    Low,
}

impl Default for DlqConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            retention_days: 30,
            max_replay_attempts: 2,
            retry_delay: 60,
            expiry_hours: 72,
            batch_size: 10,
            resolve_batch_chunk_size: 500,
            stale_replaying_timeout_minutes: 30,
            circuit_close_inflight_ttl_seconds: 300,
            truncate_blocks_replay: true,
            domain_cardinality_alert_threshold: 1024,
            outbox_enabled: false,
            outbox_capacity: 10_000,
            outbox_batch_size: 50,
            outbox_flush_interval_ms: 100,
            outbox_drop_rate_threshold: 0.01,
            outbox_join_timeout_ms: 5000,
            replay_track1_enabled: true,
            replay_track1_max_items: 100,
            replay_track2_max_items: 50,
            replay_jobs: 1,
            replay_adaptive_enabled: false,
            replay_adaptive_min_items: 10,
            replay_adaptive_max_items: 100,
            replay_adaptive_failure_threshold: 0.2,
            replay_priority_enabled: false,
            replay_domain_priorities: BTreeMap::new(),
            replay_domain_max_retries: BTreeMap::new(),
            replay_service_failure_type_map: BTreeMap::new(),
            sla_default_hours: 24,
            sla_thresholds_by_domain: BTreeMap::new(),
            archive_older_than_days: 30,
            purge_older_than_days: 90,
            archive_dlq_max_retries: 2,
            archive_dlq_retry_delay: 300,
            purge_dlq_max_retries: 1,
            purge_dlq_retry_delay: 600,
            scheduler_enabled: true,
            expire_interval: 60,
            release_interval: 15 * 60,
            archive_interval: 24 * 60 * 60,
            purge_interval: 7 * 24 * 60 * 60,
            overflow_interval: 60,
            summaries_interval: 24 * 60 * 60,
            checkpoint_interval: 5 * 60,
            throttle_replay_batch_size: 10,
            throttle_replay_interval_ms: 100,
            throttle_window_max: 64,
            throttle_outage_failures: 10,
            throttle_probe_interval_ms: 1000,
        }
    }
}

impl DlqConfig {
    /// Every setting of the service, by name. The names of the reference, with those of its outbox,
    /// its replay, its service levels, its archive, its purge and its throttle behind a prefix.
    pub const SETTINGS: &'static [Setting<Self>] = table::TABLE;

    /// Sets one setting by its name. Maps are written as `a=1,b=2`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when there is no such setting or the value is out of its bounds; the
    /// configuration is then unchanged.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        setting::find(Self::SETTINGS, name)?.set(self, value)
    }

    /// The value of one setting, in a form that [`DlqConfig::set`] takes.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when there is no such setting.
    pub fn value(&self, name: &str) -> Result<String> {
        Ok((setting::find(Self::SETTINGS, name)?.read)(self))
    }

    /// Checks every field against its bounds, and the fields against each other. A service does it
    /// before it takes new settings.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] naming the setting, or both settings where two do not fit together.
    pub fn check(&self) -> Result<()> {
        let mut copy = self.clone();
        for setting in Self::SETTINGS {
            let value = (setting.read)(self);
            setting.set(&mut copy, &value)?;
            // What does not come back as it was, such as a domain in capitals, is no value.
            if (setting.read)(&copy) != value {
                return Err(Error::invalid(setting.name, value, setting.bounds));
            }
        }
        let at_most = |name, value: u32, other, bound: u32| {
            if value <= bound {
                return Ok(());
            }
            Err(Error::invalid(name, value, format!("at most {other}, which is {bound}")))
        };
        at_most(
            "replay_adaptive_min_items",
            self.replay_adaptive_min_items,
            "replay_adaptive_max_items",
            self.replay_adaptive_max_items,
        )?;
        at_most(
            "outbox_batch_size",
            self.outbox_batch_size,
            "outbox_capacity",
            self.outbox_capacity,
        )
    }

    /// Fills in what a failure leaves open: its cap, of its domain or of all, and when it expires.
    /// [`DlqService::store_failure`](crate::DlqService::store_failure) does it by itself.
    pub fn complete(&self, failure: &mut NewFailure) {
        let domain = normalize_domain(&failure.domain);
        let of_domain = domain.and_then(|domain| self.replay_domain_max_retries.get(&domain));
        let cap = of_domain.copied().unwrap_or(self.max_replay_attempts);
        failure.max_retries = failure.max_retries.or(Some(cap));
        // An entry that comes with a state was stored before; it keeps what it had.
        if failure.state.is_none() && failure.expires_at.is_none() {
            failure.expires_in = Some(Duration::from_hours(self.expiry_hours.into()));
        }
    }

    /// How long a lease holds without a heartbeat.
    pub fn lease(&self) -> Duration {
        Duration::from_secs(u64::from(self.stale_replaying_timeout_minutes) * 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that a setting takes, and values that it refuses.
    const CASES: &[(&str, &[&str], &[&str])] = &[
        ("enabled", &["true", "false"], &["", "1", "yes"]),
        ("retention_days", &["1", "365"], &["0", "366"]),
        ("max_replay_attempts", &["1", "10"], &["0", "11"]),
        ("retry_delay", &["1", "3600"], &["0", "3601"]),
        ("expiry_hours", &["1", "720"], &["0", "721", "", "+2", "1.5", "4294967297"]),
        ("batch_size", &["1", "1000"], &["0", "1001"]),
        ("resolve_batch_chunk_size", &["50", "10000"], &["49", "10001"]),
        ("stale_replaying_timeout_minutes", &["5", "1440"], &["4", "1441"]),
        ("circuit_close_inflight_ttl_seconds", &["10", "3600"], &["9", "3601"]),
        ("truncate_blocks_replay", &["true", "false"], &["", "1", "yes"]),
        ("domain_cardinality_alert_threshold", &["10", "100000"], &["9", "100001"]),
        ("outbox_enabled", &["true", "false"], &["", "1", "yes"]),
        ("outbox_capacity", &["100", "1000000"], &["99", "1000001"]),
        ("outbox_batch_size", &["1", "10000"], &["0", "10001"]),
        ("outbox_flush_interval_seconds", &["0.01", "60", "1.5"], &["0.009", "60.001", "0", "1s"]),
        ("outbox_drop_rate_threshold", &["0", "0.5", "1"], &["1.1", "-1", "", "NaN", "1e-1"]),
        ("outbox_join_timeout_seconds", &["0.1", "60"], &["0.099", "61"]),
        ("replay_track1_enabled", &["true", "false"], &["", "1", "yes"]),
        ("replay_track1_max_items", &["1", "1000"], &["0", "1001"]),
        ("replay_track2_max_items", &["1", "1000"], &["0", "1001"]),
        ("replay_jobs", &["1", "64"], &["0", "65"]),
        ("replay_adaptive_enabled", &["true", "false"], &["", "1", "yes"]),
        ("replay_adaptive_min_items", &["1", "100"], &["0", "101"]),
        ("replay_adaptive_max_items", &["10", "1000"], &["9", "1001"]),
        (
            "replay_adaptive_failure_threshold",
            &["0", "0.5", "1"],
            &["1.1", "-1", "", "NaN", "1e-1"],
        ),
        ("replay_priority_enabled", &["true", "false"], &["", "1", "yes"]),
        (
            "replay_domain_priorities",
            &["", "a=critical,b.c=low"],
            &["a", "a=high", "4u=low", "a=low,a=low", "a=low=low"],
        ),
        ("replay_domain_max_retries", &["", "a=1,payment=10"], &["a=0", "a=11", "=1"]),
        ("replay_service_failure_type_map", &["", "other=C,svc=A|B"], &["svc=", "svc=A||B", "=A"]),
        ("sla_default_hours", &["1", "720"], &["0", "721"]),
        ("sla_thresholds_by_domain", &["", "a=1,b=720"], &["a=0", "a=721"]),
        ("archive_older_than_days", &["1", "365"], &["0", "366"]),
        ("purge_older_than_days", &["30", "730"], &["29", "731"]),
        ("archive_dlq_max_retries", &["0", "10"], &["11", "-1"]),
        ("archive_dlq_retry_delay", &["10", "1800"], &["9", "1801"]),
        ("purge_dlq_max_retries", &["0", "3"], &["4", "-1"]),
        ("purge_dlq_retry_delay", &["60", "3600"], &["59", "3601"]),
        ("scheduler_enabled", &["true", "false"], &["", "1", "yes"]),
        ("expire_interval", &["0", "1", "86400"], &["86401", "-1"]),
        ("release_interval", &["0", "1", "86400"], &["86401", "-1"]),
        ("archive_interval", &["0", "1", "2592000"], &["2592001", "-1"]),
        ("purge_interval", &["0", "1", "2592000"], &["2592001", "-1"]),
        ("overflow_interval", &["0", "1", "86400"], &["86401", "-1"]),
        ("summaries_interval", &["0", "1", "2592000"], &["2592001", "-1"]),
        ("checkpoint_interval", &["0", "1", "86400"], &["86401", "-1"]),
        ("throttle_replay_batch_size", &["1", "1000"], &["0", "1001"]),
        ("throttle_replay_interval_ms", &["10", "10000"], &["9", "10001"]),
        ("throttle_window_max", &["1", "1000"], &["0", "1001"]),
        ("throttle_outage_failures", &["0", "1000"], &["1001", "-1"]),
        ("throttle_probe_interval_ms", &["10", "3600000"], &["9", "3600001"]),
    ];

    #[test]
    fn every_setting_has_its_bounds() {
        let named: Vec<_> = CASES.iter().map(|(name, ..)| *name).collect();
        let settings: Vec<_> = DlqConfig::SETTINGS.iter().map(|setting| setting.name).collect();
        assert_eq!(named, settings);
        for (name, taken, refused) in CASES {
            let mut config = DlqConfig::default();
            for value in *taken {
                config.set(name, value).unwrap();
                assert_eq!(config.value(name).unwrap(), *value);
            }
            let before = config.clone();
            for text in *refused {
                let error = config.set(name, text).unwrap_err();
                let Error::Invalid { what, value, bound } = &error else { panic!("{error}") };
                assert_eq!((what.as_str(), value.as_str()), (*name, *text));
                assert_eq!(bound, setting::find(DlqConfig::SETTINGS, name).unwrap().bounds);
            }
            assert_eq!(config, before);
        }
    }

    #[test]
    fn the_table_states_the_defaults() {
        let mut config = DlqConfig::default();
        for setting in DlqConfig::SETTINGS {
            config.set(setting.name, setting.default).unwrap();
            assert_eq!(config, DlqConfig::default(), "{}", setting.name);
            assert!(!setting.help.is_empty() && !setting.bounds.is_empty());
        }
        config.check().unwrap();
    }

    #[test]
    fn maps_are_read_generously() {
        let mut config = DlqConfig::default();
        config.set("replay_domain_max_retries", " Payment = 5 , orders=3, ").unwrap();
        assert_eq!(config.value("replay_domain_max_retries").unwrap(), "orders=3,payment=5");
        config.set("replay_service_failure_type_map", "svc = TYPE_A | TYPE_B").unwrap();
        assert_eq!(config.replay_service_failure_type_map["svc"], ["TYPE_A", "TYPE_B"]);
    }

    fn check_refused(change: impl FnOnce(&mut DlqConfig), wanted: &[&str]) {
        let mut config = DlqConfig::default();
        change(&mut config);
        let message = config.check().unwrap_err().to_string();
        for name in wanted {
            assert!(message.contains(name), "{message}");
        }
    }

    #[test]
    fn fields_must_fit_together() {
        let both = ["replay_adaptive_min_items", "replay_adaptive_max_items"];
        check_refused(
            |config| {
                config.replay_adaptive_min_items = 50;
                config.replay_adaptive_max_items = 20;
            },
            &both,
        );
        check_refused(
            |config| {
                config.outbox_capacity = 100;
                config.outbox_batch_size = 101;
            },
            &["outbox_batch_size", "outbox_capacity"],
        );
        check_refused(|config| config.expiry_hours = 0, &["expiry_hours", "1 to 720"]);
        check_refused(|config| config.outbox_drop_rate_threshold = f64::NAN, &["outbox_drop_rate"]);
        for domain in ["Payment", "a,b=1", ""] {
            let priorities = BTreeMap::from([(domain.to_owned(), Priority::Low)]);
            check_refused(
                |config| config.replay_domain_priorities = priorities,
                &["replay_domain_priorities"],
            );
        }
    }
}
