//! What runs by itself: sweeps and the upkeep of the store, in a thread that sleeps until something
//! is due, or in steps of the host's.
//!
//! 1. A repository is there: the agenda knows nothing of it, so each job looks once.
//! 2. The agenda says which job is due, see `agenda`; it does a bounded part of its work, see
//!    `work`, and says when there is more.
//! 3. When none is due the thread sleeps, for good if nothing awaits it. A change that makes a job
//!    due earlier wakes it.
//!
//! The service decides what happens to entries and when; the threads of the engine do what the
//! disk needs at once. A panic of a job is contained; too many of them end the schedule.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;

use super::health::{Trouble, chain};
use super::{DlqEvent, DlqService, Inner};
use crate::config::DlqConfig;
use crate::engine::{Notice, NoticeTaker};
use crate::error::{Error, Result};
use crate::replay::panic_text;
use crate::repository::FailedOperationRepository;

mod agenda;
mod work;

/// Nobody is told when the wall clock is set, so the thread looks so often while anything is due
/// at some time.
const SLEEP_MAX: Duration = Duration::from_hours(1);

pub use agenda::{Job, JobStats};

use agenda::{Agenda, Moment, Plan, Ran};

type Repository = Arc<dyn FailedOperationRepository>;

/// What runs by itself, and what it did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ScheduleStats {
    /// Whether anything runs by itself: the settings say so, and it did not end by panics.
    pub active: bool,
    /// Whether a thread of the service does it; else the host, by [`DlqService::step`].
    pub worker_alive: bool,
    /// Panics of jobs.
    pub panics: u32,
    /// The jobs.
    pub jobs: Vec<JobStats>,
}

#[derive(Debug)]
pub(super) struct Schedule {
    board: Arc<Board>,
    /// Guards the thread.
    worker: Mutex<Option<JoinHandle<()>>>,
    threaded: bool,
}

/// What the thread shares with those who tell it of changes.
#[derive(Debug)]
struct Board {
    /// Guards the agenda and who works on it; never held while a job runs.
    state: Mutex<State>,
    /// Told when the thread should look again, and when it ended.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    agenda: Agenda,
    /// The repository that the agenda is about.
    repository: Option<Weak<dyn FailedOperationRepository>>,
    /// Since when and until when the thread sleeps, in monotonic milliseconds.
    sleep: Option<(Moment, Option<u64>)>,
    /// How often something may have become due earlier than before.
    heard: u64,
    running: bool,
    closed: bool,
}

impl NoticeTaker for Board {
    fn take_notice(&self, notice: &Notice) {
        let mut state = self.state();
        if !state.agenda.hear(notice) {
            return;
        }
        state.heard += 1;
        if state.sleeps_too_long() {
            drop(state);
            self.changed.notify_all();
        }
    }
}

impl Board {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether a job is due before the thread would wake up.
    fn sleeps_too_long(&self) -> bool {
        let Some((since, until_ms)) = self.sleep else { return false };
        let next_ms = self.agenda.next_ms(since);
        next_ms.is_some_and(|next_ms| until_ms.is_none_or(|until_ms| next_ms < until_ms))
    }

    fn is_about(&self, repository: &Repository) -> bool {
        let same = |known: &Weak<dyn FailedOperationRepository>| {
            std::ptr::addr_eq(known.as_ptr(), Arc::as_ptr(repository))
        };
        self.repository.as_ref().is_some_and(same)
    }
}

impl Schedule {
    pub fn new(threaded: bool, config: &DlqConfig) -> Self {
        let state = State {
            agenda: Agenda::new(config),
            repository: None,
            sleep: None,
            heard: 0,
            running: false,
            closed: false,
        };
        let board = Board { state: Mutex::new(state), changed: Condvar::new() };
        Self { board: Arc::new(board), worker: Mutex::default(), threaded }
    }
}

impl DlqService {
    /// What runs by itself, what it did since the service was made, and when it does more.
    pub fn schedule(&self) -> ScheduleStats {
        let now = self.inner.moment();
        let state = self.inner.schedule.board.state();
        ScheduleStats {
            active: state.agenda.is_active() && !state.closed,
            worker_alive: state.running,
            panics: state.agenda.panics(),
            jobs: state.agenda.stats(now),
        }
    }
}

impl Inner {
    /// A repository is in use: what runs by itself is about this one from now on.
    pub fn schedule_for(&self, repository: &Repository) {
        let board = &self.schedule.board;
        if board.state().is_about(repository) {
            return;
        }
        let board_dyn: Arc<dyn NoticeTaker> = Arc::clone(board) as Arc<dyn NoticeTaker>;
        let is_told = repository.tell_changes(Arc::downgrade(&board_dyn));
        let (random, now) = (repository.random(), self.moment());
        let mut state = board.state();
        if state.is_about(repository) {
            return;
        }
        state.repository = Some(Arc::downgrade(repository));
        state.agenda.start(random, is_told, now);
        drop(state);
        self.settle_schedule();
    }

    /// Takes the settings as they are now.
    pub fn reschedule(&self) {
        let config = self.config();
        let mut state = self.schedule.board.state();
        state.agenda.configure(&config);
        state.heard += 1;
        drop(state);
        self.settle_schedule();
    }

