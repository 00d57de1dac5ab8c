//! One input partition: how its records become batches, its event time and its position.

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use headwater_formats::decode_batch;
use operator_core::{Batch, Millis, NO_WATERMARK, Origin};

use super::Waiting;
use super::keys::{KeyCheck, Notations};
use super::silence::Hold;
use crate::broker::TopicPartition;
use crate::decode::{BadRecord, Decoder};
use crate::output::{ORIGIN, WRITER, WRITER_WATERMARK, check_repartitioned};
use crate::task::Writers;
use crate::time::{Moment, PartitionTime, TimeBounds};

pub(super) enum InputKind {
    Source { decoder: Box<Decoder>, time: PartitionTime, bounds: TimeBounds, keys: Option<Box<KeyCheck>> },
    Repartition { writers: Writers, schema: SchemaRef },
}

pub(super) struct InputPartition {
    pub task: (usize, i32),
    /// Which input of the stage.
    pub index: usize,
    pub kind: InputKind,
    /// Next offset to read, in the open epoch.
    pub next: i64,
    /// What is committed: position and watermarks.
    pub committed: i64,
    pub committed_marks: Vec<Millis>,
    pub waiting: Waiting,
    pub started: bool,
    /// Its delivery is paused: it waits for a schema.
    pub paused: bool,
    /// The group has no position for it yet.
    pub uncommitted: bool,
    /// The end of what can be read, as last heard: past the last record there may be markers of transactions.
    pub end: i64,
    /// The end was delivered while records before it waited. It is delivered once only.
    pub at_end: bool,
    /// Monotonic time of the last commit of its position.
    pub stored_at: Millis,
    /// What keeps it from following the wall clock.
    pub hold: Hold,
}

/// How often the position of an idle partition is committed: markers at its end must not be all that is left of the log
/// there, or retention would pass the position one day.
const HEARTBEAT: Millis = 3_600_000;
/// After this long the markers at the end of what was read are committed, or they count as lag.
const TRAILING: Millis = 1_000;

/// What one round of decoding gave.
#[derive(Default)]
pub(crate) struct Taken {
    pub batches: Vec<Batch>,
    pub bad: Vec<BadRecord>,
    pub skipped: u64,
    pub wrong_unit: u64,
    pub records: usize,
    pub oldest: Option<Millis>,
    pub waits: Option<String>,
    /// Rows of a source (a repartition topic's are counted where they were read first).
    pub source: bool,
}

impl InputPartition {
    pub fn watermark(&self) -> Millis {
        match &self.kind {
            InputKind::Source { time, .. } => time.watermark(),
            InputKind::Repartition { writers, .. } => writers.watermark(),
        }
    }

    /// The watermarks to commit beside the position.
    pub fn marks(&self) -> Vec<Millis> {
        match &self.kind {
            InputKind::Source { time, .. } => vec![time.watermark()],
            InputKind::Repartition { writers, .. } => writers.all().to_vec(),
        }
    }

    /// Back to what is committed.
    pub fn rewind(&mut self) {
        self.next = self.committed;
        // Received before the records that are read again now: the position must not be moved to it past them.
        self.end = self.committed;
        self.waiting.clear();
        self.at_end = false;
        self.paused = false;
        match &mut self.kind {
            InputKind::Source { time, bounds, .. } => {
                *time = PartitionTime::new(*bounds, self.committed_marks.first().copied().unwrap_or(NO_WATERMARK));
            }
            InputKind::Repartition { writers, .. } => {
                *writers = Writers::new(writers.all().len() as i32);
                writers.restore(self.committed_marks.clone());
            }
        }
    }

    pub fn active(&mut self) {
        self.at_end = false;
        if let InputKind::Source { time, .. } = &mut self.kind {
            time.active();
        }
    }

