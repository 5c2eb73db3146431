//! The catalog against a list that is searched from end to end.

#![expect(
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    reason = "the index does its own I/O, and is damaged here; the numbers of a test are small"
)]

mod times;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;
use crate::entry::{EntryId, Filter, Order, Page, Timestamp};
use crate::format::{ChangeRow, EntryRow, TIME_NONE, When};

/// Summaries in memory.
#[derive(Default)]
struct Rows(Mutex<Vec<Arc<Summary>>>);

impl Source for Rows {
    fn segments(&self) -> Vec<u64> {
        self.0.lock().unwrap().iter().map(|summary| summary.segment).collect()
    }

    fn generation(&self, segment: u64) -> u32 {
        self.summary(segment).unwrap().generation
    }

    fn summary(&self, segment: u64) -> Result<Arc<Summary>> {
        let held = self.0.lock().unwrap();
        Ok(Arc::clone(held.iter().find(|summary| summary.segment == segment).unwrap()))
    }
}

impl Rows {
    fn last<T>(&self, change: impl FnOnce(&mut Summary) -> T) -> T {
        change(Arc::make_mut(self.0.lock().unwrap().last_mut().unwrap()))
    }
}

/// An index that forgets some values and breaks others.
#[derive(Default)]
struct Careless {
    inner: MemIndex,
    calls: Mutex<u64>,
}

impl Index for Careless {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        let mut calls = self.calls.lock().unwrap();
        *calls += 1;
        let mut value = self.inner.get(key)?;
        match *calls * 7 % 11 {
            0..4 => None,
            4..6 => {
                let at = usize::try_from(*calls).unwrap() % value.len();
                value[at] ^= 1 << (*calls % 8);
                Some(value)
            }
            6 => Some(value[..value.len() / 2].to_vec()),
            _ => Some(value),
        }
    }
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.inner.put(key, value)
    }
    fn remove(&self, key: &[u8]) -> Result<()> {
        self.inner.remove(key)
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }
    fn clear(&self) -> Result<()> {
        self.inner.clear()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Store { domain: u8, kind: u8, created: u64, key: u64, status: usize, times: Hours },
    Change { target: usize, status: usize, times: Hours },
    Lose { from: usize, len: u64 },
    Burn(u64),
    Segment { folded: bool },
    Fold,
    Checkpoint,
    Reload { damage: u8 },
    Ask(Question),
}

/// Times that may change, in hours of the tests.
#[derive(Debug, Clone)]
struct Hours {
    due: Option<u64>,
    age: u64,
    expires: Option<u64>,
    /// The row leaves out what its state hangs on, if it may.
    untold: bool,
}

/// An hour is so long that a row of three bytes is not exact.
const HOUR_MS: u64 = 1 << 17;

const STATUSES: [Status; 5] =
    [Status::Pending, Status::Resolved, Status::Archived, Status::Replaying, Status::Expired];

fn hours() -> impl Strategy<Value = Hours> {
    let hour = || 0_u64..40;
    let (due, expires) = (prop::option::of(hour()), prop::option::of(hour()));
    (due, hour(), expires, prop::bool::weighted(0.05))
        .prop_map(|(due, age, expires, untold)| Hours { due, age, expires, untold })
}

#[derive(Debug, Clone)]
struct Question {
    status: Option<usize>,
    domain: Option<u8>,
    kind: Option<u8>,
    from: Option<u64>,
    to: Option<u64>,
    due: Option<u64>,
    expires: Option<u64>,
    aged: Option<u64>,
    newest: bool,
    offset: u64,
    limit: usize,
    after: Option<u64>,
}

