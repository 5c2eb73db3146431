//! The disk that fails: un-synced changes that a power cut loses, failed syncs, full disks, lies.
//!
//! Every call that changes or syncs something is a step, with a number. A test runs its work
//! once to learn the number of steps, then again for each step with the power going off or a
//! fault there, takes [`Simulated::crash_image`] or [`Simulated::restarted`], and opens that.
//!
//! Invariants: the same seed and the same calls give the same disk, the same failures and the
//! same [`Simulated::trace_hash`]. An image shares nothing with the disk it was taken from.

mod crash;
mod fault;
mod volume;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;

pub use fault::{CrashMode, Fault, FaultKind, Lie, Operation, OperationKind};

use super::chance::{Chance, Clock, mix};
use super::memory::{FREE_BYTES, not_writable, write_end};
use super::tree::{Id, ROOT, Tree};
use super::{Env, File, LOCK_NOTE_BYTES_MAX, Lock, Mapped, NameKind, OpenMode};
use volume::Volume;

/// The process of a new disk; each restart has the next number.
const PROCESS_ID: u32 = 1000;

/// A disk, a clock and randomness under the control of a test. A clone is another handle.
#[derive(Debug, Clone)]
pub struct Simulated {
    /// Guards everything.
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Clone)]
struct State {
    volume: Volume,
    clock: Clock,
    chance: Chance,
    locked: BTreeSet<Id>,
    process_id: u32,
    capacity: Option<u64>,
    lies: Vec<Lie>,
    /// Places that cannot be read, with their ends.
    unreadable: Vec<(Id, u64, u64)>,
    /// A sync that was answered but has not happened, see [`Lie::LateSync`].
    late: Option<Target>,
    power_off_at: Option<u64>,
    off: bool,
    faults: Vec<Fault>,
    faults_fired: usize,
    /// All steps but locks fail with this.
    sticky: Option<Errno>,
    trace: Vec<Operation>,
    hash: u64,
}

/// What a sync syncs.
#[derive(Debug, Clone, Copy)]
enum Target {
    File(Id),
    Names(Id),
}

/// What a fault makes of a step that does not simply fail.
#[derive(Debug, Clone, Copy)]
enum Effect {
    /// The step happens.
    Whole,
    /// A write applies and reports a part.
    Short,
    /// A write may apply a part, then fails; any other step fails.
    Fail(Errno),
    /// A sync fails with this and loses what it should have written.
    Lose(Errno),
}

