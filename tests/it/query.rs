//! Finding entries again, changing them, following the log.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use deadletter::{
    Config, Engine, EntryId, Env, Error, File, Filter, Lock, Mapped, Memory, NameKind, NewFailure,
    OpenMode, Order, Page, Status, TailItem, Timestamp,
};

use crate::store::config;

/// 600 entries over several segments: three domains, two types, every tenth resolved; entry `n`
/// was created at second `n`.
fn filled() -> Engine {
    let engine = Engine::open_with(config(), Arc::new(Memory::new(1))).unwrap();
    for number in 1..=600_u64 {
        let domain = ["a", "b", "c"][(number % 3) as usize];
        let mut failure = NewFailure::new(domain, if number % 2 == 0 { "EVEN" } else { "ODD" });
        failure.error_message = "x".repeat(300);
        failure.created_at = Some(Timestamp(number * 1000));
        assert_eq!(engine.store(failure).unwrap().id, EntryId(number));
    }
    for number in (10..=600).step_by(10) {
        resolve(&engine, number);
    }
    assert!(engine.bytes().unwrap().log > 3 * 64 * 1024, "several segments");
    engine
}

fn resolve(engine: &Engine, number: u64) {
    engine
        .change(EntryId(number), &[Status::Pending], |state| state.status = Status::Resolved)
        .unwrap();
}

/// The ids that a filter and a page give, against the same rule applied to all numbers.
#[track_caller]
fn check(engine: &Engine, filter: &Filter, page: Page, rule: impl Fn(u64) -> bool) {
    let mut wanted: Vec<u64> = (1..=600).filter(|number| rule(*number)).collect();
    assert_eq!(engine.count(filter).unwrap(), wanted.len() as u64);
    if page.order == Order::Newest {
        wanted.reverse();
    }
    if let Some(after) = page.after {
        wanted.retain(|id| match page.order {
            Order::Newest => *id < after.0,
            Order::Oldest => *id > after.0,
        });
    }
    let offset = usize::try_from(page.offset).unwrap();
    let wanted: Vec<u64> = wanted.into_iter().skip(offset).take(page.limit).collect();
    let found = engine.find(filter, page).unwrap();
    let found: Vec<u64> = found.iter().map(|entry| entry.operation.id.0).collect();
    assert_eq!(found, wanted);
}

#[test]
fn filters_and_pages() {
    let engine = filled();
    let all = Filter::default();
    let newest = Page::default();
    let oldest = Page { order: Order::Oldest, ..newest };
    check(&engine, &all, newest, |_| true);
    check(&engine, &all, Page { offset: 595, ..newest }, |_| true);
    check(&engine, &all, Page { offset: 600, ..newest }, |_| true);
    check(&engine, &all, Page { limit: 0, ..newest }, |_| true);
    check(&engine, &all, Page { after: Some(EntryId(300)), ..newest }, |_| true);
    check(&engine, &all, Page { after: Some(EntryId(300)), offset: 7, ..oldest }, |_| true);
    let resolved = Filter { status: Some(Status::Resolved), ..all.clone() };
    check(&engine, &resolved, newest, |number| number % 10 == 0);
    let both = Filter {
        domain: Some("b".to_owned()),
        failure_type: Some("ODD".to_owned()),
        ..all.clone()
    };
    check(&engine, &both, Page { offset: 20, limit: 30, ..oldest }, |n| n % 3 == 1 && n % 2 == 1);
    let none = Filter { domain: Some("zebra".to_owned()), ..all };
    check(&engine, &none, newest, |_| false);
}

#[test]
fn windows_of_time_have_both_ends() {
    let engine = filled();
    let (from, to) = (Timestamp(100_000), Timestamp(250_000));
    assert_eq!(engine.count_created_between(from, to).unwrap(), 151);
    let filter = Filter { created_from: Some(from), created_to: Some(to), ..Filter::default() };
    let page = Page { order: Order::Oldest, limit: 1000, ..Page::default() };
    check(&engine, &filter, page, |number| (100..=250).contains(&number));
    assert_eq!(engine.count_created_between(to, from).unwrap(), 0);
}

