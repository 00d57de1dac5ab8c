//! Compares expected with actual rows: exact multisets, and the order of rows that have one.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, SecondsFormat, Utc};
use headwater_engine::sim::Header;
use serde_json::{Map, Value};

use super::arrival::{Comparison, Dependence};
use super::files::Case;
use super::forms::{Forms, Twins};
use super::line::{Expected, same_bytes, same_key, shown_headers, shown_key};
use super::outcome::{Outcome, Row};
use crate::style::{bad, dim, good, strong};

/// Most differences shown per output.
const SHOWN: usize = 6;
/// Most members shown of a row that is nearly right.
const MEMBERS: usize = 8;
/// Longer rows are cut where their differing members are listed.
const LONG: usize = 160;

/// What stands for any value in a line.
pub const ANY: &str = "<any>";

/// The source partition whose rows an expected line stands among, by line: rows of one partition and key have an order.
pub type Classes = Vec<Option<String>>;

/// What differs in a run of the reference schedule, ready to be shown; empty if nothing does.
pub fn differences(case: &Case, outcome: &Outcome) -> Vec<String> {
    each(&case.expected.keys().chain(outcome.outputs.keys()).collect(), outcome, |output| {
        let (expected, rows) = (expected_of(case, output), rows_of(outcome, output));
        compare(expected, &rows, &classes(expected, &rows))
    })
}

/// What differs in a run of any other schedule. `reference`: what came out under the reference schedule.
pub fn differences_under(case: &Case, dependence: &Dependence, reference: &Outcome, outcome: &Outcome) -> Vec<String> {
    let outputs = case.expected.keys().chain(outcome.outputs.keys()).chain(reference.outputs.keys()).collect();
    each(&outputs, outcome, |output| {
        let rows = rows_of(outcome, output);
        match dependence.comparison(output) {
            Comparison::Rows => {
                let closed = |value: &Value| !value.get("step").and_then(Value::as_str).is_some_and(|step| dependence.is_open(step));
                let letters = output.ends_with(".dlq");
                let all = expected_of(case, output);
                let classes = match dependence.is_ordered(output) {
                    true => classes(all, &rows_of(reference, output)),
                    false => vec![None; all.len()],
                };
                let kept = all.iter().zip(classes).filter(|(expected, _)| !letters || closed(&expected.value));
                let (expected, classes): (Vec<Expected>, Classes) = kept.map(|(expected, class)| (expected.clone(), class)).unzip();
                let rows: Vec<Row> = rows.into_iter().filter(|row| !letters || closed(&row.value)).collect();
                compare(&expected, &rows, &classes)
            }
            Comparison::LastOf(by) => compare(&last(&by, &rows_of(reference, output)), &last_rows(&by, rows), &Vec::new()),
            Comparison::LastOfKeys => {
                let reference = as_expected(&there(rows_of(reference, output)));
                compare(&reference, &there(rows), &Vec::new())
            }
            Comparison::Open => Vec::new(),
        }
    })
}

/// Two runs gave the same answer, as far as it doesn't depend on arrival.
pub fn same(dependence: &Dependence, a: &Outcome, b: &Outcome) -> bool {
    let fixed = |name: &str| dependence.comparison(name) == Comparison::Rows;
    let outputs: BTreeSet<&String> = a.outputs.keys().chain(b.outputs.keys()).collect();
    let equal = |name: &&String| !fixed(name) || compare(&as_expected(&rows_of(a, name)), &rows_of(b, name), &Vec::new()).is_empty();
    a.errors == b.errors && outputs.iter().all(equal)
}

fn each(outputs: &BTreeSet<&String>, outcome: &Outcome, compare: impl Fn(&str) -> Vec<String>) -> Vec<String> {
    let mut found = outcome.errors.clone();
    for output in outputs {
        let lines = compare(output);
        if !lines.is_empty() {
            found.push(format!("    {}", strong(&Case::file(output))));
            found.extend(lines);
        }
    }
    found
}

fn expected_of<'a>(case: &'a Case, output: &str) -> &'a [Expected] {
    case.expected.get(output).map_or(&[], Vec::as_slice)
}

fn rows_of(outcome: &Outcome, output: &str) -> Vec<Row> {
    outcome.outputs.get(output).cloned().unwrap_or_default()
}

