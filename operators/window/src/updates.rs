//! Results after every row (`emit: on_update`), and as changes (`emit: changes`).

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int8Array, Int64Array, TimestampMillisecondArray, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::DataType;
use operator_core::batch::HEADERS;
use operator_core::changes::{ADDED, GONE};
use operator_core::{Context, Millis, Port, StateError};

use crate::groups::Groups;
use crate::plan::WindowPlan;
use crate::results::{Results, values};
use crate::rows::Rows;
use crate::spec::Emit;
use crate::values::{Column, Value};

/// Values of a result; `None`: the group has none.
type Shown = Option<Vec<Option<Value>>>;

/// Results per input row of a batch.
pub struct Updates<'a> {
    plan: &'a WindowPlan,
    rows: &'a Rows<'a>,
    results: Results,
    /// The row that each result belongs to.
    from: Vec<u32>,
    /// Of each result that is a change.
    changes: Vec<i8>,
    rejected: usize,
    /// What results have from their row and can be of any size: groups, headers.
    carried: Vec<Column<'a>>,
    /// The windows of the row that is added, and their results before it, earliest window last.
    open: Vec<(Millis, usize)>,
    before: Vec<Shown>,
    /// A row that is gone, the new version of which comes next: their changes are emitted as one.
    first: Option<u32>,
}

