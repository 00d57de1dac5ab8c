//! Values between columns and state: arrays are looked at through [`Column`], downcast once per batch, and single
//! values that must live in state (an extreme, a first, a group's name) are [`Value`]s.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Float32Array, Float64Array, PrimitiveArray, StringArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use operator_core::stores::bytes::{Reader, put_bytes, put_f64, put_i128};

/// A value that is kept in state. Integers of all widths, booleans, dates, timestamps and decimals are their number.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Int(i128),
    Float(f64),
    Bytes(Vec<u8>),
}

impl Value {
    /// How it compares to another value of the same type; `None` if that is of another one.
    pub fn compare(&self, other: &Value) -> Option<Ordering> {
        match (self, other) {
            (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
            (Value::Float(a), Value::Float(b)) => Some(a.total_cmp(b)),
            (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }

    /// Bytes that it needs in a column, about.
    pub fn size(&self) -> usize {
        match self {
            Value::Int(_) | Value::Float(_) => 16,
            Value::Bytes(value) => value.len(),
        }
    }

    /// Appends the value to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Value::Int(value) => {
                out.push(0);
                put_i128(*value, out);
            }
            Value::Float(value) => {
                out.push(1);
                put_f64(*value, out);
            }
            Value::Bytes(value) => {
                out.push(2);
                put_bytes(value, out);
            }
        }
    }

    /// Reads what [`Value::encode`] wrote.
    pub fn decode(reader: &mut Reader<'_>) -> Option<Value> {
        match reader.u8()? {
            0 => reader.i128().map(Value::Int),
            1 => reader.f64().map(Value::Float),
            2 => reader.bytes().map(|bytes| Value::Bytes(bytes.to_vec())),
            _ => None,
        }
    }
}

