//! Writes records of a simulator, and returns when they are acknowledged.

use std::collections::BTreeMap;
use std::sync::Arc;

use headwater_engine::broker::{Broker, BrokerError, Outgoing, Producer, TopicSpec};
use headwater_formats::partition;
use headwater_generate::simulate::Record;

use crate::cli::acknowledged;
use crate::diagnose::Problem;

/// See the module text.
pub(super) struct Writer {
    producer: Box<dyn Producer>,
    /// The topics, and their partitions.
    topics: BTreeMap<&'static str, (Arc<str>, i32)>,
}

pub(super) fn failed(e: &BrokerError) -> Problem {
    Problem::of_broker(e)
}

/// The number of partitions of each of these topics, which are created where they are missing.
pub(super) fn prepare(
    broker: &dyn Broker,
    topics: &[&'static str],
    partitions: i32,
) -> Result<BTreeMap<&'static str, (Arc<str>, i32)>, Problem> {
    let spec = |name: &&str| TopicSpec { name: (*name).to_string(), partitions, replication: None, config: Vec::new() };
    let mut found = BTreeMap::new();
    for topic in topics {
        if broker.partitions(topic).map_err(|e| failed(&e))?.is_none() {
            broker.create_topics(&[spec(topic)]).map_err(|e| failed(&e))?;
        }
        let partitions = broker.partitions(topic).map_err(|e| failed(&e))?;
        let partitions = partitions.ok_or_else(|| Problem::plain(format!("the topic `{topic}` can't be created")))?;
        found.insert(*topic, ((*topic).into(), partitions));
    }
    Ok(found)
}

impl Writer {
    /// Writes to these topics, which are created where they are missing.
    pub(super) fn open(broker: &dyn Broker, topics: &[&'static str], partitions: i32) -> Result<Writer, Problem> {
        let topics = prepare(broker, topics, partitions)?;
        Ok(Writer { producer: broker.producer(None).map_err(|e| failed(&e))?, topics })
    }

    /// Writes records, each to the partition of its key, in their order.
    ///
    /// # Errors
    /// Not all of them are acknowledged: some may be written.
    pub(super) fn write<'a>(&mut self, records: impl IntoIterator<Item = &'a Record>) -> Result<(), Problem> {
        let outgoing = records.into_iter().filter_map(|record| {
            let (topic, partitions) = self.topics.get(record.topic)?;
            Some(Outgoing {
                topic,
                partition: partition(record.key.as_bytes(), *partitions),
                timestamp: Some(record.timestamp_ms),
                key: Some(record.key.as_bytes()),
                value: Some(&record.value),
                headers: &[],
                tag: None,
            })
        });
        acknowledged::write(self.producer.as_mut(), outgoing)
    }
}
