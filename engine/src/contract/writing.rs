//! Clauses: topics, and what is written arrives as it was.

use super::Verdict;
use super::harness::{Contract, at, expect, later, nobody, put, said, texts};
use crate::broker::{Failure, Outcome, Outgoing, Producer, Refused, TopicPartition, TopicSpec};

/// Topics are created once with their partitions and settings; those that don't exist are `None`.
pub fn topics_are_created(contract: &mut Contract<'_>) -> Verdict {
    let (name, missing) = (contract.name("created"), contract.name("missing"));
    let spec = TopicSpec {
        name: name.clone(),
        partitions: 3,
        replication: None,
        config: vec![("cleanup.policy".to_owned(), "compact".to_owned())],
    };
    let broker = contract.broker;
    broker.create_topics(std::slice::from_ref(&spec)).map_err(said("create topics"))?;
    expect("partitions", broker.partitions(&name).map_err(said("partitions"))?, Some(3))?;
    broker.create_topics(&[spec]).map_err(said("create a topic that exists"))?;
    expect("partitions", broker.partitions(&name).map_err(said("partitions"))?, Some(3))?;
    expect("partitions of nothing", broker.partitions(&missing).map_err(said("partitions"))?, None)?;
    expect("listed", broker.topics().map_err(said("topics"))?.contains(&name), true)?;
    for partition in 0..3 {
        let bounds = broker.bounds(&TopicPartition::new(name.as_str(), partition)).map_err(said("bounds"))?;
        expect("bounds of an empty partition", bounds, (0, 0))?;
    }
    let config = broker.topic_config(&name).map_err(said("topic config"))?;
    let policy = config.iter().find(|(key, _)| key == "cleanup.policy").map(|(_, value)| value.as_str());
    // An implementation may not be able to tell, and says so with an empty answer.
    if config.is_empty() { Ok(()) } else { expect("cleanup.policy", policy, Some("compact")) }
}

/// A topic's id is its own and stays; a topic that doesn't exist has none.
pub fn topics_have_ids(contract: &mut Contract<'_>) -> Verdict {
    let (one, other) = (contract.partition("id")?, contract.partition("id")?);
    let names = [one.topic.to_string(), other.topic.to_string(), contract.name("missing")];
    let broker = contract.broker;
    let ids = contract.patiently("ids of two topics", || {
        let ids = later(broker.topic_ids(&names)).map_err(said("topic ids"))?;
        // A broker may learn of a new topic a moment later.
        Ok(ids.filter(|ids| ids.len() == 2))
    })?;
    expect("ids differ", ids.get(one.topic.as_ref()) != ids.get(other.topic.as_ref()), true)?;
    let spec = TopicSpec { name: one.topic.to_string(), partitions: 1, replication: None, config: Vec::new() };
    broker.create_topics(&[spec]).map_err(said("create a topic that exists"))?;
    expect("ids", broker.topic_ids(&names).map_err(said("topic ids"))?, ids)?;
    expect("no topics", broker.topic_ids(&[]).map_err(said("topic ids"))?.len(), 0)
}

/// Keys, values, nulls, headers of any bytes and timestamps arrive in order, and exactly as they were sent.
pub fn committed_records_arrive_whole(contract: &mut Contract<'_>) -> Verdict {
    let partitions = contract.topic("whole", 2)?;
    let [first, second] = partitions.as_slice() else { return Err("two partitions were asked for".to_owned()) };
    let id = contract.name("writer");
    let mut producer = contract.producer(Some(&id))?;
    producer.begin().map_err(said("begin"))?;
    let headers: [(&[u8], Option<&[u8]>); 4] =
        [(b"plain", Some(b"text")), (b"\xff\xfe\x80", Some(b"\x00\xff")), (b"plain", None), (b"empty", Some(b""))];
    let plain = Outgoing {
        topic: &first.topic,
        partition: first.partition,
        timestamp: Some(1_700_000_000_001),
        key: Some(b"k1"),
        value: Some(b"v1"),
        headers: &headers,
        tag: None,
    };
    // Not in the future: brokers refuse that (`message.timestamp.after.max.ms`, one hour by default).
    let none = Outgoing { timestamp: Some(1), key: None, value: None, headers: &[], ..plain };
    let empty = Outgoing { timestamp: Some(1_600_000_000_000), key: Some(b""), value: Some(b""), headers: &[], ..plain };
    for record in [plain, none, empty] {
        producer.send(record).map_err(said("send"))?;
    }
    put(&mut *producer, second, "other").map_err(said("send"))?;
    contract.finish_well(&mut *producer, Vec::new(), nobody())?;

    let log = contract.read(&partitions)?;
    expect("other partition", texts(&log, second), vec!["other".to_owned()])?;
    let found = log.get(first).map_or(&[][..], Vec::as_slice);
    expect("records", found.len(), 3)?;
    for (offset, (found, sent)) in found.iter().zip([plain, none, empty]).enumerate() {
        expect("offset", found.offset, offset as i64)?;
        expect("timestamp", found.timestamp, sent.timestamp)?;
        expect("key", found.key.as_deref(), sent.key)?;
        expect("value", found.value.as_deref(), sent.value)?;
        let headers: Vec<_> = found.headers.iter().map(|(name, value)| (name.as_slice(), value.as_deref())).collect();
        expect("headers", headers.as_slice(), sent.headers)?;
    }
    Ok(())
}

