//! Ending attempts: outcomes, whose completion counts, one attempt after the other.

use std::time::Duration;

use deadletter::{Act, Completion, Leased, ReplayType, Resolution, Status, Timestamp};

use super::{
    Fixture, LEASE, UNKNOWN, act, delivered, each, expect_lost, failed, failure, outcomes,
    throttled,
};

#[test]
fn success_resolves() {
    each(|f| {
        let ids = f.stored(2);
        let leased = f.acquire(ids[0]);
        f.advance_ms(7);
        let entry = f.complete_replay(leased, &delivered()).unwrap();
        assert_eq!(entry, f.get(ids[0]));
        let operation = &entry.operation;
        assert_eq!((operation.status, operation.retry_count), (Status::Resolved, 1));
        assert_eq!((operation.resolved_at, operation.updated_at), (Some(f.now()), f.now()));
        assert_eq!(operation.resolution_type, "auto_replay");
        assert_eq!((operation.resolution_note.as_str(), entry.lease.as_ref()), ("", None));
        assert_eq!((outcomes(&entry), entry.terminal_at), (vec!["success"], Some(f.now())));
        let leased = f.acquire(ids[1]);
        let (note, resolution_type) = ("sent as 7".to_owned(), "manual_fix".to_owned());
        let completion = Completion::Success { note, resolution_type };
        let entry = f.complete_replay(leased, &completion).unwrap();
        assert_eq!(entry.operation.resolution_type, "manual_fix");
        assert_eq!(entry.operation.resolution_note, "sent as 7");
        assert_eq!(entry.attempts[0].note, "sent as 7");
    });
}

#[test]
fn failure_waits_and_then_goes_to_a_person_at_the_cap() {
    each(|f| {
        let id = f.store(failure().max_retries(3));
        let not_before = Some(Timestamp(f.now().0 + 60_000));
        for attempt in 1..=3 {
            let leased = f.acquire(id);
            let completion = Completion::Failure { note: format!("no {attempt}"), not_before };
            let entry = f.complete_replay(leased, &completion).unwrap();
            let operation = &entry.operation;
            assert_eq!(operation.retry_count, attempt);
            assert_eq!(operation.resolution_note, format!("no {attempt}"));
            assert_eq!(operation.error_message, "canceled", "the first error stays");
            assert_eq!(operation.resolved_at, None);
            if attempt < 3 {
                assert_eq!((operation.status, entry.not_before), (Status::Pending, not_before));
            } else {
                assert_eq!((operation.status, entry.not_before), (Status::RequiresReview, None));
            }
        }
        f.reopen();
        let entry = f.get(id);
        assert_eq!(outcomes(&entry), ["failure"; 3]);
        assert_eq!(entry.attempts[1].note, "no 2");
        assert_eq!(f.find_replayable(None, None, 10).unwrap(), []);
        assert!(f.acquire_batch(&[id], LEASE).unwrap().is_empty());
    });
}

#[test]
fn being_throttled_spends_nothing_and_is_on_record() {
    each(|f| {
        let id = f.store(failure().max_retries(1));
        let not_before = Some(Timestamp(f.now().0 + 9));
        for number in 1..=3 {
            let leased = f.acquire(id);
            let completion = Completion::Throttled { note: "busy".to_owned(), not_before };
            let entry = f.complete_replay(leased, &completion).unwrap();
            assert_eq!((entry.operation.status, entry.operation.retry_count), {
                (Status::Pending, 0)
            });
            assert_eq!((entry.not_before, entry.lease.as_ref()), (not_before, None));
            assert_eq!(entry.attempts.last().unwrap().number, number);
        }
        let entry = f.fail(id);
        assert_eq!(entry.operation.status, Status::RequiresReview);
        assert_eq!(outcomes(&entry), ["throttled", "throttled", "throttled", "failure"]);
        let (leased, _) = f.try_acquire_for_replay(id, LEASE, true, None).unwrap().unwrap();
        f.complete_replay(leased, &throttled()).unwrap();
        assert_eq!(f.status(id), Status::Pending);
    });
}

/// With a cap of nothing even an attempt that was not charged leaves nothing to try.
#[test]
fn a_throttled_entry_without_budget_goes_back_to_review() {
    each(|f| {
        let id = f.store(failure().max_retries(0));
        let (leased, _) = f.try_acquire_for_replay(id, LEASE, true, None).unwrap().unwrap();
        let entry = f.complete_replay(leased, &throttled()).unwrap();
        assert_eq!((entry.operation.status, entry.operation.retry_count), {
            (Status::RequiresReview, 0)
        });
    });
}

