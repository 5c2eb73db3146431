//! Handlers and users that do not behave: signals in the middle of a replay, and programs that
//! close, hold or flood their pipes.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use super::{Bench, finish};

/// A bench with some entries, and a handler that notes whom it runs for.
fn bench(entries: usize, handler: &str) -> (Bench, String, Vec<String>) {
    let bench = Bench::new();
    let path = bench.root.path().join("handler");
    let runs = bench.root.path().join("runs");
    let runs = runs.to_str().unwrap();
    let text = format!("#!/bin/sh\necho \"$DEADLETTER_ID\" >>{runs}\n{handler}\n");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let put = ["put", "--domain", "orders", "--type", "TIMEOUT"];
    let ids = (0..entries).map(|_| bench.json(put)["dlq_id"].as_str().unwrap().to_owned());
    let ids = ids.collect();
    (bench, path.to_str().unwrap().to_owned(), ids)
}

fn runs(bench: &Bench) -> usize {
    std::fs::read_to_string(bench.root.path().join("runs")).unwrap_or_default().lines().count()
}

/// A signal arrives while the first handler runs.
fn check_signal(signal: &str, interval_ms: &str, more: &[&str]) {
    let (bench, handler, ids) = bench(5, &format!("kill -{signal} $PPID"));
    let mut command = bench.command();
    command.env("DEADLETTER_THROTTLE_REPLAY_INTERVAL_MS", interval_ms);
    command.args(["--json", "replay", "--exec", &handler]).args(more);
    let run = finish(&mut command, None);
    assert_eq!((run.code, runs(&bench)), (75, 1), "{run:?}");
    let report = run.json();
    assert_eq!(report["early_stop_reason"], "interrupted", "{report}");
    assert_eq!((&report["success"], &report["processed"]), (&json!(1), &json!(1)), "{report}");
    assert_eq!(report["remaining"], 4, "{report}");
    for (number, id) in ids.iter().enumerate() {
        let entry = bench.json(["show", id]);
        let status = if number == 0 { "resolved" } else { "pending" };
        assert_eq!(entry["status"], status, "{entry}");
        let attempts = entry["attempts"].as_array().map_or(0, Vec::len);
        assert_eq!(attempts, usize::from(number == 0), "{entry}");
        assert_eq!(entry["not_before"], Value::Null, "{entry}");
    }
}

#[test]
fn a_signal_lets_the_running_handler_end_and_starts_no_other() {
    check_signal("TERM", "100", &[]);
    check_signal("INT", "100", &[]);
}

#[test]
fn a_signal_ends_a_replay_that_may_wait_long() {
    check_signal("TERM", "10000", &[]);
}

#[test]
fn a_signal_ends_a_slow_replay_before_its_next_permit() {
    check_signal("TERM", "100", &["--rate", "0.01"]);
}

/// A handler that misbehaves still succeeds, and stdout has the report alone.
fn check_handler(handler: &str) -> Bench {
    let (bench, handler, _) = bench(2, handler);
    let run = bench.run(["--json", "replay", "--exec", &handler]);
    assert_eq!((run.code, runs(&bench)), (0, 2), "{run:?}");
    assert_eq!(run.stdout.lines().count(), 1, "{run:?}");
    assert_eq!(run.json()["success"], 2);
    bench
}

#[test]
fn a_handler_may_close_its_stdin() {
    check_handler("exec <&-; exit 0");
}

#[test]
fn a_handler_may_print_megabytes() {
    check_handler("head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2");
}

#[test]
fn a_handler_may_leave_a_process_behind_that_holds_its_pipes() {
    let bench = check_handler("sleep 1000 & echo $! >>${0%/*}/left");
    let left = std::fs::read_to_string(bench.root.path().join("left")).unwrap();
    let killed = std::process::Command::new("kill").args(left.lines()).status().unwrap();
    assert!(killed.success(), "they held the pipes until now");
}
