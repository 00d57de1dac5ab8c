//! The order of rows that were split across branches: the routes of a `fanout`, or two steps that read one stream.
//!
//! Where branches merge (a step that reads several streams, a repartition topic, a topic that several sinks write), rows
//! are sorted by source offset again. Otherwise they would come branch by branch within each batch, so their order would
//! depend on how many records a poll returned, and results could differ after every restart.
//!
//! Only rows of one batch are sorted, within the task that split it. Rows that passed through another task (other
//! partitions, another repartition topic) have no common order.
//!
//! Several changes of one row can descend from one record, in several branches: of a result that grew to 12 and shrank to 7, +12 and -12
//! went one way, and +7 the other. The offset doesn't tell their order, but the changes do, because at most one row with the same key
//! is there at a time, and what is gone went the way of what was there: in each branch the changes of a key are a -1 of a row from
//! before, rows that came and went, and a +1 of a row that stays, in this order. At most one branch has such a -1 and one such a
//! +1. So the order is restored from the rows themselves, without a column that all streams would carry for it. What came and went in
//! several branches has one order of several that lead to the same rows.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::Int64Type;
use arrow::error::ArrowError;
use operator_core::batch::{OFFSET, is_written};
use operator_core::changes::{self, ADDED, has_changes};
use operator_core::{Origin, Path, keys};

use crate::plan::{Stage, Target, TopicName};

/// The batch of a round that rows descend from, by its arrival.
pub type BatchSeq = u32;

/// Of rows that operators made when time moved: after all batches.
pub const BY_TIME: BatchSeq = BatchSeq::MAX;

/// Rows of one branch.
#[derive(Clone, Debug)]
pub struct BranchRows {
    /// The branch's number.
    pub branch: usize,
    pub seq: BatchSeq,
    pub rows: RecordBatch,
    pub origin: Origin,
}

/// A row's place among those that descend from the same batch: its offset; of changes then a hash of what they are about, and what happened
/// to it with this record. Rows that an operator made when time moved have none, and keep the order in which they came; lint warns if they
/// are merged with others (`no-order`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct MergeKey(BatchSeq, i64, u64, Stay);

/// What a change does to the rows that were there before the record, and to those behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Stay {
    /// A row from before is gone. Rows that are not changes have this, too.
    #[default]
    Ended,
    /// A row came and went.
    Within,
    /// A row came and stays.
    Began,
}

/// The waiting rows, those of different branches merged in source-offset order. `key`: of changes, the columns that say which row they
/// are about.
///
/// # Errors
/// The branches have different columns, which the planner rules out.
pub fn in_order(mut waiting: Vec<BranchRows>, key: Option<&[Path]>) -> Result<Vec<BranchRows>, ArrowError> {
    let one_branch = waiting.windows(2).all(|pair| matches!(pair, [a, b] if a.branch == b.branch));
    if one_branch {
        return Ok(waiting);
    }
    waiting.sort_by_key(|branch| branch.seq);
    // Rows made by time have no offsets to sort by, and keep the origin of their own step.
    let timed = waiting.split_off(waiting.partition_point(|branch| branch.seq < BY_TIME));
    let mut merged = waiting.chunk_by(|a, b| a.seq == b.seq).map(|of| merged(of, key)).collect::<Result<Vec<_>, _>>()?;
    merged.extend(timed);
    Ok(merged)
}

fn merged(branches: &[BranchRows], key: Option<&[Path]>) -> Result<BranchRows, ArrowError> {
    let first = branches.first().ok_or_else(|| ArrowError::InvalidArgumentError("nothing to merge".into()))?;
    if branches.len() == 1 {
        return Ok(first.clone());
    }
    let rows = concat_batches(&first.rows.schema(), branches.iter().map(|branch| &branch.rows))?;
    let of = branches.iter().flat_map(|branch| std::iter::repeat_n(branch.branch, branch.rows.num_rows()));
    let keys = merge_keys(&rows, first.seq, key, of);
    if keys.is_sorted() {
        return Ok(BranchRows { rows, ..first.clone() });
    }
    let mut order: Vec<u32> = (0..rows.num_rows() as u32).collect();
    order.sort_by_key(|row| keys.get(*row as usize));
    Ok(BranchRows { rows: take_record_batch(&rows, &UInt32Array::from(order))?, ..first.clone() })
}

