//! JSON records into columns.
//!
//! The declared schema is the projection: members it does not name are checked for being JSON and dropped. One
//! record is one pass over its bytes: check UTF-8, then walk the object; a declared member is parsed straight into
//! its column.
//!
//! # Member order
//! A producer writes its members in one order and with one spacing. The decoder remembers, per object, the text between
//! two values (`,"quantity":`) and what it led to. If the next record has the same text there, the name is neither
//! scanned nor looked up. Other orders only cost the look-up. Invariant: the remembered text was once scanned in full,
//! so text equal to it is valid too.
//!
//! # What is accepted
//! - The document is an RFC 8259 object, at most 128 levels deep, without a byte order mark or anything after it.
//! - A missing or null member is null if the field is nullable, else the record is bad.
//! - Of duplicate members the last wins. A Map column refuses duplicate keys instead: its entries cannot be replaced.
//! - An integer is a number whose value is whole and fits its type: `3`, `3.0` and `30e-1` are one value, `3.5` is bad.
//! - A float is rounded to the nearest; beyond the range (`1e400`) it is bad.
//! - A decimal is a number or a string in number notation; it must be exact: digits beyond the scale must be zeros.
//! - A timestamp is an ISO 8601 string with a zone (without one if the type has none), or an integer of epoch
//!   milliseconds. Digits beyond the column's unit are dropped towards the past. Years 0001 to 9999.
//! - A date is `YYYY-MM-DD`, a time `HH:MM[:SS[.f]]`, bytes are base64 (RFC 4648 section 4, padded).
//! - A string is never read as a number or a boolean, nor the reverse.
//!
//! Memory per record is bounded by a multiple of its length; the factor is the width of the schema, for an array of
//! empty objects fills all their columns.

mod scalar;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, SchemaRef};

use crate::builder::RowBuilder;
use crate::cause::{DecodeError, Fail};
use crate::column::{Column, Data, Rows, VarBytes, push_offset};
use crate::member::{Layout, Names};
use crate::scan::{Cursor, MAX_DEPTH};
pub(crate) use scalar::base64_into;
use scalar::{signed, text_value, unsigned};

/// Decodes JSON objects into the columns of one Arrow schema.
pub struct JsonDecoder {
    schema: SchemaRef,
    root: Node,
    scratch: Scratch,
}

/// What the decoder knows about a field beyond its column.
enum Node {
    Scalar,
    Struct(Box<Shape>),
    /// Item of a list, or value of a map.
    Item(Box<Node>),
}

/// An object that is read into a struct.
struct Shape {
    names: Names,
    layout: Layout,
    children: Vec<Node>,
}

/// Buffers that live as long as the decoder, so that a record needs no allocation.
#[derive(Default)]
struct Scratch {
    text: Vec<u8>,
    order: Vec<usize>,
}

impl JsonDecoder {
    /// A decoder for the schema; the [`RowBuilder`] must be made for the same one (the same `Arc` is fastest).
    pub fn new(schema: &SchemaRef) -> JsonDecoder {
        let root = DataType::Struct(schema.fields().clone());
        JsonDecoder { schema: SchemaRef::clone(schema), root: node(&root), scratch: Scratch::default() }
    }

    /// Appends one record as one row.
    ///
    /// # Errors
    /// [`DecodeError::Bad`] with the path and the cause; `out` is then as it was before.
    pub fn decode(&mut self, payload: &[u8], out: &mut RowBuilder) -> Result<(), DecodeError> {
        let JsonDecoder { schema, root, scratch } = self;
        out.attempt(schema, |column| document(payload, root, column, scratch))?;
        Ok(())
    }
}

fn node(data_type: &DataType) -> Node {
    match data_type {
        DataType::Struct(fields) => Node::Struct(Box::new(Shape {
            names: Names::new(fields),
            layout: Layout::default(),
            children: fields.iter().map(|f| node(f.data_type())).collect(),
        })),
        DataType::List(item) => Node::Item(Box::new(node(item.data_type()))),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) => Node::Item(Box::new(fields.get(1).map_or(Node::Scalar, |f: &Arc<Field>| node(f.data_type())))),
            _ => Node::Scalar,
        },
        _ => Node::Scalar,
    }
}

