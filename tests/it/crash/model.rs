//! What a store may show after a crash: every submission, how far it got, and in which states.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use deadletter::{Entry, EntryId, Error, FailedOperation, NewFailure, State, Status, Timestamp};

/// How far a submission or a change got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// It must never be seen: refused before it was written, or found gone after a crash.
    Never,
    /// In flight, or its outcome is unknown to the caller.
    Unknown,
    /// Acknowledged, in memory.
    Queued,
    /// Acknowledged, must survive the process.
    Written,
    /// Acknowledged, must survive a power cut.
    Synced,
}

/// What ended the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// The power went: what is not synced may be gone.
    Power,
    /// The process died and the system lives.
    Process,
}

/// One submitted failure.
#[derive(Debug, Clone)]
pub struct Record {
    pub failure: Arc<NewFailure>,
    pub created_at: Timestamp,
    /// Records of one unit are there together or not at all.
    pub unit: usize,
    pub id: Option<EntryId>,
    pub key: Option<String>,
    pub level: Level,
    /// It went into a fallback file, and comes home when nothing fails.
    pub beside: bool,
    /// The states it had, in order, and how far each change got; none when it was removed.
    pub states: Vec<(Option<Arc<State>>, Level)>,
    /// It was removed, or else it was never durable: it must not be seen again.
    pub gone: bool,
    /// Calls may have removed it without a summary, or into one.
    pub taken: (bool, bool),
}

/// Everything ever submitted to a store.
#[derive(Debug, Clone, Default)]
pub struct Model {
    pub records: Vec<Record>,
    units: usize,
    /// How many entries were removed, at least and at most.
    removed: (u64, u64),
    /// How many of them summaries count, at least and at most.
    compressed: (u64, u64),
}

impl Crash {
    /// What must be there after it.
    fn kept(self) -> Level {
        match self {
            Self::Power => Level::Synced,
            Self::Process => Level::Written,
        }
    }
}

impl Model {
    /// Notes failures that are submitted together; returns where they stand.
    pub fn begin(&mut self, failures: &[NewFailure], now: Timestamp) -> std::ops::Range<usize> {
        self.units += 1;
        let first = self.records.len();
        for failure in failures {
            let state = Arc::new(failure.first_state(now, 2));
            self.records.push(Record {
                failure: Arc::new(failure.clone()),
                created_at: failure.created_at.unwrap_or(now),
                unit: self.units,
                id: None,
                key: failure.key.clone(),
                level: Level::Unknown,
                beside: false,
                states: vec![(Some(state), Level::Synced)],
                gone: false,
                taken: (false, false),
            });
        }
        first..self.records.len()
    }

    /// The failures were acknowledged at a level: so is all that was submitted before.
    pub fn acknowledge(&mut self, range: std::ops::Range<usize>, level: Level) {
        for record in &mut self.records[range] {
            record.level = level;
        }
        if level >= Level::Written {
            self.reached(level);
        }
    }

    /// All that was acknowledged so far has reached a level.
    pub fn reached(&mut self, level: Level) {
        let raise = |reached: &mut Level| {
            if *reached >= Level::Queued {
                *reached = level.max(*reached);
            }
        };
        for record in &mut self.records {
            raise(&mut record.level);
            record.states.iter_mut().for_each(|(_, reached)| raise(reached));
        }
    }

    /// A submission failed: it may be there or not, unless it was refused. So may what waited
    /// in memory with it.
    pub fn fail(&mut self, range: std::ops::Range<usize>, error: &Error) {
        let level = if is_refusal(error) { Level::Never } else { Level::Unknown };
        for record in &mut self.records[range] {
            record.level = level;
        }
        for record in self.records.iter_mut().filter(|record| record.level == Level::Queued) {
            record.level = Level::Unknown;
        }
    }

    /// A crash came: what it may take is undecided until the store was opened.
    pub fn crashed(&mut self, crash: Crash) {
        let lower = |reached: &mut Level| {
            if *reached > Level::Unknown && *reached < crash.kept() {
                *reached = Level::Unknown;
            }
        };
        for record in &mut self.records {
            lower(&mut record.level);
            record.states.iter_mut().for_each(|(_, reached)| lower(reached));
        }
    }

    /// As [`Model::resolve`] after an open in which calls failed: what stands in fallback files
    /// may come home later.
    pub fn resolve_in_faults(&self, entries: &[Entry], crash: Crash) -> Result<Self, String> {
        let waits = |record: &Record| record.beside && record.id.is_none();
        let mut open = self.clone();
        for record in open.records.iter_mut().filter(|record| waits(record)) {
            record.level = record.level.min(Level::Unknown);
        }
        let mut next = open.resolve(entries, crash)?;
        for (record, before) in next.records.iter_mut().zip(&self.records) {
            if waits(record) {
                record.level = before.level;
            }
        }
        Ok(next)
    }

