//! The join as a state machine: rows in, pairs out, rows without a match when their time is over.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::take;
use arrow::error::ArrowError;
use operator_core::batch::{FUTURE, OFFSET, SystemColumns, SystemRow, TIME, WATERMARK};
use operator_core::stores::{Due, Number, RowReader, RowWriter, TimeQueue, TimedRow, TimedRows, put_sequence, too_large};
use operator_core::{Batch, Context, Input, Millis, NO_WATERMARK, Operator, Port, Progress, StateError, Time, keys, memory};

use crate::plan::JoinPlan;
use crate::results::{Results, position};

/// The port of rows that came too late.
const LATE: Port = Port(1);
/// The most rows in one emitted batch.
const MAX_ROWS: usize = 8192;
/// Flags of a row in state: it has matched, and its time is not believed.
const MATCHED: u8 = 1;
const DISTRUSTED: u8 = 2;
/// About what a pair takes in memory beside its columns.
const PAIR: usize = 64;
/// Bytes of the number at the end of a sequence, which tells rows of one record apart and depends on arrival.
const NUMBER: usize = 8;

/// One join in one partition.
#[derive(Debug)]
pub struct JoinOperator {
    plan: Arc<JoinPlan>,
    rows: [TimedRows; 2],
    /// Rows that have matched nothing so far, of sides whose unmatched rows come out.
    unmatched: [TimeQueue; 2],
    /// Rows so far.
    count: Number,
}

/// A batch of one side, with everything that was computed from it.
struct Rows<'a> {
    batch: &'a Batch,
    user: Vec<ArrayRef>,
    key: Vec<ArrayRef>,
    writer: RowWriter,
    system: SystemColumns<'a>,
}

/// A row of the batch.
struct Row<'a> {
    index: usize,
    time: Millis,
    watermark: Millis,
    future: bool,
    key: &'a [u8],
    sequence: &'a [u8],
    row: &'a [u8],
}

/// Pairs that were not emitted yet.
struct Pairs {
    /// Rows of the batch, and those of the other side in the same order.
    own: Vec<u32>,
    other: RowReader,
    own_times: Vec<Millis>,
    other_times: Vec<Millis>,
    watermarks: Vec<Millis>,
    positions: Vec<i64>,
    futures: Vec<bool>,
}

fn broken(e: ArrowError) -> StateError {
    StateError::new(format!("the results of a join can't be built: {e}"))
}

/// A sequence without what depends on arrival.
fn place(sequence: &[u8]) -> &[u8] {
    sequence.get(..sequence.len().saturating_sub(NUMBER)).unwrap_or_default()
}

/// `of`, or the two in the order of the sides if `side` is the first.
fn by_side<T>(side: usize, own: T, other: T) -> [T; 2] {
    if side == 0 { [own, other] } else { [other, own] }
}

impl JoinOperator {
    pub fn new(plan: Arc<JoinPlan>) -> JoinOperator {
        JoinOperator { rows: plan.rows(), unmatched: plan.unmatched(), count: Number::new(0), plan }
    }

    /// Adds the pairs of `row` to `pairs`; true if there are any.
    fn pair(&mut self, side: usize, row: &Row<'_>, pairs: &mut Pairs, cx: &mut Context<'_>) -> Result<bool, StateError> {
        let (own, other) = (&self.plan.sides[side], 1 - side);
        let range = (row.time.saturating_sub(own.before), row.time.saturating_add(own.after));
        let mut first: Vec<(Millis, Vec<u8>, u8, Vec<u8>)> = Vec::new();
        let (mut found, mut failure) = (false, None);
        self.rows[other].rows(row.key, range, &*cx.state(), &mut |stored| {
            found = true;
            if stored.flags & MATCHED == 0 {
                first.push((stored.time, stored.sequence.to_vec(), stored.flags, stored.row.to_vec()));
            }
            failure = pairs.push(side, row, &stored).err();
            failure.is_none()
        })?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        for (time, sequence, flags, stored) in &first {
            let matched = TimedRow { key: row.key, time: *time, sequence, flags: flags | MATCHED, row: stored };
            self.rows[other].put(&matched, cx.state())?;
            if self.plan.sides[other].outer {
                self.unmatched[other].delete(*time, row.key, sequence, cx.state())?;
            }
        }
        Ok(found)
    }

    fn keep(&mut self, side: usize, row: &Row<'_>, matched: bool, cx: &mut Context<'_>) -> Result<(), StateError> {
        let flags = if matched { MATCHED } else { 0 } | if row.future { DISTRUSTED } else { 0 };
        let kept = TimedRow { key: row.key, time: row.time, sequence: row.sequence, flags, row: row.row };
        self.rows[side].put(&kept, cx.state())?;
        if self.plan.sides[side].outer && !matched {
            let due = Due { time: row.time, key: row.key, sequence: row.sequence, flags: 0, row: &[] };
            self.unmatched[side].put(&due, cx.state())?;
        }
        cx.hold(1);
        Ok(())
    }

