//! Opening: what the newest segment holds, what a crash tore, what damage took.
//!
//! 1. `survey` scans the newest segment and judges every hole: a hole is *damage* when a later
//!    group, or a checkpoint, proves that its bytes were once synced; else it is *torn*.
//! 2. Everything behind the last proven byte is carried into a new segment, which is synced
//!    before anything is shown. The old file is cut there; what recovery could not use stands
//!    in quarantine first.
//!
//! Exact, since group *n + 1* is written only after the sync of group *n* returned: a record of
//! a group above *h* proves that *h* was acknowledged.

use std::collections::HashSet;

use crate::entry::State;
use crate::env::Env;
use crate::error::{Damage, DamageKind, Error, Result};
use crate::format::{
    self, ChangeBody, Checkpoint, EntryBody, FormatError, Frame, Kind, RecordHeader,
    SEGMENT_HEADER_LEN, SegmentItem, SegmentSet, Summary, TIME_NONE, Tally,
};

use super::account::Account;
use super::quarantine::keep_bytes;
use super::segment::{Item, SegmentFile};
use super::{Control, Note, Row, Tallies};

/// What the newest segment holds, judged.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// The rows of all records that count.
    pub summary: Summary,
    /// The counts up to the last record that counts, as far as the segment set is there.
    pub tallies: Tallies,
    /// The counts up to the cut.
    pub cut_tallies: Tallies,
    /// The segment set in the first group.
    pub set: Option<SegmentSet>,
    /// The version of its body.
    pub set_version: u16,
    /// Where its record ends.
    pub set_end: u64,
    /// What control records of this segment say, in order.
    pub controls: Vec<Control>,
    /// How many of them stand before the cut.
    pub cut_controls: usize,
    /// Where the proven records end.
    pub cut: u64,
    /// Entries stored before the cut, those lost to damage included.
    pub entries: u64,
    /// The last sequence number before the cut.
    pub cut_lsn: Option<u64>,
    /// Intact records behind the cut, in order; whole batches only.
    pub kept: Vec<Frame>,
    /// Holes in what was once durable.
    pub damage: Vec<Damage>,
    /// Bytes behind the cut that are no record, or belong to a broken batch.
    pub torn_bytes: u64,
    /// Where the last byte that is not zero ends.
    pub data_end: u64,
    /// The highest sequence number seen.
    pub last_lsn: Option<u64>,
    /// The group that the next record belongs to, when the segment is continued.
    pub next_group: u32,
    /// How many records count.
    pub records: u64,
}

impl Survey {
    /// Counts on from these, when the segment set that says so is lost.
    pub fn count_from(&mut self, before: &[Tally]) {
        for tallies in [&mut self.tallies, &mut self.cut_tallies] {
            let mut whole = Tallies::of_list(before);
            whole.merge(tallies);
            *tallies = whole;
        }
    }

    /// Whether the segment ends exactly where a clean close left it.
    pub fn is_clean(&self, checkpoint: Option<&Checkpoint>, segment: u64) -> bool {
        let end = self.kept.last().map_or(self.cut, Frame::end);
        checkpoint.is_some_and(|checkpoint| {
            checkpoint.clean && checkpoint.segment == segment && checkpoint.end == end
        }) && self.damage.is_empty()
            && self.torn_bytes == 0
    }
}

/// The part of a frame that judging needs.
struct Place {
    offset: u64,
    end: u64,
    header: RecordHeader,
}

/// How far the newest segment is known to be durable before it is read.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Witness<'a> {
    /// Not at all, or as far as a checkpoint says.
    Checkpoint(Option<&'a Checkpoint>),
    /// All of it, up to this end: a footer or the living owner says so.
    End(u64),
}

/// Scans the newest segment.
pub(crate) fn survey(segment: &SegmentFile, witness: Witness<'_>) -> Result<Survey> {
    let number = segment.header.segment;
    let (witness, bound, durable_end) = match witness {
        Witness::End(end) => (None, end.min(segment.len), end),
        Witness::Checkpoint(checkpoint) => {
            let checkpoint = checkpoint.filter(|checkpoint| checkpoint.segment == number);
            let end = checkpoint.map_or(SEGMENT_HEADER_LEN, |checkpoint| checkpoint.end);
            (checkpoint, segment.len, end)
        }
    };
    let mut places: Vec<Place> = Vec::new();
    let mut holes: Vec<(u64, u64)> = Vec::new();
    let mut tail = (SEGMENT_HEADER_LEN, SEGMENT_HEADER_LEN);
    segment.scan(bound, &mut |item| {
        match item {
            Item::Frame(frame) => {
                places.push(Place { offset: frame.offset, end: frame.end(), header: frame.header });
            }
            Item::Hole { from, to } => holes.push((from, to)),
            Item::Tail { from, data_end } => tail = (from, data_end),
        }
        Ok(())
    })?;
    let mut survey = judge(&places, &holes, tail, durable_end);
    name_damage(&mut survey, segment, &places, &holes, tail, witness);
    drop(places);
    gather(&mut survey, segment, bound)?;
    Ok(survey)
}

