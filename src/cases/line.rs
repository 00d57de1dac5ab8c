//! The lines of a case's files: records to be written, and rows that are expected.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use headwater_engine::sim::Header;
use operator_core::{Interval, Millis};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

/// Members of an input line that is more than a value.
const INPUT: [&str; 11] =
    ["@topic", "@partition", "@key", "@value", "@raw", "@type", "@schema", "@headers", "@timestamp", "@at", "@advance"];
/// Members of an expected line that is more than a value.
const EXPECTED: [&str; 3] = ["@key", "@headers", "@value"];
/// How bytes that are not text are written.
pub const BASE64: &str = "@base64";

/// A line of an input file.
#[derive(Clone, Debug)]
pub struct Line {
    /// Where it is: file and line.
    pub place: String,
    /// As it was written.
    text: String,
    /// Its topic, in `in.jsonl`.
    pub topic: Option<String>,
    /// Not before so much time has passed since the beginning of the case.
    pub at: Option<Millis>,
    pub what: What,
}

#[derive(Clone, Debug)]
pub enum What {
    Record(Box<Record>),
    /// Time passes.
    Advance(Millis),
}

/// A record to be written.
#[derive(Clone, Debug)]
pub struct Record {
    /// `None`: that of the source or table. `Some(None)`: no key.
    pub key: Option<Option<Vec<u8>>>,
    /// The key is an object: a record, where keys are records.
    pub key_is_record: bool,
    pub value: Content,
    /// One of the source's `types`.
    pub of_type: Option<String>,
    pub schema: Option<SchemaName>,
    pub headers: Vec<Header>,
    pub timestamp: Option<Millis>,
    pub partition: Option<i32>,
}

/// The value of an input record.
#[derive(Clone, Debug)]
pub enum Content {
    Json(Value),
    /// Bytes as they are: what no encoder would write.
    Raw(Vec<u8>),
    Nothing,
}

/// The writer schema of an Avro record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchemaName {
    /// A version of a subject (without one: that of the topic) in the folder of schemas.
    Version(Option<String>, u32),
    /// An id, whether the registry knows it or not.
    Id(u32),
}

/// An expected row.
#[derive(Clone, Debug)]
pub struct Expected {
    pub line: usize,
    /// `None`: any.
    pub key: Option<Option<Vec<u8>>>,
    /// `None`: any.
    pub headers: Option<Vec<Header>>,
    pub value: Value,
}

