//! A rewritten segment takes the place of others: its entries get new ordinals and keep everything
//! that happened to them since it was written.
//!
//! 1. What the old segments' blocks say is read, and the new resident part is made from its
//!    summary. Nobody folds meanwhile, so a change that comes now stays in an overlay.
//! 2. In one moment the new part goes in: with the statuses of this moment, the overlays under the
//!    new ordinals, and the old parts out.
//! 3. The blocks of the old segments are erased. A reader that holds an old part may put one again;
//!    it bears the old generation, so nobody takes it for another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use crate::entry::Status;
use crate::error::Result;
use crate::format::{Summary, TIME_NONE};

use super::cache::Placed;
use super::catalog::{Overlay, State};
use super::load::Built;
use super::postings::{Change, Changes, Fresh, Kind, erase_block};
use super::segment::{CellKey, GONE, Segment};
use super::times::{Time, Times};
use super::{Catalog, Source};

/// Where an entry's newest change is, and what is folded into its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Newest {
    /// The segment that holds the entry.
    pub segment: u64,
    /// Changes up to this sequence number are folded into that segment.
    pub folded_lsn: u64,
    /// Where the entry stands; none when it is gone.
    pub status: Option<Status>,
    /// Since when entries of that segment are gone, by the wall clock.
    pub gone_since: u64,
    /// Its newest change, if it has one.
    pub change: Option<Change>,
}

impl Newest {
    /// Whether the entry is there.
    pub fn is_present(&self) -> bool {
        self.status.is_some()
    }

    /// Whether the entry is there and at its end.
    pub fn is_terminal(&self) -> bool {
        self.status.is_some_and(Status::is_terminal)
    }

    /// Whether a change of the entry still says something: it is not folded, and no newer one is
    /// there.
    pub fn counts(&self, change_lsn: u64) -> bool {
        change_lsn > self.folded_lsn && self.change.is_some_and(|newest| newest.lsn <= change_lsn)
    }
}

/// What happened to a segment since it was taken into the index.
#[derive(Debug, Clone)]
pub struct Wear {
    /// The segment.
    pub segment: u64,
    /// Changes to its entries.
    pub touched: u64,
    /// Entries that are gone and whose records are there.
    pub gone: u32,
    /// Entries that are there and at their end.
    pub terminal: u32,
    /// Since when, by the wall clock.
    pub gone_since: u64,
    /// The segments that hold changes of its entries.
    pub changed_in: Arc<BTreeSet<u64>>,
}

/// Looks up newest changes, many of few segments.
pub struct Liveness<'a> {
    catalog: &'a Catalog,
    source: &'a dyn Source,
    views: BTreeMap<u64, View>,
}

/// A segment with the newest changes of its entries, as of the moment when it was first asked for.
struct View {
    segment: Arc<Segment>,
    overlay: Option<Arc<Overlay>>,
    rows: Arc<Changes>,
}

/// The old segments and the one that takes their place.
struct Swap {
    old: Vec<Arc<Segment>>,
    new: Option<Segment>,
    /// The newest changes of the new segment's entries, as far as blocks had them.
    changes: Overlay,
}

impl<'a> Liveness<'a> {
    pub fn new(catalog: &'a Catalog, source: &'a dyn Source) -> Self {
        Self { catalog, source, views: BTreeMap::new() }
    }

    /// What is known of an entry; `None` when no segment holds its record.
    ///
    /// # Errors
    ///
    /// When a summary is needed and cannot be read.
    pub fn newest(&mut self, entry: u64) -> Result<Option<Newest>> {
        let number = self.catalog.read().segment_of(entry);
        let Some(number) = number else { return Ok(None) };
        if !self.views.contains_key(&number) {
            let Some(view) = self.view(number)? else { return Ok(None) };
            self.views.insert(number, view);
        }
        let Some(view) = self.views.get(&number) else { return Ok(None) };
        let segment = &view.segment;
        let Some(ordinal) = segment.ordinal(entry) else { return Ok(None) };
        let fresh = view.overlay.as_ref().and_then(|overlay| overlay.get(&ordinal));
        Ok(Some(Newest {
            segment: number,
            folded_lsn: segment.folded_lsn,
            status: segment.status(ordinal),
            gone_since: segment.gone_since,
            change: fresh.map(|fresh| fresh.change).or_else(|| view.rows.get(ordinal)),
        }))
    }

