//! `hw simulate` on real services: what is away for a while answers later, and a second run repeats the first.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Duration;

use headwater_devenv::Ephemeral;
use serde_json::{Value, json};

use crate::environment::{HW, configured, exclusive, wait_until};
use crate::log::{create, produce, read};

pub fn simulate(environment: &Ephemeral, arguments: &[&str]) -> Command {
    let mut command = Command::new(&*HW);
    configured(command.arg("simulate").args(arguments), environment);
    command
}

fn finished(environment: &Ephemeral, arguments: &[&str]) -> String {
    let output = simulate(environment, arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    text
}

fn events(environment: &Ephemeral, topic: &str) -> Vec<Value> {
    read(environment, topic).into_iter().map(|record| serde_json::from_slice(&record.value.unwrap()).unwrap()).collect()
}

fn texts<'a>(events: &'a [Value], path: &str) -> BTreeSet<&'a str> {
    events.iter().map(|event| event.pointer(path).and_then(Value::as_str).unwrap()).collect()
}

#[test]
fn a_service_goes_on_where_it_was() {
    let environment = exclusive();
    create(&environment, "commands.shipping", 3);
    let commands: Vec<String> = (0..60)
        .map(|n| {
            let command = json!({
                "eventId": format!("c{n}"), "eventType": "shipping.dispatch", "timestamp": "2026-01-01T00:00:00Z",
                "data": { "orderId": format!("o{n}") }, "metadata": { "correlationId": format!("o{n}") },
            });
            command.to_string()
        })
        .collect();
    let records: Vec<(i32, Option<&str>, Option<&[u8]>)> =
        commands.iter().enumerate().map(|(n, command)| ((n % 3) as i32, None, Some(command.as_bytes()))).collect();
    produce(&environment, "commands.shipping", &records[..40]);
    let behaviour = ["shipping", "--latency", "1ms..20ms", "--decline", "0.3", "--seed", "7"];
    finished(&environment, &[&behaviour[..], &["--count", "15"]].concat());
    let before = events(&environment, "business.shipping.events").len();
    assert!((15..=40).contains(&before), "{before}");
    // It is killed while it answers the rest, and started again.
    produce(&environment, "commands.shipping", &records[40..]);
    let mut killed = simulate(&environment, &behaviour).stdout(Stdio::null()).spawn().unwrap();
    wait_until("more answers", Duration::from_secs(60), || match events(&environment, "business.shipping.events").len() {
        now if now > before => Ok(()),
        now => Err(format!("{now} answers")),
    });
    killed.kill().unwrap();
    killed.wait().unwrap();
    let mut last = simulate(&environment, &behaviour).stdout(Stdio::null()).spawn().unwrap();
    wait_until("all answers", Duration::from_secs(60), || {
        let answers = events(&environment, "business.shipping.events");
        let caused = texts(&answers, "/metadata/causationId").len();
        if caused == 60 { Ok(()) } else { Err(format!("{caused} commands are answered")) }
    });
    last.kill().unwrap();
    last.wait().unwrap();
    let answers = events(&environment, "business.shipping.events");
    assert_eq!(texts(&answers, "/eventId").len(), 60, "an answer that came again is the same event");
    assert_eq!(texts(&answers, "/eventType"), BTreeSet::from(["shipping.dispatched", "shipping.failed"]));
}

#[test]
fn orders_and_users_follow_from_the_seed() {
    let environment = exclusive();
    for _ in 0..2 {
        let orders =
            ["orders", "--count", "50", "--rate", "1000", "--skus", "5", "--hot", "1", "--buckets", "2", "--stock", "11", "--lines", "2"];
        assert!(finished(&environment, &orders).contains("50 orders placed"));
        assert!(finished(&environment, &["users", "--count", "30", "--rate", "1000"]).contains("30 events"));
    }
    for (topic, count) in [("business.orders.placed", 50), ("commands.inventory", 6), ("business.users.events", 30)] {
        let found = events(&environment, topic);
        assert_eq!((found.len(), texts(&found, "/eventId").len()), (2 * count, count), "{topic}");
    }
}
