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
    Action, Attempt, Background, Cause, Changed, Config, Decision, Engine, Entry, EntryId, Filter,
    IndexKind, Json, Lease, NewFailure, Order, Page, Prepare, Status, Timestamp,
};

#[cfg(feature = "zstd")]
use deadletter::{Durability, EvictRequest};

use crate::format_bodies::check_body;

/// How long the entries live that expire at all.
const DAY_MS: u64 = 86_400_000;

/// What a version wrote.
pub struct Golden {
    folder: &'static str,
    minor: u8,
    /// What an export says since then at the end of each line.
    added: &'static str,
    /// How many entries its log took, without the one beside it.
    captured: u64,
    /// The entries that were removed, as ranges with both ends.
    removed: &'static [(u64, u64)],
    /// How many records of each kind there are, the entry beside the log included.
    kinds: &'static [(&'static str, u64)],
}

const V1: Golden = Golden {
    folder: "v1",
    minor: 0,
    added: r#","terminal_at":null,"previous_total_retries":0,"force_redrive_count":0}"#,
    captured: 15,
    removed: &[],
    kinds: &[("change", 2), ("entry", 16), ("mark", 1), ("segment_set", 2)],
};
/// Changes have causes, entries can be removed, and records are counted.
const V1_1: Golden = Golden {
    folder: "v1.1",
    minor: 1,
    added: "}",
    captured: 16,
    removed: &[(5, 5), (14, 14)],
    kinds: &[("change", 4), ("entry", 17), ("mark", 1), ("segment_set", 2)],
};
/// Segments are rewritten and dropped, entries compressed, and evicted ones summed up.
pub const V1_2: Golden = Golden {
    folder: "v1.2",
    minor: 2,
    added: "}",
    captured: 113,
    removed: &[(5, 6), (10, 10), (27, 106)],
    kinds: &[
        ("change", 2),
        ("dictionary", 2),
        ("drained", 1),
        ("drop", 1),
        ("entry", 32),
        ("mark", 1),
        ("replace", 2),
        ("segment_set", 2),
        ("summary", 1),
    ],
};
const VERSIONS: [&Golden; 3] = [&V1, &V1_1, &V1_2];
/// 2026-11-23T20:33:57.123Z; each entry is a minute younger than the one before.
const CREATED_MS: u64 = 1_795_466_037_123;

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
    pub fn copy(&self) -> (tempfile::TempDir, Config) {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        copy(&self.path("store"), &store);
        let config = config(&store);
        (dir, config)
    }

    /// What an export of the store says, as it is said now.
    pub fn export(&self) -> String {
        let text = fs::read_to_string(self.path("entries.ndjson")).unwrap();
        text.lines()
            .map(|line| line.strip_suffix('}').unwrap().to_owned() + self.added + "\n")
            .collect()
    }

    /// The entries that were removed.
    fn removed(&self) -> impl Iterator<Item = u64> {
        self.removed.iter().flat_map(|(from, to)| *from..=*to)
    }

    pub fn is_removed(&self, lsn: u64) -> bool {
        self.removed().any(|removed| removed == lsn)
    }

    /// How many records of a kind there are.
    pub fn count(&self, kind: &str) -> u64 {
        self.kinds.iter().find(|(name, _)| *name == kind).map_or(0, |(_, count)| *count)
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
    failure.expires_at = Some(Timestamp(created + DAY_MS));
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

/// Writes the store of a version, with what `live` does to it.
#[cfg(feature = "zstd")]
fn generate(golden: &Golden, live: impl FnOnce(&Config)) {
    let store = golden.path("store");
    assert!(!store.exists(), "{} is written once and never again", store.display());
    fs::create_dir_all(golden.path("")).unwrap();
    let config = config(&store);
    live(&config);
    let mut spilled = failure(91);
    spilled.key = Some("spilled".to_owned());
    deadletter::spill(&config, spilled).unwrap();
    for name in ["LOCK", "BALLAST"] {
        drop(fs::remove_file(store.join(name)));
    }
    let (_dir, config) = golden.copy();
    let engine = Engine::open(config).unwrap();
    engine.wait_ready().unwrap();
    fs::write(golden.path("entries.ndjson"), lines(&all(&engine))).unwrap();
    let tallies = serde_json::to_string_pretty(&engine.tallies().unwrap()).unwrap();
    fs::write(golden.path("tallies.json"), tallies + "\n").unwrap();
}

/// A failure that shares most of what it says with others, as those of one service do.
#[cfg(feature = "zstd")]
fn alike(number: u64) -> NewFailure {
    let mut word = 0x5eed_u64;
    let mut shared = String::new();
    for _ in 0..90 {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        shared += &format!("{:x} ", word >> 24);
    }
    let mut failure = failure(number);
    failure.request_data =
        Json::object(format!("{{\"order\": {number},  \"text\": \"{shared}\"}}")).unwrap();
    failure
}

/// What version 1.2 wrote: the first segment rewritten and compressed, the second one dropped, and
/// behind them the records that say so.
#[cfg(feature = "zstd")]
fn live_1_2(config: &Config) {
    let spill = |number, key: &str| {
        let mut beside = failure(number);
        beside.key = Some(key.to_owned());
        deadletter::spill(config, beside).unwrap();
        let engine = Engine::open(config.clone()).unwrap();
        engine.wait_ready().unwrap();
        engine
    };
    Engine::open(config.clone()).unwrap().close().unwrap();
    let engine = spill(90, "spilled first");
    let ids: Vec<EntryId> =
        (0..110).map(|number| engine.store(alike(number)).unwrap().id).collect();
    change_everything(&engine, ids[1]);
    for id in ids[2..24].iter().filter(|id| **id != ids[5]) {
        engine.change(*id, &[], |state| state.status = Status::Archived).unwrap();
    }
    remove(&engine, ids[3], Cause::Purged);
    for id in &ids[24..104] {
        remove(&engine, *id, Cause::Deleted);
    }
    let request = EvictRequest { count: 1, terminal: true, compress: true, domain: None };
    assert_eq!(engine.evict(&request).unwrap().evicted, 1);
    let report = engine.compact(&mut |_, _| {}).unwrap();
    assert!(report.rewritten > 0 && report.dropped > 0, "{report:?}");
    engine.close().unwrap();
    let engine = spill(92, "spilled again");
    // A compressed entry that waits again, and one whose record goes with the next rewrite.
    engine.change(ids[6], &[], |state| state.status = Status::Pending).unwrap();
    remove(&engine, ids[7], Cause::Purged);
    engine.store_with(failure(110), Durability::Written).unwrap();
    // Syncs what was only written, which takes a mark.
    engine.checkpoint().unwrap();
    engine.close().unwrap();
}

/// Opens the store of a version in every way and compares it in full.
fn check_golden(golden: &Golden) {
    let expected = golden.export();
    let (_dir, config) = golden.copy();
    let captured = golden.captured;
    let removed = golden.removed().count() as u64;

    let report = deadletter::verify(&config, &mut |_, _| {}).unwrap();
    assert_eq!((report.damage, report.torn_tail_bytes), (vec![], 0));
    assert_eq!((report.entries + 1, report.fallback), (golden.count("entry"), 1));

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
    let mut entries = all(&engine);
    for entry in &entries {
        assert_eq!(engine.get(entry.operation.id).unwrap().as_ref(), Some(entry));
        assert_eq!(engine.get_by_key(&entry.key).unwrap().as_ref(), Some(entry));
    }
    // After a day nobody believes the times of a spilled entry; it lives on from its drain.
    let spilled = entries.iter_mut().find(|entry| entry.key == "spilled").unwrap();
    let created_at = spilled.operation.created_at;
    let lifetime_ms = spilled.operation.expires_at.unwrap().0 - created_at.0;
    assert!(lifetime_ms >= DAY_MS, "{lifetime_ms}");
    spilled.operation.expires_at = Some(Timestamp(created_at.0 + DAY_MS));
    assert_eq!(lines(&entries), expected);
    for (entry, line) in entries.iter().zip(expected.lines()) {
        assert_eq!(&serde_json::from_str::<Entry>(line).unwrap(), entry);
    }
    for id in golden.removed() {
        assert_eq!(engine.get(EntryId(id)).unwrap(), None);
    }
    if golden.minor > 0 {
        let tallies = serde_json::to_string_pretty(&engine.tallies().unwrap()).unwrap();
        assert_eq!(tallies + "\n", fs::read_to_string(golden.path("tallies.json")).unwrap());
    }
    engine.close().unwrap();
    assert_eq!(frames_by_kind(&config.dir, Kind::Drained) as u64, golden.count("drained") + 1);
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
    check_golden(&V1_1);
}

#[cfg(feature = "zstd")]
#[test]
fn version_1_2_is_read_in_full() {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        generate(&V1_2, live_1_2);
    }
    check_golden(&V1_2);
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
    let wanted = (V1.captured + 1 + 20, 1);
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
            let dictionary = dictionary_of(&frames);
            for frame in frames {
                let header = &frame.header;
                let newest = header.kind.body_version();
                assert_eq!(header.body_version, newest.min(u16::from(golden.minor) + 1));
                if !header.flags.compressed || cfg!(feature = "zstd") {
                    check_body(header.kind, header.body_version, &plain(&frame, &dictionary));
                }
                *seen.entry(header.kind.as_str()).or_insert(0_u64) += 1;
            }
        }
        assert_eq!(seen, golden.kinds.iter().copied().collect(), "{}", golden.folder);
    }
}

