//! What the fuzz targets share: a bound on memory, choices from bytes, forged checksums, a real
//! file or folder where the library has no other way, small stores, and the crash tests' harness.

pub mod bound;
pub mod choice;
pub mod crash;
pub mod forge;
pub mod place;
pub mod store;
