//! One input partition: how its records become batches, its event time and its position.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use headwater_formats::decode_batch;
use operator_core::{Batch, Millis, NO_WATERMARK, Origin};

use super::TaskId;
use super::keys::KeyCheck;
use super::notations::Notations;
use super::reached::Reached;
use super::silence::Hold;
use super::writers::Writers;
use crate::broker::{RecordSet, TopicPartition};
use crate::record::decode::{BadRecord, Decoder};
use crate::record::output::{ORIGIN, WRITER, WRITER_REACHED, WRITER_WATERMARK, check_repartitioned};
use crate::stats::SourceCounts;
use crate::time::{Moment, PartitionTime, TimeBounds};

pub(super) enum InputKind {
    Source { decoder: Box<Decoder>, time: PartitionTime, bounds: TimeBounds, keys: Option<Box<KeyCheck>> },
    Repartition { writers: Writers, schema: SchemaRef },
}

/// Records that are not processed yet, and how far into the first set. A lane lives on one thread: chunks of a set share it.
type Waiting = VecDeque<(Rc<dyn RecordSet>, usize)>;

pub(super) struct InputPartition {
    pub task: TaskId,
    /// Which input of the stage.
    pub index: usize,
    /// Rows can become far larger in the steps of its task.
    pub grows: bool,
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
    /// Up to which time of the wall clock it was read.
    pub reached: Reached,
}

/// How often the position of an idle partition is committed: markers at its end must not be all that is left of the log
/// there, or retention would pass the position one day.
const HEARTBEAT: Millis = 3_600_000;
/// After this long the markers at the end of what was read are committed, or they count as lag.
const TRAILING: Millis = 1_000;

/// Records of one partition as rows, on their way through the steps.
pub(super) struct DecodedChunk {
    pub task: TaskId,
    /// The input of the stage, and the partition.
    pub input: usize,
    pub partition: TopicPartition,
    /// The records it was decoded from, among others.
    pub records: Rc<dyn RecordSet>,
    /// How many of them it is.
    pub taken: usize,
    pub batches: Vec<Batch>,
    rows: u64,
    pub bad: Vec<BadRecord>,
    skipped: u64,
    wrong_unit: u64,
    /// Earliest timestamp.
    pub oldest: Option<Millis>,
    /// Why it ends before the records do: the schema of the next one isn't known yet.
    pub waits: Option<String>,
    /// Rows of a source (a repartition topic's are counted where they were read first).
    pub from_source: bool,
    /// Rows can become far larger in the steps.
    pub grows: bool,
    /// Where the partition was before.
    first: usize,
    next: i64,
    time: Option<PartitionTime>,
}

impl DecodedChunk {
    /// What becomes of its records.
    pub fn counts(&self) -> SourceCounts {
        SourceCounts {
            records: self.taken as u64,
            rows: self.rows,
            skipped: self.skipped,
            dead: self.bad.len() as u64,
            wrong_unit: self.wrong_unit,
        }
    }

    /// Timestamp of its last record.
    pub fn newest(&self) -> Option<Millis> {
        let last = (self.first + self.taken).checked_sub(1).filter(|_| self.taken > 0)?;
        self.records.get(last).timestamp
    }
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
        self.reached = Reached::default();
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

    /// Its position is committed (at this monotonic time).
    pub fn committed(&mut self, offset: i64, watermarks: Vec<Millis>, now: Millis) {
        (self.committed, self.committed_marks) = (offset, watermarks);
        self.uncommitted = false;
        self.stored_at = now;
    }

