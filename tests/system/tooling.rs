//! The tools before a pipeline runs: the tutorial, the editor, dry runs and permissions, samples.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use headwater_devenv::Ephemeral;
use serde_json::Value;

use crate::environment::{HW, exclusive, run, tail};
use crate::log::{create, produce};
use crate::width::operators;

/// A block of the tutorial: its commands, and the lines that must be in what they print.
struct Block {
    commands: String,
    shown: Vec<String>,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let language = line.strip_prefix("```").unwrap_or_default();
        if language.is_empty() {
            continue;
        }
        let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        match language {
            "sh" => blocks.push(Block { commands: body.join("\n"), shown: Vec::new() }),
            "text" => {
                let block = blocks.last_mut().expect("output stands below its commands");
                block.shown.extend(body.iter().map(|line| line.trim().to_string()));
            }
            _ => {}
        }
    }
    blocks
}

#[test]
fn the_tutorial_runs_as_it_stands() {
    let _alone = exclusive();
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tutorial.md")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let blocks = blocks(&page);
    let mut script =
        String::from("set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true; hw local down --wipe >/dev/null 2>&1 || true' EXIT\n");
    for (n, block) in blocks.iter().enumerate() {
        script.push_str(&format!("echo '=== {n}'\n{}\n", block.commands));
    }
    std::fs::write(dir.path().join("tutorial.sh"), script).unwrap();
    let path = format!("{}:{}", Path::new(&*HW).parent().unwrap().display(), std::env::var("PATH").unwrap());
    let output = Command::new("timeout")
        .args(["--kill-after=20", "120", "bash", "-c", "exec bash tutorial.sh 2>&1"])
        .current_dir(dir.path())
        .env("PATH", path)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .output()
        .expect("bash");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}:\n{}", output.status, tail(&text, 60));
    let printed: Vec<&str> = text.split("=== ").skip(1).collect();
    assert_eq!(printed.len(), blocks.len());
    for (n, (block, printed)) in blocks.iter().zip(printed).enumerate() {
        for line in &block.shown {
            assert!(printed.contains(line.as_str()), "block {n} does not print `{line}`:\n{}\n---\n{printed}", block.commands);
        }
    }
    assert!(blocks.iter().filter(|b| !b.shown.is_empty()).count() >= 9);
}

#[test]
fn local_topics_are_created_grown_and_deleted() {
    let environment = exclusive();
    let topic = |arguments: &[&str]| {
        let output =
            Command::new(&*HW).args(["local", "topic", "local.topics"]).args(arguments).arg("--dir").arg(&environment.dir).output();
        let output = output.expect("hw starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    };
    for (arguments, succeeds, says) in [
        (["--partitions", "2"].as_slice(), true, "local.topics with 2 partitions"),
        (&["--partitions", "4"], true, "local.topics with 4 partitions, 2 before"),
        (&[], true, "local.topics with 4 partitions, as before"),
        (&["--partitions", "3"], false, "more than 3"),
        (&["--set", "cleanup.policy=compact"], false, "exists already"),
        (&["--delete"], true, "local.topics is deleted"),
        (&["--delete"], false, "there is no topic"),
    ] {
        let (succeeded, text) = topic(arguments);
        assert!(succeeded == succeeds && text.contains(says), "{arguments:?}: {text}");
    }
}

/// The YAML language server, installed once under `target`.
fn language_server() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (dir, wanted) = (root.join("target/editor"), std::fs::read_to_string(root.join("tests/editor/package.json")).unwrap());
    if std::fs::read_to_string(dir.join("ready")).ok().as_ref() != Some(&wanted) {
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("package.json"), &wanted).unwrap();
        run(Command::new("npm").args(["install", "--silent", "--no-audit", "--no-fund"]).current_dir(&dir), "install Node.js with npm");
        std::fs::write(dir.join("ready"), wanted).unwrap();
    }
    dir.join("node_modules")
}

#[test]
fn editors_complete_document_and_mark_pipelines() {
    let dir = tempfile::tempdir().unwrap();
    let schema = dir.path().join("pipeline.schema.json");
    run(Command::new(&*HW).args(["schema", "--output"]).arg(&schema), "hw");
    let check = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/editor/check.mjs");
    let output = Command::new("timeout").args(["60", "node"]).arg(check).arg(&schema).arg(language_server()).output().expect("node");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let list = |name: &str| found[name].as_array().unwrap().iter().filter_map(Value::as_str).collect::<Vec<_>>();
    for operator in operators().iter().map(String::as_str).chain(["on_error"]) {
        assert!(list("steps").contains(&operator), "a step completes {:?}", list("steps"));
    }
    for key in ["tumbling", "by", "compute", "lateness", "expire"] {
        assert!(list("window").contains(&key), "a window completes {:?}", list("window"));
    }
    // Editors sort what they are given.
    let mut emit = list("emit");
    emit.sort_unstable();
    assert_eq!(emit, ["changes", "on_close", "on_update"]);
    let hover = |name: &str| found[name].as_str().unwrap().replace('\\', "");
    assert!(hover("hoverKey").contains("How long a window stays open for late rows"), "{}", hover("hoverKey"));
    assert!(hover("hoverOperator").contains("Keeps the rows for which a SQL condition is true"), "{}", hover("hoverOperator"));
    assert_eq!(found["right"].as_array().unwrap().len(), 0, "a shipped pipeline is marked: {}", found["right"]);
    for (what, line) in [("typo", 8), ("value", 4), ("duration", 8)] {
        let marks = found[what].as_array().unwrap();
        assert!(marks.iter().any(|mark| mark["line"] == line), "{what}: {marks:?}");
    }
    assert!(!found["two"].as_array().unwrap().is_empty(), "two operators in one step are not marked");
}

