//! The plan of what runs by itself: which job is due, when the next one is, and what became of them.
//!
//! Pure: it is told the time, what happened and what a job did. A job is due when something awaits
//! it, when its last run is an interval ago, and when a failure is far enough behind. A job that
//! nothing awaits is never due, so a settled store wakes nobody.

use serde::Serialize;

use crate::config::DlqConfig;
use crate::engine::Notice;
use crate::entry::{DAY_MS, Timestamp};

/// The jobs of all processes on a network would else begin together after a power failure, so the
/// first of them begin within this time, in milliseconds.
const START_SPREAD_MS: u64 = 60_000;
/// What becomes due at a time waits up to a tenth of its interval more, and at most so long.
const SPREAD_MAX_MS: u64 = 300_000;
const SPREAD_SHARE: u64 = 10;
/// The pause after a failure doubles from the interval of its job up to an hour; a job that is due
/// more seldom waits for its interval.
const PAUSE_MAX_MS: u64 = 3_600_000;
/// So many failures in a row are a state of the store, not an accident.
const PERSISTENT: u32 = 3;
/// So many panics are survived; one more, and what runs by itself ends.
const PANICS_MAX: u32 = 3;

/// Work that runs by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Job {
    /// Expires pending entries whose time ran out.
    Expire,
    /// Releases entries whose lease has ended.
    Release,
    /// Takes out entries while there are more than the limits allow.
    Overflow,
    /// Archives entries that are at their end for long.
    Archive,
    /// Deletes entries that are archived for long.
    Purge,
    /// Lets the summaries of evicted entries age.
    Summaries,
    /// Writes a checkpoint.
    Checkpoint,
}

/// What a job did since the service was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct JobStats {
    /// The job.
    pub job: Job,
    /// How often it ran without a failure. A sweep over many entries is many runs.
    pub runs: u64,
    /// Entries or other items that it worked on.
    pub items: u64,
    /// How often it failed.
    pub failures: u64,
    /// When it ended last, whether it failed or not.
    pub last_run: Option<Timestamp>,
    /// What it failed with last; none once it ran without a failure.
    pub last_error: Option<String>,
    /// When it runs next, as far as is known now; none while nothing awaits it.
    pub next_due: Option<Timestamp>,
}

/// The two clocks at one moment: what entries age by, and what waits are measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    pub trusted: Timestamp,
    pub monotonic_ms: u64,
}

/// What a run of a job did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ran {
    pub items: u64,
    /// When there is more to do if nothing changes until then; at once when it was cut short.
    pub next_at: Option<Timestamp>,
    /// There is no such work in this repository.
    pub never: bool,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    Run(Job),
    /// Wait until this monotonic time, or without an end.
    WaitUntil(Option<u64>),
}

#[derive(Debug)]
pub struct Agenda {
    tasks: [Task; Job::ALL.len()],
    config: DlqConfig,
    /// Decides by how much this process is later than others.
    random: u64,
    /// Changes are told. Else each job looks for itself at each of its turns.
    is_told: bool,
    panics: u32,
    /// The task that is looked at first, so that one with much to do does not hold up others.
    turn: usize,
}

/// From when on something awaits a job: whichever comes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Wanted {
    /// By the trusted time: entries age.
    at: Option<Timestamp>,
    /// By the monotonic clock: somebody waits.
    at_ms: Option<u64>,
}

#[derive(Debug, Default)]
struct Task {
    /// From when on something awaits it.
    wanted: Wanted,
    /// It is not due before this monotonic time.
    hold_ms: u64,
    /// When its last whole turn ended, in monotonic milliseconds.
    last_ms: Option<u64>,
    never: bool,
    failures_in_row: u32,
    runs: u64,
    items: u64,
    failures: u64,
    last_run: Option<Timestamp>,
    last_error: Option<String>,
}

impl Job {
    /// All jobs, in the order in which they take turns.
    pub const ALL: [Self; 7] = [
        Self::Expire,
        Self::Release,
        Self::Overflow,
        Self::Archive,
        Self::Purge,
        Self::Summaries,
        Self::Checkpoint,
    ];

