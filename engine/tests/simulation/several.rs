//! Several sources, one of them a pattern of topics; a table, sessions, and rows that are delivered to tables of both kinds.

use std::collections::BTreeMap;

use headwater_engine::sim::MemoryBroker;
use serde_json::Value;

use crate::case::{Case, PARTITIONS};
use crate::harness::{Outcome, Run};
use crate::oracle::{Rows, compare, count, seen};
use crate::{DEFAULT, seeds};

const TOPICS: [&str; 3] = ["shop.a", "shop.b", "returns"];

const PIPELINE: &str = r#"
apiVersion: headwater/v1
name: simulated
commit_interval: 20ms
sources:
  orders:
    pattern: shop.*
    format: json
    schema: { id: string, product: string, amount: long, at: timestamp }
    time: { field: at, out_of_order: 2s, idle: 60s }
    key: id
  returns:
    topic: returns
    format: json
    schema: { id: string, product: string, amount: long, at: timestamp }
    time: { field: at, out_of_order: 2s, idle: 60s }
    key: id
tables:
  products: { topic: products, key: id, schema: { id: string, kind: string } }
steps:
  known: { from: orders, enrich: [{ table: products, on: product, add: [kind], missing: drop }] }
  visits:
    from: [orders, returns]
    window: { session: { gap: 3s }, by: [product], compute: { n: count(*), total: sum(amount) }, lateness: 1s }
  per_id:
    from: [orders, returns]
    window: { tumbling: 10s, by: [id], compute: { n: count(*), total: sum(amount) } }
sinks:
  tokens: { from: known, elsewhere: a.known }
  positions: { from: visits, elsewhere: a.visits }
  late: { from: visits.late, topic: late, create: { partitions: 2 } }
  per_id: { from: per_id, elsewhere: a.ids }
"#;

/// Products with a kind; those of the others are dropped.
const KNOWN: [(&str, &str); 4] = [("p0", "x"), ("p1", "y"), ("p2", "x"), ("p3", "y")];
const GAP: i64 = 3_000;
const LATENESS: i64 = 1_000;
const SIZE: i64 = 10_000;

#[derive(Default)]
struct Expected {
    known: Rows,
    visits: Rows,
    late: usize,
    ids: Rows,
}

fn expected(case: &Case) -> Expected {
    let mut out = Expected::default();
    let mut times: BTreeMap<&str, Vec<(i64, i64)>> = BTreeMap::new();
    let mut ids: BTreeMap<(&str, i64), (u64, i64)> = BTreeMap::new();
    for (order, watermark) in seen(case) {
        if let Some((_, kind)) = KNOWN.iter().find(|(product, _)| *product == order.product && order.topic != "returns") {
            count(&mut out.known, format!("{} {} {} {kind}", order.id, order.product, order.amount));
        }
        match watermark.is_some_and(|w| order.at < w - LATENESS) {
            true => out.late += 1,
            false => times.entry(&order.product).or_default().push((order.at, order.amount)),
        }
        let start = order.at.div_euclid(SIZE) * SIZE;
        if watermark.is_none_or(|w| start + SIZE > w) {
            let cell = ids.entry((&order.id, start)).or_default();
            *cell = (cell.0 + 1, cell.1 + order.amount);
        }
    }
    for (product, mut rows) in times {
        rows.sort_unstable();
        for session in rows.chunk_by(|a, b| b.0 - a.0 < GAP) {
            let total: i64 = session.iter().map(|(_, amount)| amount).sum();
            count(&mut out.visits, format!("{product} {} {total}", session.len()));
        }
    }
    ids.into_iter().for_each(|((id, _), (n, total))| count(&mut out.ids, format!("{id} {n} {total}")));
    out
}

fn check(outcome: &Outcome, seed: u64) {
    let expected = expected(&outcome.case);
    let rows = |sink: &str, columns: &[&str]| {
        let mut rows = Rows::new();
        for row in outcome.deliveries.rows(sink) {
            let value: Value = serde_json::from_str(&row.json).unwrap();
            let shown = |column: &&str| value[*column].as_str().map_or_else(|| value[*column].to_string(), str::to_owned);
            count(&mut rows, columns.iter().map(shown).collect::<Vec<_>>().join(" "));
        }
        rows
    };
    compare("rows with the table's columns", seed, &expected.known, &rows("tokens", &["id", "product", "amount", "kind"]));
    compare("sessions", seed, &expected.visits, &rows("positions", &["product", "n", "total"]));
    compare("windows of ids", seed, &expected.ids, &rows("per_id", &["id", "n", "total"]));
    assert_eq!(outcome.broker.read_all_committed("late").len(), expected.late, "seed {seed}: rows too late for a session");
    let dead: usize = TOPICS.iter().map(|topic| outcome.broker.read_all_committed(&format!("{topic}.dlq")).len()).sum();
    assert_eq!(dead, outcome.case.orders.iter().filter(|order| order.broken).count(), "seed {seed}: dead letters");
}

/// The table, with versions of rows that later ones replace.
fn products(broker: &MemoryBroker) {
    broker.create_topic_with("products", PARTITIONS, &[("cleanup.policy", "compact")]);
    let put = |id: &str, kind: Option<&str>| {
        let value = kind.map(|kind| format!("{{\"id\":\"{id}\",\"kind\":\"{kind}\"}}"));
        let partition = headwater_formats::partition(id.as_bytes(), PARTITIONS);
        broker.append("products", partition, Some(id.as_bytes()), value.as_deref().map(str::as_bytes), Some(1), &[]).unwrap();
    };
    KNOWN.iter().for_each(|(id, _)| put(id, Some("old")));
    put("p4", Some("gone"));
    KNOWN.iter().for_each(|(id, kind)| put(id, Some(kind)));
    put("p4", None);
}

#[test]
fn tables_have_each_row_once_whatever_happens_to_lanes_and_deliveries() {
    let (seeds, mut repeats, mut died) = (seeds(), 0, 0);
    for &seed in seeds.iter().step_by(2) {
        let case = Case::over(&TOPICS, seed);
        check(&Run::with(&case, seed, PIPELINE, products).undisturbed(), seed);
        let mut run = Run::with(&case, seed, PIPELINE, products);
        // The range assignor goes by topic: with another number of partitions in one of them, those of a task are in two lanes.
        run.world.topics_grow = false;
        let outcome = run.disturbed();
        check(&outcome, seed);
        (repeats, died) = (repeats + outcome.deliveries.repeats(), died + outcome.deliveries.died);
    }
    println!("{} seeds: {repeats} blocks inserted again, {died} deliveries died", seeds.len().div_ceil(2));
    assert!((seeds.len() as u64) < DEFAULT || repeats > 0 && died > 0, "{repeats} blocks inserted again, {died} deliveries died");
}
