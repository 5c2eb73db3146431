//! How many entries each status and each domain has.

use anyhow::Result;
use clap::Args;
use deadletter::Status;

use crate::args::{status_parser, stored_domain};
use crate::failure::Exit;
use crate::settings::Context;

/// Count entries by status and by domain
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  deadletter facets --status pending")]
pub struct FacetsArgs {
    /// Only entries in this status
    #[arg(long, value_parser = status_parser())]
    status: Option<Status>,
    /// Only entries of this domain
    #[arg(long)]
    domain: Option<String>,
}

pub fn facets(context: &Context, args: &FacetsArgs) -> Result<Exit> {
    let engine = context.open_reader()?;
    let domain = args.domain.as_deref().map(stored_domain);
    let facets = engine.facets(args.status, domain.as_deref())?;
    context.warn_of_damage(&engine);
    if context.output.json {
        context.output.json(&facets)?;
        return Ok(Exit::Done);
    }
    let statuses = facets.by_status.iter().map(|(name, count)| (name.to_string(), count));
    context.output.table(
        &["STATUS", "ENTRIES"],
        statuses.map(|(name, count)| vec![name, count.to_string()]),
    )?;
    context.output.line("")?;
    let domains =
        facets.by_domain.iter().map(|(name, count)| vec![name.clone(), count.to_string()]);
    context.output.table(&["DOMAIN", "ENTRIES"], domains)?;
    Ok(Exit::Done)
}
