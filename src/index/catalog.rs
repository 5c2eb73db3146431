//! The catalog: the resident parts of all segments, exact counters, and the newest changes.
//!
//! Invariants: no lock is held while a source or the index is called. Sequence numbers of entries
//! rise, and so do those of changes; what comes at or below the highest one seen is a repetition
//! and is ignored. A change waits in the *overlay* of its segment, in memory, until somebody who
//! may do I/O folds it into the segment's block of newest changes (`load.rs`).

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::entry::Status;
use crate::format::{ChangeRow, EntryRow, Position};

use super::cache::{Cache, Placed};
use super::postings::{Change, Fresh};
use super::segment::{CellKey, GONE, Segment, Terms};
use super::{Cell, Index};

/// What a change in an overlay costs.
const OVERLAY_BYTES: usize = 64;

/// Which entries exist, where they stand and where their newest change is.
///
/// Many threads may ask; one at a time tells it of commits.
pub struct Catalog {
    /// Where blocks are kept.
    pub(super) index: Arc<dyn Index>,
    /// Guards the resident parts.
    state: RwLock<State>,
    /// Guards the blocks in memory; taken after `state` where both are, never before.
    cache: Mutex<Cache>,
    /// The right to fold overlays, and to put a rewritten segment in the place of others; it is
    /// held through I/O and guards no data.
    pub(super) folding: Mutex<()>,
    /// The last stamp given to a block of newest changes.
    pub(super) stamps: AtomicU64,
}

/// The changes of one segment that no block has yet, by ordinal.
pub type Overlay = BTreeMap<u32, Fresh>;

/// The resident parts of all segments.
#[derive(Debug, Default)]
pub struct State {
    /// The segments that hold entries, by number.
    pub segments: BTreeMap<u64, Arc<Segment>>,
    /// The segments by their first entry.
    pub starts: BTreeMap<u64, u64>,
    /// The changes that no block has yet, by segment and ordinal.
    pub overlays: HashMap<u64, Arc<Overlay>>,
    /// How many changes the overlays hold.
    pub overlay_len: usize,
    /// The domains and failure types.
    pub terms: Terms,
    /// The exact counters; none is 0.
    pub totals: HashMap<CellKey, u64>,
    /// How many entries are present.
    pub len: u64,
    /// The highest sequence number of an entry.
    pub stored_lsn: Option<u64>,
    /// The highest sequence number of a change.
    pub changed_lsn: Option<u64>,
}

impl Catalog {
    /// An empty catalog over an index, with at most this many bytes of blocks in memory.
    pub fn new(index: Arc<dyn Index>, cache_bytes: usize) -> Self {
        Self {
            index,
            state: RwLock::default(),
            cache: Mutex::new(Cache::new(cache_bytes)),
            folding: Mutex::default(),
            stamps: AtomicU64::new(0),
        }
    }

    /// Takes a committed entry of the active segment. Ordinals rise by one; an entry that is
    /// known already is ignored.
    pub fn stored(
        &self,
        segment: u64,
        ordinal: u32,
        row: &EntryRow,
        domain: &str,
        failure_type: &str,
    ) {
        let mut state = self.write();
        let sealed = state.store(segment, row, domain, failure_type);
        let at = state.segments.get(&segment).map_or(0, |held| held.len());
        if at != ordinal.saturating_add(1) && state.stored_lsn == Some(row.lsn) {
            tracing::warn!(segment, ordinal, at, "the index counts other ordinals than the log");
        }
        drop(state);
        self.cache_sealed(sealed);
    }

    /// Takes a committed change or removal. Changes rise by sequence number; one at or below the highest
    /// seen is ignored, and so is one whose entry is unknown, gone or folded beyond it.
    pub fn changed(&self, segment: u64, row: &ChangeRow) {
        self.write().change(segment, row);
    }

    /// Takes note that the entries in a range are gone; returns how many were present.
    ///
    /// A rebuild cannot know: call it again after each [`Catalog::load`].
    pub fn lost(&self, lsns: RangeInclusive<u64>) -> u64 {
        self.write().lose(&lsns)
    }

    /// How many entries there are of each status, domain and failure type, in that order.
    pub fn cells(&self) -> Vec<Cell> {
        let state = self.read();
        let cells = state.totals.iter().filter_map(|(key, count)| {
            Some(Cell {
                status: Status::from_number(key.status)?,
                domain: state.terms.text(key.domain),
                failure_type: state.terms.text(key.failure_type),
                count: *count,
            })
        });
        let mut cells: Vec<Cell> = cells.collect();
        drop(state);
        cells.sort();
        cells
    }

    /// How many entries are present.
    pub fn len(&self) -> u64 {
        self.read().len
    }

    /// Gives up what the index keeps on disk; blocks are built from summaries from then on. False
    /// when it keeps nothing there.
    pub fn give_up_index(&self) -> bool {
        self.index.give_up()
    }

