//! What operators do: statuses set by hand, resolutions, charges, deletion.

use deadletter::{Cause, Filter, Resolution, Status};

use super::{Fixture, UNKNOWN, act, each, failure, tally};

fn resolution(resolved_by_id: Option<i64>) -> Resolution {
    let mut resolution = Resolution::new("manual_fix", "by hand");
    resolution.resolved_by_id = resolved_by_id;
    resolution.recommended_action = "escalate".to_owned();
    resolution
}

fn texts(f: &Fixture, id: deadletter::EntryId) -> [String; 3] {
    let operation = f.get(id).operation;
    [operation.resolution_type, operation.resolution_note, operation.recommended_action]
}

#[test]
fn empty_texts_keep_what_was_there() {
    each(|f| {
        let id = f.store(failure().action("replay"));
        f.put(id, Status::Reviewing);
        assert_eq!(texts(f, id), ["", "", "replay"]);
        assert!(f.update_status(id, Status::Rejected, &resolution(Some(0)), None).unwrap());
        assert_eq!(texts(f, id), ["manual_fix", "by hand", "escalate"]);
        assert_eq!(f.get(id).operation.resolved_by_id, Some(0));
        f.put(id, Status::Pending);
        assert_eq!(texts(f, id), ["manual_fix", "by hand", "escalate"]);
        assert_eq!(f.get(id).operation.resolved_by_id, Some(0));
    });
}

#[test]
fn a_resolution_is_stamped_whoever_made_it() {
    each(|f| {
        for resolved_by_id in [None, Some(0), Some(7)] {
            let id = f.store(failure());
            f.advance_ms(5);
            assert!(f.mark_as_resolved(id, &resolution(resolved_by_id), Some(&act())).unwrap());
            let entry = f.get(id);
            assert_eq!(entry.operation.resolved_at, Some(f.now()));
            assert_eq!(entry.operation.resolved_by_id, resolved_by_id);
            assert_eq!((entry.audit[0].from, entry.audit[0].to), {
                (Status::Pending, Status::Resolved)
            });
            assert_eq!(entry.audit[0].reason, "asked");
            f.put(id, Status::Archived);
            assert_eq!(f.get(id).operation.resolved_at, entry.operation.resolved_at);
            f.put(id, Status::Pending);
            assert_eq!(f.get(id).operation.resolved_at, None, "it is not resolved any more");
        }
        assert_eq!(tally(f, Cause::Resolved), 3);
    });
}

#[test]
fn many_are_set_at_once_and_each_counts_once() {
    each(|f| {
        let ids = f.stored(3);
        f.mark_as_resolved(ids[2], &resolution(None), None).unwrap();
        let asked = [ids[1], UNKNOWN, ids[0], ids[1], ids[2]];
        assert_eq!(f.bulk_update_status(&asked, Status::Archived).unwrap(), 3);
        for id in &ids {
            assert_eq!(f.status(*id), Status::Archived);
        }
        assert_eq!(texts(f, ids[2])[0], "manual_fix");
        assert_eq!(f.bulk_update_status(&[], Status::Pending).unwrap(), 0);
        assert_eq!(f.bulk_update_status(&[UNKNOWN], Status::Pending).unwrap(), 0);
        assert_eq!(tally(f, Cause::Archived), 3);
    });
}

#[test]
fn a_charge_from_elsewhere_counts_against_the_cap() {
    each(|f| {
        let id = f.store(failure());
        f.advance_ms(3);
        assert!(f.increment_retry_count(id).unwrap());
        let operation = f.get(id).operation;
        assert_eq!((operation.status, operation.retry_count), (Status::Pending, 1));
        assert_eq!(operation.last_retry_at, Some(f.now()));
        assert!(f.increment_retry_count(id).unwrap());
        assert_eq!(f.status(id), Status::RequiresReview, "nothing is pending at its cap");
        assert!(f.increment_retry_count(id).unwrap());
        assert_eq!(f.get(id).operation.retry_count, 3);
        assert_eq!(f.get(id).attempts.len(), 0);
        assert!(!f.increment_retry_count(UNKNOWN).unwrap());
    });
}

/// The record of an act says where the entry went, not where it was sent.
#[test]
fn an_entry_at_its_cap_cannot_be_sent_back_to_wait() {
    each(|f| {
        let ids = f.stored(2);
        for id in &ids {
            f.fail(*id);
            f.fail(*id);
        }
        let reopened = f.update_status(ids[0], Status::Pending, &Resolution::default(), None);
        assert!(reopened.unwrap());
        let act = Some(&act());
        f.update_status(ids[0], Status::Pending, &Resolution::default(), act).unwrap();
        let entry = f.get(ids[0]);
        assert_eq!(entry.operation.status, Status::RequiresReview);
        assert_eq!(entry.audit[0].to, Status::RequiresReview);
        assert_eq!(f.bulk_update_status(&ids, Status::Pending).unwrap(), 2);
        assert_eq!(f.status(ids[1]), Status::RequiresReview);
    });
}

#[test]
fn what_is_deleted_is_gone() {
    each(|f| {
        for status in Status::ALL {
            let id = f.store_in(status);
            assert!(f.delete(id).unwrap());
            assert!(!f.delete(id).unwrap());
            assert_eq!(f.get_by_id(id).unwrap(), None);
            assert!(!f.update_status(id, Status::Pending, &resolution(None), None).unwrap());
            assert!(!f.mark_as_resolved(id, &resolution(None), None).unwrap());
            assert!(!f.increment_retry_count(id).unwrap());
        }
        assert!(!f.delete(UNKNOWN).unwrap());
        f.reopen();
        assert_eq!(f.count(&Filter::default()).unwrap(), 0);
        assert_eq!(f.accounting().unwrap().purged, 10);
    });
}
