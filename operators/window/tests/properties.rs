//! What must hold for any rows, cut in any way, interrupted anywhere.

mod driver;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
use arrow::datatypes::{DataType, SchemaRef};
use driver::{Driver, batch, schema};
use operator_core::stores::bytes::Reader;
use operator_core::{Batch, Millis, NO_WATERMARK};
use operator_window::exact::ExactSum;
use operator_window::sketch::Sketch;
use proptest::prelude::*;

const OUT_OF_ORDER: Millis = 500;

#[derive(Clone, Debug)]
struct Row {
    sku: Option<&'static str>,
    n: Option<i64>,
    x: Option<f64>,
    /// Moves the partition's time on by up to this much.
    step: Millis,
    /// How far the row is behind the newest.
    behind: Millis,
}

/// How a run is cut and interrupted, after each row: nothing, a new batch, a new worker, or a batch that is worked on,
/// thrown away and read again.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cut {
    None,
    Batch,
    Time,
    Restart,
    Abort,
}

fn row() -> impl Strategy<Value = Row> {
    let sku = prop_oneof![Just(Some("a")), Just(Some("b")), Just(Some("")), Just(None)];
    let n = prop_oneof![3 => (0i64..5).prop_map(Some), 1 => Just(None), 1 => Just(Some(i64::MAX - 3)), 1 => Just(Some(-7))];
    let x = prop_oneof![
        4 => (-1e6..1e6).prop_map(Some),
        1 => prop::sample::select(vec![None, Some(1e300), Some(-1e300), Some(1e-300), Some(f64::NAN), Some(f64::INFINITY), Some(-0.0)]),
    ];
    (sku, n, x, 0i64..700, 0i64..3_000).prop_map(|(sku, n, x, step, behind)| Row { sku, n, x, step, behind })
}

fn cut() -> impl Strategy<Value = Cut> {
    prop_oneof![4 => Just(Cut::None), 2 => Just(Cut::Batch), 2 => Just(Cut::Time), 1 => Just(Cut::Restart), 1 => Just(Cut::Abort)]
}

fn row_schema() -> SchemaRef {
    schema(&[("sku", DataType::Utf8), ("n", DataType::Int64), ("x", DataType::Float64)])
}

/// All rows as one batch, with the time and the watermark that their partition gives them.
fn stamped(rows: &[Row]) -> (Batch, Vec<Millis>) {
    let mut newest = -3_000;
    let mut watermark = NO_WATERMARK;
    let (mut times, mut after) = (Vec::new(), Vec::new());
    for row in rows {
        newest += row.step;
        times.push((newest - row.behind, watermark));
        watermark = watermark.max(newest - row.behind - OUT_OF_ORDER);
        after.push(watermark);
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter(rows.iter().map(|r| r.sku))),
        Arc::new(Int64Array::from_iter(rows.iter().map(|r| r.n))),
        Arc::new(Float64Array::from_iter(rows.iter().map(|r| r.x))),
    ];
    (batch(&row_schema(), columns, &times, 100), after)
}

fn slice(all: &Batch, from: usize, to: usize) -> Batch {
    all.with_rows(all.rows.slice(from, to - from))
}

