//! Reads every byte of a store, without the lock and without changing anything.

use anyhow::Result;
use clap::Args;

use crate::failure::Exit;
use crate::settings::Context;

/// Read every byte and name all damage
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  deadletter verify
  deadletter --dir /mnt/copy verify --json

Exits 5 when anything is damaged. A torn tail alone is no damage: it was never acknowledged.")]
pub struct VerifyArgs {}

pub fn verify(context: &Context) -> Result<Exit> {
    context.require_store()?;
    let mut progress = context.output.progress("verify");
    let report =
        deadletter::verify(&context.config(), &mut |done, total| progress.set(done, total))?;
    drop(progress);
    let exit = if report.damage.is_empty() { Exit::Done } else { Exit::Damage };
    if context.output.json {
        context.output.json(&report)?;
        return Ok(exit);
    }
    for damage in &report.damage {
        context.output.line(&crate::output::escape(&damage.to_string()))?;
    }
    context.output.line(&format!(
        "{} entries in {} frames of {} segments, {} bytes; index {}, {} fallback files",
        report.entries,
        report.frames,
        report.segments,
        report.bytes,
        crate::output::escape(&report.index.clone()),
        report.fallback,
    ))?;
    if report.torn_tail_bytes > 0 {
        let torn = report.torn_tail_bytes;
        context.output.line(&format!("a torn tail of {torn} bytes, never acknowledged"))?;
    }
    let verdict = match report.damage.len() {
        0 => "no damage".to_owned(),
        1 => "1 place is damaged".to_owned(),
        places => format!("{places} places are damaged"),
    };
    context.output.line(&verdict)?;
    Ok(exit)
}
