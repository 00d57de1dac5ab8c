//! Checks of a `dedup` step against its input, and the operator's plan.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, SchemaRef};
use operator_core::batch::{OFFSET, WATERMARK, is_system, user_fields};
use operator_core::diagnostic::names;
use operator_core::keys::is_groupable;
use operator_core::stores::{Number, RowCodec, TimeQueue, TimedRows, not_storable};
use operator_core::{Diagnostic, Interval, KeyEffect, Millis, OutputPort, Path, PlanCx, Planned, StateLayout, type_name, type_said};
use operator_expr::key_column;

use crate::operator::Deduplicating;
use crate::spec::{Dedup, Emit, Keep};

/// Part of `within` after which what is over is removed together.
const PARTS: Millis = 4;

/// A `dedup` step that passed its checks, shared by its partitions.
#[derive(Debug)]
pub struct DedupPlan {
    pub schema: SchemaRef,
    pub by: Vec<Path>,
    pub within: Millis,
    pub lateness: Millis,
    pub keep: Keep,
    pub emit: Emit,
    /// Of the rows that wait.
    pub codec: RowCodec,
    /// Watermark up to which rows were decided.
    pub closed: Number,
    /// How many rows have come.
    pub arrivals: Number,
    /// Rows that wait, and ends of runs, by time.
    pub waiting: TimeQueue,
    /// One entry per run, at the time of its first row. `keep: last`: the row that is the last so far.
    pub runs: TimedRows,
}

/// The columns that a row keeps while it waits: all but those that it gets when it comes out.
pub fn is_kept(name: &str) -> bool {
    name != WATERMARK && name != OFFSET
}

