//! Checks a `saga` against its inputs and lays out its outputs and its state.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use operator_core::batch::{reserved_name, system_fields, time_type};
use operator_core::stores::{KeyedRows, RowCodec, not_storable};
use operator_core::{
    Diagnostic, Input, InputInfo, Interval, KeyEffect, Mode, OutputPort, Path, PlanCx, Planned, StateLayout, changes, parse_type,
    type_name, type_said,
};
use operator_event::{CORRELATION_ID, CauseColumns, Conflict, Events, Ids, METADATA, Uuid};
use operator_expr::{Expr, key_column};

use crate::answers::AnswerProgram;
use crate::codec;
use crate::definition::Definition;
use crate::operator::SagaOperator;
use crate::program::{ATTEMPT, CAUSE, ID, LINE, Program, Scope};
use crate::spec::{INPUTS, Saga};

/// A checked saga.
#[derive(Debug)]
pub struct SagaPlan {
    /// By input.
    pub inputs: [InputPlan; 3],
    pub keep: Vec<(String, Expr)>,
    pub scope: Scope,
    pub program: Arc<Program>,
    pub ids: Ids,
    pub commands: Events,
    pub ended: Events,
    pub states: SchemaRef,
    pub stuck: SchemaRef,
    pub ignored: SchemaRef,
}

/// What the step reads of an input.
#[derive(Debug)]
pub struct InputPlan {
    pub schema: SchemaRef,
    pub id: Path,
    /// What says which event a row is; not of starting rows.
    pub event_type: Option<Path>,
    /// The command that an answer is to.
    pub causation: Option<Path>,
    /// Who repairs, and why.
    pub user: Option<Path>,
    pub reason: Option<Path>,
    /// The step that a repair is about.
    pub step: Option<Path>,
    pub causes: CauseColumns,
}

/// Stores, by the byte that their entries begin with.
pub const DEFINITIONS: u8 = 1;
pub const INSTANCES: u8 = 2;
pub const KEPT: u8 = 3;
pub const ANSWERS: u8 = 4;

impl SagaPlan {
    /// Definitions by version, sagas by id, what is kept of their starting rows, and of the answers to their steps by step and line. The
    /// columns of the last are in the definitions.
    pub fn stores(kept: &Fields) -> [KeyedRows; 4] {
        let (text, own) = (|| vec![DataType::Utf8], || RowCodec::new(Fields::empty()));
        [
            KeyedRows::new(DEFINITIONS, Vec::new(), text(), own()),
            KeyedRows::new(INSTANCES, text(), Vec::new(), own()),
            KeyedRows::new(KEPT, text(), Vec::new(), RowCodec::new(kept.clone())),
            KeyedRows::new(ANSWERS, text(), vec![DataType::Utf8, DataType::Utf8], own()),
        ]
    }
}

/// The version of a definition: a hash of its text.
pub fn version(definition: &Definition) -> Result<(String, String), String> {
    let text = serde_json::to_string(definition).map_err(|e| e.to_string())?;
    let id: Uuid = Ids::new("saga").of(&text, &[]);
    let version: String = id.simple().to_string().chars().take(8).collect();
    Ok((version, text))
}

pub fn plan(saga: &Saga, cx: &PlanCx<'_>) -> Result<Planned, Vec<Diagnostic>> {
    let [replies, repairs] = cx.others else { return Err(vec![Diagnostic::error("from", "a saga has three inputs")]) };
    let (mut definition, mut found) = saga.definition();
    answer_types(&mut definition, &replies.schema, &mut found);
    let inputs = [cx.input, replies, repairs];
    let plans = inputs_of(saga, inputs, &definition, &mut found);
    let (keep, kept) = keep(saga, &cx.input.schema, &mut found);
    let scope = Scope { kept, replies: replies.schema.clone() };
    let version = version(&definition).map_err(|e| vec![Diagnostic::error("error", e)])?;
    let mut program = Program::compile(version.0, definition, &scope, &mut found);
    crate::invariant::check(saga, &program.definition, &mut found);
    let [commands, ended] = program.event_types();
    let commands = Events::new(cx.source, commands).map_err(|wrong| conflicts(&program, true, wrong, &mut found));
    let ended = Events::new(cx.source, ended).map_err(|wrong| conflicts(&program, false, wrong, &mut found));
    let (Some(inputs), Ok(commands), Ok(ended), true) = (plans, commands, ended, found.is_empty()) else { return Err(found) };
    program.bind(true, &commands, &ended);
    let [states, stuck, ignored] = own_ports();
    let (program, ids) = (Arc::new(program), Ids::new(cx.source));
    let plan = SagaPlan { inputs, keep, scope, program, ids, commands, ended, states, stuck, ignored };
    Ok(planned(saga, plan))
}

