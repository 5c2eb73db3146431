//! Whole files: deleted, foreign, zeroed; the store file, the checkpoint slots, the lock, and
//! the index.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use deadletter::format::{self, CHECKPOINT_NAMES};
use deadletter::{Config, Engine, IndexKind, verify};

use super::check::{Case, check, sweep};
use super::fixture::{self, Fixture, log_path};

#[test]
fn a_deleted_segment() {
    let fixture = Fixture::get();
    let segments = fixture.segments();
    sweep(fixture, segments.iter().map(|segment| Case::delete(fixture, segment)));
}

#[test]
fn two_deleted_segments() {
    let fixture = Fixture::get();
    let pairs = [(0, 1), (0, 2), (1, 2)];
    sweep(
        fixture,
        pairs.map(|(first, second)| {
            let mut case = Case::delete(fixture, &fixture.segment(first));
            case.also_delete(&fixture.segment(second));
            case
        }),
    );
}

#[test]
fn all_segments_deleted() {
    let fixture = Fixture::get();
    let mut case = Case::delete(fixture, &fixture.segment(0));
    case.also_delete(&fixture.segment(1));
    case.also_delete(&fixture.segment(2));
    check(fixture, &case);
}

#[test]
fn a_segment_without_a_readable_header() {
    let fixture = Fixture::get();
    for segment in fixture.segments() {
        check(fixture, &Case::zero(fixture, &segment, 0..4096));
    }
}

/// Found by the fuzz target `segment_open_mutated`: with the last two segments the number went where
/// the sound ones end, and all of their entries were taken for lost.
#[test]
fn two_unreadable_segments_take_nothing_from_those_before() {
    let fixture = Fixture::get();
    let mut files = fixture.files.clone();
    files.get_mut(&log_path(&fixture.segment(1))).unwrap().truncate(4096 + 32);
    files.get_mut(&log_path(&fixture.segment(2))).unwrap()[..4096].fill(0);
    let dir = fixture::temporary();
    fixture::put_files(dir.path(), &files);
    let first = fixture.records_of(&fixture.segment(0));
    let sound: Vec<_> = fixture
        .entries
        .iter()
        .filter(|entry| first.iter().any(|record| record.lsn == entry.operation.id.0))
        .map(|entry| entry.operation.id)
        .collect();
    assert!(sound.len() > 10);
    for _ in 0..2 {
        let engine = Engine::open(fixture::config(dir.path())).unwrap();
        let live = fixture::all(&engine);
        let found: Vec<_> = live.iter().map(|entry| entry.operation.id).collect();
        assert_eq!(found, sound, "{:?}", engine.report().lost);
        engine.close().unwrap();
    }
}

/// A file beside the log is damaged: every entry stays.
fn check_beside(name: &str, change: impl Fn(&mut Vec<u8>)) {
    let fixture = Fixture::get();
    let dir = fixture::temporary();
    fixture::put_files(dir.path(), &fixture.files);
    let path = dir.path().join(name);
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(&path, bytes).unwrap();
    let config = fixture::config(dir.path());
    let report = verify(&config, &mut |_, _| {}).unwrap();
    assert_eq!(report.entries, fixture.entries.len() as u64, "{name}");
    assert_eq!(report.torn_tail_bytes, 0, "{name}");
    check_all_there(fixture, &config, name);
}

