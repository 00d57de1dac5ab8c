//! A definition with its SQL compiled.
//!
//! That of the pipeline is compiled when it is planned, and refused if there is anything wrong with it. Those of sagas that began under an
//! earlier version are compiled when they are read from state; a command of theirs that this version can't express fails when it is to be
//! sent, with the reason as the saga's cause.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, ListArray, RecordBatch, RecordBatchOptions, StringArray, UInt32Array, new_null_array};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use operator_core::keys::is_groupable;
use operator_core::{Diagnostic, StateError, type_said};
use operator_event::{EventType, Events};
use operator_expr::Expr;

use crate::answers::AnswerProgram;
use crate::definition::{Call, Definition, Lines, Message, Step};
use crate::machine::Phase;

/// What expressions call the saga's id, the number of the attempt, the element of `each`, and why a saga was compensated.
pub const ID: &str = "id";
pub const ATTEMPT: &str = "attempt";
pub const LINE: &str = "line";
pub const CAUSE: &str = "cause";

/// A definition that can be carried out.
#[derive(Debug)]
pub struct Program {
    pub version: String,
    pub definition: Definition,
    pub lines: Vec<Option<Result<LineProgram, String>>>,
    /// What is kept of the answers to each step.
    pub answers: Vec<AnswerProgram>,
    /// The messages of each step, by [`Call`].
    calls: Vec<[Option<Sending>; 3]>,
    ends: [Sending; 2],
}

/// A message, or why it can't be sent.
pub type Sending = Result<Template, String>;

/// The lines of a step.
#[derive(Debug)]
pub struct LineProgram {
    /// The list: one column.
    pub each: Template,
    /// What tells lines apart: one column.
    pub by: Template,
    /// Over answers.
    pub answers_for: Expr,
}

/// Columns to be computed from some of the columns in scope.
#[derive(Clone, Debug)]
pub struct Template {
    pub fields: Fields,
    exprs: Vec<Expr>,
    narrow: SchemaRef,
    /// The type of event that it is for, and where each column of that is among `fields`; `None`: it is null.
    pub kind: usize,
    places: Vec<Option<usize>>,
    /// What in it can fail by the types alone.
    pub fallible: Vec<(String, Diagnostic)>,
}

/// Computed columns, and the rows that failed, each with its cause.
pub struct Computed {
    pub columns: Vec<ArrayRef>,
    pub failed: BTreeMap<usize, String>,
}

/// What a definition is compiled against.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The columns that are kept of a starting row.
    pub kept: Fields,
    pub replies: SchemaRef,
}

impl Scope {
    /// The columns of expressions over a saga, with `more`.
    pub fn with(&self, more: impl IntoIterator<Item = Field>) -> SchemaRef {
        let id = Arc::new(Field::new(ID, DataType::Utf8, false));
        let fields = std::iter::once(id).chain(self.kept.iter().cloned()).chain(more.into_iter().map(Arc::new));
        Arc::new(Schema::new(fields.collect::<Vec<FieldRef>>()))
    }
}

