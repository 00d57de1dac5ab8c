//! Rows as JSON objects, the inverse of [`JsonDecoder`](crate::JsonDecoder).
//!
//! Per batch the columns are resolved once ([`JsonEncoder::batch`]); per row the bytes are appended to the caller's
//! buffer. Nulls are written as `null`, so every record has every member, but in a record that several types share
//! ([`JsonEncoder::leaving_out_nulls_of`]). Numbers are JSON numbers: 64-bit integers with
//! all digits, floats as the shortest text that reads back the same, decimals with all digits of their scale. Readers
//! that turn every number into a double lose digits beyond 2^53; declare such fields as strings if there are any.
//! Timestamps are ISO 8601 in UTC with milliseconds (six or nine digits if the column's unit is finer), bytes are base64.

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, FieldRef, Fields, SchemaRef};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::calendar;
use crate::cause::Fail;
use crate::number::write_decimal;
use crate::view::{self, Texts, Values, View, at, span};

/// Encodes the rows of batches of one schema as JSON objects.
pub struct JsonEncoder {
    schema: SchemaRef,
    members: Vec<Member>,
}

/// A field, its name ready to be written.
struct Member {
    name: String,
    /// `"name":`, escaped; with a comma in front unless it is the first, or belongs to a sparse record.
    prefix: Vec<u8>,
    /// Members of a struct; the single item of a list, or value of a map.
    children: Vec<Member>,
    /// Of a struct: members that are null are left out.
    sparse: bool,
}

/// The rows of one batch, ready to be written.
pub struct JsonRows<'a> {
    members: &'a [Member],
    columns: Vec<View<'a>>,
    rows: usize,
}

impl JsonEncoder {
    /// An encoder for the schema. A type that cannot be encoded is reported by [`JsonEncoder::batch`].
    pub fn new(schema: &SchemaRef) -> JsonEncoder {
        JsonEncoder { schema: SchemaRef::clone(schema), members: members(schema.fields()) }
    }

    /// Leaves the members of the struct `column` out where they are null: it has those of several types of records, and one of
    /// them lacks most. Members of its members are written as ever.
    pub fn leaving_out_nulls_of(mut self, column: &str) -> JsonEncoder {
        for member in self.members.iter_mut().filter(|member| member.name == column) {
            member.sparse = true;
            // Which of them comes first depends on the row.
            for child in &mut member.children {
                child.prefix.drain(..usize::from(child.prefix.first() == Some(&b',')));
            }
        }
        self
    }

    /// Whether rows of a schema have a JSON form.
    ///
    /// # Errors
    /// Names the column whose type has none, such as the difference of two times.
    pub fn check(schema: &SchemaRef) -> Result<(), String> {
        JsonEncoder::new(schema).batch(&RecordBatch::new_empty(SchemaRef::clone(schema))).map(drop)
    }

    /// Resolves the columns of a batch.
    ///
    /// # Errors
    /// Names the column that differs from the encoder's schema or whose type has no JSON form.
    pub fn batch<'a>(&'a self, batch: &'a RecordBatch) -> Result<JsonRows<'a>, String> {
        Ok(JsonRows { members: &self.members, columns: view::columns(batch, &self.schema)?, rows: batch.num_rows() })
    }
}

fn members(fields: &Fields) -> Vec<Member> {
    fields.iter().enumerate().map(|(index, field)| member(field, index == 0)).collect()
}

fn member(field: &FieldRef, first: bool) -> Member {
    let mut prefix = Vec::new();
    if !first {
        prefix.push(b',');
    }
    write_string(field.name(), &mut prefix);
    prefix.push(b':');
    let children = match field.data_type() {
        DataType::Struct(fields) => members(fields),
        DataType::List(item) => vec![member(item, true)],
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) => fields.iter().skip(1).map(|value| member(value, true)).collect(),
            _ => Vec::new(),
        },
        _ => Vec::new(),
    };
    Member { name: field.name().clone(), prefix, children, sparse: false }
}

impl JsonRows<'_> {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether the batch has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Appends one row to `out`.
    ///
    /// # Errors
    /// The row has a value that JSON cannot hold: NaN, an infinity, a date outside the years 0001 to 9999. `out` is then
    /// as it was before.
    pub fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<(), String> {
        if row >= self.rows {
            return Err(format!("row {row} of {}", self.rows));
        }
        let start = out.len();
        object(self.members, &self.columns, row, out).map_err(|fail| {
            out.truncate(start);
            fail.into_text()
        })
    }
}

