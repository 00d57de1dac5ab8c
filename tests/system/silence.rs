//! A worker that can't read proves no silence: a frozen process and a foreign open transaction make no row late. And the
//! lag that it shows is the one that a tool of others sees.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use headwater_devenv::Ephemeral;
use rdkafka::producer::Producer;

use crate::environment::{exclusive, oracle_dir, page, python, wait_until};
use crate::log::{begin, create, produce, read};
use crate::worker::Worker;

fn pipeline(dir: &Path, name: &str) -> PathBuf {
    let text = format!(
        r#"apiVersion: headwater/v1
name: {name}
sources:
  orders:
    topic: {name}.orders
    schema: {{ id: string, at: timestamp }}
    time: {{ field: at, out_of_order: 0s, idle: 5s }}
    key: id
steps:
  per_id: {{ from: orders, window: {{ tumbling: 1s, by: [id], compute: {{ n: count(*) }} }} }}
sinks:
  counts: {{ from: per_id, topic: {name}.counts, key: id, create: {{ partitions: 2 }} }}
  late: {{ from: per_id.late, topic: {name}.late, create: {{ partitions: 1 }} }}
"#
    );
    let file = dir.join(format!("{name}.yaml"));
    std::fs::write(&file, text).unwrap();
    file
}

/// A key that belongs into this partition.
fn id(partition: i32) -> String {
    let mut ids = (0..).map(|n| format!("k{n}"));
    ids.find(|id| headwater_formats::partition(id.as_bytes(), 2) == partition).unwrap()
}

fn row(partition: i32) -> Vec<u8> {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    format!("{{\"id\":\"{}\",\"at\":{at}}}", id(partition)).into_bytes()
}

fn put(environment: &Ephemeral, topic: &str) {
    let (a, b) = (row(0), row(1));
    produce(environment, topic, &[(0, Some(&id(0)), Some(&a)), (1, Some(&id(1)), Some(&b))]);
}

/// Rows in the windows that were closed.
fn counted(environment: &Ephemeral, name: &str) -> usize {
    let rows = read(environment, &format!("{name}.counts")).into_iter().filter_map(|r| r.value);
    rows.map(|v| serde_json::from_slice::<serde_json::Value>(&v).unwrap()["n"].as_u64().unwrap() as usize).sum()
}

/// Waits until silence has closed every window: all rows are counted then, and none was late.
fn all_in_time(environment: &Ephemeral, worker: &Worker, name: &str, rows: usize) {
    wait_until("all windows", Duration::from_secs(60), || {
        let (counted, late) = (counted(environment, name), read(environment, &format!("{name}.late")).len());
        let state = format!("{counted} of {rows} rows counted, {late} late\n{}", worker.log_tail());
        assert_eq!(late, 0, "{state}");
        if counted == rows { Ok(()) } else { Err(state) }
    });
}

/// Writes a row to each partition ten times a second for `length`; returns how many.
fn put_for(environment: &Ephemeral, topic: &str, length: Duration) -> usize {
    let (until, mut rows) = (Instant::now() + length, 0);
    let (_sender, receiver) = channel::<()>();
    while Instant::now() < until {
        put(environment, topic);
        rows += 2;
        let _ = receiver.recv_timeout(Duration::from_millis(100));
    }
    rows
}

#[test]
fn a_frozen_worker_makes_no_row_late() {
    let environment = exclusive();
    let (name, topic) = ("frozen", "frozen.orders");
    create(&environment, topic, 2);
    let dir = tempfile::tempdir().unwrap();
    // It stays a member while it is frozen.
    let worker = Worker::start_with(&environment, &pipeline(dir.path(), name), dir.path(), 0, &[("HW_SESSION", "30s")]);
    let mut rows = put_for(&environment, topic, Duration::from_secs(2));
    wait_until("the first windows", Duration::from_secs(60), || match counted(&environment, name) {
        0 => Err(worker.log_tail()),
        _ => Ok(()),
    });
    for _ in 0..2 {
        rows += put_for(&environment, topic, Duration::from_secs(2));
        worker.freeze();
        rows += put_for(&environment, topic, Duration::from_secs(9));
        worker.thaw();
        rows += put_for(&environment, topic, Duration::from_secs(2));
    }
    all_in_time(&environment, &worker, name, rows);
    assert!(worker.stop().success());
}

#[test]
fn rows_behind_a_foreign_transaction_are_in_time_and_count_as_lag() {
    let environment = exclusive();
    let (name, topic) = ("foreign", "foreign.orders");
    create(&environment, topic, 2);
    let dir = tempfile::tempdir().unwrap();
    let worker = Worker::start(&environment, &pipeline(dir.path(), name), dir.path(), 0, None);
    put(&environment, topic);
    wait_until("the first windows", Duration::from_secs(60), || match counted(&environment, name) {
        2 => Ok(()),
        n => Err(format!("{n} rows counted\n{}", worker.log_tail())),
    });
    let foreign = begin(&environment, "foreign", topic, 1, &id(1), &row(1));
    wait_until("the watermark is held back", Duration::from_secs(60), || {
        match worker.metric("headwater_watermark_held", &["partition=\"1\"", "reason=\"unread\""])? {
            n if n > 0.0 => Ok(()),
            _ => Err(worker.log_tail()),
        }
    });
    let health = page(&worker.address(), "/health").unwrap();
    assert!(health.contains("the watermark of foreign.orders-1 is held back"), "{health}");
    assert_eq!(worker.metric("headwater_lag_records", &["partition=\"1\""]), Ok(1.0), "the record that nobody can read yet");
    foreign.commit_transaction(Duration::from_secs(30)).unwrap();
    all_in_time(&environment, &worker, name, 3);
    assert_eq!(worker.metric("headwater_watermark_held", &[]), Ok(0.0));
    // The log ends with the marker of the transaction: all is read, for this worker and for a client of others.
    wait_until("no lag", Duration::from_secs(30), || {
        let ours = worker.metric("headwater_lag_records", &[])?;
        let late = worker.metric("headwater_lag_seconds", &[])?;
        let output = Command::new(python())
            .arg(oracle_dir().join("lag.py"))
            .args([environment.bootstrap.as_str(), "hw.foreign", topic])
            .output()
            .expect("python runs");
        let theirs = String::from_utf8_lossy(&output.stdout).trim().to_string();
        match (ours, late, theirs.as_str()) {
            (0.0, 0.0, "0") => Ok(()),
            _ => Err(format!("{ours} records and {late} s here, `{theirs}` there; {}", String::from_utf8_lossy(&output.stderr))),
        }
    });
    assert!(worker.stop().success());
}
