//! Sessions: windows that follow the rows, and merge.
//!
//! ```text
//! operator   rows in, results out         open    the sessions that one batch touches, merged in memory
//! layout     keys and values of state     close   sessions that are over: emitted, deleted
//! ```
//!
//! A session of a group is a set of rows with less than `gap` of event time between each and the next. It begins at its first
//! row and ends `gap` after its last one. Which rows are together depends on the rows alone, as long as the same rows are taken
//! whatever came first. Three rules see to that:
//!
//! 1. A row is late if it is behind the watermark of its own partition by more than `lateness`: `time < watermark - lateness`.
//! 2. A session is closed when the step's watermark has passed its end by `lateness`: `last + gap + lateness <= watermark`.
//! 3. The step's watermark is that of the slowest partition, so no row has an earlier one. A row that is not late is therefore
//!    at or behind the end of every closed session: it can neither belong to one nor bring it back.
//!
//! To take a late row into a session that happens to be open (as other engines do) would break this: whether one is open depends
//! on which partitions have been read how far.

mod close;
mod layout;
mod open;
mod operator;

pub use operator::SessionOperator;
