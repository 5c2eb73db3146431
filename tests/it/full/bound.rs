//! The directory has a bound: it is never exceeded, whatever happens, and refusals name it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use deadletter::{
    Cause, Config, CrashMode, Decision, Durability, Engine, Entry, EntryId, Env, Error, Filter,
    NameKind, Order, OverflowStrategy, Page, Simulated, SpaceLevel, Status,
};

use super::{config, failure, keys, open, used};
use crate::counting::Counting;

const MAX_BYTES: u64 = 1024 * 1024;

fn bounded() -> Config {
    let mut config = config();
    config.max_bytes = Some(MAX_BYTES);
    config.bounds.overflow_strategy = OverflowStrategy::Reject;
    config
}

/// A small generator: the same choices for the same seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn lengths_below(disk: &Simulated, folder: &Path) -> u64 {
    let Ok(names) = Env::list(disk, folder) else { return 0 };
    let lengths = names.into_iter().map(|(name, kind)| match kind {
        NameKind::File(len) => len,
        NameKind::Directory => lengths_below(disk, &folder.join(name)),
        NameKind::Other => 0,
    });
    lengths.sum()
}

/// The figures of the store are those of a walk through its folders.
fn check_figures(engine: &Engine, disk: &Simulated) {
    let bytes = engine.bytes().unwrap();
    let root = Path::new("/store");
    let log = lengths_below(disk, &root.join("log"));
    assert_eq!(bytes.log + bytes.prepared, log);
    assert_eq!(bytes.fallback, lengths_below(disk, &root.join("fallback")));
    assert_eq!(bytes.quarantine, lengths_below(disk, &root.join("quarantine")));
    let named = ["STORE", "LOCK", "CKPT.0", "CKPT.1"];
    let names = Env::list(disk, root).unwrap().into_iter();
    let small = names.filter(|(name, _)| named.contains(&name.as_str()));
    let small: u64 =
        small.map(|(_, kind)| if let NameKind::File(len) = kind { len } else { 0 }).sum();
    let all =
        bytes.log + bytes.prepared + bytes.fallback + bytes.quarantine + bytes.ballast + small;
    assert_eq!(all, lengths_below(disk, root));
    assert_eq!(bytes.limit, Some(MAX_BYTES));
}

fn is_bound(error: &Error) -> bool {
    matches!(error, Error::Full { what: "max_bytes", bytes_max: MAX_BYTES, .. })
}

/// One operation; answers whether it was refused for the bound.
fn operate(engine: &Engine, chance: &mut Chance, number: u64) -> bool {
    let size = usize::try_from(chance.below(12_000)).unwrap();
    let id = EntryId(1 + chance.below(number + 1));
    let refused = match chance.below(20) {
        0..=9 => engine.store(failure(number, size)).err().map(|error| error.source),
        10..=11 => {
            let batch =
                (0..4).map(|part| failure(number * 10 + 100_000 + part, size / 4)).collect();
            engine.store_batch(batch, Durability::Synced).err().map(|error| error.source)
        }
        12..=13 => engine.spill_beside(failure(number, size)).err().map(|error| error.source),
        14..=15 => match engine.change(id, &[], |state| state.status = Status::Resolved) {
            Err(Error::NotFound { .. }) => None,
            other => other.err(),
        },
        16 => engine.change_all(&[id], &mut |_| Ok(Decision::Remove(Cause::Purged))).err(),
        17 => engine.checkpoint().err(),
        _ => engine.step().err(),
    };
    if let Some(error) = &refused {
        assert!(is_bound(error), "{error:?}");
    }
    refused.is_some()
}

