//! Aggregate calls as windows write them: one function over the rows of a group.

use datafusion_sql::sqlparser::ast::{DuplicateTreatment, Expr as Ast, Function, FunctionArg, FunctionArgExpr, FunctionArguments};

use crate::refusal::ExprError;
use crate::syntax::parse;

const HELP: &str =
    "write one call such as `sum(quantity * price)` or `count(DISTINCT order_id)`; compute with its result in a following `map` step";

/// One aggregate call, taken apart but not yet checked: which functions exist is the window's to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AggregateCall {
    /// Name of the function, in lower case.
    pub function: String,
    pub distinct: bool,
    /// SQL of each argument; empty for `count(*)`.
    pub args: Vec<String>,
}

/// Takes `sum(a * b)`, `count(*)`, `count(DISTINCT order_id)` or `approx_percentile(x, 0.95)` apart.
///
/// # Errors
/// Anything else, such as `sum(a) + 1`, is refused with help.
pub fn parse_aggregate(sql: &str) -> Result<AggregateCall, ExprError> {
    let parsed = parse(sql)?;
    let mut ast = &parsed.ast;
    while let Ast::Nested(inner) = ast {
        ast = inner;
    }
    let Ast::Function(call) = ast else {
        return Err(ExprError::new("not-an-aggregate", "this is not a single aggregate call").help(HELP));
    };
    let refuse = |what: &str| Err(ExprError::new("not-an-aggregate", format!("{what} is not supported in an aggregate")).help(HELP));
    if call.over.is_some() {
        return refuse("OVER");
    }
    if call.filter.is_some() {
        let error = ExprError::new("not-an-aggregate", "FILTER is not supported in an aggregate");
        return Err(error.help("put the condition inside: `sum(CASE WHEN paid THEN amount END)`"));
    }
    if !call.within_group.is_empty() || call.null_treatment.is_some() || call.parameters != FunctionArguments::None {
        return refuse("this clause");
    }
    let FunctionArguments::List(list) = &call.args else { return refuse("a call without parentheses") };
    if !list.clauses.is_empty() {
        return refuse("a clause after the arguments");
    }
    let function = name_of(call)?;
    let distinct = list.duplicate_treatment == Some(DuplicateTreatment::Distinct);
    let mut args = Vec::with_capacity(list.args.len());
    for arg in &list.args {
        match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(arg)) => args.push(arg.to_string()),
            FunctionArg::Unnamed(FunctionArgExpr::Wildcard) if function == "count" && list.args.len() == 1 && !distinct => {}
            _ => return refuse(&format!("`{arg}`")),
        }
    }
    if args.is_empty() && list.args.is_empty() {
        let error = ExprError::new("not-an-aggregate", format!("`{function}()` has no argument"));
        return Err(if function == "count" { error.help("use `count(*)` to count rows") } else { error.help(HELP) });
    }
    Ok(AggregateCall { function, distinct, args })
}

fn name_of(call: &Function) -> Result<String, ExprError> {
    match call.name.0.as_slice() {
        [part] => part.as_ident().map(|name| name.value.to_lowercase()),
        _ => None,
    }
    .ok_or_else(|| ExprError::new("unknown-function", format!("there is no function `{}`", call.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(function: &str, distinct: bool, args: &[&str]) -> AggregateCall {
        AggregateCall { function: function.into(), distinct, args: args.iter().map(|a| a.to_string()).collect() }
    }

    #[test]
    fn takes_calls_apart() {
        assert_eq!(parse_aggregate("sum(a*b)"), Ok(call("sum", false, &["a * b"])));
        assert_eq!(parse_aggregate("count(*)"), Ok(call("count", false, &[])));
        assert_eq!(parse_aggregate("COUNT(DISTINCT order_id)"), Ok(call("count", true, &["order_id"])));
        assert_eq!(parse_aggregate("approx_percentile(x, 0.95)"), Ok(call("approx_percentile", false, &["x", "0.95"])));
        assert_eq!(parse_aggregate("(min(data.customerId))"), Ok(call("min", false, &["data.customerId"])));
        assert_eq!(parse_aggregate("sum(CASE WHEN a = 'x' THEN 1 END)").unwrap().args, ["CASE WHEN a = 'x' THEN 1 END"]);
    }

    #[test]
    fn refuses_everything_else() {
        for sql in [
            "sum(a) + 1",
            "a",
            "1",
            "sum(a) OVER ()",
            "sum(a) FILTER (WHERE a > 1)",
            "sum()",
            "count()",
            "sum(*)",
            "count(DISTINCT *)",
            "current_date",
            "sum(a ORDER BY b)",
        ] {
            let error = parse_aggregate(sql).expect_err(sql);
            assert_eq!((error.code, error.help.is_some()), ("not-an-aggregate", true), "{sql}: {error}");
        }
        assert_eq!(parse_aggregate("sum(").unwrap_err().code, "syntax");
        assert_eq!(parse_aggregate("a.sum(b)").unwrap_err().code, "unknown-function");
    }
}
