//! Copies what is sound of a damaged directory into a new store.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::failure::{Exit, Refusal};
use crate::settings::Context;

/// Copy every sound entry of a damaged directory into a new store
#[derive(Debug, Args)]
#[command(after_help = "Example:
  deadletter salvage /mnt/card/deadletter --to ./rescued

The old directory is only read. Entries keep their key, state, history and order, and get new ids.")]
pub struct SalvageArgs {
    /// The damaged directory
    #[arg(value_name = "SRC")]
    from: PathBuf,
    /// The new directory
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

pub fn salvage(context: &Context, args: &SalvageArgs) -> Result<Exit> {
    if !args.from.is_dir() {
        let message = format!("there is no directory {}", args.from.display());
        return Err(Refusal::usage(message).into());
    }
    let mut from = context.config();
    from.dir.clone_from(&args.from);
    let mut to = context.config();
    to.dir.clone_from(&args.to);
    // A folder that was set belongs to another store.
    to.fallback_dir = None;
    let mut progress = context.output.progress("salvage");
    let report = deadletter::salvage(&from, &to, &mut |done, total| progress.set(done, total));
    drop(progress);
    let report = report?;
    for damage in &report.damage {
        context.output.warning(&damage.to_string());
    }
    if report.lost > 0 {
        let message = format!("{} entries are lost; their bytes stay where they were", report.lost);
        context.output.warning(&message);
    }
    context.output.done("salvaged", &report)?;
    Ok(Exit::Done)
}
