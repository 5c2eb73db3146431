//! Replays one entry now, because a person says so.

use anyhow::Result;
use clap::Args;
use deadletter::{Act, DlqResult, DlqService, EntryId, RetryResult};

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
    replay_one(context, args.id, args.exec.as_deref(), |service, id, act| {
        service.retry_entry(id, Some(act))
    })
}

/// Replays one entry in this way, prints what became of it, and says how to exit.
pub fn replay_one(
    context: &Context,
    name: EntryName,
    exec: Option<&str>,
    replay: impl FnOnce(&DlqService, EntryId, &Act) -> DlqResult<RetryResult>,
) -> Result<Exit> {
    context.require_store()?;
    let stop = Stop::default();
    let handler = handler::handler(context, exec, &stop)?;
    let mut exit = Exit::Done;
    context.with_service(|service, act| {
        stop.hold()?;
        service.handlers().register_default(handler);
        let result = replay(service, context.id_of(service, name)?, act)?;
        if !result.success {
            exit = Exit::Failed;
        }
        print(context, &result)
    })?;
    Ok(exit)
}

fn print(context: &Context, result: &RetryResult) -> Result<()> {
    if context.output.json {
        return context.output.json(result);
    }
    let RetryResult { id, status, message, .. } = result;
    context.output.line(&crate::output::escape(&format!("{id} {status}: {message}")))
}
