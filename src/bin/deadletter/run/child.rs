//! One child process, from its start to its end.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use super::signals::Signals;
use super::stdin::{Kept, Source};
use crate::tee::Tee;

/// The names of the signals from 1, without their common beginning.
const SIGNAL_NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// How the child ended.
pub enum Outcome {
    /// With a code.
    Exited(u8),
    /// By a signal.
    Killed {
        /// Its number.
        number: u8,
        /// Its name, such as `KILL`.
        name: String,
    },
    /// It never began.
    NotStarted {
        /// The code that a shell would use.
        code: u8,
        /// What the system answered.
        reason: String,
    },
}

/// A child that has ended, with what it read and said.
pub struct Ended {
    /// How it ended.
    pub outcome: Outcome,
    /// The end of its stderr.
    pub stderr: Vec<u8>,
    /// Its stdin, as far as it could be kept.
    pub stdin: Kept,
    /// How long it ran.
    pub duration_ms: u64,
}

/// Runs a program to its end. Its stdin is collected only if it failed.
pub fn run(
    program: &OsStr,
    arguments: &[OsString],
    no_stdin: bool,
    stdin_bytes_max: usize,
) -> Result<Ended> {
    let mut source = Source::new(no_stdin, stdin_bytes_max);
    let mut signals = Signals::hold().context("cannot take over signals")?;
    let started = Instant::now();
    let spawned = Command::new(program)
        .args(arguments)
        .stdin(source.stdio())
        .stdout(Stdio::inherit())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            let found = error.kind() != std::io::ErrorKind::NotFound;
            let code = if found { 126 } else { 127 };
            let outcome = Outcome::NotStarted { code, reason: error.to_string() };
            let stdin = source.collect();
            return Ok(Ended { outcome, stderr: Vec::new(), stdin, duration_ms: 0 });
        }
    };
    let pid = Pid::from_child(&child);
    signals.forward_to(pid);
    source.pump_to(child.stdin.take());
    let tee = child.stderr.take().map(|pipe| Tee::start(pipe, false)).transpose()?;
    let status = wait(&mut child, pid, &signals)?;
    let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let stderr = tee.map_or_else(Vec::new, Tee::finish);
    let outcome = outcome_of(status);
    let stdin = match outcome {
        Outcome::Exited(0) => Kept::Nothing,
        _ => source.collect(),
    };
    Ok(Ended { outcome, stderr, stdin, duration_ms })
}

/// Waits for the end in two steps: between them the pid is still the child's, so that a signal is
/// never forwarded to a stranger who got the same number.
fn wait(child: &mut Child, pid: Pid, signals: &Signals) -> Result<ExitStatus> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while let Err(error) = waitid(WaitId::Pid(pid), options) {
        if error != rustix::io::Errno::INTR {
            break;
        }
    }
    signals.stop_forwarding();
    child.wait().context("cannot wait for the command")
}

fn outcome_of(status: ExitStatus) -> Outcome {
    if let Some(signal) = status.signal() {
        let number = u8::try_from(signal).unwrap_or(0);
        let known = usize::from(number).checked_sub(1).and_then(|place| SIGNAL_NAMES.get(place));
        let name = known.map_or_else(|| number.to_string(), |name| (*name).to_owned());
        return Outcome::Killed { number, name };
    }
    Outcome::Exited(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
