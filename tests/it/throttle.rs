//! The adaptive throttle against simulated dependencies: how quickly it drains, how rarely it asks
//! too much, and what an outage costs.

mod simulation;

use deadletter::{
    AdaptiveThrottle, Denial, Emergency, Feedback, Permit, Throttle, ThrottleConfig, ThrottleStats,
};

use simulation::{Dependency, Noise, Run, run, share};

const OVERLOAD: Feedback = Feedback::Overload { retry_after_ms: None };
const ENTRIES: u64 = 20_000;
const JOBS: u64 = 16;
const FOR_EVER: u64 = u64::MAX;

fn throttle(change: impl FnOnce(&mut ThrottleConfig)) -> AdaptiveThrottle {
    let mut config = ThrottleConfig::default();
    change(&mut config);
    AdaptiveThrottle::new(config).unwrap()
}

fn adaptive() -> AdaptiveThrottle {
    throttle(|_| {})
}

/// Takes so many calls per second and a few at once, and refuses the rest at once.
struct Limited {
    rate: u64,
    /// The rate for the second half of the entries.
    rate_later: u64,
    burst: u64,
    latency_us: u64,
    retry_after_ms: Option<u64>,
    /// In millionths of a call.
    tokens: u64,
    last_us: u64,
    noise: Noise,
}

impl Limited {
    fn new(rate: u64, burst: u64, latency_ms: u64) -> Self {
        Self {
            rate,
            rate_later: rate,
            burst,
            latency_us: latency_ms * 1000,
            retry_after_ms: None,
            tokens: burst * 1_000_000,
            last_us: 0,
            noise: Noise::new(),
        }
    }

    /// The time that it takes at least.
    fn possible_us(&self) -> u64 {
        let most = JOBS * 1_000_000 / self.latency_us;
        let half = |rate: u64| ENTRIES / 2 * 1_000_000 / rate.min(most);
        half(self.rate) + half(self.rate_later)
    }
}

impl Dependency for Limited {
    fn call(&mut self, now_us: u64) -> (Feedback, u64) {
        self.tokens += (now_us - self.last_us) * self.rate;
        self.tokens = self.tokens.min(self.burst * 1_000_000);
        self.last_us = now_us;
        if self.tokens < 1_000_000 {
            let retry_after_ms = self.retry_after_ms;
            return (Feedback::Overload { retry_after_ms }, self.noise.around(1000));
        }
        self.tokens -= 1_000_000;
        (Feedback::Success, self.noise.around(self.latency_us))
    }

    fn progress(&mut self, entries: u64) {
        if entries == ENTRIES / 2 {
            self.rate = self.rate_later;
        }
    }
}

/// Works on so many calls at once; with more it slows down, and at some point it refuses.
struct Crowded {
    workers: u64,
    workers_later: u64,
    latency_us: u64,
    calls: u64,
    noise: Noise,
}

impl Crowded {
    fn new(workers: u64, latency_ms: u64) -> Self {
        let latency_us = latency_ms * 1000;
        Self { workers, workers_later: workers, latency_us, calls: 0, noise: Noise::new() }
    }

    fn possible_us(&self) -> u64 {
        let half = |workers: u64| ENTRIES / 2 * self.latency_us / workers.min(JOBS);
        half(self.workers) + half(self.workers_later)
    }
}

impl Dependency for Crowded {
    fn call(&mut self, _now_us: u64) -> (Feedback, u64) {
        self.calls += 1;
        if self.calls > self.workers * 3 / 2 {
            return (OVERLOAD, self.noise.around(1000));
        }
        let latency_us = self.latency_us * self.calls.max(self.workers) / self.workers;
        (Feedback::Success, self.noise.around(latency_us))
    }

    fn end(&mut self) {
        self.calls -= 1;
    }

    fn progress(&mut self, entries: u64) {
        if entries == ENTRIES / 2 {
            self.workers = self.workers_later;
        }
    }
}

/// Drains all entries; the first bar is the share of the possible rate.
#[track_caller]
fn check_limited(name: &str, mut limited: Limited, rate_min: f64) {
    let possible_us = limited.possible_us();
    let run = run(&adaptive(), &mut limited, JOBS, ENTRIES, FOR_EVER);
    run.check(name, possible_us, rate_min, 0.01);
}

#[track_caller]
fn check_crowded(name: &str, mut crowded: Crowded) {
    let possible_us = crowded.possible_us();
    let run = run(&adaptive(), &mut crowded, JOBS, ENTRIES, FOR_EVER);
    run.check(name, possible_us, 0.9, 0.01);
}

