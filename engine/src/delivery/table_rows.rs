//! Rows of tables in memory.

use std::collections::BTreeMap;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use headwater_formats::JsonEncoder;
use operator_core::{CHANGE, changes};

use crate::sinks::{OFFSET, PARTITION, ROW};

/// A row as it is in the table: position and the rest as JSON.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableRow {
    pub partition: i32,
    pub offset: i64,
    pub row: i32,
    pub json: String,
    /// A change that takes the row away.
    pub gone: bool,
}

/// What a table holds after changes by the columns `key`, in the order of the rows: the last one of each key, unless it is gone.
pub(super) fn folded(rows: Vec<TableRow>, key: &[String]) -> Vec<TableRow> {
    let mut last: BTreeMap<String, TableRow> = BTreeMap::new();
    for row in rows {
        last.insert(row.key(key), row);
    }
    let mut left: Vec<TableRow> = last.into_values().filter(|row| !row.gone).collect();
    left.sort();
    left
}

impl TableRow {
    /// Its values in these columns.
    pub(super) fn key(&self, columns: &[String]) -> String {
        let row: serde_json::Value = serde_json::from_str(&self.json).unwrap_or_default();
        let values: Vec<_> = columns.iter().map(|column| row.get(column).cloned().unwrap_or_default()).collect();
        serde_json::Value::from(values).to_string()
    }
}

pub(super) fn negative_amount(rows: &RecordBatch) -> bool {
    let amounts = rows.column_by_name("amount").and_then(|column| column.as_primitive_opt::<Int64Type>());
    amounts.is_some_and(|amounts| amounts.iter().flatten().any(|amount| amount < 0))
}

pub(super) fn rows_of(rows: &RecordBatch) -> Result<Vec<TableRow>, String> {
    let missing = |name: &str| format!("no column `{name}`");
    let column = |name: &str| rows.column_by_name(name).ok_or_else(|| missing(name));
    let partitions = column(PARTITION)?.as_primitive_opt::<Int32Type>().ok_or_else(|| missing(PARTITION))?;
    let offsets = column(OFFSET)?.as_primitive_opt::<Int64Type>().ok_or_else(|| missing(OFFSET))?;
    let places = column(ROW)?.as_primitive_opt::<Int32Type>().ok_or_else(|| missing(ROW))?;
    let changes = changes::of(rows);
    let own = |column: &usize| rows.schema_ref().field(*column).name() != CHANGE;
    let user: Vec<usize> = (0..rows.num_columns().saturating_sub(3)).filter(own).collect();
    let user = rows.project(&user).map_err(|e| e.to_string())?;
    let encoder = JsonEncoder::new(&user.schema());
    let json = encoder.batch(&user)?;
    let row = |row: usize| {
        let mut text = Vec::new();
        json.write(row, &mut text)?;
        let json = String::from_utf8_lossy(&text).into_owned();
        let gone = changes.is_some_and(|changes| changes.value(row) == changes::GONE);
        Ok(TableRow { partition: partitions.value(row), offset: offsets.value(row), row: places.value(row), json, gone })
    };
    (0..rows.num_rows()).map(row).collect()
}
