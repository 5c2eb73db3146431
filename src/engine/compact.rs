//! The compactor: weighs segments (`weigh`), writes what is alive anew, compressed where that pays
//! (`compress`), lets go of the old files.
//!
//! One step at a time: a superseded file, one weighing, a piece of a rewrite, or its end. The end of
//! a rewrite is in order: everything is synced that was folded; the new file gets its name; the
//! replace record is synced; readers and the index turn to the new file; the old ones go once no
//! reader of another process needs them. What a crash leaves between is in `log/rewrite.rs`.

mod compress;
mod weigh;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::load::Live;
use super::{Engine, Inner, lock};
use crate::compact::{Choice, GARBAGE_SHARE, Rules, Weight, erase_due, plan};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::format::{self, ChangeBody, DropBody, EntryBody, Frame, Kind, ReplaceBody};
use crate::index::{Catalog, Liveness, Wear};
use crate::log::{
    self, Claim, Commit, Control, Draft, Fate, Note, Old, Part, Progress, Rewrite, Rewritten,
};
use weigh::{Weighed, touched};

/// A step reads about this much.
const STEP_BYTES: u64 = 1024 * 1024;
/// Space that must be left on the disk while a step writes.
const FREE_BYTES_MIN: u64 = 256 * 1024;
/// A reader of another process may keep old files for so long; then they go.
const PIN_MS_MAX: u64 = 60_000;
/// After a failure compaction rests for so long.
pub(super) const REST_MS: u64 = 1000;

/// What the compactor does and knows.
#[derive(Debug, Default)]
pub(super) struct Compactor {
    /// What is written anew.
    job: Option<Rewrite>,
    /// Segments as they weighed when so many changes had touched them.
    weights: HashMap<(u64, u32), Weighed>,
    /// Since when a segment holds traces of removed entries whose own records are gone.
    traces: HashMap<u64, u64>,
    /// Segments that were written anew without anything left to erase, and how many changes had
    /// touched them by then: to do it again before others come would gain nothing.
    settled: HashMap<u64, u64>,
    /// Files that mean nothing any more, and since when.
    superseded: Vec<Superseded>,
    /// Not before this, by the monotonic clock.
    rests_until_ms: u64,
    /// Bytes that may be read and written at once, and as of when.
    allowance: (u64, u64),
    report: CompactReport,
}

/// A file that means nothing any more.
#[derive(Debug)]
struct Superseded {
    path: PathBuf,
    bytes: u64,
    since_ms: u64,
}

/// How much is done for space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Urgency {
    /// What is worth its cost, at the rate that is set.
    Usual,
    /// There is little room: what may cost more, and at once.
    Low,
    /// There is no room, and no other way to make some: all that can go.
    Short,
    /// Somebody wants the bytes of removed entries to go now.
    Erase,
}

impl Urgency {
    /// Whether others may give back what one segment cannot.
    fn passes_over(self) -> bool {
        matches!(self, Self::Low | Self::Short)
    }

    /// What is worth a rewrite. A segment that is rewritten at each quarter that dies costs three
    /// times what it gives back, at each half as much as that.
    fn rules(self, now_ms: u64, config: &Config) -> Rules {
        Rules {
            now_ms,
            erase_within_ms: if self == Self::Erase { 0 } else { config.erase_within_ms },
            segment_bytes: config.segment_size(),
            garbage_share: match self {
                Self::Usual | Self::Erase => GARBAGE_SHARE,
                Self::Low => 4,
                Self::Short => u64::MAX,
            },
            folds: self == Self::Short,
        }
    }
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Something; there may be more to do at once.
    Worked,
    /// Nothing, and nothing is to be done before this, by the monotonic clock.
    Idle(Option<u64>),
}

/// What compaction did since the store was opened, or in one call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CompactReport {
    /// Segments written anew.
    pub rewritten: u64,
    /// Segments that went into another one.
    pub merged: u64,
    /// Segments dropped, because nothing in them was alive.
    pub dropped: u64,
    /// Bytes of files that mean nothing any more.
    pub bytes_before: u64,
    /// Bytes of the files in their place.
    pub bytes_after: u64,
    /// Old files that a reader in another process still keeps; they go within a minute.
    pub pinned_files: u64,
}

