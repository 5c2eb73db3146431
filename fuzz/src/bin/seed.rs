//! Writes the seed corpus: what the writer of the library makes, and choices of a fixed seed.
//!
//! `seed DIR` writes `DIR/<target>/<name>`; the same bytes on every machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use deadletter::format::{
    CHECKPOINT_NAMES, FALLBACK_DIR, Kind, RECORD_HEADER_LEN, RecordHeader, SEGMENT_HEADER_LEN,
    SegmentHeader,
};
use deadletter::{
    Cause, Config, Decision, DlqConfig, Durability, Entry, Env, EvictRequest, Json, NewFailure,
    Setting, Simulated,
};
use deadletter_fuzz::crash::Chance;
use deadletter_fuzz::store::{Small, all, open, segments};

/// Bodies of each kind of record.
const BODIES: usize = 3;
/// Longer files add nothing that a short one has not.
const BYTES_MAX: usize = 16 * 1024;

/// The seeds of one target.
struct Seeds<'a> {
    folder: &'a Path,
    target: &'static str,
}

impl Seeds<'_> {
    fn put(&self, name: &str, parts: &[&[u8]]) {
        let folder = self.folder.join(self.target);
        fs::create_dir_all(&folder).expect("the folder of the seeds");
        fs::write(folder.join(name), parts.concat()).expect("a seed");
    }

    /// Inputs that are nothing but choices.
    fn choices(&self, modes: &[u8], lens: &[usize]) {
        let mut chance = Chance(20_260_701);
        for (index, len) in lens.iter().enumerate() {
            let mut bytes: Vec<u8> = (0..*len).map(|_| chance.below(256) as u8).collect();
            if let (Some(first), Some(mode)) =
                (bytes.first_mut(), modes.get(index % modes.len().max(1)))
            {
                *first = *mode;
            }
            self.put(&format!("choices-{index:02}"), &[&bytes]);
        }
    }
}

fn main() {
    let folder = std::env::args_os().nth(1).expect("usage: seed DIR");
    let folder = Path::new(&folder);
    let seeds = |target| Seeds { folder, target };
    let small = Small::new();
    let files = rich_segments(&small);
    segment_decode(&seeds("segment_decode"), &files);
    record_body(&seeds("record_body"), &files);
    fallback_file(&seeds("fallback_file"), &small);
    index_checkpoint(&seeds("index_checkpoint"), &small);
    import_jsonl(&seeds("import_jsonl"), &small);
    settings(&seeds("settings"));
    let lens = [12, 20, 31, 50, 64, 90, 120, 170, 240, 400];
    seeds("segment_open_mutated").choices(&[0, 1, 2], &lens);
    seeds("op_sequence").choices(&[], &[24, 40, 40, 60, 60, 80, 100, 120, 160, 200, 250, 300]);
    seeds("differential_index").choices(&[], &[30, 60, 90, 120, 200, 300, 400, 600]);
}

/// Segments with every kind of record and with footers, none of them long: the active one of each
/// step of a life.
fn rich_segments(small: &Small) -> Vec<Vec<u8>> {
    let disk = small.copy();
    let mut found = Vec::new();
    let mut look = |disk: &Simulated| {
        for path in segments(&small.config, disk) {
            let mut bytes = disk.read_raw(path).expect("a segment");
            let len = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            bytes.truncate(len.next_multiple_of(8));
            if bytes.len() <= BYTES_MAX && !found.contains(&bytes) {
                found.push(bytes);
            }
        }
    };
    let engine = open(&small.config, &disk);
    let request = EvictRequest { count: 3, terminal: true, compress: true, domain: None };
    engine.evict(&request).expect("an eviction");
    look(&disk);
    let long: Vec<_> = all(&engine)
        .iter()
        .filter(|entry| entry.operation.request_data.len() > 1_000)
        .map(|entry| entry.operation.id)
        .collect();
    let remove = &mut |_: &Entry| Ok(Decision::Remove(Cause::Purged));
    engine.change_all(&long, remove).expect("a removal");
    engine.compact(&mut |_, _| {}).expect("a compaction");
    disk.set_wall_ms(disk.wall_ms() + 400 * 24 * 3_600_000);
    let env: Arc<dyn Env> = Arc::new(disk.clone());
    deadletter::spill_with(&small.config, &env, failure(77)).expect("a spill");
    engine.store(failure(78)).expect("a store");
    look(&disk);
    engine.close().expect("a close");
    drop(engine);
    // What a crash leaves is carried, and the spilled entry comes home.
    let disk = disk.restarted();
    let engine = open(&small.config, &disk);
    let batch = vec![failure(79), failure(80)];
    engine.store_batch(batch, Durability::Synced).expect("a batch");
    drop(engine);
    let disk = disk.restarted();
    drop(open(&small.config, &disk));
    look(&disk);
    found
}

