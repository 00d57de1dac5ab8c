//! Steps in which rows can become far larger than they came: a batch goes through them within a budget of memory
//! ([`operator_core::memory`]), or not at all and is tried with fewer records. Between such batches the epoch can end, so that what one
//! of them makes is all that waits to be sent.

use std::time::Duration;

use operator_core::{Batch, Rejected};

use super::Lane;
use super::ends::Interrupt;
use super::partition::DecodedChunk;
use super::tasks::failed;
use super::time::round;
use crate::task::StageOutput;

impl Lane {
    /// Takes a chunk through such steps, and returns what is still to be written of what they made; `None` if they need more memory than
    /// there is, and nothing has happened.
    pub(super) fn try_chunk(&mut self, chunk: &DecodedChunk) -> Result<Option<StageOutput>, Interrupt> {
        let tried = match chunk.batches.as_slice() {
            [batch] if chunk.taken > 1 => {
                let owned = self.tasks.get(chunk.task)?;
                owned.task.try_push(chunk.input, batch.clone(), round(&self.runtime, &self.config)).map_err(failed)?.ok()
            }
            // One record, or records that were decoded into several batches: a batch is undone alone, so each goes as far as it can.
            batches => {
                for batch in batches {
                    self.push_in_parts(chunk, batch.clone())?;
                }
                Some(StageOutput::default())
            }
        };
        self.intake.fitted(chunk, tried.is_some())?;
        Ok(tried)
    }

    /// Takes the rows of one batch through such steps, as many at a time as memory allows. A row that needs too much alone is a
    /// dead letter.
    fn push_in_parts(&mut self, chunk: &DecodedChunk, batch: Batch) -> Result<(), Interrupt> {
        let mut open = vec![batch];
        while let Some(batch) = open.pop() {
            let owned = self.tasks.get(chunk.task)?;
            let rows = batch.num_rows();
            let tried = owned.task.try_push(chunk.input, batch.clone(), round(&self.runtime, &self.config)).map_err(failed)?;
            let out = match tried {
                Ok(out) => out,
                Err(_) if rows > 1 => {
                    let part = |from: usize, length: usize| Batch::new(batch.rows.slice(from, length), batch.origin.clone());
                    // Between two records if there are several: the rows of an update belong together.
                    let within = |row: usize| rows > 2 && batch.system().is_ok_and(|system| system.is_update(row));
                    let cut = rows / 2 + usize::from(within(rows / 2 - 1));
                    open.extend([part(cut, rows - cut), part(0, cut)]);
                    continue;
                }
                Err(exceeded) => {
                    let rejected = Rejected { by_config: false, row: batch.rows, cause: exceeded.to_string(), inputs: 1 };
                    let step = self.outputs.source_name(chunk.task, &chunk.partition).into();
                    StageOutput { rejected: vec![(step, rejected, batch.origin)], ..StageOutput::default() }
                }
            };
            self.route(chunk.task, out, Some(chunk))?;
            self.make_room()?;
        }
        Ok(())
    }

    /// If as much waits to be sent as an epoch may have, the epoch before is waited for: until it is acknowledged nothing may be handed
    /// over, and the rows of a single record can be far more than an epoch's.
    fn make_room(&mut self) -> Result<(), Interrupt> {
        while self.outputs.bytes() >= self.config.epoch_bytes && !self.commits.may_send() {
            self.settle(Duration::from_millis(50))?;
        }
        self.flush()
    }
}
