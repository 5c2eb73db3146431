//! The bytes of a file in RAM: sparse, in chunks that copies share until one of them writes.
//!
//! Invariants: a chunk that is missing reads as zeros; bytes of a chunk beyond the length are
//! zero. A clone costs one reference count, whatever the length.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Small enough that a write copies little, large enough that a segment has few chunks.
const CHUNK_BYTES: usize = 4096;
const CHUNK_LEN: u64 = CHUNK_BYTES as u64;

type Chunk = [u8; CHUNK_BYTES];

/// The content of one file.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    len: u64,
    chunks: Arc<BTreeMap<u64, Arc<Chunk>>>,
}

impl Content {
    /// The length in bytes.
    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    /// Reads what there is at the offset, up to the length of the buffer.
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> usize {
        let rest = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = buffer.len().min(rest);
        let mut at = offset;
        let mut left = buffer.get_mut(..len).unwrap_or_default();
        while !left.is_empty() {
            let (index, start) = position(at);
            let take = left.len().min(CHUNK_BYTES - start);
            let (head, tail) = std::mem::take(&mut left).split_at_mut(take);
            match self.chunks.get(&index).and_then(|chunk| chunk.get(start..start + take)) {
                Some(bytes) => head.copy_from_slice(bytes),
                None => head.fill(0),
            }
            left = tail;
            at += take as u64;
        }
        len
    }

    /// All bytes.
    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.len).unwrap_or_default()];
        self.read(&mut bytes, 0);
        bytes
    }

    /// Writes all bytes at the offset, extending the file as needed.
    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) {
        if !bytes.is_empty() {
            self.len = self.len.max(offset.saturating_add(bytes.len() as u64));
        }
        let mut at = offset;
        let mut left = bytes;
        while !left.is_empty() {
            let (index, start) = position(at);
            let (head, tail) = left.split_at(left.len().min(CHUNK_BYTES - start));
            self.write_chunk(index, start, head);
            left = tail;
            at += head.len() as u64;
        }
    }

    /// Cuts the file, or extends it with zeros.
    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            let (index, start) = position(len);
            let chunks = Arc::make_mut(&mut self.chunks);
            let mut cut = chunks.split_off(&index);
            if let Some(mut chunk) = cut.remove(&index).filter(|_| start > 0) {
                Arc::make_mut(&mut chunk).get_mut(start..).unwrap_or_default().fill(0);
                chunks.insert(index, chunk);
            }
        }
        self.len = len;
    }

    /// The first offset at or after this one that may hold a byte other than zero.
    pub(super) fn next_data(&self, offset: u64) -> Option<u64> {
        let (index, _) = position(offset);
        let (found, _) = self.chunks.range(index..).next()?;
        Some(offset.max(found * CHUNK_LEN)).filter(|at| *at < self.len)
    }

    /// Writes inside one chunk. Zeros over a hole leave the hole.
    fn write_chunk(&mut self, index: u64, start: usize, bytes: &[u8]) {
        if !self.chunks.contains_key(&index) && bytes.iter().all(|byte| *byte == 0) {
            return;
        }
        let chunks = Arc::make_mut(&mut self.chunks);
        let chunk = chunks.entry(index).or_insert_with(|| Arc::new([0; CHUNK_BYTES]));
        if let Some(target) = Arc::make_mut(chunk).get_mut(start..start + bytes.len()) {
            target.copy_from_slice(bytes);
        }
    }
}

/// The chunk of an offset, and the place in it.
fn position(offset: u64) -> (u64, usize) {
    // The remainder is below the chunk size, so it fits.
    (offset / CHUNK_LEN, usize::try_from(offset % CHUNK_LEN).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_was_written_across_chunks() {
        let mut content = Content::default();
        let bytes: Vec<u8> = (0..10_000_u32).map(|i| (i % 251) as u8).collect();
        content.write(&bytes, 3_000);
        let copy = content.clone();
        content.write(b"other", 5_000);
        assert_eq!(copy.to_vec()[3_000..], bytes[..]);
        assert_eq!(&content.to_vec()[5_000..5_005], b"other");
        assert!(content.to_vec()[..3_000].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn cut_and_extended_bytes_are_zero() {
        let mut content = Content::default();
        content.write(&[7; 9_000], 0);
        content.set_len(4_100);
        content.set_len(9_000);
        let bytes = content.to_vec();
        assert!(bytes[..4_100].iter().all(|byte| *byte == 7));
        assert!(bytes[4_100..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn next_data_skips_holes() {
        let mut content = Content::default();
        content.set_len(65_536);
        assert_eq!(content.next_data(0), None);
        content.write(b"x", 40_000);
        assert_eq!(content.next_data(0), Some(36_864));
        assert_eq!(content.next_data(40_500), Some(40_500));
        assert_eq!(content.next_data(41_000), None);
    }
}
