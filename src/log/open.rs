//! Opening a store: the lock, the store file, the segments, and the new segment after a crash.
//!
//! Order after a crash, and what another crash between the steps leaves:
//!
//! 1. quarantine of the bytes that cannot be used, synced: copies too many do no harm.
//! 2. the new segment with the records carried over, synced and named: until the name is
//!    durable the next open does the same again.
//! 3. the old file is cut: until then the new segment's header says where it ends.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::config::Config;
use crate::env::{Env, File, Lock, NameKind, OpenMode, read_exact_at, write_all_at};
use crate::error::{Damage, DamageKind, Error, Result};
use crate::format::{
    self, CHECKPOINT_NAMES, Checkpoint, FileName, FormatError, Frame, LockNote, Loss, Predecessor,
    SegmentItem, SegmentSet, StoreHeader, Totals,
};

use super::prepare::Preparer;
use super::recover::{self, Survey, Witness};
use super::segment::SegmentFile;
use super::writer::{Birth, Pending, Writer};
use super::{Active, Draft, Segments};

/// Pause between two tries for the lock.
const LOCK_RETRY_MS: u64 = 10;
/// The note of an owner that is still opening names this segment.
const OPENING: u64 = u64::MAX;
const STORE_TEMPORARY: &str = "STORE.tmp";

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
    /// The older segments, as the log lists them.
    pub items: Vec<SegmentItem>,
    /// All losses that are on record or were just found.
    pub losses: Vec<Loss>,
    /// Fallback files that are home.
    pub drained: Vec<[u8; 16]>,
    pub report: OpenReport,
}

/// What stands in a data directory.
enum Found {
    Nothing,
    Store(StoreHeader),
    /// The store file is damaged, but the segments tell the store.
    Damaged(StoreHeader),
}

/// Whether the directory holds a store; an error when it holds something else.
pub(crate) fn check_store(env: &dyn Env, dir: &Path) -> Result<bool> {
    Ok(!matches!(find_store(env, dir)?, Found::Nothing))
}

/// Whether the store is known by its segments only.
pub(crate) fn store_file_damaged(env: &dyn Env, dir: &Path) -> Result<bool> {
    Ok(matches!(find_store(env, dir)?, Found::Damaged(_)))
}

/// The uuid of the store in a directory, when there is one.
pub(crate) fn store_uuid(env: &dyn Env, dir: &Path) -> Result<Option<[u8; 16]>> {
    Ok(match find_store(env, dir)? {
        Found::Nothing => None,
        Found::Store(header) | Found::Damaged(header) => Some(header.uuid),
    })
}

fn find_store(env: &dyn Env, dir: &Path) -> Result<Found> {
    let names = match env.list(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Found::Nothing),
        other => other.map_err(|error| Error::io("list", dir, error))?,
    };
    let path = dir.join(format::STORE_NAME);
    let not_ours = |reason: String| Error::NotAStore { dir: dir.to_path_buf(), reason };
    match names.iter().find(|(name, _)| name == format::STORE_NAME) {
        Some((_, NameKind::File(len))) if *len <= 4096 => {
            let bytes = read_file(env, &path, *len)?;
            match StoreHeader::decode(&bytes) {
                Ok(header) => return Ok(Found::Store(header)),
                Err(FormatError::Version(major, minor)) => {
                    return Err(Error::Version {
                        path,
                        found: format!("{major}.{minor}"),
                        supported: format!("{}.x", format::VERSION_MAJOR),
                    });
                }
                Err(error) => {
                    let header = store_of_segments(env, dir);
                    let reason = format!("its file STORE is no store file ({error})");
                    return header.map(Found::Damaged).ok_or_else(|| not_ours(reason));
                }
            }
        }
        Some(_) => return Err(not_ours("STORE is not a small regular file".to_owned())),
        None => {}
    }
    if let Some(header) = store_of_segments(env, dir) {
        return Ok(Found::Damaged(header));
    }
    let ours = [format::LOCK_NAME, STORE_TEMPORARY, format::FALLBACK_DIR];
    match names.iter().find(|(name, _)| !ours.contains(&name.as_str())) {
        Some((name, _)) => Err(not_ours(format!("it holds {name} and no file STORE"))),
        None => Ok(Found::Nothing),
    }
}

