//! A disk that becomes full: what is refused, what goes on, and what is there afterwards.

mod bound;
mod device;
mod mounted;
mod zero;

use std::collections::BTreeSet;
use std::sync::Arc;

use deadletter::{
    Config, CrashMode, Durability, Engine, EntryId, Error, Fault, FaultKind, Filter, IndexKind,
    Json, NewFailure, OperationKind, Page, Prepare, Simulated, Status, spill_with,
};

fn config() -> Config {
    let mut config = crate::store::config();
    config.limits.request_data_max_bytes = 16 * 1024;
    config
}

fn open(disk: &Simulated, config: Config) -> Engine {
    Engine::open_with(config, Arc::new(disk.clone())).unwrap()
}

fn failure(number: u64, bytes: usize) -> NewFailure {
    let request = Json::object(format!("{{\"x\":\"{}\"}}", "y".repeat(bytes))).unwrap();
    NewFailure::new("payment", "FULL").key(format!("key-{number}")).request(request)
}

fn keys(engine: &Engine) -> BTreeSet<String> {
    let page = Page { limit: usize::MAX, ..Page::default() };
    let entries = engine.find(&Filter::default(), page).unwrap();
    let keys: BTreeSet<String> = entries.iter().map(|entry| entry.key.clone()).collect();
    assert_eq!(keys.len(), entries.len(), "an entry came twice");
    keys
}

fn is_no_space(error: &Error) -> bool {
    matches!(error, Error::Full { what: "disk", .. })
}

fn used(disk: &Simulated) -> u64 {
    let free = deadletter::Env::free_bytes(disk, "/".as_ref()).unwrap();
    deadletter::Env::free_bytes(&Simulated::new(0), "/".as_ref()).unwrap() - free
}

/// Fills the active segment of a disk that has no room for another one.
fn fill(engine: &Engine, disk: &Simulated) -> (u64, Error) {
    disk.set_capacity(Some(used(disk)));
    for number in 0..100 {
        match engine.store(failure(number, 4000)) {
            Ok(_) => {}
            Err(refused) => {
                assert_eq!(refused.failure.key, Some(format!("key-{number}")));
                return (number, refused.source);
            }
        }
    }
    panic!("the disk never was full");
}

#[test]
fn no_space_for_the_next_segment_refuses_and_goes_on() {
    for prepare in [Prepare::Allocate, Prepare::Zero] {
        let disk = Simulated::new(1);
        let mut first = config();
        first.prepare = prepare;
        let engine = open(&disk, first);
        let (stored, refused) = fill(&engine, &disk);
        assert!(is_no_space(&refused), "{refused:?}");
        for number in 0..20 {
            let refused = engine.store(failure(stored + number, 4000)).unwrap_err();
            assert!(is_no_space(&refused.source), "{refused:?}");
        }
        let changed = engine.change(EntryId(1), &[], |state| state.status = Status::Resolved);
        changed.unwrap();
        let accounting = engine.accounting().unwrap();
        assert_eq!((accounting.captured, accounting.refused, accounting.queued), (stored, 21, 0));
        disk.set_capacity(None);
        engine.store(failure(stored, 4000)).unwrap();
        assert_eq!(keys(&engine).len() as u64, stored + 1);
        engine.close().unwrap();
        let engine = open(&disk, config());
        assert!(engine.report().clean);
        assert_eq!(keys(&engine).len() as u64, stored + 1);
        let reopened = open(&disk.crash_image(CrashMode::Nothing, 1), config());
        assert_eq!(keys(&reopened).len() as u64, stored + 1);
    }
}

/// Stores until one is refused.
fn store_until_refused(engine: &Engine) -> Option<(u64, Error)> {
    (0..40).find_map(|number| {
        engine.store(failure(number, 4000)).err().map(|refused| (number, refused.source))
    })
}

