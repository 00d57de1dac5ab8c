//! The seam to the table: start an insert, poll its progress, count rows.

use std::time::Duration;

use operator_core::Millis;

use super::block::{Block, Range};

/// A table's answer about the rows of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Rows found, and how many different positions they have.
    Counted { rows: u64, distinct: u64 },
    /// Rows can't be distinguished, and why: a shared table, a table that merges rows.
    Uncountable(String),
}

/// Where an insert or a question stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing was started, or its outcome was already returned.
    Idle,
    /// Under way.
    Working,
    /// The rows are in the table, by this insert or by an earlier one with the same token.
    Inserted,
    /// Answer to [`Target::ask`].
    Answered(Answer),
    /// The rows are at fault: the same rows will always be refused. `code`: the target's own.
    Refused { code: i32, message: String },
    /// Nothing was sent: a row has a value that its column does not take, and why.
    Unfit(String),
    /// Nothing was sent, and nothing will be until the pipeline is changed: rows and target don't go together, and why.
    Wrong(String),
    /// It did not happen: the target cannot be reached or takes no inserts now. Worth trying again.
    Unavailable(String),
    /// It is unknown whether it happened: the reply was lost. Try again with the same token.
    Unknown(String),
}

/// A table that takes blocks. One insert or question at a time, from one thread.
///
/// What it promises (checked by [`super::contract`]):
/// - A block is inserted whole or not at all once its outcome is known to be `Inserted`, `Refused` or `Unavailable`.
/// - A block with a token seen before, within the target's window, changes nothing and is `Inserted`. The content is not
///   compared: that the rows are the same is the caller's duty.
/// - No call waits for longer than its timeout.
pub trait Target: Send {
    /// Starts to insert `block` in one request under a token made of its identity, unless a row can't fit ([`Progress::Unfit`]).
    fn start(&mut self, block: &Block);

    /// Starts to count the rows of a range of positions.
    fn ask(&mut self, range: &Range);

    /// The progress, waiting up to `timeout` for the outcome. An outcome is returned once.
    fn progress(&mut self, timeout: Duration) -> Progress;

    /// Forgets what is in progress, which may still happen.
    fn abandon(&mut self);

    /// A hash of everything besides the block itself that decides whether a repeated insert is recognised: table, split
    /// settings, format.
    fn settings(&self) -> u32;

    /// The longest that an insert can still happen after its request was sent. After this long it has happened or never will.
    fn max_insert(&self) -> Millis;

    /// How long a token is remembered at least, if every inserted block was followed by others at once and so many come
    /// per second. By default forever.
    fn remembers(&self, _blocks_per_second: f64) -> Millis {
        Millis::MAX
    }

    /// True where other tables take rows from this one (materialized views): then rows that are in this one may be
    /// missing there, which only a repeated insert under a token that is still remembered can mend.
    fn has_dependents(&self) -> bool {
        false
    }

    /// True where the table collapses rows of equal positions, so that repeating an insert does no harm.
    fn repeatable(&self) -> bool {
        false
    }

    /// True where a row replaces those of its key with lower positions. Then rows that another outbox of the same name has left there
    /// would win over newer ones.
    fn is_ordered(&self) -> bool {
        false
    }
}
