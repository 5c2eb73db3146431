//! Group commit in the callers' threads: one leads, the others wait, one group is in flight.
//!
//! A caller puts its record into the group buffer and waits until the level it asked for is
//! reached. If nobody leads, it takes the writer out of the shared state, writes and syncs all
//! that has gathered, hands the writer back and wakes the rest. No lock is held meanwhile.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use crate::config::{Config, Durability};
use crate::env::Env;
use crate::error::{Error, Result};
use crate::format::{Flags, Kind};

use super::writer::{CommitError, Pending, Writer};
use super::{Draft, Observer};

/// A group that has reached this size takes no more records; a single larger one goes alone.
const GROUP_BYTES_MAX: u64 = 1024 * 1024;
/// A group has at most this many records, unless one batch has more.
const GROUP_RECORDS_MAX: usize = 4096;
/// On a full disk an operator's changes are written in pieces of this size, which fit into what
/// is kept for them.
const PIECE_BYTES_MAX: u64 = 16 * 1024;
/// Written bytes that no sync covers are at most this many; then a sync is forced.
const UNSYNCED_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Names a record on its way: the sequence numbers of a single record or a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub first_lsn: u64,
    pub last_lsn: u64,
}

/// The commit path of one log.
pub(crate) struct Commit {
    env: Arc<dyn Env>,
    observer: Arc<dyn Observer>,
    queue_bytes_max: u64,
    group_bytes_max: u64,
    stall_deadline: Duration,
    max_lag_ms: u64,
    /// Guards the group buffer, the watermarks and the writer while nobody leads.
    state: Mutex<State>,
    wake: Condvar,
}

struct State {
    pending: Vec<Pending>,
    pending_bytes: u64,
    next_lsn: u64,
    /// `None` while somebody leads.
    writer: Option<Box<Writer>>,
    /// All records below are written.
    written_to: u64,
    /// All records below are synced.
    synced_to: u64,
    /// Somebody waits until all records below are synced.
    sync_wanted: u64,
    unsynced_bytes: u64,
    unsynced_since_ms: Option<u64>,
    /// The last number that was written.
    logged_lsn: u64,
    /// Why nothing may be written any more.
    failure: Option<String>,
    /// Records that were refused before a byte was written, as ranges of numbers.
    refused: Vec<(Ticket, Refusal)>,
    closed: bool,
    wakers: Vec<Waker>,
}

/// Why records were refused; a caller may still ask when the error itself is gone.
#[derive(Debug, Clone)]
enum Refusal {
    Io { act: &'static str, path: PathBuf, kind: std::io::ErrorKind },
    Full { what: &'static str, bytes: u64, bytes_max: u64 },
}

/// What became of the records of a group.
#[derive(Default)]
struct Fates {
    /// The last number that was written, and the bytes of all that were.
    logged_lsn: Option<u64>,
    bytes: u64,
    /// Something was refused before a byte of it was written.
    refused: Vec<(Ticket, Refusal)>,
    failed: Option<Error>,
}

impl std::fmt::Debug for Commit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Commit").finish_non_exhaustive()
    }
}

impl Commit {
    pub fn new(
        writer: Box<Writer>,
        next_lsn: u64,
        config: &Config,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let state = State {
            pending: Vec::new(),
            pending_bytes: 0,
            next_lsn,
            written_to: next_lsn,
            synced_to: next_lsn,
            sync_wanted: 0,
            unsynced_bytes: 0,
            unsynced_since_ms: None,
            logged_lsn: next_lsn.saturating_sub(1),
            failure: None,
            refused: Vec::new(),
            closed: false,
            wakers: Vec::new(),
            writer: None,
        };
        let env = Arc::clone(&writer.env);
        Self {
            env,
            observer,
            queue_bytes_max: config.queue_bytes_max,
            group_bytes_max: GROUP_BYTES_MAX.min(config.segment_size() / 4),
            stall_deadline: Duration::from_millis(config.stall_deadline_ms),
            max_lag_ms: config.max_lag_ms,
            state: Mutex::new(State { writer: Some(writer), ..state }),
            wake: Condvar::new(),
        }
    }

    /// Why nothing may be written any more.
    pub fn failure(&self) -> Option<Error> {
        self.lock().check().err()
    }

