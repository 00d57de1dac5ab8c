//! The `window` step: rows grouped by columns and by event time, aggregated, and emitted when time has passed.
//!
//! ```text
//! spec         the configuration          plan      checks, types, schema        aggregate  the SQL of computed columns
//! operator     the state machine           groups    groups of one batch          accumulator  what a group remembers
//! sessions     windows that merge          rows      rows of one batch            shape  the windows as configured
//! bounds       which windows a time is in  layout    keys of state                results    rows to be emitted
//! exact        sums of doubles             sketch    percentiles                  values  columns
//! picked       one row's value out of many    merge  two memories as one              calendar  days of a time zone
//! panes        results before the close        earliest  the end that comes first    updates  results per row
//! expiry       groups without rows             distinct  counted values           inputs  arguments of aggregates
//! retraction   what can't be taken back
//! ```
//!
//! What holds:
//!
//! * The same rows give the same results, however they were cut into batches, wherever work was interrupted, and whichever
//!   partition came first: sums are exact before they are rounded or judged once ([`exact`]), percentiles count
//!   ([`sketch`]), and `first`, `last`, `min_by` and `max_by` use event time and position ([`picked`]).
//! * A window is emitted once. Rows that come after all their windows were closed go to the port `late`.
//! * A row that an aggregate cannot take (a value that is not a number) goes to the dead letters as a whole and leaves no
//!   trace in any aggregate. A result that does not fit its column (a sum out of range) goes there instead of being
//!   emitted; later results use the sum at that time.
//!
//! Limits: a group's entry is rewritten once per batch that touches it. A percentile's sketch is part of that entry (about
//! a kilobyte). Intermediate results of `emit: on_update` inherently depend on the order of arrival; the last one of a
//! group does not, nor do those of `emit: { every: .. }`.

// Bad data must never end the process.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod accumulator;
pub mod aggregate;
pub mod bounds;
pub mod calendar;
mod distinct;
mod earliest;
pub mod exact;
pub mod expiry;
mod groups;
pub mod inputs;
pub mod layout;
mod merge;
pub mod operator;
pub mod panes;
pub mod picked;
pub mod plan;
pub mod results;
mod retraction;
mod rows;
pub mod sessions;
mod shape;
pub mod sketch;
pub mod spec;
mod updates;
pub mod values;

pub use operator::WindowOperator;
pub use spec::{Compute, Emit, Hopping, Length, Session, Window};
