//! `hw plan` and `hw history`: a start does what was shown, and what it did is listed.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use headwater_devenv::Ephemeral;
use serde_json::Value;

use crate::environment::{HW, configured, exclusive, wait_until};
use crate::log::{create, produce, read};
use crate::worker::Worker;

const PIPELINE: &str = "apiVersion: headwater/v1
name: planned
sources:
  clicks:
    topic: planned.in
    schema: { user: string, n: long, at: timestamp }
    time: { field: at, out_of_order: 0s, idle: never }
steps:
  per_user: { from: clicks, window: { tumbling: 10m, by: [user], compute: { rows: count(*) } } }
sinks:
  out: { from: per_user, topic: planned.out, key: user, create: { partitions: 1 } }
";

fn hw(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.env("NO_COLOR", "1").output().expect("hw starts");
    (status.code(), String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr).into_owned())
}

/// The exit code and the report of `hw plan --json`.
fn plan(environment: &Ephemeral, file: &Path) -> (Option<i32>, Value) {
    let mut command = Command::new(&*HW);
    configured(command.arg("plan").arg(file).args(["--json", "--detailed-exitcode"]), environment);
    let (code, said, errors) = hw(&mut command);
    (code, serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}{errors}")))
}

#[test]
fn a_start_does_what_was_planned_and_is_listed() {
    let environment = exclusive();
    create(&environment, "planned.in", 2);
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let file = dir.path().join(format!("{name}.yaml"));
        std::fs::write(&file, text).unwrap();
        file
    };
    let file = write("first", PIPELINE);
    let (code, report) = plan(&environment, &file);
    assert_eq!((code, report["outcome"].as_str(), report["deployed"].is_null()), (Some(3), Some("compatible"), true), "{report}");
    let names = |report: &Value| -> Vec<String> {
        report["topics"].as_array().unwrap().iter().map(|topic| topic["name"].as_str().unwrap().to_string()).collect()
    };
    let wanted =
        ["hw.planned.manifest", "planned.in.dlq", "hw.planned.per_user.repartition", "hw.planned.per_user.changelog", "planned.out"];
    assert!(wanted.iter().all(|topic| names(&report).contains(&(*topic).to_string())), "{report}");

    let run = |file: &Path| {
        let worker = Worker::start(&environment, file, dir.path(), 0, None);
        wait_until("positions", Duration::from_secs(60), || {
            match worker.metric("headwater_source_records_total", &["result=\"row\""])? {
                n if n >= 4.0 => Ok(()),
                n => Err(format!("{n} rows\n{}", worker.log_tail())),
            }
        });
        assert!(worker.stop().success());
    };
    let feed = || {
        let values = ["a", "b"].map(|user| format!(r#"{{"user":"{user}","n":1,"at":"2026-01-01T00:00:00Z"}}"#));
        let records: Vec<_> = (0..2).flat_map(|p| values.iter().map(move |v| (p, None, Some(v.as_bytes())))).collect();
        produce(&environment, "planned.in", &records);
    };
    feed();
    run(&file);
    let (code, report) = plan(&environment, &file);
    assert_eq!(
        (code, report["outcome"].as_str(), report["topics"].as_array().map(Vec::len)),
        (Some(0), Some("no-op"), Some(0)),
        "{report}"
    );
    let state = &report["state"][0];
    assert_eq!((state["step"].as_str(), state["fate"].as_str()), (Some("per_user"), Some("kept")));
    assert!(state["records"].as_i64().unwrap() > 0 && state["bytes"].as_u64().unwrap() > 0, "{state}");

    let other = write("other", &PIPELINE.replace("topic: planned.out", "topic: planned.elsewhere"));
    let (code, report) = plan(&environment, &other);
    assert_eq!((code, names(&report)), (Some(3), vec!["planned.elsewhere".to_string()]), "{report}");
    assert_eq!(report["changes"][0], "sink `out`: `topic` was planned.out, now planned.elsewhere");
    feed();
    run(&other);

    // A step with another name has the state that it had.
    let renamed = std::fs::read_to_string(&other).unwrap().replace("per_user: { from: clicks,", "counts: { from: clicks, was: per_user,");
    let renamed = write("renamed", &renamed.replace("from: per_user", "from: counts"));
    let (code, report) = plan(&environment, &renamed);
    let state: Vec<_> = report["state"].as_array().unwrap().iter().map(|of| (&of["step"], &of["was"], &of["fate"])).collect();
    assert_eq!((code, state), (Some(3), vec![(&"counts".into(), &"per_user".into(), &"kept".into())]), "{report}");
    let mut command = Command::new(&*HW);
    configured(command.arg("plan").arg(&renamed), &environment);
    let (_, said, errors) = hw(&mut command);
    assert!(said.contains("counts kept (was per_user): hw.planned.per_user.changelog"), "{said}{errors}");

    // What state can't follow: the same by the services, by a saved manifest, and at the start.
    let smaller = write("smaller", &PIPELINE.replace("tumbling: 10m", "tumbling: 5m"));
    let (code, report) = plan(&environment, &smaller);
    let refused = &report["refused"][0];
    assert_eq!(
        (code, refused["code"].as_str(), refused["impact"].as_str()),
        (Some(5), Some("changed-state"), Some("backfill")),
        "{report}"
    );
    let saved = dir.path().join("deployed.json");
    let mut command = Command::new(&*HW);
    configured(command.args(["history", "planned", "--save"]).arg(&saved), &environment);
    let (code, said, errors) = hw(&mut command);
    assert_eq!(code, Some(0), "{said}{errors}");
    let against =
        |file: &Path| hw(Command::new(&*HW).arg("plan").arg(file).arg("--against").arg(&saved).args(["--json", "--detailed-exitcode"]));
    let (code, said, _) = against(&smaller);
    let offline: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &offline["refused"], &offline["assumed"]), (Some(5), &report["refused"], &true.into()), "{said}");
    let (code, said, errors) = against(&write("again", &std::fs::read_to_string(&other).unwrap()));
    assert_eq!(code, Some(0), "{said}{errors}");
    let mut worker = Worker::start(&environment, &smaller, dir.path(), 0, None);
    assert_eq!(worker.wait(Duration::from_secs(30)).and_then(|status| status.code()), Some(2), "{}", worker.log_tail());

    let mut command = Command::new(&*HW);
    configured(command.args(["history", "--json"]).arg(&other), &environment);
    let (_, said, errors) = hw(&mut command);
    let versions: Vec<Value> =
        said.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {said}{errors}"))).collect();
    let listed: Vec<_> =
        versions.iter().map(|v| (v["version"].as_u64(), v["current"].as_bool(), v["changes"].as_array().map(Vec::len))).collect();
    assert_eq!(listed, [(Some(1), Some(false), Some(0)), (Some(2), Some(true), Some(1))], "{said}");
    assert!(versions.iter().all(|version| version["deployed"].is_string()) && !read(&environment, "hw.planned.manifest").is_empty());
}

/// A manifest of another pipeline, and a file that is no manifest.
#[test]
fn what_is_no_manifest_of_the_pipeline_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (file, saved) = (dir.path().join("pipeline.yaml"), dir.path().join("saved.json"));
    std::fs::write(&file, PIPELINE).unwrap();
    let plan = || hw(Command::new(&*HW).arg("plan").arg(&file).arg("--against").arg(&saved));
    std::fs::write(&saved, "{}").unwrap();
    let (code, _, said) = plan();
    assert!(code == Some(1) && said.contains("hw history --save"), "{said}");
    let other = r#"{"format":1,"version":1,"replaces":null,"inputs":{},"steps":{},"outboxes":{"o":{"topic":"hw.other.o.outbox","id":null,"partitions":1}}}"#;
    std::fs::write(&saved, other).unwrap();
    let (code, _, said) = plan();
    assert!(code == Some(1) && said.contains("the manifest of another pipeline"), "{said}");
}
