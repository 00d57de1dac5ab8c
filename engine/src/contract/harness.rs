//! What the clauses are written with: waiting, writing, draining.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use operator_core::Millis;

use super::{Patience, Verdict};
use crate::broker::{
    Broker, BrokerError, Committed, Consumer, Event, Failure, Membership, Outcome, Outgoing, Producer, Progress, RecordSet, TopicPartition,
    TopicSpec,
};

/// Timestamp of records for which it doesn't matter.
const TIMESTAMP: Millis = 1_700_000_000_000;

/// At most about this many records per poll: few, so that a log takes several polls.
const MAX: usize = 50;

/// A broker under test.
pub struct Contract<'a> {
    pub(super) broker: &'a dyn Broker,
    names: &'a mut dyn FnMut(&str) -> String,
    pub(super) patience: Patience,
}

/// A record, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub offset: i64,
    pub timestamp: Option<Millis>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Seen {
    /// The value as text, for comparison.
    pub fn text(&self) -> String {
        self.value.as_deref().map_or_else(|| "(null)".to_owned(), |value| String::from_utf8_lossy(value).into_owned())
    }
}

pub(super) type Log = BTreeMap<TopicPartition, Vec<Seen>>;

/// The texts of one partition of a drained log.
pub(super) fn texts(log: &Log, partition: &TopicPartition) -> Vec<String> {
    log.get(partition).into_iter().flatten().map(Seen::text).collect()
}

pub(super) fn own(records: &dyn RecordSet) -> Vec<Seen> {
    let own = |index: usize| {
        let record = records.get(index);
        let mut headers = Vec::new();
        records.headers(index, &mut |name, value| headers.push((name.to_vec(), value.map(<[u8]>::to_vec))));
        Seen {
            offset: record.offset,
            timestamp: record.timestamp,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers,
        }
    };
    (0..records.len()).map(own).collect()
}

/// `Err` unless `found` is `expected`.
pub(super) fn expect<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Verdict {
    if found == expected { Ok(()) } else { Err(format!("{what}: found {found:?}, expected {expected:?}")) }
}

pub(super) fn said(what: &str) -> impl Fn(BrokerError) -> String {
    move |error| format!("{what}: {:?}: {}", error.failure, error.message)
}

/// A membership for commits without positions, where it must not matter. It looks like one that fences, because an
/// implementation may refuse any other before it looks at the positions.
pub(super) fn nobody() -> Membership {
    Membership { group: "nobody".to_owned(), generation: 1, member: "nobody".to_owned(), instance: None }
}

pub(super) fn at(offset: i64, metadata: &str) -> Committed {
    Committed { offset, metadata: metadata.to_owned() }
}

/// Sends a record of which only the value matters.
pub(super) fn put(producer: &mut dyn Producer, partition: &TopicPartition, value: &str) -> Result<(), BrokerError> {
    producer.send(Outgoing {
        topic: &partition.topic,
        partition: partition.partition,
        timestamp: Some(TIMESTAMP),
        key: Some(b"key"),
        value: Some(value.as_bytes()),
        headers: &[],
        tag: None,
    })
}

