//! Every byte on disk: file names, headers, records, footers, checkpoint slots. No I/O.

mod summary;

pub use summary::{ChangeRow, EntryRow, Summary, TIME_NONE};

/// Where a record is: a segment and an offset in it. Compaction changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The segment's number.
    pub segment: u64,
    /// The offset of the record's header.
    pub offset: u64,
}
