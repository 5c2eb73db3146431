//! Everything in RAM, for the tests of host applications: no disk, no waiting, no surprises.
//!
//! Invariants: nothing fails but what the caller does wrong; the clock moves only when told;
//! the same seed gives the same random bytes. A sync does nothing, for nothing can be lost.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::chance::{Chance, Clock};
use super::tree::{Id, ROOT, Tree};
use super::{Env, File, LOCK_NOTE_BYTES_MAX, Lock, Mapped, NameKind, OpenMode};

/// What an unlimited disk answers when asked for its free space: a tebibyte.
pub(super) const FREE_BYTES: u64 = 1 << 40;

/// The process that holds a lock in memory.
const PROCESS_ID: u32 = 1;

/// An environment in RAM. A clone is another handle of the same one.
///
/// Made for the tests of applications that embed the log: give it where [`super::Disk`] would
/// stand, move the clock with [`Memory::advance`], and drop it to forget everything.
#[derive(Debug, Clone)]
pub struct Memory {
    /// Guards all files, the clock and the randomness.
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    tree: Tree,
    clock: Clock,
    chance: Chance,
    locked: BTreeSet<Id>,
}

impl Memory {
    /// An empty file system, with random bytes that follow from the seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = State {
            tree: Tree::new(),
            clock: Clock::new(),
            chance: Chance::new(seed),
            locked: BTreeSet::new(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Moves both clocks forward.
    pub fn advance(&self, duration: Duration) {
        self.state().clock.advance(duration);
    }

    /// Sets the wall clock, in milliseconds since 1970; the monotonic clock stays.
    pub fn set_wall_ms(&self, wall_ms: u64) {
        self.state().clock.set_wall_ms(wall_ms);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Default for Memory {
    /// The environment of seed 0.
    fn default() -> Self {
        Self::new(0)
    }
}

impl Env for Memory {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut state = self.state();
        let id = match mode {
            OpenMode::Read | OpenMode::Write => state.tree.find_file(path)?,
            OpenMode::CreateNew => {
                let (dir, name) = state.tree.place(path)?;
                state.tree.create_file(dir, name)?
            }
        };
        state.tree.hold(id)?;
        let writable = mode != OpenMode::Read;
        Ok(Arc::new(MemoryFile { state: Arc::clone(&self.state), id, writable }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let mut above: Vec<&Path> = path.ancestors().collect();
        above.reverse();
        for dir in above {
            match state.tree.directory(dir) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let (parent, name) = state.tree.place(dir)?;
                    state.tree.create_directory(parent, name)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(String, NameKind)>> {
        let state = self.state();
        state.tree.list(state.tree.directory(dir)?)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let (from, to) = (state.tree.place(from)?, state.tree.place(to)?);
        if let Some(replaced) = state.tree.rename(from, to)? {
            state.tree.forget(replaced);
        }
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let (dir, name) = state.tree.place(path)?;
        if let Some(id) = state.tree.look(dir, name)? {
            state.tree.file(id)?;
        }
        let id = state.tree.remove(dir, name)?;
        state.tree.forget(id);
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let dir = match state.tree.directory(path) {
            Ok(dir) => dir,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for (dir, name) in state.tree.below(dir) {
            let id = state.tree.remove(dir, &name)?;
            state.tree.forget(id);
        }
        if dir != ROOT {
            let (parent, name) = state.tree.place(path)?;
            let id = state.tree.remove(parent, name)?;
            state.tree.forget(id);
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.state().tree.directory(dir).map(|_| ())
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        let mut state = self.state();
        let (dir, name) = state.tree.place(path)?;
        let id = match state.tree.look(dir, name)? {
            Some(id) => id,
            None => state.tree.create_file(dir, name)?,
        };
        if !state.locked.insert(id) {
            return Ok(None);
        }
        state.tree.hold(id)?;
        Ok(Some(Box::new(MemoryLock { state: Arc::clone(&self.state), id })))
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        let state = self.state();
        match state.tree.find_file(path) {
            Ok(id) => Ok(state.locked.contains(&id)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let state = self.state();
        state.tree.directory(dir)?;
        Ok(FREE_BYTES.saturating_sub(state.tree.used_bytes()))
    }

    fn wall_ms(&self) -> u64 {
        self.state().clock.wall_ms()
    }

    fn monotonic_ms(&self) -> u64 {
        self.state().clock.monotonic_ms()
    }

    fn fill_random(&self, buffer: &mut [u8]) -> io::Result<()> {
        self.state().chance.fill(buffer);
        Ok(())
    }

    fn sleep(&self, duration: Duration) {
        self.advance(duration);
    }

    fn process_id(&self) -> u32 {
        PROCESS_ID
    }
}

/// An open file; the bytes live at least as long.
#[derive(Debug)]
struct MemoryFile {
    state: Arc<Mutex<State>>,
    id: Id,
    writable: bool,
}

impl MemoryFile {
    fn writable(&self) -> io::Result<MutexGuard<'_, State>> {
        if self.writable { Ok(lock(&self.state)) } else { Err(not_writable()) }
    }
}

impl File for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(lock(&self.state).tree.file(self.id)?.content.read(buffer, offset))
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<usize> {
        write_end(buffer, offset)?;
        self.writable()?.tree.file_mut(self.id)?.content.write(buffer, offset);
        Ok(buffer.len())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.state).tree.file(self.id)?.content.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.writable()?;
        let file = state.tree.file_mut(self.id)?;
        file.reserved = file.reserved.min(len);
        file.content.set_len(len);
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.writable()?;
        let file = state.tree.file_mut(self.id)?;
        file.reserved = file.reserved.max(len);
        Ok(())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        Ok(lock(&self.state).tree.file(self.id)?.content.next_data(offset))
    }

    fn map(&self) -> io::Result<Option<Mapped>> {
        Ok(None)
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.tree.release(self.id);
        state.tree.forget(self.id);
    }
}

/// A lock that ends when it is dropped.
#[derive(Debug)]
struct MemoryLock {
    state: Arc<Mutex<State>>,
    id: Id,
}

impl Lock for MemoryLock {
    fn publish(&self, note: &[u8]) -> io::Result<()> {
        if note.len() > LOCK_NOTE_BYTES_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        lock(&self.state).tree.file_mut(self.id)?.content.write(note, 0);
        Ok(())
    }
}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.locked.remove(&self.id);
        state.tree.release(self.id);
        state.tree.forget(self.id);
    }
}

/// A thread that panicked in a test must not hide the answer of the others.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a write through a handle for reading gets.
pub(super) fn not_writable() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "the file is open for reading only")
}

/// Where a write ends; an error when no file could be that long.
pub(super) fn write_end(buffer: &[u8], offset: u64) -> io::Result<u64> {
    offset.checked_add(buffer.len() as u64).ok_or_else(|| io::ErrorKind::FileTooLarge.into())
}