    /// A change is submitted; without a state it removes the entry.
    pub fn begin_change(&mut self, index: usize, state: Option<State>) {
        self.records[index].taken.0 |= state.is_none();
        self.records[index].states.push((state.map(Arc::new), Level::Unknown));
    }

    /// An entry is to be evicted into a summary.
    pub fn begin_compress(&mut self, index: usize) {
        self.records[index].taken.1 = true;
        self.records[index].states.push((None, Level::Unknown));
    }

    /// The changes of one call were acknowledged, or failed.
    pub fn end_changes(&mut self, indexes: &[usize], error: Option<&Error>) {
        for index in indexes {
            let record = &mut self.records[*index];
            match error {
                None => {
                    let last = record.states.last_mut().unwrap();
                    last.1 = Level::Synced;
                    if last.0.is_none() {
                        (record.gone, record.level, record.id) = (true, Level::Never, None);
                        self.removed = (self.removed.0 + 1, self.removed.1 + 1);
                        record.count_compressed(&mut self.compressed, true);
                    }
                }
                Some(error) if is_refusal(error) => drop(record.states.pop()),
                Some(_) => {}
            }
        }
        match error {
            None if indexes.is_empty() => {}
            None => self.reached(Level::Synced),
            Some(error) => self.fail(0..0, error),
        }
    }

    /// Compares how many entries the opened store says were removed with what it may say; from
    /// then on that is known.
    pub fn settle_removed(&mut self, removed: u64) -> Result<(), String> {
        if removed < self.removed.0 || self.removed.1 < removed {
            return Err(format!("{removed} entries were removed, not {:?}", self.removed));
        }
        self.removed = (removed, removed);
        Ok(())
    }

    /// Compares how many entries the summaries count with how many they may; from then on that is
    /// known. So an entry is there or counted, never both and never neither.
    pub fn settle_compressed(&mut self, compressed: u64) -> Result<(), String> {
        if compressed < self.compressed.0 || self.compressed.1 < compressed {
            return Err(format!("summaries count {compressed} entries, not {:?}", self.compressed));
        }
        self.compressed = (compressed, compressed);
        Ok(())
    }

    pub fn has_written(&self) -> bool {
        self.records.iter().any(|record| record.level == Level::Written)
    }

    /// The record that holds a key in the living process.
    pub fn holder(&self, key: &str) -> Option<usize> {
        let holds =
            |record: &Record| record.level >= Level::Queued && record.key.as_deref() == Some(key);
        self.records.iter().position(holds)
    }

    /// The records that the living process shows.
    pub fn living(&self) -> Vec<usize> {
        let living = |index: &usize| {
            let record = &self.records[*index];
            record.level >= Level::Written && record.id.is_some()
        };
        (0..self.records.len()).filter(living).collect()
    }

    /// Compares what an opened store shows with what it may show; answers with what is known
    /// from then on, when all that is visible is durable.
    pub fn resolve(&self, entries: &[Entry], crash: Crash) -> Result<Self, String> {
        let mut next = self.clone();
        let mut seen: BTreeMap<usize, &Entry> = BTreeMap::new();
        let mut keys = BTreeSet::new();
        for entry in entries {
            let serial = serial_of(entry).filter(|serial| *serial < self.records.len());
            let serial = serial.ok_or_else(|| format!("an entry nobody submitted: {entry:?}"))?;
            if seen.insert(serial, entry).is_some() {
                return Err(format!("submission {serial} is there twice"));
            }
            if !keys.insert(&entry.key) {
                return Err(format!("two entries have the key {}", entry.key));
            }
        }
        let mut units: BTreeMap<usize, bool> = BTreeMap::new();
        for (serial, record) in next.records.iter_mut().enumerate() {
            let entry = seen.get(&serial);
            let removal = record.removal(crash).filter(|_| entry.is_none());
            if let Some(certain) = removal {
                record.count_compressed(&mut next.compressed, certain);
                let certain = u64::from(certain);
                next.removed = (next.removed.0 + certain, next.removed.1 + 1);
                (record.gone, record.level, record.id) = (true, Level::Never, None);
            }
            if record.gone && entry.is_none() {
                continue;
            }
            if *units.entry(record.unit).or_insert(entry.is_some()) != entry.is_some() {
                return Err(format!("only a part of the batch of submission {serial} is there"));
            }
            match entry {
                Some(entry) => record.settle(serial, entry, crash)?,
                None if record.level >= crash.kept() => {
                    let id = record.id;
                    return Err(format!(
                        "submission {serial}, acknowledged {:?} as {id:?}, is gone after {crash:?}",
                        record.level
                    ));
                }
                None => {
                    // An id that was never durable may be given to another entry.
                    (record.id, record.level) = (None, Level::Never);
                }
            }
        }
        Ok(next)
    }
}

