//! The seam to the log: the part of Kafka that the engine needs (rule R5).
//!
//! Two implementations exist: `kafka/src` over librdkafka, and [`crate::sim`] in this process, with faults. Both pass
//! the contract suite in [`crate::contract`]. All calls are made from the one thread of their lane and return quickly:
//! the two that wait for the network, ending a transaction and reading on, are started and then polled.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use operator_core::Millis;
use serde::{Deserialize, Serialize};

use crate::printable::printable;

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    pub topic: Arc<str>,
    pub partition: i32,
}

impl TopicPartition {
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> TopicPartition {
        TopicPartition { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// A record as the broker has it. Borrowed: the bytes live in the client's fetch buffer.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    pub offset: i64,
    /// `None` where the record has no timestamp (-1 on the wire).
    pub timestamp: Option<Millis>,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
}

/// Consecutive records of one partition, in offset order (with gaps where compaction or aborts left them).
pub trait RecordSet: Send {
    fn len(&self) -> usize;
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The record at `index < len()`.
    fn get(&self, index: usize) -> Record<'_>;
    /// Visits the headers of the record at `index` in order. Names are bytes: they need not be UTF-8
    /// (a header name that isn't is a panic in rdkafka's own accessor).
    fn headers(&self, index: usize, visit: &mut dyn FnMut(&[u8], Option<&[u8]>));
}

/// What a consumer has to say, in order.
pub enum Event {
    /// Partitions were given to this member; none, where there are more members than partitions. They deliver nothing until [`Consumer::start`] says from where.
    Assigned(Vec<TopicPartition>),
    /// Partitions are about to go (all of this member's: assignment is eager). The lane settles its transaction and
    /// then calls [`Consumer::release`]; until then the group waits for it. `lost`: they are gone already, so that
    /// nothing may be committed for them any more.
    Revoked {
        partitions: Vec<TopicPartition>,
        lost: bool,
    },
    Records {
        partition: TopicPartition,
        records: Box<dyn RecordSet>,
    },
    /// Everything readable was delivered: the position is `offset`, the last stable offset.
    End {
        partition: TopicPartition,
        offset: i64,
    },
    /// The answer to [`Consumer::ask_ends`]: the high watermarks of the partitions whose leaders answered.
    Ends(Vec<(TopicPartition, i64)>),
}

/// A committed position of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The next offset to read.
    pub offset: i64,
    /// What was written beside it: ASCII, at most [`MAX_METADATA`] bytes.
    pub metadata: String,
}

/// Brokers refuse longer offset metadata (`offset.metadata.max.bytes` is 4096 by default).
pub const MAX_METADATA: usize = 4000;

/// Who the consumer is in its group at this moment: what fences a transaction (KIP-447). Read again for every commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    pub group: String,
    pub generation: i32,
    pub member: String,
    pub instance: Option<String>,
}

impl Membership {
    /// Brokers accept a transactional offset commit with a negative generation and an empty member id from anyone
    /// (KAFKA-9365), and clients hand out just that before a join completes. Such a commit is not fenced: never send it.
    pub fn is_fencing(&self) -> bool {
        self.generation >= 0 && !self.member.is_empty()
    }
}

/// A group as others see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupView {
    /// Members at this moment, the dead included whose session has not timed out.
    pub members: usize,
    pub committed: BTreeMap<TopicPartition, Committed>,
}

/// Distinguishes a topic from an earlier one of the same name: a recreated topic gets another id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicId(pub String);

/// A member of a consumer group that reads committed records.
pub trait Consumer: Send {
    /// What happened, waiting up to `timeout` for something. At most about `max` records in all.
    fn poll(&mut self, max: usize, timeout: Duration) -> Result<Vec<Event>, BrokerError>;
    /// Positions committed by the group, in the order asked; `None` where nothing is committed. Waits for transactions that
    /// are still being completed.
    fn committed(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Option<Committed>>, BrokerError>;
    /// Starts or restarts delivery of assigned partitions at these offsets; records delivered earlier and not yet
    /// polled are dropped.
    fn start(&mut self, positions: &[(TopicPartition, i64)]) -> Result<(), BrokerError>;
    /// Stops delivery until [`Consumer::resume`]; the member stays in the group.
    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), BrokerError>;
    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), BrokerError>;
    /// Lets revoked partitions go, after [`Event::Revoked`].
    fn release(&mut self) -> Result<(), BrokerError>;
    fn membership(&self) -> Membership;
    /// Commits positions outside any transaction and waits for the answer: sinks that are not Kafka, and
    /// `guarantee: at_least_once`.
    fn commit(&mut self, offsets: &[(TopicPartition, Committed)]) -> Result<(), BrokerError>;
    /// First and next offset of a partition (low and high watermark).
    fn bounds(&mut self, partition: &TopicPartition) -> Result<(i64, i64), BrokerError>;
    /// Asks the leaders of these partitions for their high watermarks and returns at once. Every question is answered by one
    /// [`Event::Ends`], in the order asked; a partition whose leader doesn't answer within seconds is missing there. The
    /// watermarks are those of some moment after the question.
    fn ask_ends(&mut self, partitions: &[TopicPartition]) -> Result<(), BrokerError>;
}

