//! Changing an entry's state: compare and set, one record with the whole state.

use std::sync::PoisonError;

use super::load::Live;
use super::{Engine, Inner, lock};
use crate::config::Durability;
use crate::entry::{EntryId, State, Status, Timestamp};
use crate::error::{Error, Result};
use crate::format::{ChangeBody, Kind};
use crate::log::{self, Draft};

impl Engine {
    /// Changes an entry's state if its status is one of those expected; an empty list means any.
    ///
    /// Changes of one entry happen one after the other, each on what the one before left. When
    /// this returns `Ok`, the change is durable (written, with
    /// [`Durability::Written`] as the configured level) and every later read shows it.
    /// `updated_at` is set to now.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Conflict`] with the status found, and those of
    /// [`Engine::store`]. After [`Error::Indeterminate`] the change may be there after the next
    /// open, fully or not at all.
    ///
    /// # Example
    ///
    /// ```
    /// # use deadletter::{Config, Engine, NewFailure, Status};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(dir.path().join("captured")))?;
    /// let stored = engine.store(NewFailure::new("payment", "PG_TIMEOUT"))?;
    /// let state = engine.change(stored.id, &[Status::Pending], |state| {
    ///     state.status = Status::Resolved;
    ///     state.resolution_type = "manual".to_owned();
    /// })?;
    /// assert_eq!(state.status, Status::Resolved);
    /// # engine.close()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn change(
        &self,
        id: EntryId,
        expected: &[Status],
        change: impl FnOnce(&mut State),
    ) -> Result<State> {
        self.inner.check_open()?;
        self.inner.commit()?;
        let _turn = Turn::take(&self.inner, id.0);
        self.inner.change(id, expected, change)
    }
}

/// The right to change one entry; others wait for it.
struct Turn<'a> {
    inner: &'a Inner,
    lsn: u64,
}

impl<'a> Turn<'a> {
    fn take(inner: &'a Inner, lsn: u64) -> Self {
        let mut changing = lock(&inner.changing);
        while !changing.insert(lsn) {
            changing = inner.changed.wait(changing).unwrap_or_else(PoisonError::into_inner);
        }
        Self { inner, lsn }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(&self.inner.changing).remove(&self.lsn);
        self.inner.changed.notify_all();
    }
}

impl Inner {
    fn change(
        &self,
        id: EntryId,
        expected: &[Status],
        change: impl FnOnce(&mut State),
    ) -> Result<State> {
        let catalog = self.catalog()?;
        let not_found = || Error::NotFound { id: id.to_string() };
        let location = catalog.locate(&Live(self), id.0)?.ok_or_else(not_found)?;
        let entry = self.read(&catalog, id.0)?.ok_or_else(not_found)?;
        debug_assert_eq!(location.status, entry.operation.status);
        if !expected.is_empty() && !expected.contains(&entry.operation.status) {
            let wanted: Vec<&str> = expected.iter().map(|status| status.as_str()).collect();
            return Err(Error::Conflict {
                id: id.to_string(),
                status: entry.operation.status.to_string(),
                wanted: wanted.join(" or "),
            });
        }
        let mut state = entry.state();
        change(&mut state);
        let now = self.env.wall_ms();
        state.updated_at = Timestamp(now);
        let body = ChangeBody { target: id.0, state };
        let draft = Draft::new(Kind::Change, &body, now, log::change_note(&body))?;
        super::store::check_size(&self.config, std::slice::from_ref(&draft))?;
        let durability = match self.config.durability {
            Durability::Written => Durability::Written,
            Durability::Synced | Durability::Queued => Durability::Synced,
        };
        let commit = self.commit()?;
        let ticket = self.submit(vec![draft], durability)?;
        self.threads.kick(durability);
        commit.wait(ticket, durability)?;
        Ok(body.state)
    }
}
