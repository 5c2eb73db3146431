//! The questions: where an entry is, which entries match, how many, and who has a key.

use std::ops::Range;
use std::sync::Arc;

use crate::entry::{DELAY_MS_MAX, Filter, Order, Page, Status};
use crate::error::Result;
use crate::format::TIME_NONE;

use super::catalog::{Overlay, State};
use super::postings::{Column, Kind};
use super::segment::{CellKey, GONE, Segment};
use super::times::{Time, Times};
use super::{Catalog, Location, Source};

/// Reads an entry and says whether the filter means it, where the index cannot tell.
pub type Confirm<'a> = &'a mut dyn FnMut(u64) -> Result<bool>;

/// A filter with its terms as numbers.
struct Wanted {
    status: Option<u8>,
    domain: Option<u32>,
    failure_type: Option<u32>,
    /// Inclusive.
    created: Option<(u64, u64)>,
    due_at: Option<u64>,
    expires_before: Option<u64>,
    aged_before: Option<u64>,
}

/// What the index says of an entry and a filter; the least of several counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    /// The filter does not mean it.
    No,
    /// The record must be read.
    Ask,
    /// The filter means it.
    Yes,
}

/// The matches of a filter in one segment, before times are looked at.
struct Matches {
    /// What each cell says, by number.
    cells: Vec<Verdict>,
    /// How many entries are in those that say anything but no.
    count: u64,
    /// Whether some entry must be asked for its cell alone.
    asks: bool,
    /// The times of creation to look at; none when all of the segment's fit.
    created: Option<(u64, u64)>,
    /// Whether to look at what states hang on: not when all of the segment's fit.
    when: bool,
    /// Whether to look at when entries expire.
    expires: bool,
}

/// A segment, and the changes that no block of it has yet, as of one moment.
type Snapshot = (Arc<Segment>, Option<Arc<Overlay>>);

/// The blocks of one segment that a filter needs.
struct Look<'a> {
    wanted: &'a Wanted,
    matches: &'a Matches,
    segment: &'a Segment,
    created: Option<Arc<Column>>,
    when: Option<Layers>,
    expires: Option<Layers>,
}

