//! Storing without waiting: what the receipt says, what is refused, what failures do to the
//! queue, and what closing leaves.

use std::future::Future as _;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use deadletter::{
    Background, DlqConfig, DlqEntryResult, DlqService, NewFailure, OutboxStats, QueuedReceipt,
    Reached, StoreMode, StoreOptions,
};
use proptest::prelude::*;
use serde_json::json;

use crate::faulty::Faulty;
use crate::service_store::{events, in_time, named};

/// Longer than anything takes that is not stuck.
const LIMIT: Duration = Duration::from_mins(1);

fn failure(number: u64) -> NewFailure {
    NewFailure::new("payment", "QUEUED").key(format!("k{number}"))
}

pub fn service(
    repository: &Arc<Faulty>,
    background: Background,
    settings: &[(&str, &str)],
) -> DlqService {
    let mut config = DlqConfig::default();
    settings.iter().for_each(|(name, value)| config.set(name, value).unwrap());
    let builder = DlqService::builder().config(config).repository(repository.clone());
    builder.background(background).build()
}

fn manual(repository: &Arc<Faulty>, settings: &[(&str, &str)]) -> DlqService {
    service(repository, Background::Manual, settings)
}

pub fn queue(service: &DlqService, failure: NewFailure) -> DlqEntryResult {
    service.store_failure_with(failure, StoreOptions::default().mode(StoreMode::Async))
}

fn receipt(service: &DlqService, number: u64) -> QueuedReceipt {
    let result = queue(service, failure(number));
    assert!(result.success && result.durability == Reached::Queued, "{result:?}");
    result.receipt.unwrap()
}

/// The law of the outbox.
pub fn check(stats: &OutboxStats) {
    let settled = stats.entries_written + stats.entries_spilled + stats.entries_failed;
    assert_eq!(stats.total_enqueued, settled + stats.size + stats.in_flight, "{stats:?}");
    assert!(stats.duplicates <= stats.entries_written, "{stats:?}");
}

#[test]
fn a_queued_failure_has_a_receipt_and_becomes_an_entry() {
    let repository = Faulty::new();
    let service = manual(&repository, &[("outbox_enabled", "true")]);
    let result = service.store_failure(failure(1));
    assert_eq!(
        serde_json::to_value(&result).unwrap(),
        json!({
            "success": true, "dlq_id": null, "key": "k1", "error": null, "fallback_path": null,
            "durability": "queued", "duplicate": false,
        })
    );
    let receipt = result.receipt.unwrap();
    service.step().unwrap();
    assert!(receipt.result().is_none(), "it waits for more of its kind");
    assert_eq!((service.outbox_stats().size, repository.count()), (1, 0));
    repository.env.advance(Duration::from_millis(100));
    assert_eq!(service.outbox_stats().oldest_age_ms, 100);
    service.step().unwrap();
    let result = receipt.wait_timeout(Duration::ZERO).unwrap();
    assert!(result.success && result.dlq_id.is_some());
    assert_eq!(result.durability, Reached::Synced);
    check(&service.outbox_stats());
}

/// What a listener may do while the host's own thread writes.
fn check_listener(work: impl Fn(&DlqService) + Send + Sync + 'static) {
    let repository = Faulty::new();
    let service = manual(&repository, &[("outbox_batch_size", "2")]);
    let inside = service.clone();
    service.on_event(move |_| work(&inside));
    let receipts: Vec<_> = (0..4).map(|number| receipt(&service, number)).collect();
    let asked = service.clone();
    in_time(move || asked.step()).unwrap();
    let asked = service.clone();
    in_time(move || asked.close()).unwrap();
    assert!(receipts.iter().all(|receipt| receipt.result().is_some()), "{receipts:?}");
    let stats = service.outbox_stats();
    check(&stats);
    assert_eq!((stats.entries_written, repository.files()), (4, 0), "{stats:?}");
}

#[test]
fn a_listener_may_step() {
    check_listener(|service| {
        let _ = service.step();
    });
}

