//! Tasks start and end with the group's assignment: positions, restores, and the start of delivery.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use operator_core::Millis;

use super::input::{InputKind, InputPartition};
use super::keys::KeyCheck;
use super::restore::{Loading, Restoring};
use super::time::Behind;
use super::{Lane, LaneEnd, OwnedTask};
use crate::broker::{Committed, Failure, TopicPartition};
use crate::checkpoint::Checkpoint;
use crate::decode::Decoder;
use crate::manifest::recreated;
use crate::pipeline::{Guarantee, Start};
use crate::plan;
use crate::task::{Task, Writers};
use crate::time::{PartitionTime, TimeBounds, decode_watermarks};

/// Tombstones live this long in changelogs (`delete.retention.ms`, set when they are created).
pub const TOMBSTONE_RETENTION: Millis = 7 * 86_400_000;

impl Lane {
    /// Looks up positions of partitions newly given, and makes their tasks.
    pub(super) fn assign(&mut self) -> Result<(), LaneEnd> {
        if self.newly.is_empty() {
            return Ok(());
        }
        self.check_topics(self.newly.iter())?;
        let committed = match self.consumer.committed(&self.newly) {
            Ok(committed) => committed,
            // Positions of a transaction that is still being settled: ask again on the next turn.
            Err(e) if e.failure == Failure::Transient => {
                tracing::info!(cause = %e, "committed positions are not available yet");
                return Ok(());
            }
            Err(e) => return Err(e.into()),
        };
        let newly = std::mem::take(&mut self.newly);
        let mut tasks: BTreeMap<(usize, i32), bool> = BTreeMap::new();
        for (partition, committed) in newly.into_iter().zip(committed) {
            let Some(input) = self.input(&partition, committed.as_ref())? else { continue };
            *tasks.entry(input.task).or_default() |= committed.is_some();
            self.world.stats.position(&partition, input.next, input.committed_marks.iter().copied().min());
            self.partitions.insert(partition, input);
        }
        for (task, known) in tasks {
            self.own(task, known)?;
        }
        self.world.stats.assigned(self.config.index, self.tasks.keys().copied());
        Ok(())
    }

    fn input(&mut self, partition: &TopicPartition, committed: Option<&Committed>) -> Result<Option<InputPartition>, LaneEnd> {
        let plan = self.world.plan.clone();
        for (stage_index, stage) in plan.stages.iter().enumerate() {
            for (index, input) in stage.inputs.iter().enumerate() {
                let Some(topic) = input.topics.iter().find(|t| t.name == partition.topic) else { continue };
                if partition.partition >= stage.partitions {
                    self.world.stats.grown(&partition.topic, stage.partitions, partition.partition + 1);
                    return Ok(None);
                }
                let marks = committed.and_then(|c| decode_watermarks(&c.metadata)).unwrap_or_default();
                let kind = match &input.kind {
                    plan::InputKind::Source(decode) => {
                        let decoder = Decoder::new(decode, topic, &input.schema, self.world.schemas.clone()).map_err(LaneEnd::Stop)?;
                        let bounds = TimeBounds { out_of_order: decode.out_of_order, idle: decode.idle, max_future: decode.max_future };
                        InputKind::Source {
                            decoder: Box::new(decoder),
                            time: PartitionTime::new(bounds, operator_core::NO_WATERMARK),
                            bounds,
                            keys: KeyCheck::new(input, decode, topic).map(Box::new),
                        }
                    }
                    plan::InputKind::Repartition { writers, .. } => {
                        InputKind::Repartition { writers: Writers::new(*writers), schema: input.schema.clone() }
                    }
                };
                let position = match committed {
                    Some(committed) => committed.offset,
                    None => self.first_position(partition, topic, &input.kind)?,
                };
                let mut made = InputPartition {
                    task: (stage_index, partition.partition),
                    index,
                    kind,
                    next: position,
                    committed: position,
                    committed_marks: marks,
                    waiting: Default::default(),
                    started: false,
                    paused: false,
                    uncommitted: committed.is_none(),
                    end: position,
                    at_end: false,
                    stored_at: self.world.clock.monotonic(),
                    hold: Default::default(),
                };
                made.rewind();
                return Ok(Some(made));
            }
        }
        Ok(None)
    }