fn live(seed: u64) -> u64 {
    let mut chance = Chance(seed);
    let mut disk = Simulated::new(seed);
    let mut engine = open(&disk, bounded());
    let mut refusals = 0;
    for number in 0..400 {
        refusals += u64::from(operate(&engine, &mut chance, number));
        let taken = used(&disk);
        assert!(taken <= MAX_BYTES, "seed {seed}: {taken} bytes after operation {number}");
        if number % 20 == 0 {
            check_figures(&engine, &disk);
        }
        if chance.below(60) == 0 {
            engine.close().unwrap();
            engine = open(&disk, bounded());
        } else if chance.below(30) == 0 {
            disk = disk.crash_image(CrashMode::Nothing, chance.below(1000));
            engine = open(&disk, bounded());
        }
        let taken = used(&disk);
        assert!(taken <= MAX_BYTES, "seed {seed}: {taken} bytes after opening at {number}");
    }
    assert!(engine.failure().is_none());
    let accounting = engine.accounting().unwrap();
    let gone = accounting.purged + accounting.evicted + accounting.lost;
    assert_eq!(accounting.captured, accounting.live + gone);
    assert_eq!(accounting.live, keys(&engine).len() as u64);
    refusals
}

#[test]
fn whatever_happens_the_directory_stays_within_its_bound() {
    for seed in 1..=20 {
        let refusals = live(seed);
        assert!(refusals > 10, "seed {seed}: only {refusals} refusals, so the bound was not met");
    }
}

/// What a life of a store that crashes again and again does.
#[derive(Debug, Clone, Copy)]
enum Life {
    /// Nothing but to say that it uses the store.
    Idles,
    /// Stores until it is refused.
    Stores,
    /// Changes entries until it is refused, or a few times.
    Changes,
    /// Leaves records that nothing proves, as many as there is room for.
    Writes,
}

/// One crash after the other, without a compaction between them. Never more bytes than the bound,
/// whatever the store did before, and nothing is lost.
fn crash_often(life: Life, restarts: bool) -> Engine {
    let mut disk = Simulated::new(7);
    let engine = open(&disk, bounded());
    let mut stored = 0;
    while engine.store(failure(stored, 4000)).is_ok() {
        stored += 1;
    }
    drop(engine);
    let mut next = 1000;
    for crash in 0..60 {
        disk =
            if restarts { disk.restarted() } else { disk.crash_image(CrashMode::Nothing, crash) };
        let engine = open(&disk, bounded());
        let what = format!("{life:?}, crash {crash}");
        assert!(used(&disk) <= MAX_BYTES, "{what}: {} bytes after opening", used(&disk));
        assert_eq!(engine.report().lost, [], "{what}");
        for _ in 0..8 {
            next += 1;
            let new = failure(next, 3000);
            let refused = match life {
                Life::Idles => engine.change_all(&[], &mut |_| Ok(Decision::Keep)).err(),
                Life::Stores => engine.store(new).err().map(|error| error.source),
                Life::Writes => {
                    engine.store_with(new, Durability::Written).err().map(|error| error.source)
                }
                Life::Changes => {
                    let note = "n".repeat(3000);
                    engine.change(EntryId(1), &[], |state| state.resolution_note = note).err()
                }
            };
            assert!(refused.as_ref().is_none_or(is_bound), "{what}: {refused:?}");
            assert!(used(&disk) <= MAX_BYTES, "{what}: {} bytes", used(&disk));
        }
        let accounting = engine.accounting().unwrap();
        assert_eq!((accounting.live, accounting.lost), (accounting.captured, 0), "{what}");
        assert!(accounting.live >= stored, "{what}");
        disk.power_off_at(Some(disk.operations()));
    }
    let engine = open(&disk.restarted(), bounded());
    assert!(keys(&engine).len() as u64 >= stored);
    engine
}

fn each_way_to_crash() -> impl Iterator<Item = (Life, bool)> {
    let lives = [Life::Idles, Life::Stores, Life::Changes, Life::Writes];
    lives.into_iter().flat_map(|life| [(life, true), (life, false)])
}

#[test]
fn no_number_of_crashes_takes_the_directory_over_its_bound() {
    for (life, restarts) in each_way_to_crash() {
        crash_often(life, restarts);
    }
}

#[test]
fn there_is_always_room_to_give_space_back_and_then_for_a_change() {
    for (life, restarts) in each_way_to_crash() {
        let engine = crash_often(life, restarts);
        for _ in 0..2 {
            let compacted = engine.compact(&mut |_, _| {});
            assert!(compacted.is_ok(), "{life:?}, {restarts}: {compacted:?}");
            assert!(engine.space().unwrap().used <= MAX_BYTES);
            engine.change_all(&[EntryId(1)], &mut |_| Ok(Decision::Remove(Cause::Purged))).unwrap();
        }
    }
}

