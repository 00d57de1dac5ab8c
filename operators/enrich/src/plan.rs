//! Checks of joins against their rows and tables, and the operator's plan.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, SchemaRef};
use operator_core::batch::{is_system, reserved_name, user_fields, with_system_fields};
use operator_core::diagnostic::{did_you_mean, names};
use operator_core::stores::{RowCodec, not_storable};
use operator_core::table::is_record_key;
use operator_core::{
    Diagnostic, KeyEffect, OutputPort, Path, PlanCx, Planned, StateLayout, TableInfo, TableUse, row_key, type_name, type_said,
};
use operator_expr::Expr;

use crate::changes::{EnrichChanges, Kept};
use crate::operator::EnrichOperator;
use crate::spec::{AsOf, Enrich, Join, Missing};

/// A join that passed its checks.
#[derive(Debug)]
pub struct JoinPlan {
    pub table: String,
    /// For each column of the table's record key: the value to look up, and the type that it is cast to.
    pub on: Vec<(Expr, DataType)>,
    /// Places of the added columns in the table.
    pub columns: Vec<usize>,
    pub as_of: AsOf,
    pub missing: Missing,
    /// Rows after this join, before any are left out: added columns may be null.
    pub schema: SchemaRef,
}

/// All joins of a step.
#[derive(Debug)]
pub struct EnrichPlan {
    pub joins: Vec<JoinPlan>,
    /// Schema of the output.
    pub schema: SchemaRef,
}