impl Simulated {
    /// An empty disk. The seed decides random bytes and the lengths of short writes.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let volume = Volume::new(Tree::new());
        Self::with_state(State::new(volume, Clock::new(), Chance::new(seed), PROCESS_ID))
    }

    /// How many steps there were; the next one has this number.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().step_next()
    }

    /// What the steps were, in order.
    #[must_use]
    pub fn trace(&self) -> Vec<Operation> {
        self.state().trace.clone()
    }

    /// What one step was.
    #[must_use]
    pub fn operation(&self, step: u64) -> Option<Operation> {
        self.state().trace.get(usize::try_from(step).ok()?).cloned()
    }

    /// A hash of all steps and the bytes they wrote.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.state().hash
    }

    /// Lets the power go off: that step does not happen, and from it on all calls fail with an
    /// error of kind `Other`, reads too. `None` brings the power back.
    pub fn power_off_at(&self, step: Option<u64>) {
        let mut state = self.state();
        state.power_off_at = step;
        state.off = false;
    }

    /// Plans a failure. Of several at one step, all stalls and the first other one happen.
    pub fn inject(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// How many planned failures have happened. A run in which none did has measured nothing.
    #[must_use]
    pub fn faults_fired(&self) -> usize {
        self.state().faults_fired
    }

    /// Ends all failures, planned or lasting.
    pub fn clear_faults(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.sticky = None;
    }

    /// Makes the disk lie from now on; several lies add up, and images inherit them.
    pub fn lie(&self, lie: Lie) {
        self.state().lies.push(lie);
    }

    /// Bounds the disk: the lengths of all files together, holes included. `None`: no bound.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Moves both clocks forward.
    pub fn advance(&self, duration: Duration) {
        self.state().clock.advance(duration);
    }

    /// Sets the wall clock, in milliseconds since 1970; the monotonic clock stays.
    pub fn set_wall_ms(&self, wall_ms: u64) {
        self.state().clock.set_wall_ms(wall_ms);
    }

    /// The disk as found after a power cut now: all of it durable, nothing locked, no faults, no
    /// steps counted; clock, capacity and lies as they were.
    #[must_use]
    pub fn crash_image(&self, mode: CrashMode, seed: u64) -> Self {
        let state = self.state();
        let mut chance = Chance::new(mix(seed));
        let volume = Volume::new(crash::crash(&state.volume, mode, &mut chance));
        Self::with_state(state.successor(volume, chance))
    }

    /// The disk after the process died while the kernel lives: reads see everything, pending
    /// stays pending, locks are released; power, faults and steps start anew.
    #[must_use]
    pub fn restarted(&self) -> Self {
        let state = self.state();
        let mut volume = state.volume.clone();
        volume.tree.release_all();
        let mut successor = state.successor(volume, state.chance.clone());
        successor.late = state.late;
        Self::with_state(successor)
    }

    /// Flips the bits of the mask in one durable byte.
    ///
    /// # Errors
    ///
    /// When there is no such file, or the offset is behind its end.
    pub fn flip(&self, path: impl AsRef<Path>, offset: u64, mask: u8) -> io::Result<()> {
        let mut state = self.state();
        let id = state.volume.tree.find_file(path.as_ref())?;
        if offset >= state.volume.tree.file(id)?.content.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        state.volume.damage(id, |content| {
            let mut byte = [0];
            if content.read(&mut byte, offset) == 1 {
                content.write(&byte.map(|byte| byte ^ mask), offset);
            }
        })
    }

    /// Lets reads of these bytes of a file fail with EIO from now on, as those of a bad sector.
    ///
    /// # Errors
    ///
    /// When there is no such file.
    pub fn make_unreadable(&self, path: impl AsRef<Path>, offset: u64, len: u64) -> io::Result<()> {
        let mut state = self.state();
        let id = state.volume.tree.find_file(path.as_ref())?;
        state.unreadable.push((id, offset, offset + len));
        Ok(())
    }

    /// All bytes of a file, as a process would read them.
    ///
    /// # Errors
    ///
    /// When there is no such file.
    pub fn read_raw(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        let state = self.state();
        let id = state.volume.tree.find_file(path.as_ref())?;
        Ok(state.volume.tree.file(id)?.content.to_vec())
    }

    /// Replaces a file or plants a new one, durable at once; no step.
    ///
    /// # Errors
    ///
    /// When the directory does not exist, or the name is that of a directory.
    pub fn write_raw(&self, path: impl AsRef<Path>, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let id = state.volume.find_or_plant(path.as_ref())?;
        state.volume.damage(id, |content| {
            content.set_len(0);
            content.write(bytes, 0);
        })?;
        state.volume.files.remove(&id);
        Ok(())
    }

    /// Cuts or extends a file, durable at once; no step.
    ///
    /// # Errors
    ///
    /// When there is no such file.
    pub fn truncate_raw(&self, path: impl AsRef<Path>, len: u64) -> io::Result<()> {
        let mut state = self.state();
        let id = state.volume.tree.find_file(path.as_ref())?;
        state.volume.damage(id, |content| content.set_len(len))
    }

    fn with_state(state: State) -> Self {
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The state, when the power is on.
    fn powered(&self) -> io::Result<MutexGuard<'_, State>> {
        powered(&self.state)
    }
}

impl State {
    const fn new(volume: Volume, clock: Clock, chance: Chance, process_id: u32) -> Self {
        Self {
            volume,
            clock,
            chance,
            locked: BTreeSet::new(),
            process_id,
            capacity: None,
            lies: Vec::new(),
            unreadable: Vec::new(),
            late: None,
            power_off_at: None,
            off: false,
            faults: Vec::new(),
            faults_fired: 0,
            sticky: None,
            trace: Vec::new(),
            hash: 0,
        }
    }

    /// The state of the next process on this volume.
    fn successor(&self, volume: Volume, chance: Chance) -> Self {
        let mut next = Self::new(volume, self.clock.clone(), chance, self.process_id + 1);
        next.capacity = self.capacity;
        next.lies.clone_from(&self.lies);
        next.unreadable.clone_from(&self.unreadable);
        next
    }

    const fn step_next(&self) -> u64 {
        self.trace.len() as u64
    }

