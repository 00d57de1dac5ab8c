//! The state of an aggregate as rows: what is stored, and what expressions see of it.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray, StructArray};
use arrow::datatypes::{DataType, Field, Fields, Int64Type};
use operator_core::StateError;
use operator_core::stores::{KeyedRows, RowCodec, RowReader};

use crate::cells::Cell;
use crate::plan::{Column, filled};

/// The store of the state: its first bytes of keys.
pub const STATE_TAG: u8 = 1;

/// The columns that say what led to a row, where a timer's event needs it.
const CAUSES: [&str; 2] = ["correlation", "causation"];
/// Where these begin in a row: behind the version of a state, or the key of an entry.
pub const FIRST_CAUSE: usize = 1;

/// Columns of the cause, where they are kept.
pub fn cause_fields(kept: bool) -> impl Iterator<Item = Arc<Field>> {
    CAUSES.iter().filter(move |_| kept).map(|name| Arc::new(Field::new(*name, DataType::Utf8, false)))
}

/// The rows of the state: the version, what led to it if a timer needs that, and the declared columns.
#[derive(Clone, Debug)]
pub struct StateShape {
    pub fields: Fields,
    /// The declared columns.
    pub record: Fields,
    pub declared: Vec<Column>,
    /// Whether what led to the state is kept.
    pub keeps_cause: bool,
    /// One row: the state of an aggregate that nothing has happened to.
    pub first: ArrayRef,
    pub store: KeyedRows,
}

impl StateShape {
    /// `columns`: those that are declared, which have a value at first.
    pub fn new(key: &Fields, columns: &[Column], keeps_cause: bool) -> StateShape {
        let record: Fields = columns.iter().map(|column| column.field.clone()).collect();
        let version = Arc::new(Field::new("version", DataType::Int64, false));
        let fields: Fields = std::iter::once(version).chain(cause_fields(keeps_cause)).chain(record.iter().cloned()).collect();
        let none: ArrayRef = Arc::new(StringArray::from(vec![""]));
        let causes = cause_fields(keeps_cause).map(|_| none.clone());
        let defaults = columns.iter().filter_map(|column| column.default.clone());
        let values: Vec<ArrayRef> =
            std::iter::once(Arc::new(Int64Array::from(vec![0])) as ArrayRef).chain(causes).chain(defaults).collect();
        // Columns without a default are refused, and with them the step.
        let first = StructArray::try_new(fields.clone(), values, None);
        let first = Arc::new(first.unwrap_or_else(|_| StructArray::new_null(fields.clone(), 1))) as ArrayRef;
        let types = key.iter().map(|field| field.data_type().clone()).collect();
        let store = KeyedRows::new(STATE_TAG, types, Vec::new(), RowCodec::new(fields.clone()));
        StateShape { fields, record, declared: columns.to_vec(), keeps_cause, first, store }
    }

    pub fn codec(&self) -> &RowCodec {
        self.store.codec()
    }

    /// Rows that were read from state.
    ///
    /// # Errors
    /// They are not rows of the state.
    pub fn read(&self, reader: &mut RowReader) -> Result<ArrayRef, StateError> {
        Ok(Arc::new(structure(&self.fields, filled(&self.declared, reader.take()?)?, None)?))
    }

    /// Where the declared columns begin.
    fn begin(&self) -> usize {
        self.fields.len() - self.record.len()
    }

    /// The declared columns of rows of the state, as expressions read them.
    ///
    /// # Errors
    /// They are not rows of the state: a bug.
    pub fn record(&self, rows: &ArrayRef) -> Result<ArrayRef, StateError> {
        Ok(Arc::new(structure(&self.record, self.columns(rows)?.to_vec(), None)?))
    }

    /// The declared columns.
    ///
    /// # Errors
    /// They are not rows of the state: a bug.
    pub fn columns<'a>(&self, rows: &'a ArrayRef) -> Result<&'a [ArrayRef], StateError> {
        rows.as_struct_opt().and_then(|rows| rows.columns().get(self.begin()..)).ok_or_else(not_rows)
    }

    /// The versions.
    ///
    /// # Errors
    /// They are not rows of the state: a bug.
    pub fn versions(&self, rows: &ArrayRef) -> Result<Int64Array, StateError> {
        let column = rows.as_struct_opt().and_then(|rows| rows.columns().first()?.as_primitive_opt::<Int64Type>());
        column.cloned().ok_or_else(not_rows)
    }

    /// The version of an aggregate.
    pub fn version(&self, cell: &Cell) -> Option<i64> {
        cell.rows.as_struct_opt()?.columns().first()?.as_primitive_opt::<Int64Type>()?.values().get(cell.row).copied()
    }

    /// Rows of the state.
    ///
    /// # Errors
    /// A column lacks a value that it must have: a bug.
    pub fn rows(&self, versions: Int64Array, causes: Option<[ArrayRef; 2]>, columns: Vec<ArrayRef>) -> Result<ArrayRef, StateError> {
        let causes = causes.into_iter().flatten().filter(|_| self.keeps_cause);
        let all = std::iter::once(Arc::new(versions) as ArrayRef).chain(causes).chain(columns);
        Ok(Arc::new(structure(&self.fields, all.collect(), None)?))
    }
}

/// A record of these columns.
///
/// # Errors
/// They don't fit: a bug.
pub fn structure(fields: &Fields, columns: Vec<ArrayRef>, nulls: Option<arrow::buffer::NullBuffer>) -> Result<StructArray, StateError> {
    StructArray::try_new(fields.clone(), columns, nulls).map_err(|e| StateError::new(format!("a record can't be put together: {e}")))
}

fn not_rows() -> StateError {
    StateError::new("rows have not the columns of the state: this is a bug")
}
