//! Bounds as the service sees them: making room, telling of it, and the summaries of what went.

use std::sync::{Mutex, PoisonError};

use super::{DlqEvent, DlqService, Inner};
use crate::engine::StoreError;
use crate::entry::NewFailure;
use crate::error::{DlqResult, Error};
use crate::overflow::{
    EvictReport, EvictedSummary, Evictions, Overflow, SummaryStatus, SummaryTotals,
};
use crate::repository::{FailedOperationRepository, SummariesAged};

/// What the listeners were told of evictions so far.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Guards the counts; nobody is told under it.
    evictions: Mutex<Evictions>,
}

impl DlqService {
    /// Makes room if a limit of [`Bounds`](crate::Bounds) is at its threshold: at most one batch.
    ///
    /// # Errors
    ///
    /// [`DlqError::Engine`](crate::DlqError::Engine) when the store cannot be read or written.
    pub fn evict_overflow(&self) -> DlqResult<EvictReport> {
        let repository = self.repository()?;
        let report = repository.evict_overflow();
        self.inner.tell_of_evictions(&*repository);
        Ok(report?)
    }

    /// How the store stands to its limits.
    ///
    /// # Errors
    ///
    /// As [`evict_overflow`](Self::evict_overflow).
    pub fn get_overflow(&self) -> DlqResult<Overflow> {
        Ok(self.repository()?.overflow()?)
    }

    /// The summaries of evicted entries that match, newest first, 100 unless `limit` says
    /// otherwise.
    ///
    /// # Errors
    ///
    /// As [`evict_overflow`](Self::evict_overflow).
    pub fn get_summaries(
        &self,
        domain: Option<&str>,
        status: Option<SummaryStatus>,
        limit: Option<usize>,
    ) -> DlqResult<Vec<EvictedSummary>> {
        let limit = limit.unwrap_or(super::query::LIMIT_DEFAULT);
        Ok(self.repository()?.find_summaries(domain, status, limit)?)
    }

    /// The summary with this id.
    ///
    /// # Errors
    ///
    /// As [`evict_overflow`](Self::evict_overflow).
    pub fn get_summary(&self, id: &str) -> DlqResult<Option<EvictedSummary>> {
        Ok(self.repository()?.get_summary(id)?)
    }

    /// How many summaries there are, and how many entries they stand for.
    ///
    /// # Errors
    ///
    /// As [`evict_overflow`](Self::evict_overflow).
    pub fn get_summary_totals(&self) -> DlqResult<SummaryTotals> {
        Ok(self.repository()?.get_summary_totals()?)
    }

    /// Puts a summary into a status. False when there is no such summary.
    ///
    /// # Errors
    ///
    /// As [`evict_overflow`](Self::evict_overflow).
    pub fn update_summary_status(&self, id: &str, status: SummaryStatus) -> DlqResult<bool> {
        Ok(self.repository()?.update_summary_status(id, status)?)
    }

    /// Lets all summaries age.
    ///
    /// # Errors
    ///
    /// As [`evict_overflow`](Self::evict_overflow).
    pub fn age_summaries(&self) -> DlqResult<SummariesAged> {
        let repository = self.repository()?;
        Ok(repository.age_summaries(repository.trusted_now())?)
    }
}

impl Inner {
    /// Tells the listeners what the repository evicted since they were told last, whoever asked
    /// for it.
    pub(super) fn tell_of_evictions(&self, repository: &dyn FailedOperationRepository) {
        let now = repository.evictions();
        let mut told = self.told.evictions.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *told, now);
        drop(told);
        let Evictions { evicted, summaries, emergencies } = now.since(before);
        if evicted > 0 {
            let strategy = repository.bounds().overflow_strategy;
            let emergency = emergencies > 0;
            self.tell_now(DlqEvent::DlqEvicted { evicted, summaries, strategy, emergency });
        }
    }

    /// Tells the listeners of a failure that found no room.
    pub(super) fn tell_of_overflow(&self, error: &StoreError) {
        let StoreError { failure, source: Error::TooMany { what, limit, count, .. } } = error
        else {
            return;
        };
        let NewFailure { domain, failure_type, .. } = &**failure;
        self.tell_now(DlqEvent::DlqOverflowRejected {
            domain: domain.clone(),
            failure_type: failure_type.clone(),
            setting: what,
            limit: *limit,
            count: *count,
        });
    }
}
