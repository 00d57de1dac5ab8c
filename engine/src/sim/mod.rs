//! A Kafka in this process, with faults.
//!
//! It makes tests of the lane meaningful: transactions, fencing, group generations, rebalances, control markers and
//! compaction gaps are those of Kafka, one virtual clock drives every timeout, and one seed decides the order of whatever
//! may happen in any order. A run is a function of its seed and of the calls made.
//!
//! ```text
//! World (one lock)   topics -> logs (log.rs)      groups (group.rs)      transactions + send buffers (transaction.rs)
//! clients            consumer.rs  producer.rs  reader.rs     each call first lets the world continue (World::tick)
//! what goes wrong    faults.rs: 2x2, happened or not, reported or not
//! ```
//!
//! Simulated ([`MemoryBroker::new`], [`MemoryBroker::seeded`]) nothing ever waits: `poll` returns at once, and time
//! passes when the test says so. In real time ([`MemoryBroker::realtime`]) it serves threads, and `poll` waits.
//!
//! Honest limits: one broker that never loses anything it has acknowledged, so there is no replication to test. Members are
//! dynamic (no `group.instance.id`), rebalances eager. A late commit can not hit the next transaction of the same
//! producer (the torn transactions that KIP-890 ends). Offsets and transactional ids do not expire.

mod clock;
mod cluster;
mod consumer;
mod faults;
mod foreign;
mod group;
mod log;
mod producer;
mod readable;
mod reader;
mod shared;
#[cfg(test)]
mod tests;
mod transaction;

use std::collections::BTreeMap;
use std::sync::Arc;

use operator_core::Millis;

pub use self::clock::MemoryClock;
pub use self::cluster::Settings;
pub use self::faults::{FAULTS, Fault, Faults};
pub use self::foreign::ForeignProducer;
pub use self::log::{Header, Tombstones};

use self::cluster::{Cluster, transient};
use self::consumer::MemoryConsumer;
use self::log::Stored;
use self::producer::MemoryProducer;
use self::reader::MemoryReader;
use self::shared::Shared;
use crate::broker::{
    Broker, BrokerError, Committed, Consumer, GroupView, Producer, Reader, SystemClock, TopicId, TopicPartition, TopicSpec,
};
use crate::plan::{Catalog, Registered};

/// Wall time at which a virtual clock starts: 2026-01-01T00:00:00Z.
const EPOCH: Millis = 1_767_225_600_000;

/// A record as a test reads it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedRecord {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub timestamp: Option<Millis>,
    pub headers: Vec<Header>,
}

/// A handle to an in-memory Kafka; clones are handles to the same one.
#[derive(Clone)]
pub struct MemoryBroker {
    shared: Arc<Shared>,
    clock: Option<Arc<MemoryClock>>,
}

impl Default for MemoryBroker {
    fn default() -> MemoryBroker {
        MemoryBroker::new()
    }
}

impl MemoryBroker {
    /// Virtual time, everything at the first opportunity.
    pub fn new() -> MemoryBroker {
        MemoryBroker::with(MemoryClock::at(EPOCH), Settings::default())
    }

    /// Virtual time, a schedule drawn from `seed`.
    pub fn seeded(seed: u64) -> MemoryBroker {
        MemoryBroker::with(MemoryClock::at(EPOCH), Settings { seed: Some(seed), ..Settings::default() })
    }

    /// Virtual time on this clock.
    pub fn with(clock: Arc<MemoryClock>, settings: Settings) -> MemoryBroker {
        let cluster = Cluster::new(settings, clock.clone());
        let shared = Shared::new(cluster, false);
        MemoryBroker { shared: Arc::new(shared), clock: Some(clock) }
    }

    /// For threads, in real time: `poll` waits, and consumers that are dropped leave their group.
    pub fn realtime() -> MemoryBroker {
        let settings = Settings { session_timeout: 45_000, leave_on_drop: true, ..Settings::default() };
        let cluster = Cluster::new(settings, Arc::new(SystemClock::default()));
        let shared = Shared::new(cluster, true);
        MemoryBroker { shared: Arc::new(shared), clock: None }
    }

    /// The clock to advance; `None` in real time.
    pub fn clock(&self) -> Option<Arc<MemoryClock>> {
        self.clock.clone()
    }

    /// Creates a topic, or adds partitions to it.
    pub fn create_topic(&self, name: &str, partitions: i32) {
        self.create_topic_with(name, partitions, &[]);
    }

