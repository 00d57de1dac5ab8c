//! What Kafka says of a pipeline: members, positions, ends of partitions, dead letters.

use std::collections::BTreeMap;

use headwater_engine::broker::{Broker, BrokerError, TopicPartition};
use headwater_engine::manifest::Manifest;
use headwater_engine::plan::{Names, dead_letters};
use headwater_engine::time::decode_watermarks;
use headwater_kafka::{Kafka, Members, Place};
use operator_core::{Millis, NO_WATERMARK};
use serde::Serialize;

/// A lane of a worker, as a member of the group.
#[derive(Serialize)]
pub(super) struct Member {
    pub(super) worker: String,
    pub(super) lane: Option<usize>,
    pub(super) host: String,
}

#[derive(Serialize)]
pub(super) struct Group {
    pub(super) name: String,
    /// In Kafka's words: `Stable`, `Empty`, ...; empty: there is no such group.
    pub(super) state: String,
    pub(super) members: Vec<Member>,
}

/// A partition that the group reads.
#[derive(Serialize)]
pub(super) struct Input {
    pub(super) topic: String,
    pub(super) partition: i32,
    /// `None`: of a repartition topic.
    pub(super) source: Option<String>,
    /// The committed position.
    pub(super) position: Option<i64>,
    /// Up to where committed records can be read.
    pub(super) stable_end: i64,
    pub(super) end: i64,
    /// Offsets between the position and the end.
    pub(super) lag: i64,
    /// As committed with the position, milliseconds.
    pub(super) watermark: Option<Millis>,
    /// The member it is assigned to.
    pub(super) owner: Option<String>,
}

/// The outbox of a sink that writes to a table.
#[derive(Serialize)]
pub(super) struct Outbox {
    pub(super) sink: String,
    /// Offsets that are not in the table yet.
    pub(super) undelivered: i64,
    pub(super) members: usize,
}

#[derive(Serialize)]
pub(super) struct Letters {
    pub(super) topic: String,
    /// Records that are in the topic now.
    pub(super) records: i64,
}

pub(super) struct Cluster {
    pub(super) group: Group,
    pub(super) inputs: Vec<Input>,
    pub(super) outboxes: Vec<Outbox>,
    pub(super) dead_letters: Vec<Letters>,
}

/// Asks for all of it.
///
/// # Errors
/// The brokers don't answer.
pub(super) fn ask(kafka: &Kafka, names: &Names, manifest: &Manifest) -> Result<Cluster, BrokerError> {
    let found = kafka.members(&names.group())?;
    let positions = kafka.group(&names.group())?.committed;
    let mut ends = Ends::default();
    let topics = manifest.inputs.keys().chain(manifest.outboxes.values().map(|outbox| &outbox.topic));
    for topic in topics {
        ends.want(kafka, topic)?;
    }
    let sources = manifest.inputs.iter().filter(|(_, input)| input.source.is_some()).map(|(topic, _)| dead_letters(topic));
    let letters: Vec<String> = sources.chain(manifest.outboxes.keys().map(|sink| names.refused(sink).to_string())).collect();
    for topic in &letters {
        ends.want(kafka, topic)?;
    }
    ends.ask(kafka)?;
    let owners = owners(&found, names);
    let inputs = manifest.inputs.iter().flat_map(|(topic, input)| ends.of(topic).map(move |end| (topic, input, end)));
    let inputs = inputs.map(|(topic, input, (at, end))| {
        let committed = positions.get(at);
        let position = committed.map(|committed| committed.offset);
        let marks = committed.and_then(|committed| decode_watermarks(&committed.metadata));
        Input {
            topic: topic.clone(),
            partition: at.partition,
            source: input.source.clone(),
            position,
            stable_end: end.stable,
            end: end.end,
            lag: (end.end - position.unwrap_or(end.first)).max(0),
            watermark: marks.and_then(|marks| marks.into_iter().min()).filter(|at| *at != NO_WATERMARK),
            owner: owners.get(at).cloned(),
        }
    });
    let mut outboxes = Vec::new();
    for (sink, outbox) in &manifest.outboxes {
        let group = names.sink_group(sink);
        let delivered = kafka.group(&group)?;
        let left = |(at, end): (&TopicPartition, &End)| {
            (end.stable - delivered.committed.get(at).map_or(end.first, |committed| committed.offset)).max(0)
        };
        outboxes.push(Outbox { sink: sink.clone(), undelivered: ends.of(&outbox.topic).map(left).sum(), members: delivered.members });
    }
    let count = |topic: String| Letters { records: ends.of(&topic).map(|(_, end)| end.stable - end.first).sum(), topic };
    Ok(Cluster {
        inputs: inputs.collect(),
        outboxes,
        dead_letters: letters.into_iter().map(count).collect(),
        group: Group { name: names.group(), state: found.state.clone(), members: found.members.iter().map(|m| member(m, names)).collect() },
    })
}

/// Lanes have client ids of the form `hw-<pipeline>-<worker>-<lane>`.
fn member(member: &headwater_kafka::Member, names: &Names) -> Member {
    let instance = member.client_id.strip_prefix(&format!("hw-{}-", names.0)).unwrap_or(&member.client_id);
    let (worker, lane) = match instance.rsplit_once('-') {
        Some((worker, lane)) if lane.parse::<usize>().is_ok() => (worker, lane.parse().ok()),
        _ => (instance, None),
    };
    Member { worker: worker.to_string(), lane, host: member.host.trim_start_matches('/').to_string() }
}

/// The members' partitions: the one place that reads the group's assignment.
fn owners(found: &Members, names: &Names) -> BTreeMap<TopicPartition, String> {
    let of = |m: &headwater_kafka::Member| {
        let Member { worker, lane, .. } = member(m, names);
        let owner = lane.map_or_else(|| worker.clone(), |lane| format!("{worker} lane {lane}"));
        m.partitions.iter().map(move |partition| (partition.clone(), owner.clone())).collect::<Vec<_>>()
    };
    found.members.iter().flat_map(of).collect()
}

/// Where a partition begins and ends.
struct End {
    first: i64,
    stable: i64,
    end: i64,
}

#[derive(Default)]
struct Ends {
    wanted: Vec<TopicPartition>,
    found: BTreeMap<TopicPartition, End>,
}

impl Ends {
    fn want(&mut self, kafka: &Kafka, topic: &str) -> Result<(), BrokerError> {
        let partitions = kafka.partitions(topic)?.unwrap_or(0);
        self.wanted.extend((0..partitions).map(|partition| TopicPartition::new(topic, partition)));
        Ok(())
    }

    fn ask(&mut self, kafka: &Kafka) -> Result<(), BrokerError> {
        let at = |place| kafka.offsets(&self.wanted.iter().map(|partition| (partition.clone(), place)).collect::<Vec<_>>());
        // The stable end first: it is never behind an end that was asked for later.
        let (stable, end, first) = (at(Place::StableEnd)?, at(Place::End)?, at(Place::First)?);
        fn of(found: &BTreeMap<TopicPartition, i64>, at: &TopicPartition) -> i64 {
            found.get(at).copied().unwrap_or(0)
        }
        let all = |at: &TopicPartition| (at.clone(), End { first: of(&first, at), stable: of(&stable, at), end: of(&end, at) });
        self.found = self.wanted.iter().map(all).collect();
        Ok(())
    }

    fn of<'a>(&'a self, topic: &str) -> impl Iterator<Item = (&'a TopicPartition, &'a End)> {
        let topic = topic.to_string();
        self.found.iter().filter(move |(at, _)| *at.topic == *topic)
    }
}
