//! Runs operations over an engine and the model.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use deadletter::{
    Cause, Changed, CompactReport, Decision, Durability, Engine, Entry, EntryId, Env, Error,
    EvictRequest, Json, NewFailure, Simulated, State, Status, Timestamp,
};

use super::check::{balance, compressed, view};
use super::model::{Crash, Level, Model, serial_of};
use super::tap::Tap;
use super::{Chance, config};

/// What a host may do with a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Store,
    Big,
    Batch,
    Change,
    Keyed,
    Written,
    Flush,
    Checkpoint,
    Reopen,
    Rotate,
    Queued,
    WrittenBatch,
    Spill,
    Remove,
    ChangeMany,
    Compact,
    Evict,
    Compress,
    Archive,
}

impl Op {
    /// The shapes that short sequences are made of.
    pub const SHAPES: [Self; 13] = [
        Self::Store,
        Self::Big,
        Self::Batch,
        Self::Change,
        Self::Keyed,
        Self::Written,
        Self::Flush,
        Self::Checkpoint,
        Self::Reopen,
        Self::Rotate,
        Self::Compress,
        Self::ChangeMany,
        Self::Compact,
    ];
}

/// A store in use.
pub struct Run {
    pub disk: Simulated,
    pub tap: Option<Tap>,
    pub model: Model,
    engine: Option<Engine>,
    chance: Chance,
    /// Faults are planned, so that calls may fail.
    faulty: bool,
    /// What compactions did.
    pub compacted: CompactReport,
}

impl Run {
    /// A store on this disk, not open yet, and what is known of it.
    pub fn new(disk: &Simulated, model: Model, seed: u64) -> Self {
        let (disk, chance) = (disk.clone(), Chance(seed));
        Self {
            disk,
            tap: None,
            model,
            engine: None,
            chance,
            faulty: false,
            compacted: CompactReport::default(),
        }
    }

    /// Photographs every step from now on.
    pub fn tapped(mut self) -> Self {
        self.tap = Some(Tap::new(&self.disk));
        self.know();
        self
    }

    /// Calls may fail from now on.
    pub fn faulty(mut self, faulty: bool) -> Self {
        self.faulty = faulty;
        self
    }

    /// Opens the store; everything found is durable from then on.
    pub fn open(&mut self) -> Result<(), String> {
        match Engine::open_with(config(), self.env()) {
            Ok(engine) => {
                match view(&engine) {
                    Ok(entries) if self.faulty => {
                        self.model = self.model.resolve_in_faults(&entries, Crash::Process)?;
                    }
                    Ok(entries) => {
                        self.model = self.model.resolve(&entries, Crash::Process)?;
                        self.model.settle_removed(balance(&engine, &entries)?)?;
                        self.model.settle_compressed(compressed(&engine)?)?;
                    }
                    Err(_) if self.faulty => return Ok(()),
                    Err(error) => return Err(error),
                }
                self.engine = Some(engine);
                self.know();
                Ok(())
            }
            Err(_) if self.faulty => Ok(()),
            Err(error) => Err(format!("the store does not open: {error:?}")),
        }
    }

    /// Does one operation. A failure that latched the log stays for everybody to see.
    pub fn play(&mut self, op: Op) -> Result<(), String> {
        let failed = |run: &Self| run.engine.as_ref().is_some_and(|it| it.failure().is_some());
        let before = failed(self);
        self.act(op)?;
        if before && op != Op::Reopen && !failed(self) {
            return Err("a failure of the log is seen no more".to_owned());
        }
        Ok(())
    }

