//! The state machine of the adaptive throttle: a window of replays in flight, a pace, and waits.
//!
//! Without a wait, the window bounds what is in flight and the pace bounds how fast it begins. A wait
//! begins when the dependency asks for it, or when it seems to be down; in it one replay at a time
//! probes, and the first success ends it. What was in flight when a wait began is written off: it
//! neither counts against the window nor says anything about the probe.

use std::collections::VecDeque;

use super::latency::{Latency, Verdict};
use super::pace::{Meter, Pace};
use super::{Denial, Emergency, Feedback, Permit, ThrottleConfig, ThrottleStats};

/// So many overloads in a row, each in a round trip of its own, are an outage.
const OUTAGE_OVERLOADS: u32 = 3;
/// At the window that was once too large, so many successes must come before one more is tried, and
/// half as many before the next. A small window would else be too large every few calls.
const PATIENCE: u32 = 256;
/// The wait between probes grows to this many times the first one.
const WAIT_TIMES_MAX: u64 = 60;
/// The dependency's wish to be left alone is taken to be at least and at most this. The least keeps
/// a wish of nothing from making a tight loop; the most keeps a slip of its clock from ending
/// replays for ever.
const REST_MS_MIN: u64 = 10;
const REST_MS_MAX: u64 = 24 * 60 * 60 * 1000;
/// What to tell whoever waits for somebody else's replay to end, at most and by default.
const POLL_MS_MAX: u64 = 1000;
const POLL_MS: u64 = 10;

/// Why nothing but probes is permitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    RetryAfter,
    Failures,
    Overloads,
}

/// A time in which nothing but probes is permitted.
#[derive(Debug, Clone, Copy)]
struct Wait {
    cause: Cause,
    /// No probe before this.
    until_ms: u64,
    /// How many times the configured interval the wait takes.
    times: u64,
    /// When the probe in flight was permitted.
    probe_ms: Option<u64>,
}

impl Wait {
    const fn is_outage(&self) -> bool {
        matches!(self.cause, Cause::Failures | Cause::Overloads)
    }
}

/// Everything an adaptive throttle knows.
#[derive(Debug)]
pub(super) struct State {
    config: ThrottleConfig,
    now_ms: u64,
    /// How many replays may be in flight, before failures halve it.
    window: u32,
    /// Successes towards the next step of the window.
    progress: u32,
    /// Whether the window doubles.
    is_doubling: bool,
    /// The window that was last too large, and the steps that were taken since in spite of it.
    window_crowded: Option<u32>,
    steps_beyond: u32,
    /// How many answers still count as those of a full window. A window that was not full has not
    /// been tried, and may not grow.
    tried: usize,
    /// Since the last success.
    failures_in_row: u32,
    overloads_in_row: u32,
    /// When the permits in flight were granted and which they were, oldest first.
    in_flight: VecDeque<(u64, u64)>,
    /// Permits granted until a wait began, whose feedback is still to come.
    written_off: usize,
    written_off_ms: u64,
    /// The last permit that was granted before an overload took load away. One round trip brings
    /// many overloads of one cause; only a later permit may do it again.
    fallen_permit: u64,
    /// The window before it was made smaller to see whether that helps the latency.
    window_before: u32,
    wait: Option<Wait>,
    pace: Pace,
    meter: Meter,
    latency: Latency,
    /// Only the counts are kept here.
    counts: ThrottleStats,
}

impl State {
    pub(super) fn new(config: ThrottleConfig) -> Self {
        let pace = Pace::new(config.rate_max);
        Self {
            config,
            now_ms: 0,
            window: 1,
            progress: 0,
            is_doubling: true,
            window_crowded: None,
            steps_beyond: 0,
            tried: 0,
            failures_in_row: 0,
            overloads_in_row: 0,
            in_flight: VecDeque::new(),
            written_off: 0,
            written_off_ms: 0,
            fallen_permit: 0,
            window_before: 1,
            wait: None,
            pace,
            meter: Meter::new(),
            latency: Latency::new(),
            counts: ThrottleStats::default(),
        }
    }

