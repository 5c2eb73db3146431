//! Compaction alone: a power cut, a fault, and a power cut after a fault at every step of it, on a
//! disk with room and on one at the bound of its directory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use deadletter::{Env as _, Fault, NameKind, Simulated};

use super::check::{check, used};
use super::explore::{images, place};
use super::life::{FAULTS, crash_at};
use super::model::{Crash, Model};
use super::play::{Op, Run};
use super::tap::{Shot, Tap};
use super::{Chance, DIR, MAX_BYTES};

/// A normal run explores so many states within compaction.
const STATES: usize = 100_000;
/// Workers of the walk; the machines that run this have two cores.
const WORKERS: usize = 2;
/// At the bound the store has this much for its segments.
const ROOM: u64 = 8 * 64 * 1024;
/// Power cuts that are tried after each fault.
const CUTS: usize = 12;

/// What was explored so far.
#[derive(Debug, Default, Clone, Copy)]
struct Explored {
    crashes: usize,
    faults: usize,
    crashes_after_faults: usize,
    rewritten: u64,
    merged: u64,
    dropped: u64,
}

impl Explored {
    fn states(&self) -> usize {
        self.crashes + self.faults + self.crashes_after_faults
    }

    fn add(&mut self, other: Self) {
        self.crashes += other.crashes;
        self.faults += other.faults;
        self.crashes_after_faults += other.crashes_after_faults;
        self.rewritten += other.rewritten;
        self.merged += other.merged;
        self.dropped += other.dropped;
    }
}

/// A store that has something to compact, as the seed decides. The same seed makes the same one, step
/// by step.
fn prepared(seed: u64) -> Result<Run, String> {
    let mut chance = Chance(seed);
    let disk = Simulated::new(seed);
    let mut run = resting(&disk, Model::default(), seed)?;
    if chance.one_in(2) {
        let pad = Path::new(DIR).join("pad");
        disk.write_raw(&pad, &[]).map_err(|error| error.to_string())?;
        let rest = MAX_BYTES - ROOM;
        disk.truncate_raw(&pad, rest).map_err(|error| error.to_string())?;
        // What is not the store's own is measured when it opens.
        run.play(Op::Reopen)?;
    }
    let ops = [
        Op::Rotate,
        Op::Rotate,
        Op::Batch,
        Op::Keyed,
        Op::Change,
        Op::ChangeMany,
        Op::ChangeMany,
        Op::Remove,
        Op::Remove,
        Op::Evict,
        Op::Compress,
        Op::Compact,
        Op::Compact,
    ];
    for _ in 0..4 + chance.below(9) {
        run.play(ops[chance.below(ops.len())])?;
    }
    // Each process that dies leaves a small segment, and neighbors are merged.
    for _ in 0..chance.below(2) * 3 {
        for _ in 0..5 {
            run.play(Op::Batch)?;
        }
        run.kill();
        let mut model = run.model;
        model.crashed(Crash::Process);
        run = resting(&run.disk.restarted(), model, chance.next())?;
    }
    run.play([Op::Remove, Op::ChangeMany, Op::Store][chance.below(3)])?;
    rest(&run, false);
    Ok(run)
}

/// An open store that is not photographed yet.
fn resting(disk: &Simulated, model: Model, seed: u64) -> Result<Run, String> {
    let mut run = Run::new(disk, model, seed).tapped();
    rest(&run, true);
    run.open()?;
    Ok(run)
}

fn rest(run: &Run, rests: bool) {
    if let Some(tap) = &run.tap {
        tap.rest(rests);
    }
}

/// The bytes of every segment file, up to the last that is not zero.
fn segments(disk: &Simulated) -> BTreeMap<String, Vec<u8>> {
    let dir = Path::new(DIR).join("log");
    let names = disk.list(&dir).unwrap_or_default().into_iter();
    let names = names.filter(|(name, kind)| {
        matches!(kind, NameKind::File(_))
            && Path::new(name).extension().is_some_and(|it| it == "seg")
    });
    let read = |(name, _): (String, NameKind)| {
        let mut bytes = disk.read_raw(dir.join(&name)).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        bytes.truncate(end);
        (name, bytes)
    };
    names.map(read).collect()
}

/// Nothing that was written to a segment changes, and no name is used again for something else.
fn check_kept(before: &mut BTreeMap<String, Vec<u8>>, disk: &Simulated) -> Result<(), String> {
    for (name, bytes) in segments(disk) {
        let old = before.insert(name.clone(), bytes.clone()).unwrap_or_default();
        if !bytes.starts_with(&old) {
            return Err(format!("bytes of {name} were written again"));
        }
    }
    Ok(())
}

