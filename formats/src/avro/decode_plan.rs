//! The compiled form of one writer schema, and how it runs.
//!
//! A [`Read`] consumes one value of the writer and appends one row to one column. A [`Skip`] consumes a value.
//! Invariant: a `Read` that succeeds has grown its column by one row; one that fails may leave anything behind, which
//! the builder rolls back.
//!
//! `Read` follows the Arrow schema, so its recursion ends. A `Skip` follows the writer's, which may be recursive;
//! named types are therefore entries of a table, and entering one counts against a limit.

use arrow::datatypes::TimeUnit;

use super::wire::Wire;
use crate::calendar;
use crate::cause::Fail;
use crate::column::{Column, Data, push_offset};
use crate::json::unique_keys;
use crate::number::fits_precision;

pub(crate) struct DecodePlan {
    pub(crate) root: Read,
    pub(crate) named: Vec<Skip>,
}

/// How to read one value of the writer into a column.
pub(crate) enum Read {
    Null,
    Bool,
    Int,
    Long,
    /// A timestamp of another unit than the column's.
    Scaled(TimeUnit, TimeUnit),
    Float,
    Double,
    /// Length-prefixed bytes into Binary.
    Bytes,
    /// Length-prefixed UTF-8 into Utf8.
    Text,
    Fixed(usize),
    /// Sixteen bytes into the 36 characters of a UUID.
    FixedUuid,
    /// Two's complement, big endian; of a fixed size, or length-prefixed.
    Decimal(Option<usize>),
    /// By index of the writer's symbol: the reader's text, if it has one.
    Enum(Vec<Option<Box<[u8]>>>),
    Array(Box<Read>, bool),
    Map(Box<Read>),
    Record(Box<Record>),
    /// By branch of the writer's union.
    Union(Vec<Read>),
    /// One branch of a reader's union of several types: the field of the struct that it is.
    Branch(usize, Box<Read>),
    /// A branch that is not projected: all fields of the struct are null.
    OtherBranch(Skip),
    /// A branch that the reader cannot take.
    Refuse(String),
}

/// A record of the writer into a struct of the reader.
pub(crate) struct Record {
    /// In the writer's order.
    pub(crate) steps: Vec<DecodeStep>,
    pub(crate) defaults: Vec<Default>,
}

pub(crate) enum DecodeStep {
    Read(usize, Read),
    Skip(Skip),
}

/// A field that the writer lacks: its default in Avro's encoding by the reader's schema, and how to read that.
pub(crate) struct Default {
    pub(crate) column: usize,
    pub(crate) bytes: Vec<u8>,
    pub(crate) plan: DecodePlan,
}

/// How to pass over one value of the writer.
pub(crate) enum Skip {
    Nothing,
    Bool,
    Integer,
    Fixed(usize),
    Bytes,
    Array(Box<Skip>, bool),
    Map(Box<Skip>),
    Union(Vec<Skip>),
    Record(Vec<Skip>),
    /// Entry of [`DecodePlan::named`].
    Named(usize),
}

#[cold]
#[inline(never)]
fn mismatch() -> Fail {
    Fail::new("the decoder and the builder have different columns")
}

impl DecodePlan {
    /// Reads one value into one row of the column.
    pub(crate) fn run(&self, wire: &mut Wire<'_>, root: &mut Column) -> Result<(), Fail> {
        self.read(&self.root, wire, root)
    }

