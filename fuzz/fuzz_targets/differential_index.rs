//! The same operations on two stores, with the index in memory and on disk: every question gets the
//! same answer from both, and from a walk over all entries.
#![no_main]

use std::fs;
use std::sync::OnceLock;
use std::time::Duration;

use deadletter::{
    Cause, Config, Decision, Engine, Entry, EntryId, Env, Filter, IndexKind, Json, NewFailure,
    Order, Page, Simulated, Status, Timestamp,
};
use deadletter_fuzz::choice::Choice;
use deadletter_fuzz::store::{agree, all, balance, open};
use deadletter_fuzz::{crash, place};
use libfuzzer_sys::fuzz_target;

/// Operations on one pair of stores.
const OPS_MAX: usize = 40;

const DOMAINS: [&str; 3] = ["payments", "mail", "stock.eu"];
const TYPES: [&str; 2] = ["TIMEOUT", "REFUSED"];
const CAUSES: [Cause; 2] = [Cause::Purged, Cause::Deleted];

/// One of the two stores.
struct Side {
    config: Config,
    disk: Simulated,
    engine: Engine,
}

fuzz_target!(init: place::contain_sled(), |data: &[u8]| {
    let mut choice = Choice::new(data);
    let mut sides = [side(IndexKind::Memory), side(IndexKind::Sled)];
    for _ in 0..OPS_MAX {
        if choice.is_empty() {
            break;
        }
        act(&mut sides, &mut choice);
    }
    compare(&sides, &mut choice);
    let [memory, sled] = sides;
    drop(memory);
    let dir = sled.config.dir.clone();
    drop(sled);
    let _ = fs::remove_dir_all(dir);
});

fn side(index: IndexKind) -> Side {
    let mut config = crash::config();
    config.index = index;
    static FOLDER: OnceLock<std::path::PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| place::folder().keep());
    config.dir = folder.join("store");
    let disk = Simulated::new(3);
    let engine = open(&config, &disk);
    Side { config, disk, engine }
}

impl Side {
    fn reopen(&mut self, clean: bool) {
        if clean {
            self.engine.close().unwrap();
        }
        self.disk = self.disk.restarted();
        // The database allows one handle at a time, so the old engine goes first.
        let mut idle = self.config.clone();
        idle.dir = "/idle".into();
        idle.index = IndexKind::Memory;
        self.engine = open(&idle, &Simulated::new(0));
        self.engine = open(&self.config, &self.disk);
    }
}

/// Does one thing on both sides.
fn act(sides: &mut [Side; 2], choice: &mut Choice<'_>) {
    match choice.below(12) {
        0..=3 => store(sides, choice),
        4 | 5 => change(sides, choice),
        6 => {
            let time = Duration::from_millis(choice.pick(&[1, 999, 61_000, 3_600_000]));
            for side in sides {
                side.disk.advance(time);
                side.engine.step().unwrap();
            }
        }
        7 => sides.iter().for_each(|side| {
            side.engine.checkpoint().unwrap();
        }),
        8 => sides.iter().for_each(|side| {
            side.engine.compact(&mut |_, _| {}).unwrap();
        }),
        9 => {
            let clean = !choice.one_in(4);
            sides.iter_mut().for_each(|side| side.reopen(clean));
        }
        10 => sides.iter().for_each(|side| {
            side.engine.rebuild_index().unwrap();
        }),
        _ => compare(sides, choice),
    }
}

