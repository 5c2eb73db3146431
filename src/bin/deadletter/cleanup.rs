//! Expires, then archives.

use anyhow::Result;
use clap::Args;

use crate::failure::Exit;
use crate::settings::Context;

/// Expire, then archive
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  deadletter cleanup --older-than 30")]
pub struct CleanupArgs {
    /// Days since they were resolved [default: the setting archive_older_than_days]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(0..=36_500))]
    older_than: Option<u32>,
}

pub fn cleanup(context: &Context, args: &CleanupArgs) -> Result<Exit> {
    context.with_service(|service, act| {
        let result = service.cleanup_old_entries(args.older_than, Some(act))?;
        if context.output.json {
            return context.output.json(&result);
        }
        let (expired, archived) = (result.expired_count, result.archived_count);
        context.output.line(&format!("{expired} expired, {archived} archived"))
    })?;
    Ok(Exit::Done)
}
