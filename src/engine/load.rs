//! The index beside the log: reused after a clean stop, else rebuilt from footers and records.

use std::sync::Arc;

use super::feed::Turn;
use super::{Engine, Inner, lock};
use crate::config::IndexKind;
use crate::error::{Damage, DamageKind, Error, Result};
use crate::format::{self, Loss, Summary, TIME_NONE};
use crate::index::{Catalog, Index, MemIndex, SledIndex, Source};
use crate::log::{self, Segments};

/// The memory that sled may use for its own pages.
const SLED_CACHE_BYTES: u64 = 8 * 1024 * 1024;

/// What rebuilding the index did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct RebuildReport {
    /// Segments read.
    pub segments: u64,
    /// Entries found.
    pub entries: u64,
    /// How long it took, in milliseconds.
    pub millis: u64,
}

/// The rows of all segments, those of the active one as of one moment.
struct Frozen<'a> {
    inner: &'a Inner,
    numbers: Vec<u64>,
    active: Arc<Summary>,
}

/// The rows of all segments as they are now.
pub(super) struct Live<'a>(pub &'a Inner);

impl Source for Frozen<'_> {
    fn segments(&self) -> Vec<u64> {
        self.numbers.clone()
    }

    fn generation(&self, segment: u64) -> u32 {
        self.inner.segments.generation(segment)
    }

    fn summary(&self, segment: u64) -> Result<Arc<Summary>> {
        if segment == self.active.segment {
            return Ok(Arc::clone(&self.active));
        }
        self.inner.readable_summary(segment)
    }
}

impl Source for Live<'_> {
    fn segments(&self) -> Vec<u64> {
        self.0.segments.numbers()
    }

    fn generation(&self, segment: u64) -> u32 {
        self.0.segments.generation(segment)
    }

    fn summary(&self, segment: u64) -> Result<Arc<Summary>> {
        self.0.readable_summary(segment)
    }
}

impl Engine {
    /// Waits until the index is loaded and queries answer at once.
    ///
    /// # Errors
    ///
    /// [`Error::IndexNotReady`] after `index_wait_ms`, [`Error::Closed`], [`Error::Io`].
    pub fn wait_ready(&self) -> Result<()> {
        self.inner.catalog().map(|_| ())
    }

    /// Throws the index away and builds it again from the log. Queries wait meanwhile; `store`
    /// goes on.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`], [`Error::Closed`], [`Error::Io`], and [`Error::IndexNotReady`] when
    /// another load takes longer than `index_wait_ms`.
    pub fn rebuild_index(&self) -> Result<RebuildReport> {
        self.inner.check_open()?;
        self.inner.commit()?;
        let begin = self.inner.env.monotonic_ms();
        self.inner.feed.unload(self.inner.config.index_wait_ms)?;
        let catalog = self.inner.load_or_give_up(true)?;
        Ok(RebuildReport {
            segments: self.inner.segments.numbers().len() as u64,
            entries: catalog.len(),
            millis: self.inner.env.monotonic_ms() - begin,
        })
    }
}

impl Inner {
    /// The index; loads it if nobody has, and waits while somebody does.
    pub(super) fn catalog(&self) -> Result<Arc<Catalog>> {
        match self.feed.turn(self.config.index_wait_ms)? {
            Turn::Use(catalog) => Ok(catalog),
            Turn::Load => self.load_or_give_up(false),
        }
    }

    fn load_or_give_up(&self, rebuild: bool) -> Result<Arc<Catalog>> {
        let loaded = self.load(rebuild);
        if loaded.is_err() {
            self.feed.give_up();
        }
        loaded
    }

    fn load(&self, rebuild: bool) -> Result<Arc<Catalog>> {
        let _reshaping = lock(&self.reshaping);
        let (index, watermark) = self.open_index(rebuild)?;
        let (numbers, active) = self.segments.freeze();
        let last_lsn = |rows: &Summary| {
            let entry = rows.entries.last().map_or(0, |row| row.lsn);
            entry.max(rows.changes.last().map_or(0, |row| row.lsn))
        };
        let source = Frozen { inner: self, numbers, active };
        let cache_bytes = usize::try_from(self.config.index_cache_bytes).unwrap_or(usize::MAX);
        let catalog = Arc::new(Catalog::new(index, cache_bytes));
        let loaded = catalog.load(&source, watermark, &mut |_, _| {})?;
        let memory_bytes = catalog.memory_bytes();
        tracing::debug!(?loaded, memory_bytes, "the index is loaded");
        if let (true, Some(watermark)) = (loaded.reused, watermark) {
            self.catch_up(&catalog, &source, watermark)?;
        }
        self.forget_lost(&catalog, &source)?;
        self.feed.finish(&catalog, last_lsn(&source.active));
        Ok(catalog)
    }

