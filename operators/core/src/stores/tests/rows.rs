//! Rows as bytes.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Float32Array, Float64Array, Int8Array,
    Int16Array, Int32Array, Int64Array, ListArray, MapArray, NullArray, StringArray, StructArray, Time64MicrosecondArray,
    TimestampMillisecondArray, UInt8Array, UInt16Array, UInt32Array, UInt64Array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::concat;
use arrow::datatypes::Field;
use proptest::prelude::*;

use super::super::*;
use crate::batch::time_type;

pub(super) fn column(name: &str, array: ArrayRef) -> (Field, ArrayRef) {
    (Field::new(name, array.data_type().clone(), true), array)
}

/// Three rows of every storable type: values, nulls, other values.
fn every_type() -> (RowCodec, Vec<ArrayRef>) {
    let items = Arc::new(Field::new("item", DataType::Utf8, true));
    let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("ß")]));
    let list = ListArray::new(items, OffsetBuffer::from_lengths([3, 0, 0]), texts, Some(NullBuffer::from(vec![true, false, true])));
    let record = StructArray::new(
        vec![Field::new("n", DataType::Int64, false), Field::new("t", time_type(), true)].into(),
        vec![
            Arc::new(Int64Array::from(vec![1, 2, 3])),
            Arc::new(TimestampMillisecondArray::from(vec![Some(-1), Some(7), None]).with_timezone("UTC")),
        ],
        Some(NullBuffer::from(vec![true, false, true])),
    );
    let entries = StructArray::new(
        vec![Field::new("keys", DataType::Utf8, false), Field::new("values", DataType::Int32, true)].into(),
        vec![Arc::new(StringArray::from(vec!["k", "l"])), Arc::new(Int32Array::from(vec![Some(5), None]))],
        None,
    );
    let map = MapArray::new(
        Arc::new(Field::new("entries", entries.data_type().clone(), false)),
        OffsetBuffer::from_lengths([2, 0, 0]),
        entries,
        Some(NullBuffer::from(vec![true, false, true])),
        false,
    );
    let fixed = FixedSizeBinaryArray::try_from_sparse_iter_with_size([Some([1, 2]), None, Some([0, 255])].into_iter(), 2).unwrap();
    let (fields, columns): (Vec<_>, Vec<_>) = [
        column("null", Arc::new(NullArray::new(3))),
        column("bool", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
        column("i8", Arc::new(Int8Array::from(vec![Some(i8::MIN), None, Some(1)]))),
        column("i16", Arc::new(Int16Array::from(vec![Some(i16::MIN), None, Some(1)]))),
        column("i32", Arc::new(Int32Array::from(vec![Some(i32::MIN), None, Some(1)]))),
        column("i64", Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(1)]))),
        column("u8", Arc::new(UInt8Array::from(vec![Some(u8::MAX), None, Some(1)]))),
        column("u16", Arc::new(UInt16Array::from(vec![Some(u16::MAX), None, Some(1)]))),
        column("u32", Arc::new(UInt32Array::from(vec![Some(u32::MAX), None, Some(1)]))),
        column("u64", Arc::new(UInt64Array::from(vec![Some(u64::MAX), None, Some(1)]))),
        column("f32", Arc::new(Float32Array::from(vec![Some(-0.0), None, Some(f32::INFINITY)]))),
        column("f64", Arc::new(Float64Array::from(vec![Some(-0.0), None, Some(1.5)]))),
        column("date", Arc::new(Date32Array::from(vec![Some(-1), None, Some(19_000)]))),
        column("time", Arc::new(Time64MicrosecondArray::from(vec![Some(1), None, Some(86_399_999_999)]))),
        column("at", Arc::new(TimestampMillisecondArray::from(vec![Some(-5), None, Some(1)]).with_timezone("UTC"))),
        column(
            "decimal",
            Arc::new(Decimal128Array::from(vec![Some(-10i128.pow(37)), None, Some(5)]).with_precision_and_scale(38, 2).unwrap()),
        ),
        column("text", Arc::new(StringArray::from(vec![Some("grün"), None, Some("")]))),
        column("bytes", Arc::new(BinaryArray::from(vec![Some(&b"\x00\xff"[..]), None, Some(b"")]))),
        column("fixed", Arc::new(fixed)),
        column("list", Arc::new(list)),
        column("record", Arc::new(record)),
        column("map", Arc::new(map)),
    ]
    .into_iter()
    .unzip();
    (RowCodec::new(fields), columns)
}

