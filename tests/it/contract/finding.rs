//! Finding entries: filters, order, pages, and the questions that have names.

use std::collections::BTreeMap;
use std::time::Duration;

use deadletter::{Entry, EntryId, Filter, Order, Page, SlaThresholds, Status, Timestamp};

use super::{Fixture, each, everything, failure, ids, of, status_filter};

/// Twelve entries of three domains and two types; all but two were created at the same time, and
/// the two later ones are older by their clock.
fn filled(f: &Fixture) -> Vec<EntryId> {
    let store = |number: usize| {
        let mut failure = of(["a", "b", "c"][number % 3]);
        failure.failure_type = ["EVEN", "ODD"][number % 2].to_owned();
        failure.created_at = Some(Timestamp(if number < 10 { 5000 } else { 100 }));
        f.store(failure)
    };
    (0..12).map(store).collect()
}

#[test]
fn order_is_by_id_and_newest_is_oldest_reversed() {
    each(|f| {
        let mut wanted = filled(f);
        let all = Filter::default();
        assert_eq!(f.found(&all, everything()), wanted, "not by the time that they carry");
        wanted.reverse();
        assert_eq!(f.found(&all, Page::default()), wanted);
        f.reopen();
        assert_eq!(f.found(&all, Page::default()), wanted);
        let page = Page { offset: 3, limit: 4, ..Page::default() };
        assert_eq!(f.found(&all, page), wanted[3..7]);
        let page = Page { order: Order::Oldest, ..page };
        wanted.reverse();
        assert_eq!(f.found(&all, page), wanted[3..7]);
    });
}

#[test]
fn pages_end_where_the_entries_end() {
    each(|f| {
        let stored = filled(f);
        let all = Filter::default();
        for order in [Order::Newest, Order::Oldest] {
            let page = Page { order, ..Page::default() };
            assert_eq!(f.found(&all, Page { offset: 12, ..page }), []);
            assert_eq!(f.found(&all, Page { offset: u64::MAX, ..page }), []);
            assert_eq!(f.found(&all, Page { limit: 0, ..page }), []);
            assert_eq!(f.found(&all, Page { offset: 11, ..page }).len(), 1);
            assert_eq!(f.found(&all, Page { limit: usize::MAX, ..page }).len(), 12);
        }
        let after = Page { after: Some(stored[6]), ..Page::default() };
        assert_eq!(f.found(&all, after).first(), Some(&stored[5]));
        let after = Page { order: Order::Oldest, offset: 1, ..after };
        assert_eq!(f.found(&all, after).first(), Some(&stored[8]));
    });
}

#[test]
fn a_page_goes_on_behind_an_entry_that_is_gone() {
    each(|f| {
        let stored = filled(f);
        assert!(f.delete(stored[6]).unwrap());
        f.stored(3);
        let after = Page { after: Some(stored[6]), limit: 2, ..Page::default() };
        assert_eq!(f.found(&Filter::default(), after), [stored[5], stored[4]]);
    });
}

#[test]
fn filters_combine_and_match_exactly() {
    each(|f| {
        let stored = filled(f);
        f.put(stored[1], Status::Resolved);
        let filter = |status, domain: Option<&str>, kind: Option<&str>| Filter {
            status,
            domain: domain.map(str::to_owned),
            failure_type: kind.map(str::to_owned),
            ..Filter::default()
        };
        let wanted = |numbers: &[usize]| numbers.iter().map(|n| stored[*n]).collect::<Vec<_>>();
        for (filter, numbers) in [
            (filter(None, Some("b"), None), vec![1, 4, 7, 10]),
            (filter(None, Some("b"), Some("ODD")), vec![1, 7]),
            (filter(Some(Status::Pending), Some("b"), Some("ODD")), vec![7]),
            (filter(Some(Status::Resolved), None, None), vec![1]),
            (filter(Some(Status::Expired), None, None), vec![]),
            (filter(None, Some("B"), None), vec![]),
            (filter(None, Some(""), None), vec![]),
            (filter(None, Some("b"), Some("odd")), vec![]),
        ] {
            assert_eq!(f.found(&filter, everything()), wanted(&numbers), "{filter:?}");
            assert_eq!(f.count(&filter).unwrap(), numbers.len() as u64, "{filter:?}");
        }
    });
}

#[test]
fn both_ends_of_a_window_are_inside() {
    each(|f| {
        for at in [99, 100, 150, 200, 201] {
            let mut failure = failure();
            failure.created_at = Some(Timestamp(at));
            let id = f.store(failure);
            if at == 150 {
                f.put(id, Status::Archived);
            }
        }
        let window = |from, to| f.count_created_in_window(Timestamp(from), Timestamp(to)).unwrap();
        assert_eq!(window(100, 200), 3, "of any status");
        assert_eq!(window(100, 100), 1);
        assert_eq!(window(101, 149), 0);
        assert_eq!(window(200, 100), 0);
        assert_eq!(window(0, u64::MAX), 5);
        let archived = f.found(&status_filter(Status::Archived), everything());
        assert_eq!(f.purge_archived(&archived).unwrap(), 1);
        assert_eq!(window(100, 200), 2, "those that are gone are not counted");
    });
}

