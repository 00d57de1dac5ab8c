//! Checks a `join` against its inputs and lays out its results and its state.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use operator_core::batch::{TIME, is_system, is_written, reserved_name, system_fields, time_type, written_fields};
use operator_core::keys::is_groupable;
use operator_core::stores::{RowCodec, TimeQueue, TimedRows, not_storable};
use operator_core::{
    Diagnostic, Input, InputInfo, Interval, KeyEffect, Millis, OutputPort, Path, PlanCx, Planned, StateLayout, type_name, type_said,
};
use operator_expr::{Expr, NamedSql};

use crate::operator::JoinOperator;
use crate::spec::{Columns, Join, Kind, On, Within};
use crate::tables::plan as tables;

/// Names of the two sides, which are also the inputs and what expressions call them.
pub const SIDES: [&str; 2] = ["left", "right"];

/// One side of a join.
#[derive(Clone, Debug)]
pub struct Side {
    /// The input's columns.
    pub schema: SchemaRef,
    /// Places of the user's columns among them.
    pub user: Vec<usize>,
    pub key: Vec<Path>,
    pub key_types: Vec<DataType>,
    /// How long before and after a row of this side its matches may be.
    pub before: Millis,
    pub after: Millis,
    /// Rows that match nothing come out.
    pub outer: bool,
    /// The user's columns as they are kept in state.
    pub codec: RowCodec,
}

/// A checked join.
#[derive(Debug)]
pub struct JoinPlan {
    pub sides: [Side; 2],
    pub lateness: Millis,
    /// How far results trail the watermark.
    pub delay: Millis,
    /// All columns of both sides, any of which can be null: of late rows and of results that can't be computed.
    pub all: SchemaRef,
    /// The columns of the results.
    pub output: SchemaRef,
    /// `None`: the results have all columns.
    pub select: Option<Select>,
}

/// The columns that are computed.
#[derive(Debug)]
pub struct Select {
    /// One record for each side.
    pub input: SchemaRef,
    pub columns: Vec<(String, Expr)>,
}

impl JoinPlan {
    /// The rows of each side in state.
    pub fn rows(&self) -> [TimedRows; 2] {
        [0, 1].map(|place: u8| {
            let side = &self.sides[usize::from(place)];
            let span = side.before.saturating_add(side.after);
            TimedRows::new(1 + place, side.key_types.clone(), side.codec.clone(), span)
        })
    }

    /// The rows of each side that have matched nothing yet, where those come out.
    pub fn unmatched(&self) -> [TimeQueue; 2] {
        [0, 1].map(|place: u8| {
            let key = self.sides[usize::from(place)].key_types.clone();
            TimeQueue::new(3 + place, key, RowCodec::new(Fields::empty()))
        })
    }
}

pub fn plan(join: &Join, cx: &PlanCx<'_>) -> Result<Planned, Vec<Diagnostic>> {
    let [right] = cx.others else { return Err(vec![Diagnostic::error("from", "a join has two inputs, `left` and `right`")]) };
    let inputs = [cx.input, right];
    let mut problems = Vec::new();
    let are_tables = tables::are_tables(join, inputs).map_err(|problem| vec![problem])?;
    let ids = if are_tables { tables::ids(inputs, &mut problems) } else { None };
    let sides = sides(join, inputs, &mut problems);
    let named = all_columns(inputs);
    let late = named.iter().map(|(name, _, field)| Arc::new(field.as_ref().clone().with_name(name).with_nullable(true)));
    let all = with_system(late.collect());
    let twice = named.iter().enumerate().find(|(n, (name, ..))| named.iter().take(*n).any(|(other, ..)| other == name));
    if let Some((_, (name, ..))) = twice {
        let problem = Diagnostic::error("name-taken", format!("both inputs would have a column `{name}`"));
        problems.push(problem.help("rename the column in a `map` step before the join"));
    }
    let outer = join.kind.outer();
    let (select, output) = match &join.select {
        Some(columns) => selected(columns, inputs, outer, &mut problems),
        None => (None, kept(&named, outer)),
    };
    let Some(sides) = sides.filter(|_| problems.is_empty()) else { return Err(problems) };
    let held = sides.iter().filter(|side| side.outer).map(|side| side.after).max().unwrap_or(0);
    let lateness = join.lateness.millis();
    let delay = lateness.saturating_add(held);
    let effect = key_effect(join, &sides, &named, select.as_ref());
    let plan = JoinPlan { sides, lateness, delay, all, output: with_system(output), select };
    let Some([(left, left_types), (right, right_types)]) = ids else { return Ok(planned(join, Arc::new(plan), effect)) };
    let plan = JoinPlan { all: tables::changing(&plan.all), output: tables::changing(&plan.output), ..plan };
    let main = OutputPort { key_of: effect.1, ..OutputPort::main(plan.output.clone(), effect.0) };
    let plan = tables::TablePlan { join: plan, ids: [left, right], id_types: [left_types, right_types] };
    Ok(tables::planned(join, plan, &named, main))
}

