//! Storing: levels, receipts, batches, keys, limits, and what is refused.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake};

use deadletter::{
    Background, Config, CrashMode, Durability, Engine, EntryId, Error, Filter, IndexKind, Json,
    Limits, Memory, NewFailure, Page, Redaction, Simulated, Status,
};

/// A small store on a disk in memory, without threads.
pub fn config() -> Config {
    let mut config = Config::new("/store");
    config.segment_bytes = 64 * 1024;
    config.limits = Limits { request_data_max_bytes: 8 * 1024, field_max_bytes: 4 * 1024 };
    config.background = Background::Manual;
    config.index = IndexKind::Memory;
    config
}

fn memory_engine() -> Engine {
    Engine::open_with(config(), Arc::new(Memory::new(1))).unwrap()
}

fn failure(number: u64) -> NewFailure {
    let request = Json::object(format!("{{ \"number\" : {number} }}")).unwrap();
    NewFailure::new("payment", "PG_TIMEOUT").request(request)
}

fn ids(engine: &Engine) -> Vec<u64> {
    let page = Page { limit: 10_000, ..Page::default() };
    let entries = engine.find(&Filter::default(), page).unwrap();
    entries.iter().map(|entry| entry.operation.id.0).collect()
}

#[test]
fn a_stored_failure_comes_back_byte_for_byte() {
    let engine = memory_engine();
    let given = NewFailure::new("payment", "PG_TIMEOUT")
        .entity("order", "42")
        .user(7)
        .error("57014", "canceled\tby \u{1b}[31muser")
        .request(Json::object("{\"a\" : [1,  2.50, 1e3]}").unwrap())
        .response(Json::object("{\"b\":\"\\u00e9\"}").unwrap())
        .metadata(Json::object("{\"big\":123456789012345678901234567890}").unwrap())
        .hint("ask the bank")
        .action("replay");
    let stored = engine.store(given.clone()).unwrap();
    let entry = engine.get(stored.id).unwrap().unwrap();
    assert_eq!(entry.key, stored.key);
    let operation = entry.operation;
    assert_eq!(operation.id, EntryId(1), "the first id of a store is 1");
    assert_eq!(operation.status, Status::Pending);
    assert_eq!(operation.entity_type.as_deref(), Some("order"));
    assert_eq!(operation.user_id, Some(7));
    assert_eq!(operation.error_message, given.error_message);
    assert_eq!(operation.request_data.as_str(), "{\"a\" : [1,  2.50, 1e3]}");
    assert_eq!(operation.response_data.as_str(), given.response_data.as_str());
    assert_eq!(operation.metadata.as_str(), given.metadata.as_str());
    assert_eq!((operation.retry_count, operation.max_retries), (0, 2));
}

/// What each level leaves after a power failure right behind the call.
#[test]
fn levels_keep_what_they_promise() {
    for (durability, after_power_cut, after_restart) in
        [(Durability::Synced, 1, 1), (Durability::Written, 0, 1), (Durability::Queued, 0, 0)]
    {
        let disk = Simulated::new(3);
        let engine = Engine::open_with(config(), Arc::new(disk.clone())).unwrap();
        let stored = engine.store_with(failure(1), durability).unwrap();
        assert_eq!(stored.durability, durability);
        for (image, wanted) in [
            (disk.crash_image(CrashMode::Nothing, 1), after_power_cut),
            (disk.restarted(), after_restart),
        ] {
            let reopened = Engine::open_with(config(), Arc::new(image)).unwrap();
            assert_eq!(reopened.count(&Filter::default()).unwrap(), wanted, "{durability:?}");
        }
    }
}

