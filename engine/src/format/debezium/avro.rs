//! Change records in Avro, in the wire format of Confluent's registry: every writer version is resolved to the reader's schema.

use std::sync::Arc;

use arrow::datatypes::{DataType, Fields, Schema, SchemaRef};
use headwater_formats::{
    AvroChanges, AvroDecoder, AvroReader, ChangeDecoder, Decoder, Encoder, avro_to_arrow, changed_columns, with_connect_types,
};
use operator_core::Diagnostic;
use serde_json::{Map, Value, json};

use super::super::{Content, EventShape, Kind, Layout, Rows, Values, avro, common, not_written, unusable};

pub(in crate::format) struct DebeziumAvro;

impl Kind for DebeziumAvro {
    fn name(&self) -> &'static str {
        "debezium-avro"
    }

    fn summary(&self) -> &'static str {
        "Change records of a database as Debezium writes them in Avro; the columns are those of the row in the reader schema."
    }

    fn content(&self) -> Content {
        Content::Change
    }

    fn without_effect(&self, declared: bool) -> (&'static [&'static str], &'static str) {
        avro::Avro.without_effect(declared)
    }

    fn is_registered(&self) -> bool {
        true
    }

    fn private(&self, registered: &str) -> Vec<Vec<String>> {
        avro::Avro.private(registered)
    }

    fn layout(&self, values: &Values<'_>) -> Result<Layout, Diagnostic> {
        let subject = values.subject;
        let schema = avro::reader_schema(values, " of the envelope", "debezium")?;
        let text = with_connect_types(&schema).map_err(|e| unusable(subject, e))?;
        let columns = changed_columns(&text).map_err(|e| unusable(subject, e))?;
        Ok(Layout { columns, registered: Some(schema.into()) })
    }

    fn decoder(&self, layout: &Layout, _: &SchemaRef) -> Result<(Box<dyn Decoder>, SchemaRef), String> {
        let text = with_connect_types(layout.text()?)?;
        let columns = avro_to_arrow(&text)?;
        Ok((Box::new(AvroDecoder::new(AvroReader::new(&text, &columns)?)), columns))
    }

    fn changes(&self, layout: &Layout, wanted: &SchemaRef) -> Result<(Box<dyn ChangeDecoder>, SchemaRef), String> {
        let text = with_connect_types(layout.text()?)?;
        let columns = Arc::new(Schema::new(common(wanted.fields(), changed_columns(&text)?.fields())));
        Ok((Box::new(AvroChanges::new(&text, &columns)?), columns))
    }

    fn check(&self, _: &Rows<'_>) -> Result<Layout, Diagnostic> {
        Err(not_written(self))
    }

    fn encoder(&self, _: &Layout, _: Option<EventShape>, _: u32) -> Result<Box<dyn Encoder>, String> {
        Err("change records are not written".into())
    }

    /// A case writes `op`, `before`, `after` and what it is about; the rest of the envelope, which connectors fill, may be missing.
    fn encode_json(&self, json: &str, layout: &Layout, id: u32) -> Result<Vec<u8>, String> {
        let text = with_connect_types(layout.text()?)?;
        let mut envelope: Map<String, Value> = serde_json::from_str(json).map_err(|_| "a change record is an object")?;
        for field in avro_to_arrow(&text)?.fields().iter().filter(|field| !field.is_nullable() && field.name() != "op") {
            let given = envelope.remove(field.name());
            envelope.insert(field.name().clone(), completed(given, field.data_type()));
        }
        avro::from_json(&Value::Object(envelope).to_string(), &text, id)
    }
}

/// A value, with zeros and empty texts where it lacks something that is never null.
fn completed(given: Option<Value>, data_type: &DataType) -> Value {
    match (given, data_type) {
        (Some(Value::Object(members)), DataType::Struct(fields)) => record(members, fields),
        (None, DataType::Struct(fields)) => record(Map::new(), fields),
        (Some(given), _) => given,
        (None, DataType::Boolean) => json!(false),
        (None, DataType::List(_)) => json!([]),
        (None, DataType::Map(..)) => json!({}),
        (None, of) if of.is_numeric() || of.is_temporal() => json!(0),
        (None, _) => json!(""),
    }
}

fn record(mut members: Map<String, Value>, fields: &Fields) -> Value {
    for field in fields.iter().filter(|field| !field.is_nullable()) {
        let given = members.remove(field.name());
        members.insert(field.name().clone(), completed(given, field.data_type()));
    }
    Value::Object(members)
}