#[test]
fn a_limited_rate_is_used_and_kept() {
    for (rate, burst, latency_ms) in [
        (5, 2, 100),
        (50, 5, 20),
        (100, 5, 150),
        (500, 10, 10),
        (500, 2, 10),
        (500, 100, 10),
        (2000, 20, 5),
        (5000, 20, 2),
    ] {
        let name = format!("{rate}/s, burst {burst}, {latency_ms} ms");
        check_limited(&name, Limited::new(rate, burst, latency_ms), 0.9);
    }
}

#[test]
fn a_change_of_rate_is_followed() {
    for (rate, later) in [(500, 250), (500, 1000), (50, 25), (50, 100), (1000, 100)] {
        let mut limited = Limited::new(rate, 10, 10);
        limited.rate_later = later;
        check_limited(&format!("{rate}/s, later {later}/s"), limited, 0.9);
    }
}

#[test]
fn a_crowded_dependency_is_kept_busy() {
    for (workers, later) in [(8, 8), (4, 4), (2, 2), (8, 4), (4, 8), (5, 10), (12, 6)] {
        let mut crowded = Crowded::new(workers, 20);
        crowded.workers_later = later;
        check_crowded(&format!("{workers} workers, later {later}"), crowded);
    }
}

/// A dependency that answers every overload with a wish costs a rest for each of them.
#[test]
fn a_wish_to_be_left_alone_is_worth_its_rest() {
    for rest_ms in [100, 1000] {
        let mut limited = Limited::new(500, 10, 10);
        limited.retry_after_ms = Some(rest_ms);
        check_limited(&format!("rest of {rest_ms} ms"), limited, 0.8);
    }
}

/// Takes everything, except between two times.
struct Failing {
    from_ms: u64,
    to_ms: u64,
    feedback: Feedback,
    /// Besides, one in so many entries is bad for good; 0 for none.
    bad: u64,
    latency_ms: u64,
    noise: Noise,
}

impl Failing {
    const fn between(from_ms: u64, to_ms: u64, feedback: Feedback) -> Self {
        Self { from_ms, to_ms, feedback, bad: 0, latency_ms: 20, noise: Noise::new() }
    }
}

impl Dependency for Failing {
    fn call(&mut self, now_us: u64) -> (Feedback, u64) {
        let latency_us = self.noise.around(self.latency_ms * 1000);
        if (self.from_ms..self.to_ms).contains(&(now_us / 1000)) {
            return (self.feedback, latency_us);
        }
        let is_bad = self.bad > 0 && self.noise.below(self.bad) == 0;
        (if is_bad { Feedback::Failure } else { Feedback::Success }, latency_us)
    }
}

/// Replays for 100 seconds with an outage of 30 seconds, and checks what was wasted and how long
/// it took to notice the end.
#[track_caller]
fn check_outage(name: &str, jobs: u64, from_ms: u64, feedback: Feedback, wasted_max: u64) -> Run {
    let to_ms = from_ms + 30_000;
    let mut failing = Failing::between(from_ms, to_ms, feedback);
    let run = run(&adaptive(), &mut failing, jobs, u64::MAX, 100_000);
    let wasted = run.failures + run.overloads;
    assert!(wasted <= wasted_max, "{name}: {wasted} of at most {wasted_max} calls wasted");
    let after = run.calls_ms.iter().find(|call_ms| **call_ms >= to_ms).unwrap() - to_ms;
    assert!(after <= 10_000, "{name}: tried again {after} ms after the end");
    // Twenty milliseconds each, with nothing lost but the outage and the way back.
    let possible = jobs * (70_000 - after) / 20;
    let share = share(run.entries, possible);
    assert!(share > 0.9, "{name}: {:.1} % of what was possible", share * 100.0);
    run
}

#[test]
fn an_outage_costs_what_was_in_flight_and_the_probes() {
    // After 1, 3, 7 and 15 seconds; the next probe comes after the end.
    let probes = 4;
    // Calls that began before the outage still succeed after the first ones failed, and others take
    // their places; so it is a little more than what was in flight.
    for (jobs, wasted_max) in [(1, 10), (4, 10), (16, 28), (40, 60)] {
        let name = format!("{jobs} jobs");
        let run = check_outage(&name, jobs, 10_000, Feedback::Failure, wasted_max + probes);
        assert_eq!(run.worst, Emergency::Emergency, "{name}");
        check_outage(&format!("{name} from the start"), jobs, 0, Feedback::Failure, 10 + probes);
    }
}