/// The numbers of refused records are given again, and the index that was saved over them must
/// not hide who gets them.
#[test]
fn entries_behind_refused_numbers_are_found_in_a_saved_index() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config();
    config.dir = dir.path().join("store");
    config.index = IndexKind::Sled;
    // The database of the index writes to the real disk, the log to the simulated one.
    let new_disk = || {
        let disk = Simulated::new(1);
        deadletter::Env::create_dir(&disk, &config.dir).unwrap();
        disk
    };
    let twin = new_disk();
    assert!(store_until_refused(&open(&twin, config.clone())).is_none());
    let trace = twin.trace();
    let mut created = trace
        .iter()
        .filter(|step| step.kind == OperationKind::Allocate && step.name.ends_with(".next"));
    // The first segment is made by the open, the second by a rotation.
    let at = created.nth(1).unwrap().step;
    std::fs::remove_dir_all(&config.dir).unwrap();

    let disk = new_disk();
    disk.inject(Fault { at, kind: FaultKind::Enospc });
    let engine = open(&disk, config.clone());
    let (stored, refused) = store_until_refused(&engine).unwrap();
    assert!(is_no_space(&refused), "{refused:?}");
    engine.close().unwrap();
    // A process that stores without a look at the index.
    let engine = open(&disk, config.clone());
    let late = NewFailure::new("payment", "LATE");
    let id = engine.store(late).unwrap().id;
    engine.close().unwrap();
    let engine = open(&disk, config);
    assert_eq!(keys(&engine).len() as u64, stored + 1);
    assert!(engine.get(id).unwrap().is_some());
}

/// More records are queued than a segment has room for.
#[test]
fn a_long_queue_is_written_in_groups_that_fit() {
    let disk = Simulated::new(1);
    let mut config = config();
    config.queue_bytes_max = 1024 * 1024;
    let engine = open(&disk, config);
    for number in 0..100 {
        engine.submit(failure(number, 4000), Durability::Queued).unwrap();
    }
    engine.step().unwrap();
    assert_eq!(keys(&engine).len(), 100);
    let log = deadletter::Env::list(&disk, "/store/log".as_ref()).unwrap();
    for (name, kind) in log {
        let deadletter::NameKind::File(len) = kind else { panic!("{name} is no file") };
        assert!(len <= 64 * 1024, "{name} has {len} bytes");
    }
}

/// The disk is full from some byte on: nothing panics, errors are typed, entries come back, and
/// nothing that was acknowledged is lost.
#[test]
fn wherever_the_disk_is_full_nothing_acknowledged_is_lost() {
    for capacity in (4096..400 * 1024).step_by(2741) {
        let disk = Simulated::new(capacity);
        disk.set_capacity(Some(capacity));
        let mut stored = BTreeSet::new();
        if let Ok(engine) = Engine::open_with(config(), Arc::new(disk.clone())) {
            use_store(&engine, &disk, &mut stored);
        }
        disk.set_capacity(None);
        for (what, image) in [
            ("restart", disk.restarted()),
            ("power cut", disk.crash_image(CrashMode::Nothing, capacity)),
        ] {
            let engine = open(&image, config());
            let found = keys(&engine);
            let lost: Vec<_> = stored.difference(&found).collect();
            assert!(lost.is_empty(), "{what} at {capacity}: {lost:?}");
            let accounting = engine.accounting().unwrap();
            assert_eq!(accounting.live, found.len() as u64, "{what} at {capacity}");
            engine.store(failure(1000, 10)).unwrap();
            engine.close().unwrap();
        }
    }
}

fn use_store(engine: &Engine, disk: &Simulated, stored: &mut BTreeSet<String>) {
    let env: Arc<dyn deadletter::Env> = Arc::new(disk.clone());
    for number in 0..60 {
        let key = format!("key-{number}");
        let given = failure(number, 3000);
        match number % 10 {
            7 => match spill_with(&config(), &env, given) {
                Ok(spilled) => drop(stored.insert(spilled.key)),
                Err(refused) => assert_eq!(refused.failure.key, Some(key)),
            },
            8 => drop(engine.step()),
            9 => drop(engine.checkpoint()),
            _ => match engine.store(given) {
                Ok(one) => {
                    stored.insert(one.key);
                    drop(engine.change(one.id, &[], |state| state.status = Status::Resolved));
                }
                Err(refused) => {
                    assert_eq!(refused.failure.key, Some(key));
                    assert!(!matches!(refused.source, Error::Damaged(_)), "{refused:?}");
                }
            },
        }
        let accounting = engine.accounting().unwrap();
        let settled = accounting.captured + accounting.duplicates + accounting.refused;
        assert_eq!(accounting.offered, settled + accounting.queued + accounting.spilled);
    }
    drop(engine.close());
}