fn question() -> impl Strategy<Value = Question> {
    let hour = || prop::option::weighted(0.3, 0_u64..40);
    let filter = (
        prop::option::of(0_usize..5),
        prop::option::of(0_u8..4),
        prop::option::of(0_u8..3),
        prop::option::weighted(0.2, 0_u64..1000),
        prop::option::weighted(0.2, 0_u64..1000),
        (hour(), hour(), hour()),
    );
    let page = (any::<bool>(), 0_u64..12, 0_usize..15, prop::option::weighted(0.4, 0_u64..200));
    (filter, page).prop_map(|(filter, (newest, offset, limit, after))| {
        let (status, domain, kind, from, to, (due, expires, aged)) = filter;
        Question {
            status,
            domain,
            kind,
            from,
            to,
            due,
            expires,
            aged,
            newest,
            offset: if newest { offset } else { offset / 4 },
            limit,
            after,
        }
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        30 => (0_u8..3, 0_u8..2, 0_u64..1000, 0_u64..20, 0_usize..3, hours()).prop_map(
            |(domain, kind, created, key, status, times)| {
                Step::Store { domain, kind, created, key, status, times }
            }
        ),
        20 => (any::<usize>(), 0_usize..6, hours())
            .prop_map(|(target, status, times)| Step::Change { target, status, times }),
        1 => (any::<usize>(), 0_u64..6).prop_map(|(from, len)| Step::Lose { from, len }),
        3 => (1_u64..9).prop_map(Step::Burn),
        4 => any::<bool>().prop_map(|folded| Step::Segment { folded }),
        2 => Just(Step::Fold),
        1 => Just(Step::Checkpoint),
        2 => (0_u8..8).prop_map(|damage| Step::Reload { damage }),
        12 => question().prop_map(Step::Ask),
    ]
}

#[derive(Debug, Clone)]
struct Known {
    segment: u64,
    ordinal: u32,
    status: Status,
    domain: String,
    kind: String,
    created: u64,
    key: u64,
    times: Hours,
    change: Option<(u64, Position)>,
}

impl Hours {
    /// What a row says that the state hangs on.
    fn when_ms(&self, status: Status) -> u64 {
        let hour = if status.has_age() { Some(self.age) } else { self.due };
        hour.map_or(TIME_NONE, |hour| hour * HOUR_MS)
    }

    fn expires_ms(&self) -> u64 {
        self.expires.map_or(TIME_NONE, |hour| hour * HOUR_MS)
    }
}

impl Known {
    fn fits(&self, filter: &Filter) -> bool {
        let before = |hour: u64, end: Timestamp| Timestamp(hour * HOUR_MS) < end;
        filter.status.is_none_or(|status| status == self.status)
            && filter.domain.as_ref().is_none_or(|domain| *domain == self.domain)
            && filter.failure_type.as_ref().is_none_or(|kind| *kind == self.kind)
            && filter.created_from.is_none_or(|from| from.0 <= self.created)
            && filter.created_to.is_none_or(|to| self.created <= to.0)
            && filter.due_at.is_none_or(|at| self.times.due.is_none_or(|due| due * HOUR_MS <= at.0))
            && filter
                .expires_before
                .is_none_or(|end| self.times.expires.is_some_and(|hour| before(hour, end)))
            && filter
                .aged_before
                .is_none_or(|end| self.status.has_age() && before(self.times.age, end))
    }
}

/// The naive model and the catalog, side by side.
struct Pair {
    rows: Rows,
    catalog: Catalog,
    known: BTreeMap<u64, Known>,
    losses: Vec<(u64, u64)>,
    lsn: u64,
    checkpointed: Option<u64>,
    all: Vec<u64>,
}

type Open<'a> = &'a dyn Fn(bool) -> Arc<dyn Index>;

impl Pair {
    fn new(index: Arc<dyn Index>) -> Self {
        let rows = Rows::default();
        rows.0.lock().unwrap().push(Arc::new(Summary::new(1)));
        Self {
            rows,
            catalog: Catalog::new(index, CACHE_BYTES),
            known: BTreeMap::new(),
            losses: Vec::new(),
            lsn: 1,
            checkpointed: None,
            all: Vec::new(),
        }
    }

    fn store(&mut self, known: Known) {
        self.lsn += 1;
        let lsn = self.lsn;
        let (row, segment) = self.rows.last(|summary| {
            let row = EntryRow {
                lsn,
                offset: lsn * 64,
                created_ms: known.created,
                expires_ms: known.times.expires_ms(),
                key_hash: known.key,
                status: known.status,
                when: if known.times.untold {
                    When::UNKNOWN
                } else {
                    When::of(known.created, known.times.when_ms(known.status))
                },
                domain: summary.term(&known.domain),
                failure_type: summary.term(&known.kind),
            };
            summary.entries.push(row.clone());
            (row, summary.segment)
        });
        let ordinal = self.rows.last(|summary| summary.entries.len() as u32 - 1);
        self.catalog.stored(segment, ordinal, &row, &known.domain, &known.kind);
        self.catalog.stored(segment, ordinal, &row, &known.domain, &known.kind);
        self.known.insert(lsn, Known { segment, ordinal, ..known });
        self.all.push(lsn);
    }

    /// Changes an entry; none means that it is gone from then on.
    fn change(&mut self, target: usize, status: Option<Status>, times: &Hours) {
        self.lsn += 1;
        let lsn = self.lsn;
        let target = self.all.get(target % self.all.len().max(1)).copied().unwrap_or(0);
        let row = ChangeRow {
            lsn,
            target,
            offset: lsn * 64,
            status,
            updated_ms: 0,
            when_ms: if times.untold && status.is_some_and(Status::has_age) {
                TIME_NONE
            } else {
                status.map_or(TIME_NONE, |status| times.when_ms(status))
            },
            expires_ms: times.expires_ms(),
        };
        let segment = self.rows.last(|summary| {
            summary.changes.push(row.clone());
            summary.segment
        });
        self.catalog.changed(segment, &row);
        self.catalog.changed(segment, &row);
        if status.is_none() {
            self.known.remove(&target);
        }
        if let (Some(known), Some(status)) = (self.known.get_mut(&target), status) {
            known.status = status;
            known.times = times.clone();
            known.change = Some((lsn, Position { segment, offset: row.offset }));
        }
    }

    fn lose(&mut self, from: u64, to: u64) {
        let before = self.known.len();
        self.known.retain(|lsn, _| !(from..=to).contains(lsn));
        let gone = self.catalog.lost(from..=to);
        assert_eq!(gone, (before - self.known.len()) as u64);
        self.losses.push((from, to));
        assert_eq!(self.catalog.lost(from..=to), 0);
    }

    fn reload(&mut self, index: Arc<dyn Index>, watermark: Option<u64>) -> Loaded {
        self.catalog = Catalog::new(index, CACHE_BYTES);
        let loaded = self.catalog.load(&self.rows, watermark, &mut |_, _| {}).unwrap();
        for (from, to) in &self.losses {
            self.catalog.lost(*from..=*to);
        }
        loaded
    }

    fn run(&mut self, step: &Step, open: Open<'_>) {
        match step {
            Step::Store { domain, kind, created, key, status, times } => self.store(Known {
                segment: 0,
                ordinal: 0,
                status: STATUSES[*status],
                domain: format!("d{domain}"),
                kind: format!("k{kind}"),
                created: *created,
                key: key.wrapping_mul(0x1234_5678_9abc_def1),
                times: times.clone(),
                change: None,
            }),
            Step::Change { target, status, times } => {
                self.change(*target, STATUSES.get(*status).copied(), times);
            }
            Step::Lose { from, len } => {
                let from = *from as u64 % self.lsn;
                self.lose(from, self.lsn.min(from + len));
            }
            Step::Burn(count) => self.lsn += count,
            Step::Segment { folded } => {
                let mut next = Summary::new(self.rows.last(|summary| summary.segment) + 1);
                // Nothing changed these entries yet, so a fold up to here hides nothing.
                next.folded_lsn = if *folded { self.lsn } else { 0 };
                self.rows.0.lock().unwrap().push(Arc::new(next));
            }
            Step::Fold => self.catalog.fold(&self.rows).unwrap(),
            Step::Checkpoint => {
                self.catalog.checkpoint(&self.rows, self.lsn).unwrap();
                self.checkpointed = Some(self.lsn);
            }
            Step::Reload { damage } => {
                if *damage > 2 {
                    self.catalog.checkpoint(&self.rows, self.lsn).unwrap();
                }
                let clean = (*damage > 1).then_some(self.lsn);
                self.catalog = Catalog::new(Arc::new(MemIndex::default()), 0);
                self.reload(open(*damage == 7), clean);
                self.check();
            }
            Step::Ask(question) => self.ask(question),
        }
    }

    fn ask(&self, question: &Question) {
        let filter = Filter {
            status: question.status.map(|status| STATUSES[status]),
            domain: question.domain.map(|domain| format!("d{domain}")),
            failure_type: question.kind.map(|kind| format!("k{kind}")),
            created_from: question.from.map(Timestamp),
            created_to: question.to.map(Timestamp),
            due_at: question.due.map(|hour| Timestamp(hour * HOUR_MS)),
            expires_before: question.expires.map(|hour| Timestamp(hour * HOUR_MS)),
            aged_before: question.aged.map(|hour| Timestamp(hour * HOUR_MS)),
        };
        let fits = |known: &&Known| known.fits(&filter);
        let confirm: query::Confirm<'_> = &mut |lsn| Ok(fits(&&self.known[&lsn]));
        let mut ids: Vec<u64> =
            self.known.iter().filter(|(_, known)| fits(known)).map(|(lsn, _)| *lsn).collect();
        assert_eq!(self.catalog.count(&self.rows, &filter, confirm).unwrap(), ids.len() as u64);
        let order = if question.newest { Order::Newest } else { Order::Oldest };
        if question.newest {
            ids.reverse();
        }
        ids.retain(|lsn| match (question.after, question.newest) {
            (Some(after), true) => *lsn < after,
            (Some(after), false) => *lsn > after,
            (None, _) => true,
        });
        let page = Page {
            order,
            offset: question.offset,
            limit: question.limit,
            after: question.after.map(EntryId),
        };
        let expected: Vec<u64> =
            ids.into_iter().skip(question.offset as usize).take(question.limit).collect();
        assert_eq!(self.catalog.select(&self.rows, &filter, page, confirm).unwrap(), expected);
    }

    fn check(&self) {
        assert_eq!(self.catalog.len(), self.known.len() as u64);
        let mut cells = BTreeMap::<_, u64>::new();
        for known in self.known.values() {
            let key = (known.status, known.domain.as_str(), known.kind.as_str());
            *cells.entry(key).or_default() += 1;
        }
        let told = self.catalog.cells();
        let told: BTreeMap<_, u64> = told
            .iter()
            .map(|cell| ((cell.status, &*cell.domain, &*cell.failure_type), cell.count))
            .collect();
        assert_eq!(told, cells);
        for lsn in 0..=self.lsn + 1 {
            let expected = self.known.get(&lsn).map(|known| Location {
                segment: known.segment,
                ordinal: known.ordinal,
                status: known.status,
                change: known.change,
            });
            assert_eq!(self.catalog.locate(&self.rows, lsn).unwrap(), expected, "{lsn}");
        }
        for key in 0..21_u64 {
            let key = key.wrapping_mul(0x1234_5678_9abc_def1);
            let mut expected: Vec<u64> =
                self.known.iter().filter(|(_, k)| k.key == key).map(|(lsn, _)| *lsn).collect();
            expected.reverse();
            assert_eq!(self.catalog.candidates(&self.rows, key).unwrap(), expected);
        }
    }
}

/// Room for a few blocks only, so that most are evicted.
const CACHE_BYTES: usize = 1200;

fn run(steps: &[Step], open: Open<'_>) {
    let mut pair = Pair::new(open(false));
    for step in steps {
        pair.run(step, open);
    }
    pair.check();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn answers_are_those_of_the_list(steps in prop::collection::vec(step(), 1..150)) {
        let index = Arc::new(MemIndex::default());
        run(&steps, &|_| Arc::clone(&index) as Arc<dyn Index>);
    }

    #[test]
    fn a_careless_index_changes_no_answer(steps in prop::collection::vec(step(), 1..150)) {
        let index = Arc::new(Careless::default());
        run(&steps, &|_| Arc::clone(&index) as Arc<dyn Index>);
    }
}

/// Damages all files below a directory in one of several ways.
fn damage(dir: &Path, how: u64) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            damage(&path, how);
            continue;
        }
        let mut bytes = std::fs::read(&path).unwrap();
        let len = bytes.len();
        match how % 3 {
            0 => bytes.truncate(len / 2),
            1 => {
                for at in (how as usize % 97..len).step_by(997) {
                    bytes[at] ^= 1 << (how % 8);
                }
            }
            _ => {
                std::fs::remove_file(&path).unwrap();
                continue;
            }
        }
        std::fs::write(&path, bytes).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sled_and_its_damage_change_no_answer(
        steps in prop::collection::vec(step(), 1..150), seed in any::<u64>()
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        run(&steps, &|damaged| {
            if damaged {
                damage(&path, seed);
            }
            Arc::new(SledIndex::open(&path, 1 << 20).unwrap())
        });
    }
}

