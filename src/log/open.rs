//! Opening a store: the lock, the store file, the segments, and the new segment after a crash.
//!
//! Order after a crash, and what another crash between the steps leaves:
//!
//! 1. quarantine of the bytes that cannot be used, synced: copies too many do no harm.
//! 2. the new segment with the records carried over, synced and named: until the name is
//!    durable the next open does the same again.
//! 3. the old file is cut: until then the new segment's header says where it ends.

mod carry;
mod checkpoint;
mod files;
mod missing;
mod owner;
mod read_only;
mod segment_set;
mod store_file;

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::config::Config;
use crate::entry::Timestamp;
use crate::env::{Env, Lock, OpenMode, read_around};
use crate::error::{Damage, Error, Result};
use crate::format::{
    self, Checkpoint, ClockBody, Frame, LockNote, Loss, Predecessor, SegmentEnd, SegmentHeader,
    SegmentItem, SegmentSet, StoreHeader, Summary, Totals,
};

use super::account::{Account, Claim, Part};
use super::ballast::Ballast;
use super::prepare::Preparer;
use super::quarantine::keep_bytes;
use super::recover::{self, Survey, Witness};
use super::segment::SegmentFile;
use super::writer::{Birth, Born, Pending, Writer, is_no_space, small_segment_sizes};
use super::{Active, Old, Segments, Tallies};

pub(crate) use checkpoint::{read_checkpoint, write_checkpoint};
pub(crate) use files::SegmentFiles;
pub(crate) use missing::{file_damage, last_item, loss, missing_damage, removed_since};
pub(crate) use owner::await_owner;
pub(crate) use read_only::open_read_only;
pub(crate) use store_file::{check_store, store_file_damaged, store_uuid};

use carry::Left;
use owner::take_lock;
use segment_set::{head_set, rebuild_set};
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
    /// What is known of the older segments, those that are gone and losses just found included.
    pub set: SegmentSet,
    /// As long as a reader has it, the owner keeps the files that the reader was shown.
    pub pin: Option<Box<dyn Lock>>,
    /// The owner's note, beside an owner.
    pub note: Option<LockNote>,
    pub report: OpenReport,
}

/// Opens a store for writing, making it when the directory is empty or missing. The account
/// and the ballast are those of the writer.
pub(crate) fn open(
    env: &Arc<dyn Env>,
    config: &Config,
) -> Result<(Opened, Arc<Account>, Arc<Ballast>)> {
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
    let mut files = SegmentFiles::list(&**env, &log_dir)?;
    if files.is_empty() {
        env.create_dir(&log_dir).map_err(|error| Error::io("create", &log_dir, error))?;
    }
    files.tidy(&**env, &log_dir)?;
    let account = Arc::new(Account::open(&**env, config)?);
    let ballast = Arc::new(Ballast::open(Arc::clone(env), config, Arc::clone(&account))?);
    let opening = Opening {
        env,
        config,
        header,
        lock,
        account: Arc::clone(&account),
        ballast: Arc::clone(&ballast),
        segments: Arc::new(Segments::new(Arc::clone(env), log_dir, config.mmap)),
        checkpoint,
        report,
    };
    opening.run(files).map(|opened| (opened, account, ballast))
}

/// Refuses a log with a segment of a newer version, before anything is changed.
fn refuse_newer(env: &dyn Env, log_dir: &Path) -> Result<()> {
    let files = SegmentFiles::list(env, log_dir)?;
    // Versions only rise, so the newest segment speaks for all.
    let Some((number, generation)) = files.newest() else { return Ok(()) };
    let path = log_dir.join(format::segment_name(number, generation));
    match SegmentFile::open(env, &path, OpenMode::Read, false) {
        Err(error @ Error::Version { .. }) => Err(error),
        _ => Ok(()),
    }
}

/// The way from the files to an open log.
struct Opening<'a> {
    env: &'a Arc<dyn Env>,
    config: &'a Config,
    header: StoreHeader,
    lock: Arc<dyn Lock>,
    account: Arc<Account>,
    ballast: Arc<Ballast>,
    segments: Arc<Segments>,
    checkpoint: Option<Checkpoint>,
    report: OpenReport,
}

