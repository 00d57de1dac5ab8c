//! Everything the brokers know, behind one lock: topics, groups, transactions, and what is still in flight.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use operator_core::Millis;

use super::faults::{Faults, Schedule};
use super::group::Group;
use super::log::{Log, Stored};
use super::transaction::{Buffer, Completion, Late, Registered};
use crate::broker::{BrokerError, Clock, Failure, TopicPartition, is_compacted};

/// How the in-memory world behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Seed of the schedule: sends, acknowledgements, markers and fetches come late, in pieces and in odd orders.
    /// `None`: everything at the first opportunity.
    pub seed: Option<u64>,
    /// A member not heard of for this long is expired (`session.timeout.ms`).
    pub session_timeout: Millis,
    /// A transaction open for longer is aborted and its producer fenced (`transaction.timeout.ms`).
    pub transaction_timeout: Millis,
    /// The client refuses to commit as a member that doesn't fence (see [`crate::broker::Membership::is_fencing`]).
    /// Off, the hole is open as it is in a plain client: to show that a simulation finds it.
    pub guard_membership: bool,
    /// Records stamped further ahead of the wall clock are refused where the topic doesn't say otherwise. Kafka does so at one
    /// hour (`message.timestamp.after.max.ms`, KIP-1030); `None` here, since virtual clocks seldom fit a test's data.
    pub timestamp_after_max: Option<Millis>,
    /// A consumer that is dropped leaves its group, as a client that is closed does. Off, it dies silently.
    pub leave_on_drop: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            seed: None,
            session_timeout: 10_000,
            transaction_timeout: 30_000,
            guard_membership: true,
            timestamp_after_max: None,
            leave_on_drop: false,
        }
    }
}

/// Kafka's default for `max.message.bytes`.
const MAX_MESSAGE_BYTES: usize = 1_048_588;

#[derive(Default)]
pub(super) struct Topic {
    /// Tells it from an earlier topic of the same name.
    pub id: u64,
    pub partitions: Vec<Log>,
    pub config: BTreeMap<String, String>,
    /// Records to keep per partition, about.
    pub retention: Option<usize>,
}

impl Topic {
    pub fn compacted(&self) -> bool {
        is_compacted(&self.config)
    }

    fn setting<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        self.config.get(key).and_then(|value| value.parse().ok())
    }

    /// What a broker whose clock shows `wall` refuses to append.
    pub fn check(&self, record: &Stored, wall: Millis, after_max: Option<Millis>) -> Result<(), String> {
        let after_max = self.setting("message.timestamp.after.max.ms").or(after_max);
        if let (Some(timestamp), Some(after_max)) = (record.timestamp, after_max)
            && timestamp.saturating_sub(wall) > after_max
        {
            return Err(format!("invalid timestamp {timestamp}: more than {after_max} ms ahead"));
        }
        let limit = self.setting("max.message.bytes").unwrap_or(MAX_MESSAGE_BYTES);
        if record.size() > limit {
            return Err(format!("message too large: {} bytes, max.message.bytes is {limit}", record.size()));
        }
        if record.key.is_none() && self.compacted() {
            return Err("invalid record: a compacted topic cannot accept a message without key".to_owned());
        }
        Ok(())
    }

    pub fn log(&self, partition: i32) -> Option<&Log> {
        self.partitions.get(usize::try_from(partition).ok()?)
    }

    pub fn log_mut(&mut self, partition: i32) -> Option<&mut Log> {
        self.partitions.get_mut(usize::try_from(partition).ok()?)
    }
}

pub(super) struct Cluster {
    pub topics: BTreeMap<Arc<str>, Topic>,
    /// Partitions whose leader answers no reads.
    pub unreachable: BTreeSet<TopicPartition>,
    /// Questions for high watermarks so far.
    pub questions: u64,
    pub groups: BTreeMap<String, Group>,
    pub producers: BTreeMap<String, Registered>,
    /// What clients have taken from the application and not sent yet, by client.
    pub buffers: BTreeMap<u64, Buffer>,
    /// Transactions decided whose markers are not all written yet.
    pub completions: Vec<Completion>,
    /// Ends of transactions that are still in flight to the coordinator.
    pub late: VecDeque<Late>,
    pub schedule: Schedule,
    pub faults: Faults,
    pub settings: Settings,
    pub clock: Arc<dyn Clock>,
    numbers: u64,
}

