//! What the device does: whether a sync reaches it, whether reserved space is real, and its clock.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use deadletter::{Disk, Env as _, File, OpenMode, write_all_at};
use jiff::Timestamp;

use super::Check;
use crate::settings::Context;

/// The median of so many syncs is judged.
const SYNCS: usize = 9;
/// No medium that keeps its data through a power failure is faster; those with a protected cache come near.
const SYNC_MIN: Duration = Duration::from_micros(20);
/// A sync writes so many bytes.
const PAGE: usize = 4096;
/// The ballast is tried with so many bytes where none is set.
const PROBE_BYTES: u64 = 1024 * 1024;
/// A clock is plausible in these years: this program is not older, and it is no relic yet.
const YEARS: std::ops::RangeInclusive<i16> = 2025..=2100;
/// Files may be so much newer than the clock: the clock was set a little.
const CLOCK_SLACK: Duration = Duration::from_mins(1);

/// File systems in memory.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];
/// File systems that write elsewhere what is written again: btrfs, bcachefs, zfs, nilfs.
const COPY_ON_WRITE: [u64; 4] = [0x9123_683e, 0xca45_1a4e, 0x2fc1_2fc1, 0x3434];

/// A file of ours, removed when it is dropped.
struct Probe {
    path: PathBuf,
    file: Arc<dyn File>,
}

impl Probe {
    fn new(dir: &Path, what: &str) -> io::Result<Self> {
        let path = dir.join(format!(".doctor-{what}-{}.tmp", std::process::id()));
        let file = Disk::new().open(&path, OpenMode::CreateNew)?;
        Ok(Self { path, file })
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // Nothing more can be done about it here.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Whether a sync takes as long as a real one must.
pub fn sync(dir: &Path) -> Check {
    let median = match median_sync(dir) {
        Ok(median) => median,
        Err(error) => {
            let message = format!("could not be measured: {error}");
            return Check::warn("sync", message, "look at free space and rights");
        }
    };
    let took = format!("a sync takes {} us", median.as_micros());
    if file_system(dir).is_some_and(|kind| IN_MEMORY.contains(&kind)) {
        return Check::ok(
            "sync",
            format!("{took}; in memory, so nothing survives a power failure"),
        );
    }
    if median < SYNC_MIN {
        let message = format!("{took}, faster than a disk can be");
        return Check::warn(
            "sync",
            message,
            "a virtual disk or a cache may answer before it wrote",
        );
    }
    Check::ok("sync", took)
}

fn median_sync(dir: &Path) -> io::Result<Duration> {
    let probe = Probe::new(dir, "sync")?;
    let mut times = Vec::with_capacity(SYNCS);
    for round in 0..=SYNCS {
        let page = [u8::try_from(round).unwrap_or(u8::MAX); PAGE];
        write_all_at(&*probe.file, &page, 0)?;
        let begin = Instant::now();
        probe.file.sync()?;
        // The first one also makes the file's space durable.
        if round > 0 {
            times.push(begin.elapsed());
        }
    }
    times.sort();
    Ok(times.get(SYNCS / 2).copied().unwrap_or_default())
}

/// Whether space that is reserved is really taken, and comes back when the file is removed.
pub fn ballast(context: &Context) -> Check {
    let hint = "keep free space beside the store; purge before the disk is full";
    let bytes = match context.config().ballast_size() {
        0 => return Check::warn("ballast", "none is kept", "set ballast_bytes"),
        bytes => bytes.min(PROBE_BYTES),
    };
    let taken = match try_ballast(&context.dir, bytes) {
        Ok(taken) => taken,
        Err(error) => {
            let message = format!("{bytes} bytes could not be reserved: {error}");
            return Check::warn("ballast", message, hint);
        }
    };
    if taken < bytes / 2 {
        let message = format!("of {bytes} reserved bytes {taken} were taken from the free space");
        return Check::warn("ballast", message, hint);
    }
    if file_system(&context.dir).is_some_and(|kind| COPY_ON_WRITE.contains(&kind)) {
        let message = "the file system copies on write, so a full one may refuse even old space";
        return Check::warn("ballast", message, hint);
    }
    Check::ok("ballast", format!("{bytes} bytes can be reserved and written"))
}

/// Reserves space, writes over it, and answers by how much the free space fell.
fn try_ballast(dir: &Path, bytes: u64) -> io::Result<u64> {
    let before = free_bytes(dir)?;
    let probe = Probe::new(dir, "ballast")?;
    match probe.file.allocate(bytes) {
        // Then the ballast is written instead.
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
        other => other?,
    }
    let zeros = vec![0; usize::try_from(bytes).unwrap_or(PAGE)];
    write_all_at(&*probe.file, &zeros, 0)?;
    probe.file.sync()?;
    Ok(before.saturating_sub(free_bytes(dir)?))
}

/// Whether the clock is plausible, and the other one never goes back.
pub fn clock(dir: &Path) -> Check {
    let hint = "set the clock; deletion and expiry wait for a trusted one, nothing is lost";
    let (now, first) = (SystemTime::now(), Instant::now());
    let Ok(time) = Timestamp::try_from(now) else {
        return Check::warn("clock", "it shows no time that can be written", hint);
    };
    let year = time.in_tz("UTC").map_or(0, |zoned| zoned.year());
    if !YEARS.contains(&year) {
        return Check::warn("clock", format!("it shows {time}"), hint);
    }
    let written = std::fs::metadata(dir).and_then(|metadata| metadata.modified());
    if written.is_ok_and(|written| written > now + CLOCK_SLACK) {
        let message = format!("it shows {time}, which is before the directory was last written");
        return Check::warn("clock", message, hint);
    }
    if Instant::now() < first {
        return Check::fail("clock", "the monotonic clock went back", "report it to the vendor");
    }
    Check::ok("clock", format!("it shows {time}"))
}

fn free_bytes(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    // For root, what is kept for it is free, too.
    Ok(stat.f_bfree.saturating_mul(stat.f_frsize))
}

/// The magic number of a file system, where there is one.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn file_system(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statfs(dir).ok()?;
    u32::try_from(stat.f_type).ok().map(u64::from)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn file_system(_dir: &Path) -> Option<u64> {
    None
}