    pub fn ended(&mut self, offset: i64, silence: Millis) {
        self.end = self.end.max(offset);
        if !self.waiting.is_empty() || self.paused {
            // It is this lane that is behind, not the partition that is silent. A paused partition hears of its end again.
            self.at_end = !self.paused;
            return;
        }
        if let InputKind::Source { time, .. } = &mut self.kind {
            time.ended(silence);
        }
    }

    /// Records that waited are processed: if the end came after them, silence is measured from now on.
    pub fn caught_up(&mut self, silence: Millis) {
        if self.at_end && self.hears() {
            self.at_end = false;
            self.ended(self.end, silence);
        }
    }

    /// Silence is measured from when this lane can read again.
    pub fn resumed(&mut self) {
        self.paused = false;
        self.active();
    }

    /// True if its position is to be committed although nothing has come for long; it then is the end.
    pub fn beats(&mut self, monotonic: Millis) -> bool {
        let every = if self.position() > self.committed { TRAILING } else { HEARTBEAT };
        let due = self.started && self.hears() && monotonic - self.stored_at >= every;
        if due {
            self.stored_at = monotonic;
        }
        due
    }

    /// Everything that was delivered is processed.
    fn hears(&self) -> bool {
        self.waiting.is_empty() && !self.paused
    }

    /// The position to commit: behind the markers of transactions where everything before them is processed.
    pub fn position(&self) -> i64 {
        if self.hears() { self.next.max(self.end) } else { self.next }
    }

    /// Its watermark could follow the wall clock if nothing came until then.
    pub fn wants_proof(&self, until: Moment) -> bool {
        match &self.kind {
            InputKind::Source { time, .. } => self.started && self.hears() && time.wants_proof(until),
            InputKind::Repartition { .. } => false,
        }
    }

    /// Nothing came until then: true if its watermark moved.
    pub fn silent(&mut self, until: Moment) -> bool {
        let hears = self.started && self.hears();
        match &mut self.kind {
            InputKind::Source { time, .. } => hears && time.silent(until),
            InputKind::Repartition { .. } => false,
        }
    }

    /// What was decoded last was too large for the steps, and nothing has become of it: fewer records are decoded again.
    pub fn take_fewer(&mut self, records: usize, before: Option<PartitionTime>) {
        if let (InputKind::Source { decoder, time, .. }, Some(before)) = (&mut self.kind, before) {
            *time = before;
            decoder.take_fewer(records);
        }
    }

    /// What was decoded last was not too large.
    pub fn take_more(&mut self) {
        if let InputKind::Source { decoder, .. } = &mut self.kind {
            decoder.take_more();
        }
    }

    /// The time of a source, to go back to.
    pub fn time(&self) -> Option<PartitionTime> {
        match &self.kind {
            InputKind::Source { time, .. } => Some(*time),
            InputKind::Repartition { .. } => None,
        }
    }

