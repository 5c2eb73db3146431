//! The footer that seals a segment: terms, entry rows, change rows, trailer.

use super::{
    ChangeRow, EntryRow, FormatError, RECORD_ALIGN, Reader, SegmentHeader, Summary, TIME_NONE,
    When, bounded, checked, crc32, sealed,
};
use crate::entry::Status;

/// The length of an entry row.
pub const ENTRY_ROW_LEN: usize = 48;
/// The length of a change row.
const CHANGE_ROW_LEN: usize = 48;
/// The length of the trailer, the last bytes of a sealed segment.
pub const FOOTER_TRAILER_LEN: usize = 64;

/// In the place of a status: the entry is gone.
const STATUS_GONE: u8 = u8::MAX;
/// In a change row: the status says what the first time is. Version 1.0 wrote zero.
const WHEN_BY_STATUS: u8 = 1;

const FOOTER_MAGIC: [u8; 8] = *b"DLQFOOT\n";

/// The last 64 bytes of a sealed segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FooterTrailer {
    /// Where the records end and the footer begins.
    pub start: u64,
    /// The length of the terms.
    pub terms_len: u32,
    /// How many entry rows follow the terms.
    pub entries: u32,
    /// How many change rows follow the entry rows.
    pub changes: u32,
    /// How many records the segment holds.
    pub records: u32,
    /// The lowest sequence number.
    pub first_lsn: u64,
    /// The highest sequence number.
    pub last_lsn: u64,
    /// The CRC of the terms, the entry rows and the change rows.
    pub crcs: [u32; 3],
}

/// The bytes that a footer for this summary takes.
pub fn footer_len(summary: &Summary) -> u64 {
    let terms: usize = summary.terms.iter().map(|term| 4 + term.len()).sum();
    let rows = summary.entries.len() * ENTRY_ROW_LEN + summary.changes.len() * CHANGE_ROW_LEN;
    (terms.next_multiple_of(8) + rows + FOOTER_TRAILER_LEN) as u64
}

/// The footer's bytes for a segment whose records end at `start`.
pub fn encode_footer(
    summary: &Summary,
    salt: u32,
    start: u64,
    records: u32,
    lsns: (u64, u64),
) -> (Vec<u8>, FooterTrailer) {
    let mut terms = Vec::new();
    for term in &summary.terms {
        terms.extend_from_slice(&len32(term.len()).to_le_bytes());
        terms.extend_from_slice(term.as_bytes());
    }
    terms.resize(terms.len().next_multiple_of(8), 0);
    let entries: Vec<u8> = summary.entries.iter().flat_map(encode_entry_row).collect();
    let changes: Vec<u8> = summary.changes.iter().flat_map(encode_change_row).collect();
    let trailer = FooterTrailer {
        start,
        terms_len: len32(terms.len()),
        entries: len32(summary.entries.len()),
        changes: len32(summary.changes.len()),
        records,
        first_lsn: lsns.0,
        last_lsn: lsns.1,
        crcs: [crc32(salt, &terms), crc32(salt, &entries), crc32(salt, &changes)],
    };
    let mut footer = terms;
    footer.extend_from_slice(&entries);
    footer.extend_from_slice(&changes);
    footer.extend_from_slice(&trailer.encode(salt));
    (footer, trailer)
}

/// Reads a footer back, given all its bytes without the trailer.
///
/// # Errors
///
/// What is wrong; the records must then be read instead.
pub fn decode_footer(
    bytes: &[u8],
    trailer: &FooterTrailer,
    header: &SegmentHeader,
) -> Result<Summary, FormatError> {
    let (terms, rest) =
        bytes.split_at_checked(trailer.terms_len as usize).ok_or(FormatError::Short)?;
    let entries_len = trailer.entries as usize * ENTRY_ROW_LEN;
    let (entries, changes) = rest.split_at_checked(entries_len).ok_or(FormatError::Short)?;
    if changes.len() != trailer.changes as usize * CHANGE_ROW_LEN {
        return Err(FormatError::Field("footer length"));
    }
    for (block, crc) in [terms, entries, changes].into_iter().zip(trailer.crcs) {
        if crc32(header.salt, block) != crc {
            return Err(FormatError::Checksum);
        }
    }
    let mut summary = Summary::of(header);
    let mut reader = Reader::new(terms);
    while reader.bytes.len() >= 4 {
        let len = reader.u32() as usize;
        let text = std::str::from_utf8(reader.take(len)).map_err(|_| FormatError::Field("term"))?;
        // The zeros that pad the terms read as empty terms, which no entry uses.
        if len > 0 {
            summary.term(text);
        }
    }
    summary.entries = entries
        .chunks_exact(ENTRY_ROW_LEN)
        .map(decode_entry_row)
        .collect::<Result<_, FormatError>>()?;
    summary.changes = changes
        .chunks_exact(CHANGE_ROW_LEN)
        .map(decode_change_row)
        .collect::<Result<_, FormatError>>()?;
    Ok(summary)
}

impl FooterTrailer {
    /// The bytes of the whole footer.
    pub fn footer_len(&self) -> u64 {
        u64::from(self.terms_len)
            + u64::from(self.entries) * ENTRY_ROW_LEN as u64
            + u64::from(self.changes) * CHANGE_ROW_LEN as u64
            + FOOTER_TRAILER_LEN as u64
    }

    /// Where the row of an entry stands in the file.
    pub fn entry_row_offset(&self, ordinal: u32) -> Option<u64> {
        (ordinal < self.entries).then(|| {
            self.start + u64::from(self.terms_len) + u64::from(ordinal) * ENTRY_ROW_LEN as u64
        })
    }

