//! Avro schemas as Arrow schemas and back.

use std::sync::Arc;

use apache_avro::Schema;
use arrow::datatypes::{DataType, Field, Fields, Schema as ArrowSchema, SchemaRef, TimeUnit};
use serde_json::{Value, json};

use super::schema::{AvroSchema, Layout, branch_name, is_fixed_uuid, layout, names_of, type_name};
use crate::column::MAX_SCHEMA_DEPTH;

/// Fields an Arrow schema may have in all its levels; references by name can multiply a short schema beyond any memory.
const MAX_FIELDS: usize = 10_000;

/// The Arrow schema of an Avro record.
///
/// Logical types: `decimal` (up to 38 digits), `uuid` as text, `date`, `time-millis`, `time-micros`, `timestamp-*` in UTC,
/// `local-timestamp-*` without a zone, `duration` as 12 bytes. Enums are text. A union of several types besides null is
/// a struct of nullable fields, one per type, named after it (with its namespace if two short names are equal).
///
/// # Errors
/// The schema is invalid, recursive, or not a record; names the field.
pub fn avro_to_arrow(avro_json: &str) -> Result<SchemaRef, String> {
    let schema = AvroSchema::parse(avro_json)?;
    let mut mapping = Mapping { schema: &schema, open: Vec::new(), fields: 0 };
    match mapping.map(&schema.root, 0)? {
        (DataType::Struct(fields), false) => Ok(Arc::new(ArrowSchema::new(fields))),
        _ => Err(format!("the root of the Avro schema must be a record, found {}", type_name(&schema.root))),
    }
}

/// The fields of a record inside a schema.
pub(super) fn record_to_arrow(schema: &AvroSchema, record: &Schema) -> Result<Fields, String> {
    let mut mapping = Mapping { schema, open: Vec::new(), fields: 0 };
    match mapping.map(record, 0)? {
        (DataType::Struct(fields), false) => Ok(fields),
        _ => Err(format!("{} instead of a record", type_name(record))),
    }
}

struct Mapping<'a> {
    schema: &'a AvroSchema,
    /// Named types around this place.
    open: Vec<String>,
    fields: usize,
}

impl<'a> Mapping<'a> {
    /// The Arrow type of a schema, and whether it is nullable.
    fn map(&mut self, schema: &'a Schema, depth: usize) -> Result<(DataType, bool), String> {
        self.fields += 1;
        if depth > MAX_SCHEMA_DEPTH || self.fields > MAX_FIELDS {
            return Err(format!("the schema is too large (more than {MAX_SCHEMA_DEPTH} levels or {MAX_FIELDS} fields)"));
        }
        let schema = self.schema.resolve(schema)?;
        let name = names_of(schema).map(|(name, _)| name);
        if let Some(name) = name.filter(|n| self.open.contains(n)) {
            return Err(format!("{name} contains itself; recursive types have no Arrow form"));
        }
        let data_type = match schema {
            Schema::Union(union) => return self.union(union.variants(), depth),
            Schema::Record(record) => {
                self.open.push(record.name.fullname(None));
                let mut fields = Vec::with_capacity(record.fields.len());
                for field in &record.fields {
                    let (data_type, nullable) = self.map(&field.schema, depth + 1).map_err(|e| format!("{}: {e}", field.name))?;
                    fields.push(Field::new(&field.name, data_type, nullable));
                }
                self.open.pop();
                DataType::Struct(fields.into())
            }
            Schema::Array(array) => {
                let (item, nullable) = self.map(&array.items, depth + 1)?;
                DataType::List(Arc::new(Field::new("item", item, nullable)))
            }
            Schema::Map(map) => {
                let (value, nullable) = self.map(&map.types, depth + 1)?;
                let entry = Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", value, nullable)]);
                DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entry), false)), false)
            }
            scalar => scalar_type(scalar)?,
        };
        let nullable = data_type == DataType::Null;
        Ok((data_type, nullable))
    }

    fn union(&mut self, branches: &'a [Schema], depth: usize) -> Result<(DataType, bool), String> {
        let nullable = branches.iter().any(|b| matches!(b, Schema::Null));
        let values: Vec<&'a Schema> = branches.iter().filter(|b| !matches!(b, Schema::Null)).collect();
        match values.as_slice() {
            [] => Ok((DataType::Null, true)),
            [only] => Ok((self.map(only, depth + 1)?.0, nullable)),
            several => {
                let names = branch_names(self.schema, branches)?;
                let mut fields = Vec::with_capacity(several.len());
                for (branch, name) in several.iter().zip(names) {
                    let (data_type, _) = self.map(branch, depth + 1).map_err(|e| format!("{name}: {e}"))?;
                    fields.push(Field::new(name, data_type, true));
                }
                Ok((DataType::Struct(fields.into()), nullable))
            }
        }
    }
}

