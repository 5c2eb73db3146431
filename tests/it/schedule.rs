//! What runs by itself: entries age, cut off replays are released, checkpoints are written, each in
//! its time, in bounded parts, and never when there is nothing to do.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use deadletter::{
    Background, DlqConfig, DlqService, Engine, EntryId, FailedOperationRepository, Fault,
    FaultKind, HealthStatus, Job, JobStats, Memory, MemoryRepository, NewFailure, PurgeSelection,
    Simulated, Status, Timestamp,
};

use crate::faulty::Faulty;
use crate::service_store::{events, named};

/// In milliseconds, as clocks count.
const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// How long a lease holds by default.
const LEASE: u64 = 30 * MINUTE;
/// Longer than anything takes that is not stuck.
const LIMIT: Duration = Duration::from_mins(1);

/// A service whose clock moves when it is told to.
struct Bench {
    env: Memory,
    service: DlqService,
}

fn config(settings: &[(&str, &str)]) -> DlqConfig {
    let mut config = DlqConfig::default();
    settings.iter().for_each(|(name, value)| config.set(name, value).unwrap());
    config
}

fn over(
    repository: Arc<dyn FailedOperationRepository>,
    env: &Memory,
    settings: &[(&str, &str)],
) -> Bench {
    let builder = DlqService::builder().config(config(settings)).repository(repository);
    Bench { env: env.clone(), service: builder.background(Background::Manual).build() }
}

fn over_memory(settings: &[(&str, &str)]) -> Bench {
    let env = Memory::new(1);
    let repository = MemoryRepository::with(crate::store::config(), Arc::new(env.clone()));
    over(Arc::new(repository), &env, settings)
}

fn over_engine(settings: &[(&str, &str)]) -> Bench {
    let env = Memory::new(1);
    over(Arc::new(open(&env)), &env, settings)
}

fn open(env: &Memory) -> Engine {
    Engine::open_with(crate::store::config(), Arc::new(env.clone())).unwrap()
}

/// Over both repositories that the crate has.
fn over_each(settings: &[(&str, &str)], check: impl Fn(&Bench)) {
    check(&over_memory(settings));
    check(&over_engine(settings));
}

impl Bench {
    fn store(&self) -> EntryId {
        self.service.store_failure(NewFailure::new("payment", "TIMEOUT")).dlq_id.unwrap()
    }

    fn status(&self, id: EntryId) -> Option<Status> {
        let entry = self.service.repository().unwrap().get_by_id(id).unwrap();
        entry.map(|entry| entry.operation.status)
    }

    fn job(&self, job: Job) -> JobStats {
        let jobs = self.service.schedule().jobs;
        jobs.into_iter().find(|stats| stats.job == job).unwrap()
    }

    fn next_due(&self) -> Option<Timestamp> {
        self.service.schedule().jobs.iter().filter_map(|stats| stats.next_due).min()
    }

    fn now(&self) -> Timestamp {
        self.service.repository().unwrap().now()
    }

    fn advance(&self, time_ms: u64) {
        self.env.advance(Duration::from_millis(time_ms));
    }

    /// Lives for some time as the thread would: sleeps until something is due. Answers with how
    /// often it woke up.
    fn live(&self, time_ms: u64) -> u64 {
        let end = Timestamp(self.now().0 + time_ms);
        let mut wakes = 0;
        self.service.step().unwrap();
        while let Some(due) = self.next_due().filter(|due| *due <= end) {
            self.advance(due.0.saturating_sub(self.now().0));
            self.service.step().unwrap();
            wakes += 1;
            assert!(wakes < 100_000, "{:?}", self.service.schedule());
        }
        self.advance(end.0 - self.now().0);
        wakes
    }
}

#[test]
fn an_entry_ages_from_its_store_to_its_purge_by_itself() {
    over_each(&[], |bench| {
        let id = bench.store();
        bench.live(3 * DAY - MINUTE);
        assert_eq!(bench.status(id), Some(Status::Pending));
        bench.live(3 * MINUTE);
        assert_eq!(bench.status(id), Some(Status::Expired));
        bench.live(30 * DAY - 3 * MINUTE);
        assert_eq!(bench.status(id), Some(Status::Expired));
        bench.live(10 * MINUTE);
        assert_eq!(bench.status(id), Some(Status::Archived));
        let history = bench.service.repository().unwrap().get_by_id(id).unwrap().unwrap().audit;
        let acts = history.iter().map(|act| (act.actor.as_str(), act.action.as_str()));
        assert!(acts.eq([("scheduler", "expire"), ("scheduler", "archive")]));
        bench.live(90 * DAY - 10 * MINUTE);
        assert_eq!(bench.status(id), Some(Status::Archived));
        bench.live(20 * MINUTE);
        assert_eq!(bench.status(id), None);
        let accounting = bench.service.repository().unwrap().accounting().unwrap();
        assert_eq!((accounting.live, accounting.purged), (0, 1));
        for job in [Job::Expire, Job::Archive, Job::Purge] {
            assert_eq!((bench.job(job).items, bench.job(job).failures), (1, 0), "{job:?}");
        }
    });
}

