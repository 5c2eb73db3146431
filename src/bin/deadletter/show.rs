//! One entry, whole: its fields, its payloads, its attempts and what operators did.

use anyhow::Result;
use clap::Args;
use deadletter::{Entry, Error, Json};
use serde_json::Value;

use crate::args::EntryName;
use crate::bytes;
use crate::failure::Exit;
use crate::output::{self, escape};
use crate::settings::Context;

/// How deep payloads are indented; what nests deeper stays at this level.
const INDENT_LEVELS_MAX: usize = 16;

/// Show one entry with its attempts and audit
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  deadletter show last
  deadletter show 42 --json
  deadletter show --key order-42")]
pub struct ShowArgs {
    /// An id, or `last` for the newest entry
    #[arg(required_unless_present = "key", conflicts_with = "key")]
    id: Option<EntryName>,
    /// The entry with this key
    #[arg(long)]
    key: Option<String>,
}

pub fn show(context: &Context, args: &ShowArgs) -> Result<Exit> {
    let engine = context.open_reader()?;
    let (name, entry) = match (&args.key, args.id) {
        (Some(key), _) => (format!("with the key {key}"), engine.get_by_key(key)?),
        (None, Some(EntryName::Id(id))) => (id.to_string(), engine.get(id)?),
        (None, _) => ("at all yet".to_owned(), engine.newest()?),
    };
    context.warn_of_damage(&engine);
    let entry = entry.ok_or(Error::NotFound { id: name })?;
    if context.output.json {
        context.output.json(&entry)?;
        return Ok(Exit::Done);
    }
    print(context, &entry)?;
    Ok(Exit::Done)
}

fn print(context: &Context, entry: &Entry) -> Result<()> {
    context.output.table(&[], fields(entry))?;
    let operation = &entry.operation;
    let request = parse(&operation.request_data);
    let response = parse(&operation.response_data);
    if let (Some(argv), Some(response)) = (argv_of(request.as_ref()), &response) {
        print_run(context, &argv, request.as_ref(), response)?;
    } else {
        print_payload(context, "request", &operation.request_data, request.as_ref())?;
        print_payload(context, "response", &operation.response_data, response.as_ref())?;
    }
    for (name, payload) in [
        ("snapshot", &operation.snapshot_data),
        ("entity refs", &operation.entity_refs),
        ("metadata", &operation.metadata),
    ] {
        print_payload(context, name, payload, parse(payload).as_ref())?;
    }
    if !entry.attempts.is_empty() || entry.attempts_older > 0 {
        context.output.line("")?;
        context.output.line(&format!("attempts ({} older)", entry.attempts_older))?;
        let rows = entry.attempts.iter().map(|attempt| {
            let number = format!("  {}", attempt.number);
            vec![number, attempt.at.to_string(), attempt.outcome.clone(), attempt.note.clone()]
        });
        context.output.table(&[], rows)?;
    }
    if !entry.audit.is_empty() || entry.audit_older > 0 {
        context.output.line("")?;
        context.output.line(&format!("audit ({} older)", entry.audit_older))?;
        let rows = entry.audit.iter().map(|action| {
            vec![
                format!("  {}", action.at),
                action.actor.clone(),
                action.action.clone(),
                format!("{} -> {}", action.from, action.to),
                action.reason.clone(),
                action.ticket.clone(),
            ]
        });
        context.output.table(&[], rows)?;
    }
    Ok(())
}

/// The fields that have a value, as rows.
fn fields(entry: &Entry) -> Vec<Vec<String>> {
    let operation = &entry.operation;
    let time = |time: Option<deadletter::Timestamp>| time.map(|time| time.to_string());
    let entity = match (&operation.entity_type, &operation.entity_id) {
        (Some(kind), Some(id)) => Some(format!("{kind} {id}")),
        _ => None,
    };
    let resolved_by = operation.resolved_by_id.map(|id| id.to_string());
    let rows = [
        ("id", Some(operation.id.to_string())),
        ("key", Some(entry.key.clone())),
        ("status", Some(operation.status.to_string())),
        ("domain", Some(operation.domain.clone())),
        ("original domain", entry.original_domain.clone()),
        ("type", Some(operation.failure_type.clone())),
        ("entity", entity),
        ("user", operation.user_id.map(|user| user.to_string())),
        ("error code", Some(operation.error_code.clone())),
        ("error", Some(operation.error_message.clone())),
        ("hint", Some(operation.next_action_hint.clone())),
        ("advice", Some(operation.recommended_action.clone())),
        ("attempts", Some(format!("{} of {}", operation.retry_count, operation.max_retries))),
        ("created", Some(operation.created_at.to_string())),
        ("updated", Some(operation.updated_at.to_string())),
        ("last attempt", time(operation.last_retry_at)),
        ("not before", time(entry.not_before)),
        ("expires", time(operation.expires_at)),
        ("resolved", time(operation.resolved_at)),
        ("resolved by", resolved_by),
        ("resolution", Some(operation.resolution_type.clone())),
        ("note", Some(operation.resolution_note.clone())),
        ("archived", time(entry.archived_at)),
        ("lease until", entry.lease.as_ref().map(|lease| lease.deadline.to_string())),
    ];
    let given = rows.into_iter().filter_map(|(name, value)| {
        let value = value.filter(|value| !value.is_empty())?;
        Some(vec![name.to_owned(), value])
    });
    given.collect()
}

