//! Whether the service takes failures as it should; if not, what is wrong, since when, and what to
//! do. A trouble stays until it is healed.

use std::error::Error as _;

use serde::Serialize;

use super::Inner;
use crate::engine::{Space, SpaceLevel};
use crate::entry::Timestamp;
use crate::error::Error;

/// How the service is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Health {
    /// In one word.
    pub status: HealthStatus,
    /// What is wrong, if anything.
    pub reason: Option<String>,
    /// Since when it is so.
    pub since: Timestamp,
    /// What to do about it, if there is something.
    pub hint: Option<String>,
    /// Failures that went to a fallback file since the service was made.
    pub spilled: u64,
    /// Failures that were given back since the service was made.
    pub refused: u64,
    /// How much room the store has for new entries, if that is known.
    pub level: Option<SpaceLevel>,
    /// When it will have none, in milliseconds from now, if it goes on as over the last minutes.
    pub full_in_ms: Option<u64>,
}

/// How the service is, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// Failures are stored.
    Ok,
    /// Failures go to fallback files, settings are not what was asked for, or what should run by
    /// itself keeps failing.
    Degraded,
    /// The settings say that nothing is stored.
    Disabled,
    /// The service was closed.
    Closed,
}

/// What can be wrong; the first that is gives the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The settings of the environment are not usable.
    Settings,
    /// The store does not open.
    Open,
    /// The store is open and does not take failures.
    Store,
    /// What runs by itself fails again and again.
    Schedule,
    /// There is no space for more of them.
    Space,
}

/// What is wrong right now, and since when things are as they are.
#[derive(Debug)]
pub(super) struct Condition {
    troubles: [Option<(String, &'static str)>; 5],
    status: HealthStatus,
    since: Timestamp,
    pub closed: bool,
    pub spilled: u64,
    pub refused: u64,
}

impl Condition {
    pub fn new(since: Timestamp, enabled: bool) -> Self {
        let status = if enabled { HealthStatus::Ok } else { HealthStatus::Disabled };
        let troubles = [const { None }; 5];
        Self { troubles, status, since, closed: false, spilled: 0, refused: 0 }
    }

    /// Notes a trouble, or that it is healed.
    pub fn set(&mut self, trouble: Trouble, error: Option<&Error>) {
        if let Some(place) = self.troubles.get_mut(trouble as usize) {
            *place = error.map(|error| (chain(error), hint(error)));
        }
    }

    /// Whether this is wrong now.
    pub fn has(&self, trouble: Trouble) -> bool {
        self.troubles.get(trouble as usize).is_some_and(Option::is_some)
    }

    /// Decides the status anew. True when it changed.
    pub fn settle(&mut self, enabled: bool, now: Timestamp) -> bool {
        let status = match (self.closed, enabled, self.trouble()) {
            (true, ..) => HealthStatus::Closed,
            (false, false, _) => HealthStatus::Disabled,
            (false, true, Some(_)) => HealthStatus::Degraded,
            (false, true, None) => HealthStatus::Ok,
        };
        if status == self.status {
            return false;
        }
        (self.status, self.since) = (status, now);
        true
    }

    pub fn health(&self) -> Health {
        let (reason, hint) = match self.status {
            HealthStatus::Ok => (None, None),
            HealthStatus::Degraded => self.trouble().cloned().unzip(),
            HealthStatus::Disabled => {
                (Some("disabled".to_owned()), Some("set enabled to true to store failures"))
            }
            HealthStatus::Closed => (Some(Error::Closed.to_string()), None),
        };
        Health {
            status: self.status,
            reason,
            since: self.since,
            hint: hint.map(str::to_owned),
            spilled: self.spilled,
            refused: self.refused,
            level: None,
            full_in_ms: None,
        }
    }

    fn trouble(&self) -> Option<&(String, &'static str)> {
        self.troubles.iter().flatten().next()
    }
}

impl Inner {
    /// Asks the store how it stands with space, and notes whether it refuses entries for it.
    pub fn look_at_space(&self) -> Option<Space> {
        let space = self.access.current()?.space().ok().flatten()?;
        let shortage = space.shortage.as_ref().map(|shortage| Error::Full {
            what: shortage.what,
            bytes: shortage.bytes,
            bytes_max: shortage.bytes_max,
        });
        self.note(Trouble::Space, shortage.as_ref());
        Some(space)
    }

    /// A failure was stored, so what kept others out is over, unless it was another matter.
    pub fn note_stored(&self) {
        self.note(Trouble::Store, None);
        let short = self.condition().has(Trouble::Space);
        if short && self.look_at_space().is_none() {
            self.note(Trouble::Space, None);
        }
    }
}

/// An error with its causes, on one line.
pub(super) fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// What an operator may do about an error.
fn hint(error: &Error) -> &'static str {
    match error {
        Error::NotOpen { source } => hint(source),
        Error::Invalid { .. } => "correct the setting and restart, or give others by set_config",
        Error::Locked { .. } => "end the other process, or give this one a directory of its own",
        Error::NotAStore { .. } => "name another directory; nothing was changed in this one",
        Error::Version { .. } => "use a newer build; nothing was changed",
        Error::Compressed { .. } => "use a build with the feature zstd; nothing is lost",
        Error::Damaged(_) => "look at the damage with deadletter verify",
        Error::Panicked { .. } => "this is a bug; please report it, and restart the process",
        Error::Closed => "open the store again",
        Error::Full { what: "disk", .. } => "free space on the disk; capture goes on by itself",
        Error::Full { what: "quota", .. } => "raise the quota; capture goes on by itself",
        Error::Full { .. } => "archive and purge entries, or raise the setting that is named",
        Error::QueueFull { .. } | Error::IndexNotReady { .. } => "wait; it ends by itself",
        _ => "look at the disk: its free space, its rights, the log of the system",
    }
}