    /// Counts a step and decides what becomes of it.
    fn step(
        &mut self,
        kind: OperationKind,
        name: &Arc<str>,
        (offset, len): (u64, u64),
    ) -> io::Result<Effect> {
        let step = self.step_next();
        if self.off || self.power_off_at.is_some_and(|off| step >= off) {
            self.off = true;
            return Err(power_is_off());
        }
        self.note(&[kind as u64, u64::from(crc32fast::hash(name.as_bytes())), offset, len]);
        self.trace.push(Operation { step, kind, name: Arc::clone(name), offset, len });
        if let Some(target) = self.late.take() {
            self.apply_sync(target);
        }
        self.effect(step, kind, len)
    }

    /// What the planned failures make of a step.
    fn effect(&mut self, step: u64, kind: OperationKind, len: u64) -> io::Result<Effect> {
        use OperationKind::{Lock, Sync, SyncDirectory};
        let sync = matches!(kind, Sync | SyncDirectory);
        if let Some(errno) = self.sticky.filter(|_| kind != Lock) {
            return if sync { Ok(Effect::Lose(errno)) } else { Err(errno.into()) };
        }
        while let Some(index) =
            self.faults.iter().position(|fault| fault.at == step && fault.kind.suits(kind, len))
        {
            self.faults_fired += 1;
            match self.faults.remove(index).kind {
                FaultKind::Stall(duration) => self.clock.advance(duration),
                FaultKind::Eio => return Err(Errno::IO.into()),
                sticky @ (FaultKind::EioSticky | FaultKind::Erofs) => {
                    let read_only = sticky == FaultKind::Erofs;
                    let errno = if read_only { Errno::ROFS } else { Errno::IO };
                    self.sticky = Some(errno);
                    return Ok(if sync { Effect::Lose(errno) } else { Effect::Fail(errno) });
                }
                FaultKind::Enospc => return Ok(Effect::Fail(Errno::NOSPC)),
                FaultKind::Edquot => return Ok(Effect::Fail(Errno::DQUOT)),
                FaultKind::ShortWrite => return Ok(Effect::Short),
                FaultKind::FailedSync => return Ok(Effect::Lose(Errno::IO)),
                FaultKind::EnospcSync => return Ok(Effect::Lose(Errno::NOSPC)),
            }
        }
        Ok(Effect::Whole)
    }

    /// A step that happens or fails, nothing between.
    fn step_whole(&mut self, kind: OperationKind, name: &str, len: u64) -> io::Result<()> {
        match self.step(kind, &name.into(), (0, len))? {
            Effect::Fail(errno) => Err(errno.into()),
            Effect::Whole | Effect::Short | Effect::Lose(_) => Ok(()),
        }
    }

    /// Mixes values into the hash of the trace.
    fn note(&mut self, values: &[u64]) {
        for value in values {
            self.hash = mix(self.hash.rotate_left(5) ^ value);
        }
    }

    fn lies(&self, lie: Lie) -> bool {
        self.lies.contains(&lie)
    }

    fn sync(&mut self, target: Target, name: &Arc<str>) -> io::Result<()> {
        let mut answer = self.sync_once(target, name);
        if answer.is_err() && self.lies(Lie::RetrySync) {
            answer = self.sync_once(target, name);
        }
        answer?;
        let nothing = match target {
            Target::File(_) => Lie::NoFileSync,
            Target::Names(_) => Lie::NoDirectorySync,
        };
        if self.lies(Lie::LateSync) {
            self.late = Some(target);
        } else if !self.lies(nothing) {
            self.apply_sync(target);
        }
        Ok(())
    }

    /// Syncs the directory in which a path stands.
    fn sync_name(&mut self, path: &Path) -> io::Result<()> {
        let (parent, _) = self.volume.tree.place(path)?;
        self.sync(Target::Names(parent), &directory_name(path.parent()))
    }

    /// The step of a sync. A failed one has lost what it should have written; names stay pending,
    /// for a journal gives up as a whole, and without one the next name writes the block again.
    fn sync_once(&mut self, target: Target, name: &Arc<str>) -> io::Result<()> {
        let kind = match target {
            Target::File(_) => OperationKind::Sync,
            Target::Names(_) => OperationKind::SyncDirectory,
        };
        let Effect::Lose(errno) = self.step(kind, name, (0, 0))? else { return Ok(()) };
        if let Target::File(id) = target {
            self.volume.lose_file(id);
        }
        Err(errno.into())
    }

    fn apply_sync(&mut self, target: Target) {
        match target {
            Target::File(id) => self.volume.sync_file(id),
            Target::Names(dir) => self.volume.sync_names(dir),
        }
    }

