//! The engine: the wall between bytes and policy. Opens a store, owns its threads, closes it.
//!
//! `store` takes failures in, `load` builds the index beside it, `query` and `read` find entries
//! again, `change` alters their state or removes them, `evict` makes room, `summaries` tells what
//! is left of what went, `tally` counts why, `notice` says what becomes due, `compact` gives space
//! back, `space` watches over what all of it takes, `drain` brings fallback files home. `verify` and
//! `dump` look at files without a lock. `clock` tells and logs the time by which entries age.
//!
//! Invariants: the index never runs ahead of the log; what is answered was read from the log and
//! checked; no thread outlives the last handle.

mod bell;
mod change;
mod clock;
mod compact;
mod drain;
mod dump;
mod evict;
mod feed;
mod lease;
mod load;
mod notice;
mod query;
mod read;
mod salvage;
mod space;
mod store;
mod summaries;
mod tail;
mod tally;
mod upkeep;
mod verify;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use crate::config::{Background, Config, Durability, Recovery};
use crate::env::{Disk, Env, Lock};
use crate::error::{Damage, Error, Result};
use crate::format::{Checkpoint, Loss};
use crate::log::{self, Commit, Draft, OpenReport, Opened, Segments, Ticket};

pub use change::{Changed, Decision};
pub use compact::CompactReport;
pub use drain::{Spilled, spill, spill_with};
pub use dump::{Dump, FrameInfo, dump};
pub use lease::Leases;
pub use load::RebuildReport;
pub(crate) use notice::NoticeTakers;
pub use notice::{Notice, NoticeTaker};
pub use query::{Accounting, Bytes, Facets, Statistics};
pub use salvage::{SalvageReport, salvage, salvage_with};
pub use space::{Shortage, Space, SpaceLevel};
pub use store::{BatchError, BatchReceipt, Receipt, StoreError, Stored};
pub use tail::{Tail, TailItem};
pub use tally::TallyRow;
pub use verify::{VerifyReport, verify, verify_with};

use clock::Clock;
use compact::Compactor;
use evict::Pressure;
use feed::Feed;
use space::Watch;
use store::Reservations;
use upkeep::Threads;

/// An open store. Handles are cheap to clone and may be used from any thread; the store closes
/// with [`Engine::close`] or when the last handle is dropped.
///
/// # Example
///
/// ```
/// use deadletter::{Config, Engine, Filter, NewFailure, Page};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// let engine = Engine::open(Config::new(dir.path().join("captured")))?;
/// let stored = engine.store(NewFailure::new("payment", "PG_TIMEOUT"))?;
/// assert_eq!(engine.find(&Filter::default(), Page::default())?[0].operation.id, stored.id);
/// engine.close()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
    /// Shared by all handles; the last one closes the store.
    _owner: Arc<Owner>,
}

/// What all handles share.
struct Inner {
    env: Arc<dyn Env>,
    config: Config,
    store_uuid: [u8; 16],
    segments: Arc<Segments>,
    /// `None` when opened for reading only.
    commit: Option<Arc<Commit>>,
    preparer: Option<Arc<log::Preparer>>,
    feed: Arc<Feed>,
    keys: Arc<Reservations>,
    counters: Counters,
    pressure: Pressure,
    /// Guards the list of losses on record.
    losses: Mutex<Vec<Loss>>,
    /// Guards the list of damage met so far.
    damage: Mutex<Vec<Damage>>,
    /// Guards the entries that somebody changes right now, and whoever changes the summaries.
    changing: Mutex<HashSet<u64>>,
    changed: Condvar,
    /// Who may complete a replay, and until when.
    leases: Leases,
    /// Guards the trusted time; records of it are queued under it, and nothing is waited for.
    clock: Mutex<Clock>,
    /// Guards the fallback files that are known to be home.
    drained: Mutex<HashSet<[u8; 16]>>,
    /// Guards what is written to the checkpoint slots.
    slot: Mutex<Slot>,
    watch: Watch,
    report: Mutex<OpenReport>,
    /// What the compactor does and knows.
    compactor: Mutex<Compactor>,
    /// Held while segments take the place of others, and while the index is loaded from them.
    reshaping: Mutex<()>,
    /// Keeps the files of a store opened for reading, see [`Opened::pin`].
    _pin: Option<Box<dyn Lock>>,
    threads: Threads,
    closed: AtomicBool,
    /// The checkpoint slots say that the store is in use.
    in_use: AtomicBool,
}

/// Store calls and what became of them.
#[derive(Debug, Default)]
struct Counters {
    offered: AtomicU64,
    duplicates: AtomicU64,
    refused: Arc<AtomicU64>,
    spilled: AtomicU64,
    /// Counts of an earlier process may be missing.
    incomplete: AtomicBool,
}

