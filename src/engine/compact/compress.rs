//! What a rewrite compresses: entries at their end, as one of samples tells that it pays.
//!
//! Samples are bodies as the rewrite will write them, of entries that will be in the new file:
//! pieces of them get into its dictionary, and nothing may stay there longer than the entry itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::engine::Inner;
use crate::engine::change::Turns;
use crate::engine::load::Live;
use crate::entry::Cause;
use crate::error::{Error, Result};
use crate::format::{self, ChangeBody, Compressor, Kind, Position};
use crate::index::{Liveness, Newest};
use crate::log::{self, Draft, Fate, Old};

/// A dictionary is made from so many bytes, which is what its training takes in memory a few times.
const SAMPLE_BYTES_MAX: u64 = 512 * 1024;
/// What compressing would save is found out with so many.
const TRIAL_BYTES_MAX: u64 = 128 * 1024;
/// One body gives at most so many bytes, so that a large one does not stand for all.
const SAMPLE_BYTES_EACH: usize = 16 * 1024;

/// An entry at its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub position: Position,
    /// The bytes of its body, with padding.
    pub bytes: u64,
}

impl Candidate {
    /// The entry in a record of so many bytes.
    pub fn new(segment: u64, offset: u64, record_bytes: u64) -> Self {
        let bytes = record_bytes.saturating_sub(format::RECORD_HEADER_LEN as u64);
        Self { position: Position { segment, offset }, bytes }
    }
}

/// Bodies of some entries.
#[derive(Default)]
struct Samples {
    bodies: Vec<Vec<u8>>,
    /// What their records take now.
    stored_bytes: u64,
    /// What they are without compression.
    plain_bytes: u64,
}

impl Inner {
    /// What compresses the entries of these segments that are at their end, and what was compressed
    /// before; none when there are none, or when this build cannot.
    pub(super) fn compressor(
        &self,
        old: &[Arc<Old>],
        folded_lsn: u64,
    ) -> Result<Option<Compressor>> {
        if !format::COMPRESSES {
            return Ok(None);
        }
        let catalog = self.catalog()?;
        let live = Live(self);
        let mut liveness = Liveness::new(&catalog, &live);
        let mut candidates = Vec::new();
        for old in old {
            let (file, end) = self.segments.open(old)?;
            let compressed = file.dictionary()?.is_some();
            let rows = &self.segments.summary(old.number)?.entries;
            let ends = rows.iter().skip(1).map(|row| row.offset).chain([end]);
            for (row, end) in rows.iter().zip(ends) {
                let Some(newest) = liveness.newest(row.lsn)? else { continue };
                let stays = compressed && row.status.is_terminal() && newest.is_present();
                if stays || newest.is_terminal() {
                    let bytes = end.saturating_sub(row.offset);
                    candidates.push(Candidate::new(old.number, row.offset, bytes));
                }
            }
        }
        self.train(&mut liveness, &candidates, (SAMPLE_BYTES_MAX, folded_lsn))
    }

    /// How many bytes compressing these would save, about.
    pub(super) fn saved_bytes(
        &self,
        liveness: &mut Liveness<'_>,
        candidates: &[Candidate],
    ) -> Result<u64> {
        let bytes: u64 = candidates.iter().map(|candidate| candidate.bytes).sum();
        let trained = self.train(liveness, candidates, (TRIAL_BYTES_MAX, u64::MAX))?;
        Ok(trained.map_or(0, |compressor| bytes.saturating_sub(compressor.estimate())))
    }

    fn train(
        &self,
        liveness: &mut Liveness<'_>,
        candidates: &[Candidate],
        bounds: (u64, u64),
    ) -> Result<Option<Compressor>> {
        let bytes: u64 = candidates.iter().map(|candidate| candidate.bytes).sum();
        let samples = self.samples(liveness, candidates, bounds)?;
        let plain = u128::from(bytes) * u128::from(samples.plain_bytes)
            / u128::from(samples.stored_bytes.max(1));
        Ok(Compressor::train(&samples.bodies, u64::try_from(plain).unwrap_or(u64::MAX)))
    }

    /// Bodies from all over the segments, as they would be written.
    fn samples(
        &self,
        liveness: &mut Liveness<'_>,
        candidates: &[Candidate],
        (bytes_max, folded_lsn): (u64, u64),
    ) -> Result<Samples> {
        let bytes: u64 = candidates.iter().map(|candidate| candidate.bytes).sum();
        let step = usize::try_from(bytes / bytes_max).unwrap_or(usize::MAX).saturating_add(1);
        let mut samples = Samples::default();
        for candidate in candidates.iter().step_by(step) {
            let frame = match self.segments.frame(candidate.position) {
                Ok(frame) if frame.header.kind == Kind::Entry => frame,
                // The rewrite itself will meet what is damaged.
                Ok(_) | Err(Error::Damaged(_)) => continue,
                Err(error) => return Err(error),
            };
            let mut body = match self.judge_entry(liveness, &frame, folded_lsn)? {
                Fate::Fold(body, _) => body,
                Fate::Keep | Fate::Compress => match frame.plain_body() {
                    Ok(body) => body.into_owned(),
                    Err(_) => continue,
                },
                Fate::Leave => continue,
            };
            samples.stored_bytes += u64::from(frame.header.body_len);
            samples.plain_bytes += body.len() as u64;
            body.truncate(SAMPLE_BYTES_EACH);
            samples.bodies.push(body);
        }
        Ok(samples)
    }

    /// Writes the newest changes of compressed entries again, so that they stay alive: a build that
    /// cannot read an entry cannot fold its state in.
    pub(super) fn restate_changes(&self, old: &[Arc<Old>]) -> Result<()> {
        let catalog = self.catalog()?;
        let live = Live(self);
        for old in old {
            let (file, _) = self.segments.open(old)?;
            if file.dictionary()?.is_none() {
                continue;
            }
            let mut liveness = Liveness::new(&catalog, &live);
            let mut changed = BTreeSet::new();
            for row in &self.segments.summary(old.number)?.entries {
                let newest = liveness.newest(row.lsn)?.filter(Newest::is_present);
                let newer = newest.is_some_and(|newest| {
                    newest.change.is_some_and(|change| change.lsn > newest.folded_lsn)
                });
                let position = Position { segment: old.number, offset: row.offset };
                if newer && self.segments.frame(position)?.header.flags.compressed {
                    changed.insert(row.lsn);
                }
            }
            let turns = Turns::take(self, changed);
            let mut liveness = Liveness::new(&catalog, &live);
            let mut drafts = Vec::new();
            for lsn in turns.lsns() {
                drafts.extend(self.change_again(&mut liveness, lsn)?);
            }
            self.carry_out(drafts, true)?;
        }
        Ok(())
    }

    fn change_again(&self, liveness: &mut Liveness<'_>, lsn: u64) -> Result<Option<Draft>> {
        let newest = liveness.newest(lsn)?.filter(Newest::is_present);
        let Some(change) = newest.and_then(|newest| newest.change) else { return Ok(None) };
        let frame = self.segments.change_frame(change.position, change.lsn)?;
        let body = frame.and_then(|frame| format::decode_body::<ChangeBody>(&frame).ok());
        let mut body = body.ok_or_else(|| Error::compressed(lsn))?;
        body.cause = Cause::Other;
        let note = log::change_note(&body);
        Draft::new(Kind::Change, &body, self.env.wall_ms(), note).map(Some)
    }
}
