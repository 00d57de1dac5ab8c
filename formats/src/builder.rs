//! The rows of one batch while they are being decoded.
//!
//! The loop: a decoder appends one record after the other; a record that cannot be decoded leaves no trace; when the
//! engine has enough rows or bytes it calls [`RowBuilder::finish`] and starts over with the same builder.
//!
//! Invariant: after every call of a decoder, successful or not, all columns have [`RowBuilder::len`] rows.
//!
//! Limit: a Utf8, Binary, List or Map column of one batch addresses at most 2^31 - 1 bytes or items. End a batch by
//! [`RowBuilder::estimated_bytes`] long before that, or further records are refused as bad.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, SchemaRef};

use crate::cause::Fail;
use crate::column::{Column, Data};

/// Column builders for one Arrow schema, with rollback by row.
///
/// Supported types: Null, Boolean, Int8 to Int64, UInt8 to UInt64, Float32, Float64, Utf8, Binary, FixedSizeBinary,
/// Date32, Time32, Time64, Timestamp, Decimal128, Struct, List, and Map with Utf8 keys.
pub struct RowBuilder {
    schema: SchemaRef,
    /// The record as a struct that is never null.
    root: Column,
}

impl RowBuilder {
    /// Makes room for about `capacity` rows.
    ///
    /// # Errors
    /// Names the field whose type is not supported or nested deeper than 64 levels.
    pub fn new(schema: &SchemaRef, capacity: usize) -> Result<RowBuilder, String> {
        let record = Arc::new(Field::new("", DataType::Struct(schema.fields().clone()), false));
        Ok(RowBuilder { schema: Arc::clone(schema), root: Column::new(&record, capacity, 0)? })
    }

    /// The schema of the batches this builder makes.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Rows decoded since the last [`RowBuilder::finish`].
    pub fn len(&self) -> usize {
        self.root.len()
    }

    /// Whether there is nothing to finish.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The text of a row in a schema whose records each have one field, down to a text; `None` where it, or a record around it, is null.
    pub fn text(&self, row: usize) -> Option<&[u8]> {
        let mut column = &self.root;
        loop {
            if column.rows.is_null(row) {
                return None;
            }
            match &column.data {
                Data::Struct(columns) => column = columns.first()?,
                Data::Utf8(texts) if row < column.len() => return Some(texts.get(row)),
                _ => return None,
            }
        }
    }

    /// Appends a row that nothing is known of: null where the column allows it, else zero or empty. For a row that the caller
    /// hides.
    pub fn push_blank(&mut self) {
        self.root.append_blank();
    }

    /// Forgets all rows from number `rows` on. Does nothing if there are not that many.
    pub fn truncate(&mut self, rows: usize) {
        self.root.truncate(rows);
    }

    /// Bytes of the values, offsets and null bits decoded so far. Visits every column, no row.
    pub fn estimated_bytes(&self) -> usize {
        self.root.bytes()
    }

    /// Turns the rows into a batch without copying them. The builder is empty afterwards and can be used again.
    ///
    /// # Errors
    /// Only if an invariant of this crate is broken; the text is Arrow's. The rows are lost then.
    pub fn finish(&mut self) -> Result<RecordBatch, String> {
        let rows = self.root.len();
        let finished = match &mut self.root.data {
            Data::Struct(columns) => columns.iter_mut().map(Column::finish).collect::<Result<Vec<ArrayRef>, String>>(),
            _ => Err("the root of a builder is a struct".to_string()),
        };
        self.root.truncate(0);
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), finished?, &options).map_err(|e| e.to_string())
    }

    /// Runs one attempt to append a row. An attempt that fails is rolled back.
    #[inline]
    pub(crate) fn attempt(&mut self, schema: &SchemaRef, run: impl FnOnce(&mut Column) -> Result<(), Fail>) -> Result<(), Fail> {
        if !Arc::ptr_eq(schema, &self.schema) && schema != &self.schema {
            return Err(Fail::new("the builder was made for another schema than the decoder"));
        }
        let before = self.root.len();
        let outcome = run(&mut self.root);
        if outcome.is_err() {
            self.root.truncate(before);
        }
        outcome
    }
}
