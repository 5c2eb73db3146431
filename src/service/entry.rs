//! Acting on single entries: resolve one or many, look at one, read its history.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::{DlqEvent, DlqService};
use crate::engine::{Changed, Decision};
use crate::entry::{Act, Action, Attempt, Cause, Entry, EntryId, Status, Timestamp};
use crate::error::{DlqError, DlqResult, Error};
use crate::repository::{FailedOperationRepository, Resolution, end_leases, lease_of};

/// Bounds of a chunk of a batch of resolutions.
const CHUNK: std::ops::RangeInclusive<u32> = 1..=10_000;

/// How entries are resolved by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResolveRequest {
    /// A note; empty keeps the one that is there.
    pub notes: String,
    /// How: `manual` by default.
    pub resolution_type: String,
    /// Into which status: [`Status::Resolved`] by default, or [`Status::Rejected`].
    pub status: Status,
    /// Who resolved it, as a user number.
    pub resolved_by_id: Option<i64>,
    /// Who acts and why.
    pub act: Act,
    /// Entries of one sync; `None` means
    /// [`DlqConfig::resolve_batch_chunk_size`](crate::DlqConfig::resolve_batch_chunk_size). From
    /// 1 to 10,000.
    pub chunk_size: Option<u32>,
}

/// What became of one entry, with the reference's keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ResolveResult {
    /// Always true; a refusal is an error.
    pub success: bool,
    /// The entry.
    pub id: EntryId,
    /// Its status before.
    pub previous_status: Status,
    /// Its status now.
    pub current_status: Status,
    /// When it was resolved or rejected.
    pub resolved_at: Option<Timestamp>,
    /// The note that it carries now.
    pub notes: String,
}

/// What became of a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ResolveBatchResult {
    /// Ids given.
    pub total: u64,
    /// Entries that are resolved now.
    pub resolved: u64,
    /// Ids that were given twice.
    pub skipped: u64,
    /// Ids that were refused.
    pub failed: u64,
    /// How many chunks it took.
    #[serde(skip)]
    pub chunks: u64,
    /// Why, for each that was refused.
    pub errors: Vec<ResolveError>,
}

/// Why one entry of a batch was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ResolveError {
    /// The entry.
    pub id: EntryId,
    /// Why.
    pub error: String,
}

/// What happened to an entry: its last attempts and operator actions, and how many are older.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct History {
    /// The last attempts, oldest first.
    pub attempts: Vec<Attempt>,
    /// How many attempts are older.
    pub attempts_older: u32,
    /// The last operator actions, oldest first.
    pub audit: Vec<Action>,
    /// How many actions are older.
    pub audit_older: u32,
}

impl Default for ResolveRequest {
    fn default() -> Self {
        Self {
            notes: String::new(),
            resolution_type: "manual".to_owned(),
            status: Status::Resolved,
            resolved_by_id: None,
            act: Act::default(),
            chunk_size: None,
        }
    }
}

impl ResolveRequest {
    fn check(&self) -> DlqResult<()> {
        if matches!(self.status, Status::Resolved | Status::Rejected) {
            return Ok(());
        }
        let bound = "resolved or rejected";
        Err(DlqError::Engine(Error::invalid("the status of a resolution", self.status, bound)))
    }

    fn decide(&self, entry: &Entry, now: Timestamp) -> Option<Decision> {
        let from = entry.operation.status;
        if matches!(from, Status::Resolved | Status::Archived) {
            return None;
        }
        let mut state = entry.state();
        state.status = self.status;
        let mut resolution = Resolution::new(&self.resolution_type, &self.notes);
        resolution.resolved_by_id = self.resolved_by_id;
        resolution.apply(&mut state);
        let rejected = self.status == Status::Rejected;
        let (action, cause) =
            if rejected { ("reject", Cause::Rejected) } else { ("resolve", Cause::Resolved) };
        state.record(&self.act, action, from, now);
        Some(Decision::Change(Box::new(state), cause))
    }
}

impl DlqService {
    /// Resolves or rejects an entry by hand, from any status but resolved and archived. A replay
    /// that runs meanwhile loses: its outcome is not taken.
    ///
    /// # Errors
    ///
    /// [`DlqError::NotFound`], [`DlqError::StateConflict`], and [`DlqError::Engine`] for another
    /// target status or when the store cannot be written.
    pub fn resolve_entry(&self, id: EntryId, request: &ResolveRequest) -> DlqResult<ResolveResult> {
        request.check()?;
        let resolved = self.resolve_all(&[id], request)?.pop();
        resolved.unwrap_or_else(|| Err(DlqError::NotFound { id: id.to_string() }))
    }