    fn act(&mut self, op: Op) -> Result<(), String> {
        if self.engine.is_none() {
            self.open()?;
        }
        let Some(engine) = self.engine.clone() else { return Ok(()) };
        match op {
            Op::Store => self.store(&engine, &[Shape::Small], Durability::Synced),
            Op::Big => self.store(&engine, &[Shape::Big], Durability::Synced),
            Op::Batch => self.store(&engine, &[Shape::Small; 3], Durability::Synced),
            Op::Written => self.store(&engine, &[Shape::Small], Durability::Written),
            Op::WrittenBatch => self.store(&engine, &[Shape::Small; 2], Durability::Written),
            Op::Queued => self.store(&engine, &[Shape::Small], Durability::Queued),
            Op::Keyed => self.store(&engine, &[Shape::Keyed], Durability::Synced),
            Op::Rotate => {
                (0..3).try_for_each(|_| self.store(&engine, &[Shape::Big], Durability::Synced))
            }
            Op::Spill => self.spill(),
            Op::Change => self.change(&engine),
            Op::Remove => self.change_many(&engine, 1, Some(Fate::Remove)),
            Op::ChangeMany => self.change_many(&engine, 4, None),
            Op::Evict => self.evict(&engine, false),
            Op::Compress => self.evict(&engine, true),
            Op::Archive => self.archive(&engine),
            Op::Flush => self.flush(&engine),
            Op::Compact => {
                let result = engine.compact(&mut |_, _| {});
                if let Ok(report) = &result {
                    self.compacted.rewritten += report.rewritten;
                    self.compacted.merged += report.merged;
                    self.compacted.dropped += report.dropped;
                }
                self.settle(result.map(|_| ()))
            }
            Op::Checkpoint => {
                let result = engine.checkpoint();
                self.settle(result.map(|_| ()))
            }
            Op::Reopen => {
                let result = engine.close();
                self.settle(result)?;
                self.engine = None;
                drop(engine);
                self.open()
            }
        }
    }

    /// Lets the process die: nothing is written any more.
    pub fn kill(&mut self) {
        self.disk.power_off_at(Some(self.disk.operations()));
        self.engine = None;
    }

    /// Takes a last picture, when the last answer was given.
    pub fn shoot(&self) {
        if let Some(tap) = &self.tap {
            tap.shoot("after all", std::path::Path::new(""));
        }
    }

    fn env(&self) -> Arc<dyn Env> {
        match &self.tap {
            Some(tap) => Arc::new(tap.clone()),
            None => Arc::new(self.disk.clone()),
        }
    }

    fn know(&self) {
        if let Some(tap) = &self.tap {
            tap.know(&self.model);
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.disk.wall_ms())
    }

    fn store(
        &mut self,
        engine: &Engine,
        shapes: &[Shape],
        durability: Durability,
    ) -> Result<(), String> {
        let first = self.model.records.len();
        let failures: Vec<NewFailure> = shapes
            .iter()
            .enumerate()
            .map(|(index, shape)| failure(*shape, first + index, &mut self.chance))
            .collect();
        let holder = failures[0].key.as_ref().and_then(|key| self.model.holder(key));
        if let Some(holder) = holder {
            return self.store_again(engine, failures, holder);
        }
        let range = self.model.begin(&failures, self.now());
        self.know();
        let result = if failures.len() == 1 {
            let stored = engine.store_with(failures[0].clone(), durability);
            stored.map(|stored| vec![stored]).map_err(|error| error.source)
        } else {
            engine.store_batch(failures, durability).map_err(|error| error.source)
        };
        let newest = self.model.records.iter().filter_map(|record| record.id).max();
        match result {
            Ok(stored) => {
                let mut newest = newest.unwrap_or(EntryId(0));
                for (record, stored) in self.model.records[range.clone()].iter_mut().zip(&stored) {
                    if stored.id <= newest {
                        return Err(format!("id {} is not above {newest}", stored.id));
                    }
                    if stored.duplicate {
                        return Err(format!("{} is no duplicate", stored.id));
                    }
                    newest = stored.id;
                    record.id = Some(stored.id);
                    record.key = Some(stored.key.clone());
                }
                self.model.acknowledge(range, level_of(durability));
            }
            Err(error) => {
                self.allow(&error)?;
                self.model.fail(range, &error);
            }
        }
        self.know();
        Ok(())
    }

    /// Another process, which cannot have the lock, leaves a failure beside the log.
    fn spill(&mut self) -> Result<(), String> {
        let failure = failure(Shape::Small, self.model.records.len(), &mut self.chance);
        let range = self.model.begin(std::slice::from_ref(&failure), self.now());
        self.model.records[range.start].beside = true;
        self.know();
        match deadletter::spill_with(&config(), &self.env(), failure) {
            Ok(spilled) => {
                let record = &mut self.model.records[range.start];
                (record.key, record.level) = (Some(spilled.key), Level::Synced);
            }
            Err(error) => self.allow(&error.source)?,
        }
        self.know();
        Ok(())
    }

