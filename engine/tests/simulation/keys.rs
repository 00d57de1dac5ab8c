//! Sources whose `key` is not what producers do: the lane stops before a wrong result is committed.

use std::sync::Arc;
use std::time::Duration;

use headwater_engine::broker::Broker;
use headwater_engine::lane::{Lane, LaneConfig, LaneEnd, Runtime, sample_keys};
use headwater_engine::partitioner::KeyHash;
use headwater_engine::pipeline::Pipeline;
use headwater_engine::plan::{Plan, plan, topics_to_create};
use headwater_engine::sim::{BrokerCatalog, MemoryBroker};
use headwater_engine::yaml;

use crate::harness::operators;

const ONE: &str = r#"
apiVersion: headwater/v1
name: keyed
sources:
  orders: { topic: orders, schema: { c: string, n: long }, key: c }
steps:
  totals: { from: orders, window: { unbounded: true, expire: never, by: [c], compute: { n: sum(n) }, emit: on_update } }
sinks:
  out: { from: totals, topic: out, create: { partitions: 1 } }
"#;

const TWO: &str = r#"
apiVersion: headwater/v1
name: keyed
sources:
  orders: { topic: orders, schema: { c: string, n: long }, key: c }
  refunds: { topic: refunds, schema: { c: string, n: long }, key: c }
steps:
  totals:
    from: [orders, refunds]
    window: { unbounded: true, expire: never, by: [c], compute: { n: sum(n) }, emit: on_update }
sinks:
  out: { from: totals, topic: out, create: { partitions: 1 } }
"#;

struct Log {
    broker: MemoryBroker,
}

impl Log {
    fn new() -> Log {
        let broker = MemoryBroker::seeded(1);
        ["orders", "refunds"].iter().for_each(|topic| broker.create_topic(topic, 3));
        Log { broker }
    }

    /// Writes `{c, n: 1}` to a partition, with a key of any bytes.
    fn write(&self, topic: &str, partition: i32, key: Option<&[u8]>, c: &str) {
        let value = format!("{{\"c\":\"{c}\",\"n\":1}}");
        self.broker.append(topic, partition, key, Some(value.as_bytes()), Some(1_767_225_600_000), &[]).unwrap();
    }

    /// Writes a value where Kafka's Java client would put the key.
    fn raw(&self, topic: &str, key: &[u8], value: &str) {
        let partition = KeyHash::Murmur2.partition(key, 3);
        self.broker.append(topic, partition, Some(key), Some(value.as_bytes()), Some(1_767_225_600_000), &[]).unwrap();
    }

    /// Twenty customers, where a hash puts them among `partitions`.
    fn customers(&self, topic: &str, hash: KeyHash, partitions: i32) {
        for n in 0..20 {
            let c = format!("c{n}");
            self.write(topic, hash.partition(c.as_bytes(), partitions), Some(c.as_bytes()), &c);
        }
    }

    fn plan(&self, text: &str) -> Plan {
        let root = yaml::parse(text).unwrap();
        let pipeline = Pipeline::read(&root).0.unwrap();
        let plan = plan(&pipeline, &root, &operators(), &BrokerCatalog(&self.broker)).unwrap_or_else(|found| panic!("{found:#?}"));
        self.broker.create_topics(&topics_to_create(&plan)).unwrap();
        plan
    }

    /// Rows written in the end, or why the lane stopped.
    fn run(&self, text: &str) -> Result<usize, String> {
        let plan = Arc::new(self.plan(text));
        let clock = self.broker.clock().unwrap();
        let runtime = Runtime::simulated(&plan, &self.broker, clock.clone());
        let mut lane = Lane::start(runtime, LaneConfig::new("w", 0)).map_err(|e| e.to_string())?;
        let mut quiet = 0;
        while quiet < 500 {
            clock.advance(1);
            match lane.step(Duration::ZERO) {
                Ok(busy) => quiet = if busy || !lane.is_settled() { 0 } else { quiet + 1 },
                Err(LaneEnd::Stop(why)) => {
                    drop(lane);
                    clock.advance(120_000);
                    self.broker.expire_dropped();
                    self.broker.settle();
                    assert_eq!(self.broker.read_all_committed("out").len(), 0, "something was committed: {why}");
                    return Err(why);
                }
                Err(LaneEnd::Restart(why)) => panic!("{why}"),
            }
        }
        lane.finish(Duration::from_secs(1)).map_err(|e| e.to_string())?;
        Ok(self.broker.read_all_committed("out").len())
    }