/// The store that the segments say they belong to.
fn store_of_segments(env: &dyn Env, dir: &Path) -> Option<StoreHeader> {
    let log_dir = dir.join(format::LOG_DIR);
    let names = env.list(&log_dir).ok()?;
    names.iter().find_map(|(name, _)| {
        let FileName::Segment(..) = FileName::parse(name) else { return None };
        let segment = SegmentFile::open(env, &log_dir.join(name), OpenMode::Read, false).ok()?;
        let header = segment.header;
        Some(StoreHeader { uuid: header.store_uuid, created_ms: header.created_ms })
    })
}

fn read_file(env: &dyn Env, path: &Path, len: u64) -> Result<Vec<u8>> {
    let file = env.open(path, OpenMode::Read).map_err(|error| Error::io("open", path, error))?;
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    read_exact_at(&*file, &mut bytes, 0).map_err(|error| Error::io("read", path, error))?;
    Ok(bytes)
}

/// The newer of the two checkpoint slots.
pub(crate) fn read_checkpoint(env: &dyn Env, dir: &Path) -> Option<Checkpoint> {
    let slots = CHECKPOINT_NAMES.iter().filter_map(|name| {
        let bytes = read_file(env, &dir.join(name), format::CHECKPOINT_LEN as u64).ok()?;
        Checkpoint::decode(&bytes).ok()
    });
    slots.max_by_key(|checkpoint| checkpoint.sequence)
}

/// Writes the older checkpoint slot and syncs it.
pub(crate) fn write_checkpoint(env: &dyn Env, dir: &Path, checkpoint: &Checkpoint) -> Result<()> {
    let index = usize::from(checkpoint.sequence % 2 == 1);
    let name = CHECKPOINT_NAMES.get(index).copied().unwrap_or_default();
    let path = dir.join(name);
    let (file, created) = match env.open(&path, OpenMode::Write) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            (env.open(&path, OpenMode::CreateNew), true)
        }
        other => (other, false),
    };
    let file: Arc<dyn File> = file.map_err(|error| Error::io("open", &path, error))?;
    write_all_at(&*file, &checkpoint.encode(), 0)
        .map_err(|error| Error::io("write", &path, error))?;
    file.sync().map_err(|error| Error::io("sync", &path, error))?;
    if created {
        env.sync_dir(dir).map_err(|error| Error::io("sync the folder", dir, error))?;
    }
    Ok(())
}

/// Who holds the lock, as its note says.
fn read_lock_note(env: &dyn Env, dir: &Path) -> Option<LockNote> {
    let path = dir.join(format::LOCK_NAME);
    let bytes = read_file(env, &path, format::LOCK_NOTE_LEN as u64).ok()?;
    LockNote::decode(&bytes).ok()
}

fn take_lock(env: &dyn Env, config: &Config) -> Result<Arc<dyn Lock>> {
    let dir = &config.dir;
    let path = dir.join(format::LOCK_NAME);
    let deadline = env.monotonic_ms() + config.lock_wait_ms;
    loop {
        let lock = env.try_lock(&path).map_err(|error| Error::io("lock", &path, error))?;
        if let Some(lock) = lock {
            let note = LockNote { process_id: env.process_id(), segment: OPENING, end: 0 };
            lock.publish(&note.encode()).map_err(|error| Error::io("write", &path, error))?;
            return Ok(Arc::from(lock));
        }
        if env.monotonic_ms() >= deadline {
            let owner = read_lock_note(env, dir).map(|note| note.process_id);
            return Err(Error::Locked { dir: dir.clone(), owner });
        }
        env.sleep(std::time::Duration::from_millis(LOCK_RETRY_MS));
    }
}

