//! Rows as Avro records in Confluent's wire format.
//!
//! The output schema is given: made by [`arrow_to_avro`](crate::arrow_to_avro), or registered by a user. Columns and
//! fields are matched by name once; per row the values are written one after the other. A field without a column takes
//! its default, or null; a column without a field is refused, because its data would vanish without notice.
//!
//! Conversions that lose nothing are made: narrower integers and floats to wider ones, text to enums and UUIDs. A
//! timestamp is written in the unit of the field; to a coarser one towards the past. A column may be nullable where the
//! field is not (expressions are often only formally nullable): a null is then an error of its row.

use std::collections::HashMap;

use apache_avro::Schema;
use apache_avro::schema::RecordSchema;
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Fields, SchemaRef, TimeUnit};

use super::arrow_types::branch_names;
use super::compile::within;
use super::default::encode_default;
use super::scalars::unit_of;
use super::schema::{AvroSchema, Layout, default_of, is_fixed_uuid, layout, type_name};
use super::write::{self, Encode, FieldEncode};
use crate::column::MAX_SCHEMA_DEPTH;
use crate::view::{self, View};

/// Encodes the rows of batches of one Arrow schema with one Avro schema.
pub struct AvroEncoder {
    schema: SchemaRef,
    fields: Vec<FieldEncode>,
    header: [u8; 5],
}

/// The rows of one batch, ready to be written.
pub struct AvroRows<'a> {
    encoder: &'a AvroEncoder,
    columns: Vec<View<'a>>,
    rows: usize,
}

impl AvroEncoder {
    /// An encoder of `schema` as the Avro record `avro_json`, which is registered under `schema_id`.
    ///
    /// # Errors
    /// Names the field that is missing, superfluous, or of a type that cannot be written.
    pub fn new(avro_json: &str, schema: &SchemaRef, schema_id: u32) -> Result<AvroEncoder, String> {
        let avro = AvroSchema::parse(avro_json)?;
        let Schema::Record(record) = avro.resolve(&avro.root)? else {
            return Err(format!("the root of the Avro schema must be a record, found {}", type_name(&avro.root)));
        };
        let fields = compile_record(&avro, record, schema.fields(), 0)?;
        let [a, b, c, d] = schema_id.to_be_bytes();
        Ok(AvroEncoder { schema: SchemaRef::clone(schema), fields, header: [0, a, b, c, d] })
    }

    /// Resolves the columns of a batch.
    ///
    /// # Errors
    /// Names the column that differs from the encoder's schema.
    pub fn batch<'a>(&'a self, batch: &'a RecordBatch) -> Result<AvroRows<'a>, String> {
        Ok(AvroRows { encoder: self, columns: view::columns(batch, &self.schema)?, rows: batch.num_rows() })
    }
}

impl AvroRows<'_> {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether the batch has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Appends one row, header included, to `out`.
    ///
    /// # Errors
    /// The row has a value that the Avro schema cannot hold, such as a null in a field that is not nullable or a text that
    /// is not a symbol of the enum. `out` is then as it was before.
    pub fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<(), String> {
        if row >= self.rows {
            return Err(format!("row {row} of {}", self.rows));
        }
        let start = out.len();
        out.extend_from_slice(&self.encoder.header);
        write::record(&self.encoder.fields, &self.columns, row, out).map_err(|fail| {
            out.truncate(start);
            fail.into_text()
        })
    }
}

fn compile_record(avro: &AvroSchema, record: &RecordSchema, columns: &Fields, depth: usize) -> Result<Vec<FieldEncode>, String> {
    if let Some(extra) = columns.iter().find(|c| !record.fields.iter().any(|f| f.name == *c.name())) {
        return Err(format!("{}: the Avro schema has no such field", extra.name()));
    }
    let mut fields = Vec::with_capacity(record.fields.len());
    for field in &record.fields {
        let compiled = match columns.find(&field.name) {
            Some((index, column)) => {
                compile(avro, &field.schema, column, depth + 1).map(|encode| FieldEncode::Column(index, field.name.clone(), encode))
            }
            None => constant(avro, field).map(FieldEncode::Constant),
        };
        fields.push(compiled.map_err(|e| within(&field.name, e))?);
    }
    Ok(fields)
}

/// What is written for a field that has no column.
fn constant(avro: &AvroSchema, field: &apache_avro::schema::RecordField) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let null = serde_json::Value::Null;
    let json = default_of(field).unwrap_or(&null);
    encode_default(avro, json, &field.schema, &mut bytes, 0).map_err(|cause| match default_of(field) {
        Some(_) => cause,
        None => "there is no such column, and the field has no default and is not nullable".to_string(),
    })?;
    Ok(bytes)
}

fn compile(avro: &AvroSchema, schema: &Schema, column: &Field, depth: usize) -> Result<Encode, String> {
    if depth > MAX_SCHEMA_DEPTH * 2 {
        return Err("nested too deep".to_string());
    }
    let schema = avro.resolve(schema)?;
    match (schema, column.data_type()) {
        (Schema::Union(union), _) => compile_union(avro, union.variants(), column, depth),
        (Schema::Record(record), DataType::Struct(columns)) => Ok(Encode::Record(compile_record(avro, record, columns, depth)?)),
        (Schema::Array(array), DataType::List(item)) => {
            Ok(Encode::Array(Box::new(compile(avro, &array.items, item, depth + 1).map_err(|e| within("[]", e))?)))
        }
        (Schema::Map(map), DataType::Map(entries, _)) => {
            let value = match entries.data_type() {
                DataType::Struct(fields) => fields.get(1).ok_or_else(|| cannot(column, schema))?,
                _ => return Err(cannot(column, schema)),
            };
            Ok(Encode::Map(Box::new(compile(avro, &map.types, value, depth + 1).map_err(|e| within("[]", e))?)))
        }
        _ => scalar(schema, column).ok_or_else(|| cannot(column, schema)),
    }
}

