//! Rows in state: columns to bytes and back.
//!
//! ```text
//! row     which columns are not null (a bit each, lowest first, whole bytes) · the values of those, in order
//! value   integers, dates, times, timestamps, decimals   varint, zigzag-coded where signed
//!         floats                                         bit pattern, big-endian
//!         booleans                                       00 or 01
//!         texts, byte strings                            length as varint · bytes
//!         byte strings of a fixed length                 bytes
//!         lists, maps                                    count as varint · which items are not null · values of those
//!         records                                        like a row
//! ```
//!
//! The encoding is our own and does not change: rows outlive the program that wrote them. It has no types and no names;
//! those are in the layout of the store ([`super::StoreLayout`]), which the manifest compares. What a null hides (the
//! fields of a null record) is not stored.

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Fields};

use super::bytes::Reader;
use super::column::{Builder, Source, is_storable, put_all, read_all};
use crate::state::StateError;

/// Writes and reads rows of certain columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowCodec {
    fields: Fields,
}

/// The first of `fields` that rows in state can't have, if there is one.
pub fn not_storable(fields: &Fields) -> Option<&DataType> {
    fields.iter().map(|field| field.data_type()).find(|data_type| !is_storable(data_type))
}

impl RowCodec {
    /// A codec for rows of `fields`, all of which must be storable ([`not_storable`]).
    pub fn new(fields: impl Into<Fields>) -> RowCodec {
        RowCodec { fields: fields.into() }
    }

    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// Makes the rows of `columns`, which are those of the codec's fields, ready to be written.
    ///
    /// # Errors
    /// A column is not of its field's type: a bug.
    pub fn writer(&self, columns: &[ArrayRef]) -> Result<RowWriter, StateError> {
        let same = columns.len() == self.fields.len() && self.fields.iter().zip(columns).all(|(f, c)| f.data_type() == c.data_type());
        let sources = columns.iter().map(Source::new).collect::<Option<Vec<_>>>().filter(|_| same);
        let sources = sources.ok_or_else(|| StateError::new("columns are not those that the step keeps in state: this is a bug"))?;
        Ok(RowWriter { sources })
    }

    /// Collects rows.
    ///
    /// # Errors
    /// A type can't be stored: a bug.
    pub fn reader(&self) -> Result<RowReader, StateError> {
        let builders = self.fields.iter().map(|field| Builder::new(field.data_type())).collect::<Option<Vec<_>>>();
        let builders = builders.ok_or_else(|| StateError::new("a column has a type that can't be kept in state: this is a bug"))?;
        Ok(RowReader { builders, rows: 0, fields: self.fields.clone() })
    }
}

/// The rows of a batch, to be written one by one.
#[derive(Debug)]
pub struct RowWriter {
    sources: Vec<Source>,
}

impl RowWriter {
    /// Appends the bytes of row `row`, which must be one of the batch.
    pub fn put(&self, row: usize, out: &mut Vec<u8>) {
        put_all(self.sources.iter().map(|source| (source, row)), out);
    }
}

/// Rows read from state, on their way into columns.
#[derive(Debug)]
pub struct RowReader {
    fields: Fields,
    builders: Vec<Builder>,
    rows: usize,
}

impl RowReader {
    /// Adds the row whose bytes are `row`. After an error the reader must not be used any more.
    ///
    /// # Errors
    /// These bytes are not a row of the codec's fields.
    pub fn push(&mut self, row: &[u8]) -> Result<(), StateError> {
        let mut reader = Reader::new(row);
        let read = read_all(&mut self.builders, &mut reader).filter(|()| reader.is_empty());
        self.rows += 1;
        read.ok_or_else(|| StateError::new("a row in state can't be decoded: was it written with other columns?"))
    }

    /// Adds a row without values: of the other side of an outer join.
    pub fn push_nulls(&mut self) {
        self.builders.iter_mut().for_each(Builder::push_null);
        self.rows += 1;
    }

    pub fn len(&self) -> usize {
        self.rows
    }

    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The columns of all rows added, and begins with none again.
    ///
    /// # Errors
    /// A value is not one of its column's type.
    pub fn take(&mut self) -> Result<Vec<ArrayRef>, StateError> {
        self.rows = 0;
        let builders = std::mem::replace(&mut self.builders, RowCodec::new(self.fields.clone()).reader()?.builders);
        let columns = builders.into_iter().map(Builder::finish).collect::<Result<Vec<_>, _>>();
        columns.map_err(|e| StateError::new(format!("rows in state can't be decoded: {e}")))
    }
}
