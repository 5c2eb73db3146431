//! How fast replays may begin: what the dependency took is measured, and the pace stays just under
//! it.
//!
//! After an overload the pace falls under the last known ceiling, comes back to it quickly at first
//! and slowly near it, and then goes beyond it, slowly at first and quickly later. The course is
//! counted in calls, not in seconds, so that slow and quick dependencies are overloaded in the same
//! small share of calls.

use std::collections::VecDeque;
use std::time::Duration;

/// The rate is measured over so many answers; more would be too late for a change of capacity.
const ANSWERS_KEPT: usize = 64;
/// The same while the pace changes quickly.
const ANSWERS_RECENT: usize = 16;
/// The pace falls by this share at an overload, and by as much again for each one that follows soon.
const DROP: f64 = 0.05;
const DROP_MAX: f64 = 0.5;
/// A measurement takes the ceiling down to this share of the pace, but no further at once: it may be
/// wrong, for example because few replays were to be had.
const TRUST: f64 = 0.75;
/// So many calls after an overload the pace is at the ceiling again.
const SPAN_CALLS: f64 = 200.0;
const SPAN_CALLS_MAX: f64 = 100_000.0;
/// So many calls after that it is above it by this share, with the third power of the calls.
const RISE: f64 = 0.05;
/// The growth with each answer while no ceiling is known.
const SEEK: f64 = 1.03;
/// Bounds of the pace. Below the lower one an emergency handles it; above the upper one nothing can
/// be told from no pace at all.
const RATE_MIN: f64 = 0.01;
const RATE_MAX: f64 = 1_000_000.0;
/// The clock shows milliseconds, so a permit may be late by nearly one through no fault of its own.
/// It is made up for; more is not, for that would be a burst.
const LATE_MAX: Duration = Duration::from_nanos(999_999);

/// When answers came, by a clock that stands while nobody wants to replay anything.
#[derive(Debug)]
pub(super) struct Meter {
    busy_ms: u64,
    /// Somebody waits for a permit until then.
    wanted_until_ms: u64,
    answers_ms: VecDeque<u64>,
}

impl Meter {
    pub(super) const fn new() -> Self {
        Self { busy_ms: 0, wanted_until_ms: 0, answers_ms: VecDeque::new() }
    }

    /// Lets time pass, in which replays were running or not.
    pub(super) fn advance(&mut self, from_ms: u64, to_ms: u64, is_running: bool) {
        let until_ms = if is_running { to_ms } else { to_ms.min(self.wanted_until_ms) };
        self.busy_ms += until_ms.saturating_sub(from_ms);
    }

    /// Somebody was sent away and will come again.
    pub(super) fn wanted(&mut self, until_ms: u64) {
        self.wanted_until_ms = self.wanted_until_ms.max(until_ms);
    }

    /// An answer came that was not an overload. A failure counts: the dependency had room for it.
    pub(super) fn answered(&mut self) {
        if self.answers_ms.len() > ANSWERS_KEPT {
            self.answers_ms.pop_front();
        }
        self.answers_ms.push_back(self.busy_ms);
    }

    /// Answers per second of late; none before the second one.
    fn rate(&self, answers: usize) -> Option<f64> {
        let last = self.answers_ms.len().checked_sub(1)?;
        let count = last.min(answers);
        let from_ms = self.answers_ms.get(last - count)?;
        let span_ms = self.busy_ms.saturating_sub(*from_ms).max(1);
        let count = f64::from(u32::try_from(count).ok().filter(|count| *count > 0)?);
        Some(count * 1000.0 / f64::from(u32::try_from(span_ms).unwrap_or(u32::MAX)))
    }
}

/// The pace, and the course that it follows.
#[derive(Debug)]
pub(super) struct Pace {
    /// The cap from the settings.
    rate_max: Option<f64>,
    /// The pace that was found out; none before the first overload.
    rate: Option<f64>,
    /// What the dependency took when it was last overloaded.
    ceiling: f64,
    /// How far the pace fell below the ceiling.
    depth: f64,
    /// The calls since then that the pace had held back.
    calls: f64,
    /// The calls from the fall to the ceiling.
    span: f64,
    /// No ceiling is known: the pace grows until the next overload.
    is_seeking: bool,
    /// When the last permit was due. It was granted then or up to a millisecond later.
    last: Option<Duration>,
    /// Whether somebody was held back since the last permit, and before it. Only a pace that holds
    /// somebody back has been tried, and may grow.
    holds_back: bool,
    held_back: bool,
}