/// The state of the checkpoint slots.
#[derive(Debug, Default, Clone, Copy)]
struct Slot {
    sequence: u64,
    index_uuid: [u8; 16],
    index_lsn: u64,
    /// The newest slot says that the store was closed in order.
    clean: bool,
    /// Sequence number at the newest slot.
    lsn: u64,
}

/// Closes the store when the last handle goes.
struct Owner {
    inner: Arc<Inner>,
}

/// What a checkpoint did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct CheckpointReport {
    /// The sequence number up to which log and index are durable.
    pub lsn: u64,
}

impl Engine {
    /// Opens the store in `config.dir`, making it when the directory is empty or missing.
    ///
    /// When this returns, everything that can be seen is durable and `store` works; the index
    /// may still load. A damaged store opens all the same and says what it lost, see
    /// [`Engine::report`]. Lines S7 and D1 to D6 of `docs/PROMISE.md`.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] while another process holds the store, [`Error::NotAStore`] and
    /// [`Error::Version`] with nothing changed, [`Error::Invalid`] for a setting out of bounds,
    /// [`Error::Damaged`] with [`Recovery::Strict`], [`Error::Io`].
    pub fn open(config: Config) -> Result<Self> {
        Self::open_with(config, Arc::new(Disk::new()))
    }

    /// As [`Engine::open`], on a disk and a clock of the caller's.
    ///
    /// # Errors
    ///
    /// As [`Engine::open`].
    pub fn open_with(config: Config, env: Arc<dyn Env>) -> Result<Self> {
        config.check()?;
        if config.recovery == Recovery::Strict {
            refuse_damage(&config, &env)?;
        }
        let (opened, account, ballast) = log::open(&env, &config)?;
        let watch = Watch::new(account, Some(ballast));
        let engine = Self::start(config, env, opened, watch);
        match engine.inner.config.background {
            Background::Threads => {
                engine.inner.threads.start(&engine.inner)?;
            }
            Background::Manual => engine.inner.drain_logged(),
        }
        Ok(engine)
    }

    /// Opens a store for reading only: takes no lock and writes nothing, beside a running owner
    /// too. It shows what was durable when it was opened.
    ///
    /// # Errors
    ///
    /// [`Error::NotAStore`] when there is none, [`Error::Version`], [`Error::Io`].
    pub fn open_read_only(config: Config) -> Result<Self> {
        Self::open_read_only_with(config, Arc::new(Disk::new()))
    }

    /// As [`Engine::open_read_only`], on a disk and a clock of the caller's.
    ///
    /// # Errors
    ///
    /// As [`Engine::open_read_only`].
    pub fn open_read_only_with(config: Config, env: Arc<dyn Env>) -> Result<Self> {
        config.check()?;
        let opened = log::open_read_only(&env, &config)?;
        let watch = Watch::of_reader(&*env, &config, &opened.segments)?;
        Ok(Self::start(config, env, opened, watch))
    }

    fn start(config: Config, env: Arc<dyn Env>, opened: Opened, watch: Watch) -> Self {
        let keys = Arc::new(Reservations::default());
        let counters = Counters::resume(&opened);
        let threads = Threads::default();
        let feed = Arc::new(Feed::new(
            (opened.totals, opened.tallies.clone(), opened.set.summaries),
            Arc::clone(&keys),
            Arc::clone(&counters.refused),
            threads.bell(),
            Arc::clone(&env),
            threads.compact_ticker(),
        ));
        let observer: Arc<dyn log::Observer> = Arc::clone(&feed) as Arc<dyn log::Observer>;
        let commit = opened
            .writer
            .map(|writer| Arc::new(Commit::new(writer, opened.next_lsn, &config, observer)));
        let slot = Slot::resume(&opened.report, opened.checkpoint.as_ref());
        let leases = Leases::new(env.random());
        let clock = Clock::resume(&*env, &config, &opened.set.clock, opened.next_lsn);
        let inner = Arc::new(Inner {
            env,
            config,
            store_uuid: opened.store_uuid,
            segments: opened.segments,
            commit,
            preparer: opened.preparer,
            feed,
            keys,
            counters,
            pressure: Pressure::default(),
            losses: Mutex::new(opened.set.losses),
            damage: Mutex::new(opened.report.lost.clone()),
            changing: Mutex::default(),
            changed: Condvar::new(),
            leases,
            clock: Mutex::new(clock),
            drained: Mutex::new(opened.set.drained.into_iter().collect()),
            slot: Mutex::new(slot),
            watch,
            report: Mutex::new(opened.report),
            compactor: Mutex::default(),
            reshaping: Mutex::default(),
            _pin: opened.pin,
            threads,
            closed: AtomicBool::new(false),
            in_use: AtomicBool::new(false),
        });
        Self { _owner: Arc::new(Owner { inner: Arc::clone(&inner) }), inner }
    }