    /// Bytes that files may still grow by.
    fn free_bytes(&self) -> u64 {
        self.capacity.unwrap_or(FREE_BYTES).saturating_sub(self.volume.tree.used_bytes())
    }

    /// The length up to which a file may grow.
    fn len_max(&self, id: Id) -> io::Result<u64> {
        let file = self.volume.tree.file(id)?;
        let len = file.content.len().max(file.reserved);
        Ok(if self.capacity.is_none() { u64::MAX } else { len.saturating_add(self.free_bytes()) })
    }

    fn write(&mut self, id: Id, name: &Arc<str>, bytes: &[u8], offset: u64) -> io::Result<usize> {
        write_end(bytes, offset)?;
        let len = bytes.len() as u64;
        let effect = self.step(OperationKind::Write, name, (offset, len))?;
        self.note(&[u64::from(crc32fast::hash(bytes))]);
        let fits = len.min(self.len_max(id)?.saturating_sub(offset));
        if fits == 0 && len > 0 {
            return Err(Errno::NOSPC.into());
        }
        let written = match effect {
            Effect::Short => fits.min(1 + self.chance.below(len.saturating_sub(1))),
            Effect::Fail(_) => fits.min(self.chance.below(len + 1)),
            Effect::Whole | Effect::Lose(_) => fits,
        };
        let written = usize::try_from(written).unwrap_or_default();
        let applied = bytes.get(..written).unwrap_or_default();
        if !applied.is_empty() {
            self.volume.write(id, applied, offset)?;
        }
        match effect {
            Effect::Fail(errno) => Err(errno.into()),
            _ => Ok(written),
        }
    }

    fn resize(&mut self, id: Id, name: &str, len: u64) -> io::Result<()> {
        self.step_whole(OperationKind::SetLen, name, len)?;
        let old = self.volume.tree.file(id)?.content.len();
        if len > old && len > self.len_max(id)? {
            return Err(Errno::NOSPC.into());
        }
        let file = self.volume.tree.file_mut(id)?;
        file.reserved = file.reserved.min(len);
        self.volume.set_len(id, len)
    }

    /// A reservation is space, not content: a crash may forget it and nothing is lost.
    fn reserve(&mut self, id: Id, name: &str, len: u64) -> io::Result<()> {
        self.step_whole(OperationKind::Allocate, name, len)?;
        if len > self.len_max(id)? {
            return Err(Errno::NOSPC.into());
        }
        let file = self.volume.tree.file_mut(id)?;
        file.reserved = file.reserved.max(len);
        Ok(())
    }

    fn remove(&mut self, dir: Id, name: &str) -> io::Result<()> {
        self.step_whole(OperationKind::Unlink, name, 0)?;
        self.volume.remove(dir, name)
    }
}

