//! The fixed structures: names, store file, segment header, checkpoint slot, lock note.

use super::{FormatError, NUMBER_END, Reader, bounded, checked, sealed};

/// The newest format version that this build reads and writes; the major one must match.
pub const VERSION_MAJOR: u16 = 1;
/// The minor version: a reader of the same major version reads any.
pub const VERSION_MINOR: u16 = 2;

/// The file that makes a directory a store.
pub const STORE_NAME: &str = "STORE";
/// The file whose lock is the right to write.
pub const LOCK_NAME: &str = "LOCK";
/// The two checkpoint slots, written in turn.
pub const CHECKPOINT_NAMES: [&str; 2] = ["CKPT.0", "CKPT.1"];
/// Space that is kept for a full disk.
pub const BALLAST_NAME: &str = "BALLAST";
/// The folder of the segments.
pub const LOG_DIR: &str = "log";
/// The folder of the index, derived and disposable.
pub const INDEX_DIR: &str = "index";
/// The folder of the bytes that recovery could not use.
pub const QUARANTINE_DIR: &str = "quarantine";
/// The default folder of the fallback files.
pub const FALLBACK_DIR: &str = "fallback";

/// The length of the store file.
pub const STORE_LEN: usize = 64;
/// The bytes before the first record of a segment.
pub const SEGMENT_HEADER_LEN: u64 = 4096;
/// Where the second copy of the segment header stands, in another sector than the first.
pub const SEGMENT_HEADER_COPY: u64 = 2048;
/// The length of a checkpoint slot.
pub const CHECKPOINT_LEN: usize = 4096;
/// The length of the note in the lock file.
pub const LOCK_NOTE_LEN: usize = 64;

const STORE_MAGIC: [u8; 8] = *b"DLQSTOR\n";
const SEGMENT_MAGIC: [u8; 8] = *b"DLQSEG\x1a\n";
const CHECKPOINT_MAGIC: [u8; 8] = *b"DLQCKPT\n";
const LOCK_MAGIC: [u8; 8] = *b"DLQLOCK\n";
const SEGMENT_HEADER_STRUCT: usize = 128;
const FLAG_FALLBACK: u32 = 1;

/// A name in the log or fallback folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileName {
    /// A segment of the log: number and generation.
    Segment(u64, u32),
    /// A segment that is being prepared.
    Next(u64),
    /// A segment that is being rewritten: number and generation.
    Rewriting(u64, u32),
    /// A fallback file, by its uuid.
    Fallback([u8; 16]),
    /// Not a name of ours.
    Foreign,
}

/// The name of a segment's file.
pub fn segment_name(segment: u64, generation: u32) -> String {
    format!("{segment:016x}-{generation:04x}.seg")
}

/// The name of a segment's file while it is prepared.
pub fn next_name(segment: u64) -> String {
    format!("{segment:016x}.next")
}

/// The name of a segment's file while it is rewritten.
pub fn rewriting_name(segment: u64, generation: u32) -> String {
    format!("{segment:016x}-{generation:04x}.tmp")
}

/// The name of a fallback file.
pub fn fallback_name(uuid: &[u8; 16]) -> String {
    format!("fb-{}.seg", hex(uuid))
}

/// The name under which bytes of a file are kept in quarantine.
pub fn quarantine_name(file: &str, offset: u64, len: u64) -> String {
    format!("{file}-{offset}-{len}.bin")
}

