//! The leases of this process, by monotonic time.
//!
//! The lease in an entry's record says who may complete it; this table says until when. A lease
//! that is not in the table belongs to a process that is gone, because only one process has the
//! store: it is over.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::entry::EntryId;

/// The leases that handlers of this process hold.
#[derive(Debug)]
pub struct Leases {
    next_token: AtomicU64,
    /// Guards the leases by entry.
    held: Mutex<HashMap<u64, Held>>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    token: u64,
    since_ms: u64,
    until_ms: u64,
}

impl Leases {
    /// No leases. The seed should be random, so that tokens of two processes differ.
    pub fn new(seed: u64) -> Self {
        Self { next_token: AtomicU64::new(seed), held: Mutex::default() }
    }

    /// A token that this process has not given before; never 0.
    pub fn new_token(&self) -> u64 {
        match self.next_token.fetch_add(1, Ordering::Relaxed) {
            0 => self.new_token(),
            token => token,
        }
    }

    /// Grants a lease until a time; one that was held before is lost.
    pub fn grant(&self, id: EntryId, token: u64, now_ms: u64, until_ms: u64) {
        self.lock().insert(id.0, Held { token, since_ms: now_ms, until_ms });
    }

    /// Moves the end of a lease that still holds; false when it does not.
    pub fn extend(&self, id: EntryId, token: u64, now_ms: u64, until_ms: u64) -> bool {
        match self.lock().get_mut(&id.0) {
            Some(held) if held.token == token && now_ms < held.until_ms => {
                held.until_ms = held.until_ms.max(until_ms);
                true
            }
            _ => false,
        }
    }

    /// Whether this lease holds now.
    pub fn holds(&self, id: EntryId, token: u64, now_ms: u64) -> bool {
        let held = self.lock();
        held.get(&id.0).is_some_and(|held| held.token == token && now_ms < held.until_ms)
    }

    /// How long ago this process granted a lease, in milliseconds, even if its time is over by
    /// now. `None` when it has ended, or when another process granted it.
    pub fn held_ms(&self, id: EntryId, token: u64, now_ms: u64) -> Option<u64> {
        let held = self.lock();
        let held = held.get(&id.0).filter(|held| held.token == token)?;
        Some(now_ms.saturating_sub(held.since_ms))
    }

    /// Ends this lease. One that was granted on the same entry since then holds on.
    pub fn end(&self, id: EntryId, token: u64) {
        let mut held = self.lock();
        if held.get(&id.0).is_some_and(|held| held.token == token) {
            held.remove(&id.0);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
