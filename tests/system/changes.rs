//! What happens to a deployed pipeline whose file is changed: changes that state, positions or unread rows can't follow are
//! refused by the dry run and at the start, in the same words, and each remedy that is offered works.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use headwater_devenv::Ephemeral;

use crate::environment::{HW, clickhouse, exclusive, wait_until};
use crate::log::{create, delete, produce, read};
use crate::worker::Worker;

const CARTS: &str = r#"
apiVersion: headwater/v1
name: carts
sources:
  clicks:
    topic: carts.in
    schema: { user: string, shop: string, n: long, at: timestamp }
    time: { field: at, out_of_order: 0s, idle: never }
steps:
  per_user:
    from: clicks
    window: { tumbling: 10m, by: [user], compute: { rows: count(*), total: sum(n) } }
sinks:
  carts: { from: per_user, topic: carts.out, key: user, create: { partitions: 1 } }
"#;

/// What `hw run` with these arguments says, and its exit code.
fn run(environment: &Ephemeral, file: &Path, dir: &Path, more: &[&str]) -> (Option<i32>, String) {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/ci.yaml");
    let mut command = Command::new(&*HW);
    command.args(["run", "--plain-logs"]).arg(file).arg("--config").arg(config).args(more).stdin(Stdio::null());
    command.env("HW_BOOTSTRAP", &environment.bootstrap);
    command.env("HW_REGISTRY", environment.registry.as_deref().unwrap_or_default());
    command.env("HW_CLICKHOUSE", environment.clickhouse.as_deref().unwrap_or_default());
    command.env("HW_STATE_DIR", dir.join("state-0")).env("HW_LOG", "warn");
    let output = command.output().expect("hw starts");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let file = dir.join(format!("{name}.yaml"));
    std::fs::write(&file, text).expect("the folder can be written");
    file
}

