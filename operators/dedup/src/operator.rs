//! `dedup` as a state machine.
//!
//! ```text
//! on_watermark   row: late, or into the queue                      at_once   row: late, passed or a duplicate
//!                time: rows and ends of runs leave the queue                 time: runs that are over are removed
//!                in order of time; each row finds its run or
//!                begins one; runs that are over are removed
//! ```
//!
//! Invariant: rows are decided in the order of (time, key, sequence), and none is decided while an earlier one can come: rows that
//! come later are not before the watermark less `lateness`, and those that are nevertheless (a partition that was added) are late,
//! because the watermark of the last decision is kept.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use operator_core::batch::{OFFSET, SystemColumns, SystemRow, WATERMARK};
use operator_core::stores::bytes::{Reader, put_ordered};
use operator_core::stores::{Due, Number, RowReader, TimeQueue, TimedRow, TimedRows, put_sequence, too_large};
use operator_core::{Batch, Context, Input, Millis, NO_WATERMARK, Operator, Port, Progress, State, StateError, Time, keys};

use crate::plan::{DedupPlan, is_kept};
use crate::spec::{Emit, Keep};

const DUPLICATES: Port = Port(1);
const LATE: Port = Port(2);

/// Flags of entries in the queue.
const ROW: u8 = 0;
/// The row has a null in its key: it is equal to no other.
const ROW_WITHOUT_KEY: u8 = 1;
/// A run is over; its row is the time of the run's first row.
const END: u8 = 2;

/// One `dedup` step in one partition.
pub struct Deduplicating {
    plan: Arc<DedupPlan>,
    closed: Number,
    arrivals: Number,
    waiting: TimeQueue,
    runs: TimedRows,
}

/// A batch as the step sees it.
struct Rows<'a> {
    system: SystemColumns<'a>,
    by: Vec<ArrayRef>,
}

/// Rows on their way to the ports.
struct Output {
    kept: RowReader,
    duplicates: RowReader,
}

/// The end of a run, in the order in which ends are decided: its time, its key, the time of the run's first row.
type End = (Millis, Vec<u8>, Millis);

impl<'a> Rows<'a> {
    fn new(plan: &DedupPlan, batch: &'a Batch) -> Result<Rows<'a>, StateError> {
        let missing = || StateError::new("the batch lacks a column: this is a bug");
        let by = plan.by.iter().map(|path| path.values(plan.schema.fields(), batch.rows.columns()).ok_or_else(missing));
        Ok(Rows { system: batch.system()?, by: by.collect::<Result<_, _>>()? })
    }

    fn has_key(&self, row: usize) -> bool {
        self.by.iter().all(|column| column.is_valid(row))
    }
}

impl Deduplicating {
    pub fn new(plan: Arc<DedupPlan>) -> Deduplicating {
        let (closed, arrivals) = (plan.closed.clone(), plan.arrivals.clone());
        let (waiting, runs) = (plan.waiting.clone(), plan.runs.clone());
        Deduplicating { plan, closed, arrivals, waiting, runs }
    }

    /// Puts the rows of a batch that are not late into the queue.
    fn wait(&mut self, batch: &Batch, late: &mut Vec<u32>, cx: &mut Context<'_>) -> Result<(), StateError> {
        let plan = self.plan.clone();
        let rows = Rows::new(&plan, batch)?;
        let closed = self.closed.get(cx.state())?.unwrap_or(NO_WATERMARK);
        let first = self.arrivals.get(cx.state())?.unwrap_or(0);
        let columns = plan.schema.fields().iter().zip(batch.rows.columns()).filter(|(field, _)| is_kept(field.name()));
        let writer = plan.codec.writer(&columns.map(|(_, column)| column.clone()).collect::<Vec<_>>())?;
        let (mut key, mut sequence, mut bytes, mut held) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for row in 0..batch.num_rows() {
            let SystemRow { time, watermark, offset, .. } = rows.system.row(row);
            if plan.is_late(time, watermark.max(closed)) {
                late.push(row as u32);
                continue;
            }
            key.clear();
            keys::encode(&rows.by, row, &mut key);
            bytes.clear();
            writer.put(row, &mut bytes);
            if let Some(cause) = too_large(&key, &bytes) {
                cx.reject(batch, row, cause);
                continue;
            }
            sequence.clear();
            put_sequence(&batch.origin, offset, first.saturating_add(row as i64) as u64, &mut sequence);
            let flags = if rows.has_key(row) { ROW } else { ROW_WITHOUT_KEY };
            self.waiting.put(&Due { time, key: &key, sequence: &sequence, flags, row: &bytes }, cx.state())?;
            held += 1;
        }
        cx.hold(held);
        self.arrivals.set(first.saturating_add(batch.num_rows() as i64), cx.state())
    }

