//! Windows over rows that come and go: what is left of the results is what the rows that are left make, however changes of different
//! rows interleave, are cut into batches and are interrupted.

mod driver;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int8Array, Int64Array, RecordBatch, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Float64Type, Int8Type, Int64Type, SchemaRef, TimestampMillisecondType};
use driver::{Driver, changing};
use operator_core::{Batch, CHANGE, Mode, NO_WATERMARK, Origin, Path};
use proptest::prelude::*;

/// A row: key, group, value, event time.
type Row = (i64, i64, Option<i64>, i64);

/// What comes in, with the sign of each row; an update is two of them.
fn changes(ops: &[(i64, Option<(i64, Option<i64>, i64)>)]) -> (Vec<Vec<(i8, Row)>>, BTreeMap<i64, Row>) {
    let mut there: BTreeMap<i64, Row> = BTreeMap::new();
    let mut all = Vec::new();
    for (key, new) in ops {
        let old = there.remove(key);
        let new = new.map(|(group, n, time)| (*key, group, n, time));
        new.map(|new| there.insert(*key, new));
        let change: Vec<(i8, Row)> = old.map(|row| (-1, row)).into_iter().chain(new.map(|row| (1, row))).collect();
        all.extend((!change.is_empty()).then_some(change));
    }
    (all, there)
}

/// Changes of two sources, whose rows are different ones, as one of the orders in which they can arrive.
fn interleaved(mut sources: [Vec<Vec<(i8, Row)>>; 2], order: &[bool]) -> Vec<Vec<(i8, Row)>> {
    sources.iter_mut().for_each(|changes| changes.reverse());
    let mut all = Vec::new();
    let mut order = order.iter().cycle();
    while sources.iter().any(|changes| !changes.is_empty()) {
        let first = usize::from(order.next().copied().unwrap_or_default());
        all.extend(sources[first].pop().or_else(|| sources[1 - first].pop()));
    }
    all
}

fn columns() -> SchemaRef {
    changing(&[("id", DataType::Int64), ("g", DataType::Int64), ("n", DataType::Int64), ("x", DataType::Float64)])
}

/// Records, of which the first has the offset `first`.
fn batch(records: &[Vec<(i8, Row)>], first: i64) -> Batch {
    let rows = records.concat();
    let offsets = records.iter().zip(first..).flat_map(|(record, offset)| record.iter().map(move |_| offset));
    let columns_of: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, row)| row.0))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, row)| row.1))),
        Arc::new(Int64Array::from_iter(rows.iter().map(|(_, row)| row.2))),
        Arc::new(arrow::array::Float64Array::from_iter(rows.iter().map(|(_, row)| double(row)))),
        Arc::new(TimestampMillisecondArray::from_iter_values(rows.iter().map(|(_, row)| row.3)).with_timezone("UTC")),
        Arc::new(Int64Array::from(vec![NO_WATERMARK; rows.len()])),
        Arc::new(Int64Array::from_iter_values(offsets)),
        Arc::new(BooleanArray::from(vec![false; rows.len()])),
        Arc::new(Int8Array::from_iter_values(rows.iter().map(|(change, _)| *change))),
    ];
    let origin = Origin { topic: "t".into(), partition: 0, from: first - 1, to: first + records.len() as i64 - 1 };
    Batch::new(RecordBatch::try_new(columns(), columns_of).unwrap(), origin)
}

/// Of very different sizes: taking one off must bring back exactly what was there before it came.
fn double(row: &Row) -> Option<f64> {
    row.2.map(|n| n as f64 * 0.1 * 10f64.powi((row.0 * 37 % 60) as i32 - 30))
}

/// Group, end of the window, and the computed columns.
type Answer = BTreeMap<(i64, i64), (i64, i64, Option<i64>, i64, Option<f64>)>;

const COMPUTE: &str =
    r#""by":["g"],"compute":{"rows":"count(*)","known":"count(n)","total":"sum(n)","kinds":"count(DISTINCT n)","x":"sum(x)"}"#;

/// What `rows` make.
fn expected(rows: impl Iterator<Item = Row>, end: impl Fn(i64) -> i64) -> Answer {
    let mut groups: BTreeMap<(i64, i64), Vec<Row>> = BTreeMap::new();
    rows.for_each(|row| groups.entry((row.1, end(row.3))).or_default().push(row));
    let of = |rows: Vec<Row>| {
        let known: Vec<i64> = rows.iter().filter_map(|row| row.2).collect();
        let total = (!known.is_empty()).then(|| known.iter().sum());
        let mut sum = operator_window::exact::ExactSum::default();
        rows.iter().filter_map(double).for_each(|x| sum.add(x));
        let x = if known.is_empty() { None } else { sum.value() };
        (rows.len() as i64, known.len() as i64, total, known.iter().collect::<BTreeSet<_>>().len() as i64, x)
    };
    groups.into_iter().map(|(group, rows)| (group, of(rows))).collect()
}

