//! What stands in the directory: its space, the rights of its files, who holds it, its version.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use deadletter::format::{self, LockNote, StoreHeader};
use deadletter::{Disk, Env as _, Error, SpaceLevel};

use super::Check;
use crate::settings::Context;

/// How many files with wrong rights are named.
const NAMED_MAX: usize = 3;

/// Whether there is room for more entries.
pub fn space(context: &Context) -> Check {
    let hint = "free space on the disk, archive and purge, or raise max_bytes";
    let space = match context.open_reader().and_then(|engine| Ok(engine.space()?)) {
        Ok(space) => space,
        Err(error) => return Check::warn("space", format!("unknown: {error:#}"), hint),
    };
    let limit = space.limit.map_or_else(String::new, |limit| format!(" of {limit}"));
    let message = format!(
        "{} bytes used{limit}, {} free on the disk, room for {}",
        space.used, space.free, space.room
    );
    match space.level {
        SpaceLevel::Normal => Check::ok("space", message),
        SpaceLevel::Emergency => Check::fail("space", message, hint),
        _ => Check::warn("space", message, hint),
    }
}

/// Whether only the owner may read what is stored.
pub fn modes(context: &Context) -> Check {
    let mut open = Vec::new();
    let mut folders = vec![context.dir.clone(), context.config().fallback_dir()];
    if let Err(error) = list_open(&mut folders, &mut open) {
        return Check::warn("modes", format!("unknown: {error}"), "look at the rights");
    }
    if open.is_empty() {
        return Check::ok("modes", "only the owner may read the files");
    }
    let named: Vec<String> =
        open.iter().take(NAMED_MAX).map(|path| path.display().to_string()).collect();
    let message = format!("others may read or write {} of them: {}", open.len(), named.join(", "));
    Check::warn("modes", message, "chmod -R go= the directory; entries may hold secrets")
}

/// The files and folders that others may read or write.
fn list_open(folders: &mut Vec<PathBuf>, open: &mut Vec<PathBuf>) -> io::Result<()> {
    while let Some(folder) = folders.pop() {
        let names = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        check_mode(&folder, open)?;
        for name in names {
            let name = name?;
            let kind = name.file_type()?;
            if kind.is_dir() {
                folders.push(name.path());
            } else if kind.is_file() {
                check_mode(&name.path(), open)?;
            }
        }
    }
    open.sort();
    open.dedup();
    Ok(())
}

fn check_mode(path: &Path, open: &mut Vec<PathBuf>) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.permissions().mode() & 0o077 != 0 => open.push(path.to_owned()),
        // A running owner removes files when it likes.
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    Ok(())
}

/// Who writes the store right now.
pub fn lock(dir: &Path) -> Check {
    let path = dir.join(format::LOCK_NAME);
    match Disk::new().is_locked(&path) {
        Ok(false) => Check::ok("lock", "no process writes the store"),
        Ok(true) => {
            let note = std::fs::read(&path).ok().and_then(|bytes| LockNote::decode(&bytes).ok());
            let owner = note.map_or_else(
                || "a process".to_owned(),
                |note| format!("process {}", note.process_id),
            );
            Check::ok("lock", format!("{owner} writes the store"))
        }
        Err(error) => {
            let hint = "the file system must support locks, and the file must be readable";
            Check::fail("lock", format!("it cannot be looked at: {error}"), hint)
        }
    }
}

/// Whether this build can use the store.
pub fn store(context: &Context) -> Check {
    let header = std::fs::read(context.dir.join(format::STORE_NAME));
    let damaged = header.is_ok_and(|bytes| StoreHeader::decode(&bytes).is_err());
    let opened = context.open_reader();
    let error = opened.as_ref().err().and_then(|error| error.downcast_ref::<Error>());
    match (&opened, error) {
        (_, Some(Error::Version { .. })) => {
            Check::fail("store", "a newer version made it", "use a newer build")
        }
        (Err(error), _) => {
            let hint = "deadletter verify names the damage";
            Check::fail("store", format!("it does not open: {error:#}"), hint)
        }
        (Ok(_), _) if damaged => {
            let hint = "it is made again by the next process that writes";
            Check::warn("store", "the store file is damaged", hint)
        }
        (Ok(engine), _) if !engine.warnings().is_empty() => {
            let places = engine.warnings().len();
            let hint = "deadletter verify names the damage";
            Check::warn("store", format!("{places} places are damaged"), hint)
        }
        (Ok(_), _) => {
            let (major, minor) = (format::VERSION_MAJOR, format::VERSION_MINOR);
            Check::ok("store", format!("it opens; this build writes version {major}.{minor}"))
        }
    }
}
