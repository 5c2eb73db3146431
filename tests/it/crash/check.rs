//! Opens what a crash left and checks every promise.

use std::path::Path;
use std::sync::Arc;

use deadletter::{
    Cause, CrashMode, Engine, Entry, EntryId, Env, Error, Filter, NewFailure, OpenReport, Order,
    Page, Simulated, Status, TailItem,
};

use super::model::{Crash, Model};
use super::{DIR, MAX_BYTES, config};

/// All entries, oldest first.
pub fn view(engine: &Engine) -> Result<Vec<Entry>, String> {
    let page = Page { order: Order::Oldest, limit: 100_000, ..Page::default() };
    engine.find(&Filter::default(), page).map_err(|error| format!("find failed: {error:?}"))
}

fn open(disk: &Simulated) -> Result<Engine, String> {
    let env = Arc::new(disk.clone());
    Engine::open_with(config(), env).map_err(|error| format!("the store does not open: {error:?}"))
}

/// What the disk holds.
pub fn used(disk: &Simulated) -> u64 {
    let free = |disk: &Simulated| disk.free_bytes(Path::new("/")).unwrap_or(0);
    free(&Simulated::new(0)) - free(disk)
}

/// Every byte that recovery could not use is in quarantine, and in the report.
fn check_kept_aside(
    before: &Simulated,
    disk: &Simulated,
    report: &OpenReport,
) -> Result<(), String> {
    let mut kept = 0;
    for name in &report.quarantined {
        let parts = name.strip_suffix(".bin").and_then(|name| name.rsplit_once('-'));
        let parts = parts.and_then(|(rest, len)| Some((rest.rsplit_once('-')?, len)));
        let Some(((file, from), _)) = parts else { continue };
        let aside = disk.read_raw(Path::new(DIR).join("quarantine").join(name));
        let was = before.read_raw(Path::new(DIR).join("log").join(file));
        let (aside, was) = (aside.unwrap_or_default(), was.unwrap_or_default());
        let from: usize = from.parse().unwrap_or(usize::MAX);
        if was.get(from..from.saturating_add(aside.len())) != Some(&aside[..]) {
            return Err(format!("{name} does not hold the bytes that were discarded"));
        }
        kept += aside.len() as u64;
    }
    let is_in_place = |name: String| {
        let path = Path::new(DIR).join("log").join(name);
        let (was, is) = (before.read_raw(&path).unwrap_or_default(), disk.read_raw(&path));
        let end = was.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        is.is_ok_and(|is| is.starts_with(&was[..end]))
    };
    // At the bound of the directory they may have to stay where they are.
    let names = before.list(&Path::new(DIR).join("log")).unwrap_or_default().into_iter();
    let newest = names.map(|(name, _)| name).rfind(|name| name.ends_with("seg"));
    if kept < report.torn_bytes && !newest.is_some_and(is_in_place) {
        return Err(format!("{} bytes were discarded, {kept} kept aside", report.torn_bytes));
    }
    Ok(())
}

/// Opens what a crash left and checks all that is promised; answers with what is known then.
/// `thorough` also goes on working with the store.
pub fn check(
    disk: &Simulated,
    model: &Model,
    crash: Crash,
    thorough: bool,
) -> Result<Model, String> {
    let before = thorough.then(|| disk.restarted());
    if thorough {
        verify(disk)?;
    }
    let engine = open(disk)?;
    let report = engine.report();
    if used(disk) > MAX_BYTES {
        return Err(format!("the directory has {} bytes after opening", used(disk)));
    }
    if let Some(before) = before {
        check_kept_aside(&before, disk, &report)?;
    }
    if !report.lost.is_empty() {
        return Err(format!("an honest crash was reported as damage: {:?}", report.lost));
    }
    let entries = view(&engine)?;
    let mut next = model.resolve(&entries, crash)?;
    let cut = disk.crash_image(CrashMode::Nothing, 0);
    next.settle_removed(balance(&engine, &entries)?)?;
    next.settle_compressed(compressed(&engine)?)?;
    if thorough {
        verify(&cut)?;
        agree(&engine, &entries)?;
        go_on(&engine, disk, &next, &entries)?;
    }
    disk.power_off_at(Some(disk.operations()));
    drop(engine);
    let again = open(&cut)?;
    let same = view(&again)? == entries;
    cut.power_off_at(Some(cut.operations()));
    if same { Ok(next) } else { Err("what was visible did not survive a power cut".to_owned()) }
}

/// The account and the tallies agree with each other and with the entries that are there; answers
/// with how many were removed.
pub fn balance(engine: &Engine, entries: &[Entry]) -> Result<u64, String> {
    let accounting = engine.accounting().map_err(|error| format!("{error:?}"))?;
    let tallies = engine.tallies().map_err(|error| format!("{error:?}"))?;
    let sum =
        |cause: Cause| -> u64 { tallies.iter().filter_map(|tally| tally.counts.get(&cause)).sum() };
    let live = entries.len() as u64;
    let removed = accounting.purged + accounting.evicted;
    let balanced = accounting.lost == 0
        && accounting.live == live
        && accounting.captured == live + removed
        && accounting.captured == sum(Cause::Stored)
        && accounting.purged == sum(Cause::Purged) + sum(Cause::Deleted)
        && accounting.evicted == sum(Cause::Evicted);
    if balanced {
        return Ok(removed);
    }
    Err(format!("{live} entries are there; the account says {accounting:?}, counted {tallies:?}"))
}

