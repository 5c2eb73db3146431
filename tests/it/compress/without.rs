//! Without compression: what another build compressed is carried along, and only what it says is out
//! of reach.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use deadletter::format::{FOOTER_TRAILER_LEN, Kind};
use deadletter::{
    Cause, Changed, Config, Decision, Engine, EntryId, Error, Filter, NewFailure, Order, Page,
    Status, TailItem,
};

use super::Segment;
use crate::format_golden::V1_2;

/// All segments of a store.
fn segments(config: &Config) -> Vec<Segment> {
    let names = fs::read_dir(config.dir.join("log")).unwrap();
    let read = |path: std::path::PathBuf| (path.display().to_string(), fs::read(&path).unwrap());
    let files: BTreeMap<String, Vec<u8>> = names.map(|name| read(name.unwrap().path())).collect();
    Segment::all(&files)
}

/// The bodies of compressed entries, by number.
fn compressed(config: &Config) -> BTreeMap<u64, Vec<u8>> {
    let segments = segments(config);
    let all = segments.iter().flat_map(Segment::compressed);
    all.map(|frame| (frame.header.lsn, frame.body.clone())).collect()
}

fn open(config: &Config) -> Engine {
    let engine = Engine::open(config.clone()).unwrap();
    engine.wait_ready().unwrap();
    engine
}

/// The compressed entries that are there.
fn living(config: &Config) -> Vec<u64> {
    let lsns = compressed(config).into_keys();
    lsns.filter(|lsn| !V1_2.is_removed(*lsn)).collect()
}

fn is_unreadable<T: std::fmt::Debug>(result: Result<T, Error>, lsn: u64) -> bool {
    match result {
        Err(error @ Error::Compressed { .. }) => {
            assert!(error.to_string().contains("feature zstd"), "{error}");
            error.to_string().contains(&lsn.to_string())
        }
        other => panic!("{lsn}: {other:?}"),
    }
}

/// Every count and everything that is not compressed is as a build with compression tells it.
fn check_rest(config: &Config, engine: &Engine) {
    let living = living(config);
    for line in V1_2.export().lines() {
        let entry: deadletter::Entry = serde_json::from_str(line).unwrap();
        let id = entry.operation.id;
        if living.contains(&id.0) {
            assert!(is_unreadable(engine.get(id), id.0));
        } else {
            assert_eq!(engine.get(id).unwrap(), Some(entry));
        }
    }
    let count = V1_2.export().lines().count() as u64;
    assert_eq!(engine.count(&Filter::default()).unwrap(), count);
    let accounting = engine.accounting().unwrap();
    assert_eq!((accounting.live, accounting.lost), (count, 0));
    assert!(engine.warnings().is_empty());
    let archived = Filter { status: Some(Status::Archived), ..Filter::default() };
    assert!(engine.count(&archived).unwrap() > 5);
    let page = Page { order: Order::Oldest, limit: 1000, ..Page::default() };
    assert!(matches!(engine.find(&Filter::default(), page), Err(Error::Compressed { .. })));
}

#[test]
fn all_but_the_compressed_bodies_can_be_read() {
    let (_dir, config) = V1_2.copy();
    let report = deadletter::verify(&config, &mut |_, _| {}).unwrap();
    assert_eq!((report.damage, report.entries + 1), (vec![], V1_2.count("entry")));
    let engine = open(&config);
    assert!(engine.report().clean);
    check_rest(&config, &engine);
    engine.rebuild_index().unwrap();
    check_rest(&config, &engine);
    let stored = engine.store(NewFailure::new("payments", "NEW")).unwrap();
    assert!(engine.get(stored.id).unwrap().is_some());
    let seen = |item: Result<TailItem, Error>| match item {
        Ok(item) => item.lsn(),
        Err(Error::Compressed { id }) => id.parse().unwrap(),
        Err(error) => panic!("{error}"),
    };
    let seen: Vec<u64> = engine.tail(0).unwrap().map(seen).collect();
    assert!(living(&config).iter().all(|lsn| seen.contains(lsn)), "{seen:?}");
    let one = living(&config)[0];
    let changed = engine.change(EntryId(one), &[], |state| state.status = Status::Pending);
    assert!(is_unreadable(changed, one));
    let path = config.dir.join("log/0000000000000001-0001.seg");
    let infos: Vec<_> = deadletter::dump(&path, 0).unwrap().map(Result::unwrap).collect();
    assert!(infos.iter().any(|info| info.body.contains("needs the feature zstd")));
}

