//! When a replay may run: the interface that hosts may bring themselves, and the throttle that
//! the crate brings.
//!
//! `adaptive` is the state machine, `pace` decides how fast, `latency` says when the dependency
//! slows down, `batch` sizes the batches of scheduled replays. Nothing here reads a clock or throws
//! dice: time comes in as an argument, so that the same calls always get the same answers.

mod adaptive;
mod batch;
mod latency;
mod pace;

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::error::{Error, Result};

pub use batch::{AdaptiveBatchSize, BatchOutcome, BatchSizeConfig};

use adaptive::State;

/// Decides when a replay may run. Hosts may bring their own.
///
/// Every call takes the monotonic time in milliseconds; a time that is earlier than the last one
/// counts as the last one.
pub trait Throttle: Send + Sync + fmt::Debug {
    /// Asks for the right to run one replay now. Whoever is granted it gives feedback exactly once.
    fn permit(&self, now_ms: u64) -> Permit;

    /// Tells what became of a permitted replay. The latency runs from the permit to this call.
    fn feedback(&self, feedback: Feedback, latency_ms: u64, now_ms: u64);

    /// How bad it is.
    fn emergency(&self, now_ms: u64) -> Emergency;

    /// Figures for people.
    fn stats(&self, now_ms: u64) -> ThrottleStats;
}

/// The answer to a request to run one replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// It may run now.
    Granted,
    /// It may not run now. Nothing was spent and no feedback is due.
    Denied {
        /// How long to wait before asking again, at least 1. The answer may be no again, when
        /// somebody else was first. Under [`Denial::Window`] it is a guess; ask also when a replay
        /// ends.
        retry_after_ms: u64,
        /// What stands in the way.
        reason: Denial,
    },
}

/// Why a replay may not run now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Denial {
    /// As many replays are in flight as the dependency is trusted with.
    Window,
    /// The next one would come sooner than the pace allows.
    Pace,
    /// The dependency said when to come again, or the one replay that tries it then is running.
    RetryAfter,
    /// The dependency seems to be down; it is tried with one replay now and then.
    Outage,
}

/// What became of a permitted replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feedback {
    /// The dependency took it.
    Success,
    /// It failed, which may be the fault of the entry or of the dependency.
    Failure,
    /// The dependency was too busy to take it.
    Overload {
        /// How long the dependency asked to be left alone, if it said so.
        retry_after_ms: Option<u64>,
    },
    /// The permit was not used after all, for example because somebody else took the entry. It says
    /// nothing about the dependency.
    Unused,
}

/// How bad it is, from good to bad.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Emergency {
    /// Nothing stands out.
    #[default]
    Normal,
    /// There is trouble, but asking for a permit makes sense.
    Elevated,
    /// The dependency seems to be down and no permit is to be had for now.
    Emergency,
}

/// The figures of a throttle. Counts run from its beginning.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ThrottleStats {
    /// How bad it is.
    pub emergency: Emergency,
    /// How many replays may be in flight now.
    pub window: u32,
    /// How many are in flight.
    pub in_flight: u32,
    /// The most replays per second that may begin now; none when nothing limits them.
    pub rate: Option<f64>,
    /// How long replays took lately, on average; none before the first few.
    pub latency_ms: Option<f64>,
    /// How long they take when the dependency is at ease, as far as known.
    pub latency_best_ms: Option<f64>,
    /// How long nothing will be permitted because of an outage or a wish of the dependency.
    pub wait_ms: u64,
    /// Permits granted.
    pub granted: u64,
    /// Requests denied.
    pub denied: u64,
    /// Replays that the dependency took.
    pub successes: u64,
    /// Replays that failed.
    pub failures: u64,
    /// Replays for which the dependency was too busy.
    pub overloads: u64,
    /// Permits that were not used.
    pub unused: u64,
    /// Permits that never got feedback and stopped counting.
    pub timed_out: u64,
    /// How often an outage was declared.
    pub emergencies: u64,
}

/// The settings of an [`AdaptiveThrottle`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ThrottleConfig {
    /// The most replays in flight. Default 64, from 1 to 1000. It bounds what an outage can catch
    /// in flight.
    pub window_max: u32,
    /// The most replays that may begin in a second. Default none, from 0.001 to 100,000. They are
    /// spread evenly, never in bursts.
    pub rate_max: Option<f64>,
    /// So many failures without a success between them are an outage. Default 10, from 1 to 1000;
    /// 0 never declares one because of failures. Lower saves attempts; higher forgives more bad
    /// entries in a row.
    pub outage_failures: u32,
    /// How long an outage is left alone before the first probe. Default 1000, from 10 to 3,600,000.
    /// It doubles with each probe that fails, up to 60 times itself.
    pub probe_interval_ms: u64,
    /// A permit without feedback stops counting after this. Default 1,800,000, as long as a lease;
    /// from 1000 to 86,400,000. Longer than any handler may run.
    pub permit_timeout_ms: u64,
}

impl Default for ThrottleConfig {
    fn default() -> Self {
        Self {
            window_max: 64,
            rate_max: None,
            outage_failures: 10,
            probe_interval_ms: 1000,
            permit_timeout_ms: 30 * 60 * 1000,
        }
    }
}

