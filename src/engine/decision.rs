//! What a change of many entries decides, and what became of each.

use std::collections::BTreeMap;

use crate::entry::{Cause, Entry, State};

/// What is to become of an entry.
#[derive(Debug)]
pub enum Decision {
    /// Nothing.
    Keep,
    /// It gets this state, for this reason.
    Change(Box<State>, Cause),
    /// It goes, for this reason.
    Remove(Cause),
}

/// What became of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// There is none.
    Missing,
    /// It is as it was.
    Kept(Box<Entry>),
    /// It is like this now.
    Changed(Box<Entry>),
    /// It is gone; it was like this.
    Removed(Box<Entry>),
}

/// How many records were ever written for one domain and failure type, by cause.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TallyRow {
    /// The domain.
    pub domain: String,
    /// The failure type.
    pub failure_type: String,
    /// How many, by cause; none is 0.
    pub counts: BTreeMap<Cause, u64>,
}
