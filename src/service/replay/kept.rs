//! What the service remembers from one replay to the next: who runs, where the last scan ended,
//! how large a batch is, which sweeps there were.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::config::DlqConfig;
use crate::entry::EntryId;
use crate::throttle::{AdaptiveBatchSize, BatchSizeConfig};

/// The scopes whose last scan is remembered. There are few domains; a host that makes up new ones
/// all the time only loses its places.
const SCOPES_MAX: usize = 1024;

/// Which entries a scan is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Scope {
    pub domain: Option<String>,
    pub failure_type: Option<String>,
}

/// What the service remembers between replays.
#[derive(Debug, Default)]
pub(in crate::service) struct Kept {
    /// Guards who runs; never held while a handler does.
    running: Mutex<Running>,
    /// Guards where scans go on that were cut short.
    places: Mutex<HashMap<Scope, EntryId>>,
    /// Guards the size of the next batch.
    size: Mutex<Option<AdaptiveBatchSize>>,
    /// Guards until when a service is not swept again, in monotonic milliseconds.
    sweeps: Mutex<HashMap<String, u64>>,
}

#[derive(Debug, Default)]
struct Running {
    /// Replays that may start attempts.
    replays: usize,
    /// Whether the only one of them runs an entry that has to be alone.
    alone: bool,
}

/// A replay that may start attempts.
#[derive(Debug)]
pub(in crate::service) struct Turn<'a> {
    kept: &'a Kept,
}

/// A replay beside which nobody else starts an attempt.
#[derive(Debug)]
pub(super) struct Alone<'a> {
    kept: &'a Kept,
}

impl Kept {
    /// Begins a replay; none while another runs an entry alone.
    pub(in crate::service) fn turn(&self) -> Option<Turn<'_>> {
        let mut running = lock(&self.running);
        if running.alone {
            return None;
        }
        running.replays += 1;
        Some(Turn { kept: self })
    }

    /// Begins a replay that a person asked for: nobody may be told to wait for a stranger's
    /// entry.
    pub(in crate::service) fn turn_of_person(&self) -> Turn<'_> {
        lock(&self.running).replays += 1;
        Turn { kept: self }
    }

    /// Where the last scan of this scope was cut short.
    pub(super) fn place(&self, scope: &Scope) -> Option<EntryId> {
        lock(&self.places).get(scope).copied()
    }

    /// Remembers where a scan was cut short, or that it was not.
    pub(super) fn keep_place(&self, scope: Scope, place: Option<EntryId>) {
        let mut places = lock(&self.places);
        let Some(place) = place else {
            places.remove(&scope);
            return;
        };
        if places.len() >= SCOPES_MAX && !places.contains_key(&scope) {
            places.clear();
        }
        places.insert(scope, place);
    }

    /// How many entries a batch takes whose size nobody named.
    pub(super) fn batch_size(&self, config: &DlqConfig) -> u32 {
        if !config.replay_adaptive_enabled {
            return config.replay_track2_max_items;
        }
        let size = self.learn(config, |size| size.size());
        size.and_then(|size| u32::try_from(size).ok()).unwrap_or(config.replay_track2_max_items)
    }

    /// Learns from a batch, if sizes are learned.
    pub(super) fn record_batch(&self, config: &DlqConfig, failed: u64, total: u64) {
        if config.replay_adaptive_enabled {
            let (failed, total) = (usize::try_from(failed), usize::try_from(total));
            let (failed, total) = (failed.unwrap_or(usize::MAX), total.unwrap_or(usize::MAX));
            self.learn(config, |size| size.record(failed, total));
        }
    }

    /// Whether a sweep of this service may begin; if so, none may for some time.
    pub(super) fn begin_sweep(&self, service_name: &str, now_ms: u64, until_ms: u64) -> bool {
        let mut sweeps = lock(&self.sweeps);
        sweeps.retain(|_, until_ms| now_ms < *until_ms);
        if sweeps.contains_key(service_name) {
            return false;
        }
        sweeps.insert(service_name.to_owned(), until_ms);
        true
    }

    /// Works with the size under the bounds as they are now. None when these contradict each
    /// other; sizes are then as if nothing was learned.
    fn learn<T>(
        &self,
        config: &DlqConfig,
        work: impl FnOnce(&mut AdaptiveBatchSize) -> T,
    ) -> Option<T> {
        let bounds = bounds(config);
        let mut kept = lock(&self.size);
        let size = match kept.take() {
            Some(mut size) => size.reconfigure(bounds).map(|()| size),
            None => AdaptiveBatchSize::new(bounds),
        };
        match size {
            Ok(mut size) => {
                let answer = work(&mut size);
                *kept = Some(size);
                Some(answer)
            }
            Err(error) => {
                tracing::warn!(%error, "the sizes of adaptive batches are not usable");
                None
            }
        }
    }
}