/// A record to be written.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    pub topic: &'a Arc<str>,
    pub partition: i32,
    pub timestamp: Option<Millis>,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: &'a [(&'a [u8], Option<&'a [u8]>)],
    /// It is a change of state: without transactions it is sent once every record without a tag is acknowledged, and not at all if one
    /// of those fails, so that state is never ahead of what came from it. The offset it was written to is reported per tag (the highest)
    /// in [`Outcome::Committed`].
    pub tag: Option<u32>,
}

impl Outgoing<'_> {
    /// Tells this record from others within a process: two with the same fingerprint are the same record, tags aside.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        // Clients move timestamps before the first millisecond of 1970 there, and tell the time or the tag of a failed record.
        let timestamp = self.timestamp.filter(|_| self.tag.is_none()).map(|at| at.max(1));
        (self.topic, self.partition, timestamp, self.key, self.value, self.headers).hash(&mut hasher);
        hasher.finish()
    }
}

/// A record that the brokers refuse for what it is (KIP-467): it is too large, has no key for a compacted topic, or a timestamp
/// outside the topic's limits. Sent again, it is refused again, and its transaction with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// [`Outgoing::fingerprint`].
    pub record: u64,
    /// Where it was to go, and the brokers' words.
    pub cause: String,
}

/// How the end of a transaction turned out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is committed. The highest offset written for each tag used in it.
    Committed { tags: Vec<(u32, i64)> },
    /// It is not committed and never will be; the producer may begin another one.
    Aborted(String),
    /// Another member or producer has taken over: stop writing for these partitions.
    Fenced(String),
    /// Unknown: the reply was lost. Only a new producer with the same id (whose start settles the old
    /// transaction one way or the other) and the group's committed offsets tell.
    Unknown(String),
}

/// Where the end of a transaction stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Records are still in flight.
    Sending,
    /// Every record is acknowledged (and ordered before whatever is sent from now on); the commit is in progress.
    Acknowledged,
    Done(Outcome),
}

/// A transactional producer (or a plain idempotent one for `guarantee: at_least_once`).
pub trait Producer: Send {
    fn begin(&mut self) -> Result<(), BrokerError>;
    /// Hands a record over; waits while the client's buffer is full (back-pressure).
    fn send(&mut self, record: Outgoing<'_>) -> Result<(), BrokerError>;
    /// Starts to end the transaction: waits for all acknowledgements, adds the positions as `membership`, commits.
    /// Returns at once; [`Producer::progress`] returns the progress.
    fn commit(&mut self, offsets: Vec<(TopicPartition, Committed)>, membership: Membership) -> Result<(), BrokerError>;
    /// How the commit goes, waiting up to `timeout` for a change.
    fn progress(&mut self, timeout: Duration) -> Progress;
    /// Aborts the open transaction and waits for it. An error means: throw the producer away.
    fn abort(&mut self) -> Result<(), BrokerError>;
    /// After a transaction that failed: the records that the brokers refused because of their content, each returned once. There may be
    /// others, which were not judged yet. None is named where the brokers refuse a batch as a whole; the producer then sends
    /// smaller ones in the next transactions, until the record stands alone.
    fn refused(&mut self) -> Vec<Refused>;
}

/// Reads partitions without a group: changelogs, tables, bounded re-reads. Committed records only.
pub trait Reader: Send {
    /// What happened: [`Event::Records`] and [`Event::End`] only.
    fn poll(&mut self, max: usize, timeout: Duration) -> Result<Vec<Event>, BrokerError>;
}

/// A topic to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    pub name: String,
    pub partitions: i32,
    /// `None`: the broker's default.
    pub replication: Option<i32>,
    pub config: Vec<(String, String)>,
}