fn failure(number: u32) -> NewFailure {
    let json = Json::object(format!(r#"{{"n":{number}}}"#)).expect("an object");
    NewFailure::new("mail", "REFUSED").request(json).key(format!("spilled-{number}"))
}

fn segment_decode(seeds: &Seeds<'_>, files: &[Vec<u8>]) {
    for (index, bytes) in files.iter().enumerate() {
        seeds.put(&format!("segment-{index:02}"), &[&[0], bytes]);
        let records = bytes.get(SEGMENT_HEADER_LEN as usize..).unwrap_or_default();
        seeds.put(&format!("records-{index:02}"), &[&[2], records]);
    }
    seeds.choices(&[3], &[30, 100, 300, 900, 2_000]);
}

fn record_body(seeds: &Seeds<'_>, files: &[Vec<u8>]) {
    let kinds = [
        "entry",
        "change",
        "segment_set",
        "drop",
        "replace",
        "lost",
        "drained",
        "clock",
        "summary",
    ];
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    for bytes in files {
        for (kind, body) in records(bytes) {
            let Some(index) = kinds.iter().position(|name| *name == kind.as_str()) else {
                continue;
            };
            let count = counts.entry(index).or_default();
            if *count < BODIES && body.len() < 4_096 {
                let name = format!("{}-{count}", kind.as_str());
                seeds.put(&name, &[&[index as u8, 0], body]);
                *count += 1;
            }
        }
    }
    // A loss is only written when damage is found, see `tests/data`; its body has a fixed length.
    seeds.put("lost-0", &[&[5, 0], &[0; 48]]);
}

/// The records of a segment, one after the other.
fn records(bytes: &[u8]) -> Vec<(Kind, &[u8])> {
    let mut found = Vec::new();
    let page = &bytes[..SEGMENT_HEADER_LEN as usize];
    let Ok((header, _)) = SegmentHeader::decode(page) else { return found };
    let mut offset = SEGMENT_HEADER_LEN;
    while let Some(rest) = bytes.get(offset as usize..)
        && let Ok(record) = RecordHeader::decode(rest, header.salt, offset)
        && let Some(body) =
            rest.get(RECORD_HEADER_LEN..RECORD_HEADER_LEN + record.body_len as usize)
    {
        found.push((record.kind, body));
        offset += record.record_len();
    }
    found
}

fn fallback_file(seeds: &Seeds<'_>, small: &Small) {
    let disk = small.copy();
    let env: Arc<dyn Env> = Arc::new(disk.clone());
    for number in 0..3 {
        deadletter::spill_with(&small.config, &env, failure(number)).expect("a spill");
    }
    let folder = small.config.dir.join(FALLBACK_DIR);
    for (index, (name, _)) in disk.list(&folder).expect("the folder").iter().enumerate() {
        let bytes = disk.read_raw(folder.join(name)).expect("a file");
        let len = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        seeds.put(&format!("spilled-{index}"), &[&[0], &bytes[..len.next_multiple_of(8)]]);
        seeds.put(&format!("records-{index}"), &[&[2], &bytes[SEGMENT_HEADER_LEN as usize..len]]);
    }
    seeds.choices(&[3, 7, 11], &[60, 100, 200, 400, 800, 1_600]);
}

fn index_checkpoint(seeds: &Seeds<'_>, small: &Small) {
    let slots = CHECKPOINT_NAMES.map(|name| {
        let mut bytes = small.disk.read_raw(small.config.dir.join(name)).unwrap_or_default();
        bytes.truncate(112);
        bytes.resize(112, 0);
        bytes
    });
    for mode in [0, 1] {
        seeds.put(&format!("slots-{mode}"), &[&[mode], &slots[0], &slots[1]]);
    }
    seeds.choices(&[3, 7], &[40, 60, 90, 90, 120, 120, 200, 200]);
}

fn import_jsonl(seeds: &Seeds<'_>, small: &Small) {
    let lines: Vec<String> = small
        .entries
        .iter()
        .filter(|entry| entry.operation.request_data.len() < 1_000)
        .map(|entry| serde_json::to_string(entry).expect("an entry"))
        .collect();
    for (index, line) in lines.iter().step_by(3).take(6).enumerate() {
        seeds.put(&format!("line-{index}"), &[line.as_bytes(), b"\n"]);
    }
    seeds.put("lines", &[lines[..4].join("\n").as_bytes()]);
    let texts: [(&str, &str); 8] = [
        ("short", r#"{"domain":"mail","type":"TIMEOUT"}"#),
        ("mark", "\u{feff}{\"domain\":\"mail\",\"type\":\"T\"}\r\n\r\n \n{\"domain\":1}\n"),
        (
            "names",
            r#"{"domain":"m","type":"T","request":{"a":1},"snapshot":{},"hint":"h","action":"a"}"#,
        ),
        (
            "status",
            r#"{"domain":"m","type":"T","status":"archived","archived_at":"2026-01-31T12:00:00Z"}"#,
        ),
        (
            "numbers",
            r#"{"domain":"m","type":"T","user_id":-9223372036854775808,"max_retries":4294967295}"#,
        ),
        ("escapes", r#"{"domain":"\u00e9\ud83d\ude00","type":"\u0000","request":{"\n":"\\"}}"#),
        ("twice", r#"{"domain":"m","domain":"n","type":"T","key":"k"}"#),
        ("array", r#"["m","T"]"#),
    ];
    for (name, text) in texts {
        seeds.put(name, &[text.as_bytes()]);
    }
    let nested = format!(
        r#"{{"domain":"m","type":"T","request":{{"a":{}{}}}}}"#,
        "[".repeat(200),
        "]".repeat(200)
    );
    seeds.put("nested", &[nested.as_bytes()]);
}

fn settings(seeds: &Seeds<'_>) {
    let mut text = String::new();
    fn lines<C>(text: &mut String, settings: &[Setting<C>]) {
        for setting in settings {
            text.push_str(&format!("{} = {:?}\n", setting.name, setting.default));
        }
    }
    lines(&mut text, Config::SETTINGS);
    seeds.put("engine", &[&[0], text.as_bytes()]);
    text.clear();
    lines(&mut text, DlqConfig::SETTINGS);
    seeds.put("service", &[&[0], text.as_bytes()]);
    let forms = "dir = '/else'\nsegment_bytes = 1048576\nenabled = true\n[domain_priorities]\nmail = 'high'\n";
    seeds.put("forms", &[&[0], forms.as_bytes()]);
    seeds.choices(&[1, 2], &[20, 40, 80, 160, 320, 640]);
}