/// The merge key of every row. Offsets below 0 are none: rows that an operator made keep the order in which they came. `key`: of changes,
/// the columns that say which row they are about. `branches`: that of each row, the rows of each in their order.
pub fn merge_keys(rows: &RecordBatch, seq: BatchSeq, key: Option<&[Path]>, branches: impl Iterator<Item = usize>) -> Vec<MergeKey> {
    let offsets = rows.column_by_name(OFFSET).and_then(|c| c.as_primitive_opt::<Int64Type>()).map(|c| c.values().as_ref());
    let at = |row: usize| offsets.and_then(|offsets: &[i64]| offsets.get(row)).copied().unwrap_or(-1);
    let mut found: Vec<MergeKey> = (0..rows.num_rows()).map(|row| MergeKey(seq, at(row).max(-1), 0, Stay::Ended)).collect();
    let Some(signs) = changes::of(rows) else { return found };
    let (columns, by_key) = (about(rows, key), key.is_some());
    let mut bytes = Vec::new();
    // The rows that are there by what was read so far: the last one of each branch and key, and the one before.
    let (mut there, mut before): (HashMap<(usize, i64, u64), Option<usize>>, _) = (HashMap::new(), vec![None; found.len()]);
    for ((row, sign), branch) in signs.values().iter().enumerate().zip(branches) {
        let offset = at(row);
        if offset < 0 {
            continue;
        }
        bytes.clear();
        keys::encode(&columns, row, &mut bytes);
        let mut hasher = DefaultHasher::new();
        hasher.write(&bytes);
        let hash = hasher.finish();
        let last = there.entry((branch, offset, hash)).or_default();
        let (stay, came) = match *last {
            _ if *sign == ADDED => {
                if let Some(before) = before.get_mut(row) {
                    *before = last.replace(row);
                }
                (Stay::Began, None)
            }
            Some(came) => {
                *last = before.get(came).copied().flatten();
                (Stay::Within, Some(came))
            }
            None => (Stay::Ended, None),
        };
        if let Some(key) = found.get_mut(row) {
            // Rows without a key may be an update of any other: what is gone comes first.
            (key.2, key.3) = (if by_key { hash } else { 0 }, stay);
        }
        if let Some(key) = came.and_then(|came| found.get_mut(came)) {
            key.3 = Stay::Within;
        }
    }
    found
}

/// What changes are about: the columns of their key, or without one all that a row has.
fn about(rows: &RecordBatch, key: Option<&[Path]>) -> Vec<ArrayRef> {
    let schema = rows.schema_ref();
    let of_key = key.and_then(|key| key.iter().map(|path| path.values(schema.fields(), rows.columns())).collect());
    let all = || schema.fields().iter().zip(rows.columns()).filter(|(field, _)| is_written(field.name())).map(|(_, column)| column.clone());
    of_key.unwrap_or_else(|| all().collect())
}

/// The rows of each of the outputs in one piece per batch, where they are changes that share a topic with others: what happened to a
/// row with one record is not seen in parts.
///
/// # Errors
/// An output has rows of different columns, which the task rules out.
pub fn in_one_piece(branches: Vec<BranchRows>, is_shared: impl Fn(usize) -> bool) -> Result<Vec<BranchRows>, ArrowError> {
    let mut pieces: Vec<(BranchRows, Vec<RecordBatch>)> = Vec::with_capacity(branches.len());
    for branch in branches {
        let whole = is_shared(branch.branch) && has_changes(branch.rows.schema_ref());
        let same = |other: &BranchRows| (other.branch, other.seq, &other.origin) == (branch.branch, branch.seq, &branch.origin);
        match pieces.iter_mut().find(|(first, _)| whole && same(first)) {
            Some((_, more)) => more.push(branch.rows),
            None => pieces.push((branch, Vec::new())),
        }
    }
    let joined = |(first, more): (BranchRows, Vec<RecordBatch>)| match more.as_slice() {
        [] => Ok(first),
        more => Ok(BranchRows { rows: concat_batches(&first.rows.schema(), std::iter::once(&first.rows).chain(more))?, ..first }),
    };
    pieces.into_iter().map(joined).collect()
}