#[test]
fn a_written_record_is_synced_after_the_lag() {
    let disk = Simulated::new(3);
    let engine = Engine::open_with(config(), Arc::new(disk.clone())).unwrap();
    engine.store_with(failure(1), Durability::Written).unwrap();
    engine.step().unwrap();
    let count = |image: Simulated| {
        let engine = Engine::open_with(config(), Arc::new(image)).unwrap();
        engine.count(&Filter::default()).unwrap()
    };
    assert_eq!(count(disk.crash_image(CrashMode::Nothing, 1)), 0, "not yet due");
    disk.advance(std::time::Duration::from_millis(config().max_lag_ms));
    engine.step().unwrap();
    assert_eq!(count(disk.crash_image(CrashMode::Nothing, 1)), 1);
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_receipt_can_be_awaited_without_a_runtime() {
    let engine = memory_engine();
    let woken = Arc::new(Flag(AtomicBool::new(false)));
    let waker = Arc::clone(&woken).into();
    let mut context = Context::from_waker(&waker);
    let mut receipt = pin!(engine.submit(failure(1), Durability::Synced).unwrap());
    assert!(receipt.as_mut().poll(&mut context).is_pending(), "nobody has written yet");
    engine.step().unwrap();
    assert!(woken.0.load(Ordering::SeqCst), "the waker is called when the group is durable");
    let Poll::Ready(stored) = receipt.poll(&mut context) else { panic!("still pending") };
    assert_eq!(stored.unwrap().id, EntryId(1));
}

#[test]
fn a_receipt_is_driven_by_the_flush_thread() {
    let mut config = config();
    config.background = Background::Threads;
    let engine = Engine::open_with(config, Arc::new(Memory::new(1))).unwrap();
    let receipt = engine.submit(failure(1), Durability::Queued).unwrap();
    assert_eq!(receipt.stored().id, EntryId(1), "a queued record has its number at once");
    let follower = engine.submit(failure(2), Durability::Synced).unwrap();
    assert_eq!(follower.wait().unwrap().id, EntryId(2));
    assert_eq!(ids(&engine), [2, 1]);
}

#[test]
fn a_batch_is_all_or_nothing() {
    let disk = Simulated::new(5);
    let engine = Engine::open_with(config(), Arc::new(disk.clone())).unwrap();
    let stored = engine.store_batch((1..=3).map(failure).collect(), Durability::Synced).unwrap();
    assert_eq!(stored.iter().map(|one| one.id.0).collect::<Vec<_>>(), [1, 2, 3]);
    let large = Json::object(format!("{{\"x\":\"{}\"}}", "y".repeat(8000))).unwrap();
    let batch: Vec<_> = (0..5).map(|_| failure(9).request(large.clone())).collect();
    let refused = engine.store_batch(batch, Durability::Synced).unwrap_err();
    assert_eq!(refused.failures.len(), 5, "the batch is given back");
    let Error::TooLarge { what, bytes_max, .. } = refused.source else { panic!("{refused:?}") };
    assert_eq!((what, bytes_max), ("the batch", 32 * 1024));
    assert_eq!(ids(&engine), [3, 2, 1]);
}

#[test]
fn a_key_yields_one_entry() {
    let engine = memory_engine();
    let first = engine.store(failure(1).key("order-42")).unwrap();
    let second = engine.store(failure(2).key("order-42")).unwrap();
    assert_eq!((second.id, second.duplicate), (first.id, true));
    let batch = vec![failure(3).key("a"), failure(4).key("order-42"), failure(5).key("a")];
    let stored = engine.store_batch(batch, Durability::Synced).unwrap();
    let ids: Vec<_> = stored.iter().map(|one| (one.id.0, one.duplicate)).collect();
    assert_eq!(ids, [(2, false), (1, true), (2, true)]);
    let entry = engine.get_by_key("order-42").unwrap().unwrap();
    assert_eq!(entry.operation.request_data.as_str(), "{ \"number\" : 1 }");
    assert!(engine.get_by_key("order-43").unwrap().is_none());
    let accounting = engine.accounting().unwrap();
    assert_eq!((accounting.offered, accounting.captured, accounting.duplicates), (5, 2, 3));
}

#[test]
fn an_entry_without_a_key_is_found_by_its_uuid() {
    let engine = memory_engine();
    let stored = engine.store(failure(1)).unwrap();
    assert_eq!(stored.key.len(), 36);
    assert_eq!(engine.get_by_key(&stored.key).unwrap().unwrap().operation.id, stored.id);
}

/// Many threads store the same few keys at once: each key is stored once, and all are told the
/// same id.
#[test]
fn keys_are_unique_among_threads() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(Config::new(dir.path().join("store"))).unwrap();
    let store = |engine: &Engine, key: u64| {
        let stored = engine.store(failure(key).key(format!("key-{key}"))).unwrap();
        (key, stored.id.0)
    };
    let answers: Vec<(u64, u64)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let engine = engine.clone();
                scope.spawn(move || (0..50).map(|key| store(&engine, key)).collect::<Vec<_>>())
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(engine.count(&Filter::default()).unwrap(), 50);
    for key in 0..50 {
        let mut ids: Vec<u64> =
            answers.iter().filter(|(of, _)| *of == key).map(|(_, id)| *id).collect();
        ids.dedup();
        assert_eq!(ids.len(), 1, "key {key}");
    }
    let accounting = engine.accounting().unwrap();
    assert_eq!((accounting.captured, accounting.duplicates), (50, 350));
    engine.close().unwrap();
}

