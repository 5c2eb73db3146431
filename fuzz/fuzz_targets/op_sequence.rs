//! Operations, faults and crashes on a simulated disk, against the model of the crash tests: what
//! was acknowledged is there, what was refused is not.
#![no_main]

use deadletter::{CrashMode, Fault, FaultKind, Simulated};
use deadletter_fuzz::choice::Choice;
use deadletter_fuzz::crash::check::check;
use deadletter_fuzz::crash::model::{Crash, Model};
use deadletter_fuzz::crash::play::{Op, Run};
use deadletter_fuzz::crash::tap::{Shot, Tap};
use libfuzzer_sys::fuzz_target;

/// Processes in one life of a store.
const PROCESSES_MAX: usize = 4;
/// Operations of one process.
const OPS_MAX: usize = 24;
/// Crash states that are checked of each process.
const SHOTS: usize = 6;

const OPS: [Op; 20] = [
    Op::Store,
    Op::Big,
    Op::Batch,
    Op::Change,
    Op::Keyed,
    Op::Written,
    Op::Flush,
    Op::Checkpoint,
    Op::Reopen,
    Op::Rotate,
    Op::Queued,
    Op::WrittenBatch,
    Op::Spill,
    Op::Remove,
    Op::ChangeMany,
    Op::Compact,
    Op::Evict,
    Op::Compress,
    Op::Store,
    Op::Keyed,
];

const FAULTS: [FaultKind; 5] = [
    FaultKind::Eio,
    FaultKind::EioSticky,
    FaultKind::Enospc,
    FaultKind::ShortWrite,
    FaultKind::FailedSync,
];

fuzz_target!(|data: &[u8]| {
    let mut history = Vec::new();
    if let Err(found) = live(&mut Choice::new(data), &mut history) {
        panic!("{found}\nafter {}", history.join("\n  "));
    }
});

fn live(choice: &mut Choice<'_>, history: &mut Vec<String>) -> Result<(), String> {
    let mut disk = Simulated::new(choice.u64());
    let mut crashes = 0;
    let mut model = Model::default();
    for _ in 0..PROCESSES_MAX {
        let shots = play(&disk, model, choice, history)?;
        for _ in 0..1 + choice.below(SHOTS) {
            let (shot, name, image, crash) = crash_at(&shots, choice, &mut crashes);
            check(&image, &shot.model, crash, choice.one_in(4))
                .map_err(|found| format!("{}: {found}", place(shot, &name)))?;
        }
        if choice.is_empty() {
            return Ok(());
        }
        let (shot, name, image, crash) = crash_at(&shots, choice, &mut crashes);
        history.push(format!("{}: the next process", place(shot, &name)));
        (disk, model) = (image, Model::clone(&shot.model));
        model.crashed(crash);
    }
    Ok(())
}

/// One process: operations, perhaps with faults; answers with the disk before each of its steps.
fn play(
    disk: &Simulated,
    model: Model,
    choice: &mut Choice<'_>,
    history: &mut Vec<String>,
) -> Result<Vec<Shot>, String> {
    let faults = choice.below(8).saturating_sub(4);
    for _ in 0..faults {
        let fault = Fault { at: choice.below(200) as u64, kind: choice.pick(&FAULTS) };
        disk.inject(fault);
        history.push(format!("{fault:?}"));
    }
    let mut run = Run::new(disk, model, choice.u64()).faulty(faults > 0).tapped();
    run.open()?;
    for _ in 0..1 + choice.below(OPS_MAX) {
        let op = choice.pick(&OPS);
        history.push(format!("{op:?} at step {}", disk.operations()));
        run.play(op)?;
    }
    run.shoot();
    let shots = run.tap.as_ref().map(Tap::take).unwrap_or_default();
    run.kill();
    Ok(shots)
}

fn crash_at<'a>(
    shots: &'a [Shot],
    choice: &mut Choice<'_>,
    crashes: &mut u64,
) -> (&'a Shot, String, Simulated, Crash) {
    // No two crashes have the same seed: what is random behind them would come again.
    *crashes += 1;
    let seed = (choice.u64() << 8) + *crashes;
    // From the last step on, where the model knows most.
    let shot = &shots[shots.len() - 1 - choice.below(shots.len())];
    match choice.maybe(&CrashMode::ALL) {
        Some(mode) => {
            let image = shot.disk.crash_image(mode, seed);
            (shot, format!("{mode:?}"), image, Crash::Power)
        }
        None => (shot, "restart".to_owned(), shot.disk.restarted(), Crash::Process),
    }
}

fn place(shot: &Shot, name: &str) -> String {
    format!("before step {} ({} {}), {name}", shot.step, shot.act, shot.name)
}
