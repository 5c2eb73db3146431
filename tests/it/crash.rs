//! Power cuts and faults at every step: what was acknowledged is there, what was not submitted
//! is not, and nobody has to repair anything.
//!
//! `setup` is what all of it begins with, `model` says what a store may hold after a crash, `tap`
//! takes a picture of the disk before every step, `play` runs operations over both, `check` opens
//! what is left, `life` is a long random use with crashes and faults, `explore` walks through
//! sequences and lives, `compaction` through all of a compaction, `planted` proves that the walk
//! finds bugs, and `found` keeps what it found.
//!
//! `fuzz/src/crash.rs` includes `setup`, `model`, `play`, `tap` and `check`.

mod check;
mod compaction;
mod explore;
mod found;
mod life;
mod model;
mod planted;
mod play;
mod setup;
mod tap;

use setup::{Chance, DIR, MAX_BYTES, config};
