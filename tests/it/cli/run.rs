//! `run`: the command's stdio and code are its own, and its failure is captured exactly.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Bench, finish};

#[test]
fn success_never_touches_the_store() {
    let bench = Bench::new();
    let run = bench.run(["run", "--", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (0, "out\n", "err\n"));
    assert!(!bench.store().exists());
}

#[test]
fn a_failure_is_captured_and_named() {
    let bench = Bench::new();
    let script = "cat; echo first >&2; echo last words >&2; exit 7";
    let args = ["run", "--domain", "upstream", "--env", "KEPT", "--env", "UNSET", "--", "sh", "-c"];
    let mut command = bench.command();
    command.args(args).arg(script).env("KEPT", "value").env("OTHER", "x").env_remove("UNSET");
    let run = finish(&mut command, Some(b"payload\n"));
    assert_eq!(run.code, 7);
    assert_eq!(run.stdout, "payload\n");
    let entry = bench.json(["show", "last"]);
    let id = entry["id"].as_str().unwrap();
    let dir = bench.store();
    let captured = format!("captured {id} upstream EXIT_7 synced in {}", dir.display());
    let said = format!("first\nlast words\n{captured}\nhint: deadletter show last\n");
    assert_eq!(run.stderr, said);
    assert_eq!(entry["domain"], "upstream");
    assert_eq!(entry["failure_type"], "EXIT_7");
    assert_eq!(entry["error_code"], "7");
    assert_eq!(entry["error_message"], "last words");
    assert_eq!(entry["runnable"], true);
    let request = &entry["request_data"];
    assert_eq!(request["argv"], json!(["sh", "-c", script]));
    assert_eq!(request["env"], json!({ "KEPT": "value" }));
    assert_eq!(request["stdin"], "payload\n");
    assert!(request["cwd"].is_string());
    assert_eq!(entry["response_data"]["exit_code"], 7);
    assert_eq!(entry["response_data"]["stderr"], "first\nlast words\n");
    assert!(entry["response_data"]["duration_ms"].is_u64());
    let shown = bench.run(["show", id]).stdout;
    for part in ["last words", "payload", "KEPT=value", "exit code"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
}

#[test]
fn the_hint_repeats_a_directory_that_was_named() {
    let bench = Bench::new();
    let dir = bench.root.path().join("with space");
    let run = finish(bench.command().arg("--dir").arg(&dir).args(["run", "--", "false"]), None);
    assert_eq!(run.code, 1);
    let hint = format!("hint: deadletter --dir '{}' show last\n", dir.display());
    assert!(run.stderr.ends_with(&hint), "{run:?}");
    let quiet = bench.run(["run", "--quiet", "--", "false"]);
    assert_eq!((quiet.code, quiet.stderr.as_str()), (1, ""));
    assert_eq!(bench.json(["list"])["total_count"], 1);
}

#[test]
fn ends_without_a_code_have_their_own_types() {
    let bench = Bench::new();
    let plain = bench.root.path().join("plain");
    std::fs::write(&plain, "text").unwrap();
    let plain = plain.to_str().unwrap();
    for (argv, code, failure_type) in [
        (&["sh", "-c", "kill -KILL $$"][..], 137, "SIGNAL_KILL"),
        (&["sh", "-c", "kill -TERM $$"], 143, "SIGNAL_TERM"),
        (&["/no/such/program"], 127, "EXIT_127"),
        (&[plain], 126, "EXIT_126"),
        (&["sh", "-c", "exit 255"], 255, "EXIT_255"),
    ] {
        let run = bench.run(["run", "--"].iter().chain(argv));
        assert_eq!(run.code, code, "{run:?}");
        let entry = bench.json(["show", "last"]);
        assert_eq!(entry["failure_type"], failure_type);
        if failure_type.starts_with("SIGNAL") {
            assert_eq!(entry["response_data"]["signal"], failure_type[7..]);
        } else {
            assert_eq!(entry["response_data"]["exit_code"], code);
        }
    }
    assert_eq!(bench.run(["run", "--type", "MINE", "--", "false"]).code, 1);
    assert_eq!(bench.json(["show", "last"])["failure_type"], "MINE");
    assert_eq!(bench.run(["run"]).code, 2);
}

#[test]
fn bytes_that_are_not_text_are_kept_exactly() {
    let bench = Bench::new();
    let odd = OsString::from_vec(vec![b'a', 0xff]);
    let mut command = bench.command();
    command.env("ODD", &odd).args(["run", "--env", "ODD", "--", "sh", "-c"]);
    command.arg("cat >/dev/null; printf '\\377' >&2; exit 1").arg(&odd);
    assert_eq!(finish(&mut command, Some(b"\xff\xfe")).code, 1);
    let entry = bench.json(["show", "last"]);
    assert_eq!(entry["request_data"]["argv"][3], json!({ "base64": "Yf8=" }));
    assert_eq!(entry["request_data"]["env"]["ODD"], json!({ "base64": "Yf8=" }));
    assert_eq!(entry["request_data"]["stdin"], json!({ "base64": "//4=" }));
    assert_eq!(entry["response_data"]["stderr"], json!({ "base64": "/w==" }));
}

#[test]
fn a_regular_file_is_read_by_the_command_itself_and_copied() {
    let bench = Bench::new();
    let path = bench.root.path().join("input");
    std::fs::write(&path, "one\ntwo\nthree\n").unwrap();
    let mut file = File::open(&path).unwrap();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(4)).unwrap();
    let shared = file.try_clone().unwrap();
    let mut command = bench.command();
    command.args(["run", "--", "sh", "-c", "head -c 4; exit 3"]).stdin(file);
    let run = finish(&mut command, None);
    assert_eq!((run.code, run.stdout.as_str()), (3, "two\n"));
    assert_eq!(bench.json(["show", "last"])["request_data"]["stdin"], "two\nthree\n");
    let mut shared = shared;
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut shared, &mut rest).unwrap();
    assert_eq!(rest, "three\n", "the offset is the command's");
}

