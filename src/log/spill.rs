//! Fallback files: the same records in a file of their own, and the way to read them back.
//!
//! A file gets its final name only when it is whole and synced, so whoever finds one may bring it
//! home. It is removed only after its records were synced in the log, and a record there says
//! that they are.

use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::env::{Env, NameKind, OpenMode, read_around, write_all_at};
use crate::error::{Error, Result};
use crate::format::{self, FileName, Flags, Frame, SEGMENT_HEADER_LEN, SegmentHeader};

use super::Draft;
use super::account::{Account, Claim, Part, check_room, list};
use super::quarantine::keep_bytes;
use super::segment::{Item, SegmentFile};

/// A fallback file that was found.
#[derive(Debug)]
pub(crate) struct FallbackFile {
    pub path: PathBuf,
    pub uuid: [u8; 16],
    pub bytes: u64,
}

/// The fallback files of a store, by name.
pub(crate) fn list_fallback(env: &dyn Env, folder: &Path) -> Result<Vec<FallbackFile>> {
    let files = list(env, folder)?.into_iter().filter_map(|(name, kind)| {
        match (FileName::parse(&name), kind) {
            (FileName::Fallback(uuid), NameKind::File(bytes)) => {
                Some(FallbackFile { path: folder.join(name), uuid, bytes })
            }
            _ => None,
        }
    });
    Ok(files.collect())
}

/// Writes records to a fallback file of their own and syncs it. Returns its path. The owner of the
/// store brings its account; others look at what the directory takes.
pub(crate) fn write_fallback(
    (env, config, account): (&dyn Env, &Config, Option<&Account>),
    store_uuid: [u8; 16],
    drafts: &[Draft],
) -> Result<PathBuf> {
    let folder = config.fallback_dir();
    env.create_dir(&folder).map_err(|error| Error::io("create", &folder, error))?;
    let mut random = [0; 20];
    env.fill_random(&mut random)
        .map_err(|error| Error::io("get random bytes for", &folder, error))?;
    let (uuid, salt) = random.split_at(16);
    let uuid: [u8; 16] = uuid.try_into().unwrap_or_default();
    let salt: [u8; 4] = salt.try_into().unwrap_or_default();
    let path = folder.join(format::fallback_name(&uuid));
    let bytes = encode(env, store_uuid, u32::from_le_bytes(salt).max(1), drafts);
    claim_fallback(env, config, account, bytes.len() as u64)?;
    let written = write_synced(env, &folder, &path, &bytes);
    if let (Err(_), Some(account)) = (&written, account) {
        account.release(Part::Fallback, bytes.len() as u64);
    }
    written.map(|()| path)
}

/// Writes a file under a temporary name, syncs it and gives it its name.
fn write_synced(env: &dyn Env, folder: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("tmp");
    let file = env
        .open(&temporary, OpenMode::CreateNew)
        .map_err(|error| Error::io("create", &temporary, error))?;
    let written = write_all_at(&*file, bytes, 0).and_then(|()| file.sync());
    if let Err(error) = written {
        // Nothing was promised; a leftover would only take space.
        drop(env.unlink(&temporary));
        return Err(Error::io("write", &temporary, error));
    }
    env.rename(&temporary, path).map_err(|error| Error::io("name", path, error))?;
    env.sync_dir(folder).map_err(|error| Error::io("sync the folder", folder, error))
}

/// Counts a fallback file against the bound of the directory, if it is in there.
fn claim_fallback(
    env: &dyn Env,
    config: &Config,
    account: Option<&Account>,
    bytes: u64,
) -> Result<()> {
    if !config.fallback_dir().starts_with(&config.dir) {
        return Ok(());
    }
    match account {
        Some(account) => account.claim(Part::Fallback, bytes, Claim::Growth),
        None => check_room(env, config, bytes),
    }
}

fn encode(env: &dyn Env, store_uuid: [u8; 16], salt: u32, drafts: &[Draft]) -> Vec<u8> {
    let bodies: u64 = drafts.iter().map(Draft::record_len).sum();
    let header = SegmentHeader {
        store_uuid,
        segment: 0,
        base_lsn: 1,
        salt,
        fallback: true,
        created_ms: env.wall_ms(),
        predecessor: None,
        generation: 0,
        folded_lsn: 0,
        capacity: SEGMENT_HEADER_LEN + bodies,
    };
    let mut bytes = header.encode();
    for (index, draft) in drafts.iter().enumerate() {
        let offset = bytes.len() as u64;
        let last_of_group = index + 1 == drafts.len();
        let flags = Flags { last_of_group, ..Flags::default() };
        let record = draft.header(index as u64 + 1, flags, 1, index);
        super::writer::append_record(&mut bytes, &record, salt, offset, &draft.body);
    }
    bytes
}

/// The sound records of a fallback file, its store, and whether all of it was sound.
pub(crate) fn read_fallback(env: &dyn Env, path: &Path) -> Result<(Vec<Frame>, [u8; 16], bool)> {
    let segment = SegmentFile::open(env, path, OpenMode::Read, false)?;
    let mut frames = Vec::new();
    let mut sound = segment.header_intact && segment.header.fallback;
    segment.scan(segment.len, &mut |item| {
        match item {
            Item::Frame(frame) => frames.push(frame),
            Item::Hole { .. } => sound = false,
            Item::Tail { from, data_end } => sound &= data_end <= from,
        }
        Ok(())
    })?;
    Ok((frames, segment.header.store_uuid, sound))
}

/// Copies a whole fallback file into quarantine. Returns the copy's name.
pub(crate) fn quarantine_file(
    (env, dir, account): (&dyn Env, &Path, &Account),
    file: &FallbackFile,
) -> Result<String> {
    let path = &file.path;
    let source = env.open(path, OpenMode::Read).map_err(|error| Error::io("open", path, error))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    keep_bytes((env, dir, account), &name, (0, file.bytes), &|buffer, offset| {
        read_around(&*source, buffer, offset).map_err(|error| Error::io("read", path, error))
    })
}
