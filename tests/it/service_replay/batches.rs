//! Batches: which entries, in which order, how many, and what is left.

use std::sync::Arc;

use deadletter::{
    Config, DamageKind, DlqBatchReplayStats, EarlyStop, EntryId, Error, Memory, MemoryRepository,
    NewFailure, Outcome, Priority, Skip, Status,
};

use super::faulty::{Faulty, poisoned};
use super::{World, each, each_with, options};

#[test]
fn the_oldest_go_first_and_no_more_than_asked_for() {
    each(|world| {
        let ids = world.entries("mail", 7);
        let ran = world.succeed();
        let stats = world.service.replay(None, Some(3)).unwrap();
        assert_eq!((stats.success, stats.remaining), (3, 4));
        assert_eq!(ran.ids(), ids[..3]);
        assert_eq!(world.service.replay(None, Some(0)).unwrap().processed, 0);
        assert_eq!(world.service.replay(None, Some(100)).unwrap().success, 4);
        assert_eq!(ran.ids(), ids);
    });
}

#[test]
fn a_batch_without_a_size_takes_the_default() {
    each_with(
        |config| config.replay_track2_max_items = 4,
        |world| {
            world.entries("mail", 6);
            world.succeed();
            assert_eq!(world.service.replay(None, None).unwrap().success, 4);
        },
    );
}

#[test]
fn domain_and_failure_type_choose() {
    each(|world| {
        let mail = world.entry("mail");
        let other = world.store(NewFailure::new("mail", "REFUSED"));
        let stock = world.entry("stock");
        let ran = world.succeed();
        let refused = options(|options| {
            options.domain = Some("Mail".to_owned());
            options.failure_type = Some("REFUSED".to_owned());
        });
        assert_eq!(world.service.replay_with(&refused).unwrap().success, 1);
        assert_eq!(world.service.replay(Some("mail"), None).unwrap().success, 1);
        assert_eq!(world.service.replay(Some("nobody"), None).unwrap().processed, 0);
        assert_eq!(ran.ids(), [other, mail]);
        assert_eq!(world.status(stock), Status::Pending);
    });
}

#[test]
fn more_than_a_batch_runs_when_asked_for_and_each_entry_once() {
    each_with(
        |config| config.retry_delay = 0,
        |world| {
            let ids = world.entries("mail", 25);
            let ran = world.fail();
            let all = options(|options| {
                options.batch_size = Some(10);
                options.max = Some(u64::MAX);
            });
            let stats = world.service.replay_with(&all).unwrap();
            assert_eq!((stats.failed, stats.remaining), (25, 25), "due again at once");
            assert_eq!(ran.ids(), ids);
        },
    );
}

#[test]
fn a_walk_begins_behind_an_entry() {
    each(|world| {
        let ids = world.entries("mail", 5);
        let ran = world.succeed();
        let behind = options(|options| options.after = Some(ids[2]));
        assert_eq!(world.service.replay_with(&behind).unwrap().success, 2);
        assert_eq!(ran.ids(), ids[3..]);
    });
}

#[test]
fn entries_that_may_not_run_do_not_hold_up_those_behind_them() {
    each(|world| {
        world.entries("nobody", 30);
        let ids = world.entries("mail", 3);
        world.register("mail", super::Picky::default());
        let stats = world.service.replay(None, Some(2)).unwrap();
        assert_eq!((stats.success, stats.skipped), (2, 30));
        assert_eq!(world.status(ids[2]), Status::Pending);
    });
}

#[test]
fn a_walk_that_met_too_many_goes_on_with_the_next_call() {
    each(|world| {
        let ids = world.entries("nobody", 130);
        world.entries("mail", 2);
        world.register("mail", super::Picky::default());
        // Twenty looks for each entry that may run.
        let stats = world.service.replay(None, Some(3)).unwrap();
        assert_eq!((stats.success, stats.skipped), (0, 60));
        assert_eq!(stats.resume_after, Some(ids[59]));
        let stats = world.service.replay(None, Some(3)).unwrap();
        assert_eq!((stats.success, stats.skipped), (0, 60));
        let stats = world.service.replay(None, Some(3)).unwrap();
        assert_eq!((stats.success, stats.skipped, stats.resume_after), (2, 10, None));
        let stats = world.service.replay(None, Some(3)).unwrap();
        assert_eq!((stats.skipped, stats.resume_after), (60, Some(ids[59])), "from the oldest");
    });
}

#[test]
fn messages_are_bounded_and_counted() {
    each(|world| {
        world.entries("mail", 250);
        world.fail();
        let stats = world.service.replay(None, Some(250)).unwrap();
        assert_eq!(stats.errors.len(), 101);
        assert_eq!(stats.errors[100], "150 more");
    });
}

#[test]
fn a_result_tells_when_the_next_entry_is_due() {
    each(|world| {
        world.entry("mail");
        world.handle(|_| Outcome::throttled(Some(std::time::Duration::from_secs(100))));
        let due = world.service.replay(None, None).unwrap().next_due.unwrap();
        assert_eq!(due.0, world.repository.now().0 + 100_000);
        world.entry("mail");
        world.advance(50);
        let stats = world.service.replay(None, None).unwrap();
        assert_eq!((stats.throttled, stats.next_due), (1, Some(due)), "the earlier one");
        world.advance(7200);
        world.succeed();
        assert_eq!(world.service.replay(None, None).unwrap().next_due, None);
    });
}

