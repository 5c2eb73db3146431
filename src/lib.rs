//! An embedded, crash-safe dead-letter log: keep what failed, find it, replay it.
//!
//! [`Engine::open`] makes or recovers a store in a directory, [`Engine::store`] keeps one
//! [`NewFailure`] and says how durable it is, [`Engine::find`] and [`Engine::get`] find it again,
//! [`Engine::change`] changes its state, [`Engine::change_all`] changes and removes many. A store
//! is one directory with one writing process; [`Engine::open_read_only`] looks at it beside the
//! writer.
//!
//! [`DlqService`] is the policy above it: it stores whatever happens, replays entries with a
//! [`ReplayHandler`] for each domain, retries and gives up, lets operators resolve, and lets
//! entries age. It works on any [`FailedOperationRepository`]: the engine, the
//! [`MemoryRepository`] for tests, or the host's own.
//!
//! # What is promised
//!
//! `docs/PROMISE.md` says it line by line, each with its tests; the methods name its lines.
//!
//! - `Ok` from a store call names the level that was reached, see [`Durability`]. An error gives
//!   the failure back.
//! - Opening a damaged store succeeds (unless [`Recovery::Strict`] is asked for), loses only what
//!   is damaged, and says exactly what: [`Engine::report`], [`verify`].
//! - What can be seen after opening is durable.
//! - JSON payloads come back byte for byte.
//! - An attempt is durable before its handler runs, and counted exactly whatever ends the process.
//!   Its outcome is taken once, from whoever holds the lease. A handler may run again although it
//!   delivered, if the power went before that was written: it must be idempotent.
//!
//! # What an operation costs
//!
//! A synced `store` costs one sync, shared by all threads that store at the same time. Queries
//! cost no sync and wait for none. Counts and facets are exact and cost no scan. Opening for
//! storing reads the newest segment; the index is loaded or rebuilt beside it.
//!
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `cli` | no | the `deadletter` command |
//! | `zstd` | no | compression of entries that are done, when segments are rewritten; brings C code |
//! | `planted` | no | a bug for this project's own crash tests to find |
//!
//! The bytes on disk are described in [`mod@format`].

#![deny(unsafe_code)]

mod clock;
mod compact;
mod config;
mod engine;
mod entry;
mod env;
mod error;
pub mod format;
mod index;
mod log;
mod memory;
mod overflow;
mod replay;
mod repository;
mod service;
mod settings;
mod throttle;

pub use clock::{ClockStatus, JumpInDoubt, Timeline};
pub use config::{
    Background, Bounds, Config, DlqConfig, Durability, IndexKind, OverflowStrategy, Prepare,
    Priority, Recovery, Setting,
};
pub use engine::{
    Accounting, BatchError, BatchReceipt, Bytes, Changed, CheckpointReport, CompactReport,
    Decision, Dump, Engine, Facets, FrameInfo, Leases, Notice, NoticeTaker, RebuildReport, Receipt,
    SalvageReport, Shortage, Space, SpaceLevel, Spilled, Statistics, StoreError, Stored, Tail,
    TailItem, TallyRow, VerifyReport, dump, salvage, salvage_with, spill, spill_with, verify,
    verify_with,
};
pub use entry::{
    ACTIONS_KEPT, ATTEMPTS_KEPT, AUTO_REPLAY, Act, Action, Attempt, Cause, Completion,
    DUPLICATE_SKIP, Entry, EntryId, FailedOperation, Filter, Json, Lease, Limits, NewFailure,
    OTHER_DOMAIN, Order, Page, Redaction, ReplayType, State, Status, Timestamp, normalize_domain,
};
pub use env::{
    CrashMode, Disk, Env, Fault, FaultKind, File, Lie, Lock, Mapped, Memory, NameKind, OpenMode,
    Operation, OperationKind, Simulated, Watch, read_exact_at, write_all_at,
};
pub use error::{Damage, DamageKind, DlqError, DlqResult, Error, Result};
pub use log::OpenReport;
#[cfg(feature = "planted")]
#[doc(hidden)]
pub use log::planted;
pub use memory::MemoryRepository;
pub use overflow::{
    EvictReport, EvictRequest, EvictedSummary, Evictions, Overflow, SummaryStatus, SummaryTotals,
    WaterLevel,
};
pub use replay::{Handlers, Outcome, ReplayAttempt, ReplayHandler, Verdict};
pub use repository::{
    CleanupStats, FailedOperationRepository, Leased, Maintained, Maintenance, Released, Resolution,
    SlaThresholds, SummariesAged, Sweep, TurnedOver,
};
pub use service::{
    AuditRecord, CallerContext, CleanupResult, DlqBatchReplayStats, DlqEntryResult, DlqEvent,
    DlqRecoveryResult, DlqService, DlqServiceBuilder, DlqThrottleBatchReplayResult,
    DlqThrottleReplayResult, DomainCounters, EarlyStop, EntryPage, Health, HealthStatus, History,
    Job, JobStats, ListRequest, OutboxStats, PurgeSelection, QueuedReceipt, Reached, ReplayOptions,
    ReplayPreview, ResolveBatchResult, ResolveError, ResolveRequest, ResolveResult, RetryResult,
    ScheduleStats, ServiceStats, Skip, StoreMode, StoreOptions, TestEntry, get_dlq_service,
    reset_dlq_service, store_to_dlq,
};
pub use settings::default_dir;
pub use throttle::{
    AdaptiveBatchSize, AdaptiveThrottle, BatchOutcome, BatchSizeConfig, Denial, Emergency,
    Feedback, Permit, Throttle, ThrottleConfig, ThrottleStats,
};

/// The examples of the readme, which must compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
