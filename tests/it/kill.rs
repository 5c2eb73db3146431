//! Real processes that die at any moment: nothing acknowledged is lost, nothing is invented.
//!
//! This test binary starts itself again as the writer, through the hidden test
//! `writer_process`. The writer's threads store entries and print each one after it is durable;
//! this side kills it, opens the store and compares. An entry's content follows from its name,
//! so that every byte of it can be checked.
//!
//! `DEADLETTER_KILLS` sets the number of kills.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use deadletter::{
    Config, Durability, Engine, Entry, Filter, Json, NewFailure, Order, Page, verify,
};

const THREADS: u64 = 3;
const KILLS: u64 = 60;
/// A new store after so many kills.
const KILLS_PER_STORE: u64 = 15;

/// What the writer process is told.
const DIR: &str = "DEADLETTER_TEST_KILL_DIR";
const RUN: &str = "DEADLETTER_TEST_KILL_RUN";
const EARLY: &str = "DEADLETTER_TEST_KILL_EARLY";

pub fn kills() -> u64 {
    std::env::var("DEADLETTER_KILLS").map_or(KILLS, |kills| kills.parse().unwrap())
}

pub fn config(dir: &Path) -> Config {
    let mut config = Config::new(dir);
    // Small, so that kills hit rotations too.
    config.segment_bytes = 64 * 1024;
    config.limits.request_data_max_bytes = 16 * 1024;
    config.limits.field_max_bytes = 16 * 1024;
    config
}

/// The content of an entry follows from its name, `<run>-<thread>-<counter>`.
pub fn request(name: &str) -> String {
    let seed = name.bytes().fold(7_u64, |seed, byte| seed.wrapping_mul(31) + u64::from(byte));
    let len = usize::try_from(seed % 2000).unwrap();
    let text: String = name.chars().cycle().take(len).collect();
    format!(r#"{{"name": "{name}", "text": "{text}"}}"#)
}

/// Numbers that differ from run to run; the seed is printed so that a failure can be told of.
#[derive(Debug)]
pub struct Chance(u64);

impl Chance {
    pub fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        Self::of(u64::from(now.subsec_nanos()))
    }

    /// The same numbers for the same seed.
    pub fn of(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// The writer: runs until it is killed.
#[test]
#[ignore = "the writer process of the other tests here, not a test"]
fn writer_process() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let run = std::env::var(RUN).unwrap();
    let early = std::env::var(EARLY).is_ok();
    let engine = Engine::open(config(Path::new(&dir))).unwrap();
    let print = Mutex::new(());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (engine, print, run) = (&engine, &print, &run);
            scope.spawn(move || {
                for counter in 0.. {
                    let name = format!("{run}-{thread}-{counter}");
                    let id = store(engine, &name, counter, early);
                    let _turn = print.lock();
                    let mut stdout = std::io::stdout();
                    writeln!(stdout, "ack {id} {name}").unwrap();
                    stdout.flush().unwrap();
                }
            });
        }
    });
}

fn store(engine: &Engine, name: &str, counter: u64, early: bool) -> u64 {
    let mut failure = NewFailure::new("payment", "KILLED")
        .entity("name", name)
        .request(Json::object(request(name)).unwrap());
    if counter.is_multiple_of(3) {
        failure = failure.key(name);
    }
    let durability = if early { Durability::Queued } else { Durability::Synced };
    loop {
        match engine.store_with(failure, durability) {
            Ok(stored) => return stored.id.0,
            Err(error) if early => failure = *error.failure,
            Err(error) => panic!("{}", error.source),
        }
    }
}

fn start_writer(dir: &Path, run: u64, early: bool) -> Child {
    let mut command = itself("kill::writer_process");
    command.env(DIR, dir).env(RUN, run.to_string());
    if early {
        command.env(EARLY, "1");
    }
    command.spawn().unwrap()
}