/// Whether a topic with these settings is compacted: it then takes no record without a key.
pub fn is_compacted<'a>(config: impl IntoIterator<Item = (&'a String, &'a String)>) -> bool {
    let policy = config.into_iter().find(|(name, _)| *name == "cleanup.policy");
    policy.is_some_and(|(_, policy)| policy.split(',').any(|p| p.trim() == "compact"))
}

/// The log as a whole. Shared by all lanes of a worker.
pub trait Broker: Send + Sync {
    /// Joins `group` and subscribes to `topics`. `instance`: a stable name of this lane, for logs and fencing.
    fn consumer(&self, group: &str, instance: &str, topics: &[String]) -> Result<Box<dyn Consumer>, BrokerError>;
    /// A producer whose start has settled whatever an earlier one with this id left open. `None`: not transactional.
    fn producer(&self, transactional_id: Option<&str>) -> Result<Box<dyn Producer>, BrokerError>;
    /// Reads from the given offsets on.
    fn reader(&self, from: &[(TopicPartition, i64)]) -> Result<Box<dyn Reader>, BrokerError>;
    /// Number of partitions; `None` if the topic doesn't exist.
    fn partitions(&self, topic: &str) -> Result<Option<i32>, BrokerError>;
    /// Names of all topics, for patterns.
    fn topics(&self) -> Result<Vec<String>, BrokerError>;
    /// First and next offset of a partition (low and high watermark).
    fn bounds(&self, partition: &TopicPartition) -> Result<(i64, i64), BrokerError>;
    /// Creates the topics that don't exist yet; waits until they can be used.
    fn create_topics(&self, topics: &[TopicSpec]) -> Result<(), BrokerError>;
    /// The ids of these topics. Those that don't exist are left out, and so are all where brokers have no ids (before
    /// Kafka 2.8).
    fn topic_ids(&self, topics: &[String]) -> Result<BTreeMap<String, TopicId>, BrokerError>;
    /// A group from outside; one that doesn't exist has no members and no positions.
    fn group(&self, group: &str) -> Result<GroupView, BrokerError>;
    /// Settings of a topic, to check internal topics at start; empty where the broker doesn't tell.
    fn topic_config(&self, topic: &str) -> Result<Vec<(String, String)>, BrokerError>;
}

/// What kind of failure, so that the caller knows what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The same call may succeed later: brokers away, not coordinator, timeout.
    Transient,
    /// The transaction must be aborted; the producer lives on.
    AbortTransaction,
    /// A record was refused for what it is: the transaction must be aborted, and repeated without it. [`Producer::refused`].
    Refused,
    /// Another producer or member took over.
    Fenced,
    /// A position that is not in the log any more (retention, a recreated topic): the worker stops, an operator decides.
    OutOfRange,
    /// The client instance is broken or the request can never succeed.
    Fatal,
}

/// A call to the log that failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct BrokerError {
    pub failure: Failure,
    pub message: String,
}

/// Longest message of a broker that is kept, bytes.
const MAX_MESSAGE: usize = 2_000;

impl BrokerError {
    /// `message` may repeat what brokers say, and is made [`printable`].
    pub fn new(failure: Failure, message: impl AsRef<str>) -> BrokerError {
        BrokerError { failure, message: printable(message.as_ref(), MAX_MESSAGE) }
    }

    pub fn fatal(message: impl AsRef<str>) -> BrokerError {
        BrokerError::new(Failure::Fatal, message)
    }
}

/// Time from outside. The engine reads no clock but this one.
pub trait Clock: Send + Sync {
    /// Wall clock in milliseconds since the Unix epoch.
    fn wall(&self) -> Millis;
    /// Milliseconds from some fixed point, never backwards: for intervals.
    fn monotonic(&self) -> Millis;
    /// Monotonic time by which the silence of a partition is measured: the same, but where work is to take no time.
    fn silence(&self) -> Millis {
        self.monotonic()
    }
}

/// The clock of the machine.
pub struct SystemClock(std::time::Instant);

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock(std::time::Instant::now())
    }
}

impl Clock for SystemClock {
    fn wall(&self) -> Millis {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as Millis)
    }

    fn monotonic(&self) -> Millis {
        self.0.elapsed().as_millis() as Millis
    }
}
