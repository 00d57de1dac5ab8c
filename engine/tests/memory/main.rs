//! Rows that become far larger in the steps: memory holds a part of a batch at a time, the answer is that of the whole batch.
//! Each test runs again as a process of its own with less address space than the batch would need.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use headwater_engine::broker::Broker;
use headwater_engine::lane::{Lane, LaneConfig, Runtime};
use headwater_engine::operators::{Kind, Operators};
use headwater_engine::pipeline::Pipeline;
use headwater_engine::plan::{plan, topics_to_create};
use headwater_engine::sim::{BrokerCatalog, MemoryBroker, MemoryClock, Settings};
use headwater_engine::stats::Stats;
use headwater_engine::yaml;

const PIPELINE: &str = r#"
apiVersion: headwater/v1
name: memory
commit_interval: 20ms
sources:
  orders:
    topic: orders
    schema: { id: string, s: string, n: long, m: long }
    key: id
steps:
  totals: { from: orders, window: { unbounded: true, by: [id], compute: { rows: count(*) }, emit: on_update, expire: 30d } }
  big: { from: orders, map: { add: { big: "repeat(s, n)" } } }
  small: { from: big, map: { select: { id: id, length: length(big) } } }
  each: { from: orders, map: { unnest: "range(0, m) AS i", select: { id: id, s: s, i: i } } }
  first: { from: each, filter: i = 0 }
sinks:
  totals: { from: totals, topic: totals, key: id, create: { partitions: 1 } }
  small: { from: small, topic: small, key: id, create: { partitions: 1 } }
  first: { from: first, topic: first, key: id, create: { partitions: 1 } }
"#;

const ROWS: usize = 2_000;
/// Address space of the process, in KiB.
const LIMIT: u64 = 900 << 10;
const CHILD: &str = "HW_TEST_LIMITED";

fn lane() -> (MemoryBroker, Arc<MemoryClock>, Lane, Arc<Stats>) {
    let settings = Settings { session_timeout: i64::MAX / 4, transaction_timeout: i64::MAX / 4, ..Settings::default() };
    let clock = MemoryClock::at(1_767_225_600_000);
    let broker = MemoryBroker::with(clock.clone(), settings);
    broker.create_topic("orders", 1);
    let root = yaml::parse(PIPELINE).unwrap();
    let pipeline = Pipeline::read(&root).0.unwrap();
    let operators =
        Operators(vec![Kind::of::<operator_window::Window>(), Kind::of::<operator_map::Map>(), Kind::of::<operator_filter::Filter>()]);
    let plan = Arc::new(plan(&pipeline, &root, &operators, &BrokerCatalog(&broker)).unwrap_or_else(|found| panic!("{found:#?}")));
    broker.create_topics(&topics_to_create(&plan)).unwrap();
    let runtime = Runtime::simulated(&plan, &broker, clock.clone());
    let stats = runtime.stats.clone();
    let lane = Lane::start(runtime, LaneConfig { epoch_bytes: 10_000, ..LaneConfig::new("w", 0) }).unwrap();
    (broker, clock, lane, stats)
}

/// The values of a topic, by the number in their key.
fn values(broker: &MemoryBroker, topic: &str) -> BTreeMap<String, Vec<String>> {
    let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for record in broker.read_all_committed(topic) {
        let text = |bytes: &Option<Vec<u8>>| String::from_utf8(bytes.clone().unwrap_or_default()).unwrap();
        values.entry(text(&record.key)).or_default().push(text(&record.value));
    }
    values
}

fn run() {
    let (broker, clock, mut lane, stats) = lane();
    for row in 0..ROWS {
        // One row needs more than there is for a whole round.
        let (s, n, m) = if row == 777 { ("x".repeat(1_000), 1, 1_000_000) } else { (format!("{row:025}"), 10_000, 10_000) };
        let value = format!("{{\"id\":\"k{}\",\"s\":\"{s}\",\"n\":{n},\"m\":{m}}}", row % 10);
        let own = [(b"hw-topic".to_vec(), Some(b"elsewhere".to_vec()))];
        broker.append("orders", 0, Some(format!("k{}", row % 10).as_bytes()), Some(value.as_bytes()), Some(row as i64), &own).unwrap();
    }
    for _ in 0..100 {
        clock.advance(20);
        lane.step(Duration::ZERO).unwrap();
    }
    lane.finish(Duration::from_secs(10)).unwrap();
    // What one part makes fills an epoch: the next part waits for the next one instead of adding to it.
    assert!(stats.snapshot().epochs > 2, "{} epochs", stats.snapshot().epochs);

    let letters = broker.read_all_committed("orders.dlq");
    assert_eq!(letters.len(), 1, "one row needs too much alone");
    let header = |name: &str| {
        let value = letters[0].headers.iter().find(|(found, _)| found == name.as_bytes()).and_then(|(_, value)| value.clone());
        String::from_utf8(value.unwrap()).unwrap()
    };
    assert!(header("hw-cause").contains("256 MiB"), "{}", header("hw-cause"));
    assert_eq!((header("hw-topic").as_str(), header("hw-original-topic").as_str()), ("orders", "elsewhere"), "the first of a name");
    // What was computed of a part that did not fit is not counted twice in state.
    let totals = values(&broker, "totals");
    let (small, first) = (values(&broker, "small"), values(&broker, "first"));
    for key in 0..10 {
        let (id, rows) = (format!("k{key}"), ROWS / 10 - usize::from(key == 7));
        let last = totals[&id].last().unwrap();
        assert!(last.contains(&format!("\"rows\":{rows}")), "{id}: {last}");
        assert_eq!(small[&id], vec![format!("{{\"id\":\"{id}\",\"length\":250000}}"); rows], "{id}");
        assert_eq!(first[&id].len(), rows, "{id}");
        // In the order of their source.
        assert!(first[&id].is_sorted(), "{id}");
    }
}

#[test]
fn a_batch_that_grows_is_taken_in_parts() {
    if std::env::var_os(CHILD).is_some() {
        return run();
    }
    let program = std::env::current_exe().unwrap();
    let script = format!("ulimit -v {LIMIT} && exec \"$0\" --exact a_batch_that_grows_is_taken_in_parts --nocapture");
    let ran = Command::new("sh").args(["-c", &script]).arg(program).env(CHILD, "1").env("MALLOC_ARENA_MAX", "2").output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success() && said.contains("1 passed"), "{}: {said}", ran.status);
}
