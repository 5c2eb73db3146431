//! Sound checksums over any bytes, so that an input gets behind them without a door in the library.
//!
//! The layout is that of `docs/format.md`.

use deadletter::format::{
    CHECKPOINT_LEN, FOOTER_TRAILER_LEN, Flags, Kind, RECORD_HEADER_LEN, RecordHeader,
    SEGMENT_HEADER_COPY, SEGMENT_HEADER_LEN, SegmentHeader, padded_len,
};

/// The salt of forged segments.
pub const SALT: u32 = 0x5a17_5a17;

const HEADER_LEN: usize = SEGMENT_HEADER_LEN as usize;
const HEADER_STRUCT: usize = 128;
const ROW_LEN: usize = 48;

/// A sound header of a segment or a fallback file.
pub fn header(store_uuid: [u8; 16], fallback: bool) -> SegmentHeader {
    SegmentHeader {
        store_uuid,
        segment: u64::from(!fallback),
        base_lsn: 1,
        salt: SALT,
        fallback,
        created_ms: 1_700_000_000_000,
        predecessor: None,
        generation: 0,
        folded_lsn: 0,
        capacity: 64 * 1024,
    }
}

/// Puts a record at the end of a segment.
pub fn push_record(segment: &mut Vec<u8>, header: &RecordHeader, body: &[u8]) {
    let offset = segment.len();
    segment.extend_from_slice(&header.encode(SALT, offset as u64));
    segment.extend_from_slice(body);
    segment.resize(offset + padded_len(body.len()) as usize, 0);
}

/// The header of a record of the first group with this body.
pub fn record_header(kind: Kind, version: u16, body: &[u8], lsn: u64) -> RecordHeader {
    RecordHeader {
        body_len: u32::try_from(body.len()).unwrap(),
        lsn,
        body_crc: RecordHeader::crc_of(body),
        kind,
        flags: Flags::default(),
        body_version: version,
        time_ms: 1_700_000_000_000,
        group: 1,
        ordinal: 0,
    }
}

/// Makes all checksums of a segment right, as far as its structure can be followed.
pub fn repair_segment(bytes: &mut [u8]) {
    for copy in [0, SEGMENT_HEADER_COPY as usize] {
        if let Some(header) = bytes.get_mut(copy..copy + HEADER_STRUCT) {
            seal(header, 0);
        }
    }
    let Some(page) = bytes.get(..HEADER_LEN) else { return };
    let Ok((header, _)) = SegmentHeader::decode(page) else { return };
    let mut offset = HEADER_LEN;
    while let Some(next) = repair_record(bytes, header.salt, offset) {
        offset = next;
    }
    repair_footer(bytes, header.salt);
}

/// Makes the checksum of a checkpoint slot right.
pub fn repair_checkpoint(bytes: &mut [u8]) {
    if bytes.len() == CHECKPOINT_LEN {
        seal(bytes, 0);
    }
}

/// Repairs the record at an offset; answers where the next one begins.
fn repair_record(bytes: &mut [u8], salt: u32, offset: usize) -> Option<usize> {
    let header = bytes.get(offset..offset + RECORD_HEADER_LEN)?;
    if header.iter().all(|byte| *byte == 0) {
        return None;
    }
    let body_len = u32_at(header, 4) as usize;
    let body = offset + RECORD_HEADER_LEN;
    let body_crc = bytes.get(body..body + body_len).map(RecordHeader::crc_of);
    let header = bytes.get_mut(offset..body)?;
    if let Some(crc) = body_crc {
        header[16..20].copy_from_slice(&crc.to_le_bytes());
    }
    let place = u32::try_from(offset / 8).ok()?;
    let (crc, content) = header.split_at_mut(4);
    crc.copy_from_slice(&crc32(salt ^ place, content).to_le_bytes());
    body_crc.map(|_| offset + padded_len(body_len) as usize)
}

fn repair_footer(bytes: &mut [u8], salt: u32) {
    let Some(start) = bytes.len().checked_sub(FOOTER_TRAILER_LEN) else { return };
    let trailer = &bytes[start..];
    if !trailer.starts_with(b"DLQFOOT\n") {
        return;
    }
    let rows = |at| (u32_at(trailer, at) as usize).saturating_mul(ROW_LEN);
    let lens = [u32_at(trailer, 16) as usize, rows(20), rows(24)];
    let mut from = usize::try_from(u64_at(trailer, 8)).unwrap_or(usize::MAX);
    for (index, len) in lens.into_iter().enumerate() {
        let Some(to) = from.checked_add(len) else { break };
        let Some(block) = bytes.get(from..to) else { break };
        let crc = crc32(salt, block).to_le_bytes();
        let at = start + 48 + 4 * index;
        bytes[at..at + 4].copy_from_slice(&crc);
        from = to;
    }
    seal(&mut bytes[start..], salt);
}

/// Puts the checksum of all bytes before into the last four.
fn seal(bytes: &mut [u8], initial: u32) {
    if let Some((content, crc)) = bytes.split_last_chunk_mut::<4>() {
        *crc = crc32(initial, content).to_le_bytes();
    }
}

fn crc32(initial: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(initial);
    hasher.update(bytes);
    hasher.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}
