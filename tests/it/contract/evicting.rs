//! Limits, eviction, and the summaries of what was evicted.

use std::collections::BTreeSet;

use deadletter::{
    Bounds, Cause, Config, Durability, Entry, EntryId, Error, EvictRequest, EvictedSummary, Filter,
    Json, OverflowStrategy, Priority, Status, SummaryStatus, Timestamp, WaterLevel,
};

use super::{Fixture, each, each_with, everything, failure, ids, of, tally};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

fn limited(change: impl FnOnce(&mut Bounds)) -> Config {
    let mut config = crate::store::config();
    change(&mut config.bounds);
    config
}

/// A limit of 100 entries of each domain, the smallest there is.
fn small(strategy: OverflowStrategy) -> Config {
    limited(|bounds| {
        bounds.max_size_per_domain = Some(100);
        bounds.overflow_strategy = strategy;
    })
}

fn request(count: u64) -> EvictRequest {
    EvictRequest { count, ..EvictRequest::default() }
}

fn compressed(count: u64) -> EvictRequest {
    EvictRequest { compress: true, ..request(count) }
}

fn left(fixture: &Fixture) -> Vec<EntryId> {
    ids(&fixture.find(&Filter::default(), everything()).unwrap())
}

fn fill(fixture: &Fixture, domain: &str, count: usize) -> Vec<EntryId> {
    (0..count).map(|_| fixture.store(of(domain))).collect()
}

/// The setting and the numbers of a refusal.
fn full(error: &Error) -> (&str, u64, u64) {
    let Error::TooMany { what, limit, count, .. } = error else { panic!("{error}") };
    (what, *limit, *count)
}

#[test]
fn the_oldest_go_first() {
    each(|fixture| {
        let ids = fixture.stored(5);
        let report = fixture.evict(&request(2)).unwrap();
        assert_eq!((report.evicted, report.summaries), (2, 0));
        assert_eq!(left(fixture), ids[2..]);
        assert_eq!(fixture.get_by_id(ids[0]).unwrap(), None);
        assert_eq!(fixture.accounting().unwrap().evicted, 2);
        assert_eq!(tally(fixture, Cause::Evicted), 2);
        assert_eq!(fixture.evict(&request(10)).unwrap().evicted, 3, "then none remains");
        assert_eq!(fixture.evict(&request(10)).unwrap().evicted, 0);
        assert_eq!(fixture.evictions().evicted, 5);
    });
}

#[test]
fn what_is_done_goes_only_where_space_is_wanted() {
    each(|fixture| {
        let waits = fixture.store_in(Status::Pending);
        let resolved = fixture.store_in(Status::Resolved);
        let archived = fixture.store_in(Status::Archived);
        let failed = fixture.store_in(Status::PermanentlyFailed);
        let next = |terminal| {
            let report = fixture.evict(&EvictRequest { terminal, ..request(1) }).unwrap();
            (report.evicted, left(fixture))
        };
        assert_eq!(next(true), (1, vec![waits, resolved, failed]), "{archived} goes first");
        assert_eq!(next(true), (1, vec![waits, failed]));
        assert_eq!(next(false), (1, vec![failed]), "it does not count for a limit of entries");
        assert_eq!(next(false), (0, vec![failed]));
        assert_eq!(next(true), (1, vec![]));
    });
}

/// The reference frees nothing when the oldest are protected.
#[test]
fn leased_and_reviewed_entries_are_passed_over() {
    each(|fixture| {
        let mut kept: BTreeSet<EntryId> = BTreeSet::new();
        kept.extend((0..3).map(|_| fixture.store_in(Status::Replaying)));
        kept.extend((0..2).map(|_| fixture.store_in(Status::Reviewing)));
        fixture.stored(5);
        for compress in [false, true] {
            let report = fixture.evict(&EvictRequest { compress, ..request(3) }).unwrap();
            assert_eq!(report.evicted, if compress { 2 } else { 3 });
        }
        assert_eq!(left(fixture), kept.into_iter().collect::<Vec<_>>());
    });
}