/// Bytes as lower-case hexadecimal text.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl FileName {
    /// What a name says.
    pub fn parse(name: &str) -> Self {
        Self::parse_known(name).unwrap_or(Self::Foreign)
    }

    /// The number of a segment of the log.
    pub fn segment(self) -> Option<u64> {
        match self {
            Self::Segment(number, _) => Some(number),
            _ => None,
        }
    }

    fn parse_known(name: &str) -> Option<Self> {
        let (parsed, text) = if let Some(stem) = name.strip_suffix(".next") {
            let segment = u64::from_str_radix(stem, 16).ok()?;
            (Self::Next(segment), next_name(segment))
        } else if let Some(stem) = name.strip_prefix("fb-") {
            let stem = stem.strip_suffix(".seg")?;
            let uuid = u128::from_str_radix(stem, 16).ok()?.to_be_bytes();
            (Self::Fallback(uuid), fallback_name(&uuid))
        } else if let Some(stem) = name.strip_suffix(".tmp") {
            let (segment, generation) = Self::parse_numbers(stem)?;
            (Self::Rewriting(segment, generation), rewriting_name(segment, generation))
        } else {
            let (segment, generation) = Self::parse_numbers(name.strip_suffix(".seg")?)?;
            (Self::Segment(segment, generation), segment_name(segment, generation))
        };
        let number = match parsed {
            Self::Segment(number, _) | Self::Rewriting(number, _) | Self::Next(number) => number,
            Self::Fallback(_) | Self::Foreign => 0,
        };
        (text == name && number < NUMBER_END).then_some(parsed)
    }

    fn parse_numbers(stem: &str) -> Option<(u64, u32)> {
        let (segment, generation) = stem.split_once('-')?;
        let segment = u64::from_str_radix(segment, 16).ok()?;
        Some((segment, u32::from_str_radix(generation, 16).ok()?))
    }
}

/// The store file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreHeader {
    /// Names the store; in every segment too.
    pub uuid: [u8; 16],
    /// When the store was made.
    pub created_ms: u64,
}

impl StoreHeader {
    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = STORE_MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION_MAJOR.to_le_bytes());
        bytes.extend_from_slice(&VERSION_MINOR.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.uuid);
        bytes.extend_from_slice(&self.created_ms.to_le_bytes());
        sealed(bytes, STORE_LEN, 0)
    }

    /// Reads the file's bytes.
    ///
    /// # Errors
    ///
    /// What is wrong. The version is judged before the checksum, since a newer version may
    /// have another layout.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes);
        if reader.array() != STORE_MAGIC {
            return Err(FormatError::Magic);
        }
        let (major, minor) = (reader.u16(), reader.u16());
        let flags = reader.u32();
        let header = Self { uuid: reader.array(), created_ms: reader.u64() };
        if reader.short {
            return Err(FormatError::Short);
        }
        let content = bytes.get(..STORE_LEN).ok_or(FormatError::Short);
        let valid = content.is_ok_and(|content| checked(content, 0).is_ok());
        if !valid {
            // A newer major version may seal its file in another way; it must not look damaged.
            let newer = major > VERSION_MAJOR && major < VERSION_MAJOR + 64;
            return Err(if newer {
                FormatError::Version(major, minor)
            } else {
                FormatError::Checksum
            });
        }
        if major != VERSION_MAJOR {
            return Err(FormatError::Version(major, minor));
        }
        if flags != 0 || bytes.len() != STORE_LEN {
            return Err(FormatError::Field("store flags or length"));
        }
        Ok(header)
    }
}

/// A segment's header. It stands twice in the first 4096 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The store that the segment belongs to.
    pub store_uuid: [u8; 16],
    /// The segment's number.
    pub segment: u64,
    /// No record here has a lower sequence number.
    pub base_lsn: u64,
    /// Random and not zero; the records' header CRCs start from it.
    pub salt: u32,
    /// Whether this is a fallback file.
    pub fallback: bool,
    /// When it was made.
    pub created_ms: u64,
    /// The segment before it in the log, when there is one.
    pub predecessor: Option<Predecessor>,
    /// Counts the rewrites of the same segment.
    pub generation: u32,
    /// Changes up to this sequence number are folded into the entries here.
    pub folded_lsn: u64,
    /// The length that the file was prepared with.
    pub capacity: u64,
}

/// Where the log stood when a segment was begun: what lies behind it is never read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Predecessor {
    /// The segment.
    pub segment: u64,
    /// Its last sequence number that counts.
    pub last_lsn: u64,
    /// Where its records end.
    pub end: u64,
    /// The CRC of its footer's trailer, 0 without a footer.
    pub footer_crc: u32,
}

const NO_SEGMENT: u64 = u64::MAX;

impl SegmentHeader {
    /// The first 4096 bytes of a segment.
    pub fn encode(&self) -> Vec<u8> {
        self.encode_as(VERSION_MINOR)
    }