fn inputs_of(saga: &Saga, inputs: [&InputInfo; 3], definition: &Definition, found: &mut Vec<Diagnostic>) -> Option<[InputPlan; 3]> {
    let ids = [&saga.id.start, &saga.id.replies, &saga.id.repairs];
    let asked = definition.steps.iter().find(|step| step.unknown.as_ref().is_some_and(|question| !question.not_found.is_empty()));
    let mut plans = Vec::new();
    for (place, (input, id)) in inputs.into_iter().zip(ids).enumerate() {
        let name = INPUTS[place];
        let fields = input.schema.fields();
        let is_text = |path: &Path| path.field(fields).is_some_and(|field| *field.data_type() == DataType::Utf8);
        let text = |path: Path, at: &[&str], found: &mut Vec<Diagnostic>| match path.field(fields) {
            Some(field) if *field.data_type() != DataType::Utf8 => {
                let message = format!("`{path}` of the input `{name}` is {}, and must be a text", type_said(field.data_type()));
                found.push(Diagnostic::error("type-mismatch", message).at(at.to_vec()).help("cast it in a `map` step before this one"));
                None
            }
            _ => Some(path),
        };
        let named = |column: &str, at: &[&str], found: &mut Vec<Diagnostic>| match key_column(
            column,
            &input.schema,
            "compute the value in a `map` step before this one and write its name",
        ) {
            Ok(path) => text(path, at, found),
            Err(wrong) => {
                let message = format!("{} in the input `{name}`", wrong.message);
                found.push(Diagnostic { message, ..wrong }.at(at.to_vec()));
                None
            }
        };
        let id = named(id, &["id", name], found);
        let event_type = if place > 0 { named(&saga.reply, &["reply"], found).map(Some) } else { Some(None) };
        let usual = || Path::from_names([METADATA, "causationId"].map(String::from)).filter(is_text);
        let causation = match &saga.causation {
            Some(column) if place == 1 => named(column, &["causation"], found),
            _ if place == 1 => usual(),
            _ => None,
        };
        if let Some(step) = asked.filter(|_| place == 1 && causation.is_none() && saga.causation.is_none()) {
            let message = "`not_found` counts only as the answer to the last question, and answers have no `metadata.causationId`";
            let problem = Diagnostic::error("saga-causation", message).at(["steps", &step.name, "unknown", "not_found"]);
            found.push(problem.help("name the column with the id of the command that an answer is to: `causation: ..`"));
        }
        let audit = |column: &str| Path::from_names(["data", column].map(String::from)).filter(|path| place == 2 && is_text(path));
        let causes = CauseColumns::plan(None, &input.schema).map_err(|wrong| found.push(wrong)).ok();
        let (user, reason, step) = (audit("user"), audit("reason"), audit("step"));
        let schema = input.schema.clone();
        plans.extend(id.zip(event_type).zip(causes).map(|((id, event_type), causes)| InputPlan {
            schema,
            id,
            event_type,
            causation,
            user,
            reason,
            step,
            causes,
        }));
    }
    plans.try_into().ok()
}

