//! From `sum(quantity * price)` to an aggregate with its type, or to a sentence about what is wrong with it.

use arrow::datatypes::{DataType, SchemaRef};
use operator_core::diagnostic::{closest, names};
use operator_core::{Diagnostic, type_said};
use operator_expr::{AggregateCall, parse_aggregate};

use crate::accumulator::Function;
use crate::inputs::Inputs;
use crate::values::is_kept;

/// The functions, as messages list them.
pub const FUNCTIONS: [&str; 10] = ["count", "sum", "min", "max", "avg", "first", "last", "min_by", "max_by", "approx_percentile"];

/// What users call these functions elsewhere.
const ELSEWHERE: [(&str, &str); 16] = [
    ("mean", "avg(x)"),
    ("average", "avg(x)"),
    ("median", "approx_percentile(x, 0.5)"),
    ("percentile", "approx_percentile(x, 0.99)"),
    ("quantile", "approx_percentile(x, 0.99)"),
    ("approx_percentile_cont", "approx_percentile(x, 0.99)"),
    ("count_distinct", "count(DISTINCT x)"),
    ("approx_distinct", "count(DISTINCT x)"),
    ("approx_count_distinct", "count(DISTINCT x)"),
    ("uniq", "count(DISTINCT x)"),
    ("first_value", "first(x)"),
    ("last_value", "last(x)"),
    ("argmin", "min_by(x, order)"),
    ("argmax", "max_by(x, order)"),
    ("arg_min", "min_by(x, order)"),
    ("arg_max", "max_by(x, order)"),
];

/// A computed column.
#[derive(Clone, Debug, PartialEq)]
pub struct Aggregate {
    pub name: String,
    pub function: Function,
    /// Places of the arguments in the plan's inputs: none for `count(*)`, two for `max_by(x, order)`, several for
    /// `count(DISTINCT a, b)`.
    pub inputs: Vec<usize>,
    pub data_type: DataType,
    pub nullable: bool,
}

impl Aggregate {
    /// The number of rows of a group, which is no column.
    pub fn rows() -> Aggregate {
        let function = Function::CountRows;
        Aggregate { name: String::new(), function, inputs: Vec::new(), data_type: DataType::Int64, nullable: false }
    }
}

/// Plans the computed column `name`; its arguments are added to `inputs`.
pub fn plan(name: &str, sql: &str, schema: &SchemaRef, inputs: &mut Inputs) -> Result<Aggregate, Diagnostic> {
    let call = parse_aggregate(sql).map_err(|e| e.diagnostic())?;
    let called = call.function.as_str();
    if !FUNCTIONS.contains(&called) {
        return Err(unknown(&call.function, sql));
    }
    if call.distinct && called != "count" {
        let help = match called {
            "min" | "max" => format!("duplicates make no difference to `{called}`: leave DISTINCT out"),
            _ => "only `count` supports DISTINCT".to_string(),
        };
        return Err(Diagnostic::error("distinct-not-supported", format!("`{called}` does not support DISTINCT")).help(help));
    }
    if called == "count" {
        return count(name, &call, sql, schema, inputs);
    }
    let wanted = if ["approx_percentile", "min_by", "max_by"].contains(&called) { 2 } else { 1 };
    let (Some(argument), true) = (call.args.first(), call.args.len() == wanted) else {
        return Err(arguments(called, &call.args));
    };
    let place = inputs.add(argument, schema).map_err(|d| moved(d, sql, argument))?;
    let (of, nullable) = inputs.column_type(place);
    let typed = if called == "approx_percentile" {
        let p = percentile(call.args.get(1).map_or("", String::as_str))?;
        (of.is_numeric() && is_kept(&of)).then_some((Function::Percentile { p }, DataType::Float64))
    } else {
        typed(called, &of)
    };
    let Some((function, data_type)) = typed else { return Err(wrong_type(called, argument, &of)) };
    if matches!(function, Function::MinBy | Function::MaxBy) {
        let order = call.args.get(1).map_or("", String::as_str);
        let by = inputs.add(order, schema).map_err(|d| moved(d, sql, order))?;
        let (of, absent) = inputs.column_type(by);
        if !is_kept(&of) {
            return Err(wrong_type(called, order, &of));
        }
        let inputs = vec![place, by];
        return Ok(Aggregate { name: name.to_string(), function, inputs, data_type, nullable: nullable || absent });
    }
    Ok(Aggregate { name: name.to_string(), function, inputs: vec![place], data_type, nullable })
}

