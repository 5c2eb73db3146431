//! One long life of a store, decided by a seed: operations, faults, crashes, and on it goes.

use std::panic::{AssertUnwindSafe, catch_unwind};

use deadletter::{CrashMode, Fault, FaultKind, Simulated};

use super::Chance;
use super::check::check;
use super::explore::place;
use super::model::{Crash, Model};
use super::play::{Op, Run};
use super::tap::{Shot, Tap};

/// Crash states checked in each round of a life.
const SHOTS: usize = 40;

/// The failures that may happen at a step; behind the first two, pairs that differ in what the system
/// says.
pub const FAULTS: [FaultKind; 8] = [
    FaultKind::Eio,
    FaultKind::ShortWrite,
    FaultKind::EioSticky,
    FaultKind::Erofs,
    FaultKind::Enospc,
    FaultKind::Edquot,
    FaultKind::FailedSync,
    FaultKind::EnospcSync,
];

/// Those that are tried at a step, one of each pair.
pub fn faults_at(step: u64) -> impl Iterator<Item = FaultKind> {
    let odd = usize::from(step % 2 == 1);
    let is_tried = move |index: &usize| *index < 2 || index % 2 == odd;
    (0..FAULTS.len()).filter(is_tried).map(|index| FAULTS[index])
}

/// Prepares the disk of each process; answers whether calls may then fail.
pub type Prepare<'a> = &'a dyn Fn(&Simulated) -> bool;

/// As [`life`]; a panic of the engine is a finding too.
pub fn lives(seed: u64, prepare: Prepare<'_>) -> Result<usize, String> {
    catch_unwind(AssertUnwindSafe(|| life(seed, prepare)))
        .unwrap_or_else(|_| Err("the engine panicked".to_owned()))
}

/// Uses a store until its last crash; answers with the number of states checked.
pub fn life(seed: u64, prepare: Prepare<'_>) -> Result<usize, String> {
    let mut history = Vec::new();
    live(seed, prepare, &mut history)
        .map_err(|found| format!("{found}\nafter {}", history.join("\n  ")))
}

fn live(seed: u64, prepare: Prepare<'_>, history: &mut Vec<String>) -> Result<usize, String> {
    let mut chance = Chance(seed);
    let mut disk = Simulated::new(seed);
    let mut model = Model::default();
    let mut states = 0;
    for _ in 0..=chance.below(3) {
        let mut faulty = prepare(&disk);
        if chance.one_in(3) {
            history.push(plan_fault(&disk, &mut chance));
            faulty = true;
        }
        let run = Run::new(&disk, model, chance.next()).faulty(faulty);
        let shots = play(run, &mut chance, history)?;
        for _ in 0..SHOTS.min(shots.len()) {
            let shot = &shots[chance.below(shots.len())];
            let (name, image, crash) = crash_at(shot, &mut chance);
            check(&image, &shot.model, crash, chance.one_in(6))
                .map_err(|found| place(shot, &name, &found))?;
            states += 1;
        }
        let shot = &shots[chance.below(shots.len())];
        let (name, image, crash) = crash_at(shot, &mut chance);
        history.push(place(shot, &name, "the next process"));
        (disk, model) = (image, Model::clone(&shot.model));
        model.crashed(crash);
    }
    Ok(states)
}

fn play(run: Run, chance: &mut Chance, history: &mut Vec<String>) -> Result<Vec<Shot>, String> {
    let mut run = run.tapped();
    run.open()?;
    let ops = if chance.one_in(10) { 40 } else { 12 };
    for _ in 0..=chance.below(ops) {
        let op = choose(chance);
        history.push(format!("{op:?} at step {}", run.disk.operations()));
        run.play(op)?;
    }
    run.shoot();
    let shots = run.tap.as_ref().map(Tap::take).unwrap_or_default();
    run.kill();
    Ok(shots)
}

fn choose(chance: &mut Chance) -> Op {
    match chance.below(48) {
        40..=42 => Op::Compact,
        43..=44 => Op::Archive,
        0 => Op::Rotate,
        1..=2 => Op::Big,
        3..=5 => Op::Reopen,
        6 => Op::Spill,
        7 => Op::Checkpoint,
        8..=10 => Op::Flush,
        11..=14 => Op::Written,
        15..=16 => Op::WrittenBatch,
        17..=19 => Op::Queued,
        20..=22 => Op::Batch,
        23..=27 => Op::Keyed,
        28..=31 => Op::Change,
        32..=33 => Op::Remove,
        34..=35 => Op::ChangeMany,
        36 => Op::Evict,
        37..=39 => Op::Compress,
        _ => Op::Store,
    }
}

/// Lets one step fail some time from now; a sync that fails is what matters most.
fn plan_fault(disk: &Simulated, chance: &mut Chance) -> String {
    let kind = FAULTS[chance.below(FAULTS.len())];
    let at = chance.below(80) as u64;
    let lasts = matches!(kind, FaultKind::FailedSync | FaultKind::EnospcSync);
    let steps = if lasts { 6 } else { 1 };
    // Every other step, so that a disk that tries again succeeds.
    for at in (at..at + steps).step_by(2) {
        disk.inject(Fault { at, kind });
    }
    format!("{kind:?} at step {at}")
}

pub fn crash_at(shot: &Shot, chance: &mut Chance) -> (String, Simulated, Crash) {
    let modes = CrashMode::ALL;
    match modes.get(chance.below(modes.len() + 1)) {
        Some(mode) => {
            let image = shot.disk.crash_image(*mode, chance.next());
            (format!("{mode:?}"), image, Crash::Power)
        }
        None => ("restart".to_owned(), shot.disk.restarted(), Crash::Process),
    }
}
