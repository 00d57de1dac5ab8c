//! Sagas on real services: a saga that is stuck is found, retried and compensated, and each repair is in its topic.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use headwater_devenv::Ephemeral;
use serde_json::{Value, json};

use crate::environment::{HW, configured, exclusive, wait_until};
use crate::log::{create, produce_by_key, read};
use crate::worker::Worker;

const PIPELINE: &str = "\
apiVersion: headwater/v1
name: sagas
sources:
  placed: { topic: sagas.placed, schema: { id: string, total: long }, key: id }
  answers: { topic: sagas.answers, schema: { eventType: string, order_id: string }, key: order_id }
  repairs: { topic: sagas.repairs, event: envelope, schema: { saga: string, user: string, reason: string, step: string? }, key: data.saga }
steps:
  payment:
    from: { start: placed, replies: answers, repairs: repairs }
    saga:
      id: { start: id, replies: order_id, repairs: data.saga }
      keep: { total: total }
      steps:
        pay:
          send: { command: payments.authorise, with: { order_id: id, total: total } }
          done: payments.authorised
          timeout: 1h
          undo: { command: payments.void, with: { order_id: id }, done: payments.voided, failed: payments.void.failed }
        ship:
          send: { command: shipping.ship, with: { order_id: id } }
          done: shipping.shipped
          failed: shipping.refused
          timeout: 1h
          undo: { command: shipping.cancel, with: { order_id: id }, done: shipping.cancelled }
      ends: { completed: orders.confirmed, compensated: orders.cancelled }
      stuck: { after: 1 }
sinks:
  commands: { from: payment.commands, topic: sagas.commands, key: data.order_id, create: { partitions: 3 } }
  ended: { from: payment.ended, topic: sagas.ended, key: data.saga, create: { partitions: 3 } }
  stuck: { from: payment.stuck, topic: sagas.stuck, key: id, create: { partitions: 3 } }
";

/// A command of `hw saga`: whether it succeeded, and what it printed.
fn saga(environment: &Ephemeral, pipeline: &Path, command: &str, arguments: &[&str]) -> (bool, String) {
    let mut hw = Command::new(&*HW);
    hw.args(["saga", command]).arg(pipeline).args(arguments);
    configured(hw.env("NO_COLOR", "1"), environment);
    let output = hw.output().expect("hw starts");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

/// What `hw saga show` says about a saga, once it has this status.
fn shown(environment: &Ephemeral, pipeline: &Path, id: &str, status: &str) -> Value {
    let mut found = Value::Null;
    wait_until(&format!("{id} is {status}"), Duration::from_secs(60), || {
        let (_, text) = saga(environment, pipeline, "show", &[id, "--json"]);
        found = serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))?;
        if found["status"] == status { Ok(()) } else { Err(text) }
    });
    found
}

fn answer(environment: &Ephemeral, id: &str, what: &str) {
    let event = json!({ "eventType": what, "order_id": id }).to_string();
    produce_by_key(environment, "sagas.answers", &[(id.as_bytes(), Some(event.as_bytes()))]);
}

fn types(environment: &Ephemeral, topic: &str, id: &str) -> Vec<String> {
    let events = read(environment, topic).into_iter().map(|record| serde_json::from_slice::<Value>(&record.value.unwrap()).unwrap());
    let own = events.filter(|event| event["metadata"]["correlationId"] == id);
    own.map(|event| event["eventType"].as_str().unwrap().to_string()).collect()
}

