//! Claims, transactions, refused rows.
//!
//! ```text
//! Claim -> read from the store's position -> cut a block -> Write -> done: next part, next block
//!                                                            |- refused -> halve: Write the first half
//!                                                            |            -> one row: Letter -> Write nothing, position past it
//!                                                            |- unavailable -> pause -> Write
//!                                                            |- too slow -> pause -> Write the first half; smaller blocks from now on
//!                                                            '- fenced, unknown -> claim everything again
//! ```

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, Schema};
use operator_core::Millis;

use super::marks::Mark;
use super::store::{Position, Reply};
use super::{Partition, PositionedDelivery};
use crate::broker::{Committed, Failure};
use crate::delivery::block::{Block, Path};
use crate::delivery::buffer::{Buffer, Cut};
use crate::delivery::{DeliveryError, Stop};
use crate::failpoint::failpoint;
use crate::sinks::{OFFSET, ROW};

/// How often an idle partition moves its position past the markers at its end: retention must not pass it.
const HEARTBEAT: Millis = 3_600_000;

/// How often the group's offsets follow, while blocks are written.
const SHOW: Millis = 1_000;

/// A block that is being written, part by part.
pub(super) struct Pending {
    pub cut: Cut,
    /// Rows of the cut before this one are settled: an earlier delivery has written them.
    skip: usize,
    path: Path,
    /// The part's row is a letter: only the position is to be moved.
    pub(super) lettered: bool,
}

impl Pending {
    /// Rows `start..end` of the cut that are meant.
    pub(super) fn part(&self) -> (usize, usize) {
        let (start, end) = self.path.part(self.cut.shape().after(self.skip));
        (start + self.skip, end + self.skip)
    }

    /// The place of a row of the cut; behind its last row, the place after the cut.
    pub(super) fn place(&self, row: usize) -> Position {
        let rows = self.cut.rows.as_ref();
        let offsets = rows.and_then(|rows| rows.column_by_name(OFFSET)?.as_primitive_opt::<Int64Type>());
        let places = rows.and_then(|rows| rows.column_by_name(ROW)?.as_primitive_opt::<Int32Type>());
        match (offsets, places) {
            (Some(offsets), Some(places)) if row < offsets.len() && row < places.len() => {
                Position { offset: offsets.value(row), row: places.value(row) }
            }
            _ => Position { offset: self.cut.last + 1, row: 0 },
        }
    }
}

pub(super) enum Doing {
    Claim,
    Write(Writing),
    /// A dead letter is being committed.
    DeadLetter,
}

/// A transaction.
#[derive(Clone, Copy)]
pub(super) struct Writing {
    /// The position behind the rows.
    next: Position,
    rows: u64,
    /// Monotonic time.
    began: Millis,
}

impl PositionedDelivery {
    /// Goes on with what is in progress, or with the next thing. True if something was done.
    pub(super) fn advance(&mut self, timeout: Duration) -> Result<bool, DeliveryError> {
        let Some((number, doing)) = self.job.take() else { return self.begin() };
        let doing = match doing {
            Doing::DeadLetter => return self.letter_progress(number, timeout),
            doing => doing,
        };
        match self.store.progress(timeout) {
            Reply::Working => {
                self.job = Some((number, doing));
                return Ok(false);
            }
            Reply::Wrong(why) => return Err(DeliveryError::Setup(why)),
            reply => match doing {
                Doing::Write(writing) => self.tried(number, reply, writing)?,
                _ => self.answered(number, reply)?,
            },
        }
        Ok(true)
    }

    /// A claim has ended.
    fn answered(&mut self, number: i32, reply: Reply) -> Result<(), DeliveryError> {
        match reply {
            Reply::Claimed(stored) => self.claimed(number, stored),
            // A claim that may have happened is made again.
            reply => {
                self.counters.failed(describe(reply));
                self.pause(number);
                Ok(())
            }
        }
    }

    /// Begins the next thing of the next partition in turn.
    fn begin(&mut self) -> Result<bool, DeliveryError> {
        if self.member.is_closing() {
            return Ok(false);
        }
        let (now, limits) = (self.clock.monotonic(), self.pace.limits(&self.settings.limits));
        let wants = |partition: &Partition| {
            let full = partition.claimed && partition.buffer.ready(&limits, now);
            partition.not_before <= now && (!partition.claimed || partition.block.is_some() || full || is_stale(partition, now))
        };
        let mut after = self.partitions.range(self.turn.saturating_add(1)..).chain(self.partitions.range(..=self.turn));
        let Some(number) = after.find(|(_, partition)| wants(partition)).map(|(number, _)| *number) else { return Ok(false) };
        self.turn = number;
        let Some(partition) = self.partitions.get_mut(&number) else { return Ok(false) };
        if !partition.claimed {
            self.store.claim(number, self.topic.as_ref());
            self.job = Some((number, Doing::Claim));
            return Ok(true);
        }
        if partition.block.is_none() {
            let (tp, done) = (partition.tp.clone(), partition.done);
            let corrupt = |why| DeliveryError::Corrupt { partition: tp, offset: done.offset, why };
            partition.block = partition.buffer.cut(&limits).map_err(corrupt)?.map(|cut| {
                // The first record may have been written in part.
                let skip = if cut.first == done.offset { usize::try_from(done.row).unwrap_or(0).min(cut.num_rows()) } else { 0 };
                Pending { cut, skip, path: Path::default(), lettered: false }
            });
            self.keep_pace(number);
        }
        self.write(number);
        Ok(true)
    }

