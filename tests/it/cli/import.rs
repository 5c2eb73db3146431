//! `import` and `export`: a round trip, bad lines, pauses.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;

use serde_json::Value;

use super::{Bench, finish};

fn without_id(mut entry: Value) -> Value {
    entry.as_object_mut().unwrap().remove("id");
    entry
}

#[test]
fn a_store_survives_the_round_trip() {
    let bench = Bench::new();
    for number in 0..30 {
        let request = format!("{{\"n\":{number},\"price\":1.50}}");
        let put = ["put", "--domain", "d", "--type", "T", "--request", &request];
        assert_eq!(bench.run(put).code, 0);
    }
    assert_eq!(bench.run(["run", "--", "sh", "-c", "exit 2"]).code, 2);
    let exported = bench.run(["export"]);
    let copy = Bench::new();
    let args = ["import", "--trust-commands", "--batch", "7", "--json"];
    let run = copy.run_with_input(args, exported.stdout.as_bytes());
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(run.json()["stored"], 31);
    let entries = |text: &str| -> Vec<Value> {
        text.lines().map(|line| without_id(serde_json::from_str(line).unwrap())).collect()
    };
    assert_eq!(entries(&copy.run(["export"]).stdout), entries(&exported.stdout));
    let again = copy.run_with_input(args, exported.stdout.as_bytes()).json();
    assert_eq!((&again["stored"], &again["duplicates"]), (&Value::from(0), &Value::from(31)));
    let careful = Bench::new();
    assert_eq!(careful.run_with_input(["import"], exported.stdout.as_bytes()).code, 0);
    assert_eq!(careful.json(["show", "last"])["runnable"], false);
}

#[test]
fn a_whole_state_is_taken_over() {
    let bench = Bench::new();
    let line = "{\"domain\":\"d\",\"failure_type\":\"T\",\"status\":\"requires_review\",\
        \"retry_count\":2,\"max_retries\":2,\"key\":\"k\",\"user_id\":3,\
        \"created_at\":\"2026-01-02T03:04:05.678Z\",\"updated_at\":\"2026-01-02T03:04:06.000Z\",\
        \"resolution_note\":\"n\",\"attempts\":[{\"number\":1,\"at\":\"2026-01-02T03:04:06.000Z\",\
        \"outcome\":\"failure\",\"note\":\"x\"}]}\n";
    assert_eq!(bench.run_with_input(["import"], line.as_bytes()).code, 0);
    let entry = bench.json(["show", "--key", "k"]);
    let given: Value = serde_json::from_str(line).unwrap();
    for (key, value) in given.as_object().unwrap() {
        assert_eq!(&entry[key], value, "{key}");
    }
}

#[test]
fn a_bad_line_is_named_and_stops_or_is_skipped() {
    let good = "{\"domain\":\"d\",\"failure_type\":\"T\"}";
    for bad in [
        "{\"domain\":\"d\"}",
        "{",
        "[]",
        "{\"domain\":\"d\",\"failure_type\":\"T\",\"typo\":1}",
        "{\"domain\":\"d\",\"failure_type\":\"T\",\"request_data\":[1]}",
    ] {
        let input = format!("{good}\n\n{good}\n{bad}\n{good}\n");
        for (policy, code, stored) in [("stop", 2, 2), ("skip", 0, 3)] {
            let bench = Bench::new();
            let args = ["--json", "import", "--on-error", policy];
            let run = bench.run_with_input(args, input.as_bytes());
            assert_eq!(run.code, code, "{bad} {run:?}");
            let summary = run.json();
            assert_eq!(summary["stored"], stored, "{run:?}");
            assert_eq!(summary["refused"], 1);
            assert_eq!(summary["offered"], stored + 1);
            assert_eq!(summary["errors"][0]["line"], 4);
            assert!(run.stderr.contains("line 4: "), "{run:?}");
            assert_eq!(bench.json(["list"])["total_count"], stored);
        }
    }
}

#[test]
fn keys_twice_in_one_batch_are_duplicates() {
    let bench = Bench::new();
    let line = "{\"domain\":\"d\",\"failure_type\":\"T\",\"key\":\"same\"}\n";
    let run = bench.run_with_input(["import", "--ack"], line.repeat(3).as_bytes());
    assert_eq!(run.code, 0, "{run:?}");
    let lines = run.json_lines();
    let duplicates: Vec<_> = lines.iter().map(|line| line["duplicate"].clone()).collect();
    assert_eq!(duplicates, [Value::Bool(false), Value::Bool(true), Value::Bool(true), Value::Null]);
    assert_eq!(lines[3]["duplicates"], 2);
}

