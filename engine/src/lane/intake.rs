//! Intake: the consumer, the partitions it was given, and their time. Hands out decoded chunks one after the other.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use operator_core::Millis;

use super::commits::Position;
use super::ends::bug;
use super::notations::Notations;
use super::partition::{DecodedChunk, InputPartition};
use super::silence::Silence;
use super::{LaneConfig, LaneEnd, Runtime, TaskId};
use crate::broker::{Consumer, Event, Failure, Membership, RecordSet, TopicPartition};

/// See the module documentation.
pub(super) struct Intake {
    pub(super) runtime: Runtime,
    /// Number of the lane.
    pub(super) lane: usize,
    pub(super) consumer: Box<dyn Consumer>,
    /// What was polled and not handled yet.
    events: VecDeque<Event>,
    /// Given to this member, committed positions not known yet.
    pub(super) newly: Vec<TopicPartition>,
    pub(super) partitions: BTreeMap<TopicPartition, InputPartition>,
    notations: Notations,
    pub(super) silence: Silence,
}

impl Intake {
    /// Joins the group.
    pub fn join(runtime: &Runtime, config: &LaneConfig) -> Result<Intake, LaneEnd> {
        let inputs = runtime.plan.stages.iter().flat_map(|stage| &stage.inputs);
        let topics: Vec<String> = inputs.flat_map(|input| &input.topics).map(|topic| topic.name.to_string()).collect();
        let instance = format!("{}-{}", config.worker, config.index);
        Ok(Intake {
            consumer: runtime.broker.consumer(&runtime.plan.names.group(), &instance, &topics)?,
            runtime: runtime.clone(),
            lane: config.index,
            events: VecDeque::new(),
            newly: Vec::new(),
            partitions: BTreeMap::new(),
            notations: Notations::new(&runtime.plan),
            silence: Silence::new(runtime.clock.as_ref()),
        })
    }

    /// Adds what the consumer has to say to the events. Events that a rewind left come first.
    pub fn poll(&mut self, max: usize, wait: Duration) -> Result<(), LaneEnd> {
        if !self.events.is_empty() {
            return Ok(());
        }
        let polled = self.consumer.poll(max, wait);
        if polled.as_ref().is_err_and(|e| e.failure == Failure::OutOfRange) {
            // The usual cause: positions of a topic that is another one now.
            self.check_topics(self.partitions.keys())?;
        }
        self.events.extend(polled?);
        Ok(())
    }

    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// An event could not be handled: it is the next one again.
    pub fn put_back(&mut self, event: Event) {
        self.events.push_front(event);
    }

    /// Records arrived; true if they are to be processed now. Those of a partition that is no longer this member's are the next owner's.
    pub fn receive(&mut self, partition: &TopicPartition, records: Box<dyn RecordSet>) -> bool {
        self.partitions.get_mut(partition).is_some_and(|input| input.receive(records))
    }

    /// The next chunk of a partition; `None` if nothing waits, or if an epoch that is `full` has no room for rows that grow.
    ///
    /// # Errors
    /// Reading on would give wrong results.
    pub fn decode(&mut self, partition: &TopicPartition, full: bool) -> Result<Option<DecodedChunk>, LaneEnd> {
        let (wall, silence) = (self.runtime.clock.wall(), self.runtime.clock.silence());
        let input = self.partitions.get_mut(partition).ok_or_else(|| bug(format_args!("{partition}, which is being read,")))?;
        if full && input.grows {
            return Ok(None);
        }
        let reference = self.runtime.wall.reference(wall, silence);
        let decoded = input.decode(partition, reference, &mut self.notations).map_err(|why| self.misread(partition, why))?;
        self.notations.record(&self.runtime)?;
        // What this machine stamped itself, in a repartition topic, confirms nothing.
        if let Some(timestamp) = decoded.as_ref().filter(|chunk| chunk.from_source).and_then(DecodedChunk::newest) {
            self.runtime.wall.witness(timestamp, wall, silence);
        }
        Ok(decoded)
    }

    /// Whether the steps could take a chunk of rows that grow. If not, fewer of its records come next.
    pub fn fitted(&mut self, chunk: &DecodedChunk, fits: bool) -> Result<(), LaneEnd> {
        let input = self.get(&chunk.partition)?;
        if fits {
            input.take_more()
        } else {
            input.take_fewer(chunk)
        }
        Ok(())
    }

    fn get(&mut self, partition: &TopicPartition) -> Result<&mut InputPartition, LaneEnd> {
        self.partitions.get_mut(partition).ok_or_else(|| bug(format_args!("{partition}, which is being read,")))
    }

    /// The next record of a partition can't be decoded yet: it delivers no more until then.
    pub fn pause(&mut self, partition: &TopicPartition, why: &str) -> Result<(), LaneEnd> {
        self.runtime.stats.waiting(partition, why);
        if !std::mem::replace(&mut self.get(partition)?.paused, true) {
            self.consumer.pause(std::slice::from_ref(partition))?;
        }
        Ok(())
    }

