//! Group keys as bytes: an encoding of column values that is injective and keeps equal values equal, so that state
//! can be keyed by it on any worker and any version. Not an ordering of the values.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, PrimitiveArray, StringArray};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};

const NULL: u8 = 0;
const VALUE: u8 = 1;

/// True for the types that can be part of a group key.
pub fn is_groupable(data_type: &DataType) -> bool {
    use DataType::*;
    matches!(
        data_type,
        Boolean
            | Int8
            | Int16
            | Int32
            | Int64
            | UInt8
            | UInt16
            | UInt32
            | UInt64
            | Utf8
            | Binary
            | Date32
            | Float32
            | Float64
            | Timestamp(_, _)
            | Decimal128(_, _)
    )
}

macro_rules! fixed {
    ($array:expr, $type:ty, $row:expr, $out:expr) => {
        $out.extend_from_slice(&$array.as_primitive::<$type>().value($row).to_be_bytes())
    };
}

/// Appends the encoding of `columns[..][row]` to `out`: per column a presence byte, then fixed width values
/// big-endian, and texts and bytes with a 4-byte length before them.
/// Types outside [`is_groupable`] are refused when planning and encode as null here.
pub fn encode(columns: &[ArrayRef], row: usize, out: &mut Vec<u8>) {
    for column in columns {
        if column.is_null(row) {
            out.push(NULL);
            continue;
        }
        let start = out.len();
        out.push(VALUE);
        match column.data_type() {
            DataType::Utf8 => bytes(column.as_string::<i32>().value(row).as_bytes(), out),
            DataType::Binary => bytes(column.as_binary::<i32>().value(row), out),
            DataType::Boolean => out.push(column.as_boolean().value(row).into()),
            DataType::Int8 => fixed!(column, Int8Type, row, out),
            DataType::Int16 => fixed!(column, Int16Type, row, out),
            DataType::Int32 => fixed!(column, Int32Type, row, out),
            DataType::Int64 => fixed!(column, Int64Type, row, out),
            DataType::UInt8 => fixed!(column, UInt8Type, row, out),
            DataType::UInt16 => fixed!(column, UInt16Type, row, out),
            DataType::UInt32 => fixed!(column, UInt32Type, row, out),
            DataType::UInt64 => fixed!(column, UInt64Type, row, out),
            DataType::Date32 => fixed!(column, Date32Type, row, out),
            DataType::Decimal128(_, _) => fixed!(column, Decimal128Type, row, out),
            DataType::Float32 => float(column.as_primitive::<Float32Type>().value(row).into(), out),
            DataType::Float64 => float(column.as_primitive::<Float64Type>().value(row), out),
            DataType::Timestamp(TimeUnit::Second, _) => fixed!(column, TimestampSecondType, row, out),
            DataType::Timestamp(TimeUnit::Millisecond, _) => fixed!(column, TimestampMillisecondType, row, out),
            DataType::Timestamp(TimeUnit::Microsecond, _) => fixed!(column, TimestampMicrosecondType, row, out),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => fixed!(column, TimestampNanosecondType, row, out),
            _ => {
                out.truncate(start);
                out.push(NULL);
            }
        }
    }
}

/// The length of the encoding of columns of these types that `bytes` begin with; `None` if they don't begin with one.
pub fn length(types: &[DataType], bytes: &[u8]) -> Option<usize> {
    use DataType::*;
    let mut length = 0usize;
    for data_type in types {
        let (presence, rest) = bytes.get(length..)?.split_first()?;
        length += 1;
        let width = match (*presence, data_type) {
            (NULL, _) => 0,
            (VALUE, Utf8 | Binary) => {
                let (written, _) = rest.split_first_chunk::<4>()?;
                4usize.checked_add(u32::from_be_bytes(*written) as usize)?
            }
            (VALUE, Boolean) => 1,
            // Floats of both widths are written as doubles.
            (VALUE, Float32) => 8,
            (VALUE, other) => other.primitive_width()?,
            _ => return None,
        };
        length = length.checked_add(width)?;
    }
    (length <= bytes.len()).then_some(length)
}

