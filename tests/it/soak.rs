//! A long life: a writer captures through a directory with a bound, entries are resolved, archived
//! and purged, the process is killed again and again, and everything is checked each time.
//!
//! `writer` is the process that is killed, `ledger` knows what it acknowledged and says what does
//! not fit, `watch` measures the directory meanwhile, `figures` keeps what was measured. How the long
//! run is started is in `docs/testing.md`; the short one here is the test of the harness.

mod figures;
mod ledger;
mod life;
mod stores;
mod waits;
mod watch;
mod writer;
mod written;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use deadletter::{
    Background, Config, Engine, Entry, EntryId, Filter, Limits, Order, Page, Prepare, Status,
    verify,
};
use roaring::RoaringBitmap;

use crate::kill::{Chance, itself, kill_after};
use figures::Figures;
use ledger::{Found, Ledger};
use life::Life;
use watch::Watched;

/// What the long run is told, see `docs/testing.md`.
const CAPTURES: &str = "DEADLETTER_SOAK_CAPTURES";
const SEED: &str = "DEADLETTER_SOAK_SEED";
const DIR: &str = "DEADLETTER_SOAK_DIR";
const PREPARE: &str = "DEADLETTER_SOAK_PREPARE";

/// An entry takes about this much with its changes; sizes of the store's parts follow from it.
const ENTRY_BYTES: u64 = 1400;
/// So many entries are read again in a long run after each kill; a short one reads all.
const READ_AGAIN: usize = 2000;
/// After so many findings a run ends: more would not say more.
const WRONG_MAX: usize = 50;

/// One soak: how far it goes, and with what.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where the store, the ledger and the figures are.
    dir: PathBuf,
    captures: u64,
    seed: u64,
    max_bytes: u64,
    prepare: Prepare,
    /// How long a process lives at least and at most, in milliseconds.
    life_ms: (u64, u64),
    /// Captures between two figures of throughput.
    window: u64,
    kills_min: u64,
}

impl Plan {
    fn long(dir: PathBuf) -> Self {
        let number = |name: &str, default: u64| {
            std::env::var(name).map_or(default, |text| text.parse().unwrap())
        };
        let allocate = std::env::var(PREPARE).is_ok_and(|text| text == "allocate");
        Self {
            dir,
            captures: number(CAPTURES, 10_000_000),
            seed: number(SEED, 1),
            max_bytes: 256 << 20,
            prepare: if allocate { Prepare::Allocate } else { Prepare::Zero },
            life_ms: (2000, 30_000),
            window: 10_000,
            kills_min: 1,
        }
    }

    fn short(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            captures: 3000,
            seed: 1,
            max_bytes: 1 << 20,
            prepare: Prepare::Zero,
            life_ms: (300, 700),
            window: 200,
            kills_min: 2,
        }
    }

    fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    fn config(&self) -> Config {
        let mut config = Config::new(self.store());
        config.max_bytes = Some(self.max_bytes);
        config.limits = Limits { request_data_max_bytes: 16 * 1024, field_max_bytes: 16 * 1024 };
        config.prepare = self.prepare;
        // The process before was killed just now.
        config.lock_wait_ms = 10_000;
        config
    }

    /// How many entries fill the directory, about.
    fn entries_max(&self) -> u64 {
        self.max_bytes / ENTRY_BYTES
    }
}

/// What the directory holds after a kill, and whether the store is sound.
fn look(plan: &Plan, life: &Life, chance: &mut Chance, wrong: &mut Vec<String>) -> Found {
    let report = verify(&plan.config(), &mut |_, _| {}).unwrap_or_default();
    if !report.damage.is_empty() {
        wrong.push(format!("a kill is no damage, but verify finds {:?}", report.damage));
    }
    // Nothing is evicted while it is looked at.
    let mut config = plan.config();
    config.background = Background::Manual;
    let engine = Engine::open(config).unwrap();
    if !engine.report().lost.is_empty() {
        wrong.push(format!("a kill loses nothing, but opening lost {:?}", engine.report().lost));
    }
    let ids = |status| {
        let filter = Filter { status, ..Filter::default() };
        let page = Page { order: Order::Oldest, limit: usize::MAX, ..Page::default() };
        let ids = engine.select(&filter, page).unwrap().into_iter();
        ids.map(|id| u32::try_from(id.0).unwrap()).collect::<RoaringBitmap>()
    };
    let found = Found {
        live: ids(None),
        pending: ids(Some(Status::Pending)),
        resolved: ids(Some(Status::Resolved)),
        accounting: engine.accounting().unwrap(),
    };
    read_again(plan, &engine, &found.live, life, chance, wrong);
    engine.close().unwrap();
    found
}

