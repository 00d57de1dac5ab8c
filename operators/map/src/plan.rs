//! Checks a `map` against its input and decides where each output column comes from.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use operator_core::batch::{is_system, reserved_name, with_system_fields, written_fields};
use operator_core::diagnostic::{did_you_mean, names};
use operator_core::{Diagnostic, KeyEffect, Mode, OutputPort, Path, PlanCx, Planned, type_said};
use operator_expr::{Expr, ExprError, NamedSql, parse_alias};

use crate::operator::{Mapping, Program, Source, Unnest};
use crate::spec::{Empty, Map};

/// An output column while planning.
struct Column {
    field: FieldRef,
    source: Planning,
    /// The path into the input whose values it carries unchanged.
    renames: Option<Path>,
}

enum Planning {
    /// A column of the unnested schema, by index.
    Column(usize),
    Computed(Expr),
}

pub(crate) fn plan(map: &Map, cx: &PlanCx<'_>) -> Result<Planned, Vec<Diagnostic>> {
    let input = &cx.input.schema;
    let mut found = Vec::new();
    shape(map, &mut found);
    let unnest = match unnest(map, input) {
        Ok(unnest) => unnest,
        Err(problem) => {
            // Without the element nothing else can be checked.
            found.push(problem);
            return Err(found);
        }
    };
    let schema = unnest.as_ref().map_or_else(|| input.clone(), |(_, _, schema)| schema.clone());
    let columns = columns(map, &schema, &mut found);
    if !found.is_empty() {
        return Err(found);
    }
    let alias = unnest.as_ref().map(|(_, alias, _)| alias.name().as_str());
    let fallible = fallible(map, unnest.as_ref(), &columns);
    let grows = unnest.is_some() || columns.iter().any(|column| matches!(&column.source, Planning::Computed(expr) if expr.grows()));
    let computed = columns.iter().filter_map(|column| match &column.source {
        Planning::Computed(expr) => Some(expr),
        Planning::Column(_) => None,
    });
    let reads: Vec<String> = computed.chain(unnest.iter().map(|(list, ..)| list)).flat_map(Expr::columns).cloned().collect();
    let key = key_effect(map, &columns, &schema, alias);
    let output = with_system_fields(columns.iter().map(|c| c.field.clone()), input);
    let keep_empty = map.unnest_empty == Empty::Keep;
    let program = program(unnest, keep_empty, columns, input, output.clone()).map_err(|e| vec![e.diagnostic()])?;
    let program = Arc::new(program);
    let mut output = OutputPort::main(output, key).of_mode(&cx.input.mode);
    if let (Mode::Changes { key, .. }, Some(_)) = (&mut output.mode, &map.unnest) {
        // Several rows have the key of the row that they were made of.
        key.clear();
    }
    let planned = Planned::stateless(output, move || Box::new(Mapping { program: program.clone() })).reads(&reads);
    let planned = Planned { fallible, grows, ..planned };
    Ok(match &map.unnest {
        Some(unnest) => {
            let empty = if map.unnest_empty == Empty::Keep { "kept with a null element" } else { "filtered" };
            planned.detail("unnest", unnest).detail("rows without elements", empty)
        }
        None => planned,
    })
}

/// The form of the configuration, whatever the input.
fn shape(map: &Map, found: &mut Vec<Diagnostic>) {
    if map.select.is_some() && (map.add.is_some() || !map.drop.is_empty()) {
        let other = if map.add.is_some() { "add" } else { "drop" };
        let problem = Diagnostic::error("conflicting-settings", format!("`select` and `{other}` exclude each other")).at([other]);
        found.push(problem.help("`select` names all columns of the output; `add` and `drop` start from those of the input"));
    }
    let nothing = map.select.is_none() && map.add.is_none() && map.drop.is_empty() && map.unnest.is_none();
    if nothing {
        let problem = Diagnostic::error("nothing-to-do", "this `map` has no effect");
        found.push(problem.help("set `select`, `add`, `drop` or `unnest`"));
    }
    for (name, given) in [("select", &map.select), ("add", &map.add)] {
        if given.as_ref().is_some_and(NamedSql::is_empty) {
            found.push(Diagnostic::error("nothing-to-do", format!("`{name}` has no columns")).at([name]));
        }
    }
    if map.unnest.is_none() && map.unnest_empty == Empty::Keep {
        let problem = Diagnostic::error("nothing-to-do", "`unnest_empty` has no effect without `unnest`").at(["unnest_empty"]);
        found.push(problem);
    }
    let added = map.select.iter().chain(&map.add).flat_map(NamedSql::iter);
    for (name, _) in added {
        let path = [if map.select.is_some() { "select" } else { "add" }, name];
        if name.is_empty() {
            found.push(Diagnostic::error("bad-name", "a column needs a name").at(path).key());
        } else if let Some(problem) = reserved_name(name) {
            found.push(problem.at(path).key().help(format!("call it `{}`", name.trim_start_matches('_'))));
        }
    }
}

