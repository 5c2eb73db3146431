//! One entry on its way through a replay: gates, outcomes, notes, delays, leases.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadletter::{
    AUTO_REPLAY, Cause, DUPLICATE_SKIP, DlqBatchReplayStats, DlqEvent, Json, NewFailure, Outcome,
    Resolution, Skip, Status, Timestamp,
};

use super::{Picky, World, each, each_with, json};

const CUT: &str = r#"{"_truncated":true,"original_size":5000000,"preview":"{"}"#;

/// Replays once and checks the four counts.
fn replay(world: &World, wanted: [u64; 4]) -> DlqBatchReplayStats {
    let stats = world.service.replay(None, None).unwrap();
    let counts = [stats.success, stats.failed, stats.skipped, stats.throttled];
    assert_eq!(counts, wanted, "success, failed, skipped, throttled of {stats:?}");
    assert_eq!(stats.processed, wanted.iter().sum::<u64>());
    world.check_settled();
    stats
}

fn causes(world: &World, cause: Cause) -> u64 {
    let rows = world.repository.tallies().unwrap();
    rows.iter().filter_map(|row| row.counts.get(&cause)).sum()
}

#[test]
fn a_success_resolves_with_its_note() {
    each(|world| {
        let failure = NewFailure::new("mail", "TIMEOUT").error("E1", "no answer");
        let id = world.store(failure);
        let ran = world.handle(|_| Outcome::Success { note: "took 3 s".to_owned() });
        replay(world, [1, 0, 0, 0]);
        assert_eq!(ran.ids(), [id]);
        let entry = world.get(id);
        assert_eq!(entry.operation.status, Status::Resolved);
        assert_eq!(entry.operation.resolution_type, AUTO_REPLAY);
        assert_eq!(entry.operation.resolution_note, "took 3 s");
        assert_eq!(entry.operation.error_message, "no answer", "the original is never touched");
        assert_eq!(
            (&*entry.attempts[0].outcome, &*entry.attempts[0].note),
            ("success", "took 3 s")
        );
        let names = ["DLQ_REPLAY_COMPLETED", "DLQ_REPLAY_BATCH_COMPLETED"];
        assert_eq!(world.event_names(), names);
    });
}

#[test]
fn the_events_carry_the_keys_of_the_reference() {
    each(|world| {
        let id = world.store(NewFailure::new("mail", "TIMEOUT").max_retries(1));
        world.fail();
        replay(world, [0, 1, 0, 0]);
        let events = world.take_events();
        let completed = json(&events[0]);
        assert_eq!(completed["dlq_id"], id.to_string());
        assert_eq!(completed["success"], false);
        assert_eq!(completed["replay_attempt"], 1);
        let exhausted = json(&events[1]);
        assert_eq!(exhausted["event"], "DLQ_REPLAY_EXHAUSTED");
        assert_eq!(exhausted["redriven"], false);
        let batch = json(&events[2]);
        assert_eq!((&batch["total"], &batch["failed_count"]), (&1.into(), &1.into()));
    });
}

#[test]
fn a_long_note_is_cut_and_the_rest_of_the_entry_stays() {
    each(|world| {
        let id = world.entry("mail");
        world.handle(|_| Outcome::failure("\u{fc}".repeat(5000)));
        let stats = replay(world, [0, 1, 0, 0]);
        let entry = world.get(id);
        assert_eq!(entry.operation.resolution_note.len(), 4096);
        assert_eq!(entry.attempts[0].note.len(), 4096);
        assert!(stats.errors[0].chars().count() < 250, "{}", stats.errors[0]);
    });
}

#[test]
fn a_disabled_service_does_nothing() {
    each_with(
        |config| config.enabled = false,
        |world| {
            world.entry("mail");
            let ran = world.succeed();
            let stats = world.service.replay(None, None).unwrap();
            assert_eq!(stats, DlqBatchReplayStats::default());
            assert_eq!(ran.count(), 0);
            assert_eq!(world.event_names(), [""; 0]);
        },
    );
}

#[test]
fn a_cut_request_is_replayed_when_the_settings_allow_it() {
    each_with(
        |config| config.truncate_blocks_replay = false,
        |world| {
            world.store(NewFailure::new("mail", "X").request(Json::object(CUT).unwrap()));
            world.succeed();
            replay(world, [1, 0, 0, 0]);
        },
    );
}

