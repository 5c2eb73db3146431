//! One segment file: opening, reading a record, scanning all of them, the way past damage.
//!
//! A scan never stops at damage: it looks on, at steps of eight bytes, for the next header whose
//! salted checksum holds, and reports the hole between.

use std::cmp::Ordering;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::env::{Env, File, Mapped, OpenMode, is_unreadable, read_around, read_exact_at};
use crate::error::{Damage, DamageKind, Error, Result};
use crate::format::{
    self, ChangeRow, Dictionary, ENTRY_ROW_LEN, EntryRow, FOOTER_TRAILER_LEN, FileName,
    FooterTrailer, FormatError, Frame, Kind, RECORD_ALIGN, RECORD_HEADER_LEN, RecordHeader,
    SEGMENT_HEADER_LEN, SegmentHeader, Summary, VERSION_MAJOR, VERSION_MINOR,
};

/// A scan reads this much at a time.
const SCAN_CHUNK: usize = 256 * 1024;
/// Whole pages of zeros are passed over at once when looking for a header.
const ZERO_STEP: u64 = 512;

/// An open segment.
#[derive(Debug)]
pub(crate) struct SegmentFile {
    /// The file's name in its folder.
    pub name: String,
    pub path: PathBuf,
    pub file: Arc<dyn File>,
    pub header: SegmentHeader,
    /// Whether both header copies and the zeros around them are as they were written.
    pub header_intact: bool,
    /// The footer's trailer, when the segment is sealed and its trailer is sound.
    pub trailer: Option<FooterTrailer>,
    /// The file's length when it was opened.
    pub len: u64,
    map: Option<Mapped>,
    /// What compressed bodies need, once it was looked for.
    dictionary: OnceLock<Option<Arc<Dictionary>>>,
}

/// What a scan meets, in order of the file.
#[derive(Debug)]
pub(crate) enum Item {
    /// A sound record.
    Frame(Frame),
    /// Bytes that are no record, with a sound record behind them.
    Hole { from: u64, to: u64 },
    /// No record from here to the bound; `data_end` is behind the last byte that is not zero.
    Tail { from: u64, data_end: u64 },
}

impl SegmentFile {
    /// Opens a segment and reads its header and trailer.
    #[expect(clippy::cast_possible_truncation, reason = "a constant of at most 4096")]
    pub fn open(env: &dyn Env, path: &Path, mode: OpenMode, map: bool) -> Result<Self> {
        let file = env.open(path, mode).map_err(|error| Error::io("open", path, error))?;
        let len = file.len().map_err(|error| Error::io("measure", path, error))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut page = vec![0; SEGMENT_HEADER_LEN as usize];
        let page_len = usize::try_from(len.min(SEGMENT_HEADER_LEN)).unwrap_or(0);
        let head = page.get_mut(..page_len).unwrap_or_default();
        read_around(&*file, head, 0).map_err(|error| Error::io("read", path, error))?;
        let (header, header_intact) = SegmentHeader::decode(&page)
            .and_then(|read| fits_name(&name, read))
            .map_err(|error| match error {
                FormatError::Version(major, minor) => Error::Version {
                    path: path.to_path_buf(),
                    found: format!("{major}.{minor}"),
                    supported: format!("{VERSION_MAJOR}.x"),
                },
                _ => Error::Damaged(Box::new(Damage {
                    segment: name.clone(),
                    offset: 0,
                    bytes: len,
                    kind: DamageKind::Header,
                    lsn_from: None,
                    lsn_to: None,
                    entries: None,
                })),
            })?;
        let mut segment = Self {
            name,
            path: path.to_path_buf(),
            file,
            header,
            header_intact,
            trailer: None,
            len,
            map: None,
            dictionary: OnceLock::new(),
        };
        segment.trailer = match segment.read_trailer() {
            // Its owner sealed and cut it since it was measured, which happens once.
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::UnexpectedEof => {
                let len = segment.file.len();
                segment.len = len.map_err(|error| Error::io("measure", path, error))?;
                segment.read_trailer()?
            }
            read => read?,
        };
        if map && segment.trailer.is_some() {
            let mapped = segment.file.map();
            segment.map = mapped.map_err(|error| Error::io("map", path, error))?;
        }
        Ok(segment)
    }