#[test]
fn stdin_that_nobody_reads_is_kept_and_no_stdin_is_not() {
    let bench = Bench::new();
    let run = bench.run_with_input(["run", "--", "false"], b"for later");
    assert_eq!(run.code, 1);
    assert_eq!(bench.json(["show", "last"])["request_data"]["stdin"], "for later");
    let cat = ["run", "--no-stdin", "--", "sh", "-c", "cat; exit 1"];
    let run = bench.run_with_input(cat, b"ignored");
    assert_eq!((run.code, run.stdout.as_str()), (1, ""));
    assert!(bench.json(["show", "last"])["request_data"]["stdin"].is_null());
}

#[test]
fn stdin_over_the_limit_becomes_a_marker() {
    let bench = Bench::new();
    let input = vec![b'x'; 4000];
    let path = bench.root.path().join("input");
    std::fs::write(&path, &input).unwrap();
    let args = ["run", "--", "sh", "-c", "cat >/dev/null; exit 1"];
    for from_file in [true, false] {
        let mut command = bench.command();
        command.env("DEADLETTER_REQUEST_DATA_MAX_BYTES", "1024").args(args);
        if from_file {
            command.stdin(File::open(&path).unwrap());
        }
        let run = finish(&mut command, (!from_file).then_some(&input));
        assert_eq!(run.code, 1);
        let request = &bench.json(["show", "last"])["request_data"];
        let marker = json!({ "_truncated": true, "original_size": 4000, "preview": "" });
        assert_eq!(request["stdin"], marker);
        assert_eq!(request["argv"][0], "sh");
    }
}

#[test]
fn a_pipe_that_never_closes_is_not_waited_for() {
    let bench = Bench::new();
    let (reader, writer) = std::io::pipe().unwrap();
    std::io::Write::write_all(&mut &writer, b"begun").unwrap();
    let started = Instant::now();
    let mut command = bench.command();
    let run = finish(command.args(["run", "--", "sh", "-c", "exit 4"]).stdin(reader), None);
    assert_eq!(run.code, 4);
    assert!(started.elapsed() < Duration::from_secs(10));
    let entry = bench.json(["show", "last"]);
    assert_eq!(entry["request_data"]["stdin"], "begun");
    assert_eq!(entry["metadata"]["stdin_incomplete"], true);
    drop(writer);
}

