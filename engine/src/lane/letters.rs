//! Step 6: output of the tasks becomes records: outputs, repartitioned rows, dead letters.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use headwater_formats::{JsonEncoder, encode_batch};
use operator_core::{Origin, Path};

use super::{Lane, LaneEnd};
use crate::broker::{Outgoing, RecordSet, TopicPartition};
use crate::decode::BadRecord;
use crate::headers::of_record;
use crate::order::together;
use crate::output::{MAX_RECORD, Writer};
use crate::plan::dead_letters;
use crate::stats::{Cause, OutputCounts};
use crate::task::{Leaving, offset_of};
use crate::wording::WithoutValues;

/// Headers that carry the correlation id of an event.
const CORRELATION: [&[u8]; 3] = [b"correlation-id", b"correlationId", b"correlation_id"];

/// Characters of a correlation id that are logged.
const MAX_CORRELATION: usize = 64;

/// Name and value of a header.
type Header = (Vec<u8>, Option<Vec<u8>>);

/// Where a dead letter comes from and why it is one.
struct Letter<'a> {
    step: &'a str,
    class: Cause,
    cause: &'a str,
    topic: &'a str,
    partition: i32,
    offset: i64,
    /// From the event itself; a header goes before.
    correlation: Option<String>,
}

impl Lane {
    /// Writes everything that left a task in this round. `records`: the input being processed, for the original bytes
    /// of dead letters.
    pub(super) fn leave(
        &mut self,
        task: (usize, i32),
        leaving: Leaving,
        partition: &TopicPartition,
        records: Option<&dyn RecordSet>,
        bad: &[BadRecord],
    ) -> Result<(), LaneEnd> {
        for bad in bad {
            let step = self.source_name(task.0, partition);
            let Some(records) = records else { continue };
            let offset = records.get(bad.index).offset;
            let letter = Letter {
                step: &step,
                class: Cause::Undecodable,
                cause: &bad.cause,
                topic: &partition.topic,
                partition: partition.partition,
                offset,
                correlation: None,
            };
            self.dead_letter(&letter, Some((records, bad.index)), None)?;
        }
        for (step, rejected, origin) in &leaving.rejected {
            self.reject((step, Cause::Rejected), &rejected.row, &rejected.cause, origin, partition, records)?;
        }
        let (plan, wall) = (self.world.plan.clone(), self.world.clock.wall());
        let Some(stage) = plan.stages.get(task.0) else { return Ok(()) };
        let start = self.outbox.len();
        for way in together(stage, leaving.rows).map_err(|e| LaneEnd::Restart(e.to_string()))? {
            let Some(writer) = self.writers.get_mut(task.0).and_then(|w| w.get_mut(way.way)) else { continue };
            let before = self.outbox.len();
            let each = writer.writes_a_record_per_row();
            let written = writer.write(&way, task.1, self.world.broker.as_ref(), wall, &mut self.outbox);
            let mut unwritable = written.map_err(LaneEnd::Restart)?;
            if each {
                self.refused_rows(before, way.rows.num_rows(), &mut unwritable);
            }
            let (name, counted_as) = stage.outputs.get(way.way).map_or(("", ""), |o| (o.name.as_str(), o.counted_as()));
            let written = OutputCounts {
                rows: (way.rows.num_rows() - unwritable.len()) as u64,
                records: (self.outbox.len() - before) as u64,
                bytes: self.outbox.bytes_from(before) as u64,
                refused: unwritable.len() as u64,
            };
            self.epoch.counts.written(counted_as, &written);
            for (row, cause) in unwritable {
                self.reject((name, Cause::Unwritable), &way.rows.slice(row, 1), &cause, &way.origin, partition, records)?;
            }
        }
        if self.writers.get(task.0).is_some_and(|writers| writers.iter().any(Writer::is_shared)) {
            self.outbox.arrange(start);
        }
        Ok(())
    }

    pub(super) fn source_name(&self, stage: usize, partition: &TopicPartition) -> String {
        let inputs = self.world.plan.stages.get(stage).map(|s| s.inputs.as_slice()).unwrap_or_default();
        inputs.iter().find(|i| i.topics.iter().any(|t| t.name == partition.topic)).map_or_else(String::new, |i| i.name.clone())
    }

    /// A row that a step or a sink refused: the original record if it is available, else the row as JSON.
    fn reject(
        &mut self,
        (step, class): (&str, Cause),
        row: &RecordBatch,
        cause: &str,
        origin: &Origin,
        partition: &TopicPartition,
        records: Option<&dyn RecordSet>,
    ) -> Result<(), LaneEnd> {
        let offset = offset_of(row);
        let original = records.filter(|_| origin.topic == partition.topic && offset >= 0).and_then(|r| find(r, offset).map(|i| (r, i)));
        let topic = if self.world.plan.reads(&origin.topic) { origin.topic.clone() } else { self.world.plan.first_source() };
        let letter = Letter { step, class, cause, topic: &topic, partition: origin.partition, offset, correlation: correlation_of(row) };
        let json = match original {
            Some(_) => None,
            None => Some(as_json(row)),
        };
        self.dead_letter(&letter, original, json.as_deref())
    }

