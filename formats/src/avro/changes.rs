//! Change records of Debezium in Avro: an envelope with the row as it was and as it is.
//!
//! For each writer schema the envelope is compiled once into a walk over its fields. The walk reads `op` and `ts_ms`, finds where
//! the rows begin and end, and passes over the rest; a row is then read like any record.

use std::sync::Arc;

use apache_avro::Schema;
use apache_avro::schema::RecordSchema;
use arrow::datatypes::{Schema as ArrowSchema, SchemaRef};
use serde_json::{Value, json};

use super::arrow_types::record_to_arrow;
use super::compile::{compile_row, compile_skips, within};
use super::decode_plan::{DecodePlan, Skip};
use super::header;
use super::schema::{AvroSchema, Layout, layout, type_name};
use super::wire::Wire;
use super::writers::Writers;
use crate::builder::RowBuilder;
use crate::cause::{DecodeError, Fail};
use crate::change::{Change, ChangeDecoder, ChangedRow, Operation};

/// The digits that a decimal can have here. Connectors say 64 where they don't know better.
const MAX_DIGITS: u64 = 38;

/// The schema with the logical types that connectors name in attributes of their own: times of Debezium without a logical type of Avro,
/// in UTC.
///
/// # Errors
/// It is not JSON.
pub fn with_connect_types(schema_json: &str) -> Result<String, String> {
    let mut schema: Value = serde_json::from_str(schema_json).map_err(|e| format!("the Avro schema is not JSON: {e}"))?;
    name_types(&mut schema);
    Ok(schema.to_string())
}

/// Recursion is bounded by the JSON parser's depth limit of 128.
fn name_types(schema: &mut Value) {
    match schema {
        Value::Array(branches) => branches.iter_mut().for_each(name_types),
        Value::Object(object) => {
            let logical = match object.get("connect.name").and_then(Value::as_str) {
                Some("io.debezium.time.Date") => Some("date"),
                Some("io.debezium.time.Time") => Some("time-millis"),
                Some("io.debezium.time.MicroTime") => Some("time-micros"),
                Some("io.debezium.time.Timestamp") => Some("timestamp-millis"),
                Some("io.debezium.time.MicroTimestamp") => Some("timestamp-micros"),
                Some("io.debezium.time.NanoTimestamp") => Some("timestamp-nanos"),
                _ => None,
            };
            if let Some(logical) = logical.filter(|_| !object.contains_key("logicalType")) {
                object.insert("logicalType".into(), logical.into());
            }
            let is_decimal = object.get("logicalType").is_some_and(|t| t == "decimal");
            if is_decimal && object.get("precision").and_then(Value::as_u64).is_some_and(|digits| digits > MAX_DIGITS) {
                object.insert("precision".into(), json!(MAX_DIGITS));
            }
            for key in ["type", "items", "values"] {
                object.get_mut(key).into_iter().for_each(name_types);
            }
            for field in object.get_mut("fields").and_then(Value::as_array_mut).into_iter().flatten() {
                field.get_mut("type").into_iter().for_each(name_types);
            }
        }
        _ => {}
    }
}

/// The columns of the rows in an envelope: those of `after`.
///
/// # Errors
/// It is no envelope, or a column has no Arrow type; names the field.
pub fn changed_columns(schema_json: &str) -> Result<SchemaRef, String> {
    let schema = AvroSchema::parse(schema_json)?;
    Ok(Arc::new(ArrowSchema::new(record_to_arrow(&schema, row_schema(&schema, "after")?)?)))
}

/// The record that a field of an envelope is.
fn row_of<'s>(avro: &'s AvroSchema, name: &str) -> Result<&'s RecordSchema, String> {
    match row_schema(avro, name)? {
        Schema::Record(record) => Ok(record),
        other => Err(format!("{name}: {} instead of a record", type_name(other))),
    }
}

fn row_schema<'s>(avro: &'s AvroSchema, name: &str) -> Result<&'s Schema, String> {
    let lacks = || format!("not an envelope of change records: it has no field `{name}`");
    let Schema::Record(envelope) = avro.resolve(&avro.root)? else { return Err(lacks()) };
    let field = envelope.fields.iter().find(|field| field.name == name).ok_or_else(lacks)?;
    Nullable::of(avro, &field.schema).map(|(_, row)| row)
}

/// Decodes change records of any number of writer schemas into the columns of one reader.
pub struct AvroChanges {
    reader: AvroSchema,
    projection: SchemaRef,
    envelopes: Writers<Envelope>,
}

impl AvroChanges {
    /// A reader of rows with the columns in `projection`, each of which is a field of the envelope's row with the type that
    /// [`changed_columns`] gives it. Nullability may differ, as for [`AvroReader`](crate::AvroReader).
    ///
    /// # Errors
    /// The schema is no envelope, or a projected field is not in its row or has another type.
    pub fn new(schema_json: &str, projection: &SchemaRef) -> Result<AvroChanges, String> {
        let reader = AvroSchema::parse(schema_json)?;
        let changes = AvroChanges { reader, projection: projection.clone(), envelopes: Writers::default() };
        // Reading what the reader itself would write must work; this finds fields that do not exist.
        changes.envelope(&changes.reader)?;
        Ok(changes)
    }

