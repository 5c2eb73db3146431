//! The segments as readers see them: the active one, the older ones, and the files that are open.
//!
//! The leader of a commit adds to the active segment; the compactor puts rewritten segments in the
//! place of others. Whoever reads holds the file it reads from, so what is taken off the list stays
//! readable to the end. A record is asked for by its sequence number; where it was seen last is
//! only a hint.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use super::Tallies;
use super::recover::{self, Extent};
use super::segment::SegmentFile;
use crate::env::{Env, OpenMode};
use crate::error::{Damage, Error, Result};
use crate::format::{self, ChangeRow, Frame, Kind, Position, SegmentEnd, SegmentItem, Summary};

/// How many segment files are kept open.
const OPEN_FILES_MAX: usize = 64;

/// Space kept free behind the records for changes by an operator.
const CHANGE_RESERVE: u64 = 64 * 1024;

/// The segment that takes new records.
#[derive(Debug)]
pub(crate) struct Active {
    pub file: Arc<SegmentFile>,
    pub summary: Summary,
    /// The counts up to the last written record, those of older segments included.
    pub tallies: Tallies,
    /// Where the written records end.
    pub end: u64,
    /// Where the synced records end.
    pub synced_end: u64,
}

impl Active {
    /// How many bytes of records and rows still fit, before a mark and the footer, and with a reserve
    /// before what is kept for an operator's changes.
    pub fn place(&self, with_reserve: bool) -> u64 {
        let capacity = self.file.header.capacity;
        let reserve = if with_reserve { CHANGE_RESERVE.min(capacity / 16) } else { 0 };
        let behind = format::padded_len(0) + format::footer_len(&self.summary) + reserve;
        capacity.saturating_sub(self.end + behind)
    }
}

/// A segment that takes no more records.
#[derive(Debug)]
pub(crate) struct Old {
    pub number: u64,
    pub generation: u32,
    /// Where its records end and what is folded into it, as far as the log says.
    pub end: SegmentEnd,
    /// What the log lists of it; `None` while a lost list is made again.
    pub item: Option<SegmentItem>,
    /// Rows read from the records, for a segment without a sound footer.
    scanned: OnceLock<Arc<Scanned>>,
}

/// What scanning an old segment gave.
#[derive(Debug)]
pub(crate) struct Scanned {
    /// Without entries that only a build with compression can read.
    pub summary: Arc<Summary>,
    pub damage: Vec<Damage>,
    /// The first of those entries.
    pub unread: Option<u64>,
}

impl Scanned {
    /// The rows of all entries.
    ///
    /// # Errors
    /// [`Error::Compressed`]
    pub fn rows(&self) -> Result<&Arc<Summary>> {
        self.unread.map_or(Ok(&self.summary), |lsn| Err(Error::compressed(lsn)))
    }
}

impl Old {
    pub fn new(item: SegmentItem, end: SegmentEnd) -> Self {
        let (number, generation) = (item.segment, item.generation);
        Self { number, generation, end, item: Some(item), scanned: OnceLock::new() }
    }

    /// One of which the log lists nothing.
    pub fn unlisted(number: u64, generation: u32) -> Self {
        let (end, scanned) = (SegmentEnd::default(), OnceLock::new());
        Self { number, generation, end, item: None, scanned }
    }

    /// Where its records end, as others say; `None` when nobody says.
    pub fn bound(&self) -> Option<u64> {
        (self.end.end != 0).then_some(self.end.end)
    }

    /// Whether a sequence number lies in its range.
    fn covers(&self, lsn: u64) -> bool {
        self.item.is_some_and(|item| item.first_lsn <= lsn && lsn <= item.last_lsn)
    }

    /// The damage that scanning found, if the segment had to be scanned.
    pub fn scanned_damage(&self) -> Vec<Damage> {
        self.scanned.get().map_or_else(Vec::new, |scanned| scanned.damage.clone())
    }
}

/// All segments, as readers see them.
#[derive(Debug)]
pub(crate) struct Segments {
    env: Arc<dyn Env>,
    log_dir: PathBuf,
    mmap: bool,
    /// Guards the active segment's rows; the leader changes them.
    active: RwLock<Option<Active>>,
    /// Guards the list of the others.
    old: RwLock<Listed>,
    /// Guards the open files, with the tick of their last use.
    files: Mutex<HashMap<Place, (Arc<SegmentFile>, u64)>>,
}