    /// Applies what was committed after the index was saved, by a process that did not use it.
    fn catch_up(&self, catalog: &Catalog, source: &Frozen<'_>, watermark: u64) -> Result<()> {
        let mut newer = Vec::new();
        for number in source.numbers.iter().rev() {
            let summary = source.summary(*number)?;
            let first = summary.entries.first().map(|row| row.lsn);
            let first = first.into_iter().chain(summary.changes.first().map(|row| row.lsn)).min();
            newer.push(summary);
            if first.is_some_and(|first| first <= watermark) {
                break;
            }
        }
        for summary in newer.iter().rev() {
            for (ordinal, row) in summary.entries.iter().enumerate() {
                if row.lsn > watermark {
                    let ordinal = u32::try_from(ordinal).unwrap_or(u32::MAX);
                    let domain = summary.term_text(row.domain);
                    let failure_type = summary.term_text(row.failure_type);
                    catalog.stored(summary.segment, ordinal, row, domain, failure_type);
                }
            }
        }
        let changes =
            newer.iter().rev().flat_map(|rows| rows.changes.iter().map(|row| (rows.segment, row)));
        for (segment, row) in changes.filter(|(_, row)| row.lsn > watermark) {
            catalog.changed(segment, row);
        }
        Ok(())
    }

    /// Takes entries that are on record as lost out of the index, and puts losses on record that
    /// only scanning showed.
    fn forget_lost(&self, catalog: &Catalog, source: &Frozen<'_>) -> Result<()> {
        for number in &source.numbers {
            let Some(old) = self.segments.old(*number) else { continue };
            for damage in old.scanned_damage() {
                self.put_on_record(*number, &damage, Some(source))?;
            }
        }
        for loss in lock(&self.losses).iter() {
            if loss.lsn_from <= loss.lsn_to {
                catalog.lost(loss.lsn_from..=loss.lsn_to);
            }
        }
        Ok(())
    }

    /// Puts damage on record unless it is; counts the entries that it took.
    pub(super) fn put_on_record(
        &self,
        segment: u64,
        damage: &Damage,
        source: Option<&dyn Source>,
    ) -> Result<()> {
        let (lsn_from, lsn_to) = (damage.lsn_from.unwrap_or(1), damage.lsn_to.unwrap_or(0));
        let (offset, bytes) = (damage.offset, damage.bytes);
        let mut loss = Loss { segment, offset, bytes, lsn_from, lsn_to, entries: 0 };
        let known = |losses: &[Loss]| {
            losses.iter().any(|known| {
                let before = known.offset + known.bytes <= loss.offset;
                let behind = loss.offset + loss.bytes <= known.offset;
                known.segment == segment && (known.bytes == 0 || !(before || behind))
            })
        };
        if known(&lock(&self.losses)) {
            return Ok(());
        }
        let entries = self.entries_lost(&loss, damage.entries, source)?;
        let mut losses = lock(&self.losses);
        if known(&losses) {
            return Ok(());
        }
        loss.entries = entries.unwrap_or(0);
        losses.push(loss);
        drop(losses);
        lock(&self.damage).push(Damage { entries, ..damage.clone() });
        self.log_loss(loss, damage)
    }

    /// How many entries damage took, of so many that were in its place, as far as is known.
    fn entries_lost(
        &self,
        loss: &Loss,
        mut entries: Option<u64>,
        source: Option<&dyn Source>,
    ) -> Result<Option<u64>> {
        let segment = loss.segment;
        // The segment's own removals are taken out already of what its records told.
        let first = segment + u64::from(entries.is_some());
        if entries.is_none() {
            // Nothing follows the hole; the segment set says how many entries there were.
            let item = self.segments.old(segment).and_then(|old| old.item);
            if let (Some(item), Some(source)) = (item, source) {
                let losses = lock(&self.losses);
                let known = losses.iter().filter(|known| known.segment == segment);
                let known: u64 = known.map(|known| known.entries).sum();
                drop(losses);
                let rows = source.summary(segment)?.entries.len() as u64;
                entries = Some(item.entries.saturating_sub(rows + known));
            }
        }
        if entries.is_none_or(|entries| entries == 0) {
            return Ok(entries);
        }
        // What was removed before is not there to be lost.
        let later = self.segments.numbers().into_iter().filter(|number| *number >= first);
        let rows = later.filter_map(|number| self.segments.summary(number).ok());
        let folded_lsn = self.segments.old(segment).map_or(0, |old| old.end.folded_lsn);
        let removed =
            rows.map(|rows| log::removed_among(&rows, folded_lsn, loss.lsn_from, loss.lsn_to));
        let removed: u64 = removed.sum();
        Ok(entries.map(|entries| entries.saturating_sub(removed)))
    }

