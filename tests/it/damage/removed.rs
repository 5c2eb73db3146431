//! Damage to entries that were removed before: they are gone already, and not lost too.

use std::fs;
use std::path::Path;

use deadletter::{Cause, Decision, Durability, Engine, EntryId, NewFailure, dump, format, verify};

use super::fixture::{self, all, config};

/// A store of several segments; four entries of the first one were removed.
struct Store {
    dir: tempfile::TempDir,
    removed: Vec<u64>,
    last: u64,
}

/// The first removals stand in the segment of their entries, the others in the last one.
fn build(removed_early: usize) -> Store {
    let dir = fixture::temporary();
    let engine = Engine::open(config(dir.path())).unwrap();
    let remove = |ids: &[EntryId]| {
        engine.change_all(ids, &mut |_| Ok(Decision::Remove(Cause::Purged))).unwrap();
    };
    let mut removed = Vec::new();
    let mut last = EntryId(0);
    for number in 0..60 {
        let failure =
            NewFailure::new("mail", "TIMEOUT").error(number.to_string(), "x".repeat(4000));
        last = engine.store_with(failure, Durability::Written).unwrap().id;
        if [0, 4, 6, 8].contains(&number) {
            removed.push(last);
        }
        if number == 9 {
            remove(&removed[..removed_early]);
        }
    }
    remove(&removed[removed_early..]);
    engine.close().unwrap();
    Store { dir, removed: removed.into_iter().map(|id| id.0).collect(), last: last.0 }
}

fn first_segment(dir: &Path) -> std::path::PathBuf {
    dir.join(format::LOG_DIR).join(format::segment_name(1, 0))
}

/// Whatever damage does, each captured entry is live, purged or lost, and only that.
fn check(store: &Store, lost: u64) {
    let config = config(store.dir.path());
    let report = verify(&config, &mut |_, _| {}).unwrap();
    assert_eq!(report.damage.iter().filter_map(|damage| damage.entries).sum::<u64>(), lost);
    for open in [Engine::open_read_only, Engine::open, Engine::open] {
        let engine = open(config.clone()).unwrap();
        let live = all(&engine);
        for id in &store.removed {
            assert_eq!(engine.get(EntryId(*id)).unwrap(), None);
        }
        assert_eq!(live.last().unwrap().operation.id.0, store.last);
        let accounting = engine.accounting().unwrap();
        assert_eq!(accounting.live, live.len() as u64, "{accounting:?}");
        assert_eq!((accounting.captured, accounting.purged, accounting.lost), (60, 4, lost));
        assert_eq!(accounting.live, 56 - lost);
        engine.close().unwrap();
    }
}

/// Damages the record of an entry, and the footer, so that only the records tell what is there.
fn spoil(path: &Path, lsns: &[u64]) {
    let mut bytes = fs::read(path).unwrap();
    let frames: Vec<_> = dump(path, 0).unwrap().map(Result::unwrap).collect();
    for frame in frames.iter().filter(|frame| frame.kind == "entry" && lsns.contains(&frame.lsn)) {
        bytes[usize::try_from(frame.offset).unwrap() + 100] ^= 1;
    }
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_removed_entry_whose_record_is_damaged_is_not_lost_too() {
    let store = build(2);
    // One removed from its own segment, one from a later one, and one that was there.
    spoil(&first_segment(store.dir.path()), &[store.removed[0], store.removed[2], 2]);
    check(&store, 1);
}

#[test]
fn a_change_that_removes_is_kept_by_the_footer_when_its_record_is_damaged() {
    let store = build(2);
    let path = first_segment(store.dir.path());
    let frames: Vec<_> = dump(&path, 0).unwrap().map(Result::unwrap).collect();
    let removal = frames.iter().find(|frame| frame.kind == "change").unwrap();
    assert!(removal.body.contains("is gone: purged"), "{}", removal.body);
    let mut bytes = fs::read(&path).unwrap();
    bytes[usize::try_from(removal.offset).unwrap() + 50] ^= 1;
    fs::write(&path, bytes).unwrap();
    check(&store, 0);
}

/// The segment set that restates the counts is lost: they are counted again from the records.
#[test]
fn a_damaged_segment_set_costs_no_count() {
    let store = build(2);
    let config = config(store.dir.path());
    let engine = Engine::open(config).unwrap();
    let before = engine.tallies().unwrap();
    engine.close().unwrap();
    let folder = store.dir.path().join(format::LOG_DIR);
    let names = fs::read_dir(&folder).unwrap().map(|name| name.unwrap().path());
    let newest = names.max().unwrap();
    let mut bytes = fs::read(&newest).unwrap();
    bytes[4096 + 60] ^= 1;
    fs::write(&newest, bytes).unwrap();
    check(&store, 0);
    let engine = Engine::open(fixture::config(store.dir.path())).unwrap();
    assert_eq!(engine.tallies().unwrap(), before);
}

/// The entries of a segment that is gone, less those that later segments removed.
#[test]
fn a_removed_entry_is_not_lost_with_its_segment() {
    for header_only in [true, false] {
        let store = build(0);
        let path = first_segment(store.dir.path());
        let frames = dump(&path, 0).unwrap().map(Result::unwrap);
        let entries = frames.filter(|frame| frame.kind == "entry").count() as u64;
        if header_only {
            let mut bytes = fs::read(&path).unwrap();
            bytes[..4096].fill(7);
            fs::write(&path, bytes).unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
        check(&store, entries - 4);
    }
}
