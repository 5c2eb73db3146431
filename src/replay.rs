//! Handlers: who replays the entries of a domain, what they are given and what they answer.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::entry::Entry;
use crate::repository::{FailedOperationRepository, Leased};

/// Replays the entries of a domain.
///
/// A handler may be called again for an entry that it already delivered: when the process or the
/// power ended between its delivery and the record of it. So it must be idempotent, or pass on
/// [`ReplayAttempt::key`] to somebody who is.
pub trait ReplayHandler: Send + Sync {
    /// Whether the entry may be replayed now. Asked before anything is leased; no attempt is
    /// spent by a no.
    fn can_replay(&self, entry: &Entry) -> Verdict {
        let _ = entry;
        Verdict::Yes
    }

    /// Whether anybody still wants the operation. If not, the entry is resolved without a run.
    fn still_wanted(&self, entry: &Entry) -> bool {
        let _ = entry;
        true
    }

    /// Runs the operation again. A panic counts as a failure.
    fn replay(&self, attempt: &ReplayAttempt<'_>) -> Outcome;
}

/// The most characters of a panic's message that are kept.
const PANIC_CHARS_MAX: usize = 200;

/// Asks a handler for something, outside of all locks. If it panics, the error is a note that
/// says so.
pub(crate) fn contain<T>(ask: impl FnOnce() -> T) -> Result<T, String> {
    contain_of("handler", ask)
}

/// As [`contain`], of something else that the host brings.
pub(crate) fn contain_of<T>(what: &str, ask: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(ask)).map_err(|panic| {
        let text: String =
            panic_text(&*panic).unwrap_or("no message").chars().take(PANIC_CHARS_MAX).collect();
        format!("{what} panicked: {text}")
    })
}

/// What a panic says, if it is a text.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> Option<&str> {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
}

/// Whether an entry may be replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Yes,
    /// Not now, for this reason.
    No(String),
}

/// What became of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It was delivered.
    Success {
        /// A note for the entry, or empty.
        note: String,
    },
    /// It failed; the attempt is spent.
    Failure {
        /// What went wrong.
        note: String,
    },
    /// The other side asked to come back later; the attempt is not spent.
    Throttled {
        /// How much later, if it said so.
        retry_after: Option<Duration>,
        /// A note for the entry, or empty.
        note: String,
    },
}

impl Outcome {
    /// It was delivered.
    pub const fn success() -> Self {
        Self::Success { note: String::new() }
    }

    /// It failed.
    pub fn failure(note: impl Into<String>) -> Self {
        Self::Failure { note: note.into() }
    }

    /// The other side asked to come back later.
    pub const fn throttled(retry_after: Option<Duration>) -> Self {
        Self::Throttled { retry_after, note: String::new() }
    }
}

/// One attempt, as its handler sees it.
pub struct ReplayAttempt<'a> {
    entry: &'a Entry,
    leased: Leased,
    lease: Duration,
    repository: &'a dyn FailedOperationRepository,
    /// Keeps the leases of those who wait for this one.
    renew: Option<&'a (dyn Fn() + Sync)>,
}

impl<'a> ReplayAttempt<'a> {
    pub(crate) const fn new(
        entry: &'a Entry,
        leased: Leased,
        lease: Duration,
        repository: &'a dyn FailedOperationRepository,
        renew: Option<&'a (dyn Fn() + Sync)>,
    ) -> Self {
        Self { entry, leased, lease, repository, renew }
    }

    /// The entry.
    pub const fn entry(&self) -> &Entry {
        self.entry
    }

    /// What names the operation for good: the same in every attempt, after a restart and on
    /// other stores. Pass it on as an idempotency key.
    pub fn key(&self) -> &str {
        &self.entry.key
    }

    /// Which attempt this is. Counts from 1 and never restarts, not even by a redrive.
    pub fn number(&self) -> u32 {
        self.entry.attempts.last().map_or(1, |attempt| attempt.number)
    }

    /// Keeps the lease for its whole length from now on. False when it has already ended, so that
    /// the outcome will not be taken.
    pub fn heartbeat(&self) -> bool {
        if let Some(renew) = self.renew {
            renew();
        }
        self.repository.extend_lease(self.leased, self.lease)
    }
}

impl fmt::Debug for ReplayAttempt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayAttempt")
            .field("entry", &self.entry)
            .field("leased", &self.leased)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

/// The handlers, by domain.
#[derive(Default)]
pub struct Handlers {
    /// Guards the handlers; never held while one runs.
    by_domain: RwLock<BTreeMap<String, Arc<dyn ReplayHandler>>>,
    /// Guards the handler of all other domains.
    fallback: RwLock<Option<Arc<dyn ReplayHandler>>>,
}

impl Handlers {
    /// Registers the handler of a domain; the one before, if any, is replaced.
    pub fn register(&self, domain: &str, handler: Arc<dyn ReplayHandler>) {
        let domain = crate::entry::normalize_domain(domain).unwrap_or_else(|| domain.to_owned());
        self.by_domain.write().unwrap_or_else(PoisonError::into_inner).insert(domain, handler);
    }

    /// Registers the handler of all domains that have none of their own.
    pub fn register_default(&self, handler: Arc<dyn ReplayHandler>) {
        *self.fallback.write().unwrap_or_else(PoisonError::into_inner) = Some(handler);
    }

    /// The handler of a domain.
    pub fn get(&self, domain: &str) -> Option<Arc<dyn ReplayHandler>> {
        let by_domain = self.by_domain.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(handler) = by_domain.get(domain) {
            return Some(Arc::clone(handler));
        }
        drop(by_domain);
        self.fallback.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by_domain = self.by_domain.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("Handlers").field("domains", &by_domain.keys()).finish_non_exhaustive()
    }
}