/// What is wrong with a line, and with which of its members.
pub struct Wrong(pub &'static str, pub String);

impl Line {
    /// # Errors
    /// Where it is wrong and why.
    pub fn read(path: &Path, number: usize, text: &str) -> Result<Line, String> {
        let mut line =
            Line { place: format!("{}:{number}", path.display()), text: text.to_string(), topic: None, at: None, what: What::Advance(0) };
        let value: Value = serde_json::from_str(text).map_err(|e| syntax(&line.place, &e))?;
        line.fill(&value).map_err(|wrong| line.wrong(&wrong))?;
        Ok(line)
    }

    /// The message of something wrong in this line.
    pub fn wrong(&self, Wrong(member, what): &Wrong) -> String {
        format!("{}:{}: {what}", self.place, column(&self.text, member))
    }

    fn fill(&mut self, value: &Value) -> Result<(), Wrong> {
        let members = match value.as_object().filter(|members| members.keys().any(|key| key.starts_with('@'))) {
            Some(members) => members.clone(),
            None => Map::from_iter([("@value".to_string(), value.clone())]),
        };
        if let Some(unknown) = members.keys().find(|key| !INPUT.contains(&key.as_str())) {
            let known = INPUT.join(", ");
            let help = "to use a value with a member that starts with @, write {\"@value\": ..}";
            return Err(Wrong("", format!("unknown member `{unknown}`: use {known}; {help}")));
        }
        self.topic = members.get("@topic").map(|topic| text(topic, "@topic")).transpose()?;
        self.at = members.get("@at").map(|at| span(at, "@at")).transpose()?;
        if let Some(span_of) = members.get("@advance") {
            if members.len() > 1 {
                return Err(Wrong("@advance", "`@advance` must be the only member of its line".into()));
            }
            self.what = What::Advance(span(span_of, "@advance")?);
            return Ok(());
        }
        self.what = What::Record(Box::new(record(&members, &self.text)?));
        Ok(())
    }
}

fn record(members: &Map<String, Value>, line: &str) -> Result<Record, Wrong> {
    let value = match (members.get("@value"), members.get("@raw")) {
        (Some(Value::Null), None) => Content::Nothing,
        (Some(value), None) if base64(value).is_some() => Content::Raw(bytes(value, "@value")?),
        (Some(value), None) => Content::Json(value.clone()),
        (None, Some(raw)) => Content::Raw(bytes(raw, "@raw")?),
        _ => return Err(Wrong("@value", "use either `@value` or `@raw`".into())),
    };
    let number = |name: &'static str| members.get(name).map(|n| n.as_i64().ok_or(name)).transpose();
    let partition = number("@partition").map_err(|name| Wrong(name, "`@partition` must be a whole number from 0".into()))?;
    let timestamp = number("@timestamp").map_err(|name| Wrong(name, "`@timestamp` must be milliseconds since 1970".into()))?;
    Ok(Record {
        key: key(members, line)?,
        key_is_record: members.get("@key").is_some_and(|key| key.is_object() && base64(key).is_none()),
        value,
        of_type: members.get("@type").map(|of| text(of, "@type")).transpose()?,
        schema: members.get("@schema").map(schema).transpose()?,
        headers: members.get("@headers").map_or(Ok(Vec::new()), headers)?,
        timestamp,
        partition: partition.map(|p| i32::try_from(p).map_err(|_| Wrong("@partition", "there is no such partition".into()))).transpose()?,
    })
}

fn schema(value: &Value) -> Result<SchemaName, Wrong> {
    let wrong = || {
        let help = "`@schema` is a version such as \"v2\", a subject with a version such as \"orders-OrderPlaced/v2\", or an id such as 7";
        Wrong("@schema", help.into())
    };
    if let Some(id) = value.as_u64() {
        return u32::try_from(id).map(SchemaName::Id).map_err(|_| wrong());
    }
    let name = value.as_str().ok_or_else(wrong)?;
    let (subject, version) = name.rsplit_once('/').map_or((None, name), |(subject, version)| (Some(subject.to_string()), version));
    let version = version.strip_prefix('v').and_then(|version| version.parse().ok()).ok_or_else(wrong)?;
    Ok(SchemaName::Version(subject, version))
}

fn text(value: &Value, member: &'static str) -> Result<String, Wrong> {
    value.as_str().map(str::to_string).ok_or_else(|| Wrong(member, format!("`{member}` must be a text, not {value}")))
}

fn span(value: &Value, member: &'static str) -> Result<Millis, Wrong> {
    let duration = || Wrong(member, format!("`{member}` must be a quoted duration such as \"10m\", not {value}"));
    let span = value.as_str().ok_or_else(duration)?.parse::<Interval>();
    span.map(Interval::millis).map_err(|e| Wrong(member, e.to_string()))
}

/// The key of a line: bytes as it is written there. A text is its characters, `{"@base64": ..}` any bytes, everything else
/// (numbers, objects) what stands in the file.
fn key(members: &Map<String, Value>, line: &str) -> Result<Option<Option<Vec<u8>>>, Wrong> {
    Ok(match members.get("@key") {
        None => None,
        Some(Value::Null) => Some(None),
        Some(key) if key.is_string() || base64(key).is_some() => Some(Some(bytes(key, "@key")?)),
        Some(_) => {
            let written: BTreeMap<String, Box<RawValue>> = serde_json::from_str(line).map_err(|e| Wrong("@key", e.to_string()))?;
            written.get("@key").map(|key| Some(key.get().as_bytes().to_vec()))
        }
    })
}

/// The content of `{"@base64": ..}`.
fn base64(value: &Value) -> Option<&Value> {
    value.as_object().filter(|members| members.len() == 1)?.get(BASE64)
}

/// The bytes of a text or of `{"@base64": ..}`.
fn bytes(value: &Value, member: &'static str) -> Result<Vec<u8>, Wrong> {
    let wrong = || Wrong(member, format!("`{member}` must be a text, or bytes as {{\"@base64\": \"..\"}}"));
    match (value, base64(value).map(Value::as_str)) {
        (Value::String(text), _) => Ok(text.clone().into_bytes()),
        (_, Some(Some(text))) => STANDARD.decode(text).map_err(|e| Wrong(member, format!("`{member}`: invalid base64: {e}"))),
        _ => Err(wrong()),
    }
}

/// Headers: `{"name": "text", "other": null, "twice": ["a", "b"]}`, or pairs `[["name", "text"], ..]` where their order counts.
fn headers(value: &Value) -> Result<Vec<Header>, Wrong> {
    let wrong = || {
        Wrong(
            "@headers",
            "`@headers` is {\"name\": \"text\"} or [[\"name\", \"text\"], ..]; a value is a text, {\"@base64\": ..} or null".into(),
        )
    };
    let content = |value: &Value| match value {
        Value::Null => Ok(None),
        value => bytes(value, "@headers").map(Some),
    };
    match value {
        Value::Object(members) => {
            let mut all = Vec::new();
            for (name, value) in members {
                let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
                for value in values {
                    all.push((name.clone().into_bytes(), content(value)?));
                }
            }
            Ok(all)
        }
        Value::Array(pairs) => {
            let pair = |pair: &Value| match pair.as_array().map(Vec::as_slice) {
                Some([name, value]) => Ok((bytes(name, "@headers")?, content(value)?)),
                _ => Err(wrong()),
            };
            pairs.iter().map(pair).collect()
        }
        _ => Err(wrong()),
    }
}

impl Expected {
    /// # Errors
    /// Where it is wrong and why.
    pub fn read(path: &Path, number: usize, text: &str) -> Result<Expected, String> {
        let place = format!("{}:{number}", path.display());
        let value: Value = serde_json::from_str(text).map_err(|e| syntax(&place, &e))?;
        let special = value.as_object().filter(|members| members.keys().any(|key| EXPECTED.contains(&key.as_str())));
        let Some(members) = special else { return Ok(Expected { line: number, key: None, headers: None, value }) };
        let wrong = |Wrong(member, what): Wrong| format!("{place}:{}: {what}", column(text, member));
        if let Some(unknown) = members.keys().find(|key| !EXPECTED.contains(&key.as_str())) {
            return Err(wrong(Wrong("", format!("unknown member `{unknown}`: use {}", EXPECTED.join(", ")))));
        }
        let Some(value) = members.get("@value") else {
            return Err(wrong(Wrong("@key", "`@value` is missing".into())));
        };
        let any = |name: &str| members.get(name).is_some_and(|value| value == "<any>");
        let key = if any("@key") { None } else { key(members, text).map_err(wrong)? };
        let headers = members.get("@headers").filter(|_| !any("@headers")).map(headers).transpose().map_err(wrong)?;
        Ok(Expected { line: number, key, headers, value: value.clone() })
    }
}

fn syntax(place: &str, e: &serde_json::Error) -> String {
    // Its own place is that within the line.
    let text = e.to_string();
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    format!("{place}:{}: {what}", e.column().max(1))
}

/// The column of a member, from 1.
fn column(line: &str, member: &str) -> usize {
    let at = line.find(&format!("\"{member}\"")).unwrap_or(0);
    line.get(..at).map_or(1, |before| before.chars().count() + 1)
}

/// Bytes as a case shows them: text, or base64 where they are not UTF-8.
pub fn shown(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::String(text.to_string()),
        Err(_) => json!({ BASE64: STANDARD.encode(bytes) }),
    }
}