/// A transaction without anything in it commits, and the producer continues.
pub fn empty_transactions_commit(contract: &mut Contract<'_>) -> Verdict {
    let partition = contract.partition("empty")?;
    let id = contract.name("writer");
    let mut producer = contract.producer(Some(&id))?;
    for value in [None, None, Some("after"), None] {
        producer.begin().map_err(said("begin"))?;
        if let Some(value) = value {
            put(&mut *producer, &partition, value).map_err(said("send"))?;
        }
        expect("tags", contract.finish_well(&mut *producer, Vec::new(), nobody())?, Vec::new())?;
    }
    let log = contract.read(std::slice::from_ref(&partition))?;
    expect("records", texts(&log, &partition), vec!["after".to_owned()])
}

/// A producer without transactional id writes too; its commit means that all is acknowledged. Positions are not its
/// business: they are committed through the consumer, afterwards.
pub fn plain_producers_write(contract: &mut Contract<'_>) -> Verdict {
    let partition = contract.partition("plain")?;
    let mut consumer = contract.sole_consumer(&partition)?;
    let mut producer = contract.producer(None)?;
    for round in ["one", "two"] {
        producer.begin().map_err(said("begin"))?;
        put(&mut *producer, &partition, round).map_err(said("send"))?;
        contract.finish_well(&mut *producer, vec![(partition.clone(), at(1, ""))], consumer.membership())?;
        expect("committed", contract.committed(&mut *consumer, &partition)?, None)?;
    }
    let log = contract.read(std::slice::from_ref(&partition))?;
    expect("records", texts(&log, &partition), vec!["one".to_owned(), "two".to_owned()])
}

/// Without transactions nothing that is tagged is written if something else is refused: state must not be ahead of what came from it.
pub fn plain_producers_write_state_last(contract: &mut Contract<'_>) -> Verdict {
    let small = contract.topic_with("small", 1, &[("max.message.bytes", "2000")])?.pop().ok_or("no partition")?;
    let state = contract.partition("state")?;
    let mut producer = contract.producer(None)?;
    let large = incompressible();
    for (value, written) in [(large.as_slice(), false), (b"small".as_slice(), true)] {
        producer.begin().map_err(said("begin"))?;
        let mut sent = Ok(());
        for (partition, value, tag) in [(&state, b"state".as_slice(), Some(0)), (&small, value, None)] {
            sent = sent.and_then(|()| producer.send(Outgoing { timestamp: Some(1), tag, ..record(partition, value) }));
        }
        match sent {
            Ok(()) => {
                let outcome = contract.finish(&mut *producer, Vec::new(), nobody())?;
                expect("committed", matches!(outcome, Outcome::Committed { .. }), written)?;
            }
            Err(error) if matches!(error.failure, Failure::AbortTransaction | Failure::Refused) && !written => {
                producer.abort().map_err(said("abort"))?;
            }
            Err(error) => return Err(said("send")(error)),
        }
        let log = contract.read(std::slice::from_ref(&state))?;
        expect("state", texts(&log, &state).len(), usize::from(written))?;
    }
    Ok(())
}