#[test]
fn a_field_over_its_limit_becomes_a_marker() {
    let engine = memory_engine();
    let object = |len: usize| {
        let pad = "x".repeat(len - "{\"p\":\"\"}".len());
        Json::object(format!("{{\"p\":\"{pad}\"}}")).unwrap()
    };
    for (len, kept) in [(8 * 1024, true), (8 * 1024 + 1, false)] {
        let given = object(len);
        let stored = engine.store(failure(0).request(given.clone())).unwrap();
        let request = engine.get(stored.id).unwrap().unwrap().operation.request_data;
        assert_eq!(request.as_str() == given.as_str(), kept, "{len} bytes");
        assert_eq!(request.is_truncated_marker(), !kept, "{len} bytes");
    }
}

#[test]
fn a_record_over_half_a_segment_is_refused() {
    let engine = memory_engine();
    let mut large = failure(1);
    large.error_message = "x".repeat(33 * 1024);
    let refused = engine.store(large).unwrap_err();
    assert_eq!(refused.failure.error_message.len(), 33 * 1024, "the failure is given back");
    let message = refused.source.to_string();
    assert!(message.contains("segment_bytes") && message.contains("32768"), "{message}");
    assert_eq!(engine.accounting().unwrap().refused, 1);
}

#[test]
fn a_bad_domain_is_captured_under_another() {
    let engine = memory_engine();
    let stored = engine.store(NewFailure::new("Bad Domain!", "X")).unwrap();
    let entry = engine.get(stored.id).unwrap().unwrap();
    assert_eq!(entry.operation.domain, "other_domain");
    assert_eq!(entry.original_domain.as_deref(), Some("Bad Domain!"));
    let stored = engine.store(NewFailure::new(" Payment.EU ", "X")).unwrap();
    assert_eq!(engine.get(stored.id).unwrap().unwrap().operation.domain, "payment.eu");
}

/// Redaction runs before the first byte is written: the secret is nowhere on the disk.
#[test]
fn a_denied_value_never_reaches_the_disk() {
    let disk = Simulated::new(7);
    let mut config = config();
    let hook = |failure: &mut NewFailure| {
        failure.error_message = failure.error_message.replace("hunter2", "***");
    };
    config.redaction =
        Redaction { deny_keys: vec!["password".to_owned()], hook: Some(Arc::new(hook)) };
    let engine = Engine::open_with(config, Arc::new(disk.clone())).unwrap();
    let request = Json::object("{ \"user\": \"ann\", \"PassWord\": \"hunter2\" }").unwrap();
    let given = NewFailure::new("login", "DENIED").request(request).error("1", "bad hunter2");
    let stored = engine.store(given).unwrap();
    let operation = engine.get(stored.id).unwrap().unwrap().operation;
    let redacted = "{ \"user\": \"ann\", \"PassWord\": \"[redacted]\" }";
    assert_eq!(operation.request_data.as_str(), redacted);
    engine.close().unwrap();
    let bytes = disk.read_raw("/store/log/0000000000000001-0000.seg").unwrap();
    assert!(bytes.windows(3).any(|window| window == b"ann"), "the file is the right one");
    assert!(!bytes.windows(7).any(|window| window == b"hunter2"));
}

#[test]
fn a_full_queue_refuses_and_counts() {
    let mut config = config();
    config.queue_bytes_max = 64 * 1024;
    let engine = Engine::open_with(config, Arc::new(Memory::new(1))).unwrap();
    let request = Json::object(format!("{{\"x\":\"{}\"}}", "y".repeat(8000))).unwrap();
    let mut queued = 0;
    let refused = loop {
        match engine.submit(failure(1).request(request.clone()), Durability::Queued) {
            Ok(_) => queued += 1,
            Err(refused) => break refused,
        }
        assert!(queued < 100, "the queue has a bound");
    };
    assert!(matches!(refused.source, Error::QueueFull { bytes_max: 65_536, .. }), "{refused:?}");
    let accounting = engine.accounting().unwrap();
    assert_eq!((accounting.queued, accounting.refused), (queued, 1));
    engine.step().unwrap();
    let accounting = engine.accounting().unwrap();
    assert_eq!((accounting.queued, accounting.captured), (0, queued));
}

#[test]
fn a_closed_store_answers_closed_and_frees_its_lock() {
    let disk = Simulated::new(1);
    let engine = Engine::open_with(config(), Arc::new(disk.clone())).unwrap();
    let refused = Engine::open_with(config(), Arc::new(disk.clone())).unwrap_err();
    assert!(matches!(refused, Error::Locked { owner: Some(_), .. }), "{refused}");
    engine.store(failure(1)).unwrap();
    let other = engine.clone();
    engine.close().unwrap();
    engine.close().unwrap();
    assert!(matches!(other.store(failure(2)).unwrap_err().source, Error::Closed));
    assert!(matches!(other.get(EntryId(1)), Err(Error::Closed)));
    let reopened = Engine::open_with(config(), Arc::new(disk)).unwrap();
    assert!(reopened.report().clean);
    assert_eq!(ids(&reopened), [1]);
}

