//! A watch on a folder of the real disk, by inotify.
//!
//! While the folder is missing, the nearest folder above it is watched, so that its making is seen.
//! The system forgets a watch when the folder goes; so it is set anew before each wait, which costs
//! nothing when it is there.
//!
//! Invariant: what appears after the folder was armed is in the queue of the system, so nothing is
//! missed between two waits.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

use super::Watch;

/// A file that got its name, and one that was written in place.
const IN_FOLDER: WatchFlags =
    WatchFlags::MOVED_TO.union(WatchFlags::CLOSE_WRITE).union(WatchFlags::ONLYDIR);
/// A folder that may be the one, or lead to it.
const ABOVE: WatchFlags = WatchFlags::CREATE.union(WatchFlags::MOVED_TO).union(WatchFlags::ONLYDIR);
/// Events that are read at once; what they say does not matter.
const EVENT_BYTES: usize = 4096;

/// A folder that is watched.
#[derive(Debug)]
pub(super) struct FolderWatch {
    dir: PathBuf,
    events: OwnedFd,
    bell: OwnedFd,
    /// Guards what is watched.
    armed: Mutex<Option<Armed>>,
}

/// What the system watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Armed {
    /// Its name for it.
    number: i32,
    /// How far it is above the folder.
    above: usize,
}

impl FolderWatch {
    pub fn new(dir: &Path) -> io::Result<Self> {
        let watch = Self {
            dir: dir.to_path_buf(),
            events: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            armed: Mutex::default(),
        };
        watch.arm()?;
        Ok(watch)
    }

    /// Sees to it that the folder is watched, or the nearest one above it. True when it is the
    /// folder now and was not, so that names may have appeared unseen.
    fn arm(&self) -> io::Result<bool> {
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *armed;
        loop {
            let now = self.arm_nearest()?;
            if let Some(old) = armed.filter(|old| old.number != now.number) {
                // It is gone with its folder, or not needed any more.
                let _ = inotify::remove_watch(&self.events, old.number);
            }
            // A folder that was made before the one above it was watched leaves no event.
            let is_settled = now.above == 0 || *armed == Some(now);
            *armed = Some(now);
            if is_settled {
                return Ok(now.above == 0 && before != Some(now));
            }
        }
    }

    fn arm_nearest(&self) -> io::Result<Armed> {
        for (above, dir) in self.dir.ancestors().enumerate() {
            let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
            let flags = if above == 0 { IN_FOLDER } else { ABOVE };
            match inotify::add_watch(&self.events, dir, flags) {
                Ok(number) => return Ok(Armed { number, above }),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    /// Empties a queue; true when something was in it.
    fn take(queue: &OwnedFd) -> io::Result<bool> {
        let mut buffer = [0; EVENT_BYTES];
        let mut had = false;
        loop {
            match rustix::io::read(queue, &mut buffer) {
                Ok(0) | Err(Errno::AGAIN) => return Ok(had),
                Ok(_) => had = true,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Watch for FolderWatch {
    fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        if self.arm()? {
            return Ok(true);
        }
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let mut queues =
            [PollFd::new(&self.events, PollFlags::IN), PollFd::new(&self.bell, PollFlags::IN)];
        match poll(&mut queues, timeout.as_ref()) {
            // A signal; whoever waits looks at the clock and waits again.
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Self::take(&self.bell)?;
        Self::take(&self.events)
    }

    fn wake(&self) {
        // A full counter means that it is awake anyway.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }
}
