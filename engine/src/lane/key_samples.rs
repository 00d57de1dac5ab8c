//! The newest keys of sources, compared with their partitions before a worker starts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::keys::KeyCheck;
use crate::broker::{Broker, BrokerError, Event, TopicPartition};
use crate::plan::{InputKind, Plan};

/// Newest records of a partition that [`sample_keys`] reads, and how long it waits for them.
const SAMPLED: i64 = 500;
const POLLS: usize = 100;
const POLL: Duration = Duration::from_millis(100);

/// What [`sample_keys`] found in a topic: how many keys are in their partition, or why a worker would stop.
pub type Sampled = (Arc<str>, Result<usize, String>);

/// Compares the newest keys of the sources that steps rely on with their partitions, before a worker starts. Values are
/// not read, so whether a key is its column is left to the worker.
///
/// # Errors
/// The log can't be read.
pub fn sample_keys(plan: &Plan, broker: &dyn Broker) -> Result<Vec<Sampled>, BrokerError> {
    let mut sampled = Vec::new();
    for input in plan.stages.iter().flat_map(|stage| &stage.inputs) {
        let InputKind::Source(decode) = &input.kind else { continue };
        for topic in &input.topics {
            if let Some(check) = KeyCheck::new(input, decode, topic) {
                sampled.push((topic.name.clone(), check.sample(&topic.name, broker)?));
            }
        }
    }
    Ok(sampled)
}

impl KeyCheck {
    fn sample(&self, topic: &Arc<str>, broker: &dyn Broker) -> Result<Result<usize, String>, BrokerError> {
        let mut open = BTreeMap::new();
        for partition in (0..self.partitions).map(|number| TopicPartition::new(topic.clone(), number)) {
            let (low, high) = broker.bounds(&partition)?;
            if low < high {
                open.insert(partition, (low.max(high - SAMPLED), high));
            }
        }
        let from: Vec<(TopicPartition, i64)> = open.iter().map(|(partition, (from, _))| (partition.clone(), *from)).collect();
        let mut keys = 0;
        let mut reader = broker.reader(&from)?;
        // Behind an open transaction there may be no end: the records read by then are the sample.
        for _ in 0..POLLS {
            if open.is_empty() {
                break;
            }
            for event in reader.poll(SAMPLED as usize, POLL)? {
                match event {
                    Event::Records { partition, records } => {
                        for record in (0..records.len()).map(|index| records.get(index)) {
                            let Some(key) = record.key else { continue };
                            if let Some((what, remedy)) = self.misplaced(&partition, key, records.as_ref(), 0) {
                                return Ok(Err(self.reason(&partition, record.offset, &what, &remedy)));
                            }
                            keys += 1;
                        }
                        let next = records.len().checked_sub(1).map_or(0, |last| records.get(last).offset + 1);
                        open.retain(|known, (_, end)| *known != partition || next < *end);
                    }
                    Event::End { partition, .. } => drop(open.remove(&partition)),
                    Event::Assigned(_) | Event::Revoked { .. } | Event::Ends(_) => {}
                }
            }
        }
        Ok(Ok(keys))
    }
}