fn planned(join: &Join, plan: Arc<JoinPlan>, (key, key_of): (KeyEffect, Input)) -> Planned {
    let main = OutputPort { key_of, timed: true, ..OutputPort::main(plan.output.clone(), key) };
    let late = OutputPort {
        name: "late".to_string(),
        lossy_if_unread: true,
        ..OutputPort::main(plan.all.clone(), KeyEffect::Renamed(Vec::new()))
    };
    let fallible = plan.select.iter().flat_map(|select| &select.columns);
    let fallible = fallible.filter_map(|(name, expr)| Some(expr.fallible()?.at(["select", name]))).collect();
    let [left, right] = plan.rows();
    let mut state = StateLayout::default().store("left", &left.layout()).store("right", &right.layout());
    for ((side, name), queue) in plan.sides.iter().zip(SIDES).zip(plan.unmatched()) {
        if side.outer {
            state = state.store(&format!("unmatched {name}"), &queue.layout());
        }
    }
    let reads: Vec<String> = plan.sides.iter().flat_map(|side| &side.key).map(|path| path.first().to_string()).collect();
    let planned = Planned {
        outputs: vec![main, late],
        needs_key: Some(plan.sides.iter().map(|side| side.key.clone()).collect()),
        state: Some(state),
        delay: plan.delay,
        reads: Vec::new(),
        tables: Vec::new(),
        details: details(join, &plan),
        warnings: Vec::new(),
        fallible,
        // A row can match any number of rows.
        grows: true,
        build: Arc::new(move || Box::new(JoinOperator::new(plan.clone()))),
    };
    planned.reads(&reads)
}

/// The columns of the key, of each side.
fn keys(on: &On) -> [(&Columns, Vec<String>); 2] {
    match on {
        On::Same(columns) => [0, 1].map(|_| (columns, vec!["on".to_string()])),
        On::Each(each) => {
            let at = |side: &str| vec!["on".to_string(), side.to_string()];
            [(&each.left, at(SIDES[0])), (&each.right, at(SIDES[1]))]
        }
    }
}

