//! An entry in and out: prepared, exported, imported, filtered, shown.

use std::sync::Arc;

use super::*;

const REQUEST: &str = concat!(
    r#"{ "price" : 1.50,"price":1e2, "t":"\u00e9\/", "#,
    r#""big":123456789012345678901234567890 }"#
);

fn json(text: &str) -> Json {
    Json::parse(text).unwrap()
}

fn attempt(number: u32) -> Attempt {
    Attempt {
        number,
        at: Timestamp(5),
        outcome: "failure".to_owned(),
        note: "secret note".to_owned(),
    }
}

fn action() -> Action {
    Action {
        at: Timestamp(6),
        actor: "ana".to_owned(),
        action: "resolve".to_owned(),
        reason: "secret reason".to_owned(),
        ticket: String::new(),
        from: Status::Pending,
        to: Status::Resolved,
    }
}

/// An entry in which every field differs from its default.
fn entry() -> Entry {
    Entry {
        operation: FailedOperation {
            id: EntryId(7),
            domain: "orders".to_owned(),
            failure_type: "PG_TIMEOUT".to_owned(),
            status: Status::Resolved,
            entity_type: Some("order".to_owned()),
            entity_id: Some("42".to_owned()),
            entity_refs: json("{\"secret\": [1]}"),
            user_id: Some(-3),
            snapshot_data: json("{\"secret\": 2}"),
            error_code: "E1".to_owned(),
            error_message: "secret message".to_owned(),
            retry_count: 1,
            max_retries: 4,
            last_retry_at: Some(Timestamp(1000)),
            request_data: json(REQUEST),
            response_data: json("{\"secret\": 3.0}"),
            metadata: json("{\"secret\":  4}"),
            resolved_at: Some(Timestamp(2000)),
            resolved_by_id: Some(0),
            resolution_type: "manual".to_owned(),
            resolution_note: "secret".to_owned(),
            next_action_hint: "secret hint".to_owned(),
            recommended_action: "replay".to_owned(),
            created_at: Timestamp(500),
            updated_at: Timestamp(2001),
            expires_at: Some(Timestamp(9000)),
        },
        key: "secret key".to_owned(),
        original_domain: Some("Secret Orders".to_owned()),
        runnable: true,
        not_before: Some(Timestamp(600)),
        archived_at: Some(Timestamp(3000)),
        lease: Some(Lease { token: 9, deadline: Timestamp(4000) }),
        attempts: vec![attempt(1)],
        attempts_older: 2,
        audit: vec![action()],
        audit_older: 3,
        terminal_at: Some(Timestamp(2000)),
        previous_total_retries: 4,
        force_redrive_count: 1,
    }
}

#[test]
fn an_entry_survives_json_and_binary_byte_for_byte() {
    let entry = entry();
    let line = serde_json::to_string(&entry).unwrap();
    assert!(line.contains(REQUEST), "{line}");
    assert!(line.starts_with("{\"id\":\"7\",\"domain\":\"orders\""), "{line}");
    assert!(!line.contains('\n'));
    assert_eq!(serde_json::from_str::<Entry>(&line).unwrap(), entry);
    assert_eq!(serde_json::from_reader::<_, Entry>(line.as_bytes()).unwrap(), entry);
    let bytes = bincode::serialize(&entry).unwrap();
    assert_eq!(bincode::deserialize::<Entry>(&bytes).unwrap(), entry);
    let operation = serde_json::to_string(&entry.operation).unwrap();
    assert_eq!(serde_json::from_str::<FailedOperation>(&operation).unwrap(), entry.operation);
}

#[test]
fn an_exported_line_can_be_imported() {
    let entry = entry();
    let line = serde_json::to_string(&entry).unwrap();
    let failure: NewFailure = serde_json::from_str(&line).unwrap();
    assert_eq!(failure.request_data.as_str(), REQUEST);
    assert_eq!(failure.key.as_deref(), Some("secret key"));
    assert_eq!(failure.original_domain, entry.original_domain);
    assert_eq!(failure.created_at, Some(Timestamp(500)));
    assert!(!failure.runnable, "leave to run holds only for the store that gave it");
    let state = State { lease: None, ..entry.state() };
    assert_eq!(failure.state.as_deref(), Some(&state));
    assert_eq!(failure.first_state(Timestamp(77), 2), state);

    let mut replaying = entry;
    replaying.operation.status = Status::Replaying;
    replaying.attempts = (1..=20).map(attempt).collect();
    let line = serde_json::to_string(&replaying).unwrap();
    let state = serde_json::from_str::<NewFailure>(&line).unwrap().state.unwrap();
    assert_eq!(state.status, Status::Pending);
    assert_eq!((state.attempts.len(), state.attempts_older), (8, 14));
    assert_eq!(state.attempts[0].number, 13);
}

