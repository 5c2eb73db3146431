//! Replays under a throttle: the order of the checks, the feedback, the early ends.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadletter::{
    AdaptiveThrottle, Denial, DlqThrottleBatchReplayResult, DlqThrottleReplayResult, EarlyStop,
    Emergency, EntryId, Feedback, NewFailure, Outcome, Permit, Skip, Status, Throttle,
    ThrottleConfig, ThrottleStats, Timestamp,
};

use super::{Picky, World, each, each_with, options};

const WINDOW: Permit = Permit::Denied { retry_after_ms: 10, reason: Denial::Window };

/// A throttle that answers as it was told, and then always yes.
#[derive(Debug, Default)]
struct Script {
    answers: Mutex<VecDeque<Permit>>,
    /// When set, the answer after the script.
    last: Option<Permit>,
    is_emergency: bool,
    granted: AtomicUsize,
    feedback: Mutex<Vec<Feedback>>,
}

impl Script {
    fn always(permit: Permit) -> Self {
        Self { last: Some(permit), ..Self::default() }
    }

    fn told(&self) -> Vec<Feedback> {
        let feedback = self.feedback.lock().unwrap().clone();
        assert_eq!(feedback.len(), self.granted.load(Ordering::SeqCst), "once for each permit");
        feedback
    }
}

impl Throttle for Script {
    fn permit(&self, _: u64) -> Permit {
        let answer = self.answers.lock().unwrap().pop_front();
        let answer = answer.or(self.last).unwrap_or(Permit::Granted);
        self.granted.fetch_add(usize::from(answer == Permit::Granted), Ordering::SeqCst);
        answer
    }

    fn feedback(&self, feedback: Feedback, _: u64, _: u64) {
        self.feedback.lock().unwrap().push(feedback);
    }

    fn emergency(&self, _: u64) -> Emergency {
        if self.is_emergency { Emergency::Emergency } else { Emergency::Normal }
    }

    fn stats(&self, _: u64) -> ThrottleStats {
        let mut stats = ThrottleStats::default();
        stats.wait_ms = 7000;
        stats
    }
}

fn adaptive(change: impl FnOnce(&mut ThrottleConfig)) -> AdaptiveThrottle {
    let mut config = ThrottleConfig::default();
    change(&mut config);
    AdaptiveThrottle::new(config).unwrap()
}

fn all(world: &World, throttle: &dyn Throttle, jobs: u32) -> DlqThrottleBatchReplayResult {
    let options = options(|options| options.jobs = Some(jobs));
    let result = world.service.replay_all_throttle_aware(throttle, &options).unwrap();
    assert_eq!(result.total, result.succeeded + result.failed + result.skipped + result.throttled);
    world.check_settled();
    result
}

/// Replays one entry and checks the answer and the feedback.
fn check_one(
    world: &World,
    id: EntryId,
    error: Option<&str>,
    feedback: &[Feedback],
) -> DlqThrottleReplayResult {
    let throttle = Script::default();
    let result = world.service.replay_throttle_aware(id, &throttle);
    assert_eq!(result.error.as_deref(), error);
    assert_eq!((result.success, result.entry_id), (error.is_none(), Some(id)));
    assert_eq!(throttle.told(), feedback);
    result
}

#[test]
fn one_entry_runs_and_the_throttle_hears_of_it() {
    each(|world| {
        let id = world.entry("mail");
        world.fail();
        check_one(world, id, Some("no route"), &[Feedback::Failure]);
        world.handle(|_| Outcome::throttled(Some(Duration::from_secs(3))));
        let busy = Feedback::Overload { retry_after_ms: Some(3000) };
        let result = check_one(world, id, Some("throttled"), &[busy]);
        assert_eq!(result.retry_after, Some(3.0));
        world.succeed();
        check_one(world, id, None, &[Feedback::Success]);
        check_one(world, id, Some(&format!("entry {id} is resolved, not pending")), &[]);
        check_one(world, EntryId(999), Some("there is no entry 999"), &[]);
    });
}

