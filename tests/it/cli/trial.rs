//! What a first user met: replays that are interrupted, and programs that do not start.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use super::{Bench, Run, finish};

/// Puts an executable file into the bench; answers with its path.
fn program(bench: &Bench, name: &str, text: &str) -> String {
    let path = bench.root.path().join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

fn put(bench: &Bench, count: usize) {
    for _ in 0..count {
        bench.json(["put", "--domain", "orders", "--type", "TIMEOUT"]);
    }
}

fn replay(bench: &Bench, more: &[&str], variables: &[(&str, &str)]) -> (Run, Value) {
    let mut command = bench.command();
    command.args(["--json", "replay"]).args(more).envs(variables.iter().copied());
    let run = finish(&mut command, None);
    let report = run.json();
    (run, report)
}

/// The counts of a report, in the order of the page, and what is still due.
fn counts(report: &Value) -> [u64; 6] {
    ["processed", "success", "failed", "skipped", "throttled", "remaining"]
        .map(|key| report[key].as_u64().unwrap_or_else(|| panic!("{key} in {report}")))
}

/// The status of an entry, its attempts that count, and how each of them ended.
fn state(bench: &Bench, id: &str) -> Value {
    let entry = bench.json(["show", id]);
    let attempts = entry["attempts"].as_array().unwrap().iter();
    let outcomes: Vec<&Value> = attempts.map(|attempt| &attempt["outcome"]).collect();
    json!([entry["status"], entry["retry_count"], outcomes, entry["not_before"], entry["lease"]])
}

#[test]
fn an_interrupted_replay_touches_no_other_entry() {
    let untouched = json!(["pending", 0, [], null, null]);
    for (more, variables) in [
        (&[][..], &[][..]),
        // The pace would let the next one start in a quarter of an hour.
        (&["--rate", "0.001"], &[]),
        // Longer than a handler that comes too late asks to be left alone.
        (&[], &[("DEADLETTER_THROTTLE_REPLAY_INTERVAL_MS", "10000")]),
    ] {
        let bench = Bench::new();
        put(&bench, 3);
        let handler = program(&bench, "interrupt", "#!/bin/sh\nkill -INT $PPID\n");
        let args = [&["--exec", &handler], more].concat();
        let (run, report) = replay(&bench, &args, variables);
        assert_eq!((run.code, counts(&report)), (75, [1, 1, 0, 0, 0, 2]), "{run:?}");
        assert_eq!(report["early_stop_reason"], "interrupted", "{report}");
        assert_eq!(state(&bench, "1")[0], "resolved");
        assert_eq!(state(&bench, "2"), untouched);
        assert_eq!(state(&bench, "3"), untouched);
        let (run, report) = replay(&bench, &["--exec", "true"], &[]);
        assert_eq!((run.code, counts(&report)), (0, [2, 2, 0, 0, 0, 0]), "at once: {run:?}");
    }
}

#[test]
fn an_interrupt_that_our_caller_ignores_stops_nothing() {
    let bench = Bench::new();
    put(&bench, 2);
    let handler = program(&bench, "interrupt", "#!/bin/sh\nkill -INT $PPID\n");
    let background = program(&bench, "background", "#!/bin/sh\ntrap '' INT\nexec \"$@\"\n");
    let mut command = std::process::Command::new(background);
    command.arg(env!("CARGO_BIN_EXE_deadletter")).arg("--dir").arg(bench.store());
    let run = finish(command.args(["--json", "replay", "--exec", &handler]), None);
    assert_eq!((run.code, counts(&run.json())), (0, [2, 2, 0, 0, 0, 0]), "{run:?}");
}

#[test]
fn a_replay_that_waits_for_the_store_ends_when_it_is_asked() {
    let bench = Bench::new();
    put(&bench, 1);
    // The second replay waits for the first, whose handler asks it to end. It has the lock's file
    // open by then.
    let handler = program(
        &bench,
        "handler",
        &format!(
            "#!/bin/sh\n\
             DEADLETTER_LOCK_WAIT=60 '{}' replay --exec true &\n\
             until ls -l /proc/$!/fd | grep -q LOCK; do sleep 0.02; done\n\
             kill -TERM $!\n\
             wait $!\n\
             echo \"ended with $?\" >&2\n",
            env!("CARGO_BIN_EXE_deadletter")
        ),
    );
    let (run, report) = replay(&bench, &["--exec", &handler], &[]);
    assert_eq!((run.code, counts(&report)), (0, [1, 1, 0, 0, 0, 0]), "{run:?}");
    assert!(run.stderr.contains("ended with 143"), "by the signal: {run:?}");
}

#[test]
fn a_program_that_the_system_would_not_start_is_found_first() {
    let bench = Bench::new();
    put(&bench, 1);
    for (name, text, reason) in [
        ("plain", "exit 0\n", "#!/bin/sh"),
        ("empty", "", "#!/bin/sh"),
        ("lost", "#!/no/such/shell -e\nexit 0\n", "/no/such/shell"),
        ("foreign", "#!/bin/sh\r\nexit 0\r\n", "/bin/sh\\r"),
    ] {
        let exec = program(&bench, name, text);
        for verb in [&["replay"][..], &["retry", "1"], &["redrive", "1", "--reason", "why"]] {
            let run = bench.run(verb.iter().chain(&["--exec", &exec]));
            assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{verb:?} {run:?}");
            assert!(run.stderr.contains("--exec") && run.stderr.contains(reason), "{run:?}");
        }
    }
    assert_eq!(state(&bench, "1"), json!(["pending", 0, [], null, null]));
    let exec = program(&bench, "spaced", "#! /bin/sh -e\nexit 0\n");
    assert_eq!(bench.run(["replay", "--exec", &exec]).code, 0);
}

#[test]
fn a_program_that_goes_away_spends_nobodys_attempts() {
    let bench = Bench::new();
    put(&bench, 4);
    let handler = program(&bench, "once", "#!/bin/sh\nrm \"$0\"\n");
    let (run, report) = replay(&bench, &["--exec", &handler], &[]);
    assert_eq!((run.code, counts(&report)), (1, [2, 1, 0, 0, 1, 2]), "{run:?}");
    assert_eq!(report["early_stop_reason"], "failed", "{report}");
    let error = report["errors"][0].as_str().unwrap();
    assert!(error.contains("cannot start") && error.contains("once"), "{error}");
    let second = state(&bench, "2");
    assert_eq!((&second[0], &second[1]), (&json!("pending"), &json!(0)), "not charged: {second}");
    assert_eq!(state(&bench, "3"), json!(["pending", 0, [], null, null]));
    // A person hears of it, too.
    let handler = program(&bench, "gone", "#!/bin/sh\nrm \"$0\"\nexit 1\n");
    assert_eq!(bench.run(["retry", "3", "--exec", &handler]).code, 1, "its own failure counts");
    assert_eq!(state(&bench, "3")[1], 1);
}

#[test]
fn a_replay_says_why_it_did_nothing() {
    let bench = Bench::new();
    let off = [("DEADLETTER_ENABLED", "false")];
    let words = |more: &[&str], variables: &[(&str, &str)]| {
        let mut command = bench.command();
        command.args(["replay", "--exec", "true"]).args(more).envs(variables.iter().copied());
        finish(&mut command, None)
    };
    put(&bench, 1);
    let run = words(&["--max", "0"], &[]);
    assert_eq!((run.code, run.stdout.as_str()), (0, "0 delivered, 0 failed\n"), "{run:?}");
    assert_eq!(run.stderr, "still due: 1\n");
    for more in [&[][..], &["--dry-run"]] {
        let run = words(more, &off);
        assert_eq!(run.code, 0, "{run:?}");
        assert!(run.stderr.contains("the setting enabled is false"), "{more:?} {run:?}");
    }
    let run = words(&["--rate", "0"], &[]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("0.001 to 100000") && !run.stderr.contains("rate_max"), "{run:?}");
    assert_eq!(words(&[], &[]).stdout, "1 delivered, 0 failed\n");
    let run = words(&[], &[]);
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("nothing is due\n", ""));
    put(&bench, 2);
    let busy = program(&bench, "busy", "#!/bin/sh\necho 'retry-after: 9'\nexit 75\n");
    let run = bench.run(["--quiet", "replay", "--exec", &busy]);
    assert_eq!((run.code, run.stderr.as_str()), (75, ""), "{run:?}");
    let run = bench.run(["replay", "--exec", &busy]);
    let stopped = "stopped early: the other side asks to be left alone; come back in 9 s\n";
    assert!(run.stderr.contains(stopped), "{run:?}");
}

