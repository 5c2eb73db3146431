//! Bugs for the crash tests to find, so that they prove that they can. Never in a normal build.

use std::cell::Cell;

/// A bug that can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Every open goes on in the old segment, as if it had been closed in order.
    AppendAfterTear,
    /// A rewritten segment gets its name before it is synced.
    UnsyncedRewrite,
    /// Compaction lets go of a state whose entry stands in a segment that it does not rewrite.
    ForgottenChange,
    /// Compaction lets go of a removal while the record of its entry is still there.
    ForgottenRemoval,
    /// A rewritten segment holds compressed bodies and not what they were compressed with, and is
    /// not read again.
    ForgottenDictionary,
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Plants a bug for this thread, or none.
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

pub(crate) fn has(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}
