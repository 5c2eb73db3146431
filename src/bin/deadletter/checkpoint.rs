//! Writes the checkpoint now, so that the next open has less to read.

use anyhow::Result;
use clap::Args;

use crate::failure::Exit;
use crate::settings::{Context, Work};

/// Write the checkpoint and the index now
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  deadletter checkpoint")]
pub struct CheckpointArgs {}

pub fn checkpoint(context: &Context) -> Result<Exit> {
    let engine = context.open_writer(Work::Once)?;
    let mut progress = context.output.progress("checkpoint");
    progress.beat();
    let report = engine.checkpoint()?;
    drop(progress);
    engine.close()?;
    context.output.done("checkpoint written", &report)?;
    Ok(Exit::Done)
}
