//! The primitive that all changes go through: decide on many, then change all or nothing.

use std::thread;

use deadletter::{Cause, Changed, Decision, Entry, Error, Filter, Status};

use super::{UNKNOWN, each, everything, failure, tally};

fn note(entry: &Entry, note: &str) -> Decision {
    let mut state = entry.state();
    state.resolution_note = note.to_owned();
    Decision::Change(Box::new(state), Cause::Other)
}

fn told(changed: &[Changed]) -> Vec<(&'static str, Option<&Entry>)> {
    let name = |changed| match changed {
        &Changed::Missing => ("missing", None),
        Changed::Kept(entry) => ("kept", Some(&**entry)),
        Changed::Changed(entry) => ("changed", Some(&**entry)),
        Changed::Removed(entry) => ("removed", Some(&**entry)),
    };
    changed.iter().map(name).collect()
}

#[test]
fn each_answer_stands_where_its_id_stood() {
    each(|f| {
        let ids = f.stored(3);
        let before = f.get(ids[0]);
        f.advance_ms(5);
        let asked = [ids[2], UNKNOWN, ids[0], ids[1], ids[2], ids[1], ids[0]];
        let mut seen = Vec::new();
        let changed = f
            .change_all(&asked, &mut |entry| {
                let id = entry.operation.id;
                seen.push(id);
                Ok(match id {
                    id if id == ids[0] => Decision::Keep,
                    id if id == ids[1] => Decision::Remove(Cause::Evicted),
                    _ => note(entry, "seen"),
                })
            })
            .unwrap();
        assert_eq!(seen, [ids[2], ids[0], ids[1]], "a repeated id is decided once");
        let told = told(&changed);
        let names: Vec<_> = told.iter().map(|(name, _)| *name).collect();
        let wanted = ["changed", "missing", "kept", "removed", "changed", "removed", "kept"];
        assert_eq!(names, wanted);
        assert_eq!(told[0].1, Some(&f.get(ids[2])));
        assert_eq!((told[2].1, told[6].1), (Some(&before), Some(&before)));
        assert_eq!(f.get(ids[0]), before, "what is kept is not touched");
        let after = f.get(ids[2]).operation;
        assert_eq!((after.resolution_note.as_str(), after.updated_at), ("seen", f.now()));
        assert_eq!(f.get_by_id(ids[1]).unwrap(), None);
        assert_eq!((tally(f, Cause::Other), tally(f, Cause::Evicted)), (1, 1));
        assert_eq!(f.accounting().unwrap().evicted, 1);
    });
}

#[test]
fn one_refused_decision_changes_nothing() {
    each(|f| {
        let ids = f.stored(5);
        let before = f.find(&Filter::default(), everything()).unwrap();
        let tallies = f.tallies().unwrap();
        f.advance_ms(5);
        let refused = f.change_all(&ids, &mut |entry| match entry.operation.id {
            id if id == ids[4] => Err(Error::NotFound { id: "a test".to_owned() }),
            id if id == ids[2] => Ok(Decision::Remove(Cause::Purged)),
            _ => Ok(note(entry, "never")),
        });
        let error = refused.unwrap_err();
        assert!(matches!(&error, Error::NotFound { id } if id == "a test"), "{error}");
        let invalid = f.change_all(&ids, &mut |entry| match entry.operation.id {
            id if id == ids[4] => Ok(Decision::Remove(Cause::Resolved)),
            _ => Ok(note(entry, "never")),
        });
        let error = invalid.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        f.reopen();
        assert_eq!(f.find(&Filter::default(), everything()).unwrap(), before);
        assert_eq!(f.tallies().unwrap(), tallies);
    });
}

#[test]
fn nothing_asked_is_nothing_done() {
    each(|f| {
        f.stored(1);
        let changed = f.change_all(&[], &mut |_| panic!("there is nothing to decide")).unwrap();
        assert_eq!(changed, []);
        let changed = f.change_all(&[UNKNOWN, UNKNOWN], &mut |_| panic!("nor here")).unwrap();
        assert_eq!(changed, [Changed::Missing, Changed::Missing]);
    });
}

/// What every change ends with: whoever decided, an entry at its cap is not pending, and nothing
/// outside of a replay is leased.
#[test]
fn a_state_that_cannot_be_is_put_right() {
    each(|f| {
        let ids = f.stored(2);
        f.acquire(ids[1]);
        f.change_all(&ids, &mut |entry| {
            let mut state = entry.state();
            state.status = Status::Pending;
            state.max_retries = 0;
            Ok(Decision::Change(Box::new(state), Cause::Other))
        })
        .unwrap();
        for id in ids {
            assert_eq!((f.status(id), f.get(id).lease), (Status::RequiresReview, None));
        }
    });
}

#[test]
fn no_update_is_lost_between_threads() {
    each(|f| {
        let ids = f.stored(3);
        let (f, asked) = (&*f, &ids);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(move || {
                    for _ in 0..50 {
                        let add = |entry: &Entry| {
                            let mut state = entry.state();
                            state.previous_total_retries += 1;
                            Ok(Decision::Change(Box::new(state), Cause::Other))
                        };
                        f.change_all(asked, &mut { add }).unwrap();
                    }
                });
            }
        });
        for id in ids {
            assert_eq!(f.get(id).previous_total_retries, 400);
        }
        assert_eq!(tally(f, Cause::Other), 1200);
        let unchanged = f.store(failure());
        assert_eq!(f.get(unchanged).previous_total_retries, 0);
    });
}
