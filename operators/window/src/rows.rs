//! The rows of one batch with everything that was computed from them, and what decides whether a row can be taken.

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take_record_batch;
use operator_core::batch::{SystemColumns, SystemRow};
use operator_core::{Batch, Context, Millis, StateError, keys};

use crate::accumulator::Row;
use crate::inputs::InputRows;
use crate::plan::WindowPlan;
use crate::values::Column;

/// Most bytes of a group's columns, and of a DISTINCT value: keys of state.
const MAX_KEY: usize = 1 << 16;
/// Most bytes of texts that one group keeps, over all its aggregates.
const MAX_KEPT: usize = 1 << 19;

/// A batch with everything that was computed from it.
pub struct Rows<'a> {
    pub batch: &'a Batch,
    system: SystemColumns<'a>,
    pub columns: Vec<Column<'a>>,
    pub group: Vec<ArrayRef>,
    /// For each `count(DISTINCT)`: its place and its arguments.
    distinct: Vec<(usize, Vec<ArrayRef>)>,
    /// Rows whose inputs could not be computed, in order, with the cause.
    failed: &'a [(usize, String)],
}

/// What became of a row.
pub enum Fate {
    Added,
    Late,
    Rejected(String),
}

impl<'a> Rows<'a> {
    pub fn new(plan: &WindowPlan, batch: &'a Batch, inputs: &'a InputRows) -> Result<Rows<'a>, StateError> {
        let distinct = plan.distinct.iter().filter_map(|place| Some((*place, inputs.select(&plan.aggregates.get(*place)?.inputs))));
        Ok(Rows {
            batch,
            system: batch.system()?,
            columns: inputs.values.iter().map(Column::new).collect(),
            group: inputs.select(&plan.group).iter().map(keys::canonical).collect(),
            distinct: distinct.collect(),
            failed: &inputs.failed,
        })
    }

    /// Decides on the rows one after the other: late, rejected, or added by `add`, which is asked about those whose inputs could be
    /// computed. `closed`: the least watermark that rows are judged by. Returns how many were added, and the late ones.
    pub fn decide(
        &self,
        plan: &WindowPlan,
        closed: Millis,
        cx: &mut Context<'_>,
        mut add: impl FnMut(Row<'_>, Millis, &mut Context<'_>) -> Result<Fate, StateError>,
    ) -> Result<(usize, Vec<u32>), StateError> {
        let mut failed = self.failed.iter().peekable();
        let (mut added, mut late) = (0, Vec::new());
        for index in 0..self.batch.num_rows() {
            let (row, watermark) = self.row(index);
            let watermark = watermark.max(closed);
            let fate = match failed.next_if(|(failed, _)| *failed == index) {
                Some((_, cause)) if !plan.windows.is_late(row.time, watermark) => Fate::Rejected(cause.clone()),
                _ => add(row, watermark, cx)?,
            };
            match fate {
                Fate::Added => added += 1,
                Fate::Late => late.push(index as u32),
                Fate::Rejected(cause) => cx.reject(self.batch, index, cause),
            }
        }
        Ok((added, late))
    }

    /// A row and its watermark.
    #[inline]
    pub fn row(&self, index: usize) -> (Row<'a>, Millis) {
        let SystemRow { time, watermark, offset, future, change } = self.system.row(index);
        (Row { index, time, future, offset, change, origin: &self.batch.origin }, watermark)
    }

    /// The row is gone and its new version follows in the batch, with inputs that could be computed.
    pub fn is_update(&self, index: usize) -> bool {
        self.system.is_update(index) && self.failed.binary_search_by_key(&(index + 1), |(failed, _)| *failed).is_err()
    }

    /// Why `row`, whose encoded group is `group`, can't be part of an aggregate, if so.
    #[inline]
    pub fn refused(&self, plan: &WindowPlan, group: &[u8], row: usize) -> Option<String> {
        // Of most windows only the group can be too large.
        let is_small = group.len() <= MAX_KEY && self.distinct.is_empty() && plan.wide.is_empty();
        let too_large = if is_small { None } else { self.too_large(plan, group, row) };
        too_large.or_else(|| {
            plan.guarded.iter().find_map(|place| {
                let aggregate = plan.aggregates.get(*place)?;
                let column = self.columns.get(*aggregate.inputs.get(aggregate.function.judged())?)?;
                aggregate.function.refuses(column, row).map(|refusal| refusal.cause(&aggregate.name))
            })
        })
    }

    /// Entries of state are records of a changelog, and brokers refuse records of 1 MiB: one such entry would abort
    /// its transaction forever. So what goes into an entry is bounded row by row.
    #[inline(never)]
    fn too_large(&self, plan: &WindowPlan, group: &[u8], row: usize) -> Option<String> {
        if group.len() > MAX_KEY {
            return Some(format!("the group's columns have {} bytes; the limit is {MAX_KEY}", group.len()));
        }
        let width = |arguments: &Vec<ArrayRef>| arguments.iter().map(|a| Column::new(a).width(row)).sum::<usize>();
        let distinct: usize = self.distinct.iter().map(|(_, arguments)| width(arguments)).max().unwrap_or(0);
        if distinct > MAX_KEY {
            return Some(format!("a DISTINCT value has {distinct} bytes; the limit is {MAX_KEY}"));
        }
        let limit = MAX_KEPT / plan.wide.len().max(1);
        let widest = plan.wide.iter().filter_map(|place| self.columns.get(*place)).map(|column| column.width(row)).max().unwrap_or(0);
        (widest > limit).then(|| format!("a value to keep in state has {widest} bytes; the limit is {limit}"))
    }

    /// The values in `row` that a `count(DISTINCT)` counts: each encoded into `buffer` and given to `visit` with the aggregate's
    /// place.
    pub fn each_distinct(
        &self,
        plan: &WindowPlan,
        row: usize,
        buffer: &mut Vec<u8>,
        mut visit: impl FnMut(usize, &[u8]) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        for (place, arguments) in &self.distinct {
            let inputs = plan.aggregates.get(*place).map(|a| a.inputs.as_slice()).unwrap_or_default();
            if inputs.iter().filter_map(|i| self.columns.get(*i)).any(|column| column.is_null(row)) {
                continue;
            }
            buffer.clear();
            keys::encode(arguments, row, buffer);
            visit(*place, buffer)?;
        }
        Ok(())
    }

    /// These rows as a batch.
    pub fn only(&self, rows: &[u32]) -> Result<arrow::array::RecordBatch, StateError> {
        take_record_batch(&self.batch.rows, &UInt32Array::from(rows.to_vec())).map_err(|e| StateError::new(format!("late rows: {e}")))
    }
}