/// A segment's number and generation: one file.
type Place = (u64, u32);

/// The older segments.
#[derive(Debug, Default)]
struct Listed {
    by_number: BTreeMap<u64, Arc<Old>>,
    /// The same by their lowest sequence number; those without any, or not listed, are left out.
    by_lsn: BTreeMap<u64, Arc<Old>>,
}

impl Listed {
    fn insert(&mut self, old: Old) {
        let old = Arc::new(old);
        self.remove(old.number);
        if let Some(item) = old.item.filter(|item| item.first_lsn <= item.last_lsn) {
            self.by_lsn.insert(item.first_lsn, Arc::clone(&old));
        }
        self.by_number.insert(old.number, old);
    }

    fn remove(&mut self, number: u64) {
        let gone = self.by_number.remove(&number);
        if let Some(item) = gone.and_then(|gone| gone.item)
            && self.by_lsn.get(&item.first_lsn).is_some_and(|held| held.number == number)
        {
            self.by_lsn.remove(&item.first_lsn);
        }
    }
}

impl Segments {
    pub fn new(env: Arc<dyn Env>, log_dir: PathBuf, mmap: bool) -> Self {
        Self {
            env,
            log_dir,
            mmap,
            active: RwLock::new(None),
            old: RwLock::default(),
            files: Mutex::default(),
        }
    }

    /// Makes a segment active; the one that was becomes old, as the new one lists it.
    pub fn begin(&self, active: Active, sealed: Option<Old>) {
        let mut current = self.active.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = sealed {
            self.add_old(old);
        }
        *current = Some(active);
    }

    pub fn add_old(&self, old: Old) {
        let mut list = self.old.write().unwrap_or_else(PoisonError::into_inner);
        list.insert(old);
    }

    /// Puts a segment, or none, in the place of others. Those who read from them go on.
    pub fn replace(&self, old: &[Arc<Old>], new: Option<Old>) {
        let mut list = self.old.write().unwrap_or_else(PoisonError::into_inner);
        for gone in old {
            list.remove(gone.number);
        }
        if let Some(new) = new {
            list.insert(new);
        }
        drop(list);
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.retain(|place, _| !old.iter().any(|gone| *place == (gone.number, gone.generation)));
    }

    /// Reads of the active segment; a store opened for reading only has none on an empty log.
    pub fn with_active<T>(&self, read: impl FnOnce(&Active) -> T) -> T {
        let active = self.active.read().unwrap_or_else(PoisonError::into_inner);
        read(active.as_ref().expect("a log has an active segment from its opening on"))
    }

    pub fn update_active<T>(&self, update: impl FnOnce(&mut Active) -> T) -> T {
        let mut active = self.active.write().unwrap_or_else(PoisonError::into_inner);
        update(active.as_mut().expect("a log has an active segment from its opening on"))
    }

    /// The number of the active segment.
    pub fn active_number(&self) -> u64 {
        self.with_active(|active| active.file.header.segment)
    }

    /// The active segment, and where its synced records end.
    pub fn active_synced(&self) -> (Arc<SegmentFile>, u64) {
        self.with_active(|active| (Arc::clone(&active.file), active.synced_end))
    }

    /// The numbers of all segments, rising.
    pub fn numbers(&self) -> Vec<u64> {
        let active = self.active_number();
        let old = self.old.read().unwrap_or_else(PoisonError::into_inner);
        old.by_number.range(..active).map(|(number, _)| *number).chain([active]).collect()
    }

    /// All segments and the rows of the active one, as of one moment.
    pub fn freeze(&self) -> (Vec<u64>, Arc<Summary>) {
        loop {
            let numbers = self.numbers();
            let summary = self.with_active(|active| Arc::new(active.summary.clone()));
            // A rotation in between would leave the new segment out.
            if numbers.last() == Some(&summary.segment) {
                return (numbers, summary);
            }
        }
    }

    /// Reads of a segment if it is the active one. A segment is listed as old before the next one
    /// becomes active, so whoever asks here first and then for the old one misses none.
    fn if_active<T>(&self, number: u64, read: impl FnOnce(&Active) -> T) -> Option<T> {
        let active = self.active.read().unwrap_or_else(PoisonError::into_inner);
        // While the log is being opened there is none yet.
        active.as_ref().filter(|active| active.file.header.segment == number).map(read)
    }