#[test]
fn a_short_line_is_a_new_failure() {
    let text = r#"{"domain":"a","failure_type":"X","max_retries":3,"user_id":null,"lease":null,
        "recommended_action":"replay","expires_at":"1970-01-01T00:00:09Z","id":12}"#;
    let failure: NewFailure = serde_json::from_str(text).unwrap();
    let wanted =
        NewFailure::new("a", "X").max_retries(3).action("replay").expires_at(Timestamp(9000));
    assert_eq!(failure, wanted);
    let state = failure.first_state(Timestamp(5), 2);
    assert_eq!((state.max_retries, state.updated_at), (3, Timestamp(5)));
    assert_eq!(state.expires_at, Some(Timestamp(9000)));
    assert_eq!(state.recommended_action, "replay");

    let text = r#"{"domain":"a","failure_type":"X","status":"rejected"}"#;
    let failure: NewFailure = serde_json::from_str(text).unwrap();
    let state = failure.first_state(Timestamp(5), 2);
    assert_eq!((state.status, state.max_retries), (Status::Rejected, 2));
    assert_eq!(state.updated_at, Timestamp(5));
}

#[test]
fn a_wrong_line_is_refused_by_the_name_of_the_field() {
    for (fields, name) in [
        ("\"failure_type\":\"X\"", "domain"),
        ("\"domain\":\"a\"", "failure_type"),
        ("\"domain\":\"a\",\"failure_type\":\"X\",\"requestdata\":{}", "requestdata"),
        ("\"domain\":\"a\",\"failure_type\":\"X\",\"request_data\":[]", "request_data"),
        ("\"domain\":\"a\",\"failure_type\":\"X\",\"metadata\":null", "metadata"),
        ("\"domain\":\"a\",\"failure_type\":\"X\",\"entity_refs\":1", "entity_refs"),
        ("\"domain\":\"a\",\"failure_type\":\"X\",\"key\":\"1\",\"key\":\"2\"", "key"),
        ("\"domain\":\"a\",\"failure_type\":\"X\",\"status\":\"lost\"", "lost"),
    ] {
        let refused = serde_json::from_str::<NewFailure>(&format!("{{{fields}}}"));
        let message = refused.unwrap_err().to_string();
        assert!(message.contains(name), "{message}");
    }
}

/// Prepares a request of this size under a limit and says whether it was kept.
fn check_limit(bytes: usize, bytes_max: u64, kept: bool) {
    let text = format!("{{\"a\":\"{}\"}}", "x".repeat(bytes - 8));
    assert_eq!(text.len(), bytes);
    let limits = Limits { request_data_max_bytes: bytes_max, field_max_bytes: 256 };
    let mut failure = NewFailure::new("a", "X").request(json(&text)).entity_refs(json(&text));
    failure.prepare(&limits, &Redaction::default()).unwrap();
    assert_eq!(failure.request_data.as_str() == text, kept);
    assert_eq!(failure.request_data.is_truncated_marker(), !kept);
    assert_eq!(failure.entity_refs.as_str(), text, "entity_refs has no limit");
    let once = failure.clone();
    failure.prepare(&limits, &Redaction::default()).unwrap();
    assert_eq!(failure, once);
}

#[test]
fn a_field_is_kept_up_to_its_limit() {
    check_limit(256, 256, true);
    check_limit(257, 256, false);
    check_limit(5000, 5000, true);
    check_limit(5001, 5000, false);
}

#[test]
fn a_marker_tells_the_size_and_the_beginning() {
    let text = format!("{{\"a\":\"{}\"}}", "x".repeat(992));
    let fields = NewFailure::new("a", "X");
    let mut failure = fields.snapshot(json(&text)).response(json(&text)).metadata(json(&text));
    let limits = Limits { request_data_max_bytes: 256, field_max_bytes: 999 };
    failure.prepare(&limits, &Redaction::default()).unwrap();
    let preview = format!("{{\\\"a\\\":\\\"{}", "x".repeat(194));
    let marker =
        format!("{{\"_truncated\":true,\"original_size\":1000,\"preview\":\"{preview}\"}}");
    assert_eq!(failure.snapshot_data.as_str(), marker);
    assert_eq!(failure.response_data.as_str(), marker);
    assert_eq!(failure.metadata.as_str(), marker);
}

#[test]
fn what_cannot_be_stored_is_refused() {
    let long = "k".repeat(513);
    let array = Json::parse("[1]").unwrap();
    for (failure, field) in [
        (NewFailure::new("a", ""), "failure_type"),
        (NewFailure::new("a", "X").key(""), "key"),
        (NewFailure::new("a", "X").key(long.as_str()), "key"),
        (NewFailure::new("a", "X").request(array.clone()), "request_data"),
        (NewFailure::new("a", "X").entity_refs(array), "entity_refs"),
        (NewFailure::new("a", "X").expires_at(Timestamp(u64::MAX)), "expires_at"),
    ] {
        let mut prepared = failure.clone();
        let refused = prepared.prepare(&Limits::default(), &Redaction::default());
        let Err(Error::Invalid { what, value, .. }) = refused else { panic!("{field} passed") };
        assert_eq!(what, field);
        assert!(!value.contains("kkk"), "the key is not shown");
        assert_eq!(prepared, failure);
    }
    let mut longest = NewFailure::new("a", "X").key("k".repeat(512));
    longest.prepare(&Limits::default(), &Redaction::default()).unwrap();
}

