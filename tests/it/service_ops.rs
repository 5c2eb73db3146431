//! The service's questions, resolutions and maintenance, over every repository.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadletter::{
    Act, AuditRecord, Cause, Completion, DlqConfig, DlqError, DlqService, Durability, Engine,
    Entry, EntryId, Env, Error, FailedOperationRepository, Filter, ListRequest, Memory,
    MemoryRepository, NewFailure, Order, PurgeSelection, ReplayType, ResolveRequest, Simulated,
    Status, Timestamp,
};

use crate::store::config;

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const LEASE: Duration = Duration::from_mins(1);

struct Fixture {
    service: DlqService,
    repository: Arc<dyn FailedOperationRepository>,
    clock: Memory,
    events: Arc<Mutex<Vec<AuditRecord>>>,
}

impl Fixture {
    fn store(&self, failure: NewFailure) -> EntryId {
        self.repository.create(failure, Durability::Synced).unwrap().id
    }

    fn stored(&self, domain: &str) -> EntryId {
        self.store(NewFailure::new(domain, "TIMEOUT"))
    }

    fn entry(&self, id: EntryId) -> Entry {
        self.repository.get_by_id(id).unwrap().unwrap()
    }

    fn status(&self, id: EntryId) -> Status {
        self.entry(id).operation.status
    }

    fn set(&self, id: EntryId, status: Status) {
        let resolution = deadletter::Resolution::default();
        assert!(self.repository.update_status(id, status, &resolution, None).unwrap());
    }

    fn events(&self) -> Vec<serde_json::Value> {
        let events = self.events.lock().unwrap();
        events.iter().map(|record| serde_json::to_value(record).unwrap()).collect()
    }
}

/// The settings of a service in which nothing runs by itself.
fn by_hand(settings: &DlqConfig) -> DlqConfig {
    let mut settings = settings.clone();
    settings.scheduler_enabled = false;
    settings
}

/// Runs a test over a service on each repository.
fn over_all(test: impl Fn(&Fixture)) {
    over_all_with(&DlqConfig::default(), test);
}

fn over_all_with(settings: &DlqConfig, test: impl Fn(&Fixture)) {
    for open in REPOSITORIES {
        let clock = Memory::new(1);
        let repository = open(&clock);
        let service = DlqService::new(Some(by_hand(settings)), Some(Arc::clone(&repository)));
        let events = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&events);
        service.on_event(move |record| heard.lock().unwrap().push(record.clone()));
        test(&Fixture { service, repository, clock, events });
    }
}

type Open = fn(&Memory) -> Arc<dyn FailedOperationRepository>;

const REPOSITORIES: &[Open] = &[
    |clock| Arc::new(MemoryRepository::with(config(), Arc::new(clock.clone()))),
    |clock| Arc::new(Engine::open_with(config(), Arc::new(clock.clone())).unwrap()),
];

fn ids(entries: &[Entry]) -> Vec<EntryId> {
    entries.iter().map(|entry| entry.operation.id).collect()
}

fn act() -> Act {
    Act { actor: "kim".into(), reason: "paid by hand".into(), ticket: "T-1".into() }
}

fn resolve() -> ResolveRequest {
    let mut request = ResolveRequest::default();
    request.notes = "paid".into();
    request.act = act();
    request
}

#[test]
fn pending_and_replayable_entries_come_oldest_first() {
    over_all(|fixture| {
        let first = fixture.stored("orders");
        let other = fixture.stored("mail");
        let third = fixture.stored("orders");
        fixture.set(other, Status::RequiresReview);
        let pending = fixture.service.get_pending_entries(None, None, None).unwrap();
        assert_eq!(ids(&pending), [first, third]);
        assert!(pending.iter().all(|entry| entry.operation.is_pending()));
        assert!(pending.iter().all(|entry| entry.operation.can_retry()));
        assert!(!pending[0].operation.is_resolved());
        let limited = fixture.service.get_replayable_entries(Some("orders"), None, Some(1));
        assert_eq!(ids(&limited.unwrap()), [first]);
        let none = fixture.service.get_pending_entries(None, Some("OTHER"), None).unwrap();
        assert_eq!(none, []);
        assert_eq!(fixture.service.get_entry_by_id(EntryId(999)).unwrap(), None);
        let entry = fixture.service.get_entry(first).unwrap().unwrap();
        assert_eq!(entry, fixture.entry(first));
    });
}

