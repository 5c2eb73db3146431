//! W38 to W40: how much is read and written, counted and not timed. What the engine reads of its
//! files for one of these calls is counted in its own tests.

use std::collections::BTreeMap;
use std::time::Duration;

use deadletter::{
    FailedOperationRepository, Filter, Page, ReplayType, SlaThresholds, Status, Timestamp,
};

use super::stand_in::StandIn;
use crate::contract::{
    LEASE, delivered, each, everything, failed, failure, far, of, status_filter,
};

fn thresholds(default: Duration) -> SlaThresholds {
    SlaThresholds { default, by_domain: BTreeMap::new() }
}

#[test]
fn w38_no_question_reads_more_entries_than_it_answers_with() {
    each(|f| {
        let stored = f.stored(1000);
        f.lease(&stored[..3]);
        f.advance_ms(60_000);
        let f = StandIn::new(f);
        let now = f.now();
        assert_eq!(f.reads(|f| f.count(&Filter::default())), 0);
        assert_eq!(f.reads(|f| f.count_all()), 0);
        assert_eq!(f.reads(|f| f.get_statistics()), 0);
        assert_eq!(f.reads(|f| f.get_facet_counts(None, None)), 0);
        assert_eq!(f.reads(|f| f.get_cleanup_stats(now)), 0);
        assert_eq!(f.reads(|f| f.count_created_in_window(Timestamp(0), far())), 0);
        assert_eq!(f.reads(|f| f.count_archived_before(far())), 0);
        assert_eq!(f.reads(|f| f.get_pending_count_by_domain("payment")), 0);
        assert_eq!(f.reads(|f| f.get_oldest_ids(10, None)), 0);
        assert_eq!(f.reads(|f| f.find(&Filter::default(), Page::default())), 100);
        assert_eq!(f.reads(|f| f.find_replayable(None, None, 10)), 10);
        assert_eq!(f.reads(|f| f.find_sla_breached(now, &thresholds(Duration::ZERO), 10)), 10);
        assert_eq!(f.reads(|f| f.find_expired(far(), 10)), 0);
        assert_eq!(f.reads(|f| f.expire(far(), 100, None)), 0);
        assert_eq!(f.reads(|f| f.purge_archived_before(far(), 100)), 0);
        // Each is looked at once to find it, and once when it is changed.
        assert_eq!(f.reads(|f| f.release_stale_replaying(None)), 6);
    });
}

#[test]
fn w39_many_share_one_wait_for_the_disk() {
    each(|f| {
        let stored = f.stored(100);
        let f = StandIn::new(f);
        let mut leased = Vec::new();
        let lease = |f: &dyn FailedOperationRepository| f.acquire_batch(&stored, LEASE);
        assert_eq!(f.waits(|f| lease(f).map(|got| leased = got)), 1);
        assert_eq!(f.waits(|f| f.start(leased[0], ReplayType::Batch)), 1);
        for pair in leased.windows(2) {
            let next = Some((pair[1], ReplayType::Batch));
            let turn_over = |f: &dyn FailedOperationRepository| {
                let turned = f.turn_over(Some((pair[0], &delivered())), next)?;
                turned.ended.unwrap()?;
                turned.started.unwrap()
            };
            assert_eq!(f.waits(turn_over), 1, "one ends and one begins");
        }
        assert_eq!(f.waits(|f| f.complete_replay(leased[99], &failed())), 1);
        assert_eq!(f.waits(|f| f.release_stale_replaying(None)), 0);
        // Payloads may be large, so 64 entries go together.
        assert_eq!(f.waits(|f| f.bulk_update_status(&stored, Status::Resolved)), 2);
        assert_eq!(f.waits(|f| f.archive_before(Status::Resolved, far(), 50, None)), 2);
        assert_eq!(f.waits(|f| f.purge_archived_before(far(), 50)), 2);
        assert_eq!(f.count(&Filter::default()).unwrap(), 0);
    });
}

#[test]
fn w40_no_window_hides_an_entry() {
    each(|f| {
        for _ in 0..1701 {
            f.store(of("busy").expires_at(Timestamp(f.now().0 + 5)));
        }
        let quiet = f.store(of("quiet").expires_at(Timestamp(1)));
        f.advance_ms(1000);
        let found = f.find_replayable(Some("quiet"), None, 1).unwrap();
        assert_eq!(found[0].operation.id, quiet);
        let expired = f.find_expired(Timestamp(2), 1).unwrap();
        assert_eq!(expired[0].operation.id, quiet);
        let breached = f.find_sla_breached(f.now(), &thresholds(Duration::ZERO), usize::MAX);
        assert_eq!(breached.unwrap().len(), 1702);
        assert_eq!(f.expire(far(), 50, None).unwrap(), 1702);
        f.advance_ms(1);
        assert_eq!(f.archive_before(Status::Expired, far(), 50, None).unwrap(), 1702);
        assert_eq!(f.get(quiet).operation.status, Status::Archived);
        assert_eq!(f.purge_archived_before(far(), 50).unwrap(), 1702);
        assert_eq!(f.found(&status_filter(Status::Archived), everything()), []);
        assert_eq!(f.stored(1).len(), 1);
        assert_eq!(f.get_pending_by_domain("payment", 9).unwrap().len(), 1);
        let one = f.store(failure());
        assert_eq!(f.get_oldest_ids(9, Some("payment")).unwrap().last(), Some(&one));
    });
}
