//! Creating entries: what is kept as it was given, keys, batches, threads.

use std::collections::HashSet;
use std::thread;

use deadletter::{Durability, Error, Filter, Json, NewFailure, OTHER_DOMAIN, Status, Timestamp};

use super::{UNKNOWN, each, everything, failure, ids, of};

#[test]
fn a_new_entry_is_pending_and_has_what_was_given() {
    each(|f| {
        let given = failure().entity("order", "42").hint("ask the bank").action("replay");
        let now = f.now();
        let stored = f.create(given.clone(), Durability::Synced).unwrap();
        assert!(!stored.duplicate);
        let entry = f.get(stored.id);
        assert_eq!(entry.key, stored.key);
        assert_eq!(f.get_by_key(&stored.key).unwrap().unwrap(), entry);
        let operation = entry.operation;
        assert_eq!((operation.id, operation.status), (stored.id, Status::Pending));
        assert_eq!((operation.domain.as_str(), operation.retry_count), ("payment", 0));
        assert_eq!(operation.max_retries, 2, "the cap of the configuration");
        assert_eq!(operation.request_data.as_str(), "{\"amount\" : 1.50}");
        assert_eq!(operation.error_message, "canceled");
        assert_eq!(operation.recommended_action, "replay");
        assert_eq!(operation.next_action_hint, "ask the bank");
        assert_eq!((operation.created_at, operation.updated_at), (now, now));
        assert_eq!((operation.last_retry_at, operation.resolved_at), (None, None));
        assert_eq!(operation.expires_at, None);
        assert_eq!((entry.not_before, entry.archived_at, entry.lease), (None, None, None));
        assert_eq!((entry.attempts.len(), entry.audit.len()), (0, 0));
    });
}

#[test]
fn zero_and_empty_are_values() {
    each(|f| {
        let id = f.store(failure().user(0).entity("", "").error("", ""));
        f.reopen();
        let operation = f.get(id).operation;
        assert_eq!(operation.user_id, Some(0));
        assert_eq!((operation.entity_type.as_deref(), operation.entity_id.as_deref()), {
            (Some(""), Some(""))
        });
        let none = f.store(failure());
        assert_eq!(f.get(none).operation.user_id, None);
        assert_eq!(f.get(none).operation.entity_type, None);
    });
}

#[test]
fn a_cap_of_zero_is_kept_and_waits_for_a_person() {
    each(|f| {
        let id = f.store(failure().max_retries(0));
        let operation = f.get(id).operation;
        assert_eq!((operation.status, operation.max_retries), (Status::RequiresReview, 0));
        assert_eq!(f.find_replayable(None, None, 10).unwrap(), []);
        let line = serde_json::to_string(&f.get(id)).unwrap();
        let mut again: NewFailure = serde_json::from_str(&line).unwrap();
        again.key = None;
        let again = f.get(f.store(again)).operation;
        assert_eq!((again.status, again.max_retries), (Status::RequiresReview, 0));
    });
}

#[test]
fn what_comes_out_is_a_copy() {
    each(|f| {
        let id = f.store(failure());
        let mut entry = f.get(id);
        entry.operation.metadata = Json::object("{\"mine\":1}").unwrap();
        entry.operation.status = Status::Archived;
        let mut found = f.find(&Filter::default(), everything()).unwrap();
        found[0].operation.domain.clear();
        let kept = f.get(id);
        assert_eq!(kept.operation.metadata, Json::empty());
        assert_eq!(kept.operation.status, Status::Pending);
        assert_eq!(kept.operation.domain, "payment");
    });
}

#[test]
fn ids_rise_and_unknown_ones_are_none() {
    each(|f| {
        let stored = f.stored(20);
        assert!(stored.is_sorted_by(|a, b| a < b));
        assert_eq!(f.get_by_id(UNKNOWN).unwrap(), None);
        assert_eq!(f.get_by_id(deadletter::EntryId(0)).unwrap(), None);
        assert_eq!(f.get_by_key("nobody").unwrap(), None);
        assert_eq!(f.get_by_key("").unwrap(), None);
    });
}

