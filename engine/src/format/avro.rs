//! Avro in the wire format of Confluent's registry: every writer version is resolved to the reader's schema.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use headwater_formats::{
    AvroDecoder, AvroEncoder, AvroReader, Decoder, Encoder, JsonDecoder, RowBuilder, arrow_to_avro, avro_record_name, avro_to_arrow,
};
use operator_core::Diagnostic;
use serde_json::Value;

use super::{Content, EventShape, Kind, Layout, Rows, Values, as_json, common, other_kind, registered, unusable};
use crate::notation::Notation;

pub(super) struct Avro;

impl Kind for Avro {
    fn name(&self) -> &'static str {
        "avro"
    }

    fn summary(&self) -> &'static str {
        "Avro in the Confluent wire format, every writer version resolved to the reader schema."
    }

    fn content(&self) -> Content {
        Content::Row
    }

    fn without_effect(&self, _: bool) -> (&'static [&'static str], &'static str) {
        (&["schema"], "the registry has the schema of Avro records")
    }

    fn is_registered(&self) -> bool {
        true
    }

    fn notation(&self, key: &[u8]) -> Notation {
        Notation::registered(key).unwrap_or(Notation::Bytes)
    }

    fn layout(&self, values: &Values<'_>) -> Result<Layout, Diagnostic> {
        let text = reader_schema(values, "", "json")?;
        let columns = avro_to_arrow(&text).map_err(|e| unusable(values.subject, e))?;
        Ok(Layout { columns, registered: Some(text.into()) })
    }

    fn decoder(&self, layout: &Layout, wanted: &SchemaRef) -> Result<(Box<dyn Decoder>, SchemaRef), String> {
        let text = layout.text()?;
        let columns = Arc::new(Schema::new(common(wanted.fields(), avro_to_arrow(text)?.fields())));
        Ok((Box::new(AvroDecoder::new(AvroReader::new(text, &columns)?)), columns))
    }

    fn record_name(&self, registered: &str) -> Result<String, String> {
        avro_record_name(registered)
    }

    fn private(&self, registered: &str) -> Vec<Vec<String>> {
        marked(registered)
    }

    fn check(&self, rows: &Rows<'_>) -> Result<Layout, Diagnostic> {
        let subject = rows.subject;
        let known = rows.catalog.subject(subject).map_err(|e| Diagnostic::error("schema-registry", e).at(["format"]))?;
        let text = match known {
            Some(registered) => registered.text,
            None => arrow_to_avro(rows.columns, &record_name(rows.topic), "headwater").map_err(|e| {
                let help = "rename or convert the column in a `map` step, such as CAST(... AS VARCHAR)";
                Diagnostic::error("avro", e).at(["format"]).help(help)
            })?,
        };
        if let Err(e) = AvroEncoder::new(&text, rows.columns, 0) {
            let found = Diagnostic::error("avro-schema", format!("rows don't fit the schema of `{subject}`: {e}"));
            let help = "make the columns agree with the registered schema, or register a new version";
            return Err(found.at(["format"]).help(help));
        }
        Ok(Layout { columns: rows.columns.clone(), registered: Some(text.into()) })
    }

    fn encoder(&self, layout: &Layout, _: Option<EventShape>, id: u32) -> Result<Box<dyn Encoder>, String> {
        Ok(Box::new(AvroEncoder::new(layout.text()?, &layout.columns, id)?))
    }

    /// The columns are those of the schema that it is written with, which may be another version than the one it is read with.
    fn encode_json(&self, json: &str, layout: &Layout, id: u32) -> Result<Vec<u8>, String> {
        from_json(json, layout.text()?, id)
    }

    fn decode_json(&self, record: &[u8], layout: &Layout) -> Result<Option<String>, String> {
        to_json(record, layout.text()?).map(Some)
    }
}

/// The reader schema of a subject, which is in Avro. `of`: what it is the schema of, for messages. `json`: the format to write for JSON.
pub(super) fn reader_schema(values: &Values<'_>, of: &str, json: &str) -> Result<String, Diagnostic> {
    let subject = values.subject;
    let known = registered(values, |offline| match offline {
        true => format!("put the Avro schema{of} into schemas/{subject}/v1.avsc, or name another `subject`"),
        false => format!("register the schema{of}, or name another `subject`"),
    })?;
    if known.json {
        return Err(other_kind(subject, "JSON Schema", json));
    }
    Ok(known.text)
}

