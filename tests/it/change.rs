//! Changing and removing entries: what the caller decides, what is written, what is counted.

use std::path::Path;

use deadletter::{
    Accounting, Background, Cause, Changed, Config, Decision, Durability, Engine, EntryId, Error,
    Filter, IndexKind, NewFailure, Page, Status, TailItem, TallyRow,
};

fn config(dir: &Path) -> Config {
    let mut config = Config::new(dir.join("store"));
    config.segment_bytes = 64 * 1024;
    config.limits.request_data_max_bytes = 16 * 1024;
    config.limits.field_max_bytes = 4096;
    config.index = IndexKind::Memory;
    config.background = Background::Manual;
    config
}

fn open() -> (tempfile::TempDir, Config, Engine) {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let engine = Engine::open(config.clone()).unwrap();
    (dir, config, engine)
}

fn store(engine: &Engine, count: usize) -> Vec<EntryId> {
    let failure = |number: usize| NewFailure::new("mail", "TIMEOUT").key(format!("key-{number}"));
    (0..count).map(|number| engine.store(failure(number)).unwrap().id).collect()
}

fn remove(engine: &Engine, id: EntryId, cause: Cause) -> Changed {
    engine.change_all(&[id], &mut |_| Ok(Decision::Remove(cause))).unwrap().remove(0)
}

/// The account after its balance was checked against the entries that can be seen.
fn account(engine: &Engine) -> Accounting {
    let accounting = engine.accounting().unwrap();
    let seen = engine.find(&Filter::default(), Page { limit: 1000, ..Page::default() }).unwrap();
    assert_eq!(accounting.live, seen.len() as u64, "{accounting:?}");
    let gone = accounting.purged + accounting.evicted + accounting.lost;
    assert_eq!(accounting.captured, accounting.live + gone);
    assert_eq!(counted(engine, Cause::Stored), accounting.captured);
    accounting
}

fn counted(engine: &Engine, cause: Cause) -> u64 {
    let rows = engine.tallies().unwrap();
    rows.iter().filter_map(|row| row.counts.get(&cause)).sum()
}

#[test]
fn a_removed_entry_is_found_no_more_and_its_key_is_free() {
    let (_dir, config, engine) = open();
    let ids = store(&engine, 3);
    let before = engine.get(ids[1]).unwrap().unwrap();
    assert_eq!(remove(&engine, ids[1], Cause::Purged), Changed::Removed(Box::new(before)));
    assert_eq!(remove(&engine, ids[1], Cause::Purged), Changed::Missing);
    let check = |engine: &Engine, keyed: Option<EntryId>| {
        assert_eq!(engine.get(ids[1]).unwrap(), None);
        let found = engine.get_by_key("key-1").unwrap();
        assert_eq!(found.map(|entry| entry.operation.id), keyed);
        assert!(matches!(engine.change(ids[1], &[], |_| {}), Err(Error::NotFound { .. })));
        let facets = engine.facets(None, None).unwrap();
        assert_eq!(facets.by_domain["mail"], 2 + u64::from(keyed.is_some()));
        assert_eq!(account(engine).purged, 1);
    };
    check(&engine, None);
    let again = engine.store(NewFailure::new("mail", "TIMEOUT").key("key-1")).unwrap();
    assert!(!again.duplicate && again.id > ids[2]);
    check(&engine, Some(again.id));
    engine.rebuild_index().unwrap();
    check(&engine, Some(again.id));
    engine.close().unwrap();
    let engine = Engine::open(config.clone()).unwrap();
    check(&engine, Some(again.id));
    let cold = Engine::open_read_only(config).unwrap();
    assert_eq!(cold.get(ids[1]).unwrap(), None);
    assert_eq!(account(&cold).purged, 1);
}

#[test]
fn the_index_on_disk_keeps_removals() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.index = IndexKind::Sled;
    let engine = Engine::open(config.clone()).unwrap();
    let ids = store(&engine, 4);
    engine.wait_ready().unwrap();
    remove(&engine, ids[0], Cause::Evicted);
    engine.close().unwrap();
    let engine = Engine::open(config).unwrap();
    assert_eq!(engine.get(ids[0]).unwrap(), None);
    remove(&engine, ids[3], Cause::Deleted);
    let accounting = account(&engine);
    assert_eq!((accounting.purged, accounting.evicted, accounting.live), (1, 1, 2));
}

#[test]
fn an_error_of_the_decision_writes_nothing() {
    let (_dir, _config, engine) = open();
    let ids = store(&engine, 3);
    let mut asked = 0;
    let result = engine.change_all(&ids, &mut |entry| {
        asked += 1;
        if asked == 3 {
            return Err(Error::NotFound { id: "the third".to_owned() });
        }
        let mut state = entry.state();
        state.status = Status::Resolved;
        Ok(Decision::Change(Box::new(state), Cause::Resolved))
    });
    assert!(matches!(result, Err(Error::NotFound { .. })));
    for id in ids {
        assert_eq!(engine.get(id).unwrap().unwrap().operation.status, Status::Pending);
    }
    assert_eq!(engine.tail(0).unwrap().count(), 3);
}

