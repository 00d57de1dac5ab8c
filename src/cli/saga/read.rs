//! The changelog of a saga's step.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use headwater_engine::broker::{Broker, BrokerError, Event, TopicPartition};
use headwater_engine::plan::Names;
use operator_core::Millis;
use operator_saga::inspect::{Sagas, Shown};

use super::Step;
use crate::diagnose::Problem;

/// Silence after which reading is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// All sagas of a step, as the last commit left them.
pub(super) fn sagas(broker: &dyn Broker, step: &Step) -> Result<Vec<Shown>, Problem> {
    let topic = Names(step.loaded.pipeline.name.clone()).changelog(&step.name);
    let failed = |e: BrokerError| Problem::of_broker(&e);
    let partitions = broker.partitions(&topic).map_err(failed)?;
    let missing = || Problem::plain(format!("there is no topic `{topic}`: the pipeline has not run here"));
    let partitions = (0..partitions.ok_or_else(missing)?).map(|partition| TopicPartition::new(topic.clone(), partition));
    let mut from = Vec::new();
    let mut ends: BTreeMap<TopicPartition, i64> = BTreeMap::new();
    for partition in partitions {
        let (low, high) = broker.bounds(&partition).map_err(failed)?;
        if low < high {
            ends.insert(partition.clone(), high);
            from.push((partition, low));
        }
    }
    let mut reader = broker.reader(&from).map_err(failed)?;
    // The entries of a partition belong together: definitions are stored in each.
    let mut sagas: BTreeMap<TopicPartition, Sagas> = BTreeMap::new();
    let mut heard = Instant::now();
    while !ends.is_empty() {
        if heard.elapsed() > PATIENCE {
            return Err(Problem::plain(format!("the topic `{topic}` can't be read to its end")));
        }
        for event in reader.poll(10_000, Duration::from_millis(200)).map_err(failed)? {
            heard = Instant::now();
            match event {
                Event::Records { partition, records } => {
                    let of = sagas.entry(partition).or_default();
                    let entries = (0..records.len()).map(|index| records.get(index));
                    entries.for_each(|record| {
                        if let Some(key) = record.key {
                            of.entry(key, record.value)
                        }
                    });
                }
                // Of an open transaction nothing counts yet.
                Event::End { partition, .. } => drop(ends.remove(&partition)),
                _ => {}
            }
        }
    }
    let all = sagas.values().map(Sagas::all).collect::<Result<Vec<_>, _>>();
    let mut all: Vec<Shown> = all.map_err(|e| Problem::plain(format!("{topic}: {e}")))?.into_iter().flatten().collect();
    all.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(all)
}

/// A point in time, in UTC.
pub(super) fn time(at: Millis) -> String {
    chrono::DateTime::from_timestamp_millis(at).map_or_else(|| at.to_string(), |at| at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}
