//! Streams of changes: rows that come and go.
//!
//! A stream is [`Mode::Append`], where a row is an event that stays true, or [`Mode::Changes`], where rows have the column
//! [`CHANGE`]: `+1` the row is there, `-1` the row is gone. An update is the pair (old row, -1), (new row, +1): adjacent, in this
//! order, in one batch. What a stream holds at a point is the multiset of its rows: each counted as often as the sum of its changes.
//!
//! So a step that passes rows on, each on its own merits, needs no code for changes: if the new row of an update meets a condition no
//! longer, the -1 of the old one comes out alone. What it makes of a row must depend on the row alone, or the row that is gone would
//! not be the one that was there: that is why expressions over changes read no column about the record ([`crate::plan`]). Steps that
//! keep state count a -1 against a +1.

use arrow::array::{Array, AsArray, Int8Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int8Type, Schema};

use crate::path::Path;
use crate::state::StateError;

/// What happens to a row: `Int8`, never null, `+1` or `-1`. A system column, after those of [`crate::batch::system_fields`] and before
/// the headers, of streams of changes and of no others.
pub const CHANGE: &str = "_change";

/// The row is there.
pub const ADDED: i8 = 1;
/// The row is gone.
pub const GONE: i8 = -1;

/// What to do where a step needs the event time of rows, and has that of changes.
pub const OWN_TIME: &str = "name a column of the row as event time at the source: `time: { field: .. }`. Results of an unbounded window have \
                            the time of the row that changed them: group by a column there, such as the day";

/// What the rows of a stream are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Events: a row that came stays true.
    #[default]
    Append,
    /// Rows that come and go.
    Changes {
        /// The columns that say which row a change is about: at most one row with the same values in them is there at a time, and its
        /// changes are in one partition, in order. Empty if no columns do (a step left the key out, or made several rows of one):
        /// then a stream can be summed up, but nothing can be kept by key.
        key: Vec<Path>,
        /// Event time belongs to the row: the row that is gone has that of the row that was there. If not, it is when the change
        /// happened, and the two differ.
        row_time: bool,
    },
}

impl Mode {
    /// Rows come and go.
    pub fn is_changes(&self) -> bool {
        matches!(self, Mode::Changes { .. })
    }

    /// The columns that say which row a change is about, if there are such.
    pub fn key(&self) -> Option<&[Path]> {
        match self {
            Mode::Changes { key, .. } if !key.is_empty() => Some(key),
            _ => None,
        }
    }

    /// Whether a row that is gone has the event time of the row that was there, as is so of rows that are only added.
    pub fn row_time(&self) -> bool {
        match self {
            Mode::Append => true,
            Mode::Changes { row_time, .. } => *row_time,
        }
    }

    /// The mode of two streams that are read as one, if both are events, or changes by the same key.
    pub fn united(&self, other: &Mode) -> Option<Mode> {
        match (self, other) {
            (Mode::Append, Mode::Append) => Some(Mode::Append),
            (Mode::Changes { key, row_time }, Mode::Changes { key: same, row_time: also }) if key == same => {
                Some(Mode::Changes { key: key.clone(), row_time: *row_time && *also })
            }
            _ => None,
        }
    }

    /// The mode behind a step, or a repartition topic, that brings rows with equal columns `by` together. If these are not all of the key, the
    /// changes of a row can be in two partitions: nothing can be kept by key then.
    pub fn repartitioned(&self, by: &[Path]) -> Mode {
        match self {
            Mode::Changes { key, row_time } if !by.iter().all(|path| key.contains(path)) => {
                Mode::Changes { key: Vec::new(), row_time: *row_time }
            }
            mode => mode.clone(),
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Mode::Append => f.write_str("append"),
            Mode::Changes { key, .. } if key.is_empty() => f.write_str("changes without a key"),
            Mode::Changes { key, .. } => write!(f, "changes by {}", key.iter().map(Path::to_string).collect::<Vec<_>>().join(", ")),
        }
    }
}

/// The column of changes.
pub fn field() -> Field {
    Field::new(CHANGE, DataType::Int8, false)
}

/// The rows are changes.
pub fn has_changes(schema: &Schema) -> bool {
    schema.field_with_name(CHANGE).is_ok()
}

/// The changes of a batch, one per row; `None` for rows that are only added.
pub fn of(rows: &RecordBatch) -> Option<&Int8Array> {
    rows.column_by_name(CHANGE)?.as_primitive_opt::<Int8Type>()
}

/// The row at `index` is gone and the next one is there instead: both come from one record, or were made by a step. (Rows of two
/// records are not one update: whether they are in one batch is a matter of arrival.)
#[inline]
pub fn is_update(signs: &[i8], offsets: &[i64], index: usize) -> bool {
    let Some([GONE, ADDED]) = signs.get(index..index + 2) else { return false };
    offsets.get(index).is_some_and(|offset| offsets.get(index + 1) == Some(offset))
}

/// The same of a stream that is known to be one of changes.
///
/// # Errors
/// The column is missing or has nulls, which the engine rules out.
pub fn signs(rows: &RecordBatch) -> Result<&[i8], StateError> {
    let found = of(rows).filter(|signs| signs.null_count() == 0);
    found.map(|signs| signs.values().as_ref()).ok_or_else(|| StateError::new("the batch of a stream of changes has no changes"))
}

/// Where to cut rows after `start`, at `end` or one row later: the two rows of an update stay together. `signs`: those of the rows, if they
/// are changes.
pub fn cut(signs: Option<&[i8]>, start: usize, end: usize) -> usize {
    let of = |row: usize| signs.and_then(|signs| signs.get(row)).copied();
    let within = end > start && of(end - 1) == Some(GONE) && of(end) == Some(ADDED);
    if within { end + 1 } else { end }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_of_an_update_are_not_cut_apart() {
        let signs = [1, -1, 1, -1, -1, 1];
        let cuts: Vec<usize> = (0..=6).map(|end| cut(Some(&signs), 0, end)).collect();
        assert_eq!(cuts, [0, 1, 3, 3, 4, 6, 6]);
        assert_eq!(cut(None, 0, 2), 2);
    }
}
