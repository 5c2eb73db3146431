//! The new segment after a crash: what goes into it, and what becomes of the one before.
//!
//! Records that nothing proves durable are carried, and the old file is cut where they began. Of a
//! segment that was hardly begun all records are carried, and the file goes: crashes that follow
//! each other would else leave one file each. The new segment then names the one before it as its
//! predecessor, and holds the same segment set, so nothing that the file held is missed.

use std::path::Path;
use std::sync::Arc;

use super::{Opened, Opening, loss};
use crate::env::{Env, OpenMode};
use crate::error::Result;
use crate::format::{self, Frame, Kind, Loss, Predecessor, SegmentEnd, SegmentItem, SegmentSet};
use crate::log::account::{Account, BLOCK, Part};
use crate::log::recover::{self, Survey};
use crate::log::segment::{Item, SegmentFile};
use crate::log::writer::Pending;
use crate::log::{Draft, Old};

/// A segment with at most this share of its size in records of its own was hardly begun.
const STUMP_SHARE: u64 = 16;

/// What is known of the newest segment and of those before it, when it is left after a crash.
pub(super) struct Left {
    pub segment: SegmentFile,
    pub survey: Survey,
    /// The older segments, as the head of the segment lists them.
    pub head: SegmentSet,
    /// As the records before the cut say.
    pub set: SegmentSet,
    /// Older segments that are gone.
    pub missing: Vec<Loss>,
    /// Whether the head says all of the older segments, and none of them is gone.
    pub settled: bool,
}

impl Opening<'_> {
    /// Begins a new segment after a crash. Answers also whether the old file means nothing any more.
    pub(super) fn leave(mut self, left: Left) -> Result<(Opened, bool)> {
        let Left { segment, mut survey, head, set, missing, settled } = left;
        let all_kept = self.put_aside(&segment, &survey);
        self.report.carried_records = survey.kept.len() as u64;
        // The space that the dead process reserved behind the end is still taken.
        let reserved = segment.header.capacity.saturating_sub(segment.len);
        let reserved = if segment.trailer.is_some() { 0 } else { reserved };
        self.account.add(Part::Log, reserved);
        let account = Arc::clone(&self.account);
        if settled && all_kept && self.is_stump(&segment, &survey) {
            let frames = own_frames(&segment, survey.cut)?;
            survey.kept.splice(0..0, frames);
            let opened = self.replace_stump(&segment, survey, head)?;
            account.release(Part::Log, reserved);
            return Ok((opened, true));
        }
        // Bytes that could not be put aside stay; the space that was reserved behind them goes.
        let cut = if all_kept { survey.cut } else { survey.cut.max(survey.data_end) };
        let cut = segment.trailer.is_none().then_some(cut.min(segment.len));
        let opened = self.carry_over(&segment, survey, set, missing)?;
        if let Some(cut) = cut {
            // Only space, reserved space behind the end included: the new segment's header says
            // where this one ends. The space is free for others once the cut is durable.
            if let Err(error) = segment.file.set_len(cut).and_then(|()| segment.file.sync()) {
                tracing::warn!(%error, segment = segment.name, "cannot cut the old segment");
            } else {
                account.release(Part::Log, reserved);
                account.release(Part::Log, segment.len);
                account.add(Part::Log, cut);
            }
        }
        Ok((opened, false))
    }

    /// Whether so little was written to a segment that all of it may be written again.
    fn is_stump(&self, segment: &SegmentFile, survey: &Survey) -> bool {
        let number = segment.header.segment;
        let listed = self.checkpoint.is_none_or(|checkpoint| checkpoint.segment <= number);
        let own_bytes = survey.cut.checked_sub(survey.set_end);
        listed
            && segment.trailer.is_none()
            && segment.header_intact
            && segment.header.generation == 0
            && survey.damage.is_empty()
            && own_bytes.is_some_and(|own| own <= self.config.segment_size() / STUMP_SHARE)
    }

    /// Begins the segment that takes the place of a stump, with all of its records.
    fn replace_stump(
        self,
        segment: &SegmentFile,
        survey: Survey,
        set: SegmentSet,
    ) -> Result<Opened> {
        let before = segment.header.base_lsn.saturating_sub(1);
        let (number, predecessor) = (segment.header.segment, segment.header.predecessor);
        let last_lsn = self.last_lsn(&survey, before);
        let carried = self.carried(survey.kept)?;
        self.begin(number + 1, predecessor, set, carried, last_lsn + 1)
    }

    /// Begins a new segment with the records that nothing proves durable.
    fn carry_over(
        mut self,
        segment: &SegmentFile,
        survey: Survey,
        mut set: SegmentSet,
        missing: Vec<Loss>,
    ) -> Result<Opened> {
        let number = segment.header.segment;
        let cut_lsn = survey.cut_lsn.unwrap_or(segment.header.base_lsn.saturating_sub(1));
        let item = SegmentItem {
            segment: number,
            generation: segment.header.generation,
            first_lsn: segment.header.base_lsn,
            last_lsn: cut_lsn,
            entries: survey.entries,
        };
        let end = SegmentEnd {
            end: survey.cut,
            // Whoever wrote the footer may have died before its sync, so nobody vouches for it.
            footer_crc: 0,
            folded_lsn: segment.header.folded_lsn,
        };
        set.push(item, end);
        let found: Vec<Loss> = survey.damage.iter().map(|damage| loss(number, damage)).collect();
        let lost = found.iter().chain(&missing);
        set.totals.captured += survey.entries;
        set.totals.lost += lost.map(|loss| loss.entries).sum::<u64>();
        set.losses.extend(found);
        set.losses.extend(missing);
        set.tallies = survey.cut_tallies.list();
        self.lose_last(&mut set, number, cut_lsn);
        let next_number = set.segments.last().map_or(number, |item| item.segment) + 1;
        let last_lsn = self.last_lsn(&survey, cut_lsn);
        let predecessor =
            Predecessor { segment: number, last_lsn: cut_lsn, end: survey.cut, footer_crc: 0 };
        let carried = self.carried(survey.kept)?;
        self.segments.add_old(Old::new(item, end));
        self.begin(next_number, Some(predecessor), set, carried, last_lsn + 1)
    }

    /// The last number that may have been given.
    fn last_lsn(&self, survey: &Survey, cut_lsn: u64) -> u64 {
        let known = self.checkpoint.map_or(0, |checkpoint| checkpoint.last_lsn);
        survey.last_lsn.unwrap_or(0).max(cut_lsn).max(known)
    }

    fn carried(&self, kept: Vec<Frame>) -> Result<Vec<Pending>> {
        kept.into_iter().map(|frame| carry(frame, self.header.uuid)).collect()
    }

    /// Where bytes are put aside, and who counts them.
    pub(super) fn quarantine(&self) -> (&dyn Env, &Path, &Account) {
        (&**self.env, &self.config.dir, &self.account)
    }

    /// Copies what recovery cannot use into quarantine. When that fails the bytes stay in place.
    fn put_aside(&mut self, segment: &SegmentFile, survey: &Survey) -> bool {
        let torn = (survey.torn_bytes > 0).then_some((survey.cut, survey.data_end));
        let holes =
            survey.damage.iter().map(|damage| (damage.offset, damage.offset + damage.bytes));
        let mut all_kept = true;
        for (from, to) in holes.chain(torn) {
            let to = to.min(segment.len);
            if from >= to {
                continue;
            }
            match recover::quarantine(self.quarantine(), segment, (from, to)) {
                Ok(name) => self.report.quarantined.push(name),
                Err(error) => {
                    tracing::warn!(%error, "cannot put damaged bytes into quarantine");
                    all_kept = false;
                }
            }
        }
        all_kept
    }
}