impl Survey {
    /// How many entries stand behind the cut.
    pub fn kept_entries(&self) -> u64 {
        self.kept.iter().filter(|frame| frame.header.kind == Kind::Entry).count() as u64
    }

    /// What is known of the older segments once control records of this one are taken in: those
    /// before the cut, or all that count.
    pub fn set_after(&self, mut set: SegmentSet, up_to_cut: bool) -> SegmentSet {
        let count = if up_to_cut { self.cut_controls } else { self.controls.len() };
        self.controls.iter().take(count).for_each(|control| set.apply(control));
        set
    }
}

/// Decides, without I/O, where the proven records end.
fn judge(places: &[Place], holes: &[(u64, u64)], tail: (u64, u64), durable_end: u64) -> Survey {
    let last_group = places.last().map_or(0, |place| place.header.group);
    // A segment gets its name only after its first group was synced.
    let proven = |place: &&Place| {
        let group = place.header.group;
        group <= 1 || group < last_group || place.end <= durable_end
    };
    let proven_end = places.iter().filter(proven).map(|place| place.end).max();
    let mut cut = proven_end.unwrap_or(SEGMENT_HEADER_LEN);
    for (from, to) in holes {
        let before = places.iter().rev().find(|place| place.end <= *from);
        let group = before.map_or(1, |place| next_group(&place.header));
        // The damaged group is `group`; a later one proves that it was synced.
        if group <= 1 || last_group > group || durable_end > *from {
            cut = cut.max(*to);
        }
    }
    let last = places.last().map(|place| &place.header);
    if durable_end > tail.0 {
        cut = cut.max(durable_end);
    }
    if last.map_or(1, next_group) <= 1 {
        cut = cut.max(tail.1);
    }
    Survey {
        cut,
        data_end: tail.1.max(places.last().map_or(SEGMENT_HEADER_LEN, |place| place.end)),
        last_lsn: last.map(|header| header.lsn),
        next_group: last.map_or(1, next_group),
        ..Survey::default()
    }
}

fn next_group(header: &RecordHeader) -> u32 {
    header.group.saturating_add(u32::from(header.flags.last_of_group))
}

/// Turns the holes before the cut into damage, with the sequence numbers they may have held.
fn name_damage(
    survey: &mut Survey,
    segment: &SegmentFile,
    places: &[Place],
    holes: &[(u64, u64)],
    tail: (u64, u64),
    witness: Option<&Checkpoint>,
) {
    let cut = survey.cut;
    let trailing = (tail.0 < cut).then_some((tail.0, cut));
    for (from, to) in holes.iter().copied().chain(trailing).filter(|(_, to)| *to <= cut) {
        let before = places.iter().rev().find(|place| place.end <= from).map(|place| place.header);
        let after = places.iter().find(|place| place.offset >= to).map(|place| place.header);
        let mut damage = hole_damage(segment, (from, to), before, after);
        if let (None, Some(checkpoint)) = (after, witness) {
            // No record follows; the checkpoint says how far the numbers went.
            let known = before.map_or(0, entries_through);
            damage.lsn_to = damage.lsn_from.map(|from| checkpoint.last_lsn.max(from));
            damage.entries = Some(checkpoint.entries.saturating_sub(known));
        }
        survey.last_lsn = survey.last_lsn.max(damage.lsn_to);
        survey.damage.push(damage);
    }
    let proven = places.iter().filter(|place| place.end <= cut);
    let last = proven.clone().next_back();
    survey.entries = last.map_or(0, |place| entries_through(place.header));
    survey.cut_lsn = last.map(|place| place.header.lsn);
    if trailing.is_some() {
        let known = witness.map_or(0, |checkpoint| checkpoint.entries);
        survey.entries = survey.entries.max(known);
        survey.cut_lsn = survey.cut_lsn.max(witness.map(|checkpoint| checkpoint.last_lsn));
    }
}