    pub fn old(&self, number: u64) -> Option<Arc<Old>> {
        self.old.read().unwrap_or_else(PoisonError::into_inner).by_number.get(&number).cloned()
    }

    /// The older segments, by rising number.
    pub fn all_old(&self) -> Vec<Arc<Old>> {
        let active = self.active_number();
        let old = self.old.read().unwrap_or_else(PoisonError::into_inner);
        old.by_number.range(..active).map(|(_, old)| Arc::clone(old)).collect()
    }

    /// The generation of a segment; 0 for the active one.
    pub fn generation(&self, number: u64) -> u32 {
        self.old(number).map_or(0, |old| old.generation)
    }

    /// The older segment in whose range a sequence number lies.
    fn holder(&self, lsn: u64) -> Option<Arc<Old>> {
        let old = self.old.read().unwrap_or_else(PoisonError::into_inner);
        let (_, near) = old.by_lsn.range(..=lsn).next_back()?;
        near.covers(lsn).then(|| Arc::clone(near))
    }

    /// Whether a change may still say something: its entry was not dropped with its segment, and
    /// the change is not folded into it.
    pub fn counts(&self, target: u64, change: u64) -> bool {
        match self.holder(target) {
            Some(old) => change > old.end.folded_lsn,
            None => self.with_active(|active| active.file.header.base_lsn <= target),
        }
    }

    /// An open old segment, and where its records end.
    pub fn open(&self, old: &Old) -> Result<(Arc<SegmentFile>, u64)> {
        let file = self.cached(old)?;
        let end = file.trailer.map_or(old.bound().unwrap_or(file.len), |trailer| trailer.start);
        Ok((Arc::clone(&file), end.min(file.len)))
    }

