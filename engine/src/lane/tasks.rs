//! Tasks: those that this lane owns, with their state and checkpoints.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use operator_core::{Ledger, Millis, NO_WATERMARK};

use super::commits::Changed;
use super::ends::bug;
use super::restore::{Loading, Restorer, Restoring};
use super::time::Behind;
use super::{LaneConfig, LaneEnd, Runtime, TaskId};
use crate::broker::{Outgoing, TopicPartition};
use crate::failpoint::failpoint;
use crate::plan::{Plan, Stage};
use crate::record::send_buffer::SendBuffer;
use crate::state::checkpoint::Checkpoint;
use crate::task::{Task, TaskError};

/// A task with what the lane keeps about it.
pub(super) struct OwnedTask {
    pub task: Task,
    pub restore: Option<Restoring>,
    /// Checkpoint files by node.
    pub checkpoints: Vec<(usize, Checkpoint)>,
    /// The partitions that feed each input of the stage.
    pub inputs: Vec<Vec<TopicPartition>>,
    /// Watermark last written for the readers of each output (repartition topics only).
    pub announced: Vec<Millis>,
    /// What was last written of what its inputs have reached.
    pub announced_reached: Millis,
    pub started: bool,
    /// What its steps have yet to do before they have caught up with their time.
    pub behind: Behind,
}

/// What timers of the wall clock wait for.
#[derive(Default)]
pub(super) struct Wake {
    /// How long it is until the first of them is due; zero if it may fire now.
    pub after: Option<Duration>,
    /// One is due, and it is not known that everything appended before its time was read.
    pub held: bool,
}

/// See the module documentation.
pub(super) struct Tasks {
    pub(super) runtime: Runtime,
    pub(super) config: LaneConfig,
    pub(super) owned: BTreeMap<TaskId, OwnedTask>,
    pub(super) restorer: Restorer,
}

impl Tasks {
    pub fn new(runtime: &Runtime, config: &LaneConfig) -> Tasks {
        Tasks { runtime: runtime.clone(), config: config.clone(), owned: BTreeMap::new(), restorer: Restorer::default() }
    }

    pub fn get(&mut self, id: TaskId) -> Result<&mut OwnedTask, LaneEnd> {
        self.owned.get_mut(&id).ok_or_else(|| bug(format_args!("task {id:?}")))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&TaskId, &mut OwnedTask)> {
        self.owned.iter_mut()
    }

    pub fn ids(&self) -> impl Iterator<Item = TaskId> {
        self.owned.keys().copied()
    }

    /// Every task has its state back and runs.
    pub fn have_started(&self) -> bool {
        self.owned.values().all(|owned| owned.started)
    }

    /// Takes a task over; its state is restored from now on. `known`: the group has a committed position for it.
    pub fn own(&mut self, id: TaskId, known: bool, inputs: Vec<Vec<TopicPartition>>) -> Result<(), LaneEnd> {
        let plan = self.runtime.plan.clone();
        let stage = stage(&plan, id)?;
        let mut task = Task::new(&plan, id.0, id.1);
        let (mut checkpoints, mut total) = (Vec::new(), 0);
        for (index, node) in stage.nodes.iter().enumerate() {
            let (Some(topic), Some(_)) = (&node.changelog, task.store(index)) else { continue };
            let changelog = TopicPartition::new(topic.clone(), id.1);
            let (low, high) = self.runtime.broker.bounds(&changelog)?;
            if let Some(dir) = &self.config.state_dir {
                let topic = node.changelog_id.as_ref().map_or("", |id| id.0.as_str());
                checkpoints.push((index, Checkpoint::new(dir, &format!("{}-{}", node.step, id.1), topic)));
            }
            total += (high - low).max(0) as u64;
            self.restorer.add(Loading { task: id, node: index, changelog, low, high });
        }
        let stateful = task.stores().next().is_some();
        if stateful {
            tracing::info!(stage = id.0, partition = id.1, records = total, "restoring state");
        }
        let restore = stateful.then_some(Restoring { known, total });
        let announced = vec![NO_WATERMARK; stage.outputs.len()];
        let owned = OwnedTask {
            task,
            restore,
            checkpoints,
            inputs,
            announced,
            announced_reached: NO_WATERMARK,
            started: false,
            behind: Behind::Nothing,
        };
        self.owned.insert(id, owned);
        Ok(())
    }

    /// Lets all tasks go.
    pub fn release(&mut self) {
        self.owned.clear();
        self.restorer = Restorer::default();
    }

    /// Tasks that have their state back and have not started.
    pub fn ready(&self) -> Vec<TaskId> {
        let ready = self.owned.iter().filter(|(_, owned)| !owned.started && owned.restore.is_none());
        ready.map(|(id, _)| *id).collect()
    }

    /// Tasks whose steps have something left to do for their time.
    pub fn behind(&self) -> Vec<(TaskId, Behind)> {
        let behind = self.owned.iter().filter(|(_, owned)| owned.started && owned.behind != Behind::Nothing);
        behind.map(|(id, owned)| (*id, owned.behind)).collect()
    }