impl Opening<'_> {
    fn run(mut self, mut files: SegmentFiles) -> Result<Opened> {
        let Some((newest, generation)) = files.newest() else {
            return self.begin_empty();
        };
        let path = self.segments.path(newest, generation);
        let segment = match SegmentFile::open(&**self.env, &path, OpenMode::Write, false) {
            Err(Error::Damaged(damage)) => return self.pass_over(&files, newest, *damage),
            other => other?.into_newest()?,
        };
        let witness =
            segment.trailer.map_or(Witness::Checkpoint(self.checkpoint.as_ref()), |trailer| {
                Witness::End(trailer.start)
            });
        let mut survey = recover::survey(&segment, witness)?;
        let sealed = segment.trailer.is_some();
        let clean =
            !sealed && segment.header_intact && survey.is_clean(self.checkpoint.as_ref(), newest);
        #[cfg(feature = "planted")]
        let clean = clean || super::planted::has(super::planted::Bug::AppendAfterTear);
        self.report.of_survey(&survey, clean);
        let replaced = files.take_replaced(&segment.header);
        let has_head = survey.set.is_some();
        let mut head = head_set(&**self.env, &self.segments, &files, newest, &mut survey)?;
        let env = &**self.env;
        fill_ends(env, &self.segments, &files, &mut head, &segment.header);
        let mut whole = survey.set_after(head.clone(), false);
        let mut set = survey.set_after(head.clone(), true);
        let log_dir = self.config.dir.join(format::LOG_DIR);
        let stand_ins = files.stand_ins(env, &log_dir, &whole, false);
        for stand_in in &stand_ins {
            whole.apply(stand_in);
            set.apply(stand_in);
        }
        let mut leftovers = files.leftovers(&whole, newest, has_head);
        leftovers.extend(replaced);
        let rows = &survey.summary;
        let missing = adopt_old(&self.segments, &files, &whole, rows, &mut self.report);
        let (config, account) = (self.config, Arc::clone(&self.account));
        let opened = if clean && missing.is_empty() {
            self.go_on(segment, survey, whole)
        } else {
            let settled = has_head && stand_ins.is_empty() && missing.is_empty();
            let name = segment.name.clone();
            let left = Left { segment, survey, head, set, missing, settled };
            let (opened, is_replaced) = self.leave(left)?;
            leftovers.extend(is_replaced.then_some(name));
            opened
        };
        carry::remove_leftovers((env, &account), &config.dir, &leftovers);
        Ok(opened)
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
    fn pass_over(mut self, files: &SegmentFiles, newest: u64, damage: Damage) -> Result<Opened> {
        let mut set = rebuild_set(&**self.env, &self.segments, files, newest)?;
        set.ends.resize(set.segments.len(), SegmentEnd::default());
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
        self.segments.add_old(Old::new(item, SegmentEnd::default()));
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
        let name = keep_bytes(self.quarantine(), &name, (0, len), &|to, at| {
            read_around(&*file, to, at).map_err(|error| Error::io("read", &path, error))
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
        self.segments.begin(Active { file, summary, tallies, end, synced_end: end }, None);
        let reserved = segment.header.capacity.saturating_sub(segment.len);
        self.account.add(Part::Log, reserved);
        let tail = Tail {
            restated: survey.set_version == format::Kind::SegmentSet.body_version(),
            segment,
            end,
            for_changes: false,
            group: survey.next_group,
            records: u32::try_from(survey.records).unwrap_or(u32::MAX),
            last_lsn,
        };
        self.finish(tail, set, last_lsn + 1)
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
        let whole = self.config.segment_size();
        let mut birth = Birth {
            env: &**self.env,
            log_dir: &log_dir,
            segment_bytes: whole,
            store_uuid: self.header.uuid,
            segment: number,
            predecessor,
            set: &set,
            carried,
        };
        let born = self.create(&mut birth)?;
        let tail = Tail {
            restated: true,
            segment: Arc::clone(&born.file),
            end: born.end,
            for_changes: birth.segment_bytes < whole,
            group: 2,
            records: born.records,
            last_lsn: born.last_lsn,
        };
        let (end, synced_end) = (born.end, born.end);
        let Born { file, summary, tallies, controls, .. } = born;
        controls.iter().for_each(|control| set.apply(control));
        let active = Active { file, summary, tallies, end, synced_end };
        self.segments.begin(active, None);
        Ok(self.finish(tail, set, next_lsn))
    }

    /// Makes the new segment: a small one where there is no room for a whole one, then one that has
    /// no room for anything else, and at last in the place of the ballast. A bound alone never keeps
    /// a store from opening.
    fn create(&self, birth: &mut Birth<'_>) -> Result<Born> {
        let whole = [(birth.segment_bytes, Claim::Growth)];
        let small = small_segment_sizes(self.config).map(|size| (size, Claim::Change));
        let smallest = [(0, Claim::Opening)];
        for (segment_bytes, claim) in whole.into_iter().chain(small).chain(smallest) {
            birth.segment_bytes = segment_bytes;
            let claimed = birth.capacity();
            if self.account.claim(Part::Log, claimed, claim).is_err() {
                continue;
            }
            match self.try_create(birth, claimed) {
                Err(error) if is_no_space(&error) => {}
                other => return other,
            }
        }
        if let Err(error) = self.ballast.release() {
            tracing::warn!(%error, "the ballast could not be given up");
        }
        let [_, (segment_bytes, claim)] = small;
        birth.segment_bytes = segment_bytes;
        let claimed = birth.capacity();
        if self.account.claim(Part::Log, claimed, claim).is_ok() {
            return self.try_create(birth, claimed);
        }
        birth.segment_bytes = 0;
        self.try_create(birth, 0)
    }

    /// Makes the new segment, for which so much was claimed.
    fn try_create(&self, birth: &Birth<'_>, claimed: u64) -> Result<Born> {
        let created = birth.create();
        self.account.release(Part::Log, claimed);
        match &created {
            Ok(born) => self.account.add(Part::Log, born.file.header.capacity),
            Err(_) => {
                let path = birth.log_dir.join(format::next_name(birth.segment));
                // One that is left is removed by the next open.
                drop(self.env.unlink(&path));
            }
        }
        created
    }

    fn finish(self, tail: Tail, set: SegmentSet, next_lsn: u64) -> Opened {
        let log_dir = self.config.dir.join(format::LOG_DIR);
        let (env, account) = (Arc::clone(self.env), Arc::clone(&self.account));
        let preparer = Arc::new(Preparer::new(env, log_dir.clone(), self.config, account));
        let writer = Writer {
            env: Arc::clone(self.env),
            log_dir,
            config: self.config.clone(),
            store_uuid: self.header.uuid,
            segments: Arc::clone(&self.segments),
            preparer: Arc::clone(&preparer),
            account: Arc::clone(&self.account),
            ballast: Arc::clone(&self.ballast),
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
            for_changes: tail.for_changes,
            set,
            restated: tail.restated,
            buffer: Vec::new(),
        };
        writer.publish();
        Opened {
            store_uuid: self.header.uuid,
            segments: self.segments,
            set: writer.set.clone(),
            preparer: Some(preparer),
            totals: writer.totals(),
            tallies: writer.segments.with_active(|active| active.tallies.clone()),
            writer: Some(Box::new(writer)),
            next_lsn,
            checkpoint: self.checkpoint,
            pin: None,
            note: None,
            report: self.report,
        }
    }
}

/// Where an open segment goes on.
struct Tail {
    restated: bool,
    segment: Arc<SegmentFile>,
    end: u64,
    for_changes: bool,
    group: u32,
    records: u32,
    last_lsn: u64,
}

/// Fills in where segments end, for a list that does not say: the next one's header does.
fn fill_ends(
    env: &dyn Env,
    segments: &Segments,
    files: &SegmentFiles,
    set: &mut SegmentSet,
    newest: &SegmentHeader,
) {
    set.ends.resize(set.segments.len(), SegmentEnd::default());
    let next = set.segments.iter().skip(1).copied().map(Some).chain([None]);
    let next: Vec<Option<SegmentItem>> = next.collect();
    for ((item, end), next) in set.segments.iter().zip(&mut set.ends).zip(next) {
        if end.end != 0 || item.generation > 0 {
            continue;
        }
        let bound = match next {
            Some(next) if files.has(next.segment, next.generation) => {
                let path = segments.path(next.segment, next.generation);
                let file = SegmentFile::open(env, &path, OpenMode::Read, false).ok();
                file.and_then(|file| end_before(&file.header, item.segment))
            }
            Some(_) => None,
            None => end_before(newest, item.segment),
        };
        *end = bound.unwrap_or_default();
    }
}

/// Where a segment ends, as the one behind it says.
fn end_before(header: &SegmentHeader, segment: u64) -> Option<SegmentEnd> {
    let predecessor = header.predecessor.filter(|before| before.segment == segment)?;
    let (end, footer_crc) = (predecessor.end, predecessor.footer_crc);
    Some(SegmentEnd { end, footer_crc, folded_lsn: 0 })
}

/// Lists the older segments for readers; returns those that should be there and are not. The
/// newest segment comes with its rows.
fn adopt_old(
    segments: &Segments,
    files: &SegmentFiles,
    set: &SegmentSet,
    rows: &Summary,
    report: &mut OpenReport,
) -> Vec<Loss> {
    let mut missing = Vec::new();
    let reported = report.lost.len();
    for (item, end) in set.segments.iter().zip(&set.ends) {
        if files.has(item.segment, item.generation) {
            segments.add_old(Old::new(*item, *end));
            continue;
        }
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
            missing.push((whole, end.folded_lsn));
            report.lost.push(damage);
        }
    }
    for ((loss, folded_lsn), damage) in
        missing.iter_mut().zip(report.lost.iter_mut().skip(reported))
    {
        let removed = removed_since(segments, set, rows, loss, *folded_lsn);
        loss.entries = loss.entries.saturating_sub(removed);
        damage.entries = damage.entries.map(|entries| entries.saturating_sub(removed));
    }
    missing.into_iter().map(|(loss, _)| loss).collect()
}
