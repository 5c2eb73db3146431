//! What was measured: one line of JSON for each life, in a file that further runs add to, and a
//! summary of all of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Plan;
use super::ledger::Ledger;
use super::life::Life;
use super::waits::Waits;
use super::watch::Taken;

/// Of the first and of the last windows a tenth is compared.
const TENTH: usize = 10;
/// The raw control writes so many blocks of so many bytes, each with a sync of its own. A block is
/// what a batch of the writer takes, about.
const RAW_BLOCKS: u64 = 64;
const RAW_BLOCK_BYTES: usize = 80 * 1024;

/// All that a line is made of.
pub struct Figures<'a> {
    pub plan: &'a Plan,
    pub ledger: &'a Ledger,
    pub life: &'a Life,
    pub taken: Taken,
    pub lived_ms: u64,
    pub looked: Duration,
    pub raw: Duration,
    pub wrong: &'a [String],
}

/// A line.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    life: u64,
    seed: u64,
    max_bytes: u64,
    /// Of all lives so far.
    captured: u64,
    purged: u64,
    evicted: u64,
    live: u64,
    /// Of this one.
    lived_ms: u64,
    acknowledged: u64,
    payload: u64,
    written: u64,
    archived: u64,
    refused: u64,
    memory: u64,
    /// Captures, microseconds and milliseconds of the processor between two windows.
    windows: Vec<(u64, u64, u64)>,
    waits_quiet: String,
    waits_compacting: String,
    dir_blocks: u64,
    dir_lengths: u64,
    dir_samples: u64,
    /// How long the check took, with two opens.
    looked_ms: u64,
    /// What the raw control took.
    raw_us: u64,
    wrong: Vec<String>,
}

fn path(dir: &Path) -> PathBuf {
    dir.join("figures.jsonl")
}

/// Writes and syncs blocks into a file that has its space, as a log would, and nothing else.
pub fn raw_control(dir: &Path) -> Duration {
    let block = vec![0x5a; RAW_BLOCK_BYTES];
    let path = dir.join("raw.bin");
    let file = File::options().create(true).truncate(true).write(true).open(&path).unwrap();
    for number in 0..RAW_BLOCKS {
        file.write_all_at(&block, number * RAW_BLOCK_BYTES as u64).unwrap();
    }
    file.sync_all().unwrap();
    let before = Instant::now();
    for number in 0..RAW_BLOCKS {
        file.write_all_at(&block, number * RAW_BLOCK_BYTES as u64).unwrap();
        file.sync_data().unwrap();
    }
    let elapsed = before.elapsed();
    fs::remove_file(path).unwrap();
    elapsed
}

