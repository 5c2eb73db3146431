//! The cache of blocks: bounded by bytes, the least recently used goes first.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::postings::{Changes, Column, Kind};
use super::times::Times;

/// What a block costs beside its data.
const BLOCK_BYTES: usize = 160;

/// A block in memory.
#[derive(Debug, Clone)]
pub enum Block {
    /// Created times or key hashes.
    Column(Arc<Column>),
    /// Newest changes.
    Changes(Arc<Changes>),
    /// Times of entries.
    Times(Arc<Times>),
}

/// A block with its place.
pub type Placed = (Kind, u64, Block);

/// The cache.
#[derive(Debug)]
pub struct Cache {
    slots: HashMap<(Kind, u64), Slot>,
    /// The blocks by their last use.
    uses: BTreeMap<u64, (Kind, u64)>,
    clock: u64,
    bytes: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct Slot {
    block: Block,
    bytes: usize,
    used: u64,
    /// Whether the index has it too.
    kept: bool,
}

impl Block {
    fn bytes(&self) -> usize {
        BLOCK_BYTES
            + match self {
                Self::Column(column) => column.bytes(),
                Self::Changes(changes) => changes.bytes(),
                Self::Times(times) => times.bytes(),
            }
    }
}

impl Cache {
    /// An empty cache of at most this many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self { slots: HashMap::new(), uses: BTreeMap::new(), clock: 0, bytes: 0, bytes_max }
    }

    /// A block, which becomes the most recently used.
    pub fn get(&mut self, kind: Kind, segment: u64) -> Option<Block> {
        let slot = self.slots.get_mut(&(kind, segment))?;
        self.uses.remove(&slot.used);
        self.clock += 1;
        slot.used = self.clock;
        self.uses.insert(self.clock, (kind, segment));
        Some(slot.block.clone())
    }

    /// Adds or replaces a block and drops what no longer fits; returns what of that the index
    /// does not have.
    pub fn insert(&mut self, kind: Kind, segment: u64, block: Block, kept: bool) -> Vec<Placed> {
        self.remove(kind, segment);
        let bytes = block.bytes();
        self.clock += 1;
        self.uses.insert(self.clock, (kind, segment));
        self.slots.insert((kind, segment), Slot { block, bytes, used: self.clock, kept });
        self.bytes += bytes;
        let mut dropped = Vec::new();
        while self.bytes > self.bytes_max
            && let Some((_, (kind, segment))) =
                self.uses.first_key_value().map(|(used, at)| (*used, *at))
        {
            if let Some(slot) = self.remove(kind, segment)
                && !slot.kept
            {
                dropped.push((kind, segment, slot.block));
            }
        }
        dropped
    }

    /// The blocks that the index does not have.
    pub fn unkept(&self) -> Vec<Placed> {
        let slots = self.slots.iter().filter(|(_, slot)| !slot.kept);
        slots.map(|((kind, segment), slot)| (*kind, *segment, slot.block.clone())).collect()
    }

    /// Notes that the index has a block now.
    pub fn keep(&mut self, kind: Kind, segment: u64) {
        if let Some(slot) = self.slots.get_mut(&(kind, segment)) {
            slot.kept = true;
        }
    }

    /// Drops a block without keeping it.
    pub fn forget(&mut self, kind: Kind, segment: u64) {
        self.remove(kind, segment);
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        *self = Self::new(self.bytes_max);
    }

    /// How much memory the blocks take.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    fn remove(&mut self, kind: Kind, segment: u64) -> Option<Slot> {
        let slot = self.slots.remove(&(kind, segment))?;
        self.uses.remove(&slot.used);
        self.bytes -= slot.bytes;
        Some(slot)
    }
}
