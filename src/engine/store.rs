//! Taking failures in: one, a batch, with a key; the receipt that says when they are durable.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll};

use super::{Engine, Inner, lock};
use crate::config::{Config, Durability};
use crate::entry::{EntryId, NewFailure, Timestamp};
use crate::error::{Error, Result};
use crate::format::{self, EntryBody, Kind};
use crate::log::{self, Draft, Note, Ticket};

/// A store call that is refused for want of space makes room and tries again up to so often.
const ROOM_ATTEMPTS: usize = 3;

/// What a store call achieved.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stored {
    /// The entry's id; of a duplicate, the id of the first copy.
    pub id: EntryId,
    /// The caller's key, else the entry's uuid.
    pub key: String,
    /// The level that was reached.
    pub durability: Durability,
    /// An entry with this key was there already, and nothing new was stored.
    pub duplicate: bool,
}

/// A failure that was not stored, given back with the reason.
#[derive(Debug)]
pub struct StoreError {
    /// The failure, as it was given or as far as it was prepared. After an unknown outcome it
    /// carries a key, so that storing it again yields one entry.
    pub failure: Box<NewFailure>,
    /// Why.
    pub source: Error,
}

/// A batch that was not stored, given back with the reason.
#[derive(Debug)]
pub struct BatchError {
    /// The failures, in their order.
    pub failures: Vec<NewFailure>,
    /// Why.
    pub source: Error,
}

/// A stored failure on its way to the asked level. Block on [`Receipt::wait`], or await it: it
/// is a future that needs no runtime (with [`Background::Manual`](crate::Background::Manual) somebody
/// must call [`Engine::step`] meanwhile).
#[derive(Debug)]
pub struct Receipt {
    inner: Arc<Inner>,
    ticket: Ticket,
    stored: Stored,
}

/// A batch on its way to the asked level.
#[derive(Debug)]
pub struct BatchReceipt {
    inner: Arc<Inner>,
    /// The records that must reach the level: the batch's own, and first copies of duplicates.
    tickets: Vec<Ticket>,
    stored: Vec<Stored>,
}

/// Keys that are on their way into the log.
#[derive(Debug, Default)]
pub(super) struct Reservations {
    /// Guards the keys; `None` until the record has its number.
    keys: Mutex<HashMap<String, Option<u64>>>,
    changed: Condvar,
}

/// What is known of one item of a batch before it is submitted.
enum Fate {
    New(Box<Draft>),
    /// The key belongs to this entry.
    Duplicate(u64),
    /// The key stands earlier in the same batch.
    Repeats(usize),
}

/// A prepared item: its key, whether the caller gave it, and what to do.
pub(super) struct Item {
    key: String,
    reserved: bool,
    fate: Fate,
}

impl Engine {
    /// Stores a failure at the level of [`Config::durability`](crate::Config::durability). When
    /// this returns `Ok`, the entry has reached the level that [`Stored::durability`] names, see S1
    /// to S9 of `docs/PROMISE.md`.
    ///
    /// # Errors
    ///
    /// The failure is given back with: [`Error::TooLarge`], [`Error::Invalid`],
    /// [`Error::IndexNotReady`] (only with a key or near a limit), [`Error::TooMany`],
    /// [`Error::Full`], [`Error::QueueFull`], [`Error::Poisoned`],
    /// [`Error::Indeterminate`] (the write failed; it may or may not be there later),
    /// [`Error::Stalled`], [`Error::Closed`], [`Error::ReadOnly`].
    pub fn store(&self, failure: NewFailure) -> Result<Stored, StoreError> {
        self.store_with(failure, self.inner.config.durability)
    }

    /// As [`Engine::store`], at a level of the caller's choice.
    ///
    /// # Errors
    ///
    /// As [`Engine::store`].
    pub fn store_with(
        &self,
        failure: NewFailure,
        durability: Durability,
    ) -> Result<Stored, StoreError> {
        let mut failure = failure;
        let stored = self.inner.store_all(std::slice::from_mut(&mut failure), durability);
        let stored = stored.and_then(|mut stored| stored.pop().ok_or(Error::Closed));
        stored.map_err(|source| StoreError { failure: Box::new(failure), source })
    }

