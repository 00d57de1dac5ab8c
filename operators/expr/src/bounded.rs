//! Functions whose result is as large as an argument says, with a limit.
//!
//! `lpad(name, n)` allocates `n` characters. If `n` comes from data, one bad record can ask for more memory than there
//! is, which ends the process, and again after every restart. So what one row may ask for is limited, and a row that
//! asks for more fails like any other bad row.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Int64Type};
use datafusion_common::{Result, exec_err, plan_err};
use datafusion_expr::{ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature};

/// The most characters or elements that one row's result may have.
pub const MAX_SIZE: i64 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Size {
    /// The second argument is the length.
    Given,
    /// The second argument is how often the first one is there.
    Times,
    /// From, to and step, or only to.
    Range,
    /// The third argument may stand for every occurrence of the second in the first.
    Replaced,
    /// The second argument stands between the elements of the first.
    Joined,
}

/// `function` with its limit, if it is one that needs it.
pub(crate) fn bounded(function: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    let size = match function.name() {
        "lpad" | "rpad" | "array_resize" => Size::Given,
        "repeat" | "array_repeat" => Size::Times,
        "range" | "generate_series" => Size::Range,
        "replace" | "regexp_replace" => Size::Replaced,
        "array_to_string" => Size::Joined,
        _ => return function,
    };
    Arc::new(ScalarUDF::new_from_impl(Bounded { inner: function, size }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    size: Size,
}

impl Bounded {
    fn check(&self, args: &ScalarFunctionArgs) -> Result<()> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let rows = arrays.first().map_or(0, |a| a.len());
        let number = |at: usize| arrays.get(at).map(whole_numbers).transpose();
        let (first, second, third) = match self.size {
            Size::Range => (number(0)?, number(1)?, number(2)?),
            Size::Replaced | Size::Joined => (None, None, None),
            _ => (None, number(1)?, None),
        };
        for row in 0..rows {
            let value = |of: &Option<Int64Array>| of.as_ref().filter(|a| a.is_valid(row)).map(|a| i128::from(a.value(row)));
            let size = match self.size {
                // The third argument is what fills up.
                Size::Given => value(&second).unwrap_or(0).max(0) * arrays.get(2).map_or(1, |a| length(a, row)).max(1),
                Size::Replaced => {
                    let of = |at: usize| arrays.get(at).map_or(0, |a| length(a, row));
                    // A pattern matches one character at least, or between them.
                    let sought = if self.inner.name() == "replace" { of(1).max(1) } else { 1 };
                    of(0) + (of(0) / sought + 1) * of(2)
                }
                Size::Joined => arrays.first().map_or(0, |a| length(a, row)) * arrays.get(1).map_or(0, |a| length(a, row)),
                Size::Times => value(&second).unwrap_or(0).max(0) * arrays.first().map_or(1, |a| length(a, row)).max(1),
                Size::Range => match (value(&first), value(&second)) {
                    (Some(to), None) if second.is_none() => to,
                    (Some(from), Some(to)) => (to - from) / value(&third).filter(|step| *step != 0).unwrap_or(1),
                    _ => 0,
                },
            };
            if size > i128::from(MAX_SIZE) {
                return exec_err!("the result of `{}` would have a size of {size}, at most {MAX_SIZE} is allowed", self.inner.name());
            }
        }
        Ok(())
    }
}

fn whole_numbers(array: &ArrayRef) -> Result<Int64Array> {
    Ok(cast(array, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
}

/// Bytes of a text, elements of a list; 1 for what has no length.
fn length(array: &ArrayRef, row: usize) -> i128 {
    let size = match array.data_type() {
        _ if array.is_null(row) => 0,
        DataType::Utf8 => array.as_string::<i32>().value(row).len(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(row).len(),
        DataType::Utf8View => array.as_string_view().value(row).len(),
        DataType::List(_) => array.as_list::<i32>().value_length(row).unsigned_abs() as usize,
        _ => 1,
    };
    size as i128
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let other = args.arg_fields.iter().find(|f| !f.data_type().is_integer() && !f.data_type().is_null());
        if let (Size::Range, Some(other)) = (self.size, other) {
            return plan_err!("`{}` takes whole numbers, not {}", self.inner.name(), other.data_type());
        }
        self.inner.return_field_from_args(args)
    }

    fn is_strict(&self) -> bool {
        self.inner.inner().is_strict()
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.check(&args)?;
        self.inner.invoke_with_args(args)
    }
}
