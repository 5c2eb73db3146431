//! A failure on its way in: given by the host or read from an exported line, made fit to store.

use std::fmt;
use std::time::Duration;

use serde::de::{Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer};

use super::state::forget;
use super::{
    ACTIONS_KEPT, ATTEMPTS_KEPT, Action, Attempt, Entry, EntryId, FailedOperation, Json, Redaction,
    State, Status, Timestamp, normalize_domain,
};
use crate::error::{Error, Result};

/// The domain of an entry whose own is not one.
pub const OTHER_DOMAIN: &str = "other_domain";

/// The most bytes of a key; the keys of a store are gathered in memory.
const KEY_BYTES_MAX: usize = 512;

/// How large the JSON fields of an entry may be. A field over its limit is replaced by a marker
/// that tells its size and its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of `request_data`. Default 1 MiB, from 256 B to 4 MiB. An entry whose
    /// request was replaced cannot be replayed.
    pub request_data_max_bytes: u64,
    /// The most bytes of each of `snapshot_data`, `response_data` and `metadata`. Default 1 MiB,
    /// from 256 B to 4 MiB.
    pub field_max_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { request_data_max_bytes: 1 << 20, field_max_bytes: 1 << 20 }
    }
}

/// A failed operation that is to be stored.
///
/// It is read from one object of JSON with the names of [`FailedOperation`], all optional but
/// `domain` and `failure_type`: what an export wrote, or less. The id is passed over, a lease and
/// the leave to run the entry again are dropped, because they hold only for the store that gave
/// them. `Debug` shows what it is and how large, never payloads, messages or keys.
///
/// [`FailedOperation`]: super::FailedOperation
///
/// # Example
///
/// ```
/// use deadletter::{Json, NewFailure};
///
/// let failure = NewFailure::new("payments", "PG_TIMEOUT")
///     .entity("order", "42")
///     .request(Json::object(r#"{"amount": 1.50}"#)?)
///     .key("order-42");
/// assert_eq!(failure.request_data.as_str(), r#"{"amount": 1.50}"#);
/// # Ok::<(), deadletter::Error>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct NewFailure {
    /// The service boundary it belongs to.
    pub domain: String,
    /// What went wrong; not empty.
    pub failure_type: String,
    /// The kind of thing it is about.
    pub entity_type: Option<String>,
    /// Which one.
    pub entity_id: Option<String>,
    /// Further things it is about; a JSON object without a limit of its own.
    pub entity_refs: Json,
    /// The user it happened to.
    pub user_id: Option<i64>,
    /// The state of the world at the failure; a JSON object.
    pub snapshot_data: Json,
    /// The error's code, or empty.
    pub error_code: String,
    /// The error's text, or empty.
    pub error_message: String,
    /// The request to send again; a JSON object.
    pub request_data: Json,
    /// What came back; a JSON object.
    pub response_data: Json,
    /// Anything else; a JSON object.
    pub metadata: Json,
    /// A hint for the operator, or empty.
    pub next_action_hint: String,
    /// What an operator is advised to do, or empty.
    pub recommended_action: String,
    /// The caller's key, 1 to 512 bytes; a key is stored once.
    pub key: Option<String>,
    /// The cap of attempts; `None` means the store's.
    pub max_retries: Option<u32>,
    /// When the entry expires, while pending.
    pub expires_at: Option<Timestamp>,
    /// If nobody says when: how long after it was stored, however long it waited before. So a wall
    /// clock that jumps while it waits does not age it.
    pub expires_in: Option<Duration>,
    /// The entry is not due before this time.
    pub not_before: Option<Timestamp>,
    /// When it failed; `None` means now.
    pub created_at: Option<Timestamp>,
    /// Whether `deadletter run` captures it here, so that it may be run again.
    pub runnable: bool,
    /// The domain as it was first given, when it had to be replaced.
    pub original_domain: Option<String>,
    /// A whole state, as exported; `None` means a new pending entry.
    pub state: Option<Box<State>>,
}

impl NewFailure {
    /// A failure of this type in this domain, with nothing else known.
    #[must_use]
    pub fn new(domain: impl Into<String>, failure_type: impl Into<String>) -> Self {
        Self { domain: domain.into(), failure_type: failure_type.into(), ..Self::default() }
    }