    /// Puts records into the group buffer as one atomic unit and gives them their numbers.
    pub fn submit(&self, drafts: Vec<Draft>, durability: Durability) -> Result<Ticket> {
        let bytes: u64 = drafts.iter().map(Draft::record_len).sum();
        let mut state = self.lock();
        loop {
            state.check()?;
            let full = state.pending_bytes > 0
                && (state.pending_bytes + bytes > self.group_bytes_max
                    || state.pending.len() + drafts.len() > GROUP_RECORDS_MAX);
            if durability == Durability::Queued {
                if state.pending_bytes > 0 && state.pending_bytes + bytes > self.queue_bytes_max {
                    let bytes = state.pending_bytes;
                    return Err(Error::QueueFull { bytes, bytes_max: self.queue_bytes_max });
                }
                break;
            }
            if !full {
                break;
            }
            state = self.lead_or_wait(state)?;
        }
        let count = drafts.len();
        let first_lsn = state.next_lsn;
        for (index, draft) in drafts.into_iter().enumerate() {
            let flags = Flags {
                more_of_batch: index + 1 < count,
                continues_batch: index > 0,
                drained: draft.drained,
                ..Flags::default()
            };
            let lsn = state.next_lsn;
            state.next_lsn += 1;
            state.pending.push(Pending { lsn, draft, flags });
        }
        state.pending_bytes += bytes;
        if durability == Durability::Synced {
            // Said now, so that whoever leads next syncs: nothing is shown before.
            state.sync_wanted = state.sync_wanted.max(state.next_lsn);
        }
        Ok(Ticket { first_lsn, last_lsn: state.next_lsn - 1 })
    }

    /// Waits until a ticket's records have reached a level; leads when nobody does.
    pub fn wait(&self, ticket: Ticket, durability: Durability) -> Result<()> {
        let mut state = self.lock();
        if durability == Durability::Synced {
            state.sync_wanted = state.sync_wanted.max(ticket.last_lsn + 1);
        }
        loop {
            if let Some(outcome) = state.outcome(ticket, durability) {
                return outcome;
            }
            state = self.lead_or_wait(state)?;
        }
    }

    /// What became of a ticket, if it is known; else the waker is called when it may be.
    pub fn poll(
        &self,
        ticket: Ticket,
        durability: Durability,
        waker: Option<&Waker>,
    ) -> Option<Result<()>> {
        let mut state = self.lock();
        let outcome = state.outcome(ticket, durability);
        if outcome.is_none() {
            if durability == Durability::Synced {
                state.sync_wanted = state.sync_wanted.max(ticket.last_lsn + 1);
            }
            if let Some(waker) = waker
                && !state.wakers.iter().any(|known| known.will_wake(waker))
            {
                state.wakers.push(waker.clone());
            }
        }
        outcome
    }

    /// Writes what is queued, and syncs what somebody waits for or what lags too long.
    pub fn flush(&self) -> Result<()> {
        let now = self.env.monotonic_ms();
        let mut state = self.lock();
        let lags = state.unsynced_since_ms.is_some_and(|since| now >= since + self.max_lag_ms);
        if lags {
            state.sync_wanted = state.sync_wanted.max(state.written_to);
        }
        let target = state.next_lsn;
        while state.written_to < target || state.sync_wanted > state.synced_to {
            if state.closed || state.failure.is_some() {
                return Ok(());
            }
            // What came behind the group of another leader is still to be written.
            state = self.lead_or_wait(state)?;
            if !state.closed {
                state.check()?;
            }
        }
        Ok(())
    }

    /// When the oldest written record must be synced, by the monotonic clock.
    pub fn sync_due_ms(&self) -> Option<u64> {
        self.lock().unsynced_since_ms.map(|since| since + self.max_lag_ms)
    }

    /// Syncs everything that was submitted so far.
    pub fn sync_all(&self) -> Result<()> {
        let mut state = self.lock();
        let target = state.next_lsn;
        state.sync_wanted = state.sync_wanted.max(target);
        while state.synced_to < target || !state.pending.is_empty() {
            state.check()?;
            state = self.lead_or_wait(state)?;
        }
        state.check()
    }