    /// Creates a topic with settings. `cleanup.policy`, `max.message.bytes` and
    /// `message.timestamp.after.max.ms` have an effect.
    pub fn create_topic_with(&self, name: &str, partitions: i32, config: &[(&str, &str)]) {
        let config: Vec<_> = config.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        self.shared.lock().create_topic(name, partitions, &config);
        self.shared.changed();
    }

    /// Deletes a topic with everything in it. One of the same name that is created later has another id.
    pub fn delete_topic(&self, name: &str) {
        self.shared.lock().delete_topic(name);
        self.shared.changed();
    }

    /// Deletes the positions of `group`, as their retention does.
    pub fn delete_group(&self, group: &str) {
        self.shared.lock().groups.remove(group);
    }

    /// Sets positions of `group` from outside, as tools do while it has no members.
    pub fn set_group_offsets(&self, group: &str, positions: &BTreeMap<TopicPartition, Committed>) {
        let positions: Vec<_> = positions.iter().map(|(partition, committed)| (partition.clone(), committed.clone())).collect();
        self.shared.lock().groups.entry(group.to_owned()).or_default().commit(&positions);
    }

    /// Keeps about `records` per partition of `topic`: the newest, or by compaction if it is a compacted topic.
    pub fn retain(&self, topic: &str, records: usize) {
        if let Some(topic) = self.shared.lock().topics.get_mut(topic) {
            topic.retention = Some(records);
        }
    }

    /// Appends outside any transaction and returns the offset.
    ///
    /// # Errors
    /// As a broker refuses: unknown topic or partition, too large, no key in a compacted topic.
    pub fn append(
        &self,
        topic: &str,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: Option<Millis>,
        headers: &[Header],
    ) -> Result<i64, BrokerError> {
        let record = Stored::new(key, value, timestamp, headers);
        let offset = self.shared.lock().append(&TopicPartition::new(topic, partition), None, Arc::new(record))?;
        self.shared.changed();
        Ok(offset)
    }

    /// Compacts every partition of `topic` up to its last stable offset, leaving gaps.
    pub fn compact(&self, topic: &str, tombstones: Tombstones) {
        if let Some(topic) = self.shared.lock().topics.get_mut(topic) {
            topic.partitions.iter_mut().for_each(|log| log.compact(tombstones));
        }
    }

    /// Deletes the records below `offset`, as retention does.
    pub fn delete_before(&self, topic: &str, partition: i32, offset: i64) {
        if let Some(log) = self.shared.lock().log_mut(&TopicPartition::new(topic, partition)) {
            log.delete_before(offset);
        }
    }

    /// Positions committed by `group`.
    pub fn group_offsets(&self, group: &str) -> BTreeMap<TopicPartition, Committed> {
        self.shared.lock().groups.get(group).map(group::Group::all_committed).unwrap_or_default()
    }

    /// Instances that `group` counts as members, the dead it has not noticed included.
    pub fn members(&self, group: &str) -> Vec<String> {
        let cluster = self.shared.lock();
        let members = cluster.groups.get(group).map(|group| &group.members);
        members.into_iter().flatten().map(|(_, member)| member.instance.clone()).collect()
    }

    /// Expires the members of `group` with this instance name, as the session timeout does.
    pub fn expire(&self, group: &str, instance: &str) {
        self.expire_where(|name, member| name == group && member.instance == instance);
    }

    /// Expires all members whose consumers were dropped.
    pub fn expire_dropped(&self) {
        self.expire_where(|_, member| !member.alive);
    }

    fn expire_where(&self, expired: impl Fn(&str, &group::Member) -> bool) {
        let mut cluster = self.shared.lock();
        for (name, group) in &mut cluster.groups {
            let gone = group.members.iter().filter(|(_, member)| expired(name, member));
            for id in gone.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
                group.remove(&id);
            }
        }
        cluster.complete_rounds();
        self.shared.changed();
    }

    /// Lets everything arrive that is in flight: markers of decided transactions, late commits, ends of what timed out.
    pub fn settle(&self) {
        let mut cluster = self.shared.lock();
        cluster.tick();
        cluster.deliver_late(true);
        cluster.complete_all();
        self.shared.changed();
    }

    /// Replaces the plan of faults.
    pub fn set_faults(&self, faults: Faults) {
        self.shared.lock().faults = faults;
    }

    /// Lets `fault` happen once, after `skip` occasions at which it could have.
    pub fn inject(&self, skip: u32, fault: Fault) {
        self.shared.lock().faults.script(skip, fault);
    }

    /// Ends all faults.
    pub fn heal(&self) {
        self.shared.lock().faults.heal();
    }

    /// How often each fault has happened.
    pub fn faults_happened(&self) -> BTreeMap<Fault, u64> {
        self.shared.lock().faults.happened().clone()
    }
}

