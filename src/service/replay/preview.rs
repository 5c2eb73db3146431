//! What a replay would do now, without doing any of it.

use serde::Serialize;

use super::ReplayOptions;
use super::gates::Admission;
use crate::entry::{Order, Page};
use crate::error::DlqResult;
use crate::repository::due;
use crate::service::DlqService;

/// Entries that are read at a time.
const PAGE_ENTRIES: usize = 100;

/// What a replay would do now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ReplayPreview {
    /// Entries that it would try.
    pub due: u64,
    /// Entries that it would pass over.
    pub skipped: u64,
    /// Entries that are due now, tried or not.
    pub remaining: u64,
}

impl DlqService {
    /// How many entries are due now for a replay with these options.
    ///
    /// # Errors
    ///
    /// When the repository cannot be read.
    pub fn count_due(&self, options: &ReplayOptions) -> DlqResult<u64> {
        let repository = self.repository()?;
        let scope = options.scope();
        let (domain, failure_type) = (scope.domain.as_deref(), scope.failure_type.as_deref());
        Ok(repository.count(&due(repository.now(), domain, failure_type))?)
    }

    /// Says what [`replay_all_throttle_aware`](Self::replay_all_throttle_aware) would do with
    /// these options if the throttle let it. The handlers are asked whether they would take an
    /// entry; nothing is leased, nothing runs and nothing changes. Leases that have ended count
    /// as leases.
    ///
    /// # Errors
    ///
    /// When the repository cannot be read.
    pub fn preview_replay(&self, options: &ReplayOptions) -> DlqResult<ReplayPreview> {
        let config = self.config();
        if !config.enabled {
            return Ok(ReplayPreview::default());
        }
        let repository = self.repository()?;
        let scope = options.scope();
        let (domain, failure_type) = (scope.domain.as_deref(), scope.failure_type.as_deref());
        let timeline = repository.timeline();
        let filter = due(repository.now(), domain, failure_type);
        let attempts = options.max.unwrap_or(u64::MAX);
        let remaining = self.count_due(options)?;
        let mut preview = ReplayPreview { remaining, ..ReplayPreview::default() };
        let mut page =
            Page { order: Order::Oldest, offset: 0, limit: PAGE_ENTRIES, after: options.after };
        while preview.due < attempts {
            let entries = repository.find(&filter, page)?;
            let Some(last) = entries.last() else { break };
            page.after = Some(last.operation.id);
            for entry in entries {
                if preview.due == attempts {
                    break;
                }
                if timeline.has_expired(&entry) {
                    // A replay lets it expire instead.
                    preview.skipped += 1;
                    continue;
                }
                match self.admit(&*repository, &config, &entry) {
                    Admission::Run(_) => preview.due += 1,
                    Admission::Unwanted | Admission::Refused(_) => preview.skipped += 1,
                }
            }
        }
        Ok(preview)
    }
}
