//! `--exec`: any program as the handler. It gets the entry as JSON on stdin.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use deadletter::{Outcome, ReplayAttempt, ReplayHandler};

use super::{Stop, process};
use crate::failure::Refusal;
use crate::run::last_line;

/// The exit code that asks to come back later (`EX_TEMPFAIL` of sysexits.h).
const THROTTLED: i32 = 75;
/// What the last line of stdout begins with when it says how much later.
const RETRY_AFTER: &str = "retry-after:";
/// The longest time that a program may ask for.
const RETRY_AFTER_MAX_S: f64 = 30.0 * 24.0 * 3600.0;
/// How much of a program is read to see what it is: as much as the system reads.
const START_BYTES_MAX: u64 = 256;

/// Runs a program for each entry.
pub struct Exec {
    program: PathBuf,
    arguments: Vec<String>,
    quiet: bool,
    stop: Stop,
}

impl Exec {
    /// Finds the program. The text is a program, or a program with its arguments in the quoting
    /// of a shell; no shell runs it.
    pub fn new(text: &str, quiet: bool, stop: Stop) -> Result<Self> {
        let (program, arguments) = words(text)?;
        let program = find(&program)
            .ok_or_else(|| Refusal::usage(format!("--exec {program}: no such program to run")))?;
        if let Some(reason) = why_not(&program) {
            let message = format!("--exec {}: {reason}", program.display());
            return Err(Refusal::usage(message).into());
        }
        Ok(Self { program, arguments, quiet, stop })
    }
}

impl ReplayHandler for Exec {
    fn replay(&self, attempt: &ReplayAttempt<'_>) -> Outcome {
        if self.stop.asked() {
            return Outcome::throttled(Some(super::STOPPED));
        }
        let entry = attempt.entry();
        let input = match serde_json::to_vec(entry) {
            Ok(input) => input,
            Err(error) => return Outcome::failure(format!("cannot write the entry: {error}")),
        };
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .env("DEADLETTER_ID", entry.operation.id.to_string())
            .env("DEADLETTER_ATTEMPT", attempt.number().to_string());
        match process::run(command, Some(input), self.quiet, attempt) {
            Ok(ended) if ended.status.success() => super::delivered(),
            Ok(ended) if ended.status.code() == Some(THROTTLED) => {
                let retry_after = retry_after(&ended.stdout);
                Outcome::Throttled { retry_after, note: last_line(&ended.stderr) }
            }
            Ok(ended) => {
                let said = last_line(&ended.stderr);
                let colon = if said.is_empty() { "" } else { ": " };
                Outcome::failure(format!("{}{colon}{said}", ended.status))
            }
            Err(reason) => {
                // It could start when we looked, so it is no entry's fault that it cannot now.
                self.stop.give_up(reason.clone());
                Outcome::Throttled { retry_after: Some(super::STOPPED), note: reason }
            }
        }
    }
}

/// A program that is there under the whole text, else the text's words.
fn words(text: &str) -> Result<(String, Vec<String>)> {
    if text.contains('/') && find(text).is_some() {
        return Ok((text.to_owned(), Vec::new()));
    }
    let words = shell_words::split(text)
        .map_err(|error| Refusal::usage(format!("--exec cannot be split into words: {error}")))?;
    let mut words = words.into_iter();
    let program = words.next().ok_or_else(|| Refusal::usage("--exec names no program"))?;
    Ok((program, words.collect()))
}

/// The file of a program: itself when it has a slash, else from the search path.
fn find(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        let path = PathBuf::from(program);
        return is_executable(&path).then_some(path);
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
    let folders = std::env::split_paths(&path).filter(|folder| !folder.as_os_str().is_empty());
    folders.map(|folder| folder.join(program)).find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    let no_name = path.as_os_str().as_bytes().is_empty();
    let access = rustix::fs::access(path, rustix::fs::Access::EXEC_OK);
    !no_name && path.is_file() && access.is_ok()
}

/// Why the system would not start a file that may be executed, as far as its first bytes say.
fn why_not(path: &Path) -> Option<String> {
    let mut start = Vec::new();
    // What can be executed and not read is left to the system.
    File::open(path).ok()?.take(START_BYTES_MAX).read_to_end(&mut start).ok()?;
    if let Some(line) = start.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next()?.trim_ascii_start();
        let name = line.split(|byte| matches!(byte, b' ' | b'\t')).next()?;
        let interpreter = Path::new(OsStr::from_bytes(name));
        let reason = format!("its first line names {}, which cannot be run", interpreter.display());
        return (!is_executable(interpreter)).then_some(reason);
    }
    // A shell tells a script from a program in the same way.
    let is_text = !start.contains(&0);
    is_text.then(|| "it has no first line that says what runs it, such as #!/bin/sh".to_owned())
}

/// What the last line of stdout asks for.
fn retry_after(stdout: &[u8]) -> Option<Duration> {
    let text = String::from_utf8_lossy(stdout);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    let (name, value) = line.split_at_checked(RETRY_AFTER.len())?;
    let seconds: f64 = value.trim().parse().ok()?;
    let known = name.eq_ignore_ascii_case(RETRY_AFTER) && seconds >= 0.0;
    let bounded = seconds.min(RETRY_AFTER_MAX_S);
    known.then(|| Duration::try_from_secs_f64(bounded).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_say_when_to_come_back() {
        for (stdout, wanted) in [
            ("retry-after: 30\n", Some(30.0)),
            ("work\nRetry-After:1.5\n\n", Some(1.5)),
            ("retry-after: 1e99", Some(RETRY_AFTER_MAX_S)),
            ("retry-after: 30\nlast words", None),
            ("retry-after: -1", None),
            ("retry-after: soon", None),
            ("retry", None),
            ("", None),
        ] {
            let wanted = wanted.map(Duration::from_secs_f64);
            assert_eq!(retry_after(stdout.as_bytes()), wanted, "{stdout:?}");
        }
    }

    #[test]
    fn words_are_split_without_a_shell() {
        let (program, arguments) = words("curl -d '{\"a\": 1}' $HOME").unwrap();
        assert_eq!(program, "curl");
        assert_eq!(arguments, ["-d", "{\"a\": 1}", "$HOME"]);
        assert!(words("sh -c 'open").is_err());
        assert!(words(" ").is_err());
    }
}
