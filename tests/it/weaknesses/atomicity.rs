//! W14 to W21: atomicity, order, races.

use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::Duration;

use deadletter::{
    Durability, EntryId, Error, FailedOperationRepository, Filter, Leased, ReplayType, Resolution,
    Status, Timestamp,
};

use super::stand_in::StandIn;
use crate::contract::{
    Fixture, LEASE, delivered, each, everything, expect_lost, failed, failure, ids, outcomes,
    status_filter,
};

/// Runs both at the same time.
fn race<A: Send, B: Send>(
    one: impl FnOnce() -> A + Send,
    other: impl FnOnce() -> B + Send,
) -> (A, B) {
    let barrier = Barrier::new(2);
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            barrier.wait();
            other()
        });
        barrier.wait();
        (one(), other.join().unwrap())
    })
}

#[test]
fn w14_no_update_is_lost_when_two_write() {
    each(|f| {
        for _ in 0..200 {
            let id = f.store(failure());
            let leased = f.acquire(id);
            let resolution = Resolution::new("", "looked at");
            let (ended, set) = race(
                || f.complete_replay(leased, &failed()),
                || f.update_status(id, Status::Reviewing, &resolution, None),
            );
            assert!(set.unwrap());
            let entry = f.get(id);
            assert_eq!(entry.operation.status, Status::Reviewing, "the operator is never undone");
            assert_eq!(entry.operation.resolution_note, "looked at");
            let wanted = if ended.is_ok() { "failure" } else { "interrupted" };
            assert_eq!(outcomes(&entry), [wanted], "and a completion that counted is on record");
            let (one, other) = race(|| f.increment_retry_count(id), || f.increment_retry_count(id));
            assert!(one.unwrap() && other.unwrap());
            assert_eq!(f.get(id).operation.retry_count, 3);
        }
    });
}

/// What each thread does to an entry is different, and depends on nothing but its numbers.
fn disturb(f: &Fixture, number: usize, id: EntryId) {
    match number % 5 {
        0 => drop(f.increment_retry_count(id).unwrap()),
        1 => drop(f.update_status(id, Status::Resolved, &Resolution::default(), None).unwrap()),
        2 => drop(f.delete(id).unwrap()),
        3 => drop(f.bulk_update_status(&[id], Status::Archived).unwrap()),
        _ => {
            if let Some((leased, _)) = f.try_acquire_for_replay(id, LEASE, true, None).unwrap() {
                drop(f.complete_replay(leased, &failed()));
            }
        }
    }
}

#[test]
fn w15_counts_and_listings_agree_whatever_happened() {
    each(|f| {
        let stored = f.stored(120);
        let (f, stored) = (&*f, &stored);
        thread::scope(|scope| {
            for number in 0..5 {
                scope.spawn(move || {
                    stored.iter().enumerate().for_each(|(at, id)| disturb(f, number + at, *id));
                });
            }
        });
        let facets = f.get_facet_counts(None, None).unwrap();
        let mut total = 0;
        for status in Status::ALL {
            let found = f.found(&status_filter(status), everything());
            assert!(found.iter().all(|id| f.status(*id) == status));
            let count = f.count(&status_filter(status)).unwrap();
            assert_eq!(found.len() as u64, count);
            assert_eq!(facets.by_status.get(&status).copied().unwrap_or(0), count);
            total += count;
        }
        assert_eq!(f.count(&Filter::default()).unwrap(), total);
    });
}

#[test]
fn w16_a_late_completion_is_refused() {
    each(|f| {
        let id = f.store(failure());
        let late = f.acquire(id);
        f.env.advance(LEASE);
        expect_lost(f.complete_replay(late, &failed()), id);
        assert_eq!(f.release_stale_replaying(None).unwrap().pending, 1);
        expect_lost(f.complete_replay(late, &failed()), id);
        let newer = f.acquire(id);
        expect_lost(f.complete_replay(late, &failed()), id);
        let resolved = f.complete_replay(newer, &delivered()).unwrap();
        expect_lost(f.complete_replay(late, &failed()), id);
        f.reopen();
        expect_lost(f.complete_replay(late, &failed()), id);
        assert_eq!(f.get(id), resolved);
        assert!(resolved.operation.resolved_at.is_some());
    });
}

/// Whoever ends a lease hears of it a moment later. Somebody may have leased the entry by then,
/// and must keep what he got.
#[test]
fn w16_the_end_of_a_lease_is_never_the_end_of_the_next_one() {
    each(|f| {
        for (name, end) in ENDS {
            check_next(f, name, *end);
        }
    });
}

/// Ends a lease; true when that was done.
type End = fn(&dyn FailedOperationRepository, Leased) -> bool;

