//! Changes in a table whose engine takes them.
//!
//! A table of ClickHouse is only added to. Two engines make rows come and go:
//!
//! ```text
//! ReplacingMergeTree(version, is_deleted)   of the rows of a key the one with the highest version is there, unless it is deleted
//! CollapsingMergeTree(sign)                 a row of sign 1 and the same one of sign -1 are none
//! ```
//!
//! The **version** is the position of the row in the outbox, `_offset` and `_row` in one number. All changes of a key are in one partition
//! of the outbox, in order, so it rises with each change of a key; it is the same however often a row is sent, so repeated inserts change
//! nothing, and no clock is involved. Of a pair only the new row is sent: it replaces the old one. With **signs** every row is sent, and a
//! repeated insert must be recognised by its token, as everywhere else.
//!
//! Limits. Both take effect when parts are merged: until then readers need `FINAL`, or `sum(sign)`. A table that has rows of an outbox
//! that was deleted would prefer them to the rows of a new one, whose offsets begin at 0: the delivery stops at such a table.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int8Array, RecordBatch, UInt8Array, UInt64Array};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{filter_record_batch, not};
use arrow::datatypes::{DataType, Field, FieldRef, Int32Type, Int64Type, Schema, UInt8Type};
use headwater_engine::delivery::{OFFSET, ROW, position_fields};
use headwater_engine::sinks::Incoming;
use operator_core::{CHANGE, changes};

use super::columns::Column;
use super::connection::identifier;
use super::fit::Fit;
use super::layout::Layout;

/// Columns of tables that are made for changes.
pub(super) const VERSION: &str = "_version";
pub(super) const DELETED: &str = "_deleted";

/// Bits of a version that are the place of a row within its record: a record has at most 2^20 rows.
const PLACE_BITS: u32 = 20;

/// How a table takes changes, and the columns it needs for that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    Versions { key: Vec<String>, version: String, deleted: String },
    Signs { sign: String },
}

/// The engine of a table of changes that `hw ddl` prints.
pub(super) fn engine() -> String {
    format!("ReplacingMergeTree({VERSION}, {DELETED})")
}

impl Applied {
    /// How the table that `hw ddl` prints takes changes by `key`.
    pub(super) fn made(key: &[String]) -> Applied {
        Applied::Versions { key: key.to_vec(), version: VERSION.to_owned(), deleted: DELETED.to_owned() }
    }

    /// How an engine takes changes by `key`, if it does.
    pub(super) fn of(key: &[String], Layout { engine, arguments, .. }: &Layout) -> Option<Applied> {
        let is = |name: &str| engine.ends_with(name);
        match arguments.as_slice() {
            [version, deleted] if is("ReplacingMergeTree") => {
                Some(Applied::Versions { key: key.to_vec(), version: version.clone(), deleted: deleted.clone() })
            }
            [sign] if is("CollapsingMergeTree") && !is("VersionedCollapsingMergeTree") => Some(Applied::Signs { sign: sign.clone() }),
            _ => None,
        }
    }

