//! Clauses: all of a transaction or nothing, and one writer at a time.

use super::Verdict;
use super::harness::{Contract, at, expect, nobody, put, said, texts};
use crate::broker::{Event, Failure, Outcome, Producer, Progress, TopicPartition};

/// What was aborted is never delivered, the end of the log is reached behind it, and the producer continues.
pub fn aborted_records_never_arrive(contract: &mut Contract<'_>) -> Verdict {
    let partition = contract.partition("aborted")?;
    let id = contract.name("writer");
    let mut producer = contract.producer(Some(&id))?;
    for (value, commit) in [("a", true), ("lost-1", false), ("b", true), ("lost-2", false)] {
        producer.begin().map_err(said("begin"))?;
        put(&mut *producer, &partition, value).map_err(said("send"))?;
        if commit {
            contract.finish_well(&mut *producer, Vec::new(), nobody())?;
        } else {
            producer.abort().map_err(said("abort"))?;
        }
    }
    let log = contract.read(std::slice::from_ref(&partition))?;
    expect("records", texts(&log, &partition), vec!["a".to_owned(), "b".to_owned()])
}

/// Nothing at or behind the first record of an open transaction is delivered, also what others committed there.
pub fn open_transactions_hide_what_follows(contract: &mut Contract<'_>) -> Verdict {
    let partition = contract.partition("open")?;
    contract.write(&partition, &["before"])?;
    // The record and its marker: the log must not grow any more when the open record is looked for.
    contract.wait_for_high(&partition, 2)?;
    let id = contract.name("open");
    let mut open = contract.producer(Some(&id))?;
    open.begin().map_err(said("begin"))?;
    put(&mut *open, &partition, "open").map_err(said("send"))?;
    contract.wait_for_high(&partition, 3)?;
    contract.write(&partition, &["behind"])?;

    let mut reader = contract.broker.reader(&[(partition.clone(), 0)]).map_err(said("reader"))?;
    let mut seen = Vec::new();
    let end = contract.patiently("end before an open transaction", || {
        for event in reader.poll(50, contract.patience.timeout).map_err(said("poll"))? {
            match event {
                Event::Records { records, .. } => seen.extend(super::harness::own(&*records)),
                Event::End { offset, .. } => return Ok(Some(offset)),
                _ => {}
            }
        }
        Ok(None)
    })?;
    expect("end", end, 2)?;
    expect("records", seen.iter().map(|record| record.text()).collect(), vec!["before".to_owned()])?;

    contract.finish_well(&mut *open, Vec::new(), nobody())?;
    let log = contract.drain(std::slice::from_ref(&partition), &mut |max, timeout| reader.poll(max, timeout))?;
    expect("records after the commit", texts(&log, &partition), vec!["open".to_owned(), "behind".to_owned()])
}

/// Positions and their metadata are committed with the records, and with an abort they are not.
pub fn offsets_commit_with_the_transaction(contract: &mut Contract<'_>) -> Verdict {
    let partition = contract.partition("offsets")?;
    let mut consumer = contract.sole_consumer(&partition)?;
    let id = contract.name("writer");
    let mut producer = contract.producer(Some(&id))?;
    expect("at first", contract.committed(&mut *consumer, &partition)?, None)?;
    let metadata = format!("v1 {}", "x".repeat(3_900));
    // With records, and without: an epoch may have filtered everything.
    for (offset, metadata, value) in [(3, metadata.as_str(), Some("a")), (5, "", None), (6, "v1;intent=7..9", None)] {
        producer.begin().map_err(said("begin"))?;
        if let Some(value) = value {
            put(&mut *producer, &partition, value).map_err(said("send"))?;
        }
        let offsets = vec![(partition.clone(), at(offset, metadata))];
        contract.finish_well(&mut *producer, offsets, consumer.membership())?;
        expect("committed", contract.committed(&mut *consumer, &partition)?, Some(at(offset, metadata)))?;
    }
    producer.begin().map_err(said("begin"))?;
    put(&mut *producer, &partition, "lost").map_err(said("send"))?;
    producer.abort().map_err(said("abort"))?;
    expect("after an abort", contract.committed(&mut *consumer, &partition)?, Some(at(6, "v1;intent=7..9")))
}

