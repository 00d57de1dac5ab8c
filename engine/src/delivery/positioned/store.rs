//! The seam to a store that keeps positions: take a partition over, write rows and position in one transaction.

use std::time::Duration;

use crate::broker::TopicId;
use crate::delivery::block::Block;

/// A place in a partition of the outbox: every row before it is in the table or in the dead letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Offset of the next record.
    pub offset: i64,
    /// Place of the next row within that record.
    pub row: i32,
}

/// Where a claim or a transaction stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Nothing was started, or its outcome was already returned.
    Idle,
    /// Under way.
    Working,
    /// The partition is this connection's, and stands there. `None`: nothing was written for it yet.
    Claimed(Option<Position>),
    /// Rows and position are committed.
    Written,
    /// It did not happen: another connection has claimed the partition since.
    Fenced,
    /// It did not happen, and the rows are at fault: they will always be refused. `code`: the store's own.
    Refused { code: String, message: String },
    /// Nothing was sent: a row has a value that its column does not take, and why.
    Unfit(String),
    /// It did not happen: the store can't be reached or is in trouble. Worth trying again.
    Unavailable(String),
    /// It did not happen: the store was not done in time. Fewer rows may be.
    TooSlow(String),
    /// It is unknown whether it happened: the reply to the commit was lost.
    Unknown(String),
    /// It did not happen, and will not until someone changes the store or the configuration.
    Wrong(String),
}

/// A store whose transactions cover rows and position. One claim or transaction at a time, from one thread.
///
/// What it promises (checked by [`super::contract`]):
/// - A claim fences every earlier one of the same partition: what those have in progress is over when the claim returns, committed or
///   not, and the position that is returned tells which.
/// - A position belongs to the topic that it was claimed for. A claim for another topic is [`Reply::Wrong`] and changes nothing; one
///   without an id is for whatever topic it is.
/// - Rows and position are committed together or not at all.
/// - No call waits for longer than its timeout.
pub trait Positioned: Send {
    /// Starts to take a partition over, whoever has it. `topic`: the outbox's id, where the brokers have ids.
    fn claim(&mut self, partition: i32, topic: Option<&TopicId>);

    /// Starts a transaction with the rows of `block`, which may be none, and the position after them. The partition was claimed.
    fn write(&mut self, block: &Block, next: Position);

    /// The progress, waiting up to `timeout` for the outcome. An outcome is returned once.
    fn progress(&mut self, timeout: Duration) -> Reply;

    /// Forgets what is in progress, which may still happen until the partition is claimed again.
    fn abandon(&mut self);
}
