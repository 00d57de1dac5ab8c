//! From checked syntax to something that evaluates.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion_common::{DFSchema, DFSchemaRef, DataFusionError, Result, ScalarValue};
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_expr::simplify::SimplifyContext;
use datafusion_expr::{Cast, ColumnarValue, Expr as Logical, ExprSchemable, Operator};
use datafusion_optimizer::simplify_expressions::ExprSimplifier;
use datafusion_physical_expr::expressions::{BinaryExpr, Literal, NegativeExpr};
use datafusion_physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion_sql::planner::{ParserOptions, PlannerContext, SqlToRel};
use datafusion_sql::sqlparser::ast::{Expr as Ast, Visit, Visitor};

use operator_core::{Diagnostic, Path, type_name};

use crate::evaluate::{Decided, Evaluated, cause, panic_text};
use crate::functions::FUNCTIONS;
use crate::literals::{self, is_constant};
use crate::member::member;
use crate::refusal::ExprError;
use crate::syntax::{Parsed, parse};
use crate::wording::reworded;
use crate::{bounded, fallible, names, probe, spread};

/// The number of operators up to which planning fits any thread's stack.
const SHALLOW: usize = 16;
/// Stack for planning up to [`crate::syntax::MAX_OPERATORS`] operators in a row: the planner recurses with large frames.
const DEEP_STACK: usize = 64 << 20;

fn with_deep_stack<T: Send>(plan: impl FnOnce() -> T + Send) -> Result<T, ExprError> {
    let failed = || ExprError::new("unsupported", "can't start a thread to plan this long expression");
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(DEEP_STACK).spawn_scoped(scope, plan).map_err(|_| failed())?;
        thread.join().map_err(|_| failed())
    })
}

/// A compiled, type-checked SQL scalar expression over one schema.
#[derive(Clone)]
pub struct Expr {
    pub(crate) physical: Arc<dyn PhysicalExpr>,
    data_type: DataType,
    nullable: bool,
    columns: Vec<String>,
    column: Option<(String, usize)>,
    path: Option<Path>,
    sql: Arc<str>,
    /// See [`Expr::grows`].
    grows: bool,
    /// What in it can fail by the types alone, and where that is written.
    fallible: Option<(String, Option<fallible::Written>)>,
}

impl Expr {
    /// Compiles `sql` against the schema of the batches it will be evaluated on.
    ///
    /// # Errors
    /// For whatever cannot be evaluated row by row and repeatably: wrong syntax, names and types, aggregates, queries,
    /// functions of the clock, constants that fail.
    pub fn compile(sql: &str, schema: &SchemaRef) -> Result<Expr, ExprError> {
        let mut parsed = parse(sql)?;
        names::resolve(&mut parsed, schema)?;
        // Planning has had panics on odd input; a pipeline file must not be able to end the process.
        let plan = || catch_unwind(AssertUnwindSafe(|| Planner::new(schema)?.plan(&parsed)));
        let planned = if parsed.operators <= SHALLOW { plan() } else { with_deep_stack(plan)? };
        planned.unwrap_or_else(|panic| {
            let text = format!("this expression can't be planned: {}", panic_text(panic.as_ref()));
            Err(ExprError::new("unsupported", text))
        })
    }

    /// The same expression for batches with other columns, which must have those that it reads.
    ///
    /// # Errors
    /// Those of [`Expr::compile`].
    pub fn compile_again(&self, schema: &SchemaRef) -> Result<Expr, ExprError> {
        Expr::compile(&self.sql, schema)
    }

    /// The text it was compiled from.
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// The type of the values.
    pub fn data_type(&self) -> &DataType {
        &self.data_type
    }

    /// Whether a value can be null.
    pub fn nullable(&self) -> bool {
        self.nullable
    }

    /// The top-level columns that are read, sorted.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The column's name, if the expression is just that column: its values need no evaluation.
    pub fn as_column(&self) -> Option<&str> {
        self.column.as_ref().map(|(name, _)| name.as_str())
    }

    /// The column or field the expression is, if it is nothing else. Such an expression renames a value without changing it.
    pub fn as_path(&self) -> Option<&Path> {
        self.path.as_ref()
    }