pub(super) fn encode(codec: &RowCodec, columns: &[ArrayRef], row: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec.writer(columns).unwrap().put(row, &mut bytes);
    bytes
}

#[test]
fn rows_of_every_type_come_back() {
    let (codec, columns) = every_type();
    assert_eq!(not_storable(codec.fields()), None);
    let writer = codec.writer(&columns).unwrap();
    let mut reader = codec.reader().unwrap();
    for row in [2, 0, 1] {
        let mut bytes = Vec::new();
        writer.put(row, &mut bytes);
        reader.push(&bytes).unwrap();
    }
    reader.push_nulls();
    assert_eq!(reader.len(), 4);
    let read = reader.take().unwrap();
    assert!(reader.is_empty());
    for ((field, before), after) in codec.fields().iter().zip(&columns).zip(&read) {
        let parts = [before.slice(2, 1), before.slice(0, 1), before.slice(1, 1), arrow::array::new_null_array(field.data_type(), 1)];
        let expected = concat(&parts.iter().map(AsRef::as_ref).collect::<Vec<_>>()).unwrap();
        assert_eq!(after.data_type(), expected.data_type(), "{}", field.name());
        assert_eq!(after.as_ref(), expected.as_ref(), "{}", field.name());
    }
}

#[test]
fn slices_are_written_like_the_whole() {
    let (codec, columns) = every_type();
    let sliced: Vec<ArrayRef> = columns.iter().map(|c| c.slice(1, 2)).collect();
    assert_eq!(encode(&codec, &sliced, 1), encode(&codec, &columns, 2));
}

/// Rows outlive the program: these bytes must be read by every version to come.
#[test]
fn the_bytes_of_a_row_do_not_change() {
    let item = Arc::new(Field::new("item", DataType::Int32, true));
    let numbers: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None, Some(-2)]));
    let list: ArrayRef = Arc::new(ListArray::new(item, OffsetBuffer::from_lengths([3]), numbers, None));
    let record: ArrayRef = Arc::new(StructArray::new(
        vec![Field::new("x", DataType::Boolean, true), Field::new("y", DataType::Float64, true)].into(),
        vec![Arc::new(BooleanArray::from(vec![true])), Arc::new(Float64Array::from(vec![1.0]))],
        None,
    ));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec!["ab"])),
        Arc::new(Int64Array::from(vec![None::<i64>])),
        Arc::new(TimestampMillisecondArray::from(vec![-300]).with_timezone("UTC")),
        Arc::new(UInt16Array::from(vec![300])),
        list,
        record,
        Arc::new(BinaryArray::from(vec![&b"\x07"[..]])),
        Arc::new(Int32Array::from(vec![None::<i32>])),
        Arc::new(Int8Array::from(vec![-1])),
    ];
    let codec = RowCodec::new(columns.iter().map(|c| Field::new("c", c.data_type().clone(), true)).collect::<Vec<_>>());
    #[rustfmt::skip]
    let expected: &[u8] = &[
        0b0111_1101, 0b1,                      // all but the second and the eighth column
        2, b'a', b'b',
        0xd7, 0x04,                            // -300 -> 599
        0xac, 0x02,                            // 300
        3, 0b101, 2, 3,                        // three items, the second null; 1 -> 2, -2 -> 3
        0b11, 1, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0, // true, 1.0
        1, 7,
        1,                                     // -1 -> 1
    ];
    assert_eq!(encode(&codec, &columns, 0), expected);
    let mut reader = codec.reader().unwrap();
    reader.push(expected).unwrap();
    let read = reader.take().unwrap();
    assert!(read.iter().zip(&columns).all(|(read, column)| read.as_ref() == column.as_ref()));
}

