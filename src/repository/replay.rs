//! Leases and attempts over any repository: acquire, start, complete, release.
//!
//! An attempt is charged and durable before its handler runs, so a handler that ends its process
//! is counted. Whoever completes must bring the lease's token, and the lease must still hold.

use std::time::Duration;

use super::FailedOperationRepository;
use super::read::{filter, oldest};
use crate::engine::{Changed, Decision};
use crate::entry::{
    Act, Completion, Entry, EntryId, Filter, Lease, ReplayType, State, Status, Timestamp,
};
use crate::error::{Error, Result};

/// How many leases are released in one go.
const RELEASE_CHUNK: usize = super::write::CHANGES_AT_ONCE;

/// The right to complete one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Leased {
    /// The entry.
    pub id: EntryId,
    /// What a completion must bring.
    pub token: u64,
}

/// What became of leases that had ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Released {
    /// Entries that are pending again.
    pub pending: u64,
    /// Entries whose attempts are used up, so that a person must decide.
    pub requires_review: u64,
}

/// What became of an attempt that ended and of one that began.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct TurnedOver {
    /// The entry after its completion.
    pub ended: Option<Result<Entry>>,
    /// The entry whose attempt began.
    pub started: Option<Result<Entry>>,
}

impl Released {
    /// All of them.
    pub const fn total(&self) -> u64 {
        self.pending + self.requires_review
    }
}

/// A duration in milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Whether this is the entry's lease, and it holds.
fn holds<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    entry: &Entry,
    leased: Leased,
) -> bool {
    let on_record = entry.lease.as_ref().is_some_and(|lease| lease.token == leased.token);
    entry.operation.status == Status::Replaying
        && on_record
        && repository.leases().holds(leased.id, leased.token, repository.monotonic_ms())
}

/// Puts a lease into the state and into the table.
fn grant<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    id: EntryId,
    state: &mut State,
    lease: Duration,
) -> Leased {
    let token = repository.leases().new_token();
    let (now_ms, lease_ms) = (repository.monotonic_ms(), millis(lease));
    let deadline = Timestamp(repository.now().0.saturating_add(lease_ms));
    state.lease(Lease { token, deadline });
    repository.leases().grant(id, token, now_ms, now_ms.saturating_add(lease_ms));
    Leased { id, token }
}

pub fn try_acquire<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    id: EntryId,
    lease: Duration,
    force: bool,
    act: Option<&Act>,
) -> Result<Option<(Leased, Entry)>> {
    let mut leased = None;
    let changed = repository.change_all(&[id], &mut |entry| {
        let mut state = entry.state();
        let from = state.status;
        let due = from == Status::Pending && state.can_retry();
        let forced = matches!(from, Status::Pending | Status::RequiresReview);
        if !(due || force && forced) {
            return Ok(Decision::Keep);
        }
        let mut cause = ReplayType::Single.started();
        if force {
            state.redrive();
            cause = crate::entry::Cause::Redriven;
        }
        leased = Some(grant(repository, id, &mut state, lease));
        state.start(repository.now());
        if let Some(act) = act {
            let action = if force { "force_redrive" } else { "retry" };
            state.record(act, action, from, repository.now());
        }
        Ok(Decision::Change(Box::new(state), cause))
    });
    let changed = changed.inspect_err(|_| {
        // The change may be there or not; without a lease nobody completes it.
        if leased.is_some() {
            repository.leases().end(id);
        }
    })?;
    match (leased, changed.into_iter().next()) {
        (Some(leased), Some(Changed::Changed(entry))) => Ok(Some((leased, *entry))),
        _ => Ok(None),
    }
}

pub fn acquire_batch<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    ids: &[EntryId],
    lease: Duration,
) -> Result<Vec<Leased>> {
    let now = repository.now();
    let mut leased = Vec::with_capacity(ids.len());
    let changed = repository.change_all(ids, &mut |entry| {
        let mut state = entry.state();
        let due = state.not_before.is_none_or(|due| due <= now);
        if state.status != Status::Pending || !state.can_retry() || !due {
            return Ok(Decision::Keep);
        }
        leased.push(grant(repository, entry.operation.id, &mut state, lease));
        Ok(Decision::Change(Box::new(state), crate::entry::Cause::Leased))
    });
    if let Err(error) = changed {
        for leased in &leased {
            repository.leases().end(leased.id);
        }
        return Err(error);
    }
    Ok(leased)
}

pub fn start<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    leased: Leased,
    replay_type: ReplayType,
) -> Result<Entry> {
    let turned = turn_over(repository, None, Some((leased, replay_type)))?;
    turned.started.unwrap_or_else(|| Err(lost(leased)))
}

pub fn complete<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    leased: Leased,
    completion: &Completion,
) -> Result<Entry> {
    let turned = turn_over(repository, Some((leased, completion)), None)?;
    turned.ended.unwrap_or_else(|| Err(lost(leased)))
}