#[test]
fn a_refused_argument_is_escaped() {
    let bench = Bench::new();
    let hostile = "a\u{1b}[31mb\rc\u{9b}d\u{202e}e";
    for args in [&["show", hostile][..], &["list", "--status", hostile], &[hostile]] {
        let run = bench.run(args);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{run:?}");
        let bad = |character: char| character != '\n' && character.is_control();
        assert!(!run.stderr.contains(bad) && !run.stderr.contains('\u{202e}'), "{run:?}");
        assert!(run.stderr.contains("b\\rc\\x9bd\\u{202e}e"), "{run:?}");
    }
}

#[test]
fn a_list_may_be_an_array_in_the_file() {
    let bench = Bench::new();
    let file = program(&bench, "settings.toml", "deny_keys = [\"token\", \"pin\"]\n");
    let request = r#"{"token": "t-secret", "pin": 1234, "amount": 5}"#;
    let args = ["put", "--domain", "d", "--type", "T", "--request", request, "--config", &file];
    assert_eq!(bench.run(args).code, 0);
    let entry = bench.run(["--json", "show", "last"]).stdout;
    assert!(!entry.contains("t-secret") && !entry.contains("1234"), "{entry}");
    assert!(entry.contains(r#""amount": 5"#), "{entry}");
    for bad in ["deny_keys = [\"a,b\"]\n", "deny_keys = [[1]]\n", "lock_wait = [1, 2]\n"] {
        let file = program(&bench, "bad.toml", bad);
        let run = bench.run(["list", "--config", &file]);
        assert_eq!(run.code, 2, "{bad} {run:?}");
        assert!(run.stderr.contains(&bad[..9]), "{run:?}");
    }
}

#[test]
fn a_captured_command_whose_directory_is_gone_says_so() {
    let bench = Bench::new();
    let place = bench.root.path().join("gone");
    std::fs::create_dir(&place).unwrap();
    let mut command = bench.command();
    command.current_dir(&place).args(["run", "--", "sh", "-c", "exit 4"]);
    assert_eq!(finish(&mut command, None).code, 4);
    std::fs::remove_dir(&place).unwrap();
    let (run, report) = replay(&bench, &[], &[]);
    assert_eq!((run.code, counts(&report)), (1, [1, 0, 1, 0, 0, 0]), "{run:?}");
    let error = report["errors"][0].as_str().unwrap();
    assert!(error.contains("directory") && error.contains("gone"), "{error}");
}
