//! Checks of a window against its input schema, and the operator's plan.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use operator_core::batch::{HEADERS, is_system, reserved_name, system_fields, time_type, written_fields};
use operator_core::diagnostic::names;
use operator_core::keys::is_groupable;
use operator_core::path::quoted;
use operator_core::{
    Diagnostic, Interval, KeyEffect, Millis, Mode, OutputPort, Path, PlanCx, Planned, StateLayout, changes, type_name, type_said,
};
use operator_expr::{canonical, key_column};

use crate::accumulator::{Accumulator, Function};
use crate::aggregate::{self, Aggregate};
use crate::bounds::{Shape, Windows};
use crate::calendar::Calendar;
use crate::inputs::Inputs;
use crate::operator::WindowOperator;
use crate::retraction;
use crate::sessions::SessionOperator;
use crate::shape;
use crate::spec::{Emit, Window};

/// More computed columns than this are not meant by anyone.
pub const MAX_COMPUTED: usize = 256;

const WINDOW_START: &str = "window_start";
const WINDOW_END: &str = "window_end";
const WINDOW_FINAL: &str = "window_final";

/// Columns that a result has beside those of the group and the computed ones.
fn is_taken(name: &str, window: &Window) -> bool {
    [WINDOW_START, WINDOW_END].contains(&name) || (name == WINDOW_FINAL && matches!(window.emit, Emit::Every(_)))
}

/// A window that passed its checks: everything the operator needs, shared by all its partitions.
#[derive(Debug)]
pub struct WindowPlan {
    pub windows: Windows,
    pub emit: Emit,
    /// How often results come before the close.
    pub every: Option<Millis>,
    /// After how long without a row a group is forgotten: unbounded windows only.
    pub expire: Option<Millis>,
    /// Results carry the headers of the record that changed them: `on_update` only, since a closed window has many.
    pub headers: bool,
    pub inputs: Inputs,
    /// Places of the group columns in `inputs`, and their types.
    pub group: Vec<usize>,
    pub group_types: Vec<DataType>,
    /// Where rows come and go, or results do, how many rows of a group are there is one more, after those that are columns.
    pub aggregates: Vec<Aggregate>,
    /// The place of that number.
    pub rows: Option<usize>,
    /// Places of the aggregates that may refuse a row.
    pub guarded: Vec<usize>,
    /// Inputs whose values are kept in a group's entry and have no fixed size: texts and bytes.
    pub wide: Vec<usize>,
    /// Places of the aggregates that keep their own values in state.
    pub distinct: Vec<usize>,
    /// Schema of the main output.
    pub schema: SchemaRef,
}

impl WindowPlan {
    /// The aggregates that are columns of the result.
    pub fn shown(&self) -> &[Aggregate] {
        self.aggregates.get(..self.rows.unwrap_or(self.aggregates.len())).unwrap_or_default()
    }

    /// How many rows of a group are there; `None` where rows are only added, so that a group has some.
    pub fn rows_of(&self, accumulators: &[Accumulator]) -> Option<i64> {
        match accumulators.get(self.rows?) {
            Some(Accumulator::Count(rows)) => Some(*rows),
            _ => None,
        }
    }
}

/// A group column while planning.
struct Group {
    place: usize,
    /// Of the input.
    path: Path,
    field: Arc<Field>,
}

