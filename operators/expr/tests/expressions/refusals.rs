//! What is refused, and with which message.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use operator_expr::Expr;

use crate::rows::{refused, values};

/// Help never says what was written, and what it suggests is right.
#[test]
fn help_writes_names_as_they_have_to_be_written() {
    for name in ["a.b", "Date Time", "fecha-venta", "@ts", "say \"hi\"", "select", "1st", "order", "it's", "grün.x", "", "*"] {
        let schema = Arc::new(Schema::new(vec![Field::new(name, DataType::Utf8, true), Field::new("other", DataType::Utf8, true)]));
        for written in [name.to_string(), name.to_uppercase(), format!("\"{}\"", name.to_uppercase().replace('"', "\"\""))] {
            let Err(error) = Expr::compile(&written, &schema) else { continue };
            let help = error.help.unwrap_or_default();
            let Some(meant) = help.split("did you mean `").nth(1).and_then(|rest| rest.split_once("`?")).map(|(meant, _)| meant) else {
                continue;
            };
            assert_ne!(meant, written);
            assert!(Expr::compile(meant, &schema).is_ok(), "{written}: {help}");
        }
    }
    let schema = Arc::new(Schema::new(vec![Field::new("a.b", DataType::Utf8, true)]));
    let error = Expr::compile("a.b = 'x'", &schema).unwrap_err();
    assert_eq!(error.help.as_deref(), Some("did you mean `\"a.b\"`? A name with dots goes in double quotes"));
    let error = Expr::compile("cart", &schema).unwrap_err();
    assert_eq!(error.help.as_deref(), Some("the columns are `\"a.b\"`"));
}

#[test]
fn refusals_point_and_suggest() {
    let cases: &[(&str, &str, &str, &str)] = &[
        ("n > 0 AND statuz = 'x'", "unknown-column", "statuz", "did you mean `status`?"),
        ("Status = 'x'", "unknown-column", "Status", "did you mean `status`?"),
        ("data.totl > 1", "unknown-column", "totl", "did you mean `total`?"),
        ("data.meta.zzz > 1", "unknown-column", "zzz", "its fields are `source`"),
        ("orderId", "unknown-column", "orderId", "did you mean `data.orderId`?"),
        ("source", "unknown-column", "source", "did you mean `data.meta.source`?"),
        ("status = \"NEW!\"", "unknown-column", "\"NEW!\"", "double quotes name columns; a text goes in single quotes: 'NEW!'"),
        (
            "status = \"PAID!\"",
            "unknown-column",
            "\"PAID!\"",
            "did you mean `paid`? Double quotes name columns; a text goes in single quotes: 'PAID!'",
        ),
        ("uper(status)", "unknown-function", "uper", "did you mean `upper`?"),
        (
            "data.items.price",
            "unknown-column",
            "price",
            "`data.items[1].price` is the field of the first element; a `map` step with `unnest` makes one row per element",
        ),
        ("_time > now()", "not-deterministic", "now", "use `_time`, the event time"),
        ("CURRENT_DATE", "not-deterministic", "CURRENT_DATE", "use `_time`, the event time"),
        ("random() > 0.5", "not-deterministic", "random", "compute the value from columns of the row"),
        (
            "1 + sum(n)",
            "aggregate",
            "sum",
            "aggregate in the `compute` of a `window` step; lists have `array_length`, `array_sum`, `array_max`",
        ),
        (
            "sum(n) OVER ()",
            "window-function",
            "sum",
            "group the rows in a `window` step, which has `first`, `last`, `count`, `sum`, `min`, `max` and `avg` (docs/recipes.md)",
        ),
        ("n IN (SELECT 1)", "subquery", "SELECT 1", "look up rows of a table with an `enrich` step"),
        ("unnest(data.items)", "unsupported", "unnest", "write `unnest: data.items AS item` in a `map` step"),
    ];
    for (sql, code, within, help) in cases {
        let error = refused(sql);
        let pointed = error.within.clone().map(|r| &sql[r]);
        assert_eq!((error.code, pointed, error.help.as_deref()), (*code, Some(*within), Some(*help)), "{sql}: {error}");
    }
}

#[test]
fn type_errors_point_at_the_smallest_part() {
    let sql = "n > 0 AND upper(paid, n) = 'x'";
    let error = refused(sql);
    assert_eq!(error.code, "type-mismatch", "{error}");
    assert!(error.within.clone().is_some_and(|r| sql[r].starts_with("upper(paid")), "{error:?}");
    assert_eq!(refused("status + data").code, "type-mismatch");
    assert_eq!(refused("CAST(n AS NONSENSE)").code, "type-mismatch");
    assert_eq!(refused("NULL").code, "untyped-null");
}

#[test]
fn constants_that_fail_are_refused() {
    for sql in ["n + 1 / 0", "9223372036854775807 + 1", "CAST('x' AS INT)", "-(-9223372036854775807 - 1)"] {
        assert_eq!(refused(sql).code, "constant-error", "{sql}");
    }
    assert_eq!(values("CASE WHEN false THEN 1 / 0 ELSE 7 END")[0], "7");
}

#[test]
fn what_a_constant_makes_fail_for_every_row_is_refused() {
    for (sql, said) in [
        ("n / 0 > 1", "this fails for every row"),
        ("n % 0", "this fails for every row"),
        ("date_part('hor', timestamp)", "this fails for every row"),
        ("date_trunc('hor', timestamp) = timestamp", "this fails for every row"),
        ("timestamp AT TIME ZONE 'Europe/Berln' = timestamp", "unknown time zone `Europe/Berln`"),
    ] {
        let error = refused(sql);
        assert!(error.code == "constant-error" && error.message.starts_with(said), "{sql}: {error}");
    }
    // These fail for some rows only, or for none.
    for sql in [
        "10 / n",
        "n / 2",
        "data.total / 0.0",
        "date_part('hour', timestamp AT TIME ZONE 'Europe/Berlin')",
        "date_trunc('month', timestamp AT TIME ZONE '+02:00')",
        "make_date(CAST(n AS INT), 2, 29)",
        "to_timestamp(status)",
        "split_part(status, ',', n)",
        "regexp_like(status, '^[A-Z]+$')",
        "lpad(status, n, 'x')",
        "left(status, 3)",
        "range(n, 1764201600000, 60000)",
        "to_time(status, '%H:%M')",
        "digest('abc', status)",
        "encode('abc', status)",
        "data.items[1].price / 2",
        "date_bin(INTERVAL '5 minutes', timestamp)",
        "to_char(timestamp, '%Y-%m-%d')",
    ] {
        values(sql);
    }
}

#[test]
fn odd_text_is_refused_not_fatal() {
    for sql in [
        "",
        " ",
        "n +",
        "(",
        ")",
        "n n",
        "n; n",
        "'",
        "\"",
        "$1",
        "?",
        "@x",
        "*",
        "data.*",
        "n -> 'x'",
        "x -> x",
        "SELECT 1",
        "\u{0}",
        "n.",
        ".n",
        "/*",
        "n[",
        "[1",
        "{",
        "INTERVAL",
        "CASE END",
        "CAST(n AS",
        "n::",
        "EXTRACT(foo FROM _time)",
        "DATE 'x'",
        "TIMESTAMP 'x'",
        "{'a'}",
        "map()",
        "n[1]",
        "data[1]",
        "data['zzz']",
        "row_number()",
        "a.b.c.d.e.f",
    ] {
        assert!(!refused(sql).message.is_empty(), "{sql}");
    }
}
