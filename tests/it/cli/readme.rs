//! The quick start of the readme: its lines are run, and print what it says.

use std::path::Path;
use std::process::{Command, Stdio};

use super::server::closed_port;
use super::{Bench, finish};

/// How the readme calls the program, and on which port the other side listens there.
const CALL: &str = "cargo run --release --features cli --";
const PORT: &str = "18080";

/// A line that is typed, and the lines that follow it.
struct Step {
    command: String,
    printed: Vec<String>,
}

/// The lines of the console blocks of one section.
fn steps(section: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for line in section.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if let (true, Some(command)) = (inside, line.strip_prefix("$ ")) {
            steps.push(Step { command: command.to_owned(), printed: Vec::new() });
        } else if inside {
            steps.last_mut().unwrap().printed.push(line.to_owned());
        }
    }
    steps
}

/// A line without what differs from run to run: numbers, widths, and how long a connection took.
fn settled(line: &str) -> String {
    let line = line.split(" after ").next().unwrap_or_default();
    let words: Vec<String> = line
        .split_whitespace()
        .map(|word| {
            let digits = word.split(|letter: char| letter.is_ascii_digit());
            digits.filter(|part| !part.is_empty()).collect::<Vec<_>>().join("#")
        })
        .collect();
    words.join(" ")
}

#[test]
fn the_quick_start_ends_with_a_delivery() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let section = readme.split("## Use it from a shell").nth(1).unwrap();
    let steps = steps(section.split("Run all tests with:").next().unwrap());
    assert!(steps.len() >= 8, "the quick start is not found");
    let bench = Bench::new();
    let port = closed_port().to_string();
    let mut script = String::new();
    for (number, step) in steps.iter().enumerate() {
        // The mark goes before the command and keeps the exit code for `echo $?`.
        script.push_str(&format!("code=$?; echo '@@{number}'; (exit $code)\n{}\n", step.command));
    }
    let script = script.replace(CALL, env!("CARGO_BIN_EXE_deadletter")).replace(PORT, &port);
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("exec 2>&1\n{script}")).current_dir(bench.root.path());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DEADLETTER_") {
            command.env_remove(name);
        }
    }
    if let Some(path) = bench.path_with_curl() {
        command.env("PATH", path);
    }
    let run = finish(command.stdin(Stdio::null()), None);
    let mut parts = run.stdout.split("@@").skip(1);
    for (number, step) in steps.iter().enumerate() {
        let part = parts.next().unwrap_or_else(|| panic!("{} did not run: {run:?}", step.command));
        let printed: Vec<String> = part.lines().skip(1).map(settled).collect();
        let promised: Vec<String> = step.printed.iter().map(|line| settled(line)).collect();
        assert_eq!(part.lines().next(), Some(number.to_string().as_str()), "{run:?}");
        assert_eq!(printed, promised, "{}: {part}", step.command);
    }
    assert!(run.stdout.contains("1 delivered, 0 failed"), "{run:?}");
    assert!(run.stdout.contains("resolved"), "{run:?}");
}
