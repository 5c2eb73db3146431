//! With compression.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use deadletter::format::{Frame, Kind, RECORD_HEADER_LEN, RecordHeader};
use deadletter::{
    CompactReport, CrashMode, DamageKind, Engine, Entry, EntryId, Env, IndexKind, Json, NewFailure,
    OpenMode, Simulated, Status, TailItem, write_all_at,
};
use proptest::prelude::*;

use super::Segment;
use crate::compact::{
    all, bytes_below, check_same, compact, config, files_with, log_files, open, remove, verify,
};

/// A text that stands in several entries, so that it gets into a dictionary.
const SHARED: &str = "the one secret that a few customers have in common";

/// A failure as others are: most of it is said by all of them.
fn failure(number: usize, text: &str) -> NewFailure {
    let request = format!(
        r#"{{"order":{number},"customer":{{"id":"c-{}","tier":"gold","country":"NL"}},"items":[{{"sku":"A-{}","quantity":{},"price":"{}.95"}}],"text":"{text}"}}"#,
        number * 7919 % 10_007,
        number * 31 % 97,
        number % 5,
        number * 13 % 211,
    );
    NewFailure::new(["payments", "mail"][number % 2], "GATEWAY_TIMEOUT")
        .key(format!("key-{number}"))
        .error("504", format!("upstream did not answer request {number} within 30000 ms"))
        .request(Json::object(request).unwrap())
        .response(Json::object(r#"{"status":504,"retryable":true}"#).unwrap())
        .metadata(Json::object(r#"{"host":"till-7.shop.example","version":"4.12.0"}"#).unwrap())
        .hint("look whether the gateway is up, then replay")
}

fn fill(engine: &Engine, count: usize) -> Vec<EntryId> {
    let text = |number| if number % 20 == 1 { SHARED } else { "" };
    (0..count).map(|number| engine.store(failure(number, text(number))).unwrap().id).collect()
}

fn change(engine: &Engine, ids: &[EntryId], status: Status) {
    for id in ids {
        engine.change(*id, &[], |state| state.status = status).unwrap();
    }
}

/// A store with so many archived entries in each rewritten segment, and some that wait.
fn archived(disk: &Simulated, count: usize) -> (Engine, Vec<EntryId>) {
    let engine = open(disk);
    let ids = fill(&engine, count);
    let done = ids.iter().enumerate().filter(|(at, _)| at % 10 != 3).map(|(_, id)| *id);
    change(&engine, &done.collect::<Vec<_>>(), Status::Archived);
    compact(&engine);
    (engine, ids)
}

fn segments(disk: &Simulated) -> Vec<Segment> {
    let mut files = BTreeMap::new();
    bytes_below(disk, Path::new("/data/store"), &mut files);
    Segment::all(&files)
}

/// How many bodies on a disk are compressed.
pub fn compressed(disk: &Simulated) -> usize {
    segments(disk).iter().map(|segment| segment.compressed().count()).sum()
}

/// A body as it was before, read with nothing but the document.
fn plain(segment: &Segment, frame: &Frame) -> Vec<u8> {
    if !frame.header.flags.compressed {
        return frame.body.clone();
    }
    let dictionary = segment.of_kind(Kind::Dictionary).next().unwrap();
    let mut decoder = zstd::bulk::Decompressor::with_dictionary(&dictionary.body).unwrap();
    decoder.decompress(&frame.body, 16 * 1024 * 1024).unwrap()
}

/// Whether a text stands anywhere in the log, compressed or not.
fn is_in_log(disk: &Simulated, text: &str) -> bool {
    let holds = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    let bodies = segments(disk)
        .into_iter()
        .any(|segment| segment.frames.iter().any(|frame| holds(&plain(&segment, frame))));
    bodies || !files_with(disk, text).is_empty()
}

fn log_bytes(disk: &Simulated) -> u64 {
    log_files(disk).iter().map(|(_, len)| len).sum()
}

/// Puts another body of the same length in the place of a record's, with all checksums right.
fn forge(disk: &Simulated, segment: &Segment, frame: &Frame, body: &[u8]) {
    assert_eq!(body.len(), frame.body.len());
    let header = RecordHeader { body_crc: RecordHeader::crc_of(body), ..frame.header };
    let mut bytes = header.encode(segment.header.salt, frame.offset).to_vec();
    bytes.extend_from_slice(body);
    write(disk, segment, frame.offset, &bytes);
}

fn write(disk: &Simulated, segment: &Segment, offset: u64, bytes: &[u8]) {
    let file = disk.open(Path::new(&segment.name), OpenMode::Write).unwrap();
    write_all_at(&*file, bytes, offset).unwrap();
    file.sync().unwrap();
}

#[test]
fn archived_entries_take_less_and_read_the_same() {
    let disk = Simulated::new(1);
    let engine = open(&disk);
    let ids = fill(&engine, 400);
    let done: Vec<EntryId> = ids.iter().copied().filter(|id| id.0 % 10 != 3).collect();
    change(&engine, &done[..300], Status::Archived);
    change(&engine, &done[300..], Status::Rejected);
    let wanted = all(&engine);
    let before = log_bytes(&disk);
    let report = compact(&engine);
    assert!(report.rewritten > 3, "{report:?}");
    assert!(log_bytes(&disk) * 2 < before, "{before} to {}", log_bytes(&disk));
    let segments = segments(&disk);
    let waiting = |lsn: u64| lsn % 10 == 3 || lsn > done.last().unwrap().0;
    let rewritten = segments.iter().filter(|segment| segment.header.generation > 0);
    for segment in rewritten.filter(|segment| segment.of_kind(Kind::Entry).count() > 0) {
        assert!(segment.compressed().count() > 0, "{}", segment.name);
        assert!(segment.compressed().all(|frame| !waiting(frame.header.lsn)));
        assert!(segment.of_kind(Kind::Dictionary).count() == 2);
    }
    check_same(&disk, &engine, &wanted);
    let mut tail = engine.tail(0).unwrap();
    let seen = tail.by_ref().filter_map(|item| match item.unwrap() {
        TailItem::Stored(entry) => Some(*entry),
        _ => None,
    });
    assert_eq!(seen.map(|entry| entry.key).collect::<Vec<_>>().len(), wanted.len());
    // Nothing is left to do, by this process or another.
    assert_eq!(compact(&engine), CompactReport::default());
    engine.close().unwrap();
    let engine = open(&disk);
    assert_eq!(all(&engine), wanted);
    engine.rebuild_index().unwrap();
    assert_eq!(all(&engine), wanted);
    let report = compact(&engine);
    assert_eq!(report.bytes_before, report.bytes_after, "{report:?}");
}

#[test]
fn they_are_compressed_without_being_asked() {
    let disk = Simulated::new(1);
    let engine = open(&disk);
    let ids = fill(&engine, 400);
    change(&engine, &ids, Status::Resolved);
    let wanted = all(&engine);
    (0..200).for_each(|_| engine.step().unwrap());
    assert!(
        segments(&disk).iter().map(|segment| segment.compressed().count()).sum::<usize>() > 200
    );
    check_same(&disk, &engine, &wanted);
    let files = log_files(&disk);
    (0..50).for_each(|_| engine.step().unwrap());
    assert_eq!(log_files(&disk), files, "nothing is written anew that is as small as it gets");
}

/// Digits without any order, which no compressor makes half as long.
fn noise(seed: u64, len: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let digit = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(
            b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+-"
                [(state >> 20) as usize % 64],
        )
    };
    (0..len).map(digit).collect()
}

#[test]
fn what_does_not_get_shorter_is_tried_once() {
    let disk = Simulated::new(1);
    let engine = open(&disk);
    let ids: Vec<EntryId> = (0..120)
        .map(|number| engine.store(failure(number, &noise(number as u64, 3000))).unwrap().id)
        .collect();
    change(&engine, &ids, Status::Archived);
    let gone: Vec<EntryId> = ids.iter().copied().filter(|id| id.0 % 5 > 1).collect();
    remove(&engine, &gone, deadletter::Cause::Purged);
    let report = compact(&engine);
    assert!(report.rewritten > 3, "{report:?}");
    let again = |engine: &Engine| {
        let report = compact(engine);
        assert!(report.bytes_after + 4096 > report.bytes_before, "{report:?}");
        report
    };
    // The segment that was active may have been small; nothing is written twice after that.
    again(&engine);
    assert_eq!(again(&engine), CompactReport::default());
    let wanted = all(&engine);
    engine.close().unwrap();
    let engine = open(&disk);
    again(&engine);
    assert_eq!(again(&engine), CompactReport::default());
    check_same(&disk, &engine, &wanted);
}

#[test]
fn a_compressed_entry_comes_back_to_life() {
    let disk = Simulated::new(1);
    let (engine, ids) = archived(&disk, 200);
    let again = &ids[20..60];
    change(&engine, again, Status::Pending);
    let note = |state: &mut deadletter::State| state.resolution_note = "look again".to_owned();
    engine.change(ids[70], &[], note).unwrap();
    let wanted = all(&engine);
    assert_eq!(engine.get(again[0]).unwrap().unwrap().operation.status, Status::Pending);
    check_same(&disk, &engine, &wanted);
    // Until so many changes are worth a rewrite, and after it.
    change(&engine, &ids[..180], Status::Reviewing);
    let gone: Vec<EntryId> = ids[100..150].to_vec();
    remove(&engine, &gone, deadletter::Cause::Purged);
    let wanted = all(&engine);
    assert!(compact(&engine).rewritten > 0);
    check_same(&disk, &engine, &wanted);
}

/// A dictionary is made of pieces of entries, so it must not outlive them.
#[test]
fn purged_bytes_leave_the_dictionary_too() {
    let disk = Simulated::new(1);
    let (engine, ids) = archived(&disk, 300);
    assert!(is_in_log(&disk, SHARED));
    let in_dictionary = segments(&disk).iter().any(|segment| {
        let mut dictionaries = segment.of_kind(Kind::Dictionary);
        dictionaries.any(|frame| String::from_utf8_lossy(&frame.body).contains("secret"))
    });
    assert!(in_dictionary, "the shared text is in no dictionary, so this test shows nothing");
    let gone: Vec<EntryId> = (0..300).filter(|at| at % 20 == 1).map(|at| ids[at]).collect();
    remove(&engine, &gone, deadletter::Cause::Purged);
    let wanted = all(&engine);
    compact(&engine);
    engine.checkpoint().unwrap();
    assert!(!is_in_log(&disk, SHARED));
    assert!(!is_in_log(&disk, "one secret"));
    check_same(&disk, &engine, &wanted);
}

/// A build without compression copies a dictionary along with its time, which tells.
#[test]
fn a_dictionary_that_was_copied_is_made_anew() {
    let disk = Simulated::new(1);
    let (engine, _) = archived(&disk, 200);
    let wanted = all(&engine);
    engine.close().unwrap();
    let segment = segments(&disk).into_iter().find(|it| it.compressed().count() > 8).unwrap();
    for copy in segment.of_kind(Kind::Dictionary) {
        assert_eq!(copy.header.time_ms, segment.header.created_ms);
        let header = RecordHeader { time_ms: copy.header.time_ms - 1, ..copy.header };
        let bytes = header.encode(segment.header.salt, copy.offset);
        write(&disk, &segment, copy.offset, &bytes);
    }
    let engine = open(&disk);
    compact(&engine);
    assert!(log_files(&disk).iter().all(|(name, _)| !segment.name.ends_with(name)));
    check_same(&disk, &engine, &wanted);
    assert_eq!(compact(&engine), CompactReport::default());
}

#[test]
fn merged_segments_share_one_dictionary() {
    let disk = Simulated::new(1);
    let (engine, ids) = archived(&disk, 600);
    let gone: Vec<EntryId> = ids.iter().copied().filter(|id| id.0 % 4 != 0).collect();
    remove(&engine, &gone, deadletter::Cause::Purged);
    let wanted = all(&engine);
    let report = compact(&engine);
    assert!(report.merged > 0, "{report:?}");
    assert!(segments(&disk).iter().any(|segment| segment.compressed().count() > 20));
    check_same(&disk, &engine, &wanted);
}

/// The second copy stands in for the first one.
#[test]
fn a_damaged_dictionary_takes_nothing_along() {
    let disk = Simulated::new(1);
    let (engine, _) = archived(&disk, 200);
    let wanted = all(&engine);
    engine.close().unwrap();
    let segment = segments(&disk).into_iter().find(|it| it.compressed().count() > 8).unwrap();
    let head = segment.of_kind(Kind::Dictionary).next().unwrap();
    write(&disk, &segment, head.offset + RECORD_HEADER_LEN as u64 + 9, b"####");
    let env: Arc<dyn Env> = Arc::new(disk.clone());
    let report = deadletter::verify_with(&config(IndexKind::Memory), &env, &mut |_, _| {}).unwrap();
    assert_eq!(report.damage.len(), 1, "{:?}", report.damage);
    assert_eq!((report.damage[0].offset, report.damage[0].entries), (head.offset, Some(0)));
    let engine = open(&disk);
    assert_eq!(all(&engine), wanted);
    assert_eq!(engine.accounting().unwrap().lost, 0);
    // The next rewrite of it passes over the hole.
    let first = segment.compressed().next().unwrap().header.lsn;
    remove(&engine, &[EntryId(first)], deadletter::Cause::Purged);
    let wanted = all(&engine);
    compact(&engine);
    check_same(&disk, &engine, &wanted);
    assert_eq!(engine.accounting().unwrap().lost, 0);
}

#[test]
fn without_both_copies_the_compressed_entries_are_lost_and_counted() {
    let disk = Simulated::new(1);
    let (engine, _) = archived(&disk, 200);
    let wanted = all(&engine);
    engine.close().unwrap();
    let segment = segments(&disk).into_iter().find(|it| it.compressed().count() > 8).unwrap();
    for copy in segment.of_kind(Kind::Dictionary) {
        write(&disk, &segment, copy.offset + RECORD_HEADER_LEN as u64 + 9, b"####");
    }
    let lost: Vec<EntryId> = segment.compressed().map(|it| EntryId(it.header.lsn)).collect();
    let kept = |entries: &[Entry]| -> Vec<Entry> {
        entries.iter().filter(|entry| !lost.contains(&entry.operation.id)).cloned().collect()
    };
    let engine = open(&disk);
    for id in &lost {
        assert_eq!(engine.get(*id).unwrap(), None);
    }
    assert_eq!(all(&engine), kept(&wanted));
    let accounting = engine.accounting().unwrap();
    assert_eq!((accounting.lost, accounting.live), (lost.len() as u64, kept(&wanted).len() as u64));
    assert_eq!(accounting.captured, accounting.live + accounting.lost);
}

/// Bodies that lie about their length, or are no frame.
fn lies(frame: &Frame) -> Vec<Vec<u8>> {
    let len = frame.body.len();
    let mut longer = frame.body.clone();
    // The frame header: magic, descriptor, the number of the dictionary, the content's length.
    let descriptor = longer[4];
    let at = 5 + [0, 1, 2, 4][usize::from(descriptor & 3)];
    longer[at] = longer[at].wrapping_add(1);
    let mut bomb = vec![0; len];
    bomb[..4].copy_from_slice(&0xfd2f_b528_u32.to_le_bytes());
    // One segment whose length takes eight bytes.
    bomb[4] = 0b1110_0000;
    bomb[5..13].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut two = bomb.clone();
    two[..9].copy_from_slice(&[0x28, 0xb5, 0x2f, 0xfd, 0x20, 0, 1, 0, 0]);
    vec![longer, bomb, two, vec![b'#'; len]]
}

#[test]
fn a_body_that_lies_is_damage_of_one_entry() {
    for lie in 0..4 {
        let disk = Simulated::new(1);
        let (engine, _) = archived(&disk, 200);
        let wanted = all(&engine);
        engine.close().unwrap();
        let segment = segments(&disk).into_iter().find(|it| it.compressed().count() > 8).unwrap();
        let frame = segment.compressed().nth(3).unwrap();
        forge(&disk, &segment, frame, &lies(frame)[lie]);
        let env: Arc<dyn Env> = Arc::new(disk.clone());
        let config = config(IndexKind::Memory);
        let report = deadletter::verify_with(&config, &env, &mut |_, _| {}).unwrap();
        let [damage] = &report.damage[..] else { panic!("{lie}: {:?}", report.damage) };
        assert_eq!((damage.kind, damage.offset), (DamageKind::Record, frame.offset));
        assert_eq!((damage.lsn_from, damage.entries), (Some(frame.header.lsn), Some(1)));
        let engine = open(&disk);
        // A rewrite finds it before anybody asks for it.
        let last = segment.compressed().last().unwrap().header.lsn;
        remove(&engine, &[EntryId(last)], deadletter::Cause::Purged);
        compact(&engine);
        let gone = [EntryId(frame.header.lsn), EntryId(last)];
        let wanted: Vec<Entry> =
            wanted.into_iter().filter(|entry| !gone.contains(&entry.operation.id)).collect();
        assert_eq!(all(&engine), wanted);
        let accounting = engine.accounting().unwrap();
        assert_eq!((accounting.lost, accounting.purged), (1, 1));
        engine.close().unwrap();
        let engine = open(&disk);
        assert_eq!(all(&engine), wanted);
        assert_eq!(engine.accounting().unwrap(), accounting);
        verify(&disk);
        assert!(!disk.list(Path::new("/data/store/quarantine")).unwrap().is_empty());
    }
}

/// The space that a rewrite takes was claimed before, so the bound holds at every step.
#[test]
fn a_rewrite_never_takes_more_than_the_bound_allows() {
    let disk = Simulated::new(1);
    let mut config = config(IndexKind::Memory);
    config.max_bytes = Some(2 * 1024 * 1024);
    let engine = Engine::open_with(config.clone(), Arc::new(disk.clone())).unwrap();
    let used = |disk: &Simulated| {
        let mut files = BTreeMap::new();
        bytes_below(disk, Path::new("/data/store"), &mut files);
        files.values().map(|bytes| bytes.len() as u64).sum::<u64>()
    };
    let mut ids = Vec::new();
    for number in 0..1000 {
        let Ok(stored) = engine.store(failure(number, "")) else { break };
        ids.push(stored.id);
    }
    for (round, status) in [Status::Archived, Status::Pending, Status::Rejected].iter().enumerate()
    {
        for id in ids.iter().filter(|id| id.0 % 3 != round as u64) {
            engine.change(*id, &[], |state| state.status = *status).unwrap();
            assert!(used(&disk) <= 2 * 1024 * 1024);
        }
        for _ in 0..100 {
            disk.advance(std::time::Duration::from_secs(2));
            engine.step().unwrap();
            assert!(used(&disk) <= 2 * 1024 * 1024);
        }
        assert!(engine.space().unwrap().used <= 2 * 1024 * 1024);
    }
    let wanted = all(&engine);
    drop(engine);
    let engine = Engine::open_with(config, Arc::new(disk.clone())).unwrap();
    assert_eq!(all(&engine), wanted);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever entries hold and whichever of them are at their end, a rewrite changes nothing.
    #[test]
    fn any_entries_come_back_as_they_were(
        texts in prop::collection::vec(("[ -!#-\\[\\]-~]{0,40}", 0_usize..900, 0_u8..4), 1..120),
    ) {
        let disk = Simulated::new(1);
        let engine = open(&disk);
        for (number, (text, pad, fate)) in texts.iter().enumerate() {
            let text = text.clone() + &noise(number as u64 % 3, *pad);
            let id = engine.store(failure(number, &text)).unwrap().id;
            match fate {
                0 => {}
                1 => remove(&engine, &[id], deadletter::Cause::Evicted),
                2 => change(&engine, &[id], Status::Expired),
                _ => change(&engine, &[id], Status::PermanentlyFailed),
            }
        }
        let wanted = all(&engine);
        compact(&engine);
        prop_assert_eq!(&all(&engine), &wanted);
        let cut = open(&disk.crash_image(CrashMode::Nothing, 1));
        prop_assert_eq!(&all(&cut), &wanted);
    }
}