#[test]
fn a_listener_may_flush() {
    check_listener(|service| {
        service.flush_and_wait(LIMIT);
    });
}

#[test]
fn a_listener_may_close() {
    check_listener(|service| service.close().unwrap());
}

#[test]
fn a_listener_may_flush_while_the_store_is_sick() {
    let repository = Faulty::new();
    let service = manual(&repository, &[("outbox_batch_size", "2")]);
    let inside = service.clone();
    service.on_event(move |_| {
        inside.flush_and_wait(Duration::ZERO);
    });
    repository.fail_stores(true);
    let receipts: Vec<_> = (0..4).map(|number| receipt(&service, number)).collect();
    let asked = service.clone();
    in_time(move || asked.step()).unwrap();
    repository.fail_stores(false);
    let asked = service.clone();
    in_time(move || asked.flush_and_wait(LIMIT));
    assert!(receipts.iter().all(|receipt| receipt.result().is_some()), "{receipts:?}");
    check(&service.outbox_stats());
}

#[test]
fn a_full_batch_is_written_at_once_with_one_call() {
    let repository = Faulty::new();
    let service = manual(&repository, &[("outbox_batch_size", "5")]);
    let receipts: Vec<_> = (0..5).map(|number| receipt(&service, number)).collect();
    service.step().unwrap();
    assert!(receipts.iter().all(|receipt| receipt.result().unwrap().success));
    assert_eq!(repository.calls.load(Ordering::SeqCst), 1);
}

#[test]
fn the_thread_writes_by_itself() {
    let repository = Faulty::new();
    let settings = [("outbox_flush_interval_seconds", "0.01"), ("outbox_batch_size", "1")];
    let service = service(&repository, Background::Threads, &settings);
    let receipts: Vec<_> = (0..100).map(|number| receipt(&service, number)).collect();
    for receipt in receipts {
        check(&service.outbox_stats());
        assert!(receipt.wait_timeout(LIMIT).unwrap().success);
    }
    assert_eq!(repository.count(), 100);
    assert!(service.outbox_stats().worker_alive);
    service.close().unwrap();
    assert!(!service.outbox_stats().worker_alive);
}

#[derive(Default)]
struct Woken(AtomicU32);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_receipt_can_be_awaited() {
    let repository = Faulty::new();
    let service = manual(&repository, &[]);
    let mut receipt = pin!(receipt(&service, 1));
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut context = Context::from_waker(&waker);
    assert!(receipt.as_mut().poll(&mut context).is_pending());
    assert!(receipt.as_mut().poll(&mut context).is_pending());
    assert_eq!(service.flush_and_wait(LIMIT), 1);
    assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    let Poll::Ready(result) = receipt.as_mut().poll(&mut context) else { panic!("not ready") };
    assert!(result.success);
}

#[test]
fn a_bad_failure_does_not_refuse_the_others() {
    let repository = Faulty::new();
    let service = manual(&repository, &[]);
    *repository.refused_type.lock().unwrap() = Some("BAD".to_owned());
    *repository.panic_type.lock().unwrap() = Some("PANIC".to_owned());
    let first = receipt(&service, 1);
    let bad = queue(&service, NewFailure::new("payment", "BAD").user(7)).receipt.unwrap();
    let panic = queue(&service, NewFailure::new("payment", "PANIC").user(8)).receipt.unwrap();
    let last = receipt(&service, 1);
    assert_eq!(service.flush_and_wait(LIMIT), 4);
    assert!(first.result().unwrap().success);
    assert!(last.result().unwrap().duplicate);
    for (receipt, user) in [(bad, 7), (panic, 8)] {
        let result = receipt.result().unwrap();
        assert!(!result.success && result.durability == Reached::None);
        assert_eq!(result.failure.unwrap().user_id, Some(user));
    }
    let stats = service.outbox_stats();
    check(&stats);
    assert_eq!((stats.entries_written, stats.entries_failed, stats.duplicates), (2, 2, 1));
}