/// For each output of a stage: whether another one may write the same topic.
pub fn shared_topics(stage: &Stage) -> Vec<bool> {
    let topic = |output: usize| match stage.outputs.get(output).map(|output| &output.target) {
        Some(Target::Topic(sink)) => Some(&sink.topic),
        _ => None,
    };
    let may_be = |a: &TopicName, b: &TopicName| match (a, b) {
        (name, TopicName::Fixed(topic)) | (TopicName::Fixed(topic), name) => name.covers(topic),
        (TopicName::Column(..), TopicName::Column(..)) => true,
    };
    let same = |a: usize, b: usize| a != b && topic(a).zip(topic(b)).is_some_and(|(a, b)| may_be(a, b));
    let outputs = 0..stage.outputs.len();
    outputs.clone().map(|output| outputs.clone().any(|other| same(output, other))).collect()
}

/// Rows that go through one repartition topic by several outputs of a stage, in order, as if by the first of these.
///
/// # Errors
/// As [`in_order`].
pub fn merge_repartitions(stage: &Stage, branches: Vec<BranchRows>) -> Result<Vec<BranchRows>, ArrowError> {
    let topic = |output: usize| match stage.outputs.get(output).map(|o| &o.target) {
        Some(Target::Repartition { topic, .. }) => Some(topic),
        _ => None,
    };
    let first = |output: usize| (0..output).find(|other| topic(output).is_some() && topic(*other) == topic(output)).unwrap_or(output);
    if (0..stage.outputs.len()).all(|output| first(output) == output) {
        return Ok(branches);
    }
    let (mut out, mut done) = (Vec::with_capacity(branches.len()), Vec::new());
    for branch in &branches {
        let output = first(branch.branch);
        if done.contains(&output) {
            continue;
        }
        done.push(output);
        let same: Vec<BranchRows> = branches.iter().filter(|other| first(other.branch) == output).cloned().collect();
        let key = stage.outputs.get(output).and_then(|output| output.mode.key());
        out.extend(in_order(same, key)?.into_iter().map(|branch| BranchRows { branch: output, ..branch }));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int8Array, Int64Array, StringArray};

    use super::*;

    fn branch(branch: usize, seq: BatchSeq, offsets: &[i64]) -> BranchRows {
        let column: ArrayRef = Arc::new(Int64Array::from(offsets.to_vec()));
        let rows = RecordBatch::try_from_iter([(OFFSET, column)]).unwrap();
        BranchRows { branch, seq, rows, origin: Origin { topic: "t".into(), partition: 0, from: -1, to: 9 } }
    }

    fn offsets(waiting: Vec<BranchRows>) -> Vec<Vec<i64>> {
        let of = |branch: BranchRows| branch.rows.column(0).as_primitive::<Int64Type>().values().to_vec();
        in_order(waiting, None).unwrap().into_iter().map(of).collect()
    }

    #[test]
    fn rows_meet_in_the_order_of_their_source() {
        let found = offsets(vec![branch(0, 0, &[1, 4]), branch(0, 1, &[6]), branch(1, 0, &[2, 3]), branch(1, 1, &[5])]);
        assert_eq!(found, [vec![1, 2, 3, 4], vec![5, 6]]);
    }

    /// Changes of one column: offset, key, sign. `-` is of the row that the last `+` of its key brought.
    fn changed(number: usize, rows: &[(i64, &str, i8)]) -> BranchRows {
        let offsets: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|(offset, ..)| *offset)));
        let keys: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|(_, key, _)| *key)));
        let signs: ArrayRef = Arc::new(Int8Array::from_iter_values(rows.iter().map(|(.., sign)| *sign)));
        let which: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|_| number as i64)));
        let columns = [("key", keys), ("which", which), (OFFSET, offsets), (changes::CHANGE, signs)];
        BranchRows { rows: RecordBatch::try_from_iter(columns).unwrap(), ..branch(number, 0, &[]) }
    }

    /// Branch and sign of the changes of a key.
    fn of_key(rows: &RecordBatch, key: &str) -> Vec<(i64, i8)> {
        let (keys, signs) = (rows.column(0).as_string::<i32>(), changes::of(rows).unwrap());
        let which = rows.column(1).as_primitive::<Int64Type>();
        (0..rows.num_rows()).filter(|row| keys.value(*row) == key).map(|row| (which.value(row), signs.value(row))).collect()
    }

    #[test]
    fn changes_of_one_record_are_in_an_order_that_leaves_the_row_which_stays() {
        let by: &[Path] = &[Path::column("key")];
        for key in [Some(by), None] {
            // An update whose rows took two paths, in either order; one that time made has no order.
            let rows =
                vec![changed(0, &[(1, "a", 1), (2, "a", -1), (-1, "b", 1)]), changed(1, &[(1, "a", -1), (2, "a", 1), (-1, "b", -1)])];
            let merged = in_order(rows, key).unwrap();
            assert_eq!(of_key(&merged[0].rows, "a"), [(1, -1), (0, 1), (0, -1), (1, 1)]);
            assert_eq!(of_key(&merged[0].rows, "b"), [(0, 1), (1, -1)]);
            // +12 and -12 came and went the one way, +7 the other.
            let merged = in_order(vec![changed(0, &[(1, "a", 1)]), changed(1, &[(1, "a", 1), (1, "a", -1)])], key).unwrap();
            assert_eq!(of_key(&merged[0].rows, "a"), [(1, 1), (1, -1), (0, 1)]);
            // The same with a row from before, which came back.
            let rows = vec![changed(0, &[(1, "a", 1), (1, "a", -1)]), changed(1, &[(1, "a", -1), (1, "a", 1)])];
            assert_eq!(of_key(&in_order(rows, key).unwrap()[0].rows, "a"), [(1, -1), (0, 1), (0, -1), (1, 1)]);
            // In parts, as a step may emit them.
            let rows = vec![changed(1, &[(1, "a", 1)]), changed(0, &[(1, "a", 1)]), changed(1, &[(1, "a", -1)])];
            assert_eq!(of_key(&in_order(rows, key).unwrap()[0].rows, "a"), [(1, 1), (1, -1), (0, 1)]);
        }
        // The two rows of an update stay together if the record updates several keys.
        let rows = vec![changed(0, &[(1, "a", -1), (1, "b", 1)]), changed(1, &[(1, "a", 1), (1, "b", -1)])];
        let merged = in_order(rows, Some(by)).unwrap();
        assert_eq!(changes::of(&merged[0].rows).unwrap().values(), &[-1, 1, -1, 1]);
    }

    #[test]
    fn a_topic_that_others_write_gets_the_changes_of_a_batch_as_a_whole() {
        let rows = || vec![changed(0, &[(1, "a", 1)]), changed(1, &[(1, "b", 1)]), changed(0, &[(1, "a", -1)])];
        let lengths = |shared: bool| {
            let pieces = in_one_piece(rows(), |_| shared).unwrap();
            pieces.iter().map(|piece| (piece.branch, piece.rows.num_rows())).collect::<Vec<_>>()
        };
        assert_eq!(lengths(false), [(0, 1), (1, 1), (0, 1)]);
        assert_eq!(lengths(true), [(0, 2), (1, 1)]);
    }

    #[test]
    fn rows_that_time_made_come_behind_them() {
        assert_eq!(
            offsets(vec![branch(1, BY_TIME, &[-1, -1]), branch(0, 0, &[7]), branch(2, BY_TIME, &[-1])]),
            [vec![7], vec![-1, -1], vec![-1]]
        );
    }

    #[test]
    fn rows_that_operators_made_keep_their_order() {
        let made = offsets(vec![branch(0, 0, &[-3, -9, -2]), branch(1, 0, &[4])]);
        assert_eq!(made, [vec![-3, -9, -2, 4]]);
    }

    #[test]
    fn one_branch_stays_as_it_is() {
        assert_eq!(offsets(vec![branch(3, 0, &[5]), branch(3, 0, &[2])]), [vec![5], vec![2]]);
    }
}
