//! Between memory, index and source: loading, folding changes into blocks, and the checkpoint.
//!
//! A block that is in neither cache nor index, or does not fit the resident part of its segment,
//! is built again from summaries: a column from its own segment's, the newest changes from those
//! of all segments that changed it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, TryLockError};

use crate::error::Result;
use crate::format::{EntryRow, Position, Summary};

use super::cache::{Block, Placed};
use super::catalog::{Overlay, State};
use super::keys::Filter;
use super::postings::{
    Bytes, Change, Changes, Column, Fresh, Kind, put_varint, read_block, remove_block, write_block,
};
use super::segment::{Segment, Terms, place};
use super::times::{Time, Times};
use super::{Catalog, Loaded, Source};

/// Changes that may wait in overlays in a small store, about 4 MiB.
const OVERLAY_MIN: usize = 1 << 16;
/// In a large store, one waiting change for this many entries: each fold writes whole blocks.
const OVERLAY_SHARE: u64 = 32;
/// Newest changes gathered while loading, about 10 MiB; beyond it their blocks stay cold and are
/// built when first wanted.
const GATHERED_MAX: usize = if cfg!(test) { 8 } else { 1 << 17 };
/// Entries of the cold segments whose blocks are built in one pass over the summaries.
const PASS_ENTRIES: u64 = if cfg!(test) { 16 } else { 1 << 17 };

/// The newest changes by segment, while they are gathered.
type Gathered = HashMap<u64, Overlay>;

/// The blocks of one segment that its changes make.
pub(super) struct Built {
    changes: Arc<Changes>,
    /// In the order of [`Time::ALL`].
    times: [Arc<Times>; 2],
}

