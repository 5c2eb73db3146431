//! What operators do by hand: resolve, expire, archive, purge, clean up, release; service levels.

use serde_json::{Value, json};

use super::Bench;

fn put(bench: &Bench, more: &[&str]) -> String {
    let args = ["put", "--domain", "orders", "--type", "TIMEOUT"];
    let stored = bench.json(args.iter().chain(more));
    stored["dlq_id"].as_str().unwrap().to_owned()
}

fn status(bench: &Bench, id: &str) -> Value {
    bench.json(["show", id])["status"].clone()
}

#[test]
fn an_entry_is_resolved_once_and_says_by_whom() {
    let bench = Bench::new();
    let id = put(&bench, &[]);
    let result = bench.json(["resolve", &id, "--notes", "paid by hand", "--actor", "kim"]);
    assert_eq!(result["success"], true);
    assert_eq!((&result["id"], &result["previous_status"]), (&json!(id), &json!("pending")));
    assert_eq!(result["current_status"], "resolved");
    assert_eq!(result["notes"], "paid by hand");
    assert!(result["resolved_at"].is_string(), "{result}");
    let entry = bench.json(["show", &id]);
    assert_eq!(entry["resolution_type"], "manual");
    let action = &entry["audit"][0];
    assert_eq!((&action["actor"], &action["action"]), (&json!("kim"), &json!("resolve")));
    assert_eq!(action["reason"], "paid by hand");

    let again = bench.run(["resolve", &id]);
    assert_eq!((again.code, again.stdout.as_str()), (4, ""), "{again:?}");
    assert!(again.stderr.contains("resolved"), "{again:?}");
    let unknown = bench.run(["resolve", "999"]);
    assert_eq!(unknown.code, 3, "{unknown:?}");
    assert_eq!(bench.run(["resolve", "x"]).code, 2);
    assert_eq!(bench.run(["resolve"]).code, 2);
}

#[test]
fn several_ids_are_one_batch_that_goes_on() {
    let bench = Bench::new();
    let ids: Vec<String> = (0..3).map(|_| put(&bench, &[])).collect();
    bench.json(["resolve", &ids[0]]);
    let run = bench.run(["--json", "resolve", &ids[0], &ids[1], "999", "last", "--as", "rejected"]);
    assert_eq!(run.code, 4, "{run:?}");
    let result = run.json();
    let keys: Vec<&String> = result.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["errors", "failed", "resolved", "skipped", "total"]);
    assert_eq!((&result["total"], &result["resolved"]), (&json!(4), &json!(2)));
    assert_eq!((&result["failed"], &result["skipped"]), (&json!(2), &json!(0)));
    assert_eq!(result["errors"][0]["id"], json!(ids[0]));
    assert_eq!(result["errors"][1]["id"], "999");
    assert_eq!(status(&bench, &ids[2]), "rejected");
    let run = bench.run(["resolve", &ids[1], &ids[2], "--notes", "after all"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.stdout.contains("2 of 2"), "{run:?}");
}

#[test]
fn entries_age_from_expiry_to_purge() {
    let bench = Bench::new();
    let id = put(&bench, &["--expires-in", "0"]);
    let lasting = put(&bench, &[]);
    assert_eq!(bench.json(["expire"]), json!({ "count": 1, "dry_run": false }));
    assert_eq!(bench.json(["expire"]), json!({ "count": 0, "dry_run": false }));
    assert_eq!(status(&bench, &id), "expired");
    assert_eq!(bench.json(["show", &id])["audit"][0]["action"], "expire");
    // Expired just now, so retention keeps it; what is resolved has an age of its own.
    let done = put(&bench, &[]);
    bench.json(["resolve", &done]);
    assert_eq!(bench.json(["archive"])["count"], 0);
    assert_eq!(bench.json(["archive", "--older-than", "0"])["count"], 1);
    assert_eq!(status(&bench, &done), "archived");
    let preview = bench.json(["purge", "--older-than", "0", "--dry-run"]);
    assert_eq!(preview, json!({ "count": 1, "dry_run": true }));
    let purged = bench.json(["purge", "--older-than", "0", "--yes"]);
    assert_eq!(purged, json!({ "count": 1, "dry_run": false }));
    assert_eq!(bench.run(["show", &done]).code, 3);
    assert_eq!(status(&bench, &lasting), "pending");
    let stats = bench.json(["stats"]);
    assert_eq!(stats["accounting"]["purged"], 1);
    assert_eq!(stats["counters"]["orders"]["expired"], 1);
    assert_eq!(stats["cleanup"]["total"], 2);
    assert_eq!(stats["health"]["status"], "ok");
}

