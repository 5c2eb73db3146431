//! Files that earlier builds wrote: every later build opens them and finds every field again.
//!
//! Each folder of `tests/data` holds a store with a sealed segment, an active one, a checkpoint and
//! a fallback file, and what an export of it must say. It was written once, by `UPDATE_GOLDEN=1`,
//! and is never written again: a new version of the format gets a folder of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use deadletter::format::{
    FOOTER_TRAILER_LEN, FooterTrailer, Frame, Kind, RECORD_HEADER_LEN, RecordHeader,
    SEGMENT_HEADER_LEN, SegmentHeader, TIME_NONE, decode_entry_row, key_hash,
};
use deadletter::{
    Action, Attempt, Background, Cause, Changed, Config, Decision, Durability, Engine, Entry,
    EntryId, Filter, IndexKind, Json, Lease, NewFailure, Order, Page, Prepare, Status, Timestamp,
};

use crate::format_bodies::check_body;

/// What a version wrote.
struct Golden {
    folder: &'static str,
    minor: u8,
    /// What an export says since then at the end of each line.
    added: &'static str,
    /// The entries that were removed.
    removed: &'static [u64],
}

const V1: Golden = Golden {
    folder: "v1",
    minor: 0,
    added: r#","terminal_at":null,"previous_total_retries":0,"force_redrive_count":0}"#,
    removed: &[],
};
/// Changes have causes, entries can be removed, and records are counted.
const V1_1: Golden = Golden { folder: "v1.1", minor: 1, added: "}", removed: &[5, 14] };
const VERSIONS: [Golden; 2] = [V1, V1_1];
/// 2026-11-23T20:33:57.123Z; each entry is a minute younger than the one before.
const CREATED_MS: u64 = 1_795_466_037_123;
const ENTRIES: u64 = 14;

fn config(dir: &Path) -> Config {
    let mut config = Config::new(dir);
    for (name, value) in [
        ("segment_bytes", "64 KiB"),
        ("request_data_max_bytes", "16 KiB"),
        ("field_max_bytes", "16 KiB"),
    ] {
        config.set(name, value).unwrap();
    }
    config.prepare = Prepare::Allocate;
    config.index = IndexKind::Memory;
    config.background = Background::Manual;
    config
}

impl Golden {
    fn path(&self, name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(self.folder).join(name)
    }

    /// The store, copied to where it may be changed, as a process would find it.
    fn copy(&self) -> (tempfile::TempDir, Config) {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        copy(&self.path("store"), &store);
        let config = config(&store);
        (dir, config)
    }

    /// What an export of the store says, as it is said now.
    fn export(&self) -> String {
        let text = fs::read_to_string(self.path("entries.ndjson")).unwrap();
        text.lines()
            .map(|line| line.strip_suffix('}').unwrap().to_owned() + self.added + "\n")
            .collect()
    }

