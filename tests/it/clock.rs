//! A wall clock that is wrong: stepped by twenty years, frozen, or waking up in 1970. Nothing
//! expires or is purged early, nothing is blocked for ever, and whoever listens is told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadletter::{
    Background, CrashMode, DlqConfig, DlqService, Durability, Engine, Env,
    FailedOperationRepository, Filter, Memory, MemoryRepository, NewFailure, Page, PurgeSelection,
    Resolution, Simulated, State, Status, StoreMode, StoreOptions, Timestamp, spill_with,
    verify_with,
};

use crate::store::config;

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const MILLI: Duration = Duration::from_millis(1);
const YEAR_MS: i64 = 365 * 86_400_000;
/// Steps of a wall clock, forth and back.
const STEPS: [i64; 2] = [20 * YEAR_MS, -20 * YEAR_MS];

/// A device with a service; entries expire after 72 hours.
struct Device {
    service: DlqService,
    repository: Arc<dyn FailedOperationRepository>,
    env: Simulated,
    events: Arc<Mutex<Vec<serde_json::Value>>>,
}

impl Device {
    /// One on which nothing runs by itself.
    fn over(repository: Arc<dyn FailedOperationRepository>, env: &Simulated) -> Self {
        let mut settings = DlqConfig::default();
        settings.scheduler_enabled = false;
        Self::with(settings, repository, env)
    }

    fn with(
        settings: DlqConfig,
        repository: Arc<dyn FailedOperationRepository>,
        env: &Simulated,
    ) -> Self {
        assert_eq!(settings.expiry_hours, 72);
        let service = DlqService::builder()
            .config(settings)
            .repository(Arc::clone(&repository))
            .background(Background::Manual)
            .build();
        let events = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&events);
        service.on_event(move |record| {
            let event = serde_json::to_value(record).unwrap();
            if event["event"] == "DLQ_CLOCK_JUMPED" {
                heard.lock().unwrap().push(event);
            }
        });
        Self { service, repository, env: env.clone(), events }
    }

    /// A device whose store is on this disk.
    fn boot(env: &Simulated) -> Self {
        Self::over(Arc::new(Engine::open_with(config(), Arc::new(env.clone())).unwrap()), env)
    }

    /// Captures a failure; its id.
    fn store(&self) -> deadletter::EntryId {
        let result = self.service.store_failure(NewFailure::new("orders", "TIMEOUT"));
        assert!(result.success, "{result:?}");
        result.dlq_id.unwrap()
    }

    fn expire(&self) -> u64 {
        let listed = self.service.get_expired_entries().unwrap().len() as u64;
        let expired = self.service.expire_entries(None).unwrap();
        assert_eq!(expired, listed, "what is listed is what expires");
        expired
    }

    fn purge(&self, days: u32) -> u64 {
        let selection = PurgeSelection::OlderThanDays(days);
        let announced = self.service.count_purge(&selection).unwrap();
        let purged = self.service.purge_archived(&selection, None).unwrap();
        assert_eq!(purged, announced, "what is announced is what is purged");
        purged
    }

    fn status(&self, id: deadletter::EntryId) -> Option<Status> {
        Some(self.repository.get_by_id(id).unwrap()?.operation.status)
    }

    fn set(&self, id: deadletter::EntryId, status: Status) {
        assert!(self.repository.update_status(id, status, &Resolution::default(), None).unwrap());
    }

    fn step_clock(&self, by_ms: i64) {
        step_clock(&self.env, by_ms);
    }

    /// Lets time pass as on a running device, where somebody looks now and then.
    fn run(&self, duration: Duration) {
        let mut rest = duration;
        while rest > Duration::ZERO {
            let part = rest.min(HOUR / 2);
            self.env.advance(part);
            self.service.step().unwrap();
            rest -= part;
        }
    }
}

fn step_clock(env: &Simulated, by_ms: i64) {
    env.set_wall_ms(env.wall_ms().checked_add_signed(by_ms).unwrap());
}

/// A disk whose wall clock is in the year 2026.
fn disk() -> Simulated {
    let env = Simulated::new(1);
    env.set_wall_ms(1_795_000_000_000);
    env
}

/// Runs a test over both repositories.
fn over_all(test: impl Fn(&Device)) {
    let env = disk();
    test(&Device::over(Arc::new(MemoryRepository::with(config(), Arc::new(env.clone()))), &env));
    test(&Device::boot(&disk()));
}

