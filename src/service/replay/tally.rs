//! What a replay did: counted by all jobs together, told at the end.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::entry::{EntryId, Timestamp};

/// The most messages that a result carries; more are only counted.
const ERRORS_MAX: usize = 100;

/// Why a replay ended before its work was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EarlyStop {
    /// The throttle says that the other side seems to be down.
    Emergency,
    /// The other side asked to be left alone for longer than a replay waits.
    Throttled,
    /// The throttle gave no permit for longer than a replay waits.
    NoPermit,
    /// Another replay runs an entry that has to run alone.
    RunsAlone,
    /// The repository failed, or the throttle panicked; the last message says how.
    Failed,
}

impl EarlyStop {
    /// The name used in text and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Emergency => "emergency",
            Self::Throttled => "throttled",
            Self::NoPermit => "no_permit",
            Self::RunsAlone => "runs_alone",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for EarlyStop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why an entry was passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Skip {
    /// Its domain has no handler.
    NoHandler,
    /// Its request was cut when it was stored, so it cannot be sent again.
    RequestDataTruncated,
    /// Its handler would not have it now.
    HandlerRefused,
    /// Its handler panicked when it was asked.
    HandlerPanicked,
    /// Nobody wants it any more; it was resolved without a run.
    DuplicateSkip,
    /// Its time ran out; it is expired now.
    TtlExpired,
    /// Somebody else was faster.
    LostRace,
    /// Its lease ended while its handler ran, so the outcome was not taken.
    LeaseLost,
    /// It has to run alone, and another replay is running.
    RunsAlone,
    /// Its outcome could not be written.
    NotWritten,
}

/// The counts of one call, and the messages.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub success: u64,
    pub failed: u64,
    pub throttled: u64,
    pub skipped: BTreeMap<Skip, u64>,
    /// Handlers that ran.
    pub attempted: u64,
    pub errors: Vec<String>,
    errors_more: u64,
    /// The entries whose attempt failed, with its number and note; only kept when asked for.
    pub failures: Vec<(EntryId, u32, String)>,
    /// The earliest time that an attempt of this call left behind.
    pub next_due: Option<Timestamp>,
    pub early_stop: Option<EarlyStop>,
    /// When to come again, in milliseconds, if the early stop knows.
    pub retry_after_ms: Option<u64>,
}

impl Counts {
    pub fn skip(&mut self, why: Skip) {
        *self.skipped.entry(why).or_default() += 1;
    }

    pub fn skipped(&self) -> u64 {
        self.skipped.values().sum()
    }

    pub fn processed(&self) -> u64 {
        self.success + self.failed + self.throttled + self.skipped()
    }

    pub fn error(&mut self, text: String) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(text);
        } else {
            self.errors_more += 1;
        }
    }

    /// The messages, and how many more there were.
    pub fn take_errors(&mut self) -> Vec<String> {
        let mut errors = std::mem::take(&mut self.errors);
        if self.errors_more > 0 {
            errors.push(format!("{} more", self.errors_more));
        }
        errors
    }
}

/// The counts that the jobs of a call share.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Guards the counts; held for moments.
    counts: Mutex<Counts>,
}

impl Tally {
    pub fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn into_counts(self) -> Counts {
        self.counts.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn skip(&self, why: Skip) {
        self.counts().skip(why);
    }

    pub fn error(&self, text: String) {
        self.counts().error(text);
    }

    /// Ends the call early; the first reason stays.
    pub fn stop(&self, why: EarlyStop, retry_after_ms: Option<u64>) {
        let mut counts = self.counts();
        if counts.early_stop.is_none() {
            counts.early_stop = Some(why);
            counts.retry_after_ms = retry_after_ms;
        }
    }

    /// Ends the call early because the repository failed; only the first failure is told, for
    /// the others follow from it.
    pub fn fail(&self, text: String) {
        let mut counts = self.counts();
        if counts.early_stop != Some(EarlyStop::Failed) {
            counts.error(text);
        }
        counts.early_stop = Some(EarlyStop::Failed);
    }

    pub fn is_stopped(&self) -> bool {
        self.counts().early_stop.is_some()
    }
}
