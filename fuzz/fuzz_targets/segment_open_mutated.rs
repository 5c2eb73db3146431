//! A valid store with some bytes of its segments changed: what was not touched is there, what was
//! touched is reported. With forged checksums: nothing but an orderly answer, twice the same.
#![no_main]

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use deadletter::format::{RECORD_HEADER_LEN, SEGMENT_HEADER_LEN, SegmentHeader};
use deadletter::{
    Engine, Entry, EntryId, Env, Filter, NewFailure, Order, Page, Simulated, VerifyReport,
    verify_with,
};
use deadletter_fuzz::choice::Choice;
use deadletter_fuzz::store::{Small, agree, all, balance, open, put, try_open};
use deadletter_fuzz::{forge, place};
use libfuzzer_sys::fuzz_target;

const EVERYTHING: Page = Page { order: Order::Oldest, offset: 0, limit: 1_000, after: None };

/// Changes to one store.
const MUTATIONS_MAX: usize = 8;

/// A record of the store.
struct Record {
    segment: usize,
    used: Range<usize>,
    kind: &'static str,
    lsn: u64,
    /// The entry that a change is about.
    target: Option<u64>,
}

struct Fixture {
    small: Small,
    segments: Vec<(PathBuf, Vec<u8>)>,
    records: Vec<Record>,
}

fuzz_target!(|data: &[u8]| {
    let [mode, rest @ ..] = data else { return };
    let fixture = fixture();
    let mut choice = Choice::new(rest);
    let mut files = fixture.segments.clone();
    // One: then the account is exact. Several together may hide how much was lost.
    let single = mode % 3 == 0;
    for _ in 0..if single { 1 } else { MUTATIONS_MAX } {
        if choice.is_empty() {
            break;
        }
        let index = choice.below(files.len());
        mutate(&mut files[index].1, &mut choice);
    }
    let forged = mode % 3 == 2;
    if forged {
        files.iter_mut().for_each(|(_, bytes)| forge::repair_segment(bytes));
    }
    let disk = fixture.small.copy();
    for (path, bytes) in &files {
        put(&disk, path, bytes);
    }
    if forged { survive(&fixture.small, &disk) } else { check(fixture, &files, &disk, single) }
});

fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let small = Small::new();
        let folder = place::folder();
        let mut records = Vec::new();
        let mut segments = Vec::new();
        for (index, path) in small.segments().into_iter().enumerate() {
            let bytes = small.disk.read_raw(&path).unwrap();
            let copy = folder.path().join(path.file_name().unwrap());
            fs::write(&copy, &bytes).unwrap();
            records.extend(records_of(&copy, index));
            segments.push((path, bytes));
        }
        assert!(segments.len() >= 3, "sealed segments and an active one");
        Fixture { small, segments, records }
    })
}

fn records_of(path: &Path, segment: usize) -> Vec<Record> {
    let frames = deadletter::dump(path, 0).unwrap().map(Result::unwrap);
    let record = |frame: deadletter::FrameInfo| {
        let from = usize::try_from(frame.offset).unwrap();
        let target = frame.body.split(' ').next().and_then(|word| word.parse().ok());
        Record {
            segment,
            used: from..from + RECORD_HEADER_LEN + usize::try_from(frame.len).unwrap(),
            kind: frame.kind,
            lsn: frame.lsn,
            target: target.filter(|_| frame.kind == "change"),
        }
    };
    frames.map(record).collect()
}

fn mutate(bytes: &mut Vec<u8>, choice: &mut Choice<'_>) {
    let len = bytes.len().max(1);
    let at = choice.below(len);
    let count = choice.below(512).min(bytes.len().saturating_sub(at));
    match choice.below(6) {
        0 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (count % 8)),
        1 => bytes[at..at + count].fill(0),
        2 => {
            let given = choice.bytes(count.min(64));
            bytes.iter_mut().skip(at).zip(given).for_each(|(byte, new)| *byte = *new);
        }
        3 => {
            let from = choice.below(len);
            let count = count.min(bytes.len().saturating_sub(from));
            bytes.copy_within(from..from + count, at);
        }
        // Whole numbers that bounds are checked against.
        4 => {
            let number = choice.pick(&[0, 1, u64::MAX, u64::MAX - 1, 1 << 31, u64::from(u32::MAX)]);
            let at = at & !3;
            let new = number.to_le_bytes();
            bytes.iter_mut().skip(at).zip(new).for_each(|(byte, new)| *byte = new);
        }
        _ => bytes.truncate(at),
    }
}

/// Which records lost bytes, and which segments cannot be read.
struct Taken<'a> {
    fixture: &'a Fixture,
    files: &'a [(PathBuf, Vec<u8>)],
    unreadable: Vec<bool>,
}

