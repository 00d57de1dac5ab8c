//! The formats of record values: a list. Sources, tables, sinks, samples and cases use a format through [`Kind`] and never ask for
//! its name.
//!
//! A format is its codec (`formats/src`: [`Decoder`], [`Encoder`]), a file here that says what it needs to be planned, and a line in
//! [`FORMATS`]. The list is the engine's, unlike those of operators and sinks: a format talks to nothing and the shape of a pipeline is
//! read with it.

pub mod declared;

mod avro;
mod csv;
pub mod debezium;
mod json;
mod named;
mod raw;

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use headwater_formats::{ChangeDecoder, Decoder, Encoder, JsonDecoder, JsonEncoder, RowBuilder};
use operator_core::batch::is_written;
use operator_core::{Diagnostic, Path};

use crate::catalog::{Catalog, Registered};
use crate::format::declared::{Declared, EventShape};
use crate::notation::Notation;
pub use named::Format;

/// THE list of formats, the default first.
static FORMATS: LazyLock<Vec<Format>> = LazyLock::new(|| {
    vec![
        Format::of(json::Json),
        Format::of(avro::Avro),
        Format::of(csv::Csv::default()),
        Format::of(debezium::Debezium),
        Format::of(debezium::avro::DebeziumAvro),
        Format::of(raw::Bytes),
        Format::of(raw::Text),
    ]
});

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

/// What records of a topic look like, as planning found.
#[derive(Clone, Debug)]
pub struct Layout {
    /// All columns of a record, in the order of its fields; of change records, those of their rows.
    pub columns: SchemaRef,
    /// The text of the registered schema that records are read or written with.
    pub registered: Option<Arc<str>>,
}

impl Layout {
    /// Records without a registered schema.
    pub fn of(columns: SchemaRef) -> Layout {
        Layout { columns, registered: None }
    }

    /// The same with another registered schema.
    pub fn with(&self, registered: Option<Arc<str>>) -> Layout {
        Layout { registered, ..self.clone() }
    }

    fn text(&self) -> Result<&str, String> {
        self.registered.as_deref().ok_or_else(|| "there is no schema to read or write with".to_string())
    }
}

impl Default for Layout {
    fn default() -> Layout {
        Layout::of(Arc::new(Schema::empty()))
    }
}

/// What a sink writes.
pub struct Rows<'a> {
    /// The columns that values are made of.
    pub columns: &'a SchemaRef,
    /// The subject that has or will have the schema, and the topic as the file has it.
    pub subject: &'a str,
    pub topic: &'a str,
    pub catalog: &'a dyn Catalog,
}

/// An option of a format.
pub struct FormatOption {
    pub name: &'static str,
    /// What it is, for editors.
    pub summary: &'static str,
    pub default: &'static str,
}

/// A format. Adding one is described in CONTRIBUTING.md.
pub trait Kind: Send + Sync {
    /// As `format` has it.
    fn name(&self) -> &'static str;

    /// What it is, for editors.
    fn summary(&self) -> &'static str;

    fn content(&self) -> Content;