#[test]
fn a_rewrite_copies_compressed_bodies_as_they_are() {
    let (_dir, config) = V1_2.copy();
    let engine = open(&config);
    let before = compressed(&config);
    let gone: Vec<u64> = before.keys().copied().filter(|it| V1_2.is_removed(*it)).collect();
    assert!(!gone.is_empty());
    // One more goes, which is not compressed.
    let plain = segments(&config)[0]
        .of_kind(Kind::Entry)
        .find(|frame| !frame.header.flags.compressed)
        .map(|frame| EntryId(frame.header.lsn))
        .unwrap();
    let removed =
        engine.change_all(&[plain], &mut |_| Ok(Decision::Remove(Cause::Purged))).unwrap();
    assert!(matches!(&removed[..], [Changed::Removed(_)]));
    let statuses = |engine: &Engine| {
        let count = |status| {
            let filter = Filter { status: Some(status), ..Filter::default() };
            engine.count(&filter).unwrap()
        };
        Status::ALL.map(count)
    };
    let wanted = statuses(&engine);
    let report = engine.compact(&mut |_, _| {}).unwrap();
    assert!(report.rewritten > 0, "{report:?}");
    let after = compressed(&config);
    assert!(gone.iter().all(|lsn| !after.contains_key(lsn)));
    assert_eq!(after.len() + gone.len(), before.len());
    assert!(after.iter().all(|(lsn, body)| before[lsn] == *body));
    assert_eq!(engine.get(plain).unwrap(), None);
    let rewritten = segments(&config).into_iter().find(|it| it.compressed().count() > 0).unwrap();
    assert!(rewritten.header.generation > 1);
    assert_eq!(rewritten.of_kind(Kind::Dictionary).count(), 2);
    // The state that could not be folded in is there all the same.
    assert_eq!(statuses(&engine), wanted);
    engine.close().unwrap();
    let engine = open(&config);
    assert_eq!(statuses(&engine), wanted);
    engine.rebuild_index().unwrap();
    assert_eq!(statuses(&engine), wanted);
    assert_eq!(engine.accounting().unwrap().lost, 0);
    let report = deadletter::verify(&config, &mut |_, _| {}).unwrap();
    assert_eq!(report.damage, []);
    let report = engine.compact(&mut |_, _| {}).unwrap();
    assert_eq!(report.rewritten, 0, "{report:?}");
}

/// The rows of compressed entries are in the footer alone, for this build: without it nothing is
/// guessed, lost or thrown away.
#[test]
fn a_damaged_footer_waits_for_a_build_that_reads_the_records() {
    let (_dir, config) = V1_2.copy();
    let path = config.dir.join("log/0000000000000001-0001.seg");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.len() - FOOTER_TRAILER_LEN - 100;
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    // The store was closed in order, so its index would be trusted.
    let engine = Engine::open(config.clone()).unwrap();
    let stored = engine.store(NewFailure::new("payments", "NEW"));
    assert!(stored.is_ok());
    let count = engine.count(&Filter::default());
    assert!(matches!(count, Err(Error::Compressed { .. })), "{count:?}");
    let compacted = engine.compact(&mut |_, _| {});
    assert!(matches!(compacted, Err(Error::Compressed { .. })), "{compacted:?}");
    engine.close().unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert!(!Path::new(&config.dir).join("quarantine").exists());
}
