//! `join`: pairs of rows of two streams with equal keys and times close to each other.
//!
//! ```text
//! row of a side -> late: port `late`
//!               -> NULL in its key: matches nothing (filtered, unless unmatched rows of its side are wanted)
//!               -> its pairs with the rows of the other side in state: emitted; then it is kept itself
//! time          -> rows that no row to come can match leave the state; those that matched nothing come out, if wanted
//! ```
//!
//! Which rows are late is decided by each row's own watermark, and a row is kept for as long as a row that is not late can match
//! it. So every pair of rows in time comes out once, whichever of the two arrives first, and a row is unmatched only if there
//! never was its match (rule R11). Pairs come at once, unmatched rows when their time is over, in the order of (time, key,
//! position).
//!
//! Two streams of changes are joined as tables: see [`tables`].
//!
//! A result has the later time of the two. Steps downstream see the watermark later by what unmatched rows are held back, and by
//! `lateness`, so that no result is late for them. Among results of one time, their positions are those of the pair, not of
//! whichever row came last.

// Bad data must never end the process.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod operator;
mod plan;
mod results;
mod spec;
mod tables;

pub use spec::{Join, Kind, On, Within};
