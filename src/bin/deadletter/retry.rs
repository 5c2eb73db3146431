//! Replays one entry now, because a person says so.

use anyhow::Result;
use clap::Args;
use deadletter::RetryResult;

use crate::args::EntryName;
use crate::failure::Exit;
use crate::handler::{self, Stop};
use crate::settings::Context;

/// Replay one entry now, whether it is due or not
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  deadletter retry last
  deadletter retry 17 --exec ./deliver

Exits with 0 when it was delivered, 1 when it failed, and 4 when its state does not allow it.")]
pub struct RetryArgs {
    /// The entry, by id, or `last`
    #[arg(value_name = "ID")]
    id: EntryName,
    /// A program that is run for it, see `replay`
    #[arg(long, value_name = "CMD")]
    exec: Option<String>,
}

pub fn retry(context: &Context, args: &RetryArgs) -> Result<Exit> {
    context.require_store()?;
    let stop = Stop::default();
    let handler = handler::handler(context, args.exec.as_deref(), &stop)?;
    let mut exit = Exit::Done;
    context.with_service(|service, act| {
        stop.hold()?;
        service.handlers().register_default(handler);
        let id = context.id_of(service, args.id)?;
        exit = print(context, &service.retry_entry(id, Some(act))?)?;
        Ok(())
    })?;
    Ok(exit)
}

/// Prints what became of the entry, and says how to exit.
pub fn print(context: &Context, result: &RetryResult) -> Result<Exit> {
    if context.output.json {
        context.output.json(result)?;
    } else {
        let RetryResult { id, status, message, .. } = result;
        context.output.line(&crate::output::escape(&format!("{id} {status}: {message}")))?;
    }
    Ok(if result.success { Exit::Done } else { Exit::Failed })
}
