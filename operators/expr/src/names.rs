//! Names against the schema, before DataFusion sees them: most typos are in names, so positions and
//! suggestions must be right here.

use std::ops::{ControlFlow, Range};

use arrow::datatypes::{DataType, Field, Schema};
use datafusion_sql::sqlparser::ast::{
    AccessExpr, Expr as Ast, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, LambdaFunction, OneOrManyWithParens, Query,
    Subscript, Value, ValueWithSpan, Visit, VisitMut, Visitor, VisitorMut,
};
use operator_core::batch::{FUTURE, HEADERS, OFFSET, TIME, is_system, is_written};
use operator_core::diagnostic::{closest, did_you_mean, names};
use operator_core::path::quoted;
use operator_core::{Path, type_name};

use crate::functions::{FUNCTIONS, Known};
use crate::header;
use crate::refusal::ExprError;
use crate::syntax::{Parsed, parse};

/// Rewrites forms that DataFusion's planner does not read into ones it does, then checks every name.
pub(crate) fn resolve(parsed: &mut Parsed, schema: &Schema) -> Result<(), ExprError> {
    let _ = VisitMut::visit(&mut parsed.ast, &mut Rewrite { schema, parameters: Vec::new() });
    let mut check = Check { parsed, schema, parameters: Vec::new(), arguments: Vec::new() };
    match Visit::visit(&parsed.ast, &mut check) {
        ControlFlow::Break(error) => Err(*error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// The path, if the expression is nothing but a column or a field of one.
pub(crate) fn path(ast: &Ast) -> Option<Path> {
    match ast {
        Ast::Identifier(name) => Some(Path::column(&name.value)),
        Ast::CompoundIdentifier(parts) => Path::from_names(parts.iter().map(|part| part.value.clone())),
        Ast::Nested(inner) => path(inner),
        _ => None,
    }
}

fn dotted(parts: &[Ident]) -> String {
    parts.iter().map(|part| part.value.as_str()).collect::<Vec<_>>().join(".")
}

fn parameters(lambda: &LambdaFunction) -> Vec<String> {
    match &lambda.params {
        OneOrManyWithParens::One(one) => vec![one.name.value.clone()],
        OneOrManyWithParens::Many(many) => many.iter().map(|p| p.name.value.clone()).collect(),
    }
}

struct Rewrite<'a> {
    schema: &'a Schema,
    parameters: Vec<Vec<String>>,
}

impl Rewrite<'_> {
    fn is_parameter(&self, name: &Ident) -> bool {
        self.parameters.iter().flatten().any(|p| *p == name.value)
    }
}

/// `.price` as `['price']`.
fn subscript(name: &Ident) -> AccessExpr {
    let value = Value::SingleQuotedString(name.value.clone());
    AccessExpr::Subscript(Subscript::Index { index: Ast::Value(ValueWithSpan { value, span: name.span }) })
}

impl VisitorMut for Rewrite<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, ast: &mut Ast) -> ControlFlow<()> {
        if let Ast::Lambda(lambda) = ast {
            self.parameters.push(parameters(lambda));
        }
        if self.schema.field_with_name(HEADERS).is_ok() && header::rewrite(ast) {
            return ControlFlow::Continue(());
        }
        // `data.items[1].price`: the names before the first bracket are one path, those after it are subscripts.
        if let Ast::CompoundFieldAccess { root, access_chain } = ast {
            let mut path = match root.as_ref() {
                Ast::Identifier(name) => vec![name.clone()],
                Ast::CompoundIdentifier(parts) => parts.clone(),
                _ => Vec::new(),
            };
            let mut chain = Vec::with_capacity(access_chain.len());
            for access in access_chain.drain(..) {
                match access {
                    AccessExpr::Dot(Ast::Identifier(name)) if chain.is_empty() && !path.is_empty() => path.push(name),
                    AccessExpr::Dot(Ast::Identifier(name)) => chain.push(subscript(&name)),
                    other => chain.push(other),
                }
            }
            *access_chain = chain;
            if path.len() > 1 {
                **root = Ast::CompoundIdentifier(path);
            }
            if access_chain.is_empty() {
                *ast = std::mem::replace(root, Ast::Tuple(Vec::new()));
            }
        }
        // A column may be called `user` or `current_date`, which SQL calls without parentheses.
        if let Ast::Function(Function { name, args: FunctionArguments::None, .. }) = ast
            && let [part] = name.0.as_slice()
            && let Some(name) = part.as_ident()
            && self.schema.field_with_name(&name.value).is_ok()
        {
            *ast = Ast::Identifier(name.clone());
        }
        // Fields of a lambda's parameter are reached by subscripts.
        if let Ast::CompoundIdentifier(parts) = ast
            && let [first, rest @ ..] = parts.as_slice()
            && self.is_parameter(first)
        {
            let access_chain = rest.iter().map(subscript).collect();
            *ast = Ast::CompoundFieldAccess { root: Box::new(Ast::Identifier(first.clone())), access_chain };
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, ast: &mut Ast) -> ControlFlow<()> {
        if let Ast::Lambda(_) = ast {
            self.parameters.pop();
        }
        ControlFlow::Continue(())
    }
}

