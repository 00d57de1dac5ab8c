//! The semantics of the JSON decoder, one by one.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Date32Type, Field, Int32Type, TimeUnit, TimestampMillisecondType};
use headwater_formats::{DecodeError, JsonDecoder, RowBuilder};
use proptest::prelude::*;

use crate::columns::*;

#[test]
fn members_are_found_in_any_order_and_others_are_dropped() {
    let schema = schema(vec![Field::new("id", DataType::Utf8, false), Field::new("n", DataType::Int64, true)]);
    let (outcomes, batch) = json(
        &schema,
        &[
            r#"{"id":"a","x":{"n":[1,{"id":"no"}]},"n":1}"#,
            r#"{"id":"b","x":{"n":[1,{"id":"no"}]},"n":2}"#,
            r#"{"n":3,"id":"c"}"#,
            r#"{"id":"d","n":4,"x":[]}"#,
            " { \"n\" : 5 ,\r\n\t\"id\" : \"e\" } ",
            r#"{"x":1,"id":"f"}"#,
            r#"{"\u0069d":"g","n":null}"#,
        ],
    );
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(texts(&batch, "id"), ["a", "b", "c", "d", "e", "f", "g"].map(|t| Some(t.to_string())));
    assert_eq!(longs(&batch, "n"), [Some(1), Some(2), Some(3), Some(4), Some(5), None, None]);
}

#[test]
fn remembered_members_do_not_make_commas_optional() {
    let schema = schema(vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Int64, true)]);
    let (outcomes, batch) = json(
        &schema,
        &[
            r#"{"a":1,"b":2}"#,
            r#"{"b":1,"a":2}"#,
            r#"{"a":1"b":2}"#,
            r#"{,"b":2}"#,
            r#"{"a":1,}"#,
            r#"{"a":1,,"b":2}"#,
            r#"{"a":1 "b":2}"#,
            r#"{"b":7}"#,
        ],
    );
    let good: Vec<bool> = outcomes.iter().map(Result::is_ok).collect();
    assert_eq!(good, [true, true, false, false, false, false, false, true]);
    assert_eq!(longs(&batch, "b"), [Some(2), Some(1), Some(7)]);
}

