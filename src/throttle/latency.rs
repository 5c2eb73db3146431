//! Whether the dependency slows down because of us: the average of a round of replays against the
//! best average of late.
//!
//! Single latencies say little, since entries differ. Averages can mislead, too: the next hundred
//! entries may belong to a slower handler. So a rise is only believed if taking load away helps;
//! if not, it is the new normal.

/// A round has at least so many replays; fewer would be noise.
const ROUND_MIN: u32 = 8;
/// The best average is forgotten after one to two of these, so that a dependency that became slower
/// for good is not taken to be overloaded for good.
const BEST_KEPT_MS: u64 = 60_000;
/// Differences below this are the clock's and the scheduler's, not the dependency's.
const SLACK_US: u64 = 2_000;

/// What the latencies of a round say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The round is not over.
    Open,
    /// About as quick as it can be.
    Calm,
    /// Half as slow again: more load would only wait.
    Raised,
    /// More than twice as slow: less load is needed.
    High,
    /// Taking load away did not help, so the rise has another cause.
    NotOurs,
}

/// The latencies of the round that is under way, and the best averages.
#[derive(Debug)]
pub(super) struct Latency {
    /// Replays that began at or before this belong to another round.
    round_from_ms: Option<u64>,
    sum_ms: u64,
    count: u32,
    /// The average of the last round.
    mean_us: Option<u64>,
    /// The best average in this span of time, and in the one before.
    best_us: [Option<u64>; 2],
    best_from_ms: u64,
    /// The average that made us take load away, until the next round shows whether it helped.
    trial_us: Option<u64>,
    raised: bool,
}

impl Latency {
    pub(super) const fn new() -> Self {
        Self {
            round_from_ms: None,
            sum_ms: 0,
            count: 0,
            mean_us: None,
            best_us: [None; 2],
            best_from_ms: 0,
            trial_us: None,
            raised: false,
        }
    }

    /// Whether the last round was slow enough that more load would only wait.
    pub(super) const fn is_raised(&self) -> bool {
        self.raised
    }

    pub(super) const fn mean_us(&self) -> Option<u64> {
        self.mean_us
    }

    pub(super) fn best_us(&self) -> Option<u64> {
        self.best_us.iter().flatten().min().copied()
    }

    /// Begins a new round and gives up a trial, because the load changes for another reason.
    pub(super) const fn restart(&mut self, now_ms: u64) {
        self.round_from_ms = Some(now_ms);
        self.sum_ms = 0;
        self.count = 0;
        self.trial_us = None;
    }

    /// Counts a replay that succeeded and judges the round if this one ends it. After
    /// [`Verdict::High`] the caller takes load away.
    pub(super) fn record(
        &mut self,
        start_ms: u64,
        latency_ms: u64,
        window: u32,
        now_ms: u64,
    ) -> Verdict {
        if self.round_from_ms.is_some_and(|from_ms| start_ms <= from_ms) {
            return Verdict::Open;
        }
        self.sum_ms = self.sum_ms.saturating_add(latency_ms);
        self.count += 1;
        if self.count < window.max(ROUND_MIN) {
            return Verdict::Open;
        }
        let mean_us = self.sum_ms.saturating_mul(1000) / u64::from(self.count);
        self.sum_ms = 0;
        self.count = 0;
        let trial_us = self.trial_us.take();
        let verdict = self.judge(mean_us, trial_us, now_ms);
        self.mean_us = Some(mean_us);
        if verdict == Verdict::High {
            self.restart(now_ms);
            self.trial_us = Some(mean_us);
        }
        self.raised = matches!(verdict, Verdict::Raised | Verdict::High);
        verdict
    }

    fn judge(&mut self, mean_us: u64, trial_us: Option<u64>, now_ms: u64) -> Verdict {
        if now_ms.saturating_sub(self.best_from_ms) >= BEST_KEPT_MS {
            self.best_us = [None, self.best_us[0]];
            self.best_from_ms = now_ms;
        }
        if trial_us.is_some_and(|before_us| mean_us > before_us / 10 * 9) {
            self.best_us = [Some(mean_us), None];
            return Verdict::NotOurs;
        }
        let best_us = self.best_us().map_or(mean_us, |best_us| best_us.min(mean_us));
        self.best_us[0] = Some(self.best_us[0].map_or(mean_us, |best_us| best_us.min(mean_us)));
        if mean_us > best_us * 2 + SLACK_US {
            Verdict::High
        } else if mean_us > best_us * 3 / 2 + SLACK_US {
            Verdict::Raised
        } else {
            Verdict::Calm
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds rounds of eight equal latencies, a second apart, and collects what they say.
    fn verdicts(rounds: &[u64]) -> Vec<Verdict> {
        let mut latency = Latency::new();
        let mut now_ms = 0;
        let mut found = Vec::new();
        for latency_ms in rounds {
            for sample in 1..=ROUND_MIN {
                now_ms += 1000;
                let start_ms = now_ms - latency_ms;
                let verdict = latency.record(start_ms, *latency_ms, 1, now_ms);
                assert_eq!(verdict == Verdict::Open, sample < ROUND_MIN);
                found.extend((verdict != Verdict::Open).then_some(verdict));
            }
        }
        found
    }

    #[test]
    fn a_rise_is_judged_against_the_best() {
        use Verdict::{Calm, High, NotOurs, Raised};
        assert_eq!(verdicts(&[20, 21, 32, 33]), [Calm, Calm, Calm, Raised]);
        assert_eq!(verdicts(&[20, 42, 43]), [Calm, Raised, High]);
        assert_eq!(verdicts(&[0, 2, 1]), [Calm, Calm, Calm]);
        // Less load helped.
        assert_eq!(verdicts(&[20, 50, 40, 20]), [Calm, High, Raised, Calm]);
        // It did not help: what was high is the measure now.
        assert_eq!(verdicts(&[20, 50, 50, 60, 50]), [Calm, High, NotOurs, Calm, Calm]);
    }

    #[test]
    fn the_best_is_forgotten() {
        use Verdict::{Calm, Raised};
        let mut rounds = vec![20];
        rounds.resize(20, 40);
        let found = verdicts(&rounds);
        assert_eq!(found[1], Raised);
        assert_eq!(found[19], Calm);
    }

    #[test]
    fn a_round_counts_only_what_began_in_it() {
        let mut latency = Latency::new();
        latency.restart(100);
        for _ in 0..20 {
            assert_eq!(latency.record(100, 5, 1, 105), Verdict::Open);
        }
        assert_eq!(latency.mean_us(), None);
    }
}
