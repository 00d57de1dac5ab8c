//! Positioned delivery over the in-memory log into the in-memory store: exact content after crashes and faults at every step.

use std::collections::BTreeMap;
use std::sync::Arc;

use headwater_formats::encode_batch;

use super::*;
use crate::delivery::contract::changes_block;
use crate::delivery::tests::{GROUP, PARTITIONS, Rig, TOPIC, content};
use crate::delivery::{Block, Stop, TableFault};
use crate::sim::{Fault, Faults, MemoryBroker};

const FAULTS: [TableFault; 4] = [TableFault::Unavailable, TableFault::RequestLost, TableFault::ReplyLost, TableFault::Late];

struct Harness {
    rig: Rig,
    store: MemoryStore,
}

impl Harness {
    fn new(broker: MemoryBroker) -> Harness {
        let mut rig = Rig::new(broker, 0);
        rig.code = "23514";
        Harness { rig, store: MemoryStore::new(Writing::Insert).constrained() }
    }

    fn plain() -> Harness {
        Harness::new(MemoryBroker::new())
    }

    fn lane(&self, number: usize) -> PositionedDelivery {
        let mut settings = self.rig.settings.clone();
        settings.instance = format!("lane-{number}");
        settings.transactional_id = format!("letters-{number}");
        let (broker, store) = (Arc::new(self.rig.broker.clone()), Box::new(self.store.connection()));
        PositionedDelivery::new(broker, self.rig.clock.clone(), store, settings, Arc::default()).unwrap()
    }

    /// The store's positions are behind the last records, and the group shows it.
    fn settled(&self) -> bool {
        let mut last = BTreeMap::new();
        for record in self.rig.broker.read_all_committed(TOPIC) {
            last.insert(record.partition, record.offset);
        }
        let (positions, group) = (self.store.positions(), self.rig.broker.group_offsets(GROUP));
        last.iter().all(|(partition, offset)| {
            let shown = group.get(&TopicPartition::new(TOPIC, *partition)).map_or(-1, |committed| committed.offset);
            positions.get(partition).is_some_and(|position| position.offset > *offset && position.offset <= shown)
        })
    }

    fn finish(&self, lanes: &mut [PositionedDelivery], what: &str) {
        for _ in 0..60_000 {
            for lane in lanes.iter_mut() {
                self.rig.step(lane).unwrap_or_else(|error| panic!("{what}: {error}"));
            }
            if self.settled() {
                return;
            }
        }
        let errors: Vec<_> = lanes.iter().map(|lane| lane.counters.last_error()).collect();
        panic!("{what}: not settled: {:?} {errors:?}", self.store.positions());
    }

    fn assert_exact(&self, what: &str) {
        self.rig.broker.settle();
        let (good, bad) = self.rig.expected();
        assert_eq!(self.store.rows(), good, "{what}");
        assert_eq!(self.rig.dead_letters(), bad, "{what}");
    }
}

#[test]
fn the_store_in_memory_keeps_the_contract() {
    let store = MemoryStore::new(Writing::Insert).constrained();
    let id = |row: &crate::delivery::TableRow| {
        let text = row.json.strip_prefix("{\"id\":").and_then(|rest| rest.split(',').next());
        text.and_then(|text| text.parse().ok()).unwrap_or(-1)
    };
    let mut connect = || -> Result<Box<dyn Positioned>, String> { Ok(Box::new(store.connection())) };
    contract::all(&mut connect, &mut || Ok(store.rows().iter().map(id).collect())).unwrap();
}

#[test]
fn every_row_is_in_the_table_or_in_the_dead_letters() {
    let mut harness = Harness::plain();
    harness.rig.fill(12, 4);
    let mut lane = harness.lane(0);
    harness.finish(std::slice::from_mut(&mut lane), "undisturbed");
    harness.assert_exact("undisturbed");
    let (good, bad) = harness.rig.expected();
    assert_eq!((lane.counters.rows(), lane.counters.refused()), (good.len() as u64, bad.len() as u64));
    assert_eq!((lane.counters.lag(), lane.counters.buffered()), (0, 0));
}

#[test]
fn a_block_that_takes_too_long_is_halved() {
    for most in [1, 2, 5] {
        let mut harness = Harness::plain();
        harness.rig.fill(12, 4);
        harness.store = harness.store.clone().slow(most);
        let mut lane = harness.lane(0);
        harness.finish(std::slice::from_mut(&mut lane), "slow");
        harness.assert_exact("slow");
        assert_eq!(lane.counters.refused(), harness.rig.expected().1.len() as u64, "slow rows are not refused");
    }
}

