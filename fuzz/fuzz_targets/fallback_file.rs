//! Any bytes as a fallback file: what was there stays, draining twice is draining once, and a file
//! of another store is left alone.
#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;

use bincode::Options;
use deadletter::format::{
    EntryBody, FALLBACK_DIR, Kind, SEGMENT_HEADER_LEN, SegmentHeader, fallback_name,
};
use deadletter::{Entry, Json, Simulated, State, Timestamp};
use deadletter_fuzz::choice::Choice;
use deadletter_fuzz::forge;
use deadletter_fuzz::store::{Small, all, open, put};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [mode, rest @ ..] = data else { return };
    let small = small();
    let uuid = match mode / 4 % 3 {
        0 => small.uuid(),
        1 => [0; 16],
        _ => [9; 16],
    };
    let mut bytes = match mode % 4 {
        0 | 1 => rest.to_vec(),
        2 => [forge::header(uuid, true).encode().as_slice(), rest].concat(),
        _ => structured(uuid, &mut Choice::new(rest)),
    };
    if matches!(mode % 4, 1 | 2) {
        forge::repair_segment(&mut bytes);
    }
    check(small, &bytes);
});

fn small() -> &'static Small {
    static SMALL: OnceLock<Small> = OnceLock::new();
    SMALL.get_or_init(Small::new)
}

fn check(small: &Small, bytes: &[u8]) {
    let disk = small.copy();
    let first = drain(small, &disk, 1, bytes);
    let kept = small.entries.iter().filter(|entry| first.contains(entry)).count();
    assert_eq!(kept, small.entries.len(), "an entry of the log is another one");
    // A file that ends in its header reads as if zeros followed.
    let mut page = bytes.to_vec();
    page.resize(SEGMENT_HEADER_LEN as usize, 0);
    let foreign = SegmentHeader::decode(&page)
        .map_or(true, |(header, _)| ![small.uuid(), [0; 16]].contains(&header.store_uuid));
    if foreign {
        assert_eq!(first.len(), small.entries.len(), "a foreign file came home");
        assert_eq!(disk.read_raw(path(small, 1)).unwrap(), bytes, "a foreign file was changed");
        return;
    }
    // The unlink did not reach the disk, and somebody copied the file.
    let second = drain(small, &disk.restarted(), 1, bytes);
    assert!(second == first, "draining twice is not draining once");
    let disk = disk.restarted();
    let third = drain(small, &disk, 2, bytes);
    assert!(third == first, "a copy of the file came home too");
}

/// Opens the store beside the file; answers with all entries.
fn drain(small: &Small, disk: &Simulated, number: u8, bytes: &[u8]) -> Vec<Entry> {
    put(disk, &path(small, number), bytes);
    let engine = open(&small.config, disk);
    let entries = all(&engine);
    let accounting = engine.accounting().unwrap();
    assert_eq!(accounting.live, entries.len() as u64);
    assert_eq!(accounting.captured, accounting.live + accounting.purged + accounting.lost);
    engine.close().unwrap();
    entries
}

fn path(small: &Small, number: u8) -> PathBuf {
    small.config.dir.join(FALLBACK_DIR).join(fallback_name(&[number; 16]))
}

/// Sound records with entries whose fields are anything.
fn structured(uuid: [u8; 16], choice: &mut Choice<'_>) -> Vec<u8> {
    let mut file = forge::header(uuid, true).encode();
    for lsn in 1..=choice.below(6) as u64 {
        let body = entry(choice);
        let options = bincode::DefaultOptions::new().with_fixint_encoding();
        let bytes = options.serialize(&body).unwrap();
        let kind = if choice.one_in(9) { Kind::Change } else { Kind::Entry };
        forge::push_record(&mut file, &forge::record_header(kind, 2, &bytes, lsn), &bytes);
    }
    file
}

fn text(choice: &mut Choice<'_>) -> String {
    let len = choice.pick(&[0, 3, 17, 200, 600]);
    String::from_utf8_lossy(choice.bytes(len)).into_owned()
}

fn entry(choice: &mut Choice<'_>) -> EntryBody {
    let mut state = State::new(Timestamp(choice.u64()), u32::from(choice.u8()));
    state.status = choice.pick(&deadletter::Status::ALL);
    state.retry_count = u32::from(choice.u8());
    state.expires_at = choice.maybe(&[Timestamp(0), Timestamp(u64::MAX), Timestamp::MAX]);
    state.not_before = choice.maybe(&[Timestamp(0), Timestamp(u64::MAX), Timestamp::MAX]);
    let key = choice.one_in(2).then(|| text(choice));
    let json = |choice: &mut Choice<'_>| {
        Json::parse(choice.pick(&["{}", r#"{"a":1}"#, "[1]", "null", " {} "])).unwrap()
    };
    EntryBody {
        uuid: [choice.u8() % 4; 16],
        key: key.or_else(|| choice.one_in(3).then(|| "key-2".to_owned())),
        domain: text(choice),
        original_domain: None,
        failure_type: text(choice),
        entity_type: Some(text(choice)),
        entity_id: None,
        entity_refs: json(choice),
        user_id: Some(i64::from(choice.u8())),
        snapshot_data: json(choice),
        error_code: text(choice),
        error_message: String::new(),
        request_data: json(choice),
        response_data: json(choice),
        metadata: json(choice),
        next_action_hint: String::new(),
        created_at: Timestamp(choice.u64()),
        runnable: choice.one_in(2),
        state,
    }
}