fn object(members: &[Member], columns: &[View<'_>], row: usize, out: &mut Vec<u8>) -> Result<(), Fail> {
    out.push(b'{');
    for (member, column) in members.iter().zip(columns) {
        out.extend_from_slice(&member.prefix);
        let written = match &column.values {
            Values::Struct(columns) if member.sparse && !column.is_null(row) => sparse(&member.children, columns, row, out),
            _ => value(&member.children, column, row, out),
        };
        written.map_err(|fail| fail.in_field(&member.name))?;
    }
    out.push(b'}');
    Ok(())
}

/// An object without its members that are null.
fn sparse(members: &[Member], columns: &[View<'_>], row: usize, out: &mut Vec<u8>) -> Result<(), Fail> {
    out.push(b'{');
    for (member, column) in members.iter().zip(columns).filter(|(_, column)| !column.is_null(row)) {
        // After a member there is its value, which never ends like this.
        if out.last() != Some(&b'{') {
            out.push(b',');
        }
        out.extend_from_slice(&member.prefix);
        value(&member.children, column, row, out).map_err(|fail| fail.in_field(&member.name))?;
    }
    out.push(b'}');
    Ok(())
}

fn value(children: &[Member], column: &View<'_>, row: usize, out: &mut Vec<u8>) -> Result<(), Fail> {
    if column.is_null(row) {
        out.extend_from_slice(b"null");
        return Ok(());
    }
    match &column.values {
        Values::Null => out.extend_from_slice(b"null"),
        Values::Bool(array) => out.extend_from_slice(if array.value(row) { b"true" } else { b"false" }),
        Values::I8(v) => write_number(at(v, row), out),
        Values::I16(v) => write_number(at(v, row), out),
        Values::I32(v) => write_number(at(v, row), out),
        Values::I64(v) => write_number(at(v, row), out),
        Values::U8(v) => write_number(at(v, row), out),
        Values::U16(v) => write_number(at(v, row), out),
        Values::U32(v) => write_number(at(v, row), out),
        Values::U64(v) => write_number(at(v, row), out),
        Values::F32(v) => {
            let number = at(v, row);
            if !number.is_finite() {
                return Err(not_a_number());
            }
            write_number(number, out);
        }
        Values::F64(v) => {
            let number = at(v, row);
            if !number.is_finite() {
                return Err(not_a_number());
            }
            write_number(number, out);
        }
        Values::Decimal(v, scale) => write_decimal(at(v, row), *scale, out),
        Values::Date(v) => quoted(out, |out| calendar::write_date(at(v, row), out))?,
        Values::Time32(v, unit) => quoted(out, |out| calendar::write_time(at(v, row).into(), *unit, out))?,
        Values::Time64(v, unit) => quoted(out, |out| calendar::write_time(at(v, row), *unit, out))?,
        Values::Timestamp(v, unit, zoned) => quoted(out, |out| calendar::write_timestamp(at(v, row), *unit, *zoned, out))?,
        Values::Text(texts) => write_string(texts.get(row), out),
        Values::Bytes(blobs) => {
            out.push(b'"');
            write_base64(blobs.get(row), out)?;
            out.push(b'"');
        }
        Values::Struct(columns) => object(children, columns, row, out)?,
        Values::List(offsets, items) => array(children, items, span(offsets, row), out)?,
        Values::Map(offsets, keys, values) => map(children, keys, values, span(offsets, row), out)?,
    }
    Ok(())
}

#[cold]
fn not_a_number() -> Fail {
    Fail::new("NaN and infinities have no JSON form")
}

/// A quoted text that cannot need escapes.
fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> bool) -> Result<(), Fail> {
    out.push(b'"');
    if !write(out) {
        return Err(Fail::new("date or time out of range"));
    }
    out.push(b'"');
    Ok(())
}

fn array(children: &[Member], items: &View<'_>, span: std::ops::Range<usize>, out: &mut Vec<u8>) -> Result<(), Fail> {
    let nested = children.first().map_or(&[][..], |item| &item.children);
    out.push(b'[');
    for (number, row) in span.enumerate() {
        if number > 0 {
            out.push(b',');
        }
        value(nested, items, row, out).map_err(|fail| fail.in_item(number))?;
    }
    out.push(b']');
    Ok(())
}

fn map(children: &[Member], keys: &View<'_>, values: &View<'_>, span: std::ops::Range<usize>, out: &mut Vec<u8>) -> Result<(), Fail> {
    let nested = children.first().map_or(&[][..], |item| &item.children);
    let Values::Text(texts) = &keys.values else { return Err(Fail::new("a map needs text keys")) };
    out.push(b'{');
    for (number, row) in span.enumerate() {
        if number > 0 {
            out.push(b',');
        }
        write_key(texts, row, out);
        value(nested, values, row, out).map_err(|fail| fail.in_item(number))?;
    }
    out.push(b'}');
    Ok(())
}

fn write_key(texts: &Texts<'_>, row: usize, out: &mut Vec<u8>) {
    write_string(texts.get(row), out);
    out.push(b':');
}

/// The shortest text that is read back as the same number.
pub(crate) fn write_number(value: impl lexical_core::ToLexical, out: &mut Vec<u8>) {
    out.extend_from_slice(lexical_core::write(value, &mut [0; lexical_core::BUFFER_SIZE]));
}

pub(crate) fn write_base64(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Fail> {
    let start = out.len();
    let length = base64::encoded_len(bytes.len(), true).ok_or_else(|| Fail::new("too many bytes"))?;
    out.resize(start + length, 0);
    let target = out.get_mut(start..).unwrap_or_default();
    STANDARD.encode_slice(bytes, target).map_err(|e| Fail::new(e.to_string()))?;
    Ok(())
}

/// Appends a quoted string. Escaped are the quote, the backslash and control characters, as RFC 8259 demands, and
/// nothing else.
fn write_string(text: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bytes = text.as_bytes();
    out.push(b'"');
    let mut start = 0;
    for (index, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(bytes.get(start..index).unwrap_or_default());
        start = index + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
        }
    }
    out.extend_from_slice(bytes.get(start..).unwrap_or_default());
    out.push(b'"');
}
