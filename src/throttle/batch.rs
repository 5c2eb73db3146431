//! How many entries a scheduled replay takes: fewer when many fail, more when none does.

use std::collections::VecDeque;

use crate::error::{Error, Result};

/// So many batches are remembered.
const HISTORY_MAX: usize = 100;
/// So many batches without a failure let the size grow.
const STREAK_TO_GROW: u32 = 3;
/// By so many entries.
const GROWTH: usize = 5;

/// The settings of an [`AdaptiveBatchSize`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct BatchSizeConfig {
    /// The first size. Default 50, from `min` to `max`.
    pub start: usize,
    /// The size never falls below this. Default 10, from 1 to 100.
    pub min: usize,
    /// The size never grows above this. Default 100, from 10 to 1000, at least `min`.
    pub max: usize,
    /// The share of failures that makes the size fall. Default 0.2, from 0 to 1.
    pub failure_threshold: f64,
}

impl Default for BatchSizeConfig {
    fn default() -> Self {
        Self { start: 50, min: 10, max: 100, failure_threshold: 0.2 }
    }
}

impl BatchSizeConfig {
    /// Checks every field against its bounds, and the fields against each other.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] naming the setting, its value and its bounds.
    pub fn check(&self) -> Result<()> {
        self.check_bounds()?;
        if !(self.min..=self.max).contains(&self.start) {
            let bound = format!("from min ({}) to max ({})", self.min, self.max);
            return Err(Error::invalid("start", self.start, bound));
        }
        Ok(())
    }

    fn check_bounds(&self) -> Result<()> {
        if !(1..=100).contains(&self.min) {
            return Err(Error::invalid("min", self.min, "1 to 100"));
        }
        if !(10..=1000).contains(&self.max) {
            return Err(Error::invalid("max", self.max, "10 to 1000"));
        }
        if self.max < self.min {
            return Err(Error::invalid("max", self.max, format!("at least min ({})", self.min)));
        }
        if !(0.0..=1.0).contains(&self.failure_threshold) {
            return Err(Error::invalid("failure_threshold", self.failure_threshold, "0 to 1"));
        }
        Ok(())
    }
}

/// What became of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchOutcome {
    /// The entries that failed.
    pub failures: usize,
    /// The entries that were tried.
    pub total: usize,
    /// The size that followed from it.
    pub size: usize,
}

/// The size of the next batch, learned from the last ones: a fifth less after a batch in which a
/// fifth or more failed, five more after three batches in a row without a failure.
///
/// # Example
///
/// ```
/// use deadletter::{AdaptiveBatchSize, BatchSizeConfig};
///
/// let mut batch = AdaptiveBatchSize::new(BatchSizeConfig::default())?;
/// assert_eq!(batch.record(10, 50), 40);
/// # Ok::<(), deadletter::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct AdaptiveBatchSize {
    config: BatchSizeConfig,
    size: usize,
    /// Batches in a row without a failure.
    streak: u32,
    history: VecDeque<BatchOutcome>,
}

impl AdaptiveBatchSize {
    /// Begins with the configured start.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when a setting is out of its bounds.
    pub fn new(config: BatchSizeConfig) -> Result<Self> {
        config.check()?;
        let size = config.start;
        Ok(Self { config, size, streak: 0, history: VecDeque::new() })
    }

    /// The size of the next batch.
    pub const fn size(&self) -> usize {
        self.size
    }

    /// Learns from a batch and returns the next size. An empty batch teaches nothing.
    pub fn record(&mut self, failures: usize, total: usize) -> usize {
        if total == 0 {
            return self.size;
        }
        if self.is_bad(failures, total) {
            self.size = self.config.min.max(self.size * 4 / 5);
            self.streak = 0;
        } else if failures == 0 {
            self.streak += 1;
        } else {
            self.streak = 0;
        }
        if self.streak == STREAK_TO_GROW {
            self.size = self.config.max.min(self.size + GROWTH);
            self.streak = 0;
        }
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(BatchOutcome { failures, total, size: self.size });
        self.size
    }

    /// The last 100 batches, oldest first.
    pub fn history(&self) -> impl ExactSizeIterator<Item = &BatchOutcome> {
        self.history.iter()
    }

