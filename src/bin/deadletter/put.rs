//! Stores one entry that the caller describes.

use std::io::Read;

use anyhow::{Context as _, Result};
use clap::Args;
use deadletter::{Durability, EntryId, Json, NewFailure};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::args::{durability_parser, time_from_now};
use crate::capture::{self, Capture};
use crate::failure::{Exit, Refusal};
use crate::output;
use crate::settings::Context;

/// The most bytes that a JSON argument may have: the bound of a record.
const JSON_BYTES_MAX: u64 = 16 << 20;

/// Store one entry
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  deadletter put --domain orders --type TIMEOUT --request '{\"order\": 42}' --key order-42
  curl -s https://example.org/order/42 | deadletter put --domain orders --type BAD --response @-

Exits 7 when the entry is only in a fallback file, 8 when it was not captured at all.")]
pub struct PutArgs {
    /// The service boundary it belongs to
    #[arg(long)]
    domain: String,
    /// What went wrong, such as PG_TIMEOUT
    #[arg(long = "type", value_name = "TYPE")]
    failure_type: String,
    /// The request to send again: a JSON object, @FILE, or @- for stdin
    #[arg(long, value_name = "JSON")]
    request: Option<String>,
    /// The state of the world at the failure
    #[arg(long, value_name = "JSON")]
    snapshot: Option<String>,
    /// What came back
    #[arg(long, value_name = "JSON")]
    response: Option<String>,
    /// Anything else
    #[arg(long, value_name = "JSON")]
    metadata: Option<String>,
    /// The error's code
    #[arg(long, value_name = "CODE")]
    error_code: Option<String>,
    /// The error's text
    #[arg(long, value_name = "TEXT")]
    error_message: Option<String>,
    /// The kind of thing it is about, such as order
    #[arg(long, value_name = "TYPE", requires = "entity_id")]
    entity_type: Option<String>,
    /// Which one
    #[arg(long, value_name = "ID", requires = "entity_type")]
    entity_id: Option<String>,
    /// The user it happened to
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    user_id: Option<i64>,
    /// A hint for the operator
    #[arg(long, value_name = "TEXT")]
    hint: Option<String>,
    /// What an operator is advised to do
    #[arg(long, value_name = "TEXT")]
    action: Option<String>,
    /// A key of your own; storing it twice yields one entry
    #[arg(long)]
    key: Option<String>,
    /// How often it may be replayed
    #[arg(long, value_name = "N")]
    max_retries: Option<u32>,
    /// Seconds until it expires
    #[arg(long, value_name = "S")]
    expires_in: Option<u64>,
    /// What must be true of the entry before this returns
    #[arg(long, value_parser = durability_parser())]
    durability: Option<Durability>,
}

/// The store result of the reference.
#[derive(Default, Serialize)]
struct StoreResult {
    success: bool,
    dlq_id: Option<EntryId>,
    key: Option<String>,
    error: Option<String>,
    fallback_path: Option<String>,
    durability: String,
    duplicate: bool,
}

pub fn put(context: &Context, args: &PutArgs) -> Result<Exit> {
    let failure = describe(args)?;
    let key = failure.key.clone();
    match capture::capture(context, failure, args.durability) {
        Capture::Stored(stored) => {
            let word = if stored.duplicate { "duplicate of" } else { "stored" };
            let text = format!("{word} {} {}, key {}", stored.id, stored.durability, stored.key);
            let result = StoreResult {
                success: true,
                dlq_id: Some(stored.id),
                key: Some(stored.key),
                durability: stored.durability.to_string(),
                duplicate: stored.duplicate,
                ..StoreResult::default()
            };
            print(context, &result, &text)?;
            Ok(Exit::Done)
        }
        Capture::Spilled(spilled, cause) => {
            let path = spilled.path.to_string_lossy().into_owned();
            let text = format!("spilled to {path}, key {}", spilled.key);
            context.output.warning(&capture::one_line(&cause));
            let result = StoreResult {
                key: Some(spilled.key),
                error: Some(capture::one_line(&cause)),
                fallback_path: Some(path),
                durability: "spilled".to_owned(),
                ..StoreResult::default()
            };
            print(context, &result, &text)?;
            Ok(Exit::Spilled)
        }
        Capture::Disabled => {
            let result = StoreResult {
                key,
                error: Some("disabled".to_owned()),
                durability: "none".to_owned(),
                ..StoreResult::default()
            };
            if context.output.json {
                context.output.json(&result)?;
            }
            Err(Refusal::new(Exit::NotCaptured, "not captured: capture is disabled")
                .with_hint("the setting enabled is false")
                .into())
        }
        Capture::Lost(cause, fallback) => {
            let error = match fallback {
                Some(fallback) => {
                    let fallback = capture::one_line(&fallback);
                    let message = format!("not captured, and no fallback file either ({fallback})");
                    cause.context(Refusal::new(Exit::NotCaptured, message))
                }
                None => cause,
            };
            if context.output.json {
                context.output.json(&StoreResult {
                    key,
                    error: Some(capture::one_line(&error)),
                    durability: "none".to_owned(),
                    ..StoreResult::default()
                })?;
            }
            Err(error)
        }
    }
}

