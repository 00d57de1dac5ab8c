//! Change records of a source as rows: what is gone, then what is there.
//!
//! A record says what a row was and what it is, and each becomes a row on its own merits: if one of the two can't be read, the record
//! goes to the dead letters and the other row goes on. So what the stream holds is always the rows of the table that can be read: a
//! version that can't be read was never added, and the record that replaces it can't revoke it either.

use std::sync::Arc;

use arrow::array::{ArrayRef, DynComparator, Int8Array, RecordBatch, make_comparator};
use arrow::compute::SortOptions;
use arrow::datatypes::{Fields, SchemaRef};
use headwater_formats::{Change, ChangeDecoder, Operation, RowBuilder};
use operator_core::changes::{ADDED, GONE};
use operator_core::{Millis, Path};

use super::Took;
use crate::format::{Format, Layout};
use crate::schemas::{self, SchemaSource, Unread};

/// What to do where a connector does not know what a row was.
const OLD_ROWS: &str = "have the database log whole rows (PostgreSQL: `ALTER TABLE .. REPLICA IDENTITY FULL`; MySQL: \
                        `binlog_row_image=FULL`)";

/// Reads change records, while a batch is decoded.
pub struct Changes {
    decoder: Box<dyn ChangeDecoder>,
    rows: RowBuilder,
    /// By row.
    signs: Vec<i8>,
    /// By row: when the connector saw its change.
    times: Vec<Option<Millis>>,
}

impl Changes {
    /// # Errors
    /// The columns can't be decoded into.
    pub fn new(format: &Format, layout: &Layout, columns: &SchemaRef, capacity: usize) -> Result<Changes, String> {
        let (decoder, columns) = format.changes(layout, columns)?;
        Ok(Changes { decoder, rows: RowBuilder::new(&columns, capacity)?, signs: Vec::new(), times: Vec::new() })
    }

    /// Appends the rows of a record.
    ///
    /// # Errors
    /// Nothing was appended: the record is not a change, or says too little.
    pub fn read(&mut self, value: &[u8], schemas: &dyn SchemaSource) -> Result<Took, Unread> {
        let change = schemas::change(self.decoder.as_mut(), value, schemas)?;
        let mut taken = Took::NOTHING;
        let Some(change) = change else { return Ok(taken) };
        complete(&change).map_err(Unread::Bad)?;
        for (row, sign, name) in [(change.before, GONE, "before"), (change.after, ADDED, "after")] {
            let Some(row) = row else { continue };
            match schemas::row(self.decoder.as_mut(), row, &mut self.rows, schemas) {
                Ok(()) => {
                    self.signs.push(sign);
                    self.times.push(change.at);
                    taken.rows += 1;
                }
                // The schema of the record is known by now.
                Err(Unread::Bad(why) | Unread::Wait(why)) => {
                    // Of a row that was deleted, databases log the key alone by default.
                    let remedy = if change.operation == Operation::Delete {
                        format!("; if the record has the key alone, {OLD_ROWS}")
                    } else {
                        String::new()
                    };
                    taken.bad.get_or_insert(format!("`{name}`: {why}{remedy}"));
                }
            }
        }
        Ok(taken)
    }

    /// Bytes of the columns so far.
    pub fn bytes(&self) -> usize {
        self.rows.estimated_bytes()
    }

    /// The rows so far. What else is known of them is to be taken next.
    pub fn finish(&mut self) -> Result<RecordBatch, String> {
        self.rows.finish()
    }

    /// Of the rows of the last batch: when the connector saw their changes.
    pub fn take_times(&mut self) -> Vec<Option<Millis>> {
        std::mem::take(&mut self.times)
    }

    /// Of the rows of the last batch: which are there, and which are gone.
    pub fn take_signs(&mut self) -> ArrayRef {
        Arc::new(Int8Array::from(std::mem::take(&mut self.signs)))
    }
}

/// A change says what the row was.
fn complete(change: &Change<'_>) -> Result<(), String> {
    let (before, after) = (change.before.is_some(), change.after.is_some());
    match change.operation {
        Operation::Create if !after => Err("it has no `after`".into()),
        Operation::Update | Operation::Delete if !before => Err(format!("it does not say what the row was (`before`): {OLD_ROWS}")),
        _ => Ok(()),
    }
}

/// Which rows of a batch belong to an update that changes the key: `places` are those of their records, one after the other. The row
/// under the old key would be in the wrong partition; connectors write a deletion and an insertion instead.
///
/// # Errors
/// A column of the key is missing.
pub fn with_two_keys(key: &[Path], fields: &Fields, columns: &[ArrayRef], places: &[usize]) -> Result<Vec<usize>, String> {
    let of = |path: &Path| {
        let values = path.values(fields, columns).ok_or_else(|| format!("no column `{path}`"))?;
        make_comparator(values.as_ref(), values.as_ref(), SortOptions::default()).map_err(|e| e.to_string())
    };
    let keys: Vec<DynComparator> = key.iter().map(of).collect::<Result<_, String>>()?;
    let pairs = places.windows(2).enumerate().filter(|(_, pair)| matches!(pair, [a, b] if a == b));
    Ok(pairs.filter(|(row, _)| keys.iter().any(|compare| compare(*row, row + 1).is_ne())).map(|(row, _)| row).collect())
}