#[test]
fn a_page_is_clamped_and_counts_all_statuses() {
    over_all(|fixture| {
        let stored: Vec<_> = (0..5).map(|_| fixture.stored("orders")).collect();
        fixture.set(stored[0], Status::Archived);
        let mut request = ListRequest::default();
        request.page = 0;
        request.page_size = 2;
        let page = fixture.service.list_entries(&request).unwrap();
        assert_eq!(ids(&page.results), [stored[4], stored[3]]);
        assert_eq!((page.page, page.page_size, page.total_pages, page.total_count), (1, 2, 3, 5));
        assert_eq!((page.has_next, page.has_previous), (true, false));
        request.page = 3;
        let page = fixture.service.list_entries(&request).unwrap();
        assert_eq!(ids(&page.results), [stored[0]]);
        assert_eq!((page.has_next, page.has_previous, page.next_after), (false, true, None));
        request.page = 4;
        let page = fixture.service.list_entries(&request).unwrap();
        assert_eq!((page.results.len(), page.has_next), (0, false));
        request.page = u64::MAX;
        assert_eq!(fixture.service.list_entries(&request).unwrap().results, []);
        request.page = 1;
        for (given, taken) in [(0, 1), (101, 100), (usize::MAX, 100)] {
            request.page_size = given;
            assert_eq!(fixture.service.list_entries(&request).unwrap().page_size, taken);
        }
        request.filter = Filter { domain: Some("none".into()), ..Filter::default() };
        let empty = fixture.service.list_entries(&request).unwrap();
        assert_eq!((empty.total_pages, empty.total_count, empty.has_next), (0, 0, false));
        let keys = serde_json::to_value(&empty).unwrap();
        for key in ["results", "page", "page_size", "total_pages", "total_count", "has_next"] {
            assert!(keys.get(key).is_some(), "{key}");
        }
    });
}

#[test]
fn a_cursor_is_not_moved_by_what_comes_or_goes() {
    over_all(|fixture| {
        let stored: Vec<_> = (0..6).map(|_| fixture.stored("orders")).collect();
        let mut request = ListRequest::default();
        request.page_size = 2;
        let mut seen = Vec::new();
        loop {
            let page = fixture.service.list_entries(&request).unwrap();
            seen.extend(ids(&page.results));
            // Somebody stores, and somebody deletes what was just shown.
            fixture.stored("orders");
            let last = page.results.last().unwrap().operation.id;
            assert!(fixture.repository.delete(last).unwrap());
            request.after = page.next_after;
            if request.after.is_none() {
                break;
            }
        }
        let newest_first: Vec<_> = stored.into_iter().rev().collect();
        assert_eq!(seen, newest_first);
        request.order = Order::Oldest;
        request.after = Some(EntryId(u64::MAX));
        assert_eq!(fixture.service.list_entries(&request).unwrap().results, []);
    });
}

#[test]
fn service_levels_are_by_domain_with_a_default() {
    let mut settings = DlqConfig::default();
    settings.sla_default_hours = 24;
    settings.sla_thresholds_by_domain = [("payment".to_owned(), 1)].into();
    over_all_with(&settings, |fixture| {
        let order = fixture.stored("orders");
        let payment = fixture.stored("payment");
        let done = fixture.stored("payment");
        fixture.set(done, Status::Resolved);
        let breached = || ids(&fixture.service.get_sla_breached_entries().unwrap());
        fixture.clock.advance(HOUR);
        assert_eq!(breached(), [], "exactly as old is not older");
        fixture.clock.advance(Duration::from_millis(1));
        assert_eq!(breached(), [payment]);
        fixture.clock.advance(24 * HOUR);
        assert_eq!(breached(), [order, payment]);
    });
}

