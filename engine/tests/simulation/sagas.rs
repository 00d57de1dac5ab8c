//! Sagas keep what they say exactly once, whatever becomes of lanes and commits: commands, ends and states are one history each.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::case::{Case, PARTITIONS};
use crate::harness::{Outcome, Run};
use crate::seeds;

/// Each order may begin the saga of its id, and is an answer to it: which one, says its amount. Clocks pass by minutes in silences.
const PIPELINE: &str = over_orders!(
    r#"steps:
  placed: { from: orders, filter: amount >= 0 }
  answers:
    from: placed
    map:
      select:
        id: id
        amount: amount
        eventType: "CASE amount % 7 WHEN 0 THEN 'a.failed' WHEN 1 THEN 'b.failed' WHEN 2 THEN 'a.undone' WHEN 3 THEN 'b.done' WHEN 4 THEN 'x' ELSE 'a.done' END"
  repairs: { from: placed, map: { select: { id: id, eventType: "CASE WHEN amount % 5 = 0 THEN 'saga.retry' WHEN amount % 11 = 0 THEN 'saga.compensate' ELSE 'saga.skip' END" } } }
  work:
    from: { start: placed, replies: answers, repairs: repairs }
    saga:
      id: { start: id, replies: id, repairs: id }
      keep: { amount: amount }
      steps:
        a:
          send: { command: a.do, with: { id: id, amount: amount, attempt: attempt } }
          done: a.done
          failed: a.failed
          keep: { amount: amount }
          timeout: 20s
          retry: { attempts: 2 }
          undo: { command: a.undo, with: { id: id }, done: a.undone, timeout: 5s }
        b: { send: { command: b.do, with: { id: id, amount: a.amount } }, done: b.done, failed: b.failed, timeout: 40s, retry: { attempts: 1 } }
      ends: { completed: done, compensated: undone }
      stuck: { after: 2 }
sinks:
  commands: { from: work.commands, topic: commands, event: envelope, key: data.id, create: { partitions: 2 } }
  ended: { from: work.ended, topic: ended, event: envelope, key: data.saga, create: { partitions: 2 } }
  state: { from: work.state, topic: states, key: id, create: { partitions: 2 } }
  stuck: { from: work.stuck, topic: stuck, key: id, create: { partitions: 1 } }
"#
);

fn values(outcome: &Outcome, topic: &str) -> Vec<Value> {
    let records = outcome.broker.read_all_committed(topic);
    records.iter().filter_map(|record| serde_json::from_slice(record.value.as_deref()?).ok()).collect()
}

fn check(outcome: &Outcome, seed: u64) {
    let (commands, ended) = (values(outcome, "commands"), values(outcome, "ended"));
    let mut events: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for event in commands.iter().filter(|event| event["eventType"] == "b.do") {
        // What an answer said is there when the next step is sent, whatever became of lanes in between.
        assert!(event["data"]["amount"].is_i64(), "seed {seed}: {event}");
    }
    for event in commands.iter().chain(&ended) {
        assert!(ids.insert(event["eventId"].to_string()), "seed {seed}: twice: {event}");
        let saga = event["metadata"]["correlationId"].as_str().unwrap().to_string();
        events.entry(saga).or_default().push(event["metadata"]["sequence"].as_i64().unwrap());
    }
    let begun: BTreeSet<&str> =
        outcome.case.orders.iter().filter(|order| !order.broken && order.amount >= 0).map(|order| order.id.as_str()).collect();
    assert_eq!(events.keys().map(String::as_str).collect::<BTreeSet<_>>(), begun, "seed {seed}: an order of each begins its saga");
    for (saga, mut sequence) in events {
        sequence.sort_unstable();
        let all: Vec<i64> = (1..=sequence.len() as i64).collect();
        assert_eq!(sequence, all, "seed {seed}: the history of {saga} has each number once");
    }
    // The last state of a saga is what its events say.
    let mut last: BTreeMap<String, String> = BTreeMap::new();
    for state in values(outcome, "states") {
        last.insert(state["id"].as_str().unwrap().into(), state["status"].as_str().unwrap().into());
    }
    assert_eq!(last.len(), begun.len(), "seed {seed}");
    for (saga, status) in &last {
        let ends: Vec<&str> =
            ended.iter().filter(|end| end["data"]["saga"] == saga.as_str()).map(|end| end["eventType"].as_str().unwrap()).collect();
        match status.as_str() {
            "completed" => assert_eq!(ends, ["done"], "seed {seed}: {saga}"),
            "compensated" => assert_eq!(ends, ["undone"], "seed {seed}: {saga}"),
            "stuck" => assert!(ends.is_empty() || ends == ["undone"], "seed {seed}: {saga} {ends:?}"),
            other => panic!("seed {seed}: {saga} is {other} although minutes have passed"),
        }
    }
    assert!(PARTITIONS > 1 && !ended.is_empty());
}

#[test]
fn sagas_have_one_history() {
    for seed in seeds().into_iter().step_by(3) {
        let case = Case { clock_ahead: 100_000, ..Case::new(seed) };
        check(&Run::of(&case, seed, PIPELINE).undisturbed(), seed);
        check(&Run::of(&case, seed, PIPELINE).disturbed(), seed);
    }
}
