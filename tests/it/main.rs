//! The behaviors a user could notice, one file each.

#[cfg(feature = "cli")]
mod cli;
mod damage;
mod env;
mod env_simulated;
mod kill;
mod share;