fn select(catalog: &Catalog, rows: &Rows, filter: &Filter, page: Page) -> Vec<u64> {
    catalog.select(rows, filter, page, &mut |lsn| panic!("{lsn} is read")).unwrap()
}

fn count(catalog: &Catalog, rows: &Rows, filter: &Filter) -> u64 {
    catalog.count(rows, filter, &mut |lsn| panic!("{lsn} is read")).unwrap()
}

fn large(entries: u64, per_segment: u64, changed: bool) -> Rows {
    let mut segments = Vec::new();
    let mut lsn = 0;
    for number in 1..=entries.div_ceil(per_segment) {
        let mut summary = Summary::new(number);
        for at in 0..per_segment {
            lsn += 1;
            let domain = summary.term(&format!("domain-{}", at % 20));
            let failure_type = summary.term(&format!("type-{}", at % 7));
            summary.entries.push(EntryRow {
                lsn,
                offset: at * 1024,
                created_ms: 1_700_000_000_000 + lsn,
                expires_ms: TIME_NONE,
                when: When::NONE,
                key_hash: lsn.wrapping_mul(0x9e37_79b9_7f4a_7c15),
                status: Status::Pending,
                domain,
                failure_type,
            });
            if changed && at % 2 == 0 {
                let target = lsn;
                lsn += 1;
                summary.changes.push(ChangeRow {
                    lsn,
                    target,
                    offset: at * 1024 + 512,
                    status: Some(Status::Resolved),
                    updated_ms: 0,
                    when_ms: 1_700_000_000_000 + lsn,
                    expires_ms: TIME_NONE,
                });
            }
        }
        segments.push(Arc::new(summary));
    }
    Rows(Mutex::new(segments))
}