    /// As a minor version wrote them: only the number differs.
    #[expect(clippy::cast_possible_truncation, reason = "a constant of at most 4096")]
    fn encode_as(&self, minor: u16) -> Vec<u8> {
        let none = Predecessor { segment: NO_SEGMENT, last_lsn: 0, end: 0, footer_crc: 0 };
        let predecessor = self.predecessor.unwrap_or(none);
        let mut bytes = SEGMENT_MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION_MAJOR.to_le_bytes());
        bytes.extend_from_slice(&minor.to_le_bytes());
        bytes.extend_from_slice(&128_u32.to_le_bytes());
        bytes.extend_from_slice(&self.store_uuid);
        bytes.extend_from_slice(&self.segment.to_le_bytes());
        bytes.extend_from_slice(&self.base_lsn.to_le_bytes());
        bytes.extend_from_slice(&self.salt.to_le_bytes());
        bytes.extend_from_slice(&(u32::from(self.fallback) * FLAG_FALLBACK).to_le_bytes());
        bytes.extend_from_slice(&self.created_ms.to_le_bytes());
        bytes.extend_from_slice(&predecessor.segment.to_le_bytes());
        bytes.extend_from_slice(&predecessor.last_lsn.to_le_bytes());
        bytes.extend_from_slice(&predecessor.end.to_le_bytes());
        bytes.extend_from_slice(&predecessor.footer_crc.to_le_bytes());
        bytes.extend_from_slice(&self.generation.to_le_bytes());
        bytes.extend_from_slice(&self.folded_lsn.to_le_bytes());
        bytes.extend_from_slice(&self.capacity.to_le_bytes());
        let header = sealed(bytes, SEGMENT_HEADER_STRUCT, 0);
        let mut page = header.clone();
        page.resize(SEGMENT_HEADER_COPY as usize, 0);
        page.extend_from_slice(&header);
        page.resize(SEGMENT_HEADER_LEN as usize, 0);
        page
    }

    /// Reads the header from the first 4096 bytes; either copy will do. The second value says
    /// whether the page is exactly as it was written.
    ///
    /// # Errors
    ///
    /// What is wrong with the first copy, when neither can be used.
    #[expect(clippy::cast_possible_truncation, reason = "a constant of at most 4096")]
    pub fn decode(page: &[u8]) -> Result<(Self, bool), FormatError> {
        let copy = page.get(SEGMENT_HEADER_COPY as usize..).unwrap_or_default();
        let header = Self::decode_copy(page).or_else(|error| match error {
            FormatError::Version(..) => Err(error),
            _ => Self::decode_copy(copy).map_err(|_| error),
        })?;
        let (header, minor) = header;
        Ok((header, header.encode_as(minor) == page))
    }

    /// The header and the minor version that wrote it.
    fn decode_copy(bytes: &[u8]) -> Result<(Self, u16), FormatError> {
        let bytes = bytes.get(..SEGMENT_HEADER_STRUCT).ok_or(FormatError::Short)?;
        let content = checked(bytes, 0)?;
        let mut reader = Reader::new(content);
        if reader.array() != SEGMENT_MAGIC {
            return Err(FormatError::Magic);
        }
        let (major, minor) = (reader.u16(), reader.u16());
        if major != VERSION_MAJOR {
            return Err(FormatError::Version(major, minor));
        }
        let header_len = reader.u32();
        let store_uuid = reader.array();
        let segment = reader.u64();
        let base_lsn = reader.u64();
        let salt = reader.u32();
        let flags = reader.u32();
        let created_ms = reader.u64();
        let predecessor = Predecessor {
            segment: reader.u64(),
            last_lsn: reader.u64(),
            end: reader.u64(),
            footer_crc: reader.u32(),
        };
        let header = Self {
            store_uuid,
            segment,
            base_lsn,
            salt,
            fallback: flags & FLAG_FALLBACK != 0,
            created_ms,
            predecessor: (predecessor.segment != NO_SEGMENT).then_some(predecessor),
            generation: reader.u32(),
            folded_lsn: reader.u64(),
            capacity: reader.u64(),
        };
        if header_len != 128 || flags & !FLAG_FALLBACK != 0 || salt == 0 {
            return Err(FormatError::Field("segment header"));
        }
        bounded("segment header", &[segment, base_lsn, header.folded_lsn, header.capacity])?;
        if let Some(Predecessor { segment, last_lsn, end, .. }) = header.predecessor {
            bounded("predecessor", &[segment, last_lsn, end])?;
        }
        Ok((header, minor))
    }
}

