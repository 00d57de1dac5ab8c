//! The lane: the path of every record, and the file to read first.
//!
//! A lane is one member of the consumer group, the tasks it was given, and two transactional producers. It runs on one
//! thread as a loop of small steps, each of which takes what has arrived as far as it can:
//!
//! 1. **poll** the consumer: records and rebalances;
//! 2. **decode** records into columns; what can't be decoded is a dead letter;
//! 3. **observe time**: every row advances its partition's watermark, and carries the watermark before it;
//! 4. **push** the rows through the steps of their stage, in plan order;
//! 5. each step **emits**, rejects, or touches state, which goes to an overlay ([`crate::state`]);
//! 6. **route**: encode outputs and dead letters into the outbox, and send them once everything of the previous epoch is
//!    acknowledged;
//! 7. **seal** the epoch when its time is up: state changes go to changelog topics, and one transaction takes outputs,
//!    changelog, dead letters and input positions together;
//! 8. **settle**: [`decide`] on the outcome. Committed: the overlay becomes state. Aborted: rewind. Anything less
//!    certain: the lane ends, and a new one starts from the last commit.
//!
//! While one epoch's commit is in flight the next one is already being processed on the other producer (rule R10).
//! A new lane can rebuild everything in memory from the log; that makes step 8 simple.

mod assignment;
mod input;
mod keys;
mod letters;
mod parts;
mod refusals;
mod restore;
mod settle;
mod silence;
mod time;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use operator_core::Millis;

use crate::broker::{Broker, BrokerError, Clock, Consumer, Event, Failure, Producer, RecordSet, TopicPartition};
use crate::checkpoint::Checkpoint;
use crate::decode::BadRecord;
use crate::order::shared_topics;
use crate::outbox::Outbox;
use crate::output::Writer;
use crate::pipeline::Guarantee;
use crate::plan::Plan;
use crate::schemas::SchemaSource;
use crate::stats::Stats;
use crate::task::{Leaving, Task, TaskError};
use crate::time::TrustedWall;

pub use assignment::{TOMBSTONE_RETENTION, topics_to_create};
pub(crate) use input::Taken;
pub use keys::{Sampled, sample_keys};
pub use settle::{Next, decide};

use input::InputPartition;
use keys::Notations;
use parts::Tried;
use refusals::Refusals;
use restore::{Restorer, Restoring};
use settle::InFlight;
use silence::Silence;
use time::Behind;

/// Gives the registry's id of a schema that a sink writes: by subject and text.
pub type SchemaIds = Arc<dyn Fn(&str, &str) -> Result<u32, String> + Send + Sync>;

/// Everything a lane gets from outside, shared by the lanes of a worker.
#[derive(Clone)]
pub struct World {
    pub plan: Arc<Plan>,
    pub broker: Arc<dyn Broker>,
    pub clock: Arc<dyn Clock>,
    /// The wall clock as far as watermarks follow it.
    pub wall: Arc<TrustedWall>,
    pub schemas: Arc<dyn SchemaSource>,
    pub schema_ids: SchemaIds,
    pub tables: Arc<crate::tables::LoadedTables>,
    pub stats: Arc<Stats>,
}

/// Settings of a lane.
#[derive(Clone, Debug)]
pub struct LaneConfig {
    /// Name of the worker's slot, the same after a restart.
    pub worker: String,
    /// Number of the lane in its worker.
    pub index: usize,
    /// Where local checkpoints are kept; `None`: every start reads the whole changelog.
    pub state_dir: Option<PathBuf>,
    /// An epoch is sealed at this many input records even before its time is up.
    pub epoch_rows: u64,
    /// ... or this many bytes of output.
    pub epoch_bytes: usize,
    /// Records per poll.
    pub poll_rows: usize,
    /// How long a restore may make no progress.
    pub restore_patience: Millis,
    /// A checkpoint older than this is not used: tombstones written since might be gone from its changelog.
    pub checkpoint_age: Millis,
}

impl LaneConfig {
    pub fn new(worker: impl Into<String>, index: usize) -> LaneConfig {
        LaneConfig {
            worker: worker.into(),
            index,
            state_dir: None,
            epoch_rows: 200_000,
            epoch_bytes: 32 << 20,
            poll_rows: 8_192,
            restore_patience: 180_000,
            checkpoint_age: TOMBSTONE_RETENTION / 2,
        }
    }
}

/// Why a lane ended.
#[derive(Debug, thiserror::Error)]
pub enum LaneEnd {
    /// Start a new lane: this one's position or membership is uncertain.
    #[error("{0}")]
    Restart(String),
    /// Starting again would fail for the same reason: the worker ends.
    #[error("{0}")]
    Stop(String),
}

