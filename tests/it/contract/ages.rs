//! Maintenance: expiry, archive, purge. Ages are strict, and what is announced is what is done.

use std::time::Duration;

use deadletter::{Cause, Error, Filter, Status, Sweep, Timestamp};

use super::{Fixture, UNKNOWN, act, each, everything, failure, far, status_filter, tally};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

#[test]
fn pending_entries_expire_in_chunks() {
    each(|f| {
        let ids: Vec<_> = (0..7).map(|n| f.store(failure().expires_at(Timestamp(n)))).collect();
        let never = f.store(failure());
        f.put(ids[0], Status::Reviewing);
        assert_eq!(f.expire(Timestamp(1), 2, None).unwrap(), 0, "strictly before");
        f.advance_ms(9);
        assert_eq!(f.expire(Timestamp(6), 2, Some(&act())).unwrap(), 5);
        for id in &ids[1..6] {
            let entry = f.get(*id);
            assert_eq!(entry.operation.status, Status::Expired);
            assert_eq!(entry.operation.resolution_type, "expired");
            assert_eq!((entry.terminal_at, entry.operation.resolved_at), (Some(f.now()), None));
            assert_eq!(entry.audit[0].action, "expire");
        }
        assert_eq!((f.status(ids[0]), f.status(ids[6])), (Status::Reviewing, Status::Pending));
        assert_eq!(f.expire(far(), 0, None).unwrap(), 1, "a chunk of nothing still works");
        assert_eq!(f.expire(far(), 100, None).unwrap(), 0);
        assert_eq!(f.status(never), Status::Pending);
        assert_eq!(tally(f, Cause::Expired), 6);
    });
}

#[test]
fn a_part_of_a_sweep_takes_the_oldest_and_no_more_than_its_limit() {
    each(|f| {
        let ids: Vec<_> = (0..5).map(|n| f.store(failure().expires_at(Timestamp(n)))).collect();
        let part = |before, limit| f.sweep(Sweep::Expire, before, limit, Some(&act())).unwrap();
        assert_eq!(part(far(), 2), 2);
        let expired = ids.iter().map(|id| f.status(*id) == Status::Expired);
        assert_eq!(expired.collect::<Vec<_>>(), [true, true, false, false, false]);
        assert_eq!(f.get(ids[0]).audit[0].actor, act().actor);
        assert_eq!(part(Timestamp(3), 2), 1, "strictly before");
        assert_eq!(part(far(), 0), 0);
        assert_eq!((part(far(), 2), part(far(), 2)), (2, 0));
        let archive = Sweep::Archive(Status::Expired);
        assert_eq!(f.sweep(archive, far(), 4, None).unwrap(), 4);
        assert_eq!(f.sweep(Sweep::Archive(Status::Archived), far(), 4, None).unwrap(), 0);
        assert_eq!(f.sweep(Sweep::Purge, far(), 3, None).unwrap(), 3);
        assert_eq!(f.count(&Filter::default()).unwrap(), 2);
    });
}

#[test]
fn the_next_sweep_is_known_as_exactly_as_it_is_asked() {
    each(|f| {
        let next = |sweep, from, within_ms| {
            let within = Duration::from_millis(within_ms);
            f.next_sweep(sweep, Timestamp(from), within).unwrap().map(|at| at.0)
        };
        assert_eq!(next(Sweep::Expire, 0, 1), None);
        f.store(failure());
        assert_eq!(next(Sweep::Expire, 0, 1), None, "one that never expires");
        let id = f.store(failure().expires_at(Timestamp(1_000_000_000)));
        f.store(failure().expires_at(Timestamp(2_000_000_000)));
        for from in [0, 17, 999_999_000, 1_000_000_000] {
            assert_eq!(next(Sweep::Expire, from, 1), Some(1_000_000_001), "from {from}");
            let roughly = next(Sweep::Expire, from, 60_000).unwrap();
            assert!((1_000_000_001..1_000_060_001).contains(&roughly), "from {from}: {roughly}");
        }
        assert_eq!(next(Sweep::Expire, 5_000_000_000, 10), Some(5_000_000_010), "it is late");
        assert_eq!(next(Sweep::Archive(Status::Rejected), 0, 1), None);
        f.put(id, Status::Rejected);
        let age = f.get(id).age_from().unwrap().0;
        assert_eq!(next(Sweep::Archive(Status::Rejected), 0, 1), Some(age + 1));
        assert_eq!(next(Sweep::Archive(Status::Pending), 0, 1), None);
        f.put(id, Status::Archived);
        assert_eq!(next(Sweep::Purge, age - 10, 1), Some(f.now().0 + 1));
        assert_eq!(next(Sweep::Expire, 0, 1), Some(2_000_000_001));
    });
}

