//! The times that a filter may ask for: when an entry expires, and what its state hangs on.
//!
//! Each time stands in two layers. The first is what the entry was stored with; the second, which
//! goes before it, is what its newest change gave. Both are blocks of one column, and a change that
//! no block has yet goes before both. What an entry was stored with may be known only roughly, see
//! [`crate::format::When`]; then the record decides.

use crate::format::{ChangeRow, EntryRow, TIME_NONE};

use super::postings::{Bytes, Column, Fresh, Kind, put_varint};

/// The number of an entry that the block says nothing of.
const ABSENT: u64 = 0;
/// The number of an entry without this time.
const NONE: u64 = 1;
/// The number of the earliest time.
const FIRST: u64 = 2;

/// Which time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Time {
    /// What the state hangs on, see [`ChangeRow::when_ms`].
    When,
    /// When the entry expires.
    Expires,
}

/// One time of the entries of a segment, by ordinal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Times {
    /// Names the state of the segment that the block belongs to; 0 for what entries were stored
    /// with.
    pub stamp: u64,
    earliest: u64,
    column: Column,
}

/// How far one time of a segment's entries ranges, over all that they were stored with or changed
/// to so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// No entry has an earlier one; [`TIME_NONE`] when none has one.
    pub min: u64,
    /// No entry has a later one.
    pub max: u64,
    /// How much later than told a time may be that an entry was stored with.
    pub spread: u64,
    /// Whether an entry was stored with one.
    pub stored: bool,
}

impl Time {
    /// Both.
    pub const ALL: [Self; 2] = [Self::When, Self::Expires];

    /// The block of what entries were stored with.
    pub const fn stored_kind(self) -> Kind {
        match self {
            Self::When => Kind::When,
            Self::Expires => Kind::Expires,
        }
    }

    /// The block of what changes gave.
    pub const fn changed_kind(self) -> Kind {
        match self {
            Self::When => Kind::WhenChanged,
            Self::Expires => Kind::ExpiresChanged,
        }
    }

    /// The earliest and the latest that an entry may have been stored with.
    pub fn stored(self, row: &EntryRow) -> (u64, u64) {
        match self {
            Self::When => row.when.bounds(row.created_ms),
            Self::Expires => (row.expires_ms, row.expires_ms),
        }
    }

    /// What a change gave. An age that the row does not tell may have begun at any time.
    pub fn changed(self, row: &ChangeRow) -> (u64, u64) {
        match self {
            Self::When if row.when_ms == TIME_NONE && row.status.has_age() => (0, TIME_NONE),
            Self::When => (row.when_ms, row.when_ms),
            Self::Expires => (row.expires_ms, row.expires_ms),
        }
    }

    /// What a change gave that no block has yet.
    pub const fn fresh(self, fresh: &Fresh) -> u64 {
        match self {
            Self::When => fresh.when_ms,
            Self::Expires => fresh.expires_ms,
        }
    }
}

impl Times {
    /// A block of these times; none for an entry that it says nothing of.
    pub fn new(stamp: u64, times: impl Iterator<Item = Option<u64>> + Clone) -> Self {
        let earliest = times.clone().flatten().min().unwrap_or(0);
        let numbers = times.map(|time| match time {
            None => ABSENT,
            Some(TIME_NONE) => NONE,
            Some(time) => (time - earliest).saturating_add(FIRST),
        });
        Self { stamp, earliest, column: numbers.collect() }
    }

    /// The time of an entry, if the block has it.
    pub fn get(&self, ordinal: u32) -> Option<u64> {
        match self.column.get(ordinal as usize)? {
            ABSENT => None,
            NONE => Some(TIME_NONE),
            number => Some((number - FIRST).saturating_add(self.earliest)),
        }
    }

    /// How many entries it ranges over.
    pub fn len(&self) -> u32 {
        u32::try_from(self.column.len()).unwrap_or(u32::MAX)
    }

    /// How much memory it takes.
    pub fn bytes(&self) -> usize {
        self.column.bytes()
    }

    /// Its bytes in the index.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32 + self.column.bytes());
        put_varint(&mut out, self.stamp);
        put_varint(&mut out, self.earliest);
        self.column.encode(&mut out);
        out
    }

    /// The block with these bytes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut bytes = Bytes::new(bytes);
        let (stamp, earliest) = (bytes.varint()?, bytes.varint()?);
        let column = Column::decode(&mut bytes)?;
        bytes.is_empty().then_some(Self { stamp, earliest, column })
    }
}

impl Default for Range {
    fn default() -> Self {
        Self { min: TIME_NONE, max: 0, spread: 0, stored: false }
    }
}

impl Range {
    /// Takes in what an entry was stored with.
    pub fn store(&mut self, (from, to): (u64, u64)) {
        if from != TIME_NONE {
            self.spread = self.spread.max(to - from);
            self.stored = true;
            self.change((from, to));
        }
    }

    /// Takes in what a change gave.
    pub fn change(&mut self, (from, to): (u64, u64)) {
        if from != TIME_NONE {
            self.min = self.min.min(from);
            self.max = self.max.max(to);
        }
    }

    /// Its bytes in the index.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let numbers = [self.min, self.max, self.spread, u64::from(self.stored)];
        numbers.iter().for_each(|number| put_varint(out, *number));
    }

    /// The range with these bytes.
    pub fn decode(bytes: &mut Bytes<'_>) -> Option<Self> {
        let (min, max) = (bytes.varint()?, bytes.varint()?);
        Some(Self { min, max, spread: bytes.varint()?, stored: bytes.varint()? != 0 })
    }
}
