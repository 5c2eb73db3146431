//! An embedded, crash-safe dead-letter log.

mod env;
mod error;

pub use env::{
    CrashMode, Disk, Env, Fault, FaultKind, File, Lock, Mapped, Memory, NameKind, OpenMode, Operation,
    Simulated, read_exact_at, write_all_at,
};
pub use error::{Damage, DamageKind, Error, Result};
