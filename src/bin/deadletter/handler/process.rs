//! One run of a program as a handler: feeds it, passes its output to our stderr, keeps the lease.

use std::io::Write as _;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};
use deadletter::ReplayAttempt;

use crate::tee::Tee;

/// How often the lease is extended while a program runs; leases hold for at least 5 minutes.
const HEARTBEAT: Duration = Duration::from_mins(1);

/// What a program left.
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// The end of its stdout.
    pub stdout: Vec<u8>,
    /// The end of its stderr.
    pub stderr: Vec<u8>,
}

/// Runs a program to its end. `input` is its whole stdin; `None` means that it has none.
pub fn run(
    mut command: Command,
    input: Option<Vec<u8>>,
    quiet: bool,
    attempt: &ReplayAttempt<'_>,
) -> Result<Ended, String> {
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command.spawn().map_err(|error| format!("cannot start {program}: {error}"))?;
    if let (Some(input), Some(pipe)) = (input, child.stdin.take()) {
        feed(pipe, input);
    }
    let stdout = child.stdout.take().map(|pipe| Tee::start(pipe, quiet)).transpose();
    let stderr = child.stderr.take().map(|pipe| Tee::start(pipe, quiet)).transpose();
    let status = wait(&mut child, attempt).map_err(|error| error.to_string())?;
    let text =
        |tee: anyhow::Result<Option<Tee>>| tee.ok().flatten().map_or_else(Vec::new, Tee::finish);
    Ok(Ended { status, stdout: text(stdout), stderr: text(stderr) })
}

/// Writes the whole stdin, in a thread that is never joined: it may be blocked for as long as a
/// background process holds the other side.
fn feed(mut pipe: ChildStdin, input: Vec<u8>) {
    let work = move || {
        // A program that does not read its input closes the pipe, which is its right.
        let _ = pipe.write_all(&input);
    };
    // Without the thread the program sees an empty stdin, and says so itself.
    let _ = std::thread::Builder::new().name("stdin".into()).spawn(work);
}

/// Waits for the end, and keeps the lease meanwhile.
fn wait(child: &mut Child, attempt: &ReplayAttempt<'_>) -> std::io::Result<ExitStatus> {
    let (ended, waits) = bounded::<()>(0);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while waits.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
                // A lease that was lost shows when the outcome is refused.
                attempt.heartbeat();
            }
        });
        let status = child.wait();
        drop(ended);
        status
    })
}
