//! CSV: one row in one line. The place of a field says which column it is, so `schema` declares them in the order of the fields.
//!
//! There are no header lines: in a topic each record is on its own, and a line that only says what the next ones mean would bind them
//! to an order that partitions and compaction don't keep.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use headwater_formats::{CsvDecoder, CsvDialect, CsvEncoder, Decoder, Encoder, RowBuilder};
use operator_core::{Diagnostic, Path};
use schemars::{JsonSchema, SchemaGenerator};
use serde::Deserialize;
use serde_json::Value;

use super::json::no_mapping;
use super::{Content, EventShape, Format, Kind, Layout, Rows, Values, common};
use crate::format::declared::{Declared, columns_in_order};

#[derive(Default)]
pub(super) struct Csv(CsvDialect);

/// How the fields of a line are written.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Options {
    /// The character between fields; `"\t"` is a tab.
    delimiter: String,
    /// The character around a field that has a delimiter, a quote or a line break in it. There it is written twice.
    quote: String,
    /// What a field without quotes has if the value is null: nothing, unless it is set. Within quotes it is a text.
    null_text: String,
}

impl Default for Options {
    fn default() -> Options {
        Options { delimiter: ",".into(), quote: "\"".into(), null_text: String::new() }
    }
}

impl Kind for Csv {
    fn name(&self) -> &'static str {
        "csv"
    }

    fn summary(&self) -> &'static str {
        "One line of CSV: the fields are the columns of `schema`, in the order of the file."
    }

    fn content(&self) -> Content {
        Content::Row
    }

    fn options(&self, generator: &mut SchemaGenerator) -> Option<schemars::Schema> {
        Some(generator.subschema_for::<Options>())
    }

    fn with(&self, options: Value) -> Result<Format, String> {
        let Options { delimiter, quote, null_text } = serde_json::from_value(options).map_err(|e| e.to_string())?;
        Ok(Format::of(Csv(CsvDialect::new(&delimiter, &quote, &null_text)?)))
    }

    fn without_effect(&self, _: bool) -> (&'static [&'static str], &'static str) {
        (&["subject", "event"], "the fields of a line are the columns of `schema`")
    }

    fn layout(&self, values: &Values<'_>) -> Result<Layout, Diagnostic> {
        let columns = match values.declared {
            Some(Declared::Record(columns)) => columns_in_order(columns)?,
            Some(_) => return Err(no_mapping()),
            None => {
                let found = Diagnostic::error("schema", "the columns of CSV are not declared").at(["format"]);
                return Err(found.help("declare them under `schema`, in the order of the fields"));
            }
        };
        CsvEncoder::check(&columns).map_err(|(column, why)| {
            let found = Diagnostic::error("schema", format!("`{column}` can't be read: {why}")).at(["schema".to_string(), column]);
            found.help("declare it as `string`, or read another format")
        })?;
        Ok(Layout::of(Arc::new(columns)))
    }

    fn decoder(&self, layout: &Layout, wanted: &SchemaRef) -> Result<(Box<dyn Decoder>, SchemaRef), String> {
        let columns = Arc::new(Schema::new(common(wanted.fields(), layout.columns.fields())));
        Ok((Box::new(CsvDecoder::new(self.0.clone(), &layout.columns, &columns)), columns))
    }

    fn text_at(&self, path: &Path, types: &[&Layout]) -> Result<(Box<dyn Decoder>, SchemaRef), String> {
        let place = |layout: &&Layout| path.as_column().and_then(|name| layout.columns.index_of(name).ok());
        let places: Vec<Option<usize>> = types.iter().map(place).collect();
        let Some(Some(first)) = places.first().filter(|first| places.iter().all(|place| place == *first)) else {
            return Err(format!("`{path}` is not the same field of a line in all types"));
        };
        let columns = Arc::new(Schema::new(vec![Field::new(path.first(), DataType::Utf8, true)]));
        Ok((Box::new(CsvDecoder::of_field(self.0.clone(), *first, &columns)), columns))
    }

    fn is_text(&self, layout: &Layout, value: &[u8], path: &Path) -> bool {
        let read = || {
            let (mut decoder, columns) = self.text_at(path, &[layout]).ok()?;
            let mut rows = RowBuilder::new(&columns, 1).ok()?;
            decoder.decode(value, &mut rows).ok()?;
            Some(rows.text(0)?.iter().skip(1).any(|byte| !byte.is_ascii_digit()))
        };
        read().unwrap_or(false)
    }

    fn check(&self, rows: &Rows<'_>) -> Result<Layout, Diagnostic> {
        if rows.columns.fields().is_empty() {
            return Err(Diagnostic::error("csv", "the rows have no columns, and a line has a field at least").at(["format"]));
        }
        CsvEncoder::check(rows.columns).map_err(|(column, why)| {
            let help = "make its parts columns in a `map` step, convert it, such as CAST(... AS VARCHAR), or leave it out";
            Diagnostic::error("csv", format!("`{column}` can't be written: {why}")).at(["format"]).help(help)
        })?;
        Ok(Layout::of(rows.columns.clone()))
    }

    fn encoder(&self, layout: &Layout, _: Option<EventShape>, _: u32) -> Result<Box<dyn Encoder>, String> {
        Ok(Box::new(CsvEncoder::new(self.0.clone(), &layout.columns)))
    }
}
