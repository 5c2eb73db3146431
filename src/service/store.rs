//! Taking failures in: at once, through the outbox, into a fallback file. Whatever happens, the
//! caller hears where the failure is, or gets it back.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::caller::{CallerContext, LateCaller};
use super::health::{Trouble, chain};
use super::{AuditRecord, DlqEntryResult, DlqEvent, DlqService, Inner};
use crate::config::Durability;
use crate::engine::{Spilled, StoreError, Stored};
use crate::entry::{DOMAIN_CHARS_MAX, NewFailure, normalize_domain};
use crate::error::Error;
use crate::repository::FailedOperationRepository;

/// The most characters of a rejected domain that an event shows.
const PREVIEW_CHARS_MAX: usize = 32;
/// After the alert the domains are counted again once in so many stores.
const DOMAIN_COUNT_STORES: u32 = 64;

/// Whether a store call waits until the entry is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreMode {
    /// It does.
    Sync,
    /// It returns at once, with a receipt.
    Async,
}

/// How a failure is stored.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
#[must_use]
pub struct StoreOptions<'a> {
    /// Whether the call waits; `None` follows `outbox_enabled`.
    pub mode: Option<StoreMode>,
    /// Who keeps the audit records.
    pub caller: Option<&'a CallerContext>,
    /// The level to reach; `None` means that of the store's settings, else synced.
    pub durability: Option<Durability>,
}

impl<'a> StoreOptions<'a> {
    /// Says whether the call waits.
    pub fn mode(mut self, mode: StoreMode) -> Self {
        self.mode = Some(mode);
        self
    }

    /// Says who keeps the audit records.
    pub fn caller(mut self, caller: &'a CallerContext) -> Self {
        self.caller = Some(caller);
        self
    }

    /// Says which level to reach.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }
}

/// The domains that were stored, to notice when they become too many.
#[derive(Debug, Default)]
pub(super) struct Domains {
    /// Guards the names; never held while the repository counts.
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    names: HashSet<String>,
    alerted: bool,
    stores: u32,
}

/// Why a store did not happen.
pub(super) enum Refused {
    /// The failure itself is not acceptable.
    BadInput(Error),
    /// A limit is reached.
    NoRoom(Error),
    /// The store cannot take it.
    Unable(Error),
    /// The store panicked over it.
    Panicked,
}

impl Refused {
    fn of(error: Error) -> Self {
        match error {
            Error::Invalid { .. } | Error::TooLarge { .. } => Self::BadInput(error),
            // It would only come back from a fallback file and be over the limit again.
            Error::TooMany { .. } => Self::NoRoom(error),
            other => Self::Unable(other),
        }
    }

    pub fn reason(&self) -> String {
        match self {
            Self::BadInput(error) | Self::NoRoom(error) | Self::Unable(error) => chain(error),
            Self::Panicked => "the store panicked over this failure".to_owned(),
        }
    }
}

impl DlqService {
    /// Stores a failure, as `outbox_enabled` says at once or through the outbox. Never fails and
    /// never panics; what was reached is in the result:
    ///
    /// - stored: `success`, the entry's id, and the level that is now true of it;
    /// - queued: `success` without an id, and a receipt;
    /// - in a fallback file, because the store cannot take it: the file's path, and why;
    /// - nowhere, because a limit of [`Bounds`](crate::Bounds) is reached, or no fallback file can
    ///   be written either: why, and the failure itself.
    ///
    /// An entry that says nothing of its own expires after `expiry_hours`, and may be replayed as
    /// often as `replay_domain_max_retries`, else `max_replay_attempts` allows.
    pub fn store_failure(&self, failure: NewFailure) -> DlqEntryResult {
        self.store_failure_with(failure, StoreOptions::default())
    }