impl Template {
    /// # Errors
    /// What is wrong, with the name of each column.
    pub fn new<'a>(
        columns: impl IntoIterator<Item = (&'a str, &'a str)>,
        scope: &SchemaRef,
    ) -> Result<Template, Vec<(String, Diagnostic)>> {
        let (mut found, mut compiled) = (Vec::new(), Vec::new());
        for (name, sql) in columns {
            match Expr::compile(sql, scope) {
                Ok(expr) => compiled.push((name.to_string(), expr)),
                Err(error) => found.push((name.to_string(), error.diagnostic())),
            }
        }
        if !found.is_empty() {
            return Err(found);
        }
        let read = |field: &&FieldRef| compiled.iter().any(|(_, expr)| expr.columns().contains(field.name()));
        let narrow = Arc::new(Schema::new(scope.fields().iter().filter(read).cloned().collect::<Vec<_>>()));
        let fields = compiled.iter().map(|(name, expr)| Field::new(name, expr.data_type().clone(), expr.nullable())).collect();
        let fallible = compiled.iter().filter_map(|(name, expr)| Some((name.clone(), expr.fallible()?))).collect();
        let again = |(name, expr): &(String, Expr)| expr.compile_again(&narrow).map_err(|error| vec![(name.clone(), error.diagnostic())]);
        let exprs = compiled.iter().map(again).collect::<Result<Vec<_>, _>>()?;
        let places = (0..exprs.len()).map(Some).collect();
        Ok(Template { fields, exprs, narrow, kind: 0, places, fallible })
    }

    /// Computes the columns of `rows` rows, whose columns `column` gives.
    ///
    /// # Errors
    /// A column is missing: a bug.
    pub fn compute(&self, rows: usize, column: impl Fn(&str) -> Option<ArrayRef>) -> Result<Computed, StateError> {
        let columns = self.narrow.fields().iter().map(|field| column(field.name())).collect::<Option<Vec<_>>>();
        let columns = columns.ok_or_else(|| StateError::new("a column of a saga is missing: this is a bug"))?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(self.narrow.clone(), columns, &options);
        let batch = batch.map_err(|e| StateError::new(format!("the columns of sagas: {e}")))?;
        let mut computed = Computed { columns: Vec::with_capacity(self.exprs.len()), failed: BTreeMap::new() };
        for (expr, field) in self.exprs.iter().zip(&self.fields) {
            let evaluated = expr.evaluate(&batch);
            for (row, cause) in evaluated.failed {
                computed.failed.entry(row).or_insert_with(|| format!("{}: {cause}", field.name()));
            }
            computed.columns.push(evaluated.values);
        }
        Ok(computed)
    }

    /// The computed columns as those of its type of event.
    pub fn arranged(&self, columns: &[ArrayRef], events: &Events, rows: usize) -> Vec<ArrayRef> {
        let of = events.types().get(self.kind).map(|of| of.columns.iter()).into_iter().flatten();
        let column = |(field, place): (&FieldRef, &Option<usize>)| {
            place.and_then(|place| columns.get(place).cloned()).unwrap_or_else(|| new_null_array(field.data_type(), rows))
        };
        of.zip(&self.places).map(column).collect()
    }

    /// Finds the type of event that it is for: the `wanted`-th, or one of this name that has its columns.
    fn bind(&mut self, name: &str, wanted: Option<usize>, events: &Events) -> Result<(), String> {
        let fits = |of: &EventType| {
            let mine = |field: &FieldRef| {
                of.columns
                    .find(field.name())
                    .is_some_and(|(_, theirs)| theirs.data_type() == field.data_type() && (theirs.is_nullable() || !field.is_nullable()))
            };
            let theirs = |field: &FieldRef| field.is_nullable() || self.fields.find(field.name()).is_some();
            of.name == name && self.fields.iter().all(mine) && of.columns.iter().all(theirs)
        };
        let found = wanted.or_else(|| events.types().iter().position(fits));
        let of = found.and_then(|kind| Some((kind, events.types().get(kind)?)));
        let Some((kind, of)) = of else {
            return Err(format!("the pipeline has no `{name}` with the columns it had when this saga began"));
        };
        self.kind = kind;
        self.places = of.columns.iter().map(|field| self.fields.find(field.name()).map(|(place, _)| place)).collect();
        Ok(())
    }
}

/// Findings about a part of the definition, at a path below the step's configuration.
struct Findings<'f>(&'f mut Vec<Diagnostic>);

