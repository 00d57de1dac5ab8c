//! Tables: compacted topics held in memory, looked up by key, gathered by column.
//!
//! Rows live in the record batches they were decoded into; the index maps a key to the places of its versions.
//! A join gathers whole columns with Arrow's `interleave`, so no row is copied on its own. Batches whose rows have
//! mostly been replaced are folded together now and then ([`Table::compact`]).

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{interleave, take};
use arrow::datatypes::{DataType, Int32Type, Int64Type, SchemaRef};
use arrow::error::ArrowError;
use hashbrown::HashMap;

use crate::batch::Millis;

/// Batches are merged above this many (more for large tables).
const MAX_BATCHES: usize = 1_000;

/// Where a row is: batch and row within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    batch: u32,
    row: u32,
}

/// A change of a table: what a record of its topic says.
#[derive(Clone, Copy, Debug)]
pub struct Change<'k> {
    pub key: &'k [u8],
    /// From when on it is valid, in event time.
    pub since: Millis,
    /// Where the record is.
    pub partition: i32,
    pub offset: i64,
    /// The row in the batch that comes with it; `None`: a deletion.
    pub row: Option<u32>,
}

/// One version of a key: from `since` on, the row, or deleted.
#[derive(Clone, Copy, Debug)]
struct Version {
    since: Millis,
    partition: i32,
    offset: i64,
    place: Option<Place>,
}

impl Version {
    /// Versions are ordered by event time; among equal times the position decides.
    fn order(&self) -> (Millis, i32, i64) {
        (self.since, self.partition, self.offset)
    }

    /// A later record of the same partition says something else.
    fn is_replaced(&self, versions: &[Version]) -> bool {
        versions.iter().rev().any(|v| v.partition == self.partition && v.offset > self.offset)
    }
}

/// A table: the current row of every key and, if asked for, its older versions.
#[derive(Debug)]
pub struct Table {
    schema: SchemaRef,
    /// How long older versions of a key are kept behind its newest; `None`: only the latest is kept.
    history: Option<Millis>,
    batches: Vec<RecordBatch>,
    rows: usize,
    index: HashMap<Vec<u8>, Vec<Version>, foldhash::fast::FixedState>,
    live: usize,
    /// The latest event time of any change.
    newest: Millis,
    /// Not every partition was read to its end yet.
    loading: bool,
}

