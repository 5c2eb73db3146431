//! Making room: counting before a store, evicting, and evicting into summaries.
//!
//! One caller at a time evicts: it has the turn that stands for the summaries, counts again, and
//! takes the turns of the entries that nobody changes right now. So no eviction waits for a change,
//! and two of them never make the same room twice.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::change::{SUMMARIES, Turns};
use super::{Engine, Inner, lock};
use crate::config::{Bounds, Durability, OverflowStrategy};
use crate::entry::{Cause, Timestamp};
use crate::error::{Error, Result};
use crate::format::Kind;
use crate::index::{Catalog, Standing};
use crate::log::{Control, Draft, Note, Ticket};
use crate::overflow::{
    self, Admission, Digest, EvictReport, EvictRequest, EvictedSummary, Evictions, Overflow, RANKS,
    SUMMARIES_SHARE, is_waiting,
};

/// One batch of evictions with their summaries takes at most this share of a segment, so that it
/// fits into every segment and holds up nobody for long.
const BATCH_SHARE: u64 = 8;

/// What is known of the pressure on the limits.
#[derive(Debug, Default)]
pub(super) struct Pressure {
    /// Entries that may be stored before they are counted again.
    credit: AtomicU64,
    /// The last record of evictions and summaries whose fate nobody has seen; 0 when there is
    /// none.
    unsettled: AtomicU64,
    /// Guards what was evicted so far.
    evictions: Mutex<Evictions>,
}

impl Pressure {
    /// Takes from the credit; false when it does not reach.
    fn spend(&self, count: u64) -> bool {
        let order = Ordering::Relaxed;
        self.credit.fetch_update(order, order, |credit| credit.checked_sub(count)).is_ok()
    }
}

impl Engine {
    /// Evicts entries in the order of their worth: those that are done, where the request means
    /// them, then those that wait, by the priority of their domain; the oldest first. Entries that
    /// are leased, in a person's hands, or being changed right now never go. Goes on until so many
    /// are gone or none remains, in batches of
    /// [`Bounds::overflow_evict_batch_size`](crate::Bounds::overflow_evict_batch_size).
    ///
    /// When this returns `Ok`, the entries are gone for good and their keys are free. With
    /// `compress` each of them is counted in a summary from the same moment on: after a crash it
    /// is there or counted, never both and never neither.
    ///
    /// # Errors
    ///
    /// [`Error::IndexNotReady`](crate::Error::IndexNotReady), and those of [`Engine::store`]; some
    /// may be gone then.
    ///
    /// # Example
    ///
    /// ```
    /// # use deadletter::{Config, Engine, EvictRequest, NewFailure};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(dir.path().join("captured")))?;
    /// let oldest = engine.store(NewFailure::new("payment", "PG_TIMEOUT"))?;
    /// let request = EvictRequest { count: 1, compress: true, ..EvictRequest::default() };
    /// assert_eq!(engine.evict(&request)?.evicted, 1);
    /// assert_eq!(engine.get(oldest.id)?, None);
    /// assert_eq!(engine.summaries()?[0].count, 1);
    /// # engine.close()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn evict(&self, request: &EvictRequest) -> Result<EvictReport> {
        self.inner.check_open()?;
        self.inner.evict_by(request)
    }

    /// Makes room if a limit is at its threshold: at most one batch, as
    /// [`Bounds::overflow_strategy`](crate::Bounds::overflow_strategy) says. The engine's own
    /// thread does it too, so only a host that opened with
    /// [`Background::Manual`](crate::Background::Manual) has to call it, or [`Engine::step`].
    ///
    /// # Errors
    ///
    /// As [`Engine::evict`].
    pub fn evict_overflow(&self) -> Result<EvictReport> {
        self.inner.check_open()?;
        self.inner.commit()?;
        self.inner.relieve(&*self.inner.catalog()?)
    }

    /// How this store stands to its limits; exact, without a scan.
    ///
    /// # Errors
    ///
    /// As [`Engine::get`].
    pub fn overflow(&self) -> Result<Overflow> {
        let waiting = self.inner.open_catalog()?.count_by_domain(is_waiting);
        Ok(Overflow {
            level: overflow::level(&self.inner.config.bounds, &waiting),
            active: waiting.values().sum(),
            evictions: self.evictions(),
        })
    }

    /// How many entries may wait.
    pub fn bounds(&self) -> &Bounds {
        &self.inner.config.bounds
    }

    /// What this store evicted since it was opened.
    pub fn evictions(&self) -> Evictions {
        *lock(&self.inner.pressure.evictions)
    }
}

impl Inner {
    /// As [`Engine::evict`].
    pub(super) fn evict_by(&self, request: &EvictRequest) -> Result<EvictReport> {
        let _turn = self.turn_of_summaries()?;
        self.evict(&*self.catalog()?, request)
    }

