//! The values of a column in the binary format of COPY.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, RecordBatch, StringArray};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Date32Type, Decimal256Type, Float32Type, Float64Type, Int64Type, Schema, TimeUnit, UInt64Type};
use headwater_formats::JsonEncoder;
use uuid::Uuid;

use super::native::{Native, takes};
use super::numeric::numeric;

/// Days and seconds from 1970 to 2000, where PostgreSQL's times begin.
const EPOCH_DAYS: i64 = 10_957;
const EPOCH_MICROS: i64 = EPOCH_DAYS * 86_400_000_000;
/// Dates of PostgreSQL: 4713 BC to 5874897 AD, as days from 1970.
const DATES: (i64, i64) = (-2_440_588, 2_145_031_948);
/// The first time of PostgreSQL, 4713 BC, as microseconds from 1970. The last one is beyond 64 bits.
const FIRST_TIME: i64 = -210_866_803_200_000_000;

/// A field: its length, its bytes.
pub(super) fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as i32).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// The values of a column, brought into the form that its type is written from.
pub(super) enum Cells {
    Bool(ArrayRef),
    Int(ArrayRef, u8),
    Float4(ArrayRef),
    Float8(ArrayRef),
    /// Unscaled numbers, their scale, and the limits of the column.
    Numeric(ArrayRef, u32, Option<(u32, i32)>),
    Text(ArrayRef, Option<usize>),
    /// A byte that precedes the text.
    Json(ArrayRef, Option<u8>),
    Uuid(ArrayRef),
    Bytes(ArrayRef),
    Date(ArrayRef),
    /// Microseconds from 1970, and the smallest step of the column in microseconds.
    Time(ArrayRef, i64),
    List(ArrayRef, Box<Cells>, u32),
}

fn to(array: &ArrayRef, data_type: &DataType) -> Result<ArrayRef, String> {
    cast(array, data_type).map_err(|e| e.to_string())
}