    /// Its options, which a file writes as `format: { csv: { delimiter: ";" } }`. Their values are texts.
    fn options(&self) -> &'static [FormatOption] {
        &[]
    }

    /// The format with one of its options.
    ///
    /// # Errors
    /// It can't be this: why, and what to write.
    fn with(&self, option: &str, text: &str) -> Result<Format, String> {
        let _ = (option, text);
        Err(format!("`{}` has no options", self.name()))
    }

    /// Whether its options go together.
    ///
    /// # Errors
    /// Which of them don't.
    fn options_agree(&self) -> Result<(), String> {
        Ok(())
    }

    /// Its name, and its options where they are not the usual ones.
    fn described(&self) -> String {
        self.name().to_string()
    }

    /// Keys of a source or table that have no effect with it, and why. `declared`: there is a `schema`.
    fn without_effect(&self, declared: bool) -> (&'static [&'static str], &'static str);

    /// Its records have the id of a registered schema in front, as the serializers of Confluent write it: a sink has a `subject`.
    fn is_registered(&self) -> bool {
        false
    }

    /// How a record key is written: within a notation, equal values have equal bytes. It follows from the format, and from no more
    /// of the key than the id of a registered schema: a field of CSV may look like JSON.
    fn notation(&self, key: &[u8]) -> Notation {
        let _ = key;
        Notation::Bytes
    }

    /// What readers of a topic must know of its records, because the records don't say it: all sinks of a topic agree on it. `None`
    /// if records say what they are.
    fn agreed(&self, layout: &Layout) -> Option<String> {
        let _ = layout;
        None
    }

    /// A sink writes events otherwise than other rows: `event` has an effect.
    fn shapes_events(&self) -> bool {
        false
    }

    /// What the values of a source or table look like.
    ///
    /// # Errors
    /// There is no usable schema.
    fn layout(&self, values: &Values<'_>) -> Result<Layout, Diagnostic>;

    /// A decoder of records into `wanted` columns as far as those of the layout have them, and the columns it fills. Of change
    /// records (`wanted` are the columns of their rows): the record as it is, with `before` and `after`.
    ///
    /// # Errors
    /// The layout is not one that [`Kind::layout`] gave.
    fn decoder(&self, layout: &Layout, wanted: &SchemaRef) -> Result<(Box<dyn Decoder>, SchemaRef), String>;

    /// A decoder of change records into `wanted` columns of their rows as far as those of the layout have them, and the columns it
    /// fills, if [`Kind::content`] is [`Content::Change`].
    ///
    /// # Errors
    /// As [`Kind::decoder`].
    fn changes(&self, layout: &Layout, wanted: &SchemaRef) -> Result<(Box<dyn ChangeDecoder>, SchemaRef), String> {
        let _ = (layout, wanted);
        Err(format!("records in `{}` are rows", self.name()))
    }

    /// A decoder of the text at `path` alone, which says the type of a record: of records of any of these types, and of others. It
    /// fills one column, a text or records around one.
    ///
    /// # Errors
    /// The text can't be found before the type is known.
    fn text_at(&self, path: &Path, types: &[&Layout]) -> Result<(Box<dyn Decoder>, SchemaRef), String> {
        let _ = (path, types);
        Err(format!("records in `{}` can't say their type in a field", self.name()))
    }

    /// The name of a registered schema, which says the type of a record, if [`Kind::is_registered`].
    ///
    /// # Errors
    /// It has none.
    fn record_name(&self, registered: &str) -> Result<String, String> {
        let _ = registered;
        Err(format!("records in `{}` have no name", self.name()))
    }

    /// The fields that the registered schema marks as personal data, by their names from the outside.
    fn private(&self, registered: &str) -> Vec<Vec<String>> {
        let _ = registered;
        Vec::new()
    }

    /// The value at `path` is written as a text: a date then, which no unit can be wrong in.
    fn is_text(&self, layout: &Layout, value: &[u8], path: &Path) -> bool {
        let _ = (layout, value, path);
        false
    }

    /// Places of the columns that a sink's values are made of, in the order of the fields.
    fn written(&self, schema: &Schema) -> Vec<usize> {
        schema.fields().iter().enumerate().filter(|(_, field)| is_written(field.name())).map(|(at, _)| at).collect()
    }

    /// How a sink writes such rows, with the schema to register with its subject.
    ///
    /// # Errors
    /// Why it can't.
    fn check(&self, rows: &Rows<'_>) -> Result<Layout, Diagnostic>;

    /// An encoder of the columns of a layout that [`Kind::check`] gave. `event`: they are those of events
    /// ([`Kind::shapes_events`]). `id`: that of the registered schema.
    ///
    /// # Errors
    /// The columns can't be written.
    fn encoder(&self, layout: &Layout, event: Option<EventShape>, id: u32) -> Result<Box<dyn Encoder>, String>;

    /// A record as a producer writes it, from the JSON of a case: by default, what is encoded of its columns. `id`: that of the
    /// registered schema.
    ///
    /// # Errors
    /// It has no such form.
    fn encode_json(&self, json: &str, layout: &Layout, id: u32) -> Result<Vec<u8>, String> {
        let mut rows = RowBuilder::new(&layout.columns, 1)?;
        JsonDecoder::new(&layout.columns).decode(json.as_bytes(), &mut rows).map_err(|e| e.to_string())?;
        let mut bytes = Vec::new();
        self.encoder(layout, None, id)?.batch(&rows.finish()?)?.write(0, &mut bytes)?;
        Ok(bytes)
    }

    /// A record that a sink has written, as JSON for a case: by default, its columns. `None`: its bytes are shown.
    ///
    /// # Errors
    /// A sink can't have written it.
    fn decode_json(&self, record: &[u8], layout: &Layout) -> Result<Option<String>, String> {
        let (mut decoder, columns) = self.decoder(layout, &layout.columns)?;
        let mut rows = RowBuilder::new(&columns, 1)?;
        decoder.decode(record, &mut rows).map_err(|e| e.to_string())?;
        as_json(&mut rows).map(Some)
    }
}

/// The fields of `wanted` that `own` has, nested likewise.
fn common(wanted: &Fields, own: &Fields) -> Fields {
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

/// The only row of a builder.
fn as_json(rows: &mut RowBuilder) -> Result<String, String> {
    let mut json = Vec::new();
    JsonEncoder::new(rows.schema()).batch(&rows.finish()?)?.write(0, &mut json)?;
    String::from_utf8(json).map_err(|e| e.to_string())
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
