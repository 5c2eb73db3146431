//! Who stands where, without I/O: how many entries of each domain, and which come first by a rank
//! of the caller's.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use crate::entry::Status;

use super::Catalog;
use super::catalog::State;
use super::segment::{CellKey, Segment};

/// The place of an entry in an order, the lowest first; none when it is not meant.
pub type Rank<'a> = &'a dyn Fn(Status, &str) -> Option<u8>;

/// Where an entry stands, as far as the index knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The entry.
    pub lsn: u64,
    /// Its status.
    pub status: Status,
    /// Its domain.
    pub domain: Arc<str>,
    /// Its failure type.
    pub failure_type: Arc<str>,
}

impl Catalog {
    /// How many entries of each domain stand in a status that counts.
    pub fn count_by_domain(&self, counts: fn(Status) -> bool) -> BTreeMap<Arc<str>, u64> {
        let state = self.read();
        let mut sums: HashMap<u32, u64> = HashMap::new();
        for (key, count) in &state.totals {
            if Status::from_number(key.status).is_some_and(counts) {
                *sums.entry(key.domain).or_default() += count;
            }
        }
        sums.into_iter().map(|(domain, count)| (state.terms.text(domain), count)).collect()
    }

    /// Where an entry stands; none when there is no such entry.
    pub fn standing(&self, lsn: u64) -> Option<Standing> {
        let state = self.read();
        let segment = state.segments.get(&state.segment_of(lsn)?)?;
        let cell = segment.cell(segment.ordinal(lsn)?)?;
        state.standing(lsn, cell)
    }

    /// The first entries by rank, and by id within a rank; those to skip are passed over.
    pub fn first_by_rank(
        &self,
        ranks: Range<u8>,
        rank: Rank<'_>,
        skip: &dyn Fn(u64) -> bool,
        limit: usize,
    ) -> Vec<Standing> {
        let state = self.read();
        let ranked = state.totals.keys().filter_map(|key| {
            let domain = state.terms.text(key.domain);
            Some((*key, rank(Status::from_number(key.status)?, &domain)?))
        });
        let ranked: HashMap<CellKey, u8> = ranked.collect();
        let segments: Vec<Arc<Segment>> = state.segments.values().cloned().collect();
        drop(state);
        let mut found = Vec::new();
        for rank in ranks.filter(|rank| ranked.values().any(|known| known == rank)) {
            for segment in &segments {
                let wanted = |key: &CellKey| ranked.get(key) == Some(&rank);
                if found.len() >= limit {
                    break;
                }
                gather(segment, &wanted, skip, limit, &mut found);
            }
        }
        let state = self.read();
        found.into_iter().filter_map(|(lsn, cell)| state.standing(lsn, cell)).collect()
    }
}

impl State {
    fn standing(&self, lsn: u64, cell: CellKey) -> Option<Standing> {
        Some(Standing {
            lsn,
            status: Status::from_number(cell.status)?,
            domain: self.terms.text(cell.domain),
            failure_type: self.terms.text(cell.failure_type),
        })
    }
}

/// Adds the entries of a segment whose cell is wanted, oldest first.
fn gather(
    segment: &Segment,
    wanted: &dyn Fn(&CellKey) -> bool,
    skip: &dyn Fn(u64) -> bool,
    limit: usize,
    found: &mut Vec<(u64, CellKey)>,
) {
    let cells: Vec<Option<CellKey>> = segment
        .cells
        .iter()
        .map(|(key, count)| (count > 0 && wanted(&key)).then_some(key))
        .collect();
    if cells.iter().all(Option::is_none) {
        return;
    }
    for ordinal in 0..segment.len() {
        if found.len() >= limit {
            return;
        }
        let Some(number) = segment.column.get(ordinal as usize) else { continue };
        let cell = usize::try_from(number).ok().and_then(|number| cells.get(number));
        let Some(cell) = cell.copied().flatten() else { continue };
        let lsn = segment.lsns.select(u64::from(ordinal));
        found.extend(lsn.filter(|lsn| !skip(*lsn)).map(|lsn| (lsn, cell)));
    }
}
