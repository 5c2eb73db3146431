//! Folding entries that are about to be evicted into summaries.
//!
//! Invariants: the counts of all summaries add up to the entries that were ever folded; together
//! they take at most so many bytes, since every segment begins with all of them. What does not fit
//! is merged into one summary of everything else, the oldest first.

use std::collections::{BTreeSet, HashMap};

use serde::Serialize;

use super::{EvictedSummary, SummaryStatus};
use crate::entry::{Entry, Json, OTHER_DOMAIN, Timestamp};

/// The most bytes of a failure type, an error code, or one half of an entity's name.
const NAME_BYTES_MAX: usize = 128;
/// The most bytes of the error message, and of the metadata.
const SAMPLE_BYTES_MAX: usize = 256;
/// The failure type of the summary of everything else; its domain is [`OTHER_DOMAIN`].
const OTHER_TYPE: &str = "other";

/// Domain, failure type and error code.
type Group = (String, String, String);

/// Summaries that take entries in.
#[derive(Debug)]
pub(crate) struct Digest {
    now: Timestamp,
    bytes_max: u64,
    /// Those that are on record already, then the new ones; in the order in which they were made.
    summaries: Vec<EvictedSummary>,
    /// How many are on record.
    recorded: usize,
    /// The place of each group's active summary.
    active: HashMap<Group, usize>,
    /// The places of those that changed.
    touched: BTreeSet<usize>,
    /// The bytes of those that changed.
    touched_bytes: u64,
}

impl Digest {
    /// Goes on from the summaries that are on record.
    pub fn new(recorded: Vec<EvictedSummary>, now: Timestamp, bytes_max: u64) -> Self {
        let active = recorded.iter().enumerate().filter_map(|(at, summary)| {
            let group =
                (summary.domain.clone(), summary.failure_type.clone(), summary.error_code.clone());
            (summary.status == SummaryStatus::Active).then_some((group, at))
        });
        Self {
            now,
            bytes_max,
            recorded: recorded.len(),
            active: active.collect(),
            summaries: recorded,
            touched: BTreeSet::new(),
            touched_bytes: 0,
        }
    }

    /// Takes an entry in.
    pub fn fold(&mut self, entry: &Entry) {
        let operation = &entry.operation;
        let failure_type = cut(&operation.failure_type, NAME_BYTES_MAX).to_owned();
        let error_code = cut(&operation.error_code, NAME_BYTES_MAX).to_owned();
        let group = (operation.domain.clone(), failure_type, error_code);
        let at = match self.active.get(&group) {
            Some(at) => *at,
            None => self.begin(group, operation.created_at),
        };
        let Some(summary) = self.summaries.get_mut(at) else { return };
        summary.first_seen = summary.first_seen.min(operation.created_at);
        if summary.count == 0 || summary.last_seen <= operation.created_at {
            summary.last_seen = operation.created_at;
            summary.sample_error_message =
                cut(&operation.error_message, SAMPLE_BYTES_MAX).to_owned();
            summary.sample_context = context(entry);
        }
        summary.count += 1;
        if self.touched.insert(at) {
            self.touched_bytes += summary.to_body().body_len();
        }
    }

    /// About how many bytes of records this comes to so far.
    pub const fn bytes(&self) -> u64 {
        self.touched_bytes
    }

    /// How many summaries were made or changed.
    pub fn len(&self) -> u64 {
        self.touched.len() as u64
    }

    /// The records to write, in this order: those without a count are gone from then on.
    pub fn finish(mut self) -> Vec<EvictedSummary> {
        self.merge_surplus();
        let changed = self.touched.iter().filter_map(|at| {
            let summary = self.summaries.get(*at)?;
            // One that was made and merged since is not on record.
            (summary.count > 0 || *at < self.recorded).then(|| summary.clone())
        });
        let (gone, kept): (Vec<_>, Vec<_>) = changed.partition(|summary| summary.count == 0);
        gone.into_iter().chain(kept).collect()
    }

    /// A new active summary, without entries yet.
    fn begin(&mut self, group: Group, seen: Timestamp) -> usize {
        let (domain, failure_type, error_code) = group.clone();
        let at = self.add(domain, failure_type, error_code, seen);
        self.active.insert(group, at);
        at
    }

    fn add(
        &mut self,
        domain: String,
        failure_type: String,
        error_code: String,
        seen: Timestamp,
    ) -> usize {
        // A clock that stands still must not give an id twice: it would take the other's place.
        let id = (self.now.0..)
            .take(self.summaries.len() + 1)
            .map(|ms| format!("compressed:{domain}:{failure_type}:{error_code}:{}", Timestamp(ms)))
            .find(|id| self.summaries.iter().all(|summary| summary.id != *id));
        self.summaries.push(EvictedSummary {
            id: id.unwrap_or_default(),
            domain,
            failure_type,
            error_code,
            count: 0,
            first_seen: seen,
            last_seen: seen,
            sample_error_message: String::new(),
            sample_context: Json::empty(),
            status: SummaryStatus::Active,
            compressed_at: self.now,
            stale_at: None,
            archived_at: None,
        });
        self.summaries.len() - 1
    }

