//! The formats of record values: a list. Sources, tables, sinks, samples and cases use a format through [`Kind`] and never ask for
//! its name.
//!
//! A format is its codec (`formats/src`: [`Decoder`], [`Encoder`]), a file here that says what it needs to be planned, and a line in
//! [`FORMATS`]. The list is the engine's, unlike those of operators and sinks: a format talks to nothing and the shape of a pipeline is
//! read with it.

pub mod declared;

mod avro;
pub mod debezium;
mod json;
mod raw;

use std::fmt;
use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Schema, SchemaRef};
use headwater_formats::{ChangeDecoder, Decoder, Encoder};
use operator_core::batch::is_written;
use operator_core::{Diagnostic, Path};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::catalog::{Catalog, Registered};
use crate::format::declared::{Declared, EventShape};

/// THE list of formats, the default first.
static FORMATS: [&dyn Kind; 6] = [&json::Json, &avro::Avro, &debezium::Debezium, &debezium::avro::DebeziumAvro, &raw::Bytes, &raw::Text];

/// What a record's value holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A row with columns of its own. For sources, tables and sinks.
    Row,
    /// One column, `value`, of this type. For sources and sinks.
    Value(DataType),
    /// A change of a row: what it was and what it is. For tables, and for sources: streams of changes.
    Change,
}

/// What is known of a source's or table's values before any is read.
pub struct Values<'a> {
    /// `schema` of the source or table.
    pub declared: Option<&'a Declared>,
    pub event: Option<EventShape>,
    /// The subject that would have the schema.
    pub subject: &'a str,
    pub catalog: &'a dyn Catalog,
}

/// Columns of values, and the registered schema that they are read with.
pub type Columns = (SchemaRef, Option<Arc<str>>);

/// What a sink writes.
pub struct Rows<'a> {
    /// The columns that values are made of.
    pub columns: &'a SchemaRef,
    /// The subject that has or will have the schema, and the topic as the file has it.
    pub subject: &'a str,
    pub topic: &'a str,
    pub catalog: &'a dyn Catalog,
}

/// A format. Adding one is described in CONTRIBUTING.md.
pub trait Kind: Sync {
    /// As `format` has it.
    fn name(&self) -> &'static str;

    /// What it is, for editors.
    fn summary(&self) -> &'static str;

    fn content(&self) -> Content;

    /// Keys of a source or table that have no effect with it, and why. `declared`: there is a `schema`.
    fn without_effect(&self, declared: bool) -> (&'static [&'static str], &'static str);

    /// Its records name a registered schema: a sink has a `subject`.
    fn is_registered(&self) -> bool {
        false
    }

    /// A sink writes events otherwise than other rows: `event` has an effect.
    fn shapes_events(&self) -> bool {
        false
    }

