//! Limits for functions whose result can be larger than their arguments.
//!
//! `lpad(name, n)` allocates `n` characters. If `n` comes from data, one bad record can ask for more memory than there
//! is, which ends the process, and again after every restart. So what one row may ask for is limited ([`MAX_SIZE`] per call,
//! [`BUDGET`] for all calls of an expression), and a row that asks for more fails like any other bad row. What a batch
//! asks for is limited by the same budget: each call says beforehand how much it will make ([`charge`]), and a batch that would
//! make more is evaluated in parts (see [`crate::evaluate`]).
//!
//! Functions that multiply have a rule of their own ([`Size::of`]); all others make about as much as they are given. A test
//! lists both, so that no function of a new DataFusion is forgotten.

use std::cell::Cell;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Int64Type, Schema};
use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_common::{Result, exec_err, plan_err};
use datafusion_expr::{ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature};
use datafusion_physical_expr::expressions::Column;
use datafusion_physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use operator_core::memory::bytes;

use crate::spread;

/// The most characters or elements that the result of one call may have in one row.
pub const MAX_SIZE: i64 = 1 << 20;
/// Bytes that all calls in an expression may make in one evaluation.
pub const BUDGET: usize = 64 << 20;

thread_local! {
    /// What the calls of the evaluation under way have made.
    static MADE: Cell<usize> = const { Cell::new(0) };
}

/// An evaluation begins.
pub(crate) fn start() {
    MADE.set(0);
}

/// A call is about to make `bytes`.
///
/// # Errors
/// That is too much for one evaluation.
pub(crate) fn charge(what: &str, bytes: i128) -> Result<()> {
    let made = (MADE.get() as i128).saturating_add(bytes);
    if made > BUDGET as i128 {
        return exec_err!("with the result of `{what}` the expression would need more than {} MiB of memory", BUDGET >> 20);
    }
    MADE.set(made.max(0) as usize);
    Ok(())
}

/// What the size of a result depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Size {
    /// The second argument is the length.
    Given,
    /// The second argument is how often the first one is there.
    Times,
    /// From, to and step, or only to.
    Range,
    /// The third argument may stand for every occurrence of the second in the first.
    Replaced,
    /// The third argument may stand for every element of the first.
    Elements,
    /// The second argument stands between the elements of the first.
    Joined,
    /// The first argument stands between all others.
    Separated,
    /// Parts of the first argument, one for each group of the pattern.
    Groups,
    /// As many elements as the longest argument has, for each argument.
    Longest,
    /// About the size of the arguments.
    Arguments,
}

impl Size {
    /// What the size of the result of the function with this name depends on, if that is not the size of its arguments.
    pub fn of(function: &str) -> Option<Size> {
        Some(match function {
            "lpad" | "rpad" | "array_resize" => Size::Given,
            "repeat" | "array_repeat" => Size::Times,
            "range" | "generate_series" => Size::Range,
            "replace" | "regexp_replace" => Size::Replaced,
            "array_replace" | "array_replace_n" | "array_replace_all" => Size::Elements,
            "array_to_string" => Size::Joined,
            "concat_ws" => Size::Separated,
            "regexp_match" => Size::Groups,
            "arrays_zip" => Size::Longest,
            _ => return None,
        })
    }
}

/// `function` with its limit, if it is one that needs it.
pub(crate) fn bounded(function: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    match Size::of(function.name()) {
        Some(size) => Arc::new(ScalarUDF::new_from_impl(Bounded { inner: function, size })),
        None => function,
    }
}

