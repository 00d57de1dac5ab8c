//! One growing column: plain vectors that become Arrow arrays without a copy.
//!
//! Arrow's own builders cannot forget rows, so a record that turns out to be bad halfway through could not be taken
//! back. A [`Column`] can: [`Column::truncate`] cuts it, and everything below it, to a number of rows.
//!
//! Invariant: between records every column of one struct has the same number of rows. While a record is being
//! decoded columns may be ahead of their parent, and a list's child may hold items that no offset covers yet;
//! `truncate` repairs both.

mod finish;

use std::mem;
use std::sync::Arc;

use arrow::array::BooleanBufferBuilder;
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};

use crate::cause::Fail;

/// Declared nesting deeper than this is refused when a builder or decoder is made.
pub(crate) const MAX_SCHEMA_DEPTH: usize = 64;
/// A fresh vector is given the size of its predecessor, but never more than this many elements.
const MAX_PREALLOCATION: usize = 1 << 20;

/// How many rows a column holds and which of them are null. The bitmap exists only from the first null on.
pub(crate) struct Rows {
    pub(crate) len: usize,
    nulls: Option<BooleanBufferBuilder>,
}

impl Rows {
    #[inline]
    pub(crate) fn valid(&mut self) {
        self.len += 1;
        if let Some(nulls) = &mut self.nulls {
            nulls.append(true);
        }
    }

    /// The row is null.
    pub(crate) fn is_null(&self, row: usize) -> bool {
        row < self.len && self.nulls.as_ref().is_some_and(|nulls| !nulls.get_bit(row))
    }

    fn null(&mut self) {
        let len = self.len;
        let nulls = self.nulls.get_or_insert_with(|| {
            let mut bits = BooleanBufferBuilder::new(len + 64);
            bits.append_n(len, true);
            bits
        });
        nulls.append(false);
        self.len += 1;
    }

    fn truncate(&mut self, len: usize) {
        if len < self.len {
            self.len = len;
            if let Some(nulls) = &mut self.nulls {
                nulls.truncate(len);
            }
        }
    }

    fn finish(&mut self) -> Option<NullBuffer> {
        self.len = 0;
        let mut bits = self.nulls.take()?;
        let nulls = NullBuffer::new(bits.finish());
        (nulls.null_count() > 0).then_some(nulls)
    }
}

/// Values of varying length: row `i` is `bytes[offsets[i]..offsets[i + 1]]`.
pub(crate) struct VarBytes {
    offsets: Vec<i32>,
    pub(crate) bytes: Vec<u8>,
}

impl VarBytes {
    fn new(capacity: usize) -> VarBytes {
        VarBytes { offsets: first_offset(capacity), bytes: Vec::with_capacity(capacity.saturating_mul(16).min(MAX_PREALLOCATION)) }
    }

    /// Ends a value whose bytes were appended to `bytes`.
    #[inline]
    pub(crate) fn end(&mut self) -> Result<(), Fail> {
        push_offset(&mut self.offsets, self.bytes.len())
    }

    #[inline]
    pub(crate) fn push(&mut self, value: &[u8]) -> Result<(), Fail> {
        self.bytes.extend_from_slice(value);
        self.end()
    }

    /// The value of a finished row.
    pub(crate) fn get(&self, row: usize) -> &[u8] {
        let start = self.offsets.get(row).map_or(0, |o| *o as usize);
        let end = self.offsets.get(row + 1).map_or(start, |o| *o as usize);
        self.bytes.get(start..end).unwrap_or_default()
    }

    fn truncate(&mut self, rows: usize) {
        self.offsets.truncate(rows + 1);
        self.bytes.truncate(last_offset(&self.offsets));
    }

    fn finish(&mut self) -> (OffsetBuffer<i32>, Buffer) {
        (finish_offsets(&mut self.offsets), Buffer::from_vec(renew(&mut self.bytes)))
    }
}

fn first_offset(capacity: usize) -> Vec<i32> {
    let mut offsets = Vec::with_capacity(capacity.min(MAX_PREALLOCATION) + 1);
    offsets.push(0);
    offsets
}

#[inline]
fn last_offset(offsets: &[i32]) -> usize {
    offsets.last().map_or(0, |o| *o as usize)
}

#[inline]
pub(crate) fn push_offset(offsets: &mut Vec<i32>, end: usize) -> Result<(), Fail> {
    match i32::try_from(end) {
        Ok(end) => offsets.push(end),
        Err(_) => return Err(Fail::new("the column would exceed 2 GiB in one batch; end batches earlier")),
    }
    Ok(())
}

fn finish_offsets(offsets: &mut Vec<i32>) -> OffsetBuffer<i32> {
    let next = first_offset(offsets.len());
    OffsetBuffer::new(ScalarBuffer::from(mem::replace(offsets, next)))
}