#[test]
fn a_step_of_twenty_years_expires_nothing_early_and_blocks_nothing() {
    for by_ms in STEPS {
        over_all(|device| {
            device.store();
            device.run(HOUR);
            device.step_clock(by_ms);
            assert_eq!(device.expire(), 0, "{by_ms}");
            device.store();
            device.run(71 * HOUR);
            assert_eq!(device.expire(), 0, "{by_ms}");
            device.run(MILLI);
            assert_eq!(device.expire(), 1, "the first, to the millisecond ({by_ms})");
            device.run(HOUR);
            assert_eq!(device.expire(), 1, "the second, too ({by_ms})");
        });
    }
}

#[test]
fn a_step_of_twenty_years_archives_and_purges_nothing_early() {
    for by_ms in STEPS {
        over_all(|device| {
            let (resolved, archived) = (device.store(), device.store());
            device.set(resolved, Status::Resolved);
            device.set(archived, Status::Archived);
            device.run(DAY);
            device.step_clock(by_ms);
            let archive = |days| device.service.archive_old_entries(Some(days), None).unwrap();
            assert_eq!((archive(2), device.purge(2)), (0, 0), "{by_ms}");
            device.set(device.store(), Status::Archived);
            device.run(DAY);
            assert_eq!((archive(2), device.purge(2)), (0, 0), "{by_ms}");
            device.run(MILLI);
            assert_eq!((archive(2), device.purge(2)), (1, 1), "{by_ms}");
            device.run(DAY);
            assert_eq!(device.purge(2), 1, "the one that was stored after the step ({by_ms})");
        });
    }
}

#[test]
fn a_dry_run_counts_what_the_purge_does_whatever_the_clock_did() {
    over_all(|device| {
        for by_ms in [0, -20 * YEAR_MS, 3_600_000 * 5, 20 * YEAR_MS, 20 * YEAR_MS, -YEAR_MS] {
            device.step_clock(by_ms);
            let ids = [device.store(), device.store(), device.store()];
            device.set(ids[1], Status::Archived);
            device.run(DAY);
            device.set(ids[0], Status::Archived);
        }
        let mut purged = 0;
        for _ in 0..20 {
            for days in [3, 2, 1] {
                purged += device.purge(days);
            }
            device.run(DAY / 2);
        }
        assert_eq!(purged, 12);
        let stats = device.service.get_cleanup_stats().unwrap();
        assert_eq!(stats.by_status.get(&Status::Archived), None);
    });
}

#[test]
fn a_frozen_clock_ages_nothing_by_itself_and_entries_live_on_when_it_goes_again() {
    over_all(|device| {
        device.store();
        let stopped_ms = device.env.wall_ms();
        for _ in 0..12 {
            device.env.advance(5 * MINUTE);
            device.env.set_wall_ms(stopped_ms);
            device.service.step().unwrap();
            assert_eq!(device.expire(), 0);
        }
        // The clock is set right, after an hour.
        step_clock(&device.env, 3_600_000);
        device.run(71 * HOUR);
        assert_eq!(device.expire(), 0);
        device.run(MILLI);
        assert_eq!(device.expire(), 1);
    });
}

#[test]
fn a_device_that_wakes_up_in_1970_is_corrected_by_its_network() {
    let env = Simulated::new(1);
    env.set_wall_ms(5_000);
    let device = Device::boot(&env);
    device.store();
    device.run(10 * MINUTE);
    env.set_wall_ms(1_795_000_000_000);
    device.store();
    assert_eq!(device.expire(), 0);
    let clock = device.repository.clock().unwrap();
    assert_eq!(clock.pending.unwrap().remaining_ms, 3_600_000);
    assert!(clock.trusted < Timestamp(3_600_000), "{clock:?}");
    device.run(HOUR);
    let clock = device.repository.clock().unwrap();
    assert_eq!((clock.pending, clock.trusted), (None, clock.wall));
    assert_eq!(device.expire(), 0);
    device.run(70 * HOUR + 50 * MINUTE + MILLI);
    assert_eq!(device.expire(), 1);
    device.run(10 * MINUTE);
    assert_eq!(device.expire(), 1);
}

/// Boots in 1970 each time, and is corrected a little later.
fn boot_in_1970(env: &Simulated, now_ms: u64) -> Device {
    env.set_wall_ms(3_000);
    let device = Device::boot(env);
    device.store();
    device.run(MINUTE);
    env.set_wall_ms(now_ms + 60_000);
    device.store();
    device
}