#[test]
fn time_is_checked_before_the_cap_and_the_cap_before_the_permit() {
    each(|world| {
        let expires_at = Timestamp(world.repository.now().0 + 1000);
        let expiring = world.store(NewFailure::new("mail", "X").expires_at(expires_at));
        let tired = NewFailure::new("mail", "X").max_retries(1).expires_at(expires_at);
        let tired = world.store(tired);
        let ran = world.fail();
        check_one(world, tired, Some("no route"), &[Feedback::Failure]);
        world.advance(2);
        world.take_events();
        check_one(world, expiring, Some("ttl_expired"), &[]);
        let entry = world.get(expiring);
        assert_eq!(entry.operation.status, Status::Expired);
        assert_eq!(entry.operation.resolution_type, "ttl_expired");
        assert_eq!(world.block_reasons(), ["ttl_expired"]);
        check_one(world, tired, Some("max_retries_exhausted"), &[]);
        assert_eq!(world.status(tired), Status::RequiresReview);
        assert_eq!(world.block_reasons(), ["max_replay_attempts_exceeded"]);
        assert_eq!(ran.count(), 1);
    });
}

#[test]
fn without_a_permit_nothing_is_spent() {
    each(|world| {
        let id = world.entry("mail");
        let ran = world.succeed();
        let before = world.get(id);
        let denied = Permit::Denied { retry_after_ms: 1500, reason: Denial::Outage };
        let throttle = Script::always(denied);
        let result = world.service.replay_throttle_aware(id, &throttle);
        assert_eq!((result.success, result.retry_after), (false, Some(1.5)));
        assert_eq!(result.error.as_deref(), Some("no_permit"));
        assert_eq!((world.get(id), ran.count()), (before, 0));
        assert_eq!(throttle.told(), []);
    });
}

#[test]
fn a_permit_that_a_gate_makes_useless_is_given_back() {
    each(|world| {
        let id = world.entry("mail");
        check_one(world, id, Some("its domain has no handler"), &[Feedback::Unused]);
        world.register("mail", Picky { refuses: true, ..Picky::default() });
        check_one(world, id, Some("closed on sundays"), &[Feedback::Unused]);
        world.register("mail", Picky { unwanted: true, ..Picky::default() });
        check_one(world, id, Some("nobody wants it any more"), &[Feedback::Unused]);
        assert_eq!(world.status(id), Status::Resolved);
    });
    each_with(
        |config| config.enabled = false,
        |world| {
            let id = world.entry("mail");
            let disabled = "the setting enabled is false, it must be true to replay entries";
            check_one(world, id, Some(disabled), &[]);
            assert_eq!(all(world, &Script::default(), 1), DlqThrottleBatchReplayResult::default());
        },
    );
}

#[test]
fn everything_that_is_due_is_replayed() {
    for jobs in [1, 4] {
        each(|world| {
            world.entries("nobody", 7);
            let ids = world.entries("mail", 55);
            world.register("mail", Picky::default());
            let throttle = Script::default();
            let result = all(world, &throttle, jobs);
            assert_eq!((result.succeeded, result.skipped), (55, 7));
            assert_eq!((result.early_stop_reason, result.remaining), (None, 7));
            let useful = throttle.told();
            assert_eq!(useful.iter().filter(|told| **told == Feedback::Success).count(), 55);
            assert!(ids.iter().all(|id| world.status(*id) == Status::Resolved));
        });
    }
}

#[test]
fn a_maximum_is_kept() {
    each(|world| {
        let ids = world.entries("mail", 30);
        let ran = world.succeed();
        let some = options(|options| options.max = Some(13));
        let result = world.service.replay_all_throttle_aware(&Script::default(), &some).unwrap();
        assert_eq!((result.succeeded, result.remaining), (13, 17));
        assert_eq!(ran.ids(), ids[..13]);
    });
}

#[test]
fn an_entry_past_its_time_expires_in_a_batch() {
    each(|world| {
        let expires_at = Timestamp(world.repository.now().0 + 1000);
        let id = world.store(NewFailure::new("mail", "X").expires_at(expires_at));
        world.advance(5);
        let ran = world.succeed();
        let result = all(world, &Script::default(), 1);
        assert_eq!((result.skip_reasons[&Skip::TtlExpired], ran.count()), (1, 0));
        assert_eq!(world.status(id), Status::Expired);
    });
}

#[test]
fn an_emergency_ends_it_before_anything_is_spent() {
    each(|world| {
        world.entries("mail", 5);
        let ran = world.succeed();
        let throttle = Script { is_emergency: true, ..Script::default() };
        let result = all(world, &throttle, 1);
        assert_eq!(result.early_stop_reason, Some(EarlyStop::Emergency));
        assert_eq!((result.total, result.remaining), (0, 5));
        assert_eq!(result.retry_after, Some(7.0));
        assert_eq!(ran.count(), 0);
    });
}