    /// How a table takes changes by `key`.
    ///
    /// # Errors
    /// Why it doesn't, a sentence each.
    pub fn by(key: &[String], rows: &Schema, layout: &Layout, columns: &[Column]) -> Result<Applied, Vec<String>> {
        let Layout { engine, sorting, partition, expires, .. } = layout;
        let Some(applied) = Applied::of(key, layout) else {
            let made = format!("{} ORDER BY ({})", self::engine(), key.iter().map(|name| identifier(name)).collect::<Vec<_>>().join(", "));
            return Err(vec![format!(
                "in its engine {engine} rows don't come and go: it needs ENGINE = {made}, with the columns {VERSION} UInt64 and {DELETED} \
                 UInt8 (`hw ddl` prints it), or CollapsingMergeTree(sign)"
            )]);
        };
        let (by, is_key) = (key.join(", "), |name: &String| key.contains(name));
        let mut wrong = Vec::new();
        match &applied {
            Applied::Versions { version, .. } => {
                if sorting.len() != key.len() || !sorting.iter().all(is_key) {
                    wrong.push(format!("a row replaces those of equal ORDER BY ({}), and the changes are by {by}", sorting.join(", ")));
                }
                if let Some(other) = partition.iter().find(|name| !is_key(name)) {
                    wrong
                        .push(format!("rows are replaced within a partition only, and PARTITION BY reads `{other}`, which is not in {by}"));
                }
                if let Some(other) = expires.iter().find(|name| !is_key(name) && columns.iter().any(|column| column.name == **name)) {
                    wrong.push(format!(
                        "its TTL reads `{other}`, which is not in {by}: a newer row, or one that says that the row is gone, could expire first, \
                         and the old row would be back"
                    ));
                }
                if !columns.iter().any(|column| column.name == *version && column.native == "UInt64") {
                    wrong.push(format!("the version `{version}` must be UInt64: it is the position of a row in the outbox"));
                }
            }
            Applied::Signs { .. } => {
                if let Some(other) = key.iter().find(|name| !sorting.contains(name)) {
                    wrong.push(format!("rows of several keys would collapse: ORDER BY ({}) lacks `{other}`", sorting.join(", ")));
                }
            }
        }
        let own = applied.columns().into_iter().find(|name| rows.field_with_name(name).is_ok());
        wrong.extend(own.map(|name| format!("`{name}` is a column of the rows, and the engine needs one that delivery fills")));
        if wrong.is_empty() { Ok(applied) } else { Err(wrong) }
    }

    /// The columns that delivery fills.
    fn columns(&self) -> Vec<&str> {
        match self {
            Applied::Versions { version, deleted, .. } => vec![version, deleted],
            Applied::Signs { sign } => vec![sign],
        }
    }

    /// The rows as the table gets them, each batch in an insert of its own: one, if all values fit.
    ///
    /// A row that goes is sent whole: constraints hold for it, and expressions that the table computes, as they did for the row that was
    /// there. If its old values don't fit any more, because the table was altered or the database logs keys only, it has the key alone, and
    /// the defaults of the table otherwise: it must go all the same.
    ///
    /// # Errors
    /// A value does not fit; they are no changes, or lack their positions.
    fn apply(&self, rows: &RecordBatch, fit: &Fit) -> Result<Vec<RecordBatch>, String> {
        let failed = |e: arrow::error::ArrowError| e.to_string();
        let signs = changes::of(rows).ok_or("the rows are no changes")?;
        let own: Vec<usize> = (0..rows.num_columns()).filter(|at| rows.schema_ref().field(*at).name() != CHANGE).collect();
        let all = rows.project(&own).map_err(failed)?;
        let (key, version, deleted) = match self {
            Applied::Signs { sign } => return Ok(vec![fit.apply(&with(&all, sign, Arc::new(signs.clone()))?)?]),
            Applied::Versions { key, version, deleted } => (key, version, deleted),
        };
        let gone: UInt8Array = signs.values().iter().map(|sign| u8::from(*sign == changes::GONE)).collect();
        let all = with(&with(&all, version, Arc::new(versions(rows)?))?, deleted, Arc::new(gone))?;
        let replaced = replaced(rows, key, signs);
        let sent: BooleanArray = (0..rows.num_rows()).map(|row| Some(!replaced.contains(&row))).collect();
        let all = filter_record_batch(&all, &sent).map_err(failed)?;
        if let Ok(fitted) = fit.apply(&all) {
            return Ok(vec![fitted]);
        }
        let gone = all.column_by_name(deleted).and_then(|column| column.as_primitive_opt::<UInt8Type>()).ok_or("no column of deletions")?;
        let keys_only = gone.values().iter().enumerate().map(|(row, gone)| Some(*gone == 1 && fit.apply(&all.slice(row, 1)).is_err()));
        let keys_only: BooleanArray = keys_only.collect();
        let whole = filter_record_batch(&all, &not(&keys_only).map_err(failed)?).map_err(failed)?;
        let positions = position_fields();
        let is_kept = |name: &String| {
            key.contains(name) || name == version || name == deleted || positions.iter().any(|position| position.name() == name)
        };
        let kept: Vec<usize> = (0..all.num_columns()).filter(|at| is_kept(all.schema_ref().field(*at).name())).collect();
        let bare = filter_record_batch(&all, &keys_only).and_then(|rows| rows.project(&kept)).map_err(failed)?;
        [whole, bare].iter().filter(|rows| rows.num_rows() > 0).map(|rows| fit.apply(rows)).collect()
    }
}