/// Plans `window`; see [`operator_core::Spec::plan`].
pub fn plan(window: &Window, cx: &PlanCx<'_>) -> Result<Planned, Vec<Diagnostic>> {
    let mut problems = Vec::new();
    let mut inputs = Inputs::default();
    let schema = &cx.input.schema;
    let windows = shape::windows(window).map_err(|problem| problems.push(problem)).ok();
    let group = groups(window, schema, &mut inputs, &mut problems);
    let mut aggregates = computed(window, schema, &group, &mut inputs, &mut problems);
    retraction::check(window, &cx.input.mode, &aggregates, &mut problems);
    let (Some(windows), true) = (windows, problems.is_empty()) else { return Err(problems) };

    let bounds = [WINDOW_START, WINDOW_END].into_iter().filter(|_| !windows.is_unbounded());
    let bounds = bounds.map(|name| Arc::new(Field::new(name, time_type(), false)));
    let every = match window.emit {
        Emit::Every(span) => Some(span.millis()),
        Emit::OnClose | Emit::OnUpdate | Emit::Changes => None,
    };
    let last = every.map(|_| Arc::new(Field::new(WINDOW_FINAL, DataType::Boolean, false)));
    let headers = schema.field_with_name(HEADERS).ok().filter(|_| window.emit.is_by_row()).cloned();
    let change = (window.emit == Emit::Changes).then(changes::field);
    let results = aggregates.iter().map(|a| Arc::new(Field::new(&a.name, a.data_type.clone(), a.nullable)));
    let fields = group
        .iter()
        .map(|g| g.field.clone())
        .chain(bounds)
        .chain(last)
        .chain(results)
        .chain(system_fields().map(Arc::new))
        .chain(change.map(Arc::new))
        .chain(headers.clone().map(Arc::new));
    let output = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let comes_and_goes = cx.input.mode.is_changes() || window.emit == Emit::Changes;
    let rows = comes_and_goes.then_some(aggregates.len());
    aggregates.extend(rows.map(|_| Aggregate::rows()));
    let plan = Arc::new(WindowPlan {
        windows,
        emit: window.emit,
        every,
        expire: window.expire.and_then(|expire| expire.0).map(Interval::millis),
        headers: headers.is_some(),
        group: group.iter().map(|g| g.place).collect(),
        group_types: group.iter().map(|g| g.field.data_type().clone()).collect(),
        guarded: places(&aggregates, |a| a.function.can_refuse()),
        wide: wide(&aggregates, &inputs),
        distinct: places(&aggregates, |a| a.function == Function::CountDistinct),
        inputs,
        aggregates,
        rows,
        schema: output.clone(),
    });
    Ok(planned(window, cx, &group, plan))
}

fn planned(window: &Window, cx: &PlanCx<'_>, group: &[Group], plan: Arc<WindowPlan>) -> Planned {
    let by: Vec<String> = group.iter().map(|g| g.field.name().clone()).collect();
    let together: Vec<Path> = group.iter().map(|g| g.path.clone()).collect();
    let late = OutputPort::main(cx.input.schema.clone(), KeyEffect::Unchanged).of_mode(&cx.input.mode.repartitioned(&together));
    let late = OutputPort { name: "late".to_string(), lossy_if_unread: true, ..late };
    let mut warnings = Vec::new();
    if group.is_empty() {
        let warning = "without group columns all rows are in one partition, so one lane does all the work";
        warnings.push(Diagnostic::warning("single-partition", warning).at(["by"]).help("group by a column if possible"));
    }
    if plan.windows.is_unbounded() && !group.is_empty() && window.expire.is_none() && !cx.input.mode.is_changes() {
        let warning = "the state of every group is kept forever: memory and restore time grow with the number of groups ever seen";
        let help =
            "write `expire: 90d` to drop groups that had no row for that long, or `expire: never` if the number of groups is limited";
        warnings.push(Diagnostic::warning("endless-state", warning).at(["unbounded"]).help(help));
    }
    let details = details(window, &plan, &cx.input.mode);
    let fallible = fallible(window, &plan);
    let reads: Vec<String> = plan.inputs.columns().cloned().collect();
    let bounds = [WINDOW_START, WINDOW_END].into_iter().filter(|_| !plan.windows.is_unbounded());
    let key = by.iter().map(Path::column).chain(bounds.map(Path::column)).collect();
    // A result has the time of its window, or, of a window for all time, of the row that changed it.
    let row_time = !plan.windows.is_unbounded();
    let mode = if plan.emit == Emit::Changes { Mode::Changes { key, row_time } } else { Mode::Append };
    let closed = OutputPort::main(plan.schema.clone(), KeyEffect::Columns(by));
    let mut outputs = vec![OutputPort { timed: !plan.emit.is_by_row(), mode, ..closed }];
    outputs.extend((!plan.windows.is_unbounded()).then_some(late));
    let planned = Planned {
        outputs,
        needs_key: Some(vec![together]),
        state: Some(state_layout(group, &plan)),
        delay: plan.windows.lateness,
        reads: Vec::new(),
        tables: Vec::new(),
        details,
        warnings,
        fallible,
        grows: false,
        build: Arc::new(move || match plan.windows.shape {
            Shape::Session { gap } => Box::new(SessionOperator::new(plan.clone(), gap)),
            _ => Box::new(WindowOperator::new(plan.clone())),
        }),
    };
    planned.reads(&reads)
}