#[test]
fn a_full_outbox_refuses_and_tells_once_until_it_is_better() {
    let repository = Faulty::new();
    let settings = [("outbox_capacity", "100"), ("outbox_drop_rate_threshold", "0.1")];
    let service = manual(&repository, &settings);
    let events = events(&service);
    let told = || named(&events.lock().unwrap(), "DLQ_OUTBOX_DROP_THRESHOLD_BREACHED").len();
    let fill = |from: u64| {
        (from..from + 100).for_each(|number| drop(receipt(&service, number)));
        let refused = queue(&service, failure(9999));
        assert!(!refused.success && refused.receipt.is_none());
        assert_eq!(*refused.failure.unwrap().key.as_ref().unwrap(), "k9999");
        assert!(refused.error.unwrap().contains("100 failures wait in the outbox"));
    };
    fill(0);
    assert_eq!(told(), 0);
    (0..20).for_each(|_| drop(queue(&service, failure(9999))));
    assert_eq!(told(), 1);
    let stats = service.outbox_stats();
    assert_eq!((stats.total_refused, stats.total_enqueued, stats.size), (21, 100, 100));
    // Others come through, so that the share falls below the threshold.
    for round in 1..=2 {
        service.flush_and_wait(LIMIT);
        fill(round * 100);
    }
    assert!(service.outbox_stats().drop_rate < 0.1);
    assert_eq!(told(), 1);
    (0..20).for_each(|_| drop(queue(&service, failure(9999))));
    assert_eq!(told(), 2);
    // A larger one takes more at once.
    let mut config = DlqConfig::clone(&service.config());
    config.outbox_capacity = 101;
    service.set_config(config).unwrap();
    assert!(queue(&service, failure(9999)).success);
    check(&service.outbox_stats());
}

#[test]
fn a_store_that_is_away_is_tried_again_later_and_later() {
    let repository = Faulty::new();
    let service = manual(&repository, &[]);
    repository.fail_stores(true);
    let receipt = receipt(&service, 1);
    repository.env.advance(Duration::from_millis(100));
    let calls = || repository.calls.load(Ordering::SeqCst);
    for wanted in 1..=3 {
        service.step().unwrap();
        assert_eq!(calls(), wanted);
    }
    service.step().unwrap();
    assert_eq!(calls(), 3, "a pause of 100 ms");
    repository.env.advance(Duration::from_millis(100));
    service.step().unwrap();
    repository.env.advance(Duration::from_millis(199));
    service.step().unwrap();
    assert_eq!(calls(), 4);
    assert_eq!(service.outbox_stats().consecutive_failures, 4);
    repository.fail_stores(false);
    repository.env.advance(Duration::from_millis(1));
    service.step().unwrap();
    assert!(receipt.result().unwrap().success);
    assert_eq!((service.outbox_stats().consecutive_failures, repository.files()), (0, 0));
}

#[test]
fn what_waited_too_long_is_spilled_and_what_cannot_be_waits_on() {
    let repository = Faulty::new();
    let service = manual(&repository, &[]);
    repository.fail_stores(true);
    repository.fail_spills(true);
    let (first, second) = (receipt(&service, 1), receipt(&service, 2));
    assert_eq!(service.flush_and_wait(Duration::from_secs(30)), 0);
    let stats = service.outbox_stats();
    assert!(stats.size == 2 && stats.consecutive_failures >= 10, "{stats:?}");
    check(&stats);
    repository.fail_spills(false);
    assert_eq!(service.flush_and_wait(Duration::from_secs(30)), 2);
    for receipt in [first, second] {
        let result = receipt.result().unwrap();
        assert!(!result.success && result.durability == Reached::Spilled, "{result:?}");
        assert!(result.error.unwrap().contains("the disk is gone"));
    }
    assert_eq!((service.outbox_stats().entries_spilled, repository.files()), (2, 2));
    // The next one is tried, and is safe at once.
    let third = receipt(&service, 3);
    service.flush_and_wait(Duration::ZERO);
    assert!(third.result().unwrap().is_fallback());
}

