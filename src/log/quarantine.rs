//! Bytes that could not be used, kept for a person: in files of their own, bounded with the
//! directory, the oldest of which go first.

use std::path::Path;

use crate::env::{Env, open_or_create, write_all_at};
use crate::error::{Error, Result};
use crate::format;

use super::account::{Account, Claim, Part, files};

/// Bytes are copied in pieces of this size.
const STEP: usize = 64 * 1024;

/// Copies bytes into the quarantine folder and makes the copy durable. Bytes that are already
/// there under the same name are kept.
///
/// # Errors
/// [`Error::Full`] when the bound of the directory has no room for them; [`Error::Io`].
pub(crate) fn keep_bytes(
    (env, dir, account): (&dyn Env, &Path, &Account),
    name: &str,
    (from, to): (u64, u64),
    read: &dyn Fn(&mut [u8], u64) -> Result<()>,
) -> Result<String> {
    let folder = dir.join(format::QUARANTINE_DIR);
    if let Some(bytes_max) = account.quarantine_bytes_max() {
        drop_oldest(env, dir, account, bytes_max.saturating_sub(to - from))?;
    }
    // What is in there goes first where room is wanted, so it may take what rewriting can spare.
    account.claim(Part::Quarantine, to - from, Claim::Rewrite)?;
    env.create_dir(&folder).map_err(|error| Error::io("create", &folder, error))?;
    let name = format::quarantine_name(name, from, to - from);
    let path = folder.join(&name);
    let file = open_or_create(env, &path).map_err(|error| Error::io("create", &path, error))?;
    let mut buffer = vec![0; STEP];
    let mut offset = from;
    while offset < to {
        let len = usize::try_from(to - offset).unwrap_or(usize::MAX).min(buffer.len());
        let chunk = buffer.get_mut(..len).unwrap_or_default();
        read(chunk, offset)?;
        write_all_at(&*file, chunk, offset - from)
            .map_err(|error| Error::io("write", &path, error))?;
        offset += len as u64;
    }
    file.sync().map_err(|error| Error::io("sync", &path, error))?;
    env.sync_dir(&folder).map_err(|error| Error::io("sync the folder", &folder, error))?;
    Ok(name)
}

/// Removes the oldest files until the rest takes at most so many bytes. Their names begin with
/// the number of their segment, so they sort by age.
pub(crate) fn drop_oldest(
    env: &dyn Env,
    dir: &Path,
    account: &Account,
    bytes_max: u64,
) -> Result<()> {
    let folder = dir.join(format::QUARANTINE_DIR);
    let files = files(env, &folder)?;
    let mut bytes: u64 = files.iter().map(|(_, len)| len).sum();
    let mut dropped = Vec::new();
    for (name, len) in files {
        if bytes <= bytes_max {
            break;
        }
        let path = folder.join(&name);
        env.unlink(&path).map_err(|error| Error::io("remove", &path, error))?;
        tracing::warn!(name, "dropped from quarantine to keep the directory within its bound");
        dropped.push(len);
        bytes -= len;
    }
    if dropped.is_empty() {
        return Ok(());
    }
    // Their space is free for others once they cannot come back.
    env.sync_dir(&folder).map_err(|error| Error::io("sync the folder", &folder, error))?;
    dropped.into_iter().for_each(|len| account.dropped_from_quarantine(len));
    Ok(())
}