#[test]
fn priority_decides_before_age() {
    let config = limited(|bounds| {
        bounds.domain_priorities.insert("gold".to_owned(), Priority::Critical);
        bounds.domain_priorities.insert("lead".to_owned(), Priority::Low);
    });
    each_with(&config, |fixture| {
        let domains = ["gold", "tin", "lead", "gold", "tin", "lead"];
        let ids = domains.map(|domain| fixture.store(of(domain)));
        for gone in [2, 5, 1, 4, 0, 3] {
            assert_eq!(fixture.evict(&request(1)).unwrap().evicted, 1);
            assert_eq!(fixture.get_by_id(ids[gone]).unwrap(), None, "{}", domains[gone]);
        }
        let ids = domains.map(|domain| fixture.store(of(domain)));
        let tin = EvictRequest { domain: Some("tin".to_owned()), ..request(9) };
        assert_eq!(fixture.evict(&tin).unwrap().evicted, 2, "only of the domain named");
        assert_eq!(left(fixture), [ids[0], ids[2], ids[3], ids[5]]);
    });
}

#[test]
fn the_key_of_an_evicted_entry_is_free() {
    each(|fixture| {
        let first = fixture.store(failure().key("order-7"));
        fixture.evict(&request(1)).unwrap();
        assert_eq!(fixture.get_by_key("order-7").unwrap(), None);
        let second = fixture.create(failure().key("order-7"), Durability::Synced).unwrap();
        assert!(!second.duplicate && second.id > first);
    });
}

#[test]
fn evicted_entries_are_summed_up() {
    each(|fixture| {
        let context = Json::object("{\"shop\": 3}").unwrap();
        fixture.store(of("mail").error("E1", "first"));
        fixture.store(of("mail").error("E2", "other"));
        fixture.advance_ms(5);
        let last_seen = fixture.now();
        fixture.store(of("mail").error("E1", "last").entity("order", "7").metadata(context));
        fixture.store(of("mail").error("E1", "kept"));
        let report = fixture.evict(&compressed(3)).unwrap();
        assert_eq!((report.evicted, report.summaries), (3, 2));
        let summaries = fixture.find_summaries(Some("mail"), None, 10).unwrap();
        let [other, first] = &summaries[..] else { panic!("{summaries:?}") };
        assert_eq!((other.error_code.as_str(), other.count), ("E2", 1));
        assert_eq!((first.error_code.as_str(), first.count), ("E1", 2));
        assert_eq!(first.id, format!("compressed:mail:PG_TIMEOUT:E1:{}", first.compressed_at));
        assert_eq!(first.sample_error_message, "last");
        let context = "{\"entity_type\":\"order\",\"entity_id\":\"7\",\"metadata\":{\"shop\": 3}}";
        assert_eq!(first.sample_context.as_str(), context);
        assert_eq!(first.last_seen, last_seen);
        assert_eq!(first.first_seen.0 + 5, last_seen.0);
        fixture.evict(&compressed(1)).unwrap();
        let grown = fixture.get_summary(&first.id).unwrap().unwrap();
        assert_eq!((grown.count, grown.sample_error_message.as_str()), (3, "kept"));
        let totals = fixture.get_summary_totals().unwrap();
        assert_eq!((totals.total_summaries, totals.total_compressed_items), (2, 4));
        fixture.reopen();
        assert_eq!(fixture.get_summary(&first.id).unwrap(), Some(grown));
    });
}

