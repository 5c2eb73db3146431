//! The behaviors a user could notice, one file each.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and brings its own files and clocks"
)]

mod bounds;
mod change;
#[cfg(feature = "cli")]
mod cli;
mod clock;
mod compact;
mod compress;
mod contract;
mod counting;
mod crash;
mod damage;
mod drain;
mod due;
mod env;
mod env_simulated;
mod faulty;
mod format;
mod format_bodies;
mod format_golden;
mod full;
mod kill;
#[cfg(feature = "cli")]
mod puts;
mod query;
mod replay_crash;
mod repository_model;
mod schedule;
mod service_bounds;
mod service_ops;
mod service_outbox;
mod service_replay;
mod service_store;
mod settings;
mod share;
mod soak;
mod store;
mod throttle;
mod tidy;
mod transitions;
mod watch;
mod weaknesses;