impl Catalog {
    /// Fills the catalog, from the index if it is exactly as of `watermark` (given after a clean
    /// stop only), else from the summaries of all segments; then the index is cleared first.
    ///
    /// `progress` hears how many segments are done, of how many. Nothing may be stored or changed
    /// meanwhile.
    ///
    /// # Errors
    /// When a summary cannot be read. The catalog is empty then.
    pub fn load(
        &self,
        source: &dyn Source,
        watermark: Option<u64>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Loaded> {
        let segments = source.segments();
        *self.write() = State::default();
        self.cache().clear();
        let listed = places(source, &segments);
        let reused = watermark.is_some_and(|lsn| self.reuse(source, lsn, &listed));
        if !reused {
            let cleared = self.index.clear();
            if let Err(error) = cleared {
                tracing::warn!(%error, "the index could not be cleared, its blocks do not count");
            }
            self.rebuild(source, &segments, progress)?;
        }
        let count = segments.len() as u64;
        progress(count, count);
        Ok(Loaded { reused, entries: self.len(), segments: count })
    }

    /// Writes what the index does not have yet and then, if everything here is at or below the
    /// given sequence number, the watermark that lets [`Catalog::load`] take it all back.
    ///
    /// It may run beside stores and changes; then the index may end up without a watermark.
    ///
    /// # Errors
    /// When the index refuses, or a summary is needed and cannot be read.
    pub fn checkpoint(&self, source: &dyn Source, watermark_lsn: u64) -> Result<()> {
        // First, so that a stop in the middle leaves no watermark over a mixture.
        remove_block(&*self.index, Kind::Watermark, 0)?;
        self.fold(source)?;
        let state = self.read();
        let segments: Vec<Arc<Segment>> = state.segments.values().cloned().collect();
        let terms = state.terms.clone();
        let newest = state.stored_lsn.max(state.changed_lsn);
        let changed_lsn = state.changed_lsn;
        let exact = state.overlay_len == 0 && newest.is_none_or(|lsn| lsn <= watermark_lsn);
        drop(state);
        let unkept = self.cache().unkept();
        // Columns of sealed segments are cheap to build again: they are put when one is missed.
        for (kind, segment, block) in unkept.into_iter().filter(|(kind, ..)| kind.is_of_changes()) {
            self.put(kind, segment, &block)?;
            self.cache().keep(kind, segment);
        }
        for segment in &segments {
            self.put_segment(segment, &terms)?;
        }
        if exact {
            let mut block = Vec::new();
            put_varint(&mut block, watermark_lsn);
            put_varint(&mut block, self.stamps.load(Ordering::Relaxed));
            put_varint(&mut block, u64::from(changed_lsn.is_some()));
            put_varint(&mut block, changed_lsn.unwrap_or(0));
            let listed = places(source, &source.segments());
            put_varint(&mut block, listed.len() as u64);
            listed.iter().for_each(|place| put_varint(&mut block, *place));
            put_varint(&mut block, segments.len() as u64);
            for segment in &segments {
                put_varint(&mut block, segment.place());
                put_varint(&mut block, u64::from(segment.len()));
                put_varint(&mut block, segment.stamp);
                put_varint(&mut block, segment.changed_lsn);
            }
            // Last: whoever finds the watermark finds all blocks before it.
            write_block(&*self.index, Kind::Watermark, 0, &block)?;
        }
        self.index.sync()
    }

    /// Folds the changes that wait in memory into their blocks. Call it from background work, so
    /// that no reader has to.
    ///
    /// # Errors
    /// When a block has to be built and a summary cannot be read.
    pub fn fold(&self, source: &dyn Source) -> Result<()> {
        let _folding = match self.folding.try_lock() {
            Ok(folding) => folding,
            Err(TryLockError::Poisoned(folding)) => folding.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(()),
        };
        let waiting: Vec<u64> = self.read().overlays.keys().copied().collect();
        waiting.into_iter().try_for_each(|number| self.fold_one(source, number))
    }

    /// Folds if more changes wait than memory is meant for.
    pub(super) fn fold_if_full(&self, source: &dyn Source) -> Result<()> {
        let state = self.read();
        let share = usize::try_from(state.len / OVERLAY_SHARE).unwrap_or(usize::MAX);
        let full = state.overlay_len > OVERLAY_MIN.max(share);
        drop(state);
        if full { self.fold(source) } else { Ok(()) }
    }

    /// A column of a sealed segment.
    pub(super) fn column(
        &self,
        source: &dyn Source,
        kind: Kind,
        segment: &Segment,
    ) -> Result<Arc<Column>> {
        let fits = |column: &Column| column.len() == segment.len() as usize;
        let cached = self.cache().get(kind, segment.place());
        if let Some(Block::Column(column)) = cached
            && fits(&column)
        {
            return Ok(column);
        }
        let block = read_block(&*self.index, kind, segment.place());
        let read = block.and_then(|block| {
            let mut bytes = Bytes::new(&block);
            Column::decode(&mut bytes).filter(|column| bytes.is_empty() && fits(column))
        });
        if let Some(column) = read {
            let column = Arc::new(column);
            self.hold(kind, segment.place(), Block::Column(Arc::clone(&column)), true);
            return Ok(column);
        }
        let column = Arc::new(gather_column(&*source.summary(segment.number)?, kind, segment));
        let block = Block::Column(Arc::clone(&column));
        let kept = self.put(kind, segment.place(), &block).is_ok();
        self.hold(kind, segment.place(), block, kept);
        Ok(column)
    }

    /// The newest changes of a segment, without those that wait in its overlay.
    pub(super) fn changes(&self, source: &dyn Source, segment: &Segment) -> Result<Arc<Changes>> {
        if segment.stamp == 0 {
            return Ok(Arc::default());
        }
        let cached = self.cache().get(Kind::Changes, segment.place());
        if let Some(Block::Changes(changes)) = cached
            && changes.stamp == segment.stamp
        {
            return Ok(changes);
        }
        let block = read_block(&*self.index, Kind::Changes, segment.place());
        let read = block.and_then(|block| Changes::decode(&block));
        if let Some(changes) = read
            && changes.stamp == segment.stamp
            && changes.rows.last().is_none_or(|row| row.ordinal < segment.len())
        {
            let changes = Arc::new(changes);
            let block = Block::Changes(Arc::clone(&changes));
            self.hold(Kind::Changes, segment.place(), block, true);
            return Ok(changes);
        }
        Ok(self.build(source, segment)?.changes)
    }

    /// A time that the entries of a segment were stored with.
    pub(super) fn stored_times(
        &self,
        source: &dyn Source,
        time: Time,
        segment: &Segment,
    ) -> Result<Arc<Times>> {
        if !segment.range(time).stored {
            return Ok(Arc::default());
        }
        if let Some(open) = &segment.open {
            return Ok(Arc::new(Segment::stored_times(time, open)));
        }
        let kind = time.stored_kind();
        let fits = |times: &Times| times.stamp == 0 && times.len() == segment.len();
        if let Some(times) = self.kept_times(kind, segment.place(), &fits) {
            return Ok(times);
        }
        let times = Arc::new(gather_times(&*source.summary(segment.number)?, time, segment));
        let block = Block::Times(Arc::clone(&times));
        let kept = self.put(kind, segment.place(), &block).is_ok();
        self.hold(kind, segment.place(), block, kept);
        Ok(times)
    }

    /// A time that changes gave to the entries of a segment, without those that wait in its
    /// overlay.
    pub(super) fn changed_times(
        &self,
        source: &dyn Source,
        time: Time,
        segment: &Segment,
    ) -> Result<Arc<Times>> {
        if segment.stamp == 0 {
            return Ok(Arc::default());
        }
        let fits = |times: &Times| times.stamp == segment.stamp && times.len() <= segment.len();
        if let Some(times) = self.kept_times(time.changed_kind(), segment.place(), &fits) {
            return Ok(times);
        }
        let [when, expires] = self.build(source, segment)?.times;
        Ok(if time == Time::When { when } else { expires })
    }

    /// Times from the cache or the index.
    fn kept_times(
        &self,
        kind: Kind,
        segment: u64,
        fits: &dyn Fn(&Times) -> bool,
    ) -> Option<Arc<Times>> {
        let cached = self.cache().get(kind, segment);
        if let Some(Block::Times(times)) = cached
            && fits(&times)
        {
            return Some(times);
        }
        let block = read_block(&*self.index, kind, segment)?;
        let times = Arc::new(Times::decode(&block).filter(fits)?);
        self.hold(kind, segment, Block::Times(Arc::clone(&times)), true);
        Some(times)
    }

    /// Builds what the changes of a segment make, and of the cold ones around it.
    fn build(&self, source: &dyn Source, segment: &Segment) -> Result<Built> {
        let around = if segment.cold { self.cold_after(segment) } else { Vec::new() };
        let mut wanted = Built::new(segment.stamp, &Overlay::new());
        // The one asked for is last, so that the cache keeps it longest.
        for (number, stamp, rows) in gather_changes(source, &around, segment)? {
            let built = Built::new(stamp, &rows);
            // A fold may have gone on meanwhile; its blocks stay.
            let held = self.read().segments.get(&number).cloned();
            if let Some(held) = held.filter(|held| held.stamp == stamp) {
                self.hold_built(held.place(), &built);
            }
            if let Some(held) = self.write().segments.get_mut(&number)
                && held.cold
                && held.stamp == stamp
            {
                let held = Arc::make_mut(held);
                (held.cold, held.kept) = (false, false);
            }
            wanted = built;
        }
        Ok(wanted)
    }

    /// Puts new blocks into index and cache.
    fn hold_built(&self, place: u64, built: &Built) {
        for (kind, block) in built.blocks() {
            let kept = self.put(kind, place, &block).is_ok();
            self.hold(kind, place, block, kept);
        }
    }

    /// The cold segments next to one, as many as are built in one pass.
    fn cold_after(&self, segment: &Segment) -> Vec<Arc<Segment>> {
        let mut entries = u64::from(segment.len());
        let state = self.read();
        let (newer, older) =
            (state.segments.range(segment.number..), state.segments.range(..segment.number));
        // On both sides, as listings start from the newest, and replays from the oldest.
        let mut near: Vec<&Arc<Segment>> = newer.map(|(_, near)| near).skip(1).collect();
        near.extend(older.map(|(_, near)| near));
        near.retain(|near| near.cold);
        near.sort_by_key(|near| near.number.abs_diff(segment.number));
        let fits = near.into_iter().take_while(|near| {
            entries += u64::from(near.len());
            entries <= PASS_ENTRIES
        });
        fits.cloned().collect()
    }

    fn fold_one(&self, source: &dyn Source, number: u64) -> Result<()> {
        let state = self.read();
        let segment = state.segments.get(&number).cloned();
        let overlay = state.overlays.get(&number).cloned();
        drop(state);
        let (Some(segment), Some(overlay)) = (segment, overlay) else { return Ok(()) };
        let before = self.changes(source, &segment)?;
        let when = self.changed_times(source, Time::When, &segment)?;
        let expires = self.changed_times(source, Time::Expires, &segment)?;
        let stamp = self.stamps.fetch_add(1, Ordering::Relaxed) + 1;
        let built = Built {
            changes: Arc::new(Changes { stamp, rows: merge(&before.rows, &overlay) }),
            times: [
                Arc::new(merge_times(stamp, Time::When, &when, &overlay)),
                Arc::new(merge_times(stamp, Time::Expires, &expires, &overlay)),
            ],
        };
        let place = segment.place();
        let blocks = built.blocks().map(|(kind, block)| {
            let kept = self.put(kind, place, &block).is_ok();
            (kind, block, kept)
        });
        let mut state = self.write();
        if let Some(held) = state.segments.get_mut(&number) {
            let held = Arc::make_mut(held);
            held.stamp = stamp;
            (held.cold, held.kept) = (false, false);
        }
        let mut left = state.overlays.remove(&number).unwrap_or_default();
        let waited = left.len();
        if Arc::ptr_eq(&left, &overlay) {
            left = Arc::default();
        } else {
            let fresh = |ordinal: &u32, fresh: &Fresh| overlay.get(ordinal) != Some(fresh);
            Arc::make_mut(&mut left).retain(|ordinal, row| fresh(ordinal, row));
        }
        state.overlay_len = (state.overlay_len + left.len()).saturating_sub(waited);
        if !left.is_empty() {
            state.overlays.insert(number, left);
        }
        drop(state);
        for (kind, block, kept) in blocks {
            self.hold(kind, place, block, kept);
        }
        Ok(())
    }

    /// Puts a block into the cache, and what falls out of it into the index.
    fn hold(&self, kind: Kind, segment: u64, block: Block, kept: bool) {
        let dropped = self.cache().insert(kind, segment, block, kept);
        for (kind, segment, block) in dropped {
            // Columns are cheap to build again; newest changes are not.
            if kind.is_of_changes()
                && let Err(error) = self.put(kind, segment, &block)
            {
                tracing::debug!(segment, %error, "a block is not kept and may be built again");
            }
        }
    }

    fn put(&self, kind: Kind, segment: u64, block: &Block) -> Result<()> {
        let bytes = match block {
            Block::Changes(changes) => changes.encode(),
            Block::Times(times) => times.encode(),
            Block::Column(column) => {
                let mut bytes = Vec::with_capacity(column.bytes() + 5);
                column.encode(&mut bytes);
                bytes
            }
        };
        write_block(&*self.index, kind, segment, &bytes)
    }

    fn put_segment(&self, segment: &Arc<Segment>, terms: &Terms) -> Result<()> {
        if segment.kept && segment.filter_kept {
            return Ok(());
        }
        if !segment.filter_kept {
            write_block(&*self.index, Kind::Filter, segment.place(), &segment.filter.encode())?;
            if let Some(open) = &segment.open {
                for (kind, block) in segment.blocks(open) {
                    self.put(kind, segment.place(), &block)?;
                }
            }
        }
        write_block(&*self.index, Kind::Segment, segment.place(), &segment.encode(terms))?;
        let mut state = self.write();
        if let Some(held) = state.segments.get_mut(&segment.number)
            && Arc::ptr_eq(held, segment)
        {
            let held = Arc::make_mut(held);
            (held.kept, held.filter_kept) = (true, true);
        }
        Ok(())
    }

    /// Takes the index as it is; false, and nothing is changed, unless it fits in full.
    fn reuse(&self, source: &dyn Source, watermark: u64, listed: &[u64]) -> bool {
        let Some((mut state, stamps)) = self.read_state(watermark, listed) else { return false };
        if let Some(last) = state.segments.values_mut().next_back() {
            let created = self.column(source, Kind::Created, last);
            let keys = self.column(source, Kind::Keys, last);
            let when = self.stored_times(source, Time::When, last);
            let expires = self.stored_times(source, Time::Expires, last);
            let (Ok(created), Ok(keys)) = (created, keys) else { return false };
            let (Ok(when), Ok(expires)) = (when, expires) else { return false };
            Arc::make_mut(last).reopen(&created, &keys, &when, &expires);
        }
        self.stamps.store(stamps, Ordering::Relaxed);
        *self.write() = state;
        true
    }

    fn read_state(&self, watermark: u64, listed: &[u64]) -> Option<(State, u64)> {
        let block = read_block(&*self.index, Kind::Watermark, 0)?;
        let mut bytes = Bytes::new(&block);
        let (lsn, stamps) = (bytes.varint()?, bytes.varint()?);
        let (changed, changed_lsn) = (bytes.varint()?, bytes.varint()?);
        let numbers = (0..bytes.varint()?).map(|_| bytes.varint()).collect::<Option<Vec<_>>>()?;
        if lsn != watermark || numbers != *listed {
            return None;
        }
        let changed_lsn = (changed != 0).then_some(changed_lsn);
        let mut state = State { changed_lsn, ..State::default() };
        for _ in 0..bytes.varint()? {
            let place = bytes.varint()?;
            let filter = Filter::decode(&read_block(&*self.index, Kind::Filter, place)?)?;
            let block = read_block(&*self.index, Kind::Segment, place)?;
            let segment = Segment::decode(&block, filter, &mut state.terms)?;
            let (len, stamp, changed) = (bytes.varint()?, bytes.varint()?, bytes.varint()?);
            let fits = segment.place() == place
                && u64::from(segment.len()) == len
                && segment.stamp == stamp
                && segment.changed_lsn == changed;
            if !fits {
                return None;
            }
            state.admit(segment);
        }
        bytes.is_empty().then_some((state, stamps))
    }

    fn rebuild(
        &self,
        source: &dyn Source,
        segments: &[u64],
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<()> {
        let mut state = State::default();
        let mut gathered = Some((Gathered::new(), 0));
        for (done, number) in (0..).zip(segments) {
            progress(done, segments.len() as u64);
            let summary = source.summary(*number)?;
            self.cache_sealed(state.add_entries(*number, &summary));
            for row in &summary.changes {
                let Some((target, ordinal)) = state.apply(*number, row) else { continue };
                if let Some((changes, count)) = &mut gathered {
                    let position = Position { segment: *number, offset: row.offset };
                    let change = Change { ordinal, lsn: row.lsn, position };
                    let (when_ms, expires_ms) = (row.when_ms, row.expires_ms);
                    let fresh = Fresh { change, when_ms, expires_ms };
                    let before = changes.entry(target).or_default().insert(ordinal, fresh);
                    *count += usize::from(before.is_none());
                }
            }
            gathered = gathered.filter(|(_, count)| *count <= GATHERED_MAX);
        }
        let mut changes = gathered.map_or_else(Gathered::new, |(changes, _)| changes);
        for (number, segment) in &mut state.segments {
            if segment.changed_in.is_empty() {
                continue;
            }
            let stamp = self.stamps.fetch_add(1, Ordering::Relaxed) + 1;
            let held = Arc::make_mut(segment);
            (held.stamp, held.cold) = (stamp, !changes.contains_key(number));
            if let Some(rows) = changes.remove(number) {
                for (kind, block) in Built::new(stamp, &rows).blocks() {
                    self.hold(kind, *number, block, false);
                }
            }
        }
        *self.write() = state;
        Ok(())
    }
}

impl Built {
    pub(super) fn new(stamp: u64, rows: &Overlay) -> Self {
        let none = Times::default();
        let times = Time::ALL.map(|time| Arc::new(merge_times(stamp, time, &none, rows)));
        let rows = rows.values().map(|fresh| fresh.change).collect();
        Self { changes: Arc::new(Changes { stamp, rows }), times }
    }

    pub(super) fn blocks(&self) -> [(Kind, Block); 3] {
        let [when, expires] = &self.times;
        [
            (Time::When.changed_kind(), Block::Times(Arc::clone(when))),
            (Time::Expires.changed_kind(), Block::Times(Arc::clone(expires))),
            (Kind::Changes, Block::Changes(Arc::clone(&self.changes))),
        ]
    }
}

impl State {
    /// Adds the entries of a summary; returns the columns of the segments that are sealed by it.
    fn add_entries(&mut self, number: u64, summary: &Summary) -> Vec<Placed> {
        let terms: Vec<u32> = summary.terms.iter().map(|text| self.terms.number(text)).collect();
        let unknown = self.terms.number("");
        let term = |number: u32| terms.get(number as usize).copied().unwrap_or(unknown);
        let mut sealed = Vec::new();
        for row in &summary.entries {
            if self.stored_lsn.is_none_or(|highest| row.lsn > highest) {
                let (domain, failure_type) = (term(row.domain), term(row.failure_type));
                let place = (number, summary.generation, summary.folded_lsn);
                sealed.extend(self.push(place, row, domain, failure_type));
            }
        }
        sealed
    }

    /// Adds a segment that is as the index has it, or as a rewritten file makes it.
    pub(super) fn admit(&mut self, segment: Segment) {
        for (key, count) in segment.cells.iter().filter(|(_, count)| *count > 0) {
            if key.status != super::segment::GONE {
                *self.totals.entry(key).or_default() += u64::from(count);
                self.len += u64::from(count);
            }
        }
        if let (Some(first), Some(last)) = (segment.lsns.min(), segment.lsns.max()) {
            self.starts.insert(first, segment.number);
            self.stored_lsn = self.stored_lsn.max(Some(last));
        }
        self.segments.insert(segment.number, Arc::new(segment));
    }
}

/// The segments of a source with their generations.
fn places(source: &dyn Source, segments: &[u64]) -> Vec<u64> {
    segments.iter().map(|number| place(*number, source.generation(*number))).collect()
}

/// The rows of a segment's entries; none for one that the summary no longer lists: it is gone.
fn rows_of<'a>(
    summary: &'a Summary,
    segment: &'a Segment,
) -> impl Iterator<Item = Option<&'a EntryRow>> + Clone {
    let mut rows = summary.entries.iter().peekable();
    segment.lsns.iter().map(move |lsn| {
        while rows.next_if(|row| row.lsn < lsn).is_some() {}
        rows.next_if(|row| row.lsn == lsn)
    })
}

