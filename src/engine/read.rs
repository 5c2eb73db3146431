//! One entry from the log: its record, its newest change, and what to do when they are damaged.

use std::path::Path;
use std::sync::Arc;

use super::load::{Live, row_time, segment_label};
use super::{Inner, lock};
use crate::config::Durability;
use crate::entry::{Entry, EntryId, FailedOperation, State};
use crate::env::Env;
use crate::error::{Damage, DamageKind, Error, Result};
use crate::format::{self, ChangeBody, EntryBody, FormatError, Frame, Kind, Loss, Position};
use crate::index::{Catalog, Location};
use crate::log::{self, Control, Draft, Note};

impl Inner {
    /// Reads an entry; `None` when there is none, or when damage took it.
    pub(super) fn read(&self, catalog: &Catalog, lsn: u64) -> Result<Option<Entry>> {
        Ok(self.read_body(catalog, lsn)?.map(|body| entry_of(lsn, body)))
    }

    /// As [`Inner::read`], as it would be written now: with the newest state.
    pub(super) fn read_body(&self, catalog: &Catalog, lsn: u64) -> Result<Option<EntryBody>> {
        let Some(location) = catalog.locate(&Live(self), lsn)? else { return Ok(None) };
        let Some(frame) = self.entry_frame(catalog, lsn, &location)? else { return Ok(None) };
        let mut body = match format::decode_body::<EntryBody>(&frame) {
            Ok(body) => body,
            Err(FormatError::Compressed) => return Err(Error::compressed(lsn)),
            Err(_) => {
                let bytes = frame.header.record_len();
                self.lose(catalog, lsn, location.segment, frame.offset, bytes)?;
                return Ok(None);
            }
        };
        if let Some((change_lsn, position)) = location.change {
            body.state = self.changed_state(body.state, lsn, change_lsn, position)?;
        }
        Ok(Some(body))
    }

    fn entry_frame(
        &self,
        catalog: &Catalog,
        lsn: u64,
        location: &Location,
    ) -> Result<Option<Frame>> {
        let Location { segment, ordinal, .. } = *location;
        let position = self.segments.entry_position(segment, ordinal, lsn)?;
        let is_it = |frame: &Frame| frame.header.lsn == lsn && frame.header.kind == Kind::Entry;
        let mut damage = None;
        if let Some(position) = position {
            match self.segments.frame(position) {
                Ok(frame) if is_it(&frame) => return Ok(Some(frame)),
                Ok(_) => {}
                Err(Error::Damaged(found)) => damage = Some(found),
                Err(error) => return Err(error),
            }
        }
        // The row may be what is damaged: the records themselves decide.
        if let Some((segment, scanned)) = self.segments.scanned_holder(segment, lsn)? {
            if let Some(row) = scanned.summary.entries.iter().find(|row| row.lsn == lsn) {
                let position = Position { segment, offset: row.offset };
                return self.segments.frame(position).map(Some);
            }
            let hole = scanned.damage.iter().find(|damage| {
                damage.lsn_from.is_some_and(|from| from <= lsn)
                    && damage.lsn_to.is_some_and(|to| lsn <= to)
            });
            if hole.is_none() && scanned.unread.is_some() {
                return Err(Error::compressed(lsn));
            }
            damage = hole.map(|hole| Box::new(hole.clone())).or(damage);
        }
        let (offset, bytes) = damage.map_or((0, 0), |damage| (damage.offset, damage.bytes));
        self.lose(catalog, lsn, location.segment, offset, bytes)?;
        Ok(None)
    }

    /// The state that the newest change gave; its row in the summary is the second copy, beside the
    /// one before.
    pub(super) fn changed_state(
        &self,
        mut state: State,
        lsn: u64,
        change_lsn: u64,
        position: Position,
    ) -> Result<State> {
        let frame = self.segments.change_frame(position, change_lsn)?;
        let body = frame.and_then(|frame| format::decode_body::<ChangeBody>(&frame).ok());
        if let Some(body) = body.filter(|body| body.target == lsn) {
            return Ok(body.state);
        }
        let row = self.segments.change_row(position.segment, change_lsn)?;
        let position = row.as_ref().map_or(position, |(position, _)| *position);
        if let Some((_, row)) = row {
            state.status = row.status.unwrap_or(state.status);
            state.updated_at = row_time(row.updated_ms).unwrap_or(state.updated_at);
            state.set_when(row_time(row.when_ms));
            state.expires_at = row_time(row.expires_ms);
        }
        self.note_damage(Damage {
            segment: segment_label(&self.segments, position.segment),
            offset: position.offset,
            bytes: 0,
            kind: DamageKind::Record,
            lsn_from: Some(change_lsn),
            lsn_to: Some(change_lsn),
            entries: Some(0),
        });
        Ok(state)
    }

    fn note_damage(&self, damage: Damage) {
        let mut list = lock(&self.damage);
        if !list.contains(&damage) {
            list.push(damage);
        }
    }