#[test]
fn a_clean_stop_reuses_and_anything_else_rebuilds() {
    let dir = tempfile::tempdir().unwrap();
    let rows = large(5000, 1000, true);
    let open = || Arc::new(SledIndex::open(dir.path(), 1 << 20).unwrap());
    let catalog = Catalog::new(open(), 1 << 20);
    assert!(!catalog.load(&rows, Some(7500), &mut |_, _| {}).unwrap().reused);
    catalog.checkpoint(&rows, 7500).unwrap();
    drop(catalog);
    for (watermark, reused) in
        [(Some(7500), true), (Some(7500), true), (Some(7499), false), (Some(7500), false)]
    {
        let catalog = Catalog::new(open(), 1 << 20);
        let loaded = catalog.load(&rows, watermark, &mut |_, _| {}).unwrap();
        assert_eq!(loaded, Loaded { reused, entries: 5000, segments: 5 });
        assert_eq!(catalog.cells().iter().map(|cell| cell.count).sum::<u64>(), 5000);
    }
}

#[test]
fn a_checkpoint_behind_the_commits_is_not_reused() {
    let rows = large(100, 50, true);
    let index: Arc<dyn Index> = Arc::new(MemIndex::default());
    let catalog = Catalog::new(Arc::clone(&index), 1 << 20);
    catalog.load(&rows, None, &mut |_, _| {}).unwrap();
    catalog.checkpoint(&rows, 120).unwrap();
    assert!(!Catalog::new(index, 0).load(&rows, Some(120), &mut |_, _| {}).unwrap().reused);
}

