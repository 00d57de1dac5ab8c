//! A crash at an exact step: a log and a target that end their caller, before or after a call takes effect.
//!
//! The crash is an unwinding without a panic: everything the caller had in memory is gone, as after a kill, and what
//! it did to the log stays. The runner catches it and starts a new worker.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use headwater_engine::broker::{
    Broker, BrokerError, Committed, Consumer, Event, GroupView, Membership, Outcome, Outgoing, Producer, Progress, Reader, Refused,
    TopicId, TopicPartition, TopicSpec,
};
use headwater_engine::delivery::{self, Block, Position, Positioned, Range, Reply, Target};
use parking_lot::Mutex;

/// A step of the protocol: a call that changes something external, or reports a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Joining the group.
    Join,
    /// Starting a transactional producer, which settles what its predecessor left open.
    Init,
    /// Reading records.
    Read,
    /// Handing a record over, within a transaction.
    Send,
    /// Asking for the end of the transaction.
    Commit,
    /// Learning that it is committed.
    Committed,
    /// Inserting a block into a table.
    Insert,
    /// Committing the position of a delivery.
    Position,
}

/// At which pass of which step to crash, and on which side of it.
#[derive(Clone, Copy, Debug)]
pub struct Crash {
    pub step: Step,
    pub after: bool,
    /// From 1.
    pub occasion: u32,
}

/// What is thrown.
struct Crashed;

/// Counts steps, and crashes once.
pub struct Trigger {
    crash: Mutex<Option<Crash>>,
}

impl Trigger {
    pub fn new(crash: Option<Crash>) -> Arc<Trigger> {
        Arc::new(Trigger { crash: Mutex::new(crash) })
    }

    /// It crashed, or was never to.
    pub fn is_spent(&self) -> bool {
        self.crash.lock().is_none()
    }

    /// Runs a step, unless this is where to crash.
    fn step<T>(&self, step: Step, run: impl FnOnce() -> T) -> T {
        self.step_if(step, run, |_| true)
    }

    /// The same; only what `counts` is a pass of the step.
    fn step_if<T>(&self, step: Step, run: impl FnOnce() -> T, counts: impl FnOnce(&T) -> bool) -> T {
        let armed = (*self.crash.lock()).filter(|crash| crash.step == step);
        let Some(crash) = armed else { return run() };
        if !crash.after {
            self.pass(crash);
            return run();
        }
        let result = run();
        if counts(&result) {
            self.pass(crash);
        }
        result
    }

    fn pass(&self, crash: Crash) {
        let left = crash.occasion.saturating_sub(1);
        *self.crash.lock() = (left > 0).then_some(Crash { occasion: left, ..crash });
        if left == 0 {
            resume_unwind(Box::new(Crashed));
        }
    }
}

/// Runs `run`; `None` if it crashed. Real panics continue.
pub fn surviving<T>(run: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => Some(result),
        Err(thrown) if thrown.is::<Crashed>() => None,
        Err(thrown) => resume_unwind(thrown as Box<dyn Any + Send>),
    }
}

/// A log whose callers may crash.
pub struct CrashingBroker {
    pub broker: Arc<dyn Broker>,
    pub trigger: Arc<Trigger>,
}

impl Broker for CrashingBroker {
    fn consumer(&self, group: &str, instance: &str, topics: &[String]) -> Result<Box<dyn Consumer>, BrokerError> {
        let consumer = self.trigger.step(Step::Join, || self.broker.consumer(group, instance, topics))?;
        Ok(Box::new(Crashing { inner: consumer, trigger: self.trigger.clone() }))
    }

    fn producer(&self, transactional_id: Option<&str>) -> Result<Box<dyn Producer>, BrokerError> {
        let producer = self.trigger.step(Step::Init, || self.broker.producer(transactional_id))?;
        Ok(Box::new(Crashing { inner: producer, trigger: self.trigger.clone() }))
    }

    fn reader(&self, from: &[(TopicPartition, i64)]) -> Result<Box<dyn Reader>, BrokerError> {
        self.broker.reader(from)
    }

    fn partitions(&self, topic: &str) -> Result<Option<i32>, BrokerError> {
        self.broker.partitions(topic)
    }

    fn topics(&self) -> Result<Vec<String>, BrokerError> {
        self.broker.topics()
    }

    fn bounds(&self, partition: &TopicPartition) -> Result<(i64, i64), BrokerError> {
        self.broker.bounds(partition)
    }

