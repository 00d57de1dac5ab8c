//! The window as a state machine: rows in, state changed, results out when time has passed.
//!
//! ```text
//! for each row:  its windows -> those still open at the row's own watermark -> none: late
//!                             -> an aggregate can't take it: dead letter, no trace left
//!                             -> added to all of them, held once (in the last to close)
//! when time moves past the earliest end: scan closed windows, emit, delete, release their rows, a portion at a time
//! a result that does not fit its column: dead letter, instead of being emitted
//! ```
//!
//! Invariant (rule R6): what happens to a row depends on the row, on its own partition's watermark before it, and on the
//! state; never on how rows were cut into batches. A window is emitted once: the watermark of the last closing is
//! kept in state, and rows of windows closed by then are late even if their own partition lags behind.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, TimestampMillisecondArray, UInt32Array};
use arrow::compute::{take, take_record_batch};
use operator_core::batch::{HEADERS, SystemColumns, SystemRow, derived_system_columns};
use operator_core::stores::bytes::Reader;
use operator_core::{Batch, Context, Input, Millis, NO_WATERMARK, Operator, Port, Progress, StateError, Time, keys};

use crate::accumulator::Row;
use crate::expiry::{next_sweep, sweep};
use crate::groups::{Groups, read_group};
use crate::inputs::InputRows;
use crate::layout::{CLOSED, Entry, VERSION, range_to, read_key};
use crate::plan::WindowPlan;
use crate::results::{MAX_ROWS, Results};
use crate::spec::Emit;
use crate::values::{Column, build};

/// The port of rows that came too late.
const LATE: Port = Port(1);
/// The most entries of state that are read, emitted and deleted at a time: a bound on memory.
const MAX_ENTRIES: usize = MAX_ROWS;

/// Most bytes of a group's columns, and of a DISTINCT value: keys of state.
const MAX_KEY: usize = 1 << 16;
/// Most bytes of texts that one group keeps, over all its aggregates.
const MAX_KEPT: usize = 1 << 19;

/// One window step in one partition.
#[derive(Debug)]
pub struct WindowOperator {
    plan: Arc<WindowPlan>,
    /// Watermark of the last closing, as in state; `None` until it was read.
    closed: Option<Millis>,
    earliest: Earliest,
    /// Watermark from which expired groups are looked for again.
    next_sweep: Millis,
    /// Keys of state from which closing and sweeping go on; empty if they are not in the middle.
    closing: Vec<u8>,
    sweeping: Vec<u8>,
    groups: Groups,
    /// Encoded group of the current row.
    group: Vec<u8>,
    /// Encoded DISTINCT value of the current row.
    value: Vec<u8>,
    /// Open windows of the current row, last first: end and slot.
    open: Vec<(Millis, usize)>,
    late: Vec<u32>,
}

/// The end of the first window in state: so that moving time costs nothing while no window ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Earliest {
    Unknown,
    NoWindow,
    End(Millis),
}

/// A batch with everything that was computed from it.
struct Rows<'a> {
    batch: &'a Batch,
    system: SystemColumns<'a>,
    columns: Vec<Column<'a>>,
    group: Vec<ArrayRef>,
    /// For each `count(DISTINCT)`: its place and its arguments.
    distinct: Vec<(usize, Vec<ArrayRef>)>,
}

/// Results per input row (`on_update`): which row each result belongs to.
struct Updates {
    results: Results,
    rows: Vec<u32>,
    /// Rows of the batch none of whose results can be emitted.
    rejected: usize,
}

/// What became of a row.
enum Fate {
    Added,
    Late,
    Rejected(String),
}

impl WindowOperator {
    pub fn new(plan: Arc<WindowPlan>) -> WindowOperator {
        WindowOperator {
            plan,
            closed: None,
            earliest: Earliest::Unknown,
            next_sweep: NO_WATERMARK,
            closing: Vec::new(),
            sweeping: Vec::new(),
            groups: Groups::default(),
            group: Vec::new(),
            value: Vec::new(),
            open: Vec::new(),
            late: Vec::new(),
        }
    }

