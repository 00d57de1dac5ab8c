//! What a group remembers of its rows for each computed column.
//!
//! An accumulator takes a row in two steps: [`Function::refuses`] says whether the row can be taken at all, then
//! [`Function::add`] takes it and cannot fail. Whether it can be taken depends on the row alone: sums are wide enough for
//! any number of rows, and whether one fits its column is judged when it is emitted ([`Function::result`]). So no answer
//! depends on the order in which rows arrive.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::datatypes::i256;
use operator_core::stores::bytes::{Reader, put_bytes, put_i128, put_u64};
use operator_core::{Millis, Origin};

use crate::exact::ExactSum;
use crate::sketch::Sketch;
use crate::values::{Column, Value};

/// The largest number a decimal of 38 digits holds (times its unit).
const MAX_DECIMAL: u128 = 10u128.pow(38) - 1;

/// An aggregate function, chosen by the type of its argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Function {
    /// `count(*)`
    CountRows,
    /// `count(x)`: rows in which `x` is not null.
    CountValues,
    /// `count(DISTINCT x)`: the values are their own entries in state, here only their number.
    CountDistinct,
    SumInt,
    SumDecimal,
    SumFloat,
    /// Exact sum, one division.
    AvgInt,
    /// Exact sum, divided once; the result has `digits` more digits after the point than the argument.
    AvgDecimal {
        digits: u32,
    },
    AvgFloat,
    Min,
    Max,
    /// The value of the row that comes first by event time and position, of those in which it is not null.
    First,
    Last,
    /// The value at rank `p`, see [`Sketch`].
    Percentile {
        p: f64,
    },
}

/// The memory of one aggregate of one group in one window.
#[derive(Clone, Debug)]
pub enum Accumulator {
    Count(u64),
    Total { sum: i256, count: u64 },
    Float { sum: ExactSum, count: u64 },
    Extreme(Option<Value>),
    Picked(Option<Box<Picked>>),
    Sketch(Box<Sketch>),
}

/// A value and the place of the row it comes from.
#[derive(Clone, Debug)]
pub struct Picked {
    /// The row's time is not believed: any other row replaces it.
    future: bool,
    place: Place<Arc<str>>,
    value: Value,
}

/// The place of a row among all rows of a step. Rows of one record (an unnest) share it: of those, arrival decides, which
/// is their order in the record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place<T> {
    time: Millis,
    topic: T,
    partition: i32,
    offset: i64,
}

impl<T: AsRef<str>> Place<T> {
    fn borrowed(&self) -> Place<&str> {
        Place { time: self.time, topic: self.topic.as_ref(), partition: self.partition, offset: self.offset }
    }
}

/// Where and when a row is.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    pub index: usize,
    pub time: Millis,
    /// The time is not believed, see [`operator_core::batch::FUTURE`].
    pub future: bool,
    pub offset: i64,
    pub origin: &'a Origin,
}

impl Row<'_> {
    fn place(&self) -> Place<&str> {
        Place { time: self.time, topic: &self.origin.topic, partition: self.origin.partition, offset: self.offset }
    }
}

/// Why a row cannot be part of an aggregate, or why a result cannot be emitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    NotFinite,
    IntRange,
    DecimalRange,
    FloatRange,
}

impl Refusal {
    /// The cause in a dead letter: what happened to which column.
    pub fn cause(self, column: &str) -> String {
        match self {
            Refusal::NotFinite => format!("`{column}` accepts finite numbers only"),
            Refusal::IntRange => format!("the result `{column}` is out of the range of a 64-bit integer"),
            Refusal::DecimalRange => format!("the result `{column}` has more than 38 digits"),
            Refusal::FloatRange => format!("the result `{column}` is out of the range of a double"),
        }
    }
}

impl Function {
    /// The call that fills this memory, over `arguments`. A percentile's rank is asked of the sketch later.
    pub fn said(&self, arguments: &str) -> String {
        let name = match self {
            Function::CountRows => return "count(*)".to_string(),
            Function::CountDistinct => return format!("count(DISTINCT {arguments})"),
            Function::CountValues => "count",
            Function::SumInt | Function::SumDecimal | Function::SumFloat => "sum",
            Function::AvgInt | Function::AvgDecimal { .. } | Function::AvgFloat => "avg",
            Function::Min => "min",
            Function::Max => "max",
            Function::First => "first",
            Function::Last => "last",
            Function::Percentile { .. } => "approx_percentile",
        };
        format!("{name}({arguments})")
    }

    /// The memory of a group without rows.
    pub fn empty(&self) -> Accumulator {
        use Function::*;
        match self {
            CountRows | CountValues | CountDistinct => Accumulator::Count(0),
            SumInt | SumDecimal | AvgInt | AvgDecimal { .. } => Accumulator::Total { sum: i256::ZERO, count: 0 },
            SumFloat | AvgFloat => Accumulator::Float { sum: ExactSum::default(), count: 0 },
            Min | Max => Accumulator::Extreme(None),
            First | Last => Accumulator::Picked(None),
            Percentile { .. } => Accumulator::Sketch(Box::default()),
        }
    }

