//! What each job does when its turn comes: a bounded part of it, and when there is more.

use std::time::Duration;

use super::agenda::{Job, Ran, days_ms};
use crate::config::DlqConfig;
use crate::entry::{Act, Filter, Status, Timestamp};
use crate::error::Result;
use crate::repository::{FailedOperationRepository, Maintenance, Sweep, days_before};

/// Who acts when nobody asked.
pub const ACTOR: &str = "scheduler";
/// The time of the next sweep is known to an interval of its job, but at least to an hour.
const WITHIN_MAX: Duration = Duration::from_hours(1);

/// A sweep, and the age in days that an entry must exceed.
type Aged = (Sweep, u32);

impl Job {
    /// What an event calls it; none for work that changes no entry.
    pub(super) const fn operation(self) -> Option<&'static str> {
        match self {
            Self::Expire => Some("expire"),
            Self::Release => Some("release_stale"),
            Self::Overflow => Some("evict"),
            Self::Archive => Some("archive"),
            Self::Purge => Some("purge"),
            Self::Summaries => Some("age_summaries"),
            Self::Checkpoint => None,
        }
    }

    /// Does its part.
    pub(super) fn run(
        self,
        repository: &dyn FailedOperationRepository,
        config: &DlqConfig,
    ) -> Result<Ran> {
        let within = Duration::from_millis(self.interval_ms(config)).min(WITHIN_MAX);
        match self {
            Self::Expire => sweep(repository, &[(Sweep::Expire, 0)], config.batch_size, within),
            Self::Release => release(repository, config),
            Self::Archive => {
                let retained = |status| (Sweep::Archive(status), config.retention_days);
                let sweeps = [
                    (Sweep::Archive(Status::Resolved), config.archive_older_than_days),
                    retained(Status::Rejected),
                    retained(Status::Expired),
                    retained(Status::PermanentlyFailed),
                ];
                sweep(repository, &sweeps, config.resolve_batch_chunk_size, within)
            }
            Self::Purge => {
                let sweeps = [(Sweep::Purge, config.purge_older_than_days)];
                sweep(repository, &sweeps, config.resolve_batch_chunk_size, within)
            }
            Self::Overflow => maintain(repository, Maintenance::Evict),
            Self::Summaries => maintain(repository, Maintenance::AgeSummaries),
            Self::Checkpoint => maintain(repository, Maintenance::Checkpoint),
        }
    }
}

/// Sweeps one after the other, at most `limit` entries together. When all are at their end, asks
/// when there is more.
fn sweep(
    repository: &dyn FailedOperationRepository,
    sweeps: &[Aged],
    limit: u32,
    within: Duration,
) -> Result<Ran> {
    let act = Act { actor: ACTOR.to_owned(), ..Act::default() };
    let now = repository.trusted_now();
    let before = |days: u32| days_before(now, u64::from(days));
    let mut left = u64::from(limit);
    for (kind, days) in sweeps {
        let most = usize::try_from(left).unwrap_or(usize::MAX);
        left = left.saturating_sub(repository.sweep(*kind, before(*days), most, Some(&act))?);
        if left == 0 {
            return Ok(Ran { items: u64::from(limit), next_at: Some(now), never: false });
        }
    }
    let mut next_at: Option<Timestamp> = None;
    for (kind, days) in sweeps {
        let next = repository.next_sweep(*kind, before(*days), within)?;
        let next = next.map(|next| next.later(days_ms(*days)));
        next_at = next_at.into_iter().chain(next).min();
    }
    Ok(Ran { items: u64::from(limit) - left, next_at, never: false })
}

/// Releases what nobody holds any more. So many as were leased at the same time: they are released
/// together, since one entry alone of those that were cut off may be the cause.
fn release(repository: &dyn FailedOperationRepository, config: &DlqConfig) -> Result<Ran> {
    let replaying = Filter { status: Some(Status::Replaying), ..Filter::default() };
    if repository.count(&replaying)? == 0 {
        return Ok(Ran::default());
    }
    let items = repository.release_stale_replaying(None)?.total();
    let interval_ms = Job::Release.interval_ms(config);
    let is_left = repository.count(&replaying)? > 0;
    let next_at = is_left.then(|| repository.trusted_now().later(interval_ms));
    Ok(Ran { items, next_at, never: false })
}

fn maintain(repository: &dyn FailedOperationRepository, maintenance: Maintenance) -> Result<Ran> {
    let maintained = repository.maintain(maintenance)?;
    Ok(maintained.map_or(Ran { never: true, ..Ran::default() }, |done| Ran {
        items: done.items,
        next_at: done.next_at,
        never: false,
    }))
}
