//! What a group remembers of its rows for each computed column.
//!
//! An accumulator takes a row in two steps: [`Function::refuses`] says whether the row can be taken at all, then
//! [`Function::add`] takes it and cannot fail. So a row that would overflow one sum of one of its windows leaves no
//! trace in any other.

use std::cmp::Ordering;

use operator_core::Millis;

use crate::codec::{Reader, put_i128, put_u64};
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
    /// `count(DISTINCT x)`: the values are entries of their own in state, here only their number.
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
    /// The value of the row with the earliest event time (and offset) in which it is not null.
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
    Total { sum: i128, count: u64 },
    Float { sum: ExactSum, count: u64 },
    Extreme(Option<Value>),
    Picked(Option<Box<Picked>>),
    Sketch(Box<Sketch>),
}

/// A value and the place in time of the row it comes from.
#[derive(Clone, Debug)]
pub struct Picked {
    time: Millis,
    offset: i64,
    value: Value,
}

/// Where and when a row is.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub index: usize,
    pub time: Millis,
    pub offset: i64,
}

/// Why a row cannot be part of an aggregate.
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
            Refusal::NotFinite => format!("`{column}` cannot take a value that is not a finite number"),
            Refusal::IntRange => format!("`{column}` would leave the range of a 64-bit integer"),
            Refusal::DecimalRange => format!("`{column}` would have more than 38 digits"),
            Refusal::FloatRange => format!("`{column}` would leave the range of a double"),
        }
    }
}

impl Function {
    /// The memory of a group without rows.
    pub fn empty(&self) -> Accumulator {
        use Function::*;
        match self {
            CountRows | CountValues | CountDistinct => Accumulator::Count(0),
            SumInt | SumDecimal | AvgInt | AvgDecimal { .. } => Accumulator::Total { sum: 0, count: 0 },
            SumFloat | AvgFloat => Accumulator::Float { sum: ExactSum::default(), count: 0 },
            Min | Max => Accumulator::Extreme(None),
            First | Last => Accumulator::Picked(None),
            Percentile { .. } => Accumulator::Sketch(Box::default()),
        }
    }

    /// True if [`Function::refuses`] may ever refuse.
    pub fn can_refuse(&self) -> bool {
        use Function::*;
        !matches!(self, CountRows | CountValues | CountDistinct | First | Last)
    }

    /// Why `column[row]` cannot be added to `to`, if so.
    #[inline]
    pub fn refuses(&self, to: &Accumulator, column: &Column<'_>, row: usize) -> Option<Refusal> {
        match (self, to) {
            (Function::SumInt, Accumulator::Total { sum, .. }) => {
                let total = sum + column.int(row)?; // both within 64 bits or just beyond: no overflow of 128
                i64::try_from(total).is_err().then_some(Refusal::IntRange)
            }
            (_, Accumulator::Total { sum, .. }) => match sum.checked_add(column.int(row)?) {
                Some(total) if total.unsigned_abs() <= MAX_DECIMAL => None,
                _ => Some(Refusal::DecimalRange),
            },
            (_, Accumulator::Float { sum, .. }) => {
                let value = column.float(row)?;
                match (value.is_finite(), sum.accepts(value)) {
                    (false, _) => Some(Refusal::NotFinite),
                    (_, false) => Some(Refusal::FloatRange),
                    _ => None,
                }
            }
            (_, Accumulator::Extreme(_)) => column.is_nan(row).then_some(Refusal::NotFinite),
            (_, Accumulator::Sketch(_)) => (!column.float(row)?.is_finite()).then_some(Refusal::NotFinite),
            _ => None,
        }
    }

