//! The scripts of `filter`, and what they can't show.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{BooleanArray, Int64Array, RecordBatch, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Schema};
use operator_core::batch::system_fields;
use operator_core::{Batch, Context, Input, InputInfo, Ledger, MemoryState, Mode, Origin, PlanCx, Spec, Table};
use operator_filter::Filter;

#[test]
fn scripts() {
    operator_script::check_dir::<Filter>(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts"));
}

#[test]
fn the_example_plans() {
    let plan = operator_script::plan_example::<Filter>(&BTreeMap::new()).unwrap();
    assert!(plan.starts_with("output out: eventId: string, data: struct<"), "{plan}");
}

#[test]
fn whole_batches_are_not_copied() {
    let [time, watermark, offset, future] = system_fields();
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true), time, watermark, offset, future]));
    let numbers = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let times = Arc::new(TimestampMillisecondArray::from(vec![0; 3]).with_timezone("UTC"));
    let zeros = Arc::new(Int64Array::from(vec![0; 3]));
    let rows =
        RecordBatch::try_new(schema.clone(), vec![numbers, times, zeros.clone(), zeros, Arc::new(BooleanArray::from(vec![false; 3]))])
            .unwrap();
    let spec: Filter = serde_json::from_str("\"n > 0\"").unwrap();
    let input = InputInfo { schema, key: None, mode: Mode::Append };
    let planned = spec.plan(&PlanCx::new(&input, &BTreeMap::new())).unwrap();
    let (mut emitted, mut rejected, mut ledger) = (Vec::new(), Vec::new(), Ledger::default());
    let (mut state, tables) = (MemoryState::default(), BTreeMap::<String, Table>::new());
    let batch = Batch::new(rows.clone(), Origin { topic: "t".into(), partition: 0, from: -1, to: 2 });
    let mut cx = Context::new(&mut emitted, &mut rejected, &mut ledger, &mut state, &tables);
    (planned.build)().on_batch(Input::ONLY, &batch, &mut cx).unwrap();
    assert!(Arc::ptr_eq(emitted[0].rows.column(0), rows.column(0)));
}
