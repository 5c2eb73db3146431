//! The questions: where an entry is, which entries match, how many, and who has a key.

use std::ops::Range;
use std::sync::Arc;

use crate::entry::{Filter, Order, Page};
use crate::error::Result;

use super::catalog::State;
use super::postings::{Column, Kind};
use super::segment::{GONE, Segment};
use super::{Catalog, Location, Source};

/// A filter with its terms as numbers.
struct Wanted {
    status: Option<u8>,
    domain: Option<u32>,
    failure_type: Option<u32>,
    /// Inclusive.
    created: Option<(u64, u64)>,
}

/// The matches of a filter in one segment, before times are looked at.
struct Matches {
    /// Which cells match, by number.
    cells: Vec<bool>,
    /// How many entries are in them.
    count: u64,
    /// The times to look at; none when all of the segment's fit.
    created: Option<(u64, u64)>,
}

impl Catalog {
    /// Where an entry is and where it stands; none when there is no such entry.
    ///
    /// # Errors
    /// When a summary is needed and cannot be read.
    pub fn locate(&self, source: &dyn Source, lsn: u64) -> Result<Option<Location>> {
        self.fold_if_full(source)?;
        let state = self.read();
        let Some((segment, ordinal, status)) = state.find(lsn) else { return Ok(None) };
        let overlay = state.overlays.get(&segment.number);
        let waiting = overlay.and_then(|changes| changes.get(&ordinal)).copied();
        drop(state);
        let change = match waiting {
            Some(change) => Some(change),
            None => self.changes(source, &segment)?.get(ordinal),
        };
        let change = change.map(|change| (change.lsn, change.position));
        Ok(Some(Location { segment: segment.number, ordinal, status, change }))
    }

    /// The entries that match, in the order of the page. A page behind the end is empty.
    ///
    /// # Errors
    /// When a summary is needed and cannot be read.
    pub fn select(&self, source: &dyn Source, filter: &Filter, page: Page) -> Result<Vec<u64>> {
        let mut ids = Vec::new();
        let Some((wanted, mut segments)) = self.wanted(filter) else { return Ok(ids) };
        if page.order == Order::Newest {
            segments.reverse();
        }
        let mut offset = page.offset;
        for segment in &segments {
            if ids.len() >= page.limit {
                break;
            }
            let ordinals = behind(segment, page);
            let Some(matches) = wanted.within(segment) else { continue };
            let whole = ordinals == (0..segment.len());
            if ordinals.is_empty()
                || (whole && matches.created.is_none() && take(&mut offset, matches.count))
            {
                continue;
            }
            let times = self.times(source, segment, &matches)?;
            let hit = |ordinal: &u32| matches.hit(segment, times.as_deref(), *ordinal);
            let room = page.limit - ids.len();
            let mut hits: Box<dyn Iterator<Item = u32>> = match page.order {
                Order::Newest => Box::new(ordinals.rev().filter(hit)),
                Order::Oldest => Box::new(ordinals.filter(hit)),
            };
            while offset > 0 && hits.next().is_some() {
                offset -= 1;
            }
            ids.extend(hits.take(room).filter_map(|at| segment.lsns.select(u64::from(at))));
        }
        Ok(ids)
    }

    /// How many entries match.
    ///
    /// # Errors
    /// When the filter names times, and a summary is needed and cannot be read.
    pub fn count(&self, source: &dyn Source, filter: &Filter) -> Result<u64> {
        if filter.created_from.is_none() && filter.created_to.is_none() {
            return Ok(self.read().count(filter));
        }
        let Some((wanted, segments)) = self.wanted(filter) else { return Ok(0) };
        let mut count = 0;
        for segment in &segments {
            let Some(matches) = wanted.within(segment) else { continue };
            count += match self.times(source, segment, &matches)? {
                None => matches.count,
                times => (0..segment.len())
                    .filter(|ordinal| matches.hit(segment, times.as_deref(), *ordinal))
                    .count() as u64,
            };
        }
        Ok(count)
    }

    /// The entries whose key has this hash, newest first. The caller confirms by the record.
    ///
    /// # Errors
    /// When a summary is needed and cannot be read.
    pub fn candidates(&self, source: &dyn Source, key_hash: u64) -> Result<Vec<u64>> {
        let state = self.read();
        let likely: Vec<Arc<Segment>> = state
            .segments
            .values()
            .rev()
            .filter(|segment| segment.filter.contains(key_hash))
            .cloned()
            .collect();
        drop(state);
        let mut ids = Vec::new();
        for segment in likely {
            let keys = match &segment.open {
                Some(open) => positions(open.keys.iter().copied(), key_hash),
                None => positions(self.column(source, Kind::Keys, &segment)?.iter(), key_hash),
            };
            let present = keys.into_iter().rev().filter(|at| segment.status(*at).is_some());
            ids.extend(present.filter_map(|at| segment.lsns.select(u64::from(at))));
        }
        Ok(ids)
    }

