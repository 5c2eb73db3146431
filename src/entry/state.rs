//! What changes about an entry: its state taken out, put back and grown; what a filter matches.

use std::fmt;

use super::{
    ACTIONS_KEPT, ATTEMPTS_KEPT, Action, Attempt, Entry, FailedOperation, Filter, Json, State,
    Status, Timestamp,
};

impl State {
    /// The state of a new entry: pending since this time, due at once, never expiring.
    pub fn new(at: Timestamp, max_retries: u32) -> Self {
        Self {
            status: Status::Pending,
            retry_count: 0,
            max_retries,
            last_retry_at: None,
            resolved_at: None,
            resolved_by_id: None,
            resolution_type: String::new(),
            resolution_note: String::new(),
            recommended_action: String::new(),
            updated_at: at,
            expires_at: None,
            not_before: None,
            archived_at: None,
            lease: None,
            attempts: Vec::new(),
            attempts_older: 0,
            audit: Vec::new(),
            audit_older: 0,
            terminal_at: None,
            previous_total_retries: 0,
            force_redrive_count: 0,
        }
    }

    /// Sets the time that the state hangs on: since when the entry stands where it does, for a
    /// status that has an age, else before when it is not due. None is not known, or none.
    pub(crate) fn set_when(&mut self, when: Option<Timestamp>) {
        match self.status {
            status if status.has_age() && when.is_none() => {}
            Status::Resolved => (self.resolved_at, self.terminal_at) = (when, when),
            Status::Archived => self.archived_at = when,
            Status::Rejected | Status::Expired | Status::PermanentlyFailed => {
                self.terminal_at = when;
            }
            Status::Pending
            | Status::Replaying
            | Status::Reviewing
            | Status::Replayed
            | Status::RequiresReview => self.not_before = when,
        }
    }

    /// As [`Entry::age_from`].
    pub fn age_from(&self) -> Option<Timestamp> {
        age_from(self.status, self.resolved_at, self.archived_at, self.terminal_at)
            .map(|at| at.unwrap_or(self.updated_at))
    }

    /// Adds the newest attempt; of more than [`ATTEMPTS_KEPT`] the oldest are only counted.
    pub fn push_attempt(&mut self, attempt: Attempt) {
        self.attempts.push(attempt);
        self.attempts_older = forget(&mut self.attempts, ATTEMPTS_KEPT, self.attempts_older);
    }

    /// Adds the newest operator action; of more than [`ACTIONS_KEPT`] the oldest are only
    /// counted.
    pub fn push_action(&mut self, action: Action) {
        self.audit.push(action);
        self.audit_older = forget(&mut self.audit, ACTIONS_KEPT, self.audit_older);
    }
}

impl Status {
    /// Whether entries of this status have an age, see [`Entry::age_from`].
    pub(crate) fn has_age(self) -> bool {
        age_from(self, None, None, None).is_some()
    }
}

/// The time that counts for a status, if that status has an age.
#[expect(clippy::option_option, reason = "an age that is not on record is not the same as none")]
fn age_from(
    status: Status,
    resolved_at: Option<Timestamp>,
    archived_at: Option<Timestamp>,
    terminal_at: Option<Timestamp>,
) -> Option<Option<Timestamp>> {
    match status {
        Status::Resolved => Some(resolved_at.or(terminal_at)),
        Status::Archived => Some(archived_at),
        Status::Rejected | Status::Expired | Status::PermanentlyFailed => Some(terminal_at),
        Status::Pending
        | Status::Replaying
        | Status::Reviewing
        | Status::Replayed
        | Status::RequiresReview => None,
    }
}

/// Drops the oldest items over the bound; returns how many were ever dropped.
pub(super) fn forget<T>(items: &mut Vec<T>, kept_max: usize, older: u32) -> u32 {
    let over = items.len().saturating_sub(kept_max);
    items.drain(..over);
    older.saturating_add(u32::try_from(over).unwrap_or(u32::MAX))
}