/// Plans `dedup`; see [`operator_core::Spec::plan`].
pub fn plan(dedup: &Dedup, cx: &PlanCx<'_>) -> Result<Planned, Vec<Diagnostic>> {
    let schema = &cx.input.schema;
    let mut problems = Vec::new();
    let by = columns(dedup, schema, &mut problems);
    if dedup.within.millis() <= 0 {
        let found = Diagnostic::error("empty-window", "`within` must be longer than zero, or no row has a duplicate");
        problems.push(found.at(["within"]).help("write a length such as 24h"));
    }
    if dedup.keep == Keep::Last && dedup.emit == Emit::AtOnce {
        let found = Diagnostic::error("conflicting-settings", "with `emit: at_once` the last row is not known when a row comes");
        problems.push(found.at(["emit"]).help("remove `emit: at_once`, or write `keep: first`"));
    }
    let kept: Fields = schema.fields().iter().filter(|field| is_kept(field.name())).cloned().collect();
    if let Some(data_type) = not_storable(&kept).filter(|_| dedup.emit == Emit::OnWatermark) {
        let message = format!("rows wait in state, and a column is {}, which can't be kept there", type_said(data_type));
        problems.push(Diagnostic::error("unsupported", message).help("cast it to another type in a `map` step before this one"));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let key: Vec<DataType> = by.iter().filter_map(|path| Some(path.field(schema.fields())?.data_type().clone())).collect();
    let codec = RowCodec::new(kept);
    let of_runs = if dedup.keep == Keep::Last { codec.clone() } else { RowCodec::new(Vec::<Field>::new()) };
    let plan = DedupPlan {
        schema: schema.clone(),
        by,
        within: dedup.within.millis(),
        lateness: dedup.lateness.millis(),
        keep: dedup.keep,
        emit: dedup.emit,
        codec: codec.clone(),
        closed: Number::new(0),
        arrivals: Number::new(1),
        waiting: TimeQueue::new(2, key.clone(), codec),
        runs: TimedRows::new(3, key, of_runs, dedup.within.millis() / PARTS),
    };
    Ok(planned(dedup, cx, plan))
}

fn planned(dedup: &Dedup, cx: &PlanCx<'_>, plan: DedupPlan) -> Planned {
    let waits = dedup.emit == Emit::OnWatermark;
    // Rows with equal values in some of the columns share a partition: so do those that are equal in all of them.
    let together = cx.input.key.as_ref().is_some_and(|key| !key.is_empty() && key.iter().all(|path| plan.by.contains(path)));
    let port = |name: &str| OutputPort { name: name.to_string(), ..OutputPort::main(plan.schema.clone(), KeyEffect::Unchanged) };
    let outputs = vec![
        OutputPort { timed: waits, ..port("") },
        OutputPort { timed: waits, ..port("duplicates") },
        OutputPort { lossy_if_unread: true, ..port("late") },
    ];
    let delay = match (dedup.emit, dedup.keep) {
        (Emit::AtOnce, _) => 0,
        (Emit::OnWatermark, Keep::First) => plan.lateness,
        (Emit::OnWatermark, Keep::Last) => plan.lateness.saturating_add(plan.within),
    };
    let mut warnings = Vec::new();
    if !waits && !together {
        let message = "which of two equal rows from different partitions goes on depends on which one arrives first";
        let help = "say at the source that its key is part of `by`, or remove `emit: at_once` unless it does not matter which one goes on";
        warnings.push(Diagnostic::warning("depends-on-arrival", message).at(["emit"]).help(help));
    }
    let plan = Arc::new(plan);
    let reads: Vec<String> = plan.by.iter().map(|path| path.first().to_string()).collect();
    let planned = Planned {
        outputs,
        needs_key: Some(vec![plan.by.clone()]),
        state: Some(layout(&plan)),
        delay,
        reads: Vec::new(),
        tables: Vec::new(),
        details: details(dedup, &plan),
        warnings,
        fallible: Vec::new(),
        grows: false,
        build: Arc::new(move || Box::new(Deduplicating::new(plan.clone()))),
    };
    planned.reads(&reads)
}

/// The columns of `by`.
fn columns(dedup: &Dedup, schema: &SchemaRef, problems: &mut Vec<Diagnostic>) -> Vec<Path> {
    if dedup.by.columns.is_empty() {
        let found = Diagnostic::error("nothing-to-do", "`by` is empty: no column says which rows are the same");
        problems.push(found.at(["by"]).help("name the column that identifies an event, such as `by: eventId`"));
    }
    let mut paths = Vec::new();
    for (place, text) in dedup.by.columns.iter().enumerate() {
        match column(text, schema) {
            Ok(path) => paths.push(path),
            Err(found) if dedup.by.list => problems.push(found.under(["by".to_string(), place.to_string()])),
            Err(found) => problems.push(found.under(["by".to_string()])),
        }
    }
    paths
}

fn column(text: &str, schema: &SchemaRef) -> Result<Path, Diagnostic> {
    let path = key_column(text, schema, "compute the value in a `map` step before this one and write its name")?;
    if is_system(path.first()) {
        let columns = names(user_fields(schema).map(|f| f.name().as_str()));
        return Err(Diagnostic::error("reserved-name", format!("`{text}` is a column of the engine and differs from row to row"))
            .help(format!("use columns of your own: {columns}")));
    }
    match path.field(schema.fields()) {
        Some(field) if !is_groupable(field.data_type()) => {
            let message = format!("rows can't be compared by `{text}`, which is {}", type_said(field.data_type()));
            Err(Diagnostic::error("not-groupable", message).help("use numbers, texts, bytes, booleans, dates or timestamps"))
        }
        _ => Ok(path),
    }
}

/// What decides how the entries in state are read. `within` and `lateness` are judged when a row or a watermark comes.
fn layout(plan: &DedupPlan) -> StateLayout {
    let by = plan.by.iter().filter_map(|path| Some(format!("{path} {}", type_name(path.field(plan.schema.fields())?.data_type()))));
    let layout = StateLayout::default().with("by", format!("[{}]", by.collect::<Vec<_>>().join(", ")));
    let layout = layout.with("keep", plan.keep.to_string()).store("runs", &plan.runs.layout());
    match plan.emit {
        Emit::OnWatermark => layout.store("waiting", &plan.waiting.layout()),
        Emit::AtOnce => layout,
    }
}

fn details(dedup: &Dedup, plan: &DedupPlan) -> Vec<(String, String)> {
    let by: Vec<String> = plan.by.iter().map(ToString::to_string).collect();
    let emit = match (dedup.emit, dedup.keep) {
        (Emit::AtOnce, _) => "at once, in the order of arrival".to_string(),
        (Emit::OnWatermark, Keep::First) => "when the watermark has passed a row and `lateness`, in the order of event time".to_string(),
        (Emit::OnWatermark, Keep::Last) => format!("{} after the first row of a run, when the watermark has passed it", dedup.within),
    };
    let mut state = match dedup.keep {
        Keep::First => "one entry per key".to_string(),
        Keep::Last => "one row per key".to_string(),
    };
    state.push_str(&format!(" for {} to {} after it", dedup.within, Interval(dedup.within.millis() + dedup.within.millis() / 2)));
    if dedup.emit == Emit::OnWatermark {
        state.push_str("; and every row until it comes out");
    }
    [
        ("by", by.join(", ")),
        ("within", dedup.within.to_string()),
        ("keep", dedup.keep.to_string()),
        ("emit", emit),
        ("lateness", dedup.lateness.to_string()),
        ("state", state),
    ]
    .map(|(name, value)| (name.to_string(), value))
    .to_vec()
}
