//! The index: which entries exist, where they stand and where their newest change is.
//!
//! Everything here is derived from the summaries of the segments and may be thrown away. A small
//! part of each segment stays in memory ([`Catalog`]); the rest are blocks in a bounded cache,
//! kept in an [`Index`], and built again from the summaries when the index has lost them.

mod cache;
mod catalog;
mod keys;
mod load;
mod postings;
mod query;
mod ranked;
mod replace;
mod segment;
mod sled;
#[cfg(test)]
mod tests;
mod times;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::entry::Status;
use crate::error::Result;
use crate::format::{Position, Summary};

pub use catalog::Catalog;
pub use ranked::Standing;
pub use replace::{Liveness, Newest, Wear};
pub use sled::SledIndex;

/// Where derived blocks are kept. It may lose anything at any time: every value is checked by
/// whoever reads it.
pub trait Index: Send + Sync {
    /// The value of a key, or none when it is unknown or cannot be read.
    fn get(&self, key: &[u8]) -> Option<Vec<u8>>;
    /// Sets a value.
    ///
    /// # Errors
    /// When the store says so; the caller may ignore it outside of a checkpoint.
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()>;
    /// Removes a value.
    ///
    /// # Errors
    /// As [`Index::put`].
    fn remove(&self, key: &[u8]) -> Result<()>;
    /// Makes everything put so far durable.
    ///
    /// # Errors
    /// As [`Index::put`].
    fn sync(&self) -> Result<()>;
    /// Removes everything.
    ///
    /// # Errors
    /// As [`Index::put`]; then the store is off and gives nothing back.
    fn clear(&self) -> Result<()>;
    /// Forgets everything for good and frees its space on the disk. False when it has none.
    fn give_up(&self) -> bool {
        false
    }
}

/// Where summaries come from: footers, or a scan. It gives the current rows of the active
/// segment too, and has a row before [`Catalog::stored`] or [`Catalog::changed`] is told of it.
pub trait Source: Send + Sync {
    /// The numbers of all segments, rising.
    fn segments(&self) -> Vec<u64>;
    /// The generation of one segment.
    fn generation(&self, segment: u64) -> u32;
    /// The summary of one segment.
    ///
    /// # Errors
    /// When it can be neither read nor gathered.
    fn summary(&self, segment: u64) -> Result<Arc<Summary>>;
}

/// Where an entry is and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// The segment that holds the entry.
    pub segment: u64,
    /// Its index among the entries of the segment.
    pub ordinal: u32,
    /// Where it stands.
    pub status: Status,
    /// The sequence number and place of its newest change, when there is one.
    pub change: Option<(u64, Position)>,
}

/// How many entries have this status, domain and failure type.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// The status.
    pub status: Status,
    /// The domain.
    pub domain: Arc<str>,
    /// The failure type.
    pub failure_type: Arc<str>,
    /// How many; never 0.
    pub count: u64,
}

/// What [`Catalog::load`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded {
    /// Whether the index store was taken as it was.
    pub reused: bool,
    /// How many entries there are.
    pub entries: u64,
    /// How many segments the source has.
    pub segments: u64,
}

/// The reference index: a map in memory.
#[derive(Debug, Default)]
pub struct MemIndex {
    /// Guards all keys and values.
    values: RwLock<HashMap<Vec<u8>, Vec<u8>>>,
}

impl Index for MemIndex {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.values.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let mut values = self.values.write().unwrap_or_else(PoisonError::into_inner);
        values.insert(key.to_vec(), value.to_vec());
        Ok(())
    }

    fn remove(&self, key: &[u8]) -> Result<()> {
        self.values.write().unwrap_or_else(PoisonError::into_inner).remove(key);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn clear(&self) -> Result<()> {
        self.values.write().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(())
    }
}
