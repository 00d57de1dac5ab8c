//! Avro in the wire format of Confluent's registry: every writer version is resolved to the reader's schema.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use headwater_formats::{
    AvroDecoder, AvroEncoder, AvroReader, Decoder, Encoder, JsonDecoder, JsonEncoder, RowBuilder, arrow_to_avro, avro_to_arrow,
};
use operator_core::Diagnostic;
use serde_json::Value;

use super::{Columns, Content, EventShape, Kind, Rows, Values, other_kind, registered, unusable};

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

    fn columns(&self, values: &Values<'_>) -> Result<Columns, Diagnostic> {
        let text = reader_schema(values, "", "json")?;
        Ok((avro_to_arrow(&text).map_err(|e| unusable(values.subject, e))?, Some(text.into())))
    }

    fn decoder(&self, registered: Option<&str>, wanted: &SchemaRef) -> Result<(Box<dyn Decoder>, SchemaRef), String> {
        let text = registered.ok_or("there is no reader schema")?;
        let columns = Arc::new(Schema::new(common(wanted.fields(), avro_to_arrow(text)?.fields())));
        Ok((Box::new(AvroDecoder::new(AvroReader::new(text, &columns)?)), columns))
    }

    fn check(&self, rows: &Rows<'_>) -> Result<Option<(String, String)>, Diagnostic> {
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
        Ok(Some((text, subject.to_string())))
    }

    fn encoder(&self, columns: &SchemaRef, _: Option<EventShape>, registered: Option<(&str, u32)>) -> Result<Box<dyn Encoder>, String> {
        let (text, id) = registered.ok_or("there is no schema to write with")?;
        Ok(Box::new(AvroEncoder::new(text, columns, id)?))
    }

    fn encode_json(&self, value: &Value, registered: Option<(&str, u32)>) -> Result<Vec<u8>, String> {
        let (text, id) = registered.ok_or("there is no schema to write with")?;
        from_json(value, text, id)
    }

    fn decode_json(&self, value: &[u8], registered: Option<&str>) -> Result<Option<Value>, String> {
        to_json(value, registered.ok_or("there is no schema to read it with")?).map(Some)
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
pub(super) fn from_json(value: &Value, text: &str, id: u32) -> Result<Vec<u8>, String> {
    let columns = avro_to_arrow(text)?;
    let mut rows = RowBuilder::new(&columns, 1)?;
    let read = JsonDecoder::new(&columns).decode(value.to_string().as_bytes(), &mut rows);
    read.map_err(|e| format!("does not fit the Avro schema: {e}"))?;
    let mut bytes = Vec::new();
    AvroEncoder::new(text, &columns, id)?.batch(&rows.finish()?)?.write(0, &mut bytes)?;
    Ok(bytes)
}

/// A record of the schema as JSON.
fn to_json(value: &[u8], text: &str) -> Result<Value, String> {
    let columns = avro_to_arrow(text)?;
    let mut decoder = AvroDecoder::new(AvroReader::new(text, &columns)?);
    let id = value.get(1..5).map_or(0, |id| id.iter().fold(0, |id, byte| id << 8 | u32::from(*byte)));
    decoder.add_writer(id, text)?;
    let mut rows = RowBuilder::new(&columns, 1)?;
    decoder.decode(value, &mut rows).map_err(|e| e.to_string())?;
    let mut json = Vec::new();
    JsonEncoder::new(&columns).batch(&rows.finish()?)?.write(0, &mut json)?;
    serde_json::from_slice(&json).map_err(|e| e.to_string())
}

/// The fields of `wanted` that `own` has, nested likewise.
pub(super) fn common(wanted: &Fields, own: &Fields) -> Fields {
    let pick = |want: &Arc<Field>| {
        let have = own.iter().find(|f| f.name() == want.name())?;
        let data_type = match (want.data_type(), have.data_type()) {
            (DataType::Struct(w), DataType::Struct(h)) => DataType::Struct(common(w, h)),
            _ => want.data_type().clone(),
        };
        Some(Arc::new(Field::new(want.name(), data_type, want.is_nullable())))
    };
    wanted.iter().filter_map(pick).collect()
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