fn shots_of(run: &Run) -> Vec<Shot> {
    run.shoot();
    run.tap.as_ref().map(Tap::take).unwrap_or_default()
}

/// Every way to crash at every step of one compaction.
fn crash_everywhere(seed: u64, explored: &mut Explored) -> Result<(u64, u64), String> {
    let mut chance = Chance(!seed);
    let mut run = prepared(seed)?;
    let (begin, before) = (run.disk.operations(), run.compacted);
    run.play(Op::Compact)?;
    let end = run.disk.operations();
    explored.rewritten += run.compacted.rewritten - before.rewritten;
    explored.merged += run.compacted.merged - before.merged;
    explored.dropped += run.compacted.dropped - before.dropped;
    let mut kept = BTreeMap::new();
    for shot in shots_of(&run) {
        check_kept(&mut kept, &shot.disk).map_err(|found| place(&shot, "alive", &found))?;
        if used(&shot.disk) > MAX_BYTES {
            return Err(place(&shot, "alive", "the directory is over its bound"));
        }
        for (name, image, crash) in images(&shot, chance.next()) {
            check(&image, &shot.model, crash, chance.one_in(16))
                .map_err(|found| place(&shot, &name, &found))?;
            explored.crashes += 1;
        }
    }
    run.kill();
    Ok((begin, end))
}

/// A fault at one step of the compaction; the store goes on, and the power may go at any time.
fn fail_at(seed: u64, fault: Fault, explored: &mut Explored) -> Result<(), String> {
    let mut chance = Chance(seed ^ fault.at);
    let mut run = prepared(seed)?.faulty(true);
    run.disk.inject(fault);
    run.play(Op::Compact)?;
    if run.disk.faults_fired() == 0 {
        return Ok(());
    }
    check(&run.disk.restarted(), &run.model, Crash::Process, chance.one_in(8))
        .map_err(|found| format!("restart: {found}"))?;
    explored.faults += 1;
    run.disk.clear_faults();
    for op in [Op::Compact, Op::Store, Op::Remove, Op::Compact] {
        run.play(op)?;
    }
    let shots = shots_of(&run);
    run.kill();
    for _ in 0..CUTS {
        let shot = &shots[chance.below(shots.len())];
        let (name, image, crash) = crash_at(shot, &mut chance);
        check(&image, &shot.model, crash, chance.one_in(16))
            .map_err(|found| place(shot, &name, &found))?;
        explored.crashes_after_faults += 1;
    }
    Ok(())
}

fn explore(seed: u64) -> Result<Explored, String> {
    let mut explored = Explored::default();
    let (begin, end) = crash_everywhere(seed, &mut explored)?;
    let mut chance = Chance(seed);
    for at in begin..end {
        let kind = FAULTS[chance.below(FAULTS.len())];
        fail_at(seed, Fault { at, kind }, &mut explored)
            .map_err(|found| format!("{kind:?} at {at}: {found}"))?;
    }
    Ok(explored)
}

#[test]
fn compaction_loses_nothing_and_brings_nothing_back_whatever_fails_at_any_step() {
    if let Some(seed) = std::env::var("DEADLETTER_CRASH_SEED").ok().map(|seed| seed.parse()) {
        explore(seed.expect("DEADLETTER_CRASH_SEED is a number")).unwrap();
        return;
    }
    let (next, all) = (Mutex::new(1), Mutex::new(Explored::default()));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while all.lock().unwrap().states() < STATES {
                    let seed = {
                        let mut next = next.lock().unwrap();
                        *next += 1;
                        *next - 1
                    };
                    match explore(seed) {
                        Ok(explored) => all.lock().unwrap().add(explored),
                        Err(found) => {
                            // The other worker stops, too.
                            all.lock().unwrap().crashes += STATES;
                            panic!("DEADLETTER_CRASH_SEED={seed}: {found}");
                        }
                    }
                }
            });
        }
    });
    let all = all.into_inner().unwrap();
    println!("{all:?} in {} stores", next.into_inner().unwrap() - 1);
    assert!(all.states() >= STATES);
    assert!(all.crashes > STATES / 8 && all.faults > STATES / 50, "{all:?}");
    assert!(all.crashes_after_faults > STATES / 8, "{all:?}");
    assert!(all.rewritten > 100 && all.merged > 25 && all.dropped > 50, "{all:?}");
}