#[test]
fn a_background_process_that_holds_stderr_is_not_waited_for() {
    let bench = Bench::new();
    let started = Instant::now();
    let script = "echo said >&2; sleep 60 >/dev/null & echo $! ; exit 5";
    let run = bench.run(["run", "--", "sh", "-c", script]);
    assert_eq!(run.code, 5);
    assert!(started.elapsed() < Duration::from_secs(30));
    assert_eq!(bench.json(["show", "last"])["response_data"]["stderr"], "said\n");
    let killed = std::process::Command::new("kill").arg(run.stdout.trim()).status().unwrap();
    assert!(killed.success());
}

#[test]
fn only_the_end_of_stderr_is_kept() {
    let bench = Bench::new();
    let script = "head -c 200000 /dev/zero | tr '\\0' x >&2; echo end >&2; exit 1";
    let run = bench.run(["run", "--quiet", "--", "sh", "-c", script]);
    assert_eq!(run.stderr.len(), 200_004, "all of it is passed on");
    let entry = bench.json(["show", "last"]);
    let kept = entry["response_data"]["stderr"].as_str().unwrap();
    assert_eq!(kept.len(), 64 << 10);
    assert!(kept.ends_with("xend\n"));
    assert_eq!(entry["error_message"].as_str().unwrap().len(), 1000);
}

#[test]
fn a_signal_is_passed_on_and_the_failure_still_captured() {
    let bench = Bench::new();
    let mut command = bench.command();
    command.args([
        "run",
        "--",
        "sh",
        "-c",
        "trap 'exit 9' TERM; echo ready; while :; do sleep 0.02; done",
    ]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(9));
    assert_eq!(bench.json(["show", "last"])["failure_type"], "EXIT_9");
}

#[test]
fn twenty_at_once_are_all_captured_once() {
    let bench = Bench::new();
    let children: Vec<_> = (0..20)
        .map(|number| {
            let mut command = bench.command();
            command.args(["run", "--key", &format!("run-{number}"), "--", "sh", "-c", "exit 3"]);
            command.env("DEADLETTER_LOCK_WAIT_MS", "60000");
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut child in children {
        assert_eq!(child.wait().unwrap().code(), Some(3));
    }
    assert_eq!(bench.json(["list"])["total_count"], 20);
    for number in 0..20 {
        assert_eq!(bench.run(["show", "--key", &format!("run-{number}")]).code, 0);
    }
}

#[test]
fn a_store_that_cannot_be_written_keeps_the_command_s_code() {
    let bench = Bench::new();
    std::fs::write(bench.store(), "a file, not a directory").unwrap();
    let run = bench.run(["run", "--", "sh", "-c", "exit 6"]);
    assert_eq!(run.code, 6);
    assert!(run.stderr.contains("is not captured"), "{run:?}");
}

/// Found out after the command, it would cost the capture.
#[test]
fn a_key_or_type_that_cannot_be_stored_is_refused_before_the_command_starts() {
    let bench = Bench::new();
    let long = "k".repeat(513);
    for flag in [["--key", ""], ["--key", &long], ["--type", ""]] {
        let words = ["--", "sh", "-c", "echo ran; exit 3"];
        let run = bench.run(["run"].into_iter().chain(flag).chain(words));
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{run:?}");
        assert!(run.stderr.contains(flag[0]), "{run:?}");
    }
}

#[test]
fn what_is_not_captured_is_said_once_with_both_reasons() {
    let bench = Bench::new();
    std::fs::write(bench.store(), "a file, not a directory").unwrap();
    let run = bench.run(["run", "--", "false"]);
    assert_eq!(run.stderr.matches("not captured").count(), 1, "{run:?}");
    assert!(run.stderr.contains("; no fallback file either: cannot "), "{run:?}");
    let run = bench.run(["put", "--domain", "d", "--type", "T"]);
    assert_eq!(run.code, 8);
    assert!(run.stderr.starts_with("error: not captured, and no fallback file either"), "{run:?}");
}