    pub(super) fn permit(&mut self, now_ms: u64) -> Permit {
        let now_ms = self.advance(now_ms);
        if let Some((retry_after_ms, reason)) = self.denial(now_ms) {
            self.counts.denied += 1;
            // A rest that the dependency asked for says nothing about what it takes at work.
            if reason != Denial::RetryAfter {
                self.meter.wanted(now_ms.saturating_add(retry_after_ms));
            }
            return Permit::Denied { retry_after_ms, reason };
        }
        self.pace.take(now_ms);
        self.counts.granted += 1;
        self.in_flight.push_back((now_ms, self.counts.granted));
        if self.in_flight.len() >= self.room() {
            self.tried = self.in_flight.len();
        }
        if let Some(wait) = &mut self.wait {
            wait.probe_ms = Some(now_ms);
        }
        Permit::Granted
    }

    pub(super) fn feedback(&mut self, feedback: Feedback, latency_ms: u64, now_ms: u64) {
        let now_ms = self.advance(now_ms);
        let start_ms = now_ms.saturating_sub(latency_ms);
        match feedback {
            Feedback::Success => self.counts.successes += 1,
            Feedback::Failure => self.counts.failures += 1,
            Feedback::Overload { .. } => self.counts.overloads += 1,
            Feedback::Unused => self.counts.unused += 1,
        }
        if matches!(feedback, Feedback::Success | Feedback::Failure) {
            self.meter.answered();
        }
        let is_written_off = self.written_off > 0 && start_ms <= self.written_off_ms;
        self.written_off -= usize::from(is_written_off);
        if is_written_off || self.wait.is_some_and(|wait| wait.probe_ms.is_none()) {
            if let Feedback::Overload { retry_after_ms: Some(rest_ms) } = feedback {
                self.rest(rest_ms, now_ms);
            }
            return;
        }
        let in_flight = self.in_flight.len();
        let permit = self.release(start_ms, latency_ms);
        if let Some(wait) = &mut self.wait {
            wait.probe_ms = None;
        }
        match feedback {
            Feedback::Success => self.succeeded(start_ms, latency_ms, now_ms),
            Feedback::Failure => self.failed(now_ms),
            Feedback::Overload { retry_after_ms } => {
                self.overloaded(retry_after_ms, permit, in_flight, now_ms);
            }
            Feedback::Unused => {}
        }
    }

    pub(super) fn emergency(&mut self, now_ms: u64) -> Emergency {
        let now_ms = self.advance(now_ms);
        // Without a bound for outages, five failures in a row are still worth a word.
        let many = match self.config.outage_failures {
            0 => 5,
            failures => failures.div_ceil(2),
        };
        match &self.wait {
            Some(wait) if wait.is_outage() => {
                let is_due = now_ms >= wait.until_ms && wait.probe_ms.is_none();
                if is_due { Emergency::Elevated } else { Emergency::Emergency }
            }
            Some(_) => Emergency::Elevated,
            None if self.overloads_in_row > 0 || self.failures_in_row >= many => {
                Emergency::Elevated
            }
            None => Emergency::Normal,
        }
    }

    pub(super) fn stats(&mut self, now_ms: u64) -> ThrottleStats {
        let emergency = self.emergency(now_ms);
        let millis = |us: u64| f64::from(u32::try_from(us).unwrap_or(u32::MAX)) / 1000.0;
        ThrottleStats {
            emergency,
            window: u32::try_from(self.room()).unwrap_or(u32::MAX),
            in_flight: u32::try_from(self.in_flight.len()).unwrap_or(u32::MAX),
            rate: self.pace.rate(),
            latency_ms: self.latency.mean_us().map(millis),
            latency_best_ms: self.latency.best_us().map(millis),
            wait_ms: self.wait.map_or(0, |wait| wait.until_ms.saturating_sub(self.now_ms)),
            ..self.counts.clone()
        }
    }

    /// Lets time pass, never backward, and forgets permits that nobody will speak of again.
    fn advance(&mut self, now_ms: u64) -> u64 {
        let now_ms = now_ms.max(self.now_ms);
        self.meter.advance(self.now_ms, now_ms, !self.in_flight.is_empty());
        self.now_ms = now_ms;
        let timeout_ms = self.config.permit_timeout_ms;
        let is_old = |granted_ms: &u64| now_ms - *granted_ms >= timeout_ms;
        while self.in_flight.front().is_some_and(|(granted_ms, _)| is_old(granted_ms)) {
            self.in_flight.pop_front();
            self.counts.timed_out += 1;
        }
        if let Some(wait) = &mut self.wait {
            wait.probe_ms = wait.probe_ms.filter(|probe_ms| !is_old(probe_ms));
        }
        now_ms
    }