/// Runs the rows cut as told; the log, one list per port in its order.
fn run(spec: &str, rows: &[Row], cuts: &[Cut]) -> (BTreeMap<String, Vec<String>>, Driver) {
    let (all, watermarks) = stamped(rows);
    let mut driver = Driver::new(spec, &row_schema());
    let mut from = 0;
    for (row, watermark) in watermarks.iter().enumerate() {
        let cut = cuts.get(row).copied().unwrap_or(Cut::None);
        if cut == Cut::None {
            continue;
        }
        let batch = slice(&all, from, row + 1);
        from = row + 1;
        if cut == Cut::Abort {
            let before = (driver.state.clone(), driver.log.len(), driver.ledger, driver.rows_in, driver.time);
            driver.batch(&batch);
            driver.time(*watermark);
            driver.log.truncate(before.1);
            (driver.state, driver.ledger, driver.rows_in, driver.time) = (before.0, before.2, before.3, before.4);
            driver.rewind();
        }
        driver.batch(&batch);
        if cut != Cut::Batch {
            driver.time(*watermark);
        }
        if cut == Cut::Restart {
            driver.restart();
        }
    }
    driver.batch(&slice(&all, from, rows.len()));
    driver.time(1_000_000_000);
    let mut ports: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in driver.taken() {
        // A result that is a dead letter comes when its window closes, which is a matter of time.
        let port = if line.starts_with("reject") && line.contains("window_start=") { "unfit" } else { line.split(' ').next().unwrap() };
        let port = port.to_string();
        ports.entry(port).or_default().push(line);
    }
    (ports, driver)
}

