//! The behaviors a user could notice, one file each.

#[cfg(feature = "cli")]
mod cli;
mod crash;
mod damage;
mod env;
mod env_simulated;
mod format;
mod format_bodies;
mod format_golden;
mod kill;
#[cfg(feature = "cli")]
mod puts;
mod query;
mod share;
mod store;
mod tidy;