/// One time of a segment's entries in all layers, see `times.rs`.
struct Layers {
    time: Time,
    stored: Arc<Times>,
    changed: Arc<Times>,
    fresh: Option<Arc<Overlay>>,
    /// Which entries the overlay has: most are asked of, and few are there.
    is_fresh: Vec<bool>,
    spread: u64,
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
            Some(fresh) => Some(fresh.change),
            None => self.changes(source, &segment)?.get(ordinal),
        };
        let change = change.map(|change| (change.lsn, change.position));
        Ok(Some(Location { segment: segment.number, ordinal, status, change }))
    }

    /// The entries that match, in the order of the page. A page behind the end is empty.
    ///
    /// # Errors
    /// When a summary is needed and cannot be read, and when `confirm` fails.
    pub fn select(
        &self,
        source: &dyn Source,
        filter: &Filter,
        page: Page,
        confirm: Confirm<'_>,
    ) -> Result<Vec<u64>> {
        let mut ids = Vec::new();
        let Some((wanted, mut segments)) = self.wanted(filter) else { return Ok(ids) };
        if page.order == Order::Newest {
            segments.reverse();
        }
        let mut offset = page.offset;
        for segment in segments {
            if ids.len() >= page.limit {
                break;
            }
            let (segment, fresh) = self.as_of_now(&wanted, segment);
            let Some(matches) = wanted.within(&segment) else { continue };
            let ordinals = behind(&segment, page);
            let whole = ordinals == (0..segment.len());
            if ordinals.is_empty()
                || (whole && matches.is_exact() && take(&mut offset, matches.count))
            {
                continue;
            }
            let look = self.look(source, &wanted, &segment, &matches, fresh.as_ref())?;
            for at in 0..ordinals.end - ordinals.start {
                let ordinal = match page.order {
                    Order::Newest => ordinals.end - 1 - at,
                    Order::Oldest => ordinals.start + at,
                };
                let verdict = look.verdict(ordinal);
                // Numbers are slow to find, and not needed of what is passed over.
                if verdict == Verdict::No || (verdict == Verdict::Yes && take(&mut offset, 1)) {
                    continue;
                }
                let Some(lsn) = segment.lsns.select(u64::from(ordinal)) else { continue };
                if verdict == Verdict::Ask && (!confirm(lsn)? || take(&mut offset, 1)) {
                    continue;
                }
                ids.push(lsn);
                if ids.len() >= page.limit {
                    break;
                }
            }
        }
        Ok(ids)
    }

    /// How many entries match.
    ///
    /// # Errors
    /// When the filter names times and a summary is needed and cannot be read, and when `confirm`
    /// fails.
    pub fn count(&self, source: &dyn Source, filter: &Filter, confirm: Confirm<'_>) -> Result<u64> {
        let Some((wanted, segments)) = self.wanted(filter) else { return Ok(0) };
        if wanted.created.is_none() && !wanted.is_timed() {
            return Ok(self.read().count(&wanted));
        }
        let mut count = 0;
        for segment in segments {
            let (segment, fresh) = self.as_of_now(&wanted, segment);
            let Some(matches) = wanted.within(&segment) else { continue };
            if matches.is_exact() {
                count += matches.count;
                continue;
            }
            let look = self.look(source, &wanted, &segment, &matches, fresh.as_ref())?;
            for ordinal in 0..segment.len() {
                let is_hit = match look.verdict(ordinal) {
                    Verdict::No => false,
                    Verdict::Yes => true,
                    Verdict::Ask => match segment.lsns.select(u64::from(ordinal)) {
                        Some(lsn) => confirm(lsn)?,
                        None => false,
                    },
                };
                count += u64::from(is_hit);
            }
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

    /// A segment with the changes that no block of it has yet. It is looked up again for a filter
    /// that needs them: its blocks may have moved on since the filter was begun with.
    fn as_of_now(&self, wanted: &Wanted, segment: Arc<Segment>) -> Snapshot {
        if !wanted.is_timed() || wanted.within(&segment).is_none() {
            return (segment, None);
        }
        let state = self.read();
        let fresh = state.overlays.get(&segment.number).cloned();
        (state.segments.get(&segment.number).map_or(segment, Arc::clone), fresh)
    }

    /// The blocks that the matches need.
    fn look<'a>(
        &self,
        source: &dyn Source,
        wanted: &'a Wanted,
        segment: &'a Segment,
        matches: &'a Matches,
        fresh: Option<&Arc<Overlay>>,
    ) -> Result<Look<'a>> {
        let created = match (matches.created, &segment.open) {
            (None, _) => None,
            (Some(_), Some(open)) => Some(Arc::new(segment.created(open))),
            (Some(_), None) => Some(self.column(source, Kind::Created, segment)?),
        };
        let layers = |time: Time, needed: bool| {
            needed.then(|| self.layers(source, time, segment, fresh.cloned())).transpose()
        };
        let when = layers(Time::When, matches.when)?;
        let expires = layers(Time::Expires, matches.expires)?;
        Ok(Look { wanted, matches, segment, created, when, expires })
    }

    fn layers(
        &self,
        source: &dyn Source,
        time: Time,
        segment: &Segment,
        fresh: Option<Arc<Overlay>>,
    ) -> Result<Layers> {
        let mut is_fresh = Vec::new();
        if let Some(fresh) = &fresh {
            is_fresh.resize(segment.column.len(), false);
            for ordinal in fresh.keys() {
                if let Some(slot) = is_fresh.get_mut(*ordinal as usize) {
                    *slot = true;
                }
            }
        }
        Ok(Layers {
            time,
            stored: self.stored_times(source, time, segment)?,
            changed: self.changed_times(source, time, segment)?,
            fresh,
            is_fresh,
            spread: segment.range(time).spread,
        })
    }
}

impl State {
    fn find(&self, lsn: u64) -> Option<(Arc<Segment>, u32, Status)> {
        let segment = self.segments.get(&self.segment_of(lsn)?)?;
        let ordinal = segment.ordinal(lsn)?;
        Some((Arc::clone(segment), ordinal, segment.status(ordinal)?))
    }

    fn count(&self, wanted: &Wanted) -> u64 {
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
            due_at: filter.due_at.map(|time| time.0),
            expires_before: filter.expires_before.map(|time| time.0),
            aged_before: filter.aged_before.map(|time| time.0),
        })
    }
}

impl Wanted {
    /// Whether it asks for a time that changes.
    const fn is_timed(&self) -> bool {
        self.due_at.is_some() || self.expires_before.is_some() || self.aged_before.is_some()
    }

    fn fits(&self, key: CellKey) -> bool {
        self.status.map_or(key.status != GONE, |status| status == key.status)
            && self.domain.is_none_or(|domain| domain == key.domain)
            && self.failure_type.is_none_or(|kind| kind == key.failure_type)
    }

    /// What a cell says. Of the entries of a status with an age the index knows how old they are,
    /// and not when they were due.
    fn judge(&self, key: CellKey) -> Verdict {
        let ages = Status::from_number(key.status).is_some_and(Status::has_age);
        match () {
            () if !self.fits(key) || (self.aged_before.is_some() && !ages) => Verdict::No,
            () if self.due_at.is_some() && ages => Verdict::Ask,
            () => Verdict::Yes,
        }
    }