/// The field names of a union's branches that are not null: short names, full names where short ones are equal.
pub(crate) fn branch_names(schema: &AvroSchema, branches: &[Schema]) -> Result<Vec<String>, String> {
    let resolved = branches.iter().map(|b| schema.resolve(b)).collect::<Result<Vec<_>, _>>()?;
    let values: Vec<&Schema> = resolved.into_iter().filter(|b| !matches!(b, Schema::Null)).collect();
    let short: Vec<String> = values.iter().map(|b| branch_name(b)).collect();
    let name = |(index, branch): (usize, &&Schema)| {
        let own = short.get(index).cloned().unwrap_or_default();
        let unique = short.iter().filter(|other| **other == own).count() == 1;
        if unique { own } else { names_of(branch).map_or(own, |(full, _)| full) }
    };
    Ok(values.iter().enumerate().map(name).collect())
}

/// The Arrow type of a schema without children.
pub(crate) fn scalar_type(schema: &Schema) -> Result<DataType, String> {
    let instant = |unit| DataType::Timestamp(unit, Some("UTC".into()));
    Ok(match schema {
        Schema::Date => DataType::Date32,
        Schema::TimeMillis => DataType::Time32(TimeUnit::Millisecond),
        Schema::TimeMicros => DataType::Time64(TimeUnit::Microsecond),
        Schema::TimestampMillis => instant(TimeUnit::Millisecond),
        Schema::TimestampMicros => instant(TimeUnit::Microsecond),
        Schema::TimestampNanos => instant(TimeUnit::Nanosecond),
        Schema::LocalTimestampMillis => DataType::Timestamp(TimeUnit::Millisecond, None),
        Schema::LocalTimestampMicros => DataType::Timestamp(TimeUnit::Microsecond, None),
        Schema::LocalTimestampNanos => DataType::Timestamp(TimeUnit::Nanosecond, None),
        Schema::Decimal(decimal) => {
            let precision = u8::try_from(decimal.precision).ok().filter(|p| *p <= 38);
            let precision = precision.ok_or_else(|| format!("a decimal of {} digits; at most 38 are supported", decimal.precision))?;
            DataType::Decimal128(precision, i8::try_from(decimal.scale).map_err(|_| "a decimal's scale is out of range")?)
        }
        Schema::BigDecimal => return Err("big-decimal is not supported; its scale differs from value to value".to_string()),
        other if is_fixed_uuid(other) => DataType::Utf8,
        other => match layout(other) {
            Layout::Null => DataType::Null,
            Layout::Bool => DataType::Boolean,
            Layout::Int => DataType::Int32,
            Layout::Long => DataType::Int64,
            Layout::Float => DataType::Float32,
            Layout::Double => DataType::Float64,
            Layout::Bytes => DataType::Binary,
            Layout::Text | Layout::Enum => DataType::Utf8,
            Layout::Fixed(size) => DataType::FixedSizeBinary(i32::try_from(size).map_err(|_| "a fixed is too large")?),
            _ => return Err(format!("{} is not a scalar", type_name(other))),
        },
    })
}

