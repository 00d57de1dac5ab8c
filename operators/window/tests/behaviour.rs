//! What a window does, case by case, against plain state in memory.

mod driver;

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Decimal128Array, Float64Array, Int64Array, StringArray};
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use driver::{Driver, batch, schema};
use operator_core::{Batch, NO_WATERMARK};

const COUNT: &str = r#"{"tumbling":"1m","by":["sku"],"compute":{"n":"count(*)"}}"#;
const SECOND: i64 = 1_000;

fn sku_schema() -> SchemaRef {
    schema(&[("sku", DataType::Utf8), ("x", DataType::Int64)])
}

/// sku, x, event second, watermark second or none
type Drawn<'a> = (Option<&'a str>, Option<i64>, i64, Option<i64>);

fn rows(rows: &[Drawn<'_>]) -> Batch {
    let skus: ArrayRef = Arc::new(StringArray::from_iter(rows.iter().map(|r| r.0)));
    let xs: ArrayRef = Arc::new(Int64Array::from_iter(rows.iter().map(|r| r.1)));
    let times: Vec<_> = rows.iter().map(|r| (r.2 * SECOND, r.3.map_or(NO_WATERMARK, |w| w * SECOND))).collect();
    batch(&sku_schema(), vec![skus, xs], &times, 0)
}

fn driver(spec: &str) -> Driver {
    Driver::new(spec, &sku_schema())
}

#[test]
fn a_window_is_emitted_once_when_time_has_passed_its_end() {
    let mut d = driver(COUNT);
    d.batch(&rows(&[(Some("b"), None, 5, None), (Some("a"), None, 59, Some(5)), (Some("a"), None, 61, Some(59))]));
    d.time(59_999);
    assert!(d.log.is_empty());
    d.time(60_000);
    assert_eq!(
        d.taken(),
        ["out sku=a window_start=0 window_end=60000 n=1 @59999", "out sku=b window_start=0 window_end=60000 n=1 @59999",]
    );
    assert_eq!((d.ledger.held, d.ledger.passed), (1, 2));
    d.time(120_000);
    assert_eq!(d.taken(), ["out sku=a window_start=60000 window_end=120000 n=1 @119999"]);
    assert_eq!(d.ledger.held, 0);
    assert_eq!(d.state.entries.len(), 1, "only the watermark of the last closing is left");
}

#[test]
fn lateness_is_judged_by_the_rows_own_watermark_and_the_limit_is_exact() {
    let mut d = driver(r#"{"tumbling":"1m","by":["sku"],"compute":{"n":"count(*)"},"lateness":"10s"}"#);
    assert_eq!(d.planned.delay, 10_000);
    let mut b = rows(&[(Some("a"), None, 59, Some(69)), (Some("b"), None, 59, Some(70)), (Some("c"), None, 60, Some(70))]);
    d.batch(&b);
    assert_eq!(d.taken(), ["late sku=b x=null @59000"]);
    d.time(69_999);
    assert!(d.log.is_empty());
    d.time(70_000);
    assert_eq!(d.taken().len(), 1);
    // Closed here, although this row's own partition lags behind: never a second result for a window.
    b = rows(&[(Some("z"), None, 59, Some(1))]);
    d.batch(&b);
    d.restart();
    d.batch(&b);
    d.rewind();
    d.batch(&b);
    assert_eq!(d.taken(), vec!["late sku=z x=null @59000"; 3]);
}

#[test]
fn a_row_that_is_late_for_some_windows_counts_in_the_others_and_is_held_once() {
    let mut d = driver(r#"{"hopping":{"size":"3m","every":"1m"},"by":["sku"],"compute":{"n":"count(*)"}}"#);
    d.batch(&rows(&[(Some("a"), None, 130, None), (Some("a"), None, 130, Some(200))]));
    assert_eq!(d.ledger.held, 2);
    d.time(1_000_000);
    assert_eq!(
        d.taken(),
        [
            "out sku=a window_start=0 window_end=180000 n=1 @179999",
            "out sku=a window_start=60000 window_end=240000 n=2 @239999",
            "out sku=a window_start=120000 window_end=300000 n=2 @299999",
        ]
    );
    assert_eq!((d.ledger.held, d.ledger.passed), (0, 2));
}

#[test]
fn times_before_1970_and_at_the_limits() {
    let mut d = driver(COUNT);
    d.batch(&rows(&[(Some("a"), None, -1, None), (Some("a"), None, -60, None), (Some("a"), None, -61, None)]));
    let skus: ArrayRef = Arc::new(StringArray::from(vec!["x"; 3]));
    let xs: ArrayRef = Arc::new(Int64Array::from(vec![0; 3]));
    let limits = [(i64::MAX, NO_WATERMARK), (i64::MIN, NO_WATERMARK), (i64::MIN + 1, NO_WATERMARK)];
    d.batch(&batch(&sku_schema(), vec![skus, xs], &limits, 3));
    assert_eq!(d.ledger.rejected, 3);
    d.log.clear();
    d.time(i64::MAX);
    assert_eq!(
        d.taken(),
        ["out sku=a window_start=-120000 window_end=-60000 n=1 @-60001", "out sku=a window_start=-60000 window_end=0 n=2 @-1",]
    );
}

#[test]
fn nulls_are_a_group_and_left_out_of_aggregates() {
    let mut d = driver(
        r#"{"tumbling":"1m","by":["sku"],"compute":{"n":"count(*)","values":"count(x)","s":"sum(x)","a":"avg(x)","lo":"min(x)","f":"first(x)"}}"#,
    );
    d.batch(&rows(&[(None, None, 1, None), (Some(""), None, 1, None), (None, Some(4), 2, None), (None, Some(5), 3, None)]));
    d.time(60_000);
    assert_eq!(
        d.taken(),
        [
            "out sku=null window_start=0 window_end=60000 n=3 values=2 s=9 a=4.5 lo=4 f=4 @59999",
            "out sku= window_start=0 window_end=60000 n=1 values=0 s=null a=null lo=null f=null @59999",
        ]
    );
}

#[test]
fn distinct_values_are_entries_of_their_own_and_go_with_their_window() {
    let mut d = driver(
        r#"{"hopping":{"size":"2m","every":"1m"},"by":["sku"],"compute":{"d":"count(DISTINCT x)","p":"count(DISTINCT x, sku)","s":"sum(x)"}}"#,
    );
    d.batch(&rows(&[(Some("a"), Some(1), 61, None), (Some("a"), Some(1), 62, None), (Some("a"), None, 62, None)]));
    d.restart();
    d.batch(&rows(&[(Some("a"), Some(1), 63, None), (Some("a"), Some(2), 64, None), (Some("a"), Some(3), 125, None)]));
    // (groups) 3, (distinct values) d: 2 + 3 + 1, p: the same
    assert_eq!(d.state.entries.len(), 3 + 6 + 6);
    d.time(180_000);
    assert_eq!(
        d.taken(),
        [
            "out sku=a window_start=0 window_end=120000 d=2 p=2 s=5 @119999",
            "out sku=a window_start=60000 window_end=180000 d=3 p=3 s=8 @179999",
        ]
    );
    d.time(240_000);
    assert_eq!(d.taken(), ["out sku=a window_start=120000 window_end=240000 d=1 p=1 s=3 @239999"]);
    assert_eq!(d.state.entries.len(), 1);
}

#[test]
fn a_sum_that_leaves_the_range_is_rejected_where_it_is_a_result() {
    let mut d =
        driver(r#"{"hopping":{"size":"2m","every":"1m"},"by":["sku"],"compute":{"n":"count(*)","d":"count(DISTINCT x)","s":"sum(x)"}}"#);
    // Only the window that all three share is out of range, and it holds none of them.
    d.batch(&rows(&[(Some("a"), Some(i64::MAX), 30, None), (Some("a"), Some(3), 90, None), (Some("a"), Some(-1), 91, None)]));
    assert_eq!((d.ledger.held, d.ledger.rejected), (3, 0));
    d.time(180_000);
    assert_eq!(
        d.taken(),
        [
            format!("out sku=a window_start=-60000 window_end=60000 n=1 d=1 s={} @59999", i64::MAX),
            "out sku=a window_start=60000 window_end=180000 n=2 d=2 s=2 @179999".to_string(),
            "reject sku=a window_start=0 window_end=120000 n=3 d=3 s=null @119999: the result `s` is out of the range of a 64-bit integer"
                .to_string(),
        ]
    );
    assert_eq!((d.ledger.held, d.ledger.passed, d.ledger.rejected), (0, 2, 1));
}

#[test]
fn decimals_are_exact_and_have_38_digits() {
    let schema = schema(&[("price", DataType::Decimal128(38, 2))]);
    let mut d = Driver::new(r#"{"tumbling":"1m","by":[],"compute":{"s":"sum(price)","a":"avg(price)","hi":"max(price)"}}"#, &schema);
    assert_eq!(d.planned.warnings.len(), 1);
    assert_eq!(d.planned.needs_key, Some(vec![vec![]]));
    let most = 10i128.pow(38) - 1;
    let prices = Decimal128Array::from(vec![most, 1, -200]).with_precision_and_scale(38, 2).unwrap();
    d.batch(&batch(&schema, vec![Arc::new(prices)], &[(0, NO_WATERMARK); 3], 0));
    d.time(60_000);
    let sum = "999999999999999999999999999999999998.00";
    let taken = d.taken();
    assert!(taken[0].contains(&format!("s={sum} a=333333333333333333333333333333333332.67 hi=")), "{taken:?}");
}

#[test]
fn what_is_not_a_number_is_rejected_and_never_poisons_a_sum() {
    let schema = schema(&[("x", DataType::Float64)]);
    let spec = r#"{"tumbling":"1m","by":[],"compute":{"s":"sum(x)","a":"avg(x)","p":"approx_percentile(x, 0.5)"}}"#;
    let mut d = Driver::new(spec, &schema);
    let xs = Float64Array::from(vec![1e16, f64::NAN, 1.0, f64::INFINITY, -1e16, 1.0]);
    d.batch(&batch(&schema, vec![Arc::new(xs)], &[(0, NO_WATERMARK); 6], 0));
    assert_eq!(d.taken().len(), 2);
    d.time(60_000);
    assert_eq!(d.taken().pop().unwrap(), "out window_start=0 window_end=60000 s=2.0 a=0.5 p=0.9900000000000001 @59999");
}

#[test]
fn a_failing_expression_rejects_its_row_but_late_rows_stay_late() {
    let mut d = driver(r#"{"tumbling":"1m","by":["sku"],"compute":{"s":"sum(10 / x)"}}"#);
    d.batch(&rows(&[(Some("a"), Some(5), 1, None), (Some("a"), Some(0), 2, None), (Some("a"), Some(0), 3, Some(60))]));
    assert_eq!((d.ledger.held, d.ledger.rejected, d.ledger.late), (1, 1, 1));
    d.log.clear();
    d.time(60_000);
    assert_eq!(d.taken(), ["out sku=a window_start=0 window_end=60000 s=2 @59999"]);
}

#[test]
fn updates_follow_every_row_and_nothing_comes_at_the_end() {
    let spec = r#"{"hopping":{"size":"2m","every":"1m"},"by":["sku"],"compute":{"s":"sum(x)"},"emit":"on_update","lateness":"5s"}"#;
    let mut d = driver(spec);
    d.batch(&rows(&[(Some("a"), Some(1), 61, Some(20)), (Some("b"), Some(2), 62, Some(30)), (Some("a"), Some(3), 63, Some(40))]));
    assert_eq!(
        d.taken(),
        [
            "out sku=a window_start=0 window_end=120000 s=1 @119999",
            "out sku=a window_start=60000 window_end=180000 s=1 @179999",
            "out sku=b window_start=0 window_end=120000 s=2 @119999",
            "out sku=b window_start=60000 window_end=180000 s=2 @179999",
            "out sku=a window_start=0 window_end=120000 s=4 @119999",
            "out sku=a window_start=60000 window_end=180000 s=4 @179999",
        ]
    );
    let watermarks = d.out[0].column_by_name("_watermark").unwrap().as_primitive::<Int64Type>().values().to_vec();
    assert_eq!(watermarks, [15_000, 15_000, 25_000, 25_000, 35_000, 35_000], "behind by the lateness");
    assert_eq!((d.ledger.passed, d.ledger.held), (3, 0));
    d.time(1_000_000);
    assert!(d.log.is_empty());
    assert_eq!(d.state.entries.len(), 1);
}

#[test]
fn more_groups_than_fit_into_memory_or_one_batch() {
    let schema = schema(&[("id", DataType::Int64)]);
    let mut d = Driver::new(r#"{"tumbling":"1m","by":["id"],"compute":{"n":"count(*)","d":"count(DISTINCT id)"}}"#, &schema);
    let ids: Vec<i64> = (0..70_000).chain(0..70_000).collect();
    let times = vec![(0, NO_WATERMARK); ids.len()];
    d.batch(&batch(&schema, vec![Arc::new(Int64Array::from(ids))], &times, 0));
    d.time(60_000);
    assert_eq!(d.out.iter().map(|b| b.num_rows()).sum::<usize>(), 70_000);
    for rows in &d.out {
        for name in ["n", "d"] {
            let expected = if name == "n" { 2 } else { 1 };
            let values = rows.column_by_name(name).unwrap().as_primitive::<Int64Type>();
            assert!(values.values().iter().all(|n| *n == expected), "{name}");
        }
    }
    let ids: Vec<i64> = d.out.iter().flat_map(|b| b.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
    assert!(ids.is_sorted(), "rows are in the order of their groups' keys");
    assert_eq!(d.state.entries.len(), 1);
}

#[test]
fn an_empty_batch_and_time_without_windows_touch_nothing() {
    let mut d = driver(COUNT);
    d.batch(&rows(&[]));
    d.time(0);
    d.time(i64::MAX);
    assert!(d.log.is_empty() && d.state.entries.is_empty());
}

#[test]
fn state_of_another_pipeline_is_an_error_and_not_a_wrong_number() {
    let mut d = driver(COUNT);
    d.batch(&rows(&[(Some("a"), None, 1, None)]));
    let state = d.state.clone();
    for other in [
        r#"{"tumbling":"1m","by":["sku"],"compute":{"s":"avg(x)"}}"#,
        r#"{"tumbling":"1m","by":["sku"],"compute":{"n":"count(*)","m":"count(*)"}}"#,
    ] {
        let mut d = driver(other);
        d.state = state.clone();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| d.time(60_000)));
        assert!(result.is_err(), "the driver unwraps the operator's error");
    }
}

#[test]
fn a_huge_group_is_one_entry_and_its_distinct_values_one_each() {
    let mut d = driver(
        r#"{"tumbling":"1d","by":["sku"],"compute":{"n":"count(*)","sum":"sum(x)","kinds":"count(DISTINCT x)","p":"approx_percentile(x, 0.5)"}}"#,
    );
    let (rows_per_batch, batches) = (20_000_i64, 10_i64);
    for n in 0..batches {
        let drawn: Vec<Drawn<'_>> = (0..rows_per_batch).map(|i| (Some("a"), Some((n * rows_per_batch + i) % 5_000), 5, None)).collect();
        d.batch(&rows(&drawn));
        if n == batches / 2 {
            d.restart();
        }
    }
    assert_eq!(d.state.entries.len(), 1 + 5_000, "a group and its DISTINCT values");
    d.time(86_400_000);
    let all = rows_per_batch * batches;
    let result = d.taken().remove(0);
    assert!(result.contains(&format!("n={all} sum={} kinds=5000", all / 5_000 * (4_999 * 5_000 / 2))), "{result}");
    assert_eq!((d.ledger.held, d.state.entries.len()), (0, 1), "nothing is left but the watermark of the closing");
}

#[test]
fn groups_that_expire_leave_nothing_in_state_and_old_state_is_still_read() {
    let spec = r#"{"unbounded":true,"expire":"1h","by":["sku"],"compute":{"n":"count(*)","kinds":"count(DISTINCT x)"},"emit":"on_update"}"#;
    let never =
        r#"{"unbounded":true,"expire":"never","by":["sku"],"compute":{"n":"count(*)","kinds":"count(DISTINCT x)"},"emit":"on_update"}"#;
    // Written before groups expired: no time is known, so that the group stays until a row comes.
    let mut before = driver(never);
    before.batch(&rows(&[(Some("old"), Some(1), 0, None)]));
    let mut d = driver(spec);
    d.state = before.state.clone();
    d.batch(&rows(&[(Some("a"), Some(1), 0, None), (Some("a"), Some(2), 10, None), (Some("b"), Some(1), 3_000, Some(10))]));
    assert_eq!(d.state.entries.len(), 2 + 3 + 2);
    d.time(3_610_000);
    assert_eq!(d.state.entries.len(), 2 + 2, "a is gone with its DISTINCT values");
    d.batch(&rows(&[(Some("old"), Some(2), 3_700, Some(3_610)), (Some("a"), Some(7), 3_700, Some(3_610))]));
    let taken = d.taken();
    assert!(taken.iter().any(|line| line.contains("sku=old n=2 kinds=2")), "{taken:?}");
    assert!(taken.iter().any(|line| line.contains("sku=a n=1 kinds=1")), "{taken:?}");
    d.time(8_000_000);
    assert!(d.state.entries.is_empty());
}
