//! No byte is free: an operator's work goes on, new entries are refused, and it ends by itself.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadletter::{
    Cause, CrashMode, Decision, DlqConfig, DlqEvent, DlqService, Durability, Engine, EntryId, Env,
    Error, Filter, HealthStatus, Page, Simulated, SpaceLevel, Status, verify_with,
};

use super::{config, failure, fill, is_no_space, open, used};

/// Ids of all entries, oldest first.
fn ids(engine: &Engine) -> Vec<EntryId> {
    let page = Page { limit: usize::MAX, ..Page::default() };
    let mut ids = engine.select(&Filter::default(), page).unwrap();
    ids.sort();
    ids
}

fn resolve(engine: &Engine, id: EntryId) {
    let resolved = engine.change(id, &[], |state| state.status = Status::Resolved);
    assert_eq!(resolved.unwrap().status, Status::Resolved);
}

fn purge(engine: &Engine, id: EntryId) {
    engine.change_all(&[id], &mut |_| Ok(Decision::Remove(Cause::Purged))).unwrap();
    assert_eq!(engine.get(id).unwrap(), None);
}

fn check_sound(disk: &Simulated) {
    let env: Arc<dyn Env> = Arc::new(disk.clone());
    let report = verify_with(&config(), &env, &mut |_, _| {}).unwrap();
    assert_eq!(report.damage, []);
}

fn files(disk: &Simulated, dir: &str) -> Vec<String> {
    let names = Env::list(disk, dir.as_ref()).unwrap();
    names.into_iter().map(|(name, _)| name).collect()
}

/// A store with its ballast on a disk that a neighbor fills, then the store itself.
fn full_store(disk: &Simulated) -> (Engine, u64) {
    let engine = open(disk, config());
    engine.store(failure(1000, 10)).unwrap();
    engine.step().unwrap();
    assert_eq!(engine.space().unwrap().bytes.ballast, 64 * 1024);
    let (stored, refused) = fill(&engine, disk);
    assert!(is_no_space(&refused), "{refused:?}");
    (engine, stored + 1)
}

#[test]
fn resolving_and_purging_everything_needs_no_free_byte() {
    let disk = Simulated::new(1);
    let (engine, stored) = full_store(&disk);
    let all = ids(&engine);
    assert_eq!(all.len() as u64, stored);
    let mut ballast = true;
    for id in &all {
        assert!(is_no_space(&engine.store(failure(2000, 4000)).unwrap_err().source));
        // A long note makes the changes large, so that the reserve of the segment is not enough.
        let note = "because ".repeat(40);
        let changed = engine.change(*id, &[], |state| {
            state.status = Status::Archived;
            state.resolution_note.clone_from(&note);
        });
        changed.unwrap();
        resolve(&engine, *id);
        purge(&engine, *id);
        ballast &= files(&disk, "/store").contains(&"BALLAST".to_owned());
        check_sound(&disk);
    }
    assert!(!ballast, "the ballast was never needed, so this test is too small");
    assert!(engine.failure().is_none());
    assert_eq!(ids(&engine), []);
    let refused = engine.store(failure(2000, 10)).unwrap_err().source;
    assert!(is_no_space(&refused), "what is left is for changes: {refused:?}");
    let accounting = engine.accounting().unwrap();
    assert_eq!((accounting.captured, accounting.purged, accounting.live), (stored, stored, 0));

    for image in [disk.restarted(), disk.crash_image(CrashMode::Nothing, 1)] {
        // The ballast is used up, so a new start needs a little space.
        image.set_capacity(None);
        let again = open(&image, config());
        assert_eq!(ids(&again), []);
        assert_eq!(again.report().lost, []);
    }

    disk.set_capacity(None);
    engine.store(failure(2000, 4000)).unwrap();
    engine.step().unwrap();
    assert!(files(&disk, "/store").contains(&"BALLAST".to_owned()), "it is made again");
    engine.close().unwrap();
    check_sound(&disk);
    assert_eq!(ids(&open(&disk, config())).len(), 1);
}

#[test]
fn a_store_that_was_closed_is_opened_and_changed_on_a_full_disk() {
    for clean in [true, false] {
        let disk = Simulated::new(1);
        let engine = open(&disk, config());
        let id = engine.store(failure(1, 10)).unwrap().id;
        engine.step().unwrap();
        let disk = if clean {
            engine.close().unwrap();
            disk
        } else {
            disk.crash_image(CrashMode::Nothing, 1)
        };
        disk.set_capacity(Some(used(&disk)));
        let engine = open(&disk, config());
        assert_eq!(ids(&engine), [id], "clean {clean}");
        resolve(&engine, id);
        engine.close().unwrap();
        check_sound(&disk);
        let engine = open(&disk, config());
        assert_eq!(engine.get(id).unwrap().unwrap().operation.status, Status::Resolved);
    }
}