fn store(sides: &[Side; 2], choice: &mut Choice<'_>) {
    let mut failures = Vec::new();
    for _ in 0..1 + choice.below(8) {
        let pad = choice.pick(&[0, 10, 6_000]);
        let now = sides[0].disk.wall_ms();
        let times = [now, now + 1_000, now + 70_000, now + 7_200_000, 0].map(Timestamp);
        let mut failure = NewFailure::new(choice.pick(&DOMAINS), choice.pick(&TYPES))
            .request(Json::object(format!(r#"{{"pad":"{}"}}"#, "p".repeat(pad))).unwrap())
            .key(format!("k{}", choice.below(200)));
        failure.expires_at = choice.maybe(&times);
        failure.not_before = choice.maybe(&times);
        failure.created_at = choice.maybe(&times).map(|at| Timestamp(at.0.min(now)));
        failures.push(failure);
    }
    for failure in failures {
        let [one, other] = sides.each_ref().map(|side| side.engine.store(failure.clone()).unwrap());
        assert_eq!((one.id, one.duplicate), (other.id, other.duplicate));
    }
}

fn change(sides: &[Side; 2], choice: &mut Choice<'_>) {
    let ids: Vec<EntryId> = all(&sides[0].engine).iter().map(|entry| entry.operation.id).collect();
    if ids.is_empty() {
        return;
    }
    let chosen: Vec<EntryId> = (0..1 + choice.below(6)).map(|_| choice.pick(&ids)).collect();
    let status = choice.pick(&Status::ALL);
    let remove = choice.one_in(4).then(|| choice.pick(&CAUSES));
    let delay = choice.maybe(&[0, 1_000, 3_700_000]);
    for side in sides {
        let now = side.disk.wall_ms();
        let decide = &mut |entry: &Entry| {
            Ok(match remove {
                Some(cause) => Decision::Remove(cause),
                None => {
                    let mut state = entry.state();
                    state.status = status;
                    state.not_before = delay.map(|delay| Timestamp(now + delay));
                    Decision::Change(Box::new(state), Cause::Failed)
                }
            })
        };
        side.engine.change_all(&chosen, decide).unwrap();
    }
}

fn compare(sides: &[Side; 2], choice: &mut Choice<'_>) {
    let entries = all(&sides[0].engine);
    for side in sides {
        assert!(all(&side.engine) == entries, "{:?}", side.config.index);
        agree(&side.engine, &entries);
        balance(&side.engine, &entries);
    }
    for _ in 0..4 {
        let filter = filter(sides[0].disk.wall_ms(), choice);
        let page = Page {
            order: choice.pick(&[Order::Newest, Order::Oldest]),
            offset: choice.pick(&[0, 0, 1, 7]),
            limit: choice.pick(&[1_000, 1, 5, 0]),
            after: choice.maybe(&[EntryId(3), EntryId(20), EntryId(u64::MAX)]),
        };
        let mut wanted: Vec<EntryId> = entries
            .iter()
            .filter(|entry| entry.matches(&filter))
            .map(|entry| entry.operation.id)
            .collect();
        let count = wanted.len() as u64;
        if page.order == Order::Newest {
            wanted.reverse();
            wanted.retain(|id| page.after.is_none_or(|after| *id < after));
        } else {
            wanted.retain(|id| page.after.is_none_or(|after| *id > after));
        }
        let wanted: Vec<EntryId> =
            wanted.into_iter().skip(page.offset as usize).take(page.limit).collect();
        for side in sides {
            let index = side.config.index;
            assert_eq!(side.engine.count(&filter).unwrap(), count, "{index:?} {filter:?}");
            let found = side.engine.select(&filter, page).unwrap();
            assert_eq!(found, wanted, "{index:?} {filter:?} {page:?}");
        }
    }
    let [one, other] = sides.each_ref().map(|side| &side.engine);
    let (status, domain) = (choice.maybe(&Status::ALL), choice.maybe(&DOMAINS));
    let facets = [one, other].map(|engine| engine.facets(status, domain).unwrap());
    assert_eq!(facets[0], facets[1]);
    assert_eq!(one.statistics().unwrap(), other.statistics().unwrap());
    assert_eq!(one.tallies().unwrap(), other.tallies().unwrap());
}

fn filter(now: u64, choice: &mut Choice<'_>) -> Filter {
    let times = [now, now + 1, now - 60_000, now + 3_600_000, 0].map(Timestamp);
    Filter {
        status: choice.maybe(&Status::ALL),
        domain: choice.maybe(&DOMAINS).map(str::to_owned),
        failure_type: choice.maybe(&TYPES).map(str::to_owned),
        created_from: choice.maybe(&times),
        created_to: choice.maybe(&times),
        due_at: choice.maybe(&times),
        expires_before: choice.maybe(&times),
        aged_before: choice.maybe(&times),
    }
}
