//! The in-memory world keeps the contract, and what only it has (faults, compaction, virtual time) does what it says.

mod copier;
mod faulty;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::*;
use crate::broker::{Event, Failure, Membership, Outcome, Outgoing, Progress};
use crate::contract;

const NOW: Duration = Duration::ZERO;

fn keeps_the_contract(broker: &MemoryBroker, patience: contract::Patience, what: &str) {
    let mut last = 0;
    let mut names = |label: &str| {
        last += 1;
        format!("{label}-{last}")
    };
    for (clause, result) in contract::all_with(broker, &mut names, patience) {
        assert_eq!(result, Ok(()), "{what}: {clause}");
    }
}

#[test]
fn contract_holds_promptly() {
    keeps_the_contract(&MemoryBroker::new(), contract::Patience::default(), "prompt");
}

#[test]
fn contract_holds_under_any_schedule() {
    for seed in 0..60 {
        keeps_the_contract(&MemoryBroker::seeded(seed), contract::Patience::default(), &format!("seed {seed}"));
    }
}

#[test]
fn contract_holds_in_real_time() {
    let patience = contract::Patience { polls: 2000, timeout: Duration::from_millis(5) };
    keeps_the_contract(&MemoryBroker::realtime(), patience, "real time");
}

fn put(producer: &mut dyn Producer, topic: &str, partition: i32, key: &str, value: Option<&str>) {
    let record = Outgoing {
        topic: &Arc::from(topic),
        partition,
        timestamp: Some(1),
        key: Some(key.as_bytes()),
        value: value.map(str::as_bytes),
        headers: &[],
        tag: None,
    };
    producer.send(record).unwrap();
}

fn nobody() -> Membership {
    Membership { group: String::new(), generation: -1, member: String::new(), instance: None }
}

fn finish(producer: &mut dyn Producer, offsets: Vec<(TopicPartition, Committed)>, member: Membership) -> Outcome {
    producer.commit(offsets, member).unwrap();
    for _ in 0..1000 {
        if let Progress::Done(outcome) = producer.progress(NOW) {
            return outcome;
        }
    }
    panic!("the transaction never ended");
}

fn at(topic: &str, offset: i64) -> Vec<(TopicPartition, Committed)> {
    vec![(TopicPartition::new(topic, 0), Committed { offset, metadata: String::new() })]
}

fn values(broker: &MemoryBroker, topic: &str) -> Vec<(i64, Option<String>)> {
    let text = |value: Vec<u8>| String::from_utf8(value).unwrap();
    broker.read_all_committed(topic).into_iter().map(|record| (record.offset, record.value.map(text))).collect()
}

fn join(consumer: &mut dyn Consumer) -> Vec<TopicPartition> {
    for _ in 0..1000 {
        for event in consumer.poll(10, NOW).unwrap() {
            if let Event::Assigned(partitions) = event {
                return partitions;
            }
        }
    }
    panic!("never assigned");
}

