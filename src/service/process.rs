//! The service of the process: one, made at its first use.

use std::sync::{Arc, Mutex, PoisonError};

use super::{DlqEntryResult, DlqService};
use crate::entry::NewFailure;

/// Guards which service it is; never held while that works.
static SERVICE: Mutex<Option<Arc<DlqService>>> = Mutex::new(None);

/// The service of the process, with the settings of the environment; the same one until it is
/// reset. Never fails: see [`DlqService::new`]. Nobody closes it at the end of the process, so a
/// host that uses the outbox calls [`reset_dlq_service`] before, or loses what waits there.
pub fn get_dlq_service() -> Arc<DlqService> {
    let mut service = SERVICE.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(service.get_or_insert_with(|| Arc::new(DlqService::new(None, None))))
}

/// Closes the service of the process, for all who have it. The next [`get_dlq_service`] makes a
/// new one, with the settings as they are then.
pub fn reset_dlq_service() {
    let service = SERVICE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(Err(error)) = service.map(|service| service.close()) {
        tracing::error!(%error, "the service of the process was not closed cleanly");
    }
}

/// Stores a failure with the service of the process: see [`DlqService::store_failure`].
pub fn store_to_dlq(failure: NewFailure) -> DlqEntryResult {
    get_dlq_service().store_failure(failure)
}