fn document(payload: &[u8], root: &mut Node, column: &mut Column, scratch: &mut Scratch) -> Result<(), Fail> {
    if payload.starts_with(b"\xef\xbb\xbf") {
        return Err(Fail::new("the text begins with a byte order mark"));
    }
    if simdutf8::basic::from_utf8(payload).is_err() {
        return Err(Fail::new("the text is not UTF-8"));
    }
    let mut cursor = Cursor::new(payload);
    match cursor.peek_token() {
        None => return Err(Fail::new("the text is empty")),
        Some(b'{') => {}
        Some(_) => return Err(cursor.expected("an object")),
    }
    value(&mut cursor, root, column, scratch, 0)?;
    cursor.end()
}

#[cold]
#[inline(never)]
fn mismatch() -> Fail {
    Fail::new("the decoder and the builder have different columns")
}

/// Decodes the value at the cursor into the column. `depth` is the number of containers around it.
fn value(cursor: &mut Cursor<'_>, node: &mut Node, column: &mut Column, scratch: &mut Scratch, depth: u32) -> Result<(), Fail> {
    let Some(first) = cursor.peek_token() else { return Err(cursor.expected("a value")) };
    if first == b'n' {
        cursor.literal(b"null")?;
        return column.append_null();
    }
    let Column { rows, data, .. } = column;
    match data {
        Data::Utf8(v) => {
            cursor.string_into(&mut v.bytes)?;
            v.end()?;
        }
        Data::I64(v) => v.push(signed(cursor, "a 64-bit integer")?),
        Data::F64(v) => v.push(cursor.float()?),
        Data::Struct(columns) => {
            let Node::Struct(shape) = node else { return Err(mismatch()) };
            object(cursor, shape, columns, rows.len, scratch, depth)?;
        }
        Data::List(offsets, child) => {
            let Node::Item(item) = node else { return Err(mismatch()) };
            array(cursor, item, child, scratch, depth)?;
            push_offset(offsets, child.len())?;
        }
        Data::Map(offsets, keys, values) => {
            let Node::Item(item) = node else { return Err(mismatch()) };
            map(cursor, item, keys, values, scratch, depth)?;
            push_offset(offsets, keys.len())?;
        }
        Data::Bool(v) => {
            let word: &[u8] = if first == b't' { b"true" } else { b"false" };
            if !matches!(first, b't' | b'f') {
                return Err(cursor.expected("a boolean"));
            }
            cursor.literal(word)?;
            v.append(first == b't');
        }
        Data::I32(v) => v.push(signed(cursor, "a 32-bit integer")?),
        Data::I16(v) => v.push(signed(cursor, "a 16-bit integer")?),
        Data::I8(v) => v.push(signed(cursor, "an 8-bit integer")?),
        Data::U64(v) => v.push(unsigned(cursor, "an unsigned 64-bit integer")?),
        Data::U32(v) => v.push(unsigned(cursor, "an unsigned 32-bit integer")?),
        Data::U16(v) => v.push(unsigned(cursor, "an unsigned 16-bit integer")?),
        Data::U8(v) => v.push(unsigned(cursor, "an unsigned 8-bit integer")?),
        Data::F32(v) => v.push(cursor.float32()?),
        Data::Null => return Err(cursor.expected("null")),
        _ => text_value(cursor, first, data, &mut scratch.text)?,
    }
    rows.valid();
    Ok(())
}

/// Decodes an object into the columns of a struct that has `row` rows so far.
fn object(
    cursor: &mut Cursor<'_>,
    shape: &mut Shape,
    columns: &mut [Column],
    row: usize,
    scratch: &mut Scratch,
    depth: u32,
) -> Result<(), Fail> {
    if cursor.peek() != Some(b'{') {
        return Err(cursor.expected("an object"));
    }
    if depth >= MAX_DEPTH {
        return Err(cursor.fail("nested deeper than 128 levels"));
    }
    cursor.advance();
    let Shape { names, layout, children } = shape;
    let (mut expected, mut first, mut filled) = (0, true, 0);
    loop {
        let target = match layout.follow(cursor, &mut expected, first) {
            Some(target) => target,
            None => match layout.learn(cursor, names, &mut expected, first, &mut scratch.text)? {
                Some(target) => target,
                None => break,
            },
        };
        first = false;
        let Some(index) = target else {
            cursor.skip_value(depth + 1)?;
            continue;
        };
        let (Some(column), Some(child)) = (columns.get_mut(index), children.get_mut(index)) else { return Err(mismatch()) };
        if column.len() > row {
            column.truncate(row); // a duplicate: the last one wins
            filled -= 1;
        }
        if let Err(fail) = value(cursor, child, column, scratch, depth + 1) {
            return Err(fail.in_field(column.field.name()));
        }
        filled += 1;
    }
    if filled < columns.len() {
        fill_missing(columns, row)?;
    }
    Ok(())
}

