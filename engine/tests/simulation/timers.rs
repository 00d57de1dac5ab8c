//! Timers of event time and of the wall clock fire once, in order, and when their time has come.

use std::collections::BTreeMap;
use std::time::Duration;

use headwater_engine::broker::Clock;
use headwater_engine::lane::{Lane, LaneConfig};
use headwater_engine::sim::MemoryBroker;
use serde_json::Value;

use crate::case::{Case, PARTITIONS};
use crate::harness::{Outcome, Run};
use crate::oracle::seen;
use crate::played::Played;
use crate::remind::{AGAIN, SPAN, WAKE};
use crate::seeds;

const START: i64 = 1_767_225_600_000;

const PIPELINE: &str = over_orders!(
    r#"steps:
  reminded: { from: orders, remind: {} }
sinks:
  reminded: { from: reminded, topic: reminded, key: id, create: { partitions: 1 } }
  woken: { from: reminded.woken, topic: woken, key: id, create: { partitions: 1 } }
"#
);

/// The rows of a topic in their order: id and a number.
fn rows(broker: &MemoryBroker, topic: &str, number: &str) -> Vec<(String, i64)> {
    let of = |value: &[u8]| {
        let value: Value = serde_json::from_slice(value).unwrap();
        (value["id"].as_str().unwrap().to_string(), value[number].as_i64().unwrap())
    };
    broker.read_all_committed(topic).iter().map(|record| of(record.value.as_deref().unwrap())).collect()
}

fn counted(rows: impl IntoIterator<Item = (String, i64)>) -> BTreeMap<(String, i64), usize> {
    let mut counts = BTreeMap::new();
    rows.into_iter().for_each(|row| *counts.entry(row).or_default() += 1);
    counts
}

/// Each timer that is to fire did so once, and those of a partition in the order of time and key.
fn check(outcome: &Outcome, seed: u64) {
    let (mut reminded, mut woken) = (Vec::new(), Vec::new());
    for (order, watermark) in seen(&outcome.case) {
        woken.push((order.id.clone(), order.offset));
        if watermark.is_none_or(|watermark| order.at >= watermark) {
            let due = (order.at.div_euclid(SPAN) + 2) * SPAN;
            reminded.extend([due, due + AGAIN].map(|due| (order.id.clone(), due)));
        }
    }
    reminded.sort_unstable();
    reminded.dedup();
    assert_eq!(counted(rows(&outcome.broker, "woken", "row")), counted(woken), "seed {seed}: timers of the wall clock");
    let fired = rows(&outcome.broker, "reminded", "due");
    for partition in 0..PARTITIONS {
        let of_partition = fired.iter().filter(|(id, _)| headwater_formats::partition(id.as_bytes(), PARTITIONS) == partition);
        let fired: Vec<(i64, &str)> = of_partition.map(|(id, due)| (*due, id.as_str())).collect();
        assert!(fired.is_sorted(), "seed {seed}: partition {partition}: {fired:?}");
    }
    assert_eq!(counted(fired), counted(reminded), "seed {seed}: timers of event time");
}

/// Lanes die, commits fail, partitions move.
#[test]
fn timers_fire_once_and_in_order() {
    for seed in seeds() {
        let case = Case { clock_ahead: 100_000, ..Case::new(seed) };
        check(&Run::of(&case, seed, PIPELINE).undisturbed(), seed);
        check(&Run::of(&case, seed, PIPELINE).disturbed(), seed);
    }
}

fn append(played: &Played, id: &str, at: i64) {
    let value = format!("{{\"id\":\"{id}\",\"product\":\"p\",\"amount\":1,\"at\":{at}}}");
    played.broker.append("orders", 0, Some(b"k"), Some(value.as_bytes()), None, &[]).unwrap();
}

/// With rows coming all the time, and with none: the lane wakes by itself.
#[test]
fn a_timer_of_the_wall_clock_fires_within_a_second() {
    for traffic in [true, false] {
        let played = Played::new(PIPELINE, &[("orders", 1)]);
        let clock = played.broker.clock().unwrap();
        let mut lane = played.lane(LaneConfig::new("w", 0));
        append(&played, "a", START);
        let mut seen = 0;
        for _ in 0..200 {
            clock.advance(50);
            lane.step(Duration::ZERO).unwrap();
            if traffic {
                append(&played, "a", START);
            }
            let woken = rows(&played.broker, "woken", "due");
            for (_, due) in &woken[seen..] {
                assert!((0..=1_000).contains(&(clock.wall() - due)), "{} ms after its time, traffic: {traffic}", clock.wall() - due);
            }
            seen = woken.len();
        }
        assert!(seen == 1 || traffic && seen > 100, "{seen} timers fired, traffic: {traffic}");
    }
}

