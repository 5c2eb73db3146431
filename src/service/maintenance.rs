//! Letting entries age: expire, archive, purge, release.
