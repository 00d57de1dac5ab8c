//! Commands per second through one aggregate on one core, with its state in a `BTreeMap`: batches of 8,192 reservations for as many SKUs, for
//! a hundred (rounds of a hundred) and for one (rounds of one row). Each has an entry, a timer, an id, an invariant and a change of the state.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, StructArray, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use operator_aggregate::Aggregate;
use operator_core::batch::system_fields;
use operator_core::{Batch, Context, Input, InputInfo, Ledger, MemoryState, Mode, Origin, PlanCx, Planned, Spec, Table, Timers};

const ROWS: usize = 8_192;

const RESERVATIONS: &str = r#"{
    "key": "data.sku",
    "state": { "on_hand": "long = 1000000000", "reserved": "long = 0" },
    "entries": { "reservation": { "key": "order_id", "of": "data.order_id", "columns": { "quantity": "long", "deadline": "timestamp" } } },
    "on": { "reserve": [
        { "when": "reservation.quantity IS NOT NULL", "reply": "reserved", "with": { "order_id": "data.order_id", "quantity": "reservation.quantity" } },
        { "when": "state.on_hand - state.reserved >= data.quantity", "emit": "reserved",
          "with": { "order_id": "data.order_id", "quantity": "data.quantity", "deadline": "_time + INTERVAL '15 minutes'" } },
        { "reject": "out_of_stock" }
    ] },
    "apply": {
        "reserved": { "reserved": "state.reserved + data.quantity", "reservation": { "quantity": "data.quantity", "deadline": "data.deadline" } },
        "expired": { "reserved": "state.reserved - data.quantity", "reservation": "delete" }
    },
    "timers": { "expiry": { "of": "reservation", "at": "reservation.deadline", "emit": "expired",
        "with": { "order_id": "reservation.order_id", "quantity": "reservation.quantity" } } },
    "invariants": { "not_oversold": "state.on_hand - state.reserved >= 0" }
}"#;

const COUNTER: &str = r#"{
    "key": "data.sku", "state": { "n": "long = 0" },
    "on": { "reserve": { "emit": "added", "with": { "quantity": "data.quantity" } } },
    "apply": { "added": { "n": "state.n + data.quantity" } }
}"#;

fn data() -> Fields {
    let text = |name| Field::new(name, DataType::Utf8, false);
    vec![text("sku"), text("order_id"), Field::new("quantity", DataType::Int64, false)].into()
}

fn schema() -> SchemaRef {
    let text = |name| Field::new(name, DataType::Utf8, false);
    let user = [text("eventId"), text("eventType"), Field::new("data", DataType::Struct(data()), false)];
    Arc::new(Schema::new(user.into_iter().chain(system_fields()).collect::<Vec<_>>()))
}

/// Commands for so many SKUs, one after the other.
fn batch(skus: usize) -> Batch {
    let texts = |of: &dyn Fn(usize) -> String| Arc::new(StringArray::from_iter_values((0..ROWS).map(of))) as ArrayRef;
    let numbers = |of: &dyn Fn(usize) -> i64| Arc::new(Int64Array::from_iter_values((0..ROWS).map(of))) as ArrayRef;
    let data =
        StructArray::new(data(), vec![texts(&|n| format!("SKU-{}", n % skus)), texts(&|n| format!("order-{n}")), numbers(&|_| 1)], None);
    let columns: Vec<ArrayRef> = vec![
        texts(&|n| format!("0190f5e2-{n:04x}-7000-8000-000000000000")),
        texts(&|_| "reserve".to_string()),
        Arc::new(data),
        Arc::new(TimestampMillisecondArray::from_iter_values((0..ROWS).map(|n| n as i64)).with_timezone("UTC")),
        numbers(&|_| 0),
        numbers(&|n| n as i64),
        Arc::new(BooleanArray::from(vec![false; ROWS])),
    ];
    let origin = Origin { topic: "bench".into(), partition: 0, from: -1, to: ROWS as i64 - 1 };
    Batch::new(RecordBatch::try_new(schema(), columns).expect("columns of the schema"), origin)
}

fn plan(spec: &str) -> Planned {
    let aggregate: Aggregate = serde_json::from_str(spec).expect("an aggregate");
    let input = InputInfo { schema: schema(), key: None, mode: Mode::Append };
    match aggregate.plan(&PlanCx::new(&input, &BTreeMap::new())) {
        Ok(planned) => planned,
        Err(problems) => panic!("{problems:?}"),
    }
}

fn run(planned: &Planned, batch: &Batch, state: &mut MemoryState) -> usize {
    let mut operator = (planned.build)();
    let (mut emitted, mut rejected, mut ledger, mut timers) = (Vec::new(), Vec::new(), Ledger::default(), Timers::default());
    let tables: BTreeMap<String, Table> = BTreeMap::new();
    let cx = Context::new(&mut emitted, &mut rejected, &mut ledger, state, &tables);
    operator.on_batch(Input::ONLY, batch, &mut cx.with_timers(Some(&mut timers), 0)).expect("a batch");
    assert_eq!((ledger.passed as usize, rejected.len()), (ROWS, 0));
    emitted.len()
}

fn rounds(c: &mut Criterion) {
    let mut group = c.benchmark_group("aggregate");
    group.throughput(Throughput::Elements(ROWS as u64)).sample_size(10);
    for (name, spec) in [("reservations", RESERVATIONS), ("counter", COUNTER)] {
        let planned = plan(spec);
        for skus in [ROWS, 100, 1] {
            let batch = batch(skus);
            group.bench_function(format!("{name}, {skus} keys"), |b| {
                b.iter_batched_ref(MemoryState::default, |state| black_box(run(&planned, &batch, state)), BatchSize::LargeInput);
            });
        }
    }
    group.finish();
}

criterion_group!(benches, rounds);
criterion_main!(benches);
