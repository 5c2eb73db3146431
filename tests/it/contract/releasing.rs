//! Leases that end without a completion: given back, run out, left by a process that is gone.

use std::thread;
use std::time::Duration;

use deadletter::{EntryId, Leased, ReplayType, Status};

use super::{
    Fixture, LEASE, UNKNOWN, delivered, each, expect_lost, failed, failure, outcomes, tally,
};

fn released(f: &Fixture, older_than: Option<Duration>) -> (u64, u64) {
    let released = f.release_stale_replaying(older_than).unwrap();
    assert_eq!(released.total(), released.pending + released.requires_review);
    (released.pending, released.requires_review)
}

/// Status and charged attempts.
fn stands(f: &Fixture, id: EntryId) -> (Status, u32) {
    let operation = f.get(id).operation;
    (operation.status, operation.retry_count)
}

/// An entry with one attempt left, which is under way.
fn on_its_last(f: &Fixture) -> (EntryId, Leased) {
    let id = f.store(failure());
    f.fail(id);
    (id, f.acquire(id))
}

#[test]
fn a_lease_that_did_not_begin_is_given_back() {
    each(|f| {
        let ids = f.stored(3);
        let leased = f.lease(&ids);
        f.start(leased[1], ReplayType::Batch).unwrap();
        f.put(ids[2], Status::Reviewing);
        let started = f.get(ids[1]);
        let unknown = Leased { id: UNKNOWN, token: 1 };
        let asked = [leased[0], leased[1], leased[2], leased[0], unknown];
        assert_eq!(f.release(&asked).unwrap(), 1);
        assert_eq!(stands(f, ids[0]), (Status::Pending, 0));
        assert_eq!(f.get(ids[0]).attempts.len(), 0);
        assert_eq!(f.get(ids[1]), started);
        assert_eq!(f.status(ids[2]), Status::Reviewing);
        assert_eq!(f.release(&asked).unwrap(), 0);
        assert_eq!(f.release(&[]).unwrap(), 0);
        assert_eq!(f.lease(&ids[..1]).len(), 1);
    });
}

/// Giving back what one does not hold must not end the lease of who does.
#[test]
fn giving_back_ends_no_other_lease() {
    each(|f| {
        let ids = f.stored(2);
        let leased = f.lease(&ids);
        f.start(leased[0], ReplayType::Batch).unwrap();
        assert_eq!(f.release(&leased[..1]).unwrap(), 0, "it began");
        f.complete_replay(leased[0], &delivered()).unwrap();
        assert_eq!(f.release(&leased[1..]).unwrap(), 1);
        let again = f.lease(&ids[1..])[0];
        assert_eq!(f.release(&leased[1..]).unwrap(), 0, "it is another lease");
        f.start(again, ReplayType::Batch).unwrap();
        f.complete_replay(again, &delivered()).unwrap();
    });
}

#[test]
fn the_own_lease_is_found_behind_a_stale_one() {
    each(|f| {
        let id = f.store(failure());
        let stale = f.lease(&[id])[0];
        assert_eq!(f.release(&[stale]).unwrap(), 1);
        let own = f.lease(&[id])[0];
        assert_eq!(f.release(&[stale, own]).unwrap(), 1);
        assert_eq!(f.status(id), Status::Pending);
    });
}

#[test]
fn leases_that_ran_out_are_released_and_those_that_hold_are_not() {
    each(|f| {
        let ids = f.stored(3);
        let leased = f.lease(&ids[..2]);
        f.start(leased[0], ReplayType::Batch).unwrap();
        f.advance_ms(59_999);
        let young = f.acquire(ids[2]);
        assert_eq!(released(f, None), (0, 0));
        f.advance_ms(1);
        assert_eq!(released(f, None), (2, 0));
        assert_eq!(stands(f, ids[0]), (Status::Pending, 1), "what began stays charged");
        assert_eq!(outcomes(&f.get(ids[0])), ["interrupted"]);
        assert!(f.get(ids[0]).state().is_suspect());
        assert_eq!(stands(f, ids[1]), (Status::Pending, 0), "what did not is not");
        assert_eq!(f.get(ids[1]).attempts.len(), 0);
        f.complete_replay(young, &delivered()).unwrap();
        assert_eq!(released(f, None), (0, 0));
    });
}

#[test]
fn with_an_age_even_leases_that_hold_are_released_but_strictly_older_ones() {
    each(|f| {
        let id = f.store(failure());
        let leased = f.acquire(id);
        f.advance_ms(1000);
        let age = Some(Duration::from_secs(1));
        assert_eq!(released(f, age), (0, 0), "exactly as old is not older");
        f.advance_ms(1);
        f.env.set_wall_ms(5);
        assert_eq!(released(f, Some(Duration::MAX)), (0, 0));
        assert_eq!(released(f, age), (1, 0), "by the clock that never goes back");
        expect_lost(f.complete_replay(leased, &delivered()), id);
    });
}

/// A lease that ran out is as old as it is, although it does not hold any more.
#[test]
fn the_age_of_a_lease_that_ran_out_is_not_taken_from_the_wall_clock() {
    each(|f| {
        let id = f.store(failure());
        f.acquire(id);
        f.advance_ms(120_000);
        f.env.set_wall_ms(5);
        assert_eq!(released(f, Some(Duration::from_secs(119))), (1, 0));
        assert_eq!(f.status(id), Status::Pending);
    });
}

