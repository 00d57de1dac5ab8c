//! Results after every row (`emit: on_update`).

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, TimestampMillisecondArray, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::DataType;
use operator_core::batch::HEADERS;
use operator_core::{Context, Millis, Port, StateError};

use crate::groups::Groups;
use crate::plan::WindowPlan;
use crate::results::Results;
use crate::rows::Rows;
use crate::values::Column;

/// Results per input row (`on_update`): which row each result belongs to.
pub struct Updates<'a> {
    results: Results,
    rows: Vec<u32>,
    rejected: usize,
    /// What results have from their row and can be of any size: groups, headers.
    carried: Vec<Column<'a>>,
}

impl<'a> Updates<'a> {
    pub fn new(plan: &WindowPlan, rows: &'a Rows<'_>) -> Updates<'a> {
        let headers = rows.batch.rows.column_by_name(HEADERS).filter(|_| plan.headers);
        let of_any_size = |column: &&ArrayRef| matches!(column.data_type(), DataType::Utf8 | DataType::Binary);
        let carried = rows.group.iter().chain(headers).filter(of_any_size).map(Column::new).collect();
        Updates { results: Results::new(plan, false), rows: Vec::new(), rejected: 0, carried }
    }

    /// Rows of the batch none of whose results can be emitted.
    pub fn rejected(&self) -> usize {
        self.rejected
    }

    /// Adds the results of all open windows of a row, earliest window first, and emits what was collected if there is much of it; at once
    /// where a result is a dead letter: these keep their order among those of rows.
    pub fn push(
        &mut self,
        plan: &WindowPlan,
        groups: &Groups,
        (open, row): (&[(Millis, usize)], u32),
        rows: &Rows<'_>,
        cx: &mut Context<'_>,
    ) -> Result<(), StateError> {
        let carried = self.carried.iter().map(|column| column.width(row as usize)).sum();
        let mut emitted = false;
        for (end, slot) in open.iter().rev() {
            emitted |= self.results.push(plan, *end, groups.accumulators(plan, *slot), 0);
            self.results.add_bytes(carried);
            self.rows.push(row);
            // A row without a result that can be emitted is counted with its last one.
            if emitted && self.results.is_full() {
                self.emit(plan, rows, cx)?;
            }
        }
        if !emitted {
            self.results.charge();
            self.rejected += 1;
        }
        match self.results.has_unfit() {
            true => self.emit(plan, rows, cx),
            false => Ok(()),
        }
    }

    /// Emits what was collected. Results keep the offset of the row that changed them; their watermark is the row's,
    /// behind by the lateness like the watermark that later steps see.
    pub fn emit(&mut self, plan: &WindowPlan, rows: &Rows<'_>, cx: &mut Context<'_>) -> Result<(), StateError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let row = |index: &u32| rows.row(*index as usize);
        let times = match plan.windows.is_unbounded() {
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
