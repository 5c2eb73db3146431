//! Every setting of the engine: its default, its bounds, and how settings must fit together.
//!
//! One table drives setting by name, checking and the host's own documentation. Nothing here
//! reads a file or the environment; a host that wants that walks [`Config::SETTINGS`].

mod bounds;
mod dlq;
mod setting;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::entry::{Limits, Redaction};
use crate::error::{Error, Result};

pub use bounds::{Bounds, OverflowStrategy};
pub use dlq::{DlqConfig, Priority};
pub use setting::Setting;

use setting::{
    GIB, KIB, MIB, number, optional, optional_text, seconds, seconds_text, setting, size, small,
    word,
};

/// What is true of an entry when its store call returns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// It is synced: it survives a power failure.
    #[default]
    Synced,
    /// The system has it: it survives the end of the process, and is synced at the latest
    /// [`Config::max_lag_ms`] later.
    Written,
    /// It waits in memory: it is lost when the process ends before it is written.
    Queued,
}

/// How a new segment is made ready before it takes records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Prepare {
    /// Zeros are written and synced, so that a later sync has no metadata to write.
    #[default]
    Zero,
    /// Space is only reserved, which is quicker to prepare and slower to sync.
    Allocate,
}

/// What opening does about damage in the middle of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recovery {
    /// Keeps what can be read and reports what cannot.
    #[default]
    Salvage,
    /// Refuses to open.
    Strict,
}

/// Where the index lives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IndexKind {
    /// On disk; can be rebuilt from the log at any time.
    #[default]
    Sled,
    /// In memory; rebuilt from the log at each open.
    Memory,
}

/// Who does the work that no call waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Background {
    /// Threads of the engine's own.
    #[default]
    Threads,
    /// The host, by calling `Engine::step`.
    Manual,
}

/// How a store is opened. The defaults suit a small device; see [`Config::SETTINGS`].
///
/// # Example
///
/// ```
/// let mut config = deadletter::Config::new("/var/lib/orders");
/// config.set("segment_bytes", "4 MiB")?;
/// config.check()?;
/// # Ok::<(), deadletter::Error>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// The data directory.
    pub dir: PathBuf,
    /// Where entries go that the log cannot take. Default: `fallback` in the data directory; a
    /// folder on another disk also helps when the first is full.
    pub fallback_dir: Option<PathBuf>,
    /// What a store call waits for. Default [`Durability::Synced`].
    pub durability: Durability,
    /// The size of a segment. Default 16 MiB, from 64 KiB to 1 GiB. Smaller segments give space
    /// back sooner; a record takes at most half of one.
    pub segment_bytes: u64,
    /// The most bytes that the data directory takes, everything in it counted. Default none, from
    /// 1 MiB to 16 TiB. Segments become smaller with it, see [`Config::segment_size`].
    pub max_bytes: Option<u64>,
    /// Space that is kept for an operator's changes on a full disk. Default 1 MiB, at most 64 MiB
    /// and never more than a segment; 0 keeps none.
    pub ballast_bytes: u64,
    /// How a segment is made ready. Default [`Prepare::Zero`].
    pub prepare: Prepare,
    /// What opening does about damage. Default [`Recovery::Salvage`].
    pub recovery: Recovery,
    /// How long opening waits for another process to let go. Default 0, at most an hour.
    pub lock_wait_ms: u64,
    /// A written record is synced at the latest after this. Default 1000, from 1 to 60,000. It
    /// bounds what a power failure takes from [`Durability::Written`].
    pub max_lag_ms: u64,
    /// How long a store call waits for a disk that does not answer. Default 30,000, from 100 to
    /// 3,600,000.
    pub stall_deadline_ms: u64,
    /// How long a query waits for the index to load. Default 30,000, at most an hour; 0 does not
    /// wait.
    pub index_wait_ms: u64,
    /// The memory for the index's cache. Default 16 MiB, from 1 MiB to 4 GiB.
    pub index_cache_bytes: u64,
    /// Where the index lives. Default [`IndexKind::Sled`].
    pub index: IndexKind,
    /// Who does the work that no call waits for. Default [`Background::Threads`].
    pub background: Background,
    /// Whether closed segments are read through a memory map. Default false.
    pub mmap: bool,
    /// How large the fields of an entry may be.
    pub limits: Limits,
    /// What is taken out of an entry before it is stored. Default nothing.
    pub redaction: Redaction,
    /// The cap of attempts of an entry that has none of its own. Default 2, from 1 to 10; the
    /// setting is called `max_replay_attempts`.
    pub max_retries: u32,
    /// The most bytes that wait in memory under [`Durability::Queued`]. Default 4 MiB, from
    /// 64 KiB to 64 MiB.
    pub queue_bytes_max: u64,
    /// How long bytes of removed entries may stay on the disk at most, in milliseconds; the setting
    /// `erase_within` is in seconds. Default 24 hours, from 0 to 30 days. A shorter time means more
    /// writing.
    pub erase_within_ms: u64,
    /// How many bytes compaction may read and write in a second. Default 16 MiB, from 64 KiB to
    /// 1 GiB; 0 for no bound.
    pub compact_bytes_per_second: u64,
    /// How many entries may wait. Default as many as come.
    pub bounds: Bounds,
    /// The longest jump ahead of the wall clock that is believed at once, and the longest time
    /// without a process that is believed when the store is opened, in seconds. Default 86,400,
    /// from 60 to 31,536,000; the setting is called `max_jump`. A longer one is believed after an
    /// hour.
    pub max_jump_s: u64,
}