    /// The rows of a segment; none for one that cannot be read at all.
    fn readable_summary(&self, segment: u64) -> Result<Arc<Summary>> {
        match self.segments.summary(segment) {
            Err(Error::Damaged(damage)) if damage.kind == DamageKind::Header => {
                let item = self.segments.old(segment).and_then(|old| old.item);
                let damage = Damage {
                    lsn_from: item.map(|item| item.first_lsn),
                    lsn_to: item.map(|item| item.last_lsn),
                    entries: item.map(|item| item.entries),
                    ..*damage
                };
                self.put_on_record(segment, &damage, None)?;
                Ok(Arc::new(Summary::new(segment)))
            }
            other => other,
        }
    }

    /// The blocks on disk and the number up to which they may be trusted.
    fn open_index(&self, rebuild: bool) -> Result<(Arc<dyn Index>, Option<u64>)> {
        let on_disk = self.config.index == IndexKind::Sled && self.commit.is_some();
        let bytes_max = log::index_bytes_max(&self.config);
        if !on_disk || bytes_max == Some(0) || self.disk_is_full() {
            return Ok((Arc::new(MemIndex::default()), None));
        }
        // From here on the files of the index may change, so a crash must find them untrusted.
        self.mark_in_use()?;
        let folder = self.config.dir.join(format::INDEX_DIR);
        let mut slot = lock(&self.slot);
        let trusted = !rebuild && slot.index_uuid != [0; 16];
        if trusted {
            let dir = folder.join(format::hex(&slot.index_uuid));
            match SledIndex::open(&dir, SLED_CACHE_BYTES) {
                Ok(index) => {
                    return Ok((Arc::new(index.at_most(bytes_max)), Some(slot.index_lsn)));
                }
                Err(error) => tracing::warn!(%error, "the index on disk cannot be used"),
            }
        }
        // Whatever lies there was left by a crash; it is never opened.
        let removed = match self.env.remove_dir_all(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
                self.env.unlink(&folder)
            }
            other => other,
        };
        removed.map_err(|error| Error::io("remove", &folder, error))?;
        let mut uuid = [0; 16];
        self.env
            .fill_random(&mut uuid)
            .map_err(|error| Error::io("get random bytes for", &folder, error))?;
        slot.index_uuid = [0; 16];
        let dir = folder.join(format::hex(&uuid));
        self.env.create_dir(&dir).map_err(|error| Error::io("create", &dir, error))?;
        match SledIndex::create(&dir, SLED_CACHE_BYTES) {
            Ok(index) => {
                slot.index_uuid = uuid;
                Ok((Arc::new(index.at_most(bytes_max)), None))
            }
            Err(error) => {
                tracing::warn!(%error, "no index on disk; it is kept in memory");
                Ok((Arc::new(MemIndex::default()), None))
            }
        }
    }

    /// Saves the index as of now. `last` says that nothing is committed any more, so that the
    /// next open may use it.
    pub(super) fn save_index(&self, last: bool) -> Result<()> {
        let Some(catalog) = self.feed.ready() else { return Ok(()) };
        if self.disk_is_full() {
            // Nothing waits for derived state on a full disk; the next open builds it again.
            lock(&self.slot).index_uuid = [0; 16];
            return Ok(());
        }
        // The numbers of refused records are given again after the next open, so the index must not
        // claim them.
        let lsn = self.commit()?.logged_lsn();
        let mut slot = lock(&self.slot);
        match catalog.checkpoint(&Live(self), lsn) {
            Ok(()) if last => slot.index_lsn = lsn,
            Ok(()) => {}
            Err(error) => {
                // Derived state: without it the next open only takes longer.
                tracing::warn!(%error, "the index could not be saved");
                slot.index_uuid = [0; 16];
            }
        }
        Ok(())
    }
}

/// The time that a row names.
pub(super) fn row_time(ms: u64) -> Option<crate::entry::Timestamp> {
    (ms != TIME_NONE).then_some(crate::entry::Timestamp(ms))
}

/// The name of a segment's file, for a message.
pub(super) fn segment_label(segments: &Segments, number: u64) -> String {
    let old = segments.old(number);
    format::segment_name(number, old.map_or(0, |old| old.generation))
}
