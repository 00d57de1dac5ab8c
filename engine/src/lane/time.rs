//! Time moves in a task: its steps release what is over, in portions.
//!
//! A step that has much to release (millions of windows that close together) does so in several calls, each within a budget
//! ([`operator_core::Progress`]). Between them the lane flushes, commits and answers the group, and reads hardly anything new. Until the
//! step is done, the steps after it and the readers of repartition topics see the watermark from before.
//!
//! Positions are committed with the watermarks of their partitions, which rows yet to be read are judged by, also in the middle of such
//! work. How far a step has come is in its state alone. So after a restore every step is given its time again: one that was interrupted
//! goes on, and the others find nothing to do.
//!
//! Timers of the wall clock ([`operator_core::timers`]) are due without a row or a watermark, once the inputs were read that far
//! (`reached.rs`): the lane wakes for the first one, and the step is then behind its time like one that has more to release.

use operator_core::NO_WATERMARK;

use super::ends::Interrupt;
use super::tasks::failed;
use super::{Lane, LaneConfig, LaneEnd, Runtime, TaskId};
use crate::task::{Round, StageOutput};

/// Entries of state that a step may release in one call, and the part of an epoch they may be.
const MOST: u64 = 8_192;
const PART: u64 = 8;

/// What the steps of a task have yet to do for their time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behind {
    Nothing,
    /// A step has not released everything yet, or a timer of the wall clock is due.
    Releasing,
    /// The task was restored or rewound: its steps need their time again.
    Restored,
}

/// What the steps of a task get from outside.
pub(super) fn round<'a>(runtime: &'a Runtime, config: &LaneConfig) -> Round<'a> {
    let budget = (config.epoch_rows / PART).clamp(1, MOST) as usize;
    Round { wall: runtime.clock.wall(), reached: NO_WATERMARK, budget, tables: runtime.tables.as_ref() }
}

impl Lane {
    /// Runs a task's steps on what it was given, and lets its time move.
    pub(super) fn run(&mut self, id: TaskId, out: &mut StageOutput) -> Result<(), LaneEnd> {
        let owned = self.tasks.get(id)?;
        let watermarks = self.intake.watermarks(&owned.inputs);
        let round = Round { reached: self.intake.reached(&owned.inputs), ..round(&self.runtime, &self.config) };
        let ran = owned.task.run(&watermarks, round, out).map_err(failed)?;
        if ran.acted {
            self.commits.touch(owned.inputs.iter().flatten().cloned(), self.runtime.clock.monotonic());
        }
        if ran.more {
            owned.behind = Behind::Releasing;
            if ran.acted {
                self.commits.released(round.budget as u64);
            }
        } else if owned.behind == Behind::Releasing {
            owned.behind = Behind::Nothing;
        }
        Ok(())
    }

    /// Lets steps that are behind their time go on, as far as the epoch has room. True if some still are.
    pub(super) fn catch_up(&mut self) -> Result<bool, Interrupt> {
        for (id, why) in self.tasks.behind() {
            if self.is_full() {
                break;
            }
            let owned = self.tasks.get(id)?;
            owned.behind = Behind::Nothing;
            let is_known = || self.intake.watermarks(&owned.inputs).iter().any(|watermark| *watermark != NO_WATERMARK);
            // The last portion may have been committed, and its watermark not.
            let announce = why == Behind::Releasing || owned.task.stores().next().is_some() && is_known();
            self.pass_time(id, announce)?;
        }
        Ok(!self.tasks.behind().is_empty())
    }

    /// Gives a task its time, without rows. `announce`: readers of its repartition topics need to know.
    pub(super) fn pass_time(&mut self, id: TaskId, announce: bool) -> Result<(), Interrupt> {
        let mut out = StageOutput::default();
        self.run(id, &mut out)?;
        self.route(id, out, None)?;
        if announce && self.outputs.repartitions(id) {
            let inputs = self.tasks.get(id)?.inputs.iter().flatten().cloned();
            self.commits.touch(inputs, self.runtime.clock.monotonic());
        }
        Ok(())
    }

    /// Readers of repartition topics need to know what the inputs of these tasks have reached, if they have timers.
    pub(super) fn pass_reached(&mut self) {
        let now = self.runtime.clock.monotonic();
        for (id, owned) in self.tasks.iter_mut().filter(|(_, owned)| owned.started) {
            if self.outputs.feeds_timers(*id) && self.intake.reached(&owned.inputs) > owned.announced_reached {
                self.commits.touch(owned.inputs.iter().flatten().cloned(), now);
            }
        }
    }
}