/// The topics of a broker, for plans; there is no schema registry.
pub struct BrokerCatalog<'a>(pub &'a MemoryBroker);

impl Catalog for BrokerCatalog<'_> {
    fn subject(&self, _: &str) -> Result<Option<Registered>, String> {
        Ok(None)
    }

    fn partitions(&self, topic: &str) -> Result<Option<i32>, String> {
        self.0.partitions(topic).map_err(|e| e.to_string())
    }

    fn topics(&self) -> Result<Vec<String>, String> {
        self.0.topics().map_err(|e| e.to_string())
    }
}

impl Broker for MemoryBroker {
    fn consumer(&self, group: &str, instance: &str, topics: &[String]) -> Result<Box<dyn Consumer>, BrokerError> {
        let mut cluster = self.shared.lock();
        cluster.tick();
        let consumer = MemoryConsumer::new(self.shared.clone(), &mut cluster, group, instance, topics);
        self.shared.changed();
        Ok(Box::new(consumer))
    }

    fn producer(&self, transactional_id: Option<&str>) -> Result<Box<dyn Producer>, BrokerError> {
        let mut cluster = self.shared.lock();
        cluster.tick();
        if cluster.faults.strike(&[Fault::InitFails]).is_some() {
            return Err(transient("init transactions"));
        }
        let producer = MemoryProducer::new(self.shared.clone(), &mut cluster, transactional_id);
        self.shared.changed();
        Ok(Box::new(producer))
    }

    fn reader(&self, from: &[(TopicPartition, i64)]) -> Result<Box<dyn Reader>, BrokerError> {
        Ok(Box::new(MemoryReader::new(self.shared.clone(), from)))
    }

    fn partitions(&self, topic: &str) -> Result<Option<i32>, BrokerError> {
        Ok(self.shared.lock().topics.get(topic).map(|topic| topic.partitions.len() as i32))
    }

    fn topics(&self) -> Result<Vec<String>, BrokerError> {
        Ok(self.shared.lock().topics.keys().map(|name| name.to_string()).collect())
    }

    fn bounds(&self, partition: &TopicPartition) -> Result<(i64, i64), BrokerError> {
        let mut cluster = self.shared.lock();
        cluster.tick();
        match cluster.faults.strike(&[Fault::BoundsFails]) {
            Some(_) => Err(transient("bounds")),
            None => cluster.bounds(partition),
        }
    }

    fn create_topics(&self, topics: &[TopicSpec]) -> Result<(), BrokerError> {
        let mut cluster = self.shared.lock();
        for topic in topics {
            if topic.partitions < 1 {
                let message = format!("topic {:?}: {} partitions; it needs at least 1", topic.name, topic.partitions);
                return Err(BrokerError::fatal(message));
            }
            if !cluster.topics.contains_key(topic.name.as_str()) {
                cluster.create_topic(&topic.name, topic.partitions, &topic.config);
            }
        }
        self.shared.changed();
        Ok(())
    }

    fn topic_ids(&self, topics: &[String]) -> Result<BTreeMap<String, TopicId>, BrokerError> {
        let cluster = self.shared.lock();
        let id = |name: &String| Some((name.clone(), TopicId(cluster.topics.get(name.as_str())?.id.to_string())));
        Ok(topics.iter().filter_map(id).collect())
    }

    fn group(&self, group: &str) -> Result<GroupView, BrokerError> {
        let mut cluster = self.shared.lock();
        cluster.tick();
        let view = |group: &group::Group| GroupView { members: group.members.len(), committed: group.all_committed() };
        Ok(cluster.groups.get(group).map(view).unwrap_or_default())
    }

    fn topic_config(&self, topic: &str) -> Result<Vec<(String, String)>, BrokerError> {
        let cluster = self.shared.lock();
        let config = cluster.topics.get(topic).map(|topic| &topic.config);
        Ok(config.into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}
