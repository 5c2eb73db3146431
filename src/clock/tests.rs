//! The clock against a world that knows the true time.

use proptest::prelude::*;

use super::{ClockBody, EXACT_MAX, Reading, SHIFTS_MAX, SeenJump, TrustedClock};
use crate::entry::{Entry, EntryId, Filter, Status, Timestamp};

const SECOND: i64 = 1000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;
/// In November 2026.
const START: i64 = 1_795_000_000_000;
const MAX_JUMP_S: u64 = 86_400;

/// A device: its clocks, its store's clock, and the entries in it.
struct World {
    /// What really passed.
    elapsed: i64,
    /// What the wall clock shows beyond that.
    offset: i64,
    is_frozen: bool,
    clock: TrustedClock,
    logged: ClockBody,
    next_lsn: u64,
    /// Entries with when they were stored, or when they came to their end, and for how long they
    /// should live.
    entries: Vec<(Entry, i64, i64)>,
    resolved: Vec<(Entry, i64)>,
    jumps: Vec<SeenJump>,
}

impl World {
    fn at(wall: i64) -> Self {
        let mut world = Self {
            elapsed: 0,
            offset: wall,
            is_frozen: false,
            clock: resume(&ClockBody::default(), wall, 0, 1).0,
            logged: ClockBody::default(),
            next_lsn: 1,
            entries: Vec::new(),
            resolved: Vec::new(),
            jumps: Vec::new(),
        };
        world.logged = world.clock.to_body();
        world
    }

    fn wall(&self) -> i64 {
        self.elapsed + self.offset
    }

    /// Reads the clocks, and logs what the engine would.
    fn observe(&mut self) {
        let next_lsn = self.next_lsn;
        let jump = self.clock.observe(reading(self.wall(), self.elapsed), || next_lsn);
        self.jumps.extend(jump);
        if self.clock.has_news(&self.logged, false) || self.clock.is_stale(&self.logged) {
            self.logged = self.clock.to_body();
        }
    }

    fn advance(&mut self, mut ms: i64, step: i64) {
        while ms > 0 {
            let part = ms.min(step);
            ms -= part;
            self.elapsed += part;
            if self.is_frozen {
                self.offset -= part;
            }
            self.observe();
            self.check();
        }
    }

    fn jump(&mut self, by: i64) {
        if self.wall() + by >= 0 {
            self.offset += by;
        }
        self.observe();
        self.check();
    }

    fn store(&mut self, life: i64) {
        self.observe();
        let mut entry = Entry::default();
        entry.operation.id = EntryId(self.next_lsn);
        entry.operation.created_at = time(self.wall());
        entry.operation.expires_at = Some(time(self.wall() + life));
        self.next_lsn += 1;
        self.entries.push((entry, self.elapsed, life));
    }

    /// An entry that was stored at any time comes to its end.
    fn resolve(&mut self, nth: usize) {
        if self.entries.is_empty() {
            return;
        }
        self.observe();
        let mut entry = self.entries[nth % self.entries.len()].0.clone();
        entry.operation.status = Status::Resolved;
        entry.operation.resolved_at = Some(time(self.wall()));
        self.next_lsn += 1;
        self.resolved.push((entry, self.elapsed));
    }

    /// The process ends; after a time the wall clock has moved by something else.
    fn reboot(&mut self, down: i64, moved: i64, is_clean: bool) {
        self.observe();
        if is_clean && self.clock.has_news(&self.logged, true) {
            self.logged = self.clock.to_body();
        }
        self.elapsed += down;
        if self.wall() + moved - down >= 0 {
            self.offset += moved - down;
        }
        self.next_lsn += 1;
        let (clock, jump) = resume(&self.logged, self.wall(), self.elapsed, self.next_lsn);
        self.clock = clock;
        self.jumps.extend(jump);
        self.observe();
        self.check();
    }

