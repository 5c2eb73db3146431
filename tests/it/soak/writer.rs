//! The process that is killed: two threads capture, one resolves, one archives and purges, and
//! each says what it did once that is durable.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use deadletter::format::FileName;
use deadletter::{
    Disk, Durability, Engine, EntryId, Error, FailedOperationRepository as _, Filter, Json,
    NewFailure, Order, Page, Prepare, Status, Sweep, Timestamp,
};

use super::life::{self, ranges};
use super::waits::Waits;
use super::{Plan, watch};
use crate::counting::Counting;
use crate::kill::Chance;

const THREADS: u64 = 2;
/// A batch has from one to so many entries, where a segment is large enough.
const BATCH_MAX: u64 = 128;
/// What an entry takes at most.
const ENTRY_BYTES_MAX: u64 = 2400;
/// What may be captured and not acknowledged when the process is killed.
pub const IN_FLIGHT_MAX: u64 = THREADS * BATCH_MAX;
/// Entries that one step resolves, archives or purges.
pub const STEP: usize = 256;
/// Of so many entries one is left for long, so that segments never die as a whole.
const SLOW: u64 = 32;
/// An entry in so many has a key.
const KEYED: u64 = 8;
const PAUSE: Duration = Duration::from_millis(1);

/// What the writer is told.
const DIR: &str = "DEADLETTER_TEST_SOAK_DIR";
const NUMBERS: &str = "DEADLETTER_TEST_SOAK_NUMBERS";

/// Tells a process to be the writer of this life, with so many captures behind it.
pub fn tell(command: &mut Command, plan: &Plan, life: u64, captured: u64) {
    let Plan { seed, max_bytes, window, .. } = plan;
    let zero = u64::from(plan.prepare == Prepare::Zero);
    command.env(DIR, &plan.dir);
    command.env(NUMBERS, format!("{life} {captured} {seed} {max_bytes} {window} {zero}"));
    // It ends with us, see `end_with_parent`.
    command.stdin(Stdio::piped());
}