fn count(name: &str, call: &AggregateCall, sql: &str, schema: &SchemaRef, inputs: &mut Inputs) -> Result<Aggregate, Diagnostic> {
    // `count(*)` has no arguments when taken apart; `count()` is refused there.
    let rows = call.args.is_empty();
    if (rows && call.distinct) || (!call.distinct && call.args.len() > 1) {
        return Err(arguments("count", &call.args));
    }
    let mut places = Vec::new();
    for argument in &call.args {
        let place = inputs.add(argument, schema).map_err(|d| moved(d, sql, argument))?;
        let (of, _) = inputs.column_type(place);
        if call.distinct && !is_kept(&of) {
            return Err(wrong_type("count(DISTINCT ..)", argument, &of));
        }
        places.push(place);
    }
    let function = match (rows, call.distinct) {
        (true, _) => Function::CountRows,
        (false, true) => Function::CountDistinct,
        (false, false) => Function::CountValues,
    };
    Ok(Aggregate { name: name.to_string(), function, inputs: places, data_type: DataType::Int64, nullable: false })
}

/// The function and the type of its result for an argument of `of`.
fn typed(called: &str, of: &DataType) -> Option<(Function, DataType)> {
    Some(match (called, of) {
        ("sum", t) if t.is_integer() => (Function::SumInt, DataType::Int64),
        ("sum", DataType::Decimal128(_, scale)) => (Function::SumDecimal, DataType::Decimal128(38, *scale)),
        ("sum", DataType::Float32 | DataType::Float64) => (Function::SumFloat, DataType::Float64),
        ("avg", t) if t.is_integer() => (Function::AvgInt, DataType::Float64),
        ("avg", DataType::Decimal128(precision, scale)) => {
            // Four more digits, as many as fit beside the largest value.
            let digits = 4.min(38u8.saturating_sub(*precision));
            let scale = scale.saturating_add(digits as i8);
            (Function::AvgDecimal { digits: digits.into() }, DataType::Decimal128(38, scale))
        }
        ("avg", DataType::Float32 | DataType::Float64) => (Function::AvgFloat, DataType::Float64),
        ("min", t) if is_kept(t) => (Function::Min, t.clone()),
        ("max", t) if is_kept(t) => (Function::Max, t.clone()),
        ("first", t) if is_kept(t) => (Function::First, t.clone()),
        ("last", t) if is_kept(t) => (Function::Last, t.clone()),
        ("min_by", t) if is_kept(t) => (Function::MinBy, t.clone()),
        ("max_by", t) if is_kept(t) => (Function::MaxBy, t.clone()),
        _ => return None,
    })
}

fn percentile(text: &str) -> Result<f64, Diagnostic> {
    text.trim().parse::<f64>().ok().filter(|p| (0.0..=1.0).contains(p)).ok_or_else(|| {
        Diagnostic::error("bad-percentile", format!("`{text}` is not a valid percentile"))
            .help("write a number from 0 to 1, such as approx_percentile(x, 0.99)")
    })
}

fn unknown(function: &str, sql: &str) -> Diagnostic {
    let known = format!("the aggregates are {}", names(FUNCTIONS));
    let elsewhere = ELSEWHERE.iter().find(|(name, _)| *name == function).map(|(_, ours)| *ours);
    let help = match elsewhere.or_else(|| closest(function, FUNCTIONS)) {
        Some(name) => format!("did you mean `{name}`? {known}"),
        None => known,
    };
    let diagnostic = Diagnostic::error("unknown-aggregate", format!("unknown aggregate `{function}`")).help(help);
    // The name was lower-cased, which leaves the length of ASCII names as it was.
    match sql.to_ascii_lowercase().find(function) {
        Some(start) => diagnostic.within(start..start + function.len()),
        None => diagnostic,
    }
}

fn arguments(called: &str, args: &[String]) -> Diagnostic {
    let usage = match called {
        "count" => "count(*), count(x) or count(DISTINCT x)".to_string(),
        "approx_percentile" => "approx_percentile(x, 0.99)".to_string(),
        "min_by" | "max_by" => format!("{called}(x, order)"),
        _ => format!("{called}(x)"),
    };
    let given = if args.is_empty() { "no argument".to_string() } else { format!("({})", args.join(", ")) };
    Diagnostic::error("wrong-arguments", format!("wrong arguments for `{called}`: {given}")).help(format!("write {usage}"))
}

fn wrong_type(called: &str, argument: &str, data_type: &DataType) -> Diagnostic {
    let help = match called {
        "sum" | "avg" | "approx_percentile" => "it takes integers, decimals and doubles",
        _ => "it takes numbers, texts, bytes, booleans, dates and timestamps",
    };
    Diagnostic::error("wrong-type", format!("`{called}` does not accept `{argument}`, which is {}", type_said(data_type))).help(help)
}

/// A finding about `argument`, seen from the whole aggregate it is written in.
pub(crate) fn moved(mut diagnostic: Diagnostic, sql: &str, argument: &str) -> Diagnostic {
    diagnostic.within = match (sql.find(argument), diagnostic.within) {
        (Some(at), Some(range)) => Some(at + range.start..at + range.end),
        (Some(at), None) => Some(at..at + argument.len()),
        // The argument is not in the text as it was rendered: a range into it would point elsewhere.
        (None, _) => None,
    };
    diagnostic
}
