//! What the service tells the host: events as they happen, and records for an audit trail.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use serde::Serialize;

use crate::config::OverflowStrategy;
use crate::entry::{EntryId, Status, Timestamp};

/// Something happened. It serializes as one object whose `event` names it, with the keys of the
/// reference.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
#[expect(missing_docs, reason = "the fields are what they are called")]
pub enum DlqEvent {
    /// An entry was stored.
    DlqStored { dlq_id: EntryId, domain: String, failure_type: String, duplicate: bool },
    /// An entry went to a fallback file.
    DlqSpilled { key: String, domain: String, failure_type: String, path: PathBuf, error: String },
    /// A failure was given back to the caller.
    DlqRefused { domain: String, failure_type: String, error: String },
    /// A domain was not one; the entry was stored under another.
    DlqDomainRejected { site: &'static str, reason: &'static str, preview: String },
    /// Too many failures were refused because the outbox was full.
    DlqOutboxDropThresholdBreached { capacity: u64, size: u64, total_dropped: u64, drop_rate: f64 },
    /// An attempt ended.
    DlqReplayCompleted {
        dlq_id: EntryId,
        domain: String,
        success: bool,
        replay_attempt: u32,
        duration_ms: u64,
    },
    /// A handler panicked.
    DlqReplayFailed {
        dlq_id: EntryId,
        domain: String,
        replay_attempt: u32,
        error_type: String,
        error_message: String,
        duration_ms: u64,
    },
    /// A handler was told to come back later.
    DlqReplayThrottled { dlq_id: EntryId, domain: String, retry_after_s: Option<f64> },
    /// Nobody wanted an entry any more; it was resolved without a run.
    DlqReplaySkipped { dlq_id: EntryId, domain: String, resolution_type: String },
    /// A replay was refused before it began.
    DlqReplayBlocked { dlq_id: Option<EntryId>, domain: Option<String>, block_reason: &'static str },
    /// A batch ended.
    DlqReplayBatchCompleted {
        domain: Option<String>,
        total: u64,
        success_count: u64,
        failed_count: u64,
        trigger: &'static str,
        service_name: Option<String>,
    },
    /// The attempts of an entry are used up.
    DlqReplayExhausted { dlq_id: EntryId, domain: String, redriven: bool },
    /// An operator redrove an entry past its cap.
    DlqForceRedrive {
        dlq_id: EntryId,
        domain: String,
        actor_id: String,
        reason: String,
        ticket_url: String,
        previous_total_retries: u32,
    },
    /// An entry was resolved by hand.
    DlqResolved { dlq_id: EntryId, domain: String, from: Status, to: Status, actor_id: String },
    /// Maintenance changed entries.
    DlqMaintenance { operation: &'static str, count: u64, actor_id: String },
    /// Entries were evicted, because a limit was at its threshold or reached.
    DlqEvicted { evicted: u64, summaries: u64, strategy: OverflowStrategy, emergency: bool },
    /// A failure was given back, because a limit was reached.
    DlqOverflowRejected {
        domain: String,
        failure_type: String,
        setting: &'static str,
        limit: u64,
        count: u64,
    },
    /// More domains are in use than expected.
    DlqDomainCardinality { domains: u64, threshold: u64 },
    /// The wall clock jumped: what it showed, and what it should have shown. Entries age by it only
    /// if it is believed, see [`ClockStatus`](crate::ClockStatus).
    DlqClockJumped { from: Timestamp, to: Timestamp, believed: bool },
    /// The store does not take new entries, or does again.
    DlqHealthChanged { healthy: bool, reason: Option<String> },
}

/// An event with its time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AuditRecord {
    /// When, by the wall clock.
    pub at: Timestamp,
    /// Who acts, if the call came with a [`CallerContext`](super::CallerContext).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// What.
    #[serde(flatten)]
    pub event: DlqEvent,
}

type Listener = Arc<dyn Fn(&AuditRecord) + Send + Sync>;

/// Who is told.
#[derive(Default)]
pub(crate) struct Listeners {
    /// Guards the list; never held while a listener runs.
    list: RwLock<Vec<Listener>>,
}

impl Listeners {
    pub fn add(&self, listener: Listener) {
        self.list.write().unwrap_or_else(PoisonError::into_inner).push(listener);
    }

    /// Tells all; a panic of one is contained and reported.
    pub fn tell(&self, record: &AuditRecord) {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner).clone();
        for listener in list {
            if catch_unwind(AssertUnwindSafe(|| listener(record))).is_err() {
                tracing::error!("a listener of the service panicked");
            }
        }
    }
}

impl fmt::Debug for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("Listeners").field("len", &list.len()).finish()
    }
}
