//! Batches of rows and the system columns that travel with them.
//!
//! Between steps, rows are a `RecordBatch`: the user's columns first, then the system columns of [`system_fields`].
//! System columns are ordinary Arrow columns so that a filter or an unnest carries them along with no special code.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::changes::{self, ADDED, CHANGE};
use crate::diagnostic::Diagnostic;
use crate::state::StateError;

/// A point in time or a length of time in milliseconds (since the Unix epoch for points).
pub type Millis = i64;

/// The watermark of a partition from which nothing has been read yet.
pub const NO_WATERMARK: Millis = i64::MIN;

/// Event time of the row: `Timestamp(Millisecond, UTC)`, never null.
pub const TIME: &str = "_time";
/// Watermark of the row's own source partition just before this row (rule R6): `Int64` milliseconds. Lateness is
/// judged against it, so that it depends on the partition's own prefix and never on batch size or poll order.
pub const WATERMARK: &str = "_watermark";
/// Offset of the source record this row came from, `-1` for rows that an operator made: `Int64`.
pub const OFFSET: &str = "_offset";
/// Whether the event time lies further ahead of the record's timestamp than the source's `max_future` allows: `Boolean`. Such
/// a time is not believed: it moves no watermark, ages no group, and does not make its row the newest of one.
pub const FUTURE: &str = "_future";
/// Headers of the source record in the encoding of [`crate::headers`], null when there are none: `Binary`. Only there if a step
/// reads a header or a sink carries them on.
pub const HEADERS: &str = "_headers";
/// Columns about the source record itself: after those of its value, and only if a step or a sink reads them. Sinks don't
/// write them.
pub const METADATA: [&str; 5] = ["_topic", "_partition", "_key", "_timestamp", "_value"];

/// The type of the event-time column, and of timestamps the engine makes (window bounds).
pub fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
}

/// The system columns that every batch between steps carries, in this order, after the user's columns.
/// [`CHANGE`] comes after them in a stream of changes, then [`HEADERS`] where they are needed.
pub fn system_fields() -> [Field; 4] {
    [
        Field::new(TIME, time_type(), false),
        Field::new(WATERMARK, DataType::Int64, false),
        Field::new(OFFSET, DataType::Int64, false),
        Field::new(FUTURE, DataType::Boolean, false),
    ]
}

/// True for the names that only the engine may give to columns between steps.
pub fn is_system(name: &str) -> bool {
    matches!(name, TIME | WATERMARK | OFFSET | FUTURE | CHANGE | HEADERS)
}

/// True for columns about the source record itself.
pub fn is_metadata(name: &str) -> bool {
    METADATA.contains(&name)
}

/// What is wrong with a name for a column that a step makes: those that start with `_` are the engine's and the record's.
pub fn reserved_name(name: &str) -> Option<Diagnostic> {
    name.starts_with('_')
        .then(|| Diagnostic::error("reserved-name", format!("`{name}`: names that start with `_` are reserved for the engine")))
}

/// The fields of `schema` that belong to the user, in order.
pub fn user_fields(schema: &Schema) -> impl Iterator<Item = &Arc<Field>> {
    schema.fields().iter().filter(|f| !is_system(f.name()))
}

/// True for the names of columns that a sink writes.
pub fn is_written(name: &str) -> bool {
    !is_system(name) && !is_metadata(name)
}

/// The fields of `schema` that a sink writes, in order.
pub fn written_fields(schema: &Schema) -> impl Iterator<Item = &Arc<Field>> {
    schema.fields().iter().filter(|f| is_written(f.name()))
}

/// `user` columns followed by the system columns present in `like` (so headers stay where they are carried).
pub fn with_system_fields(user: impl IntoIterator<Item = Arc<Field>>, like: &Schema) -> SchemaRef {
    let system = like.fields().iter().filter(|f| is_system(f.name())).cloned();
    Arc::new(Schema::new(user.into_iter().chain(system).collect::<Vec<_>>()))
}

/// Where the rows of a batch come from: one partition of one source topic, and the offsets `(from, to]` it covers.
/// Progress is kept as ranges that can't be applied twice (the idea of Quickwit's checkpoint deltas).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub topic: Arc<str>,
    pub partition: i32,
    /// The last offset before this batch (exclusive), `-1` at the start of the partition.
    pub from: i64,
    /// The last offset of this batch (inclusive).
    pub to: i64,
}

/// Rows of one source partition, in offset order, with their system columns.
#[derive(Clone, Debug)]
pub struct Batch {
    pub rows: RecordBatch,
    pub origin: Origin,
}

impl Batch {
    pub fn new(rows: RecordBatch, origin: Origin) -> Batch {
        Batch { rows, origin }
    }

