//! Every operation in every status: where it leads, or that it is refused and changes nothing.
//!
//! A row of [`TABLE`] is one operation; its ten letters are the statuses in the order of
//! [`Status::ALL`]. A letter is the status that the entry has afterwards, `.` means refused, `-`
//! means gone.

use std::time::Duration;

use deadletter::{
    Entry, EntryId, Error, Filter, Leased, ReplayType, Resolution, Status, Timestamp,
};

use crate::contract::{
    Fixture, LEASE, UNKNOWN, act, delivered, each, everything, failed, failure, far, throttled,
};

/// The letters of the statuses, in the order of [`Status::ALL`]: pending, leased (replaying),
/// viewed (reviewing), delegated (replayed), questioned (requires review), solved (resolved),
/// judged (rejected), archived, expired, failed.
const LETTERS: &str = "PLVDQSJAXF";

/// How far the attempts of an entry got before the operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Budget {
    /// One of two attempts is left; a replaying entry is on its first.
    Left,
    /// None is left; a replaying entry is on its last.
    Spent,
    /// As `Left`, but a replaying entry is leased and not started.
    Idle,
}

use Budget::{Idle, Left, Spent};

/// What an operation is given: the entry, and its lease, or one that is nobody's.
type Act = fn(&Fixture, EntryId, Leased) -> bool;

struct Row {
    operation: &'static str,
    budget: Budget,
    act: Act,
    leads_to: &'static str,
}

const fn row(operation: &'static str, budget: Budget, act: Act, leads_to: &'static str) -> Row {
    Row { operation, budget, act, leads_to }
}

const TABLE: &[Row] = &[
    // Leases and attempts.
    row("acquire", Left, |f, id, _| acquire(f, id, false), "L........."),
    row("acquire at the cap", Spent, |f, id, _| acquire(f, id, false), "*........."),
    row("force", Left, |f, id, _| acquire(f, id, true), "L...L....."),
    row("force at the cap", Spent, |f, id, _| acquire(f, id, true), "*...L....."),
    row("lease", Left, |f, id, _| lease(f, id), "L........."),
    row("start", Idle, |f, _, own| done(f.start(own, ReplayType::Batch)), ".L........"),
    row("start again", Left, |f, _, own| done(f.start(own, ReplayType::Batch)), ".........."),
    row("succeed", Left, |f, _, own| done(f.complete_replay(own, &delivered())), ".S........"),
    row(
        "succeed at last",
        Spent,
        |f, _, own| done(f.complete_replay(own, &delivered())),
        "*S........",
    ),
    row("fail", Left, |f, _, own| done(f.complete_replay(own, &failed())), ".P........"),
    row("fail at last", Spent, |f, _, own| done(f.complete_replay(own, &failed())), "*Q........"),
    row("be throttled", Left, |f, _, own| done(f.complete_replay(own, &throttled())), ".P........"),
    row(
        "be throttled at last",
        Spent,
        |f, _, own| done(f.complete_replay(own, &throttled())),
        "*P........",
    ),
    row(
        "end without a start",
        Idle,
        |f, _, own| done(f.complete_replay(own, &failed())),
        "..........",
    ),
    row("end late", Left, |f, _, own| late(f, own), ".........."),
    row("end as another", Left, |f, _, own| as_another(f, own), ".........."),
    row("give back", Idle, |f, _, own| f.release(&[own]).unwrap() == 1, ".P........"),
    row("give back a start", Left, |f, _, own| f.release(&[own]).unwrap() == 1, ".........."),
    row("release", Left, |f, _, _| release(f, None), ".........."),
    row("release when over", Left, |f, _, _| release_over(f), ".P........"),
    row("release the last when over", Spent, |f, _, _| release_over(f), "*Q........"),
    row("release an idle one when over", Idle, |f, _, _| release_over(f), ".P........"),
    row("release by age", Left, |f, _, _| release(f, Some(Duration::ZERO)), ".P........"),
    row("release too young", Left, |f, _, _| release(f, Some(LEASE)), ".........."),
    // Operators.
    row("set pending", Left, |f, id, _| set(f, id, Status::Pending), "PPPPPPPPPP"),
    row("set pending at the cap", Spent, |f, id, _| set(f, id, Status::Pending), "*QQQQQQQQQ"),
    row("set replaying", Left, |f, id, _| set(f, id, Status::Replaying), "LLLLLLLLLL"),
    row("set reviewing", Left, |f, id, _| set(f, id, Status::Reviewing), "VVVVVVVVVV"),
    row("set replayed", Left, |f, id, _| set(f, id, Status::Replayed), "DDDDDDDDDD"),
    row("set requires review", Left, |f, id, _| set(f, id, Status::RequiresReview), "QQQQQQQQQQ"),
    row("set resolved", Left, |f, id, _| set(f, id, Status::Resolved), "SSSSSSSSSS"),
    row("set rejected", Left, |f, id, _| set(f, id, Status::Rejected), "JJJJJJJJJJ"),
    row("set archived", Left, |f, id, _| set(f, id, Status::Archived), "AAAAAAAAAA"),
    row("set expired", Left, |f, id, _| set(f, id, Status::Expired), "XXXXXXXXXX"),
    row("set failed", Left, |f, id, _| set(f, id, Status::PermanentlyFailed), "FFFFFFFFFF"),
    row("resolve", Left, |f, id, _| resolve(f, id), "SSSSSSSSSS"),
    row("set many", Left, |f, id, _| bulk(f, id, Status::Rejected), "JJJJJJJJJJ"),
    row("set many pending", Spent, |f, id, _| bulk(f, id, Status::Pending), "*QQQQQQQQQ"),
    row("charge", Left, |f, id, _| f.increment_retry_count(id).unwrap(), "QLVDQSJAXF"),
    row("charge at the cap", Spent, |f, id, _| f.increment_retry_count(id).unwrap(), "*LVDQSJAXF"),
    row("delete", Left, |f, id, _| f.delete(id).unwrap(), "----------"),
    // Maintenance.
    row("expire", Left, |f, _, _| f.expire(far(), 10, Some(&act())).unwrap() == 1, "X........."),
    row(
        "expire too early",
        Left,
        |f, _, _| f.expire(Timestamp(9), 10, None).unwrap() == 1,
        "..........",
    ),
    row("archive pending", Left, |f, _, _| archive(f, Status::Pending), ".........."),
    row("archive replaying", Left, |f, _, _| archive(f, Status::Replaying), ".........."),
    row(
        "archive requires review",
        Left,
        |f, _, _| archive(f, Status::RequiresReview),
        "..........",
    ),
    row("archive resolved", Left, |f, _, _| archive(f, Status::Resolved), ".....A...."),
    row("archive rejected", Left, |f, _, _| archive(f, Status::Rejected), "......A..."),
    row("archive archived", Left, |f, _, _| archive(f, Status::Archived), ".........."),
    row("archive expired", Left, |f, _, _| archive(f, Status::Expired), "........A."),
    row("archive failed", Left, |f, _, _| archive(f, Status::PermanentlyFailed), ".........A"),
    row("purge", Left, |f, id, _| purge(f, id), ".......-.."),
    row(
        "purge by age",
        Left,
        |f, _, _| f.purge_archived_before(far(), 10).unwrap() == 1,
        ".......-..",
    ),
    row(
        "purge too young",
        Left,
        |f, _, _| f.purge_archived_before(just_now(f), 10).unwrap() == 1,
        "..........",
    ),
];