impl ThrottleConfig {
    /// Checks every field against its bounds. [`AdaptiveThrottle::new`] does it, too.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] naming the setting, its value and its bounds.
    pub fn check(&self) -> Result<()> {
        if !(1..=1000).contains(&self.window_max) {
            return Err(Error::invalid("window_max", self.window_max, "1 to 1000"));
        }
        if let Some(rate) = self.rate_max
            && !(0.001..=100_000.0).contains(&rate)
        {
            return Err(Error::invalid("rate_max", rate, "0.001 to 100000, or none"));
        }
        if self.outage_failures > 1000 {
            return Err(Error::invalid("outage_failures", self.outage_failures, "0 to 1000"));
        }
        if !(10..=3_600_000).contains(&self.probe_interval_ms) {
            let bound = "10 to 3600000";
            return Err(Error::invalid("probe_interval_ms", self.probe_interval_ms, bound));
        }
        if !(1000..=86_400_000).contains(&self.permit_timeout_ms) {
            let bound = "1000 to 86400000";
            return Err(Error::invalid("permit_timeout_ms", self.permit_timeout_ms, bound));
        }
        Ok(())
    }
}

/// A throttle that finds out by itself how much a dependency takes.
///
/// - It begins with one replay in flight and doubles until something is wrong; then it grows by one
///   and shrinks by a part: when the dependency says that it is overloaded, or slows down.
/// - Nothing is paced before the first overload (unless `rate_max` says so): one job whose replays
///   succeed is never denied. After it, replays are spread to just under what the dependency took,
///   and more is tried slowly and rarely.
/// - A wish to be left alone is obeyed, up to a day; then one replay tries.
/// - Failures in a row halve what may be in flight, and a success brings it back. After
///   `outage_failures` in a row, or three overloads in a row, it is an emergency: one probe at a
///   time, more and more rarely, until one succeeds. So an outage costs about as many attempts as
///   were in flight when it began, at least `outage_failures`, and then one for each probe.
///
/// # Example
///
/// ```
/// use deadletter::{AdaptiveThrottle, Emergency, Feedback, Permit, Throttle, ThrottleConfig};
///
/// let mut config = ThrottleConfig::default();
/// config.rate_max = Some(10.0);
/// let throttle = AdaptiveThrottle::new(config)?;
/// assert_eq!(throttle.permit(0), Permit::Granted);
/// throttle.feedback(Feedback::Success, 5, 5);
/// let Permit::Denied { retry_after_ms, .. } = throttle.permit(5) else { panic!() };
/// assert_eq!(retry_after_ms, 95);
/// assert_eq!(throttle.permit(100), Permit::Granted);
/// assert_eq!(throttle.emergency(100), Emergency::Normal);
/// # Ok::<(), deadletter::Error>(())
/// ```
#[derive(Debug)]
pub struct AdaptiveThrottle {
    /// Guards everything that is known about the dependency.
    state: Mutex<State>,
}

impl AdaptiveThrottle {
    /// A throttle that knows nothing yet.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when a setting is out of its bounds.
    pub fn new(config: ThrottleConfig) -> Result<Self> {
        config.check()?;
        Ok(Self { state: Mutex::new(State::new(config)) })
    }

    /// A panic elsewhere leaves at worst a figure behind; that is no reason to stop replays.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Throttle for AdaptiveThrottle {
    fn permit(&self, now_ms: u64) -> Permit {
        self.state().permit(now_ms)
    }

    fn feedback(&self, feedback: Feedback, latency_ms: u64, now_ms: u64) {
        self.state().feedback(feedback, latency_ms, now_ms);
    }

    /// [`Emergency::Emergency`] turns to [`Emergency::Elevated`] when a probe is due, so that a host
    /// that stops in an emergency comes back in time to send it.
    fn emergency(&self, now_ms: u64) -> Emergency {
        self.state().emergency(now_ms)
    }

    fn stats(&self, now_ms: u64) -> ThrottleStats {
        self.state().stats(now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_refused(change: impl FnOnce(&mut ThrottleConfig), wanted: [&str; 2]) {
        let mut config = ThrottleConfig::default();
        change(&mut config);
        let Err(Error::Invalid { what, value, bound }) = AdaptiveThrottle::new(config) else {
            panic!("{wanted:?} was taken");
        };
        assert_eq!([what.as_str(), value.as_str()], wanted);
        assert!(bound.contains(" to "), "{bound}");
    }

    #[test]
    fn settings_have_bounds() {
        AdaptiveThrottle::new(ThrottleConfig::default()).unwrap();
        check_refused(|config| config.window_max = 0, ["window_max", "0"]);
        check_refused(|config| config.window_max = 1001, ["window_max", "1001"]);
        check_refused(|config| config.rate_max = Some(0.0), ["rate_max", "0"]);
        check_refused(|config| config.rate_max = Some(-1.0), ["rate_max", "-1"]);
        check_refused(|config| config.rate_max = Some(100_001.0), ["rate_max", "100001"]);
        check_refused(|config| config.rate_max = Some(f64::NAN), ["rate_max", "NaN"]);
        check_refused(|config| config.outage_failures = 1001, ["outage_failures", "1001"]);
        check_refused(|config| config.probe_interval_ms = 9, ["probe_interval_ms", "9"]);
        check_refused(|config| config.permit_timeout_ms = 999, ["permit_timeout_ms", "999"]);
    }

    #[test]
    fn emergencies_have_an_order() {
        assert!(Emergency::Normal < Emergency::Elevated);
        assert!(Emergency::Elevated < Emergency::Emergency);
    }
}
