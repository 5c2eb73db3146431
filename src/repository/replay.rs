//! Leases and attempts over any repository: acquire, start, complete, release.
//!
//! An attempt is charged and durable before its handler runs, so a handler that ends its process
//! is counted. Whoever completes must bring the lease's token, and the lease must still hold.

use std::time::Duration;

use super::FailedOperationRepository;
use super::read::{filter, oldest};
use super::write::CHANGES_AT_ONCE;
use crate::engine::{Changed, Decision};
use crate::entry::{
    Act, Completion, Entry, EntryId, Filter, Lease, ReplayType, State, Status, Timestamp,
};
use crate::error::{Error, Result};

/// How many entries are leased in one go: their payloads are in memory together.
const ACQUIRE_CHUNK: usize = 250;

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
    entry.operation.status == Status::Replaying
        && lease_of(entry) == Some(leased)
        && repository.leases().holds(leased.id, leased.token, repository.monotonic_ms())
}

/// The lease on record.
pub fn lease_of(entry: &Entry) -> Option<Leased> {
    entry.lease.as_ref().map(|lease| Leased { id: entry.operation.id, token: lease.token })
}

/// Ends leases, once the change that took them from their entries is durable: until then they
/// hold. Somebody may have leased an entry again in between; that lease is another one.
pub fn end_leases<R: FailedOperationRepository + ?Sized>(repository: &R, ended: &[Leased]) {
    for leased in ended {
        repository.leases().end(leased.id, leased.token);
    }
}

/// How long this process holds the entry by now; `None` when another one leased it.
fn held_ms<R: FailedOperationRepository + ?Sized>(repository: &R, entry: &Entry) -> Option<u64> {
    let leased = lease_of(entry)?;
    repository.leases().held_ms(leased.id, leased.token, repository.monotonic_ms())
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
        end_leases(repository, leased.as_slice());
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
    for ids in ids.chunks(ACQUIRE_CHUNK) {
        let changed = repository.change_all(ids, &mut |entry| {
            let mut state = entry.state();
            if state.status != Status::Pending || !state.can_retry() || !state.is_due(now) {
                return Ok(Decision::Keep);
            }
            leased.push(grant(repository, entry.operation.id, &mut state, lease));
            Ok(Decision::Change(Box::new(state), crate::entry::Cause::Leased))
        });
        changed.inspect_err(|_| end_leases(repository, &leased))?;
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
    let (mut has_ended, mut has_started) = (false, false);
    let mut changed = repository
        .change_all(&ids, &mut |entry| {
            let id = entry.operation.id;
            let mut state = entry.state();
            if let Some((leased, completion)) = ended
                && leased.id == id
                && holds(repository, entry, leased)
                && state.is_started()
            {
                has_ended = true;
                let cause = state.complete(completion);
                return Ok(Decision::Change(Box::new(state), cause));
            }
            if let Some((leased, replay_type)) = next
                && leased.id == id
                && holds(repository, entry, leased)
                && !state.is_started()
            {
                has_started = true;
                state.start(repository.now());
                return Ok(Decision::Change(Box::new(state), replay_type.started()));
            }
            Ok(Decision::Keep)
        })?
        .into_iter();
    // If both halves name one entry, only one of them has changed it.
    let outcome = |leased: Leased, is_done: bool, changed: Option<Changed>| match changed {
        Some(Changed::Changed(entry)) if is_done => Ok(*entry),
        _ => Err(lost(leased)),
    };
    let ended = ended.map(|(leased, _)| {
        let outcome = outcome(leased, has_ended, changed.next());
        if outcome.is_ok() {
            end_leases(repository, &[leased]);
        }
        outcome
    });
    let started = next.map(|(leased, _)| outcome(leased, has_started, changed.next()));
    Ok(TurnedOver { ended, started })
}

pub fn release<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    leased: &[Leased],
) -> Result<u64> {
    let ids: Vec<EntryId> = leased.iter().map(|leased| leased.id).collect();
    let mut released = Vec::new();
    repository.change_all(&ids, &mut |entry| {
        let mut own = leased.iter().filter(|leased| leased.id == entry.operation.id);
        let mut state = entry.state();
        let Some(own) = own.find(|own| holds(repository, entry, **own)) else {
            return Ok(Decision::Keep);
        };
        if state.is_started() {
            return Ok(Decision::Keep);
        }
        released.push(*own);
        let cause = state.release(true);
        Ok(Decision::Change(Box::new(state), cause))
    })?;
    end_leases(repository, &released);
    Ok(released.len() as u64)
}

pub fn release_stale<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    older_than: Option<Duration>,
) -> Result<Released> {
    let stale = find_stale(repository, older_than)?;
    let mut released = Released::default();
    for chunk in stale.ids.chunks(CHANGES_AT_ONCE) {
        let mut ended = Vec::new();
        let changed = repository.change_all(chunk, &mut |entry| {
            if !is_stale(repository, entry, older_than) {
                return Ok(Decision::Keep);
            }
            // A lease of this process that ran out is its own handler's doing.
            let alone = stale.orphans <= 1 || held_ms(repository, entry).is_some();
            ended.extend(lease_of(entry));
            let mut state = entry.state();
            let cause = state.release(alone);
            Ok(Decision::Change(Box::new(state), cause))
        })?;
        end_leases(repository, &ended);
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
    /// Those whose attempt had begun stand first and together, so that one sync tells of all of
    /// them.
    ids: Vec<EntryId>,
    /// How many attempts were under way in a process that is gone, stale by age or not.
    orphans: u64,
}

fn find_stale<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    older_than: Option<Duration>,
) -> Result<Stale> {
    let replaying = filter(Some(Status::Replaying), None, None);
    let (mut started, mut leased, mut orphans) = (Vec::new(), Vec::new(), 0);
    let mut after = None;
    loop {
        let page = crate::entry::Page { after, ..oldest(CHANGES_AT_ONCE) };
        let ids = repository.select(&replaying, page)?;
        let Some(last) = ids.last() else { break };
        after = Some(*last);
        for id in ids {
            let Some(entry) = repository.get_by_id(id)? else { continue };
            let is_started = entry.is_started();
            if is_started && held_ms(repository, &entry).is_none() {
                orphans += 1;
            }
            if is_stale(repository, &entry, older_than) {
                let list = if is_started { &mut started } else { &mut leased };
                list.push(id);
            }
        }
    }
    started.append(&mut leased);
    Ok(Stale { ids: started, orphans })
}

fn is_stale<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    entry: &Entry,
    older_than: Option<Duration>,
) -> bool {
    if entry.operation.status != Status::Replaying {
        return false;
    }
    let Some(older_than) = older_than else {
        return !lease_of(entry).is_some_and(|leased| holds(repository, entry, leased));
    };
    let age_ms = held_ms(repository, entry).or_else(|| {
        // Of another process's lease only the wall clock knows; if that went back since, nobody
        // does, and the process is gone.
        repository.now().0.checked_sub(entry.operation.updated_at.0)
    });
    age_ms.is_none_or(|age_ms| age_ms > millis(older_than))
}

fn lost(leased: Leased) -> Error {
    Error::LeaseLost { id: leased.id.to_string() }
}

/// The filter for entries that are due to be replayed.
pub fn due(now: Timestamp, domain: Option<&str>, failure_type: Option<&str>) -> Filter {
    Filter { due_at: Some(now), ..filter(Some(Status::Pending), domain, failure_type) }
}
