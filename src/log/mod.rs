//! The log: all segments in order. Append, read, scan; which segments there are.
//!
//! A record goes from [`Log::submit`] into the group buffer (`commit`), is written and synced by
//! whoever leads (`writer`), and is read back from its segment (`segment`). `recover` judges what
//! a crash left, `open` acts on it, `spill` keeps records beside the log. `account` counts the
//! directory's bytes, `ballast` keeps some for a full disk.

mod account;
mod ballast;
mod commit;
mod control;
mod open;
mod prepare;
mod quarantine;
mod recover;
mod segment;
mod spill;
mod tally;
mod writer;

#[cfg(feature = "planted")]
pub mod planted;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use serde::Serialize;

use crate::entry::{Cause, Status};
use crate::env::{Env, OpenMode};
use crate::error::{Damage, Error, Result};
use crate::format::{
    self, ChangeRow, EntryRow, Flags, Frame, Kind, Position, RecordHeader, SegmentItem, Summary,
    When,
};

pub(crate) use account::{Account, Part, bytes_below, files, index_bytes_max, measure};
pub(crate) use ballast::Ballast;
pub(crate) use commit::{Commit, Ticket};
pub(crate) use control::Control;
pub use open::OpenReport;
pub(crate) use open::{
    Opened, await_owner, check_store, file_damage, last_item, list_segments, missing_damage, open,
    open_read_only, read_checkpoint, store_file_damaged, store_uuid, write_checkpoint,
};
pub(crate) use prepare::Preparer;
pub(crate) use quarantine::drop_oldest;
pub(crate) use recover::{
    Extent, Witness, change_note, entry_note, quarantine, removed_among, scan_old, survey,
};
pub(crate) use segment::{Item, SegmentFile};
pub(crate) use spill::{
    FallbackFile, list_fallback, quarantine_file, read_fallback, write_fallback,
};
pub(crate) use tally::Tallies;
pub(crate) use writer::is_no_space;

/// How many segment files are kept open.
const OPEN_FILES_MAX: usize = 64;

/// A record that is ready to be written but has no number yet.
pub(crate) struct Draft {
    pub kind: Kind,
    pub body_version: u16,
    pub body: Vec<u8>,
    pub body_crc: u32,
    pub time_ms: u64,
    pub drained: bool,
    pub note: Note,
}

/// What the footer and the index must know of a record.
#[derive(Debug, Clone)]
pub(crate) enum Note {
    Entry {
        key_hash: u64,
        /// The caller's key, while it is reserved.
        key: Option<String>,
        domain: Arc<str>,
        failure_type: Arc<str>,
        created_ms: u64,
        expires_ms: u64,
        status: Status,
        /// As in the row of a change.
        when_ms: u64,
    },
    Change {
        target: u64,
        /// None when the entry is gone from then on.
        status: Option<Status>,
        updated_ms: u64,
        when_ms: u64,
        expires_ms: u64,
        cause: Cause,
        domain: Arc<str>,
        failure_type: Arc<str>,
    },
    Control(Control),
    None,
}

/// A record that reached its level, for the index.
#[derive(Debug, Clone)]
pub(crate) struct Committed {
    pub segment: u64,
    pub lsn: u64,
    pub ordinal: u32,
    pub row: Row,
}

/// The row of a committed record.
#[derive(Debug, Clone)]
pub(crate) enum Row {
    Entry { row: EntryRow, domain: Arc<str>, failure_type: Arc<str>, key: Option<String> },
    Change { row: ChangeRow, cause: Cause, domain: Arc<str>, failure_type: Arc<str> },
    Control(Control),
    None,
}

/// Who is told of each group, in log order, before its callers are answered.
pub(crate) trait Observer: Send + Sync {
    fn committed(&self, records: &[Committed]);
    /// The keys, and the number, of entries that were not written.
    fn refused(&self, keys: &[&str], entries: usize);
}

impl std::fmt::Debug for Draft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Draft")
            .field("kind", &self.kind)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

