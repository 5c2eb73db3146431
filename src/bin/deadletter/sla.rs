//! Pending entries that are older than their service level allows.

use anyhow::Result;
use clap::Args;

use crate::failure::Exit;
use crate::list;
use crate::settings::Context;

/// List pending entries that breach their service level
#[derive(Debug, Args)]
#[command(after_help = "Example:
  DEADLETTER_SLA_DEFAULT_HOURS=4 deadletter sla --json

The thresholds are the settings sla_default_hours and sla_thresholds_by_domain.")]
pub struct SlaArgs {}

pub fn sla(context: &Context) -> Result<Exit> {
    let service = context.reading_service()?;
    let entries = service.get_sla_breached_entries()?;
    if context.output.json {
        context.output.json(&entries)?;
        return Ok(Exit::Done);
    }
    if entries.is_empty() {
        context.output.line("no entries")?;
        return Ok(Exit::Done);
    }
    list::print_rows(context, &entries)?;
    Ok(Exit::Done)
}
