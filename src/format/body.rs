//! The bodies of the records, encoded by bincode 1.3 with fixed-width little-endian integers.
//!
//! This is the only file that names bincode. The layout is spelled out in `docs/format.md`.

use bincode::Options;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{FormatError, RECORD_BODY_MAX};
use crate::entry::{Json, State, Timestamp};

/// The body of an entry record, version 1.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of `FailedOperation` and `Entry`")]
pub struct EntryBody {
    pub uuid: [u8; 16],
    pub key: Option<String>,
    pub domain: String,
    pub original_domain: Option<String>,
    pub failure_type: String,
    pub entity_type: Option<String>,
    pub entity_id: Option<String>,
    pub entity_refs: Json,
    pub user_id: Option<i64>,
    pub snapshot_data: Json,
    pub error_code: String,
    pub error_message: String,
    pub request_data: Json,
    pub response_data: Json,
    pub metadata: Json,
    pub next_action_hint: String,
    pub created_at: Timestamp,
    pub runnable: bool,
    pub state: State,
}

/// The body of a change record, version 1.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeBody {
    /// The entry that changed.
    pub target: u64,
    /// Its state from now on.
    pub state: State,
}

/// Running totals over the life of the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Entries stored in the log.
    pub captured: u64,
    /// Entries purged.
    pub purged: u64,
    /// Entries evicted for space.
    pub evicted: u64,
    /// Entries lost to damage.
    pub lost: u64,
}

/// One segment in a [`SegmentSet`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentItem {
    /// The segment.
    pub segment: u64,
    /// Its generation.
    pub generation: u32,
    /// The lowest sequence number in it.
    pub first_lsn: u64,
    /// The highest sequence number in it.
    pub last_lsn: u64,
    /// How many entries were stored in it.
    pub entries: u64,
}

/// Records lost to damage; the body of a lost record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The segment they were in.
    pub segment: u64,
    /// Where the damage begins.
    pub offset: u64,
    /// How many bytes are damaged.
    pub bytes: u64,
    /// The lowest sequence number that is lost.
    pub lsn_from: u64,
    /// The highest sequence number that is lost, inclusive.
    pub lsn_to: u64,
    /// How many entries are lost, as far as is known.
    pub entries: u64,
}

/// The body of a segment-set record, version 1: all that must be known of older segments.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentSet {
    /// The older segments, by number.
    pub segments: Vec<SegmentItem>,
    /// The totals over them.
    pub totals: Totals,
    /// What is known to be lost in them.
    pub losses: Vec<Loss>,
    /// Fallback files that are home but perhaps not yet unlinked.
    pub drained: Vec<[u8; 16]>,
}

/// The body of a drained record, version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainedBody {
    /// The fallback file.
    pub uuid: [u8; 16],
    /// How many entries came home from it.
    pub entries: u64,
}

fn options() -> impl Options {
    bincode::DefaultOptions::new()
        .with_fixint_encoding()
        .with_little_endian()
        .with_limit(u64::from(RECORD_BODY_MAX))
}

/// A body's bytes; the size limit is the only thing that can refuse.
pub(crate) fn encode_body<T: Serialize>(body: &T) -> Result<Vec<u8>, FormatError> {
    options().serialize(body).map_err(|_| FormatError::Field("body length"))
}

/// Reads a body whose checksum was already found right.
pub(crate) fn decode_body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FormatError> {
    options().deserialize(bytes).map_err(|_| FormatError::Field("body"))
}

impl EntryBody {
    /// The key: the caller's, else the uuid as text.
    pub fn key_text(&self) -> String {
        self.key.clone().unwrap_or_else(|| uuid_text(&self.uuid))
    }
}

/// A uuid in its usual form of five groups.
pub fn uuid_text(uuid: &[u8; 16]) -> String {
    let hex = super::hex(uuid);
    let mut text = String::with_capacity(36);
    for (index, digit) in hex.chars().enumerate() {
        if matches!(index, 8 | 12 | 16 | 20) {
            text.push('-');
        }
        text.push(digit);
    }
    text
}

/// The hash of a key in entry rows: 64-bit FNV-1a (Fowler, Noll, Vo) over the store's uuid and
/// the key's bytes. A match is always confirmed by reading the record.
pub fn key_hash(store_uuid: [u8; 16], key: &str) -> u64 {
    store_uuid.iter().chain(key.as_bytes()).fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
