//! Tables over topics that grow and that hide their ends, and sources that grow: followed where that is possible, and named
//! where it is not.

use std::sync::Arc;
use std::time::Duration;

use headwater_engine::broker::{Broker, Membership, Outcome, Outgoing, Producer, Progress};
use headwater_engine::lane::{Lane, LaneConfig, LaneEnd, Runtime};
use headwater_engine::operators::{Kind, Operators};
use headwater_engine::pipeline::Pipeline;
use headwater_engine::plan::{Plan, plan, topics_to_create};
use headwater_engine::schemas::MemorySchemas;
use headwater_engine::sim::{BrokerCatalog, MemoryBroker, MemoryClock, Settings};
use headwater_engine::stats::Stats;
use headwater_engine::tables::{LoadedTables, TableLoader};
use headwater_engine::yaml;
use operator_core::Tables;

const PIPELINE: &str = r#"
apiVersion: headwater/v1
name: tables
commit_interval: 20ms
sources:
  orders: { topic: orders, schema: { id: string } }
tables:
  names: { topic: names, key: id, schema: { id: string, name: string } }
steps:
  some: { from: orders, filter: id <> 'x' }
sinks:
  out: { from: some, topic: out, create: { partitions: 1 } }
"#;

struct Run {
    broker: MemoryBroker,
    clock: Arc<MemoryClock>,
    plan: Arc<Plan>,
    tables: Arc<LoadedTables>,
    stats: Arc<Stats>,
}

impl Run {
    fn new() -> Run {
        Run::of(PIPELINE)
    }

    fn of(text: &str) -> Run {
        let settings = Settings { session_timeout: i64::MAX / 4, transaction_timeout: i64::MAX / 4, ..Settings::default() };
        let clock = MemoryClock::at(1_767_225_600_000);
        let broker = MemoryBroker::with(clock.clone(), settings);
        broker.create_topic("orders", 1);
        broker.create_topic_with("names", 1, &[("cleanup.policy", "compact")]);
        let root = yaml::parse(text).unwrap();
        let pipeline = Pipeline::read(&root).0.unwrap();
        let operators = Operators(vec![Kind::of::<operator_filter::Filter>()]);
        let plan = Arc::new(plan(&pipeline, &root, &operators, &BrokerCatalog(&broker)).unwrap_or_else(|found| panic!("{found:#?}")));
        broker.create_topics(&topics_to_create(&plan)).unwrap();
        let tables = Arc::new(LoadedTables::new(&plan));
        Run { broker, clock, plan, tables, stats: Arc::default() }
    }

    fn put(&self, topic: &str, partition: i32, key: &str, value: &str) {
        self.broker.append(topic, partition, Some(key.as_bytes()), Some(value.as_bytes()), Some(1), &[]).unwrap();
    }

    fn loader(&self) -> TableLoader {
        let (broker, schemas) = (Arc::new(self.broker.clone()), Arc::new(MemorySchemas::default()));
        TableLoader::new(&self.plan, self.tables.clone(), broker, schemas, self.clock.clone()).unwrap()
    }

    fn step(&self, loader: &mut TableLoader, millis: i64) -> Result<(), LaneEnd> {
        self.clock.advance(millis);
        (0..5).try_for_each(|_| loader.step(Duration::ZERO))
    }

    fn knows(&self, key: &str) -> bool {
        let mut known = false;
        self.tables.with("names", &mut |table| known = table.lookup(key.as_bytes(), None).is_some());
        known
    }

    fn lane(&self) -> Lane {
        let runtime = Runtime {
            tables: self.tables.clone(),
            stats: self.stats.clone(),
            ..Runtime::simulated(&self.plan, &self.broker, self.clock.clone())
        };
        Lane::start(runtime, LaneConfig::new("w", 0)).unwrap()
    }
}

/// A transaction of someone else in the table's topic, with one row.
fn open_transaction(broker: &MemoryBroker) -> Box<dyn Producer> {
    open_transaction_of(broker, 1)
}