/// How many entries a segment holds up to and with a record.
fn entries_through(header: RecordHeader) -> u64 {
    u64::from(header.ordinal) + u64::from(header.kind == Kind::Entry)
}

/// Reads the records again: rows for those that count, whole frames for those behind the cut.
fn gather(survey: &mut Survey, segment: &SegmentFile, bound: u64) -> Result<()> {
    let header = &segment.header;
    survey.summary = Summary::of(header);
    let cut = survey.cut;
    let mut units = Units::default();
    segment.scan(bound, &mut |item| {
        match item {
            Item::Frame(frame) if frame.end() <= cut => {
                survey.records += 1;
                collect(survey, header.store_uuid, &frame);
            }
            Item::Frame(frame) => units.push(frame),
            Item::Hole { from, to } if to > cut => {
                survey.torn_bytes += to - from;
                units.hole();
            }
            Item::Hole { .. } => {}
            Item::Tail { from, data_end } => {
                survey.torn_bytes += data_end.saturating_sub(from.max(cut));
            }
        }
        Ok(())
    })?;
    let known = survey.cut_lsn.unwrap_or(0).max(header.base_lsn.saturating_sub(1));
    let (kept, broken) = units.finish(known);
    survey.torn_bytes += broken;
    survey.cut_tallies = survey.tallies.clone();
    survey.cut_controls = survey.controls.len();
    for frame in &kept {
        survey.records += 1;
        collect(survey, header.store_uuid, frame);
    }
    survey.kept = kept;
    discount_removed(&survey.summary, &mut survey.damage);
    Ok(())
}

fn collect(survey: &mut Survey, store_uuid: [u8; 16], frame: &Frame) {
    match frame.header.kind {
        Kind::SegmentSet => {
            survey.set = format::decode_body::<SegmentSet>(frame).ok();
            survey.set_version = frame.header.body_version;
            survey.set_end = frame.end();
            let list = survey.set.as_ref().map(|set| set.tallies.as_slice());
            survey.tallies = Tallies::of_list(list.unwrap_or_default());
        }
        _ => {
            let row = add_row(&mut survey.summary, store_uuid, frame);
            row.count(&mut survey.tallies);
            if let Row::Control(control) = row {
                survey.controls.push(control);
            }
        }
    }
}

/// Adds the row of an entry or a change; other records have none, and neither has a body that
/// cannot be decoded although its checksum holds.
pub(crate) fn add_row(summary: &mut Summary, store_uuid: [u8; 16], frame: &Frame) -> Row {
    let note = note_of(frame, store_uuid);
    note.map_or(Row::None, |note| note.row(summary, frame.header.lsn, frame.offset))
}

/// How many entries in a range of numbers these changes removed. They are gone already, so damage
/// cannot take them. What was removed up to the folded number of their segment was not in it.
pub(crate) fn removed_among(rows: &Summary, folded_lsn: u64, lsn_from: u64, lsn_to: u64) -> u64 {
    let removed = rows.changes.iter().filter(|row| row.status.is_none() && row.lsn > folded_lsn);
    removed.filter(|row| lsn_from <= row.target && row.target <= lsn_to).count() as u64
}

/// Takes entries that were removed later in the same segment out of its damage.
fn discount_removed(rows: &Summary, damage: &mut [Damage]) {
    for hole in damage {
        if let (Some(from), Some(to)) = (hole.lsn_from, hole.lsn_to) {
            let removed = removed_among(rows, rows.folded_lsn, from, to);
            hole.entries = hole.entries.map(|entries| entries.saturating_sub(removed));
        }
    }
}

/// Frames behind the cut, put together to atomic units.
#[derive(Default)]
struct Units {
    whole: Vec<Frame>,
    open: Vec<Frame>,
    /// A unit lost its beginning; its rest is passed over.
    broken: bool,
    broken_bytes: u64,
}

impl Units {
    fn push(&mut self, frame: Frame) {
        let flags = frame.header.flags;
        if flags.continues_batch && self.open.is_empty() {
            self.broken = true;
        } else if !flags.continues_batch {
            self.drop_open();
            self.broken = false;
        }
        if self.broken {
            self.broken_bytes += frame.header.record_len();
            self.broken = flags.more_of_batch;
            return;
        }
        self.open.push(frame);
        if !flags.more_of_batch {
            self.whole.append(&mut self.open);
        }
    }