    /// True if [`Function::refuses`] may ever refuse.
    pub fn can_refuse(&self) -> bool {
        use Function::*;
        matches!(self, SumFloat | AvgFloat | Min | Max | Percentile { .. })
    }

    /// Why `column[row]` cannot be added, if so.
    #[inline]
    pub fn refuses(&self, column: &Column<'_>, row: usize) -> Option<Refusal> {
        let refused = match self {
            Function::SumFloat | Function::AvgFloat | Function::Percentile { .. } => !column.float(row)?.is_finite(),
            Function::Min | Function::Max => column.is_nan(row),
            _ => false,
        };
        refused.then_some(Refusal::NotFinite)
    }

    /// Adds `column[row]`, which must not be refused. `count(DISTINCT)` is counted by whoever keeps its values.
    #[inline]
    pub fn add(&self, to: &mut Accumulator, column: Option<&Column<'_>>, row: Row<'_>) {
        match (to, column) {
            (Accumulator::Count(count), None) => *count += 1,
            (Accumulator::Count(count), Some(column)) => *count += u64::from(!column.is_null(row.index)),
            (Accumulator::Total { sum, count }, Some(column)) => {
                if let Some(value) = column.int(row.index) {
                    // 2^64 decimals of 127 bits fit 191.
                    *sum = sum.wrapping_add(i256::from_i128(value));
                    *count += 1;
                }
            }
            (Accumulator::Float { sum, count }, Some(column)) => {
                if let Some(value) = column.float(row.index) {
                    sum.add(value);
                    *count += 1;
                }
            }
            (Accumulator::Extreme(kept), Some(column)) => self.add_extreme(kept, column, row.index),
            (Accumulator::Picked(kept), Some(column)) => self.add_picked(kept, column, row),
            (Accumulator::Sketch(sketch), Some(column)) => {
                if let Some(value) = column.float(row.index) {
                    sketch.add(value);
                }
            }
            _ => {}
        }
    }

    fn add_extreme(&self, kept: &mut Option<Value>, column: &Column<'_>, row: usize) {
        let better = if *self == Function::Max { Ordering::Greater } else { Ordering::Less };
        let replaces = match kept {
            Some(kept) => column.compare(row, kept) == Some(better),
            None => true,
        };
        if replaces && let Some(value) = column.value(row) {
            *kept = Some(value);
        }
    }

    fn add_picked(&self, kept: &mut Option<Box<Picked>>, column: &Column<'_>, row: Row<'_>) {
        if column.is_null(row.index) {
            return;
        }
        let place = row.place();
        let replaces = match kept {
            Some(kept) if kept.future != row.future => kept.future,
            Some(kept) if *self == Function::First => place < kept.place.borrowed(),
            Some(kept) => place >= kept.place.borrowed(),
            None => true,
        };
        if replaces && let Some(value) = column.value(row.index) {
            let place = Place { topic: row.origin.topic.clone(), time: row.time, partition: row.origin.partition, offset: row.offset };
            let picked = Picked { future: row.future, place, value };
            match kept {
                Some(kept) => **kept = picked,
                None => *kept = Some(Box::new(picked)),
            }
        }
    }

    /// The value of the computed column; `None` is null: no value was added.
    ///
    /// # Errors
    /// The value does not fit the column's type. It may again after further rows.
    pub fn result(&self, of: &Accumulator) -> Result<Option<Value>, Refusal> {
        Ok(match of {
            Accumulator::Count(count) => Some(Value::Int((*count).into())),
            Accumulator::Total { count: 0, .. } | Accumulator::Float { count: 0, .. } => None,
            Accumulator::Total { sum, count } => Some(self.total(*sum, *count)?),
            Accumulator::Float { sum, count } => Some(Value::Float(match self {
                Function::AvgFloat => sum.mean(*count),
                _ => sum.value().ok_or(Refusal::FloatRange)?,
            })),
            Accumulator::Extreme(value) => value.clone(),
            Accumulator::Picked(picked) => picked.as_ref().map(|picked| picked.value.clone()),
            Accumulator::Sketch(sketch) => match self {
                Function::Percentile { p } => sketch.quantile(*p).map(Value::Float),
                _ => None,
            },
        })
    }

    /// The sum or the average of whole numbers; `count > 0`.
    fn total(&self, sum: i256, count: u64) -> Result<Value, Refusal> {
        let narrow = sum.to_i128();
        match self {
            // Sums of 64-bit integers fit 128 bits.
            Function::AvgInt => narrow.map(|sum| Value::Float(sum as f64 / count as f64)).ok_or(Refusal::IntRange),
            Function::AvgDecimal { digits } => divide(sum, count, *digits).map(Value::Int).ok_or(Refusal::DecimalRange),
            Function::SumInt => narrow.filter(|sum| i64::try_from(*sum).is_ok()).map(Value::Int).ok_or(Refusal::IntRange),
            _ => narrow.filter(|sum| sum.unsigned_abs() <= MAX_DECIMAL).map(Value::Int).ok_or(Refusal::DecimalRange),
        }
    }

