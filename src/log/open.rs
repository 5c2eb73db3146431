//! Opening a store: the lock, the store file, the segments, and the new segment after a crash.
//!
//! Order after a crash, and what another crash between the steps leaves:
//!
//! 1. quarantine of the bytes that cannot be used, synced: copies too many do no harm.
//! 2. the new segment with the records carried over, synced and named: until the name is
//!    durable the next open does the same again.
//! 3. the old file is cut: until then the new segment's header says where it ends.

mod checkpoint;
mod missing;
mod owner;
mod read_only;
mod segment_set;
mod store_file;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::config::Config;
use crate::entry::Timestamp;
use crate::env::{Env, Lock, NameKind, OpenMode, read_exact_at};
use crate::error::{Damage, Error, Result};
use crate::format::{
    self, Checkpoint, ClockBody, FileName, Frame, Loss, Predecessor, SegmentEnd, SegmentItem,
    SegmentSet, StoreHeader, Summary, Totals,
};

use super::prepare::Preparer;
use super::recover::{self, Survey, Witness};
use super::segment::SegmentFile;
use super::writer::{Birth, Born, Pending, Writer};
use super::{Active, Draft, Segments, Tallies};

pub(crate) use checkpoint::{read_checkpoint, write_checkpoint};
pub(crate) use missing::{file_damage, last_item, loss, missing_damage, removed_since};
pub(crate) use owner::await_owner;
pub(crate) use read_only::open_read_only;
pub(crate) use store_file::{check_store, store_file_damaged, store_uuid};

use owner::take_lock;
use segment_set::rebuild_set;
use store_file::{Found, create_store, find_store};

/// What opening found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OpenReport {
    /// Whether the store was made by this open.
    pub created: bool,
    /// Whether the store had been closed in order.
    pub clean: bool,
    /// Records read from the newest segment.
    pub replayed_records: u64,
    /// Records written again because no later write proved that they were durable.
    pub carried_records: u64,
    /// Bytes of unfinished writes that were put aside.
    pub torn_bytes: u64,
    /// Damage found, with the exact ranges of sequence numbers.
    pub lost: Vec<Damage>,
    /// Files written to `quarantine/`.
    pub quarantined: Vec<String>,
    /// Entries brought home from fallback files.
    pub drained: u64,
}

impl OpenReport {
    /// What the newest segment told.
    fn of_survey(&mut self, survey: &Survey, clean: bool) {
        self.clean = clean;
        self.replayed_records = survey.records;
        self.torn_bytes = survey.torn_bytes;
        self.lost.extend(survey.damage.iter().cloned());
    }
}

/// A store that was opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub store_uuid: [u8; 16],
    pub segments: Arc<Segments>,
    pub preparer: Option<Arc<Preparer>>,
    /// `None` when opened for reading only.
    pub writer: Option<Box<Writer>>,
    pub next_lsn: u64,
    pub checkpoint: Option<Checkpoint>,
    pub totals: Totals,
    /// How many records of each cause were written, and to what.
    pub tallies: Tallies,
    /// The older segments, as the log lists them.
    pub items: Vec<SegmentItem>,
    /// All losses that are on record or were just found.
    pub losses: Vec<Loss>,
    /// Fallback files that are home.
    pub drained: Vec<[u8; 16]>,
    /// What was known of the time.
    pub clock: ClockBody,
    pub report: OpenReport,
}

/// Opens a store for writing, making it when the directory is empty or missing.
pub(crate) fn open(env: &Arc<dyn Env>, config: &Config) -> Result<Opened> {
    let dir = &config.dir;
    let found = find_store(&**env, dir)?;
    refuse_newer(&**env, &dir.join(format::LOG_DIR))?;
    // A store file is only written once its directory is durable, a segment once its folder is.
    if !matches!(found, Found::Store(_)) {
        env.create_dir(dir).map_err(|error| Error::io("create", dir, error))?;
    }
    let lock = take_lock(&**env, config)?;
    let mut report = OpenReport::default();
    let header = match find_store(&**env, dir)? {
        Found::Store(header) => header,
        Found::Nothing => {
            report.created = true;
            create_store(&**env, dir, None)?
        }
        Found::Damaged(header) => {
            report.lost.push(file_damage(format::STORE_NAME));
            create_store(&**env, dir, Some(header))?
        }
    };
    let log_dir = dir.join(format::LOG_DIR);
    let checkpoint = read_checkpoint(&**env, dir);
    let files = match list_segments(&**env, &log_dir, true) {
        Ok(files) if !files.is_empty() => files,
        Err(Error::Io { source, .. }) if source.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io("list", &log_dir, source));
        }
        _ => {
            env.create_dir(&log_dir).map_err(|error| Error::io("create", &log_dir, error))?;
            BTreeMap::new()
        }
    };
    let opening = Opening {
        env,
        config,
        header,
        lock,
        segments: Arc::new(Segments::new(Arc::clone(env), log_dir, config.mmap)),
        checkpoint,
        report,
    };
    opening.run(&files)
}

