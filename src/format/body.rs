//! The bodies of the records, encoded by bincode 1.3 with little-endian integers: those of entries
//! and changes in its short form, the others with a fixed width.
//!
//! This is the only file that names bincode. The layout is spelled out in `docs/format.md`.

use bincode::Options;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{FormatError, Frame, Kind, RECORD_BODY_MAX};
use crate::entry::{Cause, Json, State, Timestamp};

/// The bytes that version 2 added at the end of a state.
const STATE_ADDED: usize = 1 + 4 + 4;
/// The bytes that version 3 added at the end of a segment set when there is nothing to say.
const SET_ADDED: usize = 8 + CLOCK_LEN + 8;
/// The bytes of a clock that says nothing.
const CLOCK_LEN: usize = 8 + 8 + 1 + 8 + 1 + 8;

/// The body of an entry record, version 3.
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

/// The body of a change record, version 3.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeBody {
    /// The entry that changed.
    pub target: u64,
    /// Its state from now on; of an entry that is gone, one without texts.
    pub state: State,
    /// Why; a cause that removes says that the entry is gone from now on.
    pub cause: Cause,
    /// The entry's domain; empty in version 1.
    pub domain: String,
    /// The entry's failure type; empty in version 1.
    pub failure_type: String,
}

/// How many records of each cause were ever written for one domain and failure type.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// The domain.
    pub domain: String,
    /// The failure type.
    pub failure_type: String,
    /// The numbers of the causes, rising, with the number of records.
    pub counts: Vec<(u8, u64)>,
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

/// One segment in a [`SegmentSet`], and in a [`ReplaceBody`].
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

/// Where a segment that takes no more records ends, and what is folded into it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentEnd {
    /// Where its records end; 0 when nobody says.
    pub end: u64,
    /// The CRC of its footer's trailer; 0 when nobody vouches for a footer.
    pub footer_crc: u32,
    /// Changes up to this sequence number are folded into its entries.
    pub folded_lsn: u64,
}

/// The body of a drop record: a segment that holds nothing alive is gone from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropBody {
    /// The segment.
    pub segment: u64,
    /// Its generation.
    pub generation: u32,
}

/// The body of a replace record: a rewritten segment stands in for others from then on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplaceBody {
    /// The segments whose place it takes, neighbors by rising number. The first has its number.
    pub old: Vec<DropBody>,
    /// The rewritten segment.
    pub new: SegmentItem,
    /// Where it ends and what is folded into it.
    pub end: SegmentEnd,
}

/// A jump of the wall clock that is not believed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingJump {
    /// The wall clock on the other side of it, when it was last seen.
    pub wall: Timestamp,
    /// How long this process and those before were up since the jump, in milliseconds.
    pub uptime_ms: u64,
}

/// The last jump of the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jump {
    /// What it should have shown.
    pub from: Timestamp,
    /// What it showed.
    pub to: Timestamp,
}

/// A jump of the wall clock, for times that were written before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shift {
    /// Records below this sequence number were written before the jump.
    pub lsn: u64,
    /// How far the clock jumped, in milliseconds.
    pub ms: i64,
    /// When, by the wall clock since then: later jumps are added.
    pub at: Timestamp,
}

/// The body of a clock record: what was known of the time when it was written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockBody {
    /// What the wall clock showed.
    pub wall: Timestamp,
    /// The time by which entries age.
    pub trusted: Timestamp,
    /// A jump that is not believed yet.
    pub pending: Option<PendingJump>,
    /// Jumps since the store was made.
    pub jumps: u64,
    /// The last of them.
    pub last_jump: Option<Jump>,
    /// Those that records were written before, by rising numbers.
    pub shifts: Vec<Shift>,
}

/// The body of a summary record: what is left of entries that were evicted. The newest with an id
/// counts.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SummaryBody {
    /// Its id.
    pub id: String,
    /// The domain of the entries.
    pub domain: String,
    /// Their failure type.
    pub failure_type: String,
    /// Their error code.
    pub error_code: String,
    /// How many they are.
    pub count: u64,
    /// The earliest creation among them.
    pub first_seen: Timestamp,
    /// The latest creation among them.
    pub last_seen: Timestamp,
    /// The error message of the newest one.
    pub sample_error_message: String,
    /// Some fields of the newest one.
    pub sample_context: Json,
    /// 0 active, 1 stale, 2 archived.
    pub status: u8,
    /// When it was made.
    pub compressed_at: Timestamp,
    /// When it became stale.
    pub stale_at: Option<Timestamp>,
    /// When it was archived.
    pub archived_at: Option<Timestamp>,
}

