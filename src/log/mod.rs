//! The log: all segments in order. Append, read, scan; which segments there are.
//!
//! A record goes from [`Log::submit`] into the group buffer (`commit`), is written and synced by
//! whoever leads (`writer`), and is read back from its segment (`segment`). `recover` judges what
//! a crash left, `open` acts on it, `spill` keeps records beside the log. `account` counts the
//! directory's bytes, `ballast` keeps some for a full disk.

mod account;
mod ballast;
mod commit;
mod control;
mod open;
mod prepare;
mod quarantine;
mod recover;
mod rewrite;
mod segment;
mod segments;
mod spill;
mod tally;
mod writer;

#[cfg(feature = "planted")]
pub mod planted;

use std::sync::Arc;

use crate::entry::{Cause, Status};
use crate::error::{Error, Result};
use crate::format::{self, ChangeRow, EntryRow, Flags, Kind, RecordHeader, Summary, When};

pub(crate) use account::{Account, Claim, Part, bytes_below, files, index_bytes_max, measure};
pub(crate) use ballast::Ballast;
pub(crate) use commit::{Commit, Ticket};
pub(crate) use control::{Control, put_summary};
pub use open::OpenReport;
pub(crate) use open::{
    Opened, SegmentFiles, check_store, file_damage, last_item, missing_damage, open,
    open_read_only, store_file_damaged, store_uuid, write_checkpoint,
};
pub(crate) use prepare::Preparer;
pub(crate) use quarantine::drop_oldest;
pub(crate) use recover::{
    Extent, Witness, change_note, entry_note, quarantine, removed_among, scan_old, survey,
};
pub(crate) use rewrite::{Fate, Plan, Progress, Rewrite, Rewritten};
pub(crate) use segment::{Item, SegmentFile};
pub(crate) use segments::{Active, Old, Scanned, Segments};
pub(crate) use spill::{
    FallbackFile, list_fallback, quarantine_file, read_fallback, write_fallback,
};
pub(crate) use tally::Tallies;
pub(crate) use writer::is_no_space;

/// A record that is ready to be written but has no number yet.
pub(crate) struct Draft {
    pub kind: Kind,
    pub body_version: u16,
    pub body: Vec<u8>,
    pub body_crc: u32,
    pub time_ms: u64,
    pub drained: bool,
    pub note: Note,
}

/// What the footer and the index must know of a record.
#[derive(Debug, Clone)]
pub(crate) enum Note {
    Entry {
        key_hash: u64,
        /// The caller's key, while it is reserved.
        key: Option<String>,
        domain: Arc<str>,
        failure_type: Arc<str>,
        created_ms: u64,
        expires_ms: u64,
        status: Status,
        /// As in the row of a change.
        when_ms: u64,
    },
    Change {
        target: u64,
        /// None when the entry is gone from then on.
        status: Option<Status>,
        updated_ms: u64,
        when_ms: u64,
        expires_ms: u64,
        cause: Cause,
        domain: Arc<str>,
        failure_type: Arc<str>,
    },
    Control(Control),
    None,
}

/// A record that reached its level, for the index.
#[derive(Debug, Clone)]
pub(crate) struct Committed {
    pub segment: u64,
    pub lsn: u64,
    pub ordinal: u32,
    pub row: Row,
}

/// The row of a committed record.
#[derive(Debug, Clone)]
pub(crate) enum Row {
    Entry { row: EntryRow, domain: Arc<str>, failure_type: Arc<str>, key: Option<String> },
    Change { row: ChangeRow, cause: Cause, domain: Arc<str>, failure_type: Arc<str> },
    Control(Control),
    None,
}

/// Who is told of each group, in log order, before its callers are answered.
pub(crate) trait Observer: Send + Sync {
    fn committed(&self, records: &[Committed]);
    /// The keys, and the number, of entries that were not written.
    fn refused(&self, keys: &[&str], entries: usize);
}

impl std::fmt::Debug for Draft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Draft")
            .field("kind", &self.kind)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