/// The highest offset written is reported per tag, for this transaction only.
pub fn tags_report_offsets(contract: &mut Contract<'_>) -> Verdict {
    let partition = contract.partition("tags")?;
    let id = contract.name("writer");
    let mut producer = contract.producer(Some(&id))?;
    let tagged = |producer: &mut dyn Producer, value: &str, tag: Option<u32>| {
        let record = Outgoing {
            topic: &partition.topic,
            partition: partition.partition,
            timestamp: Some(1),
            key: None,
            value: Some(value.as_bytes()),
            headers: &[],
            tag,
        };
        producer.send(record).map_err(said("send"))
    };
    producer.begin().map_err(said("begin"))?;
    for (value, tag) in [("a", Some(7)), ("b", None), ("c", Some(9)), ("d", Some(7)), ("e", None)] {
        tagged(&mut *producer, value, tag)?;
    }
    let first = contract.finish_well(&mut *producer, Vec::new(), nobody())?;
    producer.begin().map_err(said("begin"))?;
    tagged(&mut *producer, "f", Some(9))?;
    let second = contract.finish_well(&mut *producer, Vec::new(), nobody())?;

    let log = contract.read(std::slice::from_ref(&partition))?;
    let offset = |value: &str| {
        let record = log.get(&partition).into_iter().flatten().find(|record| record.text() == value);
        record.map(|record| record.offset).ok_or_else(|| format!("record {value:?} is missing"))
    };
    expect("tags of the first transaction", first, vec![(7, offset("d")?), (9, offset("c")?)])?;
    expect("tags of the second transaction", second, vec![(9, offset("f")?)])
}

/// What a broker refuses for itself (KIP-467) aborts its transaction and is named, with the broker's words; nothing beside it
/// is, and without it the rest commits.
pub fn refused_records_are_named(contract: &mut Contract<'_>) -> Verdict {
    let limits = [("cleanup.policy", "compact"), ("message.timestamp.after.max.ms", "3600000"), ("max.message.bytes", "2000")];
    let refusing = contract.topic_with("refusing", 2, &limits)?;
    let other = contract.partition("beside")?;
    let [first, second] = refusing.as_slice() else { return Err("two partitions were asked for".to_owned()) };
    let large = incompressible();
    let good = |topic, key, value| Outgoing { timestamp: Some(1), key: Some(key), ..record(topic, value) };
    let records = [
        good(first, b"a", b"1"),
        Outgoing { key: None, ..good(first, b"", b"no key") },
        good(first, b"b", b"2"),
        Outgoing { timestamp: Some(32_503_680_000_000), ..good(second, b"c", b"the year 3000") },
        good(second, b"d", b"3"),
        good(second, b"large", &large),
        good(&other, b"e", b"4"),
    ];
    let refused: Vec<u64> = [1, 3, 5].iter().filter_map(|at: &usize| records.get(*at)).map(Outgoing::fingerprint).collect();
    let id = contract.name("writer");
    let mut producer = contract.producer(Some(&id))?;
    let mut known = Vec::new();
    // One attempt may name one of them, or none while the producer looks for it; the limit is generous.
    for _ in 0..20 {
        producer.begin().map_err(said("begin"))?;
        let mut records = records.iter().filter(|record| !known.iter().any(|known: &Refused| known.record == record.fingerprint()));
        let outcome = match records.try_for_each(|record| producer.send(*record)) {
            Ok(()) => contract.finish(&mut *producer, Vec::new(), nobody())?,
            Err(error) if matches!(error.failure, Failure::AbortTransaction | Failure::Refused) => {
                producer.abort().map_err(said("abort"))?;
                Outcome::Aborted(error.message)
            }
            Err(error) => return Err(said("send")(error)),
        };
        if let Outcome::Committed { .. } = outcome {
            let (mut known, mut refused): (Vec<u64>, _) = (known.iter().map(|known| known.record).collect(), refused);
            known.sort_unstable();
            refused.sort_unstable();
            expect("refused", known, refused)?;
            let log = contract.read(&[first.clone(), second.clone(), other.clone()])?;
            expect("records", [first, second, &other].map(|p| texts(&log, p).concat()), ["12", "3", "4"].map(str::to_owned))?;
            return expect("told twice", producer.refused(), Vec::new());
        }
        for found in producer.refused() {
            expect("names its topic", found.cause.contains(&*first.topic), true)?;
            known.push(found);
        }
    }
    Err(format!("still refused; known are {known:?} of {refused:?}"))
}

/// 4,000 bytes that stay 4,000.
fn incompressible() -> Vec<u8> {
    (0..1_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect()
}

fn record<'a>(partition: &'a TopicPartition, value: &'a [u8]) -> Outgoing<'a> {
    let TopicPartition { topic, partition } = partition;
    Outgoing { topic, partition: *partition, timestamp: None, key: None, value: Some(value), headers: &[], tag: None }
}