    /// How many replays may be in flight. Each failure in a row halves it and a success brings all
    /// of it back, so that an outage is left quickly and a bad entry costs little. After an overload
    /// it is one until something succeeds, for the same reason.
    fn room(&self) -> usize {
        let window = if self.wait.is_some() || self.overloads_in_row > 0 {
            1
        } else {
            self.window.checked_shr(self.failures_in_row).unwrap_or(0).max(1)
        };
        usize::try_from(window).unwrap_or(usize::MAX)
    }

    /// What stands in the way of a replay, and for how long.
    fn denial(&mut self, now_ms: u64) -> Option<(u64, Denial)> {
        if let Some(wait) = &self.wait {
            let reason = if wait.is_outage() { Denial::Outage } else { Denial::RetryAfter };
            if now_ms < wait.until_ms {
                return Some((wait.until_ms - now_ms, reason));
            }
            if wait.probe_ms.is_some() {
                return Some((self.poll_ms(1), reason));
            }
        } else if self.in_flight.len() >= self.room() {
            return Some((self.poll_ms(self.window), Denial::Window));
        }
        self.pace.hold_back(now_ms).map(|retry_after_ms| (retry_after_ms, Denial::Pace))
    }

    /// About when one of so many in flight will have ended.
    fn poll_ms(&self, in_flight: u32) -> u64 {
        let share = u64::from(in_flight.max(1)) * 1000;
        let poll_ms = self.latency.mean_us().map_or(POLL_MS, |mean_us| mean_us / share);
        poll_ms.clamp(1, POLL_MS_MAX)
    }

    /// Takes a permit out of those in flight and tells which it was: the newest that is old enough,
    /// so that those which were lost grow old and are found.
    fn release(&mut self, start_ms: u64, latency_ms: u64) -> Option<u64> {
        let older = self.in_flight.partition_point(|(granted_ms, _)| *granted_ms <= start_ms);
        // One that timed out is gone already; the others are a matter of rounding.
        let is_known = older > 0 || latency_ms < self.config.permit_timeout_ms;
        let place = is_known.then_some(older.saturating_sub(1))?;
        self.in_flight.remove(place).map(|(_, permit)| permit)
    }

    fn succeeded(&mut self, start_ms: u64, latency_ms: u64, now_ms: u64) {
        self.failures_in_row = 0;
        self.overloads_in_row = 0;
        if let Some(wait) = self.wait.take() {
            self.window = 1;
            self.progress = 0;
            self.is_doubling = true;
            self.latency.restart(start_ms.saturating_sub(1));
            if wait.cause == Cause::Overloads {
                // If the first probe is taken, the pace was much too quick. If later ones are, the
                // dependency was down, which says nothing about the pace.
                self.pace.seek((wait.times == 1).then_some(&self.meter));
            }
        }
        self.pace.answered(&self.meter);
        match self.latency.record(start_ms, latency_ms, self.window, now_ms) {
            Verdict::High => {
                self.is_doubling = false;
                self.window_before = self.window;
                self.shrink(4, 5);
            }
            Verdict::NotOurs => self.window = self.window.max(self.window_before),
            Verdict::Raised => self.is_doubling = false,
            Verdict::Calm | Verdict::Open => {}
        }
        if self.tried > 0 && !self.latency.is_raised() {
            self.grow();
        }
        self.tried = self.tried.saturating_sub(1);
    }

    /// Adds one for each success while doubling, else one for each window of successes, and less
    /// often where that was once too much.
    fn grow(&mut self) {
        self.progress += 1;
        let is_near = self.window_crowded.is_some_and(|crowded| self.window + 1 >= crowded);
        self.is_doubling &= !is_near;
        let patience =
            if is_near { PATIENCE.checked_shr(self.steps_beyond).unwrap_or(0) } else { 0 };
        if self.is_doubling || self.progress >= self.window.max(patience) {
            self.progress = 0;
            self.window = self.config.window_max.min(self.window + 1);
            self.steps_beyond += u32::from(is_near);
        }
    }

    fn shrink(&mut self, numerator: u32, denominator: u32) {
        self.window = (self.window * numerator / denominator).max(1);
        self.progress = 0;
    }

    fn failed(&mut self, now_ms: u64) {
        self.failures_in_row = self.failures_in_row.saturating_add(1);
        let bound = self.config.outage_failures;
        let is_outage = bound > 0 && self.failures_in_row >= bound;
        match &mut self.wait {
            Some(wait) if wait.is_outage() => self.wait_longer(now_ms),
            _ if is_outage => self.begin_outage(Cause::Failures, now_ms),
            Some(wait) => wait.until_ms = now_ms,
            None => self.pace.answered(&self.meter),
        }
    }

