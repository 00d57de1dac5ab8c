//! JSON: declared columns, or those of a registered JSON Schema.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use headwater_formats::{Decoder, Encoder, JsonDecoder, JsonEncoder, json_payload, json_schema_to_arrow};
use operator_core::{Diagnostic, Path};
use serde_json::Value;

use super::{Columns, Content, Kind, Rows, Values, other_kind, registered, unusable};
use crate::format::declared::{DATA, Declared, EventShape, declared_columns};

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

    fn shapes_events(&self) -> bool {
        true
    }

    fn columns(&self, values: &Values<'_>) -> Result<Columns, Diagnostic> {
        match values.declared {
            Some(Declared::Record(columns)) => Ok((Arc::new(declared_columns(columns, values.event)?), None)),
            Some(_) => Err(no_mapping()),
            None => {
                let known = registered(values, |_| "declare the columns under `schema`, or register a JSON Schema".to_string())?;
                if !known.json {
                    return Err(other_kind(values.subject, "Avro", "avro"));
                }
                Ok((json_schema_to_arrow(&known.text).map_err(|e| unusable(values.subject, e))?, None))
            }
        }
    }

    fn decoder(&self, _: Option<&str>, wanted: &SchemaRef) -> Result<(Box<dyn Decoder>, SchemaRef), String> {
        Ok((Box::new(JsonDecoder::new(wanted)), wanted.clone()))
    }

    fn is_text(&self, value: &[u8], path: &Path) -> bool {
        let value = serde_json::from_slice::<Value>(json_payload(value)).ok();
        value.as_ref().and_then(|value| path.names().try_fold(value, |value, name| value.get(name))).is_some_and(Value::is_string)
    }

    fn check(&self, rows: &Rows<'_>) -> Result<Option<(String, String)>, Diagnostic> {
        let help = "convert the column in a `map` step, such as CAST(... AS VARCHAR), or leave it out";
        JsonEncoder::check(rows.columns).map_err(|e| Diagnostic::error("json", e).at(["topic"]).help(help))?;
        Ok(None)
    }

    fn encoder(&self, columns: &SchemaRef, event: Option<EventShape>, _: Option<(&str, u32)>) -> Result<Box<dyn Encoder>, String> {
        let encoder = JsonEncoder::new(columns);
        Ok(Box::new(match event {
            // `data` has the columns of all types of events.
            Some(EventShape::Envelope) => encoder.leaving_out_nulls_of(DATA),
            None => encoder,
        }))
    }

    fn encode_json(&self, value: &Value, _: Option<(&str, u32)>) -> Result<Vec<u8>, String> {
        Ok(value.to_string().into_bytes())
    }

    fn decode_json(&self, value: &[u8], _: Option<&str>) -> Result<Option<Value>, String> {
        serde_json::from_slice(value).map(Some).map_err(|e| e.to_string())
    }
}

/// `schema` is a type or a list.
pub(super) fn no_mapping() -> Diagnostic {
    Diagnostic::error("schema", "a schema is a mapping of column names to types").at(["schema"])
}