#[test]
fn a_key_lives_as_long_as_its_entry() {
    each(|f| {
        let first = f.create(failure().key("order-1"), Durability::Synced).unwrap();
        let again = f.create(of("other").key("order-1"), Durability::Synced).unwrap();
        assert!(again.duplicate);
        assert_eq!((again.id, again.key.as_str()), (first.id, "order-1"));
        assert_eq!(f.get(first.id).operation.domain, "payment", "the first one stays");
        f.reopen();
        assert!(f.create(failure().key("order-1"), Durability::Synced).unwrap().duplicate);
        assert!(f.delete(first.id).unwrap());
        assert_eq!(f.get_by_key("order-1").unwrap(), None);
        let new = f.create(failure().key("order-1"), Durability::Synced).unwrap();
        assert!(!new.duplicate && new.id > first.id);
        let accounting = f.accounting().unwrap();
        assert_eq!((accounting.offered, accounting.duplicates), (4, 2));
    });
}

#[test]
fn a_refused_failure_comes_back_and_counts() {
    each(|f| {
        let error = f.create(NewFailure::new("payment", "").user(7), Durability::Synced);
        let error = error.unwrap_err();
        assert!(matches!(error.source, Error::Invalid { .. }), "{}", error.source);
        assert_eq!(error.failure.user_id, Some(7));
        let long = failure().key("k".repeat(513));
        assert!(f.create(long, Durability::Synced).is_err());
        assert!(f.create(failure().key(""), Durability::Synced).is_err());
        let late = failure().expires_at(Timestamp(u64::MAX));
        assert!(f.create(late, Durability::Synced).is_err());
        let accounting = f.accounting().unwrap();
        assert_eq!((accounting.offered, accounting.refused, accounting.captured), (4, 4, 0));
    });
}

#[test]
fn a_batch_is_kept_all_or_not_at_all() {
    each(|f| {
        let bad = vec![failure(), NewFailure::new("payment", ""), failure()];
        let error = f.create_batch(bad, Durability::Synced).unwrap_err();
        assert_eq!(error.failures.len(), 3);
        assert_eq!(f.count(&Filter::default()).unwrap(), 0);
        let good = vec![failure().key("a"), failure().key("a"), failure().key("b")];
        let stored = f.create_batch(good, Durability::Synced).unwrap();
        assert_eq!(
            stored.iter().map(|stored| stored.duplicate).collect::<Vec<_>>(),
            [false, true, false]
        );
        assert_eq!(stored[0].id, stored[1].id);
        assert_eq!(f.count(&Filter::default()).unwrap(), 2);
        assert_eq!(f.create_batch(Vec::new(), Durability::Synced).unwrap().len(), 0);
    });
}

#[test]
fn a_name_that_is_no_domain_is_kept_beside_another() {
    each(|f| {
        let entry = f.get(f.store(of("  Payment ")));
        assert_eq!(entry.operation.domain, "payment");
        assert_eq!(entry.original_domain, None);
        let entry = f.get(f.store(of("no domain!")));
        assert_eq!(entry.operation.domain, OTHER_DOMAIN);
        assert_eq!(entry.original_domain.as_deref(), Some("no domain!"));
    });
}

#[test]
fn fifty_threads_create_unique_ids() {
    each(|f| {
        let f = &*f;
        let stored: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..50).map(|_| scope.spawn(|| f.stored(4))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let unique: HashSet<_> = stored.iter().collect();
        assert_eq!(unique.len(), 200);
        let mut sorted = stored;
        sorted.sort_unstable();
        assert_eq!(ids(&f.find(&Filter::default(), everything()).unwrap()), sorted);
    });
}

#[test]
fn a_closed_repository_says_so() {
    for maker in super::MAKERS {
        let f = super::Fixture::new(*maker, super::config());
        let id = f.store(failure());
        f.close().unwrap();
        let closed = |error: &Error| matches!(error, Error::Closed);
        assert!(closed(&f.create(failure(), Durability::Synced).unwrap_err().source));
        assert!(closed(&f.get_by_id(id).unwrap_err()));
        assert!(closed(&f.find(&Filter::default(), everything()).unwrap_err()));
        assert!(closed(&f.count(&Filter::default()).unwrap_err()));
        assert!(closed(&f.get_statistics().unwrap_err()));
        assert!(closed(&f.delete(id).unwrap_err()));
        assert!(closed(&f.acquire_batch(&[id], super::LEASE).unwrap_err()));
    }
}
