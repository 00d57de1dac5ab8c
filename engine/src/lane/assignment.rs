//! The group's assignment: tasks start and end with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::ends::Interrupt;
use super::intake::Intake;
use super::keys::KeyCheck;
use super::partition::{InputKind, InputPartition};
use super::time::Behind;
use super::writers::Writers;
use super::{Lane, LaneEnd, TaskId};
use crate::broker::{Committed, Failure, TopicPartition};
use crate::manifest::recreated;
use crate::pipeline::Start;
use crate::plan;
use crate::record::decode::Decoder;
use crate::time::{PartitionTime, TimeBounds, decode_watermarks};

/// How long the last commit before a revocation may take.
const REVOCATION: Duration = Duration::from_secs(20);

impl Lane {
    /// Tasks start once they have their state, and all tables are read.
    pub(super) fn assign(&mut self) -> Result<(), LaneEnd> {
        if let Some(tasks) = self.intake.begin()? {
            for (task, known) in tasks {
                self.tasks.own(task, known, self.intake.inputs_of(task))?;
            }
            self.runtime.stats.assigned(self.config.index, self.tasks.ids());
        }
        self.tasks.restore()?;
        if self.tasks.have_started() || !self.runtime.tables.ready() {
            return Ok(());
        }
        let mut partitions = Vec::new();
        for id in self.tasks.ready() {
            let owned = self.tasks.get(id)?;
            owned.task.resume();
            (owned.started, owned.behind) = (true, Behind::Restored);
            partitions.extend(owned.inputs.iter().flatten().cloned());
        }
        if !partitions.is_empty() {
            let uncommitted = self.intake.start(&partitions)?;
            self.commits.touch(uncommitted, self.runtime.clock.monotonic());
        }
        Ok(())
    }

    /// The group takes everything back: settle the transaction, then let go.
    pub(super) fn revoked(&mut self, lost: bool) -> Result<(), Interrupt> {
        match lost {
            // They are someone else's already: nothing may be committed.
            true => self.abandon()?,
            false => self.commit_all(REVOCATION)?,
        }
        self.tasks.release();
        Ok(self.intake.release()?)
    }
}

impl Intake {
    /// Partitions were given to this member.
    pub(super) fn assigned(&mut self, partitions: Vec<TopicPartition>) {
        if partitions.is_empty() {
            // There are more lanes than partitions: this one has nothing to do.
            self.runtime.stats.assigned(self.lane, []);
        }
        self.newly.extend(partitions);
    }

    /// Looks up where partitions newly given begin. Returns the tasks they feed, each with whether the group has a position for it;
    /// `None` if none are new.
    fn begin(&mut self) -> Result<Option<BTreeMap<TaskId, bool>>, LaneEnd> {
        if self.newly.is_empty() {
            return Ok(None);
        }
        self.check_topics(self.newly.iter())?;
        let committed = match self.consumer.committed(&self.newly) {
            Ok(committed) => committed,
            // Positions of a transaction that is still being settled: ask again on the next turn.
            Err(e) if e.failure == Failure::Transient => {
                tracing::info!(cause = %e, "committed positions are not available yet");
                return Ok(None);
            }
            Err(e) => return Err(e.into()),
        };
        let mut tasks: BTreeMap<TaskId, bool> = BTreeMap::new();
        let newly = std::mem::take(&mut self.newly);
        for (partition, committed) in newly.into_iter().zip(committed) {
            let Some(input) = self.input(&partition, committed.as_ref())? else { continue };
            *tasks.entry(input.task).or_default() |= committed.is_some();
            self.runtime.stats.position(&partition, input.next, input.committed_marks.iter().copied().min());
            self.partitions.insert(partition, input);
        }
        Ok(Some(tasks))
    }

    fn input(&mut self, partition: &TopicPartition, committed: Option<&Committed>) -> Result<Option<InputPartition>, LaneEnd> {
        let plan = self.runtime.plan.clone();
        for (stage_index, stage) in plan.stages.iter().enumerate() {
            for (index, input) in stage.inputs.iter().enumerate() {
                let Some(topic) = input.topics.iter().find(|t| t.name == partition.topic) else { continue };
                if partition.partition >= stage.partitions {
                    self.runtime.stats.grown(&partition.topic, stage.partitions, partition.partition + 1);
                    return Ok(None);
                }
                let marks = committed.and_then(|c| decode_watermarks(&c.metadata)).unwrap_or_default();
                let kind = match &input.kind {
                    plan::InputKind::Source(decode) => {
                        let decoder = Decoder::new(decode, topic, &input.schema, self.runtime.schemas.clone()).map_err(LaneEnd::Stop)?;
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
                    grows: stage.nodes.iter().any(|node| node.planned.grows),
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
                    stored_at: self.runtime.clock.monotonic(),
                    hold: Default::default(),
                    reached: Default::default(),
                };
                made.rewind();
                return Ok(Some(made));
            }
        }
        Ok(None)
    }

    /// Where to begin in a partition for which the group has never committed anything. Never left to a client's
    /// reset policy (rule R7). A partition that was added to a topic which the pipeline reads has had no rows before.
    fn first_position(&self, partition: &TopicPartition, topic: &plan::InputTopic, kind: &plan::InputKind) -> Result<i64, LaneEnd> {
        let (low, high) = self.runtime.broker.bounds(partition)?;
        Ok(match kind {
            plan::InputKind::Source(decode) if decode.start == Start::Latest && partition.partition < topic.first_partitions => high,
            _ => low,
        })
    }

    /// The topics of partitions must be those that the manifest means: a position in another one means nothing.
    pub(super) fn check_topics<'a>(&self, given: impl Iterator<Item = &'a TopicPartition>) -> Result<(), LaneEnd> {
        let given: BTreeSet<&str> = given.map(|tp| tp.topic.as_ref()).collect();
        let topics = self.runtime.plan.stages.iter().flat_map(|s| &s.inputs).flat_map(|i| &i.topics);
        let meant: Vec<_> = topics.filter(|t| t.id.is_some() && given.contains(t.name.as_ref())).collect();
        let found = self.runtime.broker.topic_ids(&meant.iter().map(|t| t.name.to_string()).collect::<Vec<_>>())?;
        match meant.iter().find(|t| found.get(t.name.as_ref()).is_some_and(|id| t.id.as_ref() != Some(id))) {
            Some(topic) => Err(LaneEnd::Stop(recreated(&topic.name))),
            None => Ok(()),
        }
    }
}