fn owned(topics: &[&str]) -> Vec<String> {
    topics.iter().map(|topic| (*topic).to_owned()).collect()
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn compaction_leaves_gaps_and_stops_at_open_transactions() {
    let broker = MemoryBroker::new();
    broker.create_topic_with("t", 1, &[("cleanup.policy", "compact")]);
    let mut producer = broker.producer(Some("w")).unwrap();
    producer.begin().unwrap();
    put(&mut *producer, "t", 0, "a", Some("a0"));
    put(&mut *producer, "t", 0, "b", Some("b1"));
    put(&mut *producer, "t", 0, "a", Some("a2"));
    assert_eq!(finish(&mut *producer, Vec::new(), nobody()), Outcome::Committed { tags: Vec::new() });
    producer.begin().unwrap();
    put(&mut *producer, "t", 0, "a", Some("aborted"));
    producer.abort().unwrap();
    producer.begin().unwrap();
    put(&mut *producer, "t", 0, "b", None);
    finish(&mut *producer, Vec::new(), nobody());
    let mut open = broker.producer(Some("open")).unwrap();
    open.begin().unwrap();
    put(&mut *open, "t", 0, "a", Some("open"));

    // Offsets: 0 a0, 1 b1, 2 a2, 3 marker, 4 aborted, 5 marker, 6 b tombstone, 7 marker, 8 open.
    let bounds = broker.bounds(&TopicPartition::new("t", 0)).unwrap();
    assert_eq!((bounds, broker.last_stable_offset("t", 0)), ((0, 9), Some(8)));
    broker.compact("t", Tombstones::Keep);
    assert_eq!(values(&broker, "t"), [(2, some("a2")), (6, None)]);
    broker.compact("t", Tombstones::Drop);
    assert_eq!(values(&broker, "t"), [(2, some("a2"))]);
    assert_eq!(broker.bounds(&TopicPartition::new("t", 0)).unwrap(), (0, 9));

    let mut reader = broker.reader(&[(TopicPartition::new("t", 0), 0)]).unwrap();
    let ends: Vec<i64> = (0..3)
        .flat_map(|_| reader.poll(10, NOW).unwrap())
        .filter_map(|event| if let Event::End { offset, .. } = event { Some(offset) } else { None })
        .collect();
    assert_eq!(ends, [8], "the end is reported once, and is the last stable offset");
    finish(&mut *open, Vec::new(), nobody());
    broker.compact("t", Tombstones::Keep);
    assert_eq!(values(&broker, "t"), [(8, some("open"))]);
}

#[test]
fn retention_moves_the_low_watermark_and_compacts_compacted_topics() {
    let broker = MemoryBroker::new();
    broker.create_topic("log", 1);
    broker.retain("log", 10);
    broker.create_topic_with("table", 1, &[("cleanup.policy", "compact")]);
    broker.retain("table", 10);
    for number in 0..1000 {
        let key = format!("k{}", number % 3);
        let value = number.to_string();
        broker.append("log", 0, None, Some(value.as_bytes()), None, &[]).unwrap();
        broker.append("table", 0, Some(key.as_bytes()), Some(value.as_bytes()), None, &[]).unwrap();
    }
    let (low, high) = broker.bounds(&TopicPartition::new("log", 0)).unwrap();
    assert!(high == 1000 && low >= 980, "{low}..{high}");
    let table = values(&broker, "table");
    assert!(table.len() <= 20, "{table:?}");
    assert_eq!(table.last(), Some(&(999, some("999"))));
    for last in [997, 998, 999] {
        assert!(table.contains(&(last, Some(last.to_string()))), "the newest record of each key stays");
    }

    let mut reader = broker.reader(&[(TopicPartition::new("log", 0), 5)]).unwrap();
    assert_eq!(reader.poll(10, NOW).err().map(|error| error.failure), Some(Failure::OutOfRange));
}

#[test]
fn a_broker_refuses_what_it_cannot_keep() {
    let broker = MemoryBroker::new();
    broker.create_topic_with("table", 1, &[("cleanup.policy", "compact"), ("max.message.bytes", "200")]);
    let big = "x".repeat(300);
    for (key, value, topic) in [(None, "v", "table"), (Some("k"), big.as_str(), "table"), (Some("k"), "v", "missing")] {
        let mut producer = broker.producer(Some("w")).unwrap();
        producer.begin().unwrap();
        let refused = producer.send(Outgoing {
            topic: &Arc::from(topic),
            partition: 0,
            timestamp: None,
            key: key.map(str::as_bytes),
            value: Some(value.as_bytes()),
            headers: &[],
            tag: None,
        });
        // A topic that is missing is not the record's fault.
        let (failure, named) = if topic == "missing" { (Failure::AbortTransaction, 0) } else { (Failure::Refused, 1) };
        assert_eq!(refused.map_err(|error| error.failure), Err(failure));
        assert!(matches!(finish(&mut *producer, Vec::new(), nobody()), Outcome::Aborted(_)));
        assert_eq!(producer.refused().len(), named);
        producer.begin().unwrap();
        put(&mut *producer, "table", 0, "k", Some("fine"));
        finish(&mut *producer, Vec::new(), nobody());
    }
    assert_eq!(values(&broker, "table").len(), 3);
}

#[test]
fn timestamps_too_far_ahead_are_refused() {
    let settings = Settings { timestamp_after_max: Some(3_600_000), ..Settings::default() };
    let broker = MemoryBroker::with(MemoryClock::at(1_000), settings);
    broker.create_topic("strict", 1);
    broker.create_topic_with("lenient", 1, &[("message.timestamp.after.max.ms", "9000000")]);
    let append = |topic, timestamp| broker.append(topic, 0, None, None, Some(timestamp), &[]).is_ok();
    assert_eq!([append("strict", 3_601_000), append("strict", 3_601_001)], [true, false]);
    assert_eq!([append("lenient", 9_001_000), append("lenient", 9_001_001)], [true, false]);
}

#[test]
fn a_silent_death_is_noticed_after_the_session_timeout() {
    let broker = MemoryBroker::new();
    broker.create_topic("t", 2);
    let mut first = broker.consumer("g", "a", &owned(&["t"])).unwrap();
    let mut second = broker.consumer("g", "b", &owned(&["t"])).unwrap();
    assert_eq!(join(&mut *first).len(), 2, "it had joined before the other came");
    assert!(matches!(first.poll(10, NOW).unwrap().as_slice(), [Event::Revoked { lost: false, .. }]));
    first.release().unwrap();
    assert_eq!((join(&mut *first).len(), join(&mut *second).len()), (1, 1));
    drop(first);
    assert_eq!(broker.members("g"), ["a", "b"]);
    let clock = broker.clock().unwrap();
    for _ in 0..2 {
        clock.advance(5_000);
        assert!(second.poll(10, NOW).unwrap().is_empty(), "nobody has noticed yet");
    }
    clock.advance(1);
    assert!(matches!(second.poll(10, NOW).unwrap().as_slice(), [Event::Revoked { lost: false, .. }]));
    second.release().unwrap();
    assert_eq!(join(&mut *second).len(), 2);
    assert_eq!(broker.members("g"), ["b"]);
}

#[test]
fn the_dead_hold_up_a_rebalance_until_they_are_expired() {
    let broker = MemoryBroker::new();
    broker.create_topic("t", 2);
    let mut first = broker.consumer("g", "a", &owned(&["t"])).unwrap();
    assert_eq!(join(&mut *first).len(), 2);
    drop(first);
    let mut second = broker.consumer("g", "b", &owned(&["t"])).unwrap();
    for _ in 0..20 {
        assert!(second.poll(10, NOW).unwrap().is_empty());
    }
    broker.expire_dropped();
    assert_eq!(join(&mut *second).len(), 2);
}

#[test]
fn a_topic_that_grows_is_assigned_anew() {
    let broker = MemoryBroker::new();
    let mut consumer = broker.consumer("g", "a", &owned(&["later"])).unwrap();
    assert_eq!(join(&mut *consumer), []);
    broker.create_topic("later", 1);
    assert_eq!(join(&mut *consumer).len(), 1);
    broker.create_topic("later", 3);
    assert!(matches!(consumer.poll(10, NOW).unwrap().as_slice(), [Event::Revoked { lost: false, .. }]));
    consumer.release().unwrap();
    assert_eq!(join(&mut *consumer).len(), 3);
}

#[test]
fn markers_arrive_one_by_one_under_a_schedule() {
    let torn = (0..200).any(|seed| {
        let broker = MemoryBroker::seeded(seed);
        broker.create_topic("t", 2);
        let mut producer = broker.producer(Some("w")).unwrap();
        producer.begin().unwrap();
        put(&mut *producer, "t", 0, "k", Some("a"));
        put(&mut *producer, "t", 1, "k", Some("b"));
        assert!(matches!(finish(&mut *producer, Vec::new(), nobody()), Outcome::Committed { .. }));
        let seen = values(&broker, "t").len();
        broker.settle();
        assert_eq!(values(&broker, "t").len(), 2);
        seen == 1
    });
    assert!(torn, "no schedule showed half of a committed transaction");
}

#[test]
fn polls_wait_in_real_time_and_wake_up() {
    let broker = MemoryBroker::realtime();
    broker.create_topic("t", 1);
    let polling = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reader = broker.reader(&[(TopicPartition::new("t", 0), 0)]).unwrap();
            let first = reader.poll(10, Duration::from_secs(60)).unwrap();
            assert!(matches!(first.as_slice(), [Event::End { offset: 0, .. }]));
            polling.store(true, Ordering::SeqCst);
            reader.poll(10, Duration::from_secs(60)).unwrap().len()
        });
        while !polling.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        broker.append("t", 0, None, Some(b"v"), None, &[]).unwrap();
        assert_eq!(reader.join().unwrap(), 2, "the record and the end");
    });
}

#[test]
fn consumers_leave_when_dropped_in_real_time() {
    let broker = MemoryBroker::realtime();
    broker.create_topic("t", 1);
    let mut first = broker.consumer("g", "a", &owned(&["t"])).unwrap();
    assert_eq!(join(&mut *first).len(), 1);
    drop(first);
    let mut second = broker.consumer("g", "b", &owned(&["t"])).unwrap();
    assert_eq!(join(&mut *second).len(), 1);
}
