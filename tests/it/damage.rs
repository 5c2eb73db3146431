//! Damage on disk: what is read afterwards, what is lost, and what is said about it.
//!
//! One store serves all cases. It was closed in order and holds two sealed segments, an active
//! one, changes in all three, and an index. A case changes bytes of a copy; `check` in
//! `damage/check.rs` then looks at the copy as a user would.

mod bytes;
mod check;
mod files;
pub mod fixture;
mod refused;
mod removed;
mod salvaged;
mod sectors;
mod torn;
