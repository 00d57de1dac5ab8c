//! Delivery over the in-memory log into the in-memory table: exact content after crashes and faults at every step.

mod arrival;
mod doubt;
mod simulation;
mod stops;
mod unfit;
mod zombies;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use headwater_formats::{decode_batch, encode_batch};

use super::memory::{MemoryTable, TableFault};
use super::table_rows::TableRow;
use super::*;
use crate::broker::{
    Broker, Clock, Committed, Consumer, Event, Membership, Outcome, Outgoing, Producer, Progress as CommitProgress, Reader, TopicSpec,
};
use crate::sim::{Fault, Faults, MemoryBroker, MemoryClock, Tombstones};

pub(crate) const TOPIC: &str = "hw.test.sink.outbox";
pub(crate) const DLQ: &str = "hw.test.sink.outbox.dlq";
pub(crate) const GROUP: &str = "hw.test.sink";
pub(crate) const PARTITIONS: i32 = 3;

/// `id` and `amount` of rows, by `id`.
pub(crate) fn content(rows: &[TableRow]) -> Vec<(i64, i64)> {
    let number = |row: &serde_json::Value, column: &str| row[column].as_i64().unwrap();
    let rows = rows.iter().map(|row| serde_json::from_str(&row.json).unwrap());
    let mut content: Vec<(i64, i64)> = rows.map(|row| (number(&row, "id"), number(&row, "amount"))).collect();
    content.sort_unstable();
    content
}

pub(crate) struct Rig {
    pub broker: MemoryBroker,
    pub clock: Arc<MemoryClock>,
    pub table: MemoryTable,
    pub settings: Settings,
    pub next_id: i64,
    /// With which the table refuses rows.
    pub code: &'static str,
}

impl Rig {
    pub fn new(broker: MemoryBroker, window: usize) -> Rig {
        let clock = broker.clock().unwrap();
        broker.create_topic(TOPIC, PARTITIONS);
        broker.create_topic(DLQ, 2);
        let mut settings = Settings::new("test", "s", TOPIC, GROUP, "lane");
        settings.dead_letters = Some(DLQ.into());
        settings.limits = Limits { rows: 10, bytes: 1 << 20, flush: 50 };
        settings.session_timeout = 10_000;
        let table = MemoryTable::new(clock.clone(), window).constrained();
        Rig { broker, clock, table, settings, next_id: 0, code: "469" }
    }

    pub fn plain() -> Rig {
        Rig::new(MemoryBroker::new(), 1_000)
    }

    pub fn lane(&self, number: usize) -> Delivery {
        let mut settings = self.settings.clone();
        settings.instance = format!("lane-{number}");
        settings.transactional_id = format!("letters-{number}");
        self.lane_with(settings, self.table.target())
    }

    pub fn lane_with(&self, settings: Settings, target: MemoryTarget) -> Delivery {
        Delivery::new(Arc::new(self.broker.clone()), self.clock.clone(), Box::new(target), settings).unwrap()
    }

    pub fn value(&mut self, rows: usize, bad: bool) -> Vec<u8> {
        let ids: Vec<i64> = (self.next_id..).take(rows).collect();
        self.next_id += rows as i64;
        let amounts: ArrayRef =
            Arc::new(ids.iter().enumerate().map(|(n, id)| if bad && n == 0 { -id - 1 } else { *id }).collect::<Int64Array>());
        let ids: ArrayRef = Arc::new(Int64Array::from(ids));
        encode_batch(&RecordBatch::try_from_iter([("id", ids), ("amount", amounts)]).unwrap()).unwrap()
    }

    pub fn append(&mut self, partition: i32, rows: usize, bad: bool) -> i64 {
        let value = self.value(rows, bad);
        self.broker.append(TOPIC, partition, None, Some(&value), None, &[]).unwrap()
    }

    pub fn append_five(&mut self) {
        for _ in 0..5 {
            self.append(0, 1, false);
        }
    }

    /// Some records in every partition, in transactions of which every third is aborted.
    pub fn fill(&mut self, transactions: usize, bad_every: usize) {
        let topic: Arc<str> = TOPIC.into();
        let mut producer = self.broker.producer(Some("pipeline")).unwrap();
        let membership = Membership { group: "pipeline".into(), generation: 1, member: "m".into(), instance: None };
        for n in 0..transactions {
            producer.begin().unwrap();
            for partition in 0..PARTITIONS {
                let bad = bad_every > 0 && (n * 3 + partition as usize).is_multiple_of(bad_every);
                let value = self.value(1 + (n * 7 + partition as usize) % 6, bad);
                let value = (n % 5 != 4 || partition > 0).then_some(value.as_slice());
                let (timestamp, key, headers, tag) = (None, None, &[][..], None);
                producer.send(Outgoing { topic: &topic, partition, timestamp, key, value, headers, tag }).unwrap();
            }
            if n % 3 == 2 {
                producer.abort().unwrap();
                continue;
            }
            producer.commit(Vec::new(), membership.clone()).unwrap();
            loop {
                match producer.progress(Duration::ZERO) {
                    CommitProgress::Done(Outcome::Committed { .. }) => break,
                    CommitProgress::Done(other) => panic!("{other:?}"),
                    _ => self.clock.advance(1),
                }
            }
        }
        self.broker.settle();
    }

