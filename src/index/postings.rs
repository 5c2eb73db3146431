//! The blocks of a segment: columns by ordinal, newest changes, and how both are kept in an index.
//!
//! A block is cut into parts that fit a small value. Each part has a version, its kind and place,
//! the checksum of the whole block and its own, so parts of two writes are never taken together.
//! A missing or bad part makes the whole block a miss.

use crate::error::Result;
use crate::format::Position;

use super::Index;

/// The version of all values; another one is a miss.
const VERSION: u8 = 3;
/// Bytes before the data of a part.
const PART_HEADER: usize = 14;
/// Data bytes of a part, so that a value has at most 4 KiB: the index cannot sync larger ones.
const PART_DATA: usize = 4096 - PART_HEADER;
/// Parts of a block; 1 GiB of data, far beyond any segment.
const PARTS_MAX: usize = 1 << 18;

/// What a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// What the whole index holds; written last.
    Watermark = 0,
    /// The resident part of a segment.
    Segment = 1,
    /// The key filter of a segment.
    Filter = 2,
    /// When each entry was created, less the segment's earliest.
    Created = 3,
    /// The hash of each entry's key.
    Keys = 4,
    /// The newest change of each changed entry.
    Changes = 5,
    /// When each entry expires, as it was stored.
    Expires = 6,
    /// The time that the state of each entry hangs on, as it was stored.
    When = 7,
    /// When each changed entry expires.
    ExpiresChanged = 8,
    /// The time that the state of each changed entry hangs on.
    WhenChanged = 9,
}

/// Numbers by ordinal, as narrow as the largest allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Column {
    /// All below 2^8.
    Byte(Vec<u8>),
    /// All below 2^16.
    Short(Vec<u16>),
    /// All below 2^32.
    Word(Vec<u32>),
    /// Any.
    Long(Vec<u64>),
}

/// The newest change of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The entry, by ordinal.
    pub ordinal: u32,
    /// The sequence number of the change.
    pub lsn: u64,
    /// Where it is.
    pub position: Position,
}

/// A change that no block has yet, with the times that it gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fresh {
    /// The change.
    pub change: Change,
    /// The time that the state hangs on since.
    pub when_ms: u64,
    /// When the entry expires since.
    pub expires_ms: u64,
}

/// The newest changes of a segment's entries, by rising ordinal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Names the state of the segment that the block belongs to.
    pub stamp: u64,
    /// The changes.
    pub rows: Vec<Change>,
}

/// Reads values off a slice; every method is none at its end.
pub struct Bytes<'a>(&'a [u8]);

impl Kind {
    /// The blocks that a segment may have.
    pub const OF_SEGMENTS: [Self; 9] = [
        Self::Segment,
        Self::Filter,
        Self::Created,
        Self::Keys,
        Self::Changes,
        Self::Expires,
        Self::When,
        Self::ExpiresChanged,
        Self::WhenChanged,
    ];
}

impl Column {
    /// An empty column.
    pub const fn new() -> Self {
        Self::Byte(Vec::new())
    }

