//! What is due, expired or aged: the record is read only where the index cannot tell.

use super::*;

const NOW: u64 = 1_700_000_000_000;
const DAY_MS: u64 = 86_400_000;

fn asks_for(status: Status) -> Filter {
    Filter { status: Some(status), ..Filter::default() }
}

fn due() -> Filter {
    Filter { due_at: Some(Timestamp(NOW)), ..asks_for(Status::Pending) }
}

fn expired() -> Filter {
    Filter { expires_before: Some(Timestamp(NOW)), ..asks_for(Status::Pending) }
}

fn aged(status: Status) -> Filter {
    Filter { aged_before: Some(Timestamp(NOW)), ..asks_for(status) }
}

/// A summary with one entry for each of these.
fn stored(number: u64, entries: &[(Status, When, u64)]) -> Summary {
    let mut summary = Summary::new(number);
    let term = summary.term("a");
    for (lsn, (status, when, expires_ms)) in (number * 100..).zip(entries) {
        summary.entries.push(EntryRow {
            lsn,
            offset: lsn * 8,
            created_ms: NOW - DAY_MS,
            expires_ms: *expires_ms,
            key_hash: lsn,
            status: *status,
            when: *when,
            domain: term,
            failure_type: term,
        });
    }
    summary
}

fn loaded(summaries: Vec<Summary>) -> (Rows, Catalog) {
    let rows = Rows(Mutex::new(summaries.into_iter().map(Arc::new).collect()));
    let catalog = Catalog::new(Arc::new(MemIndex::default()), 1 << 20);
    catalog.load(&rows, None, &mut |_, _| {}).unwrap();
    (rows, catalog)
}

/// What matches by the index alone, and what has to be read.
#[track_caller]
fn check(rows: &Rows, catalog: &Catalog, filter: &Filter, told: &[u64], asked: &[u64]) {
    let page = Page { order: Order::Oldest, ..Page::default() };
    for answer in [false, true] {
        let mut heard = Vec::new();
        let confirm: query::Confirm<'_> = &mut |lsn| {
            heard.push(lsn);
            Ok(answer)
        };
        let found = catalog.select(rows, filter, page, confirm).unwrap();
        assert_eq!(heard, asked);
        let mut expected: Vec<u64> = told.to_vec();
        expected.extend(asked.iter().filter(|_| answer));
        expected.sort_unstable();
        assert_eq!(found, expected);
        let count = catalog.count(rows, filter, &mut |_| Ok(answer)).unwrap();
        assert_eq!(count, expected.len() as u64);
    }
}

#[test]
fn rows_of_before_are_read_and_those_of_today_are_not() {
    let long_ago = NOW - DAY_MS;
    let told = |when_ms: u64| When::of(long_ago, when_ms);
    let (pending, resolved) = (Status::Pending, Status::Resolved);
    let (rows, catalog) = loaded(vec![
        stored(
            1,
            &[
                (pending, When::NONE, NOW + 1),
                (pending, When::UNKNOWN, NOW - 1),
                (resolved, When::UNKNOWN, TIME_NONE),
                (Status::Replaying, When::NONE, TIME_NONE),
            ],
        ),
        stored(
            2,
            &[
                (pending, When::NONE, NOW),
                (pending, told(NOW), TIME_NONE),
                (pending, told(NOW + DAY_MS), TIME_NONE),
                (resolved, told(NOW), TIME_NONE),
                (resolved, told(NOW - 1000), TIME_NONE),
            ],
        ),
    ]);
    // A day is known to the second: what is due right now has to be looked at.
    check(&rows, &catalog, &due(), &[100, 200], &[101, 201]);
    check(&rows, &catalog, &expired(), &[101], &[]);
    check(&rows, &catalog, &aged(resolved), &[204], &[102]);
    check(&rows, &catalog, &aged(Status::Replaying), &[], &[]);
    check(&rows, &catalog, &aged(Status::Archived), &[], &[]);
    let both = Filter { status: None, ..due() };
    check(&rows, &catalog, &both, &[100, 103, 200], &[101, 102, 201, 203, 204]);
}