#[test]
fn reboots_every_twenty_minutes_in_1970_neither_expire_nor_block_anything() {
    let env = disk();
    let device = Device::boot(&env);
    device.store();
    device.repository.close().unwrap();
    let mut up = Duration::ZERO;
    let (mut expired, mut believed) = (0, 0);
    // Three days and some hours, with half a minute between two boots.
    for boot in 0..225 {
        let now_ms = 1_795_000_000_000 + boot * (20 * 60 + 30) * 1000;
        let device = boot_in_1970(&env, now_ms);
        device.run(19 * MINUTE);
        up += 20 * MINUTE;
        let count = device.expire();
        assert!(count == 0 || up >= 72 * HOUR, "{count} after {up:?}");
        expired += count;
        believed += u64::from(device.repository.clock().unwrap().pending.is_none());
        if boot % 2 == 0 {
            device.repository.close().unwrap();
        }
    }
    // Each second boot ends with a power failure, which takes some minutes of the hour.
    assert!(believed > 50, "every fourth boot the time is believed: {believed}");
    // The last power failure is over.
    let device = boot_in_1970(&env, 1_795_000_000_000 + 226 * (20 * 60 + 30) * 1000);
    device.run(73 * HOUR);
    expired += device.expire();
    assert_eq!(expired, 1 + 2 * 226, "all that was ever stored");
}

#[test]
fn a_crash_after_a_jump_does_not_forget_on_which_side_an_entry_was_stored() {
    for (by_ms, seed) in STEPS.into_iter().zip(1..) {
        for mode in [CrashMode::Nothing, CrashMode::All, CrashMode::Torn] {
            let env = disk();
            let device = Device::boot(&env);
            device.store();
            device.step_clock(by_ms);
            device.store();
            let env = env.crash_image(mode, seed);
            env.advance(HOUR);
            let device = Device::boot(&env);
            assert_eq!(device.expire(), 0, "{by_ms} {mode:?}");
            device.run(71 * HOUR);
            assert_eq!(device.expire(), 0, "{by_ms} {mode:?}");
            device.run(HOUR + MILLI);
            assert_eq!(device.expire(), 2, "{by_ms} {mode:?}");
        }
    }
}

#[test]
fn a_closed_store_believes_a_day_and_no_month() {
    for (down, expired) in [(DAY, 1), (30 * DAY, 0)] {
        let env = disk();
        let device = Device::boot(&env);
        device.store();
        device.run(50 * HOUR);
        device.repository.close().unwrap();
        env.advance(down);
        let device = Device::boot(&env);
        assert_eq!(device.expire(), expired, "{down:?}");
        let jumps = u64::from(expired == 0);
        assert_eq!(device.repository.clock().unwrap().jumps, jumps, "{down:?}");
        device.run(23 * HOUR);
        assert_eq!(device.expire(), 1 - expired, "{down:?}");
    }
}

#[test]
fn a_retry_is_not_put_away_by_a_clock_that_went_back() {
    over_all(|device| {
        let delayed = |not_before: Timestamp| {
            let mut state = State::new(device.repository.now(), 3);
            state.not_before = Some(not_before);
            let mut failure = NewFailure::new("orders", "TIMEOUT");
            failure.state = Some(Box::new(state));
            device.repository.create(failure, Durability::Synced).unwrap().id
        };
        let after = |duration: Duration| {
            Timestamp(device.repository.now().0 + u64::try_from(duration.as_millis()).unwrap())
        };
        let soon = delayed(after(MINUTE));
        let later = delayed(after(7 * DAY));
        let due = || {
            let due_at = Some(device.repository.now());
            let filter = Filter { due_at, status: Some(Status::Pending), ..Filter::default() };
            let page = Page { order: deadletter::Order::Oldest, ..Page::default() };
            device.repository.select(&filter, page).unwrap()
        };
        assert_eq!(due(), []);
        device.step_clock(-20 * YEAR_MS);
        assert_eq!(due(), [soon, later]);
        let fresh = delayed(after(7 * DAY));
        assert_eq!(due(), [soon, later], "what was put away for a week since then is not due");
        let leased = device.repository.acquire_batch(&[soon, later, fresh], MINUTE).unwrap();
        assert_eq!(leased.iter().map(|leased| leased.id).collect::<Vec<_>>(), [soon, later]);
    });
}

