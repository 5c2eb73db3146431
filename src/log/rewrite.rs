//! Writing segments anew: what is alive goes into one file that takes their place.
//!
//! Order, and what a crash between the steps leaves:
//!
//! 1. the new file under a `.tmp` name, synced, read again: the next open removes it.
//! 2. rename, sync of the folder: a whole segment of a higher generation. From here on it stands for
//!    the old ones, since everything that is folded into it was synced before.
//! 3. the replace record (the caller writes it): the old files mean nothing and may go.
//!
//! Invariants: records keep their numbers and their order; nothing is copied whose checksum does
//! not hold; the old files are only read; no byte is written that was not claimed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::account::{Account, Claim, Part};
use super::recover::add_row;
use super::segment::{Item, SegmentFile};
use super::writer::append_record;
use super::{Old, Segments};
use crate::env::{Env, File, OpenMode, write_all_at};
use crate::error::{Damage, DamageKind, Error, Result};
use crate::format::{
    self, DropBody, Flags, Frame, Kind, RecordHeader, ReplaceBody, SEGMENT_HEADER_LEN, SegmentEnd,
    SegmentHeader, SegmentItem, Summary,
};

/// Bytes that gather before they are written.
const WRITE_CHUNK: usize = 256 * 1024;

/// Space is claimed in such pieces, those in which file systems give it.
const CLAIM: u64 = 4096;

/// What is to become of a record.
#[derive(Debug)]
pub(crate) enum Fate {
    /// It stays as it is.
    Keep,
    /// It stays with another body of the newest version.
    Fold(Vec<u8>),
    /// It is not alive.
    Leave,
}

/// Decides about entries and changes.
pub(crate) type Judge<'a> = &'a mut dyn FnMut(&Frame) -> Result<Fate>;

/// Segments on their way into a new file.
#[derive(Debug)]
pub(crate) struct Rewrite {
    env: Arc<dyn Env>,
    segments: Arc<Segments>,
    old: Vec<Arc<Old>>,
    item: SegmentItem,
    header: SegmentHeader,
    path: PathBuf,
    file: Arc<dyn File>,
    /// Which of the old ones is read, and where.
    at: (usize, u64),
    /// Where the bytes in the buffer go.
    start: u64,
    buffer: Vec<u8>,
    summary: Summary,
    records: u32,
    /// Whether control records stay too.
    controls: bool,
    /// Whether damaged places, which are on record, are passed over.
    over_damage: bool,
    account: Arc<Account>,
    /// What was claimed for the new file. What is folded in may make it longer than the old ones.
    claimed: u64,
}

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// There is more to read; so many bytes were read and written.
    More(u64),
    /// All of it was read.
    Copied,
}

impl Rewrite {
    /// Begins to write neighbors, given by rising number, anew. Changes up to `folded_lsn` will be
    /// folded into their entries.
    ///
    /// # Errors
    ///
    /// [`Error::Full`] without space for as much as the old ones take; [`Error::Io`].
    pub fn begin(
        env: &Arc<dyn Env>,
        segments: &Arc<Segments>,
        (account, bytes): (&Arc<Account>, u64),
        store_uuid: [u8; 16],
        old: Vec<Arc<Old>>,
        (folded_lsn, controls, over_damage): (u64, bool, bool),
    ) -> Result<Self> {
        let items: Vec<SegmentItem> = old.iter().filter_map(|old| old.item).collect();
        let (Some(first), Some(last)) = (items.first(), items.last()) else {
            return Err(Error::invalid("segments to rewrite", "none", "segments of the log"));
        };
        let generation = old.iter().map(|old| old.generation).max().unwrap_or(0).saturating_add(1);
        let item = SegmentItem {
            segment: first.segment,
            generation,
            first_lsn: first.first_lsn,
            last_lsn: last.last_lsn,
            entries: 0,
        };
        let name = format::rewriting_name(item.segment, generation);
        let path = segments.path(item.segment, generation).with_file_name(name);
        let mut salt = [0; 4];
        env.fill_random(&mut salt)
            .map_err(|error| Error::io("get random bytes for", &path, error))?;
        let file = create(&**env, &path).map_err(|error| Error::io("create", &path, error))?;
        let header = SegmentHeader {
            store_uuid,
            segment: item.segment,
            base_lsn: item.first_lsn,
            salt: u32::from_le_bytes(salt).max(1),
            fallback: false,
            created_ms: env.wall_ms(),
            predecessor: None,
            generation,
            folded_lsn,
            capacity: 0,
        };
        let mut rewrite = Self {
            env: Arc::clone(env),
            segments: Arc::clone(segments),
            old,
            item,
            summary: Summary::of(&header),
            header,
            path,
            file,
            at: (0, SEGMENT_HEADER_LEN),
            start: SEGMENT_HEADER_LEN,
            buffer: Vec::new(),
            records: 0,
            controls,
            over_damage,
            account: Arc::clone(account),
            claimed: 0,
        };
        match rewrite.claim(bytes) {
            Ok(()) => Ok(rewrite),
            Err(error) => {
                rewrite.discard();
                Err(error)
            }
        }
    }