    /// Starts the transaction of the part that is meant; without one, of the position alone.
    pub(super) fn write(&mut self, number: i32) {
        let Some(partition) = self.partitions.get_mut(&number) else { return };
        let (rows, next, identity) = match &partition.block {
            Some(pending) => {
                let (start, end) = pending.part();
                let length = if pending.lettered { 0 } else { end - start };
                let rows = pending.cut.rows.as_ref().map(|rows| rows.slice(start, length));
                (
                    rows,
                    pending.place(end),
                    (pending.cut.first, pending.cut.last, pending.cut.num_rows() as u64, pending.cut.crc, pending.path),
                )
            }
            None => {
                let next = Position { offset: partition.done.offset.max(partition.buffer.next()), row: 0 };
                (None, next, (next.offset, next.offset, 0, 0, Path::default()))
            }
        };
        let rows = rows.unwrap_or_else(|| RecordBatch::new_empty(Arc::new(Schema::empty())));
        let (first, last, block_rows, crc, path) = identity;
        let (pipeline, topic) = (self.settings.pipeline.clone(), self.settings.topic.clone());
        let writing = Writing { next, rows: rows.num_rows() as u64, began: self.clock.monotonic() };
        let block = Block { pipeline, epoch: self.settings.epoch, topic, partition: number, first, last, block_rows, crc, path, rows };
        self.store.write(&block, next);
        failpoint("delivery-writing");
        self.job = Some((number, Doing::Write(writing)));
    }

    /// A partition is this delivery's: reading begins at the store's position.
    fn claimed(&mut self, number: i32, stored: Option<Position>) -> Result<(), DeliveryError> {
        let now = self.clock.monotonic();
        let Some(partition) = self.partitions.get_mut(&number) else { return Ok(()) };
        let tp = partition.tp.clone();
        let stop = |stop: Stop| DeliveryError::Stopped { partition: tp.clone(), stop };
        let position = match (stored, partition.marked) {
            (found, Some((_, Mark::DeadLetter { stored, at }))) if found.unwrap_or_default() == stored => {
                Position { row: at.row + 1, ..at }
            }
            (Some(stored), _) => stored,
            (None, Some((shown, _))) if shown > 0 => return Err(stop(Stop::StoreLostPosition { shown })),
            (None, _) => Position::default(),
        };
        if position.offset < partition.low {
            return Err(stop(Stop::Deleted { at: position.offset, low: partition.low }));
        }
        if position.offset > partition.high {
            return Err(stop(Stop::Beyond { at: position.offset, high: partition.high }));
        }
        (partition.done, partition.stored) = (position, stored.unwrap_or_default());
        (partition.claimed, partition.failures, partition.stored_at) = (true, 0, now);
        partition.buffer = Buffer::new(number, position.offset);
        if let Some((_, next, rows)) = self.unanswered.take_if(|(of, ..)| *of == number)
            && stored.is_some_and(|stored| stored >= next)
        {
            self.counters.found(rows);
        }
        let begin = [(tp, position.offset)];
        self.member.consumer.start(&begin)?;
        if self.member.is_paused() {
            let [(tp, _)] = begin;
            self.member.consumer.pause(&[tp])?;
        }
        Ok(())
    }

    /// A transaction has ended.
    fn tried(&mut self, number: i32, reply: Reply, writing: Writing) -> Result<(), DeliveryError> {
        let took = self.clock.monotonic().saturating_sub(writing.began);
        match reply {
            Reply::Written => {
                failpoint("delivery-written");
                self.pace.written(writing.rows, took, &self.settings.limits);
                self.written(number, writing);
                Ok(())
            }
            Reply::Refused { code, message } => self.split(number, &code, &message),
            Reply::Unfit(message) => self.split(number, "0", &message),
            Reply::Unavailable(why) => {
                self.counters.failed(why);
                self.counters.retried();
                self.pause(number);
                Ok(())
            }
            Reply::TooSlow(why) => {
                self.counters.failed(why);
                self.counters.retried();
                if writing.rows > 0 {
                    self.pace.too_slow(writing.rows, took);
                    self.keep_pace(number);
                }
                self.pause(number);
                Ok(())
            }
            other => {
                if matches!(other, Reply::Unknown(_)) {
                    self.unanswered = Some((number, writing.next, writing.rows));
                }
                self.counters.retried();
                self.start_over(&describe(other));
                Ok(())
            }
        }
    }