    /// Emits rows of a side that can't be matched any more and have not been, before `before`, at most `most` of them. The number
    /// of them, and whether there are more.
    fn release_unmatched(
        &mut self,
        side: usize,
        before: Millis,
        most: usize,
        emitted: Millis,
        cx: &mut Context<'_>,
    ) -> Result<(usize, bool), StateError> {
        let due = self.unmatched[side].take_before(before, most, cx.state())?;
        let plan = self.plan.clone();
        let mut reader = plan.sides[side].codec.reader()?;
        let (mut times, mut positions, mut futures) = (Vec::new(), Vec::new(), Vec::new());
        let (mut taken, mut stored) = (0, Vec::new());
        for due in due.iter() {
            let due = due?;
            taken += 1;
            let flags = self.rows[side].get(due.key, due.time, due.sequence, &*cx.state(), &mut stored)?;
            let Some(flags) = flags.filter(|flags| flags & MATCHED == 0) else {
                // Without transactions a crash can leave the entry alone, of a row that has come out or has matched.
                continue;
            };
            reader.push(&stored)?;
            futures.push(flags & DISTRUSTED != 0);
            times.push(due.time);
            positions.push(position(by_side(side, place(due.sequence), [].as_slice())));
            self.rows[side].delete(due.key, due.time, due.sequence, cx.state())?;
        }
        let rows = times.len();
        if rows > 0 {
            let columns = reader.take()?;
            let watermarks = vec![emitted; rows];
            let results = Results {
                sides: by_side(side, Some(columns), None),
                times: by_side(side, times, Vec::new()),
                watermarks,
                positions,
                futures,
                ..Results::default()
            };
            let (rows, failed) = results.build(&plan).map_err(broken)?;
            cx.release(rows.num_rows() as u64);
            cx.emit(Port::OUT, rows);
            failed.into_iter().for_each(|failed| cx.reject_held(failed.row, failed.cause, 1));
        }
        Ok((taken, due.more))
    }

    fn late(&self, side: usize, rows: &Rows<'_>, late: Vec<u32>, cx: &mut Context<'_>) -> Result<(), StateError> {
        if late.is_empty() {
            return Ok(());
        }
        let late = UInt32Array::from(late);
        let width = self.plan.sides[1 - side].user.len();
        let from = if side == 0 { self.plan.sides[0].user.len() } else { 0 };
        let own: Result<Vec<ArrayRef>, ArrowError> = rows.user.iter().map(|column| take(column, &late, None)).collect();
        let other: Vec<ArrayRef> =
            self.plan.all.fields().iter().skip(from).take(width).map(|field| new_null_array(field.data_type(), late.len())).collect();
        let mut columns: Vec<ArrayRef> = by_side(side, own.map_err(broken)?, other).into_iter().flatten().collect();
        for name in [TIME, WATERMARK, OFFSET, FUTURE] {
            let column = rows.batch.rows.column_by_name(name).ok_or_else(|| StateError::new("the batch has no system columns"))?;
            columns.push(take(column, &late, None).map_err(broken)?);
        }
        cx.late(LATE, RecordBatch::try_new(self.plan.all.clone(), columns).map_err(broken)?);
        Ok(())
    }
}

