//! Where a group goes when there is no space for another segment.
//!
//! New entries are refused. An operator's changes go on, so that space can be made:
//!
//! 1. into the reserve at the end of the active segment,
//! 2. into a small segment, where there is still room for that,
//! 3. into a small segment in the place of the ballast, which is given up for it.

use std::path::Path;

use crate::config::Config;
use crate::env::Env;
use crate::error::Error;
use crate::format::Kind;

use super::{Claim, CommitError, Pending, Writer};

/// Small segments are shares of the ballast, and of this where there is none.
const SMALLEST: u64 = 64 * 1024;

impl Pending {
    /// Whether this is a new entry, and no change of what is there.
    pub fn is_entry(&self) -> bool {
        self.draft.kind == Kind::Entry
    }

    /// Whether old files go once this is written.
    fn gives_space_back(&self) -> bool {
        matches!(self.draft.kind, Kind::Replace | Kind::Drop)
    }
}

impl Writer {
    /// Makes place for a group that the active segment has no room for.
    pub(super) fn make_place(&mut self, group: &[Pending], bytes: u64) -> Result<(), CommitError> {
        let error = match self.rotate(self.config.segment_size(), Claim::Growth) {
            Err(CommitError::Refused(error)) => error,
            other => {
                if other.is_ok() {
                    self.account.end_shortage();
                }
                return other;
            }
        };
        if group.iter().any(Pending::is_entry) {
            if let Error::Full { what, bytes, bytes_max } = error {
                self.account.note_shortage((what, bytes, bytes_max), self.env.wall_ms());
            }
            return Err(CommitError::Refused(error));
        }
        if self.fits(group, bytes, false) {
            return Ok(());
        }
        self.begin_small(group, bytes, error)
    }

    /// Begins a segment for changes alone; gives the ballast up if it must.
    pub(super) fn begin_small(
        &mut self,
        group: &[Pending],
        bytes: u64,
        error: Error,
    ) -> Result<(), CommitError> {
        let serves = group.is_empty() || group.iter().any(Pending::gives_space_back);
        let claim = if serves { Claim::Rewrite } else { Claim::Change };
        for with_ballast in [false, true] {
            if with_ballast && self.ballast.release().map_err(CommitError::Refused)? == 0 {
                break;
            }
            for segment_bytes in small_segment_sizes(&self.config) {
                // Half of it is for the segment set and the footer.
                if bytes > segment_bytes / 2 {
                    continue;
                }
                match self.rotate(segment_bytes, claim) {
                    Err(CommitError::Refused(_)) => continue,
                    other => other?,
                }
                self.for_changes = true;
                if self.fits(group, bytes, false) {
                    return Ok(());
                }
                return Err(CommitError::Refused(error));
            }
        }
        Err(CommitError::Refused(error))
    }
}

/// The sizes of segments for changes alone, the largest first.
pub(crate) fn small_segment_sizes(config: &Config) -> [u64; 2] {
    let bytes = config.ballast_size().max(SMALLEST);
    [bytes / 2, bytes / 4]
}

/// Whether something could not be done for want of space.
pub(crate) fn is_no_space(error: &Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    match error {
        Error::Io { source, .. } => matches!(source.kind(), StorageFull | QuotaExceeded),
        Error::Full { .. } => true,
        _ => false,
    }
}

/// What to say of a full disk on which so many bytes were wanted. Of a quota the file system does not
/// tell what is left.
pub(crate) fn full_of(env: &dyn Env, dir: &Path, bytes: u64, error: &Error) -> Error {
    let quota = std::io::ErrorKind::QuotaExceeded;
    if matches!(error, Error::Io { source, .. } if source.kind() == quota) {
        return Error::Full { what: "quota", bytes, bytes_max: 0 };
    }
    let bytes_max = env.free_bytes(dir).unwrap_or(0);
    Error::Full { what: "disk", bytes, bytes_max }
}