#[test]
fn of_duplicate_members_the_last_wins() {
    let inner = DataType::Struct(vec![Field::new("l", list_of(DataType::Int64), true), Field::new("t", DataType::Utf8, true)].into());
    let schema = schema(vec![Field::new("a", DataType::Int64, true), Field::new("s", inner, true)]);
    let (outcomes, batch) =
        json(&schema, &[r#"{"a":1,"s":{"l":[1,2],"t":"x"},"a":null,"s":{"t":"y","t":"z","l":[3]},"a":7}"#, r#"{"a":8,"s":null,"a":9}"#]);
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(longs(&batch, "a"), [Some(7), Some(9)]);
    let inner = batch.column(1).as_struct();
    assert_eq!(inner.column(1).as_string::<i32>().value(0), "z");
    assert_eq!(inner.column(0).as_list::<i32>().value(0).len(), 1);
    assert!(inner.is_null(1));
    assert_consistent(&batch);
}

#[test]
fn causes_name_the_path_and_never_quote_the_payload() {
    let item = DataType::Struct(vec![Field::new("quantity", DataType::Int32, false)].into());
    let data =
        DataType::Struct(vec![Field::new("items", list_of(item), false), Field::new("labels", map_of(DataType::Int64), true)].into());
    let schema = schema(vec![Field::new("data", data, false)]);
    for (document, expected) in [
        (r#"{"data":{"items":[{"quantity":1},{"quantity":2},{"secret":3}]}}"#, "data.items[2].quantity: missing"),
        (r#"{"data":{"items":[{"quantity":null}]}}"#, "data.items[0].quantity: null, but the field is not nullable"),
        (r#"{"data":{"items":[{"quantity":"secret"}]}}"#, "data.items[0].quantity: expected a 32-bit integer, found a string at byte 30"),
        (
            r#"{"data":{"items":[],"labels":{"x":1,"secret":"secret"}}}"#,
            "data.labels[1]: expected a 64-bit integer, found a string at byte 45",
        ),
        (r#"{"data":{"items":[],"labels":{"secret":1,"secret":2}}}"#, "data.labels: duplicate key in a map"),
        (r#"{"data":null}"#, "data: null, but the field is not nullable"),
        (r#"{}"#, "data: missing"),
        (r#"["secret"]"#, "expected an object, found an array at byte 0"),
    ] {
        let found = json_error(&schema, document.as_bytes());
        assert_eq!(found, expected);
        assert!(!found.contains("secret"));
    }
}

#[test]
fn timestamps_need_a_zone_and_a_sane_year() {
    let schema = one(millis());
    let good = [
        ("\"1970-01-01T00:00:00Z\"", 0),
        ("\"2025-08-12T10:30:00.123Z\"", 1_754_994_600_123),
        ("\"2025-08-12T12:30:00.123456+02:00\"", 1_754_994_600_123),
        ("\"2025-08-12 10:30Z\"", 1_754_994_600_000),
        ("\"1969-12-31T23:59:59.9999Z\"", -1),
        ("\"0001-01-01T00:00:00Z\"", -62_135_596_800_000),
        ("\"9999-12-31T23:59:59.999Z\"", 253_402_300_799_999),
        ("\"2024-02-29T00:00:00-0130\"", 1_709_170_200_000),
        ("-1", -1),
        ("1754994600123", 1_754_994_600_123),
    ];
    let (outcomes, batch) = json(&schema, &good.map(|(text, _)| format!("{{\"a\":{text}}}")));
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(batch.column(0).as_primitive::<TimestampMillisecondType>().values(), &good.map(|(_, value)| value)[..]);
    for text in [
        "\"2025-08-12T10:30:60Z\"",
        "\"2025-08-12T10:30:00\"",
        "\"2025-02-29T00:00:00Z\"",
        "\"2025-13-01T00:00:00Z\"",
        "\"2025-08-12T24:00:00Z\"",
        "\"10000-01-01T00:00:00Z\"",
        "\"0000-01-01T00:00:00Z\"",
        "\"9999-12-31T23:59:59-01:00\"",
        "\"2025-08-12\"",
        "\"\"",
        "\"2025-08-12T10:30:00.Z\"",
        "\"2025-08-12T10:30:00.1234567890Z\"",
        "\"2025-08-12T10:30:00Zx\"",
        "253402300800000",
        "-9223372036854775808",
        "9223372036854775807",
        "1.5",
        "true",
    ] {
        json_error(&schema, format!("{{\"a\":{text}}}").as_bytes());
    }
    let local = one(DataType::Timestamp(TimeUnit::Microsecond, None));
    assert_eq!(json(&local, &[r#"{"a":"2025-08-12T10:30:00.123456"}"#]).1.num_rows(), 1);
    assert!(json_error(&local, br#"{"a":"2025-08-12T10:30:00Z"}"#).contains("local time"));
    let nanos = one(DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())));
    assert!(json_error(&nanos, br#"{"a":"2262-04-12T00:00:00Z"}"#).contains("out of range"));
    assert!(json_error(&nanos, br#"{"a":"1677-09-20T00:00:00Z"}"#).contains("out of range"));
}

#[test]
fn dates_times_and_bytes_are_strings() {
    let date = one(DataType::Date32);
    let (_, batch) = json(&date, &[r#"{"a":"1970-01-02"}"#, r#"{"a":"2000-02-29"}"#]);
    assert_eq!(batch.column(0).as_primitive::<Date32Type>().values(), &[1, 11_016]);
    for text in ["\"1900-02-29\"", "\"2025-1-1\"", "\"2025-01-01T00:00:00Z\"", "19000"] {
        json_error(&date, format!("{{\"a\":{text}}}").as_bytes());
    }
    let bytes = one(DataType::Binary);
    let (_, batch) = json(&bytes, &[r#"{"a":"AP8\u003d"}"#, r#"{"a":""}"#, r#"{"a":"\/w=="}"#]);
    assert_eq!(
        batch.column(0).as_binary::<i32>().iter().map(|v| v.unwrap().to_vec()).collect::<Vec<_>>(),
        [vec![0, 255], vec![], vec![255]]
    );
    for text in ["\"AP8\"", "\"_w==\"", "\"A\"", "[0,255]"] {
        json_error(&bytes, format!("{{\"a\":{text}}}").as_bytes());
    }
    let fixed = one(DataType::FixedSizeBinary(2));
    assert!(json_error(&fixed, br#"{"a":"/w=="}"#).contains("expected 2 bytes"));
    assert_eq!(json(&fixed, &[r#"{"a":"AP8="}"#]).1.num_rows(), 1);
    let time = one(DataType::Time32(TimeUnit::Millisecond));
    assert_eq!(json(&time, &[r#"{"a":"23:59:59.999"}"#]).1.num_rows(), 1);
    json_error(&time, br#"{"a":"24:00:00"}"#);
}

#[test]
fn types_are_not_guessed() {
    for (data_type, wrong) in [
        (DataType::Utf8, "1"),
        (DataType::Utf8, "true"),
        (DataType::Utf8, "{}"),
        (DataType::Boolean, "\"true\""),
        (DataType::Boolean, "1"),
        (DataType::Float64, "\"1\""),
        (list_of(DataType::Int64), "{}"),
        (list_of(DataType::Int64), "1"),
        (map_of(DataType::Int64), "[]"),
        (DataType::Struct(vec![Field::new("x", DataType::Int64, true)].into()), "[]"),
    ] {
        json_error(&one(data_type), format!("{{\"a\":{wrong}}}").as_bytes());
    }
}

#[test]
fn escapes_are_decoded() {
    let (outcomes, batch) = json(&one(DataType::Utf8), &[r#"{"a":"\"\\\/\b\f\n\r\t\u0041\u00e9\ud83d\ude00 žluť end"}"#]);
    assert_eq!(outcomes, [Ok(())]);
    assert_eq!(batch.column(0).as_string::<i32>().value(0), "\"\\/\u{8}\u{c}\n\r\tAé😀 žluť end");
}

#[test]
fn a_nullable_struct_may_be_null_though_its_fields_may_not() {
    let inner = DataType::Struct(
        vec![
            Field::new("x", DataType::Int32, false),
            Field::new("l", list_of(DataType::Utf8), false),
            Field::new("m", map_of(DataType::Boolean), false),
        ]
        .into(),
    );
    let schema = schema(vec![Field::new("s", inner, true)]);
    let (outcomes, batch) = json(&schema, &[r#"{"s":null}"#, r#"{"s":{"x":1,"l":["a",null],"m":{"k":true}}}"#, "{}"]);
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    let found = batch.column(0).as_struct();
    assert!(found.is_null(0) && found.is_valid(1) && found.is_null(2));
    assert_eq!(found.column(0).as_primitive::<Int32Type>().value(1), 1);
    assert_consistent(&batch);
}

#[test]
fn a_builder_is_reused_and_counts_its_bytes() {
    let schema = one(DataType::Utf8);
    let (mut decoder, mut rows) = (JsonDecoder::new(&schema), RowBuilder::new(&schema, 0).unwrap());
    let empty = rows.estimated_bytes();
    for round in 0..3 {
        for _ in 0..=round {
            decoder.decode(br#"{"a":"0123456789"}"#, &mut rows).unwrap();
        }
        assert!(rows.estimated_bytes() >= empty + 10 * (round + 1));
        assert_eq!(rows.len(), round + 1);
        assert_eq!(rows.finish().unwrap().num_rows(), round + 1);
        assert!(rows.is_empty());
    }
    decoder.decode(br#"{"a":"x"}"#, &mut rows).unwrap();
    decoder.decode(br#"{"a":"y"}"#, &mut rows).unwrap();
    rows.truncate(1);
    assert_eq!(texts(&rows.finish().unwrap(), "a"), [Some("x".to_string())]);
}

#[test]
fn a_builder_for_another_schema_is_refused() {
    let mut rows = RowBuilder::new(&one(DataType::Int64), 1).unwrap();
    let error = JsonDecoder::new(&one(DataType::Utf8)).decode(br#"{"a":"x"}"#, &mut rows).unwrap_err();
    assert!(matches!(error, DecodeError::Bad(cause) if cause.contains("another schema")));
    assert!(RowBuilder::new(&one(DataType::LargeUtf8), 1).err().unwrap().contains("LargeUtf8"));
}

fn rollback_schema() -> arrow::datatypes::SchemaRef {
    let inner = DataType::Struct(vec![Field::new("t", DataType::Utf8, true), Field::new("z", DataType::Boolean, false)].into());
    schema(vec![
        Field::new("a", DataType::Utf8, true),
        Field::new("l", list_of(inner.clone()), true),
        Field::new("m", map_of(inner), true),
        Field::new("d", DataType::Decimal128(10, 2), true),
        Field::new("b", DataType::Binary, true),
        Field::new("f", DataType::FixedSizeBinary(1), true),
        Field::new("n", DataType::Int64, false),
    ])
}

proptest! {
    /// Bad records in any place and broken at any byte change nothing about the others.
    #[test]
    fn bad_records_leave_no_trace(seed in any::<u64>()) {
        let schema = rollback_schema();
        let mut dice = Dice(seed);
        let (mut all, mut good) = (Vec::new(), Vec::new());
        for i in 0..dice.below(30) {
            let null = dice.below(3) == 0;
            let document = if null {
                format!(r#"{{"l":[null,{{"z":true}}],"m":null,"n":{i}}}"#)
            } else {
                format!(r#"{{"a":"t{i}","l":[{{"t":"x","z":true}},{{"z":false}}],"m":{{"k":{{"z":true}},"j":null}},"d":1.25,"b":"AP8=","f":"AA==","n":{i}}}"#)
            };
            if dice.below(2) == 0 {
                let cut = dice.below(document.len() as u64) as usize;
                all.push(document.as_bytes()[..cut].to_vec());
                let mut damaged = document.clone().into_bytes();
                damaged[cut] = 1; // never valid, neither in a string nor between tokens
                all.push(damaged);
            }
            good.push(document.clone().into_bytes());
            all.push(document.into_bytes());
        }
        let (outcomes, with) = json(&schema, &all);
        let (clean, without) = json(&schema, &good);
        prop_assert!(clean.iter().all(Result::is_ok), "{clean:?}");
        prop_assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), good.len());
        assert_consistent(&with);
        prop_assert_eq!(with, without);
    }
}