#[test]
fn a_cause_must_fit_the_decision() {
    let (_dir, _config, engine) = open();
    let ids = store(&engine, 1);
    let refuse = |decision: Decision| {
        let result = engine.change_all(&ids, &mut |_| Ok(decision.clone()));
        assert!(matches!(result, Err(Error::Invalid { .. })), "{result:?}");
    };
    refuse(Decision::Remove(Cause::Resolved));
    let state = Box::new(engine.get(ids[0]).unwrap().unwrap().state());
    refuse(Decision::Change(state.clone(), Cause::Purged));
    refuse(Decision::Change(state, Cause::Stored));
    assert_eq!(account(&engine).live, 1);
}

#[test]
fn answers_stand_in_the_order_of_the_ids_and_each_entry_is_decided_once() {
    let (_dir, _config, engine) = open();
    let ids = store(&engine, 3);
    let asked = [ids[2], ids[0], EntryId(99), ids[2], ids[1]];
    let mut seen = Vec::new();
    let answers = engine
        .change_all(&asked, &mut |entry| {
            let id = entry.operation.id;
            seen.push(id);
            if id == ids[0] {
                return Ok(Decision::Keep);
            }
            if id == ids[1] {
                return Ok(Decision::Remove(Cause::Deleted));
            }
            let mut state = entry.state();
            state.status = Status::Rejected;
            Ok(Decision::Change(Box::new(state), Cause::Rejected))
        })
        .unwrap();
    assert_eq!(seen, [ids[2], ids[0], ids[1]]);
    let [Changed::Changed(third), Changed::Kept(first), Changed::Missing, again, last] =
        &answers[..]
    else {
        panic!("{answers:?}")
    };
    assert_eq!(again, &answers[0]);
    assert_eq!(Some(&**third), engine.get(ids[2]).unwrap().as_ref());
    assert_eq!(third.terminal_at, Some(third.operation.updated_at));
    assert_eq!(first.operation.id, ids[0]);
    assert!(matches!(last, Changed::Removed(entry) if entry.operation.id == ids[1]));
    assert_eq!(engine.change_all(&[], &mut |_| Ok(Decision::Keep)).unwrap(), []);
}

#[test]
fn calls_that_want_the_same_entries_in_other_orders_both_end() {
    let (_dir, _config, engine) = open();
    let ids = store(&engine, 8);
    let reversed: Vec<EntryId> = ids.iter().rev().copied().collect();
    std::thread::scope(|scope| {
        for order in [&ids, &reversed, &ids, &reversed] {
            let engine = engine.clone();
            scope.spawn(move || {
                for _ in 0..5 {
                    let answers = engine.change_all(order, &mut |entry| {
                        let mut state = entry.state();
                        state.retry_count += 1;
                        state.max_retries = 1000;
                        Ok(Decision::Change(Box::new(state), Cause::Failed))
                    });
                    assert_eq!(answers.unwrap().len(), 8);
                }
            });
        }
    });
    for id in ids {
        assert_eq!(engine.get(id).unwrap().unwrap().operation.retry_count, 20);
    }
    assert_eq!(counted(&engine, Cause::Failed), 8 * 20);
}

#[test]
fn every_record_is_counted_by_its_cause_across_segments_and_opens() {
    let (_dir, config, engine) = open();
    let mut engine = engine;
    for round in 0..4 {
        for number in 0..30 {
            let kind = if number % 2 == 0 { "TIMEOUT" } else { "REFUSED" };
            let failure = NewFailure::new("mail", kind).error("504", "x".repeat(3000));
            let id = engine.store_with(failure, Durability::Written).unwrap().id;
            if number % 3 == 0 {
                remove(&engine, id, [Cause::Purged, Cause::Evicted][round % 2]);
            }
        }
        engine.close().unwrap();
        engine = Engine::open(config.clone()).unwrap();
    }
    let accounting = account(&engine);
    assert_eq!((accounting.captured, accounting.purged, accounting.evicted), (120, 20, 20));
    let rows: Vec<TallyRow> = engine.tallies().unwrap();
    let kinds: Vec<&str> = rows.iter().map(|row| row.failure_type.as_str()).collect();
    assert_eq!(kinds, ["REFUSED", "TIMEOUT"]);
    assert_eq!(
        serde_json::to_string(&rows[0]).unwrap(),
        r#"{"domain":"mail","failure_type":"REFUSED","counts":{"stored":60,"purged":10,"evicted":10}}"#
    );
    let cold = Engine::open_read_only(config).unwrap();
    assert_eq!(cold.tallies().unwrap(), rows);
}

#[test]
fn following_the_log_tells_changes_and_removals_with_their_cause() {
    let (_dir, _config, engine) = open();
    let ids = store(&engine, 1);
    engine.change(ids[0], &[], |state| state.status = Status::Resolved).unwrap();
    remove(&engine, ids[0], Cause::Deleted);
    let facts: Vec<TailItem> = engine.tail(2).unwrap().map(Result::unwrap).collect();
    let [TailItem::Changed { id, cause: Cause::Other, .. }, removed] = &facts[..] else {
        panic!("{facts:?}")
    };
    assert_eq!(*id, ids[0]);
    assert_eq!(removed, &TailItem::Removed { id: ids[0], lsn: 3, cause: Cause::Deleted });
}