    /// As an older segment, which ends where the next one says. A footer behind another end was
    /// never synced: recovery cut it off, and a power failure brought it back.
    pub fn ending_at(mut self, end: Option<u64>) -> Self {
        self.trailer = self.trailer.filter(|trailer| end.is_none_or(|end| end == trailer.start));
        self
    }

    /// As the newest segment: a footer that is not whole there was never synced and says nothing.
    pub fn into_newest(mut self) -> Result<Self> {
        if self.footer()?.is_none() {
            self.trailer = None;
        }
        Ok(self)
    }

    /// Wraps a file that was just written.
    pub fn created(path: PathBuf, file: Arc<dyn File>, header: SegmentHeader, len: u64) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (trailer, map, dictionary) = (None, None, OnceLock::new());
        Self { name, path, file, header, header_intact: true, trailer, len, map, dictionary }
    }

    fn read_trailer(&self) -> Result<Option<FooterTrailer>> {
        let trailer_len = FOOTER_TRAILER_LEN as u64;
        if self.len < SEGMENT_HEADER_LEN + trailer_len {
            return Ok(None);
        }
        let mut bytes = [0; FOOTER_TRAILER_LEN];
        self.read_around(&mut bytes, self.len - trailer_len)?;
        let trailer = FooterTrailer::decode(&bytes, self.header.salt, self.len).ok();
        Ok(trailer.filter(|trailer| trailer.start >= SEGMENT_HEADER_LEN))
    }

    /// Reads bytes from the file. A sector that cannot be read is damage.
    fn read_bytes(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        if self.read_map(buffer, offset) {
            return Ok(());
        }
        read_exact_at(&*self.file, buffer, offset).map_err(|error| {
            if is_unreadable(&error) {
                tracing::error!(segment = self.name, offset, %error, "the medium is damaged");
                return self.damaged(offset, buffer.len() as u64, None);
            }
            Error::io("read", &self.path, error)
        })
    }

    /// Reads bytes to look for what is sound among them: sectors that cannot be read are passed over.
    pub fn read_around(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        if self.read_map(buffer, offset) {
            return Ok(());
        }
        read_around(&*self.file, buffer, offset)
            .map_err(|error| Error::io("read", &self.path, error))
    }

    fn read_map(&self, buffer: &mut [u8], offset: u64) -> bool {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(buffer.len());
        let mapped = self.map.as_ref().and_then(|map| map.get(start..end));
        mapped.inspect(|bytes| buffer.copy_from_slice(bytes)).is_some()
    }

    /// Reads one record; `bound` is where the segment's records end.
    pub fn read_frame(&self, offset: u64, bound: u64) -> Result<Frame> {
        self.complete(self.read_record(offset, bound)?)
    }

    /// Reads one record as it stands there.
    fn read_record(&self, offset: u64, bound: u64) -> Result<Frame> {
        let mut head = [0; RECORD_HEADER_LEN];
        let in_bounds = offset.saturating_add(RECORD_HEADER_LEN as u64) <= bound;
        if !in_bounds || offset < SEGMENT_HEADER_LEN {
            return Err(self.damaged(offset, 0, None));
        }
        self.read_bytes(&mut head, offset)?;
        let header = self
            .record_header(&head, offset)?
            .ok_or_else(|| self.damaged(offset, RECORD_HEADER_LEN as u64, None))?;
        if offset + header.record_len() > bound {
            return Err(self.damaged(offset, header.record_len(), Some(header.lsn)));
        }
        let mut body = vec![0; header.body_len as usize];
        self.read_bytes(&mut body, offset + RECORD_HEADER_LEN as u64)?;
        if !header.fits(&body) {
            return Err(self.damaged(offset, header.record_len(), Some(header.lsn)));
        }
        Ok(Frame::new(offset, header, body))
    }

    /// Gives a compressed record what its body was compressed with.
    fn complete(&self, frame: Frame) -> Result<Frame> {
        if !frame.header.flags.compressed {
            return Ok(frame);
        }
        Ok(frame.with_dictionary(self.dictionary()?))
    }

    /// What the compressed bodies of this segment were compressed with; none when bodies never were
    /// to be compressed here, or when all of it is damaged.
    pub fn dictionary(&self) -> Result<Option<Arc<Dictionary>>> {
        if let Some(known) = self.dictionary.get() {
            return Ok(known.clone());
        }
        let found = self.find_dictionary()?;
        Ok(self.dictionary.get_or_init(|| found).clone())
    }

    /// Since when the dictionary may hold pieces of entries that are gone: it is older than the
    /// segment, since a build without compression copied it.
    pub fn stale_dictionary_ms(&self) -> Result<Option<u64>> {
        let dictionary = self.dictionary()?.filter(|dictionary| !dictionary.bytes().is_empty());
        let made_ms = dictionary.map(|dictionary| dictionary.made_ms());
        Ok(made_ms.filter(|made_ms| *made_ms != self.header.created_ms))
    }

    fn find_dictionary(&self) -> Result<Option<Arc<Dictionary>>> {
        if self.header.generation == 0 {
            return Ok(None);
        }
        let end = self.trailer.map_or(self.len, |trailer| trailer.start);
        let mut head = self.read_record(SEGMENT_HEADER_LEN, end);
        if let Ok(first) = &head
            && first.header.kind == Kind::SegmentSet
        {
            head = self.read_record(first.end(), end);
        }
        match head {
            Ok(frame) if frame.header.kind == Kind::Dictionary => {
                return Ok(Some(Dictionary::new(frame.body, frame.header.time_ms)));
            }
            Ok(_) => return Ok(None),
            Err(Error::Damaged(_)) => {}
            Err(error) => return Err(error),
        }
        // The first copy is damaged, or the records end here: the second one stands anywhere.
        let mut found = None;
        self.walk(SEGMENT_HEADER_LEN, end, &mut |item| {
            if let Item::Frame(frame) = item
                && frame.header.kind == Kind::Dictionary
            {
                found = Some(Dictionary::new(frame.body, frame.header.time_ms));
            }
            Ok(found.is_none())
        })?;
        Ok(found)
    }

    /// A record's header, if it is sound. One that only a later version can read refuses the
    /// segment: to pass over it would lose what it says.
    fn record_header(&self, bytes: &[u8], offset: u64) -> Result<Option<RecordHeader>> {
        let Ok(header) = RecordHeader::decode_any(bytes, self.header.salt, offset) else {
            return Ok(None);
        };
        if !header.is_newer() {
            return Ok(Some(header));
        }
        let found = match header.kind {
            Kind::Other(number) => format!("record kind {number}"),
            kind => format!("version {} of the body of {kind:?}", header.body_version),
        };
        let supported = format!("{VERSION_MAJOR}.{VERSION_MINOR}");
        Err(Error::Version { path: self.path.clone(), found, supported })
    }

    /// A damaged record at a place.
    pub fn damaged(&self, offset: u64, bytes: u64, lsn: Option<u64>) -> Error {
        Error::Damaged(Box::new(Damage {
            segment: self.name.clone(),
            offset,
            bytes,
            kind: DamageKind::Record,
            lsn_from: lsn,
            lsn_to: lsn,
            entries: None,
        }))
    }

    /// Reads the row of one entry from the footer.
    pub fn entry_row(&self, ordinal: u32) -> Result<Option<EntryRow>> {
        let Some(offset) = self.trailer.and_then(|trailer| trailer.entry_row_offset(ordinal))
        else {
            return Ok(None);
        };
        let mut bytes = [0; ENTRY_ROW_LEN];
        self.read_bytes(&mut bytes, offset)?;
        Ok(format::decode_entry_row(&bytes).ok())
    }

    /// Looks up the row of an entry in the footer.
    pub fn find_entry_row(&self, lsn: u64) -> Result<Option<EntryRow>> {
        let Some(trailer) = self.trailer else { return Ok(None) };
        let row = self.find_row(trailer.entries, lsn, |at| trailer.entry_row_offset(at))?;
        Ok(row.and_then(|bytes| format::decode_entry_row(&bytes).ok()))
    }

    /// Looks up the row of a change in the footer.
    pub fn find_change_row(&self, lsn: u64) -> Result<Option<ChangeRow>> {
        let Some(trailer) = self.trailer else { return Ok(None) };
        let row = self.find_row(trailer.changes, lsn, |at| trailer.change_row_offset(at))?;
        Ok(row.and_then(|bytes| format::decode_change_row(&bytes).ok()))
    }

    /// The bytes of the row with a sequence number, which rows begin with and rise by.
    fn find_row(
        &self,
        count: u32,
        lsn: u64,
        offset_of: impl Fn(u32) -> Option<u64>,
    ) -> Result<Option<[u8; ENTRY_ROW_LEN]>> {
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low.midpoint(high);
            let Some(offset) = offset_of(middle) else { return Ok(None) };
            let mut bytes = [0; ENTRY_ROW_LEN];
            self.read_bytes(&mut bytes, offset)?;
            match format::row_lsn(&bytes).cmp(&lsn) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(Some(bytes)),
                Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }

    /// Reads the footer; `None` when there is none or it is damaged.
    pub fn footer(&self) -> Result<Option<Summary>> {
        let Some(trailer) = self.trailer else { return Ok(None) };
        let len = trailer.footer_len() - FOOTER_TRAILER_LEN as u64;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        self.read_around(&mut bytes, trailer.start)?;
        let header = &self.header;
        let summary = format::decode_footer(&bytes, &trailer, header);
        Ok(summary.ok())
    }

    /// Scans the records from the header to `bound` and hands each item on.
    pub fn scan(&self, bound: u64, visit: &mut dyn FnMut(Item) -> Result<()>) -> Result<()> {
        self.scan_while(SEGMENT_HEADER_LEN, bound, &mut |item| visit(item).map(|()| true))
    }

    /// As [`SegmentFile::scan`], from a place where a record begins, while `visit` says so.
    pub fn scan_while(
        &self,
        from: u64,
        bound: u64,
        visit: &mut dyn FnMut(Item) -> Result<bool>,
    ) -> Result<()> {
        self.walk(from, bound, &mut |item| match item {
            Item::Frame(frame) => visit(Item::Frame(self.complete(frame)?)),
            other => visit(other),
        })
    }

    /// As [`SegmentFile::scan_while`], with the records as they stand there.
    fn walk(
        &self,
        from: u64,
        bound: u64,
        visit: &mut dyn FnMut(Item) -> Result<bool>,
    ) -> Result<()> {
        let mut scanner = Scanner::new(self, bound);
        let mut offset = from;
        let mut sound = Sequence::default();
        while offset < bound {
            let go_on = if let Some(frame) = scanner.frame(offset, sound)? {
                offset = frame.end();
                sound = Sequence::after(&frame.header);
                visit(Item::Frame(frame))?
            } else {
                let (next, data_end) = scanner.next_sound(offset, sound)?;
                let from = offset;
                let Some(to) = next else {
                    return visit(Item::Tail { from, data_end }).map(|_| ());
                };
                offset = to;
                visit(Item::Hole { from, to })?
            };
            if !go_on {
                return Ok(());
            }
        }
        visit(Item::Tail { from: offset, data_end: offset }).map(|_| ())
    }
}

