//! Change records of a database as Debezium writes them in JSON, with and without the `schema` and `payload` around them.

use std::borrow::Cow;

use headwater_formats::{Change, ChangedRow, Operation};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    op: Option<Cow<'a, str>>,
    #[serde(borrow)]
    before: Option<&'a RawValue>,
    #[serde(borrow)]
    after: Option<&'a RawValue>,
    ts_ms: Option<i64>,
}

/// A record or a key with its schema beside it.
#[derive(Deserialize)]
struct Wrapped<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    schema: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    payload: Option<&'a RawValue>,
}

/// Distinguishes `null` from a missing member.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Reads a record's value; `None` is a deletion that names no row: its key does.
///
/// # Errors
/// It is not a change of a row: no JSON, no `op`, or another kind of operation.
pub fn read<'a>(value: &'a [u8]) -> Result<Option<Change<'a>>, String> {
    let payload = unwrap(value)?;
    if payload == "null" {
        return Ok(None);
    }
    let envelope: Envelope<'a> = serde_json::from_str(payload).map_err(no_record)?;
    let operation = Operation::of(envelope.op.as_deref())?;
    let after = if operation == Operation::Delete { None } else { envelope.after };
    let row = |row: Option<&'a RawValue>| row.map(|row| ChangedRow::plain(row.get().as_bytes()));
    Ok(Some(Change { operation, before: row(envelope.before), after: row(after), at: envelope.ts_ms }))
}

/// Where it stops being one: what stands there may be personal data.
fn no_record(e: serde_json::Error) -> String {
    let why = if e.is_data() { "another type was expected" } else { "not valid JSON" };
    format!("not a Debezium change record: {why} before byte {}", e.column())
}

/// A JSON text without the `schema` and `payload` around it.
///
/// # Errors
/// It is no JSON in UTF-8.
pub fn unwrap(text: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(text).map_err(|e| e.to_string())?.trim();
    if !text.starts_with('{') {
        return Ok(text);
    }
    let wrapped: Wrapped<'_> = serde_json::from_str(text).map_err(no_record)?;
    // A row may have a column `payload`.
    Ok(wrapped.payload.filter(|_| wrapped.schema.is_some()).map_or(text, RawValue::get))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(value: &str) -> Change<'_> {
        read(value.as_bytes()).unwrap().unwrap()
    }

    fn row(text: &str) -> ChangedRow<'_> {
        ChangedRow::plain(text.as_bytes())
    }

    #[test]
    fn records_are_read_with_and_without_their_schema() {
        let plain = r#"{"op":"u","before":{"id":1},"after":{"id":2},"ts_ms":7,"source":{"lsn":1}}"#;
        let wrapped = format!(r#"{{"schema":{{"type":"struct"}},"payload":{plain}}}"#);
        let (before, after) = (Some(row(r#"{"id":1}"#)), Some(row(r#"{"id":2}"#)));
        let expected = Change { operation: Operation::Update, before, after, at: Some(7) };
        assert_eq!((change(plain), change(&wrapped)), (expected, expected));
        assert_eq!(unwrap(br#"{"schema":null,"payload":{"id":1}}"#), Ok(r#"{"id":1}"#));
        assert_eq!(unwrap(br#"{"payload":7}"#), Ok(r#"{"payload":7}"#));
        assert_eq!(unwrap(b" s1 "), Ok("s1"));
    }

    #[test]
    fn deletions_are_those_without_a_row_after() {
        assert_eq!(change(r#"{"op":"d","before":{"id":1},"after":null}"#).after, None);
        let nothing = Change { operation: Operation::Update, before: None, after: None, at: None };
        assert_eq!(change(r#"{"op":"u","before":null,"after":null}"#), nothing);
        assert_eq!(read(br#"{"schema":null,"payload":null}"#), Ok(None));
    }

    #[test]
    fn what_is_no_change_of_a_row_is_refused() {
        for (value, why) in [
            (r#"{"op":"t","before":null,"after":null}"#, "(truncate) is not supported"),
            (r#"{"op":"m","message":{}}"#, "not a change of a row"),
            (r#"{"id":1}"#, "no `op`"),
            (r#"{"op":1}"#, "another type was expected before byte"),
            (r#"{"op":"c","#, "not valid JSON"),
            ("7", "another type"),
            ("", "not valid JSON"),
        ] {
            let found = read(value.as_bytes()).unwrap_err();
            assert!(found.contains(why), "{value}: {found}");
        }
        assert!(read(&[0xff]).is_err());
    }
}
