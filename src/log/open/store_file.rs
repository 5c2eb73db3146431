//! The store file: what makes a directory a store, and how one is told from anything else.

use std::path::Path;

use crate::env::{Env, NameKind, OpenMode, read_around, write_all_at};
use crate::error::{Error, Result};
use crate::format::{self, FileName, FormatError, StoreHeader};
use crate::log::segment::SegmentFile;

/// The store file has this name until it is whole.
const STORE_TEMPORARY: &str = "STORE.tmp";

/// What stands in a data directory.
pub(super) enum Found {
    Nothing,
    Store(StoreHeader),
    /// The store file is damaged, but the segments tell the store.
    Damaged(StoreHeader),
}

/// Whether the directory holds a store; an error when it holds something else.
pub(crate) fn check_store(env: &dyn Env, dir: &Path) -> Result<bool> {
    Ok(!matches!(find_store(env, dir)?, Found::Nothing))
}

/// Whether the store is known by its segments only.
pub(crate) fn store_file_damaged(env: &dyn Env, dir: &Path) -> Result<bool> {
    Ok(matches!(find_store(env, dir)?, Found::Damaged(_)))
}

/// The uuid of the store in a directory, when there is one.
pub(crate) fn store_uuid(env: &dyn Env, dir: &Path) -> Result<Option<[u8; 16]>> {
    Ok(match find_store(env, dir)? {
        Found::Nothing => None,
        Found::Store(header) | Found::Damaged(header) => Some(header.uuid),
    })
}

pub(super) fn find_store(env: &dyn Env, dir: &Path) -> Result<Found> {
    let names = match env.list(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Found::Nothing),
        other => other.map_err(|error| Error::io("list", dir, error))?,
    };
    let path = dir.join(format::STORE_NAME);
    let not_ours = |reason: String| Error::NotAStore { dir: dir.to_path_buf(), reason };
    match names.iter().find(|(name, _)| name == format::STORE_NAME) {
        Some((_, NameKind::File(len))) if *len <= 4096 => {
            let bytes = read_file(env, &path, *len)?;
            match StoreHeader::decode(&bytes) {
                Ok(header) => return Ok(Found::Store(header)),
                Err(FormatError::Version(major, minor)) => {
                    return Err(Error::Version {
                        path,
                        found: format!("{major}.{minor}"),
                        supported: format!("{}.x", format::VERSION_MAJOR),
                    });
                }
                Err(error) => {
                    let header = store_of_segments(env, dir);
                    let reason = format!("its file STORE is no store file ({error})");
                    return header.map(Found::Damaged).ok_or_else(|| not_ours(reason));
                }
            }
        }
        Some(_) => return Err(not_ours("STORE is not a small regular file".to_owned())),
        None => {}
    }
    if let Some(header) = store_of_segments(env, dir) {
        return Ok(Found::Damaged(header));
    }
    let [first, second] = format::CHECKPOINT_NAMES;
    let mut ours = vec![format::LOCK_NAME, STORE_TEMPORARY, format::FALLBACK_DIR, first, second];
    if never_used(env, &dir.join(format::LOG_DIR)) {
        ours.push(format::LOG_DIR);
    }
    match names.iter().find(|(name, _)| !ours.contains(&name.as_str())) {
        Some((name, _)) => Err(not_ours(format!("it holds {name} and no file STORE"))),
        None => Ok(Found::Nothing),
    }
}

/// Whether a log folder never had a segment: a power failure may keep its name and take that of
/// the store file, when neither was durable yet.
fn never_used(env: &dyn Env, log_dir: &Path) -> bool {
    let names = env.list(log_dir).unwrap_or_default();
    names.iter().all(|(name, _)| matches!(FileName::parse(name), FileName::Next(_)))
}

/// The store that the segments say they belong to.
fn store_of_segments(env: &dyn Env, dir: &Path) -> Option<StoreHeader> {
    let log_dir = dir.join(format::LOG_DIR);
    let names = env.list(&log_dir).ok()?;
    names.iter().find_map(|(name, _)| {
        let FileName::Segment(..) = FileName::parse(name) else { return None };
        let segment = SegmentFile::open(env, &log_dir.join(name), OpenMode::Read, false).ok()?;
        let header = segment.header;
        Some(StoreHeader { uuid: header.store_uuid, created_ms: header.created_ms })
    })
}

pub(super) fn read_file(env: &dyn Env, path: &Path, len: u64) -> Result<Vec<u8>> {
    let file = env.open(path, OpenMode::Read).map_err(|error| Error::io("open", path, error))?;
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    read_around(&*file, &mut bytes, 0).map_err(|error| Error::io("read", path, error))?;
    Ok(bytes)
}

/// Writes the store file under a temporary name, so that it is there whole or not at all.
pub(super) fn create_store(
    env: &dyn Env,
    dir: &Path,
    known: Option<StoreHeader>,
) -> Result<StoreHeader> {
    let path = dir.join(format::STORE_NAME);
    let temporary = dir.join(STORE_TEMPORARY);
    let header = match known {
        Some(header) => header,
        None => {
            let mut uuid = [0; 16];
            env.fill_random(&mut uuid)
                .map_err(|error| Error::io("get random bytes for", &path, error))?;
            StoreHeader { uuid, created_ms: env.wall_ms() }
        }
    };
    match env.unlink(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io("remove", &temporary, error));
        }
        _ => {}
    }
    let file = env
        .open(&temporary, OpenMode::CreateNew)
        .map_err(|error| Error::io("create", &temporary, error))?;
    write_all_at(&*file, &header.encode(), 0)
        .map_err(|error| Error::io("write", &temporary, error))?;
    file.sync().map_err(|error| Error::io("sync", &temporary, error))?;
    // The slots become durable names together with the store: a slot that says *in use* must not
    // be lost with its name.
    for name in format::CHECKPOINT_NAMES {
        let slot = dir.join(name);
        match env.open(&slot, OpenMode::CreateNew) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::io("create", &slot, error));
            }
            _ => {}
        }
    }
    env.rename(&temporary, &path).map_err(|error| Error::io("name", &path, error))?;
    env.sync_dir(dir).map_err(|error| Error::io("sync the folder", dir, error))?;
    Ok(header)
}
