//! The command line as programs and terminals see it: exit codes, colours, JSON, files.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::environment::HW;

fn hw(dir: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(&*HW);
    command.args(arguments).current_dir(dir).stdin(Stdio::null()).env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE");
    command.envs(environment.iter().copied()).output().expect("hw starts")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A new pipeline of a template.
fn new(dir: &Path, template: &str) -> std::path::PathBuf {
    let output = hw(dir, &["new", "orders", "--template", template], &[]);
    assert!(output.status.success(), "{}", text(&output));
    dir.join("orders")
}

#[test]
fn colours_are_for_terminals() {
    let dir = tempfile::tempdir().unwrap();
    let orders = new(dir.path(), "filter");
    let pipeline = orders.join("pipeline.yaml");
    std::fs::write(&pipeline, std::fs::read_to_string(&pipeline).unwrap().replace("total >=", "totl >=")).unwrap();
    for command in ["lint", "test", "explain"] {
        let plain = text(&hw(&orders, &[command, "pipeline.yaml"], &[]));
        assert!(plain.contains("did you mean `total`?") && !plain.contains('\u{1b}'), "{command}: {plain}");
        let forced = text(&hw(&orders, &[command, "pipeline.yaml"], &[("CLICOLOR_FORCE", "1")]));
        assert!(forced.contains("\u{1b}["), "{command}: {forced}");
        let refused = text(&hw(&orders, &[command, "pipeline.yaml"], &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]));
        assert!(!refused.contains('\u{1b}'), "{command}: {refused}");
    }
}

#[test]
fn folders_are_searched() {
    let dir = tempfile::tempdir().unwrap();
    let orders = new(dir.path(), "filter");
    let hw = |args: &[&str]| hw(dir.path(), args, &[]);
    let output = hw(&["lint", "."]);
    assert!(output.status.success() && text(&output).contains("orders/pipeline.yaml: ok"), "{}", text(&output));
    let more = dir.path().join("more/copy");
    std::fs::create_dir_all(&more).unwrap();
    std::fs::copy(orders.join("pipeline.yaml"), more.join("pipeline.yaml")).unwrap();
    std::fs::write(dir.path().join("local.yaml"), "kafka: { bootstrap: \"localhost:9092\" }\n").unwrap();
    let output = hw(&["lint", "."]);
    let said = text(&output);
    assert!(output.status.success() && said.contains("same-name") && said.contains("3 files checked"), "{said}");
    assert_eq!(hw(&["lint", "--strict", "."]).status.code(), Some(2));
    let output = hw(&["test", "."]);
    let said = text(&output);
    assert!(output.status.success() && said.contains("copy/pipeline.yaml has no cases") && said.contains("ok: 1 case passed"), "{said}");
    assert!(hw(&["explain", "more"]).status.success() && hw(&["fmt", "--check", "."]).status.success());
    let output = hw(&["graph", "."]);
    assert!(output.status.code() == Some(2) && text(&output).contains("several pipelines"), "{}", text(&output));
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    let output = hw(&["test", "empty"]);
    assert!(output.status.code() == Some(2) && text(&output).contains("there is no pipeline in this folder"), "{}", text(&output));
}

#[test]
fn explain_and_schema_tell_what_is_created() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pipeline = "pipelines/order-analytics/pipeline.yaml";
    let explained: Value = serde_json::from_slice(&hw(root, &["explain", "--json", pipeline], &[]).stdout).unwrap();
    let topics = explained["topics"].as_array().unwrap();
    let created = topics.iter().find(|topic| topic["name"] == "analytics.orders.late-lines").unwrap();
    assert_eq!((created["partitions"].as_i64(), created["why"].as_str()), (Some(6), Some("output, created if it is missing")));
    let manifest = topics.iter().find(|topic| topic["name"] == "hw.order-analytics.manifest").unwrap();
    assert_eq!(manifest["why"], "what state and positions belong to");
    let schema: Value = serde_json::from_slice(&hw(root, &["schema", "--sink", "revenue_topic", pipeline], &[]).stdout).unwrap();
    assert_eq!((schema["type"].as_str(), schema["name"].as_str()), (Some("record"), Some("RevenuePerMinute")));
    let output = hw(root, &["schema", "--sink", "nothing", pipeline], &[]);
    assert!(output.status.code() == Some(2) && text(&output).contains("`revenue_topic`"), "{}", text(&output));
}

#[test]
fn an_option_before_its_command_is_shown_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let output = hw(dir.path(), &["--dry-run", "run", "pipeline.yaml"], &[]);
    assert!(output.status.code() == Some(2) && text(&output).contains("`--dry-run` is an option of hw run"), "{}", text(&output));
    let output = hw(dir.path(), &["lint", "pipeline.yaml", "--case", "x"], &[]);
    assert!(output.status.code() == Some(2) && text(&output).contains("an option of hw eval, hw test"), "{}", text(&output));
    let output = hw(dir.path(), &["lint", "--nonsense"], &[]);
    assert!(output.status.code() == Some(2) && !text(&output).contains("is an option of"), "{}", text(&output));
}

