//! The engine's own threads: one flushes what is queued, one loads the index and then looks
//! after the next segment, the limits and the fallback files, one gives space back.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::bell::Bell;
use super::compact::{REST_MS, Step};
use super::{Inner, lock};
use crate::config::Durability;
use crate::error::{Error, Result};
use crate::log::Preparer;

/// However many groups are committed, the folder is not listed again before this time.
const DRAIN_PAUSE_MS: u64 = 500;
/// The pause after a failure doubles up to this.
const DRAIN_PAUSE_MAX_MS: u64 = 60_000;

/// However many groups are committed, the space is not looked after again before this time.
const WATCH_PAUSE_MS: u64 = 500;
/// After a group was committed compaction waits so long before it looks for work, so that many
/// changes cost one look.
const COMPACT_PAUSE: Duration = Duration::from_secs(1);

/// The threads of one engine. All end when the channel that stops them closes.
#[derive(Debug)]
pub(super) struct Threads {
    /// Guards the ends that keep the threads alive.
    running: Mutex<Vec<JoinHandle<()>>>,
    flush: Mutex<Option<Sender<()>>>,
    bell: Arc<Bell>,
    compact: Mutex<Option<Sender<()>>>,
    stop: Mutex<Option<Sender<()>>>,
    stopped: Receiver<()>,
    flush_inbox: Receiver<()>,
    compact_inbox: Receiver<()>,
}

/// When the fallback folder is listed next.
struct Drain {
    wanted: bool,
    not_before_ms: u64,
    pause_ms: u64,
}

impl Default for Threads {
    fn default() -> Self {
        let (flush, flush_inbox) = bounded(1);
        let (compact, compact_inbox) = bounded(1);
        let (stop, stopped) = bounded(0);
        Self {
            running: Mutex::default(),
            flush: Mutex::new(Some(flush)),
            bell: Arc::default(),
            compact: Mutex::new(Some(compact)),
            stop: Mutex::new(Some(stop)),
            stopped,
            flush_inbox,
            compact_inbox,
        }
    }
}