/// What is kept of starting rows.
fn keep(saga: &Saga, schema: &SchemaRef, found: &mut Vec<Diagnostic>) -> (Vec<(String, Expr)>, Fields) {
    let mut keep = Vec::new();
    for (name, sql) in saga.keep.iter() {
        let at = ["keep", name];
        if let Some(problem) = reserved_name(name) {
            found.push(problem.at(at).key());
            continue;
        }
        if [ID, ATTEMPT, LINE, CAUSE].contains(&name) {
            let problem = Diagnostic::error("name-taken", format!("expressions over a saga have a column `{name}` by themselves"));
            found.push(problem.at(at).key().help("use another name"));
            continue;
        }
        match Expr::compile(sql, schema) {
            Ok(expr) => keep.push((name.to_string(), expr)),
            Err(error) => found.push(error.diagnostic().at(at)),
        }
    }
    let fields: Fields = keep.iter().map(|(name, expr)| Field::new(name, expr.data_type().clone(), expr.nullable())).collect();
    for field in &fields {
        if let Some(data_type) = not_storable(&Fields::from(vec![field.clone()])) {
            let message = format!("`{}` can't be kept in state: it is {}", field.name(), type_said(data_type));
            found.push(Diagnostic::error("type-mismatch", message).at(["keep", field.name()]).help("cast it to a type of pipeline files"));
        }
    }
    (keep, fields)
}

/// The types of what is kept of answers.
fn answer_types(definition: &mut Definition, replies: &SchemaRef, found: &mut Vec<Diagnostic>) {
    for step in &mut definition.steps {
        for column in &mut step.keep {
            let at = ["steps", &step.name, "keep", &column.name].map(String::from);
            // What is wrong is reported here alone, not wherever the column is read.
            column.data_type = type_name(&DataType::Utf8);
            match Expr::compile(&column.sql, replies) {
                Err(error) => found.push(error.diagnostic().at(at)),
                Ok(expr) if parse_type(&type_name(expr.data_type())).as_ref() == Ok(expr.data_type()) => {
                    column.data_type = type_name(expr.data_type());
                }
                Ok(expr) => {
                    let message = format!("`{}` can't be kept of an answer: it is {}", column.name, type_said(expr.data_type()));
                    found.push(Diagnostic::error("type-mismatch", message).at(at).help("keep its fields, one by one"));
                }
            }
        }
    }
}

/// Two commands, or the two ends, give a column different types.
fn conflicts(program: &Program, commands: bool, wrong: Vec<Conflict>, found: &mut Vec<Diagnostic>) {
    let keys = ["send", "unknown", "undo"];
    let paths: Vec<Vec<String>> = match commands {
        true => {
            let of = |step: usize| program.definition.steps.get(step).map_or("", |step| step.name.as_str());
            program
                .definition
                .commands()
                .map(|(step, call, _)| ["steps", of(step), keys[call as usize]].map(String::from).to_vec())
                .collect()
        }
        false => ["completed", "compensated"].map(|key| ["ends", key].map(String::from).to_vec()).to_vec(),
    };
    found.extend(wrong.into_iter().map(|conflict| {
        let path = paths.get(conflict.types[1]).cloned().unwrap_or_default();
        let problem = Diagnostic::error("type-mismatch", conflict.to_string()).at(["with", &conflict.column]).under(path);
        problem.help("the rows of a port have the columns of all its events: cast one of them, or use another name")
    }));
}

fn own_ports() -> [SchemaRef; 3] {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    let number = |name: &str| Field::new(name, DataType::Int32, false);
    let time = |name: &str| Field::new(name, time_type(), false);
    let schema = |own: Vec<Field>, changing: bool| {
        let system = system_fields().into_iter().chain(changing.then(changes::field));
        Arc::new(Schema::new(own.into_iter().chain(system).collect::<Vec<_>>()))
    };
    let states = vec![
        text(ID, false),
        text("status", false),
        text("step", true),
        number("attempts"),
        time("since"),
        text("definition", false),
        text(CAUSE, true),
    ];
    let stuck =
        vec![text(ID, false), text("step", false), text(LINE, true), number("attempts"), text("definition", false), text(CAUSE, false)];
    let ignored = vec![text(ID, true), text("input", false), text("event", true), text("reason", false)];
    [schema(states, true), schema(stuck, false), schema(ignored, false)]
}

