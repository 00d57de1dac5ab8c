//! The form of the configuration, and the planned step.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use operator_core::batch::{is_system, reserved_name, system_fields};
use operator_core::keys::is_groupable;
use operator_core::{Diagnostic, KeyEffect, Mode, OutputPort, Path, PlanCx, Planned, StateLayout, changes, type_name, type_said};
use operator_event::{CauseColumns, DATA};
use operator_expr::key_column;

use super::left_out::without_apply;
use super::{AggregatePlan, Found, Then, added};
use crate::spec::Aggregate;

/// The columns of the key.
pub fn key(aggregate: &Aggregate, input: &SchemaRef, found: &mut Found) -> Vec<Path> {
    if aggregate.key.columns.is_empty() {
        let wrong = Diagnostic::error("nothing-to-do", "`key` is empty: no column says which aggregate a command is for").at(["key"]);
        found.problems.push(wrong.help("name it, such as `key: data.order_id`"));
    }
    let mut paths = Vec::new();
    for (place, text) in aggregate.key.columns.iter().enumerate() {
        let mut at = vec!["key".to_string()];
        at.extend(aggregate.key.list.then(|| place.to_string()));
        match key_column(text, input, "compute the value in a `map` step before this one and write its name") {
            Ok(path) if is_system(path.first()) => {
                let wrong = Diagnostic::error("reserved-name", format!("`{text}` is a column of the engine and differs from row to row"));
                found.problems.push(wrong.at(at));
            }
            Ok(path) => match path.field(input.fields()) {
                Some(field) if !is_groupable(field.data_type()) => {
                    let message = format!("aggregates can't be kept by `{text}`, which is {}", type_said(field.data_type()));
                    let wrong = Diagnostic::error("not-groupable", message).at(at);
                    found.problems.push(wrong.help("use numbers, texts, bytes, booleans, dates or timestamps"));
                }
                _ => paths.push(path),
            },
            Err(wrong) => found.problems.push(wrong.under(at)),
        }
    }
    paths
}

/// The columns of the key as events have them: by their own names, and never null.
pub fn key_fields(key: &[Path], input: &SchemaRef, found: &mut Found) -> Fields {
    let mut fields: Vec<Arc<Field>> = Vec::new();
    for path in key {
        let Some(field) = path.field(input.fields()) else { continue };
        if fields.iter().any(|known| known.name() == path.last()) {
            let wrong =
                Diagnostic::error("name-taken", format!("two columns of the key are called `{}`, as columns of events", path.last()));
            found.problems.push(wrong.at(["key"]).help("give one of them another name in a `map` step before this one"));
        }
        fields.push(Arc::new(Field::new(path.last(), field.data_type().clone(), false)));
    }
    fields.into()
}

/// The column that names the command.
pub fn command(aggregate: &Aggregate, input: &SchemaRef, found: &mut Found) -> Option<Path> {
    let wrong = match Path::resolve(&aggregate.command, input.fields()) {
        Err(wrong) => wrong,
        Ok(path) => match path.field(input.fields()).map(|field| field.data_type()) {
            None | Some(DataType::Utf8) => return Some(path),
            Some(other) => {
                let message = format!("`{}` is {}, but the name of a command is a text", aggregate.command, type_said(other));
                Diagnostic::error("type-mismatch", message)
            }
        },
    };
    found.problems.push(wrong.at(["command"]).help("name the column that says what a row asks for: `command: type`"));
    None
}

/// The columns that say what a command is and belongs to.
pub fn cause(aggregate: &Aggregate, input: &SchemaRef, found: &mut Found) -> Option<CauseColumns> {
    if aggregate.remember.millis() <= 0 {
        let wrong = Diagnostic::error("empty-window", "`remember` must be longer than zero").at(["remember"]);
        found.problems.push(wrong.help("write a length such as 7d"));
    }
    let planned = CauseColumns::plan(aggregate.id.as_deref(), input);
    planned.map_err(|wrong| found.problems.push(wrong.at(["id"]))).ok()
}

/// The names that expressions know beside the columns of the input.
pub fn names(aggregate: &Aggregate, key: &Fields, input: &SchemaRef, found: &mut Found) {
    for name in aggregate.state.names().filter(|name| *name == VERSION || key.find(name).is_some()) {
        let wrong = Diagnostic::error("name-taken", format!("`{name}` is a column that the port `state` has by itself"));
        found.problems.push(wrong.at(["state", name]).key().help("choose another name"));
    }
    let mut taken: BTreeSet<&str> = aggregate.state.names().chain([DATA]).collect();
    let state = (!aggregate.state.is_empty()).then_some((STATE, vec!["state".to_string()]));
    let entries = aggregate.entries.names().map(|name| (name, vec!["entries".to_string(), name.to_string()]));
    for (name, place) in state.into_iter().chain(entries) {
        let wrong = match () {
            () if reserved_name(name).is_some() || name.is_empty() => {
                Diagnostic::error("reserved-name", format!("`{name}` can't be the name of a collection"))
            }
            () if input.field_with_name(name).is_ok() => {
                let message = format!("the input has a column `{name}`, too: expressions could not tell them apart");
                Diagnostic::error("name-taken", message)
            }
            () if !taken.insert(name) => Diagnostic::error("name-taken", format!("`{name}` is the name of something else, too")),
            () => continue,
        };
        found.problems.push(wrong.at(place).key().help("choose another name, or give the column another one in a `map` step"));
    }
}

/// The column of the port `state` that has the version.
const VERSION: &str = "version";
/// The name of the state in expressions.
pub const STATE: &str = "state";