#[test]
fn a_bad_domain_is_replaced_and_remembered() {
    let prepare = |mut failure: NewFailure| {
        failure.prepare(&Limits::default(), &Redaction::default()).unwrap();
        (failure.domain, failure.original_domain)
    };
    assert_eq!(prepare(NewFailure::new(" Orders ", "X")), ("orders".to_owned(), None));
    let bad = NewFailure::new("No Domain!", "X");
    let replaced = (OTHER_DOMAIN.to_owned(), Some("No Domain!".to_owned()));
    assert_eq!(prepare(bad.clone()), replaced);
    let imported = NewFailure { original_domain: Some("first".to_owned()), ..bad };
    assert_eq!(prepare(imported), (OTHER_DOMAIN.to_owned(), Some("first".to_owned())));
}

#[test]
fn redaction_comes_before_the_limits() {
    let secret = format!("{{\"Token\":\"hunter2{}\"}}", "x".repeat(1000));
    let limits = Limits { request_data_max_bytes: 256, field_max_bytes: 256 };
    let redaction = Redaction {
        deny_keys: vec!["token".to_owned()],
        hook: Some(Arc::new(|failure: &mut NewFailure| failure.error_message.clear())),
    };
    let mut failure = NewFailure::new("a", "X").error("E", "secret").request(json(&secret));
    failure.prepare(&limits, &redaction).unwrap();
    assert_eq!(failure.request_data.as_str(), "{\"Token\":\"[redacted]\"}");
    assert_eq!(failure.error_message, "");
}

#[test]
fn a_state_keeps_the_last_and_counts_the_rest() {
    let mut state = State::new(Timestamp(1), 2);
    assert_eq!((state.status, state.max_retries), (Status::Pending, 2));
    for number in 1..=20 {
        state.push_attempt(attempt(number));
        state.push_action(action());
    }
    assert_eq!((state.attempts.len(), state.attempts_older), (ATTEMPTS_KEPT, 12));
    assert_eq!((state.attempts[0].number, state.attempts[7].number), (13, 20));
    assert_eq!((state.audit.len(), state.audit_older), (ACTIONS_KEPT, 4));
}

#[test]
fn a_state_can_be_taken_out_and_put_back() {
    let full = entry();
    let mut other = entry();
    other.set_state(State::new(Timestamp(1), 2));
    assert_eq!(other.state(), State::new(Timestamp(1), 2));
    assert_eq!(other.operation.request_data, full.operation.request_data);
    other.set_state(full.state());
    assert_eq!(other, full);
}

#[test]
fn a_filter_means_all_that_it_does_not_exclude() {
    let entry = entry();
    let all = Filter::default();
    let time = |ms| Some(Timestamp(ms));
    for (filter, wanted) in [
        (all.clone(), true),
        (Filter { status: Some(Status::Resolved), ..all.clone() }, true),
        (Filter { status: Some(Status::Pending), ..all.clone() }, false),
        (Filter { domain: Some("orders".to_owned()), ..all.clone() }, true),
        (Filter { domain: Some("order".to_owned()), ..all.clone() }, false),
        (Filter { failure_type: Some("PG_TIMEOUT".to_owned()), ..all.clone() }, true),
        (Filter { failure_type: Some("pg_timeout".to_owned()), ..all.clone() }, false),
        (Filter { created_from: time(500), created_to: time(500), ..all.clone() }, true),
        (Filter { created_from: time(501), ..all.clone() }, false),
        (Filter { created_to: time(499), ..all }, false),
    ] {
        assert_eq!(entry.matches(&filter), wanted, "{filter:?}");
    }
}

#[test]
fn debug_never_shows_payloads() {
    let entry = entry();
    let line = serde_json::to_string(&entry).unwrap();
    let failure: NewFailure = serde_json::from_str(&line).unwrap();
    for text in [format!("{entry:?}"), format!("{:?}", entry.operation), format!("{failure:?}")] {
        assert!(text.contains("PG_TIMEOUT") && text.contains("orders"), "{text}");
        assert!(!text.to_lowercase().contains("secret") && !text.contains("price"), "{text}");
    }
}

#[test]
fn what_a_state_hangs_on_goes_by_its_status() {
    let (made, then) = (Timestamp(5), Timestamp(7));
    for status in Status::ALL {
        let mut state = State::new(made, 3);
        state.status = status;
        assert_eq!(state.age_from(), status.has_age().then_some(made), "as good as known");
        state.set_when(Some(then));
        assert_eq!(state.age_from().or(state.not_before), Some(then), "{status}");
        assert_eq!(state.age_from().is_some(), status.has_age());
        state.set_when(None);
        assert_eq!(state.age_from(), status.has_age().then_some(then), "none is not known");
        assert_eq!(state.not_before, None);
    }
}