impl Config {
    /// Every setting that has a name, in the order of their use. The directory and the redaction
    /// hook have none, nor has [`Config::background`]: the host's code decides on them.
    pub const SETTINGS: &'static [Setting] = &[
        Setting {
            name: "fallback_dir",
            default: "",
            bounds: "a path, or empty for the folder fallback in the data directory",
            help: "Where entries go that the log cannot take; best on another disk.",
            write: |config, text| {
                config.fallback_dir = (!text.is_empty()).then(|| PathBuf::from(text));
                Some(())
            },
            read: |config| {
                config
                    .fallback_dir
                    .as_ref()
                    .map(|dir| dir.display().to_string())
                    .unwrap_or_default()
            },
        },
        setting!(
            "durability",
            "synced",
            "synced, written or queued",
            "What a store call waits for: the disk, the system, or nothing.",
            word,
            durability
        ),
        setting!(
            "segment_bytes",
            "16 MiB",
            "64 KiB to 1 GiB",
            "The size of a segment; smaller ones give space back sooner.",
            |text| size(text, 64 * KIB, GIB),
            segment_bytes
        ),
        setting!(
            "max_bytes",
            "",
            "1 MiB to 16 TiB, or empty for no bound",
            "The most bytes that the data directory takes; a segment is then at most a sixteenth.",
            |text| optional(text, |text| size(text, MIB, 16 << 40)),
            optional_text,
            max_bytes
        ),
        setting!(
            "ballast_bytes",
            "1 MiB",
            "0 to 64 MiB",
            "Space kept for an operator's changes on a full disk; never more than a segment.",
            |text| size(text, 0, 64 * MIB),
            ballast_bytes
        ),
        setting!(
            "prepare",
            "zero",
            "zero or allocate",
            "Whether a new segment is filled with zeros, for faster syncs, or only reserved.",
            word,
            prepare
        ),
        setting!(
            "recovery",
            "salvage",
            "salvage or strict",
            "Whether damage in the log is reported at opening or refused.",
            word,
            recovery
        ),
        setting!(
            "lock_wait",
            "0",
            "0 to 3600 seconds, with at most three decimals",
            "How long opening waits for another process to let go of the store.",
            |text| seconds(text, 0, 3_600_000),
            seconds_text,
            lock_wait_ms
        ),
        setting!(
            "max_lag_ms",
            "1000",
            "1 to 60000",
            "A written record is synced at the latest after this.",
            |text| number(text, 1, 60_000),
            max_lag_ms
        ),
        setting!(
            "stall_deadline_ms",
            "30000",
            "100 to 3600000",
            "How long a store call waits for a disk that does not answer.",
            |text| number(text, 100, 3_600_000),
            stall_deadline_ms
        ),
        setting!(
            "index_wait_ms",
            "30000",
            "0 to 3600000",
            "How long a query waits for the index to load.",
            |text| number(text, 0, 3_600_000),
            index_wait_ms
        ),
        setting!(
            "index_cache_bytes",
            "16 MiB",
            "1 MiB to 4 GiB",
            "The memory for the cache of the index.",
            |text| size(text, MIB, 4 * GIB),
            index_cache_bytes
        ),
        setting!(
            "index",
            "sled",
            "sled or memory",
            "Whether the index is kept on disk or rebuilt in memory at each open.",
            word,
            index
        ),
        setting!(
            "mmap",
            "false",
            "true or false",
            "Whether closed segments are read through a memory map; a bad sector then ends the process.",
            |text: &str| text.parse().ok(),
            mmap
        ),
        setting!(
            "request_data_max_bytes",
            "1 MiB",
            "256 to 4 MiB",
            "A larger request is replaced by a marker and cannot be replayed.",
            |text| size(text, 256, 4 * MIB),
            limits.request_data_max_bytes
        ),
        setting!(
            "field_max_bytes",
            "1 MiB",
            "256 to 4 MiB",
            "A larger snapshot, response or metadata is replaced by a marker.",
            |text| size(text, 256, 4 * MIB),
            limits.field_max_bytes
        ),
        Setting {
            name: "deny_keys",
            default: "",
            bounds: "keys between commas",
            help: "Keys whose values are taken out of the JSON fields before they are stored.",
            write: |config, text| {
                let keys = text.split(',').map(str::trim).filter(|key| !key.is_empty());
                config.redaction.deny_keys = keys.map(str::to_owned).collect();
                Some(())
            },
            read: |config| config.redaction.deny_keys.join(","),
        },
        setting!(
            "max_replay_attempts",
            "2",
            "1 to 10",
            "After so many failed attempts an entry waits for a person.",
            |text| small(text, 1, 10),
            max_retries
        ),
        setting!(
            "queue_bytes_max",
            "4 MiB",
            "64 KiB to 64 MiB",
            "The most bytes that wait in memory under queued durability.",
            |text| size(text, 64 * KIB, 64 * MIB),
            queue_bytes_max
        ),
        setting!(
            "erase_within",
            "86400",
            "0 to 2592000 seconds, with at most three decimals",
            "How long bytes of removed entries may stay on the disk at most.",
            |text| seconds(text, 0, 2_592_000_000),
            seconds_text,
            erase_within_ms
        ),
        setting!(
            "compact_bytes_per_second",
            "16 MiB",
            "64 KiB to 1 GiB, or 0 for no bound",
            "How much compaction may read and write in a second.",
            |text| if text == "0" { Some(0) } else { size(text, 64 * KIB, GIB) },
            compact_bytes_per_second
        ),
        bounds::MAX_SIZE,
        bounds::MAX_SIZE_PER_DOMAIN,
        bounds::OVERFLOW_STRATEGY,
        bounds::EMERGENCY_PURGE_THRESHOLD,
        bounds::OVERFLOW_EVICT_BATCH_SIZE,
        bounds::OVERFLOW_CHECK_INTERVAL,
        bounds::COMPRESS_STALE_AFTER_DAYS,
        bounds::COMPRESS_ARCHIVE_AFTER_DAYS,
        bounds::DOMAIN_PRIORITIES,
        setting!(
            "max_jump",
            "86400",
            "60 to 31536000",
            "Seconds; if the wall clock jumps further ahead, it is believed only after an hour.",
            |text| number(text, 60, 31_536_000),
            max_jump_s
        ),
    ];

    /// The defaults for a store in this directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            fallback_dir: None,
            durability: Durability::default(),
            segment_bytes: 16 * MIB,
            max_bytes: None,
            ballast_bytes: MIB,
            prepare: Prepare::default(),
            recovery: Recovery::default(),
            lock_wait_ms: 0,
            max_lag_ms: 1000,
            stall_deadline_ms: 30_000,
            index_wait_ms: 30_000,
            index_cache_bytes: 16 * MIB,
            index: IndexKind::default(),
            background: Background::default(),
            mmap: false,
            limits: Limits::default(),
            redaction: Redaction::default(),
            max_retries: 2,
            queue_bytes_max: 4 * MIB,
            erase_within_ms: 86_400_000,
            compact_bytes_per_second: 16 * MIB,
            bounds: Bounds::default(),
            max_jump_s: 86_400,
        }
    }

    /// Sets one setting by its name. Sizes may end in `KiB`, `MiB` or `GiB`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when there is no such setting or the value is out of its bounds; the
    /// configuration is then unchanged.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        setting::find(Self::SETTINGS, name)?.set(self, value)
    }

    /// The value of one setting, in a form that [`Config::set`] takes.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when there is no such setting.
    pub fn value(&self, name: &str) -> Result<String> {
        Ok((setting::find(Self::SETTINGS, name)?.read)(self))
    }

    /// Where entries go that the log cannot take.
    pub fn fallback_dir(&self) -> PathBuf {
        self.fallback_dir.clone().unwrap_or_else(|| self.dir.join("fallback"))
    }

    /// How large a segment really is: `segment_bytes`, and with `max_bytes` at most a sixteenth of
    /// it, so that space comes back in small pieces; never below 64 KiB.
    pub fn segment_size(&self) -> u64 {
        let share = self.max_bytes.map_or(u64::MAX, |bytes| bytes / 16);
        self.segment_bytes.min(share.max(64 * KIB))
    }

    /// How large the ballast really is: `ballast_bytes`, and at most a segment.
    pub fn ballast_size(&self) -> u64 {
        self.ballast_bytes.min(self.segment_size())
    }

    /// Checks every field against its bounds, and the fields against each other. Opening a store
    /// does it, too.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] naming the setting, or both settings where two do not fit together.
    pub fn check(&self) -> Result<()> {
        if self.dir.as_os_str().is_empty() {
            return Err(Error::invalid("dir", "empty", "the path of the data directory"));
        }
        let mut copy = self.clone();
        for setting in Self::SETTINGS {
            copy.set(setting.name, &(setting.read)(self))?;
        }
        // A domain in capitals would name no entry.
        let named = self.bounds.domain_priorities.keys();
        if let Some(domain) = named.into_iter().find(|it| !copy.bounds.has_priority(it)) {
            return Err(Error::invalid("domain_priorities", domain, "names of domains"));
        }
        if self.fallback_dir() == self.dir {
            let bound = "another folder than the data directory (dir)";
            return Err(Error::invalid("fallback_dir", self.dir.display(), bound));
        }
        let record_bytes_max = self.segment_size() / 2;
        let by = if self.segment_size() < self.segment_bytes {
            "half of a segment, which is a sixteenth of max_bytes"
        } else {
            "half of segment_bytes"
        };
        for (name, bytes) in [
            ("request_data_max_bytes", self.limits.request_data_max_bytes),
            ("field_max_bytes", self.limits.field_max_bytes),
        ] {
            if bytes > record_bytes_max {
                let bound = format!("at most {by}, so {record_bytes_max}");
                return Err(Error::invalid(name, bytes, bound));
            }
        }
        Ok(())
    }
}