    /// How many entries its log has, without the one beside it.
    fn captured(&self) -> u64 {
        ENTRIES + 1 + u64::from(self.minor)
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for name in fs::read_dir(from).unwrap() {
        let name = name.unwrap();
        let target = to.join(name.file_name());
        if name.file_type().unwrap().is_dir() {
            copy(&name.path(), &target);
        } else {
            fs::copy(name.path(), target).unwrap();
        }
    }
}

fn all(engine: &Engine) -> Vec<Entry> {
    let page = Page { order: Order::Oldest, limit: 1000, ..Page::default() };
    engine.find(&Filter::default(), page).unwrap()
}

fn lines(entries: &[Entry]) -> String {
    entries.iter().map(|entry| serde_json::to_string(entry).unwrap() + "\n").collect()
}

/// A failure with every field set, and a payload that has its own idea of white space.
fn failure(number: u64) -> NewFailure {
    let created = CREATED_MS + number * 60_000;
    let request = format!(
        "{{ \"order\":  {number}, \"price\": 1.50, \"note\": \"caf\u{e9}\", \"body\": \"{}\" }}",
        "0123456789abcdef".repeat(320)
    );
    let mut failure = NewFailure::new(
        if number.is_multiple_of(2) { "payments" } else { "orders.eu" },
        "PG_TIMEOUT",
    );
    failure.created_at = Some(Timestamp(created));
    if number.is_multiple_of(3) {
        return failure;
    }
    failure.entity_type = Some("order".to_owned());
    failure.entity_id = Some(number.to_string());
    failure.entity_refs = Json::object(format!("{{\"customer\":{number}}}")).unwrap();
    failure.user_id = Some(-1 - i64::try_from(number).unwrap());
    failure.snapshot_data = Json::object("{\"stock\" : [1,2, 3]}").unwrap();
    failure.error_code = "504".to_owned();
    failure.error_message = format!("the gateway timed out after {number} s");
    failure.request_data = Json::object(request).unwrap();
    failure.response_data = Json::object("{\"status\":504}").unwrap();
    failure.metadata = Json::object("{\"host\":\"till-7\"}").unwrap();
    failure.next_action_hint = "check the gateway".to_owned();
    failure.recommended_action = "wait".to_owned();
    failure.key = number.is_multiple_of(2).then(|| format!("order-{number}"));
    failure.max_retries = Some(7);
    failure.expires_at = Some(Timestamp(created + 86_400_000));
    failure.not_before = Some(Timestamp(created + 1000));
    failure.runnable = true;
    failure.original_domain = Some("Payments EU".to_owned());
    failure
}

fn change_everything(engine: &Engine, id: EntryId) {
    let at = Timestamp(CREATED_MS + 90_000_000);
    engine
        .change(id, &[Status::Pending], |state| {
            state.status = Status::Resolved;
            state.retry_count = 2;
            state.last_retry_at = Some(at);
            state.resolved_at = Some(at);
            state.resolved_by_id = Some(-5);
            state.resolution_type = "manual".to_owned();
            state.resolution_note = "sent by hand".to_owned();
            state.archived_at = Some(at);
            state.lease = Some(Lease { token: 77, deadline: at });
            state.attempts = vec![Attempt {
                number: 9,
                at,
                outcome: "failure".to_owned(),
                note: "still down".to_owned(),
            }];
            state.attempts_older = 8;
            state.audit = vec![Action {
                at,
                actor: "kim".to_owned(),
                action: "resolve".to_owned(),
                reason: "customer called".to_owned(),
                ticket: "T-1".to_owned(),
                from: Status::Pending,
                to: Status::Resolved,
            }];
            state.audit_older = 16;
        })
        .unwrap();
}

fn remove(engine: &Engine, id: EntryId, cause: Cause) {
    let removed = engine.change_all(&[id], &mut |_| Ok(Decision::Remove(cause))).unwrap();
    assert!(matches!(&removed[..], [Changed::Removed(_)]));
}

fn generate(golden: &Golden) {
    let store = golden.path("store");
    assert!(!store.exists(), "{} is written once and never again", store.display());
    fs::create_dir_all(golden.path("")).unwrap();
    let config = config(&store);
    let engine = Engine::open(config.clone()).unwrap();
    engine.wait_ready().unwrap();
    let mut ids = Vec::new();
    for number in 0..ENTRIES - 2 {
        ids.push(engine.store(failure(number)).unwrap().id);
        if number == 5 {
            change_everything(&engine, ids[1]);
            remove(&engine, ids[4], Cause::Purged);
        }
    }
    let batch = (ENTRIES - 2..ENTRIES).map(failure).collect();
    engine.store_batch(batch, Durability::Written).unwrap();
    engine.change(ids[2], &[], |state| state.status = Status::RequiresReview).unwrap();
    let last = engine.store_with(failure(ENTRIES), Durability::Written).unwrap();
    remove(&engine, ids[11], Cause::Evicted);
    assert_eq!((ids[4].0, ids[11].0, last.id.0), (5, 14, 18));
    engine.store_with(failure(ENTRIES + 1), Durability::Written).unwrap();
    // Syncs what was only written, which takes a mark.
    engine.checkpoint().unwrap();
    engine.close().unwrap();
    let mut spilled = failure(ENTRIES + 2);
    spilled.key = Some("spilled".to_owned());
    deadletter::spill(&config, spilled).unwrap();
    fs::remove_file(store.join("LOCK")).unwrap();
    let (_dir, config) = golden.copy();
    let engine = Engine::open(config).unwrap();
    engine.wait_ready().unwrap();
    fs::write(golden.path("entries.ndjson"), lines(&all(&engine))).unwrap();
    let tallies = serde_json::to_string_pretty(&engine.tallies().unwrap()).unwrap();
    fs::write(golden.path("tallies.json"), tallies + "\n").unwrap();
}

/// Opens the store of a version in every way and compares it in full.
fn check_golden(golden: &Golden) {
    let expected = golden.export();
    let (_dir, config) = golden.copy();
    let captured = golden.captured();
    let removed = golden.removed.len() as u64;

    let report = deadletter::verify(&config, &mut |_, _| {}).unwrap();
    assert_eq!((report.damage, report.torn_tail_bytes), (vec![], 0));
    assert_eq!((report.entries, report.fallback), (captured, 1));

    let reader = Engine::open_read_only(config.clone()).unwrap();
    reader.wait_ready().unwrap();
    let before: Vec<&str> = expected.lines().take(all(&reader).len()).collect();
    assert_eq!(lines(&all(&reader)).lines().collect::<Vec<_>>(), before);
    assert_eq!(before.len() as u64, captured - removed);
    let (accounting, counted) = account(&reader);
    assert_eq!((accounting, counted), ((captured, removed), captured));
    drop(reader);

    let engine = Engine::open(config.clone()).unwrap();
    engine.wait_ready().unwrap();
    let report = engine.report();
    assert!(report.clean, "{report:?}");
    assert_eq!((report.drained, report.lost, report.quarantined), (1, vec![], vec![]));
    let entries = all(&engine);
    assert_eq!(lines(&entries), expected);
    for (entry, line) in entries.iter().zip(expected.lines()) {
        assert_eq!(engine.get(entry.operation.id).unwrap().as_ref(), Some(entry));
        assert_eq!(engine.get_by_key(&entry.key).unwrap().as_ref(), Some(entry));
        assert_eq!(&serde_json::from_str::<Entry>(line).unwrap(), entry);
    }
    for id in golden.removed {
        assert_eq!(engine.get(EntryId(*id)).unwrap(), None);
    }
    if golden.minor > 0 {
        let tallies = serde_json::to_string_pretty(&engine.tallies().unwrap()).unwrap();
        assert_eq!(tallies + "\n", fs::read_to_string(golden.path("tallies.json")).unwrap());
    }
    engine.close().unwrap();
    assert_eq!(frames_by_kind(&config.dir, Kind::Drained), 1);
}

/// What was captured and removed, and how many records were counted as stored.
fn account(engine: &Engine) -> ((u64, u64), u64) {
    let accounting = engine.accounting().unwrap();
    assert_eq!(accounting.live, all(engine).len() as u64);
    let stored = engine.tallies().unwrap();
    let stored = stored.iter().filter_map(|row| row.counts.get(&Cause::Stored)).sum();
    ((accounting.captured, accounting.purged + accounting.evicted), stored)
}

#[test]
fn version_1_is_read_in_full() {
    check_golden(&V1);
}

#[test]
fn version_1_1_is_read_in_full() {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        generate(&V1_1);
    }
    check_golden(&V1_1);
}