    fn overloaded(
        &mut self,
        rest_ms: Option<u64>,
        permit: Option<u64>,
        in_flight: usize,
        now_ms: u64,
    ) {
        if permit.is_some_and(|permit| permit > self.fallen_permit) {
            // A single probe is no load, so there is nothing to take away from it.
            if self.wait.is_none() {
                self.fall(rest_ms, in_flight, now_ms);
            }
            if rest_ms.is_none() {
                self.overloads_in_row = self.overloads_in_row.saturating_add(1);
            }
        }
        let is_outage = self.overloads_in_row >= OUTAGE_OVERLOADS;
        match &mut self.wait {
            Some(wait) if wait.is_outage() => self.wait_longer(now_ms),
            _ if is_outage => self.begin_outage(Cause::Overloads, now_ms),
            Some(wait) => wait.until_ms = now_ms,
            None => {}
        }
        if let Some(rest_ms) = rest_ms {
            self.rest(rest_ms, now_ms);
        }
    }

    /// Takes load away after an overload: less in flight, and a slower pace.
    fn fall(&mut self, rest_ms: Option<u64>, in_flight: usize, now_ms: u64) {
        self.fallen_permit = self.counts.granted;
        self.pace.fall(&self.meter, rest_ms);
        let used = u32::try_from(in_flight).unwrap_or(u32::MAX);
        if used >= self.window {
            self.window_crowded = Some(self.window);
            self.steps_beyond = 0;
        }
        // Overloaded twice in a row, or while nothing was known: half of it. Else a touch of the
        // ceiling. The part of the window that was not in use has no part in it.
        if self.is_doubling || self.overloads_in_row > 0 {
            self.shrink(1, 2);
        } else if used >= self.window {
            self.shrink(4, 5);
        } else {
            self.window = used.max(self.window * 4 / 5);
        }
        self.is_doubling = false;
        self.latency.restart(now_ms);
    }

    /// Leaves the dependency alone for as long as it wants, or longer.
    fn rest(&mut self, rest_ms: u64, now_ms: u64) {
        let until_ms = now_ms.saturating_add(rest_ms.clamp(REST_MS_MIN, REST_MS_MAX));
        match &mut self.wait {
            Some(wait) => wait.until_ms = wait.until_ms.max(until_ms),
            None => {
                let cause = Cause::RetryAfter;
                self.begin_wait(Wait { cause, until_ms, times: 1, probe_ms: None });
            }
        }
    }

    fn begin_outage(&mut self, cause: Cause, now_ms: u64) {
        self.counts.emergencies += 1;
        let until_ms = now_ms.saturating_add(self.config.probe_interval_ms);
        self.begin_wait(Wait { cause, until_ms, times: 1, probe_ms: None });
    }

    fn begin_wait(&mut self, wait: Wait) {
        self.written_off += self.in_flight.len();
        self.written_off_ms = self.now_ms;
        self.in_flight.clear();
        self.wait = Some(wait);
    }