/// True when the lease was the entry's; false when it was lost.
fn done(result: deadletter::Result<Entry>) -> bool {
    match result {
        Ok(_) => true,
        Err(Error::LeaseLost { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

fn acquire(f: &Fixture, id: EntryId, force: bool) -> bool {
    f.try_acquire_for_replay(id, LEASE, force, Some(&act())).unwrap().is_some()
}

fn lease(f: &Fixture, id: EntryId) -> bool {
    !f.acquire_batch(&[id], LEASE).unwrap().is_empty()
}

fn late(f: &Fixture, own: Leased) -> bool {
    f.env.advance(LEASE);
    done(f.complete_replay(own, &delivered()))
}

fn as_another(f: &Fixture, own: Leased) -> bool {
    done(f.complete_replay(Leased { token: own.token ^ 1, ..own }, &delivered()))
}

fn release(f: &Fixture, older_than: Option<Duration>) -> bool {
    f.release_stale_replaying(older_than).unwrap().total() == 1
}

fn release_over(f: &Fixture) -> bool {
    f.env.advance(LEASE);
    release(f, None)
}

fn set(f: &Fixture, id: EntryId, status: Status) -> bool {
    f.update_status(id, status, &Resolution::new("manual", "by hand"), Some(&act())).unwrap()
}

fn resolve(f: &Fixture, id: EntryId) -> bool {
    f.mark_as_resolved(id, &Resolution::new("manual", "by hand"), Some(&act())).unwrap()
}

fn bulk(f: &Fixture, id: EntryId, status: Status) -> bool {
    f.bulk_update_status(&[id], status).unwrap() == 1
}

fn archive(f: &Fixture, status: Status) -> bool {
    f.archive_before(status, far(), 10, Some(&act())).unwrap() == 1
}

fn purge(f: &Fixture, id: EntryId) -> bool {
    match f.purge_archived(&[id]) {
        Ok(count) => count == 1,
        Err(Error::Conflict { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

/// An entry in a status with such a budget, and its lease. `None` when there cannot be one.
fn prepared(f: &Fixture, status: Status, budget: Budget) -> Option<(EntryId, Leased)> {
    if status == Status::Pending && budget == Spent {
        return None;
    }
    let id = f.store(failure().expires_at(Timestamp(10)));
    let nobody = Leased { id, token: 0 };
    if status == Status::Replaying {
        if budget == Spent {
            f.fail(id);
        }
        let own = if budget == Idle { f.lease(&[id])[0] } else { f.acquire(id) };
        return Some((id, own));
    }
    if budget != Idle {
        f.fail(id);
    }
    if budget == Spent {
        f.fail(id);
    }
    if f.status(id) != status {
        f.put(id, status);
    }
    Some((id, nobody))
}

/// When an entry was prepared that is changed now.
fn just_now(f: &Fixture) -> Timestamp {
    Timestamp(f.now().0 - 1)
}

fn letter(status: Status) -> char {
    let at = Status::ALL.iter().position(|known| *known == status).unwrap();
    LETTERS.chars().nth(at).unwrap()
}

fn check(f: &mut Fixture, row: &Row, status: Status, wanted: char) {
    let what = format!("{} an entry that is {status}", row.operation);
    let Some((id, own)) = prepared(f, status, row.budget) else {
        assert_eq!(wanted, '*', "{what}: there cannot be one");
        return;
    };
    let others = f.find(&Filter::default(), everything()).unwrap();
    let before = f.get(id);
    f.advance_ms(1);
    let accepted = (row.act)(f, id, own);
    let after = f.get_by_id(id).unwrap();
    let found = match &after {
        None => '-',
        Some(after) if *after == before => '.',
        Some(after) => letter(after.operation.status),
    };
    assert_eq!((accepted, found), (wanted != '.', wanted), "{what}");
    if let Some(after) = after {
        check_fields(f, &before, &after, &what);
    }
    let left = f.find(&Filter::default(), everything()).unwrap();
    let untouched = |entry: &&Entry| entry.operation.id != id;
    assert!(others.iter().filter(untouched).eq(left.iter().filter(untouched)), "{what}: others");
    f.reopen();
    assert_eq!(f.find(&Filter::default(), everything()).unwrap(), left, "{what}: reopened");
    // The next row begins with nothing that maintenance could take.
    f.delete(id).unwrap();
}

/// What follows from the status that an entry got, whatever gave it.
fn check_fields(f: &Fixture, before: &Entry, after: &Entry, what: &str) {
    let (old, new) = (&before.operation, &after.operation);
    let given = |entry: &Entry| {
        let operation = &entry.operation;
        let texts = [operation.error_code.clone(), operation.error_message.clone()];
        (entry.key.clone(), operation.created_at, operation.request_data.clone(), texts)
    };
    assert_eq!(given(before), given(after), "{what}: what was given stays");
    assert!(after.state().attempts_total() >= before.state().attempts_total(), "{what}");
    assert!(after.lease.is_none() || new.status == Status::Replaying, "{what}");
    if after == before {
        return;
    }
    assert_eq!(new.updated_at, f.now(), "{what}");
    if new.status == old.status {
        assert_eq!((new.resolved_at, after.archived_at), (old.resolved_at, before.archived_at));
        return;
    }
    let now = Some(f.now());
    let times = (new.resolved_at, after.terminal_at, after.archived_at);
    let wanted = match new.status {
        Status::Resolved => (now, now, None),
        Status::Rejected | Status::Expired | Status::PermanentlyFailed => (None, now, None),
        Status::Archived => (old.resolved_at, before.terminal_at, now),
        _ => (None, None, None),
    };
    assert_eq!(times, wanted, "{what}: since when");
}

#[test]
fn every_operation_in_every_status() {
    each(|f| {
        for row in TABLE {
            let letters: Vec<char> = row.leads_to.chars().collect();
            assert_eq!(letters.len(), Status::ALL.len(), "{}", row.operation);
            for (status, wanted) in Status::ALL.into_iter().zip(letters) {
                check(f, row, status, wanted);
            }
        }
    });
}

#[test]
fn every_operation_on_an_unknown_entry_is_refused() {
    each(|f| {
        let own = Leased { id: UNKNOWN, token: 1 };
        for row in TABLE {
            assert!(!(row.act)(f, UNKNOWN, own), "{}", row.operation);
        }
        assert_eq!((f.accounting().unwrap().offered, f.tallies().unwrap().len()), (0, 0));
    });
}

/// A lease is the right to one entry.
#[test]
fn the_lease_of_another_entry_is_no_lease() {
    each(|f| {
        for status in Status::ALL {
            let id = f.store_in(status);
            let other = f.store(failure());
            let own = f.acquire(other);
            let before = (f.get(id), f.get(other));
            let stolen = Leased { id, ..own };
            let accepted = done(f.complete_replay(stolen, &delivered()))
                || done(f.start(stolen, ReplayType::Batch))
                || f.release(&[stolen]).unwrap() > 0
                || f.extend_lease(stolen, LEASE);
            assert!(!accepted, "{status}");
            assert_eq!((f.get(id), f.get(other)), before, "{status}");
            f.complete_replay(own, &delivered()).unwrap();
        }
    });
}
