//! Writing segments anew: what is alive goes into one file that takes their place.
//!
//! Order, and what a crash between the steps leaves:
//!
//! 1. the new file under a `.tmp` name, synced, read again: the next open removes it.
//! 2. rename, sync of the folder: a whole segment of a higher generation. From here on it stands for
//!    the old ones, since everything that is folded into it was synced before.
//! 3. the replace record (the caller writes it): the old files mean nothing and may go.
//!
//! Entries at their end are compressed, with a dictionary that stands in front of them and again at
//! the end. It is made anew each time: a dictionary is made of pieces of bodies, and those of an
//! entry that is gone must not stay in it.
//!
//! Invariants: records keep their numbers and their order; nothing is copied whose checksum does
//! not hold, or whose compressed body says nothing; the old files are only read; no byte is written
//! that was not claimed from the account.

use std::borrow::Cow;
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
    self, Compressor, DropBody, Flags, FormatError, Frame, Kind, RecordHeader, ReplaceBody,
    SEGMENT_HEADER_LEN, SegmentEnd, SegmentHeader, SegmentItem, Summary,
};

/// Bytes that gather before they are written.
const WRITE_CHUNK: usize = 256 * 1024;

/// What is to become of a record.
#[derive(Debug)]
pub(crate) enum Fate {
    /// It stays as it is.
    Keep,
    /// So does this entry, which is at its end.
    Compress,
    /// It stays with another body of the newest version; whether it is at its end.
    Fold(Vec<u8>, bool),
    /// It is not alive.
    Leave,
}

/// How a rewrite goes about what it meets.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Changes up to this number are folded into their entries.
    pub folded_lsn: u64,
    /// Whether control records stay too.
    pub controls: bool,
    /// Whether damaged places, which are on record, are passed over.
    pub over_damage: bool,
    /// Compresses entries at their end; none when there are none, or this build cannot.
    pub compressor: Option<Compressor>,
}

/// Decides about entries and changes.
pub(crate) type Judge<'a> = &'a mut dyn FnMut(&Frame) -> Result<Fate>;

