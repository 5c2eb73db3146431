//! What a refusal means to the shell: exit codes, hints, and the chain that is printed.

use std::fmt;

use deadletter::{DlqError, Error, StoreError};

/// The exit codes that scripts depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// The operation ran and failed.
    Failed = 1,
    /// Usage or bad input.
    Usage = 2,
    /// There is no such entry.
    NotFound = 3,
    /// The entry's state does not allow it.
    Conflict = 4,
    /// Damage was found.
    Damage = 5,
    /// Another process holds the store.
    Locked = 6,
    /// Captured, but only in a fallback file.
    Spilled = 7,
    /// Not captured at all.
    NotCaptured = 8,
    /// A bug of ours.
    Bug = 70,
    /// The system refused an act on a file.
    Io = 74,
    /// A replay stopped early.
    Throttled = 75,
}

/// A refusal of the command line itself, with its exit code and what to do about it.
#[derive(Debug)]
pub struct Refusal {
    exit: Exit,
    message: String,
    hint: Option<String>,
}

/// Nobody reads our stdout any more, which ends the work and is no error.
#[derive(Debug)]
pub struct StdoutClosed;

impl Refusal {
    /// A refusal without advice.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None }
    }

    /// Bad usage or bad input.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Adds what the user may do now.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for StdoutClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stdout is closed")
    }
}

impl std::error::Error for StdoutClosed {}

/// The exit code of an error: decided by its type, never by its text.
pub fn exit_of(error: &anyhow::Error) -> Exit {
    // Also found when it was added to another error as its context.
    if let Some(refusal) = error.downcast_ref::<Refusal>() {
        return refusal.exit;
    }
    for cause in error.chain() {
        if cause.is::<StdoutClosed>() {
            return Exit::Done;
        }
        if let Some(refusal) = cause.downcast_ref::<Refusal>() {
            return refusal.exit;
        }
        match cause.downcast_ref::<DlqError>() {
            Some(DlqError::NotFound { .. }) => return Exit::NotFound,
            Some(DlqError::StateConflict { .. }) => return Exit::Conflict,
            Some(DlqError::Replay { .. }) => return Exit::Failed,
            _ => {}
        }
        if let Some(error) = engine_error(cause) {
            return exit_of_engine(error);
        }
        if cause.is::<std::io::Error>() {
            return Exit::Io;
        }
    }
    Exit::Bug
}

/// The exit code of an error of the library.
pub fn exit_of_engine(error: &Error) -> Exit {
    match error {
        Error::NotAStore { .. }
        | Error::Version { .. }
        | Error::Compressed { .. }
        | Error::Invalid { .. }
        | Error::TooLarge { .. } => Exit::Usage,
        Error::NotFound { .. } => Exit::NotFound,
        Error::Conflict { .. } | Error::LeaseLost { .. } => Exit::Conflict,
        Error::Damaged(_) => Exit::Damage,
        Error::Locked { .. } => Exit::Locked,
        Error::Full { .. } | Error::TooMany { .. } => Exit::NotCaptured,
        Error::Closed | Error::ReadOnly => Exit::Bug,
        Error::NotOpen { source } => exit_of_engine(source),
        _ => Exit::Io,
    }
}

/// What the user may do about an error, if there is something.
pub fn hint_of(error: &anyhow::Error, command: &str) -> Option<String> {
    error.chain().find_map(|cause| {
        if let Some(refusal) = cause.downcast_ref::<Refusal>() {
            return refusal.hint.clone();
        }
        if let Some(DlqError::NotFound { .. }) = cause.downcast_ref::<DlqError>() {
            return Some(format!("see the newest entries with: {command} list"));
        }
        match engine_error(cause)? {
            Error::Locked { .. } => Some(
                "wait for that process to end, or give DEADLETTER_LOCK_WAIT more seconds; \
                 reading commands work meanwhile"
                    .to_owned(),
            ),
            Error::NotAStore { .. } => {
                Some("choose another directory with --dir; nothing was changed in this one".into())
            }
            Error::NotFound { .. } => Some(format!("see the newest entries with: {command} list")),
            Error::Damaged(_) => Some(format!("see all damage with: {command} verify")),
            _ => None,
        }
    })
}

fn engine_error<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a Error> {
    cause
        .downcast_ref::<Error>()
        .or_else(|| cause.downcast_ref::<StoreError>().map(|error| &error.source))
        .or_else(|| match cause.downcast_ref::<DlqError>() {
            Some(DlqError::Engine(error)) => Some(error),
            _ => None,
        })
}