impl Findings<'_> {
    /// The message, or why it can't be sent; what is wrong is noted.
    /// `why`: why what a step keeps can't be read there, by the step's name.
    fn template(&mut self, path: &[&str], message: &Message, scope: &SchemaRef, why: impl Fn(&str) -> Option<String>) -> Sending {
        let columns = message.with.iter().map(|(name, sql)| (name.as_str(), sql.as_str()));
        Template::new(columns, scope).map_err(|found| {
            let first = found.first().map_or_else(String::new, |(name, found)| format!("{name}: {}", found.message));
            self.0.extend(found.into_iter().map(|(name, found)| {
                let unknown = found.message.strip_prefix("there is no column `").and_then(|rest| rest.split(['.', '`']).next());
                let why = unknown.filter(|_| found.code == "unknown-column").and_then(&why);
                let found = match why {
                    Some(why) => found.help(why),
                    None => found,
                };
                found.at([name]).under(["with"]).under(path.to_vec())
            }));
            first
        })
    }

    /// The lines of a step and their type, or what is wrong with them first.
    fn lines(&mut self, step: &str, lines: &Lines, scope: &Scope) -> Result<(LineProgram, FieldRef), String> {
        let before = self.0.len();
        let path = |key: &str| ["steps", step, key].map(String::from).to_vec();
        let each = Template::new([("each", lines.each.as_str())], &scope.with([]));
        let each = each.map_err(|found| self.0.extend(found.into_iter().map(|(_, found)| found.at(path("each"))))).ok();
        let item = each.as_ref().and_then(|each| match each.fields.first().map(|field| field.data_type()) {
            Some(DataType::List(item)) => Some(item.clone()),
            Some(other) => {
                let found = Diagnostic::error("not-a-list", format!("`each` must be a list, `{}` is {}", lines.each, type_said(other)));
                self.0.push(found.at(path("each")));
                None
            }
            None => None,
        });
        let by = item.as_ref().and_then(|item| {
            let line = item.as_ref().clone().with_name(LINE).with_nullable(true);
            let by = Template::new([("by", lines.by.as_str())], &scope.with([line]));
            by.map_err(|found| self.0.extend(found.into_iter().map(|(_, found)| found.at(path("by"))))).ok()
        });
        let answers_for = Expr::compile(&lines.answers_for, &scope.replies);
        let answers_for = answers_for.map_err(|error| self.0.push(error.diagnostic().at(path("answers_for")))).ok();
        let types = [
            ("by", by.as_ref().and_then(|by| by.fields.first()).map(|field| field.data_type())),
            ("answers_for", answers_for.as_ref().map(Expr::data_type)),
        ];
        if let [(_, Some(by)), (key, Some(of_answers))] = types
            && by != of_answers
            && ![by, of_answers].into_iter().all(|of| of.is_integer() || *of == DataType::Utf8)
        {
            let message = format!("lines are told apart by {}, and `answers_for` is {}", type_said(by), type_said(of_answers));
            let found = Diagnostic::error("saga-lines", message).at(path(key));
            self.0.push(found.help("cast one of them: they are compared as texts, and the same number is another text in another type"));
        }
        for (key, data_type) in types {
            if let Some(data_type) = data_type.filter(|data_type| !is_groupable(data_type)) {
                let message = format!("lines can't be told apart by {}", type_said(data_type));
                let found = Diagnostic::error("not-groupable", message).at(path(key));
                self.0.push(found.help("use a text or a number that no two lines of a saga have in common"));
            }
        }
        match (self.0.get(before), each, item, by, answers_for) {
            (None, Some(each), Some(item), Some(by), Some(answers_for)) => Ok((LineProgram { each, by, answers_for }, item)),
            (first, ..) => Err(first.map_or_else(String::new, |found| format!("its lines: {}", found.message))),
        }
    }
}

