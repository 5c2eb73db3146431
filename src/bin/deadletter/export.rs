//! All fields of every match, oldest first, one JSON object a line.

use anyhow::Result;
use clap::Args;
use deadletter::{Order, Page, Timestamp};

use crate::args::{FilterArgs, parse_time};
use crate::failure::Exit;
use crate::settings::Context;

/// How many entries are in memory at a time: each may have several megabytes.
const PAGE_ENTRIES: usize = 64;

/// Print every match as NDJSON, oldest first
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  deadletter export > entries.ndjson
  deadletter export --status pending --since 2h | deadletter --dir ./copy import")]
pub struct ExportArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Only entries created at or after this time, such as 2h (ago) or 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<Timestamp>,
    /// Only entries created at or before this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<Timestamp>,
}

pub fn export(context: &Context, args: &ExportArgs) -> Result<Exit> {
    let engine = context.open_reader()?;
    let mut filter = args.filter.filter();
    filter.created_from = args.since;
    filter.created_to = args.until;
    let mut page = Page { order: Order::Oldest, offset: 0, limit: PAGE_ENTRIES, after: None };
    loop {
        let entries = engine.find(&filter, page)?;
        for entry in &entries {
            context.output.json(entry)?;
        }
        match entries.last() {
            Some(entry) => page.after = Some(entry.operation.id),
            None => break,
        }
    }
    context.warn_of_damage(&engine);
    Ok(Exit::Done)
}
