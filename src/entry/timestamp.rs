//! A point in time, as milliseconds on disk and as RFC 3339 text for people.
//!
//! The calendar is the proleptic Gregorian one, by the formulas `civil_from_days` and
//! `days_from_civil` of Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", which
//! count years from March so that a leap day is the last day of its year.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};

/// The milliseconds of a day.
pub(crate) const DAY_MS: u64 = 86_400_000;
/// The days from 0000-03-01 to 1970-01-01.
const DAYS_BEFORE_1970: u64 = 719_468;
/// The days of 400 years, after which the calendar repeats.
const ERA_DAYS: u64 = 146_097;
const BOUND: &str =
    "an RFC 3339 time from 1970 to 9999 with an offset, such as 2026-11-23T20:33:57.123Z";

/// Milliseconds since 1970-01-01T00:00:00Z, without leap seconds.
///
/// # Example
///
/// ```
/// let time: deadletter::Timestamp = "2026-11-23T21:33:57.1234+01:00".parse()?;
/// assert_eq!(time.to_string(), "2026-11-23T20:33:57.123Z");
/// # Ok::<(), deadletter::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The last time that has a text: the end of the year 9999.
    pub const MAX: Self = Self(253_402_300_799_999);

    /// So many milliseconds later, at most the last time that has a text.
    pub(crate) fn later(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms)).min(Self::MAX)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(self.0 / DAY_MS);
        let (second, milli) = (self.0 % DAY_MS / 1000, self.0 % 1000);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let text =
            format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z");
        f.pad(&text)
    }
}

impl FromStr for Timestamp {
    type Err = Error;

    /// Reads an RFC 3339 text. Digits behind the millisecond are dropped, and a leap second is
    /// the second before it.
    fn from_str(text: &str) -> Result<Self> {
        parse(text).ok_or_else(|| Error::invalid("time", text, BOUND))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_u64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
            text.parse().map_err(serde::de::Error::custom)
        } else {
            u64::deserialize(deserializer).map(Self)
        }
    }
}

fn parse(text: &str) -> Option<Timestamp> {
    let rest = &mut text.as_bytes();
    let year = number(rest, 4)?;
    literal(rest, b"-")?;
    let month = number(rest, 2).filter(|month| (1..=12).contains(month))?;
    literal(rest, b"-")?;
    let day = number(rest, 2).filter(|day| (1..=days_in_month(year, month)).contains(day))?;
    literal(rest, b"Tt ")?;
    let hour = number(rest, 2).filter(|hour| *hour < 24)?;
    literal(rest, b":")?;
    let minute = number(rest, 2).filter(|minute| *minute < 60)?;
    literal(rest, b":")?;
    let second = number(rest, 2).filter(|second| *second <= 60)?.min(59);
    let milli = if literal(rest, b".").is_some() { fraction(rest)? } else { 0 };
    let offset_ms = offset_ms(rest)?;
    if !rest.is_empty() {
        return None;
    }
    // Counted from the year 0, so that only the offset has a sign.
    let local_ms =
        days_from_civil(year, month, day) * DAY_MS + ((hour * 60 + minute) * 60 + second) * 1000;
    let utc_ms = (local_ms + milli).checked_add_signed(-offset_ms)?;
    let time = Timestamp(utc_ms.checked_sub(DAYS_BEFORE_1970 * DAY_MS)?);
    (time <= Timestamp::MAX).then_some(time)
}

/// Takes exactly so many digits.
fn number(rest: &mut &[u8], digits: usize) -> Option<u64> {
    let (taken, behind) = rest.split_at_checked(digits)?;
    *rest = behind;
    taken.iter().try_fold(0, |number, byte| {
        byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0'))
    })
}

/// Takes one of these bytes.
fn literal(rest: &mut &[u8], wanted: &[u8]) -> Option<u8> {
    let (first, behind) = rest.split_first()?;
    wanted.contains(first).then(|| {
        *rest = behind;
        *first
    })
}

/// Takes the digits of a fraction, as milliseconds.
fn fraction(rest: &mut &[u8]) -> Option<u64> {
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (taken, behind) = rest.split_at_checked(digits).filter(|(taken, _)| !taken.is_empty())?;
    *rest = behind;
    let mut milli = 0;
    for place in 0..3 {
        milli = milli * 10 + taken.get(place).map_or(0, |byte| u64::from(byte - b'0'));
    }
    Some(milli)
}

/// Takes `Z` or an offset such as `+01:00`.
fn offset_ms(rest: &mut &[u8]) -> Option<i64> {
    let sign = match literal(rest, b"Zz+-")? {
        b'+' => 1,
        b'-' => -1,
        _ => return Some(0),
    };
    let hour = number(rest, 2).filter(|hour| *hour < 24)?;
    literal(rest, b":")?;
    let minute = number(rest, 2).filter(|minute| *minute < 60)?;
    Some(sign * i64::try_from((hour * 60 + minute) * 60_000).ok()?)
}

