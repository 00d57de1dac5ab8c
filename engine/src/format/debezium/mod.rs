//! Change records of a database, as Debezium writes them.

pub(super) mod avro;
pub mod envelope;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use headwater_formats::{Change, ChangeDecoder, ChangedRow, DecodeError, Decoder, Encoder, JsonDecoder, RowBuilder, json_payload};
use operator_core::Diagnostic;

use super::json::no_mapping;
use super::{Content, Kind, Layout, Rows, Values};
use crate::format::declared::{Declared, EventShape, declared_columns};

pub(super) struct Debezium;

impl Kind for Debezium {
    fn name(&self) -> &'static str {
        "debezium"
    }

    fn summary(&self) -> &'static str {
        "Change records of a database as Debezium writes them in JSON; the columns are those of the row."
    }

    fn content(&self) -> Content {
        Content::Change
    }

    fn without_effect(&self, _: bool) -> (&'static [&'static str], &'static str) {
        (&["subject"], "`schema` declares the columns")
    }

    fn layout(&self, values: &Values<'_>) -> Result<Layout, Diagnostic> {
        match values.declared {
            Some(Declared::Record(columns)) => Ok(Layout::of(Arc::new(declared_columns(columns, None)?))),
            Some(_) => Err(no_mapping()),
            None => {
                let found = Diagnostic::error("schema", "the columns of Debezium records are not declared").at(["format"]);
                Err(found.help("declare the row's columns (those in `after`) under `schema`"))
            }
        }
    }

    fn decoder(&self, _: &Layout, wanted: &SchemaRef) -> Result<(Box<dyn Decoder>, SchemaRef), String> {
        let row = DataType::Struct(wanted.fields().clone());
        let columns = [("op", DataType::Utf8), ("before", row.clone()), ("after", row), ("ts_ms", DataType::Int64)];
        let columns = Arc::new(Schema::new(columns.map(|(name, of)| Field::new(name, of, true)).to_vec()));
        Ok((Box::new(JsonEnvelope(JsonDecoder::new(&columns))), columns))
    }

    fn changes(&self, _: &Layout, wanted: &SchemaRef) -> Result<(Box<dyn ChangeDecoder>, SchemaRef), String> {
        Ok((Box::new(JsonChanges(JsonDecoder::new(wanted))), wanted.clone()))
    }

    fn check(&self, _: &Rows<'_>) -> Result<Layout, Diagnostic> {
        Err(super::not_written(self))
    }

    fn encoder(&self, _: &Layout, _: Option<EventShape>, _: u32) -> Result<Box<dyn Encoder>, String> {
        Err("change records are not written".into())
    }

    fn encode_json(&self, json: &str, _: &Layout, _: u32) -> Result<Vec<u8>, String> {
        Ok(json.as_bytes().to_vec())
    }
}

/// Change records in JSON as they are.
struct JsonEnvelope(JsonDecoder);

impl Decoder for JsonEnvelope {
    fn decode(&mut self, value: &[u8], rows: &mut RowBuilder) -> Result<(), DecodeError> {
        let text = envelope::unwrap(json_payload(value)).map_err(DecodeError::Bad)?;
        self.0.decode(text.as_bytes(), rows)
    }
}

/// Change records in JSON: their rows are objects.
struct JsonChanges(JsonDecoder);

impl ChangeDecoder for JsonChanges {
    fn read<'a>(&mut self, value: &'a [u8]) -> Result<Option<Change<'a>>, DecodeError> {
        envelope::read(json_payload(value)).map_err(DecodeError::Bad)
    }

    fn row(&mut self, row: ChangedRow<'_>, rows: &mut RowBuilder) -> Result<(), DecodeError> {
        self.0.decode(row.bytes, rows)
    }
}
