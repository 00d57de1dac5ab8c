//! The state machine: a change of one side in, changes of the results out.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::buffer::NullBuffer;
use arrow::error::ArrowError;
use operator_core::batch::{SystemColumns, SystemRow};
use operator_core::changes::{ADDED, GONE};
use operator_core::stores::{KeyedRow, KeyedRows, RowReader, RowWriter, too_large};
use operator_core::{Batch, Context, Input, Millis, Operator, Path, Port, StateError, keys, memory};

use super::plan::TablePlan;
use crate::plan::Side;
use crate::results::{Failed, Results};

/// The most rows in one emitted batch, about.
const MAX_ROWS: usize = 8192;
/// About what a result takes in memory beside its columns.
const RESULT: usize = 64;

/// One join of two streams of changes in one partition.
#[derive(Debug)]
pub struct TableJoin {
    plan: Arc<TablePlan>,
    rows: [KeyedRows; 2],
}

/// A batch of one side, with everything that was computed from it.
struct Rows<'a> {
    key: Vec<ArrayRef>,
    id: Vec<ArrayRef>,
    writer: RowWriter,
    system: SystemColumns<'a>,
    count: usize,
}

/// A row of a side.
#[derive(Clone, Debug, Default, PartialEq)]
struct Kept {
    time: Millis,
    row: Vec<u8>,
}

/// A change of one row: where it is, and what it is from now on.
struct Change<'c> {
    side: usize,
    group: &'c [u8],
    id: &'c [u8],
    /// A column of `on` is null, so nothing is equal to it.
    matches_nothing: bool,
    new: Option<Kept>,
    /// The row that made the change: its time, watermark and offset.
    of: SystemRow,
}

fn broken(e: ArrowError) -> StateError {
    StateError::new(format!("the results of a join can't be built: {e}"))
}

impl TableJoin {
    pub fn new(plan: Arc<TablePlan>) -> TableJoin {
        TableJoin { rows: plan.rows(), plan }
    }

    /// Replaces a row in state and adds what that changes in the results. True if there was a row before.
    fn change(&self, change: &Change<'_>, results: &mut Made<'_>, cx: &mut Context<'_>) -> Result<bool, StateError> {
        let Change { side, group, id, new, .. } = change;
        let (own, other) = (&self.rows[*side], &self.rows[1 - side]);
        let mut old = Kept::default();
        let before = own.get(group, id, &*cx.state(), &mut old.row)?;
        let old = before.map(|time| Kept { time, ..old });
        match (&old, new) {
            (None, None) => return Ok(false),
            (Some(old), Some(new)) if old == new => return Ok(true),
            (_, Some(new)) => own.put(group, &KeyedRow { id, time: new.time, row: &new.row }, cx.state())?,
            (Some(_), None) => own.delete(group, id, cx.state())?,
        }
        let outer = self.plan.join.sides.each_ref().map(|side| side.outer);
        // Whether rows of the other side match a row beside this one; it matters where there is no row before or after.
        let mut others = false;
        if outer[1 - side] && !change.matches_nothing && (old.is_none() || new.is_none()) {
            own.rows(group, &*cx.state(), &mut |row| {
                others = row.id != *id;
                !others
            })?;
        }
        // What a row of the other side is a result with: this row, nothing, or no result.
        let with = |row| match row {
            Some(row) => Some(Some(row)),
            None if outer[1 - side] && !others => Some(None),
            None => None,
        };
        let (gone, there) = (with(old.as_ref()), with(new.as_ref()));
        let (mut matched, mut failure) = (false, None);
        if !change.matches_nothing {
            other.rows(group, &*cx.state(), &mut |row| {
                matched = true;
                let mut add = |own: Option<Option<&Kept>>, sign| match own {
                    Some(own) => results.push(change, own, Some((row.time, row.row)), sign),
                    None => Ok(()),
                };
                failure = add(gone, GONE).and_then(|()| add(there, ADDED)).and_then(|()| results.build_if_full()).err();
                failure.is_none()
            })?;
        }
        if let Some(failure) = failure {
            return Err(failure);
        }
        if !matched && outer[*side] {
            for (row, sign) in [(&old, GONE), (new, ADDED)] {
                if let Some(row) = row {
                    results.push(change, Some(row), None, sign)?;
                }
            }
        }
        Ok(old.is_some())
    }
}

impl Operator for TableJoin {
    fn on_batch(&mut self, input: Input, batch: &Batch, cx: &mut Context<'_>) -> Result<(), StateError> {
        let plan = self.plan.clone();
        let side = usize::from(input.0 != 0);
        let rows = Rows::new(&plan, side, batch)?;
        let outer = plan.join.sides[side].outer;
        let mut results = Made::new(&plan)?;
        let (mut passed, mut unknown) = (0, 0);
        let mut at = (Vec::new(), Vec::new());
        let mut index = 0;
        while index < rows.count {
            let first = index;
            let pair = rows.is_update(first);
            // The row that decides what is in state from now on.
            let last = first + usize::from(pair);
            index = last + 1;
            let matches_nothing = rows.key.iter().any(|column| column.is_null(first));
            if matches_nothing && !outer {
                unknown += index - first;
                continue;
            }
            rows.put_key(first, &mut at);
            let of = rows.system.row(last);
            let mut new = (of.change == ADDED).then(|| rows.kept(last));
            if let Some(cause) = new.as_ref().and_then(|new| too_large(&[at.0.as_slice(), &at.1].concat(), &new.row)) {
                cx.reject(batch, last, cause);
                new = None;
            }
            let holds = new.is_some();
            let goes = rows.system.row(first).change == GONE;
            let change = Change { side, group: &at.0, id: &at.1, matches_nothing, new, of };
            let known = self.change(&change, &mut results, cx)?;
            cx.hold(holds.into());
            cx.release(known.into());
            match goes && !known {
                true => unknown += 1,
                false => passed += usize::from(goes),
            }
            results.build_if_full()?;
            results.emit(cx);
        }
        results.build()?;
        results.emit(cx);
        cx.filtered(unknown);
        cx.pass(Port::OUT, RecordBatch::new_empty(plan.join.output.clone()), passed);
        Ok(())
    }
}

