//! What a group remembers of its rows for each computed column.
//!
//! An accumulator takes a row in two steps: [`Function::refuses`] says whether the row can be taken at all, then
//! [`Function::add`] takes it and cannot fail. Whether it can be taken depends on the row alone: sums are wide enough for
//! any number of rows, and whether one fits its column is judged when it is emitted ([`Function::result`]). So no answer
//! depends on the order in which rows arrive.
//!
//! Of a stream of changes, counts and sums take a row that is gone off again ([`Function::retracts`]). It may come before the row it
//! takes away, so counts can be negative for a while.

use std::cmp::Ordering;

use arrow::datatypes::i256;
use operator_core::stores::bytes::{Reader, put_i128, put_u64};
use operator_core::{Millis, Origin};

use crate::exact::ExactSum;
use crate::picked::{Best, End, Picked};
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
    /// `min_by(x, order)`: the value of the row with the least order, of those in which neither is null.
    MinBy,
    MaxBy,
    /// The value at rank `p`, see [`Sketch`].
    Percentile {
        p: f64,
    },
}

/// The memory of one aggregate of one group in one window.
#[derive(Clone, Debug)]
pub enum Accumulator {
    Count(i64),
    Total { sum: i256, count: i64 },
    Float { sum: ExactSum, count: i64 },
    Extreme(Option<Value>),
    Picked(Option<Box<Picked>>),
    Best(Option<Box<Best>>),
    Sketch(Box<Sketch>),
}

