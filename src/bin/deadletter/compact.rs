//! Gives space back now, and makes removed entries really gone.

use anyhow::Result;
use clap::Args;

use crate::failure::Exit;
use crate::settings::{Context, Work};

/// Give space back now; removed entries leave the disk
#[derive(Debug, Args)]
#[command(after_help = "Example:
  deadletter purge --older-than 90 --yes
  deadletter compact
  deadletter checkpoint

When both have returned, no byte of the payload of a purged entry is left in the log, the index or
the fallback folder. What recovery put into quarantine/ is not touched; it is named if there is any.")]
pub struct CompactArgs {}

pub fn compact(context: &Context) -> Result<Exit> {
    context.require_store()?;
    let engine = context.open_writer(Work::Once)?;
    let mut progress = context.output.progress("compact");
    let done = engine.compact(&mut |done, total| progress.set(done, total));
    drop(progress);
    let quarantine = engine.bytes().map_or(0, |bytes| bytes.quarantine);
    let closed = engine.close();
    context.warn_of_damage(&engine);
    let report = done?;
    closed?;
    if quarantine > 0 {
        let message = "quarantine/ was not touched; it may hold bytes of purged entries";
        context.output.warning(message);
    }
    if report.pinned_files > 0 {
        let message = "a reader still uses old files; they go once it is done, or at the next open";
        context.output.warning(message);
    }
    context.output.done("compacted", &report)?;
    Ok(Exit::Done)
}