#[test]
fn types_that_have_no_encoding_are_found() {
    let nested = DataType::List(Arc::new(Field::new("item", DataType::Utf8View, true)));
    let fields: Fields = vec![Field::new("a", DataType::Int64, true), Field::new("b", nested.clone(), true)].into();
    assert_eq!(not_storable(&fields), Some(&nested));
    assert!(RowCodec::new(fields).reader().is_err());
    let codec = RowCodec::new(vec![Field::new("a", DataType::Int64, true)]);
    assert!(codec.writer(&[Arc::new(Int32Array::from(vec![1])) as ArrayRef]).is_err());
    assert!(codec.writer(&[]).is_err());
}

#[test]
fn damaged_rows_are_errors() {
    let (codec, columns) = every_type();
    let whole = encode(&codec, &columns, 0);
    for cut in 0..whole.len() {
        assert!(codec.reader().unwrap().push(&whole[..cut]).is_err(), "cut at {cut}");
    }
    let longer = [whole.as_slice(), &[0]].concat();
    assert!(codec.reader().unwrap().push(&longer).is_err());
    let text = RowCodec::new(vec![Field::new("t", DataType::Utf8, true)]);
    let mut reader = text.reader().unwrap();
    reader.push(&[1, 1, 0xff]).unwrap();
    assert!(reader.take().is_err(), "not UTF-8");
}

proptest! {
    /// Whatever the bytes are, reading them ends, and does not panic.
    #[test]
    fn any_bytes_can_be_read(place in 0usize..200, byte in any::<u8>(), rest in proptest::collection::vec(any::<u8>(), 0..60)) {
        let (codec, columns) = every_type();
        let mut bytes = encode(&codec, &columns, 0);
        let length = bytes.len();
        bytes[place % length] = byte;
        for bytes in [bytes.as_slice(), rest.as_slice()] {
            let mut reader = codec.reader().unwrap();
            if reader.push(bytes).is_ok() {
                let _ = reader.take();
            }
        }
    }

    /// Nested lists of records with nulls anywhere.
    #[test]
    fn nested_rows_come_back(
        rows in proptest::collection::vec(
            proptest::option::of(proptest::collection::vec(
                proptest::option::of((proptest::option::of(any::<i64>()), proptest::option::of(".{0,5}"))), 0..20)), 1..10)
    ) {
        let records: Vec<_> = rows.iter().flatten().flatten().collect();
        let numbers: Int64Array = records.iter().map(|r| r.as_ref().and_then(|r| r.0)).collect();
        let texts: StringArray = records.iter().map(|r| r.as_ref().and_then(|r| r.1.clone())).collect();
        let valid: Vec<bool> = records.iter().map(|r| r.is_some()).collect();
        let record = StructArray::new(
            vec![Field::new("n", DataType::Int64, true), Field::new("t", DataType::Utf8, true)].into(),
            vec![Arc::new(numbers), Arc::new(texts)],
            Some(NullBuffer::from(valid)),
        );
        let item = Arc::new(Field::new("item", record.data_type().clone(), true));
        let lengths = rows.iter().map(|row| row.as_ref().map_or(0, Vec::len));
        let nulls = NullBuffer::from(rows.iter().map(Option::is_some).collect::<Vec<_>>());
        let list: ArrayRef = Arc::new(ListArray::new(item, OffsetBuffer::from_lengths(lengths), Arc::new(record), Some(nulls)));
        let codec = RowCodec::new(vec![Field::new("l", list.data_type().clone(), true)]);
        let columns = [list];
        let mut reader = codec.reader().unwrap();
        for row in 0..rows.len() {
            reader.push(&encode(&codec, &columns, row)).unwrap();
        }
        let read = reader.take().unwrap();
        prop_assert_eq!(read[0].as_ref(), columns[0].as_ref());
    }
}