    /// Merges the oldest ones into the summary of everything else until the rest fits: archived
    /// ones first, then stale ones, then active ones.
    fn merge_surplus(&mut self) {
        let lens: Vec<u64> =
            self.summaries.iter().map(|summary| summary.to_body().body_len()).collect();
        let mut bytes: u64 = lens.iter().sum();
        if bytes <= self.bytes_max {
            return;
        }
        let other = self.other();
        bytes += self.summaries.get(other).map_or(0, |other| other.to_body().body_len());
        let mut places: Vec<usize> = (0..lens.len()).filter(|at| *at != other).collect();
        places.sort_by_key(|at| {
            self.summaries.get(*at).map(|summary| std::cmp::Reverse(summary.status))
        });
        // One that is on record is written once more, without a count; one call writes no more of
        // them than all may take, so that its batch fits.
        let mut gone_bytes = 0;
        for at in places {
            if bytes <= self.bytes_max {
                break;
            }
            if at < self.recorded {
                gone_bytes += lens.get(at).copied().unwrap_or(0);
                if gone_bytes > self.bytes_max {
                    continue;
                }
            }
            bytes = bytes.saturating_sub(lens.get(at).copied().unwrap_or(0));
            self.merge(at, other);
        }
    }

    /// The summary of everything else. It is archived, so that no group of entries has it.
    fn other(&mut self) -> usize {
        let is_other = |summary: &EvictedSummary| {
            summary.status == SummaryStatus::Archived
                && summary.domain == OTHER_DOMAIN
                && summary.failure_type == OTHER_TYPE
                && summary.error_code.is_empty()
        };
        if let Some(at) = self.summaries.iter().position(is_other) {
            return at;
        }
        let (domain, failure_type) = (OTHER_DOMAIN.to_owned(), OTHER_TYPE.to_owned());
        let at = self.add(domain, failure_type, String::new(), Timestamp::MAX);
        if let Some(other) = self.summaries.get_mut(at) {
            other.put(SummaryStatus::Archived, self.now);
        }
        at
    }

    fn merge(&mut self, from: usize, into: usize) {
        let Some(merged) = self.summaries.get_mut(from) else { return };
        let gone = EvictedSummary {
            count: 0,
            sample_error_message: String::new(),
            sample_context: Json::empty(),
            ..merged.clone()
        };
        let merged = std::mem::replace(merged, gone);
        let Some(other) = self.summaries.get_mut(into) else { return };
        other.first_seen = other.first_seen.min(merged.first_seen);
        if other.count == 0 || other.last_seen <= merged.last_seen {
            other.last_seen = merged.last_seen;
            other.sample_error_message = merged.sample_error_message;
        }
        other.count += merged.count;
        self.touched.extend([from, into]);
    }
}

/// Writes records of a digest down where summaries are kept in memory.
pub(crate) fn put_records(summaries: &mut Vec<EvictedSummary>, records: Vec<EvictedSummary>) {
    for record in records {
        match summaries.iter_mut().find(|known| known.id == record.id) {
            Some(known) => *known = record,
            None => summaries.push(record),
        }
    }
    summaries.retain(|summary| summary.count > 0);
}

/// The beginning of a text, at most so many bytes of it.
fn cut(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max)).unwrap_or(text)
}