#[test]
fn a_completion_needs_the_lease_and_counts_once() {
    each(|f| {
        let ids = f.stored(2);
        let leased = f.acquire(ids[0]);
        let before = f.get(ids[0]);
        f.advance_ms(1);
        let foreign = f.acquire(ids[1]);
        expect_lost(f.complete_replay(Leased { id: UNKNOWN, token: 1 }, &failed()), UNKNOWN);
        for token in [0, leased.token ^ 1, foreign.token] {
            expect_lost(f.complete_replay(Leased { token, ..leased }, &delivered()), ids[0]);
        }
        assert_eq!(f.get(ids[0]), before);
        let after = f.complete_replay(leased, &failed()).unwrap();
        expect_lost(f.complete_replay(leased, &delivered()), ids[0]);
        assert_eq!(f.get(ids[0]), after);
        let again = f.acquire(ids[0]);
        expect_lost(f.complete_replay(leased, &delivered()), ids[0]);
        f.complete_replay(again, &failed()).unwrap();
    });
}

#[test]
fn a_lease_ends_at_its_deadline_whatever_the_wall_clock_says() {
    each(|f| {
        let ids = f.stored(3);
        let (early, late) = (f.acquire(ids[0]), f.acquire(ids[1]));
        f.advance_ms(59_999);
        f.env.set_wall_ms(f.now().0 + 86_400_000);
        f.complete_replay(early, &delivered()).unwrap();
        f.env.set_wall_ms(1000);
        f.advance_ms(1);
        let before = f.get(ids[1]);
        expect_lost(f.complete_replay(late, &delivered()), ids[1]);
        assert_eq!(f.get(ids[1]), before, "a late answer changes nothing");
        let back = f.acquire(ids[2]);
        f.env.set_wall_ms(1);
        f.complete_replay(back, &delivered()).unwrap();
    });
}

#[test]
fn a_heartbeat_extends_a_lease_that_holds() {
    each(|f| {
        let id = f.store(failure());
        let leased = f.acquire(id);
        for _ in 0..5 {
            f.advance_ms(59_999);
            assert!(f.extend_lease(leased, LEASE));
            assert_eq!(f.release_stale_replaying(None).unwrap().total(), 0);
        }
        assert!(f.extend_lease(leased, Duration::from_millis(1)), "never shorter than it was");
        f.advance_ms(59_999);
        assert!(!f.extend_lease(Leased { token: leased.token ^ 1, ..leased }, LEASE));
        assert!(!f.extend_lease(Leased { id: UNKNOWN, ..leased }, LEASE));
        assert!(f.extend_lease(leased, LEASE));
        f.advance_ms(60_000);
        assert!(!f.extend_lease(leased, LEASE), "what is over stays over");
        expect_lost(f.complete_replay(leased, &delivered()), id);
    });
}

#[test]
fn an_operator_beats_a_running_replay() {
    each(|f| {
        for status in Status::ALL.into_iter().filter(|status| *status != Status::Replaying) {
            let id = f.store(failure());
            let leased = f.acquire(id);
            let resolution = Resolution::new("manual", "done by hand");
            assert!(f.update_status(id, status, &resolution, Some(&act())).unwrap());
            let before = f.get(id);
            assert!(!f.extend_lease(leased, LEASE), "the handler hears of it");
            expect_lost(f.complete_replay(leased, &failed()), id);
            expect_lost(f.complete_replay(leased, &delivered()), id);
            assert_eq!(f.get(id), before);
            assert_eq!((before.operation.status, outcomes(&before)), (status, vec!["interrupted"]));
        }
        let id = f.store(failure());
        let leased = f.acquire(id);
        assert!(f.delete(id).unwrap());
        expect_lost(f.complete_replay(leased, &delivered()), id);
        assert_eq!(f.get_by_id(id).unwrap(), None);
    });
}

/// An attempt that an operator cut off must not stand in the way of the next one.
#[test]
fn an_entry_that_was_taken_from_its_handler_can_be_started_again() {
    each(|f| {
        let id = f.store(failure());
        let old = f.acquire(id);
        f.put(id, Status::Pending);
        let leased = f.lease(&[id])[0];
        expect_lost(f.complete_replay(leased, &delivered()), id);
        let entry = f.start(leased, ReplayType::Batch).unwrap();
        assert_eq!((entry.operation.retry_count, outcomes(&entry)), {
            (2, vec!["interrupted", "started"])
        });
        expect_lost(f.complete_replay(old, &delivered()), id);
        f.complete_replay(leased, &delivered()).unwrap();
    });
}

