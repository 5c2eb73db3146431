//! Stores one failure whatever happens: in the store, else in a fallback file of its own.

use anyhow::Error;
use deadletter::{Durability, NewFailure, Spilled, Stored};

use crate::failure::{Exit, exit_of};
use crate::settings::{Context, Work};

/// Where a failure ended up.
pub enum Capture {
    /// In the store.
    Stored(Stored),
    /// In a fallback file, because of this.
    Spilled(Spilled, Error),
    /// Nowhere, because capture is turned off.
    Disabled,
    /// Nowhere, because of the first, and no fallback file because of the second, if one was tried.
    Lost(Error, Option<Error>),
}

/// Stores a failure as durably as asked, else as the settings say.
pub fn capture(context: &Context, failure: NewFailure, durability: Option<Durability>) -> Capture {
    let settings = context.service_config();
    if !settings.enabled {
        return Capture::Disabled;
    }
    let mut failure = failure;
    settings.complete(&mut failure);
    let engine = match context.open_writer(Work::Once) {
        Ok(engine) => engine,
        Err(cause) => return spill(context, failure, cause),
    };
    let stored = match durability {
        Some(durability) => engine.store_with(failure, durability),
        None => engine.store(failure),
    };
    match stored {
        Ok(stored) => {
            if let Err(error) = engine.close() {
                // The entry has the durability it reports; only the next open takes longer.
                context.output.warning(&format!("the store was not closed cleanly: {error}"));
            }
            Capture::Stored(stored)
        }
        Err(error) => {
            // Closing first gives the fallback directory a single writer.
            let _ = engine.close();
            spill(context, *error.failure, error.source.into())
        }
    }
}

/// An error with its causes on one line.
pub fn one_line(error: &Error) -> String {
    format!("{error:#}")
}

fn spill(context: &Context, failure: NewFailure, cause: Error) -> Capture {
    // Bad input stays bad, a directory that is not ours gets no file of ours, and what a limit keeps
    // out would come home from a fallback file all the same.
    if matches!(exit_of(&cause), Exit::Usage | Exit::NotCaptured) {
        return Capture::Lost(cause, None);
    }
    let spilled = context
        .writer_config(Work::Once)
        .and_then(|config| Ok(deadletter::spill(&config, failure).map_err(|error| error.source)?));
    match spilled {
        Ok(spilled) => Capture::Spilled(spilled, cause),
        Err(error) => Capture::Lost(cause, Some(error)),
    }
}
