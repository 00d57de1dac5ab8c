//! The state of a deployed pipeline: what becomes of it, how large it is, and how long it takes to read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use headwater_engine::broker::{Broker, BrokerError, Event, TopicPartition};
use headwater_engine::manifest::Manifest;
use serde::Serialize;

/// How long a sample of a changelog is read at most.
const SAMPLE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(100);

/// The state of a step.
#[derive(Serialize)]
pub(super) struct State {
    pub(super) step: String,
    pub(super) changelog: String,
    /// `kept`, `new`, `changed` or `dropped`.
    pub(super) fate: &'static str,
    pub(super) partitions: i32,
    /// Records in the changelog at most: compaction leaves gaps.
    pub(super) records: i64,
    /// Bytes of keys and values, by a sample.
    pub(super) bytes: Option<u64>,
    /// How long one reader takes for all of it, by the same sample: what a worker without local checkpoints waits for.
    pub(super) restore_seconds: Option<f64>,
}

/// The state that is deployed, and what `next` makes of it.
///
/// # Errors
/// The brokers can't be asked.
pub(super) fn states(broker: &dyn Broker, was: Option<&Manifest>, next: &Manifest) -> Result<Vec<State>, BrokerError> {
    let none = BTreeMap::new();
    let before = was.map_or(&none, |was| &was.steps);
    let mut states = Vec::new();
    for (name, step) in next.steps.iter().chain(before.iter().filter(|(name, _)| !next.steps.contains_key(*name))) {
        let fate = match (before.get(name), next.steps.get(name)) {
            (None, _) => "new",
            (_, None) => "dropped",
            (Some(was), Some(is)) if (&was.layout, &was.partitioned) == (&is.layout, &is.partitioned) => "kept",
            _ => "changed",
        };
        let (records, sample) = measured(broker, &step.changelog)?;
        states.push(State {
            step: name.clone(),
            changelog: step.changelog.clone(),
            fate,
            partitions: step.partitions,
            records,
            bytes: sample.as_ref().map(|s| (s.bytes as f64 * s.parts(records)) as u64),
            restore_seconds: sample.map(|s| s.seconds * s.parts(records)),
        });
    }
    Ok(states)
}

struct Sample {
    records: i64,
    bytes: u64,
    seconds: f64,
}

impl Sample {
    /// How many samples all of these records are.
    fn parts(&self, records: i64) -> f64 {
        records as f64 / self.records as f64
    }
}

fn measured(broker: &dyn Broker, topic: &str) -> Result<(i64, Option<Sample>), BrokerError> {
    let (mut from, mut total) = (Vec::new(), 0);
    for partition in (0..broker.partitions(topic)?.unwrap_or(0)).map(|partition| TopicPartition::new(topic, partition)) {
        let (low, high) = broker.bounds(&partition)?;
        total += high - low;
        if low < high {
            from.push((partition, low));
        }
    }
    if from.is_empty() {
        return Ok((total, None));
    }
    let mut reader = broker.reader(&from)?;
    let (began, mut sample, mut open) = (Instant::now(), Sample { records: 0, bytes: 0, seconds: 0.0 }, from.len());
    while open > 0 && began.elapsed() < SAMPLE {
        for event in reader.poll(10_000, POLL)? {
            match event {
                Event::Records { records, .. } => {
                    let sizes = (0..records.len()).map(|at| records.get(at));
                    let size = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len) as u64;
                    sample.bytes += sizes.map(|record| size(record.key) + size(record.value)).sum::<u64>();
                    sample.records += records.len() as i64;
                }
                Event::End { .. } => open -= 1,
                _ => {}
            }
        }
    }
    sample.seconds = began.elapsed().as_secs_f64();
    // All was read: compaction may have left less than the offsets say.
    let total = if open == 0 { sample.records } else { total };
    Ok((total, (sample.records > 0).then_some(sample)))
}