    /// A key that is there yields the entry that is there.
    fn store_again(
        &mut self,
        engine: &Engine,
        mut failures: Vec<NewFailure>,
        holder: usize,
    ) -> Result<(), String> {
        match engine.store_with(failures.remove(0), Durability::Synced) {
            Ok(stored) => {
                if !stored.duplicate || Some(stored.id) != self.model.records[holder].id {
                    return Err(format!("the key of submission {holder} was stored twice"));
                }
                // A first copy that is synced already takes nothing else along.
                if self.model.records[holder].level < Level::Synced {
                    self.model.acknowledge(holder..holder + 1, Level::Synced);
                }
            }
            Err(error) => {
                self.allow(&error.source)?;
                self.model.fail(0..0, &error.source);
            }
        }
        self.know();
        Ok(())
    }

    fn change(&mut self, engine: &Engine) -> Result<(), String> {
        let living = self.model.living();
        let Some(index) = living.get(self.chance.below(living.len())).copied() else {
            let found = engine.change(EntryId(1_000_000), &[], |_| {});
            return match found {
                Err(Error::NotFound { .. }) => Ok(()),
                Err(_) if self.faulty => Ok(()),
                other => Err(format!("a change of nothing answered {other:?}")),
            };
        };
        let record = &self.model.records[index];
        let id = record.id.unwrap_or(EntryId(0));
        let (mut state, before) = record.last_state();
        alter(&mut state, record.states.len() + self.chance.below(1000));
        let wanted = settled(state.clone(), before, self.now());
        self.model.begin_change(index, Some(wanted.clone()));
        self.know();
        let result = engine.change(id, &[], |old| *old = state.clone());
        match result {
            Ok(found) if found != wanted => return Err(format!("change of {id} answers nonsense")),
            Ok(_) => self.model.end_changes(&[index], None),
            Err(error) => {
                self.allow(&error)?;
                self.model.end_changes(&[index], Some(&error));
            }
        }
        self.know();
        Ok(())
    }

    /// One call for several entries, some of them twice; each meets the same fate, or its own.
    fn change_many(
        &mut self,
        engine: &Engine,
        count: usize,
        fate: Option<Fate>,
    ) -> Result<(), String> {
        let living = self.model.living();
        let mut fates: BTreeMap<EntryId, (usize, Fate, State)> = BTreeMap::new();
        let mut ids = Vec::new();
        for _ in 0..count.min(living.len()) {
            let index = living[self.chance.below(living.len())];
            let record = &self.model.records[index];
            let id = record.id.unwrap_or(EntryId(0));
            ids.push(id);
            let (mut state, before) = record.last_state();
            alter(&mut state, record.states.len() + self.chance.below(1000));
            let own = [Fate::Change, Fate::Change, Fate::Remove, Fate::Keep];
            let fate = fate.unwrap_or(own[self.chance.below(own.len())]);
            if fates.contains_key(&id) {
                continue;
            }
            let wanted = settled(state.clone(), before, self.now());
            match fate {
                Fate::Change => self.model.begin_change(index, Some(wanted)),
                Fate::Remove => self.model.begin_change(index, None),
                Fate::Keep => {}
            }
            fates.insert(id, (index, fate, state));
        }
        self.know();
        let causes = [Cause::Purged, Cause::Deleted, Cause::Evicted];
        let result = engine.change_all(&ids, &mut |entry| {
            let (index, fate, state) = &fates[&entry.operation.id];
            Ok(match fate {
                Fate::Keep => Decision::Keep,
                Fate::Change => Decision::Change(Box::new(state.clone()), Cause::Failed),
                Fate::Remove => Decision::Remove(causes[index % causes.len()]),
            })
        });
        let changed = fates.values().filter(|(_, fate, _)| *fate != Fate::Keep);
        let changed: Vec<usize> = changed.map(|(index, ..)| *index).collect();
        match result {
            Ok(answers) => {
                self.check_answers(&ids, &answers, &fates)?;
                self.model.end_changes(&changed, None);
            }
            Err(error) => {
                self.allow(&error)?;
                self.model.end_changes(&changed, Some(&error));
            }
        }
        self.know();
        Ok(())
    }

