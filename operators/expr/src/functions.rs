//! The functions that expressions may use, and field access that respects nulls.
//!
//! The list is DataFusion's scalar functions minus everything whose value does not follow from its arguments.
//! `get_field` is ours: DataFusion's hands out the child array of a struct as it is, so that a field of a null struct
//! shows whatever is in memory behind it, and a field declared non-null shows a made-up default.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion_common::config::ConfigOptions;
use datafusion_common::{DFSchema, Result, ScalarValue, TableReference, exec_err, plan_err};
use datafusion_expr::expr::ScalarFunction;
use datafusion_expr::planner::{ContextProvider, ExprPlanner, PlannerResult, RawBinaryExpr, RawFieldAccessExpr};
use datafusion_expr::{
    AggregateUDF, ColumnarValue, Expr as Logical, GetFieldAccess, HigherOrderUDF, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, TableSource, Volatility, WindowUDF, lit,
};
use datafusion_functions::core::getfield::GetFieldFunc;
use datafusion_functions::core::planner::CoreFunctionPlanner;
use datafusion_functions::datetime::planner::DatetimeFunctionPlanner;
use datafusion_functions::unicode::planner::UnicodeFunctionPlanner;
use datafusion_functions_nested::planner::{FieldAccessPlanner, NestedFunctionPlanner};
use datafusion_sql::sqlparser::ast::BinaryOperator;

use crate::bounded::bounded;
use crate::header::HeaderOf;
use crate::member::seen;

/// What is known about a function's name.
pub(crate) enum Known {
    Scalar,
    /// Its value does not follow from its arguments.
    NotDeterministic,
    Aggregate,
    Unnest,
    Unknown,
}

/// Names users will try in a scalar expression although they belong in a window.
const AGGREGATES: [&str; 26] = [
    "approx_count_distinct",
    "approx_distinct",
    "approx_percentile",
    "approx_percentile_cont",
    "array_agg",
    "avg",
    "bool_and",
    "bool_or",
    "corr",
    "count",
    "first",
    "first_value",
    "last",
    "last_value",
    "max",
    "mean",
    "median",
    "min",
    "quantile",
    "stddev",
    "stddev_pop",
    "string_agg",
    "sum",
    "var",
    "var_pop",
    "variance",
];

pub(crate) struct Functions {
    scalar: BTreeMap<String, Arc<ScalarUDF>>,
    higher_order: BTreeMap<String, Arc<HigherOrderUDF>>,
    refused: BTreeSet<String>,
    planners: Vec<Arc<dyn ExprPlanner>>,
    /// Defaults only: nothing is read from the environment.
    pub options: Arc<ConfigOptions>,
}

pub(crate) static FUNCTIONS: LazyLock<Functions> = LazyLock::new(Functions::new);
static GET_FIELD: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| Arc::new(ScalarUDF::new_from_impl(FieldOf::default())));

impl Functions {
    fn new() -> Functions {
        let mut functions = Functions {
            scalar: BTreeMap::new(),
            higher_order: BTreeMap::new(),
            refused: BTreeSet::new(),
            planners: vec![
                Arc::new(FieldPlanner),
                Arc::new(CoreFunctionPlanner::default()),
                Arc::new(NestedFunctionPlanner),
                Arc::new(FieldAccessPlanner),
                Arc::new(DatetimeFunctionPlanner),
                Arc::new(UnicodeFunctionPlanner),
            ],
            options: Arc::new(ConfigOptions::default()),
        };
        let all = datafusion_functions::all_default_functions().into_iter();
        for function in all.chain(datafusion_functions_nested::all_default_nested_functions()) {
            let names = std::iter::once(function.name()).chain(function.aliases().iter().map(String::as_str));
            for name in names.map(str::to_string) {
                // `version` is constant in one process and not in two.
                if function.signature().volatility != Volatility::Immutable || name == "version" {
                    functions.refused.insert(name);
                } else {
                    functions.scalar.insert(name, bounded(function.clone()));
                }
            }
        }
        functions.scalar.insert("get_field".into(), GET_FIELD.clone());
        for function in HeaderOf::both() {
            functions.scalar.insert(function.name().to_string(), Arc::new(ScalarUDF::new_from_impl(function)));
        }
        for function in datafusion_functions_nested::all_default_higher_order_functions() {
            for alias in function.aliases() {
                functions.higher_order.insert(alias.clone(), function.clone());
            }
            functions.higher_order.insert(function.name().to_string(), function);
        }
        functions
    }