#[test]
fn cleanup_says_what_it_did() {
    let bench = Bench::new();
    put(&bench, &["--expires-in", "0"]);
    let done = put(&bench, &[]);
    bench.json(["resolve", &done]);
    let result = bench.json(["cleanup", "--older-than", "0"]);
    assert_eq!(result, json!({ "expired_count": 1, "archived_count": 1 }));
}

#[test]
fn a_purge_must_be_meant() {
    let bench = Bench::new();
    let id = put(&bench, &[]);
    let archived = put(&bench, &[]);
    bench.json(["resolve", &archived]);
    bench.json(["archive", "--older-than", "0"]);
    for (args, code) in [
        (&["purge"][..], 2),
        (&["purge", "--yes"], 2),
        (&["purge", "--dry-run"], 2),
        (&["purge", "--ids", &archived], 2),
        (&["purge", "--ids", "--yes"], 2),
        (&["purge", "--older-than", "abc", "--yes"], 2),
        (&["purge", "--older-than", "-1", "--yes"], 2),
        (&["purge", "--older-than", "1", "--ids", &archived, "--yes"], 2),
        (&["purge", "--ids", &archived, &id, "--yes"], 4),
        (&["purge", "--ids", &archived, &id, "--dry-run"], 4),
    ] {
        let run = bench.run(args);
        assert_eq!((run.code, run.stdout.as_str()), (code, ""), "{args:?}: {run:?}");
        assert_eq!(status(&bench, &archived), "archived", "{args:?}");
    }
    let some = ["purge", "--ids", &archived, "999", "--yes"];
    assert_eq!(bench.json(some)["count"], 1);
}

#[test]
fn breached_entries_are_listed_by_their_domains_threshold() {
    let bench = Bench::new();
    let line = |domain: &str, at: &str| {
        format!("{{\"domain\":\"{domain}\",\"failure_type\":\"T\",\"created_at\":\"{at}\"}}\n")
    };
    let now = jiff::Timestamp::now();
    let ago = |hours: i64| (now - jiff::SignedDuration::from_hours(hours)).to_string();
    let lines = [
        line("orders", &ago(30)),
        line("payment", &ago(3)),
        line("orders", &ago(3)),
        line("payment", &ago(1)),
    ];
    let run = bench.run_with_input(["import"], lines.concat().as_bytes());
    assert_eq!(run.code, 0, "{run:?}");
    let mut command = bench.command();
    command.env("DEADLETTER_SLA_THRESHOLDS_BY_DOMAIN", "payment=2").args(["--json", "sla"]);
    let run = super::finish(&mut command, None);
    assert_eq!(run.code, 0, "{run:?}");
    let breached = run.json();
    let ids: Vec<&Value> = breached.as_array().unwrap().iter().map(|entry| &entry["id"]).collect();
    assert_eq!(ids, ["1", "2"]);
    let run = bench.run(["sla"]);
    assert!(run.stdout.contains("orders") && !run.stdout.contains("payment"), "{run:?}");
}

#[test]
fn verbs_that_change_entries_make_no_store() {
    let bench = Bench::new();
    for args in [
        &["resolve", "1"][..],
        &["expire"],
        &["archive"],
        &["cleanup"],
        &["purge", "--older-than", "1", "--yes"],
        &["sla"],
        &["release"],
        &["replay"],
        &["retry", "1"],
        &["redrive", "1", "--reason", "fixed"],
    ] {
        let run = bench.run(args);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{args:?}: {run:?}");
        assert!(run.stderr.contains("no store"), "{args:?}: {run:?}");
        assert!(!bench.store().exists(), "{args:?}");
    }
}