    /// Makes sure that new entries find room under the limits, or refuses them. The entries are
    /// counted only when they may be near a limit, so a store seldom waits for the index.
    pub(super) fn admit(&self, drafts: &[Draft]) -> Result<()> {
        let bounds = &self.config.bounds;
        let count = drafts.len() as u64;
        if !bounds.is_limited() || count == 0 || self.pressure.spend(count) {
            return Ok(());
        }
        if self.feed.ready().is_none() {
            let commit = self.commit()?;
            let unseen = commit.last_lsn().saturating_sub(commit.logged_lsn());
            if overflow::is_far(bounds, self.live() + unseen + count) {
                return Ok(());
            }
        }
        let catalog = self.catalog()?;
        let added = added(drafts);
        if self.room_wanted(&catalog, &added)?.is_none() {
            return Ok(());
        }
        let _turn = self.turn_of_summaries()?;
        // Somebody else may have made room meanwhile. Each round makes all the room that one of
        // the limits asks for.
        for _ in 0..=added.len() {
            let Some(request) = self.room_wanted(&catalog, &added)? else { return Ok(()) };
            lock(&self.pressure.evictions).emergencies += 1;
            if self.evict(&catalog, &request)?.evicted == 0 {
                break;
            }
        }
        let waiting = catalog.count_by_domain(is_waiting);
        overflow::refusal(bounds, &waiting, &added).map_or(Ok(()), Err)
    }

    /// What must go before the entries may be stored; nothing when they may.
    fn room_wanted(
        &self,
        catalog: &Catalog,
        added: &BTreeMap<Arc<str>, u64>,
    ) -> Result<Option<EvictRequest>> {
        let bounds = &self.config.bounds;
        let commit = self.commit()?;
        // Read first: what becomes visible meanwhile counts twice rather than not at all.
        let mut unseen = commit.last_lsn().saturating_sub(commit.logged_lsn());
        let mut waiting = catalog.count_by_domain(is_waiting);
        if unseen > 0 && !overflow::has_room(bounds, &waiting, added, unseen) {
            // Those on their way may take the last room, so they are written and counted.
            commit.flush()?;
            unseen = 0;
            waiting = catalog.count_by_domain(is_waiting);
        }
        match overflow::admit(bounds, &waiting, added) {
            Admission::Store { credit } => {
                self.pressure.credit.store(credit.saturating_sub(unseen), Ordering::Relaxed);
                Ok(None)
            }
            Admission::Evict(request) => Ok(Some(request)),
            Admission::Refuse(error) => Err(error),
        }
    }

    /// How many entries there are at most.
    fn live(&self) -> u64 {
        let totals = self.feed.totals();
        totals.captured.saturating_sub(totals.purged + totals.evicted + totals.lost)
    }

    /// Makes room in the background, if the index is there and somebody may want it.
    pub(super) fn relieve_if_due(&self) -> Result<()> {
        let bounds = &self.config.bounds;
        let is_idle = self.pressure.credit.load(Ordering::Relaxed) > 0;
        if !bounds.is_limited() || bounds.overflow_strategy == OverflowStrategy::Reject || is_idle {
            return Ok(());
        }
        let Some(catalog) = self.feed.ready() else { return Ok(()) };
        self.relieve(&catalog).map(drop)
    }

    /// Evicts one batch if a limit is at its threshold.
    fn relieve(&self, catalog: &Catalog) -> Result<EvictReport> {
        let bounds = &self.config.bounds;
        if overflow::surplus(bounds, &catalog.count_by_domain(is_waiting)).is_empty() {
            return Ok(EvictReport::default());
        }
        let _turn = self.turn_of_summaries()?;
        // The first limit under which anything may go; all else is for the next call.
        for request in overflow::surplus(bounds, &catalog.count_by_domain(is_waiting)) {
            let report = self.evict(catalog, &request)?;
            if report.evicted > 0 {
                return Ok(report);
            }
        }
        Ok(EvictReport::default())
    }

