//! Acting on single entries: retry, force redrive, resolve, look at.