/// A file under the name of another segment holds nothing of that segment.
fn fits_name(
    name: &str,
    read: (SegmentHeader, bool),
) -> std::result::Result<(SegmentHeader, bool), FormatError> {
    let header = &read.0;
    match FileName::parse(name) {
        FileName::Segment(number, generation)
            if (number, generation) != (header.segment, header.generation) =>
        {
            Err(FormatError::Field("segment number"))
        }
        _ => Ok(read),
    }
}

/// What the next record of a segment must at least be.
#[derive(Debug, Clone, Copy, Default)]
struct Sequence {
    lsn_min: u64,
    group_min: u32,
}

impl Sequence {
    /// What follows a record: a higher number, except where no fact is added.
    fn after(header: &RecordHeader) -> Self {
        let group_min = header.group.saturating_add(u32::from(header.flags.last_of_group));
        Self { lsn_min: header.lsn.saturating_add(1), group_min }
    }

    /// A record of an earlier number is a leftover of a write that a crash undid.
    fn admits(self, header: &RecordHeader) -> bool {
        header.lsn.saturating_add(u64::from(header.kind.repeats())) >= self.lsn_min
            && header.group >= self.group_min
    }
}

/// Reads a segment through one buffer.
struct Scanner<'a> {
    segment: &'a SegmentFile,
    bound: u64,
    buffer: Vec<u8>,
    start: u64,
}

