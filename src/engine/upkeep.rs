//! The engine's own threads: one flushes what is queued, one loads the index and then looks
//! after the next segment and the fallback files.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{Inner, lock};
use crate::config::Durability;
use crate::error::{Error, Result};

/// Fallback files of other processes come home at the latest this long after they were named.
const DRAIN_INTERVAL: Duration = Duration::from_secs(1);
/// However many groups are committed, the folder is not listed again before this time.
const DRAIN_PAUSE_MS: u64 = 500;

/// The threads of one engine. Both end when their channels close.
#[derive(Debug)]
pub(super) struct Threads {
    /// Guards the ends that keep the threads alive.
    running: Mutex<Vec<JoinHandle<()>>>,
    flush: Mutex<Option<Sender<()>>>,
    upkeep: Mutex<Option<Sender<()>>>,
    stop: Mutex<Option<Sender<()>>>,
    stopped: Receiver<()>,
    flush_inbox: Receiver<()>,
    upkeep_inbox: Receiver<()>,
}

impl Default for Threads {
    fn default() -> Self {
        let (flush, flush_inbox) = bounded(1);
        let (upkeep, upkeep_inbox) = bounded(1);
        let (stop, stopped) = bounded(0);
        Self {
            running: Mutex::default(),
            flush: Mutex::new(Some(flush)),
            upkeep: Mutex::new(Some(upkeep)),
            stop: Mutex::new(Some(stop)),
            stopped,
            flush_inbox,
            upkeep_inbox,
        }
    }
}

impl Threads {
    /// Tells the upkeep thread that a group was committed.
    pub fn ticker(&self) -> Option<Sender<()>> {
        lock(&self.upkeep).clone()
    }

    /// Starts both threads.
    pub fn start(&self, inner: &Arc<Inner>) -> Result<()> {
        let flusher = Arc::clone(inner);
        let keeper = Arc::clone(inner);
        self.spawn(inner, "deadletter-flush", move || flusher.run_flush())?;
        self.spawn(inner, "deadletter-upkeep", move || keeper.run_upkeep())
    }

    fn spawn(&self, inner: &Inner, name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
        let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(run);
        let handle =
            spawned.map_err(|error| Error::io("start a thread for", &inner.config.dir, error))?;
        lock(&self.running).push(handle);
        Ok(())
    }

    /// Wakes the flush thread for a record that nobody waits for.
    pub fn kick(&self, durability: Durability) {
        if durability != Durability::Synced {
            self.wake();
        }
    }

    /// Wakes the flush thread.
    pub fn wake(&self) {
        if let Some(flush) = &*lock(&self.flush) {
            // A full channel means that it is awake anyway.
            let _ = flush.try_send(());
        }
    }

    /// Ends both threads and waits for them.
    pub fn stop(&self) {
        drop(lock(&self.stop).take());
        drop(lock(&self.flush).take());
        drop(lock(&self.upkeep).take());
        let running = std::mem::take(&mut *lock(&self.running));
        for handle in running {
            // The last handle may be dropped by one of the threads itself.
            let own = handle.thread().id() == std::thread::current().id();
            if !own && handle.join().is_err() {
                tracing::error!("a thread of the engine panicked");
            }
        }
    }
}

impl Inner {
    fn run_flush(&self) {
        let Some(commit) = &self.commit else { return };
        loop {
            let now = self.env.monotonic_ms();
            let due = commit.sync_due_ms().map(|due| due.saturating_sub(now).max(1));
            let timeout = due.map_or(crossbeam_channel::never(), |due| {
                crossbeam_channel::after(Duration::from_millis(due))
            });
            crossbeam_channel::select! {
                recv(self.threads.stopped) -> _ => return,
                recv(self.threads.flush_inbox) -> _ => {}
                recv(timeout) -> _ => {}
            }
            if let Err(error) = commit.flush() {
                tracing::warn!(%error, "queued records could not be flushed");
            }
        }
    }

    fn run_upkeep(&self) {
        if let Err(error) = self.catalog() {
            tracing::warn!(%error, "the index could not be loaded; the next query tries again");
        }
        let mut drained_ms = None;
        while self.await_tick() {
            self.tend_clock(false);
            if let Err(error) = self.prepare_ahead() {
                tracing::warn!(%error, "the next segment could not be prepared");
            }
            // Groups come thousands of times a second; the folder is not listed for each.
            let now = self.env.monotonic_ms();
            let waits = drained_ms.is_some_and(|last| now < last + DRAIN_PAUSE_MS);
            if !waits {
                drained_ms = Some(now);
                if let Err(error) = self.drain() {
                    tracing::warn!(%error, "fallback files could not be brought home");
                }
            }
        }
    }

    /// Waits for a group or for the time to look for fallback files; false when it is over.
    fn await_tick(&self) -> bool {
        crossbeam_channel::select! {
            recv(self.threads.stopped) -> _ => false,
            recv(self.threads.upkeep_inbox) -> _ => true,
            default(DRAIN_INTERVAL) => true,
        }
    }

    fn prepare_ahead(&self) -> Result<()> {
        let Some(preparer) = &self.preparer else { return Ok(()) };
        preparer.want_next(self.segments.active_number());
        while preparer.is_due()
            && matches!(self.threads.stopped.try_recv(), Err(error) if error.is_empty())
        {
            preparer.step()?;
        }
        Ok(())
    }
}