    /// Resolves or rejects many entries, in chunks. An id that is unknown or already resolved is
    /// refused and does not stop the others; an id that is given again is skipped.
    ///
    /// # Errors
    ///
    /// [`DlqError::Engine`] for another target status, a chunk size out of bounds, or when the
    /// store cannot be written; chunks before stay resolved.
    pub fn resolve_entries_batch(
        &self,
        ids: &[EntryId],
        request: &ResolveRequest,
    ) -> DlqResult<ResolveBatchResult> {
        request.check()?;
        let chunk_size = request.chunk_size.unwrap_or(self.config().resolve_batch_chunk_size);
        if !CHUNK.contains(&chunk_size) {
            let bound = format!("{} to {}", CHUNK.start(), CHUNK.end());
            return Err(DlqError::Engine(Error::invalid("chunk_size", chunk_size, bound)));
        }
        let mut result = ResolveBatchResult { total: ids.len() as u64, ..Default::default() };
        let mut seen = HashSet::new();
        let once: Vec<EntryId> = ids.iter().copied().filter(|id| seen.insert(*id)).collect();
        result.skipped = result.total - once.len() as u64;
        for chunk in once.chunks(chunk_size as usize) {
            result.chunks += 1;
            for (id, resolved) in chunk.iter().zip(self.resolve_all(chunk, request)?) {
                match resolved {
                    Ok(_) => result.resolved += 1,
                    Err(error) => result.refuse(*id, &error),
                }
            }
        }
        Ok(result)
    }

    /// The entry with this id, with its attempts and its audit; `None` when there is none. It
    /// serializes as a map of the 26 fields of the reference and our own.
    ///
    /// # Errors
    ///
    /// [`DlqError::Engine`] when the store cannot be read.
    pub fn get_entry(&self, id: EntryId) -> DlqResult<Option<Entry>> {
        self.get_entry_by_id(id)
    }

    /// What happened to an entry, as far as its record carries it: the last 8 attempts, the last
    /// 16 operator actions, and how many are older.
    ///
    /// # Errors
    ///
    /// [`DlqError::NotFound`], [`DlqError::Engine`] when the store cannot be read.
    pub fn history(&self, id: EntryId) -> DlqResult<History> {
        let entry = self.get_entry_by_id(id)?;
        let entry = entry.ok_or_else(|| DlqError::NotFound { id: id.to_string() })?;
        Ok(History {
            attempts: entry.attempts,
            attempts_older: entry.attempts_older,
            audit: entry.audit,
            audit_older: entry.audit_older,
        })
    }

    /// Resolves different entries with one wait; answers for each in their order.
    fn resolve_all(
        &self,
        ids: &[EntryId],
        request: &ResolveRequest,
    ) -> DlqResult<Vec<DlqResult<ResolveResult>>> {
        let repository = self.repository()?;
        let now = repository.now();
        let mut before = HashMap::new();
        let changed = repository.change_all(ids, &mut |entry| {
            before.insert(entry.operation.id, (entry.operation.status, lease_of(entry)));
            Ok(request.decide(entry, now).unwrap_or(Decision::Keep))
        })?;
        let answers = ids.iter().zip(changed).map(|(id, changed)| match changed {
            Changed::Changed(entry) => {
                let (from, leased) = before.get(id).copied().unwrap_or_default();
                end_leases(&*repository, leased.as_slice());
                self.tell_resolved(&*repository, &entry, from, &request.act);
                Ok(ResolveResult::of(&entry, from))
            }
            Changed::Kept(entry) => Err(conflict(&entry)),
            Changed::Missing | Changed::Removed(_) => {
                Err(DlqError::NotFound { id: id.to_string() })
            }
        });
        Ok(answers.collect())
    }

    fn tell_resolved(
        &self,
        repository: &dyn FailedOperationRepository,
        entry: &Entry,
        from: Status,
        act: &Act,
    ) {
        let event = DlqEvent::DlqResolved {
            dlq_id: entry.operation.id,
            domain: entry.operation.domain.clone(),
            from,
            to: entry.operation.status,
            actor_id: act.actor.clone(),
        };
        self.tell(repository, event);
    }
}

impl ResolveResult {
    fn of(entry: &Entry, from: Status) -> Self {
        let operation = &entry.operation;
        Self {
            success: true,
            id: operation.id,
            previous_status: from,
            current_status: operation.status,
            resolved_at: operation.resolved_at.or(entry.terminal_at),
            notes: operation.resolution_note.clone(),
        }
    }
}

impl ResolveBatchResult {
    fn refuse(&mut self, id: EntryId, error: &DlqError) {
        self.failed += 1;
        self.errors.push(ResolveError { id, error: error.to_string() });
    }
}

fn conflict(entry: &Entry) -> DlqError {
    DlqError::StateConflict {
        id: entry.operation.id.to_string(),
        status: entry.operation.status.to_string(),
        reason: "it is done already".to_owned(),
    }
}
