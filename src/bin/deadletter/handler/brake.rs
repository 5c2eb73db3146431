//! A throttle that also ends the replay when handlers are to run no more.
//!
//! It is asked before every attempt and while a replay waits for its pace. So a user who stops us
//! waits for nothing but the handlers that run, and no other entry is touched.

use deadletter::{AdaptiveThrottle, Emergency, Feedback, Permit, Throttle, ThrottleStats};

use super::Stop;

/// The crate's own throttle, with the user's foot beside it.
#[derive(Debug)]
pub struct Brake {
    throttle: AdaptiveThrottle,
    stop: Stop,
}

impl Brake {
    /// Passes everything on until the stop comes.
    pub fn new(throttle: AdaptiveThrottle, stop: Stop) -> Self {
        Self { throttle, stop }
    }
}

impl Throttle for Brake {
    fn permit(&self, now_ms: u64) -> Permit {
        self.throttle.permit(now_ms)
    }

    fn feedback(&self, feedback: Feedback, latency_ms: u64, now_ms: u64) {
        self.throttle.feedback(feedback, latency_ms, now_ms);
    }

    fn emergency(&self, now_ms: u64) -> Emergency {
        if self.stop.asked() || self.stop.broken().is_some() {
            return Emergency::Emergency;
        }
        self.throttle.emergency(now_ms)
    }

    fn stats(&self, now_ms: u64) -> ThrottleStats {
        self.throttle.stats(now_ms)
    }
}