    /// How many numbers there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Byte(values) => values.len(),
            Self::Short(values) => values.len(),
            Self::Word(values) => values.len(),
            Self::Long(values) => values.len(),
        }
    }

    /// One number.
    pub fn get(&self, at: usize) -> Option<u64> {
        match self {
            Self::Byte(values) => values.get(at).map(|value| u64::from(*value)),
            Self::Short(values) => values.get(at).map(|value| u64::from(*value)),
            Self::Word(values) => values.get(at).map(|value| u64::from(*value)),
            Self::Long(values) => values.get(at).copied(),
        }
    }

    /// Adds a number.
    pub fn push(&mut self, number: u64) {
        self.widen(number);
        match self {
            Self::Byte(values) => values.push(number.try_into().unwrap_or(u8::MAX)),
            Self::Short(values) => values.push(number.try_into().unwrap_or(u16::MAX)),
            Self::Word(values) => values.push(number.try_into().unwrap_or(u32::MAX)),
            Self::Long(values) => values.push(number),
        }
    }

    /// Replaces a number; nothing happens past the end.
    pub fn set(&mut self, at: usize, number: u64) {
        fn put<T>(values: &mut [T], at: usize, value: T) {
            if let Some(slot) = values.get_mut(at) {
                *slot = value;
            }
        }
        self.widen(number);
        match self {
            Self::Byte(values) => put(values, at, number.try_into().unwrap_or(u8::MAX)),
            Self::Short(values) => put(values, at, number.try_into().unwrap_or(u16::MAX)),
            Self::Word(values) => put(values, at, number.try_into().unwrap_or(u32::MAX)),
            Self::Long(values) => put(values, at, number),
        }
    }

    /// All numbers.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = u64> + '_ {
        (0..self.len()).filter_map(|at| self.get(at))
    }

    /// How much memory it takes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Byte(values) => values.capacity(),
            Self::Short(values) => values.capacity() * 2,
            Self::Word(values) => values.capacity() * 4,
            Self::Long(values) => values.capacity() * 8,
        }
    }

    /// Gives back memory that no number needs.
    pub fn shrink(&mut self) {
        match self {
            Self::Byte(values) => values.shrink_to_fit(),
            Self::Short(values) => values.shrink_to_fit(),
            Self::Word(values) => values.shrink_to_fit(),
            Self::Long(values) => values.shrink_to_fit(),
        }
    }

    /// Its bytes in the index.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_u32(out, u32::try_from(self.len()).unwrap_or(u32::MAX));
        match self {
            Self::Byte(values) => {
                out.push(1);
                out.extend_from_slice(values);
            }
            Self::Short(values) => {
                out.push(2);
                values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
            }
            Self::Word(values) => {
                out.push(4);
                values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
            }
            Self::Long(values) => {
                out.push(8);
                values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
            }
        }
    }

    /// The column with these bytes.
    pub fn decode(bytes: &mut Bytes<'_>) -> Option<Self> {
        let len = bytes.u32()? as usize;
        let width = bytes.u8()?;
        let data = bytes.take(len.checked_mul(usize::from(width))?)?;
        Some(match width {
            1 => Self::Byte(data.to_vec()),
            2 => Self::Short(chunks(data, u16::from_le_bytes)),
            4 => Self::Word(chunks(data, u32::from_le_bytes)),
            8 => Self::Long(chunks(data, u64::from_le_bytes)),
            _ => return None,
        })
    }

    fn widen(&mut self, number: u64) {
        let width = match self {
            Self::Byte(_) => u64::from(u8::MAX),
            Self::Short(_) => u64::from(u16::MAX),
            Self::Word(_) => u64::from(u32::MAX),
            Self::Long(_) => u64::MAX,
        };
        if number <= width {
            return;
        }
        *self = if u16::try_from(number).is_ok() {
            Self::Short(self.iter().filter_map(|value| value.try_into().ok()).collect())
        } else if u32::try_from(number).is_ok() {
            Self::Word(self.iter().filter_map(|value| value.try_into().ok()).collect())
        } else {
            Self::Long(self.iter().collect())
        };
    }
}

impl FromIterator<u64> for Column {
    fn from_iter<T: IntoIterator<Item = u64>>(numbers: T) -> Self {
        let mut column = Self::new();
        numbers.into_iter().for_each(|number| column.push(number));
        column.shrink();
        column
    }
}

impl Changes {
    /// The newest change of an entry.
    pub fn get(&self, ordinal: u32) -> Option<Change> {
        let at = self.rows.binary_search_by_key(&ordinal, |row| row.ordinal).ok()?;
        self.rows.get(at).copied()
    }

    /// How much memory it takes.
    pub fn bytes(&self) -> usize {
        self.rows.capacity() * size_of::<Change>()
    }

    /// Its bytes in the index.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.rows.len() * 10);
        put_varint(&mut out, self.stamp);
        put_varint(&mut out, self.rows.len() as u64);
        let mut before = 0;
        for row in &self.rows {
            put_varint(&mut out, u64::from(row.ordinal.wrapping_sub(before)));
            put_varint(&mut out, row.lsn);
            put_varint(&mut out, row.position.segment);
            put_varint(&mut out, row.position.offset);
            before = row.ordinal;
        }
        out
    }

    /// The changes with these bytes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let len = bytes.len();
        let mut bytes = Bytes::new(bytes);
        let stamp = bytes.varint()?;
        let count = usize::try_from(bytes.varint()?).ok()?;
        let mut rows = Vec::with_capacity(count.min(len));
        let mut before = 0_u32;
        for _ in 0..count {
            let ordinal = before.checked_add(u32::try_from(bytes.varint()?).ok()?)?;
            let lsn = bytes.varint()?;
            let position = Position { segment: bytes.varint()?, offset: bytes.varint()? };
            rows.push(Change { ordinal, lsn, position });
            before = ordinal;
        }
        bytes.is_empty().then_some(Self { stamp, rows })
    }
}

impl Default for Column {
    fn default() -> Self {
        Self::new()
    }
}

impl Kind {
    /// Whether it is built from the changes that the summaries of many segments hold.
    pub const fn is_of_changes(self) -> bool {
        matches!(self, Self::Changes | Self::ExpiresChanged | Self::WhenChanged)
    }
}