#[test]
fn a_full_store_says_so_and_its_entries_can_still_be_changed() {
    let disk = Simulated::new(1);
    let engine = open(&disk, bounded());
    let refused = (0..500).find_map(|number| engine.store(failure(number, 4000)).err()).unwrap();
    assert!(is_bound(&refused.source), "{refused:?}");
    assert!(refused.source.to_string().contains("max_bytes"));
    let space = engine.space().unwrap();
    assert_eq!(space.level, SpaceLevel::Emergency);
    assert!(space.used <= MAX_BYTES && space.used > MAX_BYTES / 2, "{space:?}");
    let shortage = space.shortage.unwrap();
    assert_eq!((shortage.what, shortage.bytes_max), ("max_bytes", MAX_BYTES));
    let page = Page { limit: usize::MAX, ..Page::default() };
    let ids = engine.select(&Filter::default(), page).unwrap();
    for id in &ids {
        engine.change(*id, &[], |state| state.status = Status::Resolved).unwrap();
        assert!(used(&disk) <= MAX_BYTES);
    }
    // A larger bound is enough to go on.
    engine.close().unwrap();
    let mut larger = bounded();
    larger.max_bytes = Some(2 * MAX_BYTES);
    let engine = open(&disk, larger);
    engine.store(failure(1000, 4000)).unwrap();
    let page = Page { limit: usize::MAX, ..Page::default() };
    assert_eq!(engine.select(&Filter::default(), page).unwrap().len(), ids.len() + 1);
}

/// Changes to some entries, in parts; answers whether the bound refused one.
fn change_all(engine: &Engine, ids: &[EntryId], decision: &dyn Fn(&Entry) -> Decision) -> bool {
    let refused = ids.chunks(20).find_map(|ids| {
        let changed = engine.change_all(ids, &mut |entry| Ok(decision(entry)));
        changed.err().inspect(|error| assert!(is_bound(error), "{error:?}"))
    });
    refused.is_some()
}

/// Resolves with a note of so many bytes.
fn resolve(note_bytes: usize) -> impl Fn(&Entry) -> Decision {
    move |entry| {
        let mut state = entry.state();
        state.status = Status::Resolved;
        state.resolution_note = "n".repeat(note_bytes);
        Decision::Change(Box::new(state), Cause::Resolved)
    }
}

/// A store, and the most bytes that its directory ever took: it is measured after each write.
fn open_watched() -> (Engine, Arc<AtomicU64>) {
    let disk = Simulated::new(1);
    let most = Arc::new(AtomicU64::new(0));
    let (watched, keep) = (disk.clone(), Arc::clone(&most));
    let counting = Counting::new(Arc::new(disk), move || {
        keep.fetch_max(used(&watched), Ordering::Relaxed);
    });
    (Engine::open_with(bounded(), Arc::new(counting)).unwrap(), most)
}

fn check_bound(most: &AtomicU64) {
    let most = most.load(Ordering::Relaxed);
    assert!(most > MAX_BYTES / 2, "{most} bytes, so the bound was not met");
    assert!(most <= MAX_BYTES, "{most} bytes");
}

/// A store that is full of entries which wait; changes make it fuller still, and in the end all of
/// them are purged. Answers how many changes were refused.
fn empty_a_full_store(note_bytes: usize) -> u32 {
    let (engine, most) = open_watched();
    while engine.store(failure(engine.accounting().unwrap().captured, 200)).is_ok() {}
    let page = Page { order: Order::Oldest, limit: usize::MAX, ..Page::default() };
    let ids = engine.select(&Filter::default(), page).unwrap();
    let mut refusals = 0;
    for round in 0..5 {
        refusals += u32::from(change_all(&engine, &ids, &resolve(note_bytes + round)));
    }
    // Whoever is refused may try again: each time a part of it succeeds.
    for _ in 0..100 {
        let left = engine.select(&Filter::default(), page).unwrap();
        if left.is_empty() {
            break;
        }
        change_all(&engine, &left, &|_| Decision::Remove(Cause::Purged));
    }
    let accounting = engine.accounting().unwrap();
    assert_eq!((accounting.live, accounting.purged), (0, ids.len() as u64));
    engine.store(failure(1_000_000, 4000)).unwrap();
    check_bound(&most);
    refusals
}

