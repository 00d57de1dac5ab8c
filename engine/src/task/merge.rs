//! The order of rows that were split across branches: the routes of a `fanout`, or two steps that read one stream.
//!
//! Where branches merge (a step that reads several streams, a repartition topic, a topic that several sinks write), rows
//! are sorted by source offset again. Otherwise they would come branch by branch within each batch, so their order would
//! depend on how many records a poll returned, and results could differ after every restart.
//!
//! Only rows of one batch are sorted, within the task that split it. Rows that passed through another task (other
//! partitions, another repartition topic) have no common order.

use std::collections::HashMap;

use arrow::array::{AsArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::Int64Type;
use arrow::error::ArrowError;
use operator_core::batch::OFFSET;
use operator_core::{Origin, changes};

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

/// A row's place among those that descend from the same batch: its offset, and of an update the row that is gone before the new one. Rows
/// that an operator made when time moved have none, and keep the order in which they came; lint warns if they are merged with others
/// (`no-order`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct MergeKey(BatchSeq, i64, i8);

/// The waiting rows, those of different branches merged in source-offset order.
///
/// # Errors
/// The branches have different columns, which the planner rules out.
pub fn in_order(mut waiting: Vec<BranchRows>) -> Result<Vec<BranchRows>, ArrowError> {
    let one_branch = waiting.windows(2).all(|pair| matches!(pair, [a, b] if a.branch == b.branch));
    if one_branch {
        return Ok(waiting);
    }
    waiting.sort_by_key(|branch| branch.seq);
    // Rows made by time have no offsets to sort by, and keep the origin of their own step.
    let timed = waiting.split_off(waiting.partition_point(|branch| branch.seq < BY_TIME));
    let mut merged = waiting.chunk_by(|a, b| a.seq == b.seq).map(merged).collect::<Result<Vec<_>, _>>()?;
    merged.extend(timed);
    Ok(merged)
}

fn merged(branches: &[BranchRows]) -> Result<BranchRows, ArrowError> {
    let first = branches.first().ok_or_else(|| ArrowError::InvalidArgumentError("nothing to merge".into()))?;
    if branches.len() == 1 {
        return Ok(first.clone());
    }
    let rows = concat_batches(&first.rows.schema(), branches.iter().map(|branch| &branch.rows))?;
    let keys = merge_keys(&rows, first.seq);
    if keys.is_sorted() {
        return Ok(BranchRows { rows, ..first.clone() });
    }
    let mut order: Vec<u32> = (0..rows.num_rows() as u32).collect();
    order.sort_by_key(|row| keys.get(*row as usize));
    Ok(BranchRows { rows: take_record_batch(&rows, &UInt32Array::from(order))?, ..first.clone() })
}

/// The merge key of every row. Offsets below 0 are none: rows that an operator made keep the order in which they came.
pub fn merge_keys(rows: &RecordBatch, seq: BatchSeq) -> Vec<MergeKey> {
    let offsets = rows.column_by_name(OFFSET).and_then(|c| c.as_primitive_opt::<Int64Type>()).map(|c| c.values().as_ref());
    let at = |row: usize| offsets.and_then(|offsets: &[i64]| offsets.get(row)).copied().unwrap_or(-1);
    let signs = changes::of(rows).map(|signs| signs.values().as_ref()).unwrap_or_default();
    // How many rows of an offset are gone and there: of several updates, each is a step that must follow the one before.
    let mut counts: HashMap<i64, [u32; 2]> = HashMap::new();
    for (row, sign) in signs.iter().enumerate() {
        let [gone, there] = counts.entry(at(row)).or_default();
        *(if *sign < 0 { gone } else { there }) += 1;
    }
    let sign = |row: usize| match counts.get(&at(row)) {
        Some([0 | 1, 0 | 1]) => signs.get(row).copied().unwrap_or_default(),
        _ => 0,
    };
    let key = |row: usize| match at(row) {
        offset if offset < 0 => MergeKey(seq, -1, 0),
        offset => MergeKey(seq, offset, sign(row)),
    };
    (0..rows.num_rows()).map(key).collect()
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
        out.extend(in_order(same)?.into_iter().map(|branch| BranchRows { branch: output, ..branch }));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int8Array, Int64Array};

    use super::*;

    fn branch(branch: usize, seq: BatchSeq, offsets: &[i64]) -> BranchRows {
        let column: ArrayRef = Arc::new(Int64Array::from(offsets.to_vec()));
        let rows = RecordBatch::try_from_iter([(OFFSET, column)]).unwrap();
        BranchRows { branch, seq, rows, origin: Origin { topic: "t".into(), partition: 0, from: -1, to: 9 } }
    }

    fn offsets(waiting: Vec<BranchRows>) -> Vec<Vec<i64>> {
        let of = |branch: BranchRows| branch.rows.column(0).as_primitive::<Int64Type>().values().to_vec();
        in_order(waiting).unwrap().into_iter().map(of).collect()
    }

    #[test]
    fn rows_meet_in_the_order_of_their_source() {
        let found = offsets(vec![branch(0, 0, &[1, 4]), branch(0, 1, &[6]), branch(1, 0, &[2, 3]), branch(1, 1, &[5])]);
        assert_eq!(found, [vec![1, 2, 3, 4], vec![5, 6]]);
    }

    #[test]
    fn of_a_change_what_is_gone_comes_first_whatever_the_branch() {
        let branch = |number: usize, rows: &[(i64, i8)]| {
            let offsets: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|(offset, _)| *offset)));
            let signs: ArrayRef = Arc::new(Int8Array::from_iter_values(rows.iter().map(|(_, sign)| *sign)));
            BranchRows {
                rows: RecordBatch::try_from_iter([(OFFSET, offsets), (changes::CHANGE, signs)]).unwrap(),
                ..branch(number, 0, &[])
            }
        };
        let merged = in_order(vec![branch(0, &[(1, 1), (2, 1), (-1, 1)]), branch(1, &[(1, -1), (2, -1), (-1, -1)])]).unwrap();
        assert_eq!(changes::of(&merged[0].rows).unwrap().values(), &[1, -1, -1, 1, -1, 1]);
        // A result that changed twice with one record: each change follows the one before.
        let merged = in_order(vec![branch(0, &[(1, -1), (1, 1), (1, -1)]), branch(1, &[(0, 1)])]).unwrap();
        assert_eq!(changes::of(&merged[0].rows).unwrap().values(), &[1, -1, 1, -1]);
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
