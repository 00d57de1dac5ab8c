//! Avro schemas with their names resolved.
//!
//! `apache-avro` parses and checks schemas. Two things it does not keep are hidden from it under names of our own
//! first: that a UUID was declared on a `fixed` (its bytes differ from a UUID on a string), and default values (it
//! refuses some valid ones, such as the bytes of a decimal; we check those we use ourselves).

use std::collections::HashMap;

use apache_avro::Schema;
use apache_avro::schema::{RecordField, RecordSchema};
use serde_json::{Map, Value};

const FIXED_LOGICAL_TYPE: &str = "headwater.logicalType";
const FIELD_DEFAULT: &str = "headwater.default";

/// A schema and the named types in it.
pub(crate) struct AvroSchema {
    pub(crate) root: Schema,
    names: HashMap<String, Schema>,
}

/// How a value is laid out in bytes, regardless of its logical type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    Null,
    Bool,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    Text,
    Fixed(usize),
    Enum,
    Array,
    Map,
    Record,
    Union,
}

impl AvroSchema {
    pub(crate) fn parse(json: &str) -> Result<AvroSchema, String> {
        let mut value: Value = serde_json::from_str(json).map_err(|e| format!("the Avro schema is not JSON: {e}"))?;
        hide(&mut value);
        let root = Schema::parse(&value).map_err(|e| format!("invalid Avro schema: {e}"))?;
        let mut names = HashMap::new();
        collect(&root, &mut names);
        Ok(AvroSchema { root, names })
    }

    /// The schema behind a reference by name.
    pub(crate) fn resolve<'a>(&'a self, schema: &'a Schema) -> Result<&'a Schema, String> {
        match schema {
            Schema::Ref { name } => {
                self.names.get(&name.fullname(None)).ok_or_else(|| format!("unknown type name {}", name.fullname(None)))
            }
            other => Ok(other),
        }
    }

    /// Whether a value of this schema takes no bytes at all.
    pub(crate) fn is_zero_width(&self, schema: &Schema) -> bool {
        self.zero_width(schema, &mut HashMap::new(), 0)
    }

    fn zero_width(&self, schema: &Schema, known: &mut HashMap<String, bool>, depth: u32) -> bool {
        // Real schemas don't nest so deep; treating it as a value with bytes only makes the check of its items stricter.
        if depth > 64 {
            return false;
        }
        match self.resolve(schema) {
            Ok(Schema::Null) => true,
            Ok(Schema::Fixed(fixed)) => fixed.size == 0,
            Ok(Schema::Record(record)) => {
                let name = record.name.fullname(None);
                if let Some(answer) = known.get(&name) {
                    return *answer;
                }
                known.insert(name.clone(), true);
                let answer = record.fields.iter().all(|f| self.zero_width(&f.schema, known, depth + 1));
                known.insert(name, answer);
                answer
            }
            Ok(Schema::Decimal(decimal)) => self.zero_width(&decimal.inner, known, depth + 1),
            _ => false,
        }
    }
}

/// The layout of a resolved schema.
pub(crate) fn layout(schema: &Schema) -> Layout {
    match schema {
        Schema::Null => Layout::Null,
        Schema::Boolean => Layout::Bool,
        Schema::Int | Schema::Date | Schema::TimeMillis => Layout::Int,
        Schema::Long
        | Schema::TimeMicros
        | Schema::TimestampMillis
        | Schema::TimestampMicros
        | Schema::TimestampNanos
        | Schema::LocalTimestampMillis
        | Schema::LocalTimestampMicros
        | Schema::LocalTimestampNanos => Layout::Long,
        Schema::Float => Layout::Float,
        Schema::Double => Layout::Double,
        Schema::Bytes | Schema::BigDecimal => Layout::Bytes,
        Schema::String | Schema::Uuid => Layout::Text,
        Schema::Fixed(fixed) => Layout::Fixed(fixed.size),
        Schema::Decimal(decimal) => layout(&decimal.inner),
        Schema::Duration => Layout::Fixed(12),
        Schema::Enum(_) => Layout::Enum,
        Schema::Array(_) => Layout::Array,
        Schema::Map(_) => Layout::Map,
        Schema::Record(_) => Layout::Record,
        Schema::Union(_) | Schema::Ref { .. } => Layout::Union,
    }
}