    /// Hands a failure over and returns before the level is reached.
    ///
    /// # Errors
    ///
    /// As [`Engine::store`], as far as they are known at once.
    pub fn submit(
        &self,
        failure: NewFailure,
        durability: Durability,
    ) -> Result<Receipt, StoreError> {
        let mut failure = failure;
        self.inner
            .submit_one(&mut failure, durability)
            .map_err(|source| StoreError { failure: Box::new(failure), source })
    }

    /// Stores a batch as one atomic unit: after a crash all of it is there, or none.
    ///
    /// # Errors
    ///
    /// As [`Engine::store`]; [`Error::TooLarge`] for more than 16 MiB or half a segment.
    pub fn store_batch(
        &self,
        failures: Vec<NewFailure>,
        durability: Durability,
    ) -> Result<Vec<Stored>, BatchError> {
        let mut failures = failures;
        let stored = self.inner.store_all(&mut failures, durability);
        stored.map_err(|source| BatchError { failures, source })
    }

    /// Hands a batch over and returns before the level is reached.
    ///
    /// # Errors
    ///
    /// As [`Engine::store_batch`], as far as they are known at once.
    pub fn submit_batch(
        &self,
        failures: Vec<NewFailure>,
        durability: Durability,
    ) -> Result<BatchReceipt, BatchError> {
        let mut failures = failures;
        self.inner
            .submit_batch(&mut failures, durability)
            .map_err(|source| BatchError { failures, source })
    }
}