/// The content of an entry follows from its name: an order of 100 bytes to 2 KiB.
pub fn request(name: &str) -> String {
    let seed = name.bytes().fold(7_u64, |seed, byte| seed.wrapping_mul(31) + u64::from(byte));
    let mut chance = Chance::of(seed);
    let len = usize::try_from(chance.below(1950)).unwrap();
    let mut json = format!(r#"{{"order":"{name}","customer":{},"items":["#, chance.below(1 << 40));
    loop {
        let (sku, cents) = (chance.below(1 << 30), chance.below(100_000));
        json += &format!(r#"{{"sku":"{sku:x}","quantity":{},"cents":{cents}}}"#, 1 + cents % 5);
        if json.len() >= len {
            return json + "]}";
        }
        json.push(',');
    }
}

fn failure(name: &str, number: u64) -> NewFailure {
    let domain = if number.is_multiple_of(SLOW) {
        "legal"
    } else {
        ["payment", "mail"][usize::from(number.is_multiple_of(3))]
    };
    let failure = NewFailure::new(domain, "TIMEOUT")
        .entity("order", name)
        .error("504", "the upstream did not answer in time")
        .request(Json::object(request(name)).unwrap());
    if number.is_multiple_of(KEYED) { failure.key(name) } else { failure }
}

/// A file with the name of a rewrite says that compaction is at work.
pub fn is_rewriting(log: &Path) -> bool {
    let names = fs::read_dir(log).unwrap().filter_map(Result::ok);
    names
        .filter_map(|name| name.file_name().into_string().ok())
        .any(|name| matches!(FileName::parse(&name), FileName::Rewriting(..)))
}

/// Everything that the threads share.
struct Work {
    plan: Plan,
    life: u64,
    engine: Engine,
    disk: Counting,
    /// Guards the lines, so that each is written whole.
    lines: Mutex<File>,
    captured: AtomicU64,
    /// As of the last look.
    live: AtomicU64,
    compacting: AtomicBool,
    waits: [Waits; 2],
    started: Instant,
}

/// The writer: runs until it is killed.
#[test]
#[ignore = "the writer process of the soak, not a test"]
fn writer_process() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let numbers: Vec<u64> =
        std::env::var(NUMBERS).unwrap().split(' ').map(|text| text.parse().unwrap()).collect();
    let [life, captured, seed, max_bytes, window, zero] = numbers[..] else {
        panic!("{numbers:?}")
    };
    let prepare = if zero == 1 { Prepare::Zero } else { Prepare::Allocate };
    let dir = PathBuf::from(dir);
    let plan = Plan { seed, max_bytes, prepare, window, ..Plan::short(&dir) };
    let lines = File::options().append(true).create(true).open(life::path(&dir)).unwrap();
    say_how_it_ends(lines.try_clone().unwrap());
    let started = Instant::now();
    let disk = Counting::new(Arc::new(Disk::new()), || {});
    let engine = Engine::open_with(plan.config(), Arc::new(disk.clone())).unwrap();
    let work = Work {
        plan,
        life,
        engine,
        disk,
        lines: Mutex::new(lines),
        captured: AtomicU64::new(captured),
        live: AtomicU64::new(0),
        compacting: AtomicBool::new(false),
        waits: [Waits::default(), Waits::default()],
        started,
    };
    work.say(&format!("life {life}"));
    std::thread::scope(|scope| {
        scope.spawn(end_with_parent);
        scope.spawn(|| work.look_for_compaction());
        scope.spawn(|| work.march(Work::resolve_some));
        scope.spawn(|| work.march(Work::archive_and_purge));
        for thread in 0..THREADS {
            let work = &work;
            scope.spawn(move || work.capture(thread));
        }
    });
}

/// A thread that panics ends the process, with a line that says why.
fn say_how_it_ends(lines: File) {
    std::panic::set_hook(Box::new(move |info| {
        let text = info.to_string().replace('\n', " ");
        let _ = (&lines).write_all(format!("failed {text}\n").as_bytes());
        std::process::abort();
    }));
}

fn end_with_parent() {
    let _ = std::io::stdin().read(&mut [0]);
    std::process::abort();
}

impl Work {
    fn say(&self, line: &str) {
        let mut lines = self.lines.lock().unwrap();
        lines.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn capture(&self, thread: u64) {
        // A batch takes at most half of a segment.
        let fitting = self.plan.config().segment_size() / 2 / ENTRY_BYTES_MAX;
        let mut chance = Chance::of(self.plan.seed ^ (self.life << 20) ^ thread);
        let mut counter = 0;
        loop {
            while self.is_crowded() {
                std::thread::sleep(PAUSE);
            }
            let count = 1 + chance.below(BATCH_MAX.min(fitting));
            let name = |number| format!("{}-{thread}-{number}", self.life);
            let batch =
                (counter..counter + count).map(|number| failure(&name(number), number)).collect();
            if self.store(thread, counter, batch) {
                counter += count;
                let before = self.captured.fetch_add(count, Ordering::Relaxed);
                if before / self.plan.window != (before + count) / self.plan.window {
                    self.tell_window(before + count);
                }
            }
        }
    }

    fn store(&self, thread: u64, counter: u64, batch: Vec<NewFailure>) -> bool {
        let payload: usize = batch.iter().map(|one| one.request_data.as_str().len()).sum();
        let compacting = self.compacting.load(Ordering::Relaxed);
        let before = Instant::now();
        match self.engine.store_batch(batch, Durability::Synced) {
            Ok(stored) => {
                let compacting = compacting || self.compacting.load(Ordering::Relaxed);
                self.waits[usize::from(compacting)].add(before.elapsed());
                let first = stored[0].id.0;
                let last = stored[stored.len() - 1].id.0;
                assert_eq!(last - first + 1, stored.len() as u64);
                assert!(stored.iter().all(|stored| !stored.duplicate));
                self.say(&format!("ack {first} {} {thread} {counter} {payload}", stored.len()));
                true
            }
            Err(error) if matches!(error.source, Error::Full { .. }) => {
                self.say(&format!("refused {}", error.failures.len()));
                std::thread::sleep(PAUSE);
                false
            }
            Err(error) => panic!("{:?}", error.source),
        }
    }

    /// Nobody looks after entries for the last fifth of every span in which the directory could fill
    /// three times, so that it meets its bound.
    fn is_away(&self) -> bool {
        let span = 3 * self.plan.entries_max();
        self.captured.load(Ordering::Relaxed) % span >= span / 5 * 4
    }

    /// Captures wait for the others, as long as these are there.
    fn is_crowded(&self) -> bool {
        let live = self.live.load(Ordering::Relaxed);
        live > self.plan.entries_max() * 36 / 100 && !self.is_away()
    }

    /// Lets entries age by their number: the oldest of a status go on when there are too many.
    fn march(&self, step: fn(&Self) -> bool) {
        loop {
            self.live.store(self.engine.count(&Filter::default()).unwrap(), Ordering::Relaxed);
            if self.is_away() || !step(self) {
                std::thread::sleep(PAUSE);
            }
        }
    }

    fn share(&self, percent: u64) -> u64 {
        self.plan.entries_max() * percent / 100
    }

    fn resolve_some(&self) -> bool {
        let domains = [("payment", 6), ("mail", 3), ("legal", 4)].into_iter();
        let resolved = domains.map(|(domain, percent)| self.resolve(domain, self.share(percent)));
        resolved.fold(false, |all, one| all | one)
    }

    fn archive_and_purge(&self) -> bool {
        self.archive(self.share(6)) | self.purge(self.share(12))
    }

    /// The oldest entries in a status, of a domain or of all, of which there are more than so many.
    fn oldest(&self, status: Status, domain: Option<&str>, kept: u64) -> Vec<EntryId> {
        let filter =
            Filter { status: Some(status), domain: domain.map(str::to_owned), ..Filter::default() };
        let surplus = self.engine.count(&filter).unwrap().saturating_sub(kept);
        let limit = STEP.min(usize::try_from(surplus).unwrap());
        let page = Page { order: Order::Oldest, limit, ..Page::default() };
        self.engine.select(&filter, page).unwrap()
    }

    fn resolve(&self, domain: &str, kept: u64) -> bool {
        let ids = self.oldest(Status::Pending, Some(domain), kept);
        if ids.is_empty() {
            return false;
        }
        self.engine.bulk_update_status(&ids, Status::Resolved).unwrap();
        self.say(&format!("resolved {}", ranges(&ids)));
        true
    }

    /// As a service does it: by age.
    fn archive(&self, kept: u64) -> bool {
        let ids = self.oldest(Status::Resolved, None, kept);
        let Some(newest) = ids.last().and_then(|id| self.engine.get(*id).unwrap()) else {
            return false;
        };
        let resolved_at = newest.operation.resolved_at.map_or(0, |at| at.0);
        let sweep = Sweep::Archive(Status::Resolved);
        let before = Timestamp(resolved_at + 1);
        let archived = self.engine.sweep(sweep, before, ids.len(), None).unwrap();
        self.say(&format!("archived {archived}"));
        archived > 0
    }

    fn purge(&self, kept: u64) -> bool {
        let ids = self.oldest(Status::Archived, None, kept);
        if ids.is_empty() {
            return false;
        }
        let ranges = ranges(&ids);
        self.say(&format!("purging {ranges}"));
        let purged = self.engine.purge_archived(&ids).unwrap();
        self.say(&format!("purged {purged} {ranges}"));
        true
    }

    fn look_for_compaction(&self) {
        let log = self.plan.store().join("log");
        loop {
            self.compacting.store(is_rewriting(&log), Ordering::Relaxed);
            std::thread::sleep(5 * PAUSE);
        }
    }

    fn tell_window(&self, captured: u64) {
        let micros = self.started.elapsed().as_micros();
        let process = watch::Process::read();
        let away = u64::from(self.is_away());
        let (watch::Process { cpu_ms, memory, .. }, written) = (process, self.disk.written());
        self.say(&format!("window {captured} {micros} {cpu_ms} {written} {memory} {away}"));
        let [quiet, compacting] = &self.waits;
        self.say(&format!("waits {quiet} {compacting}"));
    }
}
