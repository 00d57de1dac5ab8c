//! Finds constants that fail for every row: an invalid unit of time or pattern, a division by zero. Such parts are
//! evaluated on sample values while compiling, so a typo can't flood the dead-letter topic.

use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::datatypes::{DataType, Schema, TimeUnit};
use datafusion_common::ScalarValue;
use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_expr::Operator;
use datafusion_physical_expr::expressions::{BinaryExpr, CastExpr, Literal};
use datafusion_physical_expr::{PhysicalExpr, ScalarFunctionExpr};

use crate::compile::on_one_row;
use crate::evaluate::cause;
use crate::fallible::READERS;
use crate::refusal::ExprError;
use crate::wording::reworded;

/// Values to try: what fails for all of them fails because of what stands beside them.
const ATTEMPTS: usize = 8;
const NUMBERS: [i64; ATTEMPTS] = [1, 4, 12, 2024, 0, -1, 1_000, 1_000_000_000];
const TEXTS: [&str; ATTEMPTS] = ["1", "a", "", "2024-02-29T12:00:00Z", "sha256", "hex", "10:30:00", "day"];
/// In seconds since 1970: noon of a leap day, new years.
const TIMES: [i64; ATTEMPTS] = [1_709_208_000, 0, 1_735_689_600, -86_400, 1, 951_825_600, 1_719_792_000, 1_704_067_200];
/// Functions that fail for what their arguments have to do with each other.
const RELATIVE: [&str; 2] = ["range", "generate_series"];

/// # Errors
/// A part fails whatever the values of the columns are.
pub(crate) fn check(physical: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<(), ExprError> {
    let mut found = None;
    let _ = physical.apply(|node| {
        found = zone(node).or_else(|| fails(node, schema));
        Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    found.map_or(Ok(()), Err)
}

/// A cast to a time zone that does not exist.
fn zone(node: &Arc<dyn PhysicalExpr>) -> Option<ExprError> {
    let DataType::Timestamp(_, Some(zone)) = node.downcast_ref::<CastExpr>()?.cast_type() else { return None };
    let unknown = zone.parse::<Tz>().is_err();
    unknown.then(|| {
        let error = ExprError::new("constant-error", format!("unknown time zone `{zone}`"));
        error.help("use a name of the IANA database, such as `Europe/Berlin` or `UTC`, or an offset such as `+02:00`")
    })
}

fn fails(node: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Option<ExprError> {
    let divides = node.downcast_ref::<BinaryExpr>().is_some_and(|b| [Operator::Divide, Operator::Modulo].contains(b.op()));
    // Functions that parse texts fail for arbitrary samples.
    let called = node.downcast_ref::<ScalarFunctionExpr>().is_some_and(|f| !READERS.contains(&f.name()) && !RELATIVE.contains(&f.name()));
    let children: Vec<Arc<dyn PhysicalExpr>> = node.children().into_iter().cloned().collect();
    let constant = |child: &Arc<dyn PhysicalExpr>| child.downcast_ref::<Literal>().is_some();
    if !(divides || called) || !children.iter().any(constant) || children.iter().all(constant) {
        return None;
    }
    let mut last = None;
    for attempt in 0..ATTEMPTS {
        let tried = children.iter().map(|child| match constant(child) {
            true => Some(child.clone()),
            false => Some(Arc::new(Literal::new(sample(&child.data_type(schema).ok()?, attempt)?)) as Arc<dyn PhysicalExpr>),
        });
        let tried: Vec<_> = tried.collect::<Option<_>>()?;
        last = Some(node.clone().with_new_children(tried).and_then(|tried| on_one_row(&tried)).err()?);
    }
    last.map(|error| ExprError::new("constant-error", format!("this fails for every row: {}", reworded(&cause(&error)))))
}

/// A value of a type; `None` for types that nothing is made up for.
fn sample(data_type: &DataType, attempt: usize) -> Option<ScalarValue> {
    let (number, text, seconds) = (*NUMBERS.get(attempt)?, *TEXTS.get(attempt)?, *TIMES.get(attempt)?);
    let simple = match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => ScalarValue::Utf8(Some(text.to_string())),
        DataType::Boolean => ScalarValue::Boolean(Some(attempt.is_multiple_of(2))),
        DataType::Date32 => ScalarValue::Date32(Some((seconds.div_euclid(86_400)) as i32)),
        DataType::Timestamp(_, zone) => ScalarValue::TimestampSecond(Some(seconds), zone.clone()),
        other if other.is_numeric() => ScalarValue::Int64(Some(number)),
        _ => return None,
    };
    // A year has no value in a byte, and 1 is as good.
    let smaller = || if data_type.is_numeric() { ScalarValue::Int64(Some(1)).cast_to(data_type).ok() } else { None };
    match data_type {
        DataType::Timestamp(TimeUnit::Second, _) => Some(simple),
        _ => simple.cast_to(data_type).ok().or_else(smaller),
    }
}