#[test]
fn a_change_tells_its_times_to_the_millisecond() {
    let entries = [(Status::Pending, When::UNKNOWN, NOW - 1); 5];
    let mut summary = stored(1, &entries);
    let states = [
        (Status::Pending, NOW, NOW),
        (Status::Pending, NOW + 1, NOW - 1),
        (Status::Archived, NOW - 1, TIME_NONE),
        (Status::Archived, NOW, TIME_NONE),
        (Status::Archived, TIME_NONE, TIME_NONE),
    ];
    for (target, (status, when_ms, expires_ms)) in (100..).zip(states) {
        let lsn = target + 50;
        let row = ChangeRow {
            lsn,
            target,
            offset: lsn * 8,
            status,
            updated_ms: NOW,
            when_ms,
            expires_ms,
        };
        summary.changes.push(row);
    }
    let changes = summary.changes.clone();
    let (rows, catalog) = loaded(vec![summary]);
    let all = |catalog: &Catalog| {
        check(&rows, catalog, &due(), &[100], &[]);
        check(&rows, catalog, &expired(), &[101], &[]);
        check(&rows, catalog, &aged(Status::Archived), &[102], &[104]);
    };
    all(&catalog);
    // The same while the changes wait in memory, and after they were folded.
    let (_, catalog) = loaded(vec![stored(1, &entries)]);
    changes.iter().for_each(|row| catalog.changed(1, row));
    all(&catalog);
    catalog.fold(&rows).unwrap();
    all(&catalog);
}

/// Changes as replays and operators leave them: of the pending entries the last 50 are due, and
/// the older half of the archived ones is old enough.
fn lived(entries: u64, per_segment: u64, archived: bool) -> Rows {
    let rows = large(entries, per_segment, false);
    let mut segments = rows.0.into_inner().unwrap();
    let last = segments.last().unwrap().entries.last().unwrap().lsn;
    for summary in &mut segments {
        let summary = Arc::make_mut(summary);
        for row in &mut summary.entries {
            row.expires_ms = NOW + 30 * DAY_MS + row.lsn * 17;
            let is_due = row.lsn + 50 > last;
            let (status, when_ms) = match (archived, is_due) {
                (true, _) => (Status::Archived, NOW - last * 40 + row.lsn * 80),
                (false, true) => (Status::Pending, NOW - 1),
                (false, false) => (Status::Pending, NOW + 1 + row.lsn * 7919 % DAY_MS),
            };
            summary.changes.push(ChangeRow {
                lsn: last + row.lsn,
                target: row.lsn,
                offset: row.offset + 512,
                status,
                updated_ms: NOW,
                when_ms,
                expires_ms: row.expires_ms,
            });
        }
    }
    Rows(Mutex::new(segments))
}

/// Prints figures; run by name with `--ignored --nocapture`, in release.
#[test]
#[ignore = "prints figures, takes gigabytes"]
fn figures_of_times() {
    let entries = entries_of_figures();
    for archived in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let rows = lived(entries, 16_000, archived);
        let last = rows.last(|summary| summary.changes.last().unwrap().lsn);
        let index = Arc::new(SledIndex::open(&dir.path().join("index"), 8 << 20).unwrap());
        let catalog = Catalog::new(index, 16 << 20);
        timed("rebuild", &mut || catalog.load(&rows, None, &mut |_, _| {}).unwrap().entries);
        timed("memory in KiB", &mut || (catalog.memory_bytes() >> 10) as u64);
        let oldest = Page { order: Order::Oldest, limit: 50, ..Page::default() };
        for round in ["cold", "warm", "warm", "with changes that wait"] {
            if round.starts_with("with") {
                for at in 0..OVERLAID {
                    let target = at * (entries / OVERLAID) + 1;
                    let row = ChangeRow {
                        lsn: last + at + 1,
                        target,
                        offset: 8,
                        status: Status::Replaying,
                        updated_ms: NOW,
                        when_ms: TIME_NONE,
                        expires_ms: TIME_NONE,
                    };
                    catalog.changed(1, &row);
                }
            }
            let old = aged(Status::Archived);
            for (what, filter) in [("due", due()), ("expired", expired()), ("aged", old)] {
                timed(&format!("{round} {what}"), &mut || {
                    select(&catalog, &rows, &filter, oldest).len() as u64
                });
                timed(&format!("{round} {what}, count"), &mut || count(&catalog, &rows, &filter));
            }
        }
        timed("memory in KiB", &mut || (catalog.memory_bytes() >> 10) as u64);
    }
}

/// Changes that wait in memory in the figures.
const OVERLAID: u64 = 50_000;