/// The Avro schema, as JSON, of records that have the columns of an Arrow schema. Nullable fields become
/// `["null", T]` with default null; nested records are named after their path.
///
/// # Errors
/// A name is not a valid Avro name, or a type has no Avro form; names the field.
pub fn arrow_to_avro(schema: &ArrowSchema, name: &str, namespace: &str) -> Result<String, String> {
    check_name(name)?;
    if !namespace.is_empty() {
        namespace.split('.').try_for_each(check_name)?;
    }
    let mut record = record_json(schema.fields(), name)?;
    if let (false, Some(object)) = (namespace.is_empty(), record.as_object_mut()) {
        object.insert("namespace".to_string(), Value::from(namespace));
    }
    let text = record.to_string();
    AvroSchema::parse(&text)?;
    Ok(text)
}

fn check_name(name: &str) -> Result<(), String> {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if first && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Ok(());
    }
    Err(format!("`{}` is not an Avro name: a letter or underscore, then letters, digits and underscores", name.escape_debug()))
}

fn record_json(fields: &Fields, name: &str) -> Result<Value, String> {
    let mut members = Vec::with_capacity(fields.len());
    for field in fields {
        check_name(field.name())?;
        let path = format!("{name}_{}", field.name());
        let mut member = json!({ "name": field.name(), "type": field_json(field, &path).map_err(|e| format!("{}: {e}", field.name()))? });
        if let (true, Some(object)) = (field.is_nullable(), member.as_object_mut()) {
            object.insert("default".to_string(), Value::Null);
        }
        members.push(member);
    }
    Ok(json!({ "type": "record", "name": name, "fields": members }))
}

/// The type of a field; `path` names records and fixed types in it.
fn field_json(field: &Field, path: &str) -> Result<Value, String> {
    let value = type_json(field.data_type(), path)?;
    Ok(if field.is_nullable() && value != "null" { json!(["null", value]) } else { value })
}

fn type_json(data_type: &DataType, path: &str) -> Result<Value, String> {
    let logical = |base: &str, name: &str| json!({ "type": base, "logicalType": name });
    let timestamp = |unit: &TimeUnit, prefix: &str| {
        let unit = match unit {
            TimeUnit::Second | TimeUnit::Millisecond => "millis",
            TimeUnit::Microsecond => "micros",
            TimeUnit::Nanosecond => "nanos",
        };
        logical("long", &format!("{prefix}timestamp-{unit}"))
    };
    Ok(match data_type {
        DataType::Null => json!("null"),
        DataType::Boolean => json!("boolean"),
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 => json!("int"),
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => json!("long"),
        DataType::Float32 => json!("float"),
        DataType::Float64 => json!("double"),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => json!("string"),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => json!("bytes"),
        DataType::FixedSizeBinary(size) => json!({ "type": "fixed", "name": path, "size": size }),
        DataType::Date32 => logical("int", "date"),
        DataType::Time32(_) => logical("int", "time-millis"),
        DataType::Time64(_) => logical("long", "time-micros"),
        DataType::Timestamp(unit, Some(_)) => timestamp(unit, ""),
        DataType::Timestamp(unit, None) => timestamp(unit, "local-"),
        DataType::Decimal128(precision, scale) if *scale >= 0 => {
            json!({ "type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale })
        }
        DataType::Struct(fields) => record_json(fields, path)?,
        DataType::List(item) => json!({ "type": "array", "items": field_json(item, &format!("{path}_item"))? }),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) => match fields.as_ref() {
                [key, value] if key.data_type() == &DataType::Utf8 => {
                    json!({ "type": "map", "values": field_json(value, &format!("{path}_value"))? })
                }
                _ => return Err("a map needs string keys".to_string()),
            },
            _ => return Err("a map needs entries of key and value".to_string()),
        },
        other => return Err(format!("{other} has no Avro form")),
    })
}
