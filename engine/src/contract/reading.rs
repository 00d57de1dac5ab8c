//! Clauses: what a consumer and a reader deliver, from where, and until when.

use super::Verdict;
use super::harness::{Contract, Seen, expect, nobody, own, put, said, texts};
use crate::broker::{Consumer, Event, Failure, TopicPartition};

/// How many polls without an event are taken for silence.
const QUIET_POLLS: u32 = 10;

/// How often a client is started that is given no time between. A multiple of four, the records in the log.
const RESTARTS: i64 = 400;

/// Polls until at least `wanted` records came.
fn some(contract: &Contract<'_>, consumer: &mut dyn Consumer, wanted: usize) -> Verdict<Vec<Seen>> {
    let mut seen = Vec::new();
    contract.patiently("records", || {
        for event in consumer.poll(2, contract.patience.timeout).map_err(said("poll"))? {
            match event {
                Event::Records { records, .. } => seen.extend(own(&*records)),
                Event::End { .. } => {}
                _ => return Err("an unexpected rebalance".to_owned()),
            }
        }
        Ok((seen.len() >= wanted).then_some(()))
    })?;
    Ok(seen)
}

/// After a rewind or a skip the next record is the one at that offset, whatever had been fetched before.
pub fn start_delivers_exactly_from_there(contract: &mut Contract<'_>) -> Verdict {
    let partition = contract.partition("rewind")?;
    let values: Vec<String> = (0..20).map(|number| format!("{number:02}")).collect();
    let borrowed: Vec<&str> = values.iter().map(String::as_str).collect();
    contract.write(&partition, &borrowed)?;
    let mut consumer = contract.sole_consumer(&partition)?;
    consumer.start(&[(partition.clone(), 0)]).map_err(said("start"))?;
    let seen = some(contract, &mut *consumer, 5)?;
    expect("the first record", seen.first().map(|record| record.offset), Some(0))?;
    for (from, expected) in [(2, values.get(2..)), (17, values.get(17..)), (0, values.get(..))] {
        consumer.start(&[(partition.clone(), from)]).map_err(said("start"))?;
        let polled = &mut |max, timeout| consumer.poll(max, timeout);
        let log = contract.drain(std::slice::from_ref(&partition), polled)?;
        let expected = expected.unwrap_or_default().to_vec();
        expect(&format!("records from {from}"), texts(&log, &partition), expected)?;
    }
    // And again from the middle of a delivery.
    consumer.start(&[(partition.clone(), 4)]).map_err(said("start"))?;
    some(contract, &mut *consumer, 3)?;
    consumer.start(&[(partition.clone(), 1)]).map_err(said("start"))?;
    let seen = some(contract, &mut *consumer, 1)?;
    expect("the first record after another start", seen.first().map(|record| record.offset), Some(1))
}

/// Starts that follow each other at once, as of rebuilds and rewinds under load, count like one: the last.
pub fn the_last_of_many_starts_counts(contract: &mut Contract<'_>) -> Verdict {
    let partitions = contract.topic("restless", 3)?;
    let first = partitions.first().ok_or("three partitions were asked for")?;
    for partition in &partitions {
        contract.write(partition, &["a", "b", "c", "d"])?;
    }
    let mut consumer = contract.sole_consumer(first)?;
    for round in 0..RESTARTS {
        for partition in &partitions {
            consumer.start(&[(partition.clone(), round % 4)]).map_err(said("start"))?;
        }
    }
    let log = contract.drain(&partitions, &mut |max, timeout| consumer.poll(max, timeout))?;
    for partition in &partitions {
        expect("records from the last start", texts(&log, partition), vec!["d".to_owned()])?;
    }
    // And the member leaves right after another.
    consumer.start(&[(first.clone(), 0)]).map_err(said("start"))
}

