//! The manifest's topic: read to its end, and written so that of two who write at once the first wins.

use std::time::Duration;

use operator_core::Millis;
use serde::Deserialize;

use super::{FORMAT, Manifest};
use crate::broker::{Broker, BrokerError, Event, Failure, Membership, Outcome, Outgoing, Progress, Reader, TopicPartition};
use crate::plan::Names;

/// Polls that may bring nothing before an answer counts as late.
const PATIENCE: u32 = 300;
const POLL: Duration = Duration::from_millis(100);

/// The current manifest and its offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployed {
    pub offset: i64,
    pub manifest: Manifest,
}

/// Why there is no manifest to compare with.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// Only a newer program can read it.
    #[error(
        "the topic `{topic}` has a manifest of format {format} at offset {offset}, and this version of `hw` supports formats up to {FORMAT}: run the version that wrote it, or a newer one"
    )]
    Newer { topic: String, format: u32, offset: i64 },
    #[error("the topic `{topic}` has a record that is not a manifest at offset {offset} ({cause}): another program writes to the topic")]
    Unreadable { topic: String, offset: i64, cause: String },
}

#[derive(Deserialize)]
struct Head {
    format: u32,
}

/// A manifest that was written, and when, where the brokers tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub at: Option<Millis>,
    pub manifest: Manifest,
}

/// Reads the current manifest; `None`: nothing was deployed with one.
///
/// # Errors
/// See [`StoreError`].
pub fn read(broker: &dyn Broker, names: &Names) -> Result<Option<Deployed>, StoreError> {
    let mut found = None;
    read_all(broker, names, &mut |_, deployed| found = Some(deployed))?;
    Ok(found)
}

/// The deployments so far, from the first that is left. Of each it is the last record: what workers noted later is in it, and `at` is when
/// it was deployed.
///
/// # Errors
/// See [`StoreError`].
pub fn history(broker: &dyn Broker, names: &Names) -> Result<Vec<Written>, StoreError> {
    let mut versions: Vec<Written> = Vec::new();
    read_all(broker, names, &mut |at, Deployed { manifest, .. }| match versions.last_mut() {
        Some(last) if last.manifest.version == manifest.version => last.manifest = manifest,
        _ => versions.push(Written { at, manifest }),
    })?;
    Ok(versions)
}

/// Hands over the manifests that became current, in order.
fn read_all(broker: &dyn Broker, names: &Names, take: &mut dyn FnMut(Option<Millis>, Deployed)) -> Result<(), StoreError> {
    let partition = TopicPartition::new(names.manifest(), 0);
    if broker.partitions(&partition.topic)?.is_none() {
        return Ok(());
    }
    let (low, high) = broker.bounds(&partition)?;
    if low < high {
        let mut reader = broker.reader(&[(partition.clone(), low)])?;
        read_to(reader.as_mut(), &partition, (low, high), take)?;
    }
    Ok(())
}

fn read_to(
    reader: &mut dyn Reader,
    at: &TopicPartition,
    (low, high): (i64, i64),
    take: &mut dyn FnMut(Option<Millis>, Deployed),
) -> Result<(), StoreError> {
    let (mut patience, mut next, mut current) = (PATIENCE, 0, None);
    while next < high {
        patience -= 1;
        if patience == 0 {
            return Err(BrokerError::new(Failure::Transient, format!("{at} can't be read to its end")).into());
        }
        for event in reader.poll(100, POLL)? {
            match event {
                Event::Records { records, .. } => {
                    for index in 0..records.len() {
                        let record = records.get(index);
                        let manifest = decode(at, record.offset, record.value.unwrap_or_default())?;
                        // A record that replaces an already replaced version came second. What came before the first
                        // record that is left, if retention was set on the topic, can't be known.
                        if manifest.replaces == current || (current.is_none() && low > 0) {
                            current = Some(record.offset);
                            take(record.timestamp, Deployed { offset: record.offset, manifest });
                        }
                        next = record.offset + 1;
                    }
                }
                Event::End { offset, .. } => next = next.max(offset),
                Event::Ends(_) | Event::Assigned(_) | Event::Revoked { .. } => {}
            }
        }
    }
    Ok(())
}

fn decode(at: &TopicPartition, offset: i64, bytes: &[u8]) -> Result<Manifest, StoreError> {
    let unreadable = |e: serde_json::Error| StoreError::Unreadable { topic: at.topic.to_string(), offset, cause: e.to_string() };
    let head: Head = serde_json::from_slice(bytes).map_err(unreadable)?;
    if head.format > FORMAT {
        return Err(StoreError::Newer { topic: at.topic.to_string(), format: head.format, offset });
    }
    serde_json::from_slice(bytes).map_err(unreadable)
}

/// Reads a manifest that was saved to a file.
///
/// # Errors
/// It can't be read, in words.
pub fn parse(text: &[u8]) -> Result<Manifest, String> {
    let head: Head = serde_json::from_slice(text).map_err(|e| format!("it is not a manifest ({e}): `hw history --save` writes one"))?;
    if head.format > FORMAT {
        return Err(format!("it has format {}, and this version of `hw` supports formats up to {FORMAT}: use a newer one", head.format));
    }
    serde_json::from_slice(text).map_err(|e| format!("it is not a manifest ({e}): `hw history --save` writes one"))
}

/// Writes `next` behind `deployed`, and returns the manifest that is current then: `next`, or what another worker has written meanwhile.
///
/// # Errors
/// See [`StoreError`].
pub fn write(broker: &dyn Broker, names: &Names, deployed: Option<&Deployed>, next: &Manifest) -> Result<Deployed, StoreError> {
    let next = Manifest { replaces: deployed.map(|d| d.offset), ..next.clone() };
    let text = serde_json::to_vec_pretty(&next).map_err(|e| BrokerError::fatal(format!("the manifest can't be written: {e}")))?;
    let behind = deployed.map_or(0, |d| d.offset + 1);
    if append(broker, &names.manifest(), &text)? == Some(behind) {
        // Nobody has written in between.
        return Ok(Deployed { offset: behind, manifest: next });
    }
    let missing = || BrokerError::new(Failure::Transient, format!("{}: the manifest that was written can't be read", names.manifest()));
    Ok(read(broker, names)?.ok_or_else(missing)?)
}

/// The record's offset, where the brokers tell it.
fn append(broker: &dyn Broker, topic: &std::sync::Arc<str>, value: &[u8]) -> Result<Option<i64>, BrokerError> {
    let mut producer = broker.producer(None)?;
    producer.begin()?;
    producer.send(Outgoing { topic, partition: 0, timestamp: None, key: None, value: Some(value), headers: &[], tag: Some(0) })?;
    // Nothing is committed with it: the membership doesn't matter, but must look like one.
    let nobody = Membership { group: String::new(), generation: 0, member: "manifest".into(), instance: None };
    producer.commit(Vec::new(), nobody)?;
    for _ in 0..PATIENCE {
        match producer.progress(POLL) {
            Progress::Done(Outcome::Committed { tags }) => return Ok(tags.first().map(|(_, offset)| *offset)),
            Progress::Done(outcome) => return Err(BrokerError::new(Failure::Transient, format!("writing to {topic}: {outcome:?}"))),
            Progress::Sending | Progress::Acknowledged => {}
        }
    }
    Err(BrokerError::new(Failure::Transient, format!("writing to {topic}: no acknowledgement")))
}