impl Table {
    /// An empty table. `history`: keep versions of a key replaced at most this long (in event time) before its newest.
    pub fn new(schema: SchemaRef, history: Option<Millis>) -> Table {
        let index = HashMap::with_hasher(foldhash::fast::FixedState::default());
        Table { schema, history, batches: Vec::new(), rows: 0, index, live: 0, newest: Millis::MIN, loading: true }
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Number of keys that have a row now.
    pub fn len(&self) -> usize {
        self.index.values().filter(|versions| latest(versions).is_some()).count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes changes, those of a partition in its order; how partitions take turns makes no difference.
    pub fn apply<'k>(&mut self, rows: RecordBatch, changes: impl IntoIterator<Item = Change<'k>>) {
        let changes: Vec<_> = changes.into_iter().collect();
        if changes.is_empty() {
            return;
        }
        let batch = self.batches.len() as u32;
        self.rows += rows.num_rows();
        self.batches.push(rows);
        for Change { key, since, partition, offset, row } in changes {
            self.newest = self.newest.max(since);
            self.put(key, Version { since, partition, offset, place: row.map(|row| Place { batch, row }) });
        }
        // A trickle of small batches costs more for its arrays than for its rows.
        let many = self.batches.len() > MAX_BATCHES.max(self.live / 1_000);
        if many || (self.rows > 1024 && self.rows > 2 * self.live) {
            self.compact();
        }
    }

    /// Every partition was read to its end: deletions have nothing left to meet, unless older versions are kept.
    pub fn loaded(&mut self) {
        self.loading = false;
        self.forget_deleted();
    }

    fn put(&mut self, key: &[u8], version: Version) {
        let versions = self.index.entry_ref(key).or_default();
        let before = versions.len();
        if self.history.is_none() {
            // One per partition: a key moves to another one when partitions are added.
            versions.retain(|v| v.partition != version.partition);
        }
        let at = versions.partition_point(|v| v.order() <= version.order());
        versions.insert(at, version);
        let mut after = versions.len();
        match self.history {
            Some(kept) => {
                prune(versions, kept);
                after = versions.len();
            }
            None if !self.loading && latest(versions).is_none() => {
                self.index.remove(key);
                after = 0;
            }
            None => {}
        }
        self.live = (self.live + after).saturating_sub(before);
    }

    /// Drops keys that are deleted, where no version can come any more that the deletion would have to hide.
    fn forget_deleted(&mut self) {
        let (loading, horizon) = (self.loading, self.history.map(|kept| self.newest.saturating_sub(kept)));
        self.index.retain(|_, versions| match horizon {
            None => loading || latest(versions).is_some(),
            Some(horizon) => loading || versions.iter().any(|v| v.place.is_some() || v.since > horizon),
        });
        self.live = self.index.values().map(Vec::len).sum();
    }

    /// The place of the row of `key`: the latest, or the one valid at `at`.
    pub fn lookup(&self, key: &[u8], at: Option<Millis>) -> Option<Place> {
        let versions = self.index.get(key)?;
        match at {
            None => latest(versions),
            Some(at) => versions.iter().rev().find(|v| v.since <= at)?.place,
        }
    }

    /// The values of column `column` at `places`, null where there is no place.
    pub fn gather(&self, column: usize, places: &[Option<Place>]) -> Result<ArrayRef, ArrowError> {
        let field = self.schema.fields().get(column).ok_or_else(|| ArrowError::SchemaError(format!("no column {column}")))?;
        let data_type = field.data_type();
        if places.iter().all(Option::is_none) {
            return Ok(new_null_array(data_type, places.len()));
        }
        if let [batch] = self.batches.as_slice() {
            let rows: UInt32Array = places.iter().map(|place| place.map(|place| place.row)).collect();
            return take(batch.column(column), &rows, None);
        }
        // Only batches that are referred to: a table kept current by small batches has many.
        let null = new_null_array(data_type, 1);
        let mut arrays: Vec<&dyn Array> = vec![null.as_ref()];
        let mut numbers: HashMap<u32, usize, foldhash::fast::FixedState> = HashMap::default();
        let mut indices = Vec::with_capacity(places.len());
        let mut last = (u32::MAX, 0);
        for place in places {
            let Some(place) = place else {
                indices.push((0, 0));
                continue;
            };
            if place.batch != last.0 {
                let number = *numbers.entry(place.batch).or_insert(arrays.len());
                if number == arrays.len() {
                    let batch = self.batches.get(place.batch as usize);
                    let batch = batch.ok_or_else(|| ArrowError::InvalidArgumentError("a place of another table".into()))?;
                    arrays.push(batch.column(column).as_ref());
                }
                last = (place.batch, number);
            }
            indices.push((last.1, place.row as usize));
        }
        interleave(&arrays, &indices)
    }

    /// Every row valid now, in no particular order.
    pub fn latest(&self) -> Result<RecordBatch, ArrowError> {
        let places: Vec<Option<Place>> = self.index.values().filter_map(|v| latest(v)).map(Some).collect();
        self.project(&places)
    }

    fn project(&self, places: &[Option<Place>]) -> Result<RecordBatch, ArrowError> {
        let columns = (0..self.schema.fields().len()).map(|c| self.gather(c, places)).collect::<Result<Vec<_>, _>>()?;
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(places.len()));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
    }