#[test]
fn critical_domains_go_first_and_low_ones_last() {
    let priorities = [("bulk", Priority::Low), ("cash", Priority::Critical)];
    each_with(
        |config| {
            config.replay_priority_enabled = true;
            for (domain, priority) in priorities {
                config.replay_domain_priorities.insert(domain.to_owned(), priority);
            }
        },
        |world| {
            let domains = ["bulk", "mail", "cash", "bulk", "stock", "cash", "mail"];
            let ids: Vec<EntryId> = domains.iter().map(|domain| world.entry(domain)).collect();
            let ran = world.succeed();
            let order = |places: &[usize]| places.iter().map(|p| ids[*p]).collect::<Vec<_>>();
            let stats = world.service.replay(None, Some(4)).unwrap();
            assert_eq!(stats.success, 4);
            assert_eq!(ran.ids(), order(&[2, 5, 1, 4]));
            assert_eq!(world.service.replay(Some("bulk"), Some(1)).unwrap().success, 1);
            assert_eq!(world.service.replay(None, None).unwrap().success, 2);
            assert_eq!(ran.ids(), order(&[2, 5, 1, 4, 0, 6, 3]));
        },
    );
}

#[test]
fn an_adaptive_batch_shrinks_with_failures_and_grows_without() {
    each_with(
        |config| {
            config.replay_adaptive_enabled = true;
            config.retry_delay = 1;
        },
        |world| {
            world.entries("mail", 400);
            world.fail();
            let attempted = |world: &World| {
                let stats = world.service.replay(None, None).unwrap();
                stats.success + stats.failed
            };
            assert_eq!([attempted(world), attempted(world)], [50, 40]);
            world.succeed();
            let sizes: Vec<u64> = (0..4).map(|_| attempted(world)).collect();
            assert_eq!(sizes, [32, 32, 32, 37]);
            let stats = world.service.replay(None, Some(5)).unwrap();
            assert_eq!(stats.success, 5, "who names a size gets it");
        },
    );
}

/// Replays four good entries over a repository that fails; what was told, and where they stand.
fn check_fault(
    fault: impl Fn(u64) -> Option<Error> + Send + 'static,
) -> (World, DlqBatchReplayStats, Vec<Status>) {
    let clock = Memory::new(7);
    let inner = MemoryRepository::with(Config::new("memory"), Arc::new(clock.clone()));
    let faulty = Arc::new(Faulty::new(inner));
    let world = World::over(&clock, faulty.clone(), |_| {});
    let ids = world.entries("mail", 4);
    world.succeed();
    faulty.fault(fault);
    let stats = world.service.replay(None, None).unwrap();
    faulty.fault(|_| None);
    assert_eq!(stats.processed, stats.success + stats.skipped, "{stats:?}");
    assert_eq!(stats.errors.len(), 1, "{stats:?}");
    let statuses = ids.iter().map(|id| world.status(*id)).collect();
    (world, stats, statuses)
}

#[test]
fn an_outcome_that_cannot_be_written_ends_the_batch() {
    use Status::{Pending, Replaying, Resolved};
    // The leases, the first start, the first completion with the second start.
    let (_, stats, statuses) = check_fault(|number| (number >= 3).then(poisoned));
    assert_eq!(stats.early_stop_reason, Some(EarlyStop::Failed));
    assert_eq!((stats.success, stats.skip_reasons[&Skip::NotWritten]), (0, 1));
    assert!(stats.errors[0].contains("the disk is gone"), "{:?}", stats.errors);
    assert_eq!(statuses, [Replaying; 4], "nothing could be written");

    // The first completion can be written alone; then the batch ends all the same.
    let (world, stats, statuses) = check_fault(|number| (number == 3).then(poisoned));
    assert_eq!((stats.success, stats.skipped), (1, 0));
    assert_eq!(stats.early_stop_reason, Some(EarlyStop::Failed));
    assert_eq!(statuses, [Resolved, Pending, Pending, Pending], "the others are given back");
    world.check_settled();
    assert_eq!(world.service.replay(None, None).unwrap().success, 3);
}

#[test]
fn a_damaged_entry_stops_nobody_else() {
    use Status::{Replaying, Resolved};
    let damaged = |number: u64| {
        (number == 3).then(|| {
            Error::Damaged(Box::new(deadletter::Damage {
                segment: "0".to_owned(),
                offset: 0,
                bytes: 1,
                kind: DamageKind::Record,
                lsn_from: None,
                lsn_to: None,
                entries: None,
            }))
        })
    };
    let (_, stats, statuses) = check_fault(damaged);
    assert_eq!((stats.success, stats.skip_reasons[&Skip::NotWritten]), (3, 1));
    assert_eq!(stats.early_stop_reason, None);
    assert_eq!(statuses, [Resolved, Replaying, Resolved, Resolved]);
}

#[test]
fn a_closed_repository_is_an_error() {
    each(|world| {
        world.repository.close().unwrap();
        assert!(world.service.replay(None, None).is_err());
    });
}
