//! Naming what is lost when whole files are gone or cannot be read.

use crate::error::{Damage, DamageKind};
use crate::format::{self, Checkpoint, Loss, SegmentItem, SegmentSet, Summary};
use crate::log::Segments;
use crate::log::recover::removed_among;

/// The segments behind `last_lsn` that only the checkpoint knows of, as one item: their files are
/// gone or cannot be read. `captured` counts the entries of the segments before, when all of
/// those are known.
pub(crate) fn last_item(
    checkpoint: &Checkpoint,
    last_lsn: u64,
    captured: Option<u64>,
) -> SegmentItem {
    let settled = checkpoint.duplicates + checkpoint.refused + checkpoint.spilled;
    // In order and complete, the counts say how many entries there were in all.
    let exact = checkpoint.clean && !checkpoint.counts_incomplete;
    let captured = captured.filter(|_| exact);
    let counted = captured.map_or(0, |known| checkpoint.offered.saturating_sub(settled + known));
    SegmentItem {
        segment: checkpoint.segment,
        generation: 0,
        first_lsn: last_lsn + 1,
        last_lsn: checkpoint.last_lsn.max(last_lsn),
        entries: checkpoint.entries.max(counted),
    }
}

/// A whole file as damage.
pub(crate) fn file_damage(name: &str) -> Damage {
    Damage {
        segment: name.to_owned(),
        offset: 0,
        bytes: 0,
        kind: DamageKind::File,
        lsn_from: None,
        lsn_to: None,
        entries: None,
    }
}

/// A whole segment that should be there.
pub(crate) fn missing_damage(item: &SegmentItem) -> Damage {
    Damage {
        kind: DamageKind::Missing,
        lsn_from: Some(item.first_lsn),
        lsn_to: Some(item.last_lsn),
        entries: Some(item.entries),
        ..file_damage(&format::segment_name(item.segment, item.generation))
    }
}

/// Damage as it is put on record.
pub(crate) fn loss(segment: u64, damage: &Damage) -> Loss {
    Loss {
        segment,
        offset: damage.offset,
        bytes: damage.bytes,
        lsn_from: damage.lsn_from.unwrap_or(1),
        lsn_to: damage.lsn_to.unwrap_or(0),
        entries: damage.entries.unwrap_or(0),
    }
}

/// How many entries of a lost segment were removed before, as far as the later segments and the
/// rows of the newest one tell. Those whose removal is folded into it were not in it any more.
pub(crate) fn removed_since(
    segments: &Segments,
    set: &SegmentSet,
    newest: &Summary,
    loss: &Loss,
    folded_lsn: u64,
) -> u64 {
    let later = set.segments.iter().map(|item| item.segment).filter(|it| *it > loss.segment);
    // What cannot be read is lost itself, and says nothing.
    let rows = later.filter_map(|number| segments.summary(number).ok());
    let removed = |rows: &Summary| removed_among(rows, folded_lsn, loss.lsn_from, loss.lsn_to);
    rows.map(|rows| removed(&rows)).sum::<u64>() + removed(newest)
}