    /// The filter in numbers and the segments as of now; none when nothing can match.
    fn wanted(&self, filter: &Filter) -> Option<(Wanted, Vec<Arc<Segment>>)> {
        let state = self.read();
        let wanted = state.wanted(filter)?;
        Some((wanted, state.segments.values().cloned().collect()))
    }

    /// The created times, if the matches need them, less the segment's earliest.
    fn times(
        &self,
        source: &dyn Source,
        segment: &Segment,
        matches: &Matches,
    ) -> Result<Option<Arc<Column>>> {
        if matches.created.is_none() {
            return Ok(None);
        }
        if let Some(open) = &segment.open {
            return Ok(Some(Arc::new(segment.columns(open).0)));
        }
        self.column(source, Kind::Created, segment).map(Some)
    }
}

impl State {
    fn find(&self, lsn: u64) -> Option<(Arc<Segment>, u32, crate::entry::Status)> {
        let segment = self.segments.get(&self.segment_of(lsn)?)?;
        let ordinal = segment.ordinal(lsn)?;
        Some((Arc::clone(segment), ordinal, segment.status(ordinal)?))
    }

    fn count(&self, filter: &Filter) -> u64 {
        let Some(wanted) = self.wanted(filter) else { return 0 };
        let cells = self.totals.iter().map(|(key, count)| (key, *count));
        cells.filter(|(key, _)| wanted.fits(**key)).map(|(_, count)| count).sum()
    }

    fn wanted(&self, filter: &Filter) -> Option<Wanted> {
        let number = |text: &Option<String>| match text {
            Some(text) => self.terms.find(text).map(Some),
            None => Some(None),
        };
        let from = filter.created_from.map(|time| time.0);
        let to = filter.created_to.map(|time| time.0);
        let ranged = from.is_some() || to.is_some();
        let created = ranged.then(|| (from.unwrap_or(0), to.unwrap_or(u64::MAX)));
        Some(Wanted {
            status: filter.status.map(|status| status as u8),
            domain: number(&filter.domain)?,
            failure_type: number(&filter.failure_type)?,
            created,
        })
    }
}

impl Wanted {
    fn fits(&self, key: super::segment::CellKey) -> bool {
        self.status.map_or(key.status != GONE, |status| status == key.status)
            && self.domain.is_none_or(|domain| domain == key.domain)
            && self.failure_type.is_none_or(|kind| kind == key.failure_type)
    }

    /// What matches in a segment; none when nothing does.
    fn within(&self, segment: &Segment) -> Option<Matches> {
        let mut count = 0;
        let cells = segment.cells.iter().map(|(key, entries)| {
            let fits = self.fits(key);
            count += if fits { u64::from(entries) } else { 0 };
            fits
        });
        let cells: Vec<bool> = cells.collect();
        let (from, to) = self.created.unwrap_or((0, u64::MAX));
        if count == 0 || from > to || to < segment.created_min || segment.created_max < from {
            return None;
        }
        let inside = from <= segment.created_min && segment.created_max <= to;
        // Times are kept less the segment's earliest.
        let range =
            || (from.saturating_sub(segment.created_min), to.saturating_sub(segment.created_min));
        Some(Matches { cells, count, created: (!inside).then(range) })
    }
}

impl Matches {
    #[expect(clippy::cast_possible_truncation, reason = "a cell is a number below 2^32")]
    fn hit(&self, segment: &Segment, times: Option<&Column>, ordinal: u32) -> bool {
        let at = ordinal as usize;
        let cell = segment.column.get(at).and_then(|cell| self.cells.get(cell as usize));
        let in_time = match (self.created, times) {
            (Some((from, to)), Some(times)) => {
                times.get(at).is_some_and(|time| from <= time && time <= to)
            }
            _ => true,
        };
        cell.copied().unwrap_or(false) && in_time
    }
}

/// The ordinals of a segment that lie behind where the page starts.
fn behind(segment: &Segment, page: Page) -> Range<u32> {
    match (page.after, page.order) {
        (None, _) => 0..segment.len(),
        (Some(after), Order::Newest) => 0..segment.rank_below(after.0),
        (Some(after), Order::Oldest) => {
            let end = after.0.checked_add(1).map_or(segment.len(), |end| segment.rank_below(end));
            end..segment.len()
        }
    }
}

/// Takes a count off an offset if it is all passed over.
fn take(offset: &mut u64, count: u64) -> bool {
    let passed = *offset >= count;
    if passed {
        *offset -= count;
    }
    passed
}

fn positions(keys: impl Iterator<Item = u64>, wanted: u64) -> Vec<u32> {
    (0..).zip(keys).filter(|(_, key)| *key == wanted).map(|(at, _)| at).collect()
}