/// JSON as a record of the schema.
pub(super) fn from_json(json: &str, text: &str, id: u32) -> Result<Vec<u8>, String> {
    let columns = avro_to_arrow(text)?;
    let mut rows = RowBuilder::new(&columns, 1)?;
    let read = JsonDecoder::new(&columns).decode(json.as_bytes(), &mut rows);
    read.map_err(|e| format!("does not fit the Avro schema: {e}"))?;
    let mut bytes = Vec::new();
    AvroEncoder::new(text, &columns, id)?.batch(&rows.finish()?)?.write(0, &mut bytes)?;
    Ok(bytes)
}

/// A record of the schema as JSON.
fn to_json(record: &[u8], text: &str) -> Result<String, String> {
    let columns = avro_to_arrow(text)?;
    let mut decoder = AvroDecoder::new(AvroReader::new(text, &columns)?);
    let id = record.get(1..5).map_or(0, |id| id.iter().fold(0, |id, byte| id << 8 | u32::from(*byte)));
    decoder.add_writer(id, text)?;
    let mut rows = RowBuilder::new(&columns, 1)?;
    decoder.decode(record, &mut rows).map_err(|e| e.to_string())?;
    as_json(&mut rows)
}

/// `analytics.orders.revenue-per-minute` -> `RevenuePerMinute`.
fn record_name(topic: &str) -> String {
    let last = topic.rsplit('.').next().unwrap_or(topic);
    last.split(|c: char| !c.is_ascii_alphanumeric())
        .map(|word| {
            let mut letters = word.chars();
            letters.next().map_or(String::new(), |first| first.to_ascii_uppercase().to_string() + letters.as_str())
        })
        .collect()
}

/// Fields of an Avro schema with the attribute `"pii": true`, at any depth, also in types that are named again.
fn marked(text: &str) -> Vec<Vec<String>> {
    fn walk(schema: &Value, path: &[String], named: &mut BTreeMap<String, Value>, depth: usize, out: &mut Vec<Vec<String>>) {
        if depth > 32 {
            return;
        }
        match schema {
            Value::Array(branches) => branches.iter().for_each(|branch| walk(branch, path, named, depth + 1, out)),
            Value::String(name) => {
                let known = named.get(name.rsplit('.').next().unwrap_or(name)).cloned();
                known.iter().for_each(|schema| walk(schema, path, named, depth + 1, out));
            }
            Value::Object(object) => {
                if let Some(name) = object.get("name").and_then(Value::as_str).filter(|_| object.contains_key("fields")) {
                    named.insert(name.rsplit('.').next().unwrap_or(name).to_string(), schema.clone());
                }
                for field in object.get("fields").and_then(Value::as_array).into_iter().flatten() {
                    let name = field.get("name").and_then(Value::as_str).unwrap_or_default();
                    let path: Vec<String> = path.iter().cloned().chain([name.to_string()]).collect();
                    if field.get("pii") == Some(&Value::Bool(true)) {
                        out.push(path.clone());
                    }
                    if let Some(of) = field.get("type") {
                        walk(of, &path, named, depth + 1, out);
                    }
                }
                for part in ["type", "items", "values"].iter().filter_map(|part| object.get(*part)) {
                    walk(part, path, named, depth + 1, out);
                }
            }
            _ => {}
        }
    }
    let mut out = Vec::new();
    if let Ok(schema) = serde_json::from_str(text) {
        walk(&schema, &[], &mut BTreeMap::new(), 0, &mut out);
    }
    out.sort();
    out.dedup();
    out
}

#[cfg(test)]
mod tests {
    use super::marked;

    fn shown(schema: &str) -> Vec<String> {
        marked(schema).iter().map(|path| path.join(".")).collect()
    }

    #[test]
    fn marks_are_found_in_lists_maps_and_types_that_are_named_again() {
        let lists = r#"{"type":"record","name":"R","fields":[
            {"name":"id","type":"string"},
            {"name":"email","type":["null","string"],"pii":true},
            {"name":"people","type":{"type":"array","items":{"type":"record","name":"P","fields":[{"name":"phone","type":"string","pii":true},{"name":"age","type":"int","pii":true}]}}}]}"#;
        assert_eq!(shown(lists), ["email", "people.age", "people.phone"]);
        let again = r#"{"type":"record","name":"R","fields":[
            {"name":"home","type":{"type":"record","name":"Address","fields":[{"name":"street","type":"string","pii":true}]}},
            {"name":"others","type":{"type":"map","values":"Address"}}]}"#;
        assert_eq!(shown(again), ["home.street", "others.street"]);
        assert!(shown("no schema").is_empty());
    }
}