    /// Runs an act with the writer in hand, while no group is in flight.
    pub fn with_writer<T>(&self, act: impl FnOnce(&mut Writer) -> Result<T>) -> Result<T> {
        let mut state = self.lock();
        let mut writer = loop {
            if state.closed {
                return Err(Error::Closed);
            }
            if let Some(writer) = state.writer.take() {
                break writer;
            }
            state = self.wait_for_wake(state)?;
        };
        drop(state);
        let result = act(&mut writer);
        self.lock().give_back(writer);
        self.wake.notify_all();
        result
    }

    /// Refuses all later calls with [`Error::Closed`], and frees the lock once no group is in
    /// flight; after a stall the leader frees it when it returns.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let wakers = std::mem::take(&mut state.wakers);
        let writer = state.writer.take();
        drop(state);
        wake(wakers);
        self.wake.notify_all();
        drop(writer);
    }

    /// Seals the active segment and begins the next one, unless it holds no entry and no change yet.
    pub fn rotate(&self) -> Result<()> {
        self.sync_all()?;
        let left = self.with_writer(|writer| Ok(writer.leave_segment()))?;
        left.map_err(|error| match error {
            CommitError::Refused(error) => error,
            CommitError::Failed(error) => {
                tracing::error!(%error, "the log failed and takes no more writes");
                let reason = describe(&error);
                self.lock().failure.get_or_insert_with(|| reason.clone());
                self.wake.notify_all();
                Error::Poisoned { reason }
            }
        })
    }

    /// The highest number up to which all records are synced.
    pub fn synced_lsn(&self) -> u64 {
        self.lock().synced_to.saturating_sub(1)
    }

    /// The highest number given so far.
    pub fn last_lsn(&self) -> u64 {
        self.lock().next_lsn.saturating_sub(1)
    }

    /// The bytes of the records that wait to be written.
    pub fn pending_bytes(&self) -> u64 {
        self.lock().pending_bytes
    }

    /// The highest number that was written; one that was refused is no place in the log.
    pub fn logged_lsn(&self) -> u64 {
        self.lock().logged_lsn
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lead_or_wait<'a>(&'a self, state: MutexGuard<'a, State>) -> Result<MutexGuard<'a, State>> {
        if state.writer.is_some() { Ok(self.lead(state)) } else { self.wait_for_wake(state) }
    }

    fn wait_for_wake<'a>(&'a self, state: MutexGuard<'a, State>) -> Result<MutexGuard<'a, State>> {
        let (state, timeout) = self
            .wake
            .wait_timeout(state, self.stall_deadline)
            .unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() && state.writer.is_none() {
            let waited_ms = u64::try_from(self.stall_deadline.as_millis()).unwrap_or(u64::MAX);
            return Err(Error::Stalled { waited_ms });
        }
        Ok(state)
    }

    /// Writes one group. The caller has seen that the writer is there.
    fn lead<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let Some(mut writer) = state.writer.take() else { return state };
        let (group, bytes) = state.take_group(self.group_bytes_max);
        let taken_to = state.pending.first().map_or(state.next_lsn, |pending| pending.lsn);
        let sync = state.sync_wanted > state.synced_to
            || state.unsynced_bytes + bytes > UNSYNCED_BYTES_MAX;
        drop(state);
        let mut leader = Leader { commit: self, finished: false };
        let fates = self.write(&mut writer, group, bytes, sync);
        let now = self.env.monotonic_ms();
        let mut state = self.lock();
        leader.finished = true;
        state.give_back(writer);
        state.settle(fates, taken_to, sync, now);
        let wakers = std::mem::take(&mut state.wakers);
        let failed = state.failure.is_some();
        // What waits behind a failure is never written.
        let abandoned = if failed { std::mem::take(&mut state.pending) } else { Vec::new() };
        if failed {
            state.pending_bytes = 0;
        }
        drop(state);
        self.refuse(&abandoned);
        self.wake.notify_all();
        // A waker is somebody else's code, so it is called without the lock.
        wake(wakers);
        self.lock()
    }
}

