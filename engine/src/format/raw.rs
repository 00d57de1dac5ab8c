//! Values as they are, in one column `value`: bytes or text.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use headwater_formats::{Decoder, Encoder, RawDecoder, RawEncoder};
use operator_core::Diagnostic;
use operator_core::batch::METADATA;

use super::{Content, EventShape, Kind, Layout, Rows, Values};

pub(super) struct Bytes;
pub(super) struct Text;

/// What [`Bytes`] and [`Text`] have in common: all but names and types.
trait Raw: Send + Sync {
    const NAME: &'static str;
    const SUMMARY: &'static str;
    const TYPE: DataType;
}

impl Raw for Bytes {
    const NAME: &'static str = "bytes";
    const SUMMARY: &'static str = "The value as it is, in one column `value` of bytes.";
    const TYPE: DataType = DataType::Binary;
}

impl Raw for Text {
    const NAME: &'static str = "string";
    const SUMMARY: &'static str = "The value as UTF-8 text in one column `value`.";
    const TYPE: DataType = DataType::Utf8;
}

/// The column that is the value: `value`, or the source record's own.
fn column(schema: &Schema, of: &DataType) -> Option<usize> {
    let [.., own] = METADATA;
    ["value", own].into_iter().find_map(|name| schema.index_of(name).ok().filter(|at| schema.field(*at).data_type() == of))
}

impl<R: Raw> Kind for R {
    fn name(&self) -> &'static str {
        R::NAME
    }

    fn summary(&self) -> &'static str {
        R::SUMMARY
    }

    fn content(&self) -> Content {
        Content::Value(R::TYPE)
    }

    fn without_effect(&self, _: bool) -> (&'static [&'static str], &'static str) {
        (&["schema", "subject", "event"], "the value is one column, `value`")
    }

    fn layout(&self, _: &Values<'_>) -> Result<Layout, Diagnostic> {
        Ok(Layout::of(Arc::new(Schema::new(vec![Field::new("value", R::TYPE, true)]))))
    }

    fn decoder(&self, _: &Layout, wanted: &SchemaRef) -> Result<(Box<dyn Decoder>, SchemaRef), String> {
        Ok((Box::new(RawDecoder::new(wanted)), wanted.clone()))
    }

    fn written(&self, schema: &Schema) -> Vec<usize> {
        column(schema, &R::TYPE).into_iter().collect()
    }

    fn check(&self, rows: &Rows<'_>) -> Result<Layout, Diagnostic> {
        if rows.columns.fields().is_empty() {
            let message = format!("a {} sink writes the column `value`, which the rows don't have", R::NAME);
            return Err(Diagnostic::error("raw-format", message).at(["format"]).help("select the column to write as `value`"));
        }
        Ok(Layout::of(rows.columns.clone()))
    }

    fn encoder(&self, layout: &Layout, _: Option<EventShape>, _: u32) -> Result<Box<dyn Encoder>, String> {
        Ok(Box::new(RawEncoder::new(&layout.columns)))
    }

    fn encode_json(&self, json: &str, _: &Layout, _: u32) -> Result<Vec<u8>, String> {
        let text = serde_json::from_str::<String>(json);
        Ok(text.map_err(|_| "a record of this format is a text, or bytes as {\"@base64\": \"..\"}")?.into_bytes())
    }

    fn decode_json(&self, _: &[u8], _: &Layout) -> Result<Option<String>, String> {
        Ok(None)
    }
}