/// A paused partition delivers nothing while others do, and continues where it stopped.
pub fn paused_partitions_are_silent(contract: &mut Contract<'_>) -> Verdict {
    let partitions = contract.topic("paused", 2)?;
    let [paused, running] = partitions.as_slice() else { return Err("two partitions were asked for".to_owned()) };
    contract.write(paused, &["p0"])?;
    contract.write(running, &["r0"])?;
    let mut consumer = contract.sole_consumer(paused)?;
    let start: Vec<_> = partitions.iter().map(|partition| (partition.clone(), 0)).collect();
    consumer.start(&start).map_err(said("start"))?;
    let log = contract.drain(&partitions, &mut |max, timeout| consumer.poll(max, timeout))?;
    expect("records before the pause", texts(&log, paused), vec!["p0".to_owned()])?;

    consumer.pause(std::slice::from_ref(paused)).map_err(said("pause"))?;
    contract.write(paused, &["p1", "p2"])?;
    contract.write(running, &["r1"])?;
    let alone = std::slice::from_ref(running);
    let log = contract.drain(alone, &mut |max, timeout| consumer.poll(max, timeout))?;
    expect("records of the running partition", texts(&log, running), vec!["r1".to_owned()])?;
    expect("records of the paused partition", texts(&log, paused), Vec::new())?;
    for _ in 0..QUIET_POLLS.min(contract.patience.polls) {
        for event in consumer.poll(50, contract.patience.timeout).map_err(said("poll"))? {
            if matches!(&event, Event::Records { partition, .. } if partition == paused) {
                return Err("a paused partition delivered records".to_owned());
            }
        }
    }
    consumer.resume(std::slice::from_ref(paused)).map_err(said("resume"))?;
    let seen = some(contract, &mut *consumer, 2)?;
    let expected = vec!["p1".to_owned(), "p2".to_owned()];
    expect("records after the pause", seen.iter().map(Seen::text).collect(), expected)
}

/// A partition without records reports its end when it is started, and again when it is started again.
pub fn empty_partitions_end(contract: &mut Contract<'_>) -> Verdict {
    let partitions = contract.topic("nothing", 2)?;
    let first = partitions.first().ok_or("two partitions were asked for")?;
    let mut consumer = contract.sole_consumer(first)?;
    let start: Vec<_> = partitions.iter().map(|partition| (partition.clone(), 0)).collect();
    for _ in 0..2 {
        consumer.start(&start).map_err(said("start"))?;
        let log = contract.drain(&partitions, &mut |max, timeout| consumer.poll(max, timeout))?;
        expect("records", log.len(), 0)?;
    }
    Ok(())
}

/// The high watermark counts records of open transactions, which can't be read; every question has one answer.
pub fn ends_are_high_watermarks(contract: &mut Contract<'_>) -> Verdict {
    let partitions = contract.topic("ends", 2)?;
    let [open, quiet] = partitions.as_slice() else { return Err("two partitions were asked for".to_owned()) };
    contract.write(quiet, &["q"])?;
    let mut consumer = contract.sole_consumer(open)?;
    let start: Vec<_> = partitions.iter().map(|partition| (partition.clone(), 0)).collect();
    consumer.start(&start).map_err(said("start"))?;
    let id = contract.name("writer");
    let mut producer = contract.producer(Some(&id))?;
    producer.begin().map_err(said("begin"))?;
    put(&mut *producer, open, "a").map_err(said("send"))?;
    contract.wait_for_high(open, 1)?;
    // A record and its marker; an open record.
    expect("ends with an open transaction", ends(contract, &mut *consumer, &partitions)?, vec![(open.clone(), 1), (quiet.clone(), 2)])?;
    contract.finish_well(&mut *producer, Vec::new(), nobody())?;
    contract.wait_for_high(open, 2)?;
    expect("the end behind the marker", ends(contract, &mut *consumer, std::slice::from_ref(open))?, vec![(open.clone(), 2)])
}

