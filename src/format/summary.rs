//! The summary of one segment: what its footer says, and what the active one gathers as it grows.

use std::collections::HashMap;

use crate::entry::Status;

use super::{SegmentHeader, When};

/// No time: an entry that never expires, a state that is due at once.
pub const TIME_NONE: u64 = u64::MAX;

/// One entry of a segment, without its payload. Its ordinal is its index among the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryRow {
    /// The sequence number, which is the entry's id. Rows rise by it.
    pub lsn: u64,
    /// Where the record begins in the segment.
    pub offset: u64,
    /// When the entry was created, by the wall clock.
    pub created_ms: u64,
    /// When it expires, or [`TIME_NONE`].
    pub expires_ms: u64,
    /// A hash of its key (the caller's, else its uuid as text).
    pub key_hash: u64,
    /// The status that the record itself carries.
    pub status: Status,
    /// The time that its state hangs on, roughly; see [`ChangeRow::when_ms`].
    pub when: When,
    /// The domain, as an index into [`Summary::terms`].
    pub domain: u32,
    /// The failure type, as an index into [`Summary::terms`].
    pub failure_type: u32,
}

/// One change record of a segment: a second copy of the status and the times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeRow {
    /// The sequence number of the change. Rows rise by it.
    pub lsn: u64,
    /// The entry that changed, in this segment or an older one.
    pub target: u64,
    /// Where the record begins in the segment.
    pub offset: u64,
    /// The status after the change; none when the entry is gone from then on.
    pub status: Option<Status>,
    /// When it changed.
    pub updated_ms: u64,
    /// The time that the state hangs on, or [`TIME_NONE`]: since when the entry stands where it
    /// does, for a status that has an age; before when it is not due, for any other.
    pub when_ms: u64,
    /// When the entry expires, or [`TIME_NONE`].
    pub expires_ms: u64,
}

/// What one segment holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// The segment.
    pub segment: u64,
    /// Its generation.
    pub generation: u32,
    /// Changes up to this sequence number are folded into the entries here.
    pub folded_lsn: u64,
    /// Distinct domains and failure types, in order of first use.
    pub terms: Vec<String>,
    /// The entries, by ordinal.
    pub entries: Vec<EntryRow>,
    /// The changes.
    pub changes: Vec<ChangeRow>,
    term_numbers: HashMap<String, u32>,
}

impl Summary {
    /// An empty summary.
    pub fn new(segment: u64) -> Self {
        Self { segment, ..Self::default() }
    }

    /// An empty summary of the segment with this header.
    pub fn of(header: &SegmentHeader) -> Self {
        let SegmentHeader { segment, generation, folded_lsn, .. } = *header;
        Self { segment, generation, folded_lsn, ..Self::default() }
    }

    /// The number of a term, given on first use.
    pub fn term(&mut self, text: &str) -> u32 {
        if let Some(number) = self.term_numbers.get(text) {
            return *number;
        }
        let number = u32::try_from(self.terms.len()).unwrap_or(u32::MAX);
        self.terms.push(text.to_owned());
        self.term_numbers.insert(text.to_owned(), number);
        number
    }

    /// Whether this footer tells what the records tell. One of version 1.0 leaves out when an entry
    /// was stored or changed to where it stands.
    pub(crate) fn agrees_with(&self, records: &Self) -> bool {
        let mut told = records.clone();
        for (told, row) in told.entries.iter_mut().zip(&self.entries) {
            if row.when == When::UNKNOWN {
                told.when = When::UNKNOWN;
            }
        }
        for (told, row) in told.changes.iter_mut().zip(&self.changes) {
            if row.status.is_some_and(Status::has_age) && row.when_ms == TIME_NONE {
                told.when_ms = TIME_NONE;
            }
        }
        *self == told
    }

    /// Takes over the row of an entry, which stands at this offset here.
    pub(crate) fn adopt(&mut self, from: &Self, lsn: u64, offset: u64) -> Option<()> {
        let at = from.entries.binary_search_by_key(&lsn, |row| row.lsn).ok()?;
        let row = from.entries.get(at)?;
        let domain = self.term(from.term_text(row.domain));
        let failure_type = self.term(from.term_text(row.failure_type));
        self.entries.push(EntryRow { offset, domain, failure_type, ..row.clone() });
        Some(())
    }

    /// The text of a term; empty for a number that was never given.
    pub fn term_text(&self, number: u32) -> &str {
        self.terms.get(number as usize).map_or("", String::as_str)
    }
}
