//! The resident part of one segment: its entries' sequence numbers, cells, times and key filter.
//!
//! An entry's *cell* is its status, domain and failure type; each segment numbers the cells it has
//! and counts them, so that a filter is a choice of cells and most segments are never looked at.
//!
//! Everything large is behind an `Arc`: a reader's copy of a segment stays as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use roaring::RoaringTreemap;

use crate::entry::Status;
use crate::format::{ChangeRow, EntryRow, TIME_NONE};

use super::cache::Block;
use super::keys::Filter;
use super::postings::{Bytes, Column, Kind, put_text, put_varint};
use super::times::{Range, Time, Times};

/// In the place of a status: the entry is gone, only its ordinal is left.
pub const GONE: u8 = u8::MAX;
/// What a segment costs beside its data.
const SEGMENT_BYTES: usize = 512;
/// What one cell costs, in the list and in the map.
const CELL_BYTES: usize = 48;
/// The smallest key filter of a segment that still grows.
const FILTER_KEYS_MIN: usize = 1024;

/// Status, domain and failure type, as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CellKey {
    /// The status, or [`GONE`].
    pub status: u8,
    /// The domain, as a number of [`Terms`].
    pub domain: u32,
    /// The failure type, as a number of [`Terms`].
    pub failure_type: u32,
}

/// The domains and failure types met so far.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    texts: Vec<Arc<str>>,
    numbers: BTreeMap<Arc<str>, u32>,
}

/// The cells of one segment, with the exact number of entries in each.
#[derive(Debug, Clone, Default)]
pub struct Cells {
    list: Vec<(CellKey, u32)>,
    numbers: BTreeMap<CellKey, u32>,
}

/// The columns that a segment carries while entries are still added to it.
#[derive(Debug, Clone, Default)]
pub struct Open {
    /// When each entry was created.
    pub created: Vec<u64>,
    /// The hash of each entry's key.
    pub keys: Vec<u64>,
    /// The time that each entry's first state hangs on, at the earliest.
    pub when: Vec<u64>,
    /// When each entry expired as it was stored.
    pub expires: Vec<u64>,
}

/// The resident part of one segment.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Its number.
    pub number: u64,
    /// Its generation: rewritten, it has other ordinals.
    pub generation: u32,
    /// Changes up to this sequence number are folded into its entries.
    pub folded_lsn: u64,
    /// The entries' sequence numbers; their ranks are the ordinals.
    pub lsns: Arc<RoaringTreemap>,
    /// The cells.
    pub cells: Arc<Cells>,
    /// Each entry's cell, by ordinal.
    pub column: Arc<Column>,
    /// Which keys may be here.
    pub filter: Arc<Filter>,
    /// The earliest creation.
    pub created_min: u64,
    /// The latest creation.
    pub created_max: u64,
    /// The times that states hang on.
    pub when: Range,
    /// When entries expire.
    pub expires: Range,
    /// The segments that hold changes of these entries.
    pub changed_in: Arc<BTreeSet<u64>>,
    /// The highest change applied.
    pub changed_lsn: u64,
    /// How many changes were applied since this part was made.
    pub touched: u64,
    /// When the first of those that are gone went, by the wall clock; [`TIME_NONE`] while none is.
    pub gone_since: u64,
    /// Names the block of newest changes that belongs to this state; 0 when there is none.
    pub stamp: u64,
    /// Whether the block of newest changes was never built.
    pub cold: bool,
    /// Whether the index has this state.
    pub kept: bool,
    /// Whether the index has the key filter, and the columns of all entries.
    pub filter_kept: bool,
    /// The columns that are blocks once the segment is sealed.
    pub open: Option<Arc<Open>>,
}

/// Names the blocks of one generation of a segment. Numbers stay far below 2^40, and generations
/// below 2^24; where not, a block is taken for another's at worst, and found not to fit.
pub const fn place(number: u64, generation: u32) -> u64 {
    number | (generation as u64) << 40
}

