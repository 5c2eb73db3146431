//! Deletes archived entries for good.

use anyhow::Result;
use clap::Args;
use deadletter::{EntryId, PurgeSelection};

use crate::failure::{Exit, Refusal};
use crate::settings::Context;

/// Delete archived entries for good
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  deadletter purge --older-than 90 --dry-run
  deadletter purge --older-than 90 --yes
  deadletter purge --ids 17 18 --yes

Without a selection, or without --yes, nothing is deleted. All ids are checked before the first
entry is deleted.")]
pub struct PurgeArgs {
    /// These entries, all of which must be archived
    #[arg(long, value_name = "ID", num_args = 1.., value_delimiter = ',')]
    ids: Vec<EntryId>,
    /// Entries that were archived more than so many days ago
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(0..=36_500))]
    #[arg(conflicts_with = "ids")]
    older_than: Option<u32>,
    /// Really delete
    #[arg(long)]
    yes: bool,
    /// Only say how many would be deleted
    #[arg(long)]
    dry_run: bool,
}

pub fn purge(context: &Context, args: &PurgeArgs) -> Result<Exit> {
    let selection = match args.older_than {
        Some(days) => PurgeSelection::OlderThanDays(days),
        None if args.ids.is_empty() => {
            return Err(Refusal::usage("purge needs a selection: --ids or --older-than").into());
        }
        None => PurgeSelection::Ids(args.ids.clone()),
    };
    if !args.yes && !args.dry_run {
        return Err(Refusal::usage("purge deletes for good, so it needs --yes")
            .with_hint("see what it would delete with --dry-run")
            .into());
    }
    if args.dry_run {
        let service = context.reading_service()?;
        let count = service.count_purge(&selection)?;
        context.output.count("would be purged", count, true)?;
        return Ok(Exit::Done);
    }
    context.with_service(|service, act| {
        let count = service.purge_archived(&selection, Some(act))?;
        context.output.count("purged", count, false)
    })?;
    Ok(Exit::Done)
}