    /// What matches in a segment; none when nothing does.
    fn within(&self, segment: &Segment) -> Option<Matches> {
        let (mut count, mut asks) = (0, false);
        let cells = segment.cells.iter().map(|(key, entries)| {
            let verdict = self.judge(key);
            count += if verdict == Verdict::No { 0 } else { u64::from(entries) };
            asks |= verdict == Verdict::Ask && entries > 0;
            verdict
        });
        let cells: Vec<Verdict> = cells.collect();
        let (from, to) = self.created.unwrap_or((0, u64::MAX));
        let (when, expires) = (&segment.when, &segment.expires);
        if count == 0
            || from > to
            || to < segment.created_min
            || segment.created_max < from
            || self.expires_before.is_some_and(|before| before <= expires.min)
            || self.aged_before.is_some_and(|before| before <= when.min)
        {
            return None;
        }
        let inside = from <= segment.created_min && segment.created_max <= to;
        // Times are kept less the segment's earliest.
        let range =
            || (from.saturating_sub(segment.created_min), to.saturating_sub(segment.created_min));
        Some(Matches {
            cells,
            count,
            asks,
            created: (!inside).then(range),
            when: self.aged_before.is_some_and(|before| when.max >= before)
                || self.due_at.is_some_and(|at| when.max > at),
            expires: self.expires_before.is_some(),
        })
    }
}

impl Matches {
    /// Whether the count is that of the matches.
    const fn is_exact(&self) -> bool {
        !self.asks && self.created.is_none() && !self.when && !self.expires
    }
}

impl Look<'_> {
    #[expect(clippy::cast_possible_truncation, reason = "a cell is a number below 2^32")]
    fn verdict(&self, ordinal: u32) -> Verdict {
        let at = ordinal as usize;
        let cell = self.segment.column.get(at);
        let cell = cell.and_then(|cell| self.matches.cells.get(cell as usize));
        let mut verdict = cell.copied().unwrap_or(Verdict::No);
        if verdict == Verdict::No {
            return verdict;
        }
        if let (Some((from, to)), Some(times)) = (self.matches.created, &self.created) {
            let inside = times.get(at).is_some_and(|time| from <= time && time <= to);
            verdict = if inside { verdict } else { Verdict::No };
        }
        if let (Some(before), Some(times)) = (self.wanted.expires_before, &self.expires) {
            verdict = verdict.min(times.is_before(ordinal, before));
        }
        if let Some(times) = &self.when {
            // An entry with an age is asked whether it is due by its cell.
            let (aged, due) = (self.wanted.aged_before, self.wanted.due_at);
            verdict = match (aged, due) {
                (Some(before), _) => verdict.min(times.is_aged(ordinal, before)),
                (None, Some(at)) if verdict == Verdict::Yes => times.is_due(ordinal, at),
                (None, _) => verdict,
            };
        }
        verdict
    }
}

impl Layers {
    /// The earliest and the latest that the time may be; none when there is no such time.
    fn get(&self, ordinal: u32) -> Option<(u64, u64)> {
        let exact = |time: u64| (time != TIME_NONE).then_some((time, time));
        if self.is_fresh.get(ordinal as usize).copied().unwrap_or(false)
            && let Some(fresh) = self.fresh.as_ref().and_then(|fresh| fresh.get(&ordinal))
        {
            return exact(self.time.fresh(fresh));
        }
        if let Some(time) = self.changed.get(ordinal) {
            return exact(time);
        }
        let (from, _) = exact(self.stored.get(ordinal)?)?;
        Some((from, from.saturating_add(self.spread)))
    }

    fn is_before(&self, ordinal: u32, before: u64) -> Verdict {
        match self.get(ordinal) {
            Some((_, latest)) if latest < before => Verdict::Yes,
            Some((earliest, _)) if earliest < before => Verdict::Ask,
            _ => Verdict::No,
        }
    }

    /// An age that is not on record is in the record.
    fn is_aged(&self, ordinal: u32, before: u64) -> Verdict {
        if self.get(ordinal).is_none() {
            return Verdict::Ask;
        }
        self.is_before(ordinal, before)
    }

    fn is_due(&self, ordinal: u32, at: u64) -> Verdict {
        match self.get(ordinal) {
            // A wall clock that went back since may have meant it; the record knows.
            Some((_, latest)) if latest > at.saturating_add(DELAY_MS_MAX) => Verdict::Ask,
            Some((earliest, _)) if earliest > at => Verdict::No,
            Some((_, latest)) if latest > at => Verdict::Ask,
            _ => Verdict::Yes,
        }
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
