//! Rows of results, collected by column until they are emitted as one batch.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, TimestampMillisecondArray};
use operator_core::{Millis, StateError};

use crate::accumulator::Accumulator;
use crate::plan::WindowPlan;
use crate::values::{Value, build};

/// The most rows in one emitted batch.
pub const MAX_ROWS: usize = 8192;

/// Results that have not been emitted yet.
#[derive(Debug)]
pub struct Results {
    /// End of each row's window.
    ends: Vec<Millis>,
    /// One list per computed column.
    computed: Vec<Vec<Option<Value>>>,
}

impl Results {
    pub fn new(plan: &WindowPlan) -> Results {
        Results { ends: Vec::new(), computed: vec![Vec::new(); plan.aggregates.len()] }
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Adds the result of a group in the window that ends at `end`.
    pub fn push(&mut self, plan: &WindowPlan, end: Millis, accumulators: &[Accumulator]) {
        self.ends.push(end);
        for ((aggregate, accumulator), column) in plan.aggregates.iter().zip(accumulators).zip(&mut self.computed) {
            column.push(aggregate.function.result(accumulator));
        }
    }

    /// The event times of the rows: the last millisecond of their window.
    pub fn times(&self) -> Vec<Millis> {
        self.ends.iter().map(|end| end.saturating_sub(1)).collect()
    }

    /// Takes the rows out as a batch: `group` columns, window, computed columns, `system` columns.
    pub fn take(&mut self, plan: &WindowPlan, group: Vec<ArrayRef>, system: Vec<ArrayRef>) -> Result<RecordBatch, StateError> {
        let rows = self.ends.len();
        let starts: Vec<Millis> = self.ends.iter().map(|end| end.saturating_sub(plan.windows.size)).collect();
        let ends = std::mem::take(&mut self.ends);
        let mut columns = group;
        let bounds = [starts, ends].into_iter().filter(|_| !plan.windows.unbounded);
        columns.extend(bounds.map(|v| Arc::new(TimestampMillisecondArray::from(v).with_timezone("UTC")) as ArrayRef));
        for (aggregate, values) in plan.aggregates.iter().zip(&mut self.computed) {
            columns.push(build(&aggregate.data_type, values));
            values.clear();
        }
        columns.extend(system);
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(plan.schema.clone(), columns, &options)
            .map_err(|e| StateError::new(format!("a window's result does not fit its schema: {e}")))
    }
}
