//! The state of a deployed pipeline: what becomes of it, how large it is, and how long it takes to read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use headwater_engine::broker::{Broker, BrokerError, Event, TopicPartition};
use headwater_engine::manifest::{Manifest, Step};
use serde::Serialize;

/// How long a sample of a changelog is read at most.
const SAMPLE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(100);

/// The state of a step.
#[derive(Serialize)]
pub(super) struct State {
    pub(super) step: String,
    /// What the step was called when its state was deployed, if that was another name.
    pub(super) was: Option<String>,
    pub(super) changelog: String,
    /// `kept`, `new`, `changed`, `gone` or `dropped`.
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
    let pairs = pairs(before, &next.steps);
    let all = pairs.iter().filter_map(|(was, now)| Some((*was, *now, now.or(*was)?)));
    for (was, now, (name, step)) in all {
        let fate = match (was, now) {
            (None, _) => "new",
            (_, None) => "dropped",
            // Lost, or removed by a reset.
            _ if broker.partitions(&step.changelog)?.is_none() => "gone",
            (Some((_, was)), Some((_, is))) if (&was.layout, &was.partitioned) == (&is.layout, &is.partitioned) => "kept",
            _ => "changed",
        };
        let (records, sample) = measured(broker, &step.changelog)?;
        states.push(State {
            step: name.clone(),
            was: was.map(|(was, _)| was.clone()).filter(|was| was != name),
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

type Named<'a> = Option<(&'a String, &'a Step)>;

/// Steps as they were and as they are: a step that was renamed has the changelog that it had.
fn pairs<'a>(before: &'a BTreeMap<String, Step>, next: &'a BTreeMap<String, Step>) -> Vec<(Named<'a>, Named<'a>)> {
    let was = |(name, step): (&String, &Step)| {
        let same = before.iter().find(|(_, was)| was.changelog == step.changelog);
        let taken = |was: &Step| next.iter().any(|(other, step)| other != name && step.changelog == was.changelog);
        same.or_else(|| before.get_key_value(name).filter(|(_, was)| !taken(was)))
    };
    let mut pairs: Vec<(Named<'a>, Named<'a>)> = next.iter().map(|now| (was(now), Some(now))).collect();
    let kept: Vec<&String> = pairs.iter().filter_map(|(was, _)| was.map(|(name, _)| name)).collect();
    let dropped: Vec<_> = before.iter().filter(|(name, _)| !kept.contains(name)).collect();
    pairs.extend(dropped.into_iter().map(|was| (Some(was), None)));
    pairs
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

#[cfg(test)]
mod tests {
    use headwater_engine::manifest::Partitioned;

    use super::*;

    fn steps(of: &[(&str, &str)]) -> BTreeMap<String, Step> {
        let step = |changelog: &str| Step {
            changelog: changelog.to_string(),
            id: None,
            partitions: 1,
            partitioned: Partitioned::ByRepartition,
            layout: Vec::new(),
            nullable: None,
        };
        of.iter().map(|(name, changelog)| (name.to_string(), step(changelog))).collect()
    }

    #[test]
    fn a_renamed_step_is_the_one_that_it_was() {
        let before = steps(&[("minute", "minute.changelog"), ("old", "old.changelog")]);
        let of = |next: &[(&str, &str)]| -> Vec<(Option<String>, Option<String>)> {
            let next = steps(next);
            let name = |named: Named<'_>| named.map(|(name, _)| name.clone());
            pairs(&before, &next).into_iter().map(|(was, now)| (name(was), name(now))).collect()
        };
        let pair = |was: Option<&str>, now: Option<&str>| (was.map(String::from), now.map(String::from));
        assert_eq!(
            of(&[("ten", "minute.changelog"), ("new", "new.changelog")]),
            [pair(None, Some("new")), pair(Some("minute"), Some("ten")), pair(Some("old"), None)]
        );
        // Another step has the name now.
        let swapped = [("ten", "minute.changelog"), ("minute", "minute-2.changelog"), ("old", "old.changelog")];
        assert_eq!(of(&swapped), [pair(None, Some("minute")), pair(Some("old"), Some("old")), pair(Some("minute"), Some("ten"))]);
    }
}