    /// Reads what [`Accumulator::encode`] wrote; `None` if it was written for another kind of function.
    pub fn decode(&self, reader: &mut Reader<'_>) -> Option<Accumulator> {
        let kind = reader.u8()?;
        Some(match (self.empty(), kind) {
            (Accumulator::Count(_), 1) => Accumulator::Count(reader.u64()?),
            (Accumulator::Total { .. }, 2) => Accumulator::Total { sum: i256::from_i128(reader.i128()?), count: reader.u64()? },
            (Accumulator::Total { .. }, 7) => Accumulator::Total { sum: i256::from_be_bytes(reader.array()?), count: reader.u64()? },
            (Accumulator::Float { .. }, 3) => Accumulator::Float { sum: ExactSum::decode(reader)?, count: reader.u64()? },
            (Accumulator::Extreme(_), 4) => Accumulator::Extreme(match reader.u8()? {
                0 => None,
                _ => Some(Value::decode(reader)?),
            }),
            // Written before positions were kept: at the same time, rows of any partition come after it.
            (Accumulator::Picked(_), 5) => Accumulator::Picked(match reader.u8()? {
                0 => None,
                _ => {
                    let place = Place { time: reader.i64()?, offset: reader.i64()?, topic: "".into(), partition: -1 };
                    Some(Box::new(Picked { future: false, place, value: Value::decode(reader)? }))
                }
            }),
            (Accumulator::Picked(_), 8) => {
                let future = reader.u8()? != 0;
                let time = reader.i64()?;
                let topic = std::str::from_utf8(reader.bytes()?).ok()?.into();
                let place = Place { time, topic, partition: reader.i64()?.try_into().ok()?, offset: reader.i64()? };
                Accumulator::Picked(Some(Box::new(Picked { future, place, value: Value::decode(reader)? })))
            }
            (Accumulator::Sketch(_), 6) => Accumulator::Sketch(Box::new(Sketch::decode(reader)?)),
            _ => return None,
        })
    }
}

impl Accumulator {
    /// Appends the accumulator to `out`, with its kind before it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Accumulator::Count(count) => {
                out.push(1);
                put_u64(*count, out);
            }
            Accumulator::Total { sum, count } => {
                match sum.to_i128() {
                    Some(sum) => {
                        out.push(2);
                        put_i128(sum, out);
                    }
                    None => {
                        out.push(7);
                        out.extend_from_slice(&sum.to_be_bytes());
                    }
                }
                put_u64(*count, out);
            }
            Accumulator::Float { sum, count } => {
                out.push(3);
                sum.encode(out);
                put_u64(*count, out);
            }
            Accumulator::Extreme(value) => {
                out.extend_from_slice(&[4, value.is_some().into()]);
                if let Some(value) = value {
                    value.encode(out);
                }
            }
            Accumulator::Picked(None) => out.extend_from_slice(&[5, 0]),
            Accumulator::Picked(Some(picked)) => {
                let Place { time, topic, partition, offset } = &picked.place;
                out.extend_from_slice(&[8, picked.future.into()]);
                put_i128((*time).into(), out);
                put_bytes(topic.as_bytes(), out);
                put_i128((*partition).into(), out);
                put_i128((*offset).into(), out);
                picked.value.encode(out);
            }
            Accumulator::Sketch(sketch) => {
                out.push(6);
                sketch.encode(out);
            }
        }
    }

    /// Counts one more distinct value.
    pub fn count_distinct(&mut self) {
        if let Accumulator::Count(count) = self {
            *count += 1;
        }
    }
}

/// `sum / count` with `digits` (at most 4) more decimal digits than `sum`, rounded half away from zero. The plan chose
/// `digits` so that no average of values in range can overflow; `count > 0`.
fn divide(sum: i256, count: u64, digits: u32) -> Option<i128> {
    let (scale, divisor) = (10i128.checked_pow(digits)?, i128::from(count));
    let (whole, rest) = match sum.to_i128() {
        Some(sum) => (sum / divisor, sum % divisor),
        None => {
            let wide = i256::from_i128(divisor);
            (sum.checked_div(wide)?.to_i128()?, sum.checked_rem(wide)?.to_i128()?)
        }
    };
    let rest = rest.checked_mul(scale)?;
    let (part, left) = (rest / divisor, rest % divisor);
    let up = if left.unsigned_abs() * 2 >= divisor.unsigned_abs() { rest.signum() } else { 0 };
    whole.checked_mul(scale)?.checked_add(part)?.checked_add(up)
}

#[cfg(test)]
mod tests {
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
                    let row = Row { index, time: [5, 3, 9, 3][index % 4], future: false, offset: index as i64, origin: &origin };
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
            function.add(&mut kept, Some(&Column::new(&late)), Row { index: 0, time: 9, future: false, offset: 0, origin: &origin });
            assert_eq!(function.result(&kept), Ok(Some(Value::Int(expected))));
            function.add(&mut kept, Some(&Column::new(&early)), Row { index: 0, time: 8, future: false, offset: 0, origin: &origin });
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
}
