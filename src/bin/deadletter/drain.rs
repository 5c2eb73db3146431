//! Brings fallback files home now.

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use crate::failure::Exit;
use crate::settings::{Context, Work};

/// Bring fallback files home now
#[derive(Debug, Args)]
#[command(after_help = "Example:
  deadletter drain

A running owner does this by itself, and so does every verb that writes.")]
pub struct DrainArgs {}

#[derive(Serialize)]
struct Drained {
    /// Entries that came home.
    drained: u64,
}

pub fn drain(context: &Context) -> Result<Exit> {
    context.require_store()?;
    let engine = context.open_writer(Work::Once)?;
    // Opening did it; what could not come then says why now.
    let late = engine.drain();
    let drained = engine.report().drained;
    let closed = engine.close();
    late?;
    closed?;
    context.output.done("drained", &Drained { drained })?;
    Ok(Exit::Done)
}
