//! What the walks found, and the sequences that broke other stores.

use std::sync::Arc;

use deadletter::{
    CrashMode, Durability, Engine, Fault, FaultKind, Filter, NewFailure, Page, Simulated, Status,
    StoreError, Stored,
};

use super::check::check;
use super::config;
use super::model::{Crash, Model};
use super::play::{Op, Run};

fn open(disk: &Simulated) -> Engine {
    Engine::open_with(config(), Arc::new(disk.clone())).unwrap()
}

fn types(engine: &Engine) -> Vec<String> {
    let entries = engine.find(&Filter::default(), Page::default()).unwrap();
    entries.into_iter().map(|entry| entry.operation.failure_type).collect()
}

/// Stores while the next sync fails and the system forgets what it should have written.
fn store_with_failed_sync(
    engine: &Engine,
    disk: &Simulated,
    failure: NewFailure,
) -> Result<Stored, StoreError> {
    for at in disk.operations()..disk.operations() + 4 {
        disk.inject(Fault { at, kind: FaultKind::FailedSync });
    }
    let result = engine.store(failure);
    assert_eq!(disk.faults_fired(), 1);
    result
}

/// Lets the process die and shows what the next one finds on the same running system.
fn restart(engine: Engine, disk: &Simulated) -> Simulated {
    disk.power_off_at(Some(disk.operations()));
    drop(engine);
    disk.restarted()
}

#[test]
fn an_entry_seen_after_a_failed_sync_and_a_restart_survives_a_power_cut() {
    let disk = Simulated::new(3);
    let engine = open(&disk);
    engine.store(NewFailure::new("mail", "FIRST")).unwrap();
    let second = NewFailure::new("mail", "SECOND").key("second");
    store_with_failed_sync(&engine, &disk, second.clone()).unwrap_err();
    let again = restart(engine, &disk);
    let engine = open(&again);
    // The system's memory still has the bytes that the disk has not.
    assert_eq!(types(&engine), ["SECOND", "FIRST"]);
    let stored = engine.store(second).unwrap();
    assert!(stored.duplicate);
    for mode in CrashMode::ALL {
        let engine = open(&again.crash_image(mode, 5));
        assert_eq!(types(&engine), ["SECOND", "FIRST"], "{mode:?}");
    }
}

#[test]
fn a_failed_sync_is_not_tried_again() {
    let disk = Simulated::new(3);
    let engine = open(&disk);
    store_with_failed_sync(&engine, &disk, NewFailure::new("mail", "FIRST")).unwrap_err();
    engine.store(NewFailure::new("mail", "SECOND")).unwrap_err();
    engine.checkpoint().unwrap_err();
    engine.close().unwrap_err();
    let engine = open(&disk.crash_image(CrashMode::Nothing, 5));
    assert!(types(&engine).is_empty());
    engine.store(NewFailure::new("mail", "THIRD")).unwrap();
}

#[test]
fn a_segment_whose_name_was_not_durable_is_not_missed_after_two_crashes() {
    let mut run = Run::new(&Simulated::new(1), Model::default(), 7);
    run.play(Op::Store).unwrap();
    run.kill();
    // Two processes die one after the other, each just before its new segment's name is durable.
    let (mut disk, mut model) = (run.disk.restarted(), run.model);
    for _ in 0..2 {
        let mut run = Run::new(&disk, model, 7).tapped();
        run.open().unwrap();
        let shots = run.tap.as_ref().unwrap().take();
        run.kill();
        let shot = shots.iter().rfind(|shot| shot.act == "sync directory").unwrap();
        assert_eq!(shot.name, "log");
        (disk, model) = (shot.disk.clone(), Model::clone(&shot.model));
    }
    for seed in 0..64 {
        for mode in CrashMode::ALL {
            let cut = disk.crash_image(mode, seed);
            check(&cut, &model, Crash::Power, false).unwrap();
        }
    }
}

#[test]
fn a_change_acknowledged_right_after_a_crash_survives_the_next_crash() {
    let disk = Simulated::new(3);
    let engine = open(&disk);
    let stored = engine.store(NewFailure::new("mail", "FIRST")).unwrap();
    let again = restart(engine, &disk);
    let engine = open(&again);
    engine.change(stored.id, &[], |state| state.status = Status::Resolved).unwrap();
    for mode in CrashMode::ALL {
        let engine = open(&again.crash_image(mode, 5));
        let entry = engine.get(stored.id).unwrap().unwrap();
        assert_eq!(entry.operation.status, Status::Resolved, "{mode:?}");
    }
}

/// Whoever asked for a sync may not wait for it yet; another caller, who needs none, must not show
/// the record before its sync all the same.
#[test]
fn a_record_that_wants_a_sync_is_synced_when_another_caller_writes_it() {
    let disk = Simulated::new(3);
    let engine = open(&disk);
    let receipt = engine.submit(NewFailure::new("mail", "FIRST"), Durability::Synced).unwrap();
    engine.store_with(NewFailure::new("mail", "SECOND"), Durability::Written).unwrap();
    assert_eq!(types(&engine), ["SECOND", "FIRST"]);
    let again = open(&disk.crash_image(CrashMode::Nothing, 5));
    assert_eq!(types(&again), ["SECOND", "FIRST"]);
    receipt.wait().unwrap();
}