    /// Decodes waiting records from `first` of the front set on. `grows`: their rows can become far larger in the steps, so that
    /// records of a repartition topic, which have many rows, are taken one by one.
    ///
    /// # Errors
    /// Reading on would give wrong results.
    pub fn decode(
        &mut self,
        partition: &TopicPartition,
        first: usize,
        grows: bool,
        wall: Millis,
        notations: &mut Notations,
    ) -> Result<Taken, String> {
        let mut taken = Taken { source: true, ..Taken::default() };
        let Some((records, _)) = self.waiting.front() else { return Ok(taken) };
        match &mut self.kind {
            InputKind::Source { decoder, time, keys, .. } => {
                let decoded = decoder.decode(partition.partition, records.as_ref(), first, time, wall)?;
                if let (Some(keys), Some(batch)) = (keys, &decoded.batch) {
                    keys.check(partition, &batch.rows, records.as_ref(), first, notations)?;
                }
                taken.batches.extend(decoded.batch);
                taken.bad = decoded.bad;
                taken.skipped = decoded.skipped;
                taken.wrong_unit = decoded.wrong_unit;
                taken.records = decoded.taken;
                taken.waits = decoded.waits;
                taken.oldest = (taken.records > 0).then(|| records.get(first).timestamp).flatten();
            }
            InputKind::Repartition { writers, schema } => {
                taken.source = false;
                let last = if grows { records.len().min(first + 1) } else { records.len() };
                for index in first..last {
                    let record = records.get(index);
                    let head = head(records.as_ref(), index);
                    if let Some(value) = record.value {
                        let rows = decode_batch(value).and_then(|rows| check_repartitioned(&rows, schema));
                        let rows = rows.map_err(|e| format!("{partition} at {}: {e}", record.offset))?;
                        taken.batches.push(Batch::new(rows, head.origin.unwrap_or_else(|| origin_of(partition))));
                    }
                    if let (Some(writer), Some(watermark)) = (head.writer, head.watermark) {
                        // Rows before this mark are in the batches already pushed: time moves after them.
                        writers.observe(writer, watermark);
                    }
                    taken.records += 1;
                    if record.timestamp.is_some() && taken.oldest.is_none() {
                        taken.oldest = record.timestamp;
                    }
                }
            }
        }
        for batch in &mut taken.batches {
            if batch.origin.from < 0 && batch.origin.to < 0 {
                let (from, to) = offsets(&batch.rows);
                batch.origin.from = from;
                batch.origin.to = to;
            }
        }
        Ok(taken)
    }
}

fn origin_of(partition: &TopicPartition) -> Origin {
    Origin { topic: partition.topic.clone(), partition: partition.partition, from: -1, to: -1 }
}

fn offsets(rows: &RecordBatch) -> (i64, i64) {
    let column = rows.column_by_name(operator_core::batch::OFFSET).and_then(|c| c.as_any().downcast_ref::<Int64Array>());
    let values = column.map(|c| c.values().as_ref()).unwrap_or_default();
    (values.iter().min().map_or(-1, |o| o - 1), values.iter().max().copied().unwrap_or(-1))
}

#[derive(Default)]
struct Head {
    writer: Option<usize>,
    watermark: Option<Millis>,
    origin: Option<Origin>,
}

/// The headers of a repartition record.
fn head(records: &dyn crate::broker::RecordSet, index: usize) -> Head {
    let mut head = Head::default();
    records.headers(index, &mut |name, value| {
        let Some(text) = value.and_then(|v| std::str::from_utf8(v).ok()) else { return };
        if name == WRITER {
            head.writer = text.parse().ok();
        } else if name == WRITER_WATERMARK {
            head.watermark = text.parse().ok();
        } else if name == ORIGIN
            && let Some((topic, partition)) = text.rsplit_once(' ')
        {
            head.origin = partition.parse().ok().map(|partition| Origin { topic: topic.into(), partition, from: -1, to: -1 });
        }
    });
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_rewind_the_heartbeat_passes_nothing_that_comes_again() {
        let schema = std::sync::Arc::new(arrow::datatypes::Schema::empty());
        let mut input = InputPartition {
            task: (0, 0),
            index: 0,
            kind: InputKind::Repartition { writers: Writers::new(1), schema },
            next: 8,
            committed: 5,
            committed_marks: Vec::new(),
            waiting: Waiting::new(),
            started: true,
            paused: false,
            uncommitted: false,
            end: 5,
            at_end: false,
            stored_at: 0,
            hold: Hold::default(),
        };
        input.ended(9, 1);
        input.rewind();
        assert!(!input.beats(TRAILING) && input.beats(HEARTBEAT));
        assert_eq!(input.position(), 5, "offsets 5 to 8 were not committed");
        // Read to the end again, the markers there are passed.
        input.next = 8;
        input.ended(9, HEARTBEAT);
        assert!(!input.beats(HEARTBEAT + TRAILING - 1) && input.beats(HEARTBEAT + TRAILING));
        assert_eq!(input.position(), 9);
        // But not before what came first is processed.
        input.paused = true;
        assert_eq!(input.position(), 8);
    }
}
