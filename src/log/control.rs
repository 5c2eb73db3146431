//! Facts about the log itself: what control records say, and the running set that they make.
//!
//! The segment set at the head of a segment restates all that came before; each control record
//! behind it changes the set, in log order. To apply a fact twice does no harm where a crash may
//! ask for it: a drop or a replacement names generations, the newest clock and summary count.

use std::sync::Arc;

use crate::error::Result;
use crate::format::{
    ClockBody, DrainedBody, DropBody, FormatError, Frame, Kind, Loss, ReplaceBody, SegmentEnd,
    SegmentItem, SegmentSet, SummaryBody, decode_body,
};

/// What a control record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Control {
    Lost(Loss),
    Drained(DrainedBody),
    Drop(DropBody),
    Replace(Arc<ReplaceBody>),
    Clock(ClockBody),
    Summary(Arc<SummaryBody>),
}

impl Control {
    /// What a record says, if it is a control record.
    pub fn read(frame: &Frame) -> Result<Option<Self>, FormatError> {
        Ok(Some(match frame.header.kind {
            Kind::Lost => Self::Lost(decode_body(frame)?),
            Kind::Drained => Self::Drained(decode_body(frame)?),
            Kind::Drop => Self::Drop(decode_body(frame)?),
            Kind::Replace => Self::Replace(Arc::new(decode_body(frame)?)),
            Kind::Clock => Self::Clock(decode_body(frame)?),
            Kind::Summary => Self::Summary(Arc::new(decode_body(frame)?)),
            _ => return Ok(None),
        }))
    }
}

/// Puts a summary on the list, in the place of the one with its id; one without entries takes
/// that off.
pub(crate) fn put_summary(list: &mut Vec<SummaryBody>, summary: &SummaryBody) {
    let place = list.iter().position(|known| known.id == summary.id);
    match place.and_then(|place| list.get_mut(place)) {
        Some(known) if summary.count > 0 => known.clone_from(summary),
        Some(_) => list.retain(|known| known.id != summary.id),
        None if summary.count > 0 => list.push(summary.clone()),
        None => {}
    }
}

impl SegmentSet {
    /// Takes in what a control record says.
    pub(crate) fn apply(&mut self, control: &Control) {
        match control {
            Control::Lost(loss) => {
                self.totals.lost += loss.entries;
                self.losses.push(*loss);
            }
            Control::Drained(body) => self.drained.push(body.uuid),
            Control::Drop(gone) => self.replace(&[*gone], None),
            Control::Replace(body) => self.replace(&body.old, Some((body.new, body.end))),
            Control::Clock(clock) => self.clock.clone_from(clock),
            Control::Summary(summary) => put_summary(&mut self.summaries, summary),
        }
    }

    /// Adds the segment behind the last one.
    pub(crate) fn push(&mut self, item: SegmentItem, end: SegmentEnd) {
        self.ends.resize(self.segments.len(), SegmentEnd::default());
        self.segments.push(item);
        self.ends.push(end);
    }

    /// Where a segment of the list ends, where it says so.
    pub(crate) fn end_of(&self, number: u64) -> Option<SegmentEnd> {
        let mut ends = self.segments.iter().zip(&self.ends);
        let end = ends.find(|(item, _)| item.segment == number).map(|(_, end)| *end)?;
        (end.end != 0).then_some(end)
    }

    /// Puts a segment in the place of others that are all there in these generations.
    fn replace(&mut self, old: &[DropBody], new: Option<(SegmentItem, SegmentEnd)>) {
        let is = |item: &SegmentItem, old: &DropBody| {
            (item.segment, item.generation) == (old.segment, old.generation)
        };
        let places = old.iter().map(|old| self.segments.iter().position(|item| is(item, old)));
        let Some(mut places) = places.collect::<Option<Vec<usize>>>() else { return };
        places.sort_unstable();
        let Some(first) = places.first().copied() else { return };
        self.ends.resize(self.segments.len(), SegmentEnd::default());
        for place in places.into_iter().rev() {
            self.segments.remove(place);
            self.ends.remove(place);
        }
        if let Some((item, end)) = new {
            self.segments.insert(first, item);
            self.ends.insert(first, end);
        }
        // What damage took is counted, and the place where it was is gone.
        self.losses.retain(|loss| !old.iter().any(|old| old.segment == loss.segment));
    }
}