    /// Whether values can be far larger than those of the columns that it reads: then they count in the budget of a round
    /// ([`operator_core::memory`]).
    pub fn grows(&self) -> bool {
        self.grows
    }

    /// The cast, or the like, that fails for some values of its type. A step that has one must say what happens to the
    /// rows it fails for; arithmetic that overflows is not meant.
    pub fn fallible(&self) -> Option<Diagnostic> {
        let (message, written) = self.fallible.clone()?;
        let text = format!("a value is converted to another type here, and {message}");
        let mut found = Diagnostic::error("fallible-cast", text);
        if let Some((sql, range)) = written {
            found.message = format!("`{sql}` can fail: {message}");
            found.within = range;
        }
        Some(found.help("decide what happens to such rows: `TRY_CAST(.. AS ..)` gives null, `on_error: dead_letter` or `on_error: drop` beside the operator decides for the step"))
    }

    /// The values for `rows`, which must have the schema the expression was compiled for.
    ///
    /// Rows that fail (a cast, division by zero, an overflow, an invalid pattern) are reported and null; they
    /// never fail the others. See [`crate::evaluate`].
    pub fn evaluate(&self, rows: &RecordBatch) -> Evaluated {
        match &self.column {
            Some((_, index)) if *index < rows.num_columns() => Evaluated { values: rows.column(*index).clone(), failed: Vec::new() },
            _ => crate::evaluate::evaluate(self, rows),
        }
    }
}

impl fmt::Debug for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expr({} : {})", self.physical, self.data_type)
    }
}

/// A compiled condition.
#[derive(Clone, Debug)]
pub struct Predicate {
    expr: Expr,
}

impl Predicate {
    /// Compiles `sql`, which must be a boolean.
    ///
    /// # Errors
    /// Those of [`Expr::compile`], and `not-boolean`.
    pub fn compile(sql: &str, schema: &SchemaRef) -> Result<Predicate, ExprError> {
        let expr = Expr::compile(sql, schema)?;
        if expr.data_type == DataType::Boolean {
            return Ok(Predicate { expr });
        }
        let error = ExprError::new("not-boolean", format!("a condition must be a boolean, this is {}", type_name(&expr.data_type)));
        let help = if expr.data_type.is_numeric() {
            format!("compare it: `{} > 0`", sql.trim())
        } else {
            format!("compare it: `{} IS NOT NULL`", sql.trim())
        };
        Err(error.help(help))
    }

    /// The top-level columns that are read, sorted.
    pub fn columns(&self) -> &[String] {
        self.expr.columns()
    }

    /// The condition's result if it is the same for all rows: null counts as false.
    pub fn constant(&self) -> Option<bool> {
        match self.expr.physical.downcast_ref::<Literal>()?.value() {
            ScalarValue::Boolean(value) => Some(*value == Some(true)),
            _ => None,
        }
    }

    /// See [`Expr::fallible`].
    pub fn fallible(&self) -> Option<Diagnostic> {
        self.expr.fallible()
    }

    /// Which rows the condition holds for; null counts as false. Failing rows are reported and false.
    pub fn evaluate(&self, rows: &RecordBatch) -> Decided {
        crate::evaluate::decide(self.expr.evaluate(rows))
    }
}

/// The schema an expression is compiled against, in the forms DataFusion wants.
struct Planner {
    schema: DFSchemaRef,
}

fn bad_type(error: &DataFusionError) -> ExprError {
    let said = reworded(&cause(error));
    let of_types = ["does not take", "be compared", "type"].iter().any(|words| said.contains(words));
    let help = "`CAST(x AS type)` or `TRY_CAST` changes a type; times and spans are added with INTERVAL '1 hour'";
    ExprError::new("type-mismatch", said).help_if(of_types.then(|| help.to_string()))
}

impl Planner {
    fn new(schema: &SchemaRef) -> Result<Planner, ExprError> {
        let schema = DFSchema::try_from(schema.clone()).map_err(|e| ExprError::new("schema", cause(&e)))?;
        Ok(Planner { schema: Arc::new(schema) })
    }