#[test]
fn a_facet_ignores_its_own_selection() {
    let engine = filled();
    let facets = engine.facets(Some(Status::Resolved), Some("a")).unwrap();
    assert_eq!(facets.by_status[&Status::Resolved], 20, "of domain a only");
    assert_eq!(facets.by_status[&Status::Pending], 180);
    assert_eq!(facets.by_domain["b"], 20, "resolved only");
    assert!(!facets.by_status.contains_key(&Status::Expired), "an empty bucket is absent");
    let unknown = engine.facets(None, Some("zebra")).unwrap();
    assert!(unknown.by_status.is_empty());
    assert_eq!(unknown.by_domain.len(), 3);
    let statistics = engine.statistics().unwrap();
    assert_eq!(statistics.total, 600);
    assert_eq!(statistics.pending_by_domain["c"], 180);
    assert_eq!(statistics.pending_by_domain_and_failure_type["a"]["EVEN"], 80);
}

#[test]
fn a_change_is_compared_and_set() {
    let engine = filled();
    let refused = engine.change(EntryId(10), &[Status::Pending], |_| panic!("not called"));
    let message = refused.unwrap_err().to_string();
    assert_eq!(message, "entry 10 is resolved, not pending");
    let missing = engine.change(EntryId(9999), &[], |_| {});
    assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
    let state = engine.change(EntryId(11), &[Status::Pending, Status::Expired], |state| {
        state.status = Status::Archived;
        state.resolution_note = "by hand".to_owned();
        state.archived_at = Some(Timestamp(5));
    });
    let state = state.unwrap();
    assert_eq!(state.resolution_note, "by hand");
    let entry = engine.get(EntryId(11)).unwrap().unwrap();
    assert_eq!(entry.operation.status, Status::Archived);
    // When it was archived is for the store to say.
    assert_eq!(entry.archived_at, Some(state.updated_at));
}

/// Eight threads raise one counter by change: no update is lost.
#[test]
fn changes_of_one_entry_follow_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(Config::new(dir.path().join("store"))).unwrap();
    let mut failure = NewFailure::new("a", "X");
    failure.max_retries = Some(1000);
    let id = engine.store(failure).unwrap().id;
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let engine = engine.clone();
            scope.spawn(move || {
                for _ in 0..25 {
                    engine.change(id, &[Status::Pending], |state| state.retry_count += 1).unwrap();
                }
            });
        }
    });
    assert_eq!(engine.get(id).unwrap().unwrap().operation.retry_count, 200);
    engine.close().unwrap();
}

#[test]
fn the_tail_gives_every_fact_in_order_and_goes_on() {
    let engine = filled();
    let mut tail = engine.tail(0).unwrap();
    let facts: Vec<TailItem> = tail.by_ref().map(Result::unwrap).collect();
    assert_eq!(facts.len(), 660);
    assert!(facts.windows(2).all(|pair| pair[0].lsn() < pair[1].lsn()));
    assert!(tail.next().is_none(), "nothing more is durable");
    resolve(&engine, 1);
    let Some(Ok(TailItem::Changed { id, state, .. })) = tail.next() else { panic!("no change") };
    assert_eq!((id, state.status), (EntryId(1), Status::Resolved));
    let from = facts[400].lsn();
    assert_eq!(engine.tail(from).unwrap().count(), 261);
}

/// A disk in memory whose syncs wait until they are let through.
#[derive(Debug, Clone)]
struct Gated {
    memory: Memory,
    gate: Arc<Gate>,
}

#[derive(Debug, Default)]
struct Gate {
    /// Guards whether the gate is shut and how many wait before it.
    state: Mutex<(bool, usize)>,
    turned: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        self.turned.notify_all();
        while state.0 {
            state = self.turned.wait(state).unwrap();
        }
        state.1 -= 1;
    }

    fn shut(&self, shut: bool) {
        self.state.lock().unwrap().0 = shut;
        self.turned.notify_all();
    }

    fn await_somebody(&self) {
        let state = self.state.lock().unwrap();
        let (_state, timeout) = self
            .turned
            .wait_timeout_while(state, Duration::from_secs(20), |state| state.1 == 0)
            .unwrap();
        assert!(!timeout.timed_out(), "nobody came to the gate");
    }
}

