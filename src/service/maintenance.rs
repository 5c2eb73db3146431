//! Letting entries age: expire, archive, purge. Statuses only; space is given back elsewhere.
//!
//! An age is measured from the moment an entry came into its status, and must be exceeded: what
//! is exactly as old is not older. The announcement of a purge and the purge are one query. All of
//! it goes by the trusted time of the repository, so a wall clock that is wrong ends nothing early.

use serde::Serialize;

use super::{DlqEvent, DlqService};
use crate::entry::{Act, EntryId, Status, Timestamp};
use crate::error::{DlqError, DlqResult, Error};
use crate::repository::{CleanupStats, FailedOperationRepository};

/// What is to be purged. There is no way to say everything by accident.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PurgeSelection {
    /// These entries, all of which must be archived.
    Ids(Vec<EntryId>),
    /// Those that were archived more than so many days ago.
    OlderThanDays(u32),
}

/// What a cleanup did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CleanupResult {
    /// Entries expired.
    pub expired_count: u64,
    /// Entries archived.
    pub archived_count: u64,
}

impl DlqService {
    /// Expires the pending entries whose time ran out, in chunks of
    /// [`DlqConfig::batch_size`](crate::DlqConfig::batch_size), until none is left. Entries in
    /// any other status are left alone. Answers with how many.
    ///
    /// # Errors
    ///
    /// [`DlqError::Engine`] when the store cannot be read or written; what was expired before
    /// stays so.
    pub fn expire_entries(&self, act: Option<&Act>) -> DlqResult<u64> {
        let repository = self.repository()?;
        let chunk = self.config().batch_size as usize;
        let count = repository.expire(repository.trusted_now(), chunk, act)?;
        self.tell_maintenance(&*repository, "expire", count, act);
        Ok(count)
    }

    /// Archives the entries that were resolved more than so many days ago (`None`:
    /// `archive_older_than_days`), and the rejected, expired and permanently failed ones that are
    /// so for more than `retention_days`. Answers with how many.
    ///
    /// # Errors
    ///
    /// As [`expire_entries`](Self::expire_entries).
    pub fn archive_old_entries(
        &self,
        older_than_days: Option<u32>,
        act: Option<&Act>,
    ) -> DlqResult<u64> {
        let config = self.config();
        let repository = self.repository()?;
        let chunk = config.resolve_batch_chunk_size as usize;
        let days = older_than_days.unwrap_or(config.archive_older_than_days);
        let before = |days| days_before(repository.trusted_now(), days);
        let mut count = repository.archive_before(Status::Resolved, before(days), chunk, act)?;
        for status in [Status::Rejected, Status::Expired, Status::PermanentlyFailed] {
            let retained = before(config.retention_days);
            count += repository.archive_before(status, retained, chunk, act)?;
        }
        self.tell_maintenance(&*repository, "archive", count, act);
        Ok(count)
    }

    /// Expires, then archives.
    ///
    /// # Errors
    ///
    /// As [`expire_entries`](Self::expire_entries).
    pub fn cleanup_old_entries(
        &self,
        days_old: Option<u32>,
        act: Option<&Act>,
    ) -> DlqResult<CleanupResult> {
        let expired_count = self.expire_entries(act)?;
        let archived_count = self.archive_old_entries(days_old, act)?;
        Ok(CleanupResult { expired_count, archived_count })
    }

    /// Deletes archived entries for good. Answers with how many; ids that do not exist are not
    /// counted. When this returns, no query shows them any more and their keys are free.
    ///
    /// # Errors
    ///
    /// [`DlqError::StateConflict`], and nothing is purged, if one of the ids is not archived.
    /// [`DlqError::Engine`] as [`expire_entries`](Self::expire_entries).
    pub fn purge_archived(&self, selection: &PurgeSelection, act: Option<&Act>) -> DlqResult<u64> {
        let repository = self.repository()?;
        let count = match selection {
            PurgeSelection::Ids(ids) => repository.purge_archived(ids)?,
            PurgeSelection::OlderThanDays(days) => {
                let chunk = self.config().resolve_batch_chunk_size as usize;
                let before = days_before(repository.trusted_now(), *days);
                repository.purge_archived_before(before, chunk)?
            }
        };
        self.tell_maintenance(&*repository, "purge", count, act);
        Ok(count)
    }

    /// How many entries [`purge_archived`](Self::purge_archived) would purge; nothing is changed.
    ///
    /// # Errors
    ///
    /// As [`purge_archived`](Self::purge_archived).
    pub fn count_purge(&self, selection: &PurgeSelection) -> DlqResult<u64> {
        let ids = match selection {
            PurgeSelection::Ids(ids) => ids,
            PurgeSelection::OlderThanDays(days) => return self.count_archived_older_than(*days),
        };
        let repository = self.repository()?;
        let mut ids = ids.clone();
        ids.sort_unstable();
        ids.dedup();
        let mut count = 0;
        for id in ids {
            let Some(entry) = repository.get_by_id(id)? else { continue };
            if entry.operation.status != Status::Archived {
                return Err(DlqError::from(Error::Conflict {
                    id: id.to_string(),
                    status: entry.operation.status.to_string(),
                    wanted: Status::Archived.to_string(),
                }));
            }
            count += 1;
        }
        Ok(count)
    }

    /// How many entries were archived more than so many days ago.
    ///
    /// # Errors
    ///
    /// As [`expire_entries`](Self::expire_entries).
    pub fn count_archived_older_than(&self, older_than_days: u32) -> DlqResult<u64> {
        let repository = self.repository()?;
        Ok(repository
            .count_archived_before(days_before(repository.trusted_now(), older_than_days))?)
    }

    /// What maintenance could do.
    ///
    /// # Errors
    ///
    /// As [`expire_entries`](Self::expire_entries).
    pub fn get_cleanup_stats(&self) -> DlqResult<CleanupStats> {
        let repository = self.repository()?;
        Ok(repository.get_cleanup_stats(repository.trusted_now())?)
    }

    /// Tells what maintenance did, if it did anything.
    pub(super) fn tell_maintenance(
        &self,
        repository: &dyn FailedOperationRepository,
        operation: &'static str,
        count: u64,
        act: Option<&Act>,
    ) {
        if count > 0 {
            let actor_id = act.map(|act| act.actor.clone()).unwrap_or_default();
            self.tell(repository, DlqEvent::DlqMaintenance { operation, count, actor_id });
        }
    }
}

/// A time some days before another; the beginning of time at the earliest.
fn days_before(now: Timestamp, days: u32) -> Timestamp {
    crate::repository::days_before(now, u64::from(days))
}
