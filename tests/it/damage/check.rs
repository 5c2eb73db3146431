//! One damaged copy of the store, and everything that a user may ask of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use deadletter::format::{self, SEGMENT_HEADER_COPY, SegmentHeader};
use deadletter::{
    Accounting, Cause, Config, Engine, Entry, EntryId, Error, Filter, NewFailure, Recovery, Status,
    VerifyReport, verify,
};

use super::fixture::{self, Fixture, Record, log_path};

/// A change to the files of the fixture.
#[derive(Debug, Clone)]
pub struct Case {
    pub name: String,
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    /// The bytes of the log that differ or are gone.
    touched: Vec<(String, Range<u64>)>,
    /// Whether the change may be something that no reader can tell from an orderly end.
    unseen: bool,
}

impl Case {
    pub fn new(fixture: &Fixture, name: impl Into<String>) -> Self {
        let files = fixture.files.clone();
        Self { name: name.into(), files, touched: Vec::new(), unseen: false }
    }

    /// One bit is another one.
    pub fn flip(fixture: &Fixture, segment: &str, offset: u64) -> Self {
        let mut case = Self::new(fixture, format!("bit flipped at {offset} of {segment}"));
        case.change(segment, offset..offset + 1, |bytes| bytes[0] ^= 1 << (offset % 8));
        case
    }

    /// A range reads as zeros.
    pub fn zero(fixture: &Fixture, segment: &str, range: Range<u64>) -> Self {
        let mut case = Self::new(fixture, format!("zeros at {range:?} of {segment}"));
        case.change(segment, range, |bytes| bytes.fill(0));
        case
    }

    /// The file ends early.
    pub fn cut(fixture: &Fixture, segment: &str, len: u64) -> Self {
        let mut case = Self::new(fixture, format!("{segment} cut to {len}"));
        let bytes = case.files.get_mut(&log_path(segment)).unwrap();
        let range = len..bytes.len() as u64;
        case.unseen = bytes[at(len)..].iter().all(|byte| *byte == 0);
        bytes.truncate(at(len));
        case.touched.push((segment.to_owned(), range));
        case
    }

    /// The file is gone.
    pub fn delete(fixture: &Fixture, segment: &str) -> Self {
        let mut case = Self::new(fixture, "");
        case.also_delete(segment);
        case
    }

    pub fn also_delete(&mut self, segment: &str) {
        let bytes = self.files.remove(&log_path(segment)).unwrap();
        self.touched.push((segment.to_owned(), 0..bytes.len() as u64));
        self.name += &format!(" {segment} deleted");
    }

    /// Changes a range of a segment.
    pub fn change(&mut self, segment: &str, range: Range<u64>, change: impl FnOnce(&mut [u8])) {
        let bytes = self.files.get_mut(&log_path(segment)).unwrap();
        let before = bytes.clone();
        change(&mut bytes[at(range.start)..at(range.end)]);
        self.unseen = before == *bytes;
        let mut differs = (range.start..range.end).filter(|i| before[at(*i)] != bytes[at(*i)]);
        let (first, last) = (differs.clone().next(), differs.next_back());
        if let (Some(first), Some(last)) = (first, last) {
            self.touched.push((segment.to_owned(), first..last + 1));
        }
    }

    fn touches(&self, segment: &str, range: &Range<u64>) -> bool {
        self.touched.iter().any(|(touched, bytes)| {
            touched == segment && bytes.start < range.end && range.start < bytes.end
        })
    }

    /// Whether no header of a segment can be read: then none of its records can.
    fn unreadable(&self, segment: &str) -> bool {
        self.files.get(&log_path(segment)).is_none_or(|bytes| {
            let mut page = bytes.clone();
            page.resize(page.len().max(at(2 * SEGMENT_HEADER_COPY)), 0);
            SegmentHeader::decode(&page[..at(2 * SEGMENT_HEADER_COPY)]).is_err()
        })
    }
}

