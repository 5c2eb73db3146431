//! The segment files in the log folder, and which of them count.
//!
//! A file gets its final name only when it is whole and durable, so of several generations the
//! highest that is whole stands for the segment, and for the neighbors behind it that it took in.
//! Whether a replace record says so matters only for the list: the record may be lost, or the power
//! may have gone before it was written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::env::{Env, NameKind, OpenMode};
use crate::error::{Error, Result};
use crate::format::{
    self, DropBody, FileName, FooterTrailer, ReplaceBody, SegmentEnd, SegmentHeader, SegmentItem,
    SegmentSet,
};
use crate::log::Control;
use crate::log::account::list;
use crate::log::segment::SegmentFile;

/// The names of the segments in a log folder.
#[derive(Debug, Clone, Default)]
pub(crate) struct SegmentFiles {
    /// The generations of each segment.
    generations: BTreeMap<u64, BTreeSet<u32>>,
    /// Segments that were being prepared or rewritten.
    unfinished: Vec<String>,
}

impl SegmentFiles {
    /// Reads the folder; a missing one is empty.
    pub fn list(env: &dyn Env, log_dir: &Path) -> Result<Self> {
        let mut files = Self::default();
        for (name, kind) in list(env, log_dir)? {
            match FileName::parse(&name) {
                FileName::Segment(..) if !matches!(kind, NameKind::File(_)) => {
                    tracing::warn!(name, "not a regular file in the place of a segment");
                }
                FileName::Segment(number, generation) => {
                    files.generations.entry(number).or_default().insert(generation);
                }
                FileName::Next(_) | FileName::Rewriting(..) => files.unfinished.push(name),
                _ => tracing::warn!(name, "a file in the log folder is not ours; it is left alone"),
            }
        }
        Ok(files)
    }

    /// Removes what was never finished.
    pub fn tidy(&mut self, env: &dyn Env, log_dir: &Path) -> Result<()> {
        for name in self.unfinished.drain(..) {
            let path = log_dir.join(&name);
            env.unlink(&path).map_err(|error| Error::io("remove", &path, error))?;
        }
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.generations.is_empty()
    }

    /// Leaves out the segments behind this one.
    pub fn retain_through(&mut self, last: u64) {
        self.generations.retain(|number, _| *number <= last);
    }

    /// Leaves a segment out.
    pub fn remove(&mut self, number: u64) {
        self.generations.remove(&number);
    }

    /// Leaves out the segments between the newest one and the one that it names as its predecessor:
    /// it took their place. Answers with the names of their files.
    pub fn take_replaced(&mut self, newest: &SegmentHeader) -> Vec<String> {
        let from = newest.predecessor.map_or(0, |before| before.segment.saturating_add(1));
        let mut names = Vec::new();
        for number in from..newest.segment {
            let generations = self.generations.remove(&number).unwrap_or_default();
            let name = |generation| format::segment_name(number, generation);
            names.extend(generations.into_iter().map(name));
        }
        names
    }

    /// The newest segment, and its highest generation.
    pub fn newest(&self) -> Option<(u64, u32)> {
        let (number, generations) = self.generations.last_key_value()?;
        Some((*number, generations.last().copied()?))
    }

    /// All segments below a number and from another on, each with its highest generation.
    pub fn between(&self, from: u64, below: u64) -> Vec<(u64, u32)> {
        let range = self.generations.range(from..below.max(from));
        let last = |(number, all): (&u64, &BTreeSet<u32>)| Some((*number, all.last().copied()?));
        range.filter_map(last).collect()
    }

    pub fn has(&self, number: u64, generation: u32) -> bool {
        self.generations.get(&number).is_some_and(|known| known.contains(&generation))
    }

    /// The files that stand for listed segments although the list names others. With `prefer_listed`
    /// only where the file is gone that the list names.
    pub fn stand_ins(
        &self,
        env: &dyn Env,
        log_dir: &Path,
        set: &SegmentSet,
        prefer_listed: bool,
    ) -> Vec<Control> {
        let mut found = Vec::new();
        let mut covered_lsn = 0;
        for (index, item) in set.segments.iter().enumerate() {
            let Some(known) = self.generations.get(&item.segment) else { continue };
            let settled = prefer_listed && known.contains(&item.generation);
            if settled || item.last_lsn <= covered_lsn {
                continue;
            }
            let higher = known.iter().rev().filter(|known| **known > item.generation);
            let mut whole = higher.filter_map(|generation| {
                let name = format::segment_name(item.segment, *generation);
                whole_file(env, &log_dir.join(name))
            });
            if let Some((header, trailer)) = whole.next() {
                let rest = set.segments.get(index..).unwrap_or_default();
                let body = replacement(rest, &header, &trailer);
                covered_lsn = body.new.last_lsn;
                found.push(Control::Replace(body.into()));
            }
        }
        found
    }

    /// The files of which nothing counts beside these segments: other generations, and with `dropped`
    /// segments that are not listed.
    pub fn leftovers(&self, set: &SegmentSet, newest: u64, dropped: bool) -> Vec<String> {
        let listed: BTreeMap<u64, u32> =
            set.segments.iter().map(|item| (item.segment, item.generation)).collect();
        let mut names = Vec::new();
        for (number, known) in self.generations.range(..newest) {
            let counts = listed.get(number);
            if counts.is_none_or(|counts| !known.contains(counts)) && !(counts.is_none() && dropped)
            {
                // The file that counts is gone; what is there may be of use to a person.
                continue;
            }
            let other = known.iter().filter(|generation| Some(*generation) != counts);
            names.extend(other.map(|generation| format::segment_name(*number, *generation)));
        }
        names
    }
}

/// Header and trailer of a rewritten segment, if its file is whole.
fn whole_file(env: &dyn Env, path: &Path) -> Option<(SegmentHeader, FooterTrailer)> {
    let file = SegmentFile::open(env, path, OpenMode::Read, false).ok()?;
    let footer = file.footer().ok()??;
    (footer.generation > 0).then_some((file.header, file.trailer?))
}

/// The replacement of the first of these segments, and of those behind it that a file took in.
fn replacement(
    items: &[SegmentItem],
    header: &SegmentHeader,
    trailer: &FooterTrailer,
) -> ReplaceBody {
    let (first_lsn, last_lsn) = (trailer.first_lsn, trailer.last_lsn);
    let old = items
        .iter()
        .take(1)
        .chain(items.iter().skip(1).take_while(|item| item.last_lsn <= last_lsn));
    let old = old.map(|item| DropBody { segment: item.segment, generation: item.generation });
    ReplaceBody {
        old: old.collect(),
        new: SegmentItem {
            segment: header.segment,
            generation: header.generation,
            first_lsn,
            last_lsn,
            entries: u64::from(trailer.entries),
        },
        end: SegmentEnd {
            end: trailer.start,
            footer_crc: trailer.crc(header.salt),
            folded_lsn: header.folded_lsn,
        },
    }
}
