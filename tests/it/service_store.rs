//! Giving failures to the service: what its settings do to them, where they go when the store
//! cannot take them, and what the caller hears.

use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use deadletter::{
    Background, DlqConfig, DlqError, DlqEvent, DlqService, Durability, EntryId, Env, Error,
    FailedOperationRepository, Fault, FaultKind, HealthStatus, Json, Memory, MemoryRepository,
    NewFailure, Reached, ResolveRequest, Simulated, Status, StoreMode, StoreOptions, TestEntry,
    Timestamp,
};
use serde_json::{Value, json};

use crate::faulty::{self, Faulty};

const HOUR_MS: u64 = 3_600_000;

fn failure() -> NewFailure {
    NewFailure::new("payment", "PG_TIMEOUT")
}

fn config(settings: &[(&str, &str)]) -> DlqConfig {
    let mut config = DlqConfig::default();
    settings.iter().for_each(|(name, value)| config.set(name, value).unwrap());
    config
}

fn service_over(repository: &Arc<Faulty>, settings: &[(&str, &str)]) -> DlqService {
    DlqService::new(Some(config(settings)), Some(repository.clone()))
}

/// Does something that must not wait for itself.
pub fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, waits) = mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    waits.recv_timeout(Duration::from_secs(20)).expect("it waits for itself")
}

/// The events from now on, as JSON.
pub fn events(service: &DlqService) -> Arc<Mutex<Vec<Value>>> {
    let events = Arc::new(Mutex::new(Vec::new()));
    let list = Arc::clone(&events);
    service
        .on_event(move |record| list.lock().unwrap().push(serde_json::to_value(record).unwrap()));
    events
}

pub fn named<'a>(events: &'a [Value], name: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["event"] == name).collect()
}

#[test]
fn a_stored_failure_is_an_entry() {
    let repository = Faulty::new();
    let service = service_over(&repository, &[]);
    let events = events(&service);
    let result = service.store_failure(failure().key("k"));
    assert_eq!(
        serde_json::to_value(&result).unwrap(),
        json!({
            "success": true, "dlq_id": "1", "key": "k", "error": null, "fallback_path": null,
            "durability": "synced", "duplicate": false,
        })
    );
    let again = service.store_failure(failure().key("k"));
    assert!(again.success && again.duplicate && again.dlq_id == result.dlq_id);
    assert_eq!(repository.count(), 1);
    let events = events.lock().unwrap();
    let stored = named(&events, "DLQ_STORED");
    assert_eq!(stored.len(), 2);
    assert_eq!((&stored[0]["dlq_id"], &stored[0]["domain"]), (&json!("1"), &json!("payment")));
    assert_eq!(service.health().status, HealthStatus::Ok);
}

#[test]
fn the_level_that_is_asked_is_answered() {
    let service = service_over(&Faulty::new(), &[]);
    let options = StoreOptions::default().durability(Durability::Written);
    assert_eq!(service.store_failure_with(failure(), options).durability, Reached::Written);
}

#[test]
fn enabled_false_stores_nothing_and_gives_the_failure_back() {
    let repository = Faulty::new();
    let service = service_over(&repository, &[("enabled", "false")]);
    assert!(!service.is_enabled());
    for mode in [StoreMode::Sync, StoreMode::Async] {
        let result = service.store_failure_with(failure(), StoreOptions::default().mode(mode));
        assert_eq!((result.success, result.error.as_deref()), (false, Some("disabled")));
        assert_eq!(result.durability, Reached::None);
        assert_eq!(*result.failure.unwrap(), failure());
    }
    assert_eq!((repository.count(), service.health().status), (0, HealthStatus::Disabled));
    let events = events(&service);
    service.set_config(DlqConfig::default()).unwrap();
    assert!(service.store_failure(failure()).success);
    assert_eq!(named(&events.lock().unwrap(), "DLQ_HEALTH_CHANGED").len(), 1);
    assert_eq!(service.health().status, HealthStatus::Ok);
}

#[test]
fn expiry_hours_say_when_an_entry_expires() {
    let repository = Faulty::new();
    let service = service_over(&repository, &[("expiry_hours", "5")]);
    let now = repository.now();
    let expires_at = |failure: NewFailure| {
        let id = service.store_failure(failure).dlq_id.unwrap();
        repository.get_by_id(id).unwrap().unwrap().operation.expires_at
    };
    assert_eq!(expires_at(failure()), Some(Timestamp(now.0 + 5 * HOUR_MS)));
    let own = Timestamp(now.0 + 1);
    assert_eq!(expires_at(failure().expires_at(own)), Some(own));
    service.set_config(config(&[("expiry_hours", "6")])).unwrap();
    assert_eq!(expires_at(failure()), Some(Timestamp(now.0 + 6 * HOUR_MS)));
}

