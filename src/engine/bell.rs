//! What wakes the upkeep thread: a committed group, the end, a fallback file of another process.

use std::io;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::env::{Env, Watch};

/// Where a folder cannot be watched, it is looked at so often.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Wakes one thread.
#[derive(Debug)]
pub(super) struct Bell {
    /// Somebody rang since the thread began to work; once is enough.
    rung: AtomicBool,
    /// The watch on the fallback folder, where the system has such a thing.
    watch: OnceLock<Box<dyn Watch>>,
    /// The watch does not work any more.
    broken: AtomicBool,
    sender: Sender<()>,
    inbox: Receiver<()>,
}

impl Default for Bell {
    fn default() -> Self {
        let (sender, inbox) = bounded(1);
        let (rung, broken) = (AtomicBool::default(), AtomicBool::default());
        Self { rung, watch: OnceLock::new(), broken, sender, inbox }
    }
}

impl Bell {
    /// Rings for files in this folder too.
    pub fn watch(&self, env: &dyn Env, folder: &Path) {
        match env.watch(folder) {
            Ok(Some(watch)) => drop(self.watch.set(watch)),
            Ok(None) => {}
            Err(error) => self.fail(&error),
        }
    }

    /// Wakes the thread, or lets it look again before it sleeps.
    pub fn ring(&self) {
        if self.rung.swap(true, Ordering::AcqRel) {
            return;
        }
        match self.working() {
            Some(watch) => watch.wake(),
            None => drop(self.sender.try_send(())),
        }
    }

    /// The thread begins to look at its work: who rings from now on wakes it again.
    pub fn begin(&self) {
        self.rung.store(false, Ordering::Release);
    }

    /// Whether somebody rang since the thread began to look.
    pub fn is_rung(&self) -> bool {
        self.rung.load(Ordering::Acquire)
    }

    /// Sleeps until somebody rings, a file may have come, or the time is over. True when it is for
    /// a file.
    pub fn wait(&self, timeout: Option<Duration>) -> bool {
        if let Some(watch) = self.working() {
            match watch.wait(timeout) {
                Ok(has_come) => return has_come,
                Err(error) => self.fail(&error),
            }
        }
        let timeout = timeout.map_or(LOOK_INTERVAL, |timeout| timeout.min(LOOK_INTERVAL));
        self.inbox.recv_timeout(timeout) == Err(RecvTimeoutError::Timeout)
    }

    fn working(&self) -> Option<&dyn Watch> {
        let watch = self.watch.get().filter(|_| !self.broken.load(Ordering::Acquire));
        watch.map(|watch| &**watch)
    }

    fn fail(&self, error: &io::Error) {
        self.broken.store(true, Ordering::Release);
        tracing::warn!(%error, "the fallback folder cannot be watched; it is looked at instead");
    }
}
