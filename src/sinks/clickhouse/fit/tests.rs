//! Values at the edges of every type, and what is under a null.

use arrow::array::*;
use arrow::buffer::NullBuffer;
use arrow::datatypes::{Fields, Int32Type, TimeUnit};

use super::*;

fn fits(array: impl Array + 'static, native: &str) -> Result<ArrayRef, String> {
    fit(&(Arc::new(array) as ArrayRef), &Native::parse(native).unwrap())
}

/// Each value alone: those in `good` fit, those in `bad` don't.
fn edges<A: Array + From<Vec<T>> + 'static, T: Clone + std::fmt::Debug>(native: &str, good: &[T], bad: &[T]) {
    for value in good {
        let fitted = fits(A::from(vec![value.clone()]), native);
        assert!(fitted.is_ok(), "{value:?} into {native}: {fitted:?}");
    }
    for value in bad {
        assert!(fits(A::from(vec![value.clone()]), native).is_err(), "{value:?} into {native}");
    }
    // A bad value among good ones is found, too.
    if let (Some(good), Some(bad)) = (good.first(), bad.first()) {
        assert!(fits(A::from(vec![good.clone(), bad.clone(), good.clone()]), native).is_err(), "{native}");
    }
}

#[test]
fn numbers_fit_to_the_last_one() {
    edges::<Int64Array, _>("UInt8", &[0, 255], &[-1, 256]);
    edges::<Int64Array, _>("Int8", &[-128, 127], &[-129, 128]);
    edges::<Int64Array, _>("Int32", &[i32::MIN.into(), i32::MAX.into()], &[i64::MAX, i64::MIN]);
    edges::<Int64Array, _>("UInt64", &[0, i64::MAX], &[-1]);
    edges::<UInt64Array, _>("Int64", &[0, i64::MAX as u64], &[u64::MAX]);
    edges::<UInt64Array, _>("UInt64", &[u64::MAX], &[]);
    edges::<Int64Array, _>("Int256", &[i64::MIN, i64::MAX], &[]);
    edges::<Int64Array, _>("UInt256", &[i64::MAX], &[-1]);
    edges::<Int64Array, _>("Decimal(4, 2)", &[-99, 99], &[100, -100]);
    edges::<Int64Array, _>("Float32", &[1 << 24], &[(1 << 24) + 1]);
    edges::<Int64Array, _>("Float64", &[-(1 << 53)], &[(1 << 53) + 1]);
    edges::<Float64Array, _>("Float32", &[0.1, f64::NAN, f64::INFINITY, 3.4e38], &[1e39, -1e39]);
    edges::<Int64Array, _>("IPv4", &[0, u32::MAX.into()], &[-1, 1 << 32]);
    edges::<BooleanArray, _>("UInt8", &[true, false], &[]);
}

#[test]
fn decimals_keep_every_digit() {
    let decimal = |value: i128, p, s| Decimal128Array::from(vec![value]).with_precision_and_scale(p, s).unwrap();
    assert!(fits(decimal(99_999, 10, 2), "Decimal(5, 2)").is_ok());
    assert!(fits(decimal(100_000, 10, 2), "Decimal(5, 2)").is_err());
    assert!(fits(decimal(-100_000, 10, 2), "Decimal(5, 2)").is_err());
    assert!(fits(decimal(1_230, 10, 3), "Decimal(5, 2)").is_ok());
    assert!(fits(decimal(1_234, 10, 3), "Decimal(5, 2)").is_err());
    assert!(fits(decimal(500, 10, 2), "Int8").is_ok());
    assert!(fits(decimal(501, 10, 2), "Int8").is_err());
    assert!(fits(decimal(12_800, 10, 2), "Int8").is_err());
    assert!(fits(decimal(i128::MAX / 10, 38, 0), "UInt256").is_ok());
    assert!(fits(decimal(-1, 38, 0), "UInt256").is_err());
}

#[test]
fn times_fit_whole_and_in_range() {
    edges::<Date32Array, _>("Date", &[0, 65_535], &[-1, 65_536]);
    edges::<Date32Array, _>("Date32", &[-25_567, 120_529], &[-25_568, 120_530]);
    let last = i64::from(u32::MAX) * 1_000;
    edges::<TimestampMillisecondArray, _>("DateTime('UTC')", &[0, 1_000, last], &[-1_000, 1, last + 1_000]);
    edges::<Int64Array, _>("DateTime", &[0, u32::MAX.into()], &[-1, 1_782_371_700_000]);
    edges::<TimestampMillisecondArray, _>(
        "DateTime64(3)",
        &[-2_208_988_800_000, 10_413_791_999_999],
        &[-2_208_988_800_001, 10_413_792_000_000],
    );
    edges::<TimestampMicrosecondArray, _>("DateTime64", &[1_000], &[1]);
    edges::<TimestampMillisecondArray, _>("DateTime64(9)", &[9_223_372_035_999], &[9_223_372_037_000]);
    edges::<TimestampSecondArray, _>("DateTime64(1)", &[0], &[i64::MAX]);
    assert!(matches!(TimestampSecondArray::from(vec![0]).data_type(), DataType::Timestamp(TimeUnit::Second, None)));
}