/// Opens twice; all entries are there both times, and none is lost.
fn check_all_there(fixture: &Fixture, config: &Config, name: &str) {
    for _ in 0..2 {
        let engine = Engine::open(config.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(fixture::all(&engine) == fixture.entries, "{name}: other entries");
        let accounting = engine.accounting().unwrap();
        assert_eq!(accounting.captured, fixture.entries.len() as u64, "{name}");
        assert_eq!((accounting.lost, accounting.live), (0, accounting.captured), "{name}");
        engine.close().unwrap();
    }
}

#[test]
fn a_damaged_store_file() {
    for offset in 0..format::STORE_LEN {
        // The major version is another matter, see `refused.rs`.
        if !(8..10).contains(&offset) {
            check_beside(format::STORE_NAME, |bytes| bytes[offset] ^= 0x10);
        }
    }
    check_beside(format::STORE_NAME, Vec::clear);
    check_beside(format::STORE_NAME, |bytes| bytes.truncate(20));
    check_beside(format::STORE_NAME, |bytes| bytes.fill(0));
}

#[test]
fn a_missing_store_file() {
    let fixture = Fixture::get();
    let dir = fixture::temporary();
    fixture::put_files(dir.path(), &fixture.files);
    fs::remove_file(dir.path().join(format::STORE_NAME)).unwrap();
    check_all_there(fixture, &fixture::config(dir.path()), "no STORE");
}

#[test]
fn a_damaged_checkpoint_slot() {
    for name in CHECKPOINT_NAMES {
        for offset in (0..format::CHECKPOINT_LEN).filter(|at| *at < 120 || at % 333 == 0) {
            check_beside(name, |bytes| bytes[offset] ^= 1);
        }
        check_beside(name, Vec::clear);
        check_beside(name, |bytes| bytes.fill(0));
    }
}

#[test]
fn no_checkpoint_slot_at_all() {
    let fixture = Fixture::get();
    let dir = fixture::temporary();
    fixture::put_files(dir.path(), &fixture.files);
    for name in CHECKPOINT_NAMES {
        fs::remove_file(dir.path().join(name)).unwrap();
    }
    check_all_there(fixture, &fixture::config(dir.path()), "no slot");
}

#[test]
fn a_damaged_lock_file() {
    check_beside(format::LOCK_NAME, |bytes| bytes.fill(0xff));
    check_beside(format::LOCK_NAME, Vec::clear);
    check_beside(format::LOCK_NAME, |bytes| bytes.resize(9000, 1));
}

/// A reader beside the damage sees what is sound, and counts the rest as lost.
#[test]
fn reading_only_what_is_left() {
    let fixture = Fixture::get();
    let segments = fixture.segments();
    let deleted = segments.iter().map(|segment| Case::delete(fixture, segment));
    let zeroed = segments.iter().map(|segment| Case::zero(fixture, segment, 0..4096));
    let holes = segments.iter().map(|segment| {
        let middle = u64::midpoint(4096, fixture.ends[segment]);
        Case::zero(fixture, segment, middle..middle + 512)
    });
    for case in deleted.chain(zeroed).chain(holes) {
        let dir = fixture::temporary();
        fixture::put_files(dir.path(), &case.files);
        let engine = Engine::open_read_only(fixture::config(dir.path()))
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let found = fixture::all(&engine);
        for entry in &found {
            let id = entry.operation.id;
            let wanted = fixture.entries.iter().find(|entry| entry.operation.id == id).unwrap();
            assert_eq!(entry.operation.request_data, wanted.operation.request_data, "{id}");
        }
        let accounting = engine.accounting().unwrap();
        assert_eq!(accounting.live, found.len() as u64, "{}", case.name);
        assert_eq!(accounting.captured, fixture.entries.len() as u64, "{}", case.name);
        assert!(!engine.warnings().is_empty(), "{}", case.name);
        drop(engine);
        assert!(fixture::files(dir.path()) == case.files, "{}: a reader wrote", case.name);
    }
}

fn index_files(fixture: &Fixture) -> Vec<PathBuf> {
    let paths = fixture.files.keys().filter(|path| path.starts_with(format::INDEX_DIR));
    paths.cloned().collect()
}

fn with_index(dir: &Path) -> Config {
    let mut config = fixture::config(dir);
    config.index = IndexKind::Sled;
    config
}

fn check_index(name: &str, change: impl Fn(&Path)) {
    let fixture = Fixture::with_index();
    let dir = fixture::temporary();
    fixture::put_files(dir.path(), &fixture.files);
    change(dir.path());
    check_all_there(fixture, &with_index(dir.path()), name);
}

#[test]
fn a_damaged_index_between_two_runs() {
    let fixture = Fixture::with_index();
    check_index("index deleted", |dir| fs::remove_dir_all(dir.join(format::INDEX_DIR)).unwrap());
    for file in index_files(fixture) {
        let name = file.display().to_string();
        let len = fixture.files[&file].len();
        check_index(&format!("{name} deleted"), |dir| fs::remove_file(dir.join(&file)).unwrap());
        let mut changes: Vec<(String, Vec<u8>)> = vec![
            ("emptied".to_owned(), Vec::new()),
            ("halved".to_owned(), fixture.files[&file][..len / 2].to_vec()),
            ("foreign".to_owned(), b"not an index".repeat(len / 12 + 1)),
            ("zeroed".to_owned(), vec![0; len]),
        ];
        for offset in (0..len).step_by((len / 12).max(1)) {
            let mut bytes = fixture.files[&file].clone();
            bytes[offset] ^= 0x20;
            changes.push((format!("flipped at {offset}"), bytes));
        }
        for (what, bytes) in changes {
            check_index(&format!("{name} {what}"), |dir| {
                fs::write(dir.join(&file), &bytes).unwrap();
            });
        }
    }
}

#[test]
fn foreign_files_in_the_index_folder() {
    check_index("foreign file", |dir| {
        fs::write(dir.join(format::INDEX_DIR).join("README"), b"hello").unwrap();
    });
    check_index("a file for a folder", |dir| {
        fs::remove_dir_all(dir.join(format::INDEX_DIR)).unwrap();
        fs::write(dir.join(format::INDEX_DIR), b"hello").unwrap();
    });
}

#[test]
fn an_index_that_vanishes_while_the_store_is_open() {
    let fixture = Fixture::with_index();
    let dir = fixture::temporary();
    fixture::put_files(dir.path(), &fixture.files);
    let config = with_index(dir.path());
    let engine = Engine::open(config.clone()).unwrap();
    assert!(fixture::all(&engine) == fixture.entries);
    fs::remove_dir_all(dir.path().join(format::INDEX_DIR)).unwrap();
    assert!(fixture::all(&engine) == fixture.entries);
    engine.checkpoint().ok();
    assert!(fixture::all(&engine) == fixture.entries);
    engine.close().ok();
    check_all_there(fixture, &config, "index gone while open");
}

#[test]
fn an_index_that_is_overwritten_while_the_store_is_open() {
    let fixture = Fixture::with_index();
    let dir = fixture::temporary();
    fixture::put_files(dir.path(), &fixture.files);
    let config = with_index(dir.path());
    let engine = Engine::open(config.clone()).unwrap();
    assert!(fixture::all(&engine) == fixture.entries);
    for file in index_files(fixture) {
        let path = dir.path().join(file);
        // Some files live only while the index is closed.
        if let Ok(metadata) = fs::metadata(&path) {
            fs::write(&path, vec![0x55; usize::try_from(metadata.len()).unwrap()]).unwrap();
        }
    }
    assert!(fixture::all(&engine) == fixture.entries);
    engine.close().ok();
    check_all_there(fixture, &config, "index overwritten while open");
}

#[test]
fn a_foreign_file_in_the_log_folder() {
    let fixture = Fixture::get();
    let dir = fixture::temporary();
    fixture::put_files(dir.path(), &fixture.files);
    let notes = dir.path().join(log_path("notes.txt"));
    fs::write(&notes, b"hello").unwrap();
    check_all_there(fixture, &fixture::config(dir.path()), "foreign file");
    assert_eq!(fs::read(notes).unwrap(), b"hello");
}

/// A link instead of a segment is never followed: its records count as lost, and what it points
/// to stays as it is.
#[test]
fn a_symbolic_link_instead_of_a_segment() {
    let fixture = Fixture::get();
    for segment in fixture.segments() {
        let elsewhere = fixture::temporary();
        let target = elsewhere.path().join("target");
        fs::write(&target, fixture.bytes(&segment)).unwrap();
        let case = Case::delete(fixture, &segment);
        let dir = fixture::temporary();
        fixture::put_files(dir.path(), &case.files);
        symlink(&target, dir.path().join(log_path(&segment))).unwrap();
        let config = fixture::config(dir.path());
        let engine = Engine::open(config.clone()).unwrap();
        let lost: Option<u64> = engine.report().lost.iter().map(|damage| damage.entries).sum();
        let found = fixture::all(&engine).len() as u64;
        assert_eq!(found + lost.unwrap(), fixture.entries.len() as u64, "{segment}");
        assert_eq!(engine.accounting().unwrap().live, found, "{segment}");
        engine.close().unwrap();
        assert_eq!(fs::read(&target).unwrap(), fixture.bytes(&segment), "{segment}");
    }
}

/// A reader without the lock showed the newest segment only, when its segment set was damaged.
#[test]
fn a_reader_finds_the_older_segments_without_the_newest_segment_set() {
    let fixture = Fixture::get();
    let active = fixture.active();
    let case = Case::flip(fixture, &active, 4096 + 60);
    let dir = fixture::temporary();
    fixture::put_files(dir.path(), &case.files);
    let engine = Engine::open_read_only(fixture::config(dir.path())).unwrap();
    assert!(fixture::all(&engine) == fixture.entries);
    assert_eq!(engine.accounting().unwrap().captured, fixture.entries.len() as u64);
}
