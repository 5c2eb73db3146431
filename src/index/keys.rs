//! The key filter of one segment: which keys may be there.
//!
//! While a segment grows, it is a blocked Bloom filter over the hashes of the keys; once sealed,
//! fingerprints in buckets, which err ten times less for a quarter more memory. In a large store
//! a key is asked of hundreds of segments, and each error costs a column.
//!
//! Invariant: a key that was inserted is always found. One that was not is found about once in
//! eight hundred times while the segment grows, and once in eight thousand times after; so a hit
//! must be confirmed.

use super::postings::{Bytes, Column, put_u32};

/// Bits a key costs in a Bloom filter, at most twice that right after it grew.
const KEY_BITS: usize = 16;
/// Words of one block: a cache line, so that a lookup touches one.
const BLOCK_WORDS: usize = 8;
/// Bits set for a key.
const PROBES: u32 = 6;
/// Blocks of the smallest filter.
const BLOCKS_MIN: usize = 2;
/// Keys of a bucket, on average.
const BUCKET_KEYS: usize = 8;

/// The filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// A Bloom filter, by words.
    Growing(Vec<u64>),
    /// Fingerprints by bucket; takes no more keys.
    Sealed {
        /// Where each bucket begins, and the end.
        starts: Vec<u32>,
        /// The fingerprints.
        prints: Vec<u16>,
    },
}

impl Filter {
    /// An empty filter for this many keys.
    pub fn with_capacity(keys: usize) -> Self {
        let blocks = (keys * KEY_BITS).div_ceil(BLOCK_WORDS * 64).max(BLOCKS_MIN);
        Self::Growing(vec![0; blocks * BLOCK_WORDS])
    }

    /// A sealed filter that holds exactly these keys.
    pub fn sealed(keys: &[u64]) -> Self {
        let buckets = keys.len().div_ceil(BUCKET_KEYS).max(1);
        let mut placed: Vec<(usize, u16)> = keys.iter().map(|key| place(*key, buckets)).collect();
        placed.sort_unstable();
        let mut starts = Vec::with_capacity(buckets + 1);
        let mut prints = Vec::with_capacity(placed.len());
        for (bucket, print) in placed {
            while starts.len() <= bucket {
                starts.push(u32::try_from(prints.len()).unwrap_or(u32::MAX));
            }
            prints.push(print);
        }
        starts.resize(buckets + 1, u32::try_from(prints.len()).unwrap_or(u32::MAX));
        Self::Sealed { starts, prints }
    }

    /// How many keys it takes before the error rate rises.
    pub fn capacity(&self) -> usize {
        match self {
            Self::Growing(words) => words.len() * 64 / KEY_BITS,
            Self::Sealed { .. } => 0,
        }
    }

    /// Whether it may be the filter of a segment of this many keys.
    pub fn fits(&self, keys: usize) -> bool {
        match self {
            Self::Growing(_) => self.capacity() >= keys,
            Self::Sealed { prints, .. } => prints.len() == keys,
        }
    }

    /// Adds a key; a sealed filter must be replaced first.
    pub fn insert(&mut self, hash: u64) {
        let Self::Growing(words) = self else { return };
        let (block, mut bits) = probe(hash, words.len() / BLOCK_WORDS);
        if let Some(words) = words.get_mut(block..block + BLOCK_WORDS) {
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
        match self {
            Self::Growing(words) => {
                let (block, mut bits) = probe(hash, words.len() / BLOCK_WORDS);
                let Some(words) = words.get(block..block + BLOCK_WORDS) else { return true };
                (0..PROBES).all(|_| {
                    let word = words.get((bits >> 6) as usize & (BLOCK_WORDS - 1));
                    let set = word.is_none_or(|word| word & (1 << (bits & 63)) != 0);
                    bits >>= 9;
                    set
                })
            }
            Self::Sealed { starts, prints } => {
                let (bucket, print) = place(hash, starts.len().saturating_sub(1));
                let ends = (starts.get(bucket), starts.get(bucket + 1));
                let (Some(from), Some(to)) = ends else { return true };
                let bucket = prints.get(*from as usize..*to as usize);
                bucket.is_none_or(|bucket| bucket.contains(&print))
            }
        }
    }

    /// How much memory it takes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Growing(words) => words.capacity() * 8,
            Self::Sealed { starts, prints } => starts.capacity() * 4 + prints.capacity() * 2,
        }
    }

    /// Its bytes in the index.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.bytes());
        match self {
            Self::Growing(words) => {
                put_u32(&mut out, 0);
                words.iter().copied().collect::<Column>().encode(&mut out);
            }
            Self::Sealed { starts, prints } => {
                put_u32(&mut out, u32::try_from(starts.len()).unwrap_or(u32::MAX));
                starts.iter().for_each(|start| put_u32(&mut out, *start));
                prints.iter().for_each(|print| out.extend_from_slice(&print.to_le_bytes()));
            }
        }
        out
    }

    /// The filter with these bytes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut bytes = Bytes::new(bytes);
        let count = bytes.u32()? as usize;
        if count == 0 {
            let words: Vec<u64> = Column::decode(&mut bytes)?.iter().collect();
            let whole = !words.is_empty() && words.len().is_multiple_of(BLOCK_WORDS);
            return (whole && bytes.is_empty()).then_some(Self::Growing(words));
        }
        let starts = bytes.take(count.checked_mul(4)?)?.as_chunks::<4>().0;
        let starts: Vec<u32> = starts.iter().map(|start| u32::from_le_bytes(*start)).collect();
        let (prints, rest) = bytes.rest().as_chunks::<2>();
        let prints: Vec<u16> = prints.iter().map(|print| u16::from_le_bytes(*print)).collect();
        let ends = starts.last().copied()? as usize == prints.len();
        (count > 1 && ends && starts.is_sorted() && rest.is_empty())
            .then_some(Self::Sealed { starts, prints })
    }
}

/// The caller's hash may be weak in some bits; one round of mixing spreads them.
const fn mix(hash: u64) -> u64 {
    let mut mixed = hash ^ (hash >> 32);
    mixed = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

/// The first word of the block, and the bits to take nine at a time.
fn probe(hash: u64, blocks: usize) -> (usize, u64) {
    let mixed = mix(hash);
    let bits = mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (share(mixed, blocks) * BLOCK_WORDS, bits ^ (bits >> 31))
}

/// The bucket, and the fingerprint.
fn place(hash: u64, buckets: usize) -> (usize, u16) {
    let mixed = mix(hash);
    let print = mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 48;
    (share(mixed, buckets), u16::try_from(print).unwrap_or(0))
}

/// Maps a number evenly to one below `count`.
fn share(number: u64, count: usize) -> usize {
    usize::try_from((u128::from(number) * count as u128) >> 64).unwrap_or(0)
}
