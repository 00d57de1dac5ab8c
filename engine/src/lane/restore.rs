//! Tasks get their state back: from local checkpoints in portions, then from the changelogs through one reader per lane.
//!
//! Every call is short, so that the lane keeps polling and its ready tasks keep working.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use operator_core::Millis;

use super::ends::bug;
use super::tasks::{OwnedTask, Tasks, step};
use super::{LaneEnd, TaskId};
use crate::broker::{Event, Reader, RecordSet, TopicPartition};
use crate::state::checkpoint::{Checkpoint, Load};

/// Bytes of checkpoint files that are loaded per turn of the lane, about.
const LOAD_PER_TURN: u64 = 8 << 20;
/// Records of changelogs that are read per turn of the lane, about.
const READ_PER_TURN: usize = 20_000;

/// What a task waits for.
pub(super) struct Restoring {
    /// The group has a committed position for this task.
    pub known: bool,
    /// Records to read when it began.
    pub total: u64,
}

/// Checkpoints to load and changelogs to read, of all tasks of a lane.
#[derive(Default)]
pub(super) struct Restorer {
    loading: VecDeque<Loading>,
    targets: BTreeMap<TopicPartition, Target>,
    /// Reads all changelogs that have not come to their ends; made once nothing is to be loaded.
    reader: Option<Box<dyn Reader>>,
    progressed: Millis,
}

/// A store whose checkpoint is loaded first.
pub(super) struct Loading {
    pub task: TaskId,
    pub node: usize,
    pub changelog: TopicPartition,
    /// First and next offset of the changelog when the task was given.
    pub low: i64,
    pub high: i64,
}

/// A changelog partition that is being read from `at` to `end`.
struct Target {
    task: TaskId,
    node: usize,
    at: i64,
    end: i64,
}

impl Restorer {
    pub fn add(&mut self, loading: Loading) {
        self.loading.push_back(loading);
    }

    fn left(&self, task: TaskId) -> u64 {
        let loading = self.loading.iter().filter(|l| l.task == task).map(|l| l.high - l.low);
        let reading = self.targets.values().filter(|t| t.task == task).map(|t| t.end - t.at);
        loading.chain(reading).map(|records| records.max(0) as u64).sum()
    }

    fn is_done(&self, task: TaskId) -> bool {
        self.loading.iter().all(|l| l.task != task) && self.targets.values().all(|t| t.task != task || t.at >= t.end)
    }

    /// The nodes of a task whose changelogs were read, each with the position reached.
    fn take(&mut self, task: TaskId) -> Vec<(usize, i64)> {
        let ends = self.targets.values().filter(|t| t.task == task).map(|t| (t.node, t.at)).collect();
        self.targets.retain(|_, target| target.task != task);
        if self.targets.is_empty() {
            self.reader = None;
        }
        ends
    }

    fn stuck(&self) -> String {
        let open = self.targets.iter().filter(|(_, t)| t.at < t.end);
        open.map(|(tp, t)| format!("{tp} at {} of {}", t.at, t.end)).collect::<Vec<_>>().join(", ")
    }
}

impl Tasks {
    /// Loads and reads a little, and ends the restore of tasks whose changelogs were read to where they ended at the start:
    /// to the high watermark, past whatever transactions were open then, or the state would silently be too old (rule 2).
    pub(super) fn restore(&mut self) -> Result<(), LaneEnd> {
        if self.have_started() {
            return Ok(());
        }
        let mut budget = LOAD_PER_TURN;
        while budget > 0 && self.load_checkpoint(&mut budget)? {}
        self.read_changelogs()?;
        let wall = self.runtime.clock.wall();
        let waiting: Vec<TaskId> = self.owned.iter().filter(|(_, t)| t.restore.is_some()).map(|(id, _)| *id).collect();
        for id in waiting {
            let (done, left) = (self.restorer.is_done(id), self.restorer.left(id));
            let Some(owned) = self.owned.get_mut(&id) else { continue };
            let Some(Restoring { known, total }) = owned.restore else { continue };
            self.runtime.stats.restoring(id, left, total);
            if !done {
                continue;
            }
            // State that a transaction committed came with a position. Without transactions the changelog may be ahead of a first
            // position that was never committed: rows are then counted twice, as `at_least_once` says. Aborted transactions leave
            // markers in a changelog, too: only entries prove anything.
            if !known && self.runtime.plan.is_transactional() && owned.task.stores().any(|(_, store)| !store.is_empty()) {
                return Err(LaneEnd::Stop(format!(
                    "task {id:?} has state, but the group `{}` has no committed position for it: positions expired or were deleted, or the source reads other topics now. Set positions, or delete the state, too",
                    self.runtime.plan.names.group()
                )));
            }
            owned.restore = None;
            for (node, store) in owned.task.stores() {
                self.runtime.stats.state(id, step(&self.runtime.plan, id, node), store.len(), store.bytes());
            }
            for (node, written) in owned.restored(&self.restorer.take(id), wall) {
                self.runtime.stats.checkpoint(id, step(&self.runtime.plan, id, node), written.map_err(|e| e.to_string()), wall);
            }
            tracing::info!(stage = id.0, partition = id.1, records = total, "state restored");
        }
        Ok(())
    }

