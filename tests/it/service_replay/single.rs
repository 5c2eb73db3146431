//! Retry and force redrive: what they refuse, what they spend, what goes on record.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use deadletter::{
    Act, DlqError, EntryId, Error, Json, NewFailure, Outcome, Resolution, RetryResult, Status,
};

use super::{Picky, World, each, each_with, json};

/// Checks that a retry and a redrive conflict for this reason and leave the entry as it is.
fn check_conflict(world: &World, id: EntryId, reason: &str) {
    check_refused(world, id, reason, |world| world.service.retry_entry(id, None));
    check_refused(world, id, reason, |world| world.service.force_redrive_entry(id, "a", "b", ""));
}

fn check_refused(
    world: &World,
    id: EntryId,
    wanted: &str,
    call: impl Fn(&World) -> Result<RetryResult, DlqError>,
) {
    let before = world.get(id);
    match call(world) {
        Err(DlqError::StateConflict { id: told, status, reason }) => {
            assert!(reason.contains(wanted), "{reason}");
            assert_eq!(told, id.to_string());
            assert_eq!(status, before.operation.status.as_str());
        }
        other => panic!("{wanted}: {other:?}"),
    }
    assert_eq!(world.get(id), before);
}

/// An entry whose only attempt failed.
fn exhausted(world: &World) -> EntryId {
    let id = world.store(NewFailure::new("mail", "TIMEOUT").max_retries(1));
    let ran = world.fail();
    world.service.replay(None, None).unwrap();
    assert_eq!((world.status(id), ran.count()), (Status::RequiresReview, 1));
    world.take_events();
    id
}

#[test]
fn a_retry_succeeds_and_says_so() {
    each(|world| {
        let id = world.entry("mail");
        world.handle(|_| Outcome::Success { note: "sent".to_owned() });
        let act = Act { actor: "ann".to_owned(), reason: "asked for".to_owned(), ..Act::default() };
        let result = world.service.retry_entry(id, Some(&act)).unwrap();
        assert_eq!((result.success, result.id, result.status), (true, id, Status::Resolved));
        assert_eq!((result.previous_retry_count, result.retry_count), (0, 1));
        assert_eq!(result.message, "the handler succeeded: sent");
        let entry = world.get(id);
        let action = &entry.audit[0];
        assert_eq!(
            (&*action.actor, &*action.action, &*action.reason),
            ("ann", "retry", "asked for")
        );
        assert_eq!(world.event_names(), ["DLQ_REPLAY_COMPLETED"]);
    });
}

#[test]
fn a_retry_that_fails_is_a_result_and_ignores_the_delay() {
    each(|world| {
        let id = world.entry("mail");
        world.fail();
        let result = world.service.retry_entry(id, None).unwrap();
        assert_eq!((result.success, result.status), (false, Status::Pending));
        assert_eq!(result.message, "the handler failed: no route");
        assert!(world.get(id).not_before.is_some());
        let result = world.service.retry_entry(id, None).unwrap();
        assert_eq!((result.previous_retry_count, result.retry_count), (1, 2));
        assert_eq!(result.status, Status::RequiresReview);
        assert!(world.event_names().contains(&"DLQ_REPLAY_EXHAUSTED".to_owned()));
    });
}

#[test]
fn a_throttled_retry_is_not_charged() {
    each(|world| {
        let id = world.entry("mail");
        world.handle(|_| Outcome::throttled(Some(Duration::from_secs(5))));
        let result = world.service.retry_entry(id, None).unwrap();
        assert_eq!((result.success, result.retry_count), (false, 0));
        assert_eq!(result.message, "the handler was told to come back later");
    });
}

