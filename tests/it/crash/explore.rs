//! Walks: all short sequences with a crash before every step, faults at every step, and long
//! random lives.

use std::sync::atomic::{AtomicUsize, Ordering};

use deadletter::{CrashMode, Fault, Simulated};

use super::Chance;
use super::check::check;
use super::life::{faults_at, life, lives};
use super::model::{Crash, Model};
use super::play::{Op, Run};
use super::tap::{Shot, Tap};

/// Workers of one walk; the machines that run this have two cores.
const WORKERS: usize = 2;
/// Random crash states of a normal run, unless `DEADLETTER_CRASH_STATES` says otherwise.
const RANDOM_STATES: usize = 200_000;

/// Calls `visit` for every sequence of up to `len` operations, on two threads; fails with the
/// first thing found. Returns how many states were checked.
fn each_sequence(len: usize, visit: &(dyn Fn(&[Op]) -> Result<usize, String> + Sync)) -> usize {
    let mut sequences: Vec<Vec<Op>> = vec![Vec::new()];
    let mut from = 0;
    for _ in 0..len {
        let to = sequences.len();
        for index in from..to {
            for op in Op::SHAPES {
                let mut sequence = sequences[index].clone();
                sequence.push(op);
                sequences.push(sequence);
            }
        }
        from = to;
    }
    let (next, states) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(sequence) = sequences.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match visit(sequence) {
                        Ok(count) => states.fetch_add(count, Ordering::Relaxed),
                        Err(found) => {
                            next.store(sequences.len(), Ordering::Relaxed);
                            panic!("{sequence:?}: {found}");
                        }
                    };
                }
            });
        }
    });
    states.into_inner()
}

/// Runs a sequence; the pictures are of the steps of its last operation.
fn shots_of_last(sequence: &[Op]) -> Result<Vec<Shot>, String> {
    let mut run = Run::new(&Simulated::new(1), Model::default(), 7).tapped();
    run.open()?;
    let tap = run.tap.clone().unwrap();
    for op in sequence {
        tap.take();
        run.play(*op)?;
    }
    run.shoot();
    Ok(tap.take())
}

/// Every disk that a crash at this picture may leave: each way to lose power, and a restart.
pub fn images(shot: &Shot, seed: u64) -> impl Iterator<Item = (String, Simulated, Crash)> {
    let cuts = CrashMode::ALL
        .into_iter()
        .map(move |mode| (format!("{mode:?}"), shot.disk.crash_image(mode, seed), Crash::Power));
    cuts.chain(std::iter::once_with(|| {
        ("restart".to_owned(), shot.disk.restarted(), Crash::Process)
    }))
}

pub fn place(shot: &Shot, image: &str, found: &str) -> String {
    format!("before step {} ({} {}), {image}: {found}", shot.step, shot.act, shot.name)
}

/// Opens an image with a crash at every step of the recovery, and checks what that leaves.
fn crash_in_recovery(
    image: &Simulated,
    model: &Model,
    crash: Crash,
    chance: &mut Chance,
) -> Result<usize, String> {
    let tap = Tap::new(image);
    let engine = deadletter::Engine::open_with(super::config(), std::sync::Arc::new(tap.clone()));
    drop(engine.map_err(|error| format!("the store does not open: {error:?}"))?);
    let shots = tap.take();
    for shot in &shots {
        let mode = CrashMode::ALL[chance.below(CrashMode::ALL.len())];
        let cut = shot.disk.crash_image(mode, chance.next());
        check(&cut, model, Crash::Power, false)
            .map_err(|found| place(shot, &format!("second {mode:?}"), &found))?;
        check(&shot.disk.restarted(), model, crash, false)
            .map_err(|found| place(shot, "second restart", &found))?;
    }
    Ok(shots.len() * 2)
}