#[test]
fn a_restart_ends_all_leases() {
    each(|f| {
        let ids = f.stored(3);
        let leased = f.lease(&ids[..2]);
        f.start(leased[0], ReplayType::Batch).unwrap();
        f.reopen();
        assert_eq!(f.status(ids[1]), Status::Replaying, "until somebody looks after them");
        let before = f.get(ids[0]);
        expect_lost(f.complete_replay(leased[0], &delivered()), ids[0]);
        expect_lost(f.start(leased[1], ReplayType::Batch), ids[1]);
        assert!(!f.extend_lease(leased[0], LEASE));
        assert_eq!(f.release(&leased).unwrap(), 0);
        assert_eq!(f.get(ids[0]), before);
        f.advance_ms(1000);
        assert_eq!(released(f, Some(Duration::from_secs(1))), (0, 0));
        assert_eq!(released(f, None), (2, 0));
        assert_eq!((stands(f, ids[0]), stands(f, ids[1])), {
            ((Status::Pending, 1), (Status::Pending, 0))
        });
    });
}

#[test]
fn the_last_attempt_that_was_cut_off_alone_goes_to_a_person() {
    each(|f| {
        let (id, _) = on_its_last(f);
        f.reopen();
        assert_eq!(released(f, None), (0, 1));
        assert_eq!(stands(f, id), (Status::RequiresReview, 2));
        assert_eq!(tally(f, deadletter::Cause::InterruptedExhausted), 1);
    });
}

/// Nobody knows which of several ended the process; so none is blamed, and each runs alone.
#[test]
fn the_last_attempts_that_were_cut_off_together_are_given_back() {
    each(|f| {
        let (killer, _) = on_its_last(f);
        let (innocent, _) = on_its_last(f);
        let fresh = f.store(failure());
        f.acquire(fresh);
        let idle = f.store(failure());
        f.lease(&[idle]);
        f.reopen();
        assert_eq!(released(f, None), (4, 0));
        for id in [killer, innocent] {
            assert_eq!(stands(f, id), (Status::Pending, 1));
            assert_eq!(outcomes(&f.get(id)), ["failure", "interrupted"]);
            assert!(f.get(id).state().is_suspect());
        }
        assert_eq!(stands(f, fresh), (Status::Pending, 1), "others keep their charge");
        assert_eq!(stands(f, idle), (Status::Pending, 0));
        let leased = f.acquire(innocent);
        assert_eq!(f.get(innocent).attempts.last().unwrap().number, 3);
        f.complete_replay(leased, &delivered()).unwrap();
        f.acquire(killer);
        f.reopen();
        assert_eq!(released(f, None), (0, 1));
        assert_eq!(stands(f, killer), (Status::RequiresReview, 2));
    });
}

/// Company counts even if it is too young to be released now.
#[test]
fn an_age_does_not_make_an_attempt_look_alone() {
    each(|f| {
        let (old, _) = on_its_last(f);
        f.advance_ms(5000);
        let (young, _) = on_its_last(f);
        f.reopen();
        assert_eq!(released(f, Some(Duration::from_secs(3))), (1, 0));
        assert_eq!(stands(f, old), (Status::Pending, 1));
        assert_eq!(f.status(young), Status::Replaying);
    });
}

/// A handler of this process that is merely slow is not the company of anything that died.
#[test]
fn a_running_handler_is_no_company() {
    each(|f| {
        let (orphan, _) = on_its_last(f);
        f.reopen();
        let (slow, leased) = on_its_last(f);
        f.advance_ms(10);
        assert_eq!(released(f, None), (0, 1));
        assert_eq!(f.status(orphan), Status::RequiresReview);
        f.advance_ms(60_000);
        let (other, _) = on_its_last(f);
        f.advance_ms(60_000);
        assert_eq!(released(f, None), (0, 2), "who overruns the lease alone is to blame");
        assert_eq!((f.status(slow), f.status(other)), {
            (Status::RequiresReview, Status::RequiresReview)
        });
        expect_lost(f.complete_replay(leased, &failed()), slow);
    });
}

#[test]
fn a_status_that_was_set_to_replaying_is_no_lease() {
    each(|f| {
        let id = f.store(failure());
        f.put(id, Status::Replaying);
        expect_lost(f.complete_replay(Leased { id, token: 0 }, &delivered()), id);
        assert_eq!(released(f, None), (1, 0));
        assert_eq!(stands(f, id), (Status::Pending, 0));
        let spent = f.store(failure());
        f.fail(spent);
        f.fail(spent);
        f.put(spent, Status::Replaying);
        assert_eq!(released(f, None), (0, 1));
        assert_eq!(stands(f, spent), (Status::RequiresReview, 2));
    });
}

#[test]
fn more_leases_than_one_page_are_all_released() {
    each(|f| {
        let ids = f.stored(2100);
        f.lease(&ids);
        f.reopen();
        assert_eq!(released(f, None), (2100, 0));
        assert_eq!(f.find_replayable(None, None, 5000).unwrap().len(), 2100);
    });
}

/// Completing, releasing and leasing again at the same time: whoever gets a lease can use it.
#[test]
fn ending_a_lease_never_ends_the_next_one() {
    each(|f| {
        let id = f.store(failure().max_retries(u32::MAX));
        let f = &*f;
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let acquired = f.try_acquire_for_replay(id, LEASE, false, None).unwrap();
                        if let Some((leased, _)) = acquired {
                            f.complete_replay(leased, &failed()).unwrap();
                        }
                    }
                });
            }
        });
        let entry = f.get(id);
        assert_eq!(entry.operation.status, Status::Pending);
        assert_eq!(entry.operation.retry_count, entry.state().attempts_total());
    });
}
