//! The same loop over the command line: `deadletter import --ack` dies at any moment.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Chance, kill_after, kills, reopen, request};

fn start_import(dir: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_deadletter"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DEADLETTER_") {
            command.env_remove(name);
        }
    }
    for name in ["REQUEST_DATA_MAX_BYTES", "FIELD_MAX_BYTES"] {
        command.env(format!("DEADLETTER_{name}"), "16384");
    }
    command.env("DEADLETTER_SEGMENT_BYTES", "65536");
    command.arg("--dir").arg(dir).args(["import", "--ack", "--batch", "7", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

fn line(name: &str) -> String {
    let request = request(name);
    format!(
        "{{\"domain\": \"payment\", \"failure_type\": \"KILLED\", \"entity_type\": \"name\", \
         \"entity_id\": \"{name}\", \"key\": \"{name}\", \"request_data\": {request}}}\n"
    )
}

/// Feeds lines until nobody reads them any more.
fn feed(child: &mut Child, run: u64) -> std::thread::JoinHandle<()> {
    let mut stdin = child.stdin.take().unwrap();
    std::thread::spawn(move || {
        for counter in 1_u64.. {
            if stdin.write_all(line(&format!("{run}-0-{counter}")).as_bytes()).is_err() {
                return;
            }
        }
    })
}

#[test]
fn a_killed_import_loses_nothing_acknowledged() {
    let mut chance = Chance::new();
    let dir = tempfile::tempdir().unwrap();
    let mut known: BTreeSet<String> = BTreeSet::new();
    let mut acknowledged = 0;
    // A third of the kills: the log beneath is the one that the other writers try.
    for run in 1..=kills() / 3 {
        let mut child = start_import(dir.path());
        let feeder = feed(&mut child, run);
        let lines = kill_after(child, Duration::from_millis(5 + chance.below(150)));
        feeder.join().unwrap();
        let found = reopen(dir.path());
        for line in &lines {
            let ack: serde_json::Value = serde_json::from_str(line).unwrap();
            if ack.get("dlq_id").is_none() {
                continue;
            }
            let name = format!("{run}-0-{}", ack["line"]);
            let entry = found.get(&name).unwrap_or_else(|| panic!("{name} is missing: {line}"));
            assert_eq!(ack["dlq_id"], entry.operation.id.to_string(), "{line}");
            assert_eq!(ack["durability"], "synced", "{line}");
            acknowledged += 1;
        }
        let gone = known.iter().find(|name| !found.contains_key(*name));
        assert_eq!(gone, None, "found after an earlier kill, and not after this one");
        known = found.into_keys().collect();
    }
    println!("{acknowledged} acknowledged entries, none missing");
    assert!(acknowledged > 0);
}