impl Cells {
    pub fn of(array: &ArrayRef, native: &Native, item: u32) -> Result<Cells, String> {
        if let DataType::Dictionary(_, value) = array.data_type() {
            return Cells::of(&to(array, value)?, native, item);
        }
        if !takes(array.data_type(), native) {
            return Err(format!("{} does not go into its type", operator_core::type_name(array.data_type())));
        }
        Ok(match native {
            Native::Bool => Cells::Bool(array.clone()),
            Native::Int(bytes) => Cells::Int(whole(array)?, *bytes),
            Native::Float(4) => match array.data_type() {
                // Rounded to the type's precision, but not to infinity.
                DataType::Float64 => {
                    let fits = |value: f64| !value.is_finite() || (value as f32).is_finite();
                    let all = array.as_primitive::<Float64Type>().iter().flatten().all(fits);
                    if !all {
                        return Err("a number out of range".to_owned());
                    }
                    Cells::Float4(to(array, &DataType::Float32)?)
                }
                _ => Cells::Float4(to(array, &DataType::Float32)?),
            },
            Native::Float(_) => Cells::Float8(to(array, &DataType::Float64)?),
            Native::Numeric(limit) => {
                let scale = match array.data_type() {
                    DataType::Decimal32(_, s) | DataType::Decimal64(_, s) | DataType::Decimal128(_, s) | DataType::Decimal256(_, s) => *s,
                    _ => 0,
                };
                let scale = u32::try_from(scale).map_err(|_| "a decimal of negative scale".to_owned())?;
                Cells::Numeric(to(array, &DataType::Decimal256(76, scale as i8))?, scale, *limit)
            }
            Native::Text(most) => Cells::Text(to(array, &DataType::Utf8)?, *most),
            Native::Json | Native::Jsonb => {
                let texts = match array.data_type() {
                    DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => to(array, &DataType::Utf8)?,
                    _ => json(array)?,
                };
                Cells::Json(texts, (*native == Native::Jsonb).then_some(1))
            }
            Native::Uuid => match array.data_type() {
                DataType::FixedSizeBinary(_) => Cells::Bytes(to(array, &DataType::Binary)?),
                _ => Cells::Uuid(to(array, &DataType::Utf8)?),
            },
            Native::Bytea => Cells::Bytes(to(array, &DataType::Binary)?),
            Native::Date => Cells::Date(to(array, &DataType::Date32)?),
            Native::Timestamp(digits) => Cells::Time(micros(array)?, 10i64.pow(6 - (*digits).min(6))),
            Native::Array(of) => {
                let array = match array.data_type() {
                    DataType::LargeList(field) | DataType::FixedSizeList(field, _) => to(array, &DataType::List(field.clone()))?,
                    _ => array.clone(),
                };
                // A slice of a list keeps the items of all its rows: the others' are not this one's fault.
                let list = array.as_list_opt::<i32>().ok_or("not a list")?;
                let (first, last) = (list.value_offsets().first().copied().unwrap_or(0), list.value_offsets().last().copied().unwrap_or(0));
                let values = list.values().slice(first as usize, (last - first) as usize);
                let offsets: Vec<i32> = list.value_offsets().iter().map(|offset| offset - first).collect();
                let DataType::List(field) = list.data_type() else { return Err("not a list".to_owned()) };
                let own = ListArray::try_new(field.clone(), OffsetBuffer::new(offsets.into()), values.clone(), list.nulls().cloned());
                let array: ArrayRef = Arc::new(own.map_err(|e| e.to_string())?);
                let number = if item == 0 { oid(of)? } else { item };
                Cells::List(array, Box::new(Cells::of(&values, of, 0)?), number)
            }
        })
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Cells::Bool(a) | Cells::Int(a, _) | Cells::Float4(a) | Cells::Float8(a) | Cells::Numeric(a, ..) | Cells::Text(a, _) => {
                a.is_null(row)
            }
            Cells::Json(a, _) | Cells::Uuid(a) | Cells::Bytes(a) | Cells::Date(a) | Cells::Time(a, _) | Cells::List(a, ..) => {
                a.is_null(row)
            }
        }
    }

    pub fn field(&self, row: usize, out: &mut Vec<u8>) -> Result<(), String> {
        if self.is_null(row) {
            out.extend_from_slice(&(-1i32).to_be_bytes());
            return Ok(());
        }
        let out_of_range = || "a number out of range".to_owned();
        match self {
            Cells::Bool(array) => put(out, &[u8::from(array.as_boolean().value(row))]),
            Cells::Int(array, bytes) => {
                let value = array.as_primitive::<Int64Type>().value(row);
                match bytes {
                    2 => put(out, &i16::try_from(value).map_err(|_| out_of_range())?.to_be_bytes()),
                    4 => put(out, &i32::try_from(value).map_err(|_| out_of_range())?.to_be_bytes()),
                    _ => put(out, &value.to_be_bytes()),
                }
            }
            Cells::Float4(array) => put(out, &array.as_primitive::<Float32Type>().value(row).to_be_bytes()),
            Cells::Float8(array) => put(out, &array.as_primitive::<Float64Type>().value(row).to_be_bytes()),
            Cells::Numeric(array, scale, limit) => numeric(array.as_primitive::<Decimal256Type>().value(row), *scale, *limit, out)?,
            Cells::Text(array, most) => {
                let text = array.as_string::<i32>().value(row);
                if most.is_some_and(|most| text.len() > most && text.chars().count() > most) {
                    return Err(format!("a text of more than {} characters", most.unwrap_or_default()));
                }
                put(out, text.as_bytes());
            }
            Cells::Json(array, version) => {
                let text = array.as_string::<i32>().value(row).as_bytes();
                let length = text.len() + usize::from(version.is_some());
                out.extend_from_slice(&(length as i32).to_be_bytes());
                out.extend(version);
                out.extend_from_slice(text);
            }
            Cells::Uuid(array) => {
                let text = array.as_string::<i32>().value(row);
                let read = matches!(text.len(), 32 | 36).then(|| Uuid::try_parse(text).ok()).flatten();
                put(out, read.ok_or("a text that is not a UUID")?.as_bytes());
            }
            Cells::Bytes(array) => put(out, array.as_binary::<i32>().value(row)),
            Cells::Date(array) => {
                let days = i64::from(array.as_primitive::<Date32Type>().value(row));
                if days < DATES.0 || days > DATES.1 {
                    return Err("a date out of range".to_owned());
                }
                put(out, &i32::try_from(days - EPOCH_DAYS).map_err(|_| "a date out of range".to_owned())?.to_be_bytes());
            }
            Cells::Time(array, step) => {
                let value = array.as_primitive::<Int64Type>().value(row);
                if value < FIRST_TIME {
                    return Err("a time out of range".to_owned());
                }
                if value % step != 0 {
                    return Err("a time with more digits after the second than it has (`date_trunc` drops them)".to_owned());
                }
                let shifted = value.checked_sub(EPOCH_MICROS).ok_or("a time out of range")?;
                put(out, &shifted.to_be_bytes());
            }
            Cells::List(array, items, oid) => list(array, items, *oid, row, out)?,
        }
        Ok(())
    }
}

