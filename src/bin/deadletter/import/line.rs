//! One line of an import: the keys that `put` takes and that `export` writes, and no others.

use deadletter::{Action, Attempt, Json, Lease, NewFailure, State, Status, Timestamp};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// How lines are read.
pub struct Form {
    /// Whether captured commands keep the right to be run again.
    pub trust_commands: bool,
    /// The cap of an entry with a status and no cap of its own.
    pub attempts_max: u32,
}

// A key that is not known is refused: dropping it silently would lose what it says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(rename = "id", default)]
    _id: Option<IgnoredAny>,
    domain: String,
    #[serde(alias = "type")]
    failure_type: String,
    status: Option<String>,
    entity_type: Option<String>,
    entity_id: Option<String>,
    entity_refs: Option<Json>,
    user_id: Option<i64>,
    #[serde(alias = "snapshot")]
    snapshot_data: Option<Json>,
    error_code: Option<String>,
    error_message: Option<String>,
    retry_count: Option<u32>,
    max_retries: Option<u32>,
    last_retry_at: Option<Timestamp>,
    #[serde(alias = "request")]
    request_data: Option<Json>,
    #[serde(alias = "response")]
    response_data: Option<Json>,
    metadata: Option<Json>,
    resolved_at: Option<Timestamp>,
    resolved_by_id: Option<i64>,
    resolution_type: Option<String>,
    resolution_note: Option<String>,
    #[serde(alias = "hint")]
    next_action_hint: Option<String>,
    #[serde(alias = "action")]
    recommended_action: Option<String>,
    created_at: Option<Timestamp>,
    updated_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    key: Option<String>,
    original_domain: Option<String>,
    runnable: Option<bool>,
    not_before: Option<Timestamp>,
    archived_at: Option<Timestamp>,
    lease: Option<Lease>,
    attempts: Option<Vec<Attempt>>,
    attempts_older: Option<u32>,
    audit: Option<Vec<Action>>,
    audit_older: Option<u32>,
    terminal_at: Option<Timestamp>,
    previous_total_retries: Option<u32>,
    force_redrive_count: Option<u32>,
}

/// The entry of a line, or why there is none.
pub fn parse(text: &[u8], form: &Form) -> Result<NewFailure, String> {
    // A sequence would be taken for the fields in their order.
    let is_object = text.trim_ascii_start().first() == Some(&b'{');
    if !is_object && serde_json::from_slice::<IgnoredAny>(text).is_ok() {
        return Err("the line is not a JSON object".to_owned());
    }
    let line: Line = serde_json::from_slice(text).map_err(|error| reason_of(&error))?;
    let status = line.status.as_deref().map(str::parse::<Status>).transpose();
    let status = status.map_err(|error| error.to_string())?;
    let state = status.map(|status| Box::new(state_of(&line, status, form)));
    let object = |name: &str, json: Option<Json>| match json {
        Some(json) if json.is_object() => Ok(json),
        Some(_) => Err(format!("{name} is not a JSON object")),
        None => Ok(Json::default()),
    };
    let mut failure = NewFailure::new(line.domain, line.failure_type);
    failure.entity_type = line.entity_type;
    failure.entity_id = line.entity_id;
    failure.entity_refs = object("entity_refs", line.entity_refs)?;
    failure.user_id = line.user_id;
    failure.snapshot_data = object("snapshot_data", line.snapshot_data)?;
    failure.error_code = line.error_code.unwrap_or_default();
    failure.error_message = line.error_message.unwrap_or_default();
    failure.request_data = object("request_data", line.request_data)?;
    failure.response_data = object("response_data", line.response_data)?;
    failure.metadata = object("metadata", line.metadata)?;
    failure.next_action_hint = line.next_action_hint.unwrap_or_default();
    failure.recommended_action = line.recommended_action.unwrap_or_default();
    failure.key = line.key;
    failure.max_retries = line.max_retries;
    failure.created_at = line.created_at;
    failure.expires_at = line.expires_at;
    failure.runnable = form.trust_commands && line.runnable.unwrap_or(false);
    failure.original_domain = line.original_domain;
    failure.state = state;
    if let (None, Some(time)) = (&failure.state, line.not_before) {
        failure = failure.not_before(time);
    }
    Ok(failure)
}

/// The whole state of an entry that brings its status.
fn state_of(line: &Line, status: Status, form: &Form) -> State {
    let now = || {
        let milliseconds = jiff::Timestamp::now().as_millisecond();
        Timestamp(u64::try_from(milliseconds).unwrap_or(0))
    };
    State {
        status,
        retry_count: line.retry_count.unwrap_or(0),
        max_retries: line.max_retries.unwrap_or(form.attempts_max),
        last_retry_at: line.last_retry_at,
        resolved_at: line.resolved_at,
        resolved_by_id: line.resolved_by_id,
        resolution_type: line.resolution_type.clone().unwrap_or_default(),
        resolution_note: line.resolution_note.clone().unwrap_or_default(),
        recommended_action: line.recommended_action.clone().unwrap_or_default(),
        updated_at: line.updated_at.or(line.created_at).unwrap_or_else(now),
        expires_at: line.expires_at,
        not_before: line.not_before,
        archived_at: line.archived_at,
        lease: line.lease.clone(),
        attempts: line.attempts.clone().unwrap_or_default(),
        attempts_older: line.attempts_older.unwrap_or(0),
        audit: line.audit.clone().unwrap_or_default(),
        audit_older: line.audit_older.unwrap_or(0),
        terminal_at: line.terminal_at,
        previous_total_retries: line.previous_total_retries.unwrap_or(0),
        force_redrive_count: line.force_redrive_count.unwrap_or(0),
    }
}

/// What is wrong with a line, and in which column; the number of the line is the caller's.
fn reason_of(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let reason = text.strip_suffix(&place).unwrap_or(&text);
    // The list of all known keys is longer than a person reads.
    let reason = reason.split_once(", expected one of").map_or(reason, |(reason, _)| reason);
    format!("{reason} at column {}", error.column())
}
