//! Examines the device and the directory: what a store there can rely on, and what is wrong.

mod device;
mod directory;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use crate::failure::Exit;
use crate::output;
use crate::settings::Context;

/// Examine the device: syncs, space, clock, file modes, lock
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  deadletter doctor
  deadletter doctor --json

It writes a small file of its own into the directory and removes it; a process that uses the store is
not disturbed. Exits 1 when a check failed.")]
pub struct DoctorArgs {}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Ok,
    Warn,
    Fail,
}

/// One check with its outcome.
#[derive(Debug, Serialize)]
pub struct Check {
    check: &'static str,
    status: Status,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'static str>,
}

impl Check {
    pub fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self { check, status: Status::Ok, message: message.into(), hint: None }
    }

    pub fn warn(check: &'static str, message: impl Into<String>, hint: &'static str) -> Self {
        Self { check, status: Status::Warn, message: message.into(), hint: Some(hint) }
    }

    pub fn fail(check: &'static str, message: impl Into<String>, hint: &'static str) -> Self {
        Self { status: Status::Fail, ..Self::warn(check, message, hint) }
    }
}

pub fn doctor(context: &Context) -> Result<Exit> {
    context.require_store()?;
    let checks = [
        device::sync(&context.dir),
        device::ballast(context),
        directory::space(context),
        device::clock(&context.dir),
        directory::modes(context),
        directory::lock(&context.dir),
        directory::store(context),
    ];
    let failed = checks.iter().any(|check| check.status == Status::Fail);
    let exit = if failed { Exit::Failed } else { Exit::Done };
    if context.output.json {
        context.output.json(&checks)?;
        return Ok(exit);
    }
    let word = |status| match status {
        Status::Ok => "ok",
        Status::Warn => "warn",
        Status::Fail => "FAIL",
    };
    let row = |check: &Check| {
        vec![check.check.to_owned(), word(check.status).to_owned(), output::escape(&check.message)]
    };
    context.output.table(&["check", "status", "message"], checks.iter().map(row))?;
    for check in &checks {
        if let Some(hint) = check.hint {
            context.output.note(&format!("hint: {}: {hint}", check.check));
        }
    }
    Ok(exit)
}
