//! The sweep after a service came back, and the release of leases that ended.

use std::time::Duration;

use deadletter::{Cause, DlqConfig, DlqEvent, DlqRecoveryResult, NewFailure, Outcome, Status};

use super::{World, each, each_with, json};

fn map(config: &mut DlqConfig) {
    let types = ["TIMEOUT", "REFUSED", "TIMEOUT", "RESET"].map(str::to_owned).to_vec();
    config.replay_service_failure_type_map.insert("gateway".to_owned(), types);
}

fn sweep(world: &World, max_items: Option<u32>) -> DlqRecoveryResult {
    let result = world.service.replay_on_recovery("gateway", max_items).unwrap();
    world.check_settled();
    result
}

fn store(world: &World, failure_type: &str, count: usize) {
    for _ in 0..count {
        world.store(NewFailure::new("mail", failure_type));
    }
}

#[test]
fn a_service_without_failure_types_is_not_swept() {
    each(|world| {
        world.entry("mail");
        let ran = world.succeed();
        let result = sweep(world, None);
        let reason = "service_failure_type_map_unconfigured";
        assert_eq!(result.block_reason.as_deref(), Some(reason));
        assert_eq!((result.stats.processed, ran.count()), (0, 0));
        assert_eq!(world.block_reasons(), [reason]);
    });
}

#[test]
fn a_large_sweep_hands_over_all_that_failed() {
    each_with(map, |world| {
        store(world, "TIMEOUT", 130);
        world.fail();
        let result = sweep(world, Some(1000));
        assert_eq!((result.stats.failed, result.escalated), (130, 130));
        let waiting = world.repository.count_by_domain("mail").unwrap();
        let review = world.repository.find_by_status(Status::RequiresReview, None, None, 200);
        assert_eq!((waiting, review.unwrap().len()), (130, 130));
    });
}

#[test]
fn a_sweep_takes_only_what_the_service_cures() {
    each_with(map, |world| {
        store(world, "TIMEOUT", 3);
        store(world, "CHECKSUM", 2);
        store(world, "RESET", 1);
        world.succeed();
        let result = sweep(world, None);
        assert_eq!((result.stats.success, result.escalated), (4, 0));
        let rows = world.repository.tallies().unwrap();
        let started = rows.iter().filter_map(|row| row.counts.get(&Cause::StartedConditional));
        assert_eq!(started.sum::<u64>(), 4);
        let events = world.take_events();
        let batch = json(events.last().unwrap());
        assert_eq!(batch["event"], "DLQ_REPLAY_BATCH_COMPLETED");
        assert_eq!(
            (&batch["trigger"], &batch["service_name"]),
            (&"circuit_close".into(), &"gateway".into())
        );
    });
}

#[test]
fn the_failure_types_share_a_sweep_fairly() {
    each_with(map, |world| {
        for failure_type in ["TIMEOUT", "REFUSED", "RESET"] {
            store(world, failure_type, 10);
        }
        world.succeed();
        assert_eq!(sweep(world, Some(8)).stats.success, 8);
        let left = |failure_type| {
            let pending = world.repository.find_replayable(None, Some(failure_type), 100);
            pending.unwrap().len()
        };
        assert_eq!([left("TIMEOUT"), left("REFUSED"), left("RESET")], [7, 7, 8]);
        world.advance(301);
        assert_eq!(sweep(world, Some(2)).stats.success, 2);
        assert_eq!([left("TIMEOUT"), left("REFUSED"), left("RESET")], [6, 6, 8]);
        world.advance(301);
        assert_eq!(sweep(world, Some(0)).stats.processed, 0);
    });
}

#[test]
fn what_fails_again_goes_to_a_person() {
    each_with(map, |world| {
        let id = world.store(NewFailure::new("mail", "TIMEOUT").max_retries(5));
        let other = world.store(NewFailure::new("stock", "TIMEOUT").max_retries(5));
        world.handle(|attempt| match &*attempt.entry().operation.domain {
            "mail" => Outcome::failure("still no route"),
            _ => Outcome::throttled(None),
        });
        let result = sweep(world, None);
        assert_eq!((result.stats.failed, result.stats.throttled, result.escalated), (1, 1, 1));
        let operation = world.get(id).operation;
        assert_eq!(operation.status, Status::RequiresReview);
        assert_eq!(operation.recommended_action, "escalate");
        assert_eq!(operation.resolution_note, "failed after gateway came back: still no route");
        assert_eq!(world.status(other), Status::Pending, "told to come back is not a failure");
        let rows = world.repository.tallies().unwrap();
        let escalated = rows.iter().filter_map(|row| row.counts.get(&Cause::Escalated));
        assert_eq!(escalated.sum::<u64>(), 1);
    });
}

#[test]
fn a_second_sweep_of_a_service_is_turned_away_for_a_while() {
    each_with(
        |config| {
            map(config);
            let types = vec!["TIMEOUT".to_owned()];
            config.replay_service_failure_type_map.insert("other".to_owned(), types);
        },
        |world| {
            world.succeed();
            store(world, "TIMEOUT", 1);
            assert_eq!(sweep(world, None).stats.success, 1);
            store(world, "TIMEOUT", 1);
            world.take_events();
            world.advance(299);
            let result = sweep(world, None);
            assert_eq!(result.block_reason.as_deref(), Some("circuit_close_inflight"));
            assert_eq!(world.block_reasons(), ["circuit_close_inflight"]);
            world.clock.set_wall_ms(0);
            assert_eq!(world.service.replay_on_recovery("other", None).unwrap().stats.success, 1);
            store(world, "TIMEOUT", 1);
            world.advance(1);
            assert_eq!(sweep(world, None).stats.success, 1);
        },
    );
}

#[test]
fn disabled_sweeps_do_nothing() {
    let changes: [fn(&mut DlqConfig); 2] =
        [|config| config.replay_track1_enabled = false, |config| config.enabled = false];
    for change in changes {
        each_with(
            |config| {
                map(config);
                change(config);
            },
            |world| {
                store(world, "TIMEOUT", 1);
                let ran = world.succeed();
                assert_eq!(sweep(world, None), DlqRecoveryResult::default());
                assert_eq!((ran.count(), world.event_names().len()), (0, 0));
            },
        );
    }
}

#[test]
fn leases_that_ended_are_released_and_told() {
    each(|world| {
        assert_eq!(world.service.release_stale(None).unwrap().total(), 0);
        assert_eq!(world.event_names(), [""; 0]);
        let ids = world.entries("mail", 2);
        let last = world.store(NewFailure::new("mail", "TIMEOUT").max_retries(1));
        let lease = Duration::from_mins(10);
        for id in ids.iter().chain([&last]) {
            world.repository.try_acquire_for_replay(*id, lease, false, None).unwrap().unwrap();
        }
        world.advance(599);
        assert_eq!(world.service.release_stale(None).unwrap().total(), 0);
        assert_eq!(world.service.release_stale(Some(lease)).unwrap().total(), 0);
        world.advance(2);
        let released = world.service.release_stale(None).unwrap();
        assert_eq!((released.pending, released.requires_review), (2, 1));
        assert_eq!(world.status(last), Status::RequiresReview);
        match &world.take_events()[..] {
            [DlqEvent::DlqMaintenance { operation, count, .. }] => {
                assert_eq!((*operation, *count), ("release_stale", 3));
            }
            other => panic!("{other:?}"),
        }
    });
}
