//! Lookups for a whole batch, one join after the other. Rows that a join leaves out stay in the batch until the end, so
//! that later joins need no renumbering; then one filter takes them out.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::{cast, filter_record_batch};
use arrow::error::ArrowError;
use arrow::util::display::array_value_to_string;
use operator_core::batch::is_system;
use operator_core::table::{Place, put_key};
use operator_core::{Batch, Context, Input, Operator, Port, StateError};

use crate::plan::{EnrichPlan, JoinPlan};
use crate::spec::{AsOf, Missing};

/// Keys in causes are cut after this many characters.
const MAX_KEY: usize = 64;

/// One enrich step in one partition. Keeps nothing but buffers.
#[derive(Debug)]
pub struct EnrichOperator {
    plan: Arc<EnrichPlan>,
    key: Vec<u8>,
    places: Vec<Option<Place>>,
}

/// What became of the rows of a batch so far.
pub(crate) struct Fates {
    pub(crate) kept: Vec<bool>,
    pub(crate) dropped: usize,
    /// Row, cause, and whether the configuration asks for a dead letter.
    rejected: Vec<(usize, String, bool)>,
}

impl Fates {
    pub(crate) fn leave_out(&mut self, row: usize, cause: Option<(String, bool)>) {
        let Some(kept) = self.kept.get_mut(row).filter(|kept| **kept) else { return };
        *kept = false;
        match cause {
            Some((cause, by_config)) => self.rejected.push((row, cause, by_config)),
            None => self.dropped += 1,
        }
    }

    /// Accounts for the rows of `batch` that are left out, in their order, whichever join refused them.
    pub(crate) fn report(mut self, batch: &Batch, cx: &mut Context<'_>) {
        cx.filtered(self.dropped);
        self.rejected.sort_by_key(|(row, ..)| *row);
        for (row, cause, by_config) in self.rejected {
            if by_config { cx.dead_letter(batch, row, cause) } else { cx.reject(batch, row, cause) }
        }
    }
}

impl EnrichOperator {
    pub fn new(plan: Arc<EnrichPlan>) -> EnrichOperator {
        EnrichOperator { plan, key: Vec::new(), places: Vec::new() }
    }

    /// The rows of a batch with the columns of all joins, those that are left out among them, and what became of each.
    pub(crate) fn look_up(&mut self, batch: &Batch, cx: &Context<'_>) -> Result<(RecordBatch, Fates), StateError> {
        let plan = self.plan.clone();
        let mut fates = Fates { kept: vec![true; batch.num_rows()], dropped: 0, rejected: Vec::new() };
        let mut rows = batch.rows.clone();
        for join in &plan.joins {
            rows = self.join(join, &rows, batch, &mut fates, cx)?;
        }
        Ok((rows, fates))
    }

    /// Rows with the columns that `join` adds.
    fn join(
        &mut self,
        join: &JoinPlan,
        rows: &RecordBatch,
        batch: &Batch,
        fates: &mut Fates,
        cx: &Context<'_>,
    ) -> Result<RecordBatch, StateError> {
        let (mut values, mut keys) = (Vec::new(), Vec::new());
        for (on, of) in &join.on {
            let on = on.evaluate(rows);
            for (row, cause) in on.failed {
                fates.leave_out(row, Some((cause, false)));
            }
            // A number that does not fit the key's type becomes null: no row has such a key.
            keys.push(if on.values.data_type() == of { on.values.clone() } else { cast(&on.values, of).map_err(broken)? });
            values.push(on.values);
        }
        let times = match join.as_of {
            AsOf::EventTime => Some(batch.times().ok_or_else(|| StateError::new("the batch has no event times"))?.values()),
            AsOf::Latest => None,
        };
        let (key, places) = (&mut self.key, &mut self.places);
        let mut added: Result<Vec<ArrayRef>, ArrowError> = Ok(Vec::new());
        let found = cx.tables().with(&join.table, &mut |table| {
            places.clear();
            places.extend((0..rows.num_rows()).map(|row| {
                key.clear();
                if !put_key(&keys, row, key) {
                    return None;
                }
                table.lookup(key, times.and_then(|times| times.get(row)).copied())
            }));
            added = join.columns.iter().map(|column| table.gather(*column, places)).collect();
        });
        if !found {
            return Err(StateError::new(format!("table `{}` was planned but is missing", join.table)));
        }
        if join.missing != Missing::Keep {
            for (row, _) in self.places.iter().enumerate().filter(|(_, place)| place.is_none()) {
                let cause = (join.missing == Missing::DeadLetter).then(|| no_row(&join.table, &values, row));
                fates.leave_out(row, cause.map(|cause| (cause, true)));
            }
        }
        append(join, rows, added.map_err(broken)?)
    }
}

/// The columns of `rows`, with `added` between the user's and the engine's.
fn append(join: &JoinPlan, rows: &RecordBatch, added: Vec<ArrayRef>) -> Result<RecordBatch, StateError> {
    let schema = rows.schema();
    let of = |system: bool| {
        let pairs = schema.fields().iter().zip(rows.columns());
        pairs.filter(move |(field, _)| is_system(field.name()) == system).map(|(_, column)| column.clone())
    };
    let columns = of(false).chain(added).chain(of(true)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(join.schema.clone(), columns, &options).map_err(broken)
}

fn no_row(table: &str, keys: &[ArrayRef], row: usize) -> String {
    if keys.iter().any(|key| key.is_null(row)) {
        return format!("no row in table {table}: the key is null");
    }
    let key: Vec<String> = keys.iter().map(|key| array_value_to_string(key, row).unwrap_or_default()).collect();
    let key = key.join(", ");
    match key.char_indices().nth(MAX_KEY) {
        Some((end, _)) => format!("no row in table {table} for key '{}...'", key.get(..end).unwrap_or_default()),
        None => format!("no row in table {table} for key '{key}'"),
    }
}

pub(crate) fn broken(error: ArrowError) -> StateError {
    StateError::new(format!("a join does not fit its plan: {error}"))
}

impl Operator for EnrichOperator {
    fn on_batch(&mut self, _: Input, batch: &Batch, cx: &mut Context<'_>) -> Result<(), StateError> {
        let (mut rows, fates) = self.look_up(batch, cx)?;
        if fates.kept.contains(&false) {
            rows = filter_record_batch(&rows, &BooleanArray::from(fates.kept.clone())).map_err(broken)?;
        }
        // The output's schema knows which added columns cannot be null any more.
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let rows = RecordBatch::try_new_with_options(self.plan.schema.clone(), rows.columns().to_vec(), &options).map_err(broken)?;
        let passed = rows.num_rows();
        cx.pass(Port::OUT, rows, passed);
        fates.report(batch, cx);
        Ok(())
    }
}
