//! Power cuts while eight jobs replay a store: no outcome that was told is lost, no entry is
//! delivered more often than the cuts explain, nothing stays behind.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadletter::{
    Background, Cause, Config, CrashMode, DlqConfig, DlqEvent, DlqService, Durability, Engine,
    Entry, EntryId, FailedOperationRepository, Filter, IndexKind, Limits, NewFailure, Order,
    Outcome, Page, ReplayAttempt, ReplayHandler, ReplayOptions, Simulated, Status,
};

const JOBS: u32 = 8;
/// Entries of the store; every seventh fails always.
const ENTRIES: u64 = 24;
/// Replays until everything has an end, at most: attempts of a cap, and one for each cut.
const ROUNDS_MAX: usize = 12;

fn config() -> Config {
    let mut config = Config::new(PathBuf::from("/data/store"));
    config.segment_bytes = 64 * 1024;
    config.index = IndexKind::Memory;
    config.background = Background::Manual;
    config.limits = Limits { request_data_max_bytes: 16 * 1024, field_max_bytes: 4096 };
    config
}

fn open(disk: &Simulated) -> Arc<dyn FailedOperationRepository> {
    Arc::new(Engine::open_with(config(), Arc::new(disk.clone())).unwrap())
}

/// A closed store with entries of domains that tell how they behave.
fn prepared(cap: u32, domain: impl Fn(u64) -> &'static str) -> Simulated {
    let disk = Simulated::new(3);
    let repository = open(&disk);
    for number in 0..ENTRIES {
        let failure = NewFailure::new(domain(number), "TIMEOUT").max_retries(cap);
        repository.create(failure, Durability::Synced).unwrap();
    }
    repository.close().unwrap();
    disk.restarted()
}

/// What the world outside of the store has seen; it survives every cut.
#[derive(Debug, Default)]
struct Outside {
    /// How often each entry was delivered.
    deliveries: Mutex<BTreeMap<EntryId, usize>>,
    /// The entries whose success was told.
    told: Mutex<BTreeSet<EntryId>>,
}

/// Delivers or fails as the domain says; `killer` cuts the power of its own machine.
struct Handler {
    outside: Arc<Outside>,
    disk: Simulated,
}

impl ReplayHandler for Handler {
    fn replay(&self, attempt: &ReplayAttempt<'_>) -> Outcome {
        let operation = &attempt.entry().operation;
        *self.outside.deliveries.lock().unwrap().entry(operation.id).or_default() += 1;
        match &*operation.domain {
            "good" => Outcome::success(),
            "killer" => {
                self.disk.power_off_at(Some(self.disk.operations()));
                Outcome::success()
            }
            _ => Outcome::failure("as always"),
        }
    }
}

fn service(disk: &Simulated, outside: &Arc<Outside>) -> DlqService {
    let mut config = DlqConfig::default();
    // The crash comes at each step of this story, so nothing else may take steps.
    config.scheduler_enabled = false;
    let service = DlqService::new(Some(config), Some(open(disk)));
    let handler = Handler { outside: Arc::clone(outside), disk: disk.clone() };
    service.handlers().register_default(Arc::new(handler));
    let outside = Arc::clone(outside);
    service.on_event(move |record| {
        if let DlqEvent::DlqReplayCompleted { dlq_id, success: true, .. } = &record.event {
            assert!(outside.told.lock().unwrap().insert(*dlq_id), "{dlq_id} was told twice");
        }
    });
    service
}

/// Replays once with all jobs; after a cut this fails somewhere.
fn replay(service: &DlqService) {
    let mut options = ReplayOptions::default();
    options.jobs = Some(JOBS);
    options.batch_size = Some(20);
    options.max = Some(u64::MAX);
    let _result_is_seen_in_the_store = service.replay_with(&options);
}

fn entries(repository: &dyn FailedOperationRepository) -> Vec<Entry> {
    let page = Page { order: Order::Oldest, limit: 1000, ..Page::default() };
    repository.find(&Filter::default(), page).unwrap()
}

fn with_status(entries: &[Entry], status: Status) -> Vec<EntryId> {
    let entries = entries.iter().filter(|entry| entry.operation.status == status);
    entries.map(|entry| entry.operation.id).collect()
}

/// Goes on where a cut left a store, to the end.
fn replay_to_the_end(disk: &Simulated, outside: &Arc<Outside>) -> Vec<Entry> {
    let service = service(disk, outside);
    let repository = service.repository().unwrap();
    for id in &*outside.told.lock().unwrap() {
        let entry = repository.get_by_id(*id).unwrap().unwrap();
        assert_eq!(entry.operation.status, Status::Resolved, "{id} was told and is lost");
    }
    for _ in 0..ROUNDS_MAX {
        replay(&service);
        let entries = entries(&*repository);
        let pending = entries.iter().filter(|entry| entry.operation.status == Status::Pending);
        assert!(pending.clone().all(|entry| entry.state().can_retry()), "pending at its cap");
        if pending.count() == 0 {
            assert_eq!(with_status(&entries, Status::Replaying), []);
            return entries;
        }
        disk.advance(Duration::from_hours(2));
    }
    panic!("no end in sight");
}

