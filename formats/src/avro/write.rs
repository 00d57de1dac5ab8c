//! The compiled form of an encoder, and how it runs.

use std::collections::HashMap;

use arrow::datatypes::TimeUnit;

use super::wire::write_long;
use crate::calendar;
use crate::cause::Fail;
use crate::number::fits_precision;
use crate::view::{Values, View, at, span};

/// How to write one value of a column. Types were matched when the encoder was made.
pub(crate) enum Encode {
    Null,
    Bool,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    Text,
    Fixed(usize),
    FixedUuid,
    Enum(HashMap<Box<str>, i64>),
    /// Precision.
    DecimalBytes(u8),
    /// Size and precision.
    DecimalFixed(usize, u8),
    /// A count of time units, from the column's to the field's.
    Scaled(TimeUnit, TimeUnit),
    Record(Vec<FieldEncode>),
    Array(Box<Encode>),
    Map(Box<Encode>),
    /// A union of which one branch is written, and null if there is a branch for it.
    Choice {
        null: Option<i64>,
        value: i64,
        inner: Box<Encode>,
    },
    /// A union of several types from a struct with one field per branch.
    Branches {
        null: Option<i64>,
        of: Vec<(i64, Encode)>,
    },
}

pub(crate) enum FieldEncode {
    /// Index of the column, and the field's name.
    Column(usize, String, Encode),
    /// The same bytes for each row.
    Constant(Vec<u8>),
}

#[cold]
#[inline(never)]
fn mismatch() -> Fail {
    Fail::new("the encoder and the batch have different columns")
}

