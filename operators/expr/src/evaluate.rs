//! Evaluation in which one row's failure does not affect other rows.
//!
//! A batch is evaluated at once. If that fails (or panics: DataFusion's timestamp arithmetic has, see
//! apache/datafusion#17534), it is halved, and so on until each failing row is alone: with `k` of `n` rows failing
//! that is O(k log n) evaluations. A batch that would need too much memory at once ([`crate::bounded`]) is halved in the
//! same manner. The rows that fail are those that fail *alone*, which makes the answer independent
//! of how rows are batched: `x <> 0 AND 10 / x > 1` never fails, although evaluating both sides for a whole batch may.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, RecordBatch, new_empty_array, new_null_array};
use arrow::compute::{cast, concat, prep_null_mask_filter};
use arrow::datatypes::{DataType, Decimal128Type};
use arrow::error::ArrowError;
use datafusion_common::DataFusionError;
use datafusion_expr::ColumnarValue;
use operator_core::memory::{keep, size};

use crate::bounded;
use crate::compile::Expr;

/// The values of an expression for the rows of a batch.
#[derive(Clone, Debug)]
pub struct Evaluated {
    /// One value per row, null at rows that failed.
    pub values: ArrayRef,
    /// The rows that failed, in order, each with its cause.
    pub failed: Vec<(usize, String)>,
}

/// The rows of a batch that a condition holds for.
#[derive(Clone, Debug)]
pub struct Decided {
    /// One bit per row and no nulls: null and failing rows are false.
    pub holds: BooleanArray,
    /// The rows that failed, in order, each with its cause.
    pub failed: Vec<(usize, String)>,
}

pub(crate) fn decide(evaluated: Evaluated) -> Decided {
    let Evaluated { values, failed } = evaluated;
    let holds = match values.as_boolean_opt() {
        Some(values) if values.null_count() > 0 => prep_null_mask_filter(values),
        Some(values) => BooleanArray::new(values.values().clone(), None),
        // Ruled out when compiling; no row holds rather than a panic.
        None => BooleanArray::new(arrow::buffer::BooleanBuffer::new_unset(values.len()), None),
    };
    Decided { holds, failed }
}

pub(crate) fn evaluate(expr: &Expr, rows: &RecordBatch) -> Evaluated {
    let data_type = expr.data_type();
    if rows.num_rows() == 0 {
        return Evaluated { values: new_empty_array(data_type), failed: Vec::new() };
    }
    let mut pieces = Vec::with_capacity(1);
    let mut failed = Vec::new();
    halve(expr, rows, 0, &mut pieces, &mut failed);
    let values = match pieces.as_slice() {
        [one] => Ok(one.clone()),
        several => concat(&several.iter().map(|p| p.as_ref()).collect::<Vec<_>>()),
    };
    match values {
        Ok(values) => {
            refuse_nulls(expr, &values, &mut failed);
            Evaluated { values, failed }
        }
        // Pieces have one type, so only a result beyond the size of an array gets here.
        Err(e) => {
            let failed = (0..rows.num_rows()).map(|row| (row, arrow_cause(&e))).collect();
            Evaluated { values: new_null_array(data_type, rows.num_rows()), failed }
        }
    }
}

/// Whoever builds a batch from the values relies on what was planned: a null where none was promised is a failed row,
/// not a batch that cannot be built.
fn refuse_nulls(expr: &Expr, values: &ArrayRef, failed: &mut Vec<(usize, String)>) {
    if expr.nullable() || values.null_count() == failed.len() {
        return;
    }
    let known: Vec<usize> = failed.iter().map(|(row, _)| *row).collect();
    let unexpected = (0..values.len()).filter(|row| values.is_null(*row) && known.binary_search(row).is_err());
    failed.extend(unexpected.map(|row| (row, "null where the type allows none".to_string())));
    failed.sort_by_key(|(row, _)| *row);
}

/// Depth is the logarithm of the number of rows.
fn halve(expr: &Expr, rows: &RecordBatch, first: usize, pieces: &mut Vec<ArrayRef>, failed: &mut Vec<(usize, String)>) {
    match attempt(expr, rows) {
        // Where the round is void, nothing more has to be computed.
        Ok(values) if expr.grows() && keep(size(&values)).is_err() => pieces.push(new_null_array(expr.data_type(), rows.num_rows())),
        Ok(values) => pieces.push(values),
        Err(cause) if rows.num_rows() <= 1 => {
            failed.push((first, cause));
            pieces.push(new_null_array(expr.data_type(), rows.num_rows()));
        }
        Err(_) => {
            let half = rows.num_rows() / 2;
            halve(expr, &rows.slice(0, half), first, pieces, failed);
            halve(expr, &rows.slice(half, rows.num_rows() - half), first + half, pieces, failed);
        }
    }
}