impl<'a> Scanner<'a> {
    fn new(segment: &'a SegmentFile, bound: u64) -> Self {
        Self { segment, bound, buffer: Vec::new(), start: 0 }
    }

    /// The bytes at a place, at most up to the bound.
    fn bytes(&mut self, offset: u64, len: usize) -> Result<&[u8]> {
        let len = len.min(usize::try_from(self.bound.saturating_sub(offset)).unwrap_or(len));
        let inside =
            offset >= self.start && offset + len as u64 <= self.start + self.buffer.len() as u64;
        if !inside {
            let left = usize::try_from(self.bound - offset).unwrap_or(usize::MAX);
            let wanted = len.max(SCAN_CHUNK).min(left);
            self.buffer.resize(wanted, 0);
            self.start = offset;
            self.segment.read_around(&mut self.buffer, offset)?;
        }
        let begin = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        Ok(self.buffer.get(begin..begin + len).unwrap_or_default())
    }

    fn header(&mut self, offset: u64, sequence: Sequence) -> Result<Option<RecordHeader>> {
        let (segment, bound) = (self.segment, self.bound);
        let header = segment.record_header(self.bytes(offset, RECORD_HEADER_LEN)?, offset)?;
        Ok(header.filter(|header| sequence.admits(header) && offset + header.record_len() <= bound))
    }

