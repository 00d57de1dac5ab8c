//! Rows by a form that equal ones have in common, so that each line of a case is compared with few of thousands of rows.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

use serde_json::Value;

use super::compare::{ANY, decimal, fits_row, instant};
use super::line::{BASE64, Expected};
use super::outcome::Row;

/// Rows that are compared with lines, each of which takes one.
pub struct Forms<'a> {
    rows: Vec<Option<&'a Row>>,
    /// The rows of each form, in order.
    by_form: HashMap<String, Vec<usize>>,
}

impl<'a> Forms<'a> {
    pub fn new(rows: &'a [Row]) -> Forms<'a> {
        let mut by_form: HashMap<String, Vec<usize>> = HashMap::new();
        for (place, row) in rows.iter().enumerate() {
            by_form.entry(form(&row.value)).or_default().push(place);
        }
        Forms { rows: rows.iter().map(Some).collect(), by_form }
    }

    /// The first row left that is what the line says: it is taken.
    pub fn take(&mut self, line: &Expected) -> Option<&'a Row> {
        let rows = &self.rows;
        let fits = |place: &usize| rows.get(*place).copied().flatten().is_some_and(|row| fits_row(line, row));
        let place = match is_exact(&line.value) {
            false => (0..rows.len()).find(fits)?,
            true => {
                let places = self.by_form.get_mut(&form(&line.value))?;
                places.remove(places.iter().position(fits)?)
            }
        };
        self.rows.get_mut(place)?.take()
    }

    /// The rows that no line took.
    pub fn left(self) -> Vec<&'a Row> {
        self.rows.into_iter().flatten().collect()
    }
}

/// Whether another row of the form has the key and the value of this one, and comes from another source partition.
pub struct Twins<'a>(HashMap<String, Vec<&'a Row>>);

impl<'a> Twins<'a> {
    pub fn new(rows: &'a [Row]) -> Twins<'a> {
        let mut of: HashMap<String, Vec<&Row>> = HashMap::new();
        rows.iter().for_each(|row| of.entry(form(&row.value)).or_default().push(row));
        Twins(of)
    }

    pub fn has(&self, row: &Row) -> bool {
        let twin = |other: &&Row| other.source != row.source && other.key == row.key && other.value == row.value;
        self.0.get(&form(&row.value)).is_some_and(|rows| rows.iter().any(twin))
    }
}

/// The line says each value: nothing stands for several.
fn is_exact(value: &Value) -> bool {
    match value {
        Value::String(text) => text != ANY,
        Value::Array(items) => items.iter().all(is_exact),
        Value::Object(members) => members.iter().all(|(name, value)| name != BASE64 && is_exact(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
    }
}

/// What values have in common that [`fits`](super::compare::fits) takes for equal: some that it does not have it, too.
fn form(value: &Value) -> String {
    let mut out = String::new();
    put(value, &mut out);
    out
}

fn put(value: &Value, out: &mut String) {
    // A text takes everything that is written to it.
    let _ = match value {
        Value::Null => write!(out, "null"),
        Value::Bool(value) => write!(out, "{value}"),
        Value::Number(number) => write!(out, "{:?}", decimal(&number.to_string())),
        Value::String(text) => match instant(text) {
            Some(instant) => write!(out, "{}.{}", instant.timestamp(), instant.timestamp_subsec_nanos()),
            None => write!(out, "{text:?}"),
        },
        Value::Array(items) => {
            items.iter().for_each(|item| {
                out.push('[');
                put(item, out);
            });
            write!(out, "]")
        }
        Value::Object(members) => {
            for (name, member) in members.iter().collect::<BTreeMap<_, _>>() {
                let _ = write!(out, "{{{name:?}:");
                put(member, out);
            }
            write!(out, "}}")
        }
    };
}

#[cfg(test)]
mod tests {
    use serde_json::{from_str, json};

    use super::super::compare::fits;
    use super::*;

    #[test]
    fn what_fits_has_the_form() {
        let read = |text: &str| from_str::<Value>(text).unwrap();
        let pairs = [
            ("1.0", "1.00"),
            ("100", "1e2"),
            ("-0", "0"),
            (r#""2026-06-01T12:00:00+02:00""#, r#""2026-06-01T10:00:00.000Z""#),
            (r#""2026-06-01T10:00:00Z""#, r#""2026-06-01T10:00:00.000000Z""#),
            (r#"{"a": [1, {"b": null}], "c": "x"}"#, r#"{"c": "x", "a": [1.0, {"b": null}]}"#),
        ];
        for (line, row) in pairs.map(|(line, row)| (read(line), read(row))) {
            assert!(fits(&line, &row) && form(&line) == form(&row), "{line} {row}");
        }
        let different = [json!([1, 2]), json!([[1], 2]), json!("1"), json!(1), json!({"a": 1}), json!({"a": "1"}), json!([]), json!({})];
        for (at, one) in different.iter().enumerate() {
            assert!(different.iter().skip(at + 1).all(|other| form(one) != form(other)), "{one}");
        }
    }

    #[test]
    fn a_line_takes_the_first_row_that_is_left() {
        let row = |order: usize, key: &str, n: i64| Row {
            key: Some(key.as_bytes().to_vec()),
            value: json!({ "n": n }),
            headers: Vec::new(),
            order,
            source: Some(format!("in-{order}")),
        };
        let line = |value: Value| Expected { line: 1, key: None, headers: None, value };
        let rows = [row(0, "a", 1), row(1, "b", 2), row(2, "a", 1), row(3, "c", 3)];
        let mut left = Forms::new(&rows);
        let mut taken = |value: Value| left.take(&line(value)).map(|row| row.order);
        assert_eq!(taken(json!({ "n": 1.0 })), Some(0));
        assert_eq!(taken(json!({ "n": "<any>" })), Some(1));
        assert_eq!([taken(json!({ "n": 2 })), taken(json!({ "n": 1 })), taken(json!({ "n": 1 }))], [None, Some(2), None]);
        assert_eq!(left.left().iter().map(|row| row.order).collect::<Vec<_>>(), [3]);
        let twins = Twins::new(&rows);
        assert!(twins.has(&rows[0]) && !twins.has(&rows[1]));
    }
}