#[test]
fn summaries_are_listed_newest_first() {
    each(|fixture| {
        for domain in ["a", "b", "a", "c"] {
            fixture.store(of(domain).error(format!("E{}", fixture.now().0), ""));
            fixture.advance_ms(1);
        }
        fixture.evict(&compressed(4)).unwrap();
        let domains = |domain, status, limit| {
            let found = fixture.find_summaries(domain, status, limit).unwrap();
            found.iter().map(|summary| summary.domain.clone()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(domains(None, None, 10), "c a b a");
        assert_eq!(domains(None, None, 2), "c a");
        assert_eq!(domains(Some("a"), None, 10), "a a");
        assert_eq!(domains(None, Some(SummaryStatus::Stale), 10), "");
        let totals = fixture.get_summary_totals().unwrap();
        let counts = SummaryStatus::ALL.map(|status| totals.by_status.get(&status));
        assert_eq!(counts, [Some(&4), Some(&0), Some(&0)], "all three are there");
    });
}

/// Of the reference, only the newest 100 ever age.
#[test]
fn every_summary_ages() {
    each(|fixture| {
        let make = |count: u64| {
            for number in 0..count {
                fixture.store(of("mail").error(format!("{number}"), ""));
            }
            fixture.evict(&compressed(count)).unwrap();
        };
        make(4);
        let made = fixture.now();
        let age = |days: u64, ms: u64| {
            let at = Timestamp(made.0 + days * DAY_MS + ms);
            fixture.advance_ms(at.0 - fixture.now().0);
            let aged = fixture.age_summaries(at).unwrap();
            (aged.stale_count, aged.archived_count)
        };
        assert_eq!(age(30, 0), (0, 0), "exactly as old is not older");
        assert_eq!(age(30, 1), (4, 0));
        make(2);
        assert_eq!(age(120, 1), (2, 0), "counted from when it became stale");
        assert_eq!(age(120, 2), (0, 4));
        assert_eq!(age(210, 1), (0, 0));
        assert_eq!(age(210, 2), (0, 2));
        assert_eq!(age(9000, 0), (0, 0), "they are kept");
        let first = fixture.summaries().unwrap().remove(0);
        assert_eq!(first.stale_at.unwrap().0 - made.0, 30 * DAY_MS + 1);
        assert_eq!(first.archived_at.unwrap().0 - made.0, 120 * DAY_MS + 2);
        fixture.reopen();
        assert_eq!(fixture.summaries().unwrap()[0], first);
    });
}

#[test]
fn a_summary_is_put_into_a_status() {
    each(|fixture| {
        fixture.stored(1);
        fixture.evict(&compressed(1)).unwrap();
        let id = fixture.summaries().unwrap()[0].id.clone();
        fixture.advance_ms(7);
        let now = fixture.now();
        assert!(!fixture.update_summary_status("none", SummaryStatus::Stale).unwrap());
        assert!(fixture.update_summary_status(&id, SummaryStatus::Stale).unwrap());
        let summary: EvictedSummary = fixture.get_summary(&id).unwrap().unwrap();
        assert_eq!((summary.status, summary.stale_at), (SummaryStatus::Stale, Some(now)));
        fixture.stored(1);
        fixture.evict(&compressed(1)).unwrap();
        assert_eq!(fixture.summaries().unwrap().len(), 2, "a stale one takes nothing in");
    });
}

#[test]
fn reject_refuses_what_is_over_the_limit() {
    each_with(&small(OverflowStrategy::Reject), |fixture| {
        fixture.store(of("mail").key("first"));
        let ids = fill(fixture, "mail", 99);
        let error = fixture.create(of("mail").hint("mine"), Durability::Synced).unwrap_err();
        assert_eq!(full(&error.source), ("max_size_per_domain", 100, 100));
        assert_eq!(error.failure.next_action_hint, "mine", "it is given back");
        let again = fixture.create(of("mail").key("first"), Durability::Synced).unwrap();
        assert!(again.duplicate, "a known key needs no room");
        fixture.store(of("other"));
        assert_eq!(fixture.accounting().unwrap().refused, 1);
        assert_eq!(fixture.overflow().unwrap().level, WaterLevel::Emergency);
        fixture.step().unwrap();
        assert_eq!(fixture.evictions().evicted, 0);
        fixture.put(ids[50], Status::Resolved);
        fixture.store(of("mail"));
        let failures = vec![of("mail"), of("other")];
        let refused = fixture.create_batch(failures, Durability::Synced).unwrap_err();
        assert_eq!((full(&refused.source).0, refused.failures.len()), ("max_size_per_domain", 2));
        assert_eq!(fixture.count_by_domain("other").unwrap(), 1, "all of a batch or nothing");
    });
}

#[test]
fn drop_oldest_keeps_below_the_limit() {
    each_with(&small(OverflowStrategy::DropOldest), |fixture| {
        let ids = fill(fixture, "mail", 79);
        fixture.step().unwrap();
        assert_eq!(fixture.overflow().unwrap().level, WaterLevel::Normal);
        fill(fixture, "mail", 21);
        let overflow = fixture.overflow().unwrap();
        assert_eq!((overflow.level, overflow.active), (WaterLevel::Emergency, 100));
        assert_eq!(overflow.evictions.evicted, 0);
        fixture.store(of("mail"));
        let overflow = fixture.overflow().unwrap();
        assert_eq!((overflow.level, overflow.active), (WaterLevel::Aggressive, 80));
        assert_eq!((overflow.evictions.evicted, overflow.evictions.emergencies), (21, 1));
        assert_eq!(fixture.get_by_id(ids[20]).unwrap(), None);
        assert!(fixture.get_by_id(ids[21]).unwrap().is_some());
        fixture.step().unwrap();
        assert_eq!(fixture.overflow().unwrap().active, 79, "the rest goes in the background");
        assert_eq!(fixture.evict_overflow().unwrap().evicted, 0);
        for round in 0..300 {
            fixture.store(of("mail"));
            assert!(fixture.count_active_by_domain("mail").unwrap() <= 100, "{round}");
        }
        let accounting = fixture.accounting().unwrap();
        assert_eq!(accounting.captured, accounting.live + accounting.evicted);
        assert_eq!(fixture.summaries().unwrap(), []);
    });
}

#[test]
fn the_whole_is_limited_too() {
    let config = limited(|bounds| {
        bounds.max_size = Some(1000);
        bounds.domain_priorities.insert("lead".to_owned(), Priority::Low);
    });
    each_with(&config, |fixture| {
        fill(fixture, "tin", 400);
        fill(fixture, "lead", 600);
        fixture.store(of("tin"));
        assert_eq!(fixture.count_all().unwrap(), 800);
        assert_eq!(fixture.count_by_domain("tin").unwrap(), 401);
        let oldest = fixture.select(&Filter::default(), everything()).unwrap();
        fixture.bulk_update_status(&oldest[..100], Status::Resolved).unwrap();
        assert_eq!(fixture.overflow().unwrap().active, 700, "what is done does not count");
    });
}

#[test]
fn compress_oldest_counts_what_it_evicts() {
    each_with(&small(OverflowStrategy::CompressOldest), |fixture| {
        for number in 0..250 {
            fixture.store(of("mail").error(format!("E{}", number % 3), ""));
        }
        let accounting = fixture.accounting().unwrap();
        assert!(accounting.evicted >= 150);
        let totals = fixture.get_summary_totals().unwrap();
        assert_eq!(totals.total_compressed_items, accounting.evicted);
        assert_eq!(totals.total_summaries, 3);
        fixture.reopen();
        assert_eq!(fixture.get_summary_totals().unwrap(), totals);
    });
}

#[test]
fn what_may_not_go_keeps_new_entries_out() {
    each_with(&small(OverflowStrategy::DropOldest), |fixture| {
        let ids = fill(fixture, "mail", 100);
        fixture.bulk_update_status(&ids, Status::Reviewing).unwrap();
        let error = fixture.create(of("mail"), Durability::Synced).unwrap_err();
        assert_eq!(full(&error.source), ("max_size_per_domain", 100, 100));
        fixture.put(ids[7], Status::Pending);
        fixture.store(of("mail"));
        assert_eq!(fixture.get_by_id(ids[7]).unwrap(), None);
        let large = (0..101).map(|_| of("other")).collect();
        let error = fixture.create_batch(large, Durability::Synced).unwrap_err();
        assert_eq!(full(&error.source), ("max_size_per_domain", 100, 0));
        assert_eq!(fixture.evictions().evicted, 1, "nothing goes for what cannot fit");
    });
}

/// Every entry is there or counted, whatever was evicted how.
#[test]
fn nothing_goes_without_a_counter() {
    each(|fixture| {
        let mut seen: Vec<Entry> = Vec::new();
        for number in 0..60 {
            let id = fixture.store(of(["a", "b"][number % 2]).error(format!("{}", number % 7), ""));
            seen.push(fixture.get(id));
            if number % 5 == 4 {
                fixture.evict(&EvictRequest { compress: number % 2 == 0, ..request(3) }).unwrap();
            }
        }
        let accounting = fixture.accounting().unwrap();
        assert_eq!(accounting.captured, seen.len() as u64);
        assert_eq!((accounting.evicted, accounting.live), (36, 24));
        assert_eq!(fixture.get_summary_totals().unwrap().total_compressed_items, 18);
    });
}