    /// The time between two turns, in milliseconds; 0 when it never runs.
    pub(super) fn interval_ms(self, config: &DlqConfig) -> u64 {
        let seconds = match self {
            Self::Expire => config.expire_interval,
            Self::Release => config.release_interval,
            Self::Overflow => config.overflow_interval,
            Self::Archive => config.archive_interval,
            Self::Purge => config.purge_interval,
            Self::Summaries => config.summaries_interval,
            Self::Checkpoint => config.checkpoint_interval,
        };
        u64::from(seconds) * 1000
    }

    /// How often a failure is tried again before the next turn, and after how many seconds.
    const fn retries(self, config: &DlqConfig) -> (u32, u32) {
        match self {
            Self::Archive => (config.archive_dlq_max_retries, config.archive_dlq_retry_delay),
            Self::Purge => (config.purge_dlq_max_retries, config.purge_dlq_retry_delay),
            _ => (0, 0),
        }
    }

    /// The pause after so many failures in a row, in milliseconds.
    fn pause_ms(self, failures: u32, config: &DlqConfig) -> u64 {
        let interval_ms = self.interval_ms(config);
        let (retries, delay) = self.retries(config);
        if failures <= retries {
            return interval_ms.min(u64::from(delay) * 1000);
        }
        let doublings = (failures - retries - 1).min(16);
        (interval_ms << doublings).min(PAUSE_MAX_MS.max(interval_ms))
    }

    /// From when on what happened awaits it.
    fn wanted(self, notice: &Notice, config: &DlqConfig) -> Wanted {
        let days = |at: Option<Timestamp>, days: u32| at.map(|at| at.later(days_ms(days)));
        let lease_ms = u64::try_from(config.lease().as_millis()).unwrap_or(u64::MAX);
        let after = |ms: u64| Wanted { at: None, at_ms: Some(notice.at_ms.saturating_add(ms)) };
        // What a change makes necessary waits for others, up to an interval.
        let together = after(self.interval_ms(config));
        let never = Wanted::default();
        match self {
            Self::Expire => Wanted { at: notice.expires_at, at_ms: None },
            Self::Release => {
                if notice.is_leased {
                    after(lease_ms)
                } else {
                    never
                }
            }
            Self::Overflow => {
                if notice.is_stored {
                    after(0)
                } else {
                    never
                }
            }
            Self::Archive => {
                let resolved = days(notice.resolved_at, config.archive_older_than_days);
                let ended = days(notice.ended_at, config.retention_days);
                Wanted { at: earliest(resolved, ended), at_ms: None }
            }
            Self::Purge => {
                let at = days(notice.archived_at, config.purge_older_than_days);
                Wanted { at, at_ms: None }
            }
            Self::Summaries => {
                if notice.is_summarized {
                    together
                } else {
                    never
                }
            }
            Self::Checkpoint => together,
        }
    }
}

impl Wanted {
    /// Something awaits the job already: a time before all others.
    const NOW: Self = Self { at: Some(Timestamp(0)), at_ms: None };

    fn or(self, other: Self) -> Self {
        Self { at: earliest(self.at, other.at), at_ms: earliest(self.at_ms, other.at_ms) }
    }
}

impl Agenda {
    pub fn new(config: &DlqConfig) -> Self {
        Self {
            tasks: Default::default(),
            config: config.clone(),
            random: 0,
            is_told: false,
            panics: 0,
            turn: 0,
        }
    }

    /// Another repository is there, of which nothing is known yet.
    pub fn start(&mut self, random: u64, is_told: bool, now: Moment) {
        (self.random, self.is_told) = (random, is_told);
        let hold_ms = now.monotonic_ms.saturating_add(random % START_SPREAD_MS);
        for task in &mut self.tasks {
            (task.wanted, task.hold_ms, task.last_ms) = (Wanted::NOW, hold_ms, None);
            (task.never, task.failures_in_row) = (false, 0);
        }
    }

    /// Takes other settings, which may make anything due.
    pub fn configure(&mut self, config: &DlqConfig) {
        self.config = config.clone();
        for task in &mut self.tasks {
            (task.wanted, task.never) = (Wanted::NOW, false);
        }
    }

