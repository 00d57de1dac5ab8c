//! Results before the close depend on the rows alone: whichever partition comes first, however far time moves at once, and
//! whenever another worker takes over, the same rows come out in the same order.

mod driver;

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray};
use arrow::datatypes::{DataType, SchemaRef};
use driver::{Driver, batch, schema};
use operator_core::{Batch, NO_WATERMARK, Origin};
use proptest::prelude::*;

const OUT_OF_ORDER: i64 = 6;

#[derive(Clone, Debug)]
struct Row {
    partition: usize,
    group: u8,
    n: i64,
    time: i64,
    /// The watermark of its partition before it.
    watermark: i64,
    offset: i64,
    /// What happens behind the row.
    then: u8,
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let row = (0usize..3, 0u8..2, 0i64..4, 0i64..20, any::<u8>());
    prop::collection::vec(row, 0..50).prop_map(|rows| {
        let mut newest = [NO_WATERMARK; 3];
        let row = |(nth, (partition, group, n, time, then)): (usize, (usize, u8, i64, i64, u8))| {
            let time = nth as i64 * 3 + time;
            let watermark = newest[partition];
            newest[partition] = watermark.max(time - OUT_OF_ORDER);
            Row { partition, group, n, time, watermark, offset: nth as i64, then }
        };
        rows.into_iter().enumerate().map(row).collect()
    })
}

fn columns() -> SchemaRef {
    schema(&[("g", DataType::Utf8), ("n", DataType::Int64)])
}

fn batch_of(row: &Row) -> Batch {
    let group: ArrayRef = Arc::new(StringArray::from(vec![format!("g{}", row.group)]));
    let n: ArrayRef = Arc::new(Int64Array::from(vec![row.n]));
    let origin = Origin { topic: "t".into(), partition: row.partition as i32, from: row.offset - 1, to: row.offset };
    Batch { origin, ..batch(&columns(), vec![group, n], &[(row.time, row.watermark)], row.offset) }
}

