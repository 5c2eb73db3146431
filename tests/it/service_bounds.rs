//! Limits as a host of the service meets them: results, events, health.

use std::sync::Arc;

use deadletter::{
    Background, Config, DlqConfig, DlqService, Engine, HealthStatus, Memory, NewFailure,
    OverflowStrategy, Reached, StoreMode, StoreOptions, SummaryStatus,
};
use serde_json::json;

use crate::service_store::{events, named};

fn service(strategy: OverflowStrategy) -> DlqService {
    let mut config: Config = crate::store::config();
    config.bounds.max_size_per_domain = Some(100);
    config.bounds.overflow_strategy = strategy;
    let engine = Engine::open_with(config, Arc::new(Memory::new(1))).unwrap();
    let mut config = DlqConfig::default();
    config.set("outbox_batch_size", "1").unwrap();
    let builder = DlqService::builder().config(config);
    builder.repository(Arc::new(engine)).background(Background::Manual).build()
}

fn failure() -> NewFailure {
    NewFailure::new("payment", "PG_TIMEOUT")
}

fn fill(service: &DlqService, count: usize) {
    (0..count).for_each(|_| assert!(service.store_failure(failure()).success));
}

#[test]
fn a_failure_over_the_limit_is_given_back() {
    let service = service(OverflowStrategy::Reject);
    fill(&service, 100);
    let events = events(&service);
    let result = service.store_failure(failure().hint("mine"));
    assert!(!result.success && result.durability == Reached::None);
    assert_eq!(result.fallback_path, None, "from a fallback file it would only come back");
    assert!(result.error.unwrap().contains("max_size_per_domain"));
    assert_eq!(result.failure.unwrap().next_action_hint, "mine");
    let options = StoreOptions::default().mode(StoreMode::Async);
    let queued = service.store_failure_with(failure(), options);
    service.step().unwrap();
    let settled = queued.receipt.unwrap().result().unwrap();
    assert!(!settled.success && settled.fallback_path.is_none(), "{settled:?}");
    let health = service.health();
    assert_eq!((health.status, health.refused), (HealthStatus::Ok, 2));
    let events = events.lock().unwrap();
    let rejected = named(&events, "DLQ_OVERFLOW_REJECTED");
    assert_eq!(rejected.len(), 2);
    assert_eq!(rejected[0]["setting"], "max_size_per_domain");
    assert_eq!((&rejected[0]["limit"], &rejected[0]["count"]), (&json!(100), &json!(100)));
    assert_eq!(named(&events, "DLQ_REFUSED").len(), 2);
}

#[test]
fn evictions_are_told() {
    let service = service(OverflowStrategy::CompressOldest);
    let events = events(&service);
    fill(&service, 90);
    service.step().unwrap();
    fill(&service, 22);
    let events = events.lock().unwrap();
    let told: Vec<_> = named(&events, "DLQ_EVICTED")
        .into_iter()
        .map(|event| (event["evicted"].as_u64().unwrap(), event["emergency"].as_bool().unwrap()))
        .collect();
    assert_eq!(told, [(11, false), (21, true)]);
    assert_eq!(named(&events, "DLQ_EVICTED")[0]["strategy"], "compress_oldest");
    let stats = service.get_stats().unwrap();
    assert_eq!(stats.counters["payment"].evicted, 32);
    let totals = service.get_summary_totals().unwrap();
    assert_eq!(totals.total_compressed_items, 32);
    let wanted = json!({
        "total_summaries": 1, "total_compressed_items": 32,
        "by_status": { "active": 1, "stale": 0, "archived": 0 },
    });
    assert_eq!(serde_json::to_value(&totals).unwrap(), wanted);
}

#[test]
fn summaries_are_found_and_age() {
    let service = service(OverflowStrategy::CompressOldest);
    fill(&service, 80);
    assert_eq!(service.evict_overflow().unwrap().evicted, 1);
    assert_eq!(service.evict_overflow().unwrap().evicted, 0);
    let found = service.get_summaries(Some("payment"), Some(SummaryStatus::Active), None).unwrap();
    let [summary] = &found[..] else { panic!("{found:?}") };
    assert_eq!(service.get_summary(&summary.id).unwrap().as_ref(), Some(summary));
    assert_eq!(service.age_summaries().unwrap().stale_count, 0);
    assert!(service.update_summary_status(&summary.id, SummaryStatus::Archived).unwrap());
    assert_eq!(service.get_summaries(None, Some(SummaryStatus::Active), None).unwrap(), []);
    assert_eq!(service.get_overflow().unwrap().active, 79);
}
