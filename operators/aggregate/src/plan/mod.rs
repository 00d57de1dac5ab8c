//! Checks an aggregate against its input, and compiles it.

mod changes;
mod columns;
mod entries;
mod kinds;
mod left_out;
mod rules;
mod scope;
mod shape;

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, SchemaRef};
use operator_core::{Diagnostic, Path, PlanCx, Planned, TimerKind};
use operator_event::{CauseColumns, Events, Ids};

pub use changes::{Change, EventPlan, Invariant, TimerPlan};
use columns::added;
pub use columns::{Column, filled};
pub use entries::{Collection, FIRST_TAG, seen};
pub use kinds::{Made, complete};
pub use rules::{CommandPlan, Then};
pub use scope::{Condition, Failures, Part, Scope, Value};
pub use shape::state_schema;

use crate::operator::Aggregating;
use crate::outcomes::Outcomes;
use crate::spec::Aggregate;
use crate::state::StateShape;

use kinds::Kinds;

/// Which clock timers follow.
pub const CLOCK: TimerKind = TimerKind::Wall;

/// The columns that a rejection has beside those of the key.
pub const REASON: &str = "reason";
pub const COMMAND: &str = "command";

/// An `aggregate` step that passed its checks, shared by its partitions.
#[derive(Debug)]
pub struct AggregatePlan {
    /// The columns of the input.
    pub input: SchemaRef,
    pub key: Vec<Path>,
    /// The columns of the key as events have them.
    pub key_fields: Fields,
    pub command: Path,
    pub cause: CauseColumns,
    pub ids: Ids,
    pub state: StateShape,
    pub collections: Vec<Collection>,
    pub commands: Vec<CommandPlan>,
    /// What events do, by their kind. Kinds of events that are emitted come first, then those that are only said again, then, from
    /// `events.len()` on, those of rejections: one for each command, and the last for commands that are unknown.
    pub events: Vec<EventPlan>,
    pub invariants: Vec<Invariant>,
    pub timers: Vec<TimerPlan>,
    /// What commands led to; `None` without a column of their ids.
    pub outcomes: Option<Outcomes>,
    /// The events of the main port, of `rejected` and of `replies`.
    pub emitted: Events,
    pub rejected: Events,
    pub replies: Events,
}

/// What planning finds.
#[derive(Debug, Default)]
struct Found {
    problems: Vec<Diagnostic>,
    /// Expressions that fail for some rows.
    fallible: Vec<Diagnostic>,
    /// Columns of the input that expressions read.
    reads: BTreeSet<String>,
    /// Values can become far larger than the columns that they are made of.
    grows: bool,
}

impl Found {
    /// Compiles the expression at this place.
    fn value(&mut self, sql: &str, scope: &Scope, wanted: Option<&DataType>, place: Vec<String>) -> Option<Value> {
        match Value::compile(sql, scope, wanted) {
            Ok(value) => {
                self.grows |= value.expr().grows();
                self.fallible.extend(value.expr().fallible().map(|fallible| fallible.at(place)));
                Some(value)
            }
            Err(wrong) => {
                self.problems.push(wrong.at(place));
                None
            }
        }
    }

    /// Compiles the condition at this place.
    fn condition(&mut self, sql: &str, scope: &Scope, place: Vec<String>) -> Option<Condition> {
        match Condition::compile(sql, scope) {
            Ok(condition) => {
                self.fallible.extend(condition.predicate.fallible().map(|fallible| fallible.at(place)));
                Some(condition)
            }
            Err(wrong) => {
                self.problems.push(wrong.at(place));
                None
            }
        }
    }

    /// What was compiled again, which can't fail.
    fn again<T>(&mut self, compiled: Result<T, Diagnostic>) -> Option<T> {
        compiled.map_err(|wrong| self.problems.push(wrong)).ok()
    }
}

/// A place in the configuration.
fn at(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|part| (*part).to_string()).collect()
}

/// What expressions are compiled within.
struct Within<'a> {
    state: &'a StateShape,
    collections: &'a [Collection],
    input: &'a SchemaRef,
}