impl Operator for JoinOperator {
    fn on_batch(&mut self, input: Input, batch: &Batch, cx: &mut Context<'_>) -> Result<(), StateError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let plan = self.plan.clone();
        let side = usize::from(input.0 != 0);
        let own = &plan.sides[side];
        let rows = Rows::new(&plan, side, batch)?;
        let mut pairs = Pairs::new(plan.sides[1 - side].codec.reader()?);
        let mut count = self.count.get(&*cx.state())?.unwrap_or(0);
        let (mut late, mut keyless) = (Vec::new(), 0);
        let (mut key, mut sequence, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..batch.num_rows() {
            let SystemRow { time, watermark, offset, future, .. } = rows.system.row(index);
            if time < watermark.saturating_sub(plan.lateness) {
                late.push(index as u32);
                continue;
            }
            let matches_nothing = rows.key.iter().any(|column| column.is_null(index));
            if matches_nothing && !own.outer {
                keyless += 1;
                continue;
            }
            key.clear();
            sequence.clear();
            bytes.clear();
            keys::encode(&rows.key, index, &mut key);
            rows.writer.put(index, &mut bytes);
            if let Some(cause) = too_large(&key, &bytes) {
                cx.reject(batch, index, cause);
                continue;
            }
            put_sequence(&batch.origin, offset, count as u64, &mut sequence);
            count += 1;
            let row = Row { index, time, watermark, future, key: &key, sequence: &sequence, row: &bytes };
            let matched = !matches_nothing && self.pair(side, &row, &mut pairs, cx)?;
            self.keep(side, &row, matched, cx)?;
            if pairs.own.len() >= MAX_ROWS {
                pairs.emit(&plan, side, &rows, cx)?;
            }
        }
        pairs.emit(&plan, side, &rows, cx)?;
        if self.count.get(&*cx.state())?.unwrap_or(0) < count {
            self.count.set(count, cx.state())?;
        }
        cx.filtered(keyless);
        self.late(side, &rows, late, cx)
    }

    fn on_time(&mut self, time: Time, cx: &mut Context<'_>) -> Result<Progress, StateError> {
        if time.watermark == NO_WATERMARK {
            return Ok(Progress::Done);
        }
        let plan = self.plan.clone();
        let over = time.watermark.saturating_sub(plan.lateness);
        let mut budget = time.budget.clamp(1, MAX_ROWS);
        for (place, side) in plan.sides.iter().enumerate() {
            let before = over.saturating_sub(side.after);
            if side.outer {
                let (rows, more) = self.release_unmatched(place, before, budget, time.emitted, cx)?;
                budget -= rows.min(budget);
                if more || budget == 0 {
                    return Ok(Progress::More);
                }
            }
            let (mut matched, mut never) = (0, 0);
            let more = self.rows[place].expire(before, budget, cx.state(), &mut |row| match row.flags & MATCHED {
                0 => never += 1,
                _ => matched += 1,
            })?;
            cx.release(matched);
            cx.filtered_held(never);
            budget -= ((matched + never) as usize).min(budget);
            if more || budget == 0 {
                return Ok(Progress::More);
            }
        }
        Ok(Progress::Done)
    }

    fn on_restore(&mut self) {
        self.rows.iter_mut().for_each(TimedRows::forget);
        self.unmatched.iter_mut().for_each(TimeQueue::forget);
        self.count.forget();
    }
}

impl<'a> Rows<'a> {
    fn new(plan: &JoinPlan, side: usize, batch: &'a Batch) -> Result<Rows<'a>, StateError> {
        let side = &plan.sides[side];
        let columns = batch.rows.columns();
        let key = side.key.iter().map(|path| path.values(side.schema.fields(), columns)).collect::<Option<Vec<_>>>();
        let key = key.ok_or_else(|| StateError::new("the batch has no key columns"))?;
        let user: Vec<ArrayRef> = side.user.iter().filter_map(|place| columns.get(*place)).cloned().collect();
        Ok(Rows { batch, writer: side.codec.writer(&user)?, user, key: key.iter().map(keys::canonical).collect(), system: batch.system()? })
    }
}

impl Pairs {
    fn new(other: RowReader) -> Pairs {
        Pairs {
            own: Vec::new(),
            other,
            own_times: Vec::new(),
            other_times: Vec::new(),
            watermarks: Vec::new(),
            positions: Vec::new(),
            futures: Vec::new(),
        }
    }

    fn push(&mut self, side: usize, row: &Row<'_>, stored: &TimedRow<'_>) -> Result<(), StateError> {
        memory::keep(stored.row.len() + PAIR).map_err(|e| StateError::new(e.to_string()))?;
        self.other.push(stored.row)?;
        self.own.push(row.index as u32);
        self.own_times.push(row.time);
        self.other_times.push(stored.time);
        self.watermarks.push(row.watermark);
        self.positions.push(position(by_side(side, place(row.sequence), place(stored.sequence))));
        self.futures.push(row.future || stored.flags & DISTRUSTED != 0);
        Ok(())
    }

    fn emit(&mut self, plan: &JoinPlan, side: usize, rows: &Rows<'_>, cx: &mut Context<'_>) -> Result<(), StateError> {
        if self.own.is_empty() {
            return Ok(());
        }
        let own = UInt32Array::from(std::mem::take(&mut self.own));
        let columns: Result<Vec<ArrayRef>, ArrowError> = rows.user.iter().map(|column| take(column, &own, None)).collect();
        // Steps downstream see the watermark later by the delay, and these rows with it.
        let behind = |watermark: Millis| watermark.saturating_sub(plan.delay);
        let results = Results {
            sides: by_side(side, Some(columns.map_err(broken)?), Some(self.other.take()?)),
            times: by_side(side, std::mem::take(&mut self.own_times), std::mem::take(&mut self.other_times)),
            watermarks: std::mem::take(&mut self.watermarks).into_iter().map(behind).collect(),
            positions: std::mem::take(&mut self.positions),
            futures: std::mem::take(&mut self.futures),
            ..Results::default()
        };
        let (made, failed) = results.build(plan).map_err(broken)?;
        cx.emit(Port::OUT, made);
        failed.into_iter().for_each(|failed| cx.reject_result(failed.row, failed.cause, 0));
        Ok(())
    }
}
