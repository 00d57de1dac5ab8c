//! Outages of services: work that needs them waits, everything else continues, nothing is lost or doubled, and
//! an outage is never mistaken for a bad record.

use std::process::Command;
use std::time::Duration;

use headwater_devenv::{Protocol, Proxy, Service, Stop};

use crate::environment::{HW, clickhouse, exclusive, page, wait_until};
use crate::log::{avro_long, create, produce, read, register};
use crate::worker::Worker;

pub fn expect(what: &str, wanted: usize, mut count: impl FnMut() -> usize) {
    wait_until(what, Duration::from_secs(90), || match count() {
        n if n == wanted => Ok(()),
        n => Err(format!("{n} instead of {wanted}")),
    });
}

#[test]
fn a_registry_outage_pauses_and_never_dead_letters() {
    let mut environment = exclusive();
    create(&environment, "outage.avro", 2);
    let first = register(&environment, "outage.avro-value", r#"{"type":"record","name":"R","fields":[{"name":"n","type":"long"}]}"#);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("outage.yaml");
    let text = "apiVersion: headwater/v1\nname: registry-outage\nsources: { s: { topic: outage.avro, format: avro } }\n\
                sinks: { out: { from: s, topic: outage.avro-out, create: { partitions: 2 } } }\n";
    std::fs::write(&file, text).unwrap();
    let worker = Worker::start(&environment, &file, dir.path(), 0, None);
    let known = avro_long(first, 1);
    produce(&environment, "outage.avro", &[(0, None, Some(&known)), (1, None, Some(&known))]);
    expect("rows before the outage", 2, || read(&environment, "outage.avro-out").len());

    // A version that the worker has not met, and then no registry to ask.
    let schema = r#"{"type":"record","name":"R","fields":[{"name":"n","type":"long"},{"name":"m","type":"long","default":0}]}"#;
    let second = register(&environment, "outage.avro-value", schema);
    // Not killed: its database writes half a second late, and a schema that it lost is a 404 by right.
    environment.stop(Service::Registry, Stop::Terminate).unwrap();
    let mut unmet = avro_long(second, 2);
    unmet.push(6);
    produce(&environment, "outage.avro", &[(0, None, Some(&unmet)), (0, None, Some(&known)), (1, None, Some(&known))]);
    wait_until("the partition waits", Duration::from_secs(60), || match worker.metric("headwater_partitions_waiting", &[])? {
        n if n >= 1.0 => Ok(()),
        n => Err(format!("{n} partitions wait")),
    });
    // The other partition continues; the waiting one keeps its order.
    expect("rows of the other partition", 3, || read(&environment, "outage.avro-out").len());
    // Records that arrive while the partition is paused must not be lost either.
    produce(&environment, "outage.avro", &[(0, None, Some(&known))]);
    assert_eq!(read(&environment, "outage.avro.dlq"), [], "an outage is not a bad record");
    environment.start(Service::Registry).unwrap();
    wait_until("all rows after the outage", Duration::from_secs(90), || {
        let (rows, dead) = (read(&environment, "outage.avro-out"), read(&environment, "outage.avro.dlq"));
        let text: Vec<_> = rows.iter().map(|r| String::from_utf8_lossy(r.value.as_deref().unwrap_or_default()).into_owned()).collect();
        if rows.len() == 6 { Ok(()) } else { Err(format!("{} rows {text:?}, dead letters {dead:?}\n{}", rows.len(), worker.log_tail())) }
    });
    assert_eq!(read(&environment, "outage.avro.dlq"), []);
    assert!(worker.stop().success());
}

#[test]
fn a_sink_that_stops_stops_alone() {
    let environment = exclusive();
    create(&environment, "stopped.json", 2);
    // Rows of this outbox, and no position that accounts for them: only an operator can say where they are from.
    clickhouse(&environment, "CREATE DATABASE stopped").unwrap();
    clickhouse(
        &environment,
        "CREATE TABLE stopped.numbers (n Int64, _partition Int32, _offset Int64, _row Int32) ENGINE = MergeTree ORDER BY n \
         SETTINGS non_replicated_deduplication_window = 1000",
    )
    .unwrap();
    clickhouse(&environment, "INSERT INTO stopped.numbers SELECT 1, number, 0, 0 FROM numbers(2)").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("stopped.yaml");
    let text = "apiVersion: headwater/v1\nname: stopped-sink\nsources: { s: { topic: stopped.json, schema: { n: long } } }\n\
                sinks:\n  out: { from: s, topic: stopped.json-out, create: { partitions: 2 } }\n  \
                numbers: { from: s, clickhouse: stopped.numbers, flush_interval: 100ms }\n  \
                others: { from: s, clickhouse: stopped.others, flush_interval: 100ms }\n  \
                unfit: { from: s, clickhouse: stopped.unfit, flush_interval: 100ms }\n";
    std::fs::write(&file, text).unwrap();
    clickhouse(
        &environment,
        "CREATE TABLE stopped.others (n Int64, _partition Int32, _offset Int64, _row Int32) ENGINE = MergeTree ORDER BY n \
         SETTINGS non_replicated_deduplication_window = 1000",
    )
    .unwrap();
    clickhouse(
        &environment,
        "CREATE TABLE stopped.unfit (n String, _partition Int32, _offset Int64, _row Int32) ENGINE = MergeTree ORDER BY n \
         SETTINGS non_replicated_deduplication_window = 1000",
    )
    .unwrap();
    let worker = Worker::start(&environment, &file, dir.path(), 0, None);
    // One of them at the start: its table does not fit.
    for sink in ["numbers", "unfit"] {
        wait_until("the sink has stopped", Duration::from_secs(60), || match worker.metric("headwater_delivery_stopped", &[sink])? {
            1.0 => Ok(()),
            n => Err(format!("{n}\n{}", worker.log_tail())),
        });
    }
    let values: Vec<Vec<u8>> = (0..1_000).map(|n| format!("{{\"n\":{n}}}").into_bytes()).collect();
    let records: Vec<_> = values.iter().enumerate().map(|(n, v)| ((n % 2) as i32, None, Some(v.as_slice()))).collect();
    produce(&environment, "stopped.json", &records);
    expect("the topic goes on", 1_000, || read(&environment, "stopped.json-out").len());
    wait_until("the other table goes on", Duration::from_secs(60), || {
        match clickhouse(&environment, "SELECT count() FROM stopped.others").unwrap_or_default().as_str() {
            "1000" => Ok(()),
            n => Err(format!("{n} rows\n{}", worker.log_tail())),
        }
    });
    let why = "the position was lost";
    let ready = page(&worker.address(), "/ready").unwrap_err();
    assert!(ready.contains("sink `numbers`") && ready.contains(why), "{ready}");
    assert!(ready.contains("sink `unfit`: the table stopped.unfit does not fit"), "{ready}");
    let health = page(&worker.address(), "/health").unwrap();
    assert!(health.contains(r#""status": "waiting""#) && health.contains(why), "{health}");
    let told = |line: &&serde_json::Value| line["level"] == "ERROR" && line["cause"].as_str().is_some_and(|cause| cause.contains(why));
    assert_eq!(worker.log_lines().iter().filter(told).count(), 1);
    // What it ends with says that something is wrong.
    assert!(!worker.stop().success());
}

#[test]
fn a_clickhouse_outage_holds_up_its_own_sink_only() {
    let mut environment = exclusive();
    create(&environment, "outage.json", 2);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("outage.yaml");
    let text = "apiVersion: headwater/v1\nname: clickhouse-outage\nsources: { s: { topic: outage.json, schema: { n: long } } }\n\
                sinks:\n  out: { from: s, topic: outage.json-out, create: { partitions: 2 } }\n  \
                table: { from: s, clickhouse: outage.numbers, flush_interval: 100ms }\n";
    std::fs::write(&file, text).unwrap();
    let worker = Worker::start(&environment, &file, dir.path(), 0, None);
    let values: Vec<Vec<u8>> = (0..3_000).map(|n| format!("{{\"n\":{n}}}").into_bytes()).collect();
    let send = |environment: &headwater_devenv::Ephemeral, range: std::ops::Range<usize>| {
        let records: Vec<_> = values[range].iter().enumerate().map(|(n, v)| ((n % 2) as i32, None, Some(v.as_slice()))).collect();
        produce(environment, "outage.json", &records);
    };
    let in_table =
        |environment: &headwater_devenv::Ephemeral| clickhouse(environment, "SELECT count() FROM outage.numbers").unwrap_or_default();
    send(&environment, 0..1_000);
    wait_until("rows before the outage", Duration::from_secs(60), || match in_table(&environment).as_str() {
        "1000" => Ok(()),
        n => Err(format!("{n} rows\n{}", worker.log_tail())),
    });
    environment.stop(Service::ClickHouse, Stop::Kill).unwrap();
    // A worker would start all the same; a registry is not needed here, and does not respond.
    let config = dir.path().join("dry.yaml");
    let (brokers, address) = (&environment.bootstrap, environment.clickhouse.as_deref().unwrap());
    let text = format!(
        "kafka: {{ bootstrap: \"{brokers}\" }}\nclickhouse: {{ url: \"{address}\" }}\nschema_registry: {{ url: \"http://127.0.0.1:1\" }}\n"
    );
    std::fs::write(&config, text).unwrap();
    let mut dry_run = Command::new(&*HW);
    dry_run.arg("run").arg(&file).args(["--dry-run", "--config"]).arg(&config).current_dir(dir.path());
    let output = dry_run.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(output.status.code(), Some(0), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("? ClickHouse outage.numbers: can't connect to ClickHouse"), "{said}");
    assert!(said.contains("only this sink waits until ClickHouse responds") && said.contains("? schema registry:"), "{said}");
    send(&environment, 1_000..2_000);
    expect("the topic goes on", 2_000, || read(&environment, "outage.json-out").len());
    wait_until("the sink has noticed", Duration::from_secs(60), || match worker.metric("headwater_delivery_retries_total", &[])? {
        n if n >= 1.0 => Ok(()),
        n => Err(format!("{n} retries")),
    });
    environment.start(Service::ClickHouse).unwrap();
    send(&environment, 2_000..3_000);
    wait_until("rows after the outage", Duration::from_secs(90), || match in_table(&environment).as_str() {
        "3000" => Ok(()),
        n => Err(format!("{n} rows\n{}", worker.log_tail())),
    });
    let exact = clickhouse(&environment, "SELECT count(), uniqExact(n), uniqExact(_partition, _offset, _row), sum(n) FROM outage.numbers");
    assert_eq!(exact.as_deref(), Ok("3000\t3000\t3000\t4498500"));
    assert!(worker.stop().success());
}

/// A worker that starts into an outage waits, like one that runs into it: for the registry as a whole, since nothing
/// can be planned without it, and for ClickHouse with that sink only.
#[test]
fn a_worker_may_start_before_its_services() {
    let mut environment = exclusive();
    create(&environment, "early.avro", 1);
    let id = register(&environment, "early.avro-value", r#"{"type":"record","name":"R","fields":[{"name":"n","type":"long"}]}"#);
    let records: Vec<Vec<u8>> = (0..100).map(|n| avro_long(id, n)).collect();
    let records: Vec<_> = records.iter().map(|value| (0, None, Some(value.as_slice()))).collect();
    produce(&environment, "early.avro", &records);
    environment.stop(Service::Registry, Stop::Terminate).unwrap();
    environment.stop(Service::ClickHouse, Stop::Kill).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("early.yaml");
    let text = "apiVersion: headwater/v1\nname: early\nsources: { s: { topic: early.avro, format: avro } }\n\
                sinks:\n  out: { from: s, topic: early.avro-out, create: { partitions: 1 } }\n  \
                table: { from: s, clickhouse: early.numbers, flush_interval: 100ms }\n";
    std::fs::write(&file, text).unwrap();
    let worker = Worker::start(&environment, &file, dir.path(), 0, None);
    wait_until("the worker says what it waits for", Duration::from_secs(60), || match worker.log_tail() {
        log if log.contains("schema registry") && log.contains("retrying") => Ok(()),
        log => Err(log),
    });
    environment.start(Service::Registry).unwrap();
    expect("rows in the topic", 100, || read(&environment, "early.avro-out").len());
    let unready = page(&worker.address(), "/ready").unwrap_err();
    assert!(unready.contains("sink `table`"), "{unready}");
    let health = page(&worker.address(), "/health").unwrap();
    assert!(health.contains(r#""status": "waiting""#) && health.contains("sink `table`"), "{health}");
    environment.start(Service::ClickHouse).unwrap();
    wait_until("rows in the table", Duration::from_secs(90), || {
        match clickhouse(&environment, "SELECT count() FROM early.numbers").as_deref() {
            Ok("100") => Ok(()),
            other => Err(format!("{other:?}\n{}", worker.log_tail())),
        }
    });
    wait_until("the worker is ready", Duration::from_secs(30), || page(&worker.address(), "/ready").map(|_| ()));
    assert!(worker.stop().success());
}

/// A server that takes connections and never answers, at the start and later: the sink alone waits and says so, and a stop does not
/// wait for it.
#[test]
fn a_clickhouse_that_hangs_holds_up_nothing_but_its_sink() {
    let environment = exclusive();
    create(&environment, "hangs.json", 1);
    let upstream = environment.clickhouse.clone().unwrap().trim_start_matches("http://").parse().unwrap();
    let proxy = Proxy::start("127.0.0.1:0".parse().unwrap(), upstream, Protocol::Http).unwrap();
    proxy.blackhole().unwrap();
    let url = format!("http://{}", proxy.address());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hangs.yaml");
    let text = "apiVersion: headwater/v1\nname: hangs\nsources: { s: { topic: hangs.json, schema: { n: long } } }\n\
                sinks:\n  out: { from: s, topic: hangs.json-out, create: { partitions: 1 } }\n  \
                table: { from: s, clickhouse: hangs.numbers, flush_interval: 100ms }\n";
    std::fs::write(&file, text).unwrap();
    let start = || Worker::start_with(&environment, &file, dir.path(), 0, &[("HW_CLICKHOUSE", url.as_str())]);
    let sent = std::cell::Cell::new(0);
    let send = |rows: usize| {
        let values: Vec<Vec<u8>> = (sent.get()..sent.get() + rows).map(|n| format!("{{\"n\":{n}}}").into_bytes()).collect();
        produce(&environment, "hangs.json", &values.iter().map(|value| (0, None, Some(value.as_slice()))).collect::<Vec<_>>());
        sent.set(sent.get() + rows);
        expect("the topic goes on", sent.get(), || read(&environment, "hangs.json-out").len());
    };
    let named = |worker: &Worker| {
        wait_until("the outage is named", Duration::from_secs(30), || match page(&worker.address(), "/ready") {
            Err(text) if text.contains("ClickHouse (sink `table`) does not answer: no response within") => Ok(()),
            other => Err(format!("{other:?}\n{}", worker.log_tail())),
        });
        assert!(worker.log_tail().contains("does not answer"), "{}", worker.log_tail());
        assert_eq!(worker.metric("headwater_service_up", &["clickhouse", "table"]), Ok(0.0));
    };
    let ends = |mut worker: Worker| {
        // The requests of the worker take 30 s and more.
        worker.ask_to_stop();
        assert!(worker.wait(Duration::from_secs(20)).is_some_and(|status| status.success()));
    };
    let in_table = || {
        wait_until("rows in the table", Duration::from_secs(90), || {
            match clickhouse(&environment, "SELECT count(), uniqExact(n) FROM hangs.numbers") {
                Ok(found) if found == format!("{0}\t{0}", sent.get()) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    };
    let worker = start();
    send(100);
    named(&worker);
    ends(worker);

    proxy.pass().unwrap();
    let worker = start();
    in_table();
    proxy.blackhole().unwrap();
    send(100);
    named(&worker);
    ends(worker);

    proxy.pass().unwrap();
    let worker = start();
    send(100);
    in_table();
    assert!(worker.stop().success());
}
