//! `salvage` and `drain`: what an operator does after a disaster.

use std::fs;

use deadletter::{Config, NewFailure, spill};
use serde_json::json;

use super::Bench;

#[test]
fn drain_brings_fallback_files_home_and_counts_them() {
    let bench = Bench::new();
    assert_eq!(bench.run(["put", "--domain", "d", "--type", "T"]).code, 0);
    for _ in 0..3 {
        spill(&Config::new(bench.store()), NewFailure::new("d", "T")).unwrap();
    }
    assert_eq!(bench.json(["drain"]), json!({"drained": 3}));
    assert_eq!(bench.json(["drain"]), json!({"drained": 0}));
    assert_eq!(bench.json(["stats"])["accounting"]["live"], 4);
}

#[test]
fn salvage_copies_what_is_sound_and_names_the_rest() {
    let bench = Bench::new();
    for number in 0..5 {
        let request = format!(r#"{{"number":{number}}}"#);
        let run = bench.run(["put", "--domain", "d", "--type", "T", "--request", request.as_str()]);
        assert_eq!(run.code, 0, "{run:?}");
    }
    let log = bench.store().join("log");
    let segment = fs::read_dir(&log).unwrap().map(|name| name.unwrap().path());
    let segment = segment.filter(|path| path.extension().is_some_and(|ext| ext == "seg")).min();
    let segment = segment.unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    let place = bytes.windows(12).position(|bytes| bytes == br#"{"number":2}"#).unwrap();
    bytes[place + 10] = b'7';
    fs::write(&segment, bytes).unwrap();

    let (from, to) = (bench.store(), bench.store().with_file_name("rescued"));
    let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
    let run = bench.run(["salvage", from, "--to", to, "--json"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.stderr.contains("1 entries are lost"), "{run:?}");
    let report: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((&report["entries"], &report["lost"]), (&json!(4), &json!(1)));
    assert_eq!(report["damage"][0]["lsn_from"], report["damage"][0]["lsn_to"]);
    let stats = bench.run(["--dir", to, "stats", "--json"]);
    let stats: serde_json::Value = serde_json::from_str(&stats.stdout).unwrap();
    assert_eq!(stats["accounting"]["live"], 4);

    let again = bench.run(["salvage", from, "--to", to]);
    assert_eq!(again.code, 2, "{again:?}");
    let missing = bench.run(["salvage", "/nowhere/at/all", "--to", to]);
    assert_eq!(missing.code, 2, "{missing:?}");
}
