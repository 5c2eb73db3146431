//! The sweeps that let entries age, over any repository, and when the next one has something to do.

use std::time::Duration;

use serde::Serialize;

use super::FailedOperationRepository;
use super::age::Old;
use super::read::{aged, expired, oldest};
use super::write::{CHANGES_AT_ONCE, count, record};
use crate::engine::Decision;
use crate::entry::{Act, Cause, EntryId, Filter, State, Status, Timestamp};
use crate::error::Result;

/// A way in which entries age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sweep {
    /// Pending entries whose time ran out expire.
    Expire,
    /// Entries that are long enough in this final status are archived. Any other status has no
    /// such entries.
    Archive(Status),
    /// Entries that were archived long ago are purged.
    Purge,
}

/// Work that a repository does on itself when somebody says that it is time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Maintenance {
    /// Takes out entries while there are more than the limits allow.
    Evict,
    /// Lets the summaries of evicted entries age.
    AgeSummaries,
    /// Notes how far everything is durable.
    Checkpoint,
}

/// What a repository did on itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Maintained {
    /// How many items it worked on; what an item is depends on the work.
    pub items: u64,
    /// When there will be more to do even if nothing changes until then: now or before when it
    /// was cut short, none when only a change makes more.
    pub next_at: Option<Timestamp>,
}

impl Sweep {
    /// The entries that are old enough: those whose time came before this one.
    fn filter(self, before: Timestamp) -> Option<Filter> {
        match self {
            Self::Expire => Some(expired(before)),
            Self::Archive(Status::Archived) => None,
            Self::Archive(status) => status.is_terminal().then(|| aged(status, before)),
            Self::Purge => Some(aged(Status::Archived, before)),
        }
    }

    /// Changes a state, and says why; none when the entry goes.
    fn change(self, state: &mut State) -> Option<(Cause, &'static str)> {
        match self {
            Self::Expire => Some((state.expire(), "expire")),
            Self::Archive(_) => Some((state.archive(), "archive")),
            Self::Purge => None,
        }
    }
}

/// Sweeps chunk by chunk until nothing is left that matches.
pub fn sweep_all<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    sweep: Sweep,
    before: Timestamp,
    chunk: usize,
    act: Option<&Act>,
) -> Result<u64> {
    let Some(filter) = sweep.filter(before) else { return Ok(0) };
    let old = Old::new(&filter, repository.timeline());
    let mut total = 0;
    old.each_chunk(repository, chunk, &mut |ids| {
        total += change(repository, sweep, &old, ids, act)?;
        Ok(())
    })?;
    Ok(total)
}

/// Sweeps the oldest entries that match, at most so many.
pub fn sweep_some<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    sweep: Sweep,
    before: Timestamp,
    limit: usize,
    act: Option<&Act>,
) -> Result<u64> {
    let Some(filter) = sweep.filter(before) else { return Ok(0) };
    let timeline = repository.timeline();
    let is_plain = timeline.is_plain();
    let old = Old::new(&filter, timeline);
    let ids = if is_plain {
        repository.select(&filter, oldest(limit))?
    } else {
        old.ids(repository)?.into_iter().take(limit).collect()
    };
    change(repository, sweep, &old, &ids, act)
}

/// Changes these entries, each if it is still old enough when its turn comes.
fn change<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    sweep: Sweep,
    old: &Old<'_>,
    ids: &[EntryId],
    act: Option<&Act>,
) -> Result<u64> {
    let mut total = 0;
    for ids in ids.chunks(CHANGES_AT_ONCE) {
        let changed = repository.change_all(ids, &mut |entry| {
            if !old.means(entry) {
                return Ok(Decision::Keep);
            }
            let mut state = entry.state();
            let from = state.status;
            let Some((cause, action)) = sweep.change(&mut state) else {
                return Ok(Decision::Remove(Cause::Purged));
            };
            record(repository, &mut state, act, action, from);
            Ok(Decision::Change(Box::new(state), cause))
        })?;
        total += count(&changed);
    }
    Ok(total)
}

/// Asks only whether something matches, so the index answers; a span that doubles and is then
/// halved needs some twenty questions for a year. Where the wall clock jumped, what may match
/// counts: a sweep comes too early rather than too late.
pub fn next_sweep<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    sweep: Sweep,
    from: Timestamp,
    within: Duration,
) -> Result<Option<Timestamp>> {
    let timeline = repository.timeline();
    let finds = |before: u64| -> Result<bool> {
        let Some(filter) = sweep.filter(Timestamp(before)) else { return Ok(false) };
        if !repository.select(&filter, oldest(1))?.is_empty() {
            return Ok(true);
        }
        let Some((wide, below)) = timeline.widened(&filter) else { return Ok(false) };
        Ok(repository.select(&wide, oldest(1))?.first().is_some_and(|id| *id < below))
    };
    let latest = Timestamp::MAX.0;
    if !finds(latest)? {
        return Ok(None);
    }
    let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX).max(1);
    let (mut low, mut span) = (from.0, within_ms);
    let mut high = low.saturating_add(span).min(latest);
    while high < latest && !finds(high)? {
        span = span.saturating_mul(2);
        (low, high) = (high, high.saturating_add(span).min(latest));
    }
    while high.saturating_sub(low) > within_ms {
        let middle = low + (high - low) / 2;
        if finds(middle)? {
            high = middle;
        } else {
            low = middle;
        }
    }
    Ok(Some(Timestamp(high)))
}
