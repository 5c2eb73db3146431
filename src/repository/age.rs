//! Which entries are old enough, over any repository: by the index where the times that it knows
//! are true, by each record where the wall clock jumped since.
//!
//! What is announced, what is listed and what is done ask the same way.

use std::collections::BTreeSet;

use super::FailedOperationRepository;
use super::read::oldest;
use crate::clock::Timeline;
use crate::entry::{Entry, EntryId, Filter, Page};
use crate::error::Result;

/// How many entries are looked up at a time.
const CHUNK: usize = 256;

/// The entries that a filter means whose times are trusted ones.
pub struct Old<'a> {
    filter: &'a Filter,
    timeline: Timeline,
}

impl<'a> Old<'a> {
    /// Of a filter by `expires_before` or `aged_before`.
    pub fn new(filter: &'a Filter, timeline: Timeline) -> Self {
        Self { filter, timeline }
    }

    /// Whether this entry is one of them.
    pub fn means(&self, entry: &Entry) -> bool {
        if !self.timeline.is_shifted(entry.operation.id) {
            return entry.matches(self.filter);
        }
        let Filter { expires_before, aged_before, .. } = self.filter;
        let others = Filter { expires_before: None, aged_before: None, ..self.filter.clone() };
        entry.matches(&others)
            && expires_before.is_none_or(|before| {
                self.timeline.expires_at(entry).is_some_and(|expires_at| expires_at < before)
            })
            && aged_before.is_none_or(|before| {
                self.timeline.age_from(entry).is_some_and(|from| from < before)
            })
    }

    /// Calls `act` with the ids of all that may be among them: first those that the index finds,
    /// oldest first, then those of which only the records tell. Some come twice.
    pub fn each_chunk<R: FailedOperationRepository + ?Sized>(
        &self,
        repository: &R,
        chunk: usize,
        act: &mut dyn FnMut(&[EntryId]) -> Result<()>,
    ) -> Result<()> {
        walk(repository, self.filter, EntryId(u64::MAX), chunk, act)?;
        match self.timeline.widened(self.filter) {
            Some((wide, below)) => walk(repository, &wide, below, chunk, act),
            None => Ok(()),
        }
    }

    /// All of them, by rising ids.
    pub fn ids<R: FailedOperationRepository + ?Sized>(
        &self,
        repository: &R,
    ) -> Result<Vec<EntryId>> {
        let mut found = BTreeSet::new();
        self.each_chunk(repository, CHUNK, &mut |ids| {
            for id in ids {
                let is_one = !self.timeline.is_shifted(*id)
                    || repository.get_by_id(*id)?.is_some_and(|entry| self.means(&entry));
                if is_one {
                    found.insert(*id);
                }
            }
            Ok(())
        })?;
        Ok(found.into_iter().collect())
    }
}

/// Goes through the entries below an id that the index finds.
fn walk<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    filter: &Filter,
    below: EntryId,
    chunk: usize,
    act: &mut dyn FnMut(&[EntryId]) -> Result<()>,
) -> Result<()> {
    let mut after = None;
    loop {
        let mut ids = repository.select(filter, Page { after, ..oldest(chunk.max(1)) })?;
        ids.truncate(ids.partition_point(|id| *id < below));
        let Some(last) = ids.last() else { return Ok(()) };
        after = Some(*last);
        act(&ids)?;
    }
}

/// How many there are.
pub fn count<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    filter: &Filter,
) -> Result<u64> {
    let timeline = repository.timeline();
    if timeline.is_plain() {
        return repository.count(filter);
    }
    Ok(Old::new(filter, timeline).ids(repository)?.len() as u64)
}

/// Those with the lowest ids.
pub fn find<R: FailedOperationRepository + ?Sized>(
    repository: &R,
    filter: &Filter,
    limit: usize,
) -> Result<Vec<Entry>> {
    let timeline = repository.timeline();
    if timeline.is_plain() {
        return repository.find(filter, oldest(limit));
    }
    let mut entries = Vec::new();
    for id in Old::new(filter, timeline).ids(repository)?.into_iter().take(limit) {
        entries.extend(repository.get_by_id(id)?);
    }
    Ok(entries)
}