/// Segments on their way into a new file.
#[derive(Debug)]
pub(crate) struct Rewrite {
    env: Arc<dyn Env>,
    segments: Arc<Segments>,
    account: Arc<Account>,
    /// The length that was claimed for the new file.
    claimed: u64,
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
    /// The number of the last record.
    last_lsn: u64,
    plan: Plan,
    /// What compressed bodies need, and when it was made; none when there are none.
    dictionary: Option<(Vec<u8>, u64)>,
    /// Over all bodies, as they are without compression.
    crc: u32,
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
    /// Begins to write neighbors, given by rising number, anew.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; then nothing was done.
    pub fn begin(
        (env, segments, account): (&Arc<dyn Env>, &Arc<Segments>, &Arc<Account>),
        store_uuid: [u8; 16],
        old: Vec<Arc<Old>>,
        plan: Plan,
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
            folded_lsn: plan.folded_lsn,
            capacity: 0,
        };
        let dictionary = match &plan.compressor {
            Some(compressor) => Some((compressor.dictionary().to_vec(), header.created_ms)),
            None => inherited_dictionary(segments, &old)?,
        };
        Ok(Self {
            env: Arc::clone(env),
            segments: Arc::clone(segments),
            account: Arc::clone(account),
            claimed: 0,
            old,
            item,
            last_lsn: item.first_lsn.saturating_sub(1),
            summary: Summary::of(&header),
            header,
            path,
            file,
            at: (0, SEGMENT_HEADER_LEN),
            start: SEGMENT_HEADER_LEN,
            buffer: Vec::new(),
            records: 0,
            plan,
            dictionary,
            crc: 0,
        })
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
    /// [`Error::Damaged`] at a place that no record of damage covers yet; [`Error::Io`];
    /// [`Error::Full`] when the new file gets longer than there is room.
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
                    self.copy(&file, &frame, judge)?;
                }
                Item::Hole { to, .. } if self.plan.over_damage => reached = to,
                Item::Hole { from, to } => return Err(hole(&file, from, to)),
                Item::Tail { from, .. } if from < end && !self.plan.over_damage => {
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

    fn copy(&mut self, file: &SegmentFile, frame: &Frame, judge: Judge<'_>) -> Result<()> {
        let fate = match frame.header.kind {
            Kind::Entry | Kind::Change => judge(frame)?,
            Kind::Mark | Kind::Dictionary => Fate::Leave,
            _ if self.plan.controls => Fate::Keep,
            _ => Fate::Leave,
        };
        // What is compressed stays so, whatever became of the entry: so the new file is hardly ever
        // longer than the old ones.
        let was_compressed = frame.header.flags.compressed;
        let (folded, compress) = match fate {
            Fate::Leave => return Ok(()),
            Fate::Keep => (None, was_compressed),
            Fate::Compress => (None, true),
            Fate::Fold(body, at_end) => (Some(body), at_end || was_compressed),
        };
        let mut header = frame.header;
        let body = match folded {
            Some(body) => {
                header.body_version = header.kind.body_version();
                Cow::Owned(body)
            }
            None => match frame.plain_body() {
                Ok(body) => body,
                Err(FormatError::Compressed) => return self.copy_compressed(frame),
                Err(_) if self.plan.over_damage => return Ok(()),
                Err(_) => return Err(hole(file, frame.offset, frame.end())),
            },
        };
        self.begin_records(header.kind)?;
        let compressor = self.plan.compressor.as_mut().filter(|_| compress);
        let packed = compressor.and_then(|compressor| compressor.compress(&body));
        header.flags.compressed = packed.is_some();
        let offset = self.append(header, packed.as_deref().unwrap_or(&body))?;
        self.crc = chained(self.crc, &body);
        header.flags.compressed = false;
        let plain = Frame::new(offset, header, body.into_owned());
        add_row(&mut self.summary, self.header.store_uuid, &plain);
        Ok(())
    }

    /// Copies an entry that this build cannot read, with the row that its old footer has.
    fn copy_compressed(&mut self, frame: &Frame) -> Result<()> {
        let lsn = frame.header.lsn;
        let number = self.old.get(self.at.0).map_or(0, |old| old.number);
        let rows = self.segments.summary(number)?;
        self.begin_records(frame.header.kind)?;
        let offset = self.append(frame.header, &frame.body)?;
        self.crc = chained(self.crc, &frame.body);
        self.summary.adopt(&rows, lsn, offset).ok_or_else(|| Error::compressed(lsn))
    }

    /// Writes the dictionary in front of the first record that is no segment set.
    fn begin_records(&mut self, kind: Kind) -> Result<()> {
        let begins = self.last_lsn < self.item.first_lsn && kind != Kind::SegmentSet;
        if begins { self.append_dictionary() } else { Ok(()) }
    }

    fn append_dictionary(&mut self) -> Result<()> {
        #[cfg(feature = "planted")]
        if super::planted::has(super::planted::Bug::ForgottenDictionary) {
            return Ok(());
        }
        let Some((dictionary, time_ms)) = self.dictionary.take() else { return Ok(()) };
        let kind = Kind::Dictionary;
        let header = RecordHeader {
            body_len: 0,
            lsn: self.last_lsn,
            body_crc: 0,
            kind,
            flags: Flags::default(),
            body_version: kind.body_version(),
            time_ms,
            group: 1,
            ordinal: 0,
        };
        self.append(header, &dictionary)?;
        self.crc = chained(self.crc, &dictionary);
        self.dictionary = Some((dictionary, time_ms));
        Ok(())
    }

    /// Appends a record, with what its body and its place make of its header; returns the place.
    fn append(&mut self, mut header: RecordHeader, body: &[u8]) -> Result<u64> {
        header.flags = Flags {
            drained: header.flags.drained,
            compressed: header.flags.compressed,
            ..Flags::default()
        };
        header.body_crc = RecordHeader::crc_of(body);
        header.body_len = u32::try_from(body.len()).unwrap_or(u32::MAX);
        header.group = 1;
        header.ordinal = u32::try_from(self.summary.entries.len()).unwrap_or(u32::MAX);
        if self.buffer.len() >= WRITE_CHUNK {
            self.write_buffer()?;
        }
        let offset = self.start + self.buffer.len() as u64;
        append_record(&mut self.buffer, &header, self.header.salt, offset, body);
        self.records += 1;
        self.last_lsn = header.lsn;
        Ok(offset)
    }

    /// Claims the space of the file up to this length.
    fn claim(&mut self, len: u64) -> Result<()> {
        self.account.claim_more(Part::Log, (self.claimed, len), Claim::Rewrite)?;
        self.claimed = self.claimed.max(len);
        Ok(())
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
        if self.records > 0 {
            self.append_dictionary()?;
            self.write_buffer()?;
        }
        let salt = self.header.salt;
        let lsns = (self.item.first_lsn, self.item.last_lsn);
        let (footer, trailer) =
            format::encode_footer(&self.summary, salt, self.start, self.records, lsns);
        let len = self.start + footer.len() as u64;
        self.claim(len)?;
        self.header.capacity = len;
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
        #[cfg(feature = "planted")]
        let unread = super::planted::has(super::planted::Bug::ForgottenDictionary);
        #[cfg(not(feature = "planted"))]
        let unread = false;
        if !unread {
            self.check()?;
        }
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
        let (mut records, mut crc) = (0, 0);
        let mut rows = Summary::of(&self.header);
        file.scan(self.start, &mut |item| {
            match item {
                Item::Frame(frame) => {
                    records += 1;
                    crc = self.check_record(&file, frame, &mut rows, crc)?;
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
        let same = footer.as_ref() == Some(&rows) && rows == self.summary && crc == self.crc;
        if same && records == self.records && file.header_intact {
            return Ok(());
        }
        Err(hole(&file, 0, file.len))
    }

    /// Adds a record that was read again to its rows and to the checksum over all of them.
    fn check_record(
        &self,
        file: &SegmentFile,
        frame: Frame,
        rows: &mut Summary,
        crc: u32,
    ) -> Result<u32> {
        if frame.header.flags.compressed && !format::COMPRESSES {
            rows.adopt(&self.summary, frame.header.lsn, frame.offset);
            return Ok(chained(crc, &frame.body));
        }
        let place = (frame.offset, frame.end());
        let plain = frame.into_plain().map_err(|_| hole(file, place.0, place.1))?;
        add_row(rows, self.header.store_uuid, &plain);
        Ok(chained(crc, &plain.body))
    }

    /// Gives the rewrite up, and what was claimed for it: the new file goes, whatever name it has.
    /// Only an answer that the replace record was not written allows this once the file has its name.
    pub fn discard(self) {
        self.account.release(Part::Log, self.claimed);
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

/// The dictionary that a build without compression must take along, and when it was made.
fn inherited_dictionary(segments: &Segments, old: &[Arc<Old>]) -> Result<Option<(Vec<u8>, u64)>> {
    let [only] = old else { return Ok(None) };
    if format::COMPRESSES {
        return Ok(None);
    }
    let dictionary = segments.open(only)?.0.dictionary()?;
    Ok(dictionary.map(|dictionary| (dictionary.bytes().to_vec(), dictionary.made_ms())))
}

/// A checksum over one body more.
fn chained(crc: u32, body: &[u8]) -> u32 {
    let mut link = [0; 8];
    let (before, own) = link.split_at_mut(4);
    before.copy_from_slice(&crc.to_le_bytes());
    own.copy_from_slice(&RecordHeader::crc_of(body).to_le_bytes());
    RecordHeader::crc_of(&link)
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
