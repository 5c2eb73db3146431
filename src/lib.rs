//! An embedded, crash-safe dead-letter log.

mod entry;
mod env;
mod error;
pub mod format;

pub use env::{
    CrashMode, Disk, Env, Fault, FaultKind, File, Lock, Mapped, Memory, NameKind, OpenMode, Operation,
    Simulated, read_exact_at, write_all_at,
};
pub use entry::{
    ACTIONS_KEPT, ATTEMPTS_KEPT, Action, Attempt, Entry, EntryId, FailedOperation, Filter, Json,
    Lease, Limits, NewFailure, OTHER_DOMAIN, Order, Page, Redaction, State, Status, Timestamp,
    normalize_domain,
};
pub use error::{Damage, DamageKind, Error, Result};
