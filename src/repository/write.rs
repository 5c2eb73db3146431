//! What operators and maintenance do to entries, over any repository.

use super::FailedOperationRepository;
use super::age::Old;
use super::read::{aged, expired};
use super::replay::{end_leases, lease_of};
use crate::engine::{Changed, Decision};
use crate::entry::{Act, Cause, EntryId, Filter, State, Status, Timestamp, keep_unless_empty};
use crate::error::{Error, Result};

/// Entries that one change returns with their payloads, of which each may have some MiB.
pub(crate) const CHANGES_AT_ONCE: usize = 64;

/// How an entry came to an end. Empty texts keep what is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resolution {
    /// How, such as `manual`.
    pub resolution_type: String,
    /// A note.
    pub note: String,
    /// Who, as a user number.
    pub resolved_by_id: Option<i64>,
    /// What an operator is advised to do next.
    pub recommended_action: String,
}

impl Resolution {
    /// A resolution of this type with this note.
    pub fn new(resolution_type: impl Into<String>, note: impl Into<String>) -> Self {
        let (resolution_type, note) = (resolution_type.into(), note.into());
        Self { resolution_type, note, ..Self::default() }
    }

    /// Writes it into a state.
    pub(crate) fn apply(&self, state: &mut State) {
        keep_unless_empty(&mut state.resolution_type, &self.resolution_type);
        keep_unless_empty(&mut state.resolution_note, &self.note);
        keep_unless_empty(&mut state.recommended_action, &self.recommended_action);
        state.resolved_by_id = self.resolved_by_id.or(state.resolved_by_id);
    }
}

/// Why a status was set by hand.
pub fn cause_of(status: Status) -> Cause {
    match status {
        Status::Resolved => Cause::Resolved,
        Status::Rejected => Cause::Rejected,
        Status::Expired => Cause::Expired,
        Status::Archived => Cause::Archived,
        _ => Cause::Other,
    }
}

pub fn update_status<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    id: EntryId,
    status: Status,
    resolution: &Resolution,
    act: Option<&Act>,
) -> Result<bool> {
    let mut ended = None;
    let changed = repository.change_all(&[id], &mut |entry| {
        ended = lease_of(entry).filter(|_| status != Status::Replaying);
        let mut state = entry.state();
        let from = state.status;
        state.status = status;
        // The record of the act says where the entry went, not where it was sent.
        state.park_at_cap();
        resolution.apply(&mut state);
        record(repository, &mut state, act, "update_status", from);
        Ok(Decision::Change(Box::new(state), cause_of(status)))
    })?;
    end_leases(repository, ended.as_slice());
    Ok(count(&changed) == 1)
}

pub fn bulk_update_status<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    ids: &[EntryId],
    status: Status,
) -> Result<u64> {
    let mut unique = ids.to_vec();
    unique.sort_unstable();
    unique.dedup();
    let mut total = 0;
    for ids in unique.chunks(CHANGES_AT_ONCE) {
        let mut ended = Vec::new();
        let changed = repository.change_all(ids, &mut |entry| {
            ended.extend(lease_of(entry).filter(|_| status != Status::Replaying));
            let mut state = entry.state();
            state.status = status;
            Ok(Decision::Change(Box::new(state), cause_of(status)))
        })?;
        end_leases(repository, &ended);
        total += count(&changed);
    }
    Ok(total)
}

pub fn increment_retry_count<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    id: EntryId,
) -> Result<bool> {
    let changed = repository.change_all(&[id], &mut |entry| {
        let mut state = entry.state();
        state.retry_count = state.retry_count.saturating_add(1);
        state.last_retry_at = Some(repository.now());
        Ok(Decision::Change(Box::new(state), Cause::Other))
    })?;
    Ok(count(&changed) == 1)
}

pub fn delete<R: FailedOperationRepository + ?Sized>(repository: &R, id: EntryId) -> Result<bool> {
    let mut ended = None;
    let changed = repository.change_all(&[id], &mut |entry| {
        ended = lease_of(entry);
        Ok(Decision::Remove(Cause::Deleted))
    })?;
    end_leases(repository, ended.as_slice());
    Ok(count(&changed) == 1)
}

pub fn expire<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    before: Timestamp,
    chunk: usize,
    act: Option<&Act>,
) -> Result<u64> {
    sweep(repository, &expired(before), chunk, &mut |state| {
        let from = state.status;
        let cause = state.expire();
        record(repository, state, act, "expire", from);
        Some(cause)
    })
}

pub fn archive_before<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    status: Status,
    before: Timestamp,
    chunk: usize,
    act: Option<&Act>,
) -> Result<u64> {
    if !status.is_terminal() || status == Status::Archived {
        return Ok(0);
    }
    sweep(repository, &aged(status, before), chunk, &mut |state| {
        let from = state.status;
        let cause = state.archive();
        record(repository, state, act, "archive", from);
        Some(cause)
    })
}

pub fn purge_archived<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    ids: &[EntryId],
) -> Result<u64> {
    let changed = repository.change_all(ids, &mut |entry| {
        if entry.operation.status == Status::Archived {
            return Ok(Decision::Remove(Cause::Purged));
        }
        Err(Error::Conflict {
            id: entry.operation.id.to_string(),
            status: entry.operation.status.to_string(),
            wanted: Status::Archived.to_string(),
        })
    })?;
    let mut gone: Vec<EntryId> = changed
        .iter()
        .filter_map(|changed| match changed {
            Changed::Removed(entry) => Some(entry.operation.id),
            _ => None,
        })
        .collect();
    gone.sort_unstable();
    gone.dedup();
    Ok(gone.len() as u64)
}

pub fn purge_archived_before<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    before: Timestamp,
    chunk: usize,
) -> Result<u64> {
    sweep(repository, &aged(Status::Archived, before), chunk, &mut |_| None)
}

/// Changes all entries that are as old as the filter says, chunk by chunk, each if it still is when
/// its turn comes; an entry for which `change` gives no cause is purged.
fn sweep<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    filter: &Filter,
    chunk: usize,
    change: &mut dyn FnMut(&mut State) -> Option<Cause>,
) -> Result<u64> {
    let old = Old::new(filter, repository.timeline());
    let mut total = 0;
    old.each_chunk(repository, chunk, &mut |ids| {
        for ids in ids.chunks(CHANGES_AT_ONCE) {
            let changed = repository.change_all(ids, &mut |entry| {
                if !old.means(entry) {
                    return Ok(Decision::Keep);
                }
                let mut state = entry.state();
                Ok(match change(&mut state) {
                    Some(cause) => Decision::Change(Box::new(state), cause),
                    None => Decision::Remove(Cause::Purged),
                })
            })?;
            total += count(&changed);
        }
        Ok(())
    })?;
    Ok(total)
}

/// Writes an operator's act down, if it was one's.
fn record<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    state: &mut State,
    act: Option<&Act>,
    action: &str,
    from: Status,
) {
    if let Some(act) = act {
        state.record(act, action, from, repository.now());
    }
}

/// How many entries were changed or removed.
fn count(changed: &[Changed]) -> u64 {
    let done = |changed: &&Changed| matches!(changed, Changed::Changed(_) | Changed::Removed(_));
    changed.iter().filter(done).count() as u64
}