/// Asks three times and gives the last answer; nothing may come behind it.
fn ends(contract: &Contract<'_>, consumer: &mut dyn Consumer, partitions: &[TopicPartition]) -> Verdict<Vec<(TopicPartition, i64)>> {
    for _ in 0..3 {
        consumer.ask_ends(partitions).map_err(said("ask for ends"))?;
    }
    let (mut answers, mut polls) = (Vec::new(), 0);
    contract.patiently("answers", || {
        for event in consumer.poll(50, contract.patience.timeout).map_err(said("poll"))? {
            if let Event::Ends(mut ends) = event {
                ends.sort();
                answers.push(ends);
            }
        }
        polls += u32::from(answers.len() >= 3);
        Ok((polls >= QUIET_POLLS.min(contract.patience.polls)).then_some(()))
    })?;
    expect("answers to three questions", answers.len(), 3)?;
    answers.pop().ok_or_else(|| "no answer".to_owned())
}

/// A reader reads from the offsets it was given to the high watermark, reports it, and continues when more comes.
pub fn readers_read_from_an_offset_to_the_end(contract: &mut Contract<'_>) -> Verdict {
    let partitions = contract.topic("read", 3)?;
    let [a, b, empty] = partitions.as_slice() else { return Err("three partitions were asked for".to_owned()) };
    contract.write(a, &["a0", "a1", "a2", "a3"])?;
    contract.write(b, &["b0", "b1"])?;
    let from = [(a.clone(), 2), (b.clone(), 0), (empty.clone(), 0)];
    let log = contract.read_from(&from)?;
    expect("records from an offset", texts(&log, a), vec!["a2".to_owned(), "a3".to_owned()])?;
    expect("offset", log.get(a).and_then(|records| records.first()).map(|record| record.offset), Some(2))?;
    expect("records from the beginning", texts(&log, b), vec!["b0".to_owned(), "b1".to_owned()])?;
    expect("records of the empty partition", texts(&log, empty), Vec::new())?;

    let mut reader = contract.broker.reader(&from).map_err(said("reader"))?;
    contract.drain(&partitions, &mut |max, timeout| reader.poll(max, timeout))?;
    contract.write(empty, &["c0"])?;
    let log = contract.drain(std::slice::from_ref(empty), &mut |max, timeout| reader.poll(max, timeout))?;
    expect("records that came later", texts(&log, empty), vec!["c0".to_owned()])
}

/// A position that the log doesn't have is an error: never a jump to the beginning or the end.
pub fn out_of_range_is_reported(contract: &mut Contract<'_>) -> Verdict {
    let partition = contract.partition("range")?;
    contract.write(&partition, &["a", "b"])?;
    let mut consumer = contract.sole_consumer(&partition)?;
    let beyond: (TopicPartition, i64) = (partition.clone(), 1000);
    let found = match consumer.start(std::slice::from_ref(&beyond)) {
        Err(error) => error,
        Ok(()) => failure(contract, &mut |timeout| consumer.poll(50, timeout))?,
    };
    expect("failure of the consumer", found.failure, Failure::OutOfRange)?;
    let found = match contract.broker.reader(&[beyond]) {
        Err(error) => error,
        Ok(mut reader) => failure(contract, &mut |timeout| reader.poll(50, timeout))?,
    };
    expect("failure of the reader", found.failure, Failure::OutOfRange)
}

type Poll<'a> = &'a mut dyn FnMut(std::time::Duration) -> Result<Vec<Event>, crate::broker::BrokerError>;

fn failure(contract: &Contract<'_>, poll: Poll<'_>) -> Verdict<crate::broker::BrokerError> {
    contract.patiently("an error", || match poll(contract.patience.timeout) {
        Err(error) if error.failure == Failure::Transient => Ok(None),
        Err(error) => Ok(Some(error)),
        Ok(events) if events.iter().any(|event| matches!(event, Event::Records { .. })) => {
            Err("records were delivered from a position that doesn't exist".to_owned())
        }
        Ok(_) => Ok(None),
    })
}
