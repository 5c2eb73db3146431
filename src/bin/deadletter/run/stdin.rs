//! Gives the command its stdin and keeps a copy, within a limit and without ever waiting for it.
//!
//! A regular file is inherited as it is and copied afterwards. A pipe is pumped through us while
//! the command runs. A terminal or another device is inherited and not kept.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _};
use std::process::{ChildStdin, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long a silent pipe counts as possibly still busy.
pub const GRACE: Duration = Duration::from_millis(100);
/// The most time that collecting what is there may take after the command has ended.
const COLLECT_MAX: Duration = Duration::from_secs(1);
const BUFFER_BYTES: usize = 64 << 10;

/// What was kept of stdin.
pub enum Kept {
    /// Nothing was to be kept.
    Nothing,
    /// All that was read.
    Bytes {
        /// The bytes.
        bytes: Vec<u8>,
        /// Whether the end was seen.
        ended: bool,
    },
    /// More than the limit: only the count.
    TooLong {
        /// How much was read, at least.
        size: u64,
    },
}

/// Whether a read would block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readable {
    /// There are bytes, or the end, or an error.
    Now,
    /// Nothing within the time.
    NotYet,
}

/// Where stdin comes from.
pub struct Source {
    kind: Kind,
    bytes_max: usize,
}

enum Kind {
    Null,
    Inherited,
    Regular { file: File, start: u64 },
    Pipe { file: File, pump: Option<Pump> },
}

struct Pump {
    copy: Arc<Mutex<Copy>>,
    ended: Arc<AtomicBool>,
    /// Disconnected when the thread has ended; it may be blocked for as long as a background
    /// process holds the other side, so it is never joined.
    done: Receiver<()>,
}

/// What the pump has read so far.
#[derive(Default)]
struct Copy {
    bytes: Vec<u8>,
    size: u64,
    bytes_max: usize,
    ended: bool,
}

impl Source {
    /// Looks at our stdin.
    pub fn new(no_stdin: bool, bytes_max: usize) -> Self {
        let kind = if no_stdin { Kind::Null } else { own_stdin().unwrap_or(Kind::Inherited) };
        Self { kind, bytes_max }
    }

    /// What the command gets.
    pub fn stdio(&self) -> Stdio {
        match &self.kind {
            Kind::Null => Stdio::null(),
            Kind::Inherited | Kind::Regular { .. } => Stdio::inherit(),
            Kind::Pipe { .. } => Stdio::piped(),
        }
    }

    /// Starts to pass a pipe on.
    pub fn pump_to(&mut self, target: Option<ChildStdin>) {
        let Kind::Pipe { file, pump } = &mut self.kind else { return };
        let (Some(target), Ok(input)) = (target, file.try_clone()) else { return };
        let copy = Arc::new(Mutex::new(Copy { bytes_max: self.bytes_max, ..Copy::default() }));
        let ended = Arc::new(AtomicBool::new(false));
        let (alive, done) = bounded(0);
        let (copied, seen) = (Arc::clone(&copy), Arc::clone(&ended));
        let work = move || {
            pass(input, target, &copied, &seen);
            drop(alive);
        };
        // Without the thread the command sees an empty stdin, and the entry says that it is
        // incomplete.
        let _ = std::thread::Builder::new().name("stdin".into()).spawn(work);
        *pump = Some(Pump { copy, ended, done });
    }

    /// The command has ended: takes what was kept and what is there without waiting.
    pub fn collect(self) -> Kept {
        match self.kind {
            Kind::Null | Kind::Inherited => Kept::Nothing,
            Kind::Regular { file, start } => copy_file(&file, start, self.bytes_max),
            Kind::Pipe { file, pump } => {
                let mut copy = Copy { bytes_max: self.bytes_max, ..Copy::default() };
                let mut idle = true;
                if let Some(pump) = pump {
                    pump.ended.store(true, Ordering::Release);
                    let finished = pump.done.recv_timeout(2 * GRACE);
                    idle = finished != Err(crossbeam_channel::RecvTimeoutError::Timeout);
                    copy = std::mem::take(&mut *lock(&pump.copy));
                }
                // A pump that is still busy owns the pipe; taking bytes beside it would tear it.
                if idle && !copy.ended {
                    drain(file, &mut copy);
                }
                copy.into_kept()
            }
        }
    }
}

