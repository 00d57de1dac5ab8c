//! What a script's rows mean: event times, changes of tables, columns that were planned.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{Schema, TimestampMillisecondType};

use super::rows::Drawn;
use operator_core::batch::{Millis, time_type};
use operator_core::spec::TableInfo;
use operator_core::table::{Change, Table, put_key};

/// The column named by `time:`, in milliseconds.
pub(super) fn event_times(name: &str, user: &RecordBatch) -> Result<Vec<Millis>, String> {
    let column = user.column_by_name(name).ok_or_else(|| format!("the input has no column `{name}`"))?;
    let times = cast(column, &time_type()).map_err(|e| e.to_string())?;
    if times.null_count() > 0 {
        return Err(format!("`{name}` is null, but it is the event time"));
    }
    Ok(times.as_primitive::<TimestampMillisecondType>().values().to_vec())
}

/// Applies drawn rows to a table: changes, and deletions.
pub(super) fn change(table: &mut Table, info: &TableInfo, drawn: &Drawn, deleted: &[bool], (at, first): (i64, i64)) -> Result<(), String> {
    let rows = drawn.batch(&info.schema)?;
    let key = info.key.iter().filter_map(|field| rows.column_by_name(field.name()).cloned()).collect::<Vec<_>>();
    let times = drawn.times("_time")?;
    let keys: Vec<Vec<u8>> = (0..rows.num_rows())
        .map(|row| {
            let mut bytes = Vec::new();
            put_key(&key, row, &mut bytes);
            bytes
        })
        .collect();
    let changes = keys.iter().zip(times).zip(deleted).enumerate().map(|(row, ((key, time), deleted))| {
        let place = if *deleted { None } else { Some(row as u32) };
        Change { key, since: time.unwrap_or(at), partition: 0, offset: first + row as i64, row: place }
    });
    table.apply(rows, changes);
    Ok(())
}

/// The first difference between the columns of emitted rows and the planned ones.
pub(super) fn differs(emitted: &Schema, planned: &Schema) -> Option<String> {
    if emitted.fields().len() != planned.fields().len() {
        return Some(format!("{} columns emitted, {} planned", emitted.fields().len(), planned.fields().len()));
    }
    let mut pairs = emitted.fields().iter().zip(planned.fields());
    pairs.find(|(a, b)| a != b).map(|(a, b)| format!("column {a:?} emitted where {b:?} was planned"))
}
