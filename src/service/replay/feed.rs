//! Finds the entries to replay: due, oldest first, past those that may not run.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::call::Call;
use super::gates::Admission;
use super::kept::Scope;
use super::tally::Skip;
use crate::entry::{Entry, EntryId, Order, Page, Status};
use crate::error::Result;
use crate::replay::ReplayHandler;
use crate::repository::due;

/// Entries that are read at a time: whole ones, so they are not many.
const PAGE_ENTRIES_MAX: usize = 100;

/// An entry that may be replayed.
pub(super) struct Candidate {
    pub id: EntryId,
    pub handler: Arc<dyn ReplayHandler>,
    /// Its last attempt was cut off, so it may have ended its process.
    pub is_suspect: bool,
}

/// A walk over the due entries of a scope. It only goes forward, so it meets none twice.
pub(super) struct Feed {
    pub scope: Scope,
    /// The domains that it leaves to others.
    except: BTreeSet<String>,
    /// The last entry that it met.
    pub after: Option<EntryId>,
    /// Whether it met them all.
    pub is_done: bool,
}

impl Feed {
    pub fn new(scope: Scope, except: BTreeSet<String>, after: Option<EntryId>) -> Self {
        Self { scope, except, after, is_done: false }
    }

    /// The next entries that may be replayed, at most `wanted`, after meeting at most
    /// `looks` more entries, which are taken off it.
    pub fn next(
        &mut self,
        call: &Call<'_>,
        wanted: usize,
        looks: &mut u64,
    ) -> Result<Vec<Candidate>> {
        let mut found = Vec::new();
        while found.len() < wanted && *looks > 0 && !self.is_done {
            let missing = u64::try_from(wanted - found.len()).unwrap_or(u64::MAX);
            let limit = usize::try_from(missing.min(*looks)).unwrap_or(usize::MAX);
            let limit = limit.min(PAGE_ENTRIES_MAX);
            let page = Page { order: Order::Oldest, offset: 0, limit, after: self.after };
            let Scope { domain, failure_type } = &self.scope;
            let filter = due(call.repository.now(), domain.as_deref(), failure_type.as_deref());
            let entries = call.repository.find(&filter, page)?;
            // A short page is no end: a repository may leave out what it cannot read.
            self.is_done = entries.is_empty();
            for entry in entries {
                *looks = looks.saturating_sub(1);
                self.after = Some(entry.operation.id);
                if !self.except.contains(&entry.operation.domain) {
                    found.extend(look(call, &entry)?);
                }
            }
        }
        Ok(found)
    }
}

/// What may be replayed; else it is counted why not.
fn look(call: &Call<'_>, entry: &Entry) -> Result<Option<Candidate>> {
    let id = entry.operation.id;
    if call.throttle.is_some() && call.repository.timeline().has_expired(entry) {
        let expired = call.service.expire_found(call.repository, id)?;
        call.tally.skip(if expired.is_some() { Skip::TtlExpired } else { Skip::LostRace });
        return Ok(None);
    }
    match call.service.admit(call.repository, call.config, entry) {
        Admission::Run(handler) => {
            Ok(Some(Candidate { id, handler, is_suspect: entry.is_suspect() }))
        }
        Admission::Unwanted => {
            let resolved = call.service.resolve_unwanted(call.repository, id, Status::Pending)?;
            call.tally.skip(if resolved.is_some() { Skip::DuplicateSkip } else { Skip::LostRace });
            Ok(None)
        }
        Admission::Refused(refusal) => {
            call.tally.skip(refusal.skip);
            if refusal.skip == Skip::HandlerPanicked {
                call.tally.error(format!("entry {id}: {}", refusal.reason));
            }
            Ok(None)
        }
    }
}
