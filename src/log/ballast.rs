//! The ballast: space that is given up when an operator's changes find none on a full disk.
//!
//! Its bytes mean nothing. A crash while it is made leaves a shorter file, which is made longer
//! the next time; one while it is given up leaves it or not.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::Config;
use crate::env::{Env, File, OpenMode, open_or_create, write_all_at};
use crate::error::{Error, Result};
use crate::format;

use super::account::{Account, Claim, Part};

/// Zeros are written in pieces of this size, where space cannot be reserved.
const STEP: u64 = 256 * 1024;

/// The ballast of one store.
#[derive(Debug)]
pub(crate) struct Ballast {
    env: Arc<dyn Env>,
    dir: PathBuf,
    bytes: u64,
    account: Arc<Account>,
}

impl Ballast {
    /// The ballast as it is found.
    pub fn open(env: Arc<dyn Env>, config: &Config, account: Arc<Account>) -> Result<Self> {
        let dir = config.dir.clone();
        let ballast = Self { env, dir, bytes: config.ballast_size(), account };
        let path = ballast.path();
        match ballast.env.open(&path, OpenMode::Read).and_then(|file| file.len()) {
            Ok(len) => ballast.account.add(Part::Ballast, len),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("measure", &path, error)),
        }
        Ok(ballast)
    }

    /// How much it is meant to hold.
    pub fn wanted(&self) -> u64 {
        self.bytes
    }

    /// Whether it is not as large as it is meant to be.
    pub fn is_short(&self) -> bool {
        self.account.bytes(Part::Ballast) < self.bytes
    }

    /// Makes it as large as it is meant to be, and durable.
    ///
    /// # Errors
    /// When there is no space for it on the disk, and then nothing of it is left, or below the
    /// bound, and then it is as it was.
    pub fn make(&self) -> Result<()> {
        let path = self.path();
        self.account.claim(Part::Ballast, self.bytes, Claim::Changes)?;
        let made = self.fill().map_err(|error| Error::io("make", &path, error));
        self.account.release(Part::Ballast, u64::MAX);
        match made {
            Ok(()) => self.account.add(Part::Ballast, self.bytes),
            Err(_) => drop(self.env.unlink(&path)),
        }
        made
    }

    /// Gives it up. Answers how much space that freed.
    pub fn release(&self) -> Result<u64> {
        let (path, held) = (self.path(), self.account.bytes(Part::Ballast));
        match self.env.unlink(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
            other => other.map_err(|error| Error::io("remove", &path, error))?,
        }
        self.account.release(Part::Ballast, u64::MAX);
        self.env.sync_dir(&self.dir).map_err(|error| Error::io("sync", &self.dir, error))?;
        tracing::warn!(bytes = held, "the ballast was given up: the disk is full");
        Ok(held)
    }

    fn fill(&self) -> std::io::Result<()> {
        let path = self.path();
        let file = open_or_create(&*self.env, &path)?;
        match file.allocate(self.bytes) {
            // It is only ever removed, so reserved space is as good as written zeros, and wears
            // out no flash.
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Unsupported => {
                write_zeros(&*file, self.bytes)?;
            }
            Err(error) => return Err(error),
        }
        file.set_len(self.bytes)?;
        file.sync()?;
        self.env.sync_dir(&self.dir)
    }

    fn path(&self) -> PathBuf {
        self.dir.join(format::BALLAST_NAME)
    }
}

fn write_zeros(file: &dyn File, bytes: u64) -> std::io::Result<()> {
    let zeros = vec![0; usize::try_from(STEP.min(bytes)).unwrap_or_default()];
    let mut offset = 0;
    while offset < bytes {
        let len = usize::try_from(bytes - offset).unwrap_or(usize::MAX).min(zeros.len());
        write_all_at(file, zeros.get(..len).unwrap_or_default(), offset)?;
        offset += len as u64;
    }
    Ok(())
}