#[test]
fn expiry_takes_only_pending_entries_whose_time_ran_out() {
    let mut settings = DlqConfig::default();
    settings.batch_size = 2;
    over_all_with(&settings, |fixture| {
        let expires = Timestamp(fixture.repository.now().0 + 1000);
        let short = || NewFailure::new("orders", "TIMEOUT").expires_at(expires);
        let expiring: Vec<_> = (0..5).map(|_| fixture.store(short())).collect();
        let review = fixture.store(short());
        fixture.set(review, Status::RequiresReview);
        let lasting = fixture.stored("orders");
        fixture.clock.advance(Duration::from_secs(1));
        assert_eq!(fixture.service.get_expired_entries().unwrap(), [], "not yet past");
        assert_eq!(fixture.service.expire_entries(None).unwrap(), 0);
        fixture.clock.advance(Duration::from_millis(1));
        assert_eq!(ids(&fixture.service.get_expired_entries().unwrap()), expiring);
        assert_eq!(fixture.service.expire_entries(Some(&act())).unwrap(), 5);
        assert_eq!(fixture.service.expire_entries(None).unwrap(), 0);
        for id in expiring {
            let entry = fixture.entry(id);
            assert_eq!(entry.operation.status, Status::Expired);
            assert_eq!(entry.operation.resolution_type, "expired");
            assert_eq!((entry.audit[0].action.as_str(), &*entry.audit[0].actor), ("expire", "kim"));
        }
        assert_eq!(fixture.status(review), Status::RequiresReview);
        assert_eq!(fixture.status(lasting), Status::Pending);
        let events = fixture.events();
        assert_eq!(events.len(), 1, "nothing is told of nothing: {events:?}");
        assert_eq!(events[0]["event"], "DLQ_MAINTENANCE");
        assert_eq!((&events[0]["count"], &events[0]["actor_id"]), (&5.into(), &"kim".into()));
    });
}

#[test]
fn resolved_entries_are_archived_by_their_age_and_others_by_retention() {
    let mut settings = DlqConfig::default();
    settings.archive_older_than_days = 10;
    settings.retention_days = 20;
    over_all_with(&settings, |fixture| {
        let archived = |days: Option<u32>| fixture.service.archive_old_entries(days, None).unwrap();
        let statuses = [
            Status::Resolved,
            Status::Rejected,
            Status::Expired,
            Status::PermanentlyFailed,
            Status::Pending,
            Status::RequiresReview,
        ];
        let stored = statuses.map(|status| {
            let id = fixture.stored("orders");
            fixture.set(id, status);
            id
        });
        fixture.clock.advance(10 * DAY);
        assert_eq!(archived(None), 0, "exactly as old is not older");
        fixture.clock.advance(Duration::from_millis(1));
        assert_eq!(archived(None), 1);
        assert_eq!(fixture.status(stored[0]), Status::Archived);
        assert!(fixture.entry(stored[0]).archived_at.is_some());
        assert!(fixture.entry(stored[0]).operation.resolved_at.is_some(), "still known");
        fixture.clock.advance(10 * DAY);
        assert_eq!(archived(Some(0)), 3);
        for id in &stored[..4] {
            assert_eq!(fixture.status(*id), Status::Archived);
        }
        assert_eq!(fixture.status(stored[4]), Status::Pending);
        assert_eq!(fixture.status(stored[5]), Status::RequiresReview);
    });
}

#[test]
fn cleanup_expires_and_then_archives() {
    over_all(|fixture| {
        let expires = Timestamp(fixture.repository.now().0 + 1);
        let old = fixture.store(NewFailure::new("orders", "TIMEOUT").expires_at(expires));
        let done = fixture.stored("orders");
        fixture.set(done, Status::Resolved);
        fixture.clock.advance(31 * DAY);
        let result = fixture.service.cleanup_old_entries(None, None).unwrap();
        assert_eq!((result.expired_count, result.archived_count), (1, 1));
        assert_eq!(fixture.status(old), Status::Expired, "it expired just now");
        assert_eq!(fixture.status(done), Status::Archived);
    });
}

#[test]
fn a_purge_does_what_it_announced() {
    over_all(|fixture| {
        let stored: Vec<_> = (0..4).map(|_| fixture.stored("orders")).collect();
        for id in &stored[..3] {
            fixture.set(*id, Status::Archived);
            fixture.clock.advance(DAY);
        }
        // A later change must not make an archived entry younger.
        assert!(fixture.repository.increment_retry_count(stored[0]).unwrap());
        let count = |days| {
            let selection = PurgeSelection::OlderThanDays(days);
            fixture.service.count_purge(&selection).unwrap()
        };
        assert_eq!([0, 1, 2, 3].map(count), [3, 2, 1, 0], "exactly as old is not older");
        let selection = PurgeSelection::OlderThanDays(1);
        assert_eq!(fixture.service.purge_archived(&selection, Some(&act())).unwrap(), 2);
        assert_eq!(fixture.repository.get_by_id(stored[0]).unwrap(), None);
        assert_eq!(fixture.repository.get_by_id(stored[1]).unwrap(), None);
        assert_eq!(fixture.status(stored[2]), Status::Archived);
        assert_eq!(count(0), 1);
        let accounting = fixture.service.get_stats().unwrap().accounting;
        assert_eq!((accounting.captured, accounting.live, accounting.purged), (4, 2, 2));
    });
}