/// A store of version 1.0 goes on under this build, segments that it began included.
#[test]
fn a_store_of_version_1_is_continued() {
    let (_dir, config) = V1.copy();
    let engine = Engine::open(config.clone()).unwrap();
    let stored = engine.store(failure(40)).unwrap();
    change_everything(&engine, EntryId(1));
    remove(&engine, EntryId(2), Cause::Deleted);
    for number in 41..60 {
        engine.store(failure(number)).unwrap();
    }
    let before = all(&engine);
    let tallies = engine.tallies().unwrap();
    let wanted = (ENTRIES + 2 + 20, 1);
    assert_eq!(account(&engine), (wanted, wanted.0));
    assert_eq!(engine.get(EntryId(2)).unwrap(), None);
    assert_eq!(engine.get(EntryId(1)).unwrap().unwrap().operation.status, Status::Resolved);
    engine.close().unwrap();
    let engine = Engine::open(config.clone()).unwrap();
    assert!(engine.report().clean);
    assert_eq!(all(&engine), before);
    assert!(before.iter().any(|entry| entry.operation.id == stored.id));
    assert_eq!(engine.tallies().unwrap(), tallies);
    assert_eq!(account(&engine), (wanted, wanted.0));
    drop(engine);
    let report = deadletter::verify(&config, &mut |_, _| {}).unwrap();
    assert_eq!((report.damage, report.torn_tail_bytes), (vec![], 0));
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(dir.join("log")).unwrap();
    let mut paths: Vec<PathBuf> = names.map(|name| name.unwrap().path()).collect();
    paths.sort();
    paths
}

fn frames_by_kind(dir: &Path, kind: Kind) -> usize {
    let frames = |path: &PathBuf| frames(&fs::read(path).unwrap()).1;
    let all = segments(dir).iter().flat_map(frames).collect::<Vec<_>>();
    all.iter().filter(|frame| frame.header.kind == kind).count()
}

/// Reads a segment with nothing but the public format and the document.
fn frames(bytes: &[u8]) -> (SegmentHeader, Vec<Frame>, u64) {
    let page = usize::try_from(SEGMENT_HEADER_LEN).unwrap();
    let (header, intact) = SegmentHeader::decode(&bytes[..page]).unwrap();
    assert!(intact);
    let mut frames = Vec::new();
    let mut at = page;
    while let Ok(record) = bytes
        .get(at..at + RECORD_HEADER_LEN)
        .map_or(Err(()), |head| RecordHeader::decode(head, header.salt, at as u64).map_err(drop))
    {
        let start = at + RECORD_HEADER_LEN;
        let body = bytes[start..start + record.body_len as usize].to_vec();
        assert!(record.fits(&body));
        frames.push(Frame::new(at as u64, record, body));
        at += usize::try_from(record.record_len()).unwrap();
    }
    (header, frames, at as u64)
}

