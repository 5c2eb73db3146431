//! Replaying from the command line: captured commands, handlers of the user's, and their ends.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use super::server::{Server, closed_port};
use super::{Bench, Run, finish};

/// Puts an executable script into the bench; answers with its path.
fn script(bench: &Bench, name: &str, text: &str) -> String {
    let path = bench.root.path().join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

fn put(bench: &Bench, more: &[&str]) -> String {
    let args = ["put", "--domain", "orders", "--type", "TIMEOUT"];
    let stored = bench.json(args.iter().chain(more));
    stored["dlq_id"].as_str().unwrap().to_owned()
}

fn show(bench: &Bench, id: &str) -> Value {
    bench.json(["show", id])
}

fn replay(bench: &Bench, more: &[&str]) -> (Run, Value) {
    let run = bench.run(["--json", "replay"].iter().chain(more));
    let report = run.json();
    (run, report)
}

/// The counts of a report, in the order of the page.
fn counts(report: &Value) -> [u64; 5] {
    ["processed", "success", "failed", "skipped", "throttled"]
        .map(|key| report[key].as_u64().unwrap_or_else(|| panic!("{key} in {report}")))
}

fn lines(bench: &Bench, name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(bench.root.path().join(name)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn twenty_captured_posts_are_delivered_byte_for_byte() {
    let bench = Bench::new();
    let port = closed_port();
    let url = format!("http://127.0.0.1:{port}/hook");
    let bodies: Vec<Vec<u8>> = (0..20_u8)
        .map(|number| {
            let odd = [number, 0, 255, 254, b'\n', b'"', 0xc3, 0x28, b'\r', b'\n'];
            odd.repeat(usize::from(number) * 50 + 1)
        })
        .collect();
    for body in &bodies {
        let args = ["run", "--domain", "hooks", "--", "curl", "-fsS", "-X", "POST"];
        let data = ["--data-binary", "@-", &url];
        let run = bench.run_with_input(args.iter().chain(&data), body);
        assert_eq!(run.code, 7, "curl's own code: {run:?}");
    }
    let server = Server::start(port, "200 OK");
    let (run, report) = replay(&bench, &[]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(counts(&report), [20, 20, 0, 0, 0], "{report}");
    assert_eq!(report["remaining"], 0);
    assert_eq!(report["early_stop_reason"], Value::Null);
    let requests = server.requests();
    assert!(requests.iter().all(|request| request.method == "POST" && request.path == "/hook"));
    let delivered: Vec<Vec<u8>> = requests.into_iter().map(|request| request.body).collect();
    assert_eq!(delivered, bodies, "in order, byte for byte");
    let resolved = bench.json(["list", "--status", "resolved", "--page-size", "50"]);
    assert_eq!(resolved["total_count"], 20);
    assert_eq!(resolved["results"][0]["resolution_type"], "auto_replay");
    assert_eq!(counts(&replay(&bench, &[]).1), [0; 5], "nothing is delivered twice");
}

#[test]
fn a_server_that_asks_to_wait_stops_the_replay_and_spends_nothing() {
    let bench = Bench::new();
    let server = Server::start(0, "503 Busy\r\nRetry-After: 120");
    let ids: Vec<String> = (0..5).map(|_| put(&bench, &[])).collect();
    let url = format!("http://127.0.0.1:{}/", server.port);
    let handler = script(
        &bench,
        "deliver",
        &format!(
            "head=$(curl -sS -X POST --data-binary @- -D - -o /dev/null {url}) || exit 1\n\
             case $head in *' 200 '*) exit 0 ;; esac\n\
             wait=$(printf '%s' \"$head\" | tr -d '\\r' | sed -n 's/^[Rr]etry-[Aa]fter: //p')\n\
             echo \"retry-after: $wait\"\n\
             exit 75"
        ),
    );
    let (run, report) = replay(&bench, &["--exec", &handler]);
    assert_eq!(run.code, 75, "{run:?}");
    assert_eq!(server.requests().len(), 1, "one was enough to know");
    let [processed, success, failed, _, throttled] = counts(&report);
    assert_eq!((processed, success, failed, throttled), (1, 0, 0, 1), "{report}");
    assert_eq!(report["early_stop_reason"], "throttled");
    let retry_after = report["retry_after"].as_f64().unwrap();
    assert!((100.0..=120.0).contains(&retry_after), "{report}");
    assert!(run.stderr.contains("120") || run.stderr.contains("11"), "says when: {run:?}");
    assert_eq!(report["remaining"], 4);
    for id in &ids {
        let entry = show(&bench, id);
        assert_eq!((&entry["status"], &entry["retry_count"]), (&json!("pending"), &json!(0)));
    }
    let first = show(&bench, &ids[0]);
    assert_eq!(first["attempts"][0]["outcome"], "throttled");
    assert!(first["not_before"].is_string(), "{first}");
    assert_eq!(show(&bench, &ids[1])["not_before"], Value::Null);
}

#[test]
fn a_handler_gets_the_entry_and_its_exit_code_decides() {
    let bench = Bench::new();
    let good = put(&bench, &["--request", r#"{"amount": 1.50}"#, "--key", "order-1"]);
    let bad = put(&bench, &["--request", r#"{"amount": 2}"#]);
    let handler = script(
        &bench,
        "handler",
        "cd \"$(dirname \"$0\")\"; cat > \"entry-$DEADLETTER_ID\"\n\
         echo \"$DEADLETTER_ID $DEADLETTER_ATTEMPT\" >> runs; echo to-nobody\n\
         grep -q order-1 \"entry-$DEADLETTER_ID\" || { echo 'no such order' >&2; exit 4; }",
    );
    let (run, report) = replay(&bench, &["--exec", &handler]);
    assert_eq!(run.code, 1, "{run:?}");
    assert_eq!(counts(&report), [2, 1, 1, 0, 0], "{report}");
    assert_eq!(report["errors"].as_array().unwrap().len(), 1);
    assert_eq!(lines(&bench, "runs"), [format!("{good} 1"), format!("{bad} 1")]);
    let given = std::fs::read_to_string(bench.root.path().join(format!("entry-{good}"))).unwrap();
    assert!(given.contains(r#""request_data":{"amount": 1.50}"#), "byte for byte: {given}");
    assert_eq!(show(&bench, &good)["status"], "resolved");
    let failed = show(&bench, &bad);
    assert_eq!((&failed["status"], &failed["retry_count"]), (&json!("pending"), &json!(1)));
    let note = failed["resolution_note"].as_str().unwrap();
    assert!(note.contains('4') && note.contains("no such order"), "{note}");
    assert!(failed["not_before"].is_string(), "it waits before the next attempt");
    assert!(report["next_due"].is_string(), "{report}");
    assert_eq!(counts(&replay(&bench, &["--exec", &handler]).1), [0; 5], "not due yet");

    // A person does not wait, and at the cap nobody tries again by accident.
    let run = bench.run(["--json", "retry", &bad, "--exec", &handler]);
    assert_eq!(run.code, 1, "{run:?}");
    let result = run.json();
    assert_eq!((&result["success"], &result["id"]), (&json!(false), &json!(bad)));
    assert_eq!((&result["retry_count"], &result["previous_retry_count"]), (&json!(2), &json!(1)));
    assert_eq!(result["status"], "requires_review");
    assert_eq!(bench.run(["retry", &bad, "--exec", &handler]).code, 4);
    assert_eq!(bench.run(["retry", "999", "--exec", &handler]).code, 3);
    assert_eq!(bench.run(["retry", &good, "--exec", &handler]).code, 4);
}

#[test]
fn a_redrive_goes_past_the_cap_on_record() {
    let bench = Bench::new();
    let id = put(&bench, &["--max-retries", "1"]);
    let bad = script(&bench, "bad", "exit 1");
    let good = script(&bench, "good", "exit 0");
    assert_eq!(replay(&bench, &["--exec", &bad]).0.code, 1);
    assert_eq!(show(&bench, &id)["status"], "requires_review");
    assert_eq!(bench.run(["redrive", &id, "--exec", &good]).code, 2, "a reason is needed");
    let result = bench.run([
        "--json",
        "redrive",
        &id,
        "--reason",
        "fixed",
        "--ticket",
        "https://t/1",
        "--actor",
        "kim",
        "--exec",
        &bad,
    ]);
    assert_eq!(result.code, 1, "{result:?}");
    assert_eq!(result.json()["status"], "requires_review");
    let args = ["redrive", &id, "--reason", "really", "--exec", &good];
    let result = bench.json(args);
    assert_eq!((&result["success"], &result["retry_count"]), (&json!(true), &json!(1)));
    let entry = show(&bench, &id);
    assert_eq!(entry["status"], "resolved");
    assert_eq!(entry["resolution_note"], "delivered", "not what went wrong before");
    assert_eq!(
        (&entry["force_redrive_count"], &entry["previous_total_retries"]),
        (&json!(2), &json!(2))
    );
    let numbers: Vec<u64> = entry["attempts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|attempt| attempt["number"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, [1, 2, 3], "numbers never restart");
    let action = &entry["audit"][0];
    assert_eq!((&action["actor"], &action["ticket"]), (&json!("kim"), &json!("https://t/1")));
    let stats = bench.json(["stats"]);
    let counters = &stats["counters"]["orders"];
    assert_eq!(counters["force_redrive"], 2);
    assert_eq!(counters["force_redrive_exhausted"], 1);
}

#[test]
fn a_handler_that_kills_us_burns_its_own_attempts_only() {
    let bench = Bench::new();
    let killer = put(&bench, &[]);
    let good = put(&bench, &[]);
    let handler = script(
        &bench,
        "handler",
        &format!(
            "echo \"$DEADLETTER_ID\" >> \"$(dirname \"$0\")/runs\"\n\
             [ \"$DEADLETTER_ID\" != {killer} ] || kill -9 $PPID"
        ),
    );
    let rounds = |bench: &Bench| {
        let mut deaths = 0;
        while bench.run(["replay", "--exec", &handler]).code == -1 {
            deaths += 1;
            assert!(deaths < 10, "it never ends");
        }
        deaths
    };
    assert_eq!(rounds(&bench), 2, "as often as the cap");
    let entry = show(&bench, &killer);
    assert_eq!((&entry["status"], &entry["retry_count"]), (&json!("requires_review"), &json!(2)));
    let outcomes: Vec<&Value> =
        entry["attempts"].as_array().unwrap().iter().map(|attempt| &attempt["outcome"]).collect();
    assert_eq!(outcomes, ["interrupted", "interrupted"]);
    let good = show(&bench, &good);
    assert_eq!((&good["status"], &good["retry_count"]), (&json!("resolved"), &json!(1)));
    // A fresh budget, and it converges again.
    let redrive = ["redrive", &killer, "--reason", "patched", "--exec", &handler];
    assert_eq!(bench.run(redrive).code, -1);
    assert_eq!(rounds(&bench), 1);
    let entry = show(&bench, &killer);
    assert_eq!((&entry["status"], &entry["retry_count"]), (&json!("requires_review"), &json!(2)));
    assert_eq!(entry["attempts"].as_array().unwrap().len(), 4);
    let runs = lines(&bench, "runs").into_iter().filter(|run| *run == killer).count();
    assert_eq!(runs, 4, "each run is counted and none is hidden");
}

#[test]
fn a_program_that_cannot_start_is_found_before_anything_is_acquired() {
    let bench = Bench::new();
    let id = put(&bench, &[]);
    for exec in ["no-such-program", "/no/such/program", "", "sh -c 'open"] {
        let run = bench.run(["replay", "--exec", exec]);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{exec:?}: {run:?}");
        assert!(run.stderr.contains("--exec"), "{run:?}");
    }
    assert_eq!(bench.run(["retry", &id, "--exec", "no-such-program"]).code, 2);
    let entry = show(&bench, &id);
    assert_eq!((&entry["status"], &entry["attempts"]), (&json!("pending"), &json!([])));
}

#[test]
fn only_what_was_captured_here_is_run_again() {
    let bench = Bench::new();
    let witness = bench.root.path().join("witness");
    let touch = format!("touch {}; exit 9", witness.display());
    assert_eq!(bench.run(["run", "--", "sh", "-c", &touch]).code, 9);
    std::fs::remove_file(&witness).unwrap();
    let exported = bench.run(["export"]).stdout;
    let other = Bench::new();
    assert_eq!(other.run_with_input(["import"], exported.as_bytes()).code, 0);
    let (run, report) = replay(&other, &[]);
    assert_eq!((run.code, counts(&report)), (0, [1, 0, 0, 1, 0]), "{run:?}");
    let words = other.run(["replay"]);
    assert!(words.stderr.contains("--exec"), "{words:?}");
    assert!(!witness.exists());
    let trusting = Bench::new();
    let import = ["import", "--trust-commands"];
    assert_eq!(trusting.run_with_input(import, exported.as_bytes()).code, 0);
    assert_eq!(replay(&trusting, &[]).0.code, 1, "it runs, and fails again");
    assert!(witness.exists());
}

#[test]
fn a_command_is_run_again_as_it_was_captured() {
    let bench = Bench::new();
    let place = bench.root.path().join("place with spaces");
    std::fs::create_dir(&place).unwrap();
    let tool = script(
        &bench,
        "tool",
        "cat > got-stdin; printf '%s|' \"$@\" > got-args; echo \"$COLOR\" > got-color\n\
         echo on-stdout; echo on-stderr >&2; [ -e done ]",
    );
    let mut command = bench.command();
    command.current_dir(&place).env("COLOR", "deep blue").args(["run", "--env", "COLOR", "--"]);
    command.args([&tool, "a b", "$HOME", "*", ""]);
    let run = finish(&mut command, Some(b"\xff\x00in"));
    assert_eq!(run.code, 1, "{run:?}");
    for got in ["got-stdin", "got-args", "got-color"] {
        std::fs::remove_file(place.join(got)).unwrap();
    }
    std::fs::write(place.join("done"), "").unwrap();
    let (run, report) = replay(&bench, &[]);
    assert_eq!((run.code, counts(&report)), (0, [1, 1, 0, 0, 0]), "{run:?}");
    assert_eq!(std::fs::read(place.join("got-stdin")).unwrap(), b"\xff\x00in");
    assert_eq!(std::fs::read(place.join("got-args")).unwrap(), b"a b|$HOME|*||");
    assert_eq!(std::fs::read(place.join("got-color")).unwrap(), b"deep blue\n");
    assert!(run.stderr.contains("on-stdout") && run.stderr.contains("on-stderr"), "{run:?}");
}

#[test]
fn a_cut_stdin_keeps_its_entry_back_and_stops_nobody_else() {
    let bench = Bench::new();
    let mut command = bench.command();
    command.env("DEADLETTER_REQUEST_DATA_MAX_BYTES", "1024");
    command.args(["run", "--", "sh", "-c", "cat; exit 3"]);
    assert_eq!(finish(&mut command, Some(&[b'x'; 4096])).code, 3);
    assert_eq!(bench.run(["run", "--", "sh", "-c", "[ -e /dev/null ] && exit 3"]).code, 3);
    let (run, report) = replay(&bench, &[]);
    assert_eq!((run.code, counts(&report)), (1, [2, 0, 1, 1, 0]), "{run:?}");
    let cut = show(&bench, "1");
    assert_eq!((&cut["status"], &cut["retry_count"]), (&json!("pending"), &json!(0)));
}

#[test]
fn a_replay_takes_what_it_is_told_to() {
    let bench = Bench::new();
    for domain in ["a", "b", "a", "b", "a"] {
        bench.json(["put", "--domain", domain, "--type", "T"]);
    }
    bench.json(["put", "--domain", "a", "--type", "U"]);
    let handler = script(&bench, "ok", "echo $DEADLETTER_ID >> \"$(dirname \"$0\")/runs\"");
    let exec = ["--exec", handler.as_str()];
    let dry = replay(&bench, &[&exec[..], &["--dry-run", "--domain", "a"]].concat());
    assert_eq!((dry.0.code, counts(&dry.1)), (0, [4, 0, 0, 0, 0]), "{:?}", dry.0);
    assert_eq!(lines(&bench, "runs"), [""; 0]);
    let first =
        replay(&bench, &[&exec[..], &["--domain", "a", "--type", "T", "--max", "2"]].concat());
    assert_eq!(counts(&first.1), [2, 2, 0, 0, 0]);
    assert_eq!(first.1["remaining"], 1);
    assert_eq!(lines(&bench, "runs"), ["1", "3"], "oldest first");
    let rest = replay(&bench, &[&exec[..], &["--batch-size", "1", "--jobs", "2"]].concat());
    assert_eq!(counts(&rest.1), [4, 4, 0, 0, 0]);
    let mut runs = lines(&bench, "runs");
    runs.sort();
    assert_eq!(runs, ["1", "2", "3", "4", "5", "6"], "each exactly once");
    for bad in [&["--jobs", "0"][..], &["--jobs", "65"], &["--batch-size", "0"], &["--rate", "0"]] {
        assert_eq!(bench.run(["replay"].iter().chain(bad)).code, 2, "{bad:?}");
    }
    let words = bench.run(["replay", "--exec", &handler]);
    assert_eq!(words.code, 0);
    assert!(words.stdout.contains("nothing") || words.stdout.contains('0'), "{words:?}");
}

#[test]
fn leases_of_a_dead_process_are_released_by_hand_too() {
    let bench = Bench::new();
    let id = put(&bench, &[]);
    let killer = script(&bench, "killer", "kill -9 $PPID");
    assert_eq!(bench.run(["replay", "--exec", &killer]).code, -1);
    assert_eq!(show(&bench, &id)["status"], "replaying");
    let young = bench.json(["release", "--older-than", "60"]);
    assert_eq!(young, json!({ "count": 0, "dry_run": false }));
    assert_eq!(bench.json(["release"]), json!({ "count": 1, "dry_run": false }));
    let entry = show(&bench, &id);
    assert_eq!((&entry["status"], &entry["retry_count"]), (&json!("pending"), &json!(1)));
}

#[test]
fn a_disabled_store_replays_nothing() {
    let bench = Bench::new();
    let id = put(&bench, &[]);
    let handler = script(&bench, "ok", "exit 0");
    let mut command = bench.command();
    command.env("DEADLETTER_ENABLED", "false").args(["--json", "replay", "--exec", &handler]);
    let run = finish(&mut command, None);
    assert_eq!(counts(&run.json()), [0; 5], "{run:?}");
    let mut command = bench.command();
    command.env("DEADLETTER_ENABLED", "false").args(["--json", "put", "--domain", "a"]);
    let run = finish(command.args(["--type", "T"]), None);
    assert_eq!(run.code, 8, "{run:?}");
    assert_eq!(run.json()["error"], "disabled");
    assert_eq!(show(&bench, &id)["status"], "pending");
}

#[test]
fn a_preview_passes_over_what_a_replay_would_let_expire() {
    let bench = Bench::new();
    put(&bench, &["--expires-in", "0"]);
    let lasting = put(&bench, &[]);
    let handler = script(&bench, "ok", "exit 0");
    let exec = ["--exec", handler.as_str()];
    let dry = replay(&bench, &[&exec[..], &["--dry-run"]].concat());
    assert_eq!(counts(&dry.1), [1, 0, 0, 1, 0], "{:?}", dry.0);
    let real = replay(&bench, &exec);
    assert_eq!(counts(&real.1), [2, 1, 0, 1, 0], "{:?}", real.0);
    assert_eq!(show(&bench, &lasting)["status"], "resolved");
    assert_eq!(show(&bench, "1")["status"], "expired");
}