    /// One entry turned out to be damaged: it leaves the index, and the loss goes on record.
    fn lose(
        &self,
        catalog: &Catalog,
        lsn: u64,
        segment: u64,
        offset: u64,
        bytes: u64,
    ) -> Result<()> {
        if catalog.lost(lsn..=lsn) == 0 {
            return Ok(());
        }
        let loss = Loss { segment, offset, bytes, lsn_from: lsn, lsn_to: lsn, entries: 1 };
        let damage = Damage {
            segment: segment_label(&self.segments, segment),
            offset,
            bytes,
            kind: DamageKind::Record,
            lsn_from: Some(lsn),
            lsn_to: Some(lsn),
            entries: Some(1),
        };
        lock(&self.losses).push(loss);
        self.note_damage(damage.clone());
        self.log_loss(loss, &damage)
    }

    /// Writes a loss to the log, and the damaged bytes to quarantine. Both are for the record:
    /// an error is logged and the reading goes on.
    pub(super) fn log_loss(&self, loss: Loss, damage: &Damage) -> Result<()> {
        let Some(commit) = &self.commit else {
            self.feed.count_lost(loss.entries);
            return Ok(());
        };
        if let Err(error) = self.quarantine(loss) {
            tracing::warn!(%error, %damage, "damaged bytes could not be put into quarantine");
        }
        let now = self.env.wall_ms();
        let draft = Draft::new(Kind::Lost, &loss, now, Note::Control(Control::Lost(loss)))?;
        let written = Durability::Written;
        // The counts must agree with the index as soon as the caller looks.
        let waited = self.submit(vec![draft], written).and_then(|at| commit.wait(at, written));
        if let Err(error) = waited {
            tracing::warn!(%error, %damage, "a loss could not be written to the log");
            if !matches!(error, Error::Stalled { .. }) {
                self.feed.count_lost(loss.entries);
            }
        }
        self.threads.wake();
        Ok(())
    }

    fn quarantine(&self, loss: Loss) -> Result<()> {
        let Some(old) = self.segments.old(loss.segment) else { return Ok(()) };
        if loss.bytes == 0 {
            return Ok(());
        }
        let (file, _) = self.segments.open(&old)?;
        let to = (loss.offset + loss.bytes).min(file.len);
        if loss.offset >= to {
            // The bytes are gone with the end of the file.
            return Ok(());
        }
        log::quarantine(self.quarantine_place(), &file, (loss.offset, to)).map(|_| ())
    }

    /// Where damaged bytes are kept, and who counts them.
    pub(super) fn quarantine_place(&self) -> (&dyn Env, &Path, &log::Account) {
        (&*self.env, &self.config.dir, &self.watch.account)
    }

    /// The entry with this key, if any. Hits of the filters are confirmed by the record.
    pub(super) fn find_key(&self, key: &str) -> Result<Option<u64>> {
        let catalog = self.catalog()?;
        let hash = format::key_hash(self.store_uuid, key);
        for lsn in catalog.candidates(&Live(self), hash)? {
            if self.read(&catalog, lsn)?.is_some_and(|entry| entry.key == key) {
                return Ok(Some(lsn));
            }
        }
        Ok(None)
    }

    /// The index, for a query.
    pub(super) fn open_catalog(&self) -> Result<Arc<Catalog>> {
        self.check_open()?;
        self.catalog()
    }
}

/// An entry as its record tells it.
pub(super) fn entry_of(lsn: u64, body: EntryBody) -> Entry {
    let key = body.key_text();
    let state = body.state;
    let mut entry = Entry {
        operation: FailedOperation {
            id: EntryId(lsn),
            domain: body.domain,
            failure_type: body.failure_type,
            status: state.status,
            entity_type: body.entity_type,
            entity_id: body.entity_id,
            entity_refs: body.entity_refs,
            user_id: body.user_id,
            snapshot_data: body.snapshot_data,
            error_code: body.error_code,
            error_message: body.error_message,
            retry_count: state.retry_count,
            max_retries: state.max_retries,
            last_retry_at: None,
            request_data: body.request_data,
            response_data: body.response_data,
            metadata: body.metadata,
            resolved_at: None,
            resolved_by_id: None,
            resolution_type: String::new(),
            resolution_note: String::new(),
            next_action_hint: body.next_action_hint,
            recommended_action: String::new(),
            created_at: body.created_at,
            updated_at: state.updated_at,
            expires_at: None,
        },
        key,
        original_domain: body.original_domain,
        runnable: body.runnable,
        not_before: None,
        archived_at: None,
        lease: None,
        attempts: Vec::new(),
        attempts_older: 0,
        audit: Vec::new(),
        audit_older: 0,
        terminal_at: None,
        previous_total_retries: 0,
        force_redrive_count: 0,
    };
    entry.set_state(state);
    entry
}