    fn envelope(&self, writer: &AvroSchema) -> Result<Envelope, String> {
        let (before, after) = (row_of(writer, "before")?, row_of(writer, "after")?);
        if before.name != after.name {
            return Err("`before` and `after` are records of different types".to_string());
        }
        let row = compile_row((writer, after), (&self.reader, row_of(&self.reader, "after")?), &self.projection)?;
        let Schema::Record(record) = writer.resolve(&writer.root)? else { return Err("not a record".to_string()) };
        let mut parts = Vec::with_capacity(record.fields.len());
        for field in &record.fields {
            let (nullable, of) = Nullable::of(writer, &field.schema).map_err(|e| within(&field.name, e))?;
            parts.push(match (field.name.as_str(), layout(of)) {
                ("op", Layout::Text) => (Part::Operation, nullable, of),
                ("op", _) => return Err(format!("op: {} instead of a text", type_name(of))),
                ("ts_ms", Layout::Long) => (Part::Time, nullable, of),
                ("before", _) => (Part::Before, nullable, of),
                ("after", _) => (Part::After, nullable, of),
                _ => (Part::Other, Nullable(None), &field.schema),
            });
        }
        let (skips, walk) = compile_skips(writer, parts.iter().map(|(_, _, of)| *of))?;
        let fields = parts.into_iter().zip(skips).map(|((part, nullable, _), skip)| (part, nullable, skip)).collect();
        Ok(Envelope { fields, walk, row })
    }
}

impl ChangeDecoder for AvroChanges {
    fn read<'a>(&mut self, value: &'a [u8]) -> Result<Option<Change<'a>>, DecodeError> {
        let (schema, body) = header(value)?;
        let found = self.envelopes.get(schema)?.walk(body)?;
        let operation = Operation::of(found.operation.and_then(|op| std::str::from_utf8(op).ok())).map_err(DecodeError::Bad)?;
        let row = |bytes: Option<&'a [u8]>| bytes.map(|bytes| ChangedRow { bytes, schema });
        let after = if operation == Operation::Delete { None } else { row(found.after) };
        Ok(Some(Change { operation, before: row(found.before), after, at: found.at }))
    }

    fn row(&mut self, row: ChangedRow<'_>, rows: &mut RowBuilder) -> Result<(), DecodeError> {
        let program = &self.envelopes.get(row.schema)?.row;
        rows.attempt(&self.projection, |root| program.run(&mut Wire::new(row.bytes), root))?;
        Ok(())
    }

    fn add_schema(&mut self, id: u32, text: &str) -> Result<(), String> {
        let writer = with_connect_types(text).and_then(|text| AvroSchema::parse(&text));
        let compiled = writer.and_then(|writer| self.envelope(&writer));
        self.envelopes.add(id, compiled)
    }
}

/// A writer's envelope.
struct Envelope {
    /// In the writer's order, with how to pass over a value.
    fields: Vec<(Part, Nullable, Skip)>,
    /// Passes over values.
    walk: DecodePlan,
    /// Reads a row.
    row: DecodePlan,
}

/// What a field of an envelope is.
#[derive(Clone, Copy)]
enum Part {
    Operation,
    Time,
    Before,
    After,
    Other,
}

/// What a walk over an envelope finds.
#[derive(Default)]
struct Found<'a> {
    operation: Option<&'a [u8]>,
    at: Option<i64>,
    before: Option<&'a [u8]>,
    after: Option<&'a [u8]>,
}

impl Envelope {
    fn walk<'a>(&self, body: &'a [u8]) -> Result<Found<'a>, Fail> {
        let (mut wire, mut found) = (Wire::new(body), Found::default());
        for (part, nullable, skip) in &self.fields {
            if !nullable.is_there(&mut wire)? {
                continue;
            }
            match part {
                Part::Operation => found.operation = Some(wire.text()?),
                Part::Time => found.at = Some(wire.long()?),
                Part::Before | Part::After | Part::Other => {
                    let start = wire.position();
                    self.walk.skip(skip, &mut wire)?;
                    let value = body.get(start..wire.position());
                    match part {
                        Part::Before => found.before = value,
                        Part::After => found.after = value,
                        _ => {}
                    }
                }
            }
        }
        if wire.remaining() > 0 { Err(Fail::at("bytes after the end of the record", wire.position())) } else { Ok(found) }
    }
}

/// The branch of a union that is null, for a value that is not always there.
#[derive(Clone, Copy)]
struct Nullable(Option<i64>);

impl Nullable {
    /// A union of null and one type, and that type; or a schema that is no union.
    fn of<'s>(avro: &'s AvroSchema, schema: &'s Schema) -> Result<(Nullable, &'s Schema), String> {
        let schema = avro.resolve(schema)?;
        let Schema::Union(union) = schema else { return Ok((Nullable(None), schema)) };
        match union.variants() {
            [Schema::Null, of] => Ok((Nullable(Some(0)), avro.resolve(of)?)),
            [of, Schema::Null] => Ok((Nullable(Some(1)), avro.resolve(of)?)),
            // Passed over as it is.
            _ => Ok((Nullable(None), schema)),
        }
    }

    fn is_there(self, wire: &mut Wire<'_>) -> Result<bool, Fail> {
        let Some(null) = self.0 else { return Ok(true) };
        match wire.long()? {
            branch if branch == null => Ok(false),
            0 | 1 => Ok(true),
            _ => Err(wire.fail("a union branch that the writer's schema does not have")),
        }
    }
}