    /// Where to begin in a partition for which the group has never committed anything. Never left to a client's
    /// reset policy (rule 7). A partition that was added to a topic which the pipeline reads has had no rows before.
    fn first_position(&self, partition: &TopicPartition, topic: &plan::InputTopic, kind: &plan::InputKind) -> Result<i64, LaneEnd> {
        let (low, high) = self.world.broker.bounds(partition)?;
        Ok(match kind {
            plan::InputKind::Source(decode) if decode.start == Start::Latest && partition.partition < topic.first_partitions => high,
            _ => low,
        })
    }

    /// The topics of partitions must be those that the manifest means: a position in another one means nothing.
    pub(super) fn check_topics<'a>(&self, given: impl Iterator<Item = &'a TopicPartition>) -> Result<(), LaneEnd> {
        let given: BTreeSet<&str> = given.map(|tp| tp.topic.as_ref()).collect();
        let topics = self.world.plan.stages.iter().flat_map(|s| &s.inputs).flat_map(|i| &i.topics);
        let meant: Vec<_> = topics.filter(|t| t.id.is_some() && given.contains(t.name.as_ref())).collect();
        let found = self.world.broker.topic_ids(&meant.iter().map(|t| t.name.to_string()).collect::<Vec<_>>())?;
        match meant.iter().find(|t| found.get(t.name.as_ref()).is_some_and(|id| t.id.as_ref() != Some(id))) {
            Some(topic) => Err(LaneEnd::Stop(recreated(&topic.name))),
            None => Ok(()),
        }
    }

    fn own(&mut self, id: (usize, i32), known: bool) -> Result<(), LaneEnd> {
        let plan = self.world.plan.clone();
        let Some(stage) = plan.stages.get(id.0) else { return Ok(()) };
        let mut task = Task::new(&plan, id.0, id.1);
        let (mut checkpoints, mut total) = (Vec::new(), 0);
        for (index, node) in stage.nodes.iter().enumerate() {
            let (Some(topic), Some(_)) = (&node.changelog, task.store(index)) else { continue };
            let changelog = TopicPartition::new(topic.clone(), id.1);
            let (low, high) = self.world.broker.bounds(&changelog)?;
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
        let inputs =
            stage.inputs.iter().enumerate().map(|(index, _)| {
                self.partitions.iter().filter(|(_, p)| p.task == id && p.index == index).map(|(tp, _)| tp.clone()).collect()
            });
        let owned = OwnedTask {
            task,
            restore,
            checkpoints,
            inputs: inputs.collect(),
            told: vec![operator_core::NO_WATERMARK; stage.outputs.len()],
            started: false,
            behind: Behind::Nothing,
        };
        self.tasks.insert(id, owned);
        Ok(())
    }

    /// Reads changelogs on, and starts the tasks that are ready.
    pub(super) fn restore(&mut self) -> Result<(), LaneEnd> {
        if self.tasks.values().all(|t| t.started) {
            return Ok(());
        }
        self.restore_some()?;
        if !self.world.tables.ready() {
            return Ok(());
        }
        let (mut positions, mut first) = (Vec::new(), Vec::new());
        let ready: Vec<(usize, i32)> = self.tasks.iter().filter(|(_, t)| !t.started && t.restore.is_none()).map(|(id, _)| *id).collect();
        for id in ready {
            if let Some(owned) = self.tasks.get_mut(&id) {
                owned.task.resume();
                owned.started = true;
                owned.behind = Behind::Restored;
                for partition in owned.inputs.iter().flatten() {
                    if let Some(input) = self.partitions.get_mut(partition) {
                        input.started = true;
                        positions.push((partition.clone(), input.next));
                        if input.uncommitted {
                            first.push(partition.clone());
                        }
                    }
                }
            }
        }
        // The first epoch commits where reading began, rows or not: the next start must not choose again.
        self.touch(first);
        if !positions.is_empty() {
            self.consumer.start(&positions)?;
        }
        Ok(())
    }

    /// The open epoch commits positions of these partitions.
    pub(super) fn touch(&mut self, partitions: Vec<TopicPartition>) {
        if !partitions.is_empty() {
            self.epoch.opened.get_or_insert(self.world.clock.monotonic());
            self.epoch.touched.extend(partitions);
        }
    }

    /// State that a transaction committed came with a position. Without transactions the changelog may be ahead of a
    /// first position that was never committed: rows are then counted twice, as `at_least_once` says.
    pub(super) fn needs_position(&self) -> bool {
        is_transactional(&self.world.plan)
    }

    pub(super) fn state_without_position(&self, id: (usize, i32)) -> LaneEnd {
        LaneEnd::Stop(format!(
            "task {id:?} has state, but the group `{}` has no committed position for it: positions expired or were deleted, or the source reads other topics now. Set positions, or delete the state, too",
            self.world.plan.names.group()
        ))
    }

    /// The group takes everything back: settle the transaction, then let go.
    pub(super) fn revoked(&mut self, lost: bool) -> Result<(), LaneEnd> {
        let settled = if lost { self.abandon() } else { self.commit_all(Duration::from_secs(20)) };
        self.tasks.clear();
        self.restorer = Default::default();
        self.world.stats.unassigned(self.config.index, self.partitions.keys());
        self.partitions.clear();
        self.newly.clear();
        settled?;
        self.consumer.release()?;
        Ok(())
    }
}

