//! Expected against found: exact multisets, and per key the same order.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::files::Case;
use super::world::{Outcome, Row};

/// Most differences shown per output.
const SHOWN: usize = 6;

/// What differs, ready to be shown; empty if nothing does.
pub fn differences(case: &Case, outcome: &Outcome) -> Vec<String> {
    let outputs: BTreeSet<&String> = case.expected.keys().chain(outcome.outputs.keys()).collect();
    let mut found = outcome.errors.clone();
    for output in outputs {
        let expected = case.expected.get(output).map_or(&[][..], Vec::as_slice);
        let rows = outcome.outputs.get(output).map_or(&[][..], Vec::as_slice);
        found.extend(compare(output, expected, rows));
    }
    found
}

fn compare(output: &str, expected: &[Value], rows: &[Row]) -> Vec<String> {
    let mut left: Vec<&Row> = rows.iter().collect();
    let mut matched: BTreeMap<&[u8], Vec<usize>> = BTreeMap::new();
    let mut lines = Vec::new();
    for value in expected {
        match left.iter().position(|row| fits(value, &row.value)) {
            Some(at) => {
                let row = left.remove(at);
                matched.entry(row.key.as_deref().unwrap_or_default()).or_default().push(row.order);
            }
            None => lines.push(format!("  {output}: missing     {value}")),
        }
    }
    lines.extend(left.iter().map(|row| format!("  {output}: unexpected  {}", row.value)));
    let in_order = |orders: &Vec<usize>| orders.windows(2).all(|pair| pair.first() < pair.last());
    let same = lines.is_empty();
    for (key, _) in matched.iter().filter(|(key, orders)| same && !key.is_empty() && !in_order(orders)) {
        lines.push(format!("  {output}: the rows of key {} are in another order", String::from_utf8_lossy(key)));
    }
    let more = lines.len().saturating_sub(SHOWN);
    lines.truncate(SHOWN);
    if more > 0 {
        lines.push(format!("  {output}: and {more} more"));
    }
    lines
}

/// Equal, where `"<any>"` stands for anything.
fn fits(expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::String(any), _) if any == "<any>" => true,
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, value)| b.get(key).is_some_and(|found| fits(value, found)))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| fits(a, b)),
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(order: usize, key: &str, value: Value) -> Row {
        Row { key: Some(key.as_bytes().to_vec()), value, order }
    }

    #[test]
    fn rows_are_a_multiset_and_in_order_per_key() {
        let rows = [row(0, "a", json!({"n": 1})), row(1, "b", json!({"n": 2})), row(2, "a", json!({"n": 3}))];
        assert!(compare("t", &[json!({"n": 2}), json!({"n": 1}), json!({"n": "<any>"})], &rows).is_empty());
        let order = compare("t", &[json!({"n": 3}), json!({"n": 2}), json!({"n": 1})], &rows);
        assert!(order.len() == 1 && order[0].contains("key a"), "{order:?}");
        let other = compare("t", &[json!({"n": 1}), json!({"n": 2}), json!({"n": 2})], &rows);
        assert!(other.iter().any(|l| l.contains("missing")) && other.iter().any(|l| l.contains("unexpected")), "{other:?}");
        assert_eq!(compare("t", &[], &rows).len(), 3, "nothing may come out that no file tells of");
    }
}
