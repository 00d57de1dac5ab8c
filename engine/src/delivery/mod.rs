//! Delivery of a committed topic into a table, exactly once. Into a store whose transactions can cover rows and position, see
//! [`positioned`]; this page is about tables that only recognise repeated inserts.
//!
//! A table can't take part in a Kafka transaction. So the pipeline writes the table's rows to a separate topic, the outbox,
//! inside its transaction, and a [`Delivery`] inserts them: it reads committed records, cuts blocks, and
//! inserts each under a token that the table remembers. Per block:
//!
//! ```text
//!  1  commit offset = first of the block, metadata = intent (first, last, rows, CRC, ...)     the group fences zombies
//!  2  insert under token(block)                                                               the table drops repeats
//!  3  commit offset = last + 1, with the intent of the next block if there is one already
//! ```
//!
//! After a crash at any step the intent says exactly which records may be in the table. The same block is read again (the
//! outbox is immutable; rows and CRC prove it), and [`decide`] says what to do: insert again under the same token while
//! the table surely remembers it; later, count the rows in the table by their position columns, and skip or insert.
//! If neither is safe, the delivery stops with the reason ([`Stop`]) instead of guessing.
//!
//! Invariant: a row is in the table, or in the dead letters, or at or after the committed offset; never in two of them
//! once its block is settled.
//!
//! Refused rows: a block that the table refuses is halved until each bad row is alone ([`Path`]). Each part has its own
//! intent, so that a crash repeats the same parts under the same tokens. A bad row goes to the dead letters in one
//! Kafka transaction with the position after it.
//!
//! Zombies: a table cannot fence. An insert is started only if the group has accepted a commit of this member less than half
//! a session timeout ago (a broker round trip, which proves more than a poll), and an insert ends within
//! [`Target::max_insert`]. A new owner inserts under the same token at once, which is safe while the token is remembered;
//! before it believes a count of rows it waits until a predecessor's insert can no longer happen.
//!
//! Honest limits. A process frozen between its check and its request, for longer than the table remembers tokens, can
//! still insert twice. The table remembers blocks of all its writers together: the window must be larger than their
//! inserts during [`Settings::safe_window`] (in ClickHouse 10,000 blocks; issue 83491 there). Rows that a materialized
//! view refuses after the table has taken them stop the delivery, because they can't be removed. One insert is under
//! way at a time; more lanes of the same group go faster.

mod block;
mod buffer;
pub mod contract;
mod counters;
mod dead_letters;
mod decide;
mod deliver;
mod intent;
mod intents;
mod lane;
mod member;
mod memory;
mod opening;
mod partition;
pub mod positioned;
mod pressure;
mod refusal;
mod strikes;
mod table_rows;
mod target;
#[cfg(test)]
pub(crate) mod tests;
mod work;

use std::sync::Arc;

use operator_core::Millis;

pub use self::block::{Block, Path, Range};
pub use self::buffer::Limits;
pub use self::counters::Counters;
pub use self::decide::{Action, Facts, Stop, decide};
pub use self::deliver::{Deliver, Step};
pub use self::intent::{CLEAN, Intent, MAX_INTENT, Stored};
pub use self::lane::Delivery;
pub use self::memory::{Check, MemoryTable, MemoryTarget, TableFault};
pub use self::positioned::{MemoryStore, Position, Positioned, PositionedDelivery, Reply, Writing};
pub use self::table_rows::TableRow;
pub use self::target::{Answer, Progress, Target};
use crate::broker::{Broker, BrokerError, Clock, TopicPartition};
pub use crate::sinks::{MAX_BLOCK_ROWS, OFFSET, PARTITION, ROW, position_fields};

/// A store that is ready to take rows, by how it makes them exact.
pub enum Store {
    /// It recognises repeated inserts.
    Tokens(Box<dyn Target>),
    /// It keeps positions beside the rows.
    Positions(Box<dyn Positioned>),
}

impl Store {
    /// Joins the group, to deliver into it.
    ///
    /// # Errors
    /// Settings that make no sense; the broker's answer to joining.
    pub fn deliver(
        self,
        broker: Arc<dyn Broker>,
        clock: Arc<dyn Clock>,
        settings: Settings,
        counters: Arc<Counters>,
    ) -> Result<Box<dyn Deliver>, DeliveryError> {
        Ok(match self {
            Store::Tokens(target) => Box::new(Delivery::new(broker, clock, target, settings)?.counting(counters)),
            Store::Positions(store) => Box::new(PositionedDelivery::new(broker, clock, store, settings, counters)?),
        })
    }
}