    /// Folds all batches into one that holds only rows still referred to.
    fn compact(&mut self) {
        self.forget_deleted();
        let places: Vec<Option<Place>> = self.index.values().flatten().filter_map(|v| v.place).map(Some).collect();
        let Ok(folded) = self.project(&places) else { return };
        let mut row = 0;
        for version in self.index.values_mut().flatten() {
            if let Some(place) = &mut version.place {
                *place = Place { batch: 0, row };
                row += 1;
            }
        }
        self.rows = folded.num_rows();
        self.batches = vec![folded];
    }
}

/// Drops what was replaced more than `kept` before the newest version: answers up to there need the version valid
/// at that time. Per key, for a row dated far ahead must not empty the history of the others.
fn prune(versions: &mut Vec<Version>, kept: Millis) {
    let newest = versions.last().map_or(0, |v| v.since);
    let first = versions.partition_point(|v| v.since <= newest.saturating_sub(kept)).saturating_sub(1);
    if first > 0 {
        let last_words: Vec<Version> = versions.iter().take(first).filter(|v| !v.is_replaced(versions)).copied().collect();
        drop(versions.splice(..first, last_words));
    }
}

/// The row of the last record of a key; `None` if that was a deletion. Where several partitions have some, for the key moved
/// when partitions were added, it is the one with the latest time.
fn latest(versions: &[Version]) -> Option<Place> {
    versions.iter().filter(|v| !v.is_replaced(versions)).max_by_key(|v| v.order())?.place
}

/// True for the types a record key can have that tables are looked up by.
pub fn is_record_key(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::Binary | DataType::Int32 | DataType::Int64)
}

/// Appends the bytes that Kafka's own serializers (`StringSerializer`, `IntegerSerializer`, `LongSerializer`,
/// `ByteArraySerializer`) write as the record key for the value in `row`, which must not be null: text as UTF-8, integers
/// big-endian. Nothing is appended for types outside [`is_record_key`], which planning refuses.
pub fn put_record_key(column: &ArrayRef, row: usize, out: &mut Vec<u8>) {
    match column.data_type() {
        DataType::Utf8 => out.extend_from_slice(column.as_string::<i32>().value(row).as_bytes()),
        DataType::Binary => out.extend_from_slice(column.as_binary::<i32>().value(row)),
        DataType::Int32 => out.extend_from_slice(&column.as_primitive::<Int32Type>().value(row).to_be_bytes()),
        DataType::Int64 => out.extend_from_slice(&column.as_primitive::<Int64Type>().value(row).to_be_bytes()),
        _ => {}
    }
}

/// Appends what a table has the row of a key under: [`put_record_key`] of one column, the values of several. False, and nothing
/// appended, if one of them is null: no row has such a key.
pub fn put_key(columns: &[ArrayRef], row: usize, out: &mut Vec<u8>) -> bool {
    if columns.iter().any(|column| column.is_null(row)) {
        return false;
    }
    match columns {
        [one] => put_record_key(one, row, out),
        several => crate::keys::encode(several, row, out),
    }
    true
}

/// The tables of a pipeline by name, as an operator sees them.
pub trait Tables {
    /// Runs `read` on the table called `name`; false if no table has that name. A call rather than a reference, so that the
    /// engine may hold a read lock for just that long.
    fn with(&self, name: &str, read: &mut dyn FnMut(&Table)) -> bool;
}

