//! CSV: one row in one line. The place of a field says which column it is, so `schema` declares them in the order of the fields.
//!
//! There are no header lines: in a topic each record is on its own, and a line that only says what the next ones mean would bind them
//! to an order that partitions and compaction don't keep.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use headwater_formats::{CsvDecoder, CsvDialect, CsvEncoder, Decoder, Encoder};
use operator_core::diagnostic::did_you_mean;
use operator_core::{Diagnostic, Path};

use super::json::no_mapping;
use super::{Content, EventShape, Format, FormatOption, Kind, Layout, Rows, Values, common};
use crate::format::declared::{Declared, columns_in_order};

#[derive(Default)]
pub(super) struct Csv(CsvDialect);

/// How the fields of a line are written.
const OPTIONS: [FormatOption; 3] = [
    FormatOption {
        name: "delimiter",
        summary: "The ASCII character between fields, no letter, digit or line break; `\"\\t\"` is a tab.",
        default: ",",
    },
    FormatOption {
        name: "quote",
        summary: "The character around a field that has a delimiter, a quote or a line break in it. There it is written twice.",
        default: "\"",
    },
    FormatOption {
        name: "null_text",
        summary: "What a field without quotes has if the value is null: nothing, unless it is set. Within quotes it is a text.",
        default: "",
    },
];

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

    fn options(&self) -> &'static [FormatOption] {
        &OPTIONS
    }

    fn with(&self, option: &str, text: &str) -> Result<Format, String> {
        let dialect = self.0.clone();
        Ok(Format::of(Csv(match option {
            "delimiter" => dialect.with_delimiter(text)?,
            "quote" => dialect.with_quote(text)?,
            _ => dialect.with_null_text(text)?,
        })))
    }

    fn options_agree(&self) -> Result<(), String> {
        self.0.check()
    }

    fn described(&self) -> String {
        if self.0 == CsvDialect::default() { self.name().to_string() } else { format!("csv with {}", self.0) }
    }

    fn without_effect(&self, _: bool) -> (&'static [&'static str], &'static str) {
        (&["subject", "event"], "the fields of a line are the columns of `schema`")
    }

    fn layout(&self, values: &Values<'_>) -> Result<Layout, Diagnostic> {
        let columns = match values.declared {
            Some(Declared::Record(columns)) if columns.is_empty() => {
                let found = Diagnostic::error("schema", "the schema has no columns, and a line has a field at least").at(["schema"]);
                return Err(found.help("declare them in the order of the fields"));
            }
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
        let mut names = types.iter().flat_map(|layout| layout.columns.fields()).map(|field| field.name().as_str());
        if places.iter().all(Option::is_none) {
            let meant = did_you_mean(&path.to_string(), &mut names).map_or(String::new(), |meant| format!("; {meant}"));
            return Err(format!("`{path}` is a column of no type{meant}"));
        }
        let Some(Some(first)) = places.first().filter(|first| places.iter().all(|place| place == *first)) else {
            return Err(format!("`{path}` is not the same field of a line in all types"));
        };
        let columns = Arc::new(Schema::new(vec![Field::new(path.first(), DataType::Utf8, true)]));
        Ok((Box::new(CsvDecoder::of_field(self.0.clone(), *first, &columns)), columns))
    }

    fn agreed(&self, layout: &Layout) -> Option<String> {
        let names: Vec<&str> = layout.columns.fields().iter().map(|field| field.name().as_str()).collect();
        let columns = names.join(", ");
        Some(if self.0 == CsvDialect::default() {
            format!("CSV with the columns {columns}")
        } else {
            format!("CSV with {} and the columns {columns}", self.0)
        })
    }

    /// A timestamp is read from a text only, a `long` is digits.
    fn is_text(&self, layout: &Layout, _: &[u8], path: &Path) -> bool {
        let column = path.as_column().and_then(|name| layout.columns.field_with_name(name).ok());
        column.is_some_and(|column| matches!(column.data_type(), DataType::Timestamp(..)))
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