#[test]
fn a_purge_by_id_checks_all_before_it_deletes_one() {
    over_all(|fixture| {
        let archived = fixture.stored("orders");
        fixture.set(archived, Status::Archived);
        let pending = fixture.stored("orders");
        let both = PurgeSelection::Ids(vec![archived, pending]);
        for refused in [
            fixture.service.count_purge(&both).unwrap_err(),
            fixture.service.purge_archived(&both, None).unwrap_err(),
        ] {
            let text = refused.to_string();
            assert!(matches!(refused, DlqError::StateConflict { .. }), "{refused:?}");
            assert!(text.contains(&pending.to_string()) && text.contains("pending"), "{text}");
        }
        assert_eq!(fixture.status(archived), Status::Archived);
        let nothing = PurgeSelection::Ids(Vec::new());
        assert_eq!(fixture.service.purge_archived(&nothing, None).unwrap(), 0);
        let some = PurgeSelection::Ids(vec![archived, EntryId(999), archived]);
        assert_eq!(fixture.service.count_purge(&some).unwrap(), 1);
        assert_eq!(fixture.service.purge_archived(&some, None).unwrap(), 1);
    });
}

#[test]
fn an_operator_resolves_with_a_note_on_record() {
    over_all(|fixture| {
        let id = fixture.stored("orders");
        let now = fixture.repository.now();
        let result = fixture.service.resolve_entry(id, &resolve()).unwrap();
        assert!(result.success);
        assert_eq!((result.id, result.previous_status), (id, Status::Pending));
        assert_eq!((result.current_status, result.resolved_at), (Status::Resolved, Some(now)));
        assert_eq!(result.notes, "paid");
        let history = fixture.service.history(id).unwrap();
        let action = &history.audit[0];
        assert_eq!((&*action.actor, &*action.action), ("kim", "resolve"));
        assert_eq!((&*action.reason, &*action.ticket), ("paid by hand", "T-1"));
        assert_eq!((action.from, action.to), (Status::Pending, Status::Resolved));
        assert_eq!(fixture.entry(id).operation.resolution_type, "manual");
        let again = fixture.service.resolve_entry(id, &resolve()).unwrap_err();
        assert!(matches!(again, DlqError::StateConflict { .. }), "{again:?}");
        let error = fixture.service.resolve_entry(EntryId(999), &resolve()).unwrap_err();
        assert!(matches!(error, DlqError::NotFound { .. }), "{error:?}");
        assert_eq!(fixture.events()[0]["event"], "DLQ_RESOLVED");
        assert_eq!(fixture.events()[0]["from"], "pending");
    });
}

#[test]
fn a_rejection_is_a_resolution_of_another_kind() {
    over_all(|fixture| {
        let id = fixture.stored("orders");
        let mut request = resolve();
        request.status = Status::Rejected;
        let result = fixture.service.resolve_entry(id, &request).unwrap();
        assert_eq!(result.current_status, Status::Rejected);
        assert!(result.resolved_at.is_some());
        assert_eq!(fixture.entry(id).operation.resolved_at, None);
        request.status = Status::Pending;
        let error = fixture.service.resolve_entry(id, &request).unwrap_err();
        assert!(matches!(error, DlqError::Engine(Error::Invalid { .. })), "{error:?}");
        // A judgment may be revised.
        fixture.service.resolve_entry(id, &resolve()).unwrap();
        assert_eq!(fixture.status(id), Status::Resolved);
    });
}

#[test]
fn a_resolution_beats_a_replay_that_runs() {
    over_all(|fixture| {
        let id = fixture.stored("orders");
        let (leased, _) =
            fixture.repository.try_acquire_for_replay(id, LEASE, false, None).unwrap().unwrap();
        fixture.service.resolve_entry(id, &resolve()).unwrap();
        let failure = Completion::Failure { note: "late".into(), not_before: None };
        let late = fixture.repository.complete_replay(leased, &failure).unwrap_err();
        assert!(matches!(late, Error::LeaseLost { .. }), "{late:?}");
        let entry = fixture.entry(id);
        assert_eq!(entry.operation.status, Status::Resolved);
        assert_eq!(entry.operation.resolution_note, "paid");
    });
}