    /// Decides about the rows of a batch that are not late as they come.
    fn decide_at_once(&mut self, batch: &Batch, late: &mut Vec<u32>, cx: &mut Context<'_>) -> Result<(), StateError> {
        let plan = self.plan.clone();
        let rows = Rows::new(&plan, batch)?;
        let closed = self.closed.get(cx.state())?.unwrap_or(NO_WATERMARK);
        let (mut key, mut kept, mut duplicates) = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..batch.num_rows() {
            let SystemRow { time, watermark, .. } = rows.system.row(row);
            if plan.is_late(time, watermark.max(closed)) {
                late.push(row as u32);
                continue;
            }
            if !rows.has_key(row) {
                kept.push(row as u32);
                continue;
            }
            key.clear();
            keys::encode(&rows.by, row, &mut key);
            if let Some(cause) = too_large(&key, &[]) {
                cx.reject(batch, row, cause);
                continue;
            }
            let around = (time.saturating_sub(plan.within - 1), time.saturating_add(plan.within - 1));
            let mut equal = false;
            self.runs.rows(&key, around, cx.state(), &mut |_| {
                equal = true;
                false
            })?;
            if equal {
                duplicates.push(row as u32);
            } else {
                self.runs.put(&TimedRow { key: &key, time, sequence: &[], flags: 0, row: &[] }, cx.state())?;
                kept.push(row as u32);
            }
        }
        cx.pass(Port::OUT, select(batch, &kept)?, kept.len());
        cx.filtered(duplicates.len());
        cx.emit(DUPLICATES, select(batch, &duplicates)?);
        Ok(())
    }

    /// Decides about what is before `bound`, as far as the budget reaches. True if there is more.
    fn decide(&mut self, bound: Millis, time: Time, cx: &mut Context<'_>) -> Result<bool, StateError> {
        let portion = self.waiting.take_before(bound, time.budget, cx.state())?;
        let mut output = Output { kept: self.plan.codec.reader()?, duplicates: self.plan.codec.reader()? };
        // Ends of the runs that rows of this portion are in: decided in it if their time comes.
        let mut ends: BTreeSet<End> = BTreeSet::new();
        let mut empty = true;
        for due in portion.iter() {
            let due = due?;
            empty = false;
            while ends.first().is_some_and(|(at, key, _)| (*at, key.as_slice()) <= (due.time, due.key)) {
                let Some((_, key, began)) = ends.pop_first() else { break };
                self.end_run(&key, began, &mut output, cx)?;
            }
            match (due.flags, self.plan.keep) {
                (END, _) => {
                    let began = Reader::new(due.row).ordered().ok_or_else(|| StateError::new("the end of a run can't be decoded"))?;
                    self.end_run(due.key, began, &mut output, cx)?;
                }
                (ROW_WITHOUT_KEY, _) => output.kept.push(due.row)?,
                (_, Keep::First) => self.first_of_run(&due, &mut output, cx)?,
                (_, Keep::Last) => {
                    ends.insert(self.last_of_run(&due, &mut output, cx)?);
                }
            }
        }
        for (at, key, began) in ends {
            if at < bound && !portion.more {
                self.end_run(&key, began, &mut output, cx)?;
                continue;
            }
            let mut row = Vec::with_capacity(8);
            put_ordered(began, &mut row);
            self.waiting.put(&Due { time: at, key: &key, sequence: &[], flags: END, row: &row }, cx.state())?;
        }
        if !empty {
            let closed = self.closed.get(cx.state())?.unwrap_or(NO_WATERMARK);
            self.closed.set(closed.max(time.watermark), cx.state())?;
        }
        self.emit(output, time.emitted, cx)?;
        Ok(portion.more)
    }

    /// The run that `due` belongs to: the time of its first row, and the row that is the last so far.
    fn run(&self, due: &Due<'_>, state: &dyn State) -> Result<Option<(Millis, Vec<u8>)>, StateError> {
        let mut run = None;
        self.runs.rows(due.key, (due.time.saturating_sub(self.plan.within - 1), due.time), state, &mut |row| {
            run = Some((row.time, row.row.to_vec()));
            true
        })?;
        Ok(run)
    }

    fn first_of_run(&mut self, due: &Due<'_>, output: &mut Output, cx: &mut Context<'_>) -> Result<(), StateError> {
        if self.run(due, cx.state())?.is_some() {
            return output.duplicates.push(due.row);
        }
        self.runs.put(&TimedRow { key: due.key, time: due.time, sequence: &[], flags: 0, row: &[] }, cx.state())?;
        output.kept.push(due.row)
    }