    fn view(&self, number: u64) -> Result<Option<View>> {
        let state = self.catalog.read();
        let Some(segment) = state.segments.get(&number).cloned() else { return Ok(None) };
        let overlay = state.overlays.get(&number).cloned();
        drop(state);
        let rows = self.catalog.changes(self.source, &segment)?;
        Ok(Some(View { segment, overlay, rows }))
    }
}

impl Catalog {
    /// What happened to each segment that holds entries.
    pub fn wear(&self) -> Vec<Wear> {
        let wear = |segment: &Arc<Segment>| Wear {
            segment: segment.number,
            touched: segment.touched,
            gone: segment.gone(),
            terminal: segment.terminal(),
            gone_since: segment.gone_since,
            changed_in: Arc::clone(&segment.changed_in),
        };
        self.read().segments.values().map(wear).collect()
    }

    /// Puts a rewritten segment, whose summary the source gives by now, or none, in the place of
    /// others. What is committed meanwhile is not lost.
    ///
    /// # Errors
    ///
    /// When a summary is needed and cannot be read; then nothing is changed. When the index refuses
    /// to erase old blocks, which are then only in the way.
    pub fn replace(
        &self,
        source: &dyn Source,
        old: &[u64],
        new: Option<&Summary>,
        now_ms: u64,
    ) -> Result<()> {
        let _folding = self.folding.lock().unwrap_or_else(PoisonError::into_inner);
        let swap = self.prepare(source, old, new)?;
        let mut places: Vec<u64> = swap.old.iter().map(|segment| segment.place()).collect();
        let stamp = self.stamps.fetch_add(1, Ordering::Relaxed) + 1;
        let kept = self.write().swap(swap, old, new.map(|summary| summary.segment), now_ms, stamp);
        places.retain(|old| kept.iter().all(|(_, place, _)| place != old));
        self.cache_sealed(kept);
        for place in places {
            for kind in Kind::OF_SEGMENTS {
                self.cache().forget(kind, place);
                erase_block(&*self.index, kind, place)?;
            }
        }
        Ok(())
    }

    /// Makes the new resident part, and takes over what blocks know of its entries' changes.
    fn prepare(&self, source: &dyn Source, old: &[u64], new: Option<&Summary>) -> Result<Swap> {
        let state = self.read();
        let old: Vec<Arc<Segment>> =
            old.iter().filter_map(|number| state.segments.get(number)).cloned().collect();
        drop(state);
        let mut swap = Swap { old, new: None, changes: Overlay::new() };
        let Some(summary) = new.filter(|summary| !summary.entries.is_empty()) else {
            return Ok(swap);
        };
        let mut fresh = Segment::new(summary.segment, summary.generation, summary.folded_lsn);
        for row in &summary.entries {
            let cell = swap.old.iter().find_map(|old| old.cell(old.ordinal(row.lsn)?));
            let unknown = CellKey { status: GONE, domain: 0, failure_type: 0 };
            fresh.push(row, cell.unwrap_or(unknown));
        }
        for segment in &swap.old {
            let rows = self.changes(source, segment)?;
            let when = self.changed_times(source, Time::When, segment)?;
            let expires = self.changed_times(source, Time::Expires, segment)?;
            let time = |times: &Times, ordinal: u32| times.get(ordinal).unwrap_or(TIME_NONE);
            for row in rows.rows.iter().filter(|row| row.lsn > summary.folded_lsn) {
                let entry = segment.lsns.select(u64::from(row.ordinal));
                let Some(ordinal) = entry.and_then(|entry| fresh.ordinal(entry)) else { continue };
                let change = Change { ordinal, ..*row };
                let (when_ms, expires_ms) = (time(&when, row.ordinal), time(&expires, row.ordinal));
                swap.changes.insert(ordinal, Fresh { change, when_ms, expires_ms });
            }
        }
        swap.new = Some(fresh);
        Ok(swap)
    }
}

