//! Stores a stream of entries, one JSON object a line.
//!
//! 1. A thread reads lines, so that a pause of the input is noticed.
//! 2. Lines become entries; full batches are submitted and several are in flight at a time.
//! 3. When the input pauses, what is there is committed and acknowledged.
//!
//! Memory is bounded: by the lines in the reader's channel, one batch, and the batches in flight.

mod flight;
mod line;
mod reader;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use crossbeam_channel::RecvTimeoutError;
use deadletter::Durability;

use crate::args::durability_parser;
use crate::failure::{Exit, Refusal};
use crate::settings::{Context, Work};

use flight::{Flights, Stopped};
use reader::Line;

/// How long the input may be silent before a partial batch is committed.
const PAUSE: Duration = Duration::from_millis(50);

/// Store entries from NDJSON
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  deadletter import entries.ndjson
  tail -F failures.ndjson | deadletter import --ack

A line takes the keys that export writes; domain and failure_type are required. Entries with a key
that is already stored are duplicates, so that an interrupted import can be repeated.")]
pub struct ImportArgs {
    /// The file, or - for stdin
    #[arg(default_value = "-")]
    file: PathBuf,
    /// What a bad line does
    #[arg(long, value_enum, default_value_t = OnError::Stop)]
    on_error: OnError,
    /// Entries a batch
    #[arg(long, value_name = "N", default_value_t = 500)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch: u32,
    /// What must be true of an entry before it counts as stored
    #[arg(long, value_parser = durability_parser(), default_value = "synced")]
    durability: Durability,
    /// Print one line an entry as soon as it is that durable
    #[arg(long)]
    ack: bool,
    /// Let captured commands be run again by `deadletter replay`
    #[arg(long)]
    trust_commands: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnError {
    /// Commit the lines before it and stop
    Stop,
    /// Name it and go on
    Skip,
}

pub fn import(context: &Context, args: &ImportArgs) -> Result<Exit> {
    let lines = if args.file.as_os_str() == "-" {
        reader::start(std::io::stdin())?
    } else {
        let file = std::fs::File::open(&args.file)
            .map_err(|error| Refusal::usage(error.to_string()))
            .with_context(|| format!("cannot open {}", args.file.display()))?;
        reader::start(file)?
    };
    let engine = context.open_writer(Work::Stream)?;
    let options = flight::Options {
        durability: args.durability,
        stop: args.on_error == OnError::Stop,
        ack: args.ack,
        batch_entries: usize::try_from(args.batch).unwrap_or(usize::MAX),
    };
    let attempts_max = context.config().max_retries;
    let form = line::Form { trust_commands: args.trust_commands, attempts_max };
    let mut flights = Flights::new(&engine, context.output, options);
    let outcome = pump(context, &lines, &form, &mut flights).and_then(|()| flights.land_all());
    // What was submitted before a bad line is committed whatever ended the loop.
    let settled = flights.settle();
    let closed = engine.close();
    let bad_line = match outcome {
        Ok(()) => false,
        Err(Stopped::BadLine) => true,
        Err(Stopped::Error(error)) => {
            flights.print_summary()?;
            return Err(error);
        }
    };
    settled?;
    flights.print_summary()?;
    closed?;
    Ok(match (bad_line, flights.met_limit()) {
        (true, _) => Exit::Usage,
        (false, true) => Exit::NotCaptured,
        (false, false) => Exit::Done,
    })
}

fn pump(
    context: &Context,
    lines: &reader::Lines,
    form: &line::Form,
    flights: &mut Flights,
) -> Result<(), Stopped> {
    let mut progress = context.output.progress("import");
    loop {
        let received = if flights.is_idle() {
            lines.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            lines.recv_timeout(PAUSE)
        };
        match received {
            Ok(chunk) => {
                let chunk = chunk.context("cannot read the input").map_err(Stopped::Error)?;
                for Line { number, content } in chunk {
                    let bytes = content.as_ref().map_or(0, Vec::len);
                    match content.and_then(|text| line::parse(&text, form)) {
                        Ok(failure) => flights.offer(number, bytes, failure)?,
                        Err(reason) => flights.refuse(number, &reason)?,
                    }
                }
                progress.beat();
            }
            Err(RecvTimeoutError::Timeout) => flights.land_all()?,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}