fn sides(join: &Join, inputs: [&InputInfo; 2], problems: &mut Vec<Diagnostic>) -> Option<[Side; 2]> {
    let before = problems.len();
    let [(left, _), (right, _)] = keys(&join.on);
    if left.0.len() != right.0.len() || left.0.is_empty() {
        let message = match left.0.len() == right.0.len() {
            true => "`on` names no column".to_string(),
            false => format!("`on` names {} columns of `left` and {} of `right`", left.0.len(), right.0.len()),
        };
        let problem = Diagnostic::error("join-columns", message).at(["on"]);
        problems.push(problem.help("write as many columns for each side, such as `{ left: order_id, right: data.orderId }`"));
    }
    let (within, outer) = (join.within.unwrap_or_default(), join.kind.outer());
    // Seen from the other side, before and after change places.
    let reach = [(within.before, within.after), (within.after, within.before)];
    let mut sides = Vec::new();
    for (place, (input, (columns, at))) in inputs.into_iter().zip(keys(&join.on)).enumerate() {
        let name = SIDES[place];
        let (mut key, mut key_types) = (Vec::new(), Vec::new());
        for (n, text) in columns.0.iter().enumerate() {
            match key_column(text, name, &input.schema) {
                Ok((path, data_type)) => {
                    key.push(path);
                    key_types.push(data_type);
                }
                Err(problem) if columns.0.len() == 1 => problems.push(problem.at(at.clone())),
                Err(problem) => problems.push(problem.at([n.to_string()]).under(at.clone())),
            }
        }
        let written = |i: &usize| is_written(input.schema.field(*i).name());
        let user: Vec<usize> = (0..input.schema.fields().len()).filter(written).collect();
        let fields: Fields = written_fields(&input.schema).cloned().collect();
        if let Some(data_type) = not_storable(&fields) {
            let message = format!("`{name}` has a column of type {}, which can't be kept in state", type_name(data_type));
            problems.push(
                Diagnostic::error("unsupported", message).help("leave the column out, or change its type, in a `map` step before the join"),
            );
        }
        let (before, after) = reach[place];
        let (before, after) = (before.millis(), after.millis());
        let (schema, codec) = (input.schema.clone(), RowCodec::new(fields));
        sides.push(Side { schema, user, key, key_types, before, after, outer: outer[place], codec });
    }
    let [left, right] = <[Side; 2]>::try_from(sides).ok()?;
    if problems.len() > before {
        return None;
    }
    for (n, (a, b)) in left.key_types.iter().zip(&right.key_types).enumerate() {
        if a != b {
            let of = |side: &Side| side.key.get(n).map(Path::to_string).unwrap_or_default();
            let message = format!(
                "`left.{}` is {}, `right.{}` is {}: values are only compared within one type",
                of(&left),
                type_said(a),
                of(&right),
                type_said(b)
            );
            let problem = Diagnostic::error("key-type", message).at(["on"]);
            problems.push(problem.help("convert one of them with CAST in a `map` step before the join"));
        }
    }
    Some([left, right])
}

fn key_column(text: &str, side: &str, schema: &SchemaRef) -> Result<(Path, DataType), Diagnostic> {
    let path = Path::resolve(text, schema.fields()).map_err(|unknown| {
        let message = format!("{} in `{side}`", unknown.message);
        Diagnostic { message, ..unknown }
    })?;
    let data_type = path.field(schema.fields()).map_or(DataType::Null, |field| field.data_type().clone());
    if is_system(path.first()) {
        let problem = Diagnostic::error("reserved-name", format!("`{text}` is a column of the engine and differs from row to row"));
        return Err(problem.help("join on columns of your own"));
    }
    if !is_groupable(&data_type) {
        let message = format!("rows can't be joined on `{text}`, which is {}", type_said(&data_type));
        return Err(Diagnostic::error("not-groupable", message).help("join on numbers, texts, bytes, booleans, dates or timestamps"));
    }
    Ok((path, data_type))
}

/// A column of the result, without `select`: its name, its side and the field it is in that side.
pub type Named = (String, usize, FieldRef);

/// All columns of both sides. Those of one name are told apart by their side.
fn all_columns(inputs: [&InputInfo; 2]) -> Vec<Named> {
    let has = |side: usize, name: &str| written_fields(&inputs[side].schema).any(|field| field.name() == name);
    let of = |side: usize| {
        written_fields(&inputs[side].schema).map(move |field| {
            let name = match has(1 - side, field.name()) {
                true => format!("{}_{}", SIDES[side], field.name()),
                false => field.name().clone(),
            };
            (name, side, field.clone())
        })
    };
    of(0).chain(of(1)).collect()
}

/// Columns of a side can be null where the other side's rows come out without a match.
fn kept(named: &[Named], outer: [bool; 2]) -> Vec<FieldRef> {
    let field = |(name, side, field): &Named| {
        let nullable = field.is_nullable() || outer[1 - side];
        Arc::new(field.as_ref().clone().with_name(name).with_nullable(nullable))
    };
    named.iter().map(field).collect()
}

fn with_system(mut fields: Vec<FieldRef>) -> SchemaRef {
    fields.extend(system_fields().map(Arc::new));
    Arc::new(Schema::new(fields))
}

/// The record that a side is in expressions: its columns, and its event time.
pub fn record(schema: &Schema, name: &str, optional: bool) -> Field {
    let nullable = |field: &Field| field.clone().with_nullable(field.is_nullable() || optional);
    let mut fields: Vec<Field> = written_fields(schema).map(|field| nullable(field)).collect();
    fields.push(Field::new(TIME, time_type(), optional));
    Field::new(name, DataType::Struct(fields.into()), optional)
}

