//! The handlers of the command line: a program of the user's, or the captured command itself.

mod exec;
mod process;
mod rerun;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use deadletter::ReplayHandler;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::settings::Context;

/// What a handler asks for when it is not to run any more: long enough to end the replay, and
/// short enough that the entry is due when the user comes back. The attempt is not charged.
const STOPPED: Duration = Duration::from_secs(1);

/// Whether the user asked us to stop. Commands that run get the terminal's signals themselves.
#[derive(Debug, Clone)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Takes over the signals that ask us to stop: the first one lets what runs come to its end,
    /// a second one ends us at once.
    pub fn hold() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            let act = "cannot take over signals";
            // In this order: the default acts only once the flag was set before.
            signal_hook::flag::register_conditional_default(signal, Arc::clone(&flag))
                .context(act)?;
            signal_hook::flag::register(signal, Arc::clone(&flag)).context(act)?;
        }
        Ok(Self(flag))
    }

    /// Whether it was asked.
    pub fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The handler for `--exec`, or without it the one that runs captured commands again.
///
/// Fails before anything is acquired when the program of `--exec` cannot be started.
pub fn handler(
    context: &Context,
    exec: Option<&str>,
    stop: &Stop,
) -> Result<Arc<dyn ReplayHandler>> {
    let quiet = context.output.quiet;
    match exec {
        Some(text) => Ok(Arc::new(exec::Exec::new(text, quiet, stop.clone())?)),
        None => Ok(Arc::new(rerun::Rerun::new(quiet, stop.clone()))),
    }
}
