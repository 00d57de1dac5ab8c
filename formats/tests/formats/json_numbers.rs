//! What the JSON decoder takes as a number, and what it makes of it.

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Decimal128Type, Float32Type, Float64Type, TimeUnit};

use crate::columns::*;

#[test]
fn integers_fit_or_are_refused() {
    let long = one(DataType::Int64);
    let (outcomes, batch) = json(&long, &[r#"{"a":9223372036854775807}"#, r#"{"a":-9223372036854775808}"#, r#"{"a":-0}"#]);
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(longs(&batch, "a"), [Some(i64::MAX), Some(i64::MIN), Some(0)]);
    for text in
        ["9223372036854775808", "-9223372036854775809", "99999999999999999999999", "1.5", "01", "-", "+1", "\"1\"", "true", "0x1", "1_000"]
    {
        json_error(&long, format!("{{\"a\":{text}}}").as_bytes());
    }
    for (data_type, good, bad) in [
        (DataType::Int8, "-128", "128"),
        (DataType::Int16, "32767", "-32769"),
        (DataType::Int32, "-2147483648", "2147483648"),
        (DataType::UInt8, "255", "256"),
        (DataType::UInt16, "65535", "-1"),
        (DataType::UInt32, "4294967295", "4294967296"),
        (DataType::UInt64, "18446744073709551615", "18446744073709551616"),
    ] {
        let schema = one(data_type);
        assert_eq!(json(&schema, &[format!("{{\"a\":{good}}}")]).1.num_rows(), 1);
        assert!(json_error(&schema, format!("{{\"a\":{bad}}}").as_bytes()).contains("out of range"));
    }
}

#[test]
fn whole_numbers_may_be_written_with_a_fraction_or_an_exponent() {
    let whole = [
        ("3.0", 3),
        ("3e0", 3),
        ("30e-1", 3),
        ("1E3", 1_000),
        ("-0.0", 0),
        ("0e99999999999999999999", 0),
        ("9007199254740993.0", 9_007_199_254_740_993),
        ("9223372036854775807.000", i64::MAX),
        ("9.223372036854775807e18", i64::MAX),
        ("-9223372036854775808.0", i64::MIN),
        ("92233720368547758070000000000e-10", 9_223_372_036_854_775_807),
        ("1782371700000.0", 1_782_371_700_000),
    ];
    let (outcomes, batch) = json(&one(DataType::Int64), &whole.map(|(text, _)| format!("{{\"a\":{text}}}")));
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(longs(&batch, "a"), whole.map(|(_, value)| Some(value)));
    for text in ["3.5", "1e-1", "9007199254740993.5", "0.0000000000000000000000000000000000000000000001"] {
        let found = json_error(&one(DataType::Int64), format!("{{\"a\":{text}}}").as_bytes());
        assert!(found.contains("found a number with a fraction"), "{text}: {found}");
    }
    for text in ["9223372036854775808.0", "-9223372036854775809e0", "1e19", "1e400", "1e99999999999999999999", "18446744073709551616.0"] {
        let found = json_error(&one(DataType::Int64), format!("{{\"a\":{text}}}").as_bytes());
        assert!(found.contains("out of range"), "{text}: {found}");
    }
    for text in ["1.", "01.0", "1e", "-.0"] {
        json_error(&one(DataType::Int64), format!("{{\"a\":{text}}}").as_bytes());
    }
    for (data_type, good, bad) in [
        (DataType::Int8, "-128.0", "128.0"),
        (DataType::Int32, "2147483647.0", "2147483648.0"),
        (DataType::UInt64, "18446744073709551615.0", "-1.0"),
        (DataType::Decimal128(12, 0), "3.0", "3.5"),
        (DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), "1782371700000.0", "1782371700.5"),
        (map_of(DataType::Int32), "{\"x\":3.0}", "{\"x\":3.5}"),
        (list_of(DataType::Int32), "[3e0]", "[3.5]"),
    ] {
        let schema = one(data_type);
        assert_eq!(json(&schema, &[format!("{{\"a\":{good}}}")]).1.num_rows(), 1, "{good}");
        json_error(&schema, format!("{{\"a\":{bad}}}").as_bytes());
    }
}

#[test]
fn floats_are_the_nearest_and_finite() {
    let double = one(DataType::Float64);
    let numbers = [
        "0",
        "-0.0",
        "1.5",
        "123456.789",
        "0.1",
        "1e22",
        "2.2250738585072014e-308",
        "1.7976931348623157e308",
        "9007199254740993",
        "0.000001",
        "123456789012345.6",
        "1e-400",
    ];
    let (_, batch) = json(&double, &numbers.map(|n| format!("{{\"a\":{n}}}")));
    let found: Vec<u64> = batch.column(0).as_primitive::<Float64Type>().values().iter().map(|v| v.to_bits()).collect();
    let expected: Vec<u64> = numbers.iter().map(|n| n.parse::<f64>().unwrap().to_bits()).collect();
    assert_eq!(found, expected);
    for text in ["1e400", "-1e400", "NaN", "Infinity", "-Infinity", ".5", "1.", "1e", "00.5", "\"1.5\"", "1.5.5"] {
        json_error(&double, format!("{{\"a\":{text}}}").as_bytes());
    }
    let float = one(DataType::Float32);
    let (_, batch) = json(&float, &[r#"{"a":0.1}"#, r#"{"a":16777217}"#]);
    assert_eq!(batch.column(0).as_primitive::<Float32Type>().values(), &[0.1f32, 16_777_216.0]);
    assert!(json_error(&float, br#"{"a":1e39}"#).contains("range of a float"));
}

#[test]
fn decimals_are_exact() {
    let schema = one(DataType::Decimal128(12, 2));
    let good = [
        ("1", 100),
        ("1.5", 150),
        ("-12.50", -1250),
        ("0.010", 1),
        ("1e2", 10_000),
        ("\"7.25\"", 725),
        ("9999999999.99", 999_999_999_999),
        ("120e-1", 1200),
        ("-0", 0),
        ("0.0000000000000000000000000000000000000000000000", 0),
    ];
    let (outcomes, batch) = json(&schema, &good.map(|(text, _)| format!("{{\"a\":{text}}}")));
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    let found: Vec<i128> = batch.column(0).as_primitive::<Decimal128Type>().values().to_vec();
    assert_eq!(found, good.map(|(_, value)| value));
    for text in [
        "1.005",
        "10000000000",
        "1e400",
        "1e-3",
        "\"\"",
        "\"1,5\"",
        "\"0x1\"",
        "\"NaN\"",
        "\" 1\"",
        "\"01\"",
        "\"1.\"",
        "true",
        "\"1e\"",
        "1e99999999999999999999",
    ] {
        json_error(&schema, format!("{{\"a\":{text}}}").as_bytes());
    }
    let widest = one(DataType::Decimal128(38, 0));
    let (outcomes, _) = json(
        &widest,
        &[format!("{{\"a\":{}}}", "9".repeat(38)), format!("{{\"a\":{}}}", "9".repeat(39)), format!("{{\"a\":1{}}}", "0".repeat(100))],
    );
    assert!(outcomes[0].is_ok() && outcomes[1].is_err() && outcomes[2].is_err());
}