/// Refuses a log with a segment of a newer version, before anything is changed.
fn refuse_newer(env: &dyn Env, log_dir: &Path) -> Result<()> {
    let files = list_segments(env, log_dir, false)?;
    // Versions only rise, so the newest segment speaks for all.
    let Some((number, generation)) = files.last_key_value() else { return Ok(()) };
    let path = log_dir.join(format::segment_name(*number, *generation));
    match SegmentFile::open(env, &path, OpenMode::Read, false) {
        Err(error @ Error::Version { .. }) => Err(error),
        _ => Ok(()),
    }
}

/// The segments by number, with their generation. Files that were being prepared are removed.
pub(crate) fn list_segments(
    env: &dyn Env,
    log_dir: &Path,
    tidy: bool,
) -> Result<BTreeMap<u64, u32>> {
    let names = match env.list(log_dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        other => other.map_err(|error| Error::io("list", log_dir, error))?,
    };
    let mut segments = BTreeMap::new();
    for (name, kind) in names {
        match FileName::parse(&name) {
            FileName::Segment(..) if !matches!(kind, NameKind::File(_)) => {
                tracing::warn!(name, "not a regular file in the place of a segment");
            }
            FileName::Segment(number, generation) => {
                let known = segments.entry(number).or_insert(generation);
                *known = generation.max(*known);
            }
            FileName::Next(_) if tidy => {
                let path = log_dir.join(&name);
                env.unlink(&path).map_err(|error| Error::io("remove", &path, error))?;
            }
            FileName::Next(_) => {}
            _ => tracing::warn!(name, "a file in the log folder is not ours; it is left alone"),
        }
    }
    Ok(segments)
}

/// The way from the files to an open log.
struct Opening<'a> {
    env: &'a Arc<dyn Env>,
    config: &'a Config,
    header: StoreHeader,
    lock: Arc<dyn Lock>,
    segments: Arc<Segments>,
    checkpoint: Option<Checkpoint>,
    report: OpenReport,
}

