//! Builds the index again from the log.

use anyhow::Result;
use clap::Args;

use crate::failure::Exit;
use crate::settings::{Context, Work};

/// Build the index again from the log
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  deadletter rebuild-index")]
pub struct RebuildIndexArgs {}

pub fn rebuild_index(context: &Context) -> Result<Exit> {
    let engine = context.open_writer(Work::Once)?;
    let mut progress = context.output.progress("rebuild-index");
    progress.beat();
    let report = engine.rebuild_index()?;
    drop(progress);
    engine.close()?;
    context.output.done("index rebuilt", &report)?;
    Ok(Exit::Done)
}