impl From<BrokerError> for LaneEnd {
    fn from(e: BrokerError) -> LaneEnd {
        match e.failure {
            Failure::OutOfRange => LaneEnd::Stop(e.message),
            _ => LaneEnd::Restart(e.message),
        }
    }
}

/// A task with what the lane keeps about it.
struct OwnedTask {
    task: Task,
    restore: Option<Restoring>,
    /// Checkpoint files by node.
    checkpoints: Vec<(usize, Checkpoint)>,
    /// The partitions that feed each input of the stage.
    inputs: Vec<Vec<TopicPartition>>,
    /// Watermark last written for the readers of each output (repartition topics only).
    told: Vec<Millis>,
    started: bool,
    /// What its steps have yet to do before they have caught up with their time.
    behind: Behind,
}

/// What the open epoch has done so far.
#[derive(Default)]
struct Epoch {
    opened: Option<Millis>,
    records: u64,
    /// Of output, handed to the producer.
    bytes: usize,
    /// Earliest record timestamp, for end-to-end latency.
    oldest: Option<Millis>,
    touched: std::collections::BTreeSet<TopicPartition>,
    counts: crate::stats::Counts,
}

/// See the module documentation.
pub struct Lane {
    world: World,
    config: LaneConfig,
    consumer: Box<dyn Consumer>,
    producers: Vec<Box<dyn Producer>>,
    /// The producer of the open epoch, and whether its transaction has begun.
    current: usize,
    begun: bool,
    /// Writers of each stage's outputs.
    writers: Vec<Vec<Writer>>,
    tasks: BTreeMap<(usize, i32), OwnedTask>,
    partitions: BTreeMap<TopicPartition, InputPartition>,
    restorer: Restorer,
    /// Given to this member, committed positions not known yet.
    newly: Vec<TopicPartition>,
    dead_letter_partitions: BTreeMap<Arc<str>, (Arc<str>, i32)>,
    notations: Notations,
    outbox: Outbox,
    epoch: Epoch,
    in_flight: Option<InFlight>,
    /// Epochs discarded since the last commit.
    rewinds: u32,
    refusals: Refusals,
    /// Fetch generation, raised by every rewind; records fetched under an older one are discarded.
    delivery: u64,
    silence: Silence,
}

impl Lane {
    /// Joins the group. Blocks while earlier transactions of this lane's ids are settled.
    pub fn start(world: World, config: LaneConfig) -> Result<Lane, LaneEnd> {
        let plan = &world.plan;
        let mut producers = Vec::new();
        for which in 0..2 {
            let id = plan.names.transactional_id(&config.worker, config.index, which);
            let id = (plan.guarantee == Guarantee::ExactlyOnce).then_some(id);
            producers.push(world.broker.producer(id.as_deref())?);
        }
        let mut writers = Vec::new();
        for stage in &plan.stages {
            let shared = shared_topics(stage);
            let of_stage = stage.outputs.iter().zip(shared).map(|(o, shared)| {
                Writer::new(o, shared, &*world.schema_ids).map_err(|e| LaneEnd::Restart(format!("sink `{}`: {e}", o.name)))
            });
            writers.push(of_stage.collect::<Result<Vec<_>, _>>()?);
        }
        let topics: Vec<String> = plan.stages.iter().flat_map(|s| &s.inputs).flat_map(|i| &i.topics).map(|t| t.name.to_string()).collect();
        let instance = format!("{}-{}", config.worker, config.index);
        let consumer = world.broker.consumer(&plan.names.group(), &instance, &topics)?;
        let silence = Silence::new(world.clock.as_ref());
        Ok(Lane {
            world,
            config,
            consumer,
            producers,
            current: 0,
            begun: false,
            writers,
            tasks: BTreeMap::new(),
            partitions: BTreeMap::new(),
            restorer: Restorer::default(),
            newly: Vec::new(),
            dead_letter_partitions: BTreeMap::new(),
            notations: Notations::new(),
            outbox: Outbox::default(),
            epoch: Epoch::default(),
            in_flight: None,
            rewinds: 0,
            refusals: Refusals::default(),
            delivery: 0,
            silence,
        })
    }