const ALL: &str = r#""compute":{"rows":"count(*)","values":"count(n)","kinds":"count(DISTINCT n)","pairs":"count(DISTINCT n, x)",
    "total":"sum(n)","mean":"avg(n)","sum":"sum(x)","avg":"avg(x)","low":"min(x)","high":"max(sku)","open":"first(n)","close":"last(x)",
    "p":"approx_percentile(x, 0.9)"}"#;

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn results_do_not_depend_on_batches_or_restarts(
        rows in prop::collection::vec(row(), 0..60),
        cuts in prop::collection::vec(cut(), 60),
        shape in prop::sample::select(vec![
            r#""tumbling":"1s","by":["sku"]"#,
            r#""tumbling":"1s","by":["sku"],"emit":"on_update","lateness":"300ms""#,
            r#""hopping":{"size":"2s","every":"500ms"},"by":["sku"],"lateness":"700ms""#,
            r#""hopping":{"size":"3s","every":"1s"},"by":[],"emit":"on_update""#,
        ]),
    ) {
        let spec = format!("{{{shape},{ALL}}}");
        let (whole, _) = run(&spec, &rows, &[]);
        let (alone, _) = run(&spec, &rows, &vec![Cut::Time; rows.len()]);
        prop_assert_eq!(&whole, &alone);
        let (cut, driver) = run(&spec, &rows, &cuts);
        prop_assert_eq!(&whole, &cut);
        prop_assert_eq!(driver.ledger.held, 0);
        prop_assert!(driver.state.entries.len() <= 1, "nothing but the watermark of the last closing is left");
    }

    #[test]
    fn counts_and_sums_are_those_of_a_plain_model(rows in prop::collection::vec(row(), 0..60), cuts in prop::collection::vec(cut(), 60)) {
        let rows: Vec<Row> = rows.into_iter().map(|r| Row { n: r.n.map(|n| n % 10), ..r }).collect();
        let spec = r#"{"hopping":{"size":"2s","every":"500ms"},"lateness":"300ms","by":["sku"],
            "compute":{"rows":"count(*)","total":"sum(n)","kinds":"count(DISTINCT n)"}}"#;
        let (ports, driver) = run(spec, &rows, &cuts);

        let (all, _) = stamped(&rows);
        type Group = (i64, Option<i64>, BTreeSet<i64>);
        let mut model: BTreeMap<(Millis, Option<&str>), Group> = BTreeMap::new();
        let mut late = 0;
        for (index, row) in rows.iter().enumerate() {
            let (time, watermark) = (all.times().unwrap().value(index), all.watermarks().unwrap().value(index));
            let mut open = false;
            for end in (-100..200).map(|n| n * 500).filter(|end| end - 2_000 <= time && time < *end && end + 300 > watermark) {
                open = true;
                let group = model.entry((end, row.sku)).or_default();
                group.0 += 1;
                if let Some(n) = row.n {
                    group.1 = Some(group.1.unwrap_or(0) + n);
                    group.2.insert(n);
                }
            }
            late += u64::from(!open);
        }
        let null = |n: Option<i64>| n.map_or("null".to_string(), |n| n.to_string());
        let mut expected: Vec<String> = model
            .iter()
            .map(|((end, sku), (rows, total, kinds))| format!(
                "out sku={} window_start={} window_end={end} rows={rows} total={} kinds={} @{}",
                sku.unwrap_or("null"), end - 2_000, null(*total), kinds.len(), end - 1
            ))
            .collect();
        let mut out = ports.get("out").cloned().unwrap_or_default();
        expected.sort();
        out.sort();
        prop_assert_eq!(out, expected);
        prop_assert_eq!(driver.ledger.late, late);
        prop_assert_eq!(driver.ledger.rejected, 0);
    }

    /// Doubles that are whole multiples of 2^-40 below 2^73: their sum fits 128 bits of fixed point exactly.
    #[test]
    fn sums_of_doubles_are_exact_and_rounded_once(parts in prop::collection::vec((-(1i64 << 53)..(1i64 << 53), 0u32..60), 0..200)) {
        let mut sum = ExactSum::default();
        let mut exact = 0i128;
        for (mantissa, shift) in &parts {
            sum.add(*mantissa as f64 * f64::powi(2.0, *shift as i32 - 40));
            exact += i128::from(*mantissa) << shift;
        }
        prop_assert_eq!(sum.value(), Some(exact as f64 * f64::powi(2.0, -40)));
    }

    #[test]
    fn sums_of_doubles_do_not_depend_on_order_or_interruption(
        (numbers, shuffled) in prop::collection::vec(any::<f64>().prop_filter("finite", |x| x.is_finite()), 0..80)
            .prop_flat_map(|numbers| (Just(numbers.clone()), Just(numbers).prop_shuffle())),
    ) {
        let mut sum = ExactSum::default();
        numbers.iter().for_each(|x| sum.add(*x));
        let mut other = ExactSum::default();
        for x in &shuffled {
            other.add(*x);
            let mut bytes = Vec::new();
            other.encode(&mut bytes);
            other = ExactSum::decode(&mut Reader::new(&bytes)).unwrap();
        }
        prop_assert_eq!(sum.value().map(f64::to_bits), other.value().map(f64::to_bits));
        // The negative of every number brings the sum back to nothing at all.
        shuffled.iter().for_each(|x| sum.add(-x));
        prop_assert_eq!(sum.value(), Some(0.0));
    }

    #[test]
    fn sketches_do_not_depend_on_order(
        (numbers, shuffled) in prop::collection::vec(any::<f64>().prop_filter("finite", |x| x.is_finite()), 1..300)
            .prop_flat_map(|numbers| (Just(numbers.clone()), Just(numbers).prop_shuffle())),
    ) {
        let (mut one, mut other) = (Sketch::default(), Sketch::default());
        numbers.iter().for_each(|x| one.add(*x));
        shuffled.iter().for_each(|x| other.add(*x));
        prop_assert_eq!(&one, &other);
        let mut sorted = numbers;
        sorted.sort_by(f64::total_cmp);
        for p in [0.0, 0.5, 0.95, 1.0] {
            let exact = sorted[(p * (sorted.len() - 1) as f64) as usize];
            let answer = one.quantile(p).unwrap();
            prop_assert!((answer - exact).abs() <= exact.abs() * 0.010_001 + 1e-320, "p={}: {} for {}", p, answer, exact);
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Some(sum) = ExactSum::decode(&mut Reader::new(&bytes)) {
            let mut again = Vec::new();
            sum.encode(&mut again);
            prop_assert!(again.len() <= bytes.len(), "nothing was made up");
        }
        if let Some(sketch) = Sketch::decode(&mut Reader::new(&bytes)) {
            prop_assert!(sketch.quantile(0.5).is_none_or(|x| !x.is_nan()));
        }
    }
}