    /// What a look beforehand finds in the first topic.
    fn sampled(&self, text: &str) -> Result<usize, String> {
        sample_keys(&self.plan(text), &self.broker).unwrap().remove(0).1
    }

    fn stops(&self, text: &str, said: &[&str]) {
        let why = self.run(text).expect_err("the keys contradict the source");
        for part in said {
            assert!(why.contains(part), "`{part}` is not in: {why}");
        }
    }
}

#[test]
fn another_partitioner_is_named_and_can_be_declared() {
    for (hash, name) in [(KeyHash::Crc32, "consistent_random"), (KeyHash::Fnv1a, "fnv1a")] {
        let log = Log::new();
        log.customers("orders", hash, 3);
        let keys = format!("keys read here fit `{name}`");
        let remedy = format!("`partitioner: {name}` at the source, or remove `key`");
        assert!(log.sampled(ONE).unwrap_err().contains(&remedy));
        log.stops(ONE, &["orders-", "at offset", "source `orders` has `key: c`", "by `murmur2`", "step `totals`", &keys, &remedy]);
        assert_eq!(log.run(&ONE.replace("key: c }", &format!("key: c, partitioner: {name} }}"))), Ok(20));
        // Nothing relies on it: rows are repartitioned.
        assert_eq!(
            log.run(&ONE.replace(", key: c }", " }").replace("name: keyed", "name: moved")),
            Ok(40),
            "what is there from before, too"
        );
    }
}

#[test]
fn keys_where_they_belong_are_left_alone() {
    let log = Log::new();
    log.customers("orders", KeyHash::Murmur2, 3);
    // Neither key nor column.
    let nothing = r#"{"c":null,"n":1}"#;
    log.broker.append("orders", 2, None, Some(nothing.as_bytes()), Some(1_767_225_600_000), &[]).unwrap();
    assert_eq!(log.sampled(ONE), Ok(20));
    assert_eq!(log.run(&ONE.replace("c: string", "c: string?")), Ok(21));
}

#[test]
fn topics_that_meet_are_each_compared() {
    let log = Log::new();
    log.customers("orders", KeyHash::Murmur2, 3);
    log.customers("refunds", KeyHash::Crc32, 3);
    log.stops(TWO, &["refunds-", "source `refunds`", "fit `consistent_random`"]);
    // With the partitioner declared, rows of the two don't meet by themselves.
    let declared = TWO.replacen(
        "topic: refunds, schema: { c: string, n: long }, key: c",
        "topic: refunds, schema: { c: string, n: long }, key: c, partitioner: consistent",
        1,
    );
    let plan = log.plan(&declared);
    assert_eq!(plan.stages.len(), 2, "a repartition is planned");
    assert!(sample_keys(&plan, &log.broker).unwrap().is_empty(), "nothing relies on keys");
    assert_eq!(log.run(&declared), Ok(40));
}

