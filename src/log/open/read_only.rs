//! Opening for reading only: no lock, nothing is written, beside a living owner too.

use std::path::Path;
use std::sync::Arc;

use crate::config::Config;
use crate::env::{Env, Lock, Memory, OpenMode, write_all_at};
use crate::error::{Error, Result};
use crate::format::{self, Checkpoint, Frame, Loss, SegmentHeader, SegmentItem, StoreHeader};
use crate::log::recover::{self, Survey, Witness};
use crate::log::segment::SegmentFile;
use crate::log::{Active, Segments, Tallies};

use super::{
    Found, OpenReport, Opened, SegmentFiles, adopt_old, await_owner, file_damage, fill_ends,
    find_store, head_set, last_item, loss, missing_damage, read_checkpoint, refuse_newer,
};

/// Opens a store for reading only: no lock, nothing is written.
///
/// Beside a living owner it shows what the owner says is durable; else all intact records.
pub(crate) fn open_read_only(env: &Arc<dyn Env>, config: &Config) -> Result<Opened> {
    let dir = &config.dir;
    let mut report = OpenReport::default();
    let header = store_header(&**env, dir, &mut report)?;
    // First, so that no file goes that is listed from here on.
    let pin = pin(&**env, dir);
    let note = await_owner(&**env, config)?;
    let log_dir = dir.join(format::LOG_DIR);
    refuse_newer(&**env, &log_dir)?;
    // First the checkpoint: what it names is there, or is missing.
    let checkpoint = read_checkpoint(&**env, dir);
    let mut files = SegmentFiles::list(&**env, &log_dir)?;
    if let Some(note) = note {
        files.retain_through(note.segment);
    }
    let segments = Arc::new(Segments::new(Arc::clone(env), log_dir.clone(), config.mmap));
    let segment = newest_readable(&**env, &segments, &mut files, &mut report)?;
    let newest = &segment.header.segment;
    let witness = match (segment.trailer, note) {
        (Some(trailer), _) => Witness::End(trailer.start),
        (None, Some(note)) if note.segment == *newest => Witness::End(note.end),
        _ => Witness::Checkpoint(checkpoint.as_ref()),
    };
    let mut survey = recover::survey(&segment, witness)?;
    report.of_survey(&survey, survey.is_clean(checkpoint.as_ref(), *newest));
    let mut head = head_set(&**env, &segments, &files, *newest, &mut survey)?;
    fill_ends(&**env, &segments, &files, &mut head, &segment.header);
    let mut set = survey.set_after(head, false);
    // Beside an owner, the files that its records name are those of the moment that is shown.
    for stand_in in files.stand_ins(&**env, &log_dir, &set, note.is_some()) {
        set.apply(&stand_in);
    }
    let mut missing = adopt_old(&segments, &files, &set, &survey.summary, &mut report);
    let found: Vec<Loss> = survey.damage.iter().map(|damage| loss(*newest, damage)).collect();
    let mut totals = set.totals;
    // Rows behind the cut are shown too, so they count.
    totals.captured += survey.entries + survey.kept_entries();
    let known = note.map_or(u64::MAX, |note| note.segment);
    if let Some(item) = beyond(checkpoint.as_ref(), (*newest, known), &survey, totals.captured) {
        let damage = missing_damage(&item);
        totals.captured += item.entries;
        missing.push(loss(item.segment, &damage));
        report.lost.push(damage);
    }
    let new_losses: Vec<Loss> = found.into_iter().chain(missing).collect();
    totals.lost += new_losses.iter().map(|loss| loss.entries).sum::<u64>();
    let mut tallies = survey.tallies.clone();
    tallies.balance(totals.captured);
    totals = tallies.removed(totals);
    set.losses.extend(new_losses);
    begin(&segments, segment, &survey, tallies.clone());
    Ok(Opened {
        store_uuid: header.uuid,
        segments,
        preparer: None,
        writer: None,
        next_lsn: survey.last_lsn.unwrap_or(0) + 1,
        checkpoint,
        pin,
        note,
        totals,
        tallies,
        set,
        report,
    })
}

/// Keeps the files of the store where they are, as far as the file system can; see [`Opened::pin`].
fn pin(env: &dyn Env, dir: &Path) -> Option<Box<dyn Lock>> {
    env.try_lock_shared(&dir.join(format::STORE_NAME)).unwrap_or_else(|error| {
        tracing::debug!(%error, "the files of the store cannot be pinned");
        None
    })
}

/// The segments behind the newest file, up to the owner's, that the checkpoint knows of.
fn beyond(
    checkpoint: Option<&Checkpoint>,
    (newest, known): (u64, u64),
    survey: &Survey,
    captured: u64,
) -> Option<SegmentItem> {
    let checkpoint = checkpoint.filter(|last| last.segment > newest && last.segment <= known)?;
    Some(last_item(checkpoint, survey.last_lsn.unwrap_or(0), Some(captured)))
}

/// Shows the newest segment's records to readers.
fn begin(segments: &Segments, segment: SegmentFile, survey: &Survey, tallies: Tallies) {
    let end = survey.kept.last().map_or(survey.cut, Frame::end);
    let (file, summary) = (Arc::new(segment), survey.summary.clone());
    segments.begin(Active { file, summary, tallies, end, synced_end: end }, None);
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
    files: &mut SegmentFiles,
    report: &mut OpenReport,
) -> Result<SegmentFile> {
    let mut unreadable = Vec::new();
    while let Some((newest, generation)) = files.newest() {
        let path = segments.path(newest, generation);
        match SegmentFile::open(env, &path, OpenMode::Read, false) {
            Err(Error::Damaged(damage)) => unreadable.push(*damage),
            other => {
                let segment = other?.into_newest()?;
                files.take_replaced(&segment.header);
                return Ok(segment);
            }
        }
        files.remove(newest);
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
