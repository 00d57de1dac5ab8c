//! What a whole batch of rows may take: each test runs again as a process of its own, with less address space than the batch
//! would need at once.
#![cfg(unix)]

use std::process::Command;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, ListArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use operator_expr::Expr;

const ROWS: usize = 2_500;
/// Address space of the processes, in KiB, of which the program itself takes a part.
const LIMIT: u64 = 640 << 10;
const CHILD: &str = "HW_TEST_LIMITED";

/// Runs `test`, the test with this name, in a process with limited memory.
fn limited(name: &str, test: impl FnOnce()) {
    if std::env::var_os(CHILD).is_some() {
        return test();
    }
    let program = std::env::current_exe().unwrap();
    let script = format!("ulimit -v {LIMIT} && exec \"$0\" --exact \"$1\" --nocapture");
    let ran =
        Command::new("sh").args(["-c", &script]).arg(program).arg(name).env(CHILD, "1").env("MALLOC_ARENA_MAX", "2").output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success() && said.contains("1 passed"), "{}: {said}", ran.status);
}

/// Rows of a text `s` of 25 bytes, a number `n` and a list `l` of three texts.
fn rows(n: impl Fn(usize) -> i64) -> RecordBatch {
    let texts = StringArray::from_iter_values((0..ROWS).map(|row| format!("{row:025}")));
    let items = StringArray::from_iter_values((0..3 * ROWS).map(|_| "item"));
    let item = Arc::new(Field::new("item", DataType::Utf8, true));
    let lists = ListArray::new(item, arrow::buffer::OffsetBuffer::from_lengths(vec![3; ROWS]), Arc::new(items), None);
    let columns: Vec<(&str, ArrayRef)> =
        vec![("s", Arc::new(texts)), ("n", Arc::new(Int64Array::from_iter_values((0..ROWS).map(n)))), ("l", Arc::new(lists))];
    let fields: Vec<Field> = columns.iter().map(|(name, c)| Field::new(*name, c.data_type().clone(), true)).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, c)| c).collect()).unwrap()
}

/// Every row has the value that it has alone.
fn check(sql: &str, n: impl Fn(usize) -> i64, expected: impl Fn(usize) -> i64) {
    let rows = rows(n);
    let expr = Expr::compile(sql, &rows.schema()).unwrap_or_else(|e| panic!("{sql}: {e}"));
    let evaluated = expr.evaluate(&rows);
    assert_eq!(evaluated.failed, [], "{sql}");
    let values = arrow::compute::cast(&evaluated.values, &DataType::Int64).unwrap();
    let values = values.as_primitive::<Int64Type>();
    for row in 0..ROWS {
        assert_eq!(values.value(row), expected(row), "{sql}, row {row}");
    }
}

#[test]
fn a_batch_of_texts_that_grow_is_evaluated_in_parts() {
    limited("a_batch_of_texts_that_grow_is_evaluated_in_parts", || {
        let n = |row: usize| 10_000 + (row % 100) as i64;
        check("length(repeat(s, n))", n, |row| 25 * n(row));
        check("length(lpad(s, n * 10)) + length(rpad(s, n * 10))", n, |row| 20 * n(row));
        check("length(replace(repeat('a', n), 'a', s))", n, |row| 25 * n(row));
        check("length(repeat(s, n) || repeat(s, n))", n, |row| 50 * n(row));
        check("length(concat_ws(repeat(s, 10000), s, s, s, s))", n, |_| 100 + 3 * 250_000);
    });
}

#[test]
fn a_batch_of_lists_that_grow_is_evaluated_in_parts() {
    limited("a_batch_of_lists_that_grow_is_evaluated_in_parts", || {
        let n = |row: usize| 30_000 + (row % 100) as i64;
        check("cardinality(generate_series(1, n))", n, n);
        check("cardinality(range(0, n))", n, n);
        check("cardinality(array_repeat(n, n))", n, n);
        check("cardinality(array_resize(l, n / 4, s))", n, |row| n(row) / 4);
        // Elements that are large themselves, and a large value beside each element.
        check("cardinality(array_repeat(make_array(repeat(s, 400)), n / 1000))", n, |row| n(row) / 1000);
        check("cardinality(array_repeat(array_repeat(s, 100), n / 200))", n, |row| 100 * (n(row) / 200));
        check("cardinality(array_transform(range(0, n / 1000), x -> concat(repeat(s, 400), 'y')))", n, |row| n(row) / 1000);
        check("cardinality(array_replace(array_repeat('a', n / 1000), 'a', repeat(s, 1000)))", n, |row| n(row) / 1000);
    });
}

#[test]
fn a_row_that_needs_too_much_fails_alone() {
    limited("a_row_that_needs_too_much_fails_alone", || {
        let rows = rows(|row| if row == 777 { 1_000_000 } else { 1 });
        // A million lists of a text of 2,500 bytes: each of the two calls is within its own limit.
        let sql = "cardinality(array_repeat(make_array(repeat(s, 100)), n))";
        let evaluated = Expr::compile(sql, &rows.schema()).unwrap().evaluate(&rows);
        assert_eq!(evaluated.failed.len(), 1, "{:?}", evaluated.failed);
        let (row, cause) = &evaluated.failed[0];
        assert_eq!(*row, 777);
        assert!(cause.contains("`array_repeat`") && cause.contains("MiB"), "{cause}");
        assert_eq!(evaluated.values.null_count(), 1);
    });
}
