//! Rows that are taken from many arrays: the state of each aggregate is in the array of the round that changed it last.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, UInt32Array};
use arrow::compute::{interleave, take};
use hashbrown::HashMap;

use operator_core::StateError;

/// A row of an array.
#[derive(Clone, Debug)]
pub struct Cell {
    pub rows: ArrayRef,
    pub row: usize,
}

impl Cell {
    /// Each row of an array.
    pub fn of(rows: &ArrayRef) -> impl Iterator<Item = Cell> {
        (0..rows.len()).map(|row| Cell { rows: rows.clone(), row })
    }

    pub fn is_null(&self) -> bool {
        self.row >= self.rows.len() || self.rows.is_null(self.row)
    }
}

/// The rows of the cells, which are of one type; at least one.
///
/// # Errors
/// The types differ: a bug.
pub fn gather<'a>(cells: impl ExactSizeIterator<Item = &'a Cell> + Clone) -> Result<ArrayRef, StateError> {
    let broken = |e: arrow::error::ArrowError| StateError::new(format!("rows can't be put together: {e}"));
    let Some(first) = cells.clone().next() else { return Err(StateError::new("there are no rows to put together: this is a bug")) };
    let (count, from) = (cells.len(), first.row);
    if cells.clone().all(|cell| Arc::ptr_eq(&cell.rows, &first.rows)) {
        if cells.clone().zip(from..).all(|(cell, row)| cell.row == row) {
            return Ok(if count == first.rows.len() { first.rows.clone() } else { first.rows.slice(from, count) });
        }
        let rows = UInt32Array::from_iter_values(cells.map(|cell| cell.row as u32));
        return take(first.rows.as_ref(), &rows, None).map_err(broken);
    }
    let (mut arrays, mut places): (Vec<&dyn Array>, Vec<(usize, usize)>) = (Vec::new(), Vec::with_capacity(count));
    let mut known: HashMap<*const (), usize> = HashMap::new();
    for cell in cells {
        let at = *known.entry(Arc::as_ptr(&cell.rows).cast()).or_insert_with(|| {
            arrays.push(cell.rows.as_ref());
            arrays.len() - 1
        });
        places.push((at, cell.row));
    }
    interleave(&arrays, &places).map_err(broken)
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::Int64Type;

    use super::*;

    #[test]
    fn rows_of_one_array_and_of_several_are_put_together() {
        let (a, b): (ArrayRef, ArrayRef) = (Arc::new(Int64Array::from(vec![0, 1, 2])), Arc::new(Int64Array::from(vec![10])));
        let cell = |rows: &ArrayRef, row| Cell { rows: rows.clone(), row };
        let of = |cells: &[Cell]| gather(cells.iter()).unwrap().as_primitive::<Int64Type>().values().to_vec();
        assert_eq!(of(&Cell::of(&a).collect::<Vec<_>>()), [0, 1, 2]);
        assert_eq!(of(&[cell(&a, 1), cell(&a, 2)]), [1, 2]);
        assert_eq!(of(&[cell(&a, 2), cell(&a, 0)]), [2, 0]);
        assert_eq!(of(&[cell(&a, 2), cell(&b, 0), cell(&a, 0), cell(&b, 0)]), [2, 10, 0, 10]);
        assert!(gather([].iter()).is_err());
    }
}