impl Threads {
    /// Tells the upkeep thread that a group was committed.
    pub fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.bell)
    }

    /// Tells the compactor that entries changed.
    pub fn compact_ticker(&self) -> Option<Sender<()>> {
        lock(&self.compact).clone()
    }

    /// Starts the threads.
    pub fn start(&self, inner: &Arc<Inner>) -> Result<()> {
        let flusher = Arc::clone(inner);
        let keeper = Arc::clone(inner);
        let compactor = Arc::clone(inner);
        self.bell.watch(&*inner.env, &inner.config.fallback_dir());
        self.spawn(inner, "deadletter-flush", move || flusher.run_flush())?;
        self.spawn(inner, "deadletter-upkeep", move || keeper.run_upkeep())?;
        self.spawn(inner, "deadletter-compact", move || compactor.run_compact())
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

    /// Ends the threads and waits for them.
    pub fn stop(&self) {
        drop(lock(&self.stop).take());
        drop(lock(&self.flush).take());
        drop(lock(&self.compact).take());
        self.bell.ring();
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
            let timeout = self.alarm(commit.sync_due_ms());
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
        let bell = &self.threads.bell;
        let mut drain = Drain { wanted: true, not_before_ms: 0, pause_ms: DRAIN_PAUSE_MS };
        let mut watched_ms = None;
        loop {
            bell.begin();
            if self.is_stopping() {
                return;
            }
            let doubts = self.tend_clock(false);
            if let Err(error) = self.prepare_ahead() {
                tracing::warn!(%error, "the next segment could not be prepared");
            }
            if let Err(error) = self.relieve_if_due() {
                tracing::warn!(%error, "room under the limits could not be made");
            }
            let drains = self.drain_if_due(&mut drain);
            let watches = self.watch_if_due(&mut watched_ms);
            let times = drains.into_iter().chain(watches).chain(doubts);
            let has_come = bell.wait(times.min());
            // A time that was set for something else brings no file.
            drain.wanted |= has_come || bell.is_rung();
            // Whoever put a file there may wait for it; groups come thousands of times a second.
            if has_come && drain.pause_ms == DRAIN_PAUSE_MS {
                drain.not_before_ms = 0;
            }
        }
    }

    /// Brings fallback files home if it is time. Answers with how long it may sleep.
    fn drain_if_due(&self, drain: &mut Drain) -> Option<Duration> {
        let now_ms = self.env.monotonic_ms();
        if drain.wanted && now_ms >= drain.not_before_ms {
            let drained = self.drain();
            // A latched log takes nothing until it is opened again, so there is nothing to retry.
            drain.wanted =
                drained.is_err() && self.commit().is_ok_and(|log| log.failure().is_none());
            drain.pause_ms = match &drained {
                Ok(_) => DRAIN_PAUSE_MS,
                Err(_) => (drain.pause_ms * 2).min(DRAIN_PAUSE_MAX_MS),
            };
            drain.not_before_ms = now_ms.saturating_add(drain.pause_ms);
            if let Err(error) = drained {
                tracing::warn!(%error, "fallback files could not be brought home");
            }
        }
        let wait_ms = drain.not_before_ms.saturating_sub(now_ms).max(1);
        drain.wanted.then(|| Duration::from_millis(wait_ms))
    }

    /// Looks after the space if it is time. Answers with how long it may sleep: while entries are
    /// refused for want of space, not long.
    fn watch_if_due(&self, watched_ms: &mut Option<u64>) -> Option<Duration> {
        let now_ms = self.env.monotonic_ms();
        let due_ms = watched_ms.map_or(0, |last| last + WATCH_PAUSE_MS);
        if now_ms < due_ms {
            return Some(Duration::from_millis(due_ms - now_ms));
        }
        *watched_ms = Some(now_ms);
        if let Err(error) = self.watch_space() {
            tracing::warn!(%error, "the space could not be looked after");
        }
        self.is_short_of_space().then_some(Duration::from_millis(WATCH_PAUSE_MS))
    }

    /// Gives space back whenever changes were committed, and when removed bytes are due to go.
    fn run_compact(&self) {
        // What was left undone before shows at the first look.
        let mut due: Option<u64> = Some(0);
        loop {
            let timeout = self.alarm(due);
            crossbeam_channel::select! {
                recv(self.threads.stopped) -> _ => return,
                recv(self.threads.compact_inbox) -> woken => {
                    if woken.is_err() {
                        return;
                    }
                }
                recv(timeout) -> _ => {}
            }
            due = self.compact_until_idle();
            // More groups are likely to come; one look serves all of them.
            let stopped = self.threads.stopped.recv_timeout(COMPACT_PAUSE);
            if stopped != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    /// Compacts until there is nothing to do; answers when there may be, by the monotonic clock.
    fn compact_until_idle(&self) -> Option<u64> {
        loop {
            if self.is_stopping() {
                return None;
            }
            let step = match self.relieve_bytes() {
                Ok(true) => Ok(Step::Worked),
                Ok(false) => self.compact_step(),
                Err(error) => Err(error),
            };
            match step {
                Ok(Step::Worked) => {}
                Ok(Step::Idle(due)) => return due,
                Err(error) => {
                    tracing::warn!(%error, "space could not be given back");
                    return Some(self.env.monotonic_ms() + REST_MS);
                }
            }
        }
    }

    /// Rings at this time by the monotonic clock, or never.
    fn alarm(&self, due_ms: Option<u64>) -> Receiver<Instant> {
        let now = self.env.monotonic_ms();
        due_ms.map_or(crossbeam_channel::never(), |due_ms| {
            crossbeam_channel::after(Duration::from_millis(due_ms.saturating_sub(now).max(1)))
        })
    }

    fn is_stopping(&self) -> bool {
        matches!(self.threads.stopped.try_recv(), Err(error) if error.is_disconnected())
    }

    /// Asks for the next segment's file where there is ample space for it.
    pub(super) fn want_next(&self, preparer: &Preparer) {
        let active = self.segments.active_number();
        // The file system is only asked when it matters; this runs after each group.
        if preparer.lacks_next(active) && self.has_ample_space() {
            preparer.want_next(active);
        }
    }

    fn prepare_ahead(&self) -> Result<()> {
        let Some(preparer) = &self.preparer else { return Ok(()) };
        self.want_next(preparer);
        while preparer.is_due() && !self.is_stopping() {
            preparer.step()?;
        }
        Ok(())
    }
}