    /// As [`store_failure`](Self::store_failure), with options.
    pub fn store_failure_with(
        &self,
        failure: NewFailure,
        options: StoreOptions<'_>,
    ) -> DlqEntryResult {
        let mut failure = Box::new(failure);
        let inner = &self.inner;
        if inner.is_closed() {
            return DlqEntryResult::given_back(Error::Closed.to_string(), failure);
        }
        let config = inner.config();
        if !config.enabled {
            return DlqEntryResult::given_back("disabled", failure);
        }
        let caller = options.caller.map(CallerContext::late).or_else(|| self.caller.clone());
        if let Err(error) = failure.check() {
            return inner.give_back(&Refused::BadInput(error).reason(), failure, caller.as_ref());
        }
        config.complete(&mut failure);
        inner.tell_of_rejected_domain(&failure.domain, caller.as_ref());
        let durability = options.durability.unwrap_or_else(|| inner.access.durability());
        let by_setting = if config.outbox_enabled { StoreMode::Async } else { StoreMode::Sync };
        match options.mode.unwrap_or(by_setting) {
            StoreMode::Sync => inner.store_now(failure, durability, caller.as_ref()),
            StoreMode::Async => inner.queue(failure, durability, caller),
        }
    }
}

/// Why a text is no domain, if it is none.
fn rejection(domain: &str) -> Option<&'static str> {
    if normalize_domain(domain).is_some() {
        None
    } else if domain.trim().is_empty() {
        Some("empty")
    } else if domain.trim().chars().count() > DOMAIN_CHARS_MAX {
        Some("too_long")
    } else {
        Some("invalid_charset")
    }
}

impl Inner {
    fn tell_of_rejected_domain(&self, domain: &str, caller: Option<&LateCaller>) {
        let Some(reason) = rejection(domain) else { return };
        let preview = domain.chars().take(PREVIEW_CHARS_MAX).collect();
        let site = "store_failure";
        let event = DlqEvent::DlqDomainRejected { site, reason, preview };
        self.tell(caller, self.record(event));
    }

    pub fn record(&self, event: DlqEvent) -> AuditRecord {
        AuditRecord { at: self.now(), actor: None, event }
    }

    pub fn store_now(
        &self,
        failure: Box<NewFailure>,
        durability: Durability,
        caller: Option<&LateCaller>,
    ) -> DlqEntryResult {
        match self.create(failure, durability) {
            Ok((stored, failure)) => {
                self.tell_stored(&stored, &failure, caller);
                DlqEntryResult::stored(stored)
            }
            Err((Refused::BadInput(error) | Refused::NoRoom(error), failure)) => {
                self.give_back(&chain(&error), failure, caller)
            }
            Err((refused, failure)) => self.spill(&refused.reason(), failure, caller),
        }
    }

    /// Stores one failure in the repository. It is kept here, too, so that a panic of a host's
    /// repository or redaction does not take it along.
    pub fn create(
        &self,
        failure: Box<NewFailure>,
        durability: Durability,
    ) -> Result<(Stored, Box<NewFailure>), (Refused, Box<NewFailure>)> {
        let repository = match self.open() {
            Ok(repository) => repository,
            Err(error) => return Err((Refused::Unable(error), failure)),
        };
        let copy = NewFailure::clone(&failure);
        match catch_unwind(AssertUnwindSafe(|| repository.create(copy, durability))) {
            Ok(Ok(stored)) => {
                self.note_stored();
                self.tell_of_evictions(&*repository);
                Ok((stored, failure))
            }
            Ok(Err(error)) => {
                self.note_refusal(&repository, &error.source);
                self.tell_of_overflow(&error);
                Err((Refused::of(error.source), error.failure))
            }
            Err(_) => Err((Refused::Panicked, failure)),
        }
    }

    /// Notes what a refusal says of the store.
    pub fn note_refusal(
        &self,
        repository: &std::sync::Arc<dyn FailedOperationRepository>,
        error: &Error,
    ) {
        match error {
            error if error.is_of_the_failure() => {}
            // It ends by itself, and the store says when.
            Error::Full { .. } => self.note(Trouble::Space, Some(error)),
            _ => {
                self.note(Trouble::Store, Some(error));
                self.give_up(repository, error);
            }
        }
    }