/// An exported line may tell of an attempt that was under way in the store it came from.
#[test]
fn an_entry_that_was_exported_while_it_ran_can_be_started_after_its_import() {
    each(|f| {
        let id = f.store(failure().key("order-1"));
        f.acquire(id);
        let line = serde_json::to_string(&f.get(id)).unwrap();
        assert!(f.delete(id).unwrap());
        let id = f.store(serde_json::from_str(&line).unwrap());
        let entry = f.get(id);
        assert_eq!((entry.operation.status, outcomes(&entry)), {
            (Status::Pending, vec!["interrupted"])
        });
        let leased = f.lease(&[id])[0];
        f.start(leased, ReplayType::Batch).unwrap();
        let entry = f.complete_replay(leased, &delivered()).unwrap();
        assert_eq!(outcomes(&entry), ["interrupted", "success"]);
    });
}

#[test]
fn one_attempt_ends_and_the_next_begins() {
    each(|f| {
        let ids = f.stored(3);
        let leased = f.lease(&ids);
        let outcome = f.turn_over(None, Some((leased[0], ReplayType::Batch))).unwrap();
        assert!(outcome.ended.is_none());
        assert_eq!(outcome.started.unwrap().unwrap(), f.get(ids[0]));
        let next = Some((leased[1], ReplayType::Batch));
        let outcome = f.turn_over(Some((leased[0], &delivered())), next).unwrap();
        assert_eq!(outcome.ended.unwrap().unwrap().operation.status, Status::Resolved);
        assert_eq!(outcome.started.unwrap().unwrap().operation.id, ids[1]);
        let next = Some((leased[2], ReplayType::Batch));
        let outcome = f.turn_over(Some((leased[0], &delivered())), next).unwrap();
        expect_lost(outcome.ended.unwrap(), ids[0]);
        assert_eq!(outcome.started.unwrap().unwrap().operation.retry_count, 1);
        let stale = Some((Leased { token: 1, ..leased[0] }, ReplayType::Batch));
        let outcome = f.turn_over(Some((leased[1], &failed())), stale).unwrap();
        assert_eq!(outcome.ended.unwrap().unwrap().operation.status, Status::Pending);
        expect_lost(outcome.started.unwrap(), ids[0]);
        let outcome = f.turn_over(None, None).unwrap();
        assert!(outcome.ended.is_none() && outcome.started.is_none());
    });
}

/// Only one of the halves can be true of one entry; the other must not be told as done.
#[test]
fn both_halves_of_a_turn_over_may_name_one_entry() {
    each(|f| {
        let id = f.store(failure());
        let leased = f.lease(&[id])[0];
        let both = |f: &Fixture| {
            f.turn_over(Some((leased, &failed())), Some((leased, ReplayType::Batch))).unwrap()
        };
        let outcome = both(f);
        expect_lost(outcome.ended.unwrap(), id);
        assert_eq!(outcomes(&outcome.started.unwrap().unwrap()), ["started"]);
        assert!(f.extend_lease(leased, LEASE), "the attempt that began keeps its lease");
        let outcome = both(f);
        assert_eq!(outcomes(&outcome.ended.unwrap().unwrap()), ["failure"]);
        expect_lost(outcome.started.unwrap(), id);
        assert_eq!(f.status(id), Status::Pending);
    });
}

#[test]
fn old_attempts_are_only_counted() {
    each(|f| {
        let id = f.store(failure().max_retries(100));
        for _ in 0..11 {
            f.fail(id);
        }
        f.reopen();
        let entry = f.get(id);
        assert_eq!((entry.attempts.len(), entry.attempts_older), (8, 3));
        assert_eq!(entry.state().attempts_total(), 11);
        let act = Act { actor: "ana".to_owned(), ..Act::default() };
        for _ in 0..20 {
            let resolution = Resolution::default();
            f.update_status(id, Status::Reviewing, &resolution, Some(&act)).unwrap();
        }
        let entry = f.get(id);
        assert_eq!((entry.audit.len(), entry.audit_older), (16, 4));
    });
}