fn attempt(expr: &Expr, rows: &RecordBatch) -> Result<ArrayRef, String> {
    let evaluate = || {
        bounded::start();
        let values = expr.physical.evaluate(rows)?;
        if let ColumnarValue::Scalar(value) = &values {
            // A constant becomes a value of each row.
            bounded::charge("the constant", size(&value.to_array()?) as i128 * rows.num_rows() as i128)?;
        }
        values.into_array(rows.num_rows())
    };
    let evaluated = catch_unwind(AssertUnwindSafe(evaluate));
    let values = match evaluated {
        Ok(values) => values.map_err(|e| cause(&e))?,
        Err(panic) => return Err(format!("a function failed: {}", panic_text(panic.as_ref()))),
    };
    if values.len() != rows.num_rows() {
        return Err(format!("a function gave {} values for {} rows", values.len(), rows.num_rows()));
    }
    let values =
        if values.data_type() == expr.data_type() { values } else { cast(&values, expr.data_type()).map_err(|e| arrow_cause(&e))? };
    fits(&values)?;
    Ok(values)
}

/// Kernels let decimals grow past their declared digits; a sink would refuse or, worse, wrap them.
fn fits(values: &ArrayRef) -> Result<(), String> {
    let DataType::Decimal128(precision, _) = values.data_type() else { return Ok(()) };
    let decimals: &Decimal128Array = values.as_primitive::<Decimal128Type>();
    decimals.validate_decimal_precision(*precision).map_err(|e| arrow_cause(&e))
}

/// The message of a caught panic.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("no reason given").to_string()
}

/// The root of an error without the wrapping that means nothing to the author of a pipeline.
pub(crate) fn cause(error: &DataFusionError) -> String {
    match error.find_root() {
        DataFusionError::ArrowError(e, _) => arrow_cause(e),
        DataFusionError::Execution(text) | DataFusionError::Plan(text) | DataFusionError::NotImplemented(text) => first_part(text),
        other => first_part(&other.strip_backtrace()),
    }
}

fn arrow_cause(error: &ArrowError) -> String {
    match error {
        ArrowError::DivideByZero => "division by zero".to_string(),
        ArrowError::ArithmeticOverflow(text) => {
            format!("overflow: {}", text.trim_start_matches("Overflow happened on: "))
        }
        ArrowError::CastError(text)
        | ArrowError::ComputeError(text)
        | ArrowError::InvalidArgumentError(text)
        | ArrowError::ParseError(text) => first_part(text),
        ArrowError::ExternalError(e) => match e.downcast_ref::<DataFusionError>() {
            Some(inner) => cause(inner),
            None => first_part(&e.to_string()),
        },
        other => first_part(&other.to_string()),
    }
}

/// Candidate lists and backtraces follow the first line, and so does what is wrong with a regular expression.
fn first_part(text: &str) -> String {
    let first = text.lines().next().unwrap_or(text).trim();
    let pattern = text.lines().find_map(|line| line.trim().strip_prefix("error: "));
    match (first.strip_suffix("Syntax(").or(first.strip_suffix("regex parse error:")), pattern) {
        (Some(what), Some(pattern)) => format!("{what}{pattern}"),
        _ => first.trim_end_matches('.').to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;
    use std::sync::Arc;

    use arrow::array::Int64Array;
    use arrow::datatypes::{Field, Int64Type, Schema};
    use datafusion_expr::ColumnarValue;
    use datafusion_physical_expr::PhysicalExpr;

    use super::*;

    /// The column `n`, but 13 ends in a panic.
    #[derive(Debug, PartialEq, Eq, Hash)]
    struct Superstitious;

    impl fmt::Display for Superstitious {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("superstitious")
        }
    }

    impl PhysicalExpr for Superstitious {
        fn evaluate(&self, rows: &RecordBatch) -> datafusion_common::Result<ColumnarValue> {
            let numbers = rows.column(0).as_primitive::<Int64Type>();
            assert!(numbers.values().iter().all(|n| *n != 13), "13 is in the batch");
            Ok(ColumnarValue::Array(rows.column(0).clone()))
        }

        fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
            Vec::new()
        }

        fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn PhysicalExpr>>) -> datafusion_common::Result<Arc<dyn PhysicalExpr>> {
            Ok(self)
        }

        fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            fmt::Display::fmt(self, f)
        }
    }

    #[test]
    fn a_panic_fails_its_row_only() {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
        let mut expr = Expr::compile("n + 1", &schema).unwrap();
        expr.physical = Arc::new(Superstitious);
        let numbers = Int64Array::from(vec![11, 12, 13, 14, 15]);
        let rows = RecordBatch::try_new(schema, vec![Arc::new(numbers)]).unwrap();
        let evaluated = evaluate(&expr, &rows);
        assert_eq!(evaluated.failed, [(2, "a function failed: 13 is in the batch".to_string())]);
        let values = evaluated.values.as_primitive::<Int64Type>();
        assert_eq!(values.iter().collect::<Vec<_>>(), [Some(11), Some(12), None, Some(14), Some(15)]);
    }

    #[test]
    fn a_null_that_was_ruled_out_fails_its_row() {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let mut expr = Expr::compile("n + 1", &schema).unwrap();
        assert!(!expr.nullable());
        expr.physical = Arc::new(Superstitious);
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
        let rows = RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(vec![Some(1), None, Some(13)]))]).unwrap();
        let failed: Vec<usize> = evaluate(&expr, &rows).failed.iter().map(|(row, _)| *row).collect();
        assert_eq!(failed, [1, 2]);
    }
}
