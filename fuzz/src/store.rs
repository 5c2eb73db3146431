//! A small store on a simulated disk, made by the writer: sealed segments and an active one, with
//! changes, removals and keys.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use deadletter::format::{FileName, LOG_DIR, STORE_NAME, StoreHeader};
use deadletter::{
    Cause, Config, Decision, Engine, Entry, EntryId, Env, Filter, Json, NewFailure, Order, Page,
    Simulated, Status,
};

use crate::crash;

/// How many entries are stored.
const ENTRIES: usize = 30;

/// A store that was closed in order.
pub struct Small {
    pub config: Config,
    pub disk: Simulated,
    /// What it shows.
    pub entries: Vec<Entry>,
    /// Each entry as it was first shown, and the last state before its newest.
    pub stored: Vec<Entry>,
    pub before: Vec<Entry>,
    pub removed: Vec<EntryId>,
}

impl Small {
    /// Made on first use; the same in every process.
    pub fn new() -> Self {
        Self::with(crash::config())
    }

    /// With other settings.
    pub fn with(config: Config) -> Self {
        let disk = Simulated::new(11);
        let engine = open(&config, &disk);
        let mut small = Self {
            config: config.clone(),
            disk: disk.clone(),
            entries: Vec::new(),
            stored: Vec::new(),
            before: Vec::new(),
            removed: Vec::new(),
        };
        for number in 0..ENTRIES {
            disk.advance(Duration::from_secs(10));
            let stored = engine.store(failure(number)).unwrap();
            let entry = engine.get(stored.id).unwrap().unwrap();
            small.stored.push(entry.clone());
            small.before.push(entry);
            if number % 4 == 3 {
                small.change(&engine, number - 2);
                small.change(&engine, number - 1);
            }
            if number % 10 == 9 {
                let id = small.stored[number - 5].operation.id;
                let remove = &mut |_: &Entry| Ok(Decision::Remove(Cause::Purged));
                engine.change_all(&[id], remove).unwrap();
                small.removed.push(id);
            }
        }
        small.entries = all(&engine);
        engine.close().unwrap();
        drop(engine);
        small.disk = disk.restarted();
        small
    }

    fn change(&mut self, engine: &Engine, number: usize) {
        let id = self.stored[number].operation.id;
        self.before[number] = engine.get(id).unwrap().unwrap();
        let status = [Status::Resolved, Status::RequiresReview, Status::Archived][number % 3];
        engine
            .change(id, &[], |state| {
                state.status = status;
                state.resolution_note = format!("note {number}");
            })
            .unwrap();
    }

    /// A copy of the disk, as the next process finds it.
    pub fn copy(&self) -> Simulated {
        self.disk.restarted()
    }

    /// The segments, rising.
    pub fn segments(&self) -> Vec<PathBuf> {
        segments(&self.config, &self.disk)
    }

    pub fn uuid(&self) -> [u8; 16] {
        let bytes = self.disk.read_raw(self.config.dir.join(STORE_NAME)).unwrap();
        StoreHeader::decode(&bytes).unwrap().uuid
    }
}

impl Default for Small {
    fn default() -> Self {
        Self::new()
    }
}

/// The segments of a store, rising.
pub fn segments(config: &Config, disk: &Simulated) -> Vec<PathBuf> {
    let folder = config.dir.join(LOG_DIR);
    let mut names: Vec<String> =
        disk.list(&folder).unwrap().into_iter().map(|(name, _)| name).collect();
    names.retain(|name| matches!(FileName::parse(name), FileName::Segment(..)));
    names.sort();
    names.iter().map(|name| folder.join(name)).collect()
}

pub fn open(config: &Config, disk: &Simulated) -> Engine {
    try_open(config, disk).unwrap_or_else(|error| panic!("the store does not open: {error:?}"))
}

pub fn try_open(config: &Config, disk: &Simulated) -> deadletter::Result<Engine> {
    Engine::open_with(config.clone(), Arc::new(disk.clone()))
}

/// All entries, oldest first.
pub fn all(engine: &Engine) -> Vec<Entry> {
    let page = Page { order: Order::Oldest, limit: 100_000, ..Page::default() };
    engine.find(&Filter::default(), page).unwrap()
}

/// Asks in several ways, and all must agree with a plain walk over these entries.
pub fn agree(engine: &Engine, entries: &[Entry]) {
    let facets = engine.facets(None, None).unwrap();
    for status in Status::ALL {
        let filter = Filter { status: Some(status), ..Filter::default() };
        let wanted = entries.iter().filter(|entry| entry.matches(&filter)).count() as u64;
        assert_eq!(engine.count(&filter).unwrap(), wanted, "{status}");
        assert_eq!(facets.by_status.get(&status).copied().unwrap_or(0), wanted, "{status}");
    }
    assert_eq!(engine.statistics().unwrap().total, entries.len() as u64);
    for entry in entries {
        let id = entry.operation.id;
        assert!(engine.get(id).unwrap().as_ref() == Some(entry), "{id} by its id");
        assert!(engine.get_by_key(&entry.key).unwrap().as_ref() == Some(entry), "{id} by its key");
    }
}

/// The account of everything ever stored agrees with itself and with the entries that are there.
pub fn balance(engine: &Engine, entries: &[Entry]) {
    let account = engine.accounting().unwrap();
    let gone = account.purged + account.evicted + account.lost;
    assert_eq!(account.live, entries.len() as u64, "{account:?}");
    assert_eq!(account.captured, account.live + gone, "{account:?}");
}

fn failure(number: usize) -> NewFailure {
    let object = |text: String| Json::object(text).unwrap();
    // A few long ones, so that the store has several segments.
    let pad = if number.is_multiple_of(3) { 12_000 } else { 40 };
    let mut failure = NewFailure::new(["payments", "mail"][number % 2], "TIMEOUT")
        .error(format!("E{number}"), "it failed")
        .entity("order", number.to_string())
        .request(object(format!(r#"{{"n":{number},"pad":"{}"}}"#, "x".repeat(pad))));
    if number.is_multiple_of(2) {
        failure = failure.key(format!("key-{number}"));
    }
    failure
}

/// Puts a file below the data directory.
pub fn put(disk: &Simulated, path: &Path, bytes: &[u8]) {
    if let Some(folder) = path.parent() {
        disk.create_dir(folder).unwrap();
        disk.sync_dir(folder).unwrap();
    }
    disk.write_raw(path, bytes).unwrap();
}