impl Program {
    /// Compiles a definition. What is wrong with it is added to `found`, at paths below the step's configuration.
    pub fn compile(version: String, definition: Definition, scope: &Scope, found: &mut Vec<Diagnostic>) -> Program {
        let mut findings = Findings(found);
        let attempt = || Field::new(ATTEMPT, DataType::Int32, false);
        let (mut lines, mut calls) = (Vec::new(), Vec::new());
        let answers: Vec<AnswerProgram> = definition.steps.iter().map(|step| AnswerProgram::new(step, &scope.replies)).collect();
        let answer =
            |step: &usize| Some(Field::new(&definition.steps.get(*step)?.name, DataType::Struct(answers.get(*step)?.fields.clone()), true));
        for (place, step) in definition.steps.iter().enumerate() {
            let of = step.lines.as_ref().map(|lines| findings.lines(&step.name, lines, scope));
            let line = of.iter().flatten().map(|(_, item)| item.as_ref().clone().with_name(LINE).with_nullable(true));
            let own: Vec<Field> = line.chain([attempt()]).collect();
            let of_call = |call: Call, key: &str, findings: &mut Findings<'_>| {
                let message = step.message(call)?;
                // Without its list, whatever reads `line` is wrong for that reason alone.
                Some(match &of {
                    Some(Err(why)) => Err(why.clone()),
                    _ => {
                        let readable = definition.readable(place, call);
                        let columns = scope.with(own.iter().cloned().chain(readable.iter().filter_map(answer)));
                        findings.template(&["steps", &step.name, key], message, &columns, |name| definition.unreadable(place, name))
                    }
                })
            };
            let all = [(Call::Do, "send"), (Call::Ask, "unknown"), (Call::Undo, "undo")];
            calls.push(all.map(|(call, key)| of_call(call, key, &mut findings)));
            lines.push(of.map(|of| of.map(|(lines, _)| lines)));
        }
        let whole = |step: &usize| definition.steps.get(*step).is_some_and(|step| step.keeps() && step.lines.is_none());
        let of_steps: Vec<Field> = (0..definition.steps.len()).filter(whole).filter_map(|step| answer(&step)).collect();
        let ended = scope.with([Field::new(CAUSE, DataType::Utf8, true)].into_iter().chain(of_steps));
        let lines_only = |name: &str| definition.of_lines(name);
        let ends = [
            findings.template(&["ends", "completed"], &definition.completed, &ended, lines_only),
            findings.template(&["ends", "compensated"], &definition.compensated, &ended, lines_only),
        ];
        Program { version, definition, lines, answers, calls, ends }
    }

    /// The types of its commands and of its ends; only of a definition with which nothing is wrong.
    pub fn event_types(&self) -> [Vec<EventType>; 2] {
        let of = |(message, sending): (&Message, &Sending)| {
            let columns = sending.as_ref().map(|template| template.fields.clone()).unwrap_or_default();
            EventType { name: message.event_type.clone(), columns }
        };
        let commands = self.definition.commands().filter_map(|(step, call, message)| Some((message, self.sending(step, call)?)));
        let ends = [&self.definition.completed, &self.definition.compensated].into_iter().zip(&self.ends);
        [commands.map(of).collect(), ends.map(of).collect()]
    }

    /// Connects its messages with the events that the step emits: by place if they are its own (`own`), else by name and columns.
    pub fn bind(&mut self, own: bool, commands: &Events, ended: &Events) {
        let Program { definition, calls, ends, .. } = self;
        let bind = |sending: &mut Sending, message: &Message, place: usize, events: &Events| {
            if let Ok(template) = sending
                && let Err(cause) = template.bind(&message.event_type, own.then_some(place), events)
            {
                *sending = Err(cause);
            }
        };
        for (place, (step, call, message)) in definition.commands().enumerate() {
            if let Some(sending) = calls.get_mut(step).and_then(|calls| calls[call as usize].as_mut()) {
                bind(sending, message, place, commands);
            }
        }
        for (place, (sending, message)) in ends.iter_mut().zip([&definition.completed, &definition.compensated]).enumerate() {
            bind(sending, message, place, ended);
        }
    }

    /// The step that keeps answers under this name, and what it keeps.
    pub fn answers_of(&self, name: &str) -> Option<(&Step, &AnswerProgram)> {
        self.definition.steps.iter().zip(&self.answers).find(|(step, _)| step.keeps() && step.name == name)
    }

    /// A command of a step, if it has one of this kind.
    pub fn sending(&self, step: usize, call: Call) -> Option<&Sending> {
        self.calls.get(step)?[call as usize].as_ref()
    }

    /// The event of an end.
    pub fn ending(&self, phase: Phase) -> &Sending {
        if phase == Phase::Completed { &self.ends[0] } else { &self.ends[1] }
    }

    /// All its templates, with where each is in the configuration.
    pub fn templates(&self) -> impl Iterator<Item = (Vec<String>, &Template)> {
        let keys = ["send", "unknown", "undo"];
        let of_calls = self.definition.steps.iter().zip(&self.calls).flat_map(move |(step, calls)| {
            let of = move |key: &str| ["steps", &step.name, key, "with"].map(String::from).to_vec();
            keys.into_iter().zip(calls).filter_map(move |(key, sending)| Some((of(key), sending.as_ref()?.as_ref().ok()?)))
        });
        let of_ends = ["completed", "compensated"]
            .into_iter()
            .zip(&self.ends)
            .filter_map(|(key, sending)| Some((["ends", key, "with"].map(String::from).to_vec(), sending.as_ref().ok()?)));
        of_calls.chain(of_ends)
    }
}

/// The rows of `values` at `rows`.
///
/// # Errors
/// One of them is missing: a bug.
pub fn rows_of(values: &ArrayRef, rows: &UInt32Array) -> Result<ArrayRef, StateError> {
    take(values, rows, None).map_err(|e| StateError::new(format!("the columns of sagas: {e}")))
}

/// A column as texts, by which lines are compared.
pub fn texts(values: &ArrayRef) -> Result<StringArray, StateError> {
    let broken = |e: &dyn std::fmt::Display| StateError::new(format!("what tells lines apart can't be read: {e}"));
    let texts = cast(values, &DataType::Utf8).map_err(|e| broken(&e))?;
    texts.as_string_opt::<i32>().cloned().ok_or_else(|| broken(&"not a text"))
}

/// The list that `each` gave.
pub fn list(computed: &Computed) -> Result<&ListArray, StateError> {
    let list = computed.columns.first().and_then(|values| values.as_list_opt::<i32>());
    list.ok_or_else(|| StateError::new("`each` gave no list: this is a bug"))
}