/// The rows as they are sent, each batch in an insert of its own. `applied`: how the table takes changes, if the rows are such.
///
/// # Errors
/// A value does not fit; the rows are no changes.
pub(super) fn parts(rows: &RecordBatch, fit: &Fit, applied: Option<&Applied>) -> Result<Vec<RecordBatch>, String> {
    match applied {
        None => Ok(vec![fit.apply(rows)?]),
        Some(applied) => applied.apply(rows, fit),
    }
}

/// The rows with one more column.
fn with(rows: &RecordBatch, name: &str, column: ArrayRef) -> Result<RecordBatch, String> {
    let field: FieldRef = Arc::new(Field::new(name, column.data_type().clone(), false));
    let fields: Vec<FieldRef> = rows.schema_ref().fields().iter().cloned().chain([field]).collect();
    let columns = rows.columns().iter().cloned().chain([column]).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(|e| e.to_string())
}

/// The position of each row in its partition of the outbox.
fn versions(rows: &RecordBatch) -> Result<UInt64Array, String> {
    let offsets = rows.column_by_name(OFFSET).and_then(|column| column.as_primitive_opt::<Int64Type>());
    let places = rows.column_by_name(ROW).and_then(|column| column.as_primitive_opt::<Int32Type>());
    let (Some(offsets), Some(places)) = (offsets, places) else { return Err("the rows have no positions".to_owned()) };
    let version = |(offset, place): (&i64, &i32)| Some((u64::try_from(*offset).ok()? << PLACE_BITS) | u64::try_from(*place).ok()?);
    let versions = offsets.values().iter().zip(places.values()).map(version).collect::<Option<Vec<u64>>>();
    Ok(versions.ok_or("the rows have no positions")?.into())
}

/// The old rows of pairs: the new row, which comes next, has the same key. Where keys can't be compared there are none.
fn replaced(rows: &RecordBatch, key: &[String], signs: &Int8Array) -> BTreeSet<usize> {
    let Some(pairs) = rows.num_rows().checked_sub(1).filter(|pairs| *pairs > 0) else { return BTreeSet::new() };
    let column = |name: &String| {
        let column = rows.column_by_name(name)?;
        not_distinct(&column.slice(0, pairs), &column.slice(1, pairs)).ok()
    };
    let Some(same) = key.iter().map(column).collect::<Option<Vec<BooleanArray>>>() else { return BTreeSet::new() };
    let signs = signs.values();
    let is_pair =
        |row: &usize| signs[*row] == changes::GONE && signs[row + 1] == changes::ADDED && same.iter().all(|same| same.value(*row));
    (0..pairs).filter(is_pair).collect()
}