    /// Claims what the new file will take at least.
    fn claim(&mut self, bytes: u64) -> Result<()> {
        // Whole pieces, so that the account adds up.
        let missing = bytes.saturating_sub(self.claimed).next_multiple_of(CLAIM);
        if missing > 0 {
            self.account.claim(Part::Log, missing, Claim::Reserve)?;
            self.claimed += missing;
        }
        Ok(())
    }

    /// The segments that are written anew.
    pub fn old(&self) -> &[Arc<Old>] {
        &self.old
    }

    /// Changes up to this number are folded.
    pub fn folded_lsn(&self) -> u64 {
        self.header.folded_lsn
    }

    /// Copies records until about so many bytes were read.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] at a place that no record of damage covers yet; [`Error::Io`].
    pub fn step(&mut self, bytes_max: u64, judge: Judge<'_>) -> Result<Progress> {
        let (index, from) = self.at;
        let Some(old) = self.old.get(index).cloned() else { return Ok(Progress::Copied) };
        let (file, end) = self.segments.open(&old)?;
        let written_before = self.start;
        let mut reached = from;
        let mut done = false;
        file.scan_while(from, end, &mut |item| {
            match item {
                Item::Frame(frame) => {
                    reached = frame.end();
                    self.copy(&frame, judge)?;
                }
                Item::Hole { to, .. } if self.over_damage => reached = to,
                Item::Hole { from, to } => return Err(hole(&file, from, to)),
                Item::Tail { from, .. } if from < end && !self.over_damage => {
                    return Err(hole(&file, from, end));
                }
                Item::Tail { .. } => done = true,
            }
            Ok(reached - from < bytes_max)
        })?;
        self.at =
            if done || reached >= end { (index + 1, SEGMENT_HEADER_LEN) } else { (index, reached) };
        let finished = self.at.0 >= self.old.len();
        if finished {
            self.write_buffer()?;
        }
        let bytes = reached - from + (self.start - written_before);
        Ok(if finished { Progress::Copied } else { Progress::More(bytes) })
    }

    fn copy(&mut self, frame: &Frame, judge: Judge<'_>) -> Result<()> {
        let fate = match frame.header.kind {
            Kind::Entry | Kind::Change => judge(frame)?,
            Kind::Mark | Kind::Dictionary => Fate::Leave,
            _ if self.controls => Fate::Keep,
            _ => Fate::Leave,
        };
        let mut header = frame.header;
        let body = match &fate {
            Fate::Leave => return Ok(()),
            Fate::Keep => &frame.body,
            Fate::Fold(body) => {
                header.body_version = header.kind.body_version();
                header.body_crc = RecordHeader::crc_of(body);
                header.body_len = u32::try_from(body.len()).unwrap_or(u32::MAX);
                body
            }
        };
        header.flags = Flags { drained: header.flags.drained, ..Flags::default() };
        header.group = 1;
        header.ordinal = u32::try_from(self.summary.entries.len()).unwrap_or(u32::MAX);
        let offset = self.start + self.buffer.len() as u64;
        append_record(&mut self.buffer, &header, self.header.salt, offset, body);
        let written = Frame { offset, header, body: body.clone() };
        add_row(&mut self.summary, self.header.store_uuid, &written);
        self.records += 1;
        if self.buffer.len() >= WRITE_CHUNK { self.write_buffer() } else { Ok(()) }
    }