    /// Nothing is older than it is, and the widest filter finds what is old.
    fn check(&self) {
        let timeline = self.clock.timeline();
        let filter = Filter { expires_before: Some(timeline.now()), ..Filter::default() };
        for (entry, since, life) in &self.entries {
            let lived = self.elapsed - since;
            let is_over = timeline.has_expired(entry);
            let due = timeline.expires_at(entry).unwrap();
            assert!(!is_over || lived >= *life, "{lived} of {life}: {due} {:?}", self.clock);
            let found = |filter: &Filter| entry.matches(filter);
            let wide = timeline.widened(&filter);
            let wide = wide.filter(|(_, below)| entry.operation.id < *below);
            let is_found = found(&filter) || wide.is_some_and(|(wide, _)| found(&wide));
            assert!(!is_over || is_found, "{due} {:?}", self.clock);
        }
        for (entry, since) in &self.resolved {
            let age = ms(timeline.now()) - ms(timeline.age_from(entry).unwrap());
            let aged = self.elapsed - since;
            assert!(age <= aged, "{age} of {aged}: {:?}", self.clock);
            for days in [0, 1, 30] {
                let aged_before = Some(time(ms(timeline.now()) - days * DAY));
                let filter = Filter { aged_before, ..Filter::default() };
                let is_old = timeline.age_from(entry) < filter.aged_before;
                let wide = timeline.widened(&filter).map(|(wide, _)| wide);
                let is_found = [Some(&filter), wide.as_ref()];
                let is_found = is_found.into_iter().flatten().any(|wide| entry.matches(wide));
                assert!(!is_old || is_found, "{age}: {:?}", self.clock);
            }
        }
    }

    /// Long enough without a jump, everything is due.
    fn end(&mut self) {
        self.is_frozen = false;
        let longest = self.entries.iter().map(|(_, _, life)| *life).max().unwrap_or(0);
        self.advance(longest + 2 * HOUR, HOUR / 2);
        let timeline = self.clock.timeline();
        for (entry, _, life) in &self.entries {
            assert!(timeline.has_expired(entry), "{life} {entry:?} {:?}", self.clock);
        }
        // A time that may be one of the future makes an entry young once more when that comes. Each
        // jump that is known exactly does that once, for a month and the step of the sweep.
        let quiet_max = 35 * DAY * i64::try_from(EXACT_MAX + 2).unwrap();
        let mut young: Vec<usize> = (0..self.resolved.len()).collect();
        let mut quiet = 0;
        while !young.is_empty() {
            assert!(quiet < quiet_max, "{young:?} {:?}", self.clock);
            self.advance(3 * DAY, 3 * DAY);
            quiet += 3 * DAY;
            let timeline = self.clock.timeline();
            young.retain(|nth| {
                let from = timeline.age_from(&self.resolved[*nth].0).unwrap();
                ms(timeline.now()) - ms(from) <= 30 * DAY
            });
        }
        let timeline = self.clock.timeline();
        assert_eq!(timeline.now(), time(self.wall()));
        assert!(self.clock.shifts.len() <= SHIFTS_MAX);
    }
}

fn resume(
    logged: &ClockBody,
    wall: i64,
    monotonic: i64,
    next_lsn: u64,
) -> (TrustedClock, Option<SeenJump>) {
    TrustedClock::resume(logged, reading(wall, monotonic), next_lsn, MAX_JUMP_S)
}

fn reading(wall: i64, monotonic: i64) -> Reading {
    Reading { wall_ms: time(wall).0, monotonic_ms: time(monotonic).0 }
}

fn time(ms: i64) -> Timestamp {
    Timestamp(u64::try_from(ms.max(0)).unwrap())
}

fn ms(time: Timestamp) -> i64 {
    i64::try_from(time.0).unwrap()
}

#[derive(Debug, Clone)]
enum Step {
    Store(i64),
    Resolve(usize),
    Advance(i64, i64),
    Jump(i64),
    Freeze(bool),
    Reboot(i64, bool),
    RebootBack(i64, i64, bool),
    RebootIn1970(i64, bool),
}

fn span() -> impl Strategy<Value = i64> {
    prop_oneof![0..5 * MINUTE, 0..5 * HOUR, 0..5 * DAY]
}