impl<'a> Turn<'a> {
    /// The right to run an entry alone; none while others are running.
    pub(super) fn alone(&self) -> Option<Alone<'a>> {
        let mut running = lock(&self.kept.running);
        if running.replays > 1 || running.alone {
            return None;
        }
        running.alone = true;
        Some(Alone { kept: self.kept })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut running = lock(&self.kept.running);
        running.replays = running.replays.saturating_sub(1);
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        lock(&self.kept.running).alone = false;
    }
}

fn bounds(config: &DlqConfig) -> BatchSizeConfig {
    let min = usize::try_from(config.replay_adaptive_min_items).unwrap_or(usize::MAX);
    let max = usize::try_from(config.replay_adaptive_max_items).unwrap_or(usize::MAX);
    let start = usize::try_from(config.replay_track2_max_items).unwrap_or(usize::MAX);
    let failure_threshold = config.replay_adaptive_failure_threshold;
    BatchSizeConfig { start: start.min(max).max(min), min, max, failure_threshold }
}

/// A panic elsewhere leaves nothing half done behind these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_keeps_to_the_bounds_of_the_settings_as_they_are() {
        let kept = Kept::default();
        let mut config = DlqConfig { replay_adaptive_enabled: true, ..DlqConfig::default() };
        assert_eq!(kept.batch_size(&config), 50);
        kept.record_batch(&config, 25, 50);
        assert_eq!(kept.batch_size(&config), 40);
        config.replay_adaptive_max_items = 20;
        assert_eq!(kept.batch_size(&config), 20);
        config.replay_adaptive_min_items = 90;
        assert_eq!(kept.batch_size(&config), 50, "bounds that contradict each other");
        config.replay_adaptive_max_items = 500;
        assert_eq!(kept.batch_size(&config), 90, "learned anew, from the least");
        config.replay_adaptive_enabled = false;
        config.replay_track2_max_items = 7;
        assert_eq!(kept.batch_size(&config), 7);
    }

    #[test]
    fn places_are_bounded() {
        let kept = Kept::default();
        let scope = |number: usize| Scope { domain: Some(number.to_string()), failure_type: None };
        for number in 0..=SCOPES_MAX {
            kept.keep_place(scope(number), Some(EntryId(9)));
        }
        assert_eq!(kept.place(&scope(SCOPES_MAX)), Some(EntryId(9)));
        assert_eq!(kept.place(&scope(0)), None);
        kept.keep_place(scope(SCOPES_MAX), None);
        assert_eq!(kept.place(&scope(SCOPES_MAX)), None);
    }

    #[test]
    fn nobody_runs_beside_who_must_be_alone() {
        let kept = Kept::default();
        let (first, second) = (kept.turn().unwrap(), kept.turn().unwrap());
        assert!(first.alone().is_none());
        drop(second);
        let alone = first.alone().unwrap();
        assert!(kept.turn().is_none());
        let person = kept.turn_of_person();
        drop(alone);
        assert!(first.alone().is_none(), "the person is still at it");
        drop(person);
        assert!(first.alone().is_some());
        assert!(kept.turn().is_some());
    }
}