#[test]
fn a_cut_input_of_a_captured_command_blocks_it() {
    each(|world| {
        let request = format!(r#"{{"argv":["rsync"],"stdin":{CUT}}}"#);
        let failure = NewFailure::new("rsync", "EXIT_1").request(Json::object(request).unwrap());
        world.store(failure.runnable(true));
        world.succeed();
        let stats = replay(world, [0, 0, 1, 0]);
        assert_eq!(stats.skip_reasons[&Skip::RequestDataTruncated], 1);
    });
}

#[test]
fn what_nobody_wants_is_resolved_without_a_run() {
    each(|world| {
        let id = world.entry("mail");
        let handler = Picky { unwanted: true, ..Picky::default() };
        let runs = Arc::clone(&handler.runs);
        world.register("mail", handler);
        let stats = replay(world, [0, 0, 1, 0]);
        assert_eq!(stats.skip_reasons[&Skip::DuplicateSkip], 1);
        assert_eq!(runs.load(Ordering::SeqCst), 0);
        let entry = world.get(id);
        assert_eq!(entry.operation.status, Status::Resolved);
        assert_eq!(entry.operation.resolution_type, DUPLICATE_SKIP);
        assert_eq!((entry.operation.retry_count, entry.attempts.len()), (0, 0));
        assert_eq!(causes(world, Cause::Unwanted), 1);
        assert_eq!(world.event_names()[0], "DLQ_REPLAY_SKIPPED");
    });
}

#[test]
fn a_panic_spends_the_attempt_and_stops_nobody() {
    each(|world| {
        let ids = world.entries("mail", 5);
        let bad = ids[2];
        world.handle(move |attempt| {
            assert!(attempt.entry().operation.id != bad, "boom {}", "x".repeat(1000));
            Outcome::success()
        });
        let stats = replay(world, [4, 1, 0, 0]);
        assert!(stats.errors[0].contains("handler panicked: boom xxx"), "{:?}", stats.errors);
        let entry = world.get(bad);
        assert_eq!(entry.operation.retry_count, 1);
        assert_eq!(entry.attempts[0].outcome, "failure");
        let note = &entry.operation.resolution_note;
        assert_eq!(note.len(), "handler panicked: ".len() + 200, "{note}");
        let told = world.take_events();
        let told = told.iter().map(json).filter(|event| event["dlq_id"] == *bad.to_string());
        let failed: Vec<_> = told.collect();
        assert_eq!(failed.len(), 1, "no completion is told of a panic");
        assert_eq!(failed[0]["event"], "DLQ_REPLAY_FAILED");
        assert_eq!(failed[0]["error_message"].as_str().unwrap().len(), 200);
    });
}

#[test]
fn a_panic_when_a_handler_is_asked_spends_nothing() {
    each(|world| {
        let id = world.entry("mail");
        world.register("mail", Picky { panics: true, ..Picky::default() });
        let stats = replay(world, [0, 0, 1, 0]);
        assert_eq!(stats.skip_reasons[&Skip::HandlerPanicked], 1);
        assert!(stats.errors[0].contains("asked at the wrong time"), "{:?}", stats.errors);
        assert_eq!(world.get(id).attempts, []);
        assert_eq!(world.block_reasons(), ["handler_panicked"]);
    });
}

#[test]
fn the_delay_doubles_with_every_failure() {
    each(|world| {
        let id = world.store(NewFailure::new("mail", "TIMEOUT").max_retries(10));
        world.fail();
        let mut delays = Vec::new();
        for minutes in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            let begin = world.repository.now();
            let stats = replay(world, [0, 1, 0, 0]);
            let due = world.get(id).not_before.unwrap();
            let delay_ms = due.0 - begin.0;
            let even_ms = minutes * 60_000;
            assert!((even_ms * 4 / 5..=even_ms * 6 / 5).contains(&delay_ms), "{delay_ms}");
            assert_eq!((stats.remaining, stats.next_due), (0, Some(due)));
            delays.push(delay_ms * 60 / even_ms);
            world.clock.advance(Duration::from_millis(delay_ms - 1));
            replay(world, [0, 0, 0, 0]);
            world.clock.advance(Duration::from_millis(1));
        }
        delays.dedup();
        assert!(delays.len() > 2, "the delays are spread: {delays:?}");
    });
}