impl Inner {
    /// Stores a batch; when it is refused for want of space, makes room and tries again.
    fn store_all(
        self: &Arc<Self>,
        failures: &mut [NewFailure],
        durability: Durability,
    ) -> Result<Vec<Stored>> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let receipt = self.submit_batch(failures, durability)?;
            let stored = receipt.stored.clone();
            let own = receipt.tickets.first().copied();
            let error = match receipt.wait() {
                Ok(stored) => return Ok(stored),
                Err(error) => error,
            };
            // Of a batch that waits for first copies of others, its own part may be there.
            let nothing = own.is_some_and(|own| {
                let outcome = self.commit().ok().and_then(|log| log.poll(own, durability, None));
                matches!(outcome, Some(Err(Error::Full { .. })))
            });
            if nothing && attempts < ROOM_ATTEMPTS && self.make_room(&error) {
                self.count_as_one(&stored);
                continue;
            }
            // With its key, storing again after an unknown outcome yields one entry.
            for (failure, stored) in failures.iter_mut().zip(stored) {
                failure.key = Some(stored.key);
            }
            return Err(error);
        }
    }

    /// The same failures are offered once, however often it takes to store them.
    fn count_as_one(&self, stored: &[Stored]) {
        let duplicates = stored.iter().filter(|one| one.duplicate).count() as u64;
        let all = stored.len() as u64;
        self.counters.offered.fetch_sub(all, Ordering::Relaxed);
        self.counters.duplicates.fetch_sub(duplicates, Ordering::Relaxed);
        self.counters.refused.fetch_sub(all - duplicates, Ordering::Relaxed);
    }

    /// Writes records of which a crash leaves all or nothing, and waits until they are durable.
    pub(super) fn write_synced(&self, drafts: Vec<Draft>) -> Result<()> {
        let ticket = self.submit(drafts, Durability::Synced)?;
        self.commit()?.wait(ticket, Durability::Synced)
    }

    fn submit_one(
        self: &Arc<Self>,
        failure: &mut NewFailure,
        durability: Durability,
    ) -> Result<Receipt> {
        let batch = self.submit_batch(std::slice::from_mut(failure), durability)?;
        let BatchReceipt { inner, mut tickets, mut stored } = batch;
        let ticket = tickets.pop();
        let stored = stored.pop();
        let (Some(ticket), Some(stored)) = (ticket, stored) else { return Err(Error::Closed) };
        Ok(Receipt { inner, ticket, stored })
    }

    fn submit_batch(
        self: &Arc<Self>,
        failures: &mut [NewFailure],
        durability: Durability,
    ) -> Result<BatchReceipt> {
        self.counters.offered.fetch_add(failures.len() as u64, Ordering::Relaxed);
        let result = self.prepare_and_submit(failures, durability);
        if result.is_err() {
            self.counters.refused.fetch_add(failures.len() as u64, Ordering::Relaxed);
        }
        result
    }

    fn prepare_and_submit(
        self: &Arc<Self>,
        failures: &mut [NewFailure],
        durability: Durability,
    ) -> Result<BatchReceipt> {
        self.check_open()?;
        self.commit()?;
        for failure in failures.iter_mut() {
            failure.prepare(&self.config.limits, &self.config.redaction)?;
        }
        let bodies = failures.iter().map(|failure| self.body(failure)).collect::<Result<Vec<_>>>();
        let mut items = self.reserve(bodies?, false)?;
        let drafts: Vec<Draft> = items.iter_mut().filter_map(Item::take_draft).collect();
        let admitted = check_size(&self.config, &drafts)
            .and_then(|()| self.admit(&drafts))
            .and_then(|()| self.admit_bytes(&drafts));
        let submitted = admitted.and_then(|()| {
            if drafts.is_empty() { Ok(None) } else { self.submit(drafts, durability).map(Some) }
        });
        let ticket = match submitted {
            Ok(ticket) => ticket,
            Err(error) => {
                self.release(&items);
                return Err(error);
            }
        };
        let receipt = self.receipt(items, ticket, durability);
        self.threads.kick(durability);
        Ok(receipt)
    }

    fn receipt(
        self: &Arc<Self>,
        items: Vec<Item>,
        ticket: Option<Ticket>,
        durability: Durability,
    ) -> BatchReceipt {
        let tickets = self.number(&items, ticket);
        let mut next_lsn = ticket.map_or(0, |ticket| ticket.first_lsn);
        let mut stored: Vec<Stored> = Vec::with_capacity(items.len());
        for item in items {
            let (lsn, duplicate) = match item.fate {
                Fate::New(_) => {
                    next_lsn += 1;
                    (next_lsn - 1, false)
                }
                Fate::Duplicate(lsn) => (lsn, true),
                Fate::Repeats(index) => (stored.get(index).map_or(0, |first| first.id.0), true),
            };
            self.counters.duplicates.fetch_add(u64::from(duplicate), Ordering::Relaxed);
            stored.push(Stored { id: EntryId(lsn), key: item.key, durability, duplicate });
        }
        BatchReceipt { inner: Arc::clone(self), tickets, stored }
    }

    /// The body of a prepared failure.
    pub(super) fn body(&self, failure: &NewFailure) -> Result<EntryBody> {
        body(&*self.env, &self.config, failure)
    }

    /// The record of an entry.
    pub(super) fn draft(&self, body: &EntryBody) -> Result<Draft> {
        let note = log::entry_note(body, self.store_uuid);
        Draft::new(Kind::Entry, body, self.env.wall_ms(), note)
    }

    /// Checks and reserves the keys of a batch, all at once, so that two batches never wait for
    /// each other. With `by_uuid` an entry without a key counts as keyed by its uuid.
    #[expect(clippy::needless_pass_by_value, reason = "the caller is done with the bodies")]
    pub(super) fn reserve(&self, bodies: Vec<EntryBody>, by_uuid: bool) -> Result<Vec<Item>> {
        let keys: Vec<Option<String>> = bodies
            .iter()
            .map(|body| if by_uuid { Some(body.key_text()) } else { body.key.clone() })
            .collect();
        let given: Vec<&str> = keys.iter().flatten().map(String::as_str).collect();
        let in_flight = if given.is_empty() { HashMap::new() } else { self.keys.reserve(&given) };
        let items = self.decide(&bodies, &keys, &in_flight);
        if items.is_err() {
            let reserved = given.iter().filter(|key| !in_flight.contains_key(**key));
            reserved.for_each(|key| self.keys.release(key));
        }
        items
    }

    fn decide(
        &self,
        bodies: &[EntryBody],
        keys: &[Option<String>],
        in_flight: &HashMap<String, u64>,
    ) -> Result<Vec<Item>> {
        let mut first: HashMap<&str, usize> = HashMap::new();
        let mut items = Vec::with_capacity(bodies.len());
        for (index, (body, key)) in bodies.iter().zip(keys).enumerate() {
            let item = |reserved, fate| Item { key: body.key_text(), reserved, fate };
            let Some(key) = key.as_deref() else {
                items.push(item(false, Fate::New(Box::new(self.draft(body)?))));
                continue;
            };
            if let Some(first) = first.get(key) {
                items.push(item(false, Fate::Repeats(*first)));
                continue;
            }
            first.insert(key, index);
            if let Some(lsn) = in_flight.get(key) {
                items.push(item(false, Fate::Duplicate(*lsn)));
            } else if let Some(entry) = self.find_key(key)? {
                self.keys.release(key);
                items.push(item(false, Fate::Duplicate(entry)));
            } else {
                items.push(item(true, Fate::New(Box::new(self.draft(body)?))));
            }
        }
        Ok(items)
    }

    /// Frees the keys of items that are committed, or never will be.
    pub(super) fn release(&self, items: &[Item]) {
        let reserved = items.iter().filter(|item| item.reserved);
        reserved.for_each(|item| self.keys.release(&item.key));
    }

    /// Tells the keys that are reserved the numbers of their records, and returns the tickets
    /// that all items depend on.
    pub(super) fn number(&self, items: &[Item], ticket: Option<Ticket>) -> Vec<Ticket> {
        let mut next_lsn = ticket.map_or(0, |ticket| ticket.first_lsn);
        let mut tickets: Vec<Ticket> = ticket.into_iter().collect();
        for item in items {
            match item.fate {
                Fate::New(_) => {
                    if item.reserved {
                        self.keys.number(&item.key, next_lsn);
                    }
                    next_lsn += 1;
                }
                Fate::Duplicate(lsn) => tickets.push(Ticket { first_lsn: lsn, last_lsn: lsn }),
                Fate::Repeats(_) => {}
            }
        }
        tickets
    }
}

