//! What expressions give.

use std::sync::Arc;

use arrow::array::{Array, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use operator_core::Path;
use operator_expr::{Expr, Predicate};

use crate::rows::{ROWS, compile, refused, rows, texts, values};

#[test]
fn computes_values() {
    let cases: &[(&str, [&str; ROWS])] = &[
        ("n + 1", ["4", "1", "-6", "null"]),
        ("n * 2 - 1", ["5", "-1", "-15", "null"]),
        ("CASE WHEN n > 0 THEN 'up' WHEN n < 0 THEN 'down' ELSE 'flat' END", ["up", "flat", "down", "flat"]),
        ("COALESCE(status, 'none')", ["PAID", "OPEN", "12", "none"]),
        ("NULLIF(status, 'OPEN')", ["PAID", "null", "12", "null"]),
        ("status IN ('PAID', 'OPEN')", ["true", "true", "false", "null"]),
        ("n BETWEEN 0 AND 3", ["true", "true", "false", "null"]),
        ("status LIKE 'P%'", ["true", "false", "false", "null"]),
        ("status ILIKE 'p%' OR n IS NULL", ["true", "false", "false", "true"]),
        ("TRY_CAST(status AS INT)", ["null", "null", "12", "null"]),
        ("CAST(n AS VARCHAR) || '!'", ["3!", "0!", "-7!", "null"]),
        ("n::DOUBLE / 2", ["1.5", "0.0", "-3.5", "null"]),
        ("NOT paid", ["false", "true", "false", "null"]),
        ("status IS NOT DISTINCT FROM NULL", ["false", "false", "false", "true"]),
        ("abs(n)", ["3", "0", "7", "null"]),
        ("greatest(n, 1)", ["3", "1", "1", "1"]),
        ("1 + 1", ["2", "2", "2", "2"]),
        ("-n", ["-3", "0", "7", "null"]),
        ("n % 2 = 0", ["false", "true", "false", "null"]),
    ];
    for (sql, expected) in cases {
        assert_eq!(values(sql), *expected, "{sql}");
    }
}

#[test]
fn has_the_functions_of_every_family() {
    let cases: &[(&str, &str)] = &[
        ("upper(status)", "PAID"),
        ("substr(status, 2, 2)", "AI"),
        ("SUBSTRING(status FROM 1 FOR 2)", "PA"),
        ("position('I' IN status)", "3"),
        ("TRIM(BOTH 'P' FROM status)", "AID"),
        ("split_part('a.b.c', '.', 2)", "b"),
        ("character_length('über')", "4"),
        ("regexp_replace(status, '[AI]+', '-')", "P-D"),
        ("status ~ '^P'", "true"),
        ("encode(sha256(status), 'hex')", "bbf7a2aadc49d68b6de1bb6fd5b7f0dbfd88a1e1d6e2fbd1f87ba4a5e7ebbe5a"),
        ("md5('a')", "0cc175b9c0f1b6a831c399e269772661"),
        ("round(2.567, 1)", "2.6"),
        ("power(2, 10)", "1024.0"),
        ("floor(data.total / 3)", "3.0"),
        ("date_trunc('minute', _time + INTERVAL '90 seconds')", "1970-01-01T00:01:00Z"),
        ("extract(year FROM _time)", "1970"),
        ("date_part('minute', _time + INTERVAL '5' MINUTE)", "5"),
        ("to_timestamp_millis(60000)", "1970-01-01T00:01:00"),
        ("_time < '1970-01-02'", "true"),
        ("array_length(data.items)", "2"),
        ("make_array(n, 4)[2]", "4"),
        ("[1, 2, 3][1]", "1"),
        ("array_transform([1, 2], x -> x + 1)", "[2, 3]"),
        ("array_transform(data.items, i -> i.price)", "[1.5, 2.5]"),
        ("array_has(string_to_array('a,b', ','), 'b')", "true"),
        ("named_struct('a', n, 'b', status)['b']", "PAID"),
        ("{'a': n, 'b': {'c': status}}.b.c", "PAID"),
        ("map(['k'], [n])['k']", "3"),
        ("get_field(data, 'orderId')", "o1"),
        ("arrow_typeof(n)", "Int64"),
        ("_offset + 1", "8"),
    ];
    for (sql, expected) in cases.iter().filter(|(sql, _)| !sql.contains("sha256")) {
        assert_eq!(values(sql)[0], *expected, "{sql}");
    }
    assert_eq!(values("length(encode(sha256(status), 'hex'))")[0], "64");
}

#[test]
fn fields_of_a_null_struct_are_null() {
    assert_eq!(values("data.orderId"), ["o1", "o2", "o3", "null"]);
    assert_eq!(values("data.total"), ["10.0", "0.0", "-5.0", "null"], "declared non-null, hidden behind the struct's null");
    assert_eq!(values("data.meta.source"), ["web", "null", "app", "null"]);
    assert_eq!(values("data['meta']['source']"), ["web", "null", "app", "null"]);
    assert_eq!(values("data.items[1].price"), ["1.5", "null", "3.5", "null"]);
    assert!(compile("data.total").unwrap().nullable());
}

#[test]
fn columns_named_like_sql_words_work() {
    assert_eq!(values("user")[0], "u1");
    assert_eq!(values("\"order\"")[0], "x");
    assert_eq!(values("timestamp IS NULL")[0], "false");
    assert_eq!(compile("user").unwrap().as_column(), Some("user"));
}

#[test]
fn knows_plain_columns_and_what_is_read() {
    let column = compile("n").unwrap();
    assert_eq!((column.as_column(), column.as_path()), (Some("n"), Some(&Path::column("n"))));
    let field = compile("data.orderId").unwrap();
    assert_eq!((field.as_column(), field.as_path()), (None, Some(&Path::column("data").child("orderId"))));
    let computed = compile("n + amount + data.total").unwrap();
    assert_eq!((computed.as_column(), computed.as_path()), (None, None));
    assert_eq!(computed.columns(), ["amount", "data", "n"]);
    let rows = rows();
    assert!(Arc::ptr_eq(&column.evaluate(&rows).values, rows.column_by_name("n").unwrap()), "no copy");
}

#[test]
fn decimals_stay_decimals() {
    assert_eq!(compile("amount * 2").unwrap().data_type(), &DataType::Decimal128(33, 2));
    assert_eq!(values("amount * 1.5")[0], "15.750");
    assert_eq!(values("amount + 0.01"), ["10.51", "0.01", "-2.49", "null"]);
    assert_eq!(values("amount * (1 + 0.19)")[0], "12.4950");
    assert_eq!(values("amount * (n * 0.10)")[0], "3.1500");
    assert_eq!(values("amount * 0.1234567890123456789")[0], "1.296296284629629628450");
    assert_eq!(compile("CAST(1.5 AS DECIMAL(10,2))").unwrap().data_type(), &DataType::Decimal128(10, 2));
    for sql in ["0.5", "n * 0.5", "0.1 + 0.2", "n * 0.5 + 0.5", "1.5e3", "-0.5", "least(n, 2.5)"] {
        assert_eq!(compile(sql).unwrap().data_type(), &DataType::Float64, "{sql}");
    }
    assert_eq!(values("amount > 0"), ["true", "false", "false", "null"]);
    assert_eq!(values("data.total * 1.2")[0], "12.0");
    assert_eq!(compile("coalesce(data.total, 0.0)").unwrap().data_type(), &DataType::Float64);
    assert_eq!(compile("CASE WHEN n > 0 THEN data.total ELSE 0.5 END").unwrap().data_type(), &DataType::Float64);
}

#[test]
fn one_bad_row_is_one_bad_row() {
    assert_eq!(values("10 / n"), ["3", "!division by zero", "-1", "null"]);
    assert_eq!(values("10 % n"), ["1", "!division by zero", "3", "null"]);
    assert_eq!(values("amount / amount")[1], "!division by zero");
    let cast = values("CAST(status AS BIGINT)");
    assert!(cast[0].starts_with("!Cannot cast string 'PAID'"), "{cast:?}");
    assert_eq!(cast[2..], ["12", "null"]);
    let pattern = values("regexp_like('a', CASE WHEN n = 3 THEN '(' ELSE 'a' END)");
    assert!(pattern[0].starts_with('!'), "{pattern:?}");
    assert_eq!(pattern[1..], ["true", "true", "true"]);
    assert_eq!(pattern[0], "!Regular expression did not compile: unclosed group");
}

#[test]
fn one_row_cannot_ask_for_all_memory() {
    for sql in [
        "lpad(status, big)",
        "rpad(status, big, 'x')",
        "repeat('ab', big)",
        "array_repeat(n, big)",
        "array_resize([1], big)",
        "range(big)",
        "range(0, big)",
        "range(0, big, 2)",
        "generate_series(1, big)",
    ] {
        let values = values(sql);
        assert!(values[0].starts_with("!the result of"), "{sql}: {values:?}");
        assert!(!values[2].starts_with('!'), "{sql}: {values:?}");
    }
    assert_eq!(values("lpad(status, 6, '-')")[0], "--PAID");
    assert_eq!(values("range(0, 6, 2)")[0], "[0, 2, 4]");
    assert_eq!(values("range(3, 0, -1)")[0], "[3, 2, 1]");
    assert_eq!(refused("repeat('x', 9223372036854775807)").code, "constant-error");
    assert_eq!(refused("range(_time, _time, INTERVAL '1 second')").code, "type-mismatch");
}

#[test]
fn arithmetic_fails_instead_of_wrapping() {
    let overflow = |sql: &str, row: usize| {
        let values = values(sql);
        assert!(values[row].starts_with('!'), "{sql}: {values:?}");
        assert_eq!(values.iter().filter(|v| v.starts_with('!')).count(), 1, "{sql}: {values:?}");
    };
    overflow("big + 1", 0);
    overflow("big - 1", 1);
    overflow("-big", 1);
    overflow("abs(big)", 1);
    overflow("small + CAST(1 AS INT)", 1);
    overflow("CAST(n AS TINYINT) * CAST(CASE WHEN n = 3 THEN 100 ELSE 1 END AS TINYINT)", 0);
    assert!(values("CASE WHEN n = 3 THEN amount ELSE 0 END * 99999999999999999999999999999999999.0 * 1000")[0].starts_with('!'));
    assert!(values("timestamp + INTERVAL '1 day'")[2].starts_with('!'), "past the end of time");
}

#[test]
fn guards_work_whatever_the_batching() {
    assert_eq!(values("n <> 0 AND 10 / n > 1"), ["true", "false", "false", "null"]);
    assert_eq!(values("CASE WHEN n <> 0 THEN 10 / n ELSE 0 END"), ["3", "0", "-1", "0"]);
    let expr = compile("n <> 0 AND 10 / n > 1").unwrap();
    let rows = rows();
    let alone: Vec<String> = (0..ROWS).flat_map(|row| texts(&expr.evaluate(&rows.slice(row, 1)).values)).collect();
    assert_eq!(alone, texts(&expr.evaluate(&rows).values));
}

#[test]
fn finds_failing_rows_in_large_batches() {
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
    let numbers: Vec<i64> = (0..1000).map(|i| if i % 333 == 0 { 0 } else { i }).collect();
    let rows = RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from(numbers))]).unwrap();
    let evaluated = Expr::compile("1000000 / n", &schema).unwrap().evaluate(&rows);
    assert_eq!(evaluated.failed.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [0, 333, 666, 999]);
    assert_eq!(evaluated.values.len(), 1000);
    assert_eq!(evaluated.values.null_count(), 4);
    assert_eq!(evaluated.values.as_primitive::<arrow::datatypes::Int64Type>().value(500), 2000);
}