#[test]
fn what_waits_in_the_outbox_does_not_age_by_a_jump() {
    over_all(|device| {
        let failure = NewFailure::new("orders", "TIMEOUT");
        let options = StoreOptions::default().mode(StoreMode::Async);
        assert!(device.service.store_failure_with(failure, options).success);
        device.step_clock(20 * YEAR_MS);
        device.run(72 * HOUR);
        assert_eq!(device.expire(), 0);
        device.run(HOUR);
        assert_eq!(device.expire(), 1);
    });
}

/// What runs by itself, over a device that was awake for a while before its clock is stepped.
#[test]
fn what_runs_by_itself_takes_nothing_early_and_forgets_nothing_over_a_jump() {
    for by_ms in STEPS.into_iter().chain([3_600_000, -3_600_000]) {
        let env = disk();
        let engine = Arc::new(Engine::open_with(config(), Arc::new(env.clone())).unwrap());
        let device = Device::with(DlqConfig::default(), engine, &env);
        let early = device.store();
        let resolved = device.store();
        device.run(HOUR);
        device.set(resolved, Status::Resolved);
        device.step_clock(by_ms);
        let late = device.store();
        device.run(70 * HOUR);
        for id in [early, late] {
            assert_eq!(device.status(id), Some(Status::Pending), "{by_ms} {id}");
        }
        device.run(2 * HOUR);
        assert_eq!(device.status(early), Some(Status::Expired), "{by_ms}");
        device.run(2 * HOUR);
        assert_eq!(device.status(late), Some(Status::Expired), "{by_ms}");
        assert_eq!(device.status(resolved), Some(Status::Resolved), "{by_ms}");
        // Archived after 30 days, purged 90 days later, by sweeps of each day and each week.
        device.run(31 * DAY);
        assert_eq!(device.status(resolved), Some(Status::Archived), "{by_ms}");
        device.run(85 * DAY);
        assert_eq!(device.status(resolved), Some(Status::Archived), "{by_ms}");
        device.run(15 * DAY);
        assert_eq!(device.status(resolved), None, "{by_ms}");
    }
}

/// A process that could not open the store spilled while the clock was wrong.
#[test]
fn what_was_spilled_at_a_wrong_time_lives_on_when_it_comes_home() {
    let day_ms = 86_400_000;
    for (by_ms, lives_on) in
        [(20 * YEAR_MS, 72), (-20 * YEAR_MS, 72), (2 * day_ms, 72), (day_ms / 2, 60)]
    {
        let env = disk();
        Device::boot(&env).repository.close().unwrap();
        let now_ms = env.wall_ms();
        step_clock(&env, -by_ms);
        let mut failure = NewFailure::new("orders", "TIMEOUT");
        failure.expires_in = Some(72 * HOUR);
        spill_with(&config(), &(Arc::new(env.clone()) as Arc<dyn Env>), failure).unwrap();
        env.set_wall_ms(now_ms);
        let device = Device::boot(&env);
        device.run(lives_on * HOUR);
        assert_eq!(device.expire(), 0, "{by_ms}");
        device.run(MILLI);
        assert_eq!(device.expire(), 1, "{by_ms}");
    }
}

/// While a jump is in doubt the time of the process is written down, also when nobody stores.
#[test]
fn a_power_failure_takes_ten_minutes_of_the_doubt_at_most() {
    let env = disk();
    let device = Device::boot(&env);
    device.store();
    device.step_clock(20 * YEAR_MS);
    device.store();
    for _ in 0..35 {
        device.run(MINUTE);
    }
    let env = env.crash_image(CrashMode::Nothing, 1);
    let device = Device::boot(&env);
    let clock = device.repository.clock().unwrap();
    let remaining_ms = clock.pending.unwrap().remaining_ms;
    assert!(remaining_ms <= 30 * 60 * 1000, "{clock:?}");
}

#[test]
fn order_never_depends_on_time() {
    over_all(|device| {
        let ids: Vec<_> = STEPS
            .into_iter()
            .map(|by_ms| {
                device.step_clock(by_ms * 2);
                device.store()
            })
            .collect();
        let listed = device.repository.find(&Filter::default(), Page::default()).unwrap();
        let listed: Vec<_> = listed.iter().map(|entry| entry.operation.id).collect();
        assert_eq!(listed, [ids[1], ids[0]]);
    });
}