impl Pace {
    pub(super) const fn new(rate_max: Option<f64>) -> Self {
        Self {
            rate_max,
            rate: None,
            ceiling: 0.0,
            depth: 0.0,
            calls: 0.0,
            span: SPAN_CALLS,
            is_seeking: true,
            last: None,
            holds_back: false,
            held_back: false,
        }
    }

    /// The most replays per second that may begin.
    pub(super) fn rate(&self) -> Option<f64> {
        match (self.rate, self.rate_max) {
            (Some(rate), Some(rate_max)) => Some(rate.min(rate_max)),
            (rate, rate_max) => rate.or(rate_max),
        }
    }

    /// The milliseconds until a permit is due; none when it is.
    pub(super) fn hold_back(&mut self, now_ms: u64) -> Option<u64> {
        let wait = self.due()?.saturating_sub(Duration::from_millis(now_ms));
        if wait.is_zero() {
            return None;
        }
        self.holds_back = true;
        Some(u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
    }

    /// Notes a permit that is granted now.
    pub(super) fn take(&mut self, now_ms: u64) {
        let earliest = Duration::from_millis(now_ms).saturating_sub(LATE_MAX);
        self.last = Some(self.due().map_or(earliest, |due| due.max(earliest)));
        self.held_back = std::mem::take(&mut self.holds_back);
    }

    fn due(&self) -> Option<Duration> {
        let rate = self.rate()?;
        let mut interval = Duration::from_secs_f64(1.0 / rate);
        // Rounded up, so that a second never has one more than it should.
        if interval.as_secs_f64() * rate < 1.0 {
            interval += Duration::from_nanos(1);
        }
        Some(self.last? + interval)
    }

    /// Goes one call further on the course.
    pub(super) fn answered(&mut self, meter: &Meter) {
        let Some(rate) = self.rate.filter(|_| self.held_back) else { return };
        // The window holds back, too; a pace far from what is really done says nothing.
        if meter.rate(ANSWERS_RECENT).is_some_and(|measured| rate > measured * 2.0) {
            return;
        }
        // The cap holds back, not the pace: what lies above it has not been tried.
        if self.rate_max.is_some_and(|rate_max| rate > rate_max) {
            return;
        }
        let rate = if self.is_seeking {
            rate * SEEK
        } else {
            self.calls += 1.0;
            let way = self.calls / self.span - 1.0;
            let share = if way < 0.0 { self.depth } else { RISE };
            self.ceiling * (1.0 + share * way.powi(3))
        };
        self.rate = Some(rate.clamp(RATE_MIN, RATE_MAX));
    }

    /// Falls after an overload. If the dependency then wants to be left alone, overloads are dear,
    /// and are tried for less often.
    pub(super) fn fall(&mut self, meter: &Meter, rest_ms: Option<u64>) {
        let answers = if self.is_seeking { ANSWERS_RECENT } else { ANSWERS_KEPT };
        let measured = meter.rate(answers);
        let Some(ceiling) = (match self.rate {
            Some(rate) => {
                Some(measured.map_or(rate, |measured| measured.clamp(rate * TRUST, rate)))
            }
            None => measured,
        }) else {
            return;
        };
        let is_soon = self.rate.is_some() && self.calls < SPAN_CALLS / 4.0;
        self.depth = if is_soon { DROP_MAX.min(self.depth + DROP) } else { DROP };
        self.ceiling = ceiling;
        self.calls = 0.0;
        // The first measurement is that of a few calls, most of them at a small window.
        self.is_seeking = self.rate.is_none();
        self.rate = Some((ceiling * (1.0 - self.depth)).clamp(RATE_MIN, RATE_MAX));
        let rest_ms = f64::from(u32::try_from(rest_ms.unwrap_or(0)).unwrap_or(u32::MAX));
        // Ten times as long at work as at rest.
        self.span = (ceiling * rest_ms / 100.0).clamp(SPAN_CALLS, SPAN_CALLS_MAX);
    }

    /// Looks for the ceiling again after an outage: from what was measured, if that tells, else from
    /// the pace of before.
    pub(super) fn seek(&mut self, meter: Option<&Meter>) {
        if let Some(measured) = meter.and_then(|meter| meter.rate(ANSWERS_RECENT)) {
            self.rate = self.rate.map(|rate| rate.min(measured).max(RATE_MIN));
        }
        self.is_seeking = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A meter that saw one answer every ten milliseconds.
    fn meter() -> Meter {
        let mut meter = Meter::new();
        for answer in 0..200 {
            meter.advance(answer * 10, answer * 10 + 10, true);
            meter.answered();
        }
        meter
    }

    /// Lets the pace hold back and answers, so often.
    fn run(pace: &mut Pace, calls: u32) {
        let meter = meter();
        for _ in 0..calls {
            pace.held_back = true;
            pace.answered(&meter);
        }
    }

    #[track_caller]
    fn check_rate(pace: &Pace, wanted: f64) {
        let rate = pace.rate.unwrap();
        assert!((rate - wanted).abs() < 0.01, "{rate}, not {wanted}");
    }

    #[test]
    fn the_meter_counts_busy_time_only() {
        let mut meter = meter();
        assert_eq!(meter.rate(64), Some(100.0));
        meter.advance(2000, 900_000, false);
        assert_eq!(meter.rate(64), Some(100.0));
        meter.wanted(900_640);
        meter.advance(900_000, 950_000, false);
        assert_eq!(meter.rate(64), Some(50.0));
        assert_eq!(Meter::new().rate(64), None);
    }

    /// A pace that knows its ceiling is near a hundred.
    fn fallen() -> Pace {
        let mut pace = Pace::new(None);
        pace.fall(&meter(), None);
        pace.is_seeking = false;
        pace
    }

    #[test]
    fn the_pace_comes_back_slows_down_and_goes_on() {
        assert_eq!(Pace::new(None).rate(), None);
        let mut pace = fallen();
        check_rate(&pace, 95.0);
        run(&mut pace, 100);
        check_rate(&pace, 99.375);
        run(&mut pace, 100);
        check_rate(&pace, 100.0);
        run(&mut pace, 100);
        check_rate(&pace, 100.625);
        run(&mut pace, 100);
        check_rate(&pace, 105.0);
        run(&mut pace, 200);
        check_rate(&pace, 140.0);
    }

    #[test]
    fn the_pace_does_not_leave_what_is_done_far_behind() {
        let mut pace = fallen();
        run(&mut pace, 10_000);
        assert!((200.0..205.0).contains(&pace.rate.unwrap()), "{pace:?}");
    }

    #[test]
    fn the_first_fall_looks_for_the_ceiling() {
        let mut pace = Pace::new(None);
        pace.fall(&meter(), None);
        run(&mut pace, 1);
        check_rate(&pace, 95.0 * SEEK);
        pace.fall(&meter(), None);
        assert!(!pace.is_seeking);
        pace.rate = Some(200.0);
        pace.seek(None);
        assert!(pace.is_seeking);
        check_rate(&pace, 200.0);
        pace.seek(Some(&meter()));
        check_rate(&pace, 100.0);
    }

    #[test]
    fn overloads_that_follow_soon_fall_deeper() {
        let mut pace = fallen();
        pace.fall(&meter(), None);
        check_rate(&pace, 95.0 * 0.9);
        pace.fall(&meter(), None);
        check_rate(&pace, 95.0 * 0.9 * 0.85);
    }

    #[test]
    fn a_pace_that_holds_nobody_back_does_not_grow() {
        let mut pace = fallen();
        for _ in 0..1000 {
            pace.answered(&meter());
        }
        check_rate(&pace, 95.0);
        let mut pace = Pace::new(Some(50.0));
        pace.fall(&meter(), None);
        run(&mut pace, 1000);
        check_rate(&pace, 95.0);
        assert_eq!(pace.rate(), Some(50.0));
    }

    #[test]
    fn dear_overloads_are_tried_for_less_often() {
        let mut pace = Pace::new(None);
        pace.fall(&meter(), Some(1000));
        assert!((pace.span - 1000.0).abs() < 1.0, "{}", pace.span);
        pace.fall(&meter(), Some(u64::MAX));
        assert!((pace.span - SPAN_CALLS_MAX).abs() < 1.0, "{}", pace.span);
    }

    #[test]
    fn permits_are_spread_evenly() {
        let mut pace = Pace::new(Some(300.0));
        let mut granted = Vec::new();
        for now_ms in 0..2000 {
            while pace.hold_back(now_ms).is_none() {
                pace.take(now_ms);
                granted.push(now_ms);
            }
        }
        assert_eq!(granted.len(), 600);
        assert!(granted.windows(2).all(|pair| (3..=4).contains(&(pair[1] - pair[0]))));
    }
}