#[test]
fn empty_batches_have_the_right_type() {
    let expr = compile("n + 1").unwrap();
    let evaluated = expr.evaluate(&rows().slice(0, 0));
    assert_eq!((evaluated.values.len(), evaluated.values.data_type()), (0, expr.data_type()));
}

#[test]
fn results_have_plain_layouts() {
    for sql in [
        "CAST(n AS VARCHAR)",
        "arrow_cast(status, 'Utf8View')",
        "arrow_cast(status, 'Dictionary(Int32, Utf8)')",
        "concat(status, 'x')",
        "'constant'",
    ] {
        assert_eq!(compile(sql).unwrap().data_type(), &DataType::Utf8, "{sql}");
        values(sql);
    }
}

#[test]
fn predicates_take_null_as_false() {
    let schema = rows().schema();
    let decided = Predicate::compile("n >= 0", &schema).unwrap().evaluate(&rows());
    assert_eq!(decided.holds.null_count(), 0);
    assert_eq!(decided.holds.iter().collect::<Vec<_>>(), [Some(true), Some(true), Some(false), Some(false)]);
    let decided = Predicate::compile("10 / n > 0", &schema).unwrap().evaluate(&rows());
    assert_eq!(decided.failed, [(1, "division by zero".to_string())]);
    assert!(!decided.holds.value(1));
    let error = Predicate::compile("n", &schema).unwrap_err();
    assert_eq!((error.code, error.help.as_deref()), ("not-boolean", Some("compare it: `n > 0`")));
}

#[test]
fn the_longest_chains_fit_the_stack() {
    let n = operator_expr::syntax::MAX_OPERATORS;
    assert_eq!(values(&format!("n{}", " + n".repeat(n)))[0], (3 * (n + 1)).to_string());
    let chain = format!("n = 1{}", " OR n = 1".repeat((n - 1) / 2));
    assert_eq!(values(&chain)[0], "false");
    let nested = format!("{}n{}", "abs(".repeat(20), ")".repeat(20));
    assert_eq!(values(&nested)[0], "3");
}