fn step() -> impl Strategy<Value = Step> {
    let years = prop::sample::select(vec![-20 * YEAR, -3 * YEAR, 3 * YEAR, 20 * YEAR]);
    let jump = prop_oneof![2 => years, 1 => -5 * HOUR..-2 * MINUTE];
    let down = || prop_oneof![0..5 * MINUTE, 0..40 * DAY];
    let back = prop::sample::select(vec![5 * MINUTE, 3 * YEAR, 20 * YEAR]);
    let pace = prop::sample::select(vec![7 * SECOND, 45 * SECOND, 10 * MINUTE, 2 * HOUR]);
    let pace =
        pace.prop_flat_map(|pace| (span().prop_map(move |ms| ms.min(500 * pace)), Just(pace)));
    prop_oneof![
        5 => span().prop_map(Step::Store),
        3 => any::<usize>().prop_map(Step::Resolve),
        4 => pace.prop_map(|(ms, pace)| Step::Advance(ms, pace)),
        4 => jump.prop_map(Step::Jump),
        1 => any::<bool>().prop_map(Step::Freeze),
        2 => (down(), any::<bool>()).prop_map(|(down, is_clean)| Step::Reboot(down, is_clean)),
        1 => (down(), back, any::<bool>())
            .prop_map(|(down, back, is_clean)| Step::RebootBack(down, back, is_clean)),
        2 => (down(), any::<bool>())
            .prop_map(|(down, is_clean)| Step::RebootIn1970(down, is_clean)),
    ]
}

