//! Torn tails: a store whose writer was in the middle of something is not damaged.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use deadletter::{Durability, Engine, NewFailure, Recovery, verify};

use super::fixture::{self, Fixture, log_path};

fn failure(number: u64) -> NewFailure {
    NewFailure::new("payment", "TORN").entity("number", number.to_string())
}

/// The active segment of a store whose owner died behind a checkpoint, cut inside its last
/// write: the beginning of the write is a torn tail, and nobody lost anything acknowledged.
#[test]
fn a_write_that_was_cut_short_is_a_torn_tail() {
    let dir = fixture::temporary();
    let config = fixture::config(dir.path());
    let engine = Engine::open(config).unwrap();
    for number in 0..5 {
        engine.store(failure(number)).unwrap();
    }
    engine.checkpoint().unwrap();
    let acknowledged = fixture::all(&engine);
    engine.store_with(failure(5), Durability::Written).unwrap();
    let files = fixture::files(dir.path());
    engine.close().unwrap();
    let log = log_path("0000000000000001-0000.seg");
    let bytes = &files[&log];
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    // The last record has over 40 bytes; its last ones may be zeros by themselves.
    for missing in [8, 16, 100] {
        let dir = fixture::temporary();
        let mut files = files.clone();
        files.get_mut(&log).unwrap()[end - missing..].fill(0);
        fixture::put_files(dir.path(), &files);
        let mut config = fixture::config(dir.path());
        let report = verify(&config, &mut |_, _| {}).unwrap();
        assert_eq!(report.damage, [], "{missing} bytes missing");
        assert!(report.torn_tail_bytes > 0, "{missing} bytes missing");
        config.recovery = Recovery::Strict;
        let engine = Engine::open(config).unwrap();
        assert!(engine.report().torn_bytes > 0 && !engine.report().clean);
        assert_eq!(engine.report().lost, []);
        assert!(fixture::all(&engine) == acknowledged, "{missing} bytes missing");
        engine.close().unwrap();
    }
}

/// Copies of a running writer's files, as a backup would take them: each opens, with what was
/// acknowledged before the copy began, and nothing of it is damage.
#[test]
fn a_copy_taken_while_a_writer_works() {
    let dir = fixture::temporary();
    let mut config = fixture::config(dir.path());
    // One segment: a copy of many files is not of one moment.
    config.segment_bytes = 1 << 20;
    let engine = Engine::open(config.clone()).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(std::sync::Mutex::new(BTreeSet::new()));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..1500 {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let stored = engine.store(failure(number)).unwrap();
                acknowledged.lock().unwrap().insert(stored.id);
                std::thread::yield_now();
            }
        });
        for _ in 0..10 {
            let before = acknowledged.lock().unwrap().clone();
            let files = fixture::files(dir.path());
            check_copy(&files, &before, config.segment_bytes);
        }
        stop.store(true, Ordering::Relaxed);
    });
    engine.close().unwrap();
}

fn check_copy(
    files: &std::collections::BTreeMap<std::path::PathBuf, Vec<u8>>,
    acknowledged: &BTreeSet<deadletter::EntryId>,
    segment_bytes: u64,
) {
    let dir = fixture::temporary();
    fixture::put_files(dir.path(), files);
    let mut config = fixture::config(dir.path());
    config.segment_bytes = segment_bytes;
    assert_eq!(verify(&config, &mut |_, _| {}).unwrap().damage, []);
    let engine = Engine::open(config).unwrap();
    assert_eq!(engine.report().lost, []);
    let found: BTreeSet<_> =
        fixture::all(&engine).into_iter().map(|entry| entry.operation.id).collect();
    assert!(acknowledged.is_subset(&found));
    assert_eq!(engine.accounting().unwrap().live, found.len() as u64);
    engine.close().unwrap();
}

/// After a clean close there is no unfinished write: the same bytes are damage.
#[test]
fn the_same_cut_after_a_clean_close_is_damage() {
    let fixture = Fixture::get();
    let active = fixture.active();
    let end = fixture.ends[&active];
    let case = super::check::Case::zero(fixture, &active, end - 64..end);
    super::check::check(fixture, &case);
}