impl Tables for BTreeMap<String, Table> {
    fn with(&self, name: &str, read: &mut dyn FnMut(&Table)) -> bool {
        self.get(name).map(read).is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::StringArray;
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn table(history: Option<Millis>) -> Table {
        Table::new(Arc::new(Schema::new(vec![Field::new("v", DataType::Utf8, true)])), history)
    }

    fn put(table: &mut Table, key: &str, since: Millis, value: Option<&str>) {
        static OFFSETS: std::sync::atomic::AtomicI64 = std::sync::atomic::AtomicI64::new(0);
        put_at(table, key, since, (0, OFFSETS.fetch_add(1, std::sync::atomic::Ordering::Relaxed)), value);
    }

    fn put_at(table: &mut Table, key: &str, since: Millis, (partition, offset): (i32, i64), value: Option<&str>) {
        let rows = RecordBatch::try_new(table.schema().clone(), vec![Arc::new(StringArray::from(vec![value]))]).unwrap();
        table.apply(rows, [Change { key: key.as_bytes(), since, partition, offset, row: value.map(|_| 0) }]);
    }

    fn get(table: &Table, key: &str, at: Option<Millis>) -> Option<String> {
        let place = table.lookup(key.as_bytes(), at)?;
        Some(table.gather(0, &[Some(place)]).unwrap().as_string::<i32>().value(0).to_string())
    }

    #[test]
    fn latest_wins_and_tombstones_delete() {
        let mut t = table(None);
        put(&mut t, "a", 1, Some("x"));
        put(&mut t, "a", 2, Some("y"));
        assert_eq!(get(&t, "a", None).as_deref(), Some("y"));
        put(&mut t, "a", 3, None);
        assert_eq!(get(&t, "a", None), None);
        assert!(t.is_empty());
        t.loaded();
        assert!(t.index.is_empty(), "nothing is kept of it");
    }

    /// Every order in which two partitions can take turns.
    fn interleavings(a: usize, b: usize) -> Vec<Vec<bool>> {
        if a == 0 || b == 0 {
            return vec![[vec![true; a], vec![false; b]].concat()];
        }
        let with = |first: bool, rest: Vec<Vec<bool>>| rest.into_iter().map(move |rest| [vec![first], rest].concat());
        with(true, interleavings(a - 1, b)).chain(with(false, interleavings(a, b - 1))).collect()
    }

    #[test]
    fn one_answer_however_partitions_take_turns() {
        // Times and values; the deletion at 20 comes after versions that are valid later.
        let a = [(10, Some("x")), (30, Some("z")), (20, None)];
        let b = [(15, Some("y")), (30, Some("w")), (5_000, None), (40, Some("late"))];
        for history in [None, Some(1_000)] {
            let mut answers = std::collections::BTreeSet::new();
            for order in interleavings(a.len(), b.len()) {
                let (mut t, mut at) = (table(history), [0, 0]);
                for first in order {
                    let (partition, records): (usize, &[_]) = if first { (0, &a) } else { (1, &b) };
                    let (since, value) = records[at[partition]];
                    put_at(&mut t, "k", since, (partition as i32, at[partition] as i64), value);
                    at[partition] += 1;
                }
                t.loaded();
                let at: Vec<_> = [4_000, 4_999, 5_000].iter().map(|at| get(&t, "k", Some(*at))).collect();
                answers.insert((get(&t, "k", None), at));
            }
            assert_eq!(answers.len(), 1, "{answers:?}");
        }
    }

    #[test]
    fn a_late_deletion_ends_what_was_before_it_only() {
        let mut t = table(Some(1_000));
        put(&mut t, "a", 10, Some("x"));
        put(&mut t, "a", 30, Some("y"));
        put(&mut t, "a", 20, None);
        assert_eq!(get(&t, "a", Some(15)).as_deref(), Some("x"));
        assert_eq!(get(&t, "a", Some(25)), None);
        assert_eq!(get(&t, "a", Some(30)).as_deref(), Some("y"));
        // A version that comes late does not come back behind a deletion.
        put(&mut t, "b", 20, None);
        t.loaded();
        put(&mut t, "b", 10, Some("x"));
        assert_eq!((get(&t, "b", Some(15)).as_deref(), get(&t, "b", Some(25))), (Some("x"), None));
        // Deletions older than the history are forgotten with the batches they were in.
        put(&mut t, "c", 9_000, Some("z"));
        put(&mut t, "d", 20, None);
        t.compact();
        assert!(t.index.contains_key(b"c".as_slice()) && !t.index.contains_key(b"d".as_slice()));
    }

    #[test]
    fn a_deletion_waits_for_the_partitions_that_are_not_read_yet() {
        let mut t = table(Some(1_000));
        put_at(&mut t, "moved", 5_000, (1, 0), None);
        put_at(&mut t, "other", 90_000, (1, 1), Some("z"));
        t.compact();
        put_at(&mut t, "moved", 4_000, (0, 0), Some("x"));
        t.loaded();
        assert_eq!((get(&t, "moved", None), get(&t, "moved", Some(90_000))), (None, None));
    }

    #[test]
    fn as_of_sees_the_version_in_force() {
        let mut t = table(Some(1_000));
        put(&mut t, "a", 10, Some("x"));
        put(&mut t, "a", 20, Some("y"));
        put(&mut t, "a", 30, None);
        assert_eq!(get(&t, "a", Some(9)), None);
        assert_eq!(get(&t, "a", Some(10)).as_deref(), Some("x"));
        assert_eq!(get(&t, "a", Some(29)).as_deref(), Some("y"));
        assert_eq!(get(&t, "a", Some(30)), None);
        put(&mut t, "a", 5_000, Some("z"));
        assert_eq!(get(&t, "a", Some(4_999)), None, "the tombstone is still in force at the horizon");
        assert_eq!(get(&t, "a", Some(10)), None, "versions before the horizon are gone");
    }

    #[test]
    fn columns_are_gathered_from_few_of_many_batches() {
        let mut t = table(None);
        for n in 0..500 {
            put(&mut t, &format!("k{n}"), 0, Some(&format!("v{n}")));
        }
        assert_eq!(t.batches.len(), 500);
        let keys = ["k7", "none", "k499", "k7", "k8"];
        let places: Vec<Option<Place>> = keys.iter().map(|key| t.lookup(key.as_bytes(), None)).collect();
        let values = t.gather(0, &places).unwrap();
        assert_eq!(values.as_string::<i32>(), &StringArray::from(vec![Some("v7"), None, Some("v499"), Some("v7"), Some("v8")]));
        t.compact();
        let places: Vec<Option<Place>> = keys.iter().map(|key| t.lookup(key.as_bytes(), None)).collect();
        assert_eq!(&t.gather(0, &places).unwrap(), &values, "one batch is taken from directly");
        assert_eq!(t.gather(0, &[None, None]).unwrap().null_count(), 2);
        assert!(t.gather(1, &[]).is_err());
    }

    #[test]
    fn record_keys_are_those_of_kafkas_serializers() {
        let columns: [(ArrayRef, &[u8]); 4] = [
            (Arc::new(StringArray::from(vec!["p-1"])), b"p-1"),
            (Arc::new(arrow::array::BinaryArray::from(vec![&b"\x00\xff"[..]])), b"\x00\xff"),
            (Arc::new(arrow::array::Int32Array::from(vec![-2])), &[0xff, 0xff, 0xff, 0xfe]),
            (Arc::new(arrow::array::Int64Array::from(vec![258])), &[0, 0, 0, 0, 0, 0, 1, 2]),
        ];
        for (column, expected) in columns {
            assert!(is_record_key(column.data_type()));
            let mut key = Vec::new();
            put_record_key(&column, 0, &mut key);
            assert_eq!(key, expected);
        }
        assert!(!is_record_key(&DataType::Float64));
    }

    #[test]
    fn folding_keeps_what_is_referred_to() {
        let mut t = table(None);
        for round in 0..40 {
            for key in 0..100 {
                put(&mut t, &format!("k{key}"), round, Some(&format!("v{round}-{key}")));
            }
        }
        assert_eq!(t.len(), 100);
        assert!(t.rows < 2_000, "{} rows kept for 100 keys", t.rows);
        assert_eq!(get(&t, "k7", None).as_deref(), Some("v39-7"));
    }
}
