//! The next segment's file, made ready ahead of use so that a rotation finds written zeros.
//!
//! Zeros that are already on the device need no journal commit when they are overwritten; that
//! is the tail of the sync times. The work is done in steps, paced by the commits, by a thread of
//! the engine or by the host.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::config::{Config, Prepare};
use crate::env::{Env, File, OpenMode, write_all_at};
use crate::error::{Error, Result};
use crate::format;

use super::account::{Account, Claim, Part};
use super::writer::reserve;

/// A step writes this many zeros.
const STEP: u64 = 256 * 1024;

/// The file of the next segment.
#[derive(Debug)]
pub(crate) struct Preparer {
    env: Arc<dyn Env>,
    log_dir: PathBuf,
    account: Arc<Account>,
    segment_bytes: u64,
    zero: bool,
    /// Bytes committed since the last rotation; they set the pace.
    committed: AtomicU64,
    /// Guards the file while nobody writes to it.
    slot: Mutex<Slot>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct Slot {
    /// The segment that is to be prepared; 0 when none is wanted.
    wanted: u64,
    ready: Option<Ready>,
    /// A step has the file in its hands.
    lent: bool,
    /// Preparing this segment failed; it is not tried again.
    failed: u64,
    /// Files up to this segment were handed over; they are not made again.
    taken: u64,
}

#[derive(Debug)]
struct Ready {
    segment: u64,
    file: Arc<dyn File>,
    filled: u64,
}

impl Preparer {
    pub fn new(
        env: Arc<dyn Env>,
        log_dir: PathBuf,
        config: &Config,
        account: Arc<Account>,
    ) -> Self {
        Self {
            env,
            log_dir,
            account,
            segment_bytes: config.segment_size(),
            zero: config.prepare == Prepare::Zero,
            committed: AtomicU64::new(0),
            slot: Mutex::default(),
            returned: Condvar::new(),
        }
    }

    /// Whether the file of the segment behind the active one is still to be made.
    pub fn lacks_next(&self, active: u64) -> bool {
        self.lacks(&self.lock(), active)
    }

    /// Asks for the file of the segment behind the active one.
    pub fn want_next(&self, active: u64) {
        let mut slot = self.lock();
        if self.lacks(&slot, active) {
            slot.wanted = active + 1;
        }
    }

    fn lacks(&self, slot: &Slot, active: u64) -> bool {
        // The writer may be about to leave the segment that the caller saw as active.
        let settled = slot.failed == active + 1 || slot.taken > active;
        self.zero && !settled && !slot.lent && slot.ready.is_none()
    }

    /// Counts bytes that were committed.
    pub fn committed(&self, bytes: u64) {
        self.committed.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether a step would do something now: the zeros keep twice the pace of the commits.
    pub fn is_due(&self) -> bool {
        let pace = self.committed.load(Ordering::Relaxed).saturating_mul(2);
        let slot = self.lock();
        let filled = slot.ready.as_ref().map_or(0, |ready| ready.filled);
        slot.wanted != 0 && !slot.lent && filled < self.segment_bytes && filled < pace
    }

    /// Prepares a little. An error drops the file; the rotation then makes its own.
    pub fn step(&self) -> Result<()> {
        let mut slot = self.lock();
        if slot.wanted == 0 || slot.lent {
            return Ok(());
        }
        let segment = slot.wanted;
        let ready = slot.ready.take();
        if ready.is_none()
            && self.account.claim(Part::Prepared, self.segment_bytes, Claim::Growth).is_err()
        {
            // Nobody needs it yet; whoever does is told why there is none.
            slot.wanted = 0;
            return Ok(());
        }
        slot.lent = true;
        drop(slot);
        let result = self.advance(segment, ready);
        if result.is_err() {
            // On a full disk others need what it took. Nobody else makes this file meanwhile.
            self.drop_leftover(segment);
            self.account.release(Part::Prepared, self.segment_bytes);
        }
        let mut slot = self.lock();
        slot.lent = false;
        self.returned.notify_all();
        match result {
            Ok(ready) => slot.ready = Some(ready),
            Err(error) => {
                slot.wanted = 0;
                slot.failed = segment;
                return Err(error);
            }
        }
        Ok(())
    }

    fn advance(&self, segment: u64, ready: Option<Ready>) -> Result<Ready> {
        let path = self.log_dir.join(format::next_name(segment));
        let mut ready = match ready {
            Some(ready) => ready,
            None => {
                let file = self
                    .env
                    .open(&path, OpenMode::CreateNew)
                    .map_err(|error| Error::io("create", &path, error))?;
                let ready = Ready { segment, file, filled: 0 };
                reserve(&*ready.file, self.segment_bytes)
                    .map_err(|error| Error::io("reserve", &path, error))?;
                ready
            }
        };
        let len = STEP.min(self.segment_bytes - ready.filled);
        let zeros = vec![0; usize::try_from(len).unwrap_or(0)];
        write_all_at(&*ready.file, &zeros, ready.filled)
            .map_err(|error| Error::io("fill with zeros", &path, error))?;
        ready.filled += len;
        if ready.filled >= self.segment_bytes {
            ready.file.sync().map_err(|error| Error::io("sync", &path, error))?;
        }
        Ok(ready)
    }

    /// Hands over the file of a segment, however far it got. After a failed step the leftover
    /// is removed first.
    pub fn take(&self, segment: u64) -> Result<Option<Arc<dyn File>>> {
        let mut slot = self.lock();
        while slot.lent {
            slot = self.returned.wait(slot).unwrap_or_else(PoisonError::into_inner);
        }
        slot.wanted = 0;
        slot.taken = slot.taken.max(segment);
        let ready = slot.ready.take();
        drop(slot);
        self.committed.store(0, Ordering::Relaxed);
        if ready.is_some() {
            self.account.release(Part::Prepared, self.segment_bytes);
        }
        match ready {
            Some(ready) if ready.segment == segment => Ok(Some(ready.file)),
            _ => self.remove_leftover(segment).map(|()| None),
        }
    }

    fn remove_leftover(&self, segment: u64) -> Result<()> {
        let path = self.log_dir.join(format::next_name(segment));
        match self.env.unlink(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", &path, error))
            }
            _ => Ok(()),
        }
    }

    /// Frees the space of a file that was given up.
    pub fn drop_leftover(&self, segment: u64) {
        if let Err(error) = self.remove_leftover(segment) {
            tracing::warn!(%error, "a segment that was given up still takes space");
        }
    }

    /// Removes the prepared file: for a clean close, and where its space is needed.
    pub fn discard(&self) -> Result<()> {
        let segment = self.lock().ready.as_ref().map(|ready| ready.segment);
        segment.map_or(Ok(()), |segment| {
            self.take(segment).and_then(|_| self.remove_leftover(segment))
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
