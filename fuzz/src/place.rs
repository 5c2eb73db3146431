//! Real files for what cannot be had on a simulated disk: `dump`, the configuration file, and the
//! database of the index.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A folder of this process, in memory where the system has such a place.
pub fn folder() -> TempDir {
    let shared = Path::new("/dev/shm");
    let here = if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() };
    here.expect("a folder for temporary files")
}

/// All files below a folder, by their path in it.
pub fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut waiting = vec![folder.to_path_buf()];
    while let Some(below) = waiting.pop() {
        let Ok(names) = fs::read_dir(&below) else { continue };
        for name in names {
            let path = name.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                let bytes = fs::read(&path).unwrap();
                found.push((path.strip_prefix(folder).unwrap().to_path_buf(), bytes));
            }
        }
    }
    found.sort();
    found
}

/// Lets the panics pass that the database of the index is known for, which the library contains.
/// Any other panic ends the process at once, as libFuzzer wants it.
pub fn contain_sled() {
    let abort = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let of_sled = info.location().is_some_and(|place| place.file().contains("/sled-0.34"));
        if !of_sled {
            abort(info);
        }
    }));
}