#[test]
fn named_questions_are_asked_oldest_first() {
    each(|f| {
        let stored = filled(f);
        f.put(stored[0], Status::Reviewing);
        let all = |entries: Vec<Entry>| ids(&entries);
        let pending = f.find_by_status(Status::Pending, None, None, 3).unwrap();
        assert_eq!(all(pending), stored[1..4]);
        let odd = f.find_by_status(Status::Pending, Some("b"), Some("ODD"), 100).unwrap();
        assert_eq!(all(odd), [stored[1], stored[7]]);
        let replayable = f.find_replayable(Some("a"), None, 100).unwrap();
        assert_eq!(all(replayable), [stored[3], stored[6], stored[9]]);
        let pending = f.get_pending_by_domain("a", 2).unwrap();
        assert_eq!(all(pending), [stored[3], stored[6]]);
        assert_eq!(f.get_pending_count_by_domain("a").unwrap(), 3);
        assert_eq!(f.get_pending_count_by_domain("z").unwrap(), 0);
        assert_eq!(f.find_by_status(Status::Pending, None, None, 0).unwrap(), []);
        assert_eq!(f.find_replayable(None, None, 0).unwrap(), []);
    });
}

#[test]
fn a_busy_domain_hides_no_other() {
    each(|f| {
        for _ in 0..1000 {
            f.store(of("busy"));
        }
        let quiet = f.store(of("quiet"));
        let busy_again = f.store(of("busy"));
        assert_eq!(ids(&f.find_replayable(Some("quiet"), None, 1).unwrap()), [quiet]);
        assert_eq!(ids(&f.get_pending_by_domain("quiet", 1).unwrap()), [quiet]);
        assert_eq!(f.get_oldest_ids(1, Some("quiet")).unwrap(), [quiet]);
        assert!(busy_again > quiet);
    });
}

#[test]
fn the_oldest_are_those_that_await_somebody() {
    each(|f| {
        let mut active = Vec::new();
        for status in Status::ALL {
            let id = f.store_in(status);
            if !status.is_terminal() {
                active.push(id);
            }
        }
        assert_eq!(active.len(), 5);
        assert_eq!(f.get_oldest_ids(100, None).unwrap(), active);
        assert_eq!(f.get_oldest_ids(2, None).unwrap(), active[..2]);
        assert_eq!(f.get_oldest_ids(0, None).unwrap(), []);
        assert_eq!(f.get_oldest_ids(100, Some("other")).unwrap(), []);
    });
}

#[test]
fn entries_expire_strictly_before_a_time_and_only_pending_ones() {
    each(|f| {
        let early = f.store(failure().expires_at(Timestamp(500)));
        let exact = f.store(failure().expires_at(Timestamp(1000)));
        let never = f.store(failure());
        let done = f.store(failure().expires_at(Timestamp(500)));
        f.put(done, Status::Resolved);
        assert_eq!(ids(&f.find_expired(Timestamp(1000), 10).unwrap()), [early]);
        assert_eq!(ids(&f.find_expired(Timestamp(1001), 10).unwrap()), [early, exact]);
        assert_eq!(ids(&f.find_expired(Timestamp(1001), 1).unwrap()), [early]);
        assert_eq!(f.find_expired(Timestamp(0), 10).unwrap(), []);
        assert_eq!(f.find_expired(super::far(), 10).unwrap().len(), 2);
        assert_eq!(f.status(never), Status::Pending);
    });
}

#[test]
fn entries_that_are_not_due_are_left_out_of_what_is_due() {
    each(|f| {
        let now = f.now();
        let at_once = f.store(failure());
        let later = f.store(failure().not_before(Timestamp(now.0 + 1000)));
        let due = |at| Filter { due_at: Some(Timestamp(at)), ..status_filter(Status::Pending) };
        assert_eq!(f.found(&due(now.0 + 999), everything()), [at_once]);
        assert_eq!(f.found(&due(now.0 + 1000), everything()), [at_once, later]);
        assert_eq!(f.count(&due(now.0)).unwrap(), 1);
        assert_eq!(ids(&f.find_replayable(None, None, 10).unwrap()), [at_once, later]);
    });
}

/// Creates an entry of a domain as old as this.
fn aged(f: &Fixture, domain: &str, age_ms: u64) -> EntryId {
    let mut failure = of(domain);
    failure.created_at = Some(Timestamp(f.now().0 - age_ms));
    f.store(failure)
}

#[test]
fn service_levels_have_a_default_whoever_is_listed() {
    each(|f| {
        let fast = aged(f, "fast", 1001);
        let exact = aged(f, "fast", 1000);
        let slow = aged(f, "slow", 5001);
        let young = aged(f, "slow", 4000);
        let other = aged(f, "other", 3_000_001);
        let done = aged(f, "fast", 9_000_000);
        f.put(done, Status::RequiresReview);
        let mut thresholds =
            SlaThresholds { default: Duration::from_secs(5), by_domain: BTreeMap::new() };
        let breached = |thresholds: &SlaThresholds, limit| {
            ids(&f.find_sla_breached(f.now(), thresholds, limit).unwrap())
        };
        assert_eq!(breached(&thresholds, 10), [slow, other]);
        thresholds.by_domain.insert("fast".to_owned(), Duration::from_secs(1));
        assert_eq!(breached(&thresholds, 10), [fast, slow, other], "strictly older");
        assert_eq!(breached(&thresholds, 2), [fast, slow]);
        assert_eq!(breached(&thresholds, 0), []);
        thresholds.default = Duration::MAX;
        assert_eq!(breached(&thresholds, 10), [fast]);
        f.advance_ms(1);
        assert_eq!(breached(&thresholds, 10), [fast, exact]);
        thresholds.default = Duration::ZERO;
        assert_eq!(breached(&thresholds, 10), [fast, exact, slow, young, other]);
    });
}
