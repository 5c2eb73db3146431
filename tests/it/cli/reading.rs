//! Reading verbs where something is wrong: damage, a full stdout, pages and names that are not there.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Stdio;

use super::Bench;

fn put(bench: &Bench, kind: &str) {
    assert_eq!(bench.run(["put", "--domain", "d", "--type", kind]).code, 0);
}

fn flip(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

#[test]
fn damage_of_the_store_file_is_a_warning_of_every_reading_verb() {
    let bench = Bench::new();
    put(&bench, "A");
    flip(&bench.store().join("STORE"), 30);
    for verb in [&["list"][..], &["show", "last"], &["stats"], &["facets"], &["export"]] {
        let run = bench.run(verb);
        assert_eq!(run.code, 0, "{verb:?} {run:?}");
        assert!(run.stderr.contains("warning: damaged file in STORE"), "{verb:?} {run:?}");
    }
    assert_eq!(bench.run(["verify"]).code, 5);
}

#[test]
fn dump_of_a_file_that_is_no_segment_is_bad_input() {
    let bench = Bench::new();
    put(&bench, "A");
    let run = bench.run([Path::new("dump"), &bench.store().join("STORE")]);
    assert_eq!(run.code, 2, "{run:?}");
    assert!(run.stderr.contains("is not a segment"), "{run:?}");
}

#[test]
fn a_full_stdout_is_an_error_of_help_too() {
    let bench = Bench::new();
    put(&bench, "A");
    for verb in [&["list"][..], &["--json", "stats"], &["--help"], &["--version"], &["man"]] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut command = bench.command();
        let child = command.args(verb).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(74), "{verb:?}");
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(words.starts_with("error: cannot write to stdout\n"), "{verb:?} {words}");
    }
}

#[test]
fn a_page_behind_the_end_says_how_many_entries_there_are() {
    let bench = Bench::new();
    put(&bench, "A");
    let run = bench.run(["list", "--page", "9"]);
    assert_eq!(run.stdout, "no entries\n");
    assert_eq!(run.stderr, "page 9 of 1, 1 entries\n");
}

#[test]
fn a_long_type_does_not_stretch_the_table() {
    let bench = Bench::new();
    put(&bench, &"x".repeat(600));
    let run = bench.run(["list"]);
    assert!(run.stdout.lines().all(|line| line.len() < 200), "{run:?}");
    let run = bench.run(["stats"]);
    assert!(run.stdout.lines().all(|line| line.len() < 200), "{run:?}");
}

#[test]
fn hints_repeat_a_directory_that_was_named() {
    let bench = Bench::new();
    put(&bench, "A");
    let dir = bench.store();
    let dir = dir.to_str().unwrap();
    let run = bench.run(["--dir", dir, "show", "99"]);
    assert_eq!(run.code, 3, "{run:?}");
    let wanted = format!("hint: see the newest entries with: deadletter --dir {dir} list\n");
    assert!(run.stderr.ends_with(&wanted), "{run:?}");
    let run = bench.run(["show", "99"]);
    assert!(run.stderr.ends_with("with: deadletter list\n"), "{run:?}");
}
