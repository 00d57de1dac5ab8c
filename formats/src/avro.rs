//! Avro records in Confluent's wire format into columns: a zero byte, the writer's schema id (4 bytes, big endian), the
//! body.
//!
//! Avro bytes cannot be read without the schema they were written with, and that differs from record to record. For
//! each writer schema, [`AvroDecoder::add_writer`] compiles a program once: a tree of steps, each of which reads one
//! value of the writer and appends it to one column of the reader, converts it, or skips it. Decoding a record is
//! running the program of its id; nothing is looked up by name then.
//!
//! # Resolution
//! As in the Avro specification 1.12, "Schema Resolution": records, enums and fixed match by their unqualified name, or by an alias of
//! the reader's type that is the writer's full name; fields by name or reader alias, defaults for fields the
//! writer lacks, `int -> long -> float -> double`, `string <-> bytes`, enums by symbol with the reader's default, unions
//! on either side. On top of it:
//! - Only fields of the projected Arrow schema are resolved; others may be incompatible.
//! - Timestamps are converted between units; to a coarser one towards the past.
//! - Decimals need the same scale on both sides.
//! - A writer that no value can be read from is refused when it is added, and its records are bad with that reason; a
//!   branch of a writer's union that cannot be read makes only records of that branch bad.
//!
//! # Unions of several types
//! `["null", T]` is a nullable T. A union of more than one type besides null (an envelope's payload typed per event, say)
//! becomes a Struct with one nullable field per branch, named after the type (records, enums and fixed by their short
//! name); exactly one of them is set.
//!
//! # Bounds
//! Lengths are checked against the bytes that remain before anything is allocated; items of no width (an array of
//! nulls) and bytes of defaults are limited per record; what is skipped is walked at most 64 levels deep. Timestamps and
//! dates must lie in the years 0001 to 9999. NaN and infinities of floats are accepted, as Avro can carry them.

mod arrow_types;
mod changes;
mod compile;
mod decode_plan;
mod default;
mod encode;
mod scalars;
mod schema;
mod wire;
mod write;
mod writers;

use arrow::datatypes::SchemaRef;

use crate::builder::RowBuilder;
use crate::cause::{DecodeError, Fail};
use decode_plan::DecodePlan;
use schema::AvroSchema;
use wire::Wire;
use writers::Writers;

pub use arrow_types::{arrow_to_avro, avro_to_arrow};
pub use changes::{AvroChanges, changed_columns, with_connect_types};
pub use encode::{AvroEncoder, AvroRows};

/// The full name of the record, or other named type, that a schema describes.
///
/// # Errors
/// The schema is invalid or has no name.
pub fn avro_record_name(schema_json: &str) -> Result<String, String> {
    let schema = AvroSchema::parse(schema_json)?;
    schema::names_of(&schema.root).map(|(name, _)| name).ok_or_else(|| "it has no name".to_string())
}

/// Magic byte and schema id in front of the body.
const HEADER: usize = 5;

/// The schema id and the body of a record.
fn header(payload: &[u8]) -> Result<(u32, &[u8]), Fail> {
    let Some((header, body)) = payload.split_first_chunk::<HEADER>() else {
        return Err(Fail::new("shorter than the magic byte and schema id in front of an Avro record"));
    };
    let [magic, id @ ..] = header;
    if *magic != 0 {
        return Err(Fail::new("the first byte is not 0: not Avro in Confluent's wire format"));
    }
    Ok((u32::from_be_bytes(*id), body))
}

/// What records are read as: an Avro schema, and the part of it that is wanted as Arrow columns.
pub struct AvroReader {
    schema: AvroSchema,
    projection: SchemaRef,
}

impl AvroReader {
    /// A reader of the columns in `projection`. Each must be a field of the Avro schema, with the type that
    /// [`avro_to_arrow`] gives it; structs may leave out fields of their own. Nullability may differ: a null for a column
    /// that is not nullable makes the record bad.
    ///
    /// # Errors
    /// The Avro schema is invalid, or a projected field is not in it or has another type.
    pub fn new(avro_json: &str, projection: &SchemaRef) -> Result<AvroReader, String> {
        let reader = AvroReader { schema: AvroSchema::parse(avro_json)?, projection: SchemaRef::clone(projection) };
        // Reading what the reader itself would write must work; this finds fields that do not exist.
        compile::compile(&reader.schema, &reader.schema, &reader.projection)?;
        Ok(reader)
    }

    /// The columns of the batches.
    pub fn projection(&self) -> &SchemaRef {
        &self.projection
    }
}

/// Decodes Avro records of any number of writer schemas into the columns of one reader.
pub struct AvroDecoder {
    reader: AvroReader,
    writers: Writers<DecodePlan>,
}

impl AvroDecoder {
    /// A decoder that knows no writer yet.
    pub fn new(reader: AvroReader) -> AvroDecoder {
        AvroDecoder { reader, writers: Writers::default() }
    }

    /// Whether [`AvroDecoder::add_writer`] was called for the id, successfully or not.
    pub fn knows(&self, id: u32) -> bool {
        self.writers.knows(id)
    }

    /// Compiles the schema that the registry holds under `id`. Replaces what was known under this id.
    ///
    /// # Errors
    /// The schema is invalid or cannot be resolved to the reader's. The id is known nevertheless: its records are bad, and
    /// the text is their cause.
    pub fn add_writer(&mut self, id: u32, schema_json: &str) -> Result<(), String> {
        let compiled =
            AvroSchema::parse(schema_json).and_then(|writer| compile::compile(&writer, &self.reader.schema, &self.reader.projection));
        self.writers.add(id, compiled)
    }

    /// Appends one record as one row.
    ///
    /// # Errors
    /// [`DecodeError::UnknownSchema`] if the id was not added yet; [`DecodeError::Bad`] with the path and the cause
    /// otherwise. `out` is then as it was before.
    pub fn decode(&mut self, payload: &[u8], out: &mut RowBuilder) -> Result<(), DecodeError> {
        let (id, body) = header(payload)?;
        let plan = self.writers.get(id)?;
        out.attempt(&self.reader.projection, |root| {
            let mut wire = Wire::new(body);
            plan.run(&mut wire, root)?;
            if wire.remaining() > 0 { Err(Fail::at("bytes after the end of the record", wire.position())) } else { Ok(()) }
        })?;
        Ok(())
    }
}