/// This test binary, to be started as the process that a hidden test is.
pub fn itself(hidden_test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([hidden_test, "--exact", "--ignored", "--nocapture"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

/// Lets a process run, kills it, and returns the whole lines that it printed.
pub fn kill_after(mut child: Child, wait: Duration) -> Vec<String> {
    let stdout = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut stdout = BufReader::new(stdout);
        let mut lines = Vec::new();
        let mut line = Vec::new();
        while stdout.read_until(b'\n', &mut line).unwrap() > 0 {
            // What the kill cut off says nothing.
            if line.pop() == Some(b'\n') {
                lines.push(String::from_utf8(line.clone()).unwrap());
            }
            line.clear();
        }
        lines
    });
    std::thread::sleep(wait);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

/// The entries of a store after a kill, by name; checks all that does not depend on what was
/// acknowledged.
pub fn reopen(dir: &Path) -> BTreeMap<String, Entry> {
    let report = verify(&config(dir), &mut |_, _| {});
    let report = report.unwrap_or_default();
    assert_eq!(report.damage, [], "a kill is no damage");
    let engine = Engine::open(config(dir)).unwrap();
    assert_eq!(engine.report().lost, [], "a kill loses nothing");
    let page = Page { order: Order::Oldest, limit: usize::MAX, ..Page::default() };
    let listed = engine.find(&Filter::default(), page).unwrap();
    let accounting = engine.accounting().unwrap();
    assert_eq!(accounting.captured, listed.len() as u64, "{accounting:?}");
    assert_eq!((accounting.live, accounting.lost), (accounting.captured, 0), "{accounting:?}");
    assert_eq!(engine.count(&Filter::default()).unwrap(), listed.len() as u64);
    engine.close().unwrap();
    let count = listed.len();
    let name = |entry: Entry| (entry.operation.entity_id.clone().unwrap(), entry);
    let found: BTreeMap<String, Entry> = listed.into_iter().map(name).collect();
    assert_eq!(found.len(), count, "an entry came twice");
    for (name, entry) in &found {
        assert_eq!(entry.operation.request_data.as_str(), request(name), "{name}");
    }
    found
}

/// Kills writers; returns how many acknowledged entries were missing, and how many there were.
fn kill_writers(kills: u64, early: bool) -> (u64, u64) {
    let mut chance = Chance::new();
    let (mut missing, mut acknowledged) = (0, 0);
    let mut run = 0;
    while run < kills {
        let dir = tempfile::tempdir().unwrap();
        let mut known: BTreeSet<String> = BTreeSet::new();
        for _ in 0..KILLS_PER_STORE.min(kills - run) {
            run += 1;
            let child = start_writer(dir.path(), run, early);
            let lines = kill_after(child, Duration::from_millis(5 + chance.below(250)));
            let found = reopen(dir.path());
            for line in lines.iter().filter_map(|line| line.strip_prefix("ack ")) {
                let (id, name) = line.split_once(' ').unwrap();
                acknowledged += 1;
                match found.get(name) {
                    Some(entry) => assert_eq!(entry.operation.id.to_string(), id, "{name}"),
                    None => missing += 1,
                }
            }
            let gone = known.iter().find(|name| !found.contains_key(*name));
            assert_eq!(gone, None, "found after an earlier kill, and not after this one");
            known = found.into_keys().collect();
        }
    }
    (missing, acknowledged)
}

#[test]
fn a_killed_writer_loses_nothing_acknowledged() {
    let (missing, acknowledged) = kill_writers(kills(), false);
    println!("{} kills, {acknowledged} acknowledged entries, {missing} missing", kills());
    assert!(acknowledged > 0);
    assert_eq!(missing, 0, "of {acknowledged} acknowledged entries");
}

/// The control: the loop above sees it when an acknowledgement comes too early.
#[test]
fn a_writer_that_acknowledges_too_early_is_caught() {
    let (missing, acknowledged) = kill_writers(10, true);
    println!("{missing} of {acknowledged} entries that were only queued are missing");
    assert!(missing > 0, "the kills came at no moment that matters");
}

#[cfg(feature = "cli")]
mod import;