/// A checkpoint slot: what was known to be durable when it was written. It speeds up opening
/// and proves damage; it is never needed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Rises with each slot written; the higher one counts.
    pub sequence: u64,
    /// The active segment.
    pub segment: u64,
    /// Where its durable records end.
    pub end: u64,
    /// The last durable sequence number.
    pub last_lsn: u64,
    /// How many entries those records hold.
    pub entries: u64,
    /// Whether the store was closed in order right after this.
    pub clean: bool,
    /// Store calls since the store was made.
    pub offered: u64,
    /// Store calls answered with an existing entry.
    pub duplicates: u64,
    /// Store calls refused.
    pub refused: u64,
    /// Store calls that went to a fallback file.
    pub spilled: u64,
    /// Whether the four counts above may lack calls made before a crash.
    pub counts_incomplete: bool,
    /// The folder of the index below `index/`, zero when there is none.
    pub index_uuid: [u8; 16],
    /// The sequence number up to which that index is complete.
    pub index_lsn: u64,
}

impl Checkpoint {
    /// The slot's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = CHECKPOINT_MAGIC.to_vec();
        for number in [self.sequence, self.segment, self.end, self.last_lsn, self.entries] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.push(u8::from(self.clean));
        bytes.push(u8::from(self.counts_incomplete));
        bytes.extend_from_slice(&[0; 6]);
        for number in [self.offered, self.duplicates, self.refused, self.spilled] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.index_uuid);
        bytes.extend_from_slice(&self.index_lsn.to_le_bytes());
        sealed(bytes, CHECKPOINT_LEN, 0)
    }

    /// Reads a slot.
    ///
    /// # Errors
    ///
    /// What is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        if bytes.len() != CHECKPOINT_LEN {
            return Err(FormatError::Short);
        }
        let content = checked(bytes, 0)?;
        let mut reader = Reader::new(content);
        if reader.array() != CHECKPOINT_MAGIC {
            return Err(FormatError::Magic);
        }
        let mut checkpoint = Self {
            sequence: reader.u64(),
            segment: reader.u64(),
            end: reader.u64(),
            last_lsn: reader.u64(),
            entries: reader.u64(),
            clean: reader.u8() != 0,
            counts_incomplete: reader.u8() != 0,
            ..Self::default()
        };
        reader.take(6);
        checkpoint.offered = reader.u64();
        checkpoint.duplicates = reader.u64();
        checkpoint.refused = reader.u64();
        checkpoint.spilled = reader.u64();
        checkpoint.index_uuid = reader.array();
        checkpoint.index_lsn = reader.u64();
        let Self { sequence, segment, end, last_lsn, entries, .. } = checkpoint;
        bounded("checkpoint", &[sequence, segment, end, last_lsn, entries])?;
        let Self { offered, duplicates, refused, spilled, index_lsn, .. } = checkpoint;
        bounded("checkpoint", &[offered, duplicates, refused, spilled, index_lsn])?;
        Ok(checkpoint)
    }
}

/// The note in the lock file: who owns the store, and how far the log is durable for readers
/// beside it. It means nothing once the lock is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockNote {
    /// The owner.
    pub process_id: u32,
    /// The active segment.
    pub segment: u64,
    /// Where its durable records end.
    pub end: u64,
}

impl LockNote {
    /// The note's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = LOCK_MAGIC.to_vec();
        bytes.extend_from_slice(&self.process_id.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.segment.to_le_bytes());
        bytes.extend_from_slice(&self.end.to_le_bytes());
        sealed(bytes, LOCK_NOTE_LEN, 0)
    }

    /// Reads the note.
    ///
    /// # Errors
    ///
    /// What is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let content = checked(bytes.get(..LOCK_NOTE_LEN).ok_or(FormatError::Short)?, 0)?;
        let mut reader = Reader::new(content);
        if reader.array() != LOCK_MAGIC {
            return Err(FormatError::Magic);
        }
        let process_id = reader.u32();
        reader.take(4);
        Ok(Self { process_id, segment: reader.u64(), end: reader.u64() })
    }
}