    /// Stores entries that are much alike, and archives all of them: a rewrite compresses them, with
    /// a dictionary.
    fn archive(&mut self, engine: &Engine) -> Result<(), String> {
        let first = self.model.records.len();
        self.store(engine, &[Shape::Alike; ALIKE], Durability::Synced)?;
        let stored = first..self.model.records.len();
        let stored = stored.filter_map(|index| Some((self.model.records[index].id?, index)));
        let stored: BTreeMap<EntryId, usize> = stored.collect();
        let indexes: Vec<usize> = stored.values().copied().collect();
        let mut wanted = BTreeMap::new();
        for (id, index) in &stored {
            let (mut state, before) = self.model.records[*index].last_state();
            state.status = Status::Archived;
            self.model.begin_change(*index, Some(settled(state.clone(), before, self.now())));
            wanted.insert(*id, state);
        }
        self.know();
        let ids: Vec<EntryId> = wanted.keys().copied().collect();
        let result = engine.change_all(&ids, &mut |entry| {
            let state = wanted[&entry.operation.id].clone();
            Ok(Decision::Change(Box::new(state), Cause::Archived))
        });
        if let Err(error) = &result {
            self.allow(error)?;
        }
        self.model.end_changes(&indexes, result.err().as_ref());
        self.know();
        Ok(())
    }

    fn check_answers(
        &self,
        ids: &[EntryId],
        answers: &[Changed],
        fates: &BTreeMap<EntryId, (usize, Fate, State)>,
    ) -> Result<(), String> {
        if ids.len() != answers.len() {
            return Err(format!("{} answers to {} ids", answers.len(), ids.len()));
        }
        for (id, answer) in ids.iter().zip(answers) {
            let (index, fate, _) = &fates[id];
            let last = self.model.records[*index].states.last().unwrap();
            let fits = match (fate, answer) {
                (Fate::Change, Changed::Changed(entry)) => {
                    last.0.as_deref() == Some(&entry.state())
                }
                (Fate::Keep, Changed::Kept(entry)) | (Fate::Remove, Changed::Removed(entry)) => {
                    entry.operation.id == *id
                }
                _ => false,
            };
            if !fits {
                return Err(format!("change of {id} answers nonsense: {answer:?}"));
            }
        }
        Ok(())
    }

    /// Evicts the oldest entries; those that are done come first.
    fn evict(&mut self, engine: &Engine, compress: bool) -> Result<(), String> {
        let mut entries = match view(engine) {
            Ok(entries) => entries,
            Err(_) if self.faulty => return Ok(()),
            Err(error) => return Err(error),
        };
        entries.sort_by_key(eviction_rank);
        let victims = entries.iter().take(2).filter_map(serial_of).collect::<Vec<_>>();
        for index in &victims {
            if compress {
                self.model.begin_compress(*index);
            } else {
                self.model.begin_change(*index, None);
            }
        }
        self.know();
        // No more than that: what waits in memory becomes visible with the first eviction.
        let count = victims.len() as u64;
        let request = EvictRequest { count, terminal: true, compress, domain: None };
        match engine.evict(&request) {
            Ok(report) if report.evicted != count => {
                return Err(format!("{} were evicted, not {victims:?}", report.evicted));
            }
            Ok(_) => {
                self.model.end_changes(&victims, None);
                if !self.faulty {
                    self.model.settle_compressed(compressed(engine)?)?;
                }
            }
            Err(error) => {
                self.allow(&error)?;
                self.model.end_changes(&victims, Some(&error));
            }
        }
        self.know();
        Ok(())
    }