/// What decides how the entries in state are read ([`crate::layout`]): accumulators stand there by place, without names.
/// `lateness`, `emit` and `expire` don't: they are judged when a row or a watermark comes.
fn state_layout(group: &[Group], plan: &WindowPlan) -> StateLayout {
    let by: Vec<String> = group.iter().map(|g| format!("{} {}", g.path, type_name(g.field.data_type()))).collect();
    let layout = StateLayout::default().with("window", shape_said(plan.windows)).with("by", format!("[{}]", by.join(", ")));
    let layout = if plan.rows.is_some() { layout.with("rows", "are counted, because they come and go") } else { layout };
    plan.aggregates.iter().enumerate().fold(layout, |layout, (place, aggregate)| {
        let argument = |input: &usize| {
            let sql = plan.inputs.get(*input).map_or_else(String::new, |expr| canonical(expr.sql()));
            let (of, _) = plan.inputs.column_type(*input);
            // Values of a DISTINCT are their own keys, whose bytes are those of the type.
            let of = if aggregate.function == Function::CountDistinct { type_name(&of) } else { kept_as(&of) };
            format!("{sql} {of}")
        };
        let arguments: Vec<String> = aggregate.inputs.iter().map(argument).collect();
        layout.with(format!("compute {}", place + 1), aggregate.function.said(&arguments.join(", ")))
    })
}

/// How accumulators keep values of a type: a column may become wider without a change of state.
fn kept_as(data_type: &DataType) -> String {
    match data_type {
        t if t.is_integer() => "integer".to_string(),
        DataType::Decimal128(_, scale) => format!("decimal with {scale} digits after the point"),
        DataType::Float32 | DataType::Float64 => "double".to_string(),
        other => type_name(other),
    }
}

/// The shape of windows, in a few words.
fn shape_said(windows: Windows) -> String {
    match windows.shape {
        Shape::Fixed { size, every, offset } if size == every => format!("tumbling {}{}", Interval(size), shifted(offset)),
        Shape::Fixed { size, every, offset } => format!("hopping {} every {}{}", Interval(size), Interval(every), shifted(offset)),
        Shape::Calendar(Calendar { zone, period, offset }) => format!("tumbling {period} in {zone}{}", shifted(offset)),
        Shape::Session { gap } => format!("sessions with a gap of {}", Interval(gap)),
        Shape::Unbounded => "unbounded".to_string(),
    }
}

fn shifted(offset: Millis) -> String {
    if offset == 0 { String::new() } else { format!(", offset {}", Interval(offset)) }
}

fn places(aggregates: &[Aggregate], wanted: impl Fn(&Aggregate) -> bool) -> Vec<usize> {
    aggregates.iter().enumerate().filter(|(_, a)| wanted(a)).map(|(place, _)| place).collect()
}

fn wide(aggregates: &[Aggregate], inputs: &Inputs) -> Vec<usize> {
    use Function::*;
    let keeps = |a: &&Aggregate| matches!(a.function, Min | Max | First | Last | MinBy | MaxBy);
    let of_any_size = |input: &usize| matches!(inputs.column_type(*input).0, DataType::Utf8 | DataType::Binary);
    aggregates.iter().filter(keeps).flat_map(|a| a.inputs.iter().copied()).filter(of_any_size).collect()
}