/// Plans `enrich`.
pub fn plan(enrich: &Enrich, cx: &PlanCx<'_>) -> Result<Planned, Vec<Diagnostic>> {
    let mut problems = Vec::new();
    if enrich.joins.is_empty() {
        problems.push(
            Diagnostic::error("no-join", "the list of joins is empty")
                .help("write a join such as `{ table: products, on: product_id, add: [category] }`"),
        );
    }
    // `open`: what the next join reads. `output`: the same columns with the nullability that holds at the end.
    let (mut open, mut output) = (cx.input.schema.clone(), cx.input.schema.clone());
    let mut joins = Vec::new();
    let mut details = Vec::new();
    for (number, join) in enrich.joins.iter().enumerate() {
        let mut found = Vec::new();
        match plan_join(join, cx, &open, &mut found) {
            Some((planned, added)) if found.is_empty() => {
                open = planned.schema.clone();
                let user = user_fields(&output).cloned().chain(added);
                output = with_system_fields(user.collect::<Vec<_>>(), &output);
                details.push((format!("join {}", join.table), describe(join, cx)));
                joins.push(planned);
            }
            _ => {}
        }
        let prefix = if enrich.listed { vec![number.to_string()] } else { Vec::new() };
        problems.extend(found.into_iter().map(|problem| problem.under(prefix.clone())));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut used: BTreeMap<&str, bool> = BTreeMap::new();
    for join in &joins {
        *used.entry(&join.table).or_default() |= join.as_of == AsOf::EventTime;
    }
    let tables = used.into_iter().map(|(name, as_of_time)| TableUse { name: name.to_string(), as_of_time }).collect();
    let reads: Vec<String> = joins.iter().flat_map(|join| &join.on).flat_map(|(on, _)| on.columns()).cloned().collect();
    let mut fallible = Vec::new();
    for (number, (join, written)) in joins.iter().zip(&enrich.joins).enumerate() {
        let prefix = if enrich.listed { vec![number.to_string()] } else { Vec::new() };
        let of_join = join.on.iter().enumerate().filter_map(|(n, (on, _))| Some(on.fallible()?.at(written.on.place(n))));
        fallible.extend(of_join.map(|found| found.under(prefix.clone())));
    }
    let plan = Arc::new(EnrichPlan { joins, schema: output.clone() });
    let main = OutputPort::main(output, KeyEffect::Unchanged).of_mode(&cx.input.mode);
    let planned = if cx.input.mode.is_changes() {
        of_changes(cx, plan, main)?
    } else {
        Planned::stateless(main, move || Box::new(EnrichOperator::new(plan.clone())))
    };
    details.extend(planned.details.iter().cloned());
    Ok(Planned { tables, details, fallible, ..planned.reads(&reads) })
}

/// Of changes, rows are kept as they came out.
fn of_changes(cx: &PlanCx<'_>, plan: Arc<EnrichPlan>, main: OutputPort) -> Result<Planned, Vec<Diagnostic>> {
    let (id, types) = row_key("the input", cx.input).map_err(|problem| vec![problem])?;
    let codec = RowCodec::new(user_fields(&plan.schema).cloned().collect::<Vec<_>>());
    if let Some(data_type) = not_storable(codec.fields()) {
        let message = format!("the step keeps the rows of a stream of changes, and can't keep a column that is {}", type_said(data_type));
        return Err(vec![
            Diagnostic::error("unsupported", message)
                .help("leave the column out, or cast it to another type, in a `map` step before this one"),
        ]);
    }
    let kept = Kept::new(id, types, codec);
    let state = StateLayout::default().store("rows", &kept.rows.layout());
    let planned = Planned::stateless(main, move || Box::new(EnrichChanges::new(plan.clone(), kept.clone())));
    Ok(Planned { state: Some(state), ..planned.detail("state", "each row as it came out, until it is gone") })
}

fn describe(join: &Join, cx: &PlanCx<'_>) -> String {
    let key: Vec<&str> = cx.tables.get(&join.table).into_iter().flat_map(|info| &info.key).map(|field| field.name().as_str()).collect();
    let (key, on) = (key.join(", "), join.on.expressions().join(", "));
    let added = join.add.columns.iter().map(|(name, column)| match join.prefix.is_empty() && name == column {
        true => name.clone(),
        false => format!("{}{name} from {column}", join.prefix),
    });
    let added: Vec<String> = added.collect();
    let added = if added.is_empty() { "nothing".to_string() } else { added.join(", ") };
    format!("on {on} = {key}, adds {added}, as of {}, missing: {}", join.as_of, join.missing)
}

fn plan_join(join: &Join, cx: &PlanCx<'_>, input: &SchemaRef, problems: &mut Vec<Diagnostic>) -> Option<(JoinPlan, Vec<Arc<Field>>)> {
    let mut on = Vec::new();
    for (number, expression) in join.on.expressions().iter().enumerate() {
        match Expr::compile(expression, input) {
            Ok(compiled) => on.push(Some(compiled)),
            Err(error) => {
                problems.push(error.diagnostic().at(join.on.place(number)));
                on.push(None);
            }
        }
    }
    let Some(info) = cx.tables.get(&join.table) else {
        problems.push(unknown_table(&join.table, cx));
        return None;
    };
    if info.key.len() != on.len() {
        let key = names(info.key.iter().map(|field| field.name().as_str()));
        let message = format!("table `{}` has the key {key}: {} to look up", join.table, info.key.len());
        let found = Diagnostic::error("key-columns", format!("{message}, and `on` gives {}", on.len())).at(["on"]);
        problems.push(found.help(format!(
            "give a value for each, in this order: `on: [{}]`",
            info.key.iter().map(|f| f.name().as_str()).collect::<Vec<_>>().join(", ")
        )));
        return None;
    }
    let mut key = Vec::new();
    for (number, (field, on)) in info.key.iter().zip(on).enumerate() {
        match key_type(join, number, field, on.as_ref()) {
            Ok(of) => key.extend(on.map(|on| (on, of))),
            Err(problem) => problems.push(problem),
        }
    }
    let (columns, added) = added(join, info, input, problems);
    let open = added.iter().map(|field| Arc::new(field.as_ref().clone().with_nullable(true)));
    let schema = with_system_fields(user_fields(input).cloned().chain(open).collect::<Vec<_>>(), input);
    // What could not be compiled or cast is in `problems`.
    let plan = JoinPlan { table: join.table.clone(), on: key, columns, as_of: join.as_of, missing: join.missing, schema };
    Some((plan, added))
}

fn unknown_table(name: &str, cx: &PlanCx<'_>) -> Diagnostic {
    let known: Vec<&str> = cx.tables.keys().map(String::as_str).collect();
    let help = match (did_you_mean(name, known.iter().copied()), known.is_empty()) {
        (Some(meant), _) => meant,
        (None, true) => "the pipeline has no `tables:`".to_string(),
        (None, false) => format!("the tables are {}", names(known)),
    };
    Diagnostic::error("unknown-table", format!("there is no table `{name}`")).at(["table"]).help(help)
}

/// The type of a column of the table's key, if the value to look up can be brought to it without changing its meaning.
fn key_type(join: &Join, number: usize, key: &Field, on: Option<&Expr>) -> Result<DataType, Diagnostic> {
    let of = key.data_type();
    if !is_record_key(of) {
        let message = format!("table `{}` is keyed by `{}`, which is {}", join.table, key.name(), type_name(of));
        let found = Diagnostic::error("key-type", message).at(["table"]);
        return Err(found.help("a table's key is a text, a 32-bit or 64-bit integer, or bytes"));
    }
    let written = join.on.expressions().get(number).map_or("", String::as_str);
    let Some(on) = on else { return Ok(of.clone()) };
    let fits = match (on.data_type(), of) {
        (a, b) if a == b => true,
        (a, DataType::Utf8) => a.is_integer(),
        (a, DataType::Int32 | DataType::Int64) => a.is_integer(),
        (a, DataType::Binary) => *a == DataType::Utf8,
        _ => false,
    };
    if fits {
        return Ok(of.clone());
    }
    let message = format!("`{written}` is {}, but table `{}` is keyed by {}", type_name(on.data_type()), join.table, type_name(of));
    let sql = match of {
        // Not all bytes are text.
        DataType::Utf8 if *on.data_type() == DataType::Binary => "TRY_CAST({} AS VARCHAR)",
        DataType::Utf8 => "CAST({} AS VARCHAR)",
        DataType::Int32 => "TRY_CAST({} AS INT)",
        DataType::Int64 => "TRY_CAST({} AS BIGINT)",
        _ => return Err(Diagnostic::error("key-type", message).at(join.on.place(number)).help("the key to look up must be bytes or text")),
    };
    Err(Diagnostic::error("key-type", message).at(join.on.place(number)).help(format!("cast it: `{}`", sql.replace("{}", written))))
}

fn columns_of(info: &TableInfo) -> impl Iterator<Item = &str> {
    user_fields(&info.schema).map(|field| field.name().as_str())
}

/// Places in the table and output fields of the added columns.
fn added(join: &Join, info: &TableInfo, input: &SchemaRef, problems: &mut Vec<Diagnostic>) -> (Vec<usize>, Vec<Arc<Field>>) {
    let (mut places, mut fields): (Vec<usize>, Vec<Arc<Field>>) = Default::default();
    if join.add.columns.is_empty() && join.missing == Missing::Keep {
        let help = "list columns of the table in `add`, or write `missing: drop` to keep only rows that have a match";
        problems.push(
            Diagnostic::error("nothing-added", "this join has no effect: it adds no column and keeps rows without a match")
                .at(["add"])
                .help(help),
        );
    }
    for (number, (name, column)) in join.add.columns.iter().enumerate() {
        let at = ["add".to_string(), if join.add.named { name.clone() } else { number.to_string() }];
        // `products.category` is the `category` of `products`, unless that has a column of this very name.
        let own = column.strip_prefix(join.table.as_str()).and_then(|rest| rest.strip_prefix('.')).unwrap_or(column);
        let of_table = |text: &str| Path::resolve_column(text, info.schema.fields()).filter(|field| !is_system(field.name()));
        let found = of_table(column).or_else(|| of_table(own));
        let own = found.map_or(own, |field| field.name());
        let name = if join.add.named { name.as_str() } else { own };
        let name = format!("{}{name}", join.prefix);
        let (place, field) = match found.and_then(|field| info.schema.fields().find(field.name())) {
            Some(found) => found,
            None => {
                let known = || format!("its columns are {}", names(columns_of(info)));
                let help = did_you_mean(own, columns_of(info)).unwrap_or_else(known);
                problems
                    .push(Diagnostic::error("unknown-column", format!("table `{}` has no column `{own}`", join.table)).at(at).help(help));
                continue;
            }
        };
        let unnamed = || name.trim().is_empty().then(|| Diagnostic::error("reserved-name", "an added column needs a name"));
        if let Some(problem) = reserved_name(&name).or_else(unnamed) {
            problems.push(problem.at(at).help("choose another name"));
        } else if input.index_of(&name).is_ok() || fields.iter().any(|f| *f.name() == name) {
            let help = format!("give it another name: `add: {{ {}_{own}: {own} }}`, or set `prefix`", join.table);
            problems.push(Diagnostic::error("name-taken", format!("there is already a column `{name}`")).at(at).help(help));
        } else {
            places.push(place);
            let nullable = field.is_nullable() || join.missing == Missing::Keep;
            fields.push(Arc::new(field.as_ref().clone().with_name(name).with_nullable(nullable)));
        }
    }
    (places, fields)
}