    fn plan(&self, parsed: &Parsed) -> Result<Expr, ExprError> {
        let (logical, physical) = self.lower(&parsed.ast).map_err(|e| self.locate(parsed, e))?;
        let mut columns: Vec<String> = logical.column_refs().iter().map(|c| c.name.clone()).collect();
        columns.sort_unstable();
        columns.dedup();
        let column = match &logical {
            Logical::Column(column) => self.schema.index_of_column(column).ok().map(|index| (column.name.clone(), index)),
            _ => None,
        };
        let data_type = physical.data_type(self.schema.as_arrow()).map_err(|e| bad_type(&e))?;
        let nullable = physical.nullable(self.schema.as_arrow()).map_err(|e| bad_type(&e))?;
        if data_type == DataType::Null {
            let error = ExprError::new("untyped-null", "`NULL` alone has no type");
            return Err(error.help("give it one: `CAST(NULL AS VARCHAR)`"));
        }
        let can_fail = |physical: &Arc<dyn PhysicalExpr>| fallible::find(physical, self.schema.as_arrow());
        let fallible = can_fail(&physical).and_then(|found| {
            let fails = |ast: &Ast| self.lower(ast).is_ok_and(|(_, physical)| can_fail(&physical).is_some());
            let written = fallible::written(parsed, fails);
            (written.is_some() || !found.numeric).then_some((found.message, written))
        });
        let grows = !bounded::has_fixed_width(&data_type) && bounded::multiplies(&physical);
        Ok(Expr {
            physical,
            data_type,
            nullable,
            grows,
            columns,
            column,
            path: names::path(&parsed.ast),
            sql: parsed.sql().into(),
            fallible,
        })
    }

    /// Plans, coerces, folds and simplifies.
    fn lower(&self, ast: &Ast) -> Result<(Logical, Arc<dyn PhysicalExpr>), ExprError> {
        let options = ParserOptions::new()
            .with_parse_float_as_decimal(true)
            .with_enable_ident_normalization(false)
            .with_map_string_types_to_utf8view(false);
        let to_expr = SqlToRel::new_with_options(&*FUNCTIONS, options);
        let logical = to_expr.sql_to_expr(ast.clone(), &self.schema, &mut PlannerContext::new()).map_err(|e| bad_type(&e))?;
        let context = SimplifyContext::builder().with_schema(self.schema.clone()).with_config_options(FUNCTIONS.options.clone()).build();
        let simplifier = ExprSimplifier::new(context);
        let logical = literals::settle(logical.unalias_nested().data, &self.schema).map_err(|e| bad_type(&e))?;
        let coerced = simplifier.coerce(logical, &self.schema).map_err(|e| bad_type(&e))?;
        let folded = self.fold(coerced)?;
        let simple = simplifier.simplify(folded).map_err(|e| bad_type(&e))?;
        let logical = self.plain_type(simple).map_err(|e| bad_type(&e))?;
        let physical = physical(&logical, &self.schema).map_err(|e| bad_type(&e))?;
        probe::check(&physical, self.schema.as_arrow())?;
        Ok((logical, physical))
    }

    /// Casts results in layouts that sinks and group keys do not know (views, large and dictionary texts) to plain ones.
    fn plain_type(&self, logical: Logical) -> Result<Logical> {
        let data_type = logical.get_type(&self.schema)?;
        let plain = plain(&data_type);
        if plain == data_type { Ok(logical) } else { Ok(Logical::Cast(Cast::new(Box::new(logical), plain))) }
    }

    /// Evaluates the largest parts without columns, with checked arithmetic: the simplifier's own folding wraps around
    /// and leaves failing constants to fail row by row.
    fn fold(&self, logical: Logical) -> Result<Logical, ExprError> {
        let mut refused = None;
        let folded = logical.transform_down(|node| {
            if refused.is_some() || matches!(node, Logical::Literal(..)) || !is_constant(&node) {
                return Ok(Transformed::no(node));
            }
            match self.constant(&node) {
                Ok(value) => Ok(Transformed::new(Logical::Literal(value, None), true, TreeNodeRecursion::Jump)),
                Err(e) => {
                    refused = Some(ExprError::new("constant-error", format!("this constant can't be computed: {}", reworded(&cause(&e)))));
                    Ok(Transformed::new(node, false, TreeNodeRecursion::Stop))
                }
            }
        });
        match refused {
            Some(error) => Err(error),
            None => folded.data().map_err(|e| bad_type(&e)),
        }
    }