#[test]
fn a_resolved_entry_is_archived_after_its_own_time() {
    over_each(&[("archive_older_than_days", "5")], |bench| {
        let id = bench.store();
        bench.live(DAY);
        let resolve = deadletter::ResolveRequest::default();
        bench.service.resolve_entry(id, &resolve).unwrap();
        bench.live(5 * DAY);
        assert_eq!(bench.status(id), Some(Status::Resolved));
        bench.live(HOUR);
        assert_eq!(bench.status(id), Some(Status::Archived));
    });
}

/// A life takes as many wake-ups as things happen in it, and then there are none.
#[test]
fn nobody_wakes_up_for_nothing() {
    let check = |bench: &Bench, wanted: u64| {
        assert_eq!(bench.live(DAY), 1, "it looks once");
        assert_eq!(bench.next_due(), None);
        assert_eq!(bench.live(365 * DAY), 0);
        bench.store();
        assert_eq!(bench.live(365 * DAY), wanted, "{:?}", bench.service.schedule());
        assert_eq!(bench.next_due(), None);
    };
    // It expires, is archived, is purged.
    check(&over_memory(&[]), 3);
    // And a checkpoint after each change.
    check(&over_engine(&[]), 7);
}

/// The first look after a start finds what became due while nobody ran.
#[test]
fn what_became_due_meanwhile_is_done_after_a_start() {
    let env = Memory::new(1);
    let first = over(Arc::new(open(&env)), &env, &[]);
    let (leased, expired) = (first.store(), first.store());
    let repository = first.service.repository().unwrap();
    assert_eq!(repository.acquire_batch(&[leased], Duration::from_millis(LEASE)).unwrap().len(), 1);
    drop(repository);
    first.advance(3 * DAY);
    first.service.close().unwrap();
    // Longer than a day would not be believed at once.
    first.advance(DAY);
    let second = over(Arc::new(open(&env)), &env, &[]);
    second.service.step().unwrap();
    assert_eq!(second.status(expired), Some(Status::Pending), "not all processes at once");
    second.advance(MINUTE);
    second.service.step().unwrap();
    assert_eq!(second.status(expired), Some(Status::Expired));
    assert_eq!(second.status(leased), Some(Status::Pending));
    assert_eq!(second.job(Job::Release).items, 1);
    // It had to expire as well; the next sweep takes it.
    second.live(2 * MINUTE);
    assert_eq!(second.status(leased), Some(Status::Expired));
}

#[test]
fn a_lease_that_ended_is_released_by_itself() {
    over_each(&[("expire_interval", "0")], |bench| {
        let id = bench.store();
        bench.live(DAY);
        let repository = bench.service.repository().unwrap();
        let lease = bench.service.config().lease();
        assert_eq!(lease, Duration::from_millis(LEASE));
        assert_eq!(repository.acquire_batch(&[id], lease).unwrap().len(), 1);
        bench.live(LEASE - MINUTE);
        assert_eq!(bench.status(id), Some(Status::Replaying));
        bench.live(MINUTE + HOUR);
        assert_eq!(bench.status(id), Some(Status::Pending));
        assert_eq!(bench.job(Job::Release).items, 1);
        assert_eq!(bench.job(Job::Release).next_due, None);
    });
}

/// A sweep never holds up others for long: it does a part in each step.
#[test]
fn a_sweep_does_a_part_in_each_step() {
    over_each(&[("batch_size", "10")], |bench| {
        let events = events(&bench.service);
        let ids: Vec<EntryId> = (0..25).map(|_| bench.store()).collect();
        bench.advance(4 * DAY);
        let left = [15, 5, 0, 0].map(|_| {
            bench.service.step().unwrap();
            let pending = |id: &&EntryId| bench.status(**id) == Some(Status::Pending);
            ids.iter().filter(pending).count()
        });
        assert_eq!(left, [15, 5, 0, 0]);
        assert_eq!(bench.job(Job::Expire).items, 25);
        assert_eq!(bench.job(Job::Expire).runs, 3);
        let events = events.lock().unwrap();
        let told = named(&events, "DLQ_MAINTENANCE");
        let told = told.iter().map(|event| (event["count"].as_u64(), event["actor_id"].as_str()));
        assert!(told.eq([10, 10, 5].map(|count| (Some(count), Some("scheduler")))));
    });
}

