//! Counts that need no scan: how many records of each cause were ever written.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::Engine;
use crate::entry::Cause;
use crate::error::Result;

/// How many records of each cause were ever written for one domain and failure type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TallyRow {
    /// The domain.
    pub domain: String,
    /// The failure type.
    pub failure_type: String,
    /// Records by cause, in JSON by its name; one that was never written is absent.
    #[serde(serialize_with = "by_name")]
    pub counts: BTreeMap<Cause, u64>,
}

impl Engine {
    /// How many records of each cause were ever written, by domain and failure type, in that
    /// order. It costs no scan, and is exact after any crash.
    ///
    /// The first 64 pairs of domain and failure type are counted by name; all others, and those
    /// with a text of more than 64 bytes, together as `other_domain` and `other`. So are entries
    /// whose record damage took before it was counted, and all records of a log that was written
    /// before there were counts; of such a log, changes are not counted.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`](crate::Error::Closed).
    pub fn tallies(&self) -> Result<Vec<TallyRow>> {
        self.inner.check_open()?;
        let rows = self.inner.feed.tallies().into_iter().map(|tally| {
            // A cause of a later version has no name here.
            let known = |(cause, records)| Some((Cause::from_number(cause)?, records));
            let counts = tally.counts.into_iter().filter_map(known).collect();
            TallyRow { domain: tally.domain, failure_type: tally.failure_type, counts }
        });
        Ok(rows.collect())
    }
}

fn by_name<S: Serializer>(counts: &BTreeMap<Cause, u64>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(counts.iter().map(|(cause, records)| (cause.as_str(), records)))
}