    /// The columns of a source's or table's values.
    ///
    /// # Errors
    /// There is no usable schema.
    fn columns(&self, values: &Values<'_>) -> Result<Columns, Diagnostic>;

    /// A decoder of values into `wanted` columns as far as the values of this topic have them, and the columns it fills. Of change
    /// records (`wanted` are the columns of their rows): the record as it is, with `before` and `after`.
    ///
    /// # Errors
    /// The columns are not those of `registered`, the schema that [`Kind::columns`] gave.
    fn decoder(&self, registered: Option<&str>, wanted: &SchemaRef) -> Result<(Box<dyn Decoder>, SchemaRef), String>;

    /// A decoder of change records into `wanted` columns of their rows as far as those of this topic have them, and the columns it
    /// fills, if [`Kind::content`] is [`Content::Change`].
    ///
    /// # Errors
    /// As [`Kind::decoder`].
    fn changes(&self, registered: Option<&str>, wanted: &SchemaRef) -> Result<(Box<dyn ChangeDecoder>, SchemaRef), String> {
        let _ = (registered, wanted);
        Err(format!("records in {} are rows", self.name()))
    }

    /// The value at `path` is written as a text: a date then, which no unit can be wrong in.
    fn is_text(&self, value: &[u8], path: &Path) -> bool {
        let _ = (value, path);
        false
    }

    /// Places of the columns that a sink's values are made of.
    fn written(&self, schema: &Schema) -> Vec<usize> {
        schema.fields().iter().enumerate().filter(|(_, field)| is_written(field.name())).map(|(at, _)| at).collect()
    }

    /// Whether a sink can write such rows, and the schema to register with its subject.
    ///
    /// # Errors
    /// Why not.
    fn check(&self, rows: &Rows<'_>) -> Result<Option<(String, String)>, Diagnostic>;

    /// An encoder of these columns. `event`: they are those of events ([`Kind::shapes_events`]). `registered`: text and id of the
    /// schema that [`Kind::check`] gave.
    ///
    /// # Errors
    /// The columns can't be written.
    fn encoder(&self, columns: &SchemaRef, event: Option<EventShape>, registered: Option<(&str, u32)>) -> Result<Box<dyn Encoder>, String>;

    /// A value as a producer writes it, from a line of a case. `registered`: text and id of the schema it is written with.
    ///
    /// # Errors
    /// It has no such form.
    fn encode_json(&self, value: &Value, registered: Option<(&str, u32)>) -> Result<Vec<u8>, String>;

    /// A value that a sink has written, as a line of a case; `None`: its bytes are shown.
    ///
    /// # Errors
    /// A sink can't have written it.
    fn decode_json(&self, value: &[u8], registered: Option<&str>) -> Result<Option<Value>, String> {
        let _ = (value, registered);
        Ok(None)
    }
}

/// One of the [`FORMATS`].
#[derive(Clone, Copy)]
pub struct Format(&'static dyn Kind);

impl Format {
    /// Names of the formats with such a content.
    pub fn names_of(is: impl Fn(&Content) -> bool) -> Vec<&'static str> {
        FORMATS.iter().filter(|kind| is(&kind.content())).map(|kind| kind.name()).collect()
    }

    /// Values are one column.
    pub fn is_raw(self) -> bool {
        matches!(self.content(), Content::Value(_))
    }
}

impl std::ops::Deref for Format {
    type Target = dyn Kind;

    fn deref(&self) -> &(dyn Kind + 'static) {
        self.0
    }
}

impl Default for Format {
    fn default() -> Format {
        Format(&json::Json)
    }
}

impl fmt::Debug for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl PartialEq for Format {
    fn eq(&self, other: &Format) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Format {}

impl Serialize for Format {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Format {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Format, D::Error> {
        static NAMES: LazyLock<Vec<&'static str>> = LazyLock::new(|| Format::names_of(|_| true));
        let name = String::deserialize(deserializer)?;
        let known = FORMATS.iter().find(|kind| kind.name() == name);
        known.map(|kind| Format(*kind)).ok_or_else(|| serde::de::Error::unknown_variant(&name, &NAMES))
    }
}

impl JsonSchema for Format {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Format".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let one = |kind: &&dyn Kind| serde_json::json!({ "description": kind.summary(), "type": "string", "const": kind.name() });
        let all: Vec<Value> = FORMATS.iter().map(one).collect();
        schemars::json_schema!({ "description": "How record values are encoded.", "oneOf": all })
    }
}

/// Change records are read, not written.
pub(crate) fn not_written(format: &dyn Kind) -> Diagnostic {
    let message = format!("a sink can't have `format: {}`: change records are read, not written", format.name());
    let help = "write `format: json`: with the `key` of the stream, a record is the row as it is, and one without a value says that the row is gone";
    Diagnostic::error("debezium-format", message).at(["format"]).help(help)
}

/// The latest schema of a subject.
fn registered(values: &Values<'_>, help: impl FnOnce(bool) -> String) -> Result<Registered, Diagnostic> {
    let (subject, offline) = (values.subject, values.catalog.is_offline());
    let found = values.catalog.subject(subject).map_err(|e| Diagnostic::error("schema-registry", e).at(["format"]))?;
    found.ok_or_else(|| {
        let place = if offline { "the schemas folder" } else { "the schema registry" };
        Diagnostic::error("unknown-subject", format!("{place} has no subject `{subject}`")).at(["format"]).help(help(offline))
    })
}

/// The subject has a schema of another kind.
fn other_kind(subject: &str, is: &str, write: &str) -> Diagnostic {
    let found = Diagnostic::error("schema", format!("the schema of subject `{subject}` is {is}")).at(["format"]);
    found.help(format!("write `format: {write}`"))
}

fn unusable(subject: &str, e: String) -> Diagnostic {
    Diagnostic::error("schema", format!("subject `{subject}`: {e}")).at(["format"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_read_by_their_names() {
        for kind in FORMATS {
            let read: Format = serde_json::from_value(kind.name().into()).unwrap();
            assert_eq!(serde_json::to_value(read).unwrap(), kind.name());
            assert!(!kind.summary().is_empty());
        }
        let unknown = serde_json::from_str::<Format>("\"xml\"").unwrap_err().to_string();
        assert!(unknown.contains("`json`") && unknown.contains("`string`"), "{unknown}");
        assert_eq!(Format::names_of(|content| *content == Content::Change), ["debezium", "debezium-avro"]);
    }

    #[test]
    fn names_are_unique() {
        let names = Format::names_of(|_| true);
        assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), names.len());
    }
}
