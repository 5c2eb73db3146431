//! Batches on their way into the store, and what became of every line.

use std::collections::VecDeque;

use anyhow::Result;
use deadletter::{BatchError, BatchReceipt, Durability, Engine, EntryId, Error, NewFailure};
use serde::Serialize;

use crate::output::Output;

/// How many batches may be on their way: enough to read and parse while the disk works.
const FLIGHTS_MAX: usize = 4;
/// The most bytes of lines in one batch: well below half a segment, which bounds an atomic batch.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// How many refused lines the summary names; the count goes on.
const ERRORS_MAX: usize = 100;

/// How lines are stored.
pub struct Options {
    /// What must be reached before an entry counts.
    pub durability: Durability,
    /// Whether a bad line ends the import.
    pub stop: bool,
    /// Whether each entry is acknowledged on stdout.
    pub ack: bool,
    /// How many entries make a batch.
    pub batch_entries: usize,
}

/// Why the import ended early.
pub enum Stopped {
    /// A line was refused, and that was to stop it.
    BadLine,
    /// The store or stdout failed.
    Error(anyhow::Error),
}

/// The batch being filled, the batches in flight, and the counts.
pub struct Flights<'a> {
    engine: &'a Engine,
    output: Output,
    options: Options,
    lines: Vec<u64>,
    batch: Vec<NewFailure>,
    batch_bytes: usize,
    flights: VecDeque<(Vec<u64>, BatchReceipt)>,
    summary: Summary,
    met_limit: bool,
}

#[derive(Default, Serialize)]
struct Summary {
    offered: u64,
    stored: u64,
    duplicates: u64,
    refused: u64,
    spilled: u64,
    errors: Vec<LineError>,
}

#[derive(Serialize)]
struct LineError {
    line: u64,
    error: String,
}

#[derive(Serialize)]
struct Acknowledgment {
    line: u64,
    dlq_id: EntryId,
    durability: Durability,
    duplicate: bool,
}

impl<'a> Flights<'a> {
    /// Nothing on its way yet.
    pub fn new(engine: &'a Engine, output: Output, options: Options) -> Self {
        Self {
            engine,
            output,
            options,
            lines: Vec::new(),
            batch: Vec::new(),
            batch_bytes: 0,
            flights: VecDeque::new(),
            summary: Summary::default(),
            met_limit: false,
        }
    }

    /// Whether nothing waits for anything.
    pub fn is_idle(&self) -> bool {
        self.batch.is_empty() && self.flights.is_empty()
    }

    /// Takes the entry of one line.
    pub fn offer(&mut self, line: u64, bytes: usize, failure: NewFailure) -> Result<(), Stopped> {
        if self.batch_bytes.saturating_add(bytes) > BATCH_BYTES_MAX {
            self.submit()?;
        }
        self.lines.push(line);
        self.batch.push(failure);
        self.batch_bytes += bytes;
        if self.batch.len() >= self.options.batch_entries {
            self.submit()?;
        }
        Ok(())
    }

    /// Names a bad line; earlier lines are submitted first, so that they keep their order.
    pub fn refuse(&mut self, line: u64, reason: &str) -> Result<(), Stopped> {
        self.submit()?;
        self.output.warning(&format!("line {line}: {reason}"));
        self.count_refused(&[line], reason);
        if self.options.stop { Err(Stopped::BadLine) } else { Ok(()) }
    }

    fn count_refused(&mut self, lines: &[u64], reason: &str) {
        self.summary.refused += lines.len() as u64;
        let room = ERRORS_MAX.saturating_sub(self.summary.errors.len());
        let named = lines.iter().take(room);
        let errors = named.map(|line| LineError { line: *line, error: reason.to_owned() });
        self.summary.errors.extend(errors);
    }

