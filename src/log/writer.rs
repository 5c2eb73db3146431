//! The end of the log: writes one group at a time, syncs it, begins a new segment when full.
//!
//! The writer belongs to whoever leads the commit; no lock is held while it works. Order within
//! a rotation, and what a crash between the steps leaves:
//!
//! 1. header and first group of the new segment, sync: a file with a `.next` name, which the
//!    next open removes. Without space for it the group is refused and the log goes on; where
//!    an operator's changes then go is in `writer/full.rs`.
//! 2. footer, cut, sync of the old segment: a sealed segment without successor; the next open
//!    begins one.
//! 3. rename, sync of the directory: the new segment counts.

mod full;

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::Config;
use crate::env::{Env, File, Lock, OpenMode, write_all_at};
use crate::error::{Error, Result};
use crate::format::{
    self, Flags, Kind, LockNote, Predecessor, RecordHeader, SEGMENT_HEADER_LEN, SegmentEnd,
    SegmentHeader, SegmentItem, SegmentSet, Summary, Totals, padded_len,
};

use super::account::{Account, Claim, Part};
use super::ballast::Ballast;
use super::prepare::Preparer;
use super::segment::SegmentFile;
pub(crate) use full::{is_no_space, small_segment_sizes};

use full::full_of;

use super::{Active, Committed, Control, Draft, Note, Old, Row, Segments, Tallies};

/// A record with its number, on its way into a group.
#[derive(Debug)]
pub(crate) struct Pending {
    pub lsn: u64,
    pub draft: Draft,
    pub flags: Flags,
}

/// Why a group did not reach its level.
#[derive(Debug)]
pub(crate) enum CommitError {
    /// Nothing was written; the log goes on.
    Refused(Error),
    /// A write or sync failed; nothing may be written to this log again.
    Failed(Error),
}

/// The end of the log.
#[derive(Debug)]
pub(crate) struct Writer {
    pub env: Arc<dyn Env>,
    pub log_dir: PathBuf,
    pub config: Config,
    pub store_uuid: [u8; 16],
    pub segments: Arc<Segments>,
    pub preparer: Arc<Preparer>,
    pub account: Arc<Account>,
    pub ballast: Arc<Ballast>,
    pub lock: Arc<dyn Lock>,
    pub segment: Arc<SegmentFile>,
    /// Where the next record goes.
    pub end: u64,
    /// Where the synced records end.
    pub synced_end: u64,
    pub synced_lsn: u64,
    /// Entries among the synced records of this segment.
    pub synced_entries: u64,
    /// The group of the next record.
    pub group: u32,
    /// Whether records of this group were written and not yet synced.
    pub unsynced: bool,
    pub records: u32,
    pub last_lsn: u64,
    /// The segment was begun on a full disk, for an operator's changes alone.
    pub for_changes: bool,
    /// What is known of the older segments, up to the last written record.
    pub set: SegmentSet,
    /// Whether the set at the head of this segment says all that this version knows to say.
    pub restated: bool,
    pub buffer: Vec<u8>,
}

impl Writer {
    /// Writes a group and, when asked, syncs it and what was written before it.
    pub fn commit(&mut self, group: &[Pending], sync: bool) -> Result<Vec<Committed>, CommitError> {
        let bytes: u64 = group.iter().map(|pending| pending.draft.record_len()).sum();
        if bytes > 0 && !self.has_room(group, bytes) {
            // Records written without a sync must be durable before the segment is left.
            if self.unsynced {
                self.sync_group()?;
            }
            self.make_place(group, bytes)?;
        }
        if group.is_empty() {
            if sync && self.unsynced {
                self.sync_group()?;
            }
            return Ok(Vec::new());
        }
        let committed = self.write(group, sync)?;
        if sync {
            self.sync()?;
        }
        self.preparer.committed(bytes);
        Ok(committed)
    }

    /// Seals the segment and begins the next one, unless this one holds only facts about the log.
    pub fn leave_segment(&mut self) -> Result<(), CommitError> {
        if self.unsynced {
            self.sync_group()?;
        }
        let used = self.segments.with_active(|active| {
            !active.summary.entries.is_empty() || !active.summary.changes.is_empty()
        });
        if !used && self.restated {
            return Ok(());
        }
        match self.rotate(self.config.segment_size(), Claim::Growth) {
            // It serves to give space back, which must go on without any.
            Err(CommitError::Refused(error)) => self.begin_small(&[], 0, error),
            other => other,
        }
    }