    fn flush(&mut self, engine: &Engine) -> Result<(), String> {
        self.disk.advance(Duration::from_secs(2));
        let result = engine.step();
        if self.faulty {
            return Ok(());
        }
        result.map_err(|error| format!("step failed: {error:?}"))?;
        let level = if self.model.has_written() { Level::Synced } else { Level::Written };
        self.model.reached(level);
        self.know();
        Ok(())
    }

    /// After a checkpoint or a close everything is synced.
    fn settle(&mut self, result: Result<(), Error>) -> Result<(), String> {
        match result {
            Ok(()) => self.model.reached(Level::Synced),
            Err(error) => {
                self.allow(&error)?;
                self.model.fail(0..0, &error);
            }
        }
        self.know();
        Ok(())
    }

    fn allow(&self, error: &Error) -> Result<(), String> {
        let bound = matches!(error, Error::Full { what: "max_bytes", .. });
        if self.faulty || bound { Ok(()) } else { Err(format!("a call failed: {error:?}")) }
    }
}

/// Entries that are stored together and alike: enough for a dictionary.
const ALIKE: usize = 18;

/// What is to become of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Keep,
    Change,
    Remove,
}

/// Who goes first: archived ones, then others that are done, then those that wait.
fn eviction_rank(entry: &Entry) -> u8 {
    match entry.operation.status {
        Status::Archived => 0,
        Status::Resolved => 1,
        _ => 2,
    }
}

/// How a failure looks.
#[derive(Debug, Clone, Copy)]
enum Shape {
    Small,
    Big,
    Keyed,
    Alike,
}

fn failure(shape: Shape, serial: usize, chance: &mut Chance) -> NewFailure {
    let domain = ["payments", "mail", "stock.eu"][serial % 3];
    let request = match shape {
        Shape::Big => {
            let pad = "x".repeat(16_000 - chance.below(200));
            format!(r#"{{"pad":"{pad}"}}"#)
        }
        _ => format!(r#"{{ "amount" : 1.50, "serial":{serial}, "pad":"{}" }}"#, {
            "y".repeat(chance.below(90))
        }),
    };
    let object = |text: String| Json::object(text).unwrap();
    let mut failure = NewFailure::new(domain, ["TIMEOUT", "REFUSED"][serial % 2])
        .error(format!("n{serial}"), "it \u{fc}ber-failed")
        .entity("order", serial.to_string())
        .request(object(request))
        .hint("look again");
    if let Shape::Big = shape {
        let pad = "z".repeat(4_000);
        failure = failure.snapshot(object(format!(r#"{{"s":"{pad}"}}"#)));
        failure = failure.metadata(object(format!(r#"{{"m":"{pad}"}}"#)));
    }
    if let Shape::Alike = shape {
        let mut words = Chance(1);
        let text: String = (0..32).map(|_| format!("{:x} ", words.next())).collect();
        failure = failure.snapshot(object(format!(r#"{{"s":"{text}"}}"#)));
        failure = failure.metadata(object(format!(r#"{{"m":"{text}"}}"#)));
    }
    if let Shape::Keyed = shape {
        failure = failure.key(format!("key-{}", chance.below(3)));
    }
    failure
}

fn alter(state: &mut State, salt: usize) {
    let statuses = [Status::Resolved, Status::RequiresReview, Status::Pending, Status::Archived];
    state.status = statuses[salt % statuses.len()];
    state.retry_count += 1;
    state.resolution_note = format!("note {salt}");
}

/// A changed state as the store completes it.
fn settled(mut state: State, before: Status, now: Timestamp) -> State {
    if state.status == Status::Pending && state.retry_count >= state.max_retries {
        state.status = Status::RequiresReview;
    }
    state.updated_at = now;
    if state.status == before {
        return state;
    }
    match state.status {
        Status::Resolved => {
            (state.resolved_at, state.terminal_at, state.archived_at) =
                (Some(now), Some(now), None);
        }
        Status::Archived => state.archived_at = Some(now),
        _ => (state.resolved_at, state.terminal_at, state.archived_at) = (None, None, None),
    }
    state
}

fn level_of(durability: Durability) -> Level {
    match durability {
        Durability::Synced => Level::Synced,
        Durability::Written => Level::Written,
        Durability::Queued => Level::Queued,
    }
}