    /// Loads the next checkpoint, or about `budget` bytes of it; true if more may be loaded in this turn. A checkpoint counts if
    /// the changelog still has everything after it, tombstones included.
    fn load_checkpoint(&mut self, budget: &mut u64) -> Result<bool, LaneEnd> {
        let Some(Loading { task, node, changelog, low, high }) = self.restorer.loading.pop_front() else { return Ok(false) };
        let owned = self.owned.get_mut(&task).ok_or_else(|| bug(format_args!("task {task:?}, which is restored,")))?;
        let store = owned.task.store(node).ok_or_else(|| bug(format_args!("the state to restore from {changelog}")))?;
        let mut at = low;
        if let Some((_, checkpoint)) = owned.checkpoints.iter_mut().find(|(n, _)| *n == node) {
            let Load::Done(loaded) = checkpoint.load(store, *budget) else {
                self.restorer.loading.push_front(Loading { task, node, changelog, low, high });
                return Ok(false);
            };
            *budget = budget.saturating_sub(checkpoint.size());
            let (wall, age) = (self.runtime.clock.wall(), self.config.checkpoint_age);
            match loaded.filter(|l| (low..=high).contains(&l.next) && wall - l.written < age) {
                Some(loaded) => at = loaded.next,
                None => {
                    *store = Default::default();
                    checkpoint.build();
                }
            }
        }
        if at < high {
            // It must be part of what is read.
            self.restorer.reader = None;
        }
        self.restorer.targets.insert(changelog, Target { task, node, at, end: high });
        Ok(true)
    }

    fn read_changelogs(&mut self) -> Result<(), LaneEnd> {
        let now = self.runtime.clock.monotonic();
        let Restorer { loading, targets, reader, progressed } = &mut self.restorer;
        if !loading.is_empty() {
            return Ok(());
        }
        if reader.is_none() {
            let open = targets.iter().filter(|(_, t)| t.at < t.end);
            let from: Vec<(TopicPartition, i64)> = open.map(|(tp, t)| (tp.clone(), t.at)).collect();
            if from.is_empty() {
                return Ok(());
            }
            (*reader, *progressed) = (Some(self.runtime.broker.reader(&from)?), now);
        }
        let Some(reader) = reader else { return Ok(()) };
        for event in reader.poll(READ_PER_TURN, Duration::from_millis(1))? {
            let (Event::Records { partition, .. } | Event::End { partition, .. }) = &event else { continue };
            let Some(target) = targets.get_mut(partition) else { continue };
            match event {
                Event::Records { records, .. } => {
                    if let Some(owned) = self.owned.get_mut(&target.task) {
                        let (at, written) = owned.take(target.node, records.as_ref());
                        target.at = at.unwrap_or(target.at);
                        *progressed = now;
                        if let Err(e) = written {
                            let step = step(&self.runtime.plan, target.task, target.node);
                            self.runtime.stats.checkpoint(target.task, step, Err(e.to_string()), self.runtime.clock.wall());
                        }
                    }
                }
                Event::End { offset, .. } if offset > target.at => {
                    target.at = offset;
                    *progressed = now;
                }
                _ => {}
            }
        }
        if now - *progressed > self.config.restore_patience {
            return Err(LaneEnd::Restart(format!(
                "the restore makes no progress ({}): an open transaction hides the end of the changelog, or records are gone",
                self.restorer.stuck()
            )));
        }
        Ok(())
    }
}

impl OwnedTask {
    fn checkpoint(&mut self, node: usize) -> Option<&mut Checkpoint> {
        self.checkpoints.iter_mut().find(|(n, _)| *n == node).map(|(_, checkpoint)| checkpoint)
    }

    /// Takes records of a changelog into a store and its checkpoint; the position after them, and whether the file was written.
    fn take(&mut self, node: usize, records: &dyn RecordSet) -> (Option<i64>, std::io::Result<()>) {
        let entries = || (0..records.len()).map(|index| records.get(index)).filter_map(|r| Some((r.key?, r.value)));
        let Some(store) = self.task.store(node) else { return (None, Ok(())) };
        entries().for_each(|(key, value)| store.load(key, value));
        let written = self.checkpoint(node).map_or(Ok(()), |checkpoint| checkpoint.part(entries()));
        (records.len().checked_sub(1).map(|last| records.get(last).offset + 1), written)
    }

    /// Checkpoint files stand for what was restored: frames appended later continue from there. Says of each whether it was written.
    fn restored(&mut self, ends: &[(usize, i64)], wall: Millis) -> Vec<(usize, std::io::Result<()>)> {
        let restored = |(node, next): &(usize, i64)| {
            let checkpoint = self.checkpoint(*node)?;
            Some((*node, checkpoint.restored(*next, wall)?))
        };
        ends.iter().filter_map(restored).collect()
    }
}