    pub fn tell_stored(&self, stored: &Stored, failure: &NewFailure, caller: Option<&LateCaller>) {
        let event = DlqEvent::DlqStored {
            dlq_id: stored.id,
            domain: failure.domain.clone(),
            failure_type: failure.failure_type.clone(),
            duplicate: stored.duplicate,
        };
        self.tell(caller, self.record(event));
        if !stored.duplicate {
            self.watch_domains(&failure.domain);
        }
    }

    /// Keeps a failure in a fallback file, else gives it back.
    fn spill(
        &self,
        reason: &str,
        failure: Box<NewFailure>,
        caller: Option<&LateCaller>,
    ) -> DlqEntryResult {
        match self.spill_file(failure) {
            Ok((spilled, failure)) => self.spilled(reason, spilled, &failure, caller),
            Err((second, failure)) => {
                let both = format!("{reason}; and no fallback file either: {second}");
                self.give_back(&both, failure, caller)
            }
        }
    }

    /// Writes a fallback file, or says why there is none.
    pub fn spill_file(
        &self,
        failure: Box<NewFailure>,
    ) -> Result<(Spilled, Box<NewFailure>), (String, Box<NewFailure>)> {
        let copy = NewFailure::clone(&failure);
        match catch_unwind(AssertUnwindSafe(|| self.access.spill(copy))) {
            Ok(Ok(spilled)) => Ok((spilled, failure)),
            Ok(Err(StoreError { failure, source })) => Err((chain(&source), failure)),
            Err(_) => Err((Refused::Panicked.reason(), failure)),
        }
    }

    /// The result and the event of a failure that is in a fallback file now.
    pub fn spilled(
        &self,
        reason: &str,
        spilled: Spilled,
        failure: &NewFailure,
        caller: Option<&LateCaller>,
    ) -> DlqEntryResult {
        self.condition().spilled += 1;
        let Spilled { path, key, .. } = spilled;
        let event = DlqEvent::DlqSpilled {
            key: key.clone(),
            domain: failure.domain.clone(),
            failure_type: failure.failure_type.clone(),
            path: PathBuf::clone(&path),
            error: reason.to_owned(),
        };
        self.tell(caller, self.record(event));
        DlqEntryResult { key: Some(key), ..DlqEntryResult::fallback(reason, path) }
    }

    /// The result and the event of a failure that is nowhere.
    pub fn give_back(
        &self,
        reason: &str,
        failure: Box<NewFailure>,
        caller: Option<&LateCaller>,
    ) -> DlqEntryResult {
        self.condition().refused += 1;
        let event = DlqEvent::DlqRefused {
            domain: failure.domain.clone(),
            failure_type: failure.failure_type.clone(),
            error: reason.to_owned(),
        };
        self.tell(caller, self.record(event));
        DlqEntryResult::given_back(reason, failure)
    }

    /// Tells once when more domains are in use than expected. The repository is asked only after
    /// this service saw so many itself: a store call must not wait for the index to load.
    fn watch_domains(&self, domain: &str) {
        let domain = normalize_domain(domain).unwrap_or_default();
        let threshold = u64::from(self.config().domain_cardinality_alert_threshold);
        {
            let mut seen = self.domains.seen();
            let new = !seen.names.contains(&domain) && seen.names.insert(domain);
            seen.stores = seen.stores.wrapping_add(1);
            let again = seen.alerted && seen.stores.is_multiple_of(DOMAIN_COUNT_STORES);
            let crossed = new && seen.names.len() as u64 > threshold;
            if !again && !crossed {
                return;
            }
        }
        let Some(repository) = self.access.current() else { return };
        let Ok(facets) = repository.get_facet_counts(None, None) else { return };
        let domains = facets.by_domain.len() as u64;
        let mut seen = self.domains.seen();
        seen.names = facets.by_domain.into_keys().collect();
        let tell = domains > threshold && !seen.alerted;
        seen.alerted = domains > threshold;
        drop(seen);
        if tell {
            self.tell_now(DlqEvent::DlqDomainCardinality { domains, threshold });
        }
    }
}

impl Domains {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
