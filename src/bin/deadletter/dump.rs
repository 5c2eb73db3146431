//! The frames of one file, one JSON object a line.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::failure::{Exit, Refusal};
use crate::settings::Context;

/// Print the frames of one segment as NDJSON
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  deadletter dump 0000000000000001-00000000.seg --offset 4096")]
pub struct DumpArgs {
    /// A path, or the name of a file in the store's log
    segment: PathBuf,
    /// Where to begin
    #[arg(long, default_value_t = 0)]
    offset: u64,
}

pub fn dump(context: &Context, args: &DumpArgs) -> Result<Exit> {
    let in_log = context.dir.join("log").join(&args.segment);
    let path = if args.segment.exists() || !in_log.exists() { &args.segment } else { &in_log };
    let frames = match deadletter::dump(path, args.offset) {
        Ok(frames) => frames,
        Err(deadletter::Error::Damaged(damage)) => {
            if path.extension().is_none_or(|extension| extension != "seg") {
                let message = format!("{} is not a segment", path.display());
                let hint = "name a .seg file of log/ or fallback/";
                return Err(Refusal::usage(message).with_hint(hint).into());
            }
            context.output.warning(&damage.to_string());
            return Ok(Exit::Done);
        }
        Err(error) => return Err(error.into()),
    };
    for frame in frames {
        match frame {
            Ok(frame) => context.output.json(&frame)?,
            Err(deadletter::Error::Damaged(damage)) => {
                context.output.warning(&damage.to_string());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Exit::Done)
}