#[derive(Debug)]
struct GatedFile {
    file: Arc<dyn File>,
    gate: Arc<Gate>,
}

impl File for GatedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(buffer, offset)
    }
    fn sync(&self) -> io::Result<()> {
        self.gate.pass();
        self.file.sync()
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.file.next_data(offset)
    }
    fn map(&self) -> io::Result<Option<Mapped>> {
        self.file.map()
    }
}

impl Env for Gated {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let file = self.memory.open(path, mode)?;
        Ok(Arc::new(GatedFile { file, gate: Arc::clone(&self.gate) }))
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.memory.create_dir(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<(String, NameKind)>> {
        self.memory.list(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.memory.rename(from, to)
    }
    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.memory.unlink(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.memory.remove_dir_all(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.memory.sync_dir(dir)
    }
    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        self.memory.try_lock(path)
    }
    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        self.memory.is_locked(path)
    }
    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.memory.free_bytes(dir)
    }
    fn wall_ms(&self) -> u64 {
        self.memory.wall_ms()
    }
    fn monotonic_ms(&self) -> u64 {
        self.memory.monotonic_ms()
    }
    fn fill_random(&self, buffer: &mut [u8]) -> io::Result<()> {
        self.memory.fill_random(buffer)
    }
    fn sleep(&self, duration: Duration) {
        self.memory.sleep(duration);
    }
    fn process_id(&self) -> u32 {
        self.memory.process_id()
    }
}

/// While a sync hangs in the kernel, every kind of read answers; what is on its way is not
/// shown before it is durable.
#[test]
fn readers_never_wait_for_the_disk_write_of_others() {
    let gated = Gated { memory: Memory::new(1), gate: Arc::default() };
    let gate = Arc::clone(&gated.gate);
    let engine = Engine::open_with(config(), Arc::new(gated)).unwrap();
    let first = engine.store(NewFailure::new("a", "X").key("first")).unwrap();
    gate.shut(true);
    std::thread::scope(|scope| {
        let writer = engine.clone();
        let storing = scope.spawn(move || writer.store(NewFailure::new("a", "Y")).unwrap().id);
        gate.await_somebody();
        assert_eq!(engine.count(&Filter::default()).unwrap(), 1);
        assert_eq!(engine.find(&Filter::default(), Page::default()).unwrap().len(), 1);
        assert!(engine.get(first.id).unwrap().is_some());
        assert!(engine.get_by_key("first").unwrap().is_some());
        assert_eq!(engine.facets(None, None).unwrap().by_domain["a"], 1);
        assert_eq!(engine.statistics().unwrap().total, 1);
        assert_eq!(engine.tail(0).unwrap().count(), 1);
        assert_eq!(engine.accounting().unwrap().queued, 1);
        gate.shut(false);
        assert!(engine.get(storing.join().unwrap()).unwrap().is_some());
    });
}

/// The memory map is only another way to read: it changes no answer.
#[test]
fn a_memory_map_reads_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config();
    config.dir = dir.path().join("store");
    let engine = Engine::open(config.clone()).unwrap();
    for number in 0..300 {
        let mut failure = NewFailure::new("a", "X").key(format!("key-{number}"));
        failure.error_message = format!("{number}").repeat(200);
        engine.store(failure).unwrap();
    }
    resolve(&engine, 7);
    engine.close().unwrap();
    let all = Page { order: Order::Oldest, limit: 1000, ..Page::default() };
    let answers = [false, true].map(|mmap| {
        config.mmap = mmap;
        let engine = Engine::open_read_only(config.clone()).unwrap();
        let tail: Vec<TailItem> = engine.tail(0).unwrap().map(Result::unwrap).collect();
        let by_key = engine.get_by_key("key-42").unwrap();
        let report = deadletter::verify(&config, &mut |_, _| {}).unwrap();
        assert!(report.segments > 3 && report.damage.is_empty());
        (engine.find(&Filter::default(), all).unwrap(), tail, by_key, report)
    });
    assert!(answers[0] == answers[1]);
    assert_eq!(answers[0].0.len(), 300);
}
