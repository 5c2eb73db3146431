//! Giving space back: what is gone leaves the disk, what is there stays as it was, for everybody who
//! looks.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use deadletter::{
    Background, Cause, Changed, Config, CrashMode, Decision, Engine, Entry, EntryId, Env, Error,
    Filter, IndexKind, Json, Limits, NameKind, NewFailure, OpenMode, Order, Page, Simulated,
    Status, TailItem, read_exact_at,
};

const CANARY: &str = "canary-in-the-coal-mine";

pub fn config(index: IndexKind) -> Config {
    let mut config = Config::new("/data/store");
    config.segment_bytes = 64 * 1024;
    config.index = index;
    config.background = Background::Manual;
    config.limits = Limits { request_data_max_bytes: 16 * 1024, field_max_bytes: 4096 };
    config.compact_bytes_per_second = 0;
    config
}

pub fn open(disk: &Simulated) -> Engine {
    Engine::open_with(config(IndexKind::Memory), Arc::new(disk.clone())).unwrap()
}

fn failure(number: usize) -> NewFailure {
    let pad = "p".repeat(900);
    let request = format!(r#"{{"number":{number},"canary":"{CANARY}-{number}-","pad":"{pad}"}}"#);
    NewFailure::new(["payments", "mail"][number % 2], "TIMEOUT")
        .key(format!("key-{number}"))
        .error("504", format!("it failed {number}"))
        .request(Json::object(request).unwrap())
}

/// Stores so many entries; about 50 of them fill a segment.
fn fill(engine: &Engine, numbers: std::ops::Range<usize>) -> Vec<EntryId> {
    numbers.map(|number| engine.store(failure(number)).unwrap().id).collect()
}

pub fn remove(engine: &Engine, ids: &[EntryId], cause: Cause) {
    let removed = engine.change_all(ids, &mut |_| Ok(Decision::Remove(cause))).unwrap();
    assert!(removed.iter().all(|changed| matches!(changed, Changed::Removed(_))));
}

fn resolve(engine: &Engine, id: EntryId, note: &str) {
    let resolved = |state: &mut deadletter::State| {
        state.status = Status::Resolved;
        state.resolution_note = note.to_owned();
    };
    engine.change(id, &[], resolved).unwrap();
}

pub fn compact(engine: &Engine) -> deadletter::CompactReport {
    engine.compact(&mut |_, _| {}).unwrap()
}

pub fn all(engine: &Engine) -> Vec<Entry> {
    let page = Page { order: Order::Oldest, limit: 100_000, ..Page::default() };
    engine.find(&Filter::default(), page).unwrap()
}

/// Every byte of every file, by path.
pub fn bytes_below(disk: &Simulated, dir: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
    for (name, kind) in disk.list(dir).unwrap() {
        let path = dir.join(&name);
        match kind {
            NameKind::File(len) => {
                let mut bytes = vec![0; usize::try_from(len).unwrap()];
                let file = disk.open(&path, OpenMode::Read).unwrap();
                read_exact_at(&*file, &mut bytes, 0).unwrap();
                found.insert(path.display().to_string(), bytes);
            }
            NameKind::Directory => bytes_below(disk, &path, found),
            NameKind::Other => {}
        }
    }
}

/// The files that hold a text.
pub fn files_with(disk: &Simulated, text: &str) -> Vec<String> {
    let mut found = BTreeMap::new();
    bytes_below(disk, Path::new("/data/store"), &mut found);
    let holds = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    found.into_iter().filter(|(_, bytes)| holds(bytes)).map(|(name, _)| name).collect()
}

pub fn log_files(disk: &Simulated) -> Vec<(String, u64)> {
    let names = disk.list(Path::new("/data/store/log")).unwrap();
    let len = |(name, kind)| match kind {
        NameKind::File(len) => (name, len),
        _ => panic!("{name} is no file"),
    };
    names.into_iter().map(len).collect()
}

pub fn verify(disk: &Simulated) {
    let env: Arc<dyn Env> = Arc::new(disk.clone());
    let report = deadletter::verify_with(&config(IndexKind::Memory), &env, &mut |_, _| {}).unwrap();
    assert_eq!(report.damage, []);
}

/// The store shows the same however it is opened, and all ways to look agree.
pub fn check_same(disk: &Simulated, engine: &Engine, wanted: &[Entry]) {
    assert_eq!(all(engine), wanted);
    for entry in wanted {
        assert_eq!(engine.get(entry.operation.id).unwrap().as_ref(), Some(entry));
        assert_eq!(engine.get_by_key(&entry.key).unwrap().as_ref(), Some(entry));
    }
    let accounting = engine.accounting().unwrap();
    assert_eq!(accounting.live, wanted.len() as u64);
    let gone = accounting.purged + accounting.evicted + accounting.lost;
    assert_eq!(accounting.captured, accounting.live + gone, "{accounting:?}");
    verify(disk);
    let cut = disk.crash_image(CrashMode::Nothing, 1);
    let reopened = open(&cut);
    assert_eq!(reopened.report().lost, []);
    assert_eq!(all(&reopened), wanted);
    assert_eq!(reopened.accounting().unwrap().live, accounting.live);
    assert_eq!(reopened.tallies().unwrap(), engine.tallies().unwrap());
    reopened.rebuild_index().unwrap();
    assert_eq!(all(&reopened), wanted);
}

#[test]
fn purged_bytes_leave_the_disk_and_ids_never_come_back() {
    let disk = Simulated::new(1);
    let engine = open(&disk);
    let ids = fill(&engine, 0..120);
    resolve(&engine, ids[7], "a note with canary-in-the-coal-mine-7-");
    remove(&engine, &[ids[7], ids[60], ids[119]], Cause::Purged);
    let wanted = all(&engine);
    for gone in [7, 60, 119] {
        assert!(!files_with(&disk, &format!("{CANARY}-{gone}-")).is_empty());
    }
    let report = compact(&engine);
    assert!(report.rewritten >= 3, "{report:?}");
    engine.checkpoint().unwrap();
    for gone in [7, 60, 119] {
        assert_eq!(files_with(&disk, &format!("{CANARY}-{gone}-")), [""; 0]);
        assert_eq!(engine.get(ids[gone]).unwrap(), None);
    }
    assert!(!files_with(&disk, &format!("{CANARY}-8-")).is_empty());
    check_same(&disk, &engine, &wanted);
    let again = engine.store(failure(7)).unwrap();
    assert!(!again.duplicate, "the key is free");
    assert!(again.id > ids[119], "an id is never given again");
}

#[test]
fn a_segment_of_which_nothing_is_left_is_dropped() {
    let disk = Simulated::new(1);
    let engine = open(&disk);
    let ids = fill(&engine, 0..200);
    let before = log_files(&disk);
    remove(&engine, &ids[..110], Cause::Evicted);
    let wanted = all(&engine);
    let report = compact(&engine);
    assert!(report.dropped >= 1, "{report:?}");
    assert!(report.bytes_after < report.bytes_before, "{report:?}");
    let after = log_files(&disk);
    let first = &before[0].0;
    assert!(after.iter().all(|(name, _)| name != first), "{after:?}");
    check_same(&disk, &engine, &wanted);
    assert_eq!(compact(&engine), deadletter::CompactReport::default(), "nothing is left to do");
}

#[test]
fn small_leftovers_of_neighbors_are_merged() {
    let disk = Simulated::new(1);
    let engine = open(&disk);
    let ids = fill(&engine, 0..300);
    let kept = |number: &usize| number.is_multiple_of(17) || *number > 280;
    let gone: Vec<EntryId> = (0..300).filter(|it| !kept(it)).map(|number| ids[number]).collect();
    remove(&engine, &gone, Cause::Purged);
    for number in (0..300).filter(kept) {
        resolve(&engine, ids[number], "done");
    }
    let wanted = all(&engine);
    let files = log_files(&disk).len();
    let report = compact(&engine);
    assert!(report.merged >= 2, "{report:?}");
    assert!(log_files(&disk).len() < files - 2);
    check_same(&disk, &engine, &wanted);
    // Changes after a merge are found where they are, and go with the next one.
    resolve(&engine, ids[17], "again");
    let wanted = all(&engine);
    check_same(&disk, &engine, &wanted);
    compact(&engine);
    check_same(&disk, &engine, &wanted);
}

#[test]
fn bytes_of_states_that_are_no_longer_true_are_given_back() {
    let disk = Simulated::new(1);
    let engine = open(&disk);
    let ids = fill(&engine, 0..40);
    for round in 0..60 {
        resolve(&engine, ids[round % 20], &format!("round {round} {}", "n".repeat(3000)));
    }
    let wanted = all(&engine);
    let sum = |files: Vec<(String, u64)>| files.iter().map(|(_, len)| len).sum::<u64>();
    let before = sum(log_files(&disk));
    compact(&engine);
    let after = sum(log_files(&disk));
    assert!(after * 4 < before * 3, "{before} to {after}");
    check_same(&disk, &engine, &wanted);
}

/// What `act` does to the first entry stands in a segment that is rewritten while the one that holds
/// the entry is not; returns the entry as the next process finds it.
fn find_after_rewrite(act: impl Fn(&Engine, EntryId)) -> Option<Entry> {
    let disk = Simulated::new(1);
    let engine = open(&disk);
    let ids = fill(&engine, 0..60);
    engine.compact(&mut |_, _| {}).unwrap();
    act(&engine, ids[0]);
    for round in 0..40 {
        resolve(&engine, ids[50 + round % 2], &"n".repeat(3000));
    }
    let before = log_files(&disk);
    fill(&engine, 60..140);
    (0..100).for_each(|_| engine.step().unwrap());
    let after = log_files(&disk);
    assert!(after.contains(&before[0]), "one entry less is not worth a rewrite");
    assert!(after.iter().any(|(name, _)| name.ends_with("-0001.seg")), "{after:?}");
    let reopened = open(&disk.crash_image(CrashMode::Nothing, 1));
    reopened.get(ids[0]).unwrap()
}

pub fn a_removed_entry_stays_gone() -> bool {
    find_after_rewrite(|engine, id| remove(engine, &[id], Cause::Purged)).is_none()
}

pub fn a_state_outlives_a_rewrite() -> bool {
    let entry = find_after_rewrite(|engine, id| resolve(engine, id, "by hand")).unwrap();
    entry.state().resolution_note == "by hand"
}

#[test]
fn a_removal_is_kept_as_long_as_the_record_of_its_entry() {
    assert!(a_removed_entry_stays_gone());
}

#[test]
fn a_state_is_kept_until_it_is_folded() {
    assert!(a_state_outlives_a_rewrite());
}

#[test]
fn following_the_log_ends_where_a_listing_does() {
    let disk = Simulated::new(1);
    let engine = open(&disk);
    let ids = fill(&engine, 0..150);
    let mut tail = engine.tail(0).unwrap();
    let mut seen: BTreeMap<EntryId, Entry> = BTreeMap::new();
    let follow = |tail: &mut deadletter::Tail, seen: &mut BTreeMap<EntryId, Entry>, most| {
        for item in tail.by_ref().take(most) {
            match item.unwrap() {
                TailItem::Stored(entry) => drop(seen.insert(entry.operation.id, *entry)),
                TailItem::Changed { id, state, .. } => seen.get_mut(&id).unwrap().set_state(*state),
                TailItem::Removed { id, .. } => drop(seen.remove(&id)),
                other => panic!("{other:?}"),
            }
        }
    };
    follow(&mut tail, &mut seen, 70);
    for id in &ids[..100] {
        resolve(&engine, *id, "once");
    }
    remove(&engine, &ids[20..90], Cause::Purged);
    follow(&mut tail, &mut seen, 10);
    compact(&engine);
    resolve(&engine, ids[95], "twice");
    follow(&mut tail, &mut seen, 10_000);
    // What was folded away meanwhile is told of by nobody; what came since is.
    assert_eq!(seen.get(&ids[95]), engine.get(ids[95]).unwrap().as_ref());
    assert_eq!(seen.get(&ids[149]), engine.get(ids[149]).unwrap().as_ref());
    let mut anew = BTreeMap::new();
    follow(&mut engine.tail(0).unwrap(), &mut anew, 10_000);
    assert_eq!(anew.into_values().collect::<Vec<_>>(), all(&engine));
}

#[test]
fn removed_bytes_go_by_themselves_in_time() {
    let disk = Simulated::new(1);
    let mut config = config(IndexKind::Memory);
    config.erase_within_ms = 3_600_000;
    let engine = Engine::open_with(config, Arc::new(disk.clone())).unwrap();
    let ids = fill(&engine, 0..120);
    remove(&engine, &ids[3..4], Cause::Purged);
    let canary = format!("{CANARY}-3-");
    let steps = || (0..100).for_each(|_| engine.step().unwrap());
    steps();
    assert!(!files_with(&disk, &canary).is_empty(), "one entry is not worth a rewrite");
    disk.advance(std::time::Duration::from_secs(3601));
    steps();
    assert_eq!(files_with(&disk, &canary), [""; 0]);
    let wanted = all(&engine);
    check_same(&disk, &engine, &wanted);
}

#[test]
fn damage_in_a_segment_does_not_stop_compaction_and_is_kept() {
    let disk = Simulated::new(1);
    let engine = open(&disk);
    let ids = fill(&engine, 0..120);
    remove(&engine, &ids[2..3], Cause::Purged);
    let wanted: Vec<Entry> =
        all(&engine).into_iter().filter(|entry| entry.operation.id != ids[10]).collect();
    engine.close().unwrap();
    let path = Path::new("/data/store/log").join(&log_files(&disk)[0].0);
    let canary = format!("{CANARY}-10-");
    let mut bytes = BTreeMap::new();
    bytes_below(&disk, Path::new("/data/store/log"), &mut bytes);
    let at = bytes[&path.display().to_string()]
        .windows(canary.len())
        .position(|window| window == canary.as_bytes())
        .unwrap();
    let file = disk.open(&path, OpenMode::Write).unwrap();
    deadletter::write_all_at(&*file, b"#", at as u64).unwrap();
    file.sync().unwrap();
    let engine = open(&disk);
    compact(&engine);
    assert_eq!(all(&engine), wanted);
    let accounting = engine.accounting().unwrap();
    assert_eq!((accounting.live, accounting.lost, accounting.purged), (118, 1, 1));
    assert!(!disk.list(Path::new("/data/store/quarantine")).unwrap().is_empty());
    engine.close().unwrap();
    let engine = open(&disk);
    assert_eq!(all(&engine), wanted);
    assert_eq!(engine.accounting().unwrap(), accounting);
    verify(&disk);
}

#[test]
fn a_disk_without_room_refuses_to_compact_and_goes_on() {
    let disk = Simulated::new(1);
    let engine = open(&disk);
    let ids = fill(&engine, 0..120);
    remove(&engine, &ids[2..60], Cause::Purged);
    let wanted = all(&engine);
    // The first write to the new file fails.
    let mut refused = 0;
    for kind in [deadletter::FaultKind::Enospc, deadletter::FaultKind::Eio] {
        let begin = disk.operations();
        for at in begin + 6..begin + 9 {
            disk.inject(deadletter::Fault { at, kind });
        }
        if let Err(error) = engine.compact(&mut |_, _| {}) {
            assert!(matches!(error, Error::Io { .. } | Error::Poisoned { .. }), "{error:?}");
            refused += 1;
        }
        disk.clear_faults();
        if engine.failure().is_some() {
            break;
        }
        assert_eq!(all(&engine), wanted);
    }
    assert!(refused > 0);
    drop(engine);
    let engine = open(&disk.restarted());
    assert_eq!(all(&engine), wanted);
}

/// The index on disk is taken as it is after a compaction and a clean close, and rebuilt after none.
#[test]
fn the_index_on_disk_follows_a_compaction() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(IndexKind::Sled);
    config.dir = dir.path().join("store");
    let engine = Engine::open(config.clone()).unwrap();
    let ids = fill(&engine, 0..200);
    for id in &ids[..150] {
        resolve(&engine, *id, "done");
    }
    remove(&engine, &ids[..90], Cause::Purged);
    let pending = Filter { status: Some(Status::Pending), ..Filter::default() };
    let look = |engine: &Engine| {
        let facets = engine.facets(None, None).unwrap();
        (all(engine), facets, engine.count(&pending).unwrap())
    };
    let wanted = look(&engine);
    compact(&engine);
    assert_eq!(look(&engine), wanted);
    engine.close().unwrap();
    let engine = Engine::open(config.clone()).unwrap();
    assert_eq!(look(&engine), wanted);
    resolve(&engine, ids[199], "late");
    let wanted = look(&engine);
    compact(&engine);
    engine.close().unwrap();
    let engine = Engine::open(config).unwrap();
    assert_eq!(look(&engine), wanted);
}

/// A reader in another process keeps the files that it was shown.
#[test]
fn a_reader_beside_a_compaction_sees_its_moment_to_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(IndexKind::Memory);
    config.dir = dir.path().join("store");
    let engine = Engine::open(config.clone()).unwrap();
    let ids = fill(&engine, 0..200);
    let reader = Engine::open_read_only(config.clone()).unwrap();
    let wanted = all(&engine);
    remove(&engine, &ids[..120], Cause::Purged);
    let report = compact(&engine);
    assert!(report.pinned_files > 0, "{report:?}");
    assert_eq!(all(&reader), wanted);
    drop(reader);
    assert_eq!(compact(&engine).pinned_files, 0);
    let reader = Engine::open_read_only(config).unwrap();
    assert_eq!(all(&reader), all(&engine));
}