/// Takes the vector and leaves an empty one of the same size, because the next batch is likely to be as large.
fn renew<T>(values: &mut Vec<T>) -> Vec<T> {
    let next = Vec::with_capacity(values.len().min(MAX_PREALLOCATION));
    mem::replace(values, next)
}

/// The values of a column. Rows that are null hold a zero, an empty value, or an empty list.
pub(crate) enum Data {
    Null,
    Bool(BooleanBufferBuilder),
    I8(Vec<i8>),
    I16(Vec<i16>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
    U64(Vec<u64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Date(Vec<i32>),
    Time32(Vec<i32>, TimeUnit),
    Time64(Vec<i64>, TimeUnit),
    /// Unit, and whether the type has a zone (an instant) or not (a local date and time).
    Timestamp(Vec<i64>, TimeUnit, bool),
    /// Precision and scale.
    Decimal(Vec<i128>, u8, i8),
    Utf8(VarBytes),
    Binary(VarBytes),
    Fixed(Vec<u8>, usize),
    Struct(Vec<Column>),
    List(Vec<i32>, Box<Column>),
    /// Offsets, keys (Utf8) and values.
    Map(Vec<i32>, Box<Column>, Box<Column>),
}

/// A column under construction, with everything below it.
pub(crate) struct Column {
    pub(crate) field: FieldRef,
    pub(crate) rows: Rows,
    pub(crate) data: Data,
}

impl Column {
    pub(crate) fn new(field: &FieldRef, capacity: usize, depth: usize) -> Result<Column, String> {
        let data = new_data(field, capacity, depth)?;
        Ok(Column { field: Arc::clone(field), rows: Rows { len: 0, nulls: None }, data })
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.rows.len
    }

    /// Appends a null, which a column that is not nullable refuses.
    pub(crate) fn append_null(&mut self) -> Result<(), Fail> {
        if !self.field.is_nullable() {
            return Err(Fail::new("null, but the field is not nullable"));
        }
        self.append_blank();
        Ok(())
    }

    /// Appends null where the column allows it, else zero or empty. For rows that a null parent hides.
    pub(crate) fn append_blank(&mut self) {
        match &mut self.data {
            Data::Null => {}
            Data::Bool(v) => v.append(false),
            Data::I8(v) => v.push(0),
            Data::I16(v) => v.push(0),
            Data::I32(v) | Data::Date(v) | Data::Time32(v, _) => v.push(0),
            Data::I64(v) | Data::Time64(v, _) | Data::Timestamp(v, ..) => v.push(0),
            Data::U8(v) => v.push(0),
            Data::U16(v) => v.push(0),
            Data::U32(v) => v.push(0),
            Data::U64(v) => v.push(0),
            Data::F32(v) => v.push(0.0),
            Data::F64(v) => v.push(0.0),
            Data::Decimal(v, ..) => v.push(0),
            Data::Fixed(v, size) => v.resize(v.len() + *size, 0),
            Data::Utf8(v) | Data::Binary(v) => repeat_offset(&mut v.offsets),
            Data::Struct(columns) => columns.iter_mut().for_each(Column::append_blank),
            Data::List(offsets, _) | Data::Map(offsets, ..) => repeat_offset(offsets),
        }
        if self.field.is_nullable() { self.rows.null() } else { self.rows.valid() }
    }

    /// Forgets all rows from `len` on, here and in every column below.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.rows.truncate(len);
        match &mut self.data {
            Data::Null => {}
            Data::Bool(v) => v.truncate(len.min(v.len())),
            Data::I8(v) => v.truncate(len),
            Data::I16(v) => v.truncate(len),
            Data::I32(v) | Data::Date(v) | Data::Time32(v, _) => v.truncate(len),
            Data::I64(v) | Data::Time64(v, _) | Data::Timestamp(v, ..) => v.truncate(len),
            Data::U8(v) => v.truncate(len),
            Data::U16(v) => v.truncate(len),
            Data::U32(v) => v.truncate(len),
            Data::U64(v) => v.truncate(len),
            Data::F32(v) => v.truncate(len),
            Data::F64(v) => v.truncate(len),
            Data::Decimal(v, ..) => v.truncate(len),
            Data::Fixed(v, size) => v.truncate(len.saturating_mul(*size)),
            Data::Utf8(v) | Data::Binary(v) => v.truncate(len),
            Data::Struct(columns) => columns.iter_mut().for_each(|c| c.truncate(len)),
            Data::List(offsets, child) => {
                offsets.truncate(len + 1);
                child.truncate(last_offset(offsets));
            }
            Data::Map(offsets, keys, values) => {
                offsets.truncate(len + 1);
                keys.truncate(last_offset(offsets));
                values.truncate(last_offset(offsets));
            }
        }
    }

    /// Bytes of values, offsets and null bits held now.
    pub(crate) fn bytes(&self) -> usize {
        let values = match &self.data {
            Data::Null => 0,
            Data::Bool(v) => v.len().div_ceil(8),
            Data::I8(v) => v.len(),
            Data::U8(v) | Data::Fixed(v, _) => v.len(),
            Data::I16(v) => v.len() * 2,
            Data::U16(v) => v.len() * 2,
            Data::I32(v) | Data::Date(v) | Data::Time32(v, _) => v.len() * 4,
            Data::U32(v) => v.len() * 4,
            Data::F32(v) => v.len() * 4,
            Data::I64(v) | Data::Time64(v, _) | Data::Timestamp(v, ..) => v.len() * 8,
            Data::U64(v) => v.len() * 8,
            Data::F64(v) => v.len() * 8,
            Data::Decimal(v, ..) => v.len() * 16,
            Data::Utf8(v) | Data::Binary(v) => v.bytes.len() + v.offsets.len() * 4,
            Data::Struct(columns) => columns.iter().map(Column::bytes).sum(),
            Data::List(offsets, child) => offsets.len() * 4 + child.bytes(),
            Data::Map(offsets, keys, values) => offsets.len() * 4 + keys.bytes() + values.bytes(),
        };
        values + self.rows.nulls.as_ref().map_or(0, |bits| bits.len().div_ceil(8))
    }
}

fn repeat_offset(offsets: &mut Vec<i32>) {
    offsets.push(offsets.last().copied().unwrap_or(0));
}

fn new_data(field: &Field, capacity: usize, depth: usize) -> Result<Data, String> {
    if depth > MAX_SCHEMA_DEPTH {
        return Err(format!("field {}: nested deeper than {MAX_SCHEMA_DEPTH} levels", field.name()));
    }
    let rows = capacity.min(MAX_PREALLOCATION);
    let child = |f: &FieldRef, n: usize| Column::new(f, n, depth + 1).map(Box::new);
    Ok(match field.data_type() {
        DataType::Null => Data::Null,
        DataType::Boolean => Data::Bool(BooleanBufferBuilder::new(rows)),
        DataType::Int8 => Data::I8(Vec::with_capacity(rows)),
        DataType::Int16 => Data::I16(Vec::with_capacity(rows)),
        DataType::Int32 => Data::I32(Vec::with_capacity(rows)),
        DataType::Int64 => Data::I64(Vec::with_capacity(rows)),
        DataType::UInt8 => Data::U8(Vec::with_capacity(rows)),
        DataType::UInt16 => Data::U16(Vec::with_capacity(rows)),
        DataType::UInt32 => Data::U32(Vec::with_capacity(rows)),
        DataType::UInt64 => Data::U64(Vec::with_capacity(rows)),
        DataType::Float32 => Data::F32(Vec::with_capacity(rows)),
        DataType::Float64 => Data::F64(Vec::with_capacity(rows)),
        DataType::Date32 => Data::Date(Vec::with_capacity(rows)),
        DataType::Time32(unit) => Data::Time32(Vec::with_capacity(rows), *unit),
        DataType::Time64(unit) => Data::Time64(Vec::with_capacity(rows), *unit),
        DataType::Timestamp(unit, zone) => Data::Timestamp(Vec::with_capacity(rows), *unit, zone.is_some()),
        DataType::Decimal128(precision, scale) => Data::Decimal(Vec::with_capacity(rows), *precision, *scale),
        DataType::Utf8 => Data::Utf8(VarBytes::new(rows)),
        DataType::Binary => Data::Binary(VarBytes::new(rows)),
        DataType::FixedSizeBinary(size) => {
            Data::Fixed(Vec::new(), usize::try_from(*size).map_err(|_| format!("field {}: negative size", field.name()))?)
        }
        DataType::Struct(fields) => Data::Struct(fields.iter().map(|f| Column::new(f, rows, depth + 1)).collect::<Result<_, _>>()?),
        DataType::List(item) => Data::List(first_offset(rows), child(item, 0)?),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) => match fields.as_ref() {
                [key, value] if key.data_type() == &DataType::Utf8 => Data::Map(first_offset(rows), child(key, 0)?, child(value, 0)?),
                _ => return Err(format!("field {}: a map needs Utf8 keys and one value", field.name())),
            },
            _ => return Err(format!("field {}: a map needs entries of key and value", field.name())),
        },
        other => return Err(format!("field {}: {other} cannot be decoded into", field.name())),
    })
}