/// What a delivery delivers, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the pipeline; part of every token.
    pub pipeline: Arc<str>,
    /// Name of the sink, for dead letters.
    pub sink: Arc<str>,
    /// Run of the pipeline; part of every token. To be raised whenever the same outbox offsets may hold other rows.
    pub epoch: u64,
    /// The outbox topic.
    pub topic: Arc<str>,
    /// Its consumer group, used by no one else.
    pub group: String,
    /// Stable name of this lane within the group.
    pub instance: String,
    /// Where refused rows go. `None`: the first refused row stops delivery.
    pub dead_letters: Option<Arc<str>>,
    /// Stable transactional id of this lane, for dead letters.
    pub transactional_id: String,
    pub limits: Limits,
    /// Bytes read and not inserted yet, of all partitions, above which reading pauses.
    pub max_buffer: usize,
    /// Records asked for in one poll.
    pub poll_records: usize,
    /// Session timeout of the group: an insert needs a commit younger than half of it.
    pub session_timeout: Millis,
    /// For how long after a block's first attempt the table's memory of its token is relied on. Well below the time in which
    /// all writers together fill the deduplication window.
    pub safe_window: Millis,
    /// More refused rows in a minute than this stop delivery: then it is not the rows that are wrong.
    pub max_refused: u64,
    /// Pauses between attempts: doubling from the first to the last.
    pub backoff: (Millis, Millis),
    /// Without any record for this long while an unfinished block is read again, delivery stops.
    pub patience: Millis,
}

impl Settings {
    /// Defaults for a pipeline's sink: blocks of 100,000 rows or 64 MiB or one second.
    pub fn new(pipeline: &str, sink: &str, topic: &str, group: &str, instance: &str) -> Settings {
        Settings {
            pipeline: pipeline.into(),
            sink: sink.into(),
            epoch: 1,
            topic: topic.into(),
            group: group.to_owned(),
            instance: instance.to_owned(),
            dead_letters: None,
            transactional_id: format!("{group}.{instance}.letters"),
            limits: Limits { rows: 100_000, bytes: 64 << 20, flush: 1_000 },
            max_buffer: 256 << 20,
            poll_records: 1_000,
            session_timeout: 10_000,
            safe_window: 600_000,
            max_refused: 1_000,
            backoff: (100, 30_000),
            patience: 180_000,
        }
    }

    /// # Errors
    /// Blocks of no rows, or of too many.
    pub(crate) fn check(&self) -> Result<(), DeliveryError> {
        let limits = self.limits;
        if (1..=MAX_BLOCK_ROWS).contains(&limits.rows) && limits.bytes > 0 && limits.flush >= 0 {
            return Ok(());
        }
        Err(DeliveryError::Setup(format!("blocks need 1 to {MAX_BLOCK_ROWS} rows, some bytes and a time to wait: {limits:?}")))
    }

    /// The pause after the attempt number `attempts` (from 1) failed.
    pub(crate) fn pause(&self, attempts: u32) -> Millis {
        let (first, last) = self.backoff;
        let doubled = 1i64.checked_shl(attempts.saturating_sub(1).min(40)).unwrap_or(i64::MAX);
        first.saturating_mul(doubled).min(last).max(1)
    }
}

/// Why a delivery has ended. Nothing is lost: what is not in the table is still in the outbox.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The protocol does not allow to continue.
    #[error("{partition}: {stop}")]
    Stopped { partition: TopicPartition, stop: Stop },
    /// A record in the outbox is not what a pipeline writes there.
    #[error("{partition}, offset {offset}: not a batch of rows: {why}")]
    Corrupt { partition: TopicPartition, offset: i64, why: String },
    /// Rows were refused and cannot go to the dead letters.
    #[error("{partition}, offset {offset}: {why}")]
    Refused { partition: TopicPartition, offset: i64, why: String },
    /// Settings that cannot be met.
    #[error("{0}")]
    Setup(String),
    #[error(transparent)]
    Broker(#[from] BrokerError),
}