    fn has_room(&self, group: &[Pending], bytes: u64) -> bool {
        let kept = self.for_changes && group.iter().any(Pending::is_entry);
        !kept && self.fits(group, bytes, true)
    }

    /// Whether a group fits into the active segment, and leaves its reserve.
    fn fits(&self, group: &[Pending], bytes: u64, with_reserve: bool) -> bool {
        let rows: u64 = group.iter().map(|pending| pending.draft.note.footer_len()).sum();
        bytes + rows <= self.segments.with_active(|active| active.place(with_reserve))
    }

    fn write(&mut self, group: &[Pending], sync: bool) -> Result<Vec<Committed>, CommitError> {
        let segment = Arc::clone(&self.segment);
        let mut ordinal = self.segments.with_active(|active| active.summary.entries.len());
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let start = self.end;
        let mut offsets = Vec::with_capacity(group.len());
        for (index, pending) in group.iter().enumerate() {
            let offset = start + buffer.len() as u64;
            let last_of_group = sync && index + 1 == group.len();
            let flags = Flags { last_of_group, ..pending.flags };
            let header = pending.draft.header(pending.lsn, flags, self.group, ordinal);
            append_record(&mut buffer, &header, segment.header.salt, offset, &pending.draft.body);
            offsets.push((offset, ordinal));
            ordinal += usize::from(pending.draft.kind == Kind::Entry);
        }
        let written = write_all_at(&*segment.file, &buffer, start);
        let end = start + buffer.len() as u64;
        self.buffer = buffer;
        written.map_err(|error| {
            CommitError::Failed(Error::io("write to the segment", &segment.path, error))
        })?;
        self.end = end;
        self.unsynced = true;
        self.records += u32::try_from(group.len()).unwrap_or(u32::MAX);
        self.last_lsn = group.last().map_or(self.last_lsn, |pending| pending.lsn);
        Ok(self.record(group, &offsets))
    }

    /// Adds the rows of a written group to the active segment's summary.
    fn record(&mut self, group: &[Pending], offsets: &[(u64, usize)]) -> Vec<Committed> {
        let segment = self.segment.header.segment;
        let end = self.end;
        let set = &mut self.set;
        self.segments.update_active(|active| {
            active.end = end;
            let rows = group.iter().zip(offsets).map(|(pending, (offset, ordinal))| {
                let row = pending.draft.note.row(&mut active.summary, pending.lsn, *offset);
                row.count(&mut active.tallies);
                if let Row::Control(control) = &row {
                    set.apply(control);
                }
                let ordinal = u32::try_from(*ordinal).unwrap_or(u32::MAX);
                Committed { segment, lsn: pending.lsn, ordinal, row }
            });
            rows.collect()
        })
    }

    /// Ends the group with a mark when its last record was written without one, and syncs.
    fn sync_group(&mut self) -> Result<(), CommitError> {
        let draft = Draft::mark(self.env.wall_ms());
        let mark = Pending { lsn: self.last_lsn, draft, flags: Flags::default() };
        self.write(&[mark], true)?;
        self.sync()
    }

    fn sync(&mut self) -> Result<(), CommitError> {
        let segment = &self.segment;
        segment.file.sync().map_err(|error| {
            CommitError::Failed(Error::io("sync the segment", &segment.path, error))
        })?;
        self.group += 1;
        self.unsynced = false;
        self.synced_end = self.end;
        self.synced_lsn = self.last_lsn;
        let end = self.end;
        self.synced_entries = self.segments.update_active(|active| {
            active.synced_end = end;
            active.summary.entries.len() as u64
        });
        self.publish();
        Ok(())
    }

    /// Tells readers beside this process how far the log is durable. A lost note only makes
    /// them wait, so an error is no reason to fail a commit.
    pub fn publish(&self) {
        let note = LockNote {
            process_id: self.env.process_id(),
            segment: self.segment.header.segment,
            end: self.synced_end,
        };
        if let Err(error) = self.lock.publish(&note.encode()) {
            tracing::warn!(%error, "cannot write the note in the lock file");
        }
    }