fn groups(window: &Window, schema: &SchemaRef, inputs: &mut Inputs, problems: &mut Vec<Diagnostic>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (place, path) in window.by.iter().enumerate() {
        match group(window, path, schema, inputs, &groups) {
            Ok(group) => groups.push(group),
            Err(problem) => problems.push(problem.under(["by".to_string(), place.to_string()])),
        }
    }
    groups
}

fn group(window: &Window, text: &str, schema: &SchemaRef, inputs: &mut Inputs, before: &[Group]) -> Result<Group, Diagnostic> {
    let path = key_column(text, schema, "compute the value in a `map` step before the window and group by its name")?;
    let sql = path.names().map(quoted).collect::<Vec<_>>().join(".");
    let place = inputs.add(&sql, schema)?;
    let name = path.last();
    if is_system(name) {
        return Err(Diagnostic::error("reserved-name", format!("`{name}` is a column of the engine and differs from row to row"))
            .help(format!("group by columns of your own: {}", names(written_fields(schema).map(|f| f.name().as_str())))));
    }
    if is_taken(name, window) || before.iter().any(|g| g.field.name() == name) {
        return Err(taken(name, "rename the column in a `map` step before the window"));
    }
    let (data_type, nullable) = inputs.column_type(place);
    if !is_groupable(&data_type) {
        let message = format!("rows can't be grouped by `{text}`, which is {}", type_said(&data_type));
        return Err(Diagnostic::error("not-groupable", message).help("group by numbers, texts, bytes, booleans, dates or timestamps"));
    }
    let field = Arc::new(Field::new(name, data_type, nullable));
    Ok(Group { place, path, field })
}

fn taken(name: &str, help: &str) -> Diagnostic {
    Diagnostic::error("name-taken", format!("the result already has a column `{name}`")).help(help)
}

fn computed(window: &Window, schema: &SchemaRef, group: &[Group], inputs: &mut Inputs, problems: &mut Vec<Diagnostic>) -> Vec<Aggregate> {
    let entries = &window.compute.0;
    if entries.is_empty() {
        problems
            .push(Diagnostic::error("nothing-computed", "nothing is computed").at(["compute"]).help("count the rows: `rows: count(*)`"));
    }
    if entries.len() > MAX_COMPUTED {
        let message = format!("{} columns are computed; at most {MAX_COMPUTED} are allowed", entries.len());
        problems.push(Diagnostic::error("too-many-columns", message).at(["compute"]));
        return Vec::new();
    }
    let mut aggregates = Vec::with_capacity(entries.len());
    for (name, sql) in entries {
        let at = ["compute".to_string(), name.clone()];
        if name.trim().is_empty() {
            problems.push(Diagnostic::error("no-name", "a computed column needs a name").at(at.clone()).key());
        } else if let Some(problem) = reserved_name(name) {
            problems.push(problem.at(at.clone()).key().help("choose another name"));
        } else if is_taken(name, window) || group.iter().any(|g| g.field.name() == name) {
            problems.push(taken(name, "choose another name").at(at.clone()).key());
        }
        match aggregate::plan(name, sql, schema, inputs) {
            Ok(aggregate) => aggregates.push(aggregate),
            Err(problem) => problems.push(problem.under(at)),
        }
    }
    aggregates
}

/// Arguments that can fail, where they are written.
fn fallible(window: &Window, plan: &WindowPlan) -> Vec<Diagnostic> {
    let written = |name: &str| window.compute.0.iter().find(|(n, _)| n == name).map_or("", |(_, sql)| sql.as_str());
    let arguments = plan.aggregates.iter().flat_map(|a| a.inputs.iter().map(|place| (a.name.as_str(), *place)));
    let found = arguments.filter_map(|(name, place)| {
        let expr = plan.inputs.get(place)?;
        Some(aggregate::moved(expr.fallible()?, written(name), expr.sql()).at(["compute", name]))
    });
    found.collect()
}

