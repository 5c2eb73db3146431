//! Salvage of a damaged store: all that is sound is in the new one, the rest is named, and the old
//! directory is as it was.

use std::path::Path;
use std::sync::Arc;

use deadletter::{
    Config, Durability, Engine, Entry, Env, Error, EvictRequest, NewFailure, OverflowStrategy,
    SalvageReport, Simulated, salvage_with, spill_with, verify_with,
};

use super::fixture::{self, Fixture, log_path};

fn old() -> Config {
    fixture::config(Path::new("/old"))
}

fn new() -> Config {
    fixture::config(Path::new("/new"))
}

fn env(disk: &Simulated) -> Arc<dyn Env> {
    Arc::new(disk.clone())
}

fn disk(fixture: &Fixture) -> Simulated {
    fixture.on_disk(&old().dir)
}

fn salvage(disk: &Simulated) -> SalvageReport {
    let steps = std::cell::Cell::new(0);
    let report = salvage_with(&old(), &new(), &env(disk), &mut |done, total| {
        assert!(done <= total);
        steps.set(steps.get() + 1);
    });
    assert!(steps.get() > 0);
    report.unwrap()
}

/// All entries, without their ids.
fn contents(engine: &Engine) -> Vec<Entry> {
    let mut entries = fixture::all(engine);
    for entry in &mut entries {
        entry.operation.id = deadletter::EntryId(0);
    }
    entries
}

/// Salvages what a reader of the old store sees, and looks at the new one.
fn check(disk: &Simulated) -> SalvageReport {
    let reader = Engine::open_read_only_with(old(), env(disk)).unwrap();
    let wanted = contents(&reader);
    let verified = verify_with(&old(), &env(disk), &mut |_, _| {}).unwrap();
    let before = disk.trace().iter().filter(|step| step.name.contains("seg")).count();
    assert_eq!(before, 0, "reading changes nothing");
    let report = salvage(disk);
    assert_eq!(report.entries, wanted.len() as u64);
    assert_eq!(report.damage, verified.damage);
    assert_eq!(report.lost, reader.accounting().unwrap().lost);
    let engine = Engine::open_with(new(), env(disk)).unwrap();
    assert!(engine.report().clean);
    assert_eq!(contents(&engine), wanted);
    for entry in fixture::all(&engine) {
        assert_eq!(engine.get_by_key(&entry.key).unwrap(), Some(entry));
    }
    engine.close().unwrap();
    let verified = verify_with(&new(), &env(disk), &mut |_, _| {}).unwrap();
    assert_eq!(verified.damage, vec![]);
    report
}

#[test]
fn a_sound_store_is_copied_in_full() {
    let fixture = Fixture::get();
    let report = check(&disk(fixture));
    assert_eq!((report.entries, report.lost), (fixture.entries.len() as u64, 0));
}

#[test]
fn what_is_sound_beside_the_damage_is_copied() {
    let fixture = Fixture::get();
    let segment = fixture.segment(0);
    let records = fixture.records_of(&segment);
    let entry = records.iter().filter(|record| record.kind == "entry").nth(3).unwrap();
    let change = records.iter().find(|record| record.kind == "change").unwrap();
    let (entry, change) = (entry.used.start + 70, change.used.start + 70);
    let path = old().dir.join(log_path(&segment));

    let flipped = disk(fixture);
    flipped.flip(&path, entry, 1).unwrap();
    assert_eq!(check(&flipped).lost, 1);

    let state = disk(fixture);
    state.flip(&path, change, 1).unwrap();
    assert_eq!(check(&state).lost, 0, "the footer has a second copy of the state");

    let sector = disk(fixture);
    sector.make_unreadable(&path, entry, 1).unwrap();
    assert_eq!(check(&sector).lost, 1);

    let headless = disk(fixture);
    headless.make_unreadable(&path, 0, 4096).unwrap();
    assert!(check(&headless).lost > 20, "a segment is gone");
}

#[test]
fn what_waits_in_fallback_files_and_summaries_come_along() {
    let disk = disk(Fixture::get());
    let mut config = old();
    config.bounds.max_size_per_domain = Some(1000);
    config.bounds.overflow_strategy = OverflowStrategy::CompressOldest;
    let engine = Engine::open_with(config, env(&disk)).unwrap();
    for number in 0..20 {
        engine.store(NewFailure::new("mail", "TIMEOUT").error(format!("E{number}"), "")).unwrap();
    }
    let domain = Some("mail".to_owned());
    let request = EvictRequest { count: 7, domain, compress: true, ..EvictRequest::default() };
    engine.evict(&request).unwrap();
    let summaries = engine.summaries().unwrap();
    engine.close().unwrap();
    let mut spilled = NewFailure::new("mail", "TIMEOUT");
    spilled.key = Some("spilled".to_owned());
    spill_with(&old(), &env(&disk), spilled).unwrap();

    let report = salvage(&disk);
    assert_eq!((report.fallback, report.summaries), (1, summaries.len() as u64));
    assert_eq!(report.accounting.evicted, 7);
    let engine = Engine::open_with(new(), env(&disk)).unwrap();
    assert!(engine.get_by_key("spilled").unwrap().is_some());
    assert_eq!(engine.summaries().unwrap(), summaries);
}

/// A limit of the settings is for what is captured, not for what is rescued.
#[test]
fn a_limit_takes_nothing_of_what_is_salvaged() {
    let disk = disk(Fixture::get());
    let mut to = new();
    to.bounds.max_size = Some(1);
    let report = salvage_with(&old(), &to, &env(&disk), &mut |_, _| {}).unwrap();
    assert_eq!(report.entries, Fixture::get().entries.len() as u64);
}

#[test]
fn a_directory_with_a_store_is_not_salvaged_into() {
    let disk = disk(Fixture::get());
    let engine = Engine::open_with(new(), env(&disk)).unwrap();
    engine.store_with(NewFailure::new("mail", "TIMEOUT"), Durability::Synced).unwrap();
    engine.close().unwrap();
    for to in [new(), old()] {
        let refused = salvage_with(&old(), &to, &env(&disk), &mut |_, _| {});
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    }
    let nothing =
        salvage_with(&Config::new("/nowhere"), &Config::new("/other"), &env(&disk), &mut |_, _| {});
    assert!(matches!(nothing, Err(Error::NotAStore { .. })), "{nothing:?}");
}

/// As `docs/operating.md` says of a file in quarantine.
#[test]
fn a_segment_file_alone_is_salvaged() {
    let fixture = Fixture::get();
    let segment = fixture.segment(1);
    let disk = Simulated::new(1);
    let log = old().dir.join("log");
    disk.create_dir(&old().dir).unwrap();
    disk.create_dir(&log).unwrap();
    disk.write_raw(log.join(&segment), fixture.bytes(&segment)).unwrap();
    let held = fixture.records_of(&segment).iter().filter(|record| record.kind == "entry").count();
    assert_eq!(salvage(&disk).entries, held as u64);
}