/// Opens a store for writing, making it when the directory is empty or missing.
pub(crate) fn open(env: &Arc<dyn Env>, config: &Config) -> Result<Opened> {
    let dir = &config.dir;
    find_store(&**env, dir)?;
    env.create_dir(dir).map_err(|error| Error::io("create", dir, error))?;
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
    env.create_dir(&log_dir).map_err(|error| Error::io("create", &log_dir, error))?;
    let checkpoint = read_checkpoint(&**env, dir);
    let files = list_segments(&**env, &log_dir, true)?;
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

/// Writes the store file under a temporary name, so that it is there whole or not at all.
fn create_store(env: &dyn Env, dir: &Path, known: Option<StoreHeader>) -> Result<StoreHeader> {
    let path = dir.join(format::STORE_NAME);
    let temporary = dir.join(STORE_TEMPORARY);
    let header = match known {
        Some(header) => header,
        None => {
            let mut uuid = [0; 16];
            env.fill_random(&mut uuid)
                .map_err(|error| Error::io("get random bytes for", &path, error))?;
            StoreHeader { uuid, created_ms: env.wall_ms() }
        }
    };
    match env.unlink(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io("remove", &temporary, error));
        }
        _ => {}
    }
    let file = env
        .open(&temporary, OpenMode::CreateNew)
        .map_err(|error| Error::io("create", &temporary, error))?;
    write_all_at(&*file, &header.encode(), 0)
        .map_err(|error| Error::io("write", &temporary, error))?;
    file.sync().map_err(|error| Error::io("sync", &temporary, error))?;
    env.rename(&temporary, &path).map_err(|error| Error::io("name", &path, error))?;
    env.sync_dir(dir).map_err(|error| Error::io("sync the folder", dir, error))?;
    Ok(header)
}

