//! Rows of results, collected by column until they are emitted as one batch.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, TimestampMillisecondArray, new_null_array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema};
use operator_core::batch::{OFFSET, derived_system_columns};
use operator_core::{Context, Millis, Port, StateError};

use crate::accumulator::Accumulator;
use crate::plan::WindowPlan;
use crate::values::{Value, build};

/// The most rows in one emitted batch.
pub const MAX_ROWS: usize = 8192;
/// Bytes after which a batch is emitted: kept texts are far larger than other values, and a column has at most 2 GiB.
pub const MAX_BYTES: usize = 8 << 20;
/// What a row needs without its texts and bytes, about.
const ROW: usize = 64;

/// What may still be released in one call of `on_time`.
#[derive(Debug)]
pub struct Budget {
    /// Entries of state.
    pub entries: usize,
    /// Bytes of results.
    pub bytes: usize,
}

impl Budget {
    /// At least one entry, so that every call gets on.
    pub fn new(entries: usize) -> Budget {
        Budget { entries: entries.clamp(1, MAX_ROWS), bytes: MAX_BYTES }
    }

    pub fn is_spent(&self) -> bool {
        self.entries == 0 || self.bytes == 0
    }

    pub fn spend(&mut self, entries: usize, bytes: usize) {
        self.entries = self.entries.saturating_sub(entries);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// Results that have not been emitted yet.
#[derive(Debug)]
pub struct Results {
    /// Start and end of each row's window.
    starts: Vec<Millis>,
    ends: Vec<Millis>,
    /// Whether the rows are those of closed windows.
    last: bool,
    /// One list per computed column.
    computed: Vec<Vec<Option<Value>>>,
    /// Of all values, about.
    bytes: usize,
    /// Rows with a value that does not fit its column.
    refused: Vec<Refused>,
}

/// A result that can't be emitted.
#[derive(Debug)]
struct Refused {
    row: usize,
    cause: String,
    inputs: u64,
}

/// A result that can't be emitted, as a row: what does not fit is null.
#[derive(Debug)]
pub struct Unfit {
    pub row: RecordBatch,
    pub cause: String,
    /// Input rows that are in no other result.
    pub inputs: u64,
}

impl Results {
    /// `last`: they are those of closed windows.
    pub fn new(plan: &WindowPlan, last: bool) -> Results {
        let computed = vec![Vec::new(); plan.shown().len()];
        Results { starts: Vec::new(), ends: Vec::new(), last, computed, bytes: 0, refused: Vec::new() }
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of the rows, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Counts bytes of columns that are not computed.
    pub fn add_bytes(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// There are as many rows, or bytes, as one batch may have.
    pub fn is_full(&self) -> bool {
        self.len() >= MAX_ROWS || self.bytes >= MAX_BYTES
    }

    /// Adds the result of a group in the window that ends at `end`, of `inputs` rows that are in no other result. False if
    /// it can't be emitted.
    pub fn push(&mut self, plan: &WindowPlan, end: Millis, accumulators: &[Accumulator], inputs: u64) -> bool {
        // Those that close together mostly end together.
        let start = match (self.starts.last(), self.ends.last()) {
            (Some(start), Some(before)) if *before == end => *start,
            _ => plan.windows.start(end),
        };
        self.push_between(plan, (start, end), accumulators, inputs)
    }

    /// The same, for a window that starts where it does not follow from its end.
    pub fn push_between(&mut self, plan: &WindowPlan, (start, end): (Millis, Millis), accumulators: &[Accumulator], inputs: u64) -> bool {
        self.starts.push(start);
        self.ends.push(end);
        self.bytes += ROW;
        let unfit = each_value(plan, accumulators, |place, value| {
            self.bytes += value.as_ref().map_or(0, Value::size);
            if let Some(column) = self.computed.get_mut(place) {
                column.push(value);
            }
        });
        let fits = unfit.is_none();
        self.refuse(unfit, inputs);
        fits
    }

    /// Adds a row of these values.
    pub fn push_values(&mut self, (start, end): (Millis, Millis), values: Vec<Option<Value>>) {
        self.starts.push(start);
        self.ends.push(end);
        self.bytes += ROW + values.iter().flatten().map(Value::size).sum::<usize>();
        for (value, column) in values.into_iter().zip(&mut self.computed) {
            column.push(value);
        }
    }

    /// The row that was added last can't be emitted, if there is a cause.
    pub fn refuse(&mut self, cause: Option<String>, inputs: u64) {
        let row = self.ends.len().saturating_sub(1);
        self.refused.extend(cause.map(|cause| Refused { row, cause, inputs }));
    }

    /// Some result can't be emitted.
    pub fn has_unfit(&self) -> bool {
        !self.refused.is_empty()
    }

    /// Counts an input row with the last result that can't be emitted: it is in no result that can.
    pub fn charge(&mut self) {
        if let Some(last) = self.refused.last_mut() {
            last.inputs += 1;
        }
    }

    /// The event times of the rows: the last millisecond of their window.
    pub fn times(&self) -> Vec<Millis> {
        self.ends.iter().map(|end| end.saturating_sub(1)).collect()
    }

    /// Emits the results that time has brought: `group` columns, which are their own, and system columns that derive from their windows.
    /// Returns those that can't be emitted.
    pub fn emit(
        &mut self,
        plan: &WindowPlan,
        group: &[Vec<Option<Value>>],
        emitted: Millis,
        cx: &mut Context<'_>,
    ) -> Result<Vec<Unfit>, StateError> {
        if self.is_empty() {
            return Ok(Vec::new());
        }
        let system = derived_system_columns(self.times(), emitted);
        let headers = plan.headers.then(|| new_null_array(&DataType::Binary, self.len()));
        let columns = plan.group_types.iter().zip(group).map(|(data_type, values)| build(data_type, values));
        let (rows, unfit) = self.take(plan, columns.collect(), system.into_iter().chain(headers).collect())?;
        cx.emit(Port::OUT, rows);
        Ok(unfit)
    }

    /// Takes the rows out as a batch: `group` columns, window, computed columns, `system` columns. Also those that can't be
    /// emitted.
    pub fn take(
        &mut self,
        plan: &WindowPlan,
        group: Vec<ArrayRef>,
        system: Vec<ArrayRef>,
    ) -> Result<(RecordBatch, Vec<Unfit>), StateError> {
        let rows = self.ends.len();
        self.bytes = 0;
        let (starts, ends) = (std::mem::take(&mut self.starts), std::mem::take(&mut self.ends));
        let mut columns = group;
        let bounds = [starts, ends].into_iter().filter(|_| !plan.windows.is_unbounded());
        columns.extend(bounds.map(|v| Arc::new(TimestampMillisecondArray::from(v).with_timezone("UTC")) as ArrayRef));
        if plan.every.is_some() {
            columns.push(Arc::new(BooleanArray::from(vec![self.last; rows])));
        }
        for (aggregate, values) in plan.shown().iter().zip(&mut self.computed) {
            columns.push(build(&aggregate.data_type, values));
            values.clear();
        }
        columns.extend(system);
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = |schema, columns| RecordBatch::try_new_with_options(schema, columns, &options);
        let broken = |e| StateError::new(format!("a window's result does not fit its schema: {e}"));
        if self.refused.is_empty() {
            return Ok((batch(plan.schema.clone(), columns).map_err(broken)?, Vec::new()));
        }
        let nullable = plan.schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
        let all = batch(Arc::new(Schema::new(nullable.collect::<Vec<Field>>())), columns).map_err(broken)?;
        let mut fits = vec![true; rows];
        let refused = std::mem::take(&mut self.refused).into_iter().map(|Refused { row, cause, inputs }| {
            if let Some(fits) = fits.get_mut(row) {
                *fits = false;
            }
            Ok(Unfit { row: alone(&all, row).map_err(broken)?, cause, inputs })
        });
        let refused = refused.collect::<Result<Vec<Unfit>, StateError>>()?;
        let fit = filter_record_batch(&all, &BooleanArray::from(fits)).map_err(broken)?;
        let options = RecordBatchOptions::new().with_row_count(Some(fit.num_rows()));
        let fit = RecordBatch::try_new_with_options(plan.schema.clone(), fit.columns().to_vec(), &options);
        Ok((fit.map_err(broken)?, refused))
    }
}

/// The values of the computed columns, and why they can't be emitted, if so: then what does not fit is null.
pub fn values(plan: &WindowPlan, accumulators: &[Accumulator]) -> (Vec<Option<Value>>, Option<String>) {
    let mut values = Vec::with_capacity(plan.shown().len());
    let unfit = each_value(plan, accumulators, |_, value| values.push(value));
    (values, unfit)
}

/// Gives the value of each computed column to `visit`, with its place. Returns why one can't be emitted, if so.
fn each_value(plan: &WindowPlan, accumulators: &[Accumulator], mut visit: impl FnMut(usize, Option<Value>)) -> Option<String> {
    let mut unfit = None;
    for (place, (aggregate, accumulator)) in plan.shown().iter().zip(accumulators).enumerate() {
        let value = aggregate.function.result(accumulator).unwrap_or_else(|refusal| {
            unfit.get_or_insert_with(|| refusal.cause(&aggregate.name));
            None
        });
        visit(place, value);
    }
    unfit
}

/// One row. It has no offset, since a dead letter of it is the result, not the record that changed it last.
fn alone(rows: &RecordBatch, row: usize) -> Result<RecordBatch, arrow::error::ArrowError> {
    let row = rows.slice(row, 1);
    let no_offset = || Arc::new(Int64Array::from(vec![-1])) as ArrayRef;
    let columns =
        rows.schema().fields().iter().zip(row.columns()).map(|(f, c)| if f.name() == OFFSET { no_offset() } else { c.clone() }).collect();
    RecordBatch::try_new(rows.schema(), columns)
}
