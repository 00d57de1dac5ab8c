//! Which events can be written: a step that keeps what its events did must not make one that a topic does not take.
//!
//! The step does not know the format in which its events are written, nor the topic. What it checks holds for every format: the size of
//! the event as JSON, and the values that JSON can't hold.

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::compute::{cast, max, min};
use arrow::datatypes::{DataType, Float32Type, Float64Type, TimeUnit};

/// The most bytes of an event as JSON: what is left of a record for its envelope and its key.
const MAX_EVENT: usize = 3 << 18;
/// Days of 0001-01-01 and 9999-12-31: the years that JSON has.
const DAYS: (i64, i64) = (-719_162, 2_932_896);
const NULL: usize = 4;
/// More than a number, a date or a time takes.
const SCALAR: usize = 100;

/// The rows of these columns, each with its name, that no event can have, each with why.
pub fn unwritable(columns: &[(&str, &ArrayRef)]) -> Vec<(usize, String)> {
    let bound =
        columns.iter().map(|(name, column)| name.len() + SCALAR + widest(column.as_ref()).min(MAX_EVENT)).fold(0, usize::saturating_add);
    if bound <= MAX_EVENT && columns.iter().all(|(_, column)| certain(column.as_ref())) {
        return Vec::new();
    }
    let rows = columns.first().map_or(0, |(_, column)| column.len());
    (0..rows).filter_map(|row| Some((row, refused(columns, row)?))).collect()
}

/// Why a row can't be an event, if so.
fn refused(columns: &[(&str, &ArrayRef)], row: usize) -> Option<String> {
    let mut size = 0_usize;
    for (name, column) in columns {
        match measure(column.as_ref(), row) {
            Ok(more) => size = size.saturating_add(name.len() + NULL).saturating_add(more),
            Err(why) => return Some(format!("`{name}` can't be written: {why}")),
        }
    }
    (size > MAX_EVENT).then(|| format!("the event would have {size} bytes; the limit is {MAX_EVENT}"))
}

/// The least and the greatest that the integers behind dates and times may be.
fn range(data_type: &DataType) -> Option<(i64, i64)> {
    let days = |per_day: i64| (DAYS.0.saturating_mul(per_day), (DAYS.1 + 1).saturating_mul(per_day).saturating_sub(1));
    match data_type {
        DataType::Date32 => Some(DAYS),
        DataType::Date64 | DataType::Timestamp(TimeUnit::Millisecond, _) => Some(days(86_400_000)),
        DataType::Timestamp(TimeUnit::Second, _) => Some(days(86_400)),
        DataType::Timestamp(TimeUnit::Microsecond, _) => Some(days(86_400_000_000)),
        // All nanoseconds that there are lie within.
        _ => None,
    }
}

/// All values can be written, as far as is known without looking at each.
fn certain(column: &dyn Array) -> bool {
    match column.data_type() {
        DataType::Float32 => column.as_primitive_opt::<Float32Type>().is_none_or(|all| all.iter().flatten().all(f32::is_finite)),
        DataType::Float64 => column.as_primitive_opt::<Float64Type>().is_none_or(|all| all.iter().flatten().all(f64::is_finite)),
        DataType::List(_) => column.as_list_opt::<i32>().is_none_or(|list| certain(list.values().as_ref())),
        DataType::Map(_, _) => column.as_map_opt().is_none_or(|map| certain(map.entries())),
        DataType::Struct(_) => column.as_struct_opt().is_none_or(|record| record.columns().iter().all(|member| certain(member.as_ref()))),
        other => range(other).is_none_or(|(least, most)| {
            let Some(numbers) = numbers(column) else { return false };
            min(&numbers).is_none_or(|min| min >= least) && max(&numbers).is_none_or(|max| max <= most)
        }),
    }
}

/// The integers behind dates and times.
fn numbers(column: &dyn Array) -> Option<Int64Array> {
    cast(column, &DataType::Int64).ok()?.as_primitive_opt().cloned()
}

/// How many bytes a value has as JSON, a few more at most; or why it has no such form.
fn measure(column: &dyn Array, row: usize) -> Result<usize, &'static str> {
    if row >= column.len() || column.is_null(row) {
        return Ok(NULL);
    }
    let items = |items: &dyn Array| (0..items.len()).try_fold(2_usize, |sum, item| Ok(sum.saturating_add(1 + measure(items, item)?)));
    match column.data_type() {
        DataType::Utf8 => Ok(column.as_string_opt::<i32>().map_or(0, |texts| 2 + texts.value(row).bytes().map(escaped).sum::<usize>())),
        DataType::Binary => Ok(column.as_binary_opt::<i32>().map_or(0, |bytes| SCALAR + bytes.value(row).len().div_ceil(3) * 4)),
        DataType::FixedSizeBinary(width) => Ok(SCALAR + usize::try_from(*width).unwrap_or_default().div_ceil(3) * 4),
        DataType::List(_) => column.as_list_opt::<i32>().map_or(Ok(NULL), |list| items(list.value(row).as_ref())),
        DataType::Map(_, _) => column.as_map_opt().map_or(Ok(NULL), |map| items(&map.value(row))),
        DataType::Struct(fields) => {
            let members = column.as_struct_opt().map(|record| record.columns()).unwrap_or_default();
            fields.iter().zip(members).try_fold(2_usize, |sum, (field, member)| {
                Ok(sum.saturating_add(field.name().len() + NULL).saturating_add(measure(member.as_ref(), row)?))
            })
        }
        DataType::Float32 | DataType::Float64 if !certain(column.slice(row, 1).as_ref()) => Err("NaN and infinities have no JSON form"),
        other if range(other).is_some() && !certain(column.slice(row, 1).as_ref()) => Err("it is outside the years 0001 to 9999"),
        _ => Ok(SCALAR),
    }
}

