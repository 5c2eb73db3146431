//! Following the log: every durable entry, change and removal, in the order of their sequence numbers.

use std::collections::VecDeque;
use std::sync::Arc;

use super::read::entry_of;
use super::{Engine, Inner};
use crate::entry::{Cause, Entry, EntryId, State};
use crate::error::{Error, Result};
use crate::format::{self, ChangeBody, FormatError, Frame, Kind, SEGMENT_HEADER_LEN};
use crate::log::Item;

/// Records read ahead from one segment.
const READ_AHEAD: usize = 256;
/// Bytes after which no more records are read ahead, since a record may have 16 MiB.
const READ_AHEAD_BYTES: u64 = 1024 * 1024;

/// One durable fact.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TailItem {
    /// An entry was stored; it stands here as it was then, or, if its segment was rewritten since,
    /// with a newer state.
    Stored(Box<Entry>),
    /// An entry changed.
    Changed {
        /// The entry.
        id: EntryId,
        /// The sequence number of the change.
        lsn: u64,
        /// Its state from then on.
        state: Box<State>,
        /// Why it changed.
        cause: Cause,
    },
    /// An entry was removed.
    Removed {
        /// The entry.
        id: EntryId,
        /// The sequence number of the removal.
        lsn: u64,
        /// Why it was removed.
        cause: Cause,
    },
}

/// Walks the durable records in order. `None` means that nothing more is durable yet; asking
/// again later goes on. Damaged records are passed over, see [`Engine::warnings`].
///
/// Compaction folds changes into entries and lets go of what was removed. A follower that has passed
/// an entry is not told of a change that was folded before it came there; [`Engine::get`] tells how
/// the entry stands.
#[derive(Debug)]
pub struct Tail {
    inner: Arc<Inner>,
    next_lsn: u64,
    /// Number and generation of the segment that is read.
    segment: (u64, u32),
    offset: u64,
    ahead: VecDeque<Frame>,
}

impl TailItem {
    /// The sequence number of the fact.
    pub fn lsn(&self) -> u64 {
        match self {
            Self::Stored(entry) => entry.operation.id.0,
            Self::Changed { lsn, .. } | Self::Removed { lsn, .. } => *lsn,
        }
    }
}

impl Engine {
    /// Follows the log from a sequence number on (0 for all of it).
    ///
    /// # Errors
    ///
    /// [`Error::Closed`]. An item may be [`Error::Compressed`]; the walk goes on behind it.
    pub fn tail(&self, from_lsn: u64) -> Result<Tail> {
        self.inner.check_open()?;
        let inner = Arc::clone(&self.inner);
        let (offset, ahead) = (SEGMENT_HEADER_LEN, VecDeque::new());
        Ok(Tail { inner, next_lsn: from_lsn, segment: (0, 0), offset, ahead })
    }
}

impl Tail {
    /// Whether an item still says something: compaction leaves records of which nothing counts
    /// until their segment's turn comes.
    fn counts(&self, item: &TailItem) -> bool {
        match item {
            TailItem::Stored(_) => true,
            TailItem::Changed { id, lsn, .. } | TailItem::Removed { id, lsn, .. } => {
                self.inner.segments.counts(id.0, *lsn)
            }
        }
    }

    /// Reads some records ahead; false when nothing more is durable.
    fn read_ahead(&mut self) -> Result<bool> {
        self.inner.check_open()?;
        let segments = &self.inner.segments;
        let (at, generation) = self.segment;
        // What was read through stays behind, unless the place went into another segment since.
        let moved = segments.generation(at) != generation;
        let numbers = segments.numbers();
        let from = if moved || !numbers.contains(&at) { 0 } else { at };
        for number in numbers.into_iter().filter(|number| *number >= from) {
            self.read_segment(number)?;
            if !self.ahead.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn read_segment(&mut self, number: u64) -> Result<()> {
        let segments = &self.inner.segments;
        let old = segments.old(number);
        let passed = |last_lsn| last_lsn < self.next_lsn;
        if old.as_ref().and_then(|old| old.item).is_some_and(|item| passed(item.last_lsn)) {
            return Ok(());
        }
        let (file, end) = match &old {
            Some(old) => segments.open(old)?,
            None if segments.active_number() == number => segments.active_synced(),
            // It went into another one since; what it holds comes at the next look.
            None => return Ok(()),
        };
        let place = (number, file.header.generation);
        if self.segment != place {
            (self.segment, self.offset) = (place, SEGMENT_HEADER_LEN);
        }
        let (next_lsn, ahead) = (self.next_lsn, &mut self.ahead);
        let mut offset = self.offset;
        let mut bytes = 0;
        file.scan_while(self.offset, end, &mut |item| {
            match item {
                Item::Frame(frame) => {
                    offset = frame.end();
                    let wanted = matches!(frame.header.kind, Kind::Entry | Kind::Change);
                    if wanted && frame.header.lsn >= next_lsn {
                        bytes += frame.header.record_len();
                        ahead.push_back(frame);
                    }
                }
                Item::Hole { to, .. } => offset = to,
                Item::Tail { .. } => {}
            }
            Ok(ahead.len() < READ_AHEAD && bytes < READ_AHEAD_BYTES)
        })?;
        self.offset = offset;
        Ok(())
    }
}

impl Iterator for Tail {
    type Item = Result<TailItem>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            while let Some(frame) = self.ahead.pop_front() {
                self.next_lsn = frame.header.lsn.saturating_add(1);
                match item_of(&frame) {
                    Ok(item) if self.counts(&item) => return Some(Ok(item)),
                    Err(FormatError::Compressed) => {
                        return Some(Err(Error::compressed(frame.header.lsn)));
                    }
                    _ => {}
                }
            }
            match self.read_ahead() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

fn item_of(frame: &Frame) -> Result<TailItem, FormatError> {
    let lsn = frame.header.lsn;
    if frame.header.kind == Kind::Entry {
        let body = format::decode_body(frame)?;
        return Ok(TailItem::Stored(Box::new(entry_of(lsn, body))));
    }
    let ChangeBody { target, state, cause, .. } = format::decode_body(frame)?;
    let id = EntryId(target);
    if cause.removes() {
        return Ok(TailItem::Removed { id, lsn, cause });
    }
    Ok(TailItem::Changed { id, lsn, state: Box::new(state), cause })
}