    /// One turn of the loop; waits up to `wait` if there is nothing to do. True if records were processed.
    pub fn step(&mut self, wait: Duration) -> Result<bool, LaneEnd> {
        self.settle(Duration::ZERO)?;
        if self.in_flight.is_some() && self.is_full() {
            // Back-pressure: the next epoch is full and may not be sealed before this one is settled.
            self.settle(wait)?;
        }
        let behind = self.catch_up()?;
        // What time releases comes before new records.
        let room = if behind || self.is_full() { 0 } else { self.config.poll_rows };
        let mut busy = behind;
        let wait = if room == 0 { Duration::ZERO } else { wait.min(self.until_due().unwrap_or(wait)) };
        let events = self.consumer.poll(room.max(1), wait);
        if events.as_ref().is_err_and(|e| e.failure == Failure::OutOfRange) {
            // The usual cause: positions of a topic that is another one now.
            self.check_topics(self.partitions.keys())?;
        }
        let events = events?;
        let delivery = self.delivery;
        for event in events {
            match event {
                // A rewind is pending: these are read again.
                Event::Records { .. } | Event::End { .. } if delivery != self.delivery => {}
                Event::Assigned(partitions) => {
                    if partitions.is_empty() {
                        // There are more lanes than partitions: this one has nothing to do.
                        self.world.stats.assigned(self.config.index, []);
                    }
                    self.newly.extend(partitions);
                }
                Event::Revoked { lost, .. } => self.revoked(lost)?,
                Event::Records { partition, records } => {
                    busy = true;
                    self.receive(&partition, records)?;
                }
                Event::End { partition, offset } => self.ended(&partition, offset),
                Event::Ends(ends) => self.heard(ends)?,
            }
        }
        self.assign()?;
        self.restore()?;
        busy |= self.retry_waiting()?;
        self.let_time_pass()?;
        self.flush()?;
        if self.is_due() {
            self.seal()?;
        }
        self.catch_up_checkpoints(false);
        Ok(busy)
    }

    /// Commits what was processed and leaves. For a clean shutdown.
    pub fn finish(mut self, patience: Duration) -> Result<(), LaneEnd> {
        self.commit_all(patience)?;
        self.catch_up_checkpoints(true);
        Ok(())
    }

    /// Nothing is in progress: every task given to this lane has started, and everything read so far is committed.
    pub fn is_settled(&self) -> bool {
        let has_started = self.newly.is_empty() && self.tasks.values().all(|task| task.started && task.behind == Behind::Nothing);
        has_started && self.in_flight.is_none() && self.epoch.touched.is_empty() && self.partitions.values().all(|p| p.waiting.is_empty())
    }

    fn is_full(&self) -> bool {
        self.epoch.records >= self.config.epoch_rows || self.epoch.bytes + self.outbox.bytes() >= self.config.epoch_bytes
    }

    fn is_due(&self) -> bool {
        let Some(opened) = self.epoch.opened else { return false };
        self.is_full() || self.world.clock.monotonic() - opened >= self.world.plan.commit_interval
    }

    /// How long until the open epoch is due; `None` without one, and while it is overdue because the one before is not settled.
    fn until_due(&self) -> Option<Duration> {
        let left = self.epoch.opened? + self.world.plan.commit_interval - self.world.clock.monotonic();
        u64::try_from(left).ok().filter(|left| *left > 0).map(Duration::from_millis)
    }

    fn receive(&mut self, partition: &TopicPartition, records: Box<dyn RecordSet>) -> Result<(), LaneEnd> {
        let Some(input) = self.partitions.get_mut(partition) else { return Ok(()) };
        input.active();
        input.waiting.push_back((records, 0));
        if input.waiting.len() == 1 { self.process(partition).map(|_| ()) } else { Ok(()) }
    }

    /// Takes the waiting records of a partition through steps 2 to 6. False if it still waits for a schema.
    fn process(&mut self, partition: &TopicPartition) -> Result<bool, LaneEnd> {
        let (wall, delivery) = (self.world.clock.wall(), self.delivery);
        let reference = self.world.wall.reference(wall, self.world.clock.silence());
        loop {
            let full = self.is_full();
            let Some(input) = self.partitions.get_mut(partition) else { return Ok(true) };
            let Some((records, first)) = input.waiting.front() else { return Ok(true) };
            let (first, length) = (*first, records.len());
            if first >= length {
                input.waiting.pop_front();
                continue;
            }
            let (task, index, before) = (input.task, input.index, input.time());
            let grows = self.tasks.get(&task).is_some_and(|owned| owned.task.grows());
            if grows && full {
                return Ok(true);
            }
            let taken = match input.decode(partition, first, grows, reference, &mut self.notations) {
                Ok(taken) => taken,
                Err(why) => return Err(self.misread(partition, why)),
            };
            let mut leaving = Leaving::default();
            if grows {
                match self.try_batches(task, index, &taken, partition)? {
                    Tried::Leaving(left) => leaving = left,
                    Tried::Written => {}
                    Tried::TooLarge => {
                        self.partitions.get_mut(partition).into_iter().for_each(|input| input.take_fewer(taken.records, before));
                        continue;
                    }
                }
            }
            let Some(input) = self.partitions.get_mut(partition).filter(|_| delivery == self.delivery) else { return Ok(true) };
            let Some((records, next)) = input.waiting.front_mut() else { return Ok(true) };
            *next = first + taken.records;
            if let Some(last) = (first + taken.records).checked_sub(1).filter(|_| taken.records > 0) {
                let last = records.get(last);
                input.next = last.offset + 1;
                // What this machine stamped itself, in a repartition topic, confirms nothing.
                if let Some(timestamp) = last.timestamp.filter(|_| taken.source) {
                    self.world.wall.witness(timestamp, wall, self.world.clock.silence());
                }
            }
            self.opened(partition, taken.records as u64, taken.oldest);
            self.epoch.counts.decoded(&taken, partition);
            if let Some(owned) = self.tasks.get_mut(&task).filter(|_| !grows) {
                for batch in taken.batches {
                    owned.task.push(index, batch, &mut leaving).map_err(ended)?;
                }
            }
            self.run(task, wall, &mut leaving)?;
            self.leave_read(task, leaving, partition, &taken.bad)?;
            self.flush()?;
            if let Some(why) = taken.waits
                && delivery == self.delivery
            {
                self.world.stats.waiting(partition, &why);
                let input = self.partitions.get_mut(partition).filter(|input| !input.paused);
                if let Some(input) = input {
                    input.paused = true;
                    self.consumer.pause(std::slice::from_ref(partition))?;
                }
                return Ok(false);
            }
        }
    }