fn entries_of_figures() -> u64 {
    std::env::var("ENTRIES").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000)
}

fn timed(what: &str, run: &mut dyn FnMut() -> u64) {
    let from = std::time::Instant::now();
    let result = run();
    println!("{what}: {:?} ({result})", from.elapsed());
}

/// Prints figures; run by name with `--ignored --nocapture`, in release.
#[test]
#[ignore = "prints figures, takes gigabytes"]
fn figures() {
    let entries = entries_of_figures();
    let rows = large(entries, 16_000, true);
    let dir = tempfile::tempdir().unwrap();
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096 / 1024
    };
    let lsn = rows.last(|summary| summary.entries.last().unwrap().lsn + 1);
    let open = || Arc::new(SledIndex::open(&dir.path().join("index"), 1 << 20).unwrap());
    let before = resident();
    let mut catalog = Catalog::new(open(), 8 << 20);
    timed("rebuild", &mut || catalog.load(&rows, None, &mut |_, _| {}).unwrap().entries);
    println!("memory {} KiB, resident +{} KiB", catalog.memory_bytes() >> 10, resident() - before);
    timed("checkpoint", &mut || {
        catalog.checkpoint(&rows, lsn).unwrap();
        lsn
    });
    println!("resident +{} KiB", resident() - before);
    catalog = Catalog::new(Arc::new(MemIndex::default()), 0);
    println!("closed, resident +{} KiB", resident() - before);
    timed("open sled", &mut || {
        catalog = Catalog::new(open(), 8 << 20);
        0
    });
    timed("reuse", &mut || {
        let loaded = catalog.load(&rows, Some(lsn), &mut |_, _| {}).unwrap();
        u64::from(loaded.reused)
    });
    println!("memory {} KiB, resident +{} KiB", catalog.memory_bytes() >> 10, resident() - before);
    let filter = Filter { domain: Some("domain-3".into()), ..Filter::default() };
    let rare = Filter {
        status: Some(Status::Pending),
        failure_type: Some("type-6".into()),
        ..filter.clone()
    };
    for offset in [0, entries / 50, entries] {
        for filter in [&Filter::default(), &filter, &rare] {
            let page = Page { offset, ..Page::default() };
            timed("page", &mut || select(&catalog, &rows, filter, page).len() as u64);
        }
    }
    timed("count", &mut || count(&catalog, &rows, &rare));
    timed("cells", &mut || catalog.cells().len() as u64);
    timed("missing keys, 1000", &mut || {
        (0..1000).map(|key| catalog.candidates(&rows, key).unwrap().len() as u64).sum()
    });
    timed("locate cold", &mut || catalog.locate(&rows, lsn / 2).unwrap().unwrap().segment);
    timed("locate warm, 1000", &mut || {
        (0..1000).filter(|at| catalog.locate(&rows, lsn / 2 - at).unwrap().is_some()).count() as u64
    });
}

