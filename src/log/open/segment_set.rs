//! The segment set when the newest one is lost: what older sets and the segments since say.

use crate::env::{Env, OpenMode};
use crate::error::{Error, Result};
use crate::format::{self, SegmentEnd, SegmentItem, SegmentSet};
use crate::log::recover::{self, Survey};
use crate::log::segment::SegmentFile;
use crate::log::{Control, Old, Segments, Tallies};

use super::SegmentFiles;

/// The set at the head of the newest segment, or what there is in its place.
///
/// # Errors
/// Those of [`rebuild_set`].
pub(super) fn head_set(
    env: &dyn Env,
    segments: &Segments,
    files: &SegmentFiles,
    newest: u64,
    survey: &mut Survey,
) -> Result<SegmentSet> {
    if let Some(set) = survey.set.take() {
        return Ok(set);
    }
    let set = rebuild_set(env, segments, files, newest)?;
    survey.count_from(&set.tallies);
    Ok(set)
}

/// The set of older segments: the newest one that can be read, and the files since. The segments
/// are listed for readers.
///
/// # Errors
/// [`Error::Compressed`] when only another build can tell what a segment holds, which must not be
/// taken for nothing.
pub(super) fn rebuild_set(
    env: &dyn Env,
    segments: &Segments,
    files: &SegmentFiles,
    newest: u64,
) -> Result<SegmentSet> {
    let mut set = SegmentSet::default();
    let first = files.between(0, newest).into_iter().rev().find_map(|(number, generation)| {
        set = read_set(env, segments, number, generation)?;
        Some(number)
    });
    let mut tallies = Tallies::of_list(&set.tallies);
    for item in &set.segments {
        segments.add_old(Old::new(*item, SegmentEnd::default()));
    }
    for (number, generation) in files.between(first.unwrap_or(0), newest) {
        segments.add_old(Old::unlisted(number, generation));
        let summary = match segments.summary(number) {
            Ok(summary) => summary,
            Err(error @ Error::Compressed { .. }) => return Err(error),
            Err(_) => continue,
        };
        match count_records(segments, number, &mut tallies) {
            Ok(controls) => controls.iter().for_each(|control| set.apply(control)),
            Err(error) => {
                tracing::warn!(%error, number, "the records of a segment cannot be counted");
            }
        }
        let holes = segments.old(number).map_or_else(Vec::new, |old| old.scanned_damage());
        let lost: u64 = holes.iter().filter_map(|damage| damage.entries).sum();
        let lsns = summary.entries.iter().map(|row| row.lsn);
        let lsns = lsns.chain(summary.changes.iter().map(|row| row.lsn));
        // One of which nothing is left goes on where those before it end: what was in it is not to
        // be looked for among them.
        let before = set.segments.last().map_or(0, |item| item.last_lsn);
        let item = SegmentItem {
            segment: number,
            generation,
            first_lsn: lsns.clone().min().unwrap_or(before + 1),
            last_lsn: lsns.max().unwrap_or(before),
            entries: summary.entries.len() as u64 + lost,
        };
        set.push(item, SegmentEnd::default());
        set.totals.captured += summary.entries.len() as u64 + lost;
    }
    set.tallies = tallies.list();
    Ok(set)
}

/// The set at the head of an older segment.
fn read_set(
    env: &dyn Env,
    segments: &Segments,
    number: u64,
    generation: u32,
) -> Option<SegmentSet> {
    let path = segments.path(number, generation);
    let segment = SegmentFile::open(env, &path, OpenMode::Read, false).ok()?;
    let frame = segment.read_frame(format::SEGMENT_HEADER_LEN, segment.len).ok()?;
    let is_set = frame.header.kind == format::Kind::SegmentSet;
    is_set.then(|| format::decode_body(&frame).ok()).flatten()
}

/// Reads an old segment's records for their causes, which no footer names.
fn count_records(segments: &Segments, number: u64, tallies: &mut Tallies) -> Result<Vec<Control>> {
    let Some(old) = segments.old(number) else { return Ok(Vec::new()) };
    let (file, end) = segments.open(&old)?;
    recover::count_records(&file, end, tallies)
}
