//! Weaknesses 1 to 13: taking failures in, and keeping them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadletter::{
    Background, Config, CrashMode, DlqConfig, DlqService, Durability, Engine, Env, Error,
    FailedOperationRepository, Fault, FaultKind, Filter, HealthStatus, IndexKind, Memory,
    MemoryRepository, NewFailure, Page, Reached, Simulated, StoreMode, StoreOptions, spill_with,
};

use crate::faulty::Faulty;
use crate::service_outbox::{check, queue, service};
use crate::service_store::{events, named};

const LIMIT: Duration = Duration::from_mins(1);

fn failure(number: u64) -> NewFailure {
    NewFailure::new("payment", "PG_TIMEOUT").key(format!("k{number}"))
}

fn manual(repository: &Arc<Faulty>, settings: &[(&str, &str)]) -> DlqService {
    service(repository, Background::Manual, settings)
}

fn store_config() -> Config {
    let mut config = crate::store::config();
    config.background = Background::Manual;
    config.index = IndexKind::Memory;
    config
}

fn open(disk: &Simulated) -> Engine {
    Engine::open_with(store_config(), Arc::new(disk.clone())).unwrap()
}

/// There, success was told of what was only in memory.
#[test]
fn w1_success_means_stored_unless_the_caller_asked_not_to_wait() {
    let repository = Faulty::new();
    let service = manual(&repository, &[]);
    let result = service.store_failure(failure(1));
    assert!(result.success && result.durability == Reached::Synced);
    assert!(repository.get_by_id(result.dlq_id.unwrap()).unwrap().is_some());
    let result = queue(&service, failure(2));
    assert!(result.durability == Reached::Queued && result.dlq_id.is_none());
    assert!(result.receipt.unwrap().result().is_none());
}

/// There, one failed write lost the entry: 20 of 20.
#[test]
fn w2_a_failed_write_loses_nothing() {
    let repository = Faulty::new();
    let service = manual(&repository, &[]);
    repository.fail_stores(true);
    let receipts: Vec<_> =
        (0..20).map(|number| queue(&service, failure(number)).receipt.unwrap()).collect();
    repository.env.advance(Duration::from_millis(100));
    service.step().unwrap();
    assert_eq!(service.outbox_stats().size, 20);
    repository.fail_stores(false);
    service.flush_and_wait(LIMIT);
    assert!(receipts.iter().all(|receipt| receipt.result().unwrap().success));
    assert_eq!(repository.count(), 20);
}

/// There, a refusal of the writer counted as written.
#[test]
fn w3_a_refusal_does_not_count_as_written() {
    let repository = Faulty::new();
    *repository.refused_type.lock().unwrap() = Some("PG_TIMEOUT".to_owned());
    let service = manual(&repository, &[]);
    let receipt = queue(&service, failure(1)).receipt.unwrap();
    service.flush_and_wait(LIMIT);
    let stats = service.outbox_stats();
    assert_eq!((stats.entries_written, stats.entries_failed), (0, 1));
    assert!(receipt.result().unwrap().failure.is_some());
}

/// There, the oldest were dropped and the newest told that all was well: 990 of 1000.
#[test]
fn w4_a_full_queue_says_so_and_drops_nothing() {
    let repository = Faulty::new();
    let service = manual(&repository, &[("outbox_capacity", "100")]);
    let (taken, refused): (Vec<_>, Vec<_>) =
        (0..1000).map(|number| queue(&service, failure(number))).partition(|it| it.success);
    assert_eq!((taken.len(), refused.len()), (100, 900));
    assert!(refused.iter().all(|result| result.failure.is_some() && result.error.is_some()));
    service.flush_and_wait(LIMIT);
    assert!(taken.iter().all(|it| it.receipt.as_ref().unwrap().result().unwrap().success));
}

/// There, the alarm came once per process, counted 1, and was told under the lock of the queue.
#[test]
fn w5_the_alarm_counts_and_comes_again() {
    let repository = Faulty::new();
    let settings = [("outbox_capacity", "100"), ("outbox_drop_rate_threshold", "0.2")];
    let service = manual(&repository, &settings);
    let events = events(&service);
    let inside = service.clone();
    let seen = Arc::new(AtomicBool::default());
    let asked = Arc::clone(&seen);
    service.on_event(move |_| asked.store(inside.outbox_stats().size == 100, Ordering::SeqCst));
    for round in 0..2_u64 {
        // Enough come through for the share to fall, then too many come at once.
        for batch in 0..=round * 20 {
            service.flush_and_wait(LIMIT);
            (0..100).for_each(|number| drop(queue(&service, failure(batch * 1000 + number))));
        }
        (0..300).for_each(|number| drop(queue(&service, failure(number))));
    }
    let events = events.lock().unwrap();
    let alarms = named(&events, "DLQ_OUTBOX_DROP_THRESHOLD_BREACHED");
    assert_eq!(alarms.len(), 2);
    assert!(alarms.iter().all(|alarm| alarm["total_dropped"].as_u64().unwrap() > 1));
    assert!(seen.load(Ordering::SeqCst), "a listener may ask");
}

/// There, stopping returned while the thread still wrote, and 380 of 400 vanished.
#[test]
fn w6_closing_ends_the_thread_and_loses_nothing() {
    for store_fails in [false, true] {
        let repository = Faulty::new();
        let settings = [("outbox_flush_interval_seconds", "60")];
        let service = service(&repository, Background::Threads, &settings);
        repository.fail_stores(store_fails);
        let receipts: Vec<_> =
            (0..400).map(|number| queue(&service, failure(number)).receipt.unwrap()).collect();
        service.close().unwrap();
        let stats = service.outbox_stats();
        check(&stats);
        assert_eq!((stats.entries_written + stats.entries_spilled, stats.in_flight), (400, 0));
        assert!(receipts.iter().all(|receipt| receipt.result().is_some()));
        let calls = repository.calls.load(Ordering::SeqCst);
        drop(service);
        assert_eq!(repository.calls.load(Ordering::SeqCst), calls);
    }
}

