//! Settings that are maps, as text: `a=critical,b=low`.

use std::collections::BTreeMap;

use crate::entry::normalize_domain;

/// What separates the pairs, a name from its value, and the parts of a value.
const PAIR: char = ',';
const EQUALS: char = '=';
const PART: char = '|';

/// The name of a domain, as entries have it.
pub(in crate::config) fn domain(text: &str) -> Option<String> {
    normalize_domain(text)
}

/// Any name.
pub(super) fn name(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// Names between bars, at least one.
pub(super) fn names(text: &str) -> Option<Vec<String>> {
    text.split(PART).map(|part| name(part.trim())).collect()
}

pub(super) fn names_text(names: &[String]) -> String {
    names.join(&PART.to_string())
}

/// Reads a map; a name that stands twice is refused.
pub(in crate::config) fn read<V>(
    text: &str,
    key: fn(&str) -> Option<String>,
    value: impl Fn(&str) -> Option<V>,
) -> Option<BTreeMap<String, V>> {
    let mut map = BTreeMap::new();
    for pair in text.split(PAIR).map(str::trim).filter(|pair| !pair.is_empty()) {
        let (left, right) = pair.split_once(EQUALS)?;
        if right.contains(EQUALS) {
            return None;
        }
        let before = map.insert(key(left.trim())?, value(right.trim())?);
        if before.is_some() {
            return None;
        }
    }
    Some(map)
}

/// The text of a map, in the order of its names.
pub(in crate::config) fn write<V>(map: &BTreeMap<String, V>, value: fn(&V) -> String) -> String {
    let pairs = map.iter().map(|(key, it)| format!("{key}{EQUALS}{}", value(it)));
    pairs.collect::<Vec<_>>().join(&PAIR.to_string())
}
