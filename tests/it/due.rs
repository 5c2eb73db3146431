//! What is due, expired or aged: the index answers as the entries themselves would.

use std::sync::Arc;

use deadletter::{
    Config, Engine, EntryId, Filter, IndexKind, Memory, NewFailure, Order, Page, State, Status,
    Timestamp,
};

use crate::store::config;

const DAY_MS: u64 = 86_400_000;
const NOW: u64 = 1_800_000_000_000;

fn day(number: u64) -> Timestamp {
    Timestamp(NOW + number * DAY_MS)
}

/// A failure as a caller or an import brings it, of one of nine kinds.
fn failure(number: u64) -> NewFailure {
    let mut failure = NewFailure::new(["a", "b"][(number % 2) as usize], "X");
    failure.error_message = "x".repeat(300);
    failure.created_at = Some(Timestamp(NOW - number));
    let later = Timestamp(NOW + number % 30 * DAY_MS + number);
    let state = |status: Status| {
        let mut state = State::new(day(3), 5);
        state.status = status;
        Some(Box::new(state))
    };
    match number % 9 {
        0 => failure.not_before = Some(later),
        1 => failure.expires_at = Some(later),
        2 => failure.state = state(Status::Resolved),
        3 => failure.state = state(Status::PermanentlyFailed),
        4 => failure.state = state(Status::Replaying),
        5 => failure.state = state(Status::Archived),
        _ => {}
    }
    if let Some(state) = &mut failure.state {
        state.not_before = number.is_multiple_of(4).then_some(later);
        state.resolved_at = number.is_multiple_of(5).then_some(later);
        state.terminal_at = (number % 5 == 1).then_some(day(1));
        // Far before it failed, as a clock that was set may have it.
        state.archived_at = (number % 5 == 2).then_some(Timestamp(number));
    }
    failure
}

/// Changes as replays, expiries and operators make them.
fn change(engine: &Engine, number: u64) {
    let later = Timestamp(NOW + number % 30 * DAY_MS + number);
    let changed = engine.change(EntryId(number), &[], |state| match number % 7 {
        0 => state.not_before = Some(later),
        1 => (state.status, state.resolved_at) = (Status::Resolved, Some(later)),
        2 => (state.status, state.terminal_at) = (Status::Expired, Some(later)),
        3 => (state.status, state.archived_at) = (Status::Archived, Some(later)),
        4 => (state.expires_at, state.not_before) = (Some(later), None),
        5 => state.status = Status::Pending,
        _ => state.status = Status::Rejected,
    });
    changed.unwrap();
}

/// Every filter over some times against a walk over all entries.
#[track_caller]
fn check(engine: &Engine) {
    let all = Page { order: Order::Oldest, limit: 10_000, ..Page::default() };
    let entries = engine.find(&Filter::default(), all).unwrap();
    assert_eq!(entries.len(), 600);
    let times = [Timestamp(0), day(0), day(3), Timestamp(day(7).0 + 7), day(29), Timestamp::MAX];
    let statuses = [None, Some(Status::Pending), Some(Status::Resolved), Some(Status::Archived)];
    let mut matched = 0;
    for (time, status) in times.iter().flat_map(|time| statuses.map(|status| (*time, status))) {
        for choice in 1..8 {
            let asked = |bit: u32| (choice >> bit & 1 == 1).then_some(time);
            let filter = Filter {
                status,
                domain: (choice == 3).then(|| "a".to_owned()),
                due_at: asked(0),
                expires_before: asked(1),
                aged_before: asked(2),
                ..Filter::default()
            };
            let wanted = entries.iter().filter(|entry| entry.matches(&filter));
            let wanted: Vec<EntryId> = wanted.map(|entry| entry.operation.id).collect();
            matched += wanted.len();
            assert_eq!(engine.count(&filter).unwrap(), wanted.len() as u64, "{filter:?}");
            for (order, offset, limit) in [(Order::Oldest, 0, 9999), (Order::Newest, 3, 20)] {
                let page = Page { order, offset: offset as u64, limit, after: None };
                let mut wanted = wanted.clone();
                if order == Order::Newest {
                    wanted.reverse();
                }
                let wanted: Vec<EntryId> = wanted.into_iter().skip(offset).take(limit).collect();
                let found = engine.find(&filter, page).unwrap();
                let found: Vec<EntryId> = found.iter().map(|entry| entry.operation.id).collect();
                assert_eq!(found, wanted, "{filter:?}");
            }
        }
    }
    assert!(matched > 5_000, "{matched} matches are too few to say much");
}

fn fill(engine: &Engine) {
    for number in 1..=600 {
        assert_eq!(engine.store(failure(number)).unwrap().id, EntryId(number));
    }
    check(engine);
    for number in (1..=600).step_by(2) {
        change(engine, number);
    }
    check(engine);
}

fn check_reopened(config: &Config, open: impl Fn() -> Engine) {
    let engine = open();
    fill(&engine);
    assert!(engine.bytes().unwrap().log > 3 * config.segment_bytes, "several segments");
    engine.close().unwrap();
    let engine = open();
    check(&engine);
    // A few more, so that blocks of the index and changes that wait stand side by side.
    for number in (2..=600).step_by(10) {
        change(&engine, number);
    }
    check(&engine);
    engine.rebuild_index().unwrap();
    check(&engine);
    engine.close().unwrap();
}

#[test]
fn an_index_in_memory_tells_times_as_the_entries_do() {
    let memory = Memory::new(1);
    memory.set_wall_ms(NOW);
    check_reopened(&config(), || Engine::open_with(config(), Arc::new(memory.clone())).unwrap());
}

#[test]
fn an_index_on_disk_tells_times_as_the_entries_do() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config();
    config.dir = dir.path().join("store");
    config.index = IndexKind::Sled;
    check_reopened(&config, || Engine::open(config.clone()).unwrap());
}

/// What waits becomes due, and what was due expires, as the clock goes on.
#[test]
fn a_queue_by_the_clock() {
    let memory = Memory::new(1);
    memory.set_wall_ms(NOW);
    let engine = Engine::open_with(config(), Arc::new(memory)).unwrap();
    for number in 1..=40 {
        let failure = NewFailure::new("a", "X").expires_at(day(number + 10));
        engine.store(failure.not_before(day(number))).unwrap();
    }
    let pending = Filter { status: Some(Status::Pending), ..Filter::default() };
    for today in 0..60 {
        let due = Filter { due_at: Some(day(today)), ..pending.clone() };
        assert_eq!(engine.count(&due).unwrap(), today.min(40));
        let expired = Filter { expires_before: Some(day(today)), ..pending.clone() };
        assert_eq!(engine.count(&expired).unwrap(), today.saturating_sub(11).min(40));
    }
}