#[test]
fn an_outage_costs_few_attempts_and_the_others_stay_due() {
    for jobs in [1, 4] {
        each(|world| {
            world.entries("mail", 100);
            let ran = world.fail();
            let throttle = adaptive(|config| config.outage_failures = 5);
            let result = all(world, &throttle, jobs);
            assert_eq!(result.early_stop_reason, Some(EarlyStop::Emergency), "{result:?}");
            assert!(ran.count() <= 5 + jobs as usize, "{}", ran.count());
            assert_eq!(result.failed, ran.count() as u64);
            assert_eq!(result.remaining, 100 - result.failed);
            assert!(result.retry_after.is_some());
        });
    }
}

#[test]
fn a_wish_to_be_left_alone_ends_it() {
    for jobs in [1, 4] {
        each(|world| {
            world.entries("mail", 40);
            world.handle(|_| Outcome::throttled(Some(Duration::from_secs(30))));
            let result = all(world, &adaptive(|_| {}), jobs);
            assert_eq!(result.early_stop_reason, Some(EarlyStop::Throttled));
            assert_eq!(result.retry_after, Some(30.0));
            assert!((1..=u64::from(jobs)).contains(&result.throttled), "{result:?}");
            assert_eq!((result.failed, result.remaining), (0, 40 - result.throttled));
            let begun = world.repository.find_by_status(Status::Pending, None, None, 100).unwrap();
            assert!(begun.iter().all(|entry| entry.operation.retry_count == 0));
        });
    }
}

#[test]
fn a_short_wish_is_waited_for() {
    each(|world| {
        world.entries("mail", 3);
        let first = AtomicUsize::new(0);
        world.handle(move |_| match first.fetch_add(1, Ordering::SeqCst) {
            0 => Outcome::throttled(Some(Duration::from_millis(80))),
            _ => Outcome::success(),
        });
        let result = all(world, &adaptive(|_| {}), 1);
        assert_eq!((result.throttled, result.succeeded), (1, 2));
        assert_eq!(result.early_stop_reason, None);
    });
}

#[test]
fn a_window_that_never_opens_ends_it_after_the_interval() {
    for jobs in [1, 4] {
        each(|world| {
            world.entries("mail", 20);
            let ran = world.succeed();
            let throttle = Script::always(WINDOW);
            let begin_ms = world.repository.monotonic_ms();
            let result = all(world, &throttle, jobs);
            assert_eq!(result.early_stop_reason, Some(EarlyStop::NoPermit));
            assert_eq!((result.total, result.remaining), (0, 20));
            assert_eq!(ran.count(), 0);
            let waited_ms = world.repository.monotonic_ms() - begin_ms;
            assert!((90..=u64::from(jobs) * 110).contains(&waited_ms), "{waited_ms}");
        });
    }
}

#[test]
fn a_window_that_opens_late_is_waited_for() {
    each(|world| {
        world.entries("mail", 2);
        world.succeed();
        let throttle = Script::default();
        throttle.answers.lock().unwrap().extend([WINDOW; 5]);
        assert_eq!(all(world, &throttle, 1).succeeded, 2);
        assert_eq!(throttle.told(), [Feedback::Success; 2]);
    });
}

#[test]
fn a_slow_pace_goes_on_as_long_as_it_gets_on() {
    for jobs in [1, 4] {
        each(|world| {
            world.entries("mail", 30);
            world.succeed();
            let begin_ms = world.repository.monotonic_ms();
            let throttle = adaptive(|config| config.rate_max = Some(0.5));
            let result = all(world, &throttle, jobs);
            assert_eq!((result.succeeded, result.early_stop_reason), (30, None), "{result:?}");
            let took_ms = world.repository.monotonic_ms() - begin_ms;
            assert!(took_ms >= 29 * 2000, "one every two seconds: {took_ms}");
        });
    }
}

#[test]
fn a_pace_that_is_never_kept_ends_it() {
    each(|world| {
        world.entries("mail", 3);
        world.succeed();
        let broken = Permit::Denied { retry_after_ms: 50, reason: Denial::Pace };
        let result = all(world, &Script::always(broken), 1);
        assert_eq!(result.early_stop_reason, Some(EarlyStop::NoPermit));
        assert!(world.repository.monotonic_ms() <= 300);
    });
}