/// An array of one of the types that can be grouped by, compared and picked, by its values.
#[derive(Clone, Copy, Debug)]
enum Typed<'a> {
    I8(&'a [i8]),
    I16(&'a [i16]),
    I32(&'a [i32]),
    I64(&'a [i64]),
    U8(&'a [u8]),
    U16(&'a [u16]),
    U32(&'a [u32]),
    U64(&'a [u64]),
    F32(&'a [f32]),
    F64(&'a [f64]),
    I128(&'a [i128]),
    Bool(&'a BooleanArray),
    Text(&'a StringArray),
    Bytes(&'a BinaryArray),
    /// A type without a value of its own: only its nulls count (`count(x)` of a list).
    Opaque,
}

/// One input column of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Column<'a> {
    typed: Typed<'a>,
    nulls: Option<&'a NullBuffer>,
    /// All values are null: a column of type `Null`, which has no validity buffer.
    absent: bool,
    /// What one unit of a decimal is worth.
    unit: f64,
}

impl<'a> Column<'a> {
    pub fn new(array: &'a ArrayRef) -> Column<'a> {
        use DataType::*;
        let typed = match array.data_type() {
            Int8 => Typed::I8(array.as_primitive::<Int8Type>().values()),
            Int16 => Typed::I16(array.as_primitive::<Int16Type>().values()),
            Int32 => Typed::I32(array.as_primitive::<Int32Type>().values()),
            Int64 => Typed::I64(array.as_primitive::<Int64Type>().values()),
            UInt8 => Typed::U8(array.as_primitive::<UInt8Type>().values()),
            UInt16 => Typed::U16(array.as_primitive::<UInt16Type>().values()),
            UInt32 => Typed::U32(array.as_primitive::<UInt32Type>().values()),
            UInt64 => Typed::U64(array.as_primitive::<UInt64Type>().values()),
            Float32 => Typed::F32(array.as_primitive::<Float32Type>().values()),
            Float64 => Typed::F64(array.as_primitive::<Float64Type>().values()),
            Decimal128(_, _) => Typed::I128(array.as_primitive::<Decimal128Type>().values()),
            Date32 => Typed::I32(array.as_primitive::<Date32Type>().values()),
            Timestamp(TimeUnit::Second, _) => Typed::I64(array.as_primitive::<TimestampSecondType>().values()),
            Timestamp(TimeUnit::Millisecond, _) => Typed::I64(array.as_primitive::<TimestampMillisecondType>().values()),
            Timestamp(TimeUnit::Microsecond, _) => Typed::I64(array.as_primitive::<TimestampMicrosecondType>().values()),
            Timestamp(TimeUnit::Nanosecond, _) => Typed::I64(array.as_primitive::<TimestampNanosecondType>().values()),
            Boolean => Typed::Bool(array.as_boolean()),
            Utf8 => Typed::Text(array.as_string::<i32>()),
            Binary => Typed::Bytes(array.as_binary::<i32>()),
            _ => Typed::Opaque,
        };
        let unit = match array.data_type() {
            Decimal128(_, scale) => 10f64.powi(i32::from(*scale)),
            _ => 1.0,
        };
        Column { typed, nulls: array.nulls(), absent: *array.data_type() == Null, unit }
    }

    #[inline]
    pub fn is_null(&self, row: usize) -> bool {
        self.absent || self.nulls.is_some_and(|nulls| nulls.is_null(row))
    }

    /// Bytes of the text or byte string in `row`; 0 for every other type and for nulls.
    #[inline]
    pub fn width(&self, row: usize) -> usize {
        match self.typed {
            _ if self.is_null(row) => 0,
            Typed::Text(array) => array.value(row).len(),
            Typed::Bytes(array) => array.value(row).len(),
            _ => 0,
        }
    }

    /// The number in `row`; `None` for a null and for types that are not whole numbers inside.
    #[inline]
    pub fn int(&self, row: usize) -> Option<i128> {
        if self.is_null(row) {
            return None;
        }
        match self.typed {
            Typed::I64(v) => v.get(row).map(|v| (*v).into()),
            Typed::I128(v) => v.get(row).copied(),
            Typed::I32(v) => v.get(row).map(|v| (*v).into()),
            Typed::I8(v) => v.get(row).map(|v| (*v).into()),
            Typed::I16(v) => v.get(row).map(|v| (*v).into()),
            Typed::U8(v) => v.get(row).map(|v| (*v).into()),
            Typed::U16(v) => v.get(row).map(|v| (*v).into()),
            Typed::U32(v) => v.get(row).map(|v| (*v).into()),
            Typed::U64(v) => v.get(row).map(|v| (*v).into()),
            Typed::Bool(v) => Some(v.value(row).into()),
            _ => None,
        }
    }

    /// The number in `row` as a double; `None` for a null and for what is not a number.
    #[inline]
    pub fn float(&self, row: usize) -> Option<f64> {
        match self.typed {
            Typed::F64(v) if !self.is_null(row) => v.get(row).copied(),
            Typed::F32(v) if !self.is_null(row) => v.get(row).map(|v| (*v).into()),
            Typed::I128(_) => self.int(row).map(|v| v as f64 / self.unit),
            _ => self.int(row).map(|v| v as f64),
        }
    }

    /// True if the value in `row` is a float that is not a number.
    pub fn is_nan(&self, row: usize) -> bool {
        matches!(self.typed, Typed::F64(_) | Typed::F32(_)) && self.float(row).is_some_and(f64::is_nan)
    }

    /// The text or bytes in `row`.
    fn bytes(&self, row: usize) -> Option<&'a [u8]> {
        match self.typed {
            _ if self.is_null(row) => None,
            Typed::Text(v) => Some(v.value(row).as_bytes()),
            Typed::Bytes(v) => Some(v.value(row)),
            _ => None,
        }
    }

    /// The value in `row`, to keep; `None` for a null.
    pub fn value(&self, row: usize) -> Option<Value> {
        match self.typed {
            Typed::Text(_) | Typed::Bytes(_) => self.bytes(row).map(|bytes| Value::Bytes(bytes.to_vec())),
            Typed::F64(_) | Typed::F32(_) => self.float(row).map(Value::Float),
            _ => self.int(row).map(Value::Int),
        }
    }

    /// How the value in `row` compares to `kept`; `None` for a null. Texts compare by their bytes.
    pub fn compare(&self, row: usize, kept: &Value) -> Option<Ordering> {
        match kept {
            Value::Int(kept) => self.int(row).map(|v| v.cmp(kept)),
            Value::Float(kept) => self.float(row).map(|v| v.total_cmp(kept)),
            Value::Bytes(kept) => self.bytes(row).map(|v| v.cmp(kept.as_slice())),
        }
    }
}

/// True for the types that [`Value`] and [`build`] know.
pub fn is_kept(data_type: &DataType) -> bool {
    operator_core::keys::is_groupable(data_type)
}

/// An array of `data_type` from kept values. A value that does not fit the type (state of another pipeline version)
/// becomes null.
pub fn build(data_type: &DataType, values: &[Option<Value>]) -> ArrayRef {
    use DataType::*;
    match data_type {
        Int8 => ints::<Int8Type>(data_type, values),
        Int16 => ints::<Int16Type>(data_type, values),
        Int32 => ints::<Int32Type>(data_type, values),
        Int64 => ints::<Int64Type>(data_type, values),
        UInt8 => ints::<UInt8Type>(data_type, values),
        UInt16 => ints::<UInt16Type>(data_type, values),
        UInt32 => ints::<UInt32Type>(data_type, values),
        UInt64 => ints::<UInt64Type>(data_type, values),
        Date32 => ints::<Date32Type>(data_type, values),
        Decimal128(_, _) => ints::<Decimal128Type>(data_type, values),
        Timestamp(TimeUnit::Second, _) => ints::<TimestampSecondType>(data_type, values),
        Timestamp(TimeUnit::Millisecond, _) => ints::<TimestampMillisecondType>(data_type, values),
        Timestamp(TimeUnit::Microsecond, _) => ints::<TimestampMicrosecondType>(data_type, values),
        Timestamp(TimeUnit::Nanosecond, _) => ints::<TimestampNanosecondType>(data_type, values),
        Boolean => Arc::new(values.iter().map(|v| int(v).map(|v| v != 0)).collect::<BooleanArray>()),
        Float32 => Arc::new(values.iter().map(|v| float(v).map(|v| v as f32)).collect::<Float32Array>()),
        Float64 => Arc::new(values.iter().map(float).collect::<Float64Array>()),
        Utf8 => Arc::new(values.iter().map(|v| std::str::from_utf8(bytes(v)?).ok()).collect::<StringArray>()),
        Binary => Arc::new(values.iter().map(bytes).collect::<BinaryArray>()),
        other => arrow::array::new_null_array(other, values.len()),
    }
}

fn ints<T>(data_type: &DataType, values: &[Option<Value>]) -> ArrayRef
where
    T: ArrowPrimitiveType,
    T::Native: TryFrom<i128>,
{
    let array: PrimitiveArray<T> = values.iter().map(|v| T::Native::try_from(int(v)?).ok()).collect();
    // Same physical type: only the time zone or the decimal's precision and scale are set.
    Arc::new(array.with_data_type(data_type.clone()))
}

fn int(value: &Option<Value>) -> Option<i128> {
    match value {
        Some(Value::Int(value)) => Some(*value),
        _ => None,
    }
}

fn float(value: &Option<Value>) -> Option<f64> {
    match value {
        Some(Value::Float(value)) => Some(*value),
        _ => None,
    }
}

fn bytes(value: &Option<Value>) -> Option<&[u8]> {
    match value {
        Some(Value::Bytes(value)) => Some(value),
        _ => None,
    }
}
