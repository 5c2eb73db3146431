//! Runs a captured command again, as it was captured and without a shell.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::process::Command;

use deadletter::{Entry, Outcome, ReplayAttempt, ReplayHandler, Verdict};
use serde_json::Value;

use super::{Stop, process};
use crate::bytes;
use crate::run::last_line;

/// Runs commands that `run` captured on this store.
pub struct Rerun {
    quiet: bool,
    stop: Stop,
}

/// What `run` stored of a command.
struct Captured {
    argv: Vec<OsString>,
    cwd: Option<OsString>,
    env: Vec<(String, OsString)>,
    stdin: Option<Vec<u8>>,
}

impl Rerun {
    pub fn new(quiet: bool, stop: Stop) -> Self {
        Self { quiet, stop }
    }
}

impl ReplayHandler for Rerun {
    fn can_replay(&self, entry: &Entry) -> Verdict {
        if !entry.runnable {
            let reason = "it was not captured by `run` on this store; name a handler with --exec";
            return Verdict::No(reason.into());
        }
        match captured(entry) {
            Ok(_) => Verdict::Yes,
            Err(reason) => Verdict::No(reason.into()),
        }
    }

    fn replay(&self, attempt: &ReplayAttempt<'_>) -> Outcome {
        if self.stop.asked() {
            return Outcome::throttled(Some(super::STOPPED));
        }
        let entry = attempt.entry();
        let Captured { argv, cwd, env, stdin } = match captured(entry) {
            Ok(captured) => captured,
            Err(reason) => return Outcome::failure(reason),
        };
        let Some((program, arguments)) = argv.split_first() else {
            return Outcome::failure("it has no command");
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .envs(env)
            .env("DEADLETTER_ID", entry.operation.id.to_string())
            .env("DEADLETTER_ATTEMPT", attempt.number().to_string());
        if let Some(cwd) = cwd.map(PathBuf::from) {
            // The system would only say that there is no such file, as if the program were gone.
            if !cwd.is_dir() {
                let place = cwd.display();
                return Outcome::failure(format!("its working directory {place} is not there"));
            }
            command.current_dir(cwd);
        }
        match process::run(command, stdin, self.quiet, attempt) {
            Ok(ended) if ended.status.success() => super::delivered(),
            Ok(ended) => {
                let said = last_line(&ended.stderr);
                let colon = if said.is_empty() { "" } else { ": " };
                Outcome::failure(format!("{}{colon}{said}", ended.status))
            }
            Err(reason) => Outcome::failure(reason),
        }
    }
}

/// What the entry says of its command, or why it cannot be run.
fn captured(entry: &Entry) -> Result<Captured, &'static str> {
    let request: Value = serde_json::from_str(entry.operation.request_data.as_str())
        .map_err(|_| "its request is not what `run` stores")?;
    let argv = request.get("argv").and_then(Value::as_array).ok_or("its request has no argv")?;
    let argv: Option<Vec<OsString>> = argv.iter().map(text_of).collect();
    let argv = argv.filter(|argv| argv.first().is_some_and(|program| program != OsStr::new("")));
    let cwd = match request.get("cwd") {
        None | Some(Value::Null) => None,
        Some(cwd) => Some(text_of(cwd).ok_or("its working directory cannot be read")?),
    };
    let env = request.get("env").and_then(Value::as_object);
    let env: Option<Vec<_>> = env
        .into_iter()
        .flatten()
        .map(|(name, value)| Some((name.clone(), text_of(value)?)))
        .collect();
    let stdin = match request.get("stdin") {
        None | Some(Value::Null) => None,
        Some(Value::Object(marker)) if marker.contains_key("_truncated") => {
            return Err("its stdin was over the limit and is not complete");
        }
        Some(stdin) => Some(bytes::decode(stdin).ok_or("its stdin cannot be read")?),
    };
    Ok(Captured {
        argv: argv.ok_or("its argv cannot be read")?,
        cwd,
        env: env.ok_or("its environment cannot be read")?,
        stdin,
    })
}

fn text_of(value: &Value) -> Option<OsString> {
    bytes::decode(value).map(OsString::from_vec)
}
