//! Expected against found: exact multisets, and per key the same order.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::Value;

use super::files::Case;
use super::world::{Outcome, Row};
use crate::style::{bad, dim, good, strong};

/// Most differences shown per output.
const SHOWN: usize = 6;

/// What differs, ready to be shown; empty if nothing does.
pub fn differences(case: &Case, outcome: &Outcome) -> Vec<String> {
    let outputs: BTreeSet<&String> = case.expected.keys().chain(outcome.outputs.keys()).collect();
    let mut found = outcome.errors.clone();
    for output in outputs {
        let expected = case.expected.get(output).map_or(&[][..], Vec::as_slice);
        let rows = outcome.outputs.get(output).map_or(&[][..], Vec::as_slice);
        let lines = compare(output, expected, rows);
        if !lines.is_empty() {
            found.push(format!("    {}", strong(&Case::file(output))));
            found.extend(lines);
        }
    }
    found
}

/// Two runs came to the same.
pub fn same(a: &Outcome, b: &Outcome) -> bool {
    let values = |rows: &[Row]| rows.iter().map(|row| (row.order, row.value.clone())).collect::<Vec<_>>();
    a.errors == b.errors
        && a.outputs.len() == b.outputs.len()
        && a.outputs.iter().all(|(name, rows)| b.outputs.get(name).is_some_and(|other| compare(name, &values(rows), other).is_empty()))
}

/// The lines to be shown for an output; none if it is as expected. Dead letters have no order: several steps write them.
pub fn compare(output: &str, expected: &[(usize, Value)], rows: &[Row]) -> Vec<String> {
    let mut left: Vec<&Row> = rows.iter().collect();
    let mut missing: Vec<&(usize, Value)> = Vec::new();
    let mut matched: BTreeMap<&[u8], Vec<(usize, usize)>> = BTreeMap::new();
    // Exact lines first: every `"<any>"` takes what is left.
    let mut lines: Vec<&(usize, Value)> = expected.iter().collect();
    lines.sort_by_key(|(_, value)| value.to_string().matches("\"<any>\"").count());
    for line in lines {
        match left.iter().position(|row| fits_row(&line.1, row)) {
            Some(at) => {
                let row = left.remove(at);
                matched.entry(row.key.as_deref().unwrap_or_default()).or_default().push((line.0, row.order));
            }
            None => missing.push(line),
        }
    }
    let mut found: Vec<Vec<String>> = Vec::new();
    for (line, value) in missing {
        let near = left.iter().enumerate().map(|(at, row)| (likeness(value, &row.value), at)).max();
        match near.filter(|(likeness, _)| *likeness > 0) {
            Some((_, at)) => found.push(changed(*line, value, &left.remove(at).value)),
            None => found.push(vec![format!("      {} {}", bad("-"), shown(*line, value))]),
        }
    }
    found.extend(left.iter().map(|row| vec![format!("      {} {}", good("+"), row.value)]));
    if found.is_empty() && !output.ends_with(".dlq") {
        for (key, lines) in matched.iter_mut().filter(|(key, _)| !key.is_empty()) {
            lines.sort_unstable_by_key(|(_, order)| *order);
            if !lines.is_sorted_by_key(|(line, _)| *line) {
                let came: Vec<String> = lines.iter().map(|(line, _)| line.to_string()).collect();
                let key = String::from_utf8_lossy(key);
                found.push(vec![format!(
                    "      the rows of key {key} are in another order: lines {} (`@key` tells equal values apart)",
                    came.join(", ")
                )]);
            }
        }
    }
    let more = found.len().saturating_sub(SHOWN);
    let mut lines: Vec<String> = found.into_iter().take(SHOWN).flatten().collect();
    if more > 0 {
        lines.push(dim(&format!("      and {more} more")));
    }
    lines
}

fn shown(line: usize, value: &Value) -> String {
    format!("{value} {}", dim(&format!("(line {line})")))
}

