//! W33 to W37: what callers find, and what they cannot say by mistake.

use std::collections::BTreeMap;
use std::time::Duration;

use deadletter::{EntryId, Error, Filter, SlaThresholds, Status, Timestamp};

use super::stand_in::StandIn;
use crate::contract::{LEASE, UNKNOWN, delivered, each, failure, far, ids, of};

/// A host's own repository brings the primitives, and has all the others.
#[test]
fn w33_a_stand_in_has_every_method_of_the_contract() {
    each(|f| {
        let id = f.store(failure());
        let stand_in = StandIn::new(f);
        let stand_in: &dyn deadletter::FailedOperationRepository = &stand_in;
        let acquired = stand_in.try_acquire_for_replay(id, LEASE, false, None).unwrap();
        let (leased, entry) = acquired.unwrap();
        assert_eq!(entry.operation.status, Status::Replaying);
        stand_in.complete_replay(leased, &delivered()).unwrap();
        assert_eq!(stand_in.archive_before(Status::Resolved, far(), 10, None).unwrap(), 1);
        assert_eq!(stand_in.count_archived_before(far()).unwrap(), 1);
        assert_eq!(stand_in.purge_archived(&[id]).unwrap(), 1);
    });
}

#[test]
fn w34_nothing_is_ever_understood_as_everything() {
    each(|f| {
        let stored = f.stored(3);
        f.bulk_update_status(&stored[..2], Status::Archived).unwrap();
        assert_eq!(f.purge_archived(&[]).unwrap(), 0);
        assert_eq!(f.purge_archived_before(Timestamp(0), 10).unwrap(), 0);
        assert_eq!(f.purge_archived_before(f.now(), 0).unwrap(), 0);
        assert_eq!(f.purge_archived(&[UNKNOWN]).unwrap(), 0);
        let error = f.purge_archived(&stored).unwrap_err();
        let Error::Conflict { id, status, .. } = error else { panic!("{error}") };
        assert_eq!((id, status.as_str()), (stored[2].to_string(), "pending"));
        assert_eq!(f.count(&Filter::default()).unwrap(), 3);
    });
    for text in ["", "abc", "-1", "1.0", " 1", "18446744073709551616"] {
        assert!(text.parse::<EntryId>().is_err(), "{text}");
    }
}

#[test]
fn w36_every_repository_gives_what_a_gauge_reads() {
    each(|f| {
        for status in Status::ALL {
            f.store_in(status);
        }
        for domain in ["mail", "orders", "never_registered"] {
            f.store(of(domain));
        }
        let statistics = f.get_statistics().unwrap();
        for status in Status::ALL {
            let wanted = if status == Status::Pending { 4 } else { 1 };
            assert_eq!(statistics.by_status[&status], wanted, "{status}");
        }
        let domains: Vec<_> = statistics.pending_by_domain.keys().map(String::as_str).collect();
        assert_eq!(domains, ["mail", "never_registered", "orders", "payment"], "none is shared");
        assert_eq!(statistics.by_status, f.get_facet_counts(None, None).unwrap().by_status);
    });
}

#[test]
fn w37_the_default_threshold_is_kept_when_others_are_listed() {
    each(|f| {
        let listed = f.store(of("orders"));
        let unlisted = f.store(of("mail"));
        let named_default = f.store(of("default"));
        f.advance_ms(3_600_001);
        let hour = Duration::from_hours(1);
        for by_domain in [
            BTreeMap::new(),
            BTreeMap::from([("orders".to_owned(), hour)]),
            BTreeMap::from([("nobody".to_owned(), Duration::ZERO)]),
        ] {
            let thresholds = SlaThresholds { default: hour, by_domain };
            let breached = f.find_sla_breached(f.now(), &thresholds, 10).unwrap();
            assert_eq!(ids(&breached), [listed, unlisted, named_default]);
        }
        let by_domain = BTreeMap::from([("default".to_owned(), Duration::MAX)]);
        let thresholds = SlaThresholds { default: hour, by_domain };
        let breached = f.find_sla_breached(f.now(), &thresholds, 10).unwrap();
        assert_eq!(ids(&breached), [listed, unlisted], "a domain of that name is a domain");
    });
}
