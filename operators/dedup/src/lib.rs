//! The `dedup` step: of rows that mean the same, one goes on.
//!
//! Rows are the same if they are equal in the columns of `by` and not further apart than `within`. "Not further apart" needs a
//! rule for chains (10:00, 10:50, 11:40 with `within: 1h`), and one that arrival can't change. The rows of a key, in the order of
//! (event time, topic, partition, offset), are divided into **runs**:
//!
//! ```text
//! a run begins with the first row that is in none, and has every row less than `within` after its first
//!
//! within: 1h    10:00  10:50 | 11:40  12:10 | 12:40        three runs
//! keep: first   10:00          11:40          12:40        duplicates: 10:50, 12:10
//! keep: last           10:50          12:10   12:40        duplicates: 10:00, 11:40
//! ```
//!
//! What is in a run depends on the rows alone. To know it, all rows up to a time must be there: a row waits in state until the
//! watermark, less `lateness`, has passed it ([`Emit::OnWatermark`]), and comes out in the order of event time. Its run's last
//! row is known `within` later. With [`Emit::AtOnce`] a row goes on as it comes, unless one of the same key less than `within`
//! before or after it went on before: which of two comes first is decided by arrival then, and lint says so.
//!
//! ```text
//! spec   the configuration      plan   checks, state layout      operator   the state machine
//! ```
//!
//! State: the rows that wait; one entry per run until nothing can belong to it any more.

// Bad data must never end the process.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod operator;
mod plan;
mod spec;

pub use spec::{Dedup, Emit, Keep};
