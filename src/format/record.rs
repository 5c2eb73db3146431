//! One record in the log: a header of 40 bytes, a body, zeros up to a multiple of eight.

use std::borrow::Cow;
use std::sync::Arc;

use super::compress::{Dictionary, decompress};
use super::{FormatError, Reader, bounded, crc32};

/// The length of a record's header.
pub const RECORD_HEADER_LEN: usize = 40;
/// Records begin at multiples of this.
pub const RECORD_ALIGN: u64 = 8;
/// The longest body.
pub const RECORD_BODY_MAX: u32 = 16 * 1024 * 1024;

/// What a record says. Numbers below 128 that are unknown refuse the segment; others are skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An entry was stored.
    Entry,
    /// An entry's state changed.
    Change,
    /// A segment that holds nothing alive is gone.
    Drop,
    /// A rewritten segment stands in for others.
    Replace,
    /// The segments that make up the log, and the totals; first group of each segment.
    SegmentSet,
    /// Records were lost to damage.
    Lost,
    /// A fallback file was brought home.
    Drained,
    /// Nothing: ends a group that is about to be synced.
    Mark,
    /// What is known of the time.
    Clock,
    /// What is left of evicted entries.
    Summary,
    /// What the compressed bodies of this segment were compressed with.
    Dictionary,
    /// A kind of a later version that may be skipped.
    Other(u8),
}

impl Kind {
    /// Whether a record adds no fact, and so repeats the last sequence number before it.
    pub(crate) const fn repeats(self) -> bool {
        matches!(self, Self::Mark | Self::SegmentSet | Self::Dictionary)
    }

    /// The number on disk.
    pub const fn number(self) -> u8 {
        match self {
            Self::Entry => 1,
            Self::Change => 2,
            Self::Drop => 5,
            Self::Replace => 6,
            Self::SegmentSet => 7,
            Self::Lost => 8,
            Self::Drained => 9,
            Self::Mark => 10,
            Self::Clock => 11,
            Self::Summary => 12,
            Self::Dictionary => 13,
            Self::Other(number) => number,
        }
    }

    /// The kind with this number; `None` when it must be known to go on.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Entry),
            2 => Some(Self::Change),
            5 => Some(Self::Drop),
            6 => Some(Self::Replace),
            7 => Some(Self::SegmentSet),
            8 => Some(Self::Lost),
            9 => Some(Self::Drained),
            10 => Some(Self::Mark),
            11 => Some(Self::Clock),
            12 => Some(Self::Summary),
            13 => Some(Self::Dictionary),
            128.. => Some(Self::Other(number)),
            _ => None,
        }
    }

    /// The version of the bodies that are written now, the newest that can be read.
    pub const fn body_version(self) -> u16 {
        match self {
            Self::Entry | Self::Change | Self::SegmentSet => 3,
            _ => 1,
        }
    }

    /// The name in dumps.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Entry => "entry",
            Self::Change => "change",
            Self::Drop => "drop",
            Self::Replace => "replace",
            Self::SegmentSet => "segment_set",
            Self::Lost => "lost",
            Self::Drained => "drained",
            Self::Mark => "mark",
            Self::Clock => "clock",
            Self::Summary => "summary",
            Self::Dictionary => "dictionary",
            Self::Other(_) => "other",
        }
    }
}

/// The flags of a record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is one bit on disk")]
pub struct Flags {
    /// The next record belongs to the same atomic batch.
    pub more_of_batch: bool,
    /// The record before belongs to the same atomic batch.
    pub continues_batch: bool,
    /// The body is compressed.
    pub compressed: bool,
    /// Brought home from a fallback file.
    pub drained: bool,
    /// The last record of its commit group: a sync follows it.
    pub last_of_group: bool,
}

impl Flags {
    const MORE_OF_BATCH: u8 = 1;
    const CONTINUES_BATCH: u8 = 2;
    const COMPRESSED: u8 = 4;
    const DRAINED: u8 = 8;
    const LAST_OF_GROUP: u8 = 16;

    fn to_bits(self) -> u8 {
        u8::from(self.more_of_batch) * Self::MORE_OF_BATCH
            + u8::from(self.continues_batch) * Self::CONTINUES_BATCH
            + u8::from(self.compressed) * Self::COMPRESSED
            + u8::from(self.drained) * Self::DRAINED
            + u8::from(self.last_of_group) * Self::LAST_OF_GROUP
    }

    fn from_bits(bits: u8) -> Option<Self> {
        let batch = Self::MORE_OF_BATCH | Self::CONTINUES_BATCH;
        let known = batch | Self::COMPRESSED | Self::DRAINED | Self::LAST_OF_GROUP;
        (bits & !known == 0).then_some(Self {
            more_of_batch: bits & Self::MORE_OF_BATCH != 0,
            continues_batch: bits & Self::CONTINUES_BATCH != 0,
            compressed: bits & Self::COMPRESSED != 0,
            drained: bits & Self::DRAINED != 0,
            last_of_group: bits & Self::LAST_OF_GROUP != 0,
        })
    }
}

/// A record's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// The length of the body.
    pub body_len: u32,
    /// The sequence number.
    pub lsn: u64,
    /// The CRC of the body.
    pub body_crc: u32,
    /// What the body says.
    pub kind: Kind,
    /// The flags.
    pub flags: Flags,
    /// The version of the body's layout.
    pub body_version: u16,
    /// When the record was made, by the wall clock.
    pub time_ms: u64,
    /// The commit group, counted from 1 in each segment.
    pub group: u32,
    /// An entry's index in its segment; of any other record the index that the next entry gets.
    pub ordinal: u32,
}

