//! Passes what a command says through to our stderr at once and keeps its end.

use std::collections::VecDeque;
use std::io::Read;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::output;
use crate::run::stdin::{GRACE, Readable, wait_readable};

/// How much of the end is kept.
const KEPT_BYTES_MAX: usize = 64 << 10;
/// How long a background process that holds the pipe open may go on writing after the command
/// has ended.
const AFTER_END_MAX: Duration = Duration::from_secs(1);

/// A thread between an output of the command and our stderr.
pub struct Tee {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Vec<u8>>,
}

impl Tee {
    /// Starts to read, and to pass through unless it is to be quiet.
    pub fn start(pipe: impl Read + AsFd + Send + 'static, quiet: bool) -> Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ended);
        let thread = std::thread::Builder::new()
            .name("output".into())
            .spawn(move || pass(pipe, &seen, quiet))
            .context("cannot start a thread")?;
        Ok(Self { ended, thread })
    }

    /// The command has ended: takes what is there and does not wait for other holders.
    pub fn finish(self) -> Vec<u8> {
        self.ended.store(true, Ordering::Release);
        self.thread.join().unwrap_or_default()
    }
}

fn pass(mut pipe: impl Read + AsFd, ended: &AtomicBool, quiet: bool) -> Vec<u8> {
    let mut kept = VecDeque::new();
    let mut buffer = vec![0; 16 << 10];
    let mut ended_at = None;
    loop {
        if ended_at.is_none() && ended.load(Ordering::Acquire) {
            ended_at = Some(Instant::now());
        }
        let overtime = ended_at.is_some_and(|at| at.elapsed() > AFTER_END_MAX);
        match wait_readable(&pipe, GRACE) {
            Readable::Now if !overtime => {}
            Readable::NotYet if ended_at.is_none() => continue,
            _ => break,
        }
        let count = match pipe.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let read = buffer.get(..count).unwrap_or_default();
        if read.is_empty() {
            break;
        }
        if !quiet {
            output::pass_stderr(read);
        }
        kept.extend(read);
        let excess = kept.len().saturating_sub(KEPT_BYTES_MAX);
        kept.drain(..excess);
    }
    kept.into()
}
