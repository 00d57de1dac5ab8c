//! Time moves in a task: its steps release what is over, in portions.
//!
//! A step that has much to release (millions of windows that close together) does so in several calls, each within a budget
//! ([`operator_core::Progress`]). Between them the lane flushes, commits and answers the group, and reads hardly anything new. Until the
//! step is done, the steps after it and the readers of repartition topics see the watermark from before.
//!
//! Positions are committed with the watermarks of their partitions, which rows yet to be read are judged by, also in the middle of such
//! work. How far a step has come is in its state alone. So after a restore every step is given its time again: one that was interrupted
//! goes on, and the others find nothing to do.

use operator_core::{Millis, Tables};

use super::input::InputPartition;
use super::{Lane, LaneEnd, ended};
use crate::broker::TopicPartition;
use crate::task::Leaving;

/// Entries of state that a step may release in one call, and the part of an epoch they may be.
const MOST: u64 = 8_192;
const PART: u64 = 8;

/// What the steps of a task have yet to do for their time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behind {
    Nothing,
    /// A step has not released everything yet.
    Releasing,
    /// The task was restored or rewound: its steps need their time again.
    Restored,
}

impl Lane {
    /// Runs a task's steps on what it was given, and lets its time move.
    pub(super) fn run(&mut self, task: (usize, i32), wall: Millis, leaving: &mut Leaving) -> Result<(), LaneEnd> {
        let watermarks = self.watermarks(task);
        let budget = (self.config.epoch_rows / PART).clamp(1, MOST);
        let Some(owned) = self.tasks.get_mut(&task) else { return Ok(()) };
        let tables: &dyn Tables = self.world.tables.as_ref();
        match owned.task.run(&watermarks, (wall, budget as usize), tables, leaving) {
            Ok(ran) => {
                if ran.acted {
                    self.epoch.opened.get_or_insert(self.world.clock.monotonic());
                    self.epoch.touched.extend(owned.inputs.iter().flatten().cloned());
                }
                if ran.more {
                    owned.behind = Behind::Releasing;
                    self.epoch.records += if ran.acted { budget } else { 0 };
                } else if owned.behind == Behind::Releasing {
                    owned.behind = Behind::Nothing;
                }
                Ok(())
            }
            Err(e) => {
                self.epoch.opened.get_or_insert(self.world.clock.monotonic());
                Err(ended(e))
            }
        }
    }

    /// The watermark of each input of a task's stage.
    pub(super) fn watermarks(&self, task: (usize, i32)) -> Vec<Millis> {
        let Some(owned) = self.tasks.get(&task) else { return Vec::new() };
        let of = |partitions: &Vec<TopicPartition>| {
            let marks = partitions.iter().filter_map(|p| self.partitions.get(p)).map(InputPartition::watermark);
            marks.min().unwrap_or(operator_core::NO_WATERMARK)
        };
        owned.inputs.iter().map(of).collect()
    }

    /// Lets steps that are behind their time go on, as far as the epoch has room. True if some still are.
    pub(super) fn catch_up(&mut self) -> Result<bool, LaneEnd> {
        let behind = |lane: &Lane| {
            let tasks = lane.tasks.iter().filter(|(_, owned)| owned.started && owned.behind != Behind::Nothing);
            tasks.map(|(id, owned)| (*id, owned.behind)).collect::<Vec<_>>()
        };
        for (task, why) in behind(self) {
            if self.is_full() {
                break;
            }
            let Some(owned) = self.tasks.get_mut(&task) else { continue };
            owned.behind = Behind::Nothing;
            // The last portion may have been committed, and its watermark not.
            let tell = why == Behind::Releasing || owned.task.stores().next().is_some() && self.watermarks(task).iter().any(is_known);
            self.pass_time(task, tell)?;
            self.flush()?;
        }
        Ok(!behind(self).is_empty())
    }

    /// Gives a task its time, without rows. `tell`: readers of its repartition topics need to know.
    pub(super) fn pass_time(&mut self, task: (usize, i32), tell: bool) -> Result<(), LaneEnd> {
        let mut leaving = Leaving::default();
        self.run(task, self.world.clock.wall(), &mut leaving)?;
        let inputs: Vec<_> = self.tasks.get(&task).map(|t| t.inputs.iter().flatten().cloned().collect()).unwrap_or_default();
        if let Some(partition) = inputs.first() {
            self.leave(task, leaving, partition, None, &[])?;
        }
        if tell && self.writers.get(task.0).is_some_and(|w| w.iter().any(|w| w.repartition().is_some())) {
            self.touch(inputs);
        }
        Ok(())
    }
}

fn is_known(watermark: &Millis) -> bool {
    *watermark != operator_core::NO_WATERMARK
}