#[test]
fn no_short_sequence_loses_anything_in_a_crash_at_any_step() {
    let states = each_sequence(3, &|sequence| {
        let mut states = 0;
        let mut chance = Chance(sequence.iter().fold(1, |seed, op| seed * 31 + *op as u64));
        for shot in shots_of_last(sequence)? {
            for (name, image, crash) in images(&shot, chance.next()) {
                let nested = chance.one_in(48).then(|| image.restarted());
                check(&image, &shot.model, crash, chance.one_in(4))
                    .map_err(|found| place(&shot, &name, &found))?;
                states += 1;
                if let Some(image) = nested {
                    states += crash_in_recovery(&image, &shot.model, crash, &mut chance)
                        .map_err(|found| place(&shot, &name, &found))?;
                }
            }
        }
        Ok(states)
    });
    assert!(states > 50_000, "only {states} states were explored");
    println!("{states} states");
}

/// Of every step of a rewrite that compresses, and of the one behind it that does so again.
#[cfg(feature = "zstd")]
#[test]
fn no_rewrite_that_compresses_loses_anything_in_a_crash_at_any_step() {
    let again = [Op::Archive, Op::Compact, Op::Change, Op::Remove, Op::Archive, Op::Compact];
    for sequence in [&again[..2], &again[..]] {
        let mut chance = Chance(1);
        let shots = shots_of_last(sequence).unwrap();
        let done = &shots.last().unwrap().disk;
        assert!(crate::compress::with::compressed(done) > 8, "{sequence:?} compressed nothing");
        for shot in shots {
            for (name, image, crash) in images(&shot, chance.next()) {
                let found = check(&image, &shot.model, crash, true);
                found.map_err(|found| place(&shot, &name, &found)).unwrap();
            }
        }
    }
}

/// Runs a sequence with a fault at one step, then lets the process die; 0 when it never fired.
fn check_fault(sequence: &[Op], fault: Fault) -> Result<usize, String> {
    let disk = Simulated::new(1);
    disk.inject(fault);
    let mut run = Run::new(&disk, Model::default(), 7).faulty(true);
    run.open()?;
    for op in sequence {
        run.play(*op)?;
    }
    if disk.faults_fired() == 0 {
        return Ok(0);
    }
    run.kill();
    check(&disk.restarted(), &run.model, Crash::Process, true)
        .map_err(|found| format!("restart: {found}"))?;
    let modes = [CrashMode::Nothing, CrashMode::Subset];
    for mode in modes {
        check(&disk.crash_image(mode, fault.at), &run.model, Crash::Power, false)
            .map_err(|found| format!("{mode:?}: {found}"))?;
    }
    Ok(1 + modes.len())
}

#[test]
fn no_short_sequence_loses_anything_when_any_step_fails() {
    let states = each_sequence(2, &|sequence| {
        let disk = Simulated::new(1);
        let mut run = Run::new(&disk, Model::default(), 7);
        run.open()?;
        for op in sequence {
            run.play(*op)?;
        }
        run.kill();
        let mut states = 0;
        for at in 0..disk.operations() {
            for kind in faults_at(at) {
                states += check_fault(sequence, Fault { at, kind })
                    .map_err(|found| format!("{kind:?} at {:?}: {found}", disk.operation(at)))?;
            }
        }
        Ok(states)
    });
    assert!(states > 20_000, "only {states} states were explored");
    println!("{states} states");
}

#[test]
fn no_long_life_loses_anything_in_crashes_and_faults() {
    if let Some(seed) = std::env::var("DEADLETTER_CRASH_SEED").ok().map(|seed| seed.parse()) {
        let seed = seed.expect("DEADLETTER_CRASH_SEED is a number");
        life(seed, &|_| false).unwrap();
        return;
    }
    let wanted = std::env::var("DEADLETTER_CRASH_STATES").ok();
    let wanted = wanted.map(|text| text.parse().expect("DEADLETTER_CRASH_STATES is a number"));
    let wanted = wanted.unwrap_or(RANDOM_STATES);
    let (next, states) = (AtomicUsize::new(1), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while states.load(Ordering::Relaxed) < wanted {
                    let seed = next.fetch_add(1, Ordering::Relaxed) as u64;
                    match lives(seed, &|_| false) {
                        Ok(count) => states.fetch_add(count, Ordering::Relaxed),
                        Err(found) => {
                            states.store(wanted, Ordering::Relaxed);
                            panic!("DEADLETTER_CRASH_SEED={seed}: {found}");
                        }
                    };
                }
            });
        }
    });
    println!("{} states in {} lives", states.into_inner(), next.into_inner() - 1);
}