fn days_in_month(year: u64, month: u64) -> u64 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The year, month and day of a day counted from 1970-01-01.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + DAYS_BEFORE_1970;
    let era = days / ERA_DAYS;
    let day_of_era = days % ERA_DAYS;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// The days from 0000-03-01 to a date; the two months before it count as that day.
fn days_from_civil(year: u64, month: u64, day: u64) -> u64 {
    let Some(year) = year.checked_sub(u64::from(month <= 2)) else { return 0 };
    let year_of_era = year % 400;
    let march_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * march_month + 2) / 5 + day - 1;
    year / 400 * ERA_DAYS + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_values() {
        for (text, ms) in [
            ("1970-01-01T00:00:00.000Z", 0),
            ("2000-02-29T12:34:56.789Z", 951_827_696_789),
            ("2001-09-09T01:46:40.000Z", 1_000_000_000_000),
            ("2038-01-19T03:14:08.000Z", 2_147_483_648_000),
            ("2100-03-01T00:00:00.000Z", 4_107_542_400_000),
            ("9999-12-31T23:59:59.999Z", Timestamp::MAX.0),
        ] {
            assert_eq!(Timestamp(ms).to_string(), text);
            assert_eq!(text.parse::<Timestamp>().unwrap(), Timestamp(ms));
        }
        assert!(!Timestamp(u64::MAX).to_string().is_empty());
    }

    #[test]
    fn offsets_fractions_and_small_letters() {
        for text in [
            "2001-09-09T01:46:40Z",
            "2001-09-09t01:46:40z",
            "2001-09-09 01:46:40.0Z",
            "2001-09-09T01:46:40.000999999999999999999999Z",
            "2001-09-09T03:46:40+02:00",
            "2001-09-08T19:46:40-06:00",
            "2001-09-09T07:31:40.0+05:45",
        ] {
            assert_eq!(text.parse::<Timestamp>().unwrap(), Timestamp(1_000_000_000_000), "{text}");
        }
        assert_eq!("1969-12-31T23:00:00.5-01:00".parse::<Timestamp>().unwrap(), Timestamp(500));
        let leap = "2016-12-31T23:59:60Z".parse::<Timestamp>().unwrap();
        assert_eq!(leap.to_string(), "2016-12-31T23:59:59.000Z");
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "now",
            "2001-09-09",
            "2001-09-09T01:46Z",
            "2001-09-09T01:46:40",
            "2001-09-09T01:46:40.Z",
            "2001-09-09T01:46:40Z ",
            "2001-09-09T01:46:40+0200",
            "2001-09-09T01:46:40+24:00",
            "2001-02-29T00:00:00Z",
            "2100-02-29T00:00:00Z",
            "2001-00-01T00:00:00Z",
            "2001-13-01T00:00:00Z",
            "2001-01-00T00:00:00Z",
            "2001-01-01T24:00:00Z",
            "2001-01-01T00:00:61Z",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+00:01",
            "0000-01-01T00:00:00Z",
            "9999-12-31T23:59:59.999-00:01",
            "12001-01-01T00:00:00Z",
            "+001-01-01T00:00:00Z",
            "2001-09-09\u{ff34}01:46:40Z",
        ] {
            let refused = text.parse::<Timestamp>();
            assert!(matches!(refused, Err(Error::Invalid { .. })), "{text:?} gave {refused:?}");
        }
    }

    #[test]
    fn text_in_json_and_a_number_in_binary() {
        let time = Timestamp(1_000_000_000_123);
        let json = serde_json::to_string(&time).unwrap();
        assert_eq!(json, "\"2001-09-09T01:46:40.123Z\"");
        assert_eq!(serde_json::from_str::<Timestamp>(&json).unwrap(), time);
        let bytes = bincode::serialize(&time).unwrap();
        assert_eq!(bytes, time.0.to_le_bytes());
        assert_eq!(bincode::deserialize::<Timestamp>(&bytes).unwrap(), time);
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut date = (1970, 1, 1);
        for days in 0..Timestamp::MAX.0 / DAY_MS {
            assert_eq!(civil_from_days(days), date);
            let (year, month, day) = date;
            assert_eq!(days_from_civil(year, month, day), days + DAYS_BEFORE_1970);
            date = if day < days_in_month(year, month) {
                (year, month, day + 1)
            } else if month < 12 {
                (year, month + 1, 1)
            } else {
                (year + 1, 1, 1)
            };
        }
    }

    proptest! {
        #[test]
        fn text_gives_back_the_time(ms in 0..=Timestamp::MAX.0) {
            let time = Timestamp(ms);
            prop_assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}") {
            if let Ok(time) = text.parse::<Timestamp>() {
                prop_assert!(time <= Timestamp::MAX);
            }
        }
    }
}