impl Commit {
    /// Writes a group and tells the observer what became of it. Of a group that is refused as a
    /// whole, the changes of what is there are tried again without the new entries.
    fn write(&self, writer: &mut Writer, group: Vec<Pending>, bytes: u64, sync: bool) -> Fates {
        let mut fates = Fates::default();
        let Some(refusal) = self.try_write(writer, &group, (bytes, sync), &mut fates) else {
            return fates;
        };
        let mut changes = Vec::new();
        for unit in units(group) {
            if unit.iter().any(Pending::is_entry) {
                self.give_up(&unit, refusal.clone(), &mut fates);
            } else {
                changes.push(unit);
            }
        }
        let whole = fates.refused.is_empty() && changes.len() <= 1;
        let mut refused = whole.then_some(refusal);
        for piece in pieces(changes) {
            if refused.is_none() && fates.failed.is_none() {
                let bytes = bytes_of(&piece);
                refused = self.try_write(writer, &piece, (bytes, sync), &mut fates);
                if refused.is_none() {
                    continue;
                }
            }
            match refused.clone() {
                Some(refusal) => self.give_up(&piece, refusal, &mut fates),
                None => self.refuse(&piece),
            }
        }
        fates
    }

    /// Writes records; answers why they were refused, if they were.
    fn try_write(
        &self,
        writer: &mut Writer,
        group: &[Pending],
        (bytes, sync): (u64, bool),
        fates: &mut Fates,
    ) -> Option<Refusal> {
        match writer.commit(group, sync) {
            Ok(committed) => {
                self.observer.committed(&committed);
                fates.bytes += bytes;
                fates.logged_lsn = group.last().map(|last| last.lsn).or(fates.logged_lsn);
                None
            }
            Err(CommitError::Refused(error)) => {
                tracing::warn!(%error, "a group was refused");
                Some(Refusal::of(error))
            }
            Err(CommitError::Failed(error)) => {
                tracing::error!(%error, "the log failed and takes no more writes");
                self.refuse(group);
                fates.failed = Some(error);
                None
            }
        }
    }

    /// Tells the observer and notes that records were refused.
    fn give_up(&self, records: &[Pending], refusal: Refusal, fates: &mut Fates) {
        self.refuse(records);
        if let (Some(first), Some(last)) = (records.first(), records.last()) {
            let range = Ticket { first_lsn: first.lsn, last_lsn: last.lsn };
            fates.refused.push((range, refusal));
        }
    }

    fn refuse(&self, records: &[Pending]) {
        if records.is_empty() {
            return;
        }
        let entries = records.iter().filter(|pending| pending.draft.kind == Kind::Entry).count();
        let keys: Vec<&str> = records.iter().filter_map(Pending::key).collect();
        self.observer.refused(&keys, entries);
    }
}

/// Notices a leader that panicked, so that nobody waits for it for ever.
struct Leader<'a> {
    commit: &'a Commit,
    finished: bool,
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        if !self.finished {
            let mut state = self.commit.lock();
            state.failure = Some("a thread panicked while it wrote".to_owned());
            let wakers = std::mem::take(&mut state.wakers);
            drop(state);
            self.commit.wake.notify_all();
            wake(wakers);
        }
    }
}

impl Pending {
    fn key(&self) -> Option<&str> {
        match &self.draft.note {
            super::Note::Entry { key, .. } => key.as_deref(),
            _ => None,
        }
    }
}

