//! What a delivery knows about one partition it owns.

use arrow::array::RecordBatch;
use operator_core::Millis;

use super::block::{Block, Path};
use super::buffer::{Buffer, Cut};
use super::decide::Facts;
use super::intent::{CLEAN, Intent, Stored};
use super::target::{Answer, Target};
use super::{Settings, Stop};
use crate::broker::{Committed, TopicPartition};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing is read yet: the table must be asked first.
    Opening,
    /// The block of an intent is being read again. The broker has reported that the topic ends before the block does: if nothing
    /// has come by this monotonic time, it never will. An outage is not an end.
    Rebuilding {
        until: Option<Millis>,
    },
    Reading,
}

/// A block with an intent, from when it is cut until it is settled.
pub(super) struct Pinned {
    pub intent: Intent,
    pub cut: Cut,
    /// The group has stored the intent as it is.
    pub recorded: bool,
    /// An attempt may have happened.
    pub doubt: bool,
    /// Before this monotonic time an earlier attempt may still happen.
    pub quiet_at: Millis,
    pub table: Option<Answer>,
    pub attempts: u32,
}

impl Pinned {
    pub fn new(intent: Intent, cut: Cut) -> Pinned {
        Pinned { intent, cut, recorded: false, doubt: false, quiet_at: 0, table: None, attempts: 0 }
    }

    /// Rows of the part that is meant; `None` if there are none.
    pub fn part(&self) -> Option<RecordBatch> {
        let rows = self.cut.rows.as_ref()?;
        let (start, end) = self.intent.path.part(rows);
        (start < end && end <= rows.num_rows()).then(|| rows.slice(start, end - start))
    }

    pub fn block(&self, settings: &Settings, partition: i32) -> Option<Block> {
        Some(Block {
            pipeline: settings.pipeline.clone(),
            epoch: self.intent.epoch,
            topic: settings.topic.clone(),
            partition,
            first: self.intent.first,
            last: self.intent.last,
            block_rows: self.intent.rows,
            crc: self.intent.crc,
            path: self.intent.path,
            rows: self.part()?,
        })
    }

    /// Turns to another part, which has not been tried yet.
    pub fn turn_to(&mut self, path: Path, settings: u32, wall: Millis) {
        self.intent = Intent { path, settings, created: wall, ..self.intent.clone() };
        (self.recorded, self.doubt, self.table, self.attempts) = (false, false, None, 0);
    }

    pub fn position(&self) -> Committed {
        Committed { offset: self.intent.first, metadata: self.intent.encode() }
    }

    /// The facts for a decision about the part.
    pub fn facts(&self, safe_window: Millis, target: &dyn Target, wall: Millis) -> Facts {
        Facts {
            low: self.intent.first,
            high: self.intent.last + 1,
            rebuilt: Some((self.cut.num_rows() as u64, self.cut.crc)),
            part_rows: self.part().map_or(0, |part| part.num_rows() as u64),
            doubt: self.doubt,
            age: wall.saturating_sub(self.intent.created),
            safe_window,
            same_settings: self.intent.settings == target.settings(),
            repeatable: target.repeatable(),
            ordered: target.is_ordered(),
            dependents: target.has_dependents(),
            table: self.table.clone(),
        }
    }

    pub fn stored(&self) -> Stored {
        Stored::Intent { offset: self.intent.first, intent: self.intent.clone() }
    }
}

pub(super) struct Partition {
    pub tp: TopicPartition,
    pub stored: Stored,
    /// Bounds of the log when it was assigned.
    pub low: i64,
    pub high: i64,
    pub phase: Phase,
    pub buffer: Buffer,
    pub pinned: Option<Pinned>,
    /// Everything before is settled.
    pub done: i64,
    /// The end of what can be read, as last heard.
    pub end: i64,
    /// Monotonic time of the last commit of a position.
    pub stored_at: Millis,
}

impl Partition {
    pub fn new(tp: TopicPartition, stored: Stored, bounds: (i64, i64)) -> Partition {
        let buffer = Buffer::new(tp.partition, i64::MAX);
        let (low, high) = bounds;
        Partition { tp, stored, low, high, phase: Phase::Opening, buffer, pinned: None, done: low, end: high, stored_at: 0 }
    }

    /// What is known before anything is read.
    pub fn opening(&self, target: &dyn Target) -> Facts {
        let (repeatable, ordered) = (target.repeatable(), target.is_ordered());
        Facts { low: self.low, high: self.high, repeatable, ordered, ..Facts::default() }
    }

    /// Expects records from `from` on.
    pub fn read_from(&mut self, from: i64, phase: Phase) {
        self.buffer = Buffer::new(self.tp.partition, from);
        self.done = from;
        self.phase = phase;
    }

    /// Takes the block of a stored intent out of the buffer, once all of it was read. Its first attempt was made by
    /// someone else, and may still happen until `quiet_at`.
    pub fn pin_rebuilt(&mut self, quiet_at: Millis) -> Result<bool, String> {
        let Stored::Intent { intent, .. } = &self.stored else { return Ok(false) };
        let Some(cut) = self.buffer.rebuild(intent.first, intent.last)? else { return Ok(false) };
        let pinned = Pinned { recorded: true, doubt: true, quiet_at, ..Pinned::new(intent.clone(), cut) };
        (self.pinned, self.phase) = (Some(pinned), Phase::Reading);
        Ok(true)
    }

    /// Nothing waits: what lies between `done` and what was read are markers of transactions.
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Reading && self.pinned.is_none() && self.buffer.is_empty()
    }

    /// The position with no unsettled block.
    pub fn clean(&self) -> Committed {
        Committed { offset: self.done, metadata: CLEAN.to_owned() }
    }

    pub fn bytes(&self) -> usize {
        self.buffer.bytes() + self.pinned.as_ref().map_or(0, |pinned| pinned.cut.bytes)
    }

    pub fn waiting_rows(&self) -> u64 {
        (self.buffer.rows() + self.pinned.as_ref().map_or(0, |pinned| pinned.cut.num_rows())) as u64
    }

    /// Offsets not delivered yet, as far as the end is known. Where nothing waits, the markers of transactions at the end
    /// don't count.
    pub fn lag(&self) -> i64 {
        let (reading, idle) = (self.phase == Phase::Reading, self.is_idle());
        let next = if reading { self.buffer.next() } else { self.done };
        let from = if idle { next } else { self.done };
        (self.end.max(next) - from).max(0)
    }

    /// Reading again has come to nothing: the topic ends before the block does.
    pub fn cut_short(&self) -> Option<Stop> {
        match &self.stored {
            Stored::Intent { intent, .. } => Some(Stop::Beyond { at: intent.last + 1, high: self.buffer.next() }),
            _ => None,
        }
    }
}