#[test]
fn people_find_and_repair_what_is_stuck() {
    let environment = exclusive();
    for topic in ["sagas.placed", "sagas.answers", "sagas.repairs"] {
        create(&environment, topic, 3);
    }
    let dir = tempfile::tempdir().unwrap();
    let pipeline: PathBuf = dir.path().join("pipeline.yaml");
    std::fs::write(&pipeline, PIPELINE).unwrap();
    let (ran, text) = saga(&environment, &pipeline, "list", &[]);
    assert!(!ran && text.contains("there is no topic `hw.sagas.payment.changelog`"), "{text}");
    let worker = Worker::start(&environment, &pipeline, dir.path(), 0, None);
    for id in ["o1", "o2", "o3"] {
        let order = json!({ "id": id, "total": 5 }).to_string();
        produce_by_key(&environment, "sagas.placed", &[(id.as_bytes(), Some(order.as_bytes()))]);
        shown(&environment, &pipeline, id, "running");
        answer(&environment, id, "payments.authorised");
    }
    // Two are stuck, and one runs.
    for id in ["o1", "o2"] {
        answer(&environment, id, "shipping.refused");
        shown(&environment, &pipeline, id, "compensating");
        answer(&environment, id, "payments.void.failed");
        let found = shown(&environment, &pipeline, id, "stuck");
        assert_eq!((&found["step"], &found["attempts"]), (&json!("pay"), &json!(1)));
        assert_eq!(found["cause"], "undo of pay: payments.void.failed after 1 attempt");
        assert_eq!(found["tasks"][1], json!({ "step": "ship", "line": null, "state": "failed", "attempts": 1, "due": null }));
    }
    let (_, text) = saga(&environment, &pipeline, "list", &["--stuck"]);
    assert!(text.contains("o1  stuck at pay") && text.contains("o2  stuck") && text.contains("2 of 3 sagas"), "{text}");
    assert!(!text.contains("o3"), "{text}");
    let (ran, text) = saga(&environment, &pipeline, "list", &["--status", "stuck", "--at", "pay", "--limit", "1", "--json", "--check"]);
    assert!(!ran && text.matches("\"status\":\"stuck\"").count() == 1 && text.contains("2 of 3 sagas"), "{text}");
    assert!(saga(&environment, &pipeline, "list", &["--stuck", "--older-than", "1h", "--check"]).0);
    // What would change nothing is not written: no such saga, no such step, and a step of a running saga that is not named.
    let refused = |command: &str, arguments: &[&str], why: &str| {
        let (ran, text) = saga(&environment, &pipeline, command, &[arguments, &["--reason", "why"]].concat());
        let text = text.replace('│', " ").split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(!ran && text.contains(why), "{command} {arguments:?}: {text}");
    };
    wait_until("o3 is paid", Duration::from_secs(60), || match shown(&environment, &pipeline, "o3", "running")["step"].as_str() {
        Some("ship") => Ok(()),
        step => Err(format!("{step:?}")),
    });
    refused("retry", &["o9"], "there is no saga `o9`");
    refused("retry", &["o3", "--at", "pay"], "the saga does not wait for this step");
    refused("skip", &["o3"], "name the step to skip");
    // A step that runs is sent again at once.
    assert!(saga(&environment, &pipeline, "retry", &["o3", "--at", "ship", "--user", "bo", "--reason", "we called them"]).0);
    wait_until("the command is sent again", Duration::from_secs(60), || match types(&environment, "sagas.commands", "o3").as_slice() {
        [_, first, again] if first == again => Ok(()),
        other => Err(format!("{other:?}")),
    });
    // One is tried again, one left as it is; the third is compensated by hand. A restart in between loses nothing.
    let (ran, text) = saga(&environment, &pipeline, "retry", &["o1", "--user", "ana", "--reason", "the bank answers again"]);
    assert!(ran && text.contains("saga.retry of o1 to sagas.repairs"), "{text}");
    assert!(saga(&environment, &pipeline, "skip", &["o2", "--user", "ana", "--reason", "voided by phone"]).0);
    shown(&environment, &pipeline, "o2", "compensated");
    assert!(worker.stop().success());
    assert!(saga(&environment, &pipeline, "compensate", &["o3", "--user", "bo", "--reason", "the customer called"]).0);
    // The pipeline changes meanwhile: what has begun ends as it began.
    std::fs::write(&pipeline, PIPELINE.replace("        ship:\n", "        deliver:\n").replace("shipping.shipped", "shipping.delivered"))
        .unwrap();
    let worker = Worker::start(&environment, &pipeline, dir.path(), 0, None);
    let before = shown(&environment, &pipeline, "o1", "compensating");
    produce_by_key(&environment, "sagas.placed", &[(b"o4".as_slice(), Some(br#"{"id":"o4","total":5}"#.as_slice()))]);
    let after = shown(&environment, &pipeline, "o4", "running");
    assert_ne!(before["definition"], after["definition"]);
    assert_eq!((&before["tasks"][1]["step"], &after["tasks"][1]["step"]), (&json!("ship"), &json!("deliver")));
    assert_eq!(shown(&environment, &pipeline, "o3", "compensating")["cause"], "by hand: bo: the customer called");
    answer(&environment, "o1", "payments.voided");
    answer(&environment, "o3", "shipping.cancelled");
    wait_until("the payment of o3 is voided", Duration::from_secs(60), || match types(&environment, "sagas.commands", "o3").last() {
        Some(last) if last == "payments.void" => Ok(()),
        last => Err(format!("{last:?}")),
    });
    answer(&environment, "o3", "payments.voided");
    for id in ["o1", "o3"] {
        shown(&environment, &pipeline, id, "compensated");
        assert_eq!(types(&environment, "sagas.ended", id), ["orders.cancelled"]);
    }
    assert_eq!(types(&environment, "sagas.commands", "o1"), ["payments.authorise", "shipping.ship", "payments.void", "payments.void"]);
    let audit =
        read(&environment, "sagas.repairs").into_iter().map(|record| serde_json::from_slice::<Value>(&record.value.unwrap()).unwrap());
    let mut audit: Vec<String> = audit.map(|event| format!("{} {}", event["eventType"], event["data"])).collect();
    audit.sort();
    assert_eq!(audit.len(), 4);
    assert_eq!(audit[1], r#""saga.retry" {"reason":"the bank answers again","saga":"o1","user":"ana"}"#);
    let (ran, text) = saga(&environment, &pipeline, "show", &["o9"]);
    assert!(!ran && text.contains("there is no saga `o9`"), "{text}");
    drop(worker);
}