    /// Waits for the turn to evict and to change summaries, and until the fate of the last such
    /// records is known: on what a stalled disk may still do nothing can be built.
    pub(super) fn turn_of_summaries(&self) -> Result<Turns<'_>> {
        let commit = self.commit()?;
        let turn = Turns::take(self, [SUMMARIES].into());
        let last_lsn = self.pressure.unsettled.load(Ordering::Acquire);
        if last_lsn > 0 {
            let waited = commit.wait(Ticket { first_lsn: last_lsn, last_lsn }, Durability::Synced);
            self.note_unsettled(&waited);
            // Any other error says what became of them.
            if matches!(waited, Err(Error::Stalled { .. })) {
                return waited.map(|()| turn);
            }
        }
        Ok(turn)
    }

    /// Notes whether records of evictions and summaries are still on their way.
    pub(super) fn note_unsettled<T>(&self, result: &Result<T>) {
        let stalled = matches!(result, Err(Error::Stalled { .. }));
        let last_lsn = self.commit.as_ref().filter(|_| stalled).map(|commit| commit.last_lsn());
        self.pressure.unsettled.store(last_lsn.unwrap_or(0), Ordering::Release);
    }

    /// Evicts batch after batch. The caller has the turn of the summaries.
    fn evict(&self, catalog: &Catalog, request: &EvictRequest) -> Result<EvictReport> {
        let batch = u64::from(self.config.bounds.overflow_evict_batch_size);
        let mut report = EvictReport::default();
        while report.evicted < request.count {
            let wanted = batch.min(request.count - report.evicted);
            let (turns, victims) = self.victims(catalog, request, wanted);
            let part = if request.compress {
                self.compress(catalog, &victims)
            } else {
                self.drop_all(&victims)
            };
            self.note_unsettled(&part);
            drop(turns);
            let part = part?;
            report.add(part);
            if part.evicted == 0 {
                break;
            }
        }
        Ok(report)
    }

    /// The next entries to go, and the right to change them.
    fn victims(
        &self,
        catalog: &Catalog,
        request: &EvictRequest,
        count: u64,
    ) -> (Turns<'_>, Vec<Standing>) {
        let bounds = &self.config.bounds;
        let busy = lock(&self.changing).clone();
        let found = catalog.first_by_rank(
            RANKS,
            &|status, domain| request.rank(bounds, status, domain),
            &|lsn| busy.contains(&lsn),
            usize::try_from(count).unwrap_or(usize::MAX),
        );
        let turns = Turns::take_free(self, found.iter().map(|standing| standing.lsn));
        // What changed before its turn was taken is judged again.
        let now = found.iter().filter(|standing| turns.has(standing.lsn));
        let now = now.filter_map(|standing| catalog.standing(standing.lsn));
        let goes = |it: &Standing| request.rank(bounds, it.status, &it.domain).is_some();
        let victims = now.filter(goes).collect();
        (turns, victims)
    }

    /// Evicts entries without reading them.
    fn drop_all(&self, victims: &[Standing]) -> Result<EvictReport> {
        let drafts = victims.iter().map(|victim| self.eviction(victim));
        self.carry_out(drafts.collect::<Result<_>>()?, true)?;
        let report = EvictReport { evicted: victims.len() as u64, ..EvictReport::default() };
        lock(&self.pressure.evictions).add(report);
        Ok(report)
    }

    /// Evicts entries into summaries, in batches of which a crash leaves all or nothing.
    fn compress(&self, catalog: &Catalog, victims: &[Standing]) -> Result<EvictReport> {
        let bytes_max = self.config.segment_bytes / BATCH_SHARE;
        let mut report = EvictReport::default();
        let mut rest = victims.iter().peekable();
        while rest.peek().is_some() {
            let mut digest = self.digest();
            let mut drafts: Vec<Draft> = Vec::new();
            let mut bytes = 0;
            while bytes + digest.bytes() < bytes_max
                && let Some(victim) = rest.next()
            {
                // One that turns out to be damaged is lost, and counted as that.
                let Some(entry) = self.read(catalog, victim.lsn)? else { continue };
                digest.fold(&entry);
                let draft = self.eviction(victim)?;
                bytes += draft.record_len();
                drafts.push(draft);
            }
            if drafts.is_empty() {
                continue;
            }
            let part = EvictReport { evicted: drafts.len() as u64, summaries: digest.len() };
            let now = self.env.wall_ms();
            for summary in digest.finish() {
                drafts.push(summary_draft(&summary, now)?);
            }
            self.write_synced(drafts)?;
            lock(&self.pressure.evictions).add(part);
            report.add(part);
        }
        Ok(report)
    }

    fn digest(&self) -> Digest {
        let summaries = self.feed.summaries().into_iter().map(EvictedSummary::from).collect();
        let bytes_max = self.config.segment_bytes / SUMMARIES_SHARE;
        Digest::new(summaries, Timestamp(self.env.wall_ms()), bytes_max)
    }

    /// The record that evicts an entry.
    fn eviction(&self, victim: &Standing) -> Result<Draft> {
        let terms = (&*victim.domain, &*victim.failure_type);
        self.removal(victim.lsn, victim.status, terms, Cause::Evicted)
    }
}

/// The record of a summary.
pub(super) fn summary_draft(summary: &EvictedSummary, now: u64) -> Result<Draft> {
    let body = Arc::new(summary.to_body());
    let note = Note::Control(Control::Summary(Arc::clone(&body)));
    Draft::new(Kind::Summary, &*body, now, note)
}

/// How many entries of each domain are among the records.
fn added(drafts: &[Draft]) -> BTreeMap<Arc<str>, u64> {
    let mut added = BTreeMap::new();
    for draft in drafts {
        if let Note::Entry { domain, .. } = &draft.note {
            *added.entry(Arc::clone(domain)).or_default() += 1;
        }
    }
    added
}
