//! `hw status`: what somebody who operates pipelines learns of them, from Kafka alone and from their workers.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use headwater_devenv::Ephemeral;
use rdkafka::producer::Producer;
use serde_json::Value;

use crate::environment::{HW, configured, exclusive, page, wait_until};
use crate::log::{begin, create, produce};
use crate::worker::Worker;

const PIPELINE: &str = "apiVersion: headwater/v1
name: watched
sources:
  clicks:
    topic: watched.in
    schema: { user: string, at: timestamp }
    time: { field: at, out_of_order: 0s, idle: never }
steps:
  per_user: { from: clicks, window: { tumbling: 10m, by: [user], compute: { rows: count(*) } } }
sinks:
  out: { from: per_user, topic: watched.out, key: user, create: { partitions: 1 } }
";

/// The exit code of `hw status --json`, and the pipeline in it; or what it said instead.
fn status(environment: &Ephemeral, dir: &Path, more: &[&str]) -> Result<(Option<i32>, Value), String> {
    let mut command = Command::new(&*HW);
    configured(command.args(["status", "watched", "--json"]).args(more), environment);
    let output = command.env("NO_COLOR", "1").env("HW_STATE_DIR", dir.join("state-0")).output().expect("hw starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_str(&said).map_err(|e| format!("{e}: {said}"))?;
    Ok((output.status.code(), report["pipelines"][0].clone()))
}

fn attention<'v>(pipeline: &'v Value, what: &str) -> Option<&'v Value> {
    pipeline["attention"].as_array().unwrap().iter().find(|found| found["what"] == what)
}

#[test]
fn a_pipeline_and_what_holds_it_up_are_shown() {
    let environment = exclusive();
    create(&environment, "watched.in", 2);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pipeline.yaml");
    std::fs::write(&file, PIPELINE).unwrap();
    let row = |at: &str| format!(r#"{{"user":"a","at":"2026-01-01T{at}Z"}}"#);
    produce(&environment, "watched.in", &[(0, None, Some(row("00:01:00").as_bytes())), (1, None, Some(row("00:05:00").as_bytes()))]);
    let worker = Worker::start(&environment, &file, dir.path(), 0, None);
    let mut found = Value::Null;
    wait_until("a pipeline that is well", Duration::from_secs(60), || {
        let (code, now) = status(&environment, dir.path(), &[])?;
        found = now;
        match code == Some(0) && found["watermark"]["at"].is_i64() && found["partitions"].as_array().unwrap().iter().all(|p| p["lag"] == 0)
        {
            true => Ok(()),
            false => Err(format!("{found:#}")),
        }
    });
    // Its worker was found by the state folder, and says what it does.
    let page_of_it: Value = serde_json::from_str(&page(&worker.address(), "/status").unwrap()).unwrap();
    let answered = &found["workers"][0]["status"];
    assert_eq!((&answered["worker"], answered["version"].as_u64()), (&page_of_it["worker"], Some(1)), "{found:#}");
    let tasks: usize = answered["lanes"].as_array().unwrap().iter().map(|lane| lane["tasks"].as_array().unwrap().len()).sum();
    assert_eq!(tasks, 4, "two stages of two partitions: {answered:#}");
    assert_eq!(found["group"]["members"][0]["worker"], page_of_it["worker"]);
    // The lowest watermark is that of the partition whose records are older.
    let lowest = &found["watermark"];
    assert_eq!((lowest["topic"].as_str(), lowest["partition"].as_i64()), (Some("watched.in"), Some(0)), "{lowest}");

    // A transaction of another producer, which nobody ends.
    let open = begin(&environment, "watched-other", "watched.in", 1, "k", row("00:06:00").as_bytes());
    wait_until("the open transaction", Duration::from_secs(30), || {
        let (code, now) = status(&environment, dir.path(), &[])?;
        let found = attention(&now, "transaction").ok_or_else(|| format!("{now:#}"))?;
        let remedy = found["remedy"].as_str().unwrap();
        assert!(code == Some(3) && found["where"] == "watched.in-1" && remedy.contains("describe-producers --topic watched.in"), "{found}");
        Ok(())
    });
    open.abort_transaction(Duration::from_secs(30)).unwrap();
    assert!(worker.stop().success());

    // Without a worker Kafka still knows lag and watermarks.
    produce(&environment, "watched.in", &[(0, None, Some(row("00:09:00").as_bytes()))]);
    let (code, now) = status(&environment, dir.path(), &["--worker", "127.0.0.1:1"]).unwrap();
    assert_eq!(code, Some(3));
    assert!(attention(&now, "workers").is_some_and(|found| found["remedy"].as_str().unwrap().contains("hw run")), "{now:#}");
    assert!(attention(&now, "worker").is_some_and(|found| found["where"] == "127.0.0.1:1"), "{now:#}");
    let behind: Vec<_> = now["partitions"].as_array().unwrap().iter().filter(|p| p["lag"] != 0 && p["source"] == "clicks").collect();
    assert!(behind.iter().any(|p| p["partition"] == 0 && p["lag"] == 1), "{now:#}");
    assert_eq!(now["watermark"]["cause"], "1 records are not read yet");
    let mut command = Command::new(&*HW);
    configured(command.args(["status", "watched"]), &environment);
    let said = String::from_utf8(command.env("NO_COLOR", "1").output().expect("hw starts").stdout).unwrap();
    for part in [
        "watched: needs attention (version 1",
        "no worker runs",
        "start workers with `hw run`",
        "watched.in-0: 1",
        "watermark: 2026-01-01T00:01:00",
    ] {
        assert!(said.contains(part), "no `{part}` in {said}");
    }
}