impl Copy {
    fn add(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        if self.size <= self.bytes_max as u64 {
            self.bytes.extend_from_slice(bytes);
        } else {
            self.bytes = Vec::new();
        }
    }

    fn too_long(&self) -> bool {
        self.size > self.bytes_max as u64
    }

    fn into_kept(self) -> Kept {
        if self.too_long() {
            return Kept::TooLong { size: self.size };
        }
        Kept::Bytes { bytes: self.bytes, ended: self.ended }
    }
}

/// Waits until a read would not block, at most this long.
pub fn wait_readable(file: impl AsFd, time: Duration) -> Readable {
    let mut files = [PollFd::new(&file, PollFlags::IN)];
    let time = Timespec::try_from(time).ok();
    match poll(&mut files, time.as_ref()) {
        Ok(0) | Err(rustix::io::Errno::INTR) => Readable::NotYet,
        _ => Readable::Now,
    }
}

fn own_stdin() -> io::Result<Kind> {
    // A second descriptor of the same open file: our standard stream keeps a buffer, which
    // would swallow what belongs to the command.
    let mut file = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let kind = file.metadata()?.file_type();
    if kind.is_file() {
        let start = file.stream_position()?;
        return Ok(Kind::Regular { file, start });
    }
    if kind.is_char_device() || kind.is_dir() {
        return Ok(Kind::Inherited);
    }
    Ok(Kind::Pipe { file, pump: None })
}

fn pass(mut input: File, mut target: ChildStdin, copy: &Mutex<Copy>, ended: &AtomicBool) {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        if wait_readable(&input, GRACE) == Readable::NotYet {
            if ended.load(Ordering::Acquire) {
                return;
            }
            continue;
        }
        let Some(read) = read_some(&mut input, &mut buffer) else { return };
        if read.is_empty() {
            lock(copy).ended = true;
            return;
        }
        // Kept before it is passed on: what the command has seen is never missing.
        lock(copy).add(read);
        if target.write_all(read).is_err() {
            return;
        }
    }
}

/// Takes what is still in the pipe, for a command that ended without reading it.
fn drain(mut input: File, copy: &mut Copy) {
    let started = Instant::now();
    let mut buffer = vec![0; BUFFER_BYTES];
    while !copy.too_long() && started.elapsed() < COLLECT_MAX {
        if wait_readable(&input, GRACE) == Readable::NotYet {
            return;
        }
        let Some(read) = read_some(&mut input, &mut buffer) else { return };
        if read.is_empty() {
            copy.ended = true;
            return;
        }
        copy.add(read);
    }
}

fn read_some<'a>(input: &mut File, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    loop {
        match input.read(buffer) {
            Ok(count) => return buffer.get(..count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

/// Reads a regular file from where the command began, without moving anybody's offset.
fn copy_file(file: &File, start: u64, bytes_max: usize) -> Kept {
    let size = file.metadata().map_or(0, |metadata| metadata.len()).saturating_sub(start);
    if size > bytes_max as u64 {
        return Kept::TooLong { size };
    }
    let mut bytes = Vec::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    // The file may still grow; what was there at the first look is enough.
    while (bytes.len() as u64) < size {
        match file.read_at(&mut buffer, start + bytes.len() as u64) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Kept::Bytes { bytes, ended: false },
        }
    }
    bytes.truncate(usize::try_from(size).unwrap_or(usize::MAX));
    Kept::Bytes { bytes, ended: true }
}

fn lock(copy: &Mutex<Copy>) -> MutexGuard<'_, Copy> {
    copy.lock().unwrap_or_else(PoisonError::into_inner)
}