/// The topics a plan needs besides those it reads: internal ones, dead letters, and sinks to be created.
pub fn topics_to_create(plan: &plan::Plan) -> Vec<crate::broker::TopicSpec> {
    let spec = |name: &str, partitions: i32, config: &[(&str, String)]| crate::broker::TopicSpec {
        name: name.to_string(),
        partitions,
        replication: None,
        config: config.iter().map(|(k, v)| (k.to_string(), v.clone())).collect(),
    };
    let week = TOMBSTONE_RETENTION.to_string();
    // Not compacted: of two records that replace the same one the first counts, and compaction would keep the second.
    let forever = [("cleanup.policy", "delete".to_string()), ("retention.ms", "-1".into()), ("retention.bytes", "-1".into())];
    let mut topics = vec![spec(&plan.names.manifest(), 1, &forever)];
    let mut seen: std::collections::BTreeSet<Arc<str>> = Default::default();
    for stage in &plan.stages {
        for input in &stage.inputs {
            if let plan::InputKind::Source(_) = input.kind {
                topics.extend(
                    input
                        .topics
                        .iter()
                        .map(|t| spec(&plan::dead_letters(&t.name), 1, &[("retention.ms", (30 * 86_400_000i64).to_string())])),
                );
            }
        }
        for node in &stage.nodes {
            if let Some(changelog) = &node.changelog {
                topics.push(spec(
                    changelog,
                    stage.partitions,
                    &[("cleanup.policy", "compact".into()), ("delete.retention.ms", week.clone())],
                ));
            }
        }
        for output in &stage.outputs {
            match &output.target {
                plan::Target::Topic(sink) => {
                    let fixed = matches!(sink.topic, plan::TopicName::Fixed(_));
                    topics.extend(sink.create.iter().filter(|_| fixed).cloned());
                }
                plan::Target::Repartition { topic, partitions, .. } => {
                    if seen.insert(topic.clone()) {
                        // A reader that is further behind than this stops with an error rather than losing rows.
                        topics.push(spec(topic, *partitions, &[("retention.ms", week.clone()), ("retention.bytes", "-1".into())]));
                    }
                }
                plan::Target::Outbox(outbox) => {
                    topics.push(spec(
                        &outbox.topic,
                        outbox.partitions,
                        &[("retention.ms", week.clone()), ("retention.bytes", "-1".into())],
                    ));
                    topics.push(spec(&plan.names.refused(&output.name), 1, &[("retention.ms", (30 * 86_400_000i64).to_string())]));
                }
            }
        }
    }
    topics
}

/// Whether outputs are transactional.
pub fn is_transactional(plan: &plan::Plan) -> bool {
    plan.guarantee == Guarantee::ExactlyOnce
}