/// Where and when a row is.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    pub index: usize,
    pub time: Millis,
    /// The time is not believed, see [`operator_core::batch::FUTURE`].
    pub future: bool,
    pub offset: i64,
    /// +1 the row is there, -1 it is gone.
    pub change: i8,
    pub origin: &'a Origin,
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
            Function::MinBy => "min_by",
            Function::MaxBy => "max_by",
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
            MinBy | MaxBy => Accumulator::Best(None),
            Percentile { .. } => Accumulator::Sketch(Box::default()),
        }
    }

    /// True if rows can be taken off again: what is kept is a sum, and not one of the rows.
    pub fn retracts(&self) -> bool {
        use Function::*;
        match self {
            CountRows | CountValues | CountDistinct | SumInt | SumDecimal | SumFloat | AvgInt | AvgDecimal { .. } | AvgFloat => true,
            Min | Max | First | Last | MinBy | MaxBy | Percentile { .. } => false,
        }
    }

    /// True if [`Function::refuses`] may ever refuse.
    pub fn can_refuse(&self) -> bool {
        use Function::*;
        matches!(self, SumFloat | AvgFloat | Min | Max | MinBy | MaxBy | Percentile { .. })
    }

    /// The place of the argument that [`Function::refuses`] judges.
    pub fn judged(&self) -> usize {
        usize::from(matches!(self, Function::MinBy | Function::MaxBy))
    }

    /// The end of the order that this function looks for.
    pub(crate) fn end(&self) -> End {
        match self {
            Function::Max | Function::Last | Function::MaxBy => End::Greatest,
            _ => End::Least,
        }
    }

    /// Why `column[row]`, of the argument that is judged, cannot be added, if so.
    #[inline]
    pub fn refuses(&self, column: &Column<'_>, row: usize) -> Option<Refusal> {
        let refused = match self {
            Function::SumFloat | Function::AvgFloat | Function::Percentile { .. } => !column.float(row)?.is_finite(),
            Function::Min | Function::Max | Function::MinBy | Function::MaxBy => column.is_nan(row),
            _ => false,
        };
        refused.then_some(Refusal::NotFinite)
    }

    /// Adds `column[row]`, which must not be refused, or takes it off if the row is gone. `count(DISTINCT)` is counted by whoever keeps its values, and a function of
    /// two columns is [`Function::add_ordered`].
    #[inline]
    pub fn add(&self, to: &mut Accumulator, column: Option<&Column<'_>>, row: Row<'_>) {
        let change = i64::from(row.change);
        match (to, column) {
            (Accumulator::Count(count), None) => *count += change,
            (Accumulator::Count(count), Some(column)) => *count += if column.is_null(row.index) { 0 } else { change },
            (Accumulator::Total { sum, count }, Some(column)) => {
                if let Some(value) = column.int(row.index) {
                    // 2^63 decimals of 127 bits fit 190.
                    let value = i256::from_i128(value);
                    *sum = if change < 0 { sum.wrapping_sub(value) } else { sum.wrapping_add(value) };
                    *count += change;
                }
            }
            (Accumulator::Float { sum, count }, Some(column)) => {
                if let Some(value) = column.float(row.index) {
                    sum.add(if change < 0 { -value } else { value });
                    *count += change;
                }
            }
            (Accumulator::Extreme(kept), Some(column)) => self.add_extreme(kept, column, row.index),
            (Accumulator::Picked(kept), Some(column)) => Picked::add(kept, self.end(), column, row),
            (Accumulator::Sketch(sketch), Some(column)) => {
                if let Some(value) = column.float(row.index) {
                    sketch.add(value);
                }
            }
            _ => {}
        }
    }

    /// Adds `value[row]` under `order[row]`.
    #[inline]
    pub fn add_ordered(&self, to: &mut Accumulator, value: &Column<'_>, order: &Column<'_>, row: Row<'_>) {
        if let Accumulator::Best(kept) = to {
            Best::add(kept, self.end(), (value, order), row);
        }
    }

    fn add_extreme(&self, kept: &mut Option<Value>, column: &Column<'_>, row: usize) {
        let better = if self.end() == End::Greatest { Ordering::Greater } else { Ordering::Less };
        let replaces = match kept {
            Some(kept) => column.compare(row, kept) == Some(better),
            None => true,
        };
        if replaces && let Some(value) = column.value(row) {
            *kept = Some(value);
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
            Accumulator::Picked(picked) => picked.as_ref().map(|picked| picked.value().clone()),
            Accumulator::Best(best) => best.as_ref().map(|best| best.value().clone()),
            Accumulator::Sketch(sketch) => match self {
                Function::Percentile { p } => sketch.quantile(*p).map(Value::Float),
                _ => None,
            },
        })
    }

    /// The sum or the average of whole numbers; `count` is not 0.
    fn total(&self, sum: i256, count: i64) -> Result<Value, Refusal> {
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
            (Accumulator::Count(_), 1) => Accumulator::Count(read_count(reader)?),
            (Accumulator::Total { .. }, 2) => Accumulator::Total { sum: i256::from_i128(reader.i128()?), count: read_count(reader)? },
            (Accumulator::Total { .. }, 7) => Accumulator::Total { sum: i256::from_be_bytes(reader.array()?), count: read_count(reader)? },
            (Accumulator::Float { .. }, 3) => Accumulator::Float { sum: ExactSum::decode(reader)?, count: read_count(reader)? },
            (Accumulator::Extreme(_), 4) => Accumulator::Extreme(match reader.u8()? {
                0 => None,
                _ => Some(Value::decode(reader)?),
            }),
            (Accumulator::Picked(_), 5) => Accumulator::Picked(match reader.u8()? {
                0 => None,
                _ => Some(Box::new(Picked::decode_without_position(reader)?)),
            }),
            (Accumulator::Picked(_), 8) => Accumulator::Picked(Some(Box::new(Picked::decode(reader)?))),
            (Accumulator::Best(_), 9) => Accumulator::Best(match reader.u8()? {
                0 => None,
                _ => Some(Box::new(Best::decode(reader)?)),
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
                put_count(*count, out);
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
                put_count(*count, out);
            }
            Accumulator::Float { sum, count } => {
                out.push(3);
                sum.encode(out);
                put_count(*count, out);
            }
            Accumulator::Extreme(value) => {
                out.extend_from_slice(&[4, value.is_some().into()]);
                if let Some(value) = value {
                    value.encode(out);
                }
            }
            Accumulator::Picked(None) => out.extend_from_slice(&[5, 0]),
            Accumulator::Picked(Some(picked)) => {
                out.push(8);
                picked.encode(out);
            }
            Accumulator::Best(best) => {
                out.extend_from_slice(&[9, best.is_some().into()]);
                if let Some(best) = best {
                    best.encode(out);
                }
            }
            Accumulator::Sketch(sketch) => {
                out.push(6);
                sketch.encode(out);
            }
        }
    }

    /// Counts so many more distinct values.
    pub fn count_distinct(&mut self, change: i64) {
        if let Accumulator::Count(count) = self {
            *count += change;
        }
    }

    /// It remembers nothing: as much was taken off as was added. Only of functions that take rows off.
    pub fn is_empty(&self) -> bool {
        match self {
            Accumulator::Count(count) => *count == 0,
            Accumulator::Total { sum, count } => *count == 0 && *sum == i256::ZERO,
            Accumulator::Float { sum, count } => *count == 0 && sum.value() == Some(0.0),
            _ => false,
        }
    }
}

/// Counts are written as numbers without a sign: those of rows that are only added always were.
fn put_count(count: i64, out: &mut Vec<u8>) {
    put_u64(count as u64, out);
}

fn read_count(reader: &mut Reader<'_>) -> Option<i64> {
    reader.u64().map(|count| count as i64)
}

/// `sum / count` with `digits` (at most 4) more decimal digits than `sum`, rounded half away from zero. The plan chose
/// `digits` so that no average of values in range can overflow; `count` is not 0.
fn divide(sum: i256, count: i64, digits: u32) -> Option<i128> {
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
    let up = if left.unsigned_abs() * 2 >= divisor.unsigned_abs() { rest.signum() * divisor.signum() } else { 0 };
    whole.checked_mul(scale)?.checked_add(part)?.checked_add(up)
}

#[cfg(test)]
mod tests;
