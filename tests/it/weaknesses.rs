//! The forty weaknesses of the reference, each with a test that shows the good behavior, or with
//! the reason why it cannot occur here.
//!
//! Tests are named after the weakness. W1 to W13 are about capture and durability: `capture`
//! has their tests. `docs/reference-parity.md` names every test in full. The others:
//!
//! | weakness | shown by | or why not |
//! |---|---|---|
//! | W14 | `w14_` in `atomicity` | |
//! | W15 | `w15_` in `atomicity`; the unit tests of the index compare its answers with a list | |
//! | W16 | `w16_` in `atomicity` | |
//! | W17 | `w17_` in `atomicity`; `transitions` | |
//! | W18 | `w18_` in `atomicity`; `service_replay::pipeline` | an operation keeps its key |
//! | W19 | `w19_` in `atomicity`; `drain` for the index that is still being rebuilt | |
//! | W20 | `w20_` in `atomicity` | there is no eviction yet |
//! | W21 | `w21_` in `atomicity` | |
//! | W22 | `w22_` in `lifecycle` | |
//! | W23 | `w23_` in `lifecycle` | there is one cap, the entry's own |
//! | W24 | `w24_` in `lifecycle`; the gate itself: `w24_` in `service_replay::weaknesses` | |
//! | W25 | `w25_` in `service_replay::weaknesses` | it is asked before a lease is taken |
//! | W26 | `w26_` in `lifecycle`; the delay itself: `w26_` in `service_replay::weaknesses` | |
//! | W27 | `w27_` in `lifecycle` | |
//! | W28 | `w28_` in `lifecycle` | |
//! | W29 | `w29_` in `lifecycle` | |
//! | W30 | `w30_` in `lifecycle` | there are no summaries yet |
//! | W31 | `w31_` in `lifecycle` | there is no eviction yet |
//! | W32 | `w32_` in `lifecycle`; releases: `service_replay::recovery` | |
//! | W33 | `w33_` in `interface` | a call that does not exist does not compile |
//! | W34 | `w34_` in `interface`; `cli::operate` for the command line | no text becomes days |
//! | W35 | `help_is_as_written_down` and the listing in `cli`; the actor in `cli::operate` | |
//! | W36 | `w36_` in `interface` | |
//! | W37 | `w37_` in `interface`; the command line in `cli::operate` | |
//! | W38 | `w38_` in `cost` | |
//! | W39 | `w39_` in `cost` | waits are counted; no bench of the time yet |
//! | W40 | `w40_` in `cost` | |

mod atomicity;
mod capture;
mod cost;
mod interface;
mod lifecycle;
mod stand_in;
