//! Runs a command and captures its failure.
//!
//! 1. The command gets our stdio; its stderr and a piped stdin pass through us.
//! 2. If it succeeds, nothing else happens: the store is not even opened.
//! 3. If it fails, what would be needed to run it again is stored, and its code is ours.

mod child;
mod signals;
pub mod stdin;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use deadletter::{Json, NewFailure, OTHER_DOMAIN, normalize_domain};
use serde_json::{Map, Value, json};

use crate::bytes;
use crate::capture::{self, Capture};
use crate::failure::Refusal;
use crate::output::{self, escape};
use crate::settings::Context;

use child::{Ended, Outcome};
use stdin::Kept;

pub use signals::ignored_signals;

/// How much of the last stderr line becomes the error message.
const MESSAGE_CHARS_MAX: usize = 1000;

/// The longest key that the store takes.
const KEY_BYTES_MAX: usize = 512;

/// Run a command and capture its failure
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  deadletter run -- rsync -a /data backup:/data
  deadletter run --domain upstream --env PATH -- curl -fsS https://example.org/hook -d @event.json

A pipe on stdin is read ahead; in a loop that reads the same pipe, use --no-stdin.

Exits with the code of the command, 128+n when signal n ended it, 127 when it was not found and
126 when it could not be started.")]
pub struct RunArgs {
    /// The service boundary it belongs to [default: the name of the command]
    #[arg(long)]
    domain: Option<String>,
    /// The failure type [default: EXIT_<code> or SIGNAL_<name>]
    #[arg(long = "type", value_name = "TYPE", value_parser = NonEmptyStringValueParser::new())]
    failure_type: Option<String>,
    /// A key of your own; storing it twice yields one entry
    #[arg(long, value_parser = parse_key)]
    key: Option<String>,
    /// The base of the delay between replays of this entry, in seconds
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=3600))]
    retry_delay: Option<u32>,
    /// Store this environment variable for the replay; may be repeated
    #[arg(long, value_name = "NAME")]
    env: Vec<String>,
    /// Give the command an empty stdin and store none
    #[arg(long)]
    no_stdin: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Refuses a key that the store would refuse, while nothing has happened yet.
fn parse_key(text: &str) -> Result<String, Refusal> {
    if (1..=KEY_BYTES_MAX).contains(&text.len()) {
        return Ok(text.to_owned());
    }
    let (len, bound) = (text.len(), KEY_BYTES_MAX);
    Err(Refusal::usage(format!("it is {len} bytes long, it must be 1 to {bound} bytes long")))
}

pub fn run(context: &Context, args: &RunArgs) -> Result<u8> {
    let limit = context.config().limits.request_data_max_bytes;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let (program, arguments) = args.command.split_first().context("no command was given")?;
    let ended = child::run(program, arguments, args.no_stdin, limit)?;
    let code = match &ended.outcome {
        Outcome::Exited(0) => return Ok(0),
        Outcome::Exited(code) => *code,
        Outcome::Killed { number, .. } => 128_u8.saturating_add(*number),
        Outcome::NotStarted { code, reason } => {
            let name = program.to_string_lossy();
            context.output.error(&format!("cannot start {name}: {reason}"));
            *code
        }
    };
    match describe(args, program, &ended, limit) {
        Ok(failure) => report(context, failure),
        Err(error) => context.output.error(&format!("not captured: {error:#}")),
    }
    Ok(code)
}

/// Stores the failure and says where it is. Whatever happens, the command's code stays ours.
fn report(context: &Context, failure: NewFailure) {
    let stored = normalize_domain(&failure.domain);
    let domain = stored.unwrap_or_else(|| OTHER_DOMAIN.to_owned());
    let failure_type = failure.failure_type.clone();
    match capture::capture(context, failure, None) {
        Capture::Stored(stored) => {
            let word = if stored.duplicate { "already captured as" } else { "captured" };
            let line = format!(
                "{word} {} {domain} {failure_type} {} in {}",
                stored.id,
                stored.durability,
                context.dir.display()
            );
            context.output.note(&escape(&line));
            let name = if stored.duplicate { stored.id.to_string() } else { "last".to_owned() };
            context.output.note(&escape(&format!("hint: {} show {name}", context.command())));
        }
        Capture::Spilled(spilled, cause) => {
            let line = format!(
                "captured {domain} {failure_type} in the fallback file {}, key {} ({})",
                spilled.path.display(),
                spilled.key,
                capture::one_line(&cause)
            );
            context.output.note(&escape(&line));
            let key = output::shell_quoted(&spilled.key);
            let hint =
                format!("hint: once the store has it: {} show --key {key}", context.command());
            context.output.note(&escape(&hint));
        }
        Capture::Disabled => {
            let line = format!("{domain} {failure_type} is not captured: capture is disabled");
            context.output.error(&line);
        }
        Capture::Lost(cause, fallback) => {
            let mut line = capture::one_line(&cause);
            if let Some(fallback) = fallback {
                line.push_str("; no fallback file either: ");
                line.push_str(&capture::one_line(&fallback));
            }
            context.output.error(&format!("{domain} {failure_type} is not captured: {line}"));
        }
    }
}