impl Terms {
    /// The number of a text, given on first use.
    pub fn number(&mut self, text: &str) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = u32::try_from(self.texts.len()).unwrap_or(u32::MAX);
        let shared: Arc<str> = text.into();
        self.texts.push(Arc::clone(&shared));
        self.numbers.insert(shared, number);
        number
    }

    /// The number of a text that was met.
    pub fn find(&self, text: &str) -> Option<u32> {
        self.numbers.get(text).copied()
    }

    /// The text of a number.
    pub fn text(&self, number: u32) -> Arc<str> {
        self.texts.get(number as usize).map_or_else(|| "".into(), Arc::clone)
    }

    /// How much memory they take.
    pub fn bytes(&self) -> usize {
        self.texts.iter().map(|text| text.len() + 64).sum()
    }
}

impl Cells {
    /// All cells, by number; some may be empty.
    pub fn iter(&self) -> impl Iterator<Item = (CellKey, u32)> + '_ {
        self.list.iter().copied()
    }

    fn number(&mut self, key: CellKey) -> u32 {
        if let Some(number) = self.numbers.get(&key) {
            return *number;
        }
        let number = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        self.list.push((key, 0));
        self.numbers.insert(key, number);
        number
    }

    fn add(&mut self, number: u32) {
        if let Some((_, count)) = self.list.get_mut(number as usize) {
            *count += 1;
        }
    }

    fn take(&mut self, number: u32) {
        if let Some((_, count)) = self.list.get_mut(number as usize) {
            *count = count.saturating_sub(1);
        }
    }
}

impl Segment {
    /// A segment without entries, to which entries can be added.
    pub fn new(number: u64, generation: u32, folded_lsn: u64) -> Self {
        Self {
            number,
            generation,
            folded_lsn,
            lsns: Arc::default(),
            cells: Arc::default(),
            column: Arc::new(Column::new()),
            filter: Arc::new(Filter::with_capacity(FILTER_KEYS_MIN)),
            created_min: u64::MAX,
            created_max: 0,
            when: Range::default(),
            expires: Range::default(),
            changed_in: Arc::default(),
            changed_lsn: 0,
            touched: 0,
            gone_since: TIME_NONE,
            stamp: 0,
            cold: false,
            kept: false,
            filter_kept: false,
            open: Some(Arc::default()),
        }
    }

    /// Names the blocks of this generation.
    pub const fn place(&self) -> u64 {
        place(self.number, self.generation)
    }

    /// How many entries are gone whose records are still there.
    pub fn gone(&self) -> u32 {
        self.cells.iter().filter(|(key, _)| key.status == GONE).map(|(_, count)| count).sum()
    }

    /// How many entries are there and at their end.
    pub fn terminal(&self) -> u32 {
        let is_terminal = |status| Status::from_number(status).is_some_and(Status::is_terminal);
        self.cells.iter().filter(|(key, _)| is_terminal(key.status)).map(|(_, count)| count).sum()
    }

    /// How many ordinals there are, of present and gone entries.
    pub fn len(&self) -> u32 {
        u32::try_from(self.column.len()).unwrap_or(u32::MAX)
    }

    /// The ordinal of an entry.
    pub fn ordinal(&self, lsn: u64) -> Option<u32> {
        let known = self.lsns.contains(lsn);
        known.then(|| u32::try_from(self.lsns.rank(lsn) - 1).ok()).flatten()
    }

    /// How many ordinals lie below a sequence number.
    pub fn rank_below(&self, lsn: u64) -> u32 {
        let rank = lsn.checked_sub(1).map_or(0, |below| self.lsns.rank(below));
        u32::try_from(rank).unwrap_or(u32::MAX)
    }

    /// The cell of an entry.
    pub fn cell(&self, ordinal: u32) -> Option<CellKey> {
        let number = usize::try_from(self.column.get(ordinal as usize)?).ok()?;
        self.cells.list.get(number).map(|(key, _)| *key)
    }

    /// The status of an entry; none when it is gone.
    pub fn status(&self, ordinal: u32) -> Option<Status> {
        Status::from_number(self.cell(ordinal)?.status)
    }