#[test]
fn texts_are_read_as_their_column_means_them() {
    edges::<StringArray, _>(
        "UUID",
        &["61f0c404-5cb3-11e7-907b-a6006ad3dba0", "61F0C4045CB311E7907BA6006AD3DBA0"],
        &["", "61f0c404", "{61f0c404-5cb3-11e7-907b-a6006ad3dba0}", "61f0c404-5cb3-11e7-907b-a6006ad3dbaz"],
    );
    edges::<StringArray, _>("IPv4", &["1.2.3.4"], &["1.2.3", "1.2.3.256", "::1", ""]);
    edges::<StringArray, _>("IPv6", &["::1", "1.2.3.4"], &["1.2.3", "x"]);
    edges::<StringArray, _>("Enum8('a' = 1, 'it\\'s, b' = -2)", &["a", "it's, b"], &["", "b", "A", "1"]);
    edges::<Int64Array, _>("Enum16('a' = 1, 'b' = 300)", &[1, 300], &[0, 44]);
    edges::<StringArray, _>("Enum8('x', 'y')", &["x", "y"], &["z"]);
    edges::<StringArray, _>("FixedString(3)", &["", "abc", "\u{20ac}"], &["abcd", "\u{20ac}x"]);
    edges::<StringArray, _>("JSON(max_dynamic_paths=8)", &["{}", " {\"a\": [1, null]}"], &["", "[1]", "1", "{\"a\":", "{} {}"]);
    edges::<StringArray, _>("LowCardinality(String)", &["", "x"], &[]);
}

fn shown(array: &ArrayRef) -> Vec<String> {
    array.as_string::<i32>().iter().map(|text| text.unwrap().to_owned()).collect()
}

#[test]
fn what_is_sent_is_what_clickhouse_reads_as_the_value() {
    let sixteen = FixedSizeBinaryArray::try_from_iter([(0u8..16).collect::<Vec<u8>>()].into_iter()).unwrap();
    assert_eq!(shown(&fits(sixteen.clone(), "UUID").unwrap()), ["00010203-0405-0607-0809-0a0b0c0d0e0f"]);
    assert_eq!(shown(&fits(sixteen, "IPv6").unwrap()), ["1:203:405:607:809:a0b:c0d:e0f"]);
    assert!(fits(BinaryArray::from(vec![&b"short"[..]]), "UUID").is_err());
    assert_eq!(shown(&fits(Int64Array::from(vec![2]), "Enum8('a' = 1, 'b' = 2)").unwrap()), ["b"]);
    assert_eq!(fits(Int64Array::from(vec![7]), "DateTime").unwrap().data_type(), &DataType::UInt32);
    let words: DictionaryArray<Int32Type> = ["a", "b", "a"].into_iter().collect();
    assert_eq!(shown(&fits(words, "LowCardinality(String)").unwrap()), ["a", "b", "a"]);
    let members = vec![Field::new("n", DataType::Int64, false)].into();
    let record = StructArray::new(members, vec![Arc::new(Int64Array::from(vec![5]))], None);
    assert_eq!(shown(&fits(record, "JSON").unwrap()), ["{\"n\":5}"]);
}

#[test]
fn a_null_is_told_where_the_type_takes_none_and_hides_nothing() {
    let why = |array: ArrayRef, native: &str| fit(&array, &Native::parse(native).unwrap()).unwrap_err();
    assert_eq!(why(Arc::new(StringArray::from(vec![None::<&str>])), "String"), "NULL, which `String` does not accept");
    assert!(fits(StringArray::from(vec![None::<&str>]), "LowCardinality(Nullable(String))").is_ok());
    // A null list, record and map that hide values: without their nulls they would be those values.
    let hidden = ListArray::new(
        Arc::new(Field::new("item", DataType::Utf8, true)),
        OffsetBuffer::from_lengths([1, 2]),
        Arc::new(StringArray::from(vec!["seen", "secret", "secret"])),
        Some(vec![true, false].into()),
    );
    assert_eq!(why(Arc::new(hidden.clone()), "Array(String)"), "NULL, which `Array` does not accept");
    // The row before it can be sent, and takes nothing of its neighbour along.
    let first = fits(hidden.slice(0, 1), "Array(String)").unwrap();
    assert_eq!(shown(first.as_list::<i32>().values()), ["seen"]);
    let members: arrow::datatypes::Fields = vec![Field::new("street", DataType::Utf8, false)].into();
    let record = StructArray::new(members, vec![Arc::new(StringArray::from(vec!["secret"]))], Some(vec![false].into()));
    assert_eq!(why(Arc::new(record), "Tuple(street String)"), "NULL, which `Tuple` does not accept");
    // Inside.
    let inner = ListArray::from_iter_primitive::<arrow::datatypes::Int64Type, _, _>([Some(vec![Some(1), None])]);
    assert_eq!(why(Arc::new(inner.clone()), "Array(Int64)"), "an item: NULL, which `Int64` does not accept");
    assert!(fits(inner, "Array(Nullable(Int64))").is_ok());
}