/// Every entry has the end that its domain deserves, and exactly one success is on record.
fn check_end(disk: &Simulated, outside: &Arc<Outside>, entries: &[Entry], cuts: usize) {
    let (told, deliveries) = (outside.told.lock().unwrap(), outside.deliveries.lock().unwrap());
    for entry in entries {
        let id = entry.operation.id;
        let is_good = entry.operation.domain == "good";
        let wanted = if is_good { Status::Resolved } else { Status::RequiresReview };
        assert_eq!(entry.operation.status, wanted, "{id}: {:?}", entry.attempts);
        let successes = entry.attempts.iter().filter(|attempt| attempt.outcome == "success");
        assert_eq!(successes.count(), usize::from(is_good), "{id}");
        let began = entry.attempts.len();
        assert!(deliveries[&id] <= began, "{id} ran without an attempt on record");
        if is_good {
            assert!(deliveries[&id] <= 1 + cuts, "{id} was delivered {} times", deliveries[&id]);
        }
    }
    let good = entries.iter().filter(|entry| entry.operation.domain == "good").count();
    assert!(told.len() <= good && told.len() + cuts * JOBS as usize >= good);
    drop((told, deliveries));
    let repository = open(&disk.restarted());
    let rows = repository.tallies().unwrap();
    let succeeded: u64 = rows.iter().filter_map(|row| row.counts.get(&Cause::Succeeded)).sum();
    assert_eq!(succeeded, good as u64, "one accepted completion each");
}

fn good_or_bad(number: u64) -> &'static str {
    if number % 7 == 6 { "bad" } else { "good" }
}

/// Cuts the power at one step of the first replay; answers how many attempts that cut off.
fn check_cut(prepared: &Simulated, at: u64, seed: u64) -> usize {
    let mut modes = CrashMode::ALL.map(Some).to_vec();
    modes.push(None);
    let mut cut_off = 0;
    for mode in modes {
        let (disk, outside) = (prepared.restarted(), Arc::new(Outside::default()));
        let first = service(&disk, &outside);
        let begin = disk.operations();
        disk.power_off_at(Some(begin + at));
        replay(&first);
        let image = match mode {
            Some(mode) => disk.crash_image(mode, seed),
            None => disk.restarted(),
        };
        disk.power_off_at(Some(disk.operations()));
        drop(first);
        let entries = replay_to_the_end(&image, &outside);
        check_end(&image, &outside, &entries, 1);
        let attempts = entries.iter().flat_map(|entry| &entry.attempts);
        cut_off += attempts.filter(|attempt| attempt.outcome == "interrupted").count();
    }
    cut_off
}

#[test]
fn a_cut_at_any_step_of_a_replay_loses_and_doubles_nothing() {
    let prepared = prepared(2, good_or_bad);
    // Jobs meet in groups by chance, so the number of steps differs from run to run.
    let steps = {
        let (disk, outside) = (prepared.restarted(), Arc::new(Outside::default()));
        let service = service(&disk, &outside);
        let begin = disk.operations();
        replay(&service);
        disk.operations() - begin
    };
    assert!(steps > 10, "{steps}");
    let (next, cut_off) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed) as u64;
                    if at > steps {
                        break;
                    }
                    let count = check_cut(&prepared, at, at * 31 + 7);
                    cut_off.fetch_add(count, Ordering::Relaxed);
                }
            });
        }
    });
    let cut_off = cut_off.into_inner();
    assert!(cut_off > 50, "the cuts met no attempt: {cut_off}");
    println!("{cut_off} attempts were cut off in {steps} steps");
}

#[test]
fn cuts_of_the_replay_after_a_cut_lose_and_double_nothing() {
    let prepared = prepared(8, good_or_bad);
    for seed in 0..60_usize {
        let (mut disk, outside) = (prepared.restarted(), Arc::new(Outside::default()));
        let cuts = 3;
        for cut in 0..cuts {
            let service = service(&disk, &outside);
            disk.power_off_at(Some(disk.operations() + ((seed * 5 + cut * 13) % 40) as u64));
            replay(&service);
            let mode = CrashMode::ALL[(seed + cut) % CrashMode::ALL.len()];
            let image = disk.crash_image(mode, seed as u64);
            disk.power_off_at(Some(disk.operations()));
            drop(service);
            disk = image;
        }
        let entries = replay_to_the_end(&disk, &outside);
        check_end(&disk, &outside, &entries, cuts);
    }
}

#[test]
fn a_handler_that_ends_its_process_burns_only_its_own_attempts() {
    for place in [0, 5, 23_usize] {
        let is_killer = |number: u64| number == place as u64;
        let mut disk = prepared(2, |number| if is_killer(number) { "killer" } else { "good" });
        let outside = Arc::new(Outside::default());
        let killer = entries(&*open(&disk.restarted()))[place].operation.id;
        let runs = |outside: &Outside| outside.deliveries.lock().unwrap().get(&killer).copied();
        let mut deaths = 0;
        loop {
            let service = service(&disk, &outside);
            let before = runs(&outside);
            replay(&service);
            if runs(&outside) == before {
                break;
            }
            deaths += 1;
            assert!(deaths <= 3, "a cap of two, and one when others were suspected too");
            let image = disk.crash_image(CrashMode::Nothing, deaths);
            drop(service);
            disk = image;
        }
        assert!(deaths >= 2);
        let disk = disk.restarted();
        let entries = replay_to_the_end(&disk, &outside);
        check_end(&disk, &outside, &entries, usize::try_from(deaths).unwrap());
    }
}
