//! Fallback files on their way home, when other things happen meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use deadletter::{
    Background, Config, CrashMode, Durability, Engine, Env, Error, Fault, FaultKind, Filter,
    IndexKind, Limits, Memory, NewFailure, Page, Simulated, Status, spill_with,
};

fn config() -> Config {
    let mut config = Config::new("/store");
    config.segment_bytes = 64 * 1024;
    config.limits = Limits { request_data_max_bytes: 8 * 1024, field_max_bytes: 4 * 1024 };
    config.background = Background::Manual;
    config.index = IndexKind::Memory;
    config
}

fn open(disk: &Simulated) -> Engine {
    Engine::open_with(config(), Arc::new(disk.clone())).unwrap()
}

fn spill(disk: &Simulated, failure: NewFailure) -> deadletter::Spilled {
    let env: Arc<dyn Env> = Arc::new(disk.clone());
    spill_with(&config(), &env, failure).unwrap()
}

fn named(key: &str) -> NewFailure {
    NewFailure::new("payment", "DRAINED").key(key)
}

#[test]
fn a_drain_that_fails_keeps_the_accounting() {
    let disk = Simulated::new(1);
    let engine = open(&disk);
    engine.store(named("first")).unwrap();
    spill(&disk, named("spilled"));
    for at in disk.operations()..disk.operations() + 10 {
        disk.inject(Fault { at, kind: FaultKind::FailedSync });
    }
    engine.step().unwrap_err();
    let accounting = engine.accounting().unwrap();
    let settled = accounting.captured + accounting.duplicates + accounting.refused;
    assert_eq!(accounting.offered, settled + accounting.queued, "{accounting:?}");
    drop(engine);
    let engine = open(&disk.crash_image(CrashMode::Nothing, 1));
    assert!(engine.get_by_key("spilled").unwrap().is_some());
}

/// The first copy is on its way without a sync; the file may go only when one copy is durable.
#[test]
fn a_file_waits_for_the_first_copy_of_its_key() {
    let disk = Simulated::new(1);
    let engine = open(&disk);
    let receipt = engine.submit(named("twice"), Durability::Queued).unwrap();
    spill(&disk, named("twice"));
    engine.step().unwrap();
    let image = disk.crash_image(CrashMode::Nothing, 1);
    let reopened = open(&image);
    assert_eq!(reopened.count(&Filter::default()).unwrap(), 1);
    assert_eq!(reopened.get_by_key("twice").unwrap().unwrap().operation.id, receipt.stored().id);
}

/// A file that cannot be removed does not hold up the others.
#[test]
fn a_file_that_stays_does_not_hold_up_the_others() {
    let spilled = || {
        let disk = Simulated::new(1);
        let engine = open(&disk);
        ["a", "b", "c"].iter().for_each(|key| drop(spill(&disk, named(key))));
        (disk, engine)
    };
    // The same again up to the first file that is removed.
    let (probe, engine) = spilled();
    engine.step().unwrap();
    let unlinks = |step: &deadletter::Operation| {
        step.kind == deadletter::OperationKind::Unlink && step.name.starts_with("fb-")
    };
    let at = probe.trace().iter().find(|step| unlinks(step)).unwrap().step;
    let (disk, engine) = spilled();
    disk.inject(Fault { at, kind: FaultKind::Eio });
    let refused = engine.step().unwrap_err();
    assert!(matches!(refused, Error::Io { .. }), "{refused:?}");
    assert_eq!(engine.count(&Filter::default()).unwrap(), 3);
    engine.step().unwrap();
    let left = Env::list(&disk, "/store/fallback".as_ref()).unwrap();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(engine.count(&Filter::default()).unwrap(), 3);
}

#[test]
fn what_could_never_come_home_is_not_spilled() {
    let disk = Simulated::new(1);
    let env: Arc<dyn Env> = Arc::new(disk.clone());
    let mut large = named("large");
    large.error_message = "x".repeat(33 * 1024);
    let refused = spill_with(&config(), &env, large).unwrap_err();
    assert!(matches!(refused.source, Error::TooLarge { bytes_max: 32_768, .. }), "{refused:?}");
    assert_eq!(refused.failure.error_message.len(), 33 * 1024);
}

#[test]
fn a_change_over_half_a_segment_is_refused() {
    let engine = Engine::open_with(config(), Arc::new(Memory::new(1))).unwrap();
    let id = engine.store(named("changed")).unwrap().id;
    let refused = engine.change(id, &[], |state| state.resolution_note = "x".repeat(33 * 1024));
    assert!(matches!(refused, Err(Error::TooLarge { bytes_max: 32_768, .. })), "{refused:?}");
    engine.change(id, &[], |state| state.status = Status::Resolved).unwrap();
}

/// Everybody rebuilds the index at once while entries come in: none is missing afterwards.
#[test]
fn no_entry_is_missing_after_rebuilds_at_the_same_time() {
    let engine = Engine::open_with(config(), Arc::new(Memory::new(1))).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    engine.rebuild_index().unwrap();
                }
            });
        }
        for number in 0..3000 {
            engine.store_with(named(&format!("{number}")), Durability::Written).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    let page = Page { limit: usize::MAX, ..Page::default() };
    assert_eq!(engine.find(&Filter::default(), page).unwrap().len(), 3000);
}
