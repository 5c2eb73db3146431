//! Changing and removing entries: each a record with the whole state, many with one wait.
//!
//! 1. The turns of all entries are taken at once, so that two calls never wait for each other.
//! 2. Each entry is read, and the caller decides; the first error ends the call unwritten.
//! 3. The records are submitted one by one, as facts of their own that share groups and syncs.
//! 4. One wait for all.

use std::collections::{BTreeSet, HashMap};
use std::sync::PoisonError;

use super::{Engine, Inner, lock};
use crate::config::Durability;
use crate::entry::{Cause, Entry, EntryId, State, Status, Timestamp};
use crate::error::{Error, Result};
use crate::format::{ChangeBody, Kind};
use crate::log::{self, Draft, Ticket};

/// Stands for the summaries among the entries that somebody changes: no entry has this number.
pub(super) const SUMMARIES: u64 = 0;

/// What is to become of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing; no record is written.
    Keep,
    /// It has this state from now on, for this cause.
    Change(Box<State>, Cause),
    /// It is gone from now on, for a cause that [removes](Cause::removes).
    Remove(Cause),
}

/// What became of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// There is none with this id, or damage took it.
    Missing,
    /// It is as it was.
    Kept(Box<Entry>),
    /// It changed, and is now like this.
    Changed(Box<Entry>),
    /// It is gone, and was like this, but for its five JSON fields.
    Removed(Box<Entry>),
}

/// The answers to the distinct ids, and the records that make them true.
#[derive(Default)]
struct Plan {
    answers: Vec<Changed>,
    drafts: Vec<Draft>,
    /// Whether the records must be synced, whatever the settings say.
    synced: bool,
}

