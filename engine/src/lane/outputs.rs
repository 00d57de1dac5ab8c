//! Outputs: what leaves the tasks becomes records, in one buffer until it may be handed to the producer.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use operator_core::changes::has_changes;
use operator_core::{Millis, NO_WATERMARK, Origin, StateLayout};

use super::ends::bug;
use super::partition::DecodedChunk;
use super::tasks::stage;
use super::{LaneEnd, Runtime, TaskId};
use crate::broker::Refused;
use crate::plan::Stage;
use crate::record::output::{WriteError, Writer};
use crate::record::send_buffer::SendBuffer;
use crate::stats::{Cause, Counts, OutputCounts};
use crate::task::merge::{in_one_piece, merge_repartitions, shared_topics};
use crate::task::{StageOutput, offset_of};

/// See the module documentation.
pub(super) struct Outputs {
    pub(super) runtime: Runtime,
    /// Writers of each stage's outputs.
    writers: Vec<Vec<Writer>>,
    pub(super) buffer: SendBuffer,
    /// Name and partitions of each topic's dead-letter topic.
    pub(super) dead_letter_topics: BTreeMap<Arc<str>, (Arc<str>, i32)>,
    /// The last stage that has timers.
    timers: Option<usize>,
}

/// Both rows of a change can be refused: one record, one dead letter. Results have no offset: each is a letter of its own.
struct OnePerRecord<'a, S> {
    /// What the task was given.
    chunk: Option<&'a DecodedChunk>,
    /// Who refused the record of the last letter, and its offset.
    before: Option<(S, i64)>,
}

impl<S: Copy + PartialEq> OnePerRecord<'_, S> {
    /// The letter before is of the same record, refused by the same step. Otherwise this row's is the last one from now on.
    fn has(&mut self, by: S, row: &RecordBatch, origin: &Origin) -> bool {
        let of_record = self.chunk.is_some_and(|chunk| chunk.partition.topic == origin.topic) && has_changes(row.schema_ref());
        let record = of_record.then(|| (by, offset_of(row))).filter(|(_, offset)| *offset >= 0);
        record.is_some() && std::mem::replace(&mut self.before, record) == record
    }
}

impl Outputs {
    pub fn new(runtime: &Runtime) -> Result<Outputs, LaneEnd> {
        let mut writers = Vec::new();
        for stage in &runtime.plan.stages {
            let of_stage = stage.outputs.iter().zip(shared_topics(stage)).map(|(output, shared)| {
                let made = Writer::new(output, shared, &*runtime.schema_ids);
                made.map_err(|e| LaneEnd::Restart(format!("sink `{}`: {e}", output.name)))
            });
            writers.push(of_stage.collect::<Result<Vec<_>, _>>()?);
        }
        let has_timers = |stage: &Stage| stage.nodes.iter().any(|node| node.planned.state.as_ref().is_some_and(StateLayout::has_timers));
        let timers = runtime.plan.stages.iter().rposition(has_timers);
        Ok(Outputs { runtime: runtime.clone(), writers, buffer: SendBuffer::default(), dead_letter_topics: BTreeMap::new(), timers })
    }

    /// Bytes that wait to be handed over.
    pub fn bytes(&self) -> usize {
        self.buffer.bytes()
    }