#[test]
fn the_key_filter_finds_all_and_little_else() {
    let hash = |key: u64| (key + 1).wrapping_mul(0xd6e8_feb8_6659_fd93);
    for count in [1_u64, 7, 1000, 16_000] {
        let keys: Vec<u64> = (0..count).map(hash).collect();
        let mut growing = super::keys::Filter::with_capacity(keys.len());
        keys.iter().for_each(|key| growing.insert(*key));
        let sealed = super::keys::Filter::sealed(&keys);
        for (filter, errors_max) in [(growing, 400), (sealed, 60)] {
            let filter = super::keys::Filter::decode(&filter.encode()).unwrap();
            assert!(filter.fits(keys.len()));
            assert!(keys.iter().all(|key| filter.contains(*key)));
            let errors = (count..count + 200_000).filter(|key| filter.contains(hash(*key))).count();
            assert!(errors <= errors_max, "{errors} of 200000 with {count} keys");
        }
    }
}

#[test]
fn a_change_that_is_folded_in_does_not_count_again() {
    let mut summary = Summary::new(1);
    let term = summary.term("d");
    let row = EntryRow {
        lsn: 1,
        offset: 0,
        created_ms: 5,
        expires_ms: TIME_NONE,
        key_hash: 9,
        status: Status::Resolved,
        when: When::NONE,
        domain: term,
        failure_type: term,
    };
    summary.folded_lsn = 3;
    summary.entries.push(row);
    for (lsn, status) in [(2, Status::Replaying), (3, Status::Resolved), (4, Status::Archived)] {
        let times = (0, TIME_NONE, TIME_NONE);
        summary.changes.push(ChangeRow {
            lsn,
            target: 1,
            offset: lsn * 8,
            status: Some(status),
            updated_ms: times.0,
            when_ms: times.1,
            expires_ms: times.2,
        });
    }
    for (kept, expected) in [
        (2, (Status::Resolved, None)),
        (3, (Status::Archived, Some((4, Position { segment: 1, offset: 32 })))),
    ] {
        let mut summary = summary.clone();
        summary.changes.truncate(kept);
        let rows = Rows(Mutex::new(vec![Arc::new(summary)]));
        let catalog = Catalog::new(Arc::new(MemIndex::default()), 0);
        catalog.load(&rows, None, &mut |_, _| {}).unwrap();
        let found = catalog.locate(&rows, 1).unwrap().unwrap();
        assert_eq!((found.status, found.change), expected);
    }
}