pub(crate) fn record(fields: &[FieldEncode], columns: &[View<'_>], row: usize, out: &mut Vec<u8>) -> Result<(), Fail> {
    for field in fields {
        match field {
            FieldEncode::Column(index, name, encode) => {
                let column = columns.get(*index).ok_or_else(mismatch)?;
                if let Err(fail) = value(encode, column, row, out) {
                    return Err(fail.in_field(name));
                }
            }
            FieldEncode::Constant(bytes) => out.extend_from_slice(bytes),
        }
    }
    Ok(())
}

fn value(encode: &Encode, column: &View<'_>, row: usize, out: &mut Vec<u8>) -> Result<(), Fail> {
    let null = column.is_null(row);
    match encode {
        Encode::Choice { null: Some(branch), .. } if null => {
            write_long(*branch, out);
            return Ok(());
        }
        Encode::Branches { null: Some(branch), .. } if null => {
            write_long(*branch, out);
            return Ok(());
        }
        Encode::Null if null => return Ok(()),
        _ if null => return Err(Fail::new("null, but the field of the Avro schema is not nullable")),
        Encode::Choice { value: branch, inner, .. } => {
            write_long(*branch, out);
            return value(inner, column, row, out);
        }
        _ => {}
    }
    match (encode, &column.values) {
        (Encode::Text, Values::Text(texts)) => bytes(texts.get(row).as_bytes(), out),
        (Encode::Long | Encode::Int, values) => write_long(integer(values, row)?, out),
        (Encode::Double, Values::F64(v)) => out.extend_from_slice(&at(v, row).to_le_bytes()),
        (Encode::Double, Values::F32(v)) => out.extend_from_slice(&f64::from(at(v, row)).to_le_bytes()),
        (Encode::Float, Values::F32(v)) => out.extend_from_slice(&at(v, row).to_le_bytes()),
        (Encode::Bool, Values::Bool(array)) => out.push(u8::from(array.value(row))),
        (Encode::Bytes, Values::Bytes(blobs)) => bytes(blobs.get(row), out),
        (Encode::Fixed(size), Values::Bytes(blobs)) => {
            let blob = blobs.get(row);
            if blob.len() != *size {
                return Err(Fail::new(format!("expected {size} bytes, found {}", blob.len())));
            }
            out.extend_from_slice(blob);
        }
        (Encode::FixedUuid, Values::Text(texts)) => uuid(texts.get(row).as_bytes(), out)?,
        (Encode::Enum(symbols), Values::Text(texts)) => {
            let symbol = symbols.get(texts.get(row));
            write_long(*symbol.ok_or_else(|| Fail::new("the text is not a symbol of the enum"))?, out);
        }
        (Encode::DecimalBytes(precision), Values::Decimal(v, _)) => decimal(at(v, row), None, *precision, out)?,
        (Encode::DecimalFixed(size, precision), Values::Decimal(v, _)) => decimal(at(v, row), Some(*size), *precision, out)?,
        (Encode::Scaled(from, to), Values::Timestamp(v, ..) | Values::Time64(v, _)) => scaled(at(v, row), *from, *to, out)?,
        (Encode::Scaled(from, to), Values::Time32(v, _)) => scaled(at(v, row).into(), *from, *to, out)?,
        (Encode::Record(fields), Values::Struct(columns)) => record(fields, columns, row, out)?,
        (Encode::Array(item), Values::List(offsets, items)) => {
            let rows = span(offsets, row);
            let first = rows.start;
            block(rows.len(), out);
            for row in rows.clone() {
                value(item, items, row, out).map_err(|fail| fail.in_item(row - first))?;
            }
            end(rows.len(), out);
        }
        (Encode::Map(item), Values::Map(offsets, keys, values)) => {
            let Values::Text(texts) = &keys.values else { return Err(mismatch()) };
            let rows = span(offsets, row);
            let first = rows.start;
            block(rows.len(), out);
            for row in rows.clone() {
                bytes(texts.get(row).as_bytes(), out);
                value(item, values, row, out).map_err(|fail| fail.in_item(row - first))?;
            }
            end(rows.len(), out);
        }
        (Encode::Branches { of, .. }, Values::Struct(columns)) => branches(of, columns, row, out)?,
        _ => return Err(mismatch()),
    }
    Ok(())
}

/// Writes the one field of the struct that is set.
fn branches(of: &[(i64, Encode)], columns: &[View<'_>], row: usize, out: &mut Vec<u8>) -> Result<(), Fail> {
    let mut set = of.iter().zip(columns).filter(|(_, column)| !column.is_null(row));
    match (set.next(), set.next()) {
        (Some(((branch, encode), column)), None) => {
            write_long(*branch, out);
            value(encode, column, row, out)
        }
        _ => Err(Fail::new("of the fields of a union, exactly one must be set")),
    }
}

fn block(items: usize, out: &mut Vec<u8>) {
    write_long(items as i64, out);
}

/// The empty block that ends an array or map; an empty one has consisted of it already.
fn end(items: usize, out: &mut Vec<u8>) {
    if items > 0 {
        out.push(0);
    }
}

fn bytes(value: &[u8], out: &mut Vec<u8>) {
    write_long(value.len() as i64, out);
    out.extend_from_slice(value);
}

fn integer(values: &Values<'_>, row: usize) -> Result<i64, Fail> {
    Ok(match values {
        Values::I8(v) => at(v, row).into(),
        Values::I16(v) => at(v, row).into(),
        Values::I32(v) | Values::Date(v) => at(v, row).into(),
        Values::I64(v) => at(v, row),
        Values::U8(v) => at(v, row).into(),
        Values::U16(v) => at(v, row).into(),
        Values::U32(v) => at(v, row).into(),
        Values::U64(v) => i64::try_from(at(v, row)).map_err(|_| Fail::new("beyond the range of an Avro long"))?,
        _ => return Err(mismatch()),
    })
}

fn scaled(value: i64, from: TimeUnit, to: TimeUnit, out: &mut Vec<u8>) -> Result<(), Fail> {
    let converted = calendar::convert(value, from, to).ok_or_else(|| Fail::new("timestamp out of range"))?;
    write_long(converted, out);
    Ok(())
}

fn decimal(value: i128, size: Option<usize>, precision: u8, out: &mut Vec<u8>) -> Result<(), Fail> {
    let too_large = || Fail::new("more digits than the decimal of the Avro schema holds");
    if !fits_precision(value, precision) {
        return Err(too_large());
    }
    let all = value.to_be_bytes();
    let sign = if value < 0 { 0xff } else { 0 };
    // Leading sign bytes are redundant as long as the next byte has the same sign.
    let redundant = all.windows(2).take_while(|pair| matches!(pair, [a, b] if *a == sign && (b ^ sign) & 0x80 == 0)).count();
    let shortest = all.get(redundant..).unwrap_or_default();
    match size {
        None => bytes(shortest, out),
        Some(size) => {
            let padding = size.checked_sub(shortest.len()).ok_or_else(too_large)?;
            out.extend(std::iter::repeat_n(sign, padding));
            out.extend_from_slice(shortest);
        }
    }
    Ok(())
}

fn uuid(text: &[u8], out: &mut Vec<u8>) -> Result<(), Fail> {
    let wrong = || Fail::new("the text is not a UUID");
    if text.len() != 36 || ![8, 13, 18, 23].iter().all(|i| text.get(*i) == Some(&b'-')) {
        return Err(wrong());
    }
    let digits = text.iter().enumerate().filter(|(i, _)| ![8, 13, 18, 23].contains(i)).map(|(_, b)| char::from(*b).to_digit(16));
    let mut high = None;
    for digit in digits {
        let digit = digit.ok_or_else(wrong)? as u8;
        match high.take() {
            None => high = Some(digit),
            Some(first) => out.push(first << 4 | digit),
        }
    }
    Ok(())
}