#[test]
fn a_batch_of_resolutions_goes_on_past_refusals() {
    over_all(|fixture| {
        let stored: Vec<_> = (0..120).map(|_| fixture.stored("orders")).collect();
        fixture.set(stored[0], Status::Archived);
        let mut pks = stored.clone();
        pks.extend([EntryId(999), stored[1]]);
        let mut request = resolve();
        request.chunk_size = Some(50);
        let result = fixture.service.resolve_entries_batch(&pks, &request).unwrap();
        assert_eq!((result.total, result.resolved, result.skipped), (122, 119, 1));
        assert_eq!((result.failed, result.chunks), (2, 3));
        let refused: Vec<_> = result.errors.iter().map(|error| error.id).collect();
        assert_eq!(refused, [stored[0], EntryId(999)]);
        assert!(result.errors[0].error.contains("archived"), "{:?}", result.errors[0]);
        for chunk_size in [0, 10_001] {
            request.chunk_size = Some(chunk_size);
            let error = fixture.service.resolve_entries_batch(&pks, &request).unwrap_err();
            assert!(error.to_string().contains("chunk_size"), "{error}");
        }
        let none = fixture.service.resolve_entries_batch(&[], &resolve()).unwrap();
        assert_eq!((none.total, none.resolved, none.chunks), (0, 0, 0));
    });
}

#[test]
fn statistics_count_what_ever_happened() {
    over_all(|fixture| {
        let repository = &fixture.repository;
        let failed = Completion::Failure { note: "down".into(), not_before: None };
        let done = Completion::Success { note: String::new(), resolution_type: String::new() };
        let retried = fixture.stored("orders");
        for _ in 0..2 {
            let acquired = repository.try_acquire_for_replay(retried, LEASE, false, None);
            repository.complete_replay(acquired.unwrap().unwrap().0, &failed).unwrap();
        }
        let forced = repository.try_acquire_for_replay(retried, LEASE, true, Some(&act()));
        repository.complete_replay(forced.unwrap().unwrap().0, &done).unwrap();
        let batch = fixture.stored("mail");
        let leased = repository.acquire_batch(&[batch], LEASE).unwrap();
        repository.start(leased[0], ReplayType::Batch).unwrap();
        let later = Completion::Throttled { note: String::new(), not_before: None };
        repository.complete_replay(leased[0], &later).unwrap();
        fixture.service.resolve_entry(batch, &resolve()).unwrap();
        fixture.set(retried, Status::Archived);
        fixture.service.purge_archived(&PurgeSelection::Ids(vec![retried]), None).unwrap();

        let stats = fixture.service.get_stats().unwrap();
        let orders = &stats.counters["orders"];
        assert_eq!((orders.created, orders.created_by_failure_type["TIMEOUT"]), (1, 1));
        assert_eq!(orders.replay_attempts["single"], 3);
        assert_eq!((orders.replay_failed, orders.replay_succeeded), (2, 1));
        assert_eq!((orders.replay_exhausted, orders.force_redrive), (1, 1));
        assert_eq!((orders.force_redrive_exhausted, orders.archived, orders.purged), (0, 1, 1));
        let mail = &stats.counters["mail"];
        assert_eq!((mail.replay_attempts["batch"], mail.replay_throttled), (1, 1));
        assert_eq!(mail.resolved, 1);
        assert_eq!(stats.statistics.by_status[&Status::Resolved], 1);
        assert_eq!(stats.statistics.total, 1);
        let tallies = repository.tallies().unwrap();
        let leased: u64 = tallies.iter().filter_map(|row| row.counts.get(&Cause::Leased)).sum();
        assert_eq!(leased, 1);
    });
}

#[test]
fn a_listener_that_panics_harms_nobody() {
    over_all(|fixture| {
        fixture.service.on_event(|_| panic!("not our day"));
        let id = fixture.stored("orders");
        fixture.service.resolve_entry(id, &resolve()).unwrap();
        assert_eq!(fixture.status(id), Status::Resolved);
        assert_eq!(fixture.events().len(), 1);
    });
}

#[test]
fn maintenance_announces_what_it_could_do() {
    over_all(|fixture| {
        let done = fixture.stored("orders");
        fixture.set(done, Status::Resolved);
        let archived = fixture.stored("orders");
        fixture.set(archived, Status::Archived);
        fixture.clock.advance(90 * DAY + Duration::from_millis(1));
        let stats = fixture.service.get_cleanup_stats().unwrap();
        assert_eq!((stats.total, stats.can_archive(), stats.can_purge()), (2, 1, 1));
        assert_eq!(stats.by_status[&Status::Archived], 1);
        let facets = fixture.service.get_facet_counts(Some(Status::Resolved), None).unwrap();
        assert_eq!(facets.by_domain["orders"], 1);
        assert!(fixture.clock.wall_ms() > 0);
    });
}