    /// Nothing of a partition waits any more.
    pub fn resume(&mut self, partition: &TopicPartition) -> Result<(), LaneEnd> {
        self.runtime.stats.waits_no_more(partition);
        let silence = self.runtime.clock.silence();
        let input = self.get(partition)?;
        if input.paused {
            input.resumed();
            input.caught_up(silence);
            return Ok(self.consumer.resume(std::slice::from_ref(partition))?);
        }
        input.caught_up(silence);
        Ok(())
    }

    /// Partitions whose records wait, for a schema or for room in an epoch.
    pub fn waiting(&mut self) -> Vec<TopicPartition> {
        self.partitions.iter().filter(|(_, input)| !input.waiting.is_empty()).map(|(partition, _)| partition.clone()).collect()
    }

    /// Every partition given to this lane is known, and everything delivered is processed.
    pub fn is_idle(&self) -> bool {
        self.newly.is_empty() && self.events.is_empty() && self.partitions.values().all(|input| input.waiting.is_empty())
    }

    /// The watermark of each input of a task, of whose partitions it is the earliest.
    pub fn watermarks(&self, inputs: &[Vec<TopicPartition>]) -> Vec<Millis> {
        let of = |partitions: &Vec<TopicPartition>| {
            let marks = partitions.iter().filter_map(|partition| self.partitions.get(partition)).map(InputPartition::watermark);
            marks.min().unwrap_or(operator_core::NO_WATERMARK)
        };
        inputs.iter().map(of).collect()
    }

    /// What every partition that feeds a task has reached (`reached.rs`).
    pub fn reached(&self, inputs: &[Vec<TopicPartition>]) -> Millis {
        let partitions = inputs.iter().flatten().filter_map(|partition| self.partitions.get(partition));
        partitions.map(InputPartition::reached).min().unwrap_or(operator_core::NO_WATERMARK)
    }

    /// The partitions that feed each input of a task.
    pub fn inputs_of(&self, task: TaskId) -> Vec<Vec<TopicPartition>> {
        let of = |index: usize| {
            let inputs = self.partitions.iter().filter(|(_, input)| input.task == task && input.index == index);
            inputs.map(|(partition, _)| partition.clone()).collect()
        };
        let inputs = self.runtime.plan.stages.get(task.0).map_or(0, |stage| stage.inputs.len());
        (0..inputs).map(of).collect()
    }

    /// Starts the delivery of partitions. Returns those for which nothing was ever committed: the first epoch commits where reading
    /// began, rows or not, because the next start must not choose again.
    pub fn start(&mut self, partitions: &[TopicPartition]) -> Result<Vec<TopicPartition>, LaneEnd> {
        let (mut positions, mut uncommitted) = (Vec::new(), Vec::new());
        for partition in partitions {
            let input = self.partitions.get_mut(partition).ok_or_else(|| bug(format_args!("{partition}, the input of a task,")))?;
            input.started = true;
            positions.push((partition.clone(), input.next));
            if input.uncommitted {
                uncommitted.push(partition.clone());
            }
        }
        self.consumer.start(&positions)?;
        Ok(uncommitted)
    }

    /// Goes back to the committed positions. Returns what [`Intake::start`] does.
    pub fn rewind(&mut self) -> Result<Vec<TopicPartition>, LaneEnd> {
        // They are read again.
        self.events.retain(|event| !matches!(event, Event::Records { .. } | Event::End { .. }));
        self.partitions.values_mut().for_each(InputPartition::rewind);
        let started = self.partitions.iter().filter(|(_, input)| input.started);
        let started: Vec<TopicPartition> = started.map(|(partition, _)| partition.clone()).collect();
        self.start(&started)
    }

    /// Where these partitions have come to.
    pub fn positions<'a>(&self, of: impl Iterator<Item = &'a TopicPartition>) -> Result<Vec<Position>, LaneEnd> {
        let mut positions = Vec::new();
        for partition in of {
            let input = self.partitions.get(partition).ok_or_else(|| bug(format_args!("{partition}, which the epoch read,")))?;
            positions.push(Position::new(partition, input.position(), input.marks())?);
        }
        Ok(positions)
    }

    /// A transaction has committed these positions. Without transactions they are committed now.
    pub fn committed(&mut self, positions: Vec<Position>) -> Result<(), LaneEnd> {
        if !self.runtime.plan.is_transactional() {
            let offsets: Vec<_> = positions.iter().map(|p| (p.partition.clone(), p.committed.clone())).collect();
            self.consumer.commit(&offsets)?;
        }
        let now = self.runtime.clock.monotonic();
        for Position { partition, committed, watermarks } in positions {
            self.runtime.stats.position(&partition, committed.offset, watermarks.iter().copied().min());
            let input = self.partitions.get_mut(&partition).ok_or_else(|| bug(format_args!("{partition}, which was committed,")))?;
            input.committed(committed.offset, watermarks, now);
        }
        Ok(())
    }

    pub fn membership(&self) -> Membership {
        self.consumer.membership()
    }

    /// Lets revoked partitions go.
    pub fn release(&mut self) -> Result<(), LaneEnd> {
        self.runtime.stats.unassigned(self.lane, self.partitions.keys());
        self.partitions.clear();
        self.newly.clear();
        Ok(self.consumer.release()?)
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.runtime.stats.unassigned(self.lane, self.partitions.keys());
    }
}