struct Check<'a> {
    parsed: &'a Parsed,
    schema: &'a Schema,
    parameters: Vec<Vec<String>>,
    /// Lambdas and the column of headers, seen as arguments of a function: only there do they mean something.
    arguments: Vec<*const Ast>,
}

type Checked = ControlFlow<Box<ExprError>>;

fn refuse(error: ExprError) -> Checked {
    ControlFlow::Break(Box::new(error))
}

impl Visitor for Check<'_> {
    type Break = Box<ExprError>;

    fn pre_visit_query(&mut self, query: &Query) -> Checked {
        let error = ExprError::new("subquery", "an expression can't contain a query");
        refuse(error.at(self.parsed.range_of(query)).help("look up rows of a table with an `enrich` step"))
    }

    fn pre_visit_expr(&mut self, ast: &Ast) -> Checked {
        match ast {
            Ast::Identifier(name) if name.value == HEADERS && !self.arguments.contains(&std::ptr::from_ref(ast)) => {
                refuse(self.all_headers(name))
            }
            Ast::Identifier(name) => self.path(std::slice::from_ref(name)),
            Ast::CompoundIdentifier(parts) => self.path(parts),
            Ast::Function(call) => self.function(call),
            Ast::Lambda(lambda) => {
                if !self.arguments.contains(&std::ptr::from_ref(ast)) {
                    let error = ExprError::new("unsupported", "`->` writes a lambda, which is allowed only as a function's argument");
                    return refuse(error.at(self.parsed.range_of(ast)).help("write a field with a dot: `data.items`"));
                }
                self.parameters.push(parameters(lambda));
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn post_visit_expr(&mut self, ast: &Ast) -> Checked {
        if let Ast::Lambda(_) = ast {
            self.parameters.pop();
        }
        ControlFlow::Continue(())
    }
}

impl Check<'_> {
    fn function(&mut self, call: &Function) -> Checked {
        if let FunctionArguments::List(list) = &call.args {
            self.arguments.extend(header::column_of(call).map(std::ptr::from_ref));
            for arg in &list.args {
                if let FunctionArg::Unnamed(FunctionArgExpr::Expr(arg @ Ast::Lambda(_))) = arg {
                    self.arguments.push(arg);
                }
            }
        }
        let name = match call.name.0.as_slice() {
            [part] => part.as_ident().map(|name| name.value.to_lowercase()),
            _ => None,
        };
        let name = name.unwrap_or_else(|| call.name.to_string());
        let within = self.parsed.range_of(&call.name);
        if call.over.is_some() {
            let error = ExprError::new("window-function", format!("`{name}(...) OVER` needs other rows; an expression sees one"));
            return refuse(error.at(within).help(
                "group the rows in a `window` step, which has `first`, `last`, `count`, `sum`, `min`, `max` and `avg` (docs/recipes.md)",
            ));
        }
        let error = match FUNCTIONS.look_up(&name) {
            Known::Scalar => return ControlFlow::Continue(()),
            Known::NotDeterministic => {
                let message = format!("`{name}` returns another value on each call, so a replay would give other results");
                let of_the_clock = ["now", "current", "today", "local"].iter().any(|word| name.contains(word));
                let help = match of_the_clock {
                    true => format!("use `{TIME}`, the event time"),
                    false => "compute the value from columns of the row".to_string(),
                };
                ExprError::new("not-deterministic", message).help(help)
            }
            Known::Aggregate => {
                let message = format!("`{name}` is an aggregate: it needs many rows, an expression sees one");
                let help = match name.as_str() {
                    "min" => "aggregate in the `compute` of a `window` step; the smallest of several values is `least(a, b)`",
                    "max" => "aggregate in the `compute` of a `window` step; the largest of several values is `greatest(a, b)`",
                    _ => "aggregate in the `compute` of a `window` step; lists have `array_length`, `array_sum`, `array_max`",
                };
                ExprError::new("aggregate", message).help(help)
            }
            Known::Unnest => {
                let error = ExprError::new("unsupported", "`unnest` makes several rows from one; an expression computes one value");
                error.help("write `unnest: data.items AS item` in a `map` step")
            }
            Known::Unknown => {
                let error = ExprError::new("unknown-function", format!("unknown function `{name}`"));
                error.help_if(did_you_mean(&name, FUNCTIONS.names()))
            }
        };
        refuse(error.at(within))
    }

    fn path(&self, parts: &[Ident]) -> Checked {
        let Some((first, rest)) = parts.split_first() else { return ControlFlow::Continue(()) };
        if self.parameters.iter().flatten().any(|p| *p == first.value) {
            return ControlFlow::Continue(());
        }
        let Ok(column) = self.schema.field_with_name(&first.value) else { return refuse(self.unknown(first, rest)) };
        let mut data_type = column.data_type();
        for (depth, part) in rest.iter().enumerate() {
            let parent = dotted(parts.get(..=depth).unwrap_or(parts));
            let within = self.range(part);
            match data_type {
                DataType::Struct(fields) => match fields.find(&part.value) {
                    Some((_, field)) => data_type = field.data_type(),
                    None => {
                        let error = ExprError::new("unknown-column", format!("`{parent}` has no field `{}`", part.value));
                        let known = || fields.iter().map(|f| f.name().as_str());
                        let help = meant(&part.value, known()).unwrap_or_else(|| format!("its fields are {}", listed(known())));
                        return refuse(error.at(within).help(help));
                    }
                },
                DataType::Map(entries, _) => match entries.data_type() {
                    DataType::Struct(fields) if fields.len() == 2 => {
                        data_type = fields.get(1).map_or(&DataType::Null, |value| value.data_type());
                    }
                    _ => return ControlFlow::Continue(()),
                },
                DataType::List(_) | DataType::LargeList(_) => {
                    let error = ExprError::new("unknown-column", format!("`{parent}` is a list, its elements have the fields"));
                    let help = format!(
                        "`{parent}[1].{}` is the field of the first element; a `map` step with `unnest` makes one row per element",
                        part.value
                    );
                    return refuse(error.at(within).help(help));
                }
                other => {
                    let error = ExprError::new("unknown-column", format!("`{parent}` is a {} and has no fields", type_name(other)));
                    return refuse(error.at(within));
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn unknown(&self, first: &Ident, rest: &[Ident]) -> ExprError {
        let name = first.value.as_str();
        let shown = if rest.is_empty() { name.to_string() } else { format!("{name}.{}", dotted(rest)) };
        let error = ExprError::new("unknown-column", format!("there is no column `{shown}`")).at(self.range(first));
        let known =
            || self.schema.fields().iter().map(|f| f.name().as_str()).filter(|n| !is_system(n) || matches!(*n, TIME | OFFSET | FUTURE));
        let user = || known().filter(|n| is_written(n));
        if !rest.is_empty() && self.schema.field_with_name(&shown).is_ok() {
            return error.help(format!("did you mean `{}`? A name with dots goes in double quotes", spelled(&shown)));
        }
        if first.quote_style == Some('"') {
            let text = format!("a text goes in single quotes: '{name}'");
            return error.help(match meant(name, known()) {
                Some(meant) => format!("{meant} Double quotes name columns; {text}"),
                None => format!("double quotes name columns; {text}"),
            });
        }
        // `total` where only `data.total` exists
        if let Some(path) = leaf(self.schema.fields().iter(), name, 4) {
            let rest = if rest.is_empty() { String::new() } else { format!(".{}", dotted(rest)) };
            return error.help(format!("did you mean `{path}{rest}`?"));
        }
        if let Some(meant) = meant(name, known()) {
            return error.help(meant);
        }
        error.help(format!("the columns are {}", listed(user())))
    }

    /// The column with all headers, where one of them is meant.
    fn all_headers(&self, name: &Ident) -> ExprError {
        let within = self.range(name);
        if self.schema.field_with_name(HEADERS).is_err() {
            let error = ExprError::new("headers", "these rows have no headers: an operator made them from several records");
            return error.at(within).help("select the header into a column before that step, and aggregate it: `first(trace)`");
        }
        let help = format!("write `{HEADERS}['trace-id']` for its text, `CAST({HEADERS}['trace-id'] AS BYTEA)` for its bytes");
        ExprError::new("headers", "an expression reads one header, by its name").at(within).help(help)
    }

    fn range(&self, part: &Ident) -> Option<Range<usize>> {
        self.parsed.range(part.span)
    }
}

/// A name as it is written in an expression.
fn spelled(name: &str) -> String {
    match parse(name).map(|parsed| parsed.ast) {
        Ok(Ast::Identifier(same)) if same.quote_style.is_none() && same.value == name => same.value,
        _ => quoted(name),
    }
}

/// "did you mean", with the name as it is written in an expression.
fn meant<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    closest(unknown, known).map(|name| format!("did you mean `{}`?", spelled(name)))
}

/// The first few names of a list, so that a wide schema does not fill the screen.
fn listed<'a>(all: impl Iterator<Item = &'a str>) -> String {
    let all: Vec<String> = all.map(spelled).collect();
    match all.get(..12) {
        Some(some) if all.len() > 12 => format!("{}, and {} more", names(some.iter().map(String::as_str)), all.len() - 12),
        _ => names(all.iter().map(String::as_str)),
    }
}

/// Where a field called `name` is inside the structs of `fields`.
fn leaf<'a>(fields: impl Iterator<Item = &'a std::sync::Arc<Field>>, name: &str, depth: usize) -> Option<String> {
    let structs: Vec<_> = fields
        .filter_map(|f| match f.data_type() {
            DataType::Struct(children) => Some((f.name(), children)),
            _ => None,
        })
        .collect();
    let direct = structs.iter().find(|(_, children)| children.find(name).is_some());
    if let Some((parent, _)) = direct {
        return Some(format!("{}.{}", spelled(parent), spelled(name)));
    }
    let depth = depth.checked_sub(1)?;
    structs.iter().find_map(|(parent, children)| leaf(children.iter(), name, depth).map(|path| format!("{}.{path}", spelled(parent))))
}