    /// What must be in the table and in the dead letters: every committed row, once.
    pub fn expected(&self) -> (Vec<TableRow>, Vec<(i32, i64, i32)>) {
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for record in self.broker.read_all_committed(TOPIC) {
            let Some(value) = record.value else { continue };
            let rows = decode_batch(&value).unwrap();
            let (ids, amounts) = (rows.column(0).as_primitive::<Int64Type>(), rows.column(1).as_primitive::<Int64Type>());
            for row in 0..rows.num_rows() {
                let (partition, offset, place) = (record.partition, record.offset, row as i32);
                if amounts.value(row) < 0 {
                    bad.push((partition, offset, place));
                } else {
                    let json = format!("{{\"id\":{},\"amount\":{}}}", ids.value(row), amounts.value(row));
                    good.push(TableRow { partition, offset, row: place, json, gone: false });
                }
            }
        }
        good.sort();
        bad.sort_unstable();
        (good, bad)
    }

    pub fn dead_letters(&self) -> Vec<(i32, i64, i32)> {
        let position = |headers: &[crate::sim::Header]| {
            let text = |name: &str| {
                let header = headers.iter().find(|(found, _)| found == name.as_bytes()).unwrap();
                String::from_utf8(header.1.clone().unwrap()).unwrap()
            };
            assert_eq!((text("hw-code").as_str(), text("hw-topic").as_str()), (self.code, TOPIC));
            assert!(text("hw-cause").contains("amount"));
            let number = |name: &str| text(name).parse::<i64>().unwrap();
            (number("hw-partition") as i32, number("hw-offset"), number("hw-row") as i32)
        };
        let mut found: Vec<_> = self.broker.read_all_committed(DLQ).iter().map(|record| position(&record.headers)).collect();
        found.sort_unstable();
        found
    }

    /// Every partition's position is behind its last record, with no unsettled block.
    pub fn settled(&self) -> bool {
        let mut last = BTreeMap::new();
        for record in self.broker.read_all_committed(TOPIC) {
            last.insert(record.partition, record.offset);
        }
        let positions = self.broker.group_offsets(GROUP);
        last.iter().all(|(partition, offset)| {
            let position = positions.get(&TopicPartition::new(TOPIC, *partition));
            position.is_some_and(|position| position.metadata == CLEAN && position.offset > *offset)
        })
    }

    /// One step; time passes when there is nothing to do.
    pub fn step(&self, lane: &mut dyn Deliver) -> Result<Step, DeliveryError> {
        let step = lane.step(Duration::ZERO)?;
        if step != Step::Busy {
            self.clock.advance(20);
        }
        Ok(step)
    }

    pub fn finish(&self, lanes: &mut [Delivery]) {
        self.finish_named(lanes, "");
    }

    pub fn finish_named(&self, lanes: &mut [Delivery], what: &str) {
        for _ in 0..60_000 {
            for lane in lanes.iter_mut() {
                self.step(lane).unwrap_or_else(|error| panic!("{what}: {error}"));
            }
            if self.settled() {
                return;
            }
        }
        let errors: Vec<_> = lanes.iter().map(|lane| lane.counters().last_error()).collect();
        panic!("{what}: not settled: {:?} {errors:?}", self.broker.group_offsets(GROUP));
    }

    pub fn assert_exact(&self, what: &str) {
        self.broker.settle(); // markers of the last letters
        let (good, bad) = self.expected();
        assert_eq!(self.table.rows(), good, "{what}");
        assert_eq!(self.dead_letters(), bad, "{what}");
    }

    pub fn run_until_error(&self, lane: &mut dyn Deliver) -> DeliveryError {
        for _ in 0..60_000 {
            if let Err(error) = self.step(lane) {
                return error;
            }
        }
        panic!("no error: {:?}", self.broker.group_offsets(GROUP));
    }

    pub fn commit_as_somebody(&self, partition: i32, offset: i64, metadata: &str) {
        let mut consumer = self.broker.consumer(GROUP, "tool", &[TOPIC.to_owned()]).unwrap();
        for _ in 0..10 {
            consumer.poll(1, Duration::ZERO).unwrap();
        }
        let position = Committed { offset, metadata: metadata.to_owned() };
        consumer.commit(&[(TopicPartition::new(TOPIC, partition), position)]).unwrap();
        drop(consumer);
        self.broker.expire_dropped();
    }
}