impl State {
    /// Puts the new part in; answers with its blocks.
    fn swap(
        &mut self,
        swap: Swap,
        old: &[u64],
        to: Option<u64>,
        now_ms: u64,
        stamp: u64,
    ) -> Vec<Placed> {
        let Swap { old: parts, mut new, changes } = swap;
        let mut waiting = Overlay::new();
        for number in parts.iter().map(|part| part.number) {
            let Some(current) = self.segments.remove(&number) else { continue };
            let overlay = self.overlays.remove(&number).unwrap_or_default();
            self.overlay_len = self.overlay_len.saturating_sub(overlay.len());
            if let Some(first) = current.lsns.min() {
                self.starts.remove(&first);
            }
            self.discount(&current);
            if let Some(new) = &mut new {
                take_over(new, &current, &overlay, &mut waiting);
            }
        }
        for segment in self.segments.values_mut() {
            if old.iter().any(|gone| segment.changed_in.contains(gone)) {
                let holders = Arc::make_mut(&mut Arc::make_mut(segment).changed_in);
                holders.retain(|holder| !old.contains(holder));
                holders.extend(to);
            }
        }
        new.map_or_else(Vec::new, |new| self.put_in(new, (changes, waiting), old, now_ms, stamp))
    }

    fn put_in(
        &mut self,
        mut new: Segment,
        (changes, waiting): (Overlay, Overlay),
        old: &[u64],
        now_ms: u64,
        stamp: u64,
    ) -> Vec<Placed> {
        let rows = || changes.values().chain(waiting.values());
        // A place may be stale: its segment was merged into this one.
        let holder = |at: u64| if old.contains(&at) { new.number } else { at };
        let holders: BTreeSet<u64> =
            rows().map(|fresh| holder(fresh.change.position.segment)).collect();
        let changed_lsn = rows().map(|fresh| fresh.change.lsn).max();
        for fresh in rows() {
            new.when.change((fresh.when_ms, fresh.when_ms));
            new.expires.change((fresh.expires_ms, fresh.expires_ms));
        }
        new.changed_in = Arc::new(holders);
        new.changed_lsn = changed_lsn.unwrap_or(0);
        new.gone_since = if new.gone() > 0 { now_ms } else { TIME_NONE };
        let place = new.place();
        let mut blocks: Vec<Placed> = Vec::new();
        if !changes.is_empty() {
            new.stamp = stamp;
            let built = Built::new(stamp, &changes).blocks();
            blocks.extend(built.into_iter().map(|(kind, block)| (kind, place, block)));
        }
        let sealed = new.seal().unwrap_or_default();
        blocks.extend(sealed.into_iter().map(|(kind, block)| (kind, place, block)));
        if !waiting.is_empty() {
            self.overlay_len += waiting.len();
            self.overlays.insert(new.number, Arc::new(waiting));
        }
        self.admit(new);
        blocks
    }

    /// Takes the entries of a segment out of the counts.
    fn discount(&mut self, segment: &Segment) {
        for (key, count) in segment.cells.iter().filter(|(key, _)| key.status != GONE) {
            self.len = self.len.saturating_sub(u64::from(count));
            if let Some(total) = self.totals.get_mut(&key) {
                *total = total.saturating_sub(u64::from(count));
            }
        }
        self.totals.retain(|_, count| *count > 0);
    }
}

/// Gives the new segment what changes in an overlay did to entries of an old one.
fn take_over(new: &mut Segment, old: &Segment, overlay: &Overlay, waiting: &mut Overlay) {
    for (before, fresh) in overlay {
        let entry = old.lsns.select(u64::from(*before));
        let Some(ordinal) = entry.and_then(|entry| new.ordinal(entry)) else { continue };
        if let Some(cell) = old.cell(*before) {
            new.set_status(ordinal, cell.status);
        }
        if fresh.change.lsn > new.folded_lsn {
            let change = Change { ordinal, ..fresh.change };
            waiting.insert(ordinal, Fresh { change, ..*fresh });
        }
    }
}
