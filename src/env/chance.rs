//! The clock that a test moves, and randomness that a seed decides.

use std::time::Duration;

/// Where the wall clock of a test starts, in milliseconds since 1970: 14 November 2023.
const WALL_START_MS: u64 = 1_700_000_000_000;

/// A clock that stands still until somebody moves it.
#[derive(Debug, Clone)]
pub(super) struct Clock {
    wall: Duration,
    monotonic: Duration,
}

impl Clock {
    pub(super) const fn new() -> Self {
        Self { wall: Duration::from_millis(WALL_START_MS), monotonic: Duration::ZERO }
    }

    /// Moves both clocks.
    pub(super) const fn advance(&mut self, duration: Duration) {
        self.wall = self.wall.saturating_add(duration);
        self.monotonic = self.monotonic.saturating_add(duration);
    }

    /// Sets the wall clock alone, as an administrator would.
    pub(super) const fn set_wall_ms(&mut self, wall_ms: u64) {
        self.wall = Duration::from_millis(wall_ms);
    }

    pub(super) fn wall_ms(&self) -> u64 {
        u64::try_from(self.wall.as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn monotonic_ms(&self) -> u64 {
        u64::try_from(self.monotonic.as_millis()).unwrap_or(u64::MAX)
    }
}

/// A small generator (`SplitMix64`): good enough to choose, and the same for the same seed.
#[derive(Debug, Clone)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below the bound; 0 when the bound is 0.
    pub(super) const fn below(&mut self, bound: u64) -> u64 {
        let value = self.next();
        if bound == 0 { 0 } else { value % bound }
    }

    /// Heads or tails.
    pub(super) const fn coin(&mut self) -> bool {
        self.next() >> 63 == 1
    }

    pub(super) fn fill(&mut self, buffer: &mut [u8]) {
        for part in buffer.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            for (target, byte) in part.iter_mut().zip(bytes) {
                *target = byte;
            }
        }
    }
}

/// Spreads every bit of the value over all bits of the answer.
pub(super) const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