fn print(context: &Context, result: &StoreResult, text: &str) -> Result<()> {
    if context.output.json {
        return context.output.json(result);
    }
    context.output.line(&output::escape(text))
}

/// Checks everything before the store is touched.
fn describe(args: &PutArgs) -> Result<NewFailure> {
    let mut stdin_taken = false;
    let mut json = |flag: &str, text: &Option<String>| match text {
        Some(text) => parse_json(flag, text, &mut stdin_taken),
        None => Ok(Json::default()),
    };
    let mut failure = NewFailure::new(&args.domain, &args.failure_type);
    failure.request_data = json("--request", &args.request)?;
    failure.snapshot_data = json("--snapshot", &args.snapshot)?;
    failure.response_data = json("--response", &args.response)?;
    failure.metadata = json("--metadata", &args.metadata)?;
    failure.error_code = args.error_code.clone().unwrap_or_default();
    failure.error_message = args.error_message.clone().unwrap_or_default();
    failure.entity_type = args.entity_type.clone();
    failure.entity_id = args.entity_id.clone();
    failure.user_id = args.user_id;
    failure.next_action_hint = args.hint.clone().unwrap_or_default();
    failure.recommended_action = args.action.clone().unwrap_or_default();
    failure.key = args.key.clone();
    failure.max_retries = args.max_retries;
    failure.expires_at = match args.expires_in {
        Some(seconds) => {
            let time = time_from_now(seconds);
            Some(time.map_err(|error| Refusal::usage(format!("--expires-in: {error:#}")))?)
        }
        None => None,
    };
    Ok(failure)
}

/// Reads a JSON argument: the text itself, `@FILE`, or `@-`.
fn parse_json(flag: &str, argument: &str, stdin_taken: &mut bool) -> Result<Json> {
    let text = match argument.strip_prefix('@') {
        None => argument.to_owned(),
        Some("-") => {
            if std::mem::replace(stdin_taken, true) {
                let message = format!("{flag}: stdin can be read only once");
                return Err(Refusal::usage(message).into());
            }
            read_text(flag, "stdin", std::io::stdin().lock())?
        }
        Some(path) => {
            let file = std::fs::File::open(path)
                .map_err(|error| Refusal::usage(error.to_string()))
                .with_context(|| format!("{flag}: cannot open {path}"))?;
            read_text(flag, path, file)?
        }
    };
    if let Err(cause) = serde_json::from_str::<&RawValue>(&text) {
        return Err(Refusal::usage(format!("{flag} is not valid JSON: {cause}")).into());
    }
    Json::object(text).map_err(|_| Refusal::usage(format!("{flag} is not a JSON object")).into())
}

fn read_text(flag: &str, name: &str, input: impl Read) -> Result<String> {
    let mut text = String::new();
    input
        .take(JSON_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| Refusal::usage(error.to_string()))
        .with_context(|| format!("{flag}: cannot read {name}"))?;
    if text.len() as u64 > JSON_BYTES_MAX {
        let message = format!("{flag}: {name} has more than {JSON_BYTES_MAX} bytes");
        return Err(Refusal::usage(message).into());
    }
    Ok(text)
}