/// What a summary shows of its newest entry.
fn context(entry: &Entry) -> Json {
    #[derive(Serialize)]
    struct Context<'a> {
        entity_type: Option<&'a str>,
        entity_id: Option<&'a str>,
        metadata: &'a Json,
    }
    let operation = &entry.operation;
    let name =
        |text: &'_ Option<String>| text.as_deref().map(|text| cut(text, NAME_BYTES_MAX).to_owned());
    let (entity_type, entity_id) = (name(&operation.entity_type), name(&operation.entity_id));
    let metadata = if operation.metadata.len() > SAMPLE_BYTES_MAX {
        operation.metadata.truncated_marker(SAMPLE_BYTES_MAX as u64)
    } else {
        operation.metadata.clone()
    };
    let context = Context {
        entity_type: entity_type.as_deref(),
        entity_id: entity_id.as_deref(),
        metadata: &metadata,
    };
    let text = serde_json::to_string(&context).unwrap_or_default();
    Json::object(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    fn entry(domain: &str, code: &str, created_ms: u64) -> Entry {
        let mut entry = Entry::default();
        entry.operation.domain = domain.to_owned();
        entry.operation.failure_type = "TIMEOUT".to_owned();
        entry.operation.error_code = code.to_owned();
        entry.operation.error_message = format!("message of {created_ms}");
        entry.operation.created_at = Timestamp(created_ms);
        entry
    }

    #[test]
    fn a_group_is_one_summary_while_it_is_active() {
        let mut summaries = Vec::new();
        for times in [[5, 3], [9, 4]] {
            let mut digest = Digest::new(summaries.clone(), NOW, u64::MAX);
            times.iter().for_each(|at| digest.fold(&entry("mail", "E1", *at)));
            assert_eq!(digest.len(), 1);
            put_records(&mut summaries, digest.finish());
        }
        let [summary] = &summaries[..] else { panic!("{summaries:?}") };
        assert_eq!(summary.id, format!("compressed:mail:TIMEOUT:E1:{NOW}"));
        assert_eq!((summary.count, summary.first_seen, summary.last_seen).0, 4);
        assert_eq!((summary.first_seen.0, summary.last_seen.0), (3, 9));
        assert_eq!(summary.sample_error_message, "message of 9");
        summaries[0].put(SummaryStatus::Stale, NOW);
        let mut digest = Digest::new(summaries.clone(), NOW, u64::MAX);
        digest.fold(&entry("mail", "E1", 1));
        put_records(&mut summaries, digest.finish());
        assert_eq!(summaries.len(), 2, "a stale one takes nothing in, and keeps its id");
        assert_ne!(summaries[0].id, summaries[1].id);
    }

    #[test]
    fn texts_are_cut_between_characters() {
        let mut odd = entry("mail", &"\u{e9}".repeat(100), 1);
        odd.operation.failure_type = "x".repeat(10_000);
        odd.operation.error_message = format!("a{}", "\u{20ac}".repeat(1000));
        odd.operation.entity_type = Some("order".to_owned());
        odd.operation.entity_id = Some("7".repeat(10_000));
        odd.operation.metadata =
            Json::object(format!("{{\"m\":\"{}\"}}", "z".repeat(300))).unwrap();
        let mut digest = Digest::new(Vec::new(), NOW, u64::MAX);
        digest.fold(&odd);
        let summaries = digest.finish();
        let summary = &summaries[0];
        assert_eq!(summary.error_code, "\u{e9}".repeat(64));
        assert_eq!(summary.failure_type.len(), 128);
        assert_eq!(summary.sample_error_message.len(), 256);
        assert!(summary.sample_context.as_str().starts_with("{\"entity_type\":\"order\""));
        assert!(summary.sample_context.as_str().contains("_truncated"));
        assert!(summary.to_body().body_len() < 2048);
    }

    #[test]
    fn what_does_not_fit_is_merged_and_nothing_is_lost() {
        let mut summaries = Vec::new();
        let bytes_max = 4096;
        for round in 0..200 {
            let mut digest = Digest::new(summaries.clone(), NOW, bytes_max);
            for number in 0..5 {
                digest.fold(&entry("mail", &format!("E{round}-{number}"), round));
            }
            digest.fold(&entry("mail", "always", round));
            put_records(&mut summaries, digest.finish());
            let bytes: u64 = summaries.iter().map(|summary| summary.to_body().body_len()).sum();
            assert!(bytes <= bytes_max, "{bytes} bytes after round {round}");
            let count: u64 = summaries.iter().map(|summary| summary.count).sum();
            assert_eq!(count, (round + 1) * 6);
        }
        let others = summaries.iter().filter(|summary| summary.domain == OTHER_DOMAIN);
        let others: Vec<_> = others.collect();
        assert_eq!(others.len(), 1);
        assert_eq!(others[0].status, SummaryStatus::Archived);
        assert_eq!((others[0].first_seen.0, others[0].error_code.as_str()), (0, ""));
    }

    #[test]
    fn archived_ones_are_merged_first() {
        let mut summaries = Vec::new();
        let archived = Some(SummaryStatus::Archived);
        for (code, status) in [("active", None), ("old", archived), ("older", archived)] {
            let mut digest = Digest::new(summaries.clone(), NOW, u64::MAX);
            digest.fold(&entry("mail", code, 1));
            put_records(&mut summaries, digest.finish());
            if let (Some(status), Some(last)) = (status, summaries.last_mut()) {
                last.put(status, NOW);
            }
        }
        let bytes: u64 = summaries.iter().map(|summary| summary.to_body().body_len()).sum();
        let mut digest = Digest::new(summaries.clone(), NOW, bytes + 100);
        digest.fold(&entry("mail", "new", 1));
        put_records(&mut summaries, digest.finish());
        let codes: Vec<_> = summaries.iter().map(|summary| summary.error_code.as_str()).collect();
        assert_eq!(codes, ["active", "new", ""]);
    }
}