#[test]
fn an_entry_brings_its_own_delay() {
    each(|world| {
        let metadata = Json::object(r#"{"retry_delay_s":5}"#).unwrap();
        let id = world.store(NewFailure::new("rsync", "EXIT_1").metadata(metadata));
        world.fail();
        let begin = world.repository.now();
        replay(world, [0, 1, 0, 0]);
        let delay_ms = world.get(id).not_before.unwrap().0 - begin.0;
        assert!((4000..=6000).contains(&delay_ms), "{delay_ms}");
    });
}

#[test]
fn a_throttled_attempt_is_not_charged_and_waits_as_told() {
    each(|world| {
        let id = world.entry("mail");
        world.handle(|_| Outcome::throttled(Some(Duration::from_secs(90))));
        for number in 1..=20 {
            let begin = world.repository.now();
            replay(world, [0, 0, 0, 1]);
            let entry = world.get(id);
            assert_eq!((entry.operation.status, entry.operation.retry_count), (Status::Pending, 0));
            assert_eq!(entry.not_before, Some(Timestamp(begin.0 + 90_000)));
            assert_eq!(entry.attempts.last().unwrap().number, number);
            world.advance(89);
            replay(world, [0, 0, 0, 0]);
            world.advance(1);
        }
        world.handle(|_| Outcome::throttled(None));
        let begin = world.repository.now();
        replay(world, [0, 0, 0, 1]);
        let delay_ms = world.get(id).not_before.unwrap().0 - begin.0;
        assert!((48_000..=72_000).contains(&delay_ms), "the first delay, not doubled: {delay_ms}");
        let events = world.take_events();
        let told = events.iter().filter(|e| matches!(e, DlqEvent::DlqReplayThrottled { .. }));
        assert_eq!(told.count(), 21);
    });
}

#[test]
fn an_entry_that_always_fails_goes_to_a_person_after_exactly_its_cap() {
    for cap in 1..=5 {
        each(|world| {
            let id = world.store(NewFailure::new("mail", "TIMEOUT").max_retries(cap));
            let ran = world.fail();
            for _ in 0..cap + 3 {
                world.service.replay(None, None).unwrap();
                world.check_settled();
                world.advance(7200);
            }
            assert_eq!(ran.count(), cap as usize);
            let entry = world.get(id);
            assert_eq!(entry.operation.status, Status::RequiresReview);
            assert_eq!(entry.operation.retry_count, cap);
            assert_eq!(causes(world, Cause::Exhausted), 1);
            let names = world.event_names();
            assert_eq!(names.iter().filter(|name| *name == "DLQ_REPLAY_EXHAUSTED").count(), 1);
        });
    }
}

#[test]
fn a_handler_that_outlives_its_lease_is_refused_and_its_entry_runs_again() {
    each(|world| {
        let id = world.entry("mail");
        let (clock, first) = (world.clock.clone(), AtomicUsize::new(0));
        let ran = world.handle(move |attempt| {
            if first.fetch_add(1, Ordering::SeqCst) == 0 {
                clock.advance(Duration::from_mins(31));
                assert!(!attempt.heartbeat());
            }
            Outcome::success()
        });
        let stats = world.service.replay(None, None).unwrap();
        assert_eq!((stats.success, stats.failed, stats.skipped), (0, 0, 1));
        assert_eq!(stats.skip_reasons[&Skip::LeaseLost], 1);
        assert!(stats.errors[0].contains("its result is not taken"), "{:?}", stats.errors);
        assert_eq!(world.status(id), Status::Replaying);
        assert_eq!(world.block_reasons(), ["lease_lost"]);
        replay(world, [1, 0, 0, 0]);
        assert_eq!(ran.count(), 2);
        let entry = world.get(id);
        assert_eq!(entry.operation.status, Status::Resolved);
        assert_eq!(entry.operation.retry_count, 2, "the lost attempt stays charged");
        assert_eq!(entry.attempts[0].outcome, "interrupted");
    });
}

#[test]
fn a_heartbeat_keeps_a_slow_handler_in_its_right() {
    each(|world| {
        world.entry("mail");
        let clock = world.clock.clone();
        world.handle(move |attempt| {
            for _ in 0..4 {
                clock.advance(Duration::from_mins(20));
                assert!(attempt.heartbeat());
            }
            Outcome::success()
        });
        replay(world, [1, 0, 0, 0]);
    });
}

#[test]
fn entries_that_wait_behind_slow_handlers_keep_their_leases() {
    each(|world| {
        world.entries("mail", 6);
        let clock = world.clock.clone();
        world.handle(move |_| {
            clock.advance(Duration::from_mins(20));
            Outcome::success()
        });
        replay(world, [6, 0, 0, 0]);
    });
}

#[test]
fn an_operator_who_resolves_beats_a_running_handler() {
    each(|world| {
        let id = world.entry("mail");
        let repository = Arc::clone(&world.repository);
        world.handle(move |attempt| {
            let id = attempt.entry().operation.id;
            let by_hand = Resolution::new("manual", "done by phone");
            assert!(repository.mark_as_resolved(id, &by_hand, None).unwrap());
            Outcome::failure("too late")
        });
        let stats = replay(world, [0, 0, 1, 0]);
        assert_eq!(stats.skip_reasons[&Skip::LeaseLost], 1);
        let entry = world.get(id);
        assert_eq!(entry.operation.status, Status::Resolved);
        assert_eq!(entry.operation.resolution_type, "manual");
    });
}

#[test]
fn key_and_number_name_an_attempt_for_good() {
    each(|world| {
        let id = world.store(NewFailure::new("mail", "TIMEOUT").key("order-7"));
        let seen: Arc<Mutex<Vec<(String, u32)>>> = Arc::default();
        let saw = Arc::clone(&seen);
        world.handle(move |attempt| {
            saw.lock().unwrap().push((attempt.key().to_owned(), attempt.number()));
            Outcome::failure("no")
        });
        replay(world, [0, 1, 0, 0]);
        world.advance(7200);
        replay(world, [0, 1, 0, 0]);
        assert_eq!(world.status(id), Status::RequiresReview);
        world.service.force_redrive_entry(id, "ann", "fixed", "").unwrap();
        world.service.retry_entry(id, None).unwrap();
        assert_eq!(world.status(id), Status::RequiresReview);
        world.service.force_redrive_entry(id, "ann", "fixed again", "").unwrap();
        let seen = seen.lock().unwrap().clone();
        assert_eq!(seen, (1..=5).map(|n| ("order-7".to_owned(), n)).collect::<Vec<_>>());
    });
}