/// Whether a resolved schema is a UUID of 16 bytes.
pub(crate) fn is_fixed_uuid(schema: &Schema) -> bool {
    match schema {
        Schema::Fixed(fixed) => fixed.size == 16 && fixed.attributes.get(FIXED_LOGICAL_TYPE).is_some_and(|t| t == "uuid"),
        _ => false,
    }
}

/// The default of a record's field.
pub(crate) fn default_of(field: &RecordField) -> Option<&Value> {
    field.custom_attributes.get(FIELD_DEFAULT)
}

/// What a branch of a union is called: its short name, or the name of its type.
pub(crate) fn branch_name(schema: &Schema) -> String {
    match schema {
        Schema::Ref { name } => name.name.clone(),
        Schema::Record(record) => record.name.name.clone(),
        Schema::Enum(symbols) => symbols.name.name.clone(),
        Schema::Fixed(fixed) => fixed.name.name.clone(),
        Schema::Decimal(decimal) => match decimal.inner.as_ref() {
            Schema::Fixed(fixed) => fixed.name.name.clone(),
            _ => "bytes".to_string(),
        },
        other => type_name(other).to_string(),
    }
}

/// The name of a schema's type, for messages and unions.
pub(crate) fn type_name(schema: &Schema) -> &'static str {
    match layout(schema) {
        Layout::Null => "null",
        Layout::Bool => "boolean",
        Layout::Int => "int",
        Layout::Long => "long",
        Layout::Float => "float",
        Layout::Double => "double",
        Layout::Bytes => "bytes",
        Layout::Text => "string",
        Layout::Fixed(_) => "fixed",
        Layout::Enum => "enum",
        Layout::Array => "array",
        Layout::Map => "map",
        Layout::Record => "record",
        Layout::Union => "union",
    }
}

/// The full name of a named type, and the full names of its aliases.
pub(crate) fn names_of(schema: &Schema) -> Option<(String, Vec<String>)> {
    let (name, aliases) = match schema {
        Schema::Record(RecordSchema { name, aliases, .. }) => (name, aliases),
        Schema::Enum(symbols) => (&symbols.name, &symbols.aliases),
        Schema::Fixed(fixed) => (&fixed.name, &fixed.aliases),
        Schema::Decimal(decimal) => return names_of(&decimal.inner),
        _ => return None,
    };
    let aliases = aliases.iter().flatten().map(|a| a.fullname(name.namespace.clone())).collect();
    Some((name.fullname(None), aliases))
}

fn collect(schema: &Schema, names: &mut HashMap<String, Schema>) {
    if let Some((name, _)) = names_of(schema) {
        names.insert(name, schema.clone());
    }
    match schema {
        Schema::Record(record) => record.fields.iter().for_each(|f| collect(&f.schema, names)),
        Schema::Array(array) => collect(&array.items, names),
        Schema::Map(map) => collect(&map.types, names),
        Schema::Union(union) => union.variants().iter().for_each(|s| collect(s, names)),
        _ => {}
    }
}

/// Renames what `apache-avro` must not interpret. Recursion is bounded by the JSON parser's depth limit of 128.
fn hide(schema: &mut Value) {
    match schema {
        Value::Array(branches) => branches.iter_mut().for_each(hide),
        Value::Object(object) => {
            if object.get("type").is_some_and(|t| t == "fixed") && object.get("logicalType").is_some_and(|t| t != "decimal") {
                rename(object, "logicalType", FIXED_LOGICAL_TYPE);
            }
            for key in ["type", "items", "values"] {
                if let Some(inner) = object.get_mut(key) {
                    hide(inner);
                }
            }
            for field in object.get_mut("fields").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(field) = field.as_object_mut() {
                    rename(field, "default", FIELD_DEFAULT);
                    if let Some(inner) = field.get_mut("type") {
                        hide(inner);
                    }
                }
            }
        }
        _ => {}
    }
}

fn rename(object: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = object.remove(from) {
        object.insert(to.to_string(), value);
    }
}
