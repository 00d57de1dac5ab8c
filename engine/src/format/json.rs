//! JSON: declared columns, or those of a registered JSON Schema.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use headwater_formats::{Decoder, Encoder, JsonDecoder, JsonEncoder, json_payload, json_schema_to_arrow};
use operator_core::{Diagnostic, Path};
use serde_json::Value;

use super::{Content, Kind, Layout, Rows, Values, other_kind, registered, unusable};
use crate::format::declared::{DATA, Declared, EventShape, declared_columns};
use crate::notation::Notation;

pub(super) struct Json;

impl Kind for Json {
    fn name(&self) -> &'static str {
        "json"
    }

    fn summary(&self) -> &'static str {
        "JSON objects, also behind the id of a registered schema."
    }

    fn content(&self) -> Content {
        Content::Row
    }

    fn without_effect(&self, declared: bool) -> (&'static [&'static str], &'static str) {
        if declared { (&["subject"], "`schema` declares the columns") } else { (&[], "") }
    }

    fn notation(&self, key: &[u8]) -> Notation {
        Notation::registered(key).unwrap_or(Notation::Json)
    }

    fn shapes_events(&self) -> bool {
        true
    }

    fn layout(&self, values: &Values<'_>) -> Result<Layout, Diagnostic> {
        match values.declared {
            Some(Declared::Record(columns)) => Ok(Layout::of(Arc::new(declared_columns(columns, values.event)?))),
            Some(_) => Err(no_mapping()),
            None => {
                let known = registered(values, |_| "declare the columns under `schema`, or register a JSON Schema".to_string())?;
                if !known.json {
                    return Err(other_kind(values.subject, "Avro", "avro"));
                }
                Ok(Layout::of(json_schema_to_arrow(&known.text).map_err(|e| unusable(values.subject, e))?))
            }
        }
    }

    fn decoder(&self, _: &Layout, wanted: &SchemaRef) -> Result<(Box<dyn Decoder>, SchemaRef), String> {
        Ok((Box::new(JsonDecoder::new(wanted)), wanted.clone()))
    }

    fn text_at(&self, path: &Path, _: &[&Layout]) -> Result<(Box<dyn Decoder>, SchemaRef), String> {
        let columns = nested(path);
        Ok((Box::new(JsonDecoder::new(&columns)), columns))
    }

    fn is_text(&self, _: &Layout, value: &[u8], path: &Path) -> bool {
        let value = serde_json::from_slice::<Value>(json_payload(value)).ok();
        value.as_ref().and_then(|value| path.names().try_fold(value, |value, name| value.get(name))).is_some_and(Value::is_string)
    }

    fn check(&self, rows: &Rows<'_>) -> Result<Layout, Diagnostic> {
        let help = "convert the column in a `map` step, such as CAST(... AS VARCHAR), or leave it out";
        JsonEncoder::check(rows.columns).map_err(|e| Diagnostic::error("json", e).at(["topic"]).help(help))?;
        Ok(Layout::of(rows.columns.clone()))
    }

    fn encoder(&self, layout: &Layout, event: Option<EventShape>, _: u32) -> Result<Box<dyn Encoder>, String> {
        let encoder = JsonEncoder::new(&layout.columns);
        Ok(Box::new(match event {
            // `data` has the columns of all types of events.
            Some(EventShape::Envelope) => encoder.leaving_out_nulls_of(DATA),
            None => encoder,
        }))
    }

    /// As it is: records may have members that no column is made of.
    fn encode_json(&self, json: &str, _: &Layout, _: u32) -> Result<Vec<u8>, String> {
        Ok(json.as_bytes().to_vec())
    }

    fn decode_json(&self, record: &[u8], _: &Layout) -> Result<Option<String>, String> {
        std::str::from_utf8(record).map(|json| Some(json.to_string())).map_err(|e| e.to_string())
    }
}

/// `schema` is a type or a list.
pub(super) fn no_mapping() -> Diagnostic {
    Diagnostic::error("schema", "a schema is a mapping of column names to types").at(["schema"])
}

/// The columns of a value of which only the text at `path` is wanted.
fn nested(path: &Path) -> SchemaRef {
    let names: Vec<&str> = path.names().collect();
    let mut of = DataType::Utf8;
    let mut fields: Option<Field> = None;
    for name in names.into_iter().rev() {
        if let Some(inner) = fields.take() {
            of = DataType::Struct(Fields::from(vec![inner]));
        }
        fields = Some(Field::new(name, of.clone(), true));
    }
    Arc::new(Schema::new(fields.into_iter().collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use headwater_formats::RowBuilder;

    use super::*;

    #[test]
    fn the_type_is_at_its_path() {
        let schema = nested(&Path::column("metadata").child("type"));
        let mut rows = RowBuilder::new(&schema, 1).unwrap();
        let mut decoder = JsonDecoder::new(&schema);
        for (value, expected) in [
            (r#"{"a":[1],"metadata":{"x":{},"type":"placed"}}"#, Some(&b"placed"[..])),
            (r#"{"metadata":{"type":null}}"#, None),
            (r#"{"metadata":null}"#, None),
            ("{}", None),
            (r#"{"metadata":{"type":""}}"#, Some(b"")),
        ] {
            rows.truncate(0);
            decoder.decode(value.as_bytes(), &mut rows).unwrap();
            assert_eq!(rows.text(0), expected, "{value}");
        }
        assert!(decoder.decode(br#"{"metadata":{"type":7}}"#, &mut rows).is_err());
    }
}
