//! Limits and summaries at a shell.

use serde_json::json;

use super::{Bench, finish};

fn lines(count: usize) -> String {
    let line =
        |number| format!("{{\"domain\":\"mail\",\"failure_type\":\"T\",\"key\":\"{number}\"}}\n");
    (0..count).map(line).collect()
}

#[test]
fn what_was_evicted_is_summed_up() {
    let bench = Bench::new();
    assert_eq!(bench.run(["summaries"]).code, 2, "there is no store");
    assert_eq!(bench.run_with_input(["import"], lines(100).as_bytes()).code, 0);
    let run = bench.run(["summaries"]);
    assert_eq!(
        run.stdout,
        "no summaries\n0 entries in 0 summaries (0 active, 0 stale, 0 archived)\n"
    );
    let mut command = bench.command();
    command.env("DEADLETTER_MAX_SIZE_PER_DOMAIN", "100");
    command.env("DEADLETTER_OVERFLOW_STRATEGY", "compress_oldest");
    command.args(["put", "--domain", "mail", "--type", "T", "--error-message", "\u{1b}[31mred"]);
    assert_eq!(finish(&mut command, None).code, 0);
    let report = bench.json(["summaries", "--domain", "mail", "--status", "active"]);
    let summary = &report["results"][0];
    assert!(summary["id"].as_str().unwrap().starts_with("compressed:mail:T::"), "{report}");
    assert_eq!((&summary["count"], &summary["status"]), (&json!(21), &json!("active")));
    assert_eq!((&summary["stale_at"], &summary["archived_at"]), (&json!(null), &json!(null)));
    let context = json!({ "entity_type": null, "entity_id": null, "metadata": {} });
    assert_eq!(summary["sample_context"], context);
    assert_eq!(
        (&report["total_summaries"], &report["total_compressed_items"]),
        (&json!(1), &json!(21))
    );
    assert_eq!(report["by_status"], json!({ "active": 1, "stale": 0, "archived": 0 }));
    let stale = bench.json(["summaries", "--status", "stale"]);
    assert_eq!((&stale["results"], &stale["total_summaries"]), (&json!([]), &json!(1)));
    let run = bench.run(["summaries"]);
    assert!(run.stdout.starts_with("STATUS"), "{run:?}");
    assert!(run.stdout.ends_with("21 entries in 1 summaries (1 active, 0 stale, 0 archived)\n"));
    assert_eq!(bench.run(["summaries", "--status", "none"]).code, 2);
    assert_eq!(bench.json(["stats"])["accounting"]["evicted"], 21);
}

#[test]
fn over_the_limit_nothing_is_captured() {
    let bench = Bench::new();
    let limited = |args: &[&str], input: Option<&[u8]>| {
        let mut command = bench.command();
        command.env("DEADLETTER_MAX_SIZE_PER_DOMAIN", "100");
        command.env("DEADLETTER_OVERFLOW_STRATEGY", "reject").args(args);
        finish(&mut command, input)
    };
    let run = limited(&["import", "--batch", "64"], Some(lines(120).as_bytes()));
    assert_eq!(run.code, 8, "{run:?}");
    assert!(run.stderr.contains("line 101 was not stored"), "{run:?}");
    assert_eq!(bench.json(["list"])["total_count"], 100, "what fits is stored");
    let other = "{\"domain\":\"other\",\"failure_type\":\"T\"}\n";
    let mixed = lines(102) + other;
    let args = ["--json", "import", "--on-error", "skip"];
    let run = limited(&args, Some(mixed.as_bytes()));
    assert_eq!(run.code, 8, "something is not captured: {run:?}");
    let summary = run.json();
    assert_eq!((&summary["offered"], &summary["stored"]), (&json!(103), &json!(1)));
    assert_eq!((&summary["refused"], &summary["errors"][1]["line"]), (&json!(2), &json!(102)));
    let run = limited(&["--json", "put", "--domain", "mail", "--type", "T"], None);
    assert_eq!(run.code, 8, "{run:?}");
    assert_eq!(
        (&run.json()["durability"], &run.json()["fallback_path"]),
        (&json!("none"), &json!(null))
    );
    assert!(run.stderr.contains("max_size_per_domain"), "{run:?}");
    let run = limited(&["run", "--domain", "mail", "--", "sh", "-c", "exit 3"], None);
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.stderr.contains("max_size_per_domain"), "{run:?}");
    assert_eq!(bench.json(["list"])["total_count"], 101);
}

/// At the bound of the directory an import stores what fits, names the line, and the rest can be
/// imported later; where the oldest may go it goes on.
#[test]
fn an_import_at_the_bound_of_the_directory_names_the_first_line_that_is_left_out() {
    let text = (0..500).map(|number| {
        let pad = "p".repeat(4000);
        format!(
            "{{\"domain\":\"d\",\"failure_type\":\"T\",\"key\":\"k{number}\",\
             \"request_data\":{{\"x\":\"{pad}\"}}}}\n"
        )
    });
    let text: String = text.collect();
    for (strategy, code) in [("reject", 8), ("drop_oldest", 0)] {
        let bench = Bench::new();
        let import = |max_bytes: &str| {
            let mut command = bench.command();
            command.env("DEADLETTER_MAX_BYTES", max_bytes);
            command.env("DEADLETTER_OVERFLOW_STRATEGY", strategy);
            command.env("DEADLETTER_REQUEST_DATA_MAX_BYTES", "8192");
            command.env("DEADLETTER_FIELD_MAX_BYTES", "8192");
            // Half of a segment, which is 64 KiB here, bounds a batch.
            command.args(["--json", "import", "--batch", "5"]);
            finish(&mut command, Some(text.as_bytes()))
        };
        let run = import("1048576");
        assert_eq!(run.code, code, "{run:?}");
        let summary = run.json();
        if code == 0 {
            assert_eq!(summary["stored"], 500);
            continue;
        }
        let stored = summary["stored"].as_u64().unwrap();
        assert!((100..250).contains(&stored), "{run:?}");
        assert_eq!(summary["errors"][0]["line"], stored + 1);
        assert!(run.stderr.contains(&format!("line {} was not stored", stored + 1)), "{run:?}");
        assert_eq!(bench.json(["list"])["total_count"], stored);
        let summary = import("16777216").json();
        assert_eq!((&summary["duplicates"], &summary["offered"]), (&json!(stored), &json!(500)));
    }
}