/// The rows of an update are one transaction, whatever happens to the rows beside them: between two a reader, and tables that refer to
/// the row, would see it gone.
#[test]
fn a_refused_row_does_not_take_the_row_beside_it_away() {
    let harness = Harness::plain();
    let store = MemoryStore::new(Writing::Changes(vec!["id".to_owned()])).constrained();
    let harness = Harness { store, ..harness };
    let record = |changes: &[(i64, i64, i8)]| {
        let rows = changes_block(0, 0, changes).unwrap().rows;
        encode_batch(&rows.project(&[0, 1, 2]).unwrap()).unwrap()
    };
    harness.rig.broker.append(TOPIC, 0, None, Some(&record(&[(1, 10, 1), (2, 20, 1)])), None, &[]).unwrap();
    let mut lane = harness.lane(0);
    harness.finish(std::slice::from_mut(&mut lane), "first rows");
    let second = record(&[(1, 10, -1), (1, 11, 1), (3, -5, 1), (2, 20, -1), (2, 21, 1)]);
    harness.rig.broker.append(TOPIC, 0, None, Some(&second), None, &[]).unwrap();
    for _ in 0..60_000 {
        harness.rig.step(&mut lane).unwrap();
        let there: Vec<i64> = content(&harness.store.rows()).into_iter().map(|(id, _)| id).collect();
        assert_eq!(there, [1, 2], "both rows are there at any time");
        if harness.settled() {
            break;
        }
    }
    assert_eq!(content(&harness.store.rows()), [(1, 11), (2, 21)]);
    assert_eq!(harness.rig.dead_letters(), [(0, 1, 2)]);
}

#[test]
fn a_crash_after_any_number_of_steps_changes_nothing() {
    for steps in 0..120 {
        let mut harness = Harness::plain();
        harness.rig.fill(4, 3);
        let mut lane = harness.lane(0);
        for _ in 0..steps {
            harness.rig.step(&mut lane).unwrap();
        }
        drop(lane);
        harness.rig.broker.expire_dropped();
        // With the same transactional id: a transaction that was left open is settled.
        harness.finish(&mut [harness.lane(0)], &format!("crash after {steps} steps"));
        harness.assert_exact(&format!("crash after {steps} steps"));
    }
}

#[test]
fn a_fault_of_any_transaction_changes_nothing() {
    for fault in FAULTS {
        for skip in 0..8 {
            let mut harness = Harness::plain();
            harness.rig.fill(4, 3);
            harness.store.inject(skip, fault);
            harness.finish(&mut [harness.lane(0)], &format!("{fault:?} {skip}"));
            assert!(harness.store.is_struck(), "{fault:?} {skip}");
            harness.assert_exact(&format!("{fault:?} {skip}"));
        }
    }
}

/// Two lanes, every fault of the log and of the store, crashes; then everything heals and must come to rest.
fn simulate(seed: u64) -> (u64, BTreeMap<Fault, u64>) {
    let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut below = move |limit: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % limit
    };
    let mut harness = Harness::new(MemoryBroker::seeded(seed));
    harness.rig.fill(6, 4);
    let faults = Faults::everything(seed, 150).with(Fault::Kicked, 60).with(Fault::Rebalance, 60);
    let often = [Fault::CommitRefused, Fault::CommitRequestLost, Fault::CommitReplyLost, Fault::CommitLate, Fault::AbortFails];
    harness.rig.broker.set_faults(often.into_iter().fold(faults, |faults, fault| faults.with(fault, 1_500)));
    harness.store.seed(seed, &FAULTS.map(|fault| (fault, 600)));
    let mut lanes = vec![harness.lane(0), harness.lane(1)];
    for _ in 0..600 {
        let at = below(lanes.len() as u64) as usize;
        match below(40) {
            0 => {
                drop(lanes.swap_remove(at));
                let missing = (0..2).find(|n| !lanes.iter().any(|l| l.settings.instance == format!("lane-{n}"))).unwrap();
                lanes.push(harness.lane(missing));
                if below(2) == 0 {
                    harness.rig.broker.expire_dropped();
                }
            }
            1..=4 => {
                let (partition, rows, bad) = (below(3) as i32, 1 + below(12) as usize, below(4) == 0);
                harness.rig.append(partition, rows, bad);
            }
            5 => harness.rig.clock.advance(below(3_000) as i64),
            _ => drop(harness.rig.step(&mut lanes[at]).unwrap_or_else(|error| panic!("seed {seed}: {error}"))),
        }
    }
    let happened = harness.rig.broker.faults_happened();
    harness.rig.broker.heal();
    harness.store.heal();
    harness.rig.broker.settle();
    harness.finish(&mut lanes, &format!("seed {seed}"));
    harness.rig.clock.advance(30_000);
    harness.assert_exact(&format!("seed {seed}"));
    (harness.store.transactions(), happened)
}