    fn read(&self, read: &Read, wire: &mut Wire<'_>, column: &mut Column) -> Result<(), Fail> {
        let Column { rows, data, .. } = &mut *column;
        match (read, data) {
            (Read::Text, Data::Utf8(v)) => v.push(wire.text()?)?,
            (Read::Long, data) => long_into(wire, data)?,
            (Read::Int, data) => int_into(wire, data)?,
            (Read::Double, Data::F64(v)) => v.push(f64::from_le_bytes(wire.array()?)),
            (Read::Float, Data::F32(v)) => v.push(f32::from_le_bytes(wire.array()?)),
            (Read::Float, Data::F64(v)) => v.push(f64::from(f32::from_le_bytes(wire.array()?))),
            (Read::Bool, Data::Bool(v)) => v.append(wire.bool()?),
            (Read::Bytes, Data::Binary(v)) => v.push(wire.bytes()?)?,
            (Read::Fixed(size), Data::Fixed(v, _)) => v.extend_from_slice(wire.take(*size)?),
            (Read::Scaled(from, to), Data::Timestamp(v, ..)) => {
                let value = in_range(wire.long()?, *from, wire)?;
                v.push(calendar::convert(value, *from, *to).ok_or_else(|| wire.fail("timestamp out of range"))?);
            }
            (Read::Enum(symbols), Data::Utf8(v)) => {
                let symbol = index(wire, symbols)?.as_ref();
                v.push(symbol.ok_or_else(|| wire.fail("an enum symbol that the reader does not know"))?)?;
            }
            (Read::Decimal(size), Data::Decimal(v, precision, _)) => v.push(decimal(wire, *size, *precision)?),
            (Read::FixedUuid, Data::Utf8(v)) => {
                write_uuid(wire.array()?, &mut v.bytes);
                v.end()?;
            }
            (Read::Record(record), Data::Struct(columns)) => self.record(record, wire, columns)?,
            (Read::Array(item, zero_width), Data::List(offsets, child)) => {
                self.array(item, *zero_width, wire, child)?;
                push_offset(offsets, child.len())?;
            }
            (Read::Map(value), Data::Map(offsets, keys, values)) => {
                self.map(value, wire, keys, values)?;
                push_offset(offsets, keys.len())?;
            }
            (Read::Branch(field, value), Data::Struct(columns)) => self.branch(*field, value, wire, columns)?,
            (Read::OtherBranch(skip), Data::Struct(columns)) => {
                self.skip(skip, wire)?;
                columns.iter_mut().for_each(Column::append_blank);
            }
            // These append through the column themselves.
            (Read::Union(branches), _) => return self.read(index(wire, branches)?, wire, column),
            (Read::Null, _) => return column.append_null(),
            (Read::Refuse(cause), _) => return Err(Fail::new(cause.clone())),
            _ => return Err(mismatch()),
        }
        rows.valid();
        Ok(())
    }

    #[inline]
    fn record(&self, record: &Record, wire: &mut Wire<'_>, columns: &mut [Column]) -> Result<(), Fail> {
        for step in &record.steps {
            match step {
                DecodeStep::Read(index, read) => {
                    let column = columns.get_mut(*index).ok_or_else(mismatch)?;
                    if let Err(fail) = self.read(read, wire, column) {
                        return Err(fail.in_field(column.field.name()));
                    }
                }
                // The two commonest, without a call.
                DecodeStep::Skip(Skip::Bytes) => drop(wire.bytes()?),
                DecodeStep::Skip(Skip::Integer) => drop(wire.long()?),
                DecodeStep::Skip(skip) => self.skip(skip, wire)?,
            }
        }
        for default in &record.defaults {
            let column = columns.get_mut(default.column).ok_or_else(mismatch)?;
            wire.spend(default.bytes.len())?;
            if let Err(fail) = default.plan.run(&mut Wire::new(&default.bytes), column) {
                return Err(fail.in_field(column.field.name()));
            }
        }
        Ok(())
    }

    fn branch(&self, field: usize, value: &Read, wire: &mut Wire<'_>, columns: &mut [Column]) -> Result<(), Fail> {
        for (index, column) in columns.iter_mut().enumerate() {
            if index == field {
                self.read(value, wire, column).map_err(|fail| fail.in_field(column.field.name()))?;
            } else {
                column.append_blank();
            }
        }
        Ok(())
    }

    fn array(&self, item: &Read, zero_width: bool, wire: &mut Wire<'_>, child: &mut Column) -> Result<(), Fail> {
        let start = child.len();
        loop {
            let (count, _) = wire.block(zero_width)?;
            if count == 0 {
                return Ok(());
            }
            for _ in 0..count {
                if let Err(fail) = self.read(item, wire, child) {
                    return Err(fail.in_item(child.len().saturating_sub(start)));
                }
            }
        }
    }

    fn map(&self, value: &Read, wire: &mut Wire<'_>, keys: &mut Column, values: &mut Column) -> Result<(), Fail> {
        let Column { rows, data: Data::Utf8(texts), .. } = keys else { return Err(mismatch()) };
        let start = rows.len;
        loop {
            let (count, _) = wire.block(false)?;
            if count == 0 {
                return unique_keys(rows, texts, start, &mut wire.order);
            }
            for _ in 0..count {
                texts.push(wire.text()?)?;
                rows.valid();
                if let Err(fail) = self.read(value, wire, values) {
                    return Err(fail.in_item(values.len().saturating_sub(start)));
                }
            }
        }
    }

