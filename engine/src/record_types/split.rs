//! The step behind a source with several types: a port for each.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, StructArray, UInt32Array, UnionArray};
use arrow::compute::take;
use arrow::datatypes::{Field, SchemaRef};
use operator_core::{Batch, Context, Input, KeyEffect, Operator, OutputPort, Planned, Port, StateError};

use super::{RECORDS, Types};

/// The step for rows of `input`, the source's.
pub fn split(types: &Types, input: &SchemaRef) -> Planned {
    let about: Vec<Arc<Field>> = input.fields().iter().filter(|field| field.name() != RECORDS).cloned().collect();
    let ports = types.ports().map(|(name, columns)| {
        let fields = columns.fields().iter().chain(&about).cloned().collect::<Vec<_>>();
        let schema: SchemaRef = Arc::new(arrow::datatypes::Schema::new(fields));
        OutputPort { name: name.to_string(), lossy_if_unread: true, ..OutputPort::main(schema, KeyEffect::Unchanged) }
    });
    let outputs: Vec<OutputPort> = ports.collect();
    let schemas: Arc<[SchemaRef]> = outputs.iter().map(|port| port.schema.clone()).collect();
    let main = OutputPort::main(input.clone(), KeyEffect::Unchanged);
    let details = vec![("type".to_string(), types.described())];
    Planned { outputs, details, ..Planned::stateless(main, move || Box::new(Split(schemas.clone()))) }
}

/// Keeps nothing but the columns of its ports.
struct Split(Arc<[SchemaRef]>);

impl Operator for Split {
    fn on_batch(&mut self, _: Input, batch: &Batch, cx: &mut Context<'_>) -> Result<(), StateError> {
        let broken = |e: String| StateError::new(format!("rows of several types: {e}"));
        let rows = &batch.rows;
        let records = rows.column_by_name(RECORDS).and_then(|column| column.as_any().downcast_ref::<UnionArray>());
        let records = records.ok_or_else(|| broken(format!("no column `{RECORDS}`")))?;
        let about: Vec<&ArrayRef> =
            rows.schema_ref().fields().iter().zip(rows.columns()).filter(|(field, _)| field.name() != RECORDS).map(|(_, c)| c).collect();
        let mut of_type: Vec<(Vec<u32>, Vec<u32>)> = vec![Default::default(); self.0.len()];
        for row in 0..records.len() {
            let Some((at, within)) = of_type.get_mut(records.type_id(row) as usize) else { return Err(broken("an unknown type".into())) };
            at.push(row as u32);
            within.push(records.value_offset(row) as u32);
        }
        for (port, ((at, within), schema)) in of_type.into_iter().zip(self.0.iter()).enumerate().filter(|(_, ((at, _), _))| !at.is_empty())
        {
            let of = records.child(port as i8).as_any().downcast_ref::<StructArray>().ok_or_else(|| broken("not a row".into()))?;
            let n = at.len();
            // All of its rows, in order: as they are in every batch that nothing was filtered from.
            let whole = n == of.len() && within.iter().enumerate().all(|(n, place)| n as u32 == *place);
            let (at, within) = (UInt32Array::from(at), UInt32Array::from(within));
            let own = of.columns().iter().map(|column| if whole { Ok(column.clone()) } else { take(column, &within, None) });
            let about = about.iter().map(|column| if n == rows.num_rows() { Ok((*column).clone()) } else { take(*column, &at, None) });
            let columns = own.chain(about).collect::<Result<Vec<_>, _>>().map_err(|e| broken(e.to_string()))?;
            let options = RecordBatchOptions::new().with_row_count(Some(n));
            let batch = RecordBatch::try_new_with_options(schema.clone(), columns, &options).map_err(|e| broken(e.to_string()))?;
            cx.pass(Port(port as u16), batch, n);
        }
        Ok(())
    }
}
