//! The key filter of one segment: a blocked Bloom filter over the hashes of its keys.
//!
//! Invariant: a key that was inserted is always found; one that was not is found about once in
//! five hundred times, so a hit must be confirmed.

use super::postings::{Bytes, put_u32};

/// Bits a key costs, at most twice that right after the filter grew.
const KEY_BITS: usize = 16;
/// Words of one block: a cache line, so that a lookup touches one.
const BLOCK_WORDS: usize = 8;
/// Bits set for a key.
const PROBES: u32 = 6;
/// Blocks of the smallest filter.
const BLOCKS_MIN: usize = 2;

/// The filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    words: Vec<u64>,
}

impl Filter {
    /// A filter for this many keys.
    pub fn with_capacity(keys: usize) -> Self {
        let blocks = (keys * KEY_BITS).div_ceil(BLOCK_WORDS * 64).max(BLOCKS_MIN);
        Self { words: vec![0; blocks * BLOCK_WORDS] }
    }

    /// A filter that holds exactly these keys.
    pub fn of(keys: impl ExactSizeIterator<Item = u64>) -> Self {
        let mut filter = Self::with_capacity(keys.len());
        keys.for_each(|key| filter.insert(key));
        filter
    }

    /// How many keys fit before the error rate rises.
    pub fn capacity(&self) -> usize {
        self.words.len() * 64 / KEY_BITS
    }

    /// Adds a key.
    pub fn insert(&mut self, hash: u64) {
        let (block, mut bits) = self.probe(hash);
        if let Some(words) = self.words.get_mut(block..block + BLOCK_WORDS) {
            for _ in 0..PROBES {
                if let Some(word) = words.get_mut((bits >> 6) as usize & (BLOCK_WORDS - 1)) {
                    *word |= 1 << (bits & 63);
                }
                bits >>= 9;
            }
        }
    }

    /// Whether a key may be there.
    pub fn contains(&self, hash: u64) -> bool {
        let (block, mut bits) = self.probe(hash);
        let Some(words) = self.words.get(block..block + BLOCK_WORDS) else { return true };
        (0..PROBES).all(|_| {
            let word = words.get((bits >> 6) as usize & (BLOCK_WORDS - 1)).copied().unwrap_or(0);
            let set = word & (1 << (bits & 63)) != 0;
            bits >>= 9;
            set
        })
    }

    /// How much memory it takes.
    pub fn bytes(&self) -> usize {
        self.words.capacity() * 8
    }

    /// Its bytes in the index.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + self.words.len() * 8);
        put_u32(&mut out, u32::try_from(self.words.len()).unwrap_or(u32::MAX));
        self.words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
        out
    }

    /// The filter with these bytes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut bytes = Bytes::new(bytes);
        let count = bytes.u32()? as usize;
        let (words, rest) = bytes.take(count.checked_mul(8)?)?.as_chunks::<8>();
        let fits = rest.is_empty() && bytes.is_empty();
        let whole = count >= BLOCK_WORDS && count.is_multiple_of(BLOCK_WORDS);
        (fits && whole)
            .then(|| Self { words: words.iter().map(|word| u64::from_le_bytes(*word)).collect() })
    }

    /// The first word of the block, and the bits to take nine at a time.
    fn probe(&self, hash: u64) -> (usize, u64) {
        // The caller's hash may be weak in some bits; one round of mixing spreads them.
        let mut mixed = hash ^ (hash >> 32);
        mixed = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^= mixed >> 29;
        let bits = mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let blocks = (self.words.len() / BLOCK_WORDS) as u128;
        let block = (u128::from(mixed) * blocks) >> 64;
        (usize::try_from(block).unwrap_or(0) * BLOCK_WORDS, bits ^ (bits >> 31))
    }
}
