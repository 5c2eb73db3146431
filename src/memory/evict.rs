//! Making room in memory, by the same decisions as the engine.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::{MemoryRepository, Table};
use crate::config::Bounds;
use crate::entry::{Cause, Entry, Timestamp};
use crate::error::Result;
use crate::overflow::{
    self, Admission, Digest, EvictReport, EvictRequest, EvictedSummary, SUMMARIES_SHARE,
    SummaryStatus, Waiting, is_waiting, put_records,
};

impl MemoryRepository {
    pub(super) fn evict_from(&self, table: &mut Table, request: &EvictRequest) -> EvictReport {
        let config = &self.shared.config;
        let mut report = EvictReport::default();
        let batch = u64::from(config.bounds.overflow_evict_batch_size);
        while report.evicted < request.count {
            let wanted = batch.min(request.count - report.evicted);
            let victims = table.victims(&config.bounds, request, wanted);
            if victims.is_empty() {
                break;
            }
            let part = if request.compress {
                let now = Timestamp(self.shared.env.wall_ms());
                table.compress(&victims, now, config.segment_bytes / SUMMARIES_SHARE)
            } else {
                EvictReport { evicted: victims.len() as u64, ..EvictReport::default() }
            };
            victims.iter().for_each(|victim| table.remove(victim, Cause::Evicted));
            table.evictions.add(part);
            report.add(part);
        }
        report
    }

    /// Makes at most one batch of room.
    pub(super) fn relieve(&self, table: &mut Table) -> EvictReport {
        for request in overflow::surplus(&self.shared.config.bounds, &table.waiting()) {
            let report = self.evict_from(table, &request);
            if report.evicted > 0 {
                return report;
            }
        }
        EvictReport::default()
    }

    /// Makes sure that new entries find room, or refuses them.
    pub(super) fn admit(&self, table: &mut Table, entries: &[Entry]) -> Result<()> {
        let bounds = &self.shared.config.bounds;
        let added = table.added(entries);
        if !bounds.is_limited() || added.is_empty() {
            return Ok(());
        }
        // Each round makes all the room that one of the limits asks for.
        for _ in 0..=added.len() {
            match overflow::admit(bounds, &table.waiting(), &added) {
                Admission::Store { .. } => return Ok(()),
                Admission::Refuse(error) => return Err(error),
                Admission::Evict(request) => {
                    table.evictions.emergencies += 1;
                    if self.evict_from(table, &request).evicted == 0 {
                        break;
                    }
                }
            }
        }
        overflow::refusal(bounds, &table.waiting(), &added).map_or(Ok(()), Err)
    }
}

impl Table {
    pub(super) fn put_summaries(
        &mut self,
        now: Timestamp,
        decide: &mut dyn FnMut(&EvictedSummary) -> Option<SummaryStatus>,
    ) -> u64 {
        let mut count = 0;
        for summary in &mut self.summaries {
            if let Some(status) = decide(summary) {
                summary.put(status, now);
                count += 1;
            }
        }
        count
    }

    fn waiting(&self) -> Waiting {
        let mut waiting = BTreeMap::new();
        for operation in self.entries.values().map(|entry| &entry.operation) {
            if is_waiting(operation.status) {
                *waiting.entry(Arc::from(operation.domain.as_str())).or_default() += 1;
            }
        }
        waiting
    }

    /// How many new entries of each domain there are among these.
    fn added(&self, entries: &[Entry]) -> Waiting {
        let mut keys = HashSet::new();
        let mut added = BTreeMap::new();
        for entry in entries {
            if !self.keys.contains_key(&entry.key) && keys.insert(&entry.key) {
                *added.entry(Arc::from(entry.operation.domain.as_str())).or_default() += 1;
            }
        }
        added
    }

    /// The next entries to go.
    fn victims(&self, bounds: &Bounds, request: &EvictRequest, count: u64) -> Vec<Entry> {
        let rank =
            |entry: &Entry| request.rank(bounds, entry.operation.status, &entry.operation.domain);
        let mut ranked: Vec<(u8, &Entry)> =
            self.entries.values().filter_map(|entry| Some((rank(entry)?, entry))).collect();
        // They come oldest first, and stay so within a rank.
        ranked.sort_by_key(|(rank, _)| *rank);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        ranked.into_iter().take(count).map(|(_, entry)| entry.clone()).collect()
    }

    fn compress(&mut self, victims: &[Entry], now: Timestamp, bytes_max: u64) -> EvictReport {
        let mut digest = Digest::new(self.summaries.clone(), now, bytes_max);
        victims.iter().for_each(|victim| digest.fold(victim));
        let report = EvictReport { evicted: victims.len() as u64, summaries: digest.len() };
        put_records(&mut self.summaries, digest.finish());
        report
    }
}