    /// Looks for the first timers of the wall clock. A task that has one which may fire is behind its time. `reached`: up to which time
    /// the inputs of a task were read.
    pub fn wake(&mut self, reached: impl Fn(&[Vec<TopicPartition>]) -> Millis) -> Result<Wake, LaneEnd> {
        let wall = self.runtime.clock.wall();
        let mut wake = Wake::default();
        for owned in self.owned.values_mut().filter(|owned| owned.started) {
            let Some(time) = owned.task.next_wake().map_err(failed)? else { continue };
            if time <= wall && time > reached(&owned.inputs) {
                wake.held = true;
                continue;
            }
            if time <= wall && owned.behind == Behind::Nothing {
                owned.behind = Behind::Releasing;
            }
            let until = Duration::from_millis(u64::try_from(time.saturating_sub(wall)).unwrap_or(0));
            wake.after = Some(wake.after.map_or(until, |after| after.min(until)));
        }
        Ok(wake)
    }

    /// Discards what is not committed.
    pub fn rewind(&mut self) {
        for owned in self.owned.values_mut() {
            owned.task.discard();
            owned.task.resume();
            owned.behind = Behind::Restored;
            owned.announced.fill(NO_WATERMARK);
            owned.announced_reached = NO_WATERMARK;
        }
    }

    /// Ends the open epoch of every store: its changes go to the changelogs.
    pub fn seal(&mut self, out: &mut SendBuffer) -> Result<Vec<Changed>, LaneEnd> {
        let mut changed = Vec::new();
        let plan = self.runtime.plan.clone();
        for (id, owned) in &mut self.owned {
            let stage = stage(&plan, *id)?;
            for (node, store) in owned.task.stores().filter(|(_, store)| store.is_dirty()) {
                let topic = stage.nodes.get(node).and_then(|node| node.changelog.as_ref());
                let topic = topic.ok_or_else(|| bug(format_args!("the changelog of a step with state in task {id:?}")))?;
                let tag = changed.len() as u32;
                changed.push((*id, node));
                let mut refused = None;
                store.seal(|key, value| {
                    let record = Outgoing { topic, partition: id.1, timestamp: None, key: Some(key), value, headers: &[], tag: Some(tag) };
                    if let Err(turned_away) = out.push(record) {
                        refused.get_or_insert(turned_away);
                    }
                });
                if let Some(refused) = refused {
                    return Err(LaneEnd::Stop(refused.indispensable()));
                }
            }
        }
        Ok(changed)
    }

    /// The open epoch's ledgers by step and partition.
    pub fn take_ledgers(&mut self) -> impl Iterator<Item = (Arc<str>, i32, u64, Ledger)> {
        self.owned.values_mut().flat_map(|owned| owned.task.take_ledgers())
    }

    /// The open epoch's rows of named ports, by step and port.
    pub fn take_emitted(&mut self) -> impl Iterator<Item = (Arc<str>, String, u64)> {
        self.owned.values_mut().flat_map(|owned| owned.task.take_emitted())
    }

    /// The changes to these stores are committed: they become state, and go to the checkpoints. `offsets`: the highest offset in the
    /// changelog, by the place in `changed`.
    pub fn apply(&mut self, changed: &[Changed], offsets: &[(u32, i64)]) -> Result<(), LaneEnd> {
        let (wall, now) = (self.runtime.clock.wall(), self.runtime.clock.monotonic());
        for (index, (id, node)) in changed.iter().enumerate() {
            let next = offsets.iter().find(|(tag, _)| *tag as usize == index).map(|(_, offset)| offset + 1);
            let step = step(&self.runtime.plan, *id, *node);
            let owned = self.owned.get_mut(id).ok_or_else(|| bug(format_args!("task {id:?}, whose state is committed,")))?;
            let checkpoint = owned.checkpoints.iter_mut().find(|(n, _)| n == node).map(|(_, c)| c);
            let store = owned.task.store(*node).ok_or_else(|| bug(format_args!("the state of step `{step}`")))?;
            let applied = store.apply();
            failpoint("lane-applied");
            self.runtime.stats.state(*id, step, store.len(), store.bytes());
            if let Some(written) = checkpoint.and_then(|checkpoint| checkpoint.committed(store, &applied, next, (now, wall))) {
                self.runtime.stats.checkpoint(*id, step, written.map_err(|e| e.to_string()), wall);
            }
        }
        Ok(())
    }

    /// Writes local checkpoints that could not be written with their commit; `last`: the lane ends.
    pub fn catch_up_checkpoints(&mut self, last: bool) {
        let times @ (_, wall) = (self.runtime.clock.monotonic(), self.runtime.clock.wall());
        for (id, owned) in self.owned.iter_mut().filter(|(_, owned)| owned.started) {
            for (node, checkpoint) in &mut owned.checkpoints {
                let Some(store) = owned.task.store(*node) else { continue };
                if let Some(written) = checkpoint.catch_up(store, last, times) {
                    self.runtime.stats.checkpoint(*id, step(&self.runtime.plan, *id, *node), written.map_err(|e| e.to_string()), wall);
                }
            }
        }
    }
}

/// The stage of a task.
pub(super) fn stage(plan: &Plan, task: TaskId) -> Result<&Stage, LaneEnd> {
    plan.stages.get(task.0).ok_or_else(|| bug(format_args!("stage {}", task.0)))
}

/// The name of a step.
pub(super) fn step(plan: &Plan, task: TaskId, node: usize) -> &str {
    plan.stages.get(task.0).and_then(|stage| stage.nodes.get(node)).map_or("", |node| node.step.as_str())
}

/// How a lane ends whose task failed.
pub(super) fn failed(e: TaskError) -> LaneEnd {
    if e.unreadable { LaneEnd::Stop(e.to_string()) } else { LaneEnd::Restart(e.to_string()) }
}