/// A producer that starts with the id of another aborts what that one left open, and that one can write no more.
pub fn new_producer_fences_the_old(contract: &mut Contract<'_>) -> Verdict {
    let partition = contract.partition("fenced")?;
    let id = contract.name("writer");
    let mut old = contract.producer(Some(&id))?;
    old.begin().map_err(said("begin"))?;
    put(&mut *old, &partition, "dangling").map_err(said("send"))?;
    contract.wait_for_high(&partition, 1)?;

    let mut new = contract.producer(Some(&id))?;
    new.begin().map_err(said("begin"))?;
    put(&mut *new, &partition, "new").map_err(said("send"))?;
    contract.finish_well(&mut *new, Vec::new(), nobody())?;

    match put(&mut *old, &partition, "zombie") {
        Err(error) if error.failure == Failure::Fenced => {}
        Err(error) => return Err(said("send of a fenced producer")(error)),
        Ok(()) => match contract.finish(&mut *old, Vec::new(), nobody())? {
            Outcome::Fenced(_) => {}
            other => return Err(format!("commit of a fenced producer: {other:?}")),
        },
    }
    drop(old);
    new.begin().map_err(said("begin"))?;
    put(&mut *new, &partition, "newer").map_err(said("send"))?;
    contract.finish_well(&mut *new, Vec::new(), nobody())?;
    let log = contract.read(std::slice::from_ref(&partition))?;
    expect("records", texts(&log, &partition), vec!["new".to_owned(), "newer".to_owned()])
}

/// Two producers take turns. Each sends as soon as the other's records are acknowledged and commits when the other has
/// committed (rule R10): the log has all records in the order they were sent, the group the last position.
pub fn pipelined_transactions_keep_order(contract: &mut Contract<'_>) -> Verdict {
    const EPOCHS: i64 = 8;
    const RECORDS: i64 = 40;
    let partition = contract.partition("pipelined")?;
    let mut consumer = contract.sole_consumer(&partition)?;
    let (id, other) = (contract.name("writer-a"), contract.name("writer-b"));
    let mut current = contract.producer(Some(&id))?;
    let mut previous = contract.producer(Some(&other))?;
    let mut in_flight = false;
    for epoch in 0..EPOCHS {
        current.begin().map_err(said("begin"))?;
        for record in 0..RECORDS {
            let value = format!("{:05}", epoch * RECORDS + record);
            put(&mut *current, &partition, &value).map_err(said("send"))?;
        }
        if in_flight {
            end_well(contract, &mut *previous)?;
        }
        let offsets = vec![(partition.clone(), at(epoch + 1, ""))];
        current.commit(offsets, consumer.membership()).map_err(said("commit"))?;
        in_flight = !acknowledged(contract, &mut *current)?;
        std::mem::swap(&mut current, &mut previous);
    }
    if in_flight {
        end_well(contract, &mut *previous)?;
    }
    expect("position", contract.committed(&mut *consumer, &partition)?, Some(at(EPOCHS, "")))?;
    let log = contract.read(std::slice::from_ref(&partition))?;
    let expected: Vec<String> = (0..EPOCHS * RECORDS).map(|number| format!("{number:05}")).collect();
    expect("records", texts(&log, &partition), expected)
}

fn end_well(contract: &Contract<'_>, producer: &mut dyn Producer) -> Verdict {
    match contract.outcome(producer)? {
        Outcome::Committed { .. } => Ok(()),
        other => Err(format!("commit: {other:?}, expected Committed")),
    }
}

/// Waits until everything is acknowledged; true if the transaction has even ended.
fn acknowledged(contract: &Contract<'_>, producer: &mut dyn Producer) -> Verdict<bool> {
    contract.patiently("acknowledgements", || match producer.progress(contract.patience.timeout) {
        Progress::Sending => Ok(None),
        Progress::Acknowledged => Ok(Some(false)),
        Progress::Done(Outcome::Committed { .. }) => Ok(Some(true)),
        Progress::Done(other) => Err(format!("commit: {other:?}, expected Committed")),
    })
}

/// Nothing of a refused commit may be there: neither the position nor the record.
pub(super) fn nothing_happened(contract: &Contract<'_>, consumer: &mut dyn crate::broker::Consumer, partition: &TopicPartition) -> Verdict {
    expect("position of a refused commit", contract.committed(consumer, partition)?, None)?;
    let log = contract.read(std::slice::from_ref(partition))?;
    expect("records of a refused commit", texts(&log, partition), Vec::new())
}