fn fill_missing(columns: &mut [Column], row: usize) -> Result<(), Fail> {
    for column in columns.iter_mut().filter(|c| c.len() <= row) {
        if !column.field.is_nullable() {
            return Err(Fail::new("missing").in_field(column.field.name()));
        }
        column.append_blank();
    }
    Ok(())
}

fn array(cursor: &mut Cursor<'_>, item: &mut Node, child: &mut Column, scratch: &mut Scratch, depth: u32) -> Result<(), Fail> {
    if cursor.peek() != Some(b'[') {
        return Err(cursor.expected("an array"));
    }
    if depth >= MAX_DEPTH {
        return Err(cursor.fail("nested deeper than 128 levels"));
    }
    cursor.advance();
    if cursor.peek_token() == Some(b']') {
        cursor.advance();
        return Ok(());
    }
    let start = child.len();
    loop {
        if let Err(fail) = value(cursor, item, child, scratch, depth + 1) {
            return Err(fail.in_item(child.len().saturating_sub(start)));
        }
        match cursor.peek_token() {
            Some(b',') => cursor.advance(),
            Some(b']') => {
                cursor.advance();
                return Ok(());
            }
            _ => return Err(cursor.expected("',' or ']'")),
        }
    }
}

fn map(
    cursor: &mut Cursor<'_>,
    item: &mut Node,
    keys: &mut Column,
    values: &mut Column,
    scratch: &mut Scratch,
    depth: u32,
) -> Result<(), Fail> {
    if cursor.peek() != Some(b'{') {
        return Err(cursor.expected("an object"));
    }
    if depth >= MAX_DEPTH {
        return Err(cursor.fail("nested deeper than 128 levels"));
    }
    cursor.advance();
    let Column { rows, data: Data::Utf8(texts), .. } = keys else { return Err(mismatch()) };
    let start = rows.len;
    if cursor.peek_token() == Some(b'}') {
        cursor.advance();
        return Ok(());
    }
    loop {
        if cursor.peek_token() != Some(b'"') {
            return Err(cursor.expected("a member name"));
        }
        cursor.string_into(&mut texts.bytes)?;
        texts.end()?;
        rows.valid();
        cursor.colon()?;
        if let Err(fail) = value(cursor, item, values, scratch, depth + 1) {
            return Err(fail.in_item(values.len().saturating_sub(start)));
        }
        match cursor.peek_token() {
            Some(b',') => {
                cursor.advance();
                cursor.skip_space();
            }
            Some(b'}') => {
                cursor.advance();
                return unique_keys(rows, texts, start, &mut scratch.order);
            }
            _ => return Err(cursor.expected("',' or '}'")),
        }
    }
}

/// Refuses two equal keys among the entries from `start` on. Large maps are sorted, so that no choice of keys is slow.
pub(crate) fn unique_keys(rows: &Rows, keys: &VarBytes, start: usize, order: &mut Vec<usize>) -> Result<(), Fail> {
    let entries = start..rows.len;
    let duplicate = if entries.len() <= 16 {
        entries.clone().any(|a| (a + 1..entries.end).any(|b| keys.get(a) == keys.get(b)))
    } else {
        order.clear();
        order.extend(entries);
        order.sort_unstable_by(|a, b| keys.get(*a).cmp(keys.get(*b)));
        order.windows(2).any(|pair| matches!(pair, [a, b] if keys.get(*a) == keys.get(*b)))
    };
    if duplicate { Err(Fail::new("duplicate key in a map")) } else { Ok(()) }
}