/// What the compressed bodies of a segment were compressed with.
fn dictionary_of(frames: &[Frame]) -> Vec<u8> {
    let found = frames.iter().find(|frame| frame.header.kind == Kind::Dictionary);
    found.map(|frame| frame.body.clone()).unwrap_or_default()
}

/// A body without compression.
#[cfg(feature = "zstd")]
fn plain(frame: &Frame, dictionary: &[u8]) -> Vec<u8> {
    if !frame.header.flags.compressed {
        return frame.body.clone();
    }
    let mut decoder = zstd::bulk::Decompressor::with_dictionary(dictionary).unwrap();
    decoder.decompress(&frame.body, 16 * 1024 * 1024).unwrap()
}

/// A body that is not compressed.
#[cfg(not(feature = "zstd"))]
fn plain(frame: &Frame, _dictionary: &[u8]) -> Vec<u8> {
    frame.body.clone()
}

/// The rewritten segment by the document: a dictionary at both ends, bodies compressed between, and
/// a footer with the states that were folded in.
#[test]
fn a_rewritten_segment_holds_what_the_document_says() {
    let path = segments(&V1_2.path("store")).remove(0);
    assert!(path.to_str().unwrap().ends_with("-0001.seg"), "{}", path.display());
    let bytes = fs::read(path).unwrap();
    let (header, frames, _) = frames(&bytes);
    let trailer = &bytes[bytes.len() - FOOTER_TRAILER_LEN..];
    let trailer = FooterTrailer::decode(trailer, header.salt, bytes.len() as u64).unwrap();
    let (first, last) = (&frames[0], frames.last().unwrap());
    assert_eq!(first.header.kind, Kind::Dictionary);
    assert_eq!((first.header.kind, &first.body), (last.header.kind, &last.body));
    assert_eq!(first.header.lsn + 1, header.base_lsn);
    let entries: Vec<&Frame> =
        frames.iter().filter(|frame| frame.header.kind == Kind::Entry).collect();
    assert_eq!(last.header.lsn, entries.last().unwrap().header.lsn);
    assert_eq!(trailer.entries as usize, entries.len());
    let mut compressed = 0;
    for (ordinal, frame) in (0..).zip(&entries) {
        let at = usize::try_from(trailer.entry_row_offset(ordinal).unwrap()).unwrap();
        let row = decode_entry_row(&bytes[at..]).unwrap();
        assert_eq!((row.lsn, row.offset), (frame.header.lsn, frame.offset));
        let at_end = matches!(row.status, Status::Archived | Status::Resolved);
        assert_eq!(frame.header.flags.compressed, at_end);
        compressed += u32::from(at_end);
    }
    assert!(compressed > 7 && compressed < trailer.entries, "{compressed}");
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
            assert!(golden.is_removed(row.lsn), "{row:?}");
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
            assert!(golden.is_removed(u64_at(row, 8)));
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
    [&V1, &V1_1].into_iter().for_each(check_footer);
}
