//! What is left of entries that were evicted for space.

use anyhow::Result;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use deadletter::{EvictedSummary, FailedOperationRepository as _, SummaryStatus, SummaryTotals};
use serde::Serialize;

use crate::args::stored_domain;
use crate::failure::Exit;
use crate::output;
use crate::settings::Context;

/// How much of a text a row shows.
const TEXT_CHARS_MAX: usize = 40;

/// Summaries of evicted entries, newest first, and their totals
#[derive(Debug, Args)]
#[command(after_help = "Example:
  deadletter summaries --status active --domain orders

Entries are summed up when overflow_strategy is compress_oldest and a limit is reached. The totals
are those of all summaries, whatever is listed.")]
pub struct SummariesArgs {
    /// Only summaries in this status
    #[arg(long, value_parser = summary_status_parser())]
    status: Option<SummaryStatus>,
    /// Only summaries of this domain
    #[arg(long)]
    domain: Option<String>,
}

/// The list, and the totals of the reference.
#[derive(Serialize)]
struct Report {
    results: Vec<EvictedSummary>,
    #[serde(flatten)]
    totals: SummaryTotals,
}

pub fn summaries(context: &Context, args: &SummariesArgs) -> Result<Exit> {
    let engine = context.open_reader()?;
    let domain = args.domain.as_deref().map(stored_domain);
    let results = engine.find_summaries(domain.as_deref(), args.status, usize::MAX)?;
    let totals = engine.get_summary_totals()?;
    context.warn_of_damage(&engine);
    if context.output.json {
        context.output.json(&Report { results, totals })?;
        return Ok(Exit::Done);
    }
    let header =
        ["STATUS", "DOMAIN", "TYPE", "CODE", "ENTRIES", "FIRST SEEN", "LAST SEEN", "SAMPLE"];
    let rows = results.iter().map(|summary| {
        vec![
            summary.status.to_string(),
            summary.domain.clone(),
            output::shorten(&summary.failure_type, TEXT_CHARS_MAX),
            output::shorten(&summary.error_code, TEXT_CHARS_MAX),
            summary.count.to_string(),
            summary.first_seen.to_string(),
            summary.last_seen.to_string(),
            output::shorten(&summary.sample_error_message, TEXT_CHARS_MAX),
        ]
    });
    if results.is_empty() {
        context.output.line("no summaries")?;
    } else {
        context.output.table(&header, rows)?;
    }
    let by_status = totals.by_status.iter().map(|(status, count)| format!("{count} {status}"));
    context.output.line(&format!(
        "{} entries in {} summaries ({})",
        totals.total_compressed_items,
        totals.total_summaries,
        by_status.collect::<Vec<_>>().join(", ")
    ))?;
    Ok(Exit::Done)
}

/// Parses a status and offers all of them to completions.
fn summary_status_parser() -> impl TypedValueParser<Value = SummaryStatus> {
    PossibleValuesParser::new(SummaryStatus::ALL.map(SummaryStatus::as_str))
        .try_map(|text| text.parse::<SummaryStatus>())
}
