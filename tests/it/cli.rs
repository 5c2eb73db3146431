//! The command line as a script sees it: exit codes, stdout, stderr, and what is on disk.

mod doctor;
mod import;
mod operate;
mod put;
mod reading;
mod readme;
mod replay;
mod rescue;
mod run;
mod server;
mod settings;
mod stubborn;
mod summaries;
mod trial;

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A directory for one test, and the program to run on it.
pub struct Bench {
    /// Holds everything of the test.
    pub root: TempDir,
}

/// What a run left.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Bench {
    pub fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    pub fn store(&self) -> PathBuf {
        self.root.path().join("store")
    }

    /// The program with a clean environment, on the test's own store.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_deadletter"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("DEADLETTER_") {
                command.env_remove(name);
            }
        }
        command.env("DEADLETTER_DIR", self.store()).stdin(Stdio::null());
        if let Some(path) = self.path_with_curl() {
            command.env("PATH", path);
        }
        command
    }

    /// A search path with a stand-in for curl, on a machine that has none.
    pub fn path_with_curl(&self) -> Option<OsString> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if std::env::split_paths(&path).any(|folder| folder.join("curl").is_file()) {
            return None;
        }
        let folder = self.root.path().join("bin");
        let curl = folder.join("curl");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(&curl, include_str!("cli/curl.py")).unwrap();
        std::fs::set_permissions(&curl, std::fs::Permissions::from_mode(0o755)).unwrap();
        let folders = std::iter::once(folder).chain(std::env::split_paths(&path));
        Some(std::env::join_paths(folders).unwrap())
    }

    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        finish(self.command().args(args), None)
    }

    pub fn run_with_input<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
        input: &[u8],
    ) -> Run {
        finish(self.command().args(args), Some(input))
    }

    /// Runs with `--json` and expects success.
    pub fn json<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Value {
        let run = finish(self.command().arg("--json").args(args), None);
        assert_eq!(run.code, 0, "{run:?}");
        run.json()
    }
}

impl Run {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn json_lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

pub fn finish(command: &mut Command, input: Option<&[u8]>) -> Run {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.spawn().unwrap();
    if let Some(input) = input {
        // A program that does not read its input closes the pipe, which is its right.
        let _ = child.stdin.take().unwrap().write_all(input);
    }
    let output = child.wait_with_output().unwrap();
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// All files below a directory with their bytes.
fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let Ok(names) = std::fs::read_dir(dir) else { return found };
    for name in names {
        let path = name.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let bytes = std::fs::read(&path).unwrap();
            found.push((path, bytes));
        }
    }
    found.sort();
    found
}

#[test]
fn reading_verbs_do_not_create_a_store() {
    let bench = Bench::new();
    for verb in
        [&["list"][..], &["show", "last"], &["stats"], &["facets"], &["export"], &["verify"]]
    {
        let run = bench.run(verb);
        assert_eq!(run.code, 2, "{verb:?} {run:?}");
        assert!(run.stderr.contains("there is no store in"), "{run:?}");
        assert!(run.stderr.contains("\nhint: "), "{run:?}");
        assert_eq!(run.stdout, "");
    }
    assert!(!bench.store().exists());
}

#[test]
fn listing_has_the_keys_of_the_reference() {
    let bench = Bench::new();
    for number in 0..5 {
        let kind = if number == 4 { "B" } else { "A" };
        assert_eq!(bench.run(["put", "--domain", "d", "--type", kind]).code, 0);
    }
    let listing = bench.json(["list", "--page-size", "2", "--page", "2"]);
    assert_eq!(listing["results"].as_array().unwrap().len(), 2);
    for (key, wanted) in [("page", 2), ("page_size", 2), ("total_pages", 3), ("total_count", 5)] {
        assert_eq!(listing[key], wanted, "{key}");
    }
    assert_eq!(listing["has_next"], true);
    assert_eq!(listing["has_previous"], true);
    let newest = &bench.json(["list", "--page-size", "1"])["results"][0];
    assert_eq!(newest["failure_type"], "B");
    let after = newest["id"].as_str().unwrap();
    assert_eq!(bench.json(["list", "--after", after])["results"].as_array().unwrap().len(), 4);
    let oldest = &bench.json(["list", "--sort", "oldest", "--page-size", "1"])["results"][0];
    assert!(oldest["id"].as_str().unwrap().parse::<u64>().unwrap() < after.parse().unwrap());
    assert_eq!(bench.json(["list", "--type", "B"])["total_count"], 1);
    assert_eq!(bench.json(["list", "--status", "resolved"])["total_count"], 0);
    let facets = bench.json(["facets"]);
    assert_eq!(facets["by_domain"]["d"], 5);
    assert_eq!(facets["by_status"]["pending"], 5);
    let stats = bench.json(["stats"]);
    assert_eq!(stats["total"], 5);
    assert_eq!(stats["pending_count"], 5);
    assert_eq!(stats["accounting"]["live"], 5);
    assert!(stats["bytes"]["log"].is_u64());
    for size in ["0", "1001", "x"] {
        let run = bench.run(["list", "--page-size", size]);
        assert_eq!(run.code, 2, "{run:?}");
        assert!(run.stderr.contains("--page-size"), "{run:?}");
    }
}