/// A key as a case shows it: a record as JSON.
pub fn shown_key(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).ok().filter(Value::is_object).unwrap_or_else(|| shown(bytes))
}

/// The same bytes, or the same record in JSON.
pub fn same_key(expected: &Option<Vec<u8>>, found: &Option<Vec<u8>>) -> bool {
    let record = |key: &Option<Vec<u8>>| key.as_deref().map(shown_key).filter(Value::is_object);
    expected == found || record(expected).is_some_and(|expected| record(found) == Some(expected))
}

/// Headers as a case shows them.
pub fn shown_headers(headers: &[Header]) -> Value {
    let value = |value: &Option<Vec<u8>>| value.as_deref().map_or(Value::Null, shown);
    Value::Array(headers.iter().map(|(name, content)| json!([shown(name), value(content)])).collect())
}

/// `expected` is `{"@base64": ..}` of the bytes that `found` shows.
pub fn same_bytes(expected: &Value, found: &Value) -> bool {
    let of = |value: &Value| bytes(value, "").ok();
    base64(expected).is_some() && of(expected).is_some_and(|expected| of(found).is_some_and(|found| expected == found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Line, String> {
        Line::read(Path::new("in.t.jsonl"), 3, text)
    }

    fn record(text: &str) -> Record {
        match read(text).unwrap_or_else(|e| panic!("{e}")).what {
            What::Record(record) => *record,
            What::Advance(_) => panic!("a record"),
        }
    }

    #[test]
    fn keys_are_bytes_as_they_are_written() {
        let key = |text: &str| record(&format!("{{\"@key\": {text}, \"@value\": 1}}")).key.unwrap();
        assert_eq!(key("\"a\""), Some(b"a".to_vec()));
        assert_eq!(key("{\"b\": 1,\"a\":2.50}"), Some(b"{\"b\": 1,\"a\":2.50}".to_vec()));
        assert_eq!(key("1e2"), Some(b"1e2".to_vec()));
        assert_eq!(key("{\"@base64\": \"AAH/\"}"), Some(vec![0, 1, 255]));
        assert_eq!(key("null"), None);
        assert_eq!(record("{\"a\": 1}").key, None);
    }

    #[test]
    fn headers_repeat_are_null_and_bytes() {
        let headers = |text: &str| record(&format!("{{\"@headers\": {text}, \"@value\": 1}}")).headers;
        let expected: Vec<Header> = vec![(b"n".to_vec(), None), (b"x".to_vec(), Some(b"1".to_vec())), (b"x".to_vec(), Some(vec![255]))];
        assert_eq!(headers("{\"x\": [\"1\", {\"@base64\": \"/w==\"}], \"n\": null}"), expected);
        assert_eq!(headers("[[\"n\", null], [\"x\", \"1\"], [\"x\", {\"@base64\": \"/w==\"}]]"), expected);
        assert_eq!(shown_headers(&expected).to_string(), "[[\"n\",null],[\"x\",\"1\"],[\"x\",{\"@base64\":\"/w==\"}]]");
    }

    #[test]
    fn schemas_are_versions_or_ids() {
        let schema = |text: &str| record(&format!("{{\"@schema\": {text}, \"@value\": 1}}")).schema.unwrap();
        assert_eq!(schema("\"v2\""), SchemaName::Version(None, 2));
        assert_eq!(schema("\"a-b/v1\""), SchemaName::Version(Some("a-b".into()), 1));
        assert_eq!(schema("7"), SchemaName::Id(7));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_column() {
        let said = |text: &str| read(text).err().unwrap_or_default();
        assert!(said("{\"a\":}").starts_with("in.t.jsonl:3:6: expected value"), "{}", said("{\"a\":}"));
        assert!(said("{\"@value\": 1, \"@timestamp\": \"x\"}").starts_with("in.t.jsonl:3:15: `@timestamp`"));
        assert!(said("{\"@raw\": {\"@base64\": \"?\"}}").starts_with("in.t.jsonl:3:2: `@raw`: invalid base64"));
        assert!(said("{\"@kye\": 1}").contains("unknown member `@kye`: use @topic"));
        let expected = Expected::read(Path::new("out.t.jsonl"), 1, "{\"@key\": 1}").err().unwrap();
        assert!(expected.starts_with("out.t.jsonl:1:2: `@value` is missing"), "{expected}");
    }
}