fn details(window: &Window, plan: &WindowPlan, mode: &Mode) -> Vec<(String, String)> {
    let Windows { lateness, .. } = plan.windows;
    let shape = match (plan.windows.shape, plan.expire) {
        (Shape::Fixed { size, every, offset }, _) if size == every => format!("tumbling, {}{}", Interval(size), shifted(offset)),
        (Shape::Fixed { size, every, offset }, _) => {
            let overlapping = plan.windows.overlapping();
            format!("hopping, {} every {}{}: each row is in {overlapping} windows", Interval(size), Interval(every), shifted(offset))
        }
        (Shape::Calendar(Calendar { zone, period, offset }), _) => format!("tumbling, {period} in {zone}{}", shifted(offset)),
        (Shape::Session { gap }, _) => format!("sessions, which end after {} without a row", Interval(gap)),
        (Shape::Unbounded, Some(expire)) => format!("one, for all time; expires after {}", Interval(expire)),
        (Shape::Unbounded, None) => "one, for all time; never expires".to_string(),
    };
    let mut state = format!("about {} bytes", group_bytes(plan));
    if plan.windows.overlapping() > 1 {
        state.push_str(&format!(", in {} windows at a time", plan.windows.overlapping()));
    }
    for aggregate in plan.distinct.iter().filter_map(|place| plan.aggregates.get(*place)) {
        state.push_str(&format!("; one entry of about {} bytes for each distinct value of `{}`", key_bytes(plan) + 12, aggregate.name));
    }
    if plan.every.is_some() {
        state.push_str("; as much for rows that wait for the next result");
    }
    let expires = match (plan.windows.is_unbounded(), plan.expire) {
        (true, _) if mode.is_changes() => "when the rows of a group are all gone".to_string(),
        (true, None) => "never: one entry per group, kept forever".to_string(),
        (true, Some(expire)) => format!("{} (event time) after a group's newest row", Interval(expire)),
        (false, _) => format!("when the watermark is {} past the window's end", Interval(lateness)),
    };
    [
        ("windows", shape),
        ("lateness", Interval(lateness as Millis).to_string()),
        ("emit", window.emit.to_string()),
        ("state per group and window", state),
        ("state expires", expires),
    ]
    .map(|(name, value)| (name.to_string(), value))
    .to_vec()
}

/// Estimated bytes of a group's key: texts are taken to be 16 bytes long.
fn key_bytes(plan: &WindowPlan) -> usize {
    let width = |t: &DataType| {
        1 + t.primitive_width().unwrap_or(match t {
            DataType::Boolean => 1,
            _ => 20,
        })
    };
    9 + plan.group_types.iter().map(width).sum::<usize>()
}

/// Estimated bytes of a group's entry in state, key and value.
fn group_bytes(plan: &WindowPlan) -> usize {
    let width = |aggregate: &Aggregate| match aggregate.function {
        Function::CountRows | Function::CountValues | Function::CountDistinct => 3,
        Function::SumInt | Function::SumDecimal | Function::AvgInt | Function::AvgDecimal { .. } => 9,
        Function::SumFloat | Function::AvgFloat => 20,
        Function::Min | Function::Max => 2 + aggregate.data_type.primitive_width().unwrap_or(20),
        Function::First | Function::Last => 14 + aggregate.data_type.primitive_width().unwrap_or(20),
        Function::MinBy | Function::MaxBy => 24 + aggregate.data_type.primitive_width().unwrap_or(20),
        Function::Percentile { .. } => 800,
    };
    // The list of a group's sessions and the place of their end.
    let session = if matches!(plan.windows.shape, Shape::Session { .. }) { 2 * key_bytes(plan) + 20 } else { 0 };
    session + key_bytes(plan) + 3 + plan.aggregates.iter().map(width).sum::<usize>()
}