#[test]
fn show_finds_by_id_by_key_and_last() {
    let bench = Bench::new();
    assert_eq!(bench.run(["put", "--domain", "d", "--type", "A", "--key", "mine"]).code, 0);
    let entry = bench.json(["show", "last"]);
    let id = entry["id"].as_str().unwrap();
    assert_eq!(entry["key"], "mine");
    for key in ["not_before", "archived_at", "attempts", "audit", "request_data", "created_at"] {
        assert!(entry.get(key).is_some(), "{key}");
    }
    assert_eq!(bench.json(["show", id]), entry);
    assert_eq!(bench.json(["show", "--key", "mine"]), entry);
    assert_eq!(bench.run(["show", "999999"]).code, 3);
    assert_eq!(bench.run(["show", "--key", "other"]).code, 3);
    assert_eq!(bench.run(["show", "abc"]).code, 2);
    assert_eq!(bench.run(["show", "-1"]).code, 2);
}

#[test]
fn captured_control_characters_do_not_reach_a_person() {
    let bench = Bench::new();
    let hostile = "a\u{1b}[31mb\rc\u{9b}d\u{202e}e";
    let put = ["put", "--domain", "d", "--type", hostile, "--error-message", hostile];
    assert_eq!(bench.run(put).code, 0);
    let script = "printf 'x\\033[2Jy\\n' >&2; exit 1";
    let run = bench.run(["run", "--", "sh", "-c", script]);
    assert!(run.stderr.starts_with("x\u{1b}[2Jy\n"), "the command's own words pass: {run:?}");
    for verb in [&["list"][..], &["show", "last"], &["facets"], &["stats"]] {
        let run = bench.run(verb);
        assert_eq!(run.code, 0, "{run:?}");
        let bad = |character: char| character != '\n' && character.is_control();
        assert!(!run.stdout.contains(bad), "{verb:?} {run:?}");
        assert!(!run.stdout.contains('\u{202e}'), "{verb:?} {run:?}");
    }
    let shown = bench.run(["list"]).stdout;
    assert!(shown.contains("a\\x1b[31mb\\rc\\x9bd\\u{202e}e"), "{shown}");
}

#[test]
fn verify_dump_checkpoint_and_rebuild_say_what_they_did() {
    let bench = Bench::new();
    assert_eq!(bench.run(["put", "--domain", "d", "--type", "A"]).code, 0);
    let before = files(&bench.store());
    let report = bench.json(["verify"]);
    assert_eq!(report["entries"], 1);
    assert_eq!(report["damage"], Value::Array(Vec::new()));
    assert_eq!(files(&bench.store()), before, "verify changes nothing");
    assert!(bench.json(["checkpoint"]).is_object());
    assert!(bench.json(["rebuild-index"]).is_object());
    assert_eq!(bench.run(["dump", "no-such-file"]).code, 74);
}

#[test]
fn a_closed_stdout_ends_quietly() {
    let bench = Bench::new();
    for _ in 0..3 {
        assert_eq!(bench.run(["put", "--domain", "d", "--type", "A"]).code, 0);
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = bench.command();
    let output = command.arg("export").stdout(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn completions_and_manual_go_to_stdout() {
    let bench = Bench::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let run = bench.run(["completions", shell]);
        assert_eq!(run.code, 0, "{run:?}");
        assert!(run.stdout.contains("rebuild-index"), "{shell}");
    }
    let manual = bench.run(["man"]);
    assert_eq!(manual.code, 0);
    assert!(manual.stdout.contains("deadletter-import"), "pages of the verbs");
    assert!(manual.stdout.contains("lock_wait"), "the settings");
    assert_eq!(bench.run(["completions", "tcsh"]).code, 2);
    assert_eq!(bench.run(["--version"]).stdout, "deadletter 0.1.0\n");
    assert_eq!(bench.run(["no-such-verb"]).code, 2);
}

/// The help of every verb is kept in a file; `UPDATE_EXPECT=1` writes it again.
#[test]
fn help_is_as_written_down() {
    let bench = Bench::new();
    let mut help = String::new();
    for verb in [
        "",
        "run",
        "put",
        "import",
        "export",
        "list",
        "show",
        "stats",
        "facets",
        "sla",
        "summaries",
        "replay",
        "retry",
        "redrive",
        "resolve",
        "release",
        "expire",
        "archive",
        "purge",
        "cleanup",
        "verify",
        "salvage",
        "doctor",
        "dump",
        "rebuild-index",
        "compact",
        "checkpoint",
        "drain",
        "completions",
        "man",
    ] {
        let mut command = bench.command();
        command.env("COLUMNS", "100").args((!verb.is_empty()).then_some(verb)).arg("--help");
        let run = finish(&mut command, None);
        assert_eq!(run.code, 0, "{run:?}");
        assert!(run.stdout.contains("xample"), "{verb} has an example");
        help.push_str(&format!("$ deadletter {verb} --help\n{}\n", run.stdout));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/cli/help.txt");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, &help).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(written == help, "run with UPDATE_EXPECT=1 and read the difference\n{help}");
}