    /// Adds the next entry.
    pub fn push(&mut self, row: &EntryRow, cell: CellKey) {
        (self.kept, self.filter_kept) = (false, false);
        let cells = Arc::make_mut(&mut self.cells);
        let number = cells.number(cell);
        cells.add(number);
        Arc::make_mut(&mut self.lsns).insert(row.lsn);
        Arc::make_mut(&mut self.column).push(u64::from(number));
        self.created_min = self.created_min.min(row.created_ms);
        self.created_max = self.created_max.max(row.created_ms);
        self.when.store(Time::When.stored(row));
        self.expires.store(Time::Expires.stored(row));
        let open = Arc::make_mut(self.open.get_or_insert_default());
        open.created.push(row.created_ms);
        open.when.push(Time::When.stored(row).0);
        open.expires.push(row.expires_ms);
        open.keys.push(row.key_hash);
        if open.keys.len() > self.filter.capacity() {
            let mut filter = Filter::with_capacity(open.keys.len() * 2);
            open.keys.iter().for_each(|key| filter.insert(*key));
            self.filter = Arc::new(filter);
        } else {
            Arc::make_mut(&mut self.filter).insert(row.key_hash);
        }
    }

    /// Gives an entry another status; tells the cells before and after, if they differ.
    pub fn set_status(&mut self, ordinal: u32, status: u8) -> Option<(CellKey, CellKey)> {
        let before = self.cell(ordinal)?;
        if before.status == status || before.status == GONE {
            return None;
        }
        let after = CellKey { status, ..before };
        self.kept = false;
        let cells = Arc::make_mut(&mut self.cells);
        let (from, to) = (cells.number(before), cells.number(after));
        cells.take(from);
        cells.add(to);
        Arc::make_mut(&mut self.column).set(ordinal as usize, u64::from(to));
        Some((before, after))
    }

    /// Takes in the times that a change gave to one of the entries.
    pub fn change(&mut self, row: &ChangeRow) {
        self.when.change(Time::When.changed(row));
        self.expires.change(Time::Expires.changed(row));
        self.touched += 1;
        if row.status.is_none() {
            self.gone_since = self.gone_since.min(row.updated_ms);
        }
    }

    /// How far a time ranges.
    pub const fn range(&self, time: Time) -> Range {
        match time {
            Time::When => self.when,
            Time::Expires => self.expires,
        }
    }

    /// Ends the adding of entries: returns the blocks of what entries were stored with, and lets
    /// go of spare memory.
    pub fn seal(&mut self) -> Option<Vec<(Kind, Block)>> {
        let open = self.open.take()?;
        self.filter_kept = false;
        Arc::make_mut(&mut self.lsns).optimize();
        Arc::make_mut(&mut self.column).shrink();
        self.filter = Arc::new(Filter::sealed(&open.keys));
        Some(self.blocks(&open))
    }

    /// The blocks of what entries were stored with, as they are kept. A time that no entry has
    /// needs none.
    pub fn blocks(&self, open: &Open) -> Vec<(Kind, Block)> {
        let keys = open.keys.iter().copied().collect();
        let mut blocks = vec![
            (Kind::Created, Block::Column(Arc::new(self.created(open)))),
            (Kind::Keys, Block::Column(Arc::new(keys))),
        ];
        for time in Time::ALL.into_iter().filter(|time| self.range(*time).stored) {
            let times = Arc::new(Self::stored_times(time, open));
            blocks.push((time.stored_kind(), Block::Times(times)));
        }
        blocks
    }

    /// The created times, less the earliest.
    pub fn created(&self, open: &Open) -> Column {
        open.created.iter().map(|time| time.saturating_sub(self.created_min)).collect()
    }

    /// A time that the entries were stored with.
    pub fn stored_times(time: Time, open: &Open) -> Times {
        let times = match time {
            Time::When => &open.when,
            Time::Expires => &open.expires,
        };
        Times::new(0, times.iter().map(|time| Some(*time)))
    }

    /// Takes the blocks back, so that entries can be added again.
    pub fn reopen(&mut self, created: &Column, keys: &Column, when: &Times, expires: &Times) {
        let created = created.iter().map(|time| time.saturating_add(self.created_min));
        let all = |times: &Times| {
            (0..self.len()).map(|ordinal| times.get(ordinal).unwrap_or(TIME_NONE)).collect()
        };
        self.open = Some(Arc::new(Open {
            created: created.collect(),
            keys: keys.iter().collect(),
            when: all(when),
            expires: all(expires),
        }));
    }

