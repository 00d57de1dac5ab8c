//! Silence: proof that a partition has no new records, and how far the wall clock may then advance its watermark.
//!
//! That everything fetched was read proves nothing: a frozen process, an unreachable leader and an open transaction at the
//! end of the partition look the same. So the lane asks the leaders for their high
//! watermarks, without waiting for the answer. A high watermark that is not beyond what was read says that nothing was
//! appended until the question was asked, in no transaction either; it proves the whole time since the last record, whether
//! this process was running or not. The watermark then follows the wall clock as it was when the question was asked, at
//! most as fast as monotonic time ([`crate::time::TrustedWall`]).
//!
//! The answers also say how far behind every partition is. A partition whose watermark is held back without a proof
//! is shown with the reason ([`Held`]).

use std::collections::{BTreeMap, BTreeSet};

use operator_core::Millis;

use super::intake::Intake;
use super::{LaneEnd, TaskId};
use crate::broker::{Clock, TopicPartition};
use crate::time::{Held, Moment};

/// How often the ends of all partitions are asked for, for lag.
const ENDS_EVERY: Millis = 1_000;
/// How often they are asked for while a timer of the wall clock waits for the answer.
const ASK_FOR_TIMERS: Millis = 20;
/// How long to wait after an answer that left something unproven.
const ASK_AGAIN: Millis = 200;
/// A watermark held back for this long is reported: records in flight take less time.
const REPORT_AFTER: Millis = 2_000;
/// A wall clock that is this far from what is believed has jumped.
const JUMP: Millis = 5_000;

/// See the module text.
pub(super) struct Silence {
    /// The question in progress: when it was asked, and what the clock showed.
    asked: Option<(Moment, Millis)>,
    /// Monotonic time of the last question.
    last: Option<Millis>,
    /// No question for the sake of proof before (monotonic).
    rest: Millis,
}

impl Silence {
    pub fn new(clock: &dyn Clock) -> Silence {
        Silence { asked: None, last: None, rest: clock.monotonic() }
    }
}

/// Since when something keeps the watermark of a silent partition back.
#[derive(Default)]
pub(super) struct Hold {
    since: Option<Millis>,
}

impl Hold {
    /// Notes what keeps it back now (monotonic), and returns what is to be shown of it.
    fn note(&mut self, held: Option<Held>, now: Millis) -> Option<Held> {
        self.since = held.and(self.since.or(Some(now)));
        held.filter(|_| self.since.is_some_and(|since| now - since >= REPORT_AFTER))
    }
}

impl Intake {
    /// Everything readable of a partition was delivered.
    pub(super) fn ended(&mut self, partition: &TopicPartition, offset: i64) {
        let silence = self.runtime.clock.silence();
        if let Some(input) = self.partitions.get_mut(partition) {
            input.ended(offset, silence);
            self.runtime.stats.end(partition, offset);
        }
    }

    /// The partitions whose positions are to be committed because they are quiet.
    pub(super) fn beating(&mut self) -> Vec<TopicPartition> {
        let now = self.runtime.clock.monotonic();
        self.partitions.iter_mut().filter_map(|(partition, input)| input.beats(now).then(|| partition.clone())).collect()
    }

    /// Asks for the ends of all partitions if that is due. `timers`: some wait to know that there is nothing before them.
    pub(super) fn ask_ends(&mut self, timers: bool) -> Result<(), LaneEnd> {
        let monotonic = self.runtime.clock.monotonic();
        let (now, clock) = (self.moment(), self.runtime.clock.wall());
        if self.silence.asked.is_some() || self.partitions.is_empty() {
            return Ok(());
        }
        let proof = monotonic >= self.silence.rest && self.partitions.values().any(|input| input.wants_proof(now));
        let every = if timers { ASK_FOR_TIMERS } else { ENDS_EVERY };
        if proof || self.silence.last.is_none_or(|last| monotonic - last >= every) {
            let partitions: Vec<TopicPartition> = self.partitions.keys().cloned().collect();
            self.consumer.ask_ends(&partitions)?;
            (self.silence.asked, self.silence.last) = (Some((now, clock)), Some(monotonic));
        }
        Ok(())
    }

    /// Whether an answer is awaited.
    pub(super) fn is_asking(&self) -> bool {
        self.silence.asked.is_some()
    }

    fn moment(&self) -> Moment {
        let (wall, monotonic) = (self.runtime.clock.wall(), self.runtime.clock.silence());
        Moment { monotonic, wall: self.runtime.wall.at(wall, monotonic) }
    }

    /// The leaders have answered where their partitions end: those read that far were silent until the question. Returns the tasks whose
    /// time moved.
    pub(super) fn heard(&mut self, ends: Vec<(TopicPartition, i64)>) -> BTreeSet<TaskId> {
        let mut moved = BTreeSet::new();
        let Some((asked, clock)) = self.silence.asked.take() else { return moved };
        let ends: BTreeMap<TopicPartition, i64> = ends.into_iter().collect();
        let monotonic = self.runtime.clock.monotonic();
        let ahead = self.runtime.clock.wall().saturating_sub(self.runtime.wall.believed(self.runtime.clock.silence()));
        let (mut moves, mut rest) = (false, None);
        for (partition, input) in &mut self.partitions {
            let high = ends.get(partition).copied();
            if let Some(high) = high {
                self.runtime.stats.end(partition, high);
                input.ended_by(clock, high);
            }
            let (would, proven) = (input.wants_proof(asked), high.is_some_and(|high| input.end >= high));
            let jumped = Moment { wall: asked.wall.saturating_add(ahead.saturating_abs()), ..asked };
            let held = match high {
                None if would => Some(Held::NoAnswer),
                Some(to) if would && !proven => Some(Held::Unread { from: input.end, to }),
                _ if ahead.saturating_abs() >= JUMP && input.wants_proof(jumped) => Some(Held::Clock { ahead }),
                _ => None,
            };
            moves |= would && proven;
            let shown = input.hold.note(held, monotonic);
            if would && !proven {
                // A watermark held back for longer than records are in flight is not urgent.
                rest = Some(rest.unwrap_or(ENDS_EVERY).min(if shown.is_some() { ENDS_EVERY } else { ASK_AGAIN }));
            }
            self.runtime.stats.held(partition, shown);
        }
        if let Some(rest) = rest {
            self.silence.rest = monotonic + rest;
        }
        // All proven partitions advance together, or each would need its own question.
        for (partition, input) in self.partitions.iter_mut().filter(|_| moves) {
            if ends.get(partition).is_some_and(|high| input.end >= *high) && input.silent(asked) {
                moved.insert(input.task);
            }
        }
        moved
    }
}