    /// Writes what left a task while the records at the front of `partition` are processed.
    fn leave_read(&mut self, task: (usize, i32), leaving: Leaving, partition: &TopicPartition, bad: &[BadRecord]) -> Result<(), LaneEnd> {
        let records = self.partitions.get_mut(partition).and_then(|p| p.waiting.pop_front());
        self.leave(task, leaving, partition, records.as_ref().map(|(r, _)| r.as_ref()), bad)?;
        if let (Some(records), Some(input)) = (records, self.partitions.get_mut(partition)) {
            input.waiting.push_front(records);
        }
        Ok(())
    }

    /// Marks the epoch as opened by records of `partition`.
    fn opened(&mut self, partition: &TopicPartition, records: u64, oldest: Option<Millis>) {
        if records > 0 {
            self.epoch.opened.get_or_insert(self.world.clock.monotonic());
            self.epoch.records += records;
            self.epoch.touched.insert(partition.clone());
            self.epoch.oldest = match (self.epoch.oldest, oldest) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
    }

    /// Partitions whose records wait, for a schema or for room in an epoch, try again.
    fn retry_waiting(&mut self) -> Result<bool, LaneEnd> {
        let waiting: Vec<TopicPartition> =
            self.partitions.iter().filter(|(_, p)| !p.waiting.is_empty()).map(|(tp, _)| tp.clone()).collect();
        let mut busy = false;
        for partition in waiting {
            if self.process(&partition)? {
                busy = true;
                self.world.stats.waits_no_more(&partition);
                let paused = self.partitions.get_mut(&partition).filter(|input| input.paused);
                if let Some(input) = paused {
                    input.resumed();
                    self.consumer.resume(std::slice::from_ref(&partition))?;
                }
                let silence = self.world.clock.silence();
                self.partitions.get_mut(&partition).into_iter().for_each(|input| input.caught_up(silence));
            }
        }
        Ok(busy)
    }

    /// Sends the outbox if the epoch before is acknowledged.
    fn flush(&mut self) -> Result<(), LaneEnd> {
        if self.outbox.is_empty() || self.in_flight.as_ref().is_some_and(|f| !f.acknowledged) {
            return Ok(());
        }
        self.check_refusals()?;
        self.begin()?;
        let Some(producer) = self.producers.get_mut(self.current) else { return Ok(()) };
        let bytes = self.outbox.bytes();
        match self.outbox.send(producer.as_mut()) {
            Ok(()) => {
                self.epoch.bytes += bytes;
                Ok(())
            }
            Err(e) if matches!(e.failure, Failure::AbortTransaction | Failure::Refused | Failure::Transient) => self.rewind(&e.message),
            Err(e) => Err(e.into()),
        }
    }

    fn begin(&mut self) -> Result<(), LaneEnd> {
        if !self.begun
            && let Some(producer) = self.producers.get_mut(self.current)
        {
            producer.begin()?;
            self.begun = true;
        }
        Ok(())
    }
}

/// How a lane ends whose task failed.
fn ended(e: TaskError) -> LaneEnd {
    if e.unreadable { LaneEnd::Stop(e.to_string()) } else { LaneEnd::Restart(e.to_string()) }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.world.stats.unassigned(self.config.index, self.partitions.keys());
    }
}

/// Records of a partition that are not processed yet, and how far into the first set.
type Waiting = VecDeque<(Box<dyn RecordSet>, usize)>;