impl<'a> Contract<'a> {
    pub fn new(broker: &'a dyn Broker, names: &'a mut dyn FnMut(&str) -> String, patience: Patience) -> Contract<'a> {
        Contract { broker, names, patience }
    }

    pub(super) fn name(&mut self, label: &str) -> String {
        (self.names)(label)
    }

    /// Creates a topic and returns its partitions.
    pub(super) fn topic(&mut self, label: &str, partitions: i32) -> Verdict<Vec<TopicPartition>> {
        self.topic_with(label, partitions, &[])
    }

    /// Creates a topic with these settings.
    pub(super) fn topic_with(&mut self, label: &str, partitions: i32, config: &[(&str, &str)]) -> Verdict<Vec<TopicPartition>> {
        let name = self.name(label);
        // The records are older than any usual retention.
        let config = config.iter().chain(&[("retention.ms", "-1")]).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let spec = TopicSpec { name: name.clone(), partitions, replication: None, config };
        self.broker.create_topics(&[spec]).map_err(said("create topics"))?;
        let topic: Arc<str> = Arc::from(name);
        Ok((0..partitions).map(|partition| TopicPartition::new(topic.clone(), partition)).collect())
    }

    /// Creates a topic of one partition.
    pub(super) fn partition(&mut self, label: &str) -> Verdict<TopicPartition> {
        self.topic(label, 1)?.pop().ok_or_else(|| "no partition".to_owned())
    }

    /// Asks again while the answer is "later".
    pub(super) fn patiently<T>(&self, what: &str, mut ask: impl FnMut() -> Verdict<Option<T>>) -> Verdict<T> {
        for _ in 0..self.patience.polls {
            if let Some(answer) = ask()? {
                return Ok(answer);
            }
        }
        Err(format!("{what}: not within {} polls of {:?}", self.patience.polls, self.patience.timeout))
    }

    pub(super) fn producer(&self, id: Option<&str>) -> Verdict<Box<dyn Producer>> {
        self.patiently("start of a producer", || later(self.broker.producer(id)).map_err(said("producer")))
    }

    /// Ends the transaction and waits for how it turned out.
    pub(super) fn finish(
        &self,
        producer: &mut dyn Producer,
        offsets: Vec<(TopicPartition, Committed)>,
        membership: Membership,
    ) -> Verdict<Outcome> {
        match producer.commit(offsets, membership) {
            Ok(()) => self.outcome(producer),
            Err(error) if error.failure == Failure::Fenced => Ok(Outcome::Fenced(error.message)),
            Err(error) if matches!(error.failure, Failure::AbortTransaction | Failure::Refused) => Ok(Outcome::Aborted(error.message)),
            Err(error) => Err(said("commit")(error)),
        }
    }

    /// Waits for the outcome, and that the steps come in order.
    pub(super) fn outcome(&self, producer: &mut dyn Producer) -> Verdict<Outcome> {
        let mut acknowledged = false;
        self.patiently("end of a transaction", || match producer.progress(self.patience.timeout) {
            Progress::Sending if acknowledged => Err("progress went back from Acknowledged to Sending".to_owned()),
            Progress::Sending => Ok(None),
            Progress::Acknowledged => {
                acknowledged = true;
                Ok(None)
            }
            Progress::Done(outcome) => Ok(Some(outcome)),
        })
    }

    /// Ends the transaction, which must succeed. Returns the tags in order.
    pub(super) fn finish_well(
        &self,
        producer: &mut dyn Producer,
        offsets: Vec<(TopicPartition, Committed)>,
        membership: Membership,
    ) -> Verdict<Vec<(u32, i64)>> {
        match self.finish(producer, offsets, membership)? {
            Outcome::Committed { mut tags } => {
                tags.sort_unstable();
                Ok(tags)
            }
            other => Err(format!("commit: {other:?}, expected Committed")),
        }
    }

    /// Writes values in a transaction of their own.
    pub(super) fn write(&mut self, partition: &TopicPartition, values: &[&str]) -> Verdict {
        let id = self.name("writer");
        let mut producer = self.producer(Some(&id))?;
        producer.begin().map_err(said("begin"))?;
        for value in values {
            put(&mut *producer, partition, value).map_err(said("send"))?;
        }
        self.finish_well(&mut *producer, Vec::new(), nobody()).map(drop)
    }

    /// Waits until the log of `partition` has reached `offset`.
    pub(super) fn wait_for_high(&self, partition: &TopicPartition, offset: i64) -> Verdict {
        // A reader's poll is the wait between two looks.
        let mut reader = self.broker.reader(&[(partition.clone(), 0)]).map_err(said("reader"))?;
        self.patiently(&format!("high watermark {offset} of {partition}"), || {
            let high = later(self.broker.bounds(partition)).map_err(said("bounds"))?;
            let _ = later(reader.poll(MAX, self.patience.timeout)).map_err(said("poll"))?;
            Ok(high.filter(|(_, high)| *high >= offset).map(drop))
        })
    }

    /// Reads committed records from the beginning to the end.
    pub(super) fn read(&self, partitions: &[TopicPartition]) -> Verdict<Log> {
        let from: Vec<_> = partitions.iter().map(|partition| (partition.clone(), 0)).collect();
        self.read_from(&from)
    }

    pub(super) fn read_from(&self, from: &[(TopicPartition, i64)]) -> Verdict<Log> {
        let mut reader = self.broker.reader(from).map_err(said("reader"))?;
        let partitions: Vec<_> = from.iter().map(|(partition, _)| partition.clone()).collect();
        self.drain(&partitions, &mut |max, timeout| reader.poll(max, timeout))
    }

    /// Polls until the end of every partition was reported and is the high watermark: then no transaction is open, and
    /// whatever is missing by then stays missing.
    pub(super) fn drain(
        &self,
        partitions: &[TopicPartition],
        poll: &mut dyn FnMut(usize, Duration) -> Result<Vec<Event>, BrokerError>,
    ) -> Verdict<Log> {
        let mut log = Log::new();
        let mut ends = BTreeMap::new();
        self.patiently("end of the log", || {
            for event in later(poll(MAX, self.patience.timeout)).map_err(said("poll"))?.unwrap_or_default() {
                match event {
                    Event::Records { partition, records } => {
                        let seen = log.entry(partition.clone()).or_default();
                        for record in own(&*records) {
                            if seen.last().is_some_and(|last: &Seen| last.offset >= record.offset) {
                                return Err(format!("{partition}: offset {} came out of order", record.offset));
                            }
                            seen.push(record);
                        }
                    }
                    Event::End { partition, offset } => {
                        ends.insert(partition, offset);
                    }
                    Event::Ends(_) => {}
                    Event::Assigned(_) | Event::Revoked { .. } => return Err("an unexpected rebalance".to_owned()),
                }
            }
            for partition in partitions {
                let Some(end) = ends.get(partition) else { return Ok(None) };
                let bounds = later(self.broker.bounds(partition)).map_err(said("bounds"))?;
                if bounds.is_none_or(|(_, high)| high != *end) {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .map_err(|error| format!("{error}; ends reported: {ends:?}"))?;
        Ok(log)
    }

    pub(super) fn consumer(&mut self, group: &str, label: &str, topics: &[&str]) -> Verdict<Box<dyn Consumer>> {
        let topics: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
        let instance = self.name(label);
        self.broker.consumer(group, &instance, &topics).map_err(said("consumer"))
    }

    /// Waits for the first assignment.
    pub(super) fn join(&self, consumer: &mut dyn Consumer) -> Verdict<Vec<TopicPartition>> {
        self.patiently("assignment", || {
            let events = later(consumer.poll(MAX, self.patience.timeout)).map_err(said("poll"))?.unwrap_or_default();
            match events.into_iter().next() {
                Some(Event::Assigned(partitions)) => Ok(Some(partitions)),
                Some(Event::Revoked { .. }) => Err("revoked before anything was assigned".to_owned()),
                Some(_) => Err("something was delivered before start()".to_owned()),
                None => Ok(None),
            }
        })
    }

    /// A consumer that is the only member of its group and has its assignment, not started.
    pub(super) fn sole_consumer(&mut self, partition: &TopicPartition) -> Verdict<Box<dyn Consumer>> {
        let group = self.name("group");
        let mut consumer = self.consumer(&group, "lane", &[&partition.topic])?;
        self.join(&mut *consumer)?;
        let membership = consumer.membership();
        expect("group of the membership", membership.group.as_str(), group.as_str())?;
        expect("a member that has joined is fencing", membership.is_fencing(), true)?;
        Ok(consumer)
    }

    pub(super) fn committed(&self, consumer: &mut dyn Consumer, partition: &TopicPartition) -> Verdict<Option<Committed>> {
        let asked = std::slice::from_ref(partition);
        let mut found = self.patiently("committed positions", || later(consumer.committed(asked)).map_err(said("committed")))?;
        expect("number of committed positions", found.len(), 1)?;
        Ok(found.pop().flatten())
    }
}

/// "Later" is not an error yet.
pub(super) fn later<T>(answer: Result<T, BrokerError>) -> Result<Option<T>, BrokerError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.failure == Failure::Transient => Ok(None),
        Err(error) => Err(error),
    }
}
