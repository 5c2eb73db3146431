//! The harness finds the bugs that it is there for, and nothing without them.

use deadletter::{Fault, FaultKind, Lie, Simulated};

use super::life::{Prepare, lives};

/// A planted bug must show itself within so many lives.
const LIVES: u64 = 150;

/// The first finding in a number of lives.
fn hunt(prepare: Prepare<'_>) -> Option<String> {
    (1..=LIVES).find_map(|seed| {
        lives(seed, prepare).err().map(|found| format!("DEADLETTER_CRASH_SEED={seed}: {found}"))
    })
}

fn check_lie(lie: Lie) {
    let found = hunt(&|disk| {
        disk.lie(lie);
        false
    });
    assert!(found.is_some(), "{lie:?} was not noticed");
}

/// Lets every sync at an even step fail, once the store is made.
fn fail_syncs(disk: &Simulated) {
    for at in (20..120).step_by(2) {
        disk.inject(Fault { at, kind: FaultKind::FailedSync });
    }
}

#[test]
fn an_honest_store_raises_no_alarm() {
    assert_eq!(hunt(&|_| false), None);
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
fn an_answer_before_the_sync_is_noticed() {
    check_lie(Lie::LateSync);
}

#[test]
fn a_sync_tried_again_after_it_failed_is_noticed() {
    let honest = hunt(&|disk| {
        fail_syncs(disk);
        true
    });
    assert_eq!(honest, None);
    let found = hunt(&|disk| {
        disk.lie(Lie::RetrySync);
        fail_syncs(disk);
        true
    });
    assert!(found.is_some(), "a sync that was tried again was not noticed");
}

#[cfg(feature = "planted")]
mod bugs {
    use deadletter::planted::{Bug, plant};

    use super::hunt;

    fn check(bug: Bug) {
        plant(Some(bug));
        let found = hunt(&|_| false);
        plant(None);
        assert!(found.is_some(), "{bug:?} was not noticed");
    }

    #[test]
    fn an_append_after_a_torn_tail_is_noticed() {
        check(Bug::AppendAfterTear);
    }

    #[test]
    fn a_rewritten_segment_that_is_not_synced_is_noticed() {
        check(Bug::UnsyncedRewrite);
    }

    #[cfg(feature = "zstd")]
    #[test]
    fn compressed_bodies_without_their_dictionary_are_noticed() {
        check(Bug::ForgottenDictionary);
    }

    #[test]
    fn a_state_that_compaction_forgets_is_noticed() {
        plant(Some(Bug::ForgottenChange));
        let kept = crate::compact::a_state_outlives_a_rewrite();
        plant(None);
        assert!(!kept, "a state was forgotten and nobody noticed");
    }

    #[test]
    fn a_removal_that_compaction_forgets_is_noticed() {
        plant(Some(Bug::ForgottenRemoval));
        let gone = crate::compact::a_removed_entry_stays_gone();
        plant(None);
        assert!(!gone, "an entry came back and nobody noticed");
    }
}
