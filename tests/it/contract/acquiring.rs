//! Leasing entries: one winner, the cap, force, batches, starting.

use std::thread;
use std::time::Duration;

use deadletter::{Leased, Leases, ReplayType, Status, Timestamp};

use super::{LEASE, UNKNOWN, act, each, expect_lost, failed, failure, outcomes};

#[test]
fn acquiring_leases_starts_and_charges_in_one_change() {
    each(|f| {
        let id = f.store(failure().not_before(Timestamp(f.now().0 + 5000)));
        f.advance_ms(10);
        let now = f.now();
        let acquired = f.try_acquire_for_replay(id, LEASE, false, Some(&act())).unwrap();
        let (leased, entry) = acquired.unwrap();
        assert_eq!(entry, f.get(id), "the entry as it is afterwards");
        assert_eq!(leased.id, id);
        let lease = entry.lease.clone().unwrap();
        assert_eq!((lease.token, lease.deadline), (leased.token, Timestamp(now.0 + 60_000)));
        assert_eq!(entry.operation.status, Status::Replaying);
        assert_eq!((entry.operation.retry_count, entry.operation.last_retry_at), (1, Some(now)));
        assert_eq!((entry.operation.updated_at, entry.not_before), (now, None));
        assert_eq!((entry.attempts[0].number, entry.attempts[0].at), (1, now));
        assert_eq!(outcomes(&entry), ["started"]);
        let action = &entry.audit[0];
        assert_eq!((action.actor.as_str(), action.action.as_str()), ("ana", "retry"));
        assert_eq!((action.from, action.to), (Status::Pending, Status::Replaying));
        assert!(f.try_acquire_for_replay(id, LEASE, false, None).unwrap().is_none());
        assert_eq!(f.get(id), entry, "the second one changes nothing");
        assert!(f.try_acquire_for_replay(UNKNOWN, LEASE, false, None).unwrap().is_none());
        assert!(f.try_acquire_for_replay(UNKNOWN, LEASE, true, None).unwrap().is_none());
    });
}