/// A call whose result has about the size of its arguments, and no fixed width, says how much it will make. This is done to calls
/// that are planned: functions such as `coalesce` are replaced while planning, which a wrapper would prevent.
pub(crate) fn counted(node: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Option<Arc<dyn PhysicalExpr>> {
    let call = node.downcast_ref::<ScalarFunctionExpr>()?;
    // Fields and records are put together from columns that are there.
    let shares = matches!(call.name(), "get_field" | "struct" | "named_struct");
    if shares || Size::of(call.name()).is_some() || has_fixed_width(call.return_type()) {
        return None;
    }
    let function = ScalarUDF::new_from_impl(Bounded { inner: Arc::new(call.fun().clone()), size: Size::Arguments });
    let field = call.return_field(schema).ok()?;
    let options = Arc::new(call.config_options().clone());
    Some(Arc::new(ScalarFunctionExpr::new(call.name(), Arc::new(function), call.args().to_vec(), field, options)))
}

/// References to columns up to which an expression without other growth counts as one whose values are about as large as its columns.
const FEW_COLUMNS: usize = 16;

/// Whether the values of an expression can be far larger than those of its columns.
pub(crate) fn multiplies(physical: &Arc<dyn PhysicalExpr>) -> bool {
    let (mut columns, mut found) = (0, false);
    let _ = physical.apply(|node| {
        columns += usize::from(node.downcast_ref::<Column>().is_some());
        let call = node.downcast_ref::<ScalarFunctionExpr>();
        found |= columns > FEW_COLUMNS || call.is_some_and(|call| Size::of(call.name()).is_some()) || spread::is_call(node);
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    found
}

/// Values of this type can't grow.
pub(crate) fn has_fixed_width(data_type: &DataType) -> bool {
    data_type.primitive_width().is_some() || matches!(data_type, DataType::Boolean | DataType::Null | DataType::FixedSizeBinary(_))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    size: Size,
}

impl Bounded {
    /// # Errors
    /// A row, or all rows together, would make too much.
    fn check(&self, args: &ScalarFunctionArgs) -> Result<()> {
        let arrays = args.args.iter().map(|arg| match arg {
            ColumnarValue::Array(array) => Ok((array.clone(), true)),
            ColumnarValue::Scalar(value) => Ok((value.to_array()?, false)),
        });
        let arguments = Arguments(arrays.collect::<Result<_>>()?);
        // Constants alone make one value, whatever the number of rows.
        let rows = if arguments.0.iter().any(|(_, varies)| *varies) { args.number_rows } else { 1 };
        if self.size == Size::Arguments {
            return charge(self.inner.name(), arguments.all_bytes(rows));
        }
        let numbers: Vec<Option<Int64Array>> = match self.size {
            Size::Range => (0..3).map(|at| arguments.whole_numbers(at)).collect::<Result<_>>()?,
            Size::Given | Size::Times => vec![None, arguments.whole_numbers(1)?],
            _ => Vec::new(),
        };
        let mut total: i128 = 0;
        for row in 0..rows {
            let number = |at: usize| arguments.number(numbers.get(at).and_then(Option::as_ref), at, row);
            let (size, bytes) = self.row(&arguments, number, numbers.get(1).is_some_and(Option::is_some), row);
            if size > i128::from(MAX_SIZE) {
                return exec_err!("the result of `{}` would have a size of {size}, at most {MAX_SIZE} is allowed", self.inner.name());
            }
            total += bytes;
        }
        charge(self.inner.name(), total)
    }

    /// What the call makes of a row, at most: characters or elements where their number is limited, and bytes.
    fn row(&self, args: &Arguments, number: impl Fn(usize) -> Option<i128>, second: bool, row: usize) -> (i128, i128) {
        let (length, bytes) = (|at: usize| args.length(at, row), |at: usize| args.bytes(at, row));
        let all = || (0..args.0.len()).map(bytes).sum::<i128>();
        let times = number(1).unwrap_or(0).max(0);
        // Elements are repeated as a whole, texts by their characters.
        let is_array = self.inner.name().starts_with("array");
        match self.size {
            // The third argument is what fills up.
            Size::Given if is_array => (times, times * (bytes(2) + 4)),
            Size::Given => (times * length(2).max(1), times * length(2).max(1)),
            Size::Times if is_array => (times * length(0).max(1), times * (bytes(0) + 4)),
            Size::Times => (times * length(0).max(1), times * length(0)),
            Size::Range => {
                let steps = match (number(0), number(1)) {
                    (Some(to), None) if !second => to,
                    (Some(from), Some(to)) => (to - from) / number(2).filter(|step| *step != 0).unwrap_or(1),
                    _ => 0,
                };
                (steps, 8 * steps.max(0))
            }
            Size::Replaced => {
                // A pattern matches one character at least, or between them.
                let sought = if self.inner.name() == "replace" { length(1).max(1) } else { 1 };
                let size = length(0) + (length(0) / sought + 1) * length(2);
                (size, size)
            }
            Size::Elements => (0, bytes(0) + length(0) * bytes(2)),
            Size::Joined => (length(0) * length(1), length(0) * length(1) + bytes(0)),
            Size::Separated => (0, length(0) * args.0.len() as i128 + all()),
            // A group needs two characters of the pattern.
            Size::Groups => (0, length(0) * (length(1) / 2 + 1)),
            Size::Longest => {
                let longest = (0..args.0.len()).map(length).max().unwrap_or(0);
                (0, 8 * longest * args.0.len() as i128 + all())
            }
            Size::Arguments => (0, all()),
        }
    }
}

/// Evaluated arguments, and whether each is a column rather than a constant.
struct Arguments(Vec<(ArrayRef, bool)>);

impl Arguments {
    fn whole_numbers(&self, at: usize) -> Result<Option<Int64Array>> {
        let numbers = self.0.get(at).map(|(array, _)| cast(array, &DataType::Int64)).transpose()?;
        Ok(numbers.and_then(|numbers| numbers.as_primitive_opt::<Int64Type>().cloned()))
    }

    fn number(&self, numbers: Option<&Int64Array>, at: usize, row: usize) -> Option<i128> {
        let (numbers, place) = (numbers?, self.place(at, row)?.1);
        (place < numbers.len() && numbers.is_valid(place)).then(|| i128::from(numbers.value(place)))
    }

    /// The argument and the place of the row's value in it.
    fn place(&self, at: usize, row: usize) -> Option<(&ArrayRef, usize)> {
        self.0.get(at).map(|(array, varies)| (array, if *varies { row } else { 0 })).filter(|(array, row)| *row < array.len())
    }

    /// Bytes of a text, elements of a list; 1 for what has no length.
    fn length(&self, at: usize, row: usize) -> i128 {
        let Some((array, row)) = self.place(at, row) else { return 0 };
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

    fn bytes(&self, at: usize, row: usize) -> i128 {
        self.place(at, row).map_or(0, |(array, row)| bytes(array.as_ref(), row, 1) as i128)
    }

    /// Bytes of all arguments in so many rows.
    fn all_bytes(&self, rows: usize) -> i128 {
        let of = |(array, varies): &(ArrayRef, bool)| {
            let bytes = bytes(array.as_ref(), 0, array.len()) as i128;
            if *varies { bytes } else { bytes * rows as i128 }
        };
        self.0.iter().map(of).sum()
    }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::functions::FUNCTIONS;

    use super::*;

    /// Functions whose result has about the size of their arguments at most, lambdas aside: upper case, digests, a year.
    #[rustfmt::skip]
    const AS_LARGE: [&str; 162] = [
        "abs", "acos", "acosh", "array_add", "array_any_match", "array_any_value", "array_append", "array_avg", "array_compact",
        "array_concat", "array_dims", "array_distance", "array_distinct", "array_element", "array_except", "array_filter",
        "array_first", "array_has", "array_has_all", "array_has_any", "array_intersect", "array_length", "array_max", "array_min",
        "array_ndims", "array_normalize", "array_pop_back", "array_pop_front", "array_position", "array_positions", "array_prepend",
        "array_product", "array_remove", "array_remove_all", "array_remove_n", "array_reverse", "array_scale", "array_slice",
        "array_sort", "array_subtract", "array_sum", "array_transform", "array_union", "arrow_cast", "arrow_field", "arrow_metadata",
        "arrow_try_cast", "arrow_typeof", "ascii", "asin", "asinh", "atan", "atan2", "atanh", "bit_length", "btrim", "cardinality",
        "cast_to_type", "cbrt", "ceil", "character_length", "chr", "coalesce", "concat", "contains", "cos", "cosh", "cosine_distance",
        "cot", "date_bin", "date_part", "date_trunc", "decode", "degrees", "digest", "empty", "encode", "ends_with", "exp",
        "factorial", "find_in_set", "flatten", "floor", "from_unixtime", "gcd", "get_field", "greatest", "initcap", "inner_product",
        "isnan", "iszero", "lcm", "least", "left", "levenshtein", "ln", "log", "log10", "log2", "lower", "ltrim", "make_array",
        "make_date", "make_time", "map", "map_entries", "map_extract", "map_keys", "map_values", "md5", "named_struct", "nanvl",
        "nullif", "nvl", "nvl2", "octet_length", "overlay", "pi", "power", "radians", "regexp_count", "regexp_instr", "regexp_like",
        "reverse", "right", "round", "rtrim", "sha224", "sha256", "sha384", "sha512", "signum", "sin", "sinh", "split_part", "sqrt",
        "starts_with", "string_to_array", "strpos", "struct", "substr", "substr_index", "tan", "tanh", "to_char", "to_date", "to_hex",
        "to_local_time", "to_time", "to_timestamp", "to_timestamp_micros", "to_timestamp_millis", "to_timestamp_nanos",
        "to_timestamp_seconds", "to_unixtime", "translate", "trunc", "try_cast_to_type", "union_extract", "union_tag", "upper",
        "with_metadata",
    ];

    #[test]
    fn the_growth_of_every_function_is_known() {
        let known = |name: &str| Size::of(name).is_some() || AS_LARGE.contains(&name);
        let unknown: BTreeSet<&str> = FUNCTIONS.canonical().filter(|name| !known(name)).collect();
        assert!(unknown.is_empty(), "give each a rule in `Size::of` if its result can be far larger than its arguments: {unknown:?}");
    }
}