/// An array of one dimension: dimensions, whether there are nulls, the type, the length, the first index, the items.
fn list(array: &ArrayRef, items: &Cells, oid: u32, row: usize, out: &mut Vec<u8>) -> Result<(), String> {
    let offsets = array.as_list::<i32>().value_offsets();
    let at = |index: usize| offsets.get(index).and_then(|offset| usize::try_from(*offset).ok()).unwrap_or(0);
    let (first, end) = (at(row), at(row + 1));
    let start = out.len();
    out.extend_from_slice(&0i32.to_be_bytes());
    let nulls = (first..end).any(|item| items.is_null(item));
    out.extend_from_slice(&i32::from(end > first).to_be_bytes());
    out.extend_from_slice(&i32::from(nulls).to_be_bytes());
    out.extend_from_slice(&oid.to_be_bytes());
    if end > first {
        out.extend_from_slice(&((end - first) as i32).to_be_bytes());
        out.extend_from_slice(&1i32.to_be_bytes());
    }
    for item in first..end {
        items.field(item, out).map_err(|why| format!("an item: {why}"))?;
    }
    let length = (out.len() - start - 4) as i32;
    if let Some(place) = out.get_mut(start..start + 4) {
        place.copy_from_slice(&length.to_be_bytes());
    }
    Ok(())
}

/// The number of a type that arrays are made of, in every PostgreSQL.
fn oid(native: &Native) -> Result<u32, String> {
    Ok(match native {
        Native::Bool => 16,
        Native::Bytea => 17,
        Native::Int(8) => 20,
        Native::Int(2) => 21,
        Native::Int(_) => 23,
        Native::Text(None) => 25,
        Native::Text(Some(_)) => 1043,
        Native::Json => 114,
        Native::Float(4) => 700,
        Native::Float(_) => 701,
        Native::Date => 1082,
        Native::Timestamp(_) => 1184,
        Native::Numeric(_) => 1700,
        Native::Uuid => 2950,
        Native::Jsonb => 3802,
        Native::Array(_) => return Err("an array of arrays".to_owned()),
    })
}

/// Whole numbers; those of 64 bits without a sign must fit into one with a sign.
fn whole(array: &ArrayRef) -> Result<ArrayRef, String> {
    if array.data_type() == &DataType::UInt64
        && array.as_primitive::<UInt64Type>().iter().flatten().any(|value| i64::try_from(value).is_err())
    {
        return Err("a number out of range".to_owned());
    }
    to(array, &DataType::Int64)
}

