//! Any text as the input of an import: each line is an entry or is refused with its number, lines
//! do not disturb each other, and what was imported survives an export and another import.
#![no_main]

#[path = "../../src/bin/deadletter/import/line.rs"]
mod line;
#[path = "../../src/bin/deadletter/import/reader.rs"]
mod reader;

use std::io::Cursor;
use std::sync::Arc;

use deadletter::{Engine, Entry, Memory, NewFailure};
use deadletter_fuzz::crash;
use deadletter_fuzz::store::all;
use libfuzzer_sys::fuzz_target;

const FORM: line::Form = line::Form { trust_commands: true, attempts_max: 2 };
/// What some editors put at the beginning of a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

fuzz_target!(|data: &[u8]| {
    let lines = reader::start(Cursor::new(data.to_vec())).unwrap();
    let lines: Vec<reader::Line> = lines.iter().flat_map(|chunk| chunk.unwrap()).collect();
    check_numbers(data, &lines);
    let mut failures = Vec::new();
    for line in &lines {
        let text = line.content.as_ref().expect("no line is too long here");
        let parsed = line::parse(text, &FORM);
        if let Err(reason) = &parsed {
            assert!(!reason.is_empty(), "no reason");
        }
        // The library reads the same lines by itself and refuses no fewer.
        let own = serde_json::from_slice::<NewFailure>(text);
        assert!(own.is_err() || parsed.is_ok(), "only the library takes line {}", line.number);
        failures.extend(parsed);
    }
    round_trip(failures);
});

/// The lines and their numbers are those of a plain walk.
fn check_numbers(data: &[u8], lines: &[reader::Line]) {
    let mut wanted = Vec::new();
    for (number, line) in (1_u64..).zip(data.split(|byte| *byte == b'\n')) {
        let line = match number {
            1 => line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line),
            _ => line,
        };
        if !line.trim_ascii().is_empty() {
            wanted.push((number, line));
        }
    }
    let found: Vec<_> =
        lines.iter().map(|line| (line.number, line.content.as_deref().unwrap())).collect();
    assert_eq!(found, wanted);
}

/// Import, export, import: the same entries.
fn round_trip(failures: Vec<NewFailure>) {
    if failures.is_empty() {
        return;
    }
    let first = import(failures);
    let exported: Vec<String> =
        first.iter().map(|entry| serde_json::to_string(entry).unwrap()).collect();
    let again = exported.iter().map(|text| {
        assert!(!text.contains('\n'), "an exported entry has one line");
        line::parse(text.as_bytes(), &FORM).unwrap_or_else(|reason| panic!("{reason}: {text}"))
    });
    let second = import(again.collect());
    assert_eq!(first.len(), second.len());
    for (one, mut other) in first.into_iter().zip(second) {
        other.operation.id = one.operation.id;
        let texts = [&one, &other].map(|entry| serde_json::to_string(entry).unwrap());
        assert_eq!(texts[0], texts[1]);
        assert!(one == other);
    }
}

/// Stores what can be stored; answers with all entries.
fn import(failures: Vec<NewFailure>) -> Vec<Entry> {
    let engine = Engine::open_with(crash::config(), Arc::new(Memory::new(5))).unwrap();
    for failure in failures {
        // A time after the year 9999 or an empty type is refused here, and only here.
        drop(engine.store(failure));
    }
    let entries = all(&engine);
    engine.close().unwrap();
    entries
}