impl<'a> Rows<'a> {
    fn new(plan: &TablePlan, side: usize, batch: &'a Batch) -> Result<Rows<'a>, StateError> {
        let id = &plan.ids[side];
        let Side { schema, key, user, codec, .. } = &plan.join.sides[side];
        let columns = batch.rows.columns();
        let values = |paths: &[Path]| {
            let values = paths.iter().map(|path| path.values(schema.fields(), columns).as_ref().map(keys::canonical));
            values.collect::<Option<Vec<ArrayRef>>>().ok_or_else(|| StateError::new("the batch has no key columns"))
        };
        let user: Vec<ArrayRef> = user.iter().filter_map(|place| columns.get(*place)).cloned().collect();
        Ok(Rows { key: values(key)?, id: values(id)?, writer: codec.writer(&user)?, system: batch.system()?, count: batch.num_rows() })
    }

    /// The row under `index` is gone, and the next one is what it is now, in the same place.
    fn is_update(&self, index: usize) -> bool {
        if !self.system.is_update(index) {
            return false;
        }
        let (mut a, mut b) = Default::default();
        self.put_key(index, &mut a);
        self.put_key(index + 1, &mut b);
        a == b
    }

    /// The encoded columns of `on` and of the row's own key.
    fn put_key(&self, index: usize, (group, id): &mut (Vec<u8>, Vec<u8>)) {
        group.clear();
        id.clear();
        keys::encode(&self.key, index, group);
        keys::encode(&self.id, index, id);
    }

    fn kept(&self, index: usize) -> Kept {
        let mut row = Vec::new();
        self.writer.put(index, &mut row);
        Kept { time: self.system.row(index).time, row }
    }
}

/// Results that were not emitted yet.
struct Made<'p> {
    plan: &'p TablePlan,
    sides: [RowReader; 2],
    there: [Vec<bool>; 2],
    times: [Vec<Millis>; 2],
    of: Vec<SystemRow>,
    changes: Vec<i8>,
    ready: Vec<(RecordBatch, Vec<Failed>)>,
}

impl<'p> Made<'p> {
    fn new(plan: &'p TablePlan) -> Result<Made<'p>, StateError> {
        let [left, right] = &plan.join.sides;
        let sides = [left.codec.reader()?, right.codec.reader()?];
        let (there, times, of) = Default::default();
        Ok(Made { plan, sides, there, times, of, changes: Vec::new(), ready: Vec::new() })
    }

    /// Adds a change of the result of a row of the side that changed and one of the other side.
    fn push(&mut self, change: &Change<'_>, own: Option<&Kept>, other: Option<(Millis, &[u8])>, sign: i8) -> Result<(), StateError> {
        let own = own.map(|own| (own.time, own.row.as_slice()));
        let size = [own, other].into_iter().flatten().map(|(_, row)| row.len()).sum::<usize>();
        memory::keep(size + RESULT).map_err(|e| StateError::new(e.to_string()))?;
        let by_side = if change.side == 0 { [own, other] } else { [other, own] };
        for (side, row) in by_side.into_iter().enumerate() {
            match row {
                Some((_, row)) => self.sides[side].push(row)?,
                None => self.sides[side].push_nulls(),
            }
            self.there[side].push(row.is_some());
            self.times[side].push(row.map_or(Millis::MIN, |(time, _)| time));
        }
        self.of.push(change.of);
        self.changes.push(sign);
        Ok(())
    }

    fn build_if_full(&mut self) -> Result<(), StateError> {
        if self.of.len() >= MAX_ROWS { self.build() } else { Ok(()) }
    }

    /// Makes a batch of what there is. The results of a change have its offset, so that changes of one row stay in order.
    fn build(&mut self) -> Result<(), StateError> {
        if self.of.is_empty() {
            return Ok(());
        }
        let of = std::mem::take(&mut self.of);
        let [left, right] = &mut self.sides;
        let results = Results {
            sides: [Some(left.take()?), Some(right.take()?)],
            there: std::mem::take(&mut self.there).map(|there| Some(NullBuffer::from(there)).filter(|nulls| nulls.null_count() > 0)),
            times: std::mem::take(&mut self.times),
            watermarks: of.iter().map(|of| of.watermark).collect(),
            positions: of.iter().map(|of| of.offset).collect(),
            futures: of.iter().map(|of| of.future).collect(),
            changes: Some(std::mem::take(&mut self.changes)),
        };
        self.ready.push(results.build(&self.plan.join).map_err(broken)?);
        Ok(())
    }

    fn emit(&mut self, cx: &mut Context<'_>) {
        for (rows, failed) in self.ready.drain(..) {
            cx.emit(Port::OUT, rows);
            failed.into_iter().for_each(|failed| cx.reject_result(failed.row, failed.cause, 0));
        }
    }
}