/// A row that is there, but not as expected.
fn changed(line: usize, expected: &Value, found: &Value) -> Vec<String> {
    let mut lines = vec![format!("      {} {}", bad("-"), shown(line, expected)), format!("      {} {found}", good("+"))];
    if let (Value::Object(a), Value::Object(b)) = (expected, found) {
        let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        for name in names {
            let (wanted, got) = (a.get(name), b.get(name));
            let text = |value: Option<&Value>| value.map_or("nothing".to_string(), Value::to_string);
            if !wanted.zip(got).is_some_and(|(a, b)| fits(a, b)) {
                lines.push(format!("        {name}: expected {}, found {}", bad(&text(wanted)), good(&text(got))));
            }
        }
    }
    lines
}

/// How many members of two rows agree; none unless at least half of them do.
fn likeness(a: &Value, b: &Value) -> usize {
    let (Value::Object(a), Value::Object(b)) = (a, b) else { return 0 };
    let equal = a.iter().filter(|(name, value)| b.get(*name).is_some_and(|other| fits(value, other))).count();
    if equal * 2 >= a.len().max(b.len()) { equal } else { 0 }
}

/// A line fits a row: `{"@key": .., "@value": ..}` tells of the record's key, too.
pub fn fits_row(expected: &Value, row: &Row) -> bool {
    let members =
        expected.as_object().filter(|m| m.contains_key("@value") && m.keys().all(|key| ["@key", "@value"].contains(&key.as_str())));
    let Some(members) = members else { return fits(expected, &row.value) };
    let key = row.key.as_deref().map_or(Value::Null, |key| Value::String(String::from_utf8_lossy(key).into_owned()));
    let same_key = members.get("@key").is_none_or(|wanted| match wanted {
        Value::Null | Value::String(_) => fits(wanted, &key),
        // Keys are texts: that of a number is its digits.
        other => fits(&Value::String(other.to_string()), &key),
    });
    same_key && members.get("@value").is_some_and(|value| fits(value, &row.value))
}

/// Equal, where `"<any>"` stands for anything: numbers by value and with every digit, times that were printed as an
/// instant, however the same instant is written.
pub fn fits(expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::String(any), _) if any == "<any>" => true,
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, value)| b.get(key).is_some_and(|found| fits(value, found)))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| fits(a, b)),
        (Value::Number(a), Value::Number(b)) => decimal(&a.to_string()) == decimal(&b.to_string()),
        (Value::String(a), Value::String(b)) => a == b || instant(a).is_some_and(|instant| printed(instant, b)),
        (a, b) => a == b,
    }
}

/// A JSON number by its value: sign, digits without zeros at either end, and the power of ten behind the last of them.
fn decimal(text: &str) -> (bool, String, i64) {
    let (number, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (negative, number) = number.strip_prefix('-').map_or((false, number), |number| (true, number));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    let kept = digits.trim_end_matches('0');
    let power = exponent.parse::<i64>().unwrap_or(0) - fraction.len() as i64 + (digits.len() - kept.len()) as i64;
    match kept.trim_start_matches('0') {
        "" => (false, String::new(), 0),
        kept => (negative, kept.to_string(), power),
    }
}

fn instant(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc())
}