#[test]
fn nothing_is_found_or_done_where_there_is_nothing() {
    each(|world| {
        let id = EntryId(999);
        let not_found = |result| matches!(result, Err(DlqError::NotFound { id }) if id == "999");
        assert!(not_found(world.service.retry_entry(id, None)));
        assert!(not_found(world.service.force_redrive_entry(id, "", "", "")));
    });
    each_with(
        |config| config.enabled = false,
        |world| {
            let id = world.entry("mail");
            let ran = world.succeed();
            let refused = world.service.retry_entry(id, None).unwrap_err();
            assert_eq!(
                refused.to_string(),
                "the setting enabled is false, it must be true to replay entries"
            );
            assert!(matches!(refused, DlqError::Engine(Error::Invalid { .. })));
            assert!(world.service.force_redrive_entry(id, "", "", "").is_err());
            assert_eq!((ran.count(), world.status(id)), (0, Status::Pending));
        },
    );
}

#[test]
fn closed_entries_are_refused() {
    each(|world| {
        world.succeed();
        for (status, reason) in [
            (Status::Resolved, "it is closed"),
            (Status::Archived, "it is closed"),
            (Status::Rejected, "it is closed"),
            (Status::Expired, "it is closed"),
            (Status::PermanentlyFailed, "it is closed"),
            (Status::Reviewing, "only a pending entry"),
            (Status::Replayed, "only a pending entry"),
        ] {
            let id = world.entry("mail");
            world.repository.update_status(id, status, &Resolution::default(), None).unwrap();
            check_conflict(world, id, reason);
        }
    });
}

#[test]
fn an_entry_that_another_replay_holds_is_refused() {
    each(|world| {
        world.succeed();
        let id = world.entry("mail");
        let lease = Duration::from_mins(10);
        assert!(world.repository.try_acquire_for_replay(id, lease, false, None).unwrap().is_some());
        check_conflict(world, id, "another replay holds it");
        world.advance(601);
        assert!(world.service.retry_entry(id, None).unwrap().success, "its lease has ended");
    });
}

#[test]
fn the_gates_stand_before_persons_too() {
    each(|world| {
        let id = world.entry("mail");
        check_conflict(world, id, "its domain has no handler");
        let picky = Picky { refuses: true, ..Picky::default() };
        world.register("mail", picky);
        check_conflict(world, id, "closed on sundays");
        let cut = r#"{"_truncated":true,"original_size":5000000,"preview":"{"}"#;
        let id = world.store(NewFailure::new("mail", "X").request(Json::object(cut).unwrap()));
        check_conflict(world, id, "its request was cut");
        assert!(world.block_reasons().contains(&"request_data_truncated"));
    });
}

#[test]
fn a_retry_of_what_nobody_wants_resolves_it() {
    each(|world| {
        let id = world.entry("mail");
        let picky = Picky { unwanted: true, ..Picky::default() };
        let runs = Arc::clone(&picky.runs);
        world.register("mail", picky);
        let result = world.service.retry_entry(id, None).unwrap();
        assert_eq!((result.success, result.status), (true, Status::Resolved));
        assert_eq!((result.retry_count, runs.load(Ordering::SeqCst)), (0, 0));
    });
}