/// One row of every user in each of three partitions.
fn feed(environment: &Ephemeral, topic: &str, at: &str) {
    let value = |user: &str| format!(r#"{{"user":"{user}","shop":"s","n":1,"at":"2026-01-01T{at}Z"}}"#).into_bytes();
    let values: Vec<(i32, Vec<u8>)> = (0..3).flat_map(|p| ["a", "b"].map(|user| (p, value(user)))).collect();
    let records: Vec<_> = values.iter().map(|(p, v)| (*p, None, Some(v.as_slice()))).collect();
    produce(environment, topic, &records);
}

/// Runs the pipeline until its step has read `rows`, and stops it.
fn deploy(environment: &Ephemeral, file: &Path, dir: &Path, step: &str, rows: f64) {
    let worker = Worker::start(environment, file, dir, 0, None);
    wait_until("rows in the step", Duration::from_secs(60), || {
        let found = worker.metric("headwater_step_rows_in_total", &[&format!("step=\"{step}\"")])?;
        if found >= rows { Ok(()) } else { Err(format!("{found} rows\n{}", worker.log_tail())) }
    });
    assert!(worker.stop().success());
}

/// The dry run and the start refuse with exit code, and say the same.
fn refused(environment: &Ephemeral, file: &Path, dir: &Path, words: &[&str]) {
    let (dry, said) = run(environment, file, dir, &["--dry-run"]);
    assert_ne!(dry, Some(0), "the dry run accepts it:\n{said}");
    let mut worker = Worker::start(environment, file, dir, 0, None);
    let ended = worker.wait(Duration::from_secs(30));
    let told = worker.log_tail();
    assert_eq!(ended.and_then(|status| status.code()), Some(2), "{told}");
    let flat = |text: &str| text.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
    for word in words {
        assert!(flat(&said).contains(word), "the dry run doesn't say `{word}`:\n{said}");
        assert!(flat(&told).contains(word), "the start doesn't say `{word}`:\n{told}");
    }
}

#[test]
fn changes_that_state_can_not_follow_are_refused() {
    let environment = exclusive();
    create(&environment, "carts.in", 3);
    feed(&environment, "carts.in", "13:00:10");
    let dir = tempfile::tempdir().unwrap();
    deploy(&environment, &write(dir.path(), "carts", CARTS), dir.path(), "per_user", 6.0);
    let window = "tumbling: 10m, by: [user], compute: { rows: count(*), total: sum(n) }";
    let changes = [
        ("smaller", "tumbling: 5m, by: [user], compute: { rows: count(*), total: sum(n) }", "was tumbling 10m, now tumbling 5m"),
        ("larger", "tumbling: 20m, by: [user], compute: { rows: count(*), total: sum(n) }", "now tumbling 20m"),
        ("hopping", "hopping: { size: 10m, every: 5m }, by: [user], compute: { rows: count(*), total: sum(n) }", "hopping 10m every 5m"),
        ("by", "tumbling: 10m, by: [shop], compute: { rows: count(*), total: sum(n) }", "`by`: was [user string], now [shop string]"),
        (
            "reordered",
            "tumbling: 10m, by: [user], compute: { total: sum(n), rows: count(*) }",
            "`compute` 1: was count(*), now sum(n integer)",
        ),
        ("argument", "tumbling: 10m, by: [user], compute: { rows: count(*), total: sum(n * 2) }", "now sum(n * 2 integer)"),
        ("fewer", "tumbling: 10m, by: [user], compute: { rows: count(*) }", "now missing"),
    ];
    for (name, changed, words) in changes {
        let key = if name == "by" { "key: shop" } else { "key: user" };
        let file = write(dir.path(), name, &CARTS.replace(window, changed).replace("key: user", key));
        refused(&environment, &file, dir.path(), &["step `per_user`", words, "hw.carts.per_user.changelog"]);
    }
    let renamed = write(dir.path(), "renamed", &CARTS.replace("per_user", "by_user"));
    refused(&environment, &renamed, dir.path(), &["step `per_user`", "`by_user`", "hw.carts.per_user.changelog"]);
    let keyed = write(dir.path(), "keyed", &CARTS.replace("topic: carts.in", "topic: carts.in\n    key: user"));
    refused(&environment, &keyed, dir.path(), &["step `per_user`", "`key`"]);
    // The dry run of what is harmless says what will change.
    let harmless = write(dir.path(), "harmless", &CARTS.replace("topic: carts.out", "topic: carts.elsewhere"));
    let (code, said) = run(&environment, &harmless, dir.path(), &["--dry-run"]);
    assert!(code == Some(0) && said.contains("deployed version"), "{said}");
    // Nothing was changed by the refusals: the windows are whole.
    feed(&environment, "carts.in", "13:20:10");
    let worker = Worker::start(&environment, &write(dir.path(), "carts", CARTS), dir.path(), 0, None);
    wait_until("windows", Duration::from_secs(60), || match read(&environment, "carts.out").len() {
        2 => Ok(()),
        n => Err(format!("{n} windows\n{}", worker.log_tail())),
    });
    for record in read(&environment, "carts.out") {
        let text = String::from_utf8(record.value.unwrap()).unwrap();
        assert!(text.contains(r#""rows":3,"total":3"#), "{text}");
    }
    assert!(worker.stop().success());
    // The remedy that the refusals name.
    delete(&environment, &["hw.carts.per_user.changelog"]);
    let (name, changed, _) = changes[0];
    let smaller = write(dir.path(), name, &CARTS.replace(window, changed));
    let (code, said) = run(&environment, &smaller, dir.path(), &["--dry-run"]);
    assert!(code == Some(0) && said.contains("begins without state"), "{said}");
    deploy(&environment, &smaller, dir.path(), "per_user", 0.0);
}

const COPY: &str = r#"
apiVersion: headwater/v1
name: copied
sources:
  s: { topic: copied.in, format: string, start: START }
sinks:
  out: { from: s, topic: copied.out, format: string, create: { partitions: 1 } }
"#;

fn lines(environment: &Ephemeral, topic: &str, what: &str, count: usize) {
    let values: Vec<String> = (0..count).map(|n| format!("{what} {n}")).collect();
    let records: Vec<_> = values.iter().map(|v| (0, None, Some(v.as_bytes()))).collect();
    produce(environment, topic, &records);
}

fn copied(environment: &Ephemeral) -> Vec<String> {
    read(environment, "copied.out").into_iter().map(|r| String::from_utf8(r.value.unwrap_or_default()).unwrap()).collect()
}

/// Under a running worker and while none runs: the new topic is longer than the old one was, and none of its rows is taken for
/// one that was read.
#[test]
fn a_topic_that_was_created_again_is_read_from_its_beginning_or_not_at_all() {
    let environment = exclusive();
    create(&environment, "copied.in", 1);
    lines(&environment, "copied.in", "old", 5);
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "copied", &COPY.replace("START", "earliest"));
    let mut worker = Worker::start(&environment, &file, dir.path(), 0, None);
    let until = |worker: &Worker, wanted: usize| {
        wait_until("rows", Duration::from_secs(60), || match copied(&environment).len() {
            n if n >= wanted => Ok(()),
            n => Err(format!("{n} rows\n{}", worker.log_tail())),
        });
    };
    until(&worker, 5);
    wait_until("the manifest notes positions", Duration::from_secs(30), || {
        let manifests = read(&environment, "hw.copied.manifest");
        if manifests.len() == 2 { Ok(()) } else { Err(format!("{} versions", manifests.len())) }
    });
    delete(&environment, &["copied.in"]);
    create(&environment, "copied.in", 1);
    lines(&environment, "copied.in", "new", 20);
    let ended = worker.wait(Duration::from_secs(60)).unwrap_or_else(|| panic!("it runs on:\n{}", worker.log_tail()));
    assert_eq!(ended.code(), Some(1), "{}", worker.log_tail());
    assert!(worker.log_tail().contains("the topic `copied.in` was deleted"), "{}", worker.log_tail());
    assert_eq!(copied(&environment).len(), 5, "no row of the new topic was taken for one of the old");
    // The brokers have deleted the positions with the topic.
    let worker = Worker::start(&environment, &file, dir.path(), 0, None);
    until(&worker, 25);
    assert!(worker.log_tail().contains("was deleted and created again: it is read from its beginning"), "{}", worker.log_tail());
    assert!(worker.stop().success());
    let found = copied(&environment);
    assert_eq!((found.len(), found[5].as_str(), found[24].as_str()), (25, "new 0", "new 19"));
}

/// A copy under another name must not write where the first one writes: the dry run says so before the delivery stops there.
#[test]
fn a_copy_under_another_name_needs_another_table() {
    let environment = exclusive();
    create(&environment, "tabled.in", 1);
    lines(&environment, "tabled.in", "row", 3);
    let dir = tempfile::tempdir().unwrap();
    let text = "apiVersion: headwater/v1\nname: tabled\nsources: { s: { topic: tabled.in, format: string } }\n\
                sinks: { rows: { from: s, clickhouse: default.tabled, flush_interval: 100ms } }\n";
    let worker = Worker::start(&environment, &write(dir.path(), "tabled", text), dir.path(), 0, None);
    wait_until("rows in the table", Duration::from_secs(60), || {
        match clickhouse(&environment, "SELECT count() FROM default.tabled")?.as_str() {
            "3" => Ok(()),
            n => Err(format!("{n} rows\n{}", worker.log_tail())),
        }
    });
    assert!(worker.stop().success());
    let copy = text.replace("name: tabled", "name: tabled-copy");
    let (code, said) = run(&environment, &write(dir.path(), "copy", &copy), dir.path(), &["--dry-run"]);
    assert!(code == Some(2) && said.contains("the table has 3 rows with `_partition` 0"), "{said}");
    let elsewhere = copy.replace("default.tabled", "default.tabled_copy");
    let (code, said) = run(&environment, &write(dir.path(), "elsewhere", &elsewhere), dir.path(), &["--dry-run"]);
    assert!(code == Some(0) && said.contains("ClickHouse default.tabled_copy"), "{said}");
    // The first one itself continues where it was.
    let (code, said) = run(&environment, &write(dir.path(), "tabled", text), dir.path(), &["--dry-run"]);
    assert_eq!(code, Some(0), "{said}");
}
