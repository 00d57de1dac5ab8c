//! What can be read of the log: a test decides it, and looks at it.

use std::sync::Arc;

use super::{CommittedRecord, MemoryBroker, cluster, log};
use crate::broker::TopicPartition;

impl MemoryBroker {
    /// Makes a partition unreadable or readable again: its leader can't be reached. Writing is not affected.
    pub fn set_reachable(&self, topic: &str, partition: i32, reachable: bool) {
        let (partition, unreachable) = (TopicPartition::new(topic, partition), &mut self.shared.lock().unreachable);
        if reachable {
            unreachable.remove(&partition)
        } else {
            unreachable.insert(partition)
        };
        self.shared.changed();
    }

    /// Lets consumers read only what comes before offset `from` of a partition, as if a transaction were open there; `None`: everything.
    pub fn hold(&self, topic: &str, partition: i32, from: Option<i64>) {
        if let Some(log) = self.shared.lock().log_mut(&TopicPartition::new(topic, partition)) {
            log.hold(from);
        }
        self.shared.changed();
    }

    /// How often consumers have asked for high watermarks so far.
    pub fn questions(&self) -> u64 {
        self.shared.lock().questions
    }

    /// What a `read_committed` reader would see of `topic` now, by partition and offset.
    pub fn read_all_committed(&self, topic: &str) -> Vec<CommittedRecord> {
        let cluster = self.shared.lock();
        let logs = cluster.topics.get(topic).map_or(&[][..], |topic| topic.partitions.as_slice());
        let read = |(partition, log): (usize, &log::Log)| {
            let (records, _) = log.read(log.bounds().0, usize::MAX);
            records.0.into_iter().map(move |(offset, record)| CommittedRecord {
                partition: partition as i32,
                offset,
                key: record.key.clone(),
                value: record.value.clone(),
                timestamp: record.timestamp,
                headers: record.headers.clone(),
            })
        };
        logs.iter().enumerate().flat_map(read).collect()
    }

    /// The first offset that is not readable yet.
    pub fn last_stable_offset(&self, topic: &str, partition: i32) -> Option<i64> {
        self.shared.lock().log(&TopicPartition::new(topic, partition)).map(log::Log::stable)
    }

    /// Partitions with an open transaction, or one whose marker is in flight: what is behind it can't be read yet.
    pub fn open_transactions(&self) -> Vec<TopicPartition> {
        let cluster = self.shared.lock();
        let open = |name: &Arc<str>, topic: &cluster::Topic| {
            let partitions = topic.partitions.iter().enumerate().filter(|(_, log)| log.stable() < log.bounds().1);
            partitions.map(|(partition, _)| TopicPartition::new(name.clone(), partition as i32)).collect::<Vec<_>>()
        };
        cluster.topics.iter().flat_map(|(name, topic)| open(name, topic)).collect()
    }

    /// Whether a committed record stands at `offset` or behind it.
    pub fn has_committed(&self, topic: &str, partition: i32, offset: i64) -> bool {
        let cluster = self.shared.lock();
        let log = cluster.log(&TopicPartition::new(topic, partition));
        log.is_some_and(|log| !log.read(offset.max(log.bounds().0), 1).0.0.is_empty())
    }
}