/// The columns, of these types, that were encoded as `keys`, one row for each; `None` if one of them is not such a key.
pub fn decode<'a>(types: &[DataType], keys: impl Iterator<Item = &'a [u8]>) -> Option<Vec<ArrayRef>> {
    let mut values: Vec<Vec<Option<&[u8]>>> = vec![Vec::new(); types.len()];
    for mut key in keys {
        for (data_type, values) in types.iter().zip(&mut values) {
            let (value, rest) = key.split_at_checked(length(std::slice::from_ref(data_type), key)?)?;
            key = rest;
            let (presence, value) = value.split_first()?;
            values.push((*presence == VALUE).then_some(value));
        }
        if !key.is_empty() {
            return None;
        }
    }
    types.iter().zip(values).map(|(data_type, values)| column(data_type, &values)).collect()
}

/// A column of encoded values.
fn column(data_type: &DataType, values: &[Option<&[u8]>]) -> Option<ArrayRef> {
    macro_rules! of {
        ($type:ty) => {{
            let number = |value: &[u8]| Some(<$type as ArrowPrimitiveType>::Native::from_be_bytes(value.try_into().ok()?));
            let numbers = values.iter().map(|value| value.map_or(Some(None), |value| number(value).map(Some)));
            Arc::new(numbers.collect::<Option<PrimitiveArray<$type>>>()?.with_data_type(data_type.clone())) as ArrayRef
        }};
    }
    // Behind the length.
    let bytes = |value: &'_ Option<&[u8]>| value.map(|value| value.get(4..).unwrap_or_default().to_vec());
    Some(match data_type {
        DataType::Utf8 => {
            let texts = values.iter().map(|value| bytes(value).map(String::from_utf8).transpose().ok());
            Arc::new(texts.collect::<Option<StringArray>>()?)
        }
        DataType::Binary => Arc::new(values.iter().map(bytes).collect::<BinaryArray>()),
        DataType::Boolean => Arc::new(values.iter().map(|value| value.map(|value| value == [1])).collect::<BooleanArray>()),
        DataType::Float32 => {
            let doubles = column(&DataType::Float64, values)?;
            Arc::new(doubles.as_primitive::<Float64Type>().unary::<_, Float32Type>(|value| value as f32))
        }
        DataType::Int8 => of!(Int8Type),
        DataType::Int16 => of!(Int16Type),
        DataType::Int32 => of!(Int32Type),
        DataType::Int64 => of!(Int64Type),
        DataType::UInt8 => of!(UInt8Type),
        DataType::UInt16 => of!(UInt16Type),
        DataType::UInt32 => of!(UInt32Type),
        DataType::UInt64 => of!(UInt64Type),
        DataType::Date32 => of!(Date32Type),
        DataType::Float64 => of!(Float64Type),
        DataType::Decimal128(_, _) => of!(Decimal128Type),
        DataType::Timestamp(TimeUnit::Second, _) => of!(TimestampSecondType),
        DataType::Timestamp(TimeUnit::Millisecond, _) => of!(TimestampMillisecondType),
        DataType::Timestamp(TimeUnit::Microsecond, _) => of!(TimestampMicrosecondType),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => of!(TimestampNanosecondType),
        _ => return None,
    })
}

/// The column with one spelling of equal values: results of a group must not depend on which of its rows came last.
pub fn canonical(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Float32 => Arc::new(column.as_primitive::<Float32Type>().unary::<_, Float32Type>(|value| same(value.into()) as f32)),
        DataType::Float64 => Arc::new(column.as_primitive::<Float64Type>().unary::<_, Float64Type>(same)),
        _ => column.clone(),
    }
}

fn bytes(value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(value.len() as u32).to_be_bytes());
    out.extend_from_slice(value);
}

fn float(value: f64, out: &mut Vec<u8>) {
    out.extend_from_slice(&same(value).to_be_bytes());
}