    fn hole(&mut self) {
        self.drop_open();
    }

    fn drop_open(&mut self) {
        self.broken_bytes +=
            self.open.drain(..).map(|frame| frame.header.record_len()).sum::<u64>();
    }

    /// The whole units, without changes of entries that a hole took, and the bytes left out.
    /// Entries up to `known` stand before the cut, in this segment or an older one.
    fn finish(mut self, known: u64) -> (Vec<Frame>, u64) {
        self.drop_open();
        let mut stored = HashSet::new();
        let mut broken_bytes = self.broken_bytes;
        self.whole.retain(|frame| {
            let keep = match frame.header.kind {
                Kind::Entry => stored.insert(frame.header.lsn),
                Kind::Change => format::decode_body::<ChangeBody>(frame)
                    .is_ok_and(|body| body.target <= known || stored.contains(&body.target)),
                // The new segment restates the set, and needs no mark.
                Kind::SegmentSet | Kind::Mark => return false,
                _ => true,
            };
            broken_bytes += if keep { 0 } else { frame.header.record_len() };
            keep
        });
        (self.whole, broken_bytes)
    }
}

/// Copies bytes of a segment into quarantine and makes the copy durable. Returns its name.
pub(crate) fn quarantine(
    place: (&dyn Env, &std::path::Path, &Account),
    segment: &SegmentFile,
    range: (u64, u64),
) -> Result<String> {
    keep_bytes(place, &segment.name, range, &|buffer, offset| segment.read_around(buffer, offset))
}

/// What a segment that takes no more records is known to hold. The file may be shorter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    /// Where its records end.
    pub end: u64,
    /// Its last sequence number, where somebody says it.
    pub last_lsn: Option<u64>,
    /// How many entries it holds, where somebody says it.
    pub entries: Option<u64>,
}

impl Extent {
    /// From the trailer, else from what other segments say.
    pub fn of(segment: &SegmentFile, end: Option<u64>, item: Option<&SegmentItem>) -> Self {
        match segment.trailer {
            Some(trailer) => Self {
                end: trailer.start,
                last_lsn: Some(trailer.last_lsn),
                entries: Some(u64::from(trailer.entries)),
            },
            None => Self {
                end: end.unwrap_or(segment.len),
                last_lsn: item.map(|item| item.last_lsn),
                entries: item.map(|item| item.entries),
            },
        }
    }
}

/// Reads the rows of a segment that takes no more records; every hole in it is damage, and so is a
/// body that says nothing although its checksum holds.
pub(crate) fn scan_old(segment: &SegmentFile, extent: Extent) -> Result<super::Scanned> {
    let mut summary = Summary::of(&segment.header);
    let mut damage = Vec::new();
    let mut hole: Option<(u64, u64)> = None;
    let mut before: Option<RecordHeader> = None;
    let mut unread = None;
    segment.scan(extent.end.min(segment.len), &mut |item| {
        match item {
            Item::Frame(frame) => {
                if let Some((from, to)) = hole.take() {
                    damage.push(hole_damage(segment, (from, to), before, Some(frame.header)));
                }
                before = Some(frame.header);
                match note_of(&frame, segment.header.store_uuid) {
                    Ok(note) => drop(note.row(&mut summary, frame.header.lsn, frame.offset)),
                    Err(Error::Damaged(found)) => {
                        damage.push(Damage { segment: segment.name.clone(), ..*found });
                    }
                    Err(Error::Compressed { .. }) => unread = unread.or(Some(frame.header.lsn)),
                    Err(error) => return Err(error),
                }
            }
            Item::Hole { from, to } => hole = Some((from, to)),
            Item::Tail { from, .. } if from < extent.end => {
                let mut rest = hole_damage(segment, (from, extent.end), before, None);
                rest.end_at(extent, before);
                damage.push(rest);
            }
            Item::Tail { .. } => {}
        }
        Ok(())
    })?;
    discount_removed(&summary, &mut damage);
    Ok(super::Scanned { summary: std::sync::Arc::new(summary), damage, unread })
}