impl<'a> Bytes<'a> {
    /// Reads from the start of these bytes.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether nothing is left.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All that is left.
    pub const fn rest(self) -> &'a [u8] {
        self.0
    }

    /// The next bytes.
    pub fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    /// The next byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    /// The next four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    /// The next number of variable length.
    pub fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    /// The next text.
    pub fn text(&mut self) -> Option<&'a str> {
        let len = usize::try_from(self.varint()?).ok()?;
        std::str::from_utf8(self.take(len)?).ok()
    }
}

/// Adds four bytes.
pub fn put_u32(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_le_bytes());
}

/// Adds a number of variable length.
pub fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push((number & 0x7f) as u8);
}

/// Adds a text.
pub fn put_text(out: &mut Vec<u8>, text: &str) {
    put_varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// Writes a block, the first part last: until that is there, the block is a miss.
pub fn write_block(index: &dyn Index, kind: Kind, segment: u64, block: &[u8]) -> Result<()> {
    let whole = crc32fast::hash(block);
    let parts = block.len().div_ceil(PART_DATA).max(1);
    let parts_number = u32::try_from(parts).unwrap_or(u32::MAX);
    let old = index.get(&key(kind, segment, 0));
    let old_parts = old.and_then(|value| open(&value, kind, segment, 0).map(|part| part.parts));
    for part in (parts_number..old_parts.unwrap_or(0)).rev() {
        index.remove(&key(kind, segment, part))?;
    }
    for part in (0..parts_number).rev() {
        let from = part as usize * PART_DATA;
        let data = block.get(from..block.len().min(from + PART_DATA)).unwrap_or(&[]);
        let mut value = Vec::with_capacity(PART_HEADER + data.len());
        value.extend_from_slice(&[VERSION, kind as u8]);
        put_u32(&mut value, parts_number);
        put_u32(&mut value, whole);
        let crc = checksum(&value, kind, segment, part, data);
        put_u32(&mut value, crc);
        value.extend_from_slice(data);
        index.put(&key(kind, segment, part), &value)?;
    }
    Ok(())
}

/// Reads a block; none unless every part of it is there and right.
pub fn read_block(index: &dyn Index, kind: Kind, segment: u64) -> Option<Vec<u8>> {
    let value = index.get(&key(kind, segment, 0))?;
    let first = open(&value, kind, segment, 0)?;
    if first.parts == 0 || first.parts as usize > PARTS_MAX {
        return None;
    }
    let mut block = first.data.to_vec();
    for part in 1..first.parts {
        let value = index.get(&key(kind, segment, part))?;
        let next = open(&value, kind, segment, part)?;
        if next.whole != first.whole || next.parts != first.parts {
            return None;
        }
        block.extend_from_slice(next.data);
    }
    (crc32fast::hash(&block) == first.whole).then_some(block)
}

/// Removes a block with all its parts.
pub fn erase_block(index: &dyn Index, kind: Kind, segment: u64) -> Result<()> {
    let first = index.get(&key(kind, segment, 0));
    let parts = first.and_then(|value| Some(open(&value, kind, segment, 0)?.parts)).unwrap_or(0);
    for part in 0..u32::try_from(PARTS_MAX).unwrap_or(u32::MAX).min(parts) {
        index.remove(&key(kind, segment, part))?;
    }
    Ok(())
}

/// Makes a block a miss.
pub fn remove_block(index: &dyn Index, kind: Kind, segment: u64) -> Result<()> {
    index.remove(&key(kind, segment, 0))
}

/// One part of a block.
struct Part<'a> {
    parts: u32,
    whole: u32,
    data: &'a [u8],
}

fn open(value: &[u8], kind: Kind, segment: u64, part: u32) -> Option<Part<'_>> {
    let mut bytes = Bytes::new(value);
    if bytes.u8()? != VERSION || bytes.u8()? != kind as u8 {
        return None;
    }
    let (parts, whole, crc) = (bytes.u32()?, bytes.u32()?, bytes.u32()?);
    let data = bytes.0;
    let head = value.get(..PART_HEADER - 4)?;
    (checksum(head, kind, segment, part, data) == crc).then_some(Part { parts, whole, data })
}

fn checksum(head: &[u8], kind: Kind, segment: u64, part: u32, data: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&key(kind, segment, part));
    hasher.update(head);
    hasher.update(&(data.len() as u64).to_le_bytes());
    hasher.update(data);
    hasher.finalize()
}

fn key(kind: Kind, segment: u64, part: u32) -> Vec<u8> {
    let mut key = Vec::with_capacity(13);
    key.push(kind as u8);
    key.extend_from_slice(&segment.to_be_bytes());
    key.extend_from_slice(&part.to_be_bytes());
    key
}

fn chunks<const N: usize, T>(data: &[u8], number: fn([u8; N]) -> T) -> Vec<T> {
    data.as_chunks::<N>().0.iter().map(|chunk| number(*chunk)).collect()
}