    /// Whether anything runs by itself.
    pub fn is_active(&self) -> bool {
        self.config.enabled && self.config.scheduler_enabled && !self.has_ended()
    }

    /// Whether too many jobs panicked.
    pub fn has_ended(&self) -> bool {
        self.panics > PANICS_MAX
    }

    pub fn panics(&self) -> u32 {
        self.panics
    }

    pub fn count_panic(&mut self) {
        self.panics = self.panics.saturating_add(1);
    }

    pub fn plan(&self, now: Moment) -> Plan {
        let jobs = Job::ALL.iter().cycle().skip(self.turn).take(Job::ALL.len());
        let due = |job: &&Job| self.due_ms(**job, now).is_some_and(|due| due <= now.monotonic_ms);
        match { jobs }.find(due) {
            Some(job) => Plan::Run(*job),
            None => Plan::WaitUntil(self.next_ms(now)),
        }
    }

    /// When the next job is due, in monotonic milliseconds.
    pub fn next_ms(&self, now: Moment) -> Option<u64> {
        Job::ALL.iter().filter_map(|job| self.due_ms(*job, now)).min()
    }

    /// A job begins. What happens from now on awaits its next run.
    pub fn begin(&mut self, job: Job, now: Moment) {
        self.turn = job as usize + 1;
        if let Some(task) = self.tasks.get_mut(job as usize) {
            (task.wanted, task.hold_ms) = (Wanted::default(), 0);
            task.last_ms = Some(now.monotonic_ms);
        }
    }

    /// A job did its part.
    pub fn end(&mut self, job: Job, ran: Ran, now: Moment) {
        let Some(task) = self.tasks.get_mut(job as usize) else { return };
        task.runs += 1;
        task.items += ran.items;
        (task.last_run, task.last_error) = (Some(now.trusted), None);
        (task.failures_in_row, task.never) = (0, ran.never);
        let goes_on = ran.next_at.is_some_and(|at| at <= now.trusted);
        task.last_ms = (!goes_on).then_some(now.monotonic_ms);
        let next = Wanted { at: ran.next_at, at_ms: None };
        task.wanted = task.wanted.or(if goes_on { Wanted::NOW } else { next });
    }

    /// A job failed; it is tried again after a pause.
    pub fn fail(&mut self, job: Job, error: String, now: Moment) {
        let Some(task) = self.tasks.get_mut(job as usize) else { return };
        task.failures += 1;
        task.failures_in_row = task.failures_in_row.saturating_add(1);
        (task.last_run, task.last_error) = (Some(now.trusted), Some(error));
        let pause_ms = job.pause_ms(task.failures_in_row, &self.config);
        task.hold_ms = now.monotonic_ms.saturating_add(pause_ms);
        (task.wanted, task.last_ms) = (Wanted::NOW, None);
    }

    /// Whether a job failed so often in a row that somebody should know.
    pub fn fails(&self) -> bool {
        self.has_ended() || self.tasks.iter().any(|task| task.failures_in_row >= PERSISTENT)
    }

    /// Hears of changes. True when a job may be due earlier than before.
    pub fn hear(&mut self, notice: &Notice) -> bool {
        let mut is_earlier = false;
        for (job, task) in Job::ALL.iter().zip(&mut self.tasks) {
            if task.never {
                continue;
            }
            let wanted = task.wanted.or(job.wanted(notice, &self.config));
            is_earlier |= wanted != task.wanted;
            task.wanted = wanted;
        }
        is_earlier
    }

    /// What the jobs did, and when they run next.
    pub fn stats(&self, now: Moment) -> Vec<JobStats> {
        let jobs = Job::ALL.iter().zip(&self.tasks).map(|(job, task)| JobStats {
            job: *job,
            runs: task.runs,
            items: task.items,
            failures: task.failures,
            last_run: task.last_run,
            last_error: task.last_error.clone(),
            next_due: self
                .due_ms(*job, now)
                .map(|due_ms| now.trusted.later(due_ms.saturating_sub(now.monotonic_ms))),
        });
        jobs.collect()
    }

