//! W22 to W32: entries that nobody would ever look at again, and ages that differ.

use deadletter::{Completion, Filter, Json, Status, Timestamp};

use crate::contract::{
    Fixture, LEASE, delivered, each, each_with, everything, expect_lost, failed, failure, far, of,
    status_filter,
};
use crate::store::config;

#[test]
fn w22_a_crash_in_the_last_attempt_ends_in_review() {
    each(|f| {
        for cap in 1..4 {
            let id = f.store(failure().max_retries(cap));
            for attempt in 1..=cap {
                assert_eq!(f.status(id), Status::Pending);
                f.acquire(id);
                f.reopen();
                let released = f.release_stale_replaying(None).unwrap();
                assert_eq!(released.requires_review, u64::from(attempt == cap));
            }
            assert_eq!(f.status(id), Status::RequiresReview);
            assert_eq!(f.get(id).operation.retry_count, cap);
        }
        let waiting = f.found(&status_filter(Status::RequiresReview), everything());
        assert_eq!(waiting.len(), 3, "a person finds them");
    });
}

/// How many attempts an entry gets until nobody tries it any more.
fn attempts(f: &Fixture, id: deadletter::EntryId) -> u32 {
    let mut count = 0;
    while let Some((leased, _)) = f.try_acquire_for_replay(id, LEASE, false, None).unwrap() {
        f.complete_replay(leased, &failed()).unwrap();
        count += 1;
    }
    count
}

#[test]
fn w23_the_cap_of_an_entry_is_the_only_one() {
    for of_the_store in [1, 2, 9] {
        let mut config = config();
        config.max_retries = of_the_store;
        each_with(&config, |f| {
            for cap in [1, 2, 5] {
                let id = f.store(failure().max_retries(cap));
                assert_eq!(attempts(f, id), cap);
                assert_eq!(f.status(id), Status::RequiresReview);
            }
            let id = f.store(failure());
            let cap = f.get(id).operation.max_retries;
            assert_eq!(attempts(f, id), cap, "copied from the configuration when it was stored");
            assert_eq!(f.find_replayable(None, None, 10).unwrap(), []);
        });
    }
}

/// A gate that says no after the lease was taken gives it back.
#[test]
fn w24_a_lease_that_is_given_back_leaves_nothing_behind() {
    each(|f| {
        let request = Json::object(format!("{{\"a\":\"{}\"}}", "x".repeat(9000))).unwrap();
        let id = f.store(failure().request(request).max_retries(1));
        let entry = f.get(id);
        assert!(entry.operation.request_data.is_truncated_marker());
        for _ in 0..5 {
            let leased = f.lease(&[id]);
            assert_eq!(f.release(&leased).unwrap(), 1);
        }
        let after = f.get(id);
        assert_eq!((after.operation.status, after.operation.retry_count), (Status::Pending, 0));
        assert_eq!((after.attempts, after.lease), (entry.attempts, None));
    });
}

#[test]
fn w26_an_entry_is_not_taken_before_its_time() {
    each(|f| {
        let id = f.store(failure());
        let not_before = Some(Timestamp(f.now().0 + 60_000));
        let leased = f.acquire(id);
        let completion = Completion::Failure { note: String::new(), not_before };
        f.complete_replay(leased, &completion).unwrap();
        f.reopen();
        f.advance_ms(59_999);
        for _ in 0..3 {
            assert_eq!(f.acquire_batch(&[id], LEASE).unwrap(), [], "sweeps back to back");
        }
        assert_eq!(f.get(id).operation.retry_count, 1);
        f.advance_ms(1);
        assert_eq!(f.acquire_batch(&[id], LEASE).unwrap().len(), 1);
    });
}