    /// Where the row of a change stands in the file, counted from the first.
    pub fn change_row_offset(&self, index: u32) -> Option<u64> {
        let rows = u64::from(self.entries) * ENTRY_ROW_LEN as u64;
        (index < self.changes).then(|| {
            let before = rows + u64::from(index) * CHANGE_ROW_LEN as u64;
            self.start + u64::from(self.terms_len) + before
        })
    }

    fn encode(&self, salt: u32) -> Vec<u8> {
        let mut bytes = FOOTER_MAGIC.to_vec();
        bytes.extend_from_slice(&self.start.to_le_bytes());
        for number in [self.terms_len, self.entries, self.changes, self.records] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.first_lsn.to_le_bytes());
        bytes.extend_from_slice(&self.last_lsn.to_le_bytes());
        for crc in self.crcs {
            bytes.extend_from_slice(&crc.to_le_bytes());
        }
        sealed(bytes, FOOTER_TRAILER_LEN, salt)
    }

    /// Reads the last 64 bytes of a file of the given length.
    ///
    /// # Errors
    ///
    /// What is wrong; the segment is then not sealed, or its footer is damaged.
    pub fn decode(bytes: &[u8], salt: u32, file_len: u64) -> Result<Self, FormatError> {
        let content = checked(bytes, salt)?;
        let mut reader = Reader::new(content);
        if reader.array() != FOOTER_MAGIC {
            return Err(FormatError::Magic);
        }
        let trailer = Self {
            start: reader.u64(),
            terms_len: reader.u32(),
            entries: reader.u32(),
            changes: reader.u32(),
            records: reader.u32(),
            first_lsn: reader.u64(),
            last_lsn: reader.u64(),
            crcs: [reader.u32(), reader.u32(), reader.u32()],
        };
        if trailer.start.checked_add(trailer.footer_len()) != Some(file_len) {
            return Err(FormatError::Field("footer length"));
        }
        bounded("footer number", &[trailer.first_lsn, trailer.last_lsn])?;
        Ok(trailer)
    }

    /// The CRC that the next segment's header repeats.
    pub fn crc(&self, salt: u32) -> u32 {
        let bytes = self.encode(salt);
        bytes.last_chunk().map_or(0, |crc| u32::from_le_bytes(*crc))
    }
}

fn encode_entry_row(row: &EntryRow) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ENTRY_ROW_LEN);
    for number in [row.lsn, row.created_ms, row.expires_ms, row.key_hash] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&place(row.offset).to_le_bytes());
    bytes.extend_from_slice(&row.domain.to_le_bytes());
    bytes.extend_from_slice(&row.failure_type.to_le_bytes());
    bytes.push(row.status as u8);
    bytes.extend_from_slice(&row.when.to_bytes());
    bytes
}

/// Reads one entry row.
///
/// # Errors
///
/// A status that does not exist, or too few bytes.
pub fn decode_entry_row(bytes: &[u8]) -> Result<EntryRow, FormatError> {
    let mut reader = Reader::new(bytes);
    let (lsn, created_ms, expires_ms, key_hash) =
        (reader.u64(), reader.u64(), reader.u64(), reader.u64());
    let offset = u64::from(reader.u32()) * RECORD_ALIGN;
    let (domain, failure_type) = (reader.u32(), reader.u32());
    let status = Status::from_number(reader.u8()).ok_or(FormatError::Field("status"))?;
    let when = When::from_bytes(reader.array());
    if reader.short {
        return Err(FormatError::Short);
    }
    bounded("entry number", &[lsn])?;
    let row = EntryRow {
        lsn,
        offset,
        created_ms,
        expires_ms,
        key_hash,
        status,
        when,
        domain,
        failure_type,
    };
    Ok(row)
}

/// The sequence number of a row of either kind.
pub(crate) fn row_lsn(bytes: &[u8]) -> u64 {
    Reader::new(bytes).u64()
}

fn encode_change_row(row: &ChangeRow) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(CHANGE_ROW_LEN);
    for number in [row.lsn, row.target, row.updated_ms, row.when_ms, row.expires_ms] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&place(row.offset).to_le_bytes());
    let status = row.status.map_or(STATUS_GONE, |status| status as u8);
    bytes.extend_from_slice(&[status, WHEN_BY_STATUS, 0, 0]);
    bytes
}

/// Reads one change row.
///
/// # Errors
///
/// As [`decode_entry_row`].
pub(crate) fn decode_change_row(bytes: &[u8]) -> Result<ChangeRow, FormatError> {
    let mut reader = Reader::new(bytes);
    let (lsn, target, updated_ms) = (reader.u64(), reader.u64(), reader.u64());
    let (mut when_ms, expires_ms) = (reader.u64(), reader.u64());
    let offset = u64::from(reader.u32()) * RECORD_ALIGN;
    let status = match reader.u8() {
        STATUS_GONE => None,
        number => Some(Status::from_number(number).ok_or(FormatError::Field("status"))?),
    };
    bounded("change number", &[lsn, target])?;
    if reader.u8() != WHEN_BY_STATUS && status.is_some_and(Status::has_age) {
        when_ms = TIME_NONE;
    }
    Ok(ChangeRow { lsn, target, offset, status, updated_ms, when_ms, expires_ms })
}

/// A place as it stands in a row: segments are at most a gibibyte, so it fits.
fn place(offset: u64) -> u32 {
    u32::try_from(offset / RECORD_ALIGN).unwrap_or(u32::MAX)
}

fn len32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
