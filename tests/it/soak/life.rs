//! What one writer process said before it was killed: the file of its lines, read.

use std::fs;
use std::path::{Path, PathBuf};

use deadletter::EntryId;
use roaring::RoaringBitmap;

use super::waits::Waits;

/// A batch that was stored durably: its entries have ids in a row, and names in a row.
#[derive(Debug, Clone, Copy)]
pub struct Ack {
    pub first: u32,
    pub count: u32,
    pub thread: u64,
    pub counter: u64,
}

/// How things stood when so many entries had been captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub captured: u64,
    pub micros: u64,
    pub cpu_ms: u64,
    pub written: u64,
    pub memory: u64,
    pub away: bool,
}

/// One life of the writer.
#[derive(Debug, Default)]
pub struct Life {
    pub number: u64,
    pub acks: Vec<Ack>,
    /// Bytes of the requests that were acknowledged.
    pub payload: u64,
    pub resolved: RoaringBitmap,
    pub archived: u64,
    /// What it was about to purge.
    pub purging: RoaringBitmap,
    /// What it said that it purged, with the number that the store gave.
    pub purged: RoaringBitmap,
    pub purged_count: u64,
    pub refused: u64,
    pub windows: Vec<Window>,
    /// Beside no compaction, and beside it.
    pub waits: [Waits; 2],
    /// Why it ended before it was killed.
    pub failed: Option<String>,
}

/// Where a life writes its lines.
pub fn path(dir: &Path) -> PathBuf {
    dir.join("life.txt")
}

/// Rising ids as text.
pub fn ranges(ids: &[EntryId]) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for EntryId(id) in ids {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *id => *last = *id,
            _ => ranges.push((*id, *id)),
        }
    }
    let texts: Vec<String> = ranges.iter().map(|(first, last)| format!("{first}-{last}")).collect();
    texts.join(",")
}

fn add_ranges(text: &str, ids: &mut RoaringBitmap) -> Option<()> {
    for range in text.split(',') {
        let (first, last) = range.split_once('-')?;
        ids.insert_range(first.parse::<u32>().ok()?..=last.parse().ok()?);
    }
    Some(())
}

impl Life {
    /// Reads the file; a line that the kill cut off says nothing.
    pub fn read(dir: &Path) -> Self {
        let text = fs::read_to_string(path(dir)).unwrap_or_default();
        Self::parse(&text)
    }

    pub fn parse(text: &str) -> Self {
        let mut life = Self::default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        for line in whole.lines() {
            life.add(line).unwrap_or_else(|| panic!("no line of a writer: {line}"));
        }
        life
    }

    fn add(&mut self, line: &str) -> Option<()> {
        let (word, rest) = line.split_once(' ')?;
        let numbers = || rest.split(' ').map(|text| text.parse::<u64>().ok()).collect();
        match word {
            "life" => self.number = rest.parse().ok()?,
            "ack" => {
                let numbers: Option<Vec<u64>> = numbers();
                let [first, count, thread, counter, payload] = numbers?[..] else { return None };
                let (first, count) = (u32::try_from(first).ok()?, u32::try_from(count).ok()?);
                self.acks.push(Ack { first, count, thread, counter });
                self.payload += payload;
            }
            "resolved" => add_ranges(rest, &mut self.resolved)?,
            "archived" => self.archived += rest.parse::<u64>().ok()?,
            "purging" => add_ranges(rest, &mut self.purging)?,
            "purged" => {
                let (count, ids) = rest.split_once(' ')?;
                self.purged_count += count.parse::<u64>().ok()?;
                add_ranges(ids, &mut self.purged)?;
            }
            "refused" => self.refused += rest.parse::<u64>().ok()?,
            "window" => {
                let numbers: Option<Vec<u64>> = numbers();
                let [captured, micros, cpu_ms, written, memory, away] = numbers?[..] else {
                    return None;
                };
                let away = away == 1;
                self.windows.push(Window { captured, micros, cpu_ms, written, memory, away });
            }
            "waits" => {
                let (quiet, compacting) = rest.split_once(' ')?;
                self.waits = [quiet.parse().ok()?, compacting.parse().ok()?];
            }
            "failed" => self.failed = Some(rest.to_owned()),
            _ => return None,
        }
        Some(())
    }

    /// All ids that were acknowledged.
    pub fn acknowledged(&self) -> RoaringBitmap {
        let mut ids = RoaringBitmap::new();
        for ack in &self.acks {
            ids.insert_range(ack.first..ack.first + ack.count);
        }
        ids
    }

    /// The name under which an entry was acknowledged, if this life did.
    pub fn name_of(&self, id: u32) -> Option<String> {
        let holds = |ack: &&Ack| (ack.first..ack.first + ack.count).contains(&id);
        let ack = self.acks.iter().find(holds)?;
        let counter = ack.counter + u64::from(id - ack.first);
        Some(format!("{}-{}-{counter}", self.number, ack.thread))
    }
}