/// A single record and a batch are at most 16 MiB and half a segment.
pub(super) fn batch_bytes_max(config: &Config) -> u64 {
    u64::from(format::RECORD_BODY_MAX).min(config.segment_size() / 2)
}

/// Refuses a record or a batch that is too large.
pub(super) fn check_size(config: &Config, drafts: &[Draft]) -> Result<()> {
    let bytes_max = batch_bytes_max(config);
    let bytes: u64 = drafts.iter().map(Draft::record_len).sum();
    if bytes <= bytes_max {
        return Ok(());
    }
    Err(Error::TooLarge {
        what: if drafts.len() == 1 { "the record" } else { "the batch" },
        bytes,
        bytes_max,
        settings: "half of a segment, which is segment_bytes and at most a sixteenth of max_bytes, \
                   and 16 MiB; see also request_data_max_bytes and field_max_bytes",
    })
}

impl Item {
    pub(super) fn take_draft(&mut self) -> Option<Draft> {
        let Fate::New(draft) = &mut self.fate else { return None };
        Some(std::mem::replace(&mut **draft, Draft::empty()))
    }

    /// As [`Item::take_draft`], for an entry from a fallback file: its uuid is reserved like a
    /// key, until the record is committed or refused.
    pub(super) fn take_home(&mut self) -> Option<Draft> {
        let reserved = self.reserved.then(|| self.key.clone());
        let mut draft = self.take_draft()?;
        if let Note::Entry { key, .. } = &mut draft.note {
            *key = reserved;
        }
        Some(Draft { drained: true, ..draft })
    }
}

