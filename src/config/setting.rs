//! A table of settings: one row says name, default, bounds and help, and carries text into a field
//! and back. The tables of `Config` and `DlqConfig` are made of it.

use std::str::FromStr;

use crate::error::{Error, Result};

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;

/// One row of a table of settings.
#[derive(Debug)]
#[non_exhaustive]
pub struct Setting<C: 'static = super::Config> {
    /// The name by which it is set.
    pub name: &'static str,
    /// The default, in the form in which it is set.
    pub default: &'static str,
    /// What is accepted.
    pub bounds: &'static str,
    /// What moves when it is changed, in one sentence.
    pub help: &'static str,
    pub(super) write: fn(&mut C, &str) -> Option<()>,
    pub(super) read: fn(&C) -> String,
}

/// A row for a field whose value is set by what the reader makes of the text, and shown by what
/// the writer makes of the value.
macro_rules! setting {
    (
        $name:literal, $default:literal, $bounds:literal, $help:literal,
        $reader:expr, $($field:ident).+
    ) => {
        setting!($name, $default, $bounds, $help, $reader, ToString::to_string, $($field).+)
    };
    (
        $name:literal, $default:literal, $bounds:literal, $help:literal,
        $reader:expr, $writer:expr, $($field:ident).+
    ) => {
        $crate::config::Setting {
            name: $name,
            default: $default,
            bounds: $bounds,
            help: $help,
            write: |config, text| {
                config.$($field).+ = ($reader)(text)?;
                Some(())
            },
            read: |config| ($writer)(&config.$($field).+),
        }
    };
}
pub(super) use setting;

/// The row with this name.
pub(super) fn find<C>(table: &'static [Setting<C>], name: &str) -> Result<&'static Setting<C>> {
    table.iter().find(|setting| setting.name == name).ok_or_else(|| {
        let names: Vec<_> = table.iter().map(|setting| setting.name).collect();
        Error::invalid(name, "not a setting", format!("one of {}", names.join(", ")))
    })
}

impl<C> Setting<C> {
    /// Sets the field; an error leaves it as it was.
    pub(super) fn set(&self, config: &mut C, value: &str) -> Result<()> {
        (self.write)(config, value).ok_or_else(|| Error::invalid(self.name, value, self.bounds))
    }
}

pub(super) fn word<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

/// A decimal number within its bounds.
pub(super) fn number(text: &str, min: u64, max: u64) -> Option<u64> {
    // The standard library would let a plus sign pass.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| digits)?;
    (min..=max).contains(&number).then_some(number)
}

/// A small decimal number within its bounds.
pub(super) fn small(text: &str, min: u32, max: u32) -> Option<u32> {
    number(text, min.into(), max.into()).and_then(|number| u32::try_from(number).ok())
}

/// A share, from 0 to 1, in decimal digits.
pub(super) fn share(text: &str) -> Option<f64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let share = text.parse().ok().filter(|_| digits)?;
    (0.0..=1.0).contains(&share).then_some(share)
}

/// Seconds with at most three decimals, as milliseconds.
pub(super) fn seconds(text: &str, min_ms: u64, max_ms: u64) -> Option<u64> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let whole = number(whole, 0, max_ms / 1000)?;
    let millis = number(&format!("{decimals:0<3}"), 0, 999)?;
    let total = whole * 1000 + millis;
    let exact = (1..=3).contains(&decimals.len());
    (exact && (min_ms..=max_ms).contains(&total)).then_some(total)
}

/// Milliseconds as seconds.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "rows give the field to their writer")]
pub(super) fn seconds_text(millis: &u64) -> String {
    let text = format!("{}.{:03}", millis / 1000, millis % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A number of bytes within its bounds, perhaps in a larger unit.
pub(super) fn size(text: &str, min: u64, max: u64) -> Option<u64> {
    let units = [("KiB", KIB), ("MiB", MIB), ("GiB", GIB)];
    let split = |(unit, bytes)| text.strip_suffix(unit).map(|digits: &str| (digits.trim(), bytes));
    let (digits, unit) = units.into_iter().find_map(split).unwrap_or((text, 1));
    let bytes = number(digits, 0, u64::MAX)?.checked_mul(unit)?;
    (min..=max).contains(&bytes).then_some(bytes)
}

/// What may be empty for none.
#[expect(clippy::option_option, reason = "none is a value, and a bad text has no value")]
pub(super) fn optional<T>(text: &str, read: impl Fn(&str) -> Option<T>) -> Option<Option<T>> {
    if text.is_empty() { Some(None) } else { read(text).map(Some) }
}

/// A value, or the empty text for none.
#[expect(clippy::ref_option, reason = "rows give the field to their writer")]
pub(super) fn optional_text<T: ToString>(value: &Option<T>) -> String {
    value.as_ref().map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, wanted) in [
            ("1", Some(1)),
            ("1KiB", Some(1024)),
            ("3 MiB", Some(3 << 20)),
            ("1 GiB", Some(1 << 30)),
            ("1 KB", None),
            ("KiB", None),
            ("1.5 MiB", None),
            ("99999999999999999 GiB", None),
        ] {
            assert_eq!(size(text, 0, u64::MAX), wanted, "{text}");
        }
    }

    #[test]
    fn shares_are_plain_decimals() {
        for (text, wanted) in
            [("0.25", Some(0.25)), ("1", Some(1.0)), ("1e-1", None), ("NaN", None), ("-0", None)]
        {
            assert_eq!(share(text), wanted, "{text}");
        }
    }
}
