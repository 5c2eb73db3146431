//! Expires pending entries whose time ran out.

use anyhow::Result;
use clap::Args;

use crate::failure::Exit;
use crate::settings::Context;

/// Expire pending entries whose time ran out
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  deadletter expire")]
pub struct ExpireArgs {}

pub fn expire(context: &Context) -> Result<Exit> {
    context.with_service(|service, act| {
        let count = service.expire_entries(Some(act))?;
        context.output.count("expired", count, false)
    })?;
    Ok(Exit::Done)
}
