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
//! 6. **route**: encode outputs and dead letters into a buffer, and send them once everything of the previous epoch is
//!    acknowledged;
//! 7. **seal** the epoch when its time is up: state changes go to changelog topics, and one transaction takes outputs,
//!    changelog, dead letters and input positions together;
//! 8. **settle**: [`decide`] on the outcome. Committed: the overlay becomes state. Aborted: rewind. Anything less
//!    certain: the lane ends, and a new one starts from the last commit.
//!
//! It has four parts, each with its own state: [`intake`] (1 to 3), [`tasks`] (4 and 5), [`outputs`] (6) and [`commits`] (7 and 8).
//! This file is how they work together. An [`ends::Interrupt`] leaves every function through `?`, and [`Lane::step`] handles it.
//!
//! While one epoch's commit is in flight the next one is already being processed on the other producer (rule R10).
//! A new lane can rebuild everything in memory from the log; that makes step 8 simple.

mod assignment;
mod commits;
mod config;
mod dead_letters;
mod ends;
mod growing;
mod intake;
mod key_samples;
mod keys;
mod notations;
mod outputs;
mod partition;
mod reached;
mod restore;
mod rewind;
mod running;
mod silence;
mod tasks;
mod time;
mod writers;

use std::time::Duration;

use crate::broker::{Event, TopicPartition};
use crate::failpoint::failpoint;
use crate::task::StageOutput;

use commits::{Commits, Ended, Sealed};
use ends::Interrupt;
use intake::Intake;
use outputs::Outputs;
use partition::DecodedChunk;
use tasks::{Tasks, failed};

pub use crate::lane_end::LaneEnd;
pub use commits::{Next, decide};
pub use config::{LaneConfig, Runtime, SchemaIds};
pub use key_samples::{Sampled, sample_keys};
pub use running::{RunningLane, Stepped};

/// How long a poll takes at most while timers wait for the ends of partitions, whose arrival ends none.
const ANSWER: Duration = Duration::from_millis(20);

/// A stage, and one of its partitions.
pub type TaskId = (usize, i32);

/// See the module documentation.
pub struct Lane {
    runtime: Runtime,
    config: LaneConfig,
    intake: Intake,
    tasks: Tasks,
    outputs: Outputs,
    commits: Commits,
}

impl Lane {
    /// Joins the group. Blocks while earlier transactions of this lane's ids are settled.
    pub fn start(runtime: Runtime, config: LaneConfig) -> Result<Lane, LaneEnd> {
        let commits = Commits::start(&runtime, &config)?;
        let outputs = Outputs::new(&runtime)?;
        let tasks = Tasks::new(&runtime, &config);
        let intake = Intake::join(&runtime, &config)?;
        Ok(Lane { runtime, config, intake, tasks, outputs, commits })
    }

    /// One turn of the loop; waits up to `wait` if there is nothing to do. True if records were processed, or are to be processed again.
    pub fn step(&mut self, wait: Duration) -> Result<bool, LaneEnd> {
        let turned = self.turn(wait);
        Ok(self.rewound(turned)?.unwrap_or(true))
    }

    /// Commits what was processed and leaves. For a clean shutdown.
    pub fn finish(mut self, patience: Duration) -> Result<(), LaneEnd> {
        loop {
            let committed = self.commit_all(patience);
            if self.rewound(committed)?.is_some() {
                self.tasks.catch_up_checkpoints(true);
                return Ok(());
            }
        }
    }

    /// Nothing is in progress: every task given to this lane has started, and everything read so far is committed.
    pub fn is_settled(&self) -> bool {
        let is_committed = !self.commits.is_committing() && self.commits.touched().next().is_none();
        is_committed && self.intake.is_idle() && self.tasks.have_started() && self.tasks.behind().is_empty()
    }

    fn turn(&mut self, wait: Duration) -> Result<bool, Interrupt> {
        self.settle(Duration::ZERO)?;
        if self.commits.is_committing() && self.is_full() {
            // Back-pressure: the next epoch is full and may not be sealed before this one is settled.
            self.settle(wait)?;
        }
        let behind = self.catch_up()?;
        let timers = self.tasks.wake(|inputs| self.intake.reached(inputs))?;
        if timers.held {
            self.intake.ask_ends(true)?;
        }
        let answer = (timers.held && self.intake.is_asking()).then_some(ANSWER);
        // What time releases comes before new records.
        let (room, wait) = match behind || self.is_full() {
            true => (1, Duration::ZERO),
            false => {
                let until_due = self.commits.until_due(self.runtime.clock.monotonic());
                (self.config.poll_rows, until_due.into_iter().chain(timers.after).chain(answer).fold(wait, Duration::min))
            }
        };
        self.intake.poll(room, wait)?;
        let mut busy = behind;
        while let Some(event) = self.intake.next_event() {
            busy |= matches!(event, Event::Records { .. });
            self.handle(event)?;
        }
        self.assign()?;
        busy |= self.retry_waiting()?;
        self.commits.touch(self.intake.beating(), self.runtime.clock.monotonic());
        self.intake.ask_ends(false)?;
        self.flush()?;
        if self.commits.is_due(self.outputs.bytes(), self.runtime.clock.monotonic()) {
            self.seal()?;
        }
        self.tasks.catch_up_checkpoints(false);
        Ok(busy)
    }

