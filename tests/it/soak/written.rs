//! How many bytes reach the device for each byte of payload: on a disk in memory, where pages are
//! counted, and on a real one, where the system counts them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use deadletter::{
    Background, Config, Disk, Durability, Engine, EntryId, Env as _,
    FailedOperationRepository as _, Filter, IndexKind, Memory, OpenMode, Order, Page, Prepare,
    Status, Timestamp, write_all_at,
};

use super::stores::failure;
use super::watch::Process;
use crate::counting::Counting;

const PAYLOAD: u64 = 1024;
/// So many entries with their headers take 64 KiB.
const GROUP: u64 = 52;

fn capture(engine: &Engine, groups: u64) {
    for group in 0..groups {
        let numbers = group * GROUP..(group + 1) * GROUP;
        engine.store_batch(numbers.map(failure).collect(), Durability::Synced).unwrap();
    }
}

/// What was written for so much payload, in hundredths of it.
fn percent(written: u64, groups: u64) -> u64 {
    written * 100 / (groups * GROUP * PAYLOAD)
}

fn capture_in_memory(prepare: Prepare) -> u64 {
    let counting = Counting::new(Arc::new(Memory::new(1)), || {});
    let mut config = Config::new("/store");
    config.prepare = prepare;
    config.index = IndexKind::Memory;
    config.background = Background::Manual;
    let engine = Engine::open_with(config, Arc::new(counting.clone())).unwrap();
    // Some segments, so that their beginnings and ends count.
    let groups = 800;
    for _ in 0..groups {
        capture(&engine, 1);
        engine.step().unwrap();
    }
    engine.close().unwrap();
    percent(counting.written(), groups)
}

#[test]
fn capturing_writes_little_more_than_the_payload() {
    let allocated = capture_in_memory(Prepare::Allocate);
    assert!((100..=130).contains(&allocated), "{allocated} % of the payload");
    // The control: zeros are writes too, and are counted.
    let zeroed = capture_in_memory(Prepare::Zero);
    assert!(zeroed > allocated + 90, "{zeroed} %, and {allocated} % without zeros");
}

/// Bytes written since the last question: pages by our own count, and what the system says.
struct Meter {
    disk: Counting,
    before: [u64; 2],
}

impl Meter {
    fn new() -> Self {
        let mut meter = Self { disk: Counting::new(Arc::new(Disk::new()), || {}), before: [0; 2] };
        meter.take();
        meter
    }

    fn open(&self, dir: PathBuf, prepare: Prepare) -> Engine {
        let mut config = Config::new(dir);
        config.prepare = prepare;
        Engine::open_with(config, Arc::new(self.disk.clone())).unwrap()
    }

    fn take(&mut self) -> [u64; 2] {
        let now = [self.disk.written(), Process::read().written];
        let before = std::mem::replace(&mut self.before, now);
        [now[0] - before[0], now[1] - before[1]]
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures are rounded anyway")]
fn told([pages, system]: [u64; 2], groups: u64) -> String {
    let payload = (groups * GROUP * PAYLOAD) as f64;
    format!("{:.2} ({:.2})", pages as f64 / payload, system as f64 / payload)
}

fn oldest(engine: &Engine) -> Vec<EntryId> {
    let page = Page { order: Order::Oldest, limit: usize::MAX, ..Page::default() };
    engine.select(&Filter::default(), page).unwrap()
}

/// A whole life on a real disk; says what each part of it wrote.
fn live(dir: &Path, prepare: Prepare, groups: u64) -> String {
    let mut meter = Meter::new();
    let engine = meter.open(dir.join("store"), prepare);
    let (mut line, mut all) = (String::new(), [0; 2]);
    let mut part = |what: &str| {
        let written = meter.take();
        all = [all[0] + written[0], all[1] + written[1]];
        line += &format!(" {what} {},", told(written, groups));
    };
    capture(&engine, groups);
    engine.checkpoint().unwrap();
    part("capture");
    let ids = oldest(&engine);
    assert_eq!(engine.bulk_update_status(&ids, Status::Resolved).unwrap(), groups * GROUP);
    part("resolve");
    let before = Timestamp(engine.now().0 + 1);
    let archived = engine.archive_before(Status::Resolved, before, 500, None).unwrap();
    assert_eq!(archived, groups * GROUP);
    part("archive");
    for ids in ids.chunks(256) {
        assert_eq!(engine.purge_archived(ids).unwrap(), ids.len() as u64);
    }
    part("purge");
    engine.compact(&mut |_, _| {}).unwrap();
    engine.close().unwrap();
    part("compact and close");
    format!("{prepare:?}:{line} in all {}", told(all, groups))
}

/// The control: the same payload in blocks of a group, written and synced and nothing else.
fn write_raw(dir: &Path, groups: u64) -> String {
    let block = vec![0x5a; usize::try_from(GROUP * PAYLOAD).unwrap()];
    let path = dir.join("raw");
    let mut meter = Meter::new();
    let file = meter.disk.open(&path, OpenMode::CreateNew).unwrap();
    for number in 0..groups {
        write_all_at(&*file, &block, number * block.len() as u64).unwrap();
        file.sync().unwrap();
    }
    let told = told(meter.take(), groups);
    fs::remove_file(path).unwrap();
    format!("raw blocks: {told}")
}

fn store_singly(dir: &Path, prepare: Prepare) -> String {
    let mut meter = Meter::new();
    let engine = meter.open(dir.join("single"), prepare);
    let groups = 40;
    (0..groups * GROUP).for_each(|number| drop(engine.store(failure(number)).unwrap()));
    let told = told(meter.take(), groups);
    engine.close().unwrap();
    format!("{prepare:?}, entry by entry: {told}")
}

/// The figures in brackets are those of the system.
#[test]
#[ignore = "takes minutes, see docs/testing.md"]
fn bytes_written_for_each_byte_of_payload() {
    let groups = 4000;
    for prepare in [Prepare::Allocate, Prepare::Zero] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        println!("{}", store_singly(dir.path(), prepare));
        println!("{}", live(dir.path(), prepare, groups));
        println!("{}", write_raw(dir.path(), groups));
    }
}