/// Log collectors take each line for a record: drawings between them would be records, too.
#[test]
fn a_worker_that_does_not_start_says_why_in_json() {
    let dir = tempfile::tempdir().unwrap();
    let orders = new(dir.path(), "filter");
    let lines = |code: i32| -> Vec<Value> {
        let output = hw(&orders, &["run", "pipeline.yaml", "--config", "local.yaml", "--http", ""], &[]);
        assert_eq!(output.status.code(), Some(code), "{}", text(&output));
        String::from_utf8_lossy(&output.stderr)
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect()
    };
    let ends = |line: Option<&Value>, code: &str, message: &str| {
        let line = line.unwrap();
        assert_eq!((&line["level"], &line["code"]), (&"ERROR".into(), &code.into()), "{line}");
        assert!(line["message"].as_str().unwrap().contains(message), "{line}");
    };
    // The environment is missing, then refused.
    ends(lines(2).last(), "error", "local.yaml");
    std::fs::write(orders.join("local.yaml"), "kafka: { bootstrap: \"127.0.0.1:1\", session_timeout: 1h, properties: {} }\nworker: 7\n")
        .unwrap();
    ends(lines(2).last(), "wrong-type", "mapping");
    // The pipeline's shape is wrong.
    let pipeline = orders.join("pipeline.yaml");
    let right = std::fs::read_to_string(&pipeline).unwrap();
    std::fs::write(&pipeline, right.replace("sources:", "sorces:")).unwrap();
    let lines = lines(2);
    let found = lines.iter().find(|line| line["code"] == "unknown-key").unwrap();
    assert!(found["place"].as_str().unwrap().starts_with("pipeline.yaml:") && found["help"].is_string(), "{found}");
}

#[test]
fn lint_speaks_json_and_has_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let orders = new(dir.path(), "filter");
    let lint = |more: &[&str]| hw(&orders, &[&["lint"], more, &["pipeline.yaml"]].concat(), &[]);
    assert_eq!(lint(&["--strict"]).status.code(), Some(0));
    let pipeline = orders.join("pipeline.yaml");
    let right = std::fs::read_to_string(&pipeline).unwrap();
    std::fs::write(&pipeline, right.replace("topic: analytics.orders.big", "topic: BigOrders")).unwrap();
    assert_eq!((lint(&[]).status.code(), lint(&["--strict"]).status.code()), (Some(0), Some(2)));
    assert_eq!(lint(&["--strict", "--topics", "[A-Za-z.]+"]).status.code(), Some(0));
    std::fs::write(&pipeline, right.replace("total >=", "totl >=").replace("key: customer_id\n    create", "key: customer\n    create"))
        .unwrap();
    let output = lint(&["--json"]);
    assert_eq!(output.status.code(), Some(2));
    let found: Vec<Value> = String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(found.len(), 2, "{found:?}");
    let first = &found[0];
    assert_eq!((first["code"].as_str(), first["text"].as_str(), first["line"].as_u64()), (Some("unknown-column"), Some("totl"), Some(22)));
    let explained = hw(&orders, &["explain-error", "unknown-column"], &[]);
    assert!(explained.status.success() && text(&explained).lines().count() > 2);
    assert_eq!(hw(&orders, &["explain-error", "unknwn-column"], &[]).status.code(), Some(2));
    assert_eq!(hw(&orders, &["lint", "missing.yaml"], &[]).status.code(), Some(1));
    assert_eq!(hw(&orders, &["lnit", "pipeline.yaml"], &[]).status.code(), Some(2));
}

#[test]
fn explain_and_graph_speak_other_languages() {
    let dir = tempfile::tempdir().unwrap();
    let orders = new(dir.path(), "window");
    let explained: Value = serde_json::from_slice(&hw(&orders, &["explain", "pipeline.yaml", "--json"], &[]).stdout).unwrap();
    assert_eq!((explained["pipeline"].as_str(), explained["guarantee"].as_str()), (Some("orders"), Some("exactly once")));
    let entries: Vec<&Value> = explained["stages"].as_array().unwrap().iter().flat_map(|s| s["entries"].as_array().unwrap()).collect();
    let window = entries.iter().find(|e| e["name"] == "per_minute" && e["role"] == "step").expect("the window");
    let facts: Vec<&str> = window["facts"].as_array().unwrap().iter().filter_map(|f| f[0].as_str()).collect();
    for fact in ["windows", "lateness", "emit", "state per group and window", "state expires", "key after it", "state kept in"] {
        assert!(facts.contains(&fact), "{facts:?}");
    }
    let topics: Vec<&str> = explained["topics"].as_array().unwrap().iter().filter_map(|t| t["name"].as_str()).collect();
    assert!(topics.contains(&"hw.orders.per_minute.changelog"), "{topics:?}");
    for (file, begins) in [("g.svg", "<svg"), ("g.dot", "digraph"), ("g.mmd", "flowchart LR")] {
        assert!(hw(&orders, &["graph", "pipeline.yaml", "--output", file], &[]).status.success());
        let graph = std::fs::read_to_string(orders.join(file)).unwrap();
        assert!(graph.starts_with(begins) && graph.contains("per_minute") && graph.contains("late"), "{graph}");
        assert!(graph.contains("business.orders.created.dlq"), "{graph}");
    }
    // Python reads it as XML.
    let parse = "import sys, xml.etree.ElementTree as t; print(len(list(t.parse(sys.argv[1]).iter())))";
    let parsed = Command::new("python3").args(["-c", parse]).arg(orders.join("g.svg")).output().expect("python3");
    assert!(parsed.status.success(), "{}", text(&parsed));
}

