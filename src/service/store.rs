//! Taking failures in: at once, through the outbox, into a fallback file.