/// What was in the log before a timer's time comes before it, however long that takes to be read. With a second partition, which has none.
#[test]
fn a_timer_of_the_wall_clock_waits_for_what_was_written_before_its_time() {
    for partitions in [1, 2] {
        let played = Played::new(PIPELINE, &[("orders", partitions)]);
        let clock = played.broker.clock().unwrap();
        let mut lane = played.lane(LaneConfig::new("w", 0));
        let turns = |lane: &mut Lane| {
            for _ in 0..100 {
                clock.work(20);
                lane.step(Duration::ZERO).unwrap();
            }
            rows(&played.broker, "woken", "row").into_iter().map(|(_, row)| row).collect::<Vec<i64>>()
        };
        append(&played, "a", START);
        turns(&mut lane);
        // Something that is not readable yet: no timer fires, whoever runs.
        played.broker.hold("orders", 0, Some(1));
        append(&played, "b", START + 1_000);
        clock.advance(WAKE * 2);
        assert_eq!(turns(&mut lane), [0; 0]);
        drop(lane);
        played.broker.expire_dropped();
        let mut lane = played.lane(LaneConfig::new("w", 0));
        assert_eq!(turns(&mut lane), [0; 0]);
        // What comes after its time is not waited for.
        append(&played, "c", START + 2 * WAKE);
        played.broker.hold("orders", 0, Some(2));
        assert_eq!(turns(&mut lane), [0]);
    }
}

/// A partition that is never read to its end follows what was there a moment ago; one that is far behind, its rows.
#[test]
fn timers_of_the_wall_clock_fire_under_load_and_in_a_backlog() {
    let played = Played::new(PIPELINE, &[("orders", 1)]);
    let clock = played.broker.clock().unwrap();
    let mut lane = played.lane(LaneConfig::new("w", 0));
    let (mut written, mut seen) = (0, 0);
    let mut turn = |lane: &mut Lane, read_to: &dyn Fn(i64) -> i64| {
        append(&played, "a", clock.wall());
        written += 1;
        played.broker.hold("orders", 0, Some(read_to(written)));
        clock.advance(50);
        lane.step(Duration::ZERO).unwrap();
        rows(&played.broker, "woken", "due")
    };
    for _ in 0..200 {
        let woken = turn(&mut lane, &|written| written - 5);
        for (_, due) in &woken[seen..] {
            assert!((0..=2_000).contains(&(clock.wall() - due)), "{} ms after its time", clock.wall() - due);
        }
        seen = woken.len();
    }
    assert!(seen > 50, "{seen} timers fired");
    // It falls behind: rows come in at half the pace, and timers follow their times.
    let from = clock.wall();
    let mut last = 0;
    for n in 0..400 {
        last = turn(&mut lane, &|written| written - 5 - n / 2).last().unwrap().1;
    }
    assert!((from + 3_000..clock.wall() - 3_000).contains(&last), "{} of {} ms", last - from, clock.wall() - from);
}

/// As many as an eighth of an epoch's rows fire in one round, and the epoch may end between rounds.
#[test]
fn timers_that_are_due_together_fire_in_portions_and_in_order() {
    let played = Played::new(PIPELINE, &[("orders", 1)]);
    let clock = played.broker.clock().unwrap();
    let run = |lane: &mut Lane| {
        for _ in 0..2_000 {
            clock.work(1);
            lane.step(Duration::ZERO).unwrap();
        }
    };
    (0..500).for_each(|n| append(&played, &format!("{n:03}"), START));
    append(&played, "x", START);
    let mut lane = played.lane(LaneConfig { epoch_rows: 40, ..LaneConfig::new("w", 0) });
    run(&mut lane);
    assert!(rows(&played.broker, "woken", "row").is_empty());
    clock.advance(WAKE);
    run(&mut lane);
    let woken: Vec<i64> = rows(&played.broker, "woken", "row").into_iter().map(|(_, row)| row).collect();
    assert_eq!(woken, (0..500).collect::<Vec<i64>>(), "and the one that was deleted did not fire");
    // Each of the records, with the end of a transaction behind every 40.
    assert!(played.broker.last_stable_offset("woken", 0).unwrap() >= 500 + 500 / 40);
}
