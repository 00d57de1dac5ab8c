//! Rows per second through one window operator on one core, with its state in a `BTreeMap`: batches of 4,096 rows with
//! 1,250 groups each, in two windows of a minute that close on the way.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use operator_core::batch::system_fields;
use operator_core::{Batch, Context, Input, InputInfo, Ledger, MemoryState, Mode, Origin, PlanCx, Planned, Spec, Table, Time};
use operator_window::Window;

const BATCHES: usize = 32;
const ROWS: usize = 4096;
const GROUPS: usize = 1250;
const MINUTE: i64 = 60_000;

fn schema() -> SchemaRef {
    let user = [
        Field::new("sku", DataType::Utf8, false),
        Field::new("order", DataType::Int64, false),
        Field::new("price", DataType::Decimal128(12, 2), false),
        Field::new("weight", DataType::Float64, false),
    ];
    Arc::new(Schema::new(user.into_iter().chain(system_fields()).collect::<Vec<_>>()))
}

/// Rows in order of time, two minutes in all; numbers from a linear congruential generator.
fn batches() -> Vec<Batch> {
    let mut seed = 7u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize
    };
    let step = 2 * MINUTE as usize;
    (0..BATCHES)
        .map(|batch| {
            let first = batch * ROWS;
            let time = |row: usize| ((first + row) * step / (BATCHES * ROWS)) as i64;
            let skus: StringArray = (0..ROWS).map(|_| Some(format!("product-{:05}", random() % GROUPS))).collect();
            let prices = Decimal128Array::from_iter_values((0..ROWS).map(|_| (random() % 100_000) as i128));
            let prices = prices.with_precision_and_scale(12, 2).expect("a valid decimal");
            let columns: Vec<ArrayRef> = vec![
                Arc::new(skus),
                Arc::new(Int64Array::from_iter_values((0..ROWS).map(|row| (first + row) as i64 / 3))),
                Arc::new(prices),
                Arc::new(Float64Array::from_iter_values((0..ROWS).map(|_| (random() % 1_000_000) as f64 / 977.0))),
                Arc::new(TimestampMillisecondArray::from_iter_values((0..ROWS).map(time)).with_timezone("UTC")),
                Arc::new(Int64Array::from_iter_values((0..ROWS).map(|row| time(row) - 1_000))),
                Arc::new(Int64Array::from_iter_values((0..ROWS).map(|row| (first + row) as i64))),
                Arc::new(BooleanArray::from(vec![false; ROWS])),
            ];
            let rows = RecordBatch::try_new(schema(), columns).expect("columns of the schema");
            let origin = Origin { topic: "bench".into(), partition: 0, from: first as i64 - 1, to: (first + ROWS) as i64 - 1 };
            Batch::new(rows, origin)
        })
        .collect()
}

fn plan(spec: &str) -> Planned {
    let window: Window = serde_json::from_str(spec).expect("a window");
    let input = InputInfo { schema: schema(), key: None, mode: Mode::Append };
    match window.plan(&PlanCx::new(&input, &BTreeMap::new())) {
        Ok(planned) => planned,
        Err(problems) => panic!("{problems:?}"),
    }
}

/// One operator from its first row to its last result; the number of result batches.
fn run(planned: &Planned, batches: &[Batch]) -> usize {
    let mut operator = (planned.build)();
    let (mut emitted, mut rejected, mut ledger, mut state) = (Vec::new(), Vec::new(), Ledger::default(), MemoryState::default());
    let tables: BTreeMap<String, Table> = BTreeMap::new();
    let mut cx = Context::new(&mut emitted, &mut rejected, &mut ledger, &mut state, &tables);
    let mut time = Time::default();
    for (n, batch) in batches.iter().enumerate() {
        operator.on_batch(Input::ONLY, batch, &mut cx).expect("a batch");
        time.watermark = (n as i64 + 1) * 2 * MINUTE / BATCHES as i64;
        operator.on_time(time, &mut cx).expect("time");
    }
    assert_eq!((ledger.held, ledger.passed as usize), (0, BATCHES * ROWS));
    emitted.len()
}

fn windows(c: &mut Criterion) {
    let batches = batches();
    let mut group = c.benchmark_group("window");
    group.throughput(Throughput::Elements((BATCHES * ROWS) as u64)).sample_size(20);
    for (name, spec) in [
        ("count, sum of decimals", r#"{"tumbling":"1m","by":["sku"],"compute":{"n":"count(*)","s":"sum(price)"}}"#),
        ("count, sum of doubles", r#"{"tumbling":"1m","by":["sku"],"compute":{"n":"count(*)","s":"sum(weight)"}}"#),
        ("count(DISTINCT order), sum", r#"{"tumbling":"1m","by":["sku"],"compute":{"n":"count(DISTINCT order)","s":"sum(price)"}}"#),
        (
            "one group, six aggregates",
            r#"{"tumbling":"1m","by":[],"compute":{"n":"count(*)","s":"sum(price)","w":"sum(weight)","lo":"min(price)","hi":"max(sku)","p":"approx_percentile(weight, 0.99)"}}"#,
        ),
        ("on update", r#"{"tumbling":"1m","by":["sku"],"compute":{"n":"count(*)","s":"sum(price)"},"emit":"on_update"}"#),
    ] {
        let planned = plan(spec);
        group.bench_function(name, |b| b.iter(|| black_box(run(&planned, &batches))));
    }
    group.finish();
}

criterion_group!(benches, windows);
criterion_main!(benches);