    fn handle(&mut self, event: Event) -> Result<(), Interrupt> {
        match event {
            Event::Assigned(partitions) => self.intake.assigned(partitions),
            Event::Revoked { partitions, lost } => {
                let revoked = self.revoked(lost);
                if revoked.is_err() {
                    // If only the epoch ends, the group still waits.
                    self.intake.put_back(Event::Revoked { partitions, lost });
                }
                revoked?;
            }
            Event::Records { partition, records } => {
                if self.intake.receive(&partition, records) {
                    self.process(&partition)?;
                }
            }
            Event::End { partition, offset } => self.intake.ended(&partition, offset),
            Event::Ends(ends) => {
                for task in self.intake.heard(ends) {
                    // Readers of a repartition topic need to know that this task is silent.
                    self.pass_time(task, true)?;
                }
                self.pass_reached();
            }
        }
        Ok(())
    }

    /// Takes the waiting records of a partition through steps 2 to 6, chunk by chunk. False if some wait for a schema.
    fn process(&mut self, partition: &TopicPartition) -> Result<bool, Interrupt> {
        while let Some(mut chunk) = self.intake.decode(partition, self.is_full())? {
            let mut out = StageOutput::default();
            if chunk.grows {
                let Some(left) = self.try_chunk(&chunk)? else { continue };
                out = left;
            } else {
                let task = &mut self.tasks.get(chunk.task)?.task;
                for batch in std::mem::take(&mut chunk.batches) {
                    task.push(chunk.input, batch, &mut out).map_err(failed)?;
                }
            }
            self.commits.read(&chunk, self.runtime.clock.monotonic());
            self.run(chunk.task, &mut out)?;
            self.outputs.route_bad(&chunk, self.commits.counts())?;
            self.route(chunk.task, out, Some(&chunk))?;
            if let Some(why) = &chunk.waits {
                self.intake.pause(partition, why)?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Partitions whose records wait, for a schema or for room in an epoch, try again.
    fn retry_waiting(&mut self) -> Result<bool, Interrupt> {
        let mut busy = false;
        for partition in self.intake.waiting() {
            if self.process(&partition)? {
                busy = true;
                self.intake.resume(&partition)?;
            }
        }
        Ok(busy)
    }

    fn is_full(&self) -> bool {
        self.commits.is_full(self.outputs.bytes())
    }

    /// Writes what left a task, and hands it over. `chunk`: what the task was given.
    fn route(&mut self, task: TaskId, out: StageOutput, chunk: Option<&DecodedChunk>) -> Result<(), Interrupt> {
        self.outputs.route(task, out, chunk, self.commits.counts())?;
        self.flush()
    }

    /// Hands what waits to be sent to the producer, once the epoch before is acknowledged.
    fn flush(&mut self) -> Result<(), Interrupt> {
        self.commits.send(&mut self.outputs.buffer)
    }

    /// Ends the open epoch: changelog, watermarks and positions join its outputs, and the commit starts. Does nothing
    /// while the epoch before is in flight (n+1 commits only after n did).
    fn seal(&mut self) -> Result<(), Interrupt> {
        if self.commits.is_committing() {
            return Ok(());
        }
        if self.is_sealed() {
            self.commits.close_empty();
            return Ok(());
        }
        let now = self.runtime.clock.monotonic();
        let changed = self.tasks.seal(&mut self.outputs.buffer)?;
        for (id, owned) in self.tasks.iter_mut() {
            let (watermarks, reached) = (self.intake.watermarks(&owned.inputs), self.intake.reached(&owned.inputs));
            let before = (owned.announced.as_mut_slice(), &mut owned.announced_reached);
            self.outputs.announce(*id, before, reached, |output| owned.task.output_watermark(output, &watermarks))?;
        }
        self.flush()?;
        self.commits.counts().steps.extend(self.tasks.take_ledgers());
        self.commits.counts().ports.extend(self.tasks.take_emitted());
        let positions = self.intake.positions(self.commits.touched())?;
        failpoint("lane-sealed");
        self.commits.seal(positions, changed, self.outputs.buffer.sealed(), self.intake.membership(), now)?;
        Ok(())
    }

    /// Asks how the commit in flight goes, and acts on its outcome.
    fn settle(&mut self, wait: Duration) -> Result<(), Interrupt> {
        match self.commits.settle(wait, &self.runtime.stats)? {
            None => Ok(()),
            Some(Ended::Committed(sealed, offsets)) => Ok(self.apply(*sealed, &offsets)?),
            Some(Ended::Aborted(cause)) => Err(Interrupt::Rewind(cause)),
        }
    }

    fn apply(&mut self, done: Sealed, offsets: &[(u32, i64)]) -> Result<(), LaneEnd> {
        failpoint("lane-committed");
        let (wall, now) = (self.runtime.clock.wall(), self.runtime.clock.monotonic());
        self.outputs.buffer.committed(&done.refused);
        self.intake.committed(done.positions)?;
        self.tasks.apply(&done.changed, offsets)?;
        self.runtime.stats.is_well(self.config.index);
        let (took, end_to_end) = ((now - done.opened, now - done.at), done.oldest.map(|t| wall.saturating_sub(t)));
        self.runtime.stats.committed(&done.counts, wall, took, end_to_end);
        Ok(())
    }

    /// Commits everything processed so far and waits for it.
    fn commit_all(&mut self, patience: Duration) -> Result<(), Interrupt> {
        for _ in 0..(patience.as_millis() / 50).max(1) {
            if !self.commits.is_committing() {
                if self.is_sealed() {
                    return Ok(());
                }
                self.seal()?;
            }
            self.settle(Duration::from_millis(50))?;
        }
        match !self.commits.is_committing() && self.is_sealed() {
            true => Ok(()),
            false => Err(LaneEnd::Restart("the last commit did not end in time".into()).into()),
        }
    }

    /// Nothing of an open epoch exists: no position, no record, no transaction begun.
    fn is_sealed(&self) -> bool {
        self.commits.is_empty() && self.outputs.buffer.is_empty()
    }
}
