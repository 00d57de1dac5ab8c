//! Delivery into a store whose transactions cover rows and position (PostgreSQL).
//!
//! The store has a row per partition of the outbox with the next position, the outbox's topic id and an **epoch**. Per partition and block:
//!
//! ```text
//!  claim    epoch + 1, read the position                         fences every earlier owner; refused for another topic
//!  write    one transaction: rows, and position = after the block where epoch = mine
//!           no row of that epoch -> fenced: nothing happened
//! ```
//!
//! Nothing needs to be recognised or counted. After a crash, a lost reply or a rebalance the partition is claimed again, which waits
//! for a transaction of the predecessor that still holds the position's row, and the position says what is committed. The group's
//! offsets serve tools that show lag, and as a witness: if they are there and the store's position is not, it was lost, and the
//! delivery stops ([`Stop::StoreLostPosition`]). Before a claim the group must confirm the member, so that a member it has expelled
//! does not take partitions from their new owner.
//!
//! Refused rows: as for other stores, a refused block is halved until each bad row is alone; each part is a transaction that moves the
//! position behind its last row. A bad row goes to the dead letters in a Kafka transaction with its place ([`marks`]); then the position
//! moves past it.
//!
//! Invariant: a row is in the table, or in the dead letters, or at or after the store's position; in exactly one of them, except a row at
//! the position that the group's mark names, which is a letter.

pub mod contract;
mod dead_letters;
mod marks;
mod memory;
mod pace;
mod store;
#[cfg(test)]
mod tests;
mod work;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use operator_core::Millis;

use self::marks::Mark;
use self::pace::Pace;
use self::work::{Doing, Pending};
use super::buffer::Buffer;
use super::counters::Counters;
use super::dead_letters::DeadLetters;
use super::deliver::{Deliver, Step, left_until};
use super::member::Member;
use super::opening::Opening;
use super::refusal::Flood;
use super::{DeliveryError, Settings};
use crate::broker::{Broker, BrokerError, Clock, Committed, Event, Failure, RecordSet, TopicId, TopicPartition};

pub use self::memory::{MemoryStore, Writing};
pub use self::store::{Position, Positioned, Reply};

/// What is known of a partition of the group's assignment.
pub(super) struct Partition {
    tp: TopicPartition,
    /// Bounds of the log when it was assigned.
    low: i64,
    high: i64,
    /// What the group had stored when it was assigned.
    marked: Option<(i64, Mark)>,
    /// The store's position is known: records are read from there.
    claimed: bool,
    /// Monotonic time before which nothing is tried.
    not_before: Millis,
    /// Failures in a row, for the pause.
    failures: u32,
    buffer: Buffer,
    block: Option<Pending>,
    /// Everything before is settled.
    done: Position,
    /// The store's position.
    stored: Position,
    /// The end of what can be read, as last heard.
    end: i64,
    /// Monotonic time of the last transaction.
    stored_at: Millis,
    /// The offset that the group has, for lag, and when it was committed.
    shown: (i64, Millis),
}

impl Partition {
    fn bytes(&self) -> usize {
        self.buffer.bytes() + self.block.as_ref().map_or(0, |block| block.cut.bytes)
    }

    fn waiting_rows(&self) -> u64 {
        (self.buffer.rows() + self.block.as_ref().map_or(0, |block| block.cut.num_rows())) as u64
    }

    /// Nothing waits: what lies between `done` and what was read are markers of transactions.
    fn is_idle(&self) -> bool {
        self.claimed && self.block.is_none() && self.buffer.is_empty()
    }

    fn lag(&self) -> i64 {
        let from = if self.is_idle() { self.buffer.next() } else { self.done.offset };
        (self.end.max(from) - from).max(0)
    }
}

/// Carries the rows of an outbox topic into a table; see the module. Driven by [`Deliver::step`] from one thread.
pub struct PositionedDelivery {
    settings: Settings,
    broker: Arc<dyn Broker>,
    clock: Arc<dyn Clock>,
    member: Member,
    store: Box<dyn Positioned>,
    dead_letters: DeadLetters,
    counters: Arc<Counters>,
    partitions: BTreeMap<i32, Partition>,
    /// The outbox's, as it was when partitions were assigned.
    topic: Option<TopicId>,
    /// The one thing in progress, and its partition.
    job: Option<(i32, Doing)>,
    /// A transaction whose reply was lost: its partition, the position behind it and its rows.
    unanswered: Option<(i32, Position, u64)>,
    turn: i32,
    flood: Flood,
    pace: Pace,
}

impl PositionedDelivery {
    /// Joins the group. The store must be checked already (tables, types).
    ///
    /// # Errors
    /// Settings that make no sense; the broker's answer to joining.
    pub fn new(
        broker: Arc<dyn Broker>,
        clock: Arc<dyn Clock>,
        store: Box<dyn Positioned>,
        settings: Settings,
        counters: Arc<Counters>,
    ) -> Result<PositionedDelivery, DeliveryError> {
        settings.check()?;
        let member = Member::join(broker.as_ref(), &settings)?;
        let dead_letters = DeadLetters::new(&settings);
        Ok(PositionedDelivery {
            settings,
            broker,
            clock,
            member,
            store,
            dead_letters,
            counters,
            partitions: BTreeMap::new(),
            topic: None,
            job: None,
            unanswered: None,
            turn: -1,
            flood: Flood::default(),
            pace: Pace::default(),
        })
    }