#[test]
fn a_pause_commits_and_acknowledges() {
    let bench = Bench::new();
    let mut command = bench.command();
    command.args(["import", "--ack"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    for number in 1..=3 {
        stdin.write_all(b"{\"domain\":\"d\",\"failure_type\":\"T\"}\n").unwrap();
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let ack: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(ack["line"], number);
        assert_eq!(ack["durability"], "synced");
        assert!(ack["dlq_id"].is_string());
    }
    // What is acknowledged is visible beside the running import.
    assert_eq!(bench.json(["list"])["total_count"], 3);
    drop(stdin);
    let mut summary = String::new();
    stdout.read_line(&mut summary).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&summary).unwrap()["stored"], 3);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_line_that_is_too_long_is_refused_by_number() {
    let bench = Bench::new();
    let mut input = vec![b'x'; (16 << 20) + 1];
    input.extend_from_slice(b"\n{\"domain\":\"d\",\"failure_type\":\"T\"}");
    let args = ["--json", "import", "--on-error", "skip"];
    let run = finish(bench.command().args(args), Some(&input));
    assert_eq!(run.code, 0, "{:?}", run.stderr);
    let summary = run.json();
    assert_eq!((&summary["stored"], &summary["refused"]), (&Value::from(1), &Value::from(1)));
    assert_eq!(summary["errors"][0]["line"], 1);
}

#[test]
fn export_filters_by_time_and_kind() {
    let bench = Bench::new();
    let input = "{\"domain\":\"a\",\"failure_type\":\"T\",\
                 \"created_at\":\"2020-01-01T00:00:00.000Z\"}\n\
                 {\"domain\":\"b\",\"failure_type\":\"U\"}\n";
    assert_eq!(bench.run_with_input(["import"], input.as_bytes()).code, 0);
    for (args, wanted) in [
        (&["--since", "2h"][..], 1),
        (&["--until", "2020-01-01T00:00:00Z"], 1),
        (&["--since", "2019-12-31", "--until", "2h"], 1),
        (&["--since", "2020-01-02T00:00:00Z", "--until", "2021-01-01T00:00:00Z"], 0),
        (&["--domain", "B"], 1),
        (&["--type", "T", "--domain", "b"], 0),
        (&["--status", "pending"], 2),
    ] {
        let run = bench.run(["export"].iter().chain(args));
        assert_eq!(run.code, 0, "{run:?}");
        assert_eq!(run.json_lines().len(), wanted, "{args:?}");
    }
    assert_eq!(bench.run(["export", "--since", "soon"]).code, 2);
    assert_eq!(bench.run(["export", "--status", "lost"]).code, 2);
}

/// The line is what is wrong, not our own type; an array in the order of the fields is no entry.
#[test]
fn a_line_that_is_no_object_is_said_to_be_none() {
    let bench = Bench::new();
    let fields = r#"[null,"d","T",null"#.to_owned() + &",null".repeat(32) + "]";
    for bad in ["[1]", "\"text\"", "1", "null", &fields] {
        let run = bench.run_with_input(["--json", "import"], bad.as_bytes());
        assert_eq!(run.code, 2, "{bad} {run:?}");
        assert_eq!(run.json()["errors"][0]["error"], "the line is not a JSON object", "{bad}");
    }
    let bad = r#"{"domain":"d","type":"T","status":"bogus"}"#;
    let run = bench.run_with_input(["import"], bad.as_bytes());
    assert!(run.stderr.contains("line 1: status is bogus, it must be one of pending, "), "{run:?}");
}

#[test]
fn a_byte_order_mark_and_foreign_line_ends_are_passed_over() {
    let bench = Bench::new();
    let input =
        "\u{feff}{\"domain\":\"d\",\"type\":\"A\"}\r\n\r\n{\"domain\":\"d\",\"type\":\"B\"}";
    let run = bench.run_with_input(["--json", "import"], input.as_bytes());
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(run.json()["stored"], 2);
    let run = bench.run_with_input(["--json", "import"], input.repeat(2).as_bytes());
    assert_eq!(run.json()["refused"], 1, "only a file begins with one: {run:?}");
}
