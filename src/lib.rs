//! An embedded, crash-safe dead-letter log.

#![deny(unsafe_code)]

mod env;
mod error;

pub use env::{
    CrashMode, Disk, Env, Fault, FaultKind, File, Lie, Lock, Mapped, Memory, NameKind, OpenMode,
    Operation, OperationKind, Simulated, read_exact_at, write_all_at,
};
pub use error::{Damage, DamageKind, Error, Result};