#[test]
fn what_the_scheduler_would_do_is_what_a_purge_announces() {
    over_each(&[("purge_older_than_days", "30")], |bench| {
        let ids: Vec<EntryId> = (0..60).map(|_| bench.store()).collect();
        let archive = |ids: &[EntryId]| {
            let repository = bench.service.repository().unwrap();
            repository.bulk_update_status(ids, Status::Archived).unwrap();
        };
        archive(&ids[..30]);
        bench.advance(20 * DAY);
        archive(&ids[30..]);
        bench.advance(10 * DAY + MINUTE);
        let announced = bench.service.count_purge(&PurgeSelection::OlderThanDays(30)).unwrap();
        bench.live(MINUTE);
        assert_eq!((announced, bench.job(Job::Purge).items), (30, 30));
    });
}

#[test]
fn nothing_runs_when_the_settings_say_so() {
    for settings in [("scheduler_enabled", "false"), ("enabled", "false"), ("expire_interval", "0")]
    {
        over_each(&[], |bench| {
            let id = bench.store();
            bench.service.set_config(config(&[settings])).unwrap();
            bench.live(4 * DAY);
            assert_eq!(bench.status(id), Some(Status::Pending), "{settings:?}");
            assert_eq!(bench.job(Job::Expire).runs, 0);
            bench.service.set_config(DlqConfig::default()).unwrap();
            bench.live(2 * MINUTE);
            assert_eq!(bench.status(id), Some(Status::Expired), "{settings:?}");
        });
    }
}

/// New settings count for what is there already.
#[test]
fn a_running_service_takes_new_intervals_and_ages() {
    over_each(&[("expire_interval", "86400")], |bench| {
        bench.live(DAY);
        let id = bench.store();
        let repository = bench.service.repository().unwrap();
        repository.bulk_update_status(&[id], Status::Rejected).unwrap();
        bench.live(10 * DAY);
        assert_eq!(bench.status(id), Some(Status::Rejected));
        bench.service.set_config(config(&[("retention_days", "7")])).unwrap();
        bench.live(MINUTE);
        assert_eq!(bench.status(id), Some(Status::Archived));
    });
}

#[test]
fn a_failing_sweep_is_tried_again_later_and_told_when_it_persists() {
    let repository = Faulty::new();
    let bench = over(repository.clone(), &repository.env, &[]);
    let id = bench.store();
    bench.advance(4 * DAY);
    repository.changes_fail.store(true, Ordering::SeqCst);
    let health = || bench.service.health().status;
    bench.live(2 * MINUTE);
    assert_eq!((bench.job(Job::Expire).failures, health()), (2, HealthStatus::Ok));
    let error = bench.job(Job::Expire).last_error.unwrap();
    assert!(error.contains("write the segment") && error.contains("the disk is gone"), "{error}");
    bench.live(2 * MINUTE);
    assert_eq!((bench.job(Job::Expire).failures, health()), (3, HealthStatus::Degraded));
    let wakes = bench.job(Job::Expire).failures;
    bench.live(DAY);
    let wakes = bench.job(Job::Expire).failures - wakes;
    assert!((20..40).contains(&wakes), "about once an hour: {wakes}");
    repository.changes_fail.store(false, Ordering::SeqCst);
    bench.live(HOUR);
    assert_eq!((bench.status(id), health()), (Some(Status::Expired), HealthStatus::Ok));
    assert_eq!(bench.job(Job::Expire).last_error, None);
}

#[test]
fn panics_are_contained_and_end_the_schedule_when_they_go_on() {
    let repository = Faulty::new();
    let bench = over(repository.clone(), &repository.env, &[]);
    bench.store();
    bench.advance(4 * DAY);
    repository.changes_panic.store(true, Ordering::SeqCst);
    bench.live(10 * DAY);
    let stats = bench.service.schedule();
    assert_eq!((stats.panics, stats.active), (4, false));
    let health = bench.service.health();
    assert_eq!(health.status, HealthStatus::Degraded);
    assert!(health.reason.unwrap().contains("panicked: as it was told"));
    assert!(health.hint.unwrap().contains("report"));
    assert!(bench.service.store_failure(NewFailure::new("a", "X")).success);
}

/// A repository of a host's that tells nobody of its changes is looked at from time to time.
#[test]
fn a_repository_that_does_not_tell_is_looked_at() {
    let repository = Faulty::new();
    let bench = over(repository.clone(), &repository.env, &[]);
    bench.live(DAY);
    let id = bench.store();
    bench.live(3 * DAY + 2 * MINUTE);
    assert_eq!(bench.status(id), Some(Status::Expired));
}