/// What came out of time in order, and the late rows. `steps`: time moves behind rows, and workers change, in the middle of a portion too.
fn run(spec: &str, rows: &[&Row], steps: bool, budget: usize) -> (Vec<String>, Vec<String>) {
    let mut driver = Driver::new(spec, &columns());
    (driver.time.budget, driver.interrupted) = (budget, steps);
    let mut reached = [NO_WATERMARK; 3];
    let (mut out, mut late) = (Vec::new(), Vec::new());
    for row in rows {
        driver.batch(&batch_of(row));
        late.extend(driver.taken());
        reached[row.partition] = reached[row.partition].max(row.time - OUT_OF_ORDER);
        if steps && row.then % 2 == 0 {
            driver.time(*reached.iter().min().unwrap());
            out.extend(driver.taken());
        }
        match row.then % 11 {
            0 if steps => driver.restart(),
            1 if steps => driver.rewind(),
            _ => {}
        }
    }
    driver.time(1_000_000);
    out.extend(driver.taken());
    assert!(driver.state.entries.len() <= 1, "only the watermark of the last closing is left");
    assert_eq!(driver.ledger.held, 0);
    late.sort();
    (out, late)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn results_before_the_close_depend_on_the_rows_alone(
        rows in rows(),
        first in 0usize..3,
        until in any::<prop::sample::Index>(),
        every in prop::sample::select(vec![7, 10, 15, 40]),
        budget in prop::sample::select(vec![1, 2, 5, usize::MAX]),
        lateness in prop::sample::select(vec![0, 4, 13]),
        shape in prop::sample::select(vec![r#""tumbling":"30ms""#, r#""tumbling":"20ms","offset":"3ms""#, r#""hopping":{"size":"40ms","every":"20ms"}"#]),
    ) {
        let compute = r#""compute":{"rows":"count(*)","kinds":"count(DISTINCT n)","s":"sum(n)","l":"last(n)","m":"max_by(n, n)"}"#;
        let spec = format!(r#"{{{shape},"by":["g"],"lateness":"{lateness}ms","emit":{{"every":"{every}ms"}},{compute}}}"#);
        let in_order: Vec<&Row> = rows.iter().collect();
        let mut other = in_order.clone();
        // Some partition first, as far as it goes.
        let until = until.index(rows.len() + 1) as i64;
        other.sort_by_key(|row| (row.partition != first || row.offset >= until, row.offset));
        let expected = run(&spec, &in_order, false, usize::MAX);
        prop_assert_eq!(&run(&spec, &in_order, true, budget), &expected);
        prop_assert_eq!(&run(&spec, &other, true, budget), &expected);
        let last = format!(r#"{{{shape},"by":["g"],"lateness":"{lateness}ms",{compute}}}"#);
        let last_of = |lines: Vec<String>| -> Vec<String> {
            lines.iter().filter(|line| line.contains("window_final=true ")).map(|line| line.replace("window_final=true ", "")).collect()
        };
        prop_assert_eq!(last_of(expected.0), run(&last, &in_order, true, budget).0);
    }
}

/// What is held or counted under one `emit` is let go under another: the last result of every group and window has all of its rows, also
/// of a group that has no row after the change.
#[test]
fn a_change_of_emit_loses_no_row() {
    const EMITS: [&str; 3] = [r#""on_close""#, r#""on_update""#, r#"{"every":"10ms"}"#];
    let changes = || EMITS.into_iter().flat_map(|from| EMITS.map(|to| (from, to)));
    for (shape, ends) in [(r#""tumbling":"30ms""#, &[30][..]), (r#""hopping":{"size":"30ms","every":"10ms"}"#, &[10, 20, 30])] {
        for (from, to) in changes() {
            let spec = |emit| {
                let compute = r#""compute":{"rows":"count(*)","kinds":"count(DISTINCT n)"}"#;
                format!(r#"{{{shape},"by":["g"],"emit":{emit},{compute}}}"#)
            };
            let row = |group, n, time, offset| Row { partition: 0, group, n, time, watermark: NO_WATERMARK, offset, then: 1 };
            let mut before = Driver::new(&spec(from), &columns());
            before.batch(&batch_of(&row(0, 1, 5, 0)));
            before.batch(&batch_of(&row(1, 1, 6, 1)));
            let mut results = before.taken();
            let mut driver = Driver::new(&spec(to), &columns());
            (driver.state, driver.ledger, driver.rows_in) = (before.state, before.ledger, before.rows_in);
            driver.batch(&batch_of(&row(0, 2, 7, 2)));
            for watermark in [12, 20, 30] {
                driver.time(watermark);
                driver.restart();
            }
            results.extend(driver.taken());
            for (end, (group, expected)) in
                ends.iter().flat_map(|end| [("g=g0 ", "rows=2 kinds=2 "), ("g=g1 ", "rows=1 kinds=1 ")].map(|of| (end, of)))
            {
                let end = format!("window_end={end} ");
                let last = results.iter().rfind(|line| line.contains(group) && line.contains(&end)).map(String::as_str);
                assert!(last.is_some_and(|last| last.contains(expected)), "{shape}, {from} -> {to}: {results:#?}");
            }
            assert_eq!((driver.ledger.held, driver.state.entries.len()), (0, 1), "{shape}, {from} -> {to}");
        }
    }
}

/// A window that was emitted takes no more rows when `lateness` is raised; one that was open then stays open longer.
#[test]
fn raised_lateness_opens_no_window_again() {
    for shape in [r#""tumbling":"30ms""#, r#""session":{"gap":"10ms"}"#] {
        let spec = |lateness| format!(r#"{{{shape},"by":["g"],"lateness":"{lateness}ms","compute":{{"rows":"count(*)"}}}}"#);
        let row = |time, offset| Row { partition: 0, group: 0, n: 1, time, watermark: NO_WATERMARK, offset, then: 1 };
        let mut before = Driver::new(&spec(5), &columns());
        before.batch(&batch_of(&row(20, 0)));
        before.batch(&batch_of(&row(50, 1)));
        before.time(36);
        assert_eq!(before.taken().len(), 1, "{shape}");
        let state = |before: &Driver| (before.state.clone(), before.ledger, before.rows_in);
        let mut driver = Driver::new(&spec(40), &columns());
        (driver.state, driver.ledger, driver.rows_in) = state(&before);
        driver.batch(&batch_of(&row(22, 2)));
        assert!(driver.taken()[0].starts_with("late g=g0"), "{shape}");
        driver.batch(&batch_of(&row(45, 3)));
        // The end is kept, however often `lateness` changes.
        driver.time(99);
        assert!(driver.taken().is_empty(), "{shape}");
        let mut lowered = Driver::new(&spec(5), &columns());
        (lowered.state, lowered.ledger, lowered.rows_in) = state(&driver);
        lowered.time(99);
        assert!(lowered.taken()[0].contains("rows=2 "), "{shape}");
        let mut driver = Driver::new(&spec(1_000), &columns());
        (driver.state, driver.ledger, driver.rows_in) = state(&lowered);
        driver.batch(&batch_of(&row(51, 4)));
        assert!(driver.taken()[0].starts_with("late g=g0"), "{shape}");
        assert_eq!(driver.ledger.held, 0, "{shape}");
    }
}

/// Rows that wait for a result after the earlier close of their window are in its last result.
#[test]
fn lowered_lateness_gives_one_last_result() {
    for budget in [1, 2, usize::MAX] {
        let spec = |lateness| {
            let compute = r#""compute":{"rows":"count(*)","kinds":"count(DISTINCT n)"}"#;
            format!(r#"{{"tumbling":"30ms","by":["g"],"lateness":"{lateness}ms","emit":{{"every":"7ms"}},{compute}}}"#)
        };
        let row = |group, n, time, watermark, offset| Row { partition: 0, group, n, time, watermark, offset, then: 1 };
        let mut before = Driver::new(&spec(40), &columns());
        let rows = [(0, 1, 1, 0), (0, 2, 22, 30), (1, 1, 23, 33), (0, 3, 24, 50), (0, 4, 61, 50), (1, 5, 29, 69)];
        for (offset, (group, n, time, watermark)) in rows.into_iter().enumerate() {
            before.batch(&batch_of(&row(group, n, time, watermark, offset as i64)));
        }
        let mut driver = Driver::new(&spec(2), &columns());
        (driver.state, driver.ledger, driver.rows_in) = (before.state, before.ledger, before.rows_in);
        (driver.time.budget, driver.interrupted) = (budget, budget == 1);
        driver.time(40);
        driver.time(200);
        let last: Vec<String> = driver.taken().into_iter().filter(|line| line.contains("window_final=true")).collect();
        let expected = [
            ("g=g0 window_start=0 ", "rows=3 kinds=3 "),
            ("g=g1 window_start=0 ", "rows=2 kinds=2 "),
            ("g=g0 window_start=60 ", "rows=1 kinds=1 "),
        ];
        assert_eq!(last.len(), expected.len(), "{last:#?}");
        for (line, (group, rows)) in last.iter().zip(expected) {
            assert!(line.contains(group) && line.contains(rows), "{last:#?}");
        }
        assert_eq!((driver.ledger.held, driver.state.entries.len()), (0, 1));
    }
}