#[test]
fn a_directory_made_by_an_open_that_failed_becomes_durable_with_the_next() {
    let disk = Simulated::new(3);
    disk.inject(Fault { at: 1, kind: FaultKind::Eio });
    Engine::open_with(config(), Arc::new(disk.clone())).unwrap_err();
    let engine = open(&disk);
    engine.store(NewFailure::new("mail", "FIRST")).unwrap();
    let engine = open(&disk.crash_image(CrashMode::Nothing, 5));
    assert_eq!(types(&engine), ["FIRST"]);
}

#[test]
fn a_footer_that_a_power_cut_spoiled_before_its_sync_is_no_damage() {
    let mut run = Run::new(&Simulated::new(1), Model::default(), 7).tapped();
    run.play(Op::Store).unwrap();
    run.play(Op::Rotate).unwrap();
    let shots = run.tap.as_ref().unwrap().take();
    let cut = shots.iter().position(|shot| shot.act == "set length").unwrap();
    let shot = &shots[cut + 1];
    assert_eq!(shot.act, "sync");
    for seed in 0..256 {
        let image = shot.disk.crash_image(CrashMode::JunkSectors, seed);
        check(&image, &shot.model, Crash::Power, true).unwrap();
    }
}

/// Recovery cuts the old segment without a sync, so a second power cut can bring back what stood
/// behind the cut: a footer too, which must not lengthen the segment again.
#[test]
fn a_footer_behind_the_cut_says_nothing() {
    // The footer's end must be in another sector than its rows, so several places are tried.
    for stores in 1..6 {
        let mut run = Run::new(&Simulated::new(1), Model::default(), 7).tapped();
        for _ in 0..stores {
            run.play(Op::Store).unwrap();
        }
        run.play(Op::Rotate).unwrap();
        let shots = run.tap.as_ref().unwrap().take();
        let cut = shots.iter().position(|shot| shot.act == "set length").unwrap();
        for seed in 0..64 {
            let first = shots[cut + 1].disk.crash_image(CrashMode::JunkSectors, seed);
            let engine = open(&first);
            engine.store(NewFailure::new("mail", "BEHIND")).unwrap();
            let page = Page { limit: 1000, ..Page::default() };
            let before = engine.find(&Filter::default(), page).unwrap();
            engine.close().unwrap();
            for mode in CrashMode::ALL {
                let engine = open(&first.crash_image(mode, seed));
                let found = engine.find(&Filter::default(), page).unwrap();
                assert_eq!(found, before, "seed {seed}, {mode:?}");
                assert!(engine.warnings().is_empty(), "seed {seed}, {mode:?}");
            }
        }
    }
}

/// A process dies at any step while it opens a closed store for writing; the next one says that
/// the store is in use in a way that a power cut cannot take back, so verify sees a torn tail.
#[test]
fn a_torn_write_after_a_killed_process_is_no_damage() {
    let lives = |disk: &Simulated| {
        let Ok(engine) = Engine::open_with(config(), Arc::new(disk.clone())) else { return };
        drop(engine.store(NewFailure::new("mail", "FIRST")));
        // Who has looked at the index closes with a sync.
        drop(engine.count(&Filter::default()));
        drop(engine);
        let Ok(engine) = Engine::open_with(config(), Arc::new(disk.clone())) else { return };
        drop(engine.store(NewFailure::new("mail", "SECOND")));
    };
    let whole = Simulated::new(3);
    lives(&whole);
    for step in 1..whole.operations() {
        let disk = Simulated::new(3);
        disk.power_off_at(Some(step));
        lives(&disk);
        let next = disk.restarted();
        let engine = open(&next);
        let written = deadletter::Durability::Written;
        engine.store_with(NewFailure::new("mail", "THIRD"), written).unwrap();
        for seed in 0..16 {
            let cut = Arc::new(next.crash_image(CrashMode::JunkSectors, seed));
            let report = deadletter::verify_with(&config(), &(cut as _), &mut |_, _| {}).unwrap();
            assert!(report.damage.is_empty(), "step {step}: {:?}", report.damage);
        }
    }
}

/// The names of a store that was never finished may survive a power cut in any choice; the next
/// open makes the store all the same.
#[test]
fn a_store_that_was_never_finished_is_made_again() {
    let whole = Simulated::new(3);
    drop(open(&whole));
    for step in 0..whole.operations() {
        let disk = Simulated::new(3);
        disk.power_off_at(Some(step));
        drop(Engine::open_with(config(), Arc::new(disk.clone())));
        for fault in 0..8 {
            let next = disk.restarted();
            next.inject(Fault { at: fault, kind: FaultKind::EioSticky });
            drop(Engine::open_with(config(), Arc::new(next.clone())));
            for seed in 0..32 {
                let engine = open(&next.crash_image(CrashMode::Subset, seed));
                engine.store(NewFailure::new("mail", "FIRST")).unwrap();
            }
        }
    }
}