/// The segments by number, with their generation. Files that were being prepared are removed.
pub(crate) fn list_segments(
    env: &dyn Env,
    log_dir: &Path,
    tidy: bool,
) -> Result<BTreeMap<u64, u32>> {
    let names = env.list(log_dir).map_err(|error| Error::io("list", log_dir, error))?;
    let mut segments = BTreeMap::new();
    for (name, _) in names {
        match FileName::parse(&name) {
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
            other => other?,
        };
        let witness =
            segment.trailer.map_or(Witness::Checkpoint(self.checkpoint.as_ref()), |trailer| {
                Witness::End(trailer.start)
            });
        let survey = recover::survey(&segment, witness)?;
        self.report.replayed_records = survey.records;
        let sealed = segment.trailer.is_some();
        let clean =
            !sealed && segment.header_intact && survey.is_clean(self.checkpoint.as_ref(), *newest);
        #[cfg(feature = "planted")]
        let clean = clean || super::planted::append_after_tear();
        self.report.clean = clean;
        let set = match survey.set.clone() {
            Some(set) => set,
            None => self.rebuild_set(files, *newest)?,
        };
        let missing = adopt_old(self.env, &self.segments, files, &set, &segment, &mut self.report)?;
        if clean && missing.is_empty() {
            return Ok(self.go_on(segment, survey, set));
        }
        self.carry_over(&segment, survey, set, missing)
    }

    /// A store without a segment: new, or its log is gone.
    fn begin_empty(mut self) -> Result<Opened> {
        let next_lsn = self.checkpoint.map_or(1, |checkpoint| checkpoint.last_lsn + 1);
        let number = self.checkpoint.map_or(1, |checkpoint| checkpoint.segment + 1);
        if next_lsn > 1 {
            self.report.lost.push(Damage {
                kind: DamageKind::Missing,
                lsn_from: Some(1),
                lsn_to: Some(next_lsn - 1),
                ..file_damage(format::LOG_DIR)
            });
        }
        let predecessor = (next_lsn > 1).then(|| Predecessor {
            segment: number - 1,
            last_lsn: next_lsn - 1,
            end: 0,
            footer_crc: 0,
        });
        self.begin(number, predecessor, SegmentSet::default(), Vec::new(), next_lsn)
    }

    /// The newest segment cannot be read at all: its records are lost, the rest goes on.
    fn pass_over(
        mut self,
        files: &BTreeMap<u64, u32>,
        newest: u64,
        damage: Damage,
    ) -> Result<Opened> {
        let set = self.rebuild_set(files, newest)?;
        let known = self.checkpoint.map_or(0, |checkpoint| checkpoint.last_lsn);
        let before = set.segments.last().map_or(0, |item| item.last_lsn);
        // Without a witness leave room for as many records as the file could hold.
        let room = damage.bytes / format::RECORD_HEADER_LEN as u64;
        let last_lsn = if known > before { known } else { before + room };
        for item in &set.segments {
            self.segments.add_old(item.segment, item.generation, None);
        }
        self.report.lost.push(Damage {
            lsn_from: Some(before + 1),
            lsn_to: Some(last_lsn),
            ..damage
        });
        let predecessor = Predecessor { segment: newest, last_lsn, end: 0, footer_crc: 0 };
        self.begin(newest + 1, Some(predecessor), set, Vec::new(), last_lsn + 1)
    }

    /// The set of older segments, from the files themselves.
    fn rebuild_set(&mut self, files: &BTreeMap<u64, u32>, newest: u64) -> Result<SegmentSet> {
        let mut set = SegmentSet::default();
        for (number, generation) in files.range(..newest) {
            self.segments.add_old(*number, *generation, None);
            let Ok(summary) = self.segments.summary(*number) else { continue };
            let lsns = summary.entries.iter().map(|row| row.lsn);
            let lsns = lsns.chain(summary.changes.iter().map(|row| row.lsn));
            set.segments.push(SegmentItem {
                segment: *number,
                generation: *generation,
                first_lsn: lsns.clone().min().unwrap_or(0),
                last_lsn: lsns.max().unwrap_or(0),
                entries: summary.entries.len() as u64,
            });
            set.totals.captured += summary.entries.len() as u64;
        }
        Ok(set)
    }

    /// Continues the newest segment after a clean close.
    fn go_on(self, segment: SegmentFile, survey: Survey, set: SegmentSet) -> Opened {
        let end = survey.kept.last().map_or(survey.cut, Frame::end);
        let last_lsn = survey.last_lsn.unwrap_or(0);
        let segment = Arc::new(segment);
        let file = Arc::clone(&segment);
        self.segments.begin(Active { file, summary: survey.summary, end, synced_end: end });
        let tail = Tail {
            segment,
            end,
            group: survey.next_group,
            records: u32::try_from(survey.records).unwrap_or(u32::MAX),
            last_lsn,
        };
        self.finish(tail, set, survey.losses, survey.drained, last_lsn + 1)
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
        set.segments.push(SegmentItem {
            segment: number,
            generation: segment.header.generation,
            first_lsn: segment.header.base_lsn,
            last_lsn: cut_lsn,
            entries: survey.entries,
        });
        set.losses.extend(&survey.losses);
        let found: Vec<Loss> = survey.damage.iter().map(|damage| loss(number, damage)).collect();
        let lost = survey.losses.iter().chain(&found).chain(&missing);
        set.totals.captured += survey.entries;
        set.totals.lost += lost.map(|loss| loss.entries).sum::<u64>();
        set.losses.extend(found);
        set.losses.extend(missing);
        set.drained.extend(&survey.drained);
        self.report.lost.extend(survey.damage.iter().cloned());
        self.report.torn_bytes = survey.torn_bytes;
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
            footer_crc: segment.trailer.map_or(0, |trailer| trailer.crc(segment.header.salt)),
        };
        self.segments.add_old(number, segment.header.generation, Some(survey.cut));
        let cut = (segment.trailer.is_none() && all_kept && survey.cut < segment.len)
            .then_some(survey.cut);
        let opened = self.begin(number + 1, Some(predecessor), set, carried, last_lsn + 1)?;
        if let Some(cut) = cut {
            // Only space: the new segment's header says where this one ends.
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
        set: SegmentSet,
        carried: Vec<Pending>,
        next_lsn: u64,
    ) -> Result<Opened> {
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
        let born = birth.create(None)?;
        let tail = Tail {
            segment: Arc::clone(&born.file),
            end: born.end,
            group: 2,
            records: born.records,
            last_lsn: born.last_lsn,
        };
        let (end, synced_end) = (born.end, born.end);
        let active = Active { file: born.file, summary: born.summary, end, synced_end };
        self.segments.begin(active);
        Ok(self.finish(tail, set, Vec::new(), Vec::new(), next_lsn))
    }

    fn finish(
        self,
        tail: Tail,
        set: SegmentSet,
        losses: Vec<Loss>,
        drained: Vec<[u8; 16]>,
        next_lsn: u64,
    ) -> Opened {
        let log_dir = self.config.dir.join(format::LOG_DIR);
        let preparer = Arc::new(Preparer::new(Arc::clone(self.env), log_dir.clone(), self.config));
        let all_losses = set.losses.iter().chain(&losses).copied().collect();
        let all_drained = set.drained.iter().chain(&drained).copied().collect();
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
            losses,
            drained,
            buffer: Vec::new(),
        };
        writer.publish();
        Opened {
            items: writer.set.segments.clone(),
            store_uuid: self.header.uuid,
            segments: self.segments,
            preparer: Some(preparer),
            totals: writer.totals(),
            writer: Some(Box::new(writer)),
            next_lsn,
            checkpoint: self.checkpoint,
            losses: all_losses,
            drained: all_drained,
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
        body_crc: frame.header.body_crc,
        body: frame.body,
        time_ms: frame.header.time_ms,
        drained: frame.header.flags.drained,
        note,
    };
    Ok(Pending { lsn: frame.header.lsn, draft, flags: frame.header.flags })
}