    fn written(&mut self, number: i32, Writing { next, rows, .. }: Writing) {
        let now = self.clock.monotonic();
        let Some(partition) = self.partitions.get_mut(&number) else { return };
        (partition.done, partition.stored, partition.stored_at, partition.failures) = (next, next, now, 0);
        if let Some(pending) = &mut partition.block {
            pending.lettered = false;
            match pending.path.next() {
                Some(path) => pending.path = path,
                None => partition.block = None,
            }
        }
        self.keep_pace(number);
        if rows > 0 {
            self.counters.inserted(rows);
        } else {
            self.counters.settled();
        }
    }

    /// Turns to the first half of the part that is meant. False if it has one row, or none.
    pub(super) fn halve(&mut self, number: i32) -> bool {
        let Some(pending) = self.partitions.get_mut(&number).and_then(|partition| partition.block.as_mut()) else { return false };
        let half = pending.path.halved(pending.cut.shape().after(pending.skip));
        pending.path = half.unwrap_or(pending.path);
        half.is_some()
    }

    /// Turns to the first piece of the part that is meant which the store writes in time. An update is not taken apart for that: its row
    /// would leave the table, and other tables with it.
    fn keep_pace(&mut self, number: i32) {
        let most = self.pace.limits(&self.settings.limits).rows;
        let Some(pending) = self.partitions.get_mut(&number).and_then(|partition| partition.block.as_mut()) else { return };
        if pending.cut.num_rows() - pending.skip > most {
            pending.path = pending.path.within(pending.cut.shape().after(pending.skip), most);
        }
    }

    /// Lets a partition wait after a failure.
    pub(super) fn pause(&mut self, number: i32) {
        let now = self.clock.monotonic();
        let Some(partition) = self.partitions.get_mut(&number) else { return };
        partition.failures += 1;
        partition.not_before = now.saturating_add(self.settings.pause(partition.failures));
        if partition.failures.is_power_of_two() {
            let (topic, cause, attempts) = (&self.settings.topic, self.counters.last_error().unwrap_or_default(), partition.failures);
            tracing::warn!(%topic, partition = number, attempts, %cause, "can't write; rows wait in the outbox topic and are retried");
        }
    }

    /// Commits the store's positions to the group, for tools that show lag: when a partition is idle, and now and then while it is not.
    /// A mark of a letter stays until the store's position is past it, and none is committed while a letter's is on its way: of the two the
    /// group would keep the one that it heard of last. `all`: at the end, without waiting.
    pub(super) fn show_positions(&mut self, all: bool) -> Result<bool, DeliveryError> {
        let now = self.clock.monotonic();
        let due = |partition: &&Partition| {
            let old = now.saturating_sub(partition.shown.1) >= SHOW;
            let lettered = partition.block.as_ref().is_some_and(|pending| pending.lettered);
            let on_its_way = matches!(&self.job, Some((number, Doing::DeadLetter)) if *number == partition.tp.partition);
            partition.claimed
                && !lettered
                && !on_its_way
                && partition.stored.offset > partition.shown.0
                && (all || old || partition.is_idle())
        };
        let offset = |partition: &Partition| Committed { offset: partition.stored.offset, metadata: Mark::Plain.encode() };
        let offsets: Vec<_> = self.partitions.values().filter(due).map(|partition| (partition.tp.clone(), offset(partition))).collect();
        if offsets.is_empty() || !self.member.consumer.membership().is_fencing() {
            return Ok(false);
        }
        match self.member.consumer.commit(&offsets) {
            Ok(()) => {
                failpoint("delivery-shown");
                for (tp, committed) in offsets {
                    if let Some(partition) = self.partitions.get_mut(&tp.partition) {
                        partition.shown = (committed.offset, now);
                    }
                }
            }
            Err(error) if error.failure == Failure::Fenced && !all => self.start_over(&error.message),
            Err(error) => {
                self.partitions.values_mut().for_each(|partition| partition.shown.1 = now);
                self.counters.tolerate(error)?;
            }
        }
        Ok(true)
    }
}

/// An idle partition whose position only markers follow.
fn is_stale(partition: &Partition, now: Millis) -> bool {
    partition.is_idle() && partition.buffer.next() > partition.done.offset && now.saturating_sub(partition.stored_at) >= HEARTBEAT
}

fn describe(reply: Reply) -> String {
    match reply {
        Reply::Unknown(why) | Reply::Unavailable(why) | Reply::TooSlow(why) | Reply::Unfit(why) | Reply::Wrong(why) => why,
        Reply::Refused { code, .. } => format!("rows refused, code {code}"),
        Reply::Fenced => "another delivery has taken the partition over, or its position in the store went back".to_owned(),
        other => format!("unexpected reply: {other:?}"),
    }
}