pub fn turn_over<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    ended: Option<(Leased, &Completion)>,
    next: Option<(Leased, ReplayType)>,
) -> Result<TurnedOver> {
    let ids: Vec<EntryId> = ended
        .iter()
        .map(|(leased, _)| leased.id)
        .chain(next.map(|(leased, _)| leased.id))
        .collect();
    let mut changed = repository
        .change_all(&ids, &mut |entry| {
            let id = entry.operation.id;
            let mut state = entry.state();
            if let Some((leased, completion)) = ended
                && leased.id == id
                && holds(repository, entry, leased)
                && state.is_started()
            {
                let cause = state.complete(completion);
                return Ok(Decision::Change(Box::new(state), cause));
            }
            if let Some((leased, replay_type)) = next
                && leased.id == id
                && holds(repository, entry, leased)
                && !state.is_started()
            {
                state.start(repository.now());
                return Ok(Decision::Change(Box::new(state), replay_type.started()));
            }
            Ok(Decision::Keep)
        })?
        .into_iter();
    let outcome = |leased: Leased, changed: Option<Changed>| match changed {
        Some(Changed::Changed(entry)) => Ok(*entry),
        _ => Err(lost(leased)),
    };
    let ended = ended.map(|(leased, _)| {
        let outcome = outcome(leased, changed.next());
        if outcome.is_ok() {
            repository.leases().end(leased.id);
        }
        outcome
    });
    let started = next.map(|(leased, _)| outcome(leased, changed.next()));
    Ok(TurnedOver { ended, started })
}

pub fn release<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    leased: &[Leased],
) -> Result<u64> {
    let ids: Vec<EntryId> = leased.iter().map(|leased| leased.id).collect();
    let mut released = 0;
    repository.change_all(&ids, &mut |entry| {
        let own = leased.iter().find(|leased| leased.id == entry.operation.id);
        let mut state = entry.state();
        if !own.is_some_and(|own| holds(repository, entry, *own)) || state.is_started() {
            return Ok(Decision::Keep);
        }
        released += 1;
        let cause = state.release(true);
        Ok(Decision::Change(Box::new(state), cause))
    })?;
    for id in ids {
        repository.leases().end(id);
    }
    Ok(released)
}

pub fn release_stale<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    older_than: Option<Duration>,
) -> Result<Released> {
    let replaying = filter(Some(Status::Replaying), None, None);
    let mut released = Released::default();
    let mut after = None;
    let mut stale = Stale { started: Vec::new(), leased: Vec::new() };
    loop {
        let page = crate::entry::Page { after, ..oldest(RELEASE_CHUNK) };
        let ids = repository.select(&replaying, page)?;
        let Some(last) = ids.last() else { break };
        after = Some(*last);
        for id in ids {
            let entry = repository.get_by_id(id)?;
            stale.extend(entry.filter(|entry| is_stale(repository, entry, older_than)));
        }
    }
    // Those that had started stand first and together, so that one sync tells of all of them.
    let orphans = stale.started.iter().filter(|id| !repository.leases().knows(**id)).count();
    let ids: Vec<EntryId> = stale.started.into_iter().chain(stale.leased).collect();
    for chunk in ids.chunks(RELEASE_CHUNK) {
        let changed = repository.change_all(chunk, &mut |entry| {
            if !is_stale(repository, entry, older_than) {
                return Ok(Decision::Keep);
            }
            // A lease of this process that ran out is its own handler's doing.
            let alone = orphans <= 1 || repository.leases().knows(entry.operation.id);
            let mut state = entry.state();
            let cause = state.release(alone);
            repository.leases().end(entry.operation.id);
            Ok(Decision::Change(Box::new(state), cause))
        })?;
        for changed in changed {
            let Changed::Changed(entry) = changed else { continue };
            match entry.operation.status {
                Status::RequiresReview => released.requires_review += 1,
                _ => released.pending += 1,
            }
        }
    }
    Ok(released)
}

/// Entries whose lease has ended.
struct Stale {
    /// Those whose attempt had begun.
    started: Vec<EntryId>,
    /// Those that were only leased.
    leased: Vec<EntryId>,
}

impl Stale {
    fn extend(&mut self, entry: Option<Entry>) {
        let Some(entry) = entry else { return };
        let list = if entry.state().is_started() { &mut self.started } else { &mut self.leased };
        list.push(entry.operation.id);
    }
}

fn is_stale<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    entry: &Entry,
    older_than: Option<Duration>,
) -> bool {
    if entry.operation.status != Status::Replaying {
        return false;
    }
    let held_ms = repository.leases().held_ms(entry.operation.id, repository.monotonic_ms());
    let Some(older_than) = older_than else { return held_ms.is_none() };
    // Without a lease of this process only the wall clock knows.
    let age_ms =
        held_ms.unwrap_or_else(|| repository.now().0.saturating_sub(entry.operation.updated_at.0));
    age_ms > millis(older_than)
}

fn lost(leased: Leased) -> Error {
    Error::LeaseLost { id: leased.id.to_string() }
}

/// The filter for entries that are due to be replayed.
pub fn due(now: Timestamp, domain: Option<&str>, failure_type: Option<&str>) -> Filter {
    Filter { due_at: Some(now), ..filter(Some(Status::Pending), domain, failure_type) }
}