    /// Seals the active segment and begins the next one, of about this size.
    fn rotate(&mut self, segment_bytes: u64, claim: Claim) -> Result<(), CommitError> {
        let number = self.segment.header.segment;
        let prepared = self.preparer.take(number + 1).map_err(CommitError::Refused)?;
        let set = self.next_set();
        let claimed = capacity(segment_bytes, &set, &[]);
        self.account.claim(Part::Log, claimed, claim).map_err(|error| {
            self.preparer.drop_leftover(number + 1);
            CommitError::Refused(error)
        })?;
        let rotated = self.rotate_claimed(prepared, segment_bytes, set);
        if let Err(CommitError::Refused(_)) = &rotated {
            self.account.release(Part::Log, claimed);
            self.preparer.drop_leftover(number + 1);
        }
        rotated
    }

    fn rotate_claimed(
        &mut self,
        prepared: Option<Arc<dyn File>>,
        segment_bytes: u64,
        mut set: SegmentSet,
    ) -> Result<(), CommitError> {
        let number = self.segment.header.segment;
        let next = self.next_file(prepared, segment_bytes)?;
        let summary = self.segments.with_active(|active| active.summary.clone());
        let salt = self.segment.header.salt;
        let lsns = (self.segment.header.base_lsn, self.last_lsn);
        let (footer, trailer) = format::encode_footer(&summary, salt, self.end, self.records, lsns);
        let footer_crc = trailer.crc(salt);
        if let Some(end) = set.ends.last_mut() {
            end.footer_crc = footer_crc;
        }
        let predecessor =
            Predecessor { segment: number, last_lsn: self.last_lsn, end: self.end, footer_crc };
        let birth = Birth {
            env: &*self.env,
            log_dir: &self.log_dir,
            segment_bytes,
            store_uuid: self.store_uuid,
            segment: number + 1,
            predecessor: Some(predecessor),
            set: &set,
            carried: Vec::new(),
        };
        let unnamed = birth.write(Some(next)).map_err(|error| self.refused_or_failed(error))?;
        self.seal(&footer).map_err(CommitError::Failed)?;
        let born = birth.name(unnamed).map_err(CommitError::Failed)?;
        let sealed = self.end + footer.len() as u64;
        self.account.release(Part::Log, self.segment.header.capacity.max(sealed));
        self.account.add(Part::Log, sealed);
        self.set = set;
        self.restated = true;
        self.adopt(born);
        self.publish();
        Ok(())
    }

    /// The next segment's file with its space: the prepared one, else a new one. On a full disk
    /// this says so before anything costly is done.
    fn next_file(
        &self,
        prepared: Option<Arc<dyn File>>,
        segment_bytes: u64,
    ) -> Result<Arc<dyn File>, CommitError> {
        if let Some(file) = prepared {
            return Ok(file);
        }
        let path = self.log_dir.join(format::next_name(self.segment.header.segment + 1));
        let created = self.env.open(&path, OpenMode::CreateNew);
        let reserved = created.and_then(|file| reserve(&*file, segment_bytes).map(|()| file));
        reserved.map_err(|error| self.refused_or_failed(Error::io("create", &path, error)))
    }

    /// Without space nothing has happened yet; anything else is a failure.
    fn refused_or_failed(&self, error: Error) -> CommitError {
        if is_no_space(&error) {
            let needed = self.config.segment_size();
            CommitError::Refused(full_of(&*self.env, &self.config.dir, needed, &error))
        } else {
            CommitError::Failed(error)
        }
    }

    /// The set with the active segment among the older ones; the checksum of its footer is not
    /// known yet.
    fn next_set(&self) -> SegmentSet {
        let mut set = self.set.clone();
        let entries = self.segments.with_active(|active| active.summary.entries.len() as u64);
        let item = SegmentItem {
            segment: self.segment.header.segment,
            generation: self.segment.header.generation,
            first_lsn: self.segment.header.base_lsn,
            last_lsn: self.last_lsn,
            entries,
        };
        set.push(item, SegmentEnd { end: self.end, footer_crc: 0, folded_lsn: 0 });
        set.totals.captured += entries;
        let tallies = self.segments.with_active(|active| active.tallies.clone());
        set.totals = tallies.removed(set.totals);
        set.tallies = tallies.list();
        set
    }

