//! Sectors that the medium cannot read any more: what is in them is lost, and nothing else.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use deadletter::{Engine, Env, NewFailure, Simulated, verify_with};

use super::fixture::{self, Fixture, log_path};

const SECTOR: u64 = 512;

/// The fixture on a disk of which some bytes cannot be read.
fn disk(fixture: &Fixture, file: &Path, offset: u64, len: u64) -> Simulated {
    let dir = Path::new("/store");
    let disk = fixture.on_disk(dir);
    disk.make_unreadable(dir.join(file), offset, len).unwrap();
    disk
}

/// Opens a store with a bad place; only what is there may be missing.
fn check(fixture: &Fixture, segment: &str, offset: u64, len: u64) {
    let case = format!("{len} bytes at {offset} of {segment}");
    let records = fixture.records_of(segment);
    let hit = records
        .iter()
        .filter(|record| record.whole.start < offset + len && offset < record.whole.end);
    // Of a change, what the footer repeats is left.
    let (hit, changed): (BTreeSet<u64>, BTreeSet<Option<u64>>) =
        hit.map(|record| (record.lsn, record.target)).unzip();
    let disk = disk(fixture, &log_path(segment), offset, len);
    let env: Arc<dyn Env> = Arc::new(disk.clone());
    let config = fixture::config(Path::new("/store"));

    let verified = verify_with(&config, &env, &mut |_, _| {}).unwrap();
    assert!(hit.is_empty() || !verified.damage.is_empty(), "{case}: {verified:?}");

    let engine = Engine::open_with(config, env).unwrap_or_else(|error| panic!("{case}: {error}"));
    let found = fixture::all(&engine);
    for entry in &fixture.entries {
        let id = entry.operation.id;
        match found.iter().find(|other| other.operation.id == id) {
            None => assert!(hit.contains(&id.0), "{case}: entry {id} is gone"),
            Some(other) if changed.contains(&Some(id.0)) => {
                assert_eq!(other.operation.request_data, entry.operation.request_data, "{case}");
            }
            Some(other) => assert_eq!(other, entry, "{case}"),
        }
    }
    let accounting = engine.accounting().unwrap();
    let gone = fixture.entries.len() - found.len();
    assert_eq!(accounting.lost, gone as u64, "{case}: {accounting:?}");
    engine.store(NewFailure::new("orders", "TIMEOUT")).unwrap();
    engine.close().unwrap();
}

#[test]
fn a_bad_sector_in_a_segment_takes_what_is_in_it() {
    let fixture = Fixture::get();
    for index in 0..3 {
        let segment = fixture.segment(index);
        // Of the header's page, what is written and a part of the zeros.
        let len = fixture.bytes(&segment).len() as u64;
        for offset in (0..len / SECTOR).map(|sector| sector * SECTOR) {
            check(fixture, &segment, offset, SECTOR);
        }
    }
}

#[test]
fn a_bad_page_in_a_segment_takes_what_is_in_it() {
    let fixture = Fixture::get();
    let segment = fixture.segment(0);
    let len = fixture.bytes(&segment).len() as u64;
    // The header's page would take the segment.
    for offset in (4096..len).step_by(4096) {
        check(fixture, &segment, offset, 4096);
    }
}

#[test]
fn a_bad_sector_in_another_file_costs_no_entry() {
    let fixture = Fixture::get();
    for name in ["STORE", "CKPT.0", "CKPT.1", "LOCK"] {
        let disk = disk(fixture, Path::new(name), 0, SECTOR);
        let config = fixture::config(Path::new("/store"));
        let engine = Engine::open_with(config, Arc::new(disk)).unwrap();
        assert_eq!(fixture::all(&engine), fixture.entries, "{name}");
        engine.close().unwrap();
    }
}