impl Draft {
    pub fn new<T: Serialize>(kind: Kind, body: &T, time_ms: u64, note: Note) -> Result<Self> {
        let body = format::encode_body(body).map_err(|_| Error::TooLarge {
            what: "the record",
            bytes: u64::from(format::RECORD_BODY_MAX) + 1,
            bytes_max: u64::from(format::RECORD_BODY_MAX),
            settings: "the format: a record is at most 16 MiB",
        })?;
        let body_crc = RecordHeader::crc_of(&body);
        let body_version = kind.body_version();
        Ok(Self { kind, body_version, body, body_crc, time_ms, drained: false, note })
    }

    /// The header of the record in its group.
    fn header(&self, lsn: u64, flags: Flags, group: u32, ordinal: usize) -> RecordHeader {
        RecordHeader {
            body_len: u32::try_from(self.body.len()).unwrap_or(u32::MAX),
            lsn,
            body_crc: self.body_crc,
            kind: self.kind,
            flags,
            body_version: self.body_version,
            time_ms: self.time_ms,
            group,
            ordinal: u32::try_from(ordinal).unwrap_or(u32::MAX),
        }
    }

    fn mark(time_ms: u64) -> Self {
        Self { time_ms, ..Self::empty() }
    }

    /// A mark: a record that says nothing.
    pub fn empty() -> Self {
        let body_crc = RecordHeader::crc_of(&[]);
        Self {
            kind: Kind::Mark,
            body_version: Kind::Mark.body_version(),
            body: Vec::new(),
            body_crc,
            time_ms: 0,
            drained: false,
            note: Note::None,
        }
    }
}

impl Note {
    /// The bytes that this record may add to the footer.
    fn footer_len(&self) -> u64 {
        match self {
            Self::Entry { domain, failure_type, .. } => {
                (format::ENTRY_ROW_LEN + 16 + domain.len() + failure_type.len()) as u64
            }
            Self::Change { .. } => format::ENTRY_ROW_LEN as u64,
            _ => 0,
        }
    }

    /// Adds the record's row to a summary and returns it.
    fn row(&self, summary: &mut Summary, lsn: u64, offset: u64) -> Row {
        match self {
            Self::Entry {
                key_hash,
                key,
                domain,
                failure_type,
                created_ms,
                expires_ms,
                status,
                when_ms,
            } => {
                let row = EntryRow {
                    lsn,
                    offset,
                    created_ms: *created_ms,
                    expires_ms: *expires_ms,
                    key_hash: *key_hash,
                    status: *status,
                    when: When::of(*created_ms, *when_ms),
                    domain: summary.term(domain),
                    failure_type: summary.term(failure_type),
                };
                summary.entries.push(row.clone());
                let (domain, failure_type) = (Arc::clone(domain), Arc::clone(failure_type));
                Row::Entry { row, domain, failure_type, key: key.clone() }
            }
            Self::Change {
                target,
                status,
                updated_ms,
                when_ms,
                expires_ms,
                cause,
                domain,
                failure_type,
            } => {
                let row = ChangeRow {
                    lsn,
                    target: *target,
                    offset,
                    status: *status,
                    updated_ms: *updated_ms,
                    when_ms: *when_ms,
                    expires_ms: *expires_ms,
                };
                summary.changes.push(row.clone());
                let (domain, failure_type) = (Arc::clone(domain), Arc::clone(failure_type));
                Row::Change { row, cause: *cause, domain, failure_type }
            }
            Self::Control(control) => Row::Control(control.clone()),
            Self::None => Row::None,
        }
    }
}

impl Row {
    /// Counts the record.
    pub fn count(&self, tallies: &mut Tallies) {
        match self {
            Self::Entry { domain, failure_type, .. } => {
                tallies.add(domain, failure_type, Cause::Stored);
            }
            Self::Change { cause, domain, failure_type, .. } => {
                tallies.add(domain, failure_type, *cause);
            }
            Self::Control(_) | Self::None => {}
        }
    }
}

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

/// A segment that takes no more records.
#[derive(Debug)]
pub(crate) struct Old {
    pub number: u64,
    pub generation: u32,
    /// Where its records end, as the segment behind it says; `None` when nobody says.
    pub bound: Option<u64>,
    /// What the log lists of it; `None` for one that was sealed since.
    item: Option<SegmentItem>,
    /// Rows read from the records, for a segment without a sound footer.
    scanned: OnceLock<Arc<Scanned>>,
}