#[test]
fn jobs_under_a_throttle_run_each_entry_once() {
    each(|world| {
        let ids = world.entries("mail", 300);
        let busy = AtomicUsize::new(0);
        let ran = world.handle(move |attempt| match attempt.entry().operation.id.0 % 10 {
            0 => Outcome::failure("bad entry"),
            _ if busy.fetch_add(1, Ordering::SeqCst) % 50 == 49 => Outcome::throttled(None),
            _ => Outcome::success(),
        });
        let throttle = adaptive(|_| {});
        let options = options(|options| {
            options.jobs = Some(8);
            options.batch_size = Some(50);
        });
        let result = world.service.replay_all_throttle_aware(&throttle, &options).unwrap();
        assert_eq!(result.early_stop_reason, None, "{result:?}");
        assert_eq!((result.total, result.failed, result.throttled), (300, 30, 5));
        let mut ran = ran.ids();
        ran.sort_unstable();
        assert_eq!(ran, ids);
        let stats = throttle.stats(world.repository.monotonic_ms());
        assert_eq!(stats.in_flight, 0, "{stats:?}");
        assert_eq!((stats.successes, stats.failures, stats.overloads), (265, 30, 5));
        world.check_settled();
    });
}

#[test]
fn whoever_waits_has_put_its_outcome_on_record() {
    each(|world| {
        let ids = world.entries("mail", 2);
        world.succeed();
        let repository = Arc::clone(&world.repository);
        let throttle = Watching {
            inner: Script::default(),
            resolved: Mutex::default(),
            ask: Box::new(move || {
                let resolved = repository.find_by_status(Status::Resolved, None, None, 10);
                resolved.unwrap().len()
            }),
        };
        throttle.inner.answers.lock().unwrap().extend([Permit::Granted, WINDOW, WINDOW]);
        assert_eq!(all(world, &throttle, 1).succeeded, ids.len() as u64);
        // The first one is started; it ended, but not on record; it is; and still is.
        assert_eq!(*throttle.resolved.lock().unwrap(), [0, 0, 1, 1]);
    });
}

/// Looks at every question how many entries are resolved.
struct Watching {
    inner: Script,
    resolved: Mutex<Vec<usize>>,
    ask: Box<dyn Fn() -> usize + Send + Sync>,
}

impl std::fmt::Debug for Watching {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watching").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl Throttle for Watching {
    fn permit(&self, now_ms: u64) -> Permit {
        self.resolved.lock().unwrap().push((self.ask)());
        self.inner.permit(now_ms)
    }

    fn feedback(&self, feedback: Feedback, latency_ms: u64, now_ms: u64) {
        self.inner.feedback(feedback, latency_ms, now_ms);
    }

    fn emergency(&self, now_ms: u64) -> Emergency {
        self.inner.emergency(now_ms)
    }

    fn stats(&self, now_ms: u64) -> ThrottleStats {
        self.inner.stats(now_ms)
    }
}

/// A throttle of a host that panics in one of its calls.
#[derive(Debug)]
struct Panicky(&'static str);

impl Panicky {
    fn called(&self, what: &str) {
        assert_ne!(self.0, what, "not our day");
    }
}

impl Throttle for Panicky {
    fn permit(&self, _: u64) -> Permit {
        self.called("permit");
        Permit::Granted
    }

    fn feedback(&self, _: Feedback, _: u64, _: u64) {
        self.called("feedback");
    }

    fn emergency(&self, _: u64) -> Emergency {
        self.called("emergency");
        Emergency::Normal
    }

    fn stats(&self, _: u64) -> ThrottleStats {
        ThrottleStats::default()
    }
}

#[test]
fn a_throttle_that_panics_takes_no_outcome_along() {
    for (what, jobs, ran) in [("permit", 1, 0), ("emergency", 1, 0), ("feedback", 1, 1)] {
        each(|world| {
            world.entries("mail", 5);
            world.succeed();
            let result = all(world, &Panicky(what), jobs);
            assert_eq!(result.early_stop_reason, Some(EarlyStop::Failed), "{what}");
            assert_eq!(result.succeeded, ran, "{what}");
            assert!(result.errors[0].contains("throttle panicked: "), "{:?}", result.errors);
        });
    }
    each(|world| {
        let id = world.entry("mail");
        world.succeed();
        assert!(world.service.replay_throttle_aware(id, &Panicky("feedback")).success);
        assert_eq!(world.status(id), Status::Resolved);
    });
}
