//! Reading every byte of a store without its lock, and saying exactly what is damaged.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::config::Config;
use crate::env::{Disk, Env, OpenMode};
use crate::error::{Damage, DamageKind, Error, Result};
use crate::format::{
    self, Checkpoint, FileName, Kind, LockNote, SegmentEnd, SegmentItem, SegmentSet, Summary,
};
use crate::log::{self, Extent, Item, SegmentFile, SegmentFiles, Witness};

/// What verifying found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Segments read.
    pub segments: u64,
    /// Sound records.
    pub frames: u64,
    /// Sound entries.
    pub entries: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Everything that is damaged.
    pub damage: Vec<Damage>,
    /// Bytes of unfinished writes behind the last record; no damage.
    pub torn_tail_bytes: u64,
    /// `present` or `absent`; the index is derived and never decides.
    pub index: String,
    /// Entries in fallback files that wait to come home.
    pub fallback: u64,
}

/// Reads every byte of a store, beside its owner too, and changes nothing. `progress` is told
/// the bytes done and the bytes in all.
///
/// # Errors
///
/// [`Error::NotAStore`], [`Error::Version`], [`Error::Io`]. Damage is no error but in the report.
pub fn verify(config: &Config, progress: &mut dyn FnMut(u64, u64)) -> Result<VerifyReport> {
    let env: Arc<dyn Env> = Arc::new(Disk::new());
    verify_with(config, &env, progress)
}

/// As [`verify`], on a disk of the caller's.
///
/// # Errors
///
/// As [`verify`].
pub fn verify_with(
    config: &Config,
    env: &Arc<dyn Env>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<VerifyReport> {
    let dir = &config.dir;
    let mut report = VerifyReport::default();
    if !log::check_store(&**env, dir)? {
        let reason = "there is no store in it".to_owned();
        return Err(Error::NotAStore { dir: dir.clone(), reason });
    }
    if log::store_file_damaged(&**env, dir)? {
        report.damage.push(log::file_damage(format::STORE_NAME));
    }
    // What the log lists, as of one moment; as long as it is open its files stay.
    let opened = log::open_read_only(env, config)?;
    let log_dir = dir.join(format::LOG_DIR);
    let mut files = SegmentFiles::list(&**env, &log_dir)?;
    if let Some(note) = opened.note {
        files.retain_through(note.segment);
    }
    opened.segments.with_active(|active| files.take_replaced(&active.file.header));
    let verifier = Verifier {
        env,
        config,
        log_dir: &log_dir,
        note: opened.note,
        checkpoint: opened.checkpoint,
        report,
        listed: &opened.set,
        last_lsn: 0,
        newest_entries: 0,
    };
    let mut report = verifier.run(&files, progress)?;
    let index = env.list(&dir.join(format::INDEX_DIR)).is_ok_and(|names| !names.is_empty());
    report.index = if index { "present" } else { "absent" }.to_owned();
    for file in log::list_fallback(&**env, &config.fallback_dir())? {
        if let Ok((frames, _, _)) = log::read_fallback(&**env, &file.path) {
            report.fallback += frames.len() as u64;
        }
    }
    Ok(report)
}

struct Verifier<'a> {
    env: &'a Arc<dyn Env>,
    config: &'a Config,
    log_dir: &'a Path,
    note: Option<LockNote>,
    checkpoint: Option<Checkpoint>,
    report: VerifyReport,
    /// The older segments that the log lists, gone ones included.
    listed: &'a SegmentSet,
    /// The highest sequence number of the segments read.
    last_lsn: u64,
    /// How many entries the newest segment took.
    newest_entries: u64,
}