/// The planned step.
pub fn planned(aggregate: &Aggregate, cx: &PlanCx<'_>, plan: AggregatePlan, found: Found) -> Planned {
    let timed = !plan.timers.is_empty();
    let moved = |to: &dyn Fn(&Field) -> Path| {
        KeyEffect::Renamed(plan.key.iter().zip(&plan.key_fields).map(|(path, field)| (path.clone(), to(field))).collect())
    };
    let in_data = || moved(&|field: &Field| Path::column(DATA).child(field.name()));
    let port = |name: &str, schema: &SchemaRef| OutputPort { name: name.into(), timed, ..OutputPort::main(schema.clone(), in_data()) };
    let by: Vec<Path> = plan.key_fields.iter().map(|field| Path::column(field.name())).collect();
    let state = OutputPort {
        mode: Mode::Changes { key: by, row_time: true },
        key: moved(&|field: &Field| Path::column(field.name())),
        ..port("state", &state_schema(&plan))
    };
    let outputs = vec![
        port("", plan.emitted.schema()),
        OutputPort { lossy_if_unread: true, ..port("rejected", plan.rejected.schema()) },
        OutputPort { lossy_if_unread: answers(&plan), ..port("replies", plan.replies.schema()) },
        port("violations", plan.rejected.schema()),
        state,
    ];
    let mut reads: Vec<String> = plan.key.iter().chain([&plan.command]).map(|path| path.first().to_string()).collect();
    reads.extend(plan.cause.reads().chain(found.reads));
    let (needs_key, layout) = (Some(vec![plan.key.clone()]), layout(&plan));
    let details = details(aggregate, &plan);
    let warnings = arrival(cx, &plan).into_iter().chain(without_apply(aggregate)).collect();
    let plan = Arc::new(plan);
    let planned = Planned {
        outputs,
        needs_key,
        state: Some(layout),
        delay: 0,
        reads: Vec::new(),
        tables: Vec::new(),
        details,
        warnings,
        fallible: found.fallible,
        grows: found.grows,
        build: Arc::new(move || Box::new(plan.operator())),
    };
    planned.reads(&reads)
}

/// A rule answers: somebody waits for that. What repeats led to is in the topic of the events already.
fn answers(plan: &AggregatePlan) -> bool {
    plan.commands.iter().flat_map(|command| &command.rules).any(|rule| matches!(rule.then, Then::Reply(_)))
}

/// The columns of the port `state`.
pub fn state_schema(plan: &AggregatePlan) -> SchemaRef {
    let version = Arc::new(Field::new(VERSION, DataType::Int64, false));
    let user = plan.key_fields.iter().cloned().chain([version]).chain(plan.state.record.iter().cloned());
    let system = system_fields().into_iter().chain([changes::field()]).map(Arc::new);
    Arc::new(Schema::new(user.chain(system).collect::<Vec<_>>()))
}

/// Commands of one aggregate should be in one partition from the beginning: otherwise their order is that of arrival.
fn arrival(cx: &PlanCx<'_>, plan: &AggregatePlan) -> Option<Diagnostic> {
    let together = cx.input.key.as_ref().is_some_and(|key| !key.is_empty() && key.iter().all(|path| plan.key.contains(path)));
    (!together).then(|| {
        let keys: Vec<String> = plan.key.iter().map(ToString::to_string).collect();
        let message =
            "which of two commands of one aggregate from different partitions is decided first depends on which one arrives first";
        let help = format!("write commands with the key of the aggregate, and say so at the source: `key: {}`", keys.join(", "));
        Diagnostic::warning("depends-on-arrival", message).at(["key"]).help(help)
    })
}

/// What decides how the entries in state are read.
fn layout(plan: &AggregatePlan) -> StateLayout {
    let key = plan.key_fields.iter().map(|field| format!("{} {}", field.name(), type_name(field.data_type())));
    let mut layout = StateLayout::default().with("key", format!("[{}]", key.collect::<Vec<_>>().join(", ")));
    layout = layout.growing_store("state", &plan.state.store.layout(), added(&plan.state.declared));
    for collection in &plan.collections {
        layout = layout.growing_store(&format!("entries {}", collection.name), &collection.store.layout(), added(&collection.columns));
    }
    if let Some(outcomes) = &plan.outcomes {
        layout = layout.store("commands", &outcomes.layout());
    }
    for timer in &plan.timers {
        layout = layout.with(format!("timer {}", timer.name), timer.at.value.expr().sql().to_string());
    }
    if plan.timers.is_empty() { layout } else { layout.timers() }
}

fn details(aggregate: &Aggregate, plan: &AggregatePlan) -> Vec<(String, String)> {
    let list = |names: Vec<String>| if names.is_empty() { "none".to_string() } else { names.join(", ") };
    let key: Vec<String> = plan.key.iter().map(ToString::to_string).collect();
    let commands = plan.commands.iter().map(|command| command.name.clone()).collect();
    let events = plan.emitted.types().iter().map(|event| event.name.clone()).collect();
    let mut state = "one row per key".to_string();
    plan.collections.iter().for_each(|collection| state.push_str(&format!(", one per entry of `{}`", collection.name)));
    let repeats = match plan.outcomes {
        Some(_) => {
            state.push_str(&format!(", one per command for {} or more", aggregate.remember));
            format!("by id, for {}", aggregate.remember)
        }
        None => "not recognised: the input has no id".to_string(),
    };
    [
        ("key", key.join(", ")),
        ("commands", list(commands)),
        ("events", list(events)),
        ("invariants", list(plan.invariants.iter().map(|invariant| invariant.name.clone()).collect())),
        ("timers", list(plan.timers.iter().map(|timer| format!("{} (wall clock)", timer.name)).collect())),
        ("repeated commands", repeats),
        ("state", state),
    ]
    .map(|(name, value)| (name.to_string(), value))
    .to_vec()
}
