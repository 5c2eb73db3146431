//! Whether an entry may be replayed at all: a handler, a whole request, the handler's word, and
//! somebody who still wants it. Asked before anything is leased, so a no spends nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::tally::Skip;
use crate::config::DlqConfig;
use crate::engine::{Changed, Decision};
use crate::entry::{Cause, Entry, EntryId, State, Status};
use crate::error::Result;
use crate::replay::{ReplayHandler, Verdict, contain};
use crate::repository::FailedOperationRepository;
use crate::service::{DlqEvent, DlqService};

/// What the gates say about an entry.
pub(in crate::service) enum Admission {
    /// It may be replayed by this handler.
    Run(Arc<dyn ReplayHandler>),
    /// Nobody wants it any more.
    Unwanted,
    /// It may not be replayed now.
    Refused(Refusal),
}

/// Why an entry may not be replayed now.
#[derive(Debug)]
pub(in crate::service) struct Refusal {
    pub skip: Skip,
    pub reason: String,
}

impl Admission {
    fn refused(skip: Skip, reason: impl Into<String>) -> Self {
        Self::Refused(Refusal { skip, reason: reason.into() })
    }
}

impl DlqService {
    /// Leads an entry through the gates. Whoever listens hears of a cut request and of a panic.
    pub(in crate::service) fn admit(
        &self,
        repository: &dyn FailedOperationRepository,
        config: &DlqConfig,
        entry: &Entry,
    ) -> Admission {
        let Some(handler) = self.handlers().get(&entry.operation.domain) else {
            return Admission::refused(Skip::NoHandler, "its domain has no handler");
        };
        if config.truncate_blocks_replay && is_cut(entry) {
            self.blocked(repository, entry, "request_data_truncated");
            let reason = "its request was cut when it was stored";
            return Admission::refused(Skip::RequestDataTruncated, reason);
        }
        let answer = contain(|| match handler.can_replay(entry) {
            Verdict::Yes => Ok(handler.still_wanted(entry)),
            Verdict::No(reason) => Err(reason),
        });
        match answer {
            Ok(Ok(true)) => Admission::Run(handler),
            Ok(Ok(false)) => Admission::Unwanted,
            Ok(Err(reason)) => Admission::refused(Skip::HandlerRefused, reason),
            Err(panic) => {
                self.blocked(repository, entry, "handler_panicked");
                Admission::refused(Skip::HandlerPanicked, panic)
            }
        }
    }

    /// Resolves an entry without a run, if its status is still this one. None when it is not.
    pub(in crate::service) fn resolve_unwanted(
        &self,
        repository: &dyn FailedOperationRepository,
        id: EntryId,
        from: Status,
    ) -> Result<Option<Entry>> {
        let resolved = change_from(repository, id, from, &mut State::resolve_unwanted)?;
        if let Some(entry) = &resolved {
            let operation = &entry.operation;
            let event = DlqEvent::DlqReplaySkipped {
                dlq_id: id,
                domain: operation.domain.clone(),
                resolution_type: operation.resolution_type.clone(),
            };
            self.tell(repository, event);
        }
        Ok(resolved)
    }

    /// Expires a pending entry that a replay found past its time. None when it was changed
    /// meanwhile.
    pub(super) fn expire_found(
        &self,
        repository: &dyn FailedOperationRepository,
        id: EntryId,
    ) -> Result<Option<Entry>> {
        let expired = change_from(repository, id, Status::Pending, &mut |state| {
            let cause = state.expire();
            "ttl_expired".clone_into(&mut state.resolution_type);
            cause
        })?;
        if let Some(entry) = &expired {
            self.blocked(repository, entry, "ttl_expired");
        }
        Ok(expired)
    }

    /// Tells that an entry may not be replayed.
    pub(in crate::service) fn blocked(
        &self,
        repository: &dyn FailedOperationRepository,
        entry: &Entry,
        block_reason: &'static str,
    ) {
        let (dlq_id, domain) = (Some(entry.operation.id), Some(entry.operation.domain.clone()));
        self.tell(repository, DlqEvent::DlqReplayBlocked { dlq_id, domain, block_reason });
    }
}

/// Changes an entry if its status is still this one; None when it is not.
fn change_from(
    repository: &dyn FailedOperationRepository,
    id: EntryId,
    from: Status,
    change: &mut dyn FnMut(&mut State) -> Cause,
) -> Result<Option<Entry>> {
    let changed = repository.change_all(&[id], &mut |entry| {
        let mut state = entry.state();
        if state.status != from {
            return Ok(Decision::Keep);
        }
        let cause = change(&mut state);
        Ok(Decision::Change(Box::new(state), cause))
    })?;
    Ok(match changed.into_iter().next() {
        Some(Changed::Changed(entry)) => Some(*entry),
        _ => None,
    })
}

/// Whether the request of an entry is not whole: the request, or the standard input of a captured
/// command, was replaced by a marker because it was over its limit.
fn is_cut(entry: &Entry) -> bool {
    let request = entry.operation.request_data.as_str();
    // Nearly no request has a marker, and reading one has its price.
    if !request.contains("_truncated") {
        return false;
    }
    let Some(fields) = fields(request) else { return false };
    let stdin = fields.get("stdin").filter(|_| entry.runnable);
    is_marker(&fields)
        || stdin.is_some_and(|stdin| self::fields(stdin.get()).is_some_and(|f| is_marker(&f)))
}

type Fields = BTreeMap<String, Box<RawValue>>;

fn fields(json: &str) -> Option<Fields> {
    serde_json::from_str(json).ok()
}

/// Hosts cut requests of their own, so any truth counts.
fn is_marker(fields: &Fields) -> bool {
    let marker = fields.get("_truncated").map(|value| value.get());
    marker.is_some_and(|value| !matches!(value, "false" | "null" | "0" | "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Json;

    fn check(request: &str, runnable: bool, cut: bool) {
        let mut entry = Entry { runnable, ..Entry::default() };
        entry.operation.request_data = Json::object(request).unwrap();
        assert_eq!(is_cut(&entry), cut, "{request}");
    }

    #[test]
    fn a_marker_is_found_where_it_counts() {
        check("{}", false, false);
        check(r#"{"_truncated":true,"original_size":5,"preview":"_truncated"}"#, false, true);
        check(r#"{"_truncated":1}"#, false, true);
        check(r#"{"_truncated":false}"#, false, false);
        check(r#"{"_truncated":null}"#, false, false);
        check(r#"{"text":"_truncated"}"#, false, false);
        let stdin = r#"{"argv":["a"],"stdin":{"_truncated":true,"original_size":1,"preview":""}}"#;
        check(stdin, true, true);
        check(stdin, false, false);
    }
}
