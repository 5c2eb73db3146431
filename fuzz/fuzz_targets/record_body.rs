//! Any bytes as the body of a record: what is taken encodes to the same bytes, and the library
//! takes exactly what the document describes.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use bincode::Options;
use deadletter::format::{
    ChangeBody, ClockBody, DrainedBody, DropBody, EntryBody, Kind, Loss, RECORD_BODY_MAX,
    ReplaceBody, SegmentSet, SummaryBody,
};
use deadletter_fuzz::{forge, place};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;

const KINDS: [Kind; 9] = [
    Kind::Entry,
    Kind::Change,
    Kind::SegmentSet,
    Kind::Drop,
    Kind::Replace,
    Kind::Lost,
    Kind::Drained,
    Kind::Clock,
    Kind::Summary,
];

fuzz_target!(|data: &[u8]| {
    let [kind, version, body @ ..] = data else { return };
    let kind = KINDS[usize::from(*kind) % KINDS.len()];
    // Mostly the newest version; also the older ones, and one that is no version.
    let version = kind.body_version().saturating_sub(u16::from(*version % 4));
    let taken = library_takes(kind, version, body);
    if version != kind.body_version() {
        return;
    }
    let wanted = match kind {
        Kind::Entry => is_body::<EntryBody>(body),
        Kind::Change => is_body::<ChangeBody>(body),
        Kind::SegmentSet => is_body::<SegmentSet>(body),
        Kind::Drop => is_body::<DropBody>(body),
        Kind::Replace => is_body::<ReplaceBody>(body),
        Kind::Lost => is_body::<Loss>(body),
        Kind::Drained => is_body::<DrainedBody>(body),
        Kind::Clock => is_body::<ClockBody>(body),
        _ => is_body::<SummaryBody>(body),
    };
    assert_eq!(taken, wanted, "a body of a {}", kind.as_str());
});

/// Whether bytes are a body; then they are the only ones for what it says.
fn is_body<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> bool {
    let options = || {
        bincode::DefaultOptions::new()
            .with_fixint_encoding()
            .with_little_endian()
            .with_limit(u64::from(RECORD_BODY_MAX))
    };
    let Ok(body) = options().deserialize::<T>(bytes) else { return false };
    assert_eq!(options().serialize(&body).expect("it was read"), bytes);
    true
}

/// Whether the library reads a record with this body.
fn library_takes(kind: Kind, version: u16, body: &[u8]) -> bool {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    let path = PATH.get_or_init(|| place::folder().keep().join("0000000000000001-0000.seg"));
    let mut segment = forge::header([7; 16], false).encode();
    forge::push_record(&mut segment, &forge::record_header(kind, version, body, 1), body);
    fs::write(path, segment).unwrap();
    let mut frames = deadletter::dump(path, 0).expect("the header is sound");
    let frame = frames.next().expect("the record is sound").unwrap();
    assert!(frames.next().is_none());
    assert_eq!((frame.kind, frame.len), (kind.as_str(), body.len() as u64));
    frame.body != "a body of another version"
}