    /// Passes over a value.
    pub(crate) fn skip(&self, skip: &Skip, wire: &mut Wire<'_>) -> Result<(), Fail> {
        match skip {
            Skip::Nothing => {}
            Skip::Integer => drop(wire.long()?),
            Skip::Bytes => drop(wire.bytes()?),
            Skip::Fixed(size) => drop(wire.take(*size)?),
            Skip::Bool => drop(wire.bool()?),
            Skip::Union(branches) => return self.skip(index(wire, branches)?, wire),
            Skip::Record(fields) => {
                for field in fields {
                    match field {
                        Skip::Bytes => drop(wire.bytes()?),
                        field => self.skip(field, wire)?,
                    }
                }
            }
            Skip::Array(item, zero_width) => loop {
                let (count, size) = wire.block(*zero_width)?;
                match size {
                    _ if count == 0 => return Ok(()),
                    Some(size) => drop(wire.take(size)?),
                    None if *zero_width => {}
                    None => (0..count).try_for_each(|_| self.skip(item, wire))?,
                }
            },
            Skip::Map(value) => loop {
                let (count, size) = wire.block(false)?;
                match size {
                    _ if count == 0 => return Ok(()),
                    Some(size) => drop(wire.take(size)?),
                    None => {
                        for _ in 0..count {
                            wire.bytes()?;
                            self.skip(value, wire)?;
                        }
                    }
                }
            },
            Skip::Named(name) => {
                wire.descend()?;
                self.skip(self.named.get(*name).ok_or_else(mismatch)?, wire)?;
                wire.ascend();
            }
        }
        Ok(())
    }
}

/// Reads the index of a union's branch or an enum's symbol.
#[inline]
fn index<'t, T>(wire: &mut Wire<'_>, choices: &'t [T]) -> Result<&'t T, Fail> {
    let index = wire.long()?;
    let found = usize::try_from(index).ok().and_then(|i| choices.get(i));
    found.ok_or_else(|| wire.fail("a union branch or enum symbol that the writer's schema does not have"))
}

#[inline]
fn long_into(wire: &mut Wire<'_>, data: &mut Data) -> Result<(), Fail> {
    let value = wire.long()?;
    match data {
        Data::I64(v) => v.push(value),
        Data::Timestamp(v, unit, _) => v.push(in_range(value, *unit, wire)?),
        Data::Time64(v, _) => v.push(value),
        Data::F32(v) => v.push(value as f32),
        Data::F64(v) => v.push(value as f64),
        _ => return Err(mismatch()),
    }
    Ok(())
}

#[inline]
fn int_into(wire: &mut Wire<'_>, data: &mut Data) -> Result<(), Fail> {
    let value = wire.int()?;
    match data {
        Data::I32(v) | Data::Time32(v, _) => v.push(value),
        Data::I64(v) | Data::Time64(v, _) => v.push(value.into()),
        Data::Timestamp(v, unit, _) => v.push(in_range(value.into(), *unit, wire)?),
        Data::F32(v) => v.push(value as f32),
        Data::F64(v) => v.push(value.into()),
        Data::Date(v) if calendar::date_in_range(value) => v.push(value),
        Data::Date(_) => return Err(wire.fail("date outside the years 0001 to 9999")),
        _ => return Err(mismatch()),
    }
    Ok(())
}

#[inline]
fn in_range(value: i64, unit: TimeUnit, wire: &Wire<'_>) -> Result<i64, Fail> {
    if calendar::timestamp_in_range(value, unit) { Ok(value) } else { Err(wire.fail("timestamp outside the years 0001 to 9999")) }
}

fn decimal(wire: &mut Wire<'_>, size: Option<usize>, precision: u8) -> Result<i128, Fail> {
    let bytes = match size {
        Some(size) => wire.take(size)?,
        None => wire.bytes()?,
    };
    let Some(first) = bytes.first() else { return Err(wire.fail("a decimal without bytes")) };
    let sign = if first & 0x80 == 0 { 0u8 } else { 0xff };
    let (head, tail) = bytes.split_at(bytes.len().saturating_sub(16));
    let mut buffer = [sign; 16];
    for (slot, byte) in buffer.iter_mut().rev().zip(tail.iter().rev()) {
        *slot = *byte;
    }
    let value = i128::from_be_bytes(buffer);
    let same_sign = (value < 0) == (sign != 0);
    if head.iter().any(|b| *b != sign) || !same_sign || !fits_precision(value, precision) {
        return Err(wire.fail("more digits than the decimal's precision holds"));
    }
    Ok(value)
}

fn write_uuid(bytes: [u8; 16], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for (index, byte) in bytes.into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
}
