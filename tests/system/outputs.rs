//! What a reader of an output sees: keys, partitions, timestamps and headers as the pipeline says, read by kcat, a client
//! that has nothing to do with ours; and what `guarantee: at_least_once` changes.

use std::process::Command;
use std::time::Duration;

use headwater_devenv::Ephemeral;

use crate::environment::{exclusive, wait_until};
use crate::log::{create, produce, produce_with, read};
use crate::worker::Worker;

const PIPELINE: &str = r#"
apiVersion: headwater/v1
name: outputs
sources:
  orders:
    topic: outputs.in
    schema: { id: string, lane: int, n: long, at: timestamp }
    time: { field: at, out_of_order: 1s }
steps:
  running:
    from: orders
    window: { unbounded: true, by: [id], compute: { total: sum(n), last_at: last(at) }, emit: on_update }
  closed:
    from: orders
    window: { tumbling: 1m, by: [id], compute: { total: sum(n) } }
sinks:
  placed: { from: orders, topic: outputs.placed, key: id, partition: lane, timestamp: at, create: { partitions: 3 } }
  totals: { from: running, topic: outputs.totals, key: id, create: { partitions: 1 } }
  closed: { from: closed, topic: outputs.closed, key: id, create: { partitions: 1 } }
"#;

/// `kcat` reads a topic to its end, one record a line; sorted by partition and offset.
fn kcat(environment: &Ephemeral, topic: &str, format: &str) -> Vec<String> {
    let output = Command::new("kcat")
        .args(["-b", &environment.bootstrap, "-t", topic, "-C", "-e", "-q", "-X", "isolation.level=read_committed", "-f"])
        .arg(format!("%p %o {format}\n"))
        .output()
        .expect("install kcat (Debian: kcat)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut lines: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_string).collect();
    lines.sort();
    lines.iter().map(|line| line.splitn(3, ' ').nth(2).unwrap_or_default().to_string()).collect()
}

#[test]
fn kcat_reads_keys_partitions_timestamps_and_headers() {
    let environment = exclusive();
    create(&environment, "outputs.in", 1);
    let value = |id: &str, lane: i32, n: i64, second: i64| {
        format!(r#"{{"id":"{id}","lane":{lane},"n":{n},"at":"2026-01-01T00:00:{second:02}.500Z"}}"#)
    };
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for (n, (id, lane)) in [("a", 2), ("b", 0), ("a", 1)].into_iter().enumerate() {
        let headers = [("correlation-id", format!("c{n}")), ("causation-id", "e1".into()), ("traceparent", trace.into())];
        let value = value(id, lane, 10 + n as i64, n as i64);
        produce_with(&environment, "outputs.in", 0, Some(id), value.as_bytes(), &headers);
    }
    // Past the end of the window: it closes.
    let late = r#"{"id":"z","lane":0,"n":1,"at":"2026-01-01T01:00:00Z"}"#;
    produce(&environment, "outputs.in", &[(0, None, Some(late.as_bytes()))]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("outputs.yaml");
    std::fs::write(&file, PIPELINE).unwrap();
    let worker = Worker::start(&environment, &file, dir.path(), 0, None);
    for (topic, wanted) in [("outputs.placed", 4), ("outputs.totals", 4), ("outputs.closed", 2)] {
        wait_until(topic, Duration::from_secs(60), || match read(&environment, topic).len() {
            n if n == wanted => Ok(()),
            n => Err(format!("{n} records\n{}", worker.log_tail())),
        });
    }
    let all = format!("correlation-id={{}},causation-id=e1,traceparent={trace}");
    let headers = |n: usize| all.replace("{}", &format!("c{n}"));
    let placed = kcat(&environment, "outputs.placed", "%p %k %T %h");
    let start = 1_767_225_600_500i64;
    let wanted = [
        format!("0 b {} {}", start + 1_000, headers(1)),
        "0 z 1767229200000 ".to_string(),
        format!("1 a {} {}", start + 2_000, headers(2)),
        format!("2 a {start} {}", headers(0)),
    ];
    assert_eq!(placed, wanted);
    // A running total stands for the record that changed it, also behind a repartition: its headers continue.
    let totals = kcat(&environment, "outputs.totals", "%k %s %h");
    let of_a: Vec<&String> = totals.iter().filter(|line| line.starts_with("a ")).collect();
    let first = r#"{"id":"a","total":10,"last_at":"2026-01-01T00:00:00.500Z"}"#;
    let second = r#"{"id":"a","total":22,"last_at":"2026-01-01T00:00:02.500Z"}"#;
    assert_eq!(of_a, [&format!("a {first} {}", headers(0)), &format!("a {second} {}", headers(2))]);
    let closed = kcat(&environment, "outputs.closed", "%k %T [%h]");
    assert_eq!(closed, ["a 1767225659999 []", "b 1767225659999 []"], "the result of a closed window has no headers");
    assert!(worker.stop().success());
}

#[test]
fn at_least_once_writes_without_transactions() {
    let environment = exclusive();
    create(&environment, "plain.in", 2);
    let values: Vec<Vec<u8>> = (0..1_000).map(|n| format!("{{\"n\":{n}}}").into_bytes()).collect();
    let records: Vec<_> = values.iter().enumerate().map(|(n, v)| ((n % 2) as i32, None, Some(v.as_slice()))).collect();
    produce(&environment, "plain.in", &records);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("plain.yaml");
    let text = "apiVersion: headwater/v1\nname: plain\nguarantee: at_least_once\ncommit_interval: 10ms\n\
                sources: { s: { topic: plain.in, schema: { n: long } } }\n\
                sinks: { out: { from: s, topic: plain.out, create: { partitions: 1 } } }\n";
    std::fs::write(&file, text).unwrap();
    let run = |wanted: usize| {
        let worker = Worker::start(&environment, &file, dir.path(), 0, None);
        wait_until("rows", Duration::from_secs(60), || match read(&environment, "plain.out").len() {
            n if n >= wanted => Ok(()),
            n => Err(format!("{n} rows\n{}", worker.log_tail())),
        });
        worker
    };
    assert!(run(1_000).stop().success());
    produce(&environment, "plain.in", &records);
    assert!(run(2_000).stop().success());
    // Stopped cleanly, so each row is there once, in both halves; and no transaction has left its marks in the log.
    assert_eq!(read(&environment, "plain.out").len(), 2_000);
    let offsets = kcat(&environment, "plain.out", "%o");
    assert_eq!(offsets.len(), 2_000);
    assert!(offsets.iter().any(|offset| offset == "1999"), "markers of transactions take up offsets");
}