/// The same segment is continued after a clean close; a crash begins a new one, which takes the place
/// of one that was hardly begun.
#[test]
fn a_clean_close_goes_on_and_a_crash_begins_anew() {
    let disk = Simulated::new(1);
    let names = |disk: &Simulated| {
        let names = deadletter::Env::list(disk, std::path::Path::new("/store/log")).unwrap();
        names.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
    };
    for round in 1..=3 {
        let engine = Engine::open_with(config(), Arc::new(disk.clone())).unwrap();
        engine.store(failure(round)).unwrap();
        engine.close().unwrap();
    }
    assert_eq!(names(&disk), ["0000000000000001-0000.seg"]);
    let engine = Engine::open_with(config(), Arc::new(disk.clone())).unwrap();
    engine.store(failure(4)).unwrap();
    let crashed = disk.crash_image(CrashMode::All, 1);
    let engine = Engine::open_with(config(), Arc::new(crashed.clone())).unwrap();
    assert_eq!(names(&crashed), ["0000000000000002-0000.seg"]);
    assert_eq!(ids(&engine), [4, 3, 2, 1]);
    let accounting = engine.accounting().unwrap();
    assert_eq!((accounting.captured, accounting.live, accounting.lost), (4, 4, 0));
    assert!(!accounting.complete, "refusals before the crash are not known");
    (5..60).for_each(|number| drop(engine.store(failure(number)).unwrap()));
    let crashed = crashed.crash_image(CrashMode::All, 1);
    let engine = Engine::open_with(config(), Arc::new(crashed.clone())).unwrap();
    assert_eq!(names(&crashed), ["0000000000000002-0000.seg", "0000000000000003-0000.seg"]);
    assert_eq!(ids(&engine).len(), 59);
}

#[test]
fn handles_may_be_shared_among_threads() {
    fn check<T: Send + Sync>() {}
    check::<Engine>();
    check::<deadletter::Receipt>();
    check::<deadletter::Tail>();
}

/// Whatever is printed for debugging shows ids and sizes, never what was captured.
#[test]
fn debug_never_shows_a_payload() {
    const CANARY: &str = "canary-7f3a";
    let engine = memory_engine();
    let object = || Json::object(format!("{{\"secret\":\"{CANARY}\"}}")).unwrap();
    let given = NewFailure::new("payment", "X")
        .request(object())
        .snapshot(object())
        .response(object())
        .metadata(object())
        .entity_refs(object())
        .error(CANARY, CANARY)
        .hint(CANARY)
        .action(CANARY);
    let id = engine.store(given.clone()).unwrap().id;
    let state = engine
        .change(id, &[], |state| {
            state.resolution_note = CANARY.to_owned();
            state.push_attempt(deadletter::Attempt {
                number: 1,
                at: deadletter::Timestamp(1),
                outcome: "failure".to_owned(),
                note: CANARY.to_owned(),
            });
        })
        .unwrap();
    let mut tail = engine.tail(0).unwrap();
    let first = tail.next();
    let refused = engine.store(given.clone().error("1", CANARY.repeat(4000))).unwrap_err();
    let entry = engine.get(id).unwrap();
    let receipt = engine.submit(given.clone(), Durability::Queued).unwrap();
    let printed = format!(
        "{given:?} {state:?} {tail:?} {first:?} {refused:?} {refused} {entry:?} {receipt:?} {engine:?}"
    );
    assert!(printed.contains("request_data"), "something is shown");
    assert!(!printed.contains(CANARY) && !printed.contains("99, 97, 110"), "{printed}");
}

/// A segment's file copied over another's is damage of that other, never an answer in its place.
#[test]
fn a_segment_under_the_name_of_another_is_not_read() {
    let disk = Simulated::new(1);
    let engine = Engine::open_with(config(), Arc::new(disk.clone())).unwrap();
    let pad = Json::object(format!("{{\"x\":\"{}\"}}", "y".repeat(4000))).unwrap();
    (0..40).for_each(|number| drop(engine.store(failure(number).snapshot(pad.clone())).unwrap()));
    engine.close().unwrap();
    let path = |number: u64| format!("/store/log/{number:016x}-0000.seg");
    let first = disk.read_raw(path(1)).unwrap();
    disk.write_raw(path(2), &first).unwrap();
    let engine = Engine::open_with(config(), Arc::new(disk)).unwrap();
    let found = ids(&engine);
    let mut distinct = found.clone();
    distinct.dedup();
    assert_eq!(found, distinct);
    let accounting = engine.accounting().unwrap();
    assert!(accounting.lost > 5, "those of the second segment");
    assert_eq!(accounting.live, found.len() as u64);
    assert!(found.contains(&1) && found.contains(&40), "all others are there");
}
