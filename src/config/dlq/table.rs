//! The table of the service's settings: what each is called, what it takes, what it moves.

use super::super::setting::{Setting, number, seconds, seconds_text, setting, share, small, word};
use super::{DlqConfig, Priority, maps};

/// The longest pause of what somebody may wait for, in seconds: it is for less than a day.
const DAY: u32 = 24 * 60 * 60;
/// The longest pause of a sweep over ages that are counted in days; a longer one would matter more
/// than the age does.
const MONTH: u32 = 30 * DAY;

pub(super) const TABLE: &[Setting<DlqConfig>] = &[
    setting!(
        "enabled",
        "true",
        "true or false",
        "Whether failures are stored and replayed at all.",
        word,
        enabled
    ),
    setting!(
        "retention_days",
        "30",
        "1 to 365",
        "Days after which rejected, expired and permanently failed entries are archived.",
        |text| small(text, 1, 365),
        retention_days
    ),
    setting!(
        "max_replay_attempts",
        "2",
        "1 to 10",
        "After so many failed attempts an entry waits for a person.",
        |text| small(text, 1, 10),
        max_replay_attempts
    ),
    setting!(
        "retry_delay",
        "60",
        "1 to 3600",
        "Seconds between the first two attempts; doubles with each further one.",
        |text| small(text, 1, 3600),
        retry_delay
    ),
    setting!(
        "expiry_hours",
        "72",
        "1 to 720",
        "Hours after which a pending entry expires.",
        |text| small(text, 1, 720),
        expiry_hours
    ),
    setting!(
        "batch_size",
        "10",
        "1 to 1000",
        "Entries that background replay and expiry take at a time.",
        |text| small(text, 1, 1000),
        batch_size
    ),
    setting!(
        "resolve_batch_chunk_size",
        "500",
        "50 to 10000",
        "Entries that are resolved, archived or purged with one sync.",
        |text| small(text, 50, 10_000),
        resolve_batch_chunk_size
    ),
    setting!(
        "stale_replaying_timeout_minutes",
        "30",
        "5 to 1440",
        "Minutes after which the lease of a replay ends.",
        |text| small(text, 5, 1440),
        stale_replaying_timeout_minutes
    ),
    setting!(
        "circuit_close_inflight_ttl_seconds",
        "300",
        "10 to 3600",
        "Seconds during which a second recovery sweep of a service is turned away.",
        |text| small(text, 10, 3600),
        circuit_close_inflight_ttl_seconds
    ),
    setting!(
        "truncate_blocks_replay",
        "true",
        "true or false",
        "Whether an entry whose request was cut is kept from its handler.",
        word,
        truncate_blocks_replay
    ),
    setting!(
        "domain_cardinality_alert_threshold",
        "1024",
        "10 to 100000",
        "More domains than this are an event; nothing is refused.",
        |text| small(text, 10, 100_000),
        domain_cardinality_alert_threshold
    ),
    setting!(
        "outbox_enabled",
        "false",
        "true or false",
        "Whether a store call that does not say how returns before the entry is written.",
        word,
        outbox_enabled
    ),
    setting!(
        "outbox_capacity",
        "10000",
        "100 to 1000000",
        "Failures that may wait to be written.",
        |text| small(text, 100, 1_000_000),
        outbox_capacity
    ),
    setting!(
        "outbox_batch_size",
        "50",
        "1 to 10000",
        "Failures that are written with one sync.",
        |text| small(text, 1, 10_000),
        outbox_batch_size
    ),
    setting!(
        "outbox_flush_interval_seconds",
        "0.1",
        "0.01 to 60 seconds, with at most three decimals",
        "How long the outbox waits for a batch to fill.",
        |text| seconds(text, 10, 60_000),
        seconds_text,
        outbox_flush_interval_ms
    ),
    setting!(
        "outbox_drop_rate_threshold",
        "0.01",
        "0 to 1",
        "The share of refused failures above which an event is sent.",
        share,
        outbox_drop_rate_threshold
    ),
    setting!(
        "outbox_join_timeout_seconds",
        "5",
        "0.1 to 60 seconds, with at most three decimals",
        "How long closing waits for the outbox to be written.",
        |text| seconds(text, 100, 60_000),
        seconds_text,
        outbox_join_timeout_ms
    ),
    setting!(
        "replay_track1_enabled",
        "true",
        "true or false",
        "Whether a service that is back starts a sweep.",
        word,
        replay_track1_enabled
    ),
    setting!(
        "replay_track1_max_items",
        "100",
        "1 to 1000",
        "Entries that such a sweep takes.",
        |text| small(text, 1, 1000),
        replay_track1_max_items
    ),
    setting!(
        "replay_track2_max_items",
        "50",
        "1 to 1000",
        "Entries of a batch whose size nobody names; also where adaptive batches start.",
        |text| small(text, 1, 1000),
        replay_track2_max_items
    ),
    setting!(
        "replay_jobs",
        "1",
        "1 to 64",
        "Handlers that run at the same time in a batch.",
        |text| small(text, 1, 64),
        replay_jobs
    ),
    setting!(
        "replay_adaptive_enabled",
        "false",
        "true or false",
        "Whether the size of batches follows their failures.",
        word,
        replay_adaptive_enabled
    ),
    setting!(
        "replay_adaptive_min_items",
        "10",
        "1 to 100",
        "The smallest adaptive batch.",
        |text| small(text, 1, 100),
        replay_adaptive_min_items
    ),
    setting!(
        "replay_adaptive_max_items",
        "100",
        "10 to 1000",
        "The largest adaptive batch.",
        |text| small(text, 10, 1000),
        replay_adaptive_max_items
    ),
    setting!(
        "replay_adaptive_failure_threshold",
        "0.2",
        "0 to 1",
        "The share of failures that makes the next batch smaller.",
        share,
        replay_adaptive_failure_threshold
    ),
    setting!(
        "replay_priority_enabled",
        "false",
        "true or false",
        "Whether batches over all domains take them by their priority.",
        word,
        replay_priority_enabled
    ),
    setting!(
        "replay_domain_priorities",
        "",
        "DOMAIN=critical, normal or low, between commas",
        "Which domains a batch takes first and which last.",
        |text| maps::read(text, maps::domain, word),
        |map| maps::write(map, Priority::to_string),
        replay_domain_priorities
    ),
    setting!(
        "replay_domain_max_retries",
        "",
        "DOMAIN=1 to 10, between commas",
        "The cap of attempts of domains that have one of their own.",
        |text| maps::read(text, maps::domain, |text| small(text, 1, 10)),
        |map| maps::write(map, u32::to_string),
        replay_domain_max_retries
    ),
    setting!(
        "replay_service_failure_type_map",
        "",
        "SERVICE=TYPE|TYPE, between commas",
        "The failure types that the recovery of a service cures.",
        |text| maps::read(text, maps::name, maps::names),
        |map| maps::write(map, |names: &Vec<String>| maps::names_text(names)),
        replay_service_failure_type_map
    ),
    setting!(
        "sla_default_hours",
        "24",
        "1 to 720",
        "Hours that an entry may stay pending before it breaches its service level.",
        |text| small(text, 1, 720),
        sla_default_hours
    ),
    setting!(
        "sla_thresholds_by_domain",
        "",
        "DOMAIN=1 to 720, between commas",
        "The same for some domains.",
        |text| maps::read(text, maps::domain, |text| small(text, 1, 720)),
        |map| maps::write(map, u32::to_string),
        sla_thresholds_by_domain
    ),
    setting!(
        "archive_older_than_days",
        "30",
        "1 to 365",
        "Days after which resolved entries are archived.",
        |text| small(text, 1, 365),
        archive_older_than_days
    ),
    setting!(
        "purge_older_than_days",
        "90",
        "30 to 730",
        "Days after which archived entries are purged.",
        |text| small(text, 30, 730),
        purge_older_than_days
    ),
    setting!(
        "archive_dlq_max_retries",
        "2",
        "0 to 10",
        "How often a failed sweep that archives is tried again before its next turn.",
        |text| small(text, 0, 10),
        archive_dlq_max_retries
    ),
    setting!(
        "archive_dlq_retry_delay",
        "300",
        "10 to 1800",
        "Seconds before it is tried again.",
        |text| small(text, 10, 1800),
        archive_dlq_retry_delay
    ),
    setting!(
        "purge_dlq_max_retries",
        "1",
        "0 to 3",
        "How often a failed sweep that purges is tried again before its next turn.",
        |text| small(text, 0, 3),
        purge_dlq_max_retries
    ),
    setting!(
        "purge_dlq_retry_delay",
        "600",
        "60 to 3600",
        "Seconds before it is tried again.",
        |text| small(text, 60, 3600),
        purge_dlq_retry_delay
    ),
    setting!(
        "scheduler_enabled",
        "true",
        "true or false",
        "Whether a running service lets entries age and looks after its store by itself.",
        word,
        scheduler_enabled
    ),
    setting!(
        "expire_interval",
        "60",
        "0 to 86400; 0 is never",
        "Seconds between two sweeps that expire pending entries.",
        |text| small(text, 0, DAY),
        expire_interval
    ),
    setting!(
        "release_interval",
        "900",
        "0 to 86400; 0 is never",
        "Seconds between two sweeps that release entries whose replay was cut off.",
        |text| small(text, 0, DAY),
        release_interval
    ),
    setting!(
        "archive_interval",
        "86400",
        "0 to 2592000; 0 is never",
        "Seconds between two sweeps that archive entries at their end.",
        |text| small(text, 0, MONTH),
        archive_interval
    ),
    setting!(
        "purge_interval",
        "604800",
        "0 to 2592000; 0 is never",
        "Seconds between two sweeps that delete archived entries for good.",
        |text| small(text, 0, MONTH),
        purge_interval
    ),
    setting!(
        "overflow_interval",
        "60",
        "0 to 86400; 0 is never",
        "Seconds between two looks whether the store is over its limits.",
        |text| small(text, 0, DAY),
        overflow_interval
    ),
    setting!(
        "summaries_interval",
        "86400",
        "0 to 2592000; 0 is never",
        "Seconds between two sweeps that let summaries of evicted entries age.",
        |text| small(text, 0, MONTH),
        summaries_interval
    ),
    setting!(
        "checkpoint_interval",
        "300",
        "0 to 86400; 0 is never",
        "Seconds after a change before a checkpoint is written.",
        |text| small(text, 0, DAY),
        checkpoint_interval
    ),
    setting!(
        "throttle_replay_batch_size",
        "10",
        "1 to 1000",
        "Entries between two looks at the throttle.",
        |text| small(text, 1, 1000),
        throttle_replay_batch_size
    ),
    setting!(
        "throttle_replay_interval_ms",
        "100",
        "10 to 10000",
        "The longest that a replay waits for the throttle before it stops early.",
        |text| number(text, 10, 10_000),
        throttle_replay_interval_ms
    ),
    setting!(
        "throttle_window_max",
        "64",
        "1 to 1000",
        "Replays that the crate's own throttle lets run at the same time at most.",
        |text| small(text, 1, 1000),
        throttle_window_max
    ),
    setting!(
        "throttle_outage_failures",
        "10",
        "0 to 1000",
        "Failures in a row that it takes for an outage; 0 never.",
        |text| small(text, 0, 1000),
        throttle_outage_failures
    ),
    setting!(
        "throttle_probe_interval_ms",
        "1000",
        "10 to 3600000",
        "How long it waits before it tries again after an outage; doubles with each try.",
        |text| number(text, 10, 3_600_000),
        throttle_probe_interval_ms
    ),
];
