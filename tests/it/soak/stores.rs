//! How long a `store` waits while compaction runs beside it: on one disk, in turns with a raw write
//! and with stores that nothing runs beside.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use deadletter::{Cause, Config, Decision, Durability, Engine, EntryId, Json, NewFailure};

use super::waits::Waits;
use super::writer::is_rewriting;

const ROUNDS: usize = 5;
/// Calls of each kind in a round.
const CALLS: u64 = 400;
/// Entries that become garbage for a round, in batches.
const GARBAGE: u64 = 32_000;
const BATCH: u64 = 64;
const PAYLOAD: usize = 1024;
/// A rewrite that does not begin after this time does not come.
const PATIENCE: Duration = Duration::from_secs(20);

pub fn failure(number: u64) -> NewFailure {
    let head = format!(r#"{{"number":{number},"text":""#);
    let text = "x".repeat(PAYLOAD - head.len() - 2);
    let request = Json::object(format!("{head}{text}\"}}")).unwrap();
    assert_eq!(request.as_str().len(), PAYLOAD);
    NewFailure::new("payment", "TIMEOUT").request(request)
}

fn store(engine: &Engine, waits: &Waits) {
    let failure = failure(waits.count());
    let before = Instant::now();
    engine.store(failure).unwrap();
    waits.add(before.elapsed());
}

/// Three of four entries go, so that each segment is worth a rewrite.
fn make_garbage(engine: &Engine) {
    let mut ids: Vec<EntryId> = Vec::new();
    for batch in 0..GARBAGE / BATCH {
        let numbers = batch * BATCH..(batch + 1) * BATCH;
        let stored = engine.store_batch(numbers.map(failure).collect(), Durability::Synced);
        ids.extend(stored.unwrap().iter().map(|stored| stored.id));
    }
    let going: Vec<EntryId> = ids.into_iter().filter(|id| id.0 % 4 != 0).collect();
    for ids in going.chunks(256) {
        engine.change_all(ids, &mut |_| Ok(Decision::Remove(Cause::Purged))).unwrap();
    }
}

/// What the device does by itself: an appended record and its sync.
fn write_raw(path: &Path, waits: &Waits) {
    let file = File::options().create(true).truncate(true).write(true).open(path).unwrap();
    let record = [0x5a; PAYLOAD + 200];
    file.write_all_at(&vec![0; record.len() * usize::try_from(CALLS).unwrap()], 0).unwrap();
    file.sync_all().unwrap();
    for number in 0..CALLS {
        let before = Instant::now();
        file.write_all_at(&record, number * record.len() as u64).unwrap();
        file.sync_data().unwrap();
        waits.add(before.elapsed());
    }
    fs::remove_file(path).unwrap();
}

/// Stores beside compaction as it runs by itself, which is paced.
fn store_beside_upkeep(engine: &Engine, log: &Path, waits: &Waits) {
    let (before, wanted) = (Instant::now(), waits.count() + CALLS);
    while waits.count() < wanted && before.elapsed() < PATIENCE {
        if is_rewriting(log) {
            store(engine, waits);
        } else {
            std::thread::yield_now();
        }
    }
}

/// Stores until a compaction that somebody asked for, which is not paced, is done.
fn store_beside_a_call(engine: &Engine, waits: &Waits) {
    std::thread::scope(|scope| {
        let compaction = scope.spawn(|| engine.compact(&mut |_, _| {}).unwrap());
        while !compaction.is_finished() {
            store(engine, waits);
        }
    });
}

#[test]
#[ignore = "takes minutes, see docs/testing.md"]
fn how_long_a_store_waits_beside_compaction() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let config = Config::new(dir.path().join("store"));
    let log = config.dir.join("log");
    let engine = Engine::open(config).unwrap();
    let [raw, alone, paced, called] = [const { Waits::new() }; 4];
    for _ in 0..ROUNDS {
        engine.compact(&mut |_, _| {}).unwrap();
        write_raw(&dir.path().join("raw"), &raw);
        for _ in 0..CALLS {
            store(&engine, &alone);
        }
        make_garbage(&engine);
        store_beside_upkeep(&engine, &log, &paced);
        make_garbage(&engine);
        store_beside_a_call(&engine, &called);
    }
    engine.close().unwrap();
    println!("raw write and sync: {}", raw.told());
    println!("store, nothing beside it: {}", alone.told());
    println!("store beside compaction that runs by itself: {}", paced.told());
    println!("store beside a call of compact: {}", called.told());
    assert!(paced.count() > 0, "compaction never ran");
}