fn open_transaction_of(broker: &MemoryBroker, rows: usize) -> Box<dyn Producer> {
    let mut foreign = broker.producer(Some("foreign")).unwrap();
    foreign.begin().unwrap();
    let topic: Arc<str> = "names".into();
    let (key, value) = (Some(&b"b"[..]), Some(&br#"{"id":"b","name":"B"}"#[..]));
    for _ in 0..rows {
        foreign.send(Outgoing { topic: &topic, partition: 0, timestamp: Some(1), key, value, headers: &[], tag: None }).unwrap();
    }
    broker.settle();
    foreign
}

fn commit(broker: &MemoryBroker, foreign: &mut dyn Producer) {
    let nobody = Membership { group: String::new(), generation: -1, member: String::new(), instance: None };
    foreign.commit(Vec::new(), nobody).unwrap();
    broker.settle();
    let ended = (0..10).map(|_| foreign.progress(Duration::ZERO)).find(|progress| matches!(progress, Progress::Done(_)));
    assert_eq!(ended, Some(Progress::Done(Outcome::Committed { tags: Vec::new() })));
}

#[test]
fn partitions_that_are_added_to_a_table_are_read() {
    let run = Run::new();
    run.put("names", 0, "a", r#"{"id":"a","name":"A"}"#);
    let mut loader = run.loader();
    run.step(&mut loader, 1).unwrap();
    assert!(run.tables.ready() && run.knows("a"));
    run.broker.create_topic("names", 3);
    run.put("names", 2, "c", r#"{"id":"c","name":"C"}"#);
    run.tables.grown(&"names".into(), 3);
    run.step(&mut loader, 1).unwrap();
    assert!(run.knows("c") && run.tables.ready());
    run.put("names", 0, "d", r#"{"id":"d","name":"D"}"#);
    run.step(&mut loader, 1).unwrap();
    assert!(run.knows("d"), "the others are read on");
}

#[test]
fn a_transaction_that_hides_the_end_of_a_table_is_named() {
    let run = Run::new();
    run.put("names", 0, "a", r#"{"id":"a","name":"A"}"#);
    let mut foreign = open_transaction(&run.broker);
    let mut loader = run.loader();
    run.step(&mut loader, 1).unwrap();
    run.step(&mut loader, 5_000).unwrap();
    assert!(!run.tables.ready());
    assert_eq!(run.tables.waits(), ["names-0: a transaction is open at offset 1 and hides records up to offset 2"]);
    commit(&run.broker, foreign.as_mut());
    run.step(&mut loader, 1).unwrap();
    assert!(run.tables.ready() && run.knows("b"));
    assert_eq!(run.tables.waits(), [""; 0]);
}

#[test]
fn a_table_whose_last_record_comes_before_its_end_waits_for_nothing() {
    let run = Run::new();
    // As many as one poll takes: the end comes with the next one.
    let mut foreign = open_transaction_of(&run.broker, 8_192);
    let mut loader = run.loader();
    run.step(&mut loader, 1).unwrap();
    run.step(&mut loader, 5_000).unwrap();
    assert_eq!(run.tables.waits().len(), 1);
    commit(&run.broker, foreign.as_mut());
    run.step(&mut loader, 1).unwrap();
    assert!(run.tables.ready() && run.knows("b"));
    assert_eq!(run.tables.waits(), [""; 0], "the transaction has ended");
}

#[test]
fn a_table_that_ends_with_a_marker_is_ready() {
    let run = Run::new();
    let mut foreign = open_transaction(&run.broker);
    commit(&run.broker, foreign.as_mut());
    let mut loader = run.loader();
    run.step(&mut loader, 1).unwrap();
    assert!(run.tables.ready() && run.knows("b"), "the record and the end behind its marker came together");
}

#[test]
fn a_tombstone_for_compaction_is_no_bad_record() {
    // The table's key is not the record's: that of `b` is its number.
    let run = Run::of(&PIPELINE.replace("key: id, schema: { id: string, name", "key: id, format: debezium, schema: { id: string, name"));
    run.put("names", 0, r#"{"number":1}"#, r#"{"op":"c","before":null,"after":{"id":"b","name":"B"},"ts_ms":1}"#);
    let mut loader = run.loader();
    run.step(&mut loader, 1).unwrap();
    assert!(run.knows("b"));
    run.put("names", 0, r#"{"number":1}"#, r#"{"op":"d","before":{"id":"b","name":"B"},"after":null,"ts_ms":2}"#);
    run.broker.append("names", 0, Some(br#"{"number":1}"#), None, Some(2), &[]).unwrap();
    run.step(&mut loader, 1).unwrap();
    assert!(!run.knows("b"));
    assert_eq!(run.tables.bad_records().get("names"), None);
}

const RECORD_KEYS: &str = "key: { format: json, schema: { id: 'string?' } }, schema: { name: string }";

/// Its empty bytes were those of the empty text.
#[test]
fn a_key_of_null_is_not_the_empty_key() {
    let run = Run::of(&PIPELINE.replace("key: id, schema: { id: string, name: string }", RECORD_KEYS));
    run.put("names", 0, r#"{"id":null}"#, r#"{"name":"N"}"#);
    let mut loader = run.loader();
    run.step(&mut loader, 1).unwrap();
    assert!(run.tables.ready() && !run.knows(""));
    assert_eq!(run.tables.bad_records().get("names"), Some(&1));
    run.put("names", 0, r#"{"id":""}"#, r#"{"name":"E"}"#);
    run.step(&mut loader, 1).unwrap();
    assert!(run.knows(""));
}

/// Kafka compacts by bytes: the tombstone does not remove the record of the row.
#[test]
fn equal_keys_of_different_bytes_are_counted() {
    let run = Run::of(&PIPELINE.replace("key: id, schema: { id: string, name: string }", RECORD_KEYS));
    run.put("names", 0, r#"{"id":"a"}"#, r#"{"name":"A"}"#);
    run.put("names", 0, r#"{"id":"b"}"#, r#"{"name":"B"}"#);
    let mut loader = run.loader();
    run.step(&mut loader, 1).unwrap();
    run.broker.append("names", 0, Some(br#"{"id":"b"}"#), None, Some(2), &[]).unwrap();
    run.step(&mut loader, 1).unwrap();
    assert!(run.knows("a") && !run.knows("b"));
    assert!(run.tables.keys_in_other_bytes().is_empty());
    run.broker.append("names", 0, Some(br#"{"id": "a"}"#), None, Some(2), &[]).unwrap();
    run.step(&mut loader, 1).unwrap();
    assert!(!run.knows("a"));
    assert_eq!(run.tables.keys_in_other_bytes().get("names"), Some(&1));
    // A key that is written in another way from now on is one finding, and of a deleted row none is left.
    for key in [r#"{"id":"c"}"#, r#"{"id": "c"}"#, r#"{"id": "c"}"#, r#"{"id":"a"}"#] {
        run.put("names", 0, key, r#"{"name":"N"}"#);
        run.step(&mut loader, 1).unwrap();
    }
    assert_eq!(run.tables.keys_in_other_bytes().get("names"), Some(&2));
}

#[test]
fn a_transaction_that_hangs_stops_the_worker() {
    let run = Run::new();
    let _foreign = open_transaction(&run.broker);
    let mut loader = run.loader();
    run.step(&mut loader, 1).unwrap();
    run.step(&mut loader, 19 * 60_000).unwrap();
    let Err(LaneEnd::Stop(why)) = run.step(&mut loader, 60_000) else { panic!("it still waits") };
    assert!(why.contains("abort --topic names --partition 0 --start-offset 0"), "{why}");
}

#[test]
fn a_source_that_grows_is_named_and_the_rest_goes_on() {
    let run = Run::new();
    let mut loader = run.loader();
    run.step(&mut loader, 1).unwrap();
    let mut lane = run.lane();
    let steps = |lane: &mut Lane| {
        for _ in 0..50 {
            run.clock.advance(1);
            lane.step(Duration::ZERO).unwrap();
        }
    };
    run.put("orders", 0, "k", r#"{"id":"a"}"#);
    steps(&mut lane);
    run.broker.create_topic("orders", 2);
    run.put("orders", 1, "k", r#"{"id":"b"}"#);
    run.put("orders", 0, "k", r#"{"id":"c"}"#);
    steps(&mut lane);
    assert_eq!(run.stats.snapshot().grown.get("orders"), Some(&(1, 2)));
    let out: Vec<_> = run.broker.read_all_committed("out").into_iter().filter_map(|r| String::from_utf8(r.value?).ok()).collect();
    assert_eq!(out, [r#"{"id":"a"}"#, r#"{"id":"c"}"#]);
}
