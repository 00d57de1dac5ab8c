//! Batches as bytes.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, NullArray, RecordBatch, StringArray};
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