/// A column as the summary has it. The number of an entry that is gone does not matter.
fn gather_column(summary: &Summary, kind: Kind, segment: &Segment) -> Column {
    let number = |row: &EntryRow| match kind {
        Kind::Keys => row.key_hash,
        _ => row.created_ms.saturating_sub(segment.created_min),
    };
    rows_of(summary, segment).map(|row| row.map_or(0, number)).collect()
}

/// What entries were stored with, as the summary has it.
fn gather_times(summary: &Summary, time: Time, segment: &Segment) -> Times {
    let times: Vec<Option<u64>> =
        rows_of(summary, segment).map(|row| row.map(|row| time.stored(row).0)).collect();
    Times::new(0, times.iter().copied())
}

/// The newest changes as the summaries have them, up to what each segment was told of; those of
/// the one asked for are last. With each come its number and its stamp.
fn gather_changes(
    source: &dyn Source,
    around: &[Arc<Segment>],
    wanted: &Segment,
) -> Result<Vec<(u64, u64, Overlay)>> {
    let segments: Vec<&Segment> = around.iter().map(|near| &**near).chain([wanted]).collect();
    let sources: BTreeSet<u64> =
        segments.iter().flat_map(|segment| segment.changed_in.iter().copied()).collect();
    let by_start: BTreeMap<u64, (usize, &Segment)> = (0..)
        .zip(&segments)
        .filter_map(|(at, segment)| Some((segment.lsns.min()?, (at, *segment))))
        .collect();
    let mut newest = vec![Overlay::new(); segments.len()];
    for number in sources {
        let summary = source.summary(number)?;
        for row in &summary.changes {
            let near = by_start.range(..=row.target).next_back();
            let Some((at, segment)) = near.map(|(_, near)| *near) else { continue };
            if row.lsn <= segment.folded_lsn || row.lsn > segment.changed_lsn {
                continue;
            }
            let Some(ordinal) = segment.ordinal(row.target) else { continue };
            let position = Position { segment: number, offset: row.offset };
            let change = Change { ordinal, lsn: row.lsn, position };
            let fresh = Fresh { change, when_ms: row.when_ms, expires_ms: row.expires_ms };
            let Some(newest) = newest.get_mut(at) else { continue };
            let held = newest.entry(ordinal).or_insert(fresh);
            if held.change.lsn < row.lsn {
                *held = fresh;
            }
        }
    }
    let gathered = segments.iter().zip(newest);
    Ok(gathered.map(|(segment, rows)| (segment.number, segment.stamp, rows)).collect())
}

fn merge(rows: &[Change], overlay: &Overlay) -> Vec<Change> {
    let mut merged: BTreeMap<u32, Change> = rows.iter().map(|row| (row.ordinal, *row)).collect();
    for (ordinal, Fresh { change, .. }) in overlay {
        let held = merged.entry(*ordinal).or_insert(*change);
        if held.lsn < change.lsn {
            *held = *change;
        }
    }
    merged.into_values().collect()
}

/// A time as changes gave it: what stands in an overlay is at least as new as what is in a block.
fn merge_times(stamp: u64, time: Time, before: &Times, overlay: &Overlay) -> Times {
    let last = overlay.last_key_value().map_or(0, |(ordinal, _)| ordinal.saturating_add(1));
    let mut merged: Vec<Option<u64>> =
        (0..before.len().max(last)).map(|ordinal| before.get(ordinal)).collect();
    for (ordinal, fresh) in overlay {
        if let Some(slot) = merged.get_mut(*ordinal as usize) {
            *slot = Some(time.fresh(fresh));
        }
    }
    Times::new(stamp, merged.iter().copied())
}