/// The list, the column of its elements and the schema that has it.
type Unnested = (Expr, Field, SchemaRef);

fn unnest(map: &Map, input: &SchemaRef) -> Result<Option<Unnested>, Diagnostic> {
    let Some(text) = &map.unnest else { return Ok(None) };
    let at = |e: ExprError| e.diagnostic().at(["unnest"]);
    let (sql, alias) = parse_alias(text).map_err(at)?;
    let list = Expr::compile(&sql, input).map_err(at)?;
    let DataType::List(item) = list.data_type() else {
        let problem = Diagnostic::error("not-a-list", format!("`{sql}` is {}, not a list", type_said(list.data_type())));
        return Err(problem.at(["unnest"]).within(0..sql.len()));
    };
    if alias.starts_with('_') || input.field_with_name(&alias).is_ok() {
        let problem = Diagnostic::error("duplicate-column", format!("the input already has a column `{alias}`")).at(["unnest"]);
        return Err(problem.help("choose another name after AS"));
    }
    let nullable = item.is_nullable() || map.unnest_empty == Empty::Keep;
    let field = item.as_ref().clone().with_name(alias).with_nullable(nullable);
    let mut fields: Vec<FieldRef> = input.fields().iter().cloned().collect();
    // Last, so that the columns of the input keep their places.
    fields.push(Arc::new(field.clone()));
    Ok(Some((list, field, Arc::new(Schema::new(fields)))))
}

fn columns(map: &Map, schema: &SchemaRef, found: &mut Vec<Diagnostic>) -> Vec<Column> {
    if let Some(select) = &map.select {
        return select.iter().filter_map(|(name, sql)| computed(name, sql, "select", schema, found)).collect();
    }
    let mut dropped = Vec::new();
    for (place, text) in map.drop.iter().enumerate() {
        match Path::resolve_column(text, schema.fields()).filter(|field| !is_system(field.name())) {
            Some(field) => dropped.push(field.name()),
            None => {
                let known = || written_fields(schema).map(|f| f.name().as_str());
                let problem = Diagnostic::error("unknown-column", format!("there is no column `{text}`"));
                let help = did_you_mean(text, known()).unwrap_or_else(|| format!("the columns are {}", names(known())));
                found.push(problem.at(["drop", &place.to_string()]).help(help));
            }
        }
    }
    let kept = schema.fields().iter().enumerate().filter(|(_, f)| !is_system(f.name()) && !dropped.contains(&f.name()));
    let mut columns: Vec<Column> = kept
        .map(|(index, field)| Column { field: field.clone(), source: Planning::Column(index), renames: Some(Path::column(field.name())) })
        .collect();
    for (name, sql) in map.add.iter().flat_map(NamedSql::iter) {
        let Some(column) = computed(name, sql, "add", schema, found) else { continue };
        match columns.iter_mut().find(|c| c.field.name() == name) {
            Some(replaced) => *replaced = column,
            None => columns.push(column),
        }
    }
    if columns.is_empty() && found.is_empty() {
        found.push(Diagnostic::error("nothing-to-do", "the output has no column").at(["drop"]));
    }
    columns
}

