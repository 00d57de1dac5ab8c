//! Windows that close together in great number: in portions, each in a transaction of its own if the epoch is full.

use std::time::Duration;

use headwater_engine::lane::{Lane, LaneConfig};
use serde_json::Value;

use crate::played::Played;

const PIPELINE: &str = r#"
apiVersion: headwater/v1
name: portions
commit_interval: 1s
sources:
  orders:
    topic: orders
    schema: { at: timestamp, items: [long] }
    time: { field: at, out_of_order: 0s, idle: never }
steps:
  items: { from: orders, map: { unnest: items AS item, select: { item: item } } }
  per_item: { from: items, window: { tumbling: 10s, by: [item], compute: { n: count(*), distinct: count(DISTINCT item) } } }
  all: { from: per_item, window: { tumbling: 10s, by: [], compute: { groups: count(*), total: sum(n) } } }
sinks:
  all: { from: all, topic: all, create: { partitions: 1 } }
  late: { from: all.late, topic: late, create: { partitions: 1 } }
"#;

const START: i64 = 1_767_225_600_000;

fn write(played: &Played, at: i64, items: impl Iterator<Item = u64>) {
    let items: Vec<String> = items.map(|item| item.to_string()).collect();
    let value = format!("{{\"at\":{at},\"items\":[{}]}}", items.join(","));
    played.broker.append("orders", 0, None, Some(value.as_bytes()), Some(at), &[]).unwrap();
}

fn until_settled(lane: &mut Lane, played: &Played) {
    let clock = played.broker.clock().unwrap();
    let mut quiet = 0;
    while quiet < 100 {
        clock.work(1);
        let busy = lane.step(Duration::ZERO).unwrap() || !lane.is_settled();
        quiet = if busy { 0 } else { quiet + 1 };
    }
}

fn results(played: &Played) -> Vec<(u64, u64)> {
    let of = |record: &headwater_engine::sim::CommittedRecord| {
        let value: Value = serde_json::from_slice(record.value.as_deref().unwrap()).unwrap();
        (value["groups"].as_u64().unwrap(), value["total"].as_u64().unwrap())
    };
    played.broker.read_all_committed("all").iter().map(of).collect()
}

/// 100,000 groups, whose results go through a repartition topic: their readers hear of the watermark once all of them are there.
#[test]
fn windows_that_close_together_are_committed_in_portions() {
    const GROUPS: u64 = 100_000;
    const EPOCH: u64 = 16_000;
    let played = Played::new(PIPELINE, &[("orders", 1)]);
    let mut lane = played.lane(LaneConfig { epoch_rows: EPOCH, ..LaneConfig::new("w", 0) });
    for record in 0..GROUPS / 1_000 {
        write(&played, START + 1, record * 1_000..(record + 1) * 1_000);
    }
    until_settled(&mut lane, &played);
    let commits = || played.broker.last_stable_offset("hw.portions.per_item.changelog", 0).unwrap();
    let before = commits();
    write(&played, START + 10_000, 0..1);
    until_settled(&mut lane, &played);
    // Deleted entries, two of each group, and a marker of each transaction.
    let markers = commits() - before - 2 * GROUPS as i64;
    assert!(markers >= (2 * GROUPS / EPOCH) as i64, "{markers} transactions");
    write(&played, START + 20_000, 0..1);
    until_settled(&mut lane, &played);
    assert_eq!(results(&played), [(GROUPS, GROUPS), (1, 1)]);
    assert!(played.broker.read_all_committed("late").is_empty());
}

/// A worker that stops in the middle: the next one goes on, although no new record comes.
#[test]
fn a_closing_that_was_interrupted_is_continued() {
    const GROUPS: u64 = 1_000;
    for stops in (1..60).step_by(3) {
        let played = Played::new(PIPELINE, &[("orders", 1)]);
        let clock = played.broker.clock().unwrap();
        write(&played, START + 1, 0..GROUPS);
        write(&played, START + 10_000, 0..1);
        write(&played, START + 20_000, 0..1);
        // The lane dies again and again after so many steps, and never comes far.
        for life in 0.. {
            let mut lane = played.lane(LaneConfig { epoch_rows: 256, ..LaneConfig::new("w", 0) });
            for _ in 0..stops + life {
                clock.work(1);
                lane.step(Duration::ZERO).unwrap();
            }
            drop(lane);
            clock.advance(60_000);
            played.broker.expire_dropped();
            played.broker.settle();
            if life > 40 {
                break;
            }
        }
        let mut lane = played.lane(LaneConfig { epoch_rows: 256, ..LaneConfig::new("w", 0) });
        until_settled(&mut lane, &played);
        lane.finish(Duration::from_secs(1)).unwrap();
        assert_eq!(results(&played), [(GROUPS, GROUPS), (1, 1)], "a life of {stops} steps and more");
        assert!(played.broker.read_all_committed("late").is_empty());
    }
}
