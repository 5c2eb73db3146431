//! The words that everybody shares: entry, status, state, filter. No files, no clocks.

mod cause;
mod domain;
mod flat;
mod json;
mod new;
mod redact;
mod state;
mod timestamp;
mod transition;

#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

pub use cause::Cause;
pub(crate) use domain::DOMAIN_CHARS_MAX;
pub use domain::normalize_domain;
pub use json::Json;
pub use new::{Limits, NewFailure, OTHER_DOMAIN};
pub use redact::Redaction;
pub(crate) use timestamp::DAY_MS;
pub use timestamp::Timestamp;
pub use transition::{AUTO_REPLAY, Act, Completion, DUPLICATE_SKIP, ReplayType};
pub(crate) use transition::{DELAY_MS_MAX, WISH_MS_MAX, keep_unless_empty};

/// An entry's id: the sequence number of the record that stored it. Unique and rising, not
/// dense; written as decimal text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(pub u64);

/// Where an entry stands.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Status {
    /// Waits to be replayed.
    #[default]
    Pending = 0,
    /// A replay holds a lease on it.
    Replaying = 1,
    /// A person works on it.
    Reviewing = 2,
    /// Handed over for replay by an older way; kept for compatibility.
    Replayed = 3,
    /// Out of attempts; a person must decide.
    RequiresReview = 4,
    /// Done.
    Resolved = 5,
    /// Judged beyond repair.
    Rejected = 6,
    /// Kept for the record only.
    Archived = 7,
    /// Its time ran out.
    Expired = 8,
    /// Given up for good.
    PermanentlyFailed = 9,
}

/// The right to replay one entry until a deadline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Names this lease; a completion must bring it.
    pub token: u64,
    /// When it ends, by the wall clock of its acquisition.
    pub deadline: Timestamp,
}

/// One run of an entry's handler.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Counts from 1 and never restarts.
    pub number: u32,
    /// When it started.
    pub at: Timestamp,
    /// `started`, `success`, `failure`, `throttled` or `interrupted`.
    pub outcome: String,
    /// What the handler said.
    pub note: String,
}

/// One act of an operator on an entry.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What, such as `resolve`.
    pub action: String,
    /// Why.
    pub reason: String,
    /// A link to the ticket, or empty.
    pub ticket: String,
    /// The status before.
    pub from: Status,
    /// The status after.
    pub to: Status,
}

/// Everything about an entry that can change. Each change writes all of it as one record.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Where the entry stands.
    pub status: Status,
    /// Attempts charged against the cap.
    pub retry_count: u32,
    /// The cap.
    pub max_retries: u32,
    /// When the last attempt started.
    pub last_retry_at: Option<Timestamp>,
    /// When the entry was resolved.
    pub resolved_at: Option<Timestamp>,
    /// Who resolved it, as a user number.
    pub resolved_by_id: Option<i64>,
    /// How it was resolved, such as `manual`.
    pub resolution_type: String,
    /// A note on the resolution or the last attempt.
    pub resolution_note: String,
    /// What an operator is advised to do.
    pub recommended_action: String,
    /// When the state last changed.
    pub updated_at: Timestamp,
    /// When a pending entry expires.
    pub expires_at: Option<Timestamp>,
    /// The entry is not due before this time.
    pub not_before: Option<Timestamp>,
    /// When it was archived.
    pub archived_at: Option<Timestamp>,
    /// The lease, while replaying.
    pub lease: Option<Lease>,
    /// The last attempts, oldest first, at most [`ATTEMPTS_KEPT`].
    pub attempts: Vec<Attempt>,
    /// How many attempts are older than those kept.
    pub attempts_older: u32,
    /// The last operator actions, oldest first, at most [`ACTIONS_KEPT`].
    pub audit: Vec<Action>,
    /// How many actions are older than those kept.
    pub audit_older: u32,
    /// When it became resolved, rejected, expired or permanently failed; kept when it is
    /// archived.
    pub terminal_at: Option<Timestamp>,
    /// Attempts that were charged before the last force redrive.
    pub previous_total_retries: u32,
    /// How often it was redriven past its cap.
    pub force_redrive_count: u32,
}

/// How many attempts a state carries.
pub const ATTEMPTS_KEPT: usize = 8;
/// How many operator actions a state carries.
pub const ACTIONS_KEPT: usize = 16;