    /// The watermark of the last closing.
    fn closed(&mut self, cx: &mut Context<'_>) -> Result<Millis, StateError> {
        if let Some(closed) = self.closed {
            return Ok(closed);
        }
        let mut value = Vec::new();
        let mut closed = NO_WATERMARK;
        if cx.state().get(CLOSED, &mut value)? {
            let mut reader = Reader::new(&value);
            closed = match (reader.u8(), reader.array::<8>()) {
                (Some(VERSION), Some(bytes)) => Millis::from_be_bytes(bytes),
                _ => return Err(StateError::new("the stored watermark of the last closed window can't be decoded")),
            };
        }
        self.closed = Some(closed);
        Ok(closed)
    }

    /// Decides on one row and adds it where it belongs.
    fn add(
        &mut self,
        plan: &WindowPlan,
        rows: &Rows<'_>,
        row: Row<'_>,
        watermark: Millis,
        cx: &mut Context<'_>,
    ) -> Result<Fate, StateError> {
        let Some(last) = plan.windows.last_end(row.time) else {
            return Ok(Fate::Rejected(format!("event time {} is out of range for windows", row.time)));
        };
        if plan.windows.is_closed(last, watermark) {
            return Ok(Fate::Late);
        }
        self.group.clear();
        keys::encode(&rows.group, row.index, &mut self.group);
        if let Some(cause) = too_large(plan, rows, &self.group, row.index).or_else(|| refused(plan, &rows.columns, row.index)) {
            return Ok(Fate::Rejected(cause));
        }
        // A time that is not believed makes no group older or newer than its partition's time does.
        let now = if row.future { watermark } else { row.time.max(watermark) };
        let age = if row.future { Some(watermark).filter(|time| *time != NO_WATERMARK) } else { Some(row.time) };
        self.open.clear();
        let mut end = last;
        for _ in 0..plan.windows.overlapping() {
            if plan.windows.is_closed(end, watermark) {
                break;
            }
            let slot = self.groups.find(plan, end, &self.group, cx.state())?;
            let slot = self.groups.renew(plan, slot, (end, &self.group), now, cx.state())?;
            self.open.push((end, slot));
            end -= plan.windows.every;
        }
        for (nth, (_, slot)) in self.open.iter().enumerate() {
            let holds = nth == 0 && plan.emit == Emit::OnClose;
            self.groups.add(plan, *slot, &rows.columns, row, holds, age);
        }
        self.add_distinct(plan, rows, row.index, cx)?;
        if let (Earliest::End(earliest), Some((end, _))) = (self.earliest, self.open.last()) {
            self.earliest = Earliest::End(earliest.min(*end));
        } else if let (Earliest::NoWindow, Some((end, _))) = (self.earliest, self.open.last()) {
            self.earliest = Earliest::End(*end);
        }
        Ok(Fate::Added)
    }

    fn add_distinct(&mut self, plan: &WindowPlan, rows: &Rows<'_>, row: usize, cx: &mut Context<'_>) -> Result<(), StateError> {
        for (place, arguments) in &rows.distinct {
            let inputs = plan.aggregates.get(*place).map(|a| a.inputs.as_slice()).unwrap_or_default();
            if inputs.iter().filter_map(|i| rows.columns.get(*i)).any(|column| column.is_null(row)) {
                continue;
            }
            self.value.clear();
            keys::encode(arguments, row, &mut self.value);
            for (_, slot) in &self.open {
                self.groups.add_distinct(plan, *slot, *place, &self.value, cx.state())?;
            }
        }
        Ok(())
    }