impl<'a> Updates<'a> {
    pub fn new(plan: &'a WindowPlan, rows: &'a Rows<'a>) -> Updates<'a> {
        let headers = rows.batch.rows.column_by_name(HEADERS).filter(|_| plan.headers);
        let of_any_size = |column: &&ArrayRef| matches!(column.data_type(), DataType::Utf8 | DataType::Binary);
        let carried = rows.group.iter().chain(headers).filter(of_any_size).map(Column::new).collect();
        Updates {
            plan,
            rows,
            results: Results::new(plan, false),
            from: Vec::new(),
            changes: Vec::new(),
            rejected: 0,
            carried,
            open: Vec::new(),
            before: Vec::new(),
            first: None,
        }
    }

    /// Rows of the batch none of whose results can be emitted.
    pub fn rejected(&self) -> usize {
        self.rejected
    }

    /// An update waits for its second row, and groups must stay where they are.
    pub fn are_open(&self) -> bool {
        self.first.is_some()
    }

    /// A row is about to be added to the groups in `open`: what their results are without it.
    pub fn before(&mut self, groups: &Groups, open: &[(Millis, usize)], row: usize, cx: &mut Context<'_>) -> Result<(), StateError> {
        if self.plan.emit != Emit::Changes {
            return Ok(());
        }
        if self.first.is_some_and(|first| first as usize + 1 == row) && self.open == open {
            self.first = None;
            return Ok(());
        }
        self.complete(groups, cx)?;
        self.open.clear();
        self.open.extend_from_slice(open);
        self.before.clear();
        self.before.extend(open.iter().map(|(_, slot)| shown(self.plan, groups, *slot).0));
        Ok(())
    }

    /// A row was added to the groups in `open`, or taken off.
    pub fn after(&mut self, groups: &Groups, open: &[(Millis, usize)], row: usize, cx: &mut Context<'_>) -> Result<(), StateError> {
        match self.plan.emit {
            Emit::OnClose | Emit::Every(_) => Ok(()),
            Emit::OnUpdate => self.push(groups, open, row as u32, cx),
            Emit::Changes if self.rows.is_update(row) => {
                self.first = Some(row as u32);
                Ok(())
            }
            Emit::Changes => self.change(groups, row as u32, cx),
        }
    }

    /// The row that was to follow is in no group, or in other ones: the change of the first row stands alone.
    pub fn complete(&mut self, groups: &Groups, cx: &mut Context<'_>) -> Result<(), StateError> {
        match self.first.take() {
            Some(first) => self.change(groups, first, cx),
            None => Ok(()),
        }
    }

    /// Adds what a row has changed in the results of its windows, earliest window first: the old one is gone, the new one there.
    fn change(&mut self, groups: &Groups, row: u32, cx: &mut Context<'_>) -> Result<(), StateError> {
        let plan = self.plan;
        let carried: usize = self.carried.iter().map(|column| column.width(row as usize)).sum();
        let (mut emitted, mut unfit) = (false, false);
        for ((end, slot), before) in self.open.drain(..).zip(self.before.drain(..)).rev() {
            let (after, refused) = shown(plan, groups, slot);
            emitted |= refused.is_none() || before.is_some();
            if before == after && refused.is_none() {
                continue;
            }
            let bounds = (plan.windows.start(end), end);
            for (values, change) in [(before, GONE), (after, ADDED)] {
                self.from.extend(values.is_some().then_some(row));
                self.changes.extend(values.is_some().then_some(change));
                self.results.add_bytes(if values.is_some() { carried } else { 0 });
                values.into_iter().for_each(|values| self.results.push_values(bounds, values));
            }
            if let Some((values, cause)) = refused {
                unfit = true;
                self.from.push(row);
                self.changes.push(ADDED);
                self.results.push_values(bounds, values);
                self.results.refuse(Some(cause), 0);
            }
        }
        // A row that changed nothing that can be emitted is counted with its last result.
        if unfit && !emitted {
            self.results.charge();
            self.rejected += 1;
        }
        if unfit || self.results.is_full() { self.emit(cx) } else { Ok(()) }
    }

    /// Adds the results of all open windows of a row, earliest window first, and emits what was collected if there is much of it; at once
    /// where a result is a dead letter: these keep their order among those of rows.
    fn push(&mut self, groups: &Groups, open: &[(Millis, usize)], row: u32, cx: &mut Context<'_>) -> Result<(), StateError> {
        let plan = self.plan;
        let carried = self.carried.iter().map(|column| column.width(row as usize)).sum();
        let mut emitted = false;
        for (end, slot) in open.iter().rev() {
            emitted |= self.results.push(plan, *end, groups.accumulators(plan, *slot), 0);
            self.results.add_bytes(carried);
            self.from.push(row);
            // A row without a result that can be emitted is counted with its last one.
            if emitted && self.results.is_full() {
                self.emit(cx)?;
            }
        }
        if !emitted {
            self.results.charge();
            self.rejected += 1;
        }
        match self.results.has_unfit() {
            true => self.emit(cx),
            false => Ok(()),
        }
    }

    /// Emits what was collected. Results keep the offset of the row that changed them; their watermark is the row's,
    /// behind by the lateness like the watermark that later steps see.
    pub fn emit(&mut self, cx: &mut Context<'_>) -> Result<(), StateError> {
        let (plan, rows) = (self.plan, self.rows);
        if self.from.is_empty() {
            return Ok(());
        }
        let row = |index: &u32| rows.row(*index as usize);
        let times = match plan.windows.is_unbounded() {
            true => self.from.iter().map(|i| row(i).0.time).collect(),
            false => self.results.times(),
        };
        let mut system: Vec<ArrayRef> = vec![
            Arc::new(TimestampMillisecondArray::from(times).with_timezone("UTC")),
            Arc::new(self.from.iter().map(|i| row(i).1.saturating_sub(plan.windows.lateness)).collect::<Int64Array>()),
            Arc::new(self.from.iter().map(|i| row(i).0.offset).collect::<Int64Array>()),
            Arc::new(self.from.iter().map(|i| Some(row(i).0.future)).collect::<BooleanArray>()),
        ];
        if plan.emit == Emit::Changes {
            system.push(Arc::new(Int8Array::from(std::mem::take(&mut self.changes))));
        }
        let indices = UInt32Array::from(std::mem::take(&mut self.from));
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

/// A result that can't be emitted: its values as far as they fit, and why.
type Refused = Option<(Vec<Option<Value>>, String)>;

/// The result of a group, if rows of it are there and it fits.
fn shown(plan: &WindowPlan, groups: &Groups, slot: usize) -> (Shown, Refused) {
    let accumulators = groups.accumulators(plan, slot);
    if plan.rows_of(accumulators).is_some_and(|rows| rows <= 0) {
        return (None, None);
    }
    match values(plan, accumulators) {
        (values, None) => (Some(values), None),
        (values, Some(cause)) => (None, Some((values, cause))),
    }
}
