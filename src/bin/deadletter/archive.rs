//! Archives entries that are done.

use anyhow::Result;
use clap::Args;

use crate::failure::Exit;
use crate::settings::Context;

/// Archive entries that are done
///
/// Takes entries that were resolved more than so many days ago, and those that were rejected,
/// expired or permanently failed for longer than the setting retention_days says.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  deadletter archive --older-than 7")]
pub struct ArchiveArgs {
    /// Days since they were resolved [default: the setting archive_older_than_days]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(0..=36_500))]
    older_than: Option<u32>,
}

pub fn archive(context: &Context, args: &ArchiveArgs) -> Result<Exit> {
    context.with_service(|service, act| {
        let count = service.archive_old_entries(args.older_than, Some(act))?;
        context.output.count("archived", count, false)
    })?;
    Ok(Exit::Done)
}