/// What `run` captured, the way a person would type and see it.
fn print_run(
    context: &Context,
    argv: &[String],
    request: Option<&Value>,
    response: &Value,
) -> Result<()> {
    let field =
        |value: Option<&Value>, name: &str| value.and_then(|value| value.get(name)).cloned();
    let mut rows = vec![vec!["command".to_owned(), argv.join(" ")]];
    let mut add = |name: &str, value: Option<String>| {
        rows.extend(value.map(|value| vec![name.to_owned(), value]));
    };
    add("directory", field(request, "cwd").as_ref().and_then(text_of));
    if let Some(Value::Object(variables)) = field(request, "env") {
        for (name, value) in &variables {
            add("variable", text_of(value).map(|value| format!("{name}={value}")));
        }
    }
    add("exit code", field(Some(response), "exit_code").map(|code| code.to_string()));
    add("signal", field(Some(response), "signal").as_ref().and_then(text_of));
    add("duration", field(Some(response), "duration_ms").map(|time| format!("{time} ms")));
    context.output.line("")?;
    context.output.table(&[], rows)?;
    let stdin = field(request, "stdin");
    match stdin.as_ref().and_then(|stdin| stdin.get("original_size")) {
        Some(size) => context.output.line(&format!("stdin was over the limit ({size} bytes)"))?,
        None => print_block(context, "stdin", stdin.as_ref().and_then(text_of))?,
    }
    print_block(context, "stderr", field(Some(response), "stderr").as_ref().and_then(text_of))
}

fn print_payload(
    context: &Context,
    name: &str,
    payload: &Json,
    value: Option<&Value>,
) -> Result<()> {
    if value.and_then(Value::as_object).is_some_and(serde_json::Map::is_empty) {
        return Ok(());
    }
    print_block(context, name, Some(indented(payload.as_str())))
}

fn print_block(context: &Context, name: &str, text: Option<String>) -> Result<()> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(()) };
    context.output.line("")?;
    context.output.line(name)?;
    for line in text.lines() {
        context.output.line(&format!("  {}", escape(line)))?;
    }
    Ok(())
}

/// Breaks a valid JSON text into lines. Every token stays as it was captured: through a tree,
/// 1.50 would become 1.5 and a large number another one.
fn indented(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    let mut opened = false;
    let break_line = |text: &mut String, depth: usize| {
        text.push('\n');
        // Hostile nesting must not make a small payload a huge text.
        text.extend(std::iter::repeat_n("  ", depth.min(INDENT_LEVELS_MAX)));
    };
    for character in json.chars() {
        if in_string {
            text.push(character);
            in_string = escaped || character != '"';
            escaped = !escaped && character == '\\';
            continue;
        }
        if character.is_ascii_whitespace() {
            continue;
        }
        let closes = matches!(character, '}' | ']');
        if closes {
            depth = depth.saturating_sub(1);
        }
        if opened != closes {
            break_line(&mut text, depth);
        }
        opened = matches!(character, '{' | '[');
        in_string = character == '"';
        text.push(character);
        match character {
            '{' | '[' => depth += 1,
            ':' => text.push(' '),
            ',' => break_line(&mut text, depth),
            _ => {}
        }
    }
    text
}

fn parse(json: &Json) -> Option<Value> {
    serde_json::from_str(json.as_str()).ok()
}

fn text_of(value: &Value) -> Option<String> {
    bytes::decode(value).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// The command line of a capture, each word quoted when it needs it.
fn argv_of(request: Option<&Value>) -> Option<Vec<String>> {
    let words = request?.get("argv")?.as_array()?;
    words.iter().map(|word| Some(output::shell_quoted(&text_of(word)?))).collect()
}
