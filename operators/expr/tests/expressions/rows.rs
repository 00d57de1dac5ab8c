//! The rows that expressions are tried on.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array, ListArray, RecordBatch, StringArray, StructArray,
    TimestampMillisecondArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields, Schema};
use arrow::util::display::array_value_to_string;
use operator_core::batch::{OFFSET, TIME, WATERMARK};
use operator_expr::{Expr, ExprError};

pub const ROWS: usize = 4;

fn item_fields() -> Fields {
    Fields::from(vec![Field::new("sku", DataType::Utf8, true), Field::new("price", DataType::Float64, false)])
}

/// Four rows; the last one is null wherever it can be, with values hidden behind the null of `data`.
pub fn rows() -> RecordBatch {
    let nulls = NullBuffer::from(vec![true, true, true, false]);
    let items = StructArray::new(
        item_fields(),
        vec![Arc::new(StringArray::from(vec!["a", "b", "c"])) as ArrayRef, Arc::new(Float64Array::from(vec![1.5, 2.5, 3.5]))],
        None,
    );
    let item = Arc::new(Field::new("item", items.data_type().clone(), true));
    let items = ListArray::new(item, OffsetBuffer::from_lengths([2, 0, 1, 0]), Arc::new(items), None);
    let meta = StructArray::from(vec![(
        Arc::new(Field::new("source", DataType::Utf8, true)),
        Arc::new(StringArray::from(vec![Some("web"), None, Some("app"), Some("hidden")])) as ArrayRef,
    )]);
    let data = vec![
        ("orderId", Arc::new(StringArray::from(vec!["o1", "o2", "o3", "hidden"])) as ArrayRef, true),
        ("total", Arc::new(Float64Array::from(vec![10.0, 0.0, -5.0, 99.0])), false),
        ("items", Arc::new(items), true),
        ("meta", Arc::new(meta), true),
    ];
    let fields: Fields = data.iter().map(|(n, a, null)| Field::new(*n, a.data_type().clone(), *null)).collect();
    let data = StructArray::new(fields, data.into_iter().map(|(_, a, _)| a).collect(), Some(nulls));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("status", Arc::new(StringArray::from(vec![Some("PAID"), Some("OPEN"), Some("12"), None]))),
        ("n", Arc::new(Int64Array::from(vec![Some(3), Some(0), Some(-7), None]))),
        ("small", Arc::new(Int32Array::from(vec![Some(1), Some(i32::MAX), Some(i32::MIN), None]))),
        ("big", Arc::new(Int64Array::from(vec![Some(i64::MAX), Some(i64::MIN), Some(1), None]))),
        ("amount", Arc::new(decimals([Some(1050), Some(0), Some(-250), None], 12))),
        ("paid", Arc::new(BooleanArray::from(vec![Some(true), Some(false), Some(true), None]))),
        ("timestamp", Arc::new(TimestampMillisecondArray::from(vec![Some(0), Some(61_000), Some(i64::MAX), None]).with_timezone("UTC"))),
        ("user", Arc::new(StringArray::from(vec!["u1", "u2", "u3", "u4"]))),
        ("order", Arc::new(StringArray::from(vec!["x", "y", "z", "w"]))),
        ("data", Arc::new(data)),
        (TIME, Arc::new(TimestampMillisecondArray::from(vec![0, 60_000, 120_000, 180_000]).with_timezone("UTC"))),
        (WATERMARK, Arc::new(Int64Array::from(vec![0; ROWS]))),
        (OFFSET, Arc::new(Int64Array::from(vec![7, 8, 9, 10]))),
    ];
    let fields: Vec<Field> = columns.iter().map(|(n, a)| Field::new(*n, a.data_type().clone(), !n.starts_with('_'))).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, a)| a).collect()).unwrap()
}

fn decimals(values: [Option<i128>; ROWS], precision: u8) -> Decimal128Array {
    Decimal128Array::from(values.to_vec()).with_precision_and_scale(precision, 2).unwrap()
}

pub fn compile(sql: &str) -> Result<Expr, ExprError> {
    Expr::compile(sql, &rows().schema())
}

pub fn texts(values: &ArrayRef) -> Vec<String> {
    let show = |row| if values.is_null(row) { "null".to_string() } else { array_value_to_string(values, row).unwrap() };
    (0..values.len()).map(show).collect()
}

/// The values of the four rows, `!cause` where the row failed.
pub fn values(sql: &str) -> Vec<String> {
    let expr = compile(sql).unwrap_or_else(|e| panic!("{sql}: {e} [{}]", e.code));
    let evaluated = expr.evaluate(&rows());
    assert_eq!(evaluated.values.data_type(), expr.data_type(), "{sql}");
    let mut shown = texts(&evaluated.values);
    for (row, cause) in evaluated.failed {
        assert_eq!(shown[row], "null", "{sql}: a failed row is null");
        shown[row] = format!("!{cause}");
    }
    shown
}

pub fn refused(sql: &str) -> ExprError {
    match compile(sql) {
        Ok(expr) => panic!("{sql} compiled to {expr:?}"),
        Err(error) => error,
    }
}