/// The overloads of an outage look like those of a pace that is too quick; the pace that they set must
/// not last.
#[test]
fn an_outage_may_call_itself_an_overload() {
    let probes = 4;
    for jobs in [1, 4, 16] {
        let name = format!("{jobs} jobs");
        let run = check_outage(&name, jobs, 10_000, OVERLOAD, 2 * jobs + 2 + probes);
        assert_eq!(run.worst, Emergency::Emergency, "{name}");
        check_outage(&format!("{name} from the start"), jobs, 0, OVERLOAD, 3 + probes);
    }
}

#[test]
fn an_outage_may_say_when_to_come_again() {
    let feedback = Feedback::Overload { retry_after_ms: Some(5000) };
    for jobs in [1, 4, 16] {
        let run = check_outage(&format!("{jobs} jobs"), jobs, 10_000, feedback, jobs + 5);
        assert_eq!(run.worst, Emergency::Elevated);
        let quiet = run.calls_ms.windows(2).filter(|pair| pair[1] - pair[0] >= 4990).count();
        assert_eq!(quiet, 6, "{jobs} jobs");
    }
}

#[test]
fn bad_entries_are_no_outage() {
    let mut failing = Failing::between(0, 0, OVERLOAD);
    failing.bad = 20;
    let run = run(&adaptive(), &mut failing, JOBS, ENTRIES, FOR_EVER);
    assert_eq!(run.worst, Emergency::Normal);
    run.check("one in twenty is bad", run.calls * 20_000 / JOBS, 0.95, 0.01);
}

#[test]
fn a_quick_handler_with_one_job_is_never_denied() {
    for latency_ms in [0, 1] {
        let mut failing = Failing::between(0, 0, OVERLOAD);
        failing.latency_ms = latency_ms;
        let run = run(&adaptive(), &mut failing, 1, 100_000, FOR_EVER);
        assert_eq!((run.calls, run.denials), (100_000, 0), "{latency_ms} ms");
    }
}

/// The slower half of the entries belongs to another handler.
struct TwoHandlers {
    latency_us: u64,
    noise: Noise,
}

impl Dependency for TwoHandlers {
    fn call(&mut self, _now_us: u64) -> (Feedback, u64) {
        (Feedback::Success, self.noise.around(self.latency_us))
    }

    fn progress(&mut self, entries: u64) {
        if entries == ENTRIES / 2 {
            self.latency_us *= 50;
        }
    }
}

#[test]
fn a_slow_handler_is_not_taken_for_a_slow_dependency() {
    let mut handlers = TwoHandlers { latency_us: 2000, noise: Noise::new() };
    let run = run(&adaptive(), &mut handlers, JOBS, ENTRIES, FOR_EVER);
    run.check("2 ms, later 100 ms", ENTRIES / 2 * 102_000 / JOBS, 0.95, 0.01);
}

#[test]
fn the_cap_of_the_rate_holds_in_any_second() {
    for (rate, calls_max) in
        [(0.5, 1), (7.0, 7), (10.0, 10), (333.3, 334), (999.0, 999), (1500.0, 1500)]
    {
        let throttle = throttle(|config| config.rate_max = Some(rate));
        let mut failing = Failing::between(0, 0, OVERLOAD);
        let run = run(&throttle, &mut failing, 64, u64::MAX, 20_000);
        let calls_ms = &run.calls_ms;
        for (first, from_ms) in calls_ms.iter().enumerate() {
            let calls = calls_ms[first..].partition_point(|call_ms| *call_ms < from_ms + 1000);
            assert!(calls <= calls_max, "{calls} calls from {from_ms} ms, not {rate}");
        }
        // The last of them may be just about to begin.
        let missed = 1.0 - share(run.calls, 20) / rate;
        assert!(missed < 0.03, "{} calls in 20 s, not {rate} per second", run.calls);
    }
}

#[test]
fn the_same_calls_get_the_same_answers() {
    let once = || run(&adaptive(), &mut Limited::new(500, 10, 10), JOBS, 2000, FOR_EVER).calls_ms;
    assert_eq!(once(), once());
}

/// A host's own throttle stands in the same place.
#[derive(Debug)]
struct Closed;

impl Throttle for Closed {
    fn permit(&self, _now_ms: u64) -> Permit {
        Permit::Denied { retry_after_ms: 1000, reason: Denial::Outage }
    }

    fn feedback(&self, _feedback: Feedback, _latency_ms: u64, _now_ms: u64) {}

    fn emergency(&self, _now_ms: u64) -> Emergency {
        Emergency::Emergency
    }

    fn stats(&self, _now_ms: u64) -> ThrottleStats {
        ThrottleStats::default()
    }
}

#[test]
fn a_host_may_bring_its_own() {
    let mut failing = Failing::between(0, 0, OVERLOAD);
    let run = run(&Closed, &mut failing, 1, 1, 10_000);
    assert_eq!((run.calls, run.denials), (0, 11));
}
