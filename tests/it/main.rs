//! The behaviors a user could notice, one file each.

mod damage;
mod env;
mod env_simulated;