fn computed(name: &str, sql: &str, setting: &str, schema: &SchemaRef, found: &mut Vec<Diagnostic>) -> Option<Column> {
    match Expr::compile(sql, schema) {
        Ok(expr) => {
            let field = match expr.as_column().and_then(|column| schema.field_with_name(column).ok()) {
                Some(field) => field.clone().with_name(name),
                None => Field::new(name, expr.data_type().clone(), expr.nullable()),
            };
            let renames = expr.as_path().cloned();
            Some(Column { field: Arc::new(field), source: Planning::Computed(expr), renames })
        }
        Err(error) => {
            found.push(error.diagnostic().at([setting, name]));
            None
        }
    }
}

/// What can fail, where it is written.
fn fallible(map: &Map, unnest: Option<&Unnested>, columns: &[Column]) -> Vec<Diagnostic> {
    let setting = if map.select.is_some() { "select" } else { "add" };
    let list = unnest.and_then(|(list, _, _)| list.fallible()).map(|found| found.at(["unnest"]));
    let computed = columns.iter().filter_map(|column| match &column.source {
        Planning::Computed(expr) => expr.fallible().map(|found| found.at([setting, column.field.name()])),
        Planning::Column(_) => None,
    });
    list.into_iter().chain(computed).collect()
}

fn key_effect(map: &Map, columns: &[Column], schema: &SchemaRef, alias: Option<&str>) -> KeyEffect {
    let replaces = map.add.iter().flat_map(NamedSql::iter).any(|(name, _)| schema.field_with_name(name).is_ok());
    if map.select.is_none() && map.drop.is_empty() && !replaces {
        return KeyEffect::Unchanged;
    }
    let mut renamed = Vec::new();
    for column in columns {
        let Some(path) = &column.renames else { continue };
        // The element is not a column of the input.
        if is_system(path.first()) || alias == Some(path.first()) {
            continue;
        }
        renamed.extend(path.moved(&Path::column(column.field.name()), column.field.data_type()));
    }
    KeyEffect::Renamed(renamed)
}

/// Sorts the output columns by where they are computed: once per input row, or once per element.
fn program(
    unnest: Option<Unnested>,
    keep_empty: bool,
    columns: Vec<Column>,
    input: &SchemaRef,
    output: SchemaRef,
) -> Result<Program, ExprError> {
    let alias = unnest.as_ref().map(|(_, field, _)| field.name().clone());
    let reads_element = |expr: &Expr| alias.as_ref().is_some_and(|alias| expr.columns().contains(alias));
    // The columns that expressions over elements read, in the order of the input.
    let mut outer: Vec<usize> = Vec::new();
    for column in &columns {
        if let Planning::Computed(expr) = &column.source
            && expr.as_column().is_none()
            && reads_element(expr)
        {
            outer.extend(expr.columns().iter().filter_map(|name| input.index_of(name).ok()));
        }
    }
    outer.sort_unstable();
    outer.dedup();
    let mut narrow: Vec<FieldRef> = outer.iter().filter_map(|i| input.fields().get(*i).cloned()).collect();
    narrow.extend(unnest.as_ref().map(|(_, field, _)| Arc::new(field.clone())));
    let narrow = Arc::new(Schema::new(narrow));
    let mut sources = Vec::with_capacity(columns.len());
    for Column { field, source, .. } in columns {
        let name = field.name().clone();
        sources.push(match source {
            Planning::Column(index) if index < input.fields().len() => Source::Kept(index),
            Planning::Column(_) => Source::Element,
            Planning::Computed(expr) => match expr.as_column() {
                Some(column) if Some(column) == alias.as_deref() => Source::Element,
                Some(column) => Source::Kept(input.index_of(column).map_err(|e| missing(&e.to_string()))?),
                None if reads_element(&expr) => Source::PerElement(name, expr.compile_again(&narrow)?),
                None => Source::PerRow(name, expr),
            },
        });
    }
    let system = input.fields().iter().enumerate().filter(|(_, f)| is_system(f.name())).map(|(i, _)| i).collect();
    let unnest = unnest.map(|(list, _, _)| Unnest { list, keep_empty, outer, narrow });
    Ok(Program { unnest, sources, system, output })
}

fn missing(what: &str) -> ExprError {
    ExprError { message: what.to_string(), within: None, help: None, code: "unknown-column" }
}