    /// When a job is due, in monotonic milliseconds; none while nothing awaits it.
    fn due_ms(&self, job: Job, now: Moment) -> Option<u64> {
        let task = self.tasks.get(job as usize)?;
        let interval_ms = job.interval_ms(&self.config);
        if interval_ms == 0 || task.never || !self.is_active() {
            return None;
        }
        let wanted = if self.is_told { task.wanted } else { Wanted::NOW };
        let spread_ms = self.random % (interval_ms / SPREAD_SHARE).clamp(1, SPREAD_MAX_MS);
        let aged_ms = wanted.at.map(|at| match at.later(spread_ms).0 {
            past if past <= now.trusted.0 => 0,
            due => now.monotonic_ms.saturating_add(due - now.trusted.0),
        });
        let waited_ms = wanted.at_ms.map(|at_ms| at_ms.saturating_add(spread_ms));
        let wanted_ms = earliest(aged_ms, waited_ms)?;
        let turn_ms = task.last_ms.map_or(0, |last_ms| last_ms.saturating_add(interval_ms));
        Some(wanted_ms.max(task.hold_ms).max(turn_ms))
    }
}

fn earliest<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    one.into_iter().chain(other).min()
}

pub fn days_ms(days: u32) -> u64 {
    u64::from(days) * DAY_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = DAY_MS;
    const START: u64 = 1_700_000_000_000;

    fn at(monotonic_ms: u64) -> Moment {
        Moment { trusted: Timestamp(START + monotonic_ms), monotonic_ms }
    }

    /// An agenda whose jobs have all looked, and found nothing, at the start of time.
    fn settled(config: &DlqConfig) -> Agenda {
        let mut agenda = Agenda::new(config);
        agenda.start(0, true, at(0));
        for _ in Job::ALL {
            let Plan::Run(job) = agenda.plan(at(0)) else { panic!("{agenda:?}") };
            agenda.begin(job, at(0));
            agenda.end(job, Ran::default(), at(0));
        }
        assert_eq!(agenda.plan(at(0)), Plan::WaitUntil(None));
        agenda
    }

    #[test]
    fn jobs_stand_where_their_numbers_say() {
        for (number, job) in Job::ALL.iter().enumerate() {
            assert_eq!(*job as usize, number);
        }
    }

    #[test]
    fn what_happens_decides_when_a_job_is_due() {
        let notice = Notice::default();
        let stored = Notice { at_ms: 5, is_stored: true, ..notice };
        let changed = Notice { at_ms: 5, is_changed: true, ..notice };
        let day = Some(at(DAY).trusted);
        let checkpoint = (Job::Checkpoint, 300_005);
        for (notice, wanted) in [
            (stored, vec![(Job::Overflow, 60_000), checkpoint]),
            (changed, vec![checkpoint]),
            (
                Notice { expires_at: day, ..stored },
                vec![(Job::Expire, DAY), (Job::Overflow, 60_000), checkpoint],
            ),
            (
                Notice { expires_at: Some(Timestamp(0)), ..changed },
                vec![(Job::Expire, 60_000), checkpoint],
            ),
            (Notice { is_leased: true, ..changed }, vec![(Job::Release, 1_800_005), checkpoint]),
            (Notice { resolved_at: day, ..changed }, vec![(Job::Archive, 31 * DAY), checkpoint]),
            (
                Notice { ended_at: Some(Timestamp(0)), ..changed },
                vec![(Job::Archive, DAY), checkpoint],
            ),
            (Notice { archived_at: day, ..changed }, vec![(Job::Purge, 91 * DAY), checkpoint]),
            (
                Notice { at_ms: 5, is_summarized: true, ..notice },
                vec![(Job::Summaries, DAY + 5), checkpoint],
            ),
        ] {
            let mut agenda = settled(&DlqConfig::default());
            assert!(agenda.hear(&notice));
            assert!(!agenda.hear(&notice), "it is known already");
            let due = agenda.stats(at(5)).into_iter();
            let due = due.filter_map(|stats| Some((stats.job, stats.next_due?.0 - START)));
            assert_eq!(due.collect::<Vec<_>>(), wanted, "{notice:?}");
            let first = wanted.iter().map(|(_, due_ms)| *due_ms).min();
            assert_eq!(agenda.next_ms(at(5)), first);
        }
    }

    #[test]
    fn a_job_with_more_to_do_goes_on_at_once_and_holds_up_nobody() {
        let mut agenda = Agenda::new(&DlqConfig::default());
        agenda.start(0, true, at(0));
        let mut order = Vec::new();
        for _ in 0..8 {
            let Plan::Run(job) = agenda.plan(at(0)) else { panic!("{agenda:?}") };
            agenda.begin(job, at(0));
            let more = (job == Job::Expire).then_some(at(0).trusted);
            agenda.end(job, Ran { items: 1, next_at: more, never: false }, at(0));
            order.push(job);
        }
        assert_eq!(order[..7], Job::ALL);
        assert_eq!(order[7], Job::Expire);
        assert_eq!(agenda.plan(at(0)), Plan::Run(Job::Expire));
    }

    #[test]
    fn failures_are_tried_again_later_and_later() {
        let config = DlqConfig::default();
        let config = &config;
        let pause = |job: Job| move |failures| job.pause_ms(failures, config) / 1000;
        let pauses = |job: Job| (1..=8).map(pause(job));
        let archive = [300, 300, 86_400, 86_400, 86_400, 86_400, 86_400, 86_400];
        assert!(pauses(Job::Archive).eq(archive));
        assert!(pauses(Job::Purge).take(3).eq([600, 604_800, 604_800]));
        assert!(pauses(Job::Expire).eq([60, 120, 240, 480, 960, 1920, 3600, 3600]));
        assert_eq!(Job::Checkpoint.pause_ms(u32::MAX, config), PAUSE_MAX_MS);
    }

    #[test]
    fn what_happens_while_a_job_runs_awaits_its_next_turn() {
        let mut agenda = settled(&DlqConfig::default());
        agenda.begin(Job::Expire, at(100_000));
        agenda.hear(&Notice {
            is_stored: true,
            expires_at: Some(Timestamp(0)),
            ..Notice::default()
        });
        agenda.end(Job::Expire, Ran::default(), at(100_000));
        assert_eq!(agenda.due_ms(Job::Expire, at(100_000)), Some(160_000));
    }

    #[test]
    fn nobody_is_woken_for_what_never_runs() {
        let mut config = DlqConfig { checkpoint_interval: 0, ..DlqConfig::default() };
        let mut agenda = settled(&DlqConfig::default());
        agenda.configure(&config);
        assert_eq!(agenda.due_ms(Job::Checkpoint, at(0)), None);
        assert_eq!(agenda.due_ms(Job::Overflow, at(0)), Some(60_000));
        agenda.begin(Job::Overflow, at(60_000));
        agenda.end(Job::Overflow, Ran { never: true, ..Ran::default() }, at(60_000));
        agenda.hear(&Notice { is_stored: true, ..Notice::default() });
        assert_eq!(agenda.due_ms(Job::Overflow, at(60_000)), None);
        config.scheduler_enabled = false;
        agenda.configure(&config);
        assert_eq!(agenda.next_ms(at(DAY)), None);
    }

    #[test]
    fn processes_do_not_begin_together() {
        let due = |random: u64| {
            let mut agenda = Agenda::new(&DlqConfig::default());
            agenda.start(random, true, at(0));
            let first = agenda.next_ms(at(0));
            for job in Job::ALL {
                agenda.begin(job, at(0));
                agenda.end(job, Ran::default(), at(0));
            }
            agenda.hear(&Notice {
                is_stored: true,
                expires_at: Some(at(DAY).trusted),
                ..Notice::default()
            });
            (first, agenda.due_ms(Job::Expire, at(0)))
        };
        assert_eq!(due(7), (Some(7), Some(DAY + 7)));
        assert_eq!(due(5999), (Some(5999), Some(DAY + 5999)));
        assert_eq!(due(6000), (Some(6000), Some(DAY)), "a tenth of the interval at most");
        assert_eq!(due(60_000).0, Some(0));
    }
}
