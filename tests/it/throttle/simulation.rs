//! A world without threads and clocks: jobs that replay entries, a dependency that takes them, and
//! events in the order of their time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use deadletter::{Emergency, Feedback, Permit, Throttle};

/// What a replay meets.
pub trait Dependency {
    /// Takes a call at a time in microseconds; answers what becomes of it and how long it takes.
    fn call(&mut self, now_us: u64) -> (Feedback, u64);

    /// A call ended.
    fn end(&mut self) {}

    /// So many entries are done.
    fn progress(&mut self, _entries: u64) {}
}

/// What a run did.
#[derive(Debug, Default)]
pub struct Run {
    pub entries: u64,
    pub calls: u64,
    pub denials: u64,
    pub overloads: u64,
    pub failures: u64,
    pub duration_us: u64,
    /// When calls began.
    pub calls_ms: Vec<u64>,
    pub worst: Emergency,
}

impl Run {
    /// Checks the share of the possible rate that was reached and the share of calls overloaded.
    #[track_caller]
    pub fn check(&self, name: &str, possible_us: u64, rate_min: f64, overloads_max: f64) {
        let rate = share(possible_us, self.duration_us);
        let overloads = share(self.overloads, self.calls);
        let figures = format!(
            "{name}: {:.2} % of the possible rate, {:.3} % of calls overloaded",
            rate * 100.0,
            overloads * 100.0
        );
        assert!(rate >= rate_min, "{figures}");
        assert!(rate <= 1.02, "{figures}: faster than possible");
        assert!(overloads < overloads_max, "{figures}");
    }
}

/// The share of a part in a whole, either of them far below two to the power of fifty.
#[expect(clippy::cast_precision_loss, reason = "the numbers are small enough to be exact")]
pub fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Ask,
    End { start_us: u64, answer: Answer },
}

/// What is fed back, with an order so that events have one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    Success,
    Failure,
    Overload(Option<u64>),
}

impl Answer {
    fn from(feedback: Feedback) -> Self {
        match feedback {
            Feedback::Success => Self::Success,
            Feedback::Failure => Self::Failure,
            Feedback::Overload { retry_after_ms } => Self::Overload(retry_after_ms),
            Feedback::Unused => panic!("a dependency uses every call"),
        }
    }

    fn feedback(self) -> Feedback {
        match self {
            Self::Success => Feedback::Success,
            Self::Failure => Feedback::Failure,
            Self::Overload(retry_after_ms) => Feedback::Overload { retry_after_ms },
        }
    }
}

/// Numbers without pattern, the same in each run.
pub struct Noise(u64);

impl Noise {
    pub const fn new() -> Self {
        Self(1)
    }

    pub const fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    /// The value, up to a fifth more or less.
    pub const fn around(&mut self, value: u64) -> u64 {
        value * 4 / 5 + self.below(value * 2 / 5 + 1)
    }
}

/// Lets jobs replay until so many entries succeeded or the time is over. A job that is denied asks
/// again when it was told to, late by less than half a millisecond, as a thread would.
pub fn run(
    throttle: &dyn Throttle,
    dependency: &mut dyn Dependency,
    jobs: u64,
    entries: u64,
    limit_ms: u64,
) -> Run {
    let mut run = Run::default();
    let mut noise = Noise::new();
    // Equal times are served in the order in which they were planned.
    let mut order = 0;
    let mut events = BinaryHeap::new();
    let mut plan = |events: &mut BinaryHeap<_>, at_us: u64, event| {
        order += 1;
        events.push(Reverse((at_us, order, event)));
    };
    (0..jobs).for_each(|_| plan(&mut events, 0, Event::Ask));
    while let Some(Reverse((now_us, _, event))) = events.pop() {
        let now_ms = now_us / 1000;
        if now_ms > limit_ms {
            break;
        }
        run.duration_us = now_us;
        if let Event::End { start_us, answer } = event {
            dependency.end();
            throttle.feedback(answer.feedback(), (now_us - start_us) / 1000, now_ms);
            run.worst = run.worst.max(throttle.emergency(now_ms));
            match answer {
                Answer::Success => run.entries += 1,
                Answer::Failure => run.failures += 1,
                Answer::Overload(_) => run.overloads += 1,
            }
            dependency.progress(run.entries);
            if run.entries == entries {
                break;
            }
        }
        match throttle.permit(now_ms) {
            Permit::Granted => {
                run.calls += 1;
                run.calls_ms.push(now_ms);
                let (feedback, latency_us) = dependency.call(now_us);
                let answer = Answer::from(feedback);
                plan(&mut events, now_us + latency_us, Event::End { start_us: now_us, answer });
            }
            Permit::Denied { retry_after_ms, .. } => {
                run.denials += 1;
                assert!(retry_after_ms > 0, "a denial without a time makes a tight loop");
                let late_us = noise.below(500);
                plan(&mut events, (now_ms + retry_after_ms) * 1000 + late_us, Event::Ask);
            }
        }
    }
    run
}