impl SummaryBody {
    /// How many bytes it takes, in a record of its own and in a segment set.
    pub(crate) fn body_len(&self) -> u64 {
        options().serialized_size(self).unwrap_or(u64::from(RECORD_BODY_MAX))
    }
}

impl std::fmt::Debug for SummaryBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SummaryBody")
            .field("id", &self.id)
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

/// The body of a segment-set record, version 3: all that must be known of older segments.
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
    /// How many records of each cause they hold or held, and the segments before them.
    pub tallies: Vec<Tally>,
    /// Where the segments end, in their order; none in a body of version 1 or 2.
    pub ends: Vec<SegmentEnd>,
    /// What was known of the time.
    pub clock: ClockBody,
    /// What is left of evicted entries.
    pub summaries: Vec<SummaryBody>,
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

/// The form in which small numbers and lengths take one byte.
fn short_options() -> impl Options {
    bincode::DefaultOptions::new()
        .with_varint_encoding()
        .with_little_endian()
        .with_limit(u64::from(RECORD_BODY_MAX))
}

/// A body's bytes; the size limit is the only thing that can refuse.
pub(crate) fn encode_body<T: Body>(body: &T) -> Result<Vec<u8>, FormatError> {
    let bytes = if T::SHORT { short_options().serialize(body) } else { options().serialize(body) };
    bytes.map_err(|_| FormatError::Field("body length"))
}

/// A body that a record may have.
pub(crate) trait Body: Serialize + DeserializeOwned {
    /// The records that have it.
    const KIND: Kind;
    /// Whether the newest version is in the short form; no older one is.
    const SHORT: bool = false;
    /// How many bytes of zeros make a body of each older version, from 1 on, one of the newest
    /// version: each version only adds at the end.
    const ADDED: &'static [usize];
}

impl Body for EntryBody {
    const KIND: Kind = Kind::Entry;
    const SHORT: bool = true;
    const ADDED: &'static [usize] = &[STATE_ADDED, 0];
}

impl Body for ChangeBody {
    const KIND: Kind = Kind::Change;
    const SHORT: bool = true;
    const ADDED: &'static [usize] = &[STATE_ADDED + 1 + 8 + 8, 0];
}

impl Body for SegmentSet {
    const KIND: Kind = Kind::SegmentSet;
    const ADDED: &'static [usize] = &[8 + SET_ADDED, SET_ADDED];
}

/// Bodies that have had one version so far.
macro_rules! first_version {
    ($($body:ident is $kind:ident),+) => {
        $(impl Body for $body {
            const KIND: Kind = Kind::$kind;
            const ADDED: &'static [usize] = &[];
        })+
    };
}

first_version!(
    Loss is Lost,
    DrainedBody is Drained,
    DropBody is Drop,
    ReplaceBody is Replace,
    ClockBody is Clock,
    SummaryBody is Summary
);

/// Reads the body of a record whose checksum was already found right.
pub(crate) fn decode_body<T: Body>(frame: &Frame) -> Result<T, FormatError> {
    decode_bytes(frame.header.body_version, &frame.plain_body()?)
}

/// Reads the bytes of a body of a version.
pub(crate) fn decode_bytes<T: Body>(version: u16, bytes: &[u8]) -> Result<T, FormatError> {
    if version == T::KIND.body_version() {
        let body = if T::SHORT {
            short_options().deserialize(bytes)
        } else {
            options().deserialize(bytes)
        };
        return body.map_err(|_| FormatError::Field("body"));
    }
    let added = usize::from(version).checked_sub(1).and_then(|older| T::ADDED.get(older));
    let added = added.ok_or(FormatError::Field("body version"))?;
    let mut whole = bytes.to_vec();
    whole.resize(bytes.len() + added, 0);
    options().deserialize(&whole).map_err(|_| FormatError::Field("body"))
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
