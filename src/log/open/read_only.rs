//! Opening for reading only: no lock, nothing is written, beside a living owner too.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::config::Config;
use crate::env::{Env, Memory, OpenMode, write_all_at};
use crate::error::{Error, Result};
use crate::format::{self, Frame, Loss, SegmentHeader, StoreHeader};
use crate::log::recover::{self, Survey, Witness};
use crate::log::segment::SegmentFile;
use crate::log::{Active, Segments, Tallies};

use super::{
    Found, OpenReport, Opened, adopt_old, await_owner, file_damage, find_store, last_item,
    list_segments, loss, missing_damage, read_checkpoint, rebuild_set, refuse_newer,
};

/// Opens a store for reading only: no lock, nothing is written.
///
/// Beside a living owner it shows what the owner says is durable; else all intact records.
pub(crate) fn open_read_only(env: &Arc<dyn Env>, config: &Config) -> Result<Opened> {
    let dir = &config.dir;
    let mut report = OpenReport::default();
    let header = store_header(&**env, dir, &mut report)?;
    let note = await_owner(&**env, config)?;
    let log_dir = dir.join(format::LOG_DIR);
    refuse_newer(&**env, &log_dir)?;
    // First the checkpoint: what it names is there, or is missing.
    let checkpoint = read_checkpoint(&**env, dir);
    let mut files = list_segments(&**env, &log_dir, false)?;
    if let Some(note) = note {
        files.retain(|number, _| *number <= note.segment);
    }
    let segments = Arc::new(Segments::new(Arc::clone(env), log_dir, config.mmap));
    let segment = newest_readable(&**env, &segments, &mut files, &mut report)?;
    let newest = &segment.header.segment;
    let witness = match (segment.trailer, note) {
        (Some(trailer), _) => Witness::End(trailer.start),
        (None, Some(note)) if note.segment == *newest => Witness::End(note.end),
        _ => Witness::Checkpoint(checkpoint.as_ref()),
    };
    let mut survey = recover::survey(&segment, witness)?;
    report.of_survey(&survey, survey.is_clean(checkpoint.as_ref(), *newest));
    let head = survey.set.clone().unwrap_or_else(|| {
        let set = rebuild_set(&**env, &segments, &files, *newest);
        survey.count_from(&set.tallies);
        set
    });
    let set = survey.set_after(head, false);
    let mut missing =
        adopt_old(env, &segments, &files, &set, (&segment, &survey.summary), &mut report);
    let found: Vec<Loss> = survey.damage.iter().map(|damage| loss(*newest, damage)).collect();
    let mut totals = set.totals;
    // Rows behind the cut are shown too, so they count.
    let kept = survey.kept.iter().filter(|frame| frame.header.kind == format::Kind::Entry);
    totals.captured += survey.entries + kept.count() as u64;
    let known = note.map_or(u64::MAX, |note| note.segment);
    let beyond = checkpoint.filter(|last| last.segment > *newest && last.segment <= known);
    if let Some(checkpoint) = beyond {
        let last_lsn = survey.last_lsn.unwrap_or(0);
        let item = last_item(&checkpoint, last_lsn, Some(totals.captured));
        let damage = missing_damage(&item);
        totals.captured += item.entries;
        missing.push(loss(item.segment, &damage));
        report.lost.push(damage);
    }
    let new_losses = || found.iter().chain(&missing);
    totals.lost += new_losses().map(|loss| loss.entries).sum::<u64>();
    let mut tallies = survey.tallies.clone();
    tallies.balance(totals.captured);
    totals = tallies.removed(totals);
    let losses = set.losses.iter().chain(new_losses()).copied().collect();
    begin(&segments, segment, &survey, tallies.clone());
    Ok(Opened {
        items: set.segments.clone(),
        store_uuid: header.uuid,
        segments,
        preparer: None,
        writer: None,
        next_lsn: survey.last_lsn.unwrap_or(0) + 1,
        checkpoint,
        totals,
        tallies,
        losses,
        drained: set.drained,
        clock: set.clock,
        report,
    })
}

/// Shows the newest segment's records to readers.
fn begin(segments: &Segments, segment: SegmentFile, survey: &Survey, tallies: Tallies) {
    let end = survey.kept.last().map_or(survey.cut, Frame::end);
    let (file, summary) = (Arc::new(segment), survey.summary.clone());
    segments.begin(Active { file, summary, tallies, end, synced_end: end });
}

/// What the store file says, or what stands in for it, which is then on the report.
fn store_header(env: &dyn Env, dir: &Path, report: &mut OpenReport) -> Result<StoreHeader> {
    match find_store(env, dir)? {
        Found::Store(header) => Ok(header),
        Found::Damaged(header) => {
            report.lost.push(file_damage(format::STORE_NAME));
            Ok(header)
        }
        Found::Nothing => {
            let reason = "there is no store in it".to_owned();
            Err(Error::NotAStore { dir: dir.to_owned(), reason })
        }
    }
}

/// The newest segment that can be read; those behind it are taken off the list. A store that
/// lost all of them, or was never given one, reads as an empty one.
fn newest_readable(
    env: &dyn Env,
    segments: &Segments,
    files: &mut BTreeMap<u64, u32>,
    report: &mut OpenReport,
) -> Result<SegmentFile> {
    let mut unreadable = Vec::new();
    while let Some((newest, generation)) = files.last_key_value() {
        let path = segments.path(*newest, *generation);
        match SegmentFile::open(env, &path, OpenMode::Read, false) {
            Err(Error::Damaged(damage)) => unreadable.push(*damage),
            other => return other?.into_newest(),
        }
        files.pop_last();
    }
    report.lost.append(&mut unreadable);
    no_segment().map_err(|error| Error::io("stand in for", &segments.path(0, 0), error))?
}

/// Stands in for the newest segment where there is none: number 0, in memory, without records.
fn no_segment() -> std::io::Result<Result<SegmentFile>> {
    let memory = Memory::default();
    let path = Path::new("/none");
    let file = memory.open(path, OpenMode::CreateNew)?;
    let header = SegmentHeader {
        store_uuid: [0; 16],
        segment: 0,
        base_lsn: 1,
        salt: 1,
        fallback: false,
        created_ms: 0,
        predecessor: None,
        generation: 0,
        folded_lsn: 0,
        capacity: format::SEGMENT_HEADER_LEN,
    };
    write_all_at(&*file, &header.encode(), 0)?;
    Ok(SegmentFile::open(&memory, path, OpenMode::Read, false))
}