    fn active(&mut self) {
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

    /// The time that timers of the wall clock may see: every record that was appended before it has been read or, where the partition is
    /// further behind, its watermark.
    pub fn reached(&self) -> Millis {
        match &self.kind {
            InputKind::Source { time, .. } => time.watermark().max(self.reached.at(self.position())),
            InputKind::Repartition { writers, .. } => writers.reached(),
        }
    }

    /// When the clock showed `asked`, the partition did not end behind `high`.
    pub fn ended_by(&mut self, asked: Millis, high: i64) {
        let position = self.position();
        self.reached.ends(asked, high, position);
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

    /// Records arrived; true if they are to be processed now, and not after others.
    pub fn receive(&mut self, records: Box<dyn RecordSet>) -> bool {
        self.active();
        self.waiting.push_back((records.into(), 0));
        self.waiting.len() == 1
    }

    /// The steps could not take a chunk, and nothing has become of it: fewer of its records are decoded again.
    pub fn take_fewer(&mut self, chunk: &DecodedChunk) {
        self.next = chunk.next;
        if let Some((_, first)) = self.waiting.front_mut() {
            *first = chunk.first;
        }
        if let (InputKind::Source { decoder, time, .. }, Some(before)) = (&mut self.kind, chunk.time) {
            *time = before;
            decoder.take_fewer(chunk.taken);
        }
    }

    /// The steps took the last chunk.
    pub fn take_more(&mut self) {
        if let InputKind::Source { decoder, .. } = &mut self.kind {
            decoder.take_more();
        }
    }

    /// Whether records wait to be decoded.
    pub fn has_more(&mut self) -> bool {
        while self.waiting.pop_front_if(|(records, first)| *first >= records.len()).is_some() {}
        !self.waiting.is_empty()
    }

    /// The next chunk of the records that wait; `None` if none do. The position moves past it.
    ///
    /// # Errors
    /// Reading on would give wrong results.
    pub fn decode(&mut self, partition: &TopicPartition, wall: Millis, notations: &mut Notations) -> Result<Option<DecodedChunk>, String> {
        if !self.has_more() {
            return Ok(None);
        }
        let Some((records, next)) = self.waiting.front_mut() else { return Ok(None) };
        let mut chunk = DecodedChunk {
            task: self.task,
            input: self.index,
            partition: partition.clone(),
            records: records.clone(),
            taken: 0,
            batches: Vec::new(),
            rows: 0,
            bad: Vec::new(),
            skipped: 0,
            wrong_unit: 0,
            oldest: None,
            waits: None,
            from_source: matches!(self.kind, InputKind::Source { .. }),
            grows: self.grows,
            first: *next,
            next: self.next,
            time: None,
        };
        match &mut self.kind {
            InputKind::Source { decoder, time, keys, .. } => {
                chunk.time = Some(*time);
                chunk.decode(decoder, time, keys.as_deref_mut(), wall, notations)?;
            }
            InputKind::Repartition { writers, schema } => chunk.read(writers, schema)?,
        }
        chunk.rows = chunk.batches.iter().map(|batch| batch.num_rows() as u64).sum();
        *next += chunk.taken;
        if chunk.taken > 0 {
            self.next = chunk.records.get(*next - 1).offset + 1;
        }
        Ok(Some(chunk))
    }
}

impl DecodedChunk {
    /// Decodes records of a source.
    fn decode(
        &mut self,
        decoder: &mut Decoder,
        time: &mut PartitionTime,
        keys: Option<&mut KeyCheck>,
        wall: Millis,
        notations: &mut Notations,
    ) -> Result<(), String> {
        let decoded = decoder.decode(self.partition.partition, self.records.as_ref(), self.first, time, wall)?;
        if let (Some(keys), Some(batch)) = (keys, &decoded.batch) {
            keys.check(&self.partition, &batch.rows, self.records.as_ref(), self.first, notations)?;
        }
        self.batches.extend(decoded.batch);
        (self.bad, self.skipped, self.wrong_unit) = (decoded.bad, decoded.skipped, decoded.wrong_unit);
        (self.taken, self.waits) = (decoded.taken, decoded.waits);
        self.oldest = (self.taken > 0).then(|| self.records.get(self.first).timestamp).flatten();
        Ok(())
    }

    /// Reads records of a repartition topic, one if their rows can grow: each has many.
    fn read(&mut self, writers: &mut Writers, schema: &SchemaRef) -> Result<(), String> {
        let last = if self.grows { self.records.len().min(self.first + 1) } else { self.records.len() };
        for index in self.first..last {
            let record = self.records.get(index);
            let head = head(self.records.as_ref(), index);
            if let Some(value) = record.value {
                let rows = decode_batch(value).and_then(|rows| check_repartitioned(&rows, schema));
                let rows = rows.map_err(|e| format!("{} at {}: {e}", self.partition, record.offset))?;
                let (from, to) = offsets(&rows);
                let (topic, partition) = head.origin.unwrap_or_else(|| (self.partition.topic.clone(), self.partition.partition));
                self.batches.push(Batch::new(rows, Origin { topic, partition, from, to }));
            }
            if let (Some(writer), Some(watermark)) = (head.writer, head.watermark) {
                // Rows before this mark are in the batches already pushed: time moves after them.
                writers.observe(writer, watermark, head.reached);
            }
            self.taken += 1;
            self.oldest = self.oldest.or(record.timestamp);
        }
        Ok(())
    }
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
    reached: Option<Millis>,
    /// The source partition of its rows.
    origin: Option<(Arc<str>, i32)>,
}

/// The headers of a repartition record.
fn head(records: &dyn RecordSet, index: usize) -> Head {
    let mut head = Head::default();
    records.headers(index, &mut |name, value| {
        let Some(text) = value.and_then(|v| std::str::from_utf8(v).ok()) else { return };
        if name == WRITER {
            head.writer = text.parse().ok();
        } else if name == WRITER_WATERMARK {
            head.watermark = text.parse().ok();
        } else if name == WRITER_REACHED {
            head.reached = text.parse().ok();
        } else if name == ORIGIN
            && let Some((topic, partition)) = text.rsplit_once(' ')
        {
            head.origin = partition.parse().ok().map(|partition| (topic.into(), partition));
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
            grows: false,
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
            reached: Reached::default(),
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
