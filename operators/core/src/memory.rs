//! Memory budget of one attempt to run a batch.
//!
//! Some functions produce far more than they read (`repeat`, `unnest`), and limits per row don't bound a batch. The caller runs a
//! batch within a budget ([`within`]); a step reserves before it allocates ([`keep`]). If the budget is exceeded, the attempt's
//! output is discarded and it is repeated with fewer rows.
//!
//! The budget belongs to the thread: functions deep in an expression have no other way to reach it.

use std::cell::Cell;
use std::fmt;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::DataType;

/// Bytes of columns that a round may make.
pub const BUDGET: usize = 256 << 20;

thread_local! {
    /// What is left of the round's budget; `None` outside of a round.
    static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
    static EXCEEDED: Cell<bool> = const { Cell::new(false) };
}

/// The round would make more than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded;

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the rows made from it need more than {} MiB of memory", BUDGET >> 20)
    }
}

impl std::error::Error for Exceeded {}

/// Runs `round` with a budget of `bytes`.
///
/// # Errors
/// It asked for more: nothing it made may be used.
pub fn within<T>(bytes: usize, round: impl FnOnce() -> T) -> Result<T, Exceeded> {
    LEFT.set(Some(bytes));
    EXCEEDED.set(false);
    let made = round();
    LEFT.set(None);
    if EXCEEDED.get() { Err(Exceeded) } else { Ok(made) }
}

/// Asks for `bytes` of the round's budget. Outside of a round there is no limit.
///
/// # Errors
/// It has not that much left. The round is void whatever the caller does now.
pub fn keep(bytes: usize) -> Result<(), Exceeded> {
    let Some(left) = LEFT.get() else { return Ok(()) };
    match left.checked_sub(bytes) {
        Some(left) if !EXCEEDED.get() => {
            LEFT.set(Some(left));
            Ok(())
        }
        _ => {
            EXCEEDED.set(true);
            Err(Exceeded)
        }
    }
}

/// Bytes of the values of `length` rows from `from` on. Unlike the size of the array's buffers it counts these rows alone, of a
/// slice as well, so that it is the same however rows are batched.
pub fn bytes(array: &dyn Array, from: usize, length: usize) -> usize {
    let to = from + length;
    let between = |offsets: &[i32]| match (offsets.get(from), offsets.get(to)) {
        (Some(from), Some(to)) => (*from as usize, to.saturating_sub(*from) as usize),
        _ => (0, 0),
    };
    match array.data_type() {
        DataType::Null => 0,
        DataType::Boolean => length / 8 + 1,
        DataType::Utf8 => 4 * length + between(array.as_string::<i32>().value_offsets()).1,
        DataType::Binary => 4 * length + between(array.as_binary::<i32>().value_offsets()).1,
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let (first, items) = between(list.value_offsets());
            4 * length + bytes(list.values().as_ref(), first, items)
        }
        DataType::Map(_, _) => {
            let map = array.as_map();
            let (first, items) = between(map.value_offsets());
            4 * length + bytes(map.entries(), first, items)
        }
        DataType::Struct(_) => array.as_struct().columns().iter().map(|column| bytes(column.as_ref(), from, length)).sum(),
        DataType::FixedSizeBinary(width) => length * (*width).max(0) as usize,
        DataType::Utf8View => {
            let views = array.as_string_view();
            16 * length + (from..to.min(views.len())).map(|row| views.value(row).len()).sum::<usize>()
        }
        data_type => match data_type.primitive_width() {
            Some(width) => width * length,
            // Kinds that decoders and expressions make only on the way: the buffers, whoever shares them.
            None => array
                .to_data()
                .slice(from.min(array.len()), length.min(array.len() - from.min(array.len())))
                .get_slice_memory_size()
                .unwrap_or(0),
        },
    }
}

/// [`bytes`] of all rows.
pub fn size(array: &ArrayRef) -> usize {
    bytes(array.as_ref(), 0, array.len())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, ListArray, StringArray, StructArray};
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::Field;

    use super::*;

    #[test]
    fn a_round_that_asks_for_too_much_is_void() {
        assert_eq!(within(10, || keep(6).and(keep(4))), Ok(Ok(())));
        assert_eq!(within(10, || keep(6).and(keep(5))), Err(Exceeded));
        // Even if what it asks for later would fit, and nobody looked.
        assert_eq!(within(10, || (keep(11).is_err(), keep(1).is_err())), Err(Exceeded));
        assert_eq!(keep(usize::MAX), Ok(()), "no round");
    }

    #[test]
    fn the_size_of_rows_does_not_depend_on_their_batch() {
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["a", "bb", "", "dddd"]));
        let items = Arc::new(Field::new("item", DataType::Utf8, true));
        let lists: ArrayRef = Arc::new(ListArray::new(items, OffsetBuffer::from_lengths([1, 0, 3]), texts.clone(), None));
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        let record: ArrayRef = Arc::new(StructArray::from(vec![
            (Arc::new(Field::new("l", lists.data_type().clone(), true)), lists.clone()),
            (Arc::new(Field::new("n", DataType::Int64, true)), numbers),
        ]));
        assert_eq!(size(&texts), 4 * 4 + 7);
        assert_eq!(bytes(lists.as_ref(), 2, 1), 4 + 3 * 4 + 6);
        assert_eq!(bytes(record.as_ref(), 0, 1), 4 + 4 + 1 + 8);
        for array in [&lists, &record] {
            for row in 0..3 {
                assert_eq!(bytes(array.as_ref(), row, 1), size(&array.slice(row, 1)), "row {row}");
            }
        }
    }
}