impl Figures<'_> {
    /// Adds the line of this life.
    pub fn append(&self) {
        let Self { plan, ledger, life, taken, .. } = self;
        let pairs = life.windows.windows(2);
        let windows = pairs.map(|pair| {
            let (from, to) = (pair[0], pair[1]);
            (to.captured - from.captured, to.micros - from.micros, to.cpu_ms - from.cpu_ms)
        });
        let last = life.windows.last();
        let line = Line {
            life: ledger.lives,
            seed: plan.seed,
            max_bytes: plan.max_bytes,
            captured: ledger.captured,
            purged: ledger.purged,
            evicted: ledger.evicted,
            live: ledger.live.len(),
            lived_ms: self.lived_ms,
            acknowledged: life.acknowledged().len(),
            payload: life.payload,
            written: last.map_or(0, |window| window.written),
            archived: life.archived,
            refused: life.refused,
            memory: last.map_or(0, |window| window.memory),
            windows: windows.collect(),
            waits_quiet: life.waits[0].to_string(),
            waits_compacting: life.waits[1].to_string(),
            dir_blocks: taken.blocks,
            dir_lengths: taken.lengths,
            dir_samples: taken.samples,
            looked_ms: u64::try_from(self.looked.as_millis()).unwrap(),
            raw_us: u64::try_from(self.raw.as_micros()).unwrap(),
            wrong: self.wrong.to_vec(),
        };
        let mut text = serde_json::to_string(&line).unwrap();
        text.push('\n');
        let path = path(&plan.dir);
        let mut file = File::options().append(true).create(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures are rounded anyway")]
fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b.max(1) as f64
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// The median over the first and over the last tenth.
fn ends<T: Copy>(all: &[T], value: impl Fn(T) -> f64) -> (f64, f64) {
    let tenth = all.len().div_ceil(TENTH);
    let (first, last) = (&all[..tenth], &all[all.len() - tenth..]);
    (median(first.iter().map(|one| value(*one))), median(last.iter().map(|one| value(*one))))
}

/// What all runs so far found.
pub fn summary(dir: &Path) -> String {
    let text = fs::read_to_string(path(dir)).unwrap_or_default();
    // A run that ended between two files wrote the line of its last life, and another run again.
    let lines: BTreeMap<u64, Line> = text
        .lines()
        .map(|line| serde_json::from_str::<Line>(line).unwrap())
        .map(|line| (line.life, line))
        .collect();
    let lines: Vec<Line> = lines.into_values().collect();
    let Some(last) = lines.last() else { return "nothing was measured\n".to_owned() };
    let sum = |of: fn(&Line) -> u64| lines.iter().map(of).sum::<u64>();
    let most = |of: fn(&Line) -> u64| lines.iter().map(of).max().unwrap_or(0);
    let mut told = String::new();
    let mut tell = |name: &str, value: &dyn std::fmt::Display| {
        writeln!(told, "{name}: {value}").unwrap();
    };
    tell("kills", &lines.len());
    tell("captured", &last.captured);
    tell("acknowledged", &sum(|line| line.acknowledged));
    tell("archived", &sum(|line| line.archived));
    tell("purged", &last.purged);
    tell("evicted", &last.evicted);
    tell("live", &last.live);
    tell("refused for space", &sum(|line| line.refused));
    tell("bound in bytes", &last.max_bytes);
    tell("most bytes on the disk", &most(|line| line.dir_blocks));
    tell("most bytes by length", &most(|line| line.dir_lengths));
    tell("samples of the directory", &sum(|line| line.dir_samples));
    tell("most memory in bytes", &most(|line| line.memory));
    let written = ratio(sum(|line| line.written), sum(|line| line.payload));
    tell("bytes written per payload byte, whole life", &format!("{written:.2}"));
    let waits = |of: fn(&Line) -> &str| {
        let all = Waits::default();
        lines.iter().for_each(|line| all.merge(&of(line).parse().unwrap()));
        all.told()
    };
    tell("batch waits beside no compaction", &waits(|line| &line.waits_quiet));
    tell("batch waits beside compaction", &waits(|line| &line.waits_compacting));
    tell_throughput(&lines, &mut tell);
    tell("findings", &sum(|line| line.wrong.len() as u64));
    lines.iter().flat_map(|line| &line.wrong).for_each(|wrong| tell("wrong", wrong));
    told
}

fn tell_throughput(lines: &[Line], tell: &mut dyn FnMut(&str, &dyn std::fmt::Display)) {
    let windows: Vec<(u64, u64, u64)> =
        lines.iter().flat_map(|line| line.windows.iter().copied()).collect();
    let mut compare = |name: &str, (first, last): (f64, f64)| {
        let text = format!("{first:.0}, then {last:.0}, ratio {:.2}", last / first.max(1e-9));
        tell(name, &text);
    };
    compare("captures per second", ends(&windows, |(count, us, _)| ratio(count * 1_000_000, us)));
    compare(
        "captures per second of processor",
        ends(&windows, |(count, _, ms)| ratio(count * 1000, ms)),
    );
    let raw: Vec<u64> = lines.iter().map(|line| line.raw_us).collect();
    let synced = |us| ratio(RAW_BLOCKS * 1_000_000, us);
    compare("raw control, blocks synced per second", ends(&raw, synced));
    let looked: Vec<u64> = lines.iter().map(|line| line.looked_ms).collect();
    compare("check after a kill, in milliseconds", ends(&looked, |ms| ratio(ms, 1)));
}