fn at(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

/// What a case must have taken.
struct Taken {
    /// Entries whose record was touched.
    entries: BTreeSet<u64>,
    /// Changes whose record was touched.
    changes: BTreeSet<u64>,
    /// Records of which only the zeros behind the body were touched; they may be read.
    spared: BTreeSet<u64>,
    /// Entries whose newest change was touched.
    stale: BTreeSet<u64>,
}

impl Taken {
    fn by(fixture: &Fixture, case: &Case) -> Self {
        let unreadable: Vec<String> =
            fixture.segments().into_iter().filter(|segment| case.unreadable(segment)).collect();
        let lost = |record: &Record| {
            unreadable.contains(&record.segment) || case.touches(&record.segment, &record.used)
        };
        let lsns = |kind: &str| -> BTreeSet<u64> {
            let records = fixture.records.iter().filter(|record| record.kind == kind);
            records.filter(|record| lost(record)).map(|record| record.lsn).collect()
        };
        let padding = |record: &&Record| {
            !lost(record) && case.touches(&record.segment, &record.whole) && record.kind == "entry"
        };
        let spared = fixture.records.iter().filter(padding).map(|record| record.lsn).collect();
        let stale = fixture
            .records
            .iter()
            .filter(|record| lost(record) || case.touches(&record.segment, &record.whole));
        Self {
            entries: lsns("entry"),
            changes: lsns("change"),
            spared,
            stale: stale.filter_map(|record| record.target).collect(),
        }
    }
}

/// Checks many cases and names those that fail.
pub fn sweep(fixture: &Fixture, cases: impl IntoIterator<Item = Case>) {
    let mut failed = Vec::new();
    let mut checked = 0;
    for case in cases {
        checked += 1;
        let result = catch_unwind(AssertUnwindSafe(|| check(fixture, &case)));
        failed.extend(result.is_err().then_some(case.name));
    }
    assert!(checked > 0);
    assert!(failed.is_empty(), "{} of {checked} cases failed: {failed:#?}", failed.len());
}

/// Damages a copy and asks everything of it.
pub fn check(fixture: &Fixture, case: &Case) {
    let dir = fixture::temporary();
    fixture::put_files(dir.path(), &case.files);
    let config = &fixture::config(dir.path());
    let taken = Taken::by(fixture, case);
    let report = verify(config, &mut |_, _| {}).unwrap();
    check_verify(fixture, case, &taken, &report);
    if !report.damage.is_empty() {
        check_strict(case, config);
    }
    let engine = Engine::open(config.clone()).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    let live = check_entries(fixture, case, &taken, &engine);
    let accounting = check_accounting(fixture, case, &engine, &live);
    check_quarantine(case, &taken, &config.dir);
    let stored = engine.store(NewFailure::new("payment", "LATER")).unwrap();
    assert!(stored.id.0 > fixture.last_lsn, "{}: {} was used before", case.name, stored.id);
    engine.close().unwrap();

    let engine = Engine::open(config.clone()).unwrap();
    let again = engine.report();
    assert!(again.clean, "{}", case.name);
    assert_eq!(again.lost, [], "{}: reported twice", case.name);
    let mut entries = fixture::all(&engine);
    let newest = entries.pop().map(|entry| entry.operation.id);
    assert_eq!(newest, Some(stored.id), "{}", case.name);
    assert!(entries == live, "{}: other entries after the second open", case.name);
    let mut wanted = accounting;
    wanted.captured += 1;
    wanted.live += 1;
    wanted.offered += 1;
    assert_eq!(engine.accounting().unwrap(), wanted, "{}", case.name);
    engine.close().unwrap();
}

fn check_verify(fixture: &Fixture, case: &Case, taken: &Taken, report: &VerifyReport) {
    let name = &case.name;
    if case.unseen {
        assert_eq!(report.torn_tail_bytes, 0, "{name}");
        return;
    }
    assert!(!report.damage.is_empty(), "{name}: verify saw nothing");
    assert_eq!(report.torn_tail_bytes, 0, "{name}: damage called a torn tail");
    let mut named = BTreeSet::new();
    for damage in &report.damage {
        if let (Some(from), Some(to)) = (damage.lsn_from, damage.lsn_to) {
            named.extend(from..=to);
        }
        assert!(!damage.to_string().contains("record 0"), "{name}: {damage}");
    }
    let mut wanted: BTreeSet<u64> = taken.entries.union(&taken.changes).copied().collect();
    wanted.extend(&taken.spared);
    // The zeros behind a change say nothing of an entry, but its record is named.
    let padding = |record: &&Record| case.touches(&record.segment, &record.whole);
    let records = fixture.records.iter().filter(padding).filter(|record| record.kind == "change");
    wanted.extend(records.map(|record| record.lsn));
    assert_eq!(named, wanted, "{name}: {:?}", report.damage);
    let counted: Option<u64> = report.damage.iter().map(|damage| damage.entries).sum();
    if let Some(counted) = counted {
        let wanted = taken.entries.len() + taken.spared.len();
        assert_eq!(counted, wanted as u64, "{name}: {:?}", report.damage);
    }
    let lost = (taken.entries.len() + taken.spared.len()) as u64;
    assert_eq!(report.entries, fixture.entries.len() as u64 - lost, "{name}");
}

/// Strict recovery refuses and leaves every byte as it was.
fn check_strict(case: &Case, config: &Config) {
    let mut strict = config.clone();
    strict.recovery = Recovery::Strict;
    let error = Engine::open(strict).unwrap_err();
    assert!(matches!(error, Error::Damaged(_)), "{}: {error}", case.name);
    assert!(fixture::files(&config.dir) == case.files, "{}: strict wrote", case.name);
}

/// Everything but what was touched is there, byte for byte.
fn check_entries(fixture: &Fixture, case: &Case, taken: &Taken, engine: &Engine) -> Vec<Entry> {
    let name = &case.name;
    let live = fixture::all(engine);
    let found: BTreeMap<u64, &Entry> =
        live.iter().map(|entry| (entry.operation.id.0, entry)).collect();
    assert_eq!(found.len(), live.len(), "{name}: an entry is listed twice");
    for wanted in &fixture.entries {
        let id = wanted.operation.id.0;
        let got = engine.get(EntryId(id)).unwrap();
        assert!(got.as_ref() == found.get(&id).copied(), "{name}: get {id} and find differ");
        let Some(got) = got else {
            let lost = taken.entries.contains(&id) || taken.spared.contains(&id);
            assert!(lost, "{name}: entry {id} is gone, {:?}", engine.warnings());
            continue;
        };
        assert!(!taken.entries.contains(&id), "{name}: entry {id} came from damaged bytes");
        let mut older = wanted.clone();
        older.set_state(fixture.before[&id].clone());
        // The footer repeats the status and the times of a damaged change.
        let same_facts = { got.operation.domain == wanted.operation.domain }
            && got.operation.request_data == wanted.operation.request_data;
        let stale = taken.stale.contains(&id) && (got == older || same_facts);
        assert!(
            got == *wanted || stale,
            "{name}: entry {id} is another one: {} {}, stale {:?}",
            got.operation.status,
            got.operation.updated_at,
            taken.stale
        );
    }
    let unknown = live.iter().find(|entry| !fixture.before.contains_key(&entry.operation.id.0));
    assert!(unknown.is_none(), "{name}: an entry that was never stored");
    live
}

/// All counts agree with the entries found, and nothing vanished without being counted.
fn check_accounting(fixture: &Fixture, case: &Case, engine: &Engine, live: &[Entry]) -> Accounting {
    let name = &case.name;
    let count = live.len() as u64;
    assert_eq!(engine.count(&Filter::default()).unwrap(), count, "{name}");
    let mut by_status: BTreeMap<Status, u64> = BTreeMap::new();
    let mut by_domain: BTreeMap<String, u64> = BTreeMap::new();
    for entry in live {
        *by_status.entry(entry.operation.status).or_default() += 1;
        *by_domain.entry(entry.operation.domain.clone()).or_default() += 1;
    }
    let facets = engine.facets(None, None).unwrap();
    assert_eq!((facets.by_status, facets.by_domain), (by_status, by_domain), "{name}");
    assert_eq!(engine.statistics().unwrap().total, count, "{name}");
    let accounting = engine.accounting().unwrap();
    assert_eq!(accounting.live, count, "{name}: {accounting:?} {:?}", engine.warnings());
    assert_eq!(accounting.captured, accounting.live + accounting.lost, "{name}");
    assert_eq!(accounting.captured, fixture.entries.len() as u64, "{name}: {accounting:?}");
    assert_eq!(engine.count(&Filter::default()).unwrap(), count, "{name}");
    let tallies = engine.tallies().unwrap();
    let stored: u64 = tallies.iter().filter_map(|row| row.counts.get(&Cause::Stored)).sum();
    assert_eq!(stored, accounting.captured, "{name}: {tallies:?}");
    accounting
}

/// The damaged bytes of a lost entry were put aside.
fn check_quarantine(case: &Case, taken: &Taken, dir: &Path) {
    if taken.entries.is_empty() {
        return;
    }
    for (segment, range) in &case.touched {
        let Some(bytes) = case.files.get(&log_path(segment)) else { continue };
        let end = at(range.end).min(bytes.len());
        let Some(damaged) = bytes.get(at(range.start)..end).filter(|bytes| !bytes.is_empty())
        else {
            continue;
        };
        if damaged.iter().all(|byte| *byte == 0) {
            continue;
        }
        let folder = dir.join(format::QUARANTINE_DIR);
        let kept = fs::read_dir(&folder).map(|names| {
            names.map(|name| fs::read(name.unwrap().path()).unwrap()).collect::<Vec<_>>()
        });
        let kept = kept.unwrap_or_default();
        let found =
            kept.iter().any(|copy| copy.windows(damaged.len()).any(|window| window == damaged));
        assert!(found, "{}: the damaged bytes are not in quarantine", case.name);
    }
}
