//! From the commit path to the index: applies each committed group, or keeps it while the index
//! loads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::Sender;

use super::bell::Bell;
use super::lock;
use super::notice::{Notice, NoticeTakers};
use super::store::Reservations;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::format::{SummaryBody, Tally, Totals};
use crate::index::Catalog;
use crate::log::{Committed, Control, Observer, Row, Tallies, put_summary};

/// Takes what the log committed.
pub(super) struct Feed {
    /// Guards the index's phase; a group is applied outside once it is ready.
    phase: Mutex<Phase>,
    turned: Condvar,
    keys: Arc<Reservations>,
    refused: Arc<AtomicU64>,
    /// Guards the counts as of the last committed group.
    counted: Mutex<Counted>,
    bell: Arc<Bell>,
    /// Wakes the compactor when entries changed.
    compact: Option<Sender<()>>,
    env: Arc<dyn Env>,
    pub takers: NoticeTakers,
}

/// Everything that is counted.
struct Counted {
    totals: Totals,
    tallies: Tallies,
    /// What is left of evicted entries.
    summaries: Vec<SummaryBody>,
}

enum Phase {
    /// Nobody has asked for the index yet; the log has all it needs.
    Idle,
    /// Somebody loads it; later groups wait here.
    Loading(Vec<Committed>),
    Ready(Arc<Catalog>),
    Closed,
}

/// What a caller who needs the index has to do.
pub(super) enum Turn {
    /// Use it.
    Use(Arc<Catalog>),
    /// Load it; others wait meanwhile.
    Load,
}

impl Feed {
    pub fn new(
        (totals, tallies, summaries): (Totals, Tallies, Vec<SummaryBody>),
        keys: Arc<Reservations>,
        refused: Arc<AtomicU64>,
        bell: Arc<Bell>,
        env: Arc<dyn Env>,
        compact: Option<Sender<()>>,
    ) -> Self {
        Self {
            phase: Mutex::new(Phase::Idle),
            turned: Condvar::new(),
            keys,
            refused,
            counted: Mutex::new(Counted { totals, tallies, summaries }),
            bell,
            compact,
            env,
            takers: NoticeTakers::default(),
        }
    }

    /// The index, or the task to load it; waits while somebody else does.
    pub fn turn(&self, wait_ms: u64) -> Result<Turn> {
        let mut phase = lock(&self.phase);
        loop {
            match &*phase {
                Phase::Ready(catalog) => return Ok(Turn::Use(Arc::clone(catalog))),
                Phase::Closed => return Err(Error::Closed),
                Phase::Idle => {
                    *phase = Phase::Loading(Vec::new());
                    return Ok(Turn::Load);
                }
                Phase::Loading(_) => {}
            }
            let wait = Duration::from_millis(wait_ms);
            let (woken, timeout) =
                self.turned.wait_timeout(phase, wait).unwrap_or_else(PoisonError::into_inner);
            phase = woken;
            if timeout.timed_out() && matches!(&*phase, Phase::Loading(_)) {
                return Err(Error::IndexNotReady { waited_ms: wait_ms });
            }
        }
    }

    /// The index, when it is loaded.
    pub fn ready(&self) -> Option<Arc<Catalog>> {
        match &*lock(&self.phase) {
            Phase::Ready(catalog) => Some(Arc::clone(catalog)),
            _ => None,
        }
    }

    /// Begins a new load although the index was ready; first waits for one that is under way,
    /// since the groups that wait here are those of one load.
    pub fn unload(&self, wait_ms: u64) -> Result<()> {
        let mut phase = lock(&self.phase);
        while matches!(&*phase, Phase::Loading(_)) {
            let wait = Duration::from_millis(wait_ms);
            let (woken, timeout) =
                self.turned.wait_timeout(phase, wait).unwrap_or_else(PoisonError::into_inner);
            phase = woken;
            if timeout.timed_out() && matches!(&*phase, Phase::Loading(_)) {
                return Err(Error::IndexNotReady { waited_ms: wait_ms });
            }
        }
        if matches!(&*phase, Phase::Closed) {
            return Err(Error::Closed);
        }
        *phase = Phase::Loading(Vec::new());
        Ok(())
    }

