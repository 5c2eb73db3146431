//! Permits for starts: asking the throttle, waiting for it, giving up, and telling it what came
//! of each permit.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::attempt::{Ended, Ending};
use super::crew::Crew;
use super::tally::EarlyStop;
use crate::throttle::{Denial, Feedback, Permit, Throttle};

/// The permits of a crew that are in use.
#[derive(Debug, Default)]
pub(super) struct Flight {
    /// Guards the numbers; never held while a throttle is asked or a handler runs.
    numbers: Mutex<Numbers>,
    /// Told when a permit is given back.
    ended: Condvar,
}

#[derive(Debug, Clone, Copy, Default)]
struct Numbers {
    in_use: u64,
    granted: u64,
    given_back: u64,
}

/// The right to start one attempt. Without a throttle everybody has it.
pub(super) struct Permitted<'a> {
    crew: &'a Crew<'a>,
    /// None without a throttle, and once it was told.
    throttle: Option<&'a dyn Throttle>,
    granted_ms: u64,
}

impl Flight {
    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until one more permit was given back than then. False when none is in use, so that
    /// there is nothing to wait for. Handlers end, so this does.
    fn wait_for_one(&self, then: Numbers) -> bool {
        let mut numbers = self.numbers();
        while numbers.given_back == then.given_back {
            if numbers.in_use == 0 {
                return false;
            }
            numbers = self.ended.wait(numbers).unwrap_or_else(PoisonError::into_inner);
        }
        true
    }
}

impl<'a> Permitted<'a> {
    /// Asks for a permit until there is one. None when nothing is left to start, or when this
    /// call ends early. Whoever has to wait puts the attempt that ended on record first.
    pub fn wait(crew: &'a Crew<'a>, ended: &mut Option<Ended>) -> Option<Self> {
        let flight = &crew.flight;
        let mut patience = Patience::default();
        while crew.has_more() {
            let now_ms = crew.call.repository.monotonic_ms();
            let Some(throttle) = crew.call.throttle else {
                return Some(Self { crew, throttle: None, granted_ms: now_ms });
            };
            let then = *flight.numbers();
            if crew.call.is_emergency(throttle) {
                return None;
            }
            let (retry_after_ms, reason) = match crew.call.ask(|| throttle.permit(now_ms))? {
                Permit::Granted => {
                    let mut numbers = flight.numbers();
                    numbers.in_use += 1;
                    numbers.granted += 1;
                    return Some(Self { crew, throttle: Some(throttle), granted_ms: now_ms });
                }
                Permit::Denied { retry_after_ms, reason } => (retry_after_ms, reason),
            };
            if let Some(ended) = ended.take() {
                crew.finish(&ended);
                continue;
            }
            // Only the pace moves on by itself; all else may change when one of ours ends.
            if reason != Denial::Pace && flight.wait_for_one(then) {
                continue;
            }
            let interval_ms = crew.call.config.throttle_replay_interval_ms.max(1);
            match patience.next(then, interval_ms, retry_after_ms, reason) {
                Ok(wait_ms) => {
                    crew.call.repository.wait(Duration::from_millis(wait_ms));
                    crew.renew();
                }
                Err(why) => {
                    crew.stop(why, Some(retry_after_ms));
                    return None;
                }
            }
        }
        None
    }

    /// Tells the throttle how the attempt ended. One that asks to be left alone for longer than a
    /// replay waits ends the call.
    pub fn feed(mut self, ended: &Ended) {
        self.give_back(ended.feedback());
        let interval_ms = self.crew.call.config.throttle_replay_interval_ms;
        if self.crew.call.throttle.is_some()
            && let Ending::Throttled(Some(wish)) = ended.ending
            && wish > Duration::from_millis(interval_ms)
        {
            self.crew.stop(EarlyStop::Throttled, Some(crate::repository::millis(wish)));
        }
    }

    fn give_back(&mut self, feedback: Feedback) {
        let Some(throttle) = self.throttle.take() else { return };
        let now_ms = self.crew.call.repository.monotonic_ms();
        let latency_ms = now_ms.saturating_sub(self.granted_ms);
        self.crew.call.ask(|| throttle.feedback(feedback, latency_ms, now_ms));
        let mut numbers = self.crew.flight.numbers();
        numbers.in_use = numbers.in_use.saturating_sub(1);
        numbers.given_back += 1;
        drop(numbers);
        self.crew.flight.ended.notify_all();
    }
}

impl Drop for Permitted<'_> {
    fn drop(&mut self) {
        self.give_back(Feedback::Unused);
    }
}

/// How long a job has waited for nothing.
#[derive(Debug, Default)]
struct Patience {
    waited_ms: u64,
    /// The longest that the throttle promised since the crew last got on.
    promised_ms: u64,
    granted: u64,
}

impl Patience {
    /// How long to wait now, at most an interval; or why not to wait any more. The waiting starts
    /// anew whenever one of the crew got a permit.
    fn next(
        &mut self,
        then: Numbers,
        interval_ms: u64,
        retry_after_ms: u64,
        reason: Denial,
    ) -> Result<u64, EarlyStop> {
        if then.granted != self.granted {
            *self = Self { granted: then.granted, ..Self::default() };
        }
        self.promised_ms = self.promised_ms.max(retry_after_ms);
        let left_ms = match reason {
            // The pace comes when it was promised, however slow it is. Twice that is a throttle
            // that does not keep its word.
            Denial::Pace => self.promised_ms.saturating_mul(2).saturating_add(interval_ms),
            _ => interval_ms,
        }
        .saturating_sub(self.waited_ms);
        let wait_ms = retry_after_ms.clamp(1, interval_ms);
        let is_too_long = match reason {
            Denial::RetryAfter | Denial::Outage => retry_after_ms > left_ms,
            _ => wait_ms > left_ms,
        };
        if is_too_long {
            return Err(match reason {
                Denial::RetryAfter => EarlyStop::Throttled,
                Denial::Outage => EarlyStop::Emergency,
                _ => EarlyStop::NoPermit,
            });
        }
        self.waited_ms = self.waited_ms.saturating_add(wait_ms);
        Ok(wait_ms)
    }
}