    /// What `name` (in lower case) is.
    pub fn look_up(&self, name: &str) -> Known {
        if self.refused.contains(name) {
            Known::NotDeterministic
        } else if self.scalar.contains_key(name) || self.higher_order.contains_key(name) || name == "make_map" {
            Known::Scalar
        } else if AGGREGATES.contains(&name) {
            Known::Aggregate
        } else if name == "unnest" {
            Known::Unnest
        } else {
            Known::Unknown
        }
    }

    /// Names of all functions that may be written, without their aliases.
    #[cfg(test)]
    pub fn canonical(&self) -> impl Iterator<Item = &str> {
        let names = self.scalar.values().map(|f| f.name()).chain(self.higher_order.values().map(|f| f.name()));
        names.filter(|name| !name.contains(' '))
    }

    /// Names of all functions that may be used.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.scalar.keys().chain(self.higher_order.keys()).map(String::as_str).filter(|name| !name.contains(' '))
    }
}

impl ContextProvider for Functions {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        plan_err!("an expression can't refer to a table (`{name}`)")
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.planners
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.scalar.get(name).cloned()
    }

    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        self.higher_order.get(name).cloned()
    }

    fn get_aggregate_meta(&self, _: &str) -> Option<Arc<AggregateUDF>> {
        None
    }

    fn get_window_meta(&self, _: &str) -> Option<Arc<WindowUDF>> {
        None
    }

    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.options
    }

    fn udf_names(&self) -> Vec<String> {
        self.scalar.keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        self.higher_order.keys().cloned().collect()
    }

    fn udaf_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}

fn field_of(base: Logical, name: impl Into<Logical>) -> Logical {
    Logical::ScalarFunction(ScalarFunction::new_udf(GET_FIELD.clone(), vec![base, name.into()]))
}

/// Plans `a.b`, `a['b']` and `a.b -> 'c'` with our own field access; runs before DataFusion's planners.
#[derive(Debug)]
struct FieldPlanner;

impl ExprPlanner for FieldPlanner {
    fn plan_compound_identifier(
        &self,
        field: &Field,
        qualifier: Option<&TableReference>,
        nested: &[String],
    ) -> Result<PlannerResult<Vec<Logical>>> {
        let column = Logical::Column((qualifier, field).into());
        let path = nested.iter().fold(column, |base, name| field_of(base, lit(name.clone())));
        Ok(PlannerResult::Planned(path))
    }

    fn plan_field_access(&self, access: RawFieldAccessExpr, schema: &DFSchema) -> Result<PlannerResult<RawFieldAccessExpr>> {
        use datafusion_expr::ExprSchemable;
        let RawFieldAccessExpr { field_access, expr } = access;
        match field_access {
            GetFieldAccess::NamedStructField { name } => Ok(PlannerResult::Planned(field_of(expr, lit(name)))),
            GetFieldAccess::ListIndex { key } if matches!(expr.get_type(schema)?, DataType::Map(_, _)) => {
                Ok(PlannerResult::Planned(field_of(expr, *key)))
            }
            field_access => Ok(PlannerResult::Original(RawFieldAccessExpr { field_access, expr })),
        }
    }

    fn plan_binary_op(&self, raw: RawBinaryExpr, _: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        if raw.op == BinaryOperator::Arrow {
            return Ok(PlannerResult::Planned(field_of(raw.left, raw.right)));
        }
        Ok(PlannerResult::Original(raw))
    }
}

/// `get_field`: DataFusion's, with the nulls of the struct carried over to the field.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
struct FieldOf {
    inner: GetFieldFunc,
}

impl ScalarUDFImpl for FieldOf {
    fn name(&self) -> &str {
        "get_field"
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        Ok(types.to_vec())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_struct = args.args.first().is_some_and(|base| matches!(base.data_type(), DataType::Struct(_)));
        let (true, [ColumnarValue::Array(base), names @ ..]) = (is_struct, args.args.as_slice()) else {
            return self.inner.invoke_with_args(args);
        };
        let mut current = base.clone();
        for name in names {
            let ColumnarValue::Scalar(name) = name else {
                return exec_err!("the name of a field must be a constant");
            };
            current = child(&current, name)?;
        }
        Ok(ColumnarValue::Array(current))
    }
}

fn child(base: &ArrayRef, name: &ScalarValue) -> Result<ArrayRef> {
    let Some(Some(name)) = name.try_as_str() else { return exec_err!("the name of a field must be a text") };
    let Some(parent) = base.as_struct_opt() else {
        return exec_err!("there is no field `{name}` in a {}", base.data_type());
    };
    let Some(child) = parent.column_by_name(name) else { return exec_err!("there is no field `{name}`") };
    seen(child, parent)
}
