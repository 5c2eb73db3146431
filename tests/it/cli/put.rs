//! `put`: the store result, bad input, and stores that cannot be used.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use super::{Bench, files, finish};

#[test]
fn the_result_has_the_keys_of_the_reference() {
    let bench = Bench::new();
    let put = ["put", "--domain", "d", "--type", "T", "--key", "mine"];
    let first = bench.json(put);
    let id = first["dlq_id"].as_str().unwrap();
    let wanted = json!({
        "success": true, "dlq_id": id, "key": "mine", "error": null, "fallback_path": null,
        "durability": "synced", "duplicate": false,
    });
    assert_eq!(first, wanted);
    let again = bench.json(put);
    assert_eq!((again["dlq_id"].as_str(), &again["duplicate"]), (Some(id), &Value::Bool(true)));
    let written = bench.json(["put", "--domain", "d", "--type", "T", "--durability", "written"]);
    assert_eq!(written["durability"], "written");
}

#[test]
fn every_field_arrives() {
    let bench = Bench::new();
    let file = bench.root.path().join("snapshot.json");
    std::fs::write(&file, "{\"s\":\n 1.50}").unwrap();
    let mut command = bench.command();
    command.args(["put", "--domain", "d", "--type", "T", "--request", "@-", "--snapshot"]);
    command.arg(format!("@{}", file.display()));
    command.args(["--response", "{\"r\":1}", "--metadata", "{\"m\":1}", "--error-code", "E1"]);
    command.args(["--error-message", "it broke", "--entity-type", "order", "--entity-id", "42"]);
    command.args(["--user-id", "-7", "--hint", "look", "--action", "call", "--max-retries", "5"]);
    command.args(["--expires-in", "3600"]);
    assert_eq!(finish(&mut command, Some(b"{\"q\":[1,2]}")).code, 0);
    let entry = bench.json(["show", "last"]);
    for (key, wanted) in [
        ("request_data", json!({ "q": [1, 2] })),
        ("snapshot_data", json!({ "s": 1.5 })),
        ("response_data", json!({ "r": 1 })),
        ("metadata", json!({ "m": 1 })),
        ("error_code", json!("E1")),
        ("error_message", json!("it broke")),
        ("entity_type", json!("order")),
        ("entity_id", json!("42")),
        ("user_id", json!(-7)),
        ("next_action_hint", json!("look")),
        ("recommended_action", json!("call")),
        ("max_retries", json!(5)),
        ("status", json!("pending")),
    ] {
        assert_eq!(entry[key], wanted, "{key}");
    }
    assert!(entry["expires_at"].is_string());
    let exported = bench.run(["export"]);
    assert_eq!(exported.stdout.lines().count(), 1);
    assert!(exported.stdout.contains("1.50"), "payloads are kept as text");
    let shown = bench.run(["show", "last"]).stdout;
    assert!(shown.contains("snapshot\n  {\n    \"s\": 1.50\n  }\n"), "{shown}");
    assert!(shown.contains("  {\n    \"q\": [\n      1,\n      2\n    ]\n  }\n"), "{shown}");
}

#[test]
fn bad_json_is_named_and_changes_nothing() {
    let bench = Bench::new();
    assert_eq!(bench.run(["put", "--domain", "d", "--type", "T"]).code, 0);
    let before = files(&bench.store());
    for (value, place) in [("{\"a\":}", "column 6"), ("[1]", "not a JSON object"), ("", "column 0")]
    {
        let run = bench.run(["put", "--domain", "d", "--type", "T", "--metadata", value]);
        assert_eq!(run.code, 2, "{run:?}");
        assert!(run.stderr.contains("--metadata") && run.stderr.contains(place), "{run:?}");
        assert_eq!(run.stdout, "");
    }
    for args in [
        &["put", "--domain", "d"][..],
        &["put", "--domain", "d", "--type", "T", "--entity-id", "1"],
        &["put", "--domain", "d", "--type", "T", "--request", "@/no/such/file"],
        &["put", "--domain", "d", "--type", "T", "--request", "@-", "--response", "@-"],
    ] {
        let run = bench.run_with_input(args, b"{}");
        assert_eq!(run.code, 2, "{run:?}");
    }
    assert_eq!(files(&bench.store()), before);
}

