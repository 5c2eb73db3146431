//! A time in three bytes: near enough that the record is seldom needed to judge it.
//!
//! It counts from the creation of its entry, as a float: exact below nine minutes, and behind
//! that with an error of less than four millionths.

use super::TIME_NONE;

/// Bits behind the leading one.
const MANTISSA_BITS: u32 = 18;
/// The leading one, which is not written.
const LEADING: u64 = 1 << MANTISSA_BITS;
/// The numbers below stand for no length of time.
const FIRST: u64 = 2;

/// The time that the first state of an entry hangs on, see [`super::ChangeRow::when_ms`], as far
/// as a row of three bytes can say it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct When(u32);

impl When {
    /// The row does not say: the record must be read.
    pub const UNKNOWN: Self = Self(0);
    /// There is no such time.
    pub const NONE: Self = Self(1);

    /// For a time that an entry of this creation hangs on; [`TIME_NONE`] is none. A time before
    /// the creation is not kept.
    pub fn of(created_ms: u64, when_ms: u64) -> Self {
        if when_ms == TIME_NONE {
            return Self::NONE;
        }
        let Some(length) = when_ms.checked_sub(created_ms) else { return Self::UNKNOWN };
        let shift = length.checked_ilog2().unwrap_or(0).saturating_sub(MANTISSA_BITS);
        let number = if length < LEADING {
            length
        } else {
            (u64::from(shift + 1) << MANTISSA_BITS) + (length >> shift) - LEADING
        };
        u32::try_from(FIRST + number).map_or(Self::UNKNOWN, Self)
    }

    /// The earliest and the latest time it may stand for; [`TIME_NONE`] twice when there is none.
    pub fn bounds(self, created_ms: u64) -> (u64, u64) {
        let Some(number) = u64::from(self.0).checked_sub(FIRST) else {
            return if self == Self::NONE { (TIME_NONE, TIME_NONE) } else { (0, TIME_NONE) };
        };
        let rest = number % LEADING;
        let (length, spread) = match u32::try_from(number >> MANTISSA_BITS) {
            Ok(0) | Err(_) => (rest, 0),
            Ok(exponent) => {
                let unit = 1_u64.checked_shl(exponent - 1).unwrap_or(0);
                ((LEADING + rest).saturating_mul(unit), unit.saturating_sub(1))
            }
        };
        let from = created_ms.saturating_add(length);
        (from, from.saturating_add(spread))
    }

    pub(super) const fn to_bytes(self) -> [u8; 3] {
        let [low, middle, high, _] = self.0.to_le_bytes();
        [low, middle, high]
    }

    pub(super) const fn from_bytes([low, middle, high]: [u8; 3]) -> Self {
        Self(u32::from_le_bytes([low, middle, high, 0]))
    }
}