impl Engine {
    /// Gives space back now: seals the active segment, rewrites every segment that holds bytes of
    /// removed entries or is half garbage, drops those in which nothing is alive, and merges small
    /// neighbors. `progress` is told the bytes done and about how many there are.
    ///
    /// When this returns `Ok` and [`CompactReport::pinned_files`] is 0, no byte of an entry that was
    /// removed before the call is left in the log. What recovery put into `quarantine/` is not
    /// touched. Of an entry that was compressed a build without the feature `zstd` may leave pieces in
    /// a dictionary, until one with the feature compacts. Lines P1, P3 and P5 of `docs/PROMISE.md`.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`], [`Error::Closed`], [`Error::Poisoned`], and [`Error::Io`], also when the
    /// disk has too little space; then all is as before, apart from what was done so far.
    pub fn compact(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<CompactReport> {
        self.inner.check_open()?;
        self.inner.compact_now(progress)
    }
}

impl Inner {
    fn compact_now(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<CompactReport> {
        self.mark_in_use()?;
        match self.commit()?.rotate() {
            // Without room for another segment the older ones can still give some back.
            Err(error) if log::is_no_space(&error) => {}
            other => other?,
        }
        let mut compactor = lock(&self.compactor);
        let before = compactor.report;
        compactor.weights.clear();
        compactor.rests_until_ms = 0;
        drop(compactor);
        let total = self.segments.all_old().len() as u64;
        let mut steps = 0;
        // Whoever wants room meanwhile waits for one step only.
        while self.advance(&mut lock(&self.compactor), Urgency::Erase)? == Step::Worked {
            self.check_open()?;
            steps += 1;
            progress(steps.min(total), total);
        }
        let compactor = lock(&self.compactor);
        let report = compactor.report;
        Ok(CompactReport {
            rewritten: report.rewritten - before.rewritten,
            merged: report.merged - before.merged,
            dropped: report.dropped - before.dropped,
            bytes_before: report.bytes_before - before.bytes_before,
            bytes_after: report.bytes_after - before.bytes_after,
            pinned_files: compactor.superseded.len() as u64,
        })
    }

    /// Does a little, if there is something to do and nobody else does it.
    pub(super) fn compact_step(&self) -> Result<Step> {
        let Ok(mut compactor) = self.compactor.try_lock() else { return Ok(Step::Idle(None)) };
        let now = self.env.monotonic_ms();
        if now < compactor.rests_until_ms {
            return Ok(Step::Idle(Some(compactor.rests_until_ms)));
        }
        let step = self.advance(&mut compactor, Urgency::Usual);
        if step.is_err() {
            compactor.rests_until_ms = now + REST_MS;
        }
        step
    }

    /// Does a little because space is wanted, after whoever does something already: what that gives
    /// back may be enough. False when there is nothing to do, or no space to do it.
    pub(super) fn compact_for_room(&self, urgency: Urgency) -> Result<bool> {
        match self.advance(&mut lock(&self.compactor), urgency) {
            Ok(step) => Ok(step == Step::Worked),
            Err(error) if log::is_no_space(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn advance(&self, compactor: &mut Compactor, urgency: Urgency) -> Result<Step> {
        if self.remove_superseded(compactor)? {
            return Ok(Step::Worked);
        }
        if urgency == Urgency::Usual
            && let Some(wait_ms) = compactor.must_wait(self)
        {
            return Ok(Step::Idle(Some(wait_ms)));
        }
        if let Some(job) = compactor.job.take() {
            let numbers: Vec<u64> = job.old().iter().map(|old| old.number).collect();
            let step = self.go_on(compactor, job);
            return compactor.pass_over(step, &numbers, urgency);
        }
        let catalog = self.catalog()?;
        let wear = catalog.wear();
        if self.weigh_next(compactor, &catalog, &wear)? {
            return Ok(Step::Worked);
        }
        let rules = urgency.rules(self.env.wall_ms(), &self.config);
        let weights = compactor.listed(self, urgency);
        match plan(&weights, &rules) {
            Choice::Rest => {
                let due = erase_due(&weights, &rules).map(|due| due.saturating_sub(rules.now_ms));
                Ok(Step::Idle(due.map(|wait| self.env.monotonic_ms().saturating_add(wait))))
            }
            Choice::Drop(number) => self.drop_segment(compactor, &catalog, number),
            Choice::Rewrite(numbers) => {
                // It is known about what it takes; a rewrite that cannot end is not begun.
                let goes = weights.iter().filter(|weight| numbers.contains(&weight.segment));
                let bytes = goes.map(|weight| weight.needed_bytes).sum();
                let has_room = self.watch.account.check(bytes, Claim::Rewrite);
                let old = numbers.iter().filter_map(|number| self.segments.old(*number)).collect();
                let begun = has_room.and_then(|()| self.begin(old, false)).map(|job| {
                    compactor.job = Some(job);
                    Step::Worked
                });
                compactor.pass_over(begun, &numbers, urgency)
            }
        }
    }

    /// Sees to it that the set at the head of the active segment says where the older ones end, so
    /// that what is behind a cut stays cut when its successor goes.
    fn restate(&self) -> Result<&Commit> {
        self.mark_in_use()?;
        let commit = self.commit()?;
        if !commit.with_writer(|writer| Ok(writer.restated))? {
            commit.rotate()?;
        }
        Ok(commit)
    }

    /// Begins to rewrite neighbors.
    fn begin(&self, old: Vec<Arc<Old>>, over_damage: bool) -> Result<Rewrite> {
        let commit = self.restate()?;
        let last = self.segments.all_old().last().map(|last| last.number);
        let controls = old.iter().any(|old| Some(old.number) == last);
        let bytes = old.iter().map(|old| self.segments.open(old).map(|(file, _)| file.len));
        self.check_free(bytes.sum::<Result<u64>>()?)?;
        let folded_lsn = commit.synced_lsn();
        if !format::COMPRESSES {
            self.restate_changes(&old)?;
        }
        let compressor = self.compressor(&old, folded_lsn)?;
        let plan = log::Plan { folded_lsn, controls, over_damage, compressor };
        let places = (&self.env, &self.segments, &self.watch.account);
        Rewrite::begin(places, self.store_uuid, old, plan)
    }

    /// Refuses to write without room on the disk: the store must go on meanwhile.
    fn check_free(&self, bytes: u64) -> Result<()> {
        let dir = &self.config.dir;
        let free = self.env.free_bytes(dir);
        let free = free.map_err(|error| Error::io("ask for the free space of", dir, error))?;
        if free >= bytes.saturating_add(FREE_BYTES_MIN) {
            return Ok(());
        }
        Err(Error::io("rewrite a segment in", dir, std::io::ErrorKind::StorageFull.into()))
    }

    fn go_on(&self, compactor: &mut Compactor, mut job: Rewrite) -> Result<Step> {
        let moved = self.check_free(2 * STEP_BYTES).and_then(|()| self.copy(&mut job));
        match moved {
            Ok(Progress::More(bytes)) => {
                compactor.spend(bytes);
                compactor.job = Some(job);
            }
            Ok(Progress::Copied) => self.finish(compactor, job)?,
            Err(Error::Damaged(damage)) => {
                let old = job.old().to_vec();
                job.discard();
                if !self.record_damage(&old)? {
                    return Err(Error::Damaged(damage));
                }
                compactor.job = Some(self.begin(old, true)?);
            }
            Err(error) => {
                job.discard();
                return Err(error);
            }
        }
        Ok(Step::Worked)
    }

    fn copy(&self, job: &mut Rewrite) -> Result<Progress> {
        let catalog = self.catalog()?;
        let live = Live(self);
        let mut liveness = Liveness::new(&catalog, &live);
        let folded_lsn = job.folded_lsn();
        let numbers: HashSet<u64> = job.old().iter().map(|old| old.number).collect();
        job.step(STEP_BYTES, &mut |frame| match frame.header.kind {
            Kind::Entry => self.judge_entry(&mut liveness, frame, folded_lsn),
            _ => judge_change(&mut liveness, frame, &numbers),
        })
    }

    /// What becomes of an entry: it goes once its removal is folded, and else takes its newest
    /// state along. One that the index does not know of stays: doubt must never delete.
    fn judge_entry(
        &self,
        liveness: &mut Liveness<'_>,
        frame: &Frame,
        folded_lsn: u64,
    ) -> Result<Fate> {
        let lsn = frame.header.lsn;
        let Some(newest) = liveness.newest(lsn)? else { return Ok(Fate::Keep) };
        let Some(change) = newest.change.filter(|change| change.lsn > newest.folded_lsn) else {
            return Ok(match newest.is_present() {
                true if newest.is_terminal() => Fate::Compress,
                true => Fate::Keep,
                false => Fate::Leave,
            });
        };
        if !newest.is_present() {
            return Ok(if change.lsn <= folded_lsn { Fate::Leave } else { Fate::Keep });
        }
        let Ok(mut body) = format::decode_body::<EntryBody>(frame) else { return Ok(Fate::Keep) };
        body.state = self.changed_state(body.state, lsn, change.lsn, change.position)?;
        match format::encode_body(&body) {
            Ok(bytes) => Ok(Fate::Fold(bytes, body.state.status.is_terminal())),
            Err(_) => Err(Error::TooLarge {
                what: "an entry with its newest state",
                bytes: u64::from(format::RECORD_BODY_MAX) + 1,
                bytes_max: u64::from(format::RECORD_BODY_MAX),
                settings: "the format: a record is at most 16 MiB",
            }),
        }
    }

    /// Puts what a scan finds damaged on record, so that a rewrite may pass over it; false when
    /// there is nothing of the kind.
    fn record_damage(&self, old: &[Arc<Old>]) -> Result<bool> {
        let mut found = false;
        for old in old {
            for damage in &self.segments.scanned(old)?.damage {
                found = true;
                self.put_on_record(old.number, damage, Some(&Live(self)))?;
                if let (Some(from), Some(to)) = (damage.lsn_from, damage.lsn_to) {
                    self.catalog()?.lost(from..=to);
                }
            }
        }
        Ok(found)
    }

    fn finish(&self, compactor: &mut Compactor, mut job: Rewrite) -> Result<()> {
        // Nothing may be folded that a power failure could still take.
        let finished = self.commit()?.sync_all().and_then(|()| job.finish());
        let Rewritten { body, bytes } = match finished {
            Ok(rewritten) => rewritten,
            Err(error) => {
                job.discard();
                return Err(error);
            }
        };
        let body = Arc::new(body);
        let draft = Draft::new(
            Kind::Replace,
            &*body,
            self.env.wall_ms(),
            Note::Control(Control::Replace(Arc::clone(&body))),
        )?;
        match self.write_synced(vec![draft]) {
            Err(error @ (Error::Io { .. } | Error::Full { .. })) => {
                // It was refused before a byte was written, so the old files still stand.
                job.discard();
                return Err(error);
            }
            other => other?,
        }
        job.settle(bytes);
        self.turn_to(compactor, job.old(), Some(&body), bytes)
    }

    fn drop_segment(
        &self,
        compactor: &mut Compactor,
        catalog: &Catalog,
        number: u64,
    ) -> Result<Step> {
        let Some(old) = self.segments.old(number) else { return Ok(Step::Worked) };
        // Nothing becomes alive again, but to let go of a file is worth a second look.
        let weighed = self.weigh(catalog, &old, &compactor.traces)?;
        if weighed.weight.live_bytes > 0 {
            compactor.weights.insert((old.number, old.generation), weighed);
            return Ok(Step::Worked);
        }
        // What makes its records dead must be durable before it goes.
        self.restate()?.sync_all()?;
        let body = DropBody { segment: number, generation: old.generation };
        let control = Note::Control(Control::Drop(body));
        let draft = Draft::new(Kind::Drop, &body, self.env.wall_ms(), control)?;
        self.write_synced(vec![draft])?;
        self.turn_to(compactor, &[old], None, 0)?;
        Ok(Step::Worked)
    }

    /// Readers and the index turn to what stands for the old segments by now.
    fn turn_to(
        &self,
        compactor: &mut Compactor,
        old: &[Arc<Old>],
        new: Option<&ReplaceBody>,
        bytes: u64,
    ) -> Result<()> {
        let numbers: Vec<u64> = old.iter().map(|old| old.number).collect();
        let (now, wall_ms) = (self.env.monotonic_ms(), self.env.wall_ms());
        let catalog = self.catalog()?;
        compactor.trace(&catalog.wear(), &numbers);
        // Changes that were folded are dead now.
        let folds = |weighed: &Weighed| numbers.iter().any(|it| weighed.foldable.contains_key(it));
        compactor.weights.retain(|_, weighed| !folds(weighed));
        let reshaping = lock(&self.reshaping);
        let mut old_bytes = 0;
        for old in old {
            let bytes = self.segments.open(old).map_or(0, |(file, _)| file.len);
            old_bytes += bytes;
            let path = self.segments.path(old.number, old.generation);
            compactor.superseded.push(Superseded { path, bytes, since_ms: now });
        }
        self.segments.replace(old, new.map(|body| Old::new(body.new, body.end)));
        lock(&self.losses).retain(|loss| !numbers.contains(&loss.segment));
        let summary = new.map(|body| self.segments.summary(body.new.segment)).transpose()?;
        // Another load may have begun and ended since.
        if let Some(catalog) = self.feed.ready() {
            catalog.replace(&Live(self), &numbers, summary.as_deref(), wall_ms)?;
        }
        drop(reshaping);
        compactor.settle(&catalog.wear(), &numbers, new.map(|body| body.new.segment));
        let report = &mut compactor.report;
        match new {
            Some(_) => {
                report.rewritten += 1;
                report.merged += old.len() as u64 - 1;
            }
            None => report.dropped += old.len() as u64,
        }
        report.bytes_before += old_bytes;
        report.bytes_after += bytes;
        self.remove_superseded(compactor).map(|_| ())
    }

    /// Removes files that mean nothing any more, unless a reader of another process keeps them.
    fn remove_superseded(&self, compactor: &mut Compactor) -> Result<bool> {
        if compactor.superseded.is_empty() {
            return Ok(false);
        }
        let now = self.env.monotonic_ms();
        let store = self.config.dir.join(format::STORE_NAME);
        let locked = self.env.try_lock(&store);
        let locked = locked.map_err(|error| Error::io("lock", &store, error))?;
        let kept = |file: &Superseded| locked.is_none() && now < file.since_ms + PIN_MS_MAX;
        let (stay, go): (Vec<_>, Vec<_>) = compactor.superseded.drain(..).partition(kept);
        compactor.superseded = stay;
        if go.is_empty() {
            return Ok(false);
        }
        let (mut result, mut removed) = (Ok(()), Vec::new());
        for file in go {
            match self.env.unlink(&file.path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    result = Err(Error::io("remove", &file.path, error));
                    compactor.superseded.push(file);
                }
                _ => removed.push(file.bytes),
            }
        }
        let log_dir = self.config.dir.join(format::LOG_DIR);
        self.env
            .sync_dir(&log_dir)
            .map_err(|error| Error::io("sync the folder", &log_dir, error))?;
        // Their space is free for others once they cannot come back.
        removed.into_iter().for_each(|bytes| self.watch.account.release(Part::Log, bytes));
        result?;
        Ok(true)
    }
}

/// What becomes of a change: it stays while it is alive, unless it is folded into an entry of the
/// same file.
fn judge_change(
    liveness: &mut Liveness<'_>,
    frame: &Frame,
    together: &HashSet<u64>,
) -> Result<Fate> {
    let Ok(body) = format::decode_body::<ChangeBody>(frame) else { return Ok(Fate::Keep) };
    let Some(newest) = liveness.newest(body.target)? else { return Ok(Fate::Leave) };
    let alive = newest.counts(frame.header.lsn);
    let folded = together.contains(&newest.segment);
    #[cfg(feature = "planted")]
    let alive = alive && !is_forgotten(&body);
    Ok(if alive && !folded { Fate::Keep } else { Fate::Leave })
}

/// Planted bugs take every removal, or every state, for a dead change.
#[cfg(feature = "planted")]
fn is_forgotten(body: &ChangeBody) -> bool {
    use crate::log::planted::{Bug, has};
    has(if body.cause.removes() { Bug::ForgottenRemoval } else { Bug::ForgottenChange })
}

impl Compactor {
    /// Where space is short, what cannot be rewritten for want of it is left to better times, so that
    /// others are.
    fn pass_over(&mut self, step: Result<Step>, numbers: &[u64], urgency: Urgency) -> Result<Step> {
        match step {
            Err(Error::Full { .. }) if urgency.passes_over() => {
                let segments = self.weights.iter_mut();
                segments
                    .filter(|((number, _), _)| numbers.contains(number))
                    .for_each(|(_, weighed)| weighed.passed_over = true);
                Ok(Step::Worked)
            }
            other => other,
        }
    }

    /// The weights of all older segments, by number.
    fn listed(&self, inner: &Inner, urgency: Urgency) -> Vec<Weight> {
        let old = inner.segments.all_old();
        let last = old.last().map(|last| last.number);
        let mut folded: HashMap<u64, u64> = HashMap::new();
        for (segment, bytes) in self.weights.values().flat_map(|weighed| &weighed.foldable) {
            *folded.entry(*segment).or_default() += bytes;
        }
        let weighed = old.iter().filter_map(|old| {
            let weighed = self.weights.get(&(old.number, old.generation))?;
            let folded_bytes = folded.get(&old.number).copied().unwrap_or(0);
            let is_last = last == Some(old.number);
            if weighed.passed_over && urgency.passes_over() {
                let bytes = weighed.weight.file_bytes.max(inner.config.segment_size());
                let whole = Weighed::of_whole(old.number, bytes, weighed.records);
                return Some(Weight { is_last, ..whole.weight });
            }
            Some(Weight { folded_bytes, is_last, ..weighed.weight })
        });
        weighed.collect()
    }

    /// Remembers since when other segments hold changes of entries that go with these.
    fn trace(&mut self, wear: &[Wear], going: &[u64]) {
        let with_gone = wear.iter().filter(|wear| going.contains(&wear.segment) && wear.gone > 0);
        for wear in with_gone {
            for holder in wear.changed_in.iter().filter(|holder| !going.contains(holder)) {
                let since = self.traces.entry(*holder).or_insert(wear.gone_since);
                *since = (*since).min(wear.gone_since);
            }
        }
    }

    /// Remembers that a segment was written anew just now.
    fn settle(&mut self, wear: &[Wear], old: &[u64], new: Option<u64>) {
        self.settled.retain(|number, _| !old.contains(number));
        let Some(new) = new else { return };
        let gone = wear.iter().any(|wear| wear.segment == new && wear.gone > 0);
        if !gone {
            self.settled.insert(new, touched(wear).get(&new).copied().unwrap_or(0));
        }
    }

    /// Takes bytes off the allowance.
    fn spend(&mut self, bytes: u64) {
        self.allowance.0 = self.allowance.0.saturating_sub(bytes);
    }

    /// Until when the bytes of the last step count; none when there is an allowance for another.
    fn must_wait(&mut self, inner: &Inner) -> Option<u64> {
        let rate = inner.config.compact_bytes_per_second;
        if rate == 0 || self.job.is_none() {
            return None;
        }
        let now = inner.env.monotonic_ms();
        let (left, as_of) = self.allowance;
        let earned = now.saturating_sub(as_of).saturating_mul(rate) / 1000;
        self.allowance = (left.saturating_add(earned).min(rate.max(2 * STEP_BYTES)), now);
        let missing = (2 * STEP_BYTES).saturating_sub(self.allowance.0);
        (missing > 0).then(|| now + missing.saturating_mul(1000) / rate + 1)
    }
}