    /// Says what it is about, such as `order` and `42`.
    #[must_use]
    pub fn entity(mut self, entity_type: impl Into<String>, entity_id: impl Into<String>) -> Self {
        self.entity_type = Some(entity_type.into());
        self.entity_id = Some(entity_id.into());
        self
    }

    /// Says what else it is about, as a JSON object.
    #[must_use]
    pub fn entity_refs(mut self, entity_refs: Json) -> Self {
        self.entity_refs = entity_refs;
        self
    }

    /// Says to which user it happened.
    #[must_use]
    pub fn user(mut self, user_id: i64) -> Self {
        self.user_id = Some(user_id);
        self
    }

    /// Keeps the state of the world at the failure, as a JSON object.
    #[must_use]
    pub fn snapshot(mut self, snapshot_data: Json) -> Self {
        self.snapshot_data = snapshot_data;
        self
    }

    /// Keeps the error's code and text.
    #[must_use]
    pub fn error(mut self, code: impl Into<String>, message: impl Into<String>) -> Self {
        self.error_code = code.into();
        self.error_message = message.into();
        self
    }

    /// Keeps the request to send again, as a JSON object.
    #[must_use]
    pub fn request(mut self, request_data: Json) -> Self {
        self.request_data = request_data;
        self
    }

    /// Keeps what came back, as a JSON object.
    #[must_use]
    pub fn response(mut self, response_data: Json) -> Self {
        self.response_data = response_data;
        self
    }

    /// Keeps anything else, as a JSON object.
    #[must_use]
    pub fn metadata(mut self, metadata: Json) -> Self {
        self.metadata = metadata;
        self
    }

    /// Gives the operator a hint.
    #[must_use]
    pub fn hint(mut self, next_action_hint: impl Into<String>) -> Self {
        self.next_action_hint = next_action_hint.into();
        self
    }

    /// Advises the operator, such as `replay` or `manual_check`.
    #[must_use]
    pub fn action(mut self, recommended_action: impl Into<String>) -> Self {
        self.recommended_action = recommended_action.into();
        self
    }

    /// Gives it a key: storing the same key again gives back the first entry.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Caps its attempts.
    #[must_use]
    pub fn max_retries(mut self, max_retries: u32) -> Self {
        self.max_retries = Some(max_retries);
        self
    }

    /// Says when it expires, while pending.
    #[must_use]
    pub fn expires_at(mut self, expires_at: Timestamp) -> Self {
        self.expires_at = Some(expires_at);
        self
    }

    /// Says before when it must not be replayed.
    #[must_use]
    pub fn not_before(mut self, not_before: Timestamp) -> Self {
        self.not_before = Some(not_before);
        self
    }

    /// Says whether it may be run again as a command.
    #[must_use]
    pub fn runnable(mut self, runnable: bool) -> Self {
        self.runnable = runnable;
        self
    }

    /// Makes the failure fit to store: redacted, its domain normalized, its fields within their
    /// limits. Doing it twice changes nothing more, unless the hook does.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when the failure type is empty, the key is empty or over 512 bytes, a
    /// JSON field is not an object, or a time is after the year 9999. What was given is then
    /// unchanged, unless it is the hook that made it so.
    pub fn prepare(&mut self, limits: &Limits, redaction: &Redaction) -> Result<()> {
        self.check()?;
        redaction.apply(self);
        self.check()?;
        let domain = normalize_domain(&self.domain);
        let given = std::mem::replace(
            &mut self.domain,
            domain.clone().unwrap_or_else(|| OTHER_DOMAIN.to_owned()),
        );
        if domain.is_none() && self.original_domain.is_none() {
            self.original_domain = Some(given);
        }
        for (json, bytes_max) in [
            (&mut self.request_data, limits.request_data_max_bytes),
            (&mut self.snapshot_data, limits.field_max_bytes),
            (&mut self.response_data, limits.field_max_bytes),
            (&mut self.metadata, limits.field_max_bytes),
        ] {
            if u64::try_from(json.len()).is_ok_and(|bytes| bytes > bytes_max) {
                *json = json.truncated_marker(bytes_max);
            }
        }
        Ok(())
    }