    /// Lets the thread look again; starts it when there is something for it.
    fn settle_schedule(&self) {
        let board = &self.schedule.board;
        let mut worker = self.schedule.worker.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = board.state();
        let is_wanted = self.schedule.threaded
            && state.repository.is_some()
            && state.agenda.is_active()
            && !state.closed;
        if !is_wanted || state.running {
            drop(state);
            board.changed.notify_all();
            return;
        }
        let Some(inner) = self.me.upgrade() else { return };
        state.running = true;
        drop(state);
        let builder = std::thread::Builder::new().name("deadletter-schedule".to_owned());
        match builder.spawn(move || inner.run_schedule()) {
            Ok(handle) => *worker = Some(handle),
            Err(error) => {
                tracing::error!(%error, "the thread of the schedule does not start");
                board.state().running = false;
            }
        }
    }

    fn run_schedule(&self) {
        let board = &self.schedule.board;
        let _running = Running(board);
        loop {
            if let Some(repository) = self.access.current() {
                self.tell_of_jumps(&*repository);
            }
            let heard = board.state().heard;
            let now = self.moment();
            let mut state = board.state();
            if state.closed || state.agenda.has_ended() {
                return;
            }
            // What came meanwhile may be due by a clock that was not seen yet.
            if state.heard != heard {
                continue;
            }
            match state.agenda.plan(now) {
                Plan::Run(job) => {
                    state.agenda.begin(job, now);
                    drop(state);
                    // A store that takes nothing more is let go and opened again by this.
                    self.run_job(job, || self.open());
                }
                Plan::WaitUntil(until_ms) => self.sleep_until(state, now, until_ms),
            }
        }
    }

    fn sleep_until(&self, mut state: MutexGuard<'_, State>, now: Moment, until_ms: Option<u64>) {
        let changed = &self.schedule.board.changed;
        state.sleep = Some((now, until_ms));
        let mut state = match until_ms {
            None => changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(until_ms) => {
                let wait = Duration::from_millis(until_ms.saturating_sub(now.monotonic_ms).max(1));
                let wait = wait.min(SLEEP_MAX);
                changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
            }
        };
        state.sleep = None;
    }

    /// Does a part of each job that is due, for a host that has no threads.
    pub fn step_schedule(&self, repository: &Repository) {
        self.schedule_for(repository);
        if self.schedule.threaded {
            return;
        }
        let mut done = Vec::with_capacity(Job::ALL.len());
        loop {
            let now = self.moment();
            let mut state = self.schedule.board.state();
            let Plan::Run(job) = state.agenda.plan(now) else { return };
            // They take turns, so the others had theirs.
            if state.closed || done.contains(&job) {
                return;
            }
            state.agenda.begin(job, now);
            drop(state);
            done.push(job);
            self.run_job(job, || Ok(Arc::clone(repository)));
        }
    }

    fn run_job(&self, job: Job, repository: impl FnOnce() -> Result<Repository>) {
        let config = self.config();
        let run = || job.run(&*repository()?, &config);
        let ran = catch_unwind(AssertUnwindSafe(run));
        let (ran, has_panicked) = match ran {
            Ok(ran) => (ran, false),
            Err(panic) => (Err(panicked(&*panic)), true),
        };
        let now = self.moment();
        let mut state = self.schedule.board.state();
        if has_panicked {
            state.agenda.count_panic();
        }
        let failed = match &ran {
            Ok(ran) => {
                state.agenda.end(job, *ran, now);
                None
            }
            // A store that is only read, or is closed meanwhile, has no such work.
            Err(Error::ReadOnly | Error::Closed) => {
                state.agenda.end(job, Ran { never: true, ..Ran::default() }, now);
                None
            }
            Err(error) => {
                state.agenda.fail(job, chain(error), now);
                Some(error)
            }
        };
        let is_persistent = state.agenda.fails();
        drop(state);
        match failed {
            Some(error) => {
                tracing::warn!(?job, error = chain(error), "what runs by itself failed");
                if is_persistent {
                    self.note(Trouble::Schedule, Some(error));
                }
            }
            None if !is_persistent => self.note(Trouble::Schedule, None),
            None => {}
        }
        if let (Ok(Ran { items: 1.., .. }), Some(operation)) = (&ran, job.operation()) {
            let count = ran.map_or(0, |ran| ran.items);
            let actor_id = work::ACTOR.to_owned();
            self.tell_now(DlqEvent::DlqMaintenance { operation, count, actor_id });
        }
    }

    /// Lets no job begin any more, and waits for the one that runs, at most this long.
    pub fn close_schedule(&self, timeout: Duration) {
        let board = &self.schedule.board;
        board.state().closed = true;
        board.changed.notify_all();
        let worker = self.schedule.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(worker) = worker else { return };
        // A listener closed the service in the thread itself, which ends when it is done here.
        if worker.thread().id() == std::thread::current().id() {
            return;
        }
        let running = |state: &mut State| state.running;
        let waited = board.changed.wait_timeout_while(board.state(), timeout, running);
        let is_running = waited.unwrap_or_else(PoisonError::into_inner).0.running;
        if is_running {
            // It waits for the disk, and ends by itself when the disk answers.
            tracing::error!("the thread of the schedule did not end in time");
        } else if worker.join().is_err() {
            tracing::error!("the thread of the schedule ended by a panic");
        }
    }

    /// Both clocks now.
    fn moment(&self) -> Moment {
        let trusted = self.access.trusted_now();
        Moment { trusted, monotonic_ms: self.access.monotonic_ms() }
    }
}

/// What a job's panic says.
fn panicked(panic: &(dyn std::any::Any + Send)) -> Error {
    Error::Panicked { reason: panic_text(panic).unwrap_or("no reason was given").to_owned() }
}

/// Says that the thread ended, however it did.
struct Running<'a>(&'a Board);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.state().running = false;
        self.0.changed.notify_all();
    }
}