impl RecordHeader {
    /// The header's bytes for a place in a segment: its CRC starts from the segment's salt mixed
    /// with the place, so a header is valid nowhere else.
    pub fn encode(&self, salt: u32, offset: u64) -> [u8; RECORD_HEADER_LEN] {
        let mut bytes = Vec::with_capacity(RECORD_HEADER_LEN);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.body_len.to_le_bytes());
        bytes.extend_from_slice(&self.lsn.to_le_bytes());
        bytes.extend_from_slice(&self.body_crc.to_le_bytes());
        bytes.push(self.kind.number());
        bytes.push(self.flags.to_bits());
        bytes.extend_from_slice(&self.body_version.to_le_bytes());
        bytes.extend_from_slice(&self.time_ms.to_le_bytes());
        bytes.extend_from_slice(&self.group.to_le_bytes());
        bytes.extend_from_slice(&self.ordinal.to_le_bytes());
        let mut array = [0; RECORD_HEADER_LEN];
        array.copy_from_slice(&bytes);
        let (crc, content) = array.split_at_mut(4);
        crc.copy_from_slice(&crc32(Self::initial(salt, offset), content).to_le_bytes());
        array
    }

    /// Reads a header back from its place.
    ///
    /// # Errors
    ///
    /// [`FormatError::Empty`] for zeros, else what is wrong. The length is bounded only after
    /// the checksum matched.
    pub fn decode(bytes: &[u8], salt: u32, offset: u64) -> Result<Self, FormatError> {
        let header = Self::decode_any(bytes, salt, offset)?;
        match header.kind {
            Kind::Other(number @ ..128) => Err(FormatError::Kind(number)),
            _ => Ok(header),
        }
    }

    /// As [`RecordHeader::decode`], of any kind, also one that must be known to go on.
    pub(crate) fn decode_any(bytes: &[u8], salt: u32, offset: u64) -> Result<Self, FormatError> {
        let bytes: &[u8; RECORD_HEADER_LEN] = bytes.first_chunk().ok_or(FormatError::Short)?;
        let (crc, content) = bytes.split_at(4);
        let matches = crc32(Self::initial(salt, offset), content).to_le_bytes() == crc;
        if !matches {
            let empty = bytes.iter().all(|byte| *byte == 0);
            return Err(if empty { FormatError::Empty } else { FormatError::Checksum });
        }
        let mut reader = Reader::new(content);
        let body_len = reader.u32();
        let lsn = reader.u64();
        let body_crc = reader.u32();
        let number = reader.u8();
        let kind = Kind::from_number(number).unwrap_or(Kind::Other(number));
        let flags = Flags::from_bits(reader.u8()).ok_or(FormatError::Field("record flags"))?;
        let header = Self {
            body_len,
            lsn,
            body_crc,
            kind,
            flags,
            body_version: reader.u16(),
            time_ms: reader.u64(),
            group: reader.u32(),
            ordinal: reader.u32(),
        };
        if body_len > RECORD_BODY_MAX {
            return Err(FormatError::Field("body length"));
        }
        bounded("sequence number", &[lsn])?;
        Ok(header)
    }

    /// Whether a reader of this version must stop here: it would misread the body.
    pub const fn is_newer(&self) -> bool {
        match self.kind {
            Kind::Other(number) => number < 128,
            known => self.body_version > known.body_version(),
        }
    }

    /// Whether the body is the one this header was made for.
    pub fn fits(&self, body: &[u8]) -> bool {
        body.len() as u64 == u64::from(self.body_len) && crc32(0, body) == self.body_crc
    }

    /// The CRC that [`RecordHeader::body_crc`] must hold.
    pub fn crc_of(body: &[u8]) -> u32 {
        crc32(0, body)
    }

    /// The bytes that the whole record takes in the segment.
    pub fn record_len(&self) -> u64 {
        padded_len(self.body_len as usize)
    }

    fn initial(salt: u32, offset: u64) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "the low bits are what is mixed in")]
        let place = (offset / RECORD_ALIGN) as u32;
        salt ^ place
    }
}

/// The bytes that a record with such a body takes in a segment.
pub fn padded_len(body_len: usize) -> u64 {
    (RECORD_HEADER_LEN as u64 + body_len as u64).next_multiple_of(RECORD_ALIGN)
}

/// A whole record, as read from its place. `Debug` shows the header, never the body.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// Where it begins in its segment.
    pub offset: u64,
    /// Its header.
    pub header: RecordHeader,
    /// Its body as it stands on disk, checked against the header.
    pub body: Vec<u8>,
    /// What the body was compressed with, if it is compressed.
    dictionary: Option<Arc<Dictionary>>,
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frame")
            .field("offset", &self.offset)
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

impl Frame {
    /// A record as it was read from its place.
    pub fn new(offset: u64, header: RecordHeader, body: Vec<u8>) -> Self {
        Self { offset, header, body, dictionary: None }
    }

    /// The same, of a segment with this dictionary.
    pub(crate) fn with_dictionary(self, dictionary: Option<Arc<Dictionary>>) -> Self {
        Self { dictionary, ..self }
    }

    /// The body as it was before it was compressed.
    pub(crate) fn plain_body(&self) -> Result<Cow<'_, [u8]>, FormatError> {
        if self.header.flags.compressed {
            return decompress(&self.body, self.dictionary.as_deref()).map(Cow::Owned);
        }
        Ok(Cow::Borrowed(&self.body))
    }

    /// The same record with its body as it was before it was compressed. Its header is then not the
    /// one on disk.
    pub(crate) fn into_plain(mut self) -> Result<Self, FormatError> {
        if self.header.flags.compressed {
            self.body = self.plain_body()?.into_owned();
            self.header.flags.compressed = false;
        }
        Ok(self)
    }

    /// Where the next record begins.
    pub fn end(&self) -> u64 {
        self.offset + self.header.record_len()
    }
}