/// The last row of each group.
fn last_rows(by: &[String], rows: Vec<Row>) -> Vec<Row> {
    let mut last = BTreeMap::new();
    for row in rows {
        let group: Vec<String> = by.iter().map(|name| row.value.get(name).unwrap_or(&Value::Null).to_string()).collect();
        last.insert(group, row);
    }
    last.into_values().collect()
}

/// The rows that are there in the end, by record key.
fn there(rows: Vec<Row>) -> Vec<Row> {
    let last: BTreeMap<Option<Vec<u8>>, Row> = rows.into_iter().map(|row| (row.key.clone(), row)).collect();
    last.into_values().filter(|row| !row.value.is_null()).collect()
}

fn last(by: &[String], rows: &[Row]) -> Vec<Expected> {
    as_expected(&last_rows(by, rows.to_vec()))
}

fn as_expected(rows: &[Row]) -> Vec<Expected> {
    let expected = |row: &Row| Expected { line: row.order + 1, key: Some(row.key.clone()), headers: None, value: row.value.clone() };
    rows.iter().map(expected).collect()
}

/// Which rows stand for which lines, and which lines have none.
fn matched<'a>(expected: &'a [Expected], rows: &'a [Row]) -> (Vec<(usize, &'a Row)>, Vec<&'a Expected>, Vec<&'a Row>) {
    let mut left = Forms::new(rows);
    let (mut pairs, mut missing) = (Vec::new(), Vec::new());
    // Exact lines first: every `"<any>"` takes what is left.
    let mut lines: Vec<(usize, &Expected)> = expected.iter().enumerate().collect();
    lines.sort_by_key(|(_, line)| line.value.to_string().matches("\"<any>\"").count());
    for (at, line) in lines {
        match left.take(line) {
            Some(row) => pairs.push((at, row)),
            None => missing.push(line),
        }
    }
    (pairs, missing, left.left())
}

/// Finds out from the rows of the reference schedule which source partition each line belongs to. Equal rows of different
/// partitions can't be distinguished: they belong to none.
pub fn classes(expected: &[Expected], reference: &[Row]) -> Classes {
    let (mut classes, twins) = (vec![None; expected.len()], Twins::new(reference));
    for (line, row) in matched(expected, reference).0 {
        if let (false, Some(class)) = (twins.has(row), classes.get_mut(line)) {
            class.clone_from(&row.source);
        }
    }
    classes
}

/// The lines to be shown for an output; none if it is as expected.
pub fn compare(expected: &[Expected], rows: &[Row], classes: &Classes) -> Vec<String> {
    let (pairs, missing, mut left) = matched(expected, rows);
    let with = Members { key: expected.iter().any(|e| e.key.is_some()), headers: expected.iter().any(|e| e.headers.is_some()) };
    let mut found: Vec<Vec<String>> = Vec::new();
    for line in missing {
        let near = left.iter().enumerate().map(|(at, row)| (likeness(&line.value, &row.value), at)).max();
        match near.filter(|(likeness, _)| *likeness > 0) {
            Some((_, at)) => found.push(changed(line, left.remove(at), with)),
            None => found.push(vec![format!("      {} {}", bad("-"), with.line(line, usize::MAX))]),
        }
    }
    found.extend(left.iter().map(|row| vec![format!("      {} {}", good("+"), with.row(row, usize::MAX))]));
    if found.is_empty() {
        found = disorder(expected, &pairs, classes);
    }
    let more = found.len().saturating_sub(SHOWN);
    let mut lines: Vec<String> = found.into_iter().take(SHOWN).flatten().collect();
    if more > 0 {
        lines.push(dim(&format!("      and {more} more")));
    }
    lines
}

