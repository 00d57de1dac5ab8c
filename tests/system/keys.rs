//! The `key` of a source against what clients over librdkafka really write.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use headwater_devenv::Ephemeral;

use crate::environment::{exclusive, wait_until};
use crate::log::{create, read};
use crate::worker::Worker;

const CUSTOMERS: usize = 20;

/// Two orders of each customer with this `n`, by kcat and one of librdkafka's partitioners; its default without one.
fn orders(environment: &Ephemeral, topic: &str, n: usize, partitioner: Option<&str>) {
    create(environment, topic, 3);
    let setting = partitioner.map(|name| format!("partitioner={name}"));
    let mut command = Command::new("kcat");
    command.args(["-b", &environment.bootstrap, "-P", "-t", topic, "-K", "|"]);
    command.args(setting.iter().flat_map(|setting| ["-X", setting]));
    let mut kcat = command.stdin(Stdio::piped()).spawn().expect("install kcat (Debian: kcat)");
    let customers = (0..CUSTOMERS).chain(0..CUSTOMERS);
    let lines: String = customers.map(|c| format!("customer-{c}|{{\"customer\":\"customer-{c}\",\"n\":{n}}}\n")).collect();
    kcat.stdin.take().expect("its input").write_all(lines.as_bytes()).expect("kcat reads");
    assert!(kcat.wait().expect("kcat ends").success());
}

/// A pipeline that counts the orders of each customer, with lines of sources and the steps that read them.
fn pipeline(name: &str, sources: &[(&str, &str)], steps: &[(&str, &str)]) -> String {
    let schema = "schema: { customer: string, n: long }, time: { idle: never }, key: customer";
    let window = "window: { unbounded: true, expire: never, by: [customer], compute: { n: sum(n) }, emit: on_update }";
    let sources: String = sources.iter().map(|(name, more)| format!("  {name}: {{ topic: keys.{name}, {schema}{more} }}\n")).collect();
    let sinks: String =
        steps.iter().map(|(name, _)| format!("  {name}: {{ from: {name}, topic: {name}.out, create: {{ partitions: 1 }} }}\n")).collect();
    let steps: String = steps.iter().map(|(name, from)| format!("  {name}:\n    from: {from}\n    {window}\n")).collect();
    format!("apiVersion: headwater/v1\nname: {name}\nsources:\n{sources}steps:\n{steps}sinks:\n{sinks}")
}

#[test]
fn keys_in_other_partitions_than_their_source_says_stop_the_worker() {
    let environment = exclusive();
    orders(&environment, "keys.paid", 1, Some("murmur2_random"));
    orders(&environment, "keys.refunded", 100, None);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.yaml");
    std::fs::write(&file, pipeline("keys", &[("paid", ""), ("refunded", "")], &[("both", "[paid, refunded]")])).unwrap();
    let mut worker = Worker::start(&environment, &file, dir.path(), 0, None);
    let status = worker.wait(Duration::from_secs(60)).unwrap_or_else(|| panic!("it runs on:\n{}", worker.log_tail()));
    let log = worker.log_tail().replace('│', "").split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("source `refunded` has `key: customer`") && log.contains("fit `consistent_random`"), "{log}");
    // Epochs with orders of `paid` alone may have been committed before.
    let sums = read(&environment, "both.out").into_iter().map(|record| {
        let value: serde_json::Value = serde_json::from_slice(&record.value.expect("a value")).expect("JSON");
        value["n"].as_i64().expect("a sum")
    });
    let wrong: Vec<i64> = sums.filter(|sum| *sum > 2).collect();
    assert!(wrong.is_empty(), "sums with orders of `refunded`: {wrong:?}");
}

#[test]
fn declared_partitioners_are_those_of_librdkafka() {
    let environment = exclusive();
    let names = ["murmur2_random", "consistent", "fnv1a_random"];
    for name in names {
        orders(&environment, &format!("keys.{name}"), 1, Some(name));
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("declared.yaml");
    let lines: Vec<String> = names.iter().map(|name| format!(", partitioner: {name}")).collect();
    let sources: Vec<(&str, &str)> = names.into_iter().zip(lines.iter().map(String::as_str)).collect();
    let steps: Vec<(String, &str)> = names.iter().map(|name| (format!("by_{name}"), *name)).collect();
    let steps: Vec<(&str, &str)> = steps.iter().map(|(step, from)| (step.as_str(), *from)).collect();
    std::fs::write(&file, pipeline("declared-keys", &sources, &steps)).unwrap();
    let worker = Worker::start(&environment, &file, dir.path(), 0, None);
    for (step, _) in steps {
        let topic = format!("{step}.out");
        wait_until(&topic, Duration::from_secs(60), || match read(&environment, &topic).len() {
            n if n == 2 * CUSTOMERS => Ok(()),
            n => Err(format!("{n} records\n{}", worker.log_tail())),
        });
    }
    assert!(worker.stop().success());
}