fn planned(saga: &Saga, plan: SagaPlan) -> Planned {
    let keys = plan.inputs.each_ref().map(|input| vec![input.id.clone()]);
    let start = plan.inputs[0].id.clone();
    // The saga's id, under the name that it has in the port's rows.
    let port = |name: &str, schema: &SchemaRef, id: Path, lossy: bool| OutputPort {
        name: name.into(),
        key_of: Input(0),
        lossy_if_unread: lossy,
        timed: true,
        ..OutputPort::main(schema.clone(), KeyEffect::Renamed(vec![(start.clone(), id)]))
    };
    let correlation = || Path::column(METADATA).child(CORRELATION_ID);
    let by_id = || Path::column(ID);
    let states = OutputPort { mode: Mode::Changes { key: vec![by_id()], row_time: false }, ..port("state", &plan.states, by_id(), false) };
    let outputs = vec![
        port("commands", plan.commands.schema(), correlation(), true),
        port("ended", plan.ended.schema(), correlation(), true),
        states,
        port("stuck", &plan.stuck, by_id(), true),
        port("ignored", &plan.ignored, by_id(), false),
    ];
    // The columns of answers are those of a saga's own definition: there is nothing to compare.
    let [definitions, instances, kept, _] = SagaPlan::stores(&plan.scope.kept);
    let layout = StateLayout::default().with("saga", codec::VERSION.to_string()).store("definitions", &definitions.layout());
    let layout = layout.store("sagas", &instances.layout()).store("kept", &kept.layout()).timers();
    let keep = plan.keep.iter().filter_map(|(name, expr)| Some(expr.fallible()?.at(["keep", name])));
    let templates = plan.program.templates();
    let templates = templates.flat_map(|(path, template)| {
        template.fallible.iter().map(move |(name, found)| found.clone().at([name]).under(path.clone())).collect::<Vec<_>>()
    });
    let of_answers = plan.program.definition.steps.iter().zip(&plan.program.answers).flat_map(|(step, answers)| {
        let each = step.keep.iter().zip(answers.exprs());
        each.filter_map(|(column, expr)| Some(expr.fallible()?.at(["steps", &step.name, "keep", &column.name])))
    });
    let fallible: Vec<Diagnostic> = keep.chain(of_answers).chain(templates).collect();
    let mut reads: Vec<String> = plan.keep.iter().flat_map(|(_, expr)| expr.columns()).cloned().collect();
    for input in &plan.inputs {
        let audit = [&input.user, &input.reason, &input.step].map(Option::as_ref);
        let paths = [Some(&input.id), input.event_type.as_ref(), input.causation.as_ref()].into_iter().chain(audit);
        reads.extend(paths.flatten().map(|path| path.first().to_string()).chain(input.causes.reads()));
    }
    let answers = plan.program.lines.iter().flatten().flatten().map(|lines| &lines.answers_for);
    let answers = answers.chain(plan.program.answers.iter().flat_map(AnswerProgram::exprs));
    reads.extend(answers.flat_map(Expr::columns).cloned());
    let steps = plan.program.definition.steps.iter().map(|step| step.name.clone()).collect::<Vec<_>>().join(", ");
    let version = plan.program.version.clone();
    let main = outputs[0].clone();
    let plan = Arc::new(plan);
    let planned = Planned::stateless(main, move || Box::new(SagaOperator::new(plan.clone()))).reads(&reads);
    let planned = planned
        .detail("steps", steps)
        .detail("definition", version)
        .detail("state", format!("a saga from its starting row until {} after its end", Interval(saga.remember.millis())))
        .detail("timers", "wall clock: timeouts, pauses, and the end of what is remembered");
    Planned { outputs, needs_key: Some(keys.to_vec()), state: Some(layout), fallible, ..planned }
}
