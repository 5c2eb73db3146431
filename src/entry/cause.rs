//! Why a record was written: one word in each entry and change record.
//!
//! The store counts its records by cause, domain and failure type, and restates the counts at the
//! head of every segment; so counters survive crashes and need no scan.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a record was written. The numbers are on disk and are never given again.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(into = "u8", try_from = "u8")]
#[repr(u8)]
#[non_exhaustive]
pub enum Cause {
    /// A change of the host's own, or a status that was set as it is.
    #[default]
    Other = 0,
    /// The entry was stored.
    Stored = 1,
    /// A batch leased it; no attempt was charged.
    Leased = 2,
    /// An attempt began, for this one entry.
    StartedSingle = 3,
    /// An attempt began, in a batch.
    StartedBatch = 4,
    /// An attempt began, because a service came back.
    StartedConditional = 5,
    /// An attempt began past the cap, with a fresh budget.
    Redriven = 6,
    /// The handler succeeded.
    Succeeded = 7,
    /// The handler failed; the entry waits for its next attempt.
    Failed = 8,
    /// The handler failed and the attempts are used up; a person must decide.
    Exhausted = 9,
    /// As [`Cause::Exhausted`], of an entry that was redriven before.
    RedriveExhausted = 10,
    /// The handler was told to come back later; the attempt was not charged.
    Throttled = 11,
    /// A started attempt was cut off; the entry waits for its next one.
    Interrupted = 12,
    /// A started attempt was cut off and the attempts are used up.
    InterruptedExhausted = 13,
    /// A lease ended before its attempt began.
    Released = 14,
    /// Nobody wants the operation any more; it was resolved without a run.
    Unwanted = 15,
    /// An operator resolved it.
    Resolved = 16,
    /// An operator rejected it.
    Rejected = 17,
    /// Its time ran out.
    Expired = 18,
    /// It was archived.
    Archived = 19,
    /// It went to a person, because a sweep could not help it.
    Escalated = 20,
    /// It was purged; the entry is gone.
    Purged = 21,
    /// It was deleted whatever its status; the entry is gone.
    Deleted = 22,
    /// It was evicted for space; the entry is gone.
    Evicted = 23,
}

impl Cause {
    /// All of them, by number.
    pub const ALL: [Self; 24] = [
        Self::Other,
        Self::Stored,
        Self::Leased,
        Self::StartedSingle,
        Self::StartedBatch,
        Self::StartedConditional,
        Self::Redriven,
        Self::Succeeded,
        Self::Failed,
        Self::Exhausted,
        Self::RedriveExhausted,
        Self::Throttled,
        Self::Interrupted,
        Self::InterruptedExhausted,
        Self::Released,
        Self::Unwanted,
        Self::Resolved,
        Self::Rejected,
        Self::Expired,
        Self::Archived,
        Self::Escalated,
        Self::Purged,
        Self::Deleted,
        Self::Evicted,
    ];

    /// The name used in text and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::Stored => "stored",
            Self::Leased => "leased",
            Self::StartedSingle => "started_single",
            Self::StartedBatch => "started_batch",
            Self::StartedConditional => "started_conditional",
            Self::Redriven => "redriven",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Exhausted => "exhausted",
            Self::RedriveExhausted => "redrive_exhausted",
            Self::Throttled => "throttled",
            Self::Interrupted => "interrupted",
            Self::InterruptedExhausted => "interrupted_exhausted",
            Self::Released => "released",
            Self::Unwanted => "unwanted",
            Self::Resolved => "resolved",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Archived => "archived",
            Self::Escalated => "escalated",
            Self::Purged => "purged",
            Self::Deleted => "deleted",
            Self::Evicted => "evicted",
        }
    }

    /// The cause with this number on disk.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// Whether an attempt began.
    pub const fn starts(self) -> bool {
        matches!(
            self,
            Self::StartedSingle | Self::StartedBatch | Self::StartedConditional | Self::Redriven
        )
    }

    /// Whether the entry is gone from then on.
    pub const fn removes(self) -> bool {
        matches!(self, Self::Purged | Self::Deleted | Self::Evicted)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl From<Cause> for u8 {
    fn from(cause: Cause) -> Self {
        cause as Self
    }
}

impl TryFrom<u8> for Cause {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        Self::from_number(number).ok_or_else(|| format!("there is no cause {number}"))
    }
}
