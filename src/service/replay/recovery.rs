//! The sweep after a service came back: replays what its failure left behind, and hands to a
//! person what still fails.

use std::collections::BTreeSet;

use serde::Serialize;

use super::call::{Call, Reach};
use super::kept::Scope;
use super::{DlqBatchReplayStats, DlqService, LOOKS_PER_ENTRY};
use crate::engine::{Changed, Decision};
use crate::entry::{Cause, EntryId, ReplayType, Status};
use crate::error::{DlqResult, Result};
use crate::repository::{CHANGES_AT_ONCE, FailedOperationRepository};
use crate::service::DlqEvent;

/// The most characters of a service's name that a note repeats.
const NAME_CHARS_MAX: usize = 100;

/// What a sweep did.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct DlqRecoveryResult {
    /// The replays.
    #[serde(flatten)]
    pub stats: DlqBatchReplayStats,
    /// Why it did not begin, if it did not.
    pub block_reason: Option<String>,
    /// Entries that failed again and now wait for a person.
    pub escalated: u64,
}

impl DlqService {
    /// Replays the entries whose failure types the recovery of this service cures, as
    /// [`replay_service_failure_type_map`](crate::DlqConfig::replay_service_failure_type_map)
    /// says: at most `max_items`, by default
    /// [`replay_track1_max_items`](crate::DlqConfig::replay_track1_max_items), shared fairly among
    /// the types. What fails again and is still pending goes to a person.
    ///
    /// A service is swept at most once in
    /// [`circuit_close_inflight_ttl_seconds`](crate::DlqConfig::circuit_close_inflight_ttl_seconds).
    /// Nothing happens while the service or its sweeps are disabled.
    ///
    /// # Errors
    ///
    /// As [`replay`](Self::replay).
    pub fn replay_on_recovery(
        &self,
        service_name: &str,
        max_items: Option<u32>,
    ) -> DlqResult<DlqRecoveryResult> {
        let config = self.config();
        if !config.enabled || !config.replay_track1_enabled {
            return Ok(DlqRecoveryResult::default());
        }
        let repository = self.repository()?;
        let blocked = |block_reason: &'static str| {
            let event = DlqEvent::DlqReplayBlocked { dlq_id: None, domain: None, block_reason };
            self.tell(&*repository, event);
            let block_reason = Some(block_reason.to_owned());
            Ok(DlqRecoveryResult { block_reason, ..DlqRecoveryResult::default() })
        };
        let types = config.replay_service_failure_type_map.get(service_name);
        let Some(types) = types.filter(|types| !types.is_empty()) else {
            return blocked("service_failure_type_map_unconfigured");
        };
        let Some(turn) = self.kept().turn() else { return blocked("runs_alone") };
        let now_ms = repository.monotonic_ms();
        let ttl_ms = u64::from(config.circuit_close_inflight_ttl_seconds) * 1000;
        if !self.kept().begin_sweep(service_name, now_ms, now_ms.saturating_add(ttl_ms)) {
            return blocked("circuit_close_inflight");
        }
        let mut call = self.call(&*repository, &config, &turn, None);
        call.replay_type = ReplayType::Conditional;
        call.release_stale();
        let items = u64::from(max_items.unwrap_or(config.replay_track1_max_items));
        sweep(&call, types, items)?;
        let failures = std::mem::take(&mut call.tally.counts().failures);
        let mut escalated = 0;
        for chunk in failures.chunks(CHANGES_AT_ONCE) {
            match self.escalate(&*repository, service_name, chunk) {
                Ok(count) => escalated += count,
                Err(error) => call.tally.fail(error.to_string()),
            }
        }
        let scope = Scope::default();
        let (counts, left) = call.finish(&scope, "circuit_close", Some(service_name));
        let stats = DlqBatchReplayStats::of(counts, left);
        Ok(DlqRecoveryResult { stats, block_reason: None, escalated })
    }

    /// Hands entries to a person that failed in a sweep and are pending since.
    fn escalate(
        &self,
        repository: &dyn FailedOperationRepository,
        service_name: &str,
        failures: &[(EntryId, u32, String)],
    ) -> Result<u64> {
        let service_name: String = service_name.chars().take(NAME_CHARS_MAX).collect();
        let ids: Vec<EntryId> = failures.iter().map(|(id, ..)| *id).collect();
        let changed = repository.change_all(&ids, &mut |entry| {
            let mut state = entry.state();
            let failure = failures.iter().find(|(id, ..)| *id == entry.operation.id);
            let last = state.attempts.last().map(|attempt| attempt.number);
            let Some((_, number, note)) = failure else { return Ok(Decision::Keep) };
            if state.status != Status::Pending || last != Some(*number) {
                return Ok(Decision::Keep);
            }
            state.status = Status::RequiresReview;
            "escalate".clone_into(&mut state.recommended_action);
            state.resolution_note = format!("failed after {service_name} came back: {note}");
            Ok(Decision::Change(Box::new(state), Cause::Escalated))
        })?;
        let changed = changed.iter().filter(|changed| matches!(changed, Changed::Changed(_)));
        Ok(changed.count() as u64)
    }
}

/// Gives each failure type its share; the first ones get what does not divide.
fn sweep(call: &Call<'_>, types: &[String], items: u64) -> Result<()> {
    let mut seen = BTreeSet::new();
    let types: Vec<&String> = types.iter().filter(|kind| seen.insert(kind.as_str())).collect();
    let count = types.len() as u64;
    for (number, failure_type) in (0..).zip(types) {
        let quota = items / count + u64::from(number < items % count);
        if quota == 0 || call.tally.is_stopped() {
            break;
        }
        let scope = Scope { domain: None, failure_type: Some(failure_type.clone()) };
        let looks = quota.saturating_mul(LOOKS_PER_ENTRY);
        call.run(&scope, None, Reach { batch: quota, attempts: quota, looks })?;
    }
    Ok(())
}