#[test]
fn seeded_faults_and_crashes_leave_the_exact_content() {
    let (mut transactions, mut happened) = (0, BTreeMap::<Fault, u64>::new());
    for seed in 0..100 {
        let (committed, faults) = simulate(seed);
        transactions += committed;
        faults.into_iter().for_each(|(fault, count)| *happened.entry(fault).or_default() += count);
    }
    assert!(transactions > 1_000, "{transactions}");
    for fault in [Fault::OffsetReplyLost, Fault::Kicked, Fault::Rebalance, Fault::CommitReplyLost, Fault::PollFails] {
        assert!(happened.get(&fault).is_some_and(|count| *count > 5), "{fault:?}: {happened:?}");
    }
}

#[test]
fn whoever_claims_a_partition_takes_it_and_nothing_is_written_twice() {
    let mut harness = Harness::plain();
    harness.rig.fill(6, 0);
    let mut lane = harness.lane(0);
    let mut thief = harness.store.connection();
    for n in 0..20 {
        harness.rig.step(&mut lane).unwrap();
        thief.claim(n % PARTITIONS, None);
        thief.progress(Duration::ZERO);
    }
    harness.finish(std::slice::from_mut(&mut lane), "fenced");
    assert!(lane.counters.retries() > 0, "it was fenced");
    harness.assert_exact("fenced");
}

#[test]
fn a_position_that_is_lost_stops_the_delivery() {
    let mut harness = Harness::plain();
    harness.rig.append(0, 3, false);
    harness.finish(&mut [harness.lane(0)], "first");
    harness.rig.broker.expire_dropped();
    harness.store.lose_positions();
    let error = harness.rig.run_until_error(&mut harness.lane(1));
    assert!(matches!(&error, DeliveryError::Stopped { stop: Stop::StoreLostPosition { shown: 1 }, .. }), "{error}");
}

#[test]
fn rows_of_an_outbox_that_was_created_again_are_not_skipped() {
    let mut harness = Harness::plain();
    harness.rig.append(0, 3, false);
    harness.finish(&mut [harness.lane(0)], "first");
    harness.rig.broker.expire_dropped();
    harness.rig.broker.delete_topic(TOPIC);
    harness.rig.broker.create_topic(TOPIC, PARTITIONS);
    harness.rig.append_five();
    let error = harness.rig.run_until_error(&mut harness.lane(1));
    assert!(matches!(&error, DeliveryError::Setup(why) if why.contains("another topic")), "{error}");
}

#[test]
fn records_that_were_deleted_before_they_were_delivered_stop_the_delivery() {
    let mut harness = Harness::plain();
    harness.rig.append_five();
    harness.rig.broker.delete_before(TOPIC, 0, 2);
    let error = harness.rig.run_until_error(&mut harness.lane(0));
    assert!(matches!(&error, DeliveryError::Stopped { stop: Stop::Deleted { at: 0, low: 2 }, .. }), "{error}");
}

#[test]
fn an_idle_partition_moves_its_position_past_the_markers_at_its_end() {
    let mut harness = Harness::plain();
    harness.rig.fill(1, 0);
    let mut lane = harness.lane(0);
    harness.finish(std::slice::from_mut(&mut lane), "written");
    let before = harness.store.positions();
    harness.rig.clock.advance(3_600_000);
    while harness.store.positions().iter().any(|(partition, position)| before.get(partition) == Some(position)) {
        harness.rig.step(&mut lane).unwrap();
    }
    harness.assert_exact("idle");
}

#[test]
fn upserts_leave_the_last_row_of_a_key() {
    let store = MemoryStore::new(Writing::Upsert(vec!["id".into()]));
    let mut connection = store.connection();
    connection.claim(0, None);
    assert_eq!(connection.progress(Duration::ZERO), Reply::Claimed(None));
    for first in [0, 1] {
        let block = crate::delivery::contract::block(0, first, 0..3, None).unwrap();
        connection.write(&block, Position { offset: first + 1, row: 0 });
        assert_eq!(connection.progress(Duration::ZERO), Reply::Written);
    }
    assert_eq!(store.rows().iter().map(|row| row.offset).collect::<Vec<_>>(), [1, 1, 1]);
}

#[test]
fn the_store_in_memory_passes_the_contract_of_changes() {
    use crate::delivery::contract::changes;
    let store = MemoryStore::new(Writing::Changes(vec!["id".into()]));
    let mut connection = store.connection();
    connection.claim(7, None);
    assert_eq!(connection.progress(Duration::ZERO), Reply::Claimed(None));
    let mut write = |block: &Block| {
        connection.write(block, Position { offset: block.last + 1, row: 0 });
        match connection.progress(Duration::ZERO) {
            Reply::Written => Ok(()),
            other => Err(format!("{other:?}")),
        }
    };
    changes(&mut write, &mut || Ok(content(&store.rows()))).unwrap();
}
