//! `hw reset` and `hw delete`: a stopped pipeline reads again with the state that belongs to it, and leaves nothing behind.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use headwater_devenv::Ephemeral;
use serde_json::Value;

use crate::environment::{HW, configured, exclusive, wait_until};
use crate::log::{add_partitions, create, produce, read};
use crate::worker::Worker;

/// Two stages: the rows pass a repartition topic, whose watermarks must begin again, too.
const PIPELINE: &str = "apiVersion: headwater/v1
name: NAME
sources:
  clicks:
    topic: NAME.in
    schema: { user: string, at: timestamp }
    time: { field: at, out_of_order: 0s, idle: never }
steps:
  per_user: { from: clicks, window: { tumbling: 10m, by: [user], compute: { rows: count(*) } } }
sinks:
  out: { from: per_user, topic: NAME.out, key: user, create: { partitions: 1 } }
";

struct Deployed<'e> {
    environment: &'e Ephemeral,
    name: &'static str,
    dir: tempfile::TempDir,
}

impl Deployed<'_> {
    fn file(&self) -> PathBuf {
        self.dir.path().join("pipeline.yaml")
    }

    /// A command of `hw`: its exit code, and what it said.
    fn hw(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(&*HW);
        configured(command.args(arguments), self.environment);
        let output = command.env("NO_COLOR", "1").env("HW_STATE_DIR", self.dir.path().join("state-0")).output().expect("hw starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    }

    /// Rows of two users in each of two partitions, at this minute.
    fn feed(&self, minute: usize) {
        let values = ["a", "b"].map(|user| format!(r#"{{"user":"{user}","at":"2026-01-01T00:{minute:02}:00Z"}}"#));
        let records: Vec<_> = (0..2).flat_map(|p| values.iter().map(move |value| (p, None, Some(value.as_bytes())))).collect();
        produce(self.environment, &format!("{}.in", self.name), &records);
    }

    fn results(&self) -> Vec<String> {
        let records = read(self.environment, &format!("{}.out", self.name));
        records.into_iter().map(|record| String::from_utf8(record.value.unwrap()).unwrap()).collect()
    }

    fn worker(&self) -> Worker {
        Worker::start(self.environment, &self.file(), self.dir.path(), 0, None)
    }

    /// Runs until there are so many results.
    fn run(&self, results: usize) {
        let worker = self.worker();
        wait_until("results", Duration::from_secs(60), || match self.results().len() {
            found if found >= results => Ok(()),
            found => Err(format!("{found}\n{}", worker.log_tail())),
        });
        assert!(worker.stop().success());
    }
}

fn deployed<'e>(environment: &'e Ephemeral, name: &'static str) -> Deployed<'e> {
    create(environment, &format!("{name}.in"), 2);
    let deployed = Deployed { environment, name, dir: tempfile::tempdir().unwrap() };
    std::fs::write(deployed.file(), PIPELINE.replace("NAME", name)).unwrap();
    deployed.feed(1);
    deployed.feed(11);
    deployed.run(2);
    deployed
}

fn topics(deployed: &Deployed<'_>) -> Vec<String> {
    let (_, said) = deployed.hw(&["delete", deployed.name, "--dry-run", "--json"]);
    let report: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"));
    report["topics"].as_array().unwrap().iter().map(|topic| topic.as_str().unwrap().to_string()).collect()
}

#[test]
fn a_pipeline_that_is_reset_computes_the_same_again() {
    let environment = exclusive();
    let carts = deployed(&environment, "resetting");
    let first = carts.results();
    // Nothing happens while a worker runs, or without a confirmation.
    let worker = carts.worker();
    wait_until("an assignment", Duration::from_secs(60), || match worker.metric("headwater_assigned_partitions", &[])? {
        0.0 => Err(worker.log_tail()),
        _ => Ok(()),
    });
    let (code, said) = carts.hw(&["reset", "resetting", "--to", "earliest", "--yes"]);
    assert!(code == Some(1) && said.contains("the group `hw.resetting` has members"), "{said}");
    for command in [&["reset", "resetting", "--to", "earliest", "--dry-run"] as &[&str], &["delete", "resetting", "--dry-run"]] {
        let (code, said) = carts.hw(command);
        assert!(code == Some(1) && said.contains("without --dry-run this would be refused") && !said.contains("positions were"), "{said}");
    }
    assert!(worker.stop().success());
    let (code, said) = carts.hw(&["reset", "resetting", "--to", "earliest"]);
    assert!(code == Some(2) && said.contains("--yes") && said.contains("resetting: to be reset to earliest"), "{said}");
    assert!(said.contains("out: readers of the topic resetting.out get these rows again"), "{said}");
    let (code, said) = carts.hw(&["reset", "resetting", "--to", "2100-01-01T00:00:00Z", "--dry-run"]);
    assert!(code == Some(0) && said.contains("is in the future"), "{said}");
    let (code, said) = carts.hw(&["reset", "resetting", "--to", "earliest", "--dry-run", "--json"]);
    let shown: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"));
    assert_eq!((code, shown["done"].as_bool(), shown["positions"][0]["to"].as_i64()), (Some(0), Some(false), Some(0)), "{said}");
    let removed = ["hw.resetting.per_user.changelog", "hw.resetting.per_user.repartition"];
    assert_eq!(shown["removed"].as_array().unwrap().iter().filter_map(Value::as_str).collect::<Vec<_>>(), removed);

    let (code, said) = carts.hw(&["reset", "resetting", "--to", "earliest", "--yes"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = carts.hw(&["plan", carts.file().to_str().unwrap()]);
    assert!(code == Some(0) && said.contains("no-op: a start keeps this version, and creates the topics that are missing"), "{said}");
    assert!(said.contains("per_user gone:"), "{said}");
    let (_, said) = carts.hw(&["reset", "resetting", "--to", "earliest", "--dry-run", "--json"]);
    let again: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"));
    assert_eq!(again["removed"].as_array().map(Vec::len), Some(0), "they are gone already");
    carts.run(4);
    let mut both = carts.results();
    let mut twice = [first.clone(), first].concat();
    both.sort();
    twice.sort();
    assert_eq!(both, twice, "the windows have the rows of one reading");
    let (_, history) = carts.hw(&["history", "resetting"]);
    assert!(history.contains("positions were reset to earliest"), "{history}");

    // Only positions: what is skipped is not counted.
    carts.feed(21);
    let (code, said) = carts.hw(&["reset", "resetting", "--to", "latest", "--keep-state", "--topic", "resetting.in", "--yes"]);
    assert_eq!(code, Some(0), "{said}");
    carts.feed(31);
    carts.run(6);
    let last = carts.results().split_off(4);
    assert!(last.iter().all(|row| row.contains("00:10:00") && row.contains("\"rows\":2")), "{last:?}");
    let (code, said) = carts.hw(&["reset", "resetting", "--keep-state", "--offset", "resetting.in:0=99999", "--yes"]);
    assert!(code == Some(2) && said.contains("99999"), "{said}");
}

#[test]
fn what_a_pipeline_created_is_deleted_and_nothing_else() {
    let environment = exclusive();
    let carts = deployed(&environment, "deleting");
    create(&environment, "hw.deleting-not", 1);
    create(&environment, "hw.deleting-not.manifest", 1);
    let own = topics(&carts);
    let internal = ["manifest", "per_user.changelog", "per_user.repartition"].map(|topic| format!("hw.deleting.{topic}"));
    assert!(internal.iter().all(|topic| own.contains(topic)) && own.iter().all(|topic| topic.starts_with("hw.deleting.")), "{own:?}");
    let folder = carts.dir.path().join("state-0/deleting");
    assert!(folder.is_dir());
    let (code, said) = carts.hw(&["delete", "deleting"]);
    assert!(code == Some(2) && said.contains("--yes") && said.contains("deleting.in.dlq"), "{said}");
    assert!(said.contains("topic deleting.out; a next start"), "{said}");
    assert_eq!(topics(&carts), own);
    let (code, said) = carts.hw(&["delete", "deleting", "--yes"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(!folder.exists());
    let (code, said) = carts.hw(&["delete", "deleting", "--yes"]);
    assert!(code == Some(1) && said.contains("the pipeline `deleting` is not deployed here"), "{said}");
    assert_eq!(carts.results().len(), 2, "what its sinks have written is there");
    let (code, said) = carts.hw(&["delete", "deleting-not", "--dry-run"]);
    assert!(code == Some(0) && said.contains("hw.deleting-not.manifest"), "{said}");
    // It starts like one that never ran.
    let first = carts.results();
    carts.run(4);
    let mut both = carts.results();
    both.sort();
    let mut twice = [first.clone(), first].concat();
    twice.sort();
    assert_eq!(both, twice);
}

/// A reset that was interrupted: what is left of it is a manifest that says so.
#[test]
fn no_worker_starts_between_the_parts_of_a_reset() {
    let environment = exclusive();
    let carts = deployed(&environment, "halfway");
    let records = read(&environment, "hw.halfway.manifest");
    let mut manifest: Value = serde_json::from_slice(records.last().unwrap().value.as_ref().unwrap()).unwrap();
    let version = manifest["version"].as_u64().unwrap() + 1;
    let end = offset_of_the_last(&carts);
    for (key, value) in [
        ("version", version.into()),
        ("replaces", end.into()),
        ("unfinished", "reset to earliest".into()),
        ("changes", serde_json::json!(["positions were reset to earliest"])),
    ] {
        manifest[key] = value;
    }
    produce(&environment, "hw.halfway.manifest", &[(0, None, Some(manifest.to_string().as_bytes()))]);
    let mut worker = carts.worker();
    assert_eq!(worker.wait(Duration::from_secs(30)).and_then(|status| status.code()), Some(2), "{}", worker.log_tail());
    assert!(worker.log_tail().contains("unfinished-reset"), "{}", worker.log_tail());
    drop(worker);
    let (code, said) = carts.hw(&["plan", carts.file().to_str().unwrap(), "--json"]);
    let plan = before_warnings(&said);
    let codes: Vec<&str> = plan["refused"].as_array().unwrap().iter().filter_map(|refused| refused["code"].as_str()).collect();
    assert_eq!((code, codes), (Some(2), vec!["unfinished-reset"]), "{said}");
    let (code, said) = carts.hw(&["reset", "halfway", "--to", "latest", "--yes"]);
    assert!(code == Some(1) && said.contains("has begun and is not done"), "{said}");
    let (code, said) = carts.hw(&["reset", "halfway", "--to", "earliest", "--yes"]);
    assert_eq!(code, Some(0), "{said}");
    carts.run(4);
}

/// The report in what a command said: warnings about the pipeline come after it.
fn before_warnings(said: &str) -> Value {
    let mut values = serde_json::Deserializer::from_str(said).into_iter();
    values.next().and_then(Result::ok).unwrap_or_else(|| panic!("{said}"))
}

/// The offset of the newest manifest: transactions have no markers in this topic.
fn offset_of_the_last(deployed: &Deployed<'_>) -> i64 {
    read(deployed.environment, &format!("hw.{}.manifest", deployed.name)).len() as i64 - 1
}

/// A worker runs on when its source gets partitions or its changelog is deleted, and could not be started again. A reset cures both.
#[test]
fn what_stops_a_restart_is_said_before_it_and_a_reset_cures_it() {
    let environment = exclusive();
    let carts = deployed(&environment, "growing");
    let first = carts.results();
    let status = || -> (Option<i32>, Value) {
        let (code, said) = carts.hw(&["status", "growing", "--json"]);
        let report: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"));
        (code, report["pipelines"][0]["attention"].clone())
    };
    let worker = carts.worker();
    wait_until("a pipeline that is well", Duration::from_secs(60), || match status() {
        (Some(0), _) => Ok(()),
        (_, attention) => Err(format!("{attention}\n{}", worker.log_tail())),
    });
    add_partitions(&environment, "growing.in", 4);
    wait_until("the partitions", Duration::from_secs(30), || {
        let (code, attention) = status();
        let start = attention.as_array().unwrap().iter().find(|found| found["what"] == "start").ok_or(attention.to_string())?;
        assert!(start["cause"].as_str().unwrap().contains("(internal-topics)"), "{start}");
        assert!(start["remedy"].as_str().unwrap().contains("`hw reset growing --to earliest`"), "{start}");
        assert!(code == Some(3) && !attention.to_string().contains("restart the workers"), "{attention}");
        Ok(())
    });
    // A worker that was killed stays a member for a while.
    worker.kill();
    let (code, attention) = status();
    let killed = attention.as_array().unwrap().iter().find(|found| found["what"] == "worker");
    assert!(code == Some(3) && killed.is_some_and(|found| found["remedy"].as_str().unwrap().contains("hw plan")), "{attention}");
    wait_until("no members", Duration::from_secs(60), || match carts.hw(&["reset", "growing", "--to", "earliest", "--dry-run"]) {
        (Some(0), _) => Ok(()),
        (_, said) => Err(said),
    });
    let (code, said) = carts.hw(&["plan", carts.file().to_str().unwrap(), "--json"]);
    let plan = before_warnings(&said);
    let refused = &plan["refused"][0];
    assert!(code == Some(2) && refused["code"] == "internal-topics", "{said}");
    assert!(refused["place"].as_str().is_some_and(|place| place.contains("pipeline.yaml:")), "{said}");
    let (code, said) = carts.hw(&["reset", "growing", "--to", "earliest", "--yes"]);
    assert_eq!(code, Some(0), "{said}");
    // Watermarks don't rise while a partition has no rows.
    for partition in 2..4 {
        produce(&environment, "growing.in", &[(partition, None, Some(br#"{"user":"a","at":"2026-01-01T00:11:00Z"}"#))]);
    }
    carts.run(4);
    let mut both = carts.results();
    let mut twice = [first.clone(), first].concat();
    both.sort();
    twice.sort();
    assert_eq!(both, twice);
}
