//! A bug for the crash tests to find, so that they prove that they can. Never in a normal build.

use std::cell::Cell;

thread_local! {
    static APPEND_AFTER_TEAR: Cell<bool> = const { Cell::new(false) };
}

/// Makes every open of this thread go on in the old segment, as if it had been closed in order.
pub fn plant_append_after_tear(planted: bool) {
    APPEND_AFTER_TEAR.set(planted);
}

pub(crate) fn append_after_tear() -> bool {
    APPEND_AFTER_TEAR.get()
}
