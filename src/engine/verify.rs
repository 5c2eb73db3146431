//! Reading every byte of a store without its lock, and saying exactly what is damaged.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::config::Config;
use crate::env::{Disk, Env, OpenMode};
use crate::error::{Damage, DamageKind, Error, Result};
use crate::format::{self, Checkpoint, Kind, LockNote, Predecessor, SegmentSet, Summary};
use crate::log::{self, Extent, Item, SegmentFile, Witness};

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
    let note = log::await_owner(&**env, config)?;
    let log_dir = dir.join(format::LOG_DIR);
    // First the checkpoint: what it names is there, or is missing.
    let checkpoint = log::read_checkpoint(&**env, dir);
    let mut files = log::list_segments(&**env, &log_dir, false)?;
    files.retain(|number, _| note.is_none_or(|note| *number <= note.segment));
    let verifier = Verifier {
        env,
        config,
        log_dir: &log_dir,
        note,
        checkpoint,
        report,
        set: None,
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
    /// The newest segment set seen.
    set: Option<SegmentSet>,
    /// The highest sequence number of the segments read.
    last_lsn: u64,
    /// How many entries the newest segment took.
    newest_entries: u64,
}

impl Verifier<'_> {
    fn run(
        mut self,
        files: &BTreeMap<u64, u32>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<VerifyReport> {
        let mut opened = Vec::new();
        let mut unreadable = Vec::new();
        for (number, generation) in files {
            let path = self.log_dir.join(format::segment_name(*number, *generation));
            let mmap = self.config.mmap;
            match SegmentFile::open(&**self.env, &path, OpenMode::Read, mmap) {
                Ok(segment) => opened.push((*number, segment)),
                Err(Error::Damaged(damage)) => unreadable.push((*number, *damage)),
                Err(error) => return Err(error),
            }
        }
        let newest = files.last_key_value().map(|(number, _)| *number);
        if let Some((number, segment)) = opened.pop() {
            let segment = if newest == Some(number) { segment.into_newest()? } else { segment };
            opened.push((number, segment));
        }
        let next_of = |index: usize, number: u64| {
            let (next, segment): &(u64, SegmentFile) = opened.get(index + 1)?;
            if *next == number + 1 { segment.header.predecessor } else { None }
        };
        let numbers = opened.iter().map(|(number, _)| *number).enumerate();
        let successors: Vec<_> = numbers.map(|(index, number)| next_of(index, number)).collect();
        let opened: Vec<_> = opened
            .into_iter()
            .zip(&successors)
            .map(|((number, segment), next)| (number, segment.ending_at(next.map(|next| next.end))))
            .collect();
        let total: u64 = opened.iter().map(|(_, segment)| segment.len).sum();
        self.read_set(opened.iter().rev().map(|(_, segment)| segment))?;
        // What is gone as a whole comes first: the segments behind it say what was removed before.
        let (last, gone): (Vec<_>, Vec<_>) =
            unreadable.into_iter().partition(|(number, _)| newest == Some(*number));
        self.unreadable(gone);
        self.missing(files);
        for ((number, segment), next) in opened.iter().zip(successors) {
            self.segment(segment, newest == Some(*number), next)?;
            if let (Some(trailer), true) = (segment.trailer, newest == Some(*number)) {
                self.newest_entries = u64::from(trailer.entries);
            }
            progress(self.report.bytes, total);
        }
        self.unreadable(last);
        self.beyond(files);
        self.report.damage.sort();
        Ok(self.report)
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
                *entries = entries.saturating_sub(log::removed_among(rows, from, to));
            }
        }
    }

    fn segment(
        &mut self,
        segment: &SegmentFile,
        newest: bool,
        next: Option<Predecessor>,
    ) -> Result<()> {
        self.report.segments += 1;
        self.report.bytes += segment.len;
        if !segment.header_intact {
            self.damage(segment, DamageKind::Header, 0, format::SEGMENT_HEADER_LEN);
        }
        // A crash may have come before the footer's sync; then nobody vouches for it.
        let vouched = next.is_none_or(|next| next.footer_crc != 0);
        if segment.trailer.is_none() && vouched && next.is_some() {
            let end = next.map_or(segment.len, |next| next.end).min(segment.len);
            self.damage(segment, DamageKind::Footer, end, segment.len - end);
        }
        match (segment.trailer, newest) {
            (None, true) => self.active(segment),
            _ => {
                let number = segment.header.segment;
                let items = self.set.iter().flat_map(|set| &set.segments);
                let item = items.clone().find(|item| item.segment == number).copied();
                let extent = Extent::of(segment, next.map(|next| next.end), item.as_ref());
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
            let same = footer
                .as_ref()
                .is_some_and(|footer| !scanned.damage.is_empty() || *footer == *scanned.summary);
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

    /// Reads the newest segment set, which says what the older segments hold.
    fn read_set<'s>(&mut self, segments: impl Iterator<Item = &'s SegmentFile>) -> Result<()> {
        for segment in segments {
            segment.scan_while(format::SEGMENT_HEADER_LEN, segment.len, &mut |item| {
                if let Item::Frame(frame) = item
                    && frame.header.kind == Kind::SegmentSet
                {
                    self.set = format::decode_body(&frame).ok();
                }
                Ok(false)
            })?;
            if self.set.is_some() {
                break;
            }
        }
        Ok(())
    }

    /// A segment of which nothing can be read: all that it held is lost.
    fn whole(&self, number: u64, damage: Damage) -> Damage {
        let items = self.set.iter().flat_map(|set| &set.segments);
        let item = items.clone().find(|item| item.segment == number).copied();
        let beyond = self.checkpoint.filter(|checkpoint| checkpoint.segment == number);
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
    fn missing(&mut self, files: &BTreeMap<u64, u32>) {
        let items = self.set.iter().flat_map(|set| &set.segments);
        let gone: Vec<_> = items.filter(|item| !files.contains_key(&item.segment)).collect();
        let damage: Vec<Damage> = gone.into_iter().map(log::missing_damage).collect();
        self.report.damage.extend(damage);
    }

    /// Segments behind the newest file that only the checkpoint names.
    fn beyond(&mut self, files: &BTreeMap<u64, u32>) {
        let newest = files.last_key_value().map_or(0, |(number, _)| *number);
        let known = self.note.map_or(u64::MAX, |note| note.segment);
        let beyond = self
            .checkpoint
            .filter(|checkpoint| checkpoint.segment > newest && checkpoint.segment <= known);
        if let Some(checkpoint) = beyond {
            let captured = self.set.as_ref().map_or(0, |set| set.totals.captured);
            let captured = Some(captured + self.newest_entries);
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