fn loss(segment: u64, damage: &Damage) -> Loss {
    Loss {
        segment,
        offset: damage.offset,
        bytes: damage.bytes,
        lsn_from: damage.lsn_from.unwrap_or(1),
        lsn_to: damage.lsn_to.unwrap_or(0),
        entries: damage.entries.unwrap_or(0),
    }
}

/// Lists the older segments for readers; returns those that should be there and are not.
fn adopt_old(
    env: &Arc<dyn Env>,
    segments: &Segments,
    files: &BTreeMap<u64, u32>,
    set: &SegmentSet,
    newest: &SegmentFile,
    report: &mut OpenReport,
) -> Result<Vec<Loss>> {
    let mut missing = Vec::new();
    for (index, item) in set.segments.iter().enumerate() {
        if !files.contains_key(&item.segment) {
            let name = format::segment_name(item.segment, item.generation);
            let damage = Damage {
                kind: DamageKind::Missing,
                lsn_from: Some(item.first_lsn),
                lsn_to: Some(item.last_lsn),
                entries: Some(item.entries),
                ..file_damage(&format!("{}/{name}", format::LOG_DIR))
            };
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
            }
            report.lost.push(damage);
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
        segments.add_old(item.segment, item.generation, bound);
    }
    Ok(missing)
}

/// Where a segment ends, as the one behind it says.
fn bound_of(header: &format::SegmentHeader, segment: u64) -> Option<u64> {
    header
        .predecessor
        .filter(|predecessor| predecessor.segment == segment)
        .map(|predecessor| predecessor.end)
}