/// Timestamps as microseconds.
fn micros(array: &ArrayRef) -> Result<ArrayRef, String> {
    let DataType::Timestamp(unit, _) = array.data_type() else { return Err("not a timestamp".to_owned()) };
    let numbers = to(array, &DataType::Int64)?;
    let values = numbers.as_primitive::<Int64Type>();
    let out_of_range = || "a time out of range".to_owned();
    let scaled = |factor: i64| -> Result<ArrayRef, String> {
        let values = values.iter().map(|value| value.map(|value| value.checked_mul(factor).ok_or_else(out_of_range)).transpose());
        Ok(Arc::new(values.collect::<Result<arrow::array::Int64Array, String>>()?))
    };
    match unit {
        TimeUnit::Second => scaled(1_000_000),
        TimeUnit::Millisecond => scaled(1_000),
        TimeUnit::Microsecond => Ok(numbers),
        TimeUnit::Nanosecond => {
            if values.iter().flatten().any(|value| value % 1_000 != 0) {
                return Err("a time with nanoseconds (`date_trunc('microsecond', at)` drops them)".to_owned());
            }
            Ok(Arc::new(values.iter().map(|value| value.map(|value| value / 1_000)).collect::<arrow::array::Int64Array>()))
        }
    }
}

/// Records, maps and lists as JSON texts.
fn json(array: &ArrayRef) -> Result<ArrayRef, String> {
    const COLUMN: &str = "v";
    let schema = Arc::new(Schema::new(vec![arrow::datatypes::Field::new(COLUMN, array.data_type().clone(), true)]));
    let rows = RecordBatch::try_new(schema.clone(), vec![array.clone()]).map_err(|e| e.to_string())?;
    let encoder = JsonEncoder::new(&schema);
    let rows = encoder.batch(&rows)?;
    let one = |row: usize| {
        let mut text = Vec::new();
        rows.write(row, &mut text)?;
        // `{"v":..}`
        let inner = text.get(COLUMN.len() + 4..text.len().saturating_sub(1)).unwrap_or_default();
        String::from_utf8(inner.to_vec()).map(Some).map_err(|e| e.to_string())
    };
    let texts = (0..array.len()).map(|row| if array.is_null(row) { Ok(None) } else { one(row) });
    Ok(Arc::new(texts.collect::<Result<StringArray, String>>()?))
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::i256;

    use super::*;

    fn bytes(unscaled: i128, scale: u32) -> Vec<i16> {
        let mut out = Vec::new();
        numeric(i256::from_i128(unscaled), scale, None, &mut out).unwrap();
        out.get(4..).unwrap().chunks(2).map(|pair| i16::from_be_bytes([pair[0], pair[1]])).collect()
    }

    #[test]
    fn numbers_are_digits_to_the_base_ten_thousand() {
        assert_eq!(bytes(0, 2), [0, 0, 0, 2]);
        assert_eq!(bytes(1, 0), [1, 0, 0, 0, 1]);
        assert_eq!(bytes(-123_456, 2), [2, 0, 0x4000, 2, 1_234, 5_600]);
        assert_eq!(bytes(10_000, 0), [1, 1, 0, 0, 1]);
        assert_eq!(bytes(5, 6), [1, -2, 0, 6, 500]);
    }

    #[test]
    fn an_item_that_does_not_fit_is_that_of_its_own_row_only() {
        let items = |rows: &[f64]| -> ArrayRef {
            Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>(rows.iter().map(|item| Some(vec![Some(*item)]))))
        };
        let written = |array: &ArrayRef| {
            let mut out = Vec::new();
            Cells::of(array, &Native::Array(Box::new(Native::Float(4))), 0).and_then(|cells| cells.field(0, &mut out)).map(|()| out)
        };
        let all = items(&[1.0, 1e39, 2.0]);
        assert_eq!(written(&all.slice(2, 1)).unwrap(), written(&items(&[2.0])).unwrap());
        assert!(written(&all.slice(0, 1)).is_ok() && written(&all.slice(1, 1)).is_err());
    }

    #[test]
    fn numbers_that_would_be_changed_do_not_fit() {
        let fits = |unscaled: i128, scale, limit| numeric(i256::from_i128(unscaled), scale, Some(limit), &mut Vec::new()).is_ok();
        assert!(fits(999, 2, (3, 2)) && fits(-999, 2, (3, 2)) && fits(100, 4, (3, 2)));
        assert!(!fits(1_000, 2, (3, 2)), "too large");
        assert!(!fits(101, 4, (3, 2)), "would be rounded");
    }
}
