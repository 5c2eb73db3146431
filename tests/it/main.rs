//! The behaviors a user could notice, one file each.

#[cfg(feature = "cli")]
mod cli;
mod env;
mod env_simulated;
mod format;
mod format_bodies;
mod format_golden;
mod tidy;
