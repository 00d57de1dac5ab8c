//! A small lane that copies topic to topic, exactly once, while everything fails: if the world were wrong about
//! transactions, fencing or rebalances, copies would be missing, double or out of order.

use std::collections::BTreeMap;

use super::*;
use crate::sim::faults::Random;

const PARTITIONS: i32 = 4;
const RECORDS: usize = 60;

struct Copier {
    slot: usize,
    consumer: Box<dyn Consumer>,
    producer: Option<Box<dyn Producer>>,
    /// Next offsets to commit.
    positions: BTreeMap<TopicPartition, i64>,
    assigned: Vec<TopicPartition>,
    /// The committed positions must be read before anything is consumed.
    rewind: bool,
    open: bool,
    committing: bool,
}

impl Copier {
    fn new(broker: &MemoryBroker, slot: usize) -> Copier {
        Copier {
            slot,
            consumer: broker.consumer("copiers", &format!("lane-{slot}"), &owned(&["in"])).unwrap(),
            producer: None,
            positions: BTreeMap::new(),
            assigned: Vec::new(),
            rewind: false,
            open: false,
            committing: false,
        }
    }

    fn step(&mut self, broker: &MemoryBroker) {
        if self.producer.is_none() {
            (self.open, self.committing, self.rewind) = (false, false, true);
            match broker.producer(Some(&format!("copier-{}", self.slot))) {
                Ok(producer) => self.producer = Some(producer),
                Err(_) => return,
            }
        }
        if self.committing {
            return self.progress();
        }
        if self.rewind && !self.assigned.is_empty() {
            match self.consumer.committed(&self.assigned) {
                Ok(committed) => {
                    let offsets = committed.into_iter().map(|c| c.map_or(0, |c| c.offset));
                    self.positions = self.assigned.iter().cloned().zip(offsets).collect();
                    let start: Vec<_> = self.positions.clone().into_iter().collect();
                    self.consumer.start(&start).unwrap();
                    self.rewind = false;
                }
                Err(error) => assert_eq!(error.failure, Failure::Transient, "{error}"),
            }
        }
        match self.consumer.poll(10, NOW) {
            Ok(events) => events.into_iter().for_each(|event| self.on_event(event)),
            Err(error) => assert_eq!(error.failure, Failure::Transient, "{error}"),
        }
        if self.open && !self.committing {
            self.commit();
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Assigned(partitions) => (self.assigned, self.rewind) = (partitions, true),
            Event::Revoked { lost, .. } => {
                if self.open && !lost && !self.rewind {
                    self.commit();
                    while self.committing {
                        self.progress();
                    }
                }
                self.abort();
                self.assigned.clear();
                self.consumer.release().unwrap();
            }
            Event::Records { partition, records } if !self.rewind => {
                for index in 0..records.len() {
                    self.copy(&partition, records.get(index));
                }
            }
            Event::Records { .. } | Event::End { .. } | Event::Ends(_) => {}
        }
    }

    fn copy(&mut self, partition: &TopicPartition, record: crate::broker::Record<'_>) {
        let Some(producer) = self.producer.as_mut().filter(|_| !self.rewind) else { return };
        let out = Outgoing {
            topic: &Arc::from("out"),
            partition: partition.partition,
            timestamp: record.timestamp,
            key: record.key,
            value: record.value,
            headers: &[],
            tag: None,
        };
        let begun = if self.open { Ok(()) } else { producer.begin() };
        self.open |= begun.is_ok();
        match begun.and_then(|()| producer.send(out)) {
            Ok(()) => {
                self.positions.insert(partition.clone(), record.offset + 1);
            }
            Err(error) if error.failure == Failure::AbortTransaction => self.abort(),
            Err(_) => self.abandon(),
        }
    }

    fn commit(&mut self) {
        let at = |(partition, offset): (TopicPartition, i64)| (partition, Committed { offset, metadata: String::new() });
        let offsets = self.positions.clone().into_iter().map(at).collect();
        let Some(producer) = &mut self.producer else { return };
        match producer.commit(offsets, self.consumer.membership()) {
            Ok(()) => self.committing = true,
            Err(_) => self.abandon(),
        }
    }

