//! Replays an entry past its cap, on record.

use anyhow::Result;
use clap::Args;

use crate::args::EntryName;
use crate::failure::{Exit, Refusal};
use crate::retry;
use crate::settings::Context;

/// The most characters of a reason, and of a link.
const TEXT_CHARS_MAX: usize = 500;

/// Replay an entry past its cap, with a fresh budget
#[derive(Debug, Args)]
#[command(after_help = "Example:
  deadletter redrive 17 --reason 'the bank is back' --ticket https://tickets.example.org/4711

Who, why and the ticket go on record with the entry. A broken entry comes to review again after as
many attempts as its cap.")]
pub struct RedriveArgs {
    /// The entry, by id, or `last`
    #[arg(value_name = "ID")]
    id: EntryName,
    /// Why, 1 to 500 characters
    #[arg(long, value_name = "R", value_parser = parse_reason)]
    reason: String,
    /// A link to the ticket, at most 500 characters
    #[arg(long, value_name = "URL", default_value = "", value_parser = parse_text)]
    ticket: String,
    /// A program that is run for it, see `replay`
    #[arg(long, value_name = "CMD")]
    exec: Option<String>,
}

fn parse_reason(text: &str) -> Result<String, Refusal> {
    if text.trim().is_empty() {
        return Err(Refusal::usage("a reason is needed, it goes on record"));
    }
    parse_text(text)
}

fn parse_text(text: &str) -> Result<String, Refusal> {
    match text.chars().count() {
        count if count > TEXT_CHARS_MAX => {
            Err(Refusal::usage(format!("it has {count} characters, at most {TEXT_CHARS_MAX} fit")))
        }
        _ => Ok(text.to_owned()),
    }
}

pub fn redrive(context: &Context, args: &RedriveArgs) -> Result<Exit> {
    retry::replay_one(context, args.id, args.exec.as_deref(), |service, id, act| {
        service.force_redrive_entry(id, &act.actor, &args.reason, &args.ticket)
    })
}
