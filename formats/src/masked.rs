//! Values under nulls. SQL nulls a value by clearing its bit (`CASE WHEN consent THEN phones END`, `nullif`): the value itself
//! often stays in the buffers of the column, and Arrow writes buffers as they are. What was nulled must not leave the process.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, GenericListArray, MapArray, MutableArrayData, OffsetSizeTrait, RecordBatch, StructArray,
    make_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

/// The same batch without values under nulls, at any depth, and without bytes that no row refers to. Columns with nothing
/// to remove are not copied.
///
/// # Errors
/// A type whose values can't be copied.
pub(crate) fn clean(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().map(clean_array).collect::<Result<Vec<_>, _>>()?;
    if columns.iter().zip(batch.columns()).all(|(clean, column)| Arc::ptr_eq(clean, column)) {
        return Ok(batch.clone());
    }
    RecordBatch::try_new(batch.schema(), columns)
}

fn clean_array(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let array = match array.nulls().filter(|_| hides(array.as_ref())) {
        Some(nulls) => &only_valid(array, nulls)?,
        None => array,
    };
    match array.data_type() {
        DataType::Struct(fields) if !fields.is_empty() => {
            let record = array.as_struct();
            let columns = record.columns().iter().map(clean_array).collect::<Result<Vec<_>, _>>()?;
            if columns.iter().zip(record.columns()).all(|(clean, column)| Arc::ptr_eq(clean, column)) {
                return Ok(array.clone());
            }
            Ok(Arc::new(StructArray::try_new(fields.clone(), columns, record.nulls().cloned())?))
        }
        DataType::List(_) => clean_list::<i32>(array),
        DataType::LargeList(_) => clean_list::<i64>(array),
        DataType::FixedSizeList(field, size) => {
            let list = array.as_fixed_size_list();
            let values = clean_array(list.values())?;
            if Arc::ptr_eq(&values, list.values()) {
                return Ok(array.clone());
            }
            Ok(Arc::new(FixedSizeListArray::try_new(field.clone(), *size, values, list.nulls().cloned())?))
        }
        DataType::Map(field, ordered) => {
            let map = array.as_map();
            let (first, last) = ends(map.offsets());
            let entries: ArrayRef = Arc::new(map.entries().slice(first, last - first));
            let clean = clean_array(&entries)?;
            if Arc::ptr_eq(&clean, &entries) {
                return Ok(array.clone());
            }
            let entries = clean.as_struct().clone();
            Ok(Arc::new(MapArray::try_new(field.clone(), from_zero(map.offsets()), entries, map.nulls().cloned(), *ordered)?))
        }
        // A slice of these refers to all bytes of its origin.
        DataType::Utf8View => Ok(Arc::new(array.as_string_view().gc())),
        DataType::BinaryView => Ok(Arc::new(array.as_binary_view().gc())),
        _ => Ok(array.clone()),
    }
}

/// The valid rows, and nulls of nothing between them.
fn only_valid(array: &ArrayRef, nulls: &NullBuffer) -> Result<ArrayRef, ArrowError> {
    let data = array.to_data();
    let mut rows = MutableArrayData::new(vec![&data], true, array.len());
    let mut next = 0;
    for (start, end) in nulls.valid_slices() {
        rows.try_extend_nulls(start - next)?;
        rows.try_extend(0, start, end)?;
        next = end;
    }
    rows.try_extend_nulls(array.len() - next)?;
    Ok(make_array(rows.freeze()))
}

fn clean_list<O: OffsetSizeTrait>(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let list = array.as_list::<O>();
    let (first, last) = ends(list.offsets());
    let values = list.values().slice(first, last - first);
    let clean = clean_array(&values)?;
    if Arc::ptr_eq(&clean, &values) {
        return Ok(array.clone());
    }
    let (DataType::List(field) | DataType::LargeList(field)) = array.data_type() else { return Ok(array.clone()) };
    Ok(Arc::new(GenericListArray::try_new(field.clone(), from_zero(list.offsets()), clean, list.nulls().cloned())?))
}

fn ends<O: OffsetSizeTrait>(offsets: &OffsetBuffer<O>) -> (usize, usize) {
    let at = |offset: Option<&O>| offset.map_or(0, |offset| offset.as_usize());
    (at(offsets.first()), at(offsets.last()))
}

fn from_zero<O: OffsetSizeTrait>(offsets: &OffsetBuffer<O>) -> OffsetBuffer<O> {
    let first = offsets.first().copied().unwrap_or_default();
    OffsetBuffer::new(offsets.iter().map(|offset| *offset - first).collect())
}

/// Whether a row that is null has a value below. Looks at the array's own nulls only: those of its children are theirs.
fn hides(array: &dyn Array) -> bool {
    let Some(nulls) = array.nulls().filter(|nulls| nulls.null_count() > 0) else { return false };
    let mut null = (0..array.len()).filter(|row| nulls.is_null(*row));
    match array.data_type() {
        DataType::Struct(_) => {
            let record = array.as_struct();
            null.any(|row| record.columns().iter().any(|column| !column.is_null(row) && *column.data_type() != DataType::Null))
        }
        DataType::Utf8 => null.any(|row| has_bytes(array.as_string::<i32>().offsets(), row)),
        DataType::LargeUtf8 => null.any(|row| has_bytes(array.as_string::<i64>().offsets(), row)),
        DataType::Binary => null.any(|row| has_bytes(array.as_binary::<i32>().offsets(), row)),
        DataType::LargeBinary => null.any(|row| has_bytes(array.as_binary::<i64>().offsets(), row)),
        DataType::List(_) => null.any(|row| has_bytes(array.as_list::<i32>().offsets(), row)),
        DataType::LargeList(_) => null.any(|row| has_bytes(array.as_list::<i64>().offsets(), row)),
        DataType::Map(..) => null.any(|row| has_bytes(array.as_map().offsets(), row)),
        DataType::Boolean => {
            let values = array.as_boolean().values();
            null.any(|row| values.value(row))
        }
        DataType::Null => false,
        other => match width(other) {
            Some(width) => {
                let data = array.to_data();
                let bytes = data.buffers().first().map_or(&[][..], |buffer| buffer.as_slice());
                let start = |row: usize| (data.offset() + row) * width;
                null.any(|row| bytes.get(start(row)..start(row) + width).is_some_and(|value| value.iter().any(|byte| *byte != 0)))
            }
            // What is not known is copied.
            None => true,
        },
    }
}

fn width(data_type: &DataType) -> Option<usize> {
    match data_type {
        DataType::FixedSizeBinary(width) => usize::try_from(*width).ok(),
        other => other.primitive_width(),
    }
}

/// Whether a row of a text, list or map is not empty.
fn has_bytes<O: OffsetSizeTrait>(offsets: &OffsetBuffer<O>, row: usize) -> bool {
    offsets.get(row) != offsets.get(row + 1)
}
