//! No answer depends on the order in which partitions arrive (rule R11): the same rows, interleaved otherwise, give the same
//! results for every aggregate.

mod driver;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal128Array, Float64Array, Int64Array, StringArray, UInt64Array};
use arrow::datatypes::{DataType, SchemaRef};
use driver::{Driver, batch, schema};
use operator_core::{Batch, NO_WATERMARK, Origin};
use proptest::prelude::*;

/// Topic and partition of each source of rows.
const SOURCES: [(&str, i32); 4] = [("a", 0), ("a", 1), ("b", 0), ("b", 2)];
const MOST: i128 = 10i128.pow(38) - 1;

#[derive(Clone, Debug)]
struct Row {
    source: usize,
    g: Option<f64>,
    n: Option<i64>,
    u: Option<u64>,
    d: Option<i128>,
    x: Option<f64>,
    t: Option<&'static str>,
    time: i64,
}

fn numbers() -> impl Strategy<Value = (Option<i64>, Option<u64>, Option<i128>)> {
    let n = prop::sample::select(vec![None, Some(0), Some(1), Some(-1), Some(7), Some(i64::MAX), Some(i64::MIN)]);
    let u = prop::sample::select(vec![None, Some(0), Some(1), Some(u64::MAX)]);
    let d = prop::sample::select(vec![None, Some(0), Some(1), Some(-1), Some(MOST), Some(-MOST), Some(MOST / 3)]);
    (n, u, d)
}

fn row(nan: bool) -> impl Strategy<Value = Row> {
    let mut doubles = vec![None, Some(0.0), Some(-0.0), Some(0.1), Some(-3.5), Some(1e300), Some(f64::MAX), Some(-f64::MAX), Some(5e-324)];
    doubles.extend(nan.then_some(Some(f64::NAN)));
    let g = prop::sample::select(vec![None, Some(0.0), Some(-0.0), Some(1.5)]);
    let t = prop::sample::select(vec![None, Some(""), Some("a"), Some("ä"), Some("b")]);
    (0..SOURCES.len(), g, numbers(), prop::sample::select(doubles), t, 0i64..4).prop_map(|(source, g, (n, u, d), x, t, time)| Row {
        source,
        g,
        n,
        u,
        d,
        x,
        t,
        time: time * 400,
    })
}

/// The rows in an order, and in another that keeps the order of each source.
fn interleaved(nan: bool) -> impl Strategy<Value = (Vec<Row>, Vec<Row>)> {
    prop::collection::vec(row(nan), 0..24).prop_flat_map(|rows| (Just(rows.clone()), Just(rows).prop_shuffle())).prop_map(
        |(rows, other)| {
            let mut left: Vec<Vec<Row>> = vec![Vec::new(); SOURCES.len()];
            rows.iter().rev().for_each(|row| left[row.source].push(row.clone()));
            let other = other.iter().map(|row| left[row.source].pop().unwrap()).collect();
            (rows, other)
        },
    )
}

fn row_schema() -> SchemaRef {
    schema(&[
        ("g", DataType::Float64),
        ("n", DataType::Int64),
        ("u", DataType::UInt64),
        ("d", DataType::Decimal128(38, 3)),
        ("x", DataType::Float64),
        ("t", DataType::Utf8),
    ])
}

fn batch_of(row: &Row, offset: i64) -> Batch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Float64Array::from(vec![row.g])),
        Arc::new(Int64Array::from(vec![row.n])),
        Arc::new(UInt64Array::from(vec![row.u])),
        Arc::new(Decimal128Array::from(vec![row.d]).with_precision_and_scale(38, 3).unwrap()),
        Arc::new(Float64Array::from(vec![row.x])),
        Arc::new(StringArray::from(vec![row.t])),
    ];
    let (topic, partition) = SOURCES[row.source];
    let origin = Origin { topic: topic.into(), partition, from: offset - 1, to: offset };
    Batch { origin, ..batch(&row_schema(), columns, &[(row.time, NO_WATERMARK)], offset) }
}

/// What came out: rows and dead letters, in order.
fn run(spec: &str, rows: &[Row]) -> Vec<String> {
    let mut driver = Driver::new(spec, &row_schema());
    let mut offsets = [0; SOURCES.len()];
    for row in rows {
        driver.batch(&batch_of(row, offsets[row.source]));
        offsets[row.source] += 1;
    }
    driver.time(1_000_000);
    driver.taken()
}

/// Every aggregate of every type it takes.
fn compute() -> String {
    let mut all = vec![r#""rows":"count(*)""#.to_string(), r#""pairs":"count(DISTINCT x, t)""#.to_string()];
    for column in ["n", "u", "d", "x", "t"] {
        let number = column != "t";
        for function in ["count", "min", "max", "first", "last"] {
            all.push(format!(r#""{function}_{column}":"{function}({column})""#));
        }
        for (function, order) in [("min_by", "n"), ("min_by", "t"), ("max_by", "d"), ("max_by", "u")] {
            all.push(format!(r#""{function}_{column}_{order}":"{function}({column}, {order})""#));
        }
        if number {
            all.push(format!(r#""least_{column}":"min_by(t, {column})","most_{column}":"max_by(t, {column})""#));
        }
        all.push(format!(r#""kinds_{column}":"count(DISTINCT {column})""#));
        for function in ["sum", "avg"].iter().filter(|_| number) {
            all.push(format!(r#""{function}_{column}":"{function}({column})""#));
        }
        for p in ["0", "0.5", "1"].iter().filter(|_| number) {
            all.push(format!(r#""p{p}_{column}":"approx_percentile({column}, {p})""#));
        }
    }
    format!(r#""compute":{{{}}}"#, all.join(","))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn closed_windows_do_not_depend_on_arrival(
        (rows, other) in interleaved(true),
        shape in prop::sample::select(vec![r#""tumbling":"1s","by":["g"]"#, r#""hopping":{"size":"2s","every":"1s"},"by":[]"#, r#""session":{"gap":"500ms"},"by":["g"]"#]),
    ) {
        let spec = format!("{{{shape},{}}}", compute());
        let (mut one, mut another) = (run(&spec, &rows), run(&spec, &other));
        one.sort();
        another.sort();
        prop_assert_eq!(one, another);
    }

    /// Intermediate results inherently depend on it; the newest of each group does not.
    #[test]
    fn running_totals_end_the_same((rows, other) in interleaved(false)) {
        let spec = format!(r#"{{"unbounded":true,"expire":"never","by":["g"],"emit":"on_update",{}}}"#, compute());
        let newest = |lines: Vec<String>| -> BTreeMap<String, String> {
            let of_group = |line: String| {
                let (what, _time) = line.rsplit_once('@').unwrap();
                let cause = line.split_once(": ").map_or("", |(_, cause)| cause);
                let group = what.split_whitespace().nth(1).unwrap();
                (group.to_string(), format!("{what}{cause}"))
            };
            lines.into_iter().map(of_group).collect()
        };
        prop_assert_eq!(newest(run(&spec, &rows)), newest(run(&spec, &other)));
    }
}