#[test]
fn listeners_are_told_once_of_each_jump() {
    over_all(|device| {
        device.store();
        let heard = || std::mem::take(&mut *device.events.lock().unwrap());
        assert_eq!(heard(), Vec::<serde_json::Value>::new());
        device.step_clock(3_600_000);
        device.service.step().unwrap();
        device.service.step().unwrap();
        let events = heard();
        assert_eq!(events.len(), 1);
        let time = |ms| serde_json::to_value(Timestamp(ms)).unwrap();
        assert_eq!(events[0]["from"], time(1_795_000_000_000));
        assert_eq!(events[0]["to"], time(1_795_003_600_000));
        assert_eq!(events[0]["believed"], true);
        device.step_clock(20 * YEAR_MS);
        device.store();
        device.store();
        let events = heard();
        assert_eq!((events.len(), &events[0]["believed"]), (1, &false.into()));
        assert_eq!(device.repository.clock().unwrap().jumps, 2);
    });
}

/// How many sound records a store has.
fn records(env: &Simulated) -> u64 {
    let env: Arc<dyn Env> = Arc::new(env.clone());
    verify_with(&config(), &env, &mut |_, _| {}).unwrap().frames
}

#[test]
fn an_idle_store_writes_nothing_about_the_time() {
    let env = disk();
    let device = Device::boot(&env);
    device.store();
    device.run(2 * HOUR);
    let before = records(&env);
    device.run(30 * DAY);
    assert_eq!(records(&env), before);
    device.repository.close().unwrap();
    let closed = records(&env);
    assert!((1..=2).contains(&(closed - before)), "the month counts as uptime: {closed}");
    for _ in 0..5 {
        env.advance(MINUTE);
        Device::boot(&env).repository.close().unwrap();
    }
    assert_eq!(records(&env), closed, "a short visit is nothing");
}

#[test]
fn a_busy_store_writes_the_time_once_an_hour() {
    let env = disk();
    let device = Device::boot(&env);
    let before = records(&env);
    for _ in 0..5 * 60 {
        device.store();
        device.run(MINUTE);
    }
    let written = records(&env) - before - 5 * 60;
    // Each record of the time may be followed by the mark of its sync.
    assert!((4..=10).contains(&written), "{written}");
}

#[test]
fn a_reader_computes_the_time_and_writes_nothing() {
    let env = disk();
    let device = Device::boot(&env);
    device.store();
    device.repository.close().unwrap();
    let before = records(&env);
    env.set_wall_ms(env.wall_ms() + 20 * 365 * 86_400_000);
    let reader = Engine::open_read_only_with(config(), Arc::new(env.clone())).unwrap();
    assert_eq!(reader.trusted_now(), Timestamp(1_795_000_000_000));
    assert_eq!(reader.find_expired(Timestamp::MAX, 10).unwrap().len(), 1);
    assert_eq!(reader.find_expired(reader.trusted_now(), 10).unwrap(), []);
    assert_eq!(reader.clock().jumps_since_open, 1);
    drop(reader);
    assert_eq!(records(&env), before);
}

#[test]
fn a_full_disk_stops_no_clock() {
    let env = disk();
    let device = Device::boot(&env);
    device.store();
    env.set_capacity(Some(0));
    device.step_clock(20 * YEAR_MS);
    // The step may fail as all that is written does; the time goes on.
    let _ = device.service.step();
    assert_eq!(device.repository.trusted_now(), Timestamp(1_795_000_000_000));
    env.set_capacity(None);
    env.advance(HOUR);
    let device = match device.repository.failure() {
        None => device,
        Some(_) => {
            drop(device);
            Device::boot(&env)
        }
    };
    device.store();
    device.repository.close().unwrap();
    let device = Device::boot(&env);
    assert_eq!(device.repository.clock().unwrap().jumps, 1, "it was logged in the end");
    assert_eq!(device.expire(), 0);
}

#[test]
fn memory_and_engine_agree_on_an_environment_in_memory() {
    let env = Memory::new(1);
    let engine = Engine::open_with(config(), Arc::new(env.clone())).unwrap();
    let memory = MemoryRepository::with(config(), Arc::new(env.clone()));
    for by_ms in [0, 20 * YEAR_MS, -20 * YEAR_MS, -YEAR_MS, 90_000] {
        env.set_wall_ms(env.wall_ms().checked_add_signed(by_ms).unwrap());
        env.advance(HOUR);
        assert_eq!(engine.trusted_now(), memory.trusted_now(), "{by_ms}");
        assert_eq!(engine.clock(), memory.clock().unwrap(), "{by_ms}");
    }
}