impl Engine {
    /// Changes an entry's state if its status is one of those expected; an empty list means any.
    ///
    /// Changes of one entry happen one after the other, each on what the one before left. When
    /// this returns `Ok`, the change is durable (written, with
    /// [`Durability::Written`] as the configured level) and every later read shows it. What
    /// follows from a status is set by the store: `updated_at` is now, an end has its time, a
    /// lease ends with the replay, and a pending entry without attempts left requires review. Lines T1
    /// to T5 of `docs/PROMISE.md`.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Conflict`] with the status found, and those of
    /// [`Engine::store`]. After [`Error::Indeterminate`] the change may be there after the next
    /// open, fully or not at all.
    ///
    /// # Example
    ///
    /// ```
    /// # use deadletter::{Config, Engine, NewFailure, Status};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(dir.path().join("captured")))?;
    /// let stored = engine.store(NewFailure::new("payment", "PG_TIMEOUT"))?;
    /// let state = engine.change(stored.id, &[Status::Pending], |state| {
    ///     state.status = Status::Resolved;
    ///     state.resolution_type = "manual".to_owned();
    /// })?;
    /// assert_eq!(state.status, Status::Resolved);
    /// # engine.close()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn change(
        &self,
        id: EntryId,
        expected: &[Status],
        change: impl FnOnce(&mut State),
    ) -> Result<State> {
        let mut change = Some(change);
        let mut answers = self.change_all(&[id], &mut |entry| {
            let status = entry.operation.status;
            if !expected.is_empty() && !expected.contains(&status) {
                let wanted: Vec<&str> = expected.iter().map(|status| status.as_str()).collect();
                return Err(Error::Conflict {
                    id: id.to_string(),
                    status: status.to_string(),
                    wanted: wanted.join(" or "),
                });
            }
            let mut state = entry.state();
            if let Some(change) = change.take() {
                change(&mut state);
            }
            Ok(Decision::Change(Box::new(state), Cause::Other))
        })?;
        match answers.pop() {
            Some(Changed::Changed(entry)) => Ok(entry.state()),
            _ => Err(Error::NotFound { id: id.to_string() }),
        }
    }

    /// Decides about entries one after the other, then writes all that was decided; the answers
    /// are in the order of the ids. Nobody else changes these entries meanwhile. An id that
    /// stands there twice is decided once and answered twice.
    ///
    /// When this returns `Ok`, every change is durable and visible as with [`Engine::change`],
    /// which also says what a state becomes; a removal and the start of an attempt are always
    /// synced. The changes are no batch: after a crash each of them is there or not. A removed
    /// entry is found no more, its key is free, and its id never comes back.
    ///
    /// The answers hold the entries with their payloads, so give as many ids as memory is meant
    /// for. `decide` must not change entries of this store itself.
    ///
    /// # Errors
    ///
    /// What `decide` answers, or [`Error::Invalid`] for a decision with a cause that does not
    /// fit it: then nothing is written. Else those of [`Engine::store`]. After
    /// [`Error::Indeterminate`], [`Error::Io`] and [`Error::Stalled`] some of the changes may be
    /// there and others not; reading shows those that are durable.
    ///
    /// # Example
    ///
    /// ```
    /// # use deadletter::{Cause, Changed, Config, Decision, Engine, NewFailure};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(dir.path().join("captured")))?;
    /// let stored = engine.store(NewFailure::new("payment", "PG_TIMEOUT"))?;
    /// let answers = engine.change_all(&[stored.id], &mut |_| Ok(Decision::Remove(Cause::Purged)))?;
    /// assert!(matches!(&answers[..], [Changed::Removed(_)]));
    /// assert_eq!(engine.get(stored.id)?, None);
    /// # engine.close()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn change_all(
        &self,
        ids: &[EntryId],
        decide: &mut dyn FnMut(&Entry) -> Result<Decision>,
    ) -> Result<Vec<Changed>> {
        let inner = &*self.inner;
        inner.check_open()?;
        inner.commit()?;
        inner.make_room_for_changes();
        let _turns = Turns::take(inner, ids.iter().map(|id| id.0).collect());
        let mut plan = Plan::default();
        let mut places = HashMap::new();
        for id in ids {
            if !places.contains_key(id) {
                places.insert(*id, plan.answers.len());
                inner.plan(*id, &mut plan, decide)?;
            }
        }
        inner.carry_out(plan.drafts, plan.synced)?;
        let place = |id: &EntryId| places.get(id).copied().unwrap_or(usize::MAX);
        let mut answers = plan.answers;
        if places.len() == ids.len() {
            return Ok(answers);
        }
        let all = ids.iter().map(|id| answers.get(place(id)).cloned().unwrap_or(Changed::Missing));
        answers = all.collect();
        Ok(answers)
    }
}

/// The right to change some entries; others wait for it.
pub(super) struct Turns<'a> {
    inner: &'a Inner,
    lsns: BTreeSet<u64>,
}

impl<'a> Turns<'a> {
    /// Takes all of them or waits holding none, so that nobody waits for somebody who waits.
    pub fn take(inner: &'a Inner, lsns: BTreeSet<u64>) -> Self {
        let mut changing = lock(&inner.changing);
        while lsns.iter().any(|lsn| changing.contains(lsn)) {
            changing = inner.changed.wait(changing).unwrap_or_else(PoisonError::into_inner);
        }
        changing.extend(&lsns);
        drop(changing);
        Self { inner, lsns }
    }

    /// Takes those that nobody changes right now, and does not wait for the others.
    pub fn take_free(inner: &'a Inner, lsns: impl Iterator<Item = u64>) -> Self {
        let mut changing = lock(&inner.changing);
        let lsns = lsns.filter(|lsn| changing.insert(*lsn)).collect();
        drop(changing);
        Self { inner, lsns }
    }

    /// The entries that may be changed.
    pub fn lsns(&self) -> impl Iterator<Item = u64> {
        self.lsns.iter().copied()
    }

    pub fn has(&self, lsn: u64) -> bool {
        self.lsns.contains(&lsn)
    }
}

impl Drop for Turns<'_> {
    fn drop(&mut self) {
        let mut changing = lock(&self.inner.changing);
        changing.retain(|lsn| !self.lsns.contains(lsn));
        drop(changing);
        self.inner.changed.notify_all();
    }
}

