//! Commands are decided once and in order, whatever happens to the lanes: each account's events are those of a plain model, with the versions
//! 1, 2, 3 and so on and the ids that they have without trouble.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::case::Case;
use crate::harness::{Outcome, Run};
use crate::seeds;

const PIPELINE: &str = over_orders!(
    r#"steps:
  commands: { from: orders, map: { add: { kind: "CASE WHEN amount < 30 THEN 'earn' ELSE 'spend' END" } } }
  accounts:
    from: commands
    aggregate:
      key: id
      command: kind
      state: { total: long = 0, bought: long = 0 }
      entries: { things: { key: product, of: product, columns: { times: long = 0 } } }
      on:
        earn: { emit: earned, with: { amount: 40 - amount } }
        spend:
          - { when: amount > 85, emit: spent, with: { amount: amount } }
          - { when: state.total >= amount, emit: [{ type: spent, with: { amount: amount } }, { type: counted, with: { product: product, times: "COALESCE(things.times, 0) + 1" } }] }
          - { reject: too_little, with: { total: state.total } }
      apply:
        earned: { total: state.total + data.amount }
        spent: { total: state.total - data.amount }
        counted: { bought: state.bought + 1, things: { times: data.times } }
      invariants: { covered: state.total >= 0 }
sinks:
  events: { from: accounts, topic: events, event: envelope, key: data.id, create: { partitions: 2 } }
  rejected: { from: accounts.rejected, topic: rejected, key: data.id, create: { partitions: 1 } }
  violations: { from: accounts.violations, topic: violations, create: { partitions: 1 } }
  states: { from: accounts.state, topic: states, key: id, create: { partitions: 1, config: { cleanup.policy: compact } } }
"#
);

/// An account's events: type, amount or number.
type Events = BTreeMap<String, Vec<(String, i64)>>;

#[derive(Debug, Default, PartialEq, Eq)]
struct Answers {
    events: Events,
    /// Account, reason and the total at that time.
    rejected: Vec<(String, String, Option<i64>)>,
    violations: usize,
    /// Version, total and number of things bought.
    states: BTreeMap<String, (i64, i64, i64)>,
}

fn expected(case: &Case) -> Answers {
    let mut answers = Answers::default();
    let mut things: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for order in case.orders.iter().filter(|order| !order.broken) {
        let (_, total, bought) = answers.states.get(&order.id).copied().unwrap_or_default();
        let rejected = |reason: &str, total| (order.id.clone(), reason.to_string(), total);
        let (events, state): (Vec<(String, i64)>, _) = match order.amount {
            amount if amount < 30 => (vec![("earned".into(), 40 - amount)], (total + 40 - amount, bought)),
            amount if amount > 85 && total < amount => {
                answers.violations += 1;
                answers.rejected.push(rejected("covered", None));
                continue;
            }
            amount if amount > 85 => (vec![("spent".into(), amount)], (total - amount, bought)),
            amount if total >= amount => {
                let times = things.entry((&order.id, &order.product)).or_default();
                *times += 1;
                (vec![("spent".into(), amount), ("counted".into(), *times)], (total - amount, bought + 1))
            }
            _ => {
                answers.rejected.push(rejected("too_little", Some(total)));
                continue;
            }
        };
        let all = answers.events.entry(order.id.clone()).or_default();
        all.extend(events);
        answers.states.insert(order.id.clone(), (all.len() as i64, state.0, state.1));
    }
    answers.rejected.sort();
    answers
}

fn records(outcome: &Outcome, topic: &str) -> Vec<Value> {
    let records = outcome.broker.read_all_committed(topic).into_iter();
    records.filter_map(|record| record.value).map(|value| serde_json::from_slice(&value).unwrap()).collect()
}

/// What came out, and the ids of all events.
fn answered(outcome: &Outcome, seed: u64) -> (Answers, BTreeSet<String>) {
    let text = |value: &Value, path: &str| value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_string();
    let number = |value: &Value, path: &str| value.pointer(path).and_then(Value::as_i64);
    let (mut answers, mut ids) = (Answers::default(), BTreeSet::new());
    for event in records(outcome, "events") {
        let all = answers.events.entry(text(&event, "/data/id")).or_default();
        let value = number(&event, "/data/amount").or_else(|| number(&event, "/data/times"));
        all.push((text(&event, "/eventType"), value.unwrap_or_default()));
        assert_eq!(number(&event, "/metadata/sequence"), Some(all.len() as i64), "seed {seed}: {event}");
        assert!(ids.insert(text(&event, "/eventId")), "seed {seed}: {event} came twice");
    }
    let rejected = records(outcome, "rejected");
    answers.rejected = rejected.iter().map(|r| (text(r, "/data/id"), text(r, "/data/reason"), number(r, "/data/total"))).collect();
    answers.rejected.sort();
    answers.violations = records(outcome, "violations").len();
    for state in records(outcome, "states") {
        let of = |name: &str| number(&state, name).unwrap_or_default();
        answers.states.insert(text(&state, "/id"), (of("/version"), of("/total"), of("/bought")));
    }
    (answers, ids)
}

/// All of it would fill pages.
fn first_difference(answers: &Answers, expected: &Answers) -> String {
    let account = expected.events.iter().find(|(id, events)| answers.events.get(*id) != Some(events));
    match account {
        Some((id, events)) => format!("{id}: {:?} instead of {events:?}", answers.events.get(id)),
        None => format!("{:?} instead of {:?}", (&answers.rejected, &answers.states), (&expected.rejected, &expected.states)),
    }
}

#[test]
fn commands_are_decided_once_and_in_order() {
    for seed in seeds() {
        // Ids follow from places in the log, which are the same in both runs if orders are written in no transactions.
        let case = Case { in_transactions: seed % 2 == 0, ..Case::new(seed) };
        let mut ids = Vec::new();
        for (what, outcome) in
            [("undisturbed", Run::of(&case, seed, PIPELINE).undisturbed()), ("disturbed", Run::of(&case, seed, PIPELINE).disturbed())]
        {
            let expected = expected(&outcome.case);
            let (answers, found) = answered(&outcome, seed);
            assert!(answers == expected, "seed {seed}, {what}: {}", first_difference(&answers, &expected));
            ids.push(found);
        }
        assert!(case.in_transactions || ids[0] == ids[1], "seed {seed}: other ids");
    }
}
