//! Dead letters of a lane: records and rows that a source, a step or an output refuses, in the transaction of the others.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use operator_core::batch::is_system;
use operator_core::{Origin, Path};

use super::ends::bug;
use super::outputs::Outputs;
use super::partition::DecodedChunk;
use super::{LaneEnd, TaskId};
use crate::broker::{RecordSet, TopicPartition};
use crate::plan::dead_letters;
use crate::record::dead_letter::{Content, DeadLetter, Header, row_value};
use crate::record::headers::of_record;
use crate::stats::{Cause, Counts};
use crate::task::offset_of;
use crate::wording::WithoutValues;

/// Headers that carry the correlation id of an event.
const CORRELATION: [&[u8]; 3] = [b"correlation-id", b"correlationId", b"correlation_id"];

/// Characters of a correlation id that are logged.
const MAX_CORRELATION: usize = 64;

impl Outputs {
    /// Writes the records of a chunk that could not be decoded.
    pub fn route_bad(&mut self, chunk: &DecodedChunk, counts: &mut Counts) -> Result<(), LaneEnd> {
        let plan = self.runtime.plan.clone();
        for bad in &chunk.bad {
            let (step, TopicPartition { topic, partition }) = (self.source_name(chunk.task, &chunk.partition), &chunk.partition);
            let record = chunk.records.get(bad.index);
            let letter = DeadLetter {
                pipeline: &plan.pipeline,
                step: &step,
                cause: &bad.cause,
                topic,
                partition: *partition,
                offset: record.offset,
                row: None,
            };
            let content = Content::record(record, headers(chunk.records.as_ref(), bad.index));
            self.dead_letter(&letter, &content, (Cause::Undecodable, None), counts)?;
        }
        Ok(())
    }

    /// Writes a row that a step or an output refused: the original record if it is in the chunk, else the row.
    pub fn reject(
        &mut self,
        (step, class): (&str, Cause),
        (row, cause): (&RecordBatch, &str),
        origin: &Origin,
        chunk: Option<&DecodedChunk>,
        counts: &mut Counts,
    ) -> Result<(), LaneEnd> {
        let offset = offset_of(row);
        let records = chunk.filter(|chunk| origin.topic == chunk.partition.topic && offset >= 0).map(|chunk| chunk.records.as_ref());
        let original = records.and_then(|records| Some((records, find(records, offset)?)));
        let plan = self.runtime.plan.clone();
        let topic = if plan.reads(&origin.topic) { origin.topic.clone() } else { plan.first_source() };
        let letter = DeadLetter { pipeline: &plan.pipeline, step, cause, topic: &topic, partition: origin.partition, offset, row: None };
        let value;
        let content = match original {
            Some((records, index)) => Content::record(records.get(index), headers(records, index)),
            None => {
                value = row_value(row, is_system).map_err(|e| bug(format_args!("the form of a rejected row ({e})")))?;
                Content::row(&value)
            }
        };
        self.dead_letter(&letter, &content, (class, correlation_of(row)), counts)
    }

    /// `correlation`: from the event itself; a header goes before.
    fn dead_letter(
        &mut self,
        letter: &DeadLetter<'_>,
        content: &Content<'_>,
        (class, correlation): (Cause, Option<String>),
        counts: &mut Counts,
    ) -> Result<(), LaneEnd> {
        let (topic, partitions) = self.dead_letter_topic(letter.topic)?;
        let mut write = |whole| letter.write(content, whole, (&topic, partitions), |record| self.buffer.push(record));
        // The dead-letter topic's limit may be below the size of the copy.
        let written = write(true).or_else(|_| write(false));
        written.map_err(|refused| LaneEnd::Stop(refused.indispensable()))?;
        log(letter, &content.headers, correlation);
        counts.dead_letter(letter.step, class);
        Ok(())
    }

    /// The dead-letter topic of `topic`. If it is missing the lane stops: dropping is not an option.
    fn dead_letter_topic(&mut self, topic: &str) -> Result<(Arc<str>, i32), LaneEnd> {
        if let Some(found) = self.dead_letter_topics.get(topic) {
            return Ok(found.clone());
        }
        let name = dead_letters(topic);
        let partitions = self
            .runtime
            .broker
            .partitions(&name)?
            .ok_or_else(|| LaneEnd::Stop(format!("the dead-letter topic `{name}` does not exist")))?;
        let found: (Arc<str>, i32) = (name.into(), partitions);
        self.dead_letter_topics.insert(topic.into(), found.clone());
        Ok(found)
    }

    /// The name of the source that a partition belongs to.
    pub fn source_name(&self, task: TaskId, partition: &TopicPartition) -> String {
        let inputs = self.runtime.plan.stages.get(task.0).map(|s| s.inputs.as_slice()).unwrap_or_default();
        inputs.iter().find(|i| i.topics.iter().any(|t| t.name == partition.topic)).map_or_else(String::new, |i| i.name.clone())
    }
}

/// Logs a dead letter, without values of its record: those are in the topic alone. The log itself limits the lines and counts
/// the rest; for one that is not written nothing is formatted.
fn log(letter: &DeadLetter<'_>, headers: &[Header], correlation: Option<String>) {
    let named = |(name, _): &&Header| CORRELATION.contains(&name.as_slice());
    let carried = headers.iter().find(named).and_then(|(_, v)| v.as_deref()).map(String::from_utf8_lossy);
    let id = carried.as_deref().or(correlation.as_deref()).filter(|id| !id.is_empty());
    let correlation_id = id.map(|id| id.char_indices().nth(MAX_CORRELATION).and_then(|(end, _)| id.get(..end)).unwrap_or(id));
    let DeadLetter { pipeline, step, topic, partition, offset, .. } = letter;
    let cause = WithoutValues(letter.cause);
    tracing::warn!(%pipeline, step, topic, partition, offset, correlation_id, %cause, "dead letter");
}

/// The headers of a record, as a dead letter carries them.
fn headers(records: &dyn RecordSet, index: usize) -> Vec<Header> {
    let mut headers = Vec::new();
    records.headers(index, &mut |name, value| headers.push((of_record(name).into_owned(), value.map(<[u8]>::to_vec))));
    headers
}

/// `metadata.correlationId` of an event envelope.
fn correlation_of(row: &RecordBatch) -> Option<String> {
    let ids = Path::column("metadata").child("correlationId").values(row.schema_ref().fields(), row.columns())?;
    let ids = ids.as_string_opt::<i32>().filter(|ids| !ids.is_empty() && ids.is_valid(0))?;
    Some(ids.value(0).to_string())
}

/// The record with this offset, by binary search.
fn find(records: &dyn RecordSet, offset: i64) -> Option<usize> {
    let (mut low, mut high) = (0, records.len());
    while low < high {
        let middle = low + (high - low) / 2;
        match records.get(middle).offset.cmp(&offset) {
            std::cmp::Ordering::Equal => return Some(middle),
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
        }
    }
    None
}