/// Gives a set of words its text, both ways.
macro_rules! words {
    ($type:ident, $what:literal, $bound:literal, $($variant:ident = $word:literal),+) => {
        impl $type {
            /// The word that stands for it in text.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(Error::invalid($what, text, $bound)),
                }
            }
        }
    };
}

words!(
    Durability,
    "durability",
    "synced, written or queued",
    Synced = "synced",
    Written = "written",
    Queued = "queued"
);
words!(Prepare, "prepare", "zero or allocate", Zero = "zero", Allocate = "allocate");
words!(Recovery, "recovery", "salvage or strict", Salvage = "salvage", Strict = "strict");
words!(IndexKind, "index", "sled or memory", Sled = "sled", Memory = "memory");
words!(
    Priority,
    "priority",
    "critical, normal or low",
    Critical = "critical",
    Normal = "normal",
    Low = "low"
);
words!(
    OverflowStrategy,
    "overflow strategy",
    "drop_oldest, reject or compress_oldest",
    DropOldest = "drop_oldest",
    Reject = "reject",
    CompressOldest = "compress_oldest"
);
words!(Background, "background", "threads or manual", Threads = "threads", Manual = "manual");

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Values that a setting takes, and values that it refuses.
    const CASES: &[(&str, &[&str], &[&str])] = &[
        ("fallback_dir", &["", "/b", "c d"], &[]),
        ("durability", &["synced", "written", "queued"], &["", "Synced", "none"]),
        ("segment_bytes", &["65536", "1073741824"], &["65535", "1073741825", "0", "-1"]),
        (
            "max_bytes",
            &["", "1048576", "17592186044416"],
            &["0", "1048575", "17592186044417", "none", "-1"],
        ),
        ("ballast_bytes", &["0", "67108864"], &["67108865", "-1", ""]),
        ("prepare", &["zero", "allocate"], &["", "none"]),
        ("recovery", &["salvage", "strict"], &["", "none"]),
        (
            "lock_wait",
            &["0", "0.5", "0.125", "5", "3600"],
            &["3601", "3600.001", "-1", "+1", "", "1s", "1.", ".5", "0.0001"],
        ),
        ("max_lag_ms", &["1", "60000"], &["0", "60001"]),
        ("stall_deadline_ms", &["100", "3600000"], &["0", "99", "3600001"]),
        ("index_wait_ms", &["0", "3600000"], &["3600001"]),
        ("index_cache_bytes", &["1048576", "4294967296"], &["1048575", "4294967297"]),
        ("index", &["sled", "memory"], &["", "disk"]),
        ("mmap", &["true", "false"], &["", "yes", "1"]),
        ("request_data_max_bytes", &["256", "4194304"], &["255", "4194305"]),
        ("field_max_bytes", &["256", "4194304"], &["255", "4194305"]),
        ("deny_keys", &["", "a", "a,b c"], &[]),
        ("max_replay_attempts", &["1", "10"], &["0", "11", "4294967297"]),
        ("queue_bytes_max", &["65536", "67108864"], &["65535", "67108865"]),
        ("erase_within", &["0", "2592000", "0.5"], &["2592000.001", "2592001"]),
        ("compact_bytes_per_second", &["0", "65536", "1073741824"], &["1", "1073741825"]),
        ("max_size", &["", "1000", "10000000"], &["999", "10000001", "-1"]),
        ("max_size_per_domain", &["", "100", "1000000"], &["99", "1000001"]),
        ("overflow_strategy", &["drop_oldest", "reject", "compress_oldest"], &["", "drop"]),
        ("emergency_purge_threshold", &["0.5", "0.8", "1"], &["0.49", "1.1", "", "NaN"]),
        ("overflow_evict_batch_size", &["100", "50000"], &["99", "50001"]),
        ("overflow_check_interval", &["1", "1000"], &["0", "1001"]),
        ("compress_stale_after_days", &["7", "365"], &["6", "366"]),
        ("compress_archive_after_days", &["30", "730"], &["29", "731"]),
        (
            "domain_priorities",
            &["", "a=critical,b.c=low"],
            &["a", "a=high", "4u=low", "a=low,a=low"],
        ),
        ("max_jump", &["60", "31536000"], &["59", "31536001", "", "1h"]),
    ];

    #[test]
    fn every_setting_has_its_bounds() {
        let named: Vec<_> = CASES.iter().map(|(name, ..)| *name).collect();
        let settings: Vec<_> = Config::SETTINGS.iter().map(|setting| setting.name).collect();
        assert_eq!(named, settings);
        for (name, taken, refused) in CASES {
            let mut config = Config::new("/a");
            for value in *taken {
                config.set(name, value).unwrap();
                assert_eq!(config.value(name).unwrap(), *value);
            }
            let before = format!("{config:?}");
            for text in *refused {
                let error = config.set(name, text).unwrap_err();
                let Error::Invalid { what, value, bound } = &error else { panic!("{error}") };
                assert_eq!((what.as_str(), value.as_str()), (*name, *text));
                assert_eq!(bound, setting::find(Config::SETTINGS, name).unwrap().bounds);
            }
            assert_eq!(format!("{config:?}"), before);
        }
    }

    #[test]
    fn the_table_states_the_defaults() {
        let wanted = format!("{:?}", Config::new("/a"));
        let mut config = Config::new("/a");
        for setting in Config::SETTINGS {
            config.set(setting.name, setting.default).unwrap();
            assert_eq!(format!("{config:?}"), wanted, "{}", setting.name);
            assert!(!setting.help.is_empty() && !setting.bounds.is_empty());
        }
        config.check().unwrap();
        config.set("max_size", "0").unwrap();
        assert_eq!(format!("{config:?}"), wanted, "0 is no limit");
        assert_eq!(config.fallback_dir(), PathBuf::from("/a/fallback"));
    }

    #[test]
    fn an_unknown_setting_is_named() {
        let message = Config::new("/a").set("segment_byte", "1").unwrap_err().to_string();
        assert!(message.starts_with("segment_byte is not a setting"), "{message}");
        assert!(message.contains("segment_bytes"), "{message}");
        assert!(Config::new("/a").value("dir").is_err());
    }

    fn check_refused(change: impl FnOnce(&mut Config), wanted: &[&str]) {
        let mut config = Config::new("/a");
        change(&mut config);
        let message = config.check().unwrap_err().to_string();
        for name in wanted {
            assert!(message.contains(name), "{message}");
        }
    }

    #[test]
    fn fields_must_fit_together() {
        let both = ["request_data_max_bytes", "segment_bytes"];
        check_refused(|config| config.segment_bytes = 2 * MIB - 1, &both);
        check_refused(
            |config| {
                config.segment_bytes = 64 * KIB;
                config.limits.request_data_max_bytes = 32 * KIB;
            },
            &["field_max_bytes", "segment_bytes"],
        );
        check_refused(|config| config.fallback_dir = Some("/a".into()), &["fallback_dir", "dir"]);
        check_refused(|config| config.dir = PathBuf::new(), &["dir"]);
        check_refused(|config| config.stall_deadline_ms = 0, &["stall_deadline_ms", "100"]);
        check_refused(|config| config.max_retries = 11, &["max_replay_attempts", "10"]);
        let mut config = Config::new("/a");
        config.segment_bytes = 2 * MIB;
        config.check().unwrap();
        check_refused(
            |config| config.max_bytes = Some(32 * MIB - 1),
            &["request_data_max_bytes", "max_bytes"],
        );
        config.max_bytes = Some(32 * MIB);
        config.check().unwrap();
    }

    #[test]
    fn segments_and_ballast_follow_the_bound_of_the_directory() {
        for (segment, max, ballast, wanted) in [
            (16 * MIB, None, MIB, (16 * MIB, MIB)),
            (16 * MIB, Some(256 * MIB), MIB, (16 * MIB, MIB)),
            (16 * MIB, Some(64 * MIB), 8 * MIB, (4 * MIB, 4 * MIB)),
            (16 * MIB, Some(MIB), MIB, (64 * KIB, 64 * KIB)),
            (64 * KIB, Some(256 * MIB), 0, (64 * KIB, 0)),
        ] {
            let mut config = Config::new("/a");
            (config.segment_bytes, config.max_bytes, config.ballast_bytes) =
                (segment, max, ballast);
            assert_eq!((config.segment_size(), config.ballast_size()), wanted, "{max:?}");
        }
    }

    #[test]
    fn words_are_lower_case_everywhere() {
        for durability in [Durability::Synced, Durability::Written, Durability::Queued] {
            let text = durability.to_string();
            assert_eq!(text.parse::<Durability>().unwrap(), durability);
            assert_eq!(serde_json::to_string(&durability).unwrap(), format!("\"{text}\""));
        }
        assert_eq!("manual".parse::<Background>().unwrap(), Background::Manual);
        assert!("Manual".parse::<Background>().is_err());
    }

    #[test]
    fn debug_hides_the_hook() {
        let mut config = Config::new("/a");
        config.redaction.hook = Some(Arc::new(|failure| failure.error_message.clear()));
        assert!(format!("{config:?}").contains("hook: true"));
    }
}