#[test]
fn eight_threads_acquire_and_each_entry_has_one_winner() {
    each(|f| {
        let stored = f.stored(25);
        let (f, stored) = (&*f, &stored);
        let mut won: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|number| {
                    scope.spawn(move || {
                        let mut won = Vec::new();
                        for step in 0..stored.len() {
                            let id = stored[(step + number * 3) % stored.len()];
                            let force = number % 2 == 0;
                            let acquired = f.try_acquire_for_replay(id, LEASE, force, None);
                            won.extend(acquired.unwrap().map(|(leased, _)| leased));
                        }
                        won
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        won.sort_by_key(|leased| leased.id);
        assert_eq!(won.iter().map(|leased| leased.id).collect::<Vec<_>>(), *stored);
        for leased in won {
            assert_eq!(f.get(leased.id).attempts.len(), 1);
            f.complete_replay(leased, &super::delivered()).unwrap();
        }
    });
}

#[test]
fn eight_threads_lease_batches_and_each_entry_has_one_winner() {
    each(|f| {
        let stored = f.stored(40);
        let (f, stored) = (&*f, &stored);
        let mut won: Vec<Leased> = thread::scope(|scope| {
            let lease = || f.acquire_batch(stored, LEASE).unwrap();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(lease)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        won.sort_by_key(|leased| leased.id);
        assert_eq!(won.iter().map(|leased| leased.id).collect::<Vec<_>>(), *stored);
    });
}

#[test]
fn a_lease_of_a_batch_charges_nothing_and_the_start_charges_one() {
    each(|f| {
        let stored = f.stored(3);
        f.put(stored[1], Status::Reviewing);
        let later = f.store(failure().not_before(Timestamp(f.now().0 + 1)));
        let asked = [stored[2], stored[0], stored[1], stored[2], UNKNOWN, later];
        let leased = f.acquire_batch(&asked, LEASE).unwrap();
        let got: Vec<_> = leased.iter().map(|leased| leased.id).collect();
        assert_eq!(got, [stored[2], stored[0]], "each once, in the order that was asked");
        let entry = f.get(stored[0]);
        assert_eq!(entry.operation.status, Status::Replaying);
        assert_eq!((entry.operation.retry_count, entry.attempts.len()), (0, 0));
        assert_eq!(entry.operation.last_retry_at, None);
        expect_lost(f.complete_replay(leased[1], &failed()), stored[0]);
        assert_eq!(f.get(stored[0]), entry, "what did not begin cannot end");
        let started = f.start(leased[1], ReplayType::Batch).unwrap();
        assert_eq!((started.operation.retry_count, outcomes(&started)), (1, vec!["started"]));
        expect_lost(f.start(leased[1], ReplayType::Batch), stored[0]);
        assert_eq!(f.get(stored[0]), started, "it begins once");
        f.advance_ms(1);
        assert_eq!(f.lease(&[later]).len(), 1);
        assert_eq!(f.acquire_batch(&[], LEASE).unwrap(), []);
    });
}

#[test]
fn a_start_needs_the_lease() {
    each(|f| {
        let ids = f.stored(3);
        let leased = f.lease(&ids);
        let stale = Leased { token: leased[0].token ^ 1, ..leased[0] };
        expect_lost(f.start(stale, ReplayType::Batch), ids[0]);
        expect_lost(f.start(Leased { id: UNKNOWN, token: 1 }, ReplayType::Batch), UNKNOWN);
        f.put(ids[1], Status::Rejected);
        expect_lost(f.start(leased[1], ReplayType::Batch), ids[1]);
        f.advance_ms(60_000);
        expect_lost(f.start(leased[2], ReplayType::Batch), ids[2]);
        assert_eq!(f.get(ids[2]).operation.retry_count, 0);
    });
}

/// The arithmetic of the reference, with cap 2, except that attempts go on counting.
#[test]
fn force_gives_a_fresh_budget_and_keeps_the_scar() {
    each(|f| {
        let id = f.store(failure());
        f.fail(id);
        assert_eq!(f.fail(id).operation.status, Status::RequiresReview);
        assert!(f.try_acquire_for_replay(id, LEASE, false, None).unwrap().is_none());
        for round in 1..=2 {
            let forced = f.try_acquire_for_replay(id, LEASE, true, Some(&act())).unwrap();
            let (leased, entry) = forced.unwrap();
            let scar = (entry.previous_total_retries, entry.force_redrive_count);
            assert_eq!((entry.operation.retry_count, scar), (1, (2 * round, round)));
            assert_eq!(entry.attempts.last().unwrap().number, 2 * round + 1);
            let action = entry.audit.last().unwrap();
            assert_eq!((action.action.as_str(), action.ticket.as_str()), ("force_redrive", "T-1"));
            assert_eq!(action.from, Status::RequiresReview);
            let entry = f.complete_replay(leased, &failed()).unwrap();
            assert_eq!((entry.operation.status, entry.operation.retry_count), {
                (Status::Pending, 1)
            });
            let entry = f.fail(id);
            assert_eq!((entry.operation.status, entry.operation.retry_count), {
                (Status::RequiresReview, 2)
            });
            f.reopen();
            assert_eq!(f.get(id), entry);
        }
        let entry = f.get(id);
        assert_eq!((entry.attempts.len(), entry.audit.len()), (6, 2));
    });
}

#[test]
fn force_works_on_pending_entries_and_on_any_cap() {
    each(|f| {
        let id = f.store(failure().not_before(Timestamp(f.now().0 + 5000)));
        let (_, entry) = f.try_acquire_for_replay(id, LEASE, true, None).unwrap().unwrap();
        assert_eq!((entry.previous_total_retries, entry.force_redrive_count), (0, 1));
        assert_eq!((entry.operation.retry_count, entry.audit.len()), (1, 0));
        for cap in [0, 1] {
            let id = f.store(failure().max_retries(cap));
            f.put(id, Status::RequiresReview);
            let (leased, _) = f.try_acquire_for_replay(id, LEASE, true, None).unwrap().unwrap();
            let entry = f.complete_replay(leased, &failed()).unwrap();
            assert_eq!(entry.operation.status, Status::RequiresReview, "cap {cap}");
        }
    });
}

#[test]
fn a_lease_has_the_length_that_was_asked() {
    each(|f| {
        let ids = f.stored(3);
        let short = f.acquire_batch(&ids[..1], Duration::from_millis(1)).unwrap()[0];
        let never = f.acquire_batch(&ids[1..2], Duration::ZERO).unwrap()[0];
        let ever = f.acquire_batch(&ids[2..], Duration::MAX).unwrap()[0];
        expect_lost(f.start(never, ReplayType::Batch), ids[1]);
        f.advance_ms(1);
        expect_lost(f.start(short, ReplayType::Batch), ids[0]);
        f.advance_ms(1 << 40);
        f.start(ever, ReplayType::Batch).unwrap();
        assert_eq!(f.release_stale_replaying(None).unwrap().total(), 2);
    });
}

#[test]
fn no_token_is_given_twice_and_none_is_zero() {
    for seed in [0, 1, u64::MAX - 1, u64::MAX] {
        let leases = Leases::new(seed);
        let mut tokens: Vec<u64> = (0..4).map(|_| leases.new_token()).collect();
        assert!(!tokens.contains(&0));
        tokens.sort_unstable();
        tokens.dedup();
        assert_eq!(tokens.len(), 4);
    }
}
