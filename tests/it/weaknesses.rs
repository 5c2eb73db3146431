//! The forty weaknesses of the reference, each with a test that shows the good behavior, or with
//! the reason why it cannot occur here.
//!
//! Tests are named after the weakness. W1 to W13 are about capture and durability: `capture`
//! has their tests. The others:
//!
//! | weakness | shown by | or why not |
//! |---|---|---|
//! | W14 | `w14_` in `atomicity` | |
//! | W15 | `w15_` in `atomicity`; `index` compares its counts with its listings | |
//! | W16 | `w16_` in `atomicity` | |
//! | W17 | `w17_` in `atomicity`; `transitions` | |
//! | W18 | `w18_` in `atomicity` | the key of an operation is the same in every attempt |
//! | W19 | `w19_` in `atomicity`; `query` for the index that is still being rebuilt | |
//! | W20 | `w20_` in `atomicity` | an eviction and its summary are one batch of the log |
//! | W21 | `w21_` in `atomicity` | |
//! | W22 | `w22_` in `lifecycle` | |
//! | W23 | `w23_` in `lifecycle` | there is one cap, the entry's own |
//! | W24 | `w24_` in `lifecycle`; the gate itself in the tests of replay | |
//! | W25 | the tests of replay | a domain without a handler is asked for before a lease is taken |
//! | W26 | `w26_` in `lifecycle`; the delay itself in the tests of replay | |
//! | W27 | `w27_` in `lifecycle` | |
//! | W28 | `w28_` in `lifecycle` | |
//! | W29 | `w29_` in `lifecycle` | |
//! | W30 | `w30_` in `lifecycle` | |
//! | W31 | `w31_` in `lifecycle`; eviction in the tests of the limits | |
//! | W32 | `w32_` in `lifecycle` | |
//! | W33 | `w33_` in `interface` | a call that does not exist does not compile |
//! | W34 | `w34_` in `interface`; the command line in `cli` | no text is turned into a number of days |
//! | W35 | `cli` | |
//! | W36 | `w36_` in `interface` | |
//! | W37 | `w37_` in `interface` | |
//! | W38 | `w38_` in `cost` | |
//! | W39 | `w39_` in `cost`; the benches for the time | |
//! | W40 | `w40_` in `cost` | |

mod atomicity;
mod capture;
mod cost;
mod interface;
mod lifecycle;
mod stand_in;