impl Opening<'_> {
    fn run(mut self, files: &BTreeMap<u64, u32>) -> Result<Opened> {
        let Some((newest, generation)) = files.last_key_value() else {
            return self.begin_empty();
        };
        let path = self.segments.path(*newest, *generation);
        let segment = match SegmentFile::open(&**self.env, &path, OpenMode::Write, false) {
            Err(Error::Damaged(damage)) => return self.pass_over(files, *newest, *damage),
            other => other?.into_newest()?,
        };
        let witness =
            segment.trailer.map_or(Witness::Checkpoint(self.checkpoint.as_ref()), |trailer| {
                Witness::End(trailer.start)
            });
        let mut survey = recover::survey(&segment, witness)?;
        let sealed = segment.trailer.is_some();
        let clean =
            !sealed && segment.header_intact && survey.is_clean(self.checkpoint.as_ref(), *newest);
        #[cfg(feature = "planted")]
        let clean = clean || super::planted::append_after_tear();
        self.report.of_survey(&survey, clean);
        let set = match survey.set.clone() {
            Some(set) => set,
            None => {
                let set = rebuild_set(&**self.env, &self.segments, files, *newest);
                survey.count_from(&set.tallies);
                set
            }
        };
        let newest = (&segment, &survey.summary);
        let whole = survey.set_after(set.clone(), false);
        let missing = adopt_old(self.env, &self.segments, files, &whole, newest, &mut self.report);
        if clean && missing.is_empty() {
            return Ok(self.go_on(segment, survey, whole));
        }
        let set = survey.set_after(set, true);
        self.carry_over(&segment, survey, set, missing)
    }

    /// Segments behind the newest file that the checkpoint proves: lists them, as lost.
    fn lose_last(&mut self, set: &mut SegmentSet, newest: u64, last_lsn: u64) {
        let Some(checkpoint) = self.checkpoint.filter(|known| known.segment > newest) else {
            return;
        };
        let item = last_item(&checkpoint, last_lsn, Some(set.totals.captured));
        self.lose_item(set, item, missing_damage(&item));
    }

    /// Lists a segment of which nothing is left, so that its entries are counted, as lost.
    fn lose_item(&mut self, set: &mut SegmentSet, item: SegmentItem, damage: Damage) {
        set.push(item, SegmentEnd::default());
        set.totals.captured += item.entries;
        set.totals.lost += item.entries;
        set.losses.push(loss(item.segment, &damage));
        self.report.lost.push(damage);
    }

    /// A store without a segment: new, or its log is gone.
    fn begin_empty(mut self) -> Result<Opened> {
        let next_lsn = self.checkpoint.map_or(1, |checkpoint| checkpoint.last_lsn + 1);
        let number = self.checkpoint.map_or(1, |checkpoint| checkpoint.segment + 1);
        let mut set = SegmentSet { clock: self.first_clock(), ..SegmentSet::default() };
        if next_lsn > 1 {
            self.lose_last(&mut set, 0, 0);
        }
        let predecessor = (next_lsn > 1).then(|| Predecessor {
            segment: number - 1,
            last_lsn: next_lsn - 1,
            end: 0,
            footer_crc: 0,
        });
        self.begin(number, predecessor, set, Vec::new(), next_lsn)
    }

    /// What is known of the time when nothing is: whatever the wall clock shows.
    fn first_clock(&self) -> ClockBody {
        let now = Timestamp(self.env.wall_ms());
        ClockBody { wall: now, trusted: now, ..ClockBody::default() }
    }

    /// The newest segment cannot be read at all: its records are lost, the rest goes on.
    fn pass_over(
        mut self,
        files: &BTreeMap<u64, u32>,
        newest: u64,
        damage: Damage,
    ) -> Result<Opened> {
        let mut set = rebuild_set(&**self.env, &self.segments, files, newest);
        let before = set.segments.last().map_or(0, |item| item.last_lsn);
        let known = self.checkpoint.filter(|checkpoint| checkpoint.segment == newest);
        let item = match known {
            Some(checkpoint) => last_item(&checkpoint, before, None),
            // Without a witness leave room for as many records as the file could hold.
            None => SegmentItem {
                segment: newest,
                generation: 0,
                first_lsn: before + 1,
                last_lsn: before + 1 + damage.bytes / format::RECORD_HEADER_LEN as u64,
                entries: 0,
            },
        };
        let damage = Damage {
            lsn_from: Some(item.first_lsn),
            lsn_to: Some(item.last_lsn),
            entries: known.map(|_| item.entries),
            ..damage
        };
        self.segments.add_old(newest, 0, None, Some(item));
        if let Err(error) = self.put_file_aside(newest) {
            tracing::warn!(%error, "a segment that cannot be read was not put into quarantine");
        }
        self.lose_item(&mut set, item, damage);
        self.lose_last(&mut set, newest, item.last_lsn);
        let last = set.segments.last().copied().unwrap_or(item);
        let (number, last_lsn) = (last.segment, last.last_lsn);
        let predecessor = Predecessor { segment: number, last_lsn, end: 0, footer_crc: 0 };
        self.begin(number + 1, Some(predecessor), set, Vec::new(), last_lsn + 1)
    }

    /// Copies a segment that cannot be read at all into quarantine.
    fn put_file_aside(&mut self, number: u64) -> Result<()> {
        let path = self.segments.path(number, 0);
        let open = self.env.open(&path, OpenMode::Read);
        let file = open.map_err(|error| Error::io("open", &path, error))?;
        let len = file.len().map_err(|error| Error::io("measure", &path, error))?;
        let name = format::segment_name(number, 0);
        let name =
            super::quarantine_bytes(&**self.env, &self.config.dir, &name, 0, len, &|to, at| {
                read_exact_at(&*file, to, at).map_err(|error| Error::io("read", &path, error))
            })?;
        self.report.quarantined.push(name);
        Ok(())
    }

    /// Continues the newest segment after a clean close.
    fn go_on(self, segment: SegmentFile, survey: Survey, set: SegmentSet) -> Opened {
        let end = survey.kept.last().map_or(survey.cut, Frame::end);
        let last_lsn = survey.last_lsn.unwrap_or(0);
        let segment = Arc::new(segment);
        let file = Arc::clone(&segment);
        let mut tallies = survey.tallies;
        tallies.balance(set.totals.captured + survey.summary.entries.len() as u64);
        let summary = survey.summary;
        self.segments.begin(Active { file, summary, tallies, end, synced_end: end });
        let tail = Tail {
            segment,
            end,
            group: survey.next_group,
            records: u32::try_from(survey.records).unwrap_or(u32::MAX),
            last_lsn,
        };
        self.finish(tail, set, last_lsn + 1)
    }

    /// Begins a new segment after a crash, with the records that nothing proves durable.
    fn carry_over(
        mut self,
        segment: &SegmentFile,
        survey: Survey,
        mut set: SegmentSet,
        missing: Vec<Loss>,
    ) -> Result<Opened> {
        let all_kept = self.put_aside(segment, &survey);
        let number = segment.header.segment;
        let cut_lsn = survey.cut_lsn.unwrap_or(segment.header.base_lsn.saturating_sub(1));
        let item = SegmentItem {
            segment: number,
            generation: segment.header.generation,
            first_lsn: segment.header.base_lsn,
            last_lsn: cut_lsn,
            entries: survey.entries,
        };
        set.push(item, SegmentEnd { end: survey.cut, ..SegmentEnd::default() });
        let found: Vec<Loss> = survey.damage.iter().map(|damage| loss(number, damage)).collect();
        let lost = found.iter().chain(&missing);
        set.totals.captured += survey.entries;
        set.totals.lost += lost.map(|loss| loss.entries).sum::<u64>();
        set.losses.extend(found);
        set.losses.extend(missing);
        set.tallies = survey.cut_tallies.list();
        self.lose_last(&mut set, number, cut_lsn);
        let next_number = set.segments.last().map_or(number, |item| item.segment) + 1;
        self.report.carried_records = survey.kept.len() as u64;
        let carried = survey.kept.into_iter();
        let uuid = self.header.uuid;
        let carried = carried.map(|frame| carry(frame, uuid)).collect::<Result<Vec<_>>>()?;
        let known = self.checkpoint.map_or(0, |checkpoint| checkpoint.last_lsn);
        let last_lsn = survey.last_lsn.unwrap_or(0).max(cut_lsn).max(known);
        let predecessor = Predecessor {
            segment: number,
            last_lsn: cut_lsn,
            end: survey.cut,
            // Whoever wrote the footer may have died before its sync, so nobody vouches for it.
            footer_crc: 0,
        };
        self.segments.add_old(number, item.generation, Some(survey.cut), Some(item));
        let cut = (segment.trailer.is_none() && all_kept && survey.cut <= segment.len)
            .then_some(survey.cut);
        let opened = self.begin(next_number, Some(predecessor), set, carried, last_lsn + 1)?;
        if let Some(cut) = cut {
            // Only space, reserved space behind the end included: the new segment's header says
            // where this one ends.
            if let Err(error) = segment.file.set_len(cut) {
                tracing::warn!(%error, segment = segment.name, "cannot cut the old segment");
            }
        }
        Ok(opened)
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
            match recover::quarantine(&**self.env, &self.config.dir, segment, from, to) {
                Ok(name) => self.report.quarantined.push(name),
                Err(error) => {
                    tracing::warn!(%error, "cannot put damaged bytes into quarantine");
                    all_kept = false;
                }
            }
        }
        all_kept
    }

    fn begin(
        self,
        number: u64,
        predecessor: Option<Predecessor>,
        mut set: SegmentSet,
        carried: Vec<Pending>,
        next_lsn: u64,
    ) -> Result<Opened> {
        let mut tallies = Tallies::of_list(&set.tallies);
        tallies.balance(set.totals.captured);
        set.totals = tallies.removed(set.totals);
        set.tallies = tallies.list();
        let log_dir = self.config.dir.join(format::LOG_DIR);
        // The process that named the segments before may have died before their names were
        // durable; a power cut could then keep the new name without the old ones.
        self.env.sync_dir(&log_dir).map_err(|e| Error::io("sync the folder", &log_dir, e))?;
        let birth = Birth {
            env: &**self.env,
            log_dir: &log_dir,
            config: self.config,
            store_uuid: self.header.uuid,
            segment: number,
            predecessor,
            set: &set,
            carried,
        };
        let born = birth.create()?;
        let tail = Tail {
            segment: Arc::clone(&born.file),
            end: born.end,
            group: 2,
            records: born.records,
            last_lsn: born.last_lsn,
        };
        let (end, synced_end) = (born.end, born.end);
        let Born { file, summary, tallies, controls, .. } = born;
        controls.iter().for_each(|control| set.apply(control));
        let active = Active { file, summary, tallies, end, synced_end };
        self.segments.begin(active);
        Ok(self.finish(tail, set, next_lsn))
    }

    fn finish(self, tail: Tail, set: SegmentSet, next_lsn: u64) -> Opened {
        let log_dir = self.config.dir.join(format::LOG_DIR);
        let preparer = Arc::new(Preparer::new(Arc::clone(self.env), log_dir.clone(), self.config));
        let (losses, drained) = (set.losses.clone(), set.drained.clone());
        let clock = set.clock.clone();
        let writer = Writer {
            env: Arc::clone(self.env),
            log_dir,
            config: self.config.clone(),
            store_uuid: self.header.uuid,
            segments: Arc::clone(&self.segments),
            preparer: Arc::clone(&preparer),
            lock: self.lock,
            segment: tail.segment,
            end: tail.end,
            synced_end: tail.end,
            synced_lsn: tail.last_lsn,
            synced_entries: self.segments.with_active(|active| active.summary.entries.len() as u64),
            group: tail.group,
            unsynced: false,
            records: tail.records,
            last_lsn: tail.last_lsn,
            set,
            buffer: Vec::new(),
        };
        writer.publish();
        Opened {
            items: writer.set.segments.clone(),
            store_uuid: self.header.uuid,
            segments: self.segments,
            preparer: Some(preparer),
            totals: writer.totals(),
            tallies: writer.segments.with_active(|active| active.tallies.clone()),
            writer: Some(Box::new(writer)),
            next_lsn,
            checkpoint: self.checkpoint,
            losses,
            drained,
            clock,
            report: self.report,
        }
    }
}