    /// The leases that handlers of this process hold.
    pub fn leases(&self) -> &Leases {
        &self.inner.leases
    }

    /// The clock and the disk of this store.
    pub(crate) fn env(&self) -> &dyn Env {
        &*self.inner.env
    }

    /// Makes everything that was stored so far durable.
    ///
    /// # Errors
    ///
    /// [`Error::Poisoned`] after a failed write, [`Error::Io`], [`Error::ReadOnly`].
    pub fn flush(&self) -> Result<()> {
        self.inner.check_open()?;
        self.inner.commit()?.sync_all()
    }

    /// Why the log takes nothing more until the store is opened again: [`Error::Closed`], or
    /// [`Error::Poisoned`] after a failed write or sync. `None` while it does. Reading goes on
    /// after a failed write.
    pub fn failure(&self) -> Option<Error> {
        let open = self.inner.check_open();
        let commit = self.inner.commit.as_ref();
        open.err().or_else(|| commit.and_then(|commit| commit.failure()))
    }

    /// What opening found and did.
    pub fn report(&self) -> OpenReport {
        lock(&self.inner.report).clone()
    }

    /// Damage met so far: at opening, while the index was loaded, while entries were read.
    pub fn warnings(&self) -> Vec<Damage> {
        lock(&self.inner.damage).clone()
    }

    /// Does a little of the background work: what is known of the time, queued records, overdue
    /// syncs, preparation of the next segment, room under the limits, fallback files, the watch over
    /// space, one step of compaction. For a host that opened with [`Background::Manual`].
    ///
    /// # Errors
    ///
    /// What the work failed with; nothing acknowledged is lost by it.
    pub fn step(&self) -> Result<()> {
        self.inner.check_open()?;
        self.inner.tend_clock(false);
        self.inner.commit()?.flush()?;
        if let Some(preparer) = &self.inner.preparer {
            self.inner.want_next(preparer);
            if preparer.is_due() {
                preparer.step()?;
            }
        }
        self.inner.relieve_if_due()?;
        let drained = self.inner.drain().map(|_| ());
        self.inner.watch_space()?;
        drained?;
        self.inner.compact_step().map(|_| ())
    }

    /// Makes everything stored so far durable, saves the index, and writes a checkpoint, so that
    /// damage up to here can be told from an unfinished write.
    ///
    /// # Errors
    ///
    /// [`Error::Poisoned`] after a failed write, [`Error::Io`], [`Error::ReadOnly`].
    pub fn checkpoint(&self) -> Result<CheckpointReport> {
        self.inner.check_open()?;
        let lsn = self.inner.commit()?.last_lsn();
        self.inner.commit()?.sync_all()?;
        self.inner.save_index(false)?;
        self.inner.write_slot(false)?;
        Ok(CheckpointReport { lsn })
    }

    /// A checkpoint, if something was written since the last one; false when there was nothing.
    pub(crate) fn checkpoint_if_changed(&self) -> Result<bool> {
        self.inner.check_open()?;
        let logged_lsn = self.inner.commit()?.logged_lsn();
        let is_changed = lock(&self.inner.slot).lsn != logged_lsn;
        if is_changed {
            self.checkpoint()?;
        }
        Ok(is_changed)
    }

    /// Tells this planner of every committed change from now on, as long as somebody keeps it.
    pub(crate) fn tell_changes(&self, taker: Weak<dyn NoticeTaker>) {
        self.inner.feed.takers.add(taker);
    }

    /// Closes the store: everything is synced, the index saved, the lock released. Later calls
    /// of any handle answer [`Error::Closed`]; closing again is no error.
    ///
    /// # Errors
    ///
    /// [`Error::Poisoned`] after a failed write, [`Error::Io`]. The lock is released all the
    /// same, and the next open recovers.
    pub fn close(&self) -> Result<()> {
        self.inner.close()
    }
}

