//! What every call of an operator is checked for. The answers say what is wrong: a bug of the operator.

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use operator_core::Ledger;

/// All rows of a batch went somewhere (rule R3).
pub(super) fn accounts_for(rows: u64, ledger: &Ledger) -> Result<(), String> {
    match ledger.accounted() == rows as i64 {
        true => Ok(()),
        false => Err(format!("{rows} rows went in, {} are accounted for ({ledger:?})", ledger.accounted())),
    }
}

/// A call without rows only moves rows that were held.
pub(super) fn moves_held_rows(ledger: &Ledger) -> Result<(), String> {
    match ledger.accounted() {
        0 => Ok(()),
        made => Err(format!("time made {made} rows from nothing")),
    }
}

/// Rows have the columns of their port.
pub(super) fn has_columns(rows: &RecordBatch, planned: &Schema) -> Result<(), String> {
    if planned.fields().len() != rows.num_columns() {
        return Err(format!("emitted {} columns instead of {}", rows.num_columns(), planned.fields().len()));
    }
    match planned.fields().iter().zip(rows.columns()).all(|(field, column)| field.data_type() == column.data_type()) {
        true => Ok(()),
        false => Err(format!("emitted {} instead of {planned}", rows.schema())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};
    use arrow::datatypes::{DataType, Field};

    use super::*;

    #[test]
    fn rows_that_are_forgotten_or_counted_twice_are_found() {
        let ledger = Ledger { passed: 2, late: 1, held: 1, ..Ledger::default() };
        assert!(accounts_for(4, &ledger).is_ok());
        assert_eq!(accounts_for(5, &ledger).unwrap_err().split(" (").next(), Some("5 rows went in, 4 are accounted for"));
        assert!(accounts_for(3, &ledger).is_err());
    }

    #[test]
    fn time_makes_no_rows() {
        assert!(moves_held_rows(&Ledger { passed: 3, held: -3, ..Ledger::default() }).is_ok());
        assert_eq!(moves_held_rows(&Ledger { passed: 3, held: -2, ..Ledger::default() }).unwrap_err(), "time made 1 rows from nothing");
    }

    #[test]
    fn columns_are_compared_by_number_and_type() {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let rows = RecordBatch::try_from_iter([("a", column)]).unwrap();
        let planned = |types: &[DataType]| Schema::new(types.iter().map(|t| Field::new("a", t.clone(), true)).collect::<Vec<_>>());
        assert!(has_columns(&rows, &planned(&[DataType::Int64])).is_ok());
        assert_eq!(has_columns(&rows, &planned(&[])).unwrap_err(), "emitted 1 columns instead of 0");
        assert!(has_columns(&rows, &planned(&[DataType::Int32])).unwrap_err().starts_with("emitted "));
    }
}