/// One that is only read has nothing to be done.
#[test]
fn a_store_that_is_only_read_is_left_alone() {
    let first = over_engine(&[]);
    first.store();
    let env = Arc::new(first.env.clone());
    let reader = Engine::open_read_only_with(crate::store::config(), env).unwrap();
    let bench = over(Arc::new(reader), &first.env, &[]);
    bench.advance(4 * DAY);
    // The repository's own step cannot work on it; the schedule comes before.
    let _ = bench.service.step();
    bench.advance(MINUTE);
    let _ = bench.service.step();
    assert_eq!(bench.next_due(), None);
    assert_eq!(bench.job(Job::Expire).failures, 0);
    assert_eq!(bench.service.health().status, HealthStatus::Ok);
}

/// Waits for the thread.
#[track_caller]
fn wait_until(what: impl Fn() -> bool) {
    wait_within(LIMIT, what);
}

/// Waits for another thread, at most so long.
#[track_caller]
pub fn wait_within(limit: Duration, what: impl Fn() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < limit, "it does not happen");
        std::thread::yield_now();
    }
}

#[test]
fn the_thread_wakes_for_what_is_due_earlier_and_ends_with_the_service() {
    let env = Memory::new(1);
    let repository = MemoryRepository::with(crate::store::config(), Arc::new(env.clone()));
    let repository: Arc<dyn FailedOperationRepository> = Arc::new(repository);
    let builder = DlqService::builder().config(DlqConfig::default());
    let service = builder.repository(Arc::clone(&repository)).build();
    assert!(!service.schedule().worker_alive, "nothing was asked of it yet");
    let bench = Bench { env, service };
    let first = bench.store();
    assert!(bench.service.schedule().worker_alive);
    // New settings let it look at a clock that was moved behind its back.
    bench.advance(4 * DAY);
    bench.service.set_config(DlqConfig::default()).unwrap();
    wait_until(|| bench.status(first) == Some(Status::Expired));
    wait_until(|| bench.job(Job::Purge).runs == 1);
    // It may have seen the clock before the settings, which then await its next turn.
    bench.advance(2 * MINUTE);
    bench.service.set_config(DlqConfig::default()).unwrap();
    wait_until(|| bench.job(Job::Expire).next_due.is_none());
    bench.advance(2 * MINUTE);
    let mut late = NewFailure::new("payment", "LATE");
    late.expires_at = Some(Timestamp(1));
    let late = bench.service.store_failure(late).dlq_id.unwrap();
    wait_until(|| bench.status(late) == Some(Status::Expired));
    let Bench { service, .. } = bench;
    let handle = service.clone();
    drop(service);
    assert!(handle.schedule().worker_alive);
    handle.close().unwrap();
    let stats = handle.schedule();
    assert!(!stats.worker_alive && !stats.active, "{stats:?}");
    drop(handle);
    assert_eq!(Arc::strong_count(&repository), 1, "nobody is left who holds it");
}

#[test]
fn the_thread_is_started_for_a_store_that_the_service_opens() {
    let dir = tempfile::tempdir().unwrap();
    let config = deadletter::Config::new(dir.path());
    let service = DlqService::builder().config(DlqConfig::default()).engine(config).build();
    let result = service.store_failure(NewFailure::new("payment", "TIMEOUT"));
    assert!(result.success, "{result:?}");
    assert!(service.schedule().worker_alive);
    let due = service.schedule().jobs.iter().filter_map(|stats| stats.next_due).min();
    assert!(due.is_some());
    drop(service);
    let reopened = Engine::open(deadletter::Config::new(dir.path())).unwrap();
    assert_eq!(reopened.statistics().unwrap().total, 1);
}

/// After a failed sync the log takes nothing until it is opened again, which the next sweep does
/// if nobody else comes.
#[test]
fn a_store_that_failed_is_opened_again_by_itself() {
    let disk = Simulated::new(1);
    let builder = DlqService::builder().config(DlqConfig::default());
    let builder = builder.engine(crate::store::config()).env(Arc::new(disk.clone()));
    let service = builder.build();
    assert!(service.store_failure(NewFailure::new("payment", "FIRST")).success);
    let now = disk.operations();
    (now..now + 2).for_each(|at| disk.inject(Fault { at, kind: FaultKind::FailedSync }));
    let failed = service.store_failure(NewFailure::new("payment", "SECOND"));
    assert!(failed.dlq_id.is_none(), "{failed:?}");
    assert_eq!(service.health().status, HealthStatus::Degraded);
    disk.advance(Duration::from_mins(2));
    service.set_config(DlqConfig::default()).unwrap();
    wait_until(|| service.health().status == HealthStatus::Ok);
    assert!(service.schedule().worker_alive);
    service.close().unwrap();
}
