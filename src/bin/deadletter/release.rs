//! Releases the leases of replays that were cut off.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::failure::Exit;
use crate::settings::Context;

/// Release entries whose replay was cut off
///
/// Every replay does so by itself. An entry whose attempts are used up goes to review.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  deadletter release --older-than 30")]
pub struct ReleaseArgs {
    /// Only those that were leased more than so many minutes ago
    #[arg(long, value_name = "MINUTES")]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=525_600))]
    older_than: Option<u64>,
}

pub fn release(context: &Context, args: &ReleaseArgs) -> Result<Exit> {
    context.with_service(|service, _| {
        let older_than = args.older_than.map(|minutes| Duration::from_secs(minutes * 60));
        let released = service.release_stale(older_than)?;
        context.output.count("released", released.total(), false)
    })?;
    Ok(Exit::Done)
}