/// The body of a prepared failure, with its uuid and its first state.
pub(super) fn body(
    env: &dyn crate::env::Env,
    config: &Config,
    failure: &NewFailure,
) -> Result<EntryBody> {
    let mut uuid = [0; 16];
    env.fill_random(&mut uuid)
        .map_err(|error| Error::io("get random bytes for", &config.dir, error))?;
    // The bits of a random uuid, version 4 (RFC 9562).
    uuid[6] = (uuid[6] & 0x0f) | 0x40;
    uuid[8] = (uuid[8] & 0x3f) | 0x80;
    let now = Timestamp(env.wall_ms());
    Ok(EntryBody {
        uuid,
        key: failure.key.clone(),
        domain: failure.domain.clone(),
        original_domain: failure.original_domain.clone(),
        failure_type: failure.failure_type.clone(),
        entity_type: failure.entity_type.clone(),
        entity_id: failure.entity_id.clone(),
        entity_refs: failure.entity_refs.clone(),
        user_id: failure.user_id,
        snapshot_data: failure.snapshot_data.clone(),
        error_code: failure.error_code.clone(),
        error_message: failure.error_message.clone(),
        request_data: failure.request_data.clone(),
        response_data: failure.response_data.clone(),
        metadata: failure.metadata.clone(),
        next_action_hint: failure.next_action_hint.clone(),
        created_at: failure.created_at.unwrap_or(now),
        runnable: failure.runnable,
        state: failure.first_state(now, config.max_retries),
    })
}

impl Receipt {
    /// What will be true once the level is reached.
    pub fn stored(&self) -> &Stored {
        &self.stored
    }

    /// Waits until the level is reached.
    ///
    /// # Errors
    ///
    /// [`Error::Indeterminate`], [`Error::Stalled`].
    pub fn wait(self) -> Result<Stored> {
        self.inner.commit()?.wait(self.ticket, self.stored.durability)?;
        Ok(self.stored)
    }
}

impl Future for Receipt {
    type Output = Result<Stored>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let receipt = self.get_mut();
        let commit = match receipt.inner.commit() {
            Ok(commit) => commit,
            Err(error) => return Poll::Ready(Err(error)),
        };
        match commit.poll(receipt.ticket, receipt.stored.durability, Some(context.waker())) {
            Some(outcome) => Poll::Ready(outcome.map(|()| receipt.stored.clone())),
            None => {
                receipt.inner.threads.wake();
                Poll::Pending
            }
        }
    }
}

impl BatchReceipt {
    /// Waits until the whole batch has reached the level.
    ///
    /// # Errors
    ///
    /// [`Error::Indeterminate`], [`Error::Stalled`].
    pub fn wait(self) -> Result<Vec<Stored>> {
        let durability = self.stored.first().map_or(Durability::Queued, |first| first.durability);
        for ticket in &self.tickets {
            self.inner.commit()?.wait(*ticket, durability)?;
        }
        Ok(self.stored)
    }
}

impl Reservations {
    /// Reserves the keys that nobody has, and returns those in flight with their numbers. Waits
    /// for keys that are reserved but not yet numbered, holding none meanwhile.
    fn reserve(&self, keys: &[&str]) -> HashMap<String, u64> {
        let mut map = lock(&self.keys);
        while keys.iter().any(|key| matches!(map.get(*key), Some(None))) {
            map = self.changed.wait(map).unwrap_or_else(PoisonError::into_inner);
        }
        let mut in_flight = HashMap::new();
        for key in keys {
            match map.get(*key) {
                Some(Some(lsn)) => {
                    in_flight.insert((*key).to_owned(), *lsn);
                }
                // A key that stands twice in the batch is reserved by its first place.
                Some(None) => {}
                None => {
                    map.insert((*key).to_owned(), None);
                }
            }
        }
        in_flight
    }

    /// The record of a reserved key has its number. It may be committed already.
    fn number(&self, key: &str, lsn: u64) {
        if let Some(number) = lock(&self.keys).get_mut(key) {
            *number = Some(lsn);
        }
        self.changed.notify_all();
    }

    /// The key is in the index, or free again.
    pub fn release(&self, key: &str) {
        lock(&self.keys).remove(key);
        self.changed.notify_all();
    }
}

impl std::fmt::Display for StoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the failure was not stored")
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl std::fmt::Display for BatchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the batch of {} failures was not stored", self.failures.len())
    }
}

impl std::error::Error for BatchError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