    /// The loaded index takes over, with the groups above `loaded_lsn` that came meanwhile.
    pub fn finish(&self, catalog: &Arc<Catalog>, loaded_lsn: u64) {
        let mut phase = lock(&self.phase);
        if let Phase::Loading(waiting) = &*phase {
            for record in waiting.iter().filter(|record| record.lsn > loaded_lsn) {
                apply(catalog, record);
            }
        }
        if !matches!(&*phase, Phase::Closed) {
            *phase = Phase::Ready(Arc::clone(catalog));
        }
        self.turned.notify_all();
    }

    /// Loading failed; the next caller tries again.
    pub fn give_up(&self) {
        let mut phase = lock(&self.phase);
        if matches!(&*phase, Phase::Loading(_)) {
            *phase = Phase::Idle;
        }
        self.turned.notify_all();
    }

    pub fn close(&self) {
        *lock(&self.phase) = Phase::Closed;
        self.turned.notify_all();
    }

    /// The totals as of the last committed group.
    pub fn totals(&self) -> Totals {
        lock(&self.counted).totals
    }

    /// How many records of each cause were committed, as of the last group.
    pub fn tallies(&self) -> Vec<Tally> {
        lock(&self.counted).tallies.list()
    }

    /// The summaries of evicted entries, as of the last committed group.
    pub fn summaries(&self) -> Vec<SummaryBody> {
        lock(&self.counted).summaries.clone()
    }

    /// Counts a loss that is not written to the log, in a store opened for reading only.
    pub fn count_lost(&self, entries: u64) {
        lock(&self.counted).totals.lost += entries;
    }
}

impl Observer for Feed {
    fn committed(&self, records: &[Committed]) {
        let mut phase = lock(&self.phase);
        let catalog = match &mut *phase {
            Phase::Loading(waiting) => {
                waiting.extend_from_slice(records);
                None
            }
            Phase::Ready(catalog) => Some(Arc::clone(catalog)),
            Phase::Idle | Phase::Closed => None,
        };
        drop(phase);
        let mut counted = lock(&self.counted);
        counted.add(records);
        drop(counted);
        for record in records {
            if let Some(catalog) = &catalog {
                apply(catalog, record);
            }
            if let Row::Entry { key: Some(key), .. } = &record.row {
                self.keys.release(key);
            }
        }
        self.takers.tell(|| Notice { at_ms: self.env.monotonic_ms(), ..Notice::of(records) });
        self.bell.ring();
        let changed = records.iter().any(|record| matches!(record.row, Row::Change { .. }));
        if let Some(compact) = self.compact.as_ref().filter(|_| changed) {
            // A full channel means that the thread is awake anyway.
            let _ = compact.try_send(());
        }
    }

    fn refused(&self, keys: &[&str], records: usize) {
        for key in keys {
            self.keys.release(key);
        }
        self.refused.fetch_add(records as u64, Ordering::Relaxed);
    }
}

impl Counted {
    fn add(&mut self, records: &[Committed]) {
        let mut removes = false;
        for Committed { row, .. } in records {
            row.count(&mut self.tallies);
            match row {
                Row::Entry { .. } => self.totals.captured += 1,
                Row::Control(Control::Lost(loss)) => self.totals.lost += loss.entries,
                Row::Control(Control::Summary(summary)) => {
                    put_summary(&mut self.summaries, summary);
                }
                Row::Change { cause, .. } => removes |= cause.removes(),
                Row::Control(_) | Row::None => {}
            }
        }
        if removes {
            self.totals = self.tallies.removed(self.totals);
        }
    }
}

fn apply(catalog: &Catalog, record: &Committed) {
    match &record.row {
        Row::Entry { row, domain, failure_type, .. } => {
            catalog.stored(record.segment, record.ordinal, row, domain, failure_type);
        }
        Row::Change { row, .. } => catalog.changed(record.segment, row),
        Row::Control(_) | Row::None => {}
    }
}