/// -0.0 equals 0.0, and every NaN equals every other.
fn same(value: f64) -> f64 {
    if value == 0.0 {
        0.0
    } else if value.is_nan() {
        f64::NAN
    } else {
        value
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Date32Array, Decimal128Array, Float32Array, Float64Array, Int64Array, TimestampMillisecondArray, UInt8Array};

    use super::*;

    fn key(columns: &[ArrayRef], row: usize) -> Vec<u8> {
        let mut out = Vec::new();
        encode(columns, row, &mut out);
        out
    }

    #[test]
    fn the_end_of_a_key_is_found() {
        let columns: [ArrayRef; 4] = [
            Arc::new(StringArray::from(vec![Some("grün"), None])),
            Arc::new(Float32Array::from(vec![Some(1.5), None])),
            Arc::new(BooleanArray::from(vec![Some(true), None])),
            Arc::new(Decimal128Array::from(vec![Some(-5), None])),
        ];
        let types: Vec<DataType> = columns.iter().map(|c| c.data_type().clone()).collect();
        for row in 0..2 {
            let mut bytes = key(&columns, row);
            let expected = bytes.len();
            for cut in 0..expected {
                assert_eq!(length(&types, &bytes[..cut]), None);
            }
            bytes.extend_from_slice(&[1; 30]);
            assert_eq!(length(&types, &bytes), Some(expected));
        }
        assert_eq!(length(&[DataType::Int32], &[7, 0, 0, 0, 0]), None, "neither null nor a value");
        assert_eq!(length(&[], &[7]), Some(0));
    }

    #[test]
    fn what_was_encoded_is_read_back() {
        let columns: [ArrayRef; 9] = [
            Arc::new(StringArray::from(vec![Some("grün"), None, Some("")])),
            Arc::new(BinaryArray::from_opt_vec(vec![Some(b"\0\xff"), None, Some(b"")])),
            Arc::new(Float32Array::from(vec![Some(1.5), None, Some(-2.0)])),
            Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
            Arc::new(Decimal128Array::from(vec![Some(-5), None, Some(7)]).with_precision_and_scale(12, 2).unwrap()),
            Arc::new(TimestampMillisecondArray::from(vec![Some(-1), None, Some(5)]).with_timezone("UTC")),
            Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(0)])),
            Arc::new(UInt8Array::from(vec![Some(255), None, Some(0)])),
            Arc::new(Date32Array::from(vec![Some(-1), None, Some(0)])),
        ];
        let types: Vec<DataType> = columns.iter().map(|c| c.data_type().clone()).collect();
        let encoded: Vec<Vec<u8>> = (0..3).map(|row| key(&columns, row)).collect();
        assert_eq!(decode(&types, encoded.iter().map(Vec::as_slice)), Some(columns.to_vec()));
        let cut = encoded[0].get(..encoded[0].len() - 1).unwrap();
        let longer = [encoded[0].as_slice(), &[0]].concat();
        assert_eq!((decode(&types, [cut].into_iter()), decode(&types, [longer.as_slice()].into_iter())), (None, None));
        assert_eq!(decode(&[DataType::Utf8], [&[VALUE, 0, 0, 0, 1, 0xff][..]].into_iter()), None, "not a text");
    }

    #[test]
    fn equal_values_have_equal_keys_and_no_others() {
        let a: ArrayRef = Arc::new(StringArray::from(vec![Some("ab"), Some("a"), Some(""), None]));
        let b: ArrayRef = Arc::new(StringArray::from(vec![Some("c"), Some("bc"), None, Some("")]));
        let columns = [a, b];
        let keys: Vec<_> = (0..4).map(|row| key(&columns, row)).collect();
        for (i, left) in keys.iter().enumerate() {
            for (j, right) in keys.iter().enumerate() {
                assert_eq!(left == right, i == j);
            }
        }
        let floats: ArrayRef = Arc::new(Float64Array::from(vec![0.0, -0.0, f64::NAN, -f64::NAN]));
        let floats = [floats];
        assert_eq!(key(&floats, 0), key(&floats, 1));
        assert_eq!(key(&floats, 2), key(&floats, 3));
    }
}