#[test]
fn the_cap_is_the_entrys_then_the_domains_then_the_settings() {
    let repository = Faulty::new();
    let settings = [("max_replay_attempts", "3"), ("replay_domain_max_retries", "payment=5")];
    let service = service_over(&repository, &settings);
    for (failure, cap) in [
        (failure().max_retries(7), 7),
        (failure(), 5),
        (NewFailure::new(" Payment ", "T"), 5),
        (NewFailure::new("mail", "T"), 3),
    ] {
        let id = service.store_failure(failure).dlq_id.unwrap();
        assert_eq!(repository.get_by_id(id).unwrap().unwrap().operation.max_retries, cap);
    }
}

#[test]
fn settings_that_do_not_fit_are_refused_and_change_nothing() {
    let service = service_over(&Faulty::new(), &[]);
    let mut config = config(&[("replay_adaptive_min_items", "50")]);
    config.replay_adaptive_max_items = 20;
    let refused = service.set_config(config);
    assert!(matches!(refused, Err(DlqError::Engine(Error::Invalid { .. }))), "{refused:?}");
    assert_eq!(*service.config(), DlqConfig::default());
}

#[test]
fn bad_input_is_given_back_and_not_spilled() {
    let repository = Faulty::new();
    let service = service_over(&repository, &[]);
    let events = events(&service);
    for mode in [StoreMode::Sync, StoreMode::Async] {
        let options = StoreOptions::default().mode(mode);
        let result = service.store_failure_with(NewFailure::new("payment", ""), options);
        assert!(!result.success && result.error.unwrap().contains("failure_type"));
        assert_eq!(result.failure.unwrap().domain, "payment");
    }
    *repository.refused_type.lock().unwrap() = Some("PG_TIMEOUT".to_owned());
    assert!(service.store_failure(failure()).failure.is_some());
    assert_eq!(repository.files(), 0);
    assert_eq!(named(&events.lock().unwrap(), "DLQ_REFUSED").len(), 3);
    assert_eq!(service.health().status, HealthStatus::Ok);
}

#[test]
fn a_store_that_fails_spills_and_heals() {
    let repository = Faulty::new();
    let service = service_over(&repository, &[]);
    let events = events(&service);
    repository.fail_stores(true);
    repository.env.advance(Duration::from_secs(5));
    let since = repository.now();
    let result = service.store_failure(failure().key("k"));
    assert!(!result.success && result.is_fallback() && result.dlq_id.is_none());
    assert_eq!((result.durability, result.key.as_deref()), (Reached::Spilled, Some("k")));
    assert_eq!(result.error.as_deref(), Some("cannot write the segment /store: the disk is gone"));
    assert!(result.fallback_path.unwrap().starts_with("/store/fallback"));
    repository.env.advance(Duration::from_secs(5));
    assert!(service.store_failure(failure()).is_fallback());
    let health = service.health();
    assert_eq!((health.status, health.since, health.spilled), (HealthStatus::Degraded, since, 2));
    assert!(health.reason.unwrap().contains("the disk is gone") && health.hint.is_some());
    repository.fail_stores(false);
    assert!(service.store_failure(failure()).success);
    assert_eq!(service.health().status, HealthStatus::Ok);
    let events = events.lock().unwrap();
    assert_eq!(named(&events, "DLQ_SPILLED").len(), 2);
    let health: Vec<_> =
        named(&events, "DLQ_HEALTH_CHANGED").iter().map(|event| event["healthy"].clone()).collect();
    assert_eq!(health, [json!(false), json!(true)]);
}

#[test]
fn when_all_fails_both_errors_are_named_and_the_failure_given_back() {
    let repository = Faulty::new();
    let service = service_over(&repository, &[]);
    repository.fail_stores(true);
    repository.fail_spills(true);
    let result = service.store_failure(failure().user(7));
    let error = result.error.unwrap();
    assert!(error.contains("the segment") && error.contains("the fallback file"), "{error}");
    assert_eq!((result.durability, result.fallback_path), (Reached::None, None));
    assert_eq!(result.failure.unwrap().user_id, Some(7));
    assert_eq!(service.health().refused, 1);
}