    /// Emits, deletes and releases windows that end at `last` or earlier, as many entries as `budget` allows.
    fn close(&mut self, plan: &WindowPlan, last: Millis, time: Time, cx: &mut Context<'_>) -> Result<Progress, StateError> {
        let (first, to) = range_to(last);
        let from = if self.closing.is_empty() { first } else { std::mem::take(&mut self.closing) };
        let most = time.budget.clamp(1, MAX_ENTRIES);
        let mut group = vec![Vec::new(); plan.group_types.len()];
        let mut results = Results::new(plan);
        let mut accumulators = Vec::new();
        let mut deleted: Vec<Vec<u8>> = Vec::new();
        let mut group_key: Vec<u8> = Vec::new();
        let mut released = 0;
        let mut read = |key: &[u8], value: &[u8]| -> Result<(), StateError> {
            // DISTINCT values follow their group, and no group's key is the beginning of another's.
            if group_key.is_empty() || !key.starts_with(&group_key) {
                let Entry { end, is_group } = read_key(key, &plan.group_types, &mut group)?;
                if is_group {
                    group_key.clear();
                    group_key.extend_from_slice(key);
                    accumulators.clear();
                    let held = read_group(plan, value, &mut accumulators)?.held;
                    if plan.emit == Emit::OnUpdate {
                        group.iter_mut().for_each(Vec::clear);
                    } else if results.push(plan, end, &accumulators, held) {
                        released += held;
                    }
                }
            }
            Ok(())
        };
        let (mut failure, mut progress) = (None, Progress::Done);
        cx.state().scan(&from, &to, &mut |key, value| {
            if deleted.len() == most {
                progress = Progress::More;
                return false;
            }
            failure = read(key, value).err();
            deleted.push(key.to_vec());
            failure.is_none()
        })?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        if !results.is_empty() {
            let system = derived_system_columns(results.times(), time.emitted);
            let columns = plan.group_types.iter().zip(&mut group).map(|(t, values)| build(t, &std::mem::take(values)));
            let (rows, unfit) = results.take(plan, columns.collect(), system.to_vec())?;
            cx.emit(Port::OUT, rows);
            unfit.into_iter().for_each(|unfit| cx.reject_held(unfit.row, unfit.cause, unfit.inputs));
        }
        for key in &deleted {
            cx.state().delete(key)?;
        }
        cx.release(released);
        if let (Progress::More, Some(last)) = (progress, deleted.pop()) {
            self.closing = last;
            self.closing.push(0);
        }
        Ok(progress)
    }

    /// Rows of windows that end by now are late from here on.
    fn note_closed(&mut self, watermark: Millis, cx: &mut Context<'_>) -> Result<(), StateError> {
        if self.closed(cx)? < watermark {
            let mut value = vec![VERSION];
            value.extend_from_slice(&watermark.to_be_bytes());
            cx.state().put(CLOSED, &value)?;
            self.closed = Some(watermark);
        }
        Ok(())
    }

    /// The end of the first window in state.
    fn find_earliest(&self, cx: &mut Context<'_>) -> Result<Earliest, StateError> {
        let (from, to) = range_to(Millis::MAX);
        let mut earliest = Ok(Earliest::NoWindow);
        let mut group = vec![Vec::new(); self.plan.group_types.len()];
        cx.state().scan(&from, &to, &mut |key, _| {
            earliest = read_key(key, &self.plan.group_types, &mut group).map(|entry| Earliest::End(entry.end));
            false
        })?;
        earliest
    }
}

/// Entries of state are records of a changelog, and brokers refuse records of 1 MiB: one such entry would abort
/// its transaction forever. So what goes into an entry is bounded row by row.
fn too_large(plan: &WindowPlan, rows: &Rows<'_>, group: &[u8], row: usize) -> Option<String> {
    if group.len() > MAX_KEY {
        return Some(format!("the group's columns have {} bytes; the limit is {MAX_KEY}", group.len()));
    }
    let distinct: usize = rows.distinct.iter().map(|(_, a)| a.iter().map(|a| Column::new(a).width(row)).sum::<usize>()).max().unwrap_or(0);
    if distinct > MAX_KEY {
        return Some(format!("a DISTINCT value has {distinct} bytes; the limit is {MAX_KEY}"));
    }
    let limit = MAX_KEPT / plan.wide.len().max(1);
    let widest = plan.wide.iter().filter_map(|place| rows.columns.get(*place)).map(|column| column.width(row)).max().unwrap_or(0);
    (widest > limit).then(|| format!("a value to keep in state has {widest} bytes; the limit is {limit}"))
}

