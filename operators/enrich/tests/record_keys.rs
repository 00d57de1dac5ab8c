//! Joins on tables that are indexed as the engine does it: by the bytes of the record key.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, Field, Schema};
use operator_core::batch::system_fields;
use operator_core::{Batch, Change, Context, Input, InputInfo, Ledger, MemoryState, Mode, Origin, PlanCx, Spec, Table, TableInfo};
use operator_enrich::Enrich;

/// Joins `on` with a table of two rows, given by the record's key and the key column; the added values.
fn join(on: ArrayRef, key: ArrayRef, record_keys: [&[u8]; 2]) -> Vec<Option<String>> {
    let user = Field::new("id", on.data_type().clone(), true);
    let schema = Arc::new(Schema::new([user].into_iter().chain(system_fields()).collect::<Vec<_>>()));
    let n = on.len();
    let zeros: ArrayRef = Arc::new(Int64Array::from(vec![0; n]));
    let times: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![0; n]).with_timezone("UTC"));
    let rows =
        RecordBatch::try_new(schema.clone(), vec![on, times, zeros.clone(), zeros, Arc::new(BooleanArray::from(vec![false; n]))]).unwrap();

    let fields = vec![Field::new("k", key.data_type().clone(), false), Field::new("v", DataType::Utf8, false)];
    let info = TableInfo { schema: Arc::new(Schema::new(fields)), key: vec![Field::new("k", key.data_type().clone(), false)].into() };
    let values: ArrayRef = Arc::new(StringArray::from(vec!["first", "second"]));
    let mut table = Table::new(info.schema.clone(), None);
    let [first, second] = record_keys;
    let change = |key, row: u32| Change { key, since: 0, partition: 0, offset: i64::from(row), row: Some(row) };
    table.apply(RecordBatch::try_new(info.schema.clone(), vec![key, values]).unwrap(), [change(first, 0), change(second, 1)]);
    let tables = BTreeMap::from([("t".to_string(), table)]);

    let enrich: Enrich = serde_json::from_str(r#"{"table":"t","on":"id","add":["v"]}"#).unwrap();
    let input = InputInfo { schema, key: None, mode: Mode::Append };
    let planned = enrich.plan(&PlanCx::new(&input, &BTreeMap::from([("t".to_string(), info)]))).unwrap();
    let (mut emitted, mut rejected, mut ledger, mut state) = (Vec::new(), Vec::new(), Ledger::default(), MemoryState::default());
    let mut cx = Context::new(&mut emitted, &mut rejected, &mut ledger, &mut state, &tables);
    let origin = Origin { topic: "t".into(), partition: 0, from: -1, to: n as i64 - 1 };
    (planned.build)().on_batch(Input::ONLY, &Batch::new(rows, origin), &mut cx).unwrap();
    assert_eq!(ledger.accounted(), n as i64);
    let added = emitted[0].rows.column_by_name("v").unwrap().clone();
    assert_eq!(emitted[0].rows.schema(), planned.outputs[0].schema);
    added.as_string::<i32>().iter().map(|v| v.map(str::to_string)).collect()
}

fn found(values: &[&str]) -> Vec<Option<String>> {
    values.iter().map(|v| (!v.is_empty()).then(|| v.to_string())).collect()
}

#[test]
fn texts_are_utf8() {
    let key: ArrayRef = Arc::new(StringArray::from(vec!["ä", "12"]));
    let on: ArrayRef = Arc::new(StringArray::from(vec![Some("12"), None, Some("ä"), Some("")]));
    assert_eq!(join(on, key.clone(), ["ä".as_bytes(), b"12"]), found(&["second", "", "first", ""]));
    let on: ArrayRef = Arc::new(Int32Array::from(vec![12, 13]));
    assert_eq!(join(on, key, ["ä".as_bytes(), b"12"]), found(&["second", ""]));
}

#[test]
fn integers_are_big_endian_in_the_width_of_the_tables_key() {
    let key: ArrayRef = Arc::new(Int32Array::from(vec![1, -1]));
    let on: ArrayRef = Arc::new(Int64Array::from(vec![-1, 1, i64::MAX]));
    assert_eq!(join(on.clone(), key, [&[0, 0, 0, 1], &[255; 4]]), found(&["second", "first", ""]));
    let key: ArrayRef = Arc::new(Int64Array::from(vec![1, -1]));
    assert_eq!(join(on, key, [&[0, 0, 0, 0, 0, 0, 0, 1], &[255; 8]]), found(&["second", "first", ""]));
}

#[test]
fn bytes_are_themselves() {
    let key: ArrayRef = Arc::new(BinaryArray::from(vec![&b"\x00"[..], b"ab"]));
    let on: ArrayRef = Arc::new(BinaryArray::from(vec![&b"ab"[..], b"\x00", b""]));
    assert_eq!(join(on, key.clone(), [b"\x00", b"ab"]), found(&["second", "first", ""]));
    let on: ArrayRef = Arc::new(StringArray::from(vec!["ab"]));
    assert_eq!(join(on, key, [b"\x00", b"ab"]), found(&["second"]));
}