    /// How much memory it takes.
    pub fn bytes(&self) -> usize {
        let open = self.open.as_ref().map_or(0, |open| {
            let columns = [&open.created, &open.keys, &open.when, &open.expires];
            columns.iter().map(|column| column.capacity() * size_of::<u64>()).sum()
        });
        SEGMENT_BYTES
            + self.lsns.serialized_size()
            + self.cells.list.len() * CELL_BYTES
            + self.column.bytes()
            + self.filter.bytes()
            + self.changed_in.len() * 16
            + open
    }

    /// Its bytes in the index, without the filter.
    pub fn encode(&self, terms: &Terms) -> Vec<u8> {
        let mut out = Vec::with_capacity(256 + self.column.bytes());
        let times = [self.created_min, self.created_max];
        let marks = [self.number, self.folded_lsn, self.changed_lsn, self.stamp];
        out.push(u8::from(self.cold));
        put_varint(&mut out, u64::from(self.generation));
        put_varint(&mut out, self.gone_since);
        marks.iter().chain(&times).for_each(|number| put_varint(&mut out, *number));
        self.when.encode(&mut out);
        self.expires.encode(&mut out);
        put_varint(&mut out, self.changed_in.len() as u64);
        self.changed_in.iter().for_each(|number| put_varint(&mut out, *number));
        put_varint(&mut out, self.cells.list.len() as u64);
        for (key, count) in self.cells.iter() {
            out.push(key.status);
            put_text(&mut out, &terms.text(key.domain));
            put_text(&mut out, &terms.text(key.failure_type));
            put_varint(&mut out, u64::from(count));
        }
        self.column.encode(&mut out);
        // Writing to a vector cannot fail, and a short block would not be taken back.
        let written = self.lsns.serialize_into(&mut out);
        if written.is_err() {
            out.clear();
        }
        out
    }

    /// The segment with these bytes; none unless its parts agree with each other.
    pub fn decode(bytes: &[u8], filter: Filter, terms: &mut Terms) -> Option<Self> {
        let mut bytes = Bytes::new(bytes);
        let cold = bytes.u8()? != 0;
        let generation = u32::try_from(bytes.varint()?).ok()?;
        let gone_since = bytes.varint()?;
        let mut segment = Self::new(bytes.varint()?, generation, bytes.varint()?);
        (segment.cold, segment.gone_since) = (cold, gone_since);
        (segment.changed_lsn, segment.stamp) = (bytes.varint()?, bytes.varint()?);
        (segment.created_min, segment.created_max) = (bytes.varint()?, bytes.varint()?);
        segment.when = Range::decode(&mut bytes)?;
        segment.expires = Range::decode(&mut bytes)?;
        let changed_in = (0..bytes.varint()?).map(|_| bytes.varint()).collect::<Option<_>>()?;
        segment.changed_in = Arc::new(changed_in);
        let mut cells = Cells::default();
        for _ in 0..bytes.varint()? {
            let status = bytes.u8()?;
            let domain = terms.number(bytes.text()?);
            let failure_type = terms.number(bytes.text()?);
            let number = cells.number(CellKey { status, domain, failure_type });
            let count = u32::try_from(bytes.varint()?).ok()?;
            cells.list.get_mut(number as usize)?.1 = count;
        }
        let column = Column::decode(&mut bytes)?;
        let lsns = RoaringTreemap::deserialize_from(bytes.rest()).ok()?;
        let mut counts = vec![0_u32; cells.list.len()];
        for number in column.iter() {
            *counts.get_mut(usize::try_from(number).ok()?)? += 1;
        }
        let counted = cells.iter().map(|(_, count)| count).eq(counts);
        let fits = counted && lsns.len() == column.len() as u64 && filter.fits(column.len());
        segment.lsns = Arc::new(lsns);
        segment.cells = Arc::new(cells);
        segment.column = Arc::new(column);
        segment.filter = Arc::new(filter);
        segment.open = None;
        (segment.kept, segment.filter_kept) = (true, true);
        fits.then_some(segment)
    }
}