impl Inner {
    fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(Error::Closed) } else { Ok(()) }
    }

    fn commit(&self) -> Result<&Commit> {
        self.commit.as_deref().ok_or(Error::ReadOnly)
    }

    /// Hands records to the log.
    fn submit(&self, drafts: Vec<Draft>, durability: Durability) -> Result<Ticket> {
        self.mark_in_use()?;
        self.note_jump();
        self.commit()?.submit(drafts, durability)
    }

    /// Before the first change of a store that was closed in order: says durably that it is in
    /// use. So a slot that says *closed* vouches for every byte of log and index.
    fn mark_in_use(&self) -> Result<()> {
        if !self.in_use.load(Ordering::Acquire) {
            let clean = lock(&self.slot).clean;
            if clean {
                self.write_slot(false)?;
            }
            self.in_use.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Writes the next checkpoint slot, as of the last sync.
    fn write_slot(&self, clean: bool) -> Result<()> {
        let written = self.try_write_slot(clean);
        match (&written, &self.watch.ballast) {
            // On a full disk a slot may be one that never was: a change must not wait for it.
            (Err(error), Some(ballast)) if log::is_no_space(error) && ballast.release()? > 0 => {
                self.try_write_slot(clean)
            }
            _ => written,
        }
    }

    fn try_write_slot(&self, clean: bool) -> Result<()> {
        // A process that stores one entry and ends spares the sync: without this slot the next
        // open recovers, and loses nothing.
        let brief = self.config.background == Background::Manual && self.feed.ready().is_none();
        let sync = !(clean && brief);
        let mut slot = lock(&self.slot);
        let counters = &self.counters;
        let mut checkpoint = Checkpoint {
            sequence: slot.sequence + 1,
            clean,
            offered: counters.offered.load(Ordering::Relaxed),
            duplicates: counters.duplicates.load(Ordering::Relaxed),
            refused: counters.refused.load(Ordering::Relaxed),
            spilled: counters.spilled.load(Ordering::Relaxed),
            counts_incomplete: counters.incomplete.load(Ordering::Relaxed),
            index_uuid: slot.index_uuid,
            index_lsn: slot.index_lsn,
            ..Checkpoint::default()
        };
        self.commit()?.with_writer(|writer| {
            checkpoint.segment = writer.segment.header.segment;
            checkpoint.end = writer.synced_end;
            checkpoint.last_lsn = writer.synced_lsn;
            checkpoint.entries = writer.synced_entries;
            log::write_checkpoint(&*self.env, &self.config.dir, &checkpoint, sync)
        })?;
        slot.sequence = checkpoint.sequence;
        slot.clean = clean;
        slot.lsn = checkpoint.last_lsn;
        Ok(())
    }

    fn close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.threads.stop();
        let Some(commit) = &self.commit else { return Ok(()) };
        let result = self.close_log(commit);
        commit.close();
        self.feed.close();
        result
    }

    fn close_log(&self, commit: &Commit) -> Result<()> {
        self.tend_clock(true);
        commit.sync_all()?;
        if let Some(preparer) = &self.preparer {
            preparer.discard()?;
        }
        let slot = *lock(&self.slot);
        let unchanged = slot.clean && slot.lsn == commit.last_lsn();
        if unchanged && !self.counters.moved() {
            return Ok(());
        }
        if let Err(error) = self.renew_ballast(self.env.monotonic_ms()) {
            tracing::warn!(%error, "there is no ballast");
        }
        self.save_index(true)?;
        self.write_slot(true)
    }
}

impl Counters {
    /// Goes on from the checkpoint. What the log says wins: it is never behind.
    fn resume(opened: &Opened) -> Self {
        let checkpoint = opened.checkpoint.unwrap_or_default();
        let known = checkpoint.duplicates + checkpoint.refused + checkpoint.spilled;
        let clean = opened.report.clean || opened.report.created;
        Self {
            offered: AtomicU64::new(opened.totals.captured + known),
            duplicates: AtomicU64::new(checkpoint.duplicates),
            refused: Arc::new(AtomicU64::new(checkpoint.refused)),
            spilled: AtomicU64::new(checkpoint.spilled),
            incomplete: AtomicBool::new(!clean || checkpoint.counts_incomplete),
        }
    }

    /// Whether calls were counted that left nothing in the log.
    fn moved(&self) -> bool {
        self.duplicates.load(Ordering::Relaxed) > 0 || self.refused.load(Ordering::Relaxed) > 0
    }
}

impl Slot {
    fn resume(report: &OpenReport, checkpoint: Option<&Checkpoint>) -> Self {
        let Some(checkpoint) = checkpoint else { return Self::default() };
        let mut slot = Self { sequence: checkpoint.sequence, ..Self::default() };
        if report.clean {
            // After a crash the index on disk is not trusted, so its name is forgotten.
            slot.index_uuid = checkpoint.index_uuid;
            slot.index_lsn = checkpoint.index_lsn;
            slot.clean = true;
            slot.lsn = checkpoint.last_lsn;
        }
        slot
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if let Err(error) = self.inner.close() {
            tracing::warn!(%error, "the store could not be closed in order");
        }
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("dir", &self.config.dir).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Owner").finish_non_exhaustive()
    }
}

/// Reads every byte before anything is changed, and refuses the first damage.
fn refuse_damage(config: &Config, env: &Arc<dyn Env>) -> Result<()> {
    if !log::check_store(&**env, &config.dir)? {
        return Ok(());
    }
    let report = verify::verify_with(config, env, &mut |_, _| {})?;
    report.damage.into_iter().next().map_or(Ok(()), |damage| Err(Error::Damaged(Box::new(damage))))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
