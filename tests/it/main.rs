//! The behaviors a user could notice, one file each.

#[cfg(feature = "cli")]
mod cli;
mod crash;
mod env;
mod env_simulated;