#[test]
fn a_second_reader_reads_the_bodies_of_every_version() {
    for golden in VERSIONS {
        let mut seen = BTreeMap::new();
        let store = golden.path("store");
        let names = fs::read_dir(store.join("fallback")).unwrap();
        let fallback = names.map(|name| name.unwrap().path());
        for path in segments(&store).into_iter().chain(fallback) {
            let bytes = fs::read(&path).unwrap();
            // The minor version of the header, in both copies.
            assert_eq!((bytes[10], bytes[2048 + 10]), (golden.minor, golden.minor));
            let (_, frames, end) = frames(&bytes);
            assert!(end > SEGMENT_HEADER_LEN);
            for frame in frames {
                let header = &frame.header;
                let newest = header.kind.body_version();
                assert_eq!(header.body_version, newest.min(u16::from(golden.minor) + 1));
                check_body(header.kind, header.body_version, &frame.body);
                *seen.entry(header.kind.as_str()).or_insert(0_u64) += 1;
            }
        }
        assert_eq!(seen["entry"], golden.captured() + 1);
        assert_eq!(seen["change"], 2 + golden.removed.len() as u64);
        assert_eq!(seen["segment_set"], 2);
        assert!(seen["mark"] > 0, "{seen:?}");
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The rows of a sealed segment by the tables of the document, against its own records.
fn check_footer(golden: &Golden) {
    let path = segments(&golden.path("store")).remove(0);
    let bytes = fs::read(path).unwrap();
    let (header, frames, end) = frames(&bytes);
    let (rest, trailer) = bytes.split_at(bytes.len() - FOOTER_TRAILER_LEN);
    let trailer = FooterTrailer::decode(trailer, header.salt, bytes.len() as u64).unwrap();
    assert_eq!((trailer.start, trailer.records as usize), (end, frames.len()));
    let of = |kind| frames.iter().filter(move |frame| frame.header.kind == kind);
    let entries: Vec<&Frame> = of(Kind::Entry).collect();
    let changes: Vec<&Frame> = of(Kind::Change).collect();
    assert_eq!(trailer.entries as usize, entries.len());
    assert_eq!(trailer.changes as usize, changes.len());
    let keyed = fs::read_to_string(golden.path("entries.ndjson")).unwrap();
    let keyed: Vec<Entry> = keyed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let keyed: BTreeMap<u64, Entry> =
        keyed.into_iter().map(|entry| (entry.operation.id.0, entry)).collect();
    for (ordinal, frame) in (0..).zip(&entries) {
        let at = usize::try_from(trailer.entry_row_offset(ordinal).unwrap()).unwrap();
        let row = decode_entry_row(&bytes[at..]).unwrap();
        assert_eq!(frame.header.ordinal, ordinal);
        assert_eq!((row.lsn, row.offset), (frame.header.lsn, frame.offset));
        let Some(entry) = keyed.get(&row.lsn) else {
            assert!(golden.removed.contains(&row.lsn), "{row:?}");
            continue;
        };
        assert_eq!(row.created_ms, entry.operation.created_at.0);
        assert_eq!(row.expires_ms, entry.operation.expires_at.map_or(TIME_NONE, |time| time.0));
        assert_eq!(row.key_hash, key_hash(header.store_uuid, &entry.key));
        assert_eq!(row.status, Status::Pending);
    }
    let rows = rest[rest.len() - changes.len() * 48..].chunks_exact(48);
    let mut removals = 0;
    for (row, frame) in rows.zip(changes) {
        assert_eq!(u64_at(row, 0), frame.header.lsn);
        let Some(entry) = keyed.get(&u64_at(row, 8)) else {
            assert!(golden.removed.contains(&u64_at(row, 8)));
            assert_eq!(row[44..], [255, golden.minor, 0, 0]);
            removals += 1;
            continue;
        };
        assert_eq!(u64_at(row, 16), entry.operation.updated_at.0);
        // Version 1.0 kept the delay there, whatever the status.
        let age = entry.age_from().filter(|_| golden.minor > 0);
        assert_eq!(u64_at(row, 24), age.or(entry.not_before).unwrap().0);
        assert_eq!(u64_at(row, 32), entry.operation.expires_at.unwrap().0);
        let offset = u64::from(u32::from_le_bytes(row[40..44].try_into().unwrap())) * 8;
        assert_eq!(offset, frame.offset);
        assert_eq!(row[44..], [entry.operation.status as u8, golden.minor, 0, 0]);
    }
    assert_eq!(removals > 0, !golden.removed.is_empty());
}

#[test]
fn the_footer_of_every_version_repeats_its_records() {
    VERSIONS.iter().for_each(check_footer);
}