/// Why an aggregate cannot take `row`, if so.
#[inline]
fn refused(plan: &WindowPlan, columns: &[Column<'_>], row: usize) -> Option<String> {
    plan.guarded.iter().find_map(|place| {
        let aggregate = plan.aggregates.get(*place)?;
        let column = columns.get(*aggregate.inputs.get(aggregate.function.judged())?)?;
        aggregate.function.refuses(column, row).map(|refusal| refusal.cause(&aggregate.name))
    })
}

impl Operator for WindowOperator {
    fn on_batch(&mut self, _: Input, batch: &Batch, cx: &mut Context<'_>) -> Result<(), StateError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let plan = self.plan.clone();
        let closed = self.closed(cx)?;
        let inputs = plan.inputs.evaluate(&batch.rows);
        let rows = Rows::new(&plan, batch, &inputs)?;
        let mut failed = inputs.failed.iter().peekable();
        let mut updates = Updates { results: Results::new(&plan), rows: Vec::new(), rejected: 0 };
        self.late.clear();
        let mut added = 0;
        for index in 0..batch.num_rows() {
            let (row, watermark) = rows.row(index);
            let watermark = watermark.max(closed);
            let fate = match failed.next_if(|(failed, _)| *failed == index) {
                Some((_, cause)) if !plan.is_late(row.time, watermark) => Fate::Rejected(cause.clone()),
                _ => self.add(&plan, &rows, row, watermark, cx)?,
            };
            match fate {
                Fate::Added => {
                    added += 1;
                    if plan.emit == Emit::OnUpdate {
                        updates.push(&plan, &self.groups, &self.open, index as u32);
                        // At once where a result is a dead letter: these keep their order among those of rows.
                        let now = updates.rows.len() >= MAX_ROWS || updates.results.has_unfit();
                        updates.emit_if(now, &plan, &rows, cx)?;
                    }
                }
                Fate::Late => self.late.push(index as u32),
                Fate::Rejected(cause) => cx.reject(batch, index, cause),
            }
            if self.groups.is_full() {
                self.groups.write_back(&plan, cx.state())?;
            }
        }
        self.groups.write_back(&plan, cx.state())?;
        match plan.emit {
            Emit::OnClose => cx.hold(added),
            Emit::OnUpdate => {
                updates.emit_if(!updates.rows.is_empty(), &plan, &rows, cx)?;
                cx.pass(Port::OUT, arrow::array::RecordBatch::new_empty(plan.schema.clone()), added - updates.rejected);
            }
        }
        if !self.late.is_empty() {
            let late = take_record_batch(&batch.rows, &UInt32Array::from(self.late.clone()));
            cx.late(LATE, late.map_err(|e| StateError::new(format!("late rows: {e}")))?);
        }
        Ok(())
    }

    fn on_time(&mut self, time: Time, cx: &mut Context<'_>) -> Result<Progress, StateError> {
        if let Some(expire) = self.plan.expire
            && time.watermark >= self.next_sweep
        {
            if sweep(&self.plan, expire, time, &mut self.sweeping, cx.state())? == Progress::More {
                return Ok(Progress::More);
            }
            self.next_sweep = next_sweep(time.watermark, expire);
        }
        let last = self.plan.windows.closed_to(time.watermark);
        if self.earliest == Earliest::Unknown {
            self.earliest = self.find_earliest(cx)?;
        }
        match self.earliest {
            Earliest::End(end) if end <= last => {}
            _ => return Ok(Progress::Done),
        }
        // Before the first portion: rows can come between two of them.
        self.note_closed(time.watermark, cx)?;
        let plan = self.plan.clone();
        let progress = self.close(&plan, last, time, cx)?;
        if progress == Progress::Done {
            self.earliest = Earliest::Unknown;
        }
        Ok(progress)
    }

    fn on_restore(&mut self) {
        self.closed = None;
        self.earliest = Earliest::Unknown;
        self.next_sweep = NO_WATERMARK;
        self.closing.clear();
        self.sweeping.clear();
        self.groups.clear();
    }
}

impl WindowPlan {
    /// True if all windows of a row are closed.
    fn is_late(&self, time: Millis, watermark: Millis) -> bool {
        self.windows.last_end(time).is_some_and(|last| self.windows.is_closed(last, watermark))
    }
}

impl<'a> Rows<'a> {
    fn new(plan: &WindowPlan, batch: &'a Batch, inputs: &'a InputRows) -> Result<Rows<'a>, StateError> {
        let distinct = plan.distinct.iter().filter_map(|place| Some((*place, inputs.select(&plan.aggregates.get(*place)?.inputs))));
        Ok(Rows {
            batch,
            system: batch.system()?,
            columns: inputs.values.iter().map(Column::new).collect(),
            group: inputs.select(&plan.group).iter().map(keys::canonical).collect(),
            distinct: distinct.collect(),
        })
    }

    /// A row and its watermark.
    #[inline]
    fn row(&self, index: usize) -> (Row<'a>, Millis) {
        let SystemRow { time, watermark, offset, future } = self.system.row(index);
        (Row { index, time, future, offset, origin: &self.batch.origin }, watermark)
    }
}