fn selected(
    columns: &NamedSql,
    inputs: [&InputInfo; 2],
    outer: [bool; 2],
    problems: &mut Vec<Diagnostic>,
) -> (Option<Select>, Vec<FieldRef>) {
    let records: Vec<Field> = [0, 1].map(|side| record(&inputs[side].schema, SIDES[side], outer[1 - side])).to_vec();
    let input: SchemaRef = Arc::new(Schema::new(records));
    if columns.is_empty() {
        problems.push(Diagnostic::error("nothing-to-do", "`select` has no columns").at(["select"]));
    }
    let (mut computed, mut fields) = (Vec::new(), Vec::new());
    for (name, sql) in columns.iter() {
        let at = ["select", name];
        if name.is_empty() {
            problems.push(Diagnostic::error("bad-name", "a column needs a name").at(at).key());
        } else if let Some(problem) = reserved_name(name) {
            problems.push(problem.at(at).key().help(format!("call it `{}`", name.trim_start_matches('_'))));
        }
        match Expr::compile(sql, &input) {
            Ok(expr) => {
                fields.push(Arc::new(Field::new(name, expr.data_type().clone(), expr.nullable())));
                computed.push((name.to_string(), expr));
            }
            Err(error) => problems.push(error.diagnostic().at(at)),
        }
    }
    (Some(Select { input, columns: computed }), fields)
}

/// What becomes of the partitioning: results are in the partition of their key, which is that of a side with no row missing.
fn key_effect(join: &Join, sides: &[Side; 2], named: &[Named], select: Option<&Select>) -> (KeyEffect, Input) {
    let of = match join.kind {
        Kind::Inner | Kind::Left => 0,
        Kind::Right => 1,
        // Rows of either side can be missing.
        Kind::Full => return (KeyEffect::Renamed(Vec::new()), Input::ONLY),
    };
    let mut renamed = renames(of, named, select);
    // Only the key is worth knowing.
    let key = sides.get(of).map(|side| side.key.as_slice()).unwrap_or_default();
    renamed.retain(|(old, _)| key.contains(old));
    (KeyEffect::Renamed(renamed), Input(of as u16))
}

/// Columns and fields of a side, and where they are in the result.
pub fn renames(side: usize, named: &[Named], select: Option<&Select>) -> Vec<(Path, Path)> {
    let mut renamed = Vec::new();
    match select {
        Some(select) => {
            for (name, expr) in &select.columns {
                let Some(path) = expr.as_path().filter(|path| path.first() == SIDES[side]) else { continue };
                let Some(old) = Path::from_names(path.names().skip(1).map(String::from)) else { continue };
                renamed.extend(old.moved(&Path::column(name), expr.data_type()));
            }
        }
        None => {
            for (name, _, field) in named.iter().filter(|(_, of, _)| *of == side) {
                renamed.extend(Path::column(field.name()).moved(&Path::column(name), field.data_type()));
            }
        }
    }
    renamed
}

fn details(join: &Join, plan: &JoinPlan) -> Vec<(String, String)> {
    let [left, right] = &plan.sides;
    let Within { before, after } = join.within.unwrap_or_default();
    let on: Vec<String> = left.key.iter().zip(&right.key).map(|(a, b)| format!("left.{a} = right.{b}")).collect();
    let within = match before == after {
        true => format!("{before} either way"),
        false => format!("right from {before} before to {after} after left"),
    };
    let kept = |side: &Side| Interval(side.after.saturating_add(plan.lateness)).to_string();
    let reach = Interval(left.before.saturating_add(left.after).saturating_mul(2));
    let unmatched = match join.kind {
        Kind::Inner => "filtered".to_string(),
        kind => format!("{kind}: come out when their time is over"),
    };
    [
        ("join", format!("{} on {}", join.kind, on.join(" and "))),
        ("within", within),
        ("lateness", join.lateness.to_string()),
        ("unmatched rows", unmatched),
        ("state", "an entry for each row of either side".to_string()),
        (
            "state expires",
            format!(
                "rows of left {} behind the watermark, rows of right {}, and up to {reach} later: they leave in groups",
                kept(left),
                kept(right)
            ),
        ),
    ]
    .map(|(name, value)| (name.to_string(), value))
    .to_vec()
}
