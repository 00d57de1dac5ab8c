//! Columns of every type in the real ClickHouse engine: what arrives as it was, what fits, what is refused.

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::*;
use headwater::sinks::clickhouse::*;
use headwater_engine::delivery::{Block, Progress, Target, contract};
use headwater_engine::sinks::Incoming;
use tokio::runtime::Runtime;

use crate::delivery::{Front, found, outcome, prepared};

fn everything() -> RecordBatch {
    let items = Int64Builder::new();
    let mut list = ListBuilder::new(items);
    list.append_value([Some(1), None, Some(3)]);
    list.append_value([]);
    let members: Fields = vec![Field::new("sku", DataType::Utf8, false), Field::new("n", DataType::Int32, true)].into();
    let tuple =
        StructArray::new(members, vec![Arc::new(StringArray::from(vec!["a", "b"])), Arc::new(Int32Array::from(vec![Some(7), None]))], None);
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("flag", Arc::new(BooleanArray::from(vec![true, false])), false),
        ("small", Arc::new(Int8Array::from(vec![-128, 127])), false),
        ("big", Arc::new(UInt64Array::from(vec![u64::MAX, 0])), false),
        ("real", Arc::new(Float64Array::from(vec![Some(0.1), None])), true),
        ("text", Arc::new(StringArray::from(vec![Some("line\n\nbreak \u{fc}"), None])), true),
        ("low", Arc::new(StringArray::from(vec!["x", "y"])), false),
        ("bytes", Arc::new(BinaryArray::from(vec![&[0u8, 255, 10, 10][..], b""])), false),
        ("money", Arc::new(Decimal128Array::from(vec![-1, 123_456]).with_precision_and_scale(12, 2).unwrap()), false),
        ("day", Arc::new(Date32Array::from(vec![0, 20_000])), false),
        ("at", Arc::new(TimestampMillisecondArray::from(vec![1_767_225_600_123, -1]).with_timezone("UTC")), false),
        ("list", Arc::new(list.finish()), true),
        ("tuple", Arc::new(tuple), false),
        ("_partition", Arc::new(Int32Array::from(vec![0, 0])), false),
        ("_offset", Arc::new(Int64Array::from(vec![5, 5])), false),
        ("_row", Arc::new(Int32Array::from(vec![0, 1])), false),
    ];
    let fields: Vec<Field> =
        columns.iter().map(|(name, array, nullable)| Field::new(*name, array.data_type().clone(), *nullable)).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, array, _)| array).collect()).unwrap()
}

#[test]
fn every_type_arrives_as_it_was() {
    let (runtime, front) = (Runtime::new().unwrap(), Front::up());
    let (connection, table) = (front.connection(), Table::new("d", "kinds"));
    let rows = everything();
    let user = Incoming::added(Schema::new(rows.schema().fields().iter().take(12).cloned().collect::<Vec<_>>()));
    let options = TableOptions { low_cardinality: vec!["low".into()], order_by: vec!["low".into()], ..TableOptions::default() };
    let inspection = runtime.block_on(async {
        ensure_table(&connection, &table, &user, &options).await.unwrap();
        ensure_table(&connection, &table, &user, &options).await.unwrap();
        inspect(&connection, &table, &user).await.unwrap()
    });
    inspection.require(Guarantee::ExactlyOnce).unwrap();
    let mut target = ClickHouse::new(connection.clone(), &inspection, runtime.handle().clone());
    target.start(&Block { rows, ..contract::block(0, 5, 0..2, None).unwrap() });
    assert_eq!(outcome(&mut target), Progress::Inserted);
    let sql = "SELECT flag, small, big, real, text, low, hex(bytes), money, day, at, list, tuple, _offset, _row FROM d.kinds ORDER BY _row";
    let rows = runtime.block_on(connection.rows(sql)).unwrap();
    let first = [
        "true",
        "-128",
        "18446744073709551615",
        "0.1",
        "line\n\nbreak \u{fc}",
        "x",
        "00FF0A0A",
        "-0.01",
        "1970-01-01",
        "2026-01-01 00:00:00.123",
        "[1,NULL,3]",
        "('a',7)",
        "5",
        "0",
    ];
    assert_eq!(rows[0], first);
    assert_eq!(rows[1][9..], ["1969-12-31 23:59:59.999", "[]", "('b',NULL)", "5", "1"]);
}

