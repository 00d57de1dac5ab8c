//! Results are emitted in batches that are bounded in rows and in bytes, and time moves as far as its budget allows.

mod driver;

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, StringArray};
use arrow::datatypes::{DataType, SchemaRef};
use driver::{Driver, batch, schema};
use operator_core::NO_WATERMARK;

const TEXT: usize = 400 << 10;
/// What a batch of results has at most of them: 8 MiB, and the one that is over it.
const MOST: usize = (8 << 20) + TEXT;

fn columns() -> SchemaRef {
    schema(&[("g", DataType::Utf8), ("t", DataType::Utf8)])
}

/// A batch of rows of one group each, with a large text.
fn large(groups: usize) -> operator_core::Batch {
    let group: ArrayRef = Arc::new(StringArray::from_iter_values((0..groups).map(|n| format!("g{n}"))));
    let text: ArrayRef = Arc::new(StringArray::from_iter_values((0..groups).map(|_| "x".repeat(TEXT))));
    batch(&columns(), vec![group, text], &vec![(5, NO_WATERMARK); groups], 0)
}

#[test]
fn results_with_large_texts_are_emitted_in_portions() {
    const GROUPS: usize = 45;
    for (windows, results) in [
        (r#""tumbling":"30ms""#, 1),
        (r#""hopping":{"size":"30ms","every":"10ms"},"emit":"on_update""#, 3),
        (r#""tumbling":"30ms","emit":{"every":"10ms"}"#, 2),
        (r#""session":{"gap":"30ms"}"#, 1),
    ] {
        let spec = format!(r#"{{{windows},"by":["g"],"compute":{{"f":"first(t)"}}}}"#);
        let mut driver = Driver::new(&spec, &columns());
        driver.batch(&large(GROUPS));
        driver.time(1_000);
        let sizes = driver.out.iter().map(|rows| {
            let texts = rows.column_by_name("f").unwrap().as_string::<i32>();
            (0..rows.num_rows()).map(|row| texts.value(row).len()).sum::<usize>()
        });
        let sizes: Vec<usize> = sizes.collect();
        assert_eq!(sizes.iter().sum::<usize>(), GROUPS * results * TEXT, "{windows}");
        assert!(sizes.iter().all(|size| *size <= MOST), "{windows}: {sizes:?}");
        assert_eq!((driver.ledger.held, driver.ledger.passed), (0, GROUPS as u64), "{windows}");
    }
}

/// The group and the headers of a row are in each of its results.
#[test]
fn updates_with_large_groups_are_emitted_in_portions() {
    let spec = r#"{"hopping":{"size":"1000ms","every":"1ms"},"by":["g"],"compute":{"n":"count(*)"},"emit":"on_update"}"#;
    let mut driver = Driver::new(spec, &columns());
    let group = "g".repeat(60_000);
    let values: Vec<ArrayRef> = vec![Arc::new(StringArray::from(vec![group])), Arc::new(StringArray::from(vec!["t"]))];
    driver.batch(&batch(&columns(), values, &[(5, NO_WATERMARK)], 0));
    assert_eq!(driver.out.iter().map(|rows| rows.num_rows()).sum::<usize>(), 1_000);
    assert!(driver.out.iter().all(|rows| rows.num_rows() * 60_000 <= MOST));
}

/// A catch-up passes many ends at once, with few groups each.
#[test]
fn time_passes_many_windows_in_one_portion() {
    let spec = r#"{"tumbling":"10ms","by":["g"],"compute":{"n":"count(*)"},"emit":{"every":"5ms"}}"#;
    for (budget, portions) in [(usize::MAX, 1..2), (16, 2..20)] {
        let mut driver = Driver::new(spec, &columns());
        driver.time.budget = budget;
        let times: Vec<(i64, i64)> = (0..100).map(|n| (n, NO_WATERMARK)).collect();
        let values: Vec<ArrayRef> = (0..2).map(|_| Arc::new(StringArray::from(vec!["g"; times.len()])) as ArrayRef).collect();
        driver.batch(&batch(&columns(), values, &times, 0));
        driver.time(1_000);
        assert!(portions.contains(&driver.portions), "{} portions with {budget}", driver.portions);
        // Ten windows, each with a result in its middle and the last one.
        assert_eq!(driver.taken().len(), 20);
    }
}