#[test]
fn fmt_checks_and_formats() {
    let dir = tempfile::tempdir().unwrap();
    let orders = new(dir.path(), "filter");
    let pipeline = orders.join("pipeline.yaml");
    let right = std::fs::read_to_string(&pipeline).unwrap();
    assert_eq!(hw(&orders, &["fmt", "--check", "pipeline.yaml"], &[]).status.code(), Some(0));
    std::fs::write(&pipeline, right.replace("  big:", "  big:   # kept")).unwrap();
    assert_eq!(hw(&orders, &["fmt", "--check", "pipeline.yaml"], &[]).status.code(), Some(1));
    assert_eq!(hw(&orders, &["fmt", "pipeline.yaml"], &[]).status.code(), Some(0));
    assert_eq!(std::fs::read_to_string(&pipeline).unwrap(), right.replace("  big:", "  big: # kept"));
    std::fs::write(&pipeline, "a: [").unwrap();
    assert_eq!(hw(&orders, &["fmt", "pipeline.yaml"], &[]).status.code(), Some(2));
}

#[test]
fn eval_answers_and_prompts() {
    let dir = tempfile::tempdir().unwrap();
    let orders = new(dir.path(), "filter");
    let of_case = text(&hw(&orders, &["eval", "--pipeline", "pipeline.yaml", "total * 2"], &[]));
    assert!(of_case.contains("decimal(") && of_case.contains("2000.0"), "{of_case}");
    let mut child = Command::new(&*HW)
        .args(["eval", "--pipeline", "pipeline.yaml"])
        .current_dir(&orders)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"\\columns\ntotal > 999\ntotl\n1 / 0\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    for part in ["total decimal(12,2)", "bool", "did you mean `total`?", "division by zero"] {
        assert!(said.contains(part), "no `{part}` in {said}");
    }
}

#[test]
fn results_are_written_for_other_tools_and_one_schedule_can_be_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let orders = new(dir.path(), "window");
    let case = orders.join("cases/two_minutes/out.analytics.orders.revenue-per-minute.jsonl");
    std::fs::write(&case, std::fs::read_to_string(&case).unwrap().replace("15.5", "15.6")).unwrap();
    let output = hw(&orders, &["test", "pipeline.yaml", "--junit", "junit.xml", "--fail-fast"], &[]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let junit = std::fs::read_to_string(orders.join("junit.xml")).unwrap();
    assert!(junit.contains("failures=\"1\"") && junit.contains("revenue: expected 15.6, found 15.5"), "{junit}");
    let again = hw(&orders, &["test", "pipeline.yaml", "--case", "two_minutes", "--schedule", "crash-after-commit-1"], &[]);
    assert!(again.status.code() == Some(1) && text(&again).contains("1 runs"), "{}", text(&again));
}

#[test]
fn watching_runs_again_after_a_change() {
    let dir = tempfile::tempdir().unwrap();
    let orders = new(dir.path(), "fan-out");
    let mut child = Command::new(&*HW)
        .args(["test", "pipeline.yaml", "--watch", "--schedule", "in-one-go"])
        .current_dir(&orders)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut waits = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut ended = |wanted: &str| {
        lines.by_ref().find(|line| line.starts_with("ok:") || line.starts_with("FAILED:")).is_some_and(|line| line.starts_with(wanted))
    };
    assert!(ended("ok: 1 case passed"));
    assert!(waits.by_ref().any(|line| line.contains("waiting for changes")));
    let pipeline = orders.join("pipeline.yaml");
    let right = std::fs::read_to_string(&pipeline).unwrap();
    std::fs::write(&pipeline, right.replace("total >= 1000", "total >= 5000")).unwrap();
    assert!(ended("FAILED:"), "the change is not noticed");
    assert!(waits.by_ref().any(|line| line.contains("waiting for changes")));
    std::fs::write(&pipeline, right).unwrap();
    assert!(ended("ok: 1 case passed"), "the way back is not noticed");
    child.kill().unwrap();
    child.wait().unwrap();
}
