//! Topics that commands read as a whole.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use headwater_engine::broker::{Broker, Event, RecordSet, TopicPartition};

/// How long a partition may have nothing to say before its end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reads a topic from its beginning to where it ends now.
pub(super) fn read(
    broker: &dyn Broker,
    topic: &str,
    take: &mut dyn FnMut(&TopicPartition, &dyn RecordSet) -> Result<(), String>,
) -> Result<(), String> {
    let fail = |e: headwater_engine::broker::BrokerError| e.to_string();
    let partitions = broker.partitions(topic).map_err(fail)?.ok_or_else(|| format!("the topic `{topic}` does not exist"))?;
    let (mut from, mut ends) = (Vec::new(), BTreeMap::new());
    for partition in (0..partitions).map(|partition| TopicPartition::new(topic, partition)) {
        let (low, high) = broker.bounds(&partition).map_err(fail)?;
        if low < high {
            from.push((partition.clone(), low));
            ends.insert(partition, high);
        }
    }
    let mut reader = broker.reader(&from).map_err(fail)?;
    let mut last = Instant::now();
    while !ends.is_empty() {
        if last.elapsed() > PATIENCE {
            return Err(format!("`{topic}` can't be read to its end: a transaction is open, or records are gone"));
        }
        for event in reader.poll(10_000, Duration::from_millis(200)).map_err(fail)? {
            last = Instant::now();
            match event {
                Event::Records { partition, records } => {
                    take(&partition, records.as_ref())?;
                    let next = records.len().checked_sub(1).map_or(0, |last| records.get(last).offset + 1);
                    ends.retain(|of, end| *of != partition || next < *end);
                }
                Event::End { partition, offset } => ends.retain(|of, end| *of != partition || offset < *end),
                _ => {}
            }
        }
    }
    Ok(())
}
