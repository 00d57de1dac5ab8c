//! The metrics of a worker whose pipeline has all kinds of parts: as docs/metrics.md lists them, and from 0 on.

use std::path::Path;
use std::time::Duration;

use crate::environment::{clickhouse, exclusive, page, wait_until};
use crate::log::{create, create_with, produce};
use crate::worker::Worker;

const PIPELINE: &str = "apiVersion: headwater/v1
name: metrics
sources: { orders: { topic: metrics.orders, schema: { id: string, customer: string } } }
tables: { regions: { topic: metrics.regions, key: customer, schema: { customer: string, region: string } } }
steps:
  known: { from: orders, enrich: { table: regions, on: customer, add: [region], missing: dead_letter } }
  totals: { from: known, window: { tumbling: 28d, by: [customer], compute: { n: count(*) }, emit: on_update } }
sinks:
  totals: { from: totals, topic: metrics.totals, create: { partitions: 2 } }
  stored: { from: known, clickhouse: metrics.orders, flush_interval: 100ms }
";

/// Served only while a silent partition can't be read.
const AT_TIMES: [&str; 1] = ["headwater_watermark_held"];

/// Name, type and labels of every metric on the page.
fn documented() -> Vec<(String, String, Vec<String>)> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md")).unwrap();
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_string).collect::<Vec<_>>();
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        (quoted(cells[1]).remove(0), cells[2].to_string(), quoted(cells[3]))
    })
    .collect()
}

/// Names of the labels of a series, those that its type or every metric has apart.
fn labels(series: &str) -> Vec<String> {
    let inner = series.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).map_or("", |(inner, _)| inner);
    let names = inner.split("\",").filter_map(|label| label.split_once('=')).map(|(name, _)| name.to_string());
    names.filter(|name| name != "pipeline" && name != "le").collect()
}

fn as_documented(served: &str) {
    let page = documented();
    for line in served.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        assert!(page.iter().any(|(listed, of, _)| listed == name && of == kind), "docs/metrics.md lacks {name}, a {kind}");
    }
    for (name, kind, listed) in page {
        let suffix = if kind == "histogram" { "_bucket" } else { "" };
        let series: Vec<&str> = served.lines().filter(|line| line.starts_with(&format!("{name}{suffix}{{"))).collect();
        assert!(!series.is_empty() || AT_TIMES.contains(&name.as_str()), "{name} is not served:\n{served}");
        for series in series {
            assert_eq!(labels(series), listed, "{series}");
            assert!(series.contains(r#"pipeline="metrics""#), "{series}");
        }
    }
}

/// An alert on growth missed the first dead letter, late row and refused row: their series began with it.
#[test]
fn metrics_are_as_documented_and_begin_at_0() {
    let environment = exclusive();
    create(&environment, "metrics.orders", 2);
    create_with(&environment, "metrics.regions", 1, &[("cleanup.policy", "compact")]);
    clickhouse(&environment, "CREATE DATABASE metrics").unwrap();
    produce(&environment, "metrics.regions", &[(0, Some("a"), Some(br#"{"customer":"a","region":"north"}"#))]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("metrics.yaml");
    std::fs::write(&file, PIPELINE).unwrap();
    let worker = Worker::start(&environment, &file, dir.path(), 0, None);
    wait_until("the worker is ready", Duration::from_secs(60), || {
        page(&worker.address(), "/ready").map(drop).map_err(|e| format!("{e}\n{}", worker.log_tail()))
    });
    let served = page(&worker.address(), "/metrics").unwrap();
    let own = |series: &str| series.replacen('{', "{pipeline=\"metrics\",", 1);
    for series in [
        r#"headwater_source_records_total{topic="metrics.orders",partition="1",result="dead_lettered"}"#,
        r#"headwater_step_rows_total{step="totals",partition="0",result="late"}"#,
        r#"headwater_output_bytes_total{output="totals"}"#,
        r#"headwater_output_refused_rows_total{output="stored"}"#,
        r#"headwater_dead_letters_total{step="orders",cause="undecodable"}"#,
        r#"headwater_dead_letters_total{step="known",cause="rejected"}"#,
        r#"headwater_dead_letters_total{step="totals",cause="unwritable"}"#,
        r#"headwater_commit_failures_total{outcome="unknown"}"#,
        r#"headwater_state_entries{step="totals"}"#,
        r#"headwater_table_bad_records_total{table="regions"}"#,
        r#"headwater_delivery_refused_rows_total{sink="stored"}"#,
        r#"headwater_source_partitions_unread{topic="metrics.orders"}"#,
    ] {
        assert!(served.lines().any(|line| line == format!("{} 0", own(series))), "no {series} with 0 in\n{served}");
    }
    let is = |name: &str, parts: &[&str], wanted: &dyn Fn(f64) -> bool| match worker.metric(name, parts)? {
        value if wanted(value) => Ok(()),
        value => Err(format!("{name} {parts:?}: {value}\n{}", worker.log_tail())),
    };

    let (good, unknown) = (br#"{"id":"1","customer":"a"}"#, br#"{"id":"2","customer":"b"}"#);
    produce(&environment, "metrics.orders", &[(0, None, Some(good)), (0, None, Some(unknown)), (1, None, Some(b"{"))]);
    wait_until("what was counted", Duration::from_secs(60), || {
        is("headwater_dead_letters_total", &["orders", "undecodable"], &|n| n == 1.0)?;
        is("headwater_dead_letters_total", &["known", "rejected"], &|n| n == 1.0)?;
        is("headwater_output_records_total", &["output=\"totals\""], &|n| n == 1.0)?;
        is("headwater_delivery_rows_total", &[], &|n| n == 1.0)?;
        is("headwater_watermark_timestamp_seconds", &[], &|at| at > 1e9)?;
        is("headwater_state_entries", &["totals"], &|n| n >= 1.0)
    });
    is("headwater_output_bytes_total", &["output=\"totals\""], &|bytes| (10.0..1_000.0).contains(&bytes)).unwrap();
    is("headwater_last_commit_timestamp_seconds", &[], &|at| at > 1e9).unwrap();
    is("headwater_rebalances_total", &[], &|n| n >= 1.0).unwrap();
    is("process_cpu_seconds_total", &[], &|seconds| seconds > 0.0).unwrap();
    is("headwater_output_records_total", &["output=\"hw.metrics."], &|n| n >= 1.0).unwrap();
    as_documented(&page(&worker.address(), "/metrics").unwrap());
    let entries = worker.metric("headwater_state_entries", &["totals"]).unwrap();
    assert!(worker.stop().success());

    // State that was restored counts before it changes.
    let worker = Worker::start(&environment, &file, dir.path(), 0, None);
    wait_until("the restored state", Duration::from_secs(60), || match worker.metric("headwater_state_entries", &["totals"])? {
        n if n == entries => Ok(()),
        n => Err(format!("{n} entries\n{}", worker.log_tail())),
    });
    assert!(worker.stop().success());
}