impl Entry {
    /// Everything about the entry that can change, as one value.
    pub fn state(&self) -> State {
        let operation = &self.operation;
        State {
            status: operation.status,
            retry_count: operation.retry_count,
            max_retries: operation.max_retries,
            last_retry_at: operation.last_retry_at,
            resolved_at: operation.resolved_at,
            resolved_by_id: operation.resolved_by_id,
            resolution_type: operation.resolution_type.clone(),
            resolution_note: operation.resolution_note.clone(),
            recommended_action: operation.recommended_action.clone(),
            updated_at: operation.updated_at,
            expires_at: operation.expires_at,
            not_before: self.not_before,
            archived_at: self.archived_at,
            lease: self.lease.clone(),
            attempts: self.attempts.clone(),
            attempts_older: self.attempts_older,
            audit: self.audit.clone(),
            audit_older: self.audit_older,
            terminal_at: self.terminal_at,
            previous_total_retries: self.previous_total_retries,
            force_redrive_count: self.force_redrive_count,
        }
    }

    /// Puts this state in place of the entry's own.
    pub fn set_state(&mut self, state: State) {
        let operation = &mut self.operation;
        operation.status = state.status;
        operation.retry_count = state.retry_count;
        operation.max_retries = state.max_retries;
        operation.last_retry_at = state.last_retry_at;
        operation.resolved_at = state.resolved_at;
        operation.resolved_by_id = state.resolved_by_id;
        operation.resolution_type = state.resolution_type;
        operation.resolution_note = state.resolution_note;
        operation.recommended_action = state.recommended_action;
        operation.updated_at = state.updated_at;
        operation.expires_at = state.expires_at;
        self.not_before = state.not_before;
        self.archived_at = state.archived_at;
        self.lease = state.lease;
        self.attempts = state.attempts;
        self.attempts_older = state.attempts_older;
        self.audit = state.audit;
        self.audit_older = state.audit_older;
        self.terminal_at = state.terminal_at;
        self.previous_total_retries = state.previous_total_retries;
        self.force_redrive_count = state.force_redrive_count;
    }

    /// Since when the entry stands where it does, as far as its age matters: resolved since,
    /// archived since, rejected, expired or failed since. `None` for any other status.
    pub fn age_from(&self) -> Option<Timestamp> {
        age_from(
            self.operation.status,
            self.operation.resolved_at,
            self.archived_at,
            self.terminal_at,
        )
        .map(|at| at.unwrap_or(self.operation.updated_at))
    }

    /// Leaves out the five JSON fields, which may be large.
    pub(crate) fn drop_payloads(&mut self) {
        let operation = &mut self.operation;
        operation.entity_refs = Json::default();
        operation.snapshot_data = Json::default();
        operation.request_data = Json::default();
        operation.response_data = Json::default();
        operation.metadata = Json::default();
    }

    /// Whether the filter means this entry. Both ends of its range of creation are inside.
    pub fn matches(&self, filter: &Filter) -> bool {
        let operation = &self.operation;
        filter.status.is_none_or(|status| operation.status == status)
            && filter.domain.as_ref().is_none_or(|domain| operation.domain == *domain)
            && filter.failure_type.as_ref().is_none_or(|kind| operation.failure_type == *kind)
            && filter.created_from.is_none_or(|from| operation.created_at >= from)
            && filter.created_to.is_none_or(|to| operation.created_at <= to)
            && filter.due_at.is_none_or(|at| self.is_due(at))
            && filter.expires_before.is_none_or(|before| operation.expires_before(before))
            && filter
                .aged_before
                .is_none_or(|before| self.age_from().is_some_and(|from| from < before))
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("status", &self.status)
            .field("retry_count", &self.retry_count)
            .field("max_retries", &self.max_retries)
            .field("updated_at", &self.updated_at)
            .field("not_before", &self.not_before)
            .field("lease", &self.lease)
            .field("attempts", &self.attempts)
            .field("audit", &self.audit)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt")
            .field("number", &self.number)
            .field("at", &self.at)
            .field("outcome", &self.outcome)
            .field("note_bytes", &self.note.len())
            .finish()
    }
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Action")
            .field("at", &self.at)
            .field("action", &self.action)
            .field("from", &self.from)
            .field("to", &self.to)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for FailedOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailedOperation")
            .field("id", &self.id.0)
            .field("domain", &self.domain)
            .field("failure_type", &self.failure_type)
            .field("status", &self.status)
            .field("entity_refs", &self.entity_refs)
            .field("snapshot_data", &self.snapshot_data)
            .field("request_data", &self.request_data)
            .field("response_data", &self.response_data)
            .field("metadata", &self.metadata)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("operation", &self.operation)
            .field("key_bytes", &self.key.len())
            .field("attempts", &self.attempts.len())
            .field("audit", &self.audit.len())
            .finish_non_exhaustive()
    }
}