#[test]
fn final_entries_are_archived_by_the_age_of_their_status() {
    each(|f| {
        for status in
            [Status::Resolved, Status::Rejected, Status::Expired, Status::PermanentlyFailed]
        {
            let ids = f.stored(5);
            f.advance_ms(1000);
            ids.iter().for_each(|id| f.put(*id, status));
            let at = f.now();
            f.advance_ms(10);
            let young = f.store_in(status);
            let archive = |before| f.archive_before(status, before, 2, Some(&act())).unwrap();
            assert_eq!(archive(Timestamp(0)), 0);
            assert_eq!(archive(at), 0, "exactly as old is not older");
            assert_eq!(archive(Timestamp(at.0 + 1)), 5);
            let entry = f.get(ids[0]);
            assert_eq!(entry.operation.status, Status::Archived);
            assert_eq!((entry.archived_at, entry.terminal_at), (Some(f.now()), Some(at)));
            assert_eq!(entry.operation.resolved_at.is_some(), status == Status::Resolved);
            assert_eq!(entry.audit[0].from, status);
            assert_eq!(f.status(young), status);
            assert_eq!(archive(far()), 1);
            assert_eq!(archive(far()), 0);
        }
    });
}

#[test]
fn only_final_entries_are_archived() {
    each(|f| {
        for status in Status::ALL {
            let id = f.store_in(status);
            let before = f.get(id);
            let wanted = u64::from(status.is_terminal() && status != Status::Archived);
            assert_eq!(f.archive_before(status, far(), 10, None).unwrap(), wanted, "{status}");
            assert_eq!(f.get(id) == before, wanted == 0);
        }
    });
}

/// Four archived entries, one millisecond after the other, and the time of the second.
fn archived(f: &Fixture) -> (Vec<deadletter::EntryId>, Timestamp) {
    let ids = f.stored(4);
    for id in &ids {
        f.put(*id, Status::Resolved);
        f.advance_ms(1);
        f.put(*id, Status::Archived);
    }
    (ids, Timestamp(f.now().0 - 2))
}

#[test]
fn as_many_are_purged_as_were_counted() {
    each(|f| {
        let (ids, second) = archived(f);
        let pending = f.store(failure());
        f.advance_ms(5000);
        f.increment_retry_count(ids[3]).unwrap();
        f.reopen();
        for (before, wanted) in
            [(Timestamp(0), 0), (second, 1), (Timestamp(second.0 + 1), 1), (far(), 2)]
        {
            assert_eq!(f.count_archived_before(before).unwrap(), wanted);
            assert_eq!(f.purge_archived_before(before, 1).unwrap(), wanted);
            assert_eq!(f.count_archived_before(before).unwrap(), 0);
        }
        assert_eq!(f.found(&Filter::default(), everything()), [pending]);
        assert_eq!(tally(f, Cause::Purged), 4);
    });
}

#[test]
fn a_purge_by_ids_checks_all_before_it_deletes_any() {
    each(|f| {
        let (ids, _) = archived(f);
        for status in Status::ALL.into_iter().filter(|status| *status != Status::Archived) {
            let other = f.store_in(status);
            let error = f.purge_archived(&[ids[0], other, ids[1]]).unwrap_err();
            let Error::Conflict { id, status: found, wanted } = error else {
                panic!("{error}");
            };
            assert_eq!((id, found), (other.to_string(), status.to_string()));
            assert_eq!(wanted, "archived");
            assert!(f.get_by_id(ids[0]).unwrap().is_some());
        }
        let asked = [ids[2], UNKNOWN, ids[0], ids[2]];
        assert_eq!(f.purge_archived(&asked).unwrap(), 2);
        assert_eq!(f.purge_archived(&asked).unwrap(), 0);
        assert_eq!(f.purge_archived(&[]).unwrap(), 0);
        let left = f.found(&status_filter(Status::Archived), everything());
        assert_eq!(left, [ids[1], ids[3]]);
    });
}

#[test]
fn cleanup_statistics_are_strict_and_say_what_could_be_done() {
    each(|f| {
        let resolved = f.store_in(Status::Resolved);
        let archived = f.store_in(Status::Archived);
        let at = f.now().0;
        let stats = |days: u64, more: u64| {
            let stats = f.get_cleanup_stats(Timestamp(at + days * DAY_MS + more)).unwrap();
            assert_eq!((stats.total, stats.by_status.len()), (2, 2));
            (stats.can_archive(), stats.can_purge())
        };
        assert_eq!(stats(0, 0), (0, 0));
        assert_eq!(stats(30, 0), (0, 0));
        assert_eq!(stats(30, 1), (1, 0));
        assert_eq!(stats(90, 0), (1, 0));
        assert_eq!(stats(90, 1), (1, 1));
        let early = f.get_cleanup_stats(Timestamp(5)).unwrap();
        assert_eq!((early.can_archive(), early.can_purge()), (0, 0));
        assert_eq!((f.status(resolved), f.status(archived)), {
            (Status::Resolved, Status::Archived)
        });
    });
}
