//! Finding entries: pending, replayable, breached, expired, pages, statistics.
