//! A read-only map of a sealed segment: the one file with `unsafe`.
//!
//! Invariants: only files that nobody cuts or rewrites are mapped, see [`Mapped::new`].
#![expect(
    unsafe_code,
    reason = "a memory map cannot be made without; this file argues why it holds"
)]

use std::fmt;
use std::fs;
use std::io;
use std::ops::Deref;

/// The bytes of a whole file, mapped for reading.
///
/// Mapping is opt-in: [`super::File::map`] may be called for a sealed segment only. Reading a
/// map whose file sits on failing media ends the process with a signal instead of an error, so
/// a caller that must survive that reads with [`super::File::read_at`].
pub struct Mapped(memmap2::Mmap);

impl Mapped {
    /// Maps a file that stays as it is for as long as the map lives.
    pub(super) fn new(file: &fs::File) -> io::Result<Self> {
        // SAFETY: The bytes behind a shared reference must not change and must stay readable.
        // A sealed segment is never written, cut or extended again by this library: the writer
        // drops its handle when it seals, compaction writes new files and unlinks old ones, and
        // an unlinked file stays whole until the last map of it is gone. The directory has mode
        // 0700 and the file 0600, so only a process of the same user could break this, against
        // the documented rule that the data directory belongs to the library alone.
        let map = unsafe { memmap2::Mmap::map(file) }?;
        Ok(Self(map))
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Mapped {
    /// Prints the length only: the bytes may be personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapped").field("len", &self.0.len()).finish()
    }
}