    fn frame(&mut self, offset: u64, sequence: Sequence) -> Result<Option<Frame>> {
        let Some(header) = self.header(offset, sequence)? else { return Ok(None) };
        let len = usize::try_from(header.record_len()).unwrap_or(0);
        let record = self.bytes(offset, len)?;
        let (body, padding) = record
            .get(RECORD_HEADER_LEN..)
            .and_then(|rest| rest.split_at_checked(header.body_len as usize))
            .unwrap_or_default();
        let sound = header.fits(body) && padding.iter().all(|byte| *byte == 0);
        Ok(sound.then(|| Frame::new(offset, header, body.to_vec())))
    }

    /// A frame in the middle of bytes that are none. There a header may have its checksum by
    /// accident, so one of a later version counts only together with its body.
    fn frame_in_hole(&mut self, offset: u64, sequence: Sequence) -> Result<Option<Frame>> {
        match self.frame(offset, sequence) {
            Err(Error::Version { .. }) if !self.has_body(offset)? => Ok(None),
            other => other,
        }
    }

    /// Whether the body behind a header, of any version, is the one that it was made for.
    fn has_body(&mut self, offset: u64) -> Result<bool> {
        let salt = self.segment.header.salt;
        let head = self.bytes(offset, RECORD_HEADER_LEN)?;
        let Ok(header) = RecordHeader::decode_any(head, salt, offset) else { return Ok(false) };
        let body = self.bytes(offset + RECORD_HEADER_LEN as u64, header.body_len as usize)?;
        Ok(header.fits(body))
    }

    /// The next place behind `from` where a sound record begins, and the end of the data seen.
    fn next_sound(&mut self, from: u64, sequence: Sequence) -> Result<(Option<u64>, u64)> {
        let mut offset = from + RECORD_ALIGN;
        let mut data_end = self.data_end(from, RECORD_ALIGN)?.unwrap_or(from);
        while offset < self.bound {
            if offset.is_multiple_of(ZERO_STEP) {
                // Holes of a reserved file read as zeros; ask where data goes on.
                offset = self.skip_zeros(offset)?;
                if offset >= self.bound {
                    break;
                }
            }
            if self.frame_in_hole(offset, sequence)?.is_some() {
                return Ok((Some(offset), data_end));
            }
            if let Some(end) = self.data_end(offset, RECORD_ALIGN)? {
                data_end = end;
            }
            offset += RECORD_ALIGN;
        }
        Ok((None, data_end))
    }

    /// Where the last byte that is not zero ends, within `len` bytes.
    fn data_end(&mut self, offset: u64, len: u64) -> Result<Option<u64>> {
        let bytes = self.bytes(offset, usize::try_from(len).unwrap_or(0))?;
        let last = bytes.iter().rposition(|byte| *byte != 0);
        Ok(last.map(|last| offset + last as u64 + 1))
    }

    fn skip_zeros(&mut self, mut offset: u64) -> Result<u64> {
        while offset < self.bound {
            let begins_chunk = offset >= self.start + self.buffer.len() as u64;
            if begins_chunk {
                let next = self.segment.file.next_data(offset);
                let next = next
                    .map_err(|error| Error::io("seek in", &self.segment.path, error))?
                    .unwrap_or(self.bound);
                offset = offset.max(next / ZERO_STEP * ZERO_STEP);
                if offset >= self.bound {
                    break;
                }
            }
            let step = usize::try_from(ZERO_STEP).unwrap_or(0);
            if self.bytes(offset, step)?.iter().any(|byte| *byte != 0) {
                break;
            }
            offset += ZERO_STEP;
        }
        Ok(offset.min(self.bound))
    }
}