    /// Doubles the time to the next probe after one that did not succeed.
    fn wait_longer(&mut self, now_ms: u64) {
        let interval_ms = self.config.probe_interval_ms;
        if let Some(wait) = &mut self.wait {
            wait.times = WAIT_TIMES_MAX.min(wait.times * 2);
            wait.until_ms = now_ms.saturating_add(interval_ms.saturating_mul(wait.times));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OVERLOAD: Feedback = Feedback::Overload { retry_after_ms: None };

    fn state() -> State {
        State::new(ThrottleConfig::default())
    }

    const fn rest(retry_after_ms: u64) -> Feedback {
        Feedback::Overload { retry_after_ms: Some(retry_after_ms) }
    }

    /// Takes all permits to be had, up to a bound.
    fn take(state: &mut State, now_ms: u64) -> usize {
        (0..1000).take_while(|_| state.permit(now_ms) == Permit::Granted).count()
    }

    /// Takes all permits to be had and feeds back the same for each, ten milliseconds later.
    fn round(state: &mut State, feedback: Feedback, now_ms: u64) -> usize {
        let count = take(state, now_ms);
        (0..count).for_each(|_| state.feedback(feedback, 10, now_ms + 10));
        count
    }

    #[track_caller]
    fn check_denied(state: &mut State, now_ms: u64, wait_ms: u64, wanted: Denial) {
        let Permit::Denied { retry_after_ms, reason } = state.permit(now_ms) else {
            panic!("granted at {now_ms}");
        };
        assert_eq!((retry_after_ms, reason), (wait_ms, wanted));
    }

    #[test]
    fn the_window_begins_with_one_and_doubles_to_its_bound() {
        let mut state = state();
        let counts: Vec<_> = (0..8).map(|n| round(&mut state, Feedback::Success, n * 20)).collect();
        assert_eq!(counts, [1, 2, 4, 8, 16, 32, 64, 64]);
    }

    #[test]
    fn failures_halve_the_window_and_a_success_brings_it_back() {
        let mut state = state();
        (0..4).for_each(|n| assert_eq!(round(&mut state, Feedback::Success, n * 20), 1 << n));
        assert_eq!(take(&mut state, 80), 16);
        for room in [8, 4, 2, 1, 1] {
            state.feedback(Feedback::Failure, 10, 90);
            assert_eq!(state.room(), room);
        }
        check_denied(&mut state, 90, 1, Denial::Window);
        state.feedback(Feedback::Success, 10, 90);
        assert!(state.room() >= 16);
    }

    #[test]
    fn the_first_replay_is_a_probe() {
        let mut state = state();
        for now_ms in 0..9 {
            assert_eq!(round(&mut state, Feedback::Failure, now_ms * 10), 1);
        }
        assert_eq!(state.emergency(90), Emergency::Elevated);
        assert_eq!(round(&mut state, Feedback::Failure, 90), 1);
        assert_eq!(state.emergency(100), Emergency::Emergency);
        assert_eq!(state.stats(100).emergencies, 1);
        check_denied(&mut state, 100, 1000, Denial::Outage);
    }

    #[test]
    fn probes_become_rarer_until_one_succeeds() {
        let mut state = state();
        let mut now_ms = 0;
        (0..10).for_each(|_| assert_eq!(round(&mut state, Feedback::Failure, 0), 1));
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            now_ms = state.now_ms;
            check_denied(&mut state, now_ms, seconds * 1000, Denial::Outage);
            now_ms += seconds * 1000;
            assert_eq!(state.emergency(now_ms), Emergency::Elevated);
            assert_eq!(take(&mut state, now_ms), 1);
            assert_eq!(state.emergency(now_ms), Emergency::Emergency);
            state.feedback(Feedback::Failure, 10, now_ms + 10);
        }
        now_ms += 100_000;
        assert_eq!(round(&mut state, Feedback::Success, now_ms), 1);
        assert_eq!(state.emergency(now_ms + 10), Emergency::Normal);
        assert_eq!(round(&mut state, Feedback::Success, now_ms + 20), 2);
    }

    #[test]
    fn three_overloads_in_a_row_are_an_outage() {
        let mut state = state();
        (0..3).for_each(|n| assert_eq!(round(&mut state, Feedback::Success, n * 20), 1 << n));
        // Eight of one round trip are one overload.
        assert_eq!(round(&mut state, OVERLOAD, 60), 8);
        assert_eq!(state.emergency(70), Emergency::Elevated);
        let mut now_ms = 100;
        for emergency in [Emergency::Elevated, Emergency::Emergency] {
            assert!(round(&mut state, OVERLOAD, now_ms) > 0);
            now_ms += 100;
            assert_eq!(state.emergency(now_ms), emergency);
        }
        assert_eq!(state.wait.unwrap().cause, Cause::Overloads);
    }

    #[test]
    fn without_a_bound_failures_are_no_outage() {
        let mut state =
            State::new(ThrottleConfig { outage_failures: 0, ..ThrottleConfig::default() });
        (0..100).for_each(|n| assert_eq!(round(&mut state, Feedback::Failure, n * 10), 1));
        assert_eq!(state.emergency(1000), Emergency::Elevated);
    }

    #[test]
    fn a_wish_to_be_left_alone_is_obeyed_and_then_one_tries() {
        let mut state = state();
        assert_eq!(round(&mut state, rest(5000), 0), 1);
        check_denied(&mut state, 10, 5000, Denial::RetryAfter);
        check_denied(&mut state, 5009, 1, Denial::RetryAfter);
        assert_eq!(state.emergency(5009), Emergency::Elevated);
        assert_eq!(take(&mut state, 5010), 1);
        check_denied(&mut state, 5010, POLL_MS, Denial::RetryAfter);
        state.feedback(rest(0), 10, 5020);
        check_denied(&mut state, 5020, REST_MS_MIN, Denial::RetryAfter);
        assert_eq!(round(&mut state, rest(u64::MAX), 5030), 1);
        check_denied(&mut state, 5040, REST_MS_MAX, Denial::RetryAfter);
        let now_ms = 5040 + REST_MS_MAX;
        assert_eq!(round(&mut state, Feedback::Success, now_ms), 1);
        assert_eq!(state.emergency(now_ms + 10), Emergency::Normal);
    }

    #[test]
    fn what_was_in_flight_says_nothing_about_the_probe() {
        let mut state = state();
        (0..3).for_each(|n| assert_eq!(round(&mut state, Feedback::Success, n * 20), 1 << n));
        assert_eq!(take(&mut state, 60), 8);
        state.feedback(rest(1000), 10, 70);
        assert_eq!(take(&mut state, 1070), 1);
        (0..6).for_each(|_| state.feedback(Feedback::Success, 1020, 1080));
        check_denied(&mut state, 1080, 10, Denial::RetryAfter);
        // The last of them knows of a longer rest.
        state.feedback(rest(1000), 1020, 1080);
        state.feedback(Feedback::Failure, 20, 1090);
        assert_eq!(state.emergency(1090), Emergency::Elevated);
        state.permit(1090);
        state.feedback(Feedback::Success, 10, 1100);
        assert_eq!(state.emergency(1100), Emergency::Normal);
        assert_eq!(state.room(), 2);
    }

    #[test]
    fn an_unused_permit_changes_nothing() {
        let mut state = state();
        for now_ms in 0..100 {
            assert_eq!(take(&mut state, now_ms), 1);
            state.feedback(Feedback::Unused, 0, now_ms);
        }
        assert_eq!(round(&mut state, rest(1000), 100), 1);
        assert_eq!(take(&mut state, 1110), 1);
        state.feedback(Feedback::Unused, 0, 1110);
        assert_eq!(take(&mut state, 1110), 1);
        assert_eq!(state.stats(1110).unused, 101);
    }

    #[test]
    fn lost_permits_stop_counting() {
        let timeout_ms = ThrottleConfig::default().permit_timeout_ms;
        let mut state = state();
        assert_eq!(take(&mut state, 5), 1);
        assert_eq!(take(&mut state, 4 + timeout_ms), 0);
        assert_eq!(take(&mut state, 5 + timeout_ms), 1);
        // Feedback that comes after all takes nobody else's place.
        state.feedback(Feedback::Failure, timeout_ms, 5 + timeout_ms);
        let stats = state.stats(5 + timeout_ms);
        assert_eq!((stats.in_flight, stats.timed_out), (1, 1));
        // So does a probe.
        state.feedback(rest(1000), 10, 15 + timeout_ms);
        assert_eq!(take(&mut state, 1015 + timeout_ms), 1);
        assert_eq!(take(&mut state, 1014 + 2 * timeout_ms), 0);
        assert_eq!(take(&mut state, 1015 + 2 * timeout_ms), 1);
    }

    #[test]
    fn only_a_probe_ends_an_outage() {
        let timeout_ms = ThrottleConfig::default().permit_timeout_ms;
        let mut state = state();
        (0..10).for_each(|_| assert_eq!(round(&mut state, Feedback::Failure, 0), 1));
        assert_eq!(take(&mut state, 2000), 1);
        // The probe is lost, and speaks up when nobody waits for it any more.
        state.feedback(Feedback::Success, timeout_ms, 2000 + timeout_ms);
        assert_eq!(take(&mut state, 2000 + timeout_ms), 1);
        check_denied(&mut state, 2000 + timeout_ms, POLL_MS, Denial::Outage);
        state.feedback(Feedback::Success, 10, 2010 + timeout_ms);
        assert_eq!(state.emergency(2010 + timeout_ms), Emergency::Normal);
    }

    #[test]
    fn time_never_runs_backward() {
        let mut state = state();
        assert_eq!(round(&mut state, Feedback::Success, 1000), 1);
        assert_eq!(state.permit(0), Permit::Granted);
        state.feedback(Feedback::Success, u64::MAX, 0);
        assert_eq!(state.stats(0).successes, 2);
        assert_eq!(state.stats(u64::MAX).in_flight, 0);
    }
}