#[test]
fn closing_writes_what_waits() {
    for background in [Background::Manual, Background::Threads] {
        let repository = Faulty::new();
        let service = service(&repository, background, &[("outbox_flush_interval_seconds", "60")]);
        let receipts: Vec<_> = (0..120).map(|number| receipt(&service, number)).collect();
        service.close().unwrap();
        assert!(receipts.iter().all(|receipt| receipt.result().unwrap().success));
        check(&service.outbox_stats());
        assert!(queue(&service, failure(1)).failure.is_some());
    }
}

#[test]
fn closing_spills_what_cannot_be_written_and_gives_back_the_rest() {
    for background in [Background::Manual, Background::Threads] {
        let repository = Faulty::new();
        let service = service(&repository, background, &[("outbox_flush_interval_seconds", "60")]);
        repository.fail_stores(true);
        let receipts: Vec<_> = (0..120).map(|number| receipt(&service, number)).collect();
        service.close().unwrap();
        assert!(receipts.iter().all(|receipt| receipt.result().unwrap().is_fallback()));
        assert_eq!(repository.files(), 120);
        check(&service.outbox_stats());
    }
    let repository = Faulty::new();
    let service = manual(&repository, &[]);
    repository.fail_stores(true);
    repository.fail_spills(true);
    let receipt = receipt(&service, 1);
    service.close().unwrap();
    assert_eq!(receipt.result().unwrap().failure.unwrap().key.as_deref(), Some("k1"));
    assert_eq!(service.outbox_stats().entries_failed, 1);
}

#[test]
fn dropping_the_last_handle_writes_what_waits() {
    let repository = Faulty::new();
    let service = service(&repository, Background::Threads, &[]);
    let receipt = receipt(&service, 1);
    drop(service);
    assert!(receipt.result().unwrap().success);
    assert_eq!(repository.count(), 1);
}

#[test]
fn closing_does_not_wait_for_a_disk_that_hangs() {
    let repository = Faulty::new();
    let settings = [("outbox_join_timeout_seconds", "0.1"), ("outbox_batch_size", "1")];
    let service = service(&repository, Background::Threads, &settings);
    let hangs = repository.gate.lock().unwrap();
    let stuck = receipt(&service, 1);
    wait_until(|| service.outbox_stats().in_flight == 1);
    let waits = receipt(&service, 2);
    service.close().unwrap();
    assert!(waits.result().unwrap().is_fallback());
    assert!(stuck.result().is_none());
    check(&service.outbox_stats());
    drop(hangs);
    // The repository was closed meanwhile, so that the last word is the fallback's.
    assert!(stuck.wait_timeout(LIMIT).unwrap().is_fallback());
    wait_until(|| service.outbox_stats().in_flight == 0);
    check(&service.outbox_stats());
    assert_eq!((repository.files(), service.outbox_stats().entries_spilled), (2, 2));
}

/// Waits for another thread; gives up after so many looks that it will never come.
fn wait_until(condition: impl Fn() -> bool) {
    for _ in 0..10_000_000_u64 {
        if condition() {
            return;
        }
        std::thread::yield_now();
    }
    panic!("it never came");
}

struct Panics(AtomicBool);

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
        panic!("as it was told");
    }
}

