use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal128Array, Float64Array, Int64Array, StringArray};

use super::*;

fn run(function: Function, array: ArrayRef) -> (Option<Value>, Vec<Refusal>) {
    let column = Column::new(&array);
    let mut accumulator = function.empty();
    let mut refused = Vec::new();
    let origin = Origin { topic: "t".into(), partition: 0, from: -1, to: 9 };
    for index in 0..array.len() {
        match function.refuses(&column, index) {
            Some(refusal) => refused.push(refusal),
            None => {
                let row = Row { index, time: [5, 3, 9, 3][index % 4], future: false, offset: index as i64, change: 1, origin: &origin };
                function.add(&mut accumulator, Some(&column), row);
            }
        }
        let mut bytes = Vec::new();
        accumulator.encode(&mut bytes);
        let mut reader = Reader::new(&bytes);
        accumulator = function.decode(&mut reader).unwrap();
        assert!(reader.is_empty());
    }
    match function.result(&accumulator) {
        Ok(value) => (value, refused),
        Err(refusal) => (None, [refused, vec![refusal]].concat()),
    }
}

fn ints(values: &[Option<i64>]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

#[test]
fn whole_numbers() {
    let values = ints(&[Some(3), None, Some(-5), Some(4)]);
    assert_eq!(run(Function::CountValues, values.clone()).0, Some(Value::Int(3)));
    assert_eq!(run(Function::SumInt, values.clone()).0, Some(Value::Int(2)));
    assert_eq!(run(Function::AvgInt, values.clone()).0, Some(Value::Float(2.0 / 3.0)));
    assert_eq!(run(Function::Min, values.clone()).0, Some(Value::Int(-5)));
    assert_eq!(run(Function::Max, values.clone()).0, Some(Value::Int(4)));
    assert_eq!(run(Function::First, values.clone()).0, Some(Value::Int(4)), "time 3, the null before is skipped");
    assert_eq!(run(Function::Last, values).0, Some(Value::Int(-5)), "time 9");
    assert_eq!(run(Function::SumInt, ints(&[None])).0, None);
}

#[test]
fn overflow_is_judged_by_the_whole_sum() {
    let most = MAX_DECIMAL as i128;
    let decimals = |values: Vec<i128>| -> ArrayRef { Arc::new(Decimal128Array::from(values).with_precision_and_scale(38, 2).unwrap()) };
    let whole = |n: i128| (Some(Value::Int(n)), vec![]);
    assert_eq!(run(Function::SumInt, ints(&[Some(i64::MAX), Some(1), Some(-1)])), whole(i64::MAX.into()));
    assert_eq!(run(Function::SumInt, ints(&[Some(i64::MIN), Some(-1)])), (None, vec![Refusal::IntRange]));
    assert_eq!(run(Function::SumDecimal, decimals(vec![most, most, most, -most, -most])), whole(most));
    assert_eq!(run(Function::SumDecimal, decimals(vec![-most, -1])), (None, vec![Refusal::DecimalRange]));
    // Three of them have more than 128 bits.
    assert_eq!(run(Function::AvgDecimal { digits: 0 }, decimals(vec![most, most, most])), whole(most));
    assert_eq!(run(Function::AvgDecimal { digits: 0 }, decimals(vec![-most, -most, -most + 1])), whole(-most));
    let doubles = |values: Vec<f64>| -> ArrayRef { Arc::new(Float64Array::from(values)) };
    assert_eq!(run(Function::SumFloat, doubles(vec![f64::MAX, f64::MAX])), (None, vec![Refusal::FloatRange]));
    assert_eq!(run(Function::SumFloat, doubles(vec![f64::MAX, f64::MAX, -f64::MAX, 1.0])).0, Some(Value::Float(f64::MAX)));
    assert_eq!(run(Function::AvgFloat, doubles(vec![f64::MAX, f64::MAX])).0, Some(Value::Float(f64::MAX)));
}

#[test]
fn a_pick_without_a_position_is_read_and_gives_way_to_later_rows() {
    // As written before positions were kept: kind, present, time 9, offset 7, the number 5.
    let old = [5, 1, 18, 14, 0, 10];
    let (early, late) = (ints(&[Some(1)]), ints(&[Some(2)]));
    for (function, expected) in [(Function::First, 5), (Function::Last, 2)] {
        let mut kept = function.decode(&mut Reader::new(&old)).unwrap();
        let origin = Origin { topic: "t".into(), partition: 3, from: -1, to: 9 };
        function.add(&mut kept, Some(&Column::new(&late)), Row { index: 0, time: 9, future: false, offset: 0, change: 1, origin: &origin });
        assert_eq!(function.result(&kept), Ok(Some(Value::Int(expected))));
        function.add(
            &mut kept,
            Some(&Column::new(&early)),
            Row { index: 0, time: 8, future: false, offset: 0, change: 1, origin: &origin },
        );
        assert_eq!(function.result(&kept), Ok(Some(Value::Int(if expected == 5 { 1 } else { 2 }))));
    }
}

#[test]
fn what_is_not_a_number_never_poisons() {
    let values: ArrayRef = Arc::new(Float64Array::from(vec![1.5, f64::NAN, f64::INFINITY, -0.5]));
    for (function, expected) in [(Function::SumFloat, 1.0), (Function::AvgFloat, 0.5)] {
        let (value, refused) = run(function, values.clone());
        assert_eq!((value, refused), (Some(Value::Float(expected)), vec![Refusal::NotFinite; 2]));
    }
    assert_eq!(run(Function::Max, values.clone()), (Some(Value::Float(f64::INFINITY)), vec![Refusal::NotFinite]));
    assert_eq!(run(Function::Percentile { p: 1.0 }, values).1.len(), 2);
}

#[test]
fn texts_compare_by_bytes() {
    let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("b"), None, Some("a"), Some("ab")]));
    assert_eq!(run(Function::Min, texts.clone()).0, Some(Value::Bytes(b"a".to_vec())));
    assert_eq!(run(Function::Max, texts).0, Some(Value::Bytes(b"b".to_vec())));
}

#[test]
fn averages_of_decimals_round_half_away_from_zero() {
    let divide = |sum, count, digits| divide(i256::from_i128(sum), count, digits).unwrap();
    assert_eq!(divide(200, 3, 4), 666_667);
    assert_eq!(divide(-200, 3, 4), -666_667);
    assert_eq!(divide(5, 2, 0), 3);
    assert_eq!(divide(-5, 2, 0), -3);
    assert_eq!(divide(4, 3, 0), 1);
    assert_eq!(divide(MAX_DECIMAL as i128, 1, 0), MAX_DECIMAL as i128);
}

#[test]
fn state_of_another_function_is_not_misread() {
    let mut bytes = Vec::new();
    Function::SumFloat.empty().encode(&mut bytes);
    assert!(Function::CountRows.decode(&mut Reader::new(&bytes)).is_none());
}