#[test]
fn maps_and_nested_columns_fit_item_by_item() {
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    map.keys().append_value("a");
    map.values().append_value(300);
    map.append(true).unwrap();
    map.append(true).unwrap();
    let map = map.finish();
    let fitted = fits(map.clone(), "Map(LowCardinality(String), Int16)").unwrap();
    assert_eq!(fitted.as_map().offsets().lengths().collect::<Vec<_>>(), [1, 0]);
    assert_eq!(fits(map.clone(), "Map(String, UInt8)").unwrap_err().split(' ').take(2).collect::<Vec<_>>(), ["a", "value:"]);
    // Behind the row that does not fit.
    assert!(fits(map.slice(1, 1), "Map(String, UInt8)").is_ok());
    let column = |name: &str, native: &str| Column { name: name.into(), native: native.into(), kind: String::new() };
    let fit = Fit::new(&[column("m", "Map(String, UInt8)"), column("id", "Int64")]);
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let rows = RecordBatch::try_from_iter([("id", ids), ("m", Arc::new(map) as ArrayRef)]).unwrap();
    let why = fit.apply(&rows).unwrap_err();
    assert!(why.starts_with("column `m`: a value: a value that does not fit into `UInt8`") && !why.contains("300"), "{why}");
}

/// ClickHouse has an experimental `Nullable(Tuple(..))`; what the null hides must not be sent.
#[test]
fn a_null_record_is_never_written_as_its_members() {
    let fields: Fields = vec![Field::new("phone", DataType::Utf8, false)].into();
    let phones: ArrayRef = Arc::new(StringArray::from(vec!["0170 1", "0170 2"]));
    let nulls = NullBuffer::from(vec![true, false]);
    let record = StructArray::new(fields, vec![phones], Some(nulls));
    let why = fits(record, "Nullable(Tuple(phone String))").unwrap_err();
    assert!(why.contains("NULL"), "{why}");
}

/// Rows that wait in the outbox were made before the pipeline and the table were changed.
#[test]
fn rows_of_other_members_than_the_table_has_do_not_fit() {
    let record = |names: &[&str]| {
        let fields: Fields = names.iter().map(|name| Field::new(*name, DataType::Int64, false)).collect::<Vec<_>>().into();
        StructArray::new(fields, names.iter().map(|_| Arc::new(Int64Array::from(vec![1])) as ArrayRef).collect(), None)
    };
    assert!(fits(record(&["a", "b"]), "Tuple(a Int64, b Int64)").is_ok());
    for names in [&["a", "b", "c"][..], &["a"], &["b", "a"]] {
        assert!(fits(record(names), "Tuple(a Int64, b Int64)").is_err(), "{names:?}");
    }
    assert!(fits(Int64Array::from(vec![1]), "String").is_err());
    assert!(fits(StringArray::from(vec!["true"]), "Bool").is_err());
}

#[test]
fn integers_that_a_float_holds_exactly_fit() {
    edges::<Int64Array, _>("Float64", &[1 << 60, 10_000_000_000_000_000, i64::MIN], &[(1 << 60) + 1, i64::MAX]);
    edges::<Int64Array, _>("Float32", &[1 << 40, 100_000_000], &[(1 << 40) + 1]);
    edges::<Int64Array, _>("BFloat16", &[256, 512], &[257]);
    edges::<UInt64Array, _>("Float64", &[1 << 63], &[u64::MAX]);
}

#[test]
fn members_of_enumerations_are_read_with_all_their_escapes() {
    edges::<StringArray, _>(
        "Enum8('a\\nb' = 1, 'it\\'s' = 2, 'x''y' = 3, 'b\\\\s' = 4, 't\\tb' = 5)",
        &["a\nb", "it's", "x'y", "b\\s", "t\tb"],
        &["anb"],
    );
    // No number follows the largest: nothing panics.
    edges::<StringArray, _>("Enum16('a' = 9223372036854775807, 'b')", &["a"], &["c"]);
}

/// ClickHouse cuts zero bytes at the end where it makes a `String` of a `FixedString`.
#[test]
fn bytes_of_fixed_length_keep_their_zeros() {
    let array = FixedSizeBinaryArray::try_from_iter([[b'a', 0, 0]].into_iter()).unwrap();
    for native in ["String", "FixedString(4)"] {
        let fitted = fits(array.clone(), native).unwrap();
        assert_eq!(fitted.as_binary::<i32>().value(0), b"a\0\0", "{native}");
    }
}