    fn hear(&mut self, events: Vec<Event>) -> Result<bool, DeliveryError> {
        let busy = !events.is_empty();
        for event in events {
            match event {
                Event::Assigned(partitions) => {
                    self.forget();
                    self.member.assigned(partitions);
                }
                Event::Revoked { lost, .. } => {
                    if lost {
                        self.forget();
                    }
                    self.member.revoked();
                }
                Event::Records { partition, records } => self.take(&partition, records.as_ref())?,
                Event::End { partition, offset } => {
                    if let Some(known) = self.partitions.get_mut(&partition.partition) {
                        known.end = offset;
                        if known.claimed {
                            known.buffer.saw_end(offset);
                        }
                    }
                }
                Event::Ends(_) => {}
            }
        }
        Ok(busy)
    }

    fn take(&mut self, tp: &TopicPartition, records: &dyn RecordSet) -> Result<(), DeliveryError> {
        let now = self.clock.monotonic();
        let Some(partition) = self.partitions.get_mut(&tp.partition).filter(|partition| partition.claimed) else { return Ok(()) };
        partition.buffer.push_all(tp, records, now)?;
        partition.end = partition.end.max(partition.buffer.next());
        Ok(())
    }

    /// Finds out where the log of newly assigned partitions stands, and that the group knows this member.
    fn open(&mut self) -> Result<bool, DeliveryError> {
        let now = self.clock.monotonic();
        let Some(opening) = self.member.opening_due(now) else { return Ok(false) };
        match self.look(&opening.partitions) {
            Ok(found) => {
                self.partitions.extend(found.into_iter().map(|partition| (partition.tp.partition, partition)));
                Ok(true)
            }
            Err(error) => {
                self.counters.tolerate(error)?;
                self.member.open_again(opening, &self.settings, now);
                Ok(false)
            }
        }
    }

    fn look(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Partition>, BrokerError> {
        // A transaction that a predecessor left open hides the marks until it is settled.
        self.dead_letters.settle(self.broker.as_ref())?;
        if !self.member.consumer.membership().is_fencing() {
            return Err(BrokerError::new(Failure::Transient, "the group has not confirmed this member"));
        }
        let topic = self.settings.topic.to_string();
        self.topic = self.broker.topic_ids(std::slice::from_ref(&topic))?.remove(&topic);
        let committed = self.member.consumer.committed(partitions)?;
        let again: Vec<(TopicPartition, Committed)> =
            partitions.iter().cloned().zip(committed.iter().cloned()).filter_map(|(tp, committed)| Some((tp, committed?))).collect();
        if !again.is_empty() {
            self.member.consumer.commit(&again)?;
        }
        let now = self.clock.monotonic();
        let mut found = Vec::new();
        for (tp, committed) in partitions.iter().zip(committed) {
            let (low, high) = self.member.consumer.bounds(tp)?;
            found.push(Partition {
                tp: tp.clone(),
                low,
                high,
                shown: (committed.as_ref().map_or(-1, |committed| committed.offset), now),
                marked: committed.map(|committed| (committed.offset, Mark::decode(&committed.metadata))),
                claimed: false,
                not_before: 0,
                failures: 0,
                buffer: Buffer::new(tp.partition, i64::MAX),
                block: None,
                done: Position::default(),
                stored: Position::default(),
                end: high,
                stored_at: now,
            });
        }
        Ok(found)
    }

    /// Forgets everything: partitions are claimed again, and the store says where they stand.
    fn start_over(&mut self, why: &str) {
        self.counters.failed(why);
        let partitions: Vec<TopicPartition> = self.partitions.values().map(|partition| partition.tp.clone()).collect();
        self.forget();
        if !partitions.is_empty() {
            self.member.open_again(Opening::new(partitions), &self.settings, self.clock.monotonic());
        }
    }

    /// Gives revoked partitions back once nothing is in progress.
    fn let_go(&mut self) -> Result<bool, DeliveryError> {
        if !self.member.is_revoking() || self.job.is_some() {
            return Ok(false);
        }
        self.show_positions(true)?;
        self.forget();
        self.member.release(&self.counters)
    }

    /// `timeout`, or less if something is due earlier.
    fn wait(&self, timeout: Duration) -> Duration {
        let due = |partition: &Partition| match (partition.claimed, &partition.block) {
            (true, None) => partition.buffer.due(&self.settings.limits),
            _ => Some(partition.not_before),
        };
        let first = self.partitions.values().filter_map(due).chain(self.member.opens_at()).min();
        left_until(first, self.clock.monotonic()).min(timeout)
    }
}

impl Deliver for PositionedDelivery {
    fn step(&mut self, timeout: Duration) -> Result<Step, DeliveryError> {
        let wait = if self.job.is_some() { Duration::ZERO } else { self.wait(timeout) };
        let Some(events) = self.member.poll(&self.settings, wait, &self.counters)? else { return Ok(Step::Unavailable) };
        let mut busy = self.hear(events)?;
        busy |= self.open()?;
        busy |= self.advance(timeout)?;
        busy |= self.show_positions(false)?;
        busy |= self.let_go()?;
        let bytes = self.partitions.values().map(Partition::bytes).sum();
        let reading = self.partitions.values().filter(|partition| partition.claimed).map(|partition| partition.tp.clone());
        self.member.balance(bytes, self.settings.max_buffer, reading)?;
        let lag = self.partitions.values().map(Partition::lag).sum();
        self.counters.standing(lag, self.partitions.values().map(Partition::waiting_rows).sum());
        Ok(if busy { Step::Busy } else { Step::Idle })
    }

    fn close(&mut self, stopping: bool) -> bool {
        self.member.close(stopping, self.job.is_none())
    }

    fn forget(&mut self) {
        self.store.abandon();
        self.dead_letters.abandon();
        self.partitions.clear();
        self.job = None;
    }

    fn clock(&self) -> &dyn Clock {
        self.clock.as_ref()
    }

    fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }
}