    /// Writes what left a task. `chunk`: what it was given, for the original bytes of dead letters.
    pub fn route(&mut self, task: TaskId, out: StageOutput, chunk: Option<&DecodedChunk>, counts: &mut Counts) -> Result<(), LaneEnd> {
        let mut letters = OnePerRecord { chunk, before: None };
        for (step, rejected, origin) in &out.rejected {
            if letters.has(step, &rejected.row, origin) {
                continue;
            }
            self.reject((step, Cause::Rejected), (&rejected.row, &rejected.cause), origin, chunk, counts)?;
        }
        let (plan, wall) = (self.runtime.plan.clone(), self.runtime.clock.wall());
        let stage = stage(&plan, task)?;
        let start = self.buffer.len();
        let is_shared = |output: usize| self.writers.get(task.0).and_then(|writers| writers.get(output)).is_some_and(Writer::is_shared);
        let rows = merge_repartitions(stage, out.rows).and_then(|rows| in_one_piece(rows, is_shared));
        for branch in rows.map_err(|e| LaneEnd::Restart(e.to_string()))? {
            let writer = self.writers.get_mut(task.0).and_then(|writers| writers.get_mut(branch.branch));
            let (Some(writer), Some(output)) = (writer, stage.outputs.get(branch.branch)) else {
                return Err(bug(format_args!("output {} of stage {}", branch.branch, task.0)));
            };
            let before = self.buffer.len();
            let written = writer.write(&branch, task.1, self.runtime.broker.as_ref(), wall, &mut self.buffer);
            let unwritable = written.map_err(|e| match e {
                WriteError::Failed(why) => LaneEnd::Restart(why),
                WriteError::Refused(refused) => LaneEnd::Stop(refused.indispensable()),
            })?;
            let written = OutputCounts {
                rows: (branch.rows.num_rows() - unwritable.len()) as u64,
                records: (self.buffer.len() - before) as u64,
                bytes: self.buffer.records.bytes_from(before) as u64,
                refused: unwritable.len() as u64,
            };
            counts.written(output.counted_as(), &written);
            let mut letters = OnePerRecord { chunk, before: None };
            for (row, cause) in unwritable {
                let row = branch.rows.slice(row, 1);
                if letters.has((), &row, &branch.origin) {
                    continue;
                }
                self.reject((&output.name, Cause::Unwritable), (&row, &cause), &branch.origin, chunk, counts)?;
            }
        }
        if self.writers.get(task.0).is_some_and(|writers| writers.iter().any(Writer::is_shared)) {
            self.buffer.records.arrange(start);
        }
        Ok(())
    }

    /// Whether a task writes repartition topics.
    pub fn repartitions(&self, task: TaskId) -> bool {
        self.writers.get(task.0).is_some_and(|writers| writers.iter().any(|writer| writer.repartition().is_some()))
    }

    /// Whether timers may be set behind a repartition topic that a task writes.
    pub fn feeds_timers(&self, task: TaskId) -> bool {
        self.timers.is_some_and(|stage| stage > task.0) && self.repartitions(task)
    }

    /// Repartition topics get the watermark of each task that writes them (rule R6), and what it has `reached` if there are timers behind
    /// them. `announced`: the last watermark by output; `watermark`: the present one.
    pub fn announce(
        &mut self,
        task: TaskId,
        (announced, before): (&mut [Millis], &mut Millis),
        reached: Millis,
        watermark: impl Fn(usize) -> Millis,
    ) -> Result<(), LaneEnd> {
        let advanced = self.feeds_timers(task) && reached > *before;
        let writers = self.writers.get(task.0).ok_or_else(|| bug(format_args!("stage {}", task.0)))?;
        for (writer, announced) in writers.iter().zip(announced) {
            let Some(topic) = writer.repartition() else { continue };
            // Several streams may go through one topic: its readers get the slowest watermark.
            let same = writers.iter().enumerate().filter(|(_, other)| other.repartition() == Some(topic));
            let slowest = same.map(|(other, _)| watermark(other)).min().unwrap_or(NO_WATERMARK);
            if slowest > *announced || advanced {
                *announced = slowest;
                let written = writer.watermark(task.1, slowest, advanced.then_some(reached), &mut self.buffer);
                written.map_err(|refused| LaneEnd::Stop(refused.indispensable()))?;
            }
        }
        if advanced {
            *before = reached;
        }
        Ok(())
    }

    /// Takes note of the records that brokers refused; true if any is new, so that the next attempt is another one.
    pub fn learn(&mut self, refused: Vec<Refused>) -> Result<bool, LaneEnd> {
        self.buffer.learn(refused).map_err(|e| LaneEnd::Stop(e.to_string()))
    }
}