    /// Makes `due` the last of its run, and returns the end of the run. That is set again for every row: without transactions state can
    /// have a run and not its end.
    fn last_of_run(&mut self, due: &Due<'_>, output: &mut Output, cx: &mut Context<'_>) -> Result<End, StateError> {
        let run = self.run(due, cx.state())?;
        if let Some((_, before)) = &run {
            output.duplicates.push(before)?;
        }
        let began = run.as_ref().map_or(due.time, |(began, _)| *began);
        self.runs.put(&TimedRow { key: due.key, time: began, sequence: &[], flags: 0, row: due.row }, cx.state())?;
        Ok((began.saturating_add(self.plan.within), due.key.to_vec(), began))
    }

    fn end_run(&mut self, key: &[u8], began: Millis, output: &mut Output, cx: &mut Context<'_>) -> Result<(), StateError> {
        let mut last = None;
        self.runs.rows(key, (began, began), cx.state(), &mut |row| {
            last = Some(row.row.to_vec());
            false
        })?;
        // Without transactions state can have the end of a run and not the run, whose rows are read again then.
        let Some(last) = last else { return Ok(()) };
        self.runs.delete(key, began, &[], cx.state())?;
        output.kept.push(&last)
    }

    fn emit(&self, output: Output, watermark: Millis, cx: &mut Context<'_>) -> Result<(), StateError> {
        let Output { mut kept, mut duplicates } = output;
        cx.release(kept.len() as u64);
        cx.filtered_held(duplicates.len() as u64);
        for (port, rows) in [(Port::OUT, &mut kept), (DUPLICATES, &mut duplicates)] {
            if !rows.is_empty() {
                cx.emit(port, self.plan.rows(rows, watermark)?);
            }
        }
        Ok(())
    }
}

impl DedupPlan {
    fn is_late(&self, time: Millis, watermark: Millis) -> bool {
        time < watermark.saturating_sub(self.lateness)
    }

    /// Rows that waited, with the system columns of rows that the step made.
    fn rows(&self, waited: &mut RowReader, watermark: Millis) -> Result<RecordBatch, StateError> {
        let count = waited.len();
        let mut columns = waited.take()?.into_iter();
        let columns = self.schema.fields().iter().filter_map(|field| match field.name().as_str() {
            WATERMARK => Some(Arc::new(Int64Array::from(vec![watermark; count])) as ArrayRef),
            OFFSET => Some(Arc::new(Int64Array::from(vec![-1; count])) as ArrayRef),
            _ => columns.next(),
        });
        let columns = columns.collect();
        RecordBatch::try_new(self.schema.clone(), columns).map_err(|e| StateError::new(format!("rows that waited: {e}")))
    }
}

fn select(batch: &Batch, rows: &[u32]) -> Result<RecordBatch, StateError> {
    if rows.len() == batch.num_rows() {
        return Ok(batch.rows.clone());
    }
    take_record_batch(&batch.rows, &UInt32Array::from(rows.to_vec())).map_err(|e| StateError::new(format!("rows of a batch: {e}")))
}

impl Operator for Deduplicating {
    fn on_batch(&mut self, _: Input, batch: &Batch, cx: &mut Context<'_>) -> Result<(), StateError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let mut late = Vec::new();
        match self.plan.emit {
            Emit::OnWatermark => self.wait(batch, &mut late, cx)?,
            Emit::AtOnce => self.decide_at_once(batch, &mut late, cx)?,
        }
        if !late.is_empty() {
            cx.late(LATE, select(batch, &late)?);
        }
        Ok(())
    }

    fn on_time(&mut self, time: Time, cx: &mut Context<'_>) -> Result<Progress, StateError> {
        let bound = time.watermark.saturating_sub(self.plan.lateness);
        let mut more = false;
        if self.plan.emit == Emit::OnWatermark {
            more = self.decide(bound, time, cx)?;
        }
        // Runs of `keep: last` are removed when they end.
        if self.plan.keep == Keep::First && !more {
            let over = bound.saturating_sub(self.plan.within - 1);
            let mut removed = false;
            more = self.runs.expire(over, time.budget, cx.state(), &mut |_| removed = true)?;
            if removed && self.plan.emit == Emit::AtOnce {
                let closed = self.closed.get(cx.state())?.unwrap_or(NO_WATERMARK);
                self.closed.set(closed.max(time.watermark), cx.state())?;
            }
        }
        Ok(if more { Progress::More } else { Progress::Done })
    }

    fn on_restore(&mut self) {
        self.closed.forget();
        self.arrivals.forget();
        self.waiting.forget();
        self.runs.forget();
    }
}