    /// About how much memory everything here takes.
    pub fn memory_bytes(&self) -> usize {
        let state = self.read();
        let segments: usize = state.segments.values().map(|segment| segment.bytes()).sum();
        let totals = state.totals.len() * 2 * (size_of::<CellKey>() + 8);
        let resident = segments + totals + state.terms.bytes() + state.overlay_len * OVERLAY_BYTES;
        drop(state);
        resident + self.cache().bytes()
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the columns of segments that were just sealed.
    pub(super) fn cache_sealed(&self, sealed: Vec<Placed>) {
        if !sealed.is_empty() {
            let mut cache = self.cache();
            for (kind, segment, block) in sealed {
                // What falls out is built again when it is wanted: no I/O on the store path.
                cache.insert(kind, segment, block, false);
            }
        }
    }
}

impl State {
    /// Adds an entry; returns the columns of the segments that are sealed by it.
    pub fn store(
        &mut self,
        number: u64,
        row: &EntryRow,
        domain: &str,
        failure_type: &str,
    ) -> Vec<Placed> {
        if self.stored_lsn.is_some_and(|highest| row.lsn <= highest) {
            return Vec::new();
        }
        let domain = self.terms.number(domain);
        let failure_type = self.terms.number(failure_type);
        self.push((number, 0, 0), row, domain, failure_type)
    }

    /// As [`State::store`], for an entry known to be new, with its terms as numbers, in a segment of
    /// this number, generation and folded number.
    pub fn push(
        &mut self,
        (number, generation, folded_lsn): (u64, u32, u64),
        row: &EntryRow,
        domain: u32,
        failure_type: u32,
    ) -> Vec<Placed> {
        let cell = CellKey { status: row.status as u8, domain, failure_type };
        let mut sealed = Vec::new();
        if !self.segments.contains_key(&number) {
            sealed = self.seal();
            self.starts.insert(row.lsn, number);
            self.segments.insert(number, Arc::new(Segment::new(number, generation, folded_lsn)));
        }
        if let Some(segment) = self.segments.get_mut(&number) {
            Arc::make_mut(segment).push(row, cell);
        }
        *self.totals.entry(cell).or_default() += 1;
        self.len += 1;
        self.stored_lsn = Some(row.lsn);
        sealed
    }

    /// Applies a change to the status, and keeps where it is.
    pub fn change(&mut self, number: u64, row: &ChangeRow) {
        let Some((target, ordinal)) = self.apply(number, row) else { return };
        let position = Position { segment: number, offset: row.offset };
        let change = Change { ordinal, lsn: row.lsn, position };
        let fresh = Fresh { change, when_ms: row.when_ms, expires_ms: row.expires_ms };
        let overlay = Arc::make_mut(self.overlays.entry(target).or_default());
        self.overlay_len += usize::from(overlay.insert(ordinal, fresh).is_none());
    }

    /// Applies a change to the status; returns the segment and the ordinal of its entry.
    pub fn apply(&mut self, number: u64, row: &ChangeRow) -> Option<(u64, u32)> {
        if self.changed_lsn.is_some_and(|highest| row.lsn <= highest) {
            return None;
        }
        self.changed_lsn = Some(row.lsn);
        let target = self.segment_of(row.target)?;
        let held = self.segments.get_mut(&target)?;
        let ordinal = held.ordinal(row.target)?;
        if row.lsn <= held.folded_lsn || held.status(ordinal).is_none() {
            return None;
        }
        let segment = Arc::make_mut(held);
        if !segment.changed_in.contains(&number) {
            Arc::make_mut(&mut segment.changed_in).insert(number);
        }
        segment.change(row);
        segment.changed_lsn = row.lsn;
        segment.kept = false;
        let status = row.status.map_or(GONE, |status| status as u8);
        if let Some((before, after)) = segment.set_status(ordinal, status) {
            self.uncount(before);
            if status == GONE {
                self.len = self.len.saturating_sub(1);
            } else {
                *self.totals.entry(after).or_default() += 1;
            }
        }
        Some((target, ordinal))
    }

    /// The number of the segment whose range a sequence number lies in.
    pub fn segment_of(&self, lsn: u64) -> Option<u64> {
        self.starts.range(..=lsn).next_back().map(|(_, number)| *number)
    }

    /// Seals the segments that still take entries; returns their columns.
    pub fn seal(&mut self) -> Vec<Placed> {
        let mut sealed = Vec::new();
        // Only the last one can be open: entries rise.
        if let Some(segment) = self.segments.values_mut().next_back()
            && segment.open.is_some()
            && let Some(blocks) = Arc::make_mut(segment).seal()
        {
            let place = segment.place();
            sealed.extend(blocks.into_iter().map(|(kind, block)| (kind, place, block)));
        }
        sealed
    }

    fn lose(&mut self, lsns: &RangeInclusive<u64>) -> u64 {
        let (first, last) = (*lsns.start(), *lsns.end());
        let mut gone = Vec::new();
        let from = self.segment_of(first).unwrap_or(0);
        for segment in self.segments.range_mut(from..).map(|(_, segment)| segment) {
            let until = last.checked_add(1).map_or(segment.len(), |end| segment.rank_below(end));
            let present: Vec<u32> = (segment.rank_below(first)..until)
                .filter(|ordinal| segment.status(*ordinal).is_some())
                .collect();
            if !present.is_empty() {
                let segment = Arc::make_mut(segment);
                gone.extend(present.iter().filter_map(|at| segment.set_status(*at, GONE)));
            }
            if segment.lsns.max().is_some_and(|max| max >= last) {
                break;
            }
        }
        gone.iter().for_each(|(before, _)| self.uncount(*before));
        self.len = self.len.saturating_sub(gone.len() as u64);
        gone.len() as u64
    }

    fn uncount(&mut self, cell: CellKey) {
        if let Some(count) = self.totals.get_mut(&cell) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.totals.remove(&cell);
            }
        }
    }
}