/// What scanning an old segment gave.
#[derive(Debug)]
pub(crate) struct Scanned {
    pub summary: Arc<Summary>,
    pub damage: Vec<Damage>,
}

impl Old {
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
    old: RwLock<BTreeMap<u64, Arc<Old>>>,
    /// Guards the open files, with the tick of their last use.
    files: Mutex<HashMap<u64, (Arc<SegmentFile>, u64)>>,
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

    /// Makes a segment active; the one that was becomes old.
    pub fn begin(&self, active: Active) {
        let mut current = self.active.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = current.take() {
            let header = &before.file.header;
            self.add_old(header.segment, header.generation, Some(before.end), None);
        }
        *current = Some(active);
    }

    pub fn add_old(
        &self,
        number: u64,
        generation: u32,
        bound: Option<u64>,
        item: Option<SegmentItem>,
    ) {
        let old = Old { number, generation, bound, item, scanned: OnceLock::new() };
        let mut list = self.old.write().unwrap_or_else(PoisonError::into_inner);
        list.insert(number, Arc::new(old));
    }

    /// Reads of the active segment; a store opened for reading only has none on an empty log.
    pub fn with_active<T>(&self, read: impl FnOnce(&Active) -> T) -> T {
        let active = self.active.read().unwrap_or_else(PoisonError::into_inner);
        read(active.as_ref().expect("a log has an active segment from its opening on"))
    }

    fn update_active<T>(&self, update: impl FnOnce(&mut Active) -> T) -> T {
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
        old.range(..active).map(|(number, _)| *number).chain([active]).collect()
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
        self.old.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    /// An open old segment, and where its records end.
    pub fn open(&self, old: &Old) -> Result<(Arc<SegmentFile>, u64)> {
        let file = self.cached(old)?;
        let end = file.trailer.map_or(old.bound.unwrap_or(file.len), |trailer| trailer.start);
        Ok((Arc::clone(&file), end.min(file.len)))
    }

    fn cached(&self, old: &Old) -> Result<Arc<SegmentFile>> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let tick = files.values().map(|(_, used)| *used).max().unwrap_or(0) + 1;
        if let Some((file, used)) = files.get_mut(&old.number) {
            *used = tick;
            return Ok(Arc::clone(file));
        }
        drop(files);
        let path = self.path(old.number, old.generation);
        let file = SegmentFile::open(&*self.env, &path, OpenMode::Read, self.mmap)?;
        let file = Arc::new(file.ending_at(old.bound));
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if files.len() >= OPEN_FILES_MAX {
            let oldest = files.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key);
            oldest.map(|oldest| files.remove(&oldest));
        }
        files.insert(old.number, (Arc::clone(&file), tick));
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

    /// Where the record of an entry begins.
    pub fn entry_position(&self, segment: u64, ordinal: u32) -> Result<Option<Position>> {
        let at = |row: &EntryRow| Position { segment, offset: row.offset };
        let row_of = |rows: &Summary| rows.entries.get(ordinal as usize).map(at);
        if let Some(row) = self.if_active(segment, |active| row_of(&active.summary)) {
            return Ok(row);
        }
        let Some(old) = self.old(segment) else { return Ok(None) };
        let (file, _) = self.open(&old)?;
        match file.entry_row(ordinal)? {
            Some(row) => Ok(Some(at(&row))),
            None => Ok(row_of(&self.scanned(&old)?.summary)),
        }
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
            None => Ok(Arc::clone(&self.scanned(&old)?.summary)),
        }
    }

    /// The rows of an old segment by its records, with the damage found; scanned once.
    pub fn scanned(&self, old: &Old) -> Result<Arc<Scanned>> {
        if let Some(scanned) = old.scanned.get() {
            return Ok(Arc::clone(scanned));
        }
        let (file, _) = self.open(old)?;
        let extent = Extent::of(&file, old.bound, old.item.as_ref());
        let scanned = Arc::new(recover::scan_old(&file, extent)?);
        Ok(Arc::clone(old.scanned.get_or_init(|| scanned)))
    }
}