impl Env for Simulated {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut state = self.powered()?;
        let (dir, name) = state.volume.tree.place(path)?;
        let id = match mode {
            OpenMode::Read | OpenMode::Write => state.volume.tree.find_file(path)?,
            OpenMode::CreateNew => {
                state.step_whole(OperationKind::Create, name, 0)?;
                state.volume.create_file(dir, name)?
            }
        };
        state.volume.tree.hold(id)?;
        let writable = mode != OpenMode::Read;
        let state = Arc::clone(&self.state);
        Ok(Arc::new(SimulatedFile { state, id, name: name.into(), writable }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.powered()?;
        let mut missing = Vec::new();
        for dir in path.ancestors() {
            match state.volume.tree.directory(dir) {
                Ok(ROOT) => break,
                Ok(_) => {
                    // Like the real disk: the process that created it may have died before
                    // the sync.
                    state.sync_name(dir)?;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(dir),
                Err(error) => return Err(error),
            }
        }
        for dir in missing.into_iter().rev() {
            let (parent, name) = state.volume.tree.place(dir)?;
            state.step_whole(OperationKind::CreateDirectory, name, 0)?;
            state.volume.create_directory(parent, name)?;
            state.sync_name(dir)?;
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(String, NameKind)>> {
        let state = self.powered()?;
        state.volume.tree.list(state.volume.tree.directory(dir)?)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.powered()?;
        let from = state.volume.tree.place(from)?;
        let to = state.volume.tree.place(to)?;
        state.step_whole(OperationKind::Rename, to.1, 0)?;
        state.volume.rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut state = self.powered()?;
        let (dir, name) = state.volume.tree.place(path)?;
        state.volume.tree.find_file(path)?;
        state.remove(dir, name)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.powered()?;
        let dir = match state.volume.tree.directory(path) {
            Ok(dir) => dir,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for (dir, name) in state.volume.tree.below(dir) {
            state.remove(dir, &name)?;
        }
        if dir == ROOT {
            return Ok(());
        }
        let (parent, name) = state.volume.tree.place(path)?;
        state.remove(parent, name)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.powered()?;
        let id = state.volume.tree.directory(dir)?;
        state.sync(Target::Names(id), &directory_name(Some(dir)))
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        let mut state = self.powered()?;
        let (dir, name) = state.volume.tree.place(path)?;
        state.step_whole(OperationKind::Lock, name, 0)?;
        let id = match state.volume.tree.look(dir, name)? {
            Some(id) => id,
            None => state.volume.create_file(dir, name)?,
        };
        state.volume.tree.file(id)?;
        if !state.locked.insert(id) {
            return Ok(None);
        }
        state.volume.tree.hold(id)?;
        Ok(Some(Box::new(SimulatedLock { state: Arc::clone(&self.state), id })))
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        let state = self.powered()?;
        match state.volume.tree.find_file(path) {
            Ok(id) => Ok(state.locked.contains(&id)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let state = self.powered()?;
        state.volume.tree.directory(dir)?;
        Ok(state.free_bytes())
    }

    fn wall_ms(&self) -> u64 {
        self.state().clock.wall_ms()
    }

    fn monotonic_ms(&self) -> u64 {
        self.state().clock.monotonic_ms()
    }

    fn fill_random(&self, buffer: &mut [u8]) -> io::Result<()> {
        self.powered()?.chance.fill(buffer);
        Ok(())
    }

    fn sleep(&self, duration: Duration) {
        self.advance(duration);
    }

    fn process_id(&self) -> u32 {
        self.state().process_id
    }
}

/// An open file of the simulated disk.
#[derive(Debug)]
struct SimulatedFile {
    state: Arc<Mutex<State>>,
    id: Id,
    name: Arc<str>,
    writable: bool,
}

impl SimulatedFile {
    fn writable(&self) -> io::Result<MutexGuard<'_, State>> {
        if self.writable { powered(&self.state) } else { Err(not_writable()) }
    }
}

impl File for SimulatedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = powered(&self.state)?;
        let end = offset + buffer.len() as u64;
        let meets = |(id, from, to): &(Id, u64, u64)| *id == self.id && *from < end && offset < *to;
        if state.unreadable.iter().any(meets) {
            return Err(Errno::IO.into());
        }
        Ok(state.volume.tree.file(self.id)?.content.read(buffer, offset))
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<usize> {
        self.writable()?.write(self.id, &self.name, buffer, offset)
    }

    fn sync(&self) -> io::Result<()> {
        powered(&self.state)?.sync(Target::File(self.id), &self.name)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(powered(&self.state)?.volume.tree.file(self.id)?.content.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.writable()?.resize(self.id, &self.name, len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.writable()?.reserve(self.id, &self.name, len)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        Ok(powered(&self.state)?.volume.tree.file(self.id)?.content.next_data(offset))
    }

    fn map(&self) -> io::Result<Option<Mapped>> {
        Ok(None)
    }
}

impl Drop for SimulatedFile {
    fn drop(&mut self) {
        lock(&self.state).volume.tree.release(self.id);
    }
}

/// A lock that ends when it is dropped.
#[derive(Debug)]
struct SimulatedLock {
    state: Arc<Mutex<State>>,
    id: Id,
}

impl Lock for SimulatedLock {
    fn publish(&self, note: &[u8]) -> io::Result<()> {
        if note.len() > LOCK_NOTE_BYTES_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        powered(&self.state)?.volume.write(self.id, note, 0)
    }
}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.locked.remove(&self.id);
        state.volume.tree.release(self.id);
    }
}

/// A thread that panicked in a test must not hide the answer of the others.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn powered(state: &Mutex<State>) -> io::Result<MutexGuard<'_, State>> {
    let state = lock(state);
    if state.off { Err(power_is_off()) } else { Ok(state) }
}

fn power_is_off() -> io::Error {
    io::Error::other("power is off")
}

/// The name of a directory in the trace.
fn directory_name(dir: Option<&Path>) -> Arc<str> {
    dir.and_then(Path::file_name).map_or_else(|| "/".into(), |name| name.to_string_lossy().into())
}