fn cannot(column: &Field, schema: &Schema) -> String {
    format!("{} cannot be written as {}", column.data_type(), type_name(schema))
}

fn compile_union(avro: &AvroSchema, branches: &[Schema], column: &Field, depth: usize) -> Result<Encode, String> {
    let null = branches.iter().position(|b| matches!(b, Schema::Null)).map(|i| i as i64);
    let values: Vec<(i64, &Schema)> =
        branches.iter().enumerate().filter(|(_, b)| !matches!(b, Schema::Null)).map(|(i, b)| (i as i64, b)).collect();
    if column.data_type() == &DataType::Null {
        return null
            .map(|null| Encode::Choice { null: Some(null), value: null, inner: Box::new(Encode::Null) })
            .ok_or_else(|| "the union has no null".to_string());
    }
    if let (true, DataType::Struct(fields)) = (values.len() > 1, column.data_type()) {
        let names = branch_names(avro, branches)?;
        if fields.iter().all(|f| names.contains(f.name())) {
            let mut of = Vec::with_capacity(fields.len());
            for field in fields {
                let place = names.iter().position(|n| n == field.name()).and_then(|p| values.get(p));
                let (index, branch) = place.ok_or_else(|| format!("{}: not a branch of the union", field.name()))?;
                of.push((*index, compile(avro, branch, field, depth + 1).map_err(|e| within(field.name(), e))?));
            }
            return Ok(Encode::Branches { null, of });
        }
    }
    let mut cause = format!("{} cannot be written as any branch of the union", column.data_type());
    for (value, branch) in &values {
        match compile(avro, branch, column, depth + 1) {
            Ok(inner) => return Ok(Encode::Choice { null, value: *value, inner: Box::new(inner) }),
            Err(error) if values.len() == 1 => cause = error,
            Err(_) => {}
        }
    }
    Err(cause)
}

fn scalar(schema: &Schema, column: &Field) -> Option<Encode> {
    use DataType::*;
    let target = layout(schema);
    Some(match (column.data_type(), schema) {
        (Decimal128(_, scale), Schema::Decimal(decimal)) => {
            let same = usize::try_from(*scale).ok() == Some(decimal.scale);
            let precision = u8::try_from(decimal.precision.min(38)).ok()?;
            match target {
                Layout::Fixed(size) if same => Encode::DecimalFixed(size, precision),
                Layout::Bytes if same => Encode::DecimalBytes(precision),
                _ => return None,
            }
        }
        (_, Schema::Decimal(_) | Schema::BigDecimal) => return None,
        (Date32, Schema::Date) => Encode::Int,
        (Time32(unit), Schema::TimeMillis) => Encode::Scaled(*unit, TimeUnit::Millisecond),
        (Time32(unit) | Time64(unit), Schema::TimeMicros) => Encode::Scaled(*unit, TimeUnit::Microsecond),
        (_, Schema::Date | Schema::TimeMillis | Schema::TimeMicros) => return None,
        (Timestamp(unit, _), schema) => Encode::Scaled(*unit, unit_of(schema)?),
        (_, schema) if unit_of(schema).is_some() => return None,
        (Utf8 | LargeUtf8 | Utf8View, Schema::Enum(symbols)) => {
            let numbered = symbols.symbols.iter().enumerate();
            Encode::Enum(numbered.map(|(i, s)| (s.as_str().into(), i as i64)).collect::<HashMap<Box<str>, i64>>())
        }
        (Utf8 | LargeUtf8 | Utf8View, schema) if is_fixed_uuid(schema) => Encode::FixedUuid,
        (data_type, _) => {
            let source = match data_type {
                Null => Layout::Null,
                Boolean => Layout::Bool,
                Int8 | Int16 | Int32 | UInt8 | UInt16 => Layout::Int,
                Int64 | UInt32 | UInt64 => Layout::Long,
                Float32 => Layout::Float,
                Float64 => Layout::Double,
                Utf8 | LargeUtf8 | Utf8View => Layout::Text,
                Binary | LargeBinary | BinaryView => Layout::Bytes,
                FixedSizeBinary(_) => Layout::Bytes,
                _ => return None,
            };
            return plain(source, target, data_type);
        }
    })
}

fn plain(source: Layout, target: Layout, data_type: &DataType) -> Option<Encode> {
    Some(match (source, target) {
        (Layout::Null, Layout::Null) => Encode::Null,
        (Layout::Bool, Layout::Bool) => Encode::Bool,
        (Layout::Int, Layout::Int) => Encode::Int,
        (Layout::Int | Layout::Long, Layout::Long) => Encode::Long,
        (Layout::Float, Layout::Float) => Encode::Float,
        (Layout::Float | Layout::Double, Layout::Double) => Encode::Double,
        (Layout::Text, Layout::Text) => Encode::Text,
        (Layout::Bytes, Layout::Bytes) => Encode::Bytes,
        (Layout::Bytes, Layout::Fixed(size)) => match data_type {
            DataType::FixedSizeBinary(width) if usize::try_from(*width).ok() != Some(size) => return None,
            _ => Encode::Fixed(size),
        },
        _ => return None,
    })
}