const PIPELINE: &str = "apiVersion: headwater/v1
name: tooling
sources:
  people: { topic: tooling.people, schema: { id: string, email: string pii, age: int? }, key: id }
sinks:
  adults: { from: people, topic: tooling.adults, key: id, create: { partitions: 2 } }
  table: { from: people, clickhouse: tooling.people }
";

struct Tool<'a> {
    environment: &'a Ephemeral,
    dir: tempfile::TempDir,
}

impl Tool<'_> {
    fn new(environment: &Ephemeral) -> Tool<'_> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("pipeline.yaml"), PIPELINE).unwrap();
        let clickhouse = environment.clickhouse.as_ref().map(|url| format!("clickhouse: {{ url: \"{url}\", create_tables: true }}\n"));
        let config = format!("kafka: {{ bootstrap: \"{}\" }}\n{}", environment.bootstrap, clickhouse.unwrap_or_default());
        std::fs::write(dir.path().join("environment.yaml"), config).unwrap();
        Tool { environment, dir }
    }

    /// Exit code and what was printed.
    fn hw(&self, args: &[&str]) -> (Option<i32>, String) {
        let output = Command::new(&*HW).args(args).args(["--config", "environment.yaml"]).current_dir(self.dir.path()).output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code(), text)
    }

    fn topics(&self) -> Vec<String> {
        let output = Command::new("kcat").args(["-b", &self.environment.bootstrap, "-L", "-J"]).output().expect("kcat");
        let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
        listed["topics"].as_array().unwrap().iter().filter_map(|t| t["topic"].as_str()).map(str::to_string).collect()
    }
}

#[test]
fn a_dry_run_checks_everything_and_changes_nothing() {
    let environment = exclusive();
    create(&environment, "tooling.people", 3);
    let tool = Tool::new(&environment);
    let before = tool.topics();
    let (code, text) = tool.hw(&["run", "pipeline.yaml", "--dry-run"]);
    assert_eq!(code, Some(0), "{text}");
    for line in [
        "✓ topic tooling.people may READ",
        "✓ topic tooling.adults will be created",
        "✓ group hw.tooling may join",
        "✓ ClickHouse tooling.people will be created",
        "✓ transactional ids hw.tooling.*",
    ] {
        assert!(text.contains(line), "no `{line}` in\n{text}");
    }
    let after: Vec<String> = tool.topics().into_iter().filter(|t| !t.starts_with("__")).collect();
    assert_eq!(after, before.into_iter().filter(|t| !t.starts_with("__")).collect::<Vec<_>>(), "a dry run made topics");
    // What is wrong is found: a topic that does not exist.
    std::fs::write(tool.dir.path().join("pipeline.yaml"), PIPELINE.replace("topic: tooling.people", "topic: tooling.peeple")).unwrap();
    let (code, text) = tool.hw(&["run", "pipeline.yaml", "--dry-run"]);
    assert!(code == Some(2) && text.contains("unknown-topic") && text.contains("did you mean `tooling.people`?"), "{text}");
}

#[test]
fn samples_are_cases_without_personal_data() {
    let environment = exclusive();
    create(&environment, "sampled.people", 2);
    let record = |id: &str, email: &str| format!(r#"{{"id":"{id}","email":"{email}","age":41,"more":[1,2]}}"#);
    let values = [record("a", "ann@example.org"), record("b", "bob@example.org"), record("a", "ann@example.org")];
    let records: Vec<(i32, Option<&str>, Option<&[u8]>)> = vec![
        (0, Some("a"), Some(values[0].as_bytes())),
        (1, Some("b"), Some(values[1].as_bytes())),
        (0, Some("a"), Some(values[2].as_bytes())),
        (1, Some("b"), None),
        (1, Some("c"), Some(b"no JSON: carol@example.org")),
    ];
    produce(&environment, "sampled.people", &records);
    let tool = Tool::new(&environment);
    std::fs::write(tool.dir.path().join("pipeline.yaml"), PIPELINE.replace("tooling.people, schema", "sampled.people, schema")).unwrap();
    let (code, text) = tool.hw(&["sample", "pipeline.yaml", "--case", "real"]);
    assert!(code == Some(0) && text.contains("masked: email") && text.contains("1 records can't be decoded"), "{text}");
    let case = tool.dir.path().join("cases/real");
    let lines = std::fs::read_to_string(case.join("in.sampled.people.jsonl")).unwrap();
    assert!(!lines.contains("example.org"), "{lines}");
    let rows: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 4, "{lines}");
    let emails: Vec<&str> = rows.iter().filter_map(|row| row["@value"]["email"].as_str()).collect();
    assert!(emails.len() == 3 && emails.iter().all(|e| e.starts_with("masked-")), "{lines}");
    let of = |id: &str| rows.iter().filter(|r| r["@value"]["id"] == id).map(|r| r["@value"]["email"].clone()).collect::<Vec<_>>();
    assert!(of("a")[0] == of("a")[1] && of("a")[0] != of("b")[0], "equal values stay equal: {lines}");
    // It is a case at once.
    let test = |args: &[&str]| {
        let output = Command::new(&*HW).args(["test", "pipeline.yaml"]).args(args).current_dir(tool.dir.path()).output().unwrap();
        assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    };
    test(&["--update"]);
    test(&[]);
    assert_eq!(std::fs::read_to_string(case.join("out.tooling.adults.jsonl")).unwrap().lines().count(), 3);
    let (code, text) = tool.hw(&["sample", "pipeline.yaml", "--case", "real"]);
    assert!(code == Some(1) && text.contains("exists already"), "{text}");
}
