//! How many records of each cause were ever written, by domain and failure type.
//!
//! Counts only grow, in the order of the log: the active segment goes on from those that its
//! segment set restates, so they are exact after any crash and need no scan. Invariants: at most
//! [`PAIRS_MAX`] pairs have their own name; each entry that was ever captured counts once as
//! stored.

use std::collections::BTreeMap;

use crate::entry::{Cause, OTHER_DOMAIN};
use crate::format::{Tally, Totals};

/// Pairs of domain and failure type that are counted by name. Every segment set restates all of
/// them, so they must stay few and small: together at most 24 KiB.
const PAIRS_MAX: usize = 64;
/// A longer domain or failure type is not counted by name, for the same reason.
const NAME_BYTES_MAX: usize = 64;
/// The failure type of all pairs without a name of their own; the domain is [`OTHER_DOMAIN`].
const OTHER_TYPE: &str = "other";

/// Records by the number of their cause.
type Counts = BTreeMap<u8, u64>;

/// The running counts of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tallies {
    /// By domain, then by failure type.
    pairs: BTreeMap<String, BTreeMap<String, Counts>>,
    /// How many pairs there are.
    len: usize,
}

impl Tallies {
    /// The counts that a segment set restates.
    pub fn of_list(list: &[Tally]) -> Self {
        let mut tallies = Self::default();
        for tally in list {
            for (cause, records) in &tally.counts {
                tallies.count(&tally.domain, &tally.failure_type, *cause, *records);
            }
        }
        tallies
    }

    /// All counts, sorted by domain and failure type.
    pub fn list(&self) -> Vec<Tally> {
        let pairs = self.pairs.iter().flat_map(|(domain, types)| {
            types.iter().map(move |(failure_type, counts)| Tally {
                domain: domain.clone(),
                failure_type: failure_type.clone(),
                counts: counts.iter().map(|(cause, records)| (*cause, *records)).collect(),
            })
        });
        pairs.collect()
    }

    /// Counts a record.
    pub fn add(&mut self, domain: &str, failure_type: &str, cause: Cause) {
        self.count(domain, failure_type, cause.into(), 1);
    }

    /// Adds the counts of records that follow those counted here.
    pub fn merge(&mut self, later: &Self) {
        for tally in later.list() {
            for (cause, records) in tally.counts {
                self.count(&tally.domain, &tally.failure_type, cause, records);
            }
        }
    }

    /// How many records of a cause were written, of all domains and failure types.
    pub fn sum(&self, cause: Cause) -> u64 {
        let number = u8::from(cause);
        let counts = self.pairs.values().flat_map(BTreeMap::values);
        counts.filter_map(|counts| counts.get(&number)).sum()
    }

    /// Entries that nobody could count by name are counted without: those that damage took
    /// before they were counted, and those that were stored before there were counts.
    pub fn balance(&mut self, captured: u64) {
        let missing = captured.saturating_sub(self.sum(Cause::Stored));
        if missing > 0 {
            self.count("", "", Cause::Stored.into(), missing);
        }
    }

    /// The same totals with as many removed entries as were counted here.
    pub fn removed(&self, totals: Totals) -> Totals {
        Totals {
            purged: self.sum(Cause::Purged) + self.sum(Cause::Deleted),
            evicted: self.sum(Cause::Evicted),
            ..totals
        }
    }

    fn count(&mut self, domain: &str, failure_type: &str, cause: u8, records: u64) {
        let fits = |name: &str| name.len() <= NAME_BYTES_MAX;
        let known = self.pairs.get(domain).is_some_and(|types| types.contains_key(failure_type));
        let named = !domain.is_empty()
            && fits(domain)
            && fits(failure_type)
            && (known || self.len < PAIRS_MAX);
        let (domain, failure_type) =
            if named { (domain, failure_type) } else { (OTHER_DOMAIN, OTHER_TYPE) };
        if let Some(counts) = self.pairs.get_mut(domain).and_then(|it| it.get_mut(failure_type)) {
            let count = counts.entry(cause).or_default();
            *count = count.saturating_add(records);
            return;
        }
        let is_other = (domain, failure_type) == (OTHER_DOMAIN, OTHER_TYPE);
        self.len += usize::from(!is_other);
        let types = self.pairs.entry(domain.to_owned()).or_default();
        types.insert(failure_type.to_owned(), BTreeMap::from([(cause, records)]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_beyond_the_bound_are_counted_together() {
        let mut tallies = Tallies::default();
        for number in 0..PAIRS_MAX + 3 {
            tallies.add(&format!("domain-{number}"), "TIMEOUT", Cause::Stored);
        }
        tallies.add("domain-1", "TIMEOUT", Cause::Stored);
        tallies.add(&"long".repeat(17), "TIMEOUT", Cause::Stored);
        tallies.add("domain-1", &"long".repeat(17), Cause::Evicted);
        let list = tallies.list();
        assert_eq!(list.len(), PAIRS_MAX + 1);
        let other = list.iter().find(|tally| tally.failure_type == OTHER_TYPE).unwrap();
        assert_eq!(other.domain, OTHER_DOMAIN);
        assert_eq!(other.counts, [(1, 4), (23, 1)]);
        assert_eq!(tallies.sum(Cause::Stored), PAIRS_MAX as u64 + 5);
        assert_eq!(Tallies::of_list(&list), tallies);
    }

    #[test]
    fn entries_that_were_never_counted_balance_the_account() {
        let mut tallies = Tallies::default();
        tallies.add("mail", "TIMEOUT", Cause::Stored);
        tallies.add("mail", "TIMEOUT", Cause::Deleted);
        tallies.balance(3);
        tallies.balance(2);
        assert_eq!(tallies.sum(Cause::Stored), 3);
        let totals = tallies.removed(Totals { captured: 3, evicted: 7, ..Totals::default() });
        assert_eq!((totals.purged, totals.evicted), (1, 0));
    }
}