#[test]
fn a_panic_and_a_lost_lease_are_errors_of_the_replay() {
    each(|world| {
        let id = world.entry("mail");
        world.handle(|_| panic!("boom"));
        match world.service.retry_entry(id, None) {
            Err(DlqError::Replay { reason, .. }) => assert_eq!(reason, "handler panicked: boom"),
            other => panic!("{other:?}"),
        }
        let entry = world.get(id);
        assert_eq!((entry.operation.status, entry.operation.retry_count), (Status::Pending, 1));
        assert_eq!(entry.attempts[0].outcome, "failure");
        let clock = world.clock.clone();
        world.handle(move |_| {
            clock.advance(Duration::from_mins(31));
            Outcome::success()
        });
        match world.service.retry_entry(id, None) {
            Err(DlqError::Replay { reason, .. }) => assert!(reason.contains("lease"), "{reason}"),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_retry_at_the_cap_is_refused_and_a_redrive_is_not() {
    each(|world| {
        let id = exhausted(world);
        check_refused(world, id, "its attempts are used up", |world| {
            world.service.retry_entry(id, None)
        });
        let blocked = json(world.take_events().last().unwrap());
        assert_eq!(blocked["event"], "DLQ_REPLAY_BLOCKED");
        assert_eq!(blocked["block_reason"], "max_replay_attempts_exceeded");
        let ran = world.handle({
            let events = Arc::clone(&world.events);
            move |attempt| {
                let told = json(events.lock().unwrap().last().unwrap());
                assert_eq!(told["event"], "DLQ_FORCE_REDRIVE", "told before the handler runs");
                assert_eq!(attempt.number(), 2);
                Outcome::success()
            }
        });
        let ticket = "https://tickets.example/7";
        let result = world.service.force_redrive_entry(id, "ann", "dns fixed", ticket).unwrap();
        assert_eq!((result.success, result.status), (true, Status::Resolved), "{result:?}");
        assert_eq!((result.previous_retry_count, result.retry_count), (1, 1));
        assert_eq!(ran.count(), 1);
        let event = json(&world.take_events()[0]);
        assert_eq!(event["actor_id"], "ann");
        assert_eq!((&event["reason"], &event["ticket_url"]), (&"dns fixed".into(), &ticket.into()));
        assert_eq!(event["previous_total_retries"], 1);
        let entry = world.get(id);
        assert_eq!((entry.previous_total_retries, entry.force_redrive_count), (1, 1));
        let action = entry.audit.last().unwrap();
        assert_eq!((&*action.action, &*action.ticket), ("force_redrive", ticket));
        assert_eq!((action.from, action.to), (Status::RequiresReview, Status::Replaying));
    });
}

#[test]
fn a_redriven_entry_that_still_fails_comes_back_to_a_person() {
    each(|world| {
        let id = world.store(NewFailure::new("mail", "TIMEOUT"));
        let ran = world.fail();
        for round in 1..=3 {
            world.service.replay(None, None).unwrap();
            world.advance(7200);
            world.service.replay(None, None).unwrap();
            assert_eq!(world.status(id), Status::RequiresReview);
            world.take_events();
            let result = world.service.force_redrive_entry(id, "ann", "", "").unwrap();
            assert_eq!((result.success, result.retry_count), (false, 1));
            assert_eq!(result.status, Status::Pending);
            let entry = world.get(id);
            assert_eq!(
                (entry.previous_total_retries, entry.force_redrive_count),
                (2 * round, round)
            );
            world.advance(7200);
        }
        world.service.replay(None, None).unwrap();
        let events = world.take_events();
        let redriven: Vec<_> = events.iter().map(json).filter(|e| e["redriven"] == true).collect();
        assert_eq!(redriven.len(), 1);
        assert_eq!(ran.count(), 2 + 3 + 2 + 1, "a cap of two, three more chances");
    });
}

#[test]
fn reasons_and_tickets_have_bounds() {
    each(|world| {
        let id = exhausted(world);
        let long = "\u{fc}".repeat(501);
        for (reason, ticket) in [(&*long, ""), ("", &*long)] {
            let refused = world.service.force_redrive_entry(id, "ann", reason, ticket);
            assert!(matches!(refused, Err(DlqError::Engine(Error::Invalid { .. }))));
        }
        assert_eq!(world.status(id), Status::RequiresReview);
        let most = "\u{fc}".repeat(500);
        assert!(world.service.force_redrive_entry(id, "ann", &most, &most).is_ok());
    });
}

#[test]
fn a_redrive_is_on_record_even_if_the_handler_panics() {
    each(|world| {
        let id = exhausted(world);
        world.handle(|_| panic!("boom"));
        let result = world.service.force_redrive_entry(id, "ann", "try", "");
        assert!(matches!(result, Err(DlqError::Replay { .. })));
        assert_eq!(
            world.event_names(),
            ["DLQ_FORCE_REDRIVE", "DLQ_REPLAY_FAILED", "DLQ_REPLAY_EXHAUSTED"]
        );
        let entry = world.get(id);
        assert_eq!(entry.audit.last().unwrap().actor, "ann");
        assert_eq!(entry.operation.status, Status::RequiresReview);
    });
}
