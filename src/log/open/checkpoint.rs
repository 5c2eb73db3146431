//! The two checkpoint slots, written in turn.

use std::path::Path;
use std::sync::Arc;

use super::store_file::read_file;
use crate::env::{Env, File, OpenMode, write_all_at};
use crate::error::{Error, Result};
use crate::format::{self, CHECKPOINT_NAMES, Checkpoint};

/// The newer of the two checkpoint slots.
pub(crate) fn read_checkpoint(env: &dyn Env, dir: &Path) -> Option<Checkpoint> {
    let slots = CHECKPOINT_NAMES.iter().filter_map(|name| {
        let bytes = read_file(env, &dir.join(name), format::CHECKPOINT_LEN as u64).ok()?;
        Checkpoint::decode(&bytes).ok()
    });
    slots.max_by_key(|checkpoint| checkpoint.sequence)
}

/// Writes the older checkpoint slot. Without `sync` a power failure may leave the slot before it,
/// which only costs a recovery.
pub(crate) fn write_checkpoint(
    env: &dyn Env,
    dir: &Path,
    checkpoint: &Checkpoint,
    sync: bool,
) -> Result<()> {
    let index = usize::from(checkpoint.sequence % 2 == 1);
    let name = CHECKPOINT_NAMES.get(index).copied().unwrap_or_default();
    let path = dir.join(name);
    let (file, created) = match env.open(&path, OpenMode::Write) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            (env.open(&path, OpenMode::CreateNew), true)
        }
        other => (other, false),
    };
    let file: Arc<dyn File> = file.map_err(|error| Error::io("open", &path, error))?;
    write_all_at(&*file, &checkpoint.encode(), 0)
        .map_err(|error| Error::io("write", &path, error))?;
    if sync {
        file.sync().map_err(|error| Error::io("sync", &path, error))?;
    }
    if sync && created {
        env.sync_dir(dir).map_err(|error| Error::io("sync the folder", dir, error))?;
    }
    Ok(())
}
