//! The harness of the crash tests, as it is: the same model, operations and checks.
#![allow(dead_code, reason = "the tests use more of it")]

#[path = "../../tests/it/crash/check.rs"]
pub mod check;
#[path = "../../tests/it/crash/model.rs"]
pub mod model;
#[path = "../../tests/it/crash/play.rs"]
pub mod play;
#[path = "../../tests/it/crash/setup.rs"]
mod setup;
#[path = "../../tests/it/crash/tap.rs"]
pub mod tap;

pub use setup::{Chance, DIR, MAX_BYTES, config};