    fn progress(&mut self) {
        let Some(producer) = &mut self.producer else { return };
        let Progress::Done(outcome) = producer.progress(NOW) else { return };
        (self.open, self.committing) = (false, false);
        match outcome {
            Outcome::Committed { .. } => {}
            Outcome::Aborted(_) => self.rewind = true,
            Outcome::Fenced(_) | Outcome::Unknown(_) => self.abandon(),
        }
    }

    fn abort(&mut self) {
        if self.open && self.producer.as_mut().is_some_and(|producer| producer.abort().is_err()) {
            return self.abandon();
        }
        (self.open, self.rewind) = (false, true);
    }

    fn abandon(&mut self) {
        self.producer = None;
        (self.open, self.committing, self.rewind) = (false, false, true);
    }
}

/// Runs two copiers with crashes and faults, then without, and says what is wrong with the copies.
fn simulate(seed: u64, guard_membership: bool) -> Result<BTreeMap<Fault, u64>, String> {
    let settings = Settings { seed: Some(seed), guard_membership, ..Settings::default() };
    let broker = MemoryBroker::with(MemoryClock::at(0), settings);
    broker.create_topic("in", PARTITIONS);
    broker.create_topic("out", PARTITIONS);
    let mut random = Random::new(seed);
    let mut lanes: Vec<Copier> = (0..2).map(|slot| Copier::new(&broker, slot)).collect();
    broker.set_faults(Faults::everything(seed, 300));
    let mut written = 0;
    let whole = RECORDS * PARTITIONS as usize;
    for round in 0..60_000 {
        if round == 1500 {
            broker.heal();
        }
        if round % 5 == 0 && written < whole {
            let value = format!("{:04}", written / PARTITIONS as usize);
            let partition = written as i32 % PARTITIONS;
            broker.append("in", partition, Some(b"k"), Some(value.as_bytes()), Some(1), &[]).unwrap();
            written += 1;
        }
        broker.clock().unwrap().advance(50);
        let slot = random.below(2) as usize;
        if round < 1500 && random.below(150) == 0 {
            lanes[slot] = Copier::new(&broker, slot);
        }
        lanes[slot].step(&broker);
        if round > 1500 && round % 500 == 0 && broker.read_all_committed("out").len() >= whole {
            break;
        }
    }
    broker.settle();
    for partition in 0..PARTITIONS {
        let copies: Vec<String> = broker
            .read_all_committed("out")
            .into_iter()
            .filter(|record| record.partition == partition)
            .map(|record| String::from_utf8(record.value.unwrap()).unwrap())
            .collect();
        let expected: Vec<String> = (0..RECORDS).map(|number| format!("{number:04}")).collect();
        if copies != expected {
            return Err(format!("seed {seed}, partition {partition}: {copies:?}"));
        }
    }
    Ok(broker.faults_happened())
}

#[test]
fn copies_are_exact_whatever_fails() {
    let mut happened: BTreeMap<Fault, u64> = BTreeMap::new();
    for seed in 0..60 {
        match simulate(seed, true) {
            Ok(faults) => faults.into_iter().for_each(|(fault, times)| *happened.entry(fault).or_default() += times),
            Err(wrong) => panic!("{wrong}"),
        }
    }
    // The copier commits through transactions only.
    let not_here = [Fault::OffsetRequestLost, Fault::OffsetReplyLost, Fault::BoundsFails];
    for fault in FAULTS.iter().filter(|fault| !not_here.contains(fault)) {
        assert!(happened.contains_key(fault), "{fault:?} was never tried");
    }
}

#[test]
fn the_same_seed_runs_the_same_way() {
    assert_eq!(simulate(7, true), simulate(7, true));
}

#[test]
fn without_the_guard_some_seed_finds_the_hole() {
    assert!((0..400).any(|seed| simulate(seed, false).is_err()), "KAFKA-9365 was not found");
}