/// How many entries the summaries count.
pub fn compressed(engine: &Engine) -> Result<u64, String> {
    let summaries = engine.summaries().map_err(|error| format!("{error:?}"))?;
    Ok(summaries.iter().map(|summary| summary.count).sum())
}

/// A check without the lock finds no damage either, for an unfinished write is none.
fn verify(disk: &Simulated) -> Result<(), String> {
    let env: Arc<dyn Env> = Arc::new(disk.clone());
    match deadletter::verify_with(&config(), &env, &mut |_, _| {}) {
        Ok(report) if report.damage.is_empty() => Ok(()),
        Ok(report) => Err(format!("verify takes a crash for damage: {:?}", report.damage)),
        Err(Error::NotAStore { .. }) => Ok(()),
        Err(error) => Err(format!("verify failed: {error:?}")),
    }
}

/// All ways to look at the entries tell the same.
fn agree(engine: &Engine, entries: &[Entry]) -> Result<(), String> {
    let fail = |error: Error| format!("a query failed: {error:?}");
    let ids: Vec<EntryId> = entries.iter().map(|entry| entry.operation.id).collect();
    if ids.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(format!("ids do not rise: {ids:?}"));
    }
    let facets = engine.facets(None, None).map_err(fail)?;
    for status in Status::ALL {
        let filter = Filter { status: Some(status), ..Filter::default() };
        let wanted = entries.iter().filter(|entry| entry.matches(&filter)).count() as u64;
        let counted = engine.count(&filter).map_err(fail)?;
        let facet = facets.by_status.get(&status).copied().unwrap_or(0);
        if counted != wanted || facet != wanted {
            return Err(format!("{wanted} are {status}; counted {counted}, facet {facet}"));
        }
    }
    let domains: u64 = facets.by_domain.values().sum();
    let all = engine.count(&Filter::default()).map_err(fail)?;
    if all != entries.len() as u64 || domains != all {
        return Err(format!("{} entries, counted {all}, in domains {domains}", entries.len()));
    }
    for entry in entries {
        let found = engine.get(entry.operation.id).map_err(fail)?;
        let keyed = engine.get_by_key(&entry.key).map_err(fail)?;
        if found.as_ref() != Some(entry) || keyed.as_ref() != Some(entry) {
            return Err(format!("entry {} looks different by id or key", entry.operation.id));
        }
    }
    let mut followed: Vec<Entry> = Vec::new();
    for item in engine.tail(0).map_err(fail)? {
        match item.map_err(fail)? {
            TailItem::Stored(entry) => followed.push(*entry),
            TailItem::Changed { id, state, .. } => {
                let entry = followed.iter_mut().find(|entry| entry.operation.id == id);
                let entry = entry.ok_or_else(|| format!("{id} changed before it was stored"))?;
                entry.set_state(*state);
            }
            TailItem::Removed { id, .. } => {
                let at = followed.iter().position(|entry| entry.operation.id == id);
                let at = at.ok_or_else(|| format!("{id} was removed before it was stored"))?;
                followed.remove(at);
            }
            _ => {}
        }
    }
    if followed != entries {
        let ids: Vec<u64> = followed.iter().map(|entry| entry.operation.id.0).collect();
        return Err(format!("following the log shows other entries than a listing: {ids:?}"));
    }
    Ok(())
}

/// The store goes on: a new entry, a repeated key, a clean close, another open.
fn go_on(
    engine: &Engine,
    disk: &Simulated,
    model: &Model,
    entries: &[Entry],
) -> Result<(), String> {
    let highest = entries.iter().map(|entry| entry.operation.id).max();
    let new = NewFailure::new("after", "CRASH").error("new", "");
    let stored = match engine.store(new) {
        // At the bound of the directory there is nothing to go on with.
        Err(error) if matches!(error.source, Error::Full { what: "max_bytes", .. }) => {
            return Ok(());
        }
        other => other.map_err(|error| format!("cannot store: {:?}", error.source))?,
    };
    if Some(stored.id) <= highest {
        return Err(format!("the new id {} is not above {highest:?}", stored.id));
    }
    let keyed = model.records.iter().rev().find(|record| record.failure.key.is_some());
    if let Some(record) = keyed {
        let failure = NewFailure::clone(&record.failure);
        let stored = engine.store(failure).map_err(|error| format!("{:?}", error.source))?;
        let was_there = entries.iter().any(|entry| entry.key == stored.key);
        if stored.duplicate != was_there {
            return Err(format!("the repeated key {} was misjudged", stored.key));
        }
    }
    let before = view(engine)?;
    let count = |key: &str| before.iter().filter(|entry| entry.key == key).count();
    if keyed.is_some_and(|record| count(record.failure.key.as_deref().unwrap()) != 1) {
        return Err("a repeated key does not yield exactly one entry".to_owned());
    }
    engine.close().map_err(|error| format!("cannot close: {error:?}"))?;
    let again = open(&disk.restarted())?;
    if !again.report().clean || view(&again)? != before {
        return Err("a store closed in order opens differently".to_owned());
    }
    Ok(())
}
