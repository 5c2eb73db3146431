//! The handlers of the command line: a program of the user's, or the captured command itself.

mod brake;
mod exec;
mod process;
mod rerun;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, Result};
use deadletter::{Outcome, ReplayHandler};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::run::ignored_signals;
use crate::settings::Context;

pub use brake::Brake;

/// What a handler asks for that is called when it is too late to run: the attempt is not charged,
/// and its entry is due again when the user comes back.
const STOPPED: Duration = Duration::from_secs(1);

/// Whether handlers are to run no more. Commands that run get the terminal's signals themselves.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Set by a signal.
    asked: Arc<AtomicBool>,
    /// Why no handler can run at all.
    broken: Arc<OnceLock<String>>,
}

impl Stop {
    /// Takes over the signals that ask us to stop: the first one lets what runs come to its end,
    /// a second one ends us at once. Until then they end us as usual, so that nobody has to wait
    /// for us while we only wait for the store. What our caller ignores we ignore, too.
    pub fn hold(&self) -> Result<()> {
        let ignored = ignored_signals();
        for signal in [SIGINT, SIGTERM] {
            if ignored >> (signal - 1) & 1 == 1 {
                continue;
            }
            let act = "cannot take over signals";
            // In this order: the default acts only once the flag was set before.
            signal_hook::flag::register_conditional_default(signal, Arc::clone(&self.asked))
                .context(act)?;
            signal_hook::flag::register(signal, Arc::clone(&self.asked)).context(act)?;
        }
        Ok(())
    }

    /// Whether the user asked.
    pub fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// No handler can run any more, for a reason that is no entry's fault.
    pub fn give_up(&self, reason: String) {
        // The first reason is the one to look at.
        let _ = self.broken.set(reason);
    }

    /// Why no handler can run at all, if that is so.
    pub fn broken(&self) -> Option<&str> {
        self.broken.get().map(String::as_str)
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

/// The outcome of a program that exited with 0. Its note takes the place of an older failure's.
fn delivered() -> Outcome {
    Outcome::Success { note: "delivered".to_owned() }
}