#[test]
fn values_that_do_not_fit_are_refused_and_not_bent() {
    let (runtime, front) = (Runtime::new().unwrap(), Front::up());
    let (connection, table) = (front.connection(), Table::new("d", "narrow"));
    let inspection = runtime.block_on(prepared(&connection, &table));
    let mut target = ClickHouse::new(connection.clone(), &inspection, runtime.handle().clone());
    // A null where none may be (after the gate, the schema of the rows may still change).
    let nulls: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
    let good = contract::block(0, 0, 0..2, None).unwrap();
    let columns = [("id", good.rows.column(0).clone()), ("amount", nulls)];
    let columns = columns.into_iter().chain(["_partition", "_offset", "_row"].map(|n| (n, good.rows.column_by_name(n).unwrap().clone())));
    let rows = RecordBatch::try_from_iter(columns).unwrap();
    target.start(&Block { rows, ..good });
    assert_eq!(outcome(&mut target), Progress::Unfit("column `amount`: NULL, which `Int64` does not accept".into()));
    assert!(runtime.block_on(found(&connection, &table)).is_empty());
}

/// Columns of other types than a table made for the rows would have: values that fit are there as what they mean.
#[test]
fn every_type_takes_what_fits() {
    let (runtime, front) = (Runtime::new().unwrap(), Front::up());
    let (connection, table) = (front.connection(), Table::new("d", "narrow"));
    let uuid = "61f0c404-5cb3-11e7-907b-a6006ad3dba0";
    let uuid_bytes = FixedSizeBinaryArray::try_from_iter([uuid::Uuid::parse_str(uuid).unwrap().into_bytes()].into_iter()).unwrap();
    let text = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text])) };
    let number = |number: i64| -> ArrayRef { Arc::new(Int64Array::from(vec![number])) };
    let decimal = |value: i128, p, s| -> ArrayRef { Arc::new(Decimal128Array::from(vec![value]).with_precision_and_scale(p, s).unwrap()) };
    let at = 1_782_371_700_000;
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    map.keys().append_value("k");
    map.values().append_value(200);
    map.append(true).unwrap();
    let mut lists = ListBuilder::new(ListBuilder::new(Int64Builder::new()));
    lists.values().append_value([Some(1), Some(2)]);
    lists.append(true);
    let place: Fields = vec![Field::new("city", DataType::Utf8, false)].into();
    let place: ArrayRef = Arc::new(StructArray::new(place, vec![text("Ulm")], None));
    let words: DictionaryArray<Int32Type> = ["word"].into_iter().collect();
    let columns: Vec<(&str, ArrayRef, &str)> = vec![
        ("UUID", text(uuid), uuid),
        ("UUID", Arc::new(uuid_bytes), uuid),
        ("IPv4", text("10.0.0.1"), "10.0.0.1"),
        ("IPv4", number(167_772_161), "10.0.0.1"),
        ("IPv6", text("10.0.0.1"), "::ffff:10.0.0.1"),
        ("Enum8('a' = 1, 'it\\'s, b' = 2)", text("it's, b"), "it's, b"),
        ("Enum16('a' = 1, 'b' = 300)", number(300), "b"),
        ("Date", Arc::new(Date32Array::from(vec![65_535])), "2149-06-06"),
        ("Date32", Arc::new(Date32Array::from(vec![-25_567])), "1900-01-01"),
        ("DateTime('UTC')", Arc::new(TimestampMillisecondArray::from(vec![at]).with_timezone("UTC")), "2026-06-25 07:15:00"),
        ("DateTime('UTC')", Arc::new(TimestampSecondArray::from(vec![at / 1_000])), "2026-06-25 07:15:00"),
        ("DateTime('UTC')", number(at / 1_000), "2026-06-25 07:15:00"),
        ("DateTime64(1, 'UTC')", Arc::new(TimestampMillisecondArray::from(vec![at + 500])), "2026-06-25 07:15:00.5"),
        ("DateTime64(9, 'UTC')", Arc::new(TimestampMicrosecondArray::from(vec![at * 1_000 + 1])), "2026-06-25 07:15:00.000001000"),
        ("UInt8", number(255), "255"),
        ("Int256", number(i64::MIN), "-9223372036854775808"),
        ("UInt128", decimal(10i128.pow(37), 38, 0), "10000000000000000000000000000000000000"),
        ("Int16", decimal(-3_276_800, 10, 2), "-32768"),
        ("Decimal(5, 2)", decimal(999_990, 10, 3), "999.99"),
        ("Float32", Arc::new(Float64Array::from(vec![0.5])), "0.5"),
        ("Float64", number(3), "3"),
        ("FixedString(4)", text("abcd"), "abcd"),
        ("String", Arc::new(FixedSizeBinaryArray::try_from_iter([[b'a', 0, 0]].into_iter()).unwrap()), "a\0\0"),
        ("SimpleAggregateFunction(sum, UInt64)", number(3), "3"),
        ("LowCardinality(String)", Arc::new(words), "word"),
        ("JSON", text("{\"a\": 1}"), "{\"a\":1}"),
        ("JSON", place.clone(), "{\"city\":\"Ulm\"}"),
        ("Tuple(city LowCardinality(Nullable(String)))", place, "('Ulm')"),
        ("Map(LowCardinality(String), UInt8)", Arc::new(map.finish()), "{'k':200}"),
        ("Array(Array(Int8))", Arc::new(lists.finish()), "[[1,2]]"),
    ];
    let named = |at: usize| format!("c{at}");
    let fields: Vec<Field> = columns.iter().enumerate().map(|(n, (_, a, _))| Field::new(named(n), a.data_type().clone(), true)).collect();
    let user = Incoming::added(Schema::new(fields.clone()));
    let positions = contract::block(0, 0, 0..1, None).unwrap().rows;
    let positions = ["_partition", "_offset", "_row"]
        .map(|name| (Field::new(name, DataType::Int64, false), positions.column_by_name(name).unwrap().clone()));
    let positions = positions.map(|(field, array)| (field.with_data_type(array.data_type().clone()), array));
    let all: Vec<Field> = fields.into_iter().chain(positions.iter().map(|(field, _)| field.clone())).collect();
    let arrays = columns.iter().map(|(_, array, _)| array.clone()).chain(positions.into_iter().map(|(_, array)| array)).collect();
    let rows = RecordBatch::try_new(Arc::new(Schema::new(all)), arrays).unwrap();
    let types: String = columns.iter().enumerate().map(|(n, (native, ..))| format!("{} {native}, ", named(n))).collect();
    let inspection = runtime.block_on(async {
        connection.execute("CREATE DATABASE d").await.unwrap();
        let create = format!(
            "CREATE TABLE d.narrow ({types} _partition Int32, _offset Int64, _row Int32) ENGINE = MergeTree ORDER BY _offset \
             SETTINGS non_replicated_deduplication_window = 1000"
        );
        connection.execute(&create).await.unwrap();
        inspect(&connection, &table, &user).await.unwrap()
    });
    inspection.require(Guarantee::ExactlyOnce).unwrap();
    let mut target = ClickHouse::new(connection.clone(), &inspection, runtime.handle().clone());
    target.start(&Block { rows, ..contract::block(0, 0, 0..1, None).unwrap() });
    assert_eq!(outcome(&mut target), Progress::Inserted);
    let found = runtime.block_on(connection.rows("SELECT * FROM d.narrow")).unwrap();
    for (at, (native, array, expected)) in columns.iter().enumerate() {
        assert_eq!(found[0][at], *expected, "{} into {native}", array.data_type());
    }
}