#[test]
fn what_a_caller_does_is_told_once_and_in_its_name() {
    over_all(|fixture| {
        let caller = fixture.service.caller_context("alice");
        let stored = caller.service().store_failure(NewFailure::new("orders", "TIMEOUT"));
        let id = stored.dlq_id.unwrap();
        caller.service().resolve_entry(id, &resolve()).unwrap();
        caller.service().replay(None, None).unwrap();
        assert_eq!(fixture.events(), Vec::<serde_json::Value>::new(), "kept until it is over");
        caller.flush();
        let told = fixture.events();
        let names: Vec<_> = told.iter().map(|event| event["event"].clone()).collect();
        assert_eq!(names, ["DLQ_STORED", "DLQ_RESOLVED"]);
        assert!(told.iter().all(|event| event["actor"] == "alice"), "{told:?}");
        drop(caller);
        assert_eq!(fixture.events().len(), 2, "and not again");
        let late = fixture.service.caller_context("bob");
        let handle = late.service();
        drop(late);
        handle.store_failure(NewFailure::new("orders", "TIMEOUT"));
        assert_eq!(fixture.events().len(), 3, "a caller that is gone keeps nothing");
    });
}

#[test]
fn statistics_are_the_same_after_a_restart() {
    let clock = Memory::new(3);
    let open = || {
        let engine = Engine::open_with(config(), Arc::new(clock.clone())).unwrap();
        let settings = by_hand(&DlqConfig::default());
        let service = DlqService::new(Some(settings), Some(Arc::new(engine.clone())));
        (engine, service)
    };
    let (engine, service) = open();
    let ids: Vec<_> = ["orders", "mail", "orders", "mail"]
        .map(|domain| engine.store(NewFailure::new(domain, "TIMEOUT")).unwrap().id)
        .to_vec();
    service.resolve_entry(ids[0], &resolve()).unwrap();
    let failed = Completion::Failure { note: "down".into(), not_before: None };
    for _ in 0..2 {
        let acquired = engine.try_acquire_for_replay(ids[1], LEASE, false, None).unwrap();
        engine.complete_replay(acquired.unwrap().0, &failed).unwrap();
    }
    clock.advance(Duration::from_millis(1));
    service.archive_old_entries(Some(0), None).unwrap();
    service.purge_archived(&PurgeSelection::Ids(vec![ids[0]]), None).unwrap();
    let before = service.get_stats().unwrap();
    assert_eq!(before.counters["mail"].replay_exhausted, 1);
    assert_eq!(before.counters["orders"].purged, 1);
    service.close().unwrap();
    let closed = service.get_stats().unwrap_err();
    assert!(matches!(closed, DlqError::Engine(Error::Closed)), "{closed:?}");
    let (engine, service) = open();
    assert_eq!(service.get_stats().unwrap(), before);
    // Without closing, as after a crash of the process.
    let storm = NewFailure::new("orders", "TIMEOUT");
    engine.store(storm).unwrap();
    let before = service.get_stats().unwrap();
    let counters = before.counters.clone();
    drop((engine, service));
    assert_eq!(open().1.get_stats().unwrap().counters, counters);
}

/// How many times the disk is asked to do something while twenty entries expire.
fn operations_of_expiry(batch_size: u32) -> u64 {
    let disk = Simulated::new(3);
    let engine = Engine::open_with(config(), Arc::new(disk.clone())).unwrap();
    let now = engine.now();
    for _ in 0..20 {
        engine.store(NewFailure::new("orders", "TIMEOUT").expires_at(now)).unwrap();
    }
    disk.advance(HOUR);
    let mut settings = DlqConfig::default();
    settings.batch_size = batch_size;
    let service = DlqService::new(Some(by_hand(&settings)), Some(Arc::new(engine)));
    let before = disk.operations();
    assert_eq!(service.expire_entries(None).unwrap(), 20);
    disk.operations() - before
}

#[test]
fn expiry_writes_as_many_entries_at_a_time_as_the_batch_size_says() {
    let (one, four, all) =
        (operations_of_expiry(1), operations_of_expiry(4), operations_of_expiry(20));
    assert!(one >= 4 * four && four > all, "{one}, {four} and {all} operations");
}
