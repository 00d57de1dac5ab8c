//! From the change records of a database to its copies in two stores, by workers that are killed at every step.

use std::time::Duration;

use crate::environment::{clickhouse, exclusive, wait_until};
use crate::log::{create, produce_by_key};
use crate::table_changes::{Load, in_postgres};
use crate::worker::Worker;

/// Steps of the lane and of both protocols at which workers die.
const FAILPOINTS: [&str; 12] = [
    "lane-sealed",
    "before-commit",
    "after-commit",
    "lane-committed",
    "delivery-intent",
    "delivery-inserting",
    "delivery-inserted",
    "delivery-committed",
    "postgres-copying",
    "delivery-writing",
    "delivery-written",
    "delivery-shown",
];

/// A change of one row as Debezium writes it: the key, and the record.
fn record(changes: &[(i64, i64, i8)]) -> (Vec<u8>, Vec<u8>) {
    let row = |sign: i8| {
        changes.iter().find(|(.., change)| *change == sign).map(|(id, amount, _)| format!("{{\"id\":{id},\"amount\":{amount}}}"))
    };
    let (before, after) = (row(-1), row(1));
    let op = match (&before, &after) {
        (None, _) => "c",
        (Some(_), None) => "d",
        (Some(_), Some(_)) => "u",
    };
    let [before, after] = [before, after].map(|row| row.unwrap_or_else(|| "null".to_owned()));
    let value = format!("{{\"op\":\"{op}\",\"before\":{before},\"after\":{after},\"ts_ms\":1767225600000}}");
    (format!("{{\"id\":{}}}", changes[0].0).into_bytes(), value.into_bytes())
}

/// From the change records of a database to its copies in two stores, through a condition: workers die at every step.
#[test]
fn killed_workers_leave_the_rows_that_are_there_in_both_stores() {
    let environment = exclusive();
    create(&environment, "copied.stock", 3);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("copied.yaml");
    let text = "apiVersion: headwater/v1\nname: copied\nsources: { s: { topic: copied.stock, format: debezium, key: id, schema: { id: long, amount: long } } }\n\
                steps: { few: { from: s, filter: amount < 700 } }\nsinks:\n  here: { from: few, postgres: copied.stock, flush_interval: 50ms, block_rows: 100 }\n  \
                there: { from: few, clickhouse: copied.stock, flush_interval: 50ms, block_rows: 100 }\n";
    std::fs::write(&file, text).unwrap();
    let load = Load::new(1_200);
    let changes: Vec<(i64, i64, i8)> = load.records.iter().flat_map(|(_, changes)| changes.clone()).collect();
    // A pair is one record.
    let updates = |pair: &[(i64, i64, i8)]| pair[0].0 == pair[1].0 && (pair[0].2, pair[1].2) == (-1, 1);
    let (mut records, mut at) = (Vec::new(), 0);
    while at < changes.len() {
        let width = if changes.get(at..at + 2).is_some_and(updates) { 2 } else { 1 };
        records.push(record(&changes[at..at + width]));
        at += width;
    }
    let portion = records.len() / (FAILPOINTS.len() + 1) + 1;
    for (records, point) in records.chunks(portion).zip(FAILPOINTS.iter().map(Some).chain([None])) {
        let records: Vec<(&[u8], Option<&[u8]>)> = records.iter().map(|(key, value)| (key.as_slice(), Some(value.as_slice()))).collect();
        produce_by_key(&environment, "copied.stock", &records);
        let Some(point) = point else { break };
        let mut doomed = Worker::start(&environment, &file, dir.path(), 0, Some(&format!("{point}:1:kill")));
        assert!(doomed.wait(Duration::from_secs(120)).is_some(), "the worker never came past `{point}`:\n{}", doomed.log_tail());
    }
    let worker = Worker::start(&environment, &file, dir.path(), 0, None);
    let expected: Vec<(i64, i64)> = load.expected().into_iter().filter(|(_, amount)| *amount < 700).collect();
    let number = |text: &str| text.parse::<i64>().unwrap();
    wait_until("the rows in both stores", Duration::from_secs(120), || {
        let there = clickhouse(&environment, "SELECT id, amount FROM copied.stock FINAL ORDER BY id")?;
        let there: Vec<(i64, i64)> =
            there.lines().filter_map(|line| line.split_once('\t')).map(|(id, n)| (number(id), number(n))).collect();
        let here = in_postgres(&environment, "copied.stock");
        let said = || format!("{} in PostgreSQL, {} in ClickHouse, not {}\n{}", here.len(), there.len(), expected.len(), worker.log_tail());
        if here == expected && there == expected { Ok(()) } else { Err(said()) }
    });
    assert!(worker.stop().success());
}
