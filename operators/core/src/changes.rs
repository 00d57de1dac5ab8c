//! Streams of changes: rows that come and go.
//!
//! A stream is [`Mode::Append`], where a row is an event that stays true, or [`Mode::Changes`], where rows have the column
//! [`CHANGE`]: `+1` the row is there, `-1` the row is gone. An update is the pair (old row, -1), (new row, +1): adjacent, in this
//! order, in one batch. What a stream holds at a point is the multiset of its rows: each counted as often as the sum of its changes.
//!
//! So a step that passes rows on, each on its own merits, needs no code for changes: if the new row of an update meets a condition no
//! longer, the -1 of the old one comes out alone. What it makes of a row must depend on the row alone, or the row that is gone would
//! not be the one that was there: that is why expressions over changes read no column about the record ([`plan`]). Steps that
//! keep state count a -1 against a +1.

use arrow::array::{Array, AsArray, Int8Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int8Type, Schema};

use crate::batch::{FUTURE, HEADERS, METADATA, OFFSET, WATERMARK};
use crate::diagnostic::{Diagnostic, names};
use crate::path::Path;
use crate::spec::{KeyEffect, PlanCx, Planned, Spec};
use crate::state::StateError;

/// What happens to a row: `Int8`, never null, `+1` or `-1`. A system column, after those of [`crate::batch::system_fields`] and before
/// the headers, of streams of changes and of no others.
pub const CHANGE: &str = "_change";

/// The row is there.
pub const ADDED: i8 = 1;
/// The row is gone.
pub const GONE: i8 = -1;

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
            Mode::Changes { key } if !key.is_empty() => Some(key),
            _ => None,
        }
    }

    /// The mode behind a step, or a repartition topic, that brings rows with equal columns `by` together. If these are not all of the key, the
    /// changes of a row can be in two partitions: nothing can be kept by key then.
    pub fn repartitioned(&self, by: &[Path]) -> Mode {
        match self {
            Mode::Changes { key } if !by.iter().all(|path| key.contains(path)) => Mode::Changes { key: Vec::new() },
            mode => mode.clone(),
        }
    }

    /// The mode of rows that a step passed on after renaming or leaving out columns. Without all columns of the key there is no key.
    pub fn after(&self, effect: &KeyEffect) -> Mode {
        match (self, effect) {
            (Mode::Append, _) => Mode::Append,
            (mode, KeyEffect::Unchanged) => mode.clone(),
            (Mode::Changes { .. }, KeyEffect::Columns(columns)) => Mode::Changes { key: columns.iter().map(Path::column).collect() },
            (Mode::Changes { key }, KeyEffect::Renamed(renames)) => {
                let new = |old: &Path| renames.iter().find(|(from, _)| from == old).map(|(_, to)| to.clone());
                Mode::Changes { key: key.iter().map(new).collect::<Option<Vec<_>>>().unwrap_or_default() }
            }
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Mode::Append => f.write_str("append"),
            Mode::Changes { key } if key.is_empty() => f.write_str("changes without a key"),
            Mode::Changes { key } => write!(f, "changes by {}", key.iter().map(Path::to_string).collect::<Vec<_>>().join(", ")),
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

/// The same of a stream that is known to be one of changes.
///
/// # Errors
/// The column is missing or has nulls, which the engine rules out.
pub fn signs(rows: &RecordBatch) -> Result<&[i8], StateError> {
    let found = of(rows).filter(|signs| signs.null_count() == 0);
    found.map(|signs| signs.values().as_ref()).ok_or_else(|| StateError::new("the batch of a stream of changes has no changes"))
}

/// Columns about the record that brought a row, in which the record that takes it away differs. (Topic, partition and key are the same.)
const OF_ONE_RECORD: [&str; 7] = {
    let [_, _, _, timestamp, value] = METADATA;
    [timestamp, value, HEADERS, OFFSET, WATERMARK, FUTURE, CHANGE]
};

/// Plans a step, with the checks that changes need whatever the kind: the kind takes them ([`Spec::REFUSES_CHANGES`]), and its
/// expressions read nothing that a row and its revocation don't have in common.
///
/// # Errors
/// What is wrong, of the step.
pub fn plan<S: Spec>(spec: &S, cx: &PlanCx<'_>) -> Result<Planned, Vec<Diagnostic>> {
    let mut changing = std::iter::once(cx.input).chain(cx.others).filter(|input| input.mode.is_changes());
    let Some(first) = changing.next() else { return checked(spec.plan(cx)?) };
    if let Some(help) = S::REFUSES_CHANGES {
        let message = format!("`{}` takes rows that are only added, and its input is a stream of {}", S::KIND, first.mode);
        return Err(vec![Diagnostic::error("no-changes", message).help(help)]);
    }
    let planned = spec.plan(cx)?;
    let read: Vec<&str> = planned.reads.iter().map(String::as_str).filter(|name| OF_ONE_RECORD.contains(name)).collect();
    if !read.is_empty() {
        let message =
            format!("{} can't be read here: it differs between the record that brings a row and the one that takes it away", names(read));
        let found = Diagnostic::error("changes-about-record", message);
        return Err(vec![found.help("the input is a stream of changes: read columns of the row")]);
    }
    checked(planned)
}

/// Outputs have the column exactly if they are changes.
fn checked(planned: Planned) -> Result<Planned, Vec<Diagnostic>> {
    let differs = planned.outputs.iter().find(|port| has_changes(&port.schema) != port.mode.is_changes());
    match differs {
        None => Ok(planned),
        Some(port) => Err(vec![Diagnostic::error(
            "error",
            format!("output `{}` is {}, and its columns are not: this is a bug", port.name, port.mode),
        )]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(columns: &[&str]) -> Mode {
        Mode::Changes { key: columns.iter().map(|column| Path::column(*column)).collect() }
    }

    #[test]
    fn the_key_follows_its_columns() {
        let renamed =
            |pairs: &[(&str, &str)]| KeyEffect::Renamed(pairs.iter().map(|(a, b)| (Path::column(*a), Path::column(*b))).collect());
        let mode = by(&["tenant", "id"]);
        assert_eq!(mode.after(&KeyEffect::Unchanged), mode);
        assert_eq!(mode.after(&renamed(&[("id", "order"), ("tenant", "tenant")])), by(&["tenant", "order"]));
        let gone = mode.after(&renamed(&[("id", "order")]));
        assert_eq!((gone.clone(), gone.key(), gone.is_changes()), (by(&[]), None, true));
        assert_eq!(gone.after(&renamed(&[("order", "id")])), by(&[]));
        assert_eq!(Mode::Append.after(&renamed(&[])), Mode::Append);
        assert_eq!(mode.repartitioned(&[Path::column("id")]), mode);
        assert_eq!(mode.repartitioned(&[Path::column("id"), Path::column("status")]), by(&[]));
        assert_eq!(mode.to_string(), "changes by tenant, id");
        assert_eq!(gone.to_string(), "changes without a key");
    }
}