impl Inner {
    /// Reads an entry, lets the caller decide, and adds what is to be written.
    fn plan(
        &self,
        id: EntryId,
        plan: &mut Plan,
        decide: &mut dyn FnMut(&Entry) -> Result<Decision>,
    ) -> Result<()> {
        let Some(mut entry) = self.read(&*self.catalog()?, id.0)?.map(Box::new) else {
            plan.answers.push(Changed::Missing);
            return Ok(());
        };
        let before = entry.operation.status;
        let now = self.env.wall_ms();
        let (state, cause) = match decide(&entry)? {
            Decision::Keep => {
                plan.answers.push(Changed::Kept(entry));
                return Ok(());
            }
            Decision::Change(_, cause) if cause.removes() || cause == Cause::Stored => {
                return Err(Error::invalid("cause of a change", cause, "a cause of changes"));
            }
            Decision::Change(mut state, cause) => {
                state.settle(before, Timestamp(now));
                // An attempt is charged for good before its handler runs.
                plan.synced |= cause.starts();
                entry.set_state((*state).clone());
                (*state, cause)
            }
            Decision::Remove(cause) if cause.removes() => {
                plan.synced = true;
                entry.drop_payloads();
                (removed(before, now), cause)
            }
            Decision::Remove(cause) => {
                let bound = "purged, deleted or evicted";
                return Err(Error::invalid("cause of a removal", cause, bound));
            }
        };
        let body = ChangeBody {
            target: id.0,
            state,
            cause,
            domain: entry.operation.domain.clone(),
            failure_type: entry.operation.failure_type.clone(),
        };
        let draft = Draft::new(Kind::Change, &body, now, log::change_note(&body))?;
        super::store::check_size(&self.config, std::slice::from_ref(&draft))?;
        plan.drafts.push(draft);
        let removed = cause.removes();
        plan.answers.push(if removed { Changed::Removed(entry) } else { Changed::Changed(entry) });
        Ok(())
    }

    /// The record that removes an entry, of which the status, the domain and the failure type are
    /// known.
    pub(super) fn removal(
        &self,
        lsn: u64,
        before: Status,
        (domain, failure_type): (&str, &str),
        cause: Cause,
    ) -> Result<Draft> {
        let now = self.env.wall_ms();
        let body = ChangeBody {
            target: lsn,
            state: removed(before, now),
            cause,
            domain: domain.to_owned(),
            failure_type: failure_type.to_owned(),
        };
        Draft::new(Kind::Change, &body, now, log::change_note(&body))
    }

    /// Submits records, each on its own, and waits once for all that were submitted.
    pub(super) fn carry_out(&self, drafts: Vec<Draft>, synced: bool) -> Result<()> {
        let durability = match self.config.durability {
            // A key that is free again must never be found taken, so its removal is synced.
            Durability::Written if !synced => Durability::Written,
            _ => Durability::Synced,
        };
        let mut tickets: Vec<Ticket> = Vec::with_capacity(drafts.len());
        let mut result = Ok(());
        for draft in drafts {
            match self.submit(vec![draft], durability) {
                Ok(ticket) => tickets.push(ticket),
                Err(error) => {
                    result = Err(if tickets.is_empty() { error } else { partly(error) });
                    break;
                }
            }
        }
        if tickets.is_empty() {
            return result;
        }
        self.threads.kick(durability);
        let commit = self.commit()?;
        for ticket in tickets {
            // Those behind the first one are mostly there already: groups are in order.
            let waited = commit.wait(ticket, durability);
            let stalled = matches!(waited, Err(Error::Stalled { .. }));
            result = result.and(waited);
            if stalled {
                break;
            }
        }
        result
    }
}

/// The state of an entry that is gone: nobody reads it any more, so it takes no space.
fn removed(before: Status, now: u64) -> State {
    State { status: before, ..State::new(Timestamp(now), 0) }
}

/// An error that came when others of the same call were on their way.
fn partly(error: Error) -> Error {
    match error {
        Error::Poisoned { reason } => Error::Indeterminate { reason },
        other => other,
    }
}