impl Record {
    /// It was removed, or may have been: so a summary may count it, and must if nothing else took
    /// it.
    fn count_compressed(&self, compressed: &mut (u64, u64), certain: bool) {
        let (plain, summed) = self.taken;
        compressed.0 += u64::from(certain && summed && !plain);
        compressed.1 += u64::from(summed);
    }

    /// Whether it may have been removed; then, if it must have been there before.
    fn removal(&self, crash: Crash) -> Option<bool> {
        let removes = self.since(crash).iter().any(|(state, _)| state.is_none());
        (removes && !self.gone).then(|| self.level >= crash.kept())
    }

    /// The states that it may be in after a crash.
    fn since(&self, crash: Crash) -> &[(Option<Arc<State>>, Level)] {
        let kept = self.states.iter().rposition(|(_, level)| *level >= crash.kept());
        self.states.get(kept.unwrap_or(0)..).unwrap_or_default()
    }

    /// The last state that was submitted, and the status that the living process shows.
    pub fn last_state(&self) -> (State, Status) {
        let mut known = self.states.iter().rev().filter_map(|(state, _)| state.as_ref());
        let state = State::clone(known.next().unwrap());
        let mut acknowledged =
            self.states.iter().rev().filter(|(_, level)| *level > Level::Unknown);
        let status = acknowledged.find_map(|(state, _)| state.as_ref());
        let status = status.map_or(state.status, |state| state.status);
        (state, status)
    }

    fn settle(&mut self, serial: usize, entry: &Entry, crash: Crash) -> Result<(), String> {
        if self.level == Level::Never {
            return Err(format!("submission {serial} came back although it was refused or gone"));
        }
        if self.id.is_some_and(|id| id != entry.operation.id) {
            return Err(format!("submission {serial} changed its id"));
        }
        if self.key.as_ref().is_some_and(|key| *key != entry.key) {
            return Err(format!("submission {serial} changed its key"));
        }
        let state = Arc::new(entry.state());
        let mut allowed = self.since(crash).iter().filter_map(|(state, _)| state.as_ref());
        if !allowed.any(|allowed| *allowed == state) {
            let allowed = self.since(crash).iter().filter_map(|(state, _)| state.as_ref());
            let wanted: Vec<_> = allowed.map(|state| note_of(state)).collect();
            return Err(format!(
                "submission {serial} is in state {}, one of {wanted:?} was wanted",
                note_of(&state)
            ));
        }
        let wanted = self.entry(entry);
        if wanted != *entry {
            return Err(format!("submission {serial} is not what was submitted"));
        }
        self.id = Some(entry.operation.id);
        self.key = Some(entry.key.clone());
        self.level = Level::Synced;
        self.states = vec![(Some(state), Level::Synced)];
        self.taken = (false, false);
        Ok(())
    }

    /// The entry that this submission makes, with the id, key and state of the one found.
    fn entry(&self, found: &Entry) -> Entry {
        let failure = NewFailure::clone(&self.failure);
        let state = found.state();
        let mut entry = Entry {
            operation: FailedOperation {
                id: found.operation.id,
                domain: failure.domain,
                failure_type: failure.failure_type,
                status: state.status,
                entity_type: failure.entity_type,
                entity_id: failure.entity_id,
                entity_refs: failure.entity_refs,
                user_id: failure.user_id,
                snapshot_data: failure.snapshot_data,
                error_code: failure.error_code,
                error_message: failure.error_message,
                request_data: failure.request_data,
                response_data: failure.response_data,
                metadata: failure.metadata,
                next_action_hint: failure.next_action_hint,
                created_at: self.created_at,
                ..found.operation.clone()
            },
            original_domain: failure.original_domain,
            runnable: failure.runnable,
            ..found.clone()
        };
        entry.set_state(state);
        entry
    }
}

/// Whether an error promises that nothing was written.
fn is_refusal(error: &Error) -> bool {
    matches!(
        error,
        Error::Poisoned { .. }
            | Error::Closed
            | Error::Full { .. }
            | Error::QueueFull { .. }
            | Error::TooLarge { .. }
    )
}

/// Every submission carries its place in the model.
pub fn serial_of(entry: &Entry) -> Option<usize> {
    entry.operation.error_code.strip_prefix('n')?.parse().ok()
}

fn note_of(state: &State) -> String {
    format!("{} {:?} at {}", state.status, state.resolution_note, state.updated_at)
}
