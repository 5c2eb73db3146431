//! The behaviors a user could notice, one file each.

mod env;
mod env_simulated;
mod format;
mod format_bodies;
mod format_golden;
mod tidy;