fn play(world: &mut World, step: &Step) {
    match *step {
        Step::Store(life) => world.store(life),
        Step::Resolve(nth) => world.resolve(nth),
        Step::Advance(ms, pace) => world.advance(ms, pace),
        Step::Jump(by) => world.jump(by),
        Step::Freeze(is_frozen) => world.is_frozen = is_frozen,
        Step::Reboot(down, is_clean) => world.reboot(down, down, is_clean),
        Step::RebootBack(down, back, is_clean) => world.reboot(down, down - back, is_clean),
        Step::RebootIn1970(down, is_clean) => {
            let back = world.wall();
            world.reboot(down, -back, is_clean);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_early_and_nothing_is_blocked_for_ever(
        start in prop::sample::select(vec![10 * SECOND, START, START + 20 * YEAR]),
        steps in prop::collection::vec(step(), 1..250),
    ) {
        let mut world = World::at(start);
        steps.iter().for_each(|step| play(&mut world, step));
        world.end();
    }

    #[test]
    fn without_a_jump_entries_expire_to_the_millisecond(
        lives in prop::collection::vec((0..9 * DAY, 0..2 * HOUR), 1..20),
    ) {
        let mut world = World::at(START);
        for (life, pause) in lives {
            world.store(life);
            world.advance(pause, 3 * MINUTE);
            // A good clock, and a short time without power.
            world.reboot(pause, pause, true);
        }
        for (entry, since, life) in world.entries.clone() {
            let mut moment = World::at(START);
            moment.advance(since + life, DAY);
            prop_assert!(!moment.clock.timeline().has_expired(&entry));
            moment.advance(1, 1);
            prop_assert!(moment.clock.timeline().has_expired(&entry));
        }
        prop_assert_eq!(world.jumps.len(), 0);
        prop_assert!(world.clock.timeline().is_plain());
    }
}

#[test]
fn a_small_difference_is_followed_and_a_larger_one_is_a_jump() {
    for (by, jumps) in [(MINUTE, 0), (-MINUTE, 0), (MINUTE + 1, 1), (-MINUTE - 1, 1)] {
        let mut world = World::at(START);
        world.advance(HOUR / 2, MINUTE);
        world.jump(by);
        assert_eq!(world.jumps.len(), jumps, "{by}");
        assert_eq!(world.clock.status().trusted, time(world.wall()), "{by}");
    }
}

#[test]
fn a_clock_that_creeps_is_a_jump_in_time() {
    let mut world = World::at(START);
    world.store(3 * DAY);
    world.is_frozen = true;
    world.advance(10 * MINUTE, 10 * SECOND);
    assert!((8..=10).contains(&world.jumps.len()), "{:?}", world.jumps);
    assert_eq!(world.clock.status().trusted, time(START));
    world.end();
}

#[test]
fn a_jump_far_ahead_is_believed_after_an_hour_of_uptime() {
    let mut world = World::at(START);
    world.jump(DAY);
    assert!(world.jumps[0].believed);
    world.jump(DAY + 1);
    assert!(!world.jumps[1].believed);
    assert_eq!(world.clock.status().trusted, time(START + DAY));
    world.advance(HOUR - 1, MINUTE);
    assert_eq!(world.clock.status().pending.unwrap().remaining_ms, 1);
    assert_eq!(world.clock.status().trusted, time(START + DAY + HOUR - 1));
    world.advance(1, 1);
    assert_eq!(world.clock.status().pending, None);
    assert_eq!(world.clock.status().trusted, time(world.wall()));
    assert_eq!(world.clock.status().jumps, 2);
}

#[test]
fn reboots_in_1970_do_not_begin_the_hour_anew() {
    let mut world = World::at(START);
    world.store(2 * DAY);
    for boot in 0..3 {
        let back = world.wall();
        world.reboot(MINUTE, -back, false);
        world.advance(5 * SECOND, SECOND);
        assert!(world.clock.status().pending.is_none(), "{boot}");
        // The network comes up, and with it the time.
        world.jump(START + world.elapsed - world.wall());
        let remaining_ms = world.clock.status().pending.unwrap().remaining_ms;
        assert_eq!(remaining_ms, time(HOUR - boot * 20 * MINUTE).0, "{boot}");
        world.advance(20 * MINUTE, MINUTE);
    }
    assert_eq!(world.clock.status().pending, None);
    assert_eq!(world.clock.status().trusted, time(world.wall()));
    world.end();
}

#[test]
fn a_jump_that_is_taken_back_leaves_nothing_behind() {
    let mut world = World::at(START);
    world.store(2 * DAY);
    world.jump(20 * YEAR);
    world.store(2 * DAY);
    world.jump(-20 * YEAR);
    assert_eq!(world.clock.status().trusted, time(START));
    world.advance(2 * DAY, HOUR);
    assert!(!world.clock.timeline().has_expired(&world.entries[1].0));
    world.advance(1, 1);
    assert!(world.clock.timeline().has_expired(&world.entries[0].0));
    assert!(world.clock.timeline().has_expired(&world.entries[1].0));
    let mut idle = World::at(START);
    idle.jump(20 * YEAR);
    idle.jump(-20 * YEAR);
    assert!(idle.clock.timeline().is_plain(), "nothing was written in between");
}

#[test]
fn a_month_without_power_is_not_believed_and_makes_nothing_old() {
    let mut world = World::at(START);
    world.store(2 * DAY);
    world.reboot(30 * DAY, 30 * DAY, true);
    assert!(!world.clock.timeline().has_expired(&world.entries[0].0));
    world.end();
}

#[test]
fn more_jumps_than_are_kept_only_make_entries_live_longer_by_a_share() {
    let mut world = World::at(START);
    world.store(2 * DAY);
    for boot in 0..300 {
        world.jump(if boot % 2 == 0 { 20 * YEAR } else { -20 * YEAR });
        world.store(2 * DAY);
        world.advance(HOUR, HOUR);
    }
    assert_eq!(world.clock.shifts.len(), SHIFTS_MAX);
    let timeline = world.clock.timeline();
    let over = world.entries.iter().filter(|(entry, _, _)| timeline.has_expired(entry)).count();
    assert!(over > 300 - 48 - 3 * EXACT_MAX / 2, "{over}");
    world.end();
    let mut world = World::at(START);
    for _ in 0..300 {
        world.store(2 * DAY);
        world.jump(HOUR);
    }
    assert_eq!(world.clock.shifts.len(), SHIFTS_MAX);
    world.end();
}

#[test]
fn what_crept_ahead_before_a_jump_counts_with_it() {
    let mut world = World::at(START);
    world.store(2 * DAY);
    world.advance(MINUTE, MINUTE);
    world.jump(50 * SECOND);
    world.jump(20 * YEAR);
    world.advance(2 * DAY - MINUTE, HOUR);
    assert!(!world.clock.timeline().has_expired(&world.entries[0].0));
    world.advance(1, 1);
    assert!(world.clock.timeline().has_expired(&world.entries[0].0));
}
