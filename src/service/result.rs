//! What became of a failure that was given to the service.

use std::path::PathBuf;

use serde::{Serialize, Serializer};

use super::receipt::QueuedReceipt;
use crate::config::Durability;
use crate::engine::Stored;
use crate::entry::{EntryId, NewFailure};

/// What became of a failure. It serializes to the keys of the reference; what is given back does
/// not.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct DlqEntryResult {
    /// Whether the failure is an entry of the store, or, with [`Reached::Queued`], waits to be one.
    pub success: bool,
    /// The entry; of a duplicate, the first copy. None while it waits, and in a fallback file.
    pub dlq_id: Option<EntryId>,
    /// The entry's key, as far as it is known.
    pub key: Option<String>,
    /// Why it is not in the store.
    pub error: Option<String>,
    /// The fallback file that keeps it instead; it comes home by itself.
    #[serde(serialize_with = "path_text")]
    pub fallback_path: Option<PathBuf>,
    /// How safe it is.
    pub durability: Reached,
    /// An entry with this key was there already, and nothing new was stored.
    pub duplicate: bool,
    /// The failure, when it is nowhere else.
    #[serde(skip)]
    pub failure: Option<Box<NewFailure>>,
    /// Tells what becomes of it, while it waits.
    #[serde(skip)]
    pub receipt: Option<QueuedReceipt>,
}

/// How safe a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reached {
    /// Synced in the store: it survives a power failure.
    Synced,
    /// Written to the store: it survives the end of the process.
    Written,
    /// In memory, on its way.
    Queued,
    /// Synced in a fallback file.
    Spilled,
    /// Nowhere: the caller has it.
    None,
}

impl DlqEntryResult {
    /// The failure is this entry, synced.
    pub fn created(id: EntryId, key: impl Into<String>) -> Self {
        let (dlq_id, key) = (Some(id), Some(key.into()));
        Self { success: true, dlq_id, key, durability: Reached::Synced, ..Self::failed("") }
            .without_error()
    }

    /// The failure is nowhere.
    pub fn failed(error: impl Into<String>) -> Self {
        Self {
            success: false,
            dlq_id: None,
            key: None,
            error: Some(error.into()),
            fallback_path: None,
            durability: Reached::None,
            duplicate: false,
            failure: None,
            receipt: None,
        }
    }

    /// The failure is in a fallback file, because of this error.
    pub fn fallback(error: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        let fallback_path = Some(path.into());
        Self { fallback_path, durability: Reached::Spilled, ..Self::failed(error) }
    }

    /// Whether a fallback file keeps it.
    pub fn is_fallback(&self) -> bool {
        self.fallback_path.is_some()
    }

    pub(super) fn stored(stored: Stored) -> Self {
        let durability = match stored.durability {
            Durability::Synced => Reached::Synced,
            Durability::Written => Reached::Written,
            Durability::Queued => Reached::Queued,
        };
        let duplicate = stored.duplicate;
        Self { durability, duplicate, ..Self::created(stored.id, stored.key) }
    }

    pub(super) fn queued(key: Option<String>, receipt: QueuedReceipt) -> Self {
        let (durability, receipt) = (Reached::Queued, Some(receipt));
        Self { success: true, key, durability, receipt, ..Self::failed("") }.without_error()
    }

    pub(super) fn given_back(error: impl Into<String>, failure: Box<NewFailure>) -> Self {
        Self { key: failure.key.clone(), failure: Some(failure), ..Self::failed(error) }
    }

    fn without_error(mut self) -> Self {
        self.error = None;
        self
    }
}

/// A path as text: one that is no UTF-8 is shown with replacements, as everywhere.
#[expect(clippy::ref_option, reason = "serde gives a reference to the field")]
fn path_text<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => serializer.serialize_some(&path.to_string_lossy()),
        None => serializer.serialize_none(),
    }
}