#[test]
fn a_key_that_is_not_the_column_stops() {
    let place = |key: &[u8]| KeyHash::Murmur2.partition(key, 3);
    let log = Log::new();
    log.write("orders", place(b"o1"), Some(b"o1"), "c1");
    log.stops(ONE, &["its key differs from its `c`", "name the column that is the record key"]);

    let log = Log::new();
    log.write("orders", 0, None, "c1");
    log.stops(ONE, &["it has no key, and its `c` is not null", "Remove `key`"]);

    // An encoding that can't be read here is right if a value always has the same bytes.
    let log = Log::new();
    for (region, c) in [("a", "c1"), ("a", "c2"), ("a", "c1")] {
        let key = format!("{{\"c\":\"{c}\",\"region\":\"{region}\"}}");
        log.write("orders", place(key.as_bytes()), Some(key.as_bytes()), c);
    }
    assert_eq!(log.run(ONE), Ok(3));
    let other = (0..).map(|n| format!("{{\"c\":\"c1\",\"region\":\"{n}\"}}"));
    let first = place(br#"{"c":"c1","region":"a"}"#);
    let other = other.into_iter().find(|key| place(key.as_bytes()) == first).unwrap();
    let log = Log::new();
    log.write("orders", first, Some(br#"{"c":"c1","region":"a"}"#), "c1");
    log.write("orders", first, Some(other.as_bytes()), "c1");
    log.stops(ONE, &["its key differs from that of an earlier record with the same `c`"]);
}

#[test]
fn keys_of_two_notations_do_not_meet() {
    let place = |key: &[u8]| KeyHash::Murmur2.partition(key, 3);
    let framed = [b"\0\0\0\0\x07\x04".as_slice(), b"c1"].concat();
    let log = Log::new();
    log.write("orders", place(b"c1"), Some(b"c1"), "c1");
    log.write("refunds", place(&framed), Some(&framed), "c1");
    log.stops(TWO, &["written as a value of the registered schema 7", "as text"]);

    let log = Log::new();
    log.write("orders", place(&framed), Some(&framed), "c1");
    log.write("refunds", place(&framed), Some(&framed), "c1");
    assert_eq!(log.run(TWO), Ok(2));
}

/// One number in several notations is in several partitions, and each of them fits the column.
#[test]
fn a_number_has_one_notation() {
    let text = ONE.replace("c: string", "c: long");
    let log = |keys: &[&[u8]]| {
        let log = Log::new();
        for key in keys {
            log.raw("orders", key, r#"{"c":7,"n":1}"#);
        }
        log
    };
    log(&[b"7", b"007"]).stops(&text, &["its key is written as"]);
    log(&[b"7", b"+7"]).stops(&text, &["its key is written as"]);
    assert_eq!(log(&[b"7", b"7"]).run(&text), Ok(2));
    assert_eq!(log(&[b"007", b"007"]).run(&text), Ok(2));
    assert_eq!(log(&[&7i64.to_be_bytes()]).run(&text), Ok(1));
    log(&[&8i64.to_be_bytes()]).stops(&text, &["its key differs from its `c`"]);
}

/// The serializer of integers, beside a text of digits: the bytes of some are letters.
#[test]
fn digits_may_have_a_number_as_their_key() {
    let log = Log::new();
    for c in ["1", "1094861636"] {
        log.raw("orders", &c.parse::<i32>().unwrap().to_be_bytes(), &format!(r#"{{"c":"{c}","n":1}}"#));
    }
    assert_eq!(log.run(ONE), Ok(2));
}

#[test]
fn a_topic_that_has_grown_is_told_apart() {
    let log = Log::new();
    log.customers("orders", KeyHash::Murmur2, 2);
    log.customers("orders", KeyHash::Murmur2, 3);
    log.stops(ONE, &["The keys fit 2 partitions: the topic had that many when it was written, and has 3 now"]);
}

/// After the first thousand records of a partition a sample is compared.
#[test]
fn a_producer_that_comes_later_is_noticed() {
    let log = Log::new();
    let home = KeyHash::Murmur2.partition(b"c1", 3);
    let other = (0..).map(|n| format!("x{n}")).find(|key| KeyHash::Murmur2.partition(key.as_bytes(), 3) != home).unwrap();
    for n in 0..3_000 {
        let key = if n > 1_500 && n % 2 == 0 { &other } else { "c1" };
        log.write("orders", home, Some(key.as_bytes()), key);
    }
    log.stops(ONE, &["at offset 15", "its key belongs to partition"]);
}

/// Stages of a pipeline that adds up what the sources have: a repartition makes a second one.
fn stages(sources: &str, from: &str, by: &str) -> usize {
    let text = format!(
        "apiVersion: headwater/v1\nname: keyed\nsources:\n{sources}steps:\n  totals:\n    from: {from}\n    \
         window: {{ unbounded: true, expire: never, by: {by}, compute: {{ n: sum(n) }}, emit: on_update }}\n\
         sinks:\n  out: {{ from: totals, topic: out, create: {{ partitions: 1 }} }}\n"
    );
    Log::new().plan(&text).stages.len()
}

/// `{"c":1,"d":2}` and `{"d":2,"c":1}` are equal keys in two partitions.
#[test]
fn keys_that_are_records_are_relied_on_within_one_topic() {
    let source =
        |name: &str, key: &str| format!("  {name}: {{ topic: {name}, schema: {{ c: string, d: string, n: long }}, key: {key} }}\n");
    let (orders, refunds) = (source("orders", "[c, d]"), source("refunds", "[c, d]"));
    assert_eq!(stages(&orders, "orders", "[c, d]"), 1);
    assert_eq!(stages(&(orders + &refunds), "[orders, refunds]", "[c, d]"), 2);
}

/// Rows with an equal column of a key may have different keys.
#[test]
fn a_part_of_a_key_decides_no_partition() {
    let source = |columns: &str| {
        format!(
            "  orders: {{ topic: orders, schema: {{ n: long }}, key: {{ format: json, schema: {{ c: string, d: string }}, columns: {columns} }} }}\n"
        )
    };
    assert_eq!(stages(&source("[c, d]"), "orders", "[_key.c, _key.d]"), 1);
    assert_eq!(stages(&source("[c]"), "orders", "[_key.c]"), 2);
    let unknown = source("[c, d]").replace("key: {", "partitioner: unknown, key: {");
    assert_eq!(stages(&unknown, "orders", "[_key.c, _key.d]"), 2, "producers choose partitions themselves");
}

/// Its columns are those of the key: without `key` there were none.
#[test]
fn the_remedy_for_keys_with_columns_keeps_them() {
    let text = ONE
        .replace("schema: { c: string, n: long }, key: c", "schema: { n: long }, key: { format: json, schema: { c: string } }")
        .replace("by: [c]", "by: [_key.c]");
    let key = br#"{"c":"c1"}"#;
    let log = Log::new();
    log.write("orders", (KeyHash::Murmur2.partition(key, 3) + 1) % 3, Some(key), "c1");
    log.stops(&text, &["`partitioner: unknown`"]);
    let unknown = text.replace("orders, schema", "orders, partitioner: unknown, schema");
    assert_eq!(log.run(&unknown), Ok(1));
}

/// Nobody wrote `_key`, whose types differ.
#[test]
fn sources_with_keys_of_two_kinds_are_read_as_one() {
    let sources = "  orders: { topic: orders, schema: { c: string, n: long }, key: { format: json, schema: { c: string } } }\n  \
                   refunds: { topic: refunds, schema: { c: string, n: long }, key: c }\n";
    assert_eq!(stages(sources, "[orders, refunds]", "[c]"), 2);
}

const CHANGES: &str = r#"
apiVersion: headwater/v1
name: keyed
sources:
  orders: { topic: orders, format: debezium, schema: { c: string, n: long }, key: c }
steps:
  some: { from: orders, filter: n > 0 }
sinks:
  out: { from: some, topic: out, key: c, create: { partitions: 1 } }
"#;

/// A sink of changes keeps the last row of a key: the changes of a row must come in order, so from one partition.
#[test]
fn a_sink_of_changes_relies_on_the_keys_of_its_source() {
    let change = |log: &Log, hash: KeyHash| {
        for n in 0..20 {
            let key = format!(r#"{{"c":"c{n}"}}"#);
            let value = format!(r#"{{"op":"c","before":null,"after":{{"c":"c{n}","n":1}}}}"#);
            let partition = hash.partition(key.as_bytes(), 3);
            log.broker.append("orders", partition, Some(key.as_bytes()), Some(value.as_bytes()), Some(1_767_225_600_000), &[]).unwrap();
        }
    };
    let log = Log::new();
    change(&log, KeyHash::Murmur2);
    assert_eq!(log.sampled(CHANGES), Ok(20));
    assert_eq!(log.run(CHANGES), Ok(20));
    let log = Log::new();
    change(&log, KeyHash::Crc32);
    for why in [log.sampled(CHANGES).unwrap_err(), log.run(CHANGES).unwrap_err()] {
        assert!(why.contains("so results of sink `out` would be wrong"), "{why}");
        assert!(why.contains("`partitioner: consistent_random`") && why.contains("`partitioner: unknown`"), "{why}");
    }
    let log = Log::new();
    log.write("orders", 0, None, "x");
    let value = r#"{"op":"c","before":null,"after":{"c":"x","n":1}}"#;
    log.broker.append("orders", 0, None, Some(value.as_bytes()), Some(1_767_225_600_000), &[]).unwrap();
    let why = log.run(CHANGES).unwrap_err();
    assert!(why.contains("it has no key") && why.contains("no sink keeps its rows by their key then"), "{why}");
}