/// Where an open segment goes on.
struct Tail {
    segment: Arc<SegmentFile>,
    end: u64,
    group: u32,
    records: u32,
    last_lsn: u64,
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

/// Lists the older segments for readers; returns those that should be there and are not. The
/// newest segment comes with its rows.
fn adopt_old(
    env: &Arc<dyn Env>,
    segments: &Segments,
    files: &BTreeMap<u64, u32>,
    set: &SegmentSet,
    (newest, rows): (&SegmentFile, &Summary),
    report: &mut OpenReport,
) -> Vec<Loss> {
    let mut missing = Vec::new();
    let reported = report.lost.len();
    for (index, item) in set.segments.iter().enumerate() {
        if !files.contains_key(&item.segment) {
            let damage = missing_damage(item);
            let known = set
                .losses
                .iter()
                .any(|loss| loss.segment == item.segment && loss.offset == 0 && loss.bytes == 0);
            if !known {
                let earlier = set.losses.iter().filter(|loss| loss.segment == item.segment);
                let counted: u64 = earlier.map(|loss| loss.entries).sum();
                let mut whole = loss(item.segment, &damage);
                whole.entries = whole.entries.saturating_sub(counted);
                missing.push(whole);
                report.lost.push(damage);
            }
            continue;
        }
        let bound = match set.segments.get(index + 1) {
            Some(next) if files.contains_key(&next.segment) => {
                let path = segments.path(next.segment, next.generation);
                let file = SegmentFile::open(&**env, &path, OpenMode::Read, false).ok();
                file.and_then(|file| bound_of(&file.header, item.segment))
            }
            Some(_) => None,
            None => bound_of(&newest.header, item.segment),
        };
        segments.add_old(item.segment, item.generation, bound, Some(*item));
    }
    for (loss, damage) in missing.iter_mut().zip(report.lost.iter_mut().skip(reported)) {
        let removed = removed_since(segments, set, rows, loss);
        loss.entries = loss.entries.saturating_sub(removed);
        damage.entries = damage.entries.map(|entries| entries.saturating_sub(removed));
    }
    missing
}

/// Where a segment ends, as the one behind it says.
fn bound_of(header: &format::SegmentHeader, segment: u64) -> Option<u64> {
    header
        .predecessor
        .filter(|predecessor| predecessor.segment == segment)
        .map(|predecessor| predecessor.end)
}