impl Within<'_> {
    /// The state, if it has columns.
    fn of_state(&self) -> impl Iterator<Item = (Field, Part)> {
        let record = &self.state.record;
        (!record.is_empty()).then(|| (Field::new(shape::STATE, DataType::Struct(record.clone()), false), Part::State)).into_iter()
    }

    /// The state, and the entry of each collection.
    fn own(&self) -> impl Iterator<Item = (Field, Part)> {
        let entries = self.collections.iter().enumerate().map(|(place, collection)| (collection.field(), Part::Entry(place)));
        self.of_state().chain(entries)
    }
}

/// Plans `aggregate`; see [`operator_core::Spec::plan`].
pub fn plan(aggregate: &Aggregate, cx: &PlanCx<'_>) -> Result<Planned, Vec<Diagnostic>> {
    let mut found = Found::default();
    match compiled(aggregate, cx, &mut found) {
        Some(plan) if found.problems.is_empty() => Ok(shape::planned(aggregate, cx, plan, found)),
        _ => Err(found.problems),
    }
}

/// What [`plan`] compiles, for whom wants to run nothing but `apply`.
///
/// # Errors
/// Everything that is wrong.
pub fn compile(aggregate: &Aggregate, cx: &PlanCx<'_>) -> Result<AggregatePlan, Vec<Diagnostic>> {
    let mut found = Found::default();
    compiled(aggregate, cx, &mut found).filter(|_| found.problems.is_empty()).ok_or(found.problems)
}

/// Compiles everything, and reports all that is wrong.
fn compiled(aggregate: &Aggregate, cx: &PlanCx<'_>, found: &mut Found) -> Option<AggregatePlan> {
    let input = &cx.input.schema;
    let key = shape::key(aggregate, input, found);
    let key_fields = shape::key_fields(&key, input, found);
    let command = shape::command(aggregate, input, found);
    let cause = shape::cause(aggregate, input, found);
    let state_columns = columns::columns(&aggregate.state, true, &["state"], found);
    let state = StateShape::new(&key_fields, &state_columns, aggregate.timers.iter().any(|(_, timer)| timer.of.is_none()));
    let collections = entries::collections(aggregate, &key_fields, input, found);
    shape::names(aggregate, &key_fields, input, found);
    // Expressions can't be checked against columns that are wrong themselves.
    let (Some(command), Some(cause), true) = (command, cause, found.problems.is_empty()) else { return None };
    let mut kinds = Kinds::new(key_fields.clone());
    let (emits, events) = rules::declare(aggregate, &mut kinds, found);
    let within = Within { state: &state, collections: &collections, input };
    let commands = rules::commands(aggregate, &within, &mut kinds, found);
    let timers = changes::timers(aggregate, &within, &mut kinds, found);
    let applied = changes::events(aggregate, &within, &kinds, (emits, events), found);
    let invariants = changes::invariants(aggregate, &within, found);
    collections.iter().for_each(|of| left_out::unset(aggregate, &of.name, &of.columns, found));
    let emitted = kinds.events(cx.source, 0..emits, found)?;
    let replies = kinds.events(cx.source, 0..kinds.len(), found)?;
    let rejected = kinds.events(cx.source, events..kinds.len(), found)?;
    let outcomes = cause.id.is_some().then(|| Outcomes::new(&key_fields, aggregate.remember.millis(), &replies));
    Some(AggregatePlan {
        input: input.clone(),
        key,
        key_fields,
        command,
        cause,
        ids: Ids::new(cx.source),
        state,
        collections,
        commands,
        events: applied,
        invariants,
        timers,
        outcomes,
        emitted,
        rejected,
        replies,
    })
}

impl AggregatePlan {
    /// Makes the operator of a partition.
    pub fn operator(self: &Arc<Self>) -> Aggregating {
        Aggregating::new(self.clone())
    }

    /// Whether what led to a state, or to an entry, is kept with it.
    pub fn keeps_causes(&self) -> bool {
        self.state.keeps_cause || self.collections.iter().any(|collection| collection.keeps_cause)
    }

    /// The types of the key's columns.
    pub fn key_types(&self) -> Vec<DataType> {
        self.key_fields.iter().map(|field| field.data_type().clone()).collect()
    }
}
