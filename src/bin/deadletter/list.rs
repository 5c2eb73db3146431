//! One page of entries.

use anyhow::Result;
use clap::{Args, ValueEnum};
use deadletter::{Entry, EntryId, Order, Page};
use serde::Serialize;

use crate::args::FilterArgs;
use crate::failure::Exit;
use crate::output;
use crate::settings::Context;

/// How much of an error message a row shows.
const MESSAGE_CHARS_MAX: usize = 60;

/// How much of a failure type a row shows.
const TYPE_CHARS_MAX: usize = 40;

/// List entries, newest first
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  deadletter list --status pending --domain backup
  deadletter list --page 2 --page-size 50 --json")]
pub struct ListArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Which page, from 1
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    page: u64,
    /// Entries a page, from 1 to 1000
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    page_size: u16,
    /// Start behind this entry
    #[arg(long, value_name = "ID", conflicts_with = "page")]
    after: Option<EntryId>,
    /// The order, by id
    #[arg(long, value_enum, default_value_t = Sort::Newest)]
    sort: Sort,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Sort {
    Newest,
    Oldest,
}

#[derive(Serialize)]
struct Listing {
    results: Vec<Entry>,
    page: u64,
    page_size: u16,
    total_pages: u64,
    total_count: u64,
    has_next: bool,
    has_previous: bool,
}

pub fn list(context: &Context, args: &ListArgs) -> Result<Exit> {
    let engine = context.open_reader()?;
    let filter = args.filter.filter();
    let page_size = u64::from(args.page_size);
    let order = match args.sort {
        Sort::Newest => Order::Newest,
        Sort::Oldest => Order::Oldest,
    };
    // One more than asked tells whether another page follows.
    let page = Page {
        order,
        offset: (args.page - 1).saturating_mul(page_size),
        limit: usize::from(args.page_size) + 1,
        after: args.after,
    };
    let mut results = engine.find(&filter, page)?;
    let has_next = results.len() > usize::from(args.page_size);
    results.truncate(usize::from(args.page_size));
    let total_count = engine.count(&filter)?;
    context.warn_of_damage(&engine);
    let listing = Listing {
        results,
        page: args.page,
        page_size: args.page_size,
        total_pages: total_count.div_ceil(page_size),
        total_count,
        has_next,
        has_previous: args.page > 1 || args.after.is_some(),
    };
    if context.output.json {
        context.output.json(&listing)?;
        return Ok(Exit::Done);
    }
    print(context, &listing)?;
    Ok(Exit::Done)
}

fn print(context: &Context, listing: &Listing) -> Result<()> {
    if listing.results.is_empty() {
        context.output.line("no entries")?;
        if listing.total_count > 0 {
            note_page(context, listing);
        }
        return Ok(());
    }
    print_rows(context, &listing.results)?;
    note_page(context, listing);
    Ok(())
}

/// A table of entries, one a row.
pub fn print_rows(context: &Context, entries: &[Entry]) -> Result<()> {
    let rows = entries.iter().map(|entry| {
        let operation = &entry.operation;
        vec![
            operation.id.to_string(),
            operation.created_at.to_string(),
            operation.status.to_string(),
            operation.domain.clone(),
            output::shorten(&operation.failure_type, TYPE_CHARS_MAX),
            format!("{}/{}", operation.retry_count, operation.max_retries),
            output::shorten(&operation.error_message, MESSAGE_CHARS_MAX),
        ]
    });
    let header = ["ID", "CREATED", "STATUS", "DOMAIN", "TYPE", "ATTEMPTS", "ERROR"];
    context.output.table(&header, rows)
}

fn note_page(context: &Context, listing: &Listing) {
    context.output.note(&format!(
        "page {} of {}, {} entries",
        listing.page,
        listing.total_pages.max(1),
        listing.total_count
    ));
}