    /// Takes other settings; the size stays where it is, as far as the new bounds allow, whatever
    /// the new start says.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when a setting is out of its bounds; the old ones then stay.
    pub fn reconfigure(&mut self, config: BatchSizeConfig) -> Result<()> {
        config.check_bounds()?;
        self.size = self.size.clamp(config.min, config.max);
        self.config = config;
        Ok(())
    }

    fn is_bad(&self, failures: usize, total: usize) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "a batch has at most a thousand entries")]
        let share = failures as f64 / total as f64;
        share >= self.config.failure_threshold && failures > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> AdaptiveBatchSize {
        AdaptiveBatchSize::new(BatchSizeConfig::default()).unwrap()
    }

    /// Records batches and compares the size after each.
    fn check(batches: &[(usize, usize, usize)]) {
        let mut batch = batch();
        for (number, (failures, total, size)) in batches.iter().enumerate() {
            assert_eq!(batch.record(*failures, *total), *size, "batch {number}");
        }
    }

    #[test]
    fn a_fifth_of_failures_takes_a_fifth_away() {
        check(&[(10, 50, 40), (1, 5, 32), (32, 32, 25), (5, 25, 20), (4, 20, 16)]);
        check(&[(9, 50, 50), (1, 6, 50)]);
        check(&[(1, 1, 40), (1, 1, 32), (1, 1, 25), (1, 1, 20), (1, 1, 16), (1, 1, 12)]);
    }

    #[test]
    fn three_good_batches_in_a_row_add_five() {
        check(&[(0, 50, 50), (0, 50, 50), (0, 50, 55), (0, 55, 55), (0, 55, 55), (0, 55, 60)]);
    }

    #[test]
    fn a_failure_breaks_the_row_and_an_empty_batch_does_not() {
        check(&[(0, 50, 50), (0, 50, 50), (1, 50, 50), (0, 50, 50), (0, 50, 50), (0, 50, 55)]);
        check(&[(0, 50, 50), (0, 50, 50), (0, 0, 50), (0, 50, 55)]);
    }

    #[test]
    fn the_size_keeps_its_bounds() {
        let mut batch = batch();
        (0..50).for_each(|_| assert!(batch.record(1, 1) >= 10));
        assert_eq!(batch.size(), 10);
        (0..100).for_each(|_| assert!(batch.record(0, 1) <= 100));
        assert_eq!(batch.size(), 100);
    }

    #[test]
    fn a_hundred_batches_are_remembered() {
        let mut batch = batch();
        for number in 1..=250 {
            batch.record(0, number);
        }
        let totals: Vec<_> = batch.history().map(|outcome| outcome.total).collect();
        assert_eq!(totals, (151..=250).collect::<Vec<_>>());
    }

    #[test]
    fn new_settings_move_the_size_into_their_bounds() {
        let mut batch = batch();
        let narrow = BatchSizeConfig { min: 10, max: 30, ..BatchSizeConfig::default() };
        batch.reconfigure(narrow).unwrap();
        assert_eq!(batch.size(), 30);
        let wide = BatchSizeConfig { min: 40, max: 200, ..BatchSizeConfig::default() };
        batch.reconfigure(wide.clone()).unwrap();
        assert_eq!(batch.size(), 40);
        let wrong = BatchSizeConfig { min: 0, ..wide };
        let message = batch.reconfigure(wrong).unwrap_err().to_string();
        assert_eq!(message, "min is 0, it must be 1 to 100");
        assert_eq!(batch.record(0, 1), 40);
    }

    #[test]
    fn settings_have_bounds() {
        let usual = BatchSizeConfig::default;
        for (config, wanted) in [
            (BatchSizeConfig { min: 0, ..usual() }, "min is 0"),
            (BatchSizeConfig { min: 101, ..usual() }, "min is 101"),
            (BatchSizeConfig { max: 9, ..usual() }, "max is 9"),
            (BatchSizeConfig { max: 1001, ..usual() }, "max is 1001"),
            (BatchSizeConfig { min: 60, max: 50, ..usual() }, "max is 50, it must be at least min"),
            (BatchSizeConfig { start: 101, ..usual() }, "start is 101"),
            (BatchSizeConfig { failure_threshold: 1.5, ..usual() }, "failure_threshold is 1.5"),
        ] {
            let message = AdaptiveBatchSize::new(config).unwrap_err().to_string();
            assert!(message.starts_with(wanted), "{message}");
        }
    }
}