    fn write_buffer(&mut self) -> Result<()> {
        self.claim(self.start + self.buffer.len() as u64 + format::footer_len(&self.summary))?;
        write_all_at(&*self.file, &self.buffer, self.start)
            .map_err(|error| Error::io("write to", &self.path, error))?;
        self.start += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Seals the file, syncs it, reads it again and gives it its name, durably. What was folded
    /// must be synced by now.
    pub fn finish(&mut self) -> Result<Rewritten> {
        let salt = self.header.salt;
        let lsns = (self.item.first_lsn, self.item.last_lsn);
        let (footer, trailer) =
            format::encode_footer(&self.summary, salt, self.start, self.records, lsns);
        let len = self.start + footer.len() as u64;
        self.header.capacity = len;
        self.claim(len)?;
        let written = write_all_at(&*self.file, &footer, self.start)
            .and_then(|()| write_all_at(&*self.file, &self.header.encode(), 0));
        written.map_err(|error| Error::io("write to", &self.path, error))?;
        #[cfg(feature = "planted")]
        let skip = super::planted::has(super::planted::Bug::UnsyncedRewrite);
        #[cfg(not(feature = "planted"))]
        let skip = false;
        if !skip {
            self.file.sync().map_err(|error| Error::io("sync", &self.path, error))?;
        }
        self.check()?;
        let path = self.segments.path(self.item.segment, self.item.generation);
        self.env
            .rename(&self.path, &path)
            .map_err(|error| Error::io("give its name to", &self.path, error))?;
        self.path = path;
        let folder = self.path.parent().unwrap_or(&self.path);
        self.env.sync_dir(folder).map_err(|error| Error::io("sync the folder", folder, error))?;
        let old = self.old.iter();
        let old = old.map(|old| DropBody { segment: old.number, generation: old.generation });
        let entries = self.summary.entries.len() as u64;
        let body = ReplaceBody {
            old: old.collect(),
            new: SegmentItem { entries, ..self.item },
            end: SegmentEnd {
                end: self.start,
                footer_crc: trailer.crc(salt),
                folded_lsn: self.header.folded_lsn,
            },
        };
        Ok(Rewritten { body, bytes: len })
    }

    /// Reads the new file again: it must say what was written.
    fn check(&self) -> Result<()> {
        let file = SegmentFile::open(&*self.env, &self.path, OpenMode::Read, false)?;
        let mut records = 0;
        let mut rows = Summary::of(&self.header);
        file.scan(self.start, &mut |item| {
            match item {
                Item::Frame(frame) => {
                    records += 1;
                    add_row(&mut rows, self.header.store_uuid, &frame);
                }
                Item::Hole { from, to } => return Err(hole(&file, from, to)),
                Item::Tail { from, .. } if from < self.start => {
                    return Err(hole(&file, from, self.start));
                }
                Item::Tail { .. } => {}
            }
            Ok(())
        })?;
        let footer = file.footer()?;
        let same = footer.as_ref() == Some(&rows) && rows == self.summary;
        if same && records == self.records && file.header_intact {
            return Ok(());
        }
        Err(hole(&file, 0, file.len))
    }

    /// Gives the rewrite up: the new file goes, whatever name it has. Only an answer that the
    /// replace record was not written allows this once the file has its name.
    pub fn discard(self) {
        if let Err(error) = self.env.unlink(&self.path) {
            tracing::warn!(%error, "a rewritten segment that was given up still takes space");
        }
        self.account.release(Part::Log, self.claimed);
    }

    /// Counts the new file by its length, now that it stays.
    pub fn settle(&mut self, bytes: u64) {
        self.account.release(Part::Log, self.claimed);
        self.account.add(Part::Log, bytes);
        self.claimed = 0;
    }
}

/// A file that stands for the old segments by now.
#[derive(Debug)]
pub(crate) struct Rewritten {
    /// What the replace record says.
    pub body: ReplaceBody,
    /// Its length.
    pub bytes: u64,
}

/// A new file; one that a rewrite left which was given up goes.
fn create(env: &dyn Env, path: &Path) -> std::io::Result<Arc<dyn File>> {
    match env.open(path, OpenMode::CreateNew) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            env.unlink(path).and_then(|()| env.open(path, OpenMode::CreateNew))
        }
        other => other,
    }
}

fn hole(file: &SegmentFile, from: u64, to: u64) -> Error {
    Error::Damaged(Box::new(Damage {
        segment: file.name.clone(),
        offset: from,
        bytes: to - from,
        kind: DamageKind::Record,
        lsn_from: None,
        lsn_to: None,
        entries: None,
    }))
}