    fn dead_letter(&mut self, letter: &Letter<'_>, original: Option<(&dyn RecordSet, usize)>, json: Option<&[u8]>) -> Result<(), LaneEnd> {
        let start = self.outbox.len();
        let carried = self.write_letter(letter, original, json, MAX_RECORD)?;
        if !self.refusals.is_empty() && !self.refusals.take_out(&mut self.outbox, start).is_empty() {
            // The dead-letter topic's limit is below the size of the copy.
            self.write_letter(letter, original, json, 0)?;
        }
        self.log(letter, &carried);
        self.epoch.counts.dead_letter(letter.step, letter.class);
        Ok(())
    }

    /// Puts a letter into the outbox, without the copy if that has more than `most` bytes: it then says where the record is.
    /// Returns the headers it carries.
    fn write_letter(
        &mut self,
        letter: &Letter<'_>,
        original: Option<(&dyn RecordSet, usize)>,
        json: Option<&[u8]>,
        most: usize,
    ) -> Result<Vec<Header>, LaneEnd> {
        let (topic, partitions) = self.dead_letter_topic(letter.topic)?;
        let mut carried: Vec<Header> = Vec::new();
        let (mut key, mut value, mut timestamp) = (None, json, String::new());
        if let Some((records, index)) = original {
            records.headers(index, &mut |name, value| carried.push((of_record(name).into_owned(), value.map(<[u8]>::to_vec))));
            let record = records.get(index);
            (key, value) = (record.key, record.value);
            timestamp = record.timestamp.map(|t| t.to_string()).unwrap_or_default();
        }
        let ours = [
            ("hw-cause", letter.cause.chars().take(1_000).collect::<String>()),
            ("hw-pipeline", self.world.plan.pipeline.clone()),
            ("hw-step", letter.step.to_string()),
            ("hw-topic", letter.topic.to_string()),
            ("hw-partition", letter.partition.to_string()),
            ("hw-offset", letter.offset.to_string()),
            ("hw-timestamp", timestamp),
        ];
        let carried_size: usize = carried.iter().map(|(n, v)| n.len() + v.as_ref().map_or(0, Vec::len)).sum();
        let size = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + carried_size;
        let omitted = (size > most).then(|| format!("key, value and headers, {size} bytes: read them at hw-topic, -partition, -offset"));
        if omitted.is_some() {
            (key, value) = (None, None);
            carried.clear();
        }
        let mut headers: Vec<(&[u8], Option<&[u8]>)> = carried.iter().map(|(n, v)| (n.as_slice(), v.as_deref())).collect();
        headers.extend(omitted.iter().map(|text| (&b"hw-omitted"[..], Some(text.as_bytes()))));
        headers.extend(ours.iter().map(|(n, v)| (n.as_bytes(), Some(v.as_bytes()))));
        // Stamped when written: a backfill's letters must not expire at once.
        self.outbox.push(Outgoing {
            topic: &topic,
            partition: letter.partition.rem_euclid(partitions.max(1)),
            timestamp: None,
            key,
            value,
            headers: &headers,
            tag: None,
        });
        Ok(carried)
    }

    /// Logs a dead letter, without values of its record: those are in the topic alone. The log itself limits the lines and counts
    /// the rest; for one that is not written nothing is formatted.
    fn log(&self, letter: &Letter<'_>, headers: &[Header]) {
        let named = |(name, _): &&Header| CORRELATION.contains(&name.as_slice());
        let carried = headers.iter().find(named).and_then(|(_, v)| v.as_deref()).map(String::from_utf8_lossy);
        let Letter { step, cause, topic, partition, offset, correlation, .. } = letter;
        let id = carried.as_deref().or(correlation.as_deref()).filter(|id| !id.is_empty());
        let correlation_id = id.map(|id| id.char_indices().nth(MAX_CORRELATION).and_then(|(end, _)| id.get(..end)).unwrap_or(id));
        let (pipeline, cause) = (&self.world.plan.pipeline, WithoutValues(cause));
        tracing::warn!(%pipeline, step, topic, partition, offset, correlation_id, %cause, "dead letter");
    }

    /// The dead-letter topic of `topic`. If it is missing the lane stops: dropping is not an option.
    fn dead_letter_topic(&mut self, topic: &str) -> Result<(Arc<str>, i32), LaneEnd> {
        if let Some(found) = self.dead_letter_partitions.get(topic) {
            return Ok(found.clone());
        }
        let name = dead_letters(topic);
        let partitions =
            self.world.broker.partitions(&name)?.ok_or_else(|| LaneEnd::Stop(format!("the dead-letter topic `{name}` does not exist")))?;
        let found: (Arc<str>, i32) = (name.into(), partitions);
        self.dead_letter_partitions.insert(topic.into(), found.clone());
        Ok(found)
    }
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

/// The row as JSON, or as an Arrow IPC stream where a value has no JSON form (NaN, a year beyond 9999).
fn as_json(row: &RecordBatch) -> Vec<u8> {
    let user: Vec<usize> =
        row.schema().fields().iter().enumerate().filter(|(_, f)| !operator_core::batch::is_system(f.name())).map(|(i, _)| i).collect();
    let mut out = Vec::new();
    if let Ok(row) = row.project(&user) {
        let encoder = JsonEncoder::new(&row.schema());
        if let Ok(rows) = encoder.batch(&row)
            && rows.write(0, &mut out).is_err()
        {
            out = encode_batch(&row).unwrap_or_default();
        }
    }
    out
}
