//! The weaknesses W24 to W26 of the reference, which must not come back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use deadletter::{Json, NewFailure, Outcome, Skip, Status};

use super::{Picky, each};

#[test]
fn w24_a_cut_request_spends_nothing_and_is_never_leased() {
    each(|world| {
        let cut = r#"{"_truncated":true,"original_size":5000000,"preview":"{"}"#;
        let failure = NewFailure::new("mail", "X").request(Json::object(cut).unwrap());
        let id = world.store(failure);
        let before = world.get(id);
        let ran = world.succeed();
        for _ in 0..5 {
            let stats = world.service.replay(None, None).unwrap();
            assert_eq!((stats.processed, stats.skipped, stats.remaining), (1, 1, 1));
            assert_eq!(stats.skip_reasons[&Skip::RequestDataTruncated], 1);
            assert_eq!(world.block_reasons(), ["request_data_truncated"]);
            world.advance(7200);
        }
        assert_eq!(world.get(id), before, "not even a lease is on record");
        assert_eq!(ran.count(), 0);
    });
}

#[test]
fn w25_a_missing_handler_spends_nothing() {
    each(|world| {
        let id = world.entry("mail");
        let before = world.get(id);
        for _ in 0..5 {
            let stats = world.service.replay(None, None).unwrap();
            assert_eq!((stats.processed, stats.skip_reasons[&Skip::NoHandler]), (1, 1));
            world.advance(7200);
        }
        assert_eq!(world.get(id), before);
        world.handle(|_| Outcome::success());
        assert_eq!(world.service.replay(None, None).unwrap().success, 1);
    });
}

#[test]
fn w25_a_handler_that_refuses_spends_nothing() {
    each(|world| {
        let id = world.entry("mail");
        let before = world.get(id);
        let handler = Picky { refuses: true, ..Picky::default() };
        let runs = Arc::clone(&handler.runs);
        world.register("mail", handler);
        for _ in 0..5 {
            let stats = world.service.replay(None, None).unwrap();
            assert_eq!((stats.processed, stats.skip_reasons[&Skip::HandlerRefused]), (1, 1));
        }
        assert_eq!(world.get(id), before);
        assert_eq!(runs.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn w26_replays_back_to_back_do_not_use_the_cap_up() {
    each(|world| {
        let id = world.entry("mail");
        let ran = world.fail();
        for _ in 0..100 {
            world.service.replay(None, None).unwrap();
        }
        assert_eq!(ran.count(), 1, "the delay holds the others back");
        assert_eq!(world.status(id), Status::Pending);
        assert!(world.get(id).not_before.is_some());
    });
}