/// What is changed again and again is garbage that compaction must find room to give back.
#[test]
fn a_full_store_can_always_be_changed_and_emptied() {
    assert_eq!(empty_a_full_store(0), 0);
}

/// Long notes fill the store for good. What removes entries still finds room.
#[test]
fn a_store_full_of_notes_can_be_emptied() {
    assert!(empty_a_full_store(3000) > 0);
}

/// Entries grow by what is folded into them, so a new file may be longer than the old one.
#[test]
fn a_rewrite_that_makes_a_segment_longer_stays_within_the_bound() {
    let (engine, most) = open_watched();
    let ids: Vec<EntryId> =
        (0..250).map(|number| engine.store(failure(number, 10)).unwrap().id).collect();
    assert!(!change_all(&engine, &ids, &resolve(2000)));
    let mut number = 1000;
    while engine.store(failure(number, 10)).is_ok() {
        number += 1;
    }
    change_all(&engine, &ids[..150], &|_| Decision::Remove(Cause::Purged));
    for _ in 0..100 {
        drop(engine.step());
        number += 1;
        drop(engine.store(failure(number, 10)));
    }
    let accounting = engine.accounting().unwrap();
    assert_eq!(accounting.captured, accounting.live + accounting.purged);
    check_bound(&most);
}

/// With a strategy that makes room, a store at its bound goes on for good while entries age.
#[test]
fn a_store_at_its_bound_goes_on_while_entries_age() {
    let disk = Simulated::new(1);
    let mut config = bounded();
    config.bounds.overflow_strategy = OverflowStrategy::DropOldest;
    config.bounds.overflow_evict_batch_size = 100;
    let engine = open(&disk, config);
    for number in 0..10_000 {
        if let Err(refused) = engine.store(failure(number, 200)) {
            panic!("entry {number}: {:?}, {:?}", refused.source, engine.space());
        }
        if number % 100 == 99 {
            let page = Page { limit: 200, ..Page::default() };
            let ids = engine.select(&Filter::default(), page).unwrap();
            assert!(
                !change_all(&engine, &ids, &resolve(0)),
                "entry {number}: {:?}",
                engine.space()
            );
            assert!(used(&disk) <= MAX_BYTES, "entry {number}");
        }
    }
    let accounting = engine.accounting().unwrap();
    assert!(accounting.evicted > 5000, "{accounting:?}");
}

/// Quarantine takes an eighth at most; what is oldest goes first and is counted.
#[test]
fn quarantine_is_bounded_and_its_oldest_files_go_first() {
    let disk = Simulated::new(1);
    drop(open(&disk, bounded()));
    Env::create_dir(&disk, "/store/quarantine".as_ref()).unwrap();
    let name = |number: u32| format!("/store/quarantine/{number:016x}-0000.seg-0-40960.bin");
    for number in 1..=3 {
        disk.write_raw(name(number), &vec![7; 40 * 1024]).unwrap();
    }
    let engine = open(&disk, bounded());
    let id = engine.store(failure(1, 12_000)).unwrap().id;
    // Damage that is met while reading is put aside, too.
    let batch: Vec<_> = (2..10).map(|number| failure(number, 12_000)).collect();
    for one in batch {
        engine.store(one).unwrap();
    }
    let log = Env::list(&disk, "/store/log".as_ref()).unwrap();
    let first = format!("/store/log/{}", log[0].0);
    disk.flip(&first, 4096 + 6000, 1).unwrap();
    drop(engine.get(id));
    let space = engine.space().unwrap();
    assert!(space.bytes.quarantine <= MAX_BYTES / 8, "{space:?}");
    assert_eq!(space.quarantine_dropped, 1);
    assert!(disk.read_raw(name(1)).is_err(), "the oldest one is gone");
    assert!(disk.read_raw(name(3)).is_ok());
}