/// Rows that are there, but not in the order of the lines.
fn disorder(expected: &[Expected], pairs: &[(usize, &Row)], classes: &Classes) -> Vec<Vec<String>> {
    let mut together: BTreeMap<(&str, Option<&[u8]>), Vec<(usize, usize)>> = BTreeMap::new();
    for (at, row) in pairs {
        let (Some(Some(class)), Some(line)) = (classes.get(*at), expected.get(*at)) else { continue };
        // Dead letters of a step are in order whatever their keys, and carry their origin.
        let letter = row.source.as_ref().is_some_and(|source| source == class) && row.value.get("cause").is_some();
        let key = row.key.as_deref().filter(|_| !letter);
        if key.is_some() || letter {
            together.entry((class, key)).or_default().push((row.order, line.line));
        }
    }
    let mut found = Vec::new();
    for ((class, key), mut lines) in together {
        lines.sort_unstable();
        if !lines.is_sorted_by_key(|(_, line)| *line) {
            let of = key.map_or_else(|| format!("dead letters from {class}"), |key| format!("rows of key {}", text(key)));
            let came: Vec<String> = lines.iter().map(|(_, line)| line.to_string()).collect();
            let help = if key.is_some() { " (`@key` distinguishes equal values)" } else { "" };
            found.push(vec![format!("      the {of} are in a different order: lines {}{help}", came.join(", "))]);
        }
    }
    found
}