impl State {
    fn check(&self) -> Result<()> {
        if self.closed {
            return Err(Error::Closed);
        }
        match &self.failure {
            Some(reason) => Err(Error::Poisoned { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// The next group: whole batches up to the bound, and one at least. Queued records may be
    /// many more than a segment has room for.
    fn take_group(&mut self, bytes_max: u64) -> (Vec<Pending>, u64) {
        let (mut bytes, mut count, mut unit) = (0, 0, 0);
        for (index, pending) in self.pending.iter().enumerate() {
            unit += pending.draft.record_len();
            if pending.flags.more_of_batch {
                continue;
            }
            if count > 0 && (bytes + unit > bytes_max || index >= GROUP_RECORDS_MAX) {
                break;
            }
            (bytes, count, unit) = (bytes + unit, index + 1, 0);
        }
        let rest = self.pending.split_off(count);
        self.pending_bytes = self.pending_bytes.saturating_sub(bytes);
        (std::mem::replace(&mut self.pending, rest), bytes)
    }

    /// Takes the writer back from whoever led; a closed log lets it go, and the lock with it.
    fn give_back(&mut self, writer: Box<Writer>) {
        self.writer = (!self.closed).then_some(writer);
    }

    fn outcome(&self, ticket: Ticket, durability: Durability) -> Option<Result<()>> {
        let refused = self.refused.iter().find(|(range, _)| {
            range.first_lsn <= ticket.last_lsn && ticket.first_lsn <= range.last_lsn
        });
        if let Some((_, refusal)) = refused {
            return Some(Err(refusal.error()));
        }
        let reached = match durability {
            Durability::Synced => ticket.last_lsn < self.synced_to,
            Durability::Written => ticket.last_lsn < self.written_to,
            Durability::Queued => true,
        };
        if reached {
            return Some(Ok(()));
        }
        if self.closed {
            return Some(Err(Error::Closed));
        }
        let reason = self.failure.clone()?;
        Some(Err(Error::Indeterminate { reason }))
    }

    /// Takes over what became of a group.
    fn settle(&mut self, fates: Fates, taken_to: u64, sync: bool, now: u64) {
        if let Some(error) = fates.failed {
            self.failure = Some(describe(&error));
            // No sync is due any more.
            self.unsynced_since_ms = None;
            return;
        }
        self.written_to = self.written_to.max(taken_to);
        self.logged_lsn = fates.logged_lsn.unwrap_or(self.logged_lsn);
        let all_refused = !fates.refused.is_empty() && fates.logged_lsn.is_none();
        fates.refused.into_iter().for_each(|(range, refusal)| self.note_refused(range, refusal));
        self.unsynced_bytes += fates.bytes;
        if sync && !all_refused {
            self.unsynced_bytes = 0;
        }
        if (sync && !all_refused) || (all_refused && self.unsynced_bytes == 0) {
            self.synced_to = self.written_to;
        }
        let since = self.unsynced_since_ms.unwrap_or(now);
        self.unsynced_since_ms = (self.unsynced_bytes > 0).then_some(since);
    }

    /// Groups that were refused in a row are one range, so that a full disk fills no memory.
    fn note_refused(&mut self, range: Ticket, refusal: Refusal) {
        match self.refused.last_mut() {
            Some((known, last)) if known.last_lsn + 1 == range.first_lsn => {
                known.last_lsn = range.last_lsn;
                *last = refusal;
            }
            _ => self.refused.push((range, refusal)),
        }
    }
}

impl Refusal {
    fn of(error: Error) -> Self {
        match error {
            Error::Io { act, path, source } => Self::Io { act, path, kind: source.kind() },
            Error::Full { what, bytes, bytes_max } => Self::Full { what, bytes, bytes_max },
            _ => Self::Io { act: "write", path: PathBuf::new(), kind: std::io::ErrorKind::Other },
        }
    }

    fn error(&self) -> Error {
        match self {
            Self::Io { act, path, kind } => Error::io(act, path, (*kind).into()),
            Self::Full { what, bytes, bytes_max } => {
                Error::Full { what, bytes: *bytes, bytes_max: *bytes_max }
            }
        }
    }
}

/// The batches of a group; a record of its own is one, too.
fn units(group: Vec<Pending>) -> Vec<Vec<Pending>> {
    let mut units: Vec<Vec<Pending>> = Vec::new();
    for pending in group {
        match units.last_mut() {
            Some(unit) if pending.flags.continues_batch => unit.push(pending),
            _ => units.push(vec![pending]),
        }
    }
    units
}

/// Batches joined as long as they stay small.
fn pieces(units: Vec<Vec<Pending>>) -> Vec<Vec<Pending>> {
    let mut pieces: Vec<Vec<Pending>> = Vec::new();
    for unit in units {
        match pieces.last_mut() {
            Some(piece) if bytes_of(piece) + bytes_of(&unit) <= PIECE_BYTES_MAX => {
                piece.extend(unit);
            }
            _ => pieces.push(unit),
        }
    }
    pieces
}

fn bytes_of(records: &[Pending]) -> u64 {
    records.iter().map(|pending| pending.draft.record_len()).sum()
}

fn wake(wakers: Vec<Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

/// An error with its causes on one line.
fn describe(error: &Error) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}
