//! The known weaknesses of the reference, one test each: what happened there does not happen here.

mod capture;