fn text(key: &[u8]) -> String {
    match shown_key(key) {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

/// Which members beside the value the lines of an output tell of.
#[derive(Clone, Copy)]
struct Members {
    key: bool,
    headers: bool,
}

impl Members {
    fn show(self, key: Option<&Option<Vec<u8>>>, headers: Option<&[Header]>, value: &Value, most: usize) -> String {
        let mut members = Map::new();
        if let Some(key) = key.filter(|_| self.key) {
            members.insert("@key".into(), key.as_deref().map_or(Value::Null, shown_key));
        }
        if let Some(headers) = headers.filter(|_| self.headers) {
            members.insert("@headers".into(), shown_headers(headers));
        }
        let whole = match members.is_empty() {
            true => value.to_string(),
            false => {
                members.insert("@value".into(), value.clone());
                Value::Object(members).to_string()
            }
        };
        match whole.char_indices().nth(most) {
            Some((cut, _)) => format!("{} ..", whole.get(..cut).unwrap_or_default()),
            None => whole,
        }
    }

    fn line(self, line: &Expected, most: usize) -> String {
        let text = self.show(line.key.as_ref(), line.headers.as_deref(), &line.value, most);
        format!("{text} {}", dim(&format!("(line {})", line.line)))
    }

    fn row(self, row: &Row, most: usize) -> String {
        self.show(Some(&row.key), Some(&row.headers), &row.value, most)
    }
}

/// A row that is there, but not as expected.
fn changed(line: &Expected, row: &Row, with: Members) -> Vec<String> {
    let mut members = Vec::new();
    if let Some(key) = line.key.as_ref().filter(|key| !same_key(key, &row.key)) {
        let shown = |key: &Option<Vec<u8>>| key.as_deref().map_or(Value::Null, shown_key);
        members.push(("@key".to_string(), Some(shown(key)), Some(shown(&row.key))));
    }
    if let Some(headers) = line.headers.as_ref().filter(|headers| !same_headers(headers, &row.headers)) {
        members.push(("@headers".to_string(), Some(shown_headers(headers)), Some(shown_headers(&row.headers))));
    }
    differing("", Some(&line.value), Some(&row.value), &mut members);
    let mut lines = vec![format!("      {} {}", bad("-"), with.line(line, LONG)), format!("      {} {}", good("+"), with.row(row, LONG))];
    let text = |value: &Option<Value>| value.as_ref().map_or("nothing".to_string(), Value::to_string);
    for (path, wanted, got) in members.iter().take(MEMBERS) {
        lines.push(format!("        {path}: expected {}, found {}", bad(&text(wanted)), good(&text(got))));
    }
    if members.len() > MEMBERS {
        lines.push(dim(&format!("        and {} more fields", members.len() - MEMBERS)));
    }
    lines
}

/// A member by its path: what was expected and what was found.
type Member = (String, Option<Value>, Option<Value>);

/// The innermost members that differ.
fn differing(path: &str, expected: Option<&Value>, found: Option<&Value>, out: &mut Vec<Member>) {
    if let (Some(a), Some(b)) = (expected, found)
        && fits(a, b)
    {
        return;
    }
    match (expected, found) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for name in names {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                if a.contains_key(name) || b.contains_key(name) {
                    differing(&path, a.get(name), b.get(name), out);
                }
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            for at in 0..a.len().max(b.len()) {
                differing(&format!("{path}[{at}]"), a.get(at), b.get(at), out);
            }
        }
        (expected, found) => out.push((path.to_string(), expected.cloned(), found.cloned())),
    }
}

/// How many members of two rows agree; none unless at least half of them do.
fn likeness(a: &Value, b: &Value) -> usize {
    let (Value::Object(a), Value::Object(b)) = (a, b) else { return usize::from(fits(a, b)) };
    let equal = a.iter().filter(|(name, value)| b.get(*name).is_some_and(|other| fits(value, other))).count();
    if equal * 2 >= a.len().max(b.len()) { equal } else { 0 }
}

/// Whether a row is what a line says.
pub fn fits_row(expected: &Expected, row: &Row) -> bool {
    expected.key.as_ref().is_none_or(|key| same_key(key, &row.key))
        && expected.headers.as_ref().is_none_or(|headers| same_headers(headers, &row.headers))
        && fits(&expected.value, &row.value)
}

/// The same headers; the order counts among those of one name only.
fn same_headers(a: &[Header], b: &[Header]) -> bool {
    let sorted = |headers: &[Header]| {
        let mut headers = headers.to_vec();
        headers.sort_by(|(a, _), (b, _)| a.cmp(b));
        headers
    };
    sorted(a) == sorted(b)
}

/// Equal, where `"<any>"` stands for anything: numbers by value and with every digit, times that were printed as an
/// instant, however the same instant is written.
pub fn fits(expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::String(any), _) if any == ANY => true,
        (expected, found) if same_bytes(expected, found) => true,
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
pub fn decimal(text: &str) -> (bool, String, i64) {
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

/// A text as the instant that it writes, if it does.
pub fn instant(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc())
}

/// Whether a text is what a column of time prints for an instant.
fn printed(instant: DateTime<Utc>, text: &str) -> bool {
    let formats = [SecondsFormat::Millis, SecondsFormat::Micros, SecondsFormat::Nanos];
    // A format truncates digits.
    formats.iter().any(|format| instant.to_rfc3339_opts(*format, true) == text) && self::instant(text) == Some(instant)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    fn row(order: usize, key: &str, value: Value) -> Row {
        Row { key: Some(key.as_bytes().to_vec()), value, headers: Vec::new(), order, source: Some("t-0".into()) }
    }

    fn expected(lines: &[Value]) -> Vec<Expected> {
        let read = |(n, line): (usize, &Value)| Expected::read(Path::new("out.t.jsonl"), n, &line.to_string()).unwrap();
        lines.iter().enumerate().map(read).collect()
    }

    fn compare(lines: &[Value], rows: &[Row]) -> Vec<String> {
        let expected = expected(lines);
        let classes = classes(&expected, rows);
        super::compare(&expected, rows, &classes).iter().map(|l| anstream::adapter::strip_str(l).to_string()).collect()
    }

    #[test]
    fn rows_are_a_multiset_and_in_order_per_key() {
        let rows = [row(0, "a", json!({"n": 1})), row(1, "b", json!({"n": 2})), row(2, "a", json!({"n": 3}))];
        assert!(compare(&[json!({"n": 2}), json!({"n": 1}), json!({"n": "<any>"})], &rows).is_empty());
        let order = compare(&[json!({"n": 3}), json!({"n": 2}), json!({"n": 1})], &rows);
        assert!(order.len() == 1 && order[0].contains("key a are in a different order: lines 2, 0"), "{order:?}");
        let other = compare(&[json!({"n": 1}), json!({"n": 2}), json!({"n": 2})], &rows);
        assert!(other.iter().any(|l| l.contains("- {\"n\":2}")) && other.iter().any(|l| l.contains("+ {\"n\":3}")), "{other:?}");
        assert_eq!(compare(&[], &rows).len(), 3, "nothing may come out that no file tells of");
    }

    #[test]
    fn only_rows_of_one_source_partition_have_an_order() {
        let lines = [json!({"n": 1}), json!({"n": 2})];
        let mut rows = [row(0, "a", json!({"n": 2})), row(1, "a", json!({"n": 1}))];
        assert_eq!(compare(&lines, &rows).len(), 1);
        rows[1].source = Some("t-1".into());
        assert!(compare(&lines, &rows).is_empty());
    }

    #[test]
    fn letters_of_a_step_are_in_order() {
        let letter = |order: usize, step: &str, n: u32| {
            let source = Some(format!("t 0 {step}"));
            Row { source, ..row(order, &n.to_string(), json!({"cause": "c", "step": step, "value": n})) }
        };
        let lines = [1, 2, 3].map(|n| json!({"cause": "<any>", "step": "<any>", "value": n}));
        assert!(compare(&lines, &[letter(0, "b", 2), letter(1, "a", 1), letter(2, "a", 3)]).is_empty());
        let order = compare(&lines, &[letter(0, "a", 2), letter(1, "a", 1), letter(2, "a", 3)]);
        assert!(order.len() == 1 && order[0].contains("letters from t 0 a are in a different order: lines 1, 0, 2"), "{order:?}");
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
    fn a_line_may_tell_the_key_and_headers() {
        let mut rows = [row(0, "a", json!({"n": 1})), row(1, "7", json!({"n": 2}))];
        rows[0].headers = vec![(b"x".to_vec(), Some(vec![255])), (b"n".to_vec(), None), (b"x".to_vec(), Some(b"1".to_vec()))];
        assert!(compare(&[json!({"@key": "a", "@value": {"n": 1}}), json!({"@key": 7, "@value": {"n": 2}})], &rows).is_empty());
        assert!(!compare(&[json!({"@key": "b", "@value": {"n": 1}}), json!({"@key": "<any>", "@value": {"n": 2}})], &rows).is_empty());
        assert!(!compare(&[json!({"@key": null, "@value": {"n": 1}}), json!({"@value": {"n": 2}})], &rows).is_empty());
        let headers = json!({"@headers": {"n": null, "x": [{"@base64": "/w=="}, "1"]}, "@value": {"n": 1}});
        assert!(compare(&[headers, json!({"@headers": {}, "@value": {"n": 2}})], &rows).is_empty());
        let other = compare(&[json!({"@headers": {"n": "0"}, "@value": {"n": 1}}), json!({"n": 2})], &rows);
        assert!(other[2].contains("@headers: expected [[\"n\",\"0\"]], found"), "{other:?}");
    }

    #[test]
    fn bytes_are_compared_by_content() {
        let rows = [row(0, "a", json!({"@base64": "AAH/"})), row(1, "a", json!("text"))];
        assert!(compare(&[json!({"@value": {"@base64": "AAH/"}}), json!({"@value": {"@base64": "dGV4dA=="}})], &rows).is_empty());
        assert!(!compare(&[json!({"@base64": "AAH+"}), json!("text")], &rows).is_empty());
    }

    #[test]
    fn a_row_that_is_nearly_right_is_told_by_its_innermost_members() {
        let rows = [row(0, "a", json!({"id": 1, "n": 2, "x": true, "l": [{"a": 1, "b": 2}]}))];
        let found = compare(&[json!({"id": 1, "n": 3, "x": true, "l": [{"a": 1, "b": 3}]})], &rows);
        assert_eq!(found.len(), 4, "{found:?}");
        assert_eq!(found[2].trim(), "l[0].b: expected 3, found 2");
        assert_eq!(found[3].trim(), "n: expected 3, found 2");
    }

    #[test]
    fn updates_are_compared_by_the_last_of_each_group() {
        let by = ["g".to_string()];
        let reference = [row(0, "a", json!({"g": 1, "n": 1})), row(1, "a", json!({"g": 2, "n": 5})), row(2, "a", json!({"g": 1, "n": 3}))];
        let other = [row(0, "a", json!({"g": 1, "n": 2})), row(1, "a", json!({"g": 1, "n": 3})), row(2, "a", json!({"g": 2, "n": 5}))];
        assert!(super::compare(&last(&by, &reference), &last_rows(&by, other.to_vec()), &Vec::new()).is_empty());
        let wrong = vec![row(0, "a", json!({"g": 1, "n": 4})), row(1, "a", json!({"g": 2, "n": 5}))];
        assert_eq!(super::compare(&last(&by, &reference), &last_rows(&by, wrong), &Vec::new()).len(), 3);
    }
}
