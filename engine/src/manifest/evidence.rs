//! The content of topics, as far as a start needs it: whether there is a record at all.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::broker::{Broker, BrokerError, Event, Failure, GroupView, TopicPartition};

/// Polls that may bring nothing before the answer counts as late. Where time is virtual a poll takes none.
const PATIENCE: u32 = 300;
const POLL: Duration = Duration::from_millis(100);

/// Which records count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Counts {
    /// All of a topic that others write. Partitions without a position are not read.
    All,
    /// Those with a value in a topic of the pipeline's own: neither tombstones nor watermarks. Nothing was read of a partition without a
    /// position.
    WithValue,
}

/// Whether a changelog holds entries.
pub fn has_entries(broker: &dyn Broker, topic: &str) -> Result<bool, BrokerError> {
    let partitions = broker.partitions(topic)?.unwrap_or(0);
    let from = (0..partitions).map(|p| (TopicPartition::new(topic, p), 0)).collect();
    Ok(first_record(broker, from, Counts::WithValue)?.is_some())
}

/// A partition of `topic` that has committed records which the group has not read.
pub fn unread(broker: &dyn Broker, topic: &str, group: &GroupView, counts: Counts) -> Result<Option<TopicPartition>, BrokerError> {
    let partitions = broker.partitions(topic)?.unwrap_or(0);
    let position = |partition| {
        let tp = TopicPartition::new(topic, partition);
        let read = group.committed.get(&tp).map(|at| at.offset);
        read.or((counts == Counts::WithValue).then_some(0)).map(|offset| (tp, offset))
    };
    first_record(broker, (0..partitions).filter_map(position).collect(), counts)
}

/// The partition of the first record found from these offsets on, up to where each log ends now.
fn first_record(broker: &dyn Broker, from: Vec<(TopicPartition, i64)>, counts: Counts) -> Result<Option<TopicPartition>, BrokerError> {
    let (mut open, mut start) = (BTreeSet::new(), Vec::new());
    for (partition, offset) in from {
        let (low, high) = broker.bounds(&partition)?;
        let offset = offset.max(low);
        if offset < high {
            open.insert(partition.clone());
            start.push((partition, offset));
        }
    }
    if open.is_empty() {
        return Ok(None);
    }
    let mut reader = broker.reader(&start)?;
    let mut patience = PATIENCE;
    while !open.is_empty() {
        let events = reader.poll(1_000, POLL)?;
        if events.is_empty() {
            patience -= 1;
            if patience == 0 {
                let open: Vec<String> = open.iter().map(TopicPartition::to_string).collect();
                return Err(BrokerError::new(Failure::Transient, format!("{} can't be read", open.join(", "))));
            }
        }
        for event in events {
            match event {
                Event::Records { partition, records } => {
                    let counted = |index| counts == Counts::All || records.get(index).value.is_some();
                    if (0..records.len()).any(counted) {
                        return Ok(Some(partition));
                    }
                }
                Event::End { partition, .. } => {
                    open.remove(&partition);
                }
                Event::Ends(_) | Event::Assigned(_) | Event::Revoked { .. } => {}
            }
        }
    }
    Ok(None)
}