/// Counts the records of a segment; answers with what its control records say.
pub(crate) fn count_records(
    segment: &SegmentFile,
    end: u64,
    tallies: &mut Tallies,
) -> Result<Vec<Control>> {
    let mut rows = Summary::new(segment.header.segment);
    let mut controls = Vec::new();
    segment.scan(end.min(segment.len), &mut |item| {
        if let Item::Frame(frame) = item {
            let row = add_row(&mut rows, segment.header.store_uuid, &frame);
            row.count(tallies);
            if let Row::Control(control) = row {
                controls.push(control);
            }
        }
        Ok(())
    })?;
    Ok(controls)
}

impl Damage {
    /// No record follows this hole: what is known of the segment says how much is missing.
    fn end_at(&mut self, extent: Extent, before: Option<RecordHeader>) {
        let entries_before = before.map_or(0, entries_through);
        self.entries = extent.entries.map(|entries| entries.saturating_sub(entries_before));
        if let (Some(from), Some(last_lsn)) = (self.lsn_from, extent.last_lsn) {
            // Only a mark was lost when no number is missing.
            let lost = from <= last_lsn;
            self.lsn_from = lost.then_some(from);
            self.lsn_to = lost.then_some(last_lsn);
        }
    }
}

/// A hole as damage, with the numbers and the entries that its neighbors say are missing.
fn hole_damage(
    segment: &SegmentFile,
    (from, to): (u64, u64),
    before: Option<RecordHeader>,
    after: Option<RecordHeader>,
) -> Damage {
    let lsn_from = before.map_or(segment.header.base_lsn, |header| header.lsn.saturating_add(1));
    let lsn_to = after.map(|header| header.lsn.saturating_sub(u64::from(!header.kind.repeats())));
    // Only a mark was lost when no number is missing.
    let lost = lsn_to.is_none_or(|lsn_to| lsn_to >= lsn_from);
    let entries_before = before.map_or(0, entries_through);
    Damage {
        segment: segment.name.clone(),
        offset: from,
        bytes: to - from,
        kind: DamageKind::Record,
        lsn_from: lost.then_some(lsn_from),
        lsn_to: lost.then_some(lsn_to.unwrap_or(lsn_from)),
        entries: after.map(|header| u64::from(header.ordinal).saturating_sub(entries_before)),
    }
}

/// What the footer and the index must know of a record that was read.
pub(crate) fn note_of(frame: &Frame, store_uuid: [u8; 16]) -> Result<Note> {
    let damaged = |error| match error {
        FormatError::Compressed => Error::compressed(frame.header.lsn),
        _ => Error::Damaged(Box::new(Damage {
            segment: String::new(),
            offset: frame.offset,
            bytes: frame.header.record_len(),
            kind: DamageKind::Record,
            lsn_from: Some(frame.header.lsn),
            lsn_to: Some(frame.header.lsn),
            entries: Some(u64::from(frame.header.kind == Kind::Entry)),
        })),
    };
    Ok(match frame.header.kind {
        Kind::Entry => {
            let body: EntryBody = format::decode_body(frame).map_err(damaged)?;
            entry_note(&body, store_uuid)
        }
        Kind::Change => {
            let body: ChangeBody = format::decode_body(frame).map_err(damaged)?;
            change_note(&body)
        }
        _ => Control::read(frame).map_err(damaged)?.map_or(Note::None, Note::Control),
    })
}

/// The note of an entry.
pub(crate) fn entry_note(body: &EntryBody, store_uuid: [u8; 16]) -> Note {
    Note::Entry {
        key_hash: format::key_hash(store_uuid, &body.key_text()),
        key: body.key.clone(),
        domain: body.domain.as_str().into(),
        failure_type: body.failure_type.as_str().into(),
        created_ms: body.created_at.0,
        expires_ms: body.state.expires_at.map_or(TIME_NONE, |time| time.0),
        status: body.state.status,
        when_ms: when_ms(&body.state),
    }
}

/// The note of a change.
pub(crate) fn change_note(body: &ChangeBody) -> Note {
    Note::Change {
        target: body.target,
        status: (!body.cause.removes()).then_some(body.state.status),
        updated_ms: body.state.updated_at.0,
        when_ms: when_ms(&body.state),
        expires_ms: body.state.expires_at.map_or(TIME_NONE, |time| time.0),
        cause: body.cause,
        domain: body.domain.as_str().into(),
        failure_type: body.failure_type.as_str().into(),
    }
}

/// The time that a state hangs on, as rows tell it.
fn when_ms(state: &State) -> u64 {
    state.age_from().or(state.not_before).map_or(TIME_NONE, |time| time.0)
}
