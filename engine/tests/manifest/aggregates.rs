//! Aggregates whose state gets more columns.

use serde_json::{Value, json};

use super::*;

const ADDED: &str = r#"
apiVersion: headwater/v1
name: carts
sources:
  clicks:
    topic: clicks
    schema: { user: string, shop: string, n: long, at: timestamp }
    time: { field: at, out_of_order: 0s, idle: never }
steps:
  sums:
    from: clicks
    aggregate:
      key: user
      command: shop
      state: { total: long = 0 }
      entries: { line: { key: number, of: n, columns: { times: long = 0 } } }
      on: { s: { emit: added, with: { n: n, times: line.times } } }
      apply: { added: { total: state.total + data.n, line: { times: "coalesce(line.times, 0) + 1" } } }
sinks:
  events: { from: sums, topic: events, key: data.user, create: { partitions: 1 } }
  rejected: { from: sums.rejected, topic: rejected, key: data.user, create: { partitions: 1 } }
  totals: { from: sums.state, topic: totals, key: user, create: { partitions: 1 } }
"#;

fn with(state: &str, columns: &str) -> String {
    let text = ADDED.replace("total: long = 0", state);
    text.replace("times: long = 0", columns)
}

#[test]
fn rows_from_before_a_column_was_added_have_its_default() {
    let broker = cluster(1);
    feed(&broker, 0, "a", 1);
    run(&broker, ADDED).unwrap();
    // A column that takes the place of another one: the next event computes it of that.
    let more = with("total: long = 0, most: long = 7, exact: double?", "times: long = 0, weight: long = 5")
        .replace("times: line.times }", "times: line.times, weight: line.weight }")
        .replace("total: state.total", "exact: \"coalesce(state.exact, CAST(state.total AS DOUBLE)) + data.n\", total: state.total");
    feed(&broker, 0, "a", 2);
    feed(&broker, 0, "b", 2);
    let agreed = run(&broker, &more).unwrap();
    assert!(agreed.changes.iter().any(|change| change.contains("reads the state of before with its new columns")), "{:?}", agreed.changes);
    let read = |topic| values(&broker, topic).iter().map(|text| serde_json::from_str::<Value>(text).unwrap()).collect::<Vec<_>>();
    let weights: Vec<Value> = read("events").iter().map(|event| event["data"]["weight"].clone()).collect();
    assert_eq!(weights, [json!(null), json!(5), json!(null)]);
    let expected = [
        json!({ "user": "a", "version": 1, "total": 1 }),
        json!({ "user": "a", "version": 2, "total": 2, "most": 7, "exact": 2.0 }),
        json!({ "user": "b", "version": 1, "total": 1, "most": 7, "exact": 1.0 }),
    ];
    assert_eq!(read("totals"), expected);
    // The deployed version has the columns: the one before can't read its rows.
    assert!(refused(&broker, ADDED).contains("changed-state"));
    assert!(start(&broker, &more).is_ok());
}

#[test]
fn columns_that_rows_from_before_can_not_lack_are_refused() {
    let broker = cluster(1);
    feed(&broker, 0, "a", 1);
    run(&broker, ADDED).unwrap();
    let (state, entry) = ("total: long = 0", "times: long = 0");
    let many = (0..7).map(|n| format!(", c{n}: long?")).collect::<String>();
    for (why, text) in [
        ("not the last column", with("most: long = 0, total: long = 0", entry)),
        ("another type", with("total: double = 0", entry)),
        (
            "required in an entry",
            with(state, "times: long = 0, weight: long").replace("times: \"coalesce", "weight: data.n, times: \"coalesce"),
        ),
        ("more columns than fit into the byte that says which are there", with(&format!("{state}{many}"), entry)),
    ] {
        let found = refused(&broker, &text);
        assert!(found.contains("changed-state"), "{why}: {found}");
    }
    assert!(start(&broker, &with(&format!("{state}, c: long?"), &format!("{entry}, c: long?"))).is_ok());
}