const ENDS: &[(&str, End)] = &[
    ("complete", |f, leased| f.complete_replay(leased, &failed()).is_ok()),
    ("give back", |f, leased| f.release(&[leased]).unwrap() == 1),
    ("release", |f, _| f.release_stale_replaying(Some(Duration::ZERO)).unwrap().total() == 1),
    ("set", |f, leased| {
        f.update_status(leased.id, Status::Pending, &Resolution::default(), None).unwrap()
    }),
    ("set many", |f, leased| f.bulk_update_status(&[leased.id], Status::Pending).unwrap() == 1),
    ("turn over", |f, leased| {
        f.turn_over(Some((leased, &failed())), None).unwrap().ended.unwrap().is_ok()
    }),
];

fn check_next(f: &Fixture, name: &str, end: End) {
    let id = f.store(failure().max_retries(9));
    let mut leased = f.acquire(id);
    if name == "give back" {
        f.put(id, Status::Pending);
        leased = f.lease(&[id])[0];
    }
    f.advance_ms(1);
    let next = Mutex::new(None);
    let stand_in = StandIn::new(f);
    stand_in.then(|| *next.lock().unwrap() = Some(f.acquire(id)));
    assert!(end(&stand_in, leased), "{name}");
    drop(stand_in);
    let next = next.into_inner().unwrap().unwrap();
    assert!(f.extend_lease(next, LEASE), "{name}: the next one holds");
    f.complete_replay(next, &delivered()).unwrap();
}

#[test]
fn w17_only_a_replaying_entry_is_completed_and_only_known_statuses_exist() {
    each(|f| {
        for status in Status::ALL.into_iter().filter(|status| *status != Status::Replaying) {
            let id = f.store(failure());
            let leased = f.acquire(id);
            f.put(id, status);
            let before = f.get(id);
            expect_lost(f.complete_replay(leased, &failed()), id);
            assert_eq!(f.get(id), before, "{status}");
        }
    });
    assert!(matches!("banana".parse::<Status>(), Err(Error::Invalid { .. })));
    assert!(matches!("PENDING".parse::<Status>(), Err(Error::Invalid { .. })));
}

#[test]
fn w18_no_attempt_has_the_number_of_another() {
    each(|f| {
        let id = f.store(failure().max_retries(1));
        let key = f.get(id).key;
        for number in 1..=6 {
            let force = number > 1;
            let acquired = f.try_acquire_for_replay(id, LEASE, force, None).unwrap();
            let (leased, entry) = acquired.unwrap();
            assert_eq!(entry.operation.retry_count, 1, "the reference's identity begins again");
            assert_eq!(entry.attempts.last().unwrap().number, number, "ours does not");
            assert_eq!(entry.key, key);
            match number {
                2 => f.reopen(),
                4 => f.put(id, Status::Reviewing),
                _ => drop(f.complete_replay(leased, &failed()).unwrap()),
            }
            f.release_stale_replaying(None).unwrap();
            f.put(id, Status::RequiresReview);
        }
    });
}

#[test]
fn w19_what_was_stored_is_in_every_answer_at_once() {
    each(|f| {
        let f = &*f;
        thread::scope(|scope| {
            for number in 0..4 {
                scope.spawn(move || {
                    for round in 0..50 {
                        let key = format!("{number}-{round}");
                        let id = f.create(failure().key(&key), Durability::Synced).unwrap().id;
                        assert_eq!(f.get_by_key(&key).unwrap().unwrap().operation.id, id);
                        let all = f.select(&Filter::default(), everything()).unwrap();
                        assert!(all.binary_search(&id).is_ok(), "in order, and with it");
                    }
                });
            }
        });
        assert_eq!(f.count(&Filter::default()).unwrap(), 200);
        assert_eq!(f.get_statistics().unwrap().by_domain["payment"], 200);
    });
}

#[test]
fn w20_a_refused_purge_deletes_nothing() {
    each(|f| {
        let stored = f.stored(4);
        f.bulk_update_status(&stored[..3], Status::Archived).unwrap();
        let leased = f.lease(&stored[3..]);
        let error = f.purge_archived(&stored).unwrap_err();
        assert!(matches!(error, Error::Conflict { .. }), "{error}");
        assert_eq!(f.count(&Filter::default()).unwrap(), 4);
        f.start(leased[0], ReplayType::Batch).unwrap();
        assert_eq!(f.purge_archived(&stored[..3]).unwrap(), 3);
    });
}

#[test]
fn w21_the_oldest_comes_first_and_none_starves() {
    each(|f| {
        let stored: Vec<_> = (0..40_u64)
            .map(|number| {
                let mut failure = failure();
                // The clock is wrong as often as not.
                failure.created_at = Some(Timestamp(number * 7919 % 1000));
                f.store(failure)
            })
            .collect();
        for id in &stored {
            let first = ids(&f.find_replayable(None, None, 1).unwrap());
            assert_eq!(first, [*id]);
            assert_eq!(ids(&f.find_by_status(Status::Pending, None, None, 1).unwrap()), [*id]);
            assert_eq!(f.get_oldest_ids(1, None).unwrap(), [*id]);
            let leased = f.acquire(*id);
            f.complete_replay(leased, &delivered()).unwrap();
        }
    });
}
