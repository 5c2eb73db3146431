//! Resolves or rejects entries by hand.

use anyhow::Result;
use clap::{Args, ValueEnum};
use deadletter::{DlqService, EntryId, ResolveBatchResult, ResolveRequest, Status};

use crate::args::EntryName;
use crate::failure::Exit;
use crate::settings::Context;

/// Resolve or reject entries by hand
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  deadletter resolve 17 --notes 'paid by hand'
  deadletter resolve 17 18 19 --as rejected --type duplicate

Exits with 4 if an entry is already resolved or archived; of several, the others are resolved all
the same.")]
pub struct ResolveArgs {
    /// The entries, by id, or `last`
    #[arg(required = true, value_name = "ID")]
    ids: Vec<EntryName>,
    /// A note on record
    #[arg(long, default_value = "")]
    notes: String,
    /// Into which status
    #[arg(long = "as", value_enum, default_value_t = Target::Resolved)]
    target: Target,
    /// How they were resolved
    #[arg(long = "type", value_name = "R", default_value = "manual")]
    resolution_type: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Target {
    Resolved,
    Rejected,
}

pub fn resolve(context: &Context, args: &ResolveArgs) -> Result<Exit> {
    let mut exit = Exit::Done;
    context.with_service(|service, act| {
        let mut request = ResolveRequest::default();
        request.notes.clone_from(&args.notes);
        request.resolution_type.clone_from(&args.resolution_type);
        request.status = match args.target {
            Target::Resolved => Status::Resolved,
            Target::Rejected => Status::Rejected,
        };
        request.act = act.clone();
        request.act.reason.clone_from(&args.notes);
        let ids = args.ids.iter().map(|name| context.id_of(service, *name));
        let ids = ids.collect::<Result<Vec<EntryId>>>()?;
        exit = match ids.as_slice() {
            [id] => one(context, service, *id, &request)?,
            ids => many(context, service, ids, &request)?,
        };
        Ok(())
    })?;
    Ok(exit)
}

fn one(
    context: &Context,
    service: &DlqService,
    id: EntryId,
    request: &ResolveRequest,
) -> Result<Exit> {
    let result = service.resolve_entry(id, request)?;
    if context.output.json {
        context.output.json(&result)?;
    } else {
        let (from, to) = (result.previous_status, result.current_status);
        context.output.line(&format!("{} {to}, was {from}", result.id))?;
    }
    Ok(Exit::Done)
}

fn many(
    context: &Context,
    service: &DlqService,
    ids: &[EntryId],
    request: &ResolveRequest,
) -> Result<Exit> {
    let result = service.resolve_entries_batch(ids, request)?;
    if context.output.json {
        context.output.json(&result)?;
    } else {
        print(context, request.status, &result)?;
    }
    Ok(if result.failed > 0 { Exit::Conflict } else { Exit::Done })
}

fn print(context: &Context, status: Status, result: &ResolveBatchResult) -> Result<()> {
    let ResolveBatchResult { total, resolved, skipped, failed, .. } = result;
    let line = format!("{resolved} of {total} {status}, {skipped} skipped, {failed} refused");
    context.output.line(&line)?;
    for error in &result.errors {
        context.output.error(&error.error);
    }
    Ok(())
}