/// Removes files that mean nothing any more, unless a reader of another process keeps them: they
/// only take space, and the next open tries again.
pub(super) fn remove_leftovers((env, account): (&dyn Env, &Account), dir: &Path, names: &[String]) {
    if names.is_empty() {
        return;
    }
    let locked = env.try_lock(&dir.join(format::STORE_NAME));
    if !matches!(locked, Ok(Some(_))) {
        tracing::debug!("a reader keeps files that mean nothing any more");
        return;
    }
    let folder = dir.join(format::LOG_DIR);
    let mut bytes = 0;
    for name in names {
        let path = folder.join(name);
        let len = env.open(&path, OpenMode::Read).and_then(|file| file.len());
        match env.unlink(&path) {
            Ok(()) => bytes += len.unwrap_or(0).next_multiple_of(BLOCK),
            Err(error) => {
                tracing::warn!(%error, name, "a file that means nothing any more stays");
            }
        }
    }
    match env.sync_dir(&folder) {
        Ok(()) => account.release(Part::Log, bytes),
        Err(error) => tracing::warn!(%error, "removed files may come back"),
    }
}

/// The records of a segment up to its cut, beside its segment set and what only ends groups.
fn own_frames(segment: &SegmentFile, cut: u64) -> Result<Vec<Frame>> {
    let mut frames = Vec::new();
    segment.scan(cut, &mut |item| {
        if let Item::Frame(frame) = item
            && !matches!(frame.header.kind, Kind::SegmentSet | Kind::Mark)
        {
            frames.push(frame);
        }
        Ok(())
    })?;
    Ok(frames)
}

/// A record that keeps its number in the next segment.
fn carry(frame: Frame, store_uuid: [u8; 16]) -> Result<Pending> {
    let note = recover::note_of(&frame, store_uuid)?;
    let draft = Draft {
        kind: frame.header.kind,
        body_version: frame.header.body_version,
        body_crc: frame.header.body_crc,
        body: frame.body,
        time_ms: frame.header.time_ms,
        drained: frame.header.flags.drained,
        note,
    };
    Ok(Pending { lsn: frame.header.lsn, draft, flags: frame.header.flags })
}