#[test]
fn w27_the_original_error_outlives_every_attempt() {
    each(|f| {
        let id = f.store(failure().error("57014", "canceled by user"));
        f.fail(id);
        let leased = f.acquire(id);
        let (note, resolution_type) = ("delivered".to_owned(), String::new());
        f.complete_replay(leased, &Completion::Success { note, resolution_type }).unwrap();
        f.reopen();
        let entry = f.get(id);
        assert_eq!(entry.operation.error_message, "canceled by user");
        assert_eq!(entry.operation.error_code, "57014");
        assert_eq!(entry.operation.resolution_note, "delivered");
        assert_eq!(entry.attempts[0].note, "no answer");
    });
}

#[test]
fn w28_every_final_status_drains_and_none_counts_as_active() {
    each(|f| {
        for status in Status::ALL {
            f.store_in(status);
        }
        assert_eq!(f.count_all().unwrap(), 5);
        let archived: u64 = Status::ALL
            .into_iter()
            .map(|status| f.archive_before(status, far(), 10, None).unwrap())
            .sum();
        assert_eq!(archived, 4);
        assert_eq!(f.purge_archived_before(far(), 10).unwrap(), 5);
        assert_eq!((f.count_all().unwrap(), f.count(&Filter::default()).unwrap()), (5, 5));
    });
}

#[test]
fn w29_a_purge_does_what_its_dry_run_announced() {
    each(|f| {
        // Resolved without an actor, long before it was archived, and touched after that.
        let id = f.store(failure());
        let leased = f.acquire(id);
        f.complete_replay(leased, &delivered()).unwrap();
        f.advance_ms(1000);
        assert_eq!(f.archive_before(Status::Resolved, f.now(), 10, None).unwrap(), 1);
        let archived_at = f.get(id).archived_at.unwrap();
        f.advance_ms(1000);
        f.increment_retry_count(id).unwrap();
        for (before, wanted) in [(archived_at, 0), (Timestamp(archived_at.0 + 1), 1)] {
            assert_eq!(f.count_archived_before(before).unwrap(), wanted);
            assert_eq!(f.purge_archived_before(before, 10).unwrap(), wanted);
        }
    });
}

#[test]
fn w30_nothing_is_too_far_down_the_list_to_age() {
    each(|f| {
        let old: Vec<_> = (0..20).map(|_| f.store_in(Status::Resolved)).collect();
        f.advance_ms(1000);
        let cutoff = f.now();
        let fresh = f.stored(1100);
        f.bulk_update_status(&fresh, Status::Resolved).unwrap();
        assert_eq!(f.archive_before(Status::Resolved, cutoff, 7, None).unwrap(), 20);
        assert!(old.iter().all(|id| f.status(*id) == Status::Archived));
        assert!(f.get_by_id(old[0]).unwrap().is_some(), "behind the newest thousand");
    });
}

#[test]
fn w31_leased_heads_hide_nothing_and_archived_rows_fill_no_budget() {
    each(|f| {
        let stored = f.stored(10);
        f.lease(&stored[..5]);
        let free = f.find_by_status(Status::Pending, None, None, 5).unwrap();
        assert_eq!(crate::contract::ids(&free), stored[5..]);
        f.bulk_update_status(&stored[5..], Status::Archived).unwrap();
        assert_eq!(f.count_active_by_domain("payment").unwrap(), 5);
        assert_eq!(f.count_by_domain("payment").unwrap(), 10);
    });
}

/// A lease is over at its deadline, and an entry has expired at its time, whoever looks when.
#[test]
fn w32_nothing_depends_on_a_scheduler() {
    each(|f| {
        let id = f.store(failure());
        let late = f.acquire(id);
        let expiring = f.store(of("mail").expires_at(Timestamp(f.now().0 + 1)));
        f.env.advance(LEASE);
        expect_lost(f.complete_replay(late, &delivered()), id);
        let expired = f.find_expired(f.now(), 10).unwrap();
        assert_eq!(crate::contract::ids(&expired), [expiring]);
        assert_eq!(f.release_stale_replaying(None).unwrap().total(), 1, "when somebody asks");
        assert_eq!(f.release_stale_replaying(None).unwrap().total(), 0, "and once");
    });
}