#[test]
fn a_dead_thread_is_noticed_and_started_again() {
    let repository = Faulty::new();
    let service = service(&repository, Background::Threads, &[("outbox_batch_size", "1")]);
    let hangs = repository.gate.lock().unwrap();
    let mut first = pin!(receipt(&service, 1));
    let waker = Waker::from(Arc::new(Panics(AtomicBool::default())));
    assert!(first.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    drop(hangs);
    wait_until(|| !service.outbox_stats().worker_alive);
    assert!(first.result().unwrap().success);
    let coerced = queue(&service, failure(2));
    assert!(coerced.dlq_id.is_some() && coerced.receipt.is_none(), "{coerced:?}");
    let stats = service.outbox_stats();
    assert!(stats.worker_alive && stats.worker_dead_coercions == 1, "{stats:?}");
    assert!(receipt(&service, 3).wait_timeout(LIMIT).unwrap().success);
    assert_eq!(repository.count(), 3);
    check(&service.outbox_stats());
}

#[test]
fn a_caller_hears_of_its_queued_failures_while_it_is_there() {
    let repository = Faulty::new();
    let service = manual(&repository, &[]);
    let events = events(&service);
    let caller = service.caller_context("alice");
    let options = StoreOptions::default().mode(StoreMode::Async).caller(&caller);
    service.store_failure_with(failure(1), options);
    service.flush_and_wait(LIMIT);
    assert!(events.lock().unwrap().is_empty());
    service.store_failure_with(failure(2), options);
    drop(caller);
    assert_eq!(events.lock().unwrap().len(), 1);
    service.flush_and_wait(LIMIT);
    let events = events.lock().unwrap();
    assert_eq!(events.len(), 2);
    assert!(events.iter().all(|event| event["actor"] == "alice"));
}

#[derive(Debug, Clone)]
enum Step {
    Queue(u64),
    Bad,
    Advance(u64),
    Turn,
    Flush(u64),
    FailStores(bool),
    FailSpills(bool),
    Capacity(u32),
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        30 => (0_u64..200).prop_map(Step::Queue),
        3 => Just(Step::Bad),
        10 => (0_u64..15_000).prop_map(Step::Advance),
        15 => Just(Step::Turn),
        3 => (0_u64..20_000).prop_map(Step::Flush),
        4 => any::<bool>().prop_map(Step::FailStores),
        4 => any::<bool>().prop_map(Step::FailSpills),
        2 => (100_u32..103).prop_map(Step::Capacity),
        1 => Just(Step::Close),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever happens, everything is accounted for, and every receipt says what is true.
    #[test]
    fn nothing_is_ever_unaccounted_for(steps in prop::collection::vec(step(), 1..200)) {
        let repository = Faulty::new();
        *repository.refused_type.lock().unwrap() = Some("BAD".to_owned());
        let service = manual(&repository, &[("outbox_batch_size", "7")]);
        let mut receipts = Vec::new();
        for step in steps {
            match step {
                Step::Queue(number) => receipts.extend(queue(&service, failure(number)).receipt),
                Step::Bad => {
                    receipts.extend(queue(&service, NewFailure::new("payment", "BAD")).receipt);
                }
                Step::Advance(millis) => repository.env.advance(Duration::from_millis(millis)),
                Step::Turn => drop(service.step()),
                Step::Flush(millis) => drop(service.flush_and_wait(Duration::from_millis(millis))),
                Step::FailStores(fail) => repository.fail_stores(fail),
                Step::FailSpills(fail) => repository.fail_spills(fail),
                Step::Capacity(capacity) => {
                    let mut config = DlqConfig::clone(&service.config());
                    config.outbox_capacity = capacity;
                    service.set_config(config).unwrap();
                }
                Step::Close => service.close().unwrap(),
            }
            check(&service.outbox_stats());
        }
        service.close().unwrap();
        let stats = service.outbox_stats();
        check(&stats);
        prop_assert_eq!((stats.size, stats.in_flight), (0, 0));
        prop_assert_eq!(stats.total_enqueued, receipts.len() as u64);
        let results: Vec<_> = receipts.iter().map(|receipt| receipt.result().unwrap()).collect();
        let count = |what: &dyn Fn(&DlqEntryResult) -> bool| {
            results.iter().filter(|result| what(result)).count() as u64
        };
        prop_assert_eq!(count(&|result| result.success), stats.entries_written);
        prop_assert_eq!(count(&DlqEntryResult::is_fallback), stats.entries_spilled);
        prop_assert_eq!(count(&|result| result.failure.is_some()), stats.entries_failed);
        prop_assert_eq!(repository.files() as u64, stats.entries_spilled);
    }
}
