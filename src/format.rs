#![doc = include_str!("../docs/format.md")]
// Every byte on disk stands in this room. No I/O; values to bytes and back.

mod body;
mod compress;
mod file;
mod footer;
mod record;
mod summary;
mod when;

#[cfg(test)]
mod tests;

pub use body::{
    ChangeBody, ClockBody, DrainedBody, DropBody, EntryBody, Jump, Loss, PendingJump, ReplaceBody,
    SegmentEnd, SegmentItem, SegmentSet, Shift, SummaryBody, Tally, Totals, key_hash, uuid_text,
};
pub use file::{
    BALLAST_NAME, CHECKPOINT_LEN, CHECKPOINT_NAMES, Checkpoint, FALLBACK_DIR, FileName, INDEX_DIR,
    LOCK_NAME, LOCK_NOTE_LEN, LOG_DIR, LockNote, Predecessor, QUARANTINE_DIR, SEGMENT_HEADER_COPY,
    SEGMENT_HEADER_LEN, STORE_LEN, STORE_NAME, SegmentHeader, StoreHeader, VERSION_MAJOR,
    VERSION_MINOR, fallback_name, hex, next_name, quarantine_name, rewriting_name, segment_name,
};
pub use footer::{ENTRY_ROW_LEN, FOOTER_TRAILER_LEN, FooterTrailer, decode_entry_row};
pub use record::{
    Flags, Frame, Kind, RECORD_ALIGN, RECORD_BODY_MAX, RECORD_HEADER_LEN, RecordHeader, padded_len,
};
pub use summary::{ChangeRow, EntryRow, Summary, TIME_NONE};
pub use when::When;

#[cfg(test)]
pub(crate) use body::decode_bytes;
pub(crate) use body::{Body, decode_body, encode_body};
pub(crate) use compress::{COMPRESSES, Compressor, Dictionary};
pub(crate) use footer::{decode_change_row, decode_footer, encode_footer, footer_len, row_lsn};

/// Where a record is: a segment and an offset in it. Compaction changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The segment's number.
    pub segment: u64,
    /// The offset of the record's header.
    pub offset: u64,
}

/// Why bytes are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FormatError {
    /// The bytes are all zero: nothing was ever written here.
    Empty,
    /// Fewer bytes than the structure needs.
    Short,
    /// The magic number is another one.
    Magic,
    /// A checksum does not match.
    Checksum,
    /// The checksum matches, but a field has a value that is not allowed.
    Field(&'static str),
    /// The checksum matches, but the record is of a kind that a later version added.
    Kind(u8),
    /// The structure was written by a newer major version.
    Version(u16, u16),
    /// The body is compressed, and this build lacks the feature `zstd`.
    Compressed,
}

impl std::fmt::Display for FormatError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => write!(f, "all zero"),
            Self::Short => write!(f, "too short"),
            Self::Magic => write!(f, "wrong magic number"),
            Self::Checksum => write!(f, "wrong checksum"),
            Self::Field(name) => write!(f, "impossible {name}"),
            Self::Kind(number) => write!(f, "unknown record kind {number}"),
            Self::Version(major, minor) => write!(f, "version {major}.{minor}"),
            Self::Compressed => write!(f, "compressed, and this build lacks the feature zstd"),
        }
    }
}

impl std::error::Error for FormatError {}

/// No number of a segment or a record, no count and no place is as high, in anything that was ever
/// written; so some of them can be added up.
const NUMBER_END: u64 = 1 << 60;

/// Refuses numbers that nobody ever wrote, although the checksum is right.
fn bounded(name: &'static str, numbers: &[u64]) -> Result<(), FormatError> {
    let all = numbers.iter().all(|number| *number < NUMBER_END);
    if all { Ok(()) } else { Err(FormatError::Field(name)) }
}

/// Reads little-endian fields one after the other; past the end it gives zeros and remembers.
struct Reader<'a> {
    bytes: &'a [u8],
    short: bool,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, short: false }
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        if let Some((head, tail)) = self.bytes.split_at_checked(len) {
            self.bytes = tail;
            return head;
        }
        self.short = true;
        self.bytes = &[];
        &[]
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        self.take(N).try_into().unwrap_or([0; N])
    }

    fn u8(&mut self) -> u8 {
        let [byte] = self.array::<1>();
        byte
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }
}

/// The CRC-32 of IEEE 802.3, from the given initial state.
fn crc32(initial: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(initial);
    hasher.update(bytes);
    hasher.finalize()
}

/// Splits off the trailing CRC and checks it over what stands before.
fn checked(bytes: &[u8], initial: u32) -> Result<&[u8], FormatError> {
    let (content, crc) = bytes.split_last_chunk::<4>().ok_or(FormatError::Short)?;
    if bytes.iter().all(|byte| *byte == 0) {
        return Err(FormatError::Empty);
    }
    if crc32(initial, content) != u32::from_le_bytes(*crc) {
        return Err(FormatError::Checksum);
    }
    Ok(content)
}

/// Fills up with zeros to four bytes before `len` and appends the CRC.
fn sealed(mut bytes: Vec<u8>, len: usize, initial: u32) -> Vec<u8> {
    debug_assert!(bytes.len() + 4 <= len);
    bytes.resize(len.saturating_sub(4), 0);
    let crc = crc32(initial, &bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}