/// Whether a text is what a column of time prints for an instant.
fn printed(instant: DateTime<Utc>, text: &str) -> bool {
    let formats = [SecondsFormat::Millis, SecondsFormat::Micros, SecondsFormat::Nanos];
    // A format cuts digits off.
    formats.iter().any(|format| instant.to_rfc3339_opts(*format, true) == text) && self::instant(text) == Some(instant)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(order: usize, key: &str, value: Value) -> Row {
        Row { key: Some(key.as_bytes().to_vec()), value, order }
    }

    fn compare(expected: &[Value], rows: &[Row]) -> Vec<String> {
        let expected: Vec<(usize, Value)> = expected.iter().cloned().enumerate().collect();
        super::compare("t", &expected, rows).iter().map(|l| anstream::adapter::strip_str(l).to_string()).collect()
    }

    #[test]
    fn rows_are_a_multiset_and_in_order_per_key() {
        let rows = [row(0, "a", json!({"n": 1})), row(1, "b", json!({"n": 2})), row(2, "a", json!({"n": 3}))];
        assert!(compare(&[json!({"n": 2}), json!({"n": 1}), json!({"n": "<any>"})], &rows).is_empty());
        let order = compare(&[json!({"n": 3}), json!({"n": 2}), json!({"n": 1})], &rows);
        assert!(order.len() == 1 && order[0].contains("key a are in another order: lines 2, 0"), "{order:?}");
        let letters: Vec<(usize, Value)> = [(0, json!({"n": 3})), (1, json!({"n": 2})), (2, json!({"n": 1}))].into();
        assert!(super::compare("t.dlq", &letters, &rows).is_empty());
        let other = compare(&[json!({"n": 1}), json!({"n": 2}), json!({"n": 2})], &rows);
        assert!(other.iter().any(|l| l.contains("- {\"n\":2}")) && other.iter().any(|l| l.contains("+ {\"n\":3}")), "{other:?}");
        assert_eq!(compare(&[], &rows).len(), 3, "nothing may come out that no file tells of");
    }

    #[test]
    fn numbers_and_times_count_by_value_and_every_digit_counts() {
        let fits = |a: &str, b: &str| super::fits(&serde_json::from_str(a).unwrap(), &serde_json::from_str(b).unwrap());
        for (a, b) in [("7.00", "7"), ("1e2", "100.0"), ("0.0", "-0"), ("1.5e-3", "0.0015"), ("-12E+1", "-120")] {
            assert!(fits(a, b) && fits(b, a), "{a} {b}");
        }
        for (a, b) in [
            ("9007199254740993.01", "9007199254740993.02"),
            ("12345678901234567890123.45", "12345678901234567890123.46"),
            ("1", "-1"),
            ("10", "1"),
            ("1", "\"1\""),
        ] {
            assert!(!fits(a, b), "{a} {b}");
        }
        assert!(fits("\"2026-03-01T10:01:00Z\"", "\"2026-03-01T10:01:00.000Z\""));
        assert!(fits("\"2026-03-01T11:01:00+01:00\"", "\"2026-03-01T10:01:00.000Z\""));
        assert!(!fits("\"2026-03-01T10:01:00.123999Z\"", "\"2026-03-01T10:01:00.123Z\""));
        assert!(!fits("\"2026-03-01T10:01:00Z\"", "\"2026-03-01T11:01:00+01:00\""), "a text that no column of time prints is a text");
    }

    #[test]
    fn any_takes_what_exact_lines_leave() {
        let rows = [row(0, "a", json!({"k": "a", "n": 1})), row(1, "b", json!({"k": "b", "n": 1}))];
        assert!(compare(&[json!({"k": "<any>", "n": 1}), json!({"k": "a", "n": 1})], &rows).is_empty());
        assert!(compare(&[json!({"k": "<any>", "n": "<any>"}), json!({"k": "a", "n": "<any>"})], &rows).is_empty());
    }

    #[test]
    fn a_line_may_tell_the_key() {
        let rows = [row(0, "a", json!({"n": 1})), row(1, "7", json!({"n": 2}))];
        assert!(compare(&[json!({"@key": "a", "@value": {"n": 1}}), json!({"@key": 7, "@value": {"n": 2}})], &rows).is_empty());
        assert!(!compare(&[json!({"@key": "b", "@value": {"n": 1}}), json!({"@key": "<any>", "@value": {"n": 2}})], &rows).is_empty());
        assert!(!compare(&[json!({"@key": null, "@value": {"n": 1}}), json!({"@value": {"n": 2}})], &rows).is_empty());
    }

    #[test]
    fn a_row_that_is_nearly_right_is_told_by_its_members() {
        let rows = [row(0, "a", json!({"id": 1, "n": 2, "x": true}))];
        let found = compare(&[json!({"id": 1, "n": 3, "x": true})], &rows);
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(found[2].trim(), "n: expected 3, found 2");
    }
}
