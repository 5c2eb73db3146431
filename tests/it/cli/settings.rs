//! Settings: flags before environment before file before defaults, and what is refused.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use super::{Bench, finish};

const PUT: [&str; 5] = ["put", "--domain", "d", "--type", "T"];

#[test]
fn the_environment_wins_over_the_file() {
    let bench = Bench::new();
    let file = bench.root.path().join("deadletter.toml");
    std::fs::write(&file, "max_replay_attempts = 3\ndurability = \"written\"\n").unwrap();
    let mut command = bench.command();
    command.arg("--json").args(PUT).arg("--config").arg(&file);
    let from_file = finish(&mut command, None);
    assert_eq!(from_file.json()["durability"], "written", "{from_file:?}");
    assert_eq!(bench.json(["show", "last"])["max_retries"], 3);
    command.env("DEADLETTER_MAX_REPLAY_ATTEMPTS", "4").args(["--durability", "synced"]);
    let from_flag = finish(&mut command, None);
    assert_eq!(from_flag.json()["durability"], "synced", "{from_flag:?}");
    assert_eq!(bench.json(["show", "last"])["max_retries"], 4);
}

#[test]
fn bad_settings_are_refused_by_name_value_and_bounds() {
    let bench = Bench::new();
    let mut command = bench.command();
    let run = finish(command.args(PUT).env("DEADLETTER_MAX_REPLAY_ATTEMPTS", "11"), None);
    assert_eq!(run.code, 2, "{run:?}");
    for part in ["DEADLETTER_MAX_REPLAY_ATTEMPTS", "max_replay_attempts", "11", "1 to 10"] {
        assert!(run.stderr.contains(part), "{part} in {run:?}");
    }
    let file = bench.root.path().join("deadletter.toml");
    for (text, part) in [
        ("max_replay_attempts = 0", "1 to 10"),
        ("no_such_key = 1", "no_such_key"),
        ("durability = [1]", "durability"),
        ("expiry_hours = 721", "1 to 720"),
        ("[replay_domain_max_retries]\npayment = 11", "replay_domain_max_retries"),
        ("[replay_service_failure_type_map]\nsvc = [\"A,B\"]", "replay_service_failure_type_map"),
        ("replay_adaptive_min_items = 20\nreplay_adaptive_max_items = 10", "replay_adaptive_max"),
        ("mmap = true\nlock_wait = [1", "line 2: unclosed array"),
    ] {
        std::fs::write(&file, text).unwrap();
        let run = finish(bench.command().args(PUT).arg("--config").arg(&file), None);
        assert_eq!(run.code, 2, "{run:?}");
        assert!(run.stderr.contains(part), "{part} in {run:?}");
    }
    let run = bench.run(["list", "--config", "/no/such/file"]);
    assert_eq!(run.code, 2, "{run:?}");
    assert!(!bench.store().exists());
}

#[test]
fn settings_of_the_service_come_the_same_ways() {
    let bench = Bench::new();
    let file = bench.root.path().join("deadletter.toml");
    let text = "outbox_flush_interval_seconds = 0.25\n\
        sla_thresholds_by_domain = \"a=1\"\n\
        [replay_domain_priorities]\npayment = \"critical\"\n\"a.b\" = \"low\"\n\
        [replay_service_failure_type_map]\nsvc = [\"A\", \"B\"]\nother = \"C\"\n";
    std::fs::write(&file, text).unwrap();
    let mut command = bench.command();
    command.args(PUT).arg("--config").arg(&file).env("DEADLETTER_EXPIRY_HOURS", "24");
    let run = finish(command.env("DEADLETTER_REPLAY_DOMAIN_MAX_RETRIES", "payment=5"), None);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{run:?}");
    let mut command = bench.command();
    let run = finish(command.args(PUT).env("DEADLETTER_EXPIRY_HOURS", "0"), None);
    assert_eq!(run.code, 2, "{run:?}");
    assert!(run.stderr.contains("DEADLETTER_EXPIRY_HOURS"), "{run:?}");
}

#[test]
fn an_unknown_variable_is_a_warning() {
    let bench = Bench::new();
    let mut command = bench.command();
    let run = finish(command.args(PUT).env("DEADLETTER_NO_SUCH", "1"), None);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(run.stderr, "warning: unknown environment variable DEADLETTER_NO_SUCH\n");
    let run = finish(command.arg("--quiet"), None);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    // What a replay handler is given is not a setting.
    let mut command = bench.command();
    let run =
        finish(command.args(PUT).env("DEADLETTER_ID", "1").env("DEADLETTER_ATTEMPT", "2"), None);
    assert_eq!(run.stderr, "");
}

#[test]
fn the_directory_comes_from_flag_environment_or_state_home() {
    let bench = Bench::new();
    let state = bench.root.path().join("state");
    let mut command = bench.command();
    command.env_remove("DEADLETTER_DIR").env("XDG_STATE_HOME", &state).args(PUT);
    assert_eq!(finish(&mut command, None).code, 0);
    assert!(state.join("deadletter").is_dir());
    let mut command = bench.command();
    command.env_remove("DEADLETTER_DIR").env_remove("XDG_STATE_HOME");
    command.env("HOME", bench.root.path()).args(PUT);
    assert_eq!(finish(&mut command, None).code, 0);
    assert!(bench.root.path().join(".local/state/deadletter").is_dir());
    let odd = bench.root.path().join(OsString::from_vec(vec![b'd', 0xff]));
    let mut command = bench.command();
    assert_eq!(finish(command.args(PUT).arg("--dir").arg(&odd), None).code, 0);
    assert!(odd.is_dir());
    assert!(!bench.store().exists());
}