    /// Adds `column[row]`, which must not be refused. `count(DISTINCT)` is counted by whoever keeps its values.
    #[inline]
    pub fn add(&self, to: &mut Accumulator, column: Option<&Column<'_>>, row: Row) {
        match (to, column) {
            (Accumulator::Count(count), None) => *count += 1,
            (Accumulator::Count(count), Some(column)) => *count += u64::from(!column.is_null(row.index)),
            (Accumulator::Total { sum, count }, Some(column)) => {
                if let Some(value) = column.int(row.index) {
                    *sum = sum.wrapping_add(value);
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

    fn add_picked(&self, kept: &mut Option<Box<Picked>>, column: &Column<'_>, row: Row) {
        if column.is_null(row.index) {
            return;
        }
        let place = (row.time, row.offset);
        // Rows of one record (an unnest) share time and offset: there the order in the partition decides.
        let replaces = match kept {
            Some(kept) if *self == Function::First => place < (kept.time, kept.offset),
            Some(kept) => place >= (kept.time, kept.offset),
            None => true,
        };
        if replaces && let Some(value) = column.value(row.index) {
            *kept = Some(Box::new(Picked { time: row.time, offset: row.offset, value }));
        }
    }

    /// The value of the computed column; `None` is null: no value was added.
    pub fn result(&self, of: &Accumulator) -> Option<Value> {
        match of {
            Accumulator::Count(count) => Some(Value::Int((*count).into())),
            Accumulator::Total { count: 0, .. } | Accumulator::Float { count: 0, .. } => None,
            Accumulator::Total { sum, count } => Some(match self {
                Function::AvgInt => Value::Float(*sum as f64 / *count as f64),
                Function::AvgDecimal { digits } => Value::Int(divide(*sum, (*count).into(), *digits)),
                _ => Value::Int(*sum),
            }),
            Accumulator::Float { sum, count } => Some(Value::Float(match self {
                Function::AvgFloat => sum.value() / *count as f64,
                _ => sum.value(),
            })),
            Accumulator::Extreme(value) => value.clone(),
            Accumulator::Picked(picked) => picked.as_ref().map(|picked| picked.value.clone()),
            Accumulator::Sketch(sketch) => match self {
                Function::Percentile { p } => sketch.quantile(*p).map(Value::Float),
                _ => None,
            },
        }
    }

    /// Reads what [`Accumulator::encode`] wrote; `None` if it was written for another kind of function.
    pub fn decode(&self, reader: &mut Reader<'_>) -> Option<Accumulator> {
        let kind = reader.u8()?;
        Some(match (self.empty(), kind) {
            (Accumulator::Count(_), 1) => Accumulator::Count(reader.u64()?),
            (Accumulator::Total { .. }, 2) => Accumulator::Total { sum: reader.i128()?, count: reader.u64()? },
            (Accumulator::Float { .. }, 3) => Accumulator::Float { sum: ExactSum::decode(reader)?, count: reader.u64()? },
            (Accumulator::Extreme(_), 4) => Accumulator::Extreme(match reader.u8()? {
                0 => None,
                _ => Some(Value::decode(reader)?),
            }),
            (Accumulator::Picked(_), 5) => Accumulator::Picked(match reader.u8()? {
                0 => None,
                _ => Some(Box::new(Picked { time: reader.i64()?, offset: reader.i64()?, value: Value::decode(reader)? })),
            }),
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
                out.push(2);
                put_i128(*sum, out);
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
            Accumulator::Picked(picked) => {
                out.extend_from_slice(&[5, picked.is_some().into()]);
                if let Some(picked) = picked {
                    put_i128(picked.time.into(), out);
                    put_i128(picked.offset.into(), out);
                    picked.value.encode(out);
                }
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

/// `sum / count` with `digits` more decimal digits than `sum`, rounded half away from zero. The plan chose `digits` so
/// that no average of values in range can overflow; `count > 0`.
fn divide(sum: i128, count: i128, digits: u32) -> i128 {
    let scale = 10i128.pow(digits.min(38));
    let (whole, rest) = (sum / count, (sum % count) * scale);
    let (part, left) = (rest / count, rest % count);
    let up = if left.unsigned_abs() * 2 >= count.unsigned_abs() { rest.signum() } else { 0 };
    whole.saturating_mul(scale).saturating_add(part).saturating_add(up)
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
        for index in 0..array.len() {
            match function.refuses(&accumulator, &column, index) {
                Some(refusal) => refused.push(refusal),
                None => {
                    let row = Row { index, time: [5, 3, 9, 3][index % 4], offset: index as i64 };
                    function.add(&mut accumulator, Some(&column), row);
                }
            }
            let mut bytes = Vec::new();
            accumulator.encode(&mut bytes);
            let mut reader = Reader::new(&bytes);
            accumulator = function.decode(&mut reader).unwrap();
            assert!(reader.is_empty());
        }
        (function.result(&accumulator), refused)
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
    fn overflow_is_refused_and_leaves_no_trace() {
        let (sum, refused) = run(Function::SumInt, ints(&[Some(i64::MAX), Some(1), Some(-1)]));
        assert_eq!((sum, refused), (Some(Value::Int(i64::MAX as i128 - 1)), vec![Refusal::IntRange]));
        let most = MAX_DECIMAL as i128;
        let decimals = Decimal128Array::from(vec![most, 1, -most, -most, -1]).with_precision_and_scale(38, 2).unwrap();
        let (sum, refused) = run(Function::SumDecimal, Arc::new(decimals));
        assert_eq!((sum, refused), (Some(Value::Int(-most)), vec![Refusal::DecimalRange; 2]));
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
