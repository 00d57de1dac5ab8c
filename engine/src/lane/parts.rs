//! Steps in which rows can become far larger than they came: a batch goes through them within a budget of memory
//! ([`operator_core::memory`]), or not at all and is tried with fewer records. Between such batches the epoch can end, so that what one
//! of them makes is all that waits to be sent.

use std::time::Duration;

use operator_core::{Batch, Rejected};

use super::input::Taken;
use super::{Lane, LaneEnd, ended};
use crate::broker::TopicPartition;
use crate::task::Leaving;

/// What has become of decoded batches.
pub(super) enum Tried {
    /// What left the task is still to be written.
    Leaving(Leaving),
    /// Everything is written.
    Written,
    /// They need more memory than there is; nothing has happened.
    TooLarge,
}

impl Lane {
    /// Takes batches through steps in which rows can become far larger.
    pub(super) fn try_batches(
        &mut self,
        task: (usize, i32),
        index: usize,
        taken: &Taken,
        partition: &TopicPartition,
    ) -> Result<Tried, LaneEnd> {
        let tried = match (taken.batches.as_slice(), self.tasks.get_mut(&task)) {
            ([batch], Some(owned)) if taken.records > 1 => {
                let tried = owned.task.try_push(index, batch.clone(), self.world.tables.as_ref()).map_err(ended)?;
                tried.map_or(Tried::TooLarge, Tried::Leaving)
            }
            // One record, or records that were decoded into several batches: a batch is undone alone, so each goes as far as it can.
            (batches, _) => {
                for batch in batches {
                    self.push_in_parts(task, index, batch.clone(), partition)?;
                }
                Tried::Written
            }
        };
        if let Some(input) = self.partitions.get_mut(partition).filter(|_| !matches!(tried, Tried::TooLarge)) {
            input.take_more();
        }
        Ok(tried)
    }

    /// Takes the rows of one batch through such steps, as many at a time as memory allows. A row that needs too much alone is a
    /// dead letter.
    fn push_in_parts(&mut self, task: (usize, i32), index: usize, batch: Batch, partition: &TopicPartition) -> Result<(), LaneEnd> {
        let delivery = self.delivery;
        let mut open = vec![batch];
        while let Some(batch) = open.pop()
            && delivery == self.delivery
        {
            let Some(owned) = self.tasks.get_mut(&task) else { return Ok(()) };
            let rows = batch.num_rows();
            let tried = owned.task.try_push(index, batch.clone(), self.world.tables.as_ref()).map_err(ended)?;
            let leaving = match tried {
                Ok(leaving) => leaving,
                Err(_) if rows > 1 => {
                    let part = |from: usize, length: usize| Batch::new(batch.rows.slice(from, length), batch.origin.clone());
                    open.extend([part(rows / 2, rows - rows / 2), part(0, rows / 2)]);
                    continue;
                }
                Err(exceeded) => {
                    let rejected = Rejected { asked: false, row: batch.rows, cause: exceeded.to_string(), inputs: 1 };
                    let step = self.source_name(task.0, partition).into();
                    Leaving { rejected: vec![(step, rejected, batch.origin)], ..Leaving::default() }
                }
            };
            self.leave_read(task, leaving, partition, &[])?;
            self.make_room()?;
        }
        Ok(())
    }

    /// Hands over the outbox. If it is full, the epoch before is waited for: until it is acknowledged nothing may be handed over, and
    /// the rows of a single record can be far more than an epoch's.
    fn make_room(&mut self) -> Result<(), LaneEnd> {
        let delivery = self.delivery;
        while delivery == self.delivery
            && self.outbox.bytes() >= self.config.epoch_bytes
            && self.in_flight.as_ref().is_some_and(|f| !f.acknowledged)
        {
            self.settle(Duration::from_millis(50))?;
        }
        self.flush()
    }
}
