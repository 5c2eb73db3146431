//! An embedded, crash-safe dead-letter log.

#![deny(unsafe_code)]

mod config;
mod engine;
mod entry;
mod env;
mod error;
pub mod format;
mod index;
mod log;

pub use config::{Background, Config, Durability, IndexKind, Prepare, Recovery, Setting};
pub use engine::{
    Accounting, BatchError, BatchReceipt, Bytes, CheckpointReport, Dump, Engine, Facets, FrameInfo,
    RebuildReport, Receipt, Spilled, Statistics, StoreError, Stored, Tail, TailItem, VerifyReport,
    dump, spill, verify,
};
pub use entry::{
    ACTIONS_KEPT, ATTEMPTS_KEPT, Action, Attempt, Entry, EntryId, FailedOperation, Filter, Json,
    Lease, Limits, NewFailure, OTHER_DOMAIN, Order, Page, Redaction, State, Status, Timestamp,
    normalize_domain,
};
pub use env::{
    CrashMode, Disk, Env, Fault, FaultKind, File, Lie, Lock, Mapped, Memory, NameKind, OpenMode,
    Operation, OperationKind, Simulated, read_exact_at, write_all_at,
};
pub use error::{Damage, DamageKind, Error, Result};
pub use log::OpenReport;
#[cfg(feature = "planted")]
#[doc(hidden)]
pub use log::planted::plant_append_after_tear;

/// The examples of the readme, which must compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