    fn constant(&self, logical: &Logical) -> Result<ScalarValue> {
        match on_one_row(&physical(logical, &DFSchema::empty())?)? {
            ColumnarValue::Scalar(value) => Ok(value),
            ColumnarValue::Array(values) => ScalarValue::try_from_array(&values, 0),
        }
    }

    /// Finds the smallest part that fails on its own, so that the message points at it.
    fn locate(&self, parsed: &Parsed, error: ExprError) -> ExprError {
        struct Smallest<'a> {
            planner: &'a Planner,
            parsed: &'a Parsed,
            lambdas: usize,
        }
        impl Visitor for Smallest<'_> {
            type Break = Box<ExprError>;

            fn pre_visit_expr(&mut self, ast: &Ast) -> std::ops::ControlFlow<Self::Break> {
                self.lambdas += usize::from(matches!(ast, Ast::Lambda(_)));
                std::ops::ControlFlow::Continue(())
            }

            fn post_visit_expr(&mut self, ast: &Ast) -> std::ops::ControlFlow<Self::Break> {
                self.lambdas -= usize::from(matches!(ast, Ast::Lambda(_)));
                if self.lambdas == 0
                    && !matches!(ast, Ast::Lambda(_))
                    && let Err(error) = self.planner.lower(ast)
                {
                    return std::ops::ControlFlow::Break(Box::new(error.at(self.parsed.range_of(ast))));
                }
                std::ops::ControlFlow::Continue(())
            }
        }
        let mut smallest = Smallest { planner: self, parsed, lambdas: 0 };
        match Visit::visit(&parsed.ast, &mut smallest) {
            std::ops::ControlFlow::Break(found) => *found,
            std::ops::ControlFlow::Continue(()) => error,
        }
    }
}

/// The value of an expression that reads no column.
pub(crate) fn on_one_row(physical: &Arc<dyn PhysicalExpr>) -> Result<ColumnarValue> {
    bounded::start();
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    physical.evaluate(&RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options)?)
}

fn physical(logical: &Logical, schema: &DFSchema) -> Result<Arc<dyn PhysicalExpr>> {
    let mut properties = ExecutionProps::new();
    properties.config_options = Some(FUNCTIONS.options.clone());
    let physical = create_physical_expr(logical, schema, &properties, &PhysicalPlanningContext::default())?;
    checked(physical, schema.as_arrow())
}

/// Makes calls say how much memory they need, fields of records cost nothing, and arithmetic fail where it would wrap around. Negating whole numbers becomes a subtraction from zero, which has
/// a checked form (negating floats stays: `0.0 - 0.0` is not `-0.0`).
fn checked(physical: Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<Arc<dyn PhysicalExpr>> {
    physical
        .transform_up(|node| {
            if let Some(binary) = node.downcast_ref::<BinaryExpr>()
                && matches!(binary.op(), Operator::Plus | Operator::Minus | Operator::Multiply)
            {
                return Ok(Transformed::yes(Arc::new(binary.clone().with_fail_on_overflow(true)) as Arc<dyn PhysicalExpr>));
            }
            let counted = || bounded::counted(&node, schema).or_else(|| spread::counted(&node));
            if let Some(better) = counted().or_else(|| member(&node, schema)) {
                return Ok(Transformed::yes(better));
            }
            if let Some(negative) = node.downcast_ref::<NegativeExpr>()
                && let Ok(data_type) = negative.arg().data_type(schema)
                && data_type.is_signed_integer()
            {
                let zero = Arc::new(Literal::new(ScalarValue::new_zero(&data_type)?));
                let minus = BinaryExpr::new(zero, Operator::Minus, negative.arg().clone()).with_fail_on_overflow(true);
                return Ok(Transformed::yes(Arc::new(minus) as Arc<dyn PhysicalExpr>));
            }
            Ok(Transformed::no(node))
        })
        .data()
}

/// The type with the layouts that the rest of the engine works with.
fn plain(data_type: &DataType) -> DataType {
    let field = |f: &Arc<Field>| Arc::new(f.as_ref().clone().with_data_type(plain(f.data_type())));
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::Dictionary(_, values) => plain(values),
        DataType::List(f) | DataType::LargeList(f) | DataType::ListView(f) | DataType::FixedSizeList(f, _) => DataType::List(field(f)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(field).collect::<Fields>()),
        other => other.clone(),
    }
}