/// Entries and changes that share a group do not share its fate.
#[test]
fn a_change_in_the_group_of_a_refused_entry_is_written() {
    let disk = Simulated::new(1);
    let (engine, _) = full_store(&disk);
    let id = ids(&engine)[0];
    let captured = engine.accounting().unwrap().captured;
    let queued: Vec<_> = (0..3)
        .map(|number| engine.submit(failure(3000 + number, 4000), Durability::Written).unwrap())
        .collect();
    resolve(&engine, id);
    for receipt in queued {
        assert!(is_no_space(&receipt.wait().unwrap_err()));
    }
    assert_eq!(engine.get(id).unwrap().unwrap().operation.status, Status::Resolved);
    let accounting = engine.accounting().unwrap();
    assert_eq!((accounting.captured, accounting.queued), (captured, 0));
    let reopened = open(&disk.crash_image(CrashMode::Nothing, 1), config());
    assert_eq!(reopened.get(id).unwrap().unwrap().operation.status, Status::Resolved);
}

/// Without ballast and reserve a change is refused like an entry, and nothing is latched.
#[test]
fn at_last_a_change_is_refused_too_and_works_again_with_space() {
    let disk = Simulated::new(1);
    let mut small = config();
    small.ballast_bytes = 0;
    let engine = open(&disk, small);
    let (_, refused) = fill(&engine, &disk);
    assert!(is_no_space(&refused));
    let id = ids(&engine)[0];
    let change = || engine.change(id, &[], |state| state.resolution_note = "x".repeat(400));
    let refused = (0..100).find_map(|_| change().err()).expect("the reserve has an end");
    assert!(is_no_space(&refused), "{refused:?}");
    assert!(engine.failure().is_none());
    disk.set_capacity(None);
    change().unwrap();
    engine.store(failure(2000, 4000)).unwrap();
    check_sound(&disk);
}

#[test]
fn the_level_and_the_forecast_say_what_is_coming() {
    let disk = Simulated::new(1);
    disk.set_capacity(Some(10 * 64 * 1024));
    let engine = open(&disk, config());
    engine.step().unwrap();
    let space = engine.space().unwrap();
    assert_eq!((space.level, space.full_in_ms, space.limit), (SpaceLevel::Normal, None, None));
    // From here on more than a segment a minute fills the rest of the disk.
    let mut number = 0;
    let mut levels = vec![space.level];
    let mut forecasts = Vec::new();
    while levels.last() != Some(&SpaceLevel::Emergency) {
        for _ in 0..10 {
            disk.advance(Duration::from_secs(3));
            engine.store(failure(number, 4000)).unwrap();
            engine.step().unwrap();
            number += 1;
        }
        let space = engine.space().unwrap();
        forecasts.extend(space.full_in_ms);
        if levels.last() != Some(&space.level) {
            levels.push(space.level);
            assert!(space.since.is_some());
        }
        assert!(number < 200, "the disk never was full");
    }
    assert_eq!(levels, [SpaceLevel::Normal, SpaceLevel::Aggressive, SpaceLevel::Emergency]);
    let (first, last) = (forecasts[forecasts.len() / 2], *forecasts.last().unwrap());
    assert!(last < first, "{forecasts:?}");
    assert!(last < 120_000, "two minutes before the end: {forecasts:?}");
}

#[test]
fn the_health_says_full_since_when_and_heals_by_itself() {
    let disk = Simulated::new(1);
    let env: Arc<dyn Env> = Arc::new(disk.clone());
    let mut engine_config = config();
    engine_config.fallback_dir = Some("/elsewhere".into());
    let builder = DlqService::builder().config(DlqConfig::default()).engine(engine_config);
    let service = builder.env(env).background(deadletter::Background::Manual).build();
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = Arc::clone(&told);
    service.on_event(move |record| {
        if let DlqEvent::DlqHealthChanged { healthy, .. } = &record.event {
            listener.lock().unwrap().push(*healthy);
        }
    });
    assert!(service.store_failure(failure(0, 10)).success);
    service.step().unwrap();
    disk.set_capacity(Some(used(&disk)));
    disk.advance(Duration::from_secs(5));
    let refused = (1..100).map(|number| service.store_failure(failure(number, 4000)));
    let refused = refused.into_iter().find(|result| !result.success).unwrap();
    let error = refused.error.unwrap();
    assert!(error.contains("the disk is full: "), "{error}");
    assert!(refused.failure.is_some(), "the fallback folder is on the same disk, so it came back");
    let since = deadletter::Timestamp(disk.wall_ms());
    disk.advance(Duration::from_mins(1));
    let health = service.health();
    assert_eq!((health.status, health.since), (HealthStatus::Degraded, since));
    assert!(health.reason.unwrap().contains("the disk is full"));
    assert!(health.hint.unwrap().contains("free space"));
    assert_eq!(health.level, Some(SpaceLevel::Emergency));

    disk.set_capacity(None);
    service.step().unwrap();
    let health = service.health();
    assert_eq!((health.status, health.level), (HealthStatus::Ok, Some(SpaceLevel::Normal)));
    assert!(service.store_failure(failure(2000, 4000)).success);
    assert_eq!(*told.lock().unwrap(), [false, true]);
    service.close().unwrap();
}

/// The reference model has no disk, so it never is full.
#[test]
fn a_refusal_names_what_is_full() {
    for (what, wanted) in [
        ("disk", "the disk is full: 7 bytes are free, 9 are needed"),
        ("max_bytes", "the store is full: 9 needed, max_bytes allows 7"),
    ] {
        let error = Error::Full { what, bytes: 9, bytes_max: 7 }.to_string();
        assert!(error.starts_with(wanted), "{error}");
    }
}