#[test]
fn a_panic_of_the_repository_takes_nothing_along() {
    let repository = Faulty::new();
    *repository.panic_type.lock().unwrap() = Some("PG_TIMEOUT".to_owned());
    let service = service_over(&repository, &[]);
    let result = service.store_failure(failure().user(7));
    assert_eq!(result.failure.unwrap().user_id, Some(7));
    assert!(result.error.unwrap().contains("panicked"));
}

#[test]
fn a_text_that_is_no_domain_is_told_and_kept() {
    let repository = Faulty::new();
    let service = service_over(&repository, &[]);
    let events = events(&service);
    let long = "a".repeat(65);
    for (domain, reason) in
        [(" ", "empty"), (long.as_str(), "too_long"), ("a b", "invalid_charset")]
    {
        let id = service.store_failure(NewFailure::new(domain, "T")).dlq_id.unwrap();
        let entry = repository.get_by_id(id).unwrap().unwrap();
        assert_eq!(entry.operation.domain, deadletter::OTHER_DOMAIN);
        assert_eq!(entry.original_domain.as_deref(), Some(domain));
        let events = events.lock().unwrap();
        let told = named(&events, "DLQ_DOMAIN_REJECTED");
        let told = told.last().unwrap();
        assert_eq!((&told["reason"], &told["site"]), (&json!(reason), &json!("store_failure")));
        assert!(told["preview"].as_str().unwrap().len() <= 32);
    }
}

#[test]
fn too_many_domains_are_told_once_until_there_are_fewer() {
    let repository = Faulty::new();
    let service = service_over(&repository, &[("domain_cardinality_alert_threshold", "10")]);
    let events = events(&service);
    let store = |number: u32| {
        service.store_failure(NewFailure::new(format!("d{number}"), "T")).dlq_id.unwrap()
    };
    let told = || named(&events.lock().unwrap(), "DLQ_DOMAIN_CARDINALITY").len();
    let ids: Vec<EntryId> = (0..10).map(store).collect();
    assert_eq!(told(), 0);
    store(10);
    store(11);
    assert_eq!(told(), 1);
    for id in &ids[..5] {
        repository.delete(*id).unwrap();
    }
    for _ in 0..64 {
        store(11);
    }
    let again: Vec<EntryId> = (20..24).map(store).collect();
    assert_eq!(again.len(), 4);
    assert_eq!(told(), 2);
}

#[test]
fn a_caller_hears_its_records_together_and_once() {
    let repository = Faulty::new();
    let service = service_over(&repository, &[]);
    let events = events(&service);
    let caller = service.caller_context("alice");
    let ids = ["a", "b", "c"].map(|key| {
        let options = StoreOptions::default().caller(&caller);
        service.store_failure_with(failure().key(key), options).dlq_id.unwrap().to_string()
    });
    assert!(events.lock().unwrap().is_empty());
    caller.flush();
    caller.flush();
    let options = StoreOptions::default().caller(&caller);
    service.store_failure_with(failure().key("a"), options);
    drop(caller);
    let events = events.lock().unwrap();
    let told: Vec<&str> = events.iter().map(|event| event["dlq_id"].as_str().unwrap()).collect();
    assert_eq!(told, [&ids[0], &ids[1], &ids[2], &ids[0]]);
    assert!(events.iter().all(|event| event["actor"] == "alice"));
}

