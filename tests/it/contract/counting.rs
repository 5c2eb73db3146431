//! Counting: facets, statistics, active entries, tallies.

use std::collections::BTreeMap;

use deadletter::{Cause, Facets, Filter, Statistics, Status};

use super::{
    Fixture, act, delivered, each, everything, failed, failure, of, status_filter, tally, throttled,
};

/// Domain `a`: two pending, one resolved. Domain `b`: one pending, one in review.
fn filled(f: &Fixture) {
    f.store(of("a"));
    f.store(of("a"));
    let done = f.store(of("a"));
    f.put(done, Status::Resolved);
    f.store(of("b"));
    let stuck = f.store(of("b"));
    f.put(stuck, Status::RequiresReview);
}

fn by_status(facets: &Facets) -> Vec<(Status, u64)> {
    facets.by_status.iter().map(|(status, count)| (*status, *count)).collect()
}

fn by_domain(facets: &Facets) -> Vec<(&str, u64)> {
    facets.by_domain.iter().map(|(domain, count)| (domain.as_str(), *count)).collect()
}

#[test]
fn a_facet_ignores_its_own_selection_and_shows_no_zero() {
    each(|f| {
        filled(f);
        f.reopen();
        let facets = |status, domain| f.get_facet_counts(status, domain).unwrap();
        let all = facets(None, None);
        assert_eq!(
            by_status(&all),
            [(Status::Pending, 3), (Status::RequiresReview, 1), (Status::Resolved, 1)]
        );
        assert_eq!(by_domain(&all), [("a", 3), ("b", 2)]);
        let chosen = facets(Some(Status::Resolved), Some("b"));
        assert_eq!(by_status(&chosen), [(Status::Pending, 1), (Status::RequiresReview, 1)]);
        assert_eq!(by_domain(&chosen), [("a", 1)]);
        let unknown = facets(None, Some("z"));
        assert_eq!(by_status(&unknown), []);
        assert_eq!(by_domain(&unknown), [("a", 3), ("b", 2)]);
        let unseen = facets(Some(Status::Expired), None);
        assert_eq!(by_domain(&unseen), []);
    });
}

#[test]
fn buckets_that_become_empty_are_gone() {
    each(|f| {
        filled(f);
        let reviewed = f.found(&status_filter(Status::RequiresReview), everything());
        assert!(f.delete(reviewed[0]).unwrap());
        let pending = f.find_by_status(Status::Pending, Some("b"), None, 1).unwrap();
        f.put(pending[0].operation.id, Status::Archived);
        assert_eq!(f.purge_archived(&super::ids(&pending)).unwrap(), 1);
        let facets = f.get_facet_counts(None, None).unwrap();
        assert_eq!(by_status(&facets), [(Status::Pending, 2), (Status::Resolved, 1)]);
        assert_eq!(by_domain(&facets), [("a", 3)]);
        let statistics = f.get_statistics().unwrap();
        assert_eq!(statistics.pending_by_domain.len(), 1);
        assert_eq!(statistics.pending_by_domain_and_failure_type.len(), 1);
    });
}

#[test]
fn statistics_tell_the_same_as_counting() {
    each(|f| {
        filled(f);
        let mut other = of("b");
        other.failure_type = "ODD".to_owned();
        f.store(other);
        let statistics = f.get_statistics().unwrap();
        assert_eq!(statistics.total, 6);
        for status in Status::ALL {
            let counted = f.count(&status_filter(status)).unwrap();
            assert_eq!(statistics.by_status.get(&status).copied().unwrap_or(0), counted);
        }
        let text = |pairs: &BTreeMap<String, u64>| {
            pairs.iter().map(|(name, count)| format!("{name}={count}")).collect::<Vec<_>>()
        };
        assert_eq!(text(&statistics.by_domain), ["a=3", "b=3"]);
        assert_eq!(text(&statistics.pending_by_domain), ["a=2", "b=2"]);
        let types = &statistics.pending_by_domain_and_failure_type;
        assert_eq!(text(&types["b"]), ["ODD=1", "PG_TIMEOUT=1"]);
    });
}

#[test]
fn an_empty_repository_counts_nothing() {
    each(|f| {
        assert_eq!(f.get_statistics().unwrap(), Statistics::default());
        assert_eq!(f.get_facet_counts(None, None).unwrap(), Facets::default());
        assert_eq!((f.count_all().unwrap(), f.tallies().unwrap().len()), (0, 0));
        assert_eq!(f.get_cleanup_stats(f.now()).unwrap(), deadletter::CleanupStats::default());
    });
}

#[test]
fn active_entries_and_all_entries_are_two_counts() {
    each(|f| {
        for status in Status::ALL {
            f.store_in(status);
        }
        f.store(of("other"));
        assert_eq!(f.count_all().unwrap(), 6);
        assert_eq!(f.count_active_by_domain("payment").unwrap(), 5);
        assert_eq!(f.count_by_domain("payment").unwrap(), 10);
        assert_eq!(f.count_active_by_domain("z").unwrap(), 0);
        assert_eq!(f.count_by_domain("z").unwrap(), 0);
        assert_eq!(f.count(&Filter::default()).unwrap(), 11);
    });
}

/// Every cause that an operation of the contract writes is counted, once each, and the counts
/// survive the entries.
#[test]
fn tallies_count_what_happened() {
    each(|f| {
        let id = f.store(failure());
        f.fail(id);
        let leased = f.lease(&[id]);
        assert_eq!(f.release(&leased).unwrap(), 1);
        let leased = f.lease(&[id])[0];
        f.start(leased, deadletter::ReplayType::Conditional).unwrap();
        f.complete_replay(leased, &throttled()).unwrap();
        f.fail(id);
        let forced = f.try_acquire_for_replay(id, super::LEASE, true, Some(&act())).unwrap();
        f.complete_replay(forced.unwrap().0, &failed()).unwrap();
        let leased = f.lease(&[id])[0];
        f.start(leased, deadletter::ReplayType::Batch).unwrap();
        f.complete_replay(leased, &failed()).unwrap();
        f.put(id, Status::Reviewing);
        f.put(id, Status::Resolved);
        f.put(id, Status::Archived);
        assert_eq!(f.purge_archived(&[id]).unwrap(), 1);
        let done = f.store(failure());
        let leased = f.acquire(done);
        f.complete_replay(leased, &delivered()).unwrap();
        assert!(f.delete(done).unwrap());
        f.reopen();
        for (cause, wanted) in [
            (Cause::Stored, 2),
            (Cause::StartedSingle, 3),
            (Cause::StartedBatch, 1),
            (Cause::StartedConditional, 1),
            (Cause::Leased, 3),
            (Cause::Released, 1),
            (Cause::Redriven, 1),
            (Cause::Succeeded, 1),
            (Cause::Failed, 2),
            (Cause::Exhausted, 1),
            (Cause::RedriveExhausted, 1),
            (Cause::Throttled, 1),
            (Cause::Resolved, 1),
            (Cause::Archived, 1),
            (Cause::Other, 1),
            (Cause::Purged, 1),
            (Cause::Deleted, 1),
            (Cause::Interrupted, 0),
        ] {
            assert_eq!(tally(f, cause), wanted, "{cause}");
        }
        for row in f.tallies().unwrap() {
            assert_eq!((row.domain.as_str(), row.failure_type.as_str()), ("payment", "PG_TIMEOUT"));
            assert!(row.counts.values().all(|count| *count > 0));
        }
    });
}
