//! `key`: the columns of the record key, and how it is encoded.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use super::{Declared, Format};

/// The record key.
#[derive(Clone, Debug)]
pub enum Key {
    /// A column, as Kafka's serializers write it.
    Column(String),
    /// Columns of the rows that are a record in the key.
    Columns(Vec<String>),
    /// A record, with columns of its own.
    Record(KeyRecord),
}

/// A record key that is a record.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    /// How the record is encoded: `json`, `avro` or `csv`.
    pub format: Format,
    /// Its columns, in the order in which `enrich` looks them up; all of them if left out. Of a sink: the columns to write.
    #[serde(default)]
    pub columns: Option<Vec<String>>,
    /// The types of its columns, for JSON without a registered schema and for CSV, there in the order of the fields.
    #[serde(default)]
    pub schema: Option<Declared>,
    /// Subject in the schema registry instead of `{topic}-key`.
    #[serde(default)]
    pub subject: Option<String>,
}

impl Key {
    /// The columns that are named.
    pub fn columns(&self) -> &[String] {
        match self {
            Key::Column(column) => std::slice::from_ref(column),
            Key::Columns(columns) => columns,
            Key::Record(record) => record.columns.as_deref().unwrap_or_default(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.columns().join(", "))?;
        match self {
            Key::Record(record) if record.columns.is_some() => write!(f, " in {}", record.format.name()),
            Key::Record(record) => write!(f, "a record in {}", record.format.name()),
            _ => Ok(()),
        }
    }
}

// By hand: an untagged enum would not know the location of an error in it.
impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Key, D::Error> {
        struct Written;
        impl<'de> Visitor<'de> for Written {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a column, a list of columns such as `[tenant, sku]`, or a record such as `{ format: avro }`")
            }

            fn visit_str<E: serde::de::Error>(self, column: &str) -> Result<Key, E> {
                Ok(Key::Column(column.to_string()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, columns: A) -> Result<Key, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(columns)).map(Key::Columns)
            }

            fn visit_map<A: MapAccess<'de>>(self, record: A) -> Result<Key, A::Error> {
                KeyRecord::deserialize(MapAccessDeserializer::new(record)).map(Key::Record)
            }
        }
        deserializer.deserialize_any(Written)
    }
}

impl JsonSchema for Key {
    fn schema_name() -> Cow<'static, str> {
        "Key".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let record = generator.subschema_for::<KeyRecord>();
        json_schema!({ "anyOf": [
            { "type": "string", "description": "A column, as Kafka's serializers write it." },
            { "type": "array", "minItems": 1, "items": { "type": "string" }, "description": "Columns that are a record in the key." },
            record,
        ] })
    }
}