impl Cluster {
    pub fn new(settings: Settings, clock: Arc<dyn Clock>) -> Cluster {
        Cluster {
            topics: BTreeMap::new(),
            unreachable: BTreeSet::new(),
            questions: 0,
            groups: BTreeMap::new(),
            producers: BTreeMap::new(),
            buffers: BTreeMap::new(),
            completions: Vec::new(),
            late: VecDeque::new(),
            schedule: Schedule::new(settings.seed),
            faults: Faults::none(),
            settings,
            clock,
            numbers: 0,
        }
    }

    /// A number never used before.
    pub fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// What continues by itself: called at the start of every call of a client.
    pub fn tick(&mut self) {
        let now = self.clock.monotonic();
        self.expire_transactions(now);
        if !self.schedule.prompt() {
            self.deliver_late(false);
        }
        self.complete_some();
        self.send_some();
        let limit = now - self.settings.session_timeout;
        for group in self.groups.values_mut() {
            group.expire_older_than(limit);
        }
        self.complete_rounds();
    }

    /// Ends the rebalances that everyone has joined.
    pub fn complete_rounds(&mut self) {
        let topics = &self.topics;
        let partitions = |topic: &str| topics.get(topic).map_or(0, |topic| topic.partitions.len() as i32);
        for group in self.groups.values_mut() {
            group.complete(&partitions);
        }
    }

    /// Creates or enlarges a topic. Groups that subscribe to it rebalance.
    pub fn create_topic(&mut self, name: &str, partitions: i32, config: &[(String, String)]) {
        let id = self.number();
        let topic = self.topics.entry(Arc::from(name)).or_insert_with(|| Topic { id, ..Topic::default() });
        let wanted = usize::try_from(partitions).unwrap_or(0);
        if topic.partitions.len() >= wanted {
            return;
        }
        topic.config.extend(config.iter().cloned());
        topic.partitions.resize_with(wanted, Log::default);
        for group in self.groups.values_mut() {
            if group.members.values().any(|member| member.topics.iter().any(|topic| topic == name)) {
                group.prepare();
            }
        }
        self.complete_rounds();
    }

    /// Deletes a topic. As in Kafka, groups lose their positions in it, and those that subscribe to it rebalance.
    pub fn delete_topic(&mut self, name: &str) {
        if self.topics.remove(name).is_none() {
            return;
        }
        for group in self.groups.values_mut() {
            group.forget(name);
            if group.members.values().any(|member| member.topics.iter().any(|topic| topic == name)) {
                group.prepare();
            }
        }
        self.complete_rounds();
    }

    pub fn log(&self, partition: &TopicPartition) -> Option<&Log> {
        self.topics.get(&partition.topic)?.log(partition.partition)
    }

    pub fn log_mut(&mut self, partition: &TopicPartition) -> Option<&mut Log> {
        self.topics.get_mut(&partition.topic)?.log_mut(partition.partition)
    }

    /// Appends outside or inside a transaction, checking what a broker checks.
    pub fn append(&mut self, partition: &TopicPartition, transaction: Option<u64>, record: Arc<Stored>) -> Result<i64, BrokerError> {
        let failed = |failure: Failure, why: &str| BrokerError::new(failure, format!("{partition}: {why}"));
        let unknown = || failed(Failure::AbortTransaction, "unknown topic or partition");
        let topic = self.topics.get_mut(&partition.topic).ok_or_else(unknown)?;
        let (wall, after_max) = (self.clock.wall(), self.settings.timestamp_after_max);
        topic.check(&record, wall, after_max).map_err(|why| failed(Failure::Refused, &why))?;
        let (retention, compacted) = (topic.retention, topic.compacted());
        let log = topic.log_mut(partition.partition).ok_or_else(unknown)?;
        let offset = log.append(transaction, record);
        if let Some(limit) = retention {
            log.retain(limit, compacted);
        }
        Ok(offset)
    }

    /// Low and high watermark.
    pub fn bounds(&self, partition: &TopicPartition) -> Result<(i64, i64), BrokerError> {
        let log = self.log(partition).ok_or_else(|| unknown_partition(partition))?;
        if self.unreachable.contains(partition) {
            return Err(transient("bounds"));
        }
        Ok(log.bounds())
    }

    /// The high watermarks of those whose leader answers.
    pub fn ends(&self, partitions: &[TopicPartition]) -> Vec<(TopicPartition, i64)> {
        partitions.iter().filter_map(|partition| Some((partition.clone(), self.bounds(partition).ok()?.1))).collect()
    }
}

pub(super) fn unknown_partition(partition: &TopicPartition) -> BrokerError {
    BrokerError::fatal(format!("{partition}: no such partition; create the topic first"))
}

pub(super) fn transient(what: &str) -> BrokerError {
    BrokerError::new(Failure::Transient, format!("{what}: injected fault"))
}