#[test]
fn readers_beside_commits_and_folds_see_whole_states() {
    let mut pair = Pair::new(Arc::new(Careless::default()));
    let known = |at: u64| Known {
        segment: 0,
        ordinal: 0,
        status: Status::Pending,
        domain: format!("d{}", at % 3),
        kind: "k".into(),
        created: at,
        key: at,
        times: Hours { due: None, age: 0, expires: None, untold: false },
        change: None,
    };
    (0..200).for_each(|at| pair.store(known(at)));
    pair.rows.0.lock().unwrap().push(Arc::new(Summary::new(2)));
    (200..300).for_each(|at| pair.store(known(at)));
    let first_change = pair.lsn + 1;
    let done = std::sync::atomic::AtomicBool::new(false);
    let (catalog, rows, all) = (&pair.catalog, &pair.rows, &pair.all);
    std::thread::scope(|scope| {
        for reader in 0..2 {
            let done = &done;
            scope.spawn(move || {
                let mut seen = vec![0; all.len()];
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    for (seen, lsn) in seen.iter_mut().zip(all) {
                        let found = catalog.locate(rows, *lsn).unwrap().unwrap();
                        let change = found.change.map_or(0, |(lsn, _)| lsn);
                        assert!(change >= *seen, "a change was seen and then an older one");
                        *seen = change;
                    }
                    if reader == 0 {
                        catalog.fold(rows).unwrap();
                    }
                    let ids = select(catalog, rows, &Filter::default(), Page::default());
                    assert_eq!(ids.len(), 100);
                    let due = Filter { due_at: Some(Timestamp::MAX), ..Filter::default() };
                    assert_eq!(catalog.count(rows, &due, &mut |_| Ok(true)).unwrap(), 300);
                }
            });
        }
        for at in 0..3000 {
            let row = ChangeRow {
                lsn: first_change + at,
                target: all[usize::try_from(at * 7 % 300).unwrap()],
                offset: at * 8,
                status: Some(Status::ALL[usize::try_from(at % 9).unwrap()]),
                updated_ms: 0,
                when_ms: TIME_NONE,
                expires_ms: TIME_NONE,
            };
            rows.last(|summary| summary.changes.push(row.clone()));
            catalog.changed(2, &row);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    for at in 2700..3000 {
        let known = pair.known.get_mut(&pair.all[at * 7 % 300]).unwrap();
        known.status = Status::ALL[at % 9];
        let position = Position { segment: 2, offset: at as u64 * 8 };
        known.change = Some((first_change + at as u64, position));
    }
    pair.lsn += 3000;
    pair.check();
}