impl<'a> Taken<'a> {
    fn new(fixture: &'a Fixture, files: &'a [(PathBuf, Vec<u8>)]) -> Self {
        let unreadable = files.iter().map(|(_, bytes)| {
            let mut page = bytes.clone();
            page.resize(page.len().max(SEGMENT_HEADER_LEN as usize), 0);
            SegmentHeader::decode(&page[..SEGMENT_HEADER_LEN as usize]).is_err()
        });
        Self { fixture, files, unreadable: unreadable.collect() }
    }

    fn touches(&self, record: &Record) -> bool {
        let before = &self.fixture.segments[record.segment].1[record.used.clone()];
        let now = self.files[record.segment].1.get(record.used.clone());
        self.unreadable[record.segment] || now != Some(before)
    }
}

/// Everything but what was touched is there, and what was touched is named.
fn check(fixture: &Fixture, files: &[(PathBuf, Vec<u8>)], disk: &Simulated, single: bool) {
    let small = &fixture.small;
    let taken = Taken::new(fixture, files);
    let env: Arc<dyn Env> = Arc::new(disk.clone());
    let report = verify_with(&small.config, &env, &mut |_, _| {}).expect("verify reads anything");
    let lost: Vec<&Record> = fixture.records.iter().filter(|r| taken.touches(r)).collect();
    check_report(&report, &lost);
    let engine = open(&small.config, disk);
    let found = check_entries(small, &lost, &engine);
    // A removal that is lost together with its entry is counted twice, as purged and as lost.
    let removals = lost.iter().filter_map(|record| record.target).map(EntryId).collect::<Vec<_>>();
    if single && !removals.iter().any(|id| small.removed.contains(id)) {
        balance(&engine, &found);
    }
    let stored = engine.store(NewFailure::new("later", "LATER")).expect("the store takes entries");
    assert!(!small.stored.iter().any(|entry| entry.operation.id == stored.id), "an id came again");
    engine.close().unwrap();
    drop(engine);
    let again = open(&small.config, &disk.restarted());
    assert_eq!(again.report().lost, [], "reported twice");
    let mut entries = all(&again);
    assert_eq!(entries.pop().map(|entry| entry.operation.id), Some(stored.id));
    assert!(entries == found, "other entries after the second open");
}

fn check_report(report: &VerifyReport, lost: &[&Record]) {
    assert!(lost.is_empty() || !report.damage.is_empty(), "verify saw nothing");
    for record in lost.iter().filter(|record| matches!(record.kind, "entry" | "change")) {
        let named = report.damage.iter().any(|damage| {
            damage.lsn_from.is_none_or(|from| from <= record.lsn)
                && damage.lsn_to.is_none_or(|to| record.lsn <= to)
        });
        assert!(named, "{} {} is in no report: {:?}", record.kind, record.lsn, report.damage);
    }
}

fn check_entries(small: &Small, lost: &[&Record], engine: &Engine) -> Vec<Entry> {
    let found = all(engine);
    agree(engine, &found);
    let gone: BTreeSet<u64> =
        lost.iter().filter(|r| r.kind == "entry").map(|record| record.lsn).collect();
    let stale: BTreeSet<u64> = lost.iter().filter_map(|record| record.target).collect();
    for wanted in &small.entries {
        let id = wanted.operation.id;
        let there = found.iter().any(|entry| entry.operation.id == id);
        assert!(there || gone.contains(&id.0), "{id} is gone: {:?}", engine.warnings());
    }
    for entry in &found {
        let id = entry.operation.id;
        assert!(!gone.contains(&id.0), "{id} came from damaged bytes");
        let index = small.stored.iter().position(|stored| stored.operation.id == id);
        let first = &small.stored[index.expect("an entry that was never stored")];
        assert_eq!(entry.operation.request_data, first.operation.request_data, "{id}");
        assert!(!small.removed.contains(&id) || stale.contains(&id.0), "{id} was removed");
        assert!(small.entries.contains(entry) || stale.contains(&id.0), "{id} is another one");
    }
    found
}

/// Forged checksums: whatever is said, nothing panics, and saying it twice gives the same.
fn survive(small: &Small, disk: &Simulated) {
    let env: Arc<dyn Env> = Arc::new(disk.clone());
    let _ = verify_with(&small.config, &env, &mut |_, _| {});
    let Ok(engine) = try_open(&small.config, disk) else { return };
    // A record that says it is of a later version refuses what reads it.
    let Ok(found) = engine.find(&Filter::default(), EVERYTHING) else { return };
    let closed = engine.close();
    drop(engine);
    if closed.is_ok() {
        let again = try_open(&small.config, &disk.restarted()).expect("it opened before");
        let entries = again.find(&Filter::default(), EVERYTHING).expect("it was found before");
        assert!(entries == found, "other entries after the second open");
    }
}