    fn cached(&self, old: &Old) -> Result<Arc<SegmentFile>> {
        let place = (old.number, old.generation);
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let tick = files.values().map(|(_, used)| *used).max().unwrap_or(0) + 1;
        if let Some((file, used)) = files.get_mut(&place) {
            *used = tick;
            return Ok(Arc::clone(file));
        }
        drop(files);
        let path = self.path(old.number, old.generation);
        let file = SegmentFile::open(&*self.env, &path, OpenMode::Read, self.mmap)?;
        let file = Arc::new(file.ending_at(old.bound()));
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if files.len() >= OPEN_FILES_MAX {
            let oldest = files.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key);
            oldest.map(|oldest| files.remove(&oldest));
        }
        files.insert(place, (Arc::clone(&file), tick));
        Ok(file)
    }

    pub fn path(&self, number: u64, generation: u32) -> PathBuf {
        self.log_dir.join(format::segment_name(number, generation))
    }

    /// Reads the record at a position.
    pub fn frame(&self, position: Position) -> Result<Frame> {
        let active =
            self.if_active(position.segment, |active| (Arc::clone(&active.file), active.end));
        let (file, end) = match (active, self.old(position.segment)) {
            (Some(active), _) => active,
            (None, Some(old)) => self.open(&old)?,
            (None, None) => {
                let (file, _) = self.active_synced();
                return Err(file.damaged(position.offset, 0, None));
            }
        };
        file.read_frame(position.offset, end)
    }

    /// Where the record of an entry begins. Segment and ordinal say where it was last known to be.
    pub fn entry_position(&self, segment: u64, ordinal: u32, lsn: u64) -> Result<Option<Position>> {
        let row_of = |rows: &Summary| {
            let row = rows.entries.get(ordinal as usize).filter(|row| row.lsn == lsn).cloned();
            row.or_else(|| find_row(&rows.entries, |row| row.lsn, lsn))
        };
        if let Some(row) = self.if_active(segment, |active| row_of(&active.summary)) {
            return Ok(row.map(|row| Position { segment, offset: row.offset }));
        }
        // Segments in whose range it does not lie were rewritten without it, or merged into others.
        let hint = self.old(segment);
        let Some(old) = self.holder(lsn).or(hint) else { return Ok(None) };
        let (file, _) = self.open(&old)?;
        let hinted = file.entry_row(ordinal).map(|row| row.filter(|row| row.lsn == lsn));
        let row = match hinted {
            Ok(None) => file.find_entry_row(lsn),
            row => row,
        };
        let row = match row {
            Ok(None) if file.trailer.is_none() => row_of(self.scanned(&old)?.rows()?),
            Err(Error::Damaged(_)) => row_of(self.scanned(&old)?.rows()?),
            row => row?,
        };
        Ok(row.map(|row| Position { segment: old.number, offset: row.offset }))
    }

    /// The older segment that holds, or would hold, a record, with the damage that a scan of its
    /// records shows.
    pub fn scanned_holder(&self, segment: u64, lsn: u64) -> Result<Option<(u64, Arc<Scanned>)>> {
        let Some(old) = self.holder(lsn).or_else(|| self.old(segment)) else { return Ok(None) };
        Ok(Some((old.number, self.scanned(&old)?)))
    }

    /// The record of a change, from where it was last known to be or where it is now. `None` when
    /// it is damaged, or not there.
    pub fn change_frame(&self, hint: Position, lsn: u64) -> Result<Option<Frame>> {
        let is_it = |frame: &Frame| frame.header.lsn == lsn && frame.header.kind == Kind::Change;
        let sound = |frame: Result<Frame>| match frame {
            Ok(frame) => Ok(Some(frame).filter(is_it)),
            Err(Error::Damaged(_)) => Ok(None),
            Err(error) => Err(error),
        };
        if let Some(frame) = sound(self.frame(hint))? {
            return Ok(Some(frame));
        }
        match self.change_row(hint.segment, lsn)? {
            Some((position, _)) if position != hint => sound(self.frame(position)),
            _ => Ok(None),
        }
    }

    /// The row of a change, and where it says that the record is.
    pub fn change_row(&self, segment: u64, lsn: u64) -> Result<Option<(Position, ChangeRow)>> {
        let row_of = |rows: &Summary| find_row(&rows.changes, |row| row.lsn, lsn);
        let found = |segment: u64, row: Option<ChangeRow>| {
            row.map(|row| (Position { segment, offset: row.offset }, row))
        };
        let active = self.active_number();
        if let Some(Some(row)) = self.if_active(active, |active| row_of(&active.summary)) {
            return Ok(found(active, Some(row)));
        }
        let Some(old) = self.holder(lsn).or_else(|| self.old(segment)) else { return Ok(None) };
        let (file, _) = self.open(&old)?;
        let row = match file.find_change_row(lsn) {
            Ok(None) if file.trailer.is_none() => row_of(&self.scanned(&old)?.summary),
            Err(Error::Damaged(_)) => row_of(&self.scanned(&old)?.summary),
            row => row?,
        };
        Ok(found(old.number, row))
    }

    /// The rows of a segment: from its footer, else from its records; those of the active one
    /// as they are now.
    pub fn summary(&self, number: u64) -> Result<Arc<Summary>> {
        let active = self.if_active(number, |active| Arc::new(active.summary.clone()));
        if let Some(summary) = active {
            return Ok(summary);
        }
        let Some(old) = self.old(number) else { return Ok(Arc::new(Summary::new(number))) };
        let (file, _) = self.open(&old)?;
        match file.footer()? {
            Some(summary) => Ok(Arc::new(summary)),
            None => self.scanned(&old)?.rows().cloned(),
        }
    }

    /// The rows of an old segment by its records, with the damage found; scanned once.
    pub fn scanned(&self, old: &Old) -> Result<Arc<Scanned>> {
        if let Some(scanned) = old.scanned.get() {
            return Ok(Arc::clone(scanned));
        }
        let (file, _) = self.open(old)?;
        let extent = Extent::of(&file, old.bound(), old.item.as_ref());
        let scanned = Arc::new(recover::scan_old(&file, extent)?);
        Ok(Arc::clone(old.scanned.get_or_init(|| scanned)))
    }
}

/// The row with a sequence number; rows rise by it.
fn find_row<T: Clone>(rows: &[T], lsn_of: fn(&T) -> u64, lsn: u64) -> Option<T> {
    let at = rows.binary_search_by_key(&lsn, lsn_of).ok()?;
    rows.get(at).cloned()
}
