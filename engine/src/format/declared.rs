//! Columns that a pipeline declares itself, for records without a registered schema.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema};
use operator_core::batch::time_type;
use operator_core::diagnostic::did_you_mean;
use operator_core::{Diagnostic, parse_type};
use schemars::JsonSchema;
use serde::Deserialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventShape {
    Envelope,
}

/// Declared columns: names to types, nested.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub enum Declared {
    /// A type name; a trailing `?` allows null, ` pii` after that marks personal data.
    Type(String),
    /// A list of one element type.
    List(Vec<Declared>),
    /// A record: its fields in the order of the file.
    Record(#[schemars(with = "BTreeMap<String, Declared>")] Vec<(String, Declared)>),
}

// By hand: an untagged enum would not know the location of an error in it.
impl<'de> Deserialize<'de> for Declared {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Declared, D::Error> {
        struct DeclaredVisitor;
        impl<'de> serde::de::Visitor<'de> for DeclaredVisitor {
            type Value = Declared;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a type such as `string`, a list `[string]`, or a mapping of columns to types")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Declared, E> {
                Ok(Declared::Type(text.to_string()))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, seq: A) -> Result<Declared, A::Error> {
                Vec::deserialize(serde::de::value::SeqAccessDeserializer::new(seq)).map(Declared::List)
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Declared, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Declared::Record(fields))
            }
        }
        d.deserialize_any(DeclaredVisitor)
    }
}

impl Declared {
    /// A type that ends in ` pii` is that of personal data, which samples don't show.
    pub fn is_private(text: &str) -> bool {
        text.trim_end().ends_with(" pii")
    }

    /// Something in it is personal data.
    pub fn has_private(&self) -> bool {
        match self {
            Declared::Type(text) => Declared::is_private(text),
            Declared::List(items) => items.iter().any(Declared::has_private),
            Declared::Record(fields) => fields.iter().any(|(_, of)| of.has_private()),
        }
    }
}

/// The fields of a record, in the order of the file.
pub type DeclaredFields = [(String, Declared)];

/// Columns that `schema` declares, for records whose fields have names, in the envelope if there is one. They are sorted by name:
/// where the file has a column then says nothing, and moving one changes no state that was kept.
pub fn declared_columns(columns: &DeclaredFields, event: Option<EventShape>) -> Result<Schema, Diagnostic> {
    let fields = by_name(columns)?;
    Ok(match event {
        Some(EventShape::Envelope) => envelope(fields),
        None => Schema::new(fields),
    })
}

/// Columns that `schema` declares, for records in which the place of a field says which it is: in the order of the file.
pub fn columns_in_order(columns: &DeclaredFields) -> Result<Schema, Diagnostic> {
    Ok(Schema::new(columns.iter().map(|(name, of)| field(name, of)).collect::<Result<Fields, _>>()?))
}

fn by_name(columns: &DeclaredFields) -> Result<Fields, Diagnostic> {
    let sorted: BTreeMap<&String, &Declared> = columns.iter().map(|(name, of)| (name, of)).collect();
    sorted.into_iter().map(|(name, of)| field(name, of)).collect()
}

const TYPES: [&str; 11] = ["string", "bool", "int", "long", "float", "double", "decimal(12,2)", "timestamp", "date", "bytes", "uuid"];

/// What other systems call them.
const ALIASES: [(&str, &[&str]); 6] = [
    ("string", &["text", "varchar", "str", "char", "utf8"]),
    ("int", &["integer", "int32", "smallint"]),
    ("long", &["int64", "bigint"]),
    ("double", &["float64", "number", "real"]),
    ("bool", &["boolean"]),
    ("timestamp", &["datetime", "instant", "timestamptz", "time"]),
];

fn wrong_type(text: &str, message: String) -> Diagnostic {
    let found = Diagnostic::error("type", message);
    if let Some((ours, _)) = ALIASES.iter().find(|(_, others)| others.contains(&text.to_ascii_lowercase().as_str())) {
        return found.help(format!("write `{ours}`"));
    }
    match did_you_mean(text, TYPES).filter(|_| !text.starts_with("decimal(")) {
        Some(help) => found.help(help),
        None => found.help("a trailing `?` allows null; `[string]` is a list, `{ name: type }` a record"),
    }
}

/// A declared column. Types allow no null unless they end in `?`.
fn field(name: &str, declared: &Declared) -> Result<Field, Diagnostic> {
    let at = |d: Diagnostic| d.at(["schema", name]);
    Ok(match declared {
        Declared::Type(text) => {
            let text = text.trim_end().strip_suffix(" pii").unwrap_or(text).trim_end();
            let (text, nullable) = text.strip_suffix('?').map_or((text, false), |t| (t, true));
            Field::new(name, parse_type(text).map_err(|e| at(wrong_type(text, e)))?, nullable)
        }
        Declared::List(items) => match items.as_slice() {
            [item] => Field::new(name, DataType::List(Arc::new(field("item", item)?)), false),
            _ => return Err(at(Diagnostic::error("type", "a list names exactly one element type: [string]"))),
        },
        Declared::Record(columns) => Field::new(name, DataType::Struct(by_name(columns)?), false),
    })
}

/// The column of an event's payload.
pub const DATA: &str = "data";

/// The event envelope of ADR-005 around a payload.
fn envelope(data: Fields) -> Schema {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    let metadata = Fields::from(vec![text("correlationId", true), text("causationId", true), text("schemaVersion", true)]);
    Schema::new(vec![
        text("eventId", false),
        text("eventType", false),
        text("eventVersion", true),
        Field::new("timestamp", time_type(), false),
        text("source", true),
        Field::new(DATA, DataType::Struct(data), false),
        Field::new("metadata", DataType::Struct(metadata), true),
    ])
}