/// Opens a store for reading only: no lock, nothing is written.
///
/// Beside a living owner it shows what the owner says is durable; else all intact records.
pub(crate) fn open_read_only(env: &Arc<dyn Env>, config: &Config) -> Result<Opened> {
    let dir = &config.dir;
    let header = match find_store(&**env, dir)? {
        Found::Store(header) | Found::Damaged(header) => header,
        Found::Nothing => {
            let reason = "there is no store in it".to_owned();
            return Err(Error::NotAStore { dir: dir.clone(), reason });
        }
    };
    let note = await_owner(&**env, config)?;
    let log_dir = dir.join(format::LOG_DIR);
    let mut files = list_segments(&**env, &log_dir, false)?;
    if let Some(note) = note {
        files.retain(|number, _| *number <= note.segment);
    }
    let segments = Arc::new(Segments::new(Arc::clone(env), log_dir, config.mmap));
    let checkpoint = read_checkpoint(&**env, dir);
    let mut report = OpenReport::default();
    let empty = || Error::NotAStore { dir: dir.clone(), reason: "it has no segment".to_owned() };
    let (newest, generation) = files.last_key_value().ok_or_else(empty)?;
    let path = segments.path(*newest, *generation);
    let segment = SegmentFile::open(&**env, &path, OpenMode::Read, false)?;
    let witness = match (segment.trailer, note) {
        (Some(trailer), _) => Witness::End(trailer.start),
        (None, Some(note)) if note.segment == *newest => Witness::End(note.end),
        _ => Witness::Checkpoint(checkpoint.as_ref()),
    };
    let survey = recover::survey(&segment, witness)?;
    report.clean = survey.is_clean(checkpoint.as_ref(), *newest);
    report.replayed_records = survey.records;
    report.torn_bytes = survey.torn_bytes;
    let set = survey.set.clone().unwrap_or_default();
    let missing = adopt_old(env, &segments, &files, &set, &segment, &mut report)?;
    report.lost.extend(survey.damage.iter().cloned());
    let found: Vec<Loss> = survey.damage.iter().map(|damage| loss(*newest, damage)).collect();
    let mut totals = set.totals;
    let new_losses = || survey.losses.iter().chain(&found).chain(&missing);
    // Rows behind the cut are shown too, so they count.
    let kept = survey.kept.iter().filter(|frame| frame.header.kind == format::Kind::Entry);
    totals.captured += survey.entries + kept.count() as u64;
    totals.lost += new_losses().map(|loss| loss.entries).sum::<u64>();
    let losses = set.losses.iter().chain(new_losses()).copied().collect();
    let drained = set.drained.iter().chain(&survey.drained).copied().collect();
    let end = survey.kept.last().map_or(survey.cut, Frame::end);
    let next_lsn = survey.last_lsn.unwrap_or(0) + 1;
    let (file, summary) = (Arc::new(segment), survey.summary);
    segments.begin(Active { file, summary, end, synced_end: end });
    Ok(Opened {
        items: set.segments.clone(),
        store_uuid: header.uuid,
        segments,
        preparer: None,
        writer: None,
        next_lsn,
        checkpoint,
        totals,
        losses,
        drained,
        report,
    })
}

/// The note of a living owner; waits while it is still opening.
pub(crate) fn await_owner(env: &dyn Env, config: &Config) -> Result<Option<LockNote>> {
    let path = config.dir.join(format::LOCK_NAME);
    let deadline = env.monotonic_ms() + config.index_wait_ms;
    loop {
        let locked = env.is_locked(&path);
        if !locked.map_err(|error| Error::io("ask for the lock of", &path, error))? {
            return Ok(None);
        }
        match read_lock_note(env, &config.dir) {
            Some(note) if note.segment != OPENING => return Ok(Some(note)),
            _ if env.monotonic_ms() >= deadline => {
                return Err(Error::IndexNotReady { waited_ms: config.index_wait_ms });
            }
            _ => env.sleep(std::time::Duration::from_millis(LOCK_RETRY_MS)),
        }
    }
}
