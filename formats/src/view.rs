//! Read access to the columns of a batch: types are resolved once per batch, not once per value.

use arrow::array::{
    Array, BinaryArray, BinaryViewArray, BooleanArray, FixedSizeBinaryArray, LargeBinaryArray, LargeStringArray, ListArray, MapArray,
    PrimitiveArray, RecordBatch, StringArray, StringViewArray, StructArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, Schema,
    Time32MillisecondType, Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};

/// One column, with everything below it.
pub(crate) struct View<'a> {
    nulls: Option<&'a NullBuffer>,
    pub(crate) values: Values<'a>,
}

pub(crate) enum Values<'a> {
    Null,
    Bool(&'a BooleanArray),
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
    Date(&'a [i32]),
    Time32(&'a [i32], TimeUnit),
    Time64(&'a [i64], TimeUnit),
    /// Unit, and whether the type has a zone.
    Timestamp(&'a [i64], TimeUnit, bool),
    /// Scale.
    Decimal(&'a [i128], i8),
    Text(Texts<'a>),
    Bytes(Blobs<'a>),
    Struct(Vec<View<'a>>),
    List(&'a [i32], Box<View<'a>>),
    Map(&'a [i32], Box<View<'a>>, Box<View<'a>>),
}

pub(crate) enum Texts<'a> {
    Small(&'a StringArray),
    Large(&'a LargeStringArray),
    View(&'a StringViewArray),
}

impl<'a> Texts<'a> {
    #[inline]
    pub(crate) fn get(&self, row: usize) -> &'a str {
        match self {
            Texts::Small(array) => array.value(row),
            Texts::Large(array) => array.value(row),
            Texts::View(array) => array.value(row),
        }
    }
}

pub(crate) enum Blobs<'a> {
    Small(&'a BinaryArray),
    Large(&'a LargeBinaryArray),
    View(&'a BinaryViewArray),
    Fixed(&'a FixedSizeBinaryArray),
}

impl<'a> Blobs<'a> {
    #[inline]
    pub(crate) fn get(&self, row: usize) -> &'a [u8] {
        match self {
            Blobs::Small(array) => array.value(row),
            Blobs::Large(array) => array.value(row),
            Blobs::View(array) => array.value(row),
            Blobs::Fixed(array) => array.value(row),
        }
    }
}

/// The value of a row that is known to exist.
#[inline]
pub(crate) fn at<T: Copy + Default>(values: &[T], row: usize) -> T {
    values.get(row).copied().unwrap_or_default()
}

/// The items of a list's row.
#[inline]
pub(crate) fn span(offsets: &[i32], row: usize) -> std::ops::Range<usize> {
    at(offsets, row) as usize..at(offsets, row + 1) as usize
}

fn cast<T: 'static>(array: &dyn Array) -> Result<&T, String> {
    array.as_any().downcast_ref::<T>().ok_or_else(|| format!("an array of {} has another type than it declares", array.data_type()))
}

fn primitive<T: ArrowPrimitiveType>(array: &dyn Array) -> Result<&[T::Native], String> {
    Ok(cast::<PrimitiveArray<T>>(array)?.values())
}

impl<'a> View<'a> {
    pub(crate) fn new(array: &'a dyn Array) -> Result<View<'a>, String> {
        let boxed = |array: &'a dyn Array| View::new(array).map(Box::new);
        let values = match array.data_type() {
            DataType::Null => Values::Null,
            DataType::Boolean => Values::Bool(cast(array)?),
            DataType::Int8 => Values::I8(primitive::<Int8Type>(array)?),
            DataType::Int16 => Values::I16(primitive::<Int16Type>(array)?),
            DataType::Int32 => Values::I32(primitive::<Int32Type>(array)?),
            DataType::Int64 => Values::I64(primitive::<Int64Type>(array)?),
            DataType::UInt8 => Values::U8(primitive::<UInt8Type>(array)?),
            DataType::UInt16 => Values::U16(primitive::<UInt16Type>(array)?),
            DataType::UInt32 => Values::U32(primitive::<UInt32Type>(array)?),
            DataType::UInt64 => Values::U64(primitive::<UInt64Type>(array)?),
            DataType::Float32 => Values::F32(primitive::<Float32Type>(array)?),
            DataType::Float64 => Values::F64(primitive::<Float64Type>(array)?),
            DataType::Date32 => Values::Date(primitive::<Date32Type>(array)?),
            DataType::Time32(TimeUnit::Second) => Values::Time32(primitive::<Time32SecondType>(array)?, TimeUnit::Second),
            DataType::Time32(unit) => Values::Time32(primitive::<Time32MillisecondType>(array)?, *unit),
            DataType::Time64(TimeUnit::Microsecond) => Values::Time64(primitive::<Time64MicrosecondType>(array)?, TimeUnit::Microsecond),
            DataType::Time64(unit) => Values::Time64(primitive::<Time64NanosecondType>(array)?, *unit),
            DataType::Timestamp(unit, zone) => {
                let values = match unit {
                    TimeUnit::Second => primitive::<TimestampSecondType>(array)?,
                    TimeUnit::Millisecond => primitive::<TimestampMillisecondType>(array)?,
                    TimeUnit::Microsecond => primitive::<TimestampMicrosecondType>(array)?,
                    TimeUnit::Nanosecond => primitive::<TimestampNanosecondType>(array)?,
                };
                Values::Timestamp(values, *unit, zone.is_some())
            }
            DataType::Decimal128(_, scale) => Values::Decimal(primitive::<Decimal128Type>(array)?, *scale),
            DataType::Utf8 => Values::Text(Texts::Small(cast(array)?)),
            DataType::LargeUtf8 => Values::Text(Texts::Large(cast(array)?)),
            DataType::Utf8View => Values::Text(Texts::View(cast(array)?)),
            DataType::Binary => Values::Bytes(Blobs::Small(cast(array)?)),
            DataType::LargeBinary => Values::Bytes(Blobs::Large(cast(array)?)),
            DataType::BinaryView => Values::Bytes(Blobs::View(cast(array)?)),
            DataType::FixedSizeBinary(_) => Values::Bytes(Blobs::Fixed(cast(array)?)),
            DataType::Struct(_) => {
                let columns = cast::<StructArray>(array)?.columns();
                Values::Struct(columns.iter().map(|c| View::new(c.as_ref())).collect::<Result<_, _>>()?)
            }
            DataType::List(_) => {
                let list = cast::<ListArray>(array)?;
                Values::List(list.value_offsets(), boxed(list.values().as_ref())?)
            }
            DataType::Map(..) => {
                let map = cast::<MapArray>(array)?;
                if !matches!(map.key_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) {
                    return Err(format!("a map with keys of {} cannot be encoded: keys are text", map.key_type()));
                }
                Values::Map(map.value_offsets(), boxed(map.keys().as_ref())?, boxed(map.values().as_ref())?)
            }
            other => return Err(format!("{other} cannot be encoded")),
        };
        Ok(View { nulls: array.nulls(), values })
    }

    #[inline]
    pub(crate) fn is_null(&self, row: usize) -> bool {
        match self.nulls {
            Some(nulls) => nulls.is_null(row),
            None => matches!(self.values, Values::Null),
        }
    }
}

/// Views of all columns, once it is certain that the batch has the types the encoder was made for. Nullability and
/// metadata may differ.
pub(crate) fn columns<'a>(batch: &'a RecordBatch, schema: &Schema) -> Result<Vec<View<'a>>, String> {
    if batch.num_columns() != schema.fields().len() {
        return Err(format!("the batch has {} columns, the encoder {}", batch.num_columns(), schema.fields().len()));
    }
    let pairs = batch.columns().iter().zip(schema.fields());
    pairs
        .map(|(array, field)| {
            if !array.data_type().equals_datatype(field.data_type()) {
                return Err(format!("field {}: the batch has {}, the encoder {}", field.name(), array.data_type(), field.data_type()));
            }
            View::new(array.as_ref()).map_err(|e| format!("field {}: {e}", field.name()))
        })
        .collect()
}
