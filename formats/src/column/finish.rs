//! Columns into Arrow arrays, without a copy.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, ArrowPrimitiveType, BinaryArray, BooleanArray, Decimal128Array, FixedSizeBinaryArray, ListArray, MapArray, NullArray,
    PrimitiveArray, StringArray, StructArray,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowNativeType, DataType, Date32Type, Fields, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    Time32MillisecondType, Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};

use super::{Column, Data, finish_offsets, renew};

impl Column {
    /// Turns the rows into an array and leaves the column empty.
    pub(crate) fn finish(&mut self) -> Result<ArrayRef, String> {
        let len = self.rows.len;
        let nulls = self.rows.finish();
        let array: ArrayRef = match &mut self.data {
            Data::Null => Arc::new(NullArray::new(len)),
            Data::Bool(v) => Arc::new(BooleanArray::new(v.finish(), nulls)),
            Data::I8(v) => primitive::<Int8Type>(v, nulls)?,
            Data::I16(v) => primitive::<Int16Type>(v, nulls)?,
            Data::I32(v) => primitive::<Int32Type>(v, nulls)?,
            Data::I64(v) => primitive::<Int64Type>(v, nulls)?,
            Data::U8(v) => primitive::<UInt8Type>(v, nulls)?,
            Data::U16(v) => primitive::<UInt16Type>(v, nulls)?,
            Data::U32(v) => primitive::<UInt32Type>(v, nulls)?,
            Data::U64(v) => primitive::<UInt64Type>(v, nulls)?,
            Data::F32(v) => primitive::<Float32Type>(v, nulls)?,
            Data::F64(v) => primitive::<Float64Type>(v, nulls)?,
            Data::Date(v) => primitive::<Date32Type>(v, nulls)?,
            Data::Time32(v, TimeUnit::Second) => primitive::<Time32SecondType>(v, nulls)?,
            Data::Time32(v, _) => primitive::<Time32MillisecondType>(v, nulls)?,
            Data::Time64(v, TimeUnit::Microsecond) => primitive::<Time64MicrosecondType>(v, nulls)?,
            Data::Time64(v, _) => primitive::<Time64NanosecondType>(v, nulls)?,
            Data::Timestamp(v, unit, _) => timestamps(v, *unit, self.field.data_type(), nulls)?,
            Data::Decimal(v, precision, scale) => Arc::new(
                Decimal128Array::try_new(ScalarBuffer::from(renew(v)), nulls)
                    .and_then(|a| a.with_precision_and_scale(*precision, *scale))
                    .map_err(text)?,
            ),
            Data::Utf8(v) => {
                let (offsets, bytes) = v.finish();
                Arc::new(StringArray::try_new(offsets, bytes, nulls).map_err(text)?)
            }
            Data::Binary(v) => {
                let (offsets, bytes) = v.finish();
                Arc::new(BinaryArray::try_new(offsets, bytes, nulls).map_err(text)?)
            }
            Data::Fixed(v, size) => {
                let size = i32::try_from(*size).map_err(|e| e.to_string())?;
                Arc::new(FixedSizeBinaryArray::try_new_with_len(size, Buffer::from_vec(renew(v)), nulls, len).map_err(text)?)
            }
            Data::Struct(columns) => {
                let fields: Fields = columns.iter().map(|c| Arc::clone(&c.field)).collect();
                let arrays = columns.iter_mut().map(Column::finish).collect::<Result<Vec<_>, _>>()?;
                Arc::new(StructArray::try_new_with_length(fields, arrays, nulls, len).map_err(text)?)
            }
            Data::List(offsets, child) => {
                let offsets = finish_offsets(offsets);
                Arc::new(ListArray::try_new(Arc::clone(&child.field), offsets, child.finish()?, nulls).map_err(text)?)
            }
            Data::Map(offsets, keys, values) => {
                let offsets = finish_offsets(offsets);
                finish_map(self.field.data_type(), offsets, keys, values, nulls)?
            }
        };
        Ok(array)
    }
}

fn text(error: arrow::error::ArrowError) -> String {
    error.to_string()
}

fn primitive<T: ArrowPrimitiveType>(values: &mut Vec<T::Native>, nulls: Option<NullBuffer>) -> Result<ArrayRef, String>
where
    T::Native: ArrowNativeType,
{
    Ok(Arc::new(PrimitiveArray::<T>::try_new(ScalarBuffer::from(renew(values)), nulls).map_err(text)?))
}

fn timestamps(values: &mut Vec<i64>, unit: TimeUnit, data_type: &DataType, nulls: Option<NullBuffer>) -> Result<ArrayRef, String> {
    let zone = match data_type {
        DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    };
    let values = ScalarBuffer::from(renew(values));
    Ok(match unit {
        TimeUnit::Second => Arc::new(PrimitiveArray::<TimestampSecondType>::try_new(values, nulls).map_err(text)?.with_timezone_opt(zone)),
        TimeUnit::Millisecond => {
            Arc::new(PrimitiveArray::<TimestampMillisecondType>::try_new(values, nulls).map_err(text)?.with_timezone_opt(zone))
        }
        TimeUnit::Microsecond => {
            Arc::new(PrimitiveArray::<TimestampMicrosecondType>::try_new(values, nulls).map_err(text)?.with_timezone_opt(zone))
        }
        TimeUnit::Nanosecond => {
            Arc::new(PrimitiveArray::<TimestampNanosecondType>::try_new(values, nulls).map_err(text)?.with_timezone_opt(zone))
        }
    })
}

fn finish_map(
    data_type: &DataType,
    offsets: OffsetBuffer<i32>,
    keys: &mut Column,
    values: &mut Column,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef, String> {
    let DataType::Map(entries, sorted) = data_type else { return Err(format!("{data_type} is not a map")) };
    let DataType::Struct(fields) = entries.data_type() else { return Err(format!("{data_type} is not a map of entries")) };
    let entry_array = StructArray::try_new(fields.clone(), vec![keys.finish()?, values.finish()?], None).map_err(text)?;
    Ok(Arc::new(MapArray::try_new(Arc::clone(entries), offsets, entry_array, nulls, *sorted).map_err(text)?))
}