    /// The state in which the entry is first stored: the one it brings, else pending. What the
    /// failure leaves open is filled with this time and this cap.
    pub fn first_state(&self, now: Timestamp, max_retries: u32) -> State {
        let mut state = match &self.state {
            Some(state) => State::clone(state),
            None => State::new(now, max_retries),
        };
        if state.updated_at == Timestamp::default() {
            state.updated_at = now;
        }
        if self.state.is_none() || state.max_retries == 0 {
            state.max_retries = self.max_retries.unwrap_or(max_retries);
        }
        if state.recommended_action.is_empty() {
            state.recommended_action.clone_from(&self.recommended_action);
        }
        let by_age = |life: Duration| {
            let life_ms = u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
            Timestamp(now.0.saturating_add(life_ms)).min(Timestamp::MAX)
        };
        let expires_at = self.expires_at.or(self.expires_in.map(by_age));
        state.expires_at = state.expires_at.or(expires_at);
        state.not_before = state.not_before.or(self.not_before);
        state.park_at_cap();
        state.leave_replay();
        state
    }

    /// The entry that a prepared failure becomes under this id and key.
    pub(crate) fn to_entry(
        &self,
        id: EntryId,
        key: String,
        now: Timestamp,
        max_retries: u32,
    ) -> Entry {
        let state = self.first_state(now, max_retries);
        let mut entry = Entry {
            operation: FailedOperation {
                id,
                domain: self.domain.clone(),
                failure_type: self.failure_type.clone(),
                entity_type: self.entity_type.clone(),
                entity_id: self.entity_id.clone(),
                entity_refs: self.entity_refs.clone(),
                user_id: self.user_id,
                snapshot_data: self.snapshot_data.clone(),
                error_code: self.error_code.clone(),
                error_message: self.error_message.clone(),
                request_data: self.request_data.clone(),
                response_data: self.response_data.clone(),
                metadata: self.metadata.clone(),
                next_action_hint: self.next_action_hint.clone(),
                created_at: self.created_at.unwrap_or(now),
                ..FailedOperation::default()
            },
            key,
            original_domain: self.original_domain.clone(),
            runnable: self.runnable,
            ..Entry::default()
        };
        entry.set_state(state);
        entry
    }

    /// Refuses what no settings would make fit.
    pub(crate) fn check(&self) -> Result<()> {
        if self.failure_type.is_empty() {
            return Err(Error::invalid("failure_type", "empty", "a name such as PG_TIMEOUT"));
        }
        if let Some(key) = &self.key
            && !(1..=KEY_BYTES_MAX).contains(&key.len())
        {
            let bound = format!("1 to {KEY_BYTES_MAX} bytes long");
            return Err(Error::invalid("key", format_args!("{} bytes long", key.len()), bound));
        }
        for (field, time) in [
            ("created_at", self.created_at),
            ("expires_at", self.expires_at),
            ("not_before", self.not_before),
        ] {
            if time.is_some_and(|time| time > Timestamp::MAX) {
                return Err(Error::invalid(field, "later", "within the year 9999"));
            }
        }
        self.check_objects()
    }

    fn check_objects(&self) -> Result<()> {
        self.entity_refs.check_object("entity_refs")?;
        self.snapshot_data.check_object("snapshot_data")?;
        self.request_data.check_object("request_data")?;
        self.response_data.check_object("response_data")?;
        self.metadata.check_object("metadata")
    }
}

impl fmt::Debug for NewFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewFailure")
            .field("domain", &self.domain)
            .field("failure_type", &self.failure_type)
            .field("status", &self.state.as_ref().map(|state| state.status))
            .field("key_bytes", &self.key.as_ref().map(String::len))
            .field("entity_refs", &self.entity_refs)
            .field("snapshot_data", &self.snapshot_data)
            .field("request_data", &self.request_data)
            .field("response_data", &self.response_data)
            .field("metadata", &self.metadata)
            .finish_non_exhaustive()
    }
}