/// One failed operation, with the 26 fields of the reference.
///
/// `Debug` shows ids and sizes, never payloads.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedOperation {
    /// The sequence number of the record that stored it, as decimal text.
    pub id: EntryId,
    /// The service boundary it belongs to, normalized.
    pub domain: String,
    /// What went wrong, such as `PG_TIMEOUT`.
    pub failure_type: String,
    /// Where it stands.
    pub status: Status,
    /// The kind of thing it is about, such as `order`.
    pub entity_type: Option<String>,
    /// Which one.
    pub entity_id: Option<String>,
    /// Further things it is about; a JSON object, exempt from the field limit.
    pub entity_refs: Json,
    /// The user it happened to.
    pub user_id: Option<i64>,
    /// The state of the world at the failure; a JSON object.
    pub snapshot_data: Json,
    /// The error's code, or empty.
    pub error_code: String,
    /// The error's text, or empty.
    pub error_message: String,
    /// Attempts charged against the cap.
    pub retry_count: u32,
    /// The cap.
    pub max_retries: u32,
    /// When the last attempt started.
    pub last_retry_at: Option<Timestamp>,
    /// The request to send again; a JSON object.
    pub request_data: Json,
    /// What came back; a JSON object.
    pub response_data: Json,
    /// Anything else; a JSON object.
    pub metadata: Json,
    /// When it was resolved.
    pub resolved_at: Option<Timestamp>,
    /// Who resolved it.
    pub resolved_by_id: Option<i64>,
    /// How it was resolved.
    pub resolution_type: String,
    /// A note on the resolution.
    pub resolution_note: String,
    /// A hint for the operator, given when it was stored.
    pub next_action_hint: String,
    /// What an operator is advised to do.
    pub recommended_action: String,
    /// When it failed.
    pub created_at: Timestamp,
    /// When its state last changed.
    pub updated_at: Timestamp,
    /// When a pending entry expires.
    pub expires_at: Option<Timestamp>,
}

/// A failed operation together with what the log keeps beside the 26 fields.
///
/// It serializes as one flat row, the 26 fields first. `Debug` shows ids and sizes, never
/// payloads.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// The 26 fields.
    pub operation: FailedOperation,
    /// The caller's key, else the entry's uuid.
    pub key: String,
    /// The domain as it was given, when it had to be replaced.
    pub original_domain: Option<String>,
    /// Whether `deadletter run` captured it on this store, so that it may be run again.
    pub runnable: bool,
    /// The entry is not due before this time.
    pub not_before: Option<Timestamp>,
    /// When it was archived.
    pub archived_at: Option<Timestamp>,
    /// The lease, while replaying.
    pub lease: Option<Lease>,
    /// The last attempts, oldest first.
    pub attempts: Vec<Attempt>,
    /// How many attempts are older than those kept.
    pub attempts_older: u32,
    /// The last operator actions, oldest first.
    pub audit: Vec<Action>,
    /// How many actions are older than those kept.
    pub audit_older: u32,
    /// When it became resolved, rejected, expired or permanently failed.
    pub terminal_at: Option<Timestamp>,
    /// Attempts that were charged before the last force redrive.
    pub previous_total_retries: u32,
    /// How often it was redriven past its cap.
    pub force_redrive_count: u32,
}

/// Which entries are meant. An empty filter means all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only entries in this status.
    pub status: Option<Status>,
    /// Only entries of exactly this domain.
    pub domain: Option<String>,
    /// Only entries of exactly this failure type.
    pub failure_type: Option<String>,
    /// Only entries created at or after this time.
    pub created_from: Option<Timestamp>,
    /// Only entries created at or before this time.
    pub created_to: Option<Timestamp>,
    /// Only entries that are due at this time: nothing holds them back until a later one, unless a
    /// wall clock that went back since meant it for an earlier one. Answered
    /// by the index, except for entries that are resolved, rejected, archived, expired or
    /// permanently failed: of those each record is read, so name a status too.
    pub due_at: Option<Timestamp>,
    /// Only entries that expire before this time, whatever their status.
    pub expires_before: Option<Timestamp>,
    /// Only entries whose age, see [`State::age_from`], began before this time. Entries of
    /// a status without an age are never meant.
    pub aged_before: Option<Timestamp>,
}

/// The order of a listing: by sequence number, never by time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// Highest sequence number first.
    #[default]
    Newest,
    /// Lowest sequence number first.
    Oldest,
}

/// Which part of a listing is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// The order of the listing.
    pub order: Order,
    /// How many matches to pass over.
    pub offset: u64,
    /// How many matches to return at most; 0 returns none.
    pub limit: usize,
    /// Start behind this entry (in the listing's order), which need not exist any more.
    pub after: Option<EntryId>,
}

impl Default for Page {
    fn default() -> Self {
        Self { order: Order::Newest, offset: 0, limit: 100, after: None }
    }
}

impl Status {
    /// All ten, in the order of their numbers on disk.
    pub const ALL: [Self; 10] = [
        Self::Pending,
        Self::Replaying,
        Self::Reviewing,
        Self::Replayed,
        Self::RequiresReview,
        Self::Resolved,
        Self::Rejected,
        Self::Archived,
        Self::Expired,
        Self::PermanentlyFailed,
    ];

    /// The name used in text and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Replaying => "replaying",
            Self::Reviewing => "reviewing",
            Self::Replayed => "replayed",
            Self::RequiresReview => "requires_review",
            Self::Resolved => "resolved",
            Self::Rejected => "rejected",
            Self::Archived => "archived",
            Self::Expired => "expired",
            Self::PermanentlyFailed => "permanently_failed",
        }
    }

    /// The status with this number on disk.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Status {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            Error::invalid("status", text, format!("one of {known}"))
        })
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for EntryId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        text.parse().map(Self).map_err(|_| {
            Error::invalid("id", text, "decimal digits of a number below 18446744073709551616")
        })
    }
}

impl Serialize for EntryId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for EntryId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