    /// The same origin with other rows (after a filter, a projection, an unnest).
    pub fn with_rows(&self, rows: RecordBatch) -> Batch {
        Batch { rows, origin: self.origin.clone() }
    }

    pub fn num_rows(&self) -> usize {
        self.rows.num_rows()
    }

    /// Event times in milliseconds; `None` if the system column is missing, which the engine rules out.
    pub fn times(&self) -> Option<&TimestampMillisecondArray> {
        column(&self.rows, TIME)?.as_any().downcast_ref()
    }

    /// Watermark of the row's partition before each row, in milliseconds.
    pub fn watermarks(&self) -> Option<&Int64Array> {
        column(&self.rows, WATERMARK)?.as_any().downcast_ref()
    }

    /// Source offsets.
    pub fn offsets(&self) -> Option<&Int64Array> {
        column(&self.rows, OFFSET)?.as_any().downcast_ref()
    }

    /// All system columns.
    ///
    /// # Errors
    /// One is missing, which the engine rules out.
    pub fn system(&self) -> Result<SystemColumns<'_>, StateError> {
        let missing = || StateError::new("the batch has no system columns");
        Ok(SystemColumns {
            times: self.times().ok_or_else(missing)?.values(),
            watermarks: self.watermarks().ok_or_else(missing)?.values(),
            offsets: self.offsets().ok_or_else(missing)?.values(),
            futures: self.futures().ok_or_else(missing)?,
            changes: changes::of(&self.rows).map(|changes| changes.values().as_ref()),
        })
    }

    /// Whether each row's event time is not believed.
    pub fn futures(&self) -> Option<&BooleanArray> {
        column(&self.rows, FUTURE)?.as_any().downcast_ref()
    }
}

/// The system columns of a batch, each as long as the batch.
#[derive(Clone, Copy, Debug)]
pub struct SystemColumns<'a> {
    times: &'a [Millis],
    watermarks: &'a [Millis],
    offsets: &'a [i64],
    futures: &'a BooleanArray,
    changes: Option<&'a [i8]>,
}

/// The system columns of a row.
#[derive(Clone, Copy, Debug)]
pub struct SystemRow {
    pub time: Millis,
    pub watermark: Millis,
    pub offset: i64,
    /// Its time is not believed.
    pub future: bool,
    /// +1 the row is there, as are all rows of a stream that is not one of changes; -1 it is gone.
    pub change: i8,
}

impl SystemColumns<'_> {
    /// Those of the row at `index`.
    #[inline]
    pub fn row(&self, index: usize) -> SystemRow {
        let at = |column: &[i64]| column.get(index).copied().unwrap_or_default();
        let future = index < self.futures.len() && self.futures.value(index);
        let change = self.changes.and_then(|changes| changes.get(index)).copied().unwrap_or(ADDED);
        SystemRow { time: at(self.times), watermark: at(self.watermarks), offset: at(self.offsets), future, change }
    }

    /// See [`changes::is_update`].
    #[inline]
    pub fn is_update(&self, index: usize) -> bool {
        self.changes.is_some_and(|signs| changes::is_update(signs, self.offsets, index))
    }
}

/// The column called `name`, if there is one.
pub fn column<'a>(rows: &'a RecordBatch, name: &str) -> Option<&'a ArrayRef> {
    rows.column_by_name(name)
}

/// The mandatory system columns of rows that an operator made of others, of which it knows them.
pub fn system_columns<'a>(rows: impl Iterator<Item = &'a SystemRow> + Clone) -> [ArrayRef; 4] {
    let numbers = |of: fn(&SystemRow) -> i64| Int64Array::from_iter_values(rows.clone().map(of));
    let times = TimestampMillisecondArray::from_iter_values(rows.clone().map(|row| row.time)).with_timezone("UTC");
    let futures: BooleanArray = rows.clone().map(|row| Some(row.future)).collect();
    [Arc::new(times), Arc::new(numbers(|row| row.watermark)), Arc::new(numbers(|row| row.offset)), Arc::new(futures)]
}

/// The mandatory system columns for rows that an operator made itself (a closed window): each row's event
/// time, the watermark that downstream steps had seen before these rows, no source offset, and a time to be believed.
pub fn derived_system_columns(times: Vec<Millis>, watermark: Millis) -> [ArrayRef; 4] {
    let n = times.len();
    [
        Arc::new(TimestampMillisecondArray::from(times).with_timezone("UTC")),
        Arc::new(Int64Array::from(vec![watermark; n])),
        Arc::new(Int64Array::from(vec![-1i64; n])),
        Arc::new(BooleanArray::from(vec![false; n])),
    ]
}