    /// Writes the footer behind the records, cuts the file there and syncs it.
    fn seal(&self, footer: &[u8]) -> Result<()> {
        let segment = &self.segment;
        let path = &segment.path;
        write_all_at(&*segment.file, footer, self.end)
            .map_err(|error| Error::io("write the footer of", path, error))?;
        let len = self.end + footer.len() as u64;
        segment.file.set_len(len).map_err(|error| Error::io("cut", path, error))?;
        segment.file.sync().map_err(|error| Error::io("sync", path, error))
    }

    fn adopt(&mut self, born: Born) {
        self.segment = Arc::clone(&born.file);
        self.end = born.end;
        self.synced_end = born.end;
        self.last_lsn = born.last_lsn;
        self.synced_lsn = born.last_lsn;
        self.synced_entries = born.summary.entries.len() as u64;
        self.group = 2;
        self.records = born.records;
        self.unsynced = false;
        self.for_changes = false;
        let sealed = self.set.segments.last().zip(self.set.ends.last());
        let sealed = sealed.map(|(item, end)| Old::new(*item, *end));
        let Born { file, summary, tallies, end, .. } = born;
        self.segments.begin(Active { file, summary, tallies, end, synced_end: end }, sealed);
    }

    /// The totals as of the last written record.
    pub fn totals(&self) -> Totals {
        self.segments.with_active(|active| {
            let mut totals = active.tallies.removed(self.set.totals);
            totals.captured += active.summary.entries.len() as u64;
            totals
        })
    }
}

/// Appends one record to a buffer that begins at a multiple of eight.
pub(crate) fn append_record(
    buffer: &mut Vec<u8>,
    header: &RecordHeader,
    salt: u32,
    offset: u64,
    body: &[u8],
) {
    buffer.extend_from_slice(&header.encode(salt, offset));
    buffer.extend_from_slice(body);
    let padded = buffer.len().next_multiple_of(8);
    buffer.resize(padded, 0);
}

/// A segment about to be made.
pub(crate) struct Birth<'a> {
    pub env: &'a dyn Env,
    pub log_dir: &'a std::path::Path,
    /// About how large it is to be; a long segment set makes it larger.
    pub segment_bytes: u64,
    pub store_uuid: [u8; 16],
    pub segment: u64,
    pub predecessor: Option<Predecessor>,
    pub set: &'a SegmentSet,
    /// Records that keep their numbers, from the segment before.
    pub carried: Vec<Pending>,
}

/// A segment that was made and is durable.
pub(crate) struct Born {
    pub file: Arc<SegmentFile>,
    pub summary: Summary,
    pub tallies: Tallies,
    /// What the control records carried say.
    pub controls: Vec<Control>,
    pub end: u64,
    pub last_lsn: u64,
    pub records: u32,
}

/// A segment that is synced and has its temporary name.
struct Unnamed {
    file: Arc<dyn File>,
    header: SegmentHeader,
    path: PathBuf,
    summary: Summary,
    tallies: Tallies,
    controls: Vec<Control>,
    end: u64,
    last_lsn: u64,
    records: u32,
}