/// Every name that an exported line may carry. An option is `None` when the name is missing or
/// null, so that a line without a state can be told from one with an empty one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
struct Line {
    #[serde(default, rename = "id")]
    _id: IgnoredAny,
    domain: String,
    failure_type: String,
    entity_type: Option<String>,
    entity_id: Option<String>,
    #[serde(default)]
    entity_refs: Json,
    user_id: Option<i64>,
    #[serde(default)]
    snapshot_data: Json,
    #[serde(default)]
    error_code: String,
    #[serde(default)]
    error_message: String,
    #[serde(default)]
    request_data: Json,
    #[serde(default)]
    response_data: Json,
    #[serde(default)]
    metadata: Json,
    #[serde(default)]
    next_action_hint: String,
    #[serde(default)]
    recommended_action: String,
    key: Option<String>,
    max_retries: Option<u32>,
    expires_at: Option<Timestamp>,
    not_before: Option<Timestamp>,
    created_at: Option<Timestamp>,
    #[serde(default, rename = "runnable")]
    _runnable: bool,
    original_domain: Option<String>,
    status: Option<Status>,
    retry_count: Option<u32>,
    last_retry_at: Option<Timestamp>,
    resolved_at: Option<Timestamp>,
    resolved_by_id: Option<i64>,
    resolution_type: Option<String>,
    resolution_note: Option<String>,
    updated_at: Option<Timestamp>,
    archived_at: Option<Timestamp>,
    #[serde(default, rename = "lease")]
    _lease: IgnoredAny,
    attempts: Option<Vec<Attempt>>,
    attempts_older: Option<u32>,
    audit: Option<Vec<Action>>,
    audit_older: Option<u32>,
    terminal_at: Option<Timestamp>,
    previous_total_retries: Option<u32>,
    force_redrive_count: Option<u32>,
}

impl Line {
    fn has_state(&self) -> bool {
        self.status.is_some()
            || self.retry_count.is_some()
            || self.last_retry_at.is_some()
            || self.resolved_at.is_some()
            || self.resolved_by_id.is_some()
            || self.resolution_type.is_some()
            || self.resolution_note.is_some()
            || self.updated_at.is_some()
            || self.archived_at.is_some()
            || self.attempts.is_some()
            || self.attempts_older.is_some()
            || self.audit.is_some()
            || self.audit_older.is_some()
            || self.terminal_at.is_some()
            || self.previous_total_retries.is_some()
            || self.force_redrive_count.is_some()
    }

    /// The state that the line tells of, if it tells of any.
    fn take_state(&mut self) -> Option<Box<State>> {
        if !self.has_state() {
            return None;
        }
        let mut attempts = self.attempts.take().unwrap_or_default();
        let mut audit = self.audit.take().unwrap_or_default();
        let attempts_older = self.attempts_older.unwrap_or_default();
        let audit_older = self.audit_older.unwrap_or_default();
        // A lease holds only in the store that gave it.
        let status = match self.status {
            None | Some(Status::Replaying) => Status::Pending,
            Some(status) => status,
        };
        Some(Box::new(State {
            status,
            retry_count: self.retry_count.unwrap_or_default(),
            max_retries: self.max_retries.unwrap_or_default(),
            last_retry_at: self.last_retry_at,
            resolved_at: self.resolved_at,
            resolved_by_id: self.resolved_by_id,
            resolution_type: self.resolution_type.take().unwrap_or_default(),
            resolution_note: self.resolution_note.take().unwrap_or_default(),
            recommended_action: self.recommended_action.clone(),
            updated_at: self.updated_at.or(self.created_at).unwrap_or_default(),
            expires_at: self.expires_at,
            not_before: self.not_before,
            archived_at: self.archived_at,
            lease: None,
            attempts_older: forget(&mut attempts, ATTEMPTS_KEPT, attempts_older),
            attempts,
            audit_older: forget(&mut audit, ACTIONS_KEPT, audit_older),
            audit,
            terminal_at: self.terminal_at,
            previous_total_retries: self.previous_total_retries.unwrap_or_default(),
            force_redrive_count: self.force_redrive_count.unwrap_or_default(),
        }))
    }
}

impl<'de> Deserialize<'de> for NewFailure {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut line = Line::deserialize(deserializer)?;
        let state = line.take_state();
        let failure = Self {
            domain: line.domain,
            failure_type: line.failure_type,
            entity_type: line.entity_type,
            entity_id: line.entity_id,
            entity_refs: line.entity_refs,
            user_id: line.user_id,
            snapshot_data: line.snapshot_data,
            error_code: line.error_code,
            error_message: line.error_message,
            request_data: line.request_data,
            response_data: line.response_data,
            metadata: line.metadata,
            next_action_hint: line.next_action_hint,
            recommended_action: line.recommended_action,
            key: line.key,
            max_retries: line.max_retries,
            expires_at: line.expires_at,
            expires_in: None,
            not_before: line.not_before,
            created_at: line.created_at,
            runnable: false,
            original_domain: line.original_domain,
            state,
        };
        failure.check_objects().map_err(D::Error::custom)?;
        Ok(failure)
    }
}