fn escaped(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' => 2,
        0..0x20 => 6,
        _ => 1,
    }
}

/// A number of bytes that no row of the column exceeds, as JSON: what is certainly small enough need not be measured row by row.
/// `usize::MAX` for a type that is unknown here.
fn widest(column: &dyn Array) -> usize {
    match column.data_type() {
        DataType::Utf8 => text(longest(column.as_string_opt::<i32>().map(|texts| texts.value_offsets()))),
        DataType::Binary => text(longest(column.as_binary_opt::<i32>().map(|bytes| bytes.value_offsets()))),
        DataType::FixedSizeBinary(width) => text(usize::try_from(*width).unwrap_or_default()),
        DataType::List(_) => column
            .as_list_opt::<i32>()
            .map_or(usize::MAX, |list| items(longest(Some(list.value_offsets())), widest(list.values().as_ref()))),
        DataType::Map(_, _) => {
            column.as_map_opt().map_or(usize::MAX, |map| items(longest(Some(map.value_offsets())), widest(map.entries())))
        }
        DataType::Struct(fields) => {
            let members = column.as_struct_opt().map(|record| record.columns()).unwrap_or_default();
            let sizes = fields.iter().zip(members).map(|(field, member)| text(field.name().len()).saturating_add(widest(member.as_ref())));
            sizes.fold(SCALAR, usize::saturating_add)
        }
        DataType::Null | DataType::Boolean => SCALAR,
        other => other.primitive_width().map_or(usize::MAX, |_| SCALAR),
    }
}

/// A text of this length: JSON has up to six bytes for one.
fn text(length: usize) -> usize {
    length.saturating_mul(6).saturating_add(SCALAR)
}

fn items(most: usize, widest: usize) -> usize {
    most.saturating_mul(widest.saturating_add(1)).saturating_add(SCALAR)
}

/// The length of the longest value.
fn longest(offsets: Option<&[i32]>) -> usize {
    let lengths = offsets.unwrap_or_default().windows(2).map(|ends| match ends {
        [from, to] => usize::try_from(to.saturating_sub(*from)).unwrap_or_default(),
        _ => 0,
    });
    lengths.max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, ListArray, StringArray, StructArray, TimestampMillisecondArray, TimestampSecondArray};
    use arrow::datatypes::Field;

    use super::*;

    fn rows(column: ArrayRef) -> Vec<usize> {
        unwritable(&[("c", &column)]).into_iter().map(|(row, _)| row).collect()
    }

    #[test]
    fn rows_that_json_can_t_hold_are_found() {
        assert_eq!(rows(Arc::new(Float64Array::from(vec![Some(1.0), Some(f64::NAN), None, Some(f64::INFINITY)]))), [1, 3]);
        let lists = [Some(vec![Some(0.5)]), Some(vec![None, Some(f64::NEG_INFINITY)]), None];
        assert_eq!(rows(Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>(lists))), [1]);
        let (first, last) = (-62_135_596_800_000, 253_402_300_799_999);
        assert_eq!(rows(Arc::new(TimestampMillisecondArray::from(vec![first - 1, first, last, last + 1, i64::MAX]))), [0, 3, 4]);
        assert_eq!(rows(Arc::new(TimestampSecondArray::from(vec![last / 1_000, last / 1_000 + 1]))), [1]);
    }

    #[test]
    fn no_row_is_larger_than_the_bound() {
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some(&"\u{1}".repeat(1_000))]));
        let long: Vec<Option<f64>> = (0..500).map(|n| Some(f64::from(n))).collect();
        let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>([Some(vec![]), None, Some(long)]));
        let fields = [("t", &texts), ("l", &lists)].map(|(name, column)| Field::new(name, column.data_type().clone(), true));
        let record: ArrayRef = Arc::new(StructArray::new(fields.to_vec().into(), vec![texts.clone(), lists.clone()], None));
        for column in [texts, lists, record] {
            assert!((0..3).all(|row| measure(column.as_ref(), row).unwrap() <= widest(column.as_ref())), "{}", column.data_type());
            assert!(widest(column.slice(0, 1).as_ref()) <= widest(column.as_ref()));
        }
    }

    #[test]
    fn rows_that_are_too_large_are_found() {
        let texts = ["a".repeat(MAX_EVENT), "a".repeat(MAX_EVENT - SCALAR), "\n".repeat(MAX_EVENT / 4), String::new()];
        let texts: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
        assert_eq!(rows(texts.clone()), [0, 2]);
        // Both columns count.
        let all = unwritable(&[("c", &texts), ("d", &texts)]);
        assert_eq!(all.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(all[1].1, format!("the event would have {} bytes; the limit is {MAX_EVENT}", 2 * (MAX_EVENT - SCALAR + 2 + 1 + NULL)));
    }
}