impl Birth<'_> {
    /// The space that the segment takes.
    pub fn capacity(&self) -> u64 {
        capacity(self.segment_bytes, self.set, &self.carried)
    }

    /// Writes header and first group into a new file, syncs it and gives it its name. Without
    /// space for it nothing is left, and it may be tried again.
    pub fn create(&self) -> Result<Born> {
        let unnamed = self.write(None)?;
        self.name(unnamed)
    }

    /// Writes header and first group into a prepared or new file and syncs it.
    fn write(&self, prepared: Option<Arc<dyn File>>) -> Result<Unnamed> {
        let time_ms = self.env.wall_ms();
        let set_draft = Draft::new(Kind::SegmentSet, self.set, time_ms, Note::None)?;
        // The set repeats the last number before it, so that the log's numbers stay those of
        // entries and changes.
        let set_lsn = self.predecessor.map_or(0, |predecessor| predecessor.last_lsn);
        let set = Pending { lsn: set_lsn, draft: set_draft, flags: Flags::default() };
        let group: Vec<&Pending> = std::iter::once(&set).chain(&self.carried).collect();
        let mut salt = [0; 4];
        let next_path = self.log_dir.join(format::next_name(self.segment));
        self.env
            .fill_random(&mut salt)
            .map_err(|error| Error::io("get random bytes for", &next_path, error))?;
        let header = SegmentHeader {
            store_uuid: self.store_uuid,
            segment: self.segment,
            base_lsn: set_lsn + 1,
            salt: u32::from_le_bytes(salt).max(1),
            fallback: false,
            created_ms: time_ms,
            predecessor: self.predecessor,
            generation: 0,
            folded_lsn: 0,
            capacity: self.capacity(),
        };
        let file = match prepared {
            Some(file) => file,
            None => self
                .env
                .open(&next_path, OpenMode::CreateNew)
                .map_err(|error| Error::io("create", &next_path, error))?,
        };
        self.fill(file, header, &group, next_path)
    }

    fn fill(
        &self,
        file: Arc<dyn File>,
        header: SegmentHeader,
        group: &[&Pending],
        next_path: PathBuf,
    ) -> Result<Unnamed> {
        reserve(&*file, header.capacity).map_err(|e| Error::io("reserve", &next_path, e))?;
        let mut bytes = header.encode();
        let mut summary = Summary::new(self.segment);
        let mut tallies = Tallies::of_list(&self.set.tallies);
        let mut controls = Vec::new();
        for (index, pending) in group.iter().enumerate() {
            let offset = bytes.len() as u64;
            let last_of_group = index + 1 == group.len();
            let flags = Flags { last_of_group, ..pending.flags };
            let record = pending.draft.header(pending.lsn, flags, 1, summary.entries.len());
            append_record(&mut bytes, &record, header.salt, offset, &pending.draft.body);
            let row = pending.draft.note.row(&mut summary, pending.lsn, offset);
            row.count(&mut tallies);
            if let Row::Control(control) = row {
                controls.push(control);
            }
        }
        write_all_at(&*file, &bytes, 0).map_err(|e| Error::io("write to", &next_path, e))?;
        file.sync().map_err(|e| Error::io("sync", &next_path, e))?;
        Ok(Unnamed {
            file,
            header,
            path: next_path,
            summary,
            tallies,
            controls,
            end: bytes.len() as u64,
            last_lsn: group.last().map_or(0, |pending| pending.lsn),
            records: u32::try_from(group.len()).unwrap_or(u32::MAX),
        })
    }

    /// Gives a segment its name and makes the name durable.
    fn name(&self, unnamed: Unnamed) -> Result<Born> {
        let Unnamed { file, header, path: next_path, summary, tallies, controls, .. } = unnamed;
        let Unnamed { end, last_lsn, records, .. } = unnamed;
        let path = self.log_dir.join(format::segment_name(self.segment, 0));
        self.env
            .rename(&next_path, &path)
            .map_err(|e| Error::io("give its name to", &next_path, e))?;
        self.env
            .sync_dir(self.log_dir)
            .map_err(|e| Error::io("sync the folder", self.log_dir, e))?;
        let file = Arc::new(SegmentFile::created(path, file, header, header.capacity));
        Ok(Born { file, summary, tallies, controls, end, last_lsn, records })
    }
}

/// The space that a segment of about this size takes when it begins with these: the rest of a long
/// set, and a footer, must fit too.
fn capacity(segment_bytes: u64, set: &SegmentSet, carried: &[Pending]) -> u64 {
    let set = format::encode_body(set).map_or(0, |body| padded_len(body.len()));
    let records: u64 = carried.iter().map(|pending| pending.draft.record_len()).sum();
    let rows: u64 = carried.iter().map(|pending| pending.draft.note.footer_len()).sum();
    let footer = format::footer_len(&Summary::new(0)) + rows + padded_len(0);
    let first_group = SEGMENT_HEADER_LEN + set + records;
    segment_bytes.max(first_group + footer.max(segment_bytes / 2 + segment_bytes / 4))
}

/// Takes space ahead of use, where the file system can.
pub(crate) fn reserve(file: &dyn File, len: u64) -> std::io::Result<()> {
    match file.allocate(len) {
        Err(error) if error.kind() == std::io::ErrorKind::Unsupported => Ok(()),
        other => other,
    }
}