/// There, the durable buffer ignored errors of the disk, and nothing ever read it.
#[test]
fn w7_what_is_spilled_is_synced_and_comes_home() {
    let disk = Simulated::new(1);
    let env: Arc<dyn Env> = Arc::new(disk.clone());
    let spilled = spill_with(&store_config(), &env, failure(1)).unwrap();
    let image = disk.crash_image(CrashMode::Nothing, 1);
    let engine = open(&image);
    assert!(engine.get_by_key(&spilled.key).unwrap().is_some());
    for at in disk.operations()..disk.operations() + 20 {
        disk.inject(Fault { at, kind: FaultKind::FailedSync });
    }
    spill_with(&store_config(), &env, failure(2)).unwrap_err();
}

/// There, a restart while the store was away hid all that had been synced.
#[test]
fn w8_what_was_acknowledged_is_there_after_a_restart() {
    let disk = Simulated::new(1);
    let engine = open(&disk);
    (0..50).for_each(|number| drop(engine.store(failure(number)).unwrap()));
    let engine = open(&disk.crash_image(CrashMode::Nothing, 1));
    assert_eq!(engine.count(&Filter::default()).unwrap(), 50);
    for number in 0..50 {
        assert!(engine.get_by_key(&format!("k{number}")).unwrap().is_some());
    }
}

/// There, entries were counted but not found while the store was in trouble.
#[test]
fn w9_trouble_hides_no_entry() {
    let repository = Faulty::new();
    let service = manual(&repository, &[]);
    (0..9).for_each(|number| assert!(service.store_failure(failure(number)).success));
    repository.fail_stores(true);
    assert!(service.store_failure(failure(9)).is_fallback());
    assert_eq!(service.health().status, HealthStatus::Degraded);
    let repository = service.repository().unwrap();
    let page = Page { limit: usize::MAX, ..Page::default() };
    assert_eq!(repository.find(&Filter::default(), page).unwrap().len(), 9);
    assert_eq!(repository.count(&Filter::default()).unwrap(), 9);
    assert_eq!(repository.get_facet_counts(None, None).unwrap().by_domain["payment"], 9);
    assert_eq!(repository.get_statistics().unwrap().total, 9);
}

/// There, bringing entries home went on after one that failed, and deleted the file.
#[test]
fn w10_a_file_goes_only_when_all_of_it_is_home() {
    let disk = Simulated::new(1);
    let engine = open(&disk);
    let env: Arc<dyn Env> = Arc::new(disk.clone());
    (0..3).for_each(|number| drop(spill_with(&store_config(), &env, failure(number)).unwrap()));
    for at in disk.operations()..disk.operations() + 10 {
        disk.inject(Fault { at, kind: FaultKind::FailedSync });
    }
    engine.step().unwrap_err();
    drop(engine);
    let engine = open(&disk.crash_image(CrashMode::Nothing, 1));
    assert_eq!(engine.count(&Filter::default()).unwrap(), 3);
}

/// There, a store that did not open was replaced by memory, with one line in the log.
#[test]
fn w11_a_store_that_does_not_open_is_not_replaced_by_memory() {
    let env = Memory::new(1);
    let away = Arc::new(AtomicBool::new(true));
    let switch = Arc::clone(&away);
    let builder = DlqService::builder().config(DlqConfig::default()).engine(store_config());
    let service = builder
        .env(Arc::new(env.clone()))
        .opener(move |config, env| {
            let source = std::io::Error::other("read-only file system");
            let (act, path) = ("create the directory", config.dir.clone());
            if switch.load(Ordering::SeqCst) {
                return Err(Error::Io { act, path, source });
            }
            Ok(Arc::new(MemoryRepository::with(config, env)))
        })
        .build();
    let events = events(&service);
    let result = service.store_failure(failure(1));
    assert!(
        !result.success
            && env.open(&result.fallback_path.unwrap(), deadletter::OpenMode::Read).is_ok()
    );
    assert_eq!(service.health().status, HealthStatus::Degraded);
    assert_eq!(named(&events.lock().unwrap(), "DLQ_HEALTH_CHANGED").len(), 1);
    away.store(false, Ordering::SeqCst);
    env.advance(Duration::from_secs(1));
    assert!(service.store_failure(failure(2)).success);
}

/// There, capturing without a store answered nothing and warned once.
#[test]
fn w12_every_capture_is_answered() {
    let service = DlqService::builder().variables(Vec::new).env(Arc::new(Memory::new(1))).build();
    let events = events(&service);
    for mode in [StoreMode::Sync, StoreMode::Sync, StoreMode::Async] {
        let options = StoreOptions::default().mode(mode).durability(Durability::Synced);
        let result = service.store_failure_with(failure(1), options);
        assert!(result.failure.is_some() || result.receipt.is_some(), "{result:?}");
    }
    assert_eq!(named(&events.lock().unwrap(), "DLQ_REFUSED").len(), 2);
    service.close().unwrap();
    assert_eq!(named(&events.lock().unwrap(), "DLQ_REFUSED").len(), 3);
}

/// There, the runbook advises against keeping what must not be lost.
#[test]
fn w13_what_must_not_be_lost_may_be_kept_here() {
    let disk = Simulated::new(1);
    let engine = open(&disk);
    for number in 0..20 {
        engine.store(failure(number)).unwrap();
        let engine = open(&disk.crash_image(CrashMode::Nothing, number));
        assert_eq!(engine.count(&Filter::default()).unwrap(), number + 1);
    }
}
