//! Batches as bytes.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, FixedSizeBinaryArray, FixedSizeListArray, Int64Array, ListArray, MapArray, NullArray,
    RecordBatch, StringArray, StringViewArray, StructArray, make_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field};
use headwater_formats::{decode_batch, encode_batch};
use proptest::prelude::*;

use crate::columns::*;

fn sample() -> RecordBatch {
    let schema = schema(vec![
        Field::new("a", DataType::Int64, true),
        Field::new("t", DataType::Utf8, true),
        Field::new("l", list_of(DataType::Utf8), true),
        Field::new("m", map_of(DataType::Int64), true),
        Field::new("d", DataType::Decimal128(20, 2), true),
        Field::new("f", DataType::Boolean, false),
    ]);
    let documents: Vec<String> =
        (0..20).map(|i| format!(r#"{{"a":{i},"t":"text {i}","l":["x",null,"{i}"],"m":{{"k":{i}}},"d":{i}.25,"f":true}}"#)).collect();
    json(&schema, &documents).1
}

#[test]
fn batches_read_back_the_same() {
    let batch = sample();
    assert_eq!(decode_batch(&encode_batch(&batch).unwrap()), Ok(batch.clone()));
    let slice = batch.slice(3, 4);
    assert_eq!(decode_batch(&encode_batch(&slice).unwrap()), Ok(slice));
    let empty = RecordBatch::new_empty(batch.schema());
    assert_eq!(decode_batch(&encode_batch(&empty).unwrap()), Ok(empty));
}

#[test]
fn frames_that_lie_are_refused() {
    let bytes = encode_batch(&sample()).unwrap();
    for cut in 0..bytes.len() - 8 {
        assert!(decode_batch(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    let mut huge = bytes.clone();
    huge[4..8].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    assert_eq!(decode_batch(&huge), Err("truncated message".to_string()));
    let twice = [bytes.clone(), bytes.clone()].concat();
    assert!(decode_batch(&twice).is_err());
    assert!(decode_batch(b"").is_err() && decode_batch(b"ARROW1\0\0").is_err());
    let nulls: ArrayRef = Arc::new(NullArray::new(1 << 40));
    let claims = RecordBatch::try_from_iter_with_nullable([("n", nulls, true)]).unwrap();
    assert!(decode_batch(&encode_batch(&claims).unwrap()).unwrap_err().contains("more rows"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    /// Flipped bytes: an error or a batch that is valid, never a panic that escapes and never a bomb.
    #[test]
    fn damaged_bytes_have_an_outcome(seed in any::<u64>()) {
        let mut dice = Dice(seed);
        let columns: Vec<(&str, ArrayRef)> =
            vec![("a", Arc::new(Int64Array::from(vec![1, 2]))), ("t", Arc::new(StringArray::from(vec!["x", "yz"])))];
        let batch = if dice.below(2) == 0 { sample() } else { RecordBatch::try_from_iter(columns).unwrap() };
        let mut bytes = encode_batch(&batch).unwrap();
        for _ in 0..1 + dice.below(3) {
            let place = dice.below(bytes.len() as u64) as usize;
            bytes[place] = if dice.below(3) == 0 { 0xff } else { dice.next() as u8 };
        }
        if let Ok(batch) = decode_batch(&bytes) {
            assert_consistent(&batch);
        }
    }
}

const HIDDEN: &str = "hidden-from-everybody";

/// The same array with these rows null, as SQL does it: the values stay where they are.
fn nulled(array: ArrayRef, valid: [bool; 3]) -> ArrayRef {
    let nulls = NullBuffer::union(array.nulls(), Some(&NullBuffer::from(valid.to_vec())));
    make_array(array.to_data().into_builder().nulls(nulls).build().unwrap())
}

fn found(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

#[test]
fn values_under_nulls_are_not_written() {
    const VALID: [bool; 3] = [true, false, true];
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["seen", HIDDEN, "seen"]));
    let items = |items: ArrayRef| -> ArrayRef {
        let field = Arc::new(Field::new("item", items.data_type().clone(), true));
        Arc::new(ListArray::new(field, OffsetBuffer::from_lengths([1, 1, 1]), items, None))
    };
    // A field that can't be null of a record that can.
    let record = |field: ArrayRef| -> ArrayRef {
        let fields = vec![Field::new("x", field.data_type().clone(), false)];
        Arc::new(StructArray::new(fields.into(), vec![field], None))
    };
    let map = |values: ArrayRef| -> ArrayRef {
        let entries = vec![Field::new("keys", DataType::Utf8, false), Field::new("values", values.data_type().clone(), true)];
        let entries = StructArray::new(entries.into(), vec![texts.clone(), values], None);
        let field = Arc::new(Field::new("entries", entries.data_type().clone(), false));
        Arc::new(MapArray::new(field, OffsetBuffer::from_lengths([1, 1, 1]), entries, None, false))
    };
    let fixed = |items: ArrayRef| -> ArrayRef {
        let field = Arc::new(Field::new("item", items.data_type().clone(), true));
        Arc::new(FixedSizeListArray::new(field, 1, items, None))
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("text", nulled(texts.clone(), VALID)),
        ("bytes", nulled(Arc::new(BinaryArray::from(vec![&b"seen"[..], HIDDEN.as_bytes(), b"seen"])), VALID)),
        ("list", nulled(items(texts.clone()), VALID)),
        ("record", nulled(record(texts.clone()), VALID)),
        ("map", nulled(map(texts.clone()), VALID)),
        ("fixed list", nulled(fixed(texts.clone()), VALID)),
        ("record of a list", nulled(record(items(texts.clone())), VALID)),
        ("list of nulled records", items(nulled(record(texts.clone()), VALID))),
        ("record with a nulled field", record_of_nullable(nulled(texts.clone(), VALID))),
        ("nulled lists in a list", items(nulled(items(texts.clone()), VALID))),
        ("view", nulled(Arc::new(StringViewArray::from(vec!["seen", HIDDEN, "seen"])), VALID)),
        (
            "fixed",
            nulled(
                Arc::new(FixedSizeBinaryArray::try_from_iter([[1; 21], HIDDEN.as_bytes().try_into().unwrap(), [1; 21]].iter()).unwrap()),
                VALID,
            ),
        ),
    ];
    for (name, column) in columns {
        let batch = RecordBatch::try_from_iter_with_nullable([("c", column, true)]).unwrap();
        for (first, length) in [(0, 3), (0, 2), (1, 1), (1, 2), (2, 1)] {
            let slice = batch.slice(first, length);
            let bytes = encode_batch(&slice).unwrap();
            assert!(!found(&bytes, HIDDEN.as_bytes()), "{name}, rows {first} to {}", first + length);
            assert_eq!(decode_batch(&bytes), Ok(slice), "{name}");
        }
    }
    let number = i64::from_le_bytes(*b"a secret");
    let numbers = nulled(Arc::new(Int64Array::from(vec![1, number, 3])), VALID);
    let bytes = encode_batch(&RecordBatch::try_from_iter([("n", numbers)]).unwrap()).unwrap();
    assert!(!found(&bytes, b"a secret"));
}

fn record_of_nullable(field: ArrayRef) -> ArrayRef {
    let fields = vec![Field::new("x", field.data_type().clone(), true)];
    Arc::new(StructArray::new(fields.into(), vec![field], None))
}

#[test]
fn rows_outside_a_slice_are_not_written() {
    let texts: Vec<String> = (0..100).map(|n| format!("row {n:03} {}", "x".repeat(40))).collect();
    let views: ArrayRef = Arc::new(StringViewArray::from_iter_values(&texts));
    let plain: ArrayRef = Arc::new(StringArray::from_iter_values(&texts));
    let batch = RecordBatch::try_from_iter([("v", views), ("t", plain)]).unwrap().slice(50, 2);
    let bytes = encode_batch(&batch).unwrap();
    assert_eq!(decode_batch(&bytes), Ok(batch.clone()));
    assert!(found(&bytes, b"row 050") && !found(&bytes, b"row 049") && !found(&bytes, b"row 052"));
    assert_eq!(batch.column(1).as_string::<i32>().value(0), texts[50]);
}