    /// A line is refused for want of room, which is no fault of its own. Where a limit of its domain
    /// is reached, later lines may still be stored, if the import is to go on.
    fn refuse_for_room(&mut self, line: u64, error: Error) -> Result<(), Stopped> {
        self.count_refused(&[line], &error.to_string());
        if !self.options.stop && matches!(error, Error::TooMany { .. }) {
            self.output.warning(&format!("line {line}: {error}"));
            self.met_limit = true;
            return Ok(());
        }
        let error = anyhow::Error::new(error);
        Err(Stopped::Error(error.context(format!("line {line} was not stored"))))
    }

    /// Commits what is there and waits for all of it.
    pub fn land_all(&mut self) -> Result<(), Stopped> {
        self.submit()?;
        self.settle().map_err(Stopped::Error)
    }

    /// Waits for everything in flight; the first failure is returned.
    pub fn settle(&mut self) -> Result<()> {
        let mut result = Ok(());
        while !self.flights.is_empty() {
            result = result.and(self.land());
        }
        result
    }

    /// Whether lines were passed over because a limit is reached.
    pub fn met_limit(&self) -> bool {
        self.met_limit
    }

    /// Prints the counts.
    pub fn print_summary(&mut self) -> Result<()> {
        let summary = &mut self.summary;
        summary.offered = summary.stored + summary.duplicates + summary.refused + summary.spilled;
        if self.output.json || self.options.ack {
            return self.output.json(&self.summary);
        }
        let summary = &self.summary;
        self.output.line(&format!(
            "{} offered, {} stored, {} duplicates, {} refused",
            summary.offered, summary.stored, summary.duplicates, summary.refused
        ))
    }

    fn submit(&mut self) -> Result<(), Stopped> {
        let lines = std::mem::take(&mut self.lines);
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        self.submit_parts(lines, batch)
    }

    /// Submits a batch. If it is refused, halves it until the line at fault stands alone; the
    /// lines before it are stored first. Its depth is the logarithm of the batch.
    fn submit_parts(&mut self, lines: Vec<u64>, batch: Vec<NewFailure>) -> Result<(), Stopped> {
        if batch.is_empty() {
            return Ok(());
        }
        if self.flights.len() >= FLIGHTS_MAX {
            self.land().map_err(Stopped::Error)?;
        }
        let BatchError { mut failures, source, .. } =
            match self.engine.submit_batch(batch, self.options.durability) {
                Ok(receipt) => {
                    self.flights.push_back((lines, receipt));
                    return Ok(());
                }
                Err(error) => error,
            };
        let is_full = matches!(source, Error::Full { .. } | Error::TooMany { .. });
        if !is_full && !matches!(source, Error::Invalid { .. } | Error::TooLarge { .. }) {
            return Err(Stopped::Error(source.into()));
        }
        if let [line] = *lines {
            if is_full {
                return self.refuse_for_room(line, source);
            }
            return self.refuse(line, &source.to_string());
        }
        let mut lines = lines;
        let middle = lines.len() / 2;
        let later_lines = lines.split_off(middle);
        let later = failures.split_off(middle.min(failures.len()));
        self.submit_parts(lines, failures)?;
        self.submit_parts(later_lines, later)
    }

    fn land(&mut self) -> Result<()> {
        let Some((lines, receipt)) = self.flights.pop_front() else { return Ok(()) };
        let stored = receipt.wait().map_err(|error| {
            if matches!(error, Error::Full { .. }) {
                self.count_refused(&lines, &error.to_string());
            }
            let (first, last) = (lines.first(), lines.last());
            let (first, last) = (first.copied().unwrap_or(0), last.copied().unwrap_or(0));
            anyhow::Error::new(error).context(format!("lines {first} to {last} were not stored"))
        })?;
        for (line, stored) in lines.into_iter().zip(stored) {
            if stored.duplicate {
                self.summary.duplicates += 1;
            } else {
                self.summary.stored += 1;
            }
            if self.options.ack {
                self.output.json(&Acknowledgment {
                    line,
                    dlq_id: stored.id,
                    durability: stored.durability,
                    duplicate: stored.duplicate,
                })?;
            }
        }
        Ok(())
    }
}