/// What the emitted rows say, and how often each is there.
fn answers(rows: &RecordBatch, row: usize) -> ((i64, i64), (i64, i64, Option<i64>, i64, Option<f64>)) {
    let number = |name: &str| rows.column_by_name(name).unwrap().as_primitive::<Int64Type>();
    let known = |name: &str| Some(number(name)).filter(|c| c.is_valid(row)).map(|c| c.value(row));
    let x = rows.column_by_name("x").unwrap().as_primitive::<Float64Type>();
    let end = rows.column_by_name("window_end").map_or(0, |c| c.as_primitive::<TimestampMillisecondType>().value(row));
    let x = x.is_valid(row).then(|| x.value(row));
    let known_rows = known("known").unwrap();
    ((known("g").unwrap(), end), (known("rows").unwrap(), known_rows, known("total"), known("kinds").unwrap(), x))
}

/// Applies changes, each of which must take away what is there.
fn folded(batches: &[RecordBatch]) -> Answer {
    let mut there = Answer::new();
    for rows in batches {
        let signs = rows.column_by_name(CHANGE).unwrap().as_primitive::<Int8Type>();
        for row in 0..rows.num_rows() {
            let (key, values) = answers(rows, row);
            match signs.value(row) {
                -1 => assert_eq!(there.remove(&key), Some(values), "what is gone was there"),
                _ => assert_eq!(there.insert(key, values), None, "one result per group"),
            }
        }
    }
    there
}

fn ops(keys: std::ops::Range<i64>) -> impl Strategy<Value = Vec<(i64, Option<(i64, Option<i64>, i64)>)>> {
    let row = (0i64..3, prop::option::weighted(0.9, -3i64..4), 0i64..30);
    prop::collection::vec((keys, prop::option::weighted(0.7, row)), 0..25)
}

fn run(spec: &str, changes: &[Vec<(i8, Row)>], cuts: &[bool]) -> Driver {
    let mut driver = Driver::of(spec, &columns(), Mode::Changes { key: vec![Path::column("id")], row_time: true });
    let (mut pending, mut first) = (Vec::new(), 0);
    for (nth, change) in changes.iter().enumerate() {
        pending.push(change.clone());
        if cuts.get(nth).copied().unwrap_or_default() {
            driver.batch(&batch(&pending, first));
            first += pending.len() as i64;
            pending.clear();
            if nth % 3 == 0 {
                driver.restart();
            }
        }
    }
    driver.batch(&batch(&pending, first));
    driver
}

proptest! {
    #[test]
    fn what_is_left_of_results_is_what_rows_that_are_left_make(
        a in ops(0..4),
        b in ops(4..8),
        order in prop::collection::vec(any::<bool>(), 1..50),
        cuts in prop::collection::vec(any::<bool>(), 50),
    ) {
        let ((a, of_a), (b, of_b)) = (changes(&a), changes(&b));
        let all = interleaved([a, b], &order);
        let rows = || of_a.values().chain(of_b.values()).copied();

        let unbounded = format!(r#"{{"unbounded":true,"emit":"changes",{COMPUTE}}}"#);
        let driver = run(&unbounded, &all, &cuts);
        prop_assert_eq!(folded(&driver.out), expected(rows(), |_| 0));
        // Groups whose rows are gone leave nothing behind.
        let groups = expected(rows(), |_| 0);
        let entries = groups.values().map(|(.., kinds, _)| 1 + *kinds as usize).sum::<usize>();
        prop_assert_eq!(driver.state.entries.len(), entries);

        let tumbling = |emit: &str| format!(r#"{{"tumbling":"10ms","emit":"{emit}",{COMPUTE}}}"#);
        let end = |time: i64| time - time % 10 + 10;
        prop_assert_eq!(folded(&run(&tumbling("changes"), &all, &cuts).out), expected(rows(), end));
        let mut driver = run(&tumbling("on_close"), &all, &cuts);
        driver.time(100);
        let closed: Answer = driver.out.iter().flat_map(|rows| (0..rows.num_rows()).map(|row| answers(rows, row))).collect();
        prop_assert_eq!(closed, expected(rows(), end));
        prop_assert_eq!(driver.ledger.held, 0);
    }
}