impl Verifier<'_> {
    fn run(
        mut self,
        files: &SegmentFiles,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<VerifyReport> {
        let mut opened = Vec::new();
        let mut unreadable = Vec::new();
        let newest = files.newest().map(|(number, _)| number);
        for (number, generation) in self.counting(files) {
            let path = self.log_dir.join(format::segment_name(number, generation));
            let mmap = self.config.mmap;
            match SegmentFile::open(&**self.env, &path, OpenMode::Read, mmap) {
                Ok(segment) if newest == Some(number) => {
                    opened.push((segment.into_newest()?, None));
                }
                Ok(segment) => {
                    let end = self.listed.end_of(number);
                    opened.push((segment.ending_at(end.map(|end| end.end)), end));
                }
                Err(Error::Damaged(damage)) => unreadable.push((number, *damage)),
                Err(error) => return Err(error),
            }
        }
        let total: u64 = opened.iter().map(|(segment, _)| segment.len).sum();
        // What is gone as a whole comes first: the segments behind it say what was removed before.
        let (last, gone): (Vec<_>, Vec<_>) =
            unreadable.into_iter().partition(|(number, _)| newest == Some(*number));
        self.unreadable(gone);
        self.missing(files);
        for (segment, end) in &opened {
            let is_newest = newest == Some(segment.header.segment);
            self.segment(segment, is_newest, *end)?;
            if let (Some(trailer), true) = (segment.trailer, is_newest) {
                self.newest_entries = u64::from(trailer.entries);
            }
            progress(self.report.bytes, total);
        }
        self.unreadable(last);
        self.beyond(newest.unwrap_or(0));
        self.report.damage.sort();
        Ok(self.report)
    }

    /// The files that count, by number: those that the log lists, and those behind them.
    fn counting(&self, files: &SegmentFiles) -> Vec<(u64, u32)> {
        let items = self.listed.segments.iter();
        let mut counting: Vec<(u64, u32)> = items
            .map(|item| (item.segment, item.generation))
            .filter(|(number, generation)| files.has(*number, *generation))
            .collect();
        let last = self.listed.segments.last().map_or(0, |item| item.segment + 1);
        counting.extend(files.between(last, u64::MAX));
        counting
    }

    /// What the log lists of a segment.
    fn item_of(&self, number: u64) -> Option<SegmentItem> {
        self.listed.segments.iter().find(|item| item.segment == number).copied()
    }

    fn unreadable(&mut self, segments: Vec<(u64, Damage)>) {
        for (number, damage) in segments {
            let damage = self.whole(number, damage);
            self.report.damage.push(damage);
        }
    }

    /// Takes entries that these changes removed out of the damage to earlier segments.
    fn discount(&mut self, rows: &Summary) {
        for damage in &mut self.report.damage {
            if let (Some(from), Some(to), Some(entries)) =
                (damage.lsn_from, damage.lsn_to, damage.entries.as_mut())
            {
                let number = FileName::parse(&damage.segment).segment();
                let folded_lsn = number.and_then(|number| self.listed.end_of(number));
                let folded_lsn = folded_lsn.map_or(0, |end| end.folded_lsn);
                *entries = entries.saturating_sub(log::removed_among(rows, folded_lsn, from, to));
            }
        }
    }

    fn segment(
        &mut self,
        segment: &SegmentFile,
        newest: bool,
        end: Option<SegmentEnd>,
    ) -> Result<()> {
        self.report.segments += 1;
        self.report.bytes += segment.len;
        if !segment.header_intact {
            self.damage(segment, DamageKind::Header, 0, format::SEGMENT_HEADER_LEN);
        }
        // A crash may have come before the footer's sync; then nobody vouches for it.
        let vouched = end.is_none_or(|end| end.footer_crc != 0);
        if segment.trailer.is_none() && vouched && end.is_some() {
            let end = end.map_or(segment.len, |end| end.end).min(segment.len);
            self.damage(segment, DamageKind::Footer, end, segment.len - end);
        }
        match (segment.trailer, newest) {
            (None, true) => self.active(segment),
            _ => {
                let item = self.item_of(segment.header.segment);
                let extent = Extent::of(segment, end.map(|end| end.end), item.as_ref());
                self.old(segment, extent, vouched)
            }
        }
    }

    /// A segment that takes no more records: every hole is damage.
    fn old(&mut self, segment: &SegmentFile, extent: Extent, vouched: bool) -> Result<()> {
        let scanned = log::scan_old(segment, extent)?;
        let end = extent.end.min(segment.len);
        let rows = &scanned.summary;
        let last_lsn = rows.entries.last().map(|row| row.lsn).max(extent.last_lsn);
        let last_lsn = last_lsn.max(rows.changes.last().map(|row| row.lsn));
        self.last_lsn = self.last_lsn.max(last_lsn.unwrap_or(0));
        self.count(segment, end)?;
        let expected = segment.trailer.map(|_| segment.footer());
        if let Some(footer) = expected.transpose()? {
            let told = scanned.damage.is_empty() && scanned.unread.is_none();
            let same =
                footer.as_ref().is_some_and(|footer| !told || footer.agrees_with(&scanned.summary));
            if !same && vouched {
                self.damage(segment, DamageKind::Footer, end, segment.len - end);
            }
        }
        self.discount(rows);
        self.report.damage.extend(scanned.damage);
        Ok(())
    }

    /// The segment that took the last records: a clean end, a torn tail, or damage.
    fn active(&mut self, segment: &SegmentFile) -> Result<()> {
        let number = segment.header.segment;
        let owned = self.note.filter(|note| note.segment == number);
        let witness = owned
            .map_or(Witness::Checkpoint(self.checkpoint.as_ref()), |note| Witness::End(note.end));
        let survey = log::survey(segment, witness)?;
        self.last_lsn = self.last_lsn.max(survey.last_lsn.unwrap_or(0));
        let end = survey.kept.last().map_or(survey.cut, format::Frame::end);
        self.count(segment, owned.map_or(end, |note| note.end).min(segment.len))?;
        self.discount(&survey.summary);
        self.report.damage.extend(survey.damage);
        let clean = self.checkpoint.is_some_and(|checkpoint| {
            checkpoint.clean && checkpoint.segment == number && checkpoint.end == end
        });
        if survey.torn_bytes == 0 || owned.is_some() {
            return Ok(());
        }
        if clean {
            // Nobody writes to a closed store before saying so in a checkpoint slot.
            self.damage(segment, DamageKind::Padding, end, survey.data_end - end);
        } else {
            self.report.torn_tail_bytes += survey.torn_bytes;
        }
        Ok(())
    }

    fn count(&mut self, segment: &SegmentFile, end: u64) -> Result<()> {
        segment.scan(end, &mut |item| {
            if let Item::Frame(frame) = item {
                self.report.frames += 1;
                self.report.entries += u64::from(frame.header.kind == Kind::Entry);
            }
            Ok(())
        })
    }

    /// A segment of which nothing can be read: all that it held is lost.
    fn whole(&self, number: u64, damage: Damage) -> Damage {
        let beyond = self.checkpoint.filter(|checkpoint| checkpoint.segment == number);
        let item = self.item_of(number);
        let item =
            item.or(beyond.map(|checkpoint| log::last_item(&checkpoint, self.last_lsn, None)));
        let Some(item) = item else { return damage };
        Damage {
            lsn_from: Some(item.first_lsn),
            lsn_to: Some(item.last_lsn),
            entries: Some(item.entries),
            ..damage
        }
    }

    /// Segments that the newest set names and that are not there.
    fn missing(&mut self, files: &SegmentFiles) {
        let items = self.listed.segments.iter();
        let gone: Vec<_> = items.filter(|item| !files.has(item.segment, item.generation)).collect();
        let damage: Vec<Damage> = gone.into_iter().map(log::missing_damage).collect();
        self.report.damage.extend(damage);
    }

    /// Segments behind the newest file that only the checkpoint names.
    fn beyond(&mut self, newest: u64) {
        let known = self.note.map_or(u64::MAX, |note| note.segment);
        let beyond = self
            .checkpoint
            .filter(|checkpoint| checkpoint.segment > newest && checkpoint.segment <= known);
        if let Some(checkpoint) = beyond {
            let captured = Some(self.listed.totals.captured + self.newest_entries);
            let item = log::last_item(&checkpoint, self.last_lsn, captured);
            self.report.damage.push(log::missing_damage(&item));
        }
    }

    fn damage(&mut self, segment: &SegmentFile, kind: DamageKind, offset: u64, bytes: u64) {
        self.report.damage.push(Damage {
            segment: segment.name.clone(),
            offset,
            bytes,
            kind,
            lsn_from: None,
            lsn_to: None,
            entries: None,
        });
    }
}
