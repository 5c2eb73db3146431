//! What `doctor` finds, that it leaves nothing behind, and that it disturbs nobody.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use deadletter::{Config, Engine, NewFailure};
use serde_json::Value;

use super::Bench;

fn files(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for name in fs::read_dir(folder).unwrap() {
        let path = name.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let len = fs::metadata(&path).unwrap().len();
            found.push((path, len));
        }
    }
    found.sort();
    found
}

fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report.as_array().unwrap();
    checks.iter().find(|check| check["check"] == name).unwrap()
}

#[test]
fn every_check_has_its_word_and_nothing_is_left_behind() {
    let bench = Bench::new();
    assert_eq!(bench.run(["put", "--domain", "d", "--type", "T"]).code, 0);
    let before = files(&bench.store());
    let report = bench.json(["doctor"]);
    assert_eq!(files(&bench.store()), before);
    let names: Vec<_> = report.as_array().unwrap().iter().map(|check| &check["check"]).collect();
    assert_eq!(names, ["sync", "ballast", "space", "clock", "modes", "lock", "store"]);
    for check in report.as_array().unwrap() {
        let warns = check["status"] == "warn";
        assert!(warns || check["status"] == "ok", "{check}");
        assert_eq!(check.get("hint").is_some(), warns, "{check}");
        assert!(!check["message"].as_str().unwrap().is_empty());
    }
    assert_eq!(check(&report, "modes")["status"], "ok");
    assert_eq!(check(&report, "store")["status"], "ok");
    let run = bench.run(["doctor"]);
    assert!(run.stdout.contains("no process writes the store"), "{run:?}");
}

#[test]
fn open_rights_and_a_running_owner_are_named() {
    let bench = Bench::new();
    let engine = Engine::open(Config::new(bench.store())).unwrap();
    engine.store(NewFailure::new("d", "T")).unwrap();
    let open = bench.store().join("STORE");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    let report = bench.json(["doctor"]);
    let modes = check(&report, "modes");
    assert_eq!(modes["status"], "warn");
    assert!(modes["message"].as_str().unwrap().contains("STORE"), "{modes}");
    let lock = check(&report, "lock")["message"].as_str().unwrap().to_owned();
    assert!(lock.contains(&format!("process {}", std::process::id())), "{lock}");
    engine.store(NewFailure::new("d", "T")).unwrap();
    engine.close().unwrap();
}

#[test]
fn a_store_without_room_fails_the_check_of_space() {
    let bench = Bench::new();
    let settings = |verb: &[&str]| {
        let mut command = bench.command();
        command.env("DEADLETTER_MAX_BYTES", "1048576");
        command.env("DEADLETTER_OVERFLOW_STRATEGY", "reject");
        command.env("DEADLETTER_REQUEST_DATA_MAX_BYTES", "32768");
        command.env("DEADLETTER_FIELD_MAX_BYTES", "32768");
        super::finish(command.args(verb), None)
    };
    let request = format!("{{\"x\":\"{}\"}}", "y".repeat(30_000));
    let put = ["put", "--domain", "d", "--type", "T", "--request", &request];
    let full = (0..60).map(|_| settings(&put)).find(|run| run.code != 0).unwrap();
    assert_eq!(full.code, 8, "{full:?}");
    assert!(full.stderr.contains("max_bytes"), "{full:?}");
    let run = settings(&["--json", "doctor"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert_eq!(check(&run.json(), "space")["status"], "fail");
    let stats = settings(&["--json", "stats"]).json();
    assert_eq!(stats["health"]["level"], "emergency");
    assert_eq!(stats["health"]["status"], "degraded");
    let bytes = &stats["bytes"];
    let parts = ["log", "index", "fallback", "quarantine", "ballast", "prepared"];
    let sum: u64 = parts.iter().map(|part| bytes[part].as_u64().unwrap()).sum();
    let small = ["STORE", "LOCK", "CKPT.0", "CKPT.1"].map(|name| bench.store().join(name));
    let walked = files(&bench.store());
    let walked: u64 =
        walked.iter().filter(|(path, _)| !small.contains(path)).map(|(_, len)| len).sum();
    assert_eq!(sum, walked, "{bytes}");
    assert_eq!(bytes["limit"], 1_048_576);
    assert_eq!(settings(&["resolve", "1"]).code, 0);
}