    fn create_topics(&self, topics: &[TopicSpec]) -> Result<(), BrokerError> {
        self.broker.create_topics(topics)
    }

    fn topic_ids(&self, topics: &[String]) -> Result<BTreeMap<String, TopicId>, BrokerError> {
        self.broker.topic_ids(topics)
    }

    fn group(&self, group: &str) -> Result<GroupView, BrokerError> {
        self.broker.group(group)
    }

    fn topic_config(&self, topic: &str) -> Result<Vec<(String, String)>, BrokerError> {
        self.broker.topic_config(topic)
    }
}

struct Crashing<T> {
    inner: T,
    trigger: Arc<Trigger>,
}

impl Consumer for Crashing<Box<dyn Consumer>> {
    fn poll(&mut self, max: usize, timeout: Duration) -> Result<Vec<Event>, BrokerError> {
        let records = |events: &Result<Vec<Event>, BrokerError>| {
            events.as_ref().is_ok_and(|events| events.iter().any(|event| matches!(event, Event::Records { .. })))
        };
        self.trigger.step_if(Step::Read, || self.inner.poll(max, timeout), records)
    }

    fn committed(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Option<Committed>>, BrokerError> {
        self.inner.committed(partitions)
    }

    fn start(&mut self, positions: &[(TopicPartition, i64)]) -> Result<(), BrokerError> {
        self.inner.start(positions)
    }

    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), BrokerError> {
        self.inner.pause(partitions)
    }

    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), BrokerError> {
        self.inner.resume(partitions)
    }

    fn release(&mut self) -> Result<(), BrokerError> {
        self.inner.release()
    }

    fn membership(&self) -> Membership {
        self.inner.membership()
    }

    fn commit(&mut self, offsets: &[(TopicPartition, Committed)]) -> Result<(), BrokerError> {
        self.trigger.step(Step::Position, || self.inner.commit(offsets))
    }

    fn bounds(&mut self, partition: &TopicPartition) -> Result<(i64, i64), BrokerError> {
        self.inner.bounds(partition)
    }

    fn ask_ends(&mut self, partitions: &[TopicPartition]) -> Result<(), BrokerError> {
        self.inner.ask_ends(partitions)
    }
}

impl Producer for Crashing<Box<dyn Producer>> {
    fn begin(&mut self) -> Result<(), BrokerError> {
        self.inner.begin()
    }

    fn send(&mut self, record: Outgoing<'_>) -> Result<(), BrokerError> {
        self.trigger.step(Step::Send, || self.inner.send(record))
    }

    fn commit(&mut self, offsets: Vec<(TopicPartition, Committed)>, membership: Membership) -> Result<(), BrokerError> {
        self.trigger.step(Step::Commit, || self.inner.commit(offsets, membership))
    }

    fn progress(&mut self, timeout: Duration) -> Progress {
        let committed = |progress: &Progress| matches!(progress, Progress::Done(Outcome::Committed { .. }));
        self.trigger.step_if(Step::Committed, || self.inner.progress(timeout), committed)
    }

    fn abort(&mut self) -> Result<(), BrokerError> {
        self.inner.abort()
    }

    fn refused(&mut self) -> Vec<Refused> {
        self.inner.refused()
    }
}

/// A table whose callers may crash.
pub struct CrashingTarget<T> {
    pub target: T,
    pub trigger: Arc<Trigger>,
}

impl<T: Target> Target for CrashingTarget<T> {
    fn start(&mut self, block: &Block) {
        self.trigger.step(Step::Insert, || self.target.start(block));
    }

    fn ask(&mut self, range: &Range) {
        self.target.ask(range);
    }

    fn progress(&mut self, timeout: Duration) -> delivery::Progress {
        self.target.progress(timeout)
    }

    fn abandon(&mut self) {
        self.target.abandon();
    }

    fn settings(&self) -> u32 {
        self.target.settings()
    }

    fn max_insert(&self) -> i64 {
        self.target.max_insert()
    }
}

impl<T: Positioned> Positioned for CrashingTarget<T> {
    fn claim(&mut self, partition: i32, topic: Option<&TopicId>) {
        self.target.claim(partition, topic);
    }

    fn write(&mut self, block: &Block, next: Position) {
        self.trigger.step(Step::Insert, || self.target.write(block, next));
    }

    fn progress(&mut self, timeout: Duration) -> Reply {
        self.target.progress(timeout)
    }

    fn abandon(&mut self) {
        self.target.abandon();
    }
}