fn describe(args: &RunArgs, program: &OsStr, ended: &Ended, limit: usize) -> Result<NewFailure> {
    let (mut response, code, default_type) = match &ended.outcome {
        Outcome::Exited(code) | Outcome::NotStarted { code, .. } => {
            (json!({ "exit_code": code }), code.to_string(), format!("EXIT_{code}"))
        }
        Outcome::Killed { name, .. } => {
            (json!({ "signal": name }), name.clone(), format!("SIGNAL_{name}"))
        }
    };
    if let Value::Object(fields) = &mut response {
        fields.insert("stderr".into(), bytes::encode(&ended.stderr));
        fields.insert("duration_ms".into(), ended.duration_ms.into());
    }
    let (domain, original_domain) = match &args.domain {
        Some(domain) => (domain.clone(), None),
        None => default_domain(program),
    };
    let failure_type = args.failure_type.clone().unwrap_or(default_type);
    let mut failure = NewFailure::new(domain, failure_type);
    failure.request_data = Json::object(request(args, &ended.stdin, limit)?)?;
    failure.response_data = Json::object(response.to_string())?;
    failure.metadata = Json::object(metadata(args, &ended.stdin).to_string())?;
    failure.error_code = code;
    failure.error_message = match &ended.outcome {
        Outcome::NotStarted { reason, .. } => reason.clone(),
        _ => last_line(&ended.stderr),
    };
    failure.key = args.key.clone();
    failure.original_domain = original_domain;
    failure.runnable = true;
    Ok(failure)
}

/// What is needed to run the command again. Stdin gives way first, so that argv stays readable.
fn request(args: &RunArgs, stdin: &Kept, limit: usize) -> Result<String> {
    let argv: Vec<Value> = args.command.iter().map(|word| bytes::encode(word.as_bytes())).collect();
    let cwd = std::env::current_dir().ok();
    let mut variables = Map::new();
    for name in &args.env {
        if let Some(value) = std::env::var_os(name) {
            variables.insert(name.clone(), bytes::encode(value.as_bytes()));
        }
    }
    let marker = |size: u64| json!({ "_truncated": true, "original_size": size, "preview": "" });
    let mut whole = json!({
        "argv": argv,
        "cwd": cwd.map(|path| bytes::encode(path.as_os_str().as_bytes())),
        "env": variables,
        "stdin": match stdin {
            Kept::Nothing => Value::Null,
            Kept::Bytes { bytes, .. } => bytes::encode(bytes),
            Kept::TooLong { size } => marker(*size),
        },
    });
    let text = serde_json::to_string(&whole).context("cannot write the request")?;
    match (stdin, whole.as_object_mut()) {
        (Kept::Bytes { bytes, .. }, Some(fields)) if text.len() > limit => {
            fields.insert("stdin".into(), marker(bytes.len() as u64));
            serde_json::to_string(&whole).context("cannot write the request")
        }
        _ => Ok(text),
    }
}

/// The command's base name. Where it is no domain, as in `apt-get`, the odd characters give way, so
/// that different commands do not all end up in one domain; the name as it was is kept beside.
fn default_domain(program: &OsStr) -> (String, Option<String>) {
    let name = Path::new(program).file_name().unwrap_or(program);
    let name = name.to_string_lossy().into_owned();
    if normalize_domain(&name).is_some() {
        return (name, None);
    }
    let odd = |character: char| !character.is_ascii_alphanumeric() && character != '.';
    (name.replace(odd, "_"), Some(name))
}

fn metadata(args: &RunArgs, stdin: &Kept) -> Value {
    let mut fields = Map::new();
    if let Some(seconds) = args.retry_delay {
        fields.insert("retry_delay_s".into(), seconds.into());
    }
    // The pipe had not ended when the command did, so a replay would see less than a full run.
    if matches!(stdin, Kept::Bytes { ended: false, .. }) {
        fields.insert("stdin_incomplete".into(), true.into());
    }
    Value::Object(fields)
}

pub fn last_line(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    line.chars().take(MESSAGE_CHARS_MAX).collect()
}