impl Draft {
    pub fn new<T: format::Body>(kind: Kind, body: &T, time_ms: u64, note: Note) -> Result<Self> {
        let body = format::encode_body(body).map_err(|_| Error::TooLarge {
            what: "the record",
            bytes: u64::from(format::RECORD_BODY_MAX) + 1,
            bytes_max: u64::from(format::RECORD_BODY_MAX),
            settings: "the format: a record is at most 16 MiB",
        })?;
        let body_crc = RecordHeader::crc_of(&body);
        let body_version = kind.body_version();
        Ok(Self { kind, body_version, body, body_crc, time_ms, drained: false, note })
    }

    /// The bytes that its row may add to the footer.
    pub fn row_len(&self) -> u64 {
        self.note.footer_len()
    }

    /// The bytes that the record takes in a segment.
    pub fn record_len(&self) -> u64 {
        format::padded_len(self.body.len())
    }

    /// The header of the record in its group.
    fn header(&self, lsn: u64, flags: Flags, group: u32, ordinal: usize) -> RecordHeader {
        RecordHeader {
            body_len: u32::try_from(self.body.len()).unwrap_or(u32::MAX),
            lsn,
            body_crc: self.body_crc,
            kind: self.kind,
            flags,
            body_version: self.body_version,
            time_ms: self.time_ms,
            group,
            ordinal: u32::try_from(ordinal).unwrap_or(u32::MAX),
        }
    }

    fn mark(time_ms: u64) -> Self {
        Self { time_ms, ..Self::empty() }
    }

    /// A mark: a record that says nothing.
    pub fn empty() -> Self {
        let body_crc = RecordHeader::crc_of(&[]);
        Self {
            kind: Kind::Mark,
            body_version: Kind::Mark.body_version(),
            body: Vec::new(),
            body_crc,
            time_ms: 0,
            drained: false,
            note: Note::None,
        }
    }
}

impl Note {
    /// The bytes that this record may add to the footer.
    fn footer_len(&self) -> u64 {
        match self {
            Self::Entry { domain, failure_type, .. } => {
                (format::ENTRY_ROW_LEN + 16 + domain.len() + failure_type.len()) as u64
            }
            Self::Change { .. } => format::ENTRY_ROW_LEN as u64,
            _ => 0,
        }
    }

    /// Adds the record's row to a summary and returns it.
    fn row(&self, summary: &mut Summary, lsn: u64, offset: u64) -> Row {
        match self {
            Self::Entry {
                key_hash,
                key,
                domain,
                failure_type,
                created_ms,
                expires_ms,
                status,
                when_ms,
            } => {
                let row = EntryRow {
                    lsn,
                    offset,
                    created_ms: *created_ms,
                    expires_ms: *expires_ms,
                    key_hash: *key_hash,
                    status: *status,
                    when: When::of(*created_ms, *when_ms),
                    domain: summary.term(domain),
                    failure_type: summary.term(failure_type),
                };
                summary.entries.push(row.clone());
                let (domain, failure_type) = (Arc::clone(domain), Arc::clone(failure_type));
                Row::Entry { row, domain, failure_type, key: key.clone() }
            }
            Self::Change {
                target,
                status,
                updated_ms,
                when_ms,
                expires_ms,
                cause,
                domain,
                failure_type,
            } => {
                let row = ChangeRow {
                    lsn,
                    target: *target,
                    offset,
                    status: *status,
                    updated_ms: *updated_ms,
                    when_ms: *when_ms,
                    expires_ms: *expires_ms,
                };
                summary.changes.push(row.clone());
                let (domain, failure_type) = (Arc::clone(domain), Arc::clone(failure_type));
                Row::Change { row, cause: *cause, domain, failure_type }
            }
            Self::Control(control) => Row::Control(control.clone()),
            Self::None => Row::None,
        }
    }
}

impl Row {
    /// Counts the record.
    pub fn count(&self, tallies: &mut Tallies) {
        match self {
            Self::Entry { domain, failure_type, .. } => {
                tallies.add(domain, failure_type, Cause::Stored);
            }
            Self::Change { cause, domain, failure_type, .. } => {
                tallies.add(domain, failure_type, *cause);
            }
            Self::Control(_) | Self::None => {}
        }
    }
}
