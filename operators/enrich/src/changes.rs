//! Joins of a stream of changes: a row is looked up when it comes, and what was found is kept until it goes.
//!
//! A row that goes must be equal to the one that came, so it is not looked up again: the table may have another row by then, or none. State
//! has the row as it came out, under the key of the stream. A row that was left out when it came is not there, so that nothing comes out when
//! it goes.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{filter_record_batch, take_record_batch};
use arrow::datatypes::DataType;
use operator_core::batch::is_system;
use operator_core::changes::{self, ADDED};
use operator_core::stores::{KeyedRow, KeyedRows, RowCodec, too_large};
use operator_core::{Batch, Context, Input, Operator, Path, Port, StateError, keys};

use crate::operator::{EnrichOperator, broken};
use crate::plan::EnrichPlan;

/// What the step keeps.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The key of the stream.
    pub id: Vec<Path>,
    pub codec: RowCodec,
    pub rows: KeyedRows,
}

impl Kept {
    /// `types`: those of the columns of `id`.
    pub fn new(id: Vec<Path>, types: Vec<DataType>, codec: RowCodec) -> Kept {
        Kept { id, rows: KeyedRows::new(1, Vec::new(), types, codec.clone()), codec }
    }
}

/// One enrich step over changes in one partition.
#[derive(Debug)]
pub struct EnrichChanges {
    plan: Arc<EnrichPlan>,
    kept: Kept,
    lookups: EnrichOperator,
}

impl EnrichChanges {
    pub fn new(plan: Arc<EnrichPlan>, kept: Kept) -> EnrichChanges {
        EnrichChanges { lookups: EnrichOperator::new(plan.clone()), plan, kept }
    }

    fn id(&self, batch: &Batch) -> Result<Vec<ArrayRef>, StateError> {
        let (schema, columns) = (batch.rows.schema(), batch.rows.columns());
        let values = self.kept.id.iter().map(|path| path.values(schema.fields(), columns).as_ref().map(keys::canonical));
        values.collect::<Option<_>>().ok_or_else(|| StateError::new("the batch has no key columns"))
    }

    /// Rows as they are kept, with the system columns of the rows at `places` of the batch.
    fn output(&self, user: Vec<ArrayRef>, batch: &Batch, places: Vec<u32>) -> Result<RecordBatch, StateError> {
        let of = take_record_batch(&batch.rows, &UInt32Array::from(places)).map_err(broken)?;
        let schema = of.schema();
        let system = schema.fields().iter().zip(of.columns()).filter(|(field, _)| is_system(field.name()));
        let columns = user.into_iter().chain(system.map(|(_, column)| column.clone())).collect();
        RecordBatch::try_new(self.plan.schema.clone(), columns).map_err(broken)
    }
}

impl Operator for EnrichChanges {
    fn on_batch(&mut self, _: Input, batch: &Batch, cx: &mut Context<'_>) -> Result<(), StateError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let signs = changes::signs(&batch.rows)?;
        let come: BooleanArray = signs.iter().map(|sign| Some(*sign == ADDED)).collect();
        let added = batch.with_rows(filter_record_batch(&batch.rows, &come).map_err(broken)?);
        let (found, mut fates) = self.lookups.look_up(&added, cx)?;
        let schema = found.schema();
        let user = schema.fields().iter().zip(found.columns()).filter(|(field, _)| !is_system(field.name()));
        let writer = self.kept.codec.writer(&user.map(|(_, column)| column.clone()).collect::<Vec<_>>())?;
        let mut out = self.kept.codec.reader()?;
        let ids = self.id(batch)?;
        let (mut id, mut row) = (Vec::new(), Vec::new());
        let (mut places, mut unknown, mut next) = (Vec::new(), 0, 0);
        for (place, sign) in signs.iter().enumerate() {
            id.clear();
            keys::encode(&ids, place, &mut id);
            row.clear();
            if *sign == ADDED {
                let of_added = next;
                next += 1;
                if !fates.kept.get(of_added).copied().unwrap_or_default() {
                    continue;
                }
                writer.put(of_added, &mut row);
                if let Some(cause) = too_large(&id, &row) {
                    fates.leave_out(of_added, Some((cause, false)));
                    continue;
                }
                self.kept.rows.put(&[], &KeyedRow { id: &id, time: 0, row: &row }, cx.state())?;
            } else if self.kept.rows.get(&[], &id, &*cx.state(), &mut row)?.is_some() {
                self.kept.rows.delete(&[], &id, cx.state())?;
            } else {
                unknown += 1;
                continue;
            }
            out.push(&row)?;
            places.push(place as u32);
        }
        let passed = places.len();
        let rows = self.output(out.take()?, batch, places)?;
        cx.pass(Port::OUT, rows, passed);
        cx.filtered(unknown);
        fates.report(&added, cx);
        Ok(())
    }
}
