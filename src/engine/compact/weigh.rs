//! Weighing: how much of a segment is alive, how much could be compressed, what must be erased.

use std::collections::{HashMap, HashSet};

use super::Compactor;
use super::compress::Candidate;
use crate::compact::{GARBAGE_SHARE, Weight};
use crate::engine::Inner;
use crate::engine::load::Live;
use crate::error::{Error, Result};
use crate::format::{self, Summary};
use crate::index::{Catalog, Liveness, Wear};
use crate::log::Old;

/// A segment is weighed again when an eighth of its records may weigh less since.
const WEIGH_AGAIN: u64 = 8;

/// What a segment weighed when so many changes had touched it.
#[derive(Debug, Clone)]
pub(super) struct Weighed {
    pub weight: Weight,
    pub touched: u64,
    pub records: u64,
    /// The bytes of its changes that are alive, by the segments of their entries.
    pub foldable: HashMap<u64, u64>,
    /// There was no space to rewrite it.
    pub passed_over: bool,
}

impl Inner {
    /// Weighs one segment of which nobody knows what it weighs by now; false when there is none.
    pub(super) fn weigh_next(
        &self,
        compactor: &mut Compactor,
        catalog: &Catalog,
        wear: &[Wear],
    ) -> Result<bool> {
        let old = self.segments.all_old();
        let known: HashSet<(u64, u32)> = old.iter().map(|it| (it.number, it.generation)).collect();
        compactor.weights.retain(|place, _| known.contains(place));
        let touched = touched(wear);
        for old in old {
            let place = (old.number, old.generation);
            let touches = touched.get(&old.number).copied().unwrap_or(0);
            let fresh = compactor.weights.get(&place).is_some_and(|weighed| {
                let since = touches.saturating_sub(weighed.touched);
                since * WEIGH_AGAIN < weighed.records.max(1) && touches >= weighed.touched
            });
            if !fresh {
                let wear = wear.iter().find(|wear| wear.segment == old.number);
                let mut weighed = match self.weigh_at_a_glance(&old, wear)? {
                    Some(weighed) => weighed,
                    None => self.weigh(catalog, &old, &compactor.traces)?,
                };
                weighed.touched = touches;
                if compactor.settled.get(&old.number) == Some(&touches) {
                    weighed.weight.needed_bytes = weighed.weight.file_bytes;
                    weighed.weight.compressible_bytes = 0;
                    weighed.weight.erasable_since = None;
                }
                if weighed.weight.erasable_since.is_none() {
                    compactor.traces.remove(&old.number);
                }
                compactor.weights.insert(place, weighed);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The weight of a segment without changes of which no entry is gone, and none is to be
    /// compressed: all of it is alive.
    fn weigh_at_a_glance(&self, old: &Old, wear: Option<&Wear>) -> Result<Option<Weighed>> {
        let (file, _) = match self.segments.open(old) {
            // What cannot be read is left for a person.
            Err(Error::Damaged(_)) => return Ok(Some(Weighed::of_whole(old.number, u64::MAX, 0))),
            other => other?,
        };
        let compressed = file.dictionary()?.is_some();
        let stale = file.stale_dictionary_ms()?.is_some();
        let may_compress = wear.is_some_and(|wear| {
            let tried = compressed && wear.changed_in.is_empty() && !stale;
            format::COMPRESSES && wear.terminal > 0 && !tried
        });
        let gone = wear.is_some_and(|wear| wear.gone > 0);
        let trailer = file.trailer.filter(|trailer| trailer.changes == 0 && !gone && !may_compress);
        Ok(trailer.map(|trailer| {
            let mut weighed = Weighed::of_whole(old.number, file.len, trailer.records.into());
            weighed.weight.is_alone = compressed && !format::COMPRESSES;
            weighed
        }))
    }

    pub(super) fn weigh(
        &self,
        catalog: &Catalog,
        old: &Old,
        traces: &HashMap<u64, u64>,
    ) -> Result<Weighed> {
        let (file, end) = self.segments.open(old)?;
        let summary = self.segments.summary(old.number)?;
        let dictionary = file.dictionary()?;
        let compressed = dictionary.is_some();
        let mut candidates = Vec::new();
        let live = Live(self);
        let mut liveness = Liveness::new(catalog, &live);
        let is_last = self.segments.all_old().last().is_some_and(|it| it.number == old.number);
        let mut scale = Scale::new(&summary, end, is_last, traces.get(&old.number).copied());
        for row in &summary.entries {
            let newest = liveness.newest(row.lsn)?;
            let present = newest.is_none_or(|newest| newest.is_present());
            let since = newest.map_or(0, |newest| newest.gone_since);
            scale.add(row.offset, present, (!present).then_some(since));
            // What was at its end when it was written anew is as small as it gets.
            let is_new = newest.is_some_and(|newest| newest.is_terminal())
                && !(compressed && row.status.is_terminal());
            if is_new {
                candidates.push(Candidate::new(old.number, row.offset, scale.bytes(row.offset)));
            }
        }
        for row in &summary.changes {
            let newest = liveness.newest(row.target)?;
            let alive = newest.is_some_and(|newest| newest.counts(row.lsn));
            // A removal has no texts; any other change of an entry that is gone is a trace of it.
            let trace = match newest {
                None => Some(scale.traced_since),
                Some(newest) if !newest.is_present() => Some(newest.gone_since),
                Some(_) => None,
            };
            let bytes = scale.add(row.offset, alive, trace.filter(|_| row.status.is_some()));
            if let Some(newest) = newest.filter(|newest| alive && newest.is_present()) {
                *scale.foldable.entry(newest.segment).or_default() += bytes;
            }
        }
        scale.fixed_bytes += dictionary.map_or(0, |it| format::padded_len(it.bytes().len()));
        let mut weighed = scale.weighed(old.number, file.len);
        let weight = &mut weighed.weight;
        weight.is_alone = compressed && !format::COMPRESSES;
        if format::COMPRESSES
            && let Some(since) = file.stale_dictionary_ms()?
        {
            weight.erasable_since = Some(weight.erasable_since.map_or(since, |it| it.min(since)));
        }
        let most = candidates.iter().map(|candidate| candidate.bytes).sum();
        // To try takes time, so it must be able to matter.
        let matters = (Weight { compressible_bytes: most, ..*weight }).is_wasteful(GARBAGE_SHARE);
        if format::COMPRESSES && matters {
            weight.compressible_bytes = self.saved_bytes(&mut liveness, &candidates)?;
        }
        Ok(weighed)
    }
}

/// How many changes may have made records of each segment dead: those of its own entries, and those
/// of entries whose earlier changes it may hold.
pub(super) fn touched(wear: &[Wear]) -> HashMap<u64, u64> {
    let mut touched: HashMap<u64, u64> = HashMap::new();
    for wear in wear {
        let others = wear.changed_in.iter().filter(|number| **number != wear.segment);
        for number in others.chain([&wear.segment]) {
            *touched.entry(*number).or_default() += wear.touched;
        }
    }
    touched
}

/// Adds up what is alive in a segment.
struct Scale {
    /// Where records end, rising.
    ends: Vec<u64>,
    live_bytes: u64,
    /// What a file has beside its records and rows, one copy of its dictionary included; the other
    /// one stands behind the last record, and counts with that.
    fixed_bytes: u64,
    records: u64,
    erasable_since: Option<u64>,
    /// Since when changes of entries are traces that no segment holds any more; 0 when nobody
    /// knows, so that they go at once.
    traced_since: u64,
    foldable: HashMap<u64, u64>,
}

impl Scale {
    /// For records up to `end`; with `controls`, those in front stay too.
    fn new(summary: &Summary, end: u64, controls: bool, traced_since: Option<u64>) -> Self {
        let entries = summary.entries.iter().map(|row| row.offset);
        let mut ends: Vec<u64> =
            entries.chain(summary.changes.iter().map(|row| row.offset)).chain([end]).collect();
        ends.sort_unstable();
        let first = ends.first().copied().unwrap_or(end);
        let kept_from = if controls { format::SEGMENT_HEADER_LEN } else { first };
        let mut nothing = Summary::new(summary.segment);
        nothing.terms.clone_from(&summary.terms);
        Self {
            live_bytes: 0,
            fixed_bytes: format::SEGMENT_HEADER_LEN
                + first.saturating_sub(kept_from)
                + format::footer_len(&nothing),
            ends,
            records: 0,
            erasable_since: None,
            traced_since: traced_since.unwrap_or(0),
            foldable: HashMap::new(),
        }
    }

    /// Answers how many bytes of it are alive.
    fn add(&mut self, offset: u64, alive: bool, erasable_since: Option<u64>) -> u64 {
        self.records += 1;
        if alive {
            let bytes = self.bytes(offset) + format::ENTRY_ROW_LEN as u64;
            self.live_bytes += bytes;
            return bytes;
        }
        if let Some(since) = erasable_since {
            let earliest = self.erasable_since.unwrap_or(u64::MAX);
            self.erasable_since = Some(earliest.min(since));
        }
        0
    }

    /// How many bytes the record at an offset takes.
    fn bytes(&self, offset: u64) -> u64 {
        let next = self.ends.partition_point(|end| *end <= offset);
        self.ends.get(next).map_or(0, |end| end - offset)
    }

    fn weighed(self, segment: u64, file_bytes: u64) -> Weighed {
        let mut weighed = Weighed::of_whole(segment, file_bytes, self.records);
        weighed.weight.live_bytes = self.live_bytes;
        weighed.weight.needed_bytes = self.live_bytes + self.fixed_bytes;
        weighed.weight.erasable_since = self.erasable_since;
        weighed.foldable = self.foldable;
        weighed
    }
}

impl Weighed {
    /// A segment all of which is alive, or must be taken for it.
    pub fn of_whole(segment: u64, file_bytes: u64, records: u64) -> Self {
        let weight = Weight {
            segment,
            file_bytes,
            live_bytes: file_bytes,
            needed_bytes: file_bytes,
            compressible_bytes: 0,
            folded_bytes: 0,
            erasable_since: None,
            is_last: false,
            is_alone: false,
        };
        Self { weight, touched: 0, records, foldable: HashMap::new(), passed_over: false }
    }
}
