//! Statistics, the accounting of every entry ever offered, and the bytes on disk.

use anyhow::{Context as _, Result};
use clap::Args;
use deadletter::{DlqService, Engine, SpaceLevel, Status};
use serde_json::{Map, Value, json};

use crate::failure::Exit;
use crate::output;
use crate::settings::Context;

/// Statistics, accounting, and bytes on disk
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  deadletter stats --json")]
pub struct StatsArgs {}

/// Keys of the reference that count one status, beside `by_status`.
const STATUS_KEYS: [(&str, Status); 9] = [
    ("pending", Status::Pending),
    ("pending_count", Status::Pending),
    ("resolved", Status::Resolved),
    ("resolved_count", Status::Resolved),
    ("requires_review", Status::RequiresReview),
    // The reference gives these two the same number.
    ("reviewing_count", Status::RequiresReview),
    ("rejected", Status::Rejected),
    ("archived", Status::Archived),
    ("replaying", Status::Replaying),
];

pub fn stats(context: &Context) -> Result<Exit> {
    let engine = context.open_reader()?;
    let statistics = collect(&engine, &context.service_over(engine.clone()))?;
    context.warn_of_damage(&engine);
    if context.output.json {
        context.output.json(&statistics)?;
        return Ok(Exit::Done);
    }
    let mut rows = Vec::new();
    output::flatten("", &Value::Object(statistics), &mut rows);
    context.output.table(&[], rows)?;
    Ok(Exit::Done)
}

fn collect(engine: &Engine, service: &DlqService) -> Result<Map<String, Value>> {
    let stats = service.get_stats()?;
    let statistics = &stats.statistics;
    let mut all = Map::new();
    for (key, status) in STATUS_KEYS {
        let count = statistics.by_status.get(&status).copied().unwrap_or(0);
        all.insert(key.to_owned(), count.into());
    }
    let act = "cannot write the statistics";
    if let Value::Object(fields) = serde_json::to_value(statistics).context(act)? {
        all.extend(fields);
    }
    let (bytes, cleanup) = (engine.bytes()?, service.get_cleanup_stats()?);
    all.insert("accounting".into(), serde_json::to_value(stats.accounting).context(act)?);
    all.insert("bytes".into(), serde_json::to_value(bytes).context(act)?);
    all.insert("cleanup".into(), serde_json::to_value(cleanup).context(act)?);
    all.insert("clock".into(), serde_json::to_value(engine.clock()).context(act)?);
    all.insert("counters".into(), serde_json::to_value(stats.counters).context(act)?);
    all.insert("health".into(), health(engine)?);
    Ok(all)
}

/// What a reader can see of the store's health.
fn health(engine: &Engine) -> Result<Value> {
    let space = engine.space()?;
    let places = engine.warnings().len();
    let (reason, hint) = if places > 0 {
        let reason = format!("{places} places are damaged");
        (Some(reason), Some("deadletter verify names them"))
    } else if space.level == SpaceLevel::Emergency {
        let reason = format!("there is no room for another segment: {} bytes left", space.room);
        (Some(reason), Some("free space on the disk, archive and purge, or raise max_bytes"))
    } else {
        (None, None)
    };
    let status = if reason.is_some() { "degraded" } else { "ok" };
    Ok(json!({
        "status": status,
        "reason": reason,
        "hint": hint,
        "level": space.level,
        "used": space.used,
        "free": space.free,
        "room": space.room,
        "full_in_ms": space.full_in_ms,
    }))
}
