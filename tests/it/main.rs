//! The behaviors a user could notice, one file each.

mod env;
mod env_simulated;
