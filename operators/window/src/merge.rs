//! Two accumulators of one function as one: what they remember together is what one of them would remember of all rows.
//!
//! Exact for every function: sums are exact before they are rounded, sketches count, and the rest compares rows by an order
//! that arrival has no part in.

use std::cmp::Ordering;

use crate::accumulator::{Accumulator, Function};
use crate::picked::End;

impl Function {
    /// Adds the rows of `other` to `into`. `count(DISTINCT)` is left as it is: whoever keeps its values knows which are new.
    pub fn merge(&self, into: &mut Accumulator, other: Accumulator) {
        match (into, other) {
            (Accumulator::Count(_), _) if *self == Function::CountDistinct => {}
            (Accumulator::Count(count), Accumulator::Count(more)) => *count = count.saturating_add(more),
            (Accumulator::Total { sum, count }, Accumulator::Total { sum: more, count: rows }) => {
                *sum = sum.wrapping_add(more);
                *count = count.saturating_add(rows);
            }
            (Accumulator::Float { sum, count }, Accumulator::Float { sum: more, count: rows }) => {
                sum.merge(&more);
                *count = count.saturating_add(rows);
            }
            (Accumulator::Extreme(kept), Accumulator::Extreme(Some(other))) => {
                let better = if self.end() == End::Greatest { Ordering::Greater } else { Ordering::Less };
                if kept.as_ref().is_none_or(|kept| other.compare(kept) == Some(better)) {
                    *kept = Some(other);
                }
            }
            (Accumulator::Picked(kept), Accumulator::Picked(Some(other)))
                if kept.as_ref().is_none_or(|kept| other.replaces(kept, self.end())) =>
            {
                *kept = Some(other);
            }
            (Accumulator::Best(kept), Accumulator::Best(Some(other)))
                if kept.as_ref().is_none_or(|kept| other.replaces(kept, self.end())) =>
            {
                *kept = Some(other);
            }
            (Accumulator::Sketch(sketch), Accumulator::Sketch(other)) => sketch.merge(&other),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
    use operator_core::Origin;
    use proptest::prelude::*;

    use super::*;
    use crate::accumulator::Row;
    use crate::values::Column;

    const FUNCTIONS: [Function; 11] = [
        Function::CountRows,
        Function::CountValues,
        Function::SumInt,
        Function::AvgInt,
        Function::Min,
        Function::Max,
        Function::First,
        Function::Last,
        Function::MinBy,
        Function::MaxBy,
        Function::Percentile { p: 0.5 },
    ];

    /// What one accumulator, or several that are merged, remember of `rows`: by value, order, time, offset.
    fn results(rows: &[(Option<i64>, Option<i64>, i64, bool)], parts: usize) -> Vec<String> {
        let whole: ArrayRef = Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.0)));
        let order: ArrayRef = Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.1)));
        let doubles = rows.iter().map(|row| row.0.map(|x| x as f64 * 1e-3 * 10f64.powi((x % 300) as i32)));
        let doubles: ArrayRef = Arc::new(Float64Array::from_iter(doubles));
        let texts: ArrayRef = Arc::new(StringArray::from_iter(rows.iter().map(|row| row.0.map(|x| x.to_string()))));
        let origin = Origin { topic: "t".into(), partition: 0, from: -1, to: 9 };
        let mut said = Vec::new();
        let float = [Function::SumFloat, Function::AvgFloat, Function::Percentile { p: 0.9 }];
        let of = |array, functions: &[Function]| functions.iter().map(|f| (array, *f)).collect::<Vec<_>>();
        for (array, function) in [of(&whole, &FUNCTIONS), of(&doubles, &float), of(&texts, &FUNCTIONS[4..10])].concat() {
            let (column, order) = (Column::new(array), Column::new(&order));
            let mut kept = vec![function.empty(); parts];
            for (index, row) in rows.iter().enumerate() {
                let at = Row { index, time: row.2, future: row.3, offset: index as i64, change: 1, origin: &origin };
                let part = &mut kept[(index * 7) % parts];
                match function {
                    Function::MinBy | Function::MaxBy => function.add_ordered(part, &column, &order, at),
                    Function::CountRows => function.add(part, None, at),
                    _ => function.add(part, Some(&column), at),
                }
            }
            let mut all = function.empty();
            kept.into_iter().rev().for_each(|part| function.merge(&mut all, part));
            said.push(format!("{function:?} {:?}", function.result(&all)));
        }
        said
    }

    proptest! {
        #[test]
        fn parts_remember_what_one_would(
            rows in prop::collection::vec((prop::option::of(-700i64..700), prop::option::of(0i64..3), 0i64..3, prop::bool::weighted(0.2)), 0..40),
            parts in 1usize..5,
        ) {
            prop_assert_eq!(results(&rows, parts), results(&rows, 1));
        }
    }
}