#[test]
fn another_programs_directory_is_refused_and_left_alone() {
    let bench = Bench::new();
    std::fs::create_dir(bench.store()).unwrap();
    std::fs::write(bench.store().join("important.txt"), "mine").unwrap();
    let before = files(&bench.store());
    let put = bench.run(["--json", "put", "--domain", "d", "--type", "T"]);
    assert_eq!(put.code, 2, "{put:?}");
    assert_eq!(put.json()["success"], false);
    assert_eq!(put.json()["durability"], "none");
    assert!(put.stderr.contains("not a deadletter store"), "{put:?}");
    assert_eq!(bench.run(["list"]).code, 2);
    assert_eq!(bench.run(["run", "--", "sh", "-c", "exit 9"]).code, 9);
    assert_eq!(files(&bench.store()), before);
}

#[test]
fn a_directory_that_cannot_be_written_is_not_captured() {
    let bench = Bench::new();
    let parent = bench.root.path().join("locked");
    std::fs::create_dir(&parent).unwrap();
    std::fs::set_permissions(&parent, std::fs::Permissions::from_mode(0o500)).unwrap();
    // Permissions do not bind root; a file in the way binds everybody.
    let dir = if std::fs::write(parent.join("probe"), "").is_ok() {
        parent.join("probe").join("store")
    } else {
        parent.join("store")
    };
    let put = |dir: &Path| {
        let mut command = bench.command();
        finish(
            command.arg("--dir").arg(dir).args(["--json", "put", "--domain", "d", "--type", "T"]),
            None,
        )
    };
    let run = put(&dir);
    assert_eq!(run.code, 8, "{run:?}");
    let result = run.json();
    assert_eq!((&result["success"], &result["durability"]), (&json!(false), &json!("none")));
    assert!(result["dlq_id"].is_null() && result["error"].is_string());
    std::fs::set_permissions(&parent, std::fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn beside_a_holder_of_the_lock_put_spills() {
    let bench = Bench::new();
    assert_eq!(bench.run(["put", "--domain", "d", "--type", "T"]).code, 0);
    // An import waiting for its input holds the store.
    let mut import = bench.command();
    let mut holder = import
        .args(["import", "--ack"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let line = b"{\"domain\":\"d\",\"failure_type\":\"T\"}\n";
    std::io::Write::write_all(holder.stdin.as_mut().unwrap(), line).unwrap();
    let mut ack = [0; 1];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut ack).unwrap();
    let busy = |args: &[&str]| {
        finish(bench.command().env("DEADLETTER_LOCK_WAIT_MS", "0").args(args), None)
    };
    let put = busy(&["--json", "put", "--domain", "d", "--type", "T", "--key", "spilled"]);
    assert_eq!(put.code, 7, "{put:?}");
    let result = put.json();
    assert_eq!(result["success"], false);
    assert!(result["dlq_id"].is_null());
    assert_eq!(result["durability"], "spilled");
    assert_eq!(result["key"], "spilled");
    assert!(result["fallback_path"].as_str().unwrap().contains("fb-"));
    assert!(result["error"].as_str().unwrap().contains("in use"));
    let run = busy(&["run", "--", "sh", "-c", "exit 9"]);
    assert_eq!(run.code, 9);
    assert!(run.stderr.contains("fb-") && run.stderr.contains("key "), "{run:?}");
    let checkpoint = busy(&["checkpoint"]);
    assert_eq!(checkpoint.code, 6, "{checkpoint:?}");
    assert!(checkpoint.stderr.contains(&holder.id().to_string()), "{checkpoint:?}");
    assert_eq!(busy(&["list"]).code, 0);
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
}
