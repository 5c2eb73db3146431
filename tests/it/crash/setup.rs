//! The store that all crash tests use, and the choices that a seed makes.

use std::path::PathBuf;

use deadletter::{Background, Config, IndexKind, Limits, OverflowStrategy};

/// Where the store of every test stands on its simulated disk.
pub const DIR: &str = "/data/store";

/// The bound of the store's directory, far away unless a test takes most of it.
pub const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// The smallest store: small segments, no threads, the index in memory.
pub fn config() -> Config {
    let mut config = Config::new(PathBuf::from(DIR));
    config.segment_bytes = 64 * 1024;
    config.max_bytes = Some(MAX_BYTES);
    config.bounds.overflow_strategy = OverflowStrategy::Reject;
    config.index = IndexKind::Memory;
    config.background = Background::Manual;
    config.limits = Limits { request_data_max_bytes: 16 * 1024, field_max_bytes: 4096 };
    config
}

/// A small generator (`SplitMix64`): the same choices for the same seed.
#[derive(Debug, Clone)]
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % (bound.max(1) as u64)).unwrap()
    }

    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}
