//! The words of the command line: global flags, the verbs, and arguments that several verbs share.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, Result};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use deadletter::{Durability, EntryId, Filter, Status, Timestamp, normalize_domain};
use jiff::tz::TimeZone;

use crate::failure::Refusal;
use crate::{
    archive, checkpoint, cleanup, compact, completions, doctor, drain, dump, expire, export,
    facets, import, list, purge, put, rebuild_index, redrive, release, replay, resolve, retry, run,
    salvage, show, sla, stats, summaries, verify,
};

const EXAMPLES: &str = "\
Examples:
  deadletter run --domain backup -- rsync -a /data backup:/data
  deadletter put --domain orders --type TIMEOUT --request '{\"order\": 42}'
  deadletter list --status pending
  deadletter show last
  deadletter export > entries.ndjson

Exit codes: 0 done, 1 the operation failed, 2 usage or bad input, 3 no such entry, 4 state
conflict, 5 damage found, 6 the store is in use, 7 captured in a fallback file only, 8 not
captured, 70 a bug, 74 I/O error, 75 stopped early by throttling. `run` exits with the code of
its command.

Every setting is also DEADLETTER_<NAME> in the environment and a key of the file that --config
names, such as DEADLETTER_SEGMENT_BYTES=4194304.";

/// Keep what failed, find it, replay it
#[derive(Debug, Parser)]
#[command(name = "deadletter", version, after_help = EXAMPLES, max_term_width = 100)]
#[command(propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Args)]
pub struct GlobalArgs {
    /// The data directory [default: $XDG_STATE_HOME/deadletter; or DEADLETTER_DIR]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    pub dir: Option<PathBuf>,
    /// Settings as TOML; the environment and flags win over it [or DEADLETTER_CONFIG]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub config: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// No notes and warnings on stderr
    #[arg(long, short, global = true, help_heading = "Global options")]
    pub quiet: bool,
    /// More notes on stderr
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    #[arg(help_heading = "Global options")]
    pub verbose: u8,
    /// Who acts, for the audit [default: the login name]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Global options")]
    pub actor: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Run(run::RunArgs),
    Put(Box<put::PutArgs>),
    Import(import::ImportArgs),
    Export(export::ExportArgs),
    List(list::ListArgs),
    Show(show::ShowArgs),
    Stats(stats::StatsArgs),
    Facets(facets::FacetsArgs),
    Sla(sla::SlaArgs),
    Summaries(summaries::SummariesArgs),
    Replay(replay::ReplayArgs),
    Retry(retry::RetryArgs),
    Redrive(redrive::RedriveArgs),
    Resolve(resolve::ResolveArgs),
    Release(release::ReleaseArgs),
    Expire(expire::ExpireArgs),
    Archive(archive::ArchiveArgs),
    Purge(purge::PurgeArgs),
    Cleanup(cleanup::CleanupArgs),
    Verify(verify::VerifyArgs),
    Salvage(salvage::SalvageArgs),
    Doctor(doctor::DoctorArgs),
    Dump(dump::DumpArgs),
    RebuildIndex(rebuild_index::RebuildIndexArgs),
    Compact(compact::CompactArgs),
    Checkpoint(checkpoint::CheckpointArgs),
    Drain(drain::DrainArgs),
    Completions(completions::CompletionsArgs),
    /// Print the manual pages
    ///
    /// Example: deadletter man | man -l -
    Man,
}

/// Which entries are meant.
#[derive(Debug, Args)]
pub struct FilterArgs {
    /// Only entries in this status
    #[arg(long, value_parser = status_parser())]
    pub status: Option<Status>,
    /// Only entries of this domain
    #[arg(long)]
    pub domain: Option<String>,
    /// Only entries of this failure type
    #[arg(long = "type", value_name = "TYPE")]
    pub failure_type: Option<String>,
}

/// An entry as it is named on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryName {
    /// The newest one.
    Last,
    /// The one with this id.
    Id(EntryId),
}

impl FilterArgs {
    /// The filter, over all times.
    pub fn filter(&self) -> Filter {
        Filter {
            status: self.status,
            domain: self.domain.as_deref().map(stored_domain),
            failure_type: self.failure_type.clone(),
            ..Filter::default()
        }
    }
}

impl FromStr for EntryName {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        if text == "last" {
            return Ok(Self::Last);
        }
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let id = digits.then(|| text.parse().ok()).flatten();
        id.map(Self::Id).ok_or_else(|| Refusal::usage("an id is decimal digits, or `last`"))
    }
}

/// A domain as entries have it, so that a filter finds what was stored under the same words.
pub fn stored_domain(domain: &str) -> String {
    normalize_domain(domain).unwrap_or_else(|| domain.to_owned())
}

/// Parses a status and offers all of them to completions.
pub fn status_parser() -> impl TypedValueParser<Value = Status> {
    PossibleValuesParser::new(Status::ALL.map(Status::as_str))
        .try_map(|text| text.parse::<Status>())
}

/// Parses how durable an entry must be before we say so.
pub fn durability_parser() -> impl TypedValueParser<Value = Durability> {
    PossibleValuesParser::new(["synced", "written"]).try_map(|text| text.parse::<Durability>())
}

/// Parses a time: how long ago (`2h`, `3 days`), a date, or RFC 3339.
pub fn parse_time(text: &str) -> Result<Timestamp> {
    let zoned = if let Ok(timestamp) = text.parse::<jiff::Timestamp>() {
        timestamp
    } else if let Ok(span) = text.parse::<jiff::Span>() {
        let span = span.abs();
        let now = jiff::Timestamp::now().in_tz("UTC")?;
        now.checked_sub(span).context("the time is too far away")?.timestamp()
    } else {
        let date: jiff::civil::DateTime = text
            .parse()
            .context("a time is how long ago, such as 2h or 3d, a date, or RFC 3339")?;
        date.to_zoned_datetime(TimeZone::system())?.timestamp()
    };
    milliseconds(zoned)
}

/// The current time plus some seconds.
pub fn time_from_now(seconds: u64) -> Result<Timestamp> {
    let seconds = i64::try_from(seconds).context("the time is too far away")?;
    let span = jiff::SignedDuration::from_secs(seconds);
    let time = jiff::Timestamp::now().checked_add(span).context("the time is too far away")?;
    milliseconds(time)
}

fn milliseconds(time: jiff::Timestamp) -> Result<Timestamp> {
    let milliseconds = u64::try_from(time.as_millisecond());
    Ok(Timestamp(milliseconds.context("times before 1970 are not supported")?))
}