impl Updates {
    /// Adds the results of all open windows of a row, earliest window first.
    fn push(&mut self, plan: &WindowPlan, groups: &Groups, open: &[(Millis, usize)], row: u32) {
        let mut emitted = false;
        for (end, slot) in open.iter().rev() {
            emitted |= self.results.push(plan, *end, groups.accumulators(plan, *slot), 0);
            self.rows.push(row);
        }
        if !emitted {
            self.results.charge();
            self.rejected += 1;
        }
    }

    /// Emits what was collected. Results keep the offset of the row that changed them; their watermark is the row's,
    /// behind by the lateness like the watermark that later steps see.
    fn emit_if(&mut self, now: bool, plan: &WindowPlan, rows: &Rows<'_>, cx: &mut Context<'_>) -> Result<(), StateError> {
        if !now {
            return Ok(());
        }
        let row = |index: &u32| rows.row(*index as usize);
        let times = match plan.windows.unbounded {
            true => self.rows.iter().map(|i| row(i).0.time).collect(),
            false => self.results.times(),
        };
        let mut system: Vec<ArrayRef> = vec![
            Arc::new(TimestampMillisecondArray::from(times).with_timezone("UTC")),
            Arc::new(self.rows.iter().map(|i| row(i).1.saturating_sub(plan.windows.lateness)).collect::<Int64Array>()),
            Arc::new(self.rows.iter().map(|i| row(i).0.offset).collect::<Int64Array>()),
            Arc::new(self.rows.iter().map(|i| Some(row(i).0.future)).collect::<BooleanArray>()),
        ];
        let indices = UInt32Array::from(std::mem::take(&mut self.rows));
        let unfit = |e| StateError::new(format!("updates of {} rows: {e}", rows.batch.num_rows()));
        if plan.headers {
            let headers = rows.batch.rows.column_by_name(HEADERS).ok_or_else(|| StateError::new("the batch has no headers"))?;
            system.push(take(headers, &indices, None).map_err(unfit)?);
        }
        let group = rows.group.iter().map(|column| take(column, &indices, None)).collect::<Result<Vec<_>, _>>();
        let (rows, unfit) = self.results.take(plan, group.map_err(unfit)?, system)?;
        cx.emit(Port::OUT, rows);
        unfit.into_iter().for_each(|unfit| cx.reject_result(unfit.row, unfit.cause, unfit.inputs));
        Ok(())
    }
}