/// The fields that a table made for these rows has besides theirs and the positions.
pub(super) fn fields(rows: &Incoming) -> Vec<Field> {
    match rows.changes {
        Some(_) => vec![Field::new(VERSION, DataType::UInt64, false), Field::new(DELETED, DataType::UInt8, false)],
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::UInt64Type;
    use headwater_engine::delivery::contract::changes_block;

    use super::*;

    fn by(full: &str) -> Result<Applied, Vec<String>> {
        let column = |name: &str, native: &str| Column { name: name.into(), native: native.into(), kind: String::new() };
        let columns = [column("id", "Int64"), column("_version", "UInt64"), column("_deleted", "UInt8"), column("n", "UInt64")];
        let rows = Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("n", DataType::UInt64, false)]);
        Applied::by(&["id".to_owned()], &rows, &Layout::read(full), &columns)
    }

    #[test]
    fn engines_that_take_changes_are_known() {
        let versions = Applied::Versions { key: vec!["id".into()], version: "_version".into(), deleted: "_deleted".into() };
        assert_eq!(by("ReplacingMergeTree(_version, _deleted) ORDER BY id"), Ok(versions.clone()));
        assert_eq!(by("ReplicatedReplacingMergeTree('/p', 'r', _version, _deleted) PARTITION BY id % 8 ORDER BY (id)"), Ok(versions));
        let signs = Applied::Signs { sign: "sign".into() };
        assert_eq!(by("CollapsingMergeTree(sign) ORDER BY (n, id)"), Ok(signs));
        for (full, said) in [
            ("MergeTree ORDER BY id", "in its engine MergeTree rows don't come and go"),
            ("ReplacingMergeTree(_version) ORDER BY id", "needs ENGINE = ReplacingMergeTree(_version, _deleted) ORDER BY (`id`)"),
            ("VersionedCollapsingMergeTree(sign, _version) ORDER BY id", "don't come and go"),
            ("ReplacingMergeTree(_version, _deleted) ORDER BY (id, n)", "ORDER BY (id, n), and the changes are by id"),
            ("ReplacingMergeTree(_version, _deleted) PARTITION BY n ORDER BY id", "PARTITION BY reads `n`"),
            ("ReplacingMergeTree(_version, _deleted) ORDER BY id TTL toDateTime(n) + toIntervalDay(30)", "its TTL reads `n`"),
            ("ReplacingMergeTree(_deleted, _deleted) ORDER BY id", "must be UInt64"),
            ("ReplacingMergeTree(n, _deleted) ORDER BY id", "`n` is a column of the rows"),
            ("CollapsingMergeTree(sign) ORDER BY n", "ORDER BY (n) lacks `id`"),
        ] {
            let why = by(full).unwrap_err();
            assert!(why.iter().any(|why| why.contains(said)), "{full}: {why:?}");
        }
    }

    #[test]
    fn of_a_pair_the_new_row_is_sent_and_with_signs_both() {
        let block = changes_block(0, 5, &[(1, 10, 1), (1, 10, -1), (1, 11, 1), (2, 20, -1), (3, 30, 1), (3, 30, -1)]).unwrap();
        let ids = |rows: &RecordBatch| rows.column(0).as_primitive::<Int64Type>().values().to_vec();
        let versions = Applied::Versions { key: vec!["id".into()], version: "_version".into(), deleted: "_deleted".into() };
        let number = |rows: &RecordBatch, name: &str| rows.column_by_name(name).unwrap().as_primitive::<UInt64Type>().values().to_vec();
        let deleted = |rows: &RecordBatch| rows.column_by_name("_deleted").unwrap().as_primitive::<UInt8Type>().values().to_vec();
        let sent = versions.apply(&block.rows, &Fit::default()).unwrap();
        let [whole] = sent.as_slice() else { panic!("{sent:?}") };
        assert_eq!((ids(whole), deleted(whole)), (vec![1, 1, 2, 3, 3], vec![0, 0, 1, 0, 1]));
        assert_eq!(number(whole, "_version"), [5, 7, 8, 9, 10].map(|offset| offset << 20));
        assert_eq!(whole.column(1).as_primitive::<Int64Type>().values().to_vec(), [10, 11, 20, 30, 30], "a row that goes is whole");
        // The old values of 2 fit no more.
        let narrow = Fit::new(&[Column { name: "amount".into(), native: "UInt8".into(), kind: String::new() }]);
        let altered = changes_block(0, 5, &[(1, 10, -1), (1, 11, 1), (2, 1_000, -1), (3, 30, -1)]).unwrap();
        let sent = versions.apply(&altered.rows, &narrow).unwrap();
        let [whole, gone] = sent.as_slice() else { panic!("{sent:?}") };
        assert_eq!((ids(whole), deleted(whole), ids(gone), deleted(gone)), (vec![1, 3], vec![0, 1], vec![2], vec![1]));
        let names: Vec<&str> = gone.schema_ref().fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names, ["id", "_partition", "_offset", "_row", "_version", "_deleted"]);
        let only = changes_block(0, 5, &[(1, 10, -1), (1, 11, 1)]).unwrap();
        let refused = changes_block(0, 5, &[(2, 1_000, 1)]).unwrap();
        assert!(versions.apply(&refused.rows, &narrow).unwrap_err().contains("`amount`"));
        assert_eq!(versions.apply(&only.rows, &Fit::default()).unwrap()[0].num_rows(), 1, "a pair is one row");
        let sent = Applied::Signs { sign: CHANGE.to_owned() }.apply(&block.rows, &Fit::default()).unwrap();
        let [sent] = sent.as_slice() else { panic!("{sent:?}") };
        assert_eq!((ids(sent), sent.num_columns()), (vec![1, 1, 1, 2, 3, 3], block.rows.num_columns()));
    }
}