/// Every byte of an entry follows from its name, and the name of a new one from its id.
fn read_again(
    plan: &Plan,
    engine: &Engine,
    live: &RoaringBitmap,
    life: &Life,
    chance: &mut Chance,
    wrong: &mut Vec<String>,
) {
    let count = usize::try_from(live.len()).unwrap();
    let mut ids: Vec<u32> = live.iter().collect();
    if count > READ_AGAIN {
        let newest = ids.split_off(count - READ_AGAIN / 4);
        let at = |_| ids[usize::try_from(chance.below(ids.len() as u64)).unwrap()];
        ids = (0..READ_AGAIN * 3 / 4).map(at).chain(newest).collect();
    }
    for id in ids {
        let Some(entry) = engine.get(EntryId(id.into())).unwrap() else {
            wrong.push(format!("entry {id} is listed and cannot be read"));
            continue;
        };
        let Entry { operation, .. } = entry;
        let name = operation.entity_id.clone().unwrap_or_default();
        if operation.request_data.as_str() != writer::request(&name) {
            wrong.push(format!("entry {id} has other content than {name}"));
        }
        if let Some(acknowledged) = life.name_of(id).filter(|acknowledged| *acknowledged != name) {
            wrong.push(format!("entry {id} was acknowledged as {acknowledged} and is {name}"));
        }
    }
    if plan.max_bytes < engine.space().unwrap().used {
        wrong.push(format!("the store counts {:?}", engine.space().unwrap()));
    }
}

/// Runs until so many entries were captured; goes on where an earlier run ended. Answers with all
/// that was wrong.
fn soak(plan: &Plan) -> (Vec<String>, Ledger) {
    fs::create_dir_all(&plan.dir).unwrap();
    let mut ledger = Ledger::load(&plan.dir);
    let mut all_wrong = Vec::new();
    let watched = Watched::start(&plan.store(), plan.max_bytes);
    // A run that ended in the middle left a life that nobody checked.
    if fs::exists(life::path(&plan.dir)).unwrap() {
        all_wrong.extend(take_stock(plan, &mut ledger, &watched, 0));
    }
    let mut lives = 0;
    while (ledger.captured < plan.captures || lives < plan.kills_min) && all_wrong.len() < WRONG_MAX
    {
        lives += 1;
        let mut chance = Chance::of(plan.seed ^ (ledger.lives << 32));
        let span = plan.life_ms.1 - plan.life_ms.0;
        let wait = Duration::from_millis(plan.life_ms.0 + chance.below(span));
        let mut command = itself("soak::writer::writer_process");
        writer::tell(&mut command, plan, ledger.lives, ledger.captured);
        kill_after(command.spawn().unwrap(), wait);
        let wait_ms = u64::try_from(wait.as_millis()).unwrap();
        all_wrong.extend(take_stock(plan, &mut ledger, &watched, wait_ms));
    }
    (all_wrong, ledger)
}

/// Checks what a life left, notes its figures, and closes its account.
fn take_stock(plan: &Plan, ledger: &mut Ledger, watched: &Watched, lived_ms: u64) -> Vec<String> {
    let life = Life::read(&plan.dir);
    let mut chance = Chance::of(plan.seed ^ (ledger.lives << 32) ^ 7);
    let mut wrong: Vec<String> =
        life.failed.iter().map(|text| format!("it ended: {text}")).collect();
    let before = Instant::now();
    let found = look(plan, &life, &mut chance, &mut wrong);
    let looked = before.elapsed();
    wrong.extend(ledger.check(&life, &found));
    let taken = watched.take();
    wrong.extend(taken.wrong(plan.max_bytes));
    ledger.advance(&life, &found);
    let raw = figures::raw_control(&plan.dir);
    Figures { plan, ledger, life: &life, taken, lived_ms, looked, raw, wrong: &wrong }.append();
    ledger.save(&plan.dir);
    fs::remove_file(life::path(&plan.dir)).unwrap();
    wrong
}

#[test]
fn a_short_soak_finds_every_entry_accounted_for() {
    let dir = tempfile::tempdir().unwrap();
    let plan = Plan::short(dir.path());
    let (wrong, ledger) = soak(&plan);
    assert_eq!(wrong, [""; 0]);
    assert!(ledger.purged > 0 && ledger.evicted > 0, "{ledger:?}");
    // Another run adds to the first.
    let further = Plan { captures: ledger.captured + 1, kills_min: 1, ..plan };
    let (wrong, further) = soak(&further);
    assert_eq!(wrong, [""; 0]);
    assert!(further.captured > ledger.captured && further.lives > ledger.lives);
    let summary = figures::summary(dir.path());
    assert!(summary.contains(&format!("captured: {}", further.captured)), "{summary}");
}

/// The run that `docs/testing.md` describes.
#[test]
#[ignore = "takes about an hour, see docs/testing.md"]
fn the_long_soak() {
    let dir = std::env::var_os(DIR)
        .map_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("soak"), PathBuf::from);
    let (wrong, _) = soak(&Plan::long(dir.clone()));
    println!("{}", figures::summary(&dir));
    assert_eq!(wrong, [""; 0]);
}
