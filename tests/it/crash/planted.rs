//! The harness finds the bugs that it is there for, and nothing without them.

use deadletter::{Lie, Simulated};

use super::life::lives;

/// A planted bug must show itself within so many lives.
const LIVES: u64 = 150;

/// The first finding in a number of lives.
fn hunt(prepare: &dyn Fn(&Simulated)) -> Option<String> {
    (1..=LIVES).find_map(|seed| {
        lives(seed, prepare).err().map(|found| format!("DEADLETTER_CRASH_SEED={seed}: {found}"))
    })
}

fn check_lie(lie: Lie) {
    let found = hunt(&|disk| disk.lie(lie));
    assert!(found.is_some(), "{lie:?} was not noticed");
}

#[test]
fn an_honest_store_raises_no_alarm() {
    assert_eq!(hunt(&|_| {}), None);
}

#[test]
fn a_disk_that_does_not_sync_files_is_noticed() {
    check_lie(Lie::NoFileSync);
}

#[test]
fn a_disk_that_does_not_sync_directories_is_noticed() {
    check_lie(Lie::NoDirectorySync);
}

#[test]
fn a_sync_tried_again_after_it_failed_is_noticed() {
    check_lie(Lie::RetrySync);
}

#[test]
fn an_answer_before_the_sync_is_noticed() {
    check_lie(Lie::LateSync);
}

#[cfg(feature = "planted")]
#[test]
fn an_append_after_a_torn_tail_is_noticed() {
    deadletter::planted::plant_append_after_tear(true);
    let found = hunt(&|_| {});
    deadletter::planted::plant_append_after_tear(false);
    assert!(found.is_some(), "appending after a torn tail was not noticed");
}