#[test]
fn a_test_entry_is_marked_as_one() {
    let repository = Faulty::new();
    let service = service_over(&repository, &[("outbox_enabled", "true")]);
    let mut test = TestEntry::default();
    test.created_by = "alice \"a\"".to_owned();
    test.metadata = Json::object(r#"{"run": 1.50}"#).unwrap();
    let result = service.create_test_entry(test);
    let entry = repository.get_by_id(result.dlq_id.unwrap()).unwrap().unwrap();
    let operation = &entry.operation;
    assert_eq!(operation.domain, "external_service");
    assert_eq!(operation.failure_type, "TEST_FAILURE");
    assert_eq!(operation.error_message, "Test failure for load testing");
    assert_eq!(operation.entity_type.as_deref(), Some("test"));
    let wanted = r#"{"created_by":"alice \"a\"","run":1.50,"synthetic":true}"#;
    assert_eq!(operation.metadata.as_str(), wanted);
    assert_eq!(serde_json::to_value(&result).unwrap()["dlq_id"], "1");
}

/// A service that opens a repository in memory, as long as the switch allows.
fn opening(env: &Memory, fails: &Arc<AtomicBool>, opened: &Arc<Mutex<u32>>) -> DlqService {
    let (fails, opened) = (Arc::clone(fails), Arc::clone(opened));
    DlqService::builder()
        .config(DlqConfig::default())
        .engine(faulty::config())
        .env(Arc::new(env.clone()))
        .opener(move |config, env| {
            *opened.lock().unwrap() += 1;
            if fails.load(Ordering::SeqCst) {
                return Err(Error::Locked { dir: config.dir, owner: Some(7) });
            }
            Ok(Arc::new(MemoryRepository::with(config, env)))
        })
        .build()
}

#[test]
fn a_store_that_does_not_open_is_tried_again_after_a_second() {
    let (env, fails, opened) = (Memory::new(1), Arc::new(AtomicBool::new(true)), Arc::default());
    let service = opening(&env, &fails, &opened);
    assert_eq!(*opened.lock().unwrap(), 0, "nothing is opened before it is needed");
    for key in ["a", "b"] {
        let result = service.store_failure(failure().key(key));
        assert!(result.is_fallback(), "{result:?}");
        assert!(result.error.unwrap().contains("in use by process 7"));
    }
    assert_eq!(*opened.lock().unwrap(), 1);
    let health = service.health();
    assert_eq!(health.status, HealthStatus::Degraded);
    assert!(health.reason.unwrap().contains("process 7") && health.hint.unwrap().contains("other"));
    let error = service.repository().unwrap_err();
    assert!(matches!(&error, DlqError::Engine(Error::NotOpen { source })
        if matches!(&**source, Error::Locked { .. })));
    fails.store(false, Ordering::SeqCst);
    env.advance(Duration::from_millis(999));
    assert!(service.store_failure(failure()).is_fallback());
    env.advance(Duration::from_millis(1));
    assert!(service.store_failure(failure()).success);
    assert_eq!((service.health().status, *opened.lock().unwrap()), (HealthStatus::Ok, 2));
    assert_eq!(env.list("/store/fallback".as_ref()).unwrap().len(), 3);
}

/// A host that writes every event down with the service itself is called while nothing is held.
#[test]
fn a_listener_may_use_a_service_that_does_not_open() {
    let (env, fails, opened) = (Memory::new(1), Arc::new(AtomicBool::new(true)), Arc::default());
    let service = opening(&env, &fails, &opened);
    let (inside, results) = (service.clone(), Arc::new(Mutex::new(Vec::new())));
    let list = Arc::clone(&results);
    service.on_event(move |record| {
        if matches!(record.event, DlqEvent::DlqHealthChanged { .. }) {
            list.lock().unwrap().push(inside.store_failure(failure()));
        }
    });
    let asked = service.clone();
    let result = in_time(move || asked.store_failure(failure()));
    assert!(result.is_fallback(), "{result:?}");
    assert!(results.lock().unwrap()[0].is_fallback());
    assert_eq!(*opened.lock().unwrap(), 1, "the listener did not try again at once");
    fails.store(false, Ordering::SeqCst);
    env.advance(Duration::from_secs(1));
    let asked = service.clone();
    assert!(in_time(move || asked.store_failure(failure())).success);
    assert!(results.lock().unwrap()[1].success);
}

#[test]
fn a_listener_may_close_a_service_that_does_not_open() {
    let (env, fails, opened) = (Memory::new(1), Arc::new(AtomicBool::new(true)), Arc::default());
    let service = opening(&env, &fails, &opened);
    let inside = service.clone();
    service.on_event(move |_| inside.close().unwrap());
    let asked = service.clone();
    assert!(in_time(move || asked.store_failure(failure())).is_fallback());
    assert_eq!(service.health().status, HealthStatus::Closed);
}

#[test]
fn a_store_that_was_closed_by_a_failure_is_opened_again() {
    let (env, fails, opened) = (Memory::new(1), Arc::default(), Arc::default());
    let service = opening(&env, &fails, &opened);
    assert!(service.store_failure(failure()).success);
    service.repository().unwrap().close().unwrap();
    assert!(service.store_failure(failure()).is_fallback());
    assert_eq!(service.health().status, HealthStatus::Degraded);
    env.advance(Duration::from_secs(1));
    assert!(service.store_failure(failure()).success);
    assert_eq!((service.health().status, *opened.lock().unwrap()), (HealthStatus::Ok, 2));
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

#[test]
fn bad_settings_degrade_and_heal() {
    let bad = Arc::new(Mutex::new("DEADLETTER_EXPIRY_HOURS"));
    for name in ["DEADLETTER_EXPIRY_HOURS", "DEADLETTER_SEGMENT_BYTES"] {
        let (env, asked) = (Memory::new(1), Arc::clone(&bad));
        *bad.lock().unwrap() = name;
        let service = DlqService::builder()
            .variables(move || {
                let name = *asked.lock().unwrap();
                let rest = [("DEADLETTER_DIR", "/store"), ("DEADLETTER_BATCH_SIZE", "77")];
                variables(&[(name, "1 bad"), rest[0], rest[1]])
            })
            .env(Arc::new(env.clone()))
            .opener(|config, env| Ok(Arc::new(MemoryRepository::with(config, env))))
            .build();
        assert_eq!(service.config().batch_size, 77);
        let result = service.store_failure(failure());
        assert!(result.is_fallback() && result.error.unwrap().contains(name));
        let health = service.health();
        assert_eq!(health.status, HealthStatus::Degraded);
        assert!(health.reason.unwrap().contains(name) && health.hint.unwrap().contains("setting"));
        *bad.lock().unwrap() = "OTHER";
        env.advance(Duration::from_secs(1));
        assert!(service.store_failure(failure()).success);
        assert_eq!(service.health().status, HealthStatus::Ok);
    }
}

#[test]
fn without_a_directory_the_failure_is_given_back() {
    let service = DlqService::builder().variables(Vec::new).env(Arc::new(Memory::new(1))).build();
    let result = service.store_failure(failure());
    assert!(result.error.unwrap().contains("DEADLETTER_DIR") && result.failure.is_some());
}

#[test]
fn closing_is_for_all_handles() {
    let repository = Faulty::new();
    let service = service_over(&repository, &[]);
    let other = service.clone();
    assert!(other.store_failure(failure()).success);
    service.close().unwrap();
    service.close().unwrap();
    for mode in [StoreMode::Sync, StoreMode::Async] {
        let result = other.store_failure_with(failure(), StoreOptions::default().mode(mode));
        assert_eq!(result.error.as_deref(), Some("the store is closed"));
        assert_eq!(*result.failure.unwrap(), failure());
    }
    assert!(matches!(other.repository(), Err(DlqError::Engine(Error::Closed))));
    assert!(matches!(other.step(), Err(DlqError::Engine(Error::Closed))));
    assert_eq!(other.health().status, HealthStatus::Closed);
    assert!(matches!(repository.memory.step(), Err(Error::Closed)));
    assert_eq!(repository.files(), 0);
}

#[test]
fn a_repository_of_the_hosts_outlives_the_last_handle() {
    let repository = Faulty::new();
    drop(service_over(&repository, &[]));
    repository.memory.step().unwrap();
}

/// Nothing is stored here, so that nothing is opened in the home of whoever runs the tests.
#[test]
fn the_process_has_one_service_until_it_is_reset() {
    let first = deadletter::get_dlq_service();
    assert!(Arc::ptr_eq(&first, &deadletter::get_dlq_service()));
    first.close().unwrap();
    let result = deadletter::store_to_dlq(failure());
    assert_eq!(result.error.as_deref(), Some("the store is closed"));
    assert_eq!(*result.failure.unwrap(), failure());
    deadletter::reset_dlq_service();
    let second = deadletter::get_dlq_service();
    assert!(!Arc::ptr_eq(&first, &second));
    deadletter::reset_dlq_service();
    assert_eq!(second.health().status, HealthStatus::Closed);
}

#[test]
fn a_failed_sync_shows_in_the_health_and_heals_without_a_store_call() {
    let disk = Simulated::new(5);
    let service = DlqService::builder()
        .config(DlqConfig::default())
        .engine(crate::store::config())
        .env(Arc::new(disk.clone()))
        .background(Background::Manual)
        .build();
    let id = service.store_failure(failure()).dlq_id.unwrap();
    // The change is written, and then the sync fails.
    disk.inject(Fault { at: disk.operations() + 1, kind: FaultKind::FailedSync });
    let request = ResolveRequest::default();
    service.resolve_entry(id, &request).unwrap_err();
    let health = service.health();
    assert_eq!(health.status, HealthStatus::Degraded, "{health:?}");
    assert!(service.replay(None, None).is_err(), "opened again at most once a second");
    disk.advance(Duration::from_secs(1));
    service.replay(None, None).unwrap();
    assert_eq!(service.health().status, HealthStatus::Ok);
    // The change was under way, so it may be there; the entry is.
    let status = service.get_entry(id).unwrap().unwrap().operation.status;
    assert!(matches!(status, Status::Pending | Status::Resolved), "{status}");
}
